//! The least that a UDP server does: take datagrams, and send them back from where they went.

use std::convert::Infallible;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use nix::libc::in_pktinfo;
use nix::sys::socket::sockopt::Ipv4PacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg,
    setsockopt,
};

/// Datagrams to a system call at most.
const BATCH: usize = 64;
/// Octets of the longest datagram.
const ROOM: usize = 2048;

/// Echoes for ever.
pub(crate) fn serve(address: SocketAddrV4) -> io::Result<Infallible> {
    let socket = UdpSocket::bind(address)?;
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    let headers = || MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in_pktinfo)));
    let (mut receive, mut send) = (headers(), headers());
    let mut rooms = vec![[0; ROOM]; BATCH];
    loop {
        let mut slices: Vec<_> = rooms.iter_mut().map(|room| [IoSliceMut::new(room)]).collect();
        let fd = socket.as_raw_fd();
        let wait = MsgFlags::MSG_WAITFORONE;
        let messages = recvmmsg(fd, &mut receive, slices.iter_mut(), wait, None)?;
        let mut lengths = Vec::with_capacity(BATCH);
        let mut peers: Vec<Option<SockaddrIn>> = Vec::with_capacity(BATCH);
        let mut source = None;
        for message in messages {
            lengths.push(message.bytes);
            peers.push(message.address);
            source = source.or_else(|| {
                let mut controls = message.cmsgs().ok()?;
                let Some(ControlMessageOwned::Ipv4PacketInfo(info)) = controls.next() else {
                    return None;
                };
                Some(info)
            });
        }
        // One address for the whole batch: all questions here go to the same one.
        let source = in_pktinfo { ipi_ifindex: 0, ..source.ok_or(io::ErrorKind::InvalidData)? };
        let replies = rooms.iter().zip(&lengths);
        let replies: Vec<_> = replies.map(|(room, &len)| [IoSlice::new(&room[..len])]).collect();
        let control = [ControlMessage::Ipv4PacketInfo(&source)];
        sendmmsg(fd, &mut send, &replies, &peers, control, MsgFlags::empty())?.count();
    }
}
