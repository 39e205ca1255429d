//! Which keys are touched by writes that are proposed and not yet applied, and which are reserved by conditional writes that
//! wait or are being evaluated.
//!
//! A conditional write reads the applied state, so it may only be evaluated when no unapplied write touches the keys that it
//! looks at; and from then until it is proposed nobody else may write them. Keys are known by their hash: a collision makes
//! a write wait for nothing, never the reverse.

use base::api::WriteOp;
use base::collections::{FastHash, FastMap};
use base::key::Span;
use base::{Index, Timestamp};
use core::hash::BuildHasher;
use std::collections::VecDeque;

/// Proposed and unapplied writes of a range, in index order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    entries: VecDeque<Entry>,
    /// The hashes of the keys of all entries, in order.
    hashes: VecDeque<u64>,
    spans: VecDeque<(Index, Span)>,
    hasher: FastHash,
}

#[derive(Debug)]
struct Entry {
    index: Index,
    ts: Timestamp,
    keys: usize,
}

impl InFlight {
    /// Notes a proposed entry.
    pub(crate) fn push<'a>(&mut self, index: Index, ts: Timestamp, ops: impl Iterator<Item = WriteOp<'a>>) {
        let before = self.hashes.len();
        for op in ops {
            match op {
                WriteOp::Put { key, .. } | WriteOp::Delete { key } => {
                    self.hashes.push_back(self.hasher.hash_one(key));
                }
                WriteOp::DeleteRange { start, end } => self.spans.push_back((index, Span::new(start, end))),
            }
        }
        self.entries.push_back(Entry {
            index,
            ts,
            keys: self.hashes.len() - before,
        });
    }

    /// Forgets the entry at `index`, which has been applied, and says whether it was here: it is the oldest then.
    ///
    /// # Panics
    /// When an older one is in flight.
    pub(crate) fn pop(&mut self, index: Index) -> bool {
        let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index) else {
            return false;
        };
        assert_eq!(entry.index, index, "entries are applied in order");
        self.hashes.drain(..entry.keys);
        while self.spans.front().is_some_and(|(of, _)| *of == index) {
            self.spans.pop_front();
        }
        true
    }

    /// Whether an unapplied write touches `key`.
    pub(crate) fn touches(&self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        self.hashes.contains(&hash) || self.spans.iter().any(|(_, span)| span.contains(key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The timestamp of the oldest unapplied entry.
    pub(crate) fn oldest_ts(&self) -> Option<Timestamp> {
        self.entries.front().map(|entry| entry.ts)
    }
}

/// Keys that conditional writes have reserved, with how many did.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    by_hash: FastMap<u64, u32>,
    hasher: FastHash,
}

impl Reservations {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    pub(crate) fn add(&mut self, key: &[u8]) {
        *self.by_hash.entry(self.hasher.hash_one(key)).or_insert(0) += 1;
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        let count = self
            .by_hash
            .get_mut(&hash)
            .expect("only what was reserved is released");
        *count -= 1;
        if *count == 0 {
            self.by_hash.remove(&hash);
        }
    }

    /// Whether `op` may touch a reserved key. A span is taken to, as soon as anything is reserved.
    pub(crate) fn touched_by(&self, op: &WriteOp<'_>) -> bool {
        match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key } => self.holds(key),
            WriteOp::DeleteRange { .. } => !self.is_empty(),
        }
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.by_hash.contains_key(&self.hasher.hash_one(key))
    }
}
