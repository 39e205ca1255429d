//! The tunables of a shard's storage.

/// How data blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are.
    None,
    /// LZ4, kept only where it saves at least an eighth.
    Lz4,
}

/// The tunables of a shard's storage. Formats do not depend on them: they may change between two starts.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// When a tablet's active memtable should be frozen; see [`Self::set_memory`].
    pub memtable_bytes_max: usize,
    /// All memtables of the shard: writes stop here.
    pub memory_bytes_max: usize,
    /// The shard's block cache.
    pub cache_bytes_max: usize,
    /// The rows in the shard's row cache; zero for none. Its index has 12 to 24 bytes more for each.
    pub rows_bytes_max: usize,
    /// A data block is closed at this size, before compression.
    pub block_bytes: usize,
    /// How data blocks are compressed.
    pub compression: Compression,
    /// The least number of tables of similar size that are merged.
    pub tables_merge_min: usize,
    /// More tables than this are merged whatever their sizes.
    pub tables_max: usize,
    /// A manifest larger than this (and than a few snapshots of itself) is rewritten.
    pub manifest_bytes_max: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            memtable_bytes_max: 32 << 20,
            memory_bytes_max: 256 << 20,
            cache_bytes_max: 256 << 20,
            rows_bytes_max: 128 << 20,
            block_bytes: 16 << 10,
            compression: Compression::Lz4,
            tables_merge_min: 4,
            tables_max: 12,
            manifest_bytes_max: 256 << 10,
        }
    }
}

/// A smaller memtable makes many small tables; a larger one takes long to flush.
const MEMTABLE_BYTES: core::ops::RangeInclusive<usize> = 4 << 20..=1 << 30;

impl StorageConfig {
    /// Bounds the shard's memtables to so many bytes together, and each one to an eighth of them (between 4 MiB and 1 GiB, but
    /// never more than half): one is written while others are being flushed.
    pub fn set_memory(&mut self, bytes: usize) {
        self.memory_bytes_max = bytes;
        self.memtable_bytes_max = (bytes / 8)
            .clamp(*MEMTABLE_BYTES.start(), *MEMTABLE_BYTES.end())
            .min(bytes / 2);
    }

    /// Panics unless the tunables make sense together.
    ///
    /// # Panics
    /// When a bound is out of its range; the message names it.
    pub fn validate(&self) {
        assert!(self.memtable_bytes_max > 0, "memtable_bytes_max is zero");
        assert!(
            self.memory_bytes_max >= self.memtable_bytes_max,
            "memory_bytes_max is below memtable_bytes_max"
        );
        assert!(
            (64..=1 << 20).contains(&self.block_bytes),
            "block_bytes {} is outside 64 B..1 MiB",
            self.block_bytes
        );
        assert!(
            self.tables_merge_min >= 2,
            "tables_merge_min {} merges nothing",
            self.tables_merge_min
        );
        assert!(
            self.tables_max >= self.tables_merge_min,
            "tables_max {} is below tables_merge_min",
            self.tables_max
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memtable_grows_with_the_memory() {
        let default = StorageConfig::default();
        for (memory, memtable) in [
            (default.memory_bytes_max, default.memtable_bytes_max),
            (1 << 20, 512 << 10),
            (16 << 20, 4 << 20),
            (1 << 30, 128 << 20),
            (64 << 30, 1 << 30),
        ] {
            let mut config = StorageConfig::default();
            config.set_memory(memory);
            assert_eq!(
                (config.memory_bytes_max, config.memtable_bytes_max),
                (memory, memtable)
            );
            config.validate();
        }
    }
}
