//! Questions over TCP and TLS: each behind its length (RFC 1035 section 4.2.2).

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use super::{Sink, Stream};

pub(super) struct Framed {
    stream: Stream,
    incoming: Vec<u8>,
}

impl Framed {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, incoming: Vec::new() }
    }

    pub(super) fn ask(&mut self, token: u16, question: &[u8]) {
        put(&mut self.stream, token, question);
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        self.stream.flush()
    }

    pub(super) fn take(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        let open = self.stream.read(&mut self.incoming)?;
        let mut rest = self.incoming.as_slice();
        while let Some((message, tail)) = first(rest) {
            if let Some(&[id0, id1]) = message.get(..2) {
                sink(u16::from_be_bytes([id0, id1]), Some(message));
            }
            rest = tail;
        }
        let used = self.incoming.len() - rest.len();
        self.incoming.drain(..used);
        if open { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

impl AsFd for Framed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Queues a question behind its length.
pub(super) fn put(stream: &mut Stream, token: u16, question: &[u8]) {
    let [l0, l1] = (question.len() as u16).to_be_bytes();
    let [id0, id1] = token.to_be_bytes();
    stream.put(&[l0, l1, id0, id1]);
    stream.put(&question[2..]);
}

/// The first whole message, and what follows it.
pub(super) fn first(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}
