//! Placement: where replicas and leases are, which ranges are split and merged, as a pure function of the cluster's state.
//!
//! No I/O, no clock, no randomness, no `async`, no `unsafe`. The node that has the lease of the system range is to call [`plan`] in
//! its loop and carry out the steps; nothing is remembered between calls but a [`Cursor`], which may be lost, so another node can
//! go on at any time. [`explain`] says why a range is where it is.
//!
//! ```
//! use base::key::Span;
//! use base::{NodeId, RangeId, ShardId};
//! use corelane_placement::{Cluster, Config, Cursor, Load, Node, Place, Range, Replica, Shard, plan};
//!
//! let room = Load { bytes: 1 << 40, cpu_ns: 1_000_000_000, leases: 0 };
//! let node = |id| Node {
//!     id: NodeId(id),
//!     shards: vec![Shard { id: ShardId(0), capacity: room, load: Load::default() }],
//!     ..Node::default()
//! };
//! let replica = Replica { place: Place::new(NodeId(1), ShardId(0)), up_to_date: true, ..Replica::default() };
//! let range = Range {
//!     id: RangeId(7),
//!     span: Span::all(),
//!     replicas: vec![replica],
//!     leaseholder: Some(NodeId(1)),
//!     ..Range::default()
//! };
//! let cluster = Cluster { nodes: [1, 2, 3].map(node).into(), ranges: vec![range], ..Cluster::default() };
//!
//! let mut cursor = Cursor::default();
//! // 250 ranges a call keep a loop turn short; the next call goes on behind them.
//! let plan = plan(&cluster, &Config::default(), &cursor, 250);
//! cursor = plan.cursor;
//! let sentences: Vec<String> = plan.decisions.iter().map(ToString::to_string).collect();
//! assert_eq!(sentences, ["r7: add a learner on n2/s0, sent by n1: it has 1 of 3 voters"]);
//! # let _ = cursor;
//! ```
//!
//! # Contract of the caller
//!
//! - What it begins stands in [`Cluster::pending`] until it is over, whether it succeeded or not.
//! - [`Replica::replaces`] and [`Replica::source`] are kept in the range's descriptor as the step said; `replaces` is dropped when
//!   the replaced replica is gone. That makes a move of five steps (add a learner, promote it, transfer the lease, demote the old
//!   voter, remove it) end where it began to go, although every step is decided anew.
//! - Loads are at least as new as the last step that is over.
//! - A step may have become impossible when it is carried out; the range's group refuses it then.
//!
//! # Invariants
//!
//! Each is checked after every call of the simulation by a checker that shares no code with the crate (`tests/checker`), unless it
//! says otherwise.
//!
//! - **P1, order**: decisions come in the order of [`Class`]: danger to the quorum, too few voters, constraints, too many replicas,
//!   nodes that leave, lease preferences, spread, co-location, balance; splits and merges have a number of their own.
//! - **P2, majority**: a step leaves as many live, up-to-date voters as a majority of the new members is, and is proposed only when
//!   the old members have a live majority, which has to agree to it. A suspect node does not count as live. A voter that has data
//!   is among them.
//! - **P3, learners first**: a replica begins as a learner, and is promoted only when it is up to date.
//! - **P4, one at a time**: at most one step for a range, and none while one is under way.
//! - **P5, one per node**: no two replicas of a range on one node; where there are two, one goes.
//! - **P6, spread**: no step for spread, co-location or balance makes replicas share more failure domains, and one for a merge
//!   ends where they share no more; a swap that makes them share fewer is done before any balance. The widest tier counts first.
//! - **P7, leases**: a lease goes only to a live, up-to-date voter with data on a node that is neither suspect, draining nor leaving,
//!   and whose disk takes writes.
//! - **P8, patience**: a replica on a dead node is replaced after [`Config::dead_after_ns`]; one on a suspect node never.
//!   (When a range has more voters than it needs, one on a dead node is the first to go, however short that is dead.)
//! - **P9, the cheaper way**: when the node is back and up to date, its replacement goes if it is a learner still; a replacement
//!   that is up to date before the node is takes over (stories `repair/returns_*`).
//! - **P10, pace**: at most [`Config::snapshots_in_max`] and [`Config::snapshots_out_max`] states on the way to and from a node,
//!   [`Config::decisions_max`], [`Config::splits_max`] and [`Config::held_max`] in a call.
//! - **P11, stillness**: no range moves from A to B and back within [`Config::still_ns`]; a cluster that has converged is silent,
//!   also when the CPU time of every range is off by up to a fifth at every look (`tests/noise.rs`).
//! - **P12, convergence**: without events, steps end; then all policies are satisfied where that is possible, and what is not
//!   possible is said.
//! - **P13, function**: the same input gives the same plan, whatever the order of its lists.
//! - **P14, total**: no input panics (`tests/hostile.rs`).
//! - **P15, merges**: only cold neighbours of one policy that together stay below a third of the split size, and not within
//!   [`Config::merge_after_ns`] of a split, or of a time at which they were not cold.
//!
//! # Where to find what
//!
//! | | source |
//! |---|---|
//! | the input | [`cluster`], [`policy`] |
//! | one call: slices, order, what is counted | `plan`, `view` |
//! | what is safe for one range | `group` |
//! | replicas: repair, constraints, decommissioning | `repair`, `candidate` |
//! | leases, co-location | `lease` |
//! | spread and balance, and why they do not flap | `balance` |
//! | splits and merges, the load sample | `split`, [`sample`] |
//! | sentences | [`decision`], `explain` |
//!
//! # Not there
//!
//! - No learners for reading, and no witness is ever made; those that are there are counted.
//! - Balance knows means over all live nodes, not over those that a constraint leaves.
//! - A draining or leaving node gives its leases away one decision each; there is no bulk step.

mod balance;
mod candidate;
pub mod cluster;
mod config;
pub mod decision;
mod explain;
mod group;
mod lease;
mod plan;
pub mod policy;
mod repair;
pub mod sample;
mod split;
mod view;

pub use cluster::{
    Cluster, DISK_FULL_PERMILLE, Kind, Load, LoadSplit, Locality, Node, NodeState, Pending, Place, Range,
    Replaces, Replica, Shard,
};
pub use config::{Band, Config};
pub use decision::{Action, Class, Decision, Reason, Resource, SplitBy};
pub use explain::{Explanation, explain};
pub use plan::{Cursor, Plan, plan};
pub use policy::{Constraint, Policy};
pub use sample::LoadSample;
