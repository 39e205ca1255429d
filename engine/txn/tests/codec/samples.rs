//! One of each variant, in the order of the tags.

use base::{ClientId, Timestamp};
use corelane_txn::change::{Change, Condition, Missed, Must, Unmet};
use corelane_txn::error::{Act, Conflict, Party, Seen};
use corelane_txn::locks::Strength;
use corelane_txn::record::{Earlier, Promise};
use corelane_txn::request::{Answer, End, Ended, Push, Pushed, Reply, Request, Verdict};
use corelane_txn::txn::{Seq, SeqSpan, Who};
use corelane_txn::{
    Batch, Bytes, Epoch, Header, Intent, Isolation, Keys, Mutation, Outcome, Priority, Record, Refusal,
    Status, TxnId,
};
use std::sync::Arc;

fn bytes(text: &str) -> Bytes {
    text.as_bytes().into()
}

/// Different in every byte that counts.
fn ts(n: u8) -> Timestamp {
    let n = u64::from(n);
    Timestamp::new(0x1817_1615_1413_1200 + n, 0x2423_2221)
}

fn id() -> TxnId {
    TxnId {
        client: ClientId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        seq: 300,
    }
}

fn who_of(isolation: Isolation, priority: Priority) -> Arc<Who> {
    Arc::new(Who {
        id: id(),
        anchor: bytes("anchor"),
        name: "näme".into(),
        isolation,
        priority,
        start_ts: ts(1),
    })
}

fn who() -> Arc<Who> {
    who_of(Isolation::Serializable, Priority::Normal)
}

fn ignored() -> Arc<[SeqSpan]> {
    let span = |first, last| SeqSpan {
        first: Seq(first),
        last: Seq(last),
    };
    Arc::new([span(2, 3), span(128, u32::MAX)])
}

fn span() -> Keys {
    Keys::Span(bytes("c"), Some(bytes("f")))
}

fn locks() -> Arc<[Keys]> {
    Arc::new([Keys::One(bytes("b")), span(), Keys::Span(bytes(""), None)])
}

fn promises() -> Arc<[Promise]> {
    let promise = |key, seq| Promise {
        key: bytes(key),
        seq: Seq(seq),
    };
    Arc::new([promise("b", 4), promise("d", 16_384)])
}

pub(crate) fn record(status: Status) -> Record {
    Record {
        who: who(),
        status,
        epoch: Epoch(2),
        write_ts: ts(2),
        in_flight: promises(),
        locks: locks(),
        ignored: ignored(),
        heard_ts: ts(3),
    }
}

pub(crate) fn intent() -> Intent {
    let earlier = |seq, value: Option<&str>| Earlier {
        seq: Seq(seq),
        value: value.map(bytes),
        ts: ts(4),
    };
    Intent {
        who: who(),
        epoch: Epoch(2),
        seq: Seq(9),
        ts: ts(5),
        local_ts: ts(6),
        value: Some(bytes("value")),
        earlier: vec![earlier(7, None), earlier(8, Some(""))],
    }
}

pub(crate) fn header(isolation: Isolation, priority: Priority) -> Header {
    Header {
        who: who_of(isolation, priority),
        epoch: Epoch(2),
        read_ts: ts(7),
        write_ts: ts(8),
        limit: ts(9),
        blind: true,
        ignored: ignored(),
    }
}

pub(crate) fn headers() -> Vec<Header> {
    vec![
        header(Isolation::Snapshot, Priority::Low),
        header(Isolation::Serializable, Priority::Normal),
        header(Isolation::StrictSerializable, Priority::High),
    ]
}

pub(crate) fn mutations() -> Vec<Mutation> {
    let key = || bytes("key");
    vec![
        Mutation::Lay {
            key: key(),
            intent: intent(),
        },
        Mutation::Move {
            key: key(),
            ts: ts(1),
        },
        Mutation::Commit {
            key: key(),
            ts: ts(1),
            seq: Seq(5),
        },
        Mutation::Drop { key: key() },
        Mutation::Put {
            key: key(),
            ts: ts(1),
            local_ts: ts(2),
            value: Some(bytes("value")),
        },
        Mutation::Put {
            key: key(),
            ts: ts(1),
            local_ts: ts(2),
            value: None,
        },
        Mutation::Record(record(Status::Pending)),
        Mutation::Record(record(Status::Staging)),
        Mutation::Record(record(Status::Committed)),
        Mutation::Record(record(Status::Aborted)),
        Mutation::Remember {
            id: id(),
            outcome: Outcome::Committed { ts: ts(1) },
        },
        Mutation::Remember {
            id: id(),
            outcome: Outcome::Aborted,
        },
        Mutation::Spill {
            key: key(),
            intent: intent(),
        },
    ]
}

fn seen() -> Seen {
    Seen {
        who: who(),
        epoch: Epoch(1),
        ts: ts(1),
        local_ts: ts(2),
    }
}

fn verdicts() -> [Verdict; 4] {
    [
        Verdict::Committed {
            epoch: Epoch(3),
            ts: ts(1),
            ignored: ignored(),
        },
        Verdict::Settled { ts: ts(1) },
        Verdict::Aborted,
        Verdict::Moved {
            epoch: Epoch(3),
            ts: ts(1),
        },
    ]
}

pub(crate) fn requests() -> Vec<Request> {
    let key = || bytes("key");
    let write = |value, pipelined| Request::Write {
        key: key(),
        seq: Seq(5),
        value,
        pipelined,
    };
    let push = |pusher, push| Request::Push {
        pushee: seen(),
        pusher,
        push,
    };
    let mut all = vec![
        Request::Get { key: key() },
        Request::GetLocked {
            key: key(),
            strength: Strength::Shared,
            alone: true,
        },
        Request::GetLocked {
            key: key(),
            strength: Strength::Exclusive,
            alone: false,
        },
        Request::Scan {
            keys: span(),
            rows_max: usize::MAX,
        },
        write(Some(bytes("value")), true),
        write(None, false),
        Request::DeleteRange {
            keys: span(),
            seq: Seq(5),
        },
        Request::Refresh {
            keys: Keys::One(key()),
            from: ts(1),
        },
        Request::Query {
            key: key(),
            txn: id(),
            epoch: Epoch(3),
            seq: Seq(5),
            ts: ts(1),
        },
        Request::End {
            end: End::Commit {
                promises: promises(),
                fresh: true,
            },
            locks: locks(),
        },
        Request::End {
            end: End::Rollback,
            locks: locks(),
        },
        Request::Beat,
        push(Some(who()), Push::Above(ts(3))),
        push(None, Push::Abort),
        push(None, Push::Force),
        Request::QueryTxn { who: who() },
        Request::Recover {
            who: who(),
            epoch: Epoch(3),
            ts: ts(1),
            kept: true,
        },
    ];
    all.extend(verdicts().map(|verdict| Request::Resolve {
        keys: span(),
        txn: id(),
        verdict,
    }));
    all.push(Request::Forget { who: who() });
    all.push(Request::Finish {
        who: who(),
        epoch: Epoch(3),
        ts: ts(1),
        locks: [Keys::One(bytes("key")), span()].into(),
    });
    let musts = [
        Must::Absent,
        Must::Present,
        Must::Equal(bytes("value")),
        Must::Version(ts(1)),
        Must::Within {
            min: -1,
            max: i64::MAX,
        },
    ];
    let given: Vec<Condition> = (0..)
        .zip(musts)
        .map(|(number, must)| condition(number, must))
        .collect();
    let changes = [
        Change::Set(Some(bytes("value"))),
        Change::Set(None),
        Change::Add {
            delta: -5,
            min: 0,
            max: i64::MAX,
        },
        Change::Min(i64::MIN),
        Change::Max(7),
        Change::Append {
            bytes: bytes("value"),
            len_max: 300,
        },
    ];
    all.extend(changes.map(|change| Request::Change {
        key: bytes("key"),
        seq: Seq(5),
        change,
        given: [].into(),
        alone: true,
    }));
    all.push(Request::Change {
        key: bytes("key"),
        seq: Seq(5),
        change: Change::Set(None),
        given: given.into(),
        alone: false,
    });
    all.push(Request::Check {
        condition: condition(300, Must::Present),
    });
    all.push(Request::End {
        end: End::Whole {
            promises: promises(),
            requests: 3,
        },
        locks: locks(),
    });
    all
}

fn condition(number: u32, must: Must) -> Condition {
    let key = bytes("key");
    Condition { number, key, must }
}

fn unmet(missed: Missed) -> Box<Unmet> {
    Box::new(Unmet {
        key: bytes("key"),
        missed,
        found: Some(bytes("value")),
        ts: ts(1),
    })
}

pub(crate) fn replies() -> Vec<Reply> {
    let next = || Some(bytes("next"));
    vec![
        Reply::Value(Some(bytes("value"))),
        Reply::Value(None),
        Reply::Locked {
            value: Some(bytes("value")),
            ts: ts(4),
            queue: 3,
        },
        Reply::Rows {
            rows: vec![(bytes("a"), bytes("one")), (bytes("b"), bytes(""))],
            next: next(),
        },
        Reply::Laid { ts: ts(1) },
        Reply::Deleted {
            keys: vec![bytes("a"), bytes("b")],
            ts: ts(1),
            next: next(),
        },
        Reply::Refreshed,
        Reply::Queried(Some(ts(1))),
        Reply::Ended(Ended::Committed {
            ts: ts(1),
            rest: locks(),
        }),
        Reply::Ended(Ended::Staged { ts: ts(1) }),
        Reply::Ended(Ended::Aborted { rest: locks() }),
        Reply::Beaten {
            outcome: Some(Outcome::Aborted),
            ts: ts(1),
        },
        Reply::Pushed(Pushed::Ended {
            verdict: Verdict::Aborted,
            locks: locks(),
        }),
        Reply::Pushed(Pushed::Moved(Verdict::Moved {
            epoch: Epoch(3),
            ts: ts(1),
        })),
        Reply::Record(Some(Box::new(record(Status::Staging)))),
        Reply::Recovered(Some(Outcome::Committed { ts: ts(1) })),
        Reply::Partly { next: bytes("next") },
        Reply::Done,
        Reply::Changed {
            value: Some(bytes("value")),
            ts: ts(1),
            queue: 3,
        },
        Reply::Ended(Ended::Unmet {
            unmet: unmet(Missed::Condition(300)),
        }),
    ]
}

pub(crate) fn refusals() -> Vec<Refusal> {
    let key = || bytes("key");
    let conflict = |act| {
        let ours = Party {
            who: None,
            act: Act::Read,
        };
        let theirs = Party {
            who: Some(who()),
            act,
        };
        Box::new(Conflict {
            key: key(),
            ours,
            theirs,
            now: ts(4),
        })
    };
    let record = || Box::new(record(Status::Staging));
    vec![
        Refusal::WrongRange { key: key() },
        Refusal::Cut { at: key() },
        Refusal::Conflict {
            conflict: conflict(Act::Write),
            seen: seen(),
        },
        Refusal::WriteTooOld {
            conflict: conflict(Act::Committed(ts(3))),
            ts: ts(1),
        },
        Refusal::Uncertain {
            key: key(),
            ts: ts(1),
        },
        Refusal::Refresh { to: ts(1) },
        Refusal::Changed {
            conflict: conflict(Act::Lock),
        },
        Refusal::WriteMissing { key: key() },
        Refusal::Aborted,
        Refusal::Indeterminate { record: record() },
        Refusal::PushWaits,
        Refusal::Stale,
        Refusal::Forgotten,
        Refusal::TooManyWrites { key: key() },
        Refusal::Malformed { what: "what".into() },
        Refusal::Contradiction {
            what: "what".into(),
            record: record(),
        },
        Refusal::Unmet {
            unmet: unmet(Missed::Bounds),
        },
        Refusal::Unmet {
            unmet: unmet(Missed::Number),
        },
    ]
}

/// A batch of one request, number 0, without a header.
pub(crate) fn plain(request: Request) -> Batch {
    Batch {
        header: None,
        requests: vec![(0, request)],
    }
}

pub(crate) fn answers() -> Vec<Answer> {
    let replies = replies().into_iter().map(|reply| Ok(vec![(0, reply)]));
    replies
        .chain(refusals().into_iter().map(|refusal| Err((0, refusal))))
        .collect()
}

/// All requests in one batch, with items of all lengths.
pub(crate) fn all_requests() -> Batch {
    Batch {
        header: headers().pop(),
        requests: (0..).step_by(100).zip(requests()).collect(),
    }
}

pub(crate) fn all_replies() -> Answer {
    Ok((0..).step_by(100).zip(replies()).collect())
}
