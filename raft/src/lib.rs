//! Consensus for one group, as plain state machines: no I/O, no clock, no randomness of its own.
//!
//! [`Raft`] is one replica. Inputs are calls; after them [`Raft::ready`] says what to write, send and apply.
//!
//! Here: elections with pre-vote and check-quorum, batched and pipelined replication, asynchronous persistence, snapshots,
//! joint changes of the members, learners, transfer of leadership.
//!
//! Not there yet: leases and reads, witnesses, liveness from outside, repair of damaged entries, forced recovery, a hash chain
//! over entries, priorities, a window by bytes, leaving a joint configuration by hand, trace events.
//! Bounds that the caller must keep meanwhile: proposals that are not committed, and entries since the last compaction, are all
//! kept in memory.

mod config;
mod leader;
mod log;
mod membership;
mod message;
mod progress;
mod quorum;
mod raft;
mod ready;

pub use config::Config;
pub use membership::{MemberChange, Membership, MembershipError};
pub use message::{Body, Content, Entry, HardState, Mark, Message, Payload, Snapshot};
pub use quorum::{VoteResult, committed, joint_committed, joint_vote_result, majority, vote_result};
pub use raft::{Malformed, ProposeError, Raft, Restored};
pub use ready::{PersistMark, Ready};
