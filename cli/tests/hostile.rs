//! The record formats under the inputs that the fuzzer starts from, and under broken ones made of them.

mod exercise;

use std::path::Path;

#[test]
fn the_fuzz_seeds_run_whole_and_broken() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/import_records");
    let mut prng = base::Prng::new(11);
    let mut runs = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        exercise::records(&seed);
        for _ in 0..500 {
            let mut broken = seed.clone();
            broken[0] = prng.next_u64().to_le_bytes()[0];
            for _ in 0..prng.below(4) {
                let at = prng.index(broken.len());
                broken[at] ^= 1 << prng.below(8);
            }
            broken.truncate(broken.len() - prng.index(broken.len()));
            exercise::records(&broken);
        }
        runs += 1;
    }
    assert!(runs >= 5, "only {runs} seeds");
}
