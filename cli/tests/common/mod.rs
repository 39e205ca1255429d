//! A real node in a process of its own, and commands against it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub(crate) const CORELANE: &str = env!("CARGO_BIN_EXE_corelane");

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that goes away with the test.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("corelane-cli-")
        .tempdir()
        .unwrap()
}

/// A running node. Killed when dropped.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: String,
    data: PathBuf,
}

impl Node {
    /// Starts a node with two shards on `data` and waits until clients can connect.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_at(data, "127.0.0.1:0", &["--shards", "2"])
    }

    pub(crate) fn start_at(data: &Path, listen: &str, options: &[&str]) -> Self {
        let mut command = Command::new(CORELANE);
        command
            .args(["start", "--json", "--no-pin", "--stall-max", "60s", "--listen"])
            .args([listen, "--data"])
            .arg(data)
            .args(options);
        // A node that outlives a test must not hold the test's own output open.
        let log = data.with_extension("stderr");
        let stderr = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!(
                "no ready line but {line:?}: {error}\n{}",
                std::fs::read_to_string(&log).unwrap_or_default()
            )
        });
        assert_eq!(ready["event"], "ready");
        let address = ready["address"].as_str().unwrap().to_owned();
        Self {
            child,
            address,
            data: data.to_owned(),
        }
    }

    /// `kill -9`, then a new process on the same data and port.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        let next = Self::start_at(&self.data, &self.address, &["--shards", "2"]);
        *self = next;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has. Returns its exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let ended = wait(&mut self.child);
        ended.code().expect("it ended by itself, not by the signal")
    }

    /// A command against this node.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CORELANE);
        command
            .args(arguments)
            .env("CORELANE_CONNECT", &self.address)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments))
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
        ended.out
    }

    /// Runs a command with `input` on its standard input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &[u8]) -> Ended {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Input and output of these tests fit the pipes' buffers.
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ended::of(&child.wait_with_output().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already when the test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output
            .status
            .code()
            .unwrap_or_else(|| panic!("killed by a signal: {}", text(&output.stderr)));
        Self {
            code,
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Ended {
    /// What it said of its error: from the line that names the code. On a busy machine reports of stalls may stand before it.
    pub(crate) fn error(&self) -> &str {
        match self.err.find("\nerror[") {
            Some(at) if !self.err.starts_with("error[") => &self.err[at + 1..],
            Some(_) | None => &self.err,
        }
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Ended {
    Ended::of(&command.output().unwrap())
}

/// Runs the binary without a node.
pub(crate) fn corelane(arguments: &[&str]) -> Ended {
    let mut command = Command::new(CORELANE);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("CORELANE_CONNECT");
    finish(command)
}

/// Waits for a process, not for ever.
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "the process does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
