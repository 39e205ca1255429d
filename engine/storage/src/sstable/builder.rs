//! Builds a table: versions in, bytes out. Pure: `writer` carries the bytes to the disk.

use super::block::BlockBuilder;
use super::filter;
use super::format::{
    FOOTER_BYTES, Footer, Handle, Kind, Properties, TRAILER_BYTES, encode_partition, encode_tombstones, seal,
};
use crate::Compression;
use crate::mvcc::key;
use crate::mvcc::tombstone::RangeTombstones;
use base::Timestamp;
use base::limits::BLOCK_BYTES;

/// A partition is closed after this many data blocks.
const PARTITION_BLOCKS: usize = 64;

/// After this many data blocks in a row that compression did not make smaller, most are not tried any more.
const HOPELESS_BLOCKS: u32 = 4;
/// Then one in this many is tried, in case the data has changed.
const RETRY_BLOCKS: u32 = 16;

/// The tag of a version in a data block.
pub(crate) const TAG_PUT: u8 = 0;
pub(crate) const TAG_DELETE: u8 = 1;

/// Builds one table. Feed versions in order, take the bytes as they come, then finish.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    uid: u64,
    block_bytes: usize,
    compression: Compression,
    /// Data blocks so far.
    data_blocks: u32,
    /// The last so many that were tried have not become smaller.
    hopeless: u32,
    /// Bytes not yet taken, from `taken` on.
    out: Vec<u8>,
    taken: usize,
    /// The table's length so far, bytes taken included.
    len: u64,
    data: BlockBuilder,
    index: BlockBuilder,
    index_blocks: usize,
    hashes: Vec<u64>,
    top: BlockBuilder,
    properties: Properties,
    /// The user key of the last version, escaped.
    last_user: Vec<u8>,
    key: Vec<u8>,
}

impl TableBuilder {
    pub(crate) fn new(uid: u64, block_bytes: usize, compression: Compression) -> Self {
        Self {
            uid,
            block_bytes,
            compression,
            data_blocks: 0,
            hopeless: 0,
            out: Vec::new(),
            taken: 0,
            len: 0,
            data: BlockBuilder::default(),
            index: BlockBuilder::default(),
            index_blocks: 0,
            hashes: Vec::new(),
            top: BlockBuilder::default(),
            properties: Properties {
                ts: (Timestamp::MAX, Timestamp::ZERO),
                ..Properties::default()
            },
            last_user: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Adds a version: keys ascending, the versions of a key newest first.
    ///
    /// # Panics
    /// When the order is broken.
    pub(crate) fn add(&mut self, user_key: &[u8], ts: Timestamp, deleted: bool, value: &[u8]) {
        self.key.clear();
        key::encode_user(&mut self.key, user_key);
        let new_key = self.properties.version_count == 0 || self.key != self.last_user;
        if new_key {
            self.last_user.clone_from(&self.key);
        }
        self.key.extend_from_slice(&ts.encode_descending());
        let full = self.data.len() + self.key.len() + value.len() > self.block_bytes;
        if (full || base::misbehave!("storage: short data block")) && !self.data.is_empty() {
            self.close_data();
        }
        // A partition has the hash of every key with a version in it, also when the key began in the one before.
        let hash = filter::hash(self.uid, user_key);
        if self.hashes.last() != Some(&hash) {
            self.hashes.push(hash);
        }
        self.data
            .add(&self.key, if deleted { TAG_DELETE } else { TAG_PUT }, value);
        self.properties.count(user_key, ts, deleted, value.len(), new_key);
    }

    fn seal(&mut self, kind: Kind, raw: &[u8]) -> Handle {
        let compression = match kind {
            Kind::Data => self.compression_now(),
            Kind::Partition | Kind::Tombstones | Kind::Properties | Kind::Top => Compression::None,
        };
        let offset = self.len;
        let len = seal(&mut self.out, self.uid, offset, kind, compression, raw);
        self.len += u64::from(len);
        if compression != Compression::None {
            let stored = len as usize == raw.len() + TRAILER_BYTES;
            self.hopeless = if stored { self.hopeless + 1 } else { 0 };
        }
        Handle { offset, len }
    }

    /// The compression to try on the next data block: none for a while when block after block has gained nothing, since a
    /// failed try costs as much as a good one.
    fn compression_now(&mut self) -> Compression {
        self.data_blocks += 1;
        if self.hopeless < HOPELESS_BLOCKS || self.data_blocks.is_multiple_of(RETRY_BLOCKS) {
            self.compression
        } else {
            Compression::None
        }
    }

    fn close_data(&mut self) {
        let last_key = self.data.last_key().to_vec();
        let raw = self.data.finish();
        let handle = self.seal(Kind::Data, &raw);
        self.index.add(&last_key, 0, &handle.encode());
        self.index_blocks += 1;
        if self.index_blocks == PARTITION_BLOCKS || base::misbehave!("storage: short partition") {
            self.close_partition();
        }
    }

    fn close_partition(&mut self) {
        let last_key = self.index.last_key().to_vec();
        let filter = filter::build(&self.hashes);
        let raw = encode_partition(&filter, &self.index.finish());
        let handle = self.seal(Kind::Partition, &raw);
        self.top.add(&last_key, 0, &handle.encode());
        self.hashes.clear();
        self.index_blocks = 0;
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.properties.version_count == 0
    }

    /// Closes the table: what remains to be written is taken next, and the table is then a multiple of 4 KiB long.
    pub(crate) fn finish(&mut self, tombstones: &RangeTombstones) -> u64 {
        if !self.data.is_empty() {
            self.close_data();
        }
        if !self.index.is_empty() {
            self.close_partition();
        }
        let meta_offset = self.len;
        let tombstones_len = self.seal(Kind::Tombstones, &encode_tombstones(tombstones)).len;
        let properties = self.properties.encode();
        let properties_len = self.seal(Kind::Properties, &properties).len;
        let top = self.top.finish();
        let top_len = self.seal(Kind::Top, &top).len;
        let file_bytes = (self.len + FOOTER_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64);
        let padding = file_bytes - self.len - FOOTER_BYTES as u64;
        self.out.extend(core::iter::repeat_n(
            0,
            usize::try_from(padding).expect("below 4 KiB"),
        ));
        let footer = Footer {
            uid: self.uid,
            file_bytes,
            meta_offset,
            tombstones_len,
            properties_len,
            top_len,
        };
        self.out.extend_from_slice(&footer.encode());
        self.len = file_bytes;
        file_bytes
    }

    /// Bytes that wait to be taken.
    pub(crate) fn ready(&self) -> usize {
        self.out.len() - self.taken
    }

    /// Takes as many of the waiting bytes as fill `buf`.
    ///
    /// # Panics
    /// When fewer are waiting.
    pub(crate) fn take(&mut self, buf: &mut [u8]) {
        let end = self.taken + buf.len();
        buf.copy_from_slice(&self.out[self.taken..end]);
        self.taken = end;
        // Half of the buffer at a time, so that a huge block is not moved for each piece taken of it.
        if self.taken * 2 >= self.out.len() {
            self.out.drain(..self.taken);
            self.taken = 0;
        }
    }
}
