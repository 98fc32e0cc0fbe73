//! The cache over a power cut: the file is the old one or the next one whatever the moment, and a
//! house without an uplink has its names back as soon as it has power.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "test code")]

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use firstlight::admin::Request;
use firstlight::admin::report;
use firstlight::cache::{Answer, Bounds, Cache, Key, Lookup, PAGE_LEN, Provenance, View, Written};
use firstlight::host::state::StateDir;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use lab::clients::ask_udp;
use lab::{DAY, Daemon, LOCAL, Lab, Resolver, eventually, find, needing, now};
use libtest_mimic::{Arguments, Trial};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The snapshot's file in the state directory.
const FILE: &str = "cache";
/// Answers in each snapshot of the writer that is killed.
const ANSWERS: u32 = 1_000;
/// This program in another part.
const WRITER: &str = "write-for-ever";
const OFFLINE: &str = "without-a-network";

fn main() {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next(), words.next()) {
        (Some(WRITER), Some(folder), Some(first)) => {
            return write_for_ever(Path::new(&folder), first.parse().unwrap());
        }
        (Some(OFFLINE), None, None) => return without_a_network(),
        _ => {}
    }
    // It may be there, and not be allowed to make one.
    let network = Command::new("unshare").args(["-n", "true"]).stderr(Stdio::null()).status();
    let alone = !network.is_ok_and(|status| status.success()) || find("ip").is_none();
    let offline = Trial::test("without_any_network_names_are_back_within_a_second", || {
        let this = std::env::current_exe().unwrap();
        let status = Command::new("unshare").arg("-n").arg(this).arg(OFFLINE).status().unwrap();
        if status.success() { Ok(()) } else { Err(format!("{status}").into()) }
    });
    let reason = if alone { "a network of its own takes root, unshare and ip" } else { "" };
    let trials = vec![
        Trial::test("five_hundred_kills_while_writing_leave_the_old_snapshot_or_the_next", || {
            five_hundred_kills();
            Ok(())
        }),
        offline.with_kind(reason).with_ignored_flag(alone),
        Trial::test("snapshots_of_another_format_or_of_the_future_are_not_believed", || {
            not_believed();
            Ok(())
        }),
        needing("unbound", "what_was_resolved_outlives_a_restart_in_1970", over_a_restart),
        Trial::test("a_hundred_thousand_answers_are_read_back", || {
            a_hundred_thousand();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A process that does nothing but write snapshots is killed at random moments.
fn five_hundred_kills() {
    let lab = Lab::new();
    let folder = lab.path("state");
    let mut random = StdRng::seed_from_u64(20_250_118);
    let (mut last, mut within) = (0, 0);
    for life in 0..500 {
        let before = version(&folder);
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([WRITER, folder.to_str().unwrap(), &(generation(last) + 1).to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let wrote =
            eventually(Duration::from_secs(20), || (version(&folder) != before).then_some(()));
        sleep(Duration::from_micros(random.random_range(0..20_000)));
        writer.kill().unwrap();
        writer.wait().unwrap();

        assert!(wrote.is_some(), "life {life}: nothing is written");
        within += usize::from(folder.join(".cache.tmp").exists());
        let (state, failure) = StateDir::open(&folder);
        assert!(failure.is_none(), "life {life}: {failure:?}");
        let (number, cache) = read(&state).expect("there was a snapshot, and there is none");
        assert!(number > last, "life {life}: {number} is older than {last}");
        last = number;
        assert_eq!(cache.stats().entries, ANSWERS as usize, "life {life}");
        for index in 0..ANSWERS {
            let question = question(generation(number), index);
            let found = cache.get(&key(&question), now());
            assert!(matches!(found, Lookup::Stale { .. }), "life {life}: {index} of {number}");
        }
    }
    assert!(within > 50, "only {within} kills fell into the writing of a snapshot");
}

/// What tells one version of the file from the next.
fn version(folder: &Path) -> Option<(u64, i64, i64)> {
    let file = std::fs::metadata(folder.join(FILE)).ok()?;
    Some((file.ino(), file.mtime(), file.mtime_nsec()))
}

/// The snapshot that is there, and its number.
fn read(state: &StateDir) -> Option<(u64, Cache)> {
    let cache = Cache::new(8 << 20, Duration::from_secs(86_400));
    let mut numbers = Vec::new();
    let there = state.read_pieces(FILE, PAGE_LEN, |page| {
        numbers.push(Written::read(page).unwrap().left);
        cache.restore(page, now(), |_, _| true).unwrap();
    });
    there.unwrap().then_some(())?;
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
    Some((numbers[0], cache))
}

/// Until somebody ends it. Snapshots are numbered; those of one process hold the same names.
fn write_for_ever(folder: &Path, generation: u64) {
    let (state, _) = StateDir::open(folder);
    let cache = filled(generation, ANSWERS);
    for number in generation << 32.. {
        write(&state, &cache, Written { at: None, left: number });
    }
}

fn generation(number: u64) -> u64 {
    number >> 32
}

/// The machine has power and loopback, the clock stands in 1970, and there is nothing else.
fn without_a_network() {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    let lab = Lab::new();
    let setup = lab.configure();
    let upstream = "[[upstream]]\nname = \"dns.example.net\"\naddresses = [\"192.0.2.1\"]\n";
    let file = setup.write();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{upstream}")).unwrap();
    let state = lab.state();
    write(&state, &filled(7, 100_000), Written { at: Some(1_700_000_000), left: 0 });

    let begin = now();
    let daemon = Daemon::start(&lab, &["--start", "@0"]);
    let answer = eventually(Duration::from_secs(30), || {
        let answer = ask(lab.dns(), "g7-99999.example.")?;
        (!answer.answers.is_empty()).then_some(answer)
    });
    let took = now().saturating_duration_since(begin);

    let answer = answer.unwrap_or_else(|| panic!("{}", daemon.log()));
    assert_eq!(ede(&answer), Some(3), "{answer:?}");
    assert_eq!(answer.answers[0].ttl, 30);
    let local = ask_udp(lab.dns(), LOCAL.0).unwrap();
    assert_eq!(local.addresses, [LOCAL.1]);
    let snapshot = eventually(Duration::from_secs(30), || daemon.status().dns.snapshot.read);
    let snapshot = snapshot.unwrap();
    println!("the first stale answer came after {took:?}; reading: {snapshot:?}");
    assert_eq!((snapshot.entries, snapshot.skipped_pages), (100_000, 0), "{}", daemon.log());
    assert!(took < Duration::from_secs(30), "{took:?}");
}

/// Neither keeps the daemon from starting, and both are told.
fn not_believed() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    let state = lab.state();
    write(&state, &filled(7, 1), Written { at: None, left: 0 });
    let file = lab.path("state").join(FILE);
    let mut other = std::fs::read(&file).unwrap();
    other[8] = 9;
    std::fs::write(&file, other).unwrap();
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();
    daemon.wait_for("the other format is told", 10, |status| {
        let trouble = status.dns.snapshot.trouble.as_deref().unwrap_or_default();
        trouble.contains("1 of 1 pages") && trouble.contains("it has format 9")
    });
    daemon.kill();
    drop(daemon);

    // A century ahead of the lab's time.
    write(&state, &filled(7, 50), Written { at: Some(4_900_000_000), left: 0 });
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();
    let asked = || ask(lab.dns(), "g7-0.example").filter(|answer| !answer.answers.is_empty());
    assert!(eventually(Duration::from_secs(10), asked).is_some(), "nobody can know it yet");
    wan.up();
    daemon.wait_for("the future is told", 20, |status| {
        let trouble = status.dns.snapshot.trouble.as_deref().unwrap_or_default();
        trouble.contains("in the future") && trouble.contains("50 are dropped")
    });
    assert!(ask(lab.dns(), "g7-0.example").unwrap().answers.is_empty());
}

/// Names resolved by a real resolver; a stop; and a start in 1970, with nobody outside.
fn over_a_restart() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    let mut resolver = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    resolver.start();
    let setup = setup.upstream(&resolver, "good");
    let mut daemon = setup.boot();
    daemon.wait_for("time is verified", 20, |status| {
        status.time.verified && status.time.level == "disciplined"
    });
    let names = ["a", "b", "c"].map(|label| format!("{label}.lab.example.com"));
    for name in &names {
        let found = eventually(Duration::from_secs(5), || ask_udp(lab.dns(), name));
        assert_eq!(found.unwrap().addresses, [resolver.answer]);
    }
    assert!(daemon.terminate().success());
    drop(daemon);

    wan.down();
    resolver.stop();
    let mut daemon = Daemon::start(&lab, &["--start", "@0"]);
    for name in &names {
        let stale = eventually(Duration::from_secs(10), || {
            ask(lab.dns(), name).filter(|answer| !answer.answers.is_empty())
        });
        assert_eq!(ede(&stale.unwrap()), Some(3), "{}", daemon.log());
    }
    let seen = look(&daemon, &names[0]);
    let held = &seen.held.unwrap()[0];
    assert_eq!((held.rtype.as_str(), held.state.as_str(), held.restored), ("A", "stale", true));
    assert!(held.records[0].contains(&resolver.answer.to_string()), "{held:?}");
    assert_eq!(seen.snapshot.offline, None, "nobody knows the time yet");

    // The uplink is back: the answers have an age, and make way for fresh ones.
    resolver.start();
    wan.up();
    let status = daemon
        .wait_for("the snapshot is dated", 20, |status| status.dns.snapshot.offline.is_some());
    assert!(status.dns.snapshot.offline.unwrap() < 60, "{:?}", status.dns.snapshot);
    let fresh = eventually(Duration::from_secs(10), || {
        ask(lab.dns(), &names[0]).filter(|answer| ede(answer).is_none())
    });
    assert!(fresh.is_some(), "{}", daemon.log());

    // What was flushed does not come back.
    let flush = Request::Flush { name: Some(names[1].clone()), subtree: false };
    assert_eq!(daemon.call(&flush).unwrap()["flushed"], 1);
    assert!(daemon.terminate().success());
    drop(daemon);
    wan.down();
    resolver.stop();
    let daemon = Daemon::start(&lab, &["--start", "@0"]);
    let read = eventually(Duration::from_secs(10), || {
        daemon.call(&Request::Status).ok()?;
        daemon.status().dns.snapshot.read
    });
    assert_eq!(read.unwrap().skipped_pages, 0);
    assert!(look(&daemon, &names[1]).held.unwrap().is_empty());
    assert!(!look(&daemon, &names[2]).held.unwrap().is_empty());
}

fn look(daemon: &Daemon, name: &str) -> report::Cache {
    let request = Request::Cache { name: Some(name.to_owned()) };
    let seen = eventually(Duration::from_secs(5), || daemon.call(&request).ok()).unwrap();
    serde_json::from_value(seen).unwrap()
}

/// The time is printed: `cargo test --release --test snapshot -- read_back`.
fn a_hundred_thousand() {
    let lab = Lab::new();
    let state = lab.state();
    write(&state, &filled(7, 100_000), Written { at: None, left: 0 });
    let bytes = std::fs::metadata(lab.path("state").join(FILE)).unwrap().len();
    let cache = Cache::new(64 << 20, Duration::from_secs(86_400));
    let begin = now();
    let mut taken = 0;
    let read = state.read_pieces(FILE, PAGE_LEN, |page| {
        taken += cache.restore(page, now(), |_, _| true).unwrap().taken;
    });
    assert!(read.unwrap());
    assert_eq!(taken, 100_000);
    println!("{taken} answers of {bytes} octets in {:?}", now().saturating_duration_since(begin));
}

fn write(state: &StateDir, cache: &Cache, written: Written) {
    use std::io::Write;
    state
        .write_with(FILE, |file| cache.save(written, u64::MAX, now(), |page| file.write_all(page)))
        .unwrap();
}

/// A cache with so many answers that bear a number.
fn filled(number: u64, answers: u32) -> Cache {
    let cache = Cache::new(64 << 20, Duration::from_secs(86_400));
    let (bounds, begin) = (Bounds { min: 0, max: 86_400 }, now());
    for index in 0..answers {
        let question = question(number, index);
        let header = [0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04";
        let message = [&header[..], &question, record, &index.to_be_bytes()].concat();
        let answer = Answer::new(&message, &question, bounds, false).unwrap();
        let standing = Provenance::Strict.into();
        assert!(cache.insert(&key(&question), &answer, standing, cache.era(), begin));
    }
    cache
}

/// `gNUMBER-INDEX.example A IN`
fn question(number: u64, index: u32) -> Vec<u8> {
    let label = format!("g{number}-{index}");
    let length = [u8::try_from(label.len()).unwrap()];
    [&length, label.as_bytes(), b"\x07example\0\0\x01\0\x01"].concat()
}

fn key(question: &[u8]) -> Key<'_> {
    Key { question, dnssec_ok: false, checking_disabled: false, view: View::default() }
}

/// Asks over UDP with EDNS, so that the answer can say what it is.
fn ask(server: SocketAddr, name: &str) -> Option<Message> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.set_edns(Edns::new());
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.send(&message.to_vec().unwrap()).ok()?;
    let mut reply = [0; 4096];
    let length = socket.recv(&mut reply).ok()?;
    let answer = Message::from_vec(&reply[..length]).ok()?;
    (answer.metadata.id == message.metadata.id).then_some(answer)
}

/// The code of the extended error.
fn ede(answer: &Message) -> Option<u16> {
    let option = answer.edns.as_ref()?.option(EdnsCode::Unknown(15))?;
    let EdnsOption::Unknown(_, content) = option else { return None };
    content.first_chunk().map(|code| u16::from_be_bytes(*code))
}
