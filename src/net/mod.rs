//! Sockets that DNS and NTP serve on: opening them whatever the machine's state, connections within
//! bounds, datagrams in batches.

mod accept;
mod admission;
pub mod bind;
mod clients;
mod counted;
mod datagram;
mod families;
pub mod held;
mod open;
pub mod rate;
mod serve;
pub mod stamp;

pub use accept::{Accepting, Welcome};
pub use admission::{Admission, Admitted, Slot};
pub use clients::Clients;
pub use counted::Counted;
pub use datagram::{BATCH, Batch, Datagram, MAX_DATAGRAM, Peer, Sent, Socket};
pub use families::Families;
pub use open::{KeepOpen, Listen, Refused};
pub use serve::{DatagramListen, Handler, Tally, Threads};
