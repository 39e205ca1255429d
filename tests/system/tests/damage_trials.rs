//! Damage on one of three nodes: bits of a table, a manifest or the log turn around, while the node runs or while it is down. It is
//! repaired from the other nodes without a stop, and nothing is lost.
//!
//! `CORELANE_SEED` starts the trials, `CORELANE_TRIALS` says how many: `sim --trials 1000` prints the table of a thousand.

use corelane_system::swarm::{number, seeds};
use corelane_system::trials::Trials;

/// Trials that found a bug once, each with what it was.
const REGRESSIONS: &[(u64, &str)] = &[
    (
        10_540,
        "a split that met damage was flushed, and the node stopped",
    ),
    (10_966, "the same, on another node"),
];

#[test]
fn trials_that_found_a_bug_once_find_none() {
    let count = usize::try_from(seeds(REGRESSIONS.len() as u64, 1)).expect("few");
    for (seed, bug) in &REGRESSIONS[..count] {
        let mut trials = Trials::default();
        assert!(
            trials.add(*seed),
            "trial {seed}, which once found that {bug}: {:?}",
            trials.wrong
        );
    }
}

#[test]
fn damage_is_repaired_without_a_stop_and_nothing_is_lost() {
    let first = number("CORELANE_SEED", 1).wrapping_mul(1_000_033) % (u64::MAX / 2);
    let count = number("CORELANE_TRIALS", seeds(60, 4));
    let mut trials = Trials::default();
    for seed in first..first + count {
        let good = trials.add(seed);
        assert!(
            good,
            "cargo run --profile sim -p corelane-system --bin sim -- --trials 1 --seed {seed}\n{:#?}",
            trials.wrong
        );
    }
    assert_eq!(trials.stopped, 0, "no node ends by itself");
    eprint!("{}", trials.print());
}
