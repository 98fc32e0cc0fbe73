//! Questions in datagrams, many to a system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use super::Sink;

/// Datagrams to a system call at most.
const BATCH: usize = 32;
/// Octets of the longest datagram.
const ROOM: usize = 1500;

pub(super) struct Udp {
    socket: UdpSocket,
    outgoing: Vec<Vec<u8>>,
    /// How many of `outgoing` are to be sent.
    queued: usize,
    incoming: Box<[u8]>,
    /// Sending leaves pointers in its headers, so each direction has its own.
    send: MultiHeaders<SockaddrIn>,
    receive: MultiHeaders<SockaddrIn>,
}

impl Udp {
    pub(super) fn connect(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            outgoing: vec![Vec::new(); BATCH],
            queued: 0,
            incoming: vec![0; BATCH * ROOM].into(),
            send: MultiHeaders::preallocate(BATCH, None),
            receive: MultiHeaders::preallocate(BATCH, None),
        })
    }

    pub(super) fn ask(&mut self, token: u16, question: &[u8]) {
        if self.queued == BATCH && !self.flush().is_ok_and(|all| all) {
            // A full socket buffer: the question counts as lost.
            return;
        }
        let datagram = &mut self.outgoing[self.queued];
        datagram.clear();
        datagram.extend_from_slice(question);
        datagram[..2].copy_from_slice(&token.to_be_bytes());
        self.queued += 1;
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        for (slice, datagram) in slices.iter_mut().zip(&self.outgoing) {
            *slice = [IoSlice::new(datagram)];
        }
        let (mut at, all) = (0, std::mem::take(&mut self.queued));
        while at < all {
            let none: [ControlMessage<'_>; 0] = [];
            let sent = sendmmsg(
                self.socket.as_raw_fd(),
                &mut self.send,
                &slices[at..all],
                [None; BATCH],
                none,
                MsgFlags::empty(),
            );
            match sent {
                Ok(sent) => at += sent.count(),
                // A full socket buffer, or a server that is not up: these questions are lost.
                Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::ENOBUFS) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    pub(super) fn take(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        loop {
            let mut rooms = self.incoming.chunks_exact_mut(ROOM);
            let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
            let received = recvmmsg(
                self.socket.as_raw_fd(),
                &mut self.receive,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            );
            let lengths: Vec<_> = match received {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN | Errno::ECONNREFUSED) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            for (&length, room) in lengths.iter().zip(self.incoming.chunks_exact(ROOM)) {
                let message = &room[..length];
                if let Some(&[id0, id1]) = message.get(..2) {
                    sink(u16::from_be_bytes([id0, id1]), Some(message));
                }
            }
            if lengths.len() < BATCH {
                return Ok(());
            }
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
