//! Splitting a range online: an entry in its log, then both halves at once.

use crate::cluster::NODE_MAX;
use crate::damage_note;
use crate::local::{Groups, Local};
use crate::marker;
use crate::message::{Answer, Ask, Origin, RawRequest, ShardMessage};
use crate::range_map::RangeEntry;
use crate::refusal::{Refusal, check_key};
use crate::shard::Shard;
use crate::state::{Job, Message, Route, SplitApplied, State, Then};
use base::{Index, RangeId, ShardId};
use core::time::Duration;
use env::sync::{Receiver, oneshot};
use env::{Clock, DiskError, Env, Instant, Mailbox};
use replica::group::life_of;
use std::sync::Arc;
use storage::Split;
use wire::Code;
use wire::reply::SplitReply;

/// How long a new range may take to find another shard.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Applies a Split entry to replica and tablet, and returns the new range.
pub(crate) fn split_local<E: Env>(
    local: &mut Local<E>,
    index: Index,
    right: RangeId,
    at: &[u8],
    groups: &Groups,
) -> Local<E> {
    let mut right_replica = local.replica.split_off(right, at);
    let tablet = local.tablet.split(Split {
        index,
        at: at.into(),
        right,
        right_at: right_replica.applied_index(),
        left_state: local.replica.encode_state(),
        right_state: right_replica.encode_state(),
    });
    local.split_open = true;
    let right = Local::new(right_replica, tablet, groups);
    // Nobody flushes or moves the right half before the split is durable.
    right.busy.set(true);
    right
}

/// What a proposed split waits for.
enum Proposed {
    Waiting(Receiver<SplitApplied>),
    /// A range starts there already.
    Nothing(RangeEntry),
    /// Something else works on the range.
    Busy,
    Elsewhere,
    /// By another node.
    LedElsewhere(Refusal),
}

impl<E: Env, B> State<E, B> {
    pub(crate) fn on_split(&mut self, key: &[u8], deadline_ms: u32, raw: RawRequest<'_>) {
        if let Err(refusal) = check_key(key) {
            return self.refuse(raw.origin, &refusal);
        }
        match self.routes[self.map.position(key)] {
            Route::There(shard) => return self.forward(shard, raw),
            Route::Nowhere => return self.refuse(raw.origin, &Refusal::not_here()),
            Route::Here(_) => {}
        }
        let deadline = raw.received + Duration::from_millis(deadline_ms.into());
        self.jobs.push(Job::Split {
            origin: raw.origin,
            key: key.to_vec(),
            deadline,
        });
    }

    /// Shard 0: the id of a new range.
    pub(crate) fn new_range(&mut self) -> RangeId {
        assert_eq!(self.me, ShardId(0), "shard 0 gives range ids out");
        // Each node of a cluster has numbers of its own: they end in its number.
        let (end, step) = self
            .neighbours
            .as_ref()
            .map_or((0, 1), |neighbours| (neighbours.cluster.me.0, NODE_MAX.0 + 1));
        let next = (self.range_last.0 + 1).next_multiple_of(step) + end;
        self.range_last = RangeId(next);
        self.range_last
    }

    /// Shard 0: puts entries into the map that counts and tells everyone. Returns its version.
    pub(crate) fn edit_map(&mut self, entries: Vec<RangeEntry>) -> u64 {
        assert_eq!(self.me, ShardId(0), "shard 0 keeps the map that counts");
        for entry in &entries {
            self.assigned.remove(&entry.descriptor.range);
        }
        let version = self.map.version() + 1;
        // What this shard knows better has been laid over the map before.
        let is_here = |entry: &RangeEntry| self.here.contains_key(&entry.descriptor.range);
        if entries
            .iter()
            .all(|entry| entry.shard != self.me || is_here(entry))
        {
            let mut map = core::mem::take(&mut self.map);
            map.merge(entries);
            map.set_version(version);
            self.forget_departed(&map);
            self.map = map;
            self.update_routes();
        } else {
            let mut next = self.map.clone();
            next.merge(entries);
            next.set_version(version);
            self.on_map(&next);
        }
        self.publish_map();
        version
    }

    fn publish_map(&mut self) {
        if self.shards == 1 {
            return;
        }
        let map = Arc::new(self.map.clone());
        for shard in (1..self.shards).map(ShardId) {
            self.send(shard, ShardMessage::Map(map.clone()));
        }
    }

    /// Shard 0: the range has no replica on `shard` any more.
    pub(crate) fn forget_place(&mut self, shard: ShardId, range: RangeId) {
        assert_eq!(self.me, ShardId(0), "shard 0 keeps the map that counts");
        if self.assigned.get(&range) == Some(&shard) {
            self.assigned.remove(&range);
        }
        // It went from here to that shard, which did not keep it: the entry would come back with every map.
        self.departed
            .retain(|gone| gone.descriptor.range != range || gone.shard != shard);
        if shard == self.me || self.map.get(range).is_some_and(|entry| entry.shard == shard) {
            let mut next = self.map.clone();
            next.remove(range);
            next.set_version(self.map.version() + 1);
            self.on_map(&next);
            self.publish_map();
        }
    }

    /// The range is no side of a split any more that is not durable.
    fn end_split(&mut self, range: RangeId) {
        let live = self.slots.iter_mut().filter_map(|slot| slot.live_mut());
        if let Some(local) = live.into_iter().find(|local| local.range == range) {
            local.split_open = false;
            local.busy.set(false);
            local.flushing = false;
        }
        // Entries may have waited for it.
        if let Some(&slot) = self.here.get(&range) {
            self.touch(slot);
        }
    }

    fn propose_split(&mut self, key: &[u8], right: RangeId) -> Proposed {
        let Route::Here(slot) = self.routes[self.map.position(key)] else {
            return Proposed::Elsewhere;
        };
        let ts = self.write_ts();
        let Some(local) = self.slots[slot as usize].live_mut() else {
            return Proposed::Busy;
        };
        if *local.replica.descriptor().span.start == *key {
            return Proposed::Nothing(self.entry_of(slot));
        }
        if !local.leads()
            && let Some(refusal) = self.led_elsewhere(slot)
        {
            return Proposed::LedElsewhere(refusal);
        }
        let local = self.slots[slot as usize].live_mut().expect("it is served here");
        if local.busy.get() || local.replica.is_blocked() || local.replica.is_merging() || !local.leads() {
            return Proposed::Busy;
        }
        // It is claimed only when the split is applied: until then followers may need the state by which it is committed.
        let start = self.batch.bytes.len();
        let index = local.replica.propose_split(ts, right, key, &mut self.batch.bytes);
        let (sender, receiver) = oneshot();
        self.stage(slot, index, start, Then::Split(sender));
        Proposed::Waiting(receiver)
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// `range split`: the whole of it, with the answer.
    pub(crate) async fn split(&self, origin: Origin, key: Vec<u8>, deadline: Instant) {
        match self.try_split(&key, deadline).await {
            Ok(reply) => self.step(|state| state.reply(origin, &reply)),
            Err(refusal) => self.step(|state| state.refuse(origin, &refusal.about_key(&key))),
        }
    }

    pub(crate) async fn try_split(&self, key: &[u8], deadline: Instant) -> Result<SplitReply, Refusal> {
        let right = self.ask_new_range().await?;
        let me = self.mailbox.shard();
        // The marker comes first: a tablet without one would be nobody's. One without a tablet is swept at the next start.
        if let Err(error) = marker::create(&self.env, me, right).await {
            self.fail(format!("range {right} could not be marked: {error}"));
            return Err(Refusal::fatal(Code::DiskFailed, error.to_string()));
        }
        let applied = loop {
            match self.step(|state| state.propose_split(key, right)) {
                Proposed::Waiting(receiver) => break receiver.await,
                Proposed::Nothing(entry) => {
                    let version = self.with_state(|state| state.map.version());
                    let range = entry.descriptor.range.0;
                    let right_shard = entry.shard.0;
                    return Ok(SplitReply {
                        left: range,
                        right: range,
                        right_shard,
                        range_map_version: version,
                    });
                }
                Proposed::Elsewhere => {
                    return Err(Refusal::retry(
                        Code::WrongShard,
                        1,
                        "the range has just moved to another shard",
                    ));
                }
                Proposed::LedElsewhere(refusal) => return Err(refusal),
                Proposed::Busy if self.now() >= deadline => {
                    return Err(Refusal::retry(
                        Code::RangeBusy,
                        10,
                        "the range is being flushed, split or moved",
                    ));
                }
                Proposed::Busy => self.env.clock().sleep(Duration::from_millis(1)).await,
            }
        };
        let Some(SplitApplied { left, right }) = applied else {
            let message = "the leader of the range changed before the split was known to be committed, or the node is stopping";
            return Err(Refusal::retry(Code::Ambiguous, 10, message));
        };
        let (left_id, right_id) = (left.descriptor.range, right.descriptor.range);
        if let Err(error) = self.mark_new(right_id).await {
            self.fail(format!("range {right_id} could not be marked: {error}"));
            return Err(Refusal::fatal(Code::DiskFailed, error.to_string()));
        }
        self.complete_split(left_id, &[right_id]).await;
        let version = self.edit_map(vec![left, right]).await?;
        let (right_shard, range_map_version) = self.place_new(right_id, version, deadline).await;
        Ok(SplitReply {
            left: left_id.0,
            right: right_id.0,
            right_shard: right_shard.0,
            range_map_version,
        })
    }

    /// A split that another replica proposed has been applied here.
    pub(crate) async fn complete_foreign_split(&self, SplitApplied { left, right }: SplitApplied) {
        let (left_id, right_id) = (left.descriptor.range, right.descriptor.range);
        // As with one's own: until there is a marker, replay makes the new range from the entry, which is still in the log.
        let marked = match marker::create(&self.env, self.mailbox.shard(), right_id).await {
            Ok(()) => self.mark_new(right_id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = marked {
            return self.fail(format!("range {right_id} could not be marked: {error}"));
        }
        self.complete_split(left_id, &[right_id]).await;
        // Without an answer the node is stopping.
        if self.edit_map(vec![left, right]).await.is_ok() {
            self.settle(right_id).await;
        }
    }

    /// A range that is new here goes to the shard with the fewest, if that makes the numbers more even.
    pub(crate) async fn settle(&self, range: RangeId) {
        let deadline = self.now() + SETTLE_MAX;
        let version = self.with_state(|state| state.map.version());
        self.place_new(range, version, deadline).await;
    }

    /// A range that a split has made has its marker: its life is written, too, and then its group takes part.
    async fn mark_new(&self, range: RangeId) -> Result<(), DiskError> {
        let life = self.with_state(|state| {
            state.neighbours.as_ref()?;
            let life = life_of(state.local(range)?.seat.raft.id());
            let written = state.injured.lives.get(&range);
            Some((life, written.is_some_and(|written| *written >= life)))
        });
        let Some((life, is_written)) = life else {
            return Ok(());
        };
        if !is_written {
            damage_note::write_life(&self.env, range, life).await?;
        }
        self.step(|state| {
            let last = state.injured.lives.entry(range).or_insert(life);
            *last = life.max(*last);
            if let Some(&slot) = state.here.get(&range) {
                state.seat_of(slot).unmarked = false;
                state.touch(slot);
            }
        });
        Ok(())
    }

    /// Makes the applied splits of `left` durable in tables, so that neither half needs the log before them any more.
    pub(crate) async fn complete_split(&self, left: RangeId, rights: &[RangeId]) {
        let Some(tablet) = self.with_state(|state| state.local(left).map(|local| local.tablet.clone()))
        else {
            return;
        };
        match tablet.complete_split().await {
            Ok(()) => self.step(|state| {
                state.let_go(left, false);
                state.log.cover(left, tablet.flushed_index());
                for range in rights.iter().chain([&left]) {
                    state.end_split(*range);
                }
            }),
            Err(error @ storage::StorageError::Corruption(_))
                if self.with_state(|state| {
                    let mut sides = rights.iter().chain([&left]);
                    sides.all(|range| state.has_peers(*range))
                }) =>
            {
                base::sometimes!("node: a split met damage");
                self.step(|state| {
                    // Both sides have the table, and neither can be made durable by itself. They are read until their ends begin.
                    for range in rights.iter().chain([&left]) {
                        state.on_damage(*range, error.to_string());
                        state.end_split(*range);
                    }
                    tablet.abandon_split();
                });
            }
            Err(storage::StorageError::Poisoned { .. })
                if self.with_state(|state| state.injured.is_ending(left)) =>
            {
                self.step(|state| {
                    rights
                        .iter()
                        .chain([&left])
                        .for_each(|range| state.end_split(*range));
                });
            }
            Err(error) => self.fail(format!(
                "the split of range {left} could not be made durable: {error}"
            )),
        }
    }

    /// A new range goes to the shard with the fewest, if that makes the numbers more even. One at a time: two that count what is still
    /// here would both go, and nothing would even that out.
    async fn place_new(&self, range: RangeId, version: u64, deadline: Instant) -> (ShardId, u64) {
        while self.with_state(|state| core::mem::replace(&mut state.placing_new, true)) {
            base::sometimes!("node: a new range waits until another one has its shard");
            if self.now() >= deadline {
                return (self.mailbox.shard(), version);
            }
            self.env.clock().sleep(Duration::from_millis(1)).await;
        }
        let placed = self.place_on_least(range, version, deadline).await;
        self.with_state(|state| state.placing_new = false);
        placed
    }

    async fn place_on_least(&self, range: RangeId, version: u64, deadline: Instant) -> (ShardId, u64) {
        let me = self.mailbox.shard();
        let to = self.with_state(|state| {
            let to = state.map.least_loaded(state.shards);
            let count = |shard| {
                state
                    .map
                    .entries()
                    .iter()
                    .filter(|entry| entry.shard == shard)
                    .count()
            };
            let is_here = state.local(range).is_some();
            (is_here && count(to) + 1 < count(me)).then_some(to)
        });
        let Some(to) = to else { return (me, version) };
        match self.move_range(range, to, deadline).await {
            Ok(version) => (to, version),
            // The split stands; the range is served where it is.
            Err(_) => (me, version),
        }
    }

    async fn ask_new_range(&self) -> Result<RangeId, Refusal> {
        if self.mailbox.shard() == ShardId(0) {
            return Ok(self.with_state(State::new_range));
        }
        match self.step(|state| state.ask(ShardId(0), Ask::NewRange)).await {
            Some(Answer::NewRange(range)) => Ok(range),
            Some(_) | None => Err(Refusal::retry(Code::Unavailable, 10, "shard 0 did not answer")),
        }
    }

    /// Reports entries to the map that counts. Returns the version that contains them.
    pub(crate) async fn edit_map(&self, entries: Vec<RangeEntry>) -> Result<u64, Refusal> {
        if self.mailbox.shard() == ShardId(0) {
            return Ok(self.step(|state| state.edit_map(entries)));
        }
        match self
            .step(|state| state.ask(ShardId(0), Ask::MapEdit(entries)))
            .await
        {
            Some(Answer::MapEdit(version)) => Ok(version),
            Some(_) | None => Err(Refusal::retry(Code::Unavailable, 10, "shard 0 did not answer")),
        }
    }
}
