//! Point reads.

use crate::message::RawRequest;
use crate::refusal::{Refusal, check_key};
use crate::shard::Shard;
use crate::start::{First, race};
use crate::state::{GetTask, Job, Message, Route, Slot, State};
use base::api::ReadAt;
use base::{RangeId, Timestamp};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox};
use replica::Barred;
use std::rc::Rc;
use storage::{NeedsIo, Tablet, interleave};
use wire::Code;
use wire::reply::GetReply;
use wire::request::ArchivedGet;

/// How long a quorum is waited for before the lease is looked at again.
const CONFIRM_MAX: Duration = Duration::from_secs(1);

/// Counts a read that waits for the disk, so that the range is not moved away beneath it.
pub(crate) struct ReadGuard(Rc<Cell<u32>>);

impl ReadGuard {
    pub(crate) fn new(reads: &Rc<Cell<u32>>) -> Self {
        reads.set(reads.get() + 1);
        Self(reads.clone())
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why a read cannot begin yet.
pub(crate) enum NotYet {
    /// The range is on another shard.
    Elsewhere,
    /// The range is opening, or writes at or below the timestamp are in flight: ask again soon.
    Wait,
    /// Requests of transactions are in flight: ask again soon, for this timestamp.
    WaitAt(Timestamp),
    /// Never.
    Refused(Refusal),
}

/// What a read looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Looks<'a> {
    /// One key.
    Key(&'a [u8]),
    /// `[start, end)`.
    Span(&'a [u8], Option<&'a [u8]>),
}

impl Looks<'_> {
    /// Calls `f` with the span that it is.
    fn as_span<R>(self, f: impl FnOnce(&[u8], Option<&[u8]>) -> R) -> R {
        match self {
            Self::Key(key) => {
                let mut next = key.to_vec();
                next.push(0);
                f(key, Some(&next))
            }
            Self::Span(start, end) => f(start, end),
        }
    }
}

/// A read that may go on.
pub(crate) struct Begun<E: Env> {
    pub(crate) tablet: Tablet<E>,
    pub(crate) read_ts: Timestamp,
    /// The range is closed up to there: it does not matter who leads.
    is_closed: bool,
    _guard: ReadGuard,
}

/// What a point read found.
pub(crate) struct Found {
    pub(crate) value: Option<Vec<u8>>,
    /// Of the value; of the read when there is none.
    pub(crate) ts: Timestamp,
    /// What was read at, where that was chosen here or by whoever asked.
    pub(crate) read_ts: Timestamp,
}

impl<E: Env, B> State<E, B> {
    /// Takes a point read: the newest version is looked up at the end of the turn, when its memory has been prefetched.
    pub(crate) fn on_get(&mut self, get: &ArchivedGet<'static>, raw: RawRequest<'_>) {
        let key: &[u8] = &get.key;
        if let Err(refusal) = check_key(key) {
            return self.refuse(raw.origin, &refusal);
        }
        let position = self.map.position(key);
        let slot = match self.routes[position] {
            Route::There(shard) => return self.forward(shard, raw),
            Route::Nowhere => return self.refuse(raw.origin, &Refusal::not_here()),
            Route::Here(slot) => slot,
        };
        self.counts.gets += 1;
        match &mut self.slots[slot as usize] {
            Slot::Live(_) => {}
            Slot::Opening(_, waiting) => return waiting.push_back(raw.to_owned()),
            Slot::Free | Slot::Stranger(_) => unreachable!("routes lead to taken slots"),
        }
        let at = get.at();
        if at != ReadAt::Newest {
            let deadline = raw.received + Duration::from_millis(get.deadline_ms.to_native().into());
            let (origin, received, key) = (raw.origin, raw.received, key.to_vec());
            self.jobs.push(Job::Get {
                origin,
                key,
                at,
                received,
                deadline,
            });
            return;
        }
        if !self.may_read(slot) {
            if let Some(refusal) = self.led_elsewhere(slot) {
                return self.refuse(raw.origin, &refusal);
            }
            base::sometimes!("node: read waits for a lease");
            let deadline = raw.received + Duration::from_millis(get.deadline_ms.to_native().into());
            return self.jobs.push(Job::Get {
                origin: raw.origin,
                key: key.to_vec(),
                at: ReadAt::Newest,
                received: raw.received,
                deadline,
            });
        }
        let local = self.live_mut(slot);
        local.load.read(key);
        local.tablet.prefetch(key);
        let offset = |len: usize| u32::try_from(len).expect("the keys of a turn fit 32 bits");
        let key_start = offset(self.get_keys.len());
        self.get_keys.extend_from_slice(key);
        let key_end = offset(self.get_keys.len());
        self.gets.push(GetTask {
            origin: raw.origin,
            slot,
            key_start,
            key_end,
        });
        if self.get_keys.len() > 1 << 20 {
            self.answer_gets();
        }
    }

    /// Looks up the reads of this turn, several at a time.
    pub(crate) fn answer_gets(&mut self) {
        if self.gets.is_empty() {
            return;
        }
        let mut gets = core::mem::take(&mut self.gets);
        let keys = core::mem::take(&mut self.get_keys);
        let missing = self.now();
        let me = RefCell::new(self);
        interleave(gets.drain(..).map(|task| answer_get(&me, task, &keys, missing)));
        let me = me.into_inner();
        me.gets = gets;
        me.get_keys = keys;
        me.get_keys.clear();
    }

    /// Begins a read of the range at map position `position`: chooses or checks the timestamp.
    ///
    /// Where that is left to the range, and this replica leads it, it is the newest one at which no later write appears.
    /// An age is one at `asked_ns`, by this node's clock: a read that waits does not run ahead of what it waits for.
    pub(crate) fn begin_read(
        &mut self,
        (position, looks): (usize, Looks<'_>),
        at: ReadAt,
        asked_ns: u64,
    ) -> Result<Begun<E>, NotYet> {
        let slot = match self.routes[position] {
            Route::Here(slot) => slot,
            Route::There(_) => return Err(NotYet::Elsewhere),
            Route::Nowhere => return Err(NotYet::Refused(Refusal::not_here())),
        };
        if !self.may_read(slot) {
            return self
                .begin_closed_read((slot, looks), at, asked_ns)
                .ok_or_else(|| self.cannot_read(slot, at));
        }
        let (read_ts, oldest) = match at {
            ReadAt::At(read_ts) => (Some(read_ts), None),
            ReadAt::Ago(age) => (Some(before(asked_ns, age)), None),
            ReadAt::Within(age) => (None, Some(before(asked_ns, age))),
            ReadAt::Newest => (None, None),
        };
        let now = self.now();
        if self.neighbours.is_some() && read_ts.is_some_and(|read_ts| read_ts > now) {
            // The next leader begins above this one's clock, and not above what a client makes of it. And a scan may read at a
            // timestamp of another node's clock.
            base::sometimes!("node: read waits for the clock to reach its timestamp");
            return Err(NotYet::Wait);
        }
        if let Some(read_ts) = read_ts
            && read_ts > now
        {
            let (_, wall_ns) = self.clock();
            let mut ahead = self.hlc.clone();
            if let Err(ahead) = ahead.observe(read_ts, wall_ns) {
                return Err(NotYet::Refused(Refusal::fatal(
                    Code::TimestampAhead,
                    ahead.to_string(),
                )));
            }
            if read_ts.wall_ns > self.clock_bound_ns && !base::planted_bug!("node-clock-bound-ignored") {
                // Serving it could outlive a restart whose clock starts lower: the bound has to become durable first. Until
                // then the clock stays where it is, or the next write would be above the bound.
                base::sometimes!("node: read waits for the clock bound");
                self.clock_wanted_ns = self.clock_wanted_ns.max(read_ts.wall_ns);
                self.wake_maintenance = true;
                return Err(NotYet::Wait);
            }
            self.hlc = ahead;
        }
        let Some(local) = self.slots[slot as usize].live_mut() else {
            return Err(NotYet::Wait);
        };
        let safe = local.replica.safe_ts(now.max(read_ts.unwrap_or(now)));
        if oldest.is_some_and(|oldest| safe < oldest) {
            base::sometimes!("node: read waits since what is safe is too old");
            return Err(NotYet::Wait);
        }
        let read_ts = read_ts.unwrap_or(safe);
        if read_ts > safe && !base::planted_bug!("node-read-not-safe") {
            base::sometimes!("node: read waits for writes in flight below it");
            return Err(NotYet::Wait);
        }
        let met = match (looks, at) {
            (Looks::Key(key), ReadAt::Newest) => local.replica.met_by_get(key),
            _ => match looks.as_span(|start, end| local.replica.read_at(start, end, read_ts)) {
                Ok(()) => None,
                Err(Barred::Wait) => return Err(NotYet::WaitAt(read_ts)),
                Err(Barred::Meets(met)) => Some(met),
            },
        };
        if let Some(met) = met.filter(|_| !base::planted_bug!("node-read-ignores-intents")) {
            return Err(NotYet::Refused(Refusal::met(met)));
        }
        Ok(Begun {
            tablet: local.tablet.clone(),
            read_ts,
            is_closed: false,
            _guard: ReadGuard::new(&local.reads),
        })
    }

    /// Begins a read of what is closed: this replica need not lead.
    fn begin_closed_read(
        &mut self,
        (slot, looks): (u32, Looks<'_>),
        at: ReadAt,
        asked_ns: u64,
    ) -> Option<Begun<E>> {
        let closed = self.closed_ts(slot);
        let read_ts = match at {
            ReadAt::At(read_ts) => Some(read_ts).filter(|read_ts| *read_ts <= closed),
            ReadAt::Ago(age) => Some(before(asked_ns, age)).filter(|read_ts| *read_ts <= closed),
            ReadAt::Within(age) => Some(closed).filter(|closed| *closed >= before(asked_ns, age)),
            ReadAt::Newest => None,
        }?;
        let local = self.slots[slot as usize].live_mut()?;
        // While state is installed the tablet may be another one than replica and map say.
        if local.seat.leaving || local.seat.installing {
            return None;
        }
        // An intent may become a version below what is closed; the leader finds out.
        let is_clear = looks.as_span(|start, end| local.replica.may_show(start, end, read_ts));
        if !is_clear && !base::planted_bug!("node-follower-ignores-intents") {
            base::sometimes!("node: a replica has an intent where a read of the past looks");
            return None;
        }
        base::sometimes!("node: a replica that does not lead serves a read", !local.led);
        local.replica.show(read_ts);
        self.counts.closed_reads += 1;
        let local = self.live_mut(slot);
        Some(Begun {
            tablet: local.tablet.clone(),
            read_ts,
            is_closed: true,
            _guard: ReadGuard::new(&local.reads),
        })
    }

    /// Whether the range in `slot` may be read here now: nobody else leads it or a part of it, everything that leaders before this one
    /// have committed is applied, and no timestamp is shown above which the next leader does not begin: timestamps may run ahead of
    /// the clock, after a restart up to what the process before made durable, and then reads wait for it. A range without replicas
    /// elsewhere waits for the durable bound instead. Reads the clock, so it is asked after the read: whoever was held up in between
    /// may have read what is not true any more.
    pub(crate) fn may_read(&mut self, slot: u32) -> bool {
        let Some(local) = self.slots[slot as usize].live() else {
            return false;
        };
        if base::planted_bug!("node-read-without-lease") {
            return true;
        }
        // Its keys may be another range's by now.
        if local.replica.is_frozen() && !base::planted_bug!("node-frozen-range-is-read") {
            return false;
        }
        // Other nodes may have applied it, and lead what it makes, before this one does.
        if local.has_split_ahead() && !base::planted_bug!("node-read-before-split") {
            base::sometimes!("node: a read waits for a split that is committed");
            return false;
        }
        if local.is_alone() {
            return self.has_lease(slot) && !self.clock_is_unbound();
        }
        if !self.has_lease(slot) {
            return false;
        }
        let wall_ns = self.env.clock().wall_ns();
        let is_ahead = self.runs_ahead(wall_ns);
        base::sometimes!(
            "node: read waits for a clock that timestamps run ahead of",
            is_ahead
        );
        !is_ahead
    }

    /// Whether nobody else leads the range in `slot`, and everything that leaders before this one have committed is applied. Reads the
    /// clock.
    pub(crate) fn has_lease(&mut self, slot: u32) -> bool {
        let Some(local) = self.slots[slot as usize].live() else {
            return false;
        };
        if local.is_alone() {
            // In a cluster whoever led before, and was removed, may have sent more than is applied.
            return self.neighbours.is_none() || local.leads();
        }
        if !local.leads() {
            return false;
        }
        let wall_ns = self.env.clock().wall_ns();
        if wall_ns >= local.lease_ns {
            self.renew_lease(slot);
        }
        wall_ns < self.live_mut(slot).lease_ns
    }

    /// Why a read cannot begin at a replica that may not speak for the range.
    fn cannot_read(&self, slot: u32, at: ReadAt) -> NotYet {
        if let Some(refusal) = self.led_elsewhere(slot) {
            return NotYet::Refused(refusal);
        }
        let leads = self.slots[slot as usize].live().is_some_and(|local| local.led);
        if at.is_stale() && !leads && self.neighbours.is_some() {
            base::sometimes!("node: a read of a moment that is not closed here, and nobody leads");
            let message = "this node cannot show the range as of then yet, and knows nobody who leads it";
            return NotYet::Refused(Refusal::retry(Code::NotLeader, 5, message));
        }
        NotYet::Wait
    }
}

/// So long before a clock.
fn before(wall_ns: u64, age: Duration) -> Timestamp {
    let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::new(wall_ns.saturating_sub(age_ns), 0)
}

/// Looks up one of the reads of a turn.
async fn answer_get<E: Env, B>(
    state: &RefCell<&mut State<E, B>>,
    task: GetTask,
    keys: &[u8],
    missing: Timestamp,
) {
    let key = &keys[task.key_start as usize..task.key_end as usize];
    let (tablet, met) = match &state.borrow().slots[task.slot as usize] {
        Slot::Live(local) => (local.tablet.clone(), local.replica.met_by_get(key)),
        Slot::Free | Slot::Opening(..) | Slot::Stranger(_) => {
            unreachable!("reads are answered before a slot changes")
        }
    };
    if let Some(met) = met.filter(|_| !base::planted_bug!("node-read-ignores-intents")) {
        return state.borrow_mut().refuse(task.origin, &Refusal::met(met));
    }
    let reply = |found: Option<(Timestamp, &[u8])>| {
        let mut state = state.borrow_mut();
        if !state.may_read(task.slot) {
            let refusal = state.not_leading(task.slot);
            return state.refuse(task.origin, &refusal);
        }
        let (ts, value) = found.map_or((missing, None), |(ts, value)| (ts, Some(value)));
        let reply = GetReply { value, ts: ts.into() };
        state.reply(task.origin, &reply);
    };
    if let Err(NeedsIo) = tablet.get_interleaved(key, Timestamp::MAX, reply).await {
        base::sometimes!("node: read from disk");
        let mut state = state.borrow_mut();
        let (received, _) = state.clock();
        state.jobs.push(Job::Get {
            origin: task.origin,
            key: key.to_vec(),
            at: ReadAt::Newest,
            received,
            deadline: Instant(u64::MAX),
        });
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Begins a read, waiting until the range can be read at that moment. `None` when it is on another shard.
    pub(crate) async fn wait_to_read(
        &self,
        (locate, looks): (impl Fn(&State<E, B>) -> usize, Looks<'_>),
        mut at: ReadAt,
        deadline: Instant,
    ) -> Result<Option<Begun<E>>, Refusal> {
        let asked_ns = self.env.clock().wall_ns();
        loop {
            let begun = self.with_state(|state| {
                let position = locate(state);
                state.begin_read((position, looks), at, asked_ns)
            });
            match begun {
                Ok(read) => return Ok(Some(read)),
                Err(NotYet::Elsewhere) => return Ok(None),
                Err(NotYet::Refused(refusal)) => return Err(refusal),
                Err(not_yet @ (NotYet::Wait | NotYet::WaitAt(_))) => {
                    if let NotYet::WaitAt(read_ts) = not_yet {
                        at = ReadAt::At(read_ts);
                    }
                    if self.now() >= deadline {
                        return Err(Refusal::deadline("writes in flight or a range on its way here"));
                    }
                    self.wait_applied().await;
                }
            }
        }
    }

    /// Without a lease, a round to a quorum shows that this replica leads: then the newest version may be read as soon as everything
    /// is applied that was committed by then. `None` when a lease, or another node, must do.
    async fn confirmed(&self, key: &[u8], deadline: Instant) -> Option<Tablet<E>> {
        let (receiver, tablet) = self.step(|state| {
            let Route::Here(slot) = state.routes[state.map.position(key)] else {
                return None;
            };
            if state.may_read(slot) {
                return None;
            }
            let receiver = state.confirm(slot)?;
            Some((receiver, state.live_mut(slot).tablet.clone()))
        })?;
        let left = deadline.since(self.now()).min(CONFIRM_MAX);
        let First::Left(index) = race(receiver, self.env.clock().sleep(left)).await else {
            return None;
        };
        let index = index?;
        base::sometimes!("node: read confirmed by a quorum, without a lease");
        // Not for ever: the replica may be removed meanwhile, and that waits for whoever reads it.
        let until = self.now() + CONFIRM_MAX;
        while tablet.applied_index() < index {
            if self.now() >= until {
                return None;
            }
            self.wait_applied().await;
        }
        // A split may have taken the key away, and what an intent on it becomes is for a leader with a lease to find out.
        let is_clear = self.with_state(|state| {
            let local = state.local(tablet.range());
            local.is_some_and(|local| local.replica.met_by_get(key).is_none())
        });
        (is_clear && tablet.span().contains(key)).then_some(tablet)
    }

    /// After a read: whether this replica may still speak for the range.
    pub(crate) fn check_lease(&self, range: RangeId, begun: &Begun<E>) -> Result<(), Refusal> {
        if begun.is_closed {
            return Ok(());
        }
        self.with_state(|state| match state.here.get(&range).copied() {
            Some(slot) if !state.may_read(slot) => Err(state.not_leading(slot)),
            // It has moved during the read, and who leads it is known elsewhere.
            None if state.neighbours.is_some() => Err(Refusal::retry(
                Code::WrongShard,
                1,
                "the range has just moved to another shard",
            )),
            Some(_) | None => Ok(()),
        })
    }

    /// A point read that waits for the disk or for a timestamp to be safe. `None` when the range is on another shard.
    pub(crate) async fn get(
        &self,
        key: &[u8],
        at: ReadAt,
        deadline: Instant,
    ) -> Result<Option<Found>, Refusal> {
        let is_newest = at == ReadAt::Newest;
        if is_newest && let Some(tablet) = self.confirmed(key, deadline).await {
            // Whoever leads since then has committed nothing that this read had to see. That nothing is there holds at no
            // timestamp of this node's, without a lease: then the lease is waited for.
            let found = tablet.get(key, Timestamp::MAX).await;
            if let Some((ts, value)) =
                found.map_err(|error| self.step(|state| state.storage_refusal(tablet.range(), &error)))?
            {
                return Ok(Some(Found {
                    value: Some(value),
                    ts,
                    read_ts: ts,
                }));
            }
        }
        let begun = self
            .wait_to_read(
                (|state: &State<E, B>| state.map.position(key), Looks::Key(key)),
                at,
                deadline,
            )
            .await?;
        let Some(begun) = begun else {
            return Ok(None);
        };
        // Of now the newest applied version is wanted, not the newest safe one.
        let look = if is_newest { Timestamp::MAX } else { begun.read_ts };
        let found = begun.tablet.get(key, look).await;
        let found =
            found.map_err(|error| self.step(|state| state.storage_refusal(begun.tablet.range(), &error)))?;
        // The timestamp at which nothing was found lies within the lease: so it comes before the look at it.
        let read_ts = if is_newest {
            self.with_state(State::now)
        } else {
            begun.read_ts
        };
        self.check_lease(begun.tablet.range(), &begun)?;
        drop(begun);
        let (ts, value) = found.map_or((read_ts, None), |(ts, value)| (ts, Some(value)));
        Ok(Some(Found { value, ts, read_ts }))
    }
}
