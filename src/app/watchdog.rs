//! The service manager's watchdog: it is fed while questions are answered, and by nothing else.
//!
//! Whether upstreams answer does not matter: an outage must not become a row of restarts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::services::Services;
use crate::dns::listen::Quick;
use crate::dns::{Client, Protocol};
use crate::host::notify;
use crate::net::bind::local_addresses;
use crate::wire::{Class, Header, Type, flags};

/// An answer to a local question is waited for so long at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// The name that is asked for; every configuration knows it.
const NAME: &[u8] = b"\x09localhost\0";

/// Feeds the watchdog four times in its term, each time after an answer; ends if nobody watches.
pub(super) async fn feed(services: Arc<Services>) {
    let Some(term) = notify::watchdog() else { return };
    let round = term / 4;
    let mut answering = true;
    loop {
        let answers = answers(&services, round.min(PATIENCE)).await;
        match (answering, answers) {
            (true, false) => {
                warn!(
                    ?term,
                    "a question to this machine got no answer; if none does within the term, the service manager restarts the daemon"
                );
            }
            (false, true) => info!("questions are answered again"),
            (true, true) | (false, false) => {}
        }
        answering = answers;
        if answers {
            notify::alive();
        }
        sleep(round).await;
    }
}

/// Whether a question gets an answer: at any of the UDP sockets, or, where none can be asked, from
/// what stands behind them.
async fn answers(services: &Services, patience: Duration) -> bool {
    let open = services.listeners.places().dns;
    // All at once: those that a packet filter shuts off must not use up the term.
    let mut asking: FuturesUnordered<_> =
        open.into_iter().filter_map(reachable).map(|address| ask(address, patience)).collect();
    let mut asked = false;
    while let Some(outcome) = asking.next().await {
        match outcome {
            Ok(true) => return true,
            Ok(false) => asked = true,
            // Nothing was sent: that is the network's doing.
            Err(_) => {}
        }
    }
    !asked && {
        let client = Client {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            protocol: Protocol::Udp,
            arrived: services.clock.mono(),
        };
        let mut reply = Vec::new();
        let quick = services.answerer.quick(&question(rand::random()), &client, None, &mut reply);
        matches!(quick, Quick::Reply(_))
    }
}

/// Where a socket bound to `address` can be asked from this machine; `None` if the address is not
/// this machine's any more.
fn reachable(address: SocketAddr) -> Option<SocketAddr> {
    let ip = address.ip();
    if ip.is_unspecified() {
        let loopback: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        return Some((loopback, address.port()).into());
    }
    let present = || local_addresses(address).is_ok_and(|own| own.iter().any(|own| own.ip() == ip));
    // The whole of 127.0.0.0/8 is this machine's, and is not listed.
    (ip.is_loopback() || present()).then_some(address)
}

/// Asks the server at `address`, from a port of its own each time: the kernel chooses by it which
/// thread has to answer. False if no answer comes in time; a refusal is one.
async fn ask(address: SocketAddr, patience: Duration) -> io::Result<bool> {
    let from: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.connect(address).await?;
    let id = rand::random();
    socket.send(&question(id)).await?;
    let answer = async {
        let mut reply = [0; 512];
        loop {
            // What was not answered because nobody listens is an error here.
            let Ok(length) = socket.recv(&mut reply).await else { return false };
            let header = Header::read(&reply[..length]);
            if header.is_some_and(|header| header.id == id && header.has(flags::QR)) {
                return true;
            }
        }
    };
    Ok(timeout(patience, answer).await.unwrap_or(false))
}

/// A question for the address of this machine.
fn question(id: u16) -> Vec<u8> {
    let header = Header { id, flags: 0, counts: [1, 0, 0, 0] };
    let mut question = header.to_octets().to_vec();
    question.extend_from_slice(NAME);
    question.extend_from_slice(&Type::A.0.to_be_bytes());
    question.extend_from_slice(&Class::IN.0.to_be_bytes());
    question
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Query;

    #[tokio::test]
    async fn only_an_answer_to_this_very_question_counts() {
        for (reply, counts) in [
            (Some(0x8000_u16), true),
            // REFUSED.
            (Some(0x8005), true),
            // A question is none, and neither is silence.
            (Some(0), false),
            (None, false),
        ] {
            let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = server.local_addr().unwrap();
            let serve = tokio::spawn(async move {
                let mut packet = [0; 64];
                let (length, from) = server.recv_from(&mut packet).await.unwrap();
                assert_eq!(Query::parse(&packet[..length]).unwrap().name(), NAME);
                let mut header = Header::read(&packet).unwrap();
                // Somebody else's first.
                let other = Header { id: header.id ^ 1, flags: 0x8000, ..header };
                server.send_to(&other.to_octets(), from).await.unwrap();
                if let Some(flags) = reply {
                    header.flags = flags;
                    server.send_to(&header.to_octets(), from).await.unwrap();
                }
                server
            });

            let answered = ask(address, Duration::from_millis(200)).await.unwrap();

            assert_eq!(answered, counts, "{reply:?}");
            serve.await.unwrap();
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_asked() {
        let asked =
            |address: &str| reachable(address.parse().unwrap()).map(|address| address.to_string());

        assert_eq!(asked("0.0.0.0:53").as_deref(), Some("127.0.0.1:53"));
        assert_eq!(asked("[::]:53").as_deref(), Some("[::1]:53"));
        assert_eq!(asked("127.9.9.9:53").as_deref(), Some("127.9.9.9:53"));
        assert_eq!(asked("192.0.2.77:53"), None);
    }
}
