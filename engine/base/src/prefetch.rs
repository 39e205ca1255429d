//! Hints to the processor that cache lines will be read soon: memory that is far away is then waited for all at once.
//!
//! The one place of unsafe code in this crate.

/// Asks for the cache line at the start of `item`. No effect but on time, and none at all where there is no such hint.
#[inline(always)]
pub fn prefetch<T: ?Sized>(item: &T) {
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

/// Asks for all cache lines of `item`, which another one will be worked on before: the memory of several is then waited for at once.
/// What it points to is not asked for.
#[inline]
pub fn prefetch_value<T>(item: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = core::ptr::from_ref(item).cast::<i8>();
        for at in (0..size_of::<T>()).step_by(64) {
            #[expect(unsafe_code, reason = "the intrinsic takes a raw pointer")]
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at));
            }
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = item;
}

/// Asks for the cache lines of the first `lines` × 64 bytes of `bytes`.
#[inline(always)]
pub fn prefetch_lines(bytes: &[u8], lines: usize) {
    for line in bytes.chunks(64).take(lines) {
        prefetch(line);
    }
}
