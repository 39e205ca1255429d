//! What a replica's state says of its Raft group: who it is in it, and where in the group's log the state stands.
//!
//! ```text
//! replica u64 │ lives u32 │ term u64 │ voted u8 │ vote u64 │ applied: term u64 │ index u64 │ chain u32 │ members
//!   members:  leaves by itself u8 │ five lists: count u32 │ replica u64…
//! ```

use crate::session::{take, take_u32, take_u64};
use base::{Index, NodeId, ReplicaId, Term};
use raft::{HardState, Mark, Membership, Restored, Snapshot};
use std::sync::Arc;

/// More members than any group has.
const MEMBERS_MAX: u32 = 1024;

/// Which life of its node's replicas of the range a replica is: 0 for those that a range begins with. No life comes back, so what
/// a replica has promised or acknowledged is never taken for the word of a later one that remembers nothing of it.
///
/// # Panics
/// Never: 32 bits are left.
#[must_use]
pub fn life_of(replica: ReplicaId) -> u32 {
    u32::try_from(replica.0 >> 32).expect("32 bits are left")
}

/// The node that has a replica.
#[must_use]
pub fn node_of(replica: ReplicaId) -> NodeId {
    NodeId(replica.0 & u64::from(u32::MAX))
}

/// The replica that has its `life` on `node`.
///
/// # Panics
/// When the node's number does not fit 32 bits.
#[must_use]
pub fn replica_on(node: NodeId, life: u32) -> ReplicaId {
    assert!(u32::try_from(node.0).is_ok(), "nodes are numbered with 32 bits");
    ReplicaId(u64::from(life) << 32 | node.0)
}

/// Whether these members are `replica` and nobody else.
#[must_use]
pub fn is_alone(members: &Membership, replica: ReplicaId) -> bool {
    members.voters() == [replica] && members.learners().is_empty() && !members.is_joint()
}

/// Whether somebody beside `replica` votes among these members, before and after a change that is under way: without that nothing can
/// be committed without it.
#[must_use]
pub fn has_other_voter(members: &Membership, replica: ReplicaId) -> bool {
    let is_other = |voter: &ReplicaId| *voter != replica;
    let outgoing = members.outgoing();
    members.voters().iter().any(is_other) && (outgoing.is_empty() || outgoing.iter().any(is_other))
}

/// A replica's place in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which replica this is.
    pub id: ReplicaId,
    /// The greatest life that a member of the range, or of the ranges that it was split from, was given.
    pub lives: u32,
    /// Term and vote, as far as this state knows: the log may have a later one.
    pub hard_state: HardState,
    /// The last entry applied, and who takes part as of it.
    pub applied: Snapshot,
}

impl Group {
    /// The only replica of a new range.
    #[must_use]
    pub fn alone() -> Self {
        let id = replica_on(NodeId(1), 0);
        Self::first(id, Membership::of_voters([id]), 0)
    }

    /// A replica of a new range with these members, whose lives are `lives` at most.
    #[must_use]
    pub fn first(id: ReplicaId, members: impl Into<Arc<Membership>>, lives: u32) -> Self {
        let restored = Restored::first_of(members);
        Self {
            id,
            lives,
            hard_state: restored.hard_state,
            applied: restored.snapshot,
        }
    }

    /// Whether this replica is alone: then whatever is durable is committed.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        is_alone(&self.applied.membership, self.id)
    }

    /// Whether a replica took part once and does not as of here: it was removed, for good.
    #[must_use]
    pub fn has_removed(&self, replica: ReplicaId) -> bool {
        life_of(replica) <= self.lives && !self.applied.membership.contains(replica)
    }

    /// Takes in who takes part from here on.
    pub(crate) fn set_members(&mut self, members: Arc<Membership>) {
        let lives = members.members().map(life_of).max().unwrap_or_default();
        self.lives = self.lives.max(lives);
        self.applied.membership = members;
    }

    /// What its Raft group starts with, when everything in the log is applied.
    #[must_use]
    pub fn restored(&self) -> Restored {
        Restored {
            hard_state: self.hard_state,
            snapshot: self.applied.clone(),
            applied: self.applied.last.index,
            ..Restored::default()
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let HardState {
            term,
            vote,
            repairing,
        } = self.hard_state;
        assert!(
            repairing.is_none(),
            "a replica under repair has no state to write"
        );
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.lives.to_le_bytes());
        out.extend_from_slice(&term.0.to_le_bytes());
        out.push(vote.is_some().into());
        out.extend_from_slice(&vote.unwrap_or_default().0.to_le_bytes());
        let Snapshot {
            last,
            chain,
            membership,
        } = &self.applied;
        out.extend_from_slice(&last.term.0.to_le_bytes());
        out.extend_from_slice(&last.index.0.to_le_bytes());
        out.extend_from_slice(&chain.to_le_bytes());
        encode_members(membership, out);
    }

    pub(crate) fn decode(input: &mut &[u8]) -> Option<Self> {
        let id = ReplicaId(take_u64(input)?);
        let lives = take_u32(input)?;
        let term = Term(take_u64(input)?);
        let voted = flag(input)?;
        let vote = ReplicaId(take_u64(input)?);
        let last = Mark {
            term: Term(take_u64(input)?),
            index: Index(take_u64(input)?),
        };
        let chain = take_u32(input)?;
        let membership = Arc::new(decode_members(input)?);
        Some(Self {
            id,
            lives,
            hard_state: HardState {
                term,
                vote: voted.then_some(vote),
                repairing: None,
            },
            applied: Snapshot {
                last,
                chain,
                membership,
            },
        })
    }
}

/// Appends a configuration, as in the payload of an entry that changes it.
///
/// # Panics
/// When a list has more members than 32 bits count.
pub fn encode_members(members: &Membership, out: &mut Vec<u8>) {
    out.push(members.leaves_by_itself().into());
    for list in members.lists() {
        let count = u32::try_from(list.len()).expect("a group has few members");
        out.extend_from_slice(&count.to_le_bytes());
        for id in list {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
    }
}

/// Reads a configuration; `None` when there is none, or one that cannot be.
#[must_use]
pub fn decode_members(input: &mut &[u8]) -> Option<Membership> {
    let auto_leave = flag(input)?;
    let mut lists = <[Vec<ReplicaId>; 5]>::default();
    for list in &mut lists {
        let count = take_u32(input).filter(|count| *count <= MEMBERS_MAX)?;
        for _ in 0..count {
            list.push(ReplicaId(take_u64(input)?));
        }
    }
    Membership::of_lists(lists, auto_leave)
}

fn flag(input: &mut &[u8]) -> Option<bool> {
    match take(input)? {
        [0] => Some(false),
        [1] => Some(true),
        [_] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::MemberChange;

    #[test]
    fn a_group_round_trips_and_every_cut_is_refused() {
        let members = Membership::of_voters([1, 2, 3].map(ReplicaId));
        let changes = [
            MemberChange::Learner(ReplicaId(1)),
            MemberChange::Witness(ReplicaId(9)),
        ];
        let mut group = Group::first(
            ReplicaId(2),
            members.enter_joint(&changes, true).expect("it is possible"),
            7,
        );
        group.hard_state.term = Term(7);
        group.hard_state.vote = Some(ReplicaId(3));
        group.applied.last.index = Index(12);
        let mut bytes = Vec::new();
        group.encode(&mut bytes);
        let mut input = &bytes[..];
        assert_eq!(Group::decode(&mut input), Some(group));
        assert!(input.is_empty());
        for len in 0..bytes.len() {
            assert_eq!(Group::decode(&mut &bytes[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn who_was_removed_is_known_by_its_life() {
        let [first, second, later] =
            [(1, 0), (2, 1), (2, 3)].map(|(node, life)| replica_on(NodeId(node), life));
        let mut group = Group::first(first, Membership::of_voters([first]), 0);
        assert!(!group.has_removed(second), "it may be about to come");
        group.set_members(Membership::of_voters([first, second]).into());
        assert!(!group.has_removed(second));
        group.set_members(Membership::of_voters([first]).into());
        assert!(group.has_removed(second));
        assert!(!group.has_removed(later));
        assert_eq!((node_of(later), life_of(later)), (NodeId(2), 3));
    }

    #[test]
    fn members_that_cannot_be_are_refused() {
        let mut bytes = Vec::new();
        encode_members(&Membership::of_voters([1, 2].map(ReplicaId)), &mut bytes);
        let second = 1 + 4 + 8;
        bytes[second] = 1;
        assert_eq!(decode_members(&mut &bytes[..]), None, "somebody is there twice");
    }
}
