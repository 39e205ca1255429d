//! What a shard does beside requests: flushes, merges, the clock bound, collection of old versions.
//!
//! ```text
//!   steps that see a need, slow timer ──► what takes no time ──► flushes ──► merges
//! ```
//! Three tasks of the background class: while tables are merged, memory is flushed, also of the same range, and neither keeps the clock
//! waiting. Each claims a range (`busy`), works on its tablet, and comes back with a step.

use crate::gauge::Room;
use crate::local::Local;
use crate::shard::Shard;
use crate::state::{Message, Slot, State};
use base::{Index, RangeId, Seqno, Term, Timestamp};
use core::mem;
use env::{Clock, Env, Mailbox};
use log::Record;
use std::rc::Rc;
use storage::{FlushCandidate, Pressure, StorageError, Tablet, pick_flush};

/// Looks for flushes and merges go over the ranges in which something has happened; after so many, one goes over all of the shard.
const LOOKS_SKIPPED_MAX: u32 = 240;

impl<E: Env, B> State<E, B> {
    /// The log has made everything up to `persisted` durable: a clock bound may be among it.
    pub(crate) fn on_clock_bound(&mut self, persisted: Seqno) {
        if let Some((seqno, wall_ns)) = self.clock_bound_staged
            && seqno <= persisted
        {
            self.clock_bound_ns = self.clock_bound_ns.max(wall_ns);
            self.clock_bound_staged = None;
            // A new leader waits for its clock. Where something else is waited for, too, that looks for them again.
            let slots = &mut self.slots;
            let waits = |slot: &u32| {
                slots[*slot as usize].live_mut().is_some_and(|local| {
                    local.seat.parked = false;
                    local.replica.has_runnable()
                })
            };
            self.runnable.extend(self.parked.drain(..).filter(waits));
        }
    }

    /// Stages a bound on timestamps that reaches `horizon` beyond the clock, or `at_least`.
    pub(crate) fn stage_clock_bound(&mut self, at_least: u64) {
        let (_, wall_ns) = self.clock();
        let horizon = u64::try_from(self.config.clock_horizon.as_nanos()).unwrap_or(u64::MAX);
        let bound = wall_ns
            .saturating_add(horizon)
            .max(at_least)
            .max(self.clock_bound_ns);
        self.log.set_hlc_bound(Timestamp::new(bound, u32::MAX));
        // A record of the system range carries the bound to disk; of these the log keeps only the newest.
        let tick = Record::HardState {
            range: RangeId::SYSTEM,
            term: Term(1),
            vote: None,
            commit: Index::ZERO,
        };
        let seqno = self.log.append(&tick);
        self.clock_bound_staged = Some((seqno, bound));
    }

    /// Keeps the clock bound ahead of the clock while the shard is in use.
    fn maintain_clock(&mut self) {
        let (_, wall_ns) = self.clock();
        let horizon = u64::try_from(self.config.clock_horizon.as_nanos()).unwrap_or(u64::MAX);
        let used = self.hlc.last().wall_ns.saturating_add(horizon / 2) >= self.clock_bound_ns;
        let due = wall_ns.saturating_add(horizon / 2) >= self.clock_bound_ns;
        let wanted = self.clock_wanted_ns > self.clock_bound_ns;
        if (wanted || used && due) && self.clock_bound_staged.is_none() {
            self.stage_clock_bound(self.clock_wanted_ns);
        }
        let retention = u64::try_from(self.config.retention.as_nanos()).unwrap_or(u64::MAX);
        self.storage
            .set_gc_threshold(Timestamp::new(wall_ns.saturating_sub(retention), 0));
    }

    /// Whether there may be something to flush or to merge.
    fn wants_look(&mut self) -> bool {
        self.looks_skipped += 1;
        if self.looks_skipped > LOOKS_SKIPPED_MAX {
            self.looks_skipped = 0;
            self.stir_all();
        }
        !self.stirred.is_empty()
            || self.log.stats().live_bytes > self.config.log_bytes_max
            || self.storage.pressure() >= Pressure::Flush
    }

    /// Looks at every range again, also at those in which nothing has happened: what is garbage may have become so since.
    fn stir_all(&mut self) {
        for (slot, content) in (0u32..).zip(&mut self.slots) {
            if let Some(local) = content.live_mut()
                && !mem::replace(&mut local.seat.stirred, true)
            {
                self.stirred.push(slot);
            }
        }
    }

    /// Adds the ranges in which something has happened to those that are looked at.
    fn watch_stirred(&mut self) {
        for slot in self.stirred.drain(..) {
            if let Some(seat) = self.slots[slot as usize].seat_mut() {
                seat.stirred = false;
                if !mem::replace(&mut seat.watched, true) {
                    self.watched.push(slot);
                }
            }
        }
    }

    /// Ranges that have nothing to be flushed or merged are not looked at until something happens in them.
    fn let_rest(&mut self) {
        let slots = &mut self.slots;
        self.watched.retain(|slot| {
            let slot = &mut slots[*slot as usize];
            let live = slot.live();
            let stays = live.is_some_and(|local| local.is_flush_due() || local.tablet.pick_merge().is_some());
            if let Some(seat) = slot.seat_mut() {
                seat.watched = stays;
            }
            stays
        });
    }

    /// The next range to flush, if any: one that is full, or frozen, or one to relieve memory or log.
    fn pick_flush(&mut self) -> Option<(RangeId, Tablet<E>)> {
        let log_full = self.log.stats().live_bytes > self.config.log_bytes_max;
        let pinning = self.log.oldest_uncovered().map(|(range, ..)| range);
        if let Some(pinning) = pinning.filter(|_| log_full) {
            self.release_log(pinning);
        }
        let relieve = self.storage.pressure() >= Pressure::Flush || base::misbehave!("node: early flush");
        self.watch_stirred();
        // To relieve memory any of them will do, and the log the one that keeps it long; otherwise those in which something has happened.
        let (all, watched) = match relieve || log_full {
            true => (&*self.slots, &[][..]),
            false => (&[][..], &*self.watched),
        };
        let watched = watched.iter().map(|slot| &self.slots[*slot as usize]);
        let candidates: Vec<_> = all
            .iter()
            .chain(watched)
            .filter_map(Slot::live)
            .filter(|local| local.may_flush() && !local.seat.leaving)
            .filter_map(|local| {
                // A flush of a range without anything new changes nothing, and would be picked again at once, for ever.
                if !local.has_news() {
                    return None;
                }
                let due = local.is_flush_due();
                let pins_oldest_segment = due || log_full && pinning == Some(local.range);
                (relieve || pins_oldest_segment).then(|| FlushCandidate {
                    range: local.range,
                    memtable_bytes: local.tablet.memtable_bytes(),
                    pins_oldest_segment,
                })
            })
            .collect();
        let range = pick_flush(&candidates)?;
        let slot = self.here[&range];
        let tablet = self.live_mut(slot).begin_flush()?;
        Some((range, tablet))
    }

    /// Lets the group and the log go of what tables have of a range, but for what others lack that it leads: they would have to get all of
    /// its state in place of a few entries.
    pub(crate) fn let_go(&mut self, range: RangeId, all: bool) {
        let live = self.here.get(&range).map(|slot| *slot as usize);
        let live = live.and_then(|slot| self.slots[slot].live_mut());
        match live.and_then(|local| local.let_go(all)) {
            Some(from) => {
                base::sometimes!("node: the log is held for a follower");
                if self.held.insert(range, from) != Some(from) {
                    self.log.hold(range, Some(from));
                }
            }
            None if self.held.remove(&range).is_some() => self.log.hold(range, None),
            None => {}
        }
    }

    /// Looks whether the others have got what is held for them. When that takes as much log as is kept otherwise, or the disk has little
    /// room, they get the state.
    fn mind_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let is_much = self.log.stats().held_bytes > self.config.log_bytes_max;
        let all = is_much || self.gauge.room() != Room::Enough;
        base::sometimes!("node: the log holds no more for followers", all);
        let held: Vec<RangeId> = self.held.keys().copied().collect();
        for range in held {
            self.let_go(range, all);
        }
    }

    fn pick_merge(&mut self) -> Option<(RangeId, Tablet<E>, storage::MergePlan)> {
        self.watch_stirred();
        let watched = self.watched.iter().map(|slot| &self.slots[*slot as usize]);
        let (range, plan) = watched.filter_map(Slot::live).find_map(|local| {
            // A split that is proposed waits for it, and once that is committed, reads wait for the split.
            let is_free = !local.busy.get() && !local.split_open && !local.replica.is_blocked();
            let idle = is_free && !local.seat.leaving && !self.damage.contains_key(&local.range);
            let plan = idle.then(|| local.tablet.pick_merge()).flatten()?;
            let fits = self
                .gauge
                .may_merge(plan.bytes(), self.storage.memory_bytes() as u64);
            base::sometimes!("node: a merge waits for room on the disk", !fits);
            fits.then_some((local.range, plan))
        })?;
        let slot = self.here[&range];
        let local = self.live_mut(slot);
        local.busy.set(true);
        local.merging = true;
        Some((range, local.tablet.clone(), plan))
    }

    /// The ranges that were split off `left` and wait until that is durable.
    fn rights_of(&self, left: RangeId) -> Vec<RangeId> {
        let from_left = |local: &&Local<E>| {
            let is_of_left = local.tablet.split_from().is_some_and(|(from, _)| from == left);
            is_of_left && local.tablet.waits_for_split()
        };
        self.slots
            .iter()
            .filter_map(Slot::live)
            .filter(from_left)
            .map(|local| local.range)
            .collect()
    }

    /// A flush is over.
    pub(crate) fn end_flush(&mut self, range: RangeId) {
        self.end_work(range, |local| {
            local.flushing = false;
            !local.merging
        });
    }

    /// A merge of tables is over.
    fn end_merge(&mut self, range: RangeId) {
        self.end_work(range, |local| {
            local.merging = false;
            !local.flushing
        });
    }

    /// Work on the range is over; nothing else works on it if `ended` says so.
    fn end_work(&mut self, range: RangeId, ended: impl FnOnce(&mut Local<E>) -> bool) {
        let slot = self.here.get(&range).copied();
        let live = slot.and_then(|slot| self.slots[slot as usize].live_mut());
        if live.is_some_and(ended) {
            self.unclaim(range);
        }
    }

    /// Work on the range is over, and nothing else works on it.
    pub(crate) fn unclaim(&mut self, range: RangeId) {
        if let Some(&slot) = self.here.get(&range)
            && let Some(local) = self.slots[slot as usize].live()
        {
            local.busy.set(false);
            self.touch(slot);
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Wakes the maintenance now and then.
    pub(crate) async fn run_timer(self: Rc<Self>) {
        let interval = self.with_state(|state| state.config.maintenance_interval);
        loop {
            self.env.clock().sleep(interval).await;
            self.maintenance.notify();
        }
    }

    /// Maintains until the shard is dropped.
    pub(crate) async fn run_maintenance(self: Rc<Self>) {
        loop {
            self.maintenance.notified().await;
            self.step(State::maintain_clock);
            self.step(State::tell_damage);
            self.step(State::mind_merges);
            self.step(State::mind_held);
            if self.with_state(State::wants_look) {
                self.flushes.notify();
            }
        }
    }

    /// Flushes until the shard is dropped.
    pub(crate) async fn run_flushes(self: Rc<Self>) {
        loop {
            self.flushes.notified().await;
            while self.flush_one().await {}
            self.with_state(State::let_rest);
            self.merges.notify();
        }
    }

    /// Merges until the shard is dropped.
    pub(crate) async fn run_merges(self: Rc<Self>) {
        loop {
            self.merges.notified().await;
            while self.merge_one().await {
                // What has gathered in the range meanwhile waited for it.
                self.flushes.notify();
            }
        }
    }

    async fn flush_one(&self) -> bool {
        let Some((range, tablet)) = self.with_state(State::pick_flush) else {
            return false;
        };
        let split_open = self.with_state(|state| state.local(range).is_some_and(|local| local.split_open));
        if split_open {
            let rights = self.with_state(|state| state.rights_of(range));
            self.complete_split(range, &rights).await;
            return true;
        }
        let stats = tablet.stats();
        let before = tablet.flushed_index();
        if stats.active_bytes > 0 || stats.frozen == 0 {
            self.freeze(range);
        }
        let Some(flushed) = self.flush_claimed(range, &tablet).await else {
            self.step(|state| state.end_flush(range));
            return false;
        };
        self.step(|state| state.end_flush(range));
        let progress = flushed > before || stats.frozen > 0;
        base::sometimes!("node: flush without progress", !progress);
        progress
    }

    /// Flushes what is frozen of a range that was claimed, and lets log and group go of what tables have. `None`: the node stops,
    /// or the range's replica ends because it is damaged.
    pub(crate) async fn flush_claimed(&self, range: RangeId, tablet: &Tablet<E>) -> Option<Index> {
        match tablet.flush().await {
            Ok(flushed) => {
                self.step(|state| {
                    // What others lack is held before it is covered: what is neither goes at once.
                    state.let_go(range, false);
                    state.log.cover(range, flushed);
                });
                Some(flushed)
            }
            Err(error @ StorageError::Corruption(_)) if self.with_state(|state| state.has_peers(range)) => {
                base::sometimes!("node: a flush met damage");
                self.step(|state| state.on_damage(range, error.to_string()));
                None
            }
            // A split that met damage leaves both sides as they are.
            Err(StorageError::Poisoned { .. }) if self.with_state(|state| state.injured.is_ending(range)) => {
                base::sometimes!("node: a replica that ends could not be flushed");
                None
            }
            Err(error) => {
                self.fail(format!("range {range} could not be flushed: {error}"));
                None
            }
        }
    }

    async fn merge_one(&self) -> bool {
        let Some((range, tablet, plan)) = self.with_state(State::pick_merge) else {
            return false;
        };
        let merged = tablet.merge(plan).await;
        self.step(|state| state.end_merge(range));
        match merged {
            Ok(()) => true,
            Err(error @ StorageError::Corruption(_)) => {
                // Of a range that is alone, reads of the damaged block are refused and named; the node serves everything else.
                base::sometimes!("node: a merge met damage");
                self.step(|state| state.on_damage(range, error.to_string()));
                false
            }
            Err(error) => {
                self.fail(format!("tables of range {range} could not be merged: {error}"));
                false
            }
        }
    }

    /// Waits until timestamps up to `clock` may be issued here, or the shard has failed: a log that does not take the bound
    /// would be waited for for ever.
    pub(crate) async fn reach_clock(&self, clock: Timestamp) {
        // The next timestamp after a bound lies a nanosecond above it: a bound that only reaches `clock` would not cover it, and
        // after another crash time would start from here again.
        let wanted_ns = clock.next().wall_ns;
        while self.with_state(|state| state.clock_bound_ns < wanted_ns && state.failed.is_none()) {
            self.step(|state| {
                if state.clock_bound_staged.is_none() {
                    state.stage_clock_bound(wanted_ns);
                }
            });
            self.env
                .clock()
                .sleep(core::time::Duration::from_micros(200))
                .await;
        }
    }
}
