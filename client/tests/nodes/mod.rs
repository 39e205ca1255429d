//! The client against several tiny servers that play the nodes of a cluster.

use crate::support::Fault;
use crate::support::cluster::{CLUSTER, Cluster};
use core::time::Duration;
use corelane::{Code, Db, NodeId, Options, Staleness, connect_with};
use std::time::Instant;

/// Longer than any hiccup of the machine that runs the tests, where an answer is expected.
const PATIENT: Duration = Duration::from_secs(20);
/// Where none is expected, so that each costs this much.
const IMPATIENT: Duration = Duration::from_millis(500);

fn options(try_timeout: Duration) -> Options {
    Options {
        deadline: Duration::from_secs(30),
        try_timeout,
        app: "test".to_owned(),
        ..Options::default()
    }
}

async fn three(try_timeout: Duration) -> (Cluster, Db) {
    let cluster = Cluster::start(3).await;
    let db = connect_with(&cluster.url(&[1, 2, 3]), options(try_timeout))
        .await
        .unwrap();
    (cluster, db)
}

fn counts(cluster: &Cluster) -> Vec<(u64, u64)> {
    cluster.with(|world| {
        world
            .nodes
            .iter()
            .map(|node| (node.requests, node.refusals))
            .collect()
    })
}

#[tokio::test]
async fn requests_go_to_the_leader_and_follow_it() {
    let (cluster, db) = three(PATIENT).await;
    db.put("a", "1").await.unwrap();
    assert_eq!(
        counts(&cluster),
        [(1, 0), (0, 0), (0, 0)],
        "the map names the leader"
    );
    cluster.lead(0, 3);
    db.put("a", "2").await.unwrap();
    assert_eq!(counts(&cluster), [(2, 1), (0, 0), (1, 0)]);
    assert_eq!(db.get("a").await.unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(
        counts(&cluster),
        [(2, 1), (0, 0), (2, 0)],
        "the refusal is remembered"
    );
    let echo = db.echo("ping").await.unwrap();
    assert_eq!((&echo[..], db.node().unwrap().node), (&b"ping"[..], NodeId(1)));
    assert_eq!(counts(&cluster)[0], (3, 1), "what concerns no key goes home");
}

#[tokio::test]
async fn one_address_is_enough_and_no_map_is_needed_before_the_first_refusal() {
    let cluster = Cluster::start(3).await;
    cluster.lead(0, 2);
    let options = Options {
        map_at_connect: false,
        ..options(PATIENT)
    };
    let db = connect_with(&cluster.url(&[3]), options).await.unwrap();
    db.put("a", "1").await.unwrap();
    assert_eq!(counts(&cluster), [(0, 0), (1, 0), (1, 1)]);
    assert_eq!(cluster.with(|world| world.maps_asked), 1, "it names the nodes");
    cluster.lead(0, 1);
    db.put("a", "2").await.unwrap();
    assert_eq!(counts(&cluster), [(1, 0), (2, 1), (1, 1)]);
}

#[tokio::test]
async fn connecting_needs_one_node_that_answers() {
    let mut cluster = Cluster::start(3).await;
    cluster.lead(0, 3);
    cluster.stop(1).await;
    cluster.node(2, |node| node.paused = true);
    let db = connect_with(&cluster.url(&[1, 2, 3]), options(IMPATIENT))
        .await
        .unwrap();
    assert_eq!(db.node().unwrap().node, NodeId(3));
    db.put("a", "1").await.unwrap();
    cluster.stop(3).await;
    let error = connect_with(&cluster.url(&[1, 2, 3]), options(IMPATIENT))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    for number in 1..=3 {
        let address = cluster.node(number, |node| node.address.clone());
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test]
async fn nodes_that_point_at_each_other_are_asked_with_pauses() {
    let (cluster, db) = three(PATIENT).await;
    cluster.with(|world| {
        world.leaders[0] = 0;
        world.nodes[0].believes = Some(2);
        world.nodes[1].believes = Some(1);
    });
    let reader = tokio::spawn(async move { db.get("a").await });
    while counts(&cluster).iter().map(|(_, refusals)| refusals).sum::<u64>() < 12 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.with(|world| {
        world.leaders[0] = 2;
        world.nodes[0].believes = None;
        world.nodes[1].believes = None;
    });
    assert_eq!(reader.await.unwrap().unwrap(), None);
    // Without pauses there would be thousands.
    let total: u64 = counts(&cluster).iter().map(|(requests, _)| requests).sum();
    assert!(total < 100, "{total}");
}

#[tokio::test]
async fn nobody_knows_the_leader_for_a_while() {
    let (cluster, db) = three(PATIENT).await;
    cluster.with(|world| {
        world.leaders[0] = 0;
        for node in &mut world.nodes {
            node.believes = Some(0);
        }
    });
    let writer = tokio::spawn(async move { db.put("a", "1").await.map(|_| db) });
    // Every node is asked, one after the other.
    while counts(&cluster).iter().any(|(_, refusals)| *refusals < 2) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Node 3 leads and knows it; the others still do not.
    cluster.lead(0, 3);
    writer.await.unwrap().unwrap();
    let seqs = cluster.with(|world| world.writes_seen.clone());
    assert_eq!(seqs, [(3, 1)]);
}

#[tokio::test]
async fn a_silent_leader_is_left_after_one_try_and_the_write_keeps_its_number() {
    let (cluster, db) = three(IMPATIENT).await;
    db.put("a", "1").await.unwrap();
    cluster.with(|world| {
        world.nodes[0].pauses_after_write = true;
        world.nodes[1].believes = Some(2);
    });
    let writer = tokio::spawn(async move { db.put("a", "2").await.map(|_| db) });
    while !cluster.node(1, |node| node.paused) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.lead(0, 2);
    let db = writer.await.unwrap().unwrap();
    let (mut seen, applied, repetitions) =
        cluster.with(|world| (world.writes_seen.clone(), world.writes_applied, world.repetitions));
    assert_eq!(applied, 2);
    assert!(repetitions >= 1);
    // Several tries of a kind only where the machine was slow.
    seen.dedup();
    assert_eq!(seen, [(1, 1), (1, 2), (2, 2)], "node and number of each try");
    // Home was the silent node: another one is now.
    assert_ne!(db.node().unwrap().node, NodeId(1));
    db.echo("x").await.unwrap();
}

#[tokio::test]
async fn reads_and_scans_leave_a_silent_node_too() {
    let (cluster, db) = three(IMPATIENT).await;
    for key in ["a", "b", "c"] {
        db.put(key, "1").await.unwrap();
    }
    let mut rows = db.scan(..).page(1).rows();
    assert_eq!(rows.next().await.unwrap().unwrap().key, b"a");
    cluster.node(1, |node| node.paused = true);
    cluster.lead(0, 2);
    let begun = Instant::now();
    let mut keys = Vec::new();
    while let Some(row) = rows.next().await.unwrap() {
        keys.push(row.key);
    }
    assert_eq!(keys, [b"b", b"c"]);
    assert_eq!(db.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_slow_answer_of_a_node_that_answers_others_is_not_an_outage() {
    let (cluster, db) = three(IMPATIENT).await;
    db.put("a", "1").await.unwrap();
    let connections = cluster.with(|world| world.connections);
    cluster.node(1, |node| node.faults.push_back(Fault::Silence));
    let slow = {
        let db = db.clone();
        tokio::spawn(async move { db.get("a").await })
    };
    while !slow.is_finished() {
        db.echo("x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(slow.await.unwrap().unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(db.node().unwrap().node, NodeId(1), "home stays");
    let others = counts(&cluster)[1..]
        .iter()
        .map(|(requests, _)| requests)
        .sum::<u64>();
    assert!(others <= 1, "only the slow call asked elsewhere: {others}");
    // One to the node that was asked instead.
    assert!(cluster.with(|world| world.connections) <= connections + 1);
}

#[tokio::test]
async fn a_node_that_closes_is_left_at_once() {
    let (mut cluster, db) = three(PATIENT).await;
    db.put("a", "1").await.unwrap();
    cluster.lead(0, 2);
    cluster.stop(1).await;
    db.put("a", "2").await.unwrap();
    assert_eq!(db.node().unwrap().node, NodeId(2), "home has moved");
    // A write that was applied while its connection broke is found by its number elsewhere.
    cluster.node(2, |node| node.faults.push_back(Fault::CutAfter));
    cluster.with(|world| world.nodes[2].believes = Some(2));
    db.put("a", "3").await.unwrap();
    let (applied, repetitions) = cluster.with(|world| (world.writes_applied, world.repetitions));
    assert_eq!((applied, repetitions), (3, 1));
}

#[tokio::test]
async fn all_are_down_and_one_comes_back() {
    let (mut cluster, db) = three(PATIENT).await;
    db.put("a", "1").await.unwrap();
    for number in 1..=3 {
        cluster.stop(number).await;
    }
    let reader = tokio::spawn(async move { db.get("a").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.lead(0, 3);
    cluster.restart(3);
    assert_eq!(reader.await.unwrap().unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn when_none_answers_only_a_write_that_was_sent_is_ambiguous() {
    let cluster = Cluster::start(2).await;
    let short = Options {
        deadline: Duration::from_millis(1500),
        ..options(IMPATIENT)
    };
    let db = connect_with(&cluster.url(&[1, 2]), short).await.unwrap();
    for number in 1..=2 {
        cluster.node(number, |node| node.paused = true);
    }
    let error = db.get("a").await.unwrap_err();
    assert!(
        matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{error}"
    );
    assert_eq!(
        db.put("a", "1").await.unwrap_err().code(),
        Code::Unavailable,
        "no hello, so nothing was sent"
    );
    for number in 1..=2 {
        cluster.node(number, |node| node.paused = false);
    }
    // The leader is found again although it was silent just now.
    db.put("a", "2").await.unwrap();
    cluster.node(1, |node| node.pauses_after_write = true);
    cluster.node(2, |node| node.believes = Some(0));
    assert_eq!(db.put("a", "3").await.unwrap_err().code(), Code::Ambiguous);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_never_used() {
    let (cluster, db) = three(PATIENT).await;
    db.put("a", "1").await.unwrap();
    cluster.node(2, |node| node.cluster = CLUSTER + 1);
    cluster.lead(0, 2);
    let strangers = connect_with(&cluster.url(&[2]), options(PATIENT)).await.unwrap();
    assert_eq!(strangers.node().unwrap().cluster, CLUSTER + 1);
    let writer = {
        let db = db.clone();
        tokio::spawn(async move { db.put("a", "2").await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(counts(&cluster)[1].0, 0, "nothing is sent to it");
    cluster.lead(0, 3);
    writer.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_error_names_both_clusters() {
    let mut cluster = Cluster::start(1).await;
    let short = Options {
        deadline: Duration::from_millis(1000),
        ..options(PATIENT)
    };
    let db = connect_with(&cluster.url(&[1]), short).await.unwrap();
    cluster.stop(1).await;
    cluster.node(1, |node| node.cluster = CLUSTER + 1);
    cluster.restart(1);
    let error = db.get("a").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let text = error.to_string();
    for cluster in [CLUSTER, CLUSTER + 1] {
        assert!(text.contains(&format!("{cluster:032x}")), "{text}");
    }
    assert_eq!(counts(&cluster)[0].0, 0);
}

async fn three_ranges(cluster: &Cluster, db: &Db) {
    for i in 0..300 {
        db.put(format!("k{i:05}"), "v").await.unwrap();
    }
    cluster.with(|world| {
        world.ranges = vec![(Vec::new(), 0), (b"k00100".to_vec(), 1), (b"k00200".to_vec(), 0)];
        world.leaders = vec![1, 2, 3];
        world.map_version += 1;
    });
}

#[tokio::test]
async fn a_scan_reads_each_range_at_its_leader_and_survives_changes_in_the_middle() {
    let (cluster, db) = three(PATIENT).await;
    three_ranges(&cluster, &db).await;
    for reverse in [false, true] {
        for (pages, range, leader) in [(3, 0, 2), (20, 1, 3), (25, 2, 1), (16, 1, 1)] {
            cluster.with(|world| {
                world.leaders = vec![1, 2, 3];
                world.change_of_leader = Some((pages, range, leader));
                world.scans_seen.clear();
            });
            let scan = db.scan(..).page(7);
            let scan = if reverse { scan.reverse() } else { scan };
            let mut rows = scan.rows();
            let mut keys = vec![rows.next().await.unwrap().unwrap().key];
            let read_ts = rows.read_ts();
            db.put("k00150-late", "not seen").await.unwrap();
            while let Some(row) = rows.next().await.unwrap() {
                keys.push(row.key);
            }
            db.delete("k00150-late").await.unwrap();
            if reverse {
                keys.reverse();
            }
            let expected: Vec<_> = (0..300).map(|i| format!("k{i:05}").into_bytes()).collect();
            assert_eq!(
                keys, expected,
                "reverse: {reverse}, {range} to {leader} after {pages}"
            );
            let seen = cluster.with(|world| world.scans_seen.clone());
            assert!(seen.len() >= 3, "{seen:?}");
            let (_, first) = seen[0];
            assert_eq!(first, None);
            assert!(seen[1..].iter().all(|(_, ts)| *ts == read_ts), "{seen:?}");
        }
    }
}

/// Node 1 leads, and every node has a replica.
async fn everywhere(cluster: &Cluster) {
    let db = connect_with(&cluster.url(&[1]), options(PATIENT)).await.unwrap();
    db.put("a", "1").await.unwrap();
    cluster.with(|world| world.replicas = vec![1, 2, 3]);
}

#[tokio::test]
async fn a_read_of_the_past_is_answered_by_the_nearest_replica_also_when_the_leader_is_gone() {
    let mut cluster = Cluster::start(3).await;
    everywhere(&cluster).await;
    cluster.node(3, |node| node.shows_past = true);
    // Only node 3 was ever spoken to: so it is the nearest one that is known.
    cluster.node(1, |node| node.paused = true);
    cluster.node(2, |node| node.paused = true);
    let db = connect_with(&cluster.url(&[3]), options(IMPATIENT))
        .await
        .unwrap();
    let age = Duration::from_secs(5);
    for staleness in [Staleness::Exact(age), Staleness::AtMost(age)] {
        let found = db.get_stale("a", staleness).await.unwrap();
        assert_eq!(found.value.as_deref(), Some(&b"1"[..]));
        assert!(found.ts < found.read_ts, "{found:?}");
        let rows = db.scan(..).stale(staleness).rows().collect().await.unwrap();
        assert_eq!(rows.len(), 1);
    }
    assert_eq!(counts(&cluster)[2], (4, 0));
    assert_eq!(counts(&cluster)[1], (0, 0));
    // It does not lead, and is not taken for the leader.
    cluster.node(1, |node| node.paused = false);
    db.put("a", "2").await.unwrap();
    let refusals = counts(&cluster)[2].1;
    db.put("a", "3").await.unwrap();
    assert_eq!(counts(&cluster)[2].1, refusals);
    cluster.stop(3).await;
}

#[tokio::test]
async fn a_replica_that_cannot_show_the_past_yet_sends_the_read_to_the_leader() {
    let cluster = Cluster::start(3).await;
    everywhere(&cluster).await;
    let db = connect_with(&cluster.url(&[3]), options(PATIENT)).await.unwrap();
    let found = db
        .get_stale("a", Staleness::AtMost(Duration::ZERO))
        .await
        .unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"1"[..]));
    assert_eq!(counts(&cluster)[2].1, 1, "the nearest one was asked first");
}

#[tokio::test]
async fn a_scan_whose_next_range_nobody_leads_is_an_error_and_not_a_short_result() {
    let cluster = Cluster::start(3).await;
    let short = Options {
        deadline: Duration::from_millis(1000),
        ..options(PATIENT)
    };
    let db = connect_with(&cluster.url(&[1, 2, 3]), short).await.unwrap();
    three_ranges(&cluster, &db).await;
    cluster.lead(1, 0);
    let mut rows = db.scan(..).rows();
    let mut count = 0;
    let error = loop {
        match rows.next_page().await {
            Ok(Some(page)) => count += page.len(),
            Ok(None) => panic!("{count} rows and no error"),
            Err(error) => break error,
        }
    };
    assert_eq!((count, error.code()), (100, Code::NotLeader));
    cluster.lead(1, 3);
    assert_eq!(rows.collect().await.unwrap().len(), 200);
}

#[tokio::test]
async fn maps_of_different_nodes_are_not_compared() {
    let (mut cluster, db) = three(PATIENT).await;
    cluster.with(|world| {
        world.nodes[0].map_version_ahead = 1000;
        world.map_version += 1;
    });
    assert_eq!(db.ranges().await.unwrap().len(), 1);
    // The map of the next home is older by its number, and newer by what it says.
    cluster.stop(1).await;
    cluster.with(|world| {
        world.ranges = vec![(Vec::new(), 0), (b"m".to_vec(), 1)];
        world.leaders = vec![2, 3];
        world.map_version += 1;
    });
    db.put("a", "1").await.unwrap();
    assert_eq!(db.ranges().await.unwrap().len(), 2);
    db.put("z", "1").await.unwrap();
    let before = counts(&cluster);
    db.put("z", "2").await.unwrap();
    let after = counts(&cluster);
    assert_eq!(
        (after[1].0, after[2].0),
        (before[1].0, before[2].0 + 1),
        "known by the new map"
    );
    assert_eq!(cluster.with(|world| world.misrouted), 0);
}

#[test]
fn the_blocking_client_takes_several_addresses() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let cluster = runtime.block_on(Cluster::start(3));
    cluster.lead(0, 2);
    let db = corelane::blocking::connect_with(&cluster.url(&[1, 3]), options(PATIENT)).unwrap();
    db.put("a", "1").unwrap();
    assert_eq!(db.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(counts(&cluster)[1], (2, 0));
}
