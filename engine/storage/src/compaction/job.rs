//! Carries a merge out: reads the chosen tables side by side, drops what nobody can see, writes one table.
//!
//! Memory is bounded by one block and one read-ahead window for each input, and the writes in flight. The inputs stay in
//! place, and readable, until the manifest names the output instead.

use super::picker::{self, Candidate, Limits};
use crate::manifest::edit::VersionEdit;
use crate::mvcc::gc::Collector;
use crate::mvcc::key;
use crate::mvcc::tombstone::RangeTombstones;
use crate::sstable::reader::{Family, Table, TableMeta};
use crate::sstable::stream::{Item, TableCursor};
use crate::sstable::writer::TableWriter;
use crate::version::Version;
use crate::{StorageError, Tablet};
use base::Timestamp;
use base::key::Span;
use env::{Env, Tasks};
use std::rc::Rc;

/// Tables to merge, chosen by [`Tablet::pick_merge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergePlan {
    /// Numbers of neighbouring tables, newest first.
    tables: Vec<u64>,
    /// Their bytes.
    bytes: u64,
}

impl MergePlan {
    pub(crate) fn of<E: Env>(tables: &[Rc<Table<E>>]) -> Self {
        Self {
            tables: tables.iter().map(|table| table.meta().number).collect(),
            bytes: tables.iter().map(|table| table.meta().bytes).sum(),
        }
    }

    /// The bytes of the tables: what the merge takes beside them at most, roughly.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<E: Env> Tablet<E> {
    /// Tables that are worth merging now.
    #[must_use]
    pub fn pick_merge(&self) -> Option<MergePlan> {
        if !self.0.exists.is_open() || self.0.poisoned.get() {
            return None;
        }
        let version = self.0.state.borrow().version.clone();
        let candidate = |table: &Rc<Table<E>>| Candidate {
            bytes: table.meta().bytes,
            exceeds_span: table.exceeds(&version.span),
        };
        let intents = version.intents.as_ref().map(|intents| &intents.tables);
        let config = self.0.shared.config();
        let limits = Limits {
            merge_min: config.tables_merge_min,
            tables_max: config.tables_max,
        };
        let pick = |tables: &Vec<Rc<Table<E>>>| {
            let candidates: Vec<Candidate> = tables.iter().map(candidate).collect();
            let run = picker::pick(&candidates, limits).or_else(|| {
                (candidates.len() >= 2 && base::misbehave!("storage: early merge")).then_some(0..2)
            })?;
            Some(MergePlan::of(&tables[run]))
        };
        pick(&version.tables).or_else(|| intents.and_then(pick))
    }

    /// Every table of versions, for a merge that leaves one.
    #[must_use]
    pub fn plan_full_merge(&self) -> Option<MergePlan> {
        let state = self.0.state.borrow();
        let tables = &state.version.tables;
        (self.0.exists.is_open() && !tables.is_empty()).then(|| MergePlan::of(tables))
    }

    /// Merges tables; a plan that no longer fits does nothing.
    ///
    /// # Errors
    /// [`StorageError::Corruption`] of an input: nothing has changed. What the disk said: after a failed write the tablet
    /// refuses further ones with [`StorageError::Poisoned`].
    ///
    /// # Cancellation
    /// Poisons the tablet when it was writing the manifest; otherwise nothing has happened.
    pub async fn merge(&self, plan: MergePlan) -> Result<(), StorageError> {
        let _merging = self.0.merging.lock().await;
        self.check_poisoned()?;
        let version = self.0.state.borrow().version.clone();
        let starts_at = |table: &Rc<Table<E>>| Some(table.meta().number) == plan.tables.first().copied();
        let mut families = core::iter::once(&*version).chain(version.intents.as_deref());
        let found = families.find_map(|family| Some((family, family.tables.iter().position(starts_at)?)));
        let Some((family, start)) = found else {
            return Ok(());
        };
        let Some(inputs) = family.tables.get(start..start + plan.tables.len()) else {
            return Ok(());
        };
        if !inputs
            .iter()
            .map(|table| table.meta().number)
            .eq(plan.tables.iter().copied())
        {
            return Ok(());
        }
        let bottom = start + inputs.len() == family.tables.len();
        let result = self.merge_tables(&version, inputs, bottom).await;
        self.poison_on_error(result)?;
        drop(version);
        self.0.shared.remove_obsolete().await;
        Ok(())
    }

    async fn merge_tables(
        &self,
        version: &Version<E>,
        inputs: &[Rc<Table<E>>],
        bottom: bool,
    ) -> Result<(), StorageError> {
        let family = inputs
            .first()
            .map_or(Family::Versions, |table| table.meta().family);
        let gc_threshold = match family {
            Family::Versions => version.gc_threshold.max(self.0.shared.gc_threshold()),
            // Nobody asks what an intent was.
            Family::Intents => Timestamp::MAX,
        };
        let collector = Collector::new(gc_threshold, bottom);
        // What a completed split has cut off is dropped. The span in memory may be narrower already, but a crash would
        // bring the wider one back.
        let written = self
            .write_merged(family, inputs, &version.span, (collector, gc_threshold))
            .await?;
        let mut opened = Vec::new();
        if let Some(meta) = written {
            opened.push(self.open_table(meta).await?);
        }
        let edit = VersionEdit {
            gc_threshold: (family == Family::Versions && gc_threshold > version.gc_threshold)
                .then_some(gc_threshold),
            added: opened.iter().map(|table| table.meta()).collect(),
            removed: inputs.iter().map(|table| table.meta().number).collect(),
            ..VersionEdit::default()
        };
        self.commit(&edit, &opened, |state| state.merges += 1).await
    }

    /// Writes what the inputs have together to one table; `None` when nothing is left.
    async fn write_merged(
        &self,
        family: Family,
        inputs: &[Rc<Table<E>>],
        span: &Span,
        (collector, gc_threshold): (Collector, Timestamp),
    ) -> Result<Option<TableMeta>, StorageError> {
        let mut all = RangeTombstones::default();
        for table in inputs {
            all.merge_clipped(table.tombstones(), &span.start, span.end.as_deref());
        }
        let mut kept = RangeTombstones::default();
        for fragment in all.fragments() {
            for &ts in collector.keeps_tombstones(fragment.timestamps) {
                kept.insert(fragment.start, fragment.end, ts);
            }
        }
        let writer = TableWriter::create(&self.0.shared, &self.0.dir, (family, self.next_table())).await?;
        let (escaped, user) = (Vec::new(), Vec::new());
        let mut output = Output {
            writer,
            collector,
            covering: all,
            gc_threshold,
            escaped,
            user,
            covered: None,
        };
        let mut merge = Inputs::open(inputs, span).await?;
        let tasks = self.0.shared.env().tasks();
        while let Some((at, item)) = merge.next() {
            let full = output
                .add(item)
                .ok_or_else(|| merge.cursors[at].malformed_key())?;
            merge.advance(at).await?;
            if full {
                output.writer.drain().await?;
            }
            if tasks.need_yield() {
                tasks.yield_now().await;
            }
        }
        if output.writer.is_empty() && kept.is_empty() {
            base::sometimes!("storage: a merge left nothing");
            output.writer.abandon();
            return Ok(None);
        }
        output.writer.finish(&kept).await.map(Some)
    }
}

/// The inputs side by side.
struct Inputs<E: Env> {
    /// Newest first.
    cursors: Vec<TableCursor<E>>,
    /// The first version key outside the span.
    end: Option<Vec<u8>>,
}

impl<E: Env> Inputs<E> {
    async fn open(tables: &[Rc<Table<E>>], span: &Span) -> Result<Self, StorageError> {
        let bound = |user: &[u8]| {
            let mut out = Vec::new();
            key::encode(&mut out, user, Timestamp::MAX);
            out
        };
        let (start, end) = (bound(&span.start), span.end.as_deref().map(bound));
        let mut cursors = Vec::with_capacity(tables.len());
        for table in tables {
            let mut cursor = TableCursor::new(table.clone(), false, false);
            cursor.seek(&start).await?;
            cursors.push(cursor);
        }
        Ok(Self { cursors, end })
    }

    /// The next version of all inputs, and whose it is; among equals the newest table's.
    fn next(&self) -> Option<(usize, Item<'_>)> {
        let mut best: Option<(usize, Item<'_>)> = None;
        for (at, cursor) in self.cursors.iter().enumerate() {
            let Some(item) = cursor.item() else { continue };
            if best.is_none_or(|(_, best)| item.key < best.key) {
                best = Some((at, item));
            }
        }
        best.filter(|(_, item)| self.end.as_deref().is_none_or(|end| item.key < end))
    }

    async fn advance(&mut self, at: usize) -> Result<(), StorageError> {
        let cursor = &mut self.cursors[at];
        if cursor.step() {
            Ok(())
        } else {
            cursor.next_block().await
        }
    }
}

struct Output<E: Env> {
    writer: TableWriter<E>,
    collector: Collector,
    /// The inputs' range deletes.
    covering: RangeTombstones,
    gc_threshold: Timestamp,
    /// The current user key, escaped, and plain.
    escaped: Vec<u8>,
    user: Vec<u8>,
    /// The newest range delete over it at or below the threshold.
    covered: Option<Timestamp>,
}

impl<E: Env> Output<E> {
    /// Adds the version if it is kept. True when there is something to write; `None` when the key is malformed.
    fn add(&mut self, item: Item<'_>) -> Option<bool> {
        let (user_len, ts) = (key::user_len(item.key)?, key::decode_ts(item.key)?);
        let escaped = &item.key[..user_len];
        // No escaped key is empty, so the first one is new.
        if *escaped != *self.escaped {
            self.escaped.clear();
            self.escaped.extend_from_slice(escaped);
            self.user.clear();
            key::decode_user(&mut self.user, escaped)?;
            self.collector.next_key();
            self.covered = self.covering.covering(&self.user, self.gc_threshold);
        }
        if !self.collector.keeps(ts, item.deleted, self.covered) {
            return Some(false);
        }
        Some(self.writer.add(&self.user, ts, item.deleted, item.value))
    }
}
