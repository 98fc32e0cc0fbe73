//! The hot functions one by one: `cargo bench --bench hot`.
//!
//! Nanoseconds for a call, the median of several samples and the least. For how they add up in the
//! daemon, with the kernel, see `benches/compare`.
#![expect(clippy::print_stdout, reason = "a command, whose result is what it prints")]
#![expect(clippy::disallowed_methods, reason = "what is measured is time")]
#![expect(clippy::cast_possible_truncation, reason = "small figures")]

mod answering;

use std::hint::black_box;
use std::time::{Duration, Instant};

use answering::{Answering, question};
use firstlight::cache::Key;
use firstlight::dns::Origin;
use firstlight::dns::listen::{Answered, Latencies};
use firstlight::wire::Query;

/// Samples of each function.
const SAMPLES: usize = 15;
/// How long a sample takes at least.
const SAMPLE: Duration = Duration::from_millis(20);

fn main() {
    let mut few = Answering::new(64);
    let asked = few.questions[0].clone();
    println!("{:<52} {:>9} {:>9}", "", "median", "least");

    time("parse a question", || {
        black_box(Query::parse(black_box(&asked)).is_ok());
    });
    let query = Query::parse(&asked).expect("a question");
    let (cache, now) = (few.answerer.cache().clone(), Instant::now());
    time("look it up in the cache", || {
        black_box(cache.get(&Key::of(black_box(&query)), now));
    });
    time("the whole quick path: 64 cached names", || few.hit(1));
    for (what, name, qtype) in [
        ("the whole quick path: a local name", "pi.home.lan", 1),
        ("the whole quick path: a name that never leaves", "printer.local", 1),
        ("the whole quick path: a refusal (AXFR)", "example.com", 252),
        ("the whole quick path: not in the cache", "absent.example.com", 1),
    ] {
        let question = question(name, qtype);
        time(what, || {
            black_box(few.ask(&question));
        });
    }
    let (latencies, mut answered) = (Latencies::default(), Answered::default());
    time("take note of how long a batch of one took", || {
        answered.add(black_box(Origin::Cache));
        latencies.note(&mut answered, black_box(Duration::from_micros(30)));
    });
    // More than the processor's caches hold, in an order that it cannot foresee.
    let mut many = Answering::new(100_000);
    let questions = std::mem::take(&mut many.questions);
    let mut at = 0;
    time("the whole quick path: 100,000 cached names", || {
        at = (at + 61_803) % questions.len();
        black_box(many.ask(&questions[at]));
    });
}

/// Prints how long `call` takes.
fn time(what: &str, mut call: impl FnMut()) {
    let mut sample = |calls: u32| {
        let begun = Instant::now();
        (0..calls).for_each(|_| call());
        begun.elapsed()
    };
    let mut calls = 1;
    while sample(calls) < SAMPLE {
        calls *= 2;
    }
    let mut samples = [(); SAMPLES].map(|()| sample(calls).as_secs_f64() * 1e9 / f64::from(calls));
    samples.sort_by(f64::total_cmp);
    println!("{what:<52} {:>6.1} ns {:>6.1} ns", samples[SAMPLES / 2], samples[0]);
}
