//! Files and names.

use crate::sync::oneshot;
use crate::{Disk, DiskError, DiskOp, Env, File, IoBuf, OpenMode, TaskClass, Tasks};
use base::limits::BLOCK_BYTES;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::io::ErrorKind;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A buffer of `blocks` blocks that all hold `byte`.
fn filled<D: Disk>(disk: &D, blocks: usize, byte: u8) -> D::Buf {
    let mut buf = disk.alloc(blocks * BLOCK_BYTES);
    buf.fill(byte);
    buf
}

async fn write<F: File>(file: &F, offset: u64, buf: F::Buf) -> F::Buf {
    let (outcome, buf) = file.write_at(offset, buf).await;
    outcome.expect("a write on a sound disk");
    buf
}

async fn create_filled<D: Disk>(disk: &D, path: &str, byte: u8) -> D::File {
    let file = disk.create(path, OpenMode::Write).await.expect("a fresh name");
    write(&file, 0, filled(disk, 1, byte)).await;
    file
}

async fn first_byte<D: Disk>(disk: &D, path: &str) -> u8 {
    let file = disk.open(path, OpenMode::Read).await.expect("the file exists");
    file.read_at(0, BLOCK_BYTES)
        .await
        .expect("a read on a sound disk")[0]
}

fn kind<T>(result: Result<T, DiskError>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => error.kind,
    }
}

pub(super) async fn what_was_written_is_read_back<E: Env>(env: E) {
    let disk = env.disk();
    let file = disk
        .create("readback", OpenMode::Write)
        .await
        .expect("a fresh name");
    for (at, byte) in [(0, 1), (2, 3), (1, 2)] {
        write(&file, at * BLOCK, filled(disk, 1, byte)).await;
    }
    file.sync().await.expect("a sync on a sound disk");
    assert_eq!(file.len().await, Ok(3 * BLOCK));
    disk.sync_dir("").await.expect("the data directory syncs");
    drop(file);
    let file = disk
        .open("readback", OpenMode::Read)
        .await
        .expect("it was created");
    let buf = file
        .read_at(BLOCK, 2 * BLOCK_BYTES)
        .await
        .expect("a read on a sound disk");
    assert_eq!(buf.len(), 2 * BLOCK_BYTES);
    assert!(buf[..BLOCK_BYTES].iter().all(|byte| *byte == 2));
    assert!(buf[BLOCK_BYTES..].iter().all(|byte| *byte == 3));
}

pub(super) async fn bytes_past_the_end_read_as_zero<E: Env>(env: E) {
    let disk = env.disk();
    let file = create_filled(disk, "short", 9).await;
    let across = file
        .read_at(0, 3 * BLOCK_BYTES)
        .await
        .expect("a read across the end");
    assert_eq!(across.len(), 3 * BLOCK_BYTES);
    assert!(across[..BLOCK_BYTES].iter().all(|byte| *byte == 9));
    assert!(across[BLOCK_BYTES..].iter().all(|byte| *byte == 0));
    let beyond = file
        .read_at(100 * BLOCK, BLOCK_BYTES)
        .await
        .expect("a read beyond the end");
    assert!(beyond.iter().all(|byte| *byte == 0));
    // A hole reads as zero too.
    write(&file, 4 * BLOCK, filled(disk, 1, 8)).await;
    let hole = file
        .read_at(2 * BLOCK, BLOCK_BYTES)
        .await
        .expect("a read of a hole");
    assert!(hole.iter().all(|byte| *byte == 0));
}

pub(super) async fn several_writes_are_in_flight<E: Env>(env: E) {
    const WRITES: u8 = 16;
    let disk = env.disk().clone();
    let file = Rc::new(
        disk.create("parallel", OpenMode::Write)
            .await
            .expect("a fresh name"),
    );
    let mut ends = Vec::new();
    for at in 0..WRITES {
        let (sender, receiver) = oneshot();
        let (disk, file) = (disk.clone(), file.clone());
        env.tasks().spawn(TaskClass::Foreground, async move {
            write(&*file, u64::from(at) * 2 * BLOCK, filled(&disk, 2, at + 1)).await;
            sender.send(());
        });
        ends.push(receiver);
    }
    for end in ends {
        end.await.expect("the task ran to its end");
    }
    file.sync().await.expect("a sync on a sound disk");
    let all = file
        .read_at(0, usize::from(WRITES) * 2 * BLOCK_BYTES)
        .await
        .expect("a read on a sound disk");
    for (at, blocks) in (0..WRITES).zip(all.chunks(2 * BLOCK_BYTES)) {
        assert!(blocks.iter().all(|byte| *byte == at + 1), "write {at}");
    }
}

pub(super) async fn writes_in_durable_mode_need_no_sync<E: Env>(env: E) {
    let disk = env.disk();
    let file = disk
        .create("durable", OpenMode::WriteDurable)
        .await
        .expect("a fresh name");
    write(&file, 0, filled(disk, 1, 5)).await;
    drop(file);
    let file = disk
        .open("durable", OpenMode::WriteDurable)
        .await
        .expect("it was created");
    write(&file, BLOCK, filled(disk, 1, 6)).await;
    let buf = file
        .read_at(0, 2 * BLOCK_BYTES)
        .await
        .expect("a file open for writing can be read");
    assert_eq!((buf[0], buf[BLOCK_BYTES]), (5, 6));
}

pub(super) async fn create_empties_an_existing_file<E: Env>(env: E) {
    let disk = env.disk();
    drop(create_filled(disk, "twice", 1).await);
    let file = disk
        .create("twice", OpenMode::Write)
        .await
        .expect("an existing file is emptied");
    assert_eq!(file.len().await, Ok(0));
    assert_eq!(
        file.read_at(0, BLOCK_BYTES)
            .await
            .expect("an empty file reads as zero")[0],
        0
    );
}

pub(super) async fn set_len_cuts_and_extends<E: Env>(env: E) {
    let disk = env.disk();
    let file = disk
        .create("length", OpenMode::Write)
        .await
        .expect("a fresh name");
    write(&file, 0, filled(disk, 4, 7)).await;
    file.set_len(BLOCK).await.expect("cut");
    assert_eq!(file.len().await, Ok(BLOCK));
    file.set_len(3 * BLOCK).await.expect("extend");
    assert_eq!(file.len().await, Ok(3 * BLOCK));
    let buf = file
        .read_at(0, 3 * BLOCK_BYTES)
        .await
        .expect("a read on a sound disk");
    assert!(buf[..BLOCK_BYTES].iter().all(|byte| *byte == 7));
    assert!(
        buf[BLOCK_BYTES..].iter().all(|byte| *byte == 0),
        "what was cut does not come back"
    );
}

pub(super) async fn a_missing_file_is_not_found<E: Env>(env: E) {
    let disk = env.disk();
    let Err(error) = disk.open("missing", OpenMode::Read).await else {
        panic!("it opened")
    };
    let named = DiskError {
        op: DiskOp::Open,
        path: "missing".into(),
        offset: None,
        kind: ErrorKind::NotFound,
    };
    assert_eq!(error, named);
    assert_eq!(
        kind(disk.open("missing", OpenMode::Write).await),
        ErrorKind::NotFound,
        "opening does not create"
    );
    assert_eq!(kind(disk.remove("missing").await), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename("missing", "other").await), ErrorKind::NotFound);
    assert_eq!(
        kind(disk.hard_link("missing", "other").await),
        ErrorKind::NotFound
    );
    assert_eq!(kind(disk.list("missing").await), ErrorKind::NotFound);
    assert_eq!(
        kind(disk.create("missing/file", OpenMode::Write).await),
        ErrorKind::NotFound
    );
}

pub(super) async fn rename_replaces<E: Env>(env: E) {
    let disk = env.disk();
    drop(create_filled(disk, "rename-a", 1).await);
    drop(create_filled(disk, "rename-b", 2).await);
    disk.rename("rename-a", "rename-b")
        .await
        .expect("a name that is taken is replaced");
    disk.sync_dir("").await.expect("the data directory syncs");
    assert_eq!(first_byte(disk, "rename-b").await, 1);
    assert_eq!(
        kind(disk.open("rename-a", OpenMode::Read).await),
        ErrorKind::NotFound
    );
}

pub(super) async fn a_renamed_file_stays_open<E: Env>(env: E) {
    let disk = env.disk();
    let file = create_filled(disk, "open-a", 1).await;
    disk.rename("open-a", "open-b")
        .await
        .expect("an open file may be renamed");
    write(&file, 0, filled(disk, 1, 3)).await;
    drop(file);
    assert_eq!(first_byte(disk, "open-b").await, 3);
}

pub(super) async fn hard_links_share_content<E: Env>(env: E) {
    let disk = env.disk();
    let file = create_filled(disk, "link-a", 1).await;
    disk.hard_link("link-a", "link-b").await.expect("a fresh name");
    write(&file, 0, filled(disk, 1, 2)).await;
    assert_eq!(first_byte(disk, "link-b").await, 2);
    assert_eq!(
        kind(disk.hard_link("link-a", "link-b").await),
        ErrorKind::AlreadyExists
    );
    disk.remove("link-a").await.expect("one of two names");
    assert_eq!(first_byte(disk, "link-b").await, 2);
}

pub(super) async fn remove_takes_files_and_empty_directories<E: Env>(env: E) {
    let disk = env.disk();
    disk.create_dir("remove").await.expect("a fresh name");
    drop(create_filled(disk, "remove/file", 1).await);
    assert_eq!(kind(disk.remove("remove").await), ErrorKind::DirectoryNotEmpty);
    disk.remove("remove/file").await.expect("a file");
    disk.sync_dir("remove").await.expect("the directory syncs");
    disk.remove("remove").await.expect("an empty directory");
    assert_eq!(kind(disk.list("remove").await), ErrorKind::NotFound);
}

pub(super) async fn a_removed_file_stays_readable<E: Env>(env: E) {
    let disk = env.disk();
    let file = create_filled(disk, "unlinked", 4).await;
    disk.remove("unlinked")
        .await
        .expect("an open file may be removed");
    assert_eq!(
        file.read_at(0, BLOCK_BYTES).await.expect("it is still open")[0],
        4
    );
    // The name is free for another file, which is not the same.
    drop(create_filled(disk, "unlinked", 5).await);
    assert_eq!(
        file.read_at(0, BLOCK_BYTES).await.expect("it is still open")[0],
        4
    );
    assert_eq!(first_byte(disk, "unlinked").await, 5);
}

pub(super) async fn directories_are_created_with_their_parents<E: Env>(env: E) {
    let disk = env.disk();
    disk.create_dir("deep/er/still").await.expect("parents are made");
    disk.create_dir("deep/er/still").await.expect("it may exist");
    drop(create_filled(disk, "deep/er/still/file", 6).await);
    disk.sync_dir("deep/er/still").await.expect("the directory syncs");
    assert_eq!(first_byte(disk, "deep/er/still/file").await, 6);
    disk.rename("deep/er/still/file", "deep/moved")
        .await
        .expect("between directories");
    assert_eq!(first_byte(disk, "deep/moved").await, 6);
}

pub(super) async fn list_is_sorted_and_complete<E: Env>(env: E) {
    let disk = env.disk();
    disk.create_dir("list/b-dir").await.expect("a fresh name");
    for name in ["list/c", "list/a"] {
        drop(create_filled(disk, name, 1).await);
    }
    let entries = disk.list("list").await.expect("the directory exists");
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name.as_str(), entry.len, entry.is_dir))
        .collect();
    assert_eq!(
        seen,
        [("a", BLOCK, false), ("b-dir", 0, true), ("c", BLOCK, false)]
    );
    assert!(
        disk.list("")
            .await
            .expect("the data directory")
            .iter()
            .any(|entry| entry.name == "list")
    );
    assert!(disk.space_free().await.expect("a sound disk") > 0);
}

pub(super) async fn a_dropped_write_is_still_written<E: Env>(env: E) {
    let disk = env.disk();
    let file = create_filled(disk, "dropped", 1).await;
    {
        let mut pending = pin!(file.write_at(0, filled(disk, 1, 2)));
        poll_fn(|context| Poll::Ready(pending.as_mut().poll(context).is_ready())).await;
    }
    // Whatever became of it, the file goes on working, and a later write is what stays.
    write(&file, BLOCK, filled(disk, 1, 3)).await;
    file.sync().await.expect("a sync on a sound disk");
    let buf = file
        .read_at(0, 2 * BLOCK_BYTES)
        .await
        .expect("a read on a sound disk");
    assert!(buf[0] == 1 || buf[0] == 2, "{} was never written", buf[0]);
    assert_eq!(buf[BLOCK_BYTES], 3);
}

pub(super) async fn buffers_are_zeroed_and_come_back<E: Env>(env: E) {
    let disk = env.disk();
    let file = disk
        .create("buffers", OpenMode::Write)
        .await
        .expect("a fresh name");
    for _ in 0..8 {
        let buf = disk.alloc(2 * BLOCK_BYTES);
        assert!(buf.iter().all(|byte| *byte == 0), "a fresh buffer is zeroed");
        let mut buf = write(&file, 0, buf).await;
        assert!(is_aligned(&buf));
        // Soil it, so that a buffer handed out again shows what was left in it.
        buf.fill(0xaa);
    }
    let buf = file
        .read_at(0, BLOCK_BYTES)
        .await
        .expect("a read on a sound disk");
    assert!(is_aligned(&buf));
}

fn is_aligned(buf: &impl IoBuf) -> bool {
    buf.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
}
