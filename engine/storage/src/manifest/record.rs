//! The manifest's bytes: records of whole blocks, and what to make of a file of them. Pure.

use super::edit::{Description, VersionEdit};
use crate::sstable::codec::Decoder;
use crate::sstable::format::Mismatch;
use base::checksum::{crc32c, extend};
use base::limits::BLOCK_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"corelman");
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Edit = 1,
    Seal = 2,
}

/// Where a manifest goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The file's unique id.
    pub(crate) id: u64,
    /// The number of the last edit.
    pub(crate) seq: u64,
    /// The checksum of the last edit's header.
    pub(crate) chain: u32,
    /// Where the next record goes.
    pub(crate) offset: u64,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    kind: Kind,
    body_len: u32,
    id: u64,
    /// Of an edit its number, from 1; of a seal the number of the edit it seals.
    seq: u64,
    /// The checksum of the header of the edit before, or of the edit sealed.
    chain: u32,
    body_crc: u32,
    crc: u32,
}

fn header_crc(bytes: &[u8], offset: u64) -> u32 {
    extend(crc32c(&bytes[..HEADER_BYTES - 4]), &offset.to_le_bytes())
}

impl Header {
    fn decode(bytes: &[u8], offset: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let mut decoder = Decoder(bytes);
        let (magic, id, seq) = (decoder.u64()?, decoder.u64()?, decoder.u64()?);
        let words = (
            decoder.u32()?,
            decoder.u32()?,
            decoder.u32()?,
            decoder.u32()?,
            decoder.u32()?,
            decoder.u32()?,
        );
        let (version_and_kind, body_len, chain, body_crc, reserved, crc) = words;
        let kind = match version_and_kind {
            k if k == u32::from(VERSION) | (Kind::Edit as u32) << 16 => Kind::Edit,
            k if k == u32::from(VERSION) | (Kind::Seal as u32) << 16 => Kind::Seal,
            _ => return None,
        };
        let valid = magic == MAGIC && reserved == 0 && crc == header_crc(bytes, offset);
        valid.then_some(Self {
            kind,
            body_len,
            id,
            seq,
            chain,
            body_crc,
            crc,
        })
    }
}

impl Tail {
    /// A manifest without edits.
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            seq: 0,
            chain: 0,
            offset: 0,
        }
    }

    /// Appends the next edit's blocks to `out` and moves behind them.
    pub(crate) fn push_edit(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        self.seq += 1;
        self.chain = self.push(out, Kind::Edit, body);
    }

    /// Appends the last edit's seal to `out` and moves behind it.
    pub(crate) fn push_seal(&mut self, out: &mut Vec<u8>) {
        self.push(out, Kind::Seal, &[]);
    }

    fn push(&mut self, out: &mut Vec<u8>, kind: Kind, body: &[u8]) -> u32 {
        let start = out.len();
        for word in [MAGIC, self.id, self.seq] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let body_len = u32::try_from(body.len()).expect("an edit is below 4 GiB");
        let version_and_kind = u32::from(VERSION) | (kind as u32) << 16;
        for word in [version_and_kind, body_len, self.chain, crc32c(body), 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let crc = extend(crc32c(&out[start..]), &self.offset.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(body);
        out.resize(start + (out.len() - start).next_multiple_of(BLOCK_BYTES), 0);
        self.offset += (out.len() - start) as u64;
        crc
    }
}

/// What a manifest's bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) description: Description,
    pub(crate) tail: Tail,
    /// Whether there were bytes behind the last complete edit.
    pub(crate) torn: bool,
}

/// Damage at an offset.
pub(crate) type Damaged = (u64, Mismatch);

/// Reads a whole manifest.
///
/// | at the next record's place | anything later of this file behind it | then |
/// |---|---|---|
/// | complete edit | – | apply it |
/// | seal of the last edit | – | skip it |
/// | nothing, or an incomplete edit | no | the end; torn when there are bytes |
/// | nothing, or an incomplete edit | seal of it, or a later edit | corruption |
/// | anything, and it is the first | – | corruption |
pub(crate) fn recover(bytes: &[u8]) -> Result<Recovered, Damaged> {
    let first = Header::decode(bytes, 0).filter(|header| header.seq == 1);
    let no_start = (
        0,
        Mismatch {
            what: "manifest header",
            expected: MAGIC,
            found: first_word(bytes),
        },
    );
    let mut tail = Tail::new(first.ok_or(no_start)?.id);
    let mut description: Option<Description> = None;
    loop {
        match next(bytes, tail) {
            Next::Edit(edit, after) => {
                let applied = match &mut description {
                    Some(description) => description.apply(&edit),
                    None => Description::begin(&edit)
                        .map(|begun| description = Some(begun))
                        .is_some(),
                };
                if !applied {
                    let found = after.seq;
                    return Err((
                        tail.offset,
                        Mismatch {
                            what: "edit that fits",
                            expected: tail.seq,
                            found,
                        },
                    ));
                }
                tail = after;
            }
            Next::Seal(after) => tail = after,
            Next::Malformed => {
                return Err((
                    tail.offset,
                    Mismatch {
                        what: "edit structure",
                        expected: tail.seq + 1,
                        found: 0,
                    },
                ));
            }
            Next::Broken => {
                let missing = Mismatch {
                    what: "edit checksum",
                    expected: tail.seq + 1,
                    found: first_word(rest(bytes, tail)),
                };
                let Some(description) = description.filter(|_| !is_witnessed(bytes, tail)) else {
                    return Err((tail.offset, missing));
                };
                let torn = rest(bytes, tail).iter().any(|&b| b != 0);
                return Ok(Recovered {
                    description,
                    tail,
                    torn,
                });
            }
        }
    }
}

enum Next {
    Edit(VersionEdit, Tail),
    Seal(Tail),
    /// Nothing complete.
    Broken,
    /// Complete, and yet not an edit that this version of the format knows.
    Malformed,
}

fn rest(bytes: &[u8], tail: Tail) -> &[u8] {
    usize::try_from(tail.offset)
        .ok()
        .and_then(|at| bytes.get(at..))
        .unwrap_or_default()
}

fn first_word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn next(bytes: &[u8], tail: Tail) -> Next {
    let rest = rest(bytes, tail);
    let header =
        Header::decode(rest, tail.offset).filter(|header| header.id == tail.id && header.chain == tail.chain);
    let Some(header) = header else { return Next::Broken };
    let body_end = HEADER_BYTES + header.body_len as usize;
    let len = body_end.next_multiple_of(BLOCK_BYTES);
    let Some(record) = rest.get(..len) else {
        return Next::Broken;
    };
    let body = &record[HEADER_BYTES..body_end];
    if crc32c(body) != header.body_crc || record[body_end..].iter().any(|&b| b != 0) {
        return Next::Broken;
    }
    let offset = tail.offset + len as u64;
    match header.kind {
        Kind::Seal if header.seq == tail.seq => Next::Seal(Tail { offset, ..tail }),
        Kind::Edit if header.seq == tail.seq + 1 => match VersionEdit::decode(body) {
            Some(edit) => Next::Edit(
                edit,
                Tail {
                    seq: header.seq,
                    chain: header.crc,
                    offset,
                    ..tail
                },
            ),
            None => Next::Malformed,
        },
        Kind::Seal | Kind::Edit => Next::Broken,
    }
}

/// Whether something at or behind the tail was written after the edit that should stand there was durable.
fn is_witnessed(bytes: &[u8], tail: Tail) -> bool {
    let mut offset = tail.offset;
    rest(bytes, tail).chunks(BLOCK_BYTES).any(|block| {
        let header = Header::decode(block, offset).filter(|header| header.id == tail.id);
        offset += BLOCK_BYTES as u64;
        header.is_some_and(|header| match header.kind {
            Kind::Seal => header.seq > tail.seq,
            Kind::Edit => header.seq > tail.seq + 1,
        })
    })
}
