//! Which tables to merge: a pure choice over their sizes.
//!
//! Tables stand newest first, and only neighbours may be merged: so all versions of a key stay newest first from table to
//! table. A run of neighbours is worth merging when none is much larger than what is merged into it:
//!
//! ```text
//!   newest                               oldest
//!     3   4   3   5        90      400              4 similar ones: merge the first four
//!     9   8   30  200      90      400  …           none similar, but too many: merge the cheapest run
//! ```

use core::ops::Range;

/// What the picker knows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) bytes: u64,
    /// It has keys outside the tablet's span, which a merge drops: left over from a split.
    pub(crate) exceeds_span: bool,
}

/// Limits on the number of tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The least number of similar tables to merge.
    pub(crate) merge_min: usize,
    /// More than this are merged whatever their sizes.
    pub(crate) tables_max: usize,
}

/// A table joins a run that has at least a half of its bytes.
const SIMILAR: u64 = 2;

/// The neighbours to merge, if any are worth it.
pub(crate) fn pick(tables: &[Candidate], limits: Limits) -> Option<Range<usize>> {
    similar(tables, limits.merge_min)
        .or_else(|| too_many(tables, limits))
        .or_else(|| {
            tables
                .iter()
                .position(|table| table.exceeds_span)
                .map(|at| at..at + 1)
        })
}

/// The longest run of similar tables, the newest of equally long ones.
fn similar(tables: &[Candidate], merge_min: usize) -> Option<Range<usize>> {
    let mut best: Option<Range<usize>> = None;
    for start in 0..tables.len() {
        let mut bytes = tables[start].bytes;
        let mut end = start + 1;
        while end < tables.len() && tables[end].bytes <= bytes.saturating_mul(SIMILAR) {
            bytes = bytes.saturating_add(tables[end].bytes);
            end += 1;
        }
        if end - start >= merge_min && best.as_ref().is_none_or(|best| best.len() < end - start) {
            best = Some(start..end);
        }
    }
    best
}

/// The run with the fewest bytes whose merge brings the number down to the limit.
fn too_many(tables: &[Candidate], limits: Limits) -> Option<Range<usize>> {
    let excess = tables
        .len()
        .checked_sub(limits.tables_max)
        .filter(|&excess| excess > 0)?;
    let len = (excess + 1).max(limits.merge_min);
    let bytes = |start: usize| {
        tables[start..start + len]
            .iter()
            .fold(0u64, |sum, t| sum.saturating_add(t.bytes))
    };
    let start = (0..=tables.len().checked_sub(len)?).min_by_key(|&start| bytes(start))?;
    Some(start..start + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        merge_min: 4,
        tables_max: 6,
    };

    fn pick_sizes(sizes: &[u64]) -> Option<Range<usize>> {
        let tables: Vec<_> = sizes
            .iter()
            .map(|&bytes| Candidate {
                bytes,
                exceeds_span: false,
            })
            .collect();
        pick(&tables, LIMITS)
    }

    #[test]
    fn similar_neighbours_are_merged_and_larger_ones_left() {
        assert_eq!(pick_sizes(&[]), None);
        assert_eq!(pick_sizes(&[3, 4, 3]), None);
        assert_eq!(pick_sizes(&[3, 4, 3, 5]), Some(0..4));
        assert_eq!(pick_sizes(&[3, 4, 3, 5, 90, 400]), Some(0..4));
        assert_eq!(pick_sizes(&[1, 100, 90, 100, 80]), Some(1..5));
    }

    #[test]
    fn too_many_are_merged_where_it_is_cheapest() {
        assert_eq!(pick_sizes(&[1, 10, 100, 1_000, 10_000, 100_000]), None);
        assert_eq!(
            pick_sizes(&[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]),
            Some(0..4)
        );
    }

    #[test]
    fn a_table_with_foreign_keys_is_rewritten_when_nothing_else_is_to_do() {
        let table = |bytes, exceeds_span| Candidate { bytes, exceeds_span };
        assert_eq!(pick(&[table(1, false), table(9, true)], LIMITS), Some(1..2));
    }

    proptest! {
        #[test]
        fn merging_until_there_is_nothing_to_do_ends_with_few_tables(sizes in proptest::collection::vec(1u64..1_000_000, 0..60)) {
            let mut tables: Vec<_> = sizes.iter().map(|&bytes| Candidate { bytes, exceeds_span: bytes % 3 == 0 }).collect();
            let mut merges = 0;
            while let Some(run) = pick(&tables, LIMITS) {
                let bytes = tables[run.clone()].iter().map(|t| t.bytes).sum();
                tables.splice(run, [Candidate { bytes, exceeds_span: false }]);
                merges += 1;
                prop_assert!(merges <= 2 * sizes.len(), "no end after {merges} merges");
            }
            prop_assert!(tables.len() <= LIMITS.tables_max);
        }
    }
}
