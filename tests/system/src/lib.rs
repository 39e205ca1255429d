//! Whole nodes in the simulator: a seed draws shards, tunables, workload and faults; clients speak wire over the simulated
//! network; checkers judge what they were told.
//!
//! ```text
//!   seed ─► scenario ─► run ── process: node::run_shard × shards on sim, crashed, restarted, supervised
//!                        │  ── client, workload: calls over wire, retried until settled; words: policies are set
//!                        └──── history ─► check
//!   swarm   many seeds: what fired, what was reached, what went wrong
//! ```
//!
//! A run has two phases. In the first, *safety*, everything that the scenario draws goes wrong. In the second, *liveness*,
//! the world is calm, and every call that is open must end within [`scenario::Scenario::finish`] of virtual time.

pub mod bank;
pub mod check;
pub mod client;
pub mod flips;
pub mod history;
pub mod process;
pub mod replicas;
pub mod run;
pub mod scenario;
pub mod swarm;
pub mod trials;
pub mod words;
pub mod workload;

/// Shards of a node, at most.
pub const SHARDS_MAX: u16 = 4;
