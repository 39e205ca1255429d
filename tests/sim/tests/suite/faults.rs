//! Each fault of disks, clocks and schedules, one at a time and certain to fire.

use base::ShardId;
use base::limits::BLOCK_BYTES;
use corelane_sim::{DiskConfig, DiskRule, Fault, Sim, SimConfig, SimEnv, SimNodeId};
use env::{Clock, Disk, DiskError, DiskOp, Env, File, OpenMode};
use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

const BLOCK: u64 = BLOCK_BYTES as u64;

fn one_node(config: SimConfig) -> (Sim, SimNodeId, SimEnv) {
    let mut sim = Sim::new(11, config);
    let node = sim.add_node(1);
    let env = sim.env(node, ShardId(0));
    (sim, node, env)
}

/// A node whose file `f` holds eight durable blocks, each filled with its number, and whose disk is then as configured.
fn eight_blocks(change: impl FnOnce(&mut DiskConfig)) -> (Sim, SimNodeId, SimEnv) {
    let (mut sim, node, env) = one_node(SimConfig::calm());
    let of_run = env.clone();
    sim.block_on(async move {
        let file = of_run
            .disk()
            .create("f", OpenMode::WriteDurable)
            .await
            .expect("a fresh name");
        for block in 0..8 {
            put(&of_run, &file, u64::from(block), block)
                .await
                .expect("a sound disk");
        }
        of_run.disk().sync_dir("").await.expect("a sound disk");
    });
    let mut disk = DiskConfig::calm();
    change(&mut disk);
    sim.set_disk_config(node, disk);
    (sim, node, env)
}

async fn put<E: Env>(env: &E, file: &<E::Disk as Disk>::File, block: u64, byte: u8) -> Result<(), DiskError> {
    let mut buf = env.disk().alloc(BLOCK_BYTES);
    buf.fill(byte);
    file.write_at(block * BLOCK, buf).await.0
}

/// Opens `f`, writes 100 over block 3, and reads all.
fn write_and_read(sim: &mut Sim, env: SimEnv) -> (Result<(), DiskError>, Result<Vec<u8>, DiskError>) {
    sim.block_on(async move {
        let file = env
            .disk()
            .open("f", OpenMode::WriteDurable)
            .await
            .expect("it exists");
        let written = put(&env, &file, 3, 100).await;
        let read = file.read_at(0, 8 * BLOCK_BYTES).await;
        (written, read.map(|bytes| bytes.to_vec()))
    })
}

fn blocks(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect()
}

fn count(sim: &Sim, fault: Fault) -> u64 {
    sim.fault_counts().get(&fault).copied().unwrap_or(0)
}

#[test]
fn a_lost_write_is_acknowledged_and_not_there() {
    let (mut sim, _, env) = eight_blocks(|disk| disk.write_lost = 1.0);
    let (written, read) = write_and_read(&mut sim, env);
    assert_eq!(written, Ok(()));
    assert_eq!(blocks(&read.expect("reads are sound")), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(count(&sim, Fault::WriteLost), 1);
}

#[test]
fn a_misdirected_write_is_in_another_place_and_only_there() {
    let (mut sim, _, env) = eight_blocks(|disk| disk.write_misdirected = 1.0);
    let (written, read) = write_and_read(&mut sim, env);
    assert_eq!(written, Ok(()));
    let blocks = blocks(&read.expect("reads are sound"));
    assert_eq!(blocks[3], 3);
    assert_eq!(
        blocks.iter().filter(|byte| **byte == 100).count(),
        1,
        "{blocks:?}"
    );
    assert_eq!(count(&sim, Fault::WriteMisdirected), 1);
}

#[test]
fn a_misdirected_read_returns_another_place() {
    let (mut sim, _, env) = eight_blocks(|disk| disk.read_misdirected = 1.0);
    let byte = sim.block_on(async move {
        let file = env.disk().open("f", OpenMode::Read).await.expect("it exists");
        file.read_at(3 * BLOCK, BLOCK_BYTES)
            .await
            .expect("no error is said")[0]
    });
    assert_ne!(byte, 3);
    assert_eq!(count(&sim, Fault::ReadMisdirected), 1);
}

#[test]
fn a_stale_read_returns_what_was_there_before() {
    let (mut sim, _, env) = eight_blocks(|disk| disk.read_stale = 1.0);
    let (written, read) = write_and_read(&mut sim, env);
    assert_eq!(written, Ok(()));
    assert_eq!(blocks(&read.expect("no error is said")), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(count(&sim, Fault::ReadStale), 1);
}

#[test]
fn rot_flips_one_bit_for_good() {
    let (mut sim, node, env) = eight_blocks(|disk| disk.bit_rot = 1.0);
    let before = sim.disk_image(node).read("f").expect("it exists");
    let read = sim.block_on(async move {
        let file = env.disk().open("f", OpenMode::Read).await.expect("it exists");
        file.read_at(0, 8 * BLOCK_BYTES)
            .await
            .expect("no error is said")
            .to_vec()
    });
    let flipped: u32 = before.iter().zip(&read).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);
    assert_eq!(sim.disk_image(node).read("f"), Some(read), "it stays");
}

#[test]
fn what_a_killed_process_left_unsynced_cannot_rot() {
    let (mut sim, node, env) = one_node(SimConfig::calm());
    sim.block_on(async move {
        let file = env
            .disk()
            .create("f", OpenMode::Write)
            .await
            .expect("a fresh name");
        put(&env, &file, 0, 7).await.expect("a sound disk");
    });
    sim.kill(node);
    sim.restart(node);
    let mut disk = DiskConfig::calm();
    disk.bit_rot = 1.0;
    sim.set_disk_config(node, disk);
    let env = sim.env(node, ShardId(0));
    let read = sim.block_on(async move {
        let file = env.disk().open("f", OpenMode::Read).await.expect("it exists");
        file.read_at(0, BLOCK_BYTES).await.expect("a sound disk").to_vec()
    });
    assert_eq!(read, [7; BLOCK_BYTES], "nothing of it is on the medium");
}

#[test]
fn errors_say_which_operation_and_where() {
    let (mut sim, _, env) = eight_blocks(|disk| (disk.write_error, disk.read_error) = (1.0, 1.0));
    let (written, read) = write_and_read(&mut sim, env);
    let error = |op, offset| DiskError {
        op,
        path: "f".into(),
        offset: Some(offset),
        kind: ErrorKind::Other,
    };
    assert_eq!(written, Err(error(DiskOp::Write, 3 * BLOCK)));
    assert_eq!(read, Err(error(DiskOp::Read, 0)));
}

#[test]
fn a_spoiled_block_is_not_read_until_it_is_written_again_or_its_file_goes() {
    let (mut sim, node, env) = one_node(SimConfig::calm());
    let read = |sim: &mut Sim, path: &'static str, at: u64| {
        let env = env.clone();
        sim.block_on(async move {
            let file = env.disk().open(path, OpenMode::Read).await.expect("it exists");
            file.read_at(at * BLOCK, BLOCK_BYTES).await.is_ok()
        })
    };
    let write = |sim: &mut Sim, path: &'static str| {
        let env = env.clone();
        sim.block_on(async move {
            let file = env.disk().create(path, OpenMode::WriteDurable).await?;
            file.write_at(0, env.disk().alloc(2 * BLOCK_BYTES)).await.0?;
            env.disk().sync_dir("").await
        })
        .expect("a sound disk");
    };
    write(&mut sim, "f");
    sim.spoil_block(node, "f", 1);
    assert!(read(&mut sim, "f", 0) && !read(&mut sim, "f", 1));
    let of_rename = env.clone();
    sim.block_on(async move { of_rename.disk().rename("f", "g").await })
        .expect("a sound disk");
    assert!(read(&mut sim, "g", 0) && !read(&mut sim, "g", 1));
    write(&mut sim, "g");
    assert!(read(&mut sim, "g", 1));
}

#[test]
fn a_failed_sync_settles_nothing() {
    let (mut sim, node, env) =
        eight_blocks(|disk| (disk.sync_error, disk.crash_lost, disk.crash_name_undone) = (1.0, 1.0, 1.0));
    sim.block_on(async move {
        let file = env
            .disk()
            .create("g", OpenMode::Write)
            .await
            .expect("a fresh name");
        put(&env, &file, 0, 1).await.expect("writes are sound");
        assert_eq!(file.sync().await.expect_err("it always fails").op, DiskOp::Sync);
        assert_eq!(
            env.disk().sync_dir("").await.expect_err("it always fails").op,
            DiskOp::SyncDir
        );
    });
    sim.crash(node);
    assert_eq!(sim.disk_image(node).files().collect::<Vec<_>>(), ["f"]);
    assert_eq!(count(&sim, Fault::DiskSyncError), 2);
}

#[test]
fn a_full_disk_takes_no_growth_and_all_else() {
    let (mut sim, node, env) = eight_blocks(|disk| disk.capacity_bytes = Some(9 * BLOCK));
    let before = sim.disk_image(node);
    sim.block_on(async move {
        assert_eq!(env.disk().space_free().await, Ok(BLOCK));
        let file = env
            .disk()
            .open("f", OpenMode::WriteDurable)
            .await
            .expect("it exists");
        assert_eq!(
            put(&env, &file, 9, 1)
                .await
                .expect_err("two blocks too many")
                .kind,
            ErrorKind::StorageFull
        );
        put(&env, &file, 7, 7).await.expect("nothing grows");
    });
    assert_eq!(sim.disk_image(node), before);
    assert_eq!(count(&sim, Fault::DiskFull), 1);
}

#[test]
fn a_rule_on_a_node_strikes_the_write_that_it_counts_to() {
    let (mut sim, node, env) = eight_blocks(|_| {});
    sim.disk_rule(node, DiskRule::nth(DiskOp::Write, 1, ErrorKind::Other));
    let results = sim.block_on(async move {
        let file = env
            .disk()
            .open("f", OpenMode::WriteDurable)
            .await
            .expect("it exists");
        [
            put(&env, &file, 0, 9).await.is_ok(),
            put(&env, &file, 1, 9).await.is_ok(),
            put(&env, &file, 2, 9).await.is_ok(),
        ]
    });
    assert_eq!(results, [true, false, true]);
    assert_eq!(count(&sim, Fault::DiskRule), 1);
}

#[test]
fn garbage_at_a_crash_stays_inside_unsettled_writes() {
    let (mut sim, node, env) =
        eight_blocks(|disk| (disk.crash_lost, disk.crash_torn, disk.crash_garbage) = (0.0, 1.0, 1.0));
    sim.block_on(async move {
        let file = env.disk().open("f", OpenMode::Write).await.expect("it exists");
        put(&env, &file, 3, 100).await.expect("a sound disk");
    });
    sim.crash(node);
    let bytes = sim.disk_image(node).read("f").expect("it exists");
    let is_block = |block: usize, byte: u8| {
        bytes[block * BLOCK_BYTES..][..BLOCK_BYTES]
            .iter()
            .all(|at| *at == byte)
    };
    for (block, byte) in (0..8).zip(0u8..) {
        assert_eq!(is_block(block, byte), block != 3, "block {block}");
    }
    assert!(!is_block(3, 100));
    assert_eq!(count(&sim, Fault::CrashSectorGarbage), 1);
}

#[test]
fn the_wall_clock_jumps_and_the_monotonic_clock_does_not() {
    let (mut sim, node, env) = one_node(SimConfig::calm());
    sim.run_for(Duration::from_secs(1));
    let (now, wall) = (env.clock().now(), env.clock().wall_ns());
    sim.clock_jump(node, -5_000_000_000);
    assert_eq!(env.clock().now(), now);
    assert_eq!(env.clock().wall_ns(), wall - 5_000_000_000);
}

#[test]
fn a_paused_node_stands_still_and_then_goes_on() {
    let (mut sim, node, env) = one_node(SimConfig::calm());
    let ticks = Rc::new(Cell::new(0));
    let of_task = ticks.clone();
    sim.spawn(Some(node), async move {
        loop {
            env.clock().sleep(Duration::from_millis(1)).await;
            of_task.set(of_task.get() + 1);
        }
    });
    sim.run_for(Duration::from_millis(10));
    let before = ticks.get();
    assert!(before >= 9, "{before} ticks");
    sim.pause(node, Duration::from_millis(50));
    sim.run_for(Duration::from_millis(49));
    assert_eq!(ticks.get(), before);
    sim.run_for(Duration::from_millis(10));
    assert!(ticks.get() > before);
}

#[test]
fn drift_shows_between_two_nodes() {
    let mut config = SimConfig::calm();
    config.clock.drift_ppm_max = 1000;
    let mut sim = Sim::new(5, config);
    let nodes = [sim.add_node(1), sim.add_node(1)];
    let envs = nodes.map(|node| sim.env(node, ShardId(0)));
    sim.run_for(Duration::from_secs(1000));
    let [a, b] = envs.map(|env| env.clock().now().0);
    assert!(a != b && a.abs_diff(b) < 3_000_000_000, "{a} {b}");
}

#[test]
#[should_panic(expected = "everything waits")]
fn a_deadlock_is_said_to_be_one() {
    let (mut sim, _, _) = one_node(SimConfig::swarm(1));
    sim.block_on(core::future::pending::<()>());
}

#[test]
#[should_panic(expected = "livelock")]
fn a_task_that_wakes_itself_for_ever_is_said_to_be_one() {
    let mut config = SimConfig::calm();
    config.polls_per_instant_max = 1_000;
    let (mut sim, node, _) = one_node(config);
    sim.spawn(
        Some(node),
        core::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            core::task::Poll::Pending
        }),
    );
    sim.run_for(Duration::from_secs(1));
}
