//! What must hold for a log with any bytes changed. Used by the tests beside this folder and, by path, by the fuzz target.
#![allow(dead_code, reason = "each user takes its part")]

use base::{Index, RangeId, Term};
use corelane_log::verify::{Found, verify};
use corelane_log::{EntryKind, Log, LogConfig, Record};
use sim::{DiskImage, ImageMachine};
use std::cell::OnceCell;

/// Records of the sound log.
pub(crate) const RECORDS: u64 = 12;

pub(crate) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        segments_spare: 1,
        segments_kept_max: 1,
        ..LogConfig::default()
    }
}

/// A sound log of some segments, with a record of every kind.
pub(crate) fn sound() -> DiskImage {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.block_on(async {
        let (log, _) = Log::open(&env, "wal", config(), &mut |_, _| {})
            .await
            .expect("an empty disk is fine");
        for n in 1..=RECORDS {
            let record = match n {
                9 => Record::HardState {
                    range: RangeId(1),
                    term: Term(2),
                    vote: Some(base::ReplicaId(3)),
                    commit: Index(8),
                },
                10 => Record::Truncate {
                    range: RangeId(1),
                    after: Index(6),
                },
                11 => Record::Forget { range: RangeId(2) },
                _ => Record::Entry {
                    range: RangeId(1 + n % 2),
                    index: Index(n.div_ceil(2)),
                    term: Term(1),
                    chain: 7,
                    kind: EntryKind::Command,
                    payload: &[7; 2500],
                },
            };
            log.append(&record);
            log.submit();
            log.persisted_beyond(log.persisted())
                .await
                .expect("the disk does not fail");
        }
        log.close().await.expect("the disk does not fail");
    });
    machine.image()
}

/// Whether damage is found, and how many records are read.
pub(crate) fn read(image: &DiskImage) -> Option<(bool, usize)> {
    let machine = ImageMachine::new(image);
    let mut records = 0;
    let visit = &mut |found: Found<'_>| records += usize::from(matches!(found, Found::Record { .. }));
    let report = machine.block_on(verify(&machine.env(), "wal", config().shard, visit));
    // A version of the future is an error of its own.
    let report = report.ok()?;
    Some((report.damage.is_some(), records))
}

/// Changes the sound log by a script. It is verified and opened, or refused in words; what was opened can be written to and is
/// sound afterwards.
pub(crate) fn patched(script: &[u8]) {
    thread_local! {
        static SOUND: OnceCell<DiskImage> = const { OnceCell::new() };
    }
    let mut image = SOUND.with(|image| image.get_or_init(sound).clone());
    image.patch(script);
    read(&image);
    let machine = ImageMachine::new(&image);
    let env = machine.env();
    let opened = machine.block_on(Log::open(&env, "wal", config(), &mut |_, _| {}));
    let Ok((log, recovered)) = opened else { return };
    machine.block_on(async {
        for range in [1, 2] {
            let visit = &mut |_: Record<'_>| {};
            let read = log.read_entries(RangeId(range), Index(1), Index(99), 1 << 20, visit);
            read.await.expect("what was recovered can be read");
        }
        let seqno = log.append(&Record::Entry {
            range: RangeId(9),
            index: Index(1),
            term: Term(1),
            chain: 7,
            kind: EntryKind::Command,
            payload: b"after",
        });
        assert!(seqno > recovered.last, "{seqno} after {}", recovered.last);
        log.submit();
        log.close().await.expect("the disk does not fail");
    });
    let after = read(&machine.image());
    // Where checksums mean nothing, what an earlier use left in a slot looks like a batch of this one.
    if !cfg!(fuzzing) {
        let (is_damaged, _) = after.expect("a log that was opened is of our version");
        assert!(
            !is_damaged,
            "a log that was opened, written to and closed is damaged"
        );
    }
}
