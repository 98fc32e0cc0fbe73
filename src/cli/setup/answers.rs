//! The questions, at most five, and what an answer to each may be (pure).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use super::conflict::{Conflict, conflicts};
use super::facts::{Earlier, Facts};
use super::text::built_in_operators;
use crate::config::Config;

/// What a question is about. They are asked in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Topic {
    /// Where to serve.
    Listen,
    /// Whom to ask for names.
    Upstreams,
    /// By which name devices check this machine.
    Name,
    /// Whose clock it is.
    Clock,
    /// What to do about whoever has our ports.
    Ports,
}

/// Every topic, in order.
pub(super) const TOPICS: [Topic; 5] =
    [Topic::Listen, Topic::Upstreams, Topic::Name, Topic::Clock, Topic::Ports];

/// What a person is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Question {
    /// The question, and what may be answered.
    pub(super) text: String,
    /// What an empty answer stands for.
    pub(super) default: String,
}

/// What was decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Answers {
    /// The addresses to serve on; `None`: all, also those that come later.
    pub(super) listen: Option<Vec<IpAddr>>,
    /// Whom to ask for names: operators of the built-in configuration.
    pub(super) operators: Vec<String>,
    /// The name that devices check.
    pub(super) name: String,
    /// The machine's clock is left alone.
    pub(super) observe: bool,
    /// Addresses in the files of other time services become sources.
    pub(super) import: bool,
    /// What to do about whoever has our ports.
    pub(super) ports: Ports,
}

/// What to do about whoever has our ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Ports {
    /// Nothing: firstlight takes them when they are free.
    #[default]
    Leave,
    /// Other ports are served on.
    Beside,
    /// They are stopped for good.
    Stop,
}

impl Answers {
    /// What is decided when nobody is asked.
    pub(super) fn by_default(facts: &Facts) -> Self {
        let earlier = facts.earlier.as_ref();
        let chosen = facts.chosen_time_services().next().is_some();
        let mut answers = Self {
            listen: listen_by_default(facts, earlier),
            operators: built_in_operators(),
            name: facts.domain.as_ref().map_or_else(
                || "firstlight.home.arpa".to_owned(),
                |domain| format!("{}.{domain}", facts.host),
            ),
            observe: chosen || facts.clock_withheld.is_some(),
            import: false,
            ports: Ports::Leave,
        };
        if let Some(earlier) = earlier {
            let mut kept = built_in_operators();
            kept.retain(|operator| earlier.operators.contains(operator));
            if kept.len() >= 2 {
                answers.operators = kept;
            }
            answers.name.clone_from(&earlier.name);
            answers.observe = earlier.observes || facts.clock_withheld.is_some();
            let literal = facts.literal_sources();
            answers.import = literal.iter().any(|(ip, _)| earlier.imported.contains(ip));
            if earlier.beside {
                answers.ports = Ports::Beside;
            }
        }
        answers
    }

    /// The question about `topic`, or none if there is nothing to decide.
    pub(super) fn question(&self, topic: Topic, facts: &Facts) -> Option<Question> {
        let (text, default) = match topic {
            Topic::Listen => (ask_listen(facts), words(self.listen.as_ref())),
            Topic::Upstreams => (
                format!(
                    "Whom to ask for names, always encrypted? Two or more of: {}.",
                    built_in_operators().join(", ")
                ),
                self.operators.join(", "),
            ),
            Topic::Name => (
                "By which name do devices check this machine? It stands in its certificate."
                    .to_owned(),
                self.name.clone(),
            ),
            Topic::Clock => (ask_clock(facts), self.clock_words(facts)),
            Topic::Ports => {
                let mut conflicts = conflicts(facts, self.listen.as_deref());
                conflicts.retain(|conflict| !conflict.keeps_time(self.observe));
                if conflicts.is_empty() {
                    return None;
                }
                (ask_ports(&conflicts), self.ports.word().to_owned())
            }
        };
        Some(Question { text, default })
    }

    /// Takes the answer to the question about `topic`.
    ///
    /// # Errors
    ///
    /// Why it is none, for the person to try again. Nothing is decided then.
    pub(super) fn take(&mut self, topic: Topic, answer: &str, facts: &Facts) -> Result<(), String> {
        match topic {
            Topic::Listen => self.listen = read_listen(answer, facts)?,
            Topic::Upstreams => self.operators = read_operators(answer)?,
            Topic::Name => self.name = read_name(answer)?,
            Topic::Clock => (self.observe, self.import) = read_clock(answer, facts)?,
            Topic::Ports => {
                self.ports = match answer.trim().to_ascii_lowercase().as_str() {
                    "leave" => Ports::Leave,
                    "beside" => Ports::Beside,
                    "stop" => Ports::Stop,
                    other => return Err(format!("`{other}` is none of: leave, beside, stop")),
                };
            }
        }
        Ok(())
    }

    fn clock_words(&self, facts: &Facts) -> String {
        let import = self.import && !facts.literal_sources().is_empty();
        let mode = if self.observe { "observe" } else { "steer" };
        format!("{mode}{}", if import { " import" } else { "" })
    }
}

impl Ports {
    fn word(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Beside => "beside",
            Self::Stop => "stop",
        }
    }
}

/// All addresses, as the built-in configuration has it; of a machine that the internet reaches directly,
/// its private ones.
fn listen_by_default(facts: &Facts, earlier: Option<&Earlier>) -> Option<Vec<IpAddr>> {
    let ours = |ip: &IpAddr| facts.addresses.iter().any(|address| address.ip == *ip);
    if let Some(earlier) = earlier {
        let kept: Vec<_> = earlier.listen.iter().copied().filter(ours).collect();
        return (!kept.is_empty()).then_some(kept);
    }
    let private: Vec<_> = facts.private().map(|address| address.ip).collect();
    (facts.is_public() && !private.is_empty()).then_some(private)
}

fn words(listen: Option<&Vec<IpAddr>>) -> String {
    let Some(listen) = listen else { return "all".to_owned() };
    listen.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn ask_listen(facts: &Facts) -> String {
    let mut text = String::from("Serve on which addresses? `all`, or some of:");
    for (index, address) in facts.addresses.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma} {} ({})", address.ip, address.interface);
    }
    text + ".\nWhoever is not in a local network is refused in any case."
}

fn ask_clock(facts: &Facts) -> String {
    let mut text = String::from(
        "Whose is this machine's clock? `steer`: firstlight sets it. `observe`: another program does,\n\
         and firstlight keeps one of its own.",
    );
    let literal = facts.literal_sources();
    if !literal.is_empty() {
        let shown = literal.iter().map(|(ip, file)| format!("{ip} ({file})"));
        let shown = shown.take(4).collect::<Vec<_>>().join(", ");
        let _ =
            write!(text, "\nWith `import` behind it, these time servers are asked, too: {shown}.");
    }
    text
}

fn ask_ports(conflicts: &[Conflict<'_>]) -> String {
    let mut text = String::from("Others have ports of ours:\n");
    for conflict in conflicts {
        let _ = writeln!(text, "  {}: {}", conflict.ports(), conflict.who());
    }
    text + "`leave`: they stay; firstlight takes the ports once they are free. `beside`: they stay, and\n\
            firstlight serves on other ports. `stop`: they are stopped for good, as far as that is safe."
}

fn read_listen(answer: &str, facts: &Facts) -> Result<Option<Vec<IpAddr>>, String> {
    let mut chosen: Vec<IpAddr> = Vec::new();
    let mut all = false;
    for word in items(answer) {
        let ip = word.parse::<IpAddr>().ok();
        let meant = facts.addresses.iter().filter(|it| Some(it.ip) == ip || it.interface == word);
        let before = chosen.len();
        chosen.extend(meant.map(|address| address.ip));
        all |= word.eq_ignore_ascii_case("all");
        if chosen.len() == before && !word.eq_ignore_ascii_case("all") {
            return Err(format!("`{word}` is no address or interface of this machine"));
        }
    }
    if all && chosen.is_empty() {
        return Ok(None);
    }
    if all || chosen.is_empty() {
        return Err("give `all`, or addresses, or interfaces".to_owned());
    }
    let mut once = Vec::new();
    chosen.retain(|ip| {
        !once.contains(ip) && {
            once.push(*ip);
            true
        }
    });
    Ok(Some(chosen))
}

fn read_operators(answer: &str) -> Result<Vec<String>, String> {
    let known = built_in_operators();
    let asked: Vec<String> = items(answer).map(str::to_ascii_lowercase).collect();
    if let Some(unknown) = asked.iter().find(|word| !known.contains(word)) {
        return Err(format!(
            "`{unknown}` is none of: {}. Others can be written into the file later",
            known.join(", ")
        ));
    }
    let chosen: Vec<_> = known.into_iter().filter(|operator| asked.contains(operator)).collect();
    if chosen.len() < 2 {
        return Err("one operator may fail, and names with it: choose two at least".to_owned());
    }
    Ok(chosen)
}

/// As the configuration itself would read it.
fn read_name(answer: &str) -> Result<String, String> {
    let name = answer.trim().trim_end_matches('.').to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if name.is_empty() || !name.chars().all(plain) {
        return Err("a name has letters, digits, hyphens and dots, like pi.home.lan".to_owned());
    }
    let text = format!(
        "[tls]\nname = \"{name}\"\n[[name]]\nname = \"{name}\"\naddresses = [\"192.0.2.1\"]\n"
    );
    match Config::parse(&text, Path::new("")) {
        Ok(_) => Ok(name),
        Err(report) => Err(report.problems().first().map_or_else(
            || format!("`{name}` cannot be used"),
            |problem| format!("{}: {}", problem.message, problem.remedy),
        )),
    }
}

fn read_clock(answer: &str, facts: &Facts) -> Result<(bool, bool), String> {
    let words: Vec<_> = items(answer).map(str::to_ascii_lowercase).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let decided = match words[..] {
        ["steer"] => (false, false),
        ["observe"] => (true, false),
        ["steer", "import"] => (false, true),
        ["observe", "import"] => (true, true),
        _ => return Err("give `steer` or `observe`, and `import` behind it if wanted".to_owned()),
    };
    if let (false, Some(why)) = (decided.0, facts.clock_withheld) {
        return Err(format!("{why}, so its clock cannot be set from in here: give `observe`"));
    }
    Ok(decided)
}

fn items(answer: &str) -> impl Iterator<Item = &str> {
    answer.split([',', ' ', '\t']).map(str::trim).filter(|word| !word.is_empty())
}
