//! Which shard serves which keys: a node's view of all ranges.
//!
//! Shard 0 keeps the map that counts: every split and move is reported to it, and it sends the new map to all. A shard's
//! own ranges are the truth for itself: it lays them over every map that arrives, so that an older map never takes back a
//! split or a move that the shard has carried out.
//!
//! Invariants:
//! - Of two entries for one range, the one with the higher generation counts, and of two with the same the one that moved more often.
//! - An entry all of whose keys are another one's, of a higher generation, is of a range that was absorbed, and does not count.
//! - A complete map covers the key space without gap or overlap; only a map between two edits may not.

use base::collections::FastMap;
use base::key::Span;
use base::{RangeId, ShardId};
use core::cmp::Ordering;
use replica::Descriptor;
use replica::descriptor::check_tiling;
use std::collections::BTreeMap;

/// One range and the shard that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeEntry {
    /// The range.
    pub descriptor: Descriptor,
    /// Where it is served.
    pub shard: ShardId,
    /// How often it has moved between shards since the node was started. Not a part of the descriptor: that is the same for all
    /// replicas of the range.
    pub moves: u64,
}

/// Stands for keys whose ranges have no replica on this node.
pub const HOLE: RangeId = RangeId(0);

impl RangeEntry {
    /// Of two entries for one range, the one with the greater of these counts.
    #[must_use]
    pub fn age(&self) -> (u64, u64) {
        (self.descriptor.generation, self.moves)
    }

    /// Whether it stands for keys whose ranges have no replica on this node.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.descriptor.range == HOLE
    }
}

/// All ranges of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeMap {
    version: u64,
    /// Sorted by start key.
    entries: Vec<RangeEntry>,
    /// Not every range of the key space is here: entries of [`HOLE`] stand for what is missing.
    is_partial: bool,
    /// The entries cover the key space without gap or overlap. Then an edit looks only at those whose keys it is about.
    is_whole: bool,
    /// The first eight bytes of each start key, as a number that sorts the same way: what a look-up searches first.
    heads: Vec<u64>,
    /// Where each range is among the entries; holes are not here.
    positions: FastMap<RangeId, u32>,
}

/// So many edits at once are laid over a map by looking at their keys only.
const FEW: usize = 4;

/// By start; of those that begin together the longest first.
fn compare(a: &Span, b: &Span) -> Ordering {
    let by_end = || match (&a.end, &b.end) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => b.cmp(a),
    };
    a.start.cmp(&b.start).then_with(by_end)
}

/// Sorts entries, and takes out ranges whose keys have become a part of another one.
fn sort(entries: &mut Vec<RangeEntry>) {
    entries.sort_by(|a, b| compare(&a.descriptor.span, &b.descriptor.span));
    let ends_after = |end: Option<&[u8]>, key: Option<&[u8]>| match (end, key) {
        (None, _) => true,
        (Some(end), Some(key)) => end >= key,
        (Some(_), None) => false,
    };
    // Those before that reach beyond the start of the next: mostly none.
    let mut open: Vec<(Option<Box<[u8]>>, u64)> = Vec::new();
    entries.retain(|entry| {
        let Descriptor { span, generation, .. } = &entry.descriptor;
        open.retain(|(end, _)| end.as_deref().is_none_or(|end| end > &*span.start));
        let is_within = |(end, other): &(Option<Box<[u8]>>, u64)| {
            other > generation && ends_after(end.as_deref(), span.end.as_deref())
        };
        let is_absorbed = open.iter().any(is_within);
        if !is_absorbed {
            open.push((span.end.clone(), *generation));
        }
        !is_absorbed
    });
}

/// Sorted entries, with holes for the keys from `from` to `until` that none of them has.
fn with_holes(entries: Vec<RangeEntry>, from: &[u8], until: Option<&[u8]>) -> Vec<RangeEntry> {
    let mut covered: Option<Box<[u8]>> = Some(from.into());
    let hole = |start: &[u8], end: Option<&[u8]>| RangeEntry {
        descriptor: Descriptor {
            range: HOLE,
            span: Span::new(start, end),
            generation: 0,
        },
        shard: ShardId(0),
        moves: 0,
    };
    let mut filled = Vec::with_capacity(entries.len());
    for entry in entries {
        let span = &entry.descriptor.span;
        if let Some(start) = covered.filter(|start| **start < *span.start) {
            filled.push(hole(&start, Some(&span.start)));
        }
        covered = span.end.as_deref().map(Box::from);
        filled.push(entry);
    }
    if let Some(start) = covered.filter(|start| until.is_none_or(|until| **start < *until)) {
        filled.push(hole(&start, until));
    }
    filled
}

/// Whether the entries cover all keys from `start` to `end`, each one once. The position of the first that does not follow on.
fn check_entries(entries: &[RangeEntry], start: &[u8], end: Option<&[u8]>) -> Result<(), usize> {
    check_tiling(entries.iter().map(|entry| &entry.descriptor.span), start, end)
}

/// The entries do not cover the key space.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ranges do not cover the key space: gap or overlap before {at}")]
pub struct BrokenMap {
    /// The range that does not follow on, or the end.
    pub at: String,
}

impl RangeMap {
    /// A map of `entries` in any order; of several for one range the latest counts.
    #[must_use]
    pub fn new(version: u64, entries: impl IntoIterator<Item = RangeEntry>) -> Self {
        let mut map = Self {
            version,
            ..Self::default()
        };
        map.merge(entries);
        map
    }

    /// A map of a node of a cluster, which need not have a replica of every range.
    #[must_use]
    pub fn partial(version: u64, entries: impl IntoIterator<Item = RangeEntry>) -> Self {
        let mut map = Self {
            version,
            is_partial: true,
            ..Self::default()
        };
        map.merge(entries);
        map
    }

    /// Lays `entries` over the map.
    pub fn merge(&mut self, entries: impl IntoIterator<Item = RangeEntry>) {
        let entries: Vec<RangeEntry> = entries.into_iter().collect();
        if entries.len() > FEW || !self.lay(&entries) {
            self.merge_all(entries);
        }
    }

    fn merge_all(&mut self, entries: Vec<RangeEntry>) {
        let mut by_range: BTreeMap<RangeId, RangeEntry> = self
            .entries
            .drain(..)
            .filter(|entry| !entry.is_hole())
            .map(|entry| (entry.descriptor.range, entry))
            .collect();
        for entry in entries {
            match by_range.get(&entry.descriptor.range) {
                Some(known) if known.age() > entry.age() => {}
                _ => {
                    by_range.insert(entry.descriptor.range, entry);
                }
            }
        }
        self.entries = by_range.into_values().collect();
        sort(&mut self.entries);
        if self.is_partial {
            self.entries = with_holes(core::mem::take(&mut self.entries), &[], None);
        }
        self.is_whole = check_entries(&self.entries, b"", None).is_ok();
        self.heads = self
            .entries
            .iter()
            .map(|entry| head(&entry.descriptor.span.start))
            .collect();
        self.positions.clear();
        self.note_positions(0);
    }

    /// Notes where the ranges are whose entries begin with the one at `from`.
    fn note_positions(&mut self, from: usize) {
        let entries = (0u32..).zip(&self.entries).skip(from);
        let ranges = entries.filter(|(_, entry)| !entry.is_hole());
        self.positions
            .extend(ranges.map(|(at, entry)| (entry.descriptor.range, at)));
    }

    /// Lays a few entries over the map, and looks at nothing but what has keys that they have or had. `false`, and nothing is
    /// different, when that does not do.
    fn lay(&mut self, entries: &[RangeEntry]) -> bool {
        let ids = || entries.iter().map(|entry| entry.descriptor.range);
        let is_twice = ids()
            .enumerate()
            .any(|(at, range)| ids().skip(at + 1).any(|other| other == range));
        if !self.is_whole || is_twice {
            return false;
        }
        let counts = |entry: &&RangeEntry| {
            let known = self.get(entry.descriptor.range);
            known.is_none_or(|known| known.age() <= entry.age())
        };
        let fresh: Vec<RangeEntry> = entries.iter().filter(counts).cloned().collect();
        let old = fresh.iter().filter_map(|entry| self.get(entry.descriptor.range));
        let spans = || {
            fresh
                .iter()
                .chain(old.clone())
                .map(|entry| &entry.descriptor.span)
        };
        let Some(start) = spans().map(|span| &span.start).min() else {
            return true;
        };
        let ends = spans().map(|span| span.end.as_deref());
        let end = if ends.clone().any(|end| end.is_none()) {
            None
        } else {
            ends.max().flatten()
        };
        let first = self.position(start);
        let after = end.map_or(self.entries.len(), |end| {
            self.entries
                .partition_point(|entry| *entry.descriptor.span.start < *end)
        });
        self.put_between(first, after, fresh)
    }

    /// Puts `fresh` beside the ranges at `first..after`, or in the place of their earlier entries. `false`, and nothing is different, when
    /// that would leave the map with a gap or an overlap.
    fn put_between(&mut self, mut first: usize, mut after: usize, fresh: Vec<RangeEntry>) -> bool {
        // Holes do not lie beside each other.
        let is_hole = |at: Option<usize>| {
            at.and_then(|at| self.entries.get(at))
                .is_some_and(RangeEntry::is_hole)
        };
        first -= usize::from(is_hole(first.checked_sub(1)));
        after += usize::from(is_hole(Some(after)));
        let (Some(low), Some(high)) = (self.entries.get(first), self.entries[first..after].last()) else {
            return false;
        };
        let (start, end) = (
            low.descriptor.span.start.clone(),
            high.descriptor.span.end.clone(),
        );
        let is_fresh = |range: RangeId| fresh.iter().any(|entry| entry.descriptor.range == range);
        let kept = self.entries[first..after]
            .iter()
            .filter(|entry| !entry.is_hole() && !is_fresh(entry.descriptor.range));
        let mut content: Vec<RangeEntry> = kept.cloned().collect();
        content.extend(fresh);
        sort(&mut content);
        if self.is_partial {
            content = with_holes(content, &start, end.as_deref());
        }
        if check_entries(&content, &start, end.as_deref()).is_err() {
            return false;
        }
        let count = content.len();
        let heads: Vec<u64> = content
            .iter()
            .map(|entry| head(&entry.descriptor.span.start))
            .collect();
        self.heads.splice(first..after, heads);
        for entry in self.entries.splice(first..after, content) {
            self.positions.remove(&entry.descriptor.range);
        }
        if count == after - first {
            let ranges = (first..after).zip(&self.entries[first..after]);
            for (at, entry) in ranges.filter(|(_, entry)| !entry.is_hole()) {
                let at = u32::try_from(at).expect("a node has fewer than 2^32 ranges");
                self.positions.insert(entry.descriptor.range, at);
            }
        } else {
            self.note_positions(first);
        }
        true
    }

    /// Takes a range out that has no replica here any more.
    pub fn remove(&mut self, range: RangeId) {
        let Some(at) = self.positions.get(&range).map(|at| *at as usize) else {
            return;
        };
        if !self.is_whole || !self.take_out(at) {
            self.retain(|entry| entry.descriptor.range != range);
        }
    }

    /// Puts a hole in the place of the entry at `at`.
    fn take_out(&mut self, at: usize) -> bool {
        let mut hole = self.entries[at].clone();
        hole.descriptor.range = HOLE;
        let entry = core::mem::replace(&mut self.entries[at], hole);
        self.positions.remove(&entry.descriptor.range);
        if self.put_between(at, at + 1, Vec::new()) {
            return true;
        }
        self.positions.insert(
            entry.descriptor.range,
            u32::try_from(at).expect("it came from there"),
        );
        self.entries[at] = entry;
        false
    }

    /// Takes out what `stays` does not say to be here.
    pub fn retain(&mut self, stays: impl Fn(&RangeEntry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.is_hole() || stays(entry));
        if self.entries.len() < before {
            self.merge_all(Vec::new());
        }
    }

    /// Checks that the map is complete.
    ///
    /// # Errors
    /// Names the first range that does not follow on.
    pub fn check(&self) -> Result<(), BrokenMap> {
        check_entries(&self.entries, b"", None).map_err(|at| BrokenMap {
            at: self.entries.get(at).map_or_else(
                || "the end".into(),
                |RangeEntry { descriptor, .. }| format!("{} {:?}", descriptor.range, descriptor.span),
            ),
        })
    }

    /// Increases with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Gives the map its next version.
    ///
    /// # Panics
    /// When `version` is lower than the map's.
    pub fn set_version(&mut self, version: u64) {
        assert!(
            version >= self.version,
            "map version goes from {} back to {version}",
            self.version
        );
        self.version = version;
    }

    /// The ranges by start key.
    #[must_use]
    pub fn entries(&self) -> &[RangeEntry] {
        &self.entries
    }

    /// The position of the range that `key` belongs to.
    ///
    /// # Panics
    /// On an empty map.
    #[must_use]
    pub fn position(&self, key: &[u8]) -> usize {
        let wanted = head(key);
        let low = self.heads.partition_point(|&h| h < wanted);
        let high = low + self.heads[low..].partition_point(|&h| h == wanted);
        let inside = &self.entries[low..high];
        let after = low + inside.partition_point(|entry| *entry.descriptor.span.start <= *key);
        after
            .checked_sub(1)
            .expect("the first range starts at the empty key")
    }

    /// The range that serves the last keys before `end` (`None`: before the end of the key space).
    ///
    /// # Panics
    /// On an empty map, or when `end` is the empty key, before which there is none.
    #[must_use]
    pub fn position_before(&self, end: Option<&[u8]>) -> usize {
        let after = match end {
            None => self.entries.len(),
            Some(end) => self
                .entries
                .partition_point(|entry| *entry.descriptor.span.start < *end),
        };
        after.checked_sub(1).expect("some key lies before the end")
    }

    /// The entry of a range; none of a hole.
    #[must_use]
    pub fn get(&self, range: RangeId) -> Option<&RangeEntry> {
        let at = self.positions.get(&range)?;
        self.entries.get(*at as usize)
    }

    /// The shard with the fewest ranges of `shards`; the lowest of equals.
    #[must_use]
    pub fn least_loaded(&self, shards: u16) -> ShardId {
        let mut counts = vec![0u64; usize::from(shards)];
        for entry in self.entries.iter().filter(|entry| !entry.is_hole()) {
            if let Some(count) = counts.get_mut(usize::from(entry.shard.0)) {
                *count += 1;
            }
        }
        let position = (0..shards).min_by_key(|&shard| counts[usize::from(shard)]);
        ShardId(position.unwrap_or(0))
    }

    /// Moves that even the numbers of ranges out: from the fullest to the emptiest shard until they differ by at most one.
    ///
    /// # Panics
    /// When an entry's shard is not below `shards`.
    #[must_use]
    pub fn balance(&self, shards: u16) -> Vec<(RangeId, ShardId)> {
        let mut by_shard: Vec<Vec<RangeId>> = vec![Vec::new(); usize::from(shards)];
        for entry in self.entries.iter().filter(|entry| !entry.is_hole()) {
            by_shard[usize::from(entry.shard.0)].push(entry.descriptor.range);
        }
        let mut moves = Vec::new();
        loop {
            let fullest = (0..by_shard.len())
                .rev()
                .max_by_key(|&s| by_shard[s].len())
                .unwrap_or(0);
            let emptiest = (0..by_shard.len())
                .min_by_key(|&s| by_shard[s].len())
                .unwrap_or(0);
            if by_shard[fullest].len() <= by_shard[emptiest].len() + 1 {
                return moves;
            }
            let range = by_shard[fullest].pop().expect("the fullest shard has a range");
            by_shard[emptiest].push(range);
            moves.push((
                range,
                ShardId(u16::try_from(emptiest).expect("a position among u16 shards")),
            ));
        }
    }
}

fn head(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(range: u64, start: &[u8], end: Option<&[u8]>, generation: u64, shard: u16) -> RangeEntry {
        let descriptor = Descriptor {
            range: RangeId(range),
            span: Span::new(start, end),
            generation,
        };
        RangeEntry {
            descriptor,
            shard: ShardId(shard),
            moves: 0,
        }
    }

    fn range_at(map: &RangeMap, key: &[u8]) -> u64 {
        map.entries()[map.position(key)].descriptor.range.0
    }

    #[test]
    fn keys_find_their_range_also_when_starts_share_eight_bytes() {
        let map = RangeMap::new(
            1,
            [
                entry(2, b"", Some(b"aaaaaaaab"), 1, 0),
                entry(3, b"aaaaaaaab", Some(b"aaaaaaaac"), 1, 0),
                entry(4, b"aaaaaaaac", None, 1, 0),
            ],
        );
        assert_eq!(map.check(), Ok(()));
        for (key, range) in [
            (&b""[..], 2),
            (b"a", 2),
            (b"aaaaaaaa", 2),
            (b"aaaaaaaaaz", 2),
            (b"aaaaaaaab", 3),
            (b"aaaaaaaabz", 3),
            (b"aaaaaaaac", 4),
            (b"b", 4),
        ] {
            assert_eq!(range_at(&map, key), range, "{}", key.escape_ascii());
        }
        assert_eq!(map.position_before(None), 2);
        assert_eq!(map.position_before(Some(b"aaaaaaaac")), 1);
        assert_eq!(map.position_before(Some(b"b")), 2);
    }

    #[test]
    fn the_higher_generation_counts_and_gaps_are_named() {
        let mut map = RangeMap::new(1, [entry(2, b"", None, 1, 0)]);
        map.merge([entry(2, b"", Some(b"m"), 2, 0), entry(3, b"m", None, 2, 1)]);
        map.merge([entry(2, b"", None, 1, 0)]);
        assert_eq!(map.check(), Ok(()));
        assert_eq!(range_at(&map, b"z"), 3);
        let broken = RangeMap::new(1, [entry(2, b"", Some(b"m"), 2, 0), entry(3, b"n", None, 2, 1)]);
        assert!(broken.check().is_err_and(|error| error.at.starts_with("r3")));
    }

    #[test]
    fn a_partial_map_has_holes_until_they_are_filled() {
        let mut map = RangeMap::partial(
            1,
            [entry(3, b"b", Some(b"d"), 1, 0), entry(5, b"f", Some(b"g"), 1, 0)],
        );
        assert_eq!(map.check(), Ok(()));
        let ranges = |map: &RangeMap| {
            map.entries()
                .iter()
                .map(|entry| entry.descriptor.range.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(ranges(&map), [0, 3, 0, 5, 0]);
        let found = |map: &RangeMap, range| map.get(RangeId(range)).map(|entry| entry.descriptor.range.0);
        assert_eq!(
            [0, 3, 5, 7].map(|range| found(&map, range)),
            [None, Some(3), Some(5), None]
        );
        assert_eq!([b"a", b"c", b"e"].map(|key| range_at(&map, key)), [0, 3, 0]);
        map.merge([
            entry(2, b"", Some(b"b"), 1, 0),
            entry(4, b"d", Some(b"f"), 1, 0),
            entry(6, b"g", None, 1, 0),
        ]);
        assert_eq!(ranges(&map), [2, 3, 4, 5, 6]);
        assert_eq!(
            (2..7).filter_map(|range| found(&map, range)).collect::<Vec<_>>(),
            ranges(&map)
        );
        map.remove(RangeId(4));
        assert_eq!([4, 5].map(|range| found(&map, range)), [None, Some(5)]);
        assert_eq!(
            map.entries()[map.position(b"f")],
            *map.get(RangeId(5)).expect("it is here")
        );
        assert_eq!(RangeMap::partial(1, []).entries().len(), 1);
    }

    #[test]
    fn balancing_evens_the_numbers_out() {
        let mut map = RangeMap::new(
            1,
            (0..7u8).map(|i| entry(u64::from(i) + 2, &[i; 1][..usize::from(i > 0)], None, 1, 0)),
        );
        assert_eq!(map.least_loaded(3), ShardId(1));
        for (range, shard) in map.balance(3) {
            let mut moved = map.get(range).cloned().expect("a known range");
            moved.shard = shard;
            moved.moves += 1;
            map.merge([moved]);
        }
        let count = |shard| {
            map.entries()
                .iter()
                .filter(|entry| entry.shard == ShardId(shard))
                .count()
        };
        assert_eq!((count(0), count(1), count(2)), (3, 2, 2));
        assert!(map.balance(3).is_empty());
    }

    #[test]
    fn few_edits_do_what_many_do() {
        let mut prng = base::Prng::new(7);
        let mut whole = 0;
        for round in 0..200u64 {
            let mut map = RangeMap::partial(1, []);
            if round % 2 == 0 {
                map = RangeMap::new(1, [entry(1, b"", None, 1, 0)]);
            }
            let mut last = 1;
            for _ in 0..100 {
                let entries = draw_edit(&mut prng, &map, &mut last);
                let mut other = map.clone();
                whole += u32::from(map.is_whole);
                other.is_whole = false;
                other.merge(entries.clone());
                map.merge(entries);
                assert_eq!(map, other);
                let some = map.entries()[draw(&mut prng, map.entries().len())].clone();
                if map.is_partial && prng.chance(0.2) && !some.is_hole() {
                    let mut other = map.clone();
                    other.is_whole = false;
                    map.remove(some.descriptor.range);
                    other.remove(some.descriptor.range);
                    assert_eq!(map, other);
                    let mut other = map.clone();
                    map.retain(|entry| entry.shard != ShardId(2));
                    other.is_whole = false;
                    other.retain(|entry| entry.shard != ShardId(2));
                    other.merge_all(Vec::new());
                    assert_eq!(map, other);
                }
            }
        }
        assert!(whole > 5_000, "{whole} maps were whole");
    }

    fn draw(prng: &mut base::Prng, below: usize) -> usize {
        usize::try_from(prng.below(below as u64)).expect("it is below a usize")
    }

    /// What may happen to a range: it is split, moved, or absorbs its right neighbour; and what is out of date or lies across others.
    fn draw_edit(prng: &mut base::Prng, map: &RangeMap, last: &mut u64) -> Vec<RangeEntry> {
        let key = [b'a' + u8::try_from(prng.below(20)).expect("few")];
        let at = draw(prng, map.entries().len());
        let mut left = map.entries()[at].clone();
        *last += 1;
        match prng.below(5) {
            0 if !left.is_hole() => {
                let span = left.descriptor.span.clone();
                if span.intersect(&key, None).is_none()
                    || *span.start >= key[..]
                    || span.end.as_deref().is_some_and(|end| *end <= key[..])
                {
                    return Vec::new();
                }
                left.descriptor.generation += 1;
                left.descriptor.span = Span::new(&span.start, Some(&key));
                let right = entry(*last, &key, span.end.as_deref(), left.descriptor.generation, 1);
                match prng.below(3) {
                    0 => vec![left],
                    1 => vec![right],
                    _ => vec![left, right],
                }
            }
            1 if !left.is_hole() => {
                left.moves += prng.below(2);
                left.shard = ShardId(2);
                vec![left]
            }
            2 if !left.is_hole() => {
                let Some(right) = map.entries().get(at + 1) else {
                    return Vec::new();
                };
                let generation = left.descriptor.generation.max(right.descriptor.generation) + 1;
                left.descriptor = Descriptor {
                    span: Span::new(&left.descriptor.span.start, right.descriptor.span.end.as_deref()),
                    generation,
                    ..left.descriptor
                };
                vec![left]
            }
            3 => {
                let end = [key[0] + 1 + u8::try_from(prng.below(3)).expect("few")];
                vec![entry(*last, &key, Some(&end), prng.below(4), 0)]
            }
            _ if left.is_hole() => {
                let span = left.descriptor.span.clone();
                vec![entry(*last, &span.start, span.end.as_deref(), 1, 0)]
            }
            _ => {
                left.descriptor.generation = left.descriptor.generation.saturating_sub(1);
                vec![left.clone(), left]
            }
        }
    }
}
