//! One range replica's tablet: a small LSM tree of memtables and sorted tables, multi-versioned by HLC timestamps.

mod config;
mod error;
#[allow(dead_code, reason = "tmp")]
mod memtable;
#[allow(dead_code, reason = "tmp")]
mod mvcc;
mod prefetch;
mod shared;
mod tablet;

pub use config::{Compression, StorageConfig};
pub use error::{Corruption, NeedsIo, StorageError};
pub use shared::{Pressure, Shared};
pub use tablet::{Damage, FlushCandidate, MergePlan, Rows, ScanPage, Split, Tablet, TabletStats, pick_flush};
