//! Records: what ranges put into the log.
//!
//! ```text
//!  0  checksum of 4..48 and the payload    4  checksum of the range's record before it    8  payload bytes
//! 12  kind  13  flags  14  zero           16  range        24  index        32  term      40  vote, or chain
//! 48  payload, zeros up to a multiple of 16
//! ```
//!
//! Because a record's checksum covers its predecessor's, the last one vouches for all records of its range before it.

use crate::codec::{Fields, array, u32_at, u64_at};
use base::checksum::{crc32c, extend};
use base::limits::FRAME_BYTES_MAX;
use base::{Index, RangeId, ReplicaId, Seqno, Term};

/// What an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A command of the range's state machine.
    Command,
    /// Nothing: a leader's first entry.
    Empty,
    /// Who takes part from here on.
    Membership,
}

impl EntryKind {
    fn flags(self) -> u8 {
        match self {
            Self::Command => 0,
            Self::Empty => 1,
            Self::Membership => 2,
        }
    }

    fn of(flags: u8) -> Option<Self> {
        [Self::Command, Self::Empty, Self::Membership]
            .into_iter()
            .find(|kind| kind.flags() == flags)
    }
}

/// One record of the log. Payloads are borrowed: from the caller on the way in, from the read buffer on the way out, where
/// they are 16-byte aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry of a range's log.
    Entry {
        /// The range.
        range: RangeId,
        /// Its position in the range's log.
        index: Index,
        /// The term of the leader that made it.
        term: Term,
        /// The chain of the group's log up to it.
        chain: u32,
        /// What the payload is.
        kind: EntryKind,
        /// At most [`base::limits::FRAME_BYTES_MAX`] bytes.
        payload: &'a [u8],
    },
    /// A range's term, vote and commit index. The newest one counts; the log keeps it when its segment is dropped.
    HardState {
        /// The range.
        range: RangeId,
        /// The current term.
        term: Term,
        /// Who got this replica's vote in `term`.
        vote: Option<ReplicaId>,
        /// The greatest index known to be committed.
        commit: Index,
    },
    /// Entries of the range with an index greater than `after` that come earlier in the log are void.
    Truncate {
        /// The range.
        range: RangeId,
        /// The last entry that is kept.
        after: Index,
    },
    /// The range has left this shard: everything of it that comes earlier in the log is void. Written by
    /// [`crate::Log::forget`].
    Forget {
        /// The range.
        range: RangeId,
    },
}

impl Record<'_> {
    /// The range that the record belongs to.
    #[must_use]
    pub fn range(&self) -> RangeId {
        match *self {
            Self::Entry { range, .. }
            | Self::HardState { range, .. }
            | Self::Truncate { range, .. }
            | Self::Forget { range } => range,
        }
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The batch.
    pub seqno: Seqno,
    /// The segment's number.
    pub segment: u64,
    /// The record's offset in the segment, in bytes.
    pub offset: u64,
}

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_FORGET: u8 = 4;
const FLAG_VOTED: u8 = 1;
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 48;
/// Records start at multiples of this, so that an archived payload can be read where it lies.
pub(crate) const ALIGN: usize = 16;

/// Bytes of a record in a batch.
pub(crate) fn encoded_len(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

/// Appends `record` to a batch's body and hands out its checksum; `previous` is that of the range's record before it.
pub(crate) fn encode(record: &Record<'_>, previous: u32, out: &mut Vec<u8>) -> u32 {
    let (kind, flags, index, term, vote, payload): (_, _, _, _, _, &[u8]) = match *record {
        Record::Entry {
            index,
            term,
            chain,
            kind,
            payload,
            ..
        } => (KIND_ENTRY, kind.flags(), index, term, chain.into(), payload),
        Record::HardState {
            term,
            vote: Some(vote),
            commit,
            ..
        } => (KIND_HARD_STATE, FLAG_VOTED, commit, term, vote.0, &[]),
        Record::HardState {
            term,
            vote: None,
            commit,
            ..
        } => (KIND_HARD_STATE, 0, commit, term, 0, &[]),
        Record::Truncate { after, .. } => (KIND_TRUNCATE, 0, after, Term::ZERO, 0, &[]),
        Record::Forget { .. } => (KIND_FORGET, 0, Index::ZERO, Term::ZERO, 0, &[]),
    };
    assert!(
        payload.is_empty() || (kind, flags) != (KIND_ENTRY, EntryKind::Empty.flags()),
        "an empty entry has {} bytes",
        payload.len()
    );
    assert!(
        payload.len() <= FRAME_BYTES_MAX,
        "a record of {} bytes is larger than any frame",
        payload.len()
    );
    let len = u32::try_from(payload.len()).expect("a frame's length fits 32 bits");
    let mut header = Fields::<HEADER_BYTES>::new()
        .put(&[0; 4])
        .put(&previous.to_le_bytes())
        .put(&len.to_le_bytes())
        .put(&[kind, flags, 0, 0])
        .put(&record.range().0.to_le_bytes())
        .put(&index.0.to_le_bytes())
        .put(&term.0.to_le_bytes())
        .put(&vote.to_le_bytes())
        .finish();
    let (place, rest) = header.split_at_mut(4);
    let checksum = extend(crc32c(rest), payload);
    place.copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    checksum
}

/// A record as it stands in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    pub(crate) record: Record<'a>,
    /// Checksum of the range's record before it; zero for the first.
    pub(crate) previous: u32,
    pub(crate) checksum: u32,
    /// Bytes of the record with its padding.
    pub(crate) bytes: usize,
}

/// Decodes the record at the start of `body`; `None` when it is not one.
pub(crate) fn decode(body: &[u8]) -> Option<Decoded<'_>> {
    let checksum = u32_at(body, 0)?;
    let previous = u32_at(body, 4)?;
    let len = usize::try_from(u32_at(body, 8)?).ok()?;
    let [kind, flags, zero, zero_too] = array(body, 12)?;
    let payload = body.get(HEADER_BYTES..HEADER_BYTES.checked_add(len)?)?;
    if extend(crc32c(body.get(4..HEADER_BYTES)?), payload) != checksum || zero != 0 || zero_too != 0 {
        return None;
    }
    let range = RangeId(u64_at(body, 16)?);
    let index = Index(u64_at(body, 24)?);
    let term = Term(u64_at(body, 32)?);
    let vote = u64_at(body, 40)?;
    let record = match (kind, flags, payload.is_empty()) {
        (KIND_ENTRY, flags, is_bare) => Record::Entry {
            range,
            index,
            term,
            chain: u32::try_from(vote).ok()?,
            kind: EntryKind::of(flags).filter(|kind| is_bare || *kind != EntryKind::Empty)?,
            payload,
        },
        (KIND_HARD_STATE, 0, true) => Record::HardState {
            range,
            term,
            vote: None,
            commit: index,
        },
        (KIND_HARD_STATE, FLAG_VOTED, true) => Record::HardState {
            range,
            term,
            vote: Some(ReplicaId(vote)),
            commit: index,
        },
        (KIND_TRUNCATE, 0, true) => Record::Truncate { range, after: index },
        (KIND_FORGET, 0, true) => Record::Forget { range },
        _ => return None,
    };
    let bytes = encoded_len(len);
    (bytes <= body.len()).then_some(Decoded {
        record,
        previous,
        checksum,
        bytes,
    })
}

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN));
const _: () = assert!(crate::batch::HEADER_BYTES.is_multiple_of(ALIGN));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record(payload: &[u8], kind: u8, numbers: [u64; 4]) -> Record<'_> {
        let [range, index, term, vote] = numbers;
        let (range, index, term) = (RangeId(range), Index(index), Term(term));
        match kind % 5 {
            0 => Record::Entry {
                range,
                index,
                term,
                chain: u32::try_from(vote >> 32).expect("half of it"),
                kind: if payload.is_empty() {
                    EntryKind::Empty
                } else {
                    [EntryKind::Command, EntryKind::Membership][(vote % 2) as usize]
                },
                payload,
            },
            1 => Record::HardState {
                range,
                term,
                vote: Some(ReplicaId(vote)),
                commit: index,
            },
            2 => Record::HardState {
                range,
                term,
                vote: None,
                commit: index,
            },
            3 => Record::Truncate { range, after: index },
            _ => Record::Forget { range },
        }
    }

    proptest! {
        #[test]
        fn records_round_trip_wherever_they_stand(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            records in proptest::collection::vec((any::<u8>(), any::<[u64; 4]>()), 1..8),
        ) {
            let mut body = Vec::new();
            let mut previous = 0;
            for (kind, numbers) in &records {
                previous = encode(&any_record(&payload, *kind, *numbers), previous, &mut body);
            }
            let mut rest = &body[..];
            let mut chain = 0;
            for (kind, numbers) in &records {
                let decoded = decode(rest).expect("it was encoded");
                prop_assert_eq!(decoded.record, any_record(&payload, *kind, *numbers));
                prop_assert_eq!(decoded.previous, chain);
                prop_assert_eq!((body.len() - rest.len()) % ALIGN, 0);
                chain = decoded.checksum;
                rest = &rest[decoded.bytes..];
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn a_flipped_bit_never_decodes(payload in proptest::collection::vec(any::<u8>(), 0..80), at in any::<u32>()) {
            let mut body = Vec::new();
            encode(&any_record(&payload, 0, [1, 2, 3, 0]), 9, &mut body);
            let bit = at as usize % ((HEADER_BYTES + payload.len()) * 8);
            body[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&body), None);
        }

        #[test]
        fn any_bytes_decode_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body);
        }
    }
}
