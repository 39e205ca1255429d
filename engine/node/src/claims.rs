//! A node has one replica of a range at most, also when a split on one shard makes what another shard has as a stranger.
//!
//! ```text
//!   shard j: the split that makes r9 is committed ─► Claim r9 ──►
//!   shard 0:                                                     a stranger r9? it goes, with what it promised ──►
//!   shard j: what it promised is in the log ─► the split is applied, r9 keeps the promise
//! ```
//! From then on shard 0 hands letters for r9 to shard j. When state takes the place of the split, shard j gives back what it was told,
//! and r9 may be a stranger again.
//!
//! What shard 0 has in its log of a stranger that went stays there until the range's replica is removed. Term and vote of a replica
//! only rise, so the greatest in all logs of a node is what it promised last: that is what a start takes, wherever it finds it.

use crate::local::Stranger;
use crate::message::{Answer, Ask, ShardMessage};
use crate::shard::Shard;
use crate::state::{Job, Message, Slot, State};
use base::{Index, RangeId, ReplicaId, ShardId};
use core::time::Duration;
use env::{Clock, Env, Mailbox};
use log::Record;
use raft::{Epoch, HardState};
use std::mem;

/// How often a stranger that is being written is asked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What a stranger promised, for the replica that takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promised {
    /// Who promised it; zero is nobody.
    id: ReplicaId,
    /// Term and vote.
    pub(crate) hard_state: HardState,
    /// Whom it is bound to by this node's support. What shard 0 knows of that the other shards know before they hear of this.
    bound: Option<(ReplicaId, Epoch)>,
}

impl Promised {
    /// Of a stranger.
    pub(crate) fn by<E: Env>(stranger: &Stranger<E>) -> Self {
        Self {
            id: stranger.seat.raft.id(),
            hard_state: stranger.hard_state,
            bound: stranger.seat.raft.bound(),
        }
    }

    /// Whom `replica` is bound to, if it is who promised.
    pub(crate) fn bound_of(&self, replica: ReplicaId) -> Option<(ReplicaId, Epoch)> {
        self.bound.filter(|_| self.id == replica)
    }
}

/// A range that a split is about to make here.
pub(crate) struct Claim {
    /// What it is split off.
    left: RangeId,
    /// What a stranger promised in its place; `None` until shard 0 has said so.
    promised: Option<Promised>,
    /// The split does not come any more; what shard 0 says is given back.
    is_over: bool,
}

/// Which of two hard states of one replica is the later one.
pub(crate) fn latest(one: HardState, other: HardState) -> HardState {
    let place = |state: &HardState| (state.term, state.vote.is_some());
    if place(&other) > place(&one) { other } else { one }
}

impl<E: Env, B> State<E, B> {
    /// Whether the split of `left` that makes `right` may be applied: nobody else of this node takes part in the new range.
    pub(crate) fn may_split(&mut self, left: RangeId, right: RangeId) -> bool {
        if self.me == ShardId(0) || self.neighbours.is_none() {
            return true;
        }
        if let Some(claim) = self.claims.get_mut(&right) {
            claim.is_over = false;
            return claim.promised.is_some();
        }
        let claim = Claim {
            left,
            promised: None,
            is_over: false,
        };
        self.claims.insert(right, claim);
        self.jobs.push(Job::Claim { left, right });
        false
    }

    /// What strangers promised in the place of a range that a split makes now.
    pub(crate) fn take_claim(&mut self, right: RangeId) -> Option<Promised> {
        let promised = self.claims.remove(&right)?.promised;
        promised.filter(|promised| *promised != Promised::default())
    }

    /// Splits of a range that were waited for do not come any more.
    pub(crate) fn release_claims(&mut self, left: RangeId) {
        for (range, mut claim) in mem::take(&mut self.claims) {
            match claim.promised.filter(|_| claim.left == left) {
                Some(promised) => self.send(ShardId(0), ShardMessage::Unclaim { range, promised }),
                None => {
                    claim.is_over |= claim.left == left;
                    self.claims.insert(range, claim);
                }
            }
        }
    }

    fn claimed(&mut self, left: RangeId, right: RangeId, (promised, gone): (Promised, Option<u32>)) {
        if let Some(life) = gone {
            let last = self.gone.entry(right).or_default();
            *last = life.max(*last);
        }
        let claim = self
            .claims
            .get_mut(&right)
            .expect("a claim stays while it is asked for");
        if claim.is_over {
            base::sometimes!("node: a split that waited for a claim came to nothing");
            self.claims.remove(&right);
            let range = right;
            return self.send(ShardId(0), ShardMessage::Unclaim { range, promised });
        }
        claim.promised = Some(promised);
        let HardState { term, vote, .. } = promised.hard_state;
        if promised.hard_state != HardState::default() {
            self.log.append(&Record::HardState {
                range: right,
                term,
                vote,
                commit: Index::ZERO,
            });
        }
        if let Some(&slot) = self.here.get(&left)
            && self.slots[slot as usize].live().is_some()
        {
            self.touch(slot);
        }
    }

    /// Shard 0: the range is about to be made by a split on another shard. What a stranger has promised in its place, and the last life
    /// whose replicas were removed; `None` while something of it is being written.
    pub(crate) fn on_split_claim(
        &mut self,
        from: ShardId,
        range: RangeId,
    ) -> Option<(Promised, Option<u32>)> {
        self.close_batch();
        if self.removing.contains_key(&range) {
            // Its files go.
            return None;
        }
        let mut promised = Promised::default();
        if let Some(&slot) = self.strangers.get(&range) {
            let receives = self.is_receiving(range);
            let Slot::Stranger(stranger) = &self.slots[slot as usize] else {
                unreachable!("strangers are in the slots of strangers")
            };
            let seat = &stranger.seat;
            if receives || seat.writes > 0 || seat.dirty || seat.installing || seat.arrived.is_some() {
                base::sometimes!("node: a split waits for a stranger on another shard");
                return None;
            }
            base::sometimes!("node: a split on another shard takes the place of a stranger");
            promised = Promised::by(stranger);
            self.slots[slot as usize] = Slot::Free;
            self.strangers.remove(&range);
        }
        self.assigned.insert(range, from);
        Some((promised, self.gone.get(&range).copied()))
    }

    /// Shard 0: a range that was claimed is not made by a split after all.
    pub(crate) fn on_unclaim(&mut self, from: ShardId, range: RangeId, promised: Promised) {
        if self.assigned.get(&range) != Some(&from) {
            return;
        }
        self.assigned.remove(&range);
        if promised != Promised::default() && self.map.get(range).is_none() {
            base::sometimes!("node: a stranger is one again");
            let mut stranger = Stranger::new(range, promised.id, promised.hard_state, &self.groups);
            stranger.seat.raft.bind(promised.bound);
            let slot = self.admit_stranger(stranger);
            // Of its members nothing is known yet.
            if let Some((leader, _)) = promised.bound {
                self.introduce(slot, leader);
            }
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Asks shard 0 for a range that a split is about to make here.
    pub(crate) async fn claim_right(&self, left: RangeId, right: RangeId) {
        loop {
            match self.step(|state| state.ask(ShardId(0), Ask::Claim(right))).await {
                Some(Answer::Claim(Some(said))) => {
                    return self.step(|state| state.claimed(left, right, said));
                }
                Some(Answer::Claim(None)) => self.env.clock().sleep(LOOK_AGAIN).await,
                // The node is stopping.
                Some(_) | None => return,
            }
        }
    }
}
