//! Which shard serves which keys, as far as this client knows. Pure.
//!
//! A stale cache costs time, not correctness: the server forwards or refuses what came to the wrong shard.

use base::key::Span;
use base::{RangeId, ShardId};

/// One range of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeInfo {
    /// The range.
    pub range: RangeId,
    /// Its keys.
    pub span: Span,
    /// The shard that serves it.
    pub shard: ShardId,
    /// Increases with every split and move of this range.
    pub generation: u64,
}

/// The newest range map seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeCache {
    version: u64,
    /// By start key; without gaps when not empty.
    ranges: Vec<RangeInfo>,
}

/// The map is not one: its ranges do not cover every key exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedMap;

impl RangeCache {
    /// A map of `version`.
    ///
    /// # Errors
    /// [`MalformedMap`] unless the ranges, in order, cover every key exactly once.
    pub fn new(version: u64, ranges: Vec<RangeInfo>) -> Result<Self, MalformedMap> {
        let starts_at_empty = ranges.first().is_some_and(|range| range.span.start.is_empty());
        let ends_open = ranges.last().is_some_and(|range| range.span.end.is_none());
        let meets = |pair: &[RangeInfo]| match (&pair[0].span.end, &pair[1].span.start) {
            (Some(end), start) => end == start && *pair[0].span.start < **end,
            (None, _) => false,
        };
        if starts_at_empty && ends_open && ranges.windows(2).all(meets) {
            Ok(Self { version, ranges })
        } else {
            Err(MalformedMap)
        }
    }

    /// The map's version; zero when nothing is known.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every range, by start key.
    #[must_use]
    pub fn ranges(&self) -> &[RangeInfo] {
        &self.ranges
    }

    /// The range that holds `key`; `None` when nothing is known.
    #[must_use]
    pub fn lookup(&self, key: &[u8]) -> Option<&RangeInfo> {
        let after = self.ranges.partition_point(|range| *range.span.start <= *key);
        self.ranges.get(after.checked_sub(1)?)
    }

    /// The range that holds the last keys before `end`: where a reverse scan begins.
    #[must_use]
    pub fn lookup_before(&self, end: Option<&[u8]>) -> Option<&RangeInfo> {
        let Some(end) = end else { return self.ranges.last() };
        let after = self.ranges.partition_point(|range| *range.span.start < *end);
        self.ranges.get(after.saturating_sub(1))
    }

    /// Takes in a map unless this one is newer.
    pub fn update(&mut self, newer: Self) {
        if self.version <= newer.version {
            *self = newer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: u64, bounds: &[&str]) -> Result<RangeCache, MalformedMap> {
        let mut ranges = Vec::new();
        for (i, start) in bounds.iter().enumerate() {
            let end = bounds.get(i + 1).map(|end| end.as_bytes());
            let shard = ShardId(u16::try_from(i).unwrap());
            let range = RangeId(i as u64);
            ranges.push(RangeInfo {
                range,
                span: Span::new(start.as_bytes(), end),
                shard,
                generation: 1,
            });
        }
        RangeCache::new(version, ranges)
    }

    #[test]
    fn lookups_find_the_range_on_both_sides_of_a_bound() {
        let cache = map(1, &["", "g", "p"]).unwrap();
        let shard = |key: &str| cache.lookup(key.as_bytes()).unwrap().shard.0;
        assert_eq!(
            ["", "a", "fzz", "g", "oz", "p", "zzz"].map(shard),
            [0, 0, 0, 1, 1, 2, 2]
        );
        let before = |end: Option<&str>| cache.lookup_before(end.map(str::as_bytes)).unwrap().shard.0;
        assert_eq!(
            [None, Some("p"), Some("p\0"), Some("g"), Some("")].map(before),
            [2, 1, 2, 0, 0]
        );
        assert_eq!(RangeCache::default().lookup(b"x"), None);
        assert_eq!(RangeCache::default().lookup_before(None), None);
    }

    #[test]
    fn maps_with_gaps_or_overlaps_are_refused() {
        for bad in [&[][..], &["a"], &["", "g", "g"], &["", "p", "g"]] {
            assert_eq!(map(1, bad), Err(MalformedMap), "{bad:?}");
        }
    }

    #[test]
    fn an_older_map_does_not_replace_a_newer_one() {
        let mut cache = map(5, &["", "m"]).unwrap();
        cache.update(map(4, &[""]).unwrap());
        assert_eq!(cache.ranges().len(), 2);
        cache.update(map(6, &[""]).unwrap());
        assert_eq!((cache.version(), cache.ranges().len()), (6, 1));
    }
}
