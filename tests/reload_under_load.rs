//! dnsperf asks without a pause while the configuration is read again, and while one daemon takes
//! over from another.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "the figures")]

mod lab;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use firstlight::admin;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::clients::{question, trusting};
use lab::{Daemon, LOCAL, Lab, YEAR, needing};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Questions a second, each way.
const RATE: u32 = 1000;
/// How long dnsperf asks, in seconds.
const LENGTH: u32 = 8;

fn main() {
    let trials = vec![
        needing("dnsperf", "a_reload_loses_no_query", reloads),
        needing("dnsperf", "a_successor_that_waits_for_the_end_loses_what_comes_between", || {
            successor(true);
        }),
        needing(
            "dnsperf",
            "a_successor_started_at_once_serves_as_soon_as_the_port_is_free",
            || {
                successor(false);
            },
        ),
        Trial::test("a_stop_says_farewell", || {
            farewell();
            Ok(())
        }),
    ];
    // One at a time: they count what a busy machine may lose.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit();
}

fn reloads() {
    let lab = Lab::new();
    for file in ["first", "second"] {
        lab.authority.issue_files_for(&lab, file, &["dns.home.lan"], (-YEAR, YEAR));
    }
    let setup =
        |file: &str| lab.configure().certificate(&format!("{file}.pem"), &format!("{file}.key"));
    let plain = setup("first");
    plain.write();
    let mut daemon = Daemon::start(&lab, &[]);
    daemon.serves(&lab).unwrap();
    daemon.wait_for("commands are heard", 5, |_| true);
    let another = format!("listen = [\"{}\", \"{}\"]", lab.dns(), lab.place(2, 5300));
    let only = format!("listen = [\"{}\"]", lab.dns());

    let load = Load::start(&lab);
    for change in [
        plain.clone(),
        plain.clone().name("tv.home.lan", LOCAL.1),
        plain.clone().replacing(&only, &another),
        setup("second"),
        plain,
    ] {
        for setup in [&change, &change] {
            setup.write();
            daemon.call(&admin::Request::Reload).unwrap();
            thread::sleep(Duration::from_millis(500));
        }
    }
    let tallies = load.end();

    for tally in tallies {
        println!("  {tally}");
        assert_eq!(tally.lost, 0, "{tally}");
        assert!(tally.completed > u64::from(RATE * LENGTH / 2), "{tally}");
    }
}

/// Another process takes over: once the first has ended, as under systemd, or from the signal on.
fn successor(waits: bool) {
    let lab = Lab::new();
    lab.configure().without_rate().write();
    let mut first = Daemon::start(&lab, &[]);
    first.serves(&lab).unwrap();

    let load = Load::start(&lab);
    thread::sleep(Duration::from_secs(3));
    first.signal(Signal::SIGTERM);
    if waits {
        assert!(first.ended(Duration::from_secs(10)).unwrap().success(), "{}", first.log());
    }
    let mut second = Daemon::start(&lab, &[]);
    second.serves(&lab).unwrap();
    let tallies = load.end();

    for tally in tallies {
        println!("  {tally}");
        // A second of the load.
        assert!(tally.lost <= RATE.into(), "{tally}\n{}", second.log());
        assert!(tally.completed > u64::from(RATE * LENGTH / 2), "{tally}");
    }
}

/// Whoever is connected when the daemon stops has the answers due, then `close_notify` and FIN.
#[tokio::main]
async fn farewell() {
    let lab = Lab::new();
    lab.configure().write();
    let mut daemon = Daemon::start(&lab, &[]);
    daemon.serves(&lab).unwrap();
    let (_, query) = question(LOCAL.0);
    let head = format!(
        "POST /dns-query HTTP/1.1\r\nhost: dns.home.lan\r\n\
         content-type: application/dns-message\r\ncontent-length: {}\r\n\r\n",
        query.len()
    );
    let framed = [&u16::try_from(query.len()).unwrap().to_be_bytes(), query.as_slice()].concat();
    let posted = [head.as_bytes(), &query].concat();
    let mut clients = Vec::new();
    for (to, alpn, asked) in [(lab.dot(), "dot", framed), (lab.doh(), "http/1.1", posted)] {
        let mut client = tls(to, alpn).await;
        client.write_all(&asked).await.unwrap();
        assert!(client.read(&mut [0; 4096]).await.unwrap() > 12, "{alpn}");
        clients.push(client);
    }
    let stream = TokioIo::new(tls(lab.doh(), "h2").await);
    let (mut http2, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("https://dns.home.lan/dns-query")
        .header("content-type", "application/dns-message")
        .body(Full::<Bytes>::from(query.clone()))
        .unwrap();
    assert_eq!(http2.send_request(request).await.unwrap().status(), StatusCode::OK);

    daemon.signal(Signal::SIGTERM);

    // An end without `close_notify` would be an error to each of them.
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    }
    connection.await.unwrap().unwrap();
    assert!(daemon.ended(Duration::from_secs(5)).unwrap().success(), "{}", daemon.log());
}

async fn tls(to: SocketAddr, alpn: &str) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("dns.home.lan").unwrap();
    TlsConnector::from(trusting(&[alpn.as_bytes()])).connect(name, stream).await.unwrap()
}

/// dnsperf over UDP, TCP and TLS at the same time.
struct Load(Vec<(&'static str, Child)>);

impl Load {
    fn start(lab: &Lab) -> Self {
        let names = lab.path("names");
        fs::write(&names, format!("{} A\n", LOCAL.0)).unwrap();
        let ways = [("udp", lab.dns()), ("tcp", lab.dns()), ("dot", lab.dot())];
        Self(
            ways.map(|(mode, to)| {
                let mut command = Command::new("dnsperf");
                command.args([
                    "-m",
                    mode,
                    "-s",
                    &to.ip().to_string(),
                    "-p",
                    &to.port().to_string(),
                ]);
                command.args([
                    "-l",
                    &LENGTH.to_string(),
                    "-Q",
                    &RATE.to_string(),
                    "-c",
                    "4",
                    "-t",
                    "3",
                ]);
                command.arg("-d").arg(&names).stdout(Stdio::piped()).stderr(Stdio::piped());
                (mode, command.spawn().unwrap())
            })
            .into(),
        )
    }

    fn end(self) -> Vec<Tally> {
        self.0
            .into_iter()
            .map(|(mode, child)| {
                let output = child.wait_with_output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                Tally::read(mode, &text).unwrap_or_else(|| {
                    panic!("{mode}: {text}{}", String::from_utf8_lossy(&output.stderr))
                })
            })
            .collect()
    }
}

/// What dnsperf counted.
struct Tally {
    mode: &'static str,
    sent: u64,
    completed: u64,
    lost: u64,
}

impl Tally {
    fn read(mode: &'static str, text: &str) -> Option<Self> {
        let count = |what: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(what))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            mode,
            sent: count("Queries sent:")?,
            completed: count("Queries completed:")?,
            lost: count("Queries lost:")?,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, sent, completed, lost } = self;
        write!(f, "{mode}: {sent} sent, {completed} answered, {lost} lost")
    }
}
