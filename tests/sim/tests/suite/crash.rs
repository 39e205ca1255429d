//! What a crash leaves: everything that was promised, in any company of what was not.

use base::limits::BLOCK_BYTES;
use base::{Prng, ShardId};
use corelane_sim::{DiskImage, ImageMachine, Sim, SimConfig, SimEnv, SimNodeId};
use env::{Clock, Disk, DiskOp, Env, File, OpenMode, TaskClass, Tasks};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

const BLOCK: u64 = BLOCK_BYTES as u64;

async fn put<E: Env>(env: &E, file: &<E::Disk as Disk>::File, block: u64, byte: u8) {
    let mut buf = env.disk().alloc(BLOCK_BYTES);
    buf.fill(byte);
    file.write_at(block * BLOCK, buf)
        .await
        .0
        .expect("a write on a sound disk");
}

/// What must be found after a crash.
#[derive(Debug, Default)]
struct Promised {
    /// The byte that fills each block of `log`, and what else may be there because it was asked for.
    log: BTreeMap<u64, (u8, Vec<u8>)>,
    /// Files that must exist and what fills their first block.
    files: BTreeMap<String, u8>,
    /// Files that must be gone.
    gone: Vec<String>,
}

/// Writes to one log in durable mode, and makes, fills, renames and removes files the careful way.
async fn work(env: SimEnv, life: u32, mut prng: Prng, promised: Rc<RefCell<Promised>>) {
    let disk = env.disk();
    let log = disk
        .open("log", OpenMode::WriteDurable)
        .await
        .expect("it was made");
    for round in 0..u64::MAX {
        let byte = u8::try_from(1 + prng.below(255)).expect("below 256");
        if prng.chance(0.6) {
            let block = prng.below(6);
            promised.borrow_mut().log.entry(block).or_default().1.push(byte);
            put(&env, &log, block, byte).await;
            promised.borrow_mut().log.insert(block, (byte, Vec::new()));
            continue;
        }
        let name = format!("dir/{life}-{round}");
        let file = disk
            .create(&format!("{name}.tmp"), OpenMode::Write)
            .await
            .expect("a fresh name");
        put(&env, &file, 0, byte).await;
        file.sync().await.expect("a sync on a sound disk");
        disk.rename(&format!("{name}.tmp"), &name)
            .await
            .expect("it exists");
        disk.sync_dir("dir").await.expect("it exists");
        promised.borrow_mut().files.insert(name.clone(), byte);
        if prng.chance(0.5) {
            promised.borrow_mut().files.remove(&name);
            disk.remove(&name).await.expect("it exists");
            disk.sync_dir("dir").await.expect("it exists");
            promised.borrow_mut().gone.push(name);
        }
    }
}

fn check(image: &DiskImage, promised: &Promised) {
    let log = image.read("log").expect("the log was made durably");
    for (block, (byte, asked)) in &promised.log {
        let start = usize::try_from(block * BLOCK).expect("small");
        let bytes = log.get(start..start + BLOCK_BYTES).unwrap_or(&[]);
        for sector in bytes.chunks(512) {
            let filled = sector.iter().all(|at| *at == sector[0]);
            assert!(filled, "a sector is whole: {sector:?}");
            assert!(
                sector[0] == *byte || asked.contains(&sector[0]),
                "block {block} holds {} not {byte}",
                sector[0]
            );
        }
        assert!(!bytes.is_empty() || *byte == 0, "block {block} is gone");
    }
    for (name, byte) in &promised.files {
        let bytes = image.read(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert!(
            bytes.len() == BLOCK_BYTES && bytes.iter().all(|at| at == byte),
            "{name} is damaged"
        );
    }
    for name in &promised.gone {
        assert!(image.read(name).is_none(), "{name} is back");
    }
}

fn started(sim: &mut Sim) -> SimNodeId {
    let node = sim.add_node(1);
    let env = sim.env(node, ShardId(0));
    sim.block_on(async move {
        env.disk().create_dir("dir").await.expect("a fresh name");
        let log = env
            .disk()
            .create("log", OpenMode::WriteDurable)
            .await
            .expect("a fresh name");
        put(&env, &log, 5, 0).await;
        env.disk().sync_dir("").await.expect("the data directory syncs");
    });
    node
}

#[test]
fn what_was_promised_survives_and_little_else() {
    let (mut torn, mut lost, mut undone) = (0, 0, 0);
    for seed in 0..150 {
        let mut sim = Sim::new(seed, SimConfig::shuffled());
        let node = started(&mut sim);
        let promised = Rc::new(RefCell::new(Promised::default()));
        let mut prng = Prng::new(seed);
        for life in 0..4 {
            let env = sim.env(node, ShardId(0));
            sim.spawn(Some(node), work(env, life, prng.fork(), promised.clone()));
            sim.run_for(Duration::from_nanos(prng.below(20_000_000)));
            sim.crash(node);
            check(&sim.disk_image(node), &promised.borrow());
            // What the crash left is what is there now.
            let left = sim.disk_image(node).read("log").expect("checked");
            let mut now = promised.borrow_mut();
            now.log.retain(|block, _| {
                let start = usize::try_from(block * BLOCK).expect("small");
                left.get(start..start + BLOCK_BYTES)
                    .is_some_and(|bytes| bytes.iter().all(|at| *at == bytes[0]))
            });
            for (block, (byte, asked)) in &mut now.log {
                *byte = left[usize::try_from(block * BLOCK).expect("small")];
                asked.clear();
            }
            drop(now);
            sim.restart(node);
        }
        let faults = sim.report().faults;
        let count = |fault| faults.get(&fault).copied().unwrap_or(0);
        torn += count(corelane_sim::Fault::CrashWriteTorn);
        lost += count(corelane_sim::Fault::CrashWriteLost);
        undone += count(corelane_sim::Fault::CrashNameUndone);
    }
    assert!(
        torn > 20 && lost > 20 && undone > 10,
        "torn {torn}, lost {lost}, undone {undone}"
    );
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    let mut sim = Sim::new(3, SimConfig::calm());
    let node = started(&mut sim);
    let env = sim.env(node, ShardId(0));
    sim.block_on(async move {
        let file = env
            .disk()
            .create("unsynced", OpenMode::Write)
            .await
            .expect("a fresh name");
        put(&env, &file, 0, 7).await;
    });
    sim.kill(node);
    assert_eq!(sim.disk_image(node).read("unsynced"), Some(vec![7; BLOCK_BYTES]));
    sim.restart(node);
    // It was never synced: the next loss of power may still take it.
    let mut config = SimConfig::calm().disk;
    config.crash_name_undone = 1.0;
    sim.set_disk_config(node, config);
    sim.crash(node);
    assert_eq!(sim.disk_image(node).read("unsynced"), None);
}

#[test]
fn every_crash_point_of_two_writes() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    let file = machine.block_on(async {
        let file = env
            .disk()
            .create("f", OpenMode::Write)
            .await
            .expect("a fresh name");
        put(&env, &file, 1, 9).await;
        file.sync().await.expect("a sync on a sound disk");
        env.disk().sync_dir("").await.expect("the data directory syncs");
        Rc::new(file)
    });
    machine.record();
    machine.mark(1);
    machine.block_on(async {
        put(&env, &file, 0, 1).await;
        put(&env, &file, 2, 2).await;
        file.sync().await.expect("a sync on a sound disk");
    });
    machine.mark(2);

    let trace = machine.trace();
    let boundaries: Vec<_> = trace.boundaries().collect();
    let unsettled: Vec<_> = boundaries.iter().map(corelane_sim::Boundary::unsettled).collect();
    // start, mark, begin, end, begin, end, synced, mark
    assert_eq!(unsettled, [0, 0, 1, 1, 2, 2, 0, 0]);
    assert_eq!(boundaries.last().and_then(corelane_sim::Boundary::mark), Some(2));

    let both = &boundaries[5];
    // Four subsets; per write eight cuts of the head and seven of the tail, the other write kept and lost.
    assert_eq!(both.images().count(), 4 + 2 * 15 * 2);
    let mut distinct: Vec<_> = both.images().map(|image| image.read("f")).collect();
    distinct.sort();
    distinct.dedup();
    // The heads of a write that ends inside the file and keep no sector are no new image; the others are.
    assert!(distinct.len() >= 60, "{}", distinct.len());
    for image in boundaries.iter().flat_map(corelane_sim::Boundary::images) {
        let bytes = image.read("f").expect("its name is durable");
        assert!(
            bytes[BLOCK_BYTES..2 * BLOCK_BYTES].iter().all(|at| *at == 9),
            "what was synced stays"
        );
    }
    for image in boundaries[7].images() {
        assert_eq!(image.len_of("f"), Some(3 * BLOCK));
        assert_eq!(image, boundaries[7].image_most());
    }
}

#[test]
fn names_are_undone_one_by_one_until_their_directory_is_synced() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.record();
    machine.block_on(async {
        let disk = env.disk();
        disk.create_dir("a").await.expect("a fresh name");
        disk.create_dir("b").await.expect("a fresh name");
        drop(disk.create("a/x", OpenMode::Write).await.expect("a fresh name"));
        disk.sync_dir("a").await.expect("it exists");
        disk.rename("a/x", "b/y").await.expect("it exists");
        disk.hard_link("b/y", "b/z").await.expect("it exists");
        disk.sync_dir("b").await.expect("it exists");
        disk.sync_dir("a").await.expect("it exists");
    });
    let names = |image: DiskImage| image.files().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let boundaries: Vec<_> = machine.trace().boundaries().collect();
    let mut seen: Vec<Vec<String>> = Vec::new();
    for boundary in &boundaries {
        let mut images: Vec<_> = boundary.images().map(names).collect();
        images.sort();
        images.dedup();
        seen.push(images);
    }
    let expected: [&[&str]; 9] = [
        &[""],
        &[""],
        &[""],
        &["", "a/x"],
        &["a/x"],
        &["a/x", "b/y"],
        &["a/x", "a/x b/z", "b/y", "b/y b/z"],
        // Only one side of the rename is durable: the file may have both names.
        &["a/x b/y b/z", "b/y b/z"],
        &["b/y b/z"],
    ];
    assert_eq!(seen, expected);
}

#[test]
fn rules_fail_the_operation_that_they_name() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.rule(corelane_sim::DiskRule::nth(DiskOp::Write, 1, ErrorKind::Other).on("f"));
    machine.rule(corelane_sim::DiskRule::nth(DiskOp::Sync, 0, ErrorKind::StorageFull).onwards());
    machine.block_on(async {
        let file = env
            .disk()
            .create("f", OpenMode::Write)
            .await
            .expect("a fresh name");
        let buf = || env.disk().alloc(BLOCK_BYTES);
        assert!(file.write_at(0, buf()).await.0.is_ok());
        let error = file.write_at(BLOCK, buf()).await.0.expect_err("the second one");
        assert_eq!(
            (error.op, error.offset, error.kind),
            (DiskOp::Write, Some(BLOCK), ErrorKind::Other)
        );
        assert!(file.write_at(0, buf()).await.0.is_ok());
        for _ in 0..2 {
            assert_eq!(
                file.sync().await.expect_err("all of them").kind,
                ErrorKind::StorageFull
            );
        }
    });
}

#[test]
fn damage_by_hand_is_where_it_was_asked_for() {
    let mut image = DiskImage::new();
    let bytes: Vec<u8> = (0..3u8).flat_map(|block| [block + 1; BLOCK_BYTES]).collect();
    image.write("dir/f", &bytes);
    let before = image.clone();
    image.flip_bit("dir/f", BLOCK * 8 + 3);
    assert_eq!(image.read("dir/f").expect("there")[BLOCK_BYTES], 2 ^ 8);
    image.swap_blocks("dir/f", 0, 2);
    image.zero_sector("dir/f", 8 + 1);
    let now = image.read("dir/f").expect("there");
    assert_eq!(
        (
            now[0],
            now[2 * BLOCK_BYTES],
            now[BLOCK_BYTES + 511],
            now[BLOCK_BYTES + 512]
        ),
        (3, 1, 2, 0)
    );
    image.copy_block(&before, ("dir/f", 1), ("dir/f", 1));
    image.swap_blocks("dir/f", 0, 2);
    assert_eq!(image, before);
    image.zero_block("dir/f", 0);
    assert_eq!(
        image.read("dir/f").expect("there")[..BLOCK_BYTES],
        [0; BLOCK_BYTES]
    );
    assert_eq!(before.read("dir/f"), Some(bytes), "a copy is a copy");
}

#[test]
fn a_crash_ends_all_tasks_and_their_destructors_do_nothing() {
    struct Bomb(SimEnv);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0
                .tasks()
                .spawn(TaskClass::Foreground, async { panic!("a dead process ran") });
        }
    }
    let mut sim = Sim::new(1, SimConfig::calm());
    let node = sim.add_node(1);
    let env = sim.env(node, ShardId(0));
    let bomb = Bomb(env.clone());
    sim.spawn(Some(node), async move {
        env.clock().sleep(Duration::from_secs(1)).await;
        drop(bomb);
    });
    sim.run_for(Duration::from_millis(1));
    sim.crash(node);
    sim.restart(node);
    sim.run_for(Duration::from_secs(2));
    assert!(sim.is_up(node));
}
