//! Version edits: what a flush, a merge or a split changes, and their bytes.

use crate::sstable::codec::{Decoder, put_bytes, put_optional_bytes, put_timestamp, put_varint};
use crate::sstable::reader::{Family, TableMeta};
use base::key::Span;
use base::{Index, RangeId, Timestamp};
use std::rc::Rc;

/// A tablet's durable state, apart from the tables' contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) span: Span,
    /// The last entry whose writes are in the tables.
    pub(crate) flushed_index: Index,
    /// The replica's opaque state as of `flushed_index`.
    pub(crate) app_state: Rc<[u8]>,
    /// No read below it is served.
    pub(crate) gc_threshold: Timestamp,
    pub(crate) split_from: Option<(RangeId, Index)>,
    /// One family after the other, newest first.
    pub(crate) tables: Vec<TableMeta>,
    /// The number of the next table; also above those of unfinished ones.
    pub(crate) next_table: u64,
}

/// A change of a [`Description`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VersionEdit {
    pub(crate) span: Option<Span>,
    /// Index and opaque state.
    pub(crate) flushed: Option<(Index, Rc<[u8]>)>,
    pub(crate) gc_threshold: Option<Timestamp>,
    pub(crate) split_from: Option<(RangeId, Index)>,
    /// Newest first. They take the place of the newest removed table of their family, or come in front of all of it.
    pub(crate) added: Vec<TableMeta>,
    /// Numbers of tables; each must be there.
    pub(crate) removed: Vec<u64>,
}

const TAG_SPAN: u8 = 1;
const TAG_FLUSHED: u8 = 2;
const TAG_GC_THRESHOLD: u8 = 3;
const TAG_SPLIT_FROM: u8 = 4;
const TAG_ADDED: u8 = 5;
const TAG_REMOVED: u8 = 6;
const TAG_ADDED_INTENTS: u8 = 7;

impl VersionEdit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut field = |tag, fill: &dyn Fn(&mut Vec<u8>)| {
            let mut body = Vec::new();
            fill(&mut body);
            out.push(tag);
            put_bytes(&mut out, &body);
        };
        if let Some(span) = &self.span {
            field(TAG_SPAN, &|body| {
                put_bytes(body, &span.start);
                put_optional_bytes(body, span.end.as_deref());
            });
        }
        if let Some((index, app_state)) = &self.flushed {
            field(TAG_FLUSHED, &|body| {
                put_varint(body, index.0);
                put_bytes(body, app_state);
            });
        }
        if let Some(ts) = self.gc_threshold {
            field(TAG_GC_THRESHOLD, &|body| put_timestamp(body, ts));
        }
        if let Some((range, index)) = self.split_from {
            field(TAG_SPLIT_FROM, &|body| {
                put_varint(body, range.0);
                put_varint(body, index.0);
            });
        }
        for table in &self.added {
            let tag = match table.family {
                Family::Versions => TAG_ADDED,
                Family::Intents => TAG_ADDED_INTENTS,
            };
            field(tag, &|body| {
                put_varint(body, table.number);
                body.extend_from_slice(&table.uid.to_le_bytes());
                put_varint(body, table.bytes);
            });
        }
        for &number in &self.removed {
            field(TAG_REMOVED, &|body| put_varint(body, number));
        }
        out
    }

    /// `None` when `bytes` is not exactly an edit of this version of the format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut edit = Self::default();
        let mut fields = Decoder(bytes);
        while !fields.is_empty() {
            let tag = fields.byte()?;
            let mut body = Decoder(fields.bytes()?);
            match tag {
                TAG_SPAN => edit.span = Some(Span::new(body.bytes()?, body.optional_bytes()?)),
                TAG_FLUSHED => edit.flushed = Some((Index(body.varint()?), body.bytes()?.into())),
                TAG_GC_THRESHOLD => edit.gc_threshold = Some(body.timestamp()?),
                TAG_SPLIT_FROM => edit.split_from = Some((RangeId(body.varint()?), Index(body.varint()?))),
                TAG_ADDED | TAG_ADDED_INTENTS => {
                    let (number, uid, bytes) = (body.varint()?, body.u64()?, body.varint()?);
                    edit.added.push(TableMeta {
                        number,
                        uid,
                        bytes,
                        family: match tag {
                            TAG_ADDED => Family::Versions,
                            _ => Family::Intents,
                        },
                    });
                }
                TAG_REMOVED => edit.removed.push(body.varint()?),
                _ => return None,
            }
            if !body.is_empty() {
                return None;
            }
        }
        Some(edit)
    }
}

impl Description {
    /// The state that the first edit of a manifest gives; `None` when it leaves something out.
    pub(crate) fn begin(edit: &VersionEdit) -> Option<Self> {
        let (flushed_index, app_state) = edit.flushed.clone()?;
        let mut description = Self {
            span: edit.span.clone()?,
            flushed_index,
            app_state,
            gc_threshold: Timestamp::ZERO,
            split_from: None,
            tables: Vec::new(),
            next_table: 1,
        };
        description.apply(edit).then_some(description)
    }

    /// The edit that [`Self::begin`] makes this state of.
    pub(crate) fn snapshot(&self) -> VersionEdit {
        VersionEdit {
            span: Some(self.span.clone()),
            flushed: Some((self.flushed_index, self.app_state.clone())),
            gc_threshold: Some(self.gc_threshold),
            split_from: self.split_from,
            added: self.tables.clone(),
            removed: Vec::new(),
        }
    }

    /// Applies an edit. False, and nothing changed, when it does not fit this state.
    pub(crate) fn apply(&mut self, edit: &VersionEdit) -> bool {
        let is_removed = |table: &TableMeta| edit.removed.contains(&table.number);
        let removed = self.tables.iter().filter(|table| is_removed(table)).count();
        let known = |table: &TableMeta| self.tables.iter().any(|t| t.number == table.number);
        let goes_back = edit
            .flushed
            .as_ref()
            .is_some_and(|(index, _)| *index < self.flushed_index);
        if removed != edit.removed.len() || edit.added.iter().any(known) || goes_back {
            return false;
        }
        let tables = core::mem::take(&mut self.tables);
        for family in [Family::Versions, Family::Intents] {
            let of = |table: &&TableMeta| table.family == family;
            let mut tables: Vec<TableMeta> = tables.iter().filter(of).copied().collect();
            let at = tables.iter().position(is_removed).unwrap_or(0);
            tables.retain(|table| !is_removed(table));
            tables.splice(at..at, edit.added.iter().filter(of).copied());
            self.tables.append(&mut tables);
        }
        let next = edit
            .added
            .iter()
            .map(|table| table.number.saturating_add(1))
            .max();
        self.next_table = self.next_table.max(next.unwrap_or(0));
        if let Some(span) = &edit.span {
            self.span = span.clone();
        }
        if let Some((index, app_state)) = &edit.flushed {
            (self.flushed_index, self.app_state) = (*index, app_state.clone());
        }
        self.gc_threshold = self.gc_threshold.max(edit.gc_threshold.unwrap_or_default());
        self.split_from = edit.split_from.or(self.split_from);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(number: u64) -> TableMeta {
        TableMeta {
            number,
            uid: number * 77,
            bytes: 4096 * number,
            family: Family::Versions,
        }
    }

    fn intents(number: u64) -> TableMeta {
        TableMeta {
            family: Family::Intents,
            ..table(number)
        }
    }

    fn start() -> Description {
        let edit = VersionEdit {
            span: Some(Span::new(b"a", Some(b"m"))),
            flushed: Some((Index(7), Rc::from(*b"state"))),
            split_from: Some((RangeId(3), Index(9))),
            added: vec![table(3), table(2), table(1)],
            ..VersionEdit::default()
        };
        Description::begin(&edit).expect("complete")
    }

    #[test]
    fn a_merge_takes_the_place_of_its_inputs() {
        let mut description = start();
        assert!(description.apply(&VersionEdit {
            added: vec![table(5)],
            ..VersionEdit::default()
        }));
        let merge = VersionEdit {
            added: vec![table(6)],
            removed: vec![3, 2],
            ..VersionEdit::default()
        };
        assert!(description.apply(&merge));
        assert_eq!(
            description.tables.iter().map(|t| t.number).collect::<Vec<_>>(),
            [5, 6, 1]
        );
        assert_eq!(description.next_table, 7);
    }

    #[test]
    fn families_have_an_order_each() {
        let mut description = start();
        let numbers =
            |description: &Description| description.tables.iter().map(|t| t.number).collect::<Vec<_>>();
        let flush = |added, removed| VersionEdit {
            added,
            removed,
            ..VersionEdit::default()
        };
        assert!(description.apply(&flush(vec![intents(4), table(5)], vec![])));
        assert!(description.apply(&flush(vec![intents(6), table(7)], vec![])));
        assert_eq!(numbers(&description), [7, 5, 3, 2, 1, 6, 4]);
        assert!(
            description.apply(&flush(vec![table(8)], vec![4, 6])),
            "nothing is spilled any more"
        );
        assert_eq!(numbers(&description), [8, 7, 5, 3, 2, 1]);
        assert!(description.apply(&flush(vec![intents(9)], vec![])));
        let again = VersionEdit::decode(&description.snapshot().encode()).expect("just encoded");
        assert_eq!(Description::begin(&again), Some(description));
    }

    #[test]
    fn an_edit_that_does_not_fit_changes_nothing() {
        let mut description = start();
        let flushed = Some((Index(6), Rc::from(*b"")));
        for edit in [
            VersionEdit {
                removed: vec![3, 9],
                ..VersionEdit::default()
            },
            VersionEdit {
                added: vec![table(3)],
                ..VersionEdit::default()
            },
            VersionEdit {
                flushed,
                ..VersionEdit::default()
            },
        ] {
            assert!(!description.apply(&edit), "{edit:?}");
            assert_eq!(description, start());
        }
        assert_eq!(Description::begin(&VersionEdit::default()), None);
    }

    #[test]
    fn a_snapshot_begins_the_same_state() {
        let description = start();
        let edit = VersionEdit::decode(&description.snapshot().encode()).expect("just encoded");
        assert_eq!(Description::begin(&edit), Some(description));
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(prop_oneof![0u8..9, any::<u8>()], 0..60)) {
            if let Some(edit) = VersionEdit::decode(&bytes) {
                let _ = Description::begin(&edit);
            }
        }

        #[test]
        fn edits_round_trip(
            start in any::<Vec<u8>>(), end in any::<Option<Vec<u8>>>(), index in any::<u64>(), wall in any::<u64>(),
            numbers in any::<Vec<u64>>(),
        ) {
            let edit = VersionEdit {
                span: Some(Span::new(&start, end.as_deref())),
                flushed: Some((Index(index), start.into())),
                gc_threshold: Some(Timestamp::new(wall, 3)),
                split_from: None,
                added: numbers.iter().map(|&number| {
                    let family = if number % 2 == 0 { Family::Versions } else { Family::Intents };
                    TableMeta { number, uid: !number, bytes: number, family }
                }).collect(),
                removed: numbers,
            };
            prop_assert_eq!(VersionEdit::decode(&edit.encode()), Some(edit));
        }
    }
}
