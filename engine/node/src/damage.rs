//! Replicas whose files are damaged: they end, and their group gives the node new ones.
//!
//! ```text
//!   read, merge, flush, scrub, start ─► found ─► hands over ─► takes part in nothing ─► note ─► out of its slot, files stay
//!                                                                                                  │
//!   every node ◄── Damaged, again and again ───────────────────────────────────────────────────────┘
//!   its leader: removes it and makes a later life a learner, in one change ─► Removed ─► grave, files go
//!               ─► the later life is heard of, gets the state, votes ─► Settled ─► the note goes
//! ```
//! What comes next is decided from the members as they are and from the note, so that any leader finishes what another one began.
//! A group that cannot commit the change (who else is needed does not live, or is damaged too) leaves everything as it is.
//!
//! Invariants:
//! - A damaged replica takes part in nothing again: what it promised may be lost with the damage.
//! - Its files stay until its group has removed it, which takes a quorum that has everything without it.
//! - A replica without which nobody votes is not given up: reads of the damage are refused, and a start with it.

use crate::damage_note::{self, Noted};
use crate::dialect::Letter;
use crate::local::Local;
use crate::marker;
use crate::message::ShardMessage;
use crate::range_map::RangeEntry;
use crate::refusal::Refusal;
use crate::removal::Leaving;
use crate::shard::Shard;
use crate::state::{Job, Message, Slot, State};
use base::{NodeId, RangeId, ReplicaId, ShardId};
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox};
use liveness::Peer;
use raft::{MemberChange, Membership};
use replica::group::{life_of, node_of, replica_on};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use storage::{StorageError, Tablet};
use wire::Code;
use wire::peer::{Mark, TransferStep};

/// How often is looked whether something still works on a replica that goes, and whether a change of members may come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often is looked whether a new replica has caught up.
const LOOK_CAUGHT_UP: Duration = Duration::from_millis(100);
/// The pauses between telling other nodes: from the first to the last.
const TELL_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Damaged replicas that are told of at a time.
const TELL_MAX: usize = 64;
/// How long a leader goes on with one replica before it wants to be told again.
const MEND_MAX: Duration = Duration::from_secs(60);
/// Replicas that a shard's leaders see replaced at a time; of others it is told again.
const MENDING_MAX: usize = 16;

/// The damaged replicas of a shard, and what is known of all that it ever had.
#[derive(Debug, Default)]
pub(crate) struct Injured {
    replicas: BTreeMap<RangeId, Damaged>,
    /// Replicas that are about to be among them.
    ending: BTreeSet<RangeId>,
    /// Which of them was told of last: there may be more than are told of at a time.
    told: RangeId,
    /// Damaged replicas of other nodes that this shard's leaders are replacing. One that is to take the place of another may be damaged
    /// before it has done so: then it is the one to be replaced.
    mending: BTreeMap<RangeId, ReplicaId>,
    /// The life that is written of each range.
    pub(crate) lives: BTreeMap<RangeId, u32>,
    /// Ranges whose life is being written.
    pub(crate) naming: BTreeSet<RangeId>,
}

/// A damaged replica.
#[derive(Debug)]
struct Damaged {
    noted: Noted,
    /// Its files are here still.
    has_files: bool,
    /// Its end is being carried out.
    is_ending: bool,
    /// Its group wants nothing more of it.
    is_settled: bool,
    tell_at: Instant,
    pause: Duration,
}

impl Damaged {
    fn new(noted: Noted, has_files: bool, now: Instant) -> Self {
        Self {
            noted,
            has_files,
            is_ending: false,
            is_settled: false,
            tell_at: now,
            pause: TELL_AGAIN.0,
        }
    }
}

impl Injured {
    /// As a start found it. `gone` are the graves.
    pub(crate) fn new(
        noted: BTreeMap<RangeId, Noted>,
        lives: BTreeMap<RangeId, u32>,
        gone: &BTreeMap<RangeId, u32>,
        now: Instant,
    ) -> Self {
        let damaged = |(range, noted): (RangeId, Noted)| {
            let has_files = gone.get(&range).is_none_or(|life| *life < noted.life);
            (range, Damaged::new(noted, has_files, now))
        };
        Self {
            replicas: noted.into_iter().map(damaged).collect(),
            lives,
            ..Self::default()
        }
    }

    /// The life of the range's damaged replica while its files are here: nothing of the range is taken up before they are gone.
    pub(crate) fn holds(&self, range: RangeId) -> Option<u32> {
        let damaged = self.replicas.get(&range)?;
        damaged.has_files.then_some(damaged.noted.life)
    }

    /// Whether the range's replica is about to end, or has ended.
    pub(crate) fn is_ending(&self, range: RangeId) -> bool {
        self.ending.contains(&range) || self.holds(range).is_some()
    }

    /// Whether what is said to that replica of the range is said to a damaged one of this shard, or waits for its files to go.
    pub(crate) fn concerns(&self, range: RangeId, to: ReplicaId) -> bool {
        let damaged = self.replicas.get(&range);
        damaged.is_some_and(|damaged| damaged.has_files || life_of(to) <= damaged.noted.life)
    }

    /// The range's replica of this life, if it is the one that is noted.
    fn noted_as(&mut self, range: RangeId, life: u32) -> Option<&mut Damaged> {
        let damaged = self.replicas.get_mut(&range);
        damaged.filter(|damaged| damaged.noted.life == life)
    }

    /// Those that others are to be told of now, at most [`TELL_MAX`], with their lives; each in its turn.
    fn due(&mut self, now: Instant) -> Vec<(RangeId, u32)> {
        let next = RangeId(self.told.0 + 1);
        let all = self.replicas.range(next..).chain(self.replicas.range(..next));
        let is_due = |(_, damaged): &(&RangeId, &Damaged)| damaged.tell_at <= now;
        let due = all.filter(is_due).take(TELL_MAX);
        let due: Vec<_> = due.map(|(range, damaged)| (*range, damaged.noted.life)).collect();
        for (range, _) in &due {
            let damaged = self.replicas.get_mut(range).expect("it was found there");
            damaged.tell_at = now + damaged.pause;
            damaged.pause = (damaged.pause * 2).min(TELL_AGAIN.1);
            self.told = *range;
        }
        due
    }

    /// What was found, by range, of replicas that are not replaced yet.
    pub(crate) fn findings(&self) -> impl Iterator<Item = (RangeId, String)> {
        self.replicas.iter().map(|(range, damaged)| {
            let Noted { life, what } = &damaged.noted;
            let stage = if damaged.has_files {
                "waits for its group to remove it"
            } else {
                "was removed, and another one waits for the state"
            };
            (*range, format!("{what}; the replica (life {life}) {stage}"))
        })
    }
}

/// What comes next on the way to a new replica in the place of a damaged one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// This change of the members.
    Change(Vec<MemberChange>),
    /// The new replica has to catch up.
    Wait,
    /// The group wants nothing more.
    Done,
}

/// What comes next so that a later replica of its node takes the place of `damaged`. No member has a greater life than `lives`.
fn next(
    members: &Membership,
    lives: u32,
    damaged: ReplicaId,
    has_caught_up: impl Fn(ReplicaId) -> bool,
) -> Next {
    let node = node_of(damaged);
    if members.contains(damaged) {
        // In one entry: whoever leads next sees that the node is to have another one.
        return Next::Change(vec![
            MemberChange::Remove(damaged),
            MemberChange::Learner(replica_on(node, lives + 1)),
        ]);
    }
    let later = |replica: &ReplicaId| node_of(*replica) == node && life_of(*replica) > life_of(damaged);
    match members.learners().iter().copied().find(later) {
        Some(learner) if has_caught_up(learner) => Next::Change(vec![MemberChange::Voter(learner)]),
        Some(_) => Next::Wait,
        None => Next::Done,
    }
}

impl<E: Env, B> State<E, B> {
    /// Something of a range's files is not what was written. A replica that has others beside it ends.
    pub(crate) fn on_damage(&mut self, range: RangeId, what: String) {
        let has_peers = match self.local(range) {
            Some(local) if !local.seat.leaving => local.has_peers(),
            Some(_) | None => return,
        };
        if !has_peers {
            self.damage.insert(range, what);
        } else if self.injured.ending.insert(range) {
            self.damage.insert(range, what.clone());
            self.jobs.push(Job::EndDamaged { range, what });
        }
    }

    /// State that the group in `slot` has taken up cannot be installed: there is nothing to go on from, and the replica ends.
    pub(crate) fn on_failed_install(&mut self, slot: u32, what: String) {
        let seat = self.seat_of(slot);
        seat.writes -= u32::try_from(core::mem::take(&mut seat.held).len()).expect("few writes are held");
        seat.installing = false;
        // Nothing that builds on the state is written.
        seat.unmarked = true;
        let range = seat.range;
        if let Some(local) = self.slots[slot as usize].live() {
            local.busy.set(false);
        }
        self.end_receiving(range);
        if self.injured.ending.insert(range) {
            self.damage.insert(range, what.clone());
            self.jobs.push(Job::EndDamaged { range, what });
        }
    }

    /// The log has something of a range that is not what was written. What counts of it is in memory, too, so the replica goes on; a
    /// start would miss it.
    pub(crate) fn on_log_damage(&mut self, range: RangeId, error: &log::LogError) {
        let is_damage = matches!(error, log::LogError::Corruption(_));
        let what = if is_damage && self.has_peers(range) {
            format!("{error}; a start of this node replaces what is damaged from other nodes")
        } else {
            error.to_string()
        };
        self.damage.insert(range, what);
    }

    /// Whether others vote in the range, who have what is damaged here.
    pub(crate) fn has_peers(&self, range: RangeId) -> bool {
        self.local(range).is_some_and(Local::has_peers)
    }

    /// What a client is told whose read met what storage says.
    pub(crate) fn storage_refusal(&mut self, range: RangeId, error: &StorageError) -> Refusal {
        base::sometimes!("node: read failed on disk");
        let refusal = Refusal::storage(error);
        if !matches!(error, StorageError::Corruption(_)) {
            return refusal;
        }
        self.on_damage(range, error.to_string());
        if self.local(range).is_some_and(|local| !local.has_peers()) {
            return refusal;
        }
        base::sometimes!("node: a read met damage");
        let message = format!("the replica of range {range} on this node is damaged and being replaced");
        Refusal::retry(Code::NotLeader, 10, message).about_range(range)
    }

    /// Who is to lead in the place of the range's damaged replica: who lacks least.
    fn heir(&self, range: RangeId) -> Option<ReplicaId> {
        let local = self.local(range).filter(|local| local.leads())?;
        let raft = &local.seat.raft;
        let others = raft.membership().voters().iter().copied();
        others
            .filter(|voter| *voter != raft.id())
            .max_by_key(|voter| raft.matched(*voter))
    }

    /// The range goes to another shard, where its files are read again: what was found of it here is found there.
    pub(crate) fn forget_finding(&mut self, range: RangeId) {
        let was_ending = self.injured.ending.remove(&range);
        base::sometimes!(
            "node: a range moved before its damaged replica could end",
            was_ending
        );
        self.damage.remove(&range);
    }

    /// Whether a move works on the range, which gives up or takes it elsewhere.
    fn is_moving(&self, range: RangeId) -> bool {
        let slot = self.here.get(&range);
        let local = slot.and_then(|slot| self.slots[*slot as usize].live());
        local.is_some_and(|local| local.moving)
    }

    /// From here on the range's replica takes part in nothing.
    fn begin_end(&mut self, range: RangeId) -> Option<ReplicaId> {
        self.close_batch();
        let slot = self.here.get(&range).or_else(|| self.strangers.get(&range));
        let slot = *slot?;
        let seat = self.slots[slot as usize].seat_mut()?;
        if core::mem::replace(&mut seat.leaving, true) {
            return None;
        }
        let replica = seat.raft.id();
        if self.slots[slot as usize].live().is_some_and(|local| local.led) {
            base::sometimes!("node: a damaged replica led to its end");
            self.step_down(slot);
        }
        Some(replica)
    }

    /// A replica of a range on another node is damaged. If this one leads, it sees to a new one.
    pub(crate) fn on_claim(&mut self, range: RangeId, damaged: ReplicaId) {
        let Some(&slot) = self.here.get(&range) else {
            return;
        };
        let wall_ns = self.env.clock().wall_ns();
        let Some(local) = self.slots[slot as usize].live() else {
            return;
        };
        if local.seat.leaving || !self.leads_now(local, wall_ns) {
            return;
        }
        let group = local.replica.group();
        let has_removed = group.has_removed(damaged);
        if !has_removed && !group.applied.membership.contains(damaged) {
            return;
        }
        let is_done = next(&group.applied.membership, group.lives, damaged, |_| false) == Next::Done;
        if has_removed {
            self.say_removed(slot, damaged);
        }
        if is_done {
            self.say_settled(slot, damaged);
        } else if let Some(mended) = self.injured.mending.get_mut(&range)
            && node_of(*mended) == node_of(damaged)
        {
            *mended = (*mended).max(damaged);
        } else if self.injured.mending.len() >= MENDING_MAX {
            base::sometimes!("node: many damaged replicas are replaced already");
        } else if self.placing.insert(range) {
            self.injured.mending.insert(range, damaged);
            self.jobs.push(Job::Mend(range));
        }
    }

    fn say_settled(&mut self, slot: u32, damaged: ReplicaId) {
        let local = self.live_mut(slot);
        let who = (local.range, local.seat.raft.id(), damaged);
        self.say_at(who, Mark { term: 0, index: 0 }, TransferStep::Settled);
    }

    /// Takes the next step towards a new replica. When to look for more to do here, if there may be.
    fn advance_mend(&mut self, range: RangeId) -> Option<Duration> {
        let damaged = *self.injured.mending.get(&range)?;
        // Commands that have their index come first.
        self.close_batch();
        let slot = *self.here.get(&range)?;
        let local = self.slots[slot as usize].live().filter(|local| local.leads())?;
        let members = Arc::clone(local.seat.raft.membership());
        let group = local.replica.group();
        let is_held = local.replica.is_blocked() || local.replica.is_merging();
        if *members != *group.applied.membership || members.is_joint() || is_held {
            return Some(LOOK_AGAIN);
        }
        match next(&members, group.lives, damaged, |replica| {
            local.has_caught_up(replica)
        }) {
            Next::Change(changes) => {
                base::sometimes!("node: a damaged replica is replaced");
                self.propose_members(slot, &changes);
                Some(LOOK_AGAIN)
            }
            Next::Wait => Some(LOOK_CAUGHT_UP),
            Next::Done => {
                self.say_settled(slot, damaged);
                None
            }
        }
    }

    /// The group has removed a replica of this node: if it is the damaged one, its files may go.
    pub(crate) fn on_damaged_removed(&mut self, range: RangeId, removed: ReplicaId) {
        let me = self.identity.node;
        if let Some(damaged) = self.injured.replicas.get_mut(&range)
            && node_of(removed) == me
            && life_of(removed) >= damaged.noted.life
            && damaged.has_files
            && !core::mem::replace(&mut damaged.is_ending, true)
        {
            let life = damaged.noted.life;
            self.jobs.push(Job::DropDamaged { range, life });
        }
    }

    /// The group of a damaged replica wants nothing more of it.
    pub(crate) fn on_settled(&mut self, range: RangeId, damaged: ReplicaId) {
        let me = self.identity.node;
        if let Some(known) = self.injured.replicas.get_mut(&range)
            && damaged == replica_on(me, known.noted.life)
        {
            known.is_settled = true;
            if !core::mem::replace(&mut known.is_ending, true) {
                let life = known.noted.life;
                self.jobs.push(Job::DropDamaged { range, life });
            }
        }
    }

    /// Tells the other nodes of damaged replicas that are not replaced, with growing pauses.
    pub(crate) fn tell_damage(&mut self) {
        let (now, _) = self.clock();
        let Some(neighbours) = &self.neighbours else {
            return;
        };
        let nodes: Vec<NodeId> = neighbours.others().map(|member| member.node).collect();
        for (range, life) in self.injured.due(now) {
            let me = replica_on(self.identity.node, life);
            if self.is_replaced(range, life) || self.was_absorbed(range) {
                self.on_settled(range, me);
                continue;
            }
            self.ask_at_home(range, life);
            for node in &nodes {
                let who = (range, me, replica_on(*node, 0));
                self.say_at(who, Mark { term: 0, index: 0 }, TransferStep::Damaged);
            }
        }
    }

    /// Whether a later replica than the damaged one votes here: nobody else may know, if it leads.
    fn is_replaced(&self, range: RangeId, life: u32) -> bool {
        let slot = self.here.get(&range);
        let local = slot.and_then(|slot| self.slots[*slot as usize].live());
        local.is_some_and(|local| {
            let group = local.replica.group();
            life_of(group.id) > life && group.applied.membership.voters().contains(&group.id)
        })
    }

    /// Asks the shard of this node that has the later replica of a range, if one has, whether it votes: nobody else tells this node.
    fn ask_at_home(&mut self, range: RangeId, life: u32) {
        let there = self.map.get(range).map(|entry| entry.shard);
        if let Some(shard) = there.filter(|shard| *shard != self.me)
            && self.injured.holds(range).is_none()
            && self.may_hand_on(shard, 0)
        {
            self.send(shard, ShardMessage::AskReplaced { range, life });
        }
    }

    /// Another shard of this node has a note of a replica that was removed.
    pub(crate) fn on_ask_replaced(&mut self, from: ShardId, range: RangeId, life: u32) {
        if self.is_replaced(range, life) {
            self.send(from, ShardMessage::Replaced { range, life });
        }
    }

    /// A later replica votes on another shard of this node.
    pub(crate) fn on_replaced(&mut self, range: RangeId, life: u32) {
        // Never one whose files are here: they would go.
        if self.injured.holds(range).is_none() {
            base::sometimes!("node: another shard has the replica in the place of a damaged one");
            self.on_settled(range, replica_on(self.identity.node, life));
        }
    }

    /// Whether the log is kept by entries of a replica that is damaged: then they go. Its tables stay.
    pub(crate) fn release_log(&mut self, pinning: RangeId) {
        if self.injured.replicas.contains_key(&pinning) && !self.here.contains_key(&pinning) {
            base::sometimes!("node: a full log lets go of a damaged replica");
            self.log.forget(pinning);
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Ends a damaged replica. Its files stay.
    pub(crate) async fn end_damaged(&self, range: RangeId, what: String) {
        while self.with_state(|state| state.is_moving(range)) {
            self.env.clock().sleep(LOOK_AGAIN).await;
        }
        if !self.with_state(|state| state.injured.ending.contains(&range)) {
            return;
        }
        if let Some(to) = self.with_state(|state| state.heir(range)) {
            base::sometimes!("node: a damaged leader hands over");
            self.hand_over(range, to).await;
        }
        let Some(replica) = self.step(|state| state.begin_end(range)) else {
            self.with_state(|state| state.injured.ending.remove(&range));
            return;
        };
        let noted = Noted {
            life: life_of(replica),
            what,
        };
        let me = self.mailbox.shard();
        if let Err(error) = damage_note::note(&self.env, me, range, &noted).await {
            return self.fail(format!(
                "that range {range} is damaged could not be noted: {error}"
            ));
        }
        loop {
            match self.step(|state| state.take_out(range)) {
                // Its tablet is closed: what may still be read of it is on the disk.
                Leaving::Out(..) | Leaving::Nothing => break,
                Leaving::Waits => self.env.clock().sleep(LOOK_AGAIN).await,
            }
        }
        base::sometimes!("node: a damaged replica ended");
        let now = self.now();
        self.step(|state| {
            state.injured.ending.remove(&range);
            state.damage.remove(&range);
            let damaged = Damaged::new(noted, true, now);
            state.injured.replicas.insert(range, damaged);
            state.tell_damage();
        });
    }

    /// Carries out what the group of a damaged replica has said: its files go, and when nothing more is wanted, the note.
    pub(crate) async fn drop_damaged(&self, range: RangeId, life: u32) {
        let held = self.step(|state| {
            // A later one may have become damaged meanwhile: that is another matter.
            let life = state.injured.holds(range).filter(|held| *held == life)?;
            let grave = state.gone.entry(range).or_default();
            *grave = life.max(*grave);
            state.removing.insert(range, None);
            Some(life)
        });
        if let Some(life) = held
            && let Err(reason) = self.erase_damaged(range, life).await
        {
            return self.fail(format!(
                "the damaged replica of range {range} could not be removed: {reason}"
            ));
        }
        let is_settled = self.step(|state| {
            state.removing.remove(&range);
            state.counts.removed += u64::from(held.is_some());
            let Some(damaged) = state.injured.noted_as(range, life) else {
                return false;
            };
            (damaged.has_files, damaged.is_ending) = (false, false);
            damaged.pause = TELL_AGAIN.0;
            let is_settled = damaged.is_settled;
            if held.is_some() {
                state.say_place_free(range);
            }
            is_settled
        });
        if !is_settled {
            return;
        }
        let me = self.mailbox.shard();
        if let Err(error) = damage_note::take_back(&self.env, me, range, life).await {
            return self.fail(format!(
                "the note of damage of range {range} could not be removed: {error}"
            ));
        }
        base::sometimes!("node: a damaged replica was replaced");
        let is_last = self.step(|state| {
            if state.injured.noted_as(range, life).is_some() {
                state.injured.replicas.remove(&range);
            }
            state.injured.replicas.is_empty()
        });
        if is_last && let Err(error) = damage_note::remove_set_aside(&self.env, me).await {
            self.fail(format!("a log that was set aside could not be removed: {error}"));
        }
    }

    /// A range that another shard has handed over is damaged: its replica ends here, as one that was served does.
    pub(crate) async fn arrive_damaged(&self, slot: u32, entry: RangeEntry, life: u32, what: String) {
        let range = entry.descriptor.range;
        let noted = Noted { life, what };
        if let Err(error) = damage_note::note(&self.env, self.mailbox.shard(), range, &noted).await {
            return self.fail(format!(
                "that range {range} is damaged could not be noted: {error}"
            ));
        }
        base::sometimes!("node: a range that moved was found to be damaged");
        // While shard 0 takes it to be where it was, it would not believe this shard that the place is free again.
        if self.edit_map(vec![entry]).await.is_err() {
            return;
        }
        let now = self.now();
        self.step(|state| {
            let content = core::mem::replace(&mut state.slots[slot as usize], Slot::Free);
            if let Slot::Opening(_, waiting) = content {
                for request in waiting {
                    state.refuse(request.origin, &Refusal::not_here());
                }
            }
            state.map.remove(range);
            state.update_routes();
            let damaged = Damaged::new(noted, true, now);
            state.injured.replicas.insert(range, damaged);
            state.tell_damage();
        });
    }

    /// Order: as of any replica that was removed, see `removal`.
    async fn erase_damaged(&self, range: RangeId, life: u32) -> Result<(), String> {
        let me = self.mailbox.shard();
        let text = |error: &dyn core::fmt::Display| error.to_string();
        let buried = marker::bury(&self.env, range, life).await;
        buried.map_err(|error| text(&error))?;
        self.tell_gone(range, life).await;
        let (log, seqno) = self.step(|state| (state.log.clone(), state.log.forget(range)));
        self.wait_durable(&log, seqno).await?;
        match marker::remove(&self.env, me, range).await {
            Err(error) if error.kind != ErrorKind::NotFound => return Err(error.to_string()),
            Ok(()) | Err(_) => {}
        }
        let storage = self.with_state(|state| state.storage.clone());
        let destroyed = Tablet::destroy_closed(&storage, range).await;
        destroyed.map_err(|error| text(&error))?;
        let forgotten = damage_note::forget_lives(&self.env, range, life).await;
        forgotten.map_err(|error| text(&error))
    }

    /// Sees to a new replica in the place of a damaged one, while this node leads. The range is among those that are placed.
    pub(crate) async fn mend(&self, range: RangeId) {
        let deadline = self.now() + MEND_MAX;
        while self.now() < deadline
            && let Some(pause) = self.step(|state| state.advance_mend(range))
        {
            self.env.clock().sleep(pause).await;
        }
        self.with_state(|state| {
            state.injured.mending.remove(&range);
            state.placing.remove(&range);
        });
    }

    /// Writes the life of a replica that is heard of for the first time, then takes what it was told.
    pub(crate) async fn name_life(&self, letter: Letter, caller: Peer) {
        let (range, life) = (letter.range, life_of(letter.to));
        if let Err(error) = damage_note::write_life(&self.env, range, life).await {
            return self.fail(format!("the life of range {range} could not be written: {error}"));
        }
        self.step(|state| {
            state.injured.naming.remove(&range);
            state.injured.lives.insert(range, life);
            // Its sender was checked when it came; what cannot be is dropped.
            let _ = state.on_letter(letter, caller, 0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(node: u64, life: u32) -> ReplicaId {
        replica_on(NodeId(node), life)
    }

    fn after(members: &Membership, step: &Next) -> Membership {
        match step {
            Next::Change(changes) => members.simple(changes).expect("one voter changes"),
            Next::Wait | Next::Done => unreachable!("a change was wanted"),
        }
    }

    #[test]
    fn a_damaged_replica_is_replaced_by_a_later_one_of_its_node() {
        let members = Membership::of_voters([on(1, 0), on(2, 0), on(3, 0)]);
        let first = next(&members, 4, on(3, 0), |_| false);
        let changes = vec![MemberChange::Remove(on(3, 0)), MemberChange::Learner(on(3, 5))];
        assert_eq!(first, Next::Change(changes));
        let members = after(&members, &first);
        assert_eq!(next(&members, 5, on(3, 0), |_| false), Next::Wait);
        let second = next(&members, 5, on(3, 0), |_| true);
        assert_eq!(second, Next::Change(vec![MemberChange::Voter(on(3, 5))]));
        let members = after(&members, &second);
        assert_eq!(next(&members, 5, on(3, 0), |_| true), Next::Done);
        assert_eq!(members.voters(), [on(1, 0), on(2, 0), on(3, 5)]);
    }

    #[test]
    fn many_damaged_replicas_are_told_of_in_their_turns() {
        let noted = |range| {
            let what = String::new();
            (RangeId(range), Noted { life: 1, what })
        };
        let noted = (10..210).map(noted).collect();
        let mut injured = Injured::new(noted, BTreeMap::new(), &BTreeMap::new(), Instant(0));
        let mut told = BTreeSet::new();
        for round in 0..4u64 {
            // All of them are due again each time.
            let due = injured.due(Instant(round * 60_000_000_000));
            assert_eq!(due.len(), TELL_MAX);
            told.extend(due);
        }
        assert_eq!(told.len(), 200);
        let soon = Instant(3 * 60_000_000_000 + 1);
        assert_eq!(
            injured.due(soon).len(),
            TELL_MAX,
            "these were told before the last round"
        );
    }

    #[test]
    fn whoever_was_taken_away_meanwhile_gets_no_other_replica() {
        let members = Membership::of_voters([on(1, 0), on(2, 0), on(4, 7)]);
        assert_eq!(next(&members, 7, on(3, 0), |_| true), Next::Done);
    }

    #[test]
    fn a_learner_that_is_damaged_is_replaced_too() {
        let members = Membership::of_voters([on(1, 0)]);
        let members = members
            .simple(&[MemberChange::Learner(on(2, 1))])
            .expect("it is possible");
        let step = next(&members, 1, on(2, 1), |_| false);
        let members = after(&members, &step);
        assert_eq!(
            (members.voters(), members.learners()),
            (&[on(1, 0)][..], &[on(2, 2)][..])
        );
    }
}
