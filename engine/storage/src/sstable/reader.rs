//! An open table: point reads, and the loading of blocks.

use super::builder::TAG_DELETE;
use super::filter;
use super::format::{
    Block, FOOTER_BYTES, Footer, Handle, Kind, Mismatch, Properties, decode_tombstones, unseal,
};
use crate::cache::BlockId;
use crate::interleave::pause;
use crate::mvcc::tombstone::RangeTombstones;
use crate::{Corruption, Shared, StorageError, unreadable};
use base::Timestamp;
use base::key::Span;
use base::limits::BLOCK_BYTES;
use core::cell::Cell;
use core::ops::Range;
use env::{Disk, DiskOp, Env, OpenMode};
use std::io::ErrorKind;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// What is read first of a table: its end, in most cases with all that stays in memory.
const TAIL_BYTES: u64 = 32 << 10;

/// What a table has. A tablet's families have nothing to do with each other but for the manifest and the entries that they are as of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Committed versions.
    Versions,
    /// Spilled intents, as opaque bytes: of a key only the newest version counts.
    Intents,
}

/// What the manifest knows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableMeta {
    /// Its name in the tablet's directory.
    pub(crate) number: u64,
    /// Its name everywhere, on other nodes, too: drawn at random when it was written, kept by links to it and by raft snapshots.
    pub(crate) uid: u64,
    /// The file's length.
    pub(crate) bytes: u64,
    /// Which of the tablet's families it belongs to.
    pub(crate) family: Family,
}

impl TableMeta {
    pub(crate) fn path(&self, dir: &str) -> String {
        format!("{dir}/{:08}.sst", self.number)
    }
}

/// An open table.
pub(crate) struct Table<E: Env> {
    shared: Rc<Shared<E>>,
    path: String,
    meta: TableMeta,
    file: <E::Disk as Disk>::File,
    top: Block,
    tombstones: RangeTombstones,
    properties: Properties,
    /// Where the blocks end.
    blocks_end: u64,
    /// No version will refer to it again: the file goes with the last handle.
    obsolete: Cell<bool>,
}

/// A key to look up in tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe<'a> {
    pub(crate) key: &'a [u8],
    /// The version key of the lookup.
    pub(crate) target: &'a [u8],
    /// How many bytes of the target belong to the user key.
    pub(crate) user_len: usize,
}

/// The newest version that a probe sees in one table.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) ts: Timestamp,
    pub(crate) deleted: bool,
    block: Rc<Block>,
    value: Range<usize>,
}

impl Hit {
    pub(crate) fn value(&self) -> &[u8] {
        &self.block.data[self.value.clone()]
    }
}

/// A block that a lookup needs and does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) handle: Handle,
    pub(crate) kind: Kind,
}

/// Where a lookup finds blocks without waiting.
pub(crate) trait Blocks {
    fn block(&self, id: BlockId) -> Option<Rc<Block>>;

    /// Asks for what [`Self::block`] will look at first.
    fn prefetch_index(&self, id: BlockId);

    /// Asks for what it will look at next.
    fn prefetch_slot(&self, id: BlockId);

    /// Asks for the block itself.
    fn prefetch_block(&self, id: BlockId);
}

impl<E: Env> Table<E> {
    /// Opens the table that the manifest names, and checks all that stays in memory.
    pub(crate) async fn open(
        shared: &Rc<Shared<E>>,
        dir: &str,
        meta: TableMeta,
    ) -> Result<Rc<Self>, StorageError> {
        Self::open_at(shared, meta.path(dir), meta).await
    }

    /// The same, of a table that may have another name than the manifest's.
    pub(crate) async fn open_at(
        shared: &Rc<Shared<E>>,
        path: String,
        meta: TableMeta,
    ) -> Result<Rc<Self>, StorageError> {
        let damaged = |offset,
                       Mismatch {
                           what,
                           expected,
                           found,
                       }| {
            StorageError::Corruption(Corruption {
                file: path.clone(),
                offset,
                what,
                expected,
                found,
            })
        };
        let file = match shared.env().disk().open(&path, OpenMode::Read).await {
            Ok(file) => file,
            Err(error) if error.op == DiskOp::Open && error.kind == ErrorKind::NotFound => {
                return Err(damaged(
                    0,
                    Mismatch {
                        what: "table in its place",
                        expected: 1,
                        found: 0,
                    },
                ));
            }
            Err(error) => return Err(error.into()),
        };
        if !meta.bytes.is_multiple_of(BLOCK) || meta.bytes < BLOCK {
            return Err(damaged(
                0,
                Mismatch {
                    what: "table length in blocks",
                    expected: 0,
                    found: meta.bytes % BLOCK,
                },
            ));
        }
        let footer_at = meta.bytes - FOOTER_BYTES as u64;
        let mut tail_at = meta.bytes.saturating_sub(TAIL_BYTES);
        let mut tail = unreadable::read(&file, &path, tail_at, to_usize(meta.bytes - tail_at)).await?;
        let footer = tail.last_chunk().expect("the tail holds the footer");
        let footer =
            Footer::decode(footer, meta.uid, meta.bytes).map_err(|mismatch| damaged(footer_at, mismatch))?;
        if footer.meta_offset < tail_at {
            tail_at = footer.meta_offset / BLOCK * BLOCK;
            tail = unreadable::read(&file, &path, tail_at, to_usize(meta.bytes - tail_at)).await?;
        }
        let part = |from: u64, to: u64| &tail[to_usize(from - tail_at)..to_usize(to - tail_at)];
        let block =
            |handle: Handle, kind| unseal(part(handle.offset, handle.end()), meta.uid, handle.offset, kind);
        let resident = |handle: Handle, kind| block(handle, kind).map_err(|m| damaged(handle.offset, m));
        let malformed = |handle: Handle| {
            let len = u64::from(handle.len);
            damaged(
                handle.offset,
                Mismatch {
                    what: "block structure",
                    expected: len,
                    found: 0,
                },
            )
        };
        let tombstones = resident(footer.tombstones(), Kind::Tombstones)?;
        let tombstones = decode_tombstones(&tombstones).ok_or_else(|| malformed(footer.tombstones()))?;
        let properties = resident(footer.properties(), Kind::Properties)?;
        let properties = Properties::decode(&properties).ok_or_else(|| malformed(footer.properties()))?;
        let top = resident(footer.top(), Kind::Top)?;
        let top = checked(top, Kind::Top, footer.meta_offset).map_err(|m| damaged(footer.top().offset, m))?;
        if let Some(at) = part(footer.top().end(), footer_at).iter().position(|&b| b != 0) {
            return Err(damaged(
                footer.top().end() + at as u64,
                Mismatch {
                    what: "padding",
                    expected: 0,
                    found: 1,
                },
            ));
        }
        let (shared, blocks_end) = (shared.clone(), footer.meta_offset);
        let obsolete = Cell::new(false);
        Ok(Rc::new(Self {
            shared,
            path,
            meta,
            file,
            top,
            tombstones,
            properties,
            blocks_end,
            obsolete,
        }))
    }

    pub(crate) fn meta(&self) -> TableMeta {
        self.meta
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn tombstones(&self) -> &RangeTombstones {
        &self.tombstones
    }

    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Where the blocks end and the tombstones begin.
    pub(crate) fn blocks_end(&self) -> u64 {
        self.blocks_end
    }

    pub(crate) fn top(&self) -> &Block {
        &self.top
    }

    /// The file goes when the last handle does.
    pub(crate) fn retire(&self) {
        self.obsolete.set(true);
    }

    /// Whether anything in the table concerns keys of `span`.
    pub(crate) fn overlaps(&self, span: &Span) -> bool {
        let below_end = |key: &[u8]| span.end.as_deref().is_none_or(|end| key < end);
        let keys = self.properties.keys.as_ref();
        keys.is_some_and(|(first, last)| *span.start <= **last && below_end(first))
            || self
                .tombstones
                .fragments()
                .any(|f| span.intersect(f.start, f.end).is_some())
    }

    /// Whether it has keys outside `span`.
    pub(crate) fn exceeds(&self, span: &Span) -> bool {
        self.properties
            .keys
            .as_ref()
            .is_some_and(|(first, last)| !span.contains(first) || !span.contains(last))
    }

    /// Whether it has keys or range deletes outside `span`.
    pub(crate) fn reaches_outside(&self, span: &Span) -> bool {
        let ends_within = |end: Option<&[u8]>| match (end, span.end.as_deref()) {
            (_, None) => true,
            (Some(end), Some(last)) => end <= last,
            (None, Some(_)) => false,
        };
        self.exceeds(span)
            || self
                .tombstones
                .fragments()
                .any(|fragment| *fragment.start < *span.start || !ends_within(fragment.end))
    }

    pub(crate) fn id(&self, handle: Handle) -> BlockId {
        BlockId {
            uid: self.meta.uid,
            offset: handle.offset,
        }
    }

    pub(crate) fn damaged(
        &self,
        offset: u64,
        Mismatch {
            what,
            expected,
            found,
        }: Mismatch,
    ) -> StorageError {
        Corruption {
            file: self.path.clone(),
            offset,
            what,
            expected,
            found,
        }
        .into()
    }

    /// The newest version of the probe's key at or below its timestamp; `Err` names the block that must be loaded first.
    /// Pauses where a cache miss is due.
    pub(crate) async fn find(&self, blocks: &impl Blocks, probe: &Probe<'_>) -> Result<Option<Hit>, Missing> {
        let within = |(first, last): &(Box<[u8]>, Box<[u8]>)| **first <= *probe.key && *probe.key <= **last;
        if !self.properties.keys.as_ref().is_some_and(within) {
            return Ok(None);
        }
        let Some(top) = self.top.layout.seek(&self.top.data, probe.target) else {
            return Ok(None);
        };
        let partition = self.wanted(blocks, top.value, Kind::Partition).await?;
        let hash = filter::hash(self.meta.uid, probe.key);
        filter::prefetch(partition.filter(), hash);
        pause().await;
        if !filter::may_contain(partition.filter(), hash) {
            return Ok(None);
        }
        let run = partition.layout.run(&partition.data, probe.target);
        pause().await;
        let Some(index) = partition.layout.walk(&partition.data, &run, probe.target) else {
            return Ok(None);
        };
        let data = self.wanted(blocks, index.value, Kind::Data).await?;
        data.layout.prefetch(&data.data);
        pause().await;
        let run = data.layout.run(&data.data, probe.target);
        pause().await;
        let Some(found) = data.layout.walk(&data.data, &run, probe.target) else {
            return Ok(None);
        };
        if found.agrees < probe.user_len || found.key_len() != probe.target.len() {
            return Ok(None);
        }
        let mut ts = [0; Timestamp::ENCODED_LEN];
        found.copy_key(probe.target, probe.user_len, &mut ts);
        let (deleted, value) = (found.tag == TAG_DELETE, found.value_range());
        Ok(Some(Hit {
            ts: Timestamp::decode_descending(&ts),
            deleted,
            block: data,
            value,
        }))
    }

    async fn wanted(&self, blocks: &impl Blocks, handle: &[u8], kind: Kind) -> Result<Rc<Block>, Missing> {
        let handle = self.handle(handle);
        let id = self.id(handle);
        blocks.prefetch_index(id);
        pause().await;
        blocks.prefetch_slot(id);
        pause().await;
        blocks.prefetch_block(id);
        pause().await;
        blocks.block(id).ok_or(Missing { handle, kind })
    }

    /// A handle of this table's top or partition block.
    pub(crate) fn handle(&self, bytes: &[u8]) -> Handle {
        Handle::decode(bytes, self.blocks_end).expect("checked when the index was loaded")
    }

    /// Reads a block from the disk into the cache.
    pub(crate) async fn load(&self, Missing { handle, kind }: Missing) -> Result<Rc<Block>, StorageError> {
        let (start, bytes) = self.read(handle.offset, handle.end()).await?;
        let from = to_usize(handle.offset - start);
        let block = self.parse(handle, kind, &bytes[from..from + handle.len as usize])?;
        self.shared.cache().insert(self.id(handle), block.clone());
        Ok(block)
    }

    /// The bytes of `[from, to)` and some around them, and where they begin.
    pub(crate) async fn read(
        &self,
        from: u64,
        to: u64,
    ) -> Result<(u64, <E::Disk as Disk>::Buf), StorageError> {
        let start = from / BLOCK * BLOCK;
        let len = to.min(self.meta.bytes).next_multiple_of(BLOCK) - start;
        let bytes = unreadable::read(&self.file, &self.path, start, to_usize(len)).await?;
        Ok((start, bytes))
    }

    /// Checks and unpacks a block that was read.
    pub(crate) fn parse(&self, handle: Handle, kind: Kind, bytes: &[u8]) -> Result<Rc<Block>, StorageError> {
        let raw = unseal(bytes, self.meta.uid, handle.offset, kind);
        let block = raw.and_then(|raw| checked(raw, kind, self.blocks_end));
        block
            .map(Rc::new)
            .map_err(|mismatch| self.damaged(handle.offset, mismatch))
    }

    pub(crate) fn shared(&self) -> &Rc<Shared<E>> {
        &self.shared
    }
}

impl<E: Env> Drop for Table<E> {
    fn drop(&mut self) {
        if self.obsolete.get() {
            self.shared.discard(core::mem::take(&mut self.path));
        }
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a part of a table fits in memory")
}

/// Checks a block's structure and, in an index, every handle.
fn checked(raw: Vec<u8>, kind: Kind, limit: u64) -> Result<Block, Mismatch> {
    let block = Block::parse(raw, kind)?;
    if matches!(kind, Kind::Top | Kind::Partition)
        && !block
            .layout
            .values(&block.data)
            .all(|value| Handle::decode(value, limit).is_some())
    {
        return Err(Mismatch {
            what: "block handle",
            expected: limit,
            found: u64::MAX,
        });
    }
    Ok(block)
}
