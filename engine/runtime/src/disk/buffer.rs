//! Aligned memory for direct I/O.

use base::limits::BLOCK_BYTES;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// An owned buffer: aligned to [`BLOCK_BYTES`], its length a multiple of it, zeroed at first.
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
        // SAFETY: `len` initialised bytes that this value owns.
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
