//! While the clock has never been set: a better guess at the time, from the root zone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::steward::{Message, Steward};
use crate::clock::{Level, UnixTime, describe};

/// Most boots know the time before; it is asked for after this, and again.
pub(super) const ASK_EACH: Duration = Duration::from_secs(5);

impl Steward {
    /// Asks for the root zone's SOA record while nothing else tells the time.
    pub(super) fn look_for_a_bound(&mut self, now: Instant) {
        let cold = self.node.trust().trust(now).level == Level::Cold;
        if !cold || now < self.next_bound {
            return;
        }
        self.next_bound = now + ASK_EACH;
        let (services, sender) = (Arc::clone(&self.services), self.sender.clone());
        let settings = self.config.dns.validation.clone();
        let floor = self.node.trust().floor(now).0;
        tokio::spawn(async move {
            match services.validation.root_inception(&settings, floor).await {
                Ok(bound) => drop(sender.send(Message::Past(bound)).await),
                Err(error) => debug!(%error, "no bound of the time from the root zone"),
            }
        });
    }

    /// Moves a clock that has never been set forward to a time that is past for certain. It is a guess
    /// as before: nothing is refused or believed by it.
    pub(super) fn guess_at_least(&mut self, bound: UnixTime) {
        let now = self.boot.now();
        let by = bound.since(now.utc);
        if by <= 0 || self.node.trust().trust(now.mono).level != Level::Cold {
            return;
        }
        self.next_bound = now.mono + Duration::from_secs(3600);
        self.clock.step(by);
        self.filter.reset();
        info!(
            by = describe(by),
            guess = %bound,
            "the clock is moved forward to a guess; it is not trusted: the root zone was signed then"
        );
    }
}
