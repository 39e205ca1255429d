//! The sender's side: what is durable in a tablet, held still.

use super::{SNAPSHOT_READ_BYTES_MAX, SnapshotDescription, SnapshotError};
use crate::Tablet;
use crate::manifest::edit::Description;
use crate::sstable::reader::Table;
use crate::version::Version;
use base::limits::BLOCK_BYTES;
use env::{Disk, Env};
use std::rc::Rc;

/// A tablet's durable state at one moment: what a lagging replica is sent instead of the log.
///
/// While it lives, none of its files is removed. Afterwards what is obsolete goes with the next flush or merge of the shard,
/// or [`Shared::remove_obsolete`](crate::Shared::remove_obsolete).
pub struct TabletSnapshot<E: Env> {
    description: SnapshotDescription,
    version: Rc<Version<E>>,
}

impl<E: Env> Tablet<E> {
    /// What is durable now: the state as of [`Self::flushed_index`]. Entries above it must come from the log.
    ///
    /// It does not wait, so that the caller can take it in the step in which it looks at the group's log. That is why it
    /// refuses while a split is pending instead of completing it: the left side's tables still have the whole span, and the
    /// right side's are the left one's, without the memtables that both share.
    ///
    /// # Errors
    /// [`SnapshotError::SplitPending`]: ask again after [`Self::complete_split`], of the left side for the right one.
    /// [`StorageError::Poisoned`](crate::StorageError::Poisoned).
    pub fn snapshot(&self) -> Result<TabletSnapshot<E>, SnapshotError> {
        self.check_poisoned()?;
        let range = self.range();
        let state = self.0.state.borrow();
        if !self.0.exists.is_open() || !state.splits.is_empty() {
            return Err(SnapshotError::SplitPending { range });
        }
        let version = state.version.clone();
        let durable = Description {
            span: version.span.clone(),
            flushed_index: state.flushed_index,
            app_state: state.app_state.clone(),
            gc_threshold: version.gc_threshold,
            split_from: None,
            tables: version.all().map(|table| table.meta()).collect(),
            next_table: 1,
        };
        let description = SnapshotDescription::new(range, durable);
        Ok(TabletSnapshot { description, version })
    }
}

impl<E: Env> TabletSnapshot<E> {
    /// What it is of.
    #[must_use]
    pub fn description(&self) -> &SnapshotDescription {
        &self.description
    }

    /// Reads bytes of a file from `offset` on, a multiple of 4 KiB: as many whole blocks of 4 KiB as `len_max` and
    /// [`SNAPSHOT_READ_BYTES_MAX`] hold, at least one, and no more than there are. They are not checked: the receiver does.
    ///
    /// # Errors
    /// [`SnapshotError::UnexpectedBytes`] when there is nothing there; what the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn read(
        &self,
        file: u64,
        offset: u64,
        len_max: usize,
    ) -> Result<<E::Disk as Disk>::Buf, SnapshotError> {
        let unexpected = SnapshotError::UnexpectedBytes { file, offset };
        let is_file = |table: &&Rc<Table<E>>| table.meta().uid == file;
        let table = self.version.all().find(is_file);
        let Some(table) = table.filter(|table| offset < table.meta().bytes) else {
            return Err(unexpected);
        };
        if !offset.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(unexpected);
        }
        let len = len_max.clamp(BLOCK_BYTES, SNAPSHOT_READ_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES;
        let (_, bytes) = table.read(offset, offset.saturating_add(len as u64)).await?;
        Ok(bytes)
    }
}
