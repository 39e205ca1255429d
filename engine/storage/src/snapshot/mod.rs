//! Raft snapshots, the storage half: a tablet's durable state goes to a replica that the log does not reach any more.
//!
//! ```text
//!   sender                                       receiver
//!   Tablet::snapshot ──────── description ─────► Tablet::receive, Tablet::receive_new
//!                        ◄─── what is due ───── SnapshotReceiver::due
//!   TabletSnapshot::read ──── its bytes ───────► SnapshotReceiver::write      <id>-….part, whole ….received
//!                                                SnapshotReceiver::install    links, manifest anew, memory, old files
//! ```
//!
//! What goes over is what the sender's manifest says and its tables: the memtables are in the log behind the flushed index.
//! Tables go as files, byte for byte, keys outside the span included: a split left them there, and the span, which goes with
//! them, hides them as it does at the sender.
//!
//! Invariants:
//! - What a snapshot names stays on the disk while the snapshot lives, whatever flushes and merges do.
//! - A received file counts when it is whole, synced and every checksum of it was verified by this process.
//! - A tablet's directory says the old state, or the new one, complete: a manifest written anew, in one rename, is the border.
//! - What was received is there until it is installed: a crash costs at most the file that was being received.
//!
//! Deliberately absent: a difference to tables that the receiver has already; the transport, and its pace.

mod description;
mod install;
mod name;
mod receiver;
mod sender;

pub use description::{SnapshotDescription, SnapshotFile};
pub(crate) use name::is_received_for_later;
pub use receiver::{MissingBytes, SnapshotReceiver};
pub use sender::TabletSnapshot;

use crate::StorageError;
use base::{Index, RangeId};

/// The most bytes that one read of a snapshot gives.
pub const SNAPSHOT_READ_BYTES_MAX: usize = 1 << 20;

/// Why a raft snapshot cannot be taken, read, received or installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The disk, damage, or the state of the tablet. Damage names the received file: it is gone, and to be received again.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A split of the tablet, or the one that makes it, is not durable yet.
    #[error("a split of range {range} is not durable yet")]
    SplitPending {
        /// The tablet's range.
        range: RangeId,
    },
    /// The bytes are not a description.
    #[error("the description of a snapshot is malformed: {what}")]
    Malformed {
        /// What was checked.
        what: &'static str,
    },
    /// The description is one of another range.
    #[error("a snapshot of range {found} was sent for range {expected}")]
    OtherRange {
        /// The range that receives.
        expected: RangeId,
        /// The range that was sent.
        found: RangeId,
    },
    /// The tablet has everything that the snapshot has.
    #[error("a snapshot at {index} brings nothing to a tablet that has applied {applied}")]
    Stale {
        /// The snapshot's index.
        index: Index,
        /// The tablet's applied index.
        applied: Index,
    },
    /// The range is receiving a snapshot already.
    #[error("range {range} is receiving a snapshot already")]
    Receiving {
        /// The range.
        range: RangeId,
    },
    /// The snapshot has no such bytes, or they are not the ones that are due.
    #[error("bytes at {offset} of file {file:016x} are not what is due")]
    UnexpectedBytes {
        /// [`SnapshotFile::id`].
        file: u64,
        /// Where in the file.
        offset: u64,
    },
}

impl SnapshotError {
    /// Whether the same call may succeed later without anything being repaired first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::SplitPending { .. } | Self::Receiving { .. } => true,
            Self::Storage(error) => error.is_retryable(),
            Self::Malformed { .. }
            | Self::OtherRange { .. }
            | Self::Stale { .. }
            | Self::UnexpectedBytes { .. } => false,
        }
    }
}
