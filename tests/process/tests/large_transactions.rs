//! A transaction that writes more than memory is meant for: what it has written is spilled, survives nodes that are killed, becomes
//! versions all together, or nothing.
//!
//! `LARGE_MIB=96` sets how much it writes, of values of 8 KiB; `LARGE_VALUE_BYTES` how long they are.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use corelane::blocking::{Db, connect_with};
use corelane::{Error, Options, TxnOptions, prefix};
use corelane_process::process::{Node, Program};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(1800);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn programs(dir: &Path) -> Vec<Program> {
    Program::trio(env!("CARGO_BIN_EXE_process-node"), dir).unwrap()
}

/// What a key holds: found again without keeping it.
fn value(number: usize, len: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut value = vec![0; len];
    for chunk in value.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    value
}

fn key(number: usize) -> String {
    // One half in each of two ranges, and not in order.
    let half = if number.is_multiple_of(2) { "a" } else { "z" };
    format!("large/{half}/{:08}", number.wrapping_mul(7919) % 100_000_000)
}

fn options(name: &str) -> TxnOptions {
    TxnOptions {
        deadline: Some(PATIENCE),
        ..TxnOptions::named(name)
    }
}

/// What the node that answers has of unfinished writes.
fn unfinished(db: &Db, which: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&db.status().unwrap()).unwrap();
    status["ranges"][which].as_u64().unwrap()
}

/// How many of them it has spilled.
fn spilled(db: &Db) -> u64 {
    unfinished(db, "spilled")
}

#[test]
fn what_does_not_fit_into_memory_is_spilled() {
    let bytes = setting("LARGE_MIB", 48) << 20;
    let value_bytes = setting("LARGE_VALUE_BYTES", 8 << 10);
    let count = bytes / value_bytes;
    let dir = tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap();
    let programs = programs(dir.path());
    let mut nodes: Vec<Option<Node>> = programs
        .iter()
        .map(|program| Some(program.start().unwrap()))
        .collect();
    let settings = Options {
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    let address = format!("corelane://{},{}", programs[0].listen, programs[1].listen);
    let db = connect_with(&address, settings).unwrap();
    db.split("large/m").unwrap();
    db.put("large/a/0", "before").unwrap();

    // One that takes all back: nothing of it stays.
    let began = Instant::now();
    let txn = db.begin_with(&options("taken back")).unwrap();
    for number in 0..count / 2 {
        txn.put(key(number), value(number, value_bytes)).unwrap();
    }
    assert_eq!(
        txn.get(key(3)).unwrap(),
        Some(value(3, value_bytes)),
        "it reads what it has written"
    );
    assert!(spilled(&db) > 0, "something is spilled");
    txn.rollback().unwrap();
    db.settle();
    assert_eq!(db.scan(prefix("large/")).rows().count(), 1);
    println!(
        "{} MiB written and taken back in {:?}",
        (bytes / 2) >> 20,
        began.elapsed()
    );

    // One that commits, while a node is killed.
    let began = Instant::now();
    let txn = db.begin_with(&options("large")).unwrap();
    for number in 0..count {
        if number == count / 2 {
            nodes[2].take().unwrap().kill().unwrap();
            nodes[2] = Some(programs[2].start().unwrap());
        }
        txn.put(key(number), value(number, value_bytes)).unwrap();
    }
    println!("{} MiB written in {:?}", bytes >> 20, began.elapsed());
    let read = txn.scan(prefix("large/z/"), 10).unwrap();
    assert_eq!(read.len(), 10, "it scans what it has written");
    println!("{} intents are spilled where one node has them", spilled(&db));
    let committing = Instant::now();
    let committed = txn.commit().unwrap();
    println!("committed in {:?}", committing.elapsed());
    // Who reads meets spilled intents before they are versions, and may have to wait for many others that become some.
    let patience = Instant::now() + PATIENCE;
    for number in (0..count).rev().step_by(count.div_ceil(8)) {
        let found = loop {
            match db.get(key(number)) {
                Err(Error::Conflict(_)) if Instant::now() < patience => {}
                found => break found.unwrap(),
            }
        };
        assert_eq!(found, Some(value(number, value_bytes)));
    }
    println!("some of it are read after {:?}", committing.elapsed());
    db.settle();
    println!("all of it are versions after {:?}", committing.elapsed());
    for node in nodes.iter().flatten() {
        println!("{} MiB resident", node.resident_bytes().unwrap() >> 20);
    }
    // Whoever answers may be a follower, which hears of it later.
    let patience = Instant::now() + PATIENCE;
    while spilled(&db) > 0 {
        assert!(Instant::now() < patience, "{} intents stay spilled", spilled(&db));
        std::thread::sleep(Duration::from_millis(20));
    }
    let check = |db: &Db| -> Result<(), Error> {
        for number in (0..count).step_by(if count > 20_000 { 97 } else { 1 }) {
            let (found, ts) = db.get_versioned(key(number))?;
            assert!(
                found == Some(value(number, value_bytes)) && ts == committed,
                "{}",
                key(number)
            );
        }
        Ok(())
    };
    check(&db).unwrap();
    // And it is on disk.
    for node in &mut nodes {
        node.take().unwrap().kill().unwrap();
    }
    let nodes: Vec<Node> = programs.iter().map(|program| program.start().unwrap()).collect();
    check(&db).unwrap();
    drop(nodes);
}

#[test]
fn what_a_client_left_that_died_is_finished_by_another_one() {
    const COUNT: usize = 2_000;
    let dir = tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap();
    let programs = programs(dir.path());
    let nodes: Vec<Node> = programs.iter().map(|program| program.start().unwrap()).collect();
    let address = format!("corelane://{}", programs[0].listen);
    let db = connect_with(&address, Options::default()).unwrap();
    db.split("large/m").unwrap();

    // It has one thread, this one: what would go on in it stops when it has just committed.
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    client.block_on(async {
        let db = corelane::connect(&address).await.unwrap();
        let txn = db.begin_with(&options("left")).await.unwrap();
        for number in 0..COUNT {
            txn.put(key(number), value(number, 8)).await.unwrap();
        }
        txn.commit().await.unwrap();
    });
    client.shutdown_background();

    // The most that may be finished is one range, that of the record; who answers may be a follower, and hear of the others later.
    let patience = Instant::now() + PATIENCE;
    while unfinished(&db, "intents") < COUNT as u64 / 2 {
        assert!(Instant::now() < patience, "what it has left is gone");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Whoever meets one of them need not wait for all.
    assert_eq!(db.get(key(COUNT - 1)).unwrap(), Some(value(COUNT - 1, 8)));
    let patience = Instant::now() + PATIENCE;
    while unfinished(&db, "intents") > 0 {
        assert!(
            Instant::now() < patience,
            "{} intents stay",
            unfinished(&db, "intents")
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for number in 0..COUNT {
        assert_eq!(db.get(key(number)).unwrap(), Some(value(number, 8)));
    }
    drop(nodes);
}
