//! The Raft groups of a shard: what they want written, and what follows when it is durable.
//!
//! ```text
//!   commands of a turn ─► propose ─► ready ─► log ─► durable ─► persisted ─► ready ─► apply, answer
//! ```
//! Today a range has one replica. So its group sends nothing and needs no ticks, it elects itself as soon as it has written its
//! vote, and an entry is committed when it is durable.
//!
//! Invariants:
//! - A group's entries are in the shard's log in the order in which the group handed them out.
//! - A range stays in its slot while writes of its group are under way.

use crate::split::split_local;
use crate::state::{Slot, SplitApplied, State, Then};
use base::{Index, RangeId, Seqno};
use core::mem;
use env::Env;
use log::{EntryKind, Record};
use raft::{Content, Entry, Event, Payload, PersistMark};
use replica::Applied;
use replica::group::encode_members;
use replica::replica::{At, Replay};
use std::sync::Arc;
use wire::reply::WriteReply;

/// The buffer of a turn's commands is given back beyond this.
const BATCH_BYTES_KEPT: usize = 2 << 20;

/// Something of a group that is in the log and not known to be durable.
pub(crate) struct Write {
    seqno: Seqno,
    slot: u32,
    mark: PersistMark,
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

    /// Asks for elections of all groups.
    pub(crate) fn campaign_all(&mut self) {
        let slots: Vec<u32> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.live().is_some())
            .map(|(at, _)| at)
            .collect();
        slots.into_iter().for_each(|slot| self.campaign(slot));
    }

    /// Proposes the commands of this turn, and stages what their groups want written.
    pub(crate) fn close_batch(&mut self) {
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
            match local.raft.propose(payload) {
                Ok(mark) => assert_eq!(mark.index, command.index, "{} counts otherwise", local.range),
                Err(error) => unreachable!("{} led when it gave an index: {error}", local.range),
            }
            self.touch(command.slot);
        }
        self.batch.commands = commands;
        self.drain_dirty();
    }

    fn touch(&mut self, slot: u32) {
        let local = self.live_mut(slot);
        if !mem::replace(&mut local.dirty, true) {
            self.dirty.push(slot);
        }
    }

    fn drain_dirty(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.live_mut(slot).dirty = false;
            self.drain(slot);
        }
        self.dirty = dirty;
    }

    /// Does what the group in `slot` wants done.
    fn drain(&mut self, slot: u32) {
        let mut ready = mem::take(&mut self.ready);
        let mut committed = mem::take(&mut self.committed);
        loop {
            let local = self.slots[slot as usize]
                .live_mut()
                .expect("a range stays while its group works");
            if !local.raft.ready(&mut ready) {
                break;
            }
            assert!(
                ready.messages.is_empty() && ready.messages_after_persist.is_empty(),
                "{} has one replica and sends something",
                local.range
            );
            let mut seqno = Seqno::ZERO;
            if let Some(hard_state) = ready.hard_state {
                local.replica.set_hard_state(hard_state);
                seqno = self.log.append(&Record::HardState {
                    range: local.range,
                    term: hard_state.term,
                    vote: hard_state.vote,
                    commit: local.raft.commit_index(),
                });
            }
            for entry in local.raft.entries(&ready.entries) {
                seqno = append(&self.log, local.range, entry);
            }
            if let Some(mark) = ready.mark {
                local.writes += 1;
                self.writes.push_back(Write { seqno, slot, mark });
            }
            for event in &ready.events {
                if let Event::Leads { first, .. } = event {
                    local.leads_from = *first;
                    local.replica.lead(local.raft.last().index);
                }
            }
            committed.extend(local.raft.entries(&ready.committed).cloned());
            if let Some(last) = committed.last() {
                local.raft.applied(last.index);
            }
            for entry in committed.drain(..) {
                self.apply(slot, &entry);
            }
        }
        self.ready = ready;
        self.committed = committed;
    }

    /// Everything in the log up to `persisted` is durable.
    pub(crate) fn on_persisted(&mut self, persisted: Seqno) {
        let mut touched = Vec::new();
        while let Some(write) = self.writes.pop_front_if(|write| write.seqno <= persisted) {
            let local = self.live_mut(write.slot);
            local.writes -= 1;
            local.raft.persisted(write.mark);
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
            Content::Empty => {
                local.replica.apply_members(at, None, Replay::No);
                return local.tablet.apply_nothing(entry.index);
            }
            Content::Membership(_) | Content::Header(_) => {
                unreachable!("the members of a group do not change yet")
            }
        };
        let then = local.proposed.pop_front_if(|(index, _)| *index == entry.index);
        let applied = match local.replica.apply(at, command, Replay::No) {
            Ok(applied) => applied,
            Err(error) => {
                let (range, index) = (local.range, entry.index);
                self.failed
                    .get_or_insert(format!("entry {index} of range {range} does not decode: {error}"));
                return;
            }
        };
        match (applied, then) {
            (Applied::Write { ts, ops }, Some((_, Then::Reply(origin)))) => {
                local.tablet.apply(entry.index, ts, ops.iter());
                self.wake_maintenance |= local.tablet.wants_freeze();
                self.reply(origin, &WriteReply { ts: ts.into() });
            }
            (Applied::Split { right, at }, Some((_, Then::Split(done)))) => {
                let applied = self.apply_split(slot, entry.index, right, at);
                done.send(applied);
            }
            (Applied::Write { .. } | Applied::Split { .. }, _) => {
                unreachable!("a command is answered as what it was proposed")
            }
        }
    }

    /// Cuts the range in `slot` in two; both are served here from now on.
    fn apply_split(&mut self, slot: u32, index: Index, right: RangeId, at: &[u8]) -> SplitApplied {
        self.answer_gets();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("a range stays while entries are in flight");
        let new = split_local(local, index, right, at, &self.groups);
        let left = self.entry_of(slot);
        let right_slot = self.take_slot(Slot::Live(Box::new(new)));
        let right = self.entry_of(right_slot);
        self.counts.splits += 1;
        self.map.merge([left.clone(), right.clone()]);
        self.update_routes();
        self.wake_maintenance = true;
        self.campaign(right_slot);
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
