//! Fuzzes the recovery of a log, with checksums that always fit: a sound one is changed as the input says.
#![no_main]

#[path = "../../engine/log/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(init: {
    #[cfg(fuzzing)]
    base::checksum::zero_all();
}, |data: &[u8]| exercise::patched(data));
