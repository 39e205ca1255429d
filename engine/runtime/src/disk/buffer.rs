//! Aligned memory for direct I/O.

use base::limits::BLOCK_BYTES;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};

/// An owned buffer: aligned to [`BLOCK_BYTES`], its length a multiple of it.
pub struct Buffer {
    data: NonNull<u8>,
    len: usize,
}

fn layout(len: usize) -> Layout {
    assert!(
        len > 0 && len.is_multiple_of(BLOCK_BYTES),
        "a buffer of {len} bytes is not whole blocks"
    );
    Layout::from_size_align(len, BLOCK_BYTES)
        .expect("a length in memory, rounded to blocks, is a valid layout")
}

impl Buffer {
    /// A zeroed buffer.
    ///
    /// # Panics
    /// When `len` is zero or not a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        let layout = layout(len);
        // SAFETY: the layout is not empty.
        let data = unsafe { alloc_zeroed(layout) };
        let data = NonNull::new(data).unwrap_or_else(|| handle_alloc_error(layout));
        Self { data, len }
    }

    /// A buffer that is about to be filled: to zero it first would cost as much as to check what is read into it.
    ///
    /// # Safety
    /// Nothing is seen through the buffer (as a slice) before all of it was written, through [`Self::as_mut_ptr`] or
    /// [`Self::zero_from`].
    ///
    /// # Panics
    /// As [`Self::new`].
    pub(crate) unsafe fn unfilled(len: usize) -> Self {
        let layout = layout(len);
        // SAFETY: the layout is not empty.
        let data = unsafe { alloc(layout) };
        let data = NonNull::new(data).unwrap_or_else(|| handle_alloc_error(layout));
        Self { data, len }
    }

    /// Its bytes, filled or not.
    pub(crate) fn capacity(&self) -> usize {
        self.len
    }

    /// Zeroes what lies behind the first `from` bytes.
    pub(crate) fn zero_from(&mut self, from: usize) {
        assert!(from <= self.len, "{from} is beyond {}", self.len);
        // SAFETY: `from` is within the allocation, and so is what remains.
        unsafe { self.data.as_ptr().add(from).write_bytes(0, self.len - from) };
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.data.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.data.as_ptr(), layout(self.len)) };
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes that this value owns, initialised: zeroed by `new`, or filled as `unfilled` demands.
        unsafe { core::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_read_leaves_is_zeroed() {
        // The second one is likely to get the memory of the first.
        let mut dirty = Buffer::new(2 * BLOCK_BYTES);
        dirty.fill(7);
        drop(dirty);
        // SAFETY: the first block is zeroed and then filled, the second one zeroed, before it is looked at.
        let mut buffer = unsafe { Buffer::unfilled(2 * BLOCK_BYTES) };
        buffer.zero_from(0);
        buffer.fill(9);
        buffer.zero_from(BLOCK_BYTES);
        assert!(buffer[..BLOCK_BYTES].iter().all(|byte| *byte == 9));
        assert!(buffer[BLOCK_BYTES..].iter().all(|byte| *byte == 0));
    }
}
