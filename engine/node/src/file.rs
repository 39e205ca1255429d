//! Small files that are replaced as a whole.

use base::checksum::crc32c;
use base::limits::BLOCK_BYTES;
use env::{Disk, DiskError, Env, File, OpenMode};
use std::io::ErrorKind;

/// Puts `content`, whole blocks, durably in the place of the file `name` of the directory `dir` (empty: the data directory). Order:
/// a new file is synced before it is renamed over the old one.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn replace<E: Env>(
    env: &E,
    dir: &str,
    name: &str,
    content: <E::Disk as Disk>::Buf,
) -> Result<(), DiskError> {
    let disk = env.disk();
    let path = if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    };
    let new = format!("{path}.new");
    let file = disk.create(&new, OpenMode::Write).await?;
    file.write_at(0, content).await.0?;
    file.sync().await?;
    disk.rename(&new, &path).await?;
    disk.sync_dir(dir).await
}

/// A file of the data directory with entries of `N` bytes each:
///
/// ```text
/// magic, 8 bytes │ crc u32 over what follows │ count u32 │ count × entry │ zeros to a multiple of 4096
/// ```
pub(crate) struct List<const N: usize> {
    pub(crate) name: &'static str,
    pub(crate) magic: &'static [u8; 8],
}

/// Where in a list's file what the checksum covers, and the first entry, begin.
const CHECKED_FROM: usize = 12;
const ENTRIES_FROM: usize = 16;

impl<const N: usize> List<N> {
    /// Reads the entries: none when there is no file; `None` when it is not what was written. What a killed process left is durable
    /// afterwards.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn load<E: Env>(&self, env: &E) -> Result<Option<Vec<[u8; N]>>, DiskError> {
        let disk = env.disk();
        match disk.open(self.name, OpenMode::Read).await {
            Ok(file) => {
                let Ok(bytes) = usize::try_from(file.len().await?) else {
                    return Ok(None);
                };
                let entries = self.decode(&file.read_at(0, bytes).await?);
                if entries.is_some() {
                    disk.sync_dir("").await?;
                }
                Ok(entries)
            }
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// Writes them durably in place of what was there.
    ///
    /// # Errors
    /// When the disk fails; what was there stays.
    pub(crate) async fn store<E: Env>(&self, env: &E, entries: &[[u8; N]]) -> Result<(), DiskError> {
        let mut block = env.disk().alloc(Self::bytes(entries.len()));
        self.encode(entries, &mut block);
        replace(env, "", self.name, block).await
    }

    /// Bytes of a file of so many entries.
    fn bytes(count: usize) -> usize {
        (ENTRIES_FROM + count * N).next_multiple_of(BLOCK_BYTES)
    }

    /// `block` is zeros, of [`bytes`](Self::bytes).
    fn encode(&self, entries: &[[u8; N]], block: &mut [u8]) {
        let count = u32::try_from(entries.len()).expect("a cluster has few nodes");
        let end = ENTRIES_FROM + entries.len() * N;
        block[..8].copy_from_slice(self.magic);
        block[CHECKED_FROM..ENTRIES_FROM].copy_from_slice(&count.to_le_bytes());
        block[ENTRIES_FROM..end].copy_from_slice(entries.as_flattened());
        let crc = crc32c(&block[CHECKED_FROM..end]);
        block[8..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
    }

    /// The entries of a file that was read; `None` when it is not what was written.
    pub(crate) fn decode(&self, block: &[u8]) -> Option<Vec<[u8; N]>> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
        let count = usize::try_from(u32_at(CHECKED_FROM)?).ok()?;
        let end = count.checked_mul(N)?.checked_add(ENTRIES_FROM)?;
        if block.get(..8)? != self.magic || crc32c(block.get(CHECKED_FROM..end)?) != u32_at(8)? {
            return None;
        }
        let (entries, _) = block[ENTRIES_FROM..end].as_chunks();
        Some(entries.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: List<5> = List {
        name: "LIST",
        magic: b"CLTESTS1",
    };

    #[test]
    fn every_flipped_bit_is_noticed() {
        let entries = [*b"first", *b"other"];
        let mut block = vec![0; List::<5>::bytes(2)];
        LIST.encode(&entries, &mut block);
        assert_eq!(LIST.decode(&block).as_deref(), Some(&entries[..]));
        for bit in 0..(ENTRIES_FROM + 2 * 5) * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(LIST.decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(LIST.decode(b"short"), None);
    }
}
