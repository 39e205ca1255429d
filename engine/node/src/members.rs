//! Who has the replicas of a range: nodes are added and taken away online, and leadership is handed over.
//!
//! ```text
//!   wish ─► learners on new nodes ─► they catch up ─► they vote, others go: one joint change ─► it is left ─► done
//! ```
//! Each step is an entry of the range's group; what comes next is decided anew from the members as they are, so whoever leads
//! may go on with what another one began.
//!
//! Invariants:
//! - A replica votes only after it has the range's state, so that a change never makes a quorum of replicas without one.
//! - A replica that was removed never comes back: on the same node another one takes its place, with a later life.
//! - A learner is spoken to only when the change that takes it in is committed: otherwise the change may be voided, and a replica that
//!   nobody made would wait, with what it has, for a group that knows nothing of it.
//! - Whoever leads does not remove itself: it hands over first.

use crate::message::{Origin, RawRequest};
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, Slot, State};
use base::{NodeId, RangeId, ReplicaId, planted_bug};
use core::mem;
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox};
use raft::{MemberChange, Membership, MembershipError, ProposeError};
use replica::group::{node_of, replica_on};
use wire::Code;
use wire::reply::PlaceReply;
use wire::request::ArchivedPlace;

/// How often a change that waits for replicas is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// More replicas than any range has.
pub(crate) const REPLICAS_MAX: usize = 64;

/// Where the replicas of a range shall be.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) range: RangeId,
    /// The nodes; those that have replicas now when empty.
    pub(crate) nodes: Vec<NodeId>,
    /// Who shall lead, if it matters.
    pub(crate) leader: Option<NodeId>,
}

/// What comes next on the way to a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// This change of the members.
    Change(Vec<MemberChange>),
    /// New replicas have to catch up.
    Wait,
    /// A replica that stays shall lead.
    HandOver,
    /// It is so.
    Done,
}

/// What comes next so that the voters are exactly those of `nodes`. `leads` is the replica that decides; no member has a greater
/// life than `lives`.
fn next(
    members: &Membership,
    leads: ReplicaId,
    lives: u32,
    nodes: &[NodeId],
    has_caught_up: impl Fn(ReplicaId) -> bool,
) -> Next {
    let is_wanted = |replica: &ReplicaId| nodes.contains(&node_of(*replica));
    let on =
        |list: &[ReplicaId], node: NodeId| list.iter().copied().find(|replica| node_of(*replica) == node);
    let life = lives + u32::from(!planted_bug!("node-lives-come-back"));
    let mut changes = Vec::new();
    let mut learners = Vec::new();
    for node in nodes.iter().filter(|node| on(members.voters(), **node).is_none()) {
        match on(members.learners(), *node) {
            Some(learner) => learners.push(learner),
            None => changes.push(MemberChange::Learner(replica_on(*node, life))),
        }
    }
    let stray = |learner: &&ReplicaId| !learners.contains(learner);
    changes.extend(
        members
            .learners()
            .iter()
            .filter(stray)
            .map(|learner| MemberChange::Remove(*learner)),
    );
    if !changes.is_empty() {
        return Next::Change(changes);
    }
    if !learners.iter().all(|learner| has_caught_up(*learner)) {
        return Next::Wait;
    }
    let stays = |replica: &&ReplicaId| is_wanted(replica) || **replica == leads;
    let goes = |replica: &&ReplicaId| !stays(replica);
    changes.extend(learners.iter().map(|learner| MemberChange::Voter(*learner)));
    changes.extend(
        members
            .voters()
            .iter()
            .filter(goes)
            .map(|voter| MemberChange::Remove(*voter)),
    );
    if !changes.is_empty() {
        Next::Change(changes)
    } else if is_wanted(&leads) {
        Next::Done
    } else {
        Next::HandOver
    }
}

/// How far a wish has come.
enum Progress {
    /// It takes time.
    Waits,
    /// That replica shall lead before it goes on.
    HandOver(ReplicaId),
    Done(Vec<u64>),
    Refused(Refusal),
}

impl<E: Env, B> State<E, B> {
    /// Whether this node has heard of that one, or is it.
    pub(crate) fn knows_node(&self, node: NodeId) -> bool {
        let neighbours = self.neighbours.as_ref();
        neighbours.is_some_and(|neighbours| neighbours.nodes.iter().any(|member| member.node == node))
    }

    pub(crate) fn on_place(&mut self, place: &ArchivedPlace<'static>, raw: RawRequest<'_>) {
        let range = place.range_id();
        let mut nodes: Vec<_> = place.nodes().take(REPLICAS_MAX + 1).collect();
        nodes.sort_unstable();
        let count = nodes.len();
        nodes.dedup();
        let why = if self.neighbours.is_none() {
            Some("this node is not of a cluster: its ranges have one replica".to_owned())
        } else if nodes.len() < count || count > REPLICAS_MAX {
            Some(format!("replicas are on 1 to {REPLICAS_MAX} different nodes"))
        } else if let Some(node) = nodes
            .iter()
            .chain(&place.leader())
            .find(|node| !self.knows_node(**node))
        {
            Some(format!("the cluster has no node {node}"))
        } else if place
            .leader()
            .is_some_and(|leader| !nodes.is_empty() && !nodes.contains(&leader))
        {
            Some("who shall lead is not among those who shall have a replica".to_owned())
        } else {
            None
        };
        if let Some(why) = why {
            let refusal = Refusal::fatal(Code::InvalidRequest, why).about_range(range);
            return self.refuse(raw.origin, &refusal);
        }
        match self.map.get(range).map(|entry| entry.shard) {
            Some(shard) if shard != self.me => return self.forward(shard, raw),
            Some(_) => {}
            None => {
                let refusal = self.no_replica(range);
                return self.refuse(raw.origin, &refusal);
            }
        }
        self.jobs.push(Job::Place {
            origin: raw.origin,
            wish: Wish {
                range,
                nodes,
                leader: place.leader(),
            },
            deadline: raw.received + Duration::from_millis(place.deadline_ms.to_native().into()),
        });
    }

    /// Takes the next step towards a wish, if one can be taken now.
    fn advance(&mut self, wish: &Wish) -> Progress {
        let range = wish.range;
        // Commands that have their index come first.
        self.close_batch();
        let Some(&slot) = self.here.get(&range) else {
            if self.map.get(range).is_some() {
                let message = "the range has just moved to another shard";
                return Progress::Refused(Refusal::retry(Code::WrongShard, 1, message).about_range(range));
            }
            return Progress::Refused(self.no_replica(range));
        };
        let Some(local) = self.slots[slot as usize].live() else {
            return Progress::Waits;
        };
        if !local.leads() {
            return self
                .led_elsewhere(slot)
                .map_or(Progress::Waits, Progress::Refused);
        }
        let members = local.seat.raft.membership();
        let group = local.replica.group();
        // One change at a time, and each on what is known to be so.
        let is_held = local.replica.is_blocked() || local.replica.is_merging();
        if **members != *group.applied.membership || members.is_joint() || is_held {
            return Progress::Waits;
        }
        let me = local.seat.raft.id();
        let current: Vec<_> = members.voters().iter().copied().map(node_of).collect();
        let nodes = if wish.nodes.is_empty() {
            &current
        } else {
            &wish.nodes
        };
        let last = local.seat.raft.last().index;
        let lag = |replica| {
            local
                .seat
                .raft
                .matched(replica)
                .map(|matched| last.since(matched))
        };
        let has_caught_up =
            |replica| local.has_caught_up(replica) || planted_bug!("node-learner-votes-at-once");
        match next(members, me, group.lives, nodes, has_caught_up) {
            Next::Wait => Progress::Waits,
            Next::Change(changes) => {
                self.propose_members(slot, &changes);
                Progress::Waits
            }
            Next::HandOver => {
                let others = members.voters().iter().copied().filter(|voter| *voter != me);
                let best = others
                    .filter(|voter| wish.leader.is_none_or(|leader| leader == node_of(*voter)))
                    .min_by_key(|voter| lag(*voter).unwrap_or(u64::MAX));
                best.map_or(Progress::Waits, Progress::HandOver)
            }
            Next::Done => {
                let wanted = |voter: &&ReplicaId| wish.leader == Some(node_of(**voter));
                match (wish.leader, members.voters().iter().find(wanted)) {
                    (Some(_), Some(&leader)) if leader != me => Progress::HandOver(leader),
                    (Some(leader), None) => {
                        let message = format!(
                            "{leader} has no replica of range {range} that could lead it: name it among the nodes too"
                        );
                        Progress::Refused(Refusal::fatal(Code::InvalidRequest, message).about_range(range))
                    }
                    _ => Progress::Done(current.iter().map(|node| node.0).collect()),
                }
            }
        }
    }

    /// Proposes a change of the members of the range in `slot`, after everything that was proposed before. What cannot be proposed
    /// now is decided anew.
    pub(crate) fn propose_members(&mut self, slot: u32, changes: &[MemberChange]) {
        assert!(
            self.batch.commands.is_empty(),
            "commands that have an index come first"
        );
        let (_, wall_ns) = self.clock();
        // Alone it showed timestamps whatever its clock said; whoever leads next begins above this clock, and the bound.
        let is_ahead = self.runs_ahead(wall_ns);
        let local = self.live_mut(slot);
        if local.is_alone() && is_ahead {
            base::sometimes!(
                "node: a range that is alone waits for its clock before it gets another replica"
            );
            return;
        }
        let raft = &mut local.seat.raft;
        let is_joint = matches!(
            raft.membership().simple(changes),
            Err(MembershipError::SeveralVoters(_))
        );
        let proposed = if is_joint {
            raft.propose_joint(changes)
        } else {
            raft.propose_members(changes)
        };
        self.count_members(slot, proposed);
    }

    fn count_members(&mut self, slot: u32, proposed: Result<raft::Mark, ProposeError>) {
        let local = self.live_mut(slot);
        match proposed {
            Ok(mark) => {
                base::sometimes!("node: the members of a range change");
                let index = local.replica.count_entry();
                assert_eq!(index, mark.index, "{} counts otherwise", local.range);
                self.touch(slot);
            }
            Err(_) => base::sometimes!("node: a change of members has to wait"),
        }
    }

    /// Leaves the joint configurations that are known to be committed.
    pub(crate) fn leave_joint(&mut self) {
        assert!(
            self.batch.commands.is_empty(),
            "commands that have an index come first"
        );
        for slot in mem::take(&mut self.joint) {
            let Some(local) = self.slots[slot as usize].live_mut() else {
                continue;
            };
            let is_due = local.leads() && local.seat.raft.membership().is_joint();
            if is_due && local.replica.group().applied.membership.is_joint() && !local.replica.is_blocked() {
                let proposed = local.seat.raft.propose_leave();
                self.count_members(slot, proposed);
            }
        }
    }

    /// Notes that the range in `slot` is to leave its joint configuration, when it leads and is in one.
    pub(crate) fn watch_joint(&mut self, slot: u32) {
        let local = self.live_mut(slot);
        if local.seat.raft.membership().is_joint() && local.leads() && !local.replica.is_blocked() {
            self.joint.push(slot);
        }
    }

    /// Begins to hand leadership over: nothing is proposed meanwhile. Whether it began.
    fn begin_hand_over(&mut self, range: RangeId, to: ReplicaId) -> bool {
        self.close_batch();
        let Some(local) = self
            .here
            .get(&range)
            .and_then(|slot| self.slots[*slot as usize].live_mut())
        else {
            return false;
        };
        // A move blocks the range, too, and lets no time pass in which handing over could end.
        let is_taken = local.moving || local.replica.is_blocked();
        if !local.leads() || is_taken || local.seat.raft.transfer_leadership(to).is_err() {
            return false;
        }
        base::sometimes!("node: leadership is handed over");
        local.replica.block();
        let slot = self.here[&range];
        self.touch(slot);
        true
    }

    /// Whether handing over has ended, in one way or the other.
    fn end_hand_over(&mut self, range: RangeId) -> bool {
        let Some(&slot) = self.here.get(&range) else {
            return true;
        };
        let Slot::Live(local) = &mut self.slots[slot as usize] else {
            return true;
        };
        if local.led && local.seat.raft.is_transferring() {
            return false;
        }
        if local.led && !local.moving {
            base::sometimes!("node: leadership was not taken over in time");
            local.replica.unblock();
            self.run_parked(slot);
            self.touch(slot);
        }
        true
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Makes a wish so, with the answer.
    pub(crate) async fn place(&self, origin: Origin, wish: &Wish, deadline: Instant) {
        let placed = if self.with_state(|state| state.placing.insert(wish.range)) {
            self.step(|state| state.pin(wish.range));
            let placed = self.pursue(wish, deadline, None).await;
            self.step(|state| {
                state.placing.remove(&wish.range);
                state.pin(wish.range);
            });
            placed
        } else {
            base::sometimes!("node: two wishes for the replicas of one range");
            let message = "the replicas of the range are being placed by another request";
            Err(Refusal::retry(Code::RangeBusy, 100, message).about_range(wish.range))
        };
        self.step(|state| match placed {
            Ok(nodes) => {
                let reply = PlaceReply {
                    range: wish.range.0,
                    nodes: &nodes,
                    leader: state.identity.node.0,
                };
                state.reply(origin, &reply);
            }
            Err(refusal) => state.refuse(origin, &refusal),
        });
    }

    /// Makes a wish so; one that the placer ordered, as long as the order stands.
    ///
    /// # Errors
    /// Why it is not so: somebody else leads, the deadline has passed, or the order does not stand.
    pub(crate) async fn pursue(
        &self,
        wish: &Wish,
        deadline: Instant,
        order: Option<u64>,
    ) -> Result<Vec<u64>, Refusal> {
        loop {
            if let Some(number) = order
                && !self.with_state(|state| state.is_ordered(wish.range, number))
            {
                base::sometimes!("node: an order does not stand any more");
                let message = "the placer, or somebody else, wants something else now";
                return Err(Refusal::fatal(Code::RangeBusy, message).about_range(wish.range));
            }
            match self.step(|state| state.advance(wish)) {
                Progress::Done(nodes) => return Ok(nodes),
                Progress::Refused(refusal) => return Err(refusal),
                // Another wish may hand leadership back as often.
                Progress::HandOver(_) | Progress::Waits if self.now() >= deadline => {
                    let message = "the new replicas have not caught up, or the change is not committed; what was begun is finished \
                                   by the same request";
                    return Err(Refusal::retry(Code::RangeBusy, 10, message).about_range(wish.range));
                }
                Progress::HandOver(to) => self.hand_over(wish.range, to).await,
                Progress::Waits => {}
            }
            self.env.clock().sleep(LOOK_AGAIN).await;
        }
    }

    /// Hands leadership to `to`, or fails to within an election's time.
    pub(crate) async fn hand_over(&self, range: RangeId, to: ReplicaId) {
        if !self.step(|state| state.begin_hand_over(range, to)) {
            return;
        }
        while !self.step(|state| state.end_hand_over(range)) {
            self.env.clock().sleep(Duration::from_millis(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(node: u64, life: u32) -> ReplicaId {
        replica_on(NodeId(node), life)
    }

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// The changes until the wish is fulfilled, when whoever leads stays unless it must hand over.
    fn way(mut members: Membership, mut leads: ReplicaId, lives: u32, wish: &[u64]) -> Vec<Next> {
        let (mut steps, mut lives) = (Vec::new(), lives);
        loop {
            let step = next(&members, leads, lives, &nodes(wish), |_| true);
            steps.push(step.clone());
            match step {
                Next::Change(changes) => {
                    members = match members.simple(&changes) {
                        Err(MembershipError::SeveralVoters(_)) => members
                            .enter_joint(&changes, false)
                            .and_then(|joint| joint.leave_joint())
                            .expect("a joint change is possible"),
                        other => other.expect("a change is possible"),
                    };
                    let greatest = members.members().map(replica::group::life_of).max();
                    lives = lives.max(greatest.unwrap_or_default());
                }
                Next::HandOver => {
                    let other = members.voters().iter().find(|voter| **voter != leads);
                    leads = *other.expect("somebody else is there");
                }
                Next::Wait => unreachable!("everybody has caught up"),
                Next::Done => return steps,
            }
            assert!(steps.len() < 10, "{steps:?}");
        }
    }

    #[test]
    fn a_dead_replica_goes_when_the_new_one_has_caught_up() {
        let members = Membership::of_voters([on(1, 0), on(2, 0), on(3, 0)]);
        let added = vec![MemberChange::Learner(on(4, 1))];
        assert_eq!(
            way(members.clone(), on(1, 0), 0, &[1, 2, 4]),
            [
                Next::Change(added.clone()),
                Next::Change(vec![
                    MemberChange::Voter(on(4, 1)),
                    MemberChange::Remove(on(3, 0))
                ]),
                Next::Done,
            ]
        );
        let with_learner = members.simple(&added).expect("it is possible");
        assert_eq!(
            next(&with_learner, on(1, 0), 1, &nodes(&[1, 2, 4]), |_| false),
            Next::Wait
        );
    }

    #[test]
    fn a_leader_that_goes_hands_over_first() {
        let members = Membership::of_voters([on(1, 0)]);
        assert_eq!(
            way(members, on(1, 0), 4, &[2]),
            [
                Next::Change(vec![MemberChange::Learner(on(2, 5))]),
                Next::Change(vec![MemberChange::Voter(on(2, 5))]),
                Next::HandOver,
                Next::Change(vec![MemberChange::Remove(on(1, 0))]),
                Next::Done,
            ]
        );
    }

    #[test]
    fn a_learner_that_nobody_wants_is_removed() {
        let members = Membership::of_voters([on(1, 0)]);
        let members = members
            .simple(&[MemberChange::Learner(on(2, 1))])
            .expect("it is possible");
        assert_eq!(
            way(members, on(1, 0), 1, &[1]),
            [Next::Change(vec![MemberChange::Remove(on(2, 1))]), Next::Done]
        );
    }

    #[test]
    fn a_node_gets_a_later_replica_after_its_first_was_removed() {
        let members = Membership::of_voters([on(1, 0), on(3, 0)]);
        let steps = way(members, on(1, 0), 0, &[1, 2]);
        assert_eq!(steps[0], Next::Change(vec![MemberChange::Learner(on(2, 1))]));
        assert_eq!(steps.last(), Some(&Next::Done));
    }
}
