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
    /// When a tablet's active memtable should be frozen.
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

impl StorageConfig {
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
