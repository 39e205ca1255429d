//! The end of a replica that its group has removed.
//!
//! ```text
//!   the group says so ─┐
//!   another member does ┼─► leaving ─► nothing works on it ─► out of its slot ─► grave ─► log forgets ─► marker, files go
//!   a later one is met ─┘
//! ```
//! Who was removed need not hear of it from the group: nothing is sent to it any more. So members tell it when they apply the
//! change, and whenever it speaks to them.
//!
//! Order: the grave is durable before the log forgets what the replica has promised, and that before its marker goes; a tablet
//! without a marker counts for nothing. A crash in between leaves a replica in its grave with a marker: it takes part in nothing
//! after the start and goes on with leaving.
//!
//! Invariant: a replica that was removed takes part in nothing, also when a split makes it anew: it has forgotten what it promised.

use crate::damage_note;
use crate::marker;
use crate::message::{Ask, ShardMessage};
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, Slot, State};
use base::{RangeId, ReplicaId, ShardId};
use core::mem;
use core::time::Duration;
use env::{Clock, Env, Mailbox};
use replica::group::life_of;
use std::io::ErrorKind;
use std::sync::Arc;
use storage::Tablet;
use wire::peer::{Mark, TransferStep};

/// How often is looked whether something still works on a replica that goes.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A replica that is to go.
pub(crate) enum Leaving<E: Env> {
    /// Something works on it.
    Waits,
    /// It is nobody's any more; with its tablet when it had its state.
    Out(ReplicaId, Option<Tablet<E>>),
    /// It is not here.
    Nothing,
}

impl<E: Env, B> State<E, B> {
    /// The members of the range in `slot` are others from here on than `before`.
    pub(crate) fn members_changed(&mut self, slot: u32, before: &raft::Membership) {
        let local = self.live_mut(slot);
        let (range, me) = (local.range, local.seat.raft.id());
        let after = Arc::clone(&local.replica.group().applied.membership);
        for replica in before.members().filter(|replica| !after.contains(*replica)) {
            if replica == me {
                base::sometimes!("node: a replica applied its own removal");
                self.end_replica(slot);
            } else {
                self.say_removed(slot, replica);
                self.stop_sending(range, Some(replica));
            }
        }
        let local = self.live_mut(slot);
        if local.seat.raft.is_leader() && after.learners().iter().any(|learner| !before.contains(*learner)) {
            // What the group had for it was not sent: see `post`.
            local.seat.raft.tell_commit();
            self.touch(slot);
        }
        let local = self.live_mut(slot);
        if local.is_alone() && !local.seat.raft.is_leader() {
            base::sometimes!("node: the last replica of a range did not lead");
            local.seat.raft.campaign_now();
            self.touch(slot);
        }
    }

    /// Tells a replica that the group in `slot` has removed it.
    pub(crate) fn say_removed(&mut self, slot: u32, removed: ReplicaId) {
        let local = self.live_mut(slot);
        let last = local.replica.group().applied.last;
        let (range, me) = (local.range, local.seat.raft.id());
        let mark = Mark {
            term: last.term.0,
            index: last.index.0,
        };
        self.say_at((range, me, removed), mark, TransferStep::Removed);
    }

    /// A member of its group says that a replica was removed.
    pub(crate) fn on_removed(&mut self, range: RangeId, removed: ReplicaId) {
        let slot = self
            .here
            .get(&range)
            .or_else(|| self.strangers.get(&range))
            .copied();
        let is_it = |slot: &u32| {
            let seat = self.slots[*slot as usize].seat();
            seat.is_some_and(|seat| seat.raft.id() == removed)
        };
        if let Some(slot) = slot.filter(is_it) {
            if self.is_to_be_absorbed(slot) {
                base::sometimes!("node: a frozen range waits for its left neighbour to take it over");
                return;
            }
            base::sometimes!("node: a replica was told that it was removed");
            self.end_replica(slot);
        }
        self.on_damaged_removed(range, removed);
    }

    /// The replica in `slot` was removed.
    pub(crate) fn end_replica(&mut self, slot: u32) {
        let seat = self.seat_of(slot);
        let range = seat.range;
        if !mem::replace(&mut seat.leaving, true) {
            self.jobs.push(Job::Remove(range));
        }
    }

    /// Whether replicas up to this one were removed from the range's group.
    pub(crate) fn is_gone(&self, range: RangeId, replica: ReplicaId) -> bool {
        self.gone
            .get(&range)
            .is_some_and(|life| life_of(replica) <= *life)
    }

    /// Nothing of the range is here any more: shard 0 may take it up again.
    pub(crate) fn say_place_free(&mut self, range: RangeId) {
        if self.me == ShardId(0) {
            self.forget_place(ShardId(0), range);
        } else {
            self.send(ShardId(0), ShardMessage::Removed { range });
        }
    }

    /// Replicas of the range up to this life were removed on another shard of this node.
    pub(crate) fn on_gone(&mut self, range: RangeId, life: u32) {
        let last = self.gone.entry(range).or_default();
        *last = life.max(*last);
        if self.seat_slot(range).is_none() {
            // What the log has of it is void.
            self.log.forget(range);
        }
    }

    /// Takes a replica that is leaving out of its slot, once nothing works on it.
    pub(crate) fn take_out(&mut self, range: RangeId) -> Leaving<E> {
        self.answer_gets();
        self.close_batch();
        let Some(slot) = self
            .here
            .get(&range)
            .or_else(|| self.strangers.get(&range))
            .copied()
        else {
            return Leaving::Nothing;
        };
        let Some(seat) = self.slots[slot as usize].seat().filter(|seat| seat.leaving) else {
            return Leaving::Nothing;
        };
        let replica = seat.raft.id();
        if self.is_receiving(range) {
            self.stop_receiving(range);
            return Leaving::Waits;
        }
        self.stop_sending(range, None);
        let seat = self.seat_of(slot);
        // What is read for followers comes back to the slot, which a later replica of the range may have by then.
        base::sometimes!(
            "node: a replica that goes waits until entries are read",
            seat.fetches > 0
        );
        if seat.writes > 0 || seat.fetches > 0 || seat.installing {
            return Leaving::Waits;
        }
        if let Some(local) = self.slots[slot as usize].live_mut() {
            if local.led {
                base::sometimes!("node: a removed replica takes itself for the leader");
                self.step_down(slot);
            }
            let local = self.live_mut(slot);
            if local.busy.get() || local.split_open || local.reads.get() > 0 || local.tablet.is_held() {
                return Leaving::Waits;
            }
        }
        let tablet = match mem::replace(&mut self.slots[slot as usize], Slot::Free) {
            Slot::Live(mut local) => {
                for request in local.replica.unpark() {
                    self.refuse(request.origin, &Refusal::not_here());
                }
                Some(local.tablet)
            }
            Slot::Stranger(_) => None,
            Slot::Free | Slot::Opening(..) => unreachable!("a seat was there"),
        };
        self.strangers.remove(&range);
        self.release_claims(range);
        self.map.remove(range);
        self.update_routes();
        Leaving::Out(replica, tablet)
    }

    /// Takes a replica that was removed out of its slot, and into its grave.
    fn take_to_grave(&mut self, range: RangeId) -> Leaving<E> {
        let out = self.take_out(range);
        if let Leaving::Out(replica, tablet) = &out {
            self.damage.remove(&range);
            self.merges.open.remove(&range);
            let life = self.gone.entry(range).or_default();
            *life = life_of(*replica).max(*life);
            self.removing.insert(range, tablet.as_ref().map(Tablet::span));
        }
        out
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Ends a replica that was removed, with all that it has on disk.
    pub(crate) async fn remove_replica(&self, range: RangeId) {
        let (replica, tablet) = loop {
            match self.step(|state| state.take_to_grave(range)) {
                Leaving::Nothing => return,
                Leaving::Out(replica, tablet) => break (replica, tablet),
                Leaving::Waits => self.env.clock().sleep(LOOK_AGAIN).await,
            }
        };
        if let Err(reason) = self.erase(range, replica, tablet).await {
            return self.fail(format!("range {range} could not be removed: {reason}"));
        }
        base::sometimes!("node: a replica was removed");
        self.step(|state| {
            state.removing.remove(&range);
            state.counts.removed += 1;
            state.say_place_free(range);
            // A split that makes it may have waited.
            let waits = |slot: &Slot<E>| slot.live().is_some_and(|local| !local.seat.committed.is_empty());
            let live = (0..).zip(&state.slots).filter(|(_, slot)| waits(slot));
            let waiting: Vec<u32> = live.map(|(at, _)| at).collect();
            waiting.into_iter().for_each(|slot| state.touch(slot));
        });
    }

    /// Tells the other shards of a grave. Shard 0, which admits strangers and is asked before splits on other shards, must know before
    /// anything is forgotten.
    pub(crate) async fn tell_gone(&self, range: RangeId, life: u32) {
        let me = self.mailbox.shard();
        if me != ShardId(0) {
            // Without an answer the node is stopping.
            self.step(|state| state.ask(ShardId(0), Ask::Gone(range, life)))
                .await;
        }
        let others = (1..self.mailbox.shards())
            .map(ShardId)
            .filter(|shard| *shard != me);
        self.step(|state| others.for_each(|shard| state.send(shard, ShardMessage::Gone { range, life })));
    }

    async fn erase(
        &self,
        range: RangeId,
        replica: ReplicaId,
        tablet: Option<Tablet<E>>,
    ) -> Result<(), String> {
        let me = self.mailbox.shard();
        if !base::planted_bug!("node-removed-without-grave") {
            // That of its last life, when it was absorbed.
            let life = self.with_state(|state| state.gone.get(&range).copied());
            let life = life.unwrap_or_default().max(life_of(replica));
            let buried = marker::bury(&self.env, range, life).await;
            buried.map_err(|error| error.to_string())?;
            self.tell_gone(range, life).await;
        }
        let (log, seqno) = self.step(|state| (state.log.clone(), state.log.forget(range)));
        self.wait_durable(&log, seqno).await?;
        if let Some(tablet) = tablet {
            match marker::remove(&self.env, me, range).await {
                // One that came here damaged, or was never marked, has none.
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error.to_string()),
                Ok(()) | Err(_) => {}
            }
            tablet.remove().await.map_err(|error| error.to_string())?;
        } else {
            // Of a replica without state a part of one may be here.
            let destroyed = Tablet::destroy(&self.env, range).await;
            destroyed.map_err(|error| error.to_string())?;
        }
        let forgotten = damage_note::forget_lives(&self.env, range, life_of(replica)).await;
        forgotten.map_err(|error| error.to_string())
    }
}
