//! What a raft snapshot asks of the disk: the order of its steps, and what happens when one of them fails.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use corelane_storage::{SnapshotError, StorageError, Tablet, TabletSnapshot};
use env::DiskOp;
use expect_test::{Expect, expect};
use fixtures::recorder::Recorder;
use fixtures::transfer::{
    described, flush, follower, names, one_range, receive, root_snapshot, send, sender,
};
use fixtures::{Op, ROOT, World, small};
use sim::{DiskImage, DiskRule, ImageEnv, ImageMachine};
use std::io::ErrorKind;

/// A sender with two tables, and what it sends.
fn sent() -> (ImageMachine, World<ImageEnv>, TabletSnapshot<ImageEnv>) {
    let (machine, mut world) = sender();
    for key in [b"a", b"b"] {
        world.write(vec![Op::Put(key.to_vec(), b"new".to_vec())]);
        flush(&machine, &world, ROOT);
    }
    let snapshot = root_snapshot(&world);
    (machine, world, snapshot)
}

/// The calls of receiving and installing, ids by the order of the description.
fn check_order(over: bool, expected: &Expect) {
    let (_from, _sender, snapshot) = sent();
    let to = ImageMachine::new(&DiskImage::new());
    let env = Recorder::new(&to);
    let mut world = to.block_on(World::create(env.clone(), small()));
    to.block_on(async {
        if over {
            world.write(vec![Op::Put(b"a".to_vec(), b"old".to_vec())]);
            world.freeze(ROOT);
            world.flush(ROOT).await.unwrap();
        } else {
            world.tablets.clear();
            Tablet::destroy(&env, ROOT).await.unwrap();
        }
        env.take();
        let description = described(&snapshot);
        let mut receiver = match world.tablets.get(&ROOT) {
            Some(tablet) => tablet.receive(description).await.unwrap(),
            None => Tablet::receive_new(&world.shared, ROOT, description)
                .await
                .unwrap(),
        };
        while let Some(due) = receiver.due() {
            let bytes = snapshot.read(due.file, due.offset, usize::MAX).await.unwrap();
            receiver.write(due.file, due.offset, &bytes).await.unwrap();
        }
        receiver.install().await.unwrap();
    });
    let mut calls = env.take().join("\n");
    for (at, file) in snapshot.description().files().enumerate() {
        calls = calls.replace(&format!("{:016x}", file.id), &format!("file{at}"));
    }
    expected.assert_eq(&(calls + "\n"));
}

#[test]
fn the_order_of_an_install_over_a_tablet() {
    check_order(
        true,
        &expect![[r#"
            create-dir tablets/2
            sync-dir tablets/2
            create tablets/2/file0-3.part
            write tablets/2/file0-3.part 4096 bytes at 0
            sync tablets/2/file0-3.part
            rename tablets/2/file0-3.part to tablets/2/file0-7.received
            sync-dir tablets/2
            create tablets/2/file1-4.part
            write tablets/2/file1-4.part 4096 bytes at 0
            sync tablets/2/file1-4.part
            rename tablets/2/file1-4.part to tablets/2/file1-7.received
            sync-dir tablets/2
            remove tablets/2/00000002.sst
            link tablets/2/file1-7.received to tablets/2/00000002.sst
            remove tablets/2/00000003.sst
            link tablets/2/file0-7.received to tablets/2/00000003.sst
            sync-dir tablets/2
            create tablets/2/MANIFEST.tmp
            write tablets/2/MANIFEST.tmp 8192 bytes at 0
            sync tablets/2/MANIFEST.tmp
            rename tablets/2/MANIFEST.tmp to tablets/2/MANIFEST
            sync-dir tablets/2
            remove tablets/2/file0-7.received
            remove tablets/2/file1-7.received
            remove tablets/2/00000001.sst
        "#]],
    );
}

#[test]
fn the_order_of_an_install_without_a_tablet() {
    check_order(
        false,
        &expect![[r#"
            create-dir tablets/2
            sync-dir tablets/2
            create tablets/2/file0-2.part
            write tablets/2/file0-2.part 4096 bytes at 0
            sync tablets/2/file0-2.part
            rename tablets/2/file0-2.part to tablets/2/file0-7.received
            sync-dir tablets/2
            create tablets/2/file1-3.part
            write tablets/2/file1-3.part 4096 bytes at 0
            sync tablets/2/file1-3.part
            rename tablets/2/file1-3.part to tablets/2/file1-7.received
            sync-dir tablets/2
            remove tablets/2/00000001.sst
            link tablets/2/file1-7.received to tablets/2/00000001.sst
            remove tablets/2/00000002.sst
            link tablets/2/file0-7.received to tablets/2/00000002.sst
            sync-dir tablets/2
            create tablets/2/MANIFEST.tmp
            write tablets/2/MANIFEST.tmp 8192 bytes at 0
            sync tablets/2/MANIFEST.tmp
            rename tablets/2/MANIFEST.tmp to tablets/2/MANIFEST
            sync-dir tablets/2
            remove tablets/2/file0-7.received
            remove tablets/2/file1-7.received
        "#]],
    );
}

/// Fails the `after`-th operation of a kind while a snapshot is received and installed; false when there are fewer of them.
fn fail(over: bool, op: DiskOp, after: u64, kind: ErrorKind) -> bool {
    let (_from, sender, snapshot) = sent();
    let to = ImageMachine::new(&DiskImage::new());
    let mut behind = to.block_on(follower(to.env(), &sender, 1));
    if over {
        flush(&to, &behind, ROOT);
    } else {
        behind.tablets.clear();
        to.block_on(Tablet::destroy(&behind.env, ROOT)).unwrap();
    }
    let work = async {
        let mut receiver = receive(&behind, &snapshot).await?;
        send(&snapshot, &mut receiver, usize::MAX, usize::MAX).await?;
        receiver.install().await
    };
    to.rule(DiskRule::nth(op, after, kind));
    let Err(error) = to.block_on(work) else {
        return false;
    };
    assert!(
        matches!(&error, SnapshotError::Storage(StorageError::Disk(error)) if error.op == op && error.kind == kind),
        "{error}"
    );
    if over {
        // Reads go on in the old state.
        to.block_on(behind.check_all());
    }
    behind.tablets.clear();
    let again = ImageMachine::new(&to.image());
    again.block_on(behind.open_all(again.env())).unwrap();
    let index = behind.tablets.get(&ROOT).map(Tablet::flushed_index);
    if index != Some(snapshot.description().index()) {
        assert_eq!(index.is_some(), over, "{op:?} {after} {kind}");
        let mut receiver = again.block_on(receive(&behind, &snapshot)).unwrap();
        again
            .block_on(send(&snapshot, &mut receiver, usize::MAX, usize::MAX))
            .unwrap();
        let installed = again.block_on(receiver.install()).unwrap();
        behind.tablets.insert(ROOT, installed);
    }
    again.block_on(one_range(&sender, &behind, &behind.tablets[&ROOT]).check_all());
    assert_eq!(
        names(&again.image(), ROOT).len(),
        3,
        "two tables and the manifest"
    );
    true
}

#[test]
fn no_failed_operation_is_taken_for_success() {
    let mut failed = 0;
    for over in [true, false] {
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
                failed += (0..).take_while(|&after| fail(over, op, after, kind)).count();
                assert!(failed > before, "no {op:?} failed");
            }
        }
    }
    println!("{failed} failures");
    assert!(failed > 60, "only {failed} operations failed");
}

/// After a failed install what the tablet's files are is in doubt: no write is tried again.
#[test]
fn a_failed_install_poisons_the_tablet() {
    let (_from, sender, snapshot) = sent();
    let to = ImageMachine::new(&DiskImage::new());
    let behind = to.block_on(follower(to.env(), &sender, 1));
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, usize::MAX, usize::MAX))
        .unwrap();
    to.rule(DiskRule::nth(DiskOp::Rename, 0, ErrorKind::Other));
    to.block_on(receiver.install()).map(|_| ()).unwrap_err();
    behind.freeze(ROOT);
    let range = ROOT;
    let poisoned = StorageError::Poisoned { range };
    assert_eq!(to.block_on(behind.flush(range)), Err(poisoned.clone()));
    let tablet = &behind.tablets[&range];
    assert_eq!(tablet.snapshot().map(|_| ()), Err(poisoned.clone().into()));
    let again = to.block_on(receive(&behind, &snapshot)).map(|_| ());
    assert_eq!(again, Err(poisoned.into()));
    to.block_on(behind.check_all());
}
