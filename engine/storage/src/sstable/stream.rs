//! A walk over a table's versions, in either direction, with read-ahead.
//!
//! ```text
//!   top ──► partition ──► data block ──► entry          each level holds its place; `step` waits for nothing,
//!    ▲          ▲             ▲                          `next_block` moves the lower levels on and may read
//! ```

use super::block::Entries;
use super::builder::TAG_DELETE;
use super::format::{Block, Handle, Kind, Mismatch};
use super::reader::{Missing, Table};
use crate::StorageError;
use env::{Disk, Env};
use std::rc::Rc;

/// The first read is one block; each further one in a row doubles up to here.
const READ_AHEAD_BYTES_MIN: u64 = 64 << 10;
const READ_AHEAD_BYTES_MAX: u64 = 512 << 10;

/// One level: a block's entries and the place among them.
#[derive(Debug, Default)]
struct Level {
    block: Option<Rc<Block>>,
    entries: Entries,
    /// The current entry, when below `entries.len()`.
    at: usize,
}

impl Level {
    fn enter(&mut self, block: Rc<Block>) {
        block.layout.entries(&block.data, &mut self.entries);
        self.block = Some(block);
    }

    fn rewind(&mut self, reverse: bool) {
        self.at = if reverse {
            self.entries.len().wrapping_sub(1)
        } else {
            0
        };
    }

    fn step(&mut self, reverse: bool) {
        self.at = if reverse {
            self.at.wrapping_sub(1)
        } else {
            self.at.wrapping_add(1)
        };
    }

    fn valid(&self) -> bool {
        self.at < self.entries.len()
    }

    fn value(&self) -> &[u8] {
        self.block
            .as_ref()
            .map_or(&[], |block| self.entries.value(&block.data, self.at))
    }
}

/// Bytes of the file around the block read last.
struct Window<E: Env> {
    start: u64,
    bytes: Option<<E::Disk as Disk>::Buf>,
    ahead: u64,
}

/// A place in a table.
pub(crate) struct TableCursor<E: Env> {
    table: Rc<Table<E>>,
    reverse: bool,
    /// Whether what is read goes to the cache: yes for scans, no for merges.
    fill_cache: bool,
    top: Entries,
    top_at: usize,
    partition: Level,
    data: Level,
    window: Window<E>,
}

/// One version, its key still encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) deleted: bool,
    pub(crate) value: &'a [u8],
}

impl<E: Env> TableCursor<E> {
    /// A cursor that is nowhere yet.
    pub(crate) fn new(table: Rc<Table<E>>, reverse: bool, fill_cache: bool) -> Self {
        let mut top = Entries::default();
        table.top().layout.entries(&table.top().data, &mut top);
        let window = Window {
            start: 0,
            bytes: None,
            ahead: 0,
        };
        let (partition, data) = (Level::default(), Level::default());
        Self {
            table,
            reverse,
            fill_cache,
            top,
            top_at: usize::MAX,
            partition,
            data,
            window,
        }
    }

    /// Goes to the first version at or above `target`, or in reverse to the last one below it.
    pub(crate) async fn seek(&mut self, target: &[u8]) -> Result<(), StorageError> {
        // A block's index entry is its last key, so the answer is in the first block that reaches the target, or in
        // reverse possibly in the one before.
        self.top_at = self.top.below(target);
        if self.top_at >= self.top.len() {
            return if self.reverse {
                self.seek_last().await
            } else {
                Ok(())
            };
        }
        self.load_partition().await?;
        self.partition.at = self.partition.entries.below(target);
        self.load_data().await?;
        self.data.at = self.data.entries.below(target);
        if self.reverse {
            self.data.step(true);
        }
        if self.data.valid() {
            Ok(())
        } else {
            self.next_block().await
        }
    }

    /// Goes to the very first version, or in reverse to the very last.
    pub(crate) async fn seek_end(&mut self) -> Result<(), StorageError> {
        if self.reverse {
            self.seek_last().await
        } else {
            self.seek(&[]).await
        }
    }

    async fn seek_last(&mut self) -> Result<(), StorageError> {
        self.top_at = self.top.len();
        self.partition = Level::default();
        self.partition.at = usize::MAX;
        self.next_block().await
    }

    /// The version at the cursor.
    pub(crate) fn item(&self) -> Option<Item<'_>> {
        let block = self.data.block.as_ref()?;
        if self.top_at >= self.top.len() || !self.data.valid() {
            return None;
        }
        let (entries, at) = (&self.data.entries, self.data.at);
        let value = entries.value(&block.data, at);
        Some(Item {
            key: entries.key(at),
            deleted: entries.tag(at) == TAG_DELETE,
            value,
        })
    }

    /// The error for a version key that is none.
    pub(crate) fn malformed_key(&self) -> StorageError {
        let offset = if self.partition.valid() {
            self.table.handle(self.partition.value()).offset
        } else {
            0
        };
        self.table.damaged(
            offset,
            Mismatch {
                what: "version key",
                expected: 1,
                found: 0,
            },
        )
    }

    /// Moves on inside the data block. False when it ends there: then [`Self::next_block`] goes on.
    pub(crate) fn step(&mut self) -> bool {
        self.data.step(self.reverse);
        self.data.valid()
    }

    /// Moves on to the next data block, if there is one.
    pub(crate) async fn next_block(&mut self) -> Result<(), StorageError> {
        self.partition.step(self.reverse);
        if !self.partition.valid() {
            self.top_at = if self.reverse {
                self.top_at.wrapping_sub(1)
            } else {
                self.top_at.wrapping_add(1)
            };
            if self.top_at >= self.top.len() {
                return Ok(());
            }
            self.load_partition().await?;
            self.partition.rewind(self.reverse);
        }
        self.load_data().await?;
        self.data.rewind(self.reverse);
        Ok(())
    }

    async fn load_partition(&mut self) -> Result<(), StorageError> {
        let handle = self
            .table
            .handle(self.top.value(&self.table.top().data, self.top_at));
        let block = self
            .fetch(Missing {
                handle,
                kind: Kind::Partition,
            })
            .await?;
        self.partition.enter(block);
        Ok(())
    }

    async fn load_data(&mut self) -> Result<(), StorageError> {
        if !self.partition.valid() {
            // Only a partition without entries, which no builder writes, comes here.
            self.top_at = usize::MAX;
            return Ok(());
        }
        let handle = self.table.handle(self.partition.value());
        let block = self
            .fetch(Missing {
                handle,
                kind: Kind::Data,
            })
            .await?;
        self.data.enter(block);
        Ok(())
    }

    /// A block from the cache, from what was read ahead, or from the disk.
    async fn fetch(&mut self, missing: Missing) -> Result<Rc<Block>, StorageError> {
        let Missing { handle, kind } = missing;
        let cached = self.table.shared().cache().get(self.table.id(handle));
        if let Some(block) = cached {
            return Ok(block);
        }
        if !self.window.holds(handle) {
            let (from, to) = self.window.grow(handle, self.reverse);
            let (start, bytes) = self.table.read(from, to).await?;
            (self.window.start, self.window.bytes) = (start, Some(bytes));
        }
        let bytes = self
            .window
            .slice(handle)
            .expect("the window was read around the block");
        let block = self.table.parse(handle, kind, bytes)?;
        if self.fill_cache {
            self.table
                .shared()
                .cache()
                .insert(self.table.id(handle), block.clone());
        }
        Ok(block)
    }
}

impl<E: Env> Window<E> {
    fn slice(&self, handle: Handle) -> Option<&[u8]> {
        let from = usize::try_from(handle.offset.checked_sub(self.start)?).ok()?;
        self.bytes
            .as_ref()?
            .get(from..from.checked_add(handle.len as usize)?)
    }

    fn holds(&self, handle: Handle) -> bool {
        self.slice(handle).is_some()
    }

    /// What to read next, given that `handle` is wanted.
    fn grow(&mut self, handle: Handle, reverse: bool) -> (u64, u64) {
        let ahead = self.ahead.max(handle.len.into());
        self.ahead = (self.ahead * 2).clamp(READ_AHEAD_BYTES_MIN, READ_AHEAD_BYTES_MAX);
        if reverse {
            (handle.end().saturating_sub(ahead), handle.end())
        } else {
            (handle.offset, handle.offset + ahead)
        }
    }
}
