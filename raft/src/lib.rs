//! Consensus for one group, as plain state machines: no I/O, no clock, no randomness of its own.

mod check;
mod config;
pub mod damage;
mod election;
mod event;
mod leader;
mod liveness;
mod log;
mod membership;
mod message;
mod payload;
mod progress;
mod quorum;
mod raft;
mod read;
mod ready;
mod step;

pub use config::{Config, Liveness};
pub use event::{Event, Withheld};
pub use liveness::Support;
pub use membership::{MemberChange, Membership, MembershipError};
pub use message::{Body, Content, Entry, Epoch, HardState, Mark, Message, ReadToken, Snapshot};
pub use payload::Payload;
pub use quorum::{VoteResult, committed, joint_committed, joint_vote_result, majority, vote_result};
pub use raft::{Malformed, ProposeError, Raft, Restored};
pub use read::ReadError;
pub use ready::{Fetch, PersistMark, Read, Ready};
