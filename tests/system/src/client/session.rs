//! The numbers of a session's writes.

use base::limits::SESSION_WRITES_MAX;
use std::collections::BTreeSet;

/// Which numbers are in use.
#[derive(Debug)]
pub(crate) struct Session {
    next: u64,
    open: BTreeSet<u64>,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            open: BTreeSet::new(),
        }
    }

    /// The number of a new write; `None` while the oldest open one is so old that the node might forget it.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        let seq = self.next;
        if seq - self.acked_below() >= SESSION_WRITES_MAX as u64 {
            return None;
        }
        self.next += 1;
        self.open.insert(seq);
        Some(seq)
    }

    /// The write is answered or given up.
    pub(crate) fn finish(&mut self, seq: u64) {
        self.open.remove(&seq);
    }

    /// Every write below is answered or given up.
    pub(crate) fn acked_below(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}
