//! A tablet: one range replica's state.
//!
//! ```text
//!   apply ──► active memtable ──freeze──► frozen memtables ──flush──► tables ──merge──► fewer tables
//!                                  with the replica's opaque state       │
//!                                                                    manifest
//! ```
//!
//! A tablet has no log of its own. Its entries are durable in the shard's log before they are applied here; after a restart
//! it stands at its flushed index, with the opaque state of that index, and the entries that follow are applied again.
//!
//! Invariants:
//! - What changes a tablet does not wait; what waits reads a snapshot, and installs its result in one step at its end.
//! - The flushed index moves only after the tables that hold its writes, and then the manifest, are durable.
//! - After a failed or abandoned write the tablet refuses every further one until it is opened again.

use crate::interleave::{alone, pause};
use crate::manifest::edit::{Description, VersionEdit};
use crate::manifest::file::Manifest;
use crate::memtable::Limit;
use crate::read::get::{self, Seen};
use crate::read::scan::{self, Snapshot};
use crate::shared::MemtableCell;
use crate::split::PendingSplit;
use crate::sstable::reader::Table;
use crate::sync::{Gate, Lock};
use crate::version::Version;
use crate::{NeedsIo, Rows, ScanPage, Shared, StorageError};
use base::api::WriteOp;
use base::key::Span;
use base::{Index, RangeId, Timestamp};
use core::cell::{Cell, RefCell};
use env::{DiskOp, Env};
use std::collections::VecDeque;
use std::rc::Rc;

/// One range replica's state: memtables, tables, manifest. A cheap handle; all clones are the same tablet.
pub struct Tablet<E: Env>(pub(crate) Rc<Inner<E>>);

impl<E: Env> Clone for Tablet<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct Inner<E: Env> {
    pub(crate) shared: Rc<Shared<E>>,
    pub(crate) range: RangeId,
    /// Its directory.
    pub(crate) dir: String,
    pub(crate) state: RefCell<State<E>>,
    /// Held by a flush or the completion of a split.
    pub(crate) flushing: Lock,
    /// Held by a merge.
    pub(crate) merging: Lock,
    /// Held while the manifest is out of its place.
    committing: Lock,
    /// Taken out for each edit: one that was abandoned half way leaves nothing behind, and the tablet is poisoned.
    pub(crate) manifest: RefCell<Option<Manifest<E>>>,
    /// Opens when the tablet's directory exists: at once, but for the right side of a split.
    pub(crate) exists: Gate,
    /// A write or sync failed.
    pub(crate) poisoned: Cell<bool>,
    /// It is the right side of a split that was given up, and its tables are the left side's.
    pub(crate) is_guest: Cell<bool>,
    pub(crate) next_table: Cell<u64>,
}

pub(crate) struct State<E: Env> {
    /// Its keys: after a split at once the narrower span.
    pub(crate) span: Span,
    pub(crate) applied_index: Index,
    pub(crate) flushed_index: Index,
    /// As of `flushed_index`.
    pub(crate) app_state: Rc<[u8]>,
    pub(crate) split_from: Option<(RangeId, Index)>,
    pub(crate) active: Rc<MemtableCell>,
    /// Of the family of spilled intents, when something was spilled since the last freeze.
    pub(crate) spilled: Option<Rc<MemtableCell>>,
    /// Oldest first.
    pub(crate) frozen: VecDeque<Rc<Frozen>>,
    pub(crate) version: Rc<Version<E>>,
    /// Splits applied and not yet durable, in order. On the left side only.
    pub(crate) splits: VecDeque<Rc<PendingSplit<E>>>,
    pub(crate) flushes: u64,
    pub(crate) merges: u64,
}

/// A memtable that takes no more writes.
pub(crate) struct Frozen {
    pub(crate) cell: Rc<MemtableCell>,
    /// Of the family of spilled intents.
    pub(crate) spilled: Option<Rc<MemtableCell>>,
    /// Whether anything is spilled as of `index`.
    pub(crate) has_spilled: bool,
    /// The last entry applied to it.
    pub(crate) index: Index,
    /// The replica's opaque state as of `index`.
    pub(crate) app_state: Rc<[u8]>,
}

impl Frozen {
    fn bytes(&self) -> usize {
        self.cell.bytes() + bytes_of(self.spilled.as_ref())
    }
}

fn bytes_of(cell: Option<&Rc<MemtableCell>>) -> usize {
    cell.map_or(0, |cell| cell.bytes())
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
    /// Flushes completed since it was opened.
    pub flushes: u64,
    /// Merges completed since it was opened.
    pub merges: u64,
    /// Splits that are not durable yet.
    pub splits_pending: usize,
}

/// How many leading bytes all keys of a span share.
fn shared_prefix(span: &Span) -> usize {
    span.end.as_deref().map_or(0, |end| {
        span.start.iter().zip(end).take_while(|(a, b)| a == b).count()
    })
}

impl<E: Env> Tablet<E> {
    /// A tablet in memory, at its flushed index.
    pub(crate) fn assemble(
        shared: &Rc<Shared<E>>,
        range: RangeId,
        description: &Description,
        tables: &[Rc<Table<E>>],
        manifest: Option<Manifest<E>>,
    ) -> Self {
        let state = State::begin(shared, description, tables);
        Self(Rc::new(Inner {
            shared: shared.clone(),
            range,
            dir: crate::files::dir(range),
            state: RefCell::new(state),
            flushing: Lock::default(),
            merging: Lock::default(),
            committing: Lock::default(),
            exists: Gate::new(manifest.is_some()),
            manifest: RefCell::new(manifest),
            poisoned: Cell::new(false),
            is_guest: Cell::new(false),
            next_table: Cell::new(description.next_table),
        }))
    }

    /// The range.
    #[must_use]
    pub fn range(&self) -> RangeId {
        self.0.range
    }

    /// Its keys.
    #[must_use]
    pub fn span(&self) -> Span {
        self.0.state.borrow().span.clone()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.0.state.borrow().applied_index
    }

    /// The last entry that survives a restart without the log.
    #[must_use]
    pub fn flushed_index(&self) -> Index {
        self.0.state.borrow().flushed_index
    }

    /// The replica's opaque state as of [`Self::flushed_index`].
    #[must_use]
    pub fn app_state(&self) -> Vec<u8> {
        self.0.state.borrow().app_state.to_vec()
    }

    /// The split that made this tablet: its left range and the Split entry's index there. A restart that finds the left
    /// tablet flushed only below that index must ignore this one: replaying the Split entry makes it again.
    #[must_use]
    pub fn split_from(&self) -> Option<(RangeId, Index)> {
        self.0.state.borrow().split_from
    }

    /// Whether the split that made this tablet is not durable yet: it has no files of its own.
    #[must_use]
    pub fn waits_for_split(&self) -> bool {
        !self.0.exists.is_open()
    }

    /// Sizes.
    #[must_use]
    pub fn stats(&self) -> TabletStats {
        let state = self.0.state.borrow();
        TabletStats {
            active_bytes: state.active_bytes(),
            frozen_bytes: state.frozen.iter().map(|frozen| frozen.bytes()).sum(),
            frozen: state.frozen.len(),
            tables: state.version.all().count(),
            table_bytes: state.version.all().map(|table| table.meta().bytes).sum(),
            flushes: state.flushes,
            merges: state.merges,
            splits_pending: state.splits.len(),
        }
    }

    /// Bytes of all memtables, the frozen ones included.
    #[must_use]
    pub fn memtable_bytes(&self) -> usize {
        let state = self.0.state.borrow();
        let frozen = state.frozen.iter().map(|frozen| frozen.bytes());
        state.active_bytes() + frozen.sum::<usize>()
    }

    /// Whether a memtable is frozen and not flushed.
    #[must_use]
    pub fn has_frozen(&self) -> bool {
        !self.0.state.borrow().frozen.is_empty()
    }

    /// Whether the active memtable has reached its size and should be frozen.
    #[must_use]
    pub fn wants_freeze(&self) -> bool {
        let full = self.0.state.borrow().active_bytes() >= self.0.shared.config().memtable_bytes_max;
        full || base::misbehave!("storage: early freeze")
    }

    /// Applies the entry at `index`, whose versions all get `ts`. Later operations of the entry win over earlier ones.
    /// Of one key, every write (range deletes over it included) has a greater timestamp than those of earlier entries.
    ///
    /// # Panics
    /// When `index` does not follow the applied index, a key lies outside the span, or a timestamp does not increase.
    pub fn apply<'a>(&self, index: Index, ts: Timestamp, ops: impl Iterator<Item = WriteOp<'a>>) {
        self.apply_nothing(index);
        let state = self.0.state.borrow();
        let span = &state.span;
        let ops = ops.inspect(|op| assert!(span.contains(op.key()), "{op:?} lies outside {span:?}"));
        let hash = |key: &[u8]| self.0.shared.hash(key);
        state
            .active
            .memtable
            .borrow_mut()
            .apply(ts, ops, hash, span.end.as_deref());
        state.active.charge();
    }

    /// Applies the entry at `index`, which makes versions of distinct keys, each at a timestamp of its own. Of one key, each has a
    /// greater timestamp than those of earlier entries.
    ///
    /// # Panics
    /// As [`Self::apply`].
    pub fn apply_versions<'a>(&self, index: Index, versions: impl Iterator<Item = (Timestamp, WriteOp<'a>)>) {
        self.apply_nothing(index);
        let state = self.0.state.borrow();
        let span = &state.span;
        let hash = |key: &[u8]| self.0.shared.hash(key);
        for (ts, op) in versions {
            assert!(span.contains(op.key()), "{op:?} lies outside {span:?}");
            let one = core::iter::once(op);
            let memtable = &state.active.memtable;
            memtable.borrow_mut().apply(ts, one, hash, span.end.as_deref());
        }
        state.active.charge();
    }

    /// Sets and removes spilled intents by the entry at `ts`, which [`Self::apply_versions`] applies in the same step: puts and deletes
    /// of single keys.
    ///
    /// # Panics
    /// When a key lies outside the span, or the timestamp is not above those of earlier entries.
    pub fn apply_spilled<'a>(&self, ts: Timestamp, ops: impl Iterator<Item = WriteOp<'a>>) {
        let state = &mut *self.0.state.borrow_mut();
        let span = &state.span;
        let hash = |key: &[u8]| self.0.shared.hash(key);
        let mut ops = ops
            .inspect(|op| assert!(span.contains(op.key()), "{op:?} lies outside {span:?}"))
            .peekable();
        if ops.peek().is_none() {
            return;
        }
        let cell = state
            .spilled
            .get_or_insert_with(|| self.0.shared.new_memtable(shared_prefix(span)));
        cell.memtable
            .borrow_mut()
            .apply(ts, ops, hash, span.end.as_deref());
        cell.charge();
    }

    /// Applies an entry that writes nothing.
    ///
    /// # Panics
    /// When `index` does not follow the applied index.
    pub fn apply_nothing(&self, index: Index) {
        let applied = &mut self.0.state.borrow_mut().applied_index;
        assert!(index == applied.next(), "entry {index} does not follow {applied}");
        *applied = index;
    }

    /// Starts the first cache miss of a coming lookup.
    #[inline]
    pub fn prefetch(&self, key: &[u8]) {
        let state = self.0.state.borrow();
        let memtable = state.active.memtable.borrow();
        let hash = self.0.shared.hash(key);
        memtable.prefetch_index(hash);
        if !state.version.tables.is_empty() {
            self.0.shared.rows().borrow().prefetch_index(hash);
        }
    }

    /// Looks `key` up as of `read_ts` without waiting, and hands timestamp and value to `f`; `None` when it has no value.
    /// `f` must neither write to this tablet nor look anything up in a tablet of the shard.
    ///
    /// # Errors
    /// [`NeedsIo`] when the answer is not in memory or there is an error to report: [`Self::get`] gives it.
    ///
    /// # Panics
    /// When `key` lies outside the span.
    pub fn get_cached<R>(
        &self,
        key: &[u8],
        read_ts: Timestamp,
        f: impl FnOnce(Option<(Timestamp, &[u8])>) -> R,
    ) -> Result<R, NeedsIo> {
        alone(self.get_interleaved(key, read_ts, f))
    }

    /// As [`Self::get_cached`], but pauses where a cache miss is due: for [`crate::interleave`].
    ///
    /// # Errors
    /// As [`Self::get_cached`].
    ///
    /// # Panics
    /// As [`Self::get_cached`].
    ///
    /// # Cancellation
    /// Safe.
    pub async fn get_interleaved<R>(
        &self,
        key: &[u8],
        read_ts: Timestamp,
        f: impl FnOnce(Option<(Timestamp, &[u8])>) -> R,
    ) -> Result<R, NeedsIo> {
        self.see(key, read_ts, |seen| f(seen.and_then(Seen::live))).await
    }

    /// Looks `key` up in memory; only pauses.
    async fn see<R>(
        &self,
        key: &[u8],
        read_ts: Timestamp,
        f: impl FnOnce(Option<Seen<'_>>) -> R,
    ) -> Result<R, NeedsIo> {
        let hash = self.0.shared.hash(key);
        {
            let state = self.0.state.borrow();
            state.active.memtable.borrow().prefetch_record(hash);
            if !state.version.tables.is_empty() {
                self.0.shared.rows().borrow().prefetch_row(hash);
            }
        }
        pause().await;
        let (version, f) = {
            let state = self.0.state.borrow();
            if read_ts < state.version.gc_threshold {
                return Err(NeedsIo);
            }
            match state.see_in_memory(hash, key, read_ts, f) {
                Ok(result) => return Ok(result),
                Err(f) => (state.version.clone(), f),
            }
        };
        let f = match get::in_rows(&self.0.shared, &version, hash, key, read_ts, f) {
            Ok(result) => return Ok(result),
            Err(f) => f,
        };
        let f = get::noting_row(&self.0.shared, &version, hash, key, read_ts, f);
        get::in_cached_tables(&self.0.shared, &version, key, read_ts, f)
            .await
            .ok_or(NeedsIo)
    }

    /// Looks `key` up as of `read_ts`.
    ///
    /// # Errors
    /// [`StorageError::BelowGcThreshold`], or what reading the disk met.
    ///
    /// # Panics
    /// When `key` lies outside the span.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn get(
        &self,
        key: &[u8],
        read_ts: Timestamp,
    ) -> Result<Option<(Timestamp, Vec<u8>)>, StorageError> {
        let copy = |seen: Option<Seen<'_>>| seen.and_then(Seen::live).map(|(ts, value)| (ts, value.to_vec()));
        self.load(key, read_ts, copy).await
    }

    /// The timestamp of the newest write to `key`, deletes included, without waiting.
    ///
    /// # Errors
    /// [`NeedsIo`] when the answer is not in memory: [`Self::load_newest_ts`] gives it.
    ///
    /// # Panics
    /// When `key` lies outside the span.
    pub fn newest_ts(&self, key: &[u8]) -> Result<Option<Timestamp>, NeedsIo> {
        alone(self.see(key, Timestamp::MAX, |seen| seen.map(|seen| seen.ts)))
    }

    /// The timestamp of the newest write to `key`, deletes included.
    ///
    /// # Errors
    /// What reading the disk met.
    ///
    /// # Panics
    /// When `key` lies outside the span.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn load_newest_ts(&self, key: &[u8]) -> Result<Option<Timestamp>, StorageError> {
        self.load(key, Timestamp::MAX, |seen| seen.map(|seen| seen.ts))
            .await
    }

    async fn load<R>(
        &self,
        key: &[u8],
        read_ts: Timestamp,
        f: impl FnOnce(Option<Seen<'_>>) -> R,
    ) -> Result<R, StorageError> {
        let hash = self.0.shared.hash(key);
        let (version, f) = {
            let state = self.0.state.borrow();
            check_gc_threshold(&state.version, read_ts)?;
            match state.see_in_memory(hash, key, read_ts, f) {
                Ok(result) => return Ok(result),
                Err(f) => (state.version.clone(), f),
            }
        };
        let f = get::noting_row(&self.0.shared, &version, hash, key, read_ts, f);
        get::load_from_tables(&self.0.shared, &version, key, read_ts, f).await
    }

    /// Reads one page of a scan, as of the moment of the call.
    ///
    /// # Errors
    /// [`StorageError::BelowGcThreshold`], or what reading the disk met.
    ///
    /// # Panics
    /// When the page may have no rows.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn scan_page(&self, page: &ScanPage) -> Result<Rows, StorageError> {
        let (snapshot, span) = {
            let state = self.0.state.borrow();
            check_gc_threshold(&state.version, page.read_ts)?;
            let Some(span) = state.span.intersect(&page.span.start, page.span.end.as_deref()) else {
                return Ok(Rows::default());
            };
            let memtables = state.memtables().map(with_limit).collect();
            (
                Snapshot {
                    memtables,
                    version: state.version.clone(),
                },
                span,
            )
        };
        scan::scan_page(&self.0.shared, snapshot, span, page).await
    }

    /// Reads one page of the spilled intents, as of the moment of the call: their bytes, each at the timestamp of its entry.
    ///
    /// # Errors
    /// What reading the disk met.
    ///
    /// # Panics
    /// When the page may have no rows.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn spilled_page(&self, page: &ScanPage) -> Result<Rows, StorageError> {
        let (snapshot, span) = {
            let state = self.0.state.borrow();
            let Some(span) = state.span.intersect(&page.span.start, page.span.end.as_deref()) else {
                return Ok(Rows::default());
            };
            let frozen = state
                .frozen
                .iter()
                .rev()
                .filter_map(|frozen| frozen.spilled.as_ref());
            let cells = state.spilled.iter().chain(frozen);
            let memtables = cells.map(with_limit).collect();
            let none = || Rc::new(Version::empty(&state.version));
            let version = state.version.intents.clone().unwrap_or_else(none);
            (Snapshot { memtables, version }, span)
        };
        scan::scan_page(&self.0.shared, snapshot, span, page).await
    }

    /// Turns the active memtable into an immutable one that waits for [`Self::flush`], together with the replica's
    /// opaque state as of [`Self::applied_index`], and whether it has anything spilled then. Does nothing when everything is flushed.
    pub fn freeze(&self, app_state: Vec<u8>, has_spilled: bool) {
        let mut state = self.0.state.borrow_mut();
        state.freeze(&self.0.shared, app_state.into(), has_spilled);
    }

    /// Makes an edit durable, then installs the version it leads to. `opened` has the tables that the edit adds.
    pub(crate) async fn commit(
        &self,
        edit: &VersionEdit,
        opened: &[Rc<Table<E>>],
        install: impl FnOnce(&mut State<E>),
    ) -> Result<(), StorageError> {
        let _committing = self.0.committing.lock().await;
        let mut manifest = self
            .0
            .manifest
            .take()
            .ok_or(StorageError::Poisoned { range: self.0.range })?;
        manifest.append(edit).await?;
        let mut state = self.0.state.borrow_mut();
        let old = state.version.clone();
        let known: Vec<Rc<Table<E>>> = old.all().cloned().collect();
        state.version = Rc::new(Version::new(
            &self.0.shared,
            manifest.description(),
            &known,
            opened,
        ));
        for table in old
            .all()
            .filter(|table| edit.removed.contains(&table.meta().number))
        {
            table.retire();
        }
        install(&mut state);
        drop(state);
        self.0.manifest.replace(Some(manifest));
        Ok(())
    }

    /// Puts another state in the place of this one: durably, then in memory. `opened` has its tables. The caller holds the
    /// locks of flush and merge.
    ///
    /// # Panics
    /// When the tablet is beyond `applied`: what was applied since would be lost.
    pub(crate) async fn replace(
        &self,
        applied: Index,
        description: Description,
        opened: &[Rc<Table<E>>],
    ) -> Result<(), StorageError> {
        let _committing = self.0.committing.lock().await;
        let mut manifest = self
            .0
            .manifest
            .take()
            .ok_or(StorageError::Poisoned { range: self.0.range })?;
        manifest.replace(description).await?;
        let mut state = self.0.state.borrow_mut();
        assert!(
            state.applied_index == applied,
            "{} was applied to a tablet at {applied} that was being replaced",
            state.applied_index
        );
        for table in state.version.all() {
            table.retire();
        }
        *state = State {
            flushes: state.flushes,
            merges: state.merges,
            ..State::begin(&self.0.shared, manifest.description(), opened)
        };
        drop(state);
        self.0.manifest.replace(Some(manifest));
        Ok(())
    }

    /// Refuses when an earlier write failed.
    pub(crate) fn check_poisoned(&self) -> Result<(), StorageError> {
        if self.0.poisoned.get() {
            Err(StorageError::Poisoned { range: self.0.range })
        } else {
            Ok(())
        }
    }

    /// Remembers that a write failed.
    pub(crate) fn poison_on_error<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(StorageError::Disk(error)) = &result
            && error.op != DiskOp::Read
        {
            self.0.poisoned.set(true);
        }
        result
    }

    pub(crate) fn next_table(&self) -> u64 {
        let number = self.0.next_table.get();
        self.0.next_table.set(number + 1);
        number
    }
}

/// A memtable as it is now.
fn with_limit(cell: &Rc<MemtableCell>) -> (Rc<MemtableCell>, Limit) {
    (cell.clone(), cell.memtable.borrow().limit())
}

pub(crate) fn check_gc_threshold<E: Env>(
    version: &Version<E>,
    read_ts: Timestamp,
) -> Result<(), StorageError> {
    let gc_threshold = version.gc_threshold;
    if read_ts < gc_threshold {
        Err(StorageError::BelowGcThreshold {
            read_ts,
            gc_threshold,
        })
    } else {
        Ok(())
    }
}

impl<E: Env> State<E> {
    /// The state at its flushed index.
    fn begin(shared: &Shared<E>, description: &Description, tables: &[Rc<Table<E>>]) -> Self {
        Self {
            span: description.span.clone(),
            applied_index: description.flushed_index,
            flushed_index: description.flushed_index,
            app_state: description.app_state.clone(),
            split_from: description.split_from,
            active: shared.new_memtable(shared_prefix(&description.span)),
            spilled: None,
            frozen: VecDeque::new(),
            version: Rc::new(Version::new(shared, description, tables, &[])),
            splits: VecDeque::new(),
            flushes: 0,
            merges: 0,
        }
    }

    fn active_bytes(&self) -> usize {
        self.active.bytes() + bytes_of(self.spilled.as_ref())
    }

    /// Newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Rc<MemtableCell>> {
        core::iter::once(&self.active).chain(self.frozen.iter().rev().map(|frozen| &frozen.cell))
    }

    #[inline]
    pub(crate) fn see_in_memory<R, F: FnOnce(Option<Seen<'_>>) -> R>(
        &self,
        hash: u32,
        key: &[u8],
        read_ts: Timestamp,
        mut f: F,
    ) -> Result<R, F> {
        assert!(self.span.contains(key), "{key:?} lies outside {:?}", self.span);
        for cell in self.memtables() {
            match get::in_memtable(cell, hash, key, read_ts, f) {
                Ok(result) => return Ok(result),
                Err(unused) => f = unused,
            }
        }
        Err(f)
    }

    /// The span is wider, as of an entry at `index` that is durable. Nothing is in memory.
    pub(crate) fn widen(&mut self, shared: &Shared<E>, span: Span, index: Index, app_state: Rc<[u8]>) {
        // Its keys may share less.
        self.active = shared.new_memtable(shared_prefix(&span));
        self.spilled = None;
        self.span = span;
        (self.applied_index, self.flushed_index) = (index, index);
        self.app_state = app_state;
    }

    pub(crate) fn freeze(&mut self, shared: &Shared<E>, app_state: Rc<[u8]>, has_spilled: bool) {
        // A flush that would change nothing writes nothing.
        if self.frozen.is_empty() && self.applied_index == self.flushed_index {
            return;
        }
        let next = shared.new_memtable(shared_prefix(&self.span));
        let cell = core::mem::replace(&mut self.active, next);
        self.frozen.push_back(Rc::new(Frozen {
            cell,
            spilled: self.spilled.take(),
            has_spilled,
            index: self.applied_index,
            app_state,
        }));
    }
}
