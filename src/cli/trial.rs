//! `firstlight try`: a small world on loopback, a clock in 1970, and the healing before one's eyes.

use std::env;
use std::fmt::Display;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use tokio::runtime::{self, Runtime};

use super::exit::Failure;
use super::output::print;
use super::sources;
use crate::admin::{Request, client, report::Status};
use crate::app;
use crate::clock::UnixTime;
use crate::config::{ClockMode, Config};
use crate::host::clock::MachineClock;
use crate::host::kernel::{KernelClock, OsClock};
use crate::lab::{self, Files, World};

/// The operators of the built-in configuration, for `--real`.
const REAL: &str = include_str!("../../config/default.toml");
/// How often the daemon is asked how far it is.
const LOOK_EACH: Duration = Duration::from_millis(200);

/// How to try it.
#[derive(Args, Debug)]
pub(super) struct Try {
    /// Ask the built-in configuration's operators on the internet, instead of a world on this machine.
    #[arg(long)]
    real: bool,
}

/// Brings the world up, runs the daemon in it, and tells how to ask it things.
pub(super) fn run(how: &Try) -> Result<u8, Failure> {
    let folder = env::temp_dir().join(format!("firstlight-try-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| fail("make a folder for the trial", error))?;
    let outcome = run_in(&folder, how);
    // What is left in a temporary folder harms nobody.
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn run_in(folder: &Path, how: &Try) -> Result<u8, Failure> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| fail("start a runtime", error))?;
    let (world, text) = if how.real {
        let own = lab::household().map_err(|error| fail("find free ports", error))?;
        (None, format!("{own}\n{REAL}"))
    } else {
        let world = start_world(&runtime)?;
        let text = world.config(folder).map_err(|error| fail("write the world's files", error))?;
        (Some(world), text)
    };
    let file = folder.join("firstlight.toml");
    fs::write(&file, &text).map_err(|error| fail("write the configuration", error))?;
    let config = Config::parse(&text, &file)
        .map_err(|report| fail("use the configuration of the trial", report))?
        .config;

    if let Some(world) = &world {
        print("A small world on this machine; no internet is needed:")?;
        print(world.endpoints())?;
    }
    print("firstlight starts with its clock in 1970 (seconds since its start):\n")?;
    let place = (folder.to_owned(), file.clone());
    thread::spawn(move || guide(&config, &place.0, &place.1));
    let code = app::run(&app::Options { config: Some(file), start: Some(UnixTime::EPOCH) });
    drop(world);
    runtime.shutdown_background();
    Ok(code)
}

fn start_world(runtime: &Runtime) -> Result<World, Failure> {
    let kernel = Arc::new(KernelClock);
    let truth = MachineClock::new(ClockMode::Observe, kernel.utc(), kernel);
    let _inside = runtime.enter();
    World::start(Arc::new(truth), runtime.handle())
        .map_err(|error| fail("bring up the small world", error))
}

fn fail(what: &'static str, why: impl Display) -> Failure {
    Failure::Trial { what, why: why.to_string() }
}

/// Tells the first answer, waits until the clock is right, then prints how to ask for everything.
fn guide(config: &Config, folder: &Path, file: &Path) {
    let socket = crate::admin::path_to_call(config);
    let status = || -> Option<Status> {
        serde_json::from_value(client::call(&socket, &Request::Status).ok()?).ok()
    };
    if let Some(place) = config.dns.listen.first()
        && first_answer(*place).is_some()
        && let Some(time) = status().map(|status| status.time)
    {
        let _ = print(format!(
            "> a name is answered over an encrypted upstream; the clock shows {}, trust: {}",
            time.utc, time.level
        ));
    }
    let healed = (0..1500).any(|_| {
        thread::sleep(LOOK_EACH);
        status().is_some_and(|status| status.time.ntp.synchronized)
    });
    let asked = client::call(&socket, &Request::Sources).ok();
    let sources = asked.and_then(|value| serde_json::from_value(value).ok());
    let table = sources.map_or_else(String::new, |found| sources::view(&found));
    let files = Files {
        program: &env::current_exe().unwrap_or_else(|_| PathBuf::from("firstlight")),
        config: file,
        authority: &folder.join("state").join("fallback-ca.pem"),
    };
    let verdict = if healed {
        "Healed: the clock is disciplined, and certificate dates are checked strictly."
    } else {
        "The clock is not disciplined yet, as said above; names are served all the same."
    };
    let commands = lab::narrate(config, &files);
    // Nobody reads on: the daemon stays up all the same.
    let _ =
        print(format!("\n{verdict}\n\n{table}\n{commands}\nIt stays up until you press Ctrl-C."));
}

/// Asks for a name of the world outside until it is answered with an address, within 20 s.
fn first_answer(place: SocketAddr) -> Option<()> {
    const QUESTION: &[u8] =
        b"\x15\x15\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03com\x00\x00\x01\x00\x01";
    let socket = UdpSocket::bind((place.ip(), 0)).ok()?;
    socket.connect(place).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut reply = [0; 512];
    (0..200).find_map(|_| {
        let asked = socket.send(QUESTION).and_then(|_| socket.recv(&mut reply));
        // NOERROR, with an answer.
        if asked.is_ok_and(|len| len > 12) && reply[3] % 16 == 0 && reply[7] > 0 {
            return Some(());
        }
        thread::sleep(Duration::from_millis(5));
        None
    })
}
