//! Bits that turn around on the disk of one node of a cluster: in its tables, manifests and log, while it runs and while it does not.
//! In some trials a block cannot be read any more instead.
//!
//! Fault model: the damage is on one node only, so that every range with three replicas has a quorum that has everything; a flip stays
//! within one block of 4 KiB. In the log only what something later says to have been durable is hit: the last batch before a power
//! failure cannot be told from one that never became whole.

use base::Prng;
use base::limits::BLOCK_BYTES;
use sim::{Sim, SimNodeId};
use std::collections::BTreeSet;

/// What a scenario has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flips {
    /// The node.
    pub victim: u16,
    /// After so many calls, on average.
    pub every: u64,
    /// That many bits at a time, at most.
    pub bits_max: u64,
    /// How many times at most.
    pub times: u64,
    /// When all calls have ended, and only then.
    pub at_end: bool,
    /// The block is not given by the disk any more, instead; of tables and manifests.
    pub unreadable: bool,
}

/// What kind of file was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A table.
    Table,
    /// A tablet's manifest.
    Manifest,
    /// A segment of the log.
    Log,
}

/// What was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The kind of file.
    pub kind: Kind,
    /// The file.
    pub file: String,
    /// The block.
    pub block: u64,
    /// Bits turned around; none of a block that the disk does not give any more.
    pub bits: u64,
}

/// Blocks of a file that may be hit.
type Place = (Kind, String, Vec<u64>);

fn word(block: &[u8], at: usize) -> u64 {
    let bytes = block.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

/// The greatest seqno that a segment says to have been durable, and the first segment that it says to be needed; zero when it says
/// nothing.
fn marks(bytes: &[u8]) -> (u64, u64) {
    let said = bytes.chunks(BLOCK_BYTES).map(|block| match block.get(..4) {
        Some(b"CLsg") => (word(block, 64), word(block, 40)),
        Some(b"CLba") => (word(block, 48), word(block, 56)),
        _ => (0, 0),
    });
    said.fold((0, 0), |(a, b), (c, d)| (a.max(c), b.max(d)))
}

/// Blocks of a segment that hold what was durable by `persisted` and is needed from segment `first_live` on: batches, and the header if
/// there is one of these.
fn durable_blocks(bytes: &[u8], (persisted, first_live): (u64, u64)) -> Vec<u64> {
    let mut blocks = Vec::new();
    let mut is_durable = false;
    for (at, block) in (0u64..).zip(bytes.chunks(BLOCK_BYTES)) {
        if block.starts_with(b"CLba") {
            is_durable = word(block, 40) <= persisted && word(block, 24) >= first_live;
        }
        if is_durable && block.iter().any(|byte| *byte != 0) {
            blocks.push(at);
        }
    }
    if !blocks.is_empty() && bytes.starts_with(b"CLsg") {
        blocks.push(0);
    }
    blocks
}

fn used_blocks(bytes: &[u8]) -> Vec<u64> {
    let used = (0u64..).zip(bytes.chunks(BLOCK_BYTES));
    let used = used.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    used.map(|(at, _)| at).collect()
}

fn places(sim: &Sim, node: SimNodeId) -> Vec<Place> {
    let files = sim.files(node);
    let bytes = |path: &str| sim.file_bytes(node, path).unwrap_or_default();
    let segments = files.iter().filter(|(path, _)| path.ends_with(".seg"));
    let said = segments.map(|(path, _)| marks(&bytes(path)));
    let marks = said.fold((0, 0), |(a, b), (c, d)| (a.max(c), b.max(d)));
    let mut places = Vec::new();
    for (path, _) in &files {
        let (kind, blocks) = if path.ends_with(".seg") {
            (Kind::Log, durable_blocks(&bytes(path), marks))
        } else if path.ends_with(".sst") {
            (Kind::Table, used_blocks(&bytes(path)))
        } else if path.ends_with("/MANIFEST") {
            (Kind::Manifest, used_blocks(&bytes(path)))
        } else {
            continue;
        };
        if !blocks.is_empty() {
            places.push((kind, path.clone(), blocks));
        }
    }
    places
}

/// Turns bits of one block around, or makes it unreadable. `None` when there is nothing to hit.
pub(crate) fn flip(sim: &mut Sim, node: SimNodeId, flips: &Flips, prng: &mut Prng) -> Option<Hit> {
    let mut places = places(sim, node);
    places.retain(|(kind, ..)| *kind != Kind::Log || !flips.unreadable);
    let kinds: Vec<Kind> = places
        .iter()
        .map(|(kind, ..)| *kind)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if kinds.is_empty() {
        return None;
    }
    let kind = kinds[prng.index(kinds.len())];
    let of_kind: Vec<&Place> = places.iter().filter(|place| place.0 == kind).collect();
    let (_, file, blocks) = of_kind[prng.index(of_kind.len())];
    let block = blocks[prng.index(blocks.len())];
    if flips.unreadable {
        sim.spoil_block(node, file, block);
        return Some(Hit {
            kind,
            file: file.clone(),
            block,
            bits: 0,
        });
    }
    let bits = 1 + prng.below(flips.bits_max);
    // Zeros behind what a block holds mean nothing in most formats.
    let bytes = sim.file_bytes(node, file).unwrap_or_default();
    let content = bytes
        .chunks(BLOCK_BYTES)
        .nth(usize::try_from(block).unwrap_or_default());
    let used = content.and_then(|block| block.iter().rposition(|byte| *byte != 0));
    let used = used.unwrap_or_default() as u64 + 1;
    let mut turned = BTreeSet::new();
    for _ in 0..bits {
        let bit = block * (BLOCK_BYTES as u64) * 8 + prng.below(used * 8);
        // Twice would be back again.
        if turned.insert(bit) {
            sim.flip_bit(node, file, bit);
        }
    }
    Some(Hit {
        kind,
        file: file.clone(),
        block,
        bits: turned.len() as u64,
    })
}
