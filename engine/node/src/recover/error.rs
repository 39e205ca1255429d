//! Why a data directory could not be recovered.

use crate::spilled::OpenError;
use base::{Index, RangeId, ShardId};
use env::DiskError;
use log::{LogError, Position};
use replica::replica::StateError;
use replica::{CommandError, SpillError};
use storage::StorageError;

/// The data directory could not be recovered. Nothing was changed beyond what recovery may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The log is damaged or could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A tablet is damaged or could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A replica's state is of another version.
    #[error(transparent)]
    State(#[from] StateError),
    /// The tables of a replica have other spilled intents than its state says.
    #[error(transparent)]
    Spilled(#[from] SpillError),
    /// An entry is of another version.
    #[error("entry {index} of range {range} at {position:?}: {error}")]
    Command {
        /// The range.
        range: RangeId,
        /// The entry.
        index: Index,
        /// Where it stands in the log.
        position: Position,
        /// What is wrong with it.
        error: CommandError,
    },
    /// A range has replicas elsewhere, and the node was started as one that is alone.
    #[error("range {range} has replicas on other nodes: start this node with the nodes of its cluster")]
    NotAlone {
        /// The range.
        range: RangeId,
    },
    /// A replica that is damaged is on a shard that is gone: its end is up to that shard.
    #[error(
        "the replica of range {range} on shard {shard} is damaged, and the shard is gone: start with as many shards as before, \
         until its group has given this node another one"
    )]
    Stays {
        /// The range.
        range: RangeId,
        /// The shard.
        shard: ShardId,
    },
    /// Who takes part is written in another version.
    #[error(
        "entry {index} of range {range} at {position:?} names members that this version of corelane does not know"
    )]
    Members {
        /// The range.
        range: RangeId,
        /// The entry.
        index: Index,
        /// Where it stands in the log.
        position: Position,
    },
    /// An entry does not follow on the one before it, although its record is whole.
    #[error("entry {index} of range {range} at {position:?} does not follow the entry before it")]
    Chain {
        /// The range.
        range: RangeId,
        /// The entry.
        index: Index,
        /// Where it stands in the log.
        position: Position,
    },
    /// Entries between what the tables hold and what the log holds are missing.
    #[error(
        "range {range} is at entry {applied}, and the log goes on with entry {found}: entries are missing"
    )]
    Gap {
        /// The range.
        range: RangeId,
        /// The last entry that the range has.
        applied: Index,
        /// The next one in the log.
        found: Index,
    },
    /// A range is marked as this shard's and has neither a tablet nor a split that makes one, yet the log has entries of it.
    #[error("range {range} has entries in the log of shard {shard} and no tablet")]
    NoTablet {
        /// The range.
        range: RangeId,
        /// The shard.
        shard: ShardId,
    },
}

impl From<OpenError> for RecoverError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::State(error) => error.into(),
            OpenError::Storage(error) => error.into(),
            OpenError::Spilled(error) => error.into(),
        }
    }
}
