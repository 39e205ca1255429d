//! Messages survive the wire, with any content.
#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

extern crate corelane_wire as wire;

use base::api::{Condition, ReadAt, WriteId, WriteOp};
use base::{ClientId, RequestId, Timestamp};
use core::time::Duration;
use proptest::prelude::*;
use wire::convert::{Stamp, WriteIdV1};
use wire::{Frame, FrameReader, Message, Outbox, PageBuilder, ReplyRef, RequestRef, Row, reply, request};

fn round_trip<M: Message>(message: &M, check: impl FnOnce(&Frame<'_>)) {
    let mut outbox = Outbox::new();
    outbox.push(RequestId(7), message).unwrap();
    assert!(outbox.len().is_multiple_of(16));
    let mut reader = FrameReader::new(outbox.len());
    reader.extend(outbox.bytes());
    let frame = reader.next().unwrap().unwrap();
    assert_eq!((frame.kind, frame.request), (M::KIND, RequestId(7)));
    check(&frame);
    assert!(reader.next().unwrap().is_none());
    assert!(!reader.is_mid_frame());
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

#[derive(Debug, Clone)]
enum Owned {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Option<Vec<u8>>),
}

impl Owned {
    fn op(&self) -> WriteOp<'_> {
        match self {
            Self::Put(key, value) => WriteOp::Put { key, value },
            Self::Delete(key) => WriteOp::Delete { key },
            Self::DeleteRange(start, end) => WriteOp::DeleteRange {
                start,
                end: end.as_deref(),
            },
        }
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| Owned::Put(key, value)),
        bytes().prop_map(Owned::Delete),
        (bytes(), prop::option::of(bytes())).prop_map(|(start, end)| Owned::DeleteRange(start, end)),
    ]
}

proptest! {
    #[test]
    fn writes(
        ops in prop::collection::vec(owned(), 0..20),
        conditions in prop::collection::vec((bytes(), prop::option::of(bytes())), 0..8),
        client: u128, seq: u64, acked_below: u64, deadline_ms: u32,
    ) {
        let id = WriteId { client: ClientId(client), seq, acked_below };
        let ops: Vec<WriteOp<'_>> = ops.iter().map(Owned::op).collect();
        let conditions: Vec<Condition<'_>> = conditions
            .iter()
            .map(|(key, value)| match value {
                Some(value) => Condition::Equals { key, value },
                None => Condition::Absent { key },
            })
            .collect();
        let wire_ops: Vec<_> = ops.iter().copied().map(request::Op::from).collect();
        let wire_conditions: Vec<_> = conditions.iter().copied().map(request::Condition::from).collect();
        let id_v1 = WriteIdV1::from(id);
        let write = request::Write { id: id_v1, conditions: &wire_conditions, ops: &wire_ops, deadline_ms };
        round_trip(&write, |frame| {
            let RequestRef::Write(got) = wire::decode_request(frame).unwrap() else { panic!("{frame:?}") };
            assert_eq!(got.id.write_id(), id);
            assert_eq!(got.deadline_ms, deadline_ms);
            assert_eq!(got.ops().collect::<Vec<_>>(), ops);
            assert_eq!(got.conditions().collect::<Vec<_>>(), conditions);
        });
    }

    #[test]
    fn pages(rows in prop::collection::vec((bytes(), bytes(), any::<u64>(), any::<u32>()), 0..30), done: bool) {
        let mut page = PageBuilder::new();
        for (key, value, wall_ns, logical) in &rows {
            page.push(key, value, Timestamp::new(*wall_ns, *logical));
        }
        let resume = rows.last().map(|row| &row.0[..]);
        round_trip(&page.page(Timestamp::new(1, 2), resume, done), |frame| {
            let ReplyRef::ScanPage(got) = wire::decode_reply(frame).unwrap() else { panic!("{frame:?}") };
            let expected = rows.iter().map(|(key, value, wall_ns, logical)| {
                Row { key, value, ts: Timestamp::new(*wall_ns, *logical) }
            });
            assert!(got.iter().eq(expected));
            assert_eq!((got.resume(), got.done, got.read_ts.timestamp()), (resume, done, Timestamp::new(1, 2)));
        });
    }

    #[test]
    fn gets_and_their_replies(key in bytes(), value in prop::option::of(bytes()), wall_ns: u64, logical: u32, age: Option<u32>, at: bool) {
        let ts = Timestamp::new(wall_ns, logical);
        let age = age.map(|ms| Duration::from_millis(ms.into()));
        let at = match age {
            None => ReadAt::of(at.then_some(ts)),
            Some(age) if at => ReadAt::Ago(age),
            Some(age) => ReadAt::Within(age),
        };
        let get = request::Get { key: &key, at: at.into(), deadline_ms: 1 };
        round_trip(&get, |frame| {
            let RequestRef::Get(got) = wire::decode_request(frame).unwrap() else { panic!("{frame:?}") };
            assert_eq!((&*got.key, got.at()), (&key[..], at));
        });
        round_trip(&reply::GetReply { value: value.as_deref(), ts: Stamp::from(ts) }, |frame| {
            let ReplyRef::GetReply(got) = wire::decode_reply(frame).unwrap() else { panic!("{frame:?}") };
            assert_eq!((got.value(), got.ts.timestamp()), (value.as_deref(), ts));
        });
    }
}

#[test]
fn the_longest_batch_fits_and_anything_longer_is_refused_without_a_trace() {
    let value = vec![7; base::limits::VALUE_BYTES_MAX];
    let put = request::Op::Put {
        key: b"k",
        value: &value,
    };
    let id = WriteIdV1::from(WriteId::default());
    let mut outbox = Outbox::new();
    let write = request::Write {
        id,
        conditions: &[],
        ops: &[put; 3],
        deadline_ms: 1,
    };
    outbox.push(RequestId(1), &write).unwrap();
    let before = outbox.len();
    let error = outbox
        .push(
            RequestId(2),
            &request::Write {
                ops: &[put; 7],
                ..write
            },
        )
        .unwrap_err();
    assert!(error.bytes > error.max, "{error}");
    assert_eq!(outbox.len(), before);
    // A million small operations are the other extreme.
    let ops = vec![
        request::Op::Delete {
            key: b"0123456789abcdef"
        };
        base::limits::BATCH_OPS_MAX
    ];
    outbox.clear();
    outbox
        .push(RequestId(3), &request::Write { ops: &ops, ..write })
        .unwrap();
    let mut reader = FrameReader::new(base::limits::FRAME_BYTES_MAX);
    reader.extend(outbox.bytes());
    let frame = reader.next().unwrap().unwrap();
    let RequestRef::Write(got) = wire::decode_request(&frame).unwrap() else {
        panic!("{frame:?}")
    };
    assert_eq!(got.ops().len(), base::limits::BATCH_OPS_MAX);
}

#[test]
fn an_outbox_is_sent_in_any_pieces() {
    let mut outbox = Outbox::new();
    let mut sent = Vec::new();
    let payload = vec![5; 10_000];
    for i in 0..300 {
        outbox
            .push(RequestId(i), &request::Echo { payload: &payload })
            .unwrap();
        let some = outbox.len().min(7_001);
        sent.extend_from_slice(&outbox.bytes()[..some]);
        outbox.consume(some);
    }
    sent.extend_from_slice(outbox.bytes());
    outbox.consume(outbox.len());
    assert!(outbox.is_empty());
    let mut reader = FrameReader::new(20_000);
    let mut next = 0;
    for chunk in sent.chunks(999) {
        reader.extend(chunk);
        while let Some(frame) = reader.next().unwrap() {
            assert_eq!(
                (frame.request, frame.payload.len() >= payload.len()),
                (RequestId(next), true)
            );
            next += 1;
        }
    }
    assert_eq!(next, 300);
}

/// A reader with little room takes over from one that had more: a connection that changes shards behind its hello.
#[test]
fn a_reader_takes_over_more_than_it_would_have_received() {
    let mut outbox = Outbox::new();
    for request in 0..100 {
        let echo = request::Echo { payload: &[7; 1000] };
        outbox.push(RequestId(request), &echo).unwrap();
    }
    let mut reader = FrameReader::new(1024);
    let (whole, part) = outbox.bytes().split_at(outbox.len() - 500);
    reader.extend(whole);
    for request in 0..99 {
        assert_eq!(reader.next().unwrap().unwrap().request, RequestId(request));
    }
    assert_eq!(reader.next(), Ok(None));
    let (head, tail) = part.split_at(100);
    let room = reader.spare();
    room[..100].copy_from_slice(head);
    reader.filled(100);
    reader.extend(tail);
    assert_eq!(reader.next().unwrap().unwrap().request, RequestId(99));
    assert_eq!(reader.next(), Ok(None));
    assert!(!reader.is_mid_frame());
}
