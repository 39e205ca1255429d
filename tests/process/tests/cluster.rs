//! Three real nodes of a cluster on loopback: the leader is killed, the others go on, and it catches up when it is back.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use corelane_process::process::{Node, Program};
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// How long anything may take: a fail-over takes about two seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs of `count` nodes on ports that are free now.
fn programs(dir: &Path, count: usize, name: &str) -> Vec<Program> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<_> = held
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    let entries = (1..)
        .zip(&addresses)
        .map(|(id, address)| format!("{id}={address}"));
    let list = entries.collect::<Vec<_>>().join(",");
    (1..=count)
        .zip(addresses)
        .map(|(id, address)| Program {
            binary: env!("CARGO_BIN_EXE_process-node").into(),
            data: dir.join(format!("node-{id}")),
            listen: address,
            options: options(id, &list, name),
        })
        .collect()
}

fn options(id: usize, list: &str, name: &str) -> Vec<String> {
    let id = id.to_string();
    let all = [
        "--shards",
        "1",
        "--node",
        &id,
        "--cluster",
        list,
        "--cluster-name",
        name,
    ];
    all.map(str::to_owned).to_vec()
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap()
}

/// Runs a command against the node at `address`.
fn at(program: &Program, address: &str, arguments: &[&str]) -> Output {
    let all = [arguments, &["--connect", address, "--timeout", "2s"]].concat();
    program.run(&all).unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Runs a command against all of `nodes` until it is done, and returns what it said.
fn by_any(program: &Program, nodes: &[&Node], arguments: &[&str]) -> String {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.as_str()).collect();
    let began = Instant::now();
    loop {
        let output = at(program, &addresses.join(","), arguments);
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "{arguments:?}: {}", said(&output));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn status(program: &Program, node: &Node) -> Value {
    let output = at(program, &node.address, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

/// Waits until the status of `node` is as it should be.
fn wait_for(program: &Program, node: &Node, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = status(program, node);
        if is_there(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {status:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_well(status: &Value) -> bool {
    status["verdict"] == "ok"
}

#[test]
fn two_of_three_nodes_go_on_and_the_third_catches_up() {
    let dir = scratch();
    let programs = programs(dir.path(), 3, "corelane");
    let program = &programs[0];
    let mut nodes: Vec<Node> = programs
        .iter()
        .map(Program::spawn)
        .collect::<Result<_, _>>()
        .unwrap();
    let put = |nodes: &[&Node], number: u32| {
        let (key, value) = (format!("key{number}"), format!("value{number}"));
        by_any(program, nodes, &["put", &key, &value])
    };
    for number in 0..20 {
        put(&nodes.iter().collect::<Vec<_>>(), number);
    }
    let mut leader = None;
    for (number, node) in nodes.iter().enumerate() {
        let status = wait_for(program, node, "all nodes see each other", is_well);
        if status["ranges"]["leads"] == 1 {
            assert_eq!(leader.replace(number), None, "two lead");
        }
        assert_eq!(status["nodes"].as_array().unwrap().len(), 2, "{status:#}");
        assert_eq!(status["ranges"]["replicas"], 1, "{status:#}");
    }
    let text = said(&at(program, &nodes[0].address, &["status"]));
    assert!(
        text.contains("is available.") && text.contains("other nodes"),
        "{text}"
    );

    let leader = leader.expect("one of them leads");
    nodes.remove(leader).kill().unwrap();
    let others: Vec<&Node> = nodes.iter().collect();
    for number in 0..20 {
        let value = by_any(program, &others, &["get", &format!("key{number}")]);
        assert_eq!(value, format!("value{number}\n"));
    }
    for number in 20..40 {
        put(&others, number);
    }
    let killed = leader + 1;
    let named = format!("node {killed} at {} does not answer", programs[leader].listen);
    wait_for(program, others[0], &named, |status| {
        status["verdict"]
            .as_str()
            .is_some_and(|verdict| verdict.contains(&named))
    });

    let back = programs[leader].start().unwrap();
    for node in [others[0], others[1], &back] {
        wait_for(program, node, "the node is back", is_well);
    }
    // With one of those that went on gone, what is served needs the one that was away.
    nodes.remove(0).kill().unwrap();
    let last = [&nodes[0], &back];
    for number in 0..40 {
        let value = by_any(program, &last, &["get", &format!("key{number}")]);
        assert_eq!(value, format!("value{number}\n"));
    }
    assert_eq!(back.terminate().unwrap(), 0);
}

#[test]
fn a_follower_shows_the_past_also_when_it_is_the_only_node_left() {
    let dir = scratch();
    let programs = programs(dir.path(), 3, "corelane");
    let program = &programs[0];
    let nodes = programs.iter().map(Program::spawn);
    let mut nodes: Vec<Node> = nodes.collect::<Result<_, _>>().unwrap();
    by_any(
        program,
        &nodes.iter().collect::<Vec<_>>(),
        &["put", "key", "value"],
    );
    for node in &nodes {
        wait_for(program, node, "all nodes see each other", is_well);
    }
    let leads = |node: &Node| status(program, node)["ranges"]["leads"] == 1;
    let closed_reads = |node: &Node| {
        let status = status(program, node);
        status["shards"][0]["counts"]["closed_reads"].as_u64().unwrap()
    };
    let began = Instant::now();
    let past = ["get", "key", "--at-most-stale", "1h", "--json"];
    // For a moment nobody may lead, or another one soon: connections are made anew when a later version becomes active.
    let (follower, found) = loop {
        assert!(began.elapsed() < PATIENCE, "one leads, and another one serves");
        let Some(leader) = nodes.iter().position(leads) else {
            continue;
        };
        let follower = (leader + 1) % nodes.len();
        let before = closed_reads(&nodes[follower]);
        // As soon as what it can show is not older than the write.
        let found = by_any(program, &[&nodes[follower]], &past);
        if closed_reads(&nodes[follower]) > before {
            break (nodes.remove(follower), found);
        }
    };
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["value"], "value", "{found:#}");
    for node in nodes {
        node.kill().unwrap();
    }
    let before = closed_reads(&follower);
    let read_ts = found["read_ts"].as_str().unwrap();
    for _ in 0..3 {
        assert_eq!(
            by_any(program, &[&follower], &["get", "key", "--at-most-stale", "1h"]),
            "value\n"
        );
        assert_eq!(
            by_any(program, &[&follower], &["get", "key", "--at", read_ts]),
            "value\n"
        );
        assert_eq!(
            by_any(program, &[&follower], &["scan", "--at-most-stale", "1h"]),
            "key\tvalue\n"
        );
    }
    assert!(closed_reads(&follower) >= before + 9);
    let output = at(program, &follower.address, &["get", "key"]);
    assert!(!output.status.success(), "nobody leads: {}", said(&output));
}

#[test]
fn data_of_another_node_or_cluster_is_refused() {
    let dir = scratch();
    let programs = programs(dir.path(), 3, "corelane");
    let _ = programs[0].start().unwrap().terminate().unwrap();
    let refused = |change: &dyn Fn(&mut Program)| {
        let mut program = programs[0].clone();
        change(&mut program);
        let output = program.command().output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(78), "{text}");
        text
    };
    let list = programs[0].options[5].clone();
    let text = refused(&|program| program.options = options(1, &list, "another"));
    assert!(
        text.contains("belongs to another node or cluster") && text.contains("--cluster-name"),
        "{text}"
    );
    let text = refused(&|program| {
        program.data.clone_from(&programs[0].data);
        program.options = options(2, &list, "corelane");
        program.listen.clone_from(&programs[1].listen);
    });
    assert!(text.contains("this is the data of n1 of cluster"), "{text}");
    let text = refused(&|program| program.options = options(1, "1=127.0.0.1:1,2=nonsense", "corelane"));
    assert!(text.contains("`2=nonsense` in the list of --cluster"), "{text}");
    let text = refused(&|program| program.options = options(1, "1=127.0.0.1:1,2=192.0.2.1:7400", "corelane"));
    assert!(
        text.contains("192.0.2.1:7400 can be reached from other machines"),
        "{text}"
    );
}

#[test]
fn a_node_of_another_cluster_is_named_by_the_others() {
    let dir = scratch();
    let programs = programs(dir.path(), 3, "corelane");
    let mut stranger = programs[2].clone();
    stranger.options = options(3, &stranger.options[5], "another");
    let nodes: Vec<Node> = [&programs[0], &programs[1], &stranger]
        .map(|program| program.start().unwrap())
        .into();
    let status = wait_for(&programs[0], &nodes[0], "the refusal is shown", |status| {
        status["nodes"][1]["refusal"].is_string() && status["nodes"][0]["answers"] == true
    });
    let verdict = status["verdict"].as_str().unwrap();
    assert!(
        verdict.contains("node 3 at") && verdict.contains("does not answer"),
        "{status:#}"
    );
    let advice = status["advice"].as_str().unwrap();
    assert!(advice.contains("node 3 refuses this one: "), "{status:#}");
    // Two of three are enough.
    by_any(&programs[0], &[&nodes[0], &nodes[1]], &["put", "key", "value"]);
}

/// Starts the nodes, and waits until they see each other.
fn start(programs: &[Program]) -> Vec<Node> {
    let nodes = programs.iter().map(Program::start);
    let nodes: Vec<Node> = nodes.collect::<Result<_, _>>().unwrap();
    for node in &nodes {
        wait_for(&programs[0], node, "all nodes see each other", is_well);
    }
    nodes
}

/// Runs a command that succeeds; the client finds the leader by itself.
fn run(program: &Program, address: &str, arguments: &[&str]) -> String {
    let all = [arguments, &["--connect", address, "--timeout", "30s"]].concat();
    let output = program.run(&all).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_node_with_the_only_replica_of_a_range_is_not_drained_while_it_is_gone() {
    let dir = scratch();
    let programs = programs(dir.path(), 3, "corelane");
    let program = &programs[0];
    let mut nodes = start(&programs);
    let first = nodes[0].address.clone();
    let split = run(program, &first, &["range", "split", "m", "--json"]);
    let split: Value = serde_json::from_str(&split).unwrap();
    let right = split["right"].to_string();
    run(program, &first, &["range", "place", &right, "--nodes", "2"]);
    nodes.remove(1).kill().unwrap();
    let output = at(program, &first, &["node", "drain", "2"]);
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    // Which of the two depends on whether the others have let go of their replicas by now.
    let nobody_has_it = "no node says which range has the keys from `m` on";
    let nobody_leads_it = format!("no leader of range r{right} says where its replicas are");
    assert!(
        text.contains(nobody_has_it) || text.contains(&nobody_leads_it),
        "{text}"
    );
    assert!(text.contains("no answer from n2"), "{text}");
}

#[test]
fn a_node_joins_and_takes_the_place_of_another() {
    let dir = scratch();
    let programs = programs(dir.path(), 3, "corelane");
    let program = &programs[0];
    let mut nodes = start(&programs);
    let first = nodes[0].address.clone();
    let run = |address: &str, arguments: &[&str]| run(program, address, arguments);
    for number in 0..20 {
        run(
            &first,
            &["put", &format!("key{number:02}"), &format!("value{number}")],
        );
    }
    run(&first, &["range", "split", "key10"]);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = held.local_addr().unwrap().to_string();
    drop(held);
    let joins = |id: &str| Program {
        data: dir.path().join(format!("node-{id}")),
        listen: own.clone(),
        options: ["--shards", "1", "--node", id, "--join", &first]
            .map(str::to_owned)
            .to_vec(),
        ..program.clone()
    };
    let output = joins("3").command().output().unwrap();
    let text = said(&output);
    assert!(
        !text.contains("has a node 3 already") && output.status.code() == Some(78),
        "the data of node 3 is in use: {text}"
    );
    let fourth = joins("4");
    let taken = Program {
        data: dir.path().join("new"),
        ..joins("3")
    };
    let text = said(&taken.command().output().unwrap());
    assert!(text.contains("the cluster has a node 3 already"), "{text}");
    let mut joined = fourth.start().unwrap();
    let listed = run(&first, &["node", "ls"]);
    assert_eq!(listed.lines().count(), 5, "{listed}");
    // Node 2 is gone for good; its replicas go to node 4.
    nodes.remove(1).kill().unwrap();
    let text = run(&first, &["node", "drain", "2"]);
    assert!(text.contains("n2 has no replicas any more: 2 moved"), "{text}");
    let placed = run(&first, &["range", "ls", "--json"]);
    for line in placed.lines() {
        let range: Value = serde_json::from_str(line).unwrap();
        assert_eq!(range["nodes"], serde_json::json!([1, 3, 4]), "{placed}");
    }
    // The new node counts: with it and one other everything is there, also when whom it joined is gone as it starts anew.
    nodes.remove(0).kill().unwrap();
    joined.kill().unwrap();
    joined = fourth.start().unwrap();
    for number in 0..20 {
        let value = run(&joined.address, &["get", &format!("key{number:02}")]);
        assert_eq!(value, format!("value{number}\n"));
    }
    let led = run(&joined.address, &["range", "place", "2", "--leader", "4"]);
    assert!(led.contains("n4 leads"), "{led}");
    assert_eq!(joined.terminate().unwrap(), 0);
}

/// What the node at `address` says of its ranges.
fn ranges(program: &Program, address: &str) -> Vec<Value> {
    let listed = run(program, address, &["range", "ls", "--json"]);
    let lines = listed.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The shards on which a node has its ranges, in the order of their keys.
fn shards(program: &Program, address: &str) -> Vec<u64> {
    let listed = ranges(program, address);
    let shard = |range: &Value| range["shard"].as_u64().unwrap();
    listed.iter().map(shard).collect()
}

#[test]
fn every_shard_of_every_node_has_ranges() {
    let dir = scratch();
    let mut programs = programs(dir.path(), 3, "corelane");
    for program in &mut programs {
        program.options[1] = "2".to_owned();
    }
    let program = programs[0].clone();
    let mut nodes = start(&programs);
    let all = |nodes: &[Node]| nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>();
    let key = |number: u32| format!("key{number:02}");
    let put = |nodes: &[Node], numbers: core::ops::Range<u32>| {
        for number in numbers {
            let nodes: Vec<_> = nodes.iter().collect();
            by_any(
                &program,
                &nodes,
                &["put", &key(number), &format!("value{number}")],
            );
        }
    };
    put(&nodes, 0..10);
    let first = nodes[0].address.clone();
    let began = Instant::now();
    for at in ["key10", "key20", "key30"] {
        run(&program, &first, &["range", "split", at]);
    }
    put(&nodes, 10..40);
    // Each node evens its ranges out by itself.
    for address in all(&nodes) {
        loop {
            let mut found = shards(&program, &address);
            found.sort_unstable();
            if found == [0, 0, 1, 1] {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{address}: {found:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Leaders and followers alike move, and serve on.
    for address in all(&nodes) {
        let listed = ranges(&program, &address);
        let to = 1 - listed[1]["shard"].as_u64().unwrap();
        let range = listed[1]["range"].to_string();
        let said = run(&program, &address, &["range", "move", &range, &to.to_string()]);
        assert!(said.contains(&format!("r{range} is on shard s{to}")), "{said}");
        assert_eq!(shards(&program, &address)[1], to);
        put(&nodes, 10..20);
    }
    // Whoever asks any node hears who leads, and who votes, also of the ranges of its other shard.
    for address in all(&nodes) {
        for range in ranges(&program, &address) {
            assert!(range["leader"].is_u64(), "{range}");
            assert_eq!(range["nodes"], serde_json::json!([1, 2, 3]), "{range}");
        }
    }
    nodes.remove(1).kill().unwrap();
    put(&nodes, 0..5);
    for number in 0..40 {
        let value = by_any(&program, &[&nodes[0], &nodes[1]], &["get", &key(number)]);
        assert_eq!(value, format!("value{number}\n"));
    }
    // It comes back with one shard, which takes over what the other one had.
    programs[1].options[1] = "1".to_owned();
    let back = programs[1].start().unwrap();
    for node in [&nodes[0], &nodes[1], &back] {
        wait_for(&program, node, "the node is back", is_well);
    }
    assert_eq!(shards(&program, &back.address), [0; 4]);
    nodes.remove(0).kill().unwrap();
    for number in 0..40 {
        let value = by_any(&program, &[&nodes[0], &back], &["get", &key(number)]);
        assert_eq!(value, format!("value{number}\n"));
    }
    assert_eq!(back.terminate().unwrap(), 0);
}
