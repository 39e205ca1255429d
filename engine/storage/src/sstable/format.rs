//! The bytes around a table's blocks: trailers, handles, properties, tombstones, footer.

use super::block::Layout;
use super::codec::{Decoder, put_bytes, put_optional_bytes, put_timestamp, put_varint};
use crate::Compression;
use crate::mvcc::tombstone::RangeTombstones;
use base::Timestamp;
use base::checksum::{crc32c, extend};
use core::ops::Range;

/// What a block holds. New kinds (intents) get new numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Versions.
    Data = 1,
    /// Filter and index of the data blocks before it.
    Partition = 2,
    /// Range tombstones.
    Tombstones = 3,
    /// Properties.
    Properties = 4,
    /// Index of the partitions.
    Top = 5,
}

/// Where a block lies, trailer included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// What was checked, what it should have been and what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) what: &'static str,
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

pub(crate) const TRAILER_BYTES: usize = 12;
pub(crate) const FOOTER_BYTES: usize = 56;
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"corelsst");
pub(crate) const VERSION: u32 = 1;
/// No block is longer, raw: the largest value, its key, and a wide margin.
const RAW_BYTES_MAX: usize = 256 << 20;

const STORED: u8 = 0;
const LZ4: u8 = 1;

impl Handle {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        put_varint(&mut out, self.offset);
        put_varint(&mut out, u64::from(self.len));
        out
    }

    /// `None` unless `bytes` is exactly a handle of a block inside the first `limit` bytes of the file.
    pub(crate) fn decode(bytes: &[u8], limit: u64) -> Option<Self> {
        let mut decoder = Decoder(bytes);
        let (offset, len) = (decoder.varint()?, u32::try_from(decoder.varint()?).ok()?);
        let fits = offset.checked_add(u64::from(len))? <= limit && len as usize >= TRAILER_BYTES;
        (fits && decoder.is_empty()).then_some(Self { offset, len })
    }

    pub(crate) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

fn block_crc(payload_and_trailer: &[u8], uid: u64, offset: u64) -> u32 {
    extend(
        extend(crc32c(payload_and_trailer), &uid.to_le_bytes()),
        &offset.to_le_bytes(),
    )
}

/// Appends `raw` as the block that begins at `offset` of the table; returns its length on disk.
///
/// # Panics
/// When `raw` is larger than any block may be.
pub(crate) fn seal(
    out: &mut Vec<u8>,
    uid: u64,
    offset: u64,
    kind: Kind,
    compression: Compression,
    raw: &[u8],
) -> u32 {
    assert!(raw.len() <= RAW_BYTES_MAX, "a block of {} bytes", raw.len());
    let start = out.len();
    let stored = match compression {
        Compression::None => STORED,
        Compression::Lz4 => {
            let room = lz4_flex::block::get_maximum_output_size(raw.len());
            out.resize(start + room, 0);
            let packed =
                lz4_flex::block::compress_into(raw, &mut out[start..]).expect("the room is the maximum");
            out.truncate(start + packed);
            // Compression that saves little costs every read for nothing.
            if packed < raw.len() - raw.len() / 8 {
                LZ4
            } else {
                STORED
            }
        }
    };
    if stored == STORED {
        out.truncate(start);
        out.extend_from_slice(raw);
    }
    out.extend_from_slice(&[kind as u8, stored, 0, 0]);
    let raw_len = u32::try_from(raw.len()).expect("bounded above");
    out.extend_from_slice(&raw_len.to_le_bytes());
    let crc = block_crc(&out[start..], uid, offset);
    out.extend_from_slice(&crc.to_le_bytes());
    u32::try_from(out.len() - start).expect("a block is below 4 GiB")
}

/// Checks and unpacks the block that begins at `offset` of the table.
pub(crate) fn unseal(bytes: &[u8], uid: u64, offset: u64, kind: Kind) -> Result<Vec<u8>, Mismatch> {
    let short = Mismatch {
        what: "block length",
        expected: TRAILER_BYTES as u64,
        found: bytes.len() as u64,
    };
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(short)?;
    let (payload, trailer) = covered.split_last_chunk::<8>().ok_or(short)?;
    let (expected, found) = (block_crc(covered, uid, offset), u32::from_le_bytes(*crc));
    if expected != found {
        return Err(Mismatch {
            what: "block checksum",
            expected: expected.into(),
            found: found.into(),
        });
    }
    let [found_kind, stored, _, _, l0, l1, l2, l3] = *trailer;
    if found_kind != kind as u8 {
        return Err(Mismatch {
            what: "block kind",
            expected: kind as u64,
            found: found_kind.into(),
        });
    }
    let raw_len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if raw_len > RAW_BYTES_MAX {
        return Err(Mismatch {
            what: "unpacked length",
            expected: RAW_BYTES_MAX as u64,
            found: raw_len as u64,
        });
    }
    let (unpacked, raw) = match stored {
        STORED => (payload.len(), payload.to_vec()),
        LZ4 => {
            let mut raw = vec![0; raw_len];
            (
                lz4_flex::block::decompress_into(payload, &mut raw).unwrap_or(0),
                raw,
            )
        }
        other => {
            return Err(Mismatch {
                what: "compression",
                expected: LZ4.into(),
                found: other.into(),
            });
        }
    };
    if unpacked != raw_len {
        return Err(Mismatch {
            what: "unpacked length",
            expected: raw_len as u64,
            found: unpacked as u64,
        });
    }
    Ok(raw)
}

/// A checked block in memory.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) data: Vec<u8>,
    /// Of a partition; empty in other blocks.
    filter: Range<usize>,
    pub(crate) layout: Layout,
}

impl Block {
    /// Checks the inner structure of a data, partition or top block.
    pub(crate) fn parse(data: Vec<u8>, kind: Kind) -> Result<Self, Mismatch> {
        let malformed = Mismatch {
            what: "block structure",
            expected: kind as u64,
            found: data.len() as u64,
        };
        let filter = match kind {
            Kind::Partition => {
                let len = Decoder(&data).u32().ok_or(malformed)? as usize;
                4..len
                    .checked_add(4)
                    .filter(|&end| end <= data.len())
                    .ok_or(malformed)?
            }
            Kind::Data | Kind::Top | Kind::Tombstones | Kind::Properties => 0..0,
        };
        let layout = Layout::check(&data, filter.end..data.len()).ok_or(malformed)?;
        Ok(Self { data, filter, layout })
    }

    pub(crate) fn filter(&self) -> &[u8] {
        &self.data[self.filter.clone()]
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.data.capacity() + self.layout.bytes() + size_of::<Self>()
    }
}

/// A partition's raw block: filter, then index.
pub(crate) fn encode_partition(filter: &[u8], index: &[u8]) -> Vec<u8> {
    let len = u32::try_from(filter.len()).expect("a filter is below 4 GiB");
    [&len.to_le_bytes(), filter, index].concat()
}

/// The first and the last of a table's user keys.
pub(crate) type KeyRange = (Box<[u8]>, Box<[u8]>);

/// What a table says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// The first and the last user key; `None` when there are only range tombstones.
    pub(crate) keys: Option<KeyRange>,
    /// User keys.
    pub(crate) key_count: u64,
    /// Versions, deletes included.
    pub(crate) version_count: u64,
    /// Versions that are deletes.
    pub(crate) delete_count: u64,
    /// The oldest and the newest timestamp of a version.
    pub(crate) ts: (Timestamp, Timestamp),
    /// User keys and values, before any encoding.
    pub(crate) raw_bytes: u64,
}

impl Properties {
    /// Takes a version into account. `ts` begins as `(MAX, ZERO)`.
    pub(crate) fn count(
        &mut self,
        key: &[u8],
        ts: Timestamp,
        deleted: bool,
        value_len: usize,
        new_key: bool,
    ) {
        self.version_count += 1;
        self.delete_count += u64::from(deleted);
        self.raw_bytes += (key.len() + value_len) as u64;
        self.ts = (self.ts.0.min(ts), self.ts.1.max(ts));
        if new_key {
            self.key_count += 1;
            match &mut self.keys {
                Some((_, last)) => *last = key.into(),
                None => self.keys = Some((key.into(), key.into())),
            }
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_optional_bytes(&mut out, self.keys.as_ref().map(|keys| &*keys.0));
        put_optional_bytes(&mut out, self.keys.as_ref().map(|keys| &*keys.1));
        for number in [
            self.key_count,
            self.version_count,
            self.delete_count,
            self.raw_bytes,
        ] {
            put_varint(&mut out, number);
        }
        put_timestamp(&mut out, self.ts.0);
        put_timestamp(&mut out, self.ts.1);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder(bytes);
        let keys = match (decoder.optional_bytes()?, decoder.optional_bytes()?) {
            (Some(first), Some(last)) if first <= last => Some((first.into(), last.into())),
            (None, None) => None,
            (Some(_) | None, Some(_) | None) => return None,
        };
        let (key_count, version_count) = (decoder.varint()?, decoder.varint()?);
        let (delete_count, raw_bytes) = (decoder.varint()?, decoder.varint()?);
        let ts = (decoder.timestamp()?, decoder.timestamp()?);
        decoder.is_empty().then_some(Self {
            keys,
            key_count,
            version_count,
            delete_count,
            ts,
            raw_bytes,
        })
    }
}

pub(crate) fn encode_tombstones(tombstones: &RangeTombstones) -> Vec<u8> {
    let mut out = Vec::new();
    for fragment in tombstones.fragments() {
        put_bytes(&mut out, fragment.start);
        put_optional_bytes(&mut out, fragment.end);
        put_varint(&mut out, fragment.timestamps.len() as u64);
        for &ts in fragment.timestamps {
            put_timestamp(&mut out, ts);
        }
    }
    out
}

pub(crate) fn decode_tombstones(bytes: &[u8]) -> Option<RangeTombstones> {
    let mut tombstones = RangeTombstones::default();
    let mut decoder = Decoder(bytes);
    while !decoder.is_empty() {
        let (start, end) = (decoder.bytes()?, decoder.optional_bytes()?);
        for _ in 0..decoder.varint()? {
            tombstones.insert(start, end, decoder.timestamp()?);
        }
    }
    Some(tombstones)
}

/// The last bytes of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) uid: u64,
    /// The whole file.
    pub(crate) file_bytes: u64,
    /// Where the tombstones begin; properties and top index follow.
    pub(crate) meta_offset: u64,
    pub(crate) tombstones_len: u32,
    pub(crate) properties_len: u32,
    pub(crate) top_len: u32,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for word in [self.uid, self.file_bytes, self.meta_offset] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.tombstones_len, self.properties_len, self.top_len] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out.try_into().expect("a footer has its length")
    }

    /// Checks the footer of the table that the manifest knows by `uid` and `file_bytes`.
    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES], uid: u64, file_bytes: u64) -> Result<Self, Mismatch> {
        let check = |what, expected: u64, found: u64| {
            if expected == found {
                Ok(())
            } else {
                Err(Mismatch {
                    what,
                    expected,
                    found,
                })
            }
        };
        let mut decoder = Decoder(bytes);
        let mut u64 = || decoder.u64().unwrap_or_default();
        let (magic, version, found_uid, found_bytes, meta_offset) = (u64(), u64(), u64(), u64(), u64());
        let mut u32 = || decoder.u32().unwrap_or_default();
        let (tombstones_len, properties_len, top_len, crc) = (u32(), u32(), u32(), u32());
        check("footer magic", MAGIC, magic)?;
        check(
            "footer checksum",
            crc32c(&bytes[..FOOTER_BYTES - 4]).into(),
            crc.into(),
        )?;
        check("table version", VERSION.into(), version)?;
        check("table id", uid, found_uid)?;
        check("table length", file_bytes, found_bytes)?;
        let footer = Self {
            uid,
            file_bytes,
            meta_offset,
            tombstones_len,
            properties_len,
            top_len,
        };
        let meta_end = footer.top().end();
        let room = file_bytes.saturating_sub(FOOTER_BYTES as u64);
        if meta_offset > room || meta_end > room {
            return Err(Mismatch {
                what: "end of the metadata",
                expected: room,
                found: meta_end,
            });
        }
        Ok(footer)
    }

    pub(crate) fn tombstones(&self) -> Handle {
        Handle {
            offset: self.meta_offset,
            len: self.tombstones_len,
        }
    }

    pub(crate) fn properties(&self) -> Handle {
        Handle {
            offset: self
                .tombstones()
                .offset
                .saturating_add(self.tombstones_len.into()),
            len: self.properties_len,
        }
    }

    pub(crate) fn top(&self) -> Handle {
        Handle {
            offset: self
                .properties()
                .offset
                .saturating_add(self.properties_len.into()),
            len: self.top_len,
        }
    }
}
