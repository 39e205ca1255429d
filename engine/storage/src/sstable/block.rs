//! Sorted blocks: keys with their common prefixes left out, and a tag and a value each.
//!
//! ```text
//!   entry:  shared varint │ rest_len varint │ tag varint │ value_len varint │ rest of the key │ value
//!   block:  entry … │ restart offsets, u32 each │ restart count, u32
//! ```
//!
//! Every eighth entry is a *restart*: it shares nothing, so that a search can begin there. In memory, eight bytes of each
//! restart's key (after what all of them share) stand side by side, so that choosing one costs a cache line or two. From
//! there on keys are compared without being put together, from what is known of how far the target agrees with the entry
//! before.

use super::codec::{Decoder, put_varint};
use base::prefetch::{prefetch, prefetch_lines};
use core::cmp::Ordering;
use core::ops::Range;

pub(crate) const RESTART_INTERVAL: usize = 8;

/// Up to so many restarts are compared without a search by halves.
const ANCHORS_FEW: usize = 64;
/// Anchors side by side in a cache line, and lines of them that a search asks for at once.
const ANCHORS_PER_LINE: usize = 64 / size_of::<Anchor>();
const ANCHOR_LINES: usize = 8;
/// Cache lines that a search asks for at once where it begins to walk: eight entries of a hundred bytes.
const RUN_LINES: usize = 16;

/// Builds one block.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    data: Vec<u8>,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
    entries: usize,
}

#[inline]
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a_words, b_words) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (at, (a, b)) in a_words.iter().zip(b_words).enumerate() {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return at * 8 + (differ.trailing_zeros() / 8) as usize;
        }
    }
    let whole = a_words.len().min(b_words.len()) * 8;
    whole
        + a[whole..]
            .iter()
            .zip(&b[whole..])
            .take_while(|(a, b)| a == b)
            .count()
}

impl BlockBuilder {
    /// Adds an entry; keys must ascend strictly.
    ///
    /// # Panics
    /// When they do not, or when the block outgrows 4 GiB.
    pub(crate) fn add(&mut self, key: &[u8], tag: u8, value: &[u8]) {
        assert!(
            self.entries == 0 || *self.last_key < *key,
            "keys of a block must ascend"
        );
        let shared = if self.entries.is_multiple_of(RESTART_INTERVAL) {
            self.restarts
                .push(u32::try_from(self.data.len()).expect("a block is below 4 GiB"));
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        put_varint(&mut self.data, shared as u64);
        put_varint(&mut self.data, (key.len() - shared) as u64);
        put_varint(&mut self.data, u64::from(tag));
        put_varint(&mut self.data, value.len() as u64);
        self.data.extend_from_slice(&key[shared..]);
        self.data.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.entries += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The greatest key so far.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Bytes of the finished block.
    pub(crate) fn len(&self) -> usize {
        self.data.len() + (self.restarts.len() + 1) * size_of::<u32>()
    }

    /// The finished block; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut data = core::mem::take(&mut self.data);
        for restart in &self.restarts {
            data.extend_from_slice(&restart.to_le_bytes());
        }
        let count = u32::try_from(self.restarts.len()).expect("fewer restarts than bytes");
        data.extend_from_slice(&count.to_le_bytes());
        self.restarts.clear();
        self.last_key.clear();
        self.entries = 0;
        data
    }
}

/// A checked block inside a longer buffer: where its entries and restarts lie.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    entries: Range<usize>,
    anchors: Box<[Anchor]>,
    /// How many leading bytes the keys of all restarts share.
    common: usize,
}

/// A restart, and the eight bytes of its key that follow what all restarts share.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    prefix: u64,
    offset: u32,
}

fn prefix(key: &[u8], common: usize) -> u64 {
    let rest = key.get(common..).unwrap_or_default();
    if let Some(first) = rest.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(padded)
}

/// One entry, its key without the shared part.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    shared: usize,
    rest: &'a [u8],
    tag: u8,
    value: &'a [u8],
}

/// The entries from a restart on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    offset: usize,
}

/// What a search found: the first entry at or above the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    /// How many leading bytes of its key agree with the target.
    pub(crate) agrees: usize,
    shared: usize,
    rest: &'a [u8],
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Where the value ends in the buffer.
    value_end: usize,
}

impl Found<'_> {
    /// Where the value lies in the buffer.
    pub(crate) fn value_range(&self) -> Range<usize> {
        self.value_end - self.value.len()..self.value_end
    }

    pub(crate) fn key_len(&self) -> usize {
        self.shared + self.rest.len()
    }

    /// Copies the key's bytes from `start` on into `out`, given the target that was searched for.
    ///
    /// # Panics
    /// When `out` is longer than what the key has from `start` on.
    pub(crate) fn copy_key(&self, target: &[u8], start: usize, out: &mut [u8]) {
        // The bytes before `rest` are shared with the entry before, and agree with the target: `shared <= agrees`.
        let from_target = self.shared.saturating_sub(start).min(out.len());
        out[..from_target].copy_from_slice(&target[start..start + from_target]);
        let skip = start.saturating_sub(self.shared);
        let wanted = out.len() - from_target;
        out[from_target..].copy_from_slice(&self.rest[skip..skip + wanted]);
    }
}

#[inline]
fn entry<'a>(decoder: &mut Decoder<'a>) -> Option<Entry<'a>> {
    // Most often all four numbers have one byte each.
    if let Some((&[shared, rest_len, tag, value_len], after)) = decoder.0.split_first_chunk()
        && (shared | rest_len | tag | value_len) < 0x80
    {
        let (rest, after) = after.split_at_checked(rest_len.into())?;
        let (value, after) = after.split_at_checked(value_len.into())?;
        decoder.0 = after;
        return Some(Entry {
            shared: shared.into(),
            rest,
            tag,
            value,
        });
    }
    long_entry(decoder)
}

fn long_entry<'a>(decoder: &mut Decoder<'a>) -> Option<Entry<'a>> {
    let shared = decoder.length()?;
    let rest_len = decoder.length()?;
    let tag = u8::try_from(decoder.varint()?).ok()?;
    let value_len = decoder.length()?;
    let rest = decoder.take(rest_len)?;
    let value = decoder.take(value_len)?;
    Some(Entry {
        shared,
        rest,
        tag,
        value,
    })
}

/// The entries of a block, one by one, with whole keys.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    keys: Vec<u8>,
    index: Vec<EntryRef>,
}

#[derive(Debug, Clone)]
struct EntryRef {
    key: Range<u32>,
    value: Range<u32>,
    tag: u8,
}

impl Layout {
    /// Checks the block that fills `within` of `data`: every offset, length and shared prefix. `None` when it is malformed.
    pub(crate) fn check(data: &[u8], within: Range<usize>) -> Option<Self> {
        let block = data.get(within.clone())?;
        let (rest, count) = block.split_last_chunk::<4>()?;
        let restarts = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let entries_len = rest.len().checked_sub(restarts.checked_mul(4)?)?;
        let (entries, offsets) = rest.split_at(entries_len);
        let (offsets, _) = offsets.as_chunks::<4>();
        let (mut decoder, mut number, mut key_len) = (Decoder(entries), 0usize, 0usize);
        let (mut anchors, mut keys) = (Vec::with_capacity(restarts), Vec::with_capacity(restarts));
        while !decoder.is_empty() {
            let offset = u32::try_from(entries_len - decoder.0.len()).ok()?;
            let entry = entry(&mut decoder)?;
            if number.is_multiple_of(RESTART_INTERVAL) {
                if entry.shared != 0
                    || offsets.get(anchors.len()).map(|o| u32::from_le_bytes(*o)) != Some(offset)
                {
                    return None;
                }
                anchors.push(Anchor { prefix: 0, offset });
                keys.push(entry.rest);
            }
            if entry.shared > key_len {
                return None;
            }
            key_len = entry.shared + entry.rest.len();
            number += 1;
        }
        if anchors.len() != restarts {
            return None;
        }
        let common = keys
            .first()
            .zip(keys.last())
            .map_or(0, |(first, last)| common_prefix(first, last));
        for (anchor, key) in anchors.iter_mut().zip(keys) {
            anchor.prefix = prefix(key, common);
        }
        let entries = within.start..within.start + entries_len;
        Some(Self {
            entries,
            anchors: anchors.into(),
            common,
        })
    }

    /// Bytes of memory held beside the block's.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.anchors)
    }

    #[inline]
    fn at<'a>(&self, data: &'a [u8], offset: usize) -> Decoder<'a> {
        Decoder(&data[self.entries.start + offset..self.entries.end])
    }

    /// The key of a restart, which shares nothing.
    #[inline]
    fn anchor_key<'a>(&self, data: &'a [u8], anchor: &Anchor) -> &'a [u8] {
        entry(&mut self.at(data, anchor.offset as usize))
            .expect("the block was checked")
            .rest
    }

    /// How many anchors from the first on are `below`. A few are all looked at: their cache misses then overlap, while a
    /// search by halves would take one after the other.
    #[inline]
    fn count(&self, below: impl Fn(&Anchor) -> bool) -> usize {
        if self.anchors.len() <= ANCHORS_FEW {
            self.anchors.iter().filter(|anchor| below(anchor)).count()
        } else {
            self.anchors.partition_point(below)
        }
    }

    /// How many restarts have a key below `target`.
    fn anchors_below(&self, data: &[u8], target: &[u8]) -> usize {
        let Some(first) = self.anchors.first() else {
            return 0;
        };
        let common = &self.anchor_key(data, first)[..self.common];
        match target[..self.common.min(target.len())].cmp(common) {
            Ordering::Less => 0,
            Ordering::Greater => self.anchors.len(),
            Ordering::Equal => {
                let wanted = prefix(target, self.common);
                let below = self.count(|anchor| anchor.prefix < wanted);
                let equal = self.anchors[below..]
                    .iter()
                    .take_while(|anchor| anchor.prefix == wanted);
                below
                    + equal
                        .take_while(|anchor| self.anchor_key(data, anchor) < target)
                        .count()
            }
        }
    }

    /// Asks for what [`Self::run`] will look at.
    #[inline]
    pub(crate) fn prefetch(&self, data: &[u8]) {
        for anchors in self.anchors.chunks(ANCHORS_PER_LINE).take(ANCHOR_LINES) {
            prefetch(anchors);
        }
        prefetch(&data[self.entries.start..]);
    }

    /// Where to begin to walk for `target`, which is asked for: every restart before the last one below it is below it too.
    #[inline]
    pub(crate) fn run(&self, data: &[u8], target: &[u8]) -> Run {
        let below = self.anchors_below(data, target);
        let last = below
            .checked_sub(1)
            .map(|last| self.anchors[last].offset as usize);
        let offset = last.unwrap_or(0);
        prefetch_lines(self.at(data, offset).0, RUN_LINES);
        Run { offset }
    }

    /// The first entry whose key is at or above `target`.
    pub(crate) fn seek<'a>(&self, data: &'a [u8], target: &[u8]) -> Option<Found<'a>> {
        self.walk(data, &self.run(data, target), target)
    }

    /// The first entry whose key is at or above `target`, from where its run begins.
    pub(crate) fn walk<'a>(&self, data: &'a [u8], run: &Run, target: &[u8]) -> Option<Found<'a>> {
        let mut decoder = self.at(data, run.offset);
        let (mut agrees, mut number) = (0, 0usize);
        while !decoder.is_empty() {
            let Entry {
                shared,
                rest,
                tag,
                value,
            } = entry(&mut decoder).expect("the block was checked");
            // The entry before is below the target and agrees with it in `agrees` bytes. If this one shares more with it,
            // it differs from the target at the same byte in the same way; if it shares less, it is above. A restart shares
            // nothing whatever its key is: it starts anew.
            if number.is_multiple_of(RESTART_INTERVAL) {
                agrees = 0;
            }
            number += 1;
            let order = match shared.cmp(&agrees) {
                Ordering::Greater => Ordering::Less,
                Ordering::Less => {
                    agrees = shared;
                    Ordering::Greater
                }
                Ordering::Equal => {
                    let wanted = &target[shared..];
                    let more = common_prefix(rest, wanted);
                    agrees += more;
                    rest[more..].cmp(&wanted[more..])
                }
            };
            if order != Ordering::Less {
                let value_end = self.entries.end - decoder.0.len();
                return Some(Found {
                    agrees,
                    shared,
                    rest,
                    tag,
                    value,
                    value_end,
                });
            }
        }
        None
    }

    /// The values of all entries.
    pub(crate) fn values<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut decoder = self.at(data, 0);
        core::iter::from_fn(move || {
            if decoder.is_empty() {
                return None;
            }
            entry(&mut decoder).map(|entry| entry.value)
        })
    }

    /// Puts all keys together, for a walk in either direction.
    pub(crate) fn entries(&self, data: &[u8], into: &mut Entries) {
        into.keys.clear();
        into.index.clear();
        let mut decoder = self.at(data, 0);
        let mut last = 0..0;
        while !decoder.is_empty() {
            let entry = entry(&mut decoder).expect("the block was checked");
            let start = into.keys.len();
            into.keys
                .extend_from_within(last.start..last.start + entry.shared);
            into.keys.extend_from_slice(entry.rest);
            last = start..into.keys.len();
            let value_end = self.entries.end - decoder.0.len();
            let value = to_u32(value_end - entry.value.len())..to_u32(value_end);
            into.index.push(EntryRef {
                key: to_u32(last.start)..to_u32(last.end),
                value,
                tag: entry.tag,
            });
        }
    }
}

fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).expect("a block is below 4 GiB")
}

impl Entries {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn key(&self, at: usize) -> &[u8] {
        let range = &self.index[at].key;
        &self.keys[range.start as usize..range.end as usize]
    }

    pub(crate) fn tag(&self, at: usize) -> u8 {
        self.index[at].tag
    }

    pub(crate) fn value<'a>(&self, data: &'a [u8], at: usize) -> &'a [u8] {
        let range = &self.index[at].value;
        &data[range.start as usize..range.end as usize]
    }

    /// How many entries are below `target`.
    pub(crate) fn below(&self, target: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < target {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..4, 0..10)
    }

    proptest! {
        #[test]
        fn seek_and_walk_agree_with_a_map(
            map in proptest::collection::btree_map(key(), (0u8..3, proptest::collection::vec(any::<u8>(), 0..5)), 0..120),
            targets in proptest::collection::vec(key(), 20),
        ) {
            let map: BTreeMap<Vec<u8>, (u8, Vec<u8>)> = map;
            let mut builder = BlockBuilder::default();
            for (key, (tag, value)) in &map {
                builder.add(key, *tag, value);
            }
            let len = builder.len();
            let mut data = vec![9; 3];
            data.extend(builder.finish());
            prop_assert_eq!(data.len(), len + 3);
            let layout = Layout::check(&data, 3..len + 3).expect("well formed");
            let mut entries = Entries::default();
            layout.entries(&data, &mut entries);
            let walked: Vec<_> = (0..entries.len())
                .map(|i| (entries.key(i).to_vec(), (entries.tag(i), entries.value(&data, i).to_vec()))).collect();
            prop_assert_eq!(walked, map.clone().into_iter().collect::<Vec<_>>());
            for target in targets.iter().chain(map.keys()) {
                let expected = map.range(target.clone()..).next();
                let found = layout.seek(&data, target).map(|found| {
                    let mut key = vec![0; found.key_len()];
                    found.copy_key(target, 0, &mut key);
                    assert_eq!(found.agrees, common_prefix(&key, target));
                    (key, (found.tag, found.value.to_vec()))
                });
                prop_assert_eq!(found, expected.map(|(k, v)| (k.clone(), v.clone())));
                prop_assert_eq!(entries.below(target), map.range(..target.clone()).count());
            }
        }

        #[test]
        fn hostile_blocks_are_refused_or_harmless(
            bytes in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..60), target in key(),
        ) {
            if let Some(layout) = Layout::check(&bytes, 0..bytes.len()) {
                layout.seek(&bytes, &target);
                layout.entries(&bytes, &mut Entries::default());
            }
        }
    }
}
