//! Fuzzes the decoders of what logs, states and messages carry of transactions, fed any bytes.
#![no_main]

#[path = "../../engine/txn/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::decode(data));
