//! The Absorb entry, on each replica of the left range: what follows in its log waits until the tablet has the right one's tables.
//!
//! ```text
//!   Absorb is committed ─► both flushed, tidy ─► links, manifest of the left tablet ◄── from here on it is absorbed
//!                                              ─► in memory ─► grave of the right range ─► its log is forgotten, its files go
//! ```
//! The entry is applied when the manifest says so, not before: replay never applies one, and leaves it and what follows to the group.
//! Nor is anything applied in the right range meanwhile, where who leads may change: it would not be in the tables that the left one gets.
//! So a crash leaves the left range before the entry, with the right one beside it as it was; or after it, and then the right one's
//! keys are another range's of a later generation: a start buries it.
//!
//! A node that lags may get the left range's state instead of the entry. Its right replica stays until that is installed, which may
//! never be: by then the entry may be in its log, where it counts for the quorum that has it.
//!
//! A replica whose right neighbour is not there as it must be (its files were damaged after it had gathered) cannot go on: it ends
//! as damaged, and its group gives its node another one.

use super::ABSORBED;
use crate::damage_note;
use crate::local::Local;
use crate::marker;
use crate::recover::RecoverError;
use crate::shard::Shard;
use crate::state::{Job, Message, Slot, State, Then};
use base::key::Span;
use base::{Index, RangeId, Seqno, ShardId};
use core::mem;
use core::time::Duration;
use env::{Clock, Env, Mailbox};
use log::{EntryKind, Log};
use raft::Content;
use replica::Command;
use replica::command::{self, MergeStep};
use replica::group::life_of;
use replica::replica::{At, Ended, Merging};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use storage::{StorageError, Tablet};

/// How often is looked whether something still works on a range.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whether an entry takes the right neighbour over: then it is not applied at once.
pub(crate) fn absorbs<E: Env>(local: &Local<E>, kind: EntryKind, payload: &[u8]) -> bool {
    kind == EntryKind::Command && absorbed_by(local, payload).is_some()
}

/// The range that a command makes a part of this one.
fn absorbed_by<E: Env>(local: &Local<E>, payload: &[u8]) -> Option<RangeId> {
    match command::merge_of(payload)? {
        MergeStep::Absorb { right, merge } if local.replica.expects(right, merge) => Some(right),
        _ => None,
    }
}

/// The two tablets of a merge, claimed.
enum Claimed<E: Env> {
    Both([Tablet<E>; 2]),
    /// Something works on the right one.
    Waits,
    /// The right one is not as it must be.
    Missing,
}

impl<E: Env, B> State<E, B> {
    /// Begins to apply the entry that is next in the range in `slot`, when it absorbs its right neighbour. Whether it does.
    pub(crate) fn begin_absorb(&mut self, slot: u32) -> bool {
        let local = self.live_mut(slot);
        let Some(Content::Command(payload)) = local.seat.committed.front().map(|entry| &entry.content) else {
            return false;
        };
        let Some(right) = absorbed_by(local, payload) else {
            return false;
        };
        let left = local.range;
        if local.busy.get() || local.seat.leaving || self.injured.is_ending(left) {
            base::sometimes!("node: a merge waits for what works on the range");
            return true;
        }
        let local = self.live_mut(slot);
        local.busy.set(true);
        local.absorbing = true;
        self.jobs.push(Job::Absorb { left, right });
        true
    }

    /// The ranges that are frozen here to be absorbed by `left`, and were, in a state of it: that has these keys, and how the last
    /// merge ended. They stay until it is installed here: entries of `left` that this node has promised to keep may need them.
    pub(crate) fn absorbed_in(&self, left: RangeId, span: &Span, ended: Option<Ended>) -> Vec<RangeId> {
        if self.local(left).is_some_and(|local| local.absorbing) {
            return Vec::new();
        }
        let ended = ended.filter(|ended| ended.absorbed);
        let is_in = |local: &&Local<E>| {
            let own = &local.replica.descriptor().span;
            let Merging::Frozen { left: by, merge, .. } = local.replica.merging() else {
                return false;
            };
            // The left range may have been split since.
            let has_ended = ended.is_some_and(|ended| ended.merge == merge);
            let has_keys = span.intersect(&own.start, own.end.as_deref()).as_ref() == Some(own);
            by == left && (has_ended || has_keys)
        };
        let live = self.slots.iter().filter_map(Slot::live);
        live.filter(is_in).map(|local| local.range).collect()
    }

    /// The left range's state is installed: the range that it has absorbed goes, and whoever waits for it goes to the left one.
    pub(crate) fn let_go_of_absorbed(&mut self, range: RangeId) {
        base::sometimes!("node: a range was absorbed while this node lagged");
        let slot = self.here[&range];
        let parked = self.live_mut(slot).replica.unpark();
        self.gone.insert(range, ABSORBED);
        self.stop_closing(range);
        self.merges.open.remove(&range);
        self.end_replica(slot);
        for request in &parked {
            self.on_owned(request);
        }
    }

    fn claim_absorbed(&mut self, left: RangeId, right: RangeId) -> Claimed<E> {
        let is_ending = self.injured.is_ending(left) || self.injured.is_ending(right);
        let [Some(ours), Some(theirs)] = [self.local(left), self.local(right)] else {
            return Claimed::Missing;
        };
        let Merging::Frozen { left: by, merge, .. } = theirs.replica.merging() else {
            return Claimed::Missing;
        };
        if is_ending || by != left || !ours.replica.expects(right, merge) || theirs.seat.leaving {
            return Claimed::Missing;
        }
        if theirs.seat.installing || theirs.busy.replace(true) {
            return Claimed::Waits;
        }
        let tablets = [ours.tablet.clone(), theirs.tablet.clone()];
        let slot = self.here[&right];
        self.live_mut(slot).absorbed = true;
        Claimed::Both(tablets)
    }

    /// The entry that is next in the left range, and the state of its replica as of it.
    fn absorbed_state(&self, left: RangeId, right: RangeId) -> Option<(Index, Vec<u8>)> {
        let [ours, theirs] = [self.local(left)?, self.local(right)?];
        let entry = ours.seat.committed.front()?;
        let Content::Command(payload) = &entry.content else {
            return None;
        };
        let ts = Command::decode(payload).ok()?.ts();
        let at = At {
            mark: entry.mark(),
            chain: entry.chain,
        };
        Some((entry.index, ours.replica.absorbed_state(at, ts, &theirs.replica)))
    }

    /// The left tablet has the right one's tables: now the left range has its keys, and the right one goes.
    fn end_absorb(&mut self, left: RangeId, right: RangeId) {
        self.answer_gets();
        self.close_batch();
        let (slot, right_slot) = (self.here[&left], self.here[&right]);
        let Slot::Live(mut theirs) = mem::replace(&mut self.slots[right_slot as usize], Slot::Free) else {
            unreachable!("{right} is claimed")
        };
        let local = self.live_mut(slot);
        let entry = local.seat.committed.pop_front().expect("it waits to be applied");
        let Content::Command(payload) = &entry.content else {
            unreachable!("it was looked at")
        };
        let at = At {
            mark: entry.mark(),
            chain: entry.chain,
        };
        let absorbed = local.replica.absorb(at, payload, &theirs.replica);
        absorbed.expect("it was decoded");
        local.absorbing = false;
        local.frozen.push_back((entry.index, entry.chain));
        local.seat.raft.applied(entry.index);
        local.flushed(entry.index);
        let then = local.proposed.pop_front_if(|(index, _)| *index == entry.index);
        assert!(
            matches!(then, None | Some((_, Then::Nothing))),
            "a command is answered as what it was proposed"
        );
        let last_ts = local.replica.last_ts();
        base::sometimes!("node: a leader absorbed its neighbour", local.led);
        base::sometimes!("node: a follower absorbed a neighbour", !local.led);
        self.log.cover(left, entry.index);
        self.raise_clock(last_ts);
        self.answer_refused(slot, entry.index);
        // Whoever waits for the right range goes to the left one.
        let parked = theirs.replica.unpark();
        theirs.busy.set(false);
        self.gone.insert(right, ABSORBED);
        self.stop_closing(right);
        self.merges.open.remove(&right);
        self.slots[right_slot as usize] = Slot::Live(theirs);
        self.counts.merges += 1;
        let entry = self.entry_of(slot);
        self.map.merge([entry]);
        self.update_routes();
        self.end_replica(right_slot);
        self.progress = true;
        self.watch_closed(slot);
        self.touch(slot);
        for request in &parked {
            self.on_owned(request);
        }
    }

    /// The left range cannot absorb what it must: its replica here ends, when others have what it lacks. Whether they have.
    fn cannot_absorb(&mut self, left: RangeId, right: RangeId, is_claimed: bool) -> bool {
        if is_claimed {
            if let Some(&slot) = self.here.get(&right)
                && let Some(theirs) = self.slots[slot as usize].live_mut()
            {
                theirs.absorbed = false;
            }
            self.unclaim(right);
        }
        // What follows in its log is not applied: it absorbs for ever, and waits for its end.
        if let Some(local) = self.local(left) {
            local.busy.set(false);
        }
        if !self.has_peers(left) {
            return self.injured.is_ending(left);
        }
        base::sometimes!("node: a replica cannot absorb its neighbour");
        self.on_damage(
            left,
            format!("range {right}, which it is to absorb, is not whole on this node"),
        );
        true
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Applies the entry by which `left` absorbs `right`. It is claimed.
    pub(crate) async fn absorb(&self, left: RangeId, right: RangeId) {
        let tablets = loop {
            match self.step(|state| state.claim_absorbed(left, right)) {
                Claimed::Both(tablets) => break tablets,
                Claimed::Waits => self.env.clock().sleep(LOOK_AGAIN).await,
                Claimed::Missing => return self.give_up(left, right, false),
            }
        };
        let [ours, theirs] = tablets;
        for (range, tablet) in [(right, &theirs), (left, &ours)] {
            self.freeze(range);
            if self.flush_claimed(range, tablet).await.is_none() || !self.tidy(range, tablet).await {
                return self.give_up(left, right, true);
            }
        }
        let Some((index, state)) = self.with_state(|state| state.absorbed_state(left, right)) else {
            return self.give_up(left, right, true);
        };
        match ours.absorb(&theirs, index, state).await {
            Ok(()) => {}
            Err(StorageError::Corruption(_)) => return self.give_up(left, right, true),
            Err(error) => return self.fail(format!("range {left} could not absorb range {right}: {error}")),
        }
        drop((ours, theirs));
        self.step(|state| state.end_absorb(left, right));
        let entry = self.with_state(|state| state.local(left).map(|_| state.entry_of(state.here[&left])));
        if let Some(entry) = entry
            && self.edit_map(vec![entry]).await.is_err()
        {
            // The node is stopping.
            return;
        }
        // Until nothing of it is left here a move of the left range would leave it behind.
        let is_there =
            |state: &mut State<E, B>| state.local(right).is_some() || state.removing.contains_key(&right);
        while self.with_state(is_there) {
            self.env.clock().sleep(LOOK_AGAIN).await;
        }
        self.step(|state| state.unclaim(left));
    }

    fn give_up(&self, left: RangeId, right: RangeId, is_claimed: bool) {
        if !self.step(|state| state.cannot_absorb(left, right, is_claimed)) {
            self.fail(format!(
                "range {left} cannot absorb range {right}, which is not whole on this node"
            ));
        }
    }

    /// Writes the tables of a range that was claimed anew that have something outside its span. Whether that went well.
    pub(super) async fn tidy(&self, range: RangeId, tablet: &Tablet<E>) -> bool {
        match tablet.tidy().await {
            Ok(()) => true,
            Err(error @ StorageError::Corruption(_)) => {
                base::sometimes!("node: a merge of ranges met damage");
                self.step(|state| state.on_damage(range, error.to_string()));
                false
            }
            Err(StorageError::Poisoned { .. }) if self.with_state(|state| state.injured.is_ending(range)) => {
                false
            }
            Err(error) => {
                self.fail(format!("tables of range {range} could not be merged: {error}"));
                false
            }
        }
    }
}

/// Removes what a crash has left of ranges that were absorbed: all of them are recovered.
pub(crate) async fn bury_absorbed<E: Env>(
    env: &E,
    shard: ShardId,
    log: &Log<E>,
    locals: &mut Vec<Local<E>>,
    gone: &mut BTreeMap<RangeId, u32>,
) -> Result<(), RecoverError> {
    let covers = |wide: &Local<E>, narrow: &Local<E>| {
        let (wide, narrow) = (wide.replica.descriptor(), narrow.replica.descriptor());
        let common = wide
            .span
            .intersect(&narrow.span.start, narrow.span.end.as_deref());
        wide.generation > narrow.generation && common.as_ref() == Some(&narrow.span)
    };
    let is_absorbed = |local: &Local<E>| {
        gone.get(&local.range) == Some(&ABSORBED) || locals.iter().any(|other| covers(other, local))
    };
    let absorbed: Vec<bool> = locals.iter().map(is_absorbed).collect();
    let mut absorbed = absorbed.into_iter();
    for local in locals.extract_if(.., |_| absorbed.next() == Some(true)) {
        base::sometimes!("node: a crash came before an absorbed range was gone");
        let (range, life) = (local.range, life_of(local.seat.raft.id()));
        marker::bury(env, range, ABSORBED).await?;
        gone.insert(range, ABSORBED);
        let seqno = log.forget(range);
        log.submit();
        log.persisted_beyond(seqno.prev().unwrap_or(Seqno::ZERO)).await?;
        match marker::remove(env, shard, range).await {
            Err(error) if error.kind != ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        local.tablet.remove().await?;
        damage_note::forget_lives(env, range, life).await?;
    }
    Ok(())
}
