//! How much a tablet has within its span, and where about half of it lies, by what is in memory of its tables.
//!
//! ```text
//!   table:   ├── partition ──┼── partition ──┼── … ──┤      each ends with a key that the top index names
//! ```
//! To within a partition of each table, which is 64 data blocks: for tablets of many partitions.

use crate::Tablet;
use crate::mvcc::key::{decode_user, user_len};
use crate::sstable::block::Entries;
use crate::sstable::reader::Table;
use env::Env;

/// See [`Tablet::extent`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of tables, those that other tablets share only as far as they lie in this one's span.
    pub bytes: u64,
    /// A key with about half of them on each side: greater than the first key of the span, and below its end.
    pub middle: Option<Box<[u8]>>,
}

impl<E: Env> Table<E> {
    /// The last key of each partition with its bytes, in the order of keys. What is not a version key ends the list.
    fn marks(&self) -> impl Iterator<Item = (Box<[u8]>, u64)> {
        let top = self.top();
        let mut entries = Entries::default();
        top.layout.entries(&top.data, &mut entries);
        let mut begins = 0;
        (0..entries.len()).map_while(move |at| {
            let end = self.handle(entries.value(&top.data, at)).end();
            let bytes = end.saturating_sub(begins);
            begins = end;
            let (key, mut user) = (entries.key(at), Vec::new());
            decode_user(&mut user, &key[..user_len(key)?])?;
            Some((user.into_boxed_slice(), bytes))
        })
    }
}

impl<E: Env> Tablet<E> {
    /// How much the tables have within the tablet's span. No I/O; some microseconds for each MiB of tables.
    #[must_use]
    pub fn extent(&self) -> Extent {
        let state = self.0.state.borrow();
        let (span, tables) = (&state.span, &state.version.tables);
        let mut marks = Vec::new();
        for table in tables {
            for (key, bytes) in table.marks() {
                if key < span.start {
                    continue;
                }
                let is_beyond = span.end.as_ref().is_some_and(|end| key >= *end);
                // Of the partition that the span ends in, about half is in it.
                marks.push((key, if is_beyond { bytes / 2 } else { bytes }));
                if is_beyond {
                    break;
                }
            }
        }
        marks.sort_unstable();
        let bytes = marks.iter().map(|(_, bytes)| bytes).sum();
        let mut left = 0;
        let middle = marks.into_iter().find_map(|(key, more)| {
            left += more;
            let is_inside = key > span.start && span.end.as_ref().is_none_or(|end| key < *end);
            (left * 2 >= bytes && is_inside).then_some(key)
        });
        Extent { bytes, middle }
    }
}
