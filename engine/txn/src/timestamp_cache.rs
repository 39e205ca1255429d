//! Up to when each key has been read: a later write lies above.
//!
//! ```text
//!   low water ──────────────── everything at or below may have been read
//!   previous:  hash → (ts, owner)    the generation that is forgotten next, into the low water
//!   current:   hash → (ts, owner)
//! ```
//!
//! Keys are known by their hash: a collision forwards a write for nothing, never the reverse. Spans are kept whole.
//!
//! Invariants:
//! - `floor(key, who)` is at or above every read of `key` by others that was noted, for ever: forgetting raises the low water.
//! - At most `2 × points_max` points and `2 × SPANS_MAX` spans are kept.
//! - An owner is named only when nobody else read the key as late.
//! - Prevention has no owner, so that it stops the transaction itself.

use crate::txn::TxnId;
use base::Timestamp;
use base::collections::{FastHash, FastMap};
use base::key::Span;
use core::hash::{BuildHasher, Hash, Hasher};

/// Spans of one generation. A write looks at each.
const SPANS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Read {
    ts: Timestamp,
    owner: Option<TxnId>,
}

impl Read {
    fn join(&mut self, other: Self) {
        if other.ts > self.ts {
            *self = other;
        } else if other.ts == self.ts && other.owner != self.owner {
            self.owner = None;
        }
    }

    /// Where `who` may write: at or above.
    fn floor(self, who: Option<TxnId>) -> Timestamp {
        if self.owner.is_some() && self.owner == who {
            self.ts
        } else {
            self.ts.next()
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Generation {
    points: FastMap<u64, Read>,
    spans: Vec<(Span, Read)>,
    max: Timestamp,
}

impl Generation {
    fn floor(&self, hash: u64, key: &[u8], who: Option<TxnId>) -> Timestamp {
        let point = self
            .points
            .get(&hash)
            .map_or(Timestamp::ZERO, |read| read.floor(who));
        let covering = self.spans.iter().filter(|(span, _)| span.contains(key));
        covering.fold(point, |floor, (_, read)| floor.max(read.floor(who)))
    }
}

/// The timestamp cache of one range, at its leader.
#[derive(Debug, Clone)]
pub struct TimestampCache {
    low_water: Timestamp,
    current: Generation,
    previous: Generation,
    points_max: usize,
    hasher: FastHash,
}

impl TimestampCache {
    /// A cache that takes everything for read at `low_water`: at or above every timestamp at which a leader before this one may
    /// have shown or prevented anything. That is the [`Self::summary`] it handed over, or the beginning of the new lease.
    ///
    /// # Panics
    /// When `points_max` is zero.
    #[must_use]
    pub fn new(low_water: Timestamp, points_max: usize) -> Self {
        assert!(points_max > 0, "a cache holds something");
        Self {
            low_water,
            current: Generation::default(),
            previous: Generation::default(),
            points_max,
            hasher: FastHash::default(),
        }
    }

    /// Notes that `key` was read at `ts` by `owner`, or that a write at or below is prevented (`None`).
    pub fn note(&mut self, key: &[u8], ts: Timestamp, owner: Option<TxnId>) {
        if ts <= self.low_water {
            return;
        }
        let read = Read { ts, owner };
        let hash = self.hasher.hash_one(key);
        self.current.max = self.current.max.max(ts);
        self.current
            .points
            .entry(hash)
            .and_modify(|known| known.join(read))
            .or_insert(read);
        if self.current.points.len() >= self.points_max {
            self.turn_over();
        }
    }

    /// Notes that every key of `span` was read at `ts` by `owner`.
    pub fn note_span(&mut self, span: Span, ts: Timestamp, owner: Option<TxnId>) {
        if ts <= self.low_water {
            return;
        }
        let read = Read { ts, owner };
        self.current.max = self.current.max.max(ts);
        match self.current.spans.iter_mut().find(|(known, _)| *known == span) {
            Some((_, known)) => known.join(read),
            None => self.current.spans.push((span, read)),
        }
        if self.current.spans.len() >= SPANS_MAX {
            self.turn_over();
        }
    }

    fn turn_over(&mut self) {
        base::sometimes!("txn: timestamp cache turned over");
        self.low_water = self.low_water.max(self.previous.max);
        self.previous = core::mem::take(&mut self.current);
    }

    /// The least timestamp at which `who` may write `key`.
    #[must_use]
    pub fn floor(&self, key: &[u8], who: Option<TxnId>) -> Timestamp {
        let hash = self.hasher.hash_one(key);
        self.low_water
            .next()
            .max(self.current.floor(hash, key, who))
            .max(self.previous.floor(hash, key, who))
    }

    /// One timestamp at or above everything noted: what a lease transfer ships, and a merge folds in with [`Self::raise`]. It
    /// forgets keys: writes below it are forwarded, which costs snapshot transactions nothing and others a refresh.
    #[must_use]
    pub fn summary(&self) -> Timestamp {
        if base::planted_bug!("txn-cache-lost-at-transfer") {
            return Timestamp::ZERO;
        }
        self.low_water.max(self.current.max).max(self.previous.max)
    }

    /// Takes everything for read at `ts`.
    pub fn raise(&mut self, ts: Timestamp) {
        self.low_water = self.low_water.max(ts);
    }

    /// Feeds what decides the future into `state`: equal caches give equal sums.
    pub fn fingerprint(&self, state: &mut impl Hasher) {
        self.low_water.hash(state);
        for generation in [&self.current, &self.previous] {
            let mut points: Vec<_> = generation
                .points
                .iter()
                .map(|(hash, read)| (*hash, *read))
                .collect();
            points.sort_unstable();
            let mut spans: Vec<_> = generation.spans.clone();
            spans.sort_unstable();
            (points, spans).hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ClientId;

    const A: TxnId = TxnId {
        client: ClientId(1),
        seq: 1,
    };
    const B: TxnId = TxnId {
        client: ClientId(2),
        seq: 1,
    };

    fn ts(n: u64) -> Timestamp {
        Timestamp::new(n, 0)
    }

    #[test]
    fn writes_lie_above_the_reads_of_others() {
        let mut cache = TimestampCache::new(ts(5), 8);
        assert_eq!(cache.floor(b"k", Some(A)), ts(5).next());
        cache.note(b"k", ts(10), Some(A));
        assert_eq!(cache.floor(b"k", Some(A)), ts(10));
        assert_eq!(cache.floor(b"k", Some(B)), ts(10).next());
        assert_eq!(cache.floor(b"other", Some(B)), ts(5).next());
        cache.note(b"k", ts(10), Some(B));
        assert_eq!(cache.floor(b"k", Some(A)), ts(10).next(), "both read it");
        cache.note(b"k", ts(12), None);
        assert_eq!(
            cache.floor(b"k", Some(A)),
            ts(12).next(),
            "prevention has no owner"
        );
        cache.note(b"k", ts(11), Some(A));
        assert_eq!(cache.floor(b"k", None), ts(12).next(), "never down");
    }

    #[test]
    fn spans_cover_their_keys() {
        let mut cache = TimestampCache::new(Timestamp::ZERO, 8);
        cache.note_span(Span::new(b"b", Some(b"d")), ts(7), Some(A));
        assert_eq!(cache.floor(b"c", Some(B)), ts(7).next());
        assert_eq!(cache.floor(b"c", Some(A)), ts(7));
        assert_eq!(cache.floor(b"d", Some(B)), Timestamp::ZERO.next());
    }

    #[test]
    fn what_is_forgotten_is_below_the_low_water_and_the_summary_is_above_all() {
        let mut cache = TimestampCache::new(Timestamp::ZERO, 4);
        for n in 1..100u64 {
            cache.note(&n.to_le_bytes(), ts(n), Some(A));
            for known in 1..=n {
                assert!(cache.floor(&known.to_le_bytes(), Some(B)) > ts(known));
            }
            assert_eq!(cache.summary(), ts(n));
            assert!(cache.current.points.len() <= 4 && cache.previous.points.len() <= 4);
        }
    }
}
