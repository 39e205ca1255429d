//! The shard's block cache: bounded in bytes, resistant to scans.
//!
//! ```text
//!   insert ──► small (a tenth) ──hit since──► main ──hit since──► main again, one hit fewer
//!                   │ no hit                    │ no hit
//!                   ▼                           ▼
//!                 ghost (names only)          gone
//!   insert of a name in the ghost ──► main
//! ```
//!
//! A block that a scan touches once passes through the small queue and pushes out nothing that is read again.
//!
//! Source: Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023 (S3-FIFO).

use crate::hash_index::HashIndex;
use crate::sstable::format::Block;
use base::collections::{FastHash, HashTable};
use base::prefetch::prefetch;
use core::cell::Cell;
use core::hash::BuildHasher;
use std::collections::VecDeque;
use std::rc::Rc;

/// A block's name: its table's unique id and its offset there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockId {
    pub(crate) uid: u64,
    pub(crate) offset: u64,
}

/// Hits above this are not counted.
const HITS_MAX: u8 = 3;

#[derive(Debug)]
struct Slot {
    id: BlockId,
    block: Rc<Block>,
    hits: Cell<u8>,
}

/// What the cache counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks found.
    pub hits: u64,
    /// Blocks not found.
    pub misses: u64,
    /// Blocks pushed out.
    pub evictions: u64,
    /// Bytes held.
    pub bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
    hasher: FastHash,
    /// Positions in `slots` and one, by the hash of the block's name.
    table: HashIndex,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    small: VecDeque<u32>,
    small_bytes: usize,
    main: VecDeque<u32>,
    main_bytes: usize,
    /// Hashes of names that left the small queue, oldest first.
    ghost: VecDeque<u64>,
    ghost_set: HashTable<u64>,
    hits: Cell<u64>,
    misses: Cell<u64>,
    evictions: u64,
}

/// The part of a hash that the table uses.
#[inline]
fn short(hash: u64) -> u32 {
    u32::try_from(hash >> 32).expect("32 bits")
}

/// The table's name for a position in `slots`.
#[inline]
fn item_of(at: u32) -> u32 {
    at + 1
}

#[inline]
fn at_of(item: u32) -> usize {
    item as usize - 1
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            hasher: FastHash::default(),
            table: HashIndex::default(),
            slots: Vec::new(),
            free: Vec::new(),
            small: VecDeque::new(),
            small_bytes: 0,
            main: VecDeque::new(),
            main_bytes: 0,
            ghost: VecDeque::new(),
            ghost_set: HashTable::new(),
            hits: Cell::new(0),
            misses: Cell::new(0),
            evictions: 0,
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            evictions: self.evictions,
            bytes: self.small_bytes + self.main_bytes,
        }
    }

    #[inline]
    fn hash(&self, id: BlockId) -> u64 {
        self.hasher.hash_one((id.uid, id.offset))
    }

    /// The first step towards a block, for a [`Self::get`] soon: asks for the table's line.
    #[inline]
    pub(crate) fn prefetch_index(&self, id: BlockId) {
        self.table.prefetch(short(self.hash(id)));
    }

    /// The second one: asks for the slot.
    #[inline]
    pub(crate) fn prefetch_slot(&self, id: BlockId) {
        if let Some(item) = self.table.guess(short(self.hash(id))) {
            prefetch(&self.slots[at_of(item)]);
        }
    }

    /// The third one: asks for the block's count of references and its head.
    #[inline]
    pub(crate) fn prefetch_block(&self, id: BlockId) {
        if let Some(item) = self.table.guess(short(self.hash(id)))
            && let Some(slot) = &self.slots[at_of(item)]
        {
            prefetch(&*slot.block);
            prefetch(&slot.block.layout);
        }
    }

    /// The block, and a note that it was wanted.
    #[inline]
    pub(crate) fn get(&self, id: BlockId) -> Option<Rc<Block>> {
        let found = self.table.find(short(self.hash(id)), |item| {
            self.slots[at_of(item)].as_ref().is_some_and(|s| s.id == id)
        });
        let Some(slot) = found.and_then(|item| self.slots[at_of(item)].as_ref()) else {
            self.misses.set(self.misses.get() + 1);
            return None;
        };
        self.hits.set(self.hits.get() + 1);
        if slot.hits.get() < HITS_MAX {
            slot.hits.set(slot.hits.get() + 1);
        }
        Some(slot.block.clone())
    }

    /// Adds a block, and pushes others out to make room. A block larger than the cache is not kept.
    pub(crate) fn insert(&mut self, id: BlockId, block: Rc<Block>) {
        let (hash, bytes) = (self.hash(id), block.bytes());
        if bytes > self.bytes_max || self.get(id).is_some() {
            return;
        }
        while self.small_bytes + self.main_bytes + bytes > self.bytes_max {
            self.evict();
        }
        let slot = Some(Slot {
            id,
            block,
            hits: Cell::new(0),
        });
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("fewer blocks than 2^32")
        };
        self.table.insert(short(hash), item_of(at));
        if self.ghost_set.find(hash, |&known| known == hash).is_some() {
            base::sometimes!("storage: a block came back from the ghost queue");
            self.main.push_back(at);
            self.main_bytes += bytes;
        } else {
            self.small.push_back(at);
            self.small_bytes += bytes;
        }
    }

    fn evict(&mut self) {
        if self.small_bytes * 10 >= self.bytes_max || self.main.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn slot(&self, at: u32) -> &Slot {
        self.slots[at as usize]
            .as_ref()
            .expect("the queues name live slots")
    }

    fn evict_small(&mut self) {
        let Some(at) = self.small.pop_front() else { return };
        let (bytes, wanted, hash) = (
            self.slot(at).block.bytes(),
            self.slot(at).hits.get() > 0,
            self.hash(self.slot(at).id),
        );
        self.small_bytes -= bytes;
        if wanted {
            self.slot(at).hits.set(0);
            self.main.push_back(at);
            self.main_bytes += bytes;
            return;
        }
        self.remember(hash);
        self.drop_slot(at, hash);
    }

    fn evict_main(&mut self) {
        let Some(at) = self.main.pop_front() else { return };
        let slot = self.slot(at);
        if let Some(fewer) = slot.hits.get().checked_sub(1) {
            slot.hits.set(fewer);
            self.main.push_back(at);
            return;
        }
        let (bytes, hash) = (slot.block.bytes(), self.hash(slot.id));
        self.main_bytes -= bytes;
        self.drop_slot(at, hash);
    }

    /// Remembers as many names as there are blocks.
    fn remember(&mut self, hash: u64) {
        if self.ghost_set.find(hash, |&known| known == hash).is_some() {
            return;
        }
        self.ghost.push_back(hash);
        self.ghost_set.insert_unique(hash, hash, |&hash| hash);
        while self.ghost.len() > self.table.len() {
            let Some(oldest) = self.ghost.pop_front() else {
                return;
            };
            if let Ok(entry) = self.ghost_set.find_entry(oldest, |&known| known == oldest) {
                entry.remove();
            }
        }
    }

    fn drop_slot(&mut self, at: u32, hash: u64) {
        self.table.remove(short(hash), item_of(at));
        self.slots[at as usize] = None;
        self.free.push(at);
        self.evictions += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sstable::block::BlockBuilder;
    use crate::sstable::format::Kind;

    fn block(size: usize) -> Rc<Block> {
        let mut builder = BlockBuilder::default();
        builder.add(b"k", 0, &vec![0; size]);
        Rc::new(Block::parse(builder.finish(), Kind::Data).expect("well formed"))
    }

    fn id(offset: u64) -> BlockId {
        BlockId { uid: 1, offset }
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_read_again() {
        let one = block(1_000).bytes();
        let mut cache = Cache::new(one * 100);
        for hot in 0..40 {
            cache.insert(id(hot), block(1_000));
        }
        for round in 0..20 {
            for hot in 0..40 {
                if cache.get(id(hot)).is_none() {
                    cache.insert(id(hot), block(1_000));
                }
            }
            for cold in 0..200 {
                cache.insert(id(1_000 + round * 200 + cold), block(1_000));
            }
            assert!(cache.stats().bytes <= one * 100);
        }
        let kept = (0..40).filter(|&hot| cache.get(id(hot)).is_some()).count();
        assert!(kept >= 38, "{kept} of 40 hot blocks survived the scans");
    }

    #[test]
    fn the_bound_holds_and_too_large_a_block_is_not_kept() {
        let mut cache = Cache::new(10_000);
        cache.insert(id(1), block(20_000));
        assert_eq!((cache.get(id(1)).is_none(), cache.stats().bytes), (true, 0));
        for i in 0..500 {
            cache.insert(id(i), block(usize::try_from(i * 7 % 900).expect("small")));
            assert!(cache.stats().bytes <= 10_000, "{}", cache.stats().bytes);
        }
        assert!(cache.get(id(499)).is_some());
        assert_eq!(cache.table.len() + cache.free.len(), cache.slots.len());
        assert!(cache.ghost.len() <= cache.table.len() + 1);
    }
}
