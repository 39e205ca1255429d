//! What one file holds: blocks that are shared until they change, so that a thousand images of a disk cost little.

use base::limits::BLOCK_BYTES;
use std::sync::Arc;

/// The unit that reaches the medium whole or not at all.
pub const SECTOR_BYTES: usize = 512;
pub(crate) const BLOCK_SECTORS: usize = BLOCK_BYTES / SECTOR_BYTES;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The bytes of one block; `None` is all zeros.
pub(crate) type Block = Option<Arc<[u8; BLOCK_BYTES]>>;

/// What became of one sector of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SectorFate {
    Old,
    New,
    /// Neither: the bytes that a generator with this seed gives.
    Garbage(u64),
}

/// Cuts bytes into blocks.
pub(crate) fn blocks_of(bytes: &[u8]) -> Arc<[Block]> {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    assert!(
        rest.is_empty(),
        "{} bytes are not a whole number of blocks",
        bytes.len()
    );
    blocks
        .iter()
        .map(|block| (*block != ZEROS).then(|| Arc::new(*block)))
        .collect()
}

/// Which block `offset` starts.
pub(crate) fn block_at(offset: u64) -> usize {
    let block = BLOCK_BYTES as u64;
    assert!(
        offset.is_multiple_of(block),
        "offset {offset} is not a multiple of {block}"
    );
    usize::try_from(offset / block).expect("simulated files fit in memory")
}

/// The bytes of a file, a whole number of blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    blocks: Vec<Block>,
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn blocks_resize(&mut self, count: usize) {
        self.blocks.resize(count, None);
    }

    pub(crate) fn block(&self, index: usize) -> Block {
        self.blocks.get(index).cloned().flatten()
    }

    pub(crate) fn put(&mut self, index: usize, block: Block) {
        if index >= self.blocks.len() {
            self.blocks.resize(index + 1, None);
        }
        self.blocks[index] = block;
    }

    pub(crate) fn put_all(&mut self, first: usize, blocks: &[Block]) {
        let end = first + blocks.len();
        if end > self.blocks.len() {
            self.blocks.resize(end, None);
        }
        self.blocks[first..end].clone_from_slice(blocks);
    }

    /// Puts the sectors of `blocks` that `fates` lets through. The file grows to the end of the write in any case.
    pub(crate) fn put_sectors(&mut self, first: usize, blocks: &[Block], fates: &[SectorFate]) {
        self.blocks_resize(self.blocks.len().max(first + blocks.len()));
        for (i, block) in blocks.iter().enumerate() {
            let mut mixed: [u8; BLOCK_BYTES] = self.blocks[first + i].as_deref().copied().unwrap_or(ZEROS);
            let new: &[u8; BLOCK_BYTES] = block.as_deref().unwrap_or(&ZEROS);
            for sector in 0..BLOCK_SECTORS {
                let bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                match fates[i * BLOCK_SECTORS + sector] {
                    SectorFate::Old => {}
                    SectorFate::New => mixed[bytes.clone()].copy_from_slice(&new[bytes]),
                    SectorFate::Garbage(seed) => base::Prng::new(seed).fill(&mut mixed[bytes]),
                }
            }
            self.blocks[first + i] = (mixed != ZEROS).then(|| Arc::new(mixed));
        }
    }

    /// Reads from `offset`; what lies past the end stays as it is in `out`, which comes zeroed.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) {
        let first = block_at(offset);
        for (i, out) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            match self.blocks.get(first + i) {
                Some(Some(block)) => out.copy_from_slice(&block[..]),
                Some(None) => {}
                None => break,
            }
        }
    }

    /// Changes one block in place.
    pub(crate) fn edit(&mut self, index: usize, edit: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
        let mut block: [u8; BLOCK_BYTES] = self.blocks[index].as_deref().copied().unwrap_or(ZEROS);
        edit(&mut block);
        self.blocks[index] = (block != ZEROS).then(|| Arc::new(block));
    }
}
