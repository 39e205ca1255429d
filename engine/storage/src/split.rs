//! Splits: one tablet becomes two that share what is in memory and on disk.
//!
//! ```text
//!   apply Split at index i      left  [a, z) ─► [a, m)   frozen memtables and tables stay where they are,
//!   (at once, in memory)        right          [m, z)   referred to by both; spans hide the other side
//!
//!   complete (in background)    1 flush left's shared memtables whole    tablets/<left>/*.sst
//!                               2 wipe and make the right directory      tablets/<right>/
//!                               3 link every table that overlaps         tablets/<right>/*.sst
//!                               4 write the right manifest
//!                               5 edit the left manifest: span, flushed index i       ◄── from here on it is split
//! ```
//!
//! A crash before step 5 leaves the left tablet as it was before the split: the Split entry is replayed, and what was made
//! of the right directory is wiped by step 2. A right tablet names the split that made it, so that a restart can tell.

use crate::manifest::edit::{Description, VersionEdit};
use crate::manifest::file::Manifest;
use crate::sstable::reader::{Table, TableMeta};
use crate::tablet::Frozen;
use crate::version::Version;
use crate::{StorageError, Tablet};
use base::key::Span;
use base::{Index, RangeId};
use env::{Disk, Env};
use std::rc::Rc;

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

/// A split that is applied and not yet durable.
pub(crate) struct PendingSplit<E: Env> {
    pub(crate) split: Split,
    left_span: Span,
    right_span: Span,
    right: Tablet<E>,
    /// How many frozen memtables the right side began with: they are in the linked tables afterwards.
    inherited: usize,
}

impl<E: Env> Tablet<E> {
    /// Applies the Split entry: this tablet keeps the keys below `split.at`, the returned one has the rest. Both serve at
    /// once. [`Self::complete_split`] makes it durable; until then neither's log may be dropped, and neither flushes.
    ///
    /// # Panics
    /// When the entry does not follow the applied index, or the key does not lie strictly inside the span.
    #[must_use]
    pub fn split(&self, split: Split) -> Self {
        self.apply_nothing(split.index);
        let mut state = self.0.state.borrow_mut();
        let span = state.span.clone();
        assert!(
            span.contains(&split.at) && *span.start != *split.at,
            "{:?} does not split {span:?}",
            split.at
        );
        let left_span = Span::new(&span.start, Some(&split.at));
        let right_span = Span::new(&split.at, span.end.as_deref());
        state.span = left_span.clone();
        // What is spilled on either side is in what both share.
        state.freeze(&self.0.shared, split.left_state.clone().into(), true);
        let description = Description {
            span: right_span.clone(),
            flushed_index: split.right_at,
            app_state: split.right_state.clone().into(),
            gc_threshold: state.version.gc_threshold,
            split_from: Some((self.0.range, split.index)),
            tables: Vec::new(),
            next_table: 1,
        };
        let right = Self::assemble(&self.0.shared, split.right, &description, &[], None);
        let mut right_state = right.0.state.borrow_mut();
        right_state.frozen = state.frozen.clone();
        right_state.version = state.version.clone();
        drop(right_state);
        let inherited = state.frozen.len();
        let pending = PendingSplit {
            split,
            left_span,
            right_span,
            right: right.clone(),
            inherited,
        };
        state.splits.push_back(Rc::new(pending));
        right
    }

    /// Makes the splits of this tablet durable, in order; fine when there are none.
    ///
    /// # Errors
    /// What the disk said; both tablets then refuse further writes with [`StorageError::Poisoned`].
    ///
    /// # Cancellation
    /// Poisons the tablet when it was writing its manifest; otherwise it starts again with the next call.
    pub async fn complete_split(&self) -> Result<(), StorageError> {
        self.0.exists.opened().await;
        let _flushing = self.0.flushing.lock().await;
        loop {
            self.check_poisoned()?;
            let Some(pending) = self.0.state.borrow().splits.front().cloned() else {
                return Ok(());
            };
            let result = self.complete(&pending).await;
            if result.is_err() {
                pending.right.0.poisoned.set(true);
                pending.right.0.exists.open();
            }
            self.poison_on_error(result)?;
        }
    }

    /// Gives up the splits that cannot be made durable because files are damaged: neither side is written any more, and what is on the
    /// disk stays as it is. Both are read as before until they are dropped; the right sides, which read the left one's tables, first.
    pub fn abandon_split(&self) {
        let splits = core::mem::take(&mut self.0.state.borrow_mut().splits);
        for pending in splits {
            let right = &pending.right;
            right.0.is_guest.set(true);
            right.0.poisoned.set(true);
            right.0.exists.open();
        }
        self.0.poisoned.set(true);
    }

    async fn complete(&self, pending: &PendingSplit<E>) -> Result<(), StorageError> {
        let PendingSplit {
            split,
            left_span,
            right_span,
            right,
            inherited,
        } = pending;
        let frozen: Vec<Rc<Frozen>> = {
            let state = self.0.state.borrow();
            state
                .frozen
                .iter()
                .take_while(|frozen| frozen.index <= split.index)
                .cloned()
                .collect()
        };
        let added = self.write_frozen(&frozen, None).await?;
        // Every linked table is held here until the links are durable, so that a merge does not remove it meanwhile.
        let version = self.0.state.borrow().version.clone();
        let tables: Vec<&Rc<Table<E>>> = added.iter().chain(version.all()).collect();
        let (manifest, linked) = right
            .make_directory(self, &version, split, right_span, &tables)
            .await?;
        let edit = VersionEdit {
            span: Some(left_span.clone()),
            flushed: Some((split.index, split.left_state.clone().into())),
            added: added.iter().map(|table| table.meta()).collect(),
            ..VersionEdit::default()
        };
        self.commit(&edit, &added, |state| {
            state.frozen.drain(..frozen.len());
            (state.flushed_index, state.app_state) = (split.index, split.left_state.clone().into());
            state.splits.pop_front();
            state.flushes += 1;
        })
        .await?;
        base::sometimes!("storage: a split was completed");
        right.adopt(manifest, &linked, *inherited);
        Ok(())
    }

    /// Steps 2 to 4: the right side's directory, its links and its manifest.
    async fn make_directory(
        &self,
        left: &Self,
        version: &Version<E>,
        split: &Split,
        span: &Span,
        tables: &[&Rc<Table<E>>],
    ) -> Result<(Manifest<E>, Vec<Rc<Table<E>>>), StorageError> {
        let disk = self.0.shared.env().disk();
        Self::destroy(self.0.shared.env(), split.right).await?;
        disk.create_dir(&self.0.dir).await?;
        let (mut metas, mut next_table) = (Vec::new(), 1);
        let overlapping: Vec<&Rc<Table<E>>> = tables
            .iter()
            .copied()
            .filter(|table| table.overlaps(span))
            .collect();
        // The oldest gets the lowest number.
        for table in overlapping.iter().rev() {
            let meta = TableMeta {
                number: next_table,
                ..table.meta()
            };
            disk.hard_link(table.path(), &meta.path(&self.0.dir)).await?;
            metas.push(meta);
            next_table += 1;
        }
        metas.reverse();
        // One family after the other; each keeps its order.
        metas.sort_by_key(|meta| meta.family);
        disk.sync_dir(&self.0.dir).await?;
        let description = Description {
            span: span.clone(),
            flushed_index: split.right_at,
            app_state: split.right_state.clone().into(),
            gc_threshold: version.gc_threshold,
            split_from: Some((left.0.range, split.index)),
            tables: metas,
            next_table,
        };
        let manifest = Manifest::create(&self.0.shared, &self.0.dir, description).await?;
        let mut linked = Vec::new();
        for &meta in &manifest.description().tables {
            linked.push(self.open_table(meta).await?);
        }
        Ok((manifest, linked))
    }

    /// The right side's own files take the place of what it shared with the left.
    fn adopt(&self, manifest: Manifest<E>, linked: &[Rc<Table<E>>], inherited: usize) {
        let mut state = self.0.state.borrow_mut();
        state.version = Rc::new(Version::new(&self.0.shared, manifest.description(), linked, &[]));
        state.frozen.drain(..inherited);
        drop(state);
        self.0.next_table.set(manifest.description().next_table);
        self.0.manifest.replace(Some(manifest));
        self.0.exists.open();
    }
}
