//! The stories, and what is recorded of each: frequencies of the oscillator, and delays of every link.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::iter::Cycle;
use std::ops::Range;
use std::path::Path;
use std::vec;

use firstlight::clock::Nanos;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// How far the clock is ahead at the start.
pub(crate) const OFF: Nanos = 20_000_000;
/// Time servers, which tell the truth.
pub(crate) const SERVERS: usize = 5;
/// What the oscillator is off at the start.
const FREQUENCY: f64 = 20e-6;
/// Packets on each link before its delays repeat.
const PACKETS: usize = 20_011;

#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) words: &'static str,
    /// Each way, in seconds: evenly between `delay - spread` and `delay + spread`.
    delay: f64,
    spread: f64,
    /// Whether the servers are on the LAN, where the daemon may ask more often at first.
    pub(crate) private: bool,
    /// Standard deviation of the step that the oscillator's frequency takes each second.
    wander: f64,
    pub(crate) seconds: u64,
    /// No packet passes between these seconds.
    pub(crate) lost: Range<u64>,
    queue: Option<Queue>,
    pub(crate) seeds: u64,
}

/// A queue before the way back, the same for all servers: it grows and shrinks evenly, again and again.
#[derive(Debug)]
struct Queue {
    period: f64,
    /// When in each period it is longest.
    peak: f64,
    /// How long it grows, and how long it shrinks.
    half: f64,
    /// What it adds at most, in seconds.
    most: f64,
}

const WAN: Story = Story {
    name: "wan",
    words: "WAN, half an hour",
    delay: 0.010,
    spread: 0.0025,
    private: false,
    wander: 1e-9,
    seconds: 1800,
    lost: 0..0,
    queue: None,
    seeds: 20,
};

pub(crate) const STORIES: [Story; 7] = [
    WAN,
    Story {
        name: "lan",
        words: "LAN, half an hour",
        delay: 0.000_15,
        spread: 0.000_05,
        private: true,
        ..WAN
    },
    Story { name: "loss", words: "WAN, ten minutes' loss", seconds: 5400, lost: 3600..4200, ..WAN },
    Story {
        name: "queues",
        words: "WAN, queues of 20 min",
        seconds: 14_400,
        queue: Some(Queue { period: 3600.0, peak: 2400.0, half: 600.0, most: 0.040 }),
        ..WAN
    },
    Story {
        name: "evenings",
        words: "WAN, queues of 3 h",
        seconds: 43_200,
        queue: Some(Queue { period: 21_600.0, peak: 9000.0, half: 5400.0, most: 0.040 }),
        ..WAN
    },
    Story { name: "week", words: "WAN, seven days", seconds: 604_800, seeds: 5, ..WAN },
    Story {
        name: "restless",
        words: "WAN, seven days, restless",
        wander: 1e-8,
        seconds: 604_800,
        seeds: 5,
        ..WAN
    },
];

impl Story {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        STORIES.iter().find(|story| story.name == name)
    }

    /// Writes the traces, and the configuration with which clknetsim follows them as `conf`.
    pub(crate) fn record(&self, seed: u64, folder: &Path) -> io::Result<()> {
        let random = |trace: u64| StdRng::seed_from_u64(seed * 100 + trace);
        let mut oscillator = random(0);
        let mut frequency = FREQUENCY;
        let mut lines = String::new();
        for _ in 0..self.seconds {
            let _ = writeln!(lines, "{frequency:.12e}");
            // The sum of twelve is near enough to a normal distribution of deviation 1.
            let step = (0..12).map(|_| oscillator.random_range(-0.5..0.5)).sum::<f64>();
            frequency += self.wander * step;
        }
        fs::write(folder.join("freq"), lines)?;

        let at = |name: &str| folder.join(name).display().to_string();
        let client = SERVERS + 1;
        let mut conf = format!(
            "node{client}_freq = (file \"{}\")\nnode{client}_offset = {}\n",
            at("freq"),
            OFF as f64 / 1e9,
        );
        let half = (self.lost.end - self.lost.start) / 2;
        let loss = match half {
            0 => String::new(),
            _ => format!("(* -10 (equal {half} time {}))", self.lost.start + half),
        };
        let queue = self.queue.as_ref().map_or_else(String::new, Queue::expression);
        for server in 1..=SERVERS {
            let (out, back) = (format!("out{server}"), format!("back{server}"));
            for (name, trace) in [(&out, 2 * server), (&back, 2 * server + 1)] {
                let mut random = random(trace as u64);
                let mut delay = || self.delay + self.spread * random.random_range(-1.0..1.0);
                let lines: Vec<_> = (0..PACKETS).map(|_| format!("{:.9}", delay())).collect();
                fs::write(folder.join(name), lines.join("\n") + "\n")?;
            }
            let _ = writeln!(
                conf,
                "node{server}_freq = 0\n\
                 node{client}_delay{server} = (+ (file \"{}\") {loss})\n\
                 node{server}_delay{client} = (+ (file \"{}\") {queue} {loss})",
                at(&out),
                at(&back),
            );
        }
        fs::write(folder.join("conf"), conf)
    }

    /// What the queue adds to the way back of a packet that leaves at `truth`, in nanoseconds.
    pub(crate) fn queued(&self, truth: u64) -> u64 {
        self.queue.as_ref().map_or(0, |queue| (queue.at(truth as f64 / 1e9) * 1e9) as u64)
    }
}

impl Queue {
    fn at(&self, time: f64) -> f64 {
        let away = (time % self.period - self.peak).abs();
        (self.most - away * self.most / self.half).max(0.0)
    }

    /// The same in clknetsim's language, which knows no absolute value.
    fn expression(&self) -> String {
        let Self { period, peak, half, most } = self;
        let time = format!("(% time {period})");
        let slope = -most / half;
        format!("(max 0 (+ {most} (* {slope} (max (+ {time} -{peak}) (+ {peak} (* -1 {time}))))))")
    }
}

/// The delays of one server's links, in nanoseconds, packet by packet.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) out: Cycle<vec::IntoIter<u64>>,
    pub(crate) back: Cycle<vec::IntoIter<u64>>,
}

impl Link {
    pub(crate) fn read(folder: &Path, server: usize) -> Self {
        let delays = |name: String| {
            let seconds = read(&folder.join(name));
            seconds.into_iter().map(|delay| (delay * 1e9) as u64).collect::<Vec<_>>()
        };
        Self {
            out: delays(format!("out{}", server + 1)).into_iter().cycle(),
            back: delays(format!("back{}", server + 1)).into_iter().cycle(),
        }
    }
}

/// The numbers in a file.
pub(crate) fn read(file: &Path) -> Vec<f64> {
    let text = fs::read_to_string(file).unwrap();
    text.split_whitespace().map(|value| value.parse().unwrap()).collect()
}
