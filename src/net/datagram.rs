//! Datagrams in batches, each answered from the address it was sent to.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6,
    SockaddrLike, recvmmsg, sendmmsg, sendmsg,
};
use nix::sys::time::TimeSpec;

use super::stamp;
use crate::clock::UnixTime;

/// Datagrams received by one system call at most.
pub const BATCH: usize = 64;
/// Octets of the longest datagram taken; longer ones are dropped.
pub const MAX_DATAGRAM: usize = 2048;

/// Who sent a datagram, and to which of our addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The sender.
    pub address: SocketAddr,
    /// The address of ours it was sent to, from which the answer must go.
    pub local: IpAddr,
    /// The interface it came by, which a link-local answer must leave by.
    interface: u32,
}

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The payload.
    pub payload: &'a [u8],
    /// Where it came from.
    pub peer: &'a Peer,
    /// Its place in its batch.
    pub place: usize,
    /// No other waited behind it when it was taken.
    pub alone: bool,
    /// When the kernel received it, by the machine's clock; only where that was asked for
    /// ([`Socket::stamp`]).
    pub stamp: Option<UnixTime>,
}

/// A UDP socket that says where each datagram was sent to.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    local: SocketAddr,
}

impl Socket {
    /// Wraps a socket opened by [`super::bind::udp`].
    ///
    /// # Errors
    ///
    /// If the socket has no local address.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Asks the kernel to say of each datagram when it was received.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn stamp(&self) -> io::Result<()> {
        stamp::on_arrival(&self.socket)
    }

    /// The address it is bound to.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram to `peer`, from the address `peer` wrote to; never blocks.
    ///
    /// # Errors
    ///
    /// What the kernel says, `WouldBlock` included.
    pub fn send(&self, payload: &[u8], peer: &Peer) -> io::Result<()> {
        match peer.address {
            SocketAddr::V4(to) => self.send_to(payload, peer, SockaddrIn::from(to)),
            SocketAddr::V6(to) => self.send_to(payload, peer, SockaddrIn6::from(to)),
        }
    }

    /// Lets receivers return at once when nothing is queued, for good.
    pub fn stop_receiving(&self) {
        // Linux wakes the receivers and then says ENOTCONN, for want of a peer.
        let _ = socket2::SockRef::from(&self.socket).shutdown(Shutdown::Read);
    }

    fn send_to<A: Address>(&self, payload: &[u8], peer: &Peer, to: A) -> io::Result<()> {
        let source = A::source(peer);
        let control = [A::control(&source)];
        let parts = [IoSlice::new(payload)];
        sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

/// How a batch of replies fared.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// Replies the kernel took.
    pub sent: usize,
    /// Replies it did not take.
    pub failed: usize,
}

/// Datagrams asked for at once while few come: every header that is made ready costs, whether it
/// is used or not.
const FEW: usize = 4;

/// Room to receive and answer [`BATCH`] datagrams; nothing is allocated once it is warm.
pub struct Batch {
    lane: Lane,
    /// Datagrams to ask for next.
    ask: usize,
    payloads: Box<[u8]>,
    /// What is known of each datagram; `None` for one that cannot be used.
    received: Vec<Option<Received>>,
    replies: Box<[Vec<u8>]>,
}

impl Batch {
    /// Makes room for the datagrams of `socket`.
    #[must_use]
    pub fn new(socket: &Socket) -> Self {
        Self {
            lane: match socket.local {
                SocketAddr::V4(_) => Lane::V4(Headers::new()),
                SocketAddr::V6(_) => Lane::V6(Headers::new()),
            },
            ask: FEW,
            payloads: vec![0; BATCH * MAX_DATAGRAM].into(),
            received: Vec::with_capacity(BATCH),
            replies: vec![Vec::new(); BATCH].into(),
        }
    }

    /// Waits for datagrams and takes as many as there are, up to [`BATCH`]. Returns their
    /// number: 0 when the socket stopped receiving, or for a signal.
    ///
    /// Truncated datagrams are left out.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        self.received.clear();
        let (room, received) = (&mut self.payloads[..self.ask * MAX_DATAGRAM], &mut self.received);
        let usable = match &mut self.lane {
            Lane::V4(headers) => headers.receive(socket, room, received),
            Lane::V6(headers) => headers.receive(socket, room, received),
        };
        self.ask = if self.received.len() < FEW { FEW } else { BATCH };
        usable
    }

    /// Hands every received datagram to `handle`, with an empty buffer for its
    /// reply; what is left empty is not sent.
    pub fn answer(&mut self, mut handle: impl FnMut(Datagram<'_>, &mut Vec<u8>)) {
        let payloads = self.payloads.chunks_exact(MAX_DATAGRAM);
        let alone = self.received.len() == 1;
        for (place, ((received, payload), reply)) in
            self.received.iter().zip(payloads).zip(&mut self.replies).enumerate()
        {
            reply.clear();
            if let Some(Received { len, peer, stamp }) = received {
                let (payload, stamp) = (&payload[..*len], *stamp);
                handle(Datagram { payload, peer, place, alone, stamp }, reply);
            }
        }
    }

    /// Sends the replies, one system call for each local address that was asked.
    pub fn send(&mut self, socket: &Socket) -> Sent {
        self.send_in_order(socket, &mut |_| {})
    }

    /// The same; says in `left` when each reply left, by its place, where the kernel knows. This
    /// costs a system call for each reply, and two.
    pub fn send_watched(&mut self, socket: &Socket, left: &mut Vec<Option<UnixTime>>) -> Sent {
        left.clear();
        let Ok(watch) = stamp::Departures::watch(&socket.socket) else { return self.send(socket) };
        let mut order = Vec::new();
        let sent = self.send_in_order(socket, &mut |place| order.push(place));
        left.resize(self.received.len(), None);
        // Whether one that the kernel did not take has a number is not known.
        if sent.failed == 0 {
            // Twice as many, for late ones of an earlier batch.
            for (number, at) in std::iter::from_fn(|| watch.next()).take(2 * BATCH) {
                if let Some(left) = order.get(number).and_then(|place| left.get_mut(*place)) {
                    *left = Some(at);
                }
            }
        }
        sent
    }

    fn send_in_order(&mut self, socket: &Socket, note: &mut impl FnMut(usize)) -> Sent {
        match &mut self.lane {
            Lane::V4(headers) => headers.send(socket, &self.received, &self.replies, note),
            Lane::V6(headers) => headers.send(socket, &self.received, &self.replies, note),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("received", &self.received).finish_non_exhaustive()
    }
}

/// What is known of a datagram beside its payload.
#[derive(Clone, Copy, Debug)]
struct Received {
    /// Octets of the payload.
    len: usize,
    peer: Peer,
    stamp: Option<UnixTime>,
}

enum Lane {
    V4(Headers<SockaddrIn>),
    V6(Headers<SockaddrIn6>),
}

/// The kernel's message headers, for datagrams of one address family.
///
/// Sending leaves pointers in them that only sending replaces: hence one set for each way.
struct Headers<A> {
    receive: MultiHeaders<A>,
    send: MultiHeaders<A>,
}

impl<A: Address> Headers<A> {
    fn new() -> Self {
        Self { receive: A::to_receive(), send: A::to_send() }
    }

    fn receive(
        &mut self,
        socket: &Socket,
        payloads: &mut [u8],
        received: &mut Vec<Option<Received>>,
    ) -> io::Result<usize> {
        if payloads.len() > FEW * MAX_DATAGRAM {
            self.receive_up_to::<BATCH>(socket, payloads, received)
        } else {
            self.receive_up_to::<FEW>(socket, payloads, received)
        }
    }

    /// Receives at most `MOST` datagrams, and as many as `payloads` has room for.
    fn receive_up_to<const MOST: usize>(
        &mut self,
        socket: &Socket,
        payloads: &mut [u8],
        received: &mut Vec<Option<Received>>,
    ) -> io::Result<usize> {
        let mut chunks = payloads.chunks_exact_mut(MAX_DATAGRAM);
        let mut slices: [[IoSliceMut<'_>; 1]; MOST] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        // The first may block, the others are taken if they are there.
        let flags = MsgFlags::MSG_WAITFORONE;
        let messages = match recvmmsg(
            socket.socket.as_raw_fd(),
            &mut self.receive,
            slices.iter_mut(),
            flags,
            None,
        ) {
            Ok(messages) => messages,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        };
        let mut headers_spent = false;
        for message in messages {
            let known = describe(&message);
            headers_spent |= known.is_none();
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            received.push(known.filter(|_| whole));
        }
        if headers_spent {
            // The kernel cut a header's room down to the nothing it wrote, and it would stay so.
            self.receive = A::to_receive();
        }
        Ok(received.iter().flatten().count())
    }

    fn send(
        &mut self,
        socket: &Socket,
        received: &[Option<Received>],
        replies: &[Vec<u8>],
        note: &mut impl FnMut(usize),
    ) -> Sent {
        if received.len() > FEW {
            self.send_up_to::<BATCH>(socket, received, replies, note)
        } else {
            self.send_up_to::<FEW>(socket, received, replies, note)
        }
    }

    /// Answers at most the first `MOST` datagrams. Their places are noted in the order of the replies.
    fn send_up_to<const MOST: usize>(
        &mut self,
        socket: &Socket,
        received: &[Option<Received>],
        replies: &[Vec<u8>],
        note: &mut impl FnMut(usize),
    ) -> Sent {
        let mut total = Sent::default();
        let mut done = [false; MOST];
        let ready = |slot: usize, done: &[bool; MOST]| match (received.get(slot), replies.get(slot))
        {
            (Some(Some(Received { peer, .. })), Some(reply))
                if !reply.is_empty() && !done[slot] =>
            {
                Some((*peer, reply.as_slice()))
            }
            _ => None,
        };
        for first in 0..received.len().min(MOST) {
            let Some((leader, _)) = ready(first, &done) else { continue };
            let mut slices = [[IoSlice::new(&[])]; MOST];
            let mut to = [None; MOST];
            let mut len = 0;
            for slot in first..received.len().min(MOST) {
                let Some((peer, reply)) = ready(slot, &done) else { continue };
                if peer.local == leader.local && peer.interface == leader.interface {
                    done[slot] = true;
                    note(slot);
                    slices[len] = [IoSlice::new(reply)];
                    to[len] = A::from_std(peer.address);
                    len += 1;
                }
            }
            let sent = self.send_group(socket, &slices[..len], &to[..len], &A::source(&leader));
            total.sent += sent.sent;
            total.failed += sent.failed;
        }
        total
    }

    fn send_group(
        &mut self,
        socket: &Socket,
        slices: &[[IoSlice<'_>; 1]],
        to: &[Option<A>],
        source: &A::Source,
    ) -> Sent {
        let mut total = Sent::default();
        let mut at = 0;
        while at < slices.len() {
            let sent = sendmmsg(
                socket.socket.as_raw_fd(),
                &mut self.send,
                &slices[at..],
                &to[at..],
                [A::control(source)],
                MsgFlags::MSG_DONTWAIT,
            )
            .map(Iterator::count);
            match sent {
                Ok(sent) => {
                    at += sent;
                    total.sent += sent;
                }
                Err(Errno::EINTR) => {}
                // The first of them is the one that failed; the others are not to blame.
                Err(_) => {
                    at += 1;
                    total.failed += 1;
                }
            }
        }
        total
    }
}

/// An address family: how its addresses and its packet information look.
trait Address: SockaddrLike + Copy {
    /// The source address of a reply, as the kernel takes it.
    type Source;

    /// With room for packet information and a stamp.
    fn to_receive() -> MultiHeaders<Self>;
    /// With room for packet information and no more: what is left over would be sent, too.
    fn to_send() -> MultiHeaders<Self>;
    fn from_std(address: SocketAddr) -> Option<Self>;
    fn to_std(self) -> SocketAddr;
    fn source(peer: &Peer) -> Self::Source;
    fn control(source: &Self::Source) -> ControlMessage<'_>;
}

impl Address for SockaddrIn {
    type Source = in_pktinfo;

    fn to_receive() -> MultiHeaders<Self> {
        MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in_pktinfo, TimeSpec)))
    }

    fn to_send() -> MultiHeaders<Self> {
        MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in_pktinfo)))
    }

    fn from_std(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V4(v4) => Some(v4.into()),
            SocketAddr::V6(_) => None,
        }
    }

    fn to_std(self) -> SocketAddr {
        SocketAddr::V4(self.into())
    }

    fn source(peer: &Peer) -> in_pktinfo {
        let local = match peer.local {
            IpAddr::V4(local) => local,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        in_pktinfo {
            // Routing decides by which interface; a bridge or a VIP may answer by another one.
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        }
    }

    fn control(source: &in_pktinfo) -> ControlMessage<'_> {
        ControlMessage::Ipv4PacketInfo(source)
    }
}

impl Address for SockaddrIn6 {
    type Source = in6_pktinfo;

    fn to_receive() -> MultiHeaders<Self> {
        MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in6_pktinfo, TimeSpec)))
    }

    fn to_send() -> MultiHeaders<Self> {
        MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in6_pktinfo)))
    }

    fn from_std(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(v6) => Some(v6.into()),
        }
    }

    fn to_std(self) -> SocketAddr {
        SocketAddr::V6(self.into())
    }

    fn source(peer: &Peer) -> in6_pktinfo {
        let local = match peer.local {
            IpAddr::V6(local) => local,
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        };
        in6_pktinfo {
            ipi6_addr: in6_addr { s6_addr: local.octets() },
            ipi6_ifindex: peer.interface,
        }
    }

    fn control(source: &in6_pktinfo) -> ControlMessage<'_> {
        ControlMessage::Ipv6PacketInfo(source)
    }
}

/// Who sent `message`, where to and when; `None` if the kernel did not say who and where to.
#[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is asked for")]
fn describe<A: Address>(message: &RecvMsg<'_, '_, A>) -> Option<Received> {
    let address = message.address?.to_std();
    let (mut peer, mut stamp) = (None, None);
    for control in message.cmsgs().ok()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // The destination itself may be a broadcast address, which nothing can be sent from.
                let mut local = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                // It came to a held socket before that was asked where datagrams were sent to.
                if local.is_unspecified() {
                    local = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                }
                peer = Some(Peer { address, local: local.into(), interface: 0 });
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let local = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let local = if local.is_multicast() { Ipv6Addr::UNSPECIFIED } else { local };
                let interface = if local.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                peer = Some(Peer { address, local: local.into(), interface });
            }
            ControlMessageOwned::ScmTimestampns(at) => {
                stamp = Some(stamp::utc(at));
            }
            _ => {}
        }
    }
    peer.map(|peer| Received { len: message.bytes, peer, stamp })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::bind;

    #[test]
    fn every_datagram_of_a_batch_is_answered_from_the_address_it_was_sent_to() {
        let server = server("0.0.0.0:0");
        let port = server.local().port();
        let client = client("127.0.0.1:0");
        for number in 1..=6 {
            // Two addresses of ours in turn: 127.0.0.1 and 127.0.0.2.
            client.send_to(&[number], (Ipv4Addr::new(127, 0, 0, 1 + number % 2), port)).unwrap();
        }
        let mut batch = Batch::new(&server);

        let mut left = 6;
        while left > 0 {
            left -= batch.receive(&server).unwrap();
            batch.answer(echo);
            assert_eq!(batch.send(&server).failed, 0);
        }

        let mut numbers = Vec::new();
        for _ in 1..=6 {
            let mut reply = [0; 8];
            let (len, from) = client.recv_from(&mut reply).unwrap();
            assert_eq!(from, ([127, 0, 0, 1 + reply[0] % 2], port).into());
            numbers.push((len, reply[0]));
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=6).map(|number| (1, number)).collect::<Vec<_>>());
    }

    #[test]
    fn replies_say_by_their_places_when_they_left() {
        let server = server("0.0.0.0:0");
        let port = server.local().port();
        let client = client("127.0.0.1:0");
        for number in 0..4 {
            // In groups, by the address that is asked; the second gets no reply.
            client.send_to(&[number], (Ipv4Addr::new(127, 0, 0, 1 + number % 2), port)).unwrap();
        }
        let (mut batch, mut left) = (Batch::new(&server), vec![None; 9]);
        assert_eq!(batch.receive(&server).unwrap(), 4);
        batch.answer(|datagram, reply| {
            assert_eq!(datagram.place, usize::from(datagram.payload[0]));
            if datagram.place != 1 {
                echo(datagram, reply);
            }
        });

        let sent = batch.send_watched(&server, &mut left);

        assert_eq!(sent, Sent { sent: 3, failed: 0 });
        let [Some(first), None, Some(third), Some(fourth)] = left[..] else { panic!("{left:?}") };
        assert!(first <= third && third <= fourth, "{left:?}");
    }

    #[test]
    fn ipv6_answers_come_from_the_address_asked_too() {
        let server = server("[::]:0");
        let client = client("[::1]:0");
        client.connect(("::1", server.local().port())).unwrap();
        client.send(b"hello").unwrap();
        let mut batch = Batch::new(&server);

        assert_eq!(batch.receive(&server).unwrap(), 1);
        batch.answer(echo);
        assert_eq!(batch.send(&server), Sent { sent: 1, failed: 0 });

        let mut reply = [0; 8];
        assert_eq!(client.recv(&mut reply).unwrap(), 5);
    }

    #[test]
    fn a_late_answer_comes_from_the_address_asked_as_well() {
        let server = server("0.0.0.0:0");
        let client = client("127.0.0.1:0");
        client.connect(("127.0.0.7", server.local().port())).unwrap();
        client.send(b"hello").unwrap();
        let mut batch = Batch::new(&server);
        batch.receive(&server).unwrap();

        let mut asked = None;
        batch.answer(|datagram, _| asked = Some(*datagram.peer));
        server.send(b"late", &asked.unwrap()).unwrap();

        let mut reply = [0; 8];
        assert_eq!(client.recv(&mut reply).unwrap(), 4);
    }

    #[test]
    fn what_is_too_long_or_left_without_reply_does_not_disturb_the_others() {
        let server = server("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        client.connect(server.local()).unwrap();
        client.send(&[1; MAX_DATAGRAM + 1]).unwrap();
        client.send(&[]).unwrap();
        client.send(&[3; MAX_DATAGRAM]).unwrap();
        let mut batch = Batch::new(&server);

        assert_eq!(batch.receive(&server).unwrap(), 2);
        batch.answer(echo);
        assert_eq!(batch.send(&server), Sent { sent: 1, failed: 0 });

        let mut reply = [0; MAX_DATAGRAM + 1];
        assert_eq!(client.recv(&mut reply).unwrap(), MAX_DATAGRAM);
        assert_eq!(reply[0], 3);
    }

    #[test]
    fn a_socket_that_stopped_receiving_gives_what_is_queued_and_then_nothing() {
        let server = server("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        client.send_to(b"queued", server.local()).unwrap();
        server.stop_receiving();
        let mut batch = Batch::new(&server);

        assert_eq!(batch.receive(&server).unwrap(), 1);
        assert_eq!(batch.receive(&server).unwrap(), 0);
        assert_eq!(batch.receive(&server).unwrap(), 0);
    }

    fn echo(datagram: Datagram<'_>, reply: &mut Vec<u8>) {
        reply.extend_from_slice(datagram.payload);
    }

    fn server(address: &str) -> Socket {
        let socket = bind::udp(address.parse().unwrap(), 1).unwrap().remove(0);
        Socket::new(socket).unwrap()
    }

    fn client(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }
}
