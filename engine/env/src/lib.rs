//! The seam: everything that a node may ask of the world, as a few small traits.
//!
//! Implemented twice: by `runtime` on glommio for production, and by `sim` on one thread from one seed. The same node code
//! runs on both, and one conformance suite holds both to these contracts. Pure cores never see this crate: they take values.
//!
//! ```text
//!    node, log, storage, transport          (generic over E: Env)
//!  ─────────────────────────────────
//!    Clock  Disk+File  Net+Stream  Mailbox  Tasks  Prng
//!  ─────────────────────────────────
//!    runtime (glommio)      sim (seed)
//! ```
//!
//! Invariants:
//! - One `Env` value belongs to one shard. Nothing here is `Send`, except what a [`Mailbox`] carries.
//! - No method panics for a reason outside the caller; I/O that fails says which operation, file and offset.
//! - Buffers for disk I/O are owned, aligned to [`base::limits::BLOCK_BYTES`], and come back with the result.

pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod disk;
pub mod mailbox;
pub mod net;
pub mod sync;
pub mod tasks;

pub use clock::{Clock, Instant};
pub use disk::{DirEntry, Disk, DiskError, DiskOp, File, IoBuf, OpenMode};
pub use mailbox::Mailbox;
pub use net::{Address, Listener, Net, NetError, Reader, Writer};
pub use tasks::{TaskClass, Tasks, TurnStats};

use base::Prng;

/// One shard's world.
pub trait Env: Clone + 'static {
    /// Time.
    type Clock: Clock;
    /// Files.
    type Disk: Disk;
    /// Connections.
    type Net: Net;
    /// Concurrency on this thread.
    type Tasks: Tasks;

    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// Files, below the node's data directory.
    fn disk(&self) -> &Self::Disk;
    /// Connections.
    fn net(&self) -> &Self::Net;
    /// Concurrency on this thread.
    fn tasks(&self) -> &Self::Tasks;
    /// A fresh generator: seeded by the operating system in production, by the run's seed in simulation.
    fn prng(&self) -> Prng;
}
