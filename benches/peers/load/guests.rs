//! Clients that come for one question: a connection, a full TLS handshake, an answer, and away.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::framed::{first, put};
use super::{Outcome, PATIENCE, Slot, Stream, wait_for};
use crate::questions::Questions;

/// The id of every guest's one question.
const ID: u16 = 0x2711;

/// Lets `number` guests be there at any moment, for `time`.
pub(crate) fn guests(
    server: SocketAddr,
    tls: &Arc<ClientConfig>,
    questions: &mut Questions<'_>,
    number: usize,
    time: Duration,
) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut guests: Vec<Guest> = Vec::new();
    let begun = Instant::now();
    loop {
        let open = begun.elapsed() < time;
        while open && guests.len() < number {
            guests.push(Guest::come(server, tls)?);
        }
        if guests.is_empty() {
            break;
        }
        wait_for(guests.iter().map(|guest| guest.stream.as_fd()), Duration::from_millis(100))?;
        let mut staying = Vec::new();
        for mut guest in guests {
            match guest.go_on(questions) {
                Ok(false) if guest.slot.asked.elapsed() < PATIENCE => staying.push(guest),
                Ok(false) | Err(_) => outcome.lost += 1,
                Ok(true) => {
                    let (_, rest) = guest.answer.split_at(2);
                    outcome.judge(Some(rest), &guest.slot, Instant::now());
                    guest.stream.close();
                }
            }
        }
        guests = staying;
    }
    outcome.elapsed = begun.elapsed();
    outcome.latencies.sort_by(f64::total_cmp);
    Ok(outcome)
}

struct Guest {
    stream: Stream,
    /// Since when it is there, and what it expects.
    slot: Slot,
    has_asked: bool,
    answer: Vec<u8>,
}

impl Guest {
    fn come(server: SocketAddr, tls: &Arc<ClientConfig>) -> io::Result<Self> {
        let asked = Instant::now();
        let mut stream = Stream::tls(server, tls, b"dot")?;
        stream.flush()?;
        let slot = Slot { token: ID, asked, rcode: 0 };
        Ok(Self { stream, slot, has_asked: false, answer: Vec::new() })
    }

    /// Does what can be done without waiting. Returns whether the answer is there.
    fn go_on(&mut self, questions: &mut Questions<'_>) -> io::Result<bool> {
        let open = self.stream.read(&mut self.answer)?;
        if !self.has_asked && !self.stream.is_handshaking() {
            self.has_asked = true;
            if let Some(question) = questions.next() {
                self.slot.rcode = question.rcode;
                put(&mut self.stream, ID, question.octets);
            }
        }
        self.stream.flush()?;
        let done = first(&self.answer).is_some();
        if !open && !done {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(done)
    }
}
