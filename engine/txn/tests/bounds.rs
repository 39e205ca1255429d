//! How much one request does, and how much one intent keeps.

mod fixtures;

use base::{ClientId, limits};
use corelane_txn::coordinator::{Answer, Config, Coordinator, Effect};
use corelane_txn::evaluate::{DELETES_MAX, RESOLVES_MAX};
use corelane_txn::record::{EARLIER_BYTES_MAX, EARLIER_MAX};
use corelane_txn::request::{Reply, Request};
use corelane_txn::txn::{Seq, SeqSpan, Who};
use corelane_txn::{Batch, Bytes, Epoch, Header, Isolation, Keys, Priority, Refusal, TxnError, TxnId};
use fixtures::{Range, bytes, ts};
use std::sync::Arc;

const ID: TxnId = TxnId {
    client: ClientId(1),
    seq: 1,
};

fn ask(range: &mut Range, ignored: &[SeqSpan], request: Request) -> Result<Reply, Refusal> {
    let who = Who {
        id: ID,
        anchor: bytes("a"),
        name: "".into(),
        isolation: Isolation::Snapshot,
        priority: Priority::Normal,
        start_ts: ts(10),
    };
    let batch = Batch {
        header: Some(Header {
            who: Arc::new(who),
            epoch: Epoch(0),
            read_ts: ts(10),
            write_ts: ts(10),
            limit: ts(10),
            blind: false,
            ignored: ignored.into(),
        }),
        requests: vec![(0, request)],
    };
    let context = range.context(ts(20), 1000);
    let (answer, changes) = range.evaluate(&context, &batch);
    for change in changes {
        range.tables.apply(change);
    }
    answer
        .map(|mut replies| replies.remove(0).1)
        .map_err(|(_, refusal)| refusal)
}

fn write(seq: u32, value: &Bytes) -> Request {
    Request::Write {
        key: bytes("a"),
        seq: Seq(seq),
        value: Some(value.clone()),
        pipelined: false,
    }
}

#[test]
fn an_intent_keeps_so_many_earlier_values() {
    let mut range = Range::new("", None);
    let most = u32::try_from(EARLIER_MAX).expect("small") + 1;
    for seq in 1..=most {
        let laid = ask(&mut range, &[], write(seq, &bytes("v")));
        assert_eq!(laid, Ok(Reply::Laid { ts: ts(10) }));
    }
    let refused = ask(&mut range, &[], write(most + 1, &bytes("v")));
    assert_eq!(refused, Err(Refusal::TooManyWrites { key: bytes("a") }));
    // What is there can still be asked for, and repeated.
    for seq in [1, most] {
        let again = ask(&mut range, &[], write(seq, &bytes("v")));
        assert_eq!(again, Ok(Reply::Laid { ts: ts(10) }));
    }
}

#[test]
fn an_intent_keeps_so_many_bytes_and_none_of_what_was_taken_back() {
    let mut range = Range::new("", None);
    let half: Bytes = vec![1; EARLIER_BYTES_MAX / 2].into();
    for seq in 1..=3 {
        assert!(ask(&mut range, &[], write(seq, &half)).is_ok());
    }
    let refused = ask(&mut range, &[], write(4, &half));
    assert_eq!(refused, Err(Refusal::TooManyWrites { key: bytes("a") }));
    let taken_back = [SeqSpan {
        first: Seq(2),
        last: Seq(3),
    }];
    assert!(ask(&mut range, &taken_back, write(4, &half)).is_ok());
    let intent = &range.tables.intents[&bytes("a")];
    let kept: Vec<bool> = intent
        .earlier
        .iter()
        .map(|earlier| earlier.value.is_some())
        .collect();
    assert_eq!(
        kept,
        [true, false, false],
        "the first one, and not those taken back"
    );
    let later = [
        taken_back[0],
        SeqSpan {
            first: Seq(4),
            last: Seq(4),
        },
    ];
    assert_eq!(intent.newest_kept(&later), Some((Seq(1), Some(&half))));
}

/// Lets one range answer everything: the last answer to the client, and how many batches that took.
fn drive(range: &mut Range, txn: &mut Coordinator) -> (Option<Answer>, usize) {
    let (mut told, mut batches) = (None, 0);
    loop {
        let effects = txn.effects();
        if effects.is_empty() {
            return (told, batches);
        }
        for effect in effects {
            match effect {
                Effect::Send(batch) | Effect::SendAgain(batch) => {
                    batches += 1;
                    let context = range.context(ts(20), 1000);
                    let (answer, changes) = range.evaluate(&context, &batch);
                    for change in changes {
                        range.tables.apply(change);
                    }
                    let items: Vec<_> = batch.requests.iter().map(|(item, _)| *item).collect();
                    txn.on_answer(&items, answer);
                }
                Effect::Answer(answer) => told = Some(answer),
                Effect::Recover(_) | Effect::Over => {}
            }
        }
    }
}

#[test]
fn a_large_span_is_deleted_and_resolved_in_parts() {
    let mut range = Range::new("", None);
    let count = DELETES_MAX * 2 + 5;
    for n in 0..count {
        range
            .tables
            .put(&bytes(&format!("k{n:06}")), ts(1), ts(1), Some(bytes("v")));
    }
    let what = (Isolation::Snapshot, Priority::Normal);
    let mut txn = Coordinator::begin(Config::default(), ID, "", what, ts(10));
    txn.delete_range(Keys::Span(bytes("k"), Some(bytes("l"))));
    match drive(&mut range, &mut txn) {
        (Some(Answer::Deleted(keys)), 3) => assert_eq!(keys.len(), count),
        other => panic!("{other:?}"),
    }
    assert_eq!(range.tables.intents.len(), count);
    txn.commit();
    let (answer, batches) = drive(&mut range, &mut txn);
    assert!(matches!(answer, Some(Answer::Committed { .. })), "{answer:?}");
    // The end, the intents in parts, and the record is forgotten.
    assert_eq!(batches, 1 + count.div_ceil(RESOLVES_MAX) + 1);
    assert!(txn.is_over() && range.tables.intents.is_empty() && range.tables.records.is_empty());
    let (rows, next) = scan(&mut range, &bytes("k"));
    assert_eq!((rows, next), (0, None));
}

#[test]
fn a_transaction_that_flushes_a_key_too_often_is_told_so() {
    let mut range = Range::new("", None);
    let what = (Isolation::Snapshot, Priority::Normal);
    let mut txn = Coordinator::begin(Config::default(), ID, "", what, ts(10));
    for _ in 0..=EARLIER_MAX + 1 {
        txn.write(bytes("a"), Some(bytes("v")));
        txn.flush();
        assert_eq!(drive(&mut range, &mut txn).0, None);
    }
    txn.commit();
    let (answer, _) = drive(&mut range, &mut txn);
    let expected = TxnError::TooManyWrites { key: bytes("a") };
    assert_eq!(answer, Some(Answer::Failed(expected.clone())));
    assert!(!expected.is_retryable());
    assert!(txn.is_over());
}

fn scan(range: &mut Range, from: &Bytes) -> (usize, Option<Bytes>) {
    let request = Request::Scan {
        keys: Keys::Span(from.clone(), None),
        rows_max: usize::MAX,
    };
    match ask(range, &[], request) {
        Ok(Reply::Rows { rows, next }) => (rows.len(), next),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_of_a_scan_passes_so_many_keys_without_a_value() {
    let mut range = Range::new("", None);
    for n in 0..=limits::SCAN_ROWS_MAX {
        range.tables.put(&bytes(&format!("d{n:06}")), ts(1), ts(1), None);
    }
    range.tables.put(&bytes("e"), ts(1), ts(1), Some(bytes("v")));
    let (rows, next) = scan(&mut range, &bytes(""));
    assert_eq!(rows, 0);
    let (rows, end) = scan(&mut range, &next.expect("there is more"));
    assert_eq!((rows, end), (1, None));
}

#[test]
fn a_page_of_a_scan_has_so_many_bytes() {
    let mut range = Range::new("", None);
    let large: Bytes = vec![0; limits::SCAN_BYTES_MAX / 2].into();
    for key in ["a", "b", "c"] {
        range.tables.put(&bytes(key), ts(1), ts(1), Some(large.clone()));
    }
    let (rows, next) = scan(&mut range, &bytes(""));
    assert_eq!(rows, 2);
    let (rows, end) = scan(&mut range, &next.expect("there is more"));
    assert_eq!((rows, end), (1, None));
}

#[test]
fn a_range_that_is_not_found_is_given_up() {
    let what = (Isolation::Snapshot, Priority::Normal);
    let config = Config {
        lookups_max: 3,
        ..Config::default()
    };
    let mut txn = Coordinator::begin(config, ID, "", what, ts(10));
    txn.read(vec![bytes("a")]);
    let mut tries = 0;
    loop {
        let effects = txn.effects();
        let (batch, is_first) = match &effects[..] {
            [Effect::Send(batch)] => (batch.clone(), true),
            [Effect::SendAgain(batch)] => (batch.clone(), false),
            [Effect::Answer(Answer::Failed(error)), Effect::Over] => {
                assert!(matches!(error, TxnError::Unreachable { .. }), "{error}");
                break;
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(is_first, tries == 0, "it is looked up before it goes elsewhere");
        tries += 1;
        let item = batch.requests[0].0;
        let key = bytes("a");
        txn.on_answer(&[item], Err((item, Refusal::WrongRange { key })));
    }
    assert_eq!(tries, 4);
}
