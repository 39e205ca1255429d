//! From a key's hash to its newest record: one cache miss.
//!
//! Open addressing with linear probing over one array of 64-bit slots. A slot is the hash's 32 bits and the record's address;
//! its home is given by the hash's *top* bits, so that doubling the array walks old and new memory in order and never
//! touches a record.
//!
//! ```text
//!   slot (u64) = hash (32 bits) │ address (32 bits); zero is empty
//! ```

use super::arena::Addr;
use crate::prefetch::prefetch;

const SLOTS_MIN: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct HashIndex {
    /// A power of two of them, or none.
    slots: Box<[u64]>,
    len: usize,
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is the address")]
fn parts(slot: u64) -> (u32, Addr) {
    ((slot >> 32) as u32, Addr(slot as u32))
}

fn slot_of(hash: u32, addr: Addr) -> u64 {
    u64::from(hash) << 32 | u64::from(addr.0)
}

impl HashIndex {
    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<u64>()
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }

    /// The first record with this hash for which `is_it` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(Addr) -> bool) -> Option<Addr> {
        self.find_slot(hash, &mut is_it).map(|at| parts(self.slots[at]).1)
    }

    #[inline]
    fn find_slot(&self, hash: u32, is_it: &mut impl FnMut(Addr) -> bool) -> Option<usize> {
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
            let (found, addr) = parts(slot);
            if found == hash && is_it(addr) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Points the slot that holds `old` to `new`.
    ///
    /// # Panics
    /// When `old` is not there.
    pub(crate) fn replace(&mut self, hash: u32, old: Addr, new: Addr) {
        let at = self
            .find_slot(hash, &mut |addr| addr == old)
            .expect("the record is in the index");
        self.slots[at] = slot_of(hash, new);
    }

    /// Adds a record whose key is not there yet.
    pub(crate) fn insert(&mut self, hash: u32, addr: Addr) {
        if (self.len + 1) * 3 > self.slots.len() * 2 {
            self.grow();
        }
        self.len += 1;
        self.place(slot_of(hash, addr));
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

    /// The first record with this hash, in all likelihood the one that [`Self::find`] will look at.
    #[inline]
    pub(crate) fn guess(&self, hash: u32) -> Option<Addr> {
        self.find(hash, |_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Prng;

    #[test]
    fn every_record_is_found_again_also_among_equal_hashes() {
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
        for (&hash, addr) in hashes.iter().zip(1..) {
            index.insert(hash, Addr(addr));
        }
        for (&hash, addr) in hashes.iter().zip(1..) {
            assert_eq!(index.find(hash, |found| found == Addr(addr)), Some(Addr(addr)));
        }
        index.replace(hashes[3], Addr(4), Addr(9_999));
        assert_eq!(index.find(hashes[3], |found| found == Addr(4)), None);
        assert_eq!(
            index.find(hashes[3], |found| found == Addr(9_999)),
            Some(Addr(9_999))
        );
    }
}
