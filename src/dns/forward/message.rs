//! A question on its way to an upstream, and what counts as an answer to it.

/// A query as upstreams see it: one question, padded, its id left open.
#[derive(Debug)]
pub(super) struct Outgoing {
    wire: Vec<u8>,
    /// Where the question section ends.
    question_end: usize,
    id: [u8; 2],
}

/// What a message from an upstream is to a query.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reply {
    /// Its answer.
    Answer,
    /// An error that repeats no question (FORMERR and its like, RFC 1035
    /// section 4.1.1), or an answer cut short where nothing limits its length.
    Useless,
    /// Not an answer to it.
    Foreign,
}

impl Outgoing {
    /// Takes a whole message; `None` unless it is a query with exactly one question.
    pub(super) fn new(mut wire: Vec<u8>) -> Option<Self> {
        let id = [*wire.first()?, *wire.get(1)?];
        let query = wire.get(2)? & QR == 0 && counts(&wire)?[0] == 1;
        let question_end = skip_name(&wire, HEADER)? + 4;
        if !query || question_end > wire.len() || wire.len() > usize::from(u16::MAX) {
            return None;
        }
        pad(&mut wire, question_end);
        Some(Self { wire, question_end, id })
    }

    /// The message, with `id`.
    pub(super) fn message(&self, id: u16) -> Vec<u8> {
        with_id(self.wire.clone(), id.to_be_bytes())
    }

    /// The message, with `id`, behind its length (RFC 1035 section 4.2.2).
    pub(super) fn framed(&self, id: u16) -> Vec<u8> {
        // It fits: longer messages were refused, and none was padded beyond.
        let len = u16::try_from(self.wire.len()).unwrap_or(u16::MAX);
        let mut frame = Vec::with_capacity(2 + self.wire.len());
        frame.extend_from_slice(&len.to_be_bytes());
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(self.wire.get(2..).unwrap_or_default());
        frame
    }

    /// Judges `message`, its id left aside.
    pub(super) fn judge(&self, message: &[u8]) -> Reply {
        let (Some([flags, rcode]), Some(counts)) = (message.get(2..4), counts(message)) else {
            return Reply::Foreign;
        };
        let opcode = self.wire.get(2).map(|flags| flags & OPCODE);
        if flags & QR == 0 || Some(flags & OPCODE) != opcode {
            return Reply::Foreign;
        }
        if counts[0] == 0 && rcode & RCODE != 0 {
            return Reply::Useless;
        }
        let question = |message: &'_ [u8]| {
            let split = self.question_end - 4;
            Some((
                message.get(HEADER..split)?.to_ascii_lowercase(),
                message.get(split..self.question_end)?.to_vec(),
            ))
        };
        if counts[0] != 1 || question(message) != question(&self.wire) {
            return Reply::Foreign;
        }
        if flags & TC == 0 { Reply::Answer } else { Reply::Useless }
    }

    /// `answer`, which [`Self::judge`] called one, with the id that was asked
    /// with, and without its padding: that was for the upstream's hop.
    pub(super) fn answered(&self, mut answer: Vec<u8>) -> Vec<u8> {
        if let Some(Tail { last: Some(TYPE_OPT), opt: Some(rdata) }) =
            Tail::of(&answer, self.question_end)
        {
            drop_padding(&mut answer, rdata);
        }
        with_id(answer, self.id)
    }
}

/// Whether another operator may know better: SERVFAIL or REFUSED.
pub(super) fn is_evasive(answer: &[u8]) -> bool {
    const SERVFAIL: u8 = 2;
    const REFUSED: u8 = 5;
    answer.get(3).is_some_and(|flags| matches!(flags & RCODE, SERVFAIL | REFUSED))
}

/// A query for the name servers of the root, which every resolver knows.
pub(super) fn root_query() -> Vec<u8> {
    vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]
}

const HEADER: usize = 12;
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TC: u8 = 0x02;
const RCODE: u8 = 0x0f;
/// Queries are padded to multiples of this (RFC 8467 section 4.1).
const BLOCK: usize = 128;
/// Option code of padding (RFC 7830).
const PADDING: u16 = 12;
const TYPE_SIG: u16 = 24;
const TYPE_OPT: u16 = 41;
const TYPE_TSIG: u16 = 250;
/// An OPT record that offers 1232 octets and asks for nothing (RFC 6891 section 6.1.2).
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

fn with_id(mut message: Vec<u8>, id: [u8; 2]) -> Vec<u8> {
    if let Some(head) = message.get_mut(..2) {
        head.copy_from_slice(&id);
    }
    message
}

/// The numbers of questions, answers, authority and additional records.
fn counts(wire: &[u8]) -> Option<[u16; 4]> {
    let mut counts = [0; 4];
    for (count, octets) in counts.iter_mut().zip(wire.get(4..HEADER)?.chunks_exact(2)) {
        *count = u16::from_be_bytes(octets.try_into().ok()?);
    }
    Some(counts)
}

/// Fills `wire` up to a whole number of blocks, in its OPT record or one added
/// to it. A message in which that is not possible stays as it is.
fn pad(wire: &mut Vec<u8>, question_end: usize) {
    let Some(rdata) = take_opt(wire, question_end) else { return };
    let unpadded = wire.len() + 4;
    let fill = unpadded.next_multiple_of(BLOCK) - unpadded;
    let rdlen = wire.len() - rdata + 4 + fill;
    let (Ok(fill), Ok(rdlen)) = (u16::try_from(fill), u16::try_from(rdlen)) else { return };
    if unpadded + usize::from(fill) > usize::from(u16::MAX) {
        return;
    }
    wire.extend_from_slice(&PADDING.to_be_bytes());
    wire.extend_from_slice(&fill.to_be_bytes());
    wire.resize(wire.len() + usize::from(fill), 0);
    if let Some(len) = wire.get_mut(rdata - 2..rdata) {
        len.copy_from_slice(&rdlen.to_be_bytes());
    }
}

/// Sees to it that `wire` ends in an OPT record without padding, and tells
/// where its options begin. `None` if another record ends it or covers it by a
/// signature, or if it is damaged: then it is left as it is.
fn take_opt(wire: &mut Vec<u8>, question_end: usize) -> Option<usize> {
    match Tail::of(wire, question_end)? {
        Tail { last: Some(TYPE_OPT), opt: Some(rdata) } => {
            drop_padding(wire, rdata)?;
            Some(rdata)
        }
        Tail { last: Some(TYPE_SIG | TYPE_TSIG), .. } | Tail { opt: Some(_), .. } => None,
        Tail { opt: None, .. } => {
            let count = counts(wire)?[3].checked_add(1)?;
            wire.get_mut(10..HEADER)?.copy_from_slice(&count.to_be_bytes());
            wire.extend_from_slice(&OPT);
            Some(wire.len())
        }
    }
}

/// How a message ends.
struct Tail {
    /// The type of its last record.
    last: Option<u16>,
    /// Where the options of its OPT record begin.
    opt: Option<usize>,
}

impl Tail {
    /// `None` if the records do not add up to the message.
    fn of(wire: &[u8], question_end: usize) -> Option<Self> {
        let [_, answers, authority, additional] = counts(wire)?;
        let records = u32::from(answers) + u32::from(authority) + u32::from(additional);
        let (mut at, mut tail) = (question_end, Self { last: None, opt: None });
        for _ in 0..records {
            let fixed = skip_name(wire, at)?;
            let kind = u16_at(wire, fixed)?;
            let rdata = fixed + 10;
            at = rdata + usize::from(u16_at(wire, fixed + 8)?);
            tail.last = Some(kind);
            tail.opt = (kind == TYPE_OPT).then_some(rdata).or(tail.opt);
        }
        (at == wire.len()).then_some(tail)
    }
}

/// Removes the padding from the options that begin at `rdata` and end the
/// message: it is for one hop (RFC 7830 section 4). `None` if they are
/// damaged; then they stay.
fn drop_padding(wire: &mut Vec<u8>, rdata: usize) -> Option<()> {
    let (mut kept, mut at) = (Vec::new(), rdata);
    while at < wire.len() {
        let end = at + 4 + usize::from(u16_at(wire, at + 2)?);
        let option = wire.get(at..end)?;
        if u16_at(wire, at)? != PADDING {
            kept.extend_from_slice(option);
        }
        at = end;
    }
    let len = u16::try_from(kept.len()).ok()?;
    wire.get_mut(rdata - 2..rdata)?.copy_from_slice(&len.to_be_bytes());
    wire.truncate(rdata);
    wire.append(&mut kept);
    Some(())
}

/// Where the name that begins at `at` ends; it may end in a pointer.
fn skip_name(wire: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *wire.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            // In front of the question there is nothing to point to.
            0xc0.. if at > HEADER => return Some(at + 2),
            _ => return None,
        }
    }
}

fn u16_at(wire: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(wire.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_padded_to_a_block_and_means_the_same() {
        let plain = query("www.example.org.", None);

        let outgoing = Outgoing::new(plain.clone()).unwrap();

        let wire = outgoing.message(0x1234);
        assert_eq!(wire.len(), BLOCK);
        let (before, after) = (parse(&plain), parse(&wire));
        assert_eq!(after.metadata.id, 0x1234);
        assert_eq!(before.queries, after.queries);
        assert_eq!(outgoing.framed(0x1234)[..2], [0, 128]);
        assert_eq!(outgoing.framed(0x1234)[2..], wire);
    }

    #[test]
    fn the_client_s_options_stay_but_its_padding_does_not() {
        let mut edns = Edns::new();
        edns.set_dnssec_ok(true);
        edns.options_mut().insert(EdnsOption::Unknown(12, vec![0; 300]));
        edns.options_mut().insert(EdnsOption::Unknown(65001, vec![1, 2, 3]));

        let wire = Outgoing::new(query("example.org.", Some(edns))).unwrap().message(0);

        assert_eq!(wire.len(), BLOCK);
        let edns = parse(&wire).edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        assert_eq!(
            edns.option(EdnsCode::Unknown(65001)),
            Some(&EdnsOption::Unknown(65001, vec![1, 2, 3]))
        );
    }

    #[test]
    fn an_answer_comes_back_with_its_id_and_without_padding() {
        let asked = query("example.org.", Some(Edns::new()));
        let outgoing = Outgoing::new(asked.clone()).unwrap();
        let mut padded = outgoing.message(0);
        padded[2] |= QR;

        let answered = outgoing.answered(padded);

        assert_eq!(answered.len(), asked.len());
        assert_eq!(answered[..2], asked[..2]);
        assert!(parse(&answered).edns.is_some_and(|edns| edns.options().as_ref().is_empty()));
    }

    #[test]
    fn damaged_options_are_passed_on_as_they_came() {
        let mut odd = query("example.org.", Some(Edns::new()));
        let rdlen = odd.len() - 2;
        // Padding, and then half an option.
        odd[rdlen..].copy_from_slice(&[0, 7]);
        odd.extend([0, 12, 0, 0, 0, 9, 0]);

        assert_eq!(Outgoing::new(odd.clone()).unwrap().wire, odd);
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let outgoing = Outgoing::new(query("www.example.org.", None)).unwrap();
        let answer = |name: &str, change: fn(&mut Vec<u8>)| {
            let mut wire = query(name, None);
            wire[2] |= QR;
            change(&mut wire);
            outgoing.judge(&wire)
        };

        assert_eq!(answer("WWW.eXample.org.", |_| {}), Reply::Answer);
        assert_eq!(answer("www.example.net.", |_| {}), Reply::Foreign);
        assert_eq!(answer("www.example.org.", |wire| wire[2] &= !QR), Reply::Foreign);
        assert_eq!(answer("www.example.org.", |wire| wire[2] |= 0x10), Reply::Foreign);
        assert_eq!(answer("www.example.org.", |wire| wire[2] |= TC), Reply::Useless);
        // Type 28 instead of 1; then class.
        assert_eq!(answer("www.example.org.", |wire| wire[30] = 28), Reply::Foreign);
        assert_eq!(answer("www.example.org.", |wire| wire[32] = 3), Reply::Foreign);
        assert_eq!(outgoing.judge(&[0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Reply::Useless);
        assert_eq!(outgoing.judge(&[0; 5]), Reply::Foreign);
    }

    #[test]
    fn what_is_no_query_is_not_sent() {
        let mut answer = query("example.org.", None);
        answer[2] |= QR;
        assert!(Outgoing::new(answer).is_none());
        assert!(Outgoing::new(vec![0; 12]).is_none());
        assert!(Outgoing::new(vec![]).is_none());
        assert!(Outgoing::new(root_query()).is_some());
    }

    #[test]
    fn a_signed_message_is_left_alone() {
        let mut signed = query("example.org.", None);
        signed[11] = 1;
        signed.extend([0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]);

        assert_eq!(Outgoing::new(signed.clone()).unwrap().wire, signed);
    }

    proptest! {
        #[test]
        fn hostile_octets_neither_panic_nor_pass(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let outgoing = Outgoing::new(query("www.example.org.", None)).unwrap();
            prop_assert_eq!(outgoing.judge(&octets), outgoing.judge(&octets));
            if let Some(sent) = Outgoing::new(octets.clone()) {
                prop_assert!(sent.wire.len() <= octets.len() + 2 * BLOCK + OPT.len());
                prop_assert_eq!(sent.judge(&octets), Reply::Foreign);
            }
            prop_assert!(outgoing.answered(octets.clone()).len() <= octets.len());
        }

        #[test]
        fn every_padded_query_is_whole_blocks(name in "[a-z]{1,60}(\\.[a-z]{1,60}){0,3}\\.") {
            let wire = Outgoing::new(query(&name, Some(Edns::new()))).unwrap().wire;
            prop_assert_eq!(wire.len() % BLOCK, 0);
            prop_assert_eq!(parse(&wire).queries.len(), 1);
        }
    }

    fn query(name: &str, edns: Option<Edns>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.edns = edns;
        message.to_vec().unwrap()
    }

    fn parse(wire: &[u8]) -> Message {
        Message::from_vec(wire).unwrap()
    }
}
