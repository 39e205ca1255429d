//! The Raft groups of a shard: what they want written, and what follows when it is durable.
//!
//! ```text
//!   commands of a turn ─► propose ─► ready ─► log ─► durable ─► persisted ─► ready ─► apply, answer
//! ```
//! A group of one sends nothing and needs no ticks, elects itself as soon as it has written its vote, and commits an entry when
//! it is durable. Others speak through `neighbours`.
//!
//! Invariants:
//! - A group's entries are in the shard's log in the order in which the group handed them out.
//! - What a group commits by a split is known from the log before anything of the new range is in it: so replay finds the new
//!   range made when it meets its records.
//! - A range stays in its slot while writes of its group are under way.

use crate::neighbours::post_all;
use crate::refusal::Refusal;
use crate::split::split_local;
use crate::state::{Job, Slot, SplitApplied, State, Then};
use base::{Index, RangeId, ReplicaId, Seqno, Timestamp};
use core::mem;
use env::Env;
use log::{EntryKind, Record};
use raft::{Content, Entry, Event, HardState, Membership, Payload, PersistMark};
use replica::group::encode_members;
use replica::replica::At;
use replica::{Applied, command};
use std::sync::Arc;
use wire::Code;
use wire::reply::WriteReply;

/// The buffer of a turn's commands is given back beyond this.
const BATCH_BYTES_KEPT: usize = 2 << 20;
/// Entries that are committed, and of which the log does not say so.
const COMMITS_UNKNOWN_MAX: u64 = 1024;

/// Something of a group that is in the log and not known to be durable.
pub(crate) struct Write {
    seqno: Seqno,
    slot: u32,
    mark: PersistMark,
    /// What leaves when it is durable.
    messages: Vec<(ReplicaId, raft::Message)>,
}

/// A command that has its index and will be proposed at the end of the turn.
pub(crate) struct Command {
    pub(crate) slot: u32,
    pub(crate) index: Index,
    /// Where it lies in the batch's bytes.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Commands of one loop turn, back to back: they share one buffer.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) commands: Vec<Command>,
}

impl<E: Env, B> State<E, B> {
    /// Asks for an election of the group in `slot`.
    pub(crate) fn campaign(&mut self, slot: u32) {
        self.live_mut(slot).raft.campaign_now();
        self.drain(slot);
    }

    /// Starts all groups: those of one elect themselves, the others hear of their neighbours and wait.
    pub(crate) fn start_groups(&mut self) {
        let slots: Vec<(u32, bool)> = (0..)
            .zip(&self.slots)
            .filter_map(|(at, slot)| slot.live().map(|local| (at, local.is_alone())))
            .collect();
        for (slot, is_alone) in slots {
            if is_alone {
                self.campaign(slot);
            } else {
                self.introduce_all(slot);
            }
        }
        self.drain_dirty();
    }

    /// Proposes the commands of this turn, and stages what their groups want written.
    pub(crate) fn close_batch(&mut self) {
        if self.batch.commands.is_empty() {
            return self.drain_dirty();
        }
        let bytes: Arc<[u8]> = self.batch.bytes.as_slice().into();
        self.batch.bytes.clear();
        if self.batch.bytes.capacity() > BATCH_BYTES_KEPT {
            self.batch.bytes = Vec::new();
        }
        let mut commands = mem::take(&mut self.batch.commands);
        for command in commands.drain(..) {
            let payload = Payload::slice(Arc::clone(&bytes), command.start..command.end);
            let local = self.live_mut(command.slot);
            match local.raft.propose(payload) {
                Ok(mark) => assert_eq!(mark.index, command.index, "{} counts otherwise", local.range),
                // It led when it gave an index, and was told since that it does not: see `step_down`.
                Err(_) => base::sometimes!("node: leadership lost in the turn of a proposal"),
            }
            self.touch(command.slot);
        }
        self.batch.commands = commands;
        self.drain_dirty();
    }

    /// The group in `slot` may want something: it is asked at the end of the turn.
    pub(crate) fn touch(&mut self, slot: u32) {
        let local = self.live_mut(slot);
        if !mem::replace(&mut local.dirty, true) {
            self.dirty.push(slot);
        }
    }

    fn drain_dirty(&mut self) {
        // A group that is drained may touch another one: a split does.
        while !self.dirty.is_empty() {
            let mut dirty = mem::take(&mut self.dirty);
            for slot in dirty.drain(..) {
                self.live_mut(slot).dirty = false;
                self.drain(slot);
            }
            if self.dirty.is_empty() {
                self.dirty = dirty;
            }
        }
    }

    /// Does what the group in `slot` wants done.
    fn drain(&mut self, slot: u32) {
        let mut ready = mem::take(&mut self.ready);
        loop {
            let local = self.slots[slot as usize]
                .live_mut()
                .expect("a range stays while its group works");
            if !local.raft.ready(&mut ready) {
                break;
            }
            assert!(
                ready.snapshot.is_none(),
                "{} is sent a state, which nobody sends yet",
                local.range
            );
            post_all(&mut self.neighbours, local, ready.messages.drain(..));
            let mut seqno = Seqno::ZERO;
            if let Some(hard_state) = ready.hard_state {
                local.replica.set_hard_state(hard_state);
            }
            // What is committed is said now and then beside what is written anyway: replay then need not keep it.
            let commit = local.raft.commit_index();
            let is_due = !local.is_alone() && commit.since(local.commit_noted) >= COMMITS_UNKNOWN_MAX;
            if ready.hard_state.is_some() || is_due && !ready.entries.is_empty() {
                let HardState { term, vote, .. } = local.replica.group().hard_state;
                local.commit_noted = commit;
                seqno = self.log.append(&Record::HardState {
                    range: local.range,
                    term,
                    vote,
                    commit,
                });
            }
            for entry in local.raft.entries(&ready.entries) {
                seqno = append(&self.log, local.range, entry);
            }
            if let Some(mark) = ready.mark {
                local.writes += 1;
                // With nothing to write the messages wait for the write before, which is in the log.
                let seqno = seqno.max(local.written);
                local.written = seqno;
                let messages = mem::take(&mut ready.messages_after_persist);
                self.writes.push_back(Write {
                    seqno,
                    slot,
                    mark,
                    messages,
                });
            }
            for fetch in ready.fetches.drain(..) {
                // Older entries are not looked for in the log yet: the follower gets the state.
                local.raft.fetch_failed(fetch);
            }
            let leads = ready.events.iter().rev().find_map(|event| match event {
                Event::Leads { first, .. } => Some(*first),
                _ => None,
            });
            if local.led && (leads.is_some() || !local.raft.is_leader()) {
                self.step_down(slot);
            }
            if let Some(first) = leads.filter(|_| self.live_mut(slot).raft.is_leader()) {
                self.step_up(slot, first);
            }
            let local = self.slots[slot as usize]
                .live_mut()
                .expect("a range stays while its group works");
            let committed = local.raft.entries(&ready.committed).cloned();
            local.committed.extend(committed);
            self.apply_committed(slot);
        }
        self.ready = ready;
        self.renew_lease(slot);
        self.watch_ticks(slot);
        self.refuse_parked(slot);
        let local = self.live_mut(slot);
        if !local.is_alone() && local.leads() && local.replica.has_runnable() {
            self.runnable.push(slot);
        }
    }

    /// Applies what the group in `slot` has committed. A split waits until nothing else works on the tablet.
    pub(crate) fn apply_committed(&mut self, slot: u32) {
        loop {
            let local = self.slots[slot as usize]
                .live_mut()
                .expect("a range stays while its group works");
            let is_free = |entry: &mut Entry| {
                let is_ours = local
                    .proposed
                    .front()
                    .is_some_and(|(index, _)| *index == entry.index);
                let is_split =
                    matches!(&entry.content, Content::Command(payload) if command::is_split(payload));
                base::sometimes!(
                    "node: split waits for a flush or merge",
                    is_split && !is_ours && local.busy.get()
                );
                !is_split || is_ours || !local.busy.get()
            };
            let Some(entry) = local.committed.pop_front_if(is_free) else {
                return;
            };
            self.apply(slot, &entry);
            self.live_mut(slot).raft.applied(entry.index);
            self.progress = true;
        }
    }

    /// What waits for something to be applied, or for a leader, goes on. Before the end of a turn.
    pub(crate) fn make_progress(&mut self) {
        if mem::take(&mut self.progress) {
            self.apply_waiters.clear();
        }
        for slot in mem::take(&mut self.runnable) {
            self.run_parked(slot);
        }
    }

    /// The group in `slot` leads from `first` on.
    fn step_up(&mut self, slot: u32, first: Index) {
        let (_, wall_ns) = self.clock();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while its group works");
        local.led = true;
        local.leads_from = first;
        // A leader before this one may have shown readers the state as of its clock, up to the end of its lease; by this clock
        // that was not later than now, and the bound.
        let after = match &self.neighbours {
            Some(neighbours) if !local.is_alone() => Timestamp::new(
                wall_ns.saturating_add(neighbours.cluster.liveness.clock_offset_ns_max),
                0,
            ),
            _ => Timestamp::ZERO,
        };
        local.replica.lead(local.raft.last().index, after);
        let last_ts = local.replica.last_ts();
        self.hlc.raise(last_ts);
        self.clock_wanted_ns = self.clock_wanted_ns.max(last_ts.wall_ns);
        self.wake_maintenance |= last_ts.wall_ns > self.clock_bound_ns;
    }

    /// The group in `slot` leads no more: who waits for it hears that what was asked for may still happen.
    fn step_down(&mut self, slot: u32) {
        base::sometimes!("node: leadership lost");
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while its group works");
        local.led = false;
        local.replica.follow();
        let range = local.range;
        for (_, then) in mem::take(&mut local.proposed) {
            match then {
                Then::Reply(origin) => {
                    base::sometimes!("node: write in doubt since leadership was lost");
                    let message =
                        "the leader of the range changed before the write was known to be committed";
                    self.refuse(
                        origin,
                        &Refusal::retry(Code::Ambiguous, 0, message).about_range(range),
                    );
                }
                // Its receiver hears of it as nobody will send.
                Then::Split(_) => self.live_mut(slot).busy.set(false),
            }
        }
    }

    /// When somebody else leads the range in `slot`, whoever waits for a leader here goes there.
    fn refuse_parked(&mut self, slot: u32) {
        let Some(refusal) = self.led_elsewhere(slot) else {
            return;
        };
        for request in self.live_mut(slot).replica.unpark() {
            self.refuse(request.origin, &refusal);
        }
    }

    /// Everything in the log up to `persisted` is durable.
    pub(crate) fn on_persisted(&mut self, persisted: Seqno) {
        let mut touched = Vec::new();
        while let Some(write) = self.writes.pop_front_if(|write| write.seqno <= persisted) {
            let local = self.live_mut(write.slot);
            local.writes -= 1;
            local.raft.persisted(write.mark);
            let local = self.slots[write.slot as usize]
                .live()
                .expect("a range stays while its group works");
            post_all(&mut self.neighbours, local, write.messages.into_iter());
            if !local.dirty {
                touched.push(write.slot);
            }
            self.touch(write.slot);
        }
        self.drain_dirty();
        self.apply_waiters.clear();
        for slot in touched {
            self.run_parked(slot);
        }
        self.release_stalled();
    }

    fn apply(&mut self, slot: u32, entry: &Entry) {
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while entries are in flight");
        let at = At {
            mark: entry.mark(),
            chain: entry.chain,
        };
        let command = match &entry.content {
            Content::Command(payload) => payload,
            Content::Empty | Content::Membership(_) => {
                let members = match &entry.content {
                    Content::Membership(members) => Some(Membership::clone(members)),
                    _ => None,
                };
                local.replica.apply_members(at, members);
                return local.tablet.apply_nothing(entry.index);
            }
            Content::Header(_) => unreachable!("no replica of a node is a witness"),
        };
        let then = local.proposed.pop_front_if(|(index, _)| *index == entry.index);
        let applied = match local.replica.apply(at, command) {
            Ok(applied) => applied,
            Err(error) => {
                let (range, index) = (local.range, entry.index);
                self.failed
                    .get_or_insert(format!("entry {index} of range {range} does not decode: {error}"));
                return;
            }
        };
        match applied {
            Applied::Write { ts, ops } => {
                local.tablet.apply(entry.index, ts, ops.iter());
                self.wake_maintenance |= local.tablet.wants_freeze();
                match then {
                    Some((_, Then::Reply(origin))) => self.reply(origin, &WriteReply { ts: ts.into() }),
                    // Another replica proposed it, or this one in an earlier term.
                    None => self.hlc.raise(ts),
                    Some((_, Then::Split(_))) => {
                        unreachable!("a command is answered as what it was proposed")
                    }
                }
            }
            Applied::Split { right, at } => {
                let ts = local.replica.last_ts();
                self.hlc.raise(ts);
                let applied = self.apply_split(slot, entry.index, right, at);
                match then {
                    Some((_, Then::Split(done))) => done.send(applied),
                    None => self.jobs.push(Job::CompleteSplit(applied)),
                    Some((_, Then::Reply(_))) => {
                        unreachable!("a command is answered as what it was proposed")
                    }
                }
            }
        }
    }

    /// Cuts the range in `slot` in two; both are served here from now on.
    fn apply_split(&mut self, slot: u32, index: Index, right: RangeId, at: &[u8]) -> SplitApplied {
        self.answer_gets();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while entries are in flight");
        let is_alone = local.is_alone();
        let campaigns = is_alone || local.raft.is_leader();
        let new = split_local(local, index, right, at, &self.groups);
        if !is_alone {
            let HardState { term, vote, .. } = local.replica.group().hard_state;
            self.log.append(&Record::HardState {
                range: local.range,
                term,
                vote,
                commit: index,
            });
            // Nothing works on the left half either before the split is complete.
            local.busy.set(true);
        }
        let left = self.entry_of(slot);
        let right_slot = self.take_slot(Slot::Live(Box::new(new)));
        let right = self.entry_of(right_slot);
        self.counts.splits += 1;
        self.map.merge([left.clone(), right.clone()]);
        self.update_routes();
        self.wake_maintenance = true;
        if !is_alone {
            self.introduce_all(right_slot);
        }
        if campaigns {
            self.live_mut(right_slot).raft.campaign_now();
        }
        self.touch(right_slot);
        SplitApplied { left, right }
    }
}

/// Stages an entry.
fn append<E: Env>(log: &log::Log<E>, range: RangeId, entry: &Entry) -> Seqno {
    let mut members = Vec::new();
    let (kind, payload): (_, &[u8]) = match &entry.content {
        Content::Command(payload) => (EntryKind::Command, payload),
        Content::Empty => (EntryKind::Empty, &[]),
        Content::Membership(membership) => {
            encode_members(membership, &mut members);
            (EntryKind::Membership, &members)
        }
        Content::Header(_) => unreachable!("no replica of a node is a witness"),
    };
    log.append(&Record::Entry {
        range,
        index: entry.index,
        term: entry.term,
        chain: entry.chain,
        kind,
        payload,
    })
}
