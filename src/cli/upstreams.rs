//! `firstlight upstreams`: who answers what is neither local nor cached.

use crate::admin::Request;
use crate::admin::report::Upstream;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;
use crate::cli::table;

/// Prints the upstreams, an address a line.
pub(super) fn run(look: &Look) -> Result<u8, Failure> {
    look.show(&Request::Upstreams, |upstreams: &Vec<Upstream>| view(upstreams))
}

fn view(upstreams: &[Upstream]) -> String {
    let title = ["Name", "Operator", "Address", "State", "Latency", "Failures", ""];
    let rows = upstreams.iter().map(|upstream| {
        let latency = upstream.latency_ms.map(|ms| table::seconds(ms / 1e3));
        let note = if upstream.relaxed_only { "certificate out of date by our clock" } else { "" };
        [
            upstream.name.clone(),
            upstream.operator.clone(),
            upstream.address.clone(),
            upstream.state.clone(),
            latency.unwrap_or_else(|| "-".to_owned()),
            upstream.failures.to_string(),
            note.to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(title.map(str::to_owned)).chain(rows).collect();
    table::aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_a_line() {
        let upstream = |name: &str, state: &str, latency_ms, failures, relaxed_only| Upstream {
            name: name.to_owned(),
            operator: name.trim_start_matches("dns.").to_owned(),
            address: "192.0.2.1:853".to_owned(),
            state: state.to_owned(),
            latency_ms,
            failures,
            relaxed_only,
        };

        let text = view(&[
            upstream("dns.a.example", "up", Some(23.4), 0, false),
            upstream("dns.b", "down", None, 12, true),
        ]);

        assert_eq!(
            text,
            "Name           Operator   Address        State  Latency  Failures\n\
             dns.a.example  a.example  192.0.2.1:853  up     23 ms    0\n\
             dns.b          b          192.0.2.1:853  down   -        12        \
             certificate out of date by our clock\n"
        );
    }
}
