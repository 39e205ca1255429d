//! Crashes at every point of flushes, merges, splits and restarts: what was acknowledged is there, nothing is half there.
//!
//! A run on a recorded disk says after each step, as a mark, how far its tablets have become durable. For every crash point
//! of the recording, and every state that the disk may then be in, the world is restarted: each tablet must stand at or
//! above its mark, and after a replay of the log above that everything must read as the model says.
//!
//! At every boundary the process is killed, too, and the machine goes on: the next process opens what it sees, relies on its
//! flushed indexes, and goes on flushing and merging. Then the machine crashes at each boundary of that, and loses all that
//! nobody synced, or one change of it.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::key::Span;
use base::{Index, Prng, RangeId};
use corelane_storage::Tablet;
use fixtures::{Op, ROOT, World, draw_key, draw_ops, draw_spilled, small, state};
use sim::{DiskImage, ImageEnv, ImageMachine};
use std::collections::BTreeMap;

type Flushed = BTreeMap<RangeId, Index>;

struct Recording {
    machine: ImageMachine,
    world: World<ImageEnv>,
    /// By mark: what was durable from then on.
    marks: Vec<Flushed>,
}

impl Recording {
    fn start() -> Self {
        let machine = ImageMachine::new(&DiskImage::new());
        let world = machine.block_on(World::create(machine.env(), small()));
        machine.record();
        let mut recording = Self {
            machine,
            world,
            marks: Vec::new(),
        };
        recording.mark();
        recording
    }

    fn mark(&mut self) {
        let flushed = self
            .world
            .tablets
            .values()
            .filter(|tablet| tablet.stats().splits_pending == 0);
        // A right side that has no directory yet is not there after a crash; its left side's mark says so.
        let flushed = flushed.filter(|tablet| {
            let left = tablet
                .split_from()
                .map(|(left, index)| self.world.tablets[&left].flushed_index() >= index);
            left.unwrap_or(true)
        });
        let flushed: Flushed = flushed
            .map(|tablet| (tablet.range(), tablet.flushed_index()))
            .collect();
        self.machine.mark(self.marks.len() as u64);
        self.marks.push(flushed);
    }

    fn writes(&mut self, prng: &mut Prng, count: usize) {
        for _ in 0..count {
            let ops = draw_ops(prng, &Span::all());
            let Some(first) = ops.first().map(|op| op.borrow().key().to_vec()) else {
                continue;
            };
            let span = self.world.tablet_of(&first).span();
            let ops: Vec<Op> = ops
                .into_iter()
                .filter(|op| span.contains(op.borrow().key()))
                .collect();
            self.world.write(ops);
        }
    }

    fn flush(&mut self, range: RangeId) {
        self.world.freeze(range);
        self.machine.block_on(self.world.flush(range)).unwrap();
        self.mark();
    }

    fn merge(&mut self, range: RangeId) {
        let tablet = self.world.tablets[&range].clone();
        if let Some(plan) = tablet.plan_full_merge() {
            self.machine.block_on(tablet.merge(plan)).unwrap();
        }
        self.mark();
    }

    fn split(&mut self, at: &[u8]) -> RangeId {
        let (left, right) = self.world.split(at);
        self.mark();
        self.machine
            .block_on(self.world.tablets[&left].complete_split())
            .unwrap();
        self.mark();
        right
    }

    /// Restarts the world on every image; how many there were.
    fn crash_everywhere(self) -> usize {
        let Self {
            machine,
            mut world,
            marks,
        } = self;
        world.tablets.clear();
        let (trace, mut images) = (machine.trace(), 0);
        for boundary in trace.boundaries() {
            let durable = boundary.mark().map(|mark| &marks[usize::try_from(mark).unwrap()]);
            for image in boundary.images() {
                images += 1;
                restart(&mut world, &image, durable);
            }
        }
        images
    }
}

fn restart(world: &mut World<ImageEnv>, image: &DiskImage, durable: Option<&Flushed>) {
    let machine = ImageMachine::new(image);
    machine.block_on(world.open_all(machine.env())).unwrap();
    for (range, index) in durable.into_iter().flatten() {
        let flushed = world.tablets.get(range).map(Tablet::flushed_index);
        assert!(
            flushed >= Some(*index),
            "{range} was flushed up to {index} and comes back at {flushed:?}"
        );
    }
    machine.block_on(world.replay());
    machine.block_on(world.check_scan(&Span::all(), world.ts, false, 10_000, usize::MAX));
    machine.block_on(world.check_spilled(1_000));
    world.tablets.clear();
}

#[test]
fn a_crash_while_intents_are_spilled_loses_none() {
    let mut prng = Prng::new(7);
    let mut recording = Recording::start();
    let spill = |recording: &mut Recording, prng: &mut Prng, count: usize| {
        for _ in 0..count {
            let key = draw_key(prng);
            let span = recording.world.tablet_of(&key).span();
            let mut ops = draw_spilled(prng, &span);
            ops.push(Op::Put(key, vec![7; 50]));
            recording.world.spill(ops);
        }
    };
    for _ in 0..3 {
        spill(&mut recording, &mut prng, 6);
        recording.writes(&mut prng, 4);
        recording.flush(ROOT);
    }
    let tablet = recording.world.tablets[&ROOT].clone();
    // Deletes are written while tables are merged: the merge of both families, and what goes with it.
    while let Some(plan) = tablet.pick_merge() {
        recording.machine.block_on(tablet.merge(plan)).unwrap();
        recording.mark();
    }
    let right = recording.split(b"a\xff");
    spill(&mut recording, &mut prng, 4);
    recording.flush(right);
    let gone: Vec<Op> = recording.world.spilled.keys().cloned().map(Op::Delete).collect();
    let of = |range: &RangeId| {
        let span = recording.world.tablets[range].span();
        let inside = |op: &&Op| span.contains(op.borrow().key());
        gone.iter().filter(inside).cloned().collect::<Vec<_>>()
    };
    for ops in [of(&ROOT), of(&right)] {
        recording.world.spill(ops);
    }
    let bytes = |range: &RangeId| recording.world.tablets[range].stats().table_bytes;
    let before = [bytes(&ROOT), bytes(&right)];
    drop(tablet);
    recording.flush(ROOT);
    recording.flush(right);
    let bytes = |range: &RangeId| recording.world.tablets[range].stats().table_bytes;
    assert!(
        bytes(&ROOT) < before[0] && bytes(&right) < before[1],
        "their tables went as a whole"
    );
    spill(&mut recording, &mut prng, 3);
    recording.flush(ROOT);
    let images = recording.crash_everywhere();
    assert!(images > 500, "only {images} images");
    println!("{images} images");
}

#[test]
fn a_crash_during_flush_and_merge_loses_nothing() {
    let mut prng = Prng::new(1);
    let mut recording = Recording::start();
    for _ in 0..3 {
        recording.writes(&mut prng, 12);
        recording.flush(ROOT);
    }
    recording.merge(ROOT);
    recording.writes(&mut prng, 4);
    recording.flush(ROOT);
    recording.world.gc_threshold = recording.world.ts;
    recording.world.shared.set_gc_threshold(recording.world.ts);
    recording.merge(ROOT);
    let images = recording.crash_everywhere();
    assert!(images > 500, "only {images} images");
    println!("{images} images");
}

#[test]
fn a_crash_during_a_split_loses_nothing() {
    let mut prng = Prng::new(2);
    let mut recording = Recording::start();
    recording.writes(&mut prng, 15);
    recording.flush(ROOT);
    recording.writes(&mut prng, 15);
    let right = recording.split(b"a\xff");
    recording.writes(&mut prng, 10);
    recording.flush(right);
    recording.split(b"b");
    recording.flush(ROOT);
    recording.merge(right);
    recording.merge(ROOT);
    let images = recording.crash_everywhere();
    assert!(images > 500, "only {images} images");
    println!("{images} images");
}

#[test]
fn a_crash_while_a_tablet_takes_another_one_over_loses_nothing() {
    let mut prng = Prng::new(5);
    let mut recording = Recording::start();
    recording.writes(&mut prng, 15);
    recording.flush(ROOT);
    recording.writes(&mut prng, 15);
    let right = recording.split(b"a\xff");
    recording.writes(&mut prng, 20);
    recording.flush(ROOT);
    recording.flush(right);
    let [ours, theirs] = [ROOT, right].map(|range| recording.world.tablets[&range].clone());
    assert!(
        !ours.is_tidy() && !theirs.is_tidy(),
        "the split has left something"
    );
    for tablet in [&ours, &theirs] {
        recording.machine.block_on(tablet.tidy()).unwrap();
        assert!(tablet.is_tidy());
    }
    recording.mark();
    let index = ours.applied_index().next();
    let absorbed = ours.absorb(&theirs, index, state(ROOT, index));
    recording.machine.block_on(absorbed).unwrap();
    let both = [ours.span(), Span::all()];
    assert_eq!(both[0], both[1]);
    assert_eq!((ours.flushed_index(), ours.applied_index()), (index, index));
    drop((ours, theirs));
    let Recording {
        machine,
        mut world,
        marks,
    } = recording;
    let last = marks.len() as u64 - 1;
    world.tablets.clear();
    let (mut before, mut after) = (0, 0);
    for boundary in machine.trace().boundaries() {
        if boundary.mark() != Some(last) {
            continue;
        }
        for image in boundary.images() {
            let second = ImageMachine::new(&image);
            second.block_on(world.open_all(second.env())).unwrap();
            if world.tablets[&ROOT].span() == Span::all() {
                world.tablets.remove(&right);
                after += 1;
            } else {
                before += 1;
            }
            second.block_on(world.check_scan(&Span::all(), world.ts, false, 10_000, usize::MAX));
            world.tablets.clear();
        }
    }
    assert!(
        before > 10 && after > 0,
        "{before} images before it, {after} after it"
    );
}

#[test]
fn a_crash_during_recovery_loses_nothing() {
    let mut prng = Prng::new(3);
    let mut recording = Recording::start();
    recording.writes(&mut prng, 10);
    recording.flush(ROOT);
    recording.writes(&mut prng, 5);
    recording.split(b"a\xff");
    recording.merge(ROOT);
    let Recording {
        machine,
        mut world,
        marks,
    } = recording;
    world.tablets.clear();
    let (trace, mut images) = (machine.trace(), 0);
    for boundary in trace.boundaries().step_by(3) {
        let durable = boundary.mark().map(|mark| &marks[usize::try_from(mark).unwrap()]);
        for image in [boundary.image_least(), boundary.image_most()]
            .into_iter()
            .chain(boundary.cuts().step_by(2))
        {
            let first = ImageMachine::new(&image);
            first.record();
            first.block_on(world.open_all(first.env())).unwrap();
            first.block_on(world.replay());
            first.block_on(world.tablets[&ROOT].complete_split()).unwrap();
            world.tablets.clear();
            for second in first.trace().boundaries() {
                for image in [second.image_least(), second.image_most()]
                    .into_iter()
                    .chain(second.cuts().step_by(3))
                {
                    images += 1;
                    restart(&mut world, &image, durable);
                }
            }
        }
    }
    assert!(images > 500, "only {images} images");
    println!("{images} images");
}

/// Kills the process at every boundary, goes on, and crashes at every boundary of that; how many images there were.
fn kill_everywhere(recording: Recording) -> usize {
    let Recording {
        machine,
        mut world,
        marks,
    } = recording;
    world.tablets.clear();
    let (trace, mut images) = (machine.trace(), 0);
    for boundary in trace.boundaries() {
        let first = boundary.mark().map(|mark| &marks[usize::try_from(mark).unwrap()]);
        let machine = ImageMachine::after_kill(&boundary);
        machine.record();
        let mut second = Recording {
            machine,
            world,
            marks: Vec::new(),
        };
        second.machine.mark(0);
        second.marks.push(first.cloned().unwrap_or_default());
        let env = second.machine.env();
        second.machine.block_on(second.world.open_all(env)).unwrap();
        // The log may let go of what the tablets say that they hold.
        second.mark();
        second.machine.block_on(second.world.replay());
        for range in second.world.tablets.keys().copied().collect::<Vec<_>>() {
            second.flush(range);
            second.merge(range);
        }
        let Recording {
            machine,
            world: back,
            marks,
        } = second;
        world = back;
        world.tablets.clear();
        for (step, boundary) in machine.trace().boundaries().enumerate() {
            let durable = boundary.mark().map(|mark| &marks[usize::try_from(mark).unwrap()]);
            let but_one = boundary
                .images_but_one()
                .take(if step % 4 == 0 { usize::MAX } else { 0 });
            for image in [boundary.image_least()].into_iter().chain(but_one) {
                images += 1;
                restart(&mut world, &image, durable);
            }
        }
    }
    images
}

#[test]
fn a_crash_after_a_kill_loses_nothing() {
    let mut prng = Prng::new(4);
    let mut recording = Recording::start();
    for _ in 0..2 {
        recording.writes(&mut prng, 6);
        recording.flush(ROOT);
    }
    recording.merge(ROOT);
    recording.writes(&mut prng, 6);
    let right = recording.split(b"a\xff");
    recording.writes(&mut prng, 4);
    recording.flush(right);
    let images = kill_everywhere(recording);
    assert!(images > 500, "only {images} images");
    println!("{images} images");
}

#[test]
fn a_tablet_removed_by_a_killed_process_does_not_come_back_in_part() {
    let machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), small()));
    let mut prng = Prng::new(5);
    world.write(draw_ops(&mut prng, &Span::all()));
    world.freeze(ROOT);
    machine.block_on(world.flush(ROOT)).unwrap();
    world.tablets.clear();
    machine.record();
    machine.block_on(Tablet::destroy(&machine.env(), ROOT)).unwrap();
    for boundary in machine.trace().boundaries() {
        let second = ImageMachine::after_kill(&boundary);
        second.record();
        second.block_on(Tablet::destroy(&second.env(), ROOT)).unwrap();
        for boundary in second.trace().boundaries() {
            for image in [boundary.image_least()]
                .into_iter()
                .chain(boundary.images_but_one())
            {
                // None, or a whole one.
                let third = ImageMachine::new(&image);
                third.block_on(world.open_all(third.env())).unwrap();
                world.tablets.clear();
            }
        }
    }
}

#[test]
fn a_manifest_that_a_killed_process_wrote_anew_stays() {
    let mut prng = Prng::new(6);
    let mut recording = Recording::start();
    for _ in 0..4 {
        recording.writes(&mut prng, 1);
        recording.flush(ROOT);
    }
    // The next edit is one too many.
    recording.machine.record();
    recording.mark();
    recording.writes(&mut prng, 1);
    recording.flush(ROOT);
    let images = kill_everywhere(recording);
    assert!(images > 100, "only {images} images");
    println!("{images} images");
}
