//! Which segments are still needed, and by whom. Pure.
//!
//! A segment is needed while it has an entry that is not covered by a flush, or the newest hard state of a range; and wanted while it
//! has one that is held for somebody who lacks it. Only the oldest segment is ever dropped, and never the one being written.
//!
//! ```text
//!   front                              active
//!   ┌─────────┐  ┌─────────┐  ┌─────────┐
//!   │ r1 ≤ 40 │  │ r1 ≤ 55 │  │ r2 ≤ 91 │    cover(r1, 40) leaves only a hard state of r2 in the front segment:
//!   │ hard r2 │  │ r2 ≤ 90 │  │         │    it is written again, and when that is durable the segment is dropped
//!   └─────────┘  └─────────┘  └─────────┘
//! ```

use crate::Record;
use crate::record::HEADER_BYTES as HARD_STATE_BYTES;
use base::collections::FastMap;
use base::limits::BLOCK_BYTES;
use base::{Index, RangeId, ReplicaId, Seqno, Term};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a batch means for coverage, noted when its records are staged and taken in when it gets its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// Consecutive entries of the range.
    Entries {
        range: RangeId,
        first: Index,
        last: Index,
    },
    /// The range's newest hard state.
    HardState(RangeId),
    /// Entries of the range beyond the index are void.
    Truncate(RangeId, Index),
    /// Everything of the range is void.
    Forget(RangeId),
}

/// A range's hard state as last staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) commit: Index,
}

/// A segment that holds part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) number: u64,
    pub(crate) slot: u32,
    /// Its file's length.
    pub(crate) bytes: u64,
    /// Bytes of its batches.
    pub(crate) used: u64,
    /// The first batch in it.
    pub(crate) first: Seqno,
    /// Which opening of the log wrote it.
    pub(crate) incarnation: u64,
    /// Per range the greatest entry that is not covered.
    ends: BTreeMap<RangeId, Index>,
    /// Per range the greatest entry.
    lasts: BTreeMap<RangeId, Index>,
    /// Ranges whose newest hard state is here.
    hard_states: BTreeSet<RangeId>,
    /// What freed it must be durable before it may go.
    released_by: Seqno,
    /// Its hard states are staged elsewhere already.
    relocating: bool,
}

/// The live segments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    segments: VecDeque<Live>,
    hard_states: FastMap<RangeId, (HardState, u64)>,
    /// Per range the entry behind which all are held.
    holds: BTreeMap<RangeId, Index>,
}

impl Coverage {
    /// A new segment at the end, to be written now.
    pub(crate) fn push(&mut self, number: u64, incarnation: u64, slot: u32, bytes: u64, first: Seqno) {
        if let Some(last) = self.segments.back() {
            assert!(
                last.number < number,
                "segment {number} follows segment {}",
                last.number
            );
        }
        self.segments.push_back(Live {
            number,
            slot,
            bytes,
            used: 0,
            first,
            incarnation,
            ends: BTreeMap::new(),
            lasts: BTreeMap::new(),
            hard_states: BTreeSet::new(),
            released_by: Seqno::ZERO,
            relocating: false,
        });
    }

    /// The file of segment `number` has `bytes` bytes now.
    pub(crate) fn shortened(&mut self, number: u64, bytes: u64) {
        if let Some(live) = self.segments.iter_mut().find(|live| live.number == number) {
            live.bytes = bytes;
        }
    }

    /// `record` is on its way to the log: what it will mean when it has its place there.
    pub(crate) fn stage(&mut self, record: &Record<'_>) -> Note {
        let range = record.range();
        match *record {
            Record::Entry { index, .. } => Note::Entries {
                range,
                first: index,
                last: index,
            },
            Record::HardState {
                term, vote, commit, ..
            } => {
                self.stage_hard_state(range, HardState { term, vote, commit });
                Note::HardState(range)
            }
            Record::Truncate { after, .. } => Note::Truncate(range, after),
            Record::Forget { .. } => {
                self.stage_forget(range);
                Note::Forget(range)
            }
        }
    }

    /// A batch of `bytes` bytes has its place in the last segment.
    pub(crate) fn place(&mut self, seqno: Seqno, bytes: u64, notes: &[Note]) {
        if let Some(last) = self.segments.back_mut() {
            last.used += bytes;
        }
        for note in notes {
            match *note {
                Note::Entries { range, last, .. } => self.entry(range, last),
                Note::HardState(range) => self.hard_state_placed(seqno, range),
                Note::Truncate(range, after) => self.truncate(seqno, range, after),
                Note::Forget(range) => self.forget(seqno, range),
            }
        }
    }

    fn entry(&mut self, range: RangeId, index: Index) {
        if let Some(last) = self.segments.back_mut() {
            for ends in [&mut last.ends, &mut last.lasts] {
                let end = ends.entry(range).or_insert(index);
                *end = index.max(*end);
            }
        }
    }

    /// Remembers the range's hard state when it is staged; the segment follows when the batch has its place.
    fn stage_hard_state(&mut self, range: RangeId, state: HardState) {
        let segment = self.hard_states.get(&range).map_or(0, |&(_, segment)| segment);
        self.hard_states.insert(range, (state, segment));
    }

    fn hard_state_placed(&mut self, seqno: Seqno, range: RangeId) {
        let Some(active) = self.segments.back_mut() else {
            return;
        };
        let Some((_, segment)) = self.hard_states.get_mut(&range) else {
            return;
        };
        if *segment == active.number {
            return;
        }
        let old = core::mem::replace(segment, active.number);
        active.hard_states.insert(range);
        if let Some(old) = self.segments.iter_mut().find(|live| live.number == old) {
            old.hard_states.remove(&range);
            old.released_by = old.released_by.max(seqno);
        }
    }

    fn truncate(&mut self, seqno: Seqno, range: RangeId, after: Index) {
        for live in &mut self.segments {
            let Some(end) = live.ends.get_mut(&range) else {
                continue;
            };
            if *end > after {
                *end = after;
                live.released_by = live.released_by.max(seqno);
            }
        }
    }

    /// Forgets the range's staged hard state when the forgetting is staged.
    fn stage_forget(&mut self, range: RangeId) {
        self.hard_states.remove(&range);
    }

    fn forget(&mut self, seqno: Seqno, range: RangeId) {
        // A hard state staged after the forgetting belongs to a new life of the range and stays.
        for live in &mut self.segments {
            live.lasts.remove(&range);
            let held = live.ends.remove(&range).is_some() | live.hard_states.remove(&range);
            if held {
                live.released_by = live.released_by.max(seqno);
            }
        }
        self.holds.remove(&range);
    }

    /// Entries of `range` up to `index` are durable elsewhere.
    pub(crate) fn cover(&mut self, range: RangeId, index: Index) {
        for live in &mut self.segments {
            if live.ends.get(&range).is_some_and(|&end| end <= index) {
                live.ends.remove(&range);
            }
        }
    }

    /// Entries of `range` behind `from` are held, covered or not; `None`: none are.
    pub(crate) fn hold(&mut self, range: RangeId, from: Option<Index>) {
        match from {
            Some(from) => drop(self.holds.insert(range, from)),
            None => drop(self.holds.remove(&range)),
        }
    }

    fn is_held(&self, live: &Live) -> bool {
        let is_behind =
            |(range, from): (&RangeId, &Index)| live.lasts.get(range).is_some_and(|last| last > from);
        self.holds.iter().any(is_behind)
    }

    /// Bytes of the oldest segments that are there for what is held and nothing else: from the first that has something of it on, those
    /// that cannot go before it.
    pub(crate) fn held(&self) -> u64 {
        if self.holds.is_empty() {
            return 0;
        }
        let behind = self.segments.len().saturating_sub(1);
        let covered = self
            .segments
            .iter()
            .take(behind)
            .take_while(|live| live.ends.is_empty());
        covered
            .skip_while(|live| !self.is_held(live))
            .map(|live| live.used)
            .sum()
    }

    /// Hard states of a front segment that no entry needs, to be staged again. Handed out once.
    ///
    /// Not before there is a segment's worth of other bytes, and as many as hard states take in batches of `batch_bytes_max`:
    /// they, and the seals that say what was dropped, fill segments too, and would be written round and round.
    pub(crate) fn relocate(&mut self, batch_bytes_max: usize) -> Vec<(RangeId, HardState)> {
        let states = self.hard_states.len();
        let batches = states.min(states * HARD_STATE_BYTES / batch_bytes_max + 1);
        let needed = (states * HARD_STATE_BYTES + batches * BLOCK_BYTES) as u64;
        let used = self.used();
        let Some(front) = self.segments.front_mut() else {
            return Vec::new();
        };
        if used <= 2 * needed + front.bytes {
            return Vec::new();
        }
        if !front.ends.is_empty() || front.relocating {
            return Vec::new();
        }
        front.relocating = true;
        let states = &self.hard_states;
        front
            .hard_states
            .iter()
            .filter_map(|range| states.get(range).map(|(state, _)| (*range, *state)))
            .collect()
    }

    /// Takes the front segment off when nothing needs it and what freed it is durable.
    pub(crate) fn drop_front(&mut self, persisted: Seqno) -> Option<Live> {
        let front = self.segments.front()?;
        let next = self.segments.get(1)?;
        let needed =
            !front.ends.is_empty() && !base::planted_bug!("log-recycle-uncovered") || self.is_held(front);
        // A claim that the next segment is the first one must not be on disk before that segment's header is.
        if needed || !front.hard_states.is_empty() || front.released_by > persisted || next.first > persisted
        {
            return None;
        }
        self.segments.pop_front()
    }

    /// Segment `number`, while it is live.
    pub(crate) fn segment(&self, number: u64) -> Option<&Live> {
        let at = self.segments.binary_search_by_key(&number, |live| live.number);
        self.segments.get(at.ok()?)
    }

    /// The oldest segment that is needed.
    pub(crate) fn first_live(&self) -> u64 {
        self.segments.front().map_or(0, |live| live.number)
    }

    /// The range with the smallest id that holds the oldest segment, the index to cover, and all bytes from there on.
    pub(crate) fn oldest_uncovered(&self) -> Option<(RangeId, Index, u64)> {
        let mut bytes = self.used();
        for live in &self.segments {
            if let Some((&range, &index)) = live.ends.first_key_value() {
                return Some((range, index, bytes));
            }
            bytes -= live.used;
        }
        None
    }

    /// Bytes of all batches of live segments.
    pub(crate) fn used(&self) -> u64 {
        self.segments.iter().map(|live| live.used).sum()
    }

    /// How many segments are live.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R1: RangeId = RangeId(1);
    const R2: RangeId = RangeId(2);

    const BATCH: usize = 1 << 20;

    fn hard(term: u64) -> HardState {
        HardState {
            term: Term(term),
            vote: None,
            commit: Index::ZERO,
        }
    }

    fn entry(range: RangeId, index: u64) -> Note {
        Note::Entries {
            range,
            first: Index(index),
            last: Index(index),
        }
    }

    fn two_segments(notes: &[Note]) -> Coverage {
        let mut coverage = Coverage::default();
        coverage.push(1, 1, 0, 4096, Seqno(1));
        coverage.stage_hard_state(R2, hard(7));
        coverage.place(Seqno(1), 4096, notes);
        coverage.push(2, 1, 1, 1 << 16, Seqno(2));
        coverage.place(Seqno(2), 8192, &[entry(R1, 9)]);
        coverage
    }

    #[test]
    fn the_front_goes_when_its_last_entry_is_covered_and_its_successor_durable() {
        let mut coverage = two_segments(&[entry(R1, 4), entry(R2, 8)]);
        assert_eq!(coverage.oldest_uncovered(), Some((R1, Index(4), 12288)));
        coverage.cover(R1, Index(4));
        assert_eq!(coverage.oldest_uncovered(), Some((R2, Index(8), 12288)));
        coverage.cover(R2, Index(7));
        assert_eq!(coverage.drop_front(Seqno(2)), None);
        coverage.cover(R2, Index(8));
        assert_eq!(coverage.drop_front(Seqno(1)), None);
        assert_eq!(coverage.drop_front(Seqno(2)).map(|live| live.number), Some(1));
        assert_eq!(coverage.oldest_uncovered(), Some((R1, Index(9), 8192)));
        coverage.cover(R1, Index(9));
        assert_eq!(coverage.drop_front(Seqno(2)), None, "the active segment stays");
    }

    #[test]
    fn a_hard_state_holds_its_segment_until_it_is_durable_elsewhere() {
        let mut coverage = two_segments(&[entry(R2, 3), Note::HardState(R2)]);
        assert_eq!(coverage.relocate(BATCH), vec![]);
        coverage.cover(R2, Index(3));
        assert_eq!(coverage.relocate(BATCH), vec![], "there is too little else");
        coverage.place(Seqno(2), 4096, &[]);
        assert_eq!(coverage.relocate(BATCH), vec![(R2, hard(7))]);
        assert_eq!(coverage.relocate(BATCH), vec![], "only once");
        assert_eq!(coverage.drop_front(Seqno(2)), None);
        coverage.place(Seqno(3), 4096, &[Note::HardState(R2)]);
        assert_eq!(coverage.drop_front(Seqno(2)), None, "not durable yet");
        assert_eq!(coverage.drop_front(Seqno(3)).map(|live| live.number), Some(1));
    }

    #[test]
    fn many_hard_states_are_written_again_only_when_there_is_as_much_else() {
        let mut coverage = Coverage::default();
        coverage.push(1, 1, 0, 12 << 10, Seqno(1));
        let ranges: Vec<_> = (10..210).map(RangeId).collect();
        for &range in &ranges {
            coverage.stage_hard_state(range, hard(1));
            coverage.place(Seqno(1), 48, &[Note::HardState(range)]);
        }
        coverage.push(2, 1, 1, 1 << 16, Seqno(2));
        let needed = 200 * 48 + 4096;
        let threshold = 2 * needed + (12 << 10);
        coverage.place(Seqno(2), threshold - 200 * 48, &[entry(R1, 1)]);
        assert_eq!(coverage.relocate(BATCH), vec![]);
        coverage.place(Seqno(3), 4096, &[entry(R1, 2)]);
        assert_eq!(coverage.relocate(1), vec![], "one in a batch, they take more");
        assert_eq!(coverage.relocate(BATCH).len(), ranges.len());
    }

    #[test]
    fn void_entries_hold_nothing_once_their_truncation_is_durable() {
        let mut coverage = two_segments(&[entry(R1, 8)]);
        coverage.place(Seqno(3), 4096, &[Note::Truncate(R1, Index(5))]);
        coverage.cover(R1, Index(5));
        assert_eq!(coverage.drop_front(Seqno(2)), None);
        assert_eq!(coverage.drop_front(Seqno(3)).map(|live| live.number), Some(1));
    }

    #[test]
    fn a_forgotten_range_holds_nothing_once_that_is_durable() {
        let mut coverage = two_segments(&[entry(R2, 8), Note::HardState(R2)]);
        coverage.stage_forget(R2);
        coverage.place(Seqno(3), 4096, &[Note::Forget(R2)]);
        assert_eq!(coverage.drop_front(Seqno(2)), None);
        assert_eq!(coverage.drop_front(Seqno(3)).map(|live| live.number), Some(1));
    }

    #[test]
    fn what_is_held_stays_when_it_is_covered() {
        let mut coverage = two_segments(&[entry(R1, 4), entry(R2, 8)]);
        coverage.hard_state_placed(Seqno(2), R2);
        coverage.hold(R1, Some(Index(3)));
        coverage.cover(R1, Index(9));
        assert_eq!(coverage.held(), 0, "it is needed anyway");
        coverage.cover(R2, Index(8));
        assert_eq!(coverage.oldest_uncovered(), None);
        assert_eq!((coverage.held(), coverage.used()), (4096, 12288));
        assert_eq!(coverage.drop_front(Seqno(2)), None);
        coverage.hold(R1, Some(Index(4)));
        assert_eq!(coverage.held(), 0, "the last one there is not lacking");
        assert_eq!(coverage.drop_front(Seqno(2)).map(|live| live.number), Some(1));
    }

    #[test]
    fn what_lies_behind_what_is_held_counts_with_it() {
        let mut coverage = two_segments(&[entry(R1, 4)]);
        coverage.push(3, 1, 2, 1 << 16, Seqno(3));
        coverage.place(Seqno(3), 100, &[entry(R2, 1)]);
        coverage.hold(R1, Some(Index(3)));
        coverage.cover(R1, Index(9));
        coverage.hold(R1, Some(Index(3)));
        assert_eq!(coverage.held(), 4096 + 8192);
        // Of the second one nothing is lacking, but it cannot go before the first one.
        let mut coverage = two_segments(&[entry(R2, 8)]);
        coverage.push(3, 1, 2, 1 << 16, Seqno(3));
        coverage.place(Seqno(3), 100, &[entry(R1, 10)]);
        coverage.hold(R2, Some(Index(3)));
        coverage.cover(R2, Index(8));
        coverage.cover(R1, Index(9));
        assert_eq!(coverage.held(), 4096 + 8192);
        assert_eq!(coverage.used(), 4096 + 8192 + 100);
    }

    #[test]
    fn what_is_held_goes_with_its_range() {
        let mut coverage = two_segments(&[entry(R1, 4)]);
        coverage.hard_state_placed(Seqno(2), R2);
        coverage.hold(R1, Some(Index(1)));
        coverage.forget(Seqno(2), R1);
        assert_eq!(coverage.drop_front(Seqno(2)).map(|live| live.number), Some(1));
        coverage.hold(R2, Some(Index(1)));
        coverage.hold(R2, None);
        assert_eq!(coverage.held(), 0);
    }
}
