//! The list of leap seconds that IERS and NIST publish as `leap-seconds.list`.

use jiff::Timestamp;
use jiff::tz::Offset;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::time::{Nanos, UnixTime};

/// From the start of NTP's first era, in which the list counts, to that of Unix.
const NTP_TO_UNIX: i64 = 2_208_988_800;
/// The last 24 hours before a leap second are its day.
const DAY: Nanos = 86_400 * 1_000_000_000;
/// Leap seconds that a list may hold. There were 27 in the first fifty years.
const MOST: usize = 500;

/// Leap seconds up to an expiry date.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeapSeconds {
    /// From when on TAI is so many seconds ahead of UTC, the earliest first.
    steps: Vec<(UnixTime, i32)>,
    expires: UnixTime,
}

/// Why a text is no list of leap seconds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LeapListError {
    /// Its checksum is that of another list.
    #[error("its checksum (#h) does not fit what it holds: it is damaged or cut short")]
    Checksum,
    /// A line that means nothing.
    #[error("line {0} is not in the format of leap-seconds.list")]
    Line(usize),
    /// A line that has to be there.
    #[error("it has no line that begins with `{0}`: it is not a leap-seconds.list, or cut short")]
    Missing(&'static str),
}

impl LeapSeconds {
    /// Reads a list and verifies its checksum.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, LeapListError> {
        let (mut updated, mut expires, mut checksum) = (None, None, None);
        let mut steps: Vec<(UnixTime, i32)> = Vec::new();
        let mut summed = String::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = LeapListError::Line(index + 1);
            if let Some(stamp) = line.strip_prefix("#$") {
                updated = Some(stamp.trim());
            } else if let Some(stamp) = line.strip_prefix("#@") {
                expires = Some((stamp.trim(), ntp_seconds(stamp.trim()).ok_or(wrong)?));
            } else if let Some(words) = line.strip_prefix("#h") {
                let words = words.split_whitespace().map(|word| u32::from_str_radix(word, 16).ok());
                checksum = Some(words.collect::<Option<Vec<_>>>().ok_or(wrong)?);
            } else if !line.starts_with('#') && !line.trim().is_empty() {
                let data = line.split('#').next().unwrap_or_default();
                let mut fields = data.split_whitespace();
                let (at, ahead) = fields.next().zip(fields.next()).ok_or(wrong.clone())?;
                let step = ntp_seconds(at).zip(ahead.parse().ok()).ok_or(wrong.clone())?;
                let follows = steps.last().is_none_or(|(last, before)| {
                    *last < step.0 && i32::abs_diff(*before, step.1) == 1
                });
                if !follows || steps.len() == MOST {
                    return Err(wrong);
                }
                steps.push(step);
                summed.extend([at, ahead]);
            }
        }
        let updated = updated.ok_or(LeapListError::Missing("#$"))?;
        let (stated, expires) = expires.ok_or(LeapListError::Missing("#@"))?;
        let checksum = checksum.ok_or(LeapListError::Missing("#h"))?;
        let sum =
            digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{updated}{stated}{summed}").as_bytes());
        // Some editions leave out leading zeros: the words are numbers.
        let words = sum.as_ref().chunks_exact(4);
        let words =
            words.map(|word| word.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet)));
        if !words.eq(checksum) {
            return Err(LeapListError::Checksum);
        }
        Ok(Self { steps, expires })
    }

    /// From then on it says nothing of leap seconds.
    #[must_use]
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The warning that NTP gives at `utc`: 0 none, 1 and 2 that the day's last minute has 61 or 59
    /// seconds (RFC 5905 figure 9). `None` once it has expired.
    #[must_use]
    pub fn warning(&self, utc: UnixTime) -> Option<u8> {
        if utc >= self.expires {
            return None;
        }
        let ahead = |pair: &&[(UnixTime, i32)]| pair[1].0 > utc && pair[1].0.since(utc) <= DAY;
        let leap = self.steps.windows(2).find(ahead);
        Some(leap.map_or(0, |pair| if pair[1].1 > pair[0].1 { 1 } else { 2 }))
    }
}

/// Whether a leap second may end the day of `utc`: it is the last of a month (ITU-R TF.460).
pub(super) fn may_end_with_leap_second(utc: UnixTime) -> bool {
    Timestamp::from_second(utc.secs()).is_ok_and(|time| {
        let date = Offset::UTC.to_datetime(time).date();
        date.day() == date.days_in_month()
    })
}

fn ntp_seconds(text: &str) -> Option<UnixTime> {
    // The list counts on over the end of NTP's era in 2036.
    text.parse::<i64>().ok().map(|seconds| UnixTime::from_secs(seconds.saturating_sub(NTP_TO_UNIX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The edition of January 2026, less most of its comments.
    const LIST: &str = "\
# A comment, as there are many.
#$\t3960835200
#@\t3991593600
2272060800      10      # 1 Jan 1972
2287785600      11      # 1 Jul 1972
2303683200      12      # 1 Jan 1973
2335219200      13      # 1 Jan 1974
2366755200      14      # 1 Jan 1975
2398291200      15      # 1 Jan 1976
2429913600      16      # 1 Jan 1977
2461449600      17      # 1 Jan 1978
2492985600      18      # 1 Jan 1979
2524521600      19      # 1 Jan 1980
2571782400      20      # 1 Jul 1981
2603318400      21      # 1 Jul 1982
2634854400      22      # 1 Jul 1983
2698012800      23      # 1 Jul 1985
2776982400      24      # 1 Jan 1988
2840140800      25      # 1 Jan 1990
2871676800      26      # 1 Jan 1991
2918937600      27      # 1 Jul 1992
2950473600      28      # 1 Jul 1993
2982009600      29      # 1 Jul 1994
3029443200      30      # 1 Jan 1996
3076704000      31      # 1 Jul 1997
3124137600      32      # 1 Jan 1999
3345062400      33      # 1 Jan 2006
3439756800      34      # 1 Jan 2009
3550089600      35      # 1 Jul 2012
3644697600      36      # 1 Jul 2015
3692217600      37      # 1 Jan 2017
#h\t49db2447 571e5e1b 2f002a53 9c8da8e4 39b8e49e
";

    #[test]
    fn the_day_before_a_leap_second_is_warned_of_and_no_other() {
        let list = LeapSeconds::parse(LIST).unwrap();

        let warning = |time: &str| list.warning(time.parse().unwrap());
        assert_eq!(warning("2016-12-30T23:59:59Z"), Some(0));
        assert_eq!(warning("2016-12-31T00:00:00Z"), Some(1));
        assert_eq!(warning("2016-12-31T23:59:59Z"), Some(1));
        assert_eq!(warning("2017-01-01T00:00:00Z"), Some(0));
        assert_eq!(warning("2026-06-27T23:59:59Z"), Some(0));
        assert_eq!(warning("2026-06-28T00:00:00Z"), None, "it has expired");
        assert_eq!(list.expires(), "2026-06-28T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn a_second_taken_out_is_warned_of_as_such() {
        let text = LIST.replace("3692217600      37", "3692217600      35");

        let list = LeapSeconds::parse(&sealed(&text)).unwrap();

        assert_eq!(list.warning("2016-12-31T12:00:00Z".parse().unwrap()), Some(2));
    }

    #[test]
    fn what_is_damaged_or_cut_short_is_refused_with_its_reason() {
        let missing = |line: &str| {
            let rest: Vec<_> = LIST.lines().filter(|it| !it.starts_with(line)).collect();
            LeapSeconds::parse(&rest.join("\n")).unwrap_err()
        };
        assert_eq!(missing("#$"), LeapListError::Missing("#$"));
        assert_eq!(missing("#@"), LeapListError::Missing("#@"));
        assert_eq!(missing("#h"), LeapListError::Missing("#h"));
        assert_eq!(missing("2287785600"), LeapListError::Line(5), "12 s do not follow 10");
        assert_eq!(missing("3692217600"), LeapListError::Checksum);
        let odd = LIST.replace("2303683200", "soon");
        assert_eq!(LeapSeconds::parse(&odd), Err(LeapListError::Line(6)));
    }

    #[test]
    fn only_months_end_with_leap_seconds() {
        let may = |time: &str| may_end_with_leap_second(time.parse().unwrap());

        assert!(may("2026-12-31T00:00:00Z"));
        assert!(may("2028-02-29T12:00:00Z"));
        assert!(!may("2026-12-30T23:59:59Z"));
        assert!(!may("2027-01-01T00:00:00Z"));
    }

    /// `text` with the checksum that it should have.
    fn sealed(text: &str) -> String {
        let digits: String = text
            .lines()
            .filter(|line| !line.starts_with("#h") && !line.starts_with("# "))
            .map(|line| line.trim_start_matches(['#', '$', '@']).split('#').next().unwrap_or(line))
            .flat_map(str::split_whitespace)
            .collect();
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, digits.as_bytes());
        let words = sum.as_ref().chunks_exact(4).map(|word| {
            let word = u32::from_be_bytes(word.try_into().unwrap());
            format!(" {word:x}")
        });
        let seal = format!("#h\t{}", words.collect::<String>());
        let lines = text.lines().filter(|line| !line.starts_with("#h"));
        lines.chain([&*seal]).collect::<Vec<_>>().join("\n")
    }
}
