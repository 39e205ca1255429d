//! Runs the commands that README.md and docs/tour.md show, and compares what they print with what is shown there.
//!
//! In blocks marked `console`, a line `$ command` is run by `sh`; the lines below it are its output, standard error behind
//! standard output; `…` stands for anything to the end of the line or to the text behind it; `[exit N]` is the exit code.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use common::{CORELANE, Node, scratch};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    match pattern.split_once('…') {
        None => pattern == line,
        Some((before, after)) => {
            line.starts_with(before) && line.len() >= before.len() && line.ends_with(after)
        }
    }
}

#[test]
fn patterns_fit_what_they_should() {
    assert!(fits("a …\nb\n", "a 17 s\nb\n"));
    assert!(fits("{…}\n", "{\"x\":1}"));
    assert!(!fits("a\n", "a\nb\n"));
    assert!(!fits("a\n", "b\n"));
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
    let dir = scratch();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(CORELANE, bin.join("corelane")).unwrap();
    let node = Node::start(&dir.path().join("corelane-data"));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for Shown {
        line,
        command,
        output,
    } in commands
    {
        // The node is there already, on a port of its own.
        if command.starts_with("corelane start") {
            continue;
        }
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &command])
            .current_dir(dir.path())
            .env("PATH", &path);
        let ended = shell
            .env("CORELANE_CONNECT", &node.address)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let mut printed =
            String::from_utf8(ended.stdout).unwrap() + &String::from_utf8(ended.stderr).unwrap();
        if let Some(code) = ended.status.code().filter(|&code| code != 0) {
            let _ = writeln!(printed, "[exit {code}]");
        }
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
