//! The commands that `firstlight try` prints, typed as they are printed, against listeners that
//! show the fallback certificate.
//!
//! A program that is not installed is a test ignored.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use arc_swap::ArcSwap;
use firstlight::clock::NtpStatus;
use firstlight::config::{ClockMode, Config};
use firstlight::dns::listen::{ALPN_DOH, ALPN_DOQ, ALPN_DOT, Answer, Limits, Listeners, Tls};
use firstlight::host::clock::MachineClock;
use firstlight::host::kernel::{KernelClock, OsClock};
use firstlight::lab::{Files, Step, Zone, commands, household, narrate};
use firstlight::net::{DatagramListen, Listen, Threads};
use firstlight::node::ports::Clock;
use firstlight::ntp::server::TimeServer;
use firstlight::tls::{CertStore, Challenges, FallbackCa, KeyVault, server_config};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

fn main() {
    let house = Arc::new(House::new());
    let mut trials: Vec<_> = house
        .steps()
        .into_iter()
        // What answers here has no control socket.
        .filter(|step| !step.command.contains(" status "))
        .map(|step| {
            let missing = missing(&step.command);
            let name = match &missing {
                Some(program) => format!("{} ({program} is not installed)", step.shows),
                None => step.shows.to_owned(),
            };
            Trial::test(name, move || House::answers(&step)).with_ignored_flag(missing.is_some())
        })
        .collect();
    let counted = trials.len();
    trials.push(Trial::test("every service has its commands", move || {
        if counted == 9 { Ok(()) } else { Err(format!("{counted} commands").into()) }
    }));
    let shown = Arc::clone(&house);
    trials.push(Trial::test("all of them are printed", move || shown.narrates()));
    let strict = Arc::clone(&house);
    trials.push(
        Trial::test("a certificate of another name is refused", move || strict.is_not_other())
            .with_ignored_flag(missing("kdig").is_some()),
    );
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    // Exiting drops nothing.
    drop(house);
    conclusion.exit();
}

/// The listeners of a firstlight, with a fallback certificate in a folder whose name the shell
/// must not take apart.
struct House {
    config: Config,
    folder: PathBuf,
    _listeners: Listeners,
    _threads: Threads,
    _runtime: Runtime,
}

impl House {
    fn new() -> Self {
        let folder = env::temp_dir().join(format!("firstlight's lab {}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("firstlight.toml");
        let config = Config::parse(&household().unwrap(), &file).unwrap().config;
        let clock: Arc<dyn Clock> = Arc::new(MachineClock::new(
            ClockMode::Observe,
            KernelClock.utc(),
            Arc::new(KernelClock),
        ));

        let permitted = config.tls.name.parent().unwrap();
        let authority = FallbackCa::open(&NoVault, &[permitted]).unwrap();
        fs::write(folder.join("fallback-ca.pem"), authority.certificate_pem()).unwrap();
        let address = config.dot.listen[0].ip();
        let key = authority.issue(&config.tls.name, &[address], clock.utc()).unwrap();
        let store = CertStore::fixed(key);
        let present = |alpn| {
            let config = server_config(Arc::clone(&store), Arc::clone(&clock), alpn).unwrap();
            Arc::new(move || Arc::clone(&config))
        };
        let tls = Tls {
            dot: present(ALPN_DOT),
            doh: present(ALPN_DOH),
            doq: present(ALPN_DOQ),
            challenges: Challenges::new(Arc::clone(&clock)),
        };

        let runtime = Runtime::new().unwrap();
        let answer: Arc<dyn Answer> = Arc::<Zone>::default();
        let places = (&config).into();
        let listeners = Listeners::open(
            &places,
            answer,
            tls,
            Limits::default(),
            Arc::clone(&clock),
            runtime.handle(),
        );
        let status = NtpStatus {
            synchronized: true,
            stratum: 2,
            reference_id: [127, 0, 0, 11],
            root_delay: Duration::from_millis(1),
            root_dispersion: Duration::from_millis(1),
            since: clock.mono(),
            growth_ppm: 15,
            reference_time: clock.utc(),
            leap: 0,
        };
        let server = TimeServer::new(clock, Arc::new(ArcSwap::from_pointee(status)), None);
        let (_, threads) = DatagramListen::new("ntp", "ntp", Arc::new(server))
            .listen(config.ntp.listen[0])
            .unwrap();
        Self { config, folder, _listeners: listeners, _threads: threads, _runtime: runtime }
    }

    fn steps(&self) -> Vec<Step> {
        self.with_files(commands)
    }

    fn with_files<T>(&self, then: impl Fn(&Config, &Files<'_>) -> T) -> T {
        let config = self.folder.join("firstlight.toml");
        let authority = self.folder.join("fallback-ca.pem");
        let program = Path::new("firstlight");
        then(&self.config, &Files { program, config: &config, authority: &authority })
    }

    fn answers(step: &Step) -> Result<(), Failed> {
        let (succeeded, text) = typed(&step.command)?;
        let signs: &[&str] = match step.shows {
            shows if shows.starts_with("a name of your own") => &["status: ", "pi.home.lan."],
            shows if shows.starts_with("NTP") => &["System clock wrong by 0.0"],
            shows if shows.contains("QUIC") => &["QUIC session", "status: NOERROR", "192.0.2.80"],
            shows if shows.contains("curl") => &[" 192   0   2  80\n"],
            _ => &["status: NOERROR", "192.0.2.80"],
        };
        let fits = signs.iter().all(|sign| text.replace("by -0.0", "by 0.0").contains(sign));
        if succeeded && fits && !text.contains("WARNING") { Ok(()) } else { Err(text.into()) }
    }

    /// The commands do check the certificate.
    fn is_not_other(&self) -> Result<(), Failed> {
        let name = self.config.tls.name.to_string();
        for step in self.steps().iter().filter(|step| step.command.contains("+tls-hostname")) {
            let other = step.command.replace(&name, "dns.other.lan");
            let (succeeded, text) = typed(&other)?;
            if succeeded || text.contains("192.0.2.80") {
                return Err(text.into());
            }
        }
        Ok(())
    }

    fn narrates(&self) -> Result<(), Failed> {
        let text = self.with_files(narrate);
        let whole = self.steps().iter().all(|step| text.contains(&format!("\n{}\n", step.command)));
        if whole { Ok(()) } else { Err(text.into()) }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Whether the command succeeded, and what there is to read then.
fn typed(command: &str) -> io::Result<(bool, String)> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output()?;
    let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    Ok((output.status.success(), format!("{command}\n{out}{err}")))
}

/// Keeps nothing.
struct NoVault;

impl KeyVault for NoVault {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn store(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// The command's program, if there is none of that name.
fn missing(command: &str) -> Option<String> {
    let program = command.split(' ').next()?;
    let path = env::var_os("PATH")?;
    let found = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    (!found).then(|| program.to_owned())
}
