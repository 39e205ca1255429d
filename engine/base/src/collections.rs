//! Hash maps with a hasher whose seed is ours to choose: fixed by default, so that simulation is repeatable, and drawn once
//! at the start of a real process, so that keys chosen by an attacker do not collide.
//!
//! Invariant: no output depends on the iteration order of these maps.

use core::hash::BuildHasher;
use std::sync::OnceLock;

/// A hash map keyed by trusted or untrusted data.
pub type FastMap<K, V> = hashbrown::HashMap<K, V, FastHash>;
/// A hash set keyed by trusted or untrusted data.
pub type FastSet<K> = hashbrown::HashSet<K, FastHash>;
/// A raw table for callers that keep their own hashes (`hashbrown::HashTable`).
pub use hashbrown::{HashTable, hash_map, hash_table};

static SEED: OnceLock<u64> = OnceLock::new();

/// Chooses the process's hash seed. The first call wins; without one the seed is fixed.
pub fn seed_hashes(seed: u64) {
    let _ = SEED.set(seed);
}

/// Builds hashers (aHash) from the process's seed. Hashes never reach disk or wire.
#[derive(Clone)]
pub struct FastHash(ahash::RandomState);

impl Default for FastHash {
    fn default() -> Self {
        let seed = *SEED.get_or_init(|| 0x5eed_c07e_1a9e_0001);
        Self(ahash::RandomState::with_seeds(
            seed,
            !seed,
            seed.rotate_left(17),
            seed.rotate_left(43),
        ))
    }
}

impl core::fmt::Debug for FastHash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FastHash")
    }
}

impl BuildHasher for FastHash {
    type Hasher = ahash::AHasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}
