//! The codec against hickory-proto's, which shares no line with it.

use hickory_proto::op::{Edns as HickoryEdns, Message as Hickory, MessageType, OpCode};
use hickory_proto::op::{Query as HickoryQuery, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TXT};
use hickory_proto::rr::{Name as HickoryName, RData, Record as HickoryRecord, RecordType};
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn no_octets_make_reading_a_question_panic(
        octets in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut out = Vec::new();
        if let Err(why) = Query::parse(&octets) {
            malformed(&octets, why, &mut out);
        }
    }

    #[test]
    fn no_change_to_a_question_makes_reading_it_panic(
        query in queries(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut octets = query.to_vec().unwrap();
        for (at, value) in changes {
            let at = at.index(octets.len());
            octets[at] = value;
        }
        octets.truncate(cut.index(octets.len()) + 1);
        let mut out = Vec::new();
        match Query::parse(&octets) {
            Ok(query) => Reply::new(&query, Rcode::REFUSED, &mut out).finish(
                &query,
                Note::default(),
                &Hop::of(usize::MAX),
            ),
            Err(why) => _ = malformed(&octets, why, &mut out),
        }
    }

    #[test]
    fn questions_are_read_as_hickory_reads_them(hickory in queries()) {
        let octets = hickory.to_vec().unwrap();

        let query = Query::parse(&octets).unwrap();

        prop_assert_eq!(query.header.id, hickory.metadata.id);
        prop_assert_eq!(query.header.has(flags::RD), hickory.metadata.recursion_desired);
        prop_assert_eq!(query.checking_disabled(), hickory.metadata.checking_disabled);
        let asked = &hickory.queries[0];
        prop_assert_eq!(query.qtype.0, u16::from(asked.query_type()));
        let name = Name::from_wire(query.name()).unwrap();
        prop_assert_eq!(text(&name), text(&asked.name().to_lowercase()));
        let edns = hickory.edns.as_ref();
        prop_assert_eq!(query.dnssec_ok(), edns.is_some_and(|edns| edns.flags().dnssec_ok));
        prop_assert_eq!(
            query.edns.map(|edns| edns.udp_size),
            edns.map(HickoryEdns::max_payload)
        );
    }

    #[test]
    fn messages_are_walked_as_hickory_reads_them(octets in messages()) {
        let hickory = Hickory::from_vec(&octets).unwrap();
        let message = Message::parse(&octets).unwrap();
        let hickory_records = || hickory.all_sections();

        let records: Vec<_> = message
            .records()
            .map(Result::unwrap)
            .filter(|record| record.rtype != Type::OPT)
            .collect();

        prop_assert_eq!(records.len(), hickory_records().count());
        for (record, expected) in records.iter().zip(hickory_records()) {
            let mut owner = [0; MAX_NAME];
            let len = read_name(&octets, record.owner_at, &mut owner).unwrap();
            let owner = Name::from_wire(&owner[..len]).unwrap();
            prop_assert_eq!(text(&owner), text(&expected.name.to_lowercase()));
            prop_assert_eq!(record.ttl, expected.ttl);
            prop_assert_eq!(record.rtype.0, u16::from(expected.record_type()));
            if let RData::SOA(soa) = &expected.data {
                prop_assert_eq!(record.soa_minimum(), Some(soa.minimum));
            }
        }
    }

    #[test]
    fn hickory_reads_what_is_written(
        hickory in queries(),
        addresses in prop::collection::vec((any::<[u8; 4]>(), any::<u32>()), 0..90),
        limit in prop_oneof![Just(512_usize), Just(1232), Just(65535)],
        text in prop::option::of(".{0,80}"),
    ) {
        let packet = hickory.to_vec().unwrap();
        let query = Query::parse(&packet).unwrap();
        let mut out = Vec::new();
        let mut reply = Reply::new(&query, Rcode::NOERROR, &mut out);
        for (address, ttl) in &addresses {
            reply.record(Section::Answer, Header::LEN, Type::A, *ttl & 0x7fff_ffff, address);
        }
        let note = text.as_deref().map_or_else(Note::default, |text| Note::ede(Ede::Other, text));
        reply.finish(&query, note, &Hop::of(limit));

        prop_assert!(out.len() <= limit);
        let read = Hickory::from_vec(&out).unwrap();
        prop_assert_eq!(read.metadata.id, hickory.metadata.id);
        prop_assert_eq!(&read.queries, &hickory.queries);
        prop_assert_eq!(read.edns.is_some(), hickory.edns.is_some());
        if read.metadata.truncation {
            prop_assert!(read.answers.is_empty());
        } else {
            let expected: Vec<_> = addresses
                .iter()
                .map(|(address, ttl)| (RData::A(A((*address).into())), ttl & 0x7fff_ffff))
                .collect();
            let got: Vec<_> =
                read.answers.iter().map(|record| (record.data.clone(), record.ttl)).collect();
            prop_assert_eq!(got, expected);
        }
        if let (Some(edns), Some(text), false) = (&read.edns, &text, read.metadata.truncation) {
            let Some(EdnsOption::Unknown(_, content)) = edns.option(EdnsCode::Unknown(15)) else {
                panic!("no EDE option in {edns:?}");
            };
            prop_assert_eq!(&content[2..], text.as_bytes());
        }
    }

    #[test]
    fn copied_records_read_as_the_originals(hickory in queries(), octets in messages()) {
        let packet = hickory.to_vec().unwrap();
        let query = Query::parse(&packet).unwrap();
        let mut out = Vec::new();
        let mut reply = Reply::new(&query, Rcode::NOERROR, &mut out);
        for record in Message::parse(&octets).unwrap().records().map(Result::unwrap) {
            if record.rtype != Type::OPT {
                reply.copy(&octets, &record, record.ttl);
            }
        }
        reply.finish(&query, Note::default(), &Hop::of(usize::MAX));

        let plain = |octets: &[u8]| {
            let message = Hickory::from_vec(octets).unwrap();
            message.all_sections().map(|record| record.to_string().to_lowercase()).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(&out), plain(&octets));
    }
}

#[test]
fn an_error_reply_repeats_id_opcode_and_question() {
    let mut packet = question("Pi.home.lan").to_vec().unwrap();
    packet[2] |= 5 << 3;
    let mut out = Vec::new();

    assert!(malformed(&packet, Query::parse(&packet).unwrap_err(), &mut out));

    let read = Hickory::from_vec(&out).unwrap();
    assert_eq!(read.metadata.response_code, ResponseCode::NotImp);
    assert_eq!((read.metadata.id, read.metadata.op_code), (7, OpCode::Update));
}

#[test]
fn a_later_version_of_edns_is_told_ours() {
    let mut hickory = question("pi.home.lan.");
    let mut edns = HickoryEdns::new();
    edns.set_version(1);
    hickory.set_edns(edns);
    let packet = hickory.to_vec().unwrap();
    let mut out = Vec::new();

    assert!(malformed(&packet, Query::parse(&packet).unwrap_err(), &mut out));

    let read = Hickory::from_vec(&out).unwrap();
    assert_eq!(u16::from(read.metadata.response_code), Rcode::BADVERS.0);
    assert_eq!(read.edns.as_ref().map(HickoryEdns::version), Some(0));
    assert_eq!(read.queries, hickory.queries);
}

fn question(name: &str) -> Hickory {
    let mut message = Hickory::new(7, MessageType::Query, OpCode::Query);
    message.add_query(HickoryQuery::query(name.parse().unwrap(), RecordType::A));
    message
}

/// A name's text without the final dot.
fn text(name: &impl ToString) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

fn names() -> impl Strategy<Value = HickoryName> {
    prop::collection::vec("[a-zA-Z0-9][a-zA-Z0-9-]{0,11}", 0..5)
        .prop_map(|labels| HickoryName::from_labels(labels.iter().map(String::as_bytes)).unwrap())
}

fn queries() -> impl Strategy<Value = Hickory> {
    let edns = prop::option::of((any::<u16>(), any::<bool>()));
    let qtype = prop_oneof![Just(RecordType::A), Just(RecordType::AAAA), Just(RecordType::HTTPS)];
    (any::<u16>(), any::<bool>(), any::<bool>(), names(), qtype, edns).prop_map(
        |(id, rd, cd, name, qtype, edns)| {
            let mut message = Hickory::new(id, MessageType::Query, OpCode::Query);
            message.metadata.recursion_desired = rd;
            message.metadata.checking_disabled = cd;
            message.add_query(HickoryQuery::query(name, qtype));
            if let Some((size, dnssec_ok)) = edns {
                let mut edns = HickoryEdns::new();
                edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
                message.set_edns(edns);
            }
            message
        },
    )
}

fn records() -> impl Strategy<Value = HickoryRecord> {
    let rdata = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| RData::A(A(octets.into()))),
        any::<[u8; 16]>().prop_map(|octets| RData::AAAA(AAAA(octets.into()))),
        names().prop_map(|name| RData::CNAME(CNAME(name))),
        (any::<u16>(), names()).prop_map(|(preference, name)| RData::MX(MX::new(preference, name))),
        "[ -~]{0,60}".prop_map(|text| RData::TXT(TXT::new(vec![text]))),
        (names(), names(), any::<u32>()).prop_map(|(mname, rname, minimum)| RData::SOA(SOA::new(
            mname, rname, 1, 2, 3, 4, minimum
        ))),
    ];
    (names(), 0..0x7fff_ffff_u32, rdata)
        .prop_map(|(name, ttl, rdata)| HickoryRecord::from_rdata(name, ttl, rdata))
}

/// Responses as hickory writes them: compressed, with and without OPT.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let section = || prop::collection::vec(records(), 0..4);
    (queries(), section(), section(), section()).prop_map(
        |(mut message, answers, authorities, additionals)| {
            message.metadata.message_type = MessageType::Response;
            message.add_answers(answers);
            message.add_authorities(authorities);
            message.add_additionals(additionals);
            message.to_vec().unwrap()
        },
    )
}
