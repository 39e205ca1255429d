//! What a node's failure detector must know after a restart: the file `shard-0/LIVENESS`, since shard 0 has it, replaced at each start.
//!
//! ```text
//! magic "CLLIVENS" │ version u32 │ crc u32 over what follows │ incarnation u32 │ zero u32 │ wait u64, nanoseconds │ zeros to 4096
//! ```

use crate::file;
use base::ShardId;
use base::checksum::crc32c;
use base::limits::BLOCK_BYTES;
use env::{Disk, DiskError, Env, File, OpenMode};
use liveness::Durable;

const FILE: &str = "LIVENESS";
const MAGIC: &[u8; 8] = b"CLLIVENS";
const VERSION: u32 = 1;
const CHECKED: core::ops::Range<usize> = 16..32;

/// The file is not what was written. A shard that goes on without it could break a promise that it made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncarnationError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is damaged or of another version.
    #[error(
        "{file} is damaged or of another version of corelane: what this shard promised other nodes is not known"
    )]
    Unknown {
        /// Relative to the data directory.
        file: String,
    },
}

fn path(shard: ShardId) -> String {
    format!("{}/{FILE}", dir(shard))
}

/// Reads what the last start wrote; `None` for a shard that never ran. What a killed process left is durable afterwards.
///
/// # Errors
/// When the disk fails or the file is damaged.
pub(crate) async fn load<E: Env>(env: &E, shard: ShardId) -> Result<Option<Durable>, IncarnationError> {
    let file = path(shard);
    match env.disk().open(&file, OpenMode::Read).await {
        Ok(open) => {
            let block = open.read_at(0, BLOCK_BYTES).await?;
            let durable = decode(&block).ok_or(IncarnationError::Unknown { file })?;
            env.disk().sync_dir(&dir(shard)).await?;
            Ok(Some(durable))
        }
        Err(error) if error.kind == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn dir(shard: ShardId) -> String {
    format!("shard-{}", shard.0)
}

/// Writes it durably in place of what was there.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn store<E: Env>(env: &E, shard: ShardId, durable: Durable) -> Result<(), DiskError> {
    let mut block = env.disk().alloc(BLOCK_BYTES);
    encode(durable, &mut block);
    file::replace(env, &dir(shard), FILE, block).await
}

fn encode(durable: Durable, block: &mut [u8]) {
    block[..8].copy_from_slice(MAGIC);
    block[8..12].copy_from_slice(&VERSION.to_le_bytes());
    block[16..20].copy_from_slice(&durable.incarnation.to_le_bytes());
    block[24..32].copy_from_slice(&durable.wait_ns.to_le_bytes());
    let crc = crc32c(&block[CHECKED]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn decode(block: &[u8]) -> Option<Durable> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
    let is_ours = block.get(..8)? == MAGIC && u32_at(8)? == VERSION;
    let is_whole = crc32c(block.get(CHECKED)?) == u32_at(12)?;
    let durable = Durable {
        incarnation: u32_at(16)?,
        wait_ns: u64::from_le_bytes(block.get(24..32)?.try_into().ok()?),
    };
    (is_ours && is_whole).then_some(durable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let durable = Durable {
            incarnation: 7,
            wait_ns: 1_200_000_000,
        };
        let mut block = vec![0; BLOCK_BYTES];
        encode(durable, &mut block);
        assert_eq!(decode(&block), Some(durable));
        for bit in 0..CHECKED.end * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(decode(&block[..20]), None);
    }
}
