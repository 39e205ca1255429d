//! `corelane demo` from a pipe: a bank over three real nodes, which are killed, paused and cut off; and how it ends.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const CORELANE: &str = env!("CARGO_BIN_EXE_process-node");
/// How long one demonstration may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A demonstration that runs. Killed when dropped.
struct Demo {
    child: Child,
    began: Instant,
    answers: Receiver<Value>,
    /// What it said when it was ready.
    ready: Value,
}

impl Demo {
    /// Starts one whose data is below `dir`.
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(CORELANE);
        command.args(["demo", "--json"]).env("TMPDIR", dir);
        let log = std::fs::File::create(dir.with_extension("stderr")).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let (sender, answers) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let mut demo = Self {
            child,
            began: Instant::now(),
            answers,
            ready: Value::Null,
        };
        demo.ready = demo.answer();
        assert_eq!(demo.ready["event"], "ready", "{}", demo.ready);
        demo
    }

    fn answer(&self) -> Value {
        let left = PATIENCE.saturating_sub(self.began.elapsed());
        self.answers.recv_timeout(left).expect("it answers in time")
    }

    /// Runs a command that has an answer.
    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        self.answer()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The processes of its nodes that are there.
    fn nodes(&self) -> Vec<u64> {
        let pids = self.ready["pids"].as_array().unwrap().iter();
        pids.map(|pid| pid.as_u64().unwrap())
            .filter(|&pid| is_node(pid))
            .collect()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(self.began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Gone already when the test was not cut short.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether process `pid` is a node: the number may be another one's by now.
fn is_node(pid: u64) -> bool {
    let told = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    told.split(|byte| *byte == 0).any(|word| word == b"--parent")
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap()
}

/// A directory for temporary ones.
fn place(dir: &Path) -> std::path::PathBuf {
    let place = dir.join("tmp");
    std::fs::create_dir(&place).unwrap();
    place
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn the_bank_goes_on_after_every_fault_and_nothing_is_left() {
    let dir = scratch();
    let place = place(dir.path());
    let mut demo = Demo::start(&place);
    let mut transfers = 0;
    let script = [
        "wait",
        "kill 2",
        "wait",
        "sleep 0.5",
        "start 2",
        "wait",
        "pause 1",
        "wait",
        "sleep 0.5",
        "resume 1",
        "wait",
        "cut 1 3",
        "wait",
        "sleep 0.5",
        "heal",
        "wait",
        "kill leader",
        "wait",
        "heal",
        "wait",
    ];
    for line in script {
        if line.starts_with("sleep") {
            demo.say(line);
            continue;
        }
        let answer = demo.ask(line);
        assert_eq!(answer["done"], line);
        if line == "wait" {
            let bank = demo.ask("bank");
            let now = bank["transfers"].as_u64().unwrap();
            assert!(now > transfers, "no progress: {bank:#}");
            assert_eq!(bank["total"], 100_000);
            transfers = now;
        }
    }
    let status = demo.ask("status");
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    assert_eq!(status["cut"].as_array().unwrap().len(), 0, "{status:#}");
    let faults = status["bank"]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 8, "{status:#}");

    demo.say("quit");
    let end = demo.answer();
    assert_eq!(
        (&end["event"], &end["read_at_end"]),
        (&"end".into(), &true.into()),
        "{end:#}"
    );
    assert!(end["bank"]["audits"].as_u64().unwrap() > 1, "{end:#}");
    assert_eq!(demo.wait().code(), Some(0));
    assert_eq!(demo.nodes(), [0; 0]);
    assert!(is_empty(&place), "the data is removed");
}

/// What a paused leader has proposed last takes second place to what others commit meanwhile; killed before any of it is in
/// tables, it finds both in its log.
#[test]
fn a_leader_that_was_away_starts_from_a_log_in_which_entries_took_the_place_of_others() {
    let dir = scratch();
    let place = place(dir.path());
    let mut demo = Demo::start(&place);
    for _ in 0..3 {
        demo.ask("wait");
        demo.ask("pause leader");
        let status = demo.ask("status");
        let nodes = status["nodes"].as_array().unwrap();
        let paused = nodes.iter().find(|node| node["state"] == "paused").unwrap();
        let away = paused["node"].as_u64().unwrap();
        demo.ask("wait");
        demo.say("sleep 1.5");
        demo.ask(&format!("resume {away}"));
        demo.say("sleep 1");
        demo.ask(&format!("kill {away}"));
        demo.ask(&format!("start {away}"));
        demo.say("sleep 1.5");
    }
    demo.say("quit");
    let end = demo.answer();
    assert_eq!(end["read_at_end"], true, "{end:#}");
    assert_eq!(demo.wait().code(), Some(0));
}

/// A node of a demonstration, as `status` has it.
fn node(status: &Value, id: u64) -> &Value {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == id).unwrap()
}

/// The node that leads most.
fn leader(status: &Value) -> u64 {
    let nodes = status["nodes"].as_array().unwrap();
    let leads = |node: &&Value| node["leads"].as_u64().unwrap_or_default();
    nodes.iter().max_by_key(leads).unwrap()["node"].as_u64().unwrap()
}

#[test]
fn a_node_with_a_slow_or_full_disk_leads_nothing_until_it_is_well() {
    let dir = scratch();
    let place = place(dir.path());
    let mut demo = Demo::start(&place);
    for (ails, is_well, word) in [
        ("slow-disk", "fast-disk", "slow"),
        ("full-disk", "free-disk", "full"),
    ] {
        demo.ask("wait");
        let ailing = leader(&demo.ask("status"));
        assert_eq!(
            demo.ask(&format!("{ails} {ailing}"))["done"],
            format!("{ails} {ailing}")
        );
        loop {
            let status = demo.ask("status");
            let seen = node(&status, ailing);
            if seen["disk"] == word && seen["leads"] == 0 {
                let verdict = seen["verdict"].as_str().unwrap();
                assert!(verdict.contains(&format!("the disk is {word}")), "{status:#}");
                break;
            }
            demo.say("sleep 0.2");
        }
        demo.ask("wait");
        demo.ask(&format!("{is_well} {ailing}"));
        while node(&demo.ask("status"), ailing)["disk"] != "ok" {
            demo.say("sleep 0.2");
        }
    }
    // Nobody has room: a put is refused, a deletion is not. With room again all goes on by itself.
    let run = |demo: &Demo, words: &[&str]| {
        let mut command = Command::new(CORELANE);
        command
            .args(words)
            .arg("--connect")
            .arg(demo.ready["connect"].as_str().unwrap());
        command.output().unwrap()
    };
    assert!(run(&demo, &["put", "fruit", "pear"]).status.success());
    for id in 1..=3 {
        demo.ask(&format!("full-disk {id}"));
    }
    while (1..=3).any(|id| node(&demo.ask("status"), id)["disk"] != "full") {
        demo.say("sleep 0.2");
    }
    let refused = run(&demo, &["put", "fruit", "plum", "--timeout", "2s"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("C4003"), "{said}");
    let deleted = run(&demo, &["del", "fruit"]);
    assert!(deleted.status.success(), "{deleted:?}");
    demo.ask("heal");
    demo.ask("wait");
    assert!(run(&demo, &["put", "fruit", "plum"]).status.success());
    demo.say("quit");
    let end = demo.answer();
    assert_eq!(end["read_at_end"], true, "{end:#}");
    assert_eq!(demo.wait().code(), Some(0));
}

#[test]
fn nodes_end_with_the_demonstration_however_it_ends() {
    let dir = scratch();
    let place = place(dir.path());
    let mut demo = Demo::start(&place);
    assert_eq!(demo.nodes().len(), 3);
    demo.ask("pause 2");
    demo.signal("-TERM");
    assert_eq!(demo.wait().code(), Some(128 + 15));
    assert_eq!(demo.nodes(), [0; 0]);
    assert!(is_empty(&place), "the data is removed");

    let mut demo = Demo::start(&place);
    demo.ask("pause 2");
    demo.signal("-KILL");
    demo.wait();
    // The kernel does that, in its own time.
    while !demo.nodes().is_empty() {
        assert!(demo.began.elapsed() < PATIENCE, "{:?}", demo.nodes());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!is_empty(&place), "nobody was there to remove the data");
}

#[test]
fn a_reader_that_goes_away_ends_it_in_order() {
    let dir = scratch();
    let place = place(dir.path());
    let mut command = Command::new(CORELANE);
    command
        .args(["demo", "-c", "wait", "-c", "wait"])
        .env("TMPDIR", &place);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(is_empty(&place), "the data is removed");
}

#[test]
fn money_from_nowhere_is_noticed() {
    let dir = scratch();
    let place = place(dir.path());
    let mut demo = Demo::start(&place);
    let mut put = Command::new(CORELANE);
    put.args(["put", "bank/00007", "123456789", "--connect"])
        .arg(demo.ready["connect"].as_str().unwrap());
    assert!(put.status().unwrap().success());
    assert_eq!(demo.wait().code(), Some(65));
    let said = std::fs::read_to_string(place.with_extension("stderr")).unwrap();
    assert!(said.contains("THE TOTAL OF THE BANK IS WRONG"), "{said}");
    assert_eq!(demo.nodes(), [0; 0]);
    assert!(!is_empty(&place), "the data is kept");
}
