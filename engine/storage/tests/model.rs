//! Random histories against a map: writes, flushes, merges, splits, garbage collection, restarts, reads at any time.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::key::Span;
use base::{Prng, RangeId, Timestamp};
use fixtures::{Op, ROOT, World, draw_key, draw_ops, draw_spilled, small};
use sim::{DiskImage, ImageEnv, ImageMachine};

fn draw_range(prng: &mut Prng, world: &World<ImageEnv>) -> RangeId {
    let ranges: Vec<RangeId> = world.tablets.keys().copied().collect();
    ranges[prng.index(ranges.len())]
}

fn draw_ts(prng: &mut Prng, world: &World<ImageEnv>) -> Timestamp {
    let wall = prng.between(world.gc_threshold.wall_ns, world.ts.wall_ns + 1);
    Timestamp::new(wall, u32::from(prng.chance(0.5))).max(world.gc_threshold)
}

async fn act(prng: &mut Prng, world: &mut World<ImageEnv>) {
    let range = draw_range(prng, world);
    let tablet = world.tablets[&range].clone();
    match prng.below(100) {
        0..55 => {
            let ops = draw_ops(prng, &tablet.span());
            if ops.is_empty() {
                world.write_nothing(range);
            } else {
                world.write(ops);
            }
        }
        55..60 => world.freeze(range),
        60..65 => drop(world.flush(range).await.unwrap()),
        65..68 => {
            if let Some(plan) = tablet.pick_merge() {
                tablet.merge(plan).await.unwrap();
            }
        }
        68 => {
            if let Some(plan) = tablet.plan_full_merge() {
                tablet.merge(plan).await.unwrap();
            }
        }
        69 => {
            let at = draw_key(prng);
            if world.tablets.len() < 6 && *world.tablet_of(&at).span().start != *at {
                world.split(&at);
            }
        }
        70..72 => drop(world.flush(range).await.unwrap()),
        72 => {
            world.gc_threshold = draw_ts(prng, world).min(world.ts);
            world.shared.set_gc_threshold(world.gc_threshold);
        }
        73..90 => {
            let read_ts = draw_ts(prng, world);
            world.check_get(&draw_key(prng), read_ts).await;
        }
        _ => {
            let (start, end) = (draw_key(prng), draw_key(prng));
            let span = Span::new(&start, prng.chance(0.8).then_some(&end));
            let (read_ts, reverse) = (draw_ts(prng, world), prng.chance(0.5));
            world
                .check_scan(&span, read_ts, reverse, 1 + prng.index(9), 1 + prng.index(500))
                .await;
        }
    }
}

/// Intents are spilled, and go one by one or all together.
async fn act_on_spilled(prng: &mut Prng, world: &mut World<ImageEnv>) {
    let range = draw_range(prng, world);
    let span = world.tablets[&range].span();
    let ops = if prng.chance(0.1) {
        let keys = world.spilled.keys().filter(|key| span.contains(key));
        keys.cloned().map(Op::Delete).collect()
    } else {
        draw_spilled(prng, &span)
    };
    if !ops.is_empty() {
        world.spill(ops);
    }
    world.check_spilled(1 + prng.index(9)).await;
}

fn run(seed: u64, steps: usize, spilled: f64) {
    let mut prng = Prng::new(seed);
    base::probe::begin(prng.fork(), 0.5, 0.1);
    let mut machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), small()));
    for _ in 0..steps {
        if prng.chance(0.01) {
            // What was not synced survives here; `crash.rs` takes it away.
            world.tablets.clear();
            machine = ImageMachine::new(&machine.image());
            machine.block_on(world.restart(machine.env())).unwrap();
            machine.block_on(world.check_all());
        } else if spilled > 0.0 && prng.chance(spilled) {
            machine.block_on(act_on_spilled(&mut prng, &mut world));
        } else {
            machine.block_on(act(&mut prng, &mut world));
        }
    }
    machine.block_on(world.check_all());
    assert!(world.tablets.contains_key(&ROOT));
    world.tablets.clear();
    assert_eq!(world.shared.memory_bytes(), 0, "memtables gave their budget back");
    let _ = base::probe::finish();
}

#[test]
fn random_histories_agree_with_a_map() {
    for seed in 0..60 {
        println!("seed {seed}");
        run(seed, 400, 0.0);
    }
}

#[test]
fn random_histories_with_spilled_intents_agree_with_two_maps() {
    for seed in 1000..1040 {
        println!("seed {seed}");
        run(seed, 400, 0.3);
    }
}
