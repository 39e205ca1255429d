//! Merges of neighbouring ranges: one tablet takes over what another one has on disk. The inverse of a split.
//!
//! ```text
//!   both are flushed, and no table has keys of the other side
//!   absorb     1 link every table of the right tablet               tablets/<left>/*.sst
//!              2 edit the left manifest: span, tables, flushed index      ◄── from here on the right tablet is not needed
//! ```
//!
//! A crash before step 2 leaves both tablets as they were; what was linked is swept when the left one is opened.

use crate::compaction::job::MergePlan;
use crate::manifest::edit::VersionEdit;
use crate::sstable::reader::{Table, TableMeta};
use crate::{StorageError, Tablet};
use base::Index;
use base::key::Span;
use env::{Disk, Env};
use std::rc::Rc;

impl<E: Env> Tablet<E> {
    /// Whether no table has anything outside the span. What a split has left there would come to light in a wider one.
    #[must_use]
    pub fn is_tidy(&self) -> bool {
        self.untidy_table().is_none()
    }

    fn untidy_table(&self) -> Option<Rc<Table<E>>> {
        let version = self.0.state.borrow().version.clone();
        let mut tables = version.all();
        tables.find(|table| table.reaches_outside(&version.span)).cloned()
    }

    /// Writes the tables anew that have something outside the span, without that: none has afterwards. Splits are complete.
    ///
    /// # Errors
    /// As of [`Self::merge`].
    ///
    /// # Panics
    /// When a table that was merged is still there, which would be a fault of [`Self::merge`].
    ///
    /// # Cancellation
    /// As of [`Self::merge`].
    pub async fn tidy(&self) -> Result<(), StorageError> {
        while let Some(table) = self.untidy_table() {
            base::sometimes!("storage: a table was tidied");
            let number = table.meta().number;
            self.merge(MergePlan::of(&[table])).await?;
            // This merge took it away, or another one before it did: so this ends.
            let version = self.0.state.borrow().version.clone();
            assert!(
                version.all().all(|table| table.meta().number != number),
                "table {number} of {} was merged and is still there",
                self.0.range
            );
        }
        Ok(())
    }

    /// Takes over what `right`, the tablet of the keys that follow, has: durably, as of the entry at `index`, with the replica's opaque
    /// state as of it. `right` may be read on, and is not written any more.
    ///
    /// # Errors
    /// What the disk said; after a failed write the tablet refuses further ones with [`StorageError::Poisoned`].
    /// [`StorageError::Corruption`] of a table of `right`: nothing has changed.
    ///
    /// # Panics
    /// When something is not flushed or not tidy, the spans do not follow each other, or `index` does not follow the last one applied.
    ///
    /// # Cancellation
    /// Poisons the tablet when it was writing its manifest; otherwise nothing has happened.
    pub async fn absorb(&self, right: &Self, index: Index, app_state: Vec<u8>) -> Result<(), StorageError> {
        let _flushing = self.0.flushing.lock().await;
        let _merging = self.0.merging.lock().await;
        self.check_poisoned()?;
        right.check_poisoned()?;
        let result = self.absorb_locked(right, index, app_state.into()).await;
        self.poison_on_error(result)
    }

    async fn absorb_locked(
        &self,
        right: &Self,
        index: Index,
        app_state: Rc<[u8]>,
    ) -> Result<(), StorageError> {
        for tablet in [self, right] {
            let state = tablet.0.state.borrow();
            assert!(
                state.frozen.is_empty()
                    && state.applied_index == state.flushed_index
                    && state.splits.is_empty(),
                "{} is flushed before it merges",
                tablet.0.range
            );
        }
        assert!(
            self.is_tidy() && right.is_tidy(),
            "no table has keys of the other side"
        );
        let (left_span, right_span) = (self.span(), right.span());
        assert_eq!(
            left_span.end.as_deref(),
            Some(&*right_span.start),
            "{} and {} are neighbours",
            self.0.range,
            right.0.range
        );
        assert_eq!(index, self.applied_index().next(), "the entry is the next one");
        let span = Span::new(&left_span.start, right_span.end.as_deref());
        let theirs = right.0.state.borrow().version.clone();
        let ours = self.0.state.borrow().version.gc_threshold;
        let disk = self.0.shared.env().disk();
        let mut metas = Vec::new();
        // The oldest gets the lowest number.
        let theirs_all: Vec<&Rc<Table<E>>> = theirs.all().collect();
        for table in theirs_all.into_iter().rev() {
            let meta = TableMeta {
                number: self.next_table(),
                ..table.meta()
            };
            disk.hard_link(table.path(), &meta.path(&self.0.dir)).await?;
            metas.push(meta);
        }
        metas.reverse();
        disk.sync_dir(&self.0.dir).await?;
        let mut opened = Vec::new();
        for &meta in &metas {
            opened.push(self.open_table(meta).await?);
        }
        let edit = VersionEdit {
            span: Some(span.clone()),
            flushed: Some((index, app_state.clone())),
            gc_threshold: (theirs.gc_threshold > ours).then_some(theirs.gc_threshold),
            added: metas,
            ..VersionEdit::default()
        };
        self.commit(&edit, &opened, |state| {
            state.widen(&self.0.shared, span, index, app_state);
        })
        .await?;
        base::sometimes!("storage: a tablet took another one over");
        Ok(())
    }
}
