//! Real nodes on loopback: what was said of keys and nodes is done, survives the node that was told, and is told to those who come back.

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

/// Where the nodes are.
const LOCALITIES: [&str; 5] = [
    "region=eu,rack=1",
    "region=us,rack=2",
    "region=eu,rack=3",
    "region=eu,rack=4",
    "region=us,rack=5",
];

/// Three founders, and two nodes that join.
fn programs(dir: &Path) -> Vec<Program> {
    let held: Vec<_> = LOCALITIES
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .into();
    let addresses: Vec<_> = held
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    let entries = (1..).zip(&addresses[..3]).map(|(id, at)| format!("{id}={at}"));
    let list = entries.collect::<Vec<_>>().join(",");
    let program = |(id, locality): (usize, &str)| {
        let (address, number) = (&addresses[id - 1], id.to_string());
        let how = if id <= 3 {
            ["--cluster", &list]
        } else {
            ["--join", &addresses[0]]
        };
        let pace = ["--replace-after", "3s", "--balance-after", "2s"];
        let all = [
            &["--shards", "1", "--node", &number, "--locality", locality],
            &how[..],
            &pace,
        ]
        .concat();
        Program {
            binary: env!("CARGO_BIN_EXE_process-node").into(),
            data: dir.join(format!("node-{id}")),
            listen: address.clone(),
            options: all.into_iter().map(str::to_owned).collect(),
        }
    };
    (1..).zip(LOCALITIES).map(program).collect()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The nodes that run, and how to run commands.
struct Cluster {
    programs: Vec<Program>,
    nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    fn start(&mut self, id: u64) {
        let program = &self.programs[usize::try_from(id).unwrap() - 1];
        self.nodes.insert(id, program.start().unwrap());
    }

    /// Runs a command once against all nodes that run.
    fn once(&self, arguments: &[&str]) -> Output {
        let addresses: Vec<_> = self.nodes.values().map(|node| node.address.as_str()).collect();
        let addresses = addresses.join(",");
        let all = [arguments, &["--connect", &addresses, "--timeout", "10s"]].concat();
        self.programs[0].run(&all).unwrap()
    }

    /// Runs a command until it is done, and returns what it said.
    fn run(&self, arguments: &[&str]) -> String {
        let began = Instant::now();
        loop {
            let output = self.once(arguments);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            assert!(began.elapsed() < PATIENCE, "{arguments:?}: {}", said(&output));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// By first key the range, its leader and the nodes with its replicas, as its leader says.
    fn ranges(&self) -> BTreeMap<String, (u64, u64, Vec<u64>)> {
        let mut ranges = BTreeMap::new();
        for (id, node) in &self.nodes {
            let all = ["range", "ls", "--json", "--connect", &node.address];
            let output = self.programs[0].run(&all).unwrap();
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let range: Value = serde_json::from_str(line).unwrap();
                if range["leader"] == *id {
                    let of = |value: &Value| value.as_u64().unwrap();
                    let replicas = range["nodes"].as_array().unwrap().iter().map(of).collect();
                    let start = range["start"].as_str().unwrap_or_default().to_owned();
                    ranges.insert(start, (of(&range["range"]), *id, replicas));
                }
            }
        }
        ranges
    }

    /// Waits until the ranges are as they should be.
    fn wait_for(&self, what: &str, is_so: impl Fn(&BTreeMap<String, (u64, u64, Vec<u64>)>) -> bool) {
        let began = Instant::now();
        loop {
            let seen = self.ranges();
            if is_so(&seen) {
                return;
            }
            if began.elapsed() >= PATIENCE {
                let explain =
                    |(range, ..): &(u64, u64, Vec<u64>)| self.run(&["range", "explain", &range.to_string()]);
                let explained: Vec<_> = seen.values().map(explain).collect();
                panic!("{what}: {seen:?}\n{}", explained.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn numbers(&self) -> Vec<u64> {
        let listed = self.run(&["node", "ls", "--json"]);
        let number = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["node"]
                .as_u64()
                .unwrap()
        };
        listed.lines().map(number).collect()
    }
}

#[test]
fn replicas_follow_policies_and_a_node_that_was_removed_stays_away() {
    let mut builder = tempfile::Builder::new();
    let dir = builder.prefix("corelane-process-").tempdir().unwrap();
    let mut cluster = Cluster {
        programs: programs(dir.path()),
        nodes: BTreeMap::new(),
    };
    (1..=5).for_each(|id| cluster.start(id));
    for key in ["a", "us/1", "us/2", "z"] {
        cluster.run(&["put", key, "value"]);
    }
    let refused = cluster.once(&["policy", "set", "us/", "--require", "region=us"]);
    let text = said(&refused);
    assert!(
        !refused.status.success() && text.contains("`region=us` is no constraint"),
        "{text}"
    );

    // A range of its own, on the two nodes there, led by the one that is preferred.
    let us = [
        "policy",
        "set",
        "us/",
        "--replicas",
        "2",
        "--require",
        "+region=us",
        "--prefer-leader",
        "+rack=5",
    ];
    let began = Instant::now();
    let set = loop {
        let set = cluster.run(&us);
        // Who answers may not have heard of all nodes yet.
        if !set.contains("warning") || began.elapsed() >= PATIENCE {
            break set;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(
        set.contains("us/: 2 replicas, +region=us, led in +rack=5") && !set.contains("warning"),
        "{set}"
    );
    cluster.wait_for("the policy is not followed", |ranges| {
        ranges.len() >= 3
            && ranges
                .get("us/")
                .is_some_and(|(_, leader, nodes)| (*leader, &nodes[..]) == (5, &[2, 5]))
    });
    let range = cluster.ranges()["us/"].0.to_string();
    let text = cluster.run(&["range", "explain", &range]);
    assert!(
        text.contains("the policy of us/ wants 2 voters, +region=us"),
        "{text}"
    );
    let text = cluster.run(&["policy", "show", "us/1"]);
    assert!(text.starts_with("the policy of us/: 2 replicas"), "{text}");
    let set = cluster.run(&["policy", "set", "mars/", "--require", "+region=mars"]);
    assert!(set.contains("warning: no node satisfies +region=mars"), "{set}");
    cluster.run(&["policy", "rm", "mars/"]);

    // The node that was told dies for good. It is replaced, also in what it was told.
    cluster.run(&["policy", "rm", "us/"]);
    cluster.wait_for("the policy of all keys is not followed", |ranges| {
        ranges.len() >= 3 && ranges.values().all(|(_, _, nodes)| nodes.len() == 3)
    });
    cluster.run(&["policy", "set", "keep/", "--split-size", "1GiB"]);
    let (_, first, _) = cluster.ranges()[""].clone();
    let number = first.to_string();
    let text = said(&cluster.once(&["node", "rm", &number]));
    assert!(text.contains("has replicas of"), "{text}");
    cluster.nodes.remove(&first).unwrap().kill().unwrap();
    let listed = cluster.run(&["policy", "ls"]);
    assert!(
        listed.contains("keep/") && !listed.contains("us/") && !listed.contains("mars/"),
        "{listed}"
    );
    cluster.run(&["node", "drain", &number]);
    cluster.run(&["node", "rm", &number]);
    assert!(!cluster.numbers().contains(&first));
    let text = said(&cluster.once(&["node", "drain", &number]));
    assert!(
        text.contains(&format!("the cluster has no node n{first}")),
        "{text}"
    );

    // Nobody brings it back: neither an old list of nodes nor the node itself.
    let other = (1..=3).find(|id| *id != first).unwrap();
    cluster.nodes.remove(&other).unwrap().kill().unwrap();
    cluster.start(other);
    let gone = &cluster.programs[usize::try_from(first).unwrap() - 1];
    let back = gone.spawn().unwrap();
    let stderr = gone.data.with_extension("stderr");
    let began = Instant::now();
    let is_refused = || {
        let text = std::fs::read_to_string(&stderr).unwrap_or_default();
        text.contains("C6008") && text.contains("empty data directory, another number")
    };
    while !is_refused() {
        assert!(
            began.elapsed() < PATIENCE,
            "{}",
            std::fs::read_to_string(&stderr).unwrap()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(back.terminate().unwrap(), 78);
    assert!(!cluster.numbers().contains(&first));
    cluster.wait_for("it has replicas", |ranges| {
        ranges.len() >= 3
            && ranges
                .values()
                .all(|(_, _, nodes)| nodes.len() == 3 && !nodes.contains(&first))
    });
}
