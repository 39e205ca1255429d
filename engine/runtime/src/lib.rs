//! The seam on the real machine: `env`'s traits on glommio executors and io_uring.
//!
//! The only crate that names glommio, libc, `std::fs` or threads. One process runs one pinned executor per shard:
//!
//! ```text
//!    preflight ─► run_shards ─┬─► shard 0: glommio executor ── tasks (foreground, background)
//!                             │      └─ reactor: one io_uring ring for files and sockets
//!                             ├─► shard 1: …                       ▲ wakes by eventfd
//!                             ├─► stall watcher (one thread)       │
//!                             └─► shutdown (signals) ── mailbox rings between the shards
//! ```
//!
//! glommio gives executors and task queues with shares. Files, sockets and timers go through a ring of our own
//! (`reactor`), which costs less per message and keeps glommio's disk faults away (`docs/decisions/0002-net-path.md`).
//!
//! Invariants:
//! - Nothing of one shard is touched by another, except the mailbox rings and the parkers beside them.
//! - A shard's thread never blocks on a file or a name: what the ring cannot do runs on a blocking thread.
//! - Atomics live in `mailbox`, `blocking`, `stall` and `shutdown` only.
#![allow(unsafe_code, reason = "the system's interface; each block argues its case")]

#[cfg(not(loom))]
mod config;
pub mod mailbox;

#[cfg(not(loom))]
mod blocking;
#[cfg(not(loom))]
mod disk;
#[cfg(not(loom))]
mod env_glommio;
#[cfg(not(loom))]
mod faults;
#[cfg(not(loom))]
mod net;
#[cfg(not(loom))]
mod preflight;
#[cfg(not(loom))]
mod reactor;
#[cfg(not(loom))]
mod shutdown;
#[cfg(not(loom))]
mod stall;
#[cfg(not(loom))]
mod start;
#[cfg(not(loom))]
mod tasks;

#[cfg(not(loom))]
pub use config::{RuntimeConfig, RuntimeError};
#[cfg(not(loom))]
pub use disk::{Buffer, DiskFile, DiskFs};
#[cfg(not(loom))]
pub use env_glommio::{GlommioEnv, MonotonicClock};
#[cfg(not(loom))]
pub use mailbox::RingMailbox;
#[cfg(not(loom))]
pub use net::{Socket, SocketListener, SocketReader, SocketWriter, TcpNet};
#[cfg(not(loom))]
pub use preflight::{Check, PreflightError, PreflightReport, Verdict, inspect, preflight};
#[cfg(not(loom))]
pub use shutdown::{request_shutdown, shutdown_requested};
#[cfg(not(loom))]
#[cfg(not(loom))]
pub use start::run_shards;
#[cfg(not(loom))]
pub use tasks::TaskQueues;
