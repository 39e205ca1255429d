//! From a hash to the number of an item that lies elsewhere: one cache miss.
//!
//! An index is many parts, chosen by the hash's low bits, and each doubles by itself: no insert moves more than a small share
//! of the items, which would hold up a loop turn.
//!
//! A part is open addressing with linear probing over one array of 64-bit slots. A slot is the hash's 32 bits and the item's
//! number; its home is given by the hash's *top* bits, so that doubling the array walks old and new memory in order and never
//! touches an item.
//!
//! ```text
//!   hash ── low bits ──► part ── top bits ──► slot (u64) = hash (32 bits) │ number (32 bits, never zero); zero is empty
//! ```

use base::prefetch::prefetch;

/// Of a part with an item.
const SLOTS_MIN: usize = 4;
/// A power of two.
const PARTS: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct HashIndex {
    /// `None` before the first item: most ranges write nothing for a long time.
    parts: Option<Box<[Part; PARTS]>>,
    /// Of all parts.
    slots: usize,
    len: usize,
}

#[derive(Debug, Default)]
struct Part {
    /// A power of two of them, or none.
    slots: Box<[u64]>,
    len: usize,
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is the number")]
fn halves(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

fn slot_of(hash: u32, item: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(item)
}

fn part_of(hash: u32) -> usize {
    hash as usize % PARTS
}

impl HashIndex {
    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        let parts = self.parts.as_ref().map_or(0, |parts| size_of_val(&**parts));
        parts + self.slots * size_of::<u64>()
    }

    /// Items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first item with this hash for which `is_it` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let part = &self.parts.as_ref()?[part_of(hash)];
        let at = part.find_slot(hash, &mut is_it)?;
        Some(halves(part.slots[at]).1)
    }

    /// Points the slot that holds `old` to `new`.
    ///
    /// # Panics
    /// When `old` is not there.
    pub(crate) fn replace(&mut self, hash: u32, old: u32, new: u32) {
        let parts = self.parts.as_mut().expect("the item is in the index");
        let part = &mut parts[part_of(hash)];
        let at = part
            .find_slot(hash, &mut |item| item == old)
            .expect("the item is in the index");
        part.slots[at] = slot_of(hash, new);
    }

    /// Adds an item that is not there yet.
    ///
    /// # Panics
    /// When it is number zero.
    pub(crate) fn insert(&mut self, hash: u32, item: u32) {
        assert!(item != 0, "zero stands for an empty slot");
        let parts = self
            .parts
            .get_or_insert_with(|| Box::new(core::array::from_fn(|_| Part::default())));
        let part = &mut parts[part_of(hash)];
        if (part.len + 1) * 3 > part.slots.len() * 2 {
            self.slots += part.grow();
        }
        part.len += 1;
        part.place(slot_of(hash, item));
        self.len += 1;
    }

    /// Takes an item out, if it is there.
    pub(crate) fn remove(&mut self, hash: u32, item: u32) {
        let Some(parts) = &mut self.parts else { return };
        self.len -= usize::from(parts[part_of(hash)].remove(hash, item));
    }

    /// Starts the cache miss of a coming [`Self::find`].
    #[inline]
    pub(crate) fn prefetch(&self, hash: u32) {
        let Some(parts) = &self.parts else { return };
        let part = &parts[part_of(hash)];
        if let Some(slot) = part.slots.get(part.home(hash)) {
            prefetch(slot);
        }
    }

    /// The first item with this hash, in all likelihood the one that [`Self::find`] will look at.
    #[inline]
    pub(crate) fn guess(&self, hash: u32) -> Option<u32> {
        self.find(hash, |_| true)
    }
}

impl Part {
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
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
            let (found, item) = halves(slot);
            if found == hash && is_it(item) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether the item was there. Those behind it move up, so that no search ends too early.
    fn remove(&mut self, hash: u32, item: u32) -> bool {
        let Some(mut hole) = self.find_slot(hash, &mut |found| found == item) else {
            return false;
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
            let home = self.home(halves(slot).0);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = 0;
        true
    }

    fn place(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(halves(slot).0);
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Doubles the slots. Returns how many came to them.
    fn grow(&mut self) -> usize {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = core::mem::replace(&mut self.slots, vec![0; slots].into_boxed_slice());
        for &slot in old.iter().filter(|&&slot| slot != 0) {
            self.place(slot);
        }
        slots - old.len()
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
        // Parts with next to nothing, and with long runs.
        for kept in [40, 10_000] {
            let mut prng = Prng::new(2);
            let (mut index, mut map) = (HashIndex::default(), BTreeMap::new());
            for item in 1..30_000 {
                // Few hashes, at both ends of the array: runs are long and wrap around.
                let hash = match prng.below(30) {
                    0 => u32::try_from(prng.below(4)).expect("small"),
                    1 => u32::MAX - u32::try_from(prng.below(4)).expect("small"),
                    _ => u32::try_from(prng.below(1 << 32)).expect("32 bits"),
                };
                if map.len() < kept || prng.chance(0.5) {
                    index.insert(hash, item);
                    map.insert(item, hash);
                } else {
                    let from = u32::try_from(prng.below(u64::from(item))).expect("below an item");
                    let next = map.range(from..).next().or_else(|| map.iter().next());
                    let (&item, &hash) = next.expect("not empty");
                    index.remove(hash, item);
                    index.remove(hash, item);
                    map.remove(&item);
                }
                assert_eq!(index.len(), map.len());
                if item % 1000 == 0 {
                    for (&item, &hash) in &map {
                        assert_eq!(index.find(hash, |found| found == item), Some(item));
                    }
                }
            }
        }
    }

    #[test]
    fn no_insert_adds_more_than_a_small_share_of_the_slots() {
        let mut prng = Prng::new(3);
        let mut index = HashIndex::default();
        for item in 1..400_000 {
            let slots = index.slots;
            let hash = u32::try_from(prng.below(1 << 32)).expect("32 bits");
            index.insert(hash, item);
            let added = index.slots - slots;
            assert!(added <= (slots / 16).max(SLOTS_MIN), "{added} to {slots}");
        }
        let parts = index.parts.expect("there are items");
        assert_eq!(index.slots, parts.iter().map(|part| part.slots.len()).sum());
        assert_eq!(index.len, parts.iter().map(|part| part.len).sum());
    }
}
