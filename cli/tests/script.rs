//! `corelane script` with several open transactions on a real node, each step told from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use common::{Node, scratch};
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// A running `corelane script`. Ended when dropped.
struct Script {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    asked: u64,
    /// Answers that were read before somebody asked for them, in the order in which they came.
    read: Vec<Value>,
}

impl Script {
    fn start(node: &Node) -> Self {
        let mut command = node.command(&["script", "--timeout", "60s"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            asks: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
            asked: 0,
            read: Vec::new(),
        }
    }

    /// Gives a step, and says its number.
    fn ask(&mut self, mut step: Value) -> u64 {
        self.asked += 1;
        step["id"] = self.asked.into();
        writeln!(self.asks, "{step}").unwrap();
        self.asked
    }

    /// The answer to a step.
    fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(at) = self.read.iter().position(|answer| answer["id"] == id) {
                return self.read.remove(at);
            }
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "it has ended");
            self.read.push(serde_json::from_str(&line).unwrap());
        }
    }

    fn step(&mut self, step: Value) -> Value {
        let id = self.ask(step);
        self.answer(id)
    }

    /// Does steps like `a put x 1`, one after the other, and says what was answered to each.
    fn play(&mut self, steps: &str) -> String {
        let mut out = String::new();
        for line in steps.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            let mut step = json!({"s": words[0], "op": words[1]});
            match (words[1], &words[2..]) {
                ("begin", []) | ("commit" | "abort" | "outcome", _) => {}
                ("begin", [isolation]) => step["iso"] = (*isolation).into(),
                ("scan", [prefix]) => step["prefix"] = (*prefix).into(),
                (_, [key]) => step["key"] = (*key).into(),
                ("cas", [key, from, to]) => {
                    (step["key"], step["from"], step["to"]) = ((*key).into(), (*from).into(), (*to).into());
                }
                (_, [key, value]) => (step["key"], step["value"]) = ((*key).into(), (*value).into()),
                (_, other) => panic!("{line}: {other:?}"),
            }
            let answer = self.step(step);
            let _ = writeln!(out, "{line}: {}", short(&answer));
        }
        out
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Gone already when it has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part of an answer that is the same in each run.
fn short(answer: &Value) -> String {
    if let Some(ok) = answer.get("ok") {
        if let Some(rows) = ok["rows"].as_array() {
            let row = |row: &Value| format!("{}={}", row["key"], row["value"]).replace('"', "");
            return format!("[{}]", rows.iter().map(row).collect::<Vec<_>>().join(" "));
        }
        return match ok.get("value") {
            Some(value) => value.to_string(),
            None => "ok".to_owned(),
        };
    }
    let fail = &answer["fail"];
    let mut said = format!("fail {}", fail["code"].as_str().unwrap());
    if fail["aborted"] == true {
        said += ", aborted";
    }
    if let Some(conflict) = fail.get("conflict") {
        let _ = write!(said, ", {}", conflict["key"]);
        let _ = write!(
            said,
            " ours {} {}",
            conflict["ours"]["did"], conflict["ours"]["name"]
        );
        let _ = write!(said, " theirs {}", conflict["theirs"]["did"]);
    }
    if fail["code"] == "C1100" {
        let _ = write!(said, ", {}", fail["what"]);
    }
    said.replace('"', "")
}

/// Plays `steps` on a node where `x` and `y` are 0.
fn check(steps: &str, expected: &Expect) {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    node.ok(&["put", "x", "0"]);
    node.ok(&["put", "y", "0"]);
    expected.assert_eq(&Script::start(&node).play(steps));
}

/// Both read, both write what they read and a bit more: the second one would undo the first one's.
#[test]
fn lost_update_is_prevented_under_snapshot() {
    check(
        "a begin
         b begin
         a get x
         b get x
         a put x 1
         a commit
         b put x 10
         b commit
         b commit
         r get x",
        &expect![[r#"
            a begin: ok
            b begin: ok
            a get x: "0"
            b get x: "0"
            a put x 1: ok
            a commit: ok
            b put x 10: ok
            b commit: fail C2104, aborted, x ours read session b theirs committed
            b commit: fail C1100, no transaction is open: begin one first
            r get x: "1"
        "#]],
    );
}

/// Each reads both and writes one: what each saw of the other is not true any more at the end.
#[test]
fn write_skew_happens_under_snapshot() {
    check(
        "a begin snapshot
         b begin snapshot
         a scan x
         a get y
         b get x
         b get y
         a put x 1
         b put y 1
         a commit
         b commit",
        &expect![[r#"
            a begin snapshot: ok
            b begin snapshot: ok
            a scan x: [x=0]
            a get y: "0"
            b get x: "0"
            b get y: "0"
            a put x 1: ok
            b put y 1: ok
            a commit: ok
            b commit: ok
        "#]],
    );
}

#[test]
fn write_skew_is_prevented_under_serializable() {
    check(
        "a begin serializable
         b begin serializable
         a scan x
         a get y
         b get x
         b get y
         a put x 1
         b put y 1
         a commit
         b commit
         b abort
         r get y",
        &expect![[r#"
            a begin serializable: ok
            b begin serializable: ok
            a scan x: [x=0]
            a get y: "0"
            b get x: "0"
            b get y: "0"
            a put x 1: ok
            b put y 1: ok
            a commit: ok
            b commit: fail C2104, aborted, x ours read session b theirs committed
            b abort: fail C1100, no transaction is open: begin one first
            r get y: "0"
        "#]],
    );
}

/// A withdrawal (a) sees no deposit (b) and takes a fee, and a report (r), which only reads, has seen the deposit and no withdrawal:
/// in no order of the three could all of them have seen that.
const READ_ONLY: &str = "a begin ISO
     b begin ISO
     a get x
     a get y
     b get y
     b put y 20
     b commit
     r begin ISO
     r get x
     r get y
     r commit
     a put x -11
     a commit";

#[test]
fn the_read_only_anomaly_happens_under_snapshot() {
    check(
        &READ_ONLY.replace("ISO", "snapshot"),
        &expect![[r#"
        a begin snapshot: ok
        b begin snapshot: ok
        a get x: "0"
        a get y: "0"
        b get y: "0"
        b put y 20: ok
        b commit: ok
        r begin snapshot: ok
        r get x: "0"
        r get y: "20"
        r commit: ok
        a put x -11: ok
        a commit: ok
    "#]],
    );
}

#[test]
fn the_read_only_anomaly_is_prevented_under_serializable() {
    check(
        &READ_ONLY.replace("ISO", "serializable"),
        &expect![[r#"
        a begin serializable: ok
        b begin serializable: ok
        a get x: "0"
        a get y: "0"
        b get y: "0"
        b put y 20: ok
        b commit: ok
        r begin serializable: ok
        r get x: "0"
        r get y: "20"
        r commit: ok
        a put x -11: ok
        a commit: fail C2104, aborted, y ours read session a theirs committed
    "#]],
    );
}

#[test]
fn the_read_only_anomaly_is_prevented_under_strict_serializability() {
    check(
        &READ_ONLY.replace("ISO", "strict"),
        &expect![[r#"
        a begin strict: ok
        b begin strict: ok
        a get x: "0"
        a get y: "0"
        b get y: "0"
        b put y 20: ok
        b commit: ok
        r begin strict: ok
        r get x: "0"
        r get y: "20"
        r commit: ok
        a put x -11: ok
        a commit: fail C2104, aborted, y ours read session a theirs committed
    "#]],
    );
}

#[test]
fn a_session_has_one_transaction_and_sees_what_it_wrote() {
    check(
        "a commit
         a begin
         a begin
         a append x 7
         a cas y 5 6
         a cas y 0 6
         a put xy 1
         a delete y
         a get y
         a scan x
         r scan x
         a abort
         a get y
         a outcome",
        &expect![[r#"
            a commit: fail C1100, no transaction is open: begin one first
            a begin: ok
            a begin: fail C1100, a transaction is open: commit or abort it first
            a append x 7: "0,7"
            a cas y 5 6: fail C2001
            a cas y 0 6: ok
            a put xy 1: ok
            a delete y: ok
            a get y: null
            a scan x: [x=0,7 xy=1]
            r scan x: [x=0]
            a abort: ok
            a get y: "0"
            a outcome: fail C1100, no commit of this session had an unknown outcome
        "#]],
    );
}

/// Conflicts on keys of `prefix`, as `status` has them.
fn conflicts(node: &Node, prefix: &str) -> Option<Value> {
    let status: Value = serde_json::from_str(&node.ok(&["status", "--json"])).unwrap();
    let mut rows = status.get("conflicts")?.as_array().unwrap().iter();
    rows.find(|row| row["prefix"] == prefix).cloned()
}

/// Lets `a` begin a transaction whose write of `key` is on the node before its commit.
fn lay(node: &Node, script: &mut Script, key: &str) {
    script.step(json!({"s": "a", "op": "begin", "name": "large"}));
    // So much is not kept back until the commit.
    let much = "v".repeat(2 << 20);
    let put = script.step(json!({"s": "a", "op": "put", "key": key, "value": much}));
    assert_eq!(put["ok"], json!({}), "{put}");
    // It is sent in the background; a read that meets it does not wait, and is counted.
    let before = conflicts(node, key);
    while conflicts(node, key) == before {
        script.step(json!({"s": "r", "op": "get", "key": key}));
    }
}

#[test]
fn who_waits_for_a_transaction_holds_nobody_else_up() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let mut script = Script::start(&node);
    // On a machine that stands still for a second, the transaction is taken for dead: once more then.
    let waited = (0..20).any(|_| {
        lay(&node, &mut script, "x");
        let behind = script.ask(json!({"s": "b", "op": "put", "key": "x", "value": "later"}));
        for n in 0..20 {
            let answer = script.step(json!({"s": n, "op": "put", "key": format!("k{n}"), "value": n}));
            assert_eq!(answer["ok"], json!({}), "{answer}");
        }
        let is_behind = script.read.is_empty();
        let commit = script.step(json!({"s": "a", "op": "commit"}));
        assert_eq!(script.answer(behind)["ok"], json!({}));
        let last = script.step(json!({"s": "r", "op": "get", "key": "x"}));
        assert_eq!(last["ok"], json!({"value": "later"}));
        let is_committed = commit.get("ok").is_some();
        assert!(is_behind || !is_committed, "b waits for a: {commit}");
        is_committed
    });
    assert!(waited);
}

#[test]
fn status_shows_where_transactions_meet() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    assert_eq!(conflicts(&node, "stock/"), None);
    let mut script = Script::start(&node);
    for _ in 0..3 {
        script.play(
            "a begin
             b begin
             a get stock/7
             b get stock/7
             a put stock/7 1
             b put stock/7 2
             a commit
             b commit",
        );
    }
    let stock = conflicts(&node, "stock/").unwrap();
    assert!(stock["overtaken"].as_u64().unwrap() >= 3, "{stock}");
    lay(&node, &mut script, "large");
    let large = conflicts(&node, "large").unwrap();
    assert!(large["met"].as_u64().unwrap() >= 1, "{large}");
    let text = node.ok(&["status"]);
    assert!(
        text.contains("\nconflicts by prefix of the keys\n  keys "),
        "{text}"
    );
    assert!(text.contains("\n  stock/… "), "{text}");
}

#[test]
fn a_script_waits_where_it_says_so_and_takes_back_what_it_leaves_open() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let mut steps = String::new();
    for n in 0..50 {
        let _ = writeln!(
            steps,
            r#"{{"s":"{}","op":"append","key":"k","value":{n}}}"#,
            n % 5
        );
        let wait = if n % 2 == 0 {
            ""
        } else {
            &format!(r#","s":"{}""#, n % 5)
        };
        let _ = writeln!(steps, r#"{{"op":"wait"{wait}}}"#);
    }
    steps += "{\"op\":\"begin\"}\n{\"op\":\"put\",\"key\":\"k\",\"value\":\"gone\"}\n";
    let ended = node.feed(&["script"], steps.as_bytes());
    assert_eq!(ended.code, 0, "{}", ended.err);
    let answers: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 52, "a wait is not answered");
    assert!(
        answers.iter().all(|answer| answer.get("ok").is_some()),
        "{}",
        ended.out
    );
    let expected = (0..50).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(node.ok(&["get", "k"]), expected + "\n");
}
