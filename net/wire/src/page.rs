//! The rows of a scan's page: lengths and timestamps beside one buffer of keys and values.
//!
//! ```text
//!   rows   [ts, 3, 5] [ts, 4, 0]
//!   data   k e y v a l u e k e y 2
//! ```
#![deny(clippy::indexing_slicing)]

use crate::convert::Stamp;
use crate::reply::{ArchivedRowHead, ArchivedScanPage, RowHead, ScanPage};
use base::Timestamp;

/// One row of a page, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The timestamp of the version.
    pub ts: Timestamp,
}

/// Gathers rows for a [`ScanPage`]. Reusable: [`Self::clear`] keeps the memory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PageBuilder {
    rows: Vec<RowHead>,
    data: Vec<u8>,
}

impl PageBuilder {
    /// A builder without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a row.
    ///
    /// # Panics
    /// When key or value are longer than [`base::limits`] allow.
    pub fn push(&mut self, key: &[u8], value: &[u8], ts: Timestamp) {
        assert!(
            key.len() <= base::limits::KEY_BYTES_MAX,
            "a key of {} bytes",
            key.len()
        );
        assert!(
            value.len() <= base::limits::VALUE_BYTES_MAX,
            "a value of {} bytes",
            value.len()
        );
        self.rows.push(RowHead {
            wall_ns: ts.wall_ns,
            logical: ts.logical,
            key_bytes: u32::try_from(key.len()).expect("a key's length fits 32 bits"),
            value_bytes: u32::try_from(value.len()).expect("a value's length fits 32 bits"),
        });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        self.data.len()
    }

    /// Forgets the rows.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.data.clear();
    }

    /// The message: borrow it for [`crate::Outbox::push`].
    #[must_use]
    pub fn page<'a>(&'a self, read_ts: Timestamp, resume: Option<&'a [u8]>, done: bool) -> ScanPage<'a> {
        ScanPage {
            rows: &self.rows,
            data: &self.data,
            resume,
            read_ts: Stamp::from(read_ts),
            done,
        }
    }
}

impl ArchivedScanPage<'static> {
    /// Whether the rows' lengths add up to the data. [`crate::decode_reply`] has checked it.
    pub(crate) fn is_consistent(&self) -> bool {
        let sum = |total: u64, row: &ArchivedRowHead| {
            total + u64::from(row.key_bytes.to_native()) + u64::from(row.value_bytes.to_native())
        };
        // Fewer than 2^32 rows of less than 2^33 bytes each: the sum cannot overflow.
        self.rows.iter().fold(0, sum) == self.data.len() as u64
    }

    /// The rows, in scan order.
    pub fn iter(&self) -> Rows<'_> {
        Rows {
            heads: self.rows.iter(),
            data: &self.data,
        }
    }
}

impl<'a> IntoIterator for &'a ArchivedScanPage<'static> {
    type Item = Row<'a>;
    type IntoIter = Rows<'a>;

    fn into_iter(self) -> Rows<'a> {
        self.iter()
    }
}

/// Iterates over the rows of a page.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    heads: core::slice::Iter<'a, ArchivedRowHead>,
    data: &'a [u8],
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        let head = self.heads.next()?;
        let (key, rest) = self.data.split_at_checked(head.key_bytes.to_native() as usize)?;
        let (value, rest) = rest.split_at_checked(head.value_bytes.to_native() as usize)?;
        self.data = rest;
        let ts = Timestamp::new(head.wall_ns.to_native(), head.logical.to_native());
        Some(Row { key, value, ts })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.heads.size_hint()
    }
}
