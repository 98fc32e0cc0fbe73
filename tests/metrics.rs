//! What a monitoring system gets: figures that promtool passes, alerts and a dashboard whose figures exist,
//! and conditions that are told in the same words everywhere.
#![expect(clippy::unwrap_used, reason = "test code")]

mod lab;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use firstlight::admin::report::{Condition, Figures, HealthReport, Status};
use firstlight::admin::{CONDITIONS, Health, Request};
use lab::clients::{ask_ntp, ask_tcp, ask_tls, ask_udp, question};
use lab::hook::Hook;
use lab::{DAY, Daemon, HOUR, Lab, Resolver, eventually, find, needing, truth};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

const RULES: &str = "packaging/prometheus/rules.yml";
const DASHBOARD: &str = "packaging/grafana/firstlight.json";
const PAGE: &str = "docs/monitoring.md";

fn main() {
    let trials = vec![
        trial(
            "every_figure_is_well_formed_and_those_that_alerts_and_dashboard_name_exist",
            &["promtool", "unbound"],
            figures,
        ),
        trial(
            "answers_are_counted_by_origin_and_code_and_timed_one_by_one",
            &["promtool", "unbound"],
            answers,
        ),
        trial("alerts_are_raised_when_they_should_be", &["promtool"], alerts),
        trial("the_scrape_configuration_of_the_page_is_one", &["promtool"], scrape),
        trial("every_alert_and_condition_is_on_the_page", &[], page),
        trial("conditions_are_told_in_the_same_words_everywhere", &["unbound"], conditions),
        trial("the_listener_goes_where_a_reload_says", &[], reload),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The names that were asked for below `lab.example.com`, in the figures nowhere to be found.
const ASKED: [&str; 3] = ["secret-one", "secret-two", "secret-three"];

fn figures() {
    let lab = Lab::new();
    let mut resolver = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    resolver.start();
    let (setup, _wan) = lab.honest();
    lab.authority.issue_files(&lab, "dns.home.lan", (-DAY, 89 * DAY));
    let setup = setup.upstream(&resolver, "good");
    let files = setup.clone().certificate("dns.home.lan.pem", "dns.home.lan.key");
    let mut daemon = files.boot();
    daemon.serves(&lab).unwrap();
    daemon.wait_for("the time is verified", 20, |status| {
        status.time.verified && status.time.ntp.synchronized
    });
    let [one, two, three] = ASKED.map(|label| format!("{label}.lab.example.com"));
    assert_eq!(ask_udp(lab.dns(), &one).unwrap().addresses, [resolver.answer]);
    assert_eq!(ask_udp(lab.dns(), &one).unwrap().addresses, [resolver.answer]);
    assert_eq!(ask_tcp(lab.dns(), &two).unwrap().addresses, [resolver.answer]);
    assert_eq!(ask_tls(lab.dot(), &three).unwrap().0.addresses, [resolver.answer]);
    // From an address that no service has: it must not turn up.
    assert!(ask_ntp(lab.ntp()).is_some());

    let with_files = scraped(&lab);
    the_page_for_a_browser(&lab);
    assert_eq!(
        value(&with_files, "firstlight_dns_queries_total{transport=\"dot\",family=\"ipv4\"}"),
        1
    );
    assert!(
        value(&with_files, "firstlight_dns_queries_total{transport=\"tcp\",family=\"ipv4\"}") >= 2
    );
    assert!(
        value(&with_files, "firstlight_dns_responses_total{origin=\"cache\",rcode=\"NOERROR\"}")
            >= 1
    );
    let forwarded = "firstlight_dns_responses_total{origin=\"upstream\",rcode=\"NOERROR\"}";
    assert!(value(&with_files, forwarded) >= 3);
    let asked = "firstlight_upstream_requests_total{operator=\"good\",result=\"answered\"}";
    assert!(value(&with_files, asked) >= 3);
    assert_eq!(value(&with_files, "firstlight_clock_verified"), 1);
    assert_eq!(value(&with_files, "firstlight_time_sources{verdict=\"truechimer\"}"), 3);
    assert!(value(&with_files, "firstlight_ntp_requests_total{result=\"answered\"}") >= 1);
    assert!(value(&with_files, "firstlight_clock_steps_total{direction=\"forward\"}") >= 1);
    assert!(value(&with_files, "firstlight_state_files_written_total") >= 1);
    for direction in ["sent", "received"] {
        let octets =
            format!("firstlight_wan_bytes_total{{direction=\"{direction}\",purpose=\"names\"}}");
        assert!(value(&with_files, &octets) > 1000, "{direction}");
    }
    let end =
        value(&with_files, "firstlight_certificate_not_after_timestamp_seconds{source=\"files\"}");
    let start = value(&with_files, "firstlight_start_time_seconds");
    assert!((end - start - 89 * 86_400).abs() < 3600, "{end} {start}");

    // The other figures are of orders, which take a CA. Nothing has its name.
    setup
        .replacing(
            "[control]\n",
            "[acme]\nagree = true\n[acme.hook]\nprogram = \"/bin/true\"\n[[acme.ca]]\nname = \"own\"\n\
                 directory = \"https://ca.example.org/directory\"\n\
                 staging = \"https://ca.example.org/staging\"\n[control]\n",
        )
        .write();
    daemon.call(&Request::Reload).unwrap();
    resolver.stop();
    let held =
        |page: &String| page.contains("firstlight_condition{") && page.contains("acme_order");
    let with_orders = eventually(Duration::from_secs(30), || Some(scraped(&lab)).filter(held));
    let with_orders = with_orders.unwrap_or_else(|| panic!("{}", daemon.log()));

    for page in [&with_files, &with_orders] {
        promtool(&["check", "metrics"], page);
        told_to_nobody(&lab, page);
    }
    let there: BTreeSet<_> =
        [&with_files, &with_orders].into_iter().flat_map(|it| names(it)).collect();
    for file in [RULES, DASHBOARD] {
        let named = mentioned(&fs::read_to_string(of_the_project(file)).unwrap());
        assert!(named.len() > 5, "{file} names {named:?} only");
        for name in &named {
            assert!(there.contains(name), "{file}: no figure is called {name}");
        }
    }
    every_figure_is_explained(&with_files);
    every_figure_is_explained(&with_orders);
}

/// Each answer once, whatever way it went, and how long it took.
fn answers() {
    let lab = Lab::new();
    let mut resolver = Resolver::new(&lab, 30, (-DAY, 89 * DAY));
    resolver.start();
    let (setup, _wan) = lab.honest();
    let mut daemon = setup.upstream(&resolver, "good").boot();
    daemon.serves(&lab).unwrap();
    let name = "one.lab.example.com";
    let known = eventually(Duration::from_secs(20), || {
        ask_udp(lab.dns(), name).filter(|answer| answer.addresses == [resolver.answer])
    });
    assert!(known.is_some(), "{}", daemon.log());
    let before = scraped(&lab);

    assert_eq!(rcode(&lab, "two.lab.example.com", 1), 0);
    assert_eq!(rcode(&lab, "nowhere.example.org", 1), 3);
    assert_eq!(rcode(&lab, "nowhere.example.org", 1), 3);
    assert_eq!(rcode(&lab, "localhost", 1), 0);
    assert_eq!(rcode(&lab, "example.org", 252), 5, "no transfers");
    assert_eq!(rcode(&lab, "example.org", 41), 1, "OPT is no type of data");
    for _ in 0..2 {
        assert_eq!(ask_tcp(lab.dns(), name).unwrap().addresses, [resolver.answer]);
        assert_eq!(ask_tls(lab.dot(), name).unwrap().0.addresses, [resolver.answer]);
    }
    resolver.stop();
    assert_eq!(rcode(&lab, "three.lab.example.com", 1), 2);
    let after = scraped(&lab);

    let expected = [
        (("cache", "NOERROR"), 4),
        (("cache", "NXDOMAIN"), 1),
        (("failed", "SERVFAIL"), 1),
        (("local", "NOERROR"), 1),
        (("refused", "FORMERR"), 1),
        (("refused", "REFUSED"), 1),
        (("upstream", "NOERROR"), 1),
        (("upstream", "NXDOMAIN"), 1),
    ];
    let [then, since] = [&before, &after].map(|page| responses(page));
    assert_eq!(then.keys().collect::<Vec<_>>(), since.keys().collect::<Vec<_>>());
    let counted = since.iter().map(|(pair, count)| (pair.clone(), count - then[pair]));
    let counted: BTreeMap<_, _> = counted.filter(|(_, count)| *count > 0).collect();
    let expected = expected.map(|((origin, rcode), count)| ((origin.into(), rcode.into()), count));
    assert_eq!(counted, BTreeMap::from(expected), "{}", daemon.log());
    let transport = |page, name: &str| {
        value(
            page,
            &format!("firstlight_dns_queries_total{{transport=\"{name}\",family=\"ipv4\"}}"),
        )
    };
    let asked = [("udp", 7), ("tcp", 2), ("dot", 2), ("doh", 0), ("doq", 0)];
    for (name, count) in asked {
        assert_eq!(transport(&after, name) - transport(&before, name), count, "{name}");
    }

    // All of them are timed, from the start of the daemon on.
    let origins: BTreeSet<_> = since.keys().map(|(origin, _)| origin).collect();
    assert_eq!(origins.len(), 10, "{origins:?}");
    for origin in origins {
        let answers: i64 =
            since.iter().filter(|((of, _), _)| of == origin).map(|(_, count)| count).sum();
        let part =
            |part: &str| format!("firstlight_dns_response_seconds_{part}{{origin=\"{origin}\"");
        assert_eq!(value(&after, &(part("count") + "}")), answers, "{origin}");
        let steps = part("bucket") + ",le=\"";
        let steps: Vec<(f64, i64)> = after
            .lines()
            .filter_map(|line| line.strip_prefix(&steps)?.split_once("\"} "))
            .map(|(most, count)| (most.parse().unwrap(), count.parse().unwrap()))
            .collect();
        assert!(steps.len() == 16 && steps.is_sorted(), "{origin}: {steps:?}");
        assert!(steps.iter().map(|(_, count)| count).is_sorted(), "{origin}: {steps:?}");
        assert_eq!(steps[15], (f64::INFINITY, answers), "{origin}");
        let sum = part("sum") + "} ";
        let sum = after.lines().find_map(|line| line.strip_prefix(&sum)).unwrap();
        let sum: f64 = sum.parse().unwrap();
        assert_eq!(sum > 0.0, answers > 0, "{origin}: {sum}");
    }
    promtool(&["check", "metrics"], &after);
}

/// Answers by origin and response code.
fn responses(page: &str) -> BTreeMap<(String, String), i64> {
    let samples = page.lines().filter_map(|line| {
        let labels = line.strip_prefix("firstlight_dns_responses_total{origin=\"")?;
        let (origin, rest) = labels.split_once("\",rcode=\"")?;
        let (rcode, count) = rest.split_once("\"} ")?;
        Some(((origin.to_owned(), rcode.to_owned()), count.parse().unwrap()))
    });
    samples.collect()
}

/// The response code of the answer to a question for a type, over UDP.
fn rcode(lab: &Lab, name: &str, kind: u8) -> u8 {
    let (_, mut packet) = question(name);
    let at = packet.len() - 3;
    packet[at] = kind;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(lab.dns()).unwrap();
    // An upstream that does not answer is waited for.
    socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    socket.send(&packet).unwrap();
    let mut reply = [0; 512];
    socket.recv(&mut reply).unwrap();
    reply[3] & 0xf
}

/// Names in the text of figures, as samples have them.
fn names(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Every word that begins as a figure does.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("firstlight_")).map(str::to_owned).collect()
}

/// A figure that is a whole number.
fn value(page: &str, sample: &str) -> i64 {
    let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {sample} in\n{page}"));
    value.trim_end_matches(".0").parse().unwrap()
}

/// Label values: of clients and names none; addresses are those that the configuration names.
fn told_to_nobody(lab: &Lab, page: &str) {
    let upstream = lab.place(30, 8853).to_string();
    let configured: Vec<_> = (10..13).map(|host| lab.place(host, 1123).to_string()).collect();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else { continue };
        let (labels, _) = labels.rsplit_once('}').unwrap();
        for text in labels.split('"').skip(1).step_by(2) {
            assert!(!text.contains("lab.example.com") && !text.contains("home.lan"), "{line}");
            assert!(ASKED.iter().all(|label| !text.contains(label)), "{line}");
            let address = text.starts_with("127.") || text.starts_with('[');
            assert!(
                !address || text == upstream || configured.iter().any(|it| it == text),
                "{line}"
            );
        }
    }
}

/// It shows what the commands show, and neither what was asked for nor who asked.
fn the_page_for_a_browser(lab: &Lab) {
    let (code, page) = http(lab, "/");
    assert_eq!(code, 200, "{page}");
    for words in [
        "<p class=\"well\">Nothing is wrong.</p>",
        "confirmed by the witnesses of two operators",
        "from the files, valid until",
        "<td>good</td><td>up</td>",
        "<td>truechimer</td>",
        "href=\"/page.css\"",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let (code, json) = http(lab, "/status.json");
    let figures: Figures = serde_json::from_str(&json).unwrap();
    assert_eq!((code, figures.status.time.verified), (200, true), "{json}");
    for text in [&page, &json] {
        assert!(ASKED.iter().all(|label| !text.contains(label)), "{text}");
    }
    let (code, style) = http(lab, "/page.css");
    assert!(code == 200 && style.contains("color-scheme: light dark"), "{code} {style}");
}

fn every_figure_is_explained(page: &str) {
    for name in names(page) {
        // A histogram is explained as one.
        let whole = name.strip_suffix("_bucket").or_else(|| name.strip_suffix("_sum"));
        let whole = whole.or_else(|| name.strip_suffix("_count")).unwrap_or(&name);
        let help = format!("# HELP {whole} ");
        let said = page.lines().find_map(|line| line.strip_prefix(&help));
        let said = said.unwrap_or_else(|| panic!("{name} is not explained"));
        assert!(said.ends_with('.') && said.split(' ').count() > 2, "{name}: {said}");
    }
}

fn alerts() {
    let rules = of_the_project(RULES);
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let cases = of_the_project("packaging/prometheus/rules_test.yml");
    promtool(&["test", "rules", cases.to_str().unwrap()], "");
}

/// The first block of YAML on the page about monitoring.
fn scrape() {
    let lab = Lab::new();
    let page = fs::read_to_string(of_the_project(PAGE)).unwrap();
    let (_, block) = page.split_once("```yaml\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    assert!(block.contains("job_name: firstlight"), "{block}");
    fs::write(lab.path("prometheus.yml"), block).unwrap();

    let file = lab.path("prometheus.yml");
    promtool(&["check", "config", "--syntax-only", file.to_str().unwrap()], "");
}

/// Alerts lead there by name; and what they ask for by name is a condition.
fn page() {
    let page = fs::read_to_string(of_the_project(PAGE)).unwrap();
    let rules = fs::read_to_string(of_the_project(RULES)).unwrap();
    let conditions = condition_names();
    for name in &conditions {
        assert!(page.contains(&format!("<a id=\"{name}\"></a>")), "{name} is not in {PAGE}");
    }
    let alerts: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        let anchor = alert.to_lowercase();
        assert!(page.contains(&format!("<a id=\"{anchor}\"></a>")), "{alert} is not in {PAGE}");
        let fixed = rules.contains(&format!("docs/monitoring.md#{anchor}\""));
        assert!(fixed || ["FirstlightError", "FirstlightWarning"].contains(&alert), "{alert}");
    }
    let mut asked_for = 0;
    for before in ["name=\"", "name!=\"", "name=~\"", "name!~\""] {
        let quoted = rules.split(before).skip(1).filter_map(|rest| rest.split('"').next());
        for name in quoted.flat_map(|names| names.split('|')) {
            assert!(conditions.contains(name), "no condition is called {name}");
            asked_for += 1;
        }
    }
    assert!(asked_for > 0, "{RULES} asks for no condition");
}

/// Every name of a condition; the sources know no other, and all of these.
fn condition_names() -> BTreeSet<String> {
    let table: BTreeSet<_> = CONDITIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(table.len() == CONDITIONS.len() && table.len() > 20, "{table:?}");
    for name in firstlight::cert::CONDITIONS {
        assert!(table.contains(*name), "{name} is in no part");
    }
    let mut sources = String::new();
    for folder in ["src/acme", "src/app", "src/cert", "src/node"] {
        for entry in fs::read_dir(of_the_project(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                sources += fs::read_to_string(path).unwrap().split("#[cfg(test)]").next().unwrap();
            }
        }
    }
    for name in &table {
        assert!(sources.contains(&format!("\"{name}\"")), "nothing raises {name}");
    }
    for before in ["Condition { name: \"", "self.set(\"", "self.feed(condition(\""] {
        for name in sources.split(before).skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(table.contains(name), "{name} is in no part");
        }
    }
    table
}

/// Ten and more of them, each while it holds and after.
fn conditions() {
    let lab = Lab::new();
    let (setup, wan) = lab.honest();
    wan.down();
    lab.keep_floor(truth().offset(-4 * HOUR));
    let mut resolvers = [30, 31].map(|host| Resolver::new(&lab, host, (-DAY, 89 * DAY)));
    let taken = TcpListener::bind(lab.nts()).unwrap();
    fs::write(lab.path("metered"), "").unwrap();
    let good = setup
        .upstream(&resolvers[0], "one")
        .upstream(&resolvers[1], "two")
        .certificate("dns.home.lan.pem", "dns.home.lan.key")
        .replacing("[ntp]\n", "[ntp]\nkeys = \"ntp.keys\"\n")
        .replacing("[control]\n", "[metered]\nflag_file = \"metered\"\n[control]\n");
    let hook = Hook::start(&lab);
    let good = good.replacing(
        "[control]\n",
        &format!(
            "[[notify]]\nkind = \"webhook\"\nleast = \"notice\"\nca = \"ca.pem\"\n\
             url = \"https://{}/hook\"\n[control]\n",
            hook.address
        ),
    );
    fs::copy(good.write(), lab.path("good.toml")).unwrap();
    let poor = good
        .clone()
        .replacing("flag_file", "budget_bytes = 1\nflag_file")
        .clock("leap_file = \"no-such-list\"");
    let mut daemon = poor.boot();
    daemon.serves(&lab).unwrap();
    daemon.status();
    poor.replacing("[nts]", "[ntz]").write();
    let refused = daemon.call(&Request::Reload).unwrap_err().to_string();
    assert!(refused.contains("ntz"), "{refused}");

    let look = Look { lab: &lab, daemon: &daemon, words: RefCell::default() };
    let at_first = [
        ("certificate-files", Health::Cert),
        ("clock-unknown", Health::Clock),
        ("configuration-unusable", Health::Live),
        ("dates-relaxed", Health::Clock),
        ("leap-seconds", Health::Clock),
        ("listeners-refused", Health::Dns),
        ("metered", Health::Live),
        ("metered-budget", Health::Live),
        ("ntp-keys", Health::Clock),
        ("wan-down", Health::Dns),
    ];
    for (name, part) in at_first {
        look.told(name, part);
    }
    let (status, text) = http(&lab, "/health/clock");
    assert!(status == 503 && text.starts_with("clock: NOT WELL: the clock is cold\n"), "{text}");
    assert_eq!(http(&lab, "/health/dns").0, 503);
    assert_eq!(http(&lab, "/health/cert").0, 503);
    assert_eq!(http(&lab, "/health/live").0, 200);
    let page = scraped(&lab);
    assert_eq!(value(&page, "firstlight_config_last_reload_successful"), 0);
    assert_eq!(value(&page, "firstlight_clock_trust_level"), 0);

    // Nobody is told of what does not last, and nobody can be while the time is not known.
    std::thread::sleep(Duration::from_secs(31));
    assert_eq!(hook.messages(), Vec::<Value>::new());
    wan.set(lab::Says::Off(0), false);
    let time = ["clock-unknown", "dates-relaxed"];
    let hold = at_first.map(|(name, _)| name).into_iter().filter(|name| !time.contains(name));
    look.notified(&hook, &hold.collect::<Vec<_>>(), true);

    drop(taken);
    fs::remove_file(lab.path("metered")).unwrap();
    lab.keep_secret("ntp.keys", "1 AES128 HEX:000102030405060708090a0b0c0d0e0f\n");
    lab.authority.issue_files(&lab, "dns.home.lan", (-DAY, 89 * DAY));
    good.write();
    daemon.call(&Request::Reload).unwrap();
    resolvers.iter_mut().for_each(Resolver::start);
    // The time is known then, and confirmed by nobody.
    look.told("clock-unverified", Health::Clock);
    look.told("certificate-unjudged", Health::Cert);
    wan.up();
    for (name, part) in at_first {
        look.cleared(name, part);
    }
    look.cleared("clock-unverified", Health::Clock);
    look.cleared("certificate-unjudged", Health::Cert);
    for part in ["live", "dns", "clock", "cert"] {
        let (status, text) = http(&lab, &format!("/health/{part}"));
        assert!(status == 200 && text.starts_with(&format!("{part}: well: ")), "{text}");
    }
    assert_eq!(value(&scraped(&lab), "firstlight_config_last_reload_successful"), 1);

    // One operator goes, and the name of a question asked meanwhile makes that known.
    resolvers[1].stop();
    look.told("operator-down", Health::Dns);
    resolvers[1].start();
    look.cleared("operator-down", Health::Dns);
    look.notified(&hook, &at_first.map(|(name, _)| name), false);
}

/// A daemon, looked at from three sides.
struct Look<'l> {
    lab: &'l Lab,
    daemon: &'l Daemon,
    /// All that `status` ever said.
    words: RefCell<BTreeSet<String>>,
}

impl Look<'_> {
    /// Waits until a condition is told by `firstlight status --json`, by the figures and by the health of
    /// `part`, in the same words.
    fn told(&self, name: &str, part: Health) {
        let found = eventually(Duration::from_secs(60), || {
            let held = self.status().conditions.into_iter().find(|it| it.name == name)?;
            let Condition { severity, text, .. } = &held;
            let figure =
                format!("firstlight_condition{{name=\"{name}\",severity=\"{severity}\"}} 1.0\n");
            let path = format!("/health/{}", part.name());
            let (_, words) = http(self.lab, &path);
            let (_, shown) = http(self.lab, "/");
            let (_, json) = http_as(self.lab, &path, "Accept: application/json\r\n");
            let json: HealthReport = serde_json::from_str(&json).unwrap();
            // Durations in the words go on between two looks; then another look is taken.
            let same = words.contains(&format!("\n  {severity} {name}: {text}\n"))
                && shown.contains(&format!("<b>{severity} {name}</b>"))
                && json.conditions.iter().any(|it| it.name == name && it.text == *text)
                && scraped(self.lab).contains(&figure);
            same.then_some(())
        });
        assert!(found.is_some(), "{name}: {:#?}\n{}", self.status(), self.daemon.log());
    }

    /// Waits until people elsewhere are told that these hold, in the words of `status`; or that they
    /// do not any more.
    fn notified(&self, hook: &Hook, names: &[&str], holds: bool) {
        let told = eventually(Duration::from_secs(90), || {
            self.status();
            let messages = hook.messages();
            let all = names.iter().all(|name| {
                messages.iter().any(|told| told["condition"] == *name && told["holds"] == holds)
            });
            all.then_some(messages)
        });
        let told = told.unwrap_or_else(|| panic!("{:#?}\n{}", hook.messages(), self.daemon.log()));
        for message in told.iter().filter(|message| message["holds"] == holds) {
            let text = message["text"].as_str().unwrap();
            // Figures in the words go on between two looks.
            let plain = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
            let words = self.words.borrow();
            assert!(words.iter().any(|said| plain(said) == plain(text)), "{text}");
            assert_eq!(message["lasted"].is_null(), holds);
        }
    }

    /// Waits until none of the three tells of it.
    fn cleared(&self, name: &str, part: Health) {
        let gone = eventually(Duration::from_secs(60), || {
            let told = self.status().conditions.iter().any(|it| it.name == name);
            let (_, words) = http(self.lab, &format!("/health/{}", part.name()));
            let words = words.contains(&format!(" {name}: "));
            let figure = scraped(self.lab).contains(&format!("{{name=\"{name}\","));
            (!told && !words && !figure).then_some(())
        });
        assert!(gone.is_some(), "{name}: {:#?}\n{}", self.status(), self.daemon.log());
    }

    fn status(&self) -> Status {
        let out = Command::new(env!("CARGO_BIN_EXE_firstlight"))
            .args(["status", "--json", "--config"])
            .arg(self.lab.path("good.toml"))
            .output()
            .unwrap();
        let status: Status =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"));
        self.words.borrow_mut().extend(status.conditions.iter().map(|held| held.text.clone()));
        status
    }
}

fn reload() {
    let lab = Lab::new();
    let setup = lab.configure();
    let mut daemon = setup.boot();
    daemon.serves(&lab).unwrap();
    // Names come first, who looks at figures is let in later.
    let before = daemon.status().listeners.open;
    assert_eq!(http(&lab, "/health/live").0, 200);
    assert_eq!(http(&lab, "/elsewhere").0, 404);
    assert!(before.contains(&format!("metrics {}", lab.metrics())), "{before:?}");

    let listen = format!("[metrics]\nlisten = [\"{}\"]", lab.metrics());
    setup.replacing(&listen, "[metrics]\nlisten = []").write();
    daemon.call(&Request::Reload).unwrap();

    assert!(TcpStream::connect(lab.metrics()).is_err());
    assert_eq!(daemon.status().listeners.open.len(), before.len() - 1);
}

fn scraped(lab: &Lab) -> String {
    let (status, text) = http(lab, "/metrics");
    assert_eq!(status, 200, "{text}");
    text
}

fn http(lab: &Lab, path: &str) -> (u16, String) {
    http_as(lab, path, "")
}

/// The status code and the body.
fn http_as(lab: &Lab, path: &str, fields: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(lab.metrics()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\n{fields}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// promtool with some input; it must have nothing to say against it.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new(find("promtool").unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{arguments:?}: {out:?}\n{input}");
}

fn of_the_project(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn trial(name: &'static str, programs: &[&'static str], test: fn()) -> Trial {
    match programs.iter().find(|program| find(program).is_none()).or(programs.first()) {
        Some(program) => needing(program, name, test),
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
    }
}
