//! Arbitrary values of everything that has bytes.

use base::{ClientId, Timestamp};
use corelane_txn::change::{Change, Condition, Missed, Must, Unmet};
use corelane_txn::error::{Act, Conflict, Party, Seen};
use corelane_txn::locks::Strength;
use corelane_txn::record::{Earlier, Promise};
use corelane_txn::request::{Answer, End, Ended, Item, Push, Pushed, Reply, Request, Verdict};
use corelane_txn::txn::{Seq, SeqSpan, Who};
use corelane_txn::{
    Batch, Bytes, Epoch, Header, Intent, Isolation, Keys, Mutation, Outcome, Priority, Record, Refusal,
    Status, TxnId,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::sync::Arc;

fn bytes() -> impl Strategy<Value = Bytes> + Clone {
    let short = vec(any::<u8>(), 0..6);
    prop_oneof![9 => short, 1 => vec(any::<u8>(), 120..300)].prop_map(Into::into)
}

/// Of all lengths that a number takes.
fn u32s() -> impl Strategy<Value = u32> + Clone {
    (any::<u32>(), 0_u32..32).prop_map(|(bits, shift)| bits >> shift)
}

fn u64s() -> impl Strategy<Value = u64> + Clone {
    (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift)
}

fn seq() -> impl Strategy<Value = Seq> + Clone {
    u32s().prop_map(Seq)
}

fn epoch() -> impl Strategy<Value = Epoch> + Clone {
    u32s().prop_map(Epoch)
}

fn ts() -> impl Strategy<Value = Timestamp> + Clone {
    (u64s(), u32s()).prop_map(|(wall_ns, logical)| Timestamp::new(wall_ns, logical))
}

fn txn_id() -> impl Strategy<Value = TxnId> + Clone {
    let client = any::<u128>().prop_map(ClientId);
    (client, u64s()).prop_map(|(client, seq)| TxnId { client, seq })
}

fn spans() -> impl Strategy<Value = Arc<[SeqSpan]>> + Clone {
    let span = (seq(), seq()).prop_map(|(first, last)| SeqSpan { first, last });
    vec(span, 0..3).prop_map(Into::into)
}

fn who() -> impl Strategy<Value = Arc<Who>> + Clone {
    let isolation = prop_oneof![
        Just(Isolation::Snapshot),
        Just(Isolation::Serializable),
        Just(Isolation::StrictSerializable)
    ];
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    let name = prop_oneof![Just(""), Just("bank"), Just("größer")];
    (txn_id(), bytes(), name, isolation, priority, ts()).prop_map(
        |(id, anchor, name, isolation, priority, start_ts)| {
            Arc::new(Who {
                id,
                anchor,
                name: name.into(),
                isolation,
                priority,
                start_ts,
            })
        },
    )
}

fn keys() -> impl Strategy<Value = Keys> + Clone {
    prop_oneof![
        bytes().prop_map(Keys::One),
        (bytes(), option::of(bytes())).prop_map(|(start, end)| Keys::Span(start, end)),
    ]
}

fn locks() -> impl Strategy<Value = Arc<[Keys]>> + Clone {
    vec(keys(), 0..3).prop_map(Into::into)
}

fn promises() -> impl Strategy<Value = Arc<[Promise]>> + Clone {
    let promise = (bytes(), seq()).prop_map(|(key, seq)| Promise { key, seq });
    vec(promise, 0..3).prop_map(Into::into)
}

fn outcome() -> impl Strategy<Value = Outcome> + Clone {
    prop_oneof![
        Just(Outcome::Aborted),
        ts().prop_map(|ts| Outcome::Committed { ts }),
    ]
}

pub(crate) fn record() -> impl Strategy<Value = Record> + Clone {
    let status = prop_oneof![
        Just(Status::Pending),
        Just(Status::Staging),
        Just(Status::Committed),
        Just(Status::Aborted)
    ];
    let parts = (who(), status, epoch(), ts(), promises(), locks(), spans(), ts());
    parts.prop_map(
        |(who, status, epoch, write_ts, in_flight, locks, ignored, heard_ts)| Record {
            who,
            status,
            epoch,
            write_ts,
            in_flight,
            locks,
            ignored,
            heard_ts,
        },
    )
}

pub(crate) fn intent() -> impl Strategy<Value = Intent> + Clone {
    let earlier = (seq(), option::of(bytes()), ts()).prop_map(|(seq, value, ts)| Earlier { seq, value, ts });
    let parts = (
        who(),
        epoch(),
        seq(),
        ts(),
        ts(),
        option::of(bytes()),
        vec(earlier, 0..3),
    );
    parts.prop_map(|(who, epoch, seq, ts, local_ts, value, earlier)| Intent {
        who,
        epoch,
        seq,
        ts,
        local_ts,
        value,
        earlier,
    })
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (bytes(), intent()).prop_map(|(key, intent)| Mutation::Lay { key, intent }),
        (bytes(), intent()).prop_map(|(key, intent)| Mutation::Spill { key, intent }),
        (bytes(), ts()).prop_map(|(key, ts)| Mutation::Move { key, ts }),
        (bytes(), ts(), seq()).prop_map(|(key, ts, seq)| Mutation::Commit { key, ts, seq }),
        bytes().prop_map(|key| Mutation::Drop { key }),
        (bytes(), ts(), ts(), option::of(bytes())).prop_map(|(key, ts, local_ts, value)| Mutation::Put {
            key,
            ts,
            local_ts,
            value
        }),
        record().prop_map(Mutation::Record),
        (txn_id(), outcome()).prop_map(|(id, outcome)| Mutation::Remember { id, outcome }),
    ]
}

pub(crate) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    vec(mutation(), 0..5)
}

fn header() -> impl Strategy<Value = Header> {
    (who(), epoch(), ts(), ts(), ts(), any::<bool>(), spans()).prop_map(
        |(who, epoch, read_ts, write_ts, limit, blind, ignored)| Header {
            who,
            epoch,
            read_ts,
            write_ts,
            limit,
            blind,
            ignored,
        },
    )
}

fn seen() -> impl Strategy<Value = Seen> {
    (who(), epoch(), ts(), ts()).prop_map(|(who, epoch, ts, local_ts)| Seen {
        who,
        epoch,
        ts,
        local_ts,
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        (epoch(), ts(), spans()).prop_map(|(epoch, ts, ignored)| Verdict::Committed { epoch, ts, ignored }),
        ts().prop_map(|ts| Verdict::Settled { ts }),
        Just(Verdict::Aborted),
        (epoch(), ts()).prop_map(|(epoch, ts)| Verdict::Moved { epoch, ts }),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        option::of(bytes()).prop_map(Change::Set),
        (any::<i64>(), any::<i64>(), any::<i64>()).prop_map(|(delta, min, max)| Change::Add {
            delta,
            min,
            max
        }),
        any::<i64>().prop_map(Change::Min),
        any::<i64>().prop_map(Change::Max),
        (bytes(), u32s()).prop_map(|(bytes, len_max)| Change::Append { bytes, len_max }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let must = prop_oneof![
        Just(Must::Absent),
        Just(Must::Present),
        bytes().prop_map(Must::Equal),
        ts().prop_map(Must::Version),
        (any::<i64>(), any::<i64>()).prop_map(|(min, max)| Must::Within { min, max }),
    ];
    (u32s(), bytes(), must).prop_map(|(number, key, must)| Condition { number, key, must })
}

fn unmet() -> impl Strategy<Value = Box<Unmet>> {
    let missed = prop_oneof![
        u32s().prop_map(Missed::Condition),
        Just(Missed::Bounds),
        Just(Missed::Number)
    ];
    (bytes(), missed, option::of(bytes()), ts()).prop_map(|(key, missed, found, ts)| {
        Box::new(Unmet {
            key,
            missed,
            found,
            ts,
        })
    })
}

fn request() -> impl Strategy<Value = Request> {
    let strength = prop_oneof![Just(Strength::Shared), Just(Strength::Exclusive)];
    let push = prop_oneof![ts().prop_map(Push::Above), Just(Push::Abort), Just(Push::Force)];
    let end = prop_oneof![
        Just(End::Rollback),
        (promises(), any::<bool>()).prop_map(|(promises, fresh)| End::Commit { promises, fresh }),
        (promises(), u32s()).prop_map(|(promises, requests)| End::Whole { promises, requests }),
    ];
    prop_oneof![
        bytes().prop_map(|key| Request::Get { key }),
        (bytes(), strength, any::<bool>()).prop_map(|(key, strength, alone)| Request::GetLocked {
            key,
            strength,
            alone
        }),
        (keys(), any::<usize>()).prop_map(|(keys, rows_max)| Request::Scan { keys, rows_max }),
        (bytes(), seq(), option::of(bytes()), any::<bool>()).prop_map(|(key, seq, value, pipelined)| {
            Request::Write {
                key,
                seq,
                value,
                pipelined,
            }
        }),
        (keys(), seq()).prop_map(|(keys, seq)| Request::DeleteRange { keys, seq }),
        (keys(), ts()).prop_map(|(keys, from)| Request::Refresh { keys, from }),
        (bytes(), txn_id(), epoch(), seq(), ts()).prop_map(|(key, txn, epoch, seq, ts)| Request::Query {
            key,
            txn,
            epoch,
            seq,
            ts
        }),
        (end, locks()).prop_map(|(end, locks)| Request::End { end, locks }),
        Just(Request::Beat),
        (seen(), option::of(who()), push).prop_map(|(pushee, pusher, push)| Request::Push {
            pushee,
            pusher,
            push
        }),
        who().prop_map(|who| Request::QueryTxn { who }),
        (who(), epoch(), ts(), any::<bool>()).prop_map(|(who, epoch, ts, kept)| Request::Recover {
            who,
            epoch,
            ts,
            kept
        }),
        (keys(), txn_id(), verdict()).prop_map(|(keys, txn, verdict)| Request::Resolve {
            keys,
            txn,
            verdict
        }),
        who().prop_map(|who| Request::Forget { who }),
        (bytes(), seq(), change(), vec(condition(), 0..3), any::<bool>()).prop_map(
            |(key, seq, change, given, alone)| Request::Change {
                key,
                seq,
                change,
                given: given.into(),
                alone,
            }
        ),
        condition().prop_map(|condition| Request::Check { condition }),
        (who(), epoch(), ts(), vec(keys(), 0..3)).prop_map(|(who, epoch, ts, locks)| Request::Finish {
            who,
            epoch,
            ts,
            locks: locks.into(),
        }),
    ]
}

pub(crate) fn batch() -> impl Strategy<Value = Batch> {
    let requests = vec((u32s(), request()), 0..5);
    (option::of(header()), requests).prop_map(|(header, requests)| Batch { header, requests })
}

fn reply() -> impl Strategy<Value = Reply> {
    let ended = prop_oneof![
        (ts(), locks()).prop_map(|(ts, rest)| Ended::Committed { ts, rest }),
        ts().prop_map(|ts| Ended::Staged { ts }),
        locks().prop_map(|rest| Ended::Aborted { rest }),
        unmet().prop_map(|unmet| Ended::Unmet { unmet }),
    ];
    let pushed = prop_oneof![
        (verdict(), locks()).prop_map(|(verdict, locks)| Pushed::Ended { verdict, locks }),
        verdict().prop_map(Pushed::Moved),
    ];
    prop_oneof![
        option::of(bytes()).prop_map(Reply::Value),
        (option::of(bytes()), ts(), any::<u32>()).prop_map(|(value, ts, queue)| Reply::Locked {
            value,
            ts,
            queue
        }),
        (vec((bytes(), bytes()), 0..3), option::of(bytes()))
            .prop_map(|(rows, next)| Reply::Rows { rows, next }),
        ts().prop_map(|ts| Reply::Laid { ts }),
        (option::of(bytes()), ts(), any::<u32>()).prop_map(|(value, ts, queue)| Reply::Changed {
            value,
            ts,
            queue
        }),
        (vec(bytes(), 0..3), ts(), option::of(bytes())).prop_map(|(keys, ts, next)| Reply::Deleted {
            keys,
            ts,
            next
        }),
        Just(Reply::Refreshed),
        option::of(ts()).prop_map(Reply::Queried),
        ended.prop_map(Reply::Ended),
        (option::of(outcome()), ts()).prop_map(|(outcome, ts)| Reply::Beaten { outcome, ts }),
        pushed.prop_map(Reply::Pushed),
        option::of(record().prop_map(Box::new)).prop_map(Reply::Record),
        option::of(outcome()).prop_map(Reply::Recovered),
        bytes().prop_map(|next| Reply::Partly { next }),
        Just(Reply::Done),
    ]
}

fn conflict() -> impl Strategy<Value = Box<Conflict>> + Clone {
    let act = prop_oneof![
        Just(Act::Read),
        Just(Act::Write),
        Just(Act::Lock),
        ts().prop_map(Act::Committed)
    ];
    let party = (option::of(who()), act).prop_map(|(who, act)| Party { who, act });
    (bytes(), party.clone(), party, ts()).prop_map(|(key, ours, theirs, now)| {
        Box::new(Conflict {
            key,
            ours,
            theirs,
            now,
        })
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let what = prop_oneof![Just("".into()), Just("es geht über 3 Zeilen".into())];
    let record = || record().prop_map(Box::new);
    prop_oneof![
        bytes().prop_map(|key| Refusal::WrongRange { key }),
        bytes().prop_map(|at| Refusal::Cut { at }),
        (conflict(), seen()).prop_map(|(conflict, seen)| Refusal::Conflict { conflict, seen }),
        (conflict(), ts()).prop_map(|(conflict, ts)| Refusal::WriteTooOld { conflict, ts }),
        (bytes(), ts()).prop_map(|(key, ts)| Refusal::Uncertain { key, ts }),
        ts().prop_map(|to| Refusal::Refresh { to }),
        conflict().prop_map(|conflict| Refusal::Changed { conflict }),
        bytes().prop_map(|key| Refusal::WriteMissing { key }),
        Just(Refusal::Aborted),
        record().prop_map(|record| Refusal::Indeterminate { record }),
        Just(Refusal::PushWaits),
        Just(Refusal::Stale),
        Just(Refusal::Forgotten),
        bytes().prop_map(|key| Refusal::TooManyWrites { key }),
        unmet().prop_map(|unmet| Refusal::Unmet { unmet }),
        what.clone().prop_map(|what| Refusal::Malformed { what }),
        (what, record()).prop_map(|(what, record)| Refusal::Contradiction { what, record }),
    ]
}

pub(crate) fn answer() -> impl Strategy<Value = Answer> {
    let replies: BoxedStrategy<Vec<(Item, Reply)>> = vec((u32s(), reply()), 0..5).boxed();
    prop_oneof![replies.prop_map(Ok), (u32s(), refusal()).prop_map(Err),]
}
