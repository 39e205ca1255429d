//! Records: what ranges put into the log.

use base::{Index, NodeId, RangeId, Seqno, Term};

/// One record of the log. Payloads are borrowed: from the caller on the way in, from the read buffer on the way out, where
/// they are 16-byte aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry of a range's log.
    Entry {
        /// The range.
        range: RangeId,
        /// Its position in the range's log.
        index: Index,
        /// The term of the leader that made it.
        term: Term,
        /// The command. At most [`base::limits::FRAME_BYTES_MAX`] bytes.
        payload: &'a [u8],
    },
    /// A range's term, vote and commit index. The newest one counts; the log keeps it when its segment is dropped.
    HardState {
        /// The range.
        range: RangeId,
        /// The current term.
        term: Term,
        /// Who got this replica's vote in `term`.
        vote: Option<NodeId>,
        /// The greatest index known to be committed.
        commit: Index,
    },
    /// Entries of the range with an index greater than `after` that come earlier in the log are void.
    Truncate {
        /// The range.
        range: RangeId,
        /// The last entry that is kept.
        after: Index,
    },
    /// The range has left this shard: everything of it that comes earlier in the log is void. Written by
    /// [`crate::Log::forget`].
    Forget {
        /// The range.
        range: RangeId,
    },
}

impl Record<'_> {
    /// The range that the record belongs to.
    #[must_use]
    pub fn range(&self) -> RangeId {
        match *self {
            Self::Entry { range, .. }
            | Self::HardState { range, .. }
            | Self::Truncate { range, .. }
            | Self::Forget { range } => range,
        }
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The batch.
    pub seqno: Seqno,
    /// The segment's number.
    pub segment: u64,
    /// The record's offset in the segment, in bytes.
    pub offset: u64,
}
