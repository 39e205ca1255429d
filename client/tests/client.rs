//! The client against a tiny server that speaks the wire format and fails on demand.
#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

// By the name that the ranges of its own tests have for it.
extern crate txn as corelane_txn;

mod nodes;
mod support;
mod transactions;

use core::time::Duration;
use corelane::{Code, Db, Error, Options, RangeId, ShardId, Swap, Timestamp, connect, connect_with, prefix};
use support::{Fault, Server};

fn options(deadline_ms: u64) -> Options {
    Options {
        deadline: Duration::from_millis(deadline_ms),
        app: "test".to_owned(),
        ..Options::default()
    }
}

async fn pair() -> (Server, Db) {
    let server = Server::start().await;
    let db = connect_with(&server.address, options(2_000)).await.unwrap();
    (server, db)
}

#[tokio::test]
async fn values_are_read_as_they_were_written() {
    let (server, db) = pair().await;
    assert_eq!(db.get("a").await.unwrap(), None);
    let first = db.put("a", "1").await.unwrap();
    let second = db.put("a", "2").await.unwrap();
    assert!(first < second);
    assert_eq!(db.get("a").await.unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(db.get_at("a", first).await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(
        db.get_versioned("a").await.unwrap(),
        (Some(b"2".to_vec()), second)
    );
    db.delete("a").await.unwrap();
    assert_eq!(db.get("a").await.unwrap(), None);
    assert_eq!(db.get_at("a", second).await.unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(
        server.with(|world| world.connections),
        1,
        "one connection is enough for one shard"
    );
    assert_eq!(
        server.with(|world| world.acked_below),
        3,
        "two writes were answered when the third was sent"
    );
}

#[tokio::test]
async fn conditions_and_batches() {
    let (_server, db) = pair().await;
    assert!(db.put_if_absent("k", "1").await.unwrap().is_written());
    let refused = db.put_if_absent("k", "2").await.unwrap();
    assert!(matches!(refused, Swap::Refused { found: Some(found), .. } if found == b"1"));
    assert!(db.compare_and_put("k", "1", "3").await.unwrap().is_written());
    assert!(!db.compare_and_put("k", "1", "4").await.unwrap().is_written());
    assert!(!db.compare_and_delete("k", "1").await.unwrap().is_written());
    db.batch(|b| b.put("x", "1").put("y", "2").delete("k"))
        .await
        .unwrap();
    assert_eq!(db.get("k").await.unwrap(), None);
    assert_eq!(db.get("y").await.unwrap().as_deref(), Some(&b"2"[..]));
    let failed = db
        .batch(|b| b.require("x", "1").require_absent("y").put("z", "3"))
        .await;
    let Err(Error::ConditionFailed {
        condition: 1,
        found: Some(found),
        ..
    }) = failed
    else {
        panic!("{failed:?}")
    };
    assert_eq!(found, b"2");
    assert_eq!(db.get("z").await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_answer_of_a_write_is_asked_for_again_and_applied_once() {
    let (server, db) = pair().await;
    db.put("a", "1").await.unwrap();
    server.fail_next(&[Fault::CutAfter, Fault::CutAfter]);
    db.put("a", "2").await.unwrap();
    assert_eq!(
        server.with(|world| (world.writes_applied, world.repetitions)),
        (2, 2)
    );
    assert_eq!(server.with(|world| world.connections), 3);
    server.fail_next(&[Fault::CutBefore]);
    db.put("a", "3").await.unwrap();
    assert_eq!(
        server.with(|world| (world.writes_applied, world.repetitions)),
        (3, 2)
    );
}

#[tokio::test]
async fn only_a_write_whose_outcome_is_unknown_is_ambiguous() {
    let server = Server::start().await;
    let db = connect_with(&server.address, options(200)).await.unwrap();
    server.fail_next(&[Fault::Silence]);
    let error = db.put("a", "1").await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::Ambiguous, false));
    server.fail_next(&[Fault::Silence]);
    let error = db.get("a").await.unwrap_err();
    assert_eq!(
        (error.code(), error.is_retryable()),
        (Code::DeadlineExceeded, true)
    );
    // The deadline may come while a try is under way, on a machine that is slow: that one is of unknown outcome.
    let mut codes = Vec::new();
    while codes.last() != Some(&Code::Overloaded) && codes.len() < 50 {
        server.fail_next(&[Fault::Refuse(Code::Overloaded, true); 500]);
        codes.push(db.put("a", "1").await.unwrap_err().code());
        server.with(|world| world.faults.clear());
    }
    let (last, others) = codes.split_last().unwrap();
    assert_eq!(*last, Code::Overloaded);
    assert!(others.iter().all(|code| *code == Code::Ambiguous), "{codes:?}");
    server.fail_next(&[Fault::Refuse(Code::DiskFailed, false)]);
    assert_eq!(db.put("a", "1").await.unwrap_err().code(), Code::DiskFailed);
    assert_eq!(server.with(|world| world.writes_applied), 0);
}

#[tokio::test]
async fn refusals_that_pass_are_waited_out() {
    let (server, db) = pair().await;
    server.fail_next(&[
        Fault::Refuse(Code::Overloaded, true),
        Fault::CutBefore,
        Fault::Refuse(Code::RangeBusy, true),
    ]);
    db.put("a", "1").await.unwrap();
    assert_eq!(db.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_named() {
    let (server, db) = pair().await;
    server.fail_next(&[Fault::WrongAnswer]);
    assert_eq!(db.get("a").await.unwrap_err().code(), Code::UnexpectedReply);
    // Garbage ends the connection; the read is repeated on another one.
    server.fail_next(&[Fault::Garbage]);
    assert_eq!(db.get("a").await.unwrap(), None);
    assert_eq!(server.with(|world| world.connections), 2);
}

#[tokio::test]
async fn limits_are_enforced_before_anything_is_sent() {
    let (server, db) = pair().await;
    let before = server.with(|world| world.writes_applied);
    let long_key = vec![b'k'; 16 * 1024 + 1];
    let cases = [
        (db.put(&long_key, "v").await.map(drop), Code::KeyTooLong),
        (db.get(&long_key).await.map(drop), Code::KeyTooLong),
        (
            db.put("k", vec![0; (1 << 20) + 1]).await.map(drop),
            Code::ValueTooLong,
        ),
        (db.put("", "v").await.map(drop), Code::EmptyKey),
        (db.delete_range("b".."a").await, Code::InvalidSpan),
        (
            db.batch(|b| b.put("a", "1").delete_range("z", "y"))
                .await
                .map(drop),
            Code::InvalidSpan,
        ),
        (db.scan("b".."a").rows().next().await.map(drop), Code::InvalidSpan),
    ];
    for (result, code) in cases {
        assert_eq!(result.unwrap_err().code(), code);
    }
    let error = db.put("k", vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a value (bytes) of 1048577 is longer than the limit of 1048576"
    );
    assert_eq!(server.with(|world| world.writes_applied), before);
}

async fn fill(db: &Db, count: u32) {
    for i in 0..count {
        db.put(format!("k{i:05}"), format!("v{i}")).await.unwrap();
    }
}

#[tokio::test]
async fn one_split_asks_for_no_range_map() {
    let server = Server::start().await;
    let options = Options {
        map_at_connect: false,
        ..options(2_000)
    };
    let db = connect_with(&server.address, options).await.unwrap();
    db.split("k00100").await.unwrap();
    server.with(|world| assert_eq!((world.ranges.len(), world.maps_asked), (2, 0)));
    db.put("k00200", "1").await.unwrap();
    assert_eq!(db.get("k00200").await.unwrap(), Some(b"1".to_vec()));
}

/// Three ranges on two shards.
async fn split_up(server: &Server, db: &Db) {
    db.split("k00100").await.unwrap();
    db.split("k00200").await.unwrap();
    server.with(|world| assert_eq!(world.ranges.len(), 3));
    db.move_range(RangeId(1), ShardId(1)).await.unwrap();
}

#[tokio::test]
async fn scans_cross_ranges_and_shards_in_both_directions() {
    let (server, db) = pair().await;
    fill(&db, 300).await;
    split_up(&server, &db).await;
    for reverse in [false, true] {
        let scan = db.scan("k00050".."k00250").page(7);
        let scan = if reverse { scan.reverse() } else { scan };
        let mut keys: Vec<_> = scan
            .rows()
            .collect()
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.key)
            .collect();
        if reverse {
            keys.reverse();
        }
        let expected: Vec<_> = (50..250).map(|i| format!("k{i:05}").into_bytes()).collect();
        assert_eq!(keys, expected, "reverse: {reverse}");
    }
    assert_eq!(server.with(|world| world.misrouted), 0);
    let rows = db.scan(..).limit(130).page(50).rows().collect().await.unwrap();
    assert_eq!(rows.len(), 130);
    assert_eq!(db.scan(prefix("k0001")).rows().collect().await.unwrap().len(), 10);
    assert_eq!(db.scan("x"..).rows().collect().await.unwrap().len(), 0);
    assert_eq!(
        db.scan("k00005"..="k00007").rows().collect().await.unwrap().len(),
        3
    );
    assert_eq!(db.scan(..).limit(0).rows().next().await.unwrap(), None);
    assert_eq!(
        db.scan(..)
            .within(.."k00003")
            .rows()
            .collect()
            .await
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn an_interrupted_scan_goes_on_where_it_was_at_the_same_timestamp() {
    let (server, db) = pair().await;
    fill(&db, 300).await;
    split_up(&server, &db).await;
    for reverse in [false, true] {
        server.fail_next(&[
            Fault::CutScan,
            Fault::CutBefore,
            Fault::Refuse(Code::Overloaded, true),
            Fault::CutScan,
        ]);
        let scan = db.scan(..).page(9);
        let mut rows = if reverse {
            scan.reverse().rows()
        } else {
            scan.rows()
        };
        let mut keys = vec![rows.next().await.unwrap().unwrap().key];
        let read_ts = rows.read_ts();
        // Written after the scan began: not seen by it.
        db.put(format!("k00150-{reverse}"), "late").await.unwrap();
        while let Some(row) = rows.next().await.unwrap() {
            keys.push(row.key);
        }
        assert_eq!(rows.read_ts(), read_ts);
        assert_eq!(keys.len(), 300 + usize::from(reverse));
        let in_order = |pair: &[Vec<u8>]| {
            if reverse {
                pair[1] < pair[0]
            } else {
                pair[0] < pair[1]
            }
        };
        assert!(keys.windows(2).all(in_order));
    }
}

#[tokio::test]
async fn a_scan_is_at_most_its_credit_ahead_and_is_cancelled_when_dropped() {
    let (server, db) = pair().await;
    fill(&db, 300).await;
    let mut rows = db.scan(..).page(5).rows();
    rows.next().await.unwrap();
    assert!(server.with(|world| world.pages_ahead_max) <= 4);
    drop(rows);
    // The cancel travels on the same connection, before this.
    db.get("a").await.unwrap();
    assert_eq!(server.with(|world| world.scans_cancelled), 1);
}

#[tokio::test]
async fn a_scan_that_cannot_go_on_is_an_error_and_not_a_short_result() {
    let server = Server::start().await;
    let db = connect_with(&server.address, options(150)).await.unwrap();
    fill(&db, 20).await;
    let mut rows = db.scan(..).page(20).limit(30).rows();
    server.fail_next(&[Fault::Refuse(Code::Overloaded, true); 500]);
    assert_eq!(rows.next().await.unwrap_err().code(), Code::Overloaded);
    server.with(|world| world.faults.clear());
    // The scan may be continued after an error.
    assert_eq!(rows.collect().await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_stale_range_map_is_corrected_by_refusals_and_by_flags() {
    let (server, db) = pair().await;
    fill(&db, 10).await;
    server.with(|world| {
        world.ranges = vec![(Vec::new(), 0), (b"k00005".to_vec(), 1)];
        world.map_version += 1;
    });
    assert_eq!(db.get("k00007").await.unwrap().as_deref(), Some(&b"v7"[..]));
    assert_eq!(server.with(|world| (world.misrouted, world.maps_asked)), (1, 2));
    db.get("k00007").await.unwrap();
    assert_eq!(server.with(|world| world.misrouted), 1);

    server.with(|world| {
        world.ranges = vec![(Vec::new(), 0), (b"k00002".to_vec(), 1)];
        world.map_version += 1;
        world.forwards = true;
    });
    assert!(db.get("k00003").await.unwrap().is_some());
    for _ in 0..100 {
        if server.with(|world| world.maps_asked) == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.with(|world| (world.misrouted, world.maps_asked)), (2, 3));
    tokio::time::sleep(Duration::from_millis(20)).await;
    db.get("k00003").await.unwrap();
    assert_eq!(server.with(|world| world.misrouted), 2);
}

#[tokio::test]
async fn deletes_of_spans_are_split_by_range_and_batches_are_not() {
    let (server, db) = pair().await;
    fill(&db, 300).await;
    // The client's map is old: it believes in one range.
    server.with(|world| {
        world.ranges = vec![(Vec::new(), 0), (b"k00100".to_vec(), 1), (b"k00200".to_vec(), 0)];
        world.map_version += 1;
    });
    db.delete_range("k00010".."k00290").await.unwrap();
    assert_eq!(db.scan(..).rows().collect().await.unwrap().len(), 20);
    db.delete_range(..).await.unwrap();
    assert_eq!(db.scan(..).rows().next().await.unwrap(), None);
    let spread = db
        .batch(|b| b.put("k00000", "1").put("k00150", "2"))
        .await
        .unwrap_err();
    let Error::BatchSpansRanges { first, other } = &spread else {
        panic!("{spread}")
    };
    assert_eq!((&first[..], &other[..]), (&b"k00000"[..], &b"k00150"[..]));
    // Not so any more on the server, though the client does not know yet.
    server.with(|world| {
        world.ranges = vec![(Vec::new(), 0)];
        world.map_version += 1;
    });
    db.batch(|b| b.put("k00000", "1").put("k00150", "2"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_with_fewer_shards_after_a_restart_is_found_again() {
    let (server, db) = pair().await;
    fill(&db, 10).await;
    server.with(|world| {
        world.ranges = vec![(Vec::new(), 1)];
        world.map_version += 1;
    });
    db.put("k00001", "x").await.unwrap();
    assert_eq!(server.with(|world| world.connections), 2);
    server.with(|world| {
        world.ranges = vec![(Vec::new(), 0)];
        world.map_version += 1;
        world.shards = 1;
        world.life += 1;
    });
    let rows = db.scan(..).rows().collect().await.unwrap();
    assert_eq!(rows.len(), 10);
    db.put("k00002", "y").await.unwrap();
    assert_eq!(db.get("k00002").await.unwrap().as_deref(), Some(&b"y"[..]));
}

#[tokio::test]
async fn a_hello_refused_for_good_is_not_repeated() {
    let (server, db) = pair().await;
    server.with(|world| {
        world.refuse_hello = Some(Code::VersionUnsupported);
        world.life += 1;
    });
    assert_eq!(db.get("k").await.unwrap_err().code(), Code::VersionUnsupported);
    assert_eq!(server.with(|world| world.connections), 2);
    assert_eq!(
        connect(&server.address).await.unwrap_err().code(),
        Code::VersionUnsupported
    );
}

#[tokio::test]
async fn many_calls_at_once_share_connections_and_come_back_whole() {
    let (server, db) = pair().await;
    let mut tasks = Vec::new();
    for task in 0..64_u32 {
        let db = db.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..50_u32 {
                let key = format!("k{task}-{i}");
                db.put(&key, format!("{task}:{i}")).await.unwrap();
                let value = db.get(&key).await.unwrap().unwrap();
                assert_eq!(value, format!("{task}:{i}").into_bytes());
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        server.with(|world| (world.writes_applied, world.connections)),
        (3200, 1)
    );
}

#[tokio::test]
async fn the_rest_of_the_surface() {
    let (_server, db) = pair().await;
    assert_eq!(db.echo(b"ping").await.unwrap(), b"ping");
    db.disk_write(4096).await.unwrap();
    assert_eq!(db.status().await.unwrap(), "{\"ok\":true}");
    assert_eq!(db.ranges().await.unwrap().len(), 1);
    let node = db.node().unwrap();
    assert_eq!((node.shards, node.server.as_str()), (2, "test"));
    let missing = db.get_at("a", Timestamp::ZERO).await.unwrap();
    assert_eq!(missing, None);
}

#[tokio::test]
async fn connecting_to_nobody_fails_at_once_and_says_where() {
    let error = connect("corelane://127.0.0.1:1").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert_eq!(
        connect("http://x").await.unwrap_err().code(),
        Code::InvalidAddress
    );
}

#[test]
fn the_blocking_client_does_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::start());
    let db = corelane::blocking::connect_with(&server.address, options(2_000)).unwrap();
    db.put("a", "1").unwrap();
    db.batch(|b| b.put("b", "2").put("c", "3")).unwrap();
    server.fail_next(&[Fault::CutAfter]);
    db.put("d", "4").unwrap();
    let keys: Vec<_> = db
        .scan("a".."d")
        .page(1)
        .rows()
        .map(|row| row.unwrap().key)
        .collect();
    assert_eq!(keys, [b"a", b"b", b"c"]);
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let db = db.clone();
            std::thread::spawn(move || db.put(format!("t{i}"), "x").unwrap())
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(db.scan(prefix("t")).reverse().limit(3).rows().count(), 3);
    drop(db);
}

#[tokio::test]
async fn a_snapshot_shows_all_keys_as_of_one_moment() {
    let (_server, db) = pair().await;
    db.put("a", "1").await.unwrap();
    let then = db.put("b", "1").await.unwrap();
    db.put("a", "2").await.unwrap();
    db.put("c", "2").await.unwrap();
    let past = db.begin_read_at(then);
    assert_eq!(past.ts(), then);
    assert_eq!(past.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    let one = || Some(b"1".to_vec());
    let keys: Vec<&str> = ["a", "b", "c"].into_iter().cycle().take(200).collect();
    let values = past.get_many(&keys).await.unwrap();
    let expected: Vec<_> = [one(), one(), None].into_iter().cycle().take(200).collect();
    assert_eq!(values, expected);
    assert!(past.get_many::<&str>([]).await.unwrap().is_empty());
    let mut rows = past.scan("a".."z").rows();
    let mut found = Vec::new();
    while let Some(row) = rows.next().await.unwrap() {
        found.push((row.key.to_vec(), row.value.to_vec()));
    }
    assert_eq!(
        found,
        [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"1".to_vec())]
    );
}
