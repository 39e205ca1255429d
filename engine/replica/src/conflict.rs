//! Which keys are touched by writes that are proposed and not yet applied, and which are reserved by conditional writes that
//! wait or are being evaluated.
//!
//! A conditional write reads the applied state, so it may only be evaluated when no unapplied write touches the keys that it
//! looks at; and from then until it is proposed nobody else may write them. Keys are known by their hash: a collision makes
//! a write wait for nothing, never the reverse.

use base::api::WriteOp;
use base::collections::{FastHash, FastMap, FastSet};
use base::key::Span;
use base::{Index, Timestamp};
use core::hash::BuildHasher;
use std::collections::VecDeque;
use txn::{Bytes, Keys};

/// Proposed and unapplied writes of a range, in index order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    entries: VecDeque<Entry>,
    /// The hashes of the keys of all entries, in order.
    hashes: VecDeque<u64>,
    spans: VecDeque<(Index, Span)>,
    /// How many of the entries are changes of transactions.
    changes: usize,
    /// The hashes of what these change, with how many do.
    changed: FastMap<u64, u32>,
    hasher: FastHash,
}

#[derive(Debug)]
struct Entry {
    index: Index,
    ts: Timestamp,
    /// The least timestamp of what it makes: below `ts` in a change of a transaction.
    least: Timestamp,
    is_change: bool,
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
            least: ts,
            is_change: false,
            keys: self.hashes.len() - before,
        });
    }

    /// Notes a proposed change of a transaction: its own timestamp, the least of what it makes, and the hashes of what it changes.
    pub(crate) fn push_change(
        &mut self,
        index: Index,
        (ts, least): (Timestamp, Timestamp),
        changed: impl Iterator<Item = u64>,
    ) {
        let before = self.hashes.len();
        self.hashes.extend(changed);
        for hash in self.hashes.range(before..) {
            *self.changed.entry(*hash).or_insert(0) += 1;
        }
        self.changes += 1;
        self.entries.push_back(Entry {
            index,
            ts,
            least: least.min(ts),
            is_change: true,
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
        for hash in self.hashes.drain(..entry.keys).filter(|_| entry.is_change) {
            let count = self
                .changed
                .get_mut(&hash)
                .expect("what was noted is forgotten once");
            *count -= 1;
            if *count == 0 {
                self.changed.remove(&hash);
            }
        }
        self.changes -= usize::from(entry.is_change);
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

    /// Whether changes of transactions are not applied.
    pub(crate) fn has_changes(&self) -> bool {
        self.changes > 0
    }

    /// Whether a change of a transaction that is not applied touches what `op` does. A span is taken to be touched by any.
    pub(crate) fn changes_touch(&self, op: &WriteOp<'_>) -> bool {
        self.changes > 0
            && match op {
                WriteOp::Put { key, .. } | WriteOp::Delete { key } => {
                    self.changed.contains_key(&self.hasher.hash_one(*key))
                }
                WriteOp::DeleteRange { .. } => true,
            }
    }

    /// Whether an unapplied write touches one of `keys`: each side is gone through once.
    pub(crate) fn touches_any(&self, keys: &[Bytes]) -> bool {
        if keys.is_empty() || self.entries.is_empty() {
            return false;
        }
        let hashes: FastSet<u64> = keys.iter().map(|key| self.hasher.hash_one(&**key)).collect();
        let spans = |key: &Bytes| self.spans.iter().any(|(_, span)| span.contains(key));
        self.hashes.iter().any(|hash| hashes.contains(hash)) || keys.iter().any(spans)
    }

    /// Whether something unapplied makes, or may make, a version or intent of what one of `reads` looks at, at or below its timestamp:
    /// all have the same. Of a span, anything may.
    pub(crate) fn may_show(&self, reads: &[(Keys, Timestamp)]) -> bool {
        let Some(ts) = reads.iter().map(|(_, ts)| *ts).max() else {
            return false;
        };
        let (mut any, mut made) = (false, FastSet::default());
        for (_, hashes) in self.groups().filter(|(entry, _)| entry.least <= ts) {
            any = true;
            made.extend(hashes);
        }
        let shows = |keys: &Keys| match keys {
            Keys::Span(..) => true,
            Keys::One(key) => {
                let mut spans = self.spans.iter();
                made.contains(&self.hasher.hash_one(&**key)) || spans.any(|(_, span)| span.contains(key))
            }
        };
        any && reads.iter().any(|(keys, _)| shows(keys))
    }

    /// Whether a record is touched by an unapplied change.
    pub(crate) fn touches_hash(&self, hash: u64) -> bool {
        self.changed.contains_key(&hash)
    }

    /// The least timestamp of what unapplied changes of transactions make.
    pub(crate) fn least_change(&self) -> Option<Timestamp> {
        if self.changes == 0 {
            return None;
        }
        let changes = self.entries.iter().filter(|entry| entry.is_change);
        changes.map(|entry| entry.least).min()
    }

    /// The entries with their hashes.
    fn groups(&self) -> impl Iterator<Item = (&Entry, impl Iterator<Item = u64>)> {
        let mut from = 0;
        self.entries.iter().map(move |entry| {
            let hashes = self.hashes.range(from..from + entry.keys).copied();
            from += entry.keys;
            (entry, hashes)
        })
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
