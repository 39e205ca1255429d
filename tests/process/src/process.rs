//! One node in a process of its own.

use anyhow::{Context as _, ensure};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long an ordered end may take.
const END_MAX: Duration = Duration::from_secs(60);

/// How to start a node.
#[derive(Debug, Clone)]
pub struct Program {
    /// The binary `corelane`, or one that behaves like it.
    pub binary: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Where it listens: `127.0.0.1:PORT`.
    pub listen: String,
    /// Further options of `start`.
    pub options: Vec<String>,
}

impl Program {
    /// Three nodes that begin a cluster, with a shard each, below a directory, on ports that are free now.
    ///
    /// # Errors
    /// No port can be had.
    pub fn trio(binary: &str, dir: &Path) -> anyhow::Result<Vec<Self>> {
        // Held until all are drawn, so that they differ.
        let held = [0; 3].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        let held: Vec<TcpListener> = held.into_iter().collect::<Result<_, _>>()?;
        let address = |listener: &TcpListener| Ok(listener.local_addr()?.to_string());
        let addresses: Vec<String> = held.iter().map(address).collect::<anyhow::Result<_>>()?;
        let list = format!("1={},2={},3={}", addresses[0], addresses[1], addresses[2]);
        let program = |(id, listen): (u32, String)| Self {
            binary: binary.into(),
            data: dir.join(format!("node-{id}")),
            listen,
            options: ["--shards", "1", "--node", &id.to_string(), "--cluster", &list]
                .map(str::to_owned)
                .to_vec(),
        };
        Ok((1..).zip(addresses).map(program).collect())
    }

    /// The command that starts the node.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // How long a turn takes here is the machine's affair, and a report of it costs memory.
        command.args(["start", "--json", "--no-pin", "--stall-max", "60s"]);
        command.args(["--listen", &self.listen, "--data"]);
        command.arg(&self.data).args(&self.options).stdin(Stdio::null());
        command
    }

    /// Starts the node without waiting for anything. What it says on standard error is appended to `DATA.stderr`.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn spawn(&self) -> anyhow::Result<Node> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.stderr())?;
        let child = self.command().stdout(Stdio::piped()).stderr(log).spawn();
        let child = child.with_context(|| format!("cannot run {}", self.binary.display()))?;
        Ok(Node {
            child,
            address: self.listen.clone(),
        })
    }

    /// Starts the node and waits until clients can connect.
    ///
    /// # Errors
    /// It ended instead: the error has what it said.
    pub fn start(&self) -> anyhow::Result<Node> {
        let mut node = self.spawn()?;
        let mut line = String::new();
        BufReader::new(node.child.stdout.take().context("its output is a pipe")?).read_line(&mut line)?;
        let said = || std::fs::read_to_string(self.stderr()).unwrap_or_default();
        let ready: serde_json::Value = serde_json::from_str(&line)
            .with_context(|| format!("the node does not start: {line}{}", said()))?;
        node.address = ready["address"]
            .as_str()
            .context("a ready line has an address")?
            .to_owned();
        Ok(node)
    }

    /// Runs another command of the binary, without a node, to its end.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(Command::new(&self.binary)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?)
    }

    /// The file that takes the node's standard error.
    fn stderr(&self) -> PathBuf {
        self.data.with_extension("stderr")
    }
}

/// A running node. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Node {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// It had ended by itself: a node that stops under load has failed.
    pub fn kill(mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(
            ended.is_none(),
            "the node ended by itself before it was killed: {ended:?}"
        );
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, waits until it has, and returns its exit code.
    ///
    /// # Errors
    /// It does not end, or was ended by a signal.
    pub fn terminate(mut self) -> anyhow::Result<i32> {
        let pid = self.pid().to_string();
        ensure!(
            Command::new("kill").args(["-TERM", &pid]).status()?.success(),
            "kill -TERM {pid}"
        );
        let began = Instant::now();
        while began.elapsed() < END_MAX {
            if let Some(status) = self.child.try_wait()? {
                return status
                    .code()
                    .with_context(|| format!("ended by a signal: {status}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("the node does not end within {END_MAX:?}")
    }

    /// Bytes of memory that it has in use now.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut text = String::new();
        let path = Path::new("/proc").join(self.pid().to_string()).join("status");
        std::fs::File::open(path)?.read_to_string(&mut text)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS is there")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already when it was killed or has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
