//! What a replica wants done. Each obligation is handed out exactly once.

use crate::message::{Entry, HardState, Message, Snapshot};
use base::ReplicaId;

/// Names a write. Writes end in the order in which they were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistMark(pub(crate) u64);

/// What a replica wants done; the caller keeps one and drains it each time.
///
/// Contract: write `snapshot`, then `hard_state` and `entries`, and call [`persisted`](crate::Raft::persisted) with `mark` when
/// that and everything before it is durable. `messages` may leave at once, `messages_after_persist` when the write of
/// `mark` is durable. Several may be under way. Apply `committed` in order.
#[derive(Debug, Clone, Default, Hash)]
pub struct Ready {
    /// May leave now.
    pub messages: Vec<(ReplicaId, Message)>,
    /// Leave when `mark` is durable.
    pub messages_after_persist: Vec<(ReplicaId, Message)>,
    /// To write in place of what was written before.
    pub hard_state: Option<HardState>,
    /// To install durably, in place of log and state.
    pub snapshot: Option<Snapshot>,
    /// To write; the first takes the place of what was written at its index and after it.
    pub entries: Vec<Entry>,
    /// To apply.
    pub committed: Vec<Entry>,
    /// The name of the write, when there is one or messages that wait for the one before.
    pub mark: Option<PersistMark>,
}

impl Ready {
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.messages_after_persist.clear();
        self.hard_state = None;
        self.snapshot = None;
        self.entries.clear();
        self.committed.clear();
        self.mark = None;
    }
}
