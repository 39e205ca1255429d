//! What a replica wants done. Each obligation is handed out exactly once.

use crate::event::Event;
use crate::message::{HardState, Message, ReadToken, Snapshot};
use base::{Index, ReplicaId};
use core::ops::Range;

/// Names a write. Writes end in the order in which they were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistMark(pub(crate) u64);

/// What a replica wants done; the caller keeps one and drains it each time.
///
/// Contract: write `snapshot`, then `hard_state` and `entries`, and call [`persisted`](crate::Raft::persisted) with `mark` when
/// that and everything before it is durable. `messages` may leave at once, `messages_after_persist` when the write of
/// `mark` is durable. Several may be under way. Apply `committed` in order, and call [`applied`](crate::Raft::applied).
#[derive(Debug, Default)]
pub struct Ready {
    /// May leave now.
    pub messages: Vec<(ReplicaId, Message)>,
    /// Leave when `mark` is durable.
    pub messages_after_persist: Vec<(ReplicaId, Message)>,
    /// To write in place of what was written before.
    pub hard_state: Option<HardState>,
    /// To install durably, in place of log and state.
    pub snapshot: Option<Snapshot>,
    /// To write; the first takes the place of what was written at its index and after it. As long as nothing else is called
    /// that changes the replica, but [`persisted`](crate::Raft::persisted) and [`applied`](crate::Raft::applied),
    /// [`Raft::entries`](crate::Raft::entries) has them: whoever writes later makes a copy.
    pub entries: Range<Index>,
    /// To apply; found in the same way.
    pub committed: Range<Index>,
    /// To serve when everything up to their index is applied.
    pub reads: Vec<Read>,
    /// Entries to read from the log, for followers that lag behind what is kept in memory.
    pub fetches: Vec<Fetch>,
    /// What happened.
    pub events: Vec<Event>,
    /// The name of the write, when there is one or messages that wait for the one before.
    pub mark: Option<PersistMark>,
}

/// A read that is linearizable once everything up to `index` is applied here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Read {
    /// As it was asked for.
    pub token: ReadToken,
    /// What must have been applied.
    pub index: Index,
}

/// Entries wanted from the log on disk. Answer with [`fetched`](crate::Raft::fetched), or
/// [`fetch_failed`](crate::Raft::fetch_failed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fetch {
    /// For whom; names the fetch, of which there is one at a time for each.
    pub peer: ReplicaId,
    /// The first entry.
    pub first: Index,
    /// The last one, at most.
    pub last: Index,
    /// Bytes, as counted by [`Entry::bytes`](crate::Entry::bytes), except that one entry always fits.
    pub bytes_max: usize,
}

impl Ready {
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.messages_after_persist.clear();
        self.hard_state = None;
        self.snapshot = None;
        self.entries = Range::default();
        self.committed = Range::default();
        self.reads.clear();
        self.fetches.clear();
        self.events.clear();
        self.mark = None;
    }
}
