//! Merges of neighbouring ranges: the left one takes the right one's keys over, online.
//!
//! ```text
//!   left's leader:  gather ─► Expect ───────────────────────► gather ─► Absorb │ Refuse
//!   right's leader:            └─► Subsume ─► frozen ─────────┘            │      └─► Thaw
//!   every replica:  one shard, on disk      └─► on disk: "gathered"        └─► left has the keys, right goes
//! ```
//! Each step is an entry of a group's log; a merge is named by the index of its Expect entry in the left range's log.
//!
//! - *Gather*: on every node with a replica both are brought to one shard, and what they have to disk, without what splits have left
//!   of other ranges in their tables. First while both serve, so that little is left to do when the right one stands still.
//! - *Expect*: from here on the left range is neither split nor moved, and its members stay. Whoever leads it next knows of the merge.
//! - *Subsume*: the right range freezes: it takes no writes, its leader serves no reads and closes nothing more. Nothing that it has
//!   shown to readers lies above this entry's timestamp, for it stops when it proposes it.
//! - *Absorb* is proposed when every replica of the right range is known to have frozen by this merge, durably: not a quorum, all of
//!   them. So a replica of the left range that applies the entry has everything of the right one beside it: see `absorb`.
//! - *Refuse* is what every leader of the left range proposes that finds a merge which it does not carry out itself. Of Absorb and
//!   Refuse the first one in the log counts.
//! - *Thaw* is proposed by the right range's leader once it has seen that the merge was refused: in what a replica of the left range
//!   has applied, on this node or on another one. It never goes on unasked. The left range's state says how its last merge ended, and it
//!   begins no other one, and stays on its shard, while a range on one of its nodes is still frozen by it.
//!
//! Invariants:
//! - The keys of the right range are served by it, or by the left range, or by nobody: never by both.
//! - A merge absorbs only what every replica of the right range has; and none of these has anything that the others lack, since none
//!   takes a write after Subsume.
//! - Timestamps of the left range after Absorb lie above all that the right one has shown or closed.
//! - While a merge is under way both ranges have the members, and on each node the shard, that they had when they were gathered.
//! - A replica that its group had removed, and that has not heard of it when the range is absorbed, asks all nodes and goes: see
//!   `ask_for_lost`.
//! - A range that was absorbed never comes back: its grave on every node that had it is that of its last life, for ever. Whoever speaks
//!   of it there is told that it was removed; a note of damage to it is settled.
//!
//! What fails on the way (a node that is down, a damaged replica, a leader that changes) ends in Refuse, after [`FROZEN_MAX`] at the
//! latest where the left range has a quorum.

mod absorb;
mod progress;

use crate::local::{Local, Seat};
use crate::message::{Origin, RawRequest, ShardMessage};
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, State, Then};
use crate::version::Version;
pub(crate) use absorb::{absorbs, bury_absorbed};
use base::{Index, NodeId, RangeId, ReplicaId, ShardId};
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox};
use progress::{Look, Next, Side, next};
use replica::command::MergeStep;
use replica::group::{node_of, replica_on};
use replica::replica::Merging;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::Code;
use wire::peer::{ArchivedTransferStep, Mark, TransferStep};
use wire::reply::MergeReply;
use wire::request::ArchivedMerge;

/// How often is looked what comes next.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often other nodes are asked whether they have gathered, and for leadership.
const ASK_AGAIN: Duration = Duration::from_millis(30);
/// How long a merge may take once it has begun; then it is refused.
const FROZEN_MAX: Duration = Duration::from_secs(3);
/// How often is looked what became of merges, and other nodes are asked.
const FATE_AGAIN: Duration = Duration::from_millis(100);
/// How often other nodes are asked what became of ranges whose replicas here may have been removed, and of how many at a time.
const LOST_AGAIN: Duration = Duration::from_secs(2);
const LOST_MAX: usize = 64;
/// How many are looked at for it at a time.
const LOST_LOOKS_MAX: usize = 256;
/// How long a merge is tried to begin: what nodes have begun to bring to disk by then they finish, and the next try finds it.
const BEGIN_MAX: Duration = Duration::from_secs(2);
/// How long a range that is gathered waits for what works on it.
const GATHER_MAX: Duration = Duration::from_secs(5);
/// A memtable larger than this is flushed when a range is gathered.
const FLUSH_FIRST_BYTES: usize = 64 << 10;
/// The grave of a range that was absorbed: no life is greater.
pub(crate) const ABSORBED: u32 = u32::MAX;

/// The merges of a shard.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    /// Those that leaders here carry out, by left range.
    running: BTreeMap<RangeId, Running>,
    /// Ranges here that take part in one.
    pub(crate) open: BTreeSet<RangeId>,
    /// Slots of ranges of whose merge something may be to be proposed.
    pub(crate) due: Vec<u32>,
    /// Right ranges that are being gathered.
    gathering: BTreeSet<RangeId>,
    /// Merges of frozen ranges that were refused, as other nodes say.
    refused: BTreeSet<(RangeId, Index)>,
    /// When other nodes are asked again what became of ranges whose replicas here may have been removed.
    lost_at: Instant,
    /// The slot that was looked at last: there may be more than are asked for at a time.
    lost: usize,
    /// When other nodes are asked again what became of merges.
    ask_at: Instant,
}

/// A merge that is carried out.
#[derive(Debug)]
struct Running {
    right: RangeId,
    /// Zero before it has begun.
    merge: Index,
    /// Who has gathered for it.
    gathered: BTreeSet<NodeId>,
    ask_at: Instant,
    /// When it began, if it has.
    began: Option<Instant>,
}

/// What became of a merge, as a replica of the left range knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing yet, or this replica lags.
    Open,
    Refused,
    /// So the range that was frozen by it is no more.
    Absorbed,
    /// There is no replica here that knows.
    Unknown,
}

/// How far a merge has come.
enum Progress {
    Waits(&'static str),
    /// The version of the map that knows is asked for.
    Done,
    Refused(Refusal),
}

impl<E: Env, B> State<E, B> {
    pub(crate) fn on_merge(&mut self, merge: &ArchivedMerge, raw: RawRequest<'_>) {
        let (range, right) = (RangeId(merge.range.to_native()), RangeId(merge.right.to_native()));
        match self.map.get(range).map(|entry| entry.shard) {
            Some(shard) if shard != self.me => return self.forward(shard, raw),
            Some(_) => {}
            None => {
                let refusal = self.no_replica(range);
                return self.refuse(raw.origin, &refusal);
            }
        }
        self.jobs.push(Job::Merge {
            origin: raw.origin,
            range,
            right,
            deadline: raw.received + Duration::from_millis(merge.deadline_ms.to_native().into()),
        });
    }

    /// Why a request for a range that is not on this node is not carried out here.
    pub(crate) fn no_replica(&self, range: RangeId) -> Refusal {
        let refusal = if self.was_absorbed(range) {
            let message =
                format!("there is no range {range} any more: it was merged with its left neighbour");
            Refusal::fatal(Code::NoSuchRange, message)
        } else if self.neighbours.is_none() {
            Refusal::fatal(Code::NoSuchRange, format!("there is no range {range}"))
        } else {
            let message = format!("range {range} has no replica on this node");
            Refusal::retry(Code::NotLeader, 1, message)
        };
        refusal.about_range(range)
    }

    /// Whether a range was absorbed by its left neighbour, as this node knows.
    pub(crate) fn was_absorbed(&self, range: RangeId) -> bool {
        self.gone.get(&range) == Some(&ABSORBED)
    }

    // ---- the left range's leader ----

    /// Takes the next step of a merge, if one can be taken now.
    fn advance_merge(&mut self, left: RangeId, right: RangeId) -> Progress {
        // Commands that have their index come first.
        self.close_batch();
        let Some(&slot) = self.here.get(&left) else {
            if self.map.get(left).is_none() {
                return Progress::Refused(self.no_replica(left));
            }
            let message = "the range has just moved to another shard";
            return Progress::Refused(Refusal::retry(Code::WrongShard, 1, message));
        };
        let Some(local) = self.slots[slot as usize].live() else {
            return Progress::Waits("the range is on its way to another shard");
        };
        if !local.leads() {
            let known = self.led_elsewhere(slot);
            return known.map_or(Progress::Waits("nobody leads the range"), Progress::Refused);
        }
        let is_open = local.replica.has_open_step();
        let (merging, end) = (
            local.replica.merging(),
            local.replica.descriptor().span.end.clone(),
        );
        let now = self.env.clock().now();
        let running = self.merges.running.get_mut(&left).expect("it is carried out");
        if let Merging::Expects { merge, .. } = merging
            && running.merge != merge
        {
            running.merge = merge;
            running.gathered.clear();
            running.ask_at = now;
            running.began = Some(now);
        }
        if self.was_absorbed(right) {
            return Progress::Done;
        }
        let running = &self.merges.running[&left];
        if is_open {
            return Progress::Waits("what was proposed is not committed");
        }
        if running.began.is_some_and(|began| now.since(began) >= FROZEN_MAX)
            || merging == Merging::Nothing && running.began.is_some()
        {
            let message = "not every node with a replica got ready in time: both ranges stay as they were";
            return Progress::Refused(Refusal::retry(Code::RangeBusy, 100, message));
        }
        let Some(entry) = self.map.get(right) else {
            let message = format!(
                "range {right} has no replica on this node: the replicas of both ranges must be on the same nodes"
            );
            return Progress::Refused(Refusal::fatal(Code::InvalidRequest, message));
        };
        if end.as_deref() != Some(&*entry.descriptor.span.start) {
            let message = format!("range {right} is not the right neighbour of range {left}");
            return Progress::Refused(Refusal::fatal(Code::InvalidRequest, message));
        }
        let ours = self.side(slot);
        let theirs = self.here.get(&right).copied();
        let theirs = theirs.filter(|slot| self.slots[*slot as usize].live().is_some());
        let (Some(ours), Some(right_slot)) = (ours, theirs) else {
            if merging == Merging::Nothing {
                self.gather(left, right, Index::ZERO);
            }
            return Progress::Waits("the ranges are on different shards");
        };
        let Some(theirs) = self.side(right_slot) else {
            return Progress::Waits("a range is being moved, or its members change");
        };
        let is_gathered = self.have_all_gathered(left, right, &ours.nodes);
        let look = Look {
            left: ours,
            right: theirs,
            is_gathered,
        };
        match next(&look, left, right) {
            Next::Wait(why) => Progress::Waits(why),
            Next::Unlike => {
                let message = format!(
                    "the replicas of range {left} are on {}, those of range {right} on {}: place them on the same nodes first",
                    names(&look.left.nodes),
                    names(&look.right.nodes)
                );
                Progress::Refused(Refusal::fatal(Code::InvalidRequest, message))
            }
            Next::Lead => {
                self.ask_for_lead(left, right_slot);
                Progress::Waits("the right range is led by another node")
            }
            Next::Gather(merge) => {
                self.gather(left, right, merge);
                Progress::Waits("not every node with a replica is ready")
            }
            Next::Left(step) => {
                if let MergeStep::Absorb { .. } = step {
                    // What it may have shown to readers lies below.
                    let last_ts = self.live_mut(right_slot).replica.last_ts();
                    self.raise_clock(last_ts);
                }
                self.propose_step(slot, step);
                Progress::Waits("what was proposed is not committed")
            }
            Next::Right(step) => {
                // Reads that came before see what they must.
                self.answer_gets();
                self.propose_step(right_slot, step);
                self.watch_closed(right_slot);
                Progress::Waits("the right range has to stand still")
            }
        }
    }

    /// A range here as a merge sees it; `None` while it is moved, damaged, or its members change.
    fn side(&self, slot: u32) -> Option<Side> {
        let local = self.slots[slot as usize].live()?;
        let members = local.seat.raft.membership();
        let is_settled = *local.replica.group().applied.membership == **members
            && !members.is_joint()
            && members.learners().is_empty();
        let is_still = !local.moving
            && !local.seat.leaving
            && !local.seat.installing
            && !self.injured.is_ending(local.range)
            && !self.damage.contains_key(&local.range);
        let mut nodes: Vec<_> = members.voters().iter().map(|voter| node_of(*voter)).collect();
        nodes.sort_unstable();
        let descriptor = local.replica.descriptor();
        (is_settled && is_still).then(|| Side {
            nodes,
            leads: local.leads(),
            takes_steps: local.leads() && local.replica.takes_steps() && !local.seat.raft.is_transferring(),
            merging: local.replica.merging(),
            generation: descriptor.generation,
        })
    }

    /// Whether the nodes have gathered for the merge as it is.
    fn have_all_gathered(&self, left: RangeId, right: RangeId, nodes: &[NodeId]) -> bool {
        let Running { gathered, merge, .. } = &self.merges.running[&left];
        let me = self.identity.node;
        let has = |node: &&NodeId| match **node {
            node if node == me || self.neighbours.is_none() => self.has_gathered(left, right, *merge),
            node => gathered.contains(&node),
        };
        if base::planted_bug!("node-merge-waits-for-a-quorum") {
            return nodes.iter().filter(has).count() > nodes.len() / 2;
        }
        nodes.iter().all(|node| has(&node))
    }

    /// Asks all nodes with replicas to gather, this one included.
    fn gather(&mut self, left: RangeId, right: RangeId, merge: Index) {
        let now = self.env.clock().now();
        let running = self.merges.running.get_mut(&left).expect("it is carried out");
        if now < running.ask_at {
            return;
        }
        running.ask_at = now + ASK_AGAIN;
        let slot = self.here[&left];
        let seat = &self.live_mut(slot).seat;
        let (me, members) = (seat.raft.id(), Arc::clone(seat.raft.membership()));
        for other in members.voters().iter().filter(|voter| **voter != me) {
            let (right, merge) = (right.0, merge.0);
            self.say_at((left, me, *other), NO_MARK, TransferStep::Gather { right, merge });
        }
        self.gather_here(left, right, merge);
    }

    /// Asks whoever leads the right range to let this node do so.
    fn ask_for_lead(&mut self, left: RangeId, right_slot: u32) {
        let now = self.env.clock().now();
        let running = self.merges.running.get_mut(&left).expect("it is carried out");
        if now < running.ask_at {
            return;
        }
        running.ask_at = now + ASK_AGAIN;
        let seat = &self.live_mut(right_slot).seat;
        let (range, me, leader) = (seat.range, seat.raft.id(), seat.raft.leader());
        if let Some(leader) = leader.filter(|leader| *leader != me) {
            self.say_at((range, me, leader), NO_MARK, TransferStep::Yield);
        }
    }

    // ---- every replica ----

    /// Whether both ranges are here, and on disk, as the merge needs them.
    fn has_gathered(&self, left: RangeId, right: RangeId, merge: Index) -> bool {
        let [Some(ours), Some(theirs)] = [self.local(left), self.local(right)] else {
            return false;
        };
        let is_sound = |local: &Local<E>| {
            !local.seat.leaving
                && !local.moving
                && !local.seat.installing
                && !local.tablet.waits_for_split()
                && !local.split_open
                && !self.injured.is_ending(local.range)
                && !self.damage.contains_key(&local.range)
                && local.tablet.is_tidy()
        };
        let is_frozen = || {
            let frozen = theirs.replica.merging();
            matches!(frozen, Merging::Frozen { left: l, merge: m, .. } if (l, m) == (left, merge))
                && theirs.tablet.flushed_index() == theirs.tablet.applied_index()
                && ours.replica.expects(right, merge)
        };
        !self.has_frozen_by([left, right], Some((right, merge)))
            && is_sound(ours)
            && is_sound(theirs)
            && (merge == Index::ZERO || is_frozen())
    }

    /// Sees to it that both ranges are as a merge needs them.
    fn gather_here(&mut self, left: RangeId, right: RangeId, merge: Index) {
        if !self.has_gathered(left, right, merge) && self.merges.gathering.insert(right) {
            self.jobs.push(Job::Gather { left, right });
        }
    }

    /// Takes what another replica says of a merge.
    pub(crate) fn on_merge_word(
        &mut self,
        (range, from, to): (RangeId, ReplicaId, ReplicaId),
        step: &ArchivedTransferStep<'static>,
    ) {
        if let ArchivedTransferStep::AskFate { right, merge } = step {
            return self.on_ask_fate(range, from, RangeId(right.to_native()), Index(merge.to_native()));
        }
        let Some(&slot) = self.here.get(&range) else {
            return;
        };
        let Some(local) = self.slots[slot as usize].live() else {
            return;
        };
        let raft = &local.seat.raft;
        let is_member = |member: ReplicaId| node_of(member) == node_of(from);
        if raft.id() != to || !raft.membership().members().any(is_member) || local.seat.leaving {
            return;
        }
        match step {
            ArchivedTransferStep::Yield => {
                if local.leads() && !self.placing.contains(&range) {
                    base::sometimes!("node: leadership goes to where a neighbour is led");
                    self.jobs.push(Job::Yield { range, to: from });
                }
            }
            ArchivedTransferStep::Gather { right, merge } => {
                let (right, merge) = (RangeId(right.to_native()), Index(merge.to_native()));
                if self.has_gathered(range, right, merge) {
                    let step = TransferStep::Gathered {
                        right: right.0,
                        merge: merge.0,
                    };
                    self.say_at((range, to, from), NO_MARK, step);
                } else {
                    self.gather_here(range, right, merge);
                }
            }
            ArchivedTransferStep::Gathered { right, merge } => {
                let (right, merge) = (RangeId(right.to_native()), Index(merge.to_native()));
                if let Some(running) = self.merges.running.get_mut(&range)
                    && (running.right, running.merge) == (right, merge)
                {
                    running.gathered.insert(node_of(from));
                }
            }
            ArchivedTransferStep::Refused { merge } => {
                let merge = Index(merge.to_native());
                if merge_of(local) == Some(merge) {
                    base::sometimes!("node: a frozen range hears from another node that it thaws");
                    self.merges.refused.insert((range, merge));
                    self.touch(slot);
                }
            }
            _ => unreachable!("other steps are taken elsewhere"),
        }
    }

    /// Answers what is said of a range that was absorbed, by who does not know. Whether it was.
    pub(crate) fn answer_for_absorbed(
        &mut self,
        (range, from, to): (RangeId, ReplicaId, ReplicaId),
        step: &ArchivedTransferStep<'static>,
    ) -> bool {
        if !matches!(step, ArchivedTransferStep::Damaged) || !self.was_absorbed(range) {
            return false;
        }
        base::sometimes!("node: damage of a range that was absorbed is settled");
        self.say_at((range, to, from), NO_MARK, TransferStep::Removed);
        self.say_at((range, to, from), NO_MARK, TransferStep::Settled);
        true
    }

    /// Whether a frozen range stays although it is said to be removed: its left neighbour here is to take it over.
    pub(crate) fn is_to_be_absorbed(&self, slot: u32) -> bool {
        let local = self.slots[slot as usize].live();
        local.is_some_and(|local| self.fate(local) == Fate::Open)
    }

    /// What became of the merge by which a range is frozen, as the left range's replica here knows.
    fn fate(&self, frozen: &Local<E>) -> Fate {
        match frozen.replica.merging() {
            Merging::Frozen { left, merge, .. } => self.decided(left, frozen.range, merge),
            Merging::Nothing | Merging::Expects { .. } => Fate::Unknown,
        }
    }

    /// What became of a merge, as the left range's replica here knows: only what its log says counts, never that it does not expect
    /// the right range any more. It may have absorbed it and have been split there since.
    fn decided(&self, left: RangeId, right: RangeId, merge: Index) -> Fate {
        let Some(local) = self.local(left).filter(|local| !local.seat.leaving) else {
            return Fate::Unknown;
        };
        let replica = &local.replica;
        if replica.applied_index() < merge || replica.expects(right, merge) {
            return Fate::Open;
        }
        match replica.ended().filter(|ended| ended.merge == merge) {
            Some(ended) if ended.absorbed => Fate::Absorbed,
            Some(_) => Fate::Refused,
            None => Fate::Unknown,
        }
    }

    /// Whether a range here is frozen by one of these, other than by that merge: what became of that has to be known here before they
    /// begin another one, or go elsewhere.
    pub(crate) fn has_frozen_by(&self, by: [RangeId; 2], but: Option<(RangeId, Index)>) -> bool {
        let is_frozen_by = |local: &Local<E>| {
            let merging = local.replica.merging();
            matches!(merging, Merging::Frozen { left, merge, .. }
                if by.contains(&left) && but != Some((local.range, merge)))
        };
        let mut live = self.slots.iter().filter_map(crate::state::Slot::live);
        live.any(is_frozen_by)
    }

    /// Notes whether the range in `slot` takes part in a merge, and whether something is to be proposed for that.
    pub(crate) fn watch_merge(&mut self, slot: u32) {
        let Some(local) = self.slots[slot as usize].live() else {
            return;
        };
        let (range, merging) = (local.range, local.replica.merging());
        if merging == Merging::Nothing {
            if self.merges.open.remove(&range) {
                self.merges.refused.retain(|(of, _)| *of != range);
            }
            return;
        }
        let leads = local.leads() && local.replica.takes_steps() && !local.seat.raft.is_transferring();
        let is_due = leads
            && match merging {
                Merging::Expects { .. } => !self.merges.running.contains_key(&range),
                Merging::Frozen { merge, .. } => {
                    self.fate(local) == Fate::Refused
                        || self.merges.refused.contains(&(range, merge))
                        || base::planted_bug!("node-merge-thaws-unasked")
                }
                Merging::Nothing => false,
            };
        self.merges.open.insert(range);
        let local = self.slots[slot as usize].live().expect("it was looked at");
        if self.fate(local) == Fate::Absorbed && !local.seat.leaving {
            base::sometimes!("node: a frozen range finds that it was absorbed");
            self.gone.insert(range, ABSORBED);
            return self.end_replica(slot);
        }
        if is_due {
            self.merges.due.push(slot);
        }
    }

    /// Proposes that merges end which nobody carries out, and that ranges thaw whose merges were refused.
    pub(crate) fn end_merges(&mut self) {
        for slot in core::mem::take(&mut self.merges.due) {
            let Some(local) = self.slots[slot as usize].live() else {
                continue;
            };
            if !local.leads() || !local.replica.takes_steps() {
                continue;
            }
            let step = match local.replica.merging() {
                Merging::Expects { merge, .. } => MergeStep::Refuse { merge },
                Merging::Frozen { left, merge, .. } => MergeStep::Thaw { left, merge },
                Merging::Nothing => continue,
            };
            base::sometimes!(
                "node: a merge was refused",
                matches!(step, MergeStep::Refuse { .. })
            );
            self.propose_step(slot, step);
        }
    }

    /// Looks after the merges that ranges here take part in, now and then.
    pub(crate) fn mind_merges(&mut self) {
        let now = self.env.clock().now();
        if now >= self.merges.lost_at {
            self.merges.lost_at = now + LOST_AGAIN;
            self.ask_for_lost();
        }
        if self.merges.open.is_empty() {
            return;
        }
        if now < self.merges.ask_at {
            return;
        }
        self.merges.ask_at = now + FATE_AGAIN;
        let mut gone = Vec::new();
        for range in self.merges.open.clone() {
            match self.here.get(&range) {
                None => gone.push(range),
                Some(&slot) if self.slots[slot as usize].live().is_some() => {
                    self.touch(slot);
                    self.ask_fate(slot);
                }
                Some(_) => {}
            }
        }
        for range in gone {
            self.merges.open.remove(&range);
        }
    }

    /// Asks the other nodes what became of the merge by which the range in `slot` is frozen, if it is to know and does not.
    fn ask_fate(&mut self, slot: u32) {
        let local = self.slots[slot as usize].live().expect("it was found");
        let Merging::Frozen { left, merge, .. } = local.replica.merging() else {
            return;
        };
        let fate = self.fate(local);
        let is_known = matches!(fate, Fate::Refused | Fate::Absorbed);
        if local.seat.leaving || is_known || !(local.leads() || fate == Fate::Unknown) {
            return;
        }
        let (range, me) = (local.range, local.seat.raft.id());
        let members = Arc::clone(local.seat.raft.membership());
        for other in members.members().filter(|member| *member != me) {
            let step = TransferStep::AskFate {
                right: range.0,
                merge: merge.0,
            };
            self.say_at((left, me, replica_on(node_of(other), 0)), NO_MARK, step);
        }
    }

    /// Asks after ranges whose replicas here may have been removed. One that its group has removed need not have heard of it, and its
    /// keys would be kept from whoever has them now.
    ///
    /// Of ranges that have learners here, or replicas that know of no leader, all other nodes are asked: a learner says nothing by itself,
    /// all whom a voter knows may have been removed, too, and a group that was absorbed since tells it no more.
    /// A voter that follows a leader says nothing by itself either while that one's node lives, and need not have heard of a later one: it
    /// asks its leader. If that one has removed it, or leads no more, it says so.
    fn ask_for_lost(&mut self) {
        let Some(neighbours) = &self.neighbours else {
            return;
        };
        let nodes: Vec<NodeId> = neighbours.others().map(|member| member.node).collect();
        // Before there were merges no range could be gone as a whole, and nobody knew the question.
        let may_ask_all = self.may_use(Version::MERGES);
        // Each in its turn.
        let count = self.slots.len();
        let (mut asked, mut led) = (Vec::new(), Vec::new());
        for _ in 0..count.min(LOST_LOOKS_MAX) {
            self.merges.lost = (self.merges.lost + 1) % count;
            let live = self.slots[self.merges.lost].live();
            let speaks = |seat: &Seat<E>| !seat.leaving && !seat.silent && !seat.unmarked;
            let Some(local) = live.filter(|local| speaks(&local.seat)) else {
                continue;
            };
            let raft = &local.seat.raft;
            let voters = local.replica.group().applied.membership.voters();
            if raft.leader().is_some() && voters.contains(&raft.id()) {
                led.push(u32::try_from(self.merges.lost).expect("a shard has fewer than 2^32 ranges"));
            } else if may_ask_all {
                asked.push((local.range, raft.id()));
            }
            if asked.len() == LOST_MAX {
                break;
            }
        }
        led.into_iter().for_each(|slot| self.say_where(slot));
        for (range, me) in &asked {
            for node in &nodes {
                let (right, merge) = (range.0, 0);
                let step = TransferStep::AskFate { right, merge };
                self.say_at((*range, *me, replica_on(*node, 0)), NO_MARK, step);
            }
        }
    }

    /// A replica of a range that is frozen asks what became of the merge; or one that may be lost, whether its range is there still and
    /// has it.
    fn on_ask_fate(&mut self, left: RangeId, from: ReplicaId, right: RangeId, merge: Index) {
        if let Some(local) = self.local(right).filter(|_| left == right) {
            if !local.seat.leaving && local.replica.group().has_removed(from) {
                base::sometimes!("node: a replica asks that its group has removed");
                let slot = self.here[&right];
                self.say_removed(slot, from);
            }
            return;
        }
        let who = (right, replica_on(self.identity.node, 0), from);
        match self.decided(left, right, merge) {
            Fate::Refused => {
                let merge = merge.0;
                self.say_at(who, NO_MARK, TransferStep::Refused { merge });
            }
            Fate::Absorbed => self.say_at(who, NO_MARK, TransferStep::Removed),
            Fate::Open | Fate::Unknown if self.was_absorbed(right) => {
                base::sometimes!("node: somebody asks for a range that was absorbed");
                self.say_at(who, NO_MARK, TransferStep::Removed);
            }
            Fate::Open | Fate::Unknown => {}
        }
    }

    /// A step of a merge was applied that absorbs nothing.
    pub(crate) fn step_taken(&mut self, slot: u32, step: MergeStep) {
        match step {
            MergeStep::Refuse { .. } => {
                // The one that it is about may be here.
                for range in self.merges.open.clone() {
                    if let Some(&slot) = self.here.get(&range)
                        && self.slots[slot as usize].live().is_some()
                    {
                        self.touch(slot);
                    }
                }
            }
            MergeStep::Thaw { .. } => {
                base::sometimes!("node: a range thawed");
                self.runnable.push(slot);
                self.watch_closed(slot);
            }
            MergeStep::Subsume { .. } => {
                base::sometimes!("node: a range froze");
                self.watch_closed(slot);
            }
            MergeStep::Expect { .. } | MergeStep::Absorb { .. } => {}
        }
    }

    /// Proposes a step of a merge for the range in `slot`, which leads and takes steps. What cannot be proposed now is decided anew.
    fn propose_step(&mut self, slot: u32, step: MergeStep) {
        let local = self.live_mut(slot);
        if !local.leads() || !local.replica.takes_steps() {
            return;
        }
        let last_ts = local.replica.last_ts();
        if last_ts.wall_ns > self.clock_bound_ns || self.hlc.last().wall_ns > self.clock_bound_ns {
            base::sometimes!("node: a step of a merge waits for the clock");
            let wanted_ns = last_ts.wall_ns.max(self.hlc.last().wall_ns);
            // Not each time that it is looked: the maintenance looks, too.
            if wanted_ns > self.clock_wanted_ns {
                self.clock_wanted_ns = wanted_ns;
                self.wake_maintenance = true;
            }
            return;
        }
        let ts = self.write_ts();
        let start = self.batch.bytes.len();
        let local = self.slots[slot as usize].live_mut().expect("it was looked at");
        let index = local.replica.propose_merge(ts, step, &mut self.batch.bytes);
        self.stage(slot, index, start, Then::Nothing);
    }
}

/// Steps of a merge are about no entry.
const NO_MARK: Mark = Mark { term: 0, index: 0 };

/// The merge by which a range is frozen.
fn merge_of<E: Env>(local: &Local<E>) -> Option<Index> {
    match local.replica.merging() {
        Merging::Frozen { merge, .. } => Some(merge),
        Merging::Nothing | Merging::Expects { .. } => None,
    }
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
    names.join(", ")
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// `range merge`, with the answer.
    pub(crate) async fn merge_for(&self, origin: Origin, left: RangeId, right: RangeId, deadline: Instant) {
        self.step(|state| state.pin(left));
        let merged = self.try_merge(left, right, deadline).await;
        self.step(|state| match merged {
            Ok(()) => {
                let reply = MergeReply {
                    range: left.0,
                    absorbed: right.0,
                    range_map_version: state.map.version(),
                };
                state.reply(origin, &reply);
            }
            Err(refusal) => state.refuse(origin, &refusal.about_range(left)),
        });
    }

    /// Merges two ranges, if this node leads the left one.
    ///
    /// # Errors
    /// Why they are not merged.
    pub(crate) async fn try_merge(
        &self,
        left: RangeId,
        right: RangeId,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        self.with_state(|state| state.require(Version::MERGES, "merges of ranges take"))?;
        let now = self.now();
        let deadline = deadline.min(now + BEGIN_MAX);
        let begins = self.with_state(|state| {
            let begins = state.placing.insert(left);
            if begins {
                let running = Running {
                    right,
                    merge: Index::ZERO,
                    gathered: BTreeSet::new(),
                    ask_at: now,
                    began: None,
                };
                state.merges.running.insert(left, running);
            }
            begins
        });
        if !begins {
            let message =
                "the replicas of the range are being placed, or it is being merged, by another request";
            return Err(Refusal::retry(Code::RangeBusy, 100, message));
        }
        let merged = loop {
            match self.step(|state| state.advance_merge(left, right)) {
                Progress::Done => break Ok(()),
                Progress::Refused(refusal) => break Err(refusal),
                Progress::Waits(why) => {
                    // One that has begun has a limit of its own.
                    let has_begun = self.with_state(|state| {
                        let local = state.local(left);
                        local.is_some_and(|local| local.replica.is_merging() && local.leads())
                    });
                    if self.now() >= deadline && !has_begun {
                        break Err(Refusal::retry(Code::RangeBusy, 100, why));
                    }
                    self.env.clock().sleep(LOOK_AGAIN).await;
                }
            }
        };
        self.step(|state| {
            state.merges.running.remove(&left);
            state.placing.remove(&left);
            // What was begun and not finished is refused.
            if let Some(&slot) = state.here.get(&left)
                && state.slots[slot as usize].live().is_some()
            {
                state.touch(slot);
            }
        });
        merged
    }

    /// Brings two ranges to this shard, and what they have to disk.
    pub(crate) async fn gather_ranges(&self, left: RangeId, right: RangeId) {
        let me = self.mailbox.shard();
        let elsewhere = self.with_state(|state| {
            let there = state.map.get(right).map(|entry| entry.shard);
            let is_left_here = state.local(left).is_some_and(|local| !local.replica.is_merging());
            there.filter(|shard| is_left_here && *shard != me && state.takes_more(*shard))
        });
        if let Some(shard) = elsewhere {
            self.step(|state| state.send(shard, ShardMessage::Bring { range: right, to: me }));
            self.env.clock().sleep(ASK_AGAIN).await;
        } else {
            let deadline = self.now() + GATHER_MAX;
            for range in [right, left] {
                self.bring_to_disk(range, deadline).await;
            }
        }
        self.with_state(|state| state.merges.gathering.remove(&right));
    }

    async fn bring_to_disk(&self, range: RangeId, deadline: Instant) {
        loop {
            let claimed = self.with_state(|state| {
                let is_bad = state.injured.is_ending(range) || state.damage.contains_key(&range);
                let local = state
                    .local(range)
                    .filter(|local| !local.seat.leaving && !is_bad)?;
                let is_frozen = matches!(local.replica.merging(), Merging::Frozen { .. });
                let is_free = !local.busy.replace(true);
                Some(is_free.then(|| (local.tablet.clone(), is_frozen)))
            });
            match claimed {
                None => return,
                Some(None) if self.now() >= deadline => return,
                Some(None) => self.env.clock().sleep(LOOK_AGAIN).await,
                Some(Some((tablet, is_frozen))) => {
                    if is_frozen || tablet.stats().active_bytes > FLUSH_FIRST_BYTES {
                        self.freeze(range);
                        if self.flush_claimed(range, &tablet).await.is_some() {
                            self.tidy(range, &tablet).await;
                        }
                    } else {
                        self.tidy(range, &tablet).await;
                    }
                    return self.step(|state| state.unclaim(range));
                }
            }
        }
    }

    /// Another shard of this node is to get the range.
    pub(crate) async fn bring(&self, range: RangeId, to: ShardId) {
        let deadline = self.now() + GATHER_MAX;
        // Whoever wants it asks again.
        let moved = self.move_range(range, to, deadline).await;
        base::sometimes!("node: a range moved to where its neighbour is", moved.is_ok());
    }
}
