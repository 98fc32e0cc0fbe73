//! A time source, with a clock that may be told to lie.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::WorldError;
use crate::clock::{Nanos, NtpStatus, UnixTime};
use crate::net::{Datagram, DatagramListen, Handler, Listen, Socket, Threads};
use crate::node::ports::Clock;
use crate::ntp::server::TimeServer;

/// An NTP server that claims to be the best there is: stratum 1, a millisecond off at most.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) address: SocketAddr,
    clock: Arc<SkewedClock>,
    service: Arc<Service>,
    _threads: Threads,
}

impl Source {
    /// Serves time on `address`, port 0 being any; `ahead` of the truth.
    pub(super) fn start(
        address: SocketAddr,
        truth: &Arc<dyn Clock>,
        ahead: Nanos,
    ) -> Result<Self, WorldError> {
        let status = NtpStatus {
            synchronized: true,
            stratum: 1,
            reference_id: *b"GPS\0",
            root_delay: Duration::ZERO,
            root_dispersion: Duration::from_millis(1),
            since: truth.mono(),
            growth_ppm: 0,
            reference_time: truth.utc(),
            leap: 0,
        };
        let clock = Arc::new(SkewedClock { truth: Arc::clone(truth), ahead: AtomicI64::default() });
        let told: Arc<dyn Clock> = Arc::<SkewedClock>::clone(&clock);
        let server = TimeServer::new(told, Arc::new(ArcSwap::from_pointee(status)), None);
        let service = Arc::new(Service { server, silent: AtomicBool::new(false) });
        let handler = Arc::<Service>::clone(&service);
        let (address, threads) = DatagramListen::new("NTP of the small world", "lab-ntp", handler)
            .listen(address)
            .map_err(|error| WorldError::Listen { address, error })?;
        let source = Self { address, clock, service, _threads: threads };
        source.lie(ahead);
        Ok(source)
    }

    /// Tells a time that is `ahead` nanoseconds off the truth, 292 years at most.
    pub(super) fn lie(&self, ahead: Nanos) {
        let limit = if ahead < 0 { i64::MIN } else { i64::MAX };
        self.clock.ahead.store(i64::try_from(ahead).unwrap_or(limit), Ordering::Relaxed);
    }

    /// Leaves every question without an answer, or stops doing so.
    pub(super) fn silence(&self, silent: bool) {
        self.service.silent.store(silent, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct SkewedClock {
    truth: Arc<dyn Clock>,
    /// In nanoseconds.
    ahead: AtomicI64,
}

impl Clock for SkewedClock {
    fn mono(&self) -> Instant {
        self.truth.mono()
    }

    fn utc_at(&self, at: Instant) -> UnixTime {
        self.truth.utc_at(at).offset(self.ahead.load(Ordering::Relaxed).into())
    }
}

#[derive(Debug)]
struct Service {
    server: TimeServer,
    silent: AtomicBool,
}

impl Handler for Service {
    type Own = <TimeServer as Handler>::Own;

    fn handle(
        &self,
        datagram: Datagram<'_>,
        socket: &Arc<Socket>,
        own: &mut Self::Own,
        reply: &mut Vec<u8>,
    ) {
        if !self.silent.load(Ordering::Relaxed) {
            self.server.handle(datagram, socket, own, reply);
        }
    }

    fn sending(&self, own: &mut Self::Own) -> bool {
        self.server.sending(own)
    }

    fn sent(&self, own: &mut Self::Own, left: &[Option<UnixTime>]) {
        self.server.sent(own, left);
    }
}
