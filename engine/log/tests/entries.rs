//! Entries read back from a disk that is damaged or fails, and from segments that are reused or removed meanwhile.

use base::{Index, RangeId, ShardId, Term};
use core::ops::Range;
use core::time::Duration;
use corelane_log::{Corruption, EntryKind, Log, LogConfig, LogError, Record};
use env::{Disk, DiskOp, Env, File, OpenMode, TaskClass, Tasks};
use sim::{DiskConfig, DiskImage, DiskRule, ImageMachine, Sim, SimConfig, SimEnv, SimNodeId};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;

const RANGE: RangeId = RangeId(1);
const BLOCK: u64 = 4096;

fn config(segments_kept_max: usize) -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        segments_spare: 1,
        segments_kept_max,
        write_min_bytes_when_busy: 1,
        seal_after: None,
        ..LogConfig::default()
    }
}

async fn open<E: Env>(env: &E) -> Log<E> {
    open_keeping(env, 1).await
}

async fn open_keeping<E: Env>(env: &E, segments: usize) -> Log<E> {
    let opened = Log::open(env, "wal", config(segments), &mut |_, _| {}).await;
    opened.expect("there is no damage").0
}

/// What the payload of entry `index` consists of.
fn byte(index: u64) -> u8 {
    index.to_le_bytes()[0]
}

/// Appends entry `index` of the range and waits until it is durable.
async fn put<E: Env>(log: &Log<E>, index: u64, bytes: usize) {
    let seqno = log.append(&Record::Entry {
        range: RANGE,
        index: Index(index),
        term: Term(1),
        chain: 7,
        kind: EntryKind::Command,
        payload: &vec![byte(index); bytes],
    });
    log.submit();
    while log.persisted() < seqno {
        log.persisted_beyond(log.persisted())
            .await
            .expect("the disk does not fail");
    }
}

/// Reads from `first` to the end: the indexes that were shown, and the result.
async fn read<E: Env>(log: &Log<E>, first: u64) -> (Vec<u64>, Result<Index, LogError>) {
    let mut shown = Vec::new();
    let visit = &mut |record: Record<'_>| match record {
        Record::Entry { index, payload, .. } => {
            assert!(
                payload.iter().all(|found| *found == byte(index.0)),
                "another payload"
            );
            shown.push(index.0);
        }
        other => panic!("{other:?} is no entry"),
    };
    let result = log
        .read_entries(RANGE, Index(first), Index(1_000), 1 << 20, visit)
        .await;
    (shown, result)
}

async fn edit<E: Env>(env: &E, file: &str, block: u64, edit: impl FnOnce(&mut [u8])) {
    let file = env
        .disk()
        .open(file, OpenMode::WriteDurable)
        .await
        .expect("it is there");
    let mut bytes = file.read_at(block * BLOCK, 4096).await.expect("it can be read");
    edit(&mut bytes);
    file.write_at(block * BLOCK, bytes)
        .await
        .0
        .expect("it can be written");
}

#[test]
fn every_flipped_bit_of_a_batch_is_named_and_nothing_wrong_is_shown() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.block_on(async {
        let log = open(&env).await;
        // Block 1 is the opening; entries 1 and 2 stand in blocks 2 and 3 of the first segment, entry 3 in the next one.
        for index in 1..=3 {
            put(&log, index, 300).await;
        }
        let file = "wal/00000000.seg";
        assert_eq!(read(&log, 1).await, (vec![1, 2, 3], Ok(Index(4))));
        // A batch header of 96 bytes, a record of 48 and its payload of 300, up to 16 bytes of padding of which all counts.
        for bit in (0..(96 + 352) * 8).step_by(5) {
            for (block, before) in [(2, vec![]), (3, vec![1])] {
                let flip = |bytes: &mut [u8]| bytes[bit / 8] ^= 1 << (bit % 8);
                edit(&env, file, block, flip).await;
                let (shown, result) = read(&log, 1).await;
                assert_eq!(shown, before, "bit {bit}");
                let Err(LogError::Corruption(Corruption {
                    file: named, offset, ..
                })) = result
                else {
                    panic!("bit {bit}: {result:?}")
                };
                assert_eq!((&named[..], offset), (file, block * BLOCK), "bit {bit}");
                edit(&env, file, block, flip).await;
            }
        }
        edit(&env, file, 2, |bytes| bytes[96 + 352] ^= 1).await;
        put(&log, 4, 10).await;
        assert_eq!(
            read(&log, 1).await,
            (vec![1, 2, 3, 4], Ok(Index(5))),
            "padding means nothing"
        );
        log.close().await.expect("the log goes on");
    });
}

#[test]
fn a_batch_in_the_place_of_another_is_damage() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.block_on(async {
        let log = open(&env).await;
        put(&log, 1, 10).await;
        put(&log, 2, 10).await;
        let mut other = Vec::new();
        edit(&env, "wal/00000000.seg", 2, |bytes| other.extend_from_slice(bytes)).await;
        edit(&env, "wal/00000000.seg", 3, |bytes| bytes.copy_from_slice(&other)).await;
        let (shown, result) = read(&log, 1).await;
        assert_eq!(shown, vec![1]);
        let error = result.expect_err("it is another batch");
        let text = "wal/00000000.seg is damaged at offset 12288: expected batch #3 of segment 1, found a batch of block 2";
        assert_eq!(error.to_string(), text);
    });
}

#[test]
fn a_read_that_fails_is_an_error_and_the_log_goes_on() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.block_on(async {
        let log = open(&env).await;
        for index in 1..=12 {
            put(&log, index, 3_000).await;
        }
        let mut failures = 0;
        loop {
            machine.rule(DiskRule::nth(DiskOp::Read, failures, ErrorKind::Other));
            let (shown, result) = read(&log, 1).await;
            let Err(error) = result else { break };
            assert!(
                matches!(&error, LogError::Disk(error) if error.op == DiskOp::Read),
                "{error}"
            );
            assert!(
                shown.len() < 12 && shown.iter().copied().eq(1..=shown.len() as u64),
                "{shown:?}"
            );
            failures += 1;
        }
        assert!(failures >= 4, "{failures} reads are too few for a test");
        put(&log, 13, 10).await;
        log.clone().close().await.expect("the log goes on");
        assert_eq!(read(&log, 1).await, (vec![], Err(LogError::Closed)));
    });
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let machine = ImageMachine::new(&DiskImage::new());
    machine.block_on(async {
        let log = open(&machine.env()).await;
        put(&log, 1, 10).await;
    });
    let machine = ImageMachine::new(&machine.image());
    machine.block_on(async {
        let log = open(&machine.env()).await;
        machine.rule(DiskRule::nth(DiskOp::Open, 0, ErrorKind::Other));
        let (_, result) = read(&log, 1).await;
        assert!(matches!(result, Err(LogError::Disk(error)) if error.op == DiskOp::Open));
        assert_eq!(read(&log, 1).await, (vec![1], Ok(Index(2))));
    });
}

/// What came of a read, once it has ended.
type Outcome = Rc<RefCell<Option<(Vec<u64>, Result<Index, LogError>)>>>;

/// Starts a read from entry 1 whose first access to the disk takes a second.
fn start_slow_read(sim: &mut Sim, node: SimNodeId, env: &SimEnv, log: &Log<SimEnv>) -> Outcome {
    let outcome = Outcome::default();
    let (log, into) = (log.clone(), Rc::clone(&outcome));
    // The log has nothing to do meanwhile that would be slow, too.
    sim.run_for(Duration::from_millis(50));
    sim.set_disk_config(
        node,
        DiskConfig {
            read_ns: 1_000_000_000..=1_000_000_000,
            ..DiskConfig::calm()
        },
    );
    env.tasks().spawn(TaskClass::Foreground, async move {
        let read = read(&log, 1).await;
        *into.borrow_mut() = Some(read);
    });
    sim.run_for(Duration::from_millis(1));
    sim.set_disk_config(node, DiskConfig::calm());
    outcome
}

/// The log goes through its slots.
async fn go_on(log: &Log<SimEnv>, indexes: Range<u64>) {
    for index in indexes {
        put(log, index, 300).await;
        log.cover(RANGE, Index(index));
    }
}

#[test]
fn a_segment_that_is_reused_while_it_is_read_shows_nothing() {
    let mut sim = Sim::new(1, SimConfig::calm());
    let node = sim.add_node(1);
    let env = sim.env(node, ShardId(0));
    let log = sim.block_on(open_keeping(&env, 4));
    sim.block_on(put(&log, 1, 300));
    let outcome = start_slow_read(&mut sim, node, &env, &log);
    sim.block_on(go_on(&log, 2..60));
    assert_eq!(*outcome.borrow(), None, "it is still under way");
    let segment = sim
        .disk_image(node)
        .read("wal/00000000.seg")
        .expect("it is there");
    assert_ne!(
        segment[24..32],
        1_u64.to_le_bytes(),
        "the slot holds another segment"
    );
    sim.run_for(Duration::from_secs(3));
    assert_eq!(*outcome.borrow(), Some((vec![], Ok(Index(1)))));
}

#[test]
fn a_segment_that_is_removed_while_its_file_is_opened_shows_nothing() {
    let mut sim = Sim::new(1, SimConfig::calm());
    let node = sim.add_node(1);
    let env = sim.env(node, ShardId(0));
    // Each opening begins a segment, so that there are more than are kept.
    for index in 1..=6 {
        let log = sim.block_on(open(&env));
        sim.block_on(put(&log, index, 300));
        sim.block_on(log.close()).expect("the disk does not fail");
    }
    let log = sim.block_on(open(&env));
    let outcome = start_slow_read(&mut sim, node, &env, &log);
    sim.block_on(go_on(&log, 7..60));
    assert_eq!(*outcome.borrow(), None, "it is still under way");
    assert_eq!(
        sim.disk_image(node).read("wal/00000000.seg"),
        None,
        "it was removed"
    );
    sim.run_for(Duration::from_secs(3));
    assert_eq!(*outcome.borrow(), Some((vec![], Ok(Index(1)))));
}
