//! Fuzzes tables and manifest of a tablet, with checksums that always fit: a sound one is changed as the input says.
#![no_main]

#[path = "../../engine/storage/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    base::checksum::zero_all();
}, |data: &[u8]| exercise::patched(data));
