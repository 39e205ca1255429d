//! A tablet: one range replica's state.

use crate::{NeedsIo, Shared, StorageError};
use base::api::WriteOp;
use base::key::Span;
use base::{Index, RangeId, Timestamp};
use env::Env;
use std::rc::Rc;

/// One range replica's state: memtables, tables, manifest. A cheap handle; all clones are the same tablet.
pub struct Tablet<E: Env>(Rc<E>);

impl<E: Env> Clone for Tablet<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// One page of a scan.
#[derive(Debug, Clone)]
pub struct ScanPage {
    /// The keys asked for; what lies outside the tablet's span is not there.
    pub span: Span,
    /// The moment whose state is read.
    pub read_ts: Timestamp,
    /// From the last key to the first.
    pub reverse: bool,
    /// At most this many rows.
    pub rows_max: usize,
    /// The page ends with the row that reaches this many bytes of keys and values.
    pub bytes_max: usize,
}

/// The rows of one page: keys and values back to back in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    data: Vec<u8>,
    rows: Vec<Row>,
    /// Where the next page begins: forwards its first key, in reverse the key that it must stay below. `None` at the end.
    pub resume: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    ts: Timestamp,
    key_start: u32,
    value_start: u32,
    end: u32,
}

impl Rows {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Key, value and timestamp of each row, in the order of the scan.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Timestamp)> {
        self.rows.iter().map(|row| {
            let (key, value, end) = (row.key_start as usize, row.value_start as usize, row.end as usize);
            (&self.data[key..value], &self.data[value..end], row.ts)
        })
    }
}

/// Sizes of a tablet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TabletStats {
    /// Bytes of the active memtable.
    pub active_bytes: usize,
    /// Bytes of the frozen memtables; those shared after a split count on both sides.
    pub frozen_bytes: usize,
    /// Frozen memtables that wait for a flush.
    pub frozen: usize,
    /// Tables.
    pub tables: usize,
    /// Bytes of the tables; a table shared after a split counts whole on both sides.
    pub table_bytes: u64,
    /// Flushes and merges completed since it was opened.
    pub flushes: u64,
    /// Merges completed since it was opened.
    pub merges: u64,
}

/// What the picker of flushes knows of a tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushCandidate {
    /// The tablet's range.
    pub range: RangeId,
    /// Bytes that a flush would free.
    pub memtable_bytes: usize,
    /// Whether its oldest unflushed entry lies in the log's oldest segment.
    pub pins_oldest_segment: bool,
}

/// Which tablet to flush next: one that pins the oldest log segment, else the one with the most bytes to free.
/// Equal candidates are decided by the lower range.
#[must_use]
pub fn pick_flush(candidates: &[FlushCandidate]) -> Option<RangeId> {
    let key = |c: &&FlushCandidate| {
        (
            c.pins_oldest_segment,
            c.memtable_bytes,
            core::cmp::Reverse(c.range),
        )
    };
    let wanted = |c: &&FlushCandidate| c.pins_oldest_segment || c.memtable_bytes > 0;
    candidates.iter().filter(wanted).max_by_key(key).map(|c| c.range)
}

/// Tables to merge, chosen by [`Tablet::pick_merge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergePlan {
    tables: Vec<u64>,
}

/// What the Split entry of a range's log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The index of the Split entry in the left range's log.
    pub index: Index,
    /// The first key of the right range, strictly inside the left one's span.
    pub at: Box<[u8]>,
    /// The new range.
    pub right: RangeId,
    /// The index at which the right range's log starts.
    pub right_at: Index,
    /// The left replica's opaque state as of `index`.
    pub left_state: Vec<u8>,
    /// The right replica's opaque state as of `right_at`.
    pub right_state: Vec<u8>,
}

/// A file that [`Tablet::verify`] found damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: String,
    /// What is wrong with it.
    pub error: StorageError,
}

#[expect(
    unused_variables,
    clippy::missing_errors_doc,
    clippy::unused_async,
    clippy::needless_pass_by_value,
    reason = "the signatures come first"
)]
impl<E: Env> Tablet<E> {
    /// Makes an empty tablet that has applied everything up to `at`. Durable when it returns.
    pub async fn create(
        shared: &Rc<Shared<E>>,
        range: RangeId,
        span: Span,
        at: Index,
        app_state: Vec<u8>,
    ) -> Result<Self, StorageError> {
        unimplemented!()
    }

    /// Opens a tablet at its flushed index.
    pub async fn open(shared: &Rc<Shared<E>>, range: RangeId) -> Result<Self, StorageError> {
        unimplemented!()
    }

    /// The ranges that have a tablet in the data directory, ascending.
    pub async fn list(env: &E) -> Result<Vec<RangeId>, StorageError> {
        unimplemented!()
    }

    /// Removes a tablet, also a half-made or half-removed one; fine when there is none.
    pub async fn destroy(env: &E, range: RangeId) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// Reads every byte of a tablet that is not open and checks every checksum.
    pub async fn verify(env: &E, range: RangeId) -> Result<Vec<Damage>, StorageError> {
        unimplemented!()
    }

    /// The range.
    #[must_use]
    pub fn range(&self) -> RangeId {
        unimplemented!()
    }

    /// Its keys.
    #[must_use]
    pub fn span(&self) -> Span {
        unimplemented!()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        unimplemented!()
    }

    /// The last entry that survives a restart without the log.
    #[must_use]
    pub fn flushed_index(&self) -> Index {
        unimplemented!()
    }

    /// The replica's opaque state as of [`Self::flushed_index`].
    #[must_use]
    pub fn app_state(&self) -> Vec<u8> {
        unimplemented!()
    }

    /// The split that made this tablet: its left range and the Split entry's index there. A restart that finds the left
    /// tablet flushed only below that index must ignore this one: replaying the Split entry makes it again.
    #[must_use]
    pub fn split_from(&self) -> Option<(RangeId, Index)> {
        unimplemented!()
    }

    /// Sizes.
    #[must_use]
    pub fn stats(&self) -> TabletStats {
        unimplemented!()
    }

    /// Whether the active memtable has reached its size and should be frozen.
    #[must_use]
    pub fn wants_freeze(&self) -> bool {
        unimplemented!()
    }

    /// Applies the entry at `index`, whose versions all get `ts`. Later operations of the entry win over earlier ones.
    pub fn apply<'a>(&self, index: Index, ts: Timestamp, ops: impl Iterator<Item = WriteOp<'a>>) {
        unimplemented!()
    }

    /// Applies an entry that writes nothing.
    pub fn apply_nothing(&self, index: Index) {
        unimplemented!()
    }

    /// Starts the cache misses of a coming [`Self::get_cached`]: call it for all lookups of a loop turn before the first.
    pub fn prefetch(&self, key: &[u8]) {
        unimplemented!()
    }

    /// Looks `key` up as of `read_ts` without waiting, and hands timestamp and value to `f`; `None` when it has no value.
    pub fn get_cached<R>(
        &self,
        key: &[u8],
        read_ts: Timestamp,
        f: impl FnOnce(Option<(Timestamp, &[u8])>) -> R,
    ) -> Result<R, NeedsIo> {
        unimplemented!()
    }

    /// Looks `key` up as of `read_ts`.
    pub async fn get(
        &self,
        key: &[u8],
        read_ts: Timestamp,
    ) -> Result<Option<(Timestamp, Vec<u8>)>, StorageError> {
        unimplemented!()
    }

    /// The timestamp of the newest write to `key`, deletes included, without waiting.
    pub fn newest_ts(&self, key: &[u8]) -> Result<Option<Timestamp>, NeedsIo> {
        unimplemented!()
    }

    /// The timestamp of the newest write to `key`, deletes included.
    pub async fn load_newest_ts(&self, key: &[u8]) -> Result<Option<Timestamp>, StorageError> {
        unimplemented!()
    }

    /// Reads one page of a scan.
    pub async fn scan_page(&self, page: &ScanPage) -> Result<Rows, StorageError> {
        unimplemented!()
    }

    /// Turns the active memtable into an immutable one that waits for [`Self::flush`], together with the replica's
    /// opaque state as of [`Self::applied_index`].
    pub fn freeze(&self, app_state: Vec<u8>) {
        unimplemented!()
    }

    /// Writes the frozen memtables to tables. Durable when it returns the new flushed index.
    pub async fn flush(&self) -> Result<Index, StorageError> {
        unimplemented!()
    }

    /// Tables that are worth merging now.
    #[must_use]
    pub fn pick_merge(&self) -> Option<MergePlan> {
        unimplemented!()
    }

    /// Merges tables; a plan that no longer fits does nothing.
    pub async fn merge(&self, plan: MergePlan) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// Applies the Split entry: this tablet keeps the keys below `split.at`, the returned one has the rest.
    #[must_use]
    pub fn split(&self, split: Split) -> Self {
        unimplemented!()
    }

    /// Makes the splits of this tablet durable, in order.
    pub async fn complete_split(&self) -> Result<(), StorageError> {
        unimplemented!()
    }
}
