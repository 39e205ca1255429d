//! The layouts. Fields are written in the order of their table, a variant behind its tag: **frozen**. What is added gets a new tag; what
//! changes is a new variant beside the old one.

use super::CodecError;
use super::code::{Bound, Code, Input, Key, TAG, Value, fields, variants};
use crate::change::{Change, Condition, Missed, Must, Unmet};
use crate::error::{Act, Conflict, Party, Refusal, Seen};
use crate::locks::Strength;
use crate::record::{Earlier, Intent, Outcome, Promise, Record, Status};
use crate::request::{Batch, End, Ended, Item, Push, Pushed, Reply, Request, Verdict};
use crate::txn::{Epoch, Header, Isolation, Keys, Priority, Seq, SeqSpan, TxnId, Who};
use crate::view::Mutation;
use base::{ClientId, Timestamp};
use std::borrow::Cow;
use std::sync::Arc;

// What all of them have parts of.

fields!(TxnId {
    client: ClientId,
    seq: u64
});

fields!(SeqSpan {
    first: Seq,
    last: Seq
});

variants!(Isolation {
    1 => Snapshot,
    2 => Serializable,
    3 => StrictSerializable,
});

variants!(Priority {
    1 => Low,
    2 => Normal,
    3 => High,
});

fields!(Who {
    id: TxnId,
    anchor: Bound,
    name: Arc<str>,
    isolation: Isolation,
    priority: Priority,
    start_ts: Timestamp,
});

variants!(Keys {
    1 => One(key: Key),
    2 => Span(start: Bound, end: Option<Bound>),
});

fields!(Promise { key: Key, seq: Seq });

variants!(Outcome {
    1 => Committed { ts: Timestamp },
    2 => Aborted,
});

// A range's state, and what changes it.

variants!(Status {
    1 => Pending,
    2 => Staging,
    3 => Committed,
    4 => Aborted,
});

fields!(Record {
    who: Arc<Who>,
    status: Status,
    epoch: Epoch,
    write_ts: Timestamp,
    in_flight: Arc<[Promise]>,
    locks: Arc<[Keys]>,
    ignored: Arc<[SeqSpan]>,
    heard_ts: Timestamp,
});

fields!(Earlier {
    seq: Seq,
    value: Option<Value>,
    ts: Timestamp,
});

fields!(Intent {
    who: Arc<Who>,
    epoch: Epoch,
    seq: Seq,
    ts: Timestamp,
    local_ts: Timestamp,
    value: Option<Value>,
    earlier: Vec<Earlier>,
});

variants!(Mutation {
    1 => Lay { key: Key, intent: Intent },
    2 => Move { key: Key, ts: Timestamp },
    3 => Commit { key: Key, ts: Timestamp, seq: Seq },
    4 => Drop { key: Key },
    5 => Put { key: Key, ts: Timestamp, local_ts: Timestamp, value: Option<Value> },
    6 => Record(record: Record),
    7 => Remember { id: TxnId, outcome: Outcome },
    8 => Spill { key: Key, intent: Intent },
});

// What ranges are asked.

fields!(Header {
    who: Arc<Who>,
    epoch: Epoch,
    read_ts: Timestamp,
    write_ts: Timestamp,
    limit: Timestamp,
    blind: bool,
    ignored: Arc<[SeqSpan]>,
});

variants!(Strength {
    1 => Shared,
    2 => Exclusive,
});

variants!(Change {
    1 => Set(value: Option<Value>),
    2 => Add { delta: i64, min: i64, max: i64 },
    3 => Min(value: i64),
    4 => Max(value: i64),
    5 => Append { bytes: Value, len_max: u32 },
});

variants!(Must {
    1 => Absent,
    2 => Present,
    3 => Equal(value: Value),
    4 => Version(ts: Timestamp),
    5 => Within { min: i64, max: i64 },
});

fields!(Condition {
    number: u32,
    key: Key,
    must: Must,
});

variants!(End {
    1 => Commit { promises: Arc<[Promise]>, fresh: bool },
    2 => Rollback,
    3 => Whole { promises: Arc<[Promise]>, requests: u32 },
});

fields!(Seen {
    who: Arc<Who>,
    epoch: Epoch,
    ts: Timestamp,
    local_ts: Timestamp,
});

variants!(Push {
    1 => Above(ts: Timestamp),
    2 => Abort,
    3 => Force,
});

variants!(Verdict {
    1 => Committed { epoch: Epoch, ts: Timestamp, ignored: Arc<[SeqSpan]> },
    2 => Settled { ts: Timestamp },
    3 => Aborted,
    4 => Moved { epoch: Epoch, ts: Timestamp },
});

variants!(Request {
    1 => Get { key: Key },
    2 => GetLocked { key: Key, strength: Strength, alone: bool },
    3 => Scan { keys: Keys, rows_max: usize },
    4 => Write { key: Key, seq: Seq, value: Option<Value>, pipelined: bool },
    5 => DeleteRange { keys: Keys, seq: Seq },
    6 => Refresh { keys: Keys, from: Timestamp },
    7 => Query { key: Key, txn: TxnId, epoch: Epoch, seq: Seq, ts: Timestamp },
    8 => End { end: End, locks: Arc<[Keys]> },
    9 => Beat,
    10 => Push { pushee: Seen, pusher: Option<Arc<Who>>, push: Push },
    11 => QueryTxn { who: Arc<Who> },
    12 => Recover { who: Arc<Who>, epoch: Epoch, ts: Timestamp, kept: bool },
    13 => Resolve { keys: Keys, txn: TxnId, verdict: Verdict },
    14 => Forget { who: Arc<Who> },
    15 => Finish { who: Arc<Who>, epoch: Epoch, ts: Timestamp, locks: Arc<[Keys]> },
    16 => Change { key: Key, seq: Seq, change: Change, given: Arc<[Condition]>, alone: bool },
    17 => Check { condition: Condition },
});

fields!(Batch {
    header: Option<Header>,
    requests: Vec<(Item, Request)>,
});

// What they answer: `Answer` is `Ok` 1, a list of items and replies, or `Err` 2, an item and a refusal.

variants!(Missed {
    1 => Condition(number: u32),
    2 => Bounds,
    3 => Number,
});

fields!(Unmet {
    key: Key,
    missed: Missed,
    found: Option<Value>,
    ts: Timestamp,
});

variants!(Ended {
    1 => Committed { ts: Timestamp, rest: Arc<[Keys]> },
    2 => Staged { ts: Timestamp },
    3 => Aborted { rest: Arc<[Keys]> },
    4 => Unmet { unmet: Box<Unmet> },
});

variants!(Pushed {
    1 => Ended { verdict: Verdict, locks: Arc<[Keys]> },
    2 => Moved(verdict: Verdict),
});

variants!(Reply {
    1 => Value(value: Option<Value>),
    2 => Rows { rows: Vec<(Key, Value)>, next: Option<Bound> },
    3 => Laid { ts: Timestamp },
    4 => Deleted { keys: Vec<Key>, ts: Timestamp, next: Option<Bound> },
    5 => Refreshed,
    6 => Queried(ts: Option<Timestamp>),
    7 => Ended(ended: Ended),
    8 => Beaten { outcome: Option<Outcome>, ts: Timestamp },
    9 => Pushed(pushed: Pushed),
    10 => Record(record: Option<Box<Record>>),
    11 => Recovered(outcome: Option<Outcome>),
    12 => Partly { next: Bound },
    13 => Done,
    14 => Locked { value: Option<Value>, ts: Timestamp, queue: u32 },
    15 => Changed { value: Option<Value>, ts: Timestamp, queue: u32 },
});

variants!(Act {
    1 => Read,
    2 => Write,
    3 => Committed(ts: Timestamp),
    4 => Lock,
});

fields!(Party {
    who: Option<Arc<Who>>,
    act: Act,
});

fields!(Conflict {
    key: Bound,
    ours: Party,
    theirs: Party,
    now: Timestamp,
});

variants!(Refusal {
    1 => WrongRange { key: Bound },
    2 => Cut { at: Bound },
    3 => Conflict { conflict: Box<Conflict>, seen: Seen },
    4 => WriteTooOld { conflict: Box<Conflict>, ts: Timestamp },
    5 => Uncertain { key: Bound, ts: Timestamp },
    6 => Refresh { to: Timestamp },
    7 => Changed { conflict: Box<Conflict> },
    8 => WriteMissing { key: Bound },
    9 => Aborted,
    10 => Indeterminate { record: Box<Record> },
    11 => PushWaits,
    12 => Stale,
    13 => Forgotten,
    14 => TooManyWrites { key: Bound },
    15 => Malformed { what: Cow<'static, str> },
    16 => Contradiction { what: Cow<'static, str>, record: Box<Record> },
    17 => Unmet { unmet: Box<Unmet> },
});
