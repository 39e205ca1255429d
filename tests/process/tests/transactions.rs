//! Transactions of the client library over real nodes: transfers between accounts of two ranges, by eight threads, and sums beside them.
//! Transfers read and write, or change what is there, or are one-shot.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use corelane::blocking::{Db, connect_with};
use corelane::{Code, Error, Isolation, OneShot, Options, TxnOptions, prefix};
use corelane_process::process::{Node, Program};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ACCOUNTS: [&str; 8] = [
    "bank/a0", "bank/a1", "bank/a2", "bank/a3", "bank/z0", "bank/z1", "bank/z2", "bank/z3",
];
const TOTAL: i64 = 800;
const PATIENCE: Duration = Duration::from_secs(60);

fn program(dir: &Path, name: &str, listen: String, options: &[&str]) -> Program {
    Program {
        binary: env!("CARGO_BIN_EXE_process-node").into(),
        data: dir.join(name),
        listen,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn cluster(dir: &Path) -> Vec<Node> {
    let programs = Program::trio(env!("CARGO_BIN_EXE_process-node"), dir).unwrap();
    programs.iter().map(|program| program.start().unwrap()).collect()
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap()
}

fn connect(address: &str) -> Db {
    let options = Options {
        deadline: Duration::from_secs(30),
        ..Options::default()
    };
    connect_with(&format!("corelane://{address}"), options).unwrap()
}

fn number(value: Option<Vec<u8>>) -> i64 {
    value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap())
}

fn options(name: &str, round: usize) -> TxnOptions {
    let isolation = [Isolation::Snapshot, Isolation::Serializable][round % 2];
    TxnOptions {
        deadline: Some(PATIENCE),
        attempts_max: 10_000,
        ..TxnOptions::named(name).isolation(isolation)
    }
}

fn transfer(db: &Db, from: &str, to: &str, round: usize) -> Result<(), Error> {
    match round % 4 {
        0 => {
            let mut shot = OneShot::new();
            shot.add(from, -1)
                .add(to, 1)
                .require_within("bank/a0", i64::MIN..=i64::MAX);
            let done = db.run_one_shot(&shot, &options("transfer", round))?;
            assert_eq!(done.modified.len(), 2);
            return Ok(());
        }
        1 => {
            return db.transaction_with(&options("transfer", round), |txn| {
                txn.add(from, -1)?;
                txn.add(to, 1).map(drop)
            });
        }
        _ => {}
    }
    db.transaction_with(&options("transfer", round), |txn| {
        let before = number(txn.get_for_update(from)?);
        let other = number(txn.get_for_update(to)?);
        txn.put(from, (before - 1).to_string())?;
        txn.put(to, (other + 1).to_string())
    })
}

fn sum(db: &Db, round: usize) -> i64 {
    let sum = db.transaction_with(&options("sum", round), |txn| {
        if round.is_multiple_of(3) {
            let rows = txn.scan(prefix("bank/"), 100)?;
            return Ok(rows.into_iter().map(|(_, value)| number(Some(value))).sum());
        }
        Ok::<i64, Error>(txn.get_many(ACCOUNTS)?.into_iter().map(number).sum())
    });
    sum.unwrap()
}

/// Runs the bank for a while, and says how many transfers there were.
fn bank(db: &Db, time: Duration, beside: impl FnOnce()) -> u64 {
    db.split("bank/m").unwrap();
    db.transaction(|txn| {
        for account in ACCOUNTS {
            txn.put(account, "100")?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let (is_over, transfers) = (AtomicBool::new(false), AtomicU64::new(0));
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        for task in 0..8_usize {
            let (db, is_over, transfers) = (db.clone(), &is_over, &transfers);
            scope.spawn(move || {
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let from = ACCOUNTS[(task + round) % 8];
                    let to = ACCOUNTS[(task + 3 * round + 5) % 8];
                    if from == to {
                        continue;
                    }
                    match transfer(&db, from, to, round) {
                        Ok(()) => drop(transfers.fetch_add(1, Ordering::Relaxed)),
                        // It moved money or it did not: the total is the same.
                        Err(error) if error.code() == Code::CommitUnknown => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        beside();
        let mut round = 0;
        while Instant::now() < until || round < 6 {
            assert_eq!(sum(db, round), TOTAL);
            round += 1;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(sum(db, 1), TOTAL);
    let plain: i64 = ACCOUNTS
        .iter()
        .map(|account| number(db.get(account).unwrap()))
        .sum();
    assert_eq!(plain, TOTAL, "plain reads see the same");
    transfers.into_inner()
}

#[test]
fn transfers_over_two_shards_of_one_node_keep_the_total() {
    let dir = scratch();
    let program = program(dir.path(), "data", "127.0.0.1:0".to_owned(), &["--shards", "2"]);
    let node = program.start().unwrap();
    let db = connect(&node.address);
    let transfers = bank(&db, Duration::from_secs(3), || {});
    println!("{transfers} transfers");
    assert!(transfers > 20, "{transfers} transfers");
    node.kill().unwrap();
    // A client that died in the middle of its transaction holds nobody up for long.
    let mut again = program;
    again.listen = "127.0.0.1:0".to_owned();
    let node = again.start().unwrap();
    let db = connect(&node.address);
    assert_eq!(sum(&db, 0), TOTAL);
}

#[test]
fn transfers_over_a_cluster_keep_the_total() {
    let dir = scratch();
    let nodes = cluster(dir.path());
    let addresses: Vec<&str> = nodes.iter().map(|node| &*node.address).collect();
    let db = connect(&addresses.join(","));
    let transfers = bank(&db, Duration::from_secs(4), || {});
    println!("{transfers} transfers");
    assert!(transfers > 10, "{transfers} transfers");
}

#[test]
fn transfers_go_on_when_a_node_is_killed() {
    let dir = scratch();
    let mut nodes = cluster(dir.path());
    let addresses: Vec<&str> = nodes.iter().map(|node| &*node.address).collect();
    let db = connect(&addresses.join(","));
    let transfers = bank(&db, Duration::from_secs(6), || {
        std::thread::sleep(Duration::from_secs(1));
        nodes.remove(0).kill().unwrap();
    });
    println!("{transfers} transfers");
    assert!(transfers > 10, "{transfers} transfers");
}

#[test]
fn what_a_client_left_in_the_way_is_cleared() {
    let dir = scratch();
    let program = program(dir.path(), "data", "127.0.0.1:0".to_owned(), &["--shards", "2"]);
    let node = program.start().unwrap();
    let db = connect(&node.address);
    db.put("k", "1").unwrap();
    db.put("z", "1").unwrap();
    let left = {
        let other = connect(&node.address);
        let txn = other.begin_with(&TxnOptions::named("left")).unwrap();
        txn.put("z", "2").unwrap();
        // It lays an intent now, and then the client's thread ends without a word.
        assert_eq!(txn.delete_range("k".."l").unwrap(), 1);
        drop(other);
        std::mem::forget(txn.clone());
        Instant::now()
    };
    // A read does not wait, and sees what was before; a write waits until the transaction ends.
    assert_eq!(db.get("k").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(left.elapsed() < Duration::from_secs(5));
    let impatient = Options {
        deadline: Duration::from_millis(500),
        ..Options::default()
    };
    let impatient = connect_with(&format!("corelane://{}", node.address), impatient).unwrap();
    let error = impatient.put("k", "3").unwrap_err();
    assert_eq!(error.code(), Code::TxnConflict, "{error}");
    assert!(error.to_string().contains("\"left\""), "{error}");
}

#[test]
fn one_shot_transactions_happen_or_say_why_not() {
    let dir = scratch();
    let nodes = cluster(dir.path());
    let addresses: Vec<&str> = nodes.iter().map(|node| &*node.address).collect();
    let db = connect(&addresses.join(","));
    db.put("a", "5").unwrap();
    db.put("c", "x").unwrap();
    db.put("z", "1").unwrap();
    // In one range, and then in two.
    for rest in [3, 1] {
        let done = db.one_shot(|shot| {
            shot.add_within("a", -2, 0..=i64::MAX).add("z", 2);
            shot.require("c", "x").require_absent("d").get("c").get("a")
        });
        let done = done.unwrap();
        assert_eq!(done.number("a"), rest);
        let rest = rest.to_string().into_bytes();
        assert_eq!(done.values, [Some(b"x".to_vec()), Some(rest.clone())]);
        assert_eq!(db.get_versioned("a").unwrap(), (Some(rest), done.ts));
        assert_eq!(db.get_versioned("z").unwrap().1, done.ts);
        db.split("m").unwrap();
    }
    let error = db
        .one_shot(|shot| shot.add("z", 2).add_within("a", -2, 0..=i64::MAX))
        .unwrap_err();
    assert_eq!(error.code(), Code::ConditionFailed);
    assert_eq!(
        error.to_string(),
        "key \"a\" has \"1\", and adding -2 is to leave 0..=9223372036854775807"
    );
    let error = db.one_shot(|shot| shot.put("a", "9").require("c", "x").require_present("y"));
    let Err(Error::ConditionFailed {
        condition: 1,
        found: None,
        ..
    }) = error
    else {
        panic!("{error:?}")
    };
    let error = db.one_shot(|shot| shot.put("a", "9").require("z", "4"));
    let Err(Error::ConditionFailed {
        condition: 0,
        found: Some(found),
        ..
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(found, b"5");
    assert_eq!(
        db.one_shot(|shot| shot.add("c", 1)).unwrap_err().code(),
        Code::NotANumber
    );
    assert_eq!(
        db.get("a").unwrap().as_deref(),
        Some(&b"1"[..]),
        "nothing was done"
    );
    let (_, ts) = db.get_versioned("z").unwrap();
    let done = db.one_shot(|shot| {
        shot.delete("a")
            .append("c", "y", 2)
            .require_version("z", ts)
            .get("b")
    });
    let done = done.unwrap();
    assert_eq!(done.modified[&b"c"[..]], b"xy");
    assert_eq!(done.values, [None]);
    assert_eq!(db.get("a").unwrap(), None);
    // Nothing is changed, and conditions hold at one moment.
    let seen = db
        .one_shot(|shot| shot.require_absent("a").require_present("z").get("c"))
        .unwrap();
    assert_eq!(seen.values, [Some(b"xy".to_vec())]);
}

#[test]
fn what_a_bound_does_not_allow_leaves_a_transaction_usable() {
    let dir = scratch();
    let program = program(dir.path(), "data", "127.0.0.1:0".to_owned(), &["--shards", "2"]);
    let node = program.start().unwrap();
    let db = connect(&node.address);
    db.put("n", "3").unwrap();
    db.put("t", "word").unwrap();
    let txn = db.begin().unwrap();
    assert_eq!(txn.add_within("n", -2, 0..=10).unwrap(), 1);
    let error = txn.add_within("n", -2, 0..=10).unwrap_err();
    assert_eq!(error.code(), Code::ConditionFailed);
    assert_eq!(
        error.to_string(),
        "key \"n\" has \"1\", and adding -2 is to leave 0..=10"
    );
    let error = txn.add("t", 1).unwrap_err();
    assert_eq!(error.code(), Code::NotANumber);
    assert_eq!(txn.failure(), None);
    assert_eq!(txn.max("n", 7).unwrap(), 7);
    assert_eq!(txn.min("n", 4).unwrap(), 4);
    assert_eq!(txn.append("t", "s", 5).unwrap(), b"words");
    let savepoint = txn.savepoint().unwrap();
    txn.append("t", "!", 6).unwrap();
    txn.rollback_to(savepoint).unwrap();
    txn.put("u", "1").unwrap();
    assert_eq!(txn.add("u", 1).unwrap(), 2, "of what is not sent yet");
    txn.commit().unwrap();
    let values = ["n", "t", "u"].map(|key| db.get(key).unwrap().unwrap());
    assert_eq!(values, [b"4".to_vec(), b"words".to_vec(), b"2".to_vec()]);
}
