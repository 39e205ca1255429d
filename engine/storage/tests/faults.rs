//! A disk that fails: at every write, sync, rename and link of a flush, a merge and a split, with EIO and with ENOSPC.
//!
//! Nothing is acknowledged that is not durable, no write is tried again, reads go on, and a restart loses nothing. What cannot be read
//! is asked for again, and is damaged when it stays so.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::key::Span;
use base::{Prng, RangeId};
use corelane_storage::StorageError;
use env::DiskOp;
use fixtures::{Op, ROOT, World, draw_ops, small};
use sim::{DiskImage, DiskRule, ImageEnv, ImageMachine};
use std::io::ErrorKind;

/// The work that is to fail somewhere, and the range whose work did.
async fn work(world: &mut World<ImageEnv>) -> Result<(), (RangeId, StorageError)> {
    let of = |range| move |error| (range, error);
    world.freeze(ROOT);
    world.flush(ROOT).await.map_err(of(ROOT))?;
    world.write(vec![Op::Put(b"a".to_vec(), b"2".to_vec())]);
    let tablet = world.tablets[&ROOT].clone();
    tablet
        .merge(tablet.plan_full_merge().unwrap())
        .await
        .map_err(of(ROOT))?;
    let (_, right) = world.split(b"b");
    tablet.complete_split().await.map_err(of(ROOT))?;
    world.write(vec![Op::Put(b"b".to_vec(), b"3".to_vec())]);
    world.freeze(right);
    world.flush(right).await.map_err(of(right))?;
    Ok(())
}

fn prepare() -> (ImageMachine, World<ImageEnv>) {
    let machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), small()));
    let mut prng = Prng::new(6);
    for round in 0..30 {
        let ops = draw_ops(&mut prng, &Span::all());
        if !ops.is_empty() {
            world.write(ops);
        }
        if round % 10 == 5 {
            world.freeze(ROOT);
            machine.block_on(world.flush(ROOT)).unwrap();
        }
    }
    (machine, world)
}

/// Fails the `after`-th operation of a kind; false when the work has fewer of them.
fn fail(op: DiskOp, after: u64, kind: ErrorKind) -> bool {
    let (machine, mut world) = prepare();
    machine.rule(DiskRule::nth(op, after, kind));
    let Err((range, error)) = machine.block_on(work(&mut world)) else {
        return false;
    };
    assert!(
        matches!(&error, StorageError::Disk(error) if error.op == op && error.kind == kind),
        "{error}"
    );
    // The fault is over, but what it left behind is unknown: no write is tried again.
    machine.record();
    for tablet in world.tablets.values() {
        tablet.freeze(Vec::new(), false);
    }
    let refused = machine.block_on(world.tablets[&range].flush());
    assert_eq!(
        refused,
        Err(StorageError::Poisoned { range }),
        "{op:?} {after} {kind}"
    );
    assert_eq!(machine.trace().steps(), 0, "a poisoned tablet touched the disk");
    machine.block_on(world.check_all());
    world.tablets.clear();
    let again = ImageMachine::new(&machine.image());
    again.block_on(world.restart(again.env())).unwrap();
    again.block_on(world.check_all());
    true
}

#[test]
fn no_failed_operation_is_taken_for_success() {
    let mut failed = 0;
    for op in [
        DiskOp::Create,
        DiskOp::Write,
        DiskOp::Sync,
        DiskOp::SyncDir,
        DiskOp::Rename,
        DiskOp::HardLink,
    ] {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            let before = failed;
            failed += (0..).take_while(|&after| fail(op, after, kind)).count();
            assert!(failed > before, "no {op:?} failed");
        }
    }
    println!("{failed} failures");
    assert!(failed > 60, "only {failed} operations failed");
}

/// What the tablet says, opened anew, when reads of `file` fail `count` times: of its opening, of a read of every key, of a merge.
fn unreadable(file: &str, after: u64, count: u64) -> Result<(), StorageError> {
    let (machine, mut world) = prepare();
    machine.block_on(world.flush(ROOT)).unwrap();
    world.tablets.clear();
    let again = ImageMachine::new(&machine.image());
    let rule = DiskRule::nth(DiskOp::Read, after, ErrorKind::Other).on(file);
    again.rule(DiskRule { count, ..rule });
    again.block_on(async {
        world.restart(again.env()).await?;
        let tablet = world.tablets[&ROOT].clone();
        for key in world.model.0.keys() {
            tablet.get(key, world.ts).await?;
        }
        tablet.merge(tablet.plan_full_merge().unwrap()).await
    })
}

#[test]
fn a_place_that_stays_unreadable_is_damaged_and_one_that_does_not_is_read_again() {
    for file in ["MANIFEST", ".sst"] {
        let mut damaged = 0;
        for after in 0..40 {
            assert_eq!(unreadable(file, after, 2), Ok(()), "{file} after {after} reads");
            match unreadable(file, after, u64::MAX) {
                Ok(()) => break,
                Err(StorageError::Corruption(found)) => {
                    assert!(found.file.ends_with(file), "{found}");
                    damaged += 1;
                }
                Err(error) => panic!("{file} after {after} reads: {error}"),
            }
        }
        assert!(damaged > 0, "{file} was never read");
    }
}

#[test]
fn what_passes_by_itself_is_no_damage() {
    let (machine, mut world) = prepare();
    world.tablets.clear();
    machine.rule(DiskRule::nth(DiskOp::Read, 0, ErrorKind::OutOfMemory).onwards());
    let met = machine.block_on(world.open_all(machine.env()));
    assert!(matches!(met, Err(StorageError::Disk(_))), "{met:?}");
}
