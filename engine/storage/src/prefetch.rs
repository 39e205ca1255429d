//! The one piece of unsafe code in this crate: a hint to the processor that a cache line will be read soon.

/// Asks for the cache line at the start of `item`. No effect but on time, and none at all where there is no such hint.
#[inline(always)]
pub(crate) fn prefetch<T: ?Sized>(item: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "the intrinsic takes a raw pointer")]
        // SAFETY: a prefetch never faults, whatever the address, and this one comes from a live reference.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(item).cast());
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = item;
}

/// Asks for the cache lines of the first `lines` × 64 bytes of `bytes`.
#[inline(always)]
pub(crate) fn prefetch_lines(bytes: &[u8], lines: usize) {
    for line in bytes.chunks(64).take(lines) {
        prefetch(line);
    }
}
