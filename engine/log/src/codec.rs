//! Fixed-width little-endian fields at fixed offsets. Nothing here panics on short input.

/// The `N` bytes at `at`, if they are there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// A counter: segment numbers, seqnos and openings stay below 2^62, so that they may be counted up without a check. No log
/// lives that long; a larger value was not written by this program.
pub(crate) fn counter_at(bytes: &[u8], at: usize) -> Option<u64> {
    u64_at(bytes, at).filter(|&counter| counter < 1 << 62)
}

/// Writes fields one after the other into a fixed array, so that a layout reads as a list.
pub(crate) struct Fields<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Fields<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    pub(crate) fn put(mut self, field: &[u8]) -> Self {
        let end = self.at + field.len();
        let room = self
            .bytes
            .get_mut(self.at..end)
            .expect("the layouts of this crate fit their arrays");
        room.copy_from_slice(field);
        self.at = end;
        self
    }

    /// The array; fields not written are zero.
    pub(crate) fn finish(self) -> [u8; N] {
        self.bytes
    }

    /// As [`Self::finish`], with the checksum of everything from byte 8 put into bytes 4 to 8.
    pub(crate) fn finish_checked(mut self) -> ([u8; N], u32) {
        let (head, rest) = self.bytes.split_at_mut(8);
        let checksum = base::checksum::crc32c(rest);
        let (_, place) = head.split_at_mut(4);
        place.copy_from_slice(&checksum.to_le_bytes());
        (self.bytes, checksum)
    }
}
