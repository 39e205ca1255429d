//! Scans: one page at a time, merged from all sources.

use super::source::{Source, View};
use crate::memtable::Limit;
use crate::mvcc::tombstone::RangeTombstones;
use crate::shared::MemtableCell;
use crate::version::Version;
use crate::{Shared, StorageError};
use base::Timestamp;
use base::key::Span;
use env::{Env, Tasks};
use std::collections::BTreeSet;
use std::rc::Rc;

/// One page of a scan.
#[derive(Debug, Clone)]
pub struct ScanPage {
    /// The keys asked for; what lies outside the tablet's span is not there.
    pub span: Span,
    /// The moment whose state is read.
    pub read_ts: Timestamp,
    /// From the last key to the first.
    pub reverse: bool,
    /// At most this many rows; at least one.
    pub rows_max: usize,
    /// The page ends with the row that reaches this many bytes of keys and values.
    pub bytes_max: usize,
}

/// The rows of one page: keys and values back to back in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    data: Vec<u8>,
    rows: Vec<RowEnds>,
    /// Where the next page begins: forwards its first key, in reverse the key that it must stay below. `None` at the end.
    pub resume: Option<Vec<u8>>,
}

/// Where a row's key and value end; they begin where the row before ends.
#[derive(Debug, Clone, Copy)]
struct RowEnds {
    ts: Timestamp,
    key: u32,
    value: u32,
}

/// Offsets in a page have 32 bits.
const PAGE_BYTES_MAX: usize = 1 << 30;

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
        let starts = core::iter::once(0).chain(self.rows.iter().map(|row| row.value as usize));
        starts.zip(&self.rows).map(|(start, row)| {
            let (key_end, end) = (row.key as usize, row.value as usize);
            (&self.data[start..key_end], &self.data[key_end..end], row.ts)
        })
    }

    fn end(&self) -> u32 {
        u32::try_from(self.data.len()).expect("a page and a row are below 4 GiB")
    }
}

/// All that a scan reads, as of one moment.
pub(crate) struct Snapshot<E: Env> {
    /// Newest first.
    pub(crate) memtables: Vec<(Rc<MemtableCell>, Limit)>,
    pub(crate) version: Rc<Version<E>>,
}

impl<E: Env> Snapshot<E> {
    /// The range deletes of the memtables, inside `span`: copied now, since the active memtable goes on growing.
    fn tombstones(&self, span: &Span) -> RangeTombstones {
        let mut all = RangeTombstones::default();
        for (cell, _) in &self.memtables {
            let memtable = cell.memtable.borrow();
            all.merge_clipped(memtable.tombstones(), &span.start, span.end.as_deref());
        }
        all
    }
}

/// Reads one page; `span` is what the page and the tablet have in common.
pub(crate) async fn scan_page<E: Env>(
    shared: &Shared<E>,
    snapshot: Snapshot<E>,
    span: Span,
    page: &ScanPage,
) -> Result<Rows, StorageError> {
    let tombstones = snapshot.tombstones(&span);
    let view = View {
        span,
        read_ts: page.read_ts,
        reverse: page.reverse,
    };
    let Snapshot { memtables, version } = snapshot;
    let mut merge = Merge {
        sources: Vec::new(),
        tombstones,
        version,
        view,
    };
    merge.sources.extend(
        memtables
            .into_iter()
            .map(|(cell, limit)| Source::memtable(cell, limit)),
    );
    for table in &merge.version.tables {
        if table.overlaps(&merge.view.span) {
            merge
                .sources
                .push(Source::table(table.clone(), &merge.view).await?);
        }
    }
    for source in &mut merge.sources {
        source.advance(&merge.view).await?;
    }
    merge.run(shared, page).await
}

/// The first keys of `span` in the tables of a version, those of deletes included: at most `max`, and where to go on.
pub(crate) async fn table_keys<E: Env>(
    version: Rc<Version<E>>,
    span: Span,
    max: usize,
) -> Result<(BTreeSet<Vec<u8>>, Option<Vec<u8>>), StorageError> {
    let view = View {
        span,
        read_ts: Timestamp::MAX,
        reverse: false,
    };
    let mut merge = Merge {
        sources: Vec::new(),
        tombstones: RangeTombstones::default(),
        version,
        view,
    };
    for table in &merge.version.tables {
        if table.overlaps(&merge.view.span) {
            let mut source = Source::table(table.clone(), &merge.view).await?;
            source.advance(&merge.view).await?;
            merge.sources.push(source);
        }
    }
    let mut keys = BTreeSet::new();
    while let Some(best) = merge.next() {
        let Some(row) = merge.sources[best].row() else {
            break;
        };
        let key = row.key.clone();
        if keys.len() >= max {
            return Ok((keys, Some(key)));
        }
        for source in &mut merge.sources {
            if source.row().is_some_and(|row| row.key == key) {
                source.advance(&merge.view).await?;
            }
        }
        keys.insert(key);
    }
    Ok((keys, None))
}

struct Merge<E: Env> {
    /// Newest first.
    sources: Vec<Source<E>>,
    /// Of the memtables; tables have their own.
    tombstones: RangeTombstones,
    version: Rc<Version<E>>,
    view: View,
}

impl<E: Env> Merge<E> {
    /// The source with the next key, and among equals the newest.
    fn next(&self) -> Option<usize> {
        let mut best: Option<(usize, &[u8])> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some(row) = source.row() else { continue };
            let better = best.is_none_or(|(_, key)| {
                if self.view.reverse {
                    *row.key > *key
                } else {
                    *row.key < *key
                }
            });
            if better {
                best = Some((at, &row.key));
            }
        }
        best.map(|(at, _)| at)
    }

    /// Whether a range delete hides a version.
    fn hides(&self, key: &[u8], ts: Timestamp) -> bool {
        let read_ts = self.view.read_ts;
        let newer =
            |tombstones: &RangeTombstones| tombstones.covering(key, read_ts).is_some_and(|at| ts < at);
        newer(&self.tombstones) || self.version.tables.iter().any(|table| newer(table.tombstones()))
    }

    async fn run(mut self, shared: &Shared<E>, page: &ScanPage) -> Result<Rows, StorageError> {
        assert!(page.rows_max > 0, "a page without rows makes no progress");
        let bytes_max = page.bytes_max.min(PAGE_BYTES_MAX);
        let short = base::misbehave!("storage: short scan page");
        let rows_max = if short { 1 } else { page.rows_max };
        let (mut rows, mut key) = (Rows::default(), Vec::new());
        while let Some(best) = self.next() {
            let Some(row) = self.sources[best].row() else {
                break;
            };
            if rows.len() >= rows_max || (rows.bytes() >= bytes_max && !rows.is_empty()) {
                // In reverse `key` is still the last key that this page dealt with.
                rows.resume = Some(if self.view.reverse { key } else { row.key.clone() });
                return Ok(rows);
            }
            key.clone_from(&row.key);
            if !row.deleted && !self.hides(&key, row.ts) {
                let ts = row.ts;
                rows.data.extend_from_slice(&key);
                let key_end = rows.end();
                self.sources[best].copy_value(&self.view, &mut rows.data);
                rows.rows.push(RowEnds {
                    ts,
                    key: key_end,
                    value: rows.end(),
                });
            }
            for source in &mut self.sources {
                if source.row().is_some_and(|row| row.key == key) {
                    source.advance(&self.view).await?;
                }
            }
            if shared.env().tasks().need_yield() {
                base::sometimes!("storage: a scan yielded");
                shared.env().tasks().yield_now().await;
            }
        }
        Ok(rows)
    }
}
