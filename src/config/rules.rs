//! What no value can break alone: clashes, missing diversity, a quorum that cannot be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::config::tree::Notes;
use crate::config::{ClientNetwork, Clock, Config, Transport, acme};
use crate::wire::Name;

/// Reports what is wrong or doubtful in `config` as a whole.
pub(super) fn check(config: &Config, notes: &mut Notes) {
    listeners_clash(config, notes);
    doq_keeps_off_port_53(config, notes);
    names_clash(config, notes);
    sources_twice(&config.clock, notes);
    pools_are_fewer(&config.clock, notes);
    keys_are_given(config, notes);
    refclocks_clash(&config.clock, notes);
    sources_smear(&config.clock, notes);
    acme::check(config, notes);
    // Half a configuration would only be blamed for what its mistakes took away.
    if notes.report.errors() == 0 && !notes.torn {
        upstreams_differ(config, notes);
        quorum_holds(&config.clock, notes);
        witnesses_differ(config, notes);
        clients_are_limited(config, notes);
    }
}

/// Two services, or one twice, at one address and port of one protocol.
fn listeners_clash(config: &Config, notes: &mut Notes) {
    let dns = ("dns", &config.dns.listen);
    let (dot, doh) = (("dot", &config.dot.listen), ("doh", &config.doh.listen));
    let (nts, metrics) = (("nts", &config.nts.listen), ("metrics", &config.metrics.listen));
    let tcp = [dns, dot, doh, nts, metrics];
    let udp = [dns, ("doq", &config.doq.listen), ("ntp", &config.ntp.listen)];
    let mut told = BTreeSet::new();
    for services in [&tcp[..], &udp] {
        let mut taken: Vec<(&str, usize, SocketAddr)> = Vec::new();
        for (service, listen) in services {
            for (index, address) in listen.iter().enumerate() {
                let path = format!("{service}.listen[{index}]");
                let clash = taken.iter().find(|(_, _, other)| overlap(*address, *other));
                if let Some((other, at, _)) = clash
                    && told.insert((path.clone(), format!("{other}.listen[{at}]")))
                {
                    let message = format!("`{address}` is taken by `{other}.listen` already");
                    notes.report.error(
                        notes.places.at(&path),
                        message,
                        "use another port or address",
                    );
                }
                taken.push((service, index, *address));
            }
        }
    }
}

/// Whether two sockets cannot both be bound. `[::]` is IPv6 only here.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (wildcard || a.ip() == b.ip())
}

/// RFC 9250 section 4.1.1: others would take it for plain DNS.
fn doq_keeps_off_port_53(config: &Config, notes: &mut Notes) {
    for (index, address) in config.doq.listen.iter().enumerate() {
        if address.port() == 53 {
            notes.report.error(
                notes.places.at(&format!("doq.listen[{index}]")),
                format!("`{address}`: DNS over QUIC must not use port 53 (RFC 9250 section 4.1.1)"),
                "use port 853",
            );
        }
    }
}

/// A CNAME beside other data of its name (RFC 1034 section 3.6.2), or in a circle.
fn names_clash(config: &Config, notes: &mut Notes) {
    let mut first: BTreeMap<(&Name, bool), usize> = BTreeMap::new();
    for (index, entry) in config.names.iter().enumerate() {
        let Some(earlier) = first.get(&(&entry.name, entry.wildcard)) else {
            first.insert((&entry.name, entry.wildcard), index);
            continue;
        };
        let alias = entry.cname.is_some() || config.names[*earlier].cname.is_some();
        if alias {
            let message = format!("`{}` has a cname and is given twice", entry.name);
            let place = notes.places.at(&format!("name[{index}].name"));
            notes.report.error(place, message, "keep either the cname or the other entry");
        }
    }
    let aliases: BTreeMap<&Name, &Name> = config
        .names
        .iter()
        .filter(|entry| !entry.wildcard)
        .filter_map(|entry| Some((&entry.name, entry.cname.as_ref()?)))
        .collect();
    for (index, entry) in config.names.iter().enumerate() {
        let chain = std::iter::successors(entry.cname.as_ref(), |name| aliases.get(name).copied());
        if chain.take(aliases.len() + 1).any(|name| *name == entry.name && !entry.wildcard) {
            let message = format!("the cname of `{}` leads back to it", entry.name);
            let place = notes.places.at(&format!("name[{index}].cname"));
            notes.report.error(place, message, "let one name of the circle have addresses");
        }
    }
}

/// A source that is given twice would count twice in the quorum.
fn sources_twice(clock: &Clock, notes: &mut Notes) {
    let mut seen = BTreeSet::new();
    for (index, source) in clock.sources.iter().enumerate() {
        if !seen.insert(source.address) {
            let message = format!("`{}` is a source already and would count twice", source.address);
            let place = notes.places.at(&format!("clock.source[{index}].address"));
            notes.report.error(place, message, "remove one of the two");
        }
    }
}

/// What names lead to must not outvote what was written down.
fn pools_are_fewer(clock: &Clock, notes: &mut Notes) {
    let found: usize = clock.pools.iter().filter(|pool| !pool.noselect).map(|it| it.count).sum();
    let given = clock.sources.iter().filter(|source| !source.noselect).count();
    if found > 0 && found >= given {
        notes.report.error(
            notes.places.at("clock.pool[0]"),
            format!("pools of {found} beside {given} sources: names would outvote addresses"),
            "make their `count` less than the number of [[clock.source]], or add sources",
        );
    }
    for (index, pool) in clock.pools.iter().enumerate() {
        if clock.pools[..index].iter().any(|earlier| earlier.name == pool.name) {
            let message = format!("`{}` is a pool already", pool.name);
            let place = notes.places.at(&format!("clock.pool[{index}].name"));
            notes.report.error(place, message, "raise its `count` instead");
        }
    }
}

/// A source is asked with a key of a file.
fn keys_are_given(config: &Config, notes: &mut Notes) {
    let keyed = config.clock.sources.iter().position(|source| source.key.is_some());
    if let Some(at) = keyed.filter(|_| config.ntp.keys.is_none()) {
        notes.report.error(
            notes.places.at(&format!("clock.source[{at}].key")),
            "a source with a `key`, and no file that holds it",
            "name the file in [ntp]: keys = \"keys\"",
        );
    }
}

/// One device under two names would count twice, too.
fn refclocks_clash(clock: &Clock, notes: &mut Notes) {
    for (index, one) in clock.refclocks.iter().enumerate() {
        let earlier = &clock.refclocks[..index];
        let place = |key| notes.places.at(&format!("clock.refclock[{index}].{key}"));
        if earlier.iter().any(|other| other.path == one.path) {
            let message = format!("`{}` is a reference clock already", one.path.display());
            notes.report.error(place("path"), message, "remove one of the two");
        } else if earlier.iter().any(|other| other.name == one.name) {
            let message = format!("two reference clocks are called `{}`", one.name);
            notes.report.error(place("name"), message, "give each a `name` of its own");
        }
    }
}

/// Around a leap second, a source that smears it is up to half a second off for a day.
fn sources_smear(clock: &Clock, notes: &mut Notes) {
    for (index, source) in clock.sources.iter().enumerate() {
        let address = source.address.ip();
        let Some((operator, _)) = SMEARERS
            .iter()
            .find(|(_, networks)| networks.iter().any(|network| lies_in(address, network)))
        else {
            continue;
        };
        notes.report.warn(
            notes.places.at(&format!("clock.source[{index}].address")),
            format!(
                "`{address}` is {operator}'s, who spreads a leap second over a day: it will be up \
                 to half a second off then, and is outvoted or deceives"
            ),
            "take sources that announce leap seconds",
        );
    }
}

/// Public time services that smear leap seconds, with the networks of their servers.
const SMEARERS: &[(&str, &[&str])] = &[
    ("Google", &["216.239.35.0/28", "2001:4860:4806::/48"]),
    ("Amazon", &["169.254.169.123/32", "fd00:ec2::123/128"]),
    ("Meta", &["129.134.24.0/21", "2a03:2880:ff08::/45"]),
];

fn lies_in(address: IpAddr, network: &str) -> bool {
    network.parse::<ipnet::IpNet>().is_ok_and(|network| network.contains(&address))
}

/// Whoever may be asked for anything by anybody is used against others.
fn clients_are_limited(config: &Config, notes: &mut Notes) {
    let any = config.dns.clients.iter().position(|network| *network == ClientNetwork::Any);
    if let (Some(at), 0) = (any, config.dns.rate) {
        notes.report.warn(
            notes.places.at(&format!("dns.clients[{at}]")),
            "everybody may ask any number of questions: attacks on others will use this machine",
            "set `dns.rate`, or write \"local\" and the networks of your own",
        );
    }
}

fn upstreams_differ(config: &Config, notes: &mut Notes) {
    let operators: BTreeSet<_> = config.upstreams.iter().map(|up| up.operator.as_str()).collect();
    if config.dns.recursion.is_some() {
        upstreams_are_not_asked(config, notes);
        return;
    }
    match (operators.len(), operators.first()) {
        (0, _) => notes.report.warn(
            None,
            "no [[upstream]]: only local names will be answered",
            "add upstreams of two operators, or run without a file for the built-in ones",
        ),
        (1, Some(operator)) => notes.report.warn(
            notes.places.at("upstream[0]"),
            format!("all upstreams are run by `{operator}`: if it fails, so do names"),
            "add an [[upstream]] of another operator",
        ),
        _ => {}
    }
}

/// Recursion asks no upstream; those that speak HTTPS may still be witnesses of time.
fn upstreams_are_not_asked(config: &Config, notes: &mut Notes) {
    let idle = config.upstreams.iter().position(|up| up.transport != Transport::Doh);
    if let Some(at) = idle {
        notes.report.warn(
            notes.places.at(&format!("upstream[{at}]")),
            "in mode \"recurse\" no upstream is asked for names",
            "remove it; upstreams with transport = \"doh\" may stay, as witnesses of time",
        );
    }
    if !config.dns.validation.validate {
        notes.report.warn(
            notes.places.at("dns.mode"),
            "answers of authoritative servers come in plaintext, and nothing tells forged ones",
            "write dns.validate = true",
        );
    }
}

fn quorum_holds(clock: &Clock, notes: &mut Notes) {
    let pulses = clock.refclocks.iter().filter(|refclock| refclock.pulse).count();
    let configured = clock.sources.iter().filter(|source| !source.noselect).count()
        + clock.refclocks.len()
        - pulses;
    let need = clock.quorum.max(configured / 2 + 1);
    let at = |path: &str| notes.places.at(path);
    let operators = count_by_operator(clock);
    let one_too_many =
        operators.iter().find(|(_, count)| configured - **count < need || operators.len() < 3);
    if configured > 0 && clock.sources.is_empty() {
        notes.report.warn(
            at("clock.refclock[0]"),
            "reference clocks alone: nothing tells when they err, and NTP clients are told of an \
             error of a second at least",
            "add a [[clock.source]], best a quorum of them",
        );
    } else if configured == 0 {
        notes.report.warn(
            None,
            "no [[clock.source]]: time comes from HTTPS witnesses alone, NTP stays unsynchronised",
            "add five sources of four operators, or run without a file for the built-in ones",
        );
    } else if configured < clock.quorum {
        notes.report.warn(
            at("clock.quorum"),
            format!("a quorum of {} can never form: sources given: {configured}", clock.quorum),
            "add a [[clock.source]], or lower the quorum",
        );
    } else if let (1, Some((only, _))) = (operators.len(), operators.first_key_value()) {
        notes.report.warn(
            at("clock.source[0]"),
            format!("all time sources are run by `{only}`: they are believed only with a witness"),
            "add sources of other operators",
        );
    } else if configured - 1 < need {
        notes.report.warn(
            at("clock.quorum"),
            format!("{need} of {configured} sources must agree: losing any one loses the quorum"),
            "add a [[clock.source]]",
        );
    } else if let Some((operator, count)) = one_too_many {
        notes.report.warn(
            at("clock.quorum"),
            format!(
                "{need} of {configured} sources, of two operators, must agree: losing `{operator}` \
                 ({count} of them) loses the quorum"
            ),
            "add a [[clock.source]] of another operator",
        );
    }
}

fn count_by_operator(clock: &Clock) -> BTreeMap<&str, usize> {
    let refclocks = clock.refclocks.iter().filter(|refclock| !refclock.pulse);
    let refclocks = refclocks.map(|refclock| refclock.operator.as_str());
    let mut counts = BTreeMap::new();
    let asked = clock.sources.iter().filter(|source| !source.noselect);
    for operator in asked.map(|source| source.operator.as_str()).chain(refclocks) {
        *counts.entry(operator).or_default() += 1;
    }
    counts
}

fn witnesses_differ(config: &Config, notes: &mut Notes) {
    let doh = config.upstreams.iter().filter(|upstream| upstream.transport == Transport::Doh);
    let doh = doh.map(|upstream| upstream.operator.as_str());
    let own = config.clock.witnesses.iter().map(|witness| witness.operator.as_str());
    let protected = config.clock.sources.iter().filter(|source| source.nts.is_some());
    let protected = protected.map(|source| source.operator.as_str());
    let operators: BTreeSet<_> = doh.chain(own).chain(protected).collect();
    if operators.len() < 2 {
        notes.report.warn(
            notes.places.at("clock.witness").or(notes.places.at("clock")),
            format!(
                "witnesses of {} operators, of two needed: time stays unverified",
                operators.len()
            ),
            "add an [[upstream]] with transport = \"doh\", a [[clock.witness]], or a [[clock.source]] \
             with nts = true",
        );
    }
}
