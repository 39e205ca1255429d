//! The memtable's keys in order, for scans and flushes: a B-tree of two levels.
//!
//! ```text
//!   root      (prefix, first node, leaf) (prefix, first node, leaf) …          sorted
//!                │                          │
//!   leaves    [prefix × ≤128] [node × ≤128]   …                                  sorted
//! ```
//!
//! A *node* is the record that first brought its key. The prefix is sixteen bytes of the key, taken after the bytes that all
//! keys of the tablet share and compared as one big-endian number, so that an insert touches a record only among equal
//! prefixes. Two levels are enough: the memory budget bounds the root to some thousand entries.

use super::arena::Addr;
use core::cmp::Ordering;

const LEAF_MAX: usize = 128;

/// Reads the key of a node.
pub(crate) trait Keys {
    fn key(&self, node: Addr) -> &[u8];
}

#[derive(Debug, Default)]
struct Leaf {
    prefixes: Vec<u128>,
    nodes: Vec<Addr>,
}

#[derive(Debug)]
struct Fence {
    prefix: u128,
    first: Addr,
    leaf: u32,
}

/// A place between two nodes: before the node at `slot` of the `leaf`-th leaf in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    leaf: usize,
    slot: usize,
}

#[derive(Debug, Default)]
pub(crate) struct OrderedIndex {
    /// Leading bytes that all keys share.
    skip: usize,
    fences: Vec<Fence>,
    leaves: Vec<Leaf>,
}

const LEAF_BYTES: usize = LEAF_MAX * (size_of::<u128>() + size_of::<Addr>());

impl OrderedIndex {
    /// An index for keys that share their first `skip` bytes.
    pub(crate) fn new(skip: usize) -> Self {
        Self {
            skip,
            ..Self::default()
        }
    }

    /// Bytes of memory held, rounded up to full leaves once there is more than one.
    pub(crate) fn bytes(&self) -> usize {
        let leaves = match &*self.leaves {
            [] => 0,
            [only] => only.nodes.capacity() * (size_of::<u128>() + size_of::<Addr>()),
            many => many.len() * LEAF_BYTES,
        };
        leaves + self.fences.capacity() * size_of::<Fence>()
    }

    fn prefix(&self, key: &[u8]) -> u128 {
        let rest = key.get(self.skip..).unwrap_or_default();
        if let Some(first) = rest.first_chunk() {
            return u128::from_be_bytes(*first);
        }
        let mut padded = [0; 16];
        padded[..rest.len()].copy_from_slice(rest);
        u128::from_be_bytes(padded)
    }

    /// The place before the first node whose key is `>= key`, or with `after_equal` `> key`.
    pub(crate) fn seek(&self, keys: &impl Keys, key: &[u8], after_equal: bool) -> Place {
        let prefix = self.prefix(key);
        let below = |found: u128, node: Addr| match found.cmp(&prefix).then_with(|| keys.key(node).cmp(key)) {
            Ordering::Less => true,
            Ordering::Equal => after_equal,
            Ordering::Greater => false,
        };
        let leaf = self
            .fences
            .partition_point(|fence| below(fence.prefix, fence.first))
            .saturating_sub(1);
        let Some(fence) = self.fences.get(leaf) else {
            return Place { leaf: 0, slot: 0 };
        };
        let Leaf { prefixes, nodes } = &self.leaves[fence.leaf as usize];
        let (mut low, mut high) = (0, prefixes.len());
        while low < high {
            let middle = low.midpoint(high);
            if below(prefixes[middle], nodes[middle]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Place { leaf, slot: low }
    }

    /// Adds nodes whose keys are not there yet, and empties the list. In order, so that neighbours find each other's memory
    /// at hand.
    pub(crate) fn extend(&mut self, keys: &impl Keys, nodes: &mut Vec<Addr>) {
        let mut sorted: Vec<(u128, Addr)> = nodes
            .drain(..)
            .map(|node| (self.prefix(keys.key(node)), node))
            .collect();
        sorted.sort_unstable_by(|(a_prefix, a), (b_prefix, b)| {
            let by_key = || keys.key(*a).cmp(keys.key(*b));
            a_prefix.cmp(b_prefix).then_with(by_key)
        });
        for (_, node) in sorted {
            self.insert(keys, node);
        }
    }

    /// Adds a node whose key is not there yet.
    ///
    /// # Panics
    /// When there are 2³² leaves.
    pub(crate) fn insert(&mut self, keys: &impl Keys, node: Addr) {
        let key = keys.key(node);
        let prefix = self.prefix(key);
        let mut place = self.seek(keys, key, false);
        if self.fences.is_empty() {
            self.leaves.push(Leaf::default());
            self.fences.push(Fence {
                prefix,
                first: node,
                leaf: 0,
            });
        }
        if self.leaf(place.leaf).nodes.len() == LEAF_MAX {
            place = self.split_leaf(place);
        }
        let fence = &mut self.fences[place.leaf];
        if place.slot == 0 {
            (fence.prefix, fence.first) = (prefix, node);
        }
        let leaf = &mut self.leaves[fence.leaf as usize];
        leaf.prefixes.insert(place.slot, prefix);
        leaf.nodes.insert(place.slot, node);
    }

    fn leaf(&self, position: usize) -> &Leaf {
        &self.leaves[self.fences[position].leaf as usize]
    }

    /// Makes room in a full leaf and says where the place has gone. Keys that come in ascending order fill leaves whole.
    fn split_leaf(&mut self, place: Place) -> Place {
        let appending = place.leaf + 1 == self.fences.len() && place.slot == LEAF_MAX;
        let at = if appending { LEAF_MAX - 1 } else { LEAF_MAX / 2 };
        let left = &mut self.leaves[self.fences[place.leaf].leaf as usize];
        let mut right = Leaf {
            prefixes: Vec::with_capacity(LEAF_MAX),
            nodes: Vec::with_capacity(LEAF_MAX),
        };
        right.prefixes.extend(left.prefixes.drain(at..));
        right.nodes.extend(left.nodes.drain(at..));
        let leaf = u32::try_from(self.leaves.len()).expect("fewer leaves than addresses");
        let fence = Fence {
            prefix: right.prefixes[0],
            first: right.nodes[0],
            leaf,
        };
        self.leaves.push(right);
        self.fences.insert(place.leaf + 1, fence);
        match place.slot.checked_sub(at) {
            Some(slot) if slot > 0 => Place {
                leaf: place.leaf + 1,
                slot,
            },
            Some(_) | None => place,
        }
    }

    /// The place after the last node.
    pub(crate) fn end(&self) -> Place {
        let leaf = self.fences.len().saturating_sub(1);
        Place {
            leaf,
            slot: self.fences.get(leaf).map_or(0, |_| self.leaf(leaf).nodes.len()),
        }
    }

    /// The node after `place`, which moves behind it.
    pub(crate) fn next(&self, place: &mut Place) -> Option<Addr> {
        while place.leaf < self.fences.len() {
            if let Some(&node) = self.leaf(place.leaf).nodes.get(place.slot) {
                place.slot += 1;
                return Some(node);
            }
            *place = Place {
                leaf: place.leaf + 1,
                slot: 0,
            };
        }
        None
    }

    /// The node before `place`, which moves in front of it.
    pub(crate) fn prev(&self, place: &mut Place) -> Option<Addr> {
        loop {
            if let Some(slot) = place.slot.checked_sub(1) {
                place.slot = slot;
                return Some(self.leaf(place.leaf).nodes[slot]);
            }
            place.leaf = place.leaf.checked_sub(1)?;
            place.slot = self.leaf(place.leaf).nodes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Prng;
    use std::collections::BTreeSet;

    struct List(Vec<Vec<u8>>);

    impl Keys for List {
        fn key(&self, node: Addr) -> &[u8] {
            &self.0[node.0 as usize]
        }
    }

    fn check(make: impl Fn(&mut Prng, u32) -> Vec<u8>) {
        let mut prng = Prng::new(3);
        let (mut list, mut model) = (List(Vec::new()), BTreeSet::new());
        let mut index = OrderedIndex::new(2);
        for i in 0..3_000 {
            let key = make(&mut prng, i);
            if model.insert(key.clone()) {
                list.0.push(key);
                index.insert(&list, Addr(u32::try_from(list.0.len() - 1).expect("small")));
            }
        }
        let mut place = Place { leaf: 0, slot: 0 };
        let forwards: Vec<&[u8]> = core::iter::from_fn(|| index.next(&mut place))
            .map(|n| list.key(n))
            .collect();
        assert_eq!(forwards, model.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut place = index.end();
        let backwards: Vec<&[u8]> = core::iter::from_fn(|| index.prev(&mut place))
            .map(|n| list.key(n))
            .collect();
        assert_eq!(
            backwards,
            model.iter().rev().map(Vec::as_slice).collect::<Vec<_>>()
        );
        for i in 0..500 {
            let key = make(&mut prng, i);
            let mut place = index.seek(&list, &key, false);
            assert_eq!(
                index.next(&mut place).map(|n| list.key(n)),
                model.range(key.clone()..).next().map(Vec::as_slice)
            );
            let mut place = index.seek(&list, &key, true);
            assert_eq!(
                index.prev(&mut place).map(|n| list.key(n)),
                model.range(..=key).next_back().map(Vec::as_slice)
            );
        }
    }

    #[test]
    fn random_ascending_and_descending_keys_agree_with_a_set() {
        check(|prng, _| format!("k:{:06}", prng.below(9_000)).into_bytes());
        check(|_, i| format!("k:{i:06}").into_bytes());
        check(|_, i| format!("k:{:06}", 9_000 - i).into_bytes());
    }

    #[test]
    fn equal_prefixes_are_ordered_by_the_whole_key() {
        check(|prng, _| format!("k:{}{:05}", "p".repeat(20), prng.below(4_000)).into_bytes());
        check(|prng, _| [b"k:".as_slice(), &vec![0; prng.index(40)]].concat());
    }

    #[test]
    fn an_empty_index_has_no_neighbours() {
        let (index, list) = (OrderedIndex::default(), List(Vec::new()));
        let mut place = index.seek(&list, b"x", false);
        assert_eq!((index.next(&mut place), index.prev(&mut place)), (None, None));
        assert_eq!((index.bytes(), index.end()), (0, Place { leaf: 0, slot: 0 }));
    }
}
