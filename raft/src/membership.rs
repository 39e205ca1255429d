//! Who takes part: voters, learners, and the two overlapping sets of voters while they change.
//!
//! ```text
//!   simple change (one voter at most):   (1 2 3) ───────────────────────────────► (1 2 3 4)
//!   joint change (any number):           (1 2 3) ──enter──► (4 5)&&(1 2 3) ──leave──► (4 5)
//! ```
//!
//! A voter that a joint change makes a learner stays a voter of the outgoing set; it waits in `learners_next` until the joint
//! configuration is left.
//!
//! Invariants, checked after every change:
//! - A replica is an incoming voter or a learner, never both.
//! - Whoever waits in `learners_next` votes in the outgoing set, and is neither an incoming voter nor a learner.
//! - Whoever is a witness votes, in either set; not all incoming voters are witnesses.
//! - Only a joint configuration has an outgoing set, someone waiting, or leaves by itself.
//! - Lists are sorted and have nobody twice.
//!
//! A *witness* votes and has only the headers of commands: it takes the place of a voter where a third copy is too dear. It
//! cannot lead, and never becomes anything else: it has no state to start from. Remove it, and add it anew by another id.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), sections 4.1 to 4.3.

use crate::quorum::{self, VoteResult};
use base::{Index, ReplicaId, checksum, planted_bug};
use core::fmt;

/// One wish of a change. A change is a list of them; later ones about the same replica win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// Shall vote.
    Voter(ReplicaId),
    /// Shall get the log and not vote.
    Learner(ReplicaId),
    /// Shall vote and have only the headers of commands.
    Witness(ReplicaId),
    /// Shall have no part. No effect on a replica that has none.
    Remove(ReplicaId),
}

/// Why a change cannot be made. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// A change was made while a joint one was under way. Leave that one first.
    #[error("the configuration is joint already: leave it first")]
    Joint,
    /// There was no joint change to leave.
    #[error("the configuration is not joint: there is nothing to leave")]
    NotJoint,
    /// A group without voters cannot agree on a joint change.
    #[error("a configuration without voters cannot become joint")]
    NoVotersBefore,
    /// The change would leave nobody to vote, or only witnesses.
    #[error("the change leaves no voter that could lead")]
    NoVotersLeft,
    /// A simple change may add or remove one voter, so that old and new majorities meet. Use a joint one.
    #[error("the change adds or removes {0} voters: more than one needs a joint change")]
    SeveralVoters(usize),
    /// A witness has no state, so it cannot become anything else; and a replica that has one is not made a witness. Remove it
    /// first, then add it by another id.
    #[error("{0} cannot change between a witness and a full member: remove it, and add it by another id")]
    Witness(ReplicaId),
}

/// Who takes part in a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    voters: Vec<ReplicaId>,
    outgoing: Vec<ReplicaId>,
    learners: Vec<ReplicaId>,
    learners_next: Vec<ReplicaId>,
    witnesses: Vec<ReplicaId>,
    auto_leave: bool,
}

/// Puts `id` into a sorted list, once.
fn put(list: &mut Vec<ReplicaId>, id: ReplicaId) {
    if let Err(at) = list.binary_search(&id) {
        list.insert(at, id);
    }
}

/// Takes `id` out of a sorted list; says whether it was there.
fn take(list: &mut Vec<ReplicaId>, id: ReplicaId) -> bool {
    let found = list.binary_search(&id);
    found.map(|at| list.remove(at)).is_ok()
}

fn has(list: &[ReplicaId], id: ReplicaId) -> bool {
    list.binary_search(&id).is_ok()
}

impl Membership {
    /// A configuration of these voters.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        let mut membership = Self::default();
        for voter in voters {
            put(&mut membership.voters, voter);
        }
        membership
    }

    /// A configuration as it was written: voters, outgoing, learners, learners to be, witnesses. `None` when the lists break an
    /// invariant.
    #[must_use]
    pub fn of_lists(lists: [Vec<ReplicaId>; 5], auto_leave: bool) -> Option<Self> {
        let [voters, outgoing, learners, learners_next, witnesses] = lists;
        let membership = Self {
            voters,
            outgoing,
            learners,
            learners_next,
            witnesses,
            auto_leave,
        };
        membership.fault().is_none().then_some(membership)
    }

    /// Its lists, in the order of [`of_lists`](Self::of_lists).
    #[must_use]
    pub fn lists(&self) -> [&[ReplicaId]; 5] {
        [
            &self.voters,
            &self.outgoing,
            &self.learners,
            &self.learners_next,
            &self.witnesses,
        ]
    }

    /// Voters; the incoming ones of a joint configuration. Sorted.
    #[must_use]
    pub fn voters(&self) -> &[ReplicaId] {
        &self.voters
    }

    /// The voters before the joint change that is under way; empty when there is none. Sorted.
    #[must_use]
    pub fn outgoing(&self) -> &[ReplicaId] {
        &self.outgoing
    }

    /// Who gets the log and does not vote. Sorted.
    #[must_use]
    pub fn learners(&self) -> &[ReplicaId] {
        &self.learners
    }

    /// Outgoing voters who become learners when the joint configuration is left. Sorted.
    #[must_use]
    pub fn learners_next(&self) -> &[ReplicaId] {
        &self.learners_next
    }

    /// Voters that have only the headers of commands. Sorted.
    #[must_use]
    pub fn witnesses(&self) -> &[ReplicaId] {
        &self.witnesses
    }

    /// Whether a joint change is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the leader shall leave the joint configuration as soon as it is committed.
    #[must_use]
    pub fn leaves_by_itself(&self) -> bool {
        self.auto_leave
    }

    /// Whether `id` votes, in either set.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        has(&self.voters, id) || has(&self.outgoing, id)
    }

    /// Whether `id` votes and has only headers.
    #[must_use]
    pub fn is_witness(&self, id: ReplicaId) -> bool {
        has(&self.witnesses, id)
    }

    /// Whether no incoming voter could lead: there is none, or all are witnesses.
    pub(crate) fn has_no_leader(&self) -> bool {
        self.voters.iter().all(|id| self.is_witness(*id))
    }

    /// Whether `id` gets the log, voting or not.
    #[must_use]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.is_voter(id) || has(&self.learners, id)
    }

    /// Whether there is one member at most.
    pub(crate) fn is_single(&self) -> bool {
        self.voters.len() + self.learners.len() <= 1 && self.outgoing.is_empty()
    }

    /// Everybody who gets the log, in order.
    pub fn members(&self) -> impl Iterator<Item = ReplicaId> {
        let mut members = [&*self.voters, &*self.outgoing, &*self.learners].concat();
        members.sort_unstable();
        members.dedup();
        members.into_iter()
    }

    fn sets(&self) -> [&[ReplicaId]; 2] {
        if planted_bug!("raft-learner-counts") && self.outgoing.is_empty() && !self.learners.is_empty() {
            return [&self.learners, &self.outgoing];
        }
        if planted_bug!("raft-joint-by-one") {
            return [&self.voters, &[]];
        }
        [&self.voters, &self.outgoing]
    }

    /// The highest number that a quorum has reached; `None` without voters.
    pub(crate) fn reached(&self, number: impl Fn(ReplicaId) -> u64) -> Option<u64> {
        self.committed(|id| Index(number(id))).map(|index| index.0)
    }

    /// Tells it apart from others in the chain of a log.
    pub(crate) fn checksum(&self) -> u32 {
        let mut checksum = u32::from(self.auto_leave);
        for list in self.lists() {
            checksum = checksum::extend(checksum, &(list.len() as u64).to_le_bytes());
            for id in list {
                checksum = checksum::extend(checksum, &id.0.to_le_bytes());
            }
        }
        checksum
    }

    /// The highest index that a quorum has reached; `None` without voters.
    #[must_use]
    pub fn committed(&self, reached: impl Fn(ReplicaId) -> Index) -> Option<Index> {
        quorum::joint_committed(self.sets(), reached)
    }

    /// What the votes decide; `None` is a vote not cast.
    #[must_use]
    pub fn vote_result(&self, vote: impl Fn(ReplicaId) -> Option<bool>) -> VoteResult {
        quorum::joint_vote_result(self.sets(), vote)
    }

    /// The configuration after changes that touch one voter at most.
    ///
    /// # Errors
    /// [`MembershipError`], says what to do instead.
    pub fn simple(&self, changes: &[MemberChange]) -> Result<Self, MembershipError> {
        if self.is_joint() {
            return Err(MembershipError::Joint);
        }
        let mut next = self.clone();
        next.change(changes)?;
        let one_sided = |a: &[ReplicaId], b: &[ReplicaId]| a.iter().filter(|id| !has(b, **id)).count();
        let changed = one_sided(&self.voters, &next.voters) + one_sided(&next.voters, &self.voters);
        if changed > 1 {
            return Err(MembershipError::SeveralVoters(changed));
        }
        next.assert_invariants();
        Ok(next)
    }

    /// The joint configuration that leads to these changes. `auto_leave`: the leader leaves it as soon as it is committed.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn enter_joint(&self, changes: &[MemberChange], auto_leave: bool) -> Result<Self, MembershipError> {
        if self.is_joint() {
            return Err(MembershipError::Joint);
        }
        if self.voters.is_empty() {
            return Err(MembershipError::NoVotersBefore);
        }
        let mut next = self.clone();
        next.outgoing.clone_from(&self.voters);
        next.auto_leave = auto_leave;
        next.change(changes)?;
        next.assert_invariants();
        Ok(next)
    }

    /// The configuration after the joint change that is under way.
    ///
    /// # Errors
    /// [`MembershipError::NotJoint`].
    pub fn leave_joint(&self) -> Result<Self, MembershipError> {
        if !self.is_joint() {
            return Err(MembershipError::NotJoint);
        }
        let mut next = Self {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            ..Self::default()
        };
        for &id in &self.learners_next {
            put(&mut next.learners, id);
        }
        let stays = |id: &&ReplicaId| has(&next.voters, **id);
        next.witnesses = self.witnesses.iter().filter(stays).copied().collect();
        next.assert_invariants();
        Ok(next)
    }

    fn change(&mut self, changes: &[MemberChange]) -> Result<(), MembershipError> {
        for &change in changes {
            match change {
                MemberChange::Voter(id) | MemberChange::Learner(id) if self.is_witness(id) => {
                    return Err(MembershipError::Witness(id));
                }
                MemberChange::Witness(id) if self.contains(id) && !self.is_witness(id) => {
                    return Err(MembershipError::Witness(id));
                }
                MemberChange::Witness(id) => {
                    put(&mut self.witnesses, id);
                    put(&mut self.voters, id);
                }
                MemberChange::Voter(id) => {
                    take(&mut self.learners, id);
                    take(&mut self.learners_next, id);
                    put(&mut self.voters, id);
                }
                MemberChange::Learner(id) => {
                    self.remove(id);
                    if has(&self.outgoing, id) {
                        put(&mut self.learners_next, id);
                    } else {
                        put(&mut self.learners, id);
                    }
                }
                MemberChange::Remove(id) => self.remove(id),
            }
        }
        if self.has_no_leader() {
            return Err(MembershipError::NoVotersLeft);
        }
        Ok(())
    }

    /// Takes `id` out of everything but the outgoing set.
    fn remove(&mut self, id: ReplicaId) {
        take(&mut self.voters, id);
        take(&mut self.learners, id);
        take(&mut self.learners_next, id);
        if !has(&self.outgoing, id) {
            take(&mut self.witnesses, id);
        }
    }

    /// Which invariant of the module is broken, if any.
    fn fault(&self) -> Option<String> {
        let both = |list: &[ReplicaId], other: &[ReplicaId]| list.iter().any(|id| has(other, *id));
        let waiting = &self.learners_next;
        let faults = [
            (
                !self.lists().iter().all(|list| list.is_sorted_by(|a, b| a < b)),
                "a list is not sorted, or has someone twice",
            ),
            (
                self.learners.iter().any(|id| self.is_voter(*id)),
                "someone is a voter and a learner",
            ),
            (
                !waiting.iter().all(|id| has(&self.outgoing, *id)),
                "someone waits and is no outgoing voter",
            ),
            (both(waiting, &self.voters), "someone waits and is a voter"),
            (
                !self.witnesses.iter().all(|id| self.is_voter(*id)),
                "someone is a witness without a vote",
            ),
            (
                !self.is_joint() && !waiting.is_empty(),
                "someone waits, and it is not joint",
            ),
            (!self.is_joint() && self.auto_leave, "it leaves and is not joint"),
        ];
        let (_, what) = faults.into_iter().find(|(broken, _)| *broken)?;
        Some(format!("{what}: {self}"))
    }

    /// Panics when an invariant of the module is broken.
    ///
    /// # Panics
    /// Never, unless there is a bug here.
    pub fn assert_invariants(&self) {
        let fault = self.fault();
        assert!(fault.is_none(), "{}", fault.unwrap_or_default());
    }
}

/// As in `voters=(2 3)&&(1) learners=(4) learners_next=(1) autoleave`.
impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, list: &[ReplicaId]| {
            f.write_str("(")?;
            for (at, id) in list.iter().enumerate() {
                write!(f, "{}{}", if at == 0 { "" } else { " " }, id.0)?;
            }
            f.write_str(")")
        };
        f.write_str("voters=")?;
        list(f, &self.voters)?;
        if self.is_joint() {
            f.write_str("&&")?;
            list(f, &self.outgoing)?;
        }
        for (name, ids) in [
            ("learners", &self.learners),
            ("learners_next", &self.learners_next),
            ("witnesses", &self.witnesses),
        ] {
            if !ids.is_empty() {
                write!(f, " {name}=")?;
                list(f, ids)?;
            }
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}
