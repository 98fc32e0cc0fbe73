//! The daemon's time engine beside chronyd, along the same traces: `benches/chrony-traces`.
//!
//! * `traces stories` lists the stories: name, seconds, seeds.
//! * `traces record STORY SEED FOLDER` makes the traces of one play, and the configuration with which
//!   clknetsim follows them.
//! * `traces steer STORY FOLDER` has the engine follow them, and writes how far the clock is ahead of the
//!   truth, in seconds, a line for each second.
//! * `traces score FOLDER` makes the table of all plays: of each FOLDER/STORY/SEED/WHO.
#![expect(clippy::unwrap_used, reason = "a benchmark")]
#![expect(clippy::print_stdout, reason = "its output")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "nanoseconds of a simulation"
)]

mod daemon;
mod oscillator;
mod score;
mod trace;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::env;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firstlight::clock::{Reading, SourceId};
use firstlight::node::ports::Clock as _;

use daemon::{Daemon, Question};
use oscillator::Oscillator;
use trace::{Link, SERVERS, STORIES, Story};

const SECOND: u64 = 1_000_000_000;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["stories"] => {
            for story in &STORIES {
                println!("{} {} {}", story.name, story.seconds, story.seeds);
            }
        }
        ["record", story, seed, folder] => {
            Story::named(story).unwrap().record(seed.parse().unwrap(), Path::new(folder))?;
        }
        ["steer", story, folder] => {
            World::new(Story::named(story).unwrap(), Path::new(folder)).steer()?;
        }
        ["score", folder] => score::table(Path::new(folder)),
        _ => println!(
            "usage: traces stories | record STORY SEED FOLDER | steer STORY FOLDER | score FOLDER"
        ),
    }
    Ok(())
}

/// The truth, the clock, the servers, and the daemon that steers by them.
struct World {
    story: &'static Story,
    clock: Arc<Oscillator>,
    daemon: Daemon,
    links: Vec<Link>,
    /// Questions under way, by the true time of their end.
    under_way: BinaryHeap<Reverse<Flight>>,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Flight {
    end: u64,
    source: usize,
    sent: Instant,
    /// When the server answered; `None` if the question or its answer is lost.
    answered: Option<u64>,
}

impl World {
    fn new(story: &'static Story, folder: &Path) -> Self {
        let clock = Arc::new(Oscillator::new(trace::read(&folder.join("freq"))));
        Self {
            story,
            daemon: Daemon::new(Arc::clone(&clock), story.private),
            clock,
            links: (0..SERVERS).map(|server| Link::read(folder, server)).collect(),
            under_way: BinaryHeap::new(),
        }
    }

    fn steer(mut self) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for second in 0..self.story.seconds {
            self.run_until(second * SECOND);
            writeln!(out, "{:.9}", self.clock.error())?;
        }
        out.flush()
    }

    fn run_until(&mut self, end: u64) {
        loop {
            let wake = self.clock.truth_of(self.daemon.next_wake());
            let heard = self.under_way.peek().map_or(u64::MAX, |Reverse(flight)| flight.end);
            let next = wake.min(heard);
            if next > end {
                break;
            }
            self.clock.pass_until(next);
            let questions = if heard == next { self.land() } else { self.daemon.wake() };
            for question in questions {
                self.ask(&question);
            }
        }
        self.clock.pass_until(end);
    }

    fn ask(&mut self, question: &Question) {
        let source = question.source.0;
        let sent = self.clock.truth();
        let link = &mut self.links[source];
        // A packet that is lost takes its delay with it, as in clknetsim.
        let lost = |at: u64| self.story.lost.contains(&(at / SECOND));
        let there = sent + link.out.next().unwrap();
        let back = if lost(sent) { 0 } else { link.back.next().unwrap() };
        let home = there + back + self.story.queued(there);
        let patience = sent + question.patience.as_nanos() as u64;
        let heard = !lost(sent) && !lost(there) && home < patience;
        self.under_way.push(Reverse(Flight {
            end: if heard { home } else { patience },
            source,
            sent: self.clock.mono(),
            answered: heard.then_some(there),
        }));
    }

    fn land(&mut self) -> Vec<Question> {
        let Some(Reverse(flight)) = self.under_way.pop() else { return Vec::new() };
        let reading = flight.answered.map(|answered| {
            let delay = self.clock.mono() - flight.sent;
            Reading {
                at: flight.sent + delay / 2,
                utc: Oscillator::utc_of(answered),
                delay,
                error: delay / 2,
                stratum: 1,
                reference_id: [192, 0, 2, flight.source as u8],
                leap: 0,
                root_delay: Duration::ZERO,
                root_dispersion: Duration::from_micros(1),
                precision: -23,
            }
        });
        self.daemon.hear(SourceId(flight.source), reading)
    }
}
