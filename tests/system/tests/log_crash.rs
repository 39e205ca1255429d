//! Every crash point of a log: what was acknowledged survives exactly, and nothing else is half there.
//!
//! A workload runs on a recorded disk: appends, rotations, recycling, dropping, preparation of slots. For every completion
//! boundary of the recording each image that a crash may leave is recovered and compared: every subset of the writes in
//! flight, every 512-byte cut of each. A sample of the recoveries is itself recorded, goes on writing, and is crashed at
//! each of its boundaries again.
//!
//! At every boundary the process is killed, too, and the machine goes on: the next process sees what is not durable and
//! builds on it. Then the machine crashes at each boundary of that, and loses all that nobody synced, or one change of it.
//!
//! `LOG_CRASH_SEEDS=N` runs N workloads instead of one (one is about 520,000 images).

mod log_support;

use log_support::{Life, Opened, Promise, Workload, check, check_content, config, open, recover};
use sim::{Boundary, DiskImage, DiskTrace, ImageMachine};

/// One first crash of so many gets a second life and second crashes.
const SECOND_LIFE_EVERY: u64 = 4_999;

struct Tally {
    images: u64,
    second_lives: u64,
    second_images: u64,
    kills: u64,
    images_after_kills: u64,
}

fn first_life(seed: u64, turns: u64) -> (DiskTrace, Life, usize) {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.record();
    let mut workload = Workload::new(seed, 1, 4);
    machine.block_on(async {
        let (log, _) = open(&env, config()).await.expect("an empty disk is fine");
        workload
            .run(&env, &log, |mark| machine.mark(mark), turns)
            .await
            .expect("the disk does not fail");
        if seed.is_multiple_of(2) {
            log.close().await.expect("the disk does not fail");
        }
    });
    let life = workload.life.borrow().clone();
    (machine.trace(), life, workload.records)
}

/// How the first life ended.
struct FirstEnd<'l> {
    life: &'l Life,
    /// The last mark before it.
    mark: Option<u64>,
    /// What is found is durable.
    settled: bool,
}

/// Opens what a first life left, writes on for so many turns, and crashes at every boundary of that.
fn second_life(
    machine: &ImageMachine,
    end: &FirstEnd<'_>,
    (seed, turns): (u64, u64),
    images: impl Fn(&Boundary) -> Vec<DiskImage>,
) -> u64 {
    let env = machine.env();
    machine.record();
    let mut workload = Workload::new(seed, 1_000, 2);
    let survived = machine.block_on(async {
        let (log, opened) = open(&env, config())
            .await
            .unwrap_or_else(|error| panic!("opened again after {seed}: {error}"));
        machine.mark(u64::MAX);
        workload
            .run(&env, &log, |mark| machine.mark(mark), turns)
            .await
            .expect("the disk does not fail");
        opened.recovered.last
    });
    let promise = end
        .mark
        .map_or_else(Promise::default, |mark| end.life.promise(mark).clone());
    assert!(survived >= promise.persisted, "{survived} after {seed}");
    // What the log holds now: what survived the first crash, then what was written since.
    let mut both = Life::default();
    let records = end.life.records.iter();
    both.records
        .extend(records.filter(|(seqno, _)| *seqno <= survived).cloned());
    both.records
        .extend(workload.life.borrow().records.iter().cloned());
    let second = workload.life.borrow().clone();
    let mut count = 0;
    for boundary in machine.trace().boundaries() {
        for image in images(&boundary) {
            count += 1;
            let opened = recover(&image).unwrap_or_else(|error| {
                panic!("second crash at step {} after {seed}: {error}", boundary.step())
            });
            let mut promised = promise.clone();
            // An opening that has ended promises what it showed.
            if end.settled || boundary.mark().is_some() {
                promised.persisted = survived;
            }
            if let Some(later) = boundary.mark().filter(|mark| *mark != u64::MAX) {
                let later = second.promise(later);
                promised.persisted = later.persisted.max(survived);
                promised.covered.extend(later.covered.clone());
            }
            let last = opened.recovered.last;
            assert!(
                last >= promised.persisted,
                "{last} < {} after a second crash at step {} after {seed}",
                promised.persisted,
                boundary.step()
            );
            check_content(&both, &promised, last, &opened).unwrap_or_else(|problem| {
                panic!("second crash at step {} after {seed}: {problem}", boundary.step())
            });
        }
    }
    count
}

/// Kills the process here, goes on, and crashes the machine.
fn killed_life(boundary: &Boundary, life: &Life, tally: &mut Tally) {
    let end = FirstEnd {
        life,
        mark: boundary.mark(),
        settled: false,
    };
    tally.kills += 1;
    let images = |later: &Boundary| {
        core::iter::once(later.image_least())
            .chain(later.images_but_one())
            .collect()
    };
    let machine = ImageMachine::after_kill(boundary);
    tally.images_after_kills += second_life(&machine, &end, (boundary.step() as u64, 6), images);
}

fn crash_everywhere(seed: u64, turns: u64, tally: &mut Tally) {
    let (trace, life, records) = first_life(seed, turns);
    assert!(
        records >= 1_000,
        "{records} records are too few for the claim of this test"
    );
    for boundary in trace.boundaries() {
        for image in boundary.images() {
            tally.images += 1;
            let context = || {
                format!(
                    "seed {seed}, crash at step {} of {}",
                    boundary.step(),
                    trace.steps()
                )
            };
            let opened = recover(&image).unwrap_or_else(|error| panic!("{}: {error}", context()));
            check(&life, boundary.mark(), &opened)
                .unwrap_or_else(|problem| panic!("{}: {problem}", context()));
            if tally.images.is_multiple_of(SECOND_LIFE_EVERY) {
                let (life, mark, settled) = (&life, boundary.mark(), true);
                let end = FirstEnd { life, mark, settled };
                let all = |later: &Boundary| later.images().collect();
                tally.second_lives += 1;
                tally.second_images += second_life(&ImageMachine::new(&image), &end, (tally.images, 4), all);
            }
        }
        killed_life(&boundary, &life, tally);
    }
}

#[test]
fn every_crash_point_of_a_thousand_records_recovers_what_was_acknowledged() {
    let seeds: u64 = std::env::var("LOG_CRASH_SEEDS").map_or(1, |n| n.parse().expect("a number of seeds"));
    base::probe::begin(base::Prng::new(1), 1.0, 0.03);
    let mut tally = Tally {
        images: 0,
        second_lives: 0,
        second_images: 0,
        kills: 0,
        images_after_kills: 0,
    };
    for seed in 1..=seeds {
        crash_everywhere(seed, 360, &mut tally);
        println!(
            "{} images, {} second lives, {} second images, {} kills, {} images after them",
            tally.images, tally.second_lives, tally.second_images, tally.kills, tally.images_after_kills
        );
    }
    let total = tally.images + tally.second_images + tally.images_after_kills;
    assert!(total >= 100_000, "{total} images");
    let report = base::probe::finish();
    for name in [
        "log: several writes in flight",
        "log: began a segment with writes in flight",
        "log: wrote a hard state again",
        "log: reused a slot",
        "log: cut an unacknowledged tail",
        "log: recovery met a headless segment",
        "log: recovery met an overtaken segment",
        "log: recovery met a stale segment",
        "log: the log ends before the last segment",
        "log: shortened a tail",
    ] {
        assert!(
            report.reached.contains_key(name),
            "never reached: {name}; reached {:?}",
            report.reached
        );
    }
}

#[test]
fn a_log_without_a_crash_comes_back_whole() {
    let (trace, life, _) = first_life(2, 60);
    let last = trace.boundaries().last().expect("the trace has steps");
    let opened: Opened = recover(&last.image_most()).expect("nothing happened to it");
    check(&life, last.mark(), &opened).expect("all is there");
    assert_eq!(opened.recovered.cut, None);
    assert!(opened.recovered.last >= life.records.last().expect("records were written").0);
}
