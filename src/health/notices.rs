//! What a person is told of conditions, and when: once for each that lasts, once when it is over, and
//! late rather than never.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Condition, Severity};

/// A condition is told once it has held for so long: most that come with a boot go by then.
const SETTLES: Duration = Duration::from_secs(30);
/// And is over once it has been away for so long.
const GONE: Duration = Duration::from_secs(60);
/// Messages that wait at most.
const WAITING: usize = 64;
/// The first wait after a message could not be sent; each later one is twice as long, up to ...
const FIRST: Duration = Duration::from_secs(10);
/// ... this.
const LONGEST: Duration = Duration::from_secs(300);

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// The condition's name.
    pub name: &'static str,
    /// How bad it is or was.
    pub severity: Severity,
    /// The condition's words.
    pub text: String,
    /// Since when it is or was the case.
    pub since: Instant,
    /// How long it was, if it is over.
    pub lasted: Option<Duration>,
}

/// The messages for one recipient.
///
/// Feed it with [`Self::handle_conditions`] each second or so; send what [`Self::poll_notice`] gives,
/// one after the other, and say what came of it.
#[derive(Debug)]
pub struct Notices {
    least: Severity,
    told: BTreeMap<&'static str, Told>,
    queue: VecDeque<Notice>,
    /// Messages for which there was no place.
    lost: u32,
    sending: bool,
    next: Option<Instant>,
    wait: Duration,
}

/// A condition that was told, or is about to be.
#[derive(Debug)]
struct Told {
    severity: Severity,
    text: String,
    since: Instant,
    /// Since when it does not hold.
    gone: Option<Instant>,
}

impl Notices {
    /// Tells of conditions that are at least so bad.
    #[must_use]
    pub fn new(least: Severity) -> Self {
        Self {
            least,
            told: BTreeMap::new(),
            queue: VecDeque::new(),
            lost: 0,
            sending: false,
            next: None,
            wait: FIRST,
        }
    }

    /// The conditions that hold at `now`.
    pub fn handle_conditions(&mut self, conditions: &[&Condition], now: Instant) {
        for condition in conditions {
            self.handle_held(condition, now);
        }
        for told in self
            .told
            .iter_mut()
            .filter(|(name, _)| !conditions.iter().any(|condition| condition.name == **name))
        {
            told.1.gone.get_or_insert(now);
        }
        let over =
            |told: &Told| told.gone.filter(|gone| now.saturating_duration_since(*gone) >= GONE);
        let names: Vec<_> =
            self.told.iter().filter_map(|(name, told)| over(told).map(|_| *name)).collect();
        for name in names {
            if let Some(told) = self.told.remove(name) {
                self.tell_end(name, told, now);
            }
        }
    }

    /// The message to send at `now`, if one is due. Until [`Self::handle_sent`] or
    /// [`Self::handle_failure`] there is no other.
    pub fn poll_notice(&mut self, now: Instant) -> Option<&Notice> {
        if self.sending || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let notice = self.queue.front()?;
        self.sending = true;
        Some(notice)
    }

    /// The message was taken.
    pub fn handle_sent(&mut self) {
        if std::mem::take(&mut self.sending) {
            self.queue.pop_front();
        }
        (self.next, self.wait) = (None, FIRST);
    }

    /// The message was not taken; it is tried again.
    pub fn handle_failure(&mut self, now: Instant) {
        self.sending = false;
        self.next = Some(now + self.wait);
        self.wait = (self.wait * 2).min(LONGEST);
    }

    /// The way out may be open again: what waits is tried at once.
    pub const fn handle_path_change(&mut self) {
        (self.next, self.wait) = (None, FIRST);
    }

    /// Messages that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Messages for which there was no place.
    #[must_use]
    pub const fn lost(&self) -> u32 {
        self.lost
    }

    fn handle_held(&mut self, condition: &Condition, now: Instant) {
        let Condition { name, severity, text, since } = condition;
        let settled = now.saturating_duration_since(*since) >= SETTLES;
        match self.told.get_mut(name) {
            Some(told) => {
                told.gone = None;
                told.text.clone_from(text);
                if *severity <= told.severity {
                    return;
                }
                told.severity = *severity;
            }
            None if *severity >= self.least && settled => {
                let (severity, text, since) = (*severity, text.clone(), *since);
                self.told.insert(name, Told { severity, text, since, gone: None });
            }
            None => return,
        }
        self.queue_up(Notice {
            name,
            severity: *severity,
            text: text.clone(),
            since: self.told.get(name).map_or(*since, |told| told.since),
            lasted: None,
        });
    }

    /// Says that a condition is over; in one message with its beginning, if that was not sent so far.
    fn tell_end(&mut self, name: &'static str, told: Told, now: Instant) {
        let under_way = usize::from(self.sending);
        let mut place = 0;
        self.queue.retain(|notice| {
            let unsent = place >= under_way;
            place += 1;
            !(unsent && notice.name == name && notice.lasted.is_none())
        });
        let end = told.gone.unwrap_or(now);
        self.queue_up(Notice {
            name,
            severity: told.severity,
            text: told.text,
            since: told.since,
            lasted: Some(end.saturating_duration_since(told.since)),
        });
    }

    fn queue_up(&mut self, notice: Notice) {
        if self.queue.len() >= WAITING {
            // The one that is being sent stays in front.
            if self.queue.remove(usize::from(self.sending)).is_some() {
                self.lost = self.lost.saturating_add(1);
            }
        }
        self.queue.push_back(notice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_and_again_when_it_is_over() {
        let mut lab = Lab::new();
        let silent = lab.condition("dns-down", Severity::Error);

        lab.hold(&[&silent], 29);
        assert_eq!(lab.sent(), []);
        lab.hold(&[&silent], 600);
        assert_eq!(lab.sent(), [("dns-down", None)]);
        // It comes and goes.
        lab.hold(&[], 50);
        lab.hold(&[&silent], 10);
        lab.hold(&[], 59);
        assert_eq!(lab.sent(), []);
        lab.hold(&[], 10);
        assert_eq!(lab.sent(), [("dns-down", Some(689))]);
    }

    #[test]
    fn what_goes_with_the_boot_or_is_a_trifle_is_not_told_and_what_worsens_is_told_again() {
        let mut lab = Lab::new();
        let (boot, trifle) =
            (lab.condition("boot", Severity::Error), lab.condition("trifle", Severity::Notice));
        lab.hold(&[&boot, &trifle], 20);
        lab.hold(&[&trifle], 100);
        assert_eq!(lab.sent(), []);

        let mut certificate = lab.condition("certificate", Severity::Warning);
        lab.hold(&[&certificate], 60);
        certificate.severity = Severity::Error;
        lab.hold(&[&certificate], 60);
        assert_eq!(lab.sent(), [("certificate", None), ("certificate", None)]);
    }

    #[test]
    fn what_came_and_went_while_nobody_could_be_told_is_told_afterwards_with_its_length() {
        let mut lab = Lab::new();
        let (down, other) =
            (lab.condition("wan-down", Severity::Error), lab.condition("other", Severity::Error));
        lab.reachable = false;

        lab.hold(&[&down], 3 * 3600);
        lab.hold(&[&other], 200);
        let tries = lab.tries;
        assert!((38..60).contains(&tries), "{tries}");
        lab.reachable = true;
        lab.notices.handle_path_change();
        lab.hold(&[&other], 1);

        assert_eq!(lab.sent(), [("other", None), ("wan-down", Some(3 * 3600))]);
    }

    #[test]
    fn a_recipient_who_is_never_reached_costs_no_more_than_so_many_messages() {
        let mut lab = Lab::new();
        lab.reachable = false;
        for name in NAMES {
            let condition = lab.condition(name, Severity::Error);
            for _ in 0..10 {
                let again = Condition { since: lab.now, ..condition.clone() };
                lab.hold(&[&again], 40);
                lab.hold(&[], 70);
            }
        }
        assert_eq!(lab.notices.waiting(), WAITING);
        assert!(lab.notices.lost() > 0);
    }

    const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

    struct Lab {
        notices: Notices,
        now: Instant,
        reachable: bool,
        tries: u32,
        sent: Vec<(&'static str, Option<u64>)>,
    }

    impl Lab {
        fn new() -> Self {
            #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
            let now = Instant::now();
            let notices = Notices::new(Severity::Warning);
            Self { notices, now, reachable: true, tries: 0, sent: Vec::new() }
        }

        fn condition(&self, name: &'static str, severity: Severity) -> Condition {
            Condition { name, severity, text: "words".to_owned(), since: self.now }
        }

        /// Second by second, so that these hold.
        fn hold(&mut self, conditions: &[&Condition], seconds: u32) {
            for _ in 0..seconds {
                self.notices.handle_conditions(conditions, self.now);
                while let Some(notice) = self.notices.poll_notice(self.now) {
                    self.tries += 1;
                    if !self.reachable {
                        self.notices.handle_failure(self.now);
                        continue;
                    }
                    self.sent.push((notice.name, notice.lasted.map(|lasted| lasted.as_secs())));
                    self.notices.handle_sent();
                }
                self.now += Duration::from_secs(1);
            }
        }

        fn sent(&mut self) -> Vec<(&'static str, Option<u64>)> {
            std::mem::take(&mut self.sent)
        }
    }
}
