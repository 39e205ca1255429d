//! Which shard serves which keys, as far as this client knows. Pure.
//!
//! A stale cache costs time, not correctness: the server forwards or refuses what came to the wrong shard or node.

use base::key::Span;
use base::limits::SHARDS_MAX;
use base::{NodeId, RangeId, ShardId};

/// One range of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeInfo {
    /// The range.
    pub range: RangeId,
    /// Its keys.
    pub span: Span,
    /// The shard that serves it.
    pub shard: ShardId,
    /// Increases with every split of this range.
    pub generation: u64,
    /// The node that leads it, as far as the node that was asked knows; `None` when it does not, or is alone.
    pub leader: Option<NodeId>,
    /// The nodes that have a replica that votes, as far as the node that was asked knows; none when it does not, while they
    /// change, or when it is alone.
    pub nodes: Vec<NodeId>,
}

/// The newest range map seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeCache {
    version: u64,
    /// By start key, without overlaps. Gaps stand for ranges that the node asked has no replica of.
    ranges: Vec<RangeInfo>,
}

/// The map is not one: its ranges overlap, or do not cover every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedMap;

/// Whether a node may have the shard.
fn has_shard(range: &RangeInfo) -> bool {
    usize::from(range.shard.0) < SHARDS_MAX
}

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
        if starts_at_empty && ends_open && ranges.iter().all(has_shard) && ranges.windows(2).all(meets) {
            Ok(Self { version, ranges })
        } else {
            Err(MalformedMap)
        }
    }

    /// A map of `version` of a node of a cluster, which need not know every range.
    ///
    /// # Errors
    /// [`MalformedMap`] unless the ranges follow on one another without overlap.
    pub fn partial(version: u64, ranges: Vec<RangeInfo>) -> Result<Self, MalformedMap> {
        let is_span = |range: &RangeInfo| range.span.end.as_ref().is_none_or(|end| range.span.start < *end);
        let follows = |pair: &[RangeInfo]| {
            let end = pair[0].span.end.as_ref();
            end.is_some_and(|end| *end <= pair[1].span.start)
        };
        if ranges.iter().all(is_span) && ranges.iter().all(has_shard) && ranges.windows(2).all(follows) {
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

    /// The range that holds `key`; `None` when it is not known.
    #[must_use]
    pub fn lookup(&self, key: &[u8]) -> Option<&RangeInfo> {
        let after = self.ranges.partition_point(|range| *range.span.start <= *key);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        range.span.contains(key).then_some(range)
    }

    /// The range that holds the last keys before `end`: where a reverse scan begins. `None` when it is not known.
    #[must_use]
    pub fn lookup_before(&self, end: Option<&[u8]>) -> Option<&RangeInfo> {
        let Some(end) = end else {
            return self.ranges.last().filter(|range| range.span.end.is_none());
        };
        let after = self.ranges.partition_point(|range| *range.span.start < *end);
        let range = self.ranges.get(after.saturating_sub(1))?;
        let reaches = range.span.end.as_deref().is_none_or(|bound| end <= bound);
        reaches.then_some(range)
    }

    /// The first key after `key` at which another range may begin; `None` when there is none.
    #[must_use]
    pub fn bound_after(&self, key: &[u8]) -> Option<&[u8]> {
        if let Some(range) = self.lookup(key) {
            return range.span.end.as_deref();
        }
        let next = self.ranges.partition_point(|range| *range.span.start <= *key);
        self.ranges.get(next).map(|range| &*range.span.start)
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
                leader: None,
                nodes: Vec::new(),
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
    fn a_map_with_gaps_knows_what_it_does_not_know() {
        let range = |id: u64, start: &str, end: Option<&str>| RangeInfo {
            range: RangeId(id),
            span: Span::new(start.as_bytes(), end.map(str::as_bytes)),
            shard: ShardId(0),
            generation: 1,
            leader: None,
            nodes: Vec::new(),
        };
        let cache = RangeCache::partial(3, vec![range(1, "b", Some("d")), range(2, "f", Some("h"))]).unwrap();
        let at = |key: &str| cache.lookup(key.as_bytes()).map(|range| range.range.0);
        assert_eq!(
            ["a", "b", "d", "f", "h"].map(at),
            [None, Some(1), None, Some(2), None]
        );
        let before = |end: Option<&str>| {
            cache
                .lookup_before(end.map(str::as_bytes))
                .map(|range| range.range.0)
        };
        assert_eq!(
            [None, Some("i"), Some("h"), Some("e"), Some("c")].map(before),
            [None, None, Some(2), None, Some(1)]
        );
        let bound = |key: &str| cache.bound_after(key.as_bytes());
        assert_eq!(
            ["a", "b", "d", "g", "h"].map(bound),
            [Some(&b"b"[..]), Some(b"d"), Some(b"f"), Some(b"h"), None]
        );
        for bad in [
            vec![range(1, "b", None), range(2, "c", None)],
            vec![range(1, "b", Some("d")), range(2, "c", None)],
            vec![range(1, "b", Some("b"))],
        ] {
            assert_eq!(RangeCache::partial(1, bad), Err(MalformedMap));
        }
        assert!(RangeCache::partial(1, Vec::new()).is_ok());
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
