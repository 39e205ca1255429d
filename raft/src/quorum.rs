//! Majorities, single and joint.
//!
//! A *joint* quorum needs a majority of each of two sets of voters; a set without members agrees to everything, so that a
//! configuration that is not joint is the joint of its voters and nobody.
//!
//! Invariants:
//! - Any two quorums of one configuration share a voter, and so do quorums of a configuration and of the joint one before it.
//! - Nothing here allocates for up to [`INLINE`] voters.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), sections 3.4 and 4.3.

use base::{Index, ReplicaId};

/// Voters of one set whose indexes are sorted on the stack.
const INLINE: usize = 9;

/// What the votes cast so far decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VoteResult {
    /// A majority refused, or so many that none can agree any more.
    Lost,
    /// Neither yet.
    Pending,
    /// A majority agreed.
    Won,
}

/// The least number of members that any two majorities of `members` share one of.
#[must_use]
pub const fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// The highest index that a majority of `voters` has reached; `None` when there are no voters, who agree to every index.
#[must_use]
pub fn committed(voters: &[ReplicaId], reached: impl Fn(ReplicaId) -> Index) -> Option<Index> {
    if voters.is_empty() {
        return None;
    }
    let (mut inline, mut heap) = ([Index::ZERO; INLINE], Vec::new());
    let indexes = if let Some(indexes) = inline.get_mut(..voters.len()) {
        indexes
    } else {
        heap.resize(voters.len(), Index::ZERO);
        &mut heap[..]
    };
    for (index, &voter) in indexes.iter_mut().zip(voters) {
        *index = reached(voter);
    }
    indexes.sort_unstable();
    Some(indexes[voters.len() - majority(voters.len())])
}

/// The highest index that a majority of each set has reached; `None` when both are empty.
#[must_use]
pub fn joint_committed(sets: [&[ReplicaId]; 2], reached: impl Fn(ReplicaId) -> Index) -> Option<Index> {
    match sets.map(|voters| committed(voters, &reached)) {
        [Some(one), Some(other)] => Some(one.min(other)),
        [one, other] => one.or(other),
    }
}

/// What the votes of `voters` decide; `None` is a vote not cast.
#[must_use]
pub fn vote_result(voters: &[ReplicaId], vote: impl Fn(ReplicaId) -> Option<bool>) -> VoteResult {
    let (mut agreed, mut open) = (0, 0);
    for &voter in voters {
        match vote(voter) {
            Some(true) => agreed += 1,
            Some(false) => {}
            None => open += 1,
        }
    }
    if voters.is_empty() || agreed >= majority(voters.len()) {
        VoteResult::Won
    } else if agreed + open >= majority(voters.len()) {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// What the votes of both sets decide: lost with one of them, won with both.
#[must_use]
pub fn joint_vote_result(sets: [&[ReplicaId]; 2], vote: impl Fn(ReplicaId) -> Option<bool>) -> VoteResult {
    let [one, other] = sets.map(|voters| vote_result(voters, &vote));
    one.min(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(count: u64) -> Vec<ReplicaId> {
        (1..=count).map(ReplicaId).collect()
    }

    proptest! {
        /// By definition: an index is committed when a majority has reached it, and no higher one is.
        #[test]
        fn committed_is_the_highest_index_of_a_majority(reached in prop::collection::vec(0u64..6, 1..14)) {
            let voters = ids(reached.len() as u64);
            let of = |voter: ReplicaId| Index(reached[usize::try_from(voter.0 - 1).expect("small")]);
            let found = committed(&voters, of).expect("there are voters");
            let have = |index: Index| voters.iter().filter(|&&v| of(v) >= index).count();
            prop_assert!(have(found) >= majority(voters.len()));
            prop_assert!(have(found.next()) < majority(voters.len()));
        }

        /// A vote is pending exactly when the open votes can still decide it both ways.
        #[test]
        fn a_vote_is_decided_when_the_open_ones_cannot_change_it(votes in prop::collection::vec(prop::option::of(any::<bool>()), 1..14)) {
            let voters = ids(votes.len() as u64);
            let with = |open: bool| {
                vote_result(&voters, |v| Some(votes[usize::try_from(v.0 - 1).expect("small")].unwrap_or(open)))
            };
            let now = vote_result(&voters, |v| votes[usize::try_from(v.0 - 1).expect("small")]);
            prop_assert_ne!(with(true), VoteResult::Pending);
            prop_assert_eq!(now == VoteResult::Pending, with(true) != with(false));
            if with(true) == with(false) {
                prop_assert_eq!(now, with(true));
            }
        }
    }

    #[test]
    fn any_two_majorities_meet() {
        for members in 1..20 {
            assert!(2 * majority(members) > members);
            assert!(2 * (majority(members) - 1) <= members);
        }
    }
}
