//! The side of the client: one transaction from its beginning to its end. Calls and answers in, [`Effect`]s out; after each input
//! the caller takes the effects.
//!
//! ```text
//!            commit                    all there, at or below the staged timestamp: answer
//!   Open ───────────► Committing ─────────────────────────────────────────────► Finishing ──► Resolving ──► Over
//!    │ ▲                 │  ▲ │ record says committed ───────────────────────────────────────────▲   ▲
//!    │ └─ Refreshing ◄───┘──┘ └─ failed ─► RollingBack ──► (aborted) ──────────────────────────────────┘
//!    └───────────── failed ──────────────────▲   │ it was staged: Recovering ──► committed or aborted
//! ```
//!
//! Invariants:
//! - **C1**: a commit is answered only when the commit condition holds: every promise was seen at or below the staged timestamp,
//!   or the record says so.
//! - **C2**: a failure is answered only when the transaction cannot be committed any more: no end was sent, or the record says so.
//! - **C3**: exactly one answer to a commit or rollback.
//! - **C4**: what was promised is sent, and leaves an intent each: nothing is dropped because it would not change anything.
//! - **C5**: reads see the transaction's own writes; of those laid already, a lost one fails the read.
//! - **C6**: a condition goes with a promised write, or was answered before anything is promised; and of keys that are not written it is a
//!   read like others from the beginning on.
//!
//! Not there: limits on the buffer that spill by themselves ([`Coordinator::flush`] spills when told to).

mod change;
mod commit;
mod lock_list;
mod ranged;
mod reading;

use crate::change::Unmet;
use crate::error::{Refusal, TxnError};
use crate::locks::Strength;
use crate::record::{Promise, Record};
use crate::request::{self, Batch, Item, Request};
use crate::txn::{Bytes, Epoch, Header, Isolation, Keys, Priority, Seq, SeqSpan, TxnId, Who};
use base::{NodeId, Timestamp};
use change::{Changed, Changing};
use lock_list::LockList;
use ranged::Deleting;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What coordinators of a node have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Keys and spans that were read are kept up to this number, then neighbours become one span, which makes a refresh more likely
    /// to fail.
    pub reads_max: usize,
    /// Refreshes of one transaction; then it fails.
    pub refreshes_max: u8,
    /// Writes that are promised when the record is staged, rather than waited for first. They make the record long.
    pub promises_max: usize,
    /// Times that a request is sent again when its answer is lost.
    pub resends_max: u8,
    /// Times that a request is sent elsewhere when it came to a wrong range.
    pub lookups_max: u8,
    /// Between two heartbeats, in nanoseconds.
    pub heartbeat_ns: u64,
    /// How far the clocks of two nodes may be apart, in nanoseconds: what a strictly serializable commit waits.
    pub clock_bound_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reads_max: 4096,
            refreshes_max: 5,
            promises_max: 1024,
            resends_max: 20,
            lookups_max: 20,
            heartbeat_ns: 1_000_000_000,
            clock_bound_ns: 250_000_000,
        }
    }
}

/// What the caller does for the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Split by range ([`Batch::split`]) and send; each part's answer goes to [`Coordinator::on_answer`], or its loss to
    /// [`Coordinator::on_lost`].
    Send(Batch),
    /// The same, but it was lost or came to a wrong range before: look the ranges up again first, and pause, longer from time to time.
    SendAgain(Batch),
    /// Recover this transaction, which is the coordinator's own, and tell [`Coordinator::on_recovered`].
    Recover(Box<Record>),
    /// The answer to the read, commit or rollback.
    Answer(Answer),
    /// Nothing is left to do.
    Over,
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The values of the keys that were asked for, in that order.
    Values(Vec<Option<Bytes>>),
    /// A page of a scan.
    Rows {
        /// Keys and values in order. There may be none, and more to come.
        rows: Vec<(Bytes, Bytes)>,
        /// Where to go on, when there may be more.
        next: Option<Bytes>,
    },
    /// The keys that [`Coordinator::delete_range`] deleted, in order: those that had a value.
    Deleted(Vec<Bytes>),
    /// What [`Coordinator::change`] made of the value.
    Changed(Option<Bytes>),
    /// Why [`Coordinator::change`] changed nothing. The transaction goes on.
    Unmet(Box<Unmet>),
    /// Committed at `ts`.
    Committed {
        /// The commit timestamp.
        ts: Timestamp,
        /// Not to be said before the caller's clock has passed this (commit-wait); it need not hold anything else up.
        not_before: Timestamp,
    },
    /// Nothing of it is or will be visible.
    Failed(TxnError),
    /// It may be committed or not. Ask later, by its id: push it by force, see [`crate::pusher`].
    Unknown,
}

/// A place to which writes can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Savepoint(Seq);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Open,
    /// Reads are validated at a higher timestamp; then the phase is this one again.
    Refreshing(Resume),
    Committing,
    Finishing,
    RollingBack,
    Recovering,
    Resolving,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Resume {
    Open,
    Committing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Buffered {
    seq: Seq,
    value: Option<Bytes>,
}

/// A write of this epoch that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Written {
    seq: Seq,
    /// Its intent was seen by an answer that came after it was durable.
    is_proven: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    request: Request,
    times: u8,
    /// How often it came to a wrong range.
    lookups: u8,
    /// The range was told that the transaction had read nothing.
    blind: bool,
}

/// Keys and values, and where to go on.
type Page = (Vec<(Bytes, Bytes)>, Option<Bytes>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reading {
    Keys {
        keys: Vec<Bytes>,
        found: BTreeMap<Bytes, Option<Bytes>>,
        /// What is locked when these are here, the last first.
        later: Vec<(Vec<Bytes>, Strength)>,
        /// One key is being locked, and nothing was read: the snapshot moves to its newest version.
        moves: bool,
    },
    Span {
        keys: Keys,
        /// What comes behind `keys` was asked for too, and is in another range.
        cut: Option<Bytes>,
        found: Option<Page>,
    },
    Deletion(Deleting),
    Change {
        /// What the key has now.
        found: Option<Option<Bytes>>,
        /// Nothing was read or written before.
        is_first: bool,
    },
    /// What is read before the commit of a one-shot transaction.
    Conditions {
        left: usize,
        /// What is locked one after the other then, the next one last.
        turns: Vec<Bytes>,
    },
    /// What a one-shot transaction locks before its commit.
    Turn {
        is_locked: bool,
        /// It is the first one.
        is_first: bool,
        /// Those that follow, the next one last.
        turns: Vec<Bytes>,
    },
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator {
    config: Config,
    who: Arc<Who>,
    epoch: Epoch,
    read_ts: Timestamp,
    write_ts: Timestamp,
    limit: Timestamp,
    phase: Phase,
    seq: Seq,
    /// Writes that were not sent.
    buffer: BTreeMap<Bytes, Buffered>,
    written: BTreeMap<Bytes, Written>,
    /// Changes of a one-shot transaction that were not sent.
    changes: BTreeMap<Bytes, Changing>,
    /// What those made of keys.
    changed: Changed,
    /// All of a one-shot transaction is in one range, as far as is known.
    whole: bool,
    /// Where intents may be, of all epochs, and what was locked.
    locks: LockList,
    /// Since the first savepoint: for each write, what the buffer had before.
    undo: Option<Vec<(Seq, Bytes, Option<Buffered>)>>,
    ignored: Vec<SeqSpan>,
    reads: Vec<Keys>,
    reading: Option<Reading>,
    outstanding: BTreeMap<Item, Sent>,
    beat: Option<Item>,
    beat_at_ns: u64,
    /// It has waited for its first lock since.
    has_waited: bool,
    next_item: Item,
    /// Refused, and to be sent again when nothing is outstanding.
    undone: Vec<Request>,
    /// Reads are to be valid at this before anything goes on.
    refresh_to: Option<Timestamp>,
    refreshes: u8,
    /// While reads are being validated: where they were valid before.
    valid_ts: Option<Timestamp>,
    fatal: Option<TxnError>,
    /// An end that may commit was sent in this epoch, so nobody but the record knows.
    may_be_committed: bool,
    promises: Arc<[Promise]>,
    staged: Option<Timestamp>,
    committed: Option<Timestamp>,
    answered: bool,
    /// Something was sent twice, so a late copy of a write may lie where the first one is a version by now.
    sent_again: bool,
    observed: BTreeMap<NodeId, Timestamp>,
    /// See [`Self::queues`].
    queues: Vec<(Bytes, u32)>,
    effects: Vec<Effect>,
}

impl Coordinator {
    /// A transaction that reads the snapshot at `now`. What others may have committed before it, by clocks that are ahead, lies
    /// at or below `now` and the clock bound.
    #[must_use]
    pub fn begin(
        config: Config,
        id: TxnId,
        name: &str,
        (isolation, priority): (Isolation, Priority),
        now: Timestamp,
    ) -> Self {
        let who = Who {
            id,
            anchor: Arc::new([]),
            name: name.into(),
            isolation,
            priority,
            start_ts: now,
        };
        Self {
            config,
            who: Arc::new(who),
            epoch: Epoch::default(),
            read_ts: now,
            write_ts: now,
            limit: now.plus_ns(config.clock_bound_ns),
            phase: Phase::Open,
            seq: Seq::default(),
            buffer: BTreeMap::new(),
            written: BTreeMap::new(),
            changes: BTreeMap::new(),
            changed: Changed::new(),
            whole: false,
            locks: LockList::default(),
            undo: None,
            ignored: Vec::new(),
            reads: Vec::new(),
            reading: None,
            outstanding: BTreeMap::new(),
            beat: None,
            beat_at_ns: now.wall_ns,
            has_waited: false,
            next_item: 0,
            undone: Vec::new(),
            refresh_to: None,
            refreshes: 0,
            valid_ts: None,
            fatal: None,
            may_be_committed: false,
            promises: Arc::new([]),
            staged: None,
            committed: None,
            answered: false,
            sent_again: false,
            observed: BTreeMap::new(),
            queues: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// A read-only transaction, or one that must not be ahead of others: it reads at `ts` exactly, and nothing is uncertain.
    #[must_use]
    pub fn at(mut self, ts: Timestamp) -> Self {
        self.read_ts = ts;
        self.write_ts = ts;
        self.limit = ts;
        self
    }

    /// It was begun before, at `start_ts`, and has failed: it is as old as it was then.
    #[must_use]
    pub fn as_old_as(mut self, start_ts: Timestamp) -> Self {
        let who = Arc::make_mut(&mut self.who);
        who.start_ts = who.start_ts.min(start_ts);
        self
    }

    /// What others may have committed before the transaction began lies at or below `limit`: for a caller that does not know the
    /// clock exactly, and began at what it is at least.
    #[must_use]
    pub fn uncertain_until(mut self, limit: Timestamp) -> Self {
        self.limit = limit.max(self.read_ts);
        self
    }

    /// The transaction.
    #[must_use]
    pub fn who(&self) -> &Arc<Who> {
        &self.who
    }

    /// The snapshot that it reads, and at which all its reads are valid.
    #[must_use]
    pub fn read_ts(&self) -> Timestamp {
        self.valid_ts.unwrap_or(self.read_ts)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether it may be called: it is open, and no call waits for an answer.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Open && self.reading.is_none()
    }

    /// What is to be done, each thing once.
    pub fn effects(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }

    /// Notes the clock of a node that the transaction comes to: what is written there later was not before the transaction.
    pub fn observe(&mut self, node: NodeId, now: Timestamp) {
        self.observed.entry(node).or_insert(now);
    }

    /// See [`crate::evaluate::Context::observed`].
    #[must_use]
    pub fn observed(&self, node: NodeId) -> Timestamp {
        self.observed.get(&node).copied().unwrap_or(Timestamp::MAX)
    }

    /// Writes a key; `None` deletes it. Nothing is sent before [`Self::flush`] or [`Self::commit`].
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        assert!(self.is_ready(), "one call after the other, until the end");
        self.seq = self.seq.next();
        let write = Buffered { seq: self.seq, value };
        let before = self.buffer.insert(key.clone(), write);
        if let Some(undo) = &mut self.undo {
            undo.push((self.seq, key, before));
        }
    }

    /// A place to come back to.
    pub fn savepoint(&mut self) -> Savepoint {
        self.undo.get_or_insert_default();
        Savepoint(self.seq)
    }

    /// Takes back what was written since `to`. Reads stay noted.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn return_to(&mut self, to: Savepoint) {
        assert!(self.is_ready(), "one call after the other, until the end");
        let last = self.seq;
        if to.0 == last {
            return;
        }
        let mut undo = self.undo.take().unwrap_or_default();
        let mut lost = BTreeMap::new();
        while let Some((_, key, before)) = undo.pop_if(|(seq, ..)| *seq > to.0) {
            self.buffer.remove(&key);
            lost.insert(key, before);
        }
        self.ignored.push(SeqSpan {
            first: to.0.next(),
            last,
        });
        for (key, before) in lost {
            let Some(mut before) = before else { continue };
            // What was overwritten in the buffer and never sent is written anew, for a later one may have been sent.
            if self
                .written
                .get(&key)
                .is_some_and(|written| written.seq > before.seq)
            {
                self.seq = self.seq.next();
                before.seq = self.seq;
            }
            self.buffer.insert(key, before);
        }
        self.undo = Some(undo);
    }

    /// Lays what is buffered as intents, without waiting: what [`Self::commit`] would do with less to wait for then, or what a
    /// transaction that has grown large does.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn flush(&mut self) {
        assert!(self.is_ready(), "one call after the other, until the end");
        // What is not proven when the transaction commits has to be asked for, or promised: of a large one that is too much.
        let pipelined = self.written.len() + self.buffer.len() <= self.config.promises_max;
        let requests = self.take_buffer(pipelined);
        if !requests.is_empty() {
            self.send(requests);
        }
    }

    /// For how many keys that were locked since this was asked last others waited: each with how many.
    pub fn queues(&mut self) -> Vec<(Bytes, u32)> {
        core::mem::take(&mut self.queues)
    }

    /// Reads the part of a span that is in the range of its first key. [`Answer::Rows`] follows, with where to go on, or a failure.
    /// A caller that knows where the range ends saves a detour by asking for no more.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn scan(&mut self, keys: Keys, rows_max: usize) {
        assert!(self.is_ready(), "one call after the other, until the end");
        let own: Vec<Bytes> = self
            .written
            .keys()
            .filter(|key| keys.contain(key))
            .cloned()
            .collect();
        let mut requests: Vec<Request> = own.iter().filter_map(|key| self.proof(key)).collect();
        requests.push(Request::Scan {
            keys: keys.clone(),
            rows_max,
        });
        self.reading = Some(Reading::Span {
            keys,
            cut: None,
            found: None,
        });
        self.send(requests);
    }

    /// Begins again under the same id, keeping the places of intents: earlier writes are void. For a caller whose transaction
    /// would fail anyway, say because of what it read.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn restart(&mut self, now: Timestamp) {
        assert!(self.is_ready(), "one call after the other, until the end");
        self.epoch = self.epoch.next();
        self.read_ts = now.max(self.write_ts);
        self.write_ts = self.read_ts;
        self.limit = self.read_ts.plus_ns(self.config.clock_bound_ns);
        self.buffer.clear();
        self.written.clear();
        self.reads.clear();
        self.undo = None;
        self.ignored.clear();
        // Late answers of the epoch before find nothing.
        self.outstanding.clear();
        self.undone.clear();
        self.refresh_to = None;
    }

    /// When [`Self::tick`] is to be called next; `None` while nobody has to hear that the transaction is alive.
    #[must_use]
    pub fn beat_due_ns(&self) -> Option<u64> {
        self.is_met()
            .then(|| self.beat_at_ns.saturating_add(self.config.heartbeat_ns))
    }

    /// Whether an end that may commit was sent: from then on only the record can say that the transaction is not committed.
    #[must_use]
    pub fn may_be_committed(&self) -> bool {
        self.may_be_committed
    }

    /// The caller waits no longer. What is open is taken back, and [`Answer::Failed`] follows, at once unless it may be committed; what
    /// was being taken back already, or recovered, is left to whoever meets it, and [`Answer::Unknown`] follows.
    pub fn abandon(&mut self) {
        let anchor = self.who.anchor.clone();
        self.give_up(anchor);
    }

    /// Time passes: a heartbeat is sent when one is due and others may have met the transaction.
    pub fn tick(&mut self, now_ns: u64) {
        if self.waits_for_first_lock() {
            self.has_waited = true;
        } else if core::mem::take(&mut self.has_waited) {
            // The leader heard of it when it asked.
            self.beat_at_ns = now_ns;
        }
        if self.is_met() && now_ns.saturating_sub(self.beat_at_ns) >= self.config.heartbeat_ns {
            self.beat_at_ns = now_ns;
            if let Some(lost) = self.beat.take() {
                self.outstanding.remove(&lost);
            }
            self.beat = Some(self.next_item);
            self.send(vec![Request::Beat]);
        }
    }

    /// Whether others may have met it. Whoever waits for its first lock has nothing yet.
    fn is_met(&self) -> bool {
        self.has_locks() && !self.waits_for_first_lock() && self.phase != Phase::Over
    }

    fn waits_for_first_lock(&self) -> bool {
        matches!(
            self.reading,
            Some(
                Reading::Keys { moves: true, .. }
                    | Reading::Change { is_first: true, .. }
                    | Reading::Turn { is_first: true, .. }
            )
        )
    }

    /// A query for a write of a key that was sent, which a read of it is preceded by.
    fn proof(&self, key: &Bytes) -> Option<Request> {
        self.written.get(key).map(|written| self.query(key, written.seq))
    }

    fn query(&self, key: &Bytes, seq: Seq) -> Request {
        Request::Query {
            key: key.clone(),
            txn: self.who.id,
            epoch: self.epoch,
            seq,
            ts: self.write_ts,
        }
    }

    /// The buffer as requests; they count as sent.
    fn take_buffer(&mut self, pipelined: bool) -> Vec<Request> {
        let mut requests = Vec::with_capacity(self.buffer.len());
        for (key, Buffered { seq, value }) in core::mem::take(&mut self.buffer) {
            self.lock(Keys::One(key.clone()));
            let is_proven = false;
            self.written.insert(key.clone(), Written { seq, is_proven });
            requests.push(Request::Write {
                key,
                seq,
                value,
                pipelined,
            });
        }
        requests
    }

    /// Whether it has read the key, as far as is known: neighbours of what it has read may count, too.
    #[must_use]
    pub fn has_read(&self, key: &[u8]) -> bool {
        self.reads.iter().any(|keys| keys.contain(key))
    }

    /// Whether nothing was read or is being read, so that the snapshot may move.
    fn is_blind(&self) -> bool {
        let reading = self.reading.as_ref();
        self.reads.is_empty()
            && reading.is_none_or(|reading| {
                matches!(
                    reading,
                    Reading::Keys { moves: true, .. } | Reading::Change { .. } | Reading::Turn { .. }
                )
            })
    }

    fn header(&self) -> Header {
        Header {
            who: Arc::clone(&self.who),
            epoch: self.epoch,
            read_ts: self.read_ts,
            write_ts: self.write_ts,
            limit: self.limit,
            blind: self.is_blind(),
            ignored: self.ignored.clone().into(),
        }
    }

    fn send(&mut self, requests: Vec<Request>) {
        let number = |request| self.number(request, 0);
        let requests = requests.into_iter().map(number).collect();
        let header = Some(self.header());
        self.effects.push(Effect::Send(Batch { header, requests }));
    }

    /// Sends what came to a wrong range, and nothing else: what other parts were refused waits for what refused it. Each with how
    /// often that has happened to it.
    fn send_elsewhere(&mut self, mut part: Vec<(Request, u8)>) {
        if base::planted_bug!("txn-wrong-range-resends-all") {
            part.extend(self.undone.drain(..).map(|request| (request, 0)));
        }
        if part.is_empty() {
            return;
        }
        if let Some((lost, _)) = part
            .iter()
            .find(|(_, lookups)| *lookups >= self.config.lookups_max)
        {
            let key = lost.key(Some(&self.who)).into();
            return self.give_up(key);
        }
        let number = |(request, lookups)| self.number(request, lookups + 1);
        let requests = part.into_iter().map(number).collect();
        let header = Some(self.header());
        self.effects.push(Effect::SendAgain(Batch { header, requests }));
    }

    fn number(&mut self, request: Request, lookups: u8) -> (Item, Request) {
        let item = self.next_item;
        self.next_item += 1;
        let sent = Sent {
            request: request.clone(),
            times: 1,
            lookups,
            blind: self.is_blind(),
        };
        self.outstanding.insert(item, sent);
        (item, request)
    }

    /// Whether an answer to `item` would still matter.
    #[must_use]
    pub fn awaits(&self, item: Item) -> bool {
        self.outstanding.contains_key(&item)
    }

    /// Takes in the answer to one part of what was sent: the items of that part, and what the range said. Late and repeated answers
    /// change nothing.
    pub fn on_answer(&mut self, items: &[Item], answer: request::Answer) {
        match answer {
            Ok(replies) => {
                let mut lost = Vec::new();
                for (item, reply) in replies {
                    let fits = |sent: &mut Sent| sent.request.is_answered_by(&reply);
                    match self.outstanding.get_mut(&item).map(fits) {
                        None => {}
                        Some(false) => lost.push(item),
                        Some(true) => {
                            if let Some(Sent { request, blind, .. }) = self.outstanding.remove(&item) {
                                self.on_reply(request, reply, blind, items);
                            }
                        }
                    }
                }
                if !lost.is_empty() {
                    self.on_lost(&lost);
                }
            }
            Err((refused, refusal)) => {
                if !self.outstanding.contains_key(&refused) {
                    return;
                }
                let mut refused_request = None;
                let mut part = Vec::new();
                for item in items {
                    let Some(Sent { request, lookups, .. }) = self.outstanding.remove(item) else {
                        continue;
                    };
                    if *item == refused {
                        refused_request = Some(request.clone());
                    }
                    if self.beat == Some(*item) {
                        self.beat = None;
                    } else {
                        part.push((request, lookups));
                    }
                }
                if matches!(refusal, Refusal::WrongRange { .. })
                    && !refused_request
                        .as_ref()
                        .is_some_and(|request| self.is_cut_off(request, &refusal))
                {
                    self.send_elsewhere(part);
                } else {
                    self.undone.extend(part.into_iter().map(|(request, _)| request));
                    if let Some(request) = refused_request {
                        self.on_refusal(&request, refusal);
                    }
                }
            }
        }
        self.advance();
    }

    /// The answer to `items` will not come: they may or may not have been done. They are sent again, a few times.
    pub fn on_lost(&mut self, items: &[Item]) {
        let mut again = Vec::new();
        let is_blind = self.is_blind();
        for item in items {
            if self.beat == Some(*item) {
                self.beat = None;
                self.outstanding.remove(item);
            } else if let Some(sent) = self.outstanding.get_mut(item) {
                if sent.times > self.config.resends_max {
                    let key = sent.request.key(Some(&self.who)).into();
                    return self.give_up(key);
                }
                sent.times += 1;
                sent.blind |= is_blind;
                self.sent_again = true;
                again.push((*item, sent.request.clone()));
            }
        }
        if !again.is_empty() {
            let header = Some(self.header());
            self.effects.push(Effect::SendAgain(Batch {
                header,
                requests: again,
            }));
        }
    }

    fn note_read(&mut self, keys: Keys) {
        if self.reads.contains(&keys) {
            return;
        }
        self.reads.push(keys);
        if self.reads.len() > self.config.reads_max {
            base::sometimes!("txn: reads were condensed");
            self.reads
                .sort_unstable_by(|one, other| one.start().cmp(other.start()));
            let hull = |pair: &[Keys]| {
                let ends: Option<Vec<Bytes>> = pair.iter().map(ranged::end).collect();
                Keys::Span(
                    pair[0].start().clone(),
                    ends.and_then(|ends| ends.into_iter().max()),
                )
            };
            self.reads = self.reads.chunks(2).map(hull).collect();
        }
    }

    /// Answers a call that the transaction goes on after.
    fn tell(&mut self, answer: Answer) {
        self.effects.push(Effect::Answer(answer));
    }

    fn finish_reading(&mut self) {
        if self.lock_next() {
            return;
        }
        let answer = match self.reading.take() {
            None => return,
            Some(Reading::Keys {
                keys,
                mut found,
                later,
                moves,
            }) => {
                if keys.iter().any(|key| !found.contains_key(key)) {
                    self.reading = Some(Reading::Keys {
                        keys,
                        found,
                        later,
                        moves,
                    });
                    return;
                }
                let last = |key| found.get(key).cloned().flatten();
                let values = keys.iter().map(last).collect();
                found.clear();
                Answer::Values(values)
            }
            Some(reading @ Reading::Span { found: None, .. }) => {
                self.reading = Some(reading);
                return;
            }
            Some(Reading::Span {
                keys,
                cut,
                found: Some((rows, next)),
            }) => {
                let next = next.or(cut);
                let is_behind = |key: &Bytes| next.as_ref().is_none_or(|next| key < next);
                let mut merged: BTreeMap<Bytes, Bytes> = rows.into_iter().collect();
                for (key, write) in &self.buffer {
                    if keys.contain(key) && is_behind(key) {
                        match &write.value {
                            Some(value) => drop(merged.insert(key.clone(), value.clone())),
                            None => drop(merged.remove(key)),
                        }
                    }
                }
                let rows = merged.into_iter().collect();
                Answer::Rows { rows, next }
            }
            Some(Reading::Deletion(deleting)) => return self.go_on_deleting(deleting),
            Some(Reading::Change {
                found: Some(value), ..
            }) => Answer::Changed(value),
            Some(
                Reading::Conditions { left: 0, turns }
                | Reading::Turn {
                    is_locked: true,
                    turns,
                    ..
                },
            ) => return self.lock_in_turn(turns),
            Some(reading @ (Reading::Change { .. } | Reading::Conditions { .. } | Reading::Turn { .. })) => {
                self.reading = Some(reading);
                return;
            }
        };
        self.tell(answer);
    }
}
