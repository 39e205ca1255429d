//! Transactions of the client library over real nodes: transfers between accounts of two ranges, by eight threads, and sums beside them.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use corelane::blocking::{Db, connect_with};
use corelane::{Code, Error, Isolation, Options, TxnOptions, prefix};
use corelane_process::process::{Node, Program};
use std::net::TcpListener;
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
    let held: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<String> = held
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    drop(held);
    let list = format!("1={},2={},3={}", addresses[0], addresses[1], addresses[2]);
    let nodes = (1..).zip(addresses).map(|(id, address)| {
        let number = id.to_string();
        let options = ["--shards", "1", "--node", &number, "--cluster", &list];
        program(dir, &format!("node-{id}"), address, &options)
            .start()
            .unwrap()
    });
    nodes.collect()
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
