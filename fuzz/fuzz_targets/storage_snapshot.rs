//! Fuzzes the description of a raft snapshot, fed any content behind a magic and a checksum that fit.
#![no_main]

#[path = "../../engine/storage/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::description(data));
