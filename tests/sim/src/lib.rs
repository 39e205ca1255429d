//! The seam under one seed: machines with disks, clocks, rings and a network between them, on one thread in virtual time.
//!
//! ```text
//!   Sim ── add_node ─► machine: disk, clocks ── env(shard) ─► SimEnv: env::Env
//!    │                    │ crash, kill, restart                 Clock  Disk  Net  Tasks  Prng
//!    │ run, block_on      └ mailboxes ─► SimMailbox per shard
//!    ▼
//!   ready tasks in drawn order; when none is ready, time jumps to the next event
//! ```
//!
//! Each part states its fault model: [`disk`], [`net`], [`clock`], [`mailbox`]. [`SimConfig::swarm`] draws how often each
//! fault fires, [`Sim::report`] counts how often it did. [`ImageMachine`] is a small world of its own for tests that open
//! tens of thousands of disks; [`DiskTrace`] enumerates the crash points of a recording.
//!
//! Invariants:
//! - A run is a function of its seed, its configuration and the code: no real time, no threads, no addresses, no hash order.
//! - Time advances only when no task is ready.
//! - A process that has ended does nothing: its tasks are dropped, and their destructors have no effect.
//! - Every fault is counted when it fires.

pub mod clock;
mod config;
pub mod disk;
mod env;
mod executor;
pub mod image;
pub mod mailbox;
pub mod net;
mod sim;
mod tasks;
mod timeline;
mod trace;
mod world;

pub use crate::env::SimEnv;
pub use clock::SimClock;
pub use config::{ClockConfig, DiskConfig, MailboxConfig, NetConfig, Schedule, SimConfig};
pub use disk::{Boundary, DiskImage, DiskRule, DiskTrace, SimBuf, SimDisk, SimFile};
pub use image::{ImageEnv, ImageMachine};
pub use mailbox::SimMailbox;
pub use net::{SimListener, SimNet, SimReader, SimSocket, SimWriter};
pub use sim::{Report, Sim, SimNodeId, Stuck};
pub use tasks::SimTasks;
pub use trace::Fault;
