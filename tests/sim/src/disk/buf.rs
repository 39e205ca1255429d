//! The aligned buffer of the simulated disks.

use base::limits::BLOCK_BYTES;
use core::fmt;
use core::ops::{Deref, DerefMut};

/// An owned buffer, aligned to [`BLOCK_BYTES`]: a vector with room to start at an aligned address.
pub struct SimBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl SimBuf {
    /// A zeroed buffer of `len` bytes.
    ///
    /// # Panics
    /// When `len` is zero or not a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        assert!(
            len > 0 && len.is_multiple_of(BLOCK_BYTES),
            "a buffer of {len} bytes is not a whole number of blocks"
        );
        let bytes = vec![0; len + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Self { bytes, start, len }
    }
}

impl Deref for SimBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for SimBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl fmt::Debug for SimBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimBuf({})", self.len)
    }
}
