//! The first block of a segment: whose it is, what came before it, and so where that ended.
//!
//! ```text
//!  0  magic     4  checksum of 8..96      8  version  10  shard  12  zero
//! 16  log id   24  segment               32  incarnation         40  first live segment
//! 48  predecessor: segment               56  its last seqno      64  persisted seqno
//! 72  bytes of the segment               80  checksum of the predecessor's last batch     84  zeros
//! ```
//!
//! The header states where its predecessor ended. That is how a cut stays a cut: batches of the predecessor beyond that
//! point are void at every later recovery, whatever their bytes say.

use crate::batch::Flaw;
use crate::codec::{Fields, counter_at, u16_at, u32_at, u64_at};
use base::{Seqno, ShardId};

/// The version of segment headers, batches and records that this program writes and reads.
pub const FORMAT_VERSION: u16 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"CLsg");
/// Bytes that carry meaning: within one sector, so a crash leaves the old header or the new one.
pub(crate) const HEADER_BYTES: usize = 96;

/// Where one segment ended and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// The segment that ended; zero before the first.
    pub segment: u64,
    /// Its last batch that counts.
    pub seqno: Seqno,
    /// That batch's header checksum.
    pub checksum: u32,
}

/// The decoded first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Drawn when the log was created.
    pub log_id: u64,
    /// Whose log it is.
    pub shard: ShardId,
    /// Numbers grow over the life of the log and are never used twice.
    pub segment: u64,
    /// Which opening of the log wrote it.
    pub incarnation: u64,
    /// Segments with a smaller number are not needed.
    pub first_live: u64,
    /// What came before.
    pub predecessor: Link,
    /// Every batch up to here was durable when the header was written.
    pub persisted: Seqno,
    /// Bytes of the segment.
    pub bytes: u64,
}

impl SegmentHeader {
    /// The bytes of the header; the rest of its block is zero.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        Fields::<HEADER_BYTES>::new()
            .put(&MAGIC.to_le_bytes())
            .put(&[0; 4])
            .put(&FORMAT_VERSION.to_le_bytes())
            .put(&self.shard.0.to_le_bytes())
            .put(&[0; 4])
            .put(&self.log_id.to_le_bytes())
            .put(&self.segment.to_le_bytes())
            .put(&self.incarnation.to_le_bytes())
            .put(&self.first_live.to_le_bytes())
            .put(&self.predecessor.segment.to_le_bytes())
            .put(&self.predecessor.seqno.0.to_le_bytes())
            .put(&self.persisted.0.to_le_bytes())
            .put(&self.bytes.to_le_bytes())
            .put(&self.predecessor.checksum.to_le_bytes())
            .finish_checked()
            .0
    }

    /// Decodes and checks the first block of a segment.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, Flaw> {
        check_frame(block, MAGIC, HEADER_BYTES)?;
        Self::fields(block).ok_or(Flaw::Short)
    }

    fn fields(block: &[u8]) -> Option<Self> {
        Some(Self {
            shard: ShardId(u16_at(block, 10)?),
            log_id: u64_at(block, 16)?,
            segment: counter_at(block, 24)?,
            incarnation: counter_at(block, 32)?,
            first_live: counter_at(block, 40)?,
            predecessor: Link {
                segment: counter_at(block, 48)?,
                seqno: Seqno(counter_at(block, 56)?),
                checksum: u32_at(block, 80)?,
            },
            persisted: Seqno(counter_at(block, 64)?),
            bytes: u64_at(block, 72)?,
        })
    }
}

/// What both headers share: magic, a checksum of all that follows it, a version. Hands out the checksum.
pub(crate) fn check_frame(block: &[u8], magic: u32, len: usize) -> Result<u32, Flaw> {
    let found = u32_at(block, 0).ok_or(Flaw::Short)?;
    if found != magic {
        let blank = block
            .get(..len)
            .is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0));
        return Err(if blank { Flaw::Zeros } else { Flaw::Magic { found } });
    }
    let stated = u32_at(block, 4).ok_or(Flaw::Short)?;
    let computed = base::checksum::crc32c(block.get(8..len).ok_or(Flaw::Short)?);
    if stated != computed {
        return Err(Flaw::HeaderChecksum { stated, computed });
    }
    let version = u16_at(block, 8).ok_or(Flaw::Short)?;
    if version != FORMAT_VERSION {
        return Err(Flaw::Version { found: version });
    }
    Ok(stated)
}
