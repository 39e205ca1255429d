//! Where the entries of each range stand, sparsely. Pure.
//!
//! The entries of a range that count form one run of consecutive indexes. The run is cut into pieces, each a stretch of one
//! segment from one batch to another; batches of other ranges may lie between. A reader walks a piece from its first batch.
//!
//! ```text
//!   segment 7                                   segment 8
//!   ┌──────┬──────┬──────┬──────┬──────┐        ┌──────┬──────┬──────┐      run of r1: 4 ..= 9
//!   │ r1 4 │ r2 1 │ r1 5 │ r1 7 │ r1 6 │        │ r2 2 │ r1 8 │ r1 9 │
//!   │      │      │ r1 6 │      │ r1 7 │        │      │      │      │
//!   └──────┴──────┴──────┴──────┴──────┘        └──────┴──────┴──────┘
//!   piece from 4 ───────┘        └── from 6            └ from 8 ────┘
//! ```
//!
//! Cost: a piece is 32 bytes, and 8 more in the list of its segment; vectors may have as much again to spare. A range begins at
//! most one piece in 64 KiB of a segment, and one more for each record that overtakes others (an entry that is not the next, a
//! truncation). So a range that is written to all the time costs 640 bytes for 1 MiB of log, and no record, itself of 48 bytes
//! at least, costs more than 40. A range with entries in live segments costs about 200 bytes besides, one without costs
//! nothing. A run of entries in a batch is one look-up, and the pieces that it cuts, each of which is cut once.
//!
//! Invariants:
//! - A piece shows each index between its first and the next piece's once: what overtakes entries begins a piece of its own, and
//!   nothing is added to a piece that was cut. Within one batch the reader decides, see `entries.rs`.
//! - A segment's pieces go when the segment leaves the coverage, in the same turn.

use crate::batch::BatchHeader;
use crate::coverage::Note;
use base::collections::{FastMap, hash_map};
use base::limits::BLOCK_BYTES;
use base::{Index, RangeId, Seqno};
use std::collections::VecDeque;

/// A piece takes in batches that begin less than so many blocks behind its first one: 64 KiB.
const SPAN_BLOCKS: u32 = 16;
const _: () = assert!(SPAN_BLOCKS as usize * BLOCK_BYTES == 64 << 10);

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) seqno: Seqno,
    /// Where in the segment, in units of 4 KiB.
    pub(crate) block: u32,
    /// How long it is, in the same units.
    pub(crate) blocks: u32,
}

impl From<&BatchHeader> for Place {
    fn from(header: &BatchHeader) -> Self {
        let blocks = header.padded_bytes() / BLOCK_BYTES as u64;
        Self {
            segment: header.segment,
            seqno: header.seqno,
            block: header.block,
            blocks: u32::try_from(blocks).expect("a length of 32 bits is fewer blocks"),
        }
    }
}

/// Entries from `first` on, in whole batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    first: Index,
    /// From its first batch to the end of its last one.
    place: Place,
}

const _: () = assert!(size_of::<Piece>() == 32);

/// Where an entry is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The first batch to read, and how far to read on.
    pub(crate) place: Place,
    /// The last entry that is found there.
    pub(crate) last: Index,
}

impl Stretch {
    /// Whether `other` begins with the same batch. It may have been cut or extended.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        (self.place.segment, self.place.seqno) == (other.place.segment, other.place.seqno)
    }
}

/// The entries of one range. Never empty.
#[derive(Debug, Default)]
struct Run {
    pieces: VecDeque<Piece>,
    /// The last entry.
    end: Index,
    /// The last piece may take in more.
    is_open: bool,
}

impl Run {
    /// Entries from `first` on do not count any more.
    fn cut(&mut self, first: Index) {
        while self.pieces.back().is_some_and(|piece| piece.first >= first) {
            self.pieces.pop_back();
        }
        self.end = first.prev().unwrap_or(Index::ZERO);
        self.is_open = false;
    }

    /// Adds consecutive entries. True when a piece was begun in a segment where the range had none.
    fn add(&mut self, place: &Place, first: Index, last: Index) -> bool {
        let overtakes = first <= self.end && !base::planted_bug!("log-reads-overtaken-entries");
        if overtakes {
            self.cut(first);
        } else if first.prev() != Some(self.end) && first > self.end {
            // After a gap (a state was installed) what came before belongs to another history.
            self.pieces.clear();
        }
        let back = self.pieces.back_mut();
        let in_segment = back
            .as_ref()
            .is_some_and(|piece| piece.place.segment == place.segment);
        match back {
            Some(piece) if in_segment && self.is_open && place.block - piece.place.block < SPAN_BLOCKS => {
                piece.place.blocks = place.block + place.blocks - piece.place.block;
            }
            Some(_) | None => self.pieces.push_back(Piece { first, place: *place }),
        }
        self.end = last;
        self.is_open = true;
        !in_segment
    }

    fn find(&self, index: Index) -> Option<Stretch> {
        let after = self.pieces.partition_point(|piece| piece.first <= index);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let last = match self.pieces.get(after) {
            Some(next) => next.first.prev()?,
            None => self.end,
        };
        (index <= last).then_some(Stretch {
            place: piece.place,
            last,
        })
    }
}

/// The entries of all ranges.
#[derive(Debug, Default)]
pub(crate) struct EntryIndex {
    runs: FastMap<RangeId, Run>,
    /// Per segment the ranges that have, or had, pieces in it; oldest first.
    segments: VecDeque<(u64, Vec<RangeId>)>,
}

impl EntryIndex {
    /// A batch has its place, behind all others.
    pub(crate) fn place(&mut self, place: &Place, notes: &[Note]) {
        for note in notes {
            match *note {
                Note::Entries { range, first, last } => self.add(place, range, first, last),
                Note::HardState(_) => {}
                Note::Truncate(range, after) => self.truncate(range, after),
                Note::Forget(range) => drop(self.runs.remove(&range)),
            }
        }
    }

    fn add(&mut self, place: &Place, range: RangeId, first: Index, last: Index) {
        if !self.runs.entry(range).or_default().add(place, first, last) {
            return;
        }
        match self.segments.back_mut() {
            Some((segment, ranges)) if *segment == place.segment => ranges.push(range),
            Some(_) | None => self.segments.push_back((place.segment, vec![range])),
        }
    }

    fn truncate(&mut self, range: RangeId, after: Index) {
        let hash_map::Entry::Occupied(mut run) = self.runs.entry(range) else {
            return;
        };
        if after < run.get().end {
            run.get_mut().cut(after.next());
            if run.get().pieces.is_empty() {
                run.remove();
            }
        }
    }

    /// The segments before `first_live` are not part of the log any more.
    pub(crate) fn drop_before(&mut self, first_live: u64) {
        while let Some((_, ranges)) = self.segments.pop_front_if(|(segment, _)| *segment < first_live) {
            for range in ranges {
                let hash_map::Entry::Occupied(mut run) = self.runs.entry(range) else {
                    continue;
                };
                let pieces = &mut run.get_mut().pieces;
                while pieces
                    .front()
                    .is_some_and(|piece| piece.place.segment < first_live)
                {
                    pieces.pop_front();
                }
                if pieces.is_empty() {
                    run.remove();
                }
            }
        }
    }

    /// The last entry of `range`.
    pub(crate) fn last(&self, range: RangeId) -> Option<Index> {
        self.runs.get(&range).map(|run| run.end)
    }

    /// Where entry `index` of `range` is found.
    pub(crate) fn find(&self, range: RangeId, index: Index) -> Option<Stretch> {
        self.runs.get(&range)?.find(index)
    }
}

#[cfg(test)]
mod tests;
