//! A stream whose octets are counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::metered::{Meter, Purpose};

/// Octets of IPv4 and TCP headers, timestamps included, to a segment.
const HEADERS: usize = 52;

/// A stream over TCP, counted with headers for every read and write as if it were a segment, for
/// that is about what whoever sends the bill counts.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    meter: Arc<Meter>,
    purpose: Purpose,
}

impl<S> Counted<S> {
    /// Counts what goes over `stream`.
    pub const fn new(stream: S, meter: Arc<Meter>, purpose: Purpose) -> Self {
        Self { stream, meter, purpose }
    }

    fn sent(&self, octets: usize) {
        self.meter.sent(self.purpose, octets + HEADERS);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            let octets = buffer.filled().len() - before;
            self.meter.received(self.purpose, octets + HEADERS);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, octets);
        if let Poll::Ready(Ok(octets)) = written {
            self.sent(octets);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, octets);
        if let Poll::Ready(Ok(octets)) = written {
            self.sent(octets);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
