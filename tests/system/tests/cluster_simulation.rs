//! Clusters under seeds: the same seed gives the same run, and no seed finds a fault.
//!
//! `CORELANE_SEED` starts the fresh seeds (CI derives it from the commit), `CORELANE_CLUSTER_SEEDS` says how many.

use corelane_system::scenario::Scenario;
use corelane_system::swarm::{Total, check_regressions, number, seeds, try_run};

/// Seeds that found a bug once, each with what it was.
const REGRESSIONS: &[(u64, &str)] = &[
    (1, "a new leader had let go of entries that its followers lacked"),
    (52, "a follower that had all of the state was offered it for ever"),
    (
        2233,
        "a split that waited for a vote on its way to the disk was forgotten",
    ),
    (
        40_000_023,
        "a range was made by a split while its state was being received",
    ),
    (
        40_000_222,
        "entries that follow a state were written before it was installed",
    ),
    (
        1444,
        "a conditional write whose condition was read while leadership was lost was answered as another one",
    ),
    (
        169,
        "a clock that was read before a pause showed the other nodes' clocks ahead",
    ),
    (
        143,
        "two wishes about the replicas of a range handed its leadership to each other for ever",
    ),
    (
        8250,
        "a new leader wrote below what the one that handed over had shown",
    ),
    (
        10_032,
        "entries before one that a later record voids were gone from the log, and a start took that for damage",
    ),
    (
        10_263,
        "a split that waited for its commit kept followers from the state by which it would be committed",
    ),
    (
        50_047,
        "a read waited for ever for a replica that was removed, and that for the read",
    ),
    (
        50_289,
        "a split of a range that was alone was not known to be committed when its new range was met in the log",
    ),
    (
        50_761,
        "a void entry stood after one that had been applied in another term, and a start took that for damage",
    ),
    (
        400_062,
        "a leader did not hear on which shard an idle replica is, and said to another one up to when its range is closed",
    ),
    (
        420_200,
        "a replica was damaged before it had taken the place of a damaged one, and neither was replaced",
    ),
    (
        50_047,
        "a replica that had just become the last one was read before it had all that others had acknowledged",
    ),
];

/// The same, of ranges that move all the time.
const MOVES: &[(u64, &str)] = &[(
    80,
    "a crash in the middle of a move left entries in a log that kept it from getting shorter",
)];

/// The same, of ranges that merge.
const MERGES: &[(u64, &str)] = &[
    (
        41_000_125,
        "while one shard looked at its start which tablets there are, another one removed the directory of one",
    ),
    (
        3_500_515,
        "a learner was spoken to by a change that another leader voided, and nobody said of it, damaged, that it was removed",
    ),
    (
        2_400_100,
        "a scan began below a write of a range that had just been absorbed: who absorbed it did not say how new its keys are",
    ),
    (
        2_000_242,
        "a follower of a leader that had handed over did not hear that it was removed, asked nobody, and kept the keys from the left one's state",
    ),
    (
        732_023,
        "a voter did not hear that it was removed before its range was absorbed, and all whom it knew had been removed, too",
    ),
    (
        730_032,
        "a replica let go of the right range when the left one's state was offered, and then could not absorb it",
    ),
    (
        730_059,
        "a node that started twice since it had split a range gave the new range's id to another one",
    ),
];

/// The same, of nodes that are upgraded.
const UPGRADES: &[(u64, &str)] = &[
    (
        2_100_140,
        "a request of a transaction went on by the ticket that it had in a range which was absorbed since, and an intent was resolved twice",
    ),
    (
        910_084,
        "a range that was alone was shown beyond the durable bound of its node's clock, and written below it after a crash",
    ),
    (
        930_141,
        "a replica that only a deposed leader knew kept who asked it waiting",
    ),
    (
        940_099,
        "a leader showed keys that a split had given away, which others had applied before it",
    ),
    (
        950_131,
        "state was taken for keys of a range whose removal a crash could still undo",
    ),
    (
        1_900_018,
        "a range applied a new leader's first entry after it had been flushed to be absorbed",
    ),
];

/// The same, of ranges that merge and move all the time.
const MOVES_AND_MERGES: &[(u64, &str)] = &[(
    740_002,
    "a learner did not hear that it was removed before its range was absorbed, and kept the keys from the left one's state",
)];

#[test]
fn the_same_seed_gives_the_same_run() {
    let first = number("CORELANE_SEED", 1);
    for seed in first..first + seeds(5, 1) {
        let runs = [(); 2].map(|()| try_run(&Scenario::draw_cluster(seed)).expect("no panic"));
        let [a, b] = &runs;
        assert_eq!(a.report.hash, b.report.hash, "seed {seed}");
        assert_eq!(a.history.calls(), b.history.calls(), "seed {seed}");
    }
}

#[test]
fn seeds_that_found_a_bug_once_find_none() {
    let count = usize::try_from(seeds(REGRESSIONS.len() as u64, 1)).expect("few");
    // They are of a time when nobody looked after replicas.
    let draw = |seed| Scenario::draw_cluster(seed).without_placement();
    check_regressions(&REGRESSIONS[..count], draw);
}

#[test]
fn ranges_that_move_all_the_time_lose_nothing() {
    check_regressions(MOVES, Scenario::draw_moves);
    let first = number("CORELANE_SEED", 1).wrapping_mul(1_000_037) % (u64::MAX / 2);
    let mut total = Total::default();
    for seed in first..first + seeds(20, 1) {
        total.add_run(&Scenario::draw_moves(seed));
        assert!(
            total.wrong.is_empty(),
            "cargo run --profile sim -p corelane-system --bin sim -- --moves --seed {seed} --history FILE\n{:#?}",
            total.wrong
        );
    }
    eprint!("{}", total.print());
}

#[test]
fn ranges_that_merge_lose_nothing() {
    let draw = |seed| Scenario::draw_cluster(seed).with_merges();
    check_regressions(MERGES, draw);
    check_regressions(MOVES_AND_MERGES, |seed| Scenario::draw_moves(seed).with_merges());
    let first = number("CORELANE_SEED", 1).wrapping_mul(1_000_039) % (u64::MAX / 2);
    let mut total = Total::default();
    for seed in first..first + seeds(60, 1) {
        total.add_run(&draw(seed));
        assert!(
            total.wrong.is_empty(),
            "cargo run --profile sim -p corelane-system --bin sim -- --cluster --merges --seed {seed} --history FILE\n{:#?}",
            total.wrong
        );
    }
    eprint!("{}", total.print());
}

#[test]
fn seeds_of_upgrades_that_found_a_bug_once_find_none() {
    check_regressions(UPGRADES, |seed| Scenario::draw_cluster(seed).with_upgrades());
}

#[test]
fn fresh_seeds_find_nothing() {
    let first = number("CORELANE_SEED", 1).wrapping_mul(1_000_003) % (u64::MAX / 2);
    let count = number("CORELANE_CLUSTER_SEEDS", seeds(60, 3));
    let mut total = Total::default();
    for seed in first..first + count {
        total.add_run(&Scenario::draw_cluster(seed).with_upgrades());
        assert!(
            total.wrong.is_empty(),
            "cargo run --profile sim -p corelane-system --bin sim -- --cluster --seed {seed} --history FILE\n{:#?}",
            total.wrong
        );
    }
    eprint!("{}", total.print());
}
