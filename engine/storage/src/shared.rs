//! What the tablets of one shard share: configuration, block and row cache, memory budget, and the files to remove.

use crate::StorageConfig;
use crate::cache::{Cache, CacheStats};
use crate::memtable::Memtable;
use crate::rows::RowCache;
use crate::sync::Lock;
use base::collections::FastHash;
use base::{Prng, RangeId, Timestamp};
use core::cell::{Cell, RefCell, RefMut};
use core::hash::{BuildHasher, Hasher};
use env::{Disk, Env};
use std::collections::BTreeSet;
use std::rc::Rc;

/// How urgently the shard's memtables must shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing to do.
    None,
    /// Freeze and flush the tablet that [`pick_flush`](crate::pick_flush) names: half of the budget is used.
    Flush,
    /// As `Flush`, and take no write until it helped: the budget is used up.
    Stop,
}

/// What the tablets of one shard share.
pub struct Shared<E: Env> {
    env: E,
    config: StorageConfig,
    cache: RefCell<Cache>,
    rows: RefCell<RowCache>,
    /// The number of the last version made.
    version: Cell<u64>,
    /// Bytes of all memtables.
    memory: Rc<Cell<usize>>,
    hasher: FastHash,
    prng: RefCell<Prng>,
    gc_threshold: Cell<Timestamp>,
    /// Files that no version refers to any more.
    garbage: RefCell<Vec<String>>,
    /// Held by who removes files.
    removing: Lock,
    /// Ranges that receive a raft snapshot.
    receiving: RefCell<BTreeSet<RangeId>>,
    /// Buffers for version keys.
    scratch: RefCell<Vec<Vec<u8>>>,
}

/// Buffers kept for lookups: as many as take turns.
const SCRATCH_MAX: usize = 16;

/// A memtable and its share of the shard's budget, given back when the last handle goes.
#[derive(Debug)]
pub(crate) struct MemtableCell {
    pub(crate) memtable: RefCell<Memtable>,
    charged: Cell<usize>,
    budget: Rc<Cell<usize>>,
}

impl MemtableCell {
    /// Makes the budget agree with the memtable's size.
    pub(crate) fn charge(&self) {
        let bytes = self.memtable.borrow().bytes();
        self.budget
            .set(self.budget.get() + bytes - self.charged.replace(bytes));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.charged.get()
    }
}

impl Drop for MemtableCell {
    fn drop(&mut self) {
        self.budget.set(self.budget.get() - self.charged.get());
    }
}

/// Says that a range receives a raft snapshot, until it is dropped.
pub(crate) struct Claim<E: Env> {
    shared: Rc<Shared<E>>,
    range: RangeId,
}

impl<E: Env> Drop for Claim<E> {
    fn drop(&mut self) {
        self.shared.receiving.borrow_mut().remove(&self.range);
    }
}

impl<E: Env> Shared<E> {
    /// The shared part of a shard's storage.
    ///
    /// # Panics
    /// When `config` is not valid.
    #[must_use]
    pub fn new(env: E, config: StorageConfig) -> Rc<Self> {
        config.validate();
        let prng = RefCell::new(env.prng());
        let cache = RefCell::new(Cache::new(config.cache_bytes_max));
        let rows = RefCell::new(RowCache::new(config.rows_bytes_max));
        Rc::new(Self {
            env,
            config,
            cache,
            rows,
            version: Cell::new(0),
            memory: Rc::default(),
            hasher: FastHash::default(),
            prng,
            gc_threshold: Cell::default(),
            garbage: RefCell::default(),
            removing: Lock::default(),
            receiving: RefCell::default(),
            scratch: RefCell::default(),
        })
    }

    /// Bytes held by all memtables of the shard, active and frozen.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory.get()
    }

    /// How urgently the memtables must shrink.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let (used, max) = (self.memory.get(), self.config.memory_bytes_max);
        if used >= max {
            base::sometimes!("storage: the memory budget stopped writes");
            Pressure::Stop
        } else if used >= max / 2 {
            Pressure::Flush
        } else {
            Pressure::None
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// What the block cache counted.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.borrow().stats()
    }

    /// Lets merges drop versions that no read at or above `ts` sees. Never goes back.
    pub fn set_gc_threshold(&self, ts: Timestamp) {
        self.gc_threshold.set(self.gc_threshold.get().max(ts));
    }

    /// Below it versions may be dropped.
    #[must_use]
    pub fn gc_threshold(&self) -> Timestamp {
        self.gc_threshold.get()
    }

    /// Removes the files that no version refers to any more. Flush and merge call it at their end.
    ///
    /// # Cancellation
    /// Safe: what was not removed is removed when its tablet is opened next.
    pub async fn remove_obsolete(&self) {
        let _one = self.removing.lock().await;
        loop {
            let Some(path) = self.garbage.borrow_mut().pop() else {
                return;
            };
            // A file that cannot be removed costs space only; opening its tablet tries again.
            let _ = self.env.disk().remove(&path).await;
        }
    }

    pub(crate) fn env(&self) -> &E {
        &self.env
    }

    pub(crate) fn cache(&self) -> RefMut<'_, Cache> {
        self.cache.borrow_mut()
    }

    pub(crate) fn rows(&self) -> &RefCell<RowCache> {
        &self.rows
    }

    /// A number that no other version of the shard has or had.
    pub(crate) fn number_version(&self) -> u64 {
        self.version.set(self.version.get() + 1);
        self.version.get()
    }

    pub(crate) fn removing(&self) -> &Lock {
        &self.removing
    }

    /// Forgets files of a directory that were to be removed: it goes as a whole.
    pub(crate) fn keep_of(&self, dir: &str) {
        let inside = |path: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
        self.garbage.borrow_mut().retain(|path| !inside(path));
    }

    pub(crate) fn discard(&self, path: String) {
        self.garbage.borrow_mut().push(path);
    }

    /// `None` while another claim of the range lives.
    pub(crate) fn claim(self: &Rc<Self>, range: RangeId) -> Option<Claim<E>> {
        let claimed = self.receiving.borrow_mut().insert(range);
        claimed.then(|| Claim {
            shared: self.clone(),
            range,
        })
    }

    pub(crate) fn new_memtable(&self, skip: usize) -> Rc<MemtableCell> {
        let memtable = RefCell::new(Memtable::new(skip));
        Rc::new(MemtableCell {
            memtable,
            charged: Cell::new(0),
            budget: self.memory.clone(),
        })
    }

    /// A new unique id for what the number `number` names in the directory `dir`: drawn, and mixed with that name, so that a
    /// generator that repeats itself after a restart repeats no id.
    pub(crate) fn draw_uid(&self, dir: &str, number: u64) -> u64 {
        let drawn = self.prng.borrow_mut().next_u64();
        crate::sstable::filter::hash(drawn ^ number.rotate_left(32), dir.as_bytes())
    }

    /// The hash of a key in memtables.
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        (hasher.finish() >> 32) as u32
    }

    /// Lends a buffer, empty.
    #[inline]
    pub(crate) fn take_scratch(&self) -> Vec<u8> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a lent buffer back.
    #[inline]
    pub(crate) fn put_scratch(&self, mut scratch: Vec<u8>) {
        let mut kept = self.scratch.borrow_mut();
        if kept.len() < SCRATCH_MAX {
            scratch.clear();
            kept.push(scratch);
        }
    }
}
