//! Consensus for one group, as plain state machines: no I/O, no clock, no randomness of its own, no `async`, no `unsafe`.
//!
//! [`Raft`] is one replica. Inputs are calls, each of which returns at once; then [`Raft::ready`] says what to write, send,
//! apply and serve. Persistence is asynchronous: `ready` can be called again while earlier writes are under way, and what must
//! not leave before a write ends is handed out apart from what may.
//!
//! # The drive loop
//!
//! ```
//! use base::{Prng, ReplicaId};
//! use corelane_raft::{Config, Message, Raft, Ready, Restored};
//! use std::sync::Arc;
//!
//! // A new group of three; a replica that was stopped gives what its disk has instead.
//! let voters = [1, 2, 3].map(ReplicaId);
//! let config = Arc::new(Config::default());
//! let mut replicas = voters.map(|id| {
//!     let (config, seed) = (Arc::clone(&config), Prng::new(id.0));
//!     Raft::new(id, config, seed, Restored::first(voters))
//! });
//! let mut network: Vec<(ReplicaId, ReplicaId, Message)> = Vec::new();
//! let mut applied = [const { Vec::new() }; 3];
//! let mut ready = Ready::default();
//!
//! replicas[0].campaign_now(); // Otherwise `tick` does so when nobody leads.
//! let mut proposed = false;
//! loop {
//!     for (raft, applied) in replicas.iter_mut().zip(&mut applied) {
//!         let from = raft.id();
//!         while raft.ready(&mut ready) {
//!             // 1. What does not depend on the write leaves at once.
//!             network.extend(ready.messages.drain(..).map(|(to, message)| (from, to, message)));
//!             // 2. Here `snapshot`, `hard_state` and `raft.entries(&ready.entries)` are written and made durable, in this
//!             //    order; it may take as long as it takes, while more inputs come in.
//!             if let Some(mark) = ready.mark {
//!                 raft.persisted(mark);
//!             }
//!             // 3. What waited for the write.
//!             network.extend(ready.messages_after_persist.drain(..).map(|(to, message)| (from, to, message)));
//!             // 4. The state machine.
//!             applied.extend(raft.entries(&ready.committed).map(|entry| entry.index));
//!             if let Some(last) = applied.last() {
//!                 raft.applied(*last);
//!             }
//!             // 5. `reads` are served when their index is applied, so they may have to wait; `fetches` are read from the log;
//!             //    `events` are logged.
//!         }
//!     }
//!     if !proposed && replicas[0].is_leader() {
//!         replicas[0].propose(b"hello".as_slice().into()).expect("it leads");
//!         proposed = true;
//!     } else if network.is_empty() {
//!         break;
//!     }
//!     for (from, to, message) in network.drain(..) {
//!         let at = voters.iter().position(|id| *id == to).expect("one of three");
//!         replicas[at].step(from, message).expect("replicas send nothing malformed");
//!     }
//! }
//! // The leader's first entry, and the command, at the leader at least; the others hear of it with its next message.
//! assert!(applied[0].len() >= 2);
//! assert!(replicas[0].is_leader());
//! ```
//!
//! # Contract
//!
//! | call | the caller promises |
//! |---|---|
//! | [`Raft::new`] | everything in [`Restored`] is durable, and is all that was ever handed out by a write that ended; what is not there any more was judged by [`damage::judge`] |
//! | [`Raft::step`] | messages may be lost, doubled, reordered and late; they are not changed on the way, and come from whom they seem to come |
//! | [`Raft::tick`] | ticks come at about the same pace everywhere; see [`Config::lease_ticks`] |
//! | [`Raft::ready`] | everything handed out is done; nothing is said twice |
//! | [`Raft::persisted`] | the write is durable, and all before it; a write that failed stops the replica for good |
//! | [`Raft::applied`], [`Raft::compact`] | the state covers that index; durably, for `compact` |
//! | [`Raft::fetched`] | the entries are what is in the log; one that cannot be read is [`Raft::fetch_failed`] |
//! | [`Raft::liveness`] | the detector's contract: see [`liveness`] |
//!
//! A replica's id is never used again in its group, not even when its disk was replaced.
//!
//! # Where to find what
//!
//! | | source |
//! |---|---|
//! | elections, pre-vote, check-quorum, rank | `election`, `leader` |
//! | messages, their sources in the literature, and departures from them | [`message`] |
//! | replication: batches, windows, conflict hints, probes, snapshots, old entries from disk | `progress`, `leader`, `step` |
//! | the log: what is written, committed, delivered; the chain over its entries | `log` |
//! | members: simple and joint changes, learners, witnesses | `membership`, `quorum` |
//! | reads and leases | [`read`] |
//! | liveness from outside; groups that cost nothing while idle | [`liveness`] |
//! | damaged disks, forced recovery | [`damage`] |
//! | idle replicas in little memory | [`Hibernated`] |
//!
//! # What it bounds
//!
//! Entries of a leader in a turn ([`Config::turn_entries_max`], [`Config::turn_bytes_max`]) and not committed
//! ([`Config::uncommitted_bytes_max`]), entries under way to each follower, entries
//! delivered and not applied, reads that wait, entries kept in memory for followers that lag. A follower keeps in memory what
//! is not delivered.
//!
//! # Not there
//!
//! A proposal at a follower is refused with the leader's name, not forwarded. Damage in a majority of the replicas is not
//! repaired even where they complement each other.

mod cache;
mod check;
mod config;
pub mod damage;
mod election;
mod event;
mod hibernate;
mod leader;
pub mod liveness;
mod log;
mod membership;
pub mod message;
mod payload;
mod progress;
mod quorum;
mod raft;
pub mod read;
mod ready;
mod step;

pub use cache::Cache;
pub use config::{Config, Liveness};
pub use event::{Event, Withheld};
pub use hibernate::Hibernated;
pub use liveness::Support;
pub use membership::{MemberChange, Membership, MembershipError};
pub use message::{Body, Content, Entry, Epoch, HardState, Mark, Message, ReadToken, Snapshot};
pub use payload::Payload;
pub use quorum::{VoteResult, committed, joint_committed, joint_vote_result, majority, vote_result};
pub use raft::{Malformed, NextTick, ProposeError, Raft, Restored};
pub use read::ReadError;
pub use ready::{Fetch, PersistMark, Read, Ready};
