//! When the kernel took a datagram, and when it handed one to the network (`SO_TIMESTAMPING`), by the
//! machine's clock.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{SO_EE_ORIGIN_TIMESTAMPING, in6_pktinfo, sock_extended_err};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn6, TimestampingFlag, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;

use crate::clock::{Nanos, UnixTime};

/// Asks the kernel to say of each datagram that comes by `socket` when it was received.
///
/// # Errors
///
/// What the kernel says.
pub fn on_arrival(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(&socket.as_fd(), sockopt::ReceiveTimestampns, &true)?)
}

/// Takes a datagram from a socket with [`on_arrival`], without waiting. Gives its length, and when the
/// kernel received it.
///
/// # Errors
///
/// What the kernel says, `WouldBlock` included.
pub fn receive(socket: &impl AsFd, into: &mut [u8]) -> io::Result<(usize, Option<UnixTime>)> {
    let (len, said) = read(socket.as_fd(), into, MsgFlags::MSG_DONTWAIT)?;
    Ok((len, said.at))
}

/// While it lives, the kernel says when datagrams leave by a socket, if the driver of their interface
/// does.
#[derive(Debug)]
pub struct Departures<'s> {
    socket: BorrowedFd<'s>,
}

impl<'s> Departures<'s> {
    /// Those of `socket`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn watch(socket: &'s impl AsFd) -> io::Result<Self> {
        // Numbered from 0, and without the datagram itself.
        let flags = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
        setsockopt(&socket.as_fd(), sockopt::Timestamping, &flags)?;
        Ok(Self { socket: socket.as_fd() })
    }

    /// The number of one that has left, and when; `None` if no other is known to have. One that was sent
    /// before the watch began, and had to wait for the network, counts by its number of then.
    #[must_use]
    pub fn next(&self) -> Option<(usize, UnixTime)> {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let (_, said) = read(self.socket, &mut [], flags).ok()?;
        Some((said.number?, said.at?))
    }
}

impl Drop for Departures<'_> {
    fn drop(&mut self) {
        let _ = setsockopt(&self.socket, sockopt::Timestamping, &TimestampingFlag::empty());
    }
}

/// What the kernel says beside a datagram.
#[derive(Debug, Default)]
struct Said {
    at: Option<UnixTime>,
    number: Option<usize>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is asked for")]
fn read(socket: BorrowedFd<'_>, into: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Said)> {
    let mut room =
        nix::cmsg_space!(TimeSpec, [TimeSpec; 3], (sock_extended_err, SockaddrIn6), in6_pktinfo);
    let mut into = [IoSliceMut::new(into)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut room), flags) {
            Err(Errno::EINTR) => {}
            read => break read?,
        }
    };
    let mut said = Said::default();
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::ScmTimestampns(at) => said.at = Some(utc(at)),
            ControlMessageOwned::ScmTimestampsns(stamps) => said.at = Some(utc(stamps.system)),
            ControlMessageOwned::Ipv4RecvErr(of, _) | ControlMessageOwned::Ipv6RecvErr(of, _)
                if of.ee_origin == SO_EE_ORIGIN_TIMESTAMPING =>
            {
                said.number = usize::try_from(of.ee_data).ok();
            }
            _ => {}
        }
    }
    Ok((message.bytes, said))
}

/// What the machine's clock showed.
pub(super) fn utc(stamp: TimeSpec) -> UnixTime {
    let nanos = Nanos::from(stamp.tv_sec()) * 1_000_000_000 + Nanos::from(stamp.tv_nsec());
    UnixTime::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn datagrams_are_stamped_as_they_leave_and_as_they_come() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (from, to) = pair(address);
            on_arrival(&to).unwrap();
            let before = now();
            let watch = Departures::watch(&from).unwrap();
            for _ in 0..3 {
                from.send(b"hello").unwrap();
            }

            let left: Vec<_> = std::iter::from_fn(|| watch.next()).collect();
            let came: Vec<_> =
                (0..3).map(|_| receive(&to, &mut [0; 16]).unwrap().1.unwrap()).collect();

            let numbers: Vec<_> = left.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [0, 1, 2], "{address}");
            let both = left.iter().map(|(_, at)| *at).zip(came);
            for (left, came) in both {
                assert!(before <= left && left <= came && came <= now(), "{left:?} {came:?}");
            }
            let would_block = receive(&to, &mut [0; 16]).unwrap_err();
            assert_eq!(would_block.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn numbers_begin_anew_with_each_watch_and_nothing_is_said_between() {
        let (from, _to) = pair("127.0.0.1:0");
        for _ in 0..2 {
            let watch = Departures::watch(&from).unwrap();
            from.send(b"hello").unwrap();
            assert_eq!(watch.next().map(|(number, _)| number), Some(0));
            drop(watch);
            from.send(b"hello").unwrap();
        }
        let watch = Departures::watch(&from).unwrap();
        assert_eq!(watch.next(), None);
    }

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let (from, to) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        from.connect(to.local_addr().unwrap()).unwrap();
        (from, to)
    }

    #[expect(clippy::disallowed_methods, reason = "what the kernel's stamps are read from")]
    fn now() -> UnixTime {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        UnixTime::from_nanos(now.as_nanos().try_into().unwrap())
    }
}
