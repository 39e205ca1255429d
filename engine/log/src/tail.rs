//! How each range's records end, and what those that are only staged overtake. Pure.
//!
//! A record counts from the moment when it is appended. The index hears of it when its batch gets a place; until then what it
//! overtakes is remembered here. That is rare, so the list is short or empty.

use crate::record::Record;
use base::{Index, RangeId, Seqno};
use std::collections::VecDeque;

/// The last of a range's records, staged or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    /// The last record's checksum; zero when there is none.
    pub(crate) checksum: u32,
    /// The last entry that counts; zero when there is none, or none left.
    pub(crate) last: Index,
}

impl Tail {
    /// Takes in a record. Hands out up to where earlier entries still count, when that is not up to the last.
    pub(crate) fn take(&mut self, record: &Record<'_>, checksum: u32) -> Option<Index> {
        self.checksum = checksum;
        match *record {
            Record::Entry { index, .. } => {
                let before = index.prev().unwrap_or(Index::ZERO);
                let last = core::mem::replace(&mut self.last, index);
                // After a gap nothing of what came before counts.
                (before != last).then_some(if before > last { Index::ZERO } else { before })
            }
            Record::Truncate { after, .. } => {
                let cuts = after < self.last;
                self.last = self.last.min(after);
                cuts.then_some(after)
            }
            Record::Forget { .. } => {
                self.last = Index::ZERO;
                Some(Index::ZERO)
            }
            Record::HardState { .. } => None,
        }
    }
}

/// Staged records that overtake others, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Overtaking {
    /// Per record its batch, its range, and up to where earlier entries of the range still count.
    staged: VecDeque<(Seqno, RangeId, Index)>,
}

impl Overtaking {
    /// A record of batch `seqno` leaves only entries up to `kept`.
    pub(crate) fn push(&mut self, seqno: Seqno, range: RangeId, kept: Index) {
        self.staged.push_back((seqno, range, kept));
    }

    /// The index has heard of batch `seqno`.
    pub(crate) fn placed(&mut self, seqno: Seqno) {
        while self
            .staged
            .pop_front_if(|(staged, ..)| *staged <= seqno)
            .is_some()
        {}
    }

    /// Up to where entries of `range` that have a place still count.
    pub(crate) fn kept(&self, range: RangeId) -> Index {
        let of_range = self.staged.iter().filter(|(_, of, _)| *of == range);
        of_range
            .map(|(_, _, kept)| *kept)
            .min()
            .unwrap_or(Index(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EntryKind;
    use base::Term;

    const RANGE: RangeId = RangeId(1);

    fn entry(index: u64) -> Record<'static> {
        Record::Entry {
            range: RANGE,
            index: Index(index),
            term: Term(1),
            chain: 0,
            kind: EntryKind::Empty,
            payload: &[],
        }
    }

    fn truncate(after: u64) -> Record<'static> {
        let (range, after) = (RANGE, Index(after));
        Record::Truncate { range, after }
    }

    #[test]
    fn each_record_says_what_it_leaves() {
        let mut tail = Tail::default();
        let records = [
            (entry(1), None),
            (entry(2), None),
            (entry(3), None),
            (entry(2), Some(1)),
            (entry(3), None),
            (truncate(3), None),
            (truncate(1), Some(1)),
            (entry(2), None),
            // A gap.
            (entry(9), Some(0)),
            (entry(10), None),
            (Record::Forget { range: RANGE }, Some(0)),
            (entry(1), None),
            (entry(0), Some(0)),
        ];
        for (at, (record, kept)) in records.iter().enumerate() {
            assert_eq!(tail.take(record, 7), kept.map(Index), "record {at}");
        }
        assert_eq!(tail.checksum, 7);
    }

    #[test]
    fn what_has_a_place_is_left_to_the_index() {
        let mut overtaking = Overtaking::default();
        for (seqno, range, kept) in [(1, 1, 5), (1, 2, 9), (2, 1, 3), (4, 1, 7)] {
            overtaking.push(Seqno(seqno), RangeId(range), Index(kept));
        }
        let kept = |overtaking: &Overtaking| [1, 2, 3].map(|range| overtaking.kept(RangeId(range)).0);
        assert_eq!(kept(&overtaking), [3, 9, u64::MAX]);
        overtaking.placed(Seqno(1));
        assert_eq!(kept(&overtaking), [3, u64::MAX, u64::MAX]);
        overtaking.placed(Seqno(3));
        assert_eq!(kept(&overtaking), [7, u64::MAX, u64::MAX]);
        overtaking.placed(Seqno(4));
        assert_eq!(kept(&overtaking), [u64::MAX; 3]);
    }
}
