//! Figures as they are written: names, labels and numbers.

use std::collections::BTreeSet;
use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::clock::UnixTime;

pub(super) type Labels = Vec<(&'static str, String)>;

/// Samples with one label each.
pub(super) fn labelled<'v, T>(
    label: &'static str,
    values: impl IntoIterator<Item = (&'v str, T)>,
) -> impl Iterator<Item = (Labels, T)> {
    values.into_iter().map(move |(value, number)| (vec![(label, value.to_owned())], number))
}

/// Where figures are written to.
pub(super) struct Page<'e>(pub(super) DescriptorEncoder<'e>);

impl Page<'_> {
    pub(super) fn gauge(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: f64,
    ) -> Result<(), Error> {
        self.gauges(name, unit, help, [(Labels::new(), value)])
    }

    pub(super) fn counter(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: u64,
    ) -> Result<(), Error> {
        self.counters(name, unit, help, [(Labels::new(), value)])
    }

    /// Nothing is written of a figure without values.
    pub(super) fn gauges(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result<(), Error> {
        let samples = once_each(samples);
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        samples
            .iter()
            .try_for_each(|(labels, value)| family.encode_family(labels)?.encode_gauge(value))
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let samples = once_each(samples);
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        samples.iter().try_for_each(|(labels, value)| {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(value, None)
        })
    }

    /// Counts within steps, as their upper bounds and how many there were up to each and beyond the one
    /// before; what is longer than all of them is counted under infinity.
    pub(super) fn histograms(
        &mut self,
        name: &str,
        unit: &Unit,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Vec<(f64, u64)>, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, Some(unit), MetricType::Histogram)?;
        samples.into_iter().try_for_each(|(labels, steps, sum)| {
            let count = steps.iter().map(|(_, count)| count).sum();
            let mut family = family.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum, count, &steps, None)
        })
    }

    pub(super) fn info(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, String)],
    ) -> Result<(), Error> {
        let mut info = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        info.encode_info(&labels)
    }
}

/// Two of the same labels would cost the reader all figures: one address over two transports, say.
fn once_each<T>(samples: impl IntoIterator<Item = (Labels, T)>) -> Vec<(Labels, T)> {
    let mut seen = BTreeSet::new();
    samples.into_iter().filter(|(labels, _)| seen.insert(labels.clone())).collect()
}

/// Seconds since 1970 of an RFC 3339 time.
pub(super) fn seconds_of(time: &str) -> Option<f64> {
    let time: UnixTime = time.parse().ok()?;
    Some(precise(time.secs()))
}

/// As near as a double comes: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(super) fn precise(number: impl TryInto<i64>) -> f64 {
    number.try_into().map_or(f64::INFINITY, |number| number as f64)
}

pub(super) fn count(number: usize) -> f64 {
    precise(number)
}

pub(super) const fn flag(held: bool) -> f64 {
    if held { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_figure_has_its_unit_and_a_counter_its_end() {
        let text = page(|page| {
            page.counter("wan", Some(&Unit::Bytes), "Octets.", 7)?;
            page.gauge("clock_offset", Some(&Unit::Seconds), "An offset.", -0.25)?;
            page.gauges("condition", None, "None holds.", [])
        });

        assert_eq!(
            text,
            "# HELP firstlight_wan_bytes_total Octets.\n\
             # TYPE firstlight_wan_bytes_total counter\n\
             firstlight_wan_bytes_total 7\n\
             # HELP firstlight_clock_offset_seconds An offset.\n\
             # TYPE firstlight_clock_offset_seconds gauge\n\
             firstlight_clock_offset_seconds -0.25\n"
        );
    }

    #[test]
    fn labels_are_escaped_and_none_comes_twice() {
        let text = page(|page| {
            let twice = [("a\"b\\c\n", 1.0), ("a\"b\\c\n", 2.0)];
            page.gauges("it", None, "It.", labelled("name", twice))
        });

        let (_, samples) = text.split_once("gauge\n").unwrap();
        assert_eq!(samples, "firstlight_it{name=\"a\\\"b\\\\c\\n\"} 1.0\n");
    }

    type Fill = fn(&mut Page<'_>) -> Result<(), Error>;

    fn page(fill: Fill) -> String {
        #[derive(Debug)]
        struct Filled(Fill);
        impl Collector for Filled {
            fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
                (self.0)(&mut Page(encoder))
            }
        }
        let mut registry = Registry::with_prefix("firstlight");
        registry.register_collector(Box::new(Filled(fill)));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        text
    }
}
