//! One source of a scan: the rows that a memtable or a table shows at a timestamp, in the scan's direction.

use crate::StorageError;
use crate::memtable::{From, Limit, Node};
use crate::mvcc::key;
use crate::shared::MemtableCell;
use crate::sstable::reader::Table;
use crate::sstable::stream::TableCursor;
use base::Timestamp;
use base::key::Span;
use env::Env;
use std::rc::Rc;

/// Nodes taken from a memtable at a time.
const NODES: usize = 64;

/// The row that a source stands at: of one key the newest version that the read sees there, deletes included.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) ts: Timestamp,
    pub(crate) deleted: bool,
}

/// One source of a scan.
pub(crate) struct Source<E: Env> {
    row: Row,
    live: bool,
    from: Origin<E>,
}

enum Origin<E: Env> {
    Memtable(MemtableSource),
    Table(Box<TableSource<E>>),
}

/// What all sources of a scan have in common.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) span: Span,
    pub(crate) read_ts: Timestamp,
    pub(crate) reverse: bool,
}

struct MemtableSource {
    cell: Rc<MemtableCell>,
    limit: Limit,
    nodes: Vec<Node>,
    /// The node after the current row's.
    at: usize,
    /// The key to go on from when the nodes are used up; `None` at the start.
    last: Option<Vec<u8>>,
}

struct TableSource<E: Env> {
    cursor: TableCursor<E>,
    /// The span's bounds as version keys: first one inside, first one outside.
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// The current row's key, escaped.
    user: Vec<u8>,
    /// The current row's value.
    value: Vec<u8>,
}

impl<E: Env> Source<E> {
    /// A source at nothing yet: [`Self::advance`] takes it to its first row.
    pub(crate) fn memtable(cell: Rc<MemtableCell>, limit: Limit) -> Self {
        let source = MemtableSource {
            cell,
            limit,
            nodes: Vec::new(),
            at: 0,
            last: None,
        };
        Self {
            row: Row::default(),
            live: true,
            from: Origin::Memtable(source),
        }
    }

    /// A source at its place in the table, at nothing yet.
    pub(crate) async fn table(table: Rc<Table<E>>, view: &View) -> Result<Self, StorageError> {
        let bound = |user: &[u8]| {
            let mut out = Vec::new();
            key::encode(&mut out, user, Timestamp::MAX);
            out
        };
        let (start, end) = (bound(&view.span.start), view.span.end.as_deref().map(bound));
        let mut cursor = TableCursor::new(table, view.reverse, true);
        match (&end, view.reverse) {
            (_, false) => cursor.seek(&start).await?,
            (Some(end), true) => cursor.seek(end).await?,
            (None, true) => cursor.seek_end().await?,
        }
        let source = TableSource {
            cursor,
            start,
            end,
            user: Vec::new(),
            value: Vec::new(),
        };
        Ok(Self {
            row: Row::default(),
            live: true,
            from: Origin::Table(Box::new(source)),
        })
    }

    /// The current row; `None` at the end.
    pub(crate) fn row(&self) -> Option<&Row> {
        self.live.then_some(&self.row)
    }

    /// Appends the current row's value.
    pub(crate) fn copy_value(&self, view: &View, out: &mut Vec<u8>) {
        match &self.from {
            Origin::Memtable(source) => source.copy_value(view, out),
            Origin::Table(source) => out.extend_from_slice(&source.value),
        }
    }

    /// Moves to the next row.
    pub(crate) async fn advance(&mut self, view: &View) -> Result<(), StorageError> {
        self.live = match &mut self.from {
            Origin::Memtable(source) => source.advance(view, &mut self.row),
            Origin::Table(source) if view.reverse => source.retreat(view, &mut self.row).await?,
            Origin::Table(source) => source.advance(view, &mut self.row).await?,
        };
        Ok(())
    }
}

impl MemtableSource {
    fn advance(&mut self, view: &View, row: &mut Row) -> bool {
        let memtable = &mut *self.cell.memtable.borrow_mut();
        loop {
            if self.at == self.nodes.len() {
                self.at = 0;
                self.nodes.clear();
                let from = match (&self.last, view.reverse) {
                    (None, false) => From::AtOrAbove(&view.span.start),
                    (Some(last), false) => From::Above(last),
                    (None, true) => From::Below(view.span.end.as_deref()),
                    (Some(last), true) => From::Below(Some(last)),
                };
                memtable.nodes(from, NODES, &mut self.nodes);
                let Some(&last) = self.nodes.last() else {
                    return false;
                };
                self.last = Some(memtable.key(last).to_vec());
            }
            let node = self.nodes[self.at];
            self.at += 1;
            let key = memtable.key(node);
            if !view.span.contains(key) {
                return false;
            }
            if let Some(version) = memtable.node_version(node, view.read_ts, self.limit) {
                row.key.clear();
                row.key.extend_from_slice(key);
                (row.ts, row.deleted) = (version.ts, version.deleted);
                return true;
            }
        }
    }

    fn copy_value(&self, view: &View, out: &mut Vec<u8>) {
        let memtable = self.cell.memtable.borrow();
        let current = self.at.checked_sub(1).and_then(|at| self.nodes.get(at));
        let version = current.and_then(|&node| memtable.node_version(node, view.read_ts, self.limit));
        out.extend_from_slice(version.map_or(&[], |version| version.value));
    }
}

impl<E: Env> TableSource<E> {
    async fn step(&mut self) -> Result<(), StorageError> {
        if self.cursor.step() {
            Ok(())
        } else {
            self.cursor.next_block().await
        }
    }

    /// What the current version key is, as `(user length, ts)`; `None` at the end of the span or the table.
    fn place(&self) -> Result<Option<(usize, Timestamp)>, StorageError> {
        let Some(item) = self.cursor.item() else {
            return Ok(None);
        };
        if item.key < &*self.start || self.end.as_deref().is_some_and(|end| item.key >= end) {
            return Ok(None);
        }
        match (key::user_len(item.key), key::decode_ts(item.key)) {
            (Some(user_len), Some(ts)) => Ok(Some((user_len, ts))),
            (Some(_) | None, Some(_) | None) => Err(self.malformed()),
        }
    }

    fn malformed(&self) -> StorageError {
        self.cursor.malformed_key()
    }

    fn take(&mut self, user_len: usize, ts: Timestamp, row: &mut Row) -> bool {
        let Some(item) = self.cursor.item() else {
            return false;
        };
        self.user.clear();
        self.user.extend_from_slice(&item.key[..user_len]);
        self.value.clear();
        self.value.extend_from_slice(item.value);
        (row.ts, row.deleted) = (ts, item.deleted);
        true
    }

    fn is_current(&self, user_len: usize) -> bool {
        self.cursor
            .item()
            .is_some_and(|item| item.key[..user_len] == *self.user)
    }

    fn decode_key(&self, row: &mut Row) -> Result<bool, StorageError> {
        row.key.clear();
        key::decode_user(&mut row.key, &self.user)
            .map(|()| true)
            .ok_or_else(|| self.malformed())
    }

    /// Forwards the first version at or below the timestamp is the one; the key's older ones are skipped.
    async fn advance(&mut self, view: &View, row: &mut Row) -> Result<bool, StorageError> {
        while let Some((user_len, ts)) = self.place()? {
            if ts <= view.read_ts && !self.is_current(user_len) {
                self.take(user_len, ts, row);
                self.step().await?;
                return self.decode_key(row);
            }
            self.step().await?;
        }
        Ok(false)
    }

    /// In reverse the last version of the key at or below the timestamp is the one.
    async fn retreat(&mut self, view: &View, row: &mut Row) -> Result<bool, StorageError> {
        let mut found = false;
        while let Some((user_len, ts)) = self.place()? {
            if found && !self.is_current(user_len) {
                break;
            }
            if ts <= view.read_ts {
                found = self.take(user_len, ts, row);
            }
            self.step().await?;
        }
        if found { self.decode_key(row) } else { Ok(false) }
    }
}
