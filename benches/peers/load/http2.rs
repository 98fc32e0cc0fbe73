//! Questions over HTTPS (RFC 8484): as much of HTTP/2 as a client needs that asks one resource.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use super::{Sink, Stream};
use crate::world::{NAME, PATH};

/// Frame types (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Frame flags. ACK has the bit of `END_STREAM`.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A field block that begins with `:status: 200` of the static table (RFC 7541 appendix A).
const OK: u8 = 0x88;

pub(super) struct Http2 {
    stream: Stream,
    incoming: Vec<u8>,
    /// The stream of the next request.
    next: u32,
    /// What the server still takes of us (RFC 9113 section 5.2).
    window: i64,
    waiting: Vec<Request>,
}

/// A request whose response is not complete.
struct Request {
    stream: u32,
    token: u16,
    ok: bool,
    message: Vec<u8>,
}

impl Http2 {
    pub(super) fn new(stream: Stream) -> Self {
        let mut this =
            Self { stream, incoming: Vec::new(), next: 1, window: 65_535, waiting: Vec::new() };
        this.stream.put(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // Nothing pushed (setting 2: 0). Answers are never held up: room for 2 GB of them.
        this.frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0]);
        this.frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
        this
    }

    pub(super) fn ask(&mut self, token: u16, question: &[u8]) -> io::Result<()> {
        self.window -= question.len() as i64;
        if self.window < 0 {
            return Err(io::Error::other("the server does not open its HTTP/2 window"));
        }
        let stream = self.next;
        self.next += 2;
        let fields = if stream == 1 { first_fields() } else { FIELDS.to_vec() };
        self.frame(HEADERS, END_HEADERS, stream, &fields);
        // The id is 0, so that answers can be cached (RFC 8484 section 4.1).
        self.frame(DATA, END_STREAM, stream, question);
        self.waiting.push(Request { stream, token, ok: false, message: Vec::new() });
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        self.stream.flush()
    }

    pub(super) fn take(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        let open = self.stream.read(&mut self.incoming)?;
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        while let Some((frame, tail)) = Frame::first(rest) {
            self.handle(&frame, sink)?;
            rest = tail;
        }
        self.incoming.extend_from_slice(rest);
        self.stream.flush()?;
        if open { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn handle(&mut self, frame: &Frame<'_>, sink: &mut Sink<'_>) -> io::Result<()> {
        match frame.kind {
            SETTINGS if frame.flags & END_STREAM == 0 => self.frame(SETTINGS, END_STREAM, 0, &[]),
            PING if frame.flags & END_STREAM == 0 => self.frame(PING, END_STREAM, 0, frame.payload),
            WINDOW_UPDATE if frame.stream == 0 => {
                let more = frame.payload.first_chunk().copied().unwrap_or_default();
                self.window += i64::from(u32::from_be_bytes(more));
            }
            GOAWAY => return Err(io::Error::other("the server ends the HTTP/2 connection")),
            HEADERS | DATA | RST_STREAM => {
                let place = self.waiting.iter().position(|waiting| waiting.stream == frame.stream);
                let Some(place) = place else { return Ok(()) };
                let request = &mut self.waiting[place];
                match frame.kind {
                    DATA => request.message.extend_from_slice(frame.payload),
                    HEADERS => request.ok |= status_is_ok(frame.payload),
                    _ => request.ok = false,
                }
                if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
                    let request = self.waiting.swap_remove(place);
                    let message = Some(request.message.as_slice());
                    sink(request.token, message.filter(|message| request.ok && is_ours(message)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
        let [s0, s1, s2, s3] = stream.to_be_bytes();
        self.stream.put(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
        self.stream.put(payload);
    }
}

impl AsFd for Http2 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

struct Frame<'f> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'f [u8],
}

impl<'f> Frame<'f> {
    /// The first whole frame, and what follows it.
    fn first(octets: &'f [u8]) -> Option<(Self, &'f [u8])> {
        let (&[l0, l1, l2, kind, flags, s0, s1, s2, s3], rest) = octets.split_first_chunk()?;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let (payload, rest) = rest.split_at_checked(len)?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        Some((Self { kind, flags, stream, payload }, rest))
    }
}

/// A request's fields after the first: all of them from the tables (RFC 7541 section 6.1), as
/// browsers send them. The dynamic table begins at 62, its newest entry first.
const FIELDS: [u8; 6] = [0x83, 0x87, 0xc1, 0xc0, 0xbf, 0xbe];

/// The first request's fields: POST, https, and four that enter the dynamic table
/// (RFC 7541 section 6.2.1) under names of the static one.
fn first_fields() -> Vec<u8> {
    let mut fields = vec![0x83, 0x87];
    let media = "application/dns-message";
    for (name, value) in [(1, NAME), (4, PATH), (31, media), (19, media)] {
        fields.extend([0x40 | name, value.len() as u8]);
        fields.extend_from_slice(value.as_bytes());
    }
    fields
}

/// Whether the first field is `:status: 200`; updates of the table's size may stand before it.
fn status_is_ok(block: &[u8]) -> bool {
    block.iter().find(|&&octet| octet & 0xe0 != 0x20) == Some(&OK)
}

fn is_ours(message: &[u8]) -> bool {
    message.starts_with(&[0, 0])
}
