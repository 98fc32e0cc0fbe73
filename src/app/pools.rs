//! Fills the places of pools with the servers found under their names.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::rr::RecordType;
use tracing::info;

use super::renumber;
use super::steward::{Message, Steward};
use crate::clock::{Level, Pool, PoolEvent, SourceId, Verdict};
use crate::config::Config;
use crate::node::Input;
use crate::node::ports::Clock;

/// The pools of a configuration. Their places are the last of its sources, in order.
#[derive(Debug, Default)]
pub(super) struct Pools {
    list: Vec<Pool>,
    first: usize,
    /// Who is asked at each place.
    places: Vec<Option<SocketAddr>>,
}

impl Pools {
    /// The pools of `config`, with nobody in them.
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let list: Vec<_> =
            config.clock.pools.iter().map(|pool| Pool::new(pool.count, now)).collect();
        let places = config.clock.pools.iter().map(|pool| pool.count).sum();
        Self {
            list,
            first: config.clock.sources.len() + config.clock.refclocks.len(),
            places: vec![None; places],
        }
    }

    /// Who sits at each place, with the pool's number.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, Option<SocketAddr>)> + '_ {
        let pools = self.list.iter().enumerate();
        let numbers = pools.flat_map(|(number, pool)| pool.members().map(move |_| number));
        numbers.zip(self.places.iter().copied())
    }

    /// Where the member is asked that is this source.
    pub(super) fn address(&self, id: SourceId) -> Option<SocketAddr> {
        *self.places.get(id.0.checked_sub(self.first)?)?
    }

    /// Whether somebody at `address` has a place.
    pub(super) fn have(&self, address: SocketAddr) -> bool {
        self.places.contains(&Some(address))
    }
}

impl Steward {
    /// Replaces members that are of no use, and looks for others, while names may be believed.
    pub(super) fn look_at_pools(&mut self, now: Instant) {
        let trusted = self.node.trust().trust(now).level > Level::Coarse;
        if self.pools.places.is_empty() || !trusted {
            return;
        }
        let verdicts: Vec<_> =
            self.node.trust().sources(self.boot.now()).map(|source| source.verdict).collect();
        let mut first = self.pools.first;
        for number in 0..self.pools.list.len() {
            let pool = &mut self.pools.list[number];
            let end = first + pool.members().count();
            let (before, after) = (verdicts.get(..first), verdicts.get(end..));
            let mut others = before.into_iter().chain(after).flatten();
            let others_agree = others.any(|verdict| *verdict == Verdict::Truechimer);
            pool.handle_verdicts(verdicts.get(first..end).unwrap_or_default(), others_agree, now);
            pool.handle_timeout(now);
            self.carry_out(number, first);
            first = end;
        }
    }

    /// Addresses were found under the name of a pool.
    pub(super) fn fill_pool(&mut self, number: usize, found: &[IpAddr]) {
        let now = self.boot.clock.mono();
        let sources = self.config.clock.sources.iter().map(|source| source.address.ip());
        let members = self.pools.places.iter().flatten().map(SocketAddr::ip);
        let taken: BTreeSet<_> = sources.chain(members).collect();
        let before = self.pools.list.iter().take(number);
        let first = self.pools.first + before.map(|pool| pool.members().count()).sum::<usize>();
        if let Some(pool) = self.pools.list.get_mut(number) {
            pool.handle_found(found, &taken, now);
            self.carry_out(number, first);
        }
    }

    fn carry_out(&mut self, number: usize, first: usize) {
        let Some(configured) = self.config.clock.pools.get(number).cloned() else { return };
        while let Some(event) = self.pools.list[number].poll_event() {
            match event {
                PoolEvent::LookUp => {
                    let (answerer, sender) =
                        (Arc::clone(&self.services.answerer), self.sender.clone());
                    let (asked, name) = (self.asked, configured.name.clone());
                    tokio::spawn(async move {
                        let mut found = renumber::ask(&name, RecordType::A, &answerer).await;
                        found.extend(renumber::ask(&name, RecordType::AAAA, &answerer).await);
                        let message = Message::PoolFound { asked, number, found };
                        let _ = sender.send(message).await;
                    });
                }
                PoolEvent::Seat(place, address) => {
                    let id = SourceId(first + place);
                    let address = address.map(|ip| SocketAddr::new(ip, configured.port));
                    let before =
                        std::mem::replace(&mut self.pools.places[id.0 - self.pools.first], address);
                    let pool = &configured.name;
                    if let Some(address) = address {
                        info!(%pool, %address, "a time source joins");
                    } else if let Some(address) = before {
                        info!(%pool, %address, "a time source that refuses, is silent or wrong is let go");
                    }
                    self.filter.run(|engine, _| engine.remove(id));
                    if let Some(failure) = self.source_failures.get_mut(id.0) {
                        *failure = None;
                    }
                    self.feed(Input::Member(id, address.is_some()));
                }
            }
        }
    }
}
