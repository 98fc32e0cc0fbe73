//! `firstlight clients`: who asks for the time.

use clap::Args;

use crate::admin::Request;
use crate::admin::report::Client;
use crate::cli::daemon::Look;
use crate::cli::exit::Failure;
use crate::cli::table::{self, compact};

/// How to show them.
#[derive(Args, Debug)]
pub(super) struct Clients {
    /// Not more than so many, who asked most first.
    #[arg(short = 'n', long, default_value_t = 32)]
    count: usize,
    #[command(flatten)]
    look: Look,
}

/// Prints the clients, one a line.
pub(super) fn run(clients: &Clients) -> Result<u8, Failure> {
    let count = clients.count;
    clients.look.show(&Request::Clients, |clients: &Vec<Client>| view(clients, count))
}

fn view(clients: &[Client], count: usize) -> String {
    let title = ["Address", "NTP", "Drop", "Int", "Last", "Protected"];
    let rows = clients.iter().take(count).map(|client| {
        [
            client.address.clone(),
            client.asked.to_string(),
            client.dropped.to_string(),
            client.interval.map_or_else(|| "-".to_owned(), |interval| compact(interval, "s")),
            compact(client.last, "s"),
            client.how.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(title.map(str::to_owned)).chain(rows).collect();
    let left = clients.len().saturating_sub(count);
    let more = if left > 0 { format!("and {left} more: --count\n") } else { String::new() };
    table::aligned(&rows) + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_most_comes_first_and_the_rest_is_counted() {
        let client = |address: &str, asked, interval| Client {
            address: address.to_owned(),
            asked,
            dropped: 1,
            last: 12.4,
            interval,
            how: "nts".to_owned(),
        };
        let clients =
            [client("10.0.0.1", 120, Some(64.2)), client("fd00::1", 1, None), client("x", 1, None)];

        assert_eq!(
            view(&clients, 2),
            "\
Address   NTP  Drop  Int  Last  Protected
10.0.0.1  120  1     64s  12s   nts
fd00::1   1    1     -    12s   nts
and 1 more: --count
"
        );
    }
}
