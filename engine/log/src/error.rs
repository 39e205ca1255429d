//! What can go wrong, with what it went wrong on.

use crate::config::ConfigError;
use env::DiskError;

/// Bytes that were once acknowledged, or must have been written by us, are not what they should be.
///
/// Nothing on disk was changed. The remedy is repair from other replicas or from a backup, never a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at offset {offset}: expected {expected}, found {found}")]
pub struct Corruption {
    /// The segment's file, relative to the data directory.
    pub file: String,
    /// Where the damaged block starts.
    pub offset: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// A log could not be opened, read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk failed. After a failed write or sync the log is of no further use: stop the node.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log is damaged.
    #[error(transparent)]
    Corruption(#[from] Corruption),
    /// The log was written by a newer corelane.
    #[error("{file} has log format version {found}; this program reads up to {supported}")]
    Version {
        /// The segment's file, relative to the data directory.
        file: String,
        /// The version that it states.
        found: u16,
        /// The newest version that this program reads.
        supported: u16,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// Whether the same call may succeed later: never, a log fails once and for all.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Config(_) | Self::Disk(_) | Self::Corruption(_) | Self::Version { .. } | Self::Closed => {
                false
            }
        }
    }
}
