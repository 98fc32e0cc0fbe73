//! The one date format of HTTP that is still written (RFC 9110 section 5.6.7).

use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;

use crate::clock::UnixTime;

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT` and nothing else: each field in its
/// place and range, and the weekday that of the date. A leap second is refused.
pub(super) fn imf_fixdate(text: &[u8]) -> Option<UnixTime> {
    let text: &[u8; 29] = text.try_into().ok()?;
    let [b',', b' '] = text[3..5] else { return None };
    let ([b' '], [b' '], [b' ']) = (&text[7..8], &text[11..12], &text[16..17]) else { return None };
    let ([b':'], [b':'], b" GMT") = (&text[19..20], &text[22..23], &text[25..]) else {
        return None;
    };

    let weekday = WEEKDAYS.iter().find(|(name, _)| **name == text[..3])?.1;
    let month = (1..).zip(MONTHS).find(|(_, name)| **name == text[8..11])?.0;
    let year = digits(&text[12..16])?;
    let [day, hour, minute, second] =
        [5, 17, 20, 23].map(|at| digits(&text[at..at + 2]).and_then(|two| i8::try_from(two).ok()));

    let date = DateTime::new(year, month, day?, hour?, minute?, second?, 0).ok()?;
    if date.weekday() != weekday {
        return None;
    }
    let utc = date.to_zoned(TimeZone::UTC).ok()?;
    Some(UnixTime::from_secs(utc.timestamp().as_second()))
}

const WEEKDAYS: [(&[u8; 3], Weekday); 7] = [
    (b"Mon", Weekday::Monday),
    (b"Tue", Weekday::Tuesday),
    (b"Wed", Weekday::Wednesday),
    (b"Thu", Weekday::Thursday),
    (b"Fri", Weekday::Friday),
    (b"Sat", Weekday::Saturday),
    (b"Sun", Weekday::Sunday),
];

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// At most four digits.
fn digits(text: &[u8]) -> Option<i16> {
    text.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i16::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_example_of_the_rfc() {
        let time = imf_fixdate(b"Sun, 06 Nov 1994 08:49:37 GMT");

        assert_eq!(time, Some(UnixTime::from_secs(784_111_777)));
    }

    #[test]
    fn refuses_what_is_nearly_a_date() {
        for text in [
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:60 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Wed, 30 Feb 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "",
        ] {
            assert_eq!(imf_fixdate(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_second_of_our_era_is_read_back(secs in 0_i64..4_102_444_800) {
            let time = jiff::Timestamp::from_second(secs).unwrap().to_zoned(TimeZone::UTC);
            let text = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            prop_assert_eq!(imf_fixdate(text.as_bytes()), Some(UnixTime::from_secs(secs)));
        }

        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 29)) {
            let _ = imf_fixdate(&octets);
        }

        #[test]
        fn no_digits_panic(text in "Sun, [0-9]{2} Nov [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT") {
            let _ = imf_fixdate(text.as_bytes());
        }
    }
}
