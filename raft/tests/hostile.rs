//! Arbitrary messages: refused, or without harm to what a replica knows of itself; never a panic. The corpus of the fuzzer is
//! replayed too.

mod exercise;

use base::Prng;
use std::fs;
use std::path::PathBuf;

#[test]
fn arbitrary_messages_do_no_harm() {
    let (mut refused, mut led) = (0, 0);
    for seed in 0..3_000 {
        let mut prng = Prng::new(seed);
        let data: Vec<u8> = (0..600).map(|_| prng.next_u64().to_le_bytes()[0]).collect();
        let seen = exercise::messages(&data);
        refused += seen.refused;
        led += seen.led;
    }
    assert!(
        refused > 1_000 && led > 1_000,
        "{refused} refused, {led} steps as leader"
    );
}

#[test]
fn corpus_is_replayed() {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/raft_messages");
    let mut count = 0;
    for entry in fs::read_dir(&seeds).expect("the corpus is there") {
        let path = entry.expect("it can be listed").path();
        exercise::messages(&fs::read(&path).expect("it can be read"));
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", seeds.display());
}
