//! Real nodes on loopback that look after their replicas by themselves.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use corelane_process::process::{Node, Program};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// How long anything may take: some seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn scratch() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("corelane-process-").tempdir().unwrap()
}

fn free_address() -> String {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    held.local_addr().unwrap().to_string()
}

fn program(dir: &Path, id: usize, listen: &str, how: &[&str]) -> Program {
    let zone = ZONES[id - 1];
    let id = id.to_string();
    let pace = ["--replace-after", "3s", "--balance-after", "2s"];
    // Small tables soon, and ranges that are split soon.
    let sizes = ["--memory", "1MiB", "--split-size", "512KiB"];
    let place = ["--locality", zone];
    let all = [&["--shards", "1", "--node", &id], how, &pace, &sizes, &place].concat();
    Program {
        binary: env!("CARGO_BIN_EXE_process-node").into(),
        data: dir.join(format!("node-{id}")),
        listen: listen.to_owned(),
        options: all.into_iter().map(str::to_owned).collect(),
    }
}

/// Where the nodes are: two of the founders share a zone.
const ZONES: [&str; 4] = ["zone=a", "zone=a", "zone=b", "zone=c"];

/// Three founders, and a fourth node that joins.
fn programs(dir: &Path) -> Vec<Program> {
    let addresses: Vec<_> = (0..4).map(|_| free_address()).collect();
    let entries = (1..).zip(&addresses[..3]).map(|(id, at)| format!("{id}={at}"));
    let list = entries.collect::<Vec<_>>().join(",");
    let founder = |id: usize| program(dir, id, &addresses[id - 1], &["--cluster", &list]);
    let joins = ["--join", &addresses[0]];
    vec![
        founder(1),
        founder(2),
        founder(3),
        program(dir, 4, &addresses[3], &joins),
    ]
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Runs a command against `nodes` until it is done, and returns what it said.
fn by_any(program: &Program, nodes: &[&Node], arguments: &[&str]) -> String {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.as_str()).collect();
    let addresses = addresses.join(",");
    let all = [arguments, &["--connect", &addresses, "--timeout", "10s"]].concat();
    let began = Instant::now();
    loop {
        let output = program.run(&all).unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "{arguments:?}: {}", said(&output));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Each range as the nodes that lead say it: who leads, and which nodes have its replicas.
fn ranges(program: &Program, nodes: &[&Node]) -> BTreeMap<u64, (u64, Vec<u64>)> {
    let mut ranges = BTreeMap::new();
    for node in nodes {
        let listed = by_any(program, &[node], &["range", "ls", "--json"]);
        let status: Value = serde_json::from_str(&by_any(program, &[node], &["status", "--json"])).unwrap();
        for line in listed.lines() {
            let range: Value = serde_json::from_str(line).unwrap();
            if range["leader"] == status["node"] {
                let of = |value: &Value| value.as_u64().unwrap();
                let replicas = range["nodes"].as_array().unwrap().iter().map(of).collect();
                ranges.insert(of(&range["range"]), (of(&range["leader"]), replicas));
            }
        }
    }
    ranges
}

/// Waits until the ranges are as they should be.
fn wait_for(
    program: &Program,
    nodes: &[&Node],
    what: &str,
    is_so: impl Fn(&BTreeMap<u64, (u64, Vec<u64>)>) -> bool,
) {
    let began = Instant::now();
    loop {
        let seen = ranges(program, nodes);
        if is_so(&seen) {
            return;
        }
        if began.elapsed() >= PATIENCE {
            let explained: Vec<_> = seen
                .keys()
                .map(|range| by_any(program, nodes, &["range", "explain", &range.to_string()]))
                .collect();
            panic!("{what}: {seen:?}\n{}", explained.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn leaders_are_spread_and_a_dead_nodes_replicas_are_replaced() {
    let dir = scratch();
    let programs = programs(dir.path());
    let program = &programs[0];
    let mut nodes: Vec<Node> = programs[..3]
        .iter()
        .map(Program::start)
        .collect::<Result<_, _>>()
        .unwrap();
    let all: Vec<&Node> = nodes.iter().collect();
    for number in 0..20 {
        by_any(
            program,
            &all,
            &["put", &format!("key{number:02}"), &format!("value{number}")],
        );
    }
    for key in ["key04", "key08", "key12", "key16"] {
        by_any(program, &all, &["range", "split", key]);
    }
    wait_for(program, &all, "leaders are not spread", |ranges| {
        let leads = |node| ranges.values().filter(|(leader, _)| *leader == node).count();
        ranges.len() == 5 && (1..=3).all(|node| leads(node) >= 1)
    });

    nodes.push(programs[3].start().unwrap());
    let all: Vec<&Node> = nodes.iter().collect();
    let text = by_any(program, &all, &["range", "explain", "2"]);
    assert!(text.contains("the default policy wants 3 voters"), "{text}");
    // Gone for good.
    nodes.remove(1).kill().unwrap();
    let left: Vec<&Node> = nodes.iter().collect();
    wait_for(program, &left, "replicas are not replaced", |ranges| {
        ranges.len() == 5 && ranges.values().all(|(_, replicas)| *replicas == [1, 3, 4])
    });
    // The new replicas count: with one of the others gone, all is there.
    nodes.remove(0).kill().unwrap();
    let left: Vec<&Node> = nodes.iter().collect();
    for number in 0..20 {
        let value = by_any(program, &left, &["get", &format!("key{number:02}")]);
        assert_eq!(value, format!("value{number}\n"));
    }
}

#[test]
fn a_range_that_grows_is_split() {
    let dir = scratch();
    let programs = programs(dir.path());
    let program = &programs[0];
    let nodes: Vec<Node> = programs[..3]
        .iter()
        .map(Program::start)
        .collect::<Result<_, _>>()
        .unwrap();
    let all: Vec<&Node> = nodes.iter().collect();
    let rows = dir.path().join("rows.tsv");
    // Numbers that do not compress.
    let mut random = 1_u64;
    let mut word = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{random:016x}")
    };
    let mut row = |number: u32| {
        format!(
            "key{number:06}\t{}\n",
            (0..64).map(|_| word()).collect::<String>()
        )
    };
    std::fs::write(&rows, (0..4000).map(&mut row).collect::<String>()).unwrap();
    by_any(program, &all, &["import", rows.to_str().unwrap(), "--key", "1"]);
    wait_for(program, &all, "it is not split", |ranges| ranges.len() >= 4);
    // Not for ever: what two halves share is not counted twice.
    std::thread::sleep(Duration::from_secs(5));
    let count = ranges(program, &all).len();
    assert!(count <= 24, "{count} ranges");
}

#[test]
fn replicas_are_spread_over_zones_and_leave_nodes_that_are_to_go() {
    let dir = scratch();
    let programs = programs(dir.path());
    let program = &programs[0];
    let nodes: Vec<Node> = programs
        .iter()
        .map(Program::start)
        .collect::<Result<_, _>>()
        .unwrap();
    let all: Vec<&Node> = nodes.iter().collect();
    by_any(program, &all, &["range", "split", "m"]);
    // One of those that share a zone gives its replicas to the node that joined.
    wait_for(program, &all, "zones are shared", |ranges| {
        let is_spread = |replicas: &[u64]| replicas.len() == 3 && replicas[1..] == [3, 4];
        ranges.len() == 2 && ranges.values().all(|(_, replicas)| is_spread(replicas))
    });
    let listed = by_any(program, &all, &["node", "ls"]);
    assert!(listed.contains("zone=c"), "{listed}");
    // Also through a node that has no replica all ranges are seen and used.
    for node in &all[..2] {
        let listed = by_any(program, &[node], &["range", "ls", "--json"]);
        assert_eq!(listed.lines().count(), 2, "{listed}");
        for key in ["a", "z"] {
            by_any(program, &[node], &["put", key, "1"]);
            assert_eq!(by_any(program, &[node], &["get", key]), "1\n");
        }
    }

    by_any(program, &all, &["node", "drain", "3", "--leaders"]);
    let led = |ranges: &BTreeMap<u64, (u64, Vec<u64>)>| ranges.values().all(|(leader, _)| *leader != 3);
    wait_for(program, &all, "node 3 leads", |ranges| {
        ranges.len() == 2 && led(ranges)
    });
    by_any(program, &all, &["node", "use", "3"]);

    by_any(program, &all, &["node", "drain", "4"]);
    let listed = by_any(program, &all, &["node", "ls"]);
    assert!(listed.contains("emptied"), "{listed}");
    wait_for(program, &all, "node 4 has replicas", |ranges| {
        ranges.len() == 2 && ranges.values().all(|(_, replicas)| *replicas == [1, 2, 3])
    });
}
