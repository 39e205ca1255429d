//! Which shard serves which keys, as far as this client knows. Pure.
//!
//! A node knows the ranges that it has replicas of; the maps of several make one of the whole cluster (`RangeCache::merged`).
//!
//! A stale cache costs time, not correctness: the server forwards or refuses what came to the wrong shard or node.

use base::collections::FastMap;
use base::key::Span;
use base::limits::SHARDS_MAX;
use base::{NodeId, RangeId, ShardId};
use core::cmp::Reverse;
use std::collections::BTreeMap;

/// One range of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeInfo {
    /// The range.
    pub range: RangeId,
    /// Its keys.
    pub span: Span,
    /// The shard of the node that was asked, if it has a replica, and else of the one that leads the range, as far as that was heard of.
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
    /// By start key, without overlaps. Gaps stand for ranges that the nodes asked have no replica of.
    ranges: Vec<RangeInfo>,
    /// Where each one is.
    positions: FastMap<RangeId, usize>,
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
            Ok(Self::of(version, ranges))
        } else {
            Err(MalformedMap)
        }
    }

    fn of(version: u64, ranges: Vec<RangeInfo>) -> Self {
        let positions = ranges.iter().enumerate();
        Self {
            version,
            positions: positions.map(|(at, info)| (info.range, at)).collect(),
            ranges,
        }
    }

    /// What several nodes know, each with its number if it has said so, as one map; the newest first. Of what they say about one range
    /// the highest generation counts, and of ranges that share keys that of the higher one. Who leads says so best itself: its shard
    /// counts, and then whoever knew a leader last.
    #[must_use]
    pub(crate) fn merged<'a>(
        version: u64,
        maps: impl IntoIterator<Item = (Option<NodeId>, &'a Self)>,
    ) -> Self {
        let mut known: FastMap<RangeId, (RangeInfo, bool)> = FastMap::default();
        for (node, map) in maps {
            for info in &map.ranges {
                let is_own = node.is_some() && info.leader == node;
                match known.get_mut(&info.range) {
                    Some(known) => learn(known, info, is_own),
                    None => {
                        known.insert(info.range, (info.clone(), is_own));
                    }
                }
            }
        }
        let mut infos: Vec<RangeInfo> = known.into_values().map(|(info, _)| info).collect();
        infos.sort_by_key(|info| (Reverse(info.generation), info.range));
        let mut taken: BTreeMap<Box<[u8]>, RangeInfo> = BTreeMap::new();
        for info in infos {
            let before = match &info.span.end {
                Some(end) => taken.range(..end.clone()).next_back(),
                None => taken.iter().next_back(),
            };
            let is_free = before.is_none_or(|(_, last)| {
                let end = last.span.end.as_ref();
                end.is_some_and(|end| *end <= info.span.start)
            });
            if is_free {
                taken.insert(info.span.start.clone(), info);
            }
        }
        Self::of(version, taken.into_values().collect())
    }

    /// Whether it has a range for every key.
    #[must_use]
    pub(crate) fn is_whole(&self) -> bool {
        let follows = |pair: &[RangeInfo]| pair[0].span.end.as_ref() == Some(&pair[1].span.start);
        self.ranges
            .first()
            .is_some_and(|first| first.span.start.is_empty())
            && self.ranges.last().is_some_and(|last| last.span.end.is_none())
            && self.ranges.windows(2).all(follows)
    }

    /// What is known of a range.
    #[must_use]
    pub(crate) fn get(&self, range: RangeId) -> Option<&RangeInfo> {
        self.ranges.get(*self.positions.get(&range)?)
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
            Ok(Self::of(version, ranges))
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
}

/// Adds to what is known of a range, whether from the node that leads it, what another one said of it earlier, whether of itself.
fn learn(known: &mut (RangeInfo, bool), earlier: &RangeInfo, is_own: bool) {
    let (info, is_told_by_leader) = known;
    if earlier.generation > info.generation {
        info.generation = earlier.generation;
        info.span = earlier.span.clone();
    }
    if (is_own && !*is_told_by_leader) || (info.leader.is_none() && earlier.leader.is_some()) {
        info.leader = earlier.leader;
        info.shard = earlier.shard;
        *is_told_by_leader = is_own;
        if !earlier.nodes.is_empty() {
            info.nodes.clone_from(&earlier.nodes);
        }
    }
    if info.nodes.is_empty() {
        info.nodes.clone_from(&earlier.nodes);
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
    fn maps_of_several_nodes_are_laid_over_each_other_by_generation() {
        let range = |id: u64, start: &str, end: &str, generation: u64, shard: u16, leader: u64| RangeInfo {
            range: RangeId(id),
            span: Span::new(start.as_bytes(), (!end.is_empty()).then_some(end.as_bytes())),
            shard: ShardId(shard),
            generation,
            leader: (leader > 0).then_some(NodeId(leader)),
            nodes: Vec::new(),
        };
        // Node 2 has not heard of a split of range 1, nor that range 3 was absorbed by range 4.
        let old = [
            range(1, "", "m", 3, 7, 1),
            range(3, "p", "t", 9, 7, 2),
            range(4, "t", "", 9, 7, 2),
        ];
        let new = [
            range(1, "", "f", 4, 5, 1),
            range(2, "f", "m", 4, 5, 2),
            range(4, "p", "", 10, 5, 0),
        ];
        let [old, new] =
            [old, new].map(|ranges| RangeCache::partial(1, ranges.into_iter().collect()).unwrap());
        let told = |maps: [(Option<NodeId>, &RangeCache); 2]| {
            let merged = RangeCache::merged(9, maps);
            assert!(!merged.is_whole());
            let infos = merged.ranges().iter();
            infos
                .map(|info| {
                    let leader = info.leader.map_or(0, |leader| leader.0);
                    assert_eq!(merged.get(info.range), Some(info));
                    (info.range.0, info.span.start.to_vec(), info.shard.0, leader)
                })
                .collect::<Vec<_>>()
        };
        let ranges = vec![
            (1, b"".to_vec(), 5, 1),
            (2, b"f".to_vec(), 5, 2),
            // Who says that it leads says where.
            (4, b"p".to_vec(), 7, 2),
        ];
        let [one, two] = [1, 2].map(|node| Some(NodeId(node)));
        assert_eq!(told([(two, &old), (one, &new)]), ranges);
        assert_eq!(told([(one, &new), (two, &old)]), ranges);
        assert_eq!(RangeCache::merged(9, [(one, &new)]).ranges(), new.ranges());
        assert!(map(1, &["", "g", "p"]).unwrap().is_whole());
    }
}
