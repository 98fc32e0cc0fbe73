//! `firstlight upstreams`: who answers what is neither local nor cached.

use clap::Args;

use crate::admin::Request;
use crate::admin::report::Upstream;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;
use crate::cli::table;

/// How to show them.
#[derive(Args, Debug)]
pub(super) struct Upstreams {
    /// In the order in which they are tried, with the reasons for it.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    look: Look,
}

/// Prints the upstreams, an address a line.
pub(super) fn run(upstreams: &Upstreams) -> Result<u8, Failure> {
    let view = if upstreams.verbose { reasons } else { view };
    upstreams.look.show(&Request::Upstreams, |upstreams: &Vec<Upstream>| view(upstreams))
}

fn view(upstreams: &[Upstream]) -> String {
    let title = ["Name", "Operator", "Address", "State", "Latency", "Failures", ""];
    let rows = upstreams.iter().map(|upstream| {
        let note = if upstream.relaxed_only { "certificate out of date by our clock" } else { "" };
        [
            upstream.name.clone(),
            upstream.operator.clone(),
            upstream.address.clone(),
            upstream.state.clone(),
            millis(upstream.latency_ms),
            upstream.failures.to_string(),
            note.to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(title.map(str::to_owned)).chain(rows).collect();
    table::aligned(&rows)
}

const LEGEND: &str = "\
First   share of the questions that go to it first
Hedge   silent for so long, another operator is asked too
95 %    what 19 of 20 of the latest answers took at most
Loss    questions lost of late
Reason  best, or why it is not first:
        turn         hardly slower than the best, and of another operator: it takes its turn
        next         slower, or of an operator that had its place before
        unknown      never heard on this path
        lossy        it failed of late
        silent       others answer before it, and it nothing
        outdone      SERVFAIL or REFUSED to what other operators answered; for a minute
        relaxed      its certificate is out of date by our clock
        family-down  nothing of its address family answers, and the other family does
        down         it does not answer; it is asked in the background

";

fn reasons(upstreams: &[Upstream]) -> String {
    let mut ordered: Vec<_> = upstreams.iter().collect();
    ordered.sort_by_key(|upstream| upstream.place);
    let title =
        ["", "Address", "Operator", "State", "First", "Latency", "95 %", "Hedge", "Loss", "Reason"];
    let rows = ordered.into_iter().map(|upstream| {
        [
            upstream.place.to_string(),
            upstream.address.clone(),
            upstream.operator.clone(),
            upstream.state.clone(),
            format!("{:.1} %", upstream.share),
            millis(upstream.latency_ms),
            millis(upstream.p95_ms),
            millis(Some(upstream.hedge_after_ms)),
            format!("{:.1} %", upstream.loss),
            upstream.reason.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(title.map(str::to_owned)).chain(rows).collect();
    format!("{LEGEND}{}", table::aligned(&rows))
}

fn millis(millis: Option<f64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| table::seconds(millis / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_a_line() {
        assert_eq!(
            view(&two()),
            "Name           Operator   Address        State  Latency  Failures\n\
             dns.a.example  a.example  192.0.2.1:853  down   -        12        \
             certificate out of date by our clock\n\
             dns.b          b          192.0.2.1:853  up     23 ms    0\n"
        );
    }

    #[test]
    fn the_reasons_are_told_in_the_order_of_the_plan() {
        assert_eq!(
            reasons(&two()).strip_prefix(LEGEND),
            Some(
                "   Address        Operator   State  First    Latency  95 %   Hedge   Loss    Reason\n\
                 1  192.0.2.1:853  b          up     100.0 %  23 ms    40 ms  40 ms   0.0 %   best\n\
                 2  192.0.2.1:853  a.example  down   0.0 %    -        -      200 ms  66.5 %  down\n"
            )
        );
    }

    fn two() -> [Upstream; 2] {
        let down = Upstream {
            name: "dns.a.example".to_owned(),
            operator: "a.example".to_owned(),
            address: "192.0.2.1:853".to_owned(),
            state: "down".to_owned(),
            place: 2,
            reason: "down".to_owned(),
            share: 0.0,
            latency_ms: None,
            p95_ms: None,
            hedge_after_ms: 200.0,
            loss: 66.5,
            failures: 12,
            relaxed_only: true,
        };
        let best = Upstream {
            name: "dns.b".to_owned(),
            operator: "b".to_owned(),
            state: "up".to_owned(),
            place: 1,
            reason: "best".to_owned(),
            share: 100.0,
            latency_ms: Some(23.4),
            p95_ms: Some(40.0),
            hedge_after_ms: 40.0,
            loss: 0.0,
            failures: 0,
            relaxed_only: false,
            ..down.clone()
        };
        [down, best]
    }
}
