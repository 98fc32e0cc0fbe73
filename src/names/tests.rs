//! Local names as clients see them, read by hickory-proto.

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::wire::{Hop, Note, Query};

#[test]
fn a_local_name_has_its_addresses_and_nothing_else() {
    let names = Names::new(&[entry("pi.home.lan", &["10.77.0.2", "fd00::2"])], false);

    assert_eq!(ask(&names, "PI.home.lan", "A").answers(), ["pi.home.lan 60 IN A 10.77.0.2"]);
    assert_eq!(ask(&names, "pi.home.lan", "AAAA").answers(), ["pi.home.lan 60 IN AAAA fd00::2"]);
    let nodata = ask(&names, "pi.home.lan", "MX");
    assert_eq!(nodata.rcode(), ResponseCode::NoError);
    assert!(nodata.answers().is_empty());
    assert_eq!(
        nodata.authority(),
        ["pi.home.lan 60 IN SOA pi.home.lan. nobody.invalid. 1 3600 1200 604800 60"]
    );
}

#[test]
fn names_that_are_not_in_the_table_belong_to_the_world() {
    let names = Names::new(&[entry("pi.home.lan", &["10.77.0.2"])], false);

    for name in ["example.com", "home.lan", "lan", "x.pi.home.lan", "nas.home.lan", "."] {
        assert!(local(&names, name).is_none(), "{name}");
    }
}

#[test]
fn an_address_leads_back_to_all_its_names() {
    let names = Names::new(
        &[
            entry("pi.home.lan", &["10.77.0.2", "2001:678::2"]),
            entry("dns.home.lan", &["10.77.0.2"]),
        ],
        false,
    );

    assert_eq!(
        ask(&names, "2.0.77.10.in-addr.arpa", "PTR").answers(),
        [
            "2.0.77.10.in-addr.arpa 60 IN PTR pi.home.lan.",
            "2.0.77.10.in-addr.arpa 60 IN PTR dns.home.lan."
        ]
    );
    let v6 = reverse_name("2001:678::2".parse().unwrap()).to_string();
    assert!(v6.starts_with("2.0.0.0.") && v6.ends_with(".8.7.6.0.1.0.0.2.ip6.arpa"), "{v6}");
    assert_eq!(ask(&names, &v6, "PTR").answers().len(), 1);
}

#[test]
fn aliases_are_followed_as_far_as_they_are_local() {
    let alias = |name: &str, target: &str| Entry {
        cname: Some(target.parse().unwrap()),
        ..entry(name, &[])
    };
    let names = Names::new(
        &[
            entry("pi.home.lan", &["10.77.0.2"]),
            alias("dns.home.lan", "pi.home.lan"),
            alias("ns.home.lan", "dns.home.lan"),
            alias("shop.home.lan", "shop.example"),
            alias("loop.home.lan", "loop.home.lan"),
            alias("gone.home.lan", "gone.invalid"),
        ],
        false,
    );

    assert_eq!(
        ask(&names, "ns.home.lan", "A").answers(),
        [
            "ns.home.lan 60 IN CNAME dns.home.lan.",
            "dns.home.lan 60 IN CNAME pi.home.lan.",
            "pi.home.lan 60 IN A 10.77.0.2"
        ]
    );
    let nodata = ask(&names, "ns.home.lan", "MX");
    assert_eq!(nodata.answers().len(), 2);
    assert!(nodata.authority()[0].starts_with("pi.home.lan 60 IN SOA pi.home.lan."));
    assert_eq!(ask(&names, "ns.home.lan", "CNAME").answers().len(), 1);
    assert_eq!(ask(&names, "shop.home.lan", "A").unresolved, Some("shop.example".parse().unwrap()));
    assert_eq!(ask(&names, "gone.home.lan", "A").rcode(), ResponseCode::NXDomain);
    assert!(ask(&names, "loop.home.lan", "A").answers().len() <= 9);
}

#[test]
fn a_wildcard_covers_what_does_not_exist_below_it() {
    let names = Names::new(
        &[
            Entry { wildcard: true, ..entry("apps.home.lan", &["10.77.0.9"]) },
            entry("git.apps.home.lan", &["10.77.0.3"]),
            Entry { wildcard: true, ..entry("lab.home.arpa", &["10.77.0.8"]) },
        ],
        false,
    );

    let of = |name| ask(&names, name, "A");
    assert_eq!(of("x.apps.home.lan").answers(), ["x.apps.home.lan 60 IN A 10.77.0.9"]);
    assert_eq!(of("y.x.apps.home.lan").answers().len(), 1);
    assert_eq!(of("git.apps.home.lan").answers(), ["git.apps.home.lan 60 IN A 10.77.0.3"]);
    // RFC 4592 section 2.2.1: a name that exists shields what is below it.
    let shielded = of("x.git.apps.home.lan");
    assert_eq!(shielded.rcode(), ResponseCode::NXDomain);
    assert!(shielded.authority()[0].starts_with("apps.home.lan 60 IN SOA"));
    assert!(local(&names, "apps.home.lan").is_none());
    // Within a zone of ours, the wildcard is in charge of its part.
    let nodata = ask(&names, "x.lab.home.arpa", "MX");
    assert!(nodata.authority()[0].starts_with("lab.home.arpa 60 IN SOA"));
    assert_eq!(of("9.0.77.10.in-addr.arpa").rcode(), ResponseCode::NXDomain);
}

#[test]
fn texts_longer_than_a_character_string_are_cut_in_pieces() {
    let text = "x".repeat(300);
    let names = Names::new(&[Entry { txt: vec![text.clone()], ..entry("t.lan", &[]) }], false);

    let reply = ask(&names, "t.lan", "TXT");

    let hickory_proto::rr::RData::TXT(strings) = &reply.message.answers[0].data else { panic!() };
    let sizes: Vec<usize> = strings.txt_data.iter().map(|piece| piece.len()).collect();
    assert_eq!(sizes, [255, 45]);
}

#[test]
fn special_names_never_leave_the_house() {
    let names = Names::new(&[], true);
    let rcode = |name| ask(&names, name, "A").rcode();

    for name in [
        "invalid",
        "x.invalid",
        "onion",
        "a.b.onion",
        "local",
        "printer.local",
        "x.home.arpa",
        "x.resolver.arpa",
        "x.ipv4only.arpa",
        "1.1.168.192.in-addr.arpa",
        "1.31.172.in-addr.arpa",
        "9.64.100.in-addr.arpa",
        "use-application-dns.net",
        "x.8.e.f.ip6.arpa",
        "x.d.f.ip6.arpa",
    ] {
        assert_eq!(rcode(name), ResponseCode::NXDomain, "{name}");
    }
    for name in ["home.arpa", "resolver.arpa", "_dns.resolver.arpa", "10.in-addr.arpa"] {
        let reply = ask(&names, name, "A");
        assert_eq!((reply.rcode(), reply.answers().len()), (ResponseCode::NoError, 0), "{name}");
    }
    for name in ["1.32.172.in-addr.arpa", "9.128.100.in-addr.arpa", "arpa", "example.onions"] {
        assert!(local(&names, name).is_none(), "{name}");
    }
    assert!(local(&Names::new(&[], false), "use-application-dns.net").is_none());
}

#[test]
fn an_empty_zone_answers_for_its_own_soa() {
    let names = Names::new(&[], false);

    assert!(ask(&names, "home.arpa", "SOA").answers()[0].starts_with("home.arpa 10800 IN SOA"));
    assert!(ask(&names, "x.home.arpa", "A").authority()[0].starts_with("home.arpa 10800 IN SOA"));
}

#[test]
fn localhost_and_all_below_it_is_this_machine() {
    let names = Names::new(&[], false);

    for name in ["localhost", "a.b.localhost"] {
        assert_eq!(ask(&names, name, "A").answers(), [format!("{name} 10800 IN A 127.0.0.1")]);
        assert_eq!(ask(&names, name, "AAAA").answers(), [format!("{name} 10800 IN AAAA ::1")]);
        assert!(ask(&names, name, "TXT").answers().is_empty());
    }
    assert_eq!(
        ask(&names, "1.0.0.127.in-addr.arpa", "PTR").answers(),
        ["1.0.0.127.in-addr.arpa 10800 IN PTR localhost."]
    );
}

#[test]
fn clients_learn_that_there_is_no_nat64() {
    let names = Names::new(&[], false);

    assert_eq!(ask(&names, "ipv4only.arpa", "A").answers().len(), 2);
    let aaaa = ask(&names, "ipv4only.arpa", "AAAA");
    assert_eq!((aaaa.rcode(), aaaa.answers().len()), (ResponseCode::NoError, 0));
}

#[test]
fn all_special_names_are_names() {
    assert_eq!(special::zones(true).count(), 1 + 3 + 1 + 20 + 16 + 64);
    assert_eq!(special::entries().len(), 3);
}

proptest! {
    #[test]
    fn no_octets_make_a_lookup_panic(octets in prop::collection::vec(0..6_u8, 0..255)) {
        let _ = Names::new(&[], false).lookup(&octets);
    }
}

fn entry(name: &str, addresses: &[&str]) -> Entry {
    Entry {
        name: name.parse().unwrap(),
        wildcard: false,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        cname: None,
        txt: Vec::new(),
        ttl: 60,
    }
}

fn local<'t>(names: &'t Names, name: &str) -> Option<LocalAnswer<'t>> {
    names.lookup(name.parse::<Name>().unwrap().as_wire())
}

struct Answered {
    message: Message,
    unresolved: Option<Name>,
}

impl Answered {
    fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    fn answers(&self) -> Vec<String> {
        self.message.answers.iter().map(|record| plain(&record.to_string())).collect()
    }

    fn authority(&self) -> Vec<String> {
        self.message.authorities.iter().map(|record| plain(&record.to_string())).collect()
    }
}

/// A record's text with its owner lower-cased and without the final dot.
fn plain(record: &str) -> String {
    let (owner, rest) = record.split_once(' ').unwrap();
    format!("{} {rest}", owner.trim_end_matches('.').to_lowercase())
}

fn ask(names: &Names, name: &str, rtype: &str) -> Answered {
    let rtype: RecordType = rtype.parse().unwrap();
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Question::query(format!("{name}.").parse().unwrap(), rtype));
    let packet = question.to_vec().unwrap();
    let query = Query::parse(&packet).unwrap();
    let mut out = Vec::new();
    let started = names.answer(&query, &mut out).unwrap_or_else(|| panic!("{name} unknown"));
    let unresolved = started.chain_to.cloned();
    started.reply.finish(&query, Note::default(), &Hop::of(65_535));
    Answered { message: Message::from_vec(&out).unwrap(), unresolved }
}
