//! Columns and quantities, as people read them.

use std::array;

pub(super) use crate::admin::words::{seconds, span};

/// Rows with their columns aligned, two blanks apart.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: [usize; N] = array::from_fn(|column| width(column).unwrap_or_default());
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    });
    lines.collect::<Vec<_>>().concat()
}

/// A span in seconds the way chronyc writes it: four digits and a unit, from `from` on.
pub(super) fn compact(seconds: f64, from: &str) -> String {
    let units = UNITS.iter().skip_while(|(unit, _)| *unit != from);
    let (unit, length) = units
        .copied()
        .find(|(_, length)| seconds.abs() / length < 9999.5)
        .unwrap_or(("y", 31_557_600.0));
    format!("{:.0}{unit}", seconds.abs() / length)
}

const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
    ("y", 31_557_600.0),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["é", "b", "c"], ["long", "", "d"], ["", "x", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));

        assert_eq!(aligned(&rows), "é     b  c\nlong     d\n      x\n");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(span(Duration::from_secs(11_525)), "3 h 12 min");
        assert_eq!(span(Duration::ZERO), "0 s");
        assert_eq!(seconds(0.012_34), "12 ms");
        assert_eq!(seconds(f64::NAN), "?");
        assert_eq!(compact(-0.000_123, "ns"), "123us");
        assert_eq!(compact(0.0, "ns"), "0ns");
        assert_eq!(compact(157_788_000.0, "ns"), "1826d");
        assert_eq!(compact(23.4, "s"), "23s");
    }
}
