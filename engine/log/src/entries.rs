//! Reads entries back from segments that are still written, dropped and reused meanwhile.
//!
//! ```text
//!   index: a piece ─► read and check its next batch ─► ask the index again ─► judge and show
//!                            (waits)                     (from here on without waiting)
//! ```
//!
//! Invariant: what is judged or shown was read from the segment that the index names. A slot is written anew only after its
//! segment has left the coverage, and in that turn it leaves the index. So when the index still has the piece after a read, all
//! of it was read from that segment, and what does not fit is damage; when it has not, the bytes may be of a later segment and
//! the file may be gone: whatever came of the read is put aside, and the entries are not there any more.

use crate::error::{Corruption, LogError};
use crate::index::Stretch;
use crate::prepare::open_slot;
use crate::reader::{Batch, Cursor, Expected, slot_path};
use crate::record::HEADER_BYTES;
use crate::replay::{Found, damaged_records, take_records};
use crate::shell::Shell;
use crate::state::{FileOf, State};
use crate::{Record, batch::Flaw};
use base::collections::FastMap;
use base::limits::BLOCK_BYTES;
use base::{Index, RangeId};
use core::ops::RangeInclusive;
use env::{Env, Tasks};
use std::rc::Rc;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Where a piece is read from.
struct Source<E: Env> {
    slot: u32,
    incarnation: u64,
    log_id: u64,
    /// Open, unless the segment is older than this opening of the log and was not read before.
    file: Option<Rc<FileOf<E>>>,
}

/// A read under way.
struct Reading<'v> {
    range: RangeId,
    /// The entry to show next.
    next: Index,
    last: Index,
    /// What may still be shown; the first entry may be larger.
    bytes_left: usize,
    is_fresh: bool,
    visit: &'v mut dyn FnMut(Record<'_>),
}

impl Reading<'_> {
    /// Shows what is wanted of a batch, up to `last`. False when nothing more fits.
    fn show(&mut self, entries: &[(Index, Record<'_>)], last: Index) -> bool {
        for (index, record) in entries {
            if *index < self.next || *index > last {
                continue;
            }
            assert_eq!(*index, self.next, "the entries of {} are consecutive", self.range);
            let payload = match record {
                Record::Entry { payload, .. } => payload.len(),
                Record::HardState { .. } | Record::Truncate { .. } | Record::Forget { .. } => 0,
            };
            let bytes = HEADER_BYTES + payload;
            if bytes > self.bytes_left && !self.is_fresh {
                return false;
            }
            self.is_fresh = false;
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            (self.visit)(*record);
            self.next = index.next();
        }
        self.next <= self.last
    }
}

impl<E: Env> State<E> {
    /// Where entry `index` of `range` is found, and the last entry there that counts now.
    fn stretch(&self, range: RangeId, index: Index) -> Result<Option<Stretch>, LogError> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let Some(stretch) = self.index.find(range, index) else {
            return Ok(None);
        };
        let last = stretch.last.min(self.overtaking.kept(range));
        let is_there = index <= last && stretch.place.seqno <= self.writer.persisted();
        Ok(is_there.then_some(Stretch { last, ..stretch }))
    }

    /// The segment of a piece that the index has.
    fn source(&self, stretch: &Stretch) -> Source<E> {
        let live = self
            .coverage
            .segment(stretch.place.segment)
            .expect("the index has no segment that the coverage has not");
        Source {
            slot: live.slot,
            incarnation: live.incarnation,
            log_id: self.writer.log_id(),
            file: self.files.get(&live.slot).cloned(),
        }
    }
}

impl<E: Env> Shell<E> {
    /// What [`crate::Log::read_entries`] does.
    pub(crate) async fn read_entries(
        &self,
        range: RangeId,
        wanted: RangeInclusive<Index>,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<Index, LogError> {
        let (next, last) = wanted.into_inner();
        let mut reading = Reading {
            range,
            next,
            last,
            bytes_left: bytes_max,
            is_fresh: true,
            visit,
        };
        while reading.next <= last {
            let stretch = self.state.borrow().stretch(range, reading.next)?;
            let Some(stretch) = stretch else { break };
            if !self.read_stretch(&stretch, &mut reading).await? {
                break;
            }
        }
        Ok(reading.next)
    }

    /// Shows what is wanted of a piece. False when that is the end.
    async fn read_stretch(&self, stretch: &Stretch, reading: &mut Reading<'_>) -> Result<bool, LogError> {
        let source = self.state.borrow().source(stretch);
        let Some(file) = self.file_of(&source, stretch, reading).await? else {
            return Ok(false);
        };
        let place = stretch.place;
        let mut offset = u64::from(place.block) * BLOCK;
        let end = offset + u64::from(place.blocks) * BLOCK;
        let mut cursor = Cursor::new(&file, end);
        let mut expected = Expected {
            log_id: source.log_id,
            segment: place.segment,
            incarnation: source.incarnation,
            seqno: place.seqno,
            previous: None,
        };
        let mut chains = FastMap::default();
        loop {
            assert!(
                offset < end,
                "entry {} of {} is in one of the batches up to {end} from {place:?}",
                reading.next,
                reading.range
            );
            if expected.seqno > self.state.borrow().writer.persisted() {
                return Ok(false);
            }
            let read = cursor.batch(offset, &expected).await;
            let Some(last) = self.still(stretch, reading)? else {
                return Ok(false);
            };
            let damaged = |flaw: Flaw| Corruption {
                file: slot_path(&self.dir, source.slot),
                offset,
                expected: format!("batch {} of segment {}", expected.seqno, expected.segment),
                found: flaw.to_string(),
            };
            let batch = read?.map_err(damaged)?;
            let entries = survivors(&batch, offset, reading.range, &mut chains).map_err(|flaw| {
                damaged_records(slot_path(&self.dir, source.slot), offset, expected.seqno, flaw)
            })?;
            if !reading.show(&entries, last.min(reading.last)) {
                return Ok(false);
            }
            // The piece may have been cut or extended since.
            if reading.next > last.min(stretch.last) {
                return Ok(true);
            }
            offset += batch.header.padded_bytes();
            (expected.seqno, expected.previous) = (expected.seqno.next(), Some(batch.checksum));
            if self.env.tasks().need_yield() {
                self.env.tasks().yield_now().await;
            }
        }
    }

    /// The last entry of the piece that counts now; `None` when the next entry is not there any more.
    fn still(&self, stretch: &Stretch, reading: &Reading<'_>) -> Result<Option<Index>, LogError> {
        let now = self.state.borrow().stretch(reading.range, reading.next)?;
        base::sometimes!("log: entries went while they were read", now.is_none());
        Ok(now.filter(|now| now.is_same_place(stretch)).map(|now| now.last))
    }

    /// The file of a piece, kept open from then on: a segment that was read once is read again. `None` when the entries are
    /// not there any more.
    async fn file_of(
        &self,
        source: &Source<E>,
        stretch: &Stretch,
        reading: &Reading<'_>,
    ) -> Result<Option<Rc<FileOf<E>>>, LogError> {
        if let Some(file) = &source.file {
            return Ok(Some(Rc::clone(file)));
        }
        // For writing, as all files of the log are kept: the next segment in this slot takes it over.
        let opened = open_slot(&self.env, &self.dir, source.slot).await;
        if self.still(stretch, reading)?.is_none() {
            return Ok(None);
        }
        let file = Rc::new(opened?);
        let files = &mut self.state.borrow_mut().files;
        Ok(Some(Rc::clone(files.entry(source.slot).or_insert(file))))
    }
}

/// The entries of `range` that a batch leaves, checked as at recovery.
fn survivors<'b>(
    batch: &'b Batch<'_>,
    offset: u64,
    range: RangeId,
    chains: &mut FastMap<RangeId, u32>,
) -> Result<Vec<(Index, Record<'b>)>, Flaw> {
    let mut entries: Vec<(Index, Record<'b>)> = Vec::new();
    let keep = |entries: &mut Vec<(Index, Record<'b>)>, up_to: Option<Index>| {
        while entries
            .last()
            .is_some_and(|(index, _)| up_to.is_none_or(|up_to| *index > up_to))
        {
            entries.pop();
        }
    };
    take_records(batch, offset, chains, &mut |found| match found {
        Found::Record { record, .. } if record.range() == range => match record {
            Record::Entry { index, .. } => {
                keep(&mut entries, index.prev());
                entries.push((index, record));
            }
            Record::Truncate { after, .. } => keep(&mut entries, Some(after)),
            Record::Forget { .. } => entries.clear(),
            Record::HardState { .. } => {}
        },
        Found::Segment { .. } | Found::Batch { .. } | Found::Record { .. } => {}
    })?;
    Ok(entries)
}
