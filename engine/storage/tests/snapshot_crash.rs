//! Crashes at every point of receiving and installing a raft snapshot: the old tablet or the new one, complete, and a receiver
//! that goes on.
//!
//! As in `crash.rs`, at every boundary the process is killed, too, and the machine goes on: the next process receives on and
//! installs. Then the machine crashes at each boundary of that.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::key::Span;
use base::limits::BLOCK_BYTES;
use base::{Index, Prng};
use corelane_storage::{Shared, Tablet, TabletSnapshot};
use fixtures::transfer::{flush, follower, names, one_range, receive, root_snapshot, send, sender, writes};
use fixtures::{ROOT, World, small};
use sim::{DiskImage, ImageEnv, ImageMachine};

/// The mark from which on the new tablet must be there.
const INSTALLED: u64 = 1;

struct Story {
    /// Both of the sender; its tables must outlive it.
    _from: ImageMachine,
    sender: World<ImageEnv>,
    snapshot: TabletSnapshot<ImageEnv>,
    /// What the receiver had in the beginning, if it had a tablet; its tablets are taken out.
    old: World<ImageEnv>,
    old_index: Option<Index>,
}

/// A story and the receiver's machine at its beginning.
fn story(seed: u64, exists: bool) -> (Story, ImageMachine, World<ImageEnv>) {
    let (from, mut world) = sender();
    let mut prng = Prng::new(seed);
    writes(&mut world, &mut prng, 10);
    flush(&from, &world, ROOT);
    let flushed = world.log.len();
    writes(&mut world, &mut prng, 6);
    let entries = world.log.len();
    // The receiver does not know of the split.
    world.split(b"b");
    from.block_on(world.tablets[&ROOT].complete_split()).unwrap();
    writes(&mut world, &mut prng, 4);
    flush(&from, &world, ROOT);
    let snapshot = root_snapshot(&world);
    let to = ImageMachine::new(&DiskImage::new());
    let mut behind = to.block_on(follower(to.env(), &world, flushed));
    if exists {
        flush(&to, &behind, ROOT);
        behind.log = world.log[..entries].to_vec();
        to.block_on(behind.replay());
    } else {
        behind.tablets.clear();
        to.block_on(Tablet::destroy(&behind.env, ROOT)).unwrap();
    }
    let to = ImageMachine::new(&to.image());
    let old = open(&to, &behind);
    let old_index = old.tablets.get(&ROOT).map(Tablet::flushed_index);
    assert_eq!(old_index.is_some(), exists);
    let mut kept = open(&to, &behind);
    kept.tablets.clear();
    let story = Story {
        _from: from,
        sender: world,
        snapshot,
        old: kept,
        old_index,
    };
    (story, to, old)
}

/// The receiver's world on a machine, without what the log has.
fn open(machine: &ImageMachine, like: &World<ImageEnv>) -> World<ImageEnv> {
    let mut world = World {
        env: machine.env(),
        config: small(),
        shared: Shared::new(machine.env(), small()),
        tablets: Default::default(),
        log: like.log.clone(),
        model: like.model.clone(),
        spilled: like.spilled.clone(),
        ts: like.ts,
        gc_threshold: like.gc_threshold,
    };
    machine.block_on(world.open_all(machine.env())).unwrap();
    world
}

impl Story {
    fn new_index(&self) -> Index {
        self.snapshot.description().index()
    }

    /// Receives what is missing and installs.
    fn finish(&self, machine: &ImageMachine, world: &mut World<ImageEnv>) {
        let mut receiver = machine.block_on(receive(world, &self.snapshot)).unwrap();
        machine
            .block_on(send(&self.snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
            .unwrap();
        let installed = machine.block_on(receiver.install()).unwrap();
        world.tablets.insert(ROOT, installed);
    }

    /// A restart on what a crash left: the old or the new one, complete, and nothing else; then the receiver goes on.
    fn restart(&self, image: &DiskImage, mark: Option<u64>) {
        let machine = ImageMachine::new(image);
        let mut world = open(&machine, &self.old);
        let index = world.tablets.get(&ROOT).map(Tablet::flushed_index);
        let is_new = index == Some(self.new_index());
        assert!(is_new || index == self.old_index, "comes back at {index:?}");
        assert!(
            is_new || mark < Some(INSTALLED),
            "was installed and comes back at {index:?}"
        );
        if !is_new {
            if index.is_some() {
                self.check_old(&machine, &world);
            }
            self.finish(&machine, &mut world);
        }
        self.check_new(&machine, &world);
    }

    fn check_old(&self, machine: &ImageMachine, world: &World<ImageEnv>) {
        machine.block_on(world.check_scan(&Span::all(), world.ts, false, 1_000, usize::MAX));
        let left = names(&machine.image(), ROOT);
        let swept =
            |name: &String| name == "MANIFEST" || name.ends_with(".sst") || name.ends_with(".received");
        assert!(left.iter().all(swept), "{left:?}");
        let tables = left.iter().filter(|name| name.ends_with(".sst")).count();
        assert_eq!(tables, world.tablets[&ROOT].stats().tables, "{left:?}");
    }

    fn check_new(&self, machine: &ImageMachine, world: &World<ImageEnv>) {
        let tablet = &world.tablets[&ROOT];
        let compared = one_range(&self.sender, world, tablet);
        machine.block_on(compared.check_all());
        let left = names(&machine.image(), ROOT);
        assert_eq!(left.len(), 1 + tablet.stats().tables, "{left:?}");
        assert_eq!(tablet.stats().tables, self.snapshot.description().files().count());
    }
}

/// Crashes at every boundary; how many images there were.
fn crash_everywhere(seed: u64, exists: bool) -> usize {
    let (story, machine, mut world) = story(seed, exists);
    machine.record();
    machine.mark(0);
    story.finish(&machine, &mut world);
    machine.mark(INSTALLED);
    story.check_new(&machine, &world);
    let mut images = 0;
    for boundary in machine.trace().boundaries() {
        for image in boundary.images() {
            images += 1;
            story.restart(&image, boundary.mark());
        }
    }
    images
}

#[test]
fn a_crash_leaves_the_old_tablet_or_the_new_one() {
    let images = crash_everywhere(1, true);
    assert!(images > 300, "only {images} images");
    println!("{images} images");
}

#[test]
fn a_crash_leaves_no_tablet_or_the_new_one() {
    let images = crash_everywhere(2, false);
    assert!(images > 300, "only {images} images");
    println!("{images} images");
}

/// Kills the process at every boundary, receives on, and crashes at every boundary of that; how many images there were.
fn kill_everywhere(seed: u64, exists: bool) -> usize {
    let (story, machine, mut world) = story(seed, exists);
    machine.record();
    machine.mark(0);
    story.finish(&machine, &mut world);
    machine.mark(INSTALLED);
    let mut images = 0;
    for boundary in machine.trace().boundaries() {
        let machine = ImageMachine::after_kill(&boundary);
        machine.record();
        machine.mark(boundary.mark().unwrap_or(0));
        let mut second = open(&machine, &story.old);
        let index = second.tablets.get(&ROOT).map(Tablet::flushed_index);
        if index == Some(story.new_index()) {
            // The log may let go of what the tablet says that it holds.
            machine.mark(INSTALLED);
        } else {
            story.finish(&machine, &mut second);
            machine.mark(INSTALLED);
        }
        story.check_new(&machine, &second);
        for (step, boundary) in machine.trace().boundaries().enumerate() {
            let but_one = boundary
                .images_but_one()
                .take(if step % 4 == 0 { usize::MAX } else { 0 });
            for image in [boundary.image_least()].into_iter().chain(but_one) {
                images += 1;
                story.restart(&image, boundary.mark());
            }
        }
    }
    images
}

#[test]
fn a_crash_after_a_kill_leaves_the_old_tablet_or_the_new_one() {
    let images = kill_everywhere(3, true);
    assert!(images > 300, "only {images} images");
    println!("{images} images");
}

#[test]
fn a_crash_after_a_kill_leaves_no_tablet_or_the_new_one() {
    let images = kill_everywhere(4, false);
    assert!(images > 300, "only {images} images");
    println!("{images} images");
}

/// A tablet that a killed process removed may come back, and then with its tables, until the receiver has synced.
#[test]
fn a_tablet_that_was_being_removed_does_not_come_back_in_part() {
    let (story, machine, mut world) = story(5, true);
    world.tablets.clear();
    machine.record();
    machine.block_on(Tablet::destroy(&machine.env(), ROOT)).unwrap();
    let mut images = 0;
    for boundary in machine.trace().boundaries() {
        let second = ImageMachine::after_kill(&boundary);
        second.record();
        second.mark(0);
        let mut behind = open(&second, &story.old);
        story.finish(&second, &mut behind);
        second.mark(INSTALLED);
        for boundary in second.trace().boundaries() {
            let but_one = boundary.images_but_one();
            for image in [boundary.image_least()].into_iter().chain(but_one) {
                images += 1;
                let third = ImageMachine::new(&image);
                let mut back = open(&third, &story.old);
                let index = back.tablets.get(&ROOT).map(Tablet::flushed_index);
                let is_new = index == Some(story.new_index());
                assert!(
                    is_new || boundary.mark() < Some(INSTALLED),
                    "comes back at {index:?}"
                );
                assert!(
                    is_new || index.is_none() || index == story.old_index,
                    "comes back at {index:?}"
                );
                if !is_new {
                    story.finish(&third, &mut back);
                }
                story.check_new(&third, &back);
            }
        }
    }
    assert!(images > 100, "only {images} images");
    println!("{images} images");
}
