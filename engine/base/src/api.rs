//! The operations of a range, as borrowed values. The wire archives them, the replica evaluates them, the client builds them.

use crate::{ClientId, Timestamp};
use core::time::Duration;

/// The moment that a read shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAt {
    /// Now: everything that was acknowledged before. Only the leader of the range can.
    Newest,
    /// This timestamp. Every replica that knows the range to be closed up to there can, and the leader.
    At(Timestamp),
    /// So long before the clock of whoever serves it.
    Ago(Duration),
    /// As late as whoever serves it can show without asking anybody, and at most so long before its clock.
    Within(Duration),
}

impl ReadAt {
    /// The timestamp, where one was chosen; or else the newest.
    #[must_use]
    pub fn of(ts: Option<Timestamp>) -> Self {
        ts.map_or(Self::Newest, Self::At)
    }

    /// Whether the moment is named by its age: then replicas that do not lead may serve it, and whoever asked hears which it was.
    #[must_use]
    pub fn is_stale(self) -> bool {
        match self {
            Self::Newest | Self::At(_) => false,
            Self::Ago(_) | Self::Within(_) => true,
        }
    }
}

/// One mutation of an atomic write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOp<'a> {
    /// Sets `key` to `value`.
    Put {
        /// At most [`crate::limits::KEY_BYTES_MAX`].
        key: &'a [u8],
        /// At most [`crate::limits::VALUE_BYTES_MAX`].
        value: &'a [u8],
    },
    /// Removes `key`, if it is there.
    Delete {
        /// At most [`crate::limits::KEY_BYTES_MAX`].
        key: &'a [u8],
    },
    /// Removes every key in `[start, end)`; `None` reaches to the end of the range's span.
    DeleteRange {
        /// The first key removed.
        start: &'a [u8],
        /// The first key kept.
        end: Option<&'a [u8]>,
    },
}

impl<'a> WriteOp<'a> {
    /// The key, or the start of the span, that the operation touches.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Self::Put { key, .. } | Self::Delete { key } => key,
            Self::DeleteRange { start, .. } => start,
        }
    }
}

/// What must hold of a key for a conditional write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The key has no value.
    Absent {
        /// The key looked at.
        key: &'a [u8],
    },
    /// The key has exactly this value.
    Equals {
        /// The key looked at.
        key: &'a [u8],
        /// The value expected.
        value: &'a [u8],
    },
}

impl<'a> Condition<'a> {
    /// The key looked at.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Self::Absent { key } | Self::Equals { key, .. } => key,
        }
    }
}

/// Names a write over all its retries: the same client and sequence number is the same write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteId {
    /// The client's session.
    pub client: ClientId,
    /// Increases by one with each write of the session, from 1.
    pub seq: u64,
    /// Every write of the session below this number has been answered: its result may be forgotten.
    pub acked_below: u64,
}

/// How a write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Applied and durable at `ts`.
    Applied {
        /// The timestamp of every version that the write made.
        ts: Timestamp,
    },
    /// A condition did not hold; nothing was written.
    ConditionFailed {
        /// The position of the first condition that failed.
        condition: u32,
        /// The value found in its place, if any.
        found: Option<Vec<u8>>,
        /// The timestamp at which it was looked at.
        ts: Timestamp,
    },
}
