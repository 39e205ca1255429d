//! Versions: which tables make up a tablet at one moment.
//!
//! A version never changes. Reads take a handle and keep it as long as they need; a flush or a merge installs the next one.
//! A table's file is removed when no version refers to it any more.

use crate::Shared;
use crate::manifest::edit::Description;
use crate::sstable::reader::{Family, Table};
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
    /// The tables of the other family, when this is the family of versions and there are any: of them no version is too old to read.
    pub(crate) intents: Option<Rc<Self>>,
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
        let tables = |family| {
            let metas = description
                .tables
                .iter()
                .filter(move |meta| meta.family == family);
            metas.map(|meta| find(meta.number)).collect::<Vec<_>>()
        };
        let of = |tables, gc_threshold, intents| Self {
            number: shared.number_version(),
            span: description.span.clone(),
            gc_threshold,
            tables,
            intents,
        };
        let intents = tables(Family::Intents);
        let intents = (!intents.is_empty()).then(|| Rc::new(of(intents, Timestamp::ZERO, None)));
        of(tables(Family::Versions), description.gc_threshold, intents)
    }

    /// A family without tables, beside `version`.
    pub(crate) fn empty(version: &Self) -> Self {
        Self {
            number: version.number,
            span: version.span.clone(),
            gc_threshold: Timestamp::ZERO,
            tables: Vec::new(),
            intents: None,
        }
    }

    /// The tables of both families.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Rc<Table<E>>> {
        let intents = self.intents.iter().flat_map(|intents| &intents.tables);
        self.tables.iter().chain(intents)
    }
}
