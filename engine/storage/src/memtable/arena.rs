//! Where a memtable's records live: chunks that only grow, addressed in eight-byte units.
//!
//! ```text
//!   address (u32) = chunk (15 bits) │ offset in units of 8 bytes (17 bits)
//! ```
//!
//! Chunks start at 1 KiB and quadruple up to 1 MiB, so that an empty or small memtable costs little; a record larger than
//! that has a chunk of its own. Addresses ascend in time: what lies at or above a remembered [`Arena::end`] is younger than
//! the moment it was taken, which is all that a snapshot of a memtable needs.

/// Where a record begins. [`Addr::NONE`] is nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Addr(pub(crate) u32);

impl Addr {
    pub(crate) const NONE: Self = Self(0);
}

const UNIT: usize = 8;
const CHUNK_BYTES_MIN: usize = 1 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;
const OFFSET_BITS: u32 = 17;
const OFFSET_MASK: u32 = (1 << OFFSET_BITS) - 1;
const CHUNKS_MAX: usize = 1 << (32 - OFFSET_BITS);

const _: () = assert!(CHUNK_BYTES_MAX / UNIT == 1 << OFFSET_BITS);

#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Each has its full capacity from the start and never grows beyond it; its length is what is in use.
    chunks: Vec<Vec<u8>>,
    /// Bytes of all chunks.
    bytes: usize,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a chunk number has 15 bits and an offset 17"
)]
fn address(chunk: usize, offset: usize) -> Addr {
    Addr((chunk as u32) << OFFSET_BITS | (offset / UNIT) as u32)
}

impl Arena {
    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Above every record there is, at or below every record to come.
    pub(crate) fn end(&self) -> Addr {
        match self.chunks.len() {
            0 => Addr::NONE,
            // A record larger than a chunk ends beyond its chunk's addresses; the next one starts a chunk.
            chunks if self.used() >= CHUNK_BYTES_MAX => address(chunks, 0),
            chunks => address(chunks - 1, self.used()),
        }
    }

    /// Reserves `len` zeroed bytes.
    ///
    /// # Panics
    /// When 32,768 chunks are full: the memory budget stops writes long before.
    pub(crate) fn alloc(&mut self, len: usize) -> (Addr, &mut [u8]) {
        let padded = len.next_multiple_of(UNIT);
        let free = self
            .chunks
            .last()
            .map_or(0, |chunk| chunk.capacity() - chunk.len());
        if free < padded {
            self.grow(padded);
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let start = chunk.len();
        // Inside the capacity: the bytes do not move. Zeroing here, not when the chunk is made, touches memory only when it
        // is about to be written anyway.
        chunk.resize(start + padded, 0);
        (address(number, start), &mut chunk[start..start + len])
    }

    /// Bytes of the last chunk in use.
    fn used(&self) -> usize {
        self.chunks.last().map_or(0, Vec::len)
    }

    fn grow(&mut self, len: usize) {
        let first = self.chunks.is_empty();
        // Address zero means nowhere, so the first unit of the first chunk stays unused.
        let skip = if first { UNIT } else { 0 };
        let next = self.chunks.last().map_or(CHUNK_BYTES_MIN, |chunk| {
            (chunk.capacity() * 4).min(CHUNK_BYTES_MAX)
        });
        let size = next.max(len + skip);
        assert!(
            self.chunks.len() < CHUNKS_MAX,
            "a memtable has {CHUNKS_MAX} chunks already"
        );
        let mut chunk = Vec::with_capacity(size);
        chunk.resize(skip, 0);
        self.bytes += chunk.capacity();
        self.chunks.push(chunk);
    }

    /// The bytes from `addr` to the end of its chunk.
    #[inline]
    pub(crate) fn at(&self, addr: Addr) -> &[u8] {
        &self.chunks[(addr.0 >> OFFSET_BITS) as usize][(addr.0 & OFFSET_MASK) as usize * UNIT..]
    }

    /// The bytes from `addr` to the end of its chunk.
    pub(crate) fn at_mut(&mut self, addr: Addr) -> &mut [u8] {
        &mut self.chunks[(addr.0 >> OFFSET_BITS) as usize][(addr.0 & OFFSET_MASK) as usize * UNIT..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_all_sizes_keep_their_bytes_and_addresses_ascend() {
        let mut arena = Arena::default();
        assert_eq!((arena.bytes(), arena.end()), (0, Addr::NONE));
        let sizes = [
            1,
            8,
            900,
            5_000,
            CHUNK_BYTES_MAX,
            7,
            3 << 20,
            9,
            CHUNK_BYTES_MAX - 8,
            16,
            16,
        ];
        let mut at = Vec::new();
        let mut end = arena.end();
        for (i, size) in (0u8..).zip(sizes) {
            let (addr, bytes) = arena.alloc(size);
            bytes.fill(i + 1);
            assert_ne!(addr, Addr::NONE);
            assert!(
                addr >= end,
                "record {i} at {addr:?} lies below the end {end:?} before it"
            );
            end = arena.end();
            assert!(end > addr, "the end {end:?} is not above record {i} at {addr:?}");
            at.push((addr, size, i + 1));
        }
        for (addr, size, fill) in at {
            assert!(arena.at(addr)[..size].iter().all(|&b| b == fill), "record {fill}");
        }
    }
}
