//! How nodes are meant to be used, as every node knows it: the file `STANDINGS`, replaced when something is learned.
//!
//! ```text
//! magic "CLSTAND1" │ crc u32 over what follows │ count u32 │ count × (node u64 │ version u64 │ state u8) │ zeros to a multiple of 4096
//! ```
//! Of two words about one node the one of the greater version counts, so that nodes which tell each other all that they know agree in
//! the end. The placer hears of it with reports and tells it with surveys.

use crate::cluster::NODE_MAX;
use crate::file;
use base::NodeId;
use base::checksum::crc32c;
use base::limits::BLOCK_BYTES;
use env::{Disk, DiskError, Env, File, OpenMode};
use std::collections::BTreeMap;
use wire::peer;

/// The file's name in the data directory.
pub(crate) const FILE: &str = "STANDINGS";
const MAGIC: &[u8; 8] = b"CLSTAND1";
const CHECKED_FROM: usize = 12;
const ENTRIES_FROM: usize = 16;
const ENTRY_BYTES: usize = 17;

/// How a node is meant to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Standing {
    /// It has replicas and leads ranges.
    #[default]
    Used,
    /// It keeps its replicas and leads nothing: it is about to stop for a while.
    Drained,
    /// It gives its replicas away: it is about to go for good.
    Emptied,
}

impl Standing {
    const ALL: [Self; 3] = [Self::Used, Self::Drained, Self::Emptied];

    /// Its number in files and messages.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The one of that number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.number() == number)
    }

    /// For people and programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Drained => "drained",
            Self::Emptied => "emptied",
        }
    }
}

/// The file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandingError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error(
        "{FILE} is damaged or of another version of corelane: remove it; other nodes know what it says, or say `corelane node drain` anew"
    )]
    Unknown,
}

/// What is known of all nodes; of those that are not in it nothing was ever said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standings(BTreeMap<NodeId, (u64, Standing)>);

impl Standings {
    pub(crate) fn of(&self, node: NodeId) -> Standing {
        self.0
            .get(&node)
            .map(|(_, standing)| *standing)
            .unwrap_or_default()
    }

    /// Everything that was said.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, Standing)> {
        self.0.iter().map(|(node, (_, standing))| (*node, *standing))
    }

    /// Says how a node is meant to be used from now on.
    pub(crate) fn say(&mut self, node: NodeId, standing: Standing, now_ns: u64) {
        let after = self.0.get(&node).map_or(0, |(version, _)| version + 1);
        self.0.insert(node, (now_ns.max(after), standing));
    }

    /// Takes what another node knows. Whether it was news; `None` when no node says such a thing.
    pub(crate) fn learn(&mut self, theirs: &[peer::ArchivedStanding]) -> Option<bool> {
        let mut is_news = false;
        for said in theirs {
            let (node, version) = (NodeId(said.node.to_native()), said.version.to_native());
            let standing = Standing::from_number(said.state)?;
            if node == NodeId(0) || node > NODE_MAX {
                return None;
            }
            if self.0.get(&node).is_none_or(|known| *known < (version, standing)) {
                self.0.insert(node, (version, standing));
                is_news = true;
            }
        }
        Some(is_news)
    }

    pub(crate) fn to_wire(&self) -> Vec<peer::Standing> {
        let one = |(node, (version, standing)): (&NodeId, &(u64, Standing))| peer::Standing {
            node: node.0,
            state: standing.number(),
            version: *version,
        };
        self.0.iter().map(one).collect()
    }
}

/// Reads what was said; nothing when there is no file. What a killed process left is durable afterwards.
///
/// # Errors
/// [`StandingError`].
pub(crate) async fn load<E: Env>(env: &E) -> Result<Standings, StandingError> {
    let disk = env.disk();
    match disk.open(FILE, OpenMode::Read).await {
        Ok(file) => {
            let bytes = usize::try_from(file.len().await?).map_err(|_| StandingError::Unknown)?;
            let said = decode(&file.read_at(0, bytes).await?).ok_or(StandingError::Unknown)?;
            disk.sync_dir("").await?;
            Ok(said)
        }
        Err(error) if error.kind == std::io::ErrorKind::NotFound => Ok(Standings::default()),
        Err(error) => Err(error.into()),
    }
}

/// Writes it durably in place of what was there.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn store<E: Env>(env: &E, standings: &Standings) -> Result<(), DiskError> {
    let bytes = (ENTRIES_FROM + standings.0.len() * ENTRY_BYTES).next_multiple_of(BLOCK_BYTES);
    let mut block = env.disk().alloc(bytes);
    encode(standings, &mut block);
    file::replace(env, "", FILE, block).await
}

fn encode(standings: &Standings, block: &mut [u8]) {
    let count = u32::try_from(standings.0.len()).expect("a cluster has few nodes");
    block[..8].copy_from_slice(MAGIC);
    block[12..16].copy_from_slice(&count.to_le_bytes());
    let entries = block[ENTRIES_FROM..].chunks_exact_mut(ENTRY_BYTES);
    for ((node, (version, standing)), entry) in standings.0.iter().zip(entries) {
        entry[..8].copy_from_slice(&node.0.to_le_bytes());
        entry[8..16].copy_from_slice(&version.to_le_bytes());
        entry[16] = standing.number();
    }
    let end = ENTRIES_FROM + standings.0.len() * ENTRY_BYTES;
    let crc = crc32c(&block[CHECKED_FROM..end]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn decode(block: &[u8]) -> Option<Standings> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
    let count = usize::try_from(u32_at(12)?).ok()?;
    let end = count.checked_mul(ENTRY_BYTES)?.checked_add(ENTRIES_FROM)?;
    if block.get(..8)? != MAGIC || crc32c(block.get(CHECKED_FROM..end)?) != u32_at(8)? {
        return None;
    }
    let entry = |entry: &[u8]| {
        let u64_at = |at: usize| Some(u64::from_le_bytes(entry.get(at..at + 8)?.try_into().ok()?));
        let standing = Standing::from_number(*entry.get(16)?)?;
        Some((NodeId(u64_at(0)?), (u64_at(8)?, standing)))
    };
    let entries = block[ENTRIES_FROM..end].chunks_exact(ENTRY_BYTES).map(entry);
    entries.collect::<Option<BTreeMap<_, _>>>().map(Standings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Standings {
        let mut standings = Standings::default();
        standings.say(NodeId(4), Standing::Emptied, 17);
        standings.say(NodeId(9), Standing::Drained, 18);
        standings
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut block = vec![0; BLOCK_BYTES];
        encode(&said(), &mut block);
        assert_eq!(decode(&block), Some(said()));
        for bit in 0..(ENTRIES_FROM + 2 * ENTRY_BYTES) * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(decode(b"short"), None);
    }

    #[test]
    fn the_later_word_counts_also_when_the_clock_goes_back() {
        let mut standings = said();
        standings.say(NodeId(4), Standing::Used, 3);
        assert_eq!(standings.of(NodeId(4)), Standing::Used);
        assert_eq!(standings.0[&NodeId(4)].0, 18);
        assert_eq!(standings.of(NodeId(5)), Standing::Used);
    }
}
