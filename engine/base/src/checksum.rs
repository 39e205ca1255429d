//! CRC-32C (Castagnoli), the only checksum of corelane's formats.

/// Makes every checksum zero, so that a fuzzer's changes get past them. Only in builds for a fuzzer.
#[cfg(fuzzing)]
pub fn zero_all() {
    ZERO.store(true, core::sync::atomic::Ordering::Relaxed);
}

#[cfg(fuzzing)]
static ZERO: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

/// The CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    extend(0, bytes)
}

/// The CRC-32C of `bytes` appended to what gave `crc`: `extend(crc32c(a), b) == crc32c(a ++ b)`.
#[must_use]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(fuzzing)]
    if ZERO.load(core::sync::atomic::Ordering::Relaxed) {
        return 0;
    }
    ::crc32c::crc32c_append(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vector_and_concatenation() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(extend(crc32c(b"1234"), b"56789"), 0xe306_9283);
    }
}
