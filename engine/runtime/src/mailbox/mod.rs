//! Mailboxes between the shards of a process: for each ordered pair one bounded ring, and one parker per shard.
//!
//! - [`ring`]: the single-producer single-consumer ring.
//! - [`wake`]: parking without losing a wake-up.
//! - `mesh` (not under loom): all rings of a process, and a shard's end of them.

#[cfg(not(loom))]
mod mesh;
pub mod ring;
mod sync;
pub mod wake;

#[cfg(not(loom))]
pub use mesh::RingMailbox;
#[cfg(not(loom))]
pub(crate) use mesh::{EventBell, Inputs, Seat, mesh};
