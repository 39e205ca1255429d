//! The nodes of a demonstration: processes of this program, `corelane start`.
//!
//! They are started by the main thread: the kernel kills them when the thread that started them is gone, however it ends.

use crate::command::demo::command::Disk;
use crate::error::{CliError, Exit};
use base::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wire::Code;

/// How long a node may take to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long an ordered end may take; then the node is killed.
const END_MAX: Duration = Duration::from_secs(5);
/// Variables that would tell a node what its command line does not.
const VARIABLES: [&str; 8] = [
    "CORELANE_DATA",
    "CORELANE_LISTEN",
    "CORELANE_SHARDS",
    "CORELANE_NODE",
    "CORELANE_CLUSTER",
    "CORELANE_JOIN",
    "CORELANE_CLUSTER_NAME",
    "CORELANE_CONNECT",
];

/// How a node is, as its process is seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Up,
    Paused,
    /// By command.
    Killed,
    /// By itself: it has failed.
    Ended(ExitStatus),
}

impl State {
    fn is_down(self) -> bool {
        matches!(self, Self::Killed | Self::Ended(_))
    }

    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Paused => "paused",
            Self::Killed => "killed",
            Self::Ended(_) => "ended",
        }
    }
}

/// What a disk pretends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pretended {
    is_slow: bool,
    is_full: bool,
}

/// How much longer a log write takes on a slow disk.
const SLOW_MS: u64 = 400;
/// What is kept free of a node's disk, and what a full one has left.
pub(crate) const RESERVE_BYTES: u64 = 64 << 20;
const LEFT_BYTES: u64 = RESERVE_BYTES / 2;

/// A node and its process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Where clients reach it.
    pub(crate) address: SocketAddr,
    /// What it says.
    log: PathBuf,
    /// The file by which its disk is told what to pretend, and what that is.
    faults: PathBuf,
    disk: Pretended,
    arguments: Vec<OsString>,
    child: Option<Child>,
    state: State,
}

/// Says when the node is ready.
#[derive(Debug)]
struct Starting {
    id: NodeId,
    ready: Receiver<()>,
}

impl Node {
    /// A node that is not running; `dir` has its data and what it says.
    pub(crate) fn new(id: NodeId, address: SocketAddr, dir: &Path, arguments: Vec<OsString>) -> Self {
        Self {
            id,
            address,
            log: dir.join(format!("node-{}.log", id.0)),
            faults: dir.join(format!("node-{}", id.0)).join("FAULTS"),
            disk: Pretended::default(),
            arguments,
            child: None,
            state: State::Killed,
        }
    }

    fn spawn(&mut self) -> Result<Starting, CliError> {
        let failed = |what: &'static str| {
            move |error: std::io::Error| {
                CliError::new(Code::Internal.number(), Exit::Io, what).cause(error.to_string())
            }
        };
        let program = std::env::current_exe().map_err(failed("this program does not find itself"))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| CliError::file("cannot write what a node says", &self.log, &error))?;
        let mut command = Command::new(program);
        command.args(&self.arguments);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        // A group of its own: Ctrl-C is for this process.
        command.process_group(0).stdin(Stdio::null()).stderr(log);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed("a node cannot be started"))?;
        let (ready, is_ready) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::Builder::new()
                .name("node output".into())
                .spawn(move || hear(out, &ready))
                .map_err(failed("a node cannot be heard"))?;
        }
        self.child = Some(child);
        self.state = State::Up;
        Ok(Starting {
            id: self.id,
            ready: is_ready,
        })
    }

    fn signal(&self, signal: Signal) -> Result<(), CliError> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        kill_process(Pid::from_child(child), signal).map_err(|error| {
            CliError::new(
                Code::Internal.number(),
                Exit::Io,
                format!("node {} cannot be sent a signal", self.id.0),
            )
            .cause(error.to_string())
        })
    }

    /// Looks whether it has ended by itself.
    fn look(&mut self) -> State {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            self.child = None;
            self.state = State::Ended(status);
        }
        self.state
    }

    /// Tells the disk what to pretend from now on.
    fn pretend(&mut self, disk: Pretended) -> Result<(), CliError> {
        let mut text = String::new();
        if disk.is_slow {
            text.push_str(&format!("delay {SLOW_MS}\n"));
        }
        if disk.is_full {
            text.push_str(&format!("free {LEFT_BYTES}\n"));
        }
        std::fs::write(&self.faults, text)
            .map_err(|error| CliError::file("a disk cannot be told what to pretend", &self.faults, &error))?;
        self.disk = disk;
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already when it has just ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.state = State::Killed;
    }

    /// The last lines that it said.
    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

/// Says when the ready line comes, and reads on, so that the node is never held up by what it says.
fn hear(out: impl std::io::Read, ready: &Sender<()>) {
    for line in BufReader::new(out).lines() {
        match line {
            // Nobody waits any more for a node that is killed at once.
            Ok(_) => drop(ready.send(())),
            Err(_) => return,
        }
    }
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Nodes(Mutex<Vec<Node>>);

impl Nodes {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        Self(Mutex::new(nodes))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a node that is in one of `states`.
    fn on<T>(
        &self,
        id: NodeId,
        wanted: &str,
        is_wanted: impl Fn(State) -> bool,
        work: impl FnOnce(&mut Node) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let mut nodes = self.lock();
        let node = nodes
            .iter_mut()
            .find(|node| node.id == id)
            .ok_or_else(|| CliError::usage(format!("there is no node {}", id.0)))?;
        let state = node.look();
        if !is_wanted(state) {
            return Err(CliError::usage(format!(
                "node {} is {}, not {wanted}",
                id.0,
                state.word()
            )));
        }
        work(node)
    }

    /// Starts a node that does not run, and waits until it is ready. The main thread does this: see above.
    ///
    /// # Errors
    /// It runs, or cannot.
    pub(crate) fn start(&self, id: NodeId) -> Result<(), CliError> {
        let starting = self.on(id, "killed", State::is_down, Node::spawn)?;
        self.wait_ready(&starting)
    }

    /// Starts all nodes that do not run, and waits until they are ready.
    ///
    /// # Errors
    /// One of them cannot.
    pub(crate) fn start_down(&self) -> Result<(), CliError> {
        let down = self.states().into_iter().filter(|(.., state)| state.is_down());
        let starting = down
            .map(|(id, ..)| self.on(id, "killed", State::is_down, Node::spawn))
            .collect::<Result<Vec<_>, _>>()?;
        starting.iter().try_for_each(|starting| self.wait_ready(starting))
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// It has ended instead, or takes too long.
    fn wait_ready(&self, starting: &Starting) -> Result<(), CliError> {
        let began = Instant::now();
        loop {
            match starting.ready.recv_timeout(Duration::from_millis(50)) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if began.elapsed() < READY_MAX => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let nodes = self.lock();
                    let node = nodes.iter().find(|node| node.id == starting.id);
                    let words = node.map(Node::last_words).unwrap_or_default();
                    return Err(CliError::new(
                        Code::Unavailable.number(),
                        Exit::Unavailable,
                        format!("node {} does not start", starting.id.0),
                    )
                    .cause(words)
                    .help("`corelane doctor` examines this machine"));
                }
            }
        }
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn kill(&self, id: NodeId) -> Result<(), CliError> {
        let runs = |state| matches!(state, State::Up | State::Paused);
        self.on(id, "up", runs, |node| {
            node.kill();
            Ok(())
        })
    }

    /// Stops a process where it stands.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn pause(&self, id: NodeId) -> Result<(), CliError> {
        self.on(
            id,
            "up",
            |state| state == State::Up,
            |node| {
                node.signal(Signal::STOP)?;
                node.state = State::Paused;
                Ok(())
            },
        )
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is not paused.
    pub(crate) fn resume(&self, id: NodeId) -> Result<(), CliError> {
        self.on(
            id,
            "paused",
            |state| state == State::Paused,
            |node| {
                node.signal(Signal::CONT)?;
                node.state = State::Up;
                Ok(())
            },
        )
    }

    /// Changes what the disk of a node pretends, whether that runs or not.
    ///
    /// # Errors
    /// It pretends so already, or cannot be told.
    pub(crate) fn set_disk(&self, id: NodeId, change: Disk) -> Result<(), CliError> {
        self.on(
            id,
            "there",
            |_| true,
            |node| {
                let disk = match change {
                    Disk::Slow(is_slow) => Pretended { is_slow, ..node.disk },
                    Disk::Full(is_full) => Pretended { is_full, ..node.disk },
                };
                if disk == node.disk {
                    return Err(CliError::usage(format!(
                        "the disk of node {} is so already",
                        id.0
                    )));
                }
                node.pretend(disk)
            },
        )
    }

    /// Lets all disks be as they are.
    ///
    /// # Errors
    /// One cannot be told.
    pub(crate) fn heal_disks(&self) -> Result<(), CliError> {
        let mut nodes = self.lock();
        let mut ailing = nodes.iter_mut().filter(|node| node.disk != Pretended::default());
        ailing.try_for_each(|node| node.pretend(Pretended::default()))
    }

    /// The nodes, where clients reach them, and how they are.
    pub(crate) fn states(&self) -> Vec<(NodeId, SocketAddr, State)> {
        let mut nodes = self.lock();
        nodes
            .iter_mut()
            .map(|node| (node.id, node.address, node.look()))
            .collect()
    }

    /// The processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let nodes = self.lock();
        let children = nodes.iter().filter_map(|node| node.child.as_ref());
        children.map(Child::id).collect()
    }

    /// Lets all nodes go on that are paused.
    pub(crate) fn resume_all(&self) {
        for (id, _, state) in self.states() {
            if state == State::Paused {
                // It may have ended meanwhile.
                let _ = self.resume(id);
            }
        }
    }

    /// Ends all nodes: in order, and those that do not end in time at once.
    pub(crate) fn end_all(&self) {
        let mut nodes = self.lock();
        for node in nodes.iter_mut() {
            // One that ends just now needs neither.
            let _ = node.signal(Signal::TERM);
            let _ = node.signal(Signal::CONT);
        }
        let began = Instant::now();
        while nodes
            .iter_mut()
            .any(|node| matches!(node.look(), State::Up | State::Paused))
            && began.elapsed() < END_MAX
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        nodes.iter_mut().for_each(Node::kill);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.lock().iter_mut().for_each(Node::kill);
    }
}
