//! What a peer says that does not fit: it is refused or asked again, and nobody stops because of it.

mod fixtures;

use base::ClientId;
use corelane_txn::change::{Change, Condition, Must};
use corelane_txn::coordinator::{Config, Coordinator, Effect};
use corelane_txn::error::Seen;
use corelane_txn::pusher::{self, Pusher};
use corelane_txn::record::Promise;
use corelane_txn::request::{End, Ended, Item, Push, Pushed, Reply, Request, Verdict};
use corelane_txn::txn::{Seq, Who};
use corelane_txn::view::Mutation;
use corelane_txn::{Batch, Epoch, Header, Isolation, Keys, Outcome, Priority, Refusal, TxnId};
use fixtures::{Range, bytes, ts};
use std::sync::Arc;

fn id() -> TxnId {
    TxnId {
        client: ClientId(1),
        seq: 1,
    }
}

fn who() -> Arc<Who> {
    Arc::new(Who {
        id: id(),
        anchor: bytes("a"),
        name: "".into(),
        isolation: Isolation::Snapshot,
        priority: Priority::Normal,
        start_ts: ts(10),
    })
}

/// One of each kind.
fn replies() -> Vec<Reply> {
    let locks: Arc<[Keys]> = Arc::new([]);
    vec![
        Reply::Value(None),
        Reply::Rows {
            rows: Vec::new(),
            next: None,
        },
        Reply::Laid { ts: ts(10) },
        Reply::Refreshed,
        Reply::Queried(None),
        Reply::Ended(Ended::Committed {
            ts: ts(10),
            rest: locks.clone(),
        }),
        Reply::Beaten {
            outcome: Some(Outcome::Aborted),
            ts: ts(10),
        },
        Reply::Pushed(Pushed::Ended {
            verdict: Verdict::Aborted,
            locks,
        }),
        Reply::Record(None),
        Reply::Recovered(None),
        Reply::Done,
    ]
}

#[test]
fn a_batch_that_names_no_transaction_is_refused() {
    let keys = Keys::Span(bytes("a"), Some(bytes("b")));
    let end = |end| Request::End {
        end,
        locks: Arc::new([]),
    };
    let promises: Arc<[Promise]> = Arc::new([]);
    let requests = [
        Request::Get { key: bytes("a") },
        Request::Scan {
            keys: keys.clone(),
            rows_max: 1,
        },
        Request::Write {
            key: bytes("a"),
            seq: Seq(1),
            value: None,
            pipelined: false,
        },
        Request::Change {
            key: bytes("a"),
            seq: Seq(1),
            change: Change::Min(1),
            given: Arc::new([]),
            alone: true,
        },
        Request::Check {
            condition: Condition {
                number: 0,
                key: bytes("a"),
                must: Must::Absent,
            },
        },
        Request::Refresh { keys, from: ts(1) },
        end(End::Commit {
            promises,
            fresh: true,
        }),
        end(End::Rollback),
        Request::Beat,
    ];
    for request in requests {
        let mut range = Range::new("", None);
        let context = range.context(ts(20), 1000);
        let batch = Batch {
            header: None,
            requests: vec![(3, Request::QueryTxn { who: who() }), (7, request)],
        };
        let (answer, changes) = range.evaluate(&context, &batch);
        assert!(
            matches!(answer, Err((7, Refusal::Malformed { .. }))),
            "{answer:?}"
        );
        assert!(changes.is_empty());
    }
}

#[test]
fn a_batch_that_changes_something_twice_is_refused() {
    let write = |key| Request::Write {
        key: bytes(key),
        seq: Seq(1),
        value: None,
        pipelined: false,
    };
    let change = |key| Request::Change {
        key: bytes(key),
        seq: Seq(1),
        change: Change::Min(1),
        given: Arc::new([]),
        alone: true,
    };
    let check = || Request::Check {
        condition: Condition {
            number: 0,
            key: bytes("c"),
            must: Must::Absent,
        },
    };
    let end = || Request::End {
        end: End::Rollback,
        locks: Arc::new([]),
    };
    let resolve = |keys| Request::Resolve {
        keys,
        txn: id(),
        verdict: Verdict::Aborted,
    };
    let span = |from, to| Keys::Span(bytes(from), Some(bytes(to)));
    let get = || Request::Get { key: bytes("c") };
    let finish = |seq| Request::Finish {
        who: Arc::new(Who {
            id: TxnId { seq, ..id() },
            ..(*who()).clone()
        }),
        epoch: Epoch(0),
        ts: ts(10),
        locks: Arc::new([]),
    };
    let good = [
        vec![write("b"), write("a"), end()],
        vec![resolve(span("a", "c")), resolve(Keys::One(bytes("c")))],
        vec![write("a"), get()],
        vec![change("b"), write("a"), end()],
        vec![change("b"), check()],
    ];
    let bad = [
        vec![write("a"), write("b"), write("a")],
        vec![resolve(span("a", "c")), resolve(Keys::One(bytes("b")))],
        vec![write("a"), resolve(Keys::Span(bytes(""), None))],
        vec![end(), write("a"), end()],
        vec![Request::Beat, Request::Forget { who: who() }],
        vec![end(), get()],
        vec![end(), check()],
        vec![change("a"), write("a")],
        vec![change("a"), resolve(span("a", "c"))],
        vec![change("a"), finish(8)],
        vec![finish(8), finish(8)],
        vec![finish(id().seq), resolve(Keys::One(bytes("a")))],
        vec![write("a"), finish(8)],
        vec![end(), finish(8)],
    ];
    for (requests, is_good) in good
        .into_iter()
        .map(|requests| (requests, true))
        .chain(bad.into_iter().map(|requests| (requests, false)))
    {
        let mut range = Range::new("", None);
        let context = range.context(ts(20), 1000);
        let batch = Batch {
            header: Some(Header {
                who: who(),
                epoch: Epoch(0),
                read_ts: ts(10),
                write_ts: ts(10),
                limit: ts(10),
                blind: true,
                ignored: Arc::new([]),
            }),
            requests: (0..).zip(requests).collect(),
        };
        let (answer, changes) = range.evaluate(&context, &batch);
        let is_refused = matches!(answer, Err((_, Refusal::Malformed { .. })));
        assert_ne!(is_refused, is_good, "{batch:?} {answer:?}");
        assert!(is_good || changes.is_empty());
    }
}

/// The entry with twice the same key would stop every replica that applies it.
#[test]
fn a_lock_that_is_named_twice_is_let_go_of_once() {
    let mut range = Range::new("", None);
    let context = range.context(ts(20), 1000);
    let batch = |request| Batch {
        header: Some(Header {
            who: who(),
            epoch: Epoch(0),
            read_ts: ts(10),
            write_ts: ts(10),
            limit: ts(10),
            blind: true,
            ignored: Arc::new([]),
        }),
        requests: vec![(0, request)],
    };
    let write = Request::Write {
        key: bytes("a"),
        seq: Seq(1),
        value: None,
        pipelined: false,
    };
    let (answer, laid) = range.evaluate(&context, &batch(write));
    assert_eq!((answer.is_ok(), laid.len()), (true, 1), "{answer:?}");
    for mutation in laid {
        range.tables.apply(mutation);
    }
    let end = Request::End {
        end: End::Rollback,
        locks: [Keys::One(bytes("a")), Keys::One(bytes("a"))].into(),
    };
    let (answer, changes) = range.evaluate(&context, &batch(end));
    let dropped = changes
        .iter()
        .filter(|change| matches!(change, Mutation::Drop { .. }))
        .count();
    assert_eq!((answer.is_ok(), dropped), (true, 1), "{changes:?}");
}

fn asked(effects: Vec<Effect>) -> Vec<(Item, Request)> {
    let mut all = Vec::new();
    for effect in effects {
        match effect {
            Effect::Send(batch) | Effect::SendAgain(batch) => all.extend(batch.requests),
            other => panic!("{other:?}"),
        }
    }
    all
}

#[test]
fn a_coordinator_takes_a_reply_of_another_kind_as_lost() {
    for reply in replies() {
        let what = (Isolation::Snapshot, Priority::Normal);
        let mut txn = Coordinator::begin(Config::default(), id(), "", what, ts(10));
        txn.read(vec![bytes("a")]);
        let first = asked(txn.effects());
        let items = [first[0].0];
        let fits = first[0].1.is_answered_by(&reply);
        txn.on_answer(&items, Ok(vec![(items[0], reply)]));
        assert_eq!(txn.awaits(items[0]), !fits);
        if !fits {
            assert_eq!(asked(txn.effects()), first, "asked again");
        }
    }
}

#[test]
fn a_push_takes_a_reply_of_another_kind_as_lost() {
    for reply in replies() {
        let seen = Seen {
            who: who(),
            epoch: Epoch(0),
            ts: ts(10),
            local_ts: ts(10),
        };
        let mut push = Pusher::new(seen, None, None, Push::Abort);
        let first = push.effects();
        let [pusher::Effect::Send(batch)] = &first[..] else {
            panic!("{first:?}")
        };
        let item = batch.requests[0].0;
        let fits = batch.requests[0].1.is_answered_by(&reply);
        push.on_answer(&[item], Ok(vec![(item, reply)]));
        assert_eq!(push.awaits(item), !fits);
        if !fits {
            assert_eq!(push.effects(), [pusher::Effect::SendAgain(batch.clone())]);
        }
    }
}
