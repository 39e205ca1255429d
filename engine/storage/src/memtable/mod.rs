//! The memtable: a tablet's newest writes, in memory, for one thread.
//!
//! ```text
//!             hash of the key                              order of the keys
//!                  │ HashIndex                                   │ ordered.rs
//!                  ▼                                            ▼
//!   ┌───────────────────────┐ prev  ┌──────────────────────────────┐
//!   │ newest record of key  │──────►│ … ──► first record (the node) │      records in an arena (arena.rs)
//!   └───────────────────────┘       └──────────────────────────────┘
//!        ▲        │ node                      ▲      │ head
//!        │        └───────────────────────────┘      │
//!        └───────────────────────────────────────────┘
//! ```
//!
//! New nodes wait in a list until somebody asks for the order, or there are many of them.
//!
//! A point read costs one miss in the hash index and one for the record, whose key and value lie in one piece. A scan walks
//! the nodes in key order and jumps to their heads.
//!
//! Invariants:
//! - Timestamps strictly increase along each key's records, except inside one entry, where the later operation replaces.
//! - A record, once another entry is applied, never changes but for its node's `head`.
//! - A [`Limit`] taken before an entry hides everything that the entry and later ones write.

mod arena;
mod ordered;

use crate::hash_index::HashIndex;
use crate::mvcc::tombstone::RangeTombstones;
use arena::{Addr, Arena};
use base::Timestamp;
use base::api::WriteOp;
use ordered::{Keys, OrderedIndex, Place};

/// What a record says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version<'a> {
    pub(crate) ts: Timestamp,
    /// The key was deleted at `ts`; the value is empty.
    pub(crate) deleted: bool,
    pub(crate) value: &'a [u8],
}

/// A moment in a memtable's life: a read with it sees nothing that was applied later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(Addr);

impl Limit {
    /// Sees everything.
    pub(crate) const NONE: Self = Self(Addr(u32::MAX));
}

/// A node, as handed out by [`Memtable::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(Addr);

/// Where a walk over the nodes begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'a> {
    /// At the first key `>=` this one, ascending.
    AtOrAbove(&'a [u8]),
    /// At the first key `>` this one, ascending.
    Above(&'a [u8]),
    /// At the last key `<` this one, descending; `None` is above every key.
    Below(Option<&'a [u8]>),
}

#[derive(Debug, Default)]
struct Records(Arena);

#[derive(Debug, Default)]
pub(crate) struct Memtable {
    records: Records,
    newest: HashIndex,
    ordered: OrderedIndex,
    /// Nodes that are not in `ordered` yet: putting many there at once, in order, costs less than one by one, and nobody asks
    /// for the order between two scans.
    unordered: Vec<Addr>,
    tombstones: RangeTombstones,
    versions: u64,
}

/// Nodes that wait to be put in order: little enough not to hold up a loop turn.
const UNORDERED_MAX: usize = 4096;

/// ts 12, value length and delete flag 4, key length 2, unused 2, prev 4, node 4, head 4.
const HEADER_BYTES: usize = 32;
const DELETED: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Header {
    ts: Timestamp,
    value_len: u32,
    deleted: bool,
    key_len: u16,
    /// The next older record of the key.
    prev: Addr,
    /// The key's first record.
    node: Addr,
    /// In a node: the key's newest record.
    head: Addr,
}

impl Header {
    #[inline]
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let wall_ns = u64::from(word(4)) << 32 | u64::from(word(0));
        let value = word(12);
        Self {
            ts: Timestamp::new(wall_ns, word(8)),
            value_len: value & !DELETED,
            deleted: value & DELETED != 0,
            key_len: u16::from_le_bytes([bytes[16], bytes[17]]),
            prev: Addr(word(20)),
            node: Addr(word(24)),
            head: Addr(word(28)),
        }
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&self.ts.wall_ns.to_le_bytes());
        out[8..12].copy_from_slice(&self.ts.logical.to_le_bytes());
        let value = self.value_len | if self.deleted { DELETED } else { 0 };
        out[12..16].copy_from_slice(&value.to_le_bytes());
        out[16..18].copy_from_slice(&self.key_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.prev.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.node.0.to_le_bytes());
        out[28..].copy_from_slice(&self.head.0.to_le_bytes());
        out
    }
}

impl Records {
    #[inline]
    fn header(&self, addr: Addr) -> (Header, &[u8]) {
        let (header, rest) = self
            .0
            .at(addr)
            .split_first_chunk()
            .expect("a record begins with its header");
        (Header::decode(header), rest)
    }

    fn set_header(&mut self, addr: Addr, header: &Header) {
        self.0.at_mut(addr)[..HEADER_BYTES].copy_from_slice(&header.encode());
    }

    #[inline]
    fn version<'a>(header: &Header, rest: &'a [u8]) -> Version<'a> {
        let value_start = header.key_len as usize;
        let value = &rest[value_start..value_start + header.value_len as usize];
        Version {
            ts: header.ts,
            deleted: header.deleted,
            value,
        }
    }
}

impl Keys for Records {
    #[inline]
    fn key(&self, node: Addr) -> &[u8] {
        let (header, rest) = self.header(node);
        &rest[..header.key_len as usize]
    }
}

impl Memtable {
    /// An empty memtable for keys that share their first `skip` bytes.
    pub(crate) fn new(skip: usize) -> Self {
        Self {
            ordered: OrderedIndex::new(skip),
            ..Self::default()
        }
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        let unordered = self.unordered.capacity() * size_of::<Addr>();
        self.records.0.bytes()
            + self.newest.bytes()
            + self.ordered.bytes()
            + unordered
            + self.tombstones.bytes()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions == 0 && self.tombstones.is_empty()
    }

    pub(crate) fn tombstones(&self) -> &RangeTombstones {
        &self.tombstones
    }

    /// Hides what is applied from now on.
    pub(crate) fn limit(&self) -> Limit {
        Limit(self.records.0.end())
    }

    /// Applies one entry. `hash` hashes keys; no `DeleteRange` reaches beyond `end`.
    ///
    /// # Panics
    /// When a key has a version at or above `ts` from an earlier entry, or is longer than the limit.
    pub(crate) fn apply<'a>(
        &mut self,
        ts: Timestamp,
        ops: impl Iterator<Item = WriteOp<'a>>,
        hash: impl Fn(&[u8]) -> u32,
        end: Option<&[u8]>,
    ) {
        let entry_start = self.records.0.end();
        let mut written = Vec::new();
        for op in ops {
            match op {
                WriteOp::Put { key, value } => {
                    written.push(self.write(entry_start, ts, hash(key), key, Some(value)));
                }
                WriteOp::Delete { key } => written.push(self.write(entry_start, ts, hash(key), key, None)),
                WriteOp::DeleteRange { start, end: to } => {
                    let to = match (to, end) {
                        (Some(to), Some(end)) => Some(to.min(end)),
                        (to, end) => to.or(end),
                    };
                    self.tombstones.insert(start, to, ts);
                    self.delete_written(&written, start, to);
                }
            }
        }
    }

    /// A tombstone hides only what is strictly older, so earlier writes of its own entry become deletes.
    fn delete_written(&mut self, written: &[Addr], start: &[u8], end: Option<&[u8]>) {
        for &addr in written {
            let key = self.records.key(addr);
            if start <= key && end.is_none_or(|end| key < end) {
                let (header, _) = self.records.header(addr);
                self.records.set_header(
                    addr,
                    &Header {
                        deleted: true,
                        value_len: 0,
                        ..header
                    },
                );
            }
        }
    }

    fn write(
        &mut self,
        entry_start: Addr,
        ts: Timestamp,
        hash: u32,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Addr {
        let key_len = u16::try_from(key.len()).expect("a key is at most 16 KiB");
        let value_bytes = value.unwrap_or_default();
        assert!(
            value_bytes.len() <= base::limits::VALUE_BYTES_MAX,
            "a value of {} bytes",
            value_bytes.len()
        );
        let value_len = u32::try_from(value_bytes.len()).expect("a value is at most 16 MiB");
        let records = &self.records;
        let newest = self
            .newest
            .find(hash, |addr| records.key(Addr(addr)) == key)
            .map(Addr);
        let (addr, bytes) = self.records.0.alloc(HEADER_BYTES + key.len() + value_bytes.len());
        bytes[HEADER_BYTES..HEADER_BYTES + key.len()].copy_from_slice(key);
        bytes[HEADER_BYTES + key.len()..].copy_from_slice(value_bytes);
        self.versions += 1;
        let mut header = Header {
            ts,
            value_len,
            deleted: value.is_none(),
            key_len,
            prev: Addr::NONE,
            node: addr,
            head: addr,
        };
        let Some(newest) = newest else {
            self.records.set_header(addr, &header);
            self.newest.insert(hash, addr.0);
            self.unordered.push(addr);
            if self.unordered.len() >= UNORDERED_MAX {
                self.put_in_order();
            }
            return addr;
        };
        let (old, _) = self.records.header(newest);
        header.node = old.node;
        if newest >= entry_start {
            // The same entry wrote the key before: this write takes its place in the chain.
            assert!(old.ts == ts, "one entry wrote a key at {} and at {ts}", old.ts);
            header.prev = old.prev;
        } else {
            assert!(
                old.ts < ts,
                "a write at {ts} follows one at {} of the same key",
                old.ts
            );
            header.prev = newest;
        }
        header.head = Addr::NONE;
        self.records.set_header(addr, &header);
        let (node, _) = self.records.header(header.node);
        self.records
            .set_header(header.node, &Header { head: addr, ..node });
        self.newest.replace(hash, newest.0, addr.0);
        addr
    }

    /// The newest version of `key` at or below `read_ts`.
    #[inline]
    pub(crate) fn get(&self, hash: u32, key: &[u8], read_ts: Timestamp) -> Option<Version<'_>> {
        let newest = self
            .newest
            .find(hash, |addr| self.records.key(Addr(addr)) == key)?;
        self.visible(Addr(newest), read_ts, Limit::NONE)
    }

    #[inline]
    fn visible(&self, newest: Addr, read_ts: Timestamp, limit: Limit) -> Option<Version<'_>> {
        let mut addr = newest;
        while addr != Addr::NONE {
            let (header, rest) = self.records.header(addr);
            if header.ts <= read_ts && addr < limit.0 {
                return Some(Records::version(&header, rest));
            }
            addr = header.prev;
        }
        None
    }

    /// Starts the first cache miss of a coming [`Self::get`].
    #[inline]
    pub(crate) fn prefetch_index(&self, hash: u32) {
        self.newest.prefetch(hash);
    }

    /// Starts the second one, when the first has come back.
    #[inline]
    pub(crate) fn prefetch_record(&self, hash: u32) {
        if let Some(addr) = self.newest.guess(hash) {
            base::prefetch::prefetch_lines(self.records.0.at(Addr(addr)), 3);
        }
    }

    /// Brings the order up to date.
    fn put_in_order(&mut self) {
        self.ordered.extend(&self.records, &mut self.unordered);
    }

    /// Appends up to `max` nodes in the order that `from` says.
    pub(crate) fn nodes(&mut self, from: From<'_>, max: usize, out: &mut Vec<Node>) {
        self.put_in_order();
        let (mut place, reverse) = match from {
            From::AtOrAbove(key) => (self.ordered.seek(&self.records, key, false), false),
            From::Above(key) => (self.ordered.seek(&self.records, key, true), false),
            From::Below(Some(key)) => (self.ordered.seek(&self.records, key, false), true),
            From::Below(None) => (self.ordered.end(), true),
        };
        let step = |place: &mut Place| {
            if reverse {
                self.ordered.prev(place)
            } else {
                self.ordered.next(place)
            }
        };
        out.extend(core::iter::from_fn(|| step(&mut place)).take(max).map(Node));
    }

    /// A node's key.
    pub(crate) fn key(&self, node: Node) -> &[u8] {
        self.records.key(node.0)
    }

    /// The newest version of a node's key at or below `read_ts`, as of `limit`.
    pub(crate) fn node_version(&self, node: Node, read_ts: Timestamp, limit: Limit) -> Option<Version<'_>> {
        self.visible(self.records.header(node.0).0.head, read_ts, limit)
    }

    /// Every version of a node's key, newest first.
    pub(crate) fn node_versions(&self, node: Node) -> impl Iterator<Item = Version<'_>> {
        let mut addr = self.records.header(node.0).0.head;
        core::iter::from_fn(move || {
            if addr == Addr::NONE {
                return None;
            }
            let (header, rest) = self.records.header(addr);
            addr = header.prev;
            Some(Records::version(&header, rest))
        })
    }
}

#[cfg(test)]
mod tests;
