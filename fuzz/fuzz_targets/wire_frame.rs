//! Fuzzes the frame reader, fed any bytes in any pieces.
#![no_main]

#[path = "../../net/wire/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::frames(data));
