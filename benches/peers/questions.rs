//! What is asked: names that the upstream knows, few of them often, and names that nobody asked yet.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::ZONE;

/// Names that are asked again and again.
const POPULAR: usize = 20_000;

/// Names that a full cache holds.
const MANY: usize = 100_000;

/// Draws before they repeat.
const DRAWS: usize = 1 << 17;

/// A question in wire form, its id being 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'q> {
    pub(crate) octets: &'q [u8],
    /// The code of the right answer. NOERROR comes with a record.
    pub(crate) rcode: u8,
}

/// Every question there is, made once.
pub(crate) struct Pool {
    questions: Vec<Vec<u8>>,
    /// Places in `questions`, as often as they are asked.
    draws: Vec<usize>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let questions = (0..MANY).map(question).collect();
        // Zipf's law: the second name is asked half as often as the first, and so on.
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=POPULAR)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        let mut random = StdRng::seed_from_u64(3);
        let mut draw = || {
            let at = random.random_range(0.0..sum);
            let rank = sums.partition_point(|&up_to| up_to < at);
            // So that neighbours in rank are not neighbours by name.
            rank * 7919 % POPULAR
        };
        let draws = (0..DRAWS).map(|_| draw()).collect();
        Self { questions, draws }
    }

    /// The popular ones, by their popularity, without end.
    pub(crate) fn popular(&self) -> Questions<'_> {
        Questions::Drawn { pool: self, at: 0 }
    }

    /// Every popular one, once.
    pub(crate) fn prime(&self) -> Questions<'_> {
        Questions::Each(self.questions[..POPULAR].iter())
    }

    /// As many as a full cache holds, each once.
    pub(crate) fn many(&self) -> (Questions<'_>, f64) {
        (Questions::Each(self.questions.iter()), MANY as f64)
    }
}

/// Questions in a row.
pub(crate) enum Questions<'p> {
    Drawn {
        pool: &'p Pool,
        at: usize,
    },
    Each(std::slice::Iter<'p, Vec<u8>>),
    /// Names that no cache has heard of.
    Unheard {
        prefix: String,
        number: u64,
        question: Vec<u8>,
    },
}

impl Questions<'_> {
    /// Names that no cache has heard of, if `prefix` was not used before.
    pub(crate) fn unheard(prefix: impl Into<String>) -> Questions<'static> {
        Questions::Unheard { prefix: prefix.into(), number: 0, question: Vec::new() }
    }

    pub(crate) fn next(&mut self) -> Option<Question<'_>> {
        let octets = match self {
            Questions::Drawn { pool, at } => {
                *at = (*at + 1) % DRAWS;
                &pool.questions[pool.draws[*at]]
            }
            Questions::Each(each) => each.next()?,
            Questions::Unheard { prefix, number, question } => {
                *number += 1;
                *question = encode(&format!("{prefix}-{number}.{ZONE}"), A);
                question
            }
        };
        Some(Question { octets, rcode: if is_absent(octets) { NXDOMAIN } else { 0 } })
    }
}

const A: u8 = 1;
const AAAA: u8 = 28;
const NXDOMAIN: u8 = 3;

/// Of ten names seven are asked for an IPv4 address, two for an IPv6 one, and one does not exist.
fn question(number: usize) -> Vec<u8> {
    match number % 10 {
        0..7 => encode(&format!("n{number}.{ZONE}"), A),
        7..9 => encode(&format!("n{number}.{ZONE}"), AAAA),
        _ => encode(&format!("n{number}.gone.{ZONE}"), A),
    }
}

fn is_absent(question: &[u8]) -> bool {
    let first_label = usize::from(question[12]);
    question[13 + first_label..].starts_with(b"\x04gone")
}

/// Class IN, recursion desired, EDNS with 1232 octets.
fn encode(name: &str, qtype: u8) -> Vec<u8> {
    let mut octets = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        octets.push(label.len() as u8);
        octets.extend_from_slice(label.as_bytes());
    }
    octets.extend([0, 0, qtype, 0, 1]);
    octets.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    octets
}
