//! Machines as people have them, and what is planned for each.

use std::path::Path;

use super::answers::{Answers, Ports, TOPICS, Topic};
use super::facts::{Address, Facts, Owner, Process, Rtc, Socket, TimeFile};
use super::plan::{Plan, plan};
use super::text;
use crate::config::{ClockMode, Config};

#[test]
fn a_raspberry_pi_as_it_comes_steers_its_clock_and_serves_everybody_at_home() {
    let pi = raspberry_pi();

    let (plan, config) = by_default(&pi);

    assert!(asked(&pi).iter().all(|topic| *topic != Topic::Ports));
    assert_eq!(config.clock.mode, ClockMode::Steer);
    assert!(config.dns.listen.iter().all(|at| at.ip().is_unspecified() && at.port() == 53));
    assert_eq!(config.tls.name.to_string().trim_end_matches('.'), "pi.lan");
    let addresses: Vec<_> = config.names[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.168.1.2", "fd00::2"]);
    assert_eq!((config.upstreams.len(), config.clock.sources.len()), (3, 6));
    // timesyncd gives way: it asks one server, by name.
    assert!(commands(&plan).contains(&"systemctl disable --now systemd-timesyncd".to_owned()));
    assert!(plan.found.iter().any(|line| line.contains("none runs while the power is off")));
    assert!(plan.stops.is_empty());
    assert!(said(&plan).contains("192.168.1.2 as DNS server"), "{plan:#?}");
}

#[test]
fn a_pi_hole_keeps_its_ports_unless_a_person_says_otherwise() {
    let machine = pi_hole();

    let (plan, config) = by_default(&machine);
    assert_eq!(config.dns.listen[0].port(), 53);
    assert!(plan.stops.is_empty());
    assert!(commands(&plan).contains(&"systemctl disable --now pihole-FTL".to_owned()));

    let (plan, config) = answered(&machine, &[(Topic::Ports, "beside")]);
    assert_eq!(config.dns.listen[0].port(), 5300);
    assert_eq!(config.doh.listen[0].port(), 8443);
    assert_eq!((config.dot.listen[0].port(), config.ntp.listen.len()), (853, 0));
    assert!(plan.stops.is_empty());
    assert!(said(&plan).contains("ask 127.0.0.1, port 5300"), "{plan:#?}");

    let (plan, config) = answered(&machine, &[(Topic::Ports, "stop")]);
    assert_eq!(config.dns.listen[0].port(), 53);
    assert_eq!(plan.stops, ["pihole-FTL"]);
}

#[test]
fn beside_adguard_home_each_port_that_it_has_is_another() {
    let machine = Facts {
        owners: vec![owner(
            Some("AdGuardHome"),
            "AdGuardHome",
            &["t[::]:53", "u[::]:53", "t[::]:443", "t[::]:853", "u[::]:853"],
        )],
        resolvers: vec![("AdGuard Home", "/opt/AdGuardHome/AdGuardHome.yaml".to_owned())],
        ..raspberry_pi()
    };

    let (_, config) = answered(&machine, &[(Topic::Ports, "beside")]);

    let ports = [&config.dns.listen, &config.dot.listen, &config.doh.listen, &config.doq.listen];
    assert_eq!(ports.map(|listen| listen[0].port()), [5300, 8853, 8443, 8853]);
    assert_eq!(config.ntp.listen[0].port(), 123);
}

#[test]
fn the_stub_of_systemd_resolved_is_in_nobody_s_way() {
    let machine = Facts {
        owners: vec![owner(
            Some("systemd-resolved"),
            "systemd-resolve",
            &["u127.0.0.53:53", "t127.0.0.53:53", "u127.0.0.54:53"],
        )],
        ..raspberry_pi()
    };

    let (plan, config) = by_default(&machine);

    assert!(!asked(&machine).contains(&Topic::Ports));
    assert!(config.dns.listen[0].ip().is_unspecified());
    assert!(said(&plan).contains("systemd-resolve keeps its own addresses"), "{plan:#?}");
    // Chosen by its address it is in the way.
    let mut chosen = Facts { addresses: machine.addresses.clone(), ..machine };
    chosen.addresses.push(address("lo", "127.0.0.53"));
    let mut answers = Answers::by_default(&chosen);
    answers.take(Topic::Listen, "127.0.0.53", &chosen).unwrap();
    assert!(answers.question(Topic::Ports, &chosen).is_some());
}

#[test]
fn a_chrony_server_goes_on_and_its_addresses_become_sources_only_when_asked_for() {
    let machine = Facts {
        time_services: vec![process(Some("chrony"), "chronyd")],
        time_files: vec![TimeFile {
            file: "/etc/chrony/chrony.conf".to_owned(),
            servers: [
                "ntp.lan",
                "192.168.1.1",
                "216.239.35.0",
                "162.159.200.1",
                "192.168.1.2",
                "127.0.0.1",
            ]
            .map(str::to_owned)
            .to_vec(),
        }],
        owners: vec![owner(Some("chrony"), "chronyd", &["u0.0.0.0:123"])],
        ..raspberry_pi()
    };

    let (plan, config) = by_default(&machine);
    assert_eq!(config.clock.mode, ClockMode::Observe);
    assert_eq!(config.clock.sources.len(), 6);
    assert!(said(&plan).contains("a source must be an address: ntp.lan"), "{plan:#?}");
    assert!(commands(&plan).iter().any(|command| command.contains("firstlight-observe.conf")));

    let (plan, config) = answered(&machine, &[(Topic::Clock, "observe, import")]);
    let sources: Vec<_> = config.clock.sources.iter().map(|source| source.address.ip()).collect();
    assert_eq!(sources[6..].iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.1.1"]);
    // Google smears, Cloudflare's is built in, and this machine is no source of its own.
    for reason in ["216.239.35.0: ", "162.159.200.1: ", "192.168.1.2: it is this machine"] {
        assert!(said(&plan).contains(reason), "{reason}: {plan:#?}");
    }
    // It keeps the clock, so there is nothing to be asked about it.
    assert!(!asked(&machine).contains(&Topic::Ports) && config.ntp.listen.is_empty());
    assert!(said(&plan).contains("NTP is off here") && !said(&plan).contains("disable"));

    let (plan, config) = answered(&machine, &[(Topic::Clock, "steer"), (Topic::Ports, "stop")]);
    assert_eq!(config.clock.mode, ClockMode::Steer);
    assert_eq!(plan.stops, ["chrony"]);
    let (plan, config) = answered(&machine, &[(Topic::Clock, "steer")]);
    let stop = "systemctl disable --now chrony";
    assert_eq!(commands(&plan).iter().filter(|command| *command == stop).count(), 1);
    assert_eq!(config.ntp.listen[0].port(), 123);
}

#[test]
fn a_container_observes_and_cannot_be_told_to_steer() {
    let machine =
        Facts { clock_withheld: Some("this container lacks CAP_SYS_TIME"), ..raspberry_pi() };

    let (_, config) = by_default(&machine);

    assert_eq!(config.clock.mode, ClockMode::Observe);
    let refusal = Answers::by_default(&machine).take(Topic::Clock, "steer", &machine).unwrap_err();
    assert!(refusal.contains("lacks CAP_SYS_TIME"), "{refusal}");
}

#[test]
fn a_machine_that_the_internet_reaches_serves_its_private_addresses_alone() {
    let machine = Facts {
        addresses: vec![
            address("lo", "127.0.0.1"),
            address("eth0", "203.0.113.7"),
            address("wg0", "10.8.0.1"),
        ],
        ..raspberry_pi()
    };

    let (_, config) = by_default(&machine);

    let served: Vec<_> = config.dns.listen.iter().map(ToString::to_string).collect();
    assert_eq!(served, ["127.0.0.1:53", "10.8.0.1:53"]);
    let served: Vec<_> = config.nts.listen.iter().map(ToString::to_string).collect();
    assert_eq!(served, ["127.0.0.1:4460", "10.8.0.1:4460"]);
}

#[test]
fn nixos_is_told_how_to_import_the_file_and_nothing_is_stopped_there() {
    let machine = Facts { nixos: true, ..pi_hole() };

    let (plan, _) = answered(&machine, &[(Topic::Ports, "stop")]);

    assert!(plan.stops.is_empty());
    assert!(said(&plan).contains("settings = lib.importTOML /etc/firstlight/firstlight.toml;"));
    assert!(commands(&plan).iter().all(|command| !command.starts_with("systemctl")));
}

#[test]
fn whoever_does_more_than_dns_is_never_offered_to_be_stopped() {
    // NetworkManager runs a dnsmasq, Docker holds ports for containers, and the last is not seen.
    let machine = Facts {
        owners: vec![
            owner(Some("NetworkManager"), "dnsmasq", &["u0.0.0.0:53"]),
            owner(Some("docker"), "docker-proxy", &["t0.0.0.0:443"]),
            Owner { process: None, sockets: vec![socket("t[::]:853")] },
        ],
        ..raspberry_pi()
    };

    let (plan, _) = answered(&machine, &[(Topic::Ports, "stop")]);

    assert!(plan.stops.is_empty());
    assert_eq!(said(&plan).matches("firstlight takes it once it is free").count(), 3, "{plan:#?}");
    // What only containers see is theirs.
    let mut machine =
        Facts { owners: vec![owner(None, "dnsmasq", &["u192.168.122.1:53"])], ..machine };
    machine.addresses.push(address("virbr0", "192.168.122.1"));
    assert!(!asked(&machine).contains(&Topic::Ports));
}

#[test]
fn without_a_network_a_domain_or_systemd_there_is_a_plan_as_well() {
    let machine = Facts { host: "box".to_owned(), ..Facts::default() };

    let (plan, config) = by_default(&machine);

    assert_eq!(config.tls.name.to_string().trim_end_matches('.'), "firstlight.home.arpa");
    assert!(config.names.is_empty());
    assert!(commands(&plan).iter().any(|command| command.starts_with("firstlight run")));
}

#[test]
fn a_file_that_the_service_does_not_read_is_served_by_hand() {
    let pi = raspberry_pi();
    let answers = Answers::by_default(&pi);

    let next = commands(&plan(&pi, &answers, Path::new("/root/try.toml")));

    assert!(next.contains(&"firstlight run --config /root/try.toml".to_owned()), "{next:?}");
    assert!(!next.iter().any(|command| command.contains("enable --now firstlight")), "{next:?}");
}

#[test]
fn every_choice_of_operators_leaves_two_witnesses_and_no_warning() {
    let pi = raspberry_pi();
    for (chosen, witnesses) in [
        ("quad9, google", 1),
        ("quad9 cloudflare", 1),
        ("google,cloudflare", 0),
        ("google quad9 cloudflare", 0),
    ] {
        let (_, config) = answered(&pi, &[(Topic::Upstreams, chosen)]);

        assert_eq!(config.clock.witnesses.len(), witnesses, "{chosen}");
    }
}

#[test]
fn an_answer_that_fits_nothing_decides_nothing_and_says_why() {
    let pi = raspberry_pi();
    for (topic, answer, why) in [
        (Topic::Listen, "192.168.1.77", "no address or interface"),
        (Topic::Listen, "all eth0", "give `all`, or"),
        (Topic::Listen, ",", "give `all`, or"),
        (Topic::Upstreams, "quad9", "choose two at least"),
        (Topic::Upstreams, "quad9, opendns", "`opendns` is none of"),
        (Topic::Name, "a b", "letters, digits"),
        (Topic::Name, "pi\"\nx", "letters, digits"),
        (Topic::Name, "192.168.1.2", "is an address"),
        (Topic::Name, "a..b", "`a..b`"),
        (Topic::Clock, "import", "give `steer` or"),
        (Topic::Ports, "yes", "none of: leave"),
    ] {
        let mut answers = Answers::by_default(&pi);

        let refusal = answers.take(topic, answer, &pi).unwrap_err();

        assert!(refusal.contains(why), "{topic:?} {answer}: {refusal}");
        assert_eq!(answers, Answers::by_default(&pi));
    }
}

#[test]
fn the_default_that_is_shown_is_an_answer_and_means_the_same() {
    let literal =
        TimeFile { file: "/etc/ntp.conf".to_owned(), servers: vec!["192.168.1.1".to_owned()] };
    let public = address("eth1", "198.51.100.1");
    let mut machine = Facts { time_files: vec![literal], ..pi_hole() };
    machine.addresses.push(public);
    let mut answers = Answers::by_default(&machine);
    answers.import = true;
    answers.ports = Ports::Beside;
    let before = answers.clone();

    for topic in TOPICS {
        let shown = answers.question(topic, &machine).unwrap().default;
        answers.take(topic, &shown, &machine).unwrap();
    }

    assert_eq!(answers, before);
}

#[test]
fn a_plan_is_at_most_a_screenful() {
    for machine in [raspberry_pi(), pi_hole()] {
        let (plan, _) = by_default(&machine);

        let lines = plan.found.len() + plan.notes.len() + plan.next.len();
        // With five titles, what was done, and two or three lines to undo it.
        assert!(lines <= 15, "{plan:#?}");
    }
}

/// What is planned when nobody is asked, and the configuration in it.
fn by_default(facts: &Facts) -> (Plan, Config) {
    answered(facts, &[])
}

/// The same after some answers.
fn answered(facts: &Facts, given: &[(Topic, &str)]) -> (Plan, Config) {
    let file = Path::new("/etc/firstlight/firstlight.toml");
    let mut answers = Answers::by_default(facts);
    for (topic, answer) in given {
        assert!(answers.question(*topic, facts).is_some(), "{topic:?} is not asked");
        answers.take(*topic, answer, facts).unwrap();
    }
    let plan = plan(facts, &answers, file);
    assert_eq!(text::fault(&plan.text, file), None, "{}", plan.text);
    let config = Config::parse(&plan.text, file).unwrap().config;
    (plan, config)
}

fn asked(facts: &Facts) -> Vec<Topic> {
    let answers = Answers::by_default(facts);
    TOPICS.into_iter().filter(|topic| answers.question(*topic, facts).is_some()).collect()
}

fn commands(plan: &Plan) -> Vec<String> {
    plan.next.iter().filter_map(|step| step.command.clone()).collect()
}

fn said(plan: &Plan) -> String {
    let next = plan.next.iter().map(ToString::to_string);
    plan.notes.iter().cloned().chain(next).collect::<Vec<_>>().join("\n")
}

/// Raspberry Pi OS at home, behind a router that calls its network `lan`.
fn raspberry_pi() -> Facts {
    Facts {
        system: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        systemd: true,
        host: "pi".to_owned(),
        domain: Some("lan".to_owned()),
        addresses: vec![
            address("eth0", "192.168.1.2"),
            address("eth0", "2001:db8::2"),
            address("eth0", "fd00::2"),
            address("lo", "127.0.0.1"),
        ],
        nameservers: vec!["192.168.1.1".parse().unwrap()],
        time_services: vec![process(Some("systemd-timesyncd"), "systemd-timesyn")],
        rtc: Rtc::None,
        ..Facts::default()
    }
}

fn pi_hole() -> Facts {
    let ports = ["t0.0.0.0:53", "u0.0.0.0:53", "u0.0.0.0:123", "t[::]:443"];
    Facts {
        owners: vec![owner(Some("pihole-FTL"), "pihole-FTL", &ports)],
        resolvers: vec![("Pi-hole", "/etc/pihole".to_owned())],
        ..raspberry_pi()
    }
}

fn address(interface: &str, ip: &str) -> Address {
    Address { interface: interface.to_owned(), ip: ip.parse().unwrap() }
}

fn process(unit: Option<&str>, name: &str) -> Process {
    Process { pid: 7, name: name.to_owned(), unit: unit.map(|unit| format!("{unit}.service")) }
}

fn owner(unit: Option<&str>, name: &str, sockets: &[&str]) -> Owner {
    let sockets = sockets.iter().map(|text| socket(text)).collect();
    Owner { process: Some(process(unit, name)), sockets }
}

/// `t` for TCP or `u` for UDP, and the address.
fn socket(text: &str) -> Socket {
    let (kind, at) = text.split_at(1);
    Socket { tcp: kind == "t", at: at.parse().unwrap() }
}
