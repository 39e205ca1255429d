//! Requests of transactions, at the leader of the range that has their keys.
//!
//! ```text
//!   batch ──► its turn? ──► admitted? ──► evaluate over tablet, intents, records ──► one entry of the log ──► applied ──► answer
//!               │  no: `queues`   │  no: latch, wait for what is in flight     │ needs the disk: read ahead, again
//! ```
//!
//! Nodes keep nothing of open transactions beside their intents and records: who runs them sends each batch to the range that it is
//! for, and deals with what is in its way (`docs/decisions/0012-coordinator-in-the-client.md`).
//!
//! Invariants, beside those of `docs/transactions.md`:
//! - A batch is evaluated under the lease, and what it changes is proposed in the same step.
//! - Nothing that is proposed and unapplied touches what a batch reads or changes when it is evaluated (`replica::latches`).
//! - What an entry makes lies below the entry's own timestamp: those increase as ever. Timestamps of other clocks are taken in first.
//! - What was read at a timestamp is noted before it is answered, or the clock passed it: no intent is laid at or below it later.

use crate::message::{OwnedRequest, RawRequest};
use crate::queues::{self, Passed, Told, Turn};
use crate::read::ReadGuard;
use crate::refusal::{Refusal, check_key, check_value};
use crate::shard::Shard;
use crate::spilled::{self, ReadAhead};
use crate::start::{First, race};
use crate::state::{Job, Message, Route, Slot, State, Then};
use crate::version;
use base::api::WriteOp;
use base::{RangeId, Timestamp};
use core::cell::RefCell;
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox};
use replica::provisional::{PROVISIONAL_BYTES_MAX, SPILLED_BYTES_MAX};
use replica::{Held, Met, Replica, Ticket};
use storage::{Ahead, Need, NeedsIo, Pressure, Tablet};
use txn::change::Change;
use txn::error::{Act, Conflict, Party};
use txn::record::Head;
use txn::view::Version;
use txn::{Batch, Bytes, Context, Intent, Memory, Record, Request, TxnId, View, codec};
use wire::Code;
use wire::reply::TransactReply;
use wire::request::ArchivedTransact;

/// A coordinator that has not been heard of for so long is taken for dead: five of its heartbeats.
const EXPIRY_NS: u64 = 750_000_000;

/// How long after the first look whether a range is led it is looked again, and how long at most when each pause is twice as long as the
/// one before: what one waits for may take seconds, and hundreds may wait.
const UNLED_PAUSE: Duration = Duration::from_millis(1);
const UNLED_PAUSE_MAX: Duration = Duration::from_millis(16);

/// What intents count as where there is no room: what becomes of them goes on, where nothing is spilled.
const A_PUT: WriteOp<'_> = WriteOp::Put { key: &[], value: &[] };
/// What becomes of spilled intents counts as this: they are written again when they become versions.
const A_DELETE: WriteOp<'_> = WriteOp::Delete { key: &[] };

/// A batch on its way to its evaluation.
pub(crate) struct Work {
    batch: Batch,
    request: OwnedRequest,
    deadline: Instant,
    ahead: Ahead,
    spilled: ReadAhead,
    /// In which range it has a latch.
    latch: Option<(RangeId, Ticket)>,
    /// In which range it waits for its turn.
    turn: Option<(RangeId, Turn)>,
}

/// What became of a try.
enum Tried<E: Env> {
    /// It is proposed, answered, forwarded or refused.
    Done,
    /// Something in flight, or on its way here, comes first.
    Wait,
    /// Nobody may lead the range now.
    Unled,
    /// Others come first.
    Queued,
    /// This has to be read first.
    Read(Tablet<E>, ReadGuard, Lack),
}

/// What an evaluation lacks.
enum Lack {
    /// Something of the tables.
    Tables(Need),
    /// Spilled intents from this key on.
    Spilled(Bytes),
}

impl<E: Env, B> State<E, B> {
    /// Takes a batch.
    pub(crate) fn on_transact(&mut self, transact: &ArchivedTransact<'static>, raw: RawRequest<'_>) {
        let batch = match codec::decode_batch(&transact.batch) {
            Ok(batch) => batch,
            Err(error) => {
                let message = format!("the batch of the transaction does not decode: {error}");
                return self.refuse(raw.origin, &Refusal::fatal(Code::InvalidRequest, message));
            }
        };
        if let Err(refusal) = check_batch(&batch) {
            return self.refuse(raw.origin, &refusal);
        }
        let deadline = raw.received + Duration::from_millis(transact.deadline_ms.to_native().into());
        let mut work = Work {
            batch,
            request: raw.to_owned(),
            deadline,
            ahead: Ahead::default(),
            spilled: ReadAhead::default(),
            latch: None,
            turn: None,
        };
        match self.try_batch(&mut work) {
            Tried::Done => {}
            Tried::Wait | Tried::Unled | Tried::Queued | Tried::Read(..) => {
                self.jobs.push(Job::Transact(Box::new(work)));
            }
        }
    }

    /// Evaluates the batch, if that can be now.
    fn try_batch(&mut self, work: &mut Work) -> Tried<E> {
        let origin = work.request.origin;
        let sender = work.batch.header.as_ref().map(|header| &header.who);
        let first = &work.batch.requests.first().expect("an empty batch is refused").1;
        let position = self.map.position(first.key(sender));
        let slot = match self.routes[position] {
            Route::There(shard) => {
                self.forward(shard, work.request.as_raw());
                return Tried::Done;
            }
            Route::Nowhere => {
                self.refuse(origin, &Refusal::not_here());
                return Tried::Done;
            }
            Route::Here(slot) => slot,
        };
        let Slot::Live(local) = &self.slots[slot as usize] else {
            return Tried::Wait;
        };
        let is_led = local.leads() && local.replica.last_ts().wall_ns <= self.clock_bound_ns;
        if !is_led || !self.may_read(slot) {
            if let Some(refusal) = self.led_elsewhere(slot) {
                self.refuse(origin, &refusal);
                return Tried::Done;
            }
            base::sometimes!("node: a transaction's request waits for a lease");
            return Tried::Unled;
        }
        if self.storage.pressure() == Pressure::Stop || !self.log.has_room() {
            base::sometimes!("node: a transaction's request held back by a full memory or log");
            self.wake_maintenance = true;
            return Tried::Wait;
        }
        match self.take_in(work.batch.newest()) {
            Ok(true) => {}
            Ok(false) => return Tried::Wait,
            Err(refusal) => {
                self.refuse(origin, &refusal);
                return Tried::Done;
            }
        }
        if let Some(tried) = self.take_turn(slot, work) {
            return tried;
        }
        let local = self.live_mut(slot);
        let touched = local.replica.touched(&work.batch);
        // The keys may be another range's since: there its ticket is somebody else's.
        let latch = work.latch.filter(|(of, _)| *of == local.range);
        let ticket = latch.map(|(_, ticket)| ticket);
        if !local.replica.admit_batch(&touched, ticket) {
            base::sometimes!("node: a transaction's request waits for what is in flight");
            return Tried::Wait;
        }
        let provisional = local.replica.provisional();
        let is_full = provisional.bytes() > PROVISIONAL_BYTES_MAX;
        if (is_full || provisional.spilled_bytes() > SPILLED_BYTES_MAX) && work.batch.lays() {
            let message = format!(
                "transactions have {} unfinished writes in range {}, which is all that fits; wait until some have ended",
                provisional.len().0,
                local.range
            );
            let refusal = Refusal::retry(Code::Overloaded, 50, message).about_range(local.range);
            self.refuse(origin, &refusal);
            return Tried::Done;
        }
        let needs_room = match provisional.has_spilled() {
            _ if work.batch.lays() => Some(A_PUT),
            true if work.batch.resolves() => Some(A_DELETE),
            _ => None,
        };
        if let Some(refusal) = needs_room.and_then(|op| self.lacks_room(slot, [op].into_iter())) {
            self.refuse(origin, &refusal);
            return Tried::Done;
        }
        self.evaluate_batch(slot, work)
    }

    /// Takes in the timestamps of another clock; whether that can be now.
    fn take_in(&mut self, newest: Timestamp) -> Result<bool, Refusal> {
        if newest <= self.hlc.last() {
            return Ok(true);
        }
        let (_, wall_ns) = self.clock();
        let mut ahead = self.hlc.clone();
        ahead
            .observe(newest, wall_ns)
            .map_err(|ahead| Refusal::fatal(Code::TimestampAhead, ahead.to_string()))?;
        if newest.wall_ns > self.clock_bound_ns {
            base::sometimes!("node: a transaction's request waits for the clock bound");
            self.clock_wanted_ns = self.clock_wanted_ns.max(newest.wall_ns);
            self.wake_maintenance = true;
            return Ok(false);
        }
        self.hlc = ahead;
        Ok(true)
    }

    /// Evaluates the batch over the range in `slot`, and proposes what it changes.
    fn evaluate_batch(&mut self, slot: u32, work: &mut Work) -> Tried<E> {
        let origin = work.request.origin;
        let now = self.now();
        let closed = self.promised_ts().max(self.closed_ts(slot));
        let context = Context {
            now,
            closed,
            // Versions do not say when they were written where that is not their timestamp, so no clock of a leader counts.
            observed: Timestamp::MAX,
            lease_start: Timestamp::ZERO,
            expiry_ns: EXPIRY_NS,
        };
        let local = self.live_mut(slot);
        let mut cache = local.replica.take_cache(now);
        let mut changes = Vec::new();
        let view = Tables {
            replica: &local.replica,
            tablet: &local.tablet,
            ahead: &work.ahead,
            spilled: &work.spilled,
            lack: RefCell::new(None),
        };
        let evaluated = txn::evaluate(&view, &mut cache, &context, &work.batch, &mut changes);
        let lack = view.lack.into_inner();
        local.replica.keep_cache(cache);
        let mut answer = match evaluated {
            Ok(answer) => answer,
            Err(NeedsIo) => {
                base::sometimes!("node: a transaction's request reads from disk");
                let lack = lack.expect("a view says what it lacks");
                let tablet = local.tablet.clone();
                let guard = ReadGuard::new(&local.reads);
                return Tried::Read(tablet, guard, lack);
            }
        };
        if let Err((_, refusal)) = &answer {
            self.contention.refused(refusal);
            let times = (self.clock().0, work.deadline);
            let local = self.live_mut(slot);
            if let Some(passed) = local.queues.met(&work.batch, &answer, now, times) {
                return self.queue(slot, work, passed).unwrap_or(Tried::Done);
            }
        }
        self.live_mut(slot).queues.on_answer(&work.batch, &mut answer);
        let mut bytes = Vec::new();
        codec::encode_answer(&answer, &mut bytes);
        if changes.is_empty() {
            if self.may_read(slot) {
                self.answer_batch(origin, &bytes);
            } else {
                let refusal = self.not_leading(slot);
                self.refuse(origin, &refusal);
            }
        } else {
            let ts = self.write_ts();
            let start = self.batch.bytes.len();
            let spill_bytes = self
                .may_use(version::Version::SPILLS)
                .then_some(self.config.spill_bytes);
            let local = self.slots[slot as usize]
                .live_mut()
                .expect("it was evaluated there");
            let provisional = local.replica.provisional();
            let changes = spilled::put_in_terms(changes, provisional, &work.spilled, spill_bytes);
            assert!(local.leads(), "{} proposes only where it leads", local.range);
            let index = local.replica.propose_change(ts, &changes, &mut self.batch.bytes);
            self.counts.changes += 1;
            self.stage(slot, index, start, Then::Transact(origin, bytes));
        }
        // Not before: who has waited behind waits for what was proposed, too.
        self.unlatch(work);
        Tried::Done
    }

    /// What a batch wants to itself it asks for first. `None` when it may go on.
    fn take_turn(&mut self, slot: u32, work: &mut Work) -> Option<Tried<E>> {
        if self.live_mut(slot).queues.is_free(&work.batch) {
            return None;
        }
        let (now, times) = (self.now(), (self.clock().0, work.deadline));
        let passed = self.live_mut(slot).queues.ask(&work.batch, now, times);
        self.queue(slot, work, passed)
    }

    /// Lets a batch wait for its turn, if it has to.
    fn queue(&mut self, slot: u32, work: &mut Work, passed: Passed) -> Option<Tried<E>> {
        match passed {
            Passed::Free => None,
            Passed::Waits(turn) => {
                base::sometimes!("node: a transaction's request waits for its turn");
                // What would let it go on may touch the same.
                self.unlatch(work);
                work.turn = Some((self.live_mut(slot).range, turn));
                Some(Tried::Queued)
            }
            Passed::Refused(answer) => {
                base::sometimes!("node: a transaction writes what another one has locked");
                self.unlatch(work);
                self.answer_refused_batch(work.request.origin, &answer);
                Some(Tried::Done)
            }
            Passed::Full => {
                self.unlatch(work);
                let range = self.live_mut(slot).range;
                let message = format!("too many transactions wait for each other in range {range}");
                let refusal = Refusal::retry(Code::Overloaded, 50, message).about_range(range);
                self.refuse(work.request.origin, &refusal);
                Some(Tried::Done)
            }
        }
    }

    /// A batch was refused because of another transaction.
    fn answer_refused_batch(&mut self, origin: crate::message::Origin, answer: &txn::request::Answer) {
        if let Err((_, refusal)) = answer {
            self.contention.refused(refusal);
        }
        let mut bytes = Vec::new();
        codec::encode_answer(answer, &mut bytes);
        self.answer_batch(origin, &bytes);
    }

    /// Sends the answer to a batch.
    pub(crate) fn answer_batch(&mut self, origin: crate::message::Origin, answer: &[u8]) {
        let now = self.now().into();
        self.reply(origin, &TransactReply { answer, now });
    }

    /// A plain request has met an intent: what a client needs to get it out of the way.
    pub(crate) fn refuse_met(&mut self, origin: crate::message::Origin, met: &Met) {
        base::sometimes!("node: a plain request met an intent");
        self.contention.met(&met.key);
        let now = self.now();
        let plain = Party {
            who: None,
            act: Act::Read,
        };
        let theirs = Party {
            who: Some(met.seen.who.clone()),
            act: Act::Write,
        };
        let conflict = Box::new(Conflict {
            key: met.key.clone(),
            ours: plain,
            theirs,
            now,
        });
        let seen = met.seen.clone();
        let mut bytes = Vec::new();
        codec::encode_answer(&Err((0, txn::Refusal::Conflict { conflict, seen })), &mut bytes);
        self.answer_batch(origin, &bytes);
    }
}

/// What the limits say of a batch.
fn check_batch(batch: &Batch) -> Result<(), Refusal> {
    if batch.requests.is_empty() {
        return Err(Refusal::fatal(
            Code::InvalidRequest,
            "the batch of a transaction asks for nothing",
        ));
    }
    let sender = batch.header.as_ref().map(|header| &header.who);
    for (_, request) in &batch.requests {
        if request.needs_header() && sender.is_none() {
            let message = "a request of a transaction comes without the transaction";
            return Err(Refusal::fatal(Code::InvalidRequest, message));
        }
        match request {
            Request::Write { key, value, .. } => {
                check_key(key)?;
                if let Some(value) = value {
                    check_value(key, value)?;
                }
            }
            Request::Change {
                key, change, given, ..
            } => {
                check_key(key)?;
                match change {
                    Change::Set(Some(bytes)) | Change::Append { bytes, .. } => check_value(key, bytes)?,
                    Change::Set(None) | Change::Add { .. } | Change::Min(_) | Change::Max(_) => {}
                }
                given.iter().try_for_each(|condition| check_key(&condition.key))?;
            }
            Request::Check { condition } => check_key(&condition.key)?,
            Request::Get { key } | Request::GetLocked { key, .. } | Request::Query { key, .. } => {
                check_key(key)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The applied state of a range, as evaluation reads it.
struct Tables<'a, E: Env> {
    replica: &'a Replica<OwnedRequest>,
    tablet: &'a Tablet<E>,
    ahead: &'a Ahead,
    spilled: &'a ReadAhead,
    /// What has to be read first.
    lack: RefCell<Option<Lack>>,
}

impl<E: Env> View for Tables<'_, E> {
    type NeedsIo = NeedsIo;

    fn contains(&self, key: &[u8]) -> bool {
        self.replica.descriptor().span.contains(key)
    }

    fn end(&self) -> Option<&[u8]> {
        self.replica.descriptor().span.end.as_deref()
    }

    fn version<R>(
        &self,
        key: &[u8],
        at: Timestamp,
        f: impl FnOnce(Option<Version<'_>>) -> R,
    ) -> Result<R, NeedsIo> {
        let found = self.tablet.version_cached(self.ahead, key, at, |found| {
            f(found.map(|(ts, value)| Version {
                ts,
                local_ts: ts,
                value,
            }))
        });
        if found.is_err() {
            self.lack
                .replace(Some(Lack::Tables(Need::Version(key.to_vec(), at))));
        }
        found
    }

    fn next_key(&self, from: &[u8], end: Option<&[u8]>) -> Result<Option<Bytes>, NeedsIo> {
        let Ok(key) = self.tablet.next_key_cached(self.ahead, from, end) else {
            let end = end.map(<[u8]>::to_vec);
            let need = Need::Keys(from.to_vec(), end);
            self.lack.replace(Some(Lack::Tables(need)));
            return Err(NeedsIo);
        };
        let intent = self.replica.provisional().next_key(from, end).cloned();
        Ok([key.map(Bytes::from), intent].into_iter().flatten().min())
    }

    fn intent(&self, key: &[u8]) -> Result<Option<&Intent>, NeedsIo> {
        match self.replica.provisional().held(key) {
            None => Ok(None),
            Some(Held::Here(intent)) => Ok(Some(intent)),
            Some(Held::Spilled(spilled)) => match self.spilled.get(key, spilled.at) {
                Some(intent) => Ok(Some(intent)),
                None => {
                    self.lack.replace(Some(Lack::Spilled(key.into())));
                    Err(NeedsIo)
                }
            },
        }
    }

    fn head(&self, key: &[u8]) -> Result<Option<Head<'_>>, NeedsIo> {
        Ok(self.replica.provisional().held(key).map(|held| held.head()))
    }

    fn next_intent(&self, from: &[u8], end: Option<&[u8]>) -> Result<Option<Bytes>, NeedsIo> {
        Ok(self.replica.provisional().next_key(from, end).cloned())
    }

    fn record(&self, id: TxnId) -> Result<Option<&Record>, NeedsIo> {
        Ok(self.replica.provisional().record(id))
    }

    fn memory(&self, id: TxnId) -> Memory {
        self.replica.memory(id)
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Tries a batch until it is done, or nobody waits for it any more.
    pub(crate) async fn transact(&self, mut work: Work) {
        let mut pause = UNLED_PAUSE;
        loop {
            if let Some((range, turn)) = work.turn.take()
                && !self.wait_for_turn(&work, range, turn).await
            {
                break;
            }
            let tried = self.step(|state| {
                let tried = state.try_batch(&mut work);
                if matches!(tried, Tried::Wait | Tried::Unled) {
                    state.latch(&mut work);
                }
                tried
            });
            if !matches!(tried, Tried::Unled) {
                pause = UNLED_PAUSE;
            }
            match tried {
                Tried::Done => break,
                Tried::Wait | Tried::Unled if self.now() >= work.deadline => {
                    let refusal = Refusal::deadline("what is in flight, or a leader");
                    self.step(|state| state.refuse(work.request.origin, &refusal));
                    break;
                }
                Tried::Wait => self.wait_applied().await,
                Tried::Unled => {
                    self.env.clock().sleep(pause).await;
                    pause = UNLED_PAUSE_MAX.min(pause * 2);
                }
                Tried::Queued => {}
                Tried::Read(tablet, guard, lack) => {
                    if work.spilled.is_full() {
                        drop(guard);
                        let message = "the request needs more of the unfinished writes of its transaction at once than fit into memory; ask for fewer keys";
                        let refusal =
                            Refusal::fatal(Code::BatchTooLarge, message).about_range(tablet.range());
                        self.step(|state| state.refuse(work.request.origin, &refusal));
                        break;
                    }
                    let read = match lack {
                        Lack::Tables(need) => tablet.read_ahead(&mut work.ahead, &need).await,
                        Lack::Spilled(from) => work.spilled.read(&tablet, &from).await,
                    };
                    drop(guard);
                    if let Err(error) = read {
                        self.step(|state| {
                            let refusal = state.storage_refusal(tablet.range(), &error);
                            state.refuse(work.request.origin, &refusal);
                        });
                        break;
                    }
                }
            }
        }
        self.step(|state| state.unlatch(&mut work));
    }

    /// Waits until a batch is to be tried again. Otherwise it was answered.
    async fn wait_for_turn(&self, work: &Work, range: RangeId, mut turn: Turn) -> bool {
        loop {
            let wake = self.with_state(|state| {
                let slot = state.here.get(&range).copied()?;
                state.slots[slot as usize].live()?.queues.wake_at(&turn)
            });
            // Whose place is lost was told so, or the table is gone.
            let wake = wake.unwrap_or(Instant(0));
            let left = Duration::from_nanos(wake.0.saturating_sub(self.now().0));
            let told = match race(&mut turn.told, self.env.clock().sleep(left)).await {
                First::Left(told) => told,
                First::Right(()) if wake == Instant(0) => None,
                First::Right(()) => {
                    let at = self.now();
                    self.step(|state| {
                        let slot = state.here.get(&range).copied();
                        if let Some(local) = slot.and_then(|slot| state.slots[slot as usize].live_mut()) {
                            local.queues.check(&turn, at);
                        }
                    });
                    continue;
                }
            };
            let origin = work.request.origin;
            match told {
                Some(Told::Go) => return true,
                None => {
                    base::sometimes!("node: a request that waited for its turn tries again");
                    return true;
                }
                Some(Told::Late) if self.now() >= work.deadline => {
                    let refusal = Refusal::deadline("another transaction");
                    self.step(|state| state.refuse(origin, &refusal));
                }
                Some(Told::Late) => {
                    base::sometimes!("node: the transaction of a request that waited for its turn has ended");
                    // Whoever still wants to know finds out how: another copy of the request may have been answered.
                    let message = "the transaction has ended, or has asked again, while this request waited for another one";
                    let refusal = Refusal::retry(Code::Ambiguous, 0, message).about_range(range);
                    self.step(|state| state.refuse(origin, &refusal));
                }
                Some(Told::Held(seen)) => self.step(|state| {
                    base::sometimes!("node: a request has waited for its turn for long");
                    let answer = queues::held(&work.batch, &turn.key, seen, state.now());
                    state.answer_refused_batch(origin, &answer);
                }),
            }
            return false;
        }
    }
}

impl<E: Env, B> State<E, B> {
    /// Holds back what touches the same as a batch that waits here.
    fn latch(&mut self, work: &mut Work) {
        let sender = work.batch.header.as_ref().map(|header| &header.who);
        let first = &work.batch.requests.first().expect("an empty batch is refused").1;
        let slot = match self.routes[self.map.position(first.key(sender))] {
            Route::Here(slot) => Some(slot),
            Route::There(_) | Route::Nowhere => None,
        };
        let local = slot.and_then(|slot| self.slots[slot as usize].live_mut());
        let Some(local) = local.filter(|local| local.leads()) else {
            return self.unlatch(work);
        };
        let range = local.range;
        if work
            .latch
            .is_some_and(|(of, ticket)| of == range && local.replica.is_latched(ticket))
        {
            return;
        }
        let touched = local.replica.touched(&work.batch);
        let ticket = local.replica.latch(&touched);
        self.unlatch(work);
        work.latch = Some((range, ticket));
    }

    fn unlatch(&mut self, work: &mut Work) {
        let Some((range, ticket)) = work.latch.take() else {
            return;
        };
        if let Some(slot) = self.here.get(&range).copied()
            && let Some(local) = self.slots[slot as usize].live_mut()
        {
            local.replica.unlatch(ticket);
            self.runnable.push(slot);
        }
    }
}
