use super::*;

const R1: RangeId = RangeId(1);
const R2: RangeId = RangeId(2);

fn entries(range: RangeId, first: u64, last: u64) -> Note {
    let (first, last) = (Index(first), Index(last));
    Note::Entries { range, first, last }
}

/// A batch of one block; blocks and seqnos are the same, so that a place is read off its seqno.
fn place(segment: u64, block: u32) -> Place {
    Place {
        segment,
        seqno: Seqno(segment * 1000 + u64::from(block)),
        block,
        blocks: 1,
    }
}

fn index(batches: &[(u64, u32, &[Note])]) -> EntryIndex {
    let mut index = EntryIndex::default();
    for (segment, block, notes) in batches {
        index.place(&place(*segment, *block), notes);
    }
    index
}

impl EntryIndex {
    /// Segment, first block, blocks, last entry.
    fn at(&self, range: RangeId, index: u64) -> Option<(u64, u32, u32, u64)> {
        let Stretch { place, last } = self.find(range, Index(index))?;
        Some((place.segment, place.block, place.blocks, last.0))
    }

    fn pieces(&self) -> usize {
        self.runs.values().map(|run| run.pieces.len()).sum()
    }
}

#[test]
fn batches_near_each_other_are_one_piece() {
    let mut index = index(&[
        (1, 1, &[entries(R1, 1, 3), entries(R2, 7, 7)]),
        (1, 2, &[entries(R2, 8, 8)]),
        (1, 3, &[entries(R1, 4, 4), entries(R2, 9, 9), entries(R1, 5, 5)]),
        (1, 16, &[entries(R1, 6, 6)]),
        (1, 17, &[entries(R1, 7, 7)]),
        (2, 1, &[entries(R1, 8, 9)]),
    ]);
    assert_eq!(index.at(R1, 0), None);
    assert_eq!(index.at(R1, 1), Some((1, 1, 16, 6)));
    assert_eq!(index.at(R1, 6), Some((1, 1, 16, 6)));
    assert_eq!(index.at(R1, 7), Some((1, 17, 1, 7)), "64 KiB are full");
    assert_eq!(index.at(R1, 8), Some((2, 1, 1, 9)));
    assert_eq!((index.at(R1, 10), index.last(R1)), (None, Some(Index(9))));
    assert_eq!(index.at(R2, 7), Some((1, 1, 3, 9)));
    assert_eq!(index.at(R2, 6), None);
    index.drop_before(2);
    assert_eq!(index.at(R1, 7), None);
    assert_eq!(index.at(R1, 8), Some((2, 1, 1, 9)));
    assert_eq!(
        (index.runs.len(), index.segments.len()),
        (1, 1),
        "r2 costs nothing any more"
    );
    index.drop_before(3);
    assert_eq!((index.runs.len(), index.segments.len()), (0, 0));
}

#[test]
fn an_entry_overtakes_those_from_its_index_on_and_begins_a_piece() {
    let index = index(&[
        (1, 1, &[entries(R1, 1, 5)]),
        (1, 2, &[entries(R1, 6, 9)]),
        (1, 3, &[entries(R1, 4, 4)]),
        (1, 4, &[entries(R1, 5, 7)]),
    ]);
    assert_eq!(index.at(R1, 3), Some((1, 1, 2, 3)));
    assert_eq!(index.at(R1, 4), Some((1, 3, 2, 7)));
    assert_eq!(index.at(R1, 8), None);
    assert_eq!(index.pieces(), 2);
}

#[test]
fn nothing_is_added_to_a_piece_that_was_cut() {
    let index = index(&[
        (1, 1, &[entries(R1, 1, 5)]),
        (
            1,
            2,
            &[Note::Truncate(R1, Index(3)), Note::Truncate(R1, Index(9))],
        ),
        (1, 3, &[entries(R1, 4, 4)]),
    ]);
    assert_eq!(index.at(R1, 3), Some((1, 1, 1, 3)));
    assert_eq!(index.at(R1, 4), Some((1, 3, 1, 4)));
    assert_eq!(index.at(R1, 5), None);
}

#[test]
fn a_batch_may_overtake_itself() {
    let index = index(&[(
        1,
        1,
        &[entries(R1, 1, 3), entries(R1, 2, 2), Note::Truncate(R1, Index(1))],
    )]);
    assert_eq!(index.at(R1, 1), Some((1, 1, 1, 1)));
    assert_eq!(index.at(R1, 2), None);
}

#[test]
fn what_comes_after_a_gap_or_before_all_stands_alone() {
    let mut index = index(&[(1, 1, &[entries(R1, 1, 3)]), (1, 2, &[entries(R1, 5, 6)])]);
    assert_eq!(index.at(R1, 3), None);
    assert_eq!(index.at(R1, 5), Some((1, 2, 1, 6)));
    index.place(&place(1, 3), &[entries(R1, 2, 2)]);
    assert_eq!(index.at(R1, 5), None);
    assert_eq!(index.at(R1, 2), Some((1, 3, 1, 2)));
}

#[test]
fn a_range_without_entries_costs_nothing() {
    let mut index = index(&[(1, 1, &[entries(R1, 4, 5), entries(R2, 1, 1), Note::HardState(R2)])]);
    index.place(&place(1, 2), &[Note::Forget(R1), Note::Truncate(R2, Index::ZERO)]);
    assert_eq!(index.runs.len(), 0);
    index.place(
        &place(1, 3),
        &[Note::Truncate(R1, Index(1)), Note::Forget(R2), entries(R1, 1, 1)],
    );
    assert_eq!(index.at(R1, 1), Some((1, 3, 1, 1)));
    index.drop_before(2);
    assert_eq!((index.runs.len(), index.segments.len()), (0, 0));
}

#[test]
fn entries_at_the_ends_of_the_numbers_do_no_harm() {
    let index = index(&[(1, 1, &[entries(R1, 0, u64::MAX)]), (1, 2, &[entries(R1, 0, 0)])]);
    assert_eq!(index.at(R1, 0), Some((1, 2, 1, 0)));
}
