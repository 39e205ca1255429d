//! The shard's row cache: what a point lookup in a tablet's tables found, in one piece.
//!
//! A lookup in a table touches an index, a filter and a block; a row here is two cache misses away.
//! Rows lie one after the other in a ring of chunks. The oldest chunk is taken for new rows when all are full: what was read
//! since it was written may stay (up to half of the chunk), the rest goes.
//!
//! ```text
//!   index (hash → position)         chunk 0        chunk 1 (head)      chunk 2 (next to be taken)
//!                                  │row│row│row│  │row│row│ free    │  │row│row│row│row│
//!   row = version (8) │ wall (8) │ logical (4) │ hash (4) │ value len (4) │ key len (2) │ read (1) │ – │ key │ value │ pad to 16
//! ```
//!
//! Invariants:
//! - A row is what one *version*, an immutable set of tables, says about a key at every timestamp from the row's own on. A
//!   version's number is never used again, so a row can be useless but never stale, and no write needs to look for it.
//! - Memtables are asked first: they are newer than every version.
//! - A key has at most one row.
//!
//! Deliberately absent: deletes and keys that are not there, which the filters answer; rows larger than an eighth of a chunk.

use crate::hash_index::HashIndex;
use base::Timestamp;
use base::prefetch::prefetch_lines;

const CHUNK_BYTES: usize = 64 << 10;
/// Of a row's place: what positions count in.
const GRAIN: usize = 16;
const GRAINS_MAX: usize = CHUNK_BYTES / GRAIN;
const HEADER_BYTES: usize = 32;
const READ_AT: usize = 30;

/// What is known of a key and a version of its tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) ts: Timestamp,
    pub(crate) value: &'a [u8],
}

#[derive(Debug)]
pub(crate) struct RowCache {
    chunk_bytes: usize,
    chunks_max: usize,
    index: HashIndex,
    chunks: Vec<Box<[u8]>>,
    /// The chunk that takes rows, and where its free part begins.
    head: usize,
    free_at: usize,
}

/// A row's fixed part, decoded.
struct Header {
    version: u64,
    ts: Timestamp,
    hash: u32,
    value_len: usize,
    key_len: usize,
    read: bool,
}

impl Header {
    /// `None` where no row begins.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let version = u64_at(0);
        (version != 0).then(|| Self {
            version,
            ts: Timestamp::new(u64_at(8), u32_at(16)),
            hash: u32_at(20),
            value_len: u32_at(24) as usize,
            key_len: usize::from(u16::from_le_bytes([bytes[28], bytes[29]])),
            read: bytes[READ_AT] != 0,
        })
    }

    fn row_bytes(&self) -> usize {
        row_bytes(self.key_len, self.value_len)
    }
}

fn row_bytes(key_len: usize, value_len: usize) -> usize {
    (HEADER_BYTES + key_len + value_len).next_multiple_of(GRAIN)
}

/// The index's name for a place.
fn item_of(chunk: usize, at: usize) -> u32 {
    u32::try_from(chunk * GRAINS_MAX + at / GRAIN + 1).expect("the bound keeps places below 2^32")
}

fn place_of(item: u32) -> (usize, usize) {
    let grain = item as usize - 1;
    (grain / GRAINS_MAX, grain % GRAINS_MAX * GRAIN)
}

impl RowCache {
    /// A cache of at most `bytes_max` bytes of rows, beside its index. Zero keeps nothing.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let chunk_bytes = (bytes_max / 4 / GRAIN * GRAIN).min(CHUNK_BYTES);
        let chunks_max = bytes_max.checked_div(chunk_bytes).unwrap_or(0);
        Self {
            chunk_bytes,
            chunks_max: chunks_max.min(u32::MAX as usize / GRAINS_MAX - 1),
            index: HashIndex::default(),
            chunks: Vec::new(),
            head: 0,
            free_at: 0,
        }
    }

    /// The first step towards a row, for a [`Self::get`] soon: asks for the index's line.
    #[inline]
    pub(crate) fn prefetch_index(&self, hash: u32) {
        self.index.prefetch(hash);
    }

    /// The second one: asks for the row.
    #[inline]
    pub(crate) fn prefetch_row(&self, hash: u32) {
        if let Some(item) = self.index.guess(hash) {
            let (chunk, at) = place_of(item);
            prefetch_lines(&self.chunks[chunk][at..], 3);
        }
    }

    /// What `version` says about `key` at `read_ts`; `None` when that is not known here.
    #[inline]
    pub(crate) fn get(&mut self, version: u64, hash: u32, key: &[u8], read_ts: Timestamp) -> Option<Row<'_>> {
        let (chunk, at) = place_of(self.find(hash, key)?);
        let bytes = &mut self.chunks[chunk][at..];
        let header = Header::decode(bytes).expect("the index names rows");
        let current = header.version == version || base::planted_bug!("storage-row-of-another-version");
        if !current || header.ts > read_ts {
            return None;
        }
        // The line is written only when that changes something.
        if !header.read {
            bytes[READ_AT] = 1;
        }
        let value_at = HEADER_BYTES + header.key_len;
        Some(Row {
            ts: header.ts,
            value: &bytes[value_at..value_at + header.value_len],
        })
    }

    fn find(&self, hash: u32, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |item| {
            let (chunk, at) = place_of(item);
            let bytes = &self.chunks[chunk][at..];
            let key_len = usize::from(u16::from_le_bytes([bytes[28], bytes[29]]));
            key_len == key.len() && bytes[HEADER_BYTES..HEADER_BYTES + key_len] == *key
        })
    }

    /// Keeps what `version` says about `key` at every timestamp from the row's on, in place of what was known of the key.
    pub(crate) fn insert(&mut self, version: u64, hash: u32, key: &[u8], row: Row<'_>) {
        assert!(version != 0, "versions are numbered from one");
        let bytes = row_bytes(key.len(), row.value.len());
        if self.chunks_max == 0 || bytes > self.chunk_bytes / 8 {
            return;
        }
        if self.chunks.is_empty() {
            self.chunks.push(vec![0; self.chunk_bytes].into());
        }
        while self.free_at + bytes > self.chunk_bytes {
            self.advance();
        }
        let (chunk, at) = (self.head, self.free_at);
        self.free_at += bytes;
        let (key_len, value_len) = (
            u16::try_from(key.len()).expect("a row is smaller than a chunk"),
            u32::try_from(row.value.len()).expect("a row is smaller than a chunk"),
        );
        let out = &mut self.chunks[chunk][at..at + bytes];
        out[..8].copy_from_slice(&version.to_le_bytes());
        out[8..16].copy_from_slice(&row.ts.wall_ns.to_le_bytes());
        out[16..20].copy_from_slice(&row.ts.logical.to_le_bytes());
        out[20..24].copy_from_slice(&hash.to_le_bytes());
        out[24..28].copy_from_slice(&value_len.to_le_bytes());
        out[28..30].copy_from_slice(&key_len.to_le_bytes());
        out[READ_AT..HEADER_BYTES].fill(0);
        let (key_out, value_out) = out[HEADER_BYTES..].split_at_mut(key.len());
        key_out.copy_from_slice(key);
        value_out[..row.value.len()].copy_from_slice(row.value);
        let item = item_of(chunk, at);
        // The row that was known may have gone while room was made, so it is looked for only now; not at its own place.
        match self.find(hash, key) {
            Some(old) => self.index.replace(hash, old, item),
            None => self.index.insert(hash, item),
        }
    }

    /// Takes the next chunk for new rows.
    fn advance(&mut self) {
        if let Some(rest) = self.chunks[self.head].get_mut(self.free_at..self.free_at + 8) {
            // A version of zero: no row begins here.
            rest.fill(0);
        }
        self.free_at = 0;
        if self.chunks.len() < self.chunks_max {
            self.head = self.chunks.len();
            self.chunks.push(vec![0; self.chunk_bytes].into());
            return;
        }
        self.head = (self.head + 1) % self.chunks.len();
        let mut at = 0;
        while let Some(header) = Header::decode(&self.chunks[self.head][at..]) {
            let bytes = header.row_bytes();
            let (hash, old) = (header.hash, item_of(self.head, at));
            let index = &mut self.index;
            let known = index.find(hash, |item| item == old).is_some();
            if known && header.read && self.free_at + bytes <= self.chunk_bytes / 2 {
                base::sometimes!("storage: a row that was read stayed in the row cache");
                let chunk = &mut self.chunks[self.head];
                chunk.copy_within(at..at + bytes, self.free_at);
                chunk[self.free_at + READ_AT] = 0;
                if self.free_at != at {
                    index.replace(hash, old, item_of(self.head, self.free_at));
                }
                self.free_at += bytes;
            } else if known {
                index.remove(hash, old);
            }
            at += bytes;
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Prng;
    use std::collections::BTreeMap;

    fn ts(wall_ns: u64) -> Timestamp {
        Timestamp::new(wall_ns, 3)
    }

    #[test]
    fn a_row_answers_for_its_version_from_its_timestamp_on() {
        let mut rows = RowCache::new(1 << 20);
        let row = Row {
            ts: ts(10),
            value: b"one",
        };
        rows.insert(7, 1, b"a", row);
        assert_eq!(rows.get(7, 1, b"a", Timestamp::MAX), Some(row));
        assert_eq!(rows.get(7, 1, b"a", ts(10)), Some(row));
        assert_eq!(rows.get(7, 1, b"a", ts(9)), None);
        assert_eq!(rows.get(8, 1, b"a", Timestamp::MAX), None, "another version");
        assert_eq!(
            rows.get(7, 1, b"b", Timestamp::MAX),
            None,
            "another key, same hash"
        );
        let newer = Row {
            ts: ts(11),
            value: b"",
        };
        rows.insert(8, 1, b"a", newer);
        assert_eq!(rows.get(8, 1, b"a", Timestamp::MAX), Some(newer));
        assert_eq!(rows.get(7, 1, b"a", Timestamp::MAX), None);
        assert_eq!(rows.len(), 1);
    }

    #[test]
    fn it_never_says_what_was_not_inserted_and_stays_within_its_bound() {
        for bytes_max in [0, 100, 1_000, 4_096, 300 << 10] {
            let mut prng = Prng::new(5);
            let (mut rows, mut model) = (RowCache::new(bytes_max), BTreeMap::new());
            let kept_max = rows.chunk_bytes / 8;
            let mut found = 0;
            for round in 1..40_000u64 {
                let key = vec![b'k'; prng.index(60)];
                // Few hashes: rows meet in the index.
                let hash = u32::try_from(key.len() % 7).expect("small") << 29;
                let version = 1 + round / 5_000;
                if prng.chance(0.5) {
                    let value = round.to_le_bytes().repeat(prng.index(9));
                    let row = Row {
                        ts: ts(round),
                        value: &value,
                    };
                    rows.insert(version, hash, &key, row);
                    model.insert(key, (version, ts(round), value));
                } else if let Some(row) = rows.get(version, hash, &key, Timestamp::MAX) {
                    found += 1;
                    let (known, ts, value) = &model[&key];
                    // What stands in the way of a newer row is only its size: then the one before it stays.
                    if row.ts == *ts {
                        assert_eq!((*known, &**value), (version, row.value));
                    } else {
                        assert!(row_bytes(key.len(), value.len()) > kept_max);
                    }
                }
                assert!(rows.chunks.len() * rows.chunk_bytes <= bytes_max);
            }
            assert_eq!(found > 0, bytes_max > 1_000, "{found} found with {bytes_max}");
        }
    }

    #[test]
    fn rows_that_are_read_survive_others() {
        let mut rows = RowCache::new(64 << 10);
        let value = [1; 100];
        let row = Row {
            ts: ts(1),
            value: &value,
        };
        let key = |number: u32| number.to_le_bytes();
        for hot in 0..40 {
            rows.insert(1, hot, &key(hot), row);
        }
        for cold in 1_000..20_000 {
            for hot in 0..40 {
                rows.get(1, hot, &key(hot), Timestamp::MAX);
            }
            rows.insert(1, cold, &key(cold), row);
        }
        let kept = (0..40)
            .filter(|&hot| rows.get(1, hot, &key(hot), Timestamp::MAX).is_some())
            .count();
        assert_eq!(kept, 40);
    }
}
