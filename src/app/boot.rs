//! What is known before the first socket opens: configuration, state, floor, guess, clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::Options;
use super::issuing::Archive;
use super::keep::Keeper;
use super::nts;
use super::renumber::Addresses;
use super::runtime_folder;
use crate::clock::{
    Floor, Guess, Now, Policy, Resumed, SavedFloor, SourceKind, SourceSpec, Trust, UnixTime,
    describe, magnitude, nanos,
};
use crate::config::{ClockMode, Config, Parsed, Report};
use crate::host::boot::{boot_id, build_epoch, marks, since_boot};
use crate::host::clock::MachineClock;
use crate::host::config_file::{self, LoadError};
use crate::host::kernel::{KernelClock, OsClock};
use crate::host::state::{StateDir, StateError};
use crate::node::ports::{Clock, Steer};
use crate::ntp::nts::cookies::CookieKeys;
use crate::tls::CertStore;
use crate::witness;

/// Names of the values in the state directory.
const FLOOR: &str = "floor";
const CONFIG: &str = "config";
const ADDRESSES: &str = "addresses";
const NTS_SESSIONS: &str = "nts-sessions";
const NTS_COOKIES: &str = "nts-cookies";
/// Name of the value in the runtime directory.
const TIME: &str = "time";

/// A steered clock and the time kept of it differ by no more: else another clock was served.
const SAME_CLOCK: Duration = Duration::from_millis(5);
/// The drift assumed between the last word on time and a restart.
const DRIFT_PPM: f64 = 15.0;

/// Everything known before the first socket opens.
#[derive(Debug)]
pub(super) struct Boot {
    /// As it was read at the start.
    pub(super) config: Config,
    /// As it was read last.
    pub(super) in_force: ArcSwap<Config>,
    /// Where named upstreams and sources were found when the time was last verified.
    pub(super) addresses: Addresses,
    /// Where the configuration in force comes from.
    pub(super) origin: String,
    pub(super) state: Arc<StateDir>,
    pub(super) runtime: Arc<StateDir>,
    archive: OnceLock<Arc<Archive>>,
    pub(super) clock: Arc<MachineClock>,
    pub(super) guess: Guess,
    pub(super) started: Instant,
    pub(super) keeper: std::sync::Mutex<Keeper>,
    /// Whether the configuration in the file could not be used.
    pub(super) unusable: Option<String>,
    warnings: Option<Report>,
    failures: Vec<StateError>,
}

/// Why there is no boot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(
        "error: --start would move this machine's clock\n   = help: write clock.mode = \"observe\""
    )]
    Start,
}

/// The last configuration that worked.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Kept {
    path: PathBuf,
    text: String,
}

/// What a later process of this boot may know of time.
#[derive(Debug, Deserialize, Serialize)]
struct KeptTime {
    boot_id: String,
    /// Time since boot, in nanoseconds.
    boot_time: u64,
    /// UTC at that moment, in nanoseconds since the epoch.
    utc: i64,
    /// Error bound then, in nanoseconds.
    error: u64,
    verified: bool,
    stratum: u8,
    reference_id: [u8; 4],
    root_delay: u64,
    frequency: f64,
}

impl Boot {
    /// Reads the configuration, or the last one that worked, and finds the best guess at the time.
    ///
    /// # Errors
    ///
    /// The report on a configuration that cannot be used, when none has ever worked; or a clock
    /// that is to start somewhere and to be steered.
    pub(super) fn new(options: &Options) -> Result<Self, Refusal> {
        let (parsed, origin, unusable) = load(options.config.as_deref())?;
        let Parsed { config, warnings, .. } = parsed;
        if options.start.is_some() && config.clock.mode == ClockMode::Steer {
            return Err(Refusal::Start);
        }
        let (state, failure) = StateDir::open(&config.state.directory);
        let mut failures: Vec<_> = failure.into_iter().collect();
        let folder = runtime_folder(&config);
        let state = Arc::new(state);
        let runtime = if folder == config.state.directory {
            Arc::clone(&state)
        } else {
            Arc::new(StateDir::open(folder).0)
        };
        if options.start.is_some() {
            // What an earlier process knew of time was another clock's.
            failures.extend(runtime.write_json(TIME, &None::<KeptTime>).err());
        }

        let kernel = Arc::new(KernelClock);
        let saved = take(state.read_json(FLOOR), &mut failures);
        let addresses = take(state.read_json(ADDRESSES), &mut failures).unwrap_or_default();
        let now = kernel.mono();
        let floor = Floor::new(build_epoch(), saved).at(now);
        let archive = OnceLock::new();
        let mut bounds = bounds(&config);
        if config.acme.is_some() {
            let kept = archive.get_or_init(|| Arc::new(Archive::open(&state)));
            bounds.extend(kept.newest().map(|time| (time, "our own certificate".to_owned())));
        }
        let guess = Guess::new(floor, bounds, kernel.utc());
        let resumed = take(runtime.read_json(TIME), &mut failures)
            .flatten()
            .and_then(|kept| resume(&kept, config.clock.mode));
        let start = resumed.as_ref().map_or(guess.time, |(utc, ..)| *utc);
        let machine = kernel.utc();
        let steered = config.clock.mode == ClockMode::Steer;
        let same = resumed.is_some() && magnitude(machine.since(start)) < SAME_CLOCK;
        let start = if steered && same { machine } else { start };
        let clock =
            Arc::new(MachineClock::new(config.clock.mode, options.start.unwrap_or(start), kernel));
        if let Some((_, _, frequency)) = resumed {
            clock.set_frequency(frequency);
        } else if let Some(by) = clock.move_os_forward_to(guess.time) {
            info!(by = describe(by), guess = %guess.time, origin = guess.origin, "the machine's clock is moved forward to a guess; it is not trusted");
        }
        let boot = Self {
            archive,
            in_force: ArcSwap::from_pointee(config.clone()),
            config,
            addresses,
            origin,
            state,
            runtime,
            started: clock.mono(),
            clock,
            guess,
            keeper: std::sync::Mutex::new(Keeper::start()),
            unusable,
            warnings: Some(warnings).filter(|report| !report.problems().is_empty()),
            failures,
        };
        if boot.unusable.is_none() {
            let text = match (&boot.warnings, &options.config) {
                (Some(report), _) => Some((report.file().to_owned(), report.text().to_owned())),
                (None, Some(file)) => {
                    fs::read_to_string(file).ok().map(|text| (file.clone(), text))
                }
                (None, None) => None,
            };
            if let Some((path, text)) = text {
                boot.keep_config(path, text);
            }
        }
        Ok(boot)
    }

    /// Logs what a person should know of the start.
    pub(super) fn tell(&self) {
        if let Some(report) = &self.unusable {
            error!("{report}");
            error!(
                running = self.origin,
                "the configuration cannot be used; the last one that worked runs instead"
            );
        }
        if let Some(report) = &self.warnings {
            warn!("{report}");
        }
        for failure in &self.failures {
            warn!(%failure, "state");
        }
        if let Some(refusal) = self.clock.refusal() {
            warn!(%refusal, "the machine's clock cannot be steered (CAP_SYS_TIME); a software clock serves names, certificates and NTP clients all the same");
        }
        info!(
            version = env!("CARGO_PKG_VERSION"),
            configuration = self.origin,
            guess = %self.guess.time,
            from = self.guess.origin,
            mode = ?self.clock.mode(),
            "firstlight starts"
        );
    }

    /// A trust machine for `config`, on what is known at this moment.
    pub(super) fn trust(&self, config: &Config) -> Trust {
        let saved = self.state.read_json::<SavedFloor>(FLOOR).ok().flatten();
        let floor = Floor::new(build_epoch(), saved);
        let resumed = self
            .runtime
            .read_json(TIME)
            .ok()
            .flatten()
            .flatten()
            .and_then(|kept| resume(&kept, config.clock.mode));
        let resumed = resumed.map(|(_, resumed, _)| resumed);
        Trust::new(policy(config), floor, resumed, self.now())
    }

    /// A trust machine for a `config` with other sources, on what the one before it knew.
    pub(super) fn succeed(&self, before: &Trust, config: &Config) -> Trust {
        let now = self.now();
        let saved = before
            .floor_to_save(now.mono)
            .or_else(|| self.state.read_json::<SavedFloor>(FLOOR).ok().flatten());
        let floor = Floor::new(build_epoch(), saved);
        Trust::new(policy(config), floor, before.to_resume(now), now)
    }

    /// Both clocks.
    pub(super) fn now(&self) -> Now {
        let mono = self.clock.mono();
        Now { mono, utc: self.clock.utc_at(mono) }
    }

    /// What is kept of certificate authorities.
    pub(super) fn archive(&self) -> &Arc<Archive> {
        self.archive.get_or_init(|| Arc::new(Archive::open(&self.state)))
    }

    pub(super) fn keep_floor(&self, floor: SavedFloor) {
        self.keep(&self.state, FLOOR, &floor);
    }

    /// Keeps what a later process of this boot may know of time.
    pub(super) fn keep_time(&self, known: &Resumed) {
        let (Ok(boot_id), Ok(boot_time)) = (boot_id(), since_boot()) else { return };
        let small = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let kept = KeptTime {
            boot_id,
            boot_time: small(boot_time),
            utc: i64::try_from(self.clock.utc().nanos()).unwrap_or(i64::MAX),
            error: small(known.error),
            verified: known.verified,
            stratum: known.stratum,
            reference_id: known.reference_id,
            root_delay: small(known.root_delay),
            frequency: self.clock.frequency(),
        };
        self.keep(&self.runtime, TIME, &kept);
    }

    /// Forgets what was kept of time: the clock has been found wrong.
    pub(super) fn forget_time(&self) {
        self.keep(&self.runtime, TIME, &None::<KeptTime>);
    }

    /// Keeps a configuration that works, in case the next one does not.
    pub(super) fn keep_config(&self, path: PathBuf, text: String) {
        let kept = Kept { path, text };
        // The same again would only wear the disk down.
        if self.state.read_json::<Kept>(CONFIG).ok().flatten().as_ref() != Some(&kept) {
            self.keep(&self.state, CONFIG, &kept);
        }
    }

    pub(super) fn keep_addresses(&self, addresses: &Addresses) {
        self.keep(&self.state, ADDRESSES, addresses);
    }

    /// Keys and cookies for sources under NTS.
    pub(super) fn nts_sessions(&self) -> nts::Kept {
        self.recall(NTS_SESSIONS).unwrap_or_default()
    }

    pub(super) fn keep_nts_sessions(&self, sessions: &nts::Kept) {
        self.keep(&self.state, NTS_SESSIONS, sessions);
    }

    /// Keys of the cookies that our clients hold.
    pub(super) fn nts_cookies(&self) -> Option<CookieKeys> {
        self.recall(NTS_COOKIES)
    }

    pub(super) fn keep_nts_cookies(&self, keys: &CookieKeys) {
        self.keep(&self.state, NTS_COOKIES, keys);
    }

    /// A value of the state directory; one that cannot be read is told, and made anew.
    fn recall<T: DeserializeOwned>(&self, name: &'static str) -> Option<T> {
        self.state.read_json(name).inspect_err(|failure| warn!(%failure, "state")).ok().flatten()
    }

    pub(super) fn finish(&self) {
        if let Ok(mut keeper) = self.keeper.lock() {
            keeper.finish();
        }
    }

    fn keep<T: Serialize>(&self, state: &Arc<StateDir>, name: &'static str, value: &T) {
        if let Ok(keeper) = self.keeper.lock() {
            keeper.keep(state, name, value);
        }
    }
}

/// What `config` decides about time.
pub(super) fn policy(config: &Config) -> Policy {
    let mut operators: Vec<_> = config.upstreams.iter().map(|u| u.operator.as_str()).collect();
    operators.sort_unstable();
    operators.dedup();
    let sources = config.clock.sources.iter().map(|source| SourceSpec {
        operator: source.operator.clone(),
        private: is_private(source.address.ip()),
        prefer: source.prefer,
        trust: source.trust,
        noselect: source.noselect,
        polls: source.polls,
        ..SourceSpec::default()
    });
    let refclocks = config.clock.refclocks.iter().map(|refclock| SourceSpec {
        operator: refclock.operator.clone(),
        private: true,
        prefer: refclock.prefer,
        trust: refclock.trust,
        kind: if refclock.pulse { SourceKind::Pulse } else { SourceKind::ReferenceClock },
        ..SourceSpec::default()
    });
    let members = config.clock.pools.iter().flat_map(|pool| {
        let place = SourceSpec {
            operator: pool.operator.clone(),
            noselect: pool.noselect,
            polls: pool.polls,
            member: true,
            ..SourceSpec::default()
        };
        std::iter::repeat_n(place, pool.count)
    });
    let targets = witness::targets(&config.clock.witnesses, &config.upstreams);
    // Under NTS a source's time is authenticated; so it bears witness, too.
    let protected = config.clock.sources.iter().filter(|source| source.nts.is_some());
    let protected = protected.map(|source| source.operator.clone());
    Policy {
        quorum: config.clock.quorum,
        sources: sources.chain(refclocks).chain(members).collect(),
        witnesses: targets.into_iter().map(|target| target.operator).chain(protected).collect(),
        upstream_operators: operators.len(),
        holdover: config.clock.holdover,
    }
}

/// On the LAN, or this machine.
fn is_private(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        std::net::IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
        }
    }
}

/// The configuration, where it comes from, and what was wrong with the one that should run.
fn load(file: Option<&Path>) -> Result<(Parsed, String, Option<String>), LoadError> {
    let refusal = match config_file::load(file) {
        Ok(parsed) => {
            let origin = parsed.warnings.file().display().to_string();
            return Ok((parsed, origin, None));
        }
        Err(refusal) => refusal,
    };
    let path = file.unwrap_or(Path::new(config_file::DEFAULT_FILE));
    let text = fs::read_to_string(path).unwrap_or_default();
    let (state, _) = StateDir::open(Config::state_directory(&text, path));
    let kept = state.read_json::<Kept>(CONFIG).ok().flatten();
    match kept.and_then(|kept| Config::parse(&kept.text, &kept.path).ok()) {
        Some(parsed) => {
            let origin =
                format!("the copy of {} kept in {}", path.display(), state.path().display());
            Ok((parsed, origin, Some(refusal.to_string())))
        }
        None => Err(refusal),
    }
}

/// Lower bounds of the time that nothing is refused by.
pub(crate) fn bounds(config: &Config) -> Vec<(UnixTime, String)> {
    let marks = marks().into_iter().map(|mark| (mark.time, mark.origin.to_owned()));
    let store = CertStore::of(&config.tls);
    store.poll();
    let own = store.served().and_then(|served| served.validity);
    let own = own.map(|validity| (validity.not_before, "our own certificate".to_owned()));
    marks.chain(own).collect()
}

/// The time kept by an earlier process of this boot: UTC, what it is worth, and the frequency.
fn resume(kept: &KeptTime, mode: ClockMode) -> Option<(UnixTime, Resumed, f64)> {
    if boot_id().ok()? != kept.boot_id {
        return None;
    }
    let elapsed = since_boot().ok()?.checked_sub(Duration::from_nanos(kept.boot_time))?;
    // The kernel steers the time since boot as well; a software clock has a slope of its own.
    let slope = if mode == ClockMode::Observe { kept.frequency } else { 0.0 };
    let correction = elapsed.as_secs_f64() * slope * 1e3;
    #[expect(clippy::cast_possible_truncation, reason = "at most 500 ppm of the uptime")]
    let utc =
        UnixTime::from_nanos(kept.utc.into()).offset(nanos(elapsed)).offset(correction as i128);
    let resumed = Resumed {
        error: Duration::from_nanos(kept.error) + elapsed.mul_f64(DRIFT_PPM / 1e6),
        verified: kept.verified,
        stratum: kept.stratum,
        reference_id: kept.reference_id,
        root_delay: Duration::from_nanos(kept.root_delay),
    };
    Some((utc, resumed, kept.frequency))
}

fn take<T>(read: Result<Option<T>, StateError>, failures: &mut Vec<StateError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        failures.push(error);
        None
    })
}
