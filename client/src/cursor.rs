//! Where a scan stands: what to ask for next, and whether an answer fits. Pure.
//!
//! A scan is a sequence of streams, one per range and per connection. The cursor survives both: it knows what was delivered,
//! pins the timestamp of the first page, and resumes from there.
//!
//! ```text
//!   span   [a ........................ z)
//!   range    [a ....... m)[m ........ z)
//!   stream   page page done  page  ✂ lost
//!                                  └── the next stream starts after the last row delivered
//! ```

use crate::Error;
use crate::span::successor;
use base::Timestamp;
use base::api::ReadAt;
use base::key::Span;
use wire::reply::ArchivedScanPage;
use wire::request;

/// One key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// When it was written.
    pub ts: Timestamp,
}

/// Several rows in one buffer: for exports and other large scans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    heads: Vec<Head>,
    data: Vec<u8>,
    pub(crate) resume: Option<Vec<u8>>,
    pub(crate) read_ts: Timestamp,
    pub(crate) done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    start: usize,
    key_bytes: usize,
    value_bytes: usize,
    ts: Timestamp,
}

impl Page {
    pub(crate) fn from_wire(page: &ArchivedScanPage<'static>) -> Self {
        let mut heads = Vec::with_capacity(page.rows.len());
        let mut start = 0;
        for row in page {
            heads.push(Head {
                start,
                key_bytes: row.key.len(),
                value_bytes: row.value.len(),
                ts: row.ts,
            });
            start += row.key.len() + row.value.len();
        }
        Self {
            heads,
            data: page.data.to_vec(),
            resume: page.resume().map(<[u8]>::to_vec),
            read_ts: page.read_ts.timestamp(),
            done: page.done,
        }
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The row at `index`, in scan order: key, value and timestamp.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(&[u8], &[u8], Timestamp)> {
        let head = self.heads.get(index)?;
        let value = head.start + head.key_bytes;
        Some((
            &self.data[head.start..value],
            &self.data[value..value + head.value_bytes],
            head.ts,
        ))
    }

    /// The rows, in scan order: keys, values and timestamps.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Timestamp)> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    fn truncate(&mut self, rows: usize) {
        self.heads.truncate(rows);
    }
}

/// A scan's progress.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    /// What is not yet delivered.
    span: Span,
    pub(crate) reverse: bool,
    /// The moment is named by its age; the first page says which it is.
    pub(crate) is_stale: bool,
    at: ReadAt,
    rows_left: Option<u64>,
    page_rows: u32,
    page_bytes: u32,
    finished: bool,
}

impl Cursor {
    pub(crate) fn new(span: Span, reverse: bool, at: ReadAt, rows_max: Option<u64>) -> Self {
        let finished = span.is_empty() || rows_max == Some(0);
        Self {
            span,
            reverse,
            is_stale: at.is_stale(),
            at,
            rows_left: rows_max,
            page_rows: 4096,
            page_bytes: 256 << 10,
            finished,
        }
    }

    pub(crate) fn set_page_rows(&mut self, rows: u32) {
        let max = u32::try_from(base::limits::SCAN_ROWS_MAX).expect("the limit fits 32 bits");
        self.page_rows = rows.clamp(1, max);
    }

    /// Whether everything was delivered.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The timestamp that the scan reads at, once known.
    pub(crate) fn read_ts(&self) -> Option<Timestamp> {
        match self.at {
            ReadAt::At(read_ts) => Some(read_ts),
            ReadAt::Newest | ReadAt::Ago(_) | ReadAt::Within(_) => None,
        }
    }

    /// What the next stream reads at.
    pub(crate) fn at(&self) -> ReadAt {
        self.at
    }

    /// As [`crate::request::Request::read_at`].
    pub(crate) fn read_at(&mut self, now: Timestamp) {
        if self.at == ReadAt::Newest {
            self.at = ReadAt::At(now);
        }
    }

    /// What is not yet delivered.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The request for the rest.
    pub(crate) fn request(&self, credit_pages: u32, deadline_ms: u32) -> request::Scan<'_> {
        request::Scan {
            start: &self.span.start,
            end: self.span.end.as_deref(),
            reverse: self.reverse,
            at: self.at.into(),
            rows_max: self.rows_left,
            page_rows: self.page_rows,
            page_bytes: self.page_bytes,
            credit_pages,
            deadline_ms,
        }
    }

    /// Takes in a page of the running stream: checks that it continues where the last one ended, and steps over it. After a
    /// page that is `done`, the next stream starts, unless the scan is finished.
    pub(crate) fn on_page(&mut self, page: &mut Page) -> Result<(), Error> {
        if self.read_ts().is_some_and(|read_ts| read_ts != page.read_ts) {
            return Err(broken("a scan changed its timestamp"));
        }
        self.at = ReadAt::At(page.read_ts);
        let mut last: Option<&[u8]> = None;
        for (key, _, _) in page.iter() {
            let in_order = last.is_none_or(|last| if self.reverse { key < last } else { last < key });
            if !in_order || !self.span.contains(key) {
                return Err(broken(
                    "a scan's row is outside the span asked for, or out of order",
                ));
            }
            last = Some(key);
        }
        if let Some(last) = last {
            if self.reverse {
                self.span.end = Some(last.into());
            } else {
                self.span.start = successor(last).into();
            }
        }
        if let Some(left) = &mut self.rows_left {
            let rows = usize::try_from(*left).unwrap_or(usize::MAX).min(page.len());
            page.truncate(rows);
            *left -= rows as u64;
        }
        match &page.resume {
            Some(resume) => self.resume_at(resume)?,
            None if page.done => self.finished = true,
            None => {
                return Err(broken(
                    "a page in the middle of a scan does not say where to go on",
                ));
            }
        }
        self.finished |= self.span.is_empty() || self.rows_left == Some(0);
        Ok(())
    }

    /// Moves to where the server says that the rest begins: never backwards.
    fn resume_at(&mut self, resume: &[u8]) -> Result<(), Error> {
        if self.reverse {
            if self.span.end.as_deref().is_some_and(|end| end < resume) {
                return Err(broken("a scan went back"));
            }
            self.span.end = Some(resume.into());
        } else {
            if *resume < *self.span.start {
                return Err(broken("a scan went back"));
            }
            self.span.start = resume.into();
        }
        Ok(())
    }
}

fn broken(what: &str) -> Error {
    Error::Protocol {
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests;
