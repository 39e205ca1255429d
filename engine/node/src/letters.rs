//! Letters between replicas, and state on its way to them: to the shard of the other node that has the replica.
//!
//! ```text
//!   letter ─► is the range here? ─► its group
//!                   └─ no ─► the map knows its shard ─► over the ring, with the caller ─► its group answers the caller directly
//!                                  └─ no ─► shard 0 ─► a stranger
//! ```
//! A group remembers on which shard it heard another replica, and writes there; what it does not know goes to shard 0. Where a letter
//! is taken in decides nothing: support is between nodes, see `outlook`.
//!
//! Invariants:
//! - Strangers are on shard 0 only, so that a node has one replica of a range at most, see `claims`.
//! - A letter is handed on a few times at most, and dropped when a ring is full: groups repeat what matters.

use crate::dialect::Letter;
use crate::message::{OwnedTransfer, ShardMessage};
use crate::state::State;
use base::{RangeId, ReplicaId, ShardId};
use env::Env;
use liveness::Peer;
use raft::Body;
use replica::group::{life_of, node_of};
use rkyv::util::AlignedVec;
use wire::peer::{ArchivedTransfer, ArchivedTransferStep, Mark, TransferStep};
use wire::{Frame, PeerRef, WireError, decode_peer};

/// How often a letter is handed from shard to shard.
const HOPS_MAX: u8 = 3;
/// Messages that wait for room in a ring, from which on letters are dropped, and what else may be left out.
const WAITING_MAX: usize = 1024;

impl<E: Env, B> State<E, B> {
    /// The slot of a replica that is here, with or without its state.
    pub(crate) fn seat_slot(&self, range: RangeId) -> Option<u32> {
        self.here
            .get(&range)
            .or_else(|| self.strangers.get(&range))
            .copied()
    }

    /// The shard that has a replica of a range which is not here, or knows who has.
    fn elsewhere(&self, range: RangeId, to: ReplicaId) -> Option<ShardId> {
        if self.seat_slot(range).is_some() || self.injured.concerns(range, to) {
            return None;
        }
        let by_map = self.map.get(range).map(|entry| entry.shard);
        let known = by_map.filter(|shard| *shard != self.me);
        known.or_else(|| {
            if self.me == ShardId(0) {
                self.assigned.get(&range).copied()
            } else {
                Some(ShardId(0))
            }
        })
    }

    /// The shard that has a range which is not here, as far as is known: what others say of damage is for whoever leads it, whatever
    /// this node has of its own to mend.
    fn claim_elsewhere(&self, range: RangeId) -> Option<ShardId> {
        if self.seat_slot(range).is_some() {
            return None;
        }
        let by_map = self.map.get(range).map(|entry| entry.shard);
        let known = by_map.filter(|shard| *shard != self.me);
        known.or_else(|| (self.me != ShardId(0)).then_some(ShardId(0)))
    }

    /// Whether something for another shard may be handed on once more.
    pub(crate) fn may_hand_on(&self, to: ShardId, hops: u8) -> bool {
        base::sometimes!("node: a letter went round", hops >= HOPS_MAX);
        hops < HOPS_MAX && self.takes_more(to)
    }

    /// Whether something that may as well be left out is sent to another shard: not to one that does not keep up.
    pub(crate) fn takes_more(&self, to: ShardId) -> bool {
        self.overflow[usize::from(to.0)].len() < WAITING_MAX
    }

    /// Takes a letter that came from the shard `caller` of another node, and was handed on `hops` times.
    ///
    /// # Errors
    /// [`raft::Malformed`] when no replica says such a thing.
    pub(crate) fn on_letter(
        &mut self,
        letter: Letter,
        caller: Peer,
        hops: u8,
    ) -> Result<(), raft::Malformed> {
        if !self.may_start() {
            return Ok(());
        }
        // State comes by a transfer, and is then given to the group.
        if matches!(letter.message.body, Body::Snapshot(_)) {
            let (from, what) = (letter.from, "state comes by a transfer");
            return Err(raft::Malformed { from, what });
        }
        if self.is_gone(letter.range, letter.to) {
            if self.was_absorbed(letter.range) {
                // Nobody of its group is left to say so.
                let who = (letter.range, letter.to, letter.from);
                self.say_at(who, Mark { term: 0, index: 0 }, TransferStep::Removed);
            }
            self.answer_for_gone(&letter, caller);
            return Ok(());
        }
        if let Some(to) = self.elsewhere(letter.range, letter.to) {
            if self.may_hand_on(to, hops) {
                base::sometimes!("node: a letter was handed to another shard");
                let hops = hops + 1;
                self.send(
                    to,
                    ShardMessage::Letter {
                        letter: Box::new(letter),
                        caller,
                        hops,
                    },
                );
            }
            return Ok(());
        }
        if let Some(life) = self.injured.holds(letter.range)
            && !base::planted_bug!("node-damaged-replica-votes")
        {
            base::sometimes!("node: a damaged replica is spoken to");
            if life_of(letter.to) <= life {
                self.answer_for_gone(&letter, caller);
            }
            return Ok(());
        }
        // What was said to a damaged replica of this shard that is gone by now is not for a stranger.
        if self.me != ShardId(0) && self.seat_slot(letter.range).is_none() {
            return Ok(());
        }
        let letter = match self.seat_slot(letter.range) {
            Some(slot) => Ok((slot, letter)),
            None => self.welcome(letter, caller),
        };
        let Ok((slot, letter)) = letter else {
            return Ok(());
        };
        // One that is being opened has no seat yet.
        let Some(seat) = self.slots[slot as usize].seat_mut() else {
            return Ok(());
        };
        if seat.leaving || seat.silent {
            return Ok(());
        }
        if seat.raft.id() != letter.to {
            base::sometimes!("node: message for another replica of the range");
            if life_of(letter.to) > life_of(seat.raft.id()) {
                self.succeed(slot, letter, caller);
            }
            return Ok(());
        }
        if seat.heard_at(letter.from, caller.shard) {
            self.watch_closed(slot);
        }
        if let Some(local) = self.slots[slot as usize].live()
            && local.replica.group().has_removed(letter.from)
        {
            base::sometimes!("node: a removed replica does not know that it is");
            self.say_removed(slot, letter.from);
            return Ok(());
        }
        if self.drops_entries(&letter.message.body) {
            return Ok(());
        }
        let seat = self.seat_of(slot);
        seat.raft.step(letter.from, letter.message)?;
        if seat.raft.membership().members().next().is_none() {
            // Nobody has said yet who else takes part.
            self.introduce(slot, letter.from);
        }
        self.touch(slot);
        Ok(())
    }

    /// A letter that another shard of this node was given.
    pub(crate) fn on_handed_letter(&mut self, letter: Letter, caller: Peer, hops: u8) {
        // What was asked for before comes first: it has its place in the log by now.
        self.close_batch();
        // Whoever sent nonsense is connected with another shard: it is not listened to.
        let _ = self.on_letter(letter, caller, hops);
    }

    /// Takes a step of a transfer that came from the shard `caller` of another node, or hands it to the shard that has the replica.
    ///
    /// # Errors
    /// [`WireError`] when no node says such a thing.
    pub(crate) fn on_transfer(
        &mut self,
        caller: Peer,
        hops: u8,
        transfer: &ArchivedTransfer<'static>,
        frame: &Frame<'_>,
    ) -> Result<(), WireError> {
        let malformed = WireError::Malformed {
            kind: frame.kind,
            bytes: frame.payload.len(),
        };
        if !self.may_start() {
            return Ok(());
        }
        let range = RangeId(transfer.range.to_native());
        let (from, to) = (
            ReplicaId(transfer.from.to_native()),
            ReplicaId(transfer.to.to_native()),
        );
        if node_of(from) != caller.node {
            return Err(malformed);
        }
        if self.answer_for_absorbed((range, from, to), &transfer.step) {
            return Ok(());
        }
        let there = if matches!(transfer.step, ArchivedTransferStep::Damaged) {
            self.claim_elsewhere(range)
        } else {
            self.elsewhere(range, to)
        };
        if let Some(shard) = there {
            if self.may_hand_on(shard, hops) {
                base::sometimes!("node: a step of a transfer was handed to another shard");
                let mut payload = AlignedVec::with_capacity(frame.payload.len());
                payload.extend_from_slice(frame.payload);
                let owned = OwnedTransfer {
                    kind: frame.kind,
                    payload,
                    caller,
                    hops: hops + 1,
                };
                self.send(shard, ShardMessage::Transfer(Box::new(owned)));
            }
            return Ok(());
        }
        // Of a merge another range's replica speaks, which may be on another shard.
        let is_of_neighbour = matches!(
            transfer.step,
            ArchivedTransferStep::AskFate { .. } | ArchivedTransferStep::Refused { .. }
        );
        if let Some(slot) = self.seat_slot(range)
            && let Some(seat) = self.slots[slot as usize].seat_mut()
            && !is_of_neighbour
        {
            if seat.silent {
                return Ok(());
            }
            if seat.heard_at(from, caller.shard) {
                self.watch_closed(slot);
            }
        }
        self.take_transfer(transfer, malformed)
    }

    /// A step of a transfer that another shard of this node was given.
    pub(crate) fn on_handed_transfer(&mut self, transfer: &OwnedTransfer) {
        let frame = Frame {
            kind: transfer.kind,
            request: base::RequestId(0),
            payload: &transfer.payload,
        };
        if let Ok(PeerRef::Transfer(step)) = decode_peer(&frame) {
            // Whoever sent nonsense is connected with another shard: it is not listened to.
            let _ = self.on_transfer(transfer.caller, transfer.hops, step, &frame);
        }
    }

    /// Somebody who does not know that a replica was removed speaks to it. Who is bound to it, and so elects nobody else, hears that
    /// it leads no more: it never will.
    fn answer_for_gone(&mut self, letter: &Letter, caller: Peer) {
        if let (Body::Bound, Some(neighbours)) = (&letter.message.body, &mut self.neighbours) {
            base::sometimes!("node: a replica is bound to one that is gone");
            let term = letter.message.term;
            let body = Body::Released;
            let answer = Letter {
                range: letter.range,
                from: letter.to,
                to: letter.from,
                message: raft::Message { term, body },
            };
            neighbours.post(caller, answer);
        }
    }
}
