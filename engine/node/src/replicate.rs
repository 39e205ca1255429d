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

use crate::claims::Promised;
use crate::dialect::Letter;
use crate::entry::{entry_of, payload_of};
use crate::local::Seat;
use crate::neighbours::PREFETCH;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::split::split_local;
use crate::state::{Job, Message, Slot, SplitApplied, State, Then};
use base::api::WriteOp;
use base::{Index, RangeId, ReplicaId, Seqno, Timestamp};
use core::mem;
use env::{Clock, Env, Mailbox};
use log::Record;
use raft::{Body, Content, Entry, Event, Fetch, HardState, Payload, PersistMark, ProposeError};
use replica::replica::At;
use replica::{Applied, Made, SpillOp, command};
use std::sync::Arc;
use wire::Code;
use wire::reply::{ModifyReply, WriteReply};

/// The buffer of a turn's commands is given back beyond this.
const BATCH_BYTES_KEPT: usize = 2 << 20;
/// Entries that are committed, and of which the log does not say so.
const COMMITS_UNKNOWN_MAX: u64 = 1024;

/// Something of a group that is in the log and not known to be durable.
pub(crate) struct Write {
    pub(crate) seqno: Seqno,
    slot: u32,
    pub(crate) mark: PersistMark,
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
        self.live_mut(slot).seat.raft.campaign_now();
        self.drain(slot);
    }

    /// Starts all groups: those of one elect themselves, the others hear of their neighbours and wait.
    pub(crate) fn start_groups(&mut self) {
        let slots: Vec<(u32, bool, bool)> = (0..)
            .zip(&self.slots)
            .filter_map(|(at, slot)| {
                let local = slot.live()?;
                let is_gone = self.is_gone(local.range, local.seat.raft.id());
                Some((at, is_gone, local.is_alone()))
            })
            .collect();
        for (slot, is_gone, is_alone) in slots {
            if is_gone && !base::planted_bug!("node-removed-replica-comes-back") {
                base::sometimes!("node: a crash came before a removed replica was gone");
                self.end_replica(slot);
            } else if is_alone {
                self.campaign(slot);
            } else {
                self.introduce_all(slot);
            }
        }
        self.drain_dirty();
    }

    /// Proposes the commands of this turn, and stages what their groups want written.
    pub(crate) fn close_batch(&mut self) {
        self.propose_batch();
        self.drain_dirty();
        while !self.joint.is_empty() || !self.merges.due.is_empty() {
            self.leave_joint();
            self.end_merges();
            self.propose_batch();
            self.drain_dirty();
        }
    }

    fn propose_batch(&mut self) {
        if self.batch.commands.is_empty() {
            return;
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
            match local.seat.raft.propose(payload) {
                Ok(mark) => assert_eq!(mark.index, command.index, "{} counts otherwise", local.range),
                // It led when it gave an index, and was told since that it does not: see `step_down`.
                Err(ProposeError::NotLeader(_)) => {
                    base::sometimes!("node: leadership lost in the turn of a proposal");
                }
                // Handing over begins when all that has an index is proposed, and blocks the range until it has ended.
                Err(error) => unreachable!("{} gave an index that it cannot propose: {error}", local.range),
            }
            self.touch(command.slot);
        }
        self.batch.commands = commands;
    }

    /// There may be something to flush or to merge of the range in `slot`.
    pub(crate) fn stir(&mut self, slot: u32) {
        if !mem::replace(&mut self.seat_of(slot).stirred, true) {
            self.stirred.push(slot);
        }
    }

    /// The group in `slot` may want something: it is asked at the end of the turn.
    pub(crate) fn touch(&mut self, slot: u32) {
        self.stir(slot);
        let seat = self.seat_of(slot);
        seat.news = true;
        if !mem::replace(&mut seat.dirty, true) {
            self.dirty.push(slot);
        }
    }

    fn drain_dirty(&mut self) {
        // A group that is drained may touch another one: a split does.
        while !self.dirty.is_empty() {
            let mut dirty = mem::take(&mut self.dirty);
            for slot in dirty.drain(..) {
                // A stranger may have gone into a range that a split made.
                if let Some(seat) = self.slots[slot as usize].seat_mut() {
                    seat.dirty = false;
                    self.drain(slot);
                }
            }
            if self.dirty.is_empty() {
                self.dirty = dirty;
            }
        }
    }

    /// Does what the group in `slot` wants done.
    fn drain(&mut self, slot: u32) {
        let mut ready = mem::take(&mut self.ready);
        if self.slots[slot as usize].live().is_some() {
            // What has waited may not have to any more.
            self.apply_committed(slot);
        }
        loop {
            // Until state is installed nothing is written that builds on it: a crash would leave entries that follow nothing.
            let seat = self.seat_of(slot);
            if seat.installing || seat.unmarked || !seat.raft.ready(&mut ready) {
                break;
            }
            self.post(slot, ready.messages.drain(..));
            let mut seqno = Seqno::ZERO;
            let arrived = ready.snapshot.take().map(|snapshot| {
                let (range, after) = (self.seat_of(slot).range, snapshot.last.index);
                seqno = self.log.append(&Record::Truncate { range, after });
                self.begin_install(slot, &snapshot)
            });
            if let Some(hard_state) = ready.hard_state {
                self.set_hard_state(slot, hard_state);
            }
            if ready.hard_state.is_some() || !ready.entries.is_empty() && self.is_commit_due(slot) {
                // What is written after this takes the place of what the log has, which replay must not take for committed.
                let end = match (&arrived, ready.entries.is_empty()) {
                    (Some(_), _) => Index::ZERO,
                    (None, true) => Index(u64::MAX),
                    (None, false) => ready.entries.start,
                };
                seqno = self.note_commit(slot, end);
            }
            let seat = self.slots[slot as usize]
                .seat_mut()
                .expect("a replica stays while its group works");
            for entry in seat.raft.entries(&ready.entries) {
                seqno = append(&self.log, seat.range, entry);
            }
            if let Some(mark) = ready.mark {
                // With nothing to write the messages wait for the write before, which is in the log.
                seat.written = seat.written.max(seqno);
                let write = Write {
                    seqno: seat.written,
                    slot,
                    mark,
                    messages: mem::take(&mut ready.messages_after_persist),
                };
                seat.writes += 1;
                match arrived {
                    None => self.writes.push_back(write),
                    Some(arrived) => {
                        let seqno = write.seqno;
                        seat.held.push(write);
                        self.jobs.push(Job::Install {
                            slot,
                            seqno,
                            mark,
                            arrived,
                        });
                    }
                }
            }
            let Seat { raft, committed, .. } = self.seat_of(slot);
            committed.extend(raft.entries(&ready.committed).cloned());
            for fetch in ready.fetches.drain(..) {
                self.seat_of(slot).fetches += 1;
                self.jobs.push(Job::Fetch { slot, fetch });
            }
            if let Some(local) = self.slots[slot as usize].live_mut() {
                for read in ready.reads.drain(..) {
                    let found = local
                        .unconfirmed
                        .iter()
                        .position(|(token, _)| *token == read.token);
                    if let Some(at) = found {
                        local.unconfirmed.swap_remove(at).1.send(read.index);
                    }
                }
                self.change_role(slot, &ready.events);
                self.apply_committed(slot);
            }
        }
        self.ready = ready;
        self.introduce_all(slot);
        self.watch_ticks(slot);
        if self.slots[slot as usize].live().is_some() {
            self.watch_joint(slot);
            self.watch_merge(slot);
            self.renew_lease(slot);
            self.watch_closed(slot);
            self.refuse_parked(slot);
            let local = self.live_mut(slot);
            if !local.is_alone() && local.leads() && local.replica.has_runnable() {
                self.runnable.push(slot);
            }
        }
    }

    /// Sends messages of the group in `slot`. State goes another way: it is offered.
    ///
    /// A leader speaks to a learner only when the change that takes it in is applied here. Such a change may be voided by another leader,
    /// and then nobody would ever say to whoever had heard of it that it was removed. Who speaks itself is answered: here may not be known
    /// yet what it is by now.
    fn post(&mut self, slot: u32, messages: impl Iterator<Item = (ReplicaId, raft::Message)>) {
        let slot = &self.slots[slot as usize];
        let seat = slot.seat().expect("a replica stays while its group works");
        let local = slot.live();
        for (to, message) in messages {
            let at = seat.place_of(to);
            let Some(neighbours) = &mut self.neighbours else {
                unreachable!("{} is alone and sends something", seat.range)
            };
            if let Body::Snapshot(_) = message.body {
                self.jobs.push(Job::Offer {
                    range: seat.range,
                    to,
                });
            } else if matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. })
                && local.is_some_and(|local| local.is_in_doubt(to))
            {
                base::sometimes!("node: a learner is not spoken to before it is known to be one");
            } else {
                let letter = Letter {
                    range: seat.range,
                    from: seat.raft.id(),
                    to,
                    message,
                };
                neighbours.post(at, letter);
            }
        }
    }

    fn set_hard_state(&mut self, slot: u32, hard_state: HardState) {
        match &mut self.slots[slot as usize] {
            Slot::Live(local) => local.replica.set_hard_state(hard_state),
            Slot::Stranger(_) if base::planted_bug!("node-stranger-forgets-vote") => {}
            Slot::Stranger(stranger) => stranger.hard_state = hard_state,
            Slot::Free | Slot::Opening(..) => unreachable!("a replica stays while its group works"),
        }
    }

    /// Whether the log is to say what is committed, beside what is written anyway: replay then need not keep it.
    fn is_commit_due(&self, slot: u32) -> bool {
        self.slots[slot as usize].live().is_some_and(|local| {
            !local.is_alone()
                && local.seat.raft.commit_index().since(local.commit_noted) >= COMMITS_UNKNOWN_MAX
        })
    }

    /// Writes term and vote, and what is committed before `end`.
    fn note_commit(&mut self, slot: u32, end: Index) -> Seqno {
        let (range, hard_state, commit) = match &mut self.slots[slot as usize] {
            Slot::Live(local) => {
                let commit = local.seat.raft.commit_index().min(Index(end.0.saturating_sub(1)));
                local.commit_noted = local.commit_noted.max(commit);
                (local.range, local.replica.group().hard_state, local.commit_noted)
            }
            Slot::Stranger(stranger) => (stranger.seat.range, stranger.hard_state, Index::ZERO),
            Slot::Free | Slot::Opening(..) => unreachable!("a replica stays while its group works"),
        };
        self.log.append(&Record::HardState {
            range,
            term: hard_state.term,
            vote: hard_state.vote,
            commit,
        })
    }

    fn change_role(&mut self, slot: u32, events: &[Event]) {
        let leads = events.iter().rev().find_map(|event| match event {
            Event::Leads { first, .. } => Some(*first),
            _ => None,
        });
        let local = self.live_mut(slot);
        let is_leader = local.seat.raft.is_leader();
        if local.led && (leads.is_some() || !is_leader) {
            self.step_down(slot);
        }
        if let Some(first) = leads.filter(|_| is_leader) {
            self.step_up(slot, first);
        }
    }

    /// Applies what the group in `slot` has committed. A split waits until nothing else works on the tablet.
    pub(crate) fn apply_committed(&mut self, slot: u32) {
        loop {
            let local = self.slots[slot as usize]
                .live()
                .expect("a range stays while its group works");
            if local.seat.installing || local.absorbing || local.absorbed {
                return;
            }
            if self.begin_absorb(slot) {
                return;
            }
            let local = self.live_mut(slot);
            let (left, is_busy) = (local.range, local.busy.get());
            let Some(entry) = local.seat.committed.front() else {
                return;
            };
            let right = match &entry.content {
                Content::Command(payload) => command::split_of(payload),
                _ => None,
            };
            let waits = right.is_some_and(|right| {
                let slot = self.strangers.get(&right);
                let seat = slot.and_then(|slot| self.slots[*slot as usize].seat());
                // One that ends because it is damaged makes nothing any more.
                let is_held = is_busy || self.injured.is_ending(left) || self.removing.contains_key(&right);
                is_held || seat.is_some_and(|seat| seat.writes > 0) || !self.may_split(left, right)
            });
            if waits {
                base::sometimes!("node: split waits for a flush or merge, or a vote on its way to the disk");
                return;
            }
            let local = self.live_mut(slot);
            let Some(entry) = local.seat.committed.pop_front() else {
                return;
            };
            self.apply(slot, &entry);
            self.stir(slot);
            self.live_mut(slot).seat.raft.applied(entry.index);
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
        // Whatever has made room: splits flush, too, and logs get shorter.
        self.release_stalled();
    }

    /// The group in `slot` leads from `first` on.
    fn step_up(&mut self, slot: u32, first: Index) {
        // Not the turn's clock: it may have been read before the node was held up, and before a leader's lease ended.
        let wall_ns = self.env.clock().wall_ns();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while its group works");
        local.led = true;
        local.leads_from = first;
        // A leader before this one may have shown readers the state as far ahead of its clock as the bound, until this moment if it
        // handed over or stepped down; and by this clock its own was ahead by the bound at most.
        // What other replicas of a range that is alone now have shown as closed is not later than its own clock.
        let after = match &self.neighbours {
            Some(neighbours) if !base::planted_bug!("node-leader-starts-below-lease") => {
                let bound_ns = match local.is_alone() {
                    true => 0,
                    false => 2 * neighbours.cluster.liveness.clock_offset_ns_max,
                };
                Timestamp::new(wall_ns.saturating_add(bound_ns), 0)
            }
            _ => Timestamp::ZERO,
        };
        local.replica.lead(local.seat.raft.last().index, after);
        let last_ts = local.replica.last_ts();
        self.raise_clock(last_ts);
    }

    /// The group in `slot` leads no more: who waits for it hears that what was asked for may still happen.
    pub(crate) fn step_down(&mut self, slot: u32) {
        base::sometimes!("node: leadership lost");
        self.watch_closed(slot);
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while its group works");
        local.led = false;
        // Their receivers hear of it as nobody will send.
        local.unconfirmed.clear();
        local.queues.clear();
        local.replica.follow();
        let range = local.range;
        for (_, then) in mem::take(&mut local.proposed) {
            match then {
                // Nothing was proposed for it.
                Then::Unchanged(origin, _) => {
                    let refusal = self.not_leading(slot);
                    self.refuse(origin, &refusal);
                }
                Then::Reply(origin) | Then::Modified(origin) | Then::Transact(origin, _) => {
                    base::sometimes!("node: write in doubt since leadership was lost");
                    let message =
                        "the leader of the range changed before the write was known to be committed";
                    self.refuse(
                        origin,
                        &Refusal::retry(Code::Ambiguous, 0, message).about_range(range),
                    );
                }
                // Its receiver hears of it as nobody will send.
                Then::Split(_) | Then::Nothing => {}
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
        let mut taken = 0usize;
        while let Some(write) = self.writes.pop_front_if(|write| write.seqno <= persisted) {
            let slot = write.slot;
            if taken.is_multiple_of(PREFETCH) {
                self.prefetch(self.writes.iter().take(PREFETCH).map(|write| write.slot));
            }
            taken += 1;
            let seat = self.seat_of(slot);
            if seat.installing {
                seat.held.push(write);
                continue;
            }
            if !seat.dirty {
                touched.push(slot);
            }
            self.end_write(write);
        }
        self.drain_dirty();
        self.apply_waiters.clear();
        for slot in touched {
            self.run_parked(slot);
        }
    }

    /// A write is durable.
    pub(crate) fn end_write(&mut self, write: Write) {
        let seat = self.seat_of(write.slot);
        seat.writes -= 1;
        seat.raft.persisted(write.mark);
        let range = seat.range;
        self.post(write.slot, write.messages.into_iter());
        self.touch(write.slot);
        // A split may wait for it.
        if self.strangers.contains_key(&range) {
            let live = (0..).zip(&self.slots).filter(|(_, slot)| slot.live().is_some());
            let waiting: Vec<u32> = live.map(|(at, _)| at).collect();
            waiting.into_iter().for_each(|slot| self.touch(slot));
        }
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
                    Content::Membership(members) => Some(Arc::clone(members)),
                    _ => None,
                };
                let before = Arc::clone(&local.replica.group().applied.membership);
                let is_change = members.is_some();
                local.replica.apply_members(at, members);
                local.tablet.apply_nothing(entry.index);
                if is_change {
                    self.members_changed(slot, &before);
                }
                return;
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
                local.load.wrote();
                if then.is_none() && base::planted_bug!("node-follower-skips-a-mutation") {
                    local.tablet.apply(entry.index, ts, ops.iter().take(1));
                } else {
                    local.tablet.apply(entry.index, ts, ops.iter());
                }
                self.wake_maintenance |= local.tablet.wants_freeze();
                match then {
                    Some((_, Then::Reply(origin))) => self.reply(origin, &WriteReply { ts: ts.into() }),
                    Some((_, Then::Modified(origin))) => {
                        let value = ops.iter().find_map(|op| match op {
                            WriteOp::Put { value, .. } => Some(value),
                            _ => None,
                        });
                        self.reply(origin, &ModifyReply { ts: ts.into(), value });
                    }
                    // Another replica proposed it, or this one in an earlier term.
                    None => self.raise_clock(ts),
                    Some(_) => unreachable!("a command is answered as what it was proposed"),
                }
            }
            Applied::Change { done, ts } => {
                local.load.wrote();
                let versions = done.made.iter().map(Made::op);
                local
                    .tablet
                    .apply_spilled(ts, done.spilled.iter().map(SpillOp::op));
                local.tablet.apply_versions(entry.index, versions);
                self.wake_maintenance |= local.tablet.wants_freeze();
                match then {
                    Some((_, Then::Transact(origin, answer))) => self.answer_batch(origin, &answer),
                    None => self.raise_clock(ts),
                    Some(_) => unreachable!("a command is answered as what it was proposed"),
                }
            }
            Applied::Merge(step) => {
                local.tablet.apply_nothing(entry.index);
                let ts = local.replica.last_ts();
                self.raise_clock(ts);
                self.step_taken(slot, step);
            }
            Applied::Split { right, at } => {
                let ts = local.replica.last_ts();
                self.raise_clock(ts);
                let applied = self.apply_split(slot, entry.index, right, at);
                match then {
                    Some((_, Then::Split(done))) => done.send(applied),
                    None => self.jobs.push(Job::CompleteSplit(applied)),
                    Some(_) => unreachable!("a command is answered as what it was proposed"),
                }
            }
        }
        self.answer_refused(slot, entry.index);
    }

    /// Cuts the range in `slot` in two; both are served here from now on.
    fn apply_split(&mut self, slot: u32, index: Index, right: RangeId, at: &[u8]) -> SplitApplied {
        self.answer_gets();
        let known = self.strangers.remove(&right);
        let promised = match known.map(|slot| mem::replace(&mut self.slots[slot as usize], Slot::Free)) {
            Some(Slot::Stranger(stranger)) => {
                base::sometimes!("node: a stranger became a range by a split");
                Some(Promised::by(&stranger))
            }
            Some(Slot::Free | Slot::Live(_) | Slot::Opening(..)) | None => self.take_claim(right),
        };
        // A replica that was removed before it is made.
        let me = self.seat_of(slot).raft.id();
        let is_gone = self.is_gone(right, me);
        let (now, _) = self.clock();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while entries are in flight");
        let is_alone = local.is_alone();
        let campaigns = is_alone || local.seat.raft.is_leader();
        local.queues.clear();
        let mut new = split_local(local, index, right, at, &self.groups);
        // When the log and the left half are lost, nothing else would say that it was here.
        new.seat.unmarked = !is_alone;
        new.born = Some(now);
        base::sometimes!("node: a split made a replica that had been removed", is_gone);
        if let Some(promised) = promised.filter(|_| !base::planted_bug!("node-split-forgets-promise")) {
            new.replica.set_hard_state(promised.hard_state);
            new.restart_group(&self.groups, Vec::new());
            new.seat.raft.bind(promised.bound_of(me));
        }
        // Also of a range that is alone: what made it so may be in the log and not known there to be committed.
        if self.neighbours.is_some() {
            let HardState { term, vote, .. } = local.replica.group().hard_state;
            self.log.append(&Record::HardState {
                range: local.range,
                term,
                vote,
                commit: index,
            });
        }
        // Nothing works on the left half either before the split is complete.
        local.busy.set(true);
        let left = self.entry_of(slot);
        let right_slot = self.take_slot(Slot::Live(Box::new(new)));
        let right = self.entry_of(right_slot);
        self.counts.splits += 1;
        self.map.merge([left.clone(), right.clone()]);
        self.update_routes();
        self.wake_maintenance = true;
        if is_gone && !base::planted_bug!("node-split-revives-removed") {
            self.end_replica(right_slot);
        } else {
            if !is_alone {
                self.introduce_all(right_slot);
            }
            if campaigns {
                // The others vote sooner with the new range's state than without.
                self.live_mut(slot).seat.raft.tell_commit();
                self.touch(slot);
                self.live_mut(right_slot).seat.raft.campaign_now();
            }
            self.touch(right_slot);
        }
        SplitApplied { left, right }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Reads entries from the log that a follower lacks and that are not in memory any more.
    pub(crate) async fn fetch(&self, slot: u32, fetch: Fetch) {
        let found = self.with_state(|state| {
            let seat = state.slots[slot as usize].seat()?;
            Some((state.log.clone(), seat.range, seat.raft.term()))
        });
        // A replica that went meanwhile needs nothing.
        let Some((log, range, term)) = found else { return };
        let mut entries = Vec::new();
        let mut visit = |record: Record<'_>| entries.extend(entry_of(&record));
        let read = log.read_entries(range, fetch.first, fetch.last, fetch.bytes_max, &mut visit);
        if let Err(error) = read.await {
            base::sometimes!("node: entries for a follower could not be read");
            // What was shown before is sound. Without any, the follower gets the state, once this one has let go of them.
            self.with_state(|state| state.on_log_damage(range, &error));
        }
        self.step(|state| {
            if entries.is_empty() {
                // They are not there, whatever is held: without them the follower gets the state.
                state.let_go(range, true);
            }
            let Some(seat) = state.slots[slot as usize]
                .seat_mut()
                .filter(|seat| seat.range == range)
            else {
                return;
            };
            seat.fetches -= 1;
            // In another term the log may have become another one.
            if entries.is_empty() || seat.raft.term() != term {
                seat.raft.fetch_failed(fetch);
            } else {
                base::sometimes!("node: entries for a follower were read from the log");
                seat.raft.fetched(fetch, entries);
            }
            state.touch(slot);
        });
    }
}

/// Stages an entry.
pub(crate) fn append<E: Env>(log: &log::Log<E>, range: RangeId, entry: &Entry) -> Seqno {
    let mut members = Vec::new();
    let (kind, payload) = payload_of(&entry.content, &mut members);
    log.append(&Record::Entry {
        range,
        index: entry.index,
        term: entry.term,
        chain: entry.chain,
        kind,
        payload,
    })
}
