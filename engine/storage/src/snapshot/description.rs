//! What a raft snapshot says of itself, and its bytes. Pure.
//!
//! The bytes are a header and the body of a manifest's first edit: the state is the same, and so is its decoder.
//! A description has exactly one encoding, and no other is accepted.

use super::SnapshotError;
use crate::manifest::edit::{Description, VersionEdit};
use crate::sstable::codec::Decoder;
use crate::sstable::reader::TableMeta;
use base::checksum::crc32c;
use base::key::Span;
use base::limits::BLOCK_BYTES;
use base::{Index, RangeId, Timestamp};

const MAGIC: u64 = u64::from_le_bytes(*b"corelsnp");
const VERSION: u32 = 1;
/// Magic and checksum: what the checksum does not cover.
const SEAL_BYTES: usize = 12;

/// The state that a raft snapshot stands for, apart from the content of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDescription {
    range: RangeId,
    /// Of no split; its tables are numbered from the oldest, which is 1.
    pub(super) state: Description,
}

/// One file of a raft snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Names it in this snapshot and in every other one that has it.
    pub id: u64,
    /// Its length: a multiple of 4 KiB, and not zero.
    pub bytes: u64,
}

impl SnapshotDescription {
    /// The description of a state with these tables, newest first.
    pub(super) fn new(range: RangeId, mut state: Description) -> Self {
        let count = state.tables.len() as u64;
        for (number, meta) in (1..=count).rev().zip(&mut state.tables) {
            meta.number = number;
        }
        (state.split_from, state.next_table) = (None, count + 1);
        Self { range, state }
    }

    /// The range.
    #[must_use]
    pub fn range(&self) -> RangeId {
        self.range
    }

    /// The range's keys.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.state.span
    }

    /// The last entry whose writes it has.
    #[must_use]
    pub fn index(&self) -> Index {
        self.state.flushed_index
    }

    /// The replica's opaque state as of [`Self::index`].
    #[must_use]
    pub fn app_state(&self) -> &[u8] {
        &self.state.app_state
    }

    /// No read below it can be served from the snapshot.
    #[must_use]
    pub fn gc_threshold(&self) -> Timestamp {
        self.state.gc_threshold
    }

    /// Its files, in the order in which they are sent.
    pub fn files(&self) -> impl Iterator<Item = SnapshotFile> {
        let file = |meta: &TableMeta| SnapshotFile {
            id: meta.uid,
            bytes: meta.bytes,
        };
        self.state.tables.iter().map(file)
    }

    /// Its bytes; see `docs/formats.md`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = self.state.snapshot().encode();
        let mut out = Vec::with_capacity(SEAL_BYTES + 12 + body.len());
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.range.0.to_le_bytes());
        out.extend_from_slice(&body);
        let checksum = crc32c(&out[SEAL_BYTES..]);
        out[SEAL_BYTES - 4..SEAL_BYTES].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a description from a peer. Allocates no more than a few times the length of `bytes`, which the caller bounds.
    ///
    /// # Errors
    /// [`SnapshotError::Malformed`] unless `bytes` is exactly a description that [`Self::encode`] gives.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let malformed = |what| SnapshotError::Malformed { what };
        let mut header = Decoder(bytes);
        if header.u64() != Some(MAGIC) {
            return Err(malformed("magic"));
        }
        let checksum = header.u32().ok_or(malformed("header"))?;
        if crc32c(header.0) != checksum {
            return Err(malformed("checksum"));
        }
        if header.u32() != Some(VERSION) {
            return Err(malformed("version"));
        }
        let range = header.u64().map(RangeId).ok_or(malformed("header"))?;
        let edit = VersionEdit::decode(header.0).ok_or(malformed("structure"))?;
        if !edit.removed.is_empty() || edit.split_from.is_some() {
            return Err(malformed("kinds of fields"));
        }
        let state = Description::begin(&edit).ok_or(malformed("completeness"))?;
        if state.span.is_empty() {
            return Err(malformed("span"));
        }
        check_tables(&state.tables).map_err(malformed)?;
        let description = Self { range, state };
        if description.encode() != bytes {
            return Err(malformed("encoding"));
        }
        Ok(description)
    }
}

/// Numbers as [`SnapshotDescription::new`] gives them, lengths of whole blocks that can be added up, no table twice.
fn check_tables(tables: &[TableMeta]) -> Result<(), &'static str> {
    let numbers = (1..=tables.len() as u64).rev();
    if !tables.iter().map(|meta| meta.number).eq(numbers) {
        return Err("numbers of tables");
    }
    let whole = |meta: &TableMeta| meta.bytes > 0 && meta.bytes.is_multiple_of(BLOCK_BYTES as u64);
    if !tables.iter().all(whole) {
        return Err("lengths of tables");
    }
    if tables
        .iter()
        .try_fold(0u64, |sum, meta| sum.checked_add(meta.bytes))
        .is_none()
    {
        return Err("length of all tables");
    }
    let mut uids: Vec<u64> = tables.iter().map(|meta| meta.uid).collect();
    uids.sort_unstable();
    if uids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("ids of tables");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sstable::reader::Family;
    use proptest::prelude::*;
    use std::rc::Rc;

    fn description(tables: u64) -> SnapshotDescription {
        let meta = |number| TableMeta {
            number: 90 - number,
            uid: number * 7919,
            bytes: 4096 * (number + 1),
            family: Family::Versions,
        };
        let state = Description {
            span: Span::new(b"a", Some(b"m")),
            flushed_index: Index(300),
            app_state: Rc::from(*b"state"),
            gc_threshold: Timestamp::new(5, 6),
            split_from: Some((RangeId(4), Index(9))),
            tables: (0..tables).map(meta).collect(),
            next_table: 91,
        };
        SnapshotDescription::new(RangeId(17), state)
    }

    /// The bytes with another body, and the checksum that belongs to it.
    fn with_body(edit: &VersionEdit) -> Vec<u8> {
        let mut bytes = description(0).encode()[..SEAL_BYTES + 12].to_vec();
        bytes.extend(edit.encode());
        seal(&mut bytes);
        bytes
    }

    fn seal(bytes: &mut [u8]) {
        let checksum = crc32c(&bytes[SEAL_BYTES..]);
        bytes[SEAL_BYTES - 4..SEAL_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    #[test]
    fn descriptions_round_trip() {
        for tables in [0, 1, 3] {
            let description = description(tables);
            assert_eq!(
                SnapshotDescription::decode(&description.encode()),
                Ok(description)
            );
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_refused() {
        let bytes = description(2).encode();
        for at in 0..bytes.len() {
            for change in 1..=255 {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                SnapshotDescription::decode(&changed).expect_err("a byte has changed");
            }
            SnapshotDescription::decode(&bytes[..at]).expect_err("cut");
        }
        SnapshotDescription::decode(&[&bytes[..], &[0]].concat()).expect_err("longer");
    }

    #[test]
    fn changed_bytes_with_the_right_checksum_are_refused_or_say_something_else() {
        let bytes = description(2).encode();
        let (mut refused, mut others) = (0, 0);
        for at in SEAL_BYTES..bytes.len() {
            for change in 1..=255 {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                seal(&mut changed);
                match SnapshotDescription::decode(&changed) {
                    Ok(other) => {
                        assert_eq!(other.encode(), changed);
                        others += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(
            refused > 1_000 && others > 1_000,
            "{refused} refused, {others} others"
        );
    }

    #[test]
    fn what_no_tablet_has_is_refused_and_named() {
        let sound = description(2).state.snapshot();
        let table = |number, uid, bytes| TableMeta {
            number,
            uid,
            bytes,
            family: Family::Versions,
        };
        let cases = [
            (
                "kinds of fields",
                VersionEdit {
                    removed: vec![1],
                    ..sound.clone()
                },
            ),
            (
                "kinds of fields",
                VersionEdit {
                    split_from: Some((RangeId(1), Index(1))),
                    ..sound.clone()
                },
            ),
            (
                "completeness",
                VersionEdit {
                    flushed: None,
                    ..sound.clone()
                },
            ),
            (
                "span",
                VersionEdit {
                    span: Some(Span::new(b"m", Some(b"m"))),
                    ..sound.clone()
                },
            ),
            (
                "numbers of tables",
                VersionEdit {
                    added: vec![table(1, 1, 4096), table(2, 2, 4096)],
                    ..sound.clone()
                },
            ),
            (
                "lengths of tables",
                VersionEdit {
                    added: vec![table(1, 1, 0)],
                    ..sound.clone()
                },
            ),
            (
                "lengths of tables",
                VersionEdit {
                    added: vec![table(1, 1, 4097)],
                    ..sound.clone()
                },
            ),
            (
                "length of all tables",
                VersionEdit {
                    added: vec![table(2, 1, 1 << 63), table(1, 2, 1 << 63)],
                    ..sound.clone()
                },
            ),
            (
                "ids of tables",
                VersionEdit {
                    added: vec![table(2, 1, 4096), table(1, 1, 4096)],
                    ..sound.clone()
                },
            ),
            (
                "encoding",
                VersionEdit {
                    gc_threshold: None,
                    ..sound.clone()
                },
            ),
        ];
        for (what, edit) in cases {
            assert_eq!(
                SnapshotDescription::decode(&with_body(&edit)),
                Err(SnapshotError::Malformed { what })
            );
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..90)) {
            let _ = SnapshotDescription::decode(&bytes);
            let mut bytes = [&description(0).encode()[..SEAL_BYTES + 12], &bytes].concat();
            seal(&mut bytes);
            let _ = SnapshotDescription::decode(&bytes);
        }
    }
}
