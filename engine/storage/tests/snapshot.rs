//! Raft snapshots: what is installed reads as the sender's tablet does, and nothing else is ever installed.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::limits::BLOCK_BYTES;
use base::{Index, Prng, RangeId, Timestamp};
use corelane_storage::{
    Corruption, MissingBytes, NeedsIo, SNAPSHOT_READ_BYTES_MAX, SnapshotError, StorageError, Tablet,
};
use env::{Disk, Env};
use fixtures::transfer::{
    check_every_ts, described, flush, follower, names, one_range, receive, root_snapshot, send, sender,
    writes,
};
use fixtures::{Op, ROOT, World, draw_key, draw_spilled, state};
use sim::{DiskImage, ImageEnv, ImageMachine};
use std::task::{Context, Poll, Waker};

/// A history with splits, merges, deletes and collection.
fn history(prng: &mut Prng) -> (ImageMachine, World<ImageEnv>) {
    let (machine, mut world) = sender();
    for _ in 0..1 + prng.index(6) {
        let count = prng.index(25);
        writes(&mut world, prng, count);
        if prng.chance(0.5) {
            let key = draw_key(prng);
            let span = world.tablet_of(&key).span();
            let mut ops = draw_spilled(prng, &span);
            ops.push(Op::Put(key, b"an intent".to_vec()));
            world.spill(ops);
        }
        let ranges: Vec<RangeId> = world.tablets.keys().copied().collect();
        let range = ranges[prng.index(ranges.len())];
        let tablet = world.tablets[&range].clone();
        match prng.below(6) {
            0 | 1 => flush(&machine, &world, range),
            2 => {
                let at = draw_key(prng);
                if *world.tablet_of(&at).span().start != *at {
                    world.split(&at);
                }
            }
            3 => {
                world.gc_threshold = world.ts;
                world.shared.set_gc_threshold(world.ts);
            }
            _ => {
                flush(&machine, &world, range);
                if let Some(plan) = tablet.pick_merge() {
                    machine.block_on(tablet.merge(plan)).unwrap();
                }
            }
        }
    }
    (machine, world)
}

/// Sends each range of a random history to a follower that is anywhere behind, and compares.
fn transfer(seed: u64) {
    println!("seed {seed}");
    let mut prng = Prng::new(seed);
    let (from, mut world) = history(&mut prng);
    for tablet in world.tablets.values() {
        from.block_on(tablet.complete_split()).unwrap();
    }
    let to = ImageMachine::new(&DiskImage::new());
    let entries = prng.index(world.log.len() + 1);
    let mut behind = to.block_on(follower(to.env(), &world, entries));
    if prng.chance(0.5) {
        to.block_on(behind.check_all());
    }
    let ranges: Vec<RangeId> = world.tablets.keys().copied().collect();
    for range in ranges {
        if prng.chance(0.7) {
            flush(&from, &world, range);
        }
        if behind.tablets.contains_key(&range) && prng.chance(0.8) {
            flush(&to, &behind, range);
        }
        for tablet in behind.tablets.values() {
            to.block_on(tablet.complete_split()).unwrap();
        }
        let snapshot = world.tablets[&range].snapshot().unwrap();
        writes(&mut world, &mut prng, 5);
        let mut receiver = match to.block_on(receive(&behind, &snapshot)) {
            Ok(receiver) => receiver,
            Err(error) => {
                let (index, applied) = (
                    snapshot.description().index(),
                    behind.tablets[&range].applied_index(),
                );
                assert!(index <= applied, "{index} is ahead of {applied}");
                assert_eq!(error, SnapshotError::Stale { index, applied });
                continue;
            }
        };
        let chunk_bytes = 1 + prng.index(3 * BLOCK_BYTES);
        to.block_on(send(&snapshot, &mut receiver, chunk_bytes, usize::MAX))
            .unwrap();
        let installed = to.block_on(receiver.install()).unwrap();
        assert_eq!(installed.flushed_index(), snapshot.description().index());
        assert_eq!(installed.span(), world.tablets[&range].span());
        assert_eq!(installed.split_from(), None);
        behind.tablets.insert(range, installed.clone());
        let mut compared = one_range(&world, &behind, &installed);
        to.block_on(compared.replay());
        to.block_on(check_every_ts(&compared));
        // What was installed goes on as a tablet does, and comes back.
        flush(&to, &compared, range);
        if let Some(plan) = installed.plan_full_merge() {
            to.block_on(installed.merge(plan)).unwrap();
        }
        to.block_on(compared.check_all());
        let again = ImageMachine::new(&to.image());
        compared.tablets.clear();
        again.block_on(compared.open_all(again.env())).unwrap();
        compared.tablets.retain(|&other, _| other == range);
        again.block_on(check_every_ts(&compared));
    }
}

#[test]
fn what_is_installed_reads_as_the_sender_does() {
    for seed in 0..60 {
        transfer(seed);
    }
}

/// A sender with a few tables in one range, everything flushed.
fn tables(seed: u64, count: usize) -> (ImageMachine, World<ImageEnv>) {
    let (machine, mut world) = sender();
    let mut prng = Prng::new(seed);
    for _ in 0..count {
        writes(&mut world, &mut prng, 15);
        flush(&machine, &world, ROOT);
    }
    (machine, world)
}

/// The sender's range on an empty machine, ready to receive.
fn nothing() -> (ImageMachine, World<ImageEnv>) {
    let machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), fixtures::small()));
    world.tablets.clear();
    machine.block_on(Tablet::destroy(&world.env, ROOT)).unwrap();
    (machine, world)
}

#[test]
fn keys_that_a_split_cut_off_stay_hidden() {
    let (from, mut world) = sender();
    for key in [b"a", b"b", b"c"] {
        world.write(vec![Op::Put(key.to_vec(), key.to_vec())]);
    }
    flush(&from, &world, ROOT);
    world.write(vec![Op::DeleteRange(b"a".to_vec(), Some(b"b".to_vec()))]);
    world.write(vec![Op::Put(b"b".to_vec(), b"newer".to_vec())]);
    let (left, right) = world.split(b"b");
    from.block_on(world.tablets[&left].complete_split()).unwrap();
    for range in [left, right] {
        let snapshot = world.tablets[&range].snapshot().unwrap();
        assert_eq!(
            snapshot.description().files().count(),
            2,
            "both sides have both tables"
        );
        let (to, behind) = nothing();
        let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
        to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
            .unwrap();
        let installed = to.block_on(receiver.install()).unwrap();
        to.block_on(check_every_ts(&one_range(&world, &behind, &installed)));
    }
}

#[test]
fn an_unfinished_split_is_not_sent() {
    let (from, mut world) = sender();
    let mut prng = Prng::new(1);
    writes(&mut world, &mut prng, 20);
    let (left, right) = world.split(b"a\xff");
    for range in [left, right] {
        let refused = world.tablets[&range].snapshot().map(|_| ()).unwrap_err();
        assert_eq!(refused, SnapshotError::SplitPending { range });
        assert!(refused.is_retryable());
    }
    from.block_on(world.tablets[&left].complete_split()).unwrap();
    for range in [left, right] {
        world.tablets[&range].snapshot().unwrap();
    }
}

#[test]
fn the_right_side_of_an_unfinished_split_waits_before_it_receives() {
    let (from, mut world) = sender();
    writes(&mut world, &mut Prng::new(14), 20);
    let (left, right) = world.split(b"a\xff");
    let entries = world.log.len();
    from.block_on(world.tablets[&left].complete_split()).unwrap();
    world.write(vec![Op::Put(b"b".to_vec(), b"new".to_vec())]);
    flush(&from, &world, right);
    let snapshot = world.tablets[&right].snapshot().unwrap();
    let to = ImageMachine::new(&DiskImage::new());
    let behind = to.block_on(follower(to.env(), &world, entries));
    let mut receiving = Box::pin(receive(&behind, &snapshot));
    let context = &mut Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(receiving.as_mut().poll(context).is_pending());
    }
    to.block_on(behind.tablets[&left].complete_split()).unwrap();
    let mut receiver = to.block_on(receiving).unwrap();
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    let installed = to.block_on(receiver.install()).unwrap();
    assert_eq!(installed.split_from(), None);
    to.block_on(check_every_ts(&one_range(&world, &behind, &installed)));
}

#[test]
fn what_the_sender_has_collected_cannot_be_read() {
    let (from, mut world) = tables(15, 2);
    let (old, gc_threshold) = (world.ts, Timestamp::new(world.ts.wall_ns + 5, 0));
    world.shared.set_gc_threshold(gc_threshold);
    let tablet = world.tablets[&ROOT].clone();
    from.block_on(tablet.merge(tablet.plan_full_merge().unwrap()))
        .unwrap();
    world.write_at(
        Timestamp::new(gc_threshold.wall_ns + 1, 0),
        vec![Op::Delete(b"a".to_vec())],
    );
    flush(&from, &world, ROOT);
    let snapshot = root_snapshot(&world);
    assert_eq!(described(&snapshot).gc_threshold(), gc_threshold);
    let (to, behind) = nothing();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    let installed = to.block_on(receiver.install()).unwrap();
    let refused = StorageError::BelowGcThreshold {
        read_ts: old,
        gc_threshold,
    };
    assert_eq!(to.block_on(installed.get(b"a", old)), Err(refused));
    let mut compared = one_range(&world, &behind, &installed);
    compared.gc_threshold = gc_threshold;
    to.block_on(check_every_ts(&compared));
}

#[test]
fn a_snapshot_keeps_its_files_as_long_as_it_lives() {
    let (machine, world) = tables(2, 3);
    let tablet = &world.tablets[&ROOT];
    let snapshot = root_snapshot(&world);
    let before = names(&machine.image(), ROOT);
    machine
        .block_on(tablet.merge(tablet.plan_full_merge().unwrap()))
        .unwrap();
    let kept = names(&machine.image(), ROOT);
    assert!(before.iter().all(|name| kept.contains(name)), "{kept:?}");
    let (to, behind) = nothing();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    to.block_on(check_every_ts(&one_range(
        &world,
        &behind,
        &to.block_on(receiver.install()).unwrap(),
    )));
    drop(snapshot);
    machine.block_on(world.shared.remove_obsolete());
    assert_eq!(
        names(&machine.image(), ROOT).len(),
        2,
        "one table and the manifest"
    );
}

#[test]
fn a_read_is_of_whole_blocks_inside_a_file() {
    let (machine, world) = tables(3, 1);
    let snapshot = root_snapshot(&world);
    let file = snapshot.description().files().next().unwrap();
    let read = |id, offset, len_max| {
        machine
            .block_on(snapshot.read(id, offset, len_max))
            .map(|bytes| bytes.len())
    };
    let whole = usize::try_from(file.bytes).unwrap();
    assert_eq!(read(file.id, 0, 0), Ok(BLOCK_BYTES));
    assert_eq!(read(file.id, 0, 2 * BLOCK_BYTES - 1), Ok(BLOCK_BYTES));
    assert_eq!(
        read(file.id, 0, usize::MAX),
        Ok(whole.min(SNAPSHOT_READ_BYTES_MAX))
    );
    for (id, offset) in [
        (file.id ^ 1, 0),
        (file.id, 1),
        (file.id, file.bytes),
        (file.id, u64::MAX - 4095),
    ] {
        assert_eq!(
            read(id, offset, 1),
            Err(SnapshotError::UnexpectedBytes { file: id, offset })
        );
    }
}

#[test]
fn bytes_that_are_not_due_change_nothing() {
    let (_from, world) = tables(4, 2);
    let snapshot = root_snapshot(&world);
    let (to, behind) = nothing();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, 1))
        .unwrap();
    let missing: Vec<MissingBytes> = receiver.missing().collect();
    let due = missing[0];
    let too_long = usize::try_from(due.bytes).unwrap() + BLOCK_BYTES;
    for (file, offset, len) in [
        (due.file, due.offset, 0),
        (due.file, due.offset, 100),
        (due.file, due.offset, too_long),
        (due.file, due.offset + 4096, BLOCK_BYTES),
        (due.file, 0, if due.offset == 0 { 1 } else { BLOCK_BYTES }),
        (missing.last().unwrap().file ^ 1, 0, BLOCK_BYTES),
    ] {
        assert_eq!(
            to.block_on(receiver.write(file, offset, &vec![0; len])),
            Err(SnapshotError::UnexpectedBytes { file, offset })
        );
    }
    assert_eq!(receiver.missing().collect::<Vec<_>>(), missing);
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    to.block_on(receiver.install()).unwrap();
}

#[test]
fn a_receiver_is_refused_where_it_makes_no_sense() {
    let (from, world) = tables(5, 1);
    let snapshot = root_snapshot(&world);
    let description = described(&snapshot);
    let (to, behind) = nothing();
    let begin = |range| to.block_on(Tablet::receive_new(&behind.shared, range, description.clone()));
    let other = RangeId(99);
    assert_eq!(
        begin(other).map(|_| ()),
        Err(SnapshotError::OtherRange {
            expected: other,
            found: ROOT
        })
    );
    let first = begin(ROOT).unwrap();
    assert_eq!(
        begin(ROOT).map(|_| ()),
        Err(SnapshotError::Receiving { range: ROOT })
    );
    drop(first);
    begin(ROOT).unwrap();
    let there = from.block_on(Tablet::receive_new(&world.shared, ROOT, description.clone()));
    let exists = StorageError::AlreadyExists { range: ROOT };
    assert_eq!(there.map(|_| ()), Err(exists.into()));
    let (index, applied) = (description.index(), world.tablets[&ROOT].applied_index());
    assert_eq!(
        from.block_on(world.tablets[&ROOT].receive(description))
            .map(|_| ()),
        Err(SnapshotError::Stale { index, applied })
    );
}

#[test]
fn a_tablet_that_caught_up_is_not_taken_back() {
    let (_from, world) = tables(6, 2);
    let snapshot = root_snapshot(&world);
    let to = ImageMachine::new(&DiskImage::new());
    let mut behind = to.block_on(follower(to.env(), &world, 5));
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    behind.log = world.log.clone();
    to.block_on(behind.replay());
    let applied = behind.tablets[&ROOT].applied_index();
    let refused = to.block_on(receiver.install()).map(|_| ()).unwrap_err();
    assert_eq!(
        refused,
        SnapshotError::Stale {
            index: applied,
            applied
        }
    );
    to.block_on(check_every_ts(&one_range(
        &world,
        &behind,
        &behind.tablets[&ROOT],
    )));
}

#[test]
fn whole_files_are_not_received_twice() {
    let (from, mut world) = tables(7, 3);
    let first = root_snapshot(&world);
    let (to, mut behind) = nothing();
    let mut receiver = to.block_on(receive(&behind, &first)).unwrap();
    let all: Vec<MissingBytes> = receiver.missing().collect();
    let blocks = |missing: &MissingBytes| usize::try_from(missing.bytes).unwrap() / BLOCK_BYTES;
    // A whole file, and the next one but its last block.
    to.block_on(send(
        &first,
        &mut receiver,
        BLOCK_BYTES,
        blocks(&all[0]) + blocks(&all[1]) - 1,
    ))
    .unwrap();
    let last = all[1].bytes - BLOCK_BYTES as u64;
    let part = MissingBytes {
        offset: last,
        bytes: BLOCK_BYTES as u64,
        ..all[1]
    };
    assert_eq!(receiver.missing().collect::<Vec<_>>(), [part, all[2]]);
    // Another sender may go on. A lost one, here, and a restart cost the file that is not whole.
    drop(receiver);
    let receiver = to.block_on(receive(&behind, &first)).unwrap();
    assert_eq!(receiver.missing().collect::<Vec<_>>(), all[1..]);
    drop(receiver);
    let to = to.killed();
    to.block_on(behind.open_all(to.env())).unwrap();
    let mut receiver = to.block_on(receive(&behind, &first)).unwrap();
    assert_eq!(receiver.missing().collect::<Vec<_>>(), all[1..]);
    to.block_on(send(&first, &mut receiver, BLOCK_BYTES, blocks(&all[1])))
        .unwrap();
    drop(receiver);
    // The sender has gone on: what its next snapshot shares is there.
    writes(&mut world, &mut Prng::new(8), 10);
    flush(&from, &world, ROOT);
    let second = root_snapshot(&world);
    let mut receiver = to.block_on(receive(&behind, &second)).unwrap();
    let missing: Vec<u64> = receiver.missing().map(|missing| missing.file).collect();
    let newest = second.description().files().next().unwrap().id;
    assert_eq!(missing, [newest, all[2].file]);
    to.block_on(send(&second, &mut receiver, 1 << 20, usize::MAX))
        .unwrap();
    let installed = to.block_on(receiver.install()).unwrap();
    to.block_on(check_every_ts(&one_range(&world, &behind, &installed)));
    assert_eq!(names(&to.image(), ROOT).len(), 5, "four tables and the manifest");
}

#[test]
fn a_tablet_that_is_opened_keeps_what_may_still_be_installed() {
    let (_from, world) = tables(9, 2);
    let snapshot = root_snapshot(&world);
    let to = ImageMachine::new(&DiskImage::new());
    let mut behind = to.block_on(follower(to.env(), &world, 8));
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, 1 << 20, 1)).unwrap();
    drop(receiver);
    let received = |machine: &ImageMachine| {
        let files = names(&machine.image(), ROOT);
        files.iter().filter(|name| name.ends_with(".received")).count()
    };
    let to = to.killed();
    to.block_on(behind.restart(to.env())).unwrap();
    assert_eq!(received(&to), 1);
    let receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    assert_eq!(receiver.missing().count(), 1);
    drop(receiver);
    // The log took it there.
    behind.log = world.log.clone();
    to.block_on(behind.replay());
    flush(&to, &behind, ROOT);
    let to = to.killed();
    to.block_on(behind.restart(to.env())).unwrap();
    assert_eq!(received(&to), 0);
}

#[test]
fn what_is_given_up_is_removed() {
    let (_from, world) = tables(10, 2);
    let snapshot = root_snapshot(&world);
    let (to, behind) = nothing();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, 1 << 20, 1)).unwrap();
    to.block_on(receiver.abandon()).unwrap();
    assert_eq!(names(&to.image(), ROOT), [""; 0]);
    let behind = to.block_on(follower(to.env(), &world, 8));
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, 1 << 20, 1)).unwrap();
    to.block_on(receiver.abandon()).unwrap();
    assert_eq!(names(&to.image(), ROOT), ["MANIFEST"]);
}

#[test]
fn a_damaged_file_is_named_refused_and_received_again() {
    let (_from, world) = tables(11, 2);
    let snapshot = root_snapshot(&world);
    let (to, behind) = nothing();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    let due = receiver.due().unwrap();
    let sound = to
        .block_on(snapshot.read(due.file, 0, usize::MAX))
        .unwrap()
        .to_vec();
    assert_eq!(sound.len() as u64, due.bytes);
    let mut prng = Prng::new(12);
    let bits = sound.len() * 8;
    for bit in [0, bits - 1]
        .into_iter()
        .chain((0..1_500).map(|_| prng.index(bits)))
    {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match to.block_on(receiver.write(due.file, 0, &damaged)) {
            Err(SnapshotError::Storage(StorageError::Corruption(Corruption { file, .. }))) => {
                assert!(file.contains(&format!("{:016x}", due.file)), "{file}");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
        assert_eq!(receiver.due(), Some(due));
    }
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    // A file that rots before the receiver is begun again is not had.
    drop(receiver);
    let mut image = to.image();
    let rotten = names(&image, ROOT).remove(0);
    image.flip_bit(&format!("tablets/{}/{rotten}", ROOT.0), 9_999);
    let to = ImageMachine::new(&image);
    let mut behind = behind;
    to.block_on(behind.open_all(to.env())).unwrap();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    assert_eq!(receiver.missing().count(), 1);
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    let installed = to.block_on(receiver.install()).unwrap();
    to.block_on(check_every_ts(&one_range(&world, &behind, &installed)));
}

#[test]
fn reads_that_have_begun_go_on_in_the_old_state() {
    let (from, mut world) = sender();
    let key = b"k".to_vec();
    world.write(vec![Op::Put(key.clone(), b"old".to_vec())]);
    let old = world.model.get(&key, world.ts);
    let entries = world.log.len();
    world.write(vec![Op::Put(key.clone(), b"new".to_vec())]);
    flush(&from, &world, ROOT);
    let new = world.model.get(&key, world.ts);
    let snapshot = root_snapshot(&world);
    let copy = |seen: Option<(Timestamp, &[u8])>| seen.map(|(ts, value)| (ts, value.to_vec()));
    let (mut olds, mut news) = (0, 0);
    for polls in 0..20 {
        let to = ImageMachine::new(&DiskImage::new());
        let behind = to.block_on(follower(to.env(), &world, entries));
        flush(&to, &behind, ROOT);
        let tablet = behind.tablets[&ROOT].clone();
        // What is read of the old state, a snapshot of it included.
        assert_eq!(to.block_on(tablet.get(&key, Timestamp::MAX)), Ok(old.clone()));
        let held = tablet.snapshot().unwrap();
        let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
        to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
            .unwrap();
        let mut reading = Box::pin(tablet.get_interleaved(&key, Timestamp::MAX, copy));
        let context = &mut Context::from_waker(Waker::noop());
        let mut seen = None;
        for _ in 0..polls {
            if seen.is_none()
                && let Poll::Ready(done) = reading.as_mut().poll(context)
            {
                seen = Some(done);
            }
        }
        to.block_on(receiver.install()).unwrap();
        while seen.is_none() {
            if let Poll::Ready(done) = reading.as_mut().poll(context) {
                seen = Some(done);
            }
        }
        match seen {
            Some(Ok(seen)) if seen == old => olds += 1,
            Some(Ok(seen)) if seen == new => news += 1,
            // The block that it needs is not in the cache.
            Some(Err(NeedsIo)) => news += 1,
            other => panic!("{other:?} after {polls} polls"),
        }
        drop(reading);
        // No row of the old state is left.
        let cached = tablet.get_cached(&key, Timestamp::MAX, copy);
        assert!(cached == Err(NeedsIo) || cached == Ok(new.clone()), "{cached:?}");
        assert_eq!(to.block_on(tablet.get(&key, Timestamp::MAX)), Ok(new.clone()));
        let file = held.description().files().next().unwrap();
        to.block_on(held.read(file.id, 0, 1)).unwrap();
        assert_eq!(names(&to.image(), ROOT).len(), 3, "both tables and the manifest");
        drop(held);
        to.block_on(behind.shared.remove_obsolete());
        assert_eq!(names(&to.image(), ROOT).len(), 2, "one table and the manifest");
        assert_eq!(behind.shared.memory_bytes(), 0, "no memtable is left");
    }
    assert!(olds > 0 && news > 0, "{olds} old, {news} new");
}

#[test]
fn an_empty_tablet_can_be_sent() {
    let (from, mut world) = sender();
    world.write_nothing(ROOT);
    flush(&from, &world, ROOT);
    let snapshot = root_snapshot(&world);
    assert_eq!(snapshot.description().files().count(), 0);
    let (to, behind) = nothing();
    let receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    let installed = to.block_on(receiver.install()).unwrap();
    assert_eq!(installed.flushed_index(), Index(6));
    assert_eq!(installed.app_state(), state(ROOT, Index(6)));
    assert_eq!(names(&to.image(), ROOT), ["MANIFEST"]);
}

#[test]
fn what_a_removed_tablet_left_is_not_taken_for_the_new_one() {
    let (_from, world) = tables(13, 1);
    let snapshot = root_snapshot(&world);
    let (to, behind) = nothing();
    let dir = format!("tablets/{}", ROOT.0);
    let disk = to.env().disk().clone();
    to.block_on(disk.create_dir(&dir)).unwrap();
    for name in [
        "00000001.sst",
        "MANIFEST.tmp",
        "0000000000000001-9.received",
        "0000000000000001-9.part",
    ] {
        to.block_on(disk.create(&format!("{dir}/{name}"), env::OpenMode::Write))
            .unwrap();
    }
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    assert_eq!(names(&to.image(), ROOT), [""; 0]);
    to.block_on(send(&snapshot, &mut receiver, BLOCK_BYTES, usize::MAX))
        .unwrap();
    let installed = to.block_on(receiver.install()).unwrap();
    to.block_on(check_every_ts(&one_range(&world, &behind, &installed)));
}
