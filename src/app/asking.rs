//! Asks time sources and witnesses, each in a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::nts::{Unsaid, World};
use super::steward::{Message, Steward};
use crate::clock::{Kiss, Nanos, Reading, SourceId, Testimony, UnixTime, WitnessId};
use crate::metered::Purpose;
use crate::node::Input;
use crate::node::ports::Clock;
use crate::ntp::client::{self, AskError, Proof};
use crate::witness;

/// A floor may lie this far ahead of the truth without moving a source's time into the next era.
const ERA_SLACK: Nanos = 30 * 31_557_600 * 1_000_000_000;

/// Octets of an NTP message with the headers of UDP and IPv4.
const DATAGRAM: usize = 48 + 28;

/// The same under NTS, with one cookie and none asked for besides.
const NTS_DATAGRAM: usize = 228 + 28;

/// How long a source under NTS is waited for when it is asked as a witness.
const NTS_PATIENCE: Duration = Duration::from_secs(2);

/// Why a source or witness was not heard, for people.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Source(SourceId, String),
    Witness(WitnessId, String),
}

impl Steward {
    pub(super) fn ask_source(&mut self, id: SourceId, patience: Duration) {
        if let Some(member) = self.pools.address(id) {
            return self.ask_server(id, member, None, Some(member), patience);
        }
        let Some(source) = self.config.clock.sources.get(id.0) else { return };
        let places = self.addresses.of_source(&self.config, id.0);
        let silent = self.source_failures.get(id.0).is_some_and(Option::is_some);
        // A silent source is sought where its name was last found, each time elsewhere.
        let place = if silent { self.questions % places.len().max(1) } else { 0 };
        let address = places.get(place).copied().unwrap_or(source.address);
        self.questions = self.questions.wrapping_add(1);
        let Some(protected) = self.nts.get(id.0).map(Arc::clone) else {
            return self.ask_server(id, address, source.key, None, patience);
        };
        let (sender, asked) = (self.sender.clone(), self.asked);
        let meter = Arc::clone(self.uplink.meter());
        let world = self.world_of_nts(patience);
        let witness = self.nts.place_of(id.0).map(|place| self.targets.len() + place);
        tokio::spawn(async move {
            meter.sent(Purpose::Time, NTS_DATAGRAM);
            let said = match protected.ask(address, &world).await {
                Ok(said) => said,
                Err(unsaid) => {
                    let _ = sender.send(unheard(asked, id, unsaid)).await;
                    return;
                }
            };
            meter.received(Purpose::Time, NTS_DATAGRAM);
            protected.served();
            if let Some(witness) = witness.filter(|_| said.strictly) {
                let said = testimony(&said.reading, world.trust.floor);
                let input = Input::Testimony(WitnessId(witness), said);
                let _ =
                    sender.send(Message::Heard { asked, member: None, input, failure: None }).await;
            }
            let _ = sender.send(heard(asked, None, id, Ok(said.reading))).await;
        });
    }

    /// Asks a server without NTS; `member` if it is one of a pool.
    fn ask_server(
        &self,
        id: SourceId,
        address: SocketAddr,
        key: Option<u32>,
        member: Option<SocketAddr>,
        patience: Duration,
    ) {
        let (sender, asked) = (self.sender.clone(), self.asked);
        let clock = Arc::clone(&self.boot.clock);
        // Two centuries of eras are told apart by the floor; a floor that lies ahead must not hide the truth.
        let pivot = self.node.trust().floor(clock.mono()).0.offset(-ERA_SLACK);
        let meter = Arc::clone(self.uplink.meter());
        let (keys, own) = (self.services.ntp_server.keys(), self.services.own_ids());
        tokio::spawn(async move {
            meter.sent(Purpose::Time, DATAGRAM);
            let proof = key.map_or(Proof::None, |id| Proof::Key { keys: &keys, id });
            let said = client::ask(address, &*clock, pivot, patience, proof, &own).await;
            if said.is_ok() {
                meter.received(Purpose::Time, DATAGRAM);
            }
            let _ = sender.send(heard(asked, member, id, said)).await;
        });
    }

    pub(super) fn ask_witness(&self, id: WitnessId) {
        let Some(target) = self.targets.get(id.0).cloned() else { return self.ask_nts_witness(id) };
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
                    Message::Heard {
                        asked,
                        member: None,
                        input: Input::Testimony(id, testimony),
                        failure: None,
                    }
                }
                Err(error) => Message::Heard {
                    asked,
                    member: None,
                    input: Input::WitnessFailed(id),
                    failure: Some(Failure::Witness(id, error.to_string())),
                },
            };
            let _ = sender.send(message).await;
        });
    }

    /// Asks a source under NTS as a witness.
    fn ask_nts_witness(&self, id: WitnessId) {
        let Some(index) = id.0.checked_sub(self.targets.len()).and_then(|at| self.nts.nth(at))
        else {
            return;
        };
        let Some(source) = self.nts.get(index).cloned() else { return };
        let address = self.addresses.of_source(&self.config, index).first().copied();
        let Some(address) = address else { return };
        let (sender, asked) = (self.sender.clone(), self.asked);
        let world = self.world_of_nts(NTS_PATIENCE);
        tokio::spawn(async move {
            let (input, failure) = match source.ask(address, &world).await {
                Ok(said) if said.strictly => {
                    (Input::Testimony(id, testimony(&said.reading, world.trust.floor)), None)
                }
                Ok(_) => (
                    Input::WitnessFailed(id),
                    Some("its NTS keys were got while the time was not known".to_owned()),
                ),
                Err(Unsaid::Asked(error)) => (Input::WitnessFailed(id), Some(error.to_string())),
                Err(Unsaid::NoKeys(why)) => (Input::WitnessFailed(id), Some(why)),
            };
            let failure = failure.map(|why| Failure::Witness(id, why));
            let _ = sender.send(Message::Heard { asked, member: None, input, failure }).await;
        });
    }

    fn world_of_nts(&self, patience: Duration) -> World {
        let trust = self.node.trust().trust(self.boot.clock.mono());
        World {
            client: self.services.client.clone(),
            trust,
            pivot: trust.floor.offset(-ERA_SLACK),
            patience,
            own: self.services.own_ids(),
        }
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

/// Authenticated time: nobody without the keys can have made it. It may not lie below the `floor`.
fn testimony(reading: &Reading, floor: UnixTime) -> Testimony {
    Testimony {
        at: reading.at,
        utc: reading.utc,
        error: reading.error,
        // The chain was judged when the keys were exchanged; what is left of rule R is its floor.
        passes_rule_r: reading.utc + reading.error >= floor,
        valid_as_stated: true,
        valid_at_clock: true,
    }
}

fn unheard(asked: u64, id: SourceId, unsaid: Unsaid) -> Message {
    match unsaid {
        Unsaid::Asked(error) => heard(asked, None, id, Err(error)),
        Unsaid::NoKeys(why) => {
            let failure = Some(Failure::Source(id, why));
            Message::Heard { asked, member: None, input: Input::Silence(id), failure }
        }
    }
}

fn heard(
    asked: u64,
    member: Option<SocketAddr>,
    id: SourceId,
    said: Result<Reading, AskError>,
) -> Message {
    match said {
        Ok(reading) => {
            Message::Heard { asked, member, input: Input::Reading(id, reading), failure: None }
        }
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
                | AskError::NtsForged
                | AskError::NtsNak
                | AskError::Network(_) => Input::Silence(id),
            };
            Message::Heard { asked, member, input, failure }
        }
    }
}
