//! Reads segments, in large pieces, and checks everything before it is used. Changes nothing.

use crate::batch::{BatchHeader, Flaw, HEADER_BYTES};
use crate::error::LogError;
use crate::recovery::Marks;
use crate::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, SegmentHeader};
use base::limits::BLOCK_BYTES;
use base::{Seqno, ShardId, checksum};
use env::{DirEntry, Disk, DiskError, File, OpenMode};
use std::rc::Rc;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Bytes of one read, unless a batch is larger.
const CHUNK: u64 = 1 << 20;

/// A file of the log's directory.
#[derive(Debug)]
pub(crate) struct Slot<F> {
    /// The number in its name.
    pub(crate) slot: u32,
    /// Relative to the data directory.
    pub(crate) path: String,
    /// The file's bytes.
    pub(crate) len: u64,
    pub(crate) file: Rc<F>,
    pub(crate) header: Result<SegmentHeader, Flaw>,
    /// What its batches state, once it was scanned.
    pub(crate) scan: Option<Scan>,
}

/// What the batches of a slot state, whether or not they are part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scan {
    pub(crate) marks: Marks,
    /// The newest segment whose batches are here although the slot's header is not that segment's.
    pub(crate) stray: Option<u64>,
}

/// The file of a slot.
pub(crate) fn slot_path(dir: &str, slot: u32) -> String {
    format!("{dir}/{slot:08}.seg")
}

/// The slot that a directory entry is, if it is one.
pub(crate) fn slot_of(entry: &DirEntry) -> Option<u32> {
    let digits = entry.name.strip_suffix(".seg")?;
    let wanted = !entry.is_dir && digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    wanted.then(|| digits.parse().ok())?
}

/// Opens every slot of the directory and reads its header.
pub(crate) async fn slots<D: Disk>(
    disk: &D,
    dir: &str,
    shard: ShardId,
) -> Result<Vec<Slot<D::File>>, LogError> {
    let mut slots = Vec::new();
    for entry in disk.list(dir).await? {
        let Some(slot) = slot_of(&entry) else { continue };
        let path = slot_path(dir, slot);
        let file = Rc::new(disk.open(&path, OpenMode::Read).await?);
        // Lengths come from whole blocks only: a file that a crash left between two lengths may end anywhere.
        let len = entry.len - entry.len % BLOCK;
        let header = if len == 0 {
            Err(Flaw::Zeros)
        } else {
            read_header(&*file, shard).await?
        };
        if let Err(Flaw::Version { found }) = header {
            let supported = crate::segment::FORMAT_VERSION;
            return Err(LogError::Version {
                file: path,
                found,
                supported,
            });
        }
        slots.push(Slot {
            slot,
            path,
            len,
            file,
            header,
            scan: None,
        });
    }
    Ok(slots)
}

async fn read_header<F: File>(file: &F, shard: ShardId) -> Result<Result<SegmentHeader, Flaw>, DiskError> {
    let mut header = Err(Flaw::Short);
    // A header that cannot be read is read again once: what a device mixed up on the way is not damage.
    for _ in 0..2 {
        let block = file.read_at(0, BLOCK_BYTES).await?;
        header = block
            .get(..SEGMENT_HEADER_BYTES)
            .ok_or(Flaw::Short)
            .and_then(SegmentHeader::decode);
        if header.is_ok() {
            break;
        }
    }
    Ok(header.and_then(|header| {
        if header.shard == shard {
            Ok(header)
        } else {
            Err(Flaw::OtherShard {
                found: header.shard.0,
            })
        }
    }))
}

/// Looks at every block of the slot for the header of a batch of log `log_id` (any log, without one).
pub(crate) async fn scan<F: File>(slot: &Slot<F>, log_id: Option<u64>) -> Result<Scan, LogError> {
    let own = slot.header.as_ref().ok().map(|header| header.segment);
    let mut scan = Scan::default();
    let mut start = BLOCK;
    while start < slot.len {
        let len = CHUNK.min(slot.len - start);
        let chunk = slot.file.read_at(start, in_memory(len)).await?;
        for (block, offset) in chunk
            .chunks_exact(BLOCK_BYTES)
            .zip((start..).step_by(BLOCK_BYTES))
        {
            let Ok((batch, _)) = BatchHeader::decode(block) else {
                continue;
            };
            if batch.offset() != offset || log_id.is_some_and(|log_id| batch.log_id != log_id) {
                continue;
            }
            scan.marks.merge(&Marks {
                first_live: batch.first_live,
                persisted: batch.persisted,
                segment: batch.segment,
                incarnation: batch.incarnation,
                hlc_bound: batch.hlc_bound,
            });
            if own != Some(batch.segment) {
                scan.stray = scan.stray.max(Some(batch.segment));
            }
        }
        start += len;
    }
    Ok(scan)
}

/// What a batch must be to follow what was read before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) log_id: u64,
    pub(crate) segment: u64,
    pub(crate) incarnation: u64,
    pub(crate) seqno: Seqno,
    /// Checksum of the batch before it; `None` when that was not read.
    pub(crate) previous: Option<u32>,
}

impl Expected {
    fn check(&self, header: &BatchHeader, offset: u64) -> Result<(), Flaw> {
        if header.log_id != self.log_id {
            return Err(Flaw::OtherLog { found: header.log_id });
        }
        if header.segment != self.segment {
            return Err(Flaw::OtherSegment {
                found: header.segment,
            });
        }
        if header.offset() != offset {
            return Err(Flaw::OtherBlock { found: header.block });
        }
        if header.incarnation != self.incarnation {
            return Err(Flaw::OtherIncarnation {
                found: header.incarnation,
            });
        }
        if header.seqno != self.seqno {
            return Err(Flaw::OtherSeqno { found: header.seqno });
        }
        if let Some(expected) = self.previous
            && header.previous != expected
            && !base::planted_bug!("log-skip-chain-check")
        {
            let found = header.previous;
            return Err(Flaw::Chain { expected, found });
        }
        Ok(())
    }
}

/// A batch that was checked.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) header: BatchHeader,
    /// Its header's checksum.
    pub(crate) checksum: u32,
    /// Its records.
    pub(crate) body: &'a [u8],
}

/// Reads one segment from front to back.
pub(crate) struct Cursor<F: File> {
    file: Rc<F>,
    len: u64,
    chunk: Option<(u64, F::Buf)>,
}

impl<F: File> Cursor<F> {
    /// Batches end at `len` at the latest; nothing behind it is read.
    pub(crate) fn new(file: &Rc<F>, len: u64) -> Self {
        Self {
            file: Rc::clone(file),
            len,
            chunk: None,
        }
    }

    /// The batch at `offset`, or what is wrong with it, after reading it a second time.
    pub(crate) async fn batch(
        &mut self,
        offset: u64,
        expected: &Expected,
    ) -> Result<Result<Batch<'_>, Flaw>, DiskError> {
        let mut result = self.find(offset, expected).await?;
        if result.is_err() {
            self.chunk = None;
            result = self.find(offset, expected).await?;
            base::sometimes!("log: a second read was better", result.is_ok());
        }
        Ok(result.and_then(|(header, checksum)| {
            let body = self
                .bytes(offset, HEADER_BYTES + header.body_bytes as usize)
                .and_then(|b| b.get(HEADER_BYTES..));
            body.map(|body| Batch {
                header,
                checksum,
                body,
            })
            .ok_or(Flaw::Short)
        }))
    }

    async fn find(
        &mut self,
        offset: u64,
        expected: &Expected,
    ) -> Result<Result<(BatchHeader, u32), Flaw>, DiskError> {
        if offset + BLOCK > self.len {
            return Ok(Err(Flaw::NoSuccessor));
        }
        self.load(offset, BLOCK).await?;
        let head = self.bytes(offset, BLOCK_BYTES).ok_or(Flaw::Short);
        let decoded = head.and_then(BatchHeader::decode);
        let (header, checksum) = match decoded {
            Ok(decoded) => decoded,
            Err(flaw) => return Ok(Err(flaw)),
        };
        if let Err(flaw) = expected.check(&header, offset) {
            return Ok(Err(flaw));
        }
        // The length is checked against the file before anything is allocated for it.
        let bytes = header.padded_bytes();
        if offset + bytes > self.len {
            return Ok(Err(Flaw::PastEnd { bytes }));
        }
        self.load(offset, bytes).await?;
        let body = self
            .bytes(offset, HEADER_BYTES + header.body_bytes as usize)
            .and_then(|b| b.get(HEADER_BYTES..));
        let computed = checksum::crc32c(body.unwrap_or_default());
        if computed != header.body_checksum {
            return Ok(Err(Flaw::BodyChecksum {
                stated: header.body_checksum,
                computed,
            }));
        }
        Ok(Ok((header, checksum)))
    }

    /// Makes `len` bytes at `offset` available.
    async fn load(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
        let held = self
            .chunk
            .as_ref()
            .is_some_and(|(start, chunk)| *start <= offset && offset + len <= start + chunk.len() as u64);
        if !held {
            // The old piece is freed before the next is asked for.
            self.chunk = None;
            let want = len.max(CHUNK.min(self.len - offset));
            self.chunk = Some((offset, self.file.read_at(offset, in_memory(want)).await?));
        }
        Ok(())
    }

    fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let (start, chunk) = self.chunk.as_ref()?;
        let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
        chunk.get(at..at.checked_add(len)?)
    }
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a segment is at most 4 GiB, and this system has 64-bit addresses")
}
