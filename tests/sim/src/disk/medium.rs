//! What the medium does to bytes: damage that nobody is told of, and the fate of what is unsettled at a crash.

use super::buf::SimBuf;
use super::content::{BLOCK_SECTORS, Block, SectorFate, block_at};
use super::device::{Device, STALE_WRITES_MAX};
use super::store::{Change, InodeId, Landed};
use crate::config::fires;
use crate::trace::{Fault, Trace};
use base::limits::BLOCK_BYTES;
use std::io::ErrorKind;
use std::sync::Arc;

/// What a crash does to an unsettled change.
pub(super) enum Drawn {
    Lost,
    Kept,
    Torn(Arc<[SectorFate]>),
}

impl Device {
    pub(super) fn draw_landing(
        &mut self,
        inode: InodeId,
        first: usize,
        blocks: &[Block],
        failure: Option<ErrorKind>,
        trace: &mut Trace,
    ) -> Landed {
        match failure {
            Some(ErrorKind::StorageFull) => return Landed::Nowhere,
            Some(_) => return Landed::Torn(self.draw_sectors(blocks.len(), 0.0)),
            None => {}
        }
        if fires(&mut self.prng, self.config.write_lost) {
            trace.fault(Fault::WriteLost);
            return Landed::Nowhere;
        }
        if fires(&mut self.prng, self.config.write_misdirected)
            && let Some((inode, first)) = self.draw_place(inode, first, blocks.len())
        {
            trace.fault(Fault::WriteMisdirected);
            return Landed::Elsewhere { inode, first };
        }
        if self.config.read_stale > 0.0 {
            let content = self.store.content(inode);
            let before = (first..first + blocks.len())
                .map(|index| content.block(index))
                .collect();
            self.overwritten.push_back((inode, first, before));
            if self.overwritten.len() > STALE_WRITES_MAX {
                self.overwritten.pop_front();
            }
        }
        Landed::Whole
    }

    /// Another place on the disk with room for so many blocks: mostly of the same file.
    fn draw_place(&mut self, inode: InodeId, first: usize, blocks: usize) -> Option<(InodeId, usize)> {
        let files = self.store.inodes().len();
        let other = if self.prng.chance(0.3) {
            self.prng.index(files)
        } else {
            files
        };
        let inode = self.store.inodes().nth(other).unwrap_or(inode);
        let room = self.store.content(inode).block_count().checked_sub(blocks)?;
        let at = self.prng.index(room + 1);
        (at != first).then_some((inode, at))
    }

    fn draw_sectors(&mut self, blocks: usize, garbage: f64) -> Arc<[SectorFate]> {
        let sectors = blocks * BLOCK_SECTORS;
        // A clean cut is the commonest tear, but any subset is possible.
        let cut = self.prng.chance(0.5).then(|| self.prng.index(sectors + 1));
        (0..sectors)
            .map(|sector| {
                let is_new = cut.map_or_else(|| self.prng.chance(0.5), |cut| sector < cut);
                if is_new {
                    SectorFate::New
                } else if fires(&mut self.prng, garbage) {
                    SectorFate::Garbage(self.prng.next_u64())
                } else {
                    SectorFate::Old
                }
            })
            .collect()
    }

    pub(super) fn read(&mut self, inode: InodeId, offset: u64, len: usize, trace: &mut Trace) -> SimBuf {
        let (mut first, blocks) = (block_at(offset), len / BLOCK_BYTES);
        let mut from = inode;
        if fires(&mut self.prng, self.config.read_misdirected)
            && let Some(place) = self.draw_place(inode, first, blocks)
        {
            trace.fault(Fault::ReadMisdirected);
            (from, first) = place;
        }
        if fires(&mut self.prng, self.config.bit_rot) {
            let seen = self.store.content(from).block_count();
            let end = seen.min(self.store.durable_blocks(from)).min(first + blocks);
            if first < end {
                let at = first + self.prng.index(end - first);
                let bit = self.prng.index(BLOCK_BYTES * 8);
                self.store.damage(from, |content| {
                    content.edit(at, |block| block[bit / 8] ^= 1 << (bit % 8));
                });
                trace.fault(Fault::BitRot);
            }
        }
        let mut buf = SimBuf::zeroed(len);
        self.store
            .content(from)
            .read((first * BLOCK_BYTES) as u64, &mut buf);
        if fires(&mut self.prng, self.config.read_stale) {
            self.make_stale(from, first, &mut buf, trace);
        }
        buf
    }

    /// Puts what was there before the last write of these blocks back into what was read.
    fn make_stale(&self, inode: InodeId, first: usize, buf: &mut SimBuf, trace: &mut Trace) {
        let blocks = buf.len() / BLOCK_BYTES;
        let overlaps = |at: usize, count: usize| at < first + blocks && first < at + count;
        let last = self.overwritten.iter().rev();
        let found = last
            .into_iter()
            .find(|(of, at, before)| *of == inode && overlaps(*at, before.len()));
        let Some((_, at, before)) = found else { return };
        trace.fault(Fault::ReadStale);
        for (i, block) in before.iter().enumerate() {
            if (first..first + blocks).contains(&(at + i)) {
                let start = (at + i - first) * BLOCK_BYTES;
                let bytes = &mut buf[start..start + BLOCK_BYTES];
                match block {
                    Some(block) => bytes.copy_from_slice(&block[..]),
                    None => bytes.fill(0),
                }
            }
        }
    }

    pub(super) fn draw_fate(&mut self, index: usize, trace: &mut Trace) -> Drawn {
        let (lost, fault, blocks) = match &self.store.unsettled()[index].change {
            Change::Names(_) => (self.config.crash_name_undone, Fault::CrashNameUndone, 0),
            Change::SetLen { .. } => (self.config.crash_lost, Fault::CrashWriteLost, 0),
            Change::Write { blocks, .. } => (self.config.crash_lost, Fault::CrashWriteLost, blocks.len()),
        };
        if fires(&mut self.prng, lost) {
            trace.fault(fault);
            return Drawn::Lost;
        }
        if blocks == 0 || !fires(&mut self.prng, self.config.crash_torn) {
            return Drawn::Kept;
        }
        trace.fault(Fault::CrashWriteTorn);
        let sectors = self.draw_sectors(blocks, self.config.crash_garbage);
        if sectors.iter().any(|fate| matches!(fate, SectorFate::Garbage(_))) {
            trace.fault(Fault::CrashSectorGarbage);
        }
        Drawn::Torn(sectors)
    }
}
