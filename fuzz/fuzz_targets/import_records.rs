//! Fuzzes the record formats of import and export.
#![no_main]

#[path = "../../cli/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::records(data));
