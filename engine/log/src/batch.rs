//! A batch: what one device write carries. Header, records, zeros up to the next multiple of 4 KiB.
//!
//! ```text
//!  0  magic     4  checksum of 8..96   8  version  10  kind  11  zero  12  block of the segment where it stands
//! 16  log id   24  segment            32  incarnation                 40  seqno
//! 48  persisted seqno                 56  first live segment          64  hlc bound: wall ns  72  logical
//! 76  checksum of the batch before    80  body bytes   84  records    88  checksum of the body    92  zero
//! 96  records …
//! ```
//!
//! Log id, segment number and block make a place unique over the life of the log: neither a batch of an earlier life of the
//! slot nor bytes stored by a user ever pass for one.

use crate::codec::{Fields, array, counter_at, u32_at, u64_at};
use crate::segment::{FORMAT_VERSION, check_frame};
use base::limits::BLOCK_BYTES;
use base::{Seqno, Timestamp};
use core::fmt;

const MAGIC: u32 = u32::from_le_bytes(*b"CLba");
/// Bytes of a batch header; the body follows at once.
pub(crate) const HEADER_BYTES: usize = 96;

/// What a batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchKind {
    /// It carries records.
    Records,
    /// The first of an incarnation; carries none.
    Opening,
    /// Written (twice) when the log rests, so that the persisted mark on disk covers everything acknowledged; carries none.
    Seal,
}

impl BatchKind {
    fn code(self) -> u8 {
        match self {
            Self::Records => 0,
            Self::Opening => 1,
            Self::Seal => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Records, Self::Opening, Self::Seal]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// The decoded header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// What it is for.
    pub kind: BatchKind,
    /// The log's.
    pub log_id: u64,
    /// The segment that it was written to.
    pub segment: u64,
    /// Where in that segment, in units of 4 KiB.
    pub block: u32,
    /// Which opening of the log wrote it.
    pub incarnation: u64,
    /// Its number; the one before it has the number before.
    pub seqno: Seqno,
    /// Every batch up to here was durable when this one was written.
    pub persisted: Seqno,
    /// Segments with a smaller number are not needed.
    pub first_live: u64,
    /// The hybrid clock's bound.
    pub hlc_bound: Timestamp,
    /// Header checksum of the batch before.
    pub previous: u32,
    /// Bytes of the records.
    pub body_bytes: u32,
    /// Number of records.
    pub records: u32,
    /// Checksum of the records.
    pub body_checksum: u32,
}

impl BatchHeader {
    /// The bytes of the header, and its checksum: the next batch's `previous`.
    pub(crate) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        Fields::<HEADER_BYTES>::new()
            .put(&MAGIC.to_le_bytes())
            .put(&[0; 4])
            .put(&FORMAT_VERSION.to_le_bytes())
            .put(&[self.kind.code(), 0])
            .put(&self.block.to_le_bytes())
            .put(&self.log_id.to_le_bytes())
            .put(&self.segment.to_le_bytes())
            .put(&self.incarnation.to_le_bytes())
            .put(&self.seqno.0.to_le_bytes())
            .put(&self.persisted.0.to_le_bytes())
            .put(&self.first_live.to_le_bytes())
            .put(&self.hlc_bound.wall_ns.to_le_bytes())
            .put(&self.hlc_bound.logical.to_le_bytes())
            .put(&self.previous.to_le_bytes())
            .put(&self.body_bytes.to_le_bytes())
            .put(&self.records.to_le_bytes())
            .put(&self.body_checksum.to_le_bytes())
            .finish_checked()
    }

    /// Decodes a header and checks its checksum, which it hands out; not where it stands, nor the body.
    pub(crate) fn decode(block: &[u8]) -> Result<(Self, u32), Flaw> {
        let checksum = check_frame(block, MAGIC, HEADER_BYTES)?;
        Self::fields(block)
            .map(|header| (header, checksum))
            .ok_or(Flaw::Short)
    }

    fn fields(block: &[u8]) -> Option<Self> {
        let [kind] = array::<1>(block, 10)?;
        Some(Self {
            kind: BatchKind::from_code(kind)?,
            block: u32_at(block, 12)?,
            log_id: u64_at(block, 16)?,
            segment: counter_at(block, 24)?,
            incarnation: counter_at(block, 32)?,
            seqno: Seqno(counter_at(block, 40)?),
            persisted: Seqno(counter_at(block, 48)?),
            first_live: counter_at(block, 56)?,
            hlc_bound: Timestamp::new(u64_at(block, 64)?, u32_at(block, 72)?),
            previous: u32_at(block, 76)?,
            body_bytes: u32_at(block, 80)?,
            records: u32_at(block, 84)?,
            body_checksum: u32_at(block, 88)?,
        })
    }

    /// Where in its segment it says it stands, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64
    }

    /// Bytes of the batch with its padding.
    pub(crate) fn padded_bytes(&self) -> u64 {
        padded(HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }
}

/// `bytes` rounded up to whole blocks.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

/// What is wrong with a place where something of the log should stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields say what was stated and what was found instead"
)]
pub enum Flaw {
    /// Nothing was written there.
    Zeros,
    /// Less than a header.
    Short,
    /// Neither a batch nor a header.
    Magic { found: u32 },
    /// The header does not match its checksum.
    HeaderChecksum { stated: u32, computed: u32 },
    /// The records do not match their checksum.
    BodyChecksum { stated: u32, computed: u32 },
    /// Another format.
    Version { found: u16 },
    /// Something of another log.
    OtherLog { found: u64 },
    /// Something of another shard's log.
    OtherShard { found: u16 },
    /// A batch of another segment: of an earlier life of the slot, or misplaced.
    OtherSegment { found: u64 },
    /// A batch of another place in the segment.
    OtherBlock { found: u32 },
    /// A batch of another incarnation than the segment's.
    OtherIncarnation { found: u64 },
    /// Another batch than the one that follows.
    OtherSeqno { found: Seqno },
    /// A batch that does not follow the one before it.
    Chain { expected: u32, found: u32 },
    /// The segment ends before the batch does.
    PastEnd { bytes: u64 },
    /// No segment follows.
    NoSuccessor,

    /// A record that its batch's checksum covers does not decode, or does not follow the one before it in its range.
    Record { offset: u64 },
}

impl Flaw {
    /// Nothing of the log was ever written there: the log just ends.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Zeros | Self::NoSuccessor | Self::OtherSegment { .. } => true,
            Self::Short
            | Self::Magic { .. }
            | Self::HeaderChecksum { .. }
            | Self::BodyChecksum { .. }
            | Self::Version { .. }
            | Self::OtherLog { .. }
            | Self::OtherShard { .. }
            | Self::OtherBlock { .. }
            | Self::OtherIncarnation { .. }
            | Self::OtherSeqno { .. }
            | Self::Chain { .. }
            | Self::PastEnd { .. }
            | Self::Record { .. } => false,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Zeros => f.write_str("zeros"),
            Self::Short => f.write_str("less than a header, or one with unknown fields"),
            Self::Magic { found } => write!(f, "bytes of another kind (magic {found:#010x})"),
            Self::HeaderChecksum { stated, computed } => {
                write!(
                    f,
                    "a header with checksum {computed:#010x} where it states {stated:#010x}"
                )
            }
            Self::BodyChecksum { stated, computed } => {
                write!(
                    f,
                    "records with checksum {computed:#010x} where the header states {stated:#010x}"
                )
            }
            Self::Version { found } => write!(f, "format version {found}"),
            Self::OtherLog { found } => write!(f, "something of log {found:016x}"),
            Self::OtherShard { found } => write!(f, "something of shard {found}'s log"),
            Self::OtherSegment { found } => write!(f, "a batch of segment {found}"),
            Self::OtherBlock { found } => write!(f, "a batch of block {found}"),
            Self::OtherIncarnation { found } => write!(f, "a batch of incarnation {found}"),
            Self::OtherSeqno { found } => write!(f, "batch {found}"),
            Self::Chain { expected, found } => {
                write!(
                    f,
                    "a batch that follows checksum {found:#010x} instead of {expected:#010x}"
                )
            }
            Self::PastEnd { bytes } => write!(f, "a batch of {bytes} bytes, more than the segment has left"),
            Self::NoSuccessor => f.write_str("the end of the last segment"),

            Self::Record { offset } => {
                write!(f, "a record at offset {offset} that does not decode or follow")
            }
        }
    }
}
