//! Reads of the past from the nearest replica. Pure.

use base::Timestamp;
use base::api::ReadAt;
use core::time::Duration;

/// How old what a read shows may be. Such a read goes to the nearest node that has a replica of the range, which answers without
/// asking anybody, also when the range has no leader; where the node cannot, the leader is asked.
///
/// Ages count back from the clock of the node that answers, so writes that were acknowledged that long before may be missed by as
/// much as clocks of nodes differ. Nodes can show ranges as of some 3 s ago and earlier (more exactly the cluster's lag for closed
/// timestamps, its interval, and the way between two nodes): a read that must be newer goes to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// As of so long ago.
    Exact(Duration),
    /// As new as the node can show, and at most so old.
    AtMost(Duration),
}

impl Staleness {
    pub(crate) fn read_at(self) -> ReadAt {
        match self {
            Self::Exact(age) => ReadAt::Ago(age),
            Self::AtMost(age) => ReadAt::Within(age),
        }
    }
}

/// What a key had at a moment of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleValue {
    /// The value, if it had one.
    pub value: Option<Vec<u8>>,
    /// When that was written; when it was looked at, if there was no value.
    pub ts: Timestamp,
    /// When it was looked at. The same read [as of then](crate::Db::get_at) finds the same, until versions are collected.
    pub read_ts: Timestamp,
}
