//! Transactions of the client against a tiny server that evaluates batches with the crate's own code.

use crate::support::transact::Txns;
use crate::support::{Fault, Server};
use core::time::Duration;
use corelane::{
    Code, Db, Did, Error, Isolation, Options, TxnOptions, TxnOutcome, blocking, connect_with, prefix,
};

async fn start() -> (Server, Db) {
    let server = Server::start().await;
    server.with(|world| {
        world.ranges = vec![(Vec::new(), 0), (b"m".to_vec(), 1)];
        world.txns = Some(Txns::new(&["m"]));
    });
    let options = Options {
        deadline: Duration::from_secs(5),
        // Clocks of one process are not apart, and strict transactions need not wait for long.
        clock_bound: Duration::from_millis(5),
        ..Options::default()
    };
    let db = connect_with(&server.address, options).await.unwrap();
    (server, db)
}

fn number(value: Option<Vec<u8>>) -> i64 {
    value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap())
}

async fn set(db: &Db, pairs: &[(&str, &str)]) {
    let txn = db.begin().await.unwrap();
    for (key, value) in pairs {
        txn.put(key, value).await.unwrap();
    }
    txn.commit().await.unwrap();
}

#[tokio::test]
async fn what_is_committed_is_seen_by_the_next_one_and_nothing_before() {
    let (_server, db) = start().await;
    set(&db, &[("a", "1"), ("z", "1")]).await;
    let old = db.begin().await.unwrap();
    assert_eq!(old.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    // What is written within the bound of the clocks may be from before it began.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let txn = db.begin_with(&TxnOptions::named("second")).await.unwrap();
    txn.put("a", "2").await.unwrap();
    txn.put("b", "2").await.unwrap();
    assert_eq!(txn.get("a").await.unwrap().as_deref(), Some(&b"2"[..]), "its own");
    let savepoint = txn.savepoint().await.unwrap();
    txn.put("z", "3").await.unwrap();
    txn.rollback_to(savepoint).await.unwrap();
    txn.delete("z").await.unwrap();
    let ts = txn.commit().await.unwrap();
    assert!(ts > corelane::Timestamp::ZERO);
    assert_eq!(txn.get("a").await, Err(Error::TransactionOver));
    assert_eq!(txn.commit().await.unwrap_err().code(), Code::TxnOver);
    assert_eq!(
        old.get("z").await.unwrap().as_deref(),
        Some(&b"1"[..]),
        "one snapshot"
    );
    old.rollback().await.unwrap();
    let txn = db.begin().await.unwrap();
    let values = txn.get_many(["z", "a", "b"]).await.unwrap();
    assert_eq!(values, [None, Some(b"2".to_vec()), Some(b"2".to_vec())]);
    let rows = txn.scan(..).collect().await.unwrap();
    assert_eq!(
        rows,
        [(b"a".to_vec(), b"2".to_vec()), (b"b".to_vec(), b"2".to_vec())]
    );
}

#[tokio::test]
async fn scans_and_deletes_go_over_ranges() {
    let (_server, db) = start().await;
    set(&db, &[("k1", "1"), ("k2", "2"), ("x1", "3"), ("x2", "4")]).await;
    let txn = db.begin().await.unwrap();
    txn.put("k3", "5").await.unwrap();
    let keys = |rows: Vec<(Vec<u8>, Vec<u8>)>| -> Vec<String> {
        rows.into_iter()
            .map(|(key, _)| String::from_utf8(key).unwrap())
            .collect()
    };
    let rows = txn.scan("k".."y").limit(4).collect().await.unwrap();
    assert_eq!(keys(rows), ["k1", "k2", "k3", "x1"]);
    assert_eq!(txn.delete_range("k2".."x2").await.unwrap(), 3);
    assert_eq!(txn.delete_range("q".."q").await.unwrap(), 0);
    let rows = txn.scan(prefix("")).collect().await.unwrap();
    assert_eq!(keys(rows), ["k1", "x2"]);
    txn.commit().await.unwrap();
    let rows = db.begin().await.unwrap().scan(..).collect().await.unwrap();
    assert_eq!(keys(rows), ["k1", "x2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_keep_the_total() {
    let (server, db) = start().await;
    set(&db, &[("a", "100"), ("b", "100"), ("y", "100"), ("z", "100")]).await;
    let accounts = ["a", "b", "y", "z"];
    let mut tasks = Vec::new();
    for task in 0..8_usize {
        let db = db.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..6 {
                let from = accounts[(task + round) % 4];
                let to = accounts[(task + round * 3 + 1) % 4];
                let isolation = [Isolation::Snapshot, Isolation::Serializable][round % 2];
                let options = TxnOptions {
                    deadline: Some(Duration::from_secs(30)),
                    ..TxnOptions::named("transfer").isolation(isolation)
                };
                let moved = db.transaction_with(&options, |txn| async move {
                    let before = number(txn.get(from).await?);
                    txn.put(from, (before - 1).to_string()).await?;
                    let other = number(txn.get(to).await?);
                    txn.put(to, (other + 1).to_string()).await?;
                    Ok::<_, Error>(())
                });
                moved.await.unwrap();
                let sum = db.transaction(|txn| async move {
                    let all = txn.get_many(accounts).await?;
                    Ok::<_, Error>(all.into_iter().map(number).sum::<i64>())
                });
                assert_eq!(sum.await.unwrap(), 400);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let sum = db.transaction(|txn| async move {
        Ok::<_, Error>(txn.get_many(accounts).await?.into_iter().map(number).sum::<i64>())
    });
    assert_eq!(sum.await.unwrap(), 400);
    // What is left to do in the background is done soon.
    for _ in 0..200 {
        if server.with(|world| world.txns.as_ref().unwrap().leftovers()) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("intents or records are left");
}

#[tokio::test]
async fn a_conflict_names_both_sides() {
    let (_server, db) = start().await;
    set(&db, &[("a", "1")]).await;
    let one = db.begin_with(&TxnOptions::named("one")).await.unwrap();
    let two = db.begin_with(&TxnOptions::named("two")).await.unwrap();
    one.get("a").await.unwrap();
    two.get("a").await.unwrap();
    one.put("a", "2").await.unwrap();
    two.put("a", "3").await.unwrap();
    one.commit().await.unwrap();
    let Err(error) = two.commit().await else {
        panic!("the first committer wins")
    };
    assert_eq!(error.code(), Code::TxnConflict);
    assert!(error.is_retryable());
    let Error::Conflict(conflict) = error else {
        panic!("{error:?}")
    };
    assert_eq!((&conflict.key[..], &conflict.ours.name[..]), (&b"a"[..], "two"));
    assert!(matches!(conflict.theirs.did, Did::Committed(_)));
    // Both wait for one that goes on: patience ends.
    let holder = db.begin_with(&TxnOptions::named("holder")).await.unwrap();
    holder.get_for_update("a").await.unwrap();
    holder.delete_range("a".."b").await.unwrap();
    let late = db.begin_with(&TxnOptions::named("late")).await.unwrap();
    let Err(Error::Conflict(conflict)) = late.get_for_update("a").await else {
        panic!("it is not free")
    };
    assert_eq!(conflict.theirs.name, "holder");
    assert_eq!(
        late.get("q").await.unwrap_err().code(),
        Code::TxnConflict,
        "it has failed"
    );
    holder.commit().await.unwrap();
}

#[derive(Debug, PartialEq)]
enum AppError {
    NoMoney,
    Db(Code),
}

impl From<Error> for AppError {
    fn from(error: Error) -> Self {
        // The caller's own type need not keep what the client said.
        Self::Db(error.code())
    }
}

#[tokio::test]
async fn a_closure_runs_again_and_its_own_errors_take_everything_back() {
    let (_server, db) = start().await;
    set(&db, &[("a", "1")]).await;
    let mut runs = 0;
    let other = db.clone();
    let value = db.transaction(|txn| {
        runs += 1;
        let (run, other) = (runs, other.clone());
        async move {
            let value = number(txn.get("a").await?);
            if run < 3 {
                // Somebody else is first.
                set(&other, &[("a", &(value + 10).to_string())]).await;
            }
            txn.put("a", (value + 1).to_string()).await?;
            Ok::<_, AppError>(value)
        }
    });
    assert_eq!(value.await, Ok(21));
    assert_eq!(runs, 3);
    let failed = db.transaction(|txn| async move {
        txn.put("a", "0").await?;
        Err::<(), _>(AppError::NoMoney)
    });
    assert_eq!(failed.await, Err(AppError::NoMoney));
    let once = TxnOptions {
        attempts_max: 1,
        ..TxnOptions::default()
    };
    let failed = db.transaction_with(&once, |txn| {
        let other = db.clone();
        async move {
            let value = number(txn.get("a").await?);
            set(&other, &[("a", "5")]).await;
            txn.put("a", value.to_string()).await?;
            Ok::<_, AppError>(())
        }
    });
    assert_eq!(failed.await, Err(AppError::Db(Code::TxnConflict)));
    let txn = db.begin().await.unwrap();
    assert_eq!(number(txn.get("a").await.unwrap()), 5);
}

#[tokio::test]
async fn what_is_dropped_open_leaves_nothing() {
    let (server, db) = start().await;
    let txn = db.begin().await.unwrap();
    txn.put("a", "1").await.unwrap();
    txn.put("z", "1").await.unwrap();
    // It lays an intent, so there is something to take back.
    txn.get_for_update("b").await.unwrap();
    txn.delete_range("c".."d").await.unwrap();
    drop(txn);
    for _ in 0..200 {
        if server.with(|world| world.txns.as_ref().unwrap().leftovers()) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.with(|world| world.txns.as_ref().unwrap().leftovers()), 0);
    let txn = db.begin().await.unwrap();
    assert_eq!(txn.get_many(["a", "z"]).await.unwrap(), [None, None]);
}

#[tokio::test]
async fn lost_answers_do_not_commit_twice() {
    for fault in [
        Fault::CutAfter,
        Fault::CutBefore,
        Fault::Refuse(Code::Ambiguous, true),
    ] {
        let (server, db) = start().await;
        set(&db, &[("a", "1"), ("z", "1")]).await;
        let txn = db.begin().await.unwrap();
        let value = number(txn.get("a").await.unwrap());
        txn.put("a", (value + 1).to_string()).await.unwrap();
        txn.put("z", (value + 1).to_string()).await.unwrap();
        server.fail_next(&[fault, fault]);
        txn.commit().await.unwrap();
        let txn = db.begin().await.unwrap();
        let values = txn.get_many(["a", "z"]).await.unwrap();
        assert_eq!(
            values.into_iter().map(number).collect::<Vec<_>>(),
            [2, 2],
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_commit_can_be_asked_for() {
    for is_done in [true, false] {
        let (server, db) = start().await;
        let options = TxnOptions {
            deadline: Some(Duration::from_millis(400)),
            ..TxnOptions::default()
        };
        let txn = db.begin_with(&options).await.unwrap();
        txn.put("a", "1").await.unwrap();
        txn.put("z", "1").await.unwrap();
        server.with(|world| world.txns.as_mut().unwrap().is_deaf = !is_done);
        server.with(|world| world.txns.as_mut().unwrap().is_mute = true);
        let Err(Error::CommitUnknown { txn: name, .. }) = txn.commit().await else {
            panic!("nobody knows")
        };
        server.with(|world| {
            let txns = world.txns.as_mut().unwrap();
            (txns.is_deaf, txns.is_mute) = (false, false);
        });
        // From another client, as after a restart.
        let other = connect_with(&server.address, Options::default()).await.unwrap();
        let outcome = other.outcome(&name).await.unwrap();
        assert_eq!(
            matches!(outcome, TxnOutcome::Committed(_)),
            is_done,
            "{outcome:?}"
        );
        assert_eq!(other.outcome(&name).await.unwrap(), outcome);
        let txn = other.begin().await.unwrap();
        assert_eq!(txn.get("a").await.unwrap().is_some(), is_done);
    }
}

#[tokio::test]
async fn plain_requests_push_what_is_in_their_way() {
    let (server, db) = start().await;
    set(&db, &[("a", "1"), ("z", "1")]).await;
    let txn = db.begin_with(&TxnOptions::named("open")).await.unwrap();
    txn.delete_range("a".."b").await.unwrap();
    // A read pushes a snapshot transaction in time, and sees what was before it.
    server.with(|world| world.txns.as_mut().unwrap().guards = true);
    db.get("a").await.unwrap();
    txn.commit().await.unwrap();
    let open = db.begin_with(&TxnOptions::named("open")).await.unwrap();
    open.put("z", "2").await.unwrap();
    open.delete_range("y".."zz").await.unwrap();
    let patient = Options {
        deadline: Duration::from_millis(300),
        ..Options::default()
    };
    let hasty = connect_with(&server.address, patient).await.unwrap();
    let Err(Error::Conflict(conflict)) = hasty.put("z", "3").await else {
        panic!("it is in the way")
    };
    assert_eq!(conflict.theirs.name, "open");
    let waiting = tokio::spawn(async move { db.put("z", "4").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    open.rollback().await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn strict_transactions_wait_for_the_clocks() {
    let (_server, db) = start().await;
    let options = TxnOptions::default().isolation(Isolation::StrictSerializable);
    let txn = db.begin_with(&options).await.unwrap();
    txn.put("a", "1").await.unwrap();
    let begun = std::time::Instant::now();
    txn.commit().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_runtime() {
    let (server, _db) = start().await;
    let address = server.address.clone();
    tokio::task::spawn_blocking(move || {
        let db = blocking::connect(&address).unwrap();
        let sum = db.transaction(|txn| {
            txn.put("a", "1")?;
            txn.put("z", "2")?;
            let values = txn.get_many(["a", "z"])?;
            Ok::<_, Error>(values.into_iter().map(number).sum::<i64>())
        });
        assert_eq!(sum, Ok(3));
        let txn = db.begin().unwrap();
        assert_eq!(txn.scan(.., 10).unwrap().len(), 2);
        txn.rollback().unwrap();
    })
    .await
    .unwrap();
}
