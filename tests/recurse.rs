//! Recursion from a root of our own down, in a network namespace: `dns.mode = "recurse"`.
#![expect(clippy::unwrap_used, reason = "test code")]
#![expect(clippy::print_stdout, reason = "the figures")]

mod lab;

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{Name, RecordType};
use lab::namespace::{run_inside, shell};
use lab::tree::{LEAF, PRIVATE, ROOT, Tree};
use lab::{Daemon, Lab, Wan, eventually, find, now};

fn main() {
    run_inside(
        &["knotd", "keymgr", "unshare", "nft", "ip", "unbound"],
        &[
            ("a_question_is_answered_from_the_root_down_and_it_is_said_how", from_the_root),
            ("a_silent_server_costs_less_than_a_client_waits", silent_server),
            ("a_lie_leads_nowhere", lies),
            ("before_the_time_is_known_signatures_count_without_dates", validation),
            ("a_server_that_speaks_tls_is_asked_over_tls", encryption),
            ("after_an_outage_the_first_answer_comes_within_a_second", outage),
        ],
    );
}

fn from_the_root() {
    let lab = Lab::new();
    let mut tree = Tree::new(&lab);
    let (daemon, _wan) = boot(&lab, &tree, "");

    let answer = ask(&lab, "wWw.leaf.test.", RecordType::A);
    assert_eq!(told(&answer), (ResponseCode::NoError, vec!["192.0.2.1".to_owned()]));
    assert_eq!(answer.queries[0].name().to_ascii(), "wWw.leaf.test.");
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    for (name, rtype, addresses) in [
        ("alias.leaf.test.", RecordType::A, vec!["www.leaf.test.", "192.0.2.1"]),
        // Over a zone whose servers are named in another one.
        ("www.away.test.", RecordType::A, vec!["192.0.2.3"]),
        ("out.leaf.test.", RecordType::A, vec!["www.away.test.", "192.0.2.3"]),
        ("any.wild.leaf.test.", RecordType::A, vec!["192.0.2.2"]),
        // Below no zone cut, and above none.
        ("test.", RecordType::NS, vec!["ns.test."]),
        (".", RecordType::NS, vec!["a.root.", "b.root."]),
    ] {
        let (code, mut data) = told(&ask(&lab, name, rtype));
        data.sort_unstable();
        let mut wanted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        wanted.sort_unstable();
        assert_eq!((code, data), (ResponseCode::NoError, wanted), "{name}");
    }
    // Longer than a datagram.
    let long = ask_tcp(&lab, "long.leaf.test.", RecordType::TXT);
    assert_eq!(long.answers.len(), 1);

    let nothing = ask(&lab, "www.leaf.test.", RecordType::MX);
    assert_eq!(told(&nothing), (ResponseCode::NoError, vec![]));
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
    let gone = ask(&lab, "gone.leaf.test.", RecordType::A);
    assert_eq!(told(&gone), (ResponseCode::NXDomain, vec![]));
    assert_eq!(gone.authorities.len(), 1, "{gone:?}");
    assert_eq!(gone.authorities[0].name.to_ascii(), "leaf.test.");
    let nowhere = ask(&lab, "nowhere.leaf.test.", RecordType::A);
    assert_eq!(told(&nowhere), (ResponseCode::NXDomain, vec!["gone.away.test.".to_owned()]));
    let below = ask(&lab, "below.gone.leaf.test.", RecordType::A);
    assert_eq!(below.metadata.response_code, ResponseCode::NXDomain);

    let status = daemon.status();
    let said = status.dns.plaintext_exceptions.concat();
    assert!(said.contains("authoritative servers that speak no TLS"), "{said}");
    assert!(status.dns.counters["recursion_plaintext"] > 10, "{:?}", status.dns.counters);
    assert_eq!(status.dns.counters["recursion_encrypted"], 0);
    daemon.wait_for("octets are counted", 3, |status| status.uplink.day["names"] > 1000);
    assert!(daemon.log().contains("in plaintext where they do not speak TLS"));

    // What is asked for is nobody's business.
    assert!(!daemon.log().contains("leaf.test"), "{}", daemon.log());

    // The hints name the first server alone; the root has named the other.
    assert!(daemon.log().contains("the root has named its servers servers=2"), "{}", daemon.log());
    shell(&format!("ip address del {}/32 dev lo", ROOT[0]));
    shell(&format!("ip route add blackhole {}/32", ROOT[0]));
    let gone = ask(&lab, "other.", RecordType::A);
    assert_eq!(told(&gone), (ResponseCode::NXDomain, vec![]));
    tree.stop("tld");
    let cached = ask(&lab, "www.leaf.test.", RecordType::A);
    assert_eq!(told(&cached).1, ["192.0.2.1"]);
}

fn silent_server() {
    let lab = Lab::new();
    let tree = Tree::new(&lab);
    let (_daemon, _wan) = boot(&lab, &tree, "");

    // Whichever server is asked first: of twenty names some meet the silent one.
    let began = now();
    for number in 0..20 {
        let name = format!("n{number}.slow.test.");
        let answer = ask(&lab, &name, RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}: {answer:?}");
        assert!(now() - began < Duration::from_secs(5), "{number}: {:?}", now() - began);
    }
}

fn lies() {
    let lab = Lab::new();
    let tree = Tree::new(&lab);
    let private = UdpSocket::bind((PRIVATE, 53)).unwrap();
    let (_daemon, _wan) = boot(&lab, &tree, "");

    // Says so in the name of a zone that is not its own.
    let denied = ask(&lab, "www.liar.test.", RecordType::A);
    assert_eq!(denied.metadata.response_code, ResponseCode::ServFail, "{denied:?}");
    // Who asks there asks the home's own machines in an outsider's name.
    let inside = ask(&lab, "www.inside.test.", RecordType::A);
    assert_eq!(inside.metadata.response_code, ResponseCode::ServFail, "{inside:?}");
    private.set_nonblocking(true).unwrap();
    assert!(private.recv(&mut [0; 512]).is_err(), "a private address was asked");

    let answer = ask(&lab, "www.leaf.test.", RecordType::A);
    assert_eq!(told(&answer).1, ["192.0.2.1"]);
}

fn validation() {
    let lab = Lab::new();
    let tree = Tree::new(&lab);
    let more = format!("validate = true\ntrust_anchors = \"{}\"\n", tree.anchors.display());
    // It boots in 1970; the lab's time, a month after the release, is not that of the signatures.
    let (daemon, _wan) = boot(&lab, &tree, &more);

    for (name, authentic) in
        [("www.leaf.test.", false), ("star.leaf.test.", false), ("www.away.test.", false)]
    {
        let answer = ask(&lab, name, RecordType::A);
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{name}: {}",
            why(&answer)
        );
        assert_eq!(answer.metadata.authentic_data, authentic, "{name}");
        assert!(answer.answers.iter().all(|record| record.ttl <= 60), "{name}: {answer:?}");
    }
    let gone = ask(&lab, "gone.leaf.test.", RecordType::A);
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain, "{}", why(&gone));
    let forged = ask(&lab, "www.forged.test.", RecordType::A);
    assert_eq!(forged.metadata.response_code, ResponseCode::ServFail);
    assert!(why(&forged).contains("forged.test."), "{}", why(&forged));
    assert_eq!(daemon.status().time.level, "cold");
}

fn encryption() {
    let lab = Lab::new();
    let mut tree = Tree::new(&lab);
    tree.stop("leaf");
    // The same zone behind TLS, with a certificate for nobody in particular.
    let name = "leaf.example".to_owned();
    lab.authority.issue_files(&lab, &name, (-lab::DAY, lab::DAY));
    let file = |end: &str| lab.path(&format!("{name}.{end}")).display().to_string();
    let config = lab.path("unbound.conf");
    let zone = lab.path("tree").join("away.test.zone").display().to_string();
    std::fs::write(
        &config,
        format!(
            "server:\ninterface: {LEAF}@53\ninterface: {LEAF}@853\ntls-port: 853\n\
             tls-service-pem: \"{}\"\ntls-service-key: \"{}\"\naccess-control: 0.0.0.0/0 allow_snoop\n\
             username: \"\"\nchroot: \"\"\ndirectory: \"\"\npidfile: \"\"\nuse-syslog: no\n\
             do-ip6: no\nnum-threads: 1\nlocal-zone: \"test.\" nodefault\nauth-zone:\nname: \"leaf.test.\"\nzonefile: \"{zone}\"\n\
             for-downstream: yes\nfor-upstream: no\nremote-control:\ncontrol-enable: no\n",
            file("pem"),
            file("key"),
        ),
    )
    .unwrap();
    let zone_text = std::fs::read_to_string(&zone).unwrap().replace("away.test.", "leaf.test.");
    std::fs::write(&zone, zone_text + "*.many A 192.0.2.7\n").unwrap();
    let mut command = Command::new(find("unbound").unwrap());
    tree.adopt("unbound", command.args(["-d", "-p", "-c"]).arg(&config).spawn().unwrap());
    let opened =
        eventually(Duration::from_secs(5), || std::net::TcpStream::connect((LEAF, 853)).ok());
    assert!(opened.is_some());
    let (daemon, _wan) = boot(&lab, &tree, "");

    // The first questions go in plaintext, while it is found out.
    let mut number = 0;
    let encrypted = eventually(Duration::from_secs(10), || {
        number += 1;
        let answer = ask(&lab, &format!("n{number}.many.leaf.test."), RecordType::A);
        assert_eq!(told(&answer).1, ["192.0.2.7"], "{answer:?}");
        (daemon.status().dns.counters["recursion_encrypted"] > 5).then_some(())
    });
    assert!(encrypted.is_some(), "{:?}", daemon.status().dns.counters);
}

fn outage() {
    let lab = Lab::new();
    let tree = Tree::new(&lab);
    let (_daemon, _wan) = boot(&lab, &tree, "");
    let fresh = |label: &str| ask(&lab, &format!("{label}.wild.leaf.test."), RecordType::A);
    assert_eq!(told(&fresh("before")).1, ["192.0.2.2"]);
    shell("nft add table inet tree");
    shell("nft add chain inet tree arriving { type filter hook input priority 0; }");
    shell(
        "nft add rule inet tree arriving ip daddr { 198.41.0.4, 192.5.5.241, 192.31.80.30, 185.43.135.1 } drop",
    );
    let begin = now();
    let mut number = 0;
    while now() - begin < Duration::from_secs(6) {
        number += 1;
        let answer = fresh(&format!("during{number}"));
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{answer:?}");
    }

    shell("nft flush chain inet tree arriving");
    let begin = now();
    let back = eventually(Duration::from_secs(10), || {
        number += 1;
        let answer = fresh(&format!("after{number}"));
        (told(&answer).1 == ["192.0.2.2"]).then(|| now() - begin)
    });
    println!("recursion: first fresh answer {back:?} after the return");
    assert!(back.unwrap() < Duration::from_secs(1), "{back:?}");
}

/// A daemon that recurses, without a clock; its sources stay silent.
fn boot(lab: &Lab, tree: &Tree, more: &str) -> (Daemon, Wan) {
    let (setup, wan) = lab.honest();
    wan.down();
    let recursion =
        format!("[dns]\nmode = \"recurse\"\nroot_hints = \"{}\"\n{more}", tree.hints.display());
    let mut daemon = setup.replacing("[dns]\n", &recursion).boot();
    daemon.serves(lab).unwrap();
    let primed = eventually(Duration::from_secs(5), || {
        daemon.log().contains("the root has named its servers").then_some(())
    });
    assert!(primed.is_some(), "{}", daemon.log());
    (daemon, wan)
}

/// The code, and the data of the answer section but for signatures.
fn told(answer: &Message) -> (ResponseCode, Vec<String>) {
    let records = answer.answers.iter().filter(|it| it.record_type() != RecordType::RRSIG);
    (answer.metadata.response_code, records.map(|record| record.data.to_string()).collect())
}

/// What the answer says of its reason (RFC 8914).
fn why(answer: &Message) -> String {
    let options = answer.edns.as_ref().map(|edns| edns.option(EdnsCode::Unknown(15)));
    let octets: Vec<_> =
        options.into_iter().flatten().map(|option| Vec::<u8>::try_from(option).unwrap()).collect();
    String::from_utf8_lossy(&octets.concat()).into_owned()
}

fn question(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message.set_edns(Edns::new());
    message
}

fn ask(lab: &Lab, name: &str, rtype: RecordType) -> Message {
    let question = question(name, rtype);
    let socket = UdpSocket::bind((lab.address(2), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    socket.send_to(&question.to_vec().unwrap(), lab.dns()).unwrap();
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("{name}: {error}"));
    Message::from_vec(&answer[..length]).unwrap()
}

fn ask_tcp(lab: &Lab, name: &str, rtype: RecordType) -> Message {
    use std::io::{Read, Write};
    let question = question(name, rtype).to_vec().unwrap();
    let mut stream = std::net::TcpStream::connect(lab.dns()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &question].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}
