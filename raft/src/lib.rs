//! Consensus for one group, as plain state machines: no I/O, no clock, no randomness of its own.
//!
//! What is here so far: [`Membership`], who takes part and how that changes, and the quorums that it asks for. Elections and
//! replication are not there yet.

mod membership;
mod quorum;

pub use membership::{MemberChange, Membership, MembershipError};
pub use quorum::{VoteResult, committed, joint_committed, joint_vote_result, majority, vote_result};
