//! What a replica's state says of its Raft group: who it is in it, and where in the group's log the state stands.
//!
//! ```text
//! replica u64 │ term u64 │ voted u8 │ vote u64 │ applied: term u64 │ index u64 │ chain u32 │ members
//!   members:  leaves by itself u8 │ five lists: count u32 │ replica u64…
//! ```

use crate::session::{take, take_u32, take_u64};
use base::{Index, ReplicaId, Term};
use raft::{HardState, Mark, Membership, Restored, Snapshot};
use std::sync::Arc;

/// More members than any group has.
const MEMBERS_MAX: u32 = 1024;

/// A replica's place in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which replica this is.
    pub id: ReplicaId,
    /// Term and vote, as far as this state knows: the log may have a later one.
    pub hard_state: HardState,
    /// The last entry applied, and who takes part as of it.
    pub applied: Snapshot,
}

impl Group {
    /// The only replica of a new range.
    #[must_use]
    pub fn alone() -> Self {
        let id = ReplicaId(1);
        Self::first(id, Membership::of_voters([id]))
    }

    /// A replica of a new range with these members.
    #[must_use]
    pub fn first(id: ReplicaId, members: Membership) -> Self {
        let restored = Restored::first_of(members);
        Self {
            id,
            hard_state: restored.hard_state,
            applied: restored.snapshot,
        }
    }

    /// Whether this replica is alone: then whatever is durable is committed.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let members = &self.applied.membership;
        members.voters() == [self.id] && !members.is_joint()
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
    fn members_that_cannot_be_are_refused() {
        let mut bytes = Vec::new();
        encode_members(&Membership::of_voters([1, 2].map(ReplicaId)), &mut bytes);
        let second = 1 + 4 + 8;
        bytes[second] = 1;
        assert_eq!(decode_members(&mut &bytes[..]), None, "somebody is there twice");
    }
}
