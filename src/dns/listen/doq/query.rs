//! One stream: a query, and the answer to it (RFC 9250 section 4.2).

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, WriteError};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::{Code, End};
use crate::dns::Client;
use crate::dns::listen::{CountPanic, NoAnswer, Place, Quick, Shared, count, kibibytes};
use crate::wire::{Header, Query, flags};

/// Room for most queries and answers.
const ROOM: usize = 512;
/// Queries longer than this count in the bound on what is being received.
const SHORT: usize = 1024;

/// Answers the query of one stream. An error ends the connection.
pub(super) async fn serve(
    mut send: SendStream,
    mut recv: RecvStream,
    client: Client,
    shared: Arc<Shared>,
) -> Result<(), End> {
    match exchange(&mut send, &mut recv, client, &shared).await {
        Ok(()) => Ok(()),
        Err(Halt::Connection(end)) => Err(end),
        Err(Halt::Stream(code)) => {
            // Nobody is told on a connection that is lost.
            let _ = send.reset(code.into());
            Ok(())
        }
    }
}

/// Why a query has no answer.
enum Halt {
    /// The connection has to end.
    Connection(End),
    /// The connection goes on.
    Stream(Code),
}

async fn exchange(
    send: &mut SendStream,
    recv: &mut RecvStream,
    client: Client,
    shared: &Shared,
) -> Result<(), Halt> {
    let mut reading = pin!(read(recv, shared));
    let octets = tokio::select! {
        biased;
        octets = reading.as_mut() => octets?,
        // Queries come in one piece, unless they are long or a packet was lost.
        () = ready(()) => {
            let _room = room_for(0, shared)?;
            timeout(shared.limits.message, reading).await.unwrap_or_else(|_| {
                count(&shared.counters.cut);
                Err(breach("the query takes too long"))
            })?
        }
    };
    let client = Client { arrived: shared.clock.mono(), ..client };
    let query = message(&octets).map_err(breach)?;
    let (answer, _room) = tokio::select! {
        // In this order, so that what is known is answered at once.
        biased;
        answered = answer(query, client, shared) => answered.map_err(Halt::Stream)?,
        // The client does not want it any more (RFC 9250 section 4.3.1).
        _ = send.stopped() => return Err(Halt::Stream(Code::RequestCancelled)),
    };
    // An error is a client that has gone, or takes no answer.
    let written = timeout(shared.limits.write, write(send, answer)).await;
    written.map(drop).map_err(|_| {
        count(&shared.counters.cut);
        Halt::Connection(End { code: Code::Unspecified, why: "the answer is not taken" })
    })
}

/// Reads a stream to its end.
async fn read(recv: &mut RecvStream, shared: &Shared) -> Result<Vec<u8>, Halt> {
    let mut octets = Vec::with_capacity(ROOM);
    let mut room = None;
    loop {
        match recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => octets.extend_from_slice(&chunk.bytes),
            Ok(None) => return Ok(octets),
            // Given up by the client, or lost with the connection.
            Err(_) => return Err(Halt::Stream(Code::RequestCancelled)),
        }
        let Some((len, rest)) = octets.split_first_chunk() else { continue };
        let len = usize::from(u16::from_be_bytes(*len));
        if rest.len() > len {
            return Err(breach(MORE));
        }
        if len > SHORT && room.is_none() {
            room = Some(room_for(len, shared)?);
        }
    }
}

/// Room for `len` octets of a query that is being received.
fn room_for(len: usize, shared: &Shared) -> Result<SemaphorePermit<'_>, Halt> {
    let kibibytes = u32::try_from(kibibytes(len)).unwrap_or(u32::MAX);
    let room = shared.bodies.try_acquire_many(kibibytes);
    room.map_err(|_| Halt::Stream(Code::ExcessiveLoad))
}

const MORE: &str = "more than one query on a stream";

/// The query in a stream that has ended, or what is wrong with it (RFC 9250 section 4.3.3).
fn message(octets: &[u8]) -> Result<&[u8], &'static str> {
    let (len, message) = octets.split_first_chunk().ok_or("a stream without a query")?;
    let len = usize::from(u16::from_be_bytes(*len));
    if message.len() < len {
        return Err("the stream ends within its query");
    }
    if message.len() > len {
        return Err(MORE);
    }
    let header = Header::read(message).ok_or("the query is shorter than a header")?;
    if header.id != 0 {
        return Err("the message id is not zero");
    }
    if header.has(flags::QR) {
        return Err("a response in place of a query");
    }
    if Query::parse(message).is_ok_and(|query| query.edns.is_some_and(|edns| edns.keepalive)) {
        return Err("the edns-tcp-keepalive option is for TCP");
    }
    Ok(message)
}

/// The answer behind its length, and the place among those that wait, if it had to.
async fn answer(
    query: &[u8],
    client: Client,
    shared: &Shared,
) -> Result<(Bytes, Option<Place>), Code> {
    let mut reply = Vec::with_capacity(ROOM);
    match quick(query, &client, shared, &mut reply) {
        Quick::Reply(origin) => {
            shared.answered(origin, &client);
            Ok((framed(&reply), None))
        }
        Quick::Drop => {
            count(&shared.counters.dropped);
            Err(Code::Unspecified)
        }
        Quick::Slow => {
            let Some(place) = shared.enter(query, &client, &mut reply) else {
                return Ok((framed(&reply), None));
            };
            match shared.ask(query.to_vec(), client, &place).await {
                Ok(answer) => Ok((framed(&answer), Some(place))),
                Err(NoAnswer::Dropped) => Err(Code::Unspecified),
                Err(NoAnswer::Late) => Err(Code::Internal),
                Err(NoAnswer::Shed) => Err(Code::ExcessiveLoad),
            }
        }
    }
}

fn quick(query: &[u8], client: &Client, shared: &Shared, reply: &mut Vec<u8>) -> Quick {
    let _count = CountPanic(&shared.counters.panics);
    count(shared.counters.doq.of(client.address.ip()));
    shared.answer.quick(query, client, None, reply)
}

fn framed(answer: &[u8]) -> Bytes {
    let len = u16::try_from(answer.len()).unwrap_or(u16::MAX);
    let answer = &answer[..usize::from(len)];
    [&len.to_be_bytes(), answer].concat().into()
}

/// Sends the answer and the stream's end, and waits until the client has all of it.
async fn write(send: &mut SendStream, answer: Bytes) -> Result<(), WriteError> {
    send.write_chunk(answer).await?;
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

const fn breach(why: &'static str) -> Halt {
    Halt::Connection(End { code: Code::Protocol, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_stands_behind_its_length() {
        let query = query(0, &[]);

        assert_eq!(message(&framed(&query)), Ok(&query[..]));
    }

    #[test]
    fn a_stream_holds_one_query_and_the_whole_of_it() {
        let stream = framed(&query(0, &[]));

        for cut in 0..stream.len() {
            assert!(message(&stream[..cut]).is_err(), "{cut} octets");
        }
        assert_eq!(message(&[&stream[..], &stream].concat()), Err(MORE));
        assert_eq!(message(&[&stream[..], b"x"].concat()), Err(MORE));
        assert!(message(&framed(b"short")).is_err());
    }

    #[test]
    fn what_belongs_to_other_transports_is_a_breach() {
        let keepalive: &[u8] = b"\0\0\x29\x10\0\0\0\0\0\0\x10\0\x0a\0\x08a cookie\0\x0b\0\0";
        let cookie: &[u8] = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08\0\x0b\0\0more";
        let mut response = query(0, &[]);
        response[2] |= 0x80;

        assert!(message(&framed(&query(7, &[]))).unwrap_err().contains("id"));
        assert!(message(&framed(&query(0, keepalive))).unwrap_err().contains("keepalive"));
        assert!(message(&framed(&query(0, cookie))).is_ok());
        assert!(message(&framed(&response)).is_err());
    }

    /// `a. A IN` with an OPT record, if there is one.
    fn query(id: u16, opt: &[u8]) -> Vec<u8> {
        let additional = u8::from(!opt.is_empty());
        let head = [0, 0, 1, 0, 0, 0, 0, 0, additional];
        let mut query = [&id.to_be_bytes()[..], &[1], &head, b"\x01a\0\0\x01\0\x01", opt].concat();
        query.truncate(12 + 7 + opt.len());
        query
    }
}
