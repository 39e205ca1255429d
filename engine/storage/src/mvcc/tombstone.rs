//! Range tombstones: what `DeleteRange` leaves behind.
//!
//! Kept as *fragments*: boundaries that cut the key space into pieces, each with the timestamps of all deletions that
//! cover the whole piece, ascending. Overlapping deletions are cut at each other's ends.
//!
//! ```text
//!   delete [b, f) at 5   ·······├───────────────┤
//!   delete [d, ∞) at 9   ···············├──────────────────▶
//!   boundaries                  b:[5]   d:[5,9] f:[9]
//! ```
//!
//! Invariants:
//! - A tombstone at `ts` hides versions strictly older than `ts`: a put of the same atomic batch, later in it, survives.
//! - Each fragment's timestamps ascend without repetition. The piece before the first boundary is covered by nothing.

use base::Timestamp;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One piece of the key space and the deletions that cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    pub(crate) start: &'a [u8],
    pub(crate) end: Option<&'a [u8]>,
    /// Ascending, not empty.
    pub(crate) timestamps: &'a [Timestamp],
}

/// A set of range tombstones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeTombstones {
    /// From each boundary to the next one, the timestamps of what covers it; empty where nothing does.
    boundaries: BTreeMap<Box<[u8]>, Vec<Timestamp>>,
    bytes: usize,
}

/// What a boundary costs beside its key: tree node share, two headers.
const BOUNDARY_BYTES: usize = 64;

impl RangeTombstones {
    pub(crate) fn is_empty(&self) -> bool {
        self.boundaries.is_empty()
    }

    /// Bytes of memory held, within a factor of two.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hides the versions older than `ts` of every key in `[start, end)`.
    pub(crate) fn insert(&mut self, start: &[u8], end: Option<&[u8]>, ts: Timestamp) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        self.cut(start);
        if let Some(end) = end {
            self.cut(end);
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        for (_, timestamps) in self
            .boundaries
            .range_mut::<[u8], _>((Bound::Included(start), upper))
        {
            if let Err(at) = timestamps.binary_search(&ts) {
                timestamps.insert(at, ts);
                self.bytes += size_of::<Timestamp>();
            }
        }
    }

    fn cut(&mut self, key: &[u8]) {
        if self.boundaries.contains_key(key) {
            return;
        }
        let covering = self
            .fragment_of(key)
            .map(<[Timestamp]>::to_vec)
            .unwrap_or_default();
        self.bytes += BOUNDARY_BYTES + key.len() + covering.len() * size_of::<Timestamp>();
        self.boundaries.insert(key.into(), covering);
    }

    fn fragment_of(&self, key: &[u8]) -> Option<&[Timestamp]> {
        let upper = (Bound::Unbounded, Bound::Included(key));
        self.boundaries
            .range::<[u8], _>(upper)
            .next_back()
            .map(|(_, timestamps)| timestamps.as_slice())
    }

    /// The greatest timestamp at or below `read_ts` of a tombstone that covers `key`.
    pub(crate) fn covering(&self, key: &[u8], read_ts: Timestamp) -> Option<Timestamp> {
        if self.boundaries.is_empty() || base::planted_bug!("storage-range-tombstone-ignored") {
            return None;
        }
        let timestamps = self.fragment_of(key)?;
        let visible = timestamps.partition_point(|&ts| ts <= read_ts);
        visible.checked_sub(1).map(|newest| timestamps[newest])
    }

    /// The pieces that something covers, in key order.
    pub(crate) fn fragments(&self) -> impl Iterator<Item = Fragment<'_>> {
        let ends = self
            .boundaries
            .keys()
            .skip(1)
            .map(|key| Some(&**key))
            .chain(core::iter::once(None));
        let pieces = self.boundaries.iter().zip(ends);
        let pieces = pieces.map(|((start, timestamps), end)| Fragment {
            start,
            end,
            timestamps,
        });
        pieces.filter(|fragment| !fragment.timestamps.is_empty())
    }

    /// Adds every tombstone of `other`, cut to `[start, end)`.
    pub(crate) fn merge_clipped(&mut self, other: &Self, start: &[u8], end: Option<&[u8]>) {
        for fragment in other.fragments() {
            let from = fragment.start.max(start);
            let to = match (fragment.end, end) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            for &ts in fragment.timestamps {
                self.insert(from, to, ts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(wall: u64) -> Timestamp {
        Timestamp::new(wall, 0)
    }

    #[test]
    fn overlaps_are_cut_at_each_others_ends() {
        let mut set = RangeTombstones::default();
        set.insert(b"b", Some(b"f"), at(5));
        set.insert(b"d", None, at(9));
        set.insert(b"x", Some(b"c"), at(1));
        let pieces: Vec<_> = set
            .fragments()
            .map(|f| {
                (
                    f.start,
                    f.end,
                    f.timestamps.iter().map(|t| t.wall_ns).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(
            pieces,
            [
                (&b"b"[..], Some(&b"d"[..]), vec![5]),
                (b"d", Some(b"f"), vec![5, 9]),
                (b"f", None, vec![9]),
            ]
        );
        assert_eq!(set.covering(b"a", at(99)), None);
        assert_eq!(set.covering(b"e", at(8)), Some(at(5)));
        assert_eq!(set.covering(b"e", at(9)), Some(at(9)));
        assert_eq!(set.covering(b"e", at(4)), None);
    }

    proptest! {
        #[test]
        fn covering_agrees_with_a_list(
            ops in proptest::collection::vec((0u8..12, 0u8..14, 1u64..9), 0..12), key in 0u8..14, read in 0u64..10,
        ) {
            let mut set = RangeTombstones::default();
            for &(start, end, ts) in &ops {
                let end_key = [end];
                set.insert(&[start], (end < 13).then_some(&end_key), at(ts));
            }
            let covers = |&&(start, end, ts): &&(u8, u8, u64)| start <= key && (key < end || end >= 13) && ts <= read;
            let expected = ops.iter().filter(covers).map(|op| at(op.2)).max();
            prop_assert_eq!(set.covering(&[key], at(read)), expected);
            let mut copy = RangeTombstones::default();
            copy.merge_clipped(&set, &[3], Some(&[9]));
            let clipped = expected.filter(|_| (3..9).contains(&key));
            prop_assert_eq!(copy.covering(&[key], at(read)), clipped);
        }
    }
}
