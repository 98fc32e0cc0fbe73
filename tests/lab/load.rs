//! A house that asks, whatever becomes of its questions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};

use super::now;

/// After this a client gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a question.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    /// Since the first question of all.
    pub(crate) after: Duration,
    pub(crate) heard: Option<Heard>,
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) took: Duration,
    pub(crate) code: ResponseCode,
    pub(crate) address: Option<Ipv4Addr>,
    /// The extended error (RFC 8914).
    pub(crate) error: Option<u16>,
}

/// Asks for the addresses of `names` over UDP, one each `every`, without waiting for answers.
pub(crate) fn ask_all(server: SocketAddr, names: &[String], every: Duration) -> Vec<Asked> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let begin = now();
    let underway = Mutex::new(BTreeMap::<u16, (usize, Instant)>::new());
    let mut asked: Vec<Asked> = names
        .iter()
        .map(|name| Asked { name: name.clone(), after: Duration::ZERO, heard: None })
        .collect();
    let heard = thread::scope(|scope| {
        let listener = scope.spawn(|| listen(&socket, &underway, names.len()));
        for (number, asked) in asked.iter_mut().enumerate() {
            let due = begin + every * u32::try_from(number).unwrap();
            thread::sleep(due.saturating_duration_since(now()));
            let id = u16::try_from(number % 0x1_0000).unwrap();
            let query = query(id, &asked.name);
            let sent = now();
            asked.after = sent.saturating_duration_since(begin);
            underway.lock().unwrap().insert(id, (number, sent));
            socket.send(&query).unwrap();
        }
        listener.join().unwrap()
    });
    for (number, heard) in heard {
        asked[number].heard = Some(heard);
    }
    asked
}

/// Until each of `count` questions is answered, or too old.
fn listen(
    socket: &UdpSocket,
    underway: &Mutex<BTreeMap<u16, (usize, Instant)>>,
    count: usize,
) -> Vec<(usize, Heard)> {
    let (mut all, mut lost) = (Vec::new(), 0);
    let mut reply = [0; 4096];
    while all.len() + lost < count {
        let received = socket.recv(&mut reply);
        let at = now();
        let mut underway = underway.lock().unwrap();
        if let Ok(length) = received {
            let message = Message::from_vec(&reply[..length]).unwrap();
            if let Some((number, sent)) = underway.remove(&message.metadata.id) {
                all.push((number, read(&message, at.saturating_duration_since(sent))));
            }
        }
        let before = underway.len();
        underway.retain(|_, (_, sent)| at.saturating_duration_since(*sent) < PATIENCE);
        lost += before - underway.len();
    }
    all
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

fn read(message: &Message, took: Duration) -> Heard {
    let address = message.answers.iter().find_map(|record| {
        if let RData::A(address) = &record.data { Some(address.0) } else { None }
    });
    let error = message.edns.as_ref().and_then(|edns| {
        let option = edns.option(EdnsCode::Unknown(15))?;
        let EdnsOption::Unknown(_, content) = option else { return None };
        content.first_chunk().map(|code| u16::from_be_bytes(*code))
    });
    Heard { took, code: message.metadata.response_code, address, error }
}

/// The share `part` of `waits`, which are sorted for it, is at most this.
pub(crate) fn quantile(waits: &mut [Duration], part: f64) -> Duration {
    waits.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = (waits.len() as f64 * part).ceil() as usize;
    waits[place.saturating_sub(1)]
}
