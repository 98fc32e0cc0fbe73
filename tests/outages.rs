//! The provider's line is silent for a while. How soon are names back?
//!
//! In a network of its own all packets to and from the world are lost, and later no longer are.
//! unbound and dnsdist forward beside the daemon, over TLS to the same resolvers, and all three are
//! asked ten times a second throughout. The figures are printed. `FIRSTLIGHT_OUTAGES` gives the
//! lengths of outages in seconds, like `10,60,150`.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "the figures")]

mod lab;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use lab::clients::ask_udp;
use lab::load::{Asked, ask_all};
use lab::namespace::{Line, plaintext, run_inside, uplink};
use lab::{Lab, Resolver, YEAR, eventually, find};

/// A fresh answer must be there so soon after the line is.
const BACK: Duration = Duration::from_secs(1);
/// Who is not back by then is shown as such.
const WATCHED: Duration = Duration::from_secs(30);
/// How long all is well before.
const BEFORE: Duration = Duration::from_secs(6);
/// Between two questions.
const EVERY: Duration = Duration::from_millis(100);

fn main() {
    run_inside(
        &["unshare", "ip", "nft", "unbound", "dnsdist"],
        &[("names_are_back_a_second_after_the_line_is", outages)],
    );
}

fn outages() {
    let lengths = env::var("FIRSTLIGHT_OUTAGES").unwrap_or_else(|_| "10".to_owned());
    let lab = Lab::new();
    let line = Line::new(&lab);
    uplink(1, 100);
    let mut resolvers = [30, 31].map(|host| Resolver::new(&lab, host, (-20 * YEAR, 20 * YEAR)));
    resolvers.iter_mut().for_each(Resolver::start);
    let (mut setup, _wan) = lab.honest();
    for resolver in &resolvers {
        setup = setup.upstream(resolver, &resolver.name);
    }
    let mut daemon = setup.without_rate().boot();
    daemon.serves(&lab).unwrap();
    let peers = [unbound(&lab, &resolvers), dnsdist(&lab, &resolvers)];
    let servers = [
        ("firstlight", lab.dns()),
        ("unbound", lab.place(2, 5300)),
        ("dnsdist", lab.place(3, 5300)),
    ];
    let fresh = resolvers.each_ref().map(|resolver| resolver.answer);
    for (server, address) in servers {
        let answers = || {
            ask_udp(address, "up.lab.example.com")
                .filter(|it| it.addresses.iter().any(|address| fresh.contains(address)))
        };
        assert!(eventually(Duration::from_secs(10), answers).is_some(), "{server} does not answer");
    }

    println!("  outage  who         first answer after it");
    for seconds in lengths.split(',') {
        let length = Duration::from_secs(seconds.parse().unwrap());
        let count = (BEFORE + length + WATCHED).as_millis() / EVERY.as_millis();
        let backs = thread::scope(|scope| {
            let asking = servers.map(|(server, address)| {
                let names: Vec<_> = (0..count)
                    .map(|number| format!("n{number}.{seconds}.{server}.lab.example.com"))
                    .collect();
                scope.spawn(move || ask_all(address, &names, EVERY))
            });
            thread::sleep(BEFORE);
            line.silence();
            thread::sleep(length);
            line.restore();
            asking.map(|asking| back(&asking.join().unwrap(), BEFORE + length, &fresh))
        });
        for ((server, _), back) in servers.into_iter().zip(backs) {
            match back {
                Some(back) => println!("  {seconds:>4} s  {server:<10}  {back:.1?}"),
                None => println!("  {seconds:>4} s  {server:<10}  none within {WATCHED:?}"),
            }
        }
        assert!(backs[0].is_some_and(|back| back <= BACK), "{backs:?}\n{}", daemon.log());
    }
    assert_eq!(plaintext(), 0, "packets to port 53");
    for mut peer in peers {
        peer.kill().unwrap();
        peer.wait().unwrap();
    }
}

/// When the first answer came that the resolvers gave after `restored`, counted from there.
fn back(asked: &[Asked], restored: Duration, fresh: &[Ipv4Addr]) -> Option<Duration> {
    let good = |asked: &Asked| {
        let heard = asked.heard.as_ref()?;
        let good = heard.code == ResponseCode::NoError && fresh.contains(&heard.address?);
        good.then_some(asked.after + heard.took)
    };
    let came: Vec<_> = asked.iter().filter_map(good).collect();
    // Else nothing was lost, and nothing is shown by this.
    let silent =
        |at: &Duration| *at > restored.saturating_sub(Duration::from_secs(8)) && *at < restored;
    assert!(!came.iter().any(silent), "there was no outage");
    came.into_iter().filter(|at| *at >= restored).min().map(|at| at.saturating_sub(restored))
}

/// unbound as a forwarder, with everything at its default.
fn unbound(lab: &Lab, resolvers: &[Resolver]) -> Child {
    let mut forward = String::new();
    for it in resolvers {
        let (ip, port, name) = (it.address.ip(), it.address.port(), &it.name);
        writeln!(forward, "forward-addr: {ip}@{port}#{name}").unwrap();
    }
    let address = lab.place(2, 5300);
    let text = format!(
        "server:\n\
         interface: {}@{}\n\
         access-control: 127.0.0.0/8 allow\n\
         module-config: \"iterator\"\n\
         do-not-query-localhost: no\n\
         tls-cert-bundle: \"{}\"\n\
         username: \"\"\n\
         chroot: \"\"\n\
         directory: \"\"\n\
         pidfile: \"\"\n\
         use-syslog: no\n\
         remote-control:\n\
         control-enable: no\n\
         forward-zone:\n\
         name: \".\"\n\
         forward-tls-upstream: yes\n\
         {forward}",
        address.ip(),
        address.port(),
        lab.path("ca.pem").display(),
    );
    let file = lab.path("unbound-peer.conf");
    fs::write(&file, text).unwrap();
    spawn(lab, "unbound", &["-d", "-p", "-c", file.to_str().unwrap()])
}

/// dnsdist, with everything but the name it checks at its default.
fn dnsdist(lab: &Lab, resolvers: &[Resolver]) -> Child {
    let address: SocketAddr = lab.place(3, 5300);
    let mut text = format!("setLocal(\"{address}\")\nsetSecurityPollSuffix(\"\")\n");
    for resolver in resolvers {
        let (address, name, ca) = (resolver.address, &resolver.name, lab.path("ca.pem"));
        writeln!(
            text,
            "newServer({{address=\"{address}\", tls=\"openssl\", subjectName=\"{name}\", \
             caStore=\"{}\", checkName=\"check.lab.example.com.\"}})",
            ca.display(),
        )
        .unwrap();
    }
    let file = lab.path("dnsdist.conf");
    fs::write(&file, text).unwrap();
    spawn(lab, "dnsdist", &["--supervised", "--disable-syslog", "-C", file.to_str().unwrap()])
}

fn spawn(lab: &Lab, program: &str, arguments: &[&str]) -> Child {
    let log = fs::File::create(lab.path(&format!("{program}-peer.log"))).unwrap();
    let mut command = Command::new(find(program).unwrap());
    command.args(arguments).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
