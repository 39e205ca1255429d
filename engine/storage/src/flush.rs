//! Flushes: from frozen memtables to tables.

use crate::manifest::edit::VersionEdit;
use crate::memtable::{From, Memtable, Node};
use crate::mvcc::tombstone::RangeTombstones;
use crate::shared::MemtableCell;
use crate::sstable::reader::{Family, Table, TableMeta};
use crate::sstable::writer::TableWriter;
use crate::tablet::Frozen;
use crate::{StorageError, Tablet};
use base::{Index, RangeId, Timestamp};
use env::{Env, Tasks};
use std::rc::Rc;

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
/// Among equals the lowest range.
#[must_use]
pub fn pick_flush(candidates: &[FlushCandidate]) -> Option<RangeId> {
    let wanted = |c: &&FlushCandidate| c.pins_oldest_segment || c.memtable_bytes > 0;
    let key = |c: &&FlushCandidate| {
        (
            c.pins_oldest_segment,
            c.memtable_bytes,
            core::cmp::Reverse(c.range),
        )
    };
    candidates.iter().filter(wanted).max_by_key(key).map(|c| c.range)
}

/// Nodes of a memtable taken at a time.
const NODES: usize = 1024;

impl<E: Env> Tablet<E> {
    /// Writes the frozen memtables to tables. Durable when it returns the new flushed index. Splits that are not durable
    /// yet are completed first; on the right side of one it waits for that.
    ///
    /// Order, each step complete before the next: the tables' own (see `sstable::writer`); the manifest's edit and seal.
    ///
    /// # Errors
    /// What the disk said; the tablet then refuses further writes with [`StorageError::Poisoned`].
    ///
    /// # Cancellation
    /// Poisons the tablet when it was writing the manifest; otherwise nothing has happened.
    pub async fn flush(&self) -> Result<Index, StorageError> {
        self.0.exists.opened().await;
        self.complete_split().await?;
        let _flushing = self.0.flushing.lock().await;
        self.check_poisoned()?;
        let result = self.flush_locked().await;
        self.poison_on_error(result)?;
        self.0.shared.remove_obsolete().await;
        Ok(self.flushed_index())
    }

    async fn flush_locked(&self) -> Result<(), StorageError> {
        let frozen: Vec<Rc<Frozen>> = {
            let state = self.0.state.borrow();
            // A split that was applied since `complete_split` keeps its memtables for itself.
            let before_split = state.splits.front().map(|split| split.split.index);
            let ours = |frozen: &&Rc<Frozen>| before_split.is_none_or(|split| frozen.index < split);
            state.frozen.iter().take_while(ours).cloned().collect()
        };
        let Some(last) = frozen.last() else { return Ok(()) };
        // Where nothing is spilled any more, what was is not written, and what is in tables goes as a whole; unless somebody merges
        // tables just now, and then the deletes are written as ever.
        let is_over = |frozen: &Rc<Frozen>| {
            !frozen.has_spilled || base::planted_bug!("storage-spilled-intents-go-early")
        };
        let over = frozen.iter().rposition(is_over);
        let merging = over.and_then(|_| self.0.merging.try_lock());
        let spilled = self.0.state.borrow().version.intents.clone();
        let over = over.filter(|_| spilled.is_none() || merging.is_some());
        let opened = self.write_frozen(&frozen, over).await?;
        let spilled = spilled.filter(|_| over.is_some());
        base::sometimes!(
            "storage: spilled intents went with their tables",
            spilled.is_some()
        );
        let spilled = spilled.iter().flat_map(|spilled| &spilled.tables);
        let edit = VersionEdit {
            flushed: Some((last.index, last.app_state.clone())),
            added: opened.iter().map(|table| table.meta()).collect(),
            removed: spilled.map(|table| table.meta().number).collect(),
            ..VersionEdit::default()
        };
        let count = frozen.len();
        self.commit(&edit, &opened, |state| {
            state.frozen.drain(..count);
            (state.flushed_index, state.app_state) = (last.index, last.app_state.clone());
            state.flushes += 1;
        })
        .await
    }

    /// Writes each memtable to a table of its own, oldest first; the tables, newest first. Up to the one at `over` nothing that is
    /// spilled there counts any more.
    pub(crate) async fn write_frozen(
        &self,
        frozen: &[Rc<Frozen>],
        over: Option<usize>,
    ) -> Result<Vec<Rc<Table<E>>>, StorageError> {
        let mut opened = Vec::new();
        for (at, frozen) in frozen.iter().enumerate() {
            let spilled = frozen
                .spilled
                .as_ref()
                .filter(|_| over.is_none_or(|over| over < at));
            let versions = core::iter::once((Family::Versions, &frozen.cell));
            for (family, cell) in versions.chain(spilled.map(|cell| (Family::Intents, cell))) {
                if let Some(meta) = self.write_memtable(family, cell).await? {
                    opened.push(self.open_table(meta).await?);
                }
            }
        }
        opened.reverse();
        Ok(opened)
    }

    async fn write_memtable(
        &self,
        family: Family,
        cell: &MemtableCell,
    ) -> Result<Option<TableMeta>, StorageError> {
        if cell.memtable.borrow().is_empty() {
            return Ok(None);
        }
        let mut writer =
            TableWriter::create(&self.0.shared, &self.0.dir, (family, self.next_table())).await?;
        let tasks = self.0.shared.env().tasks();
        let (mut nodes, mut last): (Vec<Node>, Option<Vec<u8>>) = (Vec::new(), None);
        loop {
            {
                let memtable = &mut *cell.memtable.borrow_mut();
                nodes.clear();
                memtable.nodes(
                    last.as_deref().map_or(From::AtOrAbove(&[]), From::Above),
                    NODES,
                    &mut nodes,
                );
                let Some(&node) = nodes.last() else { break };
                last = Some(memtable.key(node).to_vec());
            }
            for &node in &nodes {
                if add_node(&mut writer, &cell.memtable.borrow(), node) {
                    writer.drain().await?;
                }
                if tasks.need_yield() {
                    tasks.yield_now().await;
                }
            }
        }
        let tombstones: RangeTombstones = cell.memtable.borrow().tombstones().clone();
        writer.finish(&tombstones).await.map(Some)
    }
}

/// Adds every version of a node's key; true when there is something to write.
fn add_node<E: Env>(writer: &mut TableWriter<E>, memtable: &Memtable, node: Node) -> bool {
    let key = memtable.key(node);
    let mut full = false;
    let mut newer = Timestamp::MAX;
    for version in memtable.node_versions(node) {
        assert!(
            version.ts < newer,
            "version at {} does not precede {newer}",
            version.ts
        );
        newer = version.ts;
        full = writer.add(key, version.ts, version.deleted, version.value);
    }
    full
}
