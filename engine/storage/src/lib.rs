//! One range replica's tablet: a small LSM tree of memtables and sorted tables, multi-versioned by HLC timestamps.
//!
//! ```text
//!   Shared (per shard): block and row cache, memory budget, configuration
//!     │
//!   Tablet (per range replica)
//!     ├─ active memtable ◄── apply(index, ts, operations)          the shard's log has them durably already
//!     ├─ frozen memtables, each with the replica's opaque state
//!     └─ Version: sorted tables, newest first                      tablets/<range>/*.sst
//!          └─ described by edits                                   tablets/<range>/MANIFEST
//! ```
//!
//! Invariants:
//! - Storage never reads a clock: timestamps and indexes come in as arguments.
//! - Nothing here is written twice for durability: what a tablet lost by a crash is in the log, above its flushed index.
//! - What an earlier process left is taken for durable only after this one has synced it: a killed process may have written
//!   a manifest or changed a directory that a power failure takes back.
//! - No byte from the disk is used before its checksum, and its length or count, was checked.
//! - Memory is bounded: memtables by the shard's budget, blocks and rows by its caches, a merge or scan by its windows.
//!
//! Deliberately absent: levels, value separation, intents. Block kinds and edit tags leave room for them.

mod absorb;
mod cache;
mod compaction;
mod config;
mod content;
mod error;
mod extent;
mod files;
mod flush;
mod hash_index;
mod interleave;
mod manifest;
mod memtable;
mod mvcc;
mod read;
mod rows;
mod shared;
mod snapshot;
mod split;
mod sstable;
mod sync;
mod tablet;
mod together;
mod unreadable;
mod verify;
mod version;

pub use cache::CacheStats;
pub use compaction::job::MergePlan;
pub use config::{Compression, StorageConfig};
pub use error::{Corruption, NeedsIo, StorageError};
pub use extent::Extent;
pub use flush::{FlushCandidate, pick_flush};
pub use interleave::interleave;
pub use read::ahead::{Ahead, Need};
pub use read::scan::{Rows, ScanPage};
pub use shared::{Pressure, Shared};
pub use snapshot::{
    MissingBytes, SNAPSHOT_READ_BYTES_MAX, SnapshotDescription, SnapshotError, SnapshotFile,
    SnapshotReceiver, TabletSnapshot,
};
pub use split::Split;
pub use tablet::{Tablet, TabletStats};
pub use verify::{Damage, Scrub, ScrubPlace, TableCheck};
