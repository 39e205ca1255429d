//! Fuzzes the decoder of messages between shards, fed any payload.
#![no_main]

#[path = "../../net/wire/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::peers(data));
