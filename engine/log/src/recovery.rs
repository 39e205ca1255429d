//! What recovery decides, as tables. Pure.
//!
//! First every slot is surveyed: its header, and where there is no usable one, the headers of the batches in it. That gives
//! three marks, each the greatest stated anywhere: the first live segment *F*, the persisted seqno *P*, the newest segment.
//! From *F* the log is the chain of segments that name each other as predecessors. It is read batch by batch up to the first
//! one, *B*, that is missing or damaged.
//!
//! ```text
//!      F                                B
//!      ▼                                ▼
//!   ┌──────┬────┬────┬────┐  ┌──────┬───╳┬────┐      B > P: never acknowledged. B and all after it is void, and the
//!   │header│ #7 │ #8 │ #9 │  │header│#10 │#11 │             next segment's header says so.
//!   └──────┴────┴────┴────┘  └──────┴────┴────┘      B ≤ P: was acknowledged. Corruption; nothing is changed.
//! ```
//!
//! Why *F* and *P* are exact: both only grow, every segment header repeats them, and a slot is reused only after a durable
//! batch has said that its old segment is not needed. So the newest statement stands in the newest segment, in a slot whose
//! header is not readable or out of date, or in a header; and exactly these are surveyed in full.
//!
//! Invariants:
//! - Every combination of facts meets exactly one row of each table (tested).
//! - A decision changes nothing on disk. What follows from it becomes durable with the next segment's header, so a crash at
//!   any point of recovery leads to the same decision again.

use crate::segment::{Link, SegmentHeader};
use base::{Seqno, Timestamp};

/// One condition of a row: must hold, must not, or does not matter.
type When = Option<bool>;
const YES: When = Some(true);
const NO: When = Some(false);
const ANY: When = None;

/// A row of a decision table over `N` facts.
#[derive(Debug)]
pub struct Row<const N: usize, T> {
    /// The facts that it asks for, in the order of the table.
    pub when: [Option<bool>; N],
    /// What follows.
    pub then: T,
    /// Why.
    pub because: &'static str,
}

impl<const N: usize, T> Row<N, T> {
    /// Whether the row speaks of these facts.
    #[must_use]
    pub fn meets(&self, facts: [bool; N]) -> bool {
        self.when
            .iter()
            .zip(facts)
            .all(|(when, fact)| when.is_none_or(|when| when == fact))
    }
}

fn decide<const N: usize, T: Copy>(table: &[Row<N, T>], facts: [bool; N]) -> (T, &'static str) {
    let row = table
        .iter()
        .find(|row| row.meets(facts))
        .expect("a test shows that every combination meets a row");
    (row.then, row.because)
}

/// What becomes of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is none yet.
    Create,
    /// It ends before the first batch that is missing or damaged.
    Cut,
    /// Something that was acknowledged is missing or damaged.
    Corrupt,
}

/// The facts of [`LOG_TABLE`], in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFacts {
    /// A slot has a segment header that can be read.
    pub headers: bool,
    /// A slot without one has a batch that can be read.
    pub strays: bool,
    /// The header of the first live segment can be read.
    pub first_live: bool,
    /// The first batch that is missing or damaged was acknowledged.
    pub acknowledged: bool,
}

/// Log by log: readable headers, stray batches, first live segment readable, the break was acknowledged.
pub const LOG_TABLE: &[Row<4, Verdict>] = &[
    Row {
        when: [NO, NO, ANY, ANY],
        then: Verdict::Create,
        because: "no segment was ever made durable",
    },
    Row {
        when: [NO, YES, ANY, ANY],
        then: Verdict::Corrupt,
        because: "batches without any segment header",
    },
    Row {
        when: [YES, ANY, NO, ANY],
        then: Verdict::Corrupt,
        because: "the first live segment is missing",
    },
    Row {
        when: [YES, ANY, YES, YES],
        then: Verdict::Corrupt,
        because: "it was acknowledged",
    },
    Row {
        when: [YES, ANY, YES, NO],
        then: Verdict::Cut,
        because: "it was never acknowledged",
    },
];

impl LogFacts {
    /// The verdict and the reason.
    #[must_use]
    pub fn decide(self) -> (Verdict, &'static str) {
        decide(
            LOG_TABLE,
            [self.headers, self.strays, self.first_live, self.acknowledged],
        )
    }
}

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Part of the log.
    Live,
    /// Not needed any more.
    Stale,
    /// Overtaken by a cut: a segment of an unacknowledged tail, or of an opening that crashed.
    Overtaken,
    /// Zeros, or a header that never became whole.
    Blank,
    /// Batches whose segment header is missing. Void if nothing acknowledged is missing, else the place of the damage.
    Headless,
}

/// The facts of [`SLOT_TABLE`], in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotFacts {
    /// It has a header that can be read.
    pub header: bool,
    /// Its header's segment number is not below the first live one.
    pub needed: bool,
    /// Its segment is in the chain that starts at the first live one.
    pub chained: bool,
    /// It has a batch of a segment that is not its header's and not below the first live one.
    pub strays: bool,
}

/// Slot by slot: readable header, number at or above the first live one, in the chain, stray batches.
pub const SLOT_TABLE: &[Row<4, Role>] = &[
    Row {
        when: [YES, YES, YES, ANY],
        then: Role::Live,
        because: "the chain leads through it",
    },
    Row {
        when: [YES, YES, NO, ANY],
        then: Role::Overtaken,
        because: "a later segment follows an earlier one",
    },
    Row {
        when: [YES, NO, ANY, NO],
        then: Role::Stale,
        because: "its segment was dropped",
    },
    Row {
        when: [YES, NO, ANY, YES],
        then: Role::Headless,
        because: "reused, and its new header is missing",
    },
    Row {
        when: [NO, ANY, ANY, NO],
        then: Role::Blank,
        because: "never used, or torn at its first write",
    },
    Row {
        when: [NO, ANY, ANY, YES],
        then: Role::Headless,
        because: "batches without a header",
    },
];

impl SlotFacts {
    /// The role and the reason.
    #[must_use]
    pub fn decide(self) -> (Role, &'static str) {
        decide(SLOT_TABLE, [self.header, self.needed, self.chained, self.strays])
    }
}

/// The greatest of everything that headers and batches state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Segments with a smaller number are not needed.
    pub first_live: u64,
    /// Every batch up to here was durable.
    pub persisted: Seqno,
    /// The newest segment.
    pub segment: u64,
    /// The newest opening.
    pub incarnation: u64,
    /// The hybrid clock's bound.
    pub hlc_bound: Timestamp,
}

impl Marks {
    /// Takes in what another place states.
    pub fn merge(&mut self, other: &Self) {
        self.first_live = self.first_live.max(other.first_live);
        self.persisted = self.persisted.max(other.persisted);
        self.segment = self.segment.max(other.segment);
        self.incarnation = self.incarnation.max(other.incarnation);
        self.hlc_bound = self.hlc_bound.max(other.hlc_bound);
    }
}

impl From<&SegmentHeader> for Marks {
    fn from(header: &SegmentHeader) -> Self {
        Self {
            first_live: header.first_live,
            persisted: header.persisted,
            segment: header.segment,
            incarnation: header.incarnation,
            hlc_bound: Timestamp::ZERO,
        }
    }
}

/// The places in `headers` that form the log, first live segment first; empty when its header is not there.
///
/// A segment's successor is the newest one that names it as predecessor: of two, the older one was overtaken by a cut.
pub(crate) fn chain(headers: &[(usize, SegmentHeader)], first_live: u64) -> Vec<usize> {
    let Some(mut at) = headers.iter().find(|(_, header)| header.segment == first_live) else {
        return Vec::new();
    };
    let mut chain = vec![at.0];
    loop {
        let follows = |header: &SegmentHeader| {
            header.predecessor.segment == at.1.segment && header.segment > at.1.segment
        };
        let successor = headers
            .iter()
            .filter(|(_, header)| follows(header))
            .max_by_key(|(_, header)| header.segment);
        match successor {
            Some(next) => at = next,
            None => return chain,
        }
        chain.push(at.0);
    }
}

/// Whether the first batch that is missing or damaged was acknowledged.
pub(crate) fn was_acknowledged(missing: Seqno, persisted: Seqno) -> bool {
    missing <= persisted && !base::planted_bug!("log-cut-below-persisted")
}

/// Whether what follows `link` continues a log whose last batch is `last` with `checksum`.
pub(crate) fn continues(link: &Link, last: Seqno, checksum: u32) -> bool {
    link.seqno == last && (link.checksum == checksum || base::planted_bug!("log-skip-chain-check"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ShardId;

    fn combinations() -> impl Iterator<Item = [bool; 4]> {
        (0..16_u8).map(|bits| [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0])
    }

    #[test]
    fn every_combination_meets_exactly_one_row() {
        for facts in combinations() {
            assert_eq!(
                LOG_TABLE.iter().filter(|row| row.meets(facts)).count(),
                1,
                "log {facts:?}"
            );
            assert_eq!(
                SLOT_TABLE.iter().filter(|row| row.meets(facts)).count(),
                1,
                "slot {facts:?}"
            );
        }
    }

    #[test]
    fn every_row_is_met_by_some_combination() {
        for row in LOG_TABLE {
            assert!(combinations().any(|facts| row.meets(facts)), "{row:?}");
        }
        for row in SLOT_TABLE {
            assert!(combinations().any(|facts| row.meets(facts)), "{row:?}");
        }
    }

    fn header(segment: u64, predecessor: u64) -> SegmentHeader {
        SegmentHeader {
            log_id: 1,
            shard: ShardId(0),
            segment,
            incarnation: 1,
            first_live: 1,
            predecessor: Link {
                segment: predecessor,
                ..Link::default()
            },
            persisted: Seqno::ZERO,
            bytes: 1 << 16,
        }
    }

    #[test]
    fn the_chain_takes_the_newest_successor_and_never_turns_back() {
        let numbered = |links: &[(u64, u64)]| -> Vec<_> {
            links
                .iter()
                .map(|&(segment, predecessor)| header(segment, predecessor))
                .enumerate()
                .collect()
        };
        assert_eq!(chain(&numbered(&[(1, 0), (2, 1), (3, 2)]), 1), vec![0, 1, 2]);
        assert_eq!(chain(&numbered(&[(3, 2), (2, 1), (1, 0)]), 2), vec![1, 0]);
        // 2 and 3 were cut off, 4 follows 1.
        assert_eq!(chain(&numbered(&[(1, 0), (2, 1), (3, 2), (4, 1)]), 1), vec![0, 3]);
        assert_eq!(chain(&numbered(&[(1, 0), (3, 2)]), 1), vec![0]);
        assert_eq!(chain(&numbered(&[(2, 1)]), 1), Vec::<usize>::new());
        // Hostile headers that name each other do not make a circle.
        assert_eq!(chain(&numbered(&[(1, 2), (2, 1)]), 1), vec![0, 1]);
    }
}
