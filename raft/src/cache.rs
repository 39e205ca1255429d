//! Memory that groups with one configuration, those of a shard, share for entries that followers may still lack. Without it each keeps
//! little, whatever the others need, and a follower that lags for a moment is sent what has to be read from disk.
//!
//! Invariant: what groups count here is what they had at their last [`ready`](crate::Raft::ready), and goes with them.

use core::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory shared by groups; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Cache(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes_max: usize,
    /// Only a sum: nothing is read after it that it orders.
    used: AtomicUsize,
}

// What is in it at a moment is no part of a configuration.
impl PartialEq for Cache {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes_max == other.0.bytes_max
    }
}

impl Eq for Cache {}

impl Hash for Cache {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.bytes_max.hash(state);
    }
}

impl Cache {
    /// For `bytes_max` bytes of entries. While there are more in it, each leader lets go of half of its own whenever it is asked what is to
    /// be done, down to [`Config::cache_bytes_max`](crate::Config::cache_bytes_max).
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            bytes_max,
            used: AtomicUsize::new(0),
        }))
    }

    /// Bytes that are in it.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// What one group has in a cache.
#[derive(Debug)]
pub(crate) struct Share {
    cache: Cache,
    bytes: usize,
}

impl Share {
    pub(crate) fn of(cache: &Cache) -> Self {
        Self {
            cache: cache.clone(),
            bytes: 0,
        }
    }

    /// What may be kept of `bytes`, when `least` may be in any case.
    pub(crate) fn allowance(&self, bytes: usize, least: usize) -> usize {
        if self.cache.used() <= self.cache.0.bytes_max {
            bytes.max(least)
        } else {
            (bytes / 2).max(least)
        }
    }

    /// So much is kept now.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let used = &self.cache.0.used;
        used.fetch_add(bytes, Ordering::Relaxed);
        used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        let mut share = Self::of(&self.cache);
        share.set(self.bytes);
        share
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_keeps_all_while_there_is_room_and_gives_half_away_when_there_is_not() {
        let cache = Cache::new(100);
        let (mut one, mut other) = (Share::of(&cache), Share::of(&cache));
        one.set(80);
        assert_eq!((cache.used(), one.allowance(80, 10)), (80, 80));
        other.set(30);
        assert_eq!((one.allowance(80, 10), other.allowance(12, 10)), (40, 10));
        one.set(40);
        assert_eq!((cache.used(), other.allowance(30, 10)), (70, 30));
        let twin = other.clone();
        assert_eq!(cache.used(), 100);
        drop((twin, one));
        assert_eq!(cache.used(), 30);
    }

    #[test]
    fn without_room_to_share_each_keeps_the_least() {
        let mut share = Share::of(&Cache::default());
        share.set(1000);
        assert_eq!(share.allowance(1000, 600), 600);
    }
}
