//! Sentences of NMEA 0183: when it is, by a receiver that has a fix (pure).

use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::clock::{Nanos, UnixTime};

/// Longer lines are none: a sentence has 82 characters, some receivers give a few more.
const LONGEST: usize = 120;
/// The receiver's count of weeks starts over after so many.
const ROLLOVER: Nanos = 1024 * 7 * 86_400 * 1_000_000_000;
/// The floor may lie this far ahead of the truth before dates are mistaken for earlier ones.
const SLACK: Nanos = 5 * 31_557_600 * 1_000_000_000;

/// What a sentence says about time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sentence {
    /// RMC with a fix.
    Fix(UnixTime),
    /// RMC without one.
    NoFix,
    /// ZDA, which does not say whether there is one.
    Time(UnixTime),
}

/// Why a line is no sentence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Garbled {
    Checksum,
    Fields,
}

impl Garbled {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Checksum => {
                "what comes over the line is no NMEA, or damaged: is the speed right?"
            }
            Self::Fields => "an RMC or ZDA sentence holds no date and time",
        }
    }
}

/// Reads one line without its end; `None` if it is a sentence that says nothing of time.
///
/// `floor` tells the receiver's eras of 1024 weeks apart.
pub(super) fn parse(line: &[u8], floor: UnixTime) -> Result<Option<Sentence>, Garbled> {
    let line = line.trim_ascii_end();
    let (body, sum) = line
        .strip_prefix(b"$")
        .filter(|_| line.len() <= LONGEST)
        .and_then(|rest| rest.split_last_chunk::<3>())
        .ok_or(Garbled::Checksum)?;
    let stated = sum.strip_prefix(b"*").and_then(|digits| std::str::from_utf8(digits).ok());
    let stated = stated.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let body = std::str::from_utf8(body).map_err(|_| Garbled::Checksum)?;
    if stated != Some(body.bytes().fold(0, |sum, octet| sum ^ octet)) {
        return Err(Garbled::Checksum);
    }
    let mut fields = body.split(',');
    // The first two letters are the kind of receiver: GP, GN, GL..
    let kind = fields.next().and_then(|name| name.get(2..)).unwrap_or_default();
    let fields: Vec<_> = fields.collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or_default();
    match kind {
        "RMC" => {
            // 0 time, 1 status, 8 date, 11 mode.
            if field(1) != "A" || field(11) == "N" {
                return Ok(Some(Sentence::NoFix));
            }
            let date = field(8);
            let (day, month, year) = (pair(date, 0), pair(date, 2), pair(date, 4));
            let year = year.map(|year| if year < 80 { 2000 + year } else { 1900 + year });
            utc(field(0), day, month, year, floor).map(|utc| utc.map(Sentence::Fix))
        }
        "ZDA" if field(0).is_empty() => Ok(Some(Sentence::NoFix)),
        "ZDA" => {
            let year = field(3).parse().ok();
            let (day, month) = (field(1).parse().ok(), field(2).parse().ok());
            utc(field(0), day, month, year, floor).map(|utc| utc.map(Sentence::Time))
        }
        _ => Ok(None),
    }
}

/// `None` within a leap second, which has no number of its own.
fn utc(
    time: &str,
    day: Option<i16>,
    month: Option<i16>,
    year: Option<i16>,
    floor: UnixTime,
) -> Result<Option<UnixTime>, Garbled> {
    let read = || {
        let (hour, minute, second) = (pair(time, 0)?, pair(time, 2)?, pair(time, 4)?);
        let fraction = match time.get(6..)? {
            "" => 0,
            rest => {
                let digits = rest.strip_prefix('.').filter(|digits| digits.len() <= 9)?;
                format!("{digits:0<9}").parse::<i32>().ok()?
            }
        };
        let small = |number: i16| i8::try_from(number).ok();
        let date = (year?, small(month?)?, small(day?)?);
        if second == 60 {
            return Some(None);
        }
        let clock = (small(hour)?, small(minute)?, small(second)?);
        let (year, month, day) = date;
        let time = DateTime::new(year, month, day, clock.0, clock.1, clock.2, fraction).ok()?;
        let time = Offset::UTC.to_timestamp(time).ok()?;
        Some(Some(unrolled(UnixTime::from_nanos(time.as_nanosecond()), floor)))
    };
    read().ok_or(Garbled::Fields)
}

/// A date that lies below the floor is one of a receiver whose count of weeks has started over.
fn unrolled(utc: UnixTime, floor: UnixTime) -> UnixTime {
    let behind = floor.offset(-SLACK).since(utc).max(0);
    utc.offset((behind + ROLLOVER - 1) / ROLLOVER * ROLLOVER)
}

/// Two digits.
fn pair(text: &str, from: usize) -> Option<i16> {
    text.get(from..from + 2).filter(|it| it.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fix_is_read_to_the_fraction_of_the_second() {
        let read = |body: &str| parse(&sentence(body), floor()).unwrap();

        assert_eq!(
            read("GPRMC,123519.25,A,4807.038,N,01131.000,E,022.4,084.4,230327,003.1,W,A"),
            Some(Sentence::Fix(at("2027-03-23T12:35:19.25Z")))
        );
        assert_eq!(
            read("GNZDA,235959,31,12,2026,00,00"),
            Some(Sentence::Time(at("2026-12-31T23:59:59Z")))
        );
        assert_eq!(read("GPGGA,123519,4807.038,N"), None);
        assert_eq!(read("GNZDA,235960,31,12,2026,00,00"), None, "a leap second has no number");
    }

    #[test]
    fn a_receiver_without_a_fix_says_so() {
        for body in [
            "GPRMC,123519.00,V,,,,,,,230327,,,N",
            "GPRMC,123519.00,A,,,,,,,230327,,,N",
            "GPRMC,,V,,,,,,,,,,N",
            "GPZDA,,,,,,",
        ] {
            assert_eq!(parse(&sentence(body), floor()), Ok(Some(Sentence::NoFix)), "{body}");
        }
    }

    #[test]
    fn a_week_count_that_started_over_is_put_right_by_the_floor() {
        let read = |date: &str| {
            let body = format!("GPRMC,120000,A,,,,,,,{date},,,A");
            let Ok(Some(Sentence::Fix(utc))) = parse(&sentence(&body), floor()) else {
                panic!("{date}");
            };
            utc
        };
        // 14 August 2027 less 1024 weeks, and less 2048.
        assert_eq!(read("291207"), at("2027-08-14T12:00:00Z"));
        assert_eq!(read("140588"), at("2027-08-14T12:00:00Z"));
        assert_eq!(read("140827"), at("2027-08-14T12:00:00Z"));
        // A floor that lies ahead by years does not make it worse.
        assert_eq!(read("010623"), at("2023-06-01T12:00:00Z"));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let good = sentence("GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230327,,,A");
        for index in 1..good.len() - 3 {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert_eq!(parse(&bad, floor()), Err(Garbled::Checksum));
        }
        for body in ["GPRMC,1235,A,,,,,,,230327,,,A", "GPZDA,120000,31,02,2027,,"] {
            assert_eq!(parse(&sentence(body), floor()), Err(Garbled::Fields), "{body}");
        }
        assert_eq!(parse(b"", floor()), Err(Garbled::Checksum));
    }

    proptest! {
        #[test]
        fn no_fields_make_it_panic(body in "(GP|G|é)?(RMC|ZDA),[0-9AVN.,é+-]{0,60}") {
            let _ = parse(&sentence(&body), floor());
        }
    }

    fn sentence(body: &str) -> Vec<u8> {
        let sum = body.bytes().fold(0, |sum, octet| sum ^ octet);
        format!("${body}*{sum:02X}\r\n").into_bytes()
    }

    fn floor() -> UnixTime {
        at("2026-03-14T06:11:40Z")
    }

    fn at(text: &str) -> UnixTime {
        text.parse().unwrap()
    }
}
