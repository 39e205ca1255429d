//! A disk that fails at any one operation: what it concerns is never acknowledged, nothing is retried, and what was
//! acknowledged before is there after a restart.

mod log_support;

use env::{DiskOp, Env, Tasks};
use log::LogError;
use log_support::{DIR, Workload, check, config, open, recover};
use sim::{DiskImage, DiskRule, ImageMachine};
use std::io::ErrorKind;

/// Runs a workload in which the `after`-th operation of a kind fails. False when there were fewer.
fn fail_at(op: DiskOp, after: u64, kind: ErrorKind) -> bool {
    let context = format!("{op:?} {after} fails with {kind}");
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    machine.rule(DiskRule::nth(op, after, kind).on(DIR));
    let mut workload = Workload::new(11, 1, 3);
    let failed = machine.block_on(async {
        let log = match open(&env, config()).await {
            Ok((log, _)) => log,
            Err(error) => return Some(error),
        };
        let ran = workload.run(&env, &log, |_| {}, 60).await;
        // Whatever is in flight ends now, and whatever prepares slots.
        for _ in 0..64 {
            env.tasks().yield_now().await;
        }
        let ended = match ran {
            Ok(()) => log.clone().close().await,
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return None };
        let persisted = log.persisted();
        assert_eq!(
            log.persisted_beyond(base::Seqno::ZERO).await,
            Err(error.clone()),
            "{context}: once and for all"
        );
        let before = machine.image();
        let more = workload.run(&env, &log, |_| {}, 5).await;
        for _ in 0..64 {
            log.submit();
            env.tasks().yield_now().await;
        }
        assert!(
            machine.image() == before,
            "{context}: the log wrote on after it failed"
        );
        assert_eq!(
            log.persisted(),
            persisted,
            "{context}: acknowledged after a failure ({more:?})"
        );
        assert_eq!(log.close().await, Err(error.clone()), "{context}");
        Some(error)
    });
    let Some(error) = failed else { return false };
    let LogError::Disk(error) = error else {
        panic!("{context}: became {error}")
    };
    assert_eq!((error.op, error.kind), (op, kind), "{context}");
    let opened =
        recover(&machine.image()).unwrap_or_else(|error| panic!("{context}: the restart found {error}"));
    let life = workload.life.borrow();
    let last = life.promises.len().checked_sub(1).map(|last| last as u64);
    check(&life, last, &opened).unwrap_or_else(|problem| panic!("{context}: {problem}"));
    true
}

fn fail_everywhere(op: DiskOp, least: u64) {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let failures = (0..).take_while(|after| fail_at(op, *after, kind)).count() as u64;
        println!("{failures} times {op:?} failed with {kind}");
        assert!(failures >= least, "{failures} {op:?} are too few for a test");
    }
}

#[test]
fn a_failed_write_ends_the_log() {
    fail_everywhere(DiskOp::Write, 60);
}

#[test]
fn a_failed_sync_ends_the_log() {
    fail_everywhere(DiskOp::Sync, 3);
}

#[test]
fn a_failed_directory_sync_ends_the_log() {
    fail_everywhere(DiskOp::SyncDir, 3);
}

#[test]
fn a_failed_create_ends_the_log() {
    fail_everywhere(DiskOp::Create, 3);
}
