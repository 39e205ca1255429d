//! Every command against a real node: what it prints, and the code it leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use common::{Node, corelane, scratch};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Removes what differs from run to run.
fn without_ts(mut value: Value) -> Value {
    value.as_object_mut().unwrap().remove("ts").expect("a timestamp");
    value
}

#[test]
fn values_are_put_read_listed_and_deleted() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    node.ok(&["put", "fruit/apple", "red"]);
    node.ok(&["put", "fruit/pear", "green"]);
    node.ok(&["put", "größe", "zwölf"]);
    assert_eq!(node.ok(&["get", "fruit/apple"]), "red\n");
    assert_eq!(node.ok(&["get", "--raw", "größe"]), "zwölf");
    assert_eq!(
        node.ok(&["scan"]),
        "fruit/apple\tred\nfruit/pear\tgreen\ngröße\tzwölf\n"
    );
    assert_eq!(
        node.ok(&["scan", "--prefix", "fruit/", "--keys", "--reverse"]),
        "fruit/pear\nfruit/apple\n"
    );
    assert_eq!(
        node.ok(&["scan", "fruit/b", "g", "-n", "1"]),
        "fruit/pear\tgreen\n"
    );
    assert_eq!(node.ok(&["scan", "--count"]), "3\n");
    node.ok(&["del", "fruit/apple"]);
    assert_eq!(node.run(&["get", "fruit/apple"]).code, 1);
    node.ok(&["del", "--prefix", "fruit/"]);
    assert_eq!(node.ok(&["scan", "--keys"]), "größe\n");

    // Standard input and files carry any bytes.
    assert_eq!(node.feed(&["put", "blob", "-"], b"\x00\xff\n").code, 0);
    assert_eq!(node.ok(&["get", "626c6f62", "--hex"]), "00ff0a\n");
}

#[test]
fn a_start_says_what_it_replayed() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut node = Node::start(&data);
    node.ok(&["put", "a", "1"]);
    node.kill();
    // On a port of its own: the old one may have been given away.
    let mut node = Node::start(&data);
    let status: Value = serde_json::from_str(&node.ok(&["status", "--json"])).unwrap();
    let replayed = |shard: usize, name: &str| status["shards"][shard]["replayed"][name].as_u64().unwrap();
    // The write, and an empty entry by which the range's leader began.
    assert_eq!(replayed(0, "entries") + replayed(1, "entries"), 2);
    assert!(
        replayed(0, "bytes") > 0 && replayed(0, "segments") > 0,
        "{status}"
    );

    // For people it is a line on standard error.
    node.kill();
    let mut again = std::process::Command::new(common::CORELANE);
    again
        .args([
            "start",
            "--no-pin",
            "--stall-max",
            "60s",
            "--shards",
            "2",
            "--listen",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(&data)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut again = again.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(again.stderr.take().unwrap()),
        &mut line,
    )
    .unwrap();
    again.kill().unwrap();
    again.wait().unwrap();
    assert!(line.starts_with("replayed: shard 0 read 3 entries, "), "{line}");
}

#[test]
fn binary_keys_travel_as_hexadecimal_digits() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    node.ok(&["put", "--hex", "00ff", "0a"]);
    assert_eq!(node.ok(&["get", "--hex", "00ff"]), "0a\n");
    assert_eq!(node.ok(&["scan"]), "\\x00\\xff\t\\n\n");
    let rows = lines(&node.ok(&["scan", "--json"]));
    assert_eq!(
        without_ts(rows[0].clone()),
        json!({"key_hex": "00ff", "value": "\n"})
    );
    let refused = node.run(&["get", "--hex", "0g"]);
    assert_eq!(refused.code, 64);
    assert!(
        refused.err.starts_with(
            "error[C1105]: `0g` is not hexadecimal\n  cause: not a hexadecimal digit at position 2\n"
        ),
        "{}",
        refused.err
    );
}

#[test]
fn conditions_leave_exit_code_two_and_the_value_found() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    node.ok(&["put", "lock", "me", "--if-absent"]);
    let second = node.run(&["put", "lock", "you", "--if-absent", "--json"]);
    assert_eq!(second.code, 2);
    let said = without_ts(lines(&second.out).remove(0));
    assert_eq!(said, json!({"key": "lock", "applied": false, "found": "me"}));
    node.ok(&["put", "lock", "you", "--if-equals", "me"]);
    assert_eq!(node.run(&["del", "lock", "--if-equals", "me"]).code, 2);
    node.ok(&["del", "lock", "--if-equals", "you"]);
    assert_eq!(
        node.run(&["get", "lock", "--json"]).out,
        "{\"key\":\"lock\",\"value\":null}\n"
    );
}

#[test]
fn the_past_can_be_read() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let first = lines(&node.ok(&["put", "k", "old", "--json"])).remove(0);
    node.ok(&["put", "k", "new"]);
    let ts = first["ts"].as_str().unwrap();
    assert_eq!(node.ok(&["get", "k", "--at", ts]), "old\n");
    assert_eq!(node.ok(&["scan", "--at", ts]), "k\told\n");
    assert_eq!(node.ok(&["get", "k"]), "new\n");
}

#[test]
fn ranges_split_move_and_merge_while_they_serve() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    for key in ["a", "m", "z"] {
        node.ok(&["put", key, key]);
    }
    let split = lines(&node.ok(&["range", "split", "m", "--json"])).remove(0);
    let right = split["right"].as_u64().unwrap();
    let to = 1 - split["right_shard"].as_u64().unwrap();
    node.ok(&["range", "move", &format!("r{right}"), &to.to_string()]);
    let ranges = lines(&node.ok(&["range", "ls", "--json"]));
    assert_eq!(ranges.len(), 2);
    assert_eq!(
        (ranges[0]["end"].as_str(), ranges[1]["start"].as_str()),
        (Some("m"), Some("m"))
    );
    assert_eq!(ranges[1]["shard"].as_u64(), Some(to));
    assert_eq!(node.ok(&["scan", "--keys"]), "a\nm\nz\n", "a scan over both");
    assert!(node.ok(&["range", "ls"]).contains("(first key)"));
    let status: Value = serde_json::from_str(&node.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["verdict"], "ok");
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
    assert!(
        node.ok(&["status"])
            .starts_with(&format!("The node at {} is available.", node.address))
    );
    let left = ranges[0]["range"].as_u64().unwrap();
    let last = node.run(&["range", "merge", &right.to_string()]);
    assert_ne!(last.code, 0);
    assert!(last.err.contains("has no right neighbour"), "{}", last.err);
    let merged = lines(&node.ok(&["range", "merge", &format!("r{left}"), "--json"])).remove(0);
    assert_eq!(
        (merged["range"].as_u64(), merged["absorbed"].as_u64()),
        (Some(left), Some(right))
    );
    assert_eq!(lines(&node.ok(&["range", "ls", "--json"])).len(), 1);
    assert_eq!(node.ok(&["scan", "--keys"]), "a\nm\nz\n", "a scan over the one");
    let nowhere = node.run(&["range", "merge", "r999"]);
    assert!(nowhere.err.contains("error[C1008]"), "{}", nowhere.err);
    let nowhere = node.run(&["range", "move", "r999", "0"]);
    assert_ne!(nowhere.code, 0);
    assert!(nowhere.err.contains("error[C1008]"), "{}", nowhere.err);
}

#[test]
fn numbers_are_added_to() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    assert_eq!(node.ok(&["add", "n", "5"]), "5\n");
    assert_eq!(node.ok(&["add", "n", "-2", "--min", "0"]), "3\n");
    assert_eq!(node.ok(&["get", "n"]), "3\n");
    let refused = node.run(&["add", "n", "-4", "--min", "0"]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""));
    assert_eq!(
        refused.err,
        "not added: n has 3, and the sum would be out of bounds\n"
    );
    let json: Value = serde_json::from_str(&node.ok(&["add", "n", "1", "--json"])).unwrap();
    assert_eq!((&json["applied"], &json["number"]), (&json!(true), &json!(4)));
    node.ok(&["put", "text", "hello"]);
    let text = node.run(&["add", "text", "1"]);
    assert!(
        text.err.contains("error[C2005]") && text.err.contains("hello"),
        "{}",
        text.err
    );
    let shell = node.feed(&["shell"], b"add n 6\nadd n x\n");
    assert_eq!((shell.code, shell.out.as_str()), (64, "10\n"), "{}", shell.err);
}

#[test]
fn the_shell_runs_lines() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let script = "put a 1\nput \"b c\" '2\\n'\nget a\nscan\ncas a 1 3\ncas a 1 4\nputnew a 5\nrscan a* limit 1\ndelrange b\nscan\nhex\nget a\nranges\nquit\nget never\n";
    let ended = node.feed(&["shell"], script.as_bytes());
    assert_eq!(ended.code, 0, "{}", ended.err);
    let before_ranges = ended.out.split("range ").next().unwrap();
    assert_eq!(
        before_ranges,
        "ok\nok\n1\na\t1\nb c\t2\\\\n\n(2 rows)\nok\n(not written: the value is 3)\n(not written: the value is 3)\n\
         a\t3\n(1 rows, perhaps more: add `limit N`)\nok\na\t3\n(1 rows)\nhexadecimal output is on\n33\n"
    );
    let wrong = node.feed(&["shell"], b"fetch a\nput a 9\n");
    assert_eq!(
        (wrong.code, wrong.out.as_str()),
        (64, ""),
        "the first error ends a script"
    );
    assert_eq!(node.run(&["shell", "-c", "get nothing"]).code, 1);
}

#[test]
fn scripts_answer_each_line() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let script = concat!(
        r#"{"s":1,"id":1,"op":"put","key":"x","value":"1"}"#,
        "\n",
        r#"{"s":1,"id":2,"op":"append","key":"list","value":7}"#,
        "\n",
        r#"{"s":1,"id":3,"op":"append","key":"list","value":8}"#,
        "\n",
        r#"{"s":1,"id":4,"op":"cas","key":"x","from":"0","to":"2"}"#,
        "\n",
        r#"{"s":1,"id":5,"op":"get","key":"none"}"#,
        "\n",
        r#"{"s":1,"id":6,"op":"scan"}"#,
        "\n",
        r#"{"s":1,"id":7,"op":"delete","key":"x"}"#,
        "\n",
        r#"{"s":1,"id":8,"op":"fly"}"#,
        "\n",
        r#"{"s":1,"id":9,"op":"get","key":""}"#,
        "\n",
    );
    let ended = node.feed(&["script"], script.as_bytes());
    assert_eq!(ended.code, 0, "{}", ended.err);
    let mut answers = lines(&ended.out);
    answers.sort_by_key(|answer| answer["id"].as_u64());
    let ok: Vec<&Value> = answers.iter().map(|answer| &answer["ok"]).collect();
    assert_eq!(ok[0], &json!({}));
    assert_eq!(ok[2], &json!({"value": "7,8"}));
    assert_eq!(
        answers[3]["fail"],
        json!({"code": "C2001", "what": "condition failed", "found": "1"})
    );
    assert_eq!(ok[4], &json!({"value": null}));
    assert_eq!(ok[5]["rows"].as_array().unwrap().len(), 2);
    assert_eq!(answers[7]["fail"]["what"], "there is no operation `fly`");
    assert_eq!(answers[8]["fail"]["code"], "C1005");
    assert!(
        answers
            .iter()
            .filter(|answer| answer.get("ok").is_some())
            .all(|answer| answer["ts"].is_string())
    );
}

#[test]
fn sessions_of_a_script_run_beside_each_other() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let script: String = (0..40)
        .map(|n| {
            format!(
                "{{\"s\":{},\"id\":{n},\"op\":\"append\",\"key\":\"k{}\",\"value\":{n}}}\n",
                n % 4,
                n % 4
            )
        })
        .collect();
    let ended = node.feed(&["script"], script.as_bytes());
    let answers = lines(&ended.out);
    assert_eq!(answers.len(), 40);
    for session in 0..4_u64 {
        let mine: Vec<u64> = answers
            .iter()
            .filter(|a| a["s"] == session)
            .map(|a| a["id"].as_u64().unwrap())
            .collect();
        let sent: Vec<u64> = (0..40).filter(|n| n % 4 == session).collect();
        assert_eq!(mine, sent, "the operations of one session are answered in order");
    }
    assert_eq!(node.ok(&["get", "k1"]), "1,5,9,13,17,21,25,29,33,37\n");
}

#[test]
fn without_a_node() {
    assert!(
        corelane(&["explain", "c3001"])
            .out
            .starts_with("C3001: overloaded\n")
    );
    assert!(corelane(&["explain"]).out.lines().count() > 40);
    assert_eq!(corelane(&["explain", "C9"]).code, 64);
    assert!(corelane(&["completions", "bash"]).out.contains("_corelane()"));
    assert!(corelane(&["version"]).out.starts_with("corelane 0."));
    let commands = [
        "start", "get", "put", "del", "scan", "shell", "import", "export", "status", "range", "bench",
        "script", "check", "debug",
    ];
    for command in commands {
        let help = corelane(&[command, "--help"]);
        assert_eq!(help.code, 0);
        assert!(
            command == "bench" || help.out.contains("Example"),
            "{command} shows no example"
        );
    }
    let doctor = corelane(&["doctor", "--json", "--data", scratch().path().to_str().unwrap()]);
    assert_eq!(doctor.code, 0, "{}", doctor.out);
    assert!(
        lines(&doctor.out)
            .iter()
            .any(|check| check["name"] == "io_uring" && check["verdict"] == "ok"),
        "{}",
        doctor.out
    );
}

#[test]
fn transactions_are_measured_and_keep_the_total() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let figures = dir.path().join("figures.json");
    let page = dir.path().join("figures.html");
    let target = format!("corelane://{}", node.address);
    let small = "bench txn --keys 50 --tasks 4 --threads 2 --warmup 10ms --duration 200ms --runs 2 --quiet";
    let mut small: Vec<&str> = small.split(' ').collect();
    small.extend(["--target", &target, "--json", figures.to_str().unwrap()]);
    small.extend(["--report", page.to_str().unwrap()]);
    let ran = corelane(&small);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let told: Value = serde_json::from_str(&std::fs::read_to_string(&figures).unwrap()).unwrap();
    let series = told["series"].as_array().unwrap();
    let named = |series: &Value| {
        format!(
            "{} {}",
            series["workload"].as_str().unwrap(),
            series["shape"].as_str().unwrap()
        )
    };
    let names: Vec<String> = series.iter().map(named).collect();
    let expected = [
        "put 1 task",
        "txn-1-write 1 task",
        "txn-one-range 1 task",
        "txn-two-range 1 task",
        "transfer-uniform 1 task",
        "transfer-one-shot 1 task",
        "put 4 tasks",
        "txn-1-write 4 tasks",
        "txn-one-range 4 tasks",
        "txn-two-range 4 tasks",
        "two-range-beside-scan 4 tasks",
        "transfer-uniform 4 tasks",
        "transfer-zipf 4 tasks",
        "transfer-one-shot 4 tasks",
        "transfer-one-shot-zipf 4 tasks",
        "add-hot 4 tasks",
    ];
    assert_eq!(names, expected);
    for run in series
        .iter()
        .flat_map(|series| series["runs"].as_array().unwrap())
    {
        assert_eq!(run["failed"], 0, "{run}");
    }
    assert!(std::fs::read_to_string(&page).unwrap().contains("transfer-zipf"));

    // What it cannot do is refused before anything is written.
    for wrong in [
        ["--rate", "100"],
        ["--target", "redis://127.0.0.1:1"],
        ["--value-bytes", "8"],
    ] {
        let refused = corelane(&[&["bench", "txn"], &wrong[..]].concat());
        assert_eq!(refused.code, 64, "{wrong:?}: {}", refused.err);
    }
}

#[test]
fn a_bench_goes_on_when_its_node_was_gone() {
    let dir = scratch();
    let mut node = Node::start(&dir.path().join("data"));
    let figures = dir.path().join("figures.json");
    let target = format!("corelane://{}", node.address);
    let writes = |node: &Node| {
        let status: Value = serde_json::from_str(&node.ok(&["status", "--json"])).unwrap();
        let shards = status["shards"].as_array().unwrap().clone();
        shards
            .iter()
            .map(|shard| shard["counts"]["writes"].as_u64().unwrap())
            .sum::<u64>()
    };
    let load = "bench put --keys 50 --warmup 0s --runs 1 --quiet --timeline --rate 200 --duration";
    let mut load: Vec<&str> = load.split(' ').collect();
    load.extend(["10s", "--target", &target, "--json", figures.to_str().unwrap()]);
    let bench = node
        .command(&load)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The records are there, and the load has begun.
    while writes(&node) < 100 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    node.kill_and_restart();
    let ended = bench.wait_with_output().unwrap();
    let printed = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{printed}");
    assert!(printed.contains("connections opened anew"), "{printed}");
    assert!(printed.contains("run 1:"), "{printed}");
    let told: Value = serde_json::from_str(&std::fs::read_to_string(&figures).unwrap()).unwrap();
    let run = &told["series"][0]["runs"][0];
    assert_eq!(run["failed"], 0, "{run}");
    assert!(run["reconnected"].as_u64().unwrap() > 0, "{run}");
}
