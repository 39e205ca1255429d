//! Runs the commands that README.md and docs/tour.md show, and compares what they print with what is shown there.
//!
//! In blocks marked `console`, a line `$ command` is run by `sh`; the lines below it are its output, standard error behind
//! standard output; `…` stands for anything to the end of the line or to the text behind it; `[exit N]` is the exit code.
//! Nodes of a cluster are started as shown, on other ports than those shown; what `status` says of them may take a moment.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use common::{CORELANE, Node, scratch};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A command and what is shown below it.
struct Shown {
    line: usize,
    command: String,
    output: String,
}

fn shown(text: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            if let Some(command) = line.strip_prefix("$ ") {
                found.push(Shown {
                    line: at + 1,
                    command: command.to_owned(),
                    output: String::new(),
                });
            } else if let Some(last) = found.last_mut() {
                let _ = writeln!(last.output, "{line}");
            }
        }
    }
    found
}

/// Whether `text` is what `pattern` shows: line by line, `…` for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let lines = |text: &str| {
        text.lines()
            .map(str::trim_end)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (patterns, lines) = (lines(pattern), lines(text));
    patterns.len() == lines.len()
        && patterns
            .iter()
            .zip(&lines)
            .all(|(pattern, line)| line_fits(pattern, line))
}

fn line_fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn patterns_fit_what_they_should() {
    assert!(fits("a …\nb\n", "a 17 s\nb\n"));
    assert!(fits("{…}\n", "{\"x\":1}"));
    assert!(!fits("a\n", "a\nb\n"));
    assert!(!fits("a\n", "b\n"));
    assert!(fits("a … b … c", "a 1 b 2 b 3 c"));
    assert!(!fits("a … b … c", "a 1 b c"));
}

/// Where documents start the nodes of a cluster, and those of a demonstration.
const PORTS: [u16; 7] = [7401, 7402, 7403, 7404, 7400, 7500, 7600];
/// How long a cluster may take to look as shown.
const PATIENCE: Duration = Duration::from_secs(30);

/// What runs the commands of one document: a directory, a node that is there already, and the nodes that it starts.
struct Reader {
    dir: tempfile::TempDir,
    path: String,
    node: Node,
    started: Vec<Child>,
    /// Free ports in place of those shown, with as many digits, so that tables keep their columns.
    ports: Vec<(String, String)>,
    demo_port: u16,
}

/// Ports for [`PORTS`], of which the last three are a hundred apart from each other.
fn free_ports() -> [u16; 7] {
    static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap();
    let first = 3000 + u16::try_from(std::process::id() % 5000).unwrap();
    let free = |at: &u16, port: u16| {
        !taken.contains(&(at + port)) && TcpListener::bind(("127.0.0.1", at + port)).is_ok()
    };
    let offsets = [1, 2, 3, 4, 0, 100, 200];
    let at = (first..9799)
        .find(|at| offsets.iter().all(|&offset| free(at, offset)))
        .unwrap();
    let ports = offsets.map(|offset| at + offset);
    taken.extend(ports);
    ports
}

impl Reader {
    fn new() -> Self {
        let dir = scratch();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(CORELANE, bin.join("corelane")).unwrap();
        let node = Node::start(&dir.path().join("corelane-data"));
        let ports = free_ports();
        let told = |port: u16| format!("127.0.0.1:{port}");
        Self {
            path: format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
            node,
            started: Vec::new(),
            demo_port: ports[4],
            ports: PORTS.map(told).into_iter().zip(ports.map(told)).collect(),
            dir,
        }
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .current_dir(self.dir.path())
            .env("PATH", &self.path)
            .env("CORELANE_CONNECT", &self.node.address)
            .env("CORELANE_SHARDS", "2")
            .stdin(Stdio::null());
        shell
    }

    /// Runs a command to its end, and returns what it printed.
    fn run(&self, command: &str) -> String {
        let ended = self.shell(command).output().unwrap();
        let mut printed =
            String::from_utf8(ended.stdout).unwrap() + &String::from_utf8(ended.stderr).unwrap();
        if let Some(code) = ended.status.code().filter(|&code| code != 0) {
            let _ = writeln!(printed, "[exit {code}]");
        }
        printed
    }

    /// Starts a node, and returns its ready line.
    fn start(&mut self, command: &str) -> String {
        let command = format!("exec {} --no-pin --stall-max 60s", command.trim_end_matches('&'));
        let mut child = self.shell(&command).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        self.started.push(child);
        out.read_line(&mut line).unwrap();
        line
    }

    /// Does what a document shows, and says what was printed.
    fn follow(&mut self, shown: &Shown) -> String {
        let demo = format!("corelane demo --port-base {}", self.demo_port);
        let mut command = shown.command.replace("corelane demo", &demo);
        for (shown, port) in &self.ports {
            command = command.replace(shown, port);
        }
        let began = Instant::now();
        loop {
            let mut printed = if command.starts_with("corelane start") {
                self.start(&command)
            } else {
                self.run(&command)
            };
            for (shown, port) in &self.ports {
                printed = printed.replace(port, shown);
            }
            let settles = command.starts_with("corelane status");
            if !settles || fits(&shown.output, &printed) || began.elapsed() > PATIENCE {
                return printed;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.started {
            // Gone already when it failed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn follow(document: &str) {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let commands = shown(&text);
    assert!(
        commands.len() >= 5,
        "{document} shows only {} commands",
        commands.len()
    );
    let mut reader = Reader::new();
    for shown in commands {
        // The node is there already, on a port of its own.
        if shown.command == "corelane start &" {
            continue;
        }
        let printed = reader.follow(&shown);
        let Shown {
            line,
            command,
            output,
        } = shown;
        assert!(
            fits(&output, &printed),
            "{document}:{line}: $ {command}\nshown:\n{output}\nprinted:\n{printed}"
        );
    }
}

#[test]
fn the_readme_shows_what_happens() {
    follow("README.md");
}

#[test]
fn the_tour_shows_what_happens() {
    follow("docs/tour.md");
}

#[test]
fn the_quickstart_runs() {
    let dir = scratch();
    let data = dir.path().join("list.tsv");
    let lines: String = (0..2000).map(|n| format!("name-{n:04}\tvalue {n}\n")).collect();
    fs::write(&data, lines).unwrap();
    let mut script = Command::new("bash");
    script
        .arg(repository().join("examples/quickstart.sh"))
        .arg(&data)
        .env("CORELANE", CORELANE)
        .env_remove("CORELANE_CONNECT");
    let ended = common::finish(script);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("the same, byte for byte"), "{}", ended.out);
    assert_eq!(
        ended.out.matches("2,000\n").count(),
        2,
        "counted before and after the crash: {}",
        ended.out
    );
}
