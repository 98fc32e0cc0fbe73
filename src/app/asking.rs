//! Asks time sources and witnesses, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use super::steward::{Message, Steward};
use crate::clock::{Kiss, Nanos, Reading, SourceId, Testimony, WitnessId};
use crate::metered::Purpose;
use crate::node::Input;
use crate::node::ports::Clock;
use crate::ntp::client::{self, AskError, Shared};
use crate::witness;

/// A floor may lie this far ahead of the truth without moving a source's time into the next era.
const ERA_SLACK: Nanos = 30 * 31_557_600 * 1_000_000_000;

/// Octets of an NTP message with the headers of UDP and IPv4.
const DATAGRAM: usize = 48 + 28;

/// Why a source or witness was not heard, for people.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Source(SourceId, String),
    Witness(WitnessId, String),
}

impl Steward {
    pub(super) fn ask_source(&mut self, id: SourceId, patience: Duration) {
        let Some(source) = self.config.clock.sources.get(id.0) else { return };
        let places = self.addresses.of_source(&self.config, id.0);
        let silent = self.source_failures.get(id.0).is_some_and(Option::is_some);
        // A silent source is sought where its name was last found, each time elsewhere.
        let place = if silent { self.questions % places.len().max(1) } else { 0 };
        let address = places.get(place).copied().unwrap_or(source.address);
        self.questions = self.questions.wrapping_add(1);
        let (sender, asked) = (self.sender.clone(), self.asked);
        let floor = self.node.trust().floor(self.boot.clock.mono()).0;
        let clock = Arc::clone(&self.boot.clock);
        // Two centuries of eras are told apart by the floor; a floor that lies ahead must not hide the truth.
        let pivot = floor.offset(-ERA_SLACK);
        let meter = Arc::clone(self.uplink.meter());
        let (keys, key) = (self.services.ntp_server.keys(), source.key);
        tokio::spawn(async move {
            meter.add(Purpose::Time, DATAGRAM);
            let key = key.map(|id| Shared { keys: &keys, id });
            let said = client::ask(address, &*clock, pivot, patience, key).await;
            if said.is_ok() {
                meter.add(Purpose::Time, DATAGRAM);
            }
            let message = heard(asked, id, said);
            let _ = sender.send(message).await;
        });
    }

    pub(super) fn ask_witness(&self, id: WitnessId) {
        let Some(target) = self.targets.get(id.0).cloned() else { return };
        let (sender, asked) = (self.sender.clone(), self.asked);
        let client = self.services.client.clone();
        let floor = self.node.trust().floor(self.boot.clock.mono()).0;
        tokio::spawn(async move {
            let message = match witness::fetch(&target, &client, floor).await {
                Ok(said) => {
                    let testimony = Testimony {
                        at: said.at,
                        utc: said.stated,
                        error: said.error,
                        passes_rule_r: said.passes_rule_r,
                        valid_as_stated: said.valid_at_stated,
                        valid_at_clock: said.valid_at_clock,
                    };
                    Message::Heard { asked, input: Input::Testimony(id, testimony), failure: None }
                }
                Err(error) => Message::Heard {
                    asked,
                    input: Input::WitnessFailed(id),
                    failure: Some(Failure::Witness(id, error.to_string())),
                },
            };
            let _ = sender.send(message).await;
        });
    }

    pub(super) fn note_failure(&mut self, input: &Input, failure: Option<Failure>) {
        match failure {
            Some(Failure::Source(id, why)) => {
                if let Some(slot) = self.source_failures.get_mut(id.0) {
                    *slot = Some(why);
                }
            }
            Some(Failure::Witness(id, why)) => {
                if let Some(slot) = self.witness_failures.get_mut(id.0) {
                    *slot = Some(why);
                }
            }
            None => {
                if let Input::Reading(id, _) = input
                    && let Some(slot) = self.source_failures.get_mut(id.0)
                {
                    *slot = None;
                }
                if let Input::Testimony(id, _) = input
                    && let Some(slot) = self.witness_failures.get_mut(id.0)
                {
                    *slot = None;
                }
            }
        }
    }
}

fn heard(asked: u64, id: SourceId, said: Result<Reading, AskError>) -> Message {
    match said {
        Ok(reading) => Message::Heard { asked, input: Input::Reading(id, reading), failure: None },
        Err(error) => {
            let failure = Some(Failure::Source(id, error.to_string()));
            let input = match error {
                AskError::Kiss(client::Kiss::Deny | client::Kiss::Rstr) => {
                    Input::Kissed(id, Kiss::Deny)
                }
                AskError::Kiss(client::Kiss::Rate) => Input::Kissed(id, Kiss::Rate),
                AskError::Kiss(client::Kiss::Other(_))
                | AskError::Unsynchronized { .. }
                | AskError::Implausible(_)
                | AskError::TooDistant(_)
                | AskError::Refused
                | AskError::Silent(_)
                | AskError::Loop
                | AskError::Unauthenticated(_)
                | AskError::NoKey(_)
                | AskError::Network(_) => Input::Silence(id),
            };
            Message::Heard { asked, input, failure }
        }
    }
}
