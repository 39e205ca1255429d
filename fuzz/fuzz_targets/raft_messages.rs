//! Fuzzes one replica of a group with messages, acknowledgements, crashes and damage, as the input says.
#![no_main]

#[path = "../../raft/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    exercise::messages(data);
});
