//! From a hash to the number of an item that lies elsewhere: one cache miss.
//!
//! Open addressing with linear probing over one array of 64-bit slots. A slot is the hash's 32 bits and the item's number; its
//! home is given by the hash's *top* bits, so that doubling the array walks old and new memory in order and never touches an
//! item.
//!
//! ```text
//!   slot (u64) = hash (32 bits) │ number (32 bits, never zero); zero is empty
//! ```

use crate::prefetch::prefetch;

const SLOTS_MIN: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct HashIndex {
    /// A power of two of them, or none.
    slots: Box<[u64]>,
    len: usize,
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is the number")]
fn parts(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

fn slot_of(hash: u32, item: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(item)
}

impl HashIndex {
    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<u64>()
    }

    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }

    /// The first item with this hash for which `is_it` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.find_slot(hash, &mut is_it).map(|at| parts(self.slots[at]).1)
    }

    #[inline]
    fn find_slot(&self, hash: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let (found, item) = parts(slot);
            if found == hash && is_it(item) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Points the slot that holds `old` to `new`.
    ///
    /// # Panics
    /// When `old` is not there.
    pub(crate) fn replace(&mut self, hash: u32, old: u32, new: u32) {
        let at = self
            .find_slot(hash, &mut |item| item == old)
            .expect("the item is in the index");
        self.slots[at] = slot_of(hash, new);
    }

    /// Adds an item that is not there yet.
    ///
    /// # Panics
    /// When it is number zero.
    pub(crate) fn insert(&mut self, hash: u32, item: u32) {
        assert!(item != 0, "zero stands for an empty slot");
        if (self.len + 1) * 3 > self.slots.len() * 2 {
            self.grow();
        }
        self.len += 1;
        self.place(slot_of(hash, item));
    }

    /// Takes an item out, if it is there. Those behind it move up, so that no search ends too early.
    pub(crate) fn remove(&mut self, hash: u32, item: u32) {
        let Some(mut hole) = self.find_slot(hash, &mut |found| found == item) else {
            return;
        };
        self.len -= 1;
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            // It may move into the hole unless its home lies behind the hole.
            let home = self.home(parts(slot).0);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }

    fn place(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(parts(slot).0);
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = core::mem::replace(&mut self.slots, vec![0; slots].into_boxed_slice());
        for &slot in old.iter().filter(|&&slot| slot != 0) {
            self.place(slot);
        }
    }

    /// Starts the cache miss of a coming [`Self::find`].
    #[inline]
    pub(crate) fn prefetch(&self, hash: u32) {
        if let Some(slot) = self.slots.get(self.home(hash)) {
            prefetch(slot);
        }
    }

    /// The first item with this hash, in all likelihood the one that [`Self::find`] will look at.
    #[inline]
    pub(crate) fn guess(&self, hash: u32) -> Option<u32> {
        self.find(hash, |_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Prng;
    use std::collections::BTreeMap;

    #[test]
    fn every_item_is_found_again_also_among_equal_hashes() {
        let mut prng = Prng::new(1);
        let mut index = HashIndex::default();
        assert_eq!(index.find(7, |_| true), None);
        let hashes: Vec<u32> = (0..5_000)
            .map(|i| {
                if i % 5 == 0 {
                    u32::MAX
                } else {
                    u32::try_from(prng.below(1 << 32)).expect("32 bits")
                }
            })
            .collect();
        for (&hash, item) in hashes.iter().zip(1..) {
            index.insert(hash, item);
        }
        for (&hash, item) in hashes.iter().zip(1..) {
            assert_eq!(index.find(hash, |found| found == item), Some(item));
        }
        index.replace(hashes[3], 4, 9_999);
        assert_eq!(index.find(hashes[3], |found| found == 4), None);
        assert_eq!(index.find(hashes[3], |found| found == 9_999), Some(9_999));
    }

    #[test]
    fn inserts_and_removes_agree_with_a_map() {
        let mut prng = Prng::new(2);
        let (mut index, mut map) = (HashIndex::default(), BTreeMap::new());
        for round in 0..20_000u32 {
            // Few hashes, at both ends of the array: runs are long and wrap around.
            let hash = match prng.below(3) {
                0 => u32::try_from(prng.below(4)).expect("small"),
                1 => u32::MAX - u32::try_from(prng.below(4)).expect("small"),
                _ => u32::try_from(prng.below(1 << 32)).expect("32 bits"),
            };
            let item = 1 + round;
            if map.len() < 40 || prng.chance(0.5) {
                index.insert(hash, item);
                map.insert(item, hash);
            } else {
                let nth = prng.index(map.len());
                let (&item, &hash) = map.iter().nth(nth).expect("below the length");
                index.remove(hash, item);
                index.remove(hash, item);
                map.remove(&item);
            }
            assert_eq!(index.len(), map.len());
            if round % 100 == 0 {
                for (&item, &hash) in &map {
                    assert_eq!(index.find(hash, |found| found == item), Some(item));
                }
            }
        }
    }
}
