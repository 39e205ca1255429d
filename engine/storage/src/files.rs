//! Tablets as directories: make, open, list, remove, check.
//!
//! ```text
//!   tablets/<range>/MANIFEST        no tablet without it
//!   tablets/<range>/00000007.sst    a table that the manifest names
//!   tablets/<range>/*.received      a file of a raft snapshot above the flushed index: kept for when that is received on
//!   tablets/<range>/*.tmp, other    left over from a crash: removed when the tablet is opened
//! ```

use crate::manifest::edit::Description;
use crate::manifest::file::{self, Manifest};
use crate::snapshot::is_received_for_later;
use crate::sstable::reader::{Table, TableMeta};
use crate::together::together;
use crate::{Shared, StorageError, Tablet};
use base::key::Span;
use base::{Index, RangeId, Timestamp};
use env::{Disk, DiskError, Env};
use std::io::ErrorKind;
use std::rc::Rc;

const TABLETS: &str = "tablets";

/// Tablets that are opened at a time: enough for their syncs to share what the device does.
const OPEN_TOGETHER_MAX: usize = 32;

pub(crate) fn dir(range: RangeId) -> String {
    format!("{TABLETS}/{}", range.0)
}

/// `None` when what was asked for is not there.
pub(crate) fn found<T>(result: Result<T, DiskError>) -> Result<Option<T>, DiskError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl<E: Env> Tablet<E> {
    /// Makes an empty tablet that has applied everything up to `at`. Durable when it returns.
    ///
    /// # Errors
    /// [`StorageError::AlreadyExists`], or what the disk said.
    ///
    /// # Cancellation
    /// What was made of it is removed by the next attempt.
    pub async fn create(
        shared: &Rc<Shared<E>>,
        range: RangeId,
        span: Span,
        at: Index,
        app_state: Vec<u8>,
    ) -> Result<Self, StorageError> {
        let (dir, disk) = (dir(range), shared.env().disk());
        if file::read(shared.env(), &dir).await?.is_some() {
            return Err(StorageError::AlreadyExists { range });
        }
        Self::destroy(shared.env(), range).await?;
        disk.create_dir(&dir).await?;
        let description = Description {
            span,
            flushed_index: at,
            app_state: app_state.into(),
            gc_threshold: Timestamp::ZERO,
            split_from: None,
            tables: Vec::new(),
            next_table: 1,
        };
        let manifest = Manifest::create(shared, &dir, description.clone()).await?;
        Ok(Self::assemble(shared, range, &description, &[], Some(manifest)))
    }

    /// Opens tablets as [`Self::open`] does, some at a time; what became of each, in the order of `ranges`.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn open_each(
        shared: &Rc<Shared<E>>,
        ranges: impl IntoIterator<Item = RangeId>,
    ) -> Vec<(RangeId, Result<Self, StorageError>)> {
        let opening = ranges
            .into_iter()
            .map(|range| async move { (range, Self::open(shared, range).await) });
        together(OPEN_TOGETHER_MAX, opening).await
    }

    /// What the manifest of a tablet that is not open says of it: its span, its flushed index and the replica's opaque state as of
    /// there. Changes nothing, and looks at no table.
    ///
    /// # Errors
    /// [`StorageError::NoSuchTablet`], [`StorageError::Corruption`] of the manifest, or what the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn described(env: &E, range: RangeId) -> Result<(Span, Index, Vec<u8>), StorageError> {
        let recovered = file::read(env, &dir(range)).await?;
        let Description {
            span,
            flushed_index,
            app_state,
            ..
        } = recovered.ok_or(StorageError::NoSuchTablet { range })?.description;
        Ok((span, flushed_index, app_state.to_vec()))
    }

    /// Opens a tablet at its flushed index, and removes what a crash left in its directory: all but whole files of a raft
    /// snapshot that may still be installed.
    ///
    /// Order: what the manifest says is made durable first. Files that it does not name may be those of an older one.
    ///
    /// # Errors
    /// [`StorageError::NoSuchTablet`], [`StorageError::Corruption`], or what the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn open(shared: &Rc<Shared<E>>, range: RangeId) -> Result<Self, StorageError> {
        let dir = dir(range);
        let manifest = Manifest::open(shared, &dir, range).await?;
        let description = manifest.description().clone();
        let mut tables = Vec::with_capacity(description.tables.len());
        for &meta in &description.tables {
            tables.push(Table::open(shared, &dir, meta).await?);
        }
        let known = |path: &str| path == file::path(&dir) || tables.iter().any(|table| table.path() == path);
        for entry in shared.env().disk().list(&dir).await? {
            let path = format!("{dir}/{}", entry.name);
            if !known(&path) && !is_received_for_later(&entry.name, description.flushed_index) {
                base::sometimes!("storage: a file left over from a crash was removed");
                shared.discard(path);
            }
        }
        shared.remove_obsolete().await;
        Ok(Self::assemble(
            shared,
            range,
            &description,
            &tables,
            Some(manifest),
        ))
    }

    /// The ranges that have a tablet in the data directory, ascending.
    ///
    /// # Errors
    /// What the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn list(env: &E) -> Result<Vec<RangeId>, StorageError> {
        let mut ranges = Vec::new();
        for entry in found(env.disk().list(TABLETS).await)?.unwrap_or_default() {
            let Some(range) = entry.name.parse().ok().map(RangeId).filter(|_| entry.is_dir) else {
                continue;
            };
            // Another shard, which starts too, may have removed what was left of it.
            let Some(entries) = found(env.disk().list(&dir(range)).await)? else {
                continue;
            };
            if entries
                .iter()
                .any(|entry| format!("{}/{}", dir(range), entry.name) == file::path(&dir(range)))
            {
                ranges.push(range);
            }
        }
        ranges.sort_unstable();
        Ok(ranges)
    }

    /// Removes a tablet that is not open, also a half-made or half-removed one; fine when there is none.
    ///
    /// Order: remove the manifest and sync, so that it is no tablet any more; then the rest. A manifest that an earlier process
    /// removed may still come back: the sync is for that one, too.
    ///
    /// # Errors
    /// What the disk said.
    ///
    /// # Cancellation
    /// What is left of it is no tablet, or still a whole one.
    pub async fn destroy(env: &E, range: RangeId) -> Result<(), StorageError> {
        let (dir, disk) = (dir(range), env.disk());
        let Some(entries) = found(disk.list(&dir).await)? else {
            return Ok(());
        };
        found(disk.remove(&file::path(&dir)).await)?;
        disk.sync_dir(&dir).await?;
        for entry in entries {
            found(disk.remove(&format!("{dir}/{}", entry.name)).await)?;
        }
        found(disk.remove(&dir).await)?;
        disk.sync_dir(TABLETS).await?;
        Ok(())
    }

    /// Whether somebody else holds the tablet, or reads what it has. The right side of a split that was given up has no files of its
    /// own: those that it reads are held at the left side.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let has_readers = Rc::strong_count(&self.0.state.borrow().version) > 1;
        Rc::strong_count(&self.0) > 1 || has_readers && !self.0.is_guest.get()
    }

    /// Removes the tablet with all that it has. A tablet of the same range may be made afterwards.
    ///
    /// # Errors
    /// What the disk said.
    ///
    /// # Panics
    /// When it [is held](Self::is_held): files would vanish under a reader.
    ///
    /// # Cancellation
    /// What is left of it is no tablet, or still a whole one.
    pub async fn remove(self) -> Result<(), StorageError> {
        assert!(
            !self.is_held(),
            "{} is removed when nobody reads it",
            self.range()
        );
        let (shared, range) = (self.0.shared.clone(), self.range());
        drop(self);
        Self::destroy_closed(&shared, range).await
    }

    /// Removes a tablet of this shard that was open and is held by nobody any more, also a damaged one.
    ///
    /// # Errors
    /// What the disk said.
    ///
    /// # Cancellation
    /// What is left of it is no tablet, or still a whole one.
    pub async fn destroy_closed(shared: &Rc<Shared<E>>, range: RangeId) -> Result<(), StorageError> {
        // Files of a later tablet may have the names of those that were to go one by one.
        let _nobody_else = shared.removing().lock().await;
        shared.keep_of(&dir(range));
        Self::destroy(shared.env(), range).await
    }

    /// Opens the table that a flush, merge or split has just written or linked.
    pub(crate) async fn open_table(&self, meta: TableMeta) -> Result<Rc<Table<E>>, StorageError> {
        Table::open(&self.0.shared, &self.0.dir, meta).await
    }
}
