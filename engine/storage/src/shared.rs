//! What the tablets of one shard share.

use crate::StorageConfig;
use base::Timestamp;
use env::Env;
use std::rc::Rc;

/// How urgently the shard's memtables must shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing to do.
    None,
    /// Freeze and flush the tablet that [`pick_flush`](crate::pick_flush) names.
    Flush,
    /// As `Flush`, and take no write until it helped.
    Stop,
}

/// What the tablets of one shard share: configuration, block cache, memory budget.
pub struct Shared<E: Env> {
    env: E,
}

impl<E: Env> Shared<E> {
    /// The shared part of a shard's storage.
    ///
    /// # Panics
    /// When `config` is not valid.
    #[must_use]
    pub fn new(env: E, config: StorageConfig) -> Rc<Self> {
        config.validate();
        Rc::new(Self { env })
    }

    /// Bytes held by all memtables of the shard, active and frozen.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let _ = &self.env;
        unimplemented!()
    }

    /// How urgently the memtables must shrink.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        unimplemented!()
    }

    /// Lets merges drop versions that no read at or above `ts` sees. Never goes back.
    pub fn set_gc_threshold(&self, ts: Timestamp) {
        let _ = ts;
        unimplemented!()
    }

    /// Removes the files that no version refers to any more. Flush and merge call it at their end.
    ///
    /// # Cancellation
    /// Safe: what was not removed is removed when its tablet is opened next.
    pub async fn remove_obsolete(&self) {
        unimplemented!()
    }
}
