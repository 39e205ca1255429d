//! Versions: which tables make up a tablet at one moment.
//!
//! A version never changes. Reads take a handle and keep it as long as they need; a flush or a merge installs the next one.
//! A table's file is removed when no version refers to it any more.

use crate::Shared;
use crate::manifest::edit::Description;
use crate::sstable::reader::Table;
use base::Timestamp;
use base::key::Span;
use env::Env;
use std::rc::Rc;

/// The tables of a tablet at one moment.
pub(crate) struct Version<E: Env> {
    /// Unlike every other version's of the shard, past ones included: rows in the cache name it.
    pub(crate) number: u64,
    /// The span that the manifest states: wider than the tablet's between a split and its completion.
    pub(crate) span: Span,
    /// No read below it is served.
    pub(crate) gc_threshold: Timestamp,
    /// Newest first: of one key, every version in a table is newer than every version in the tables after it.
    pub(crate) tables: Vec<Rc<Table<E>>>,
}

impl<E: Env> Version<E> {
    /// The version that `description` describes, its tables found among `known` and `added`.
    ///
    /// # Panics
    /// When a table is missing there.
    pub(crate) fn new(
        shared: &Shared<E>,
        description: &Description,
        known: &[Rc<Table<E>>],
        added: &[Rc<Table<E>>],
    ) -> Self {
        let find = |number| {
            let found = known
                .iter()
                .chain(added)
                .find(|table| table.meta().number == number);
            found.expect("every table of the description is open").clone()
        };
        let tables = description.tables.iter().map(|meta| find(meta.number)).collect();
        Self {
            number: shared.number_version(),
            span: description.span.clone(),
            gc_threshold: description.gc_threshold,
            tables,
        }
    }
}
