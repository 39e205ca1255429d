//! Why storage may refuse.

use base::{RangeId, Timestamp};
use env::DiskError;

/// Bytes on disk are not what was written, or cannot be read: named by file and offset, never served, never silently skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} at offset {offset}: {what}: expected {expected:#x}, found {found:#x}")]
pub struct Corruption {
    /// The file, relative to the data directory.
    pub file: String,
    /// Where in the file the damaged structure begins.
    pub offset: u64,
    /// What was checked.
    pub what: &'static str,
    /// What it should have been.
    pub expected: u64,
    /// What it was.
    pub found: u64,
}

/// Why an operation on a tablet failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// A file is damaged. The caller repairs the range from elsewhere; the tablet stays as it is.
    #[error("corruption in {0}")]
    Corruption(#[from] Corruption),
    /// The disk failed. After a failed write or sync the tablet is poisoned and the node stops.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier write or sync of this tablet failed or was abandoned, so its files are in doubt.
    #[error("an earlier write of range {range} failed: its files are in doubt until the next start")]
    Poisoned {
        /// The tablet's range.
        range: RangeId,
    },
    /// The versions that the read asks for may have been collected already.
    #[error("read at {read_ts} is below the garbage collection threshold {gc_threshold}")]
    BelowGcThreshold {
        /// What was asked for.
        read_ts: Timestamp,
        /// The oldest timestamp that can be read.
        gc_threshold: Timestamp,
    },
    /// There is no tablet of that range in the data directory.
    #[error("range {range} has no tablet here")]
    NoSuchTablet {
        /// The range asked for.
        range: RangeId,
    },
    /// The range has a tablet already.
    #[error("range {range} has a tablet already")]
    AlreadyExists {
        /// The range asked for.
        range: RangeId,
    },
}

impl StorageError {
    /// Whether the same call may succeed later without anything being repaired first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Corruption(_)
            | Self::Disk(_)
            | Self::Poisoned { .. }
            | Self::BelowGcThreshold { .. }
            | Self::NoSuchTablet { .. }
            | Self::AlreadyExists { .. } => false,
        }
    }
}

/// The answer is not in memory: call [`Tablet::get`](crate::Tablet::get), which reads the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not in memory")]
pub struct NeedsIo;
