//! Rounds: a cluster under a load that writes a history, one fault, and a checker.
//!
//! ```text
//!   bench register|append ──────────────────────────────────────────► history ─► checker
//!   start ── quiet ── fault: kill, pause, cut or kill two ── heal ── load goes on, then ends
//! ```
//!
//! A round is drawn from the seed and its number alone, so that one can be run again; what the machine's timing does to it is
//! not drawn. The nodes keep their data from round to round; each round has keys of its own.
//!
//! A fault counts when it was seen: the process ended by signal 9, was stopped, or did not reach the other node.

use crate::history::{Anomaly, append, bank, operation, register};
use crate::network::Network;
use crate::process::Program;
use anyhow::{Context as _, bail, ensure};
use base::Prng;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nodes of the cluster.
const NODES: usize = 3;
/// Load after the fault has been healed.
const AFTER: Duration = Duration::from_millis(2000);
/// How long one operation may take.
const OPERATION_MAX: Duration = Duration::from_secs(2);
/// How long a load may outlive its duration, and a node may take to start or to serve.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keys of a round, or accounts.
const KEYS: usize = 4;

/// What is done to nodes, which are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill(usize),
    KillTwo(usize, usize),
    Pause(usize),
    CutOne(usize),
    CutPair(usize, usize),
}

impl Fault {
    fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::KillTwo(..) => "kill two",
            Self::Pause(_) => "pause",
            Self::CutOne(_) => "cut one",
            Self::CutPair(..) => "cut pair",
        }
    }

    fn nodes(self) -> Vec<usize> {
        match self {
            Self::Kill(node) | Self::Pause(node) | Self::CutOne(node) => vec![node],
            Self::KillTwo(one, other) | Self::CutPair(one, other) => vec![one, other],
        }
    }

    fn cuts(self) -> Vec<(usize, usize)> {
        match self {
            Self::Kill(_) | Self::KillTwo(..) | Self::Pause(_) => Vec::new(),
            Self::CutOne(node) => (1..=NODES)
                .filter(|other| *other != node)
                .map(|other| (node, other))
                .collect(),
            Self::CutPair(one, other) => vec![(one, other)],
        }
    }
}

/// What a round does.
#[derive(Debug, Clone)]
struct Plan {
    workload: String,
    fault: Fault,
    before: Duration,
    held: Duration,
    seed: u64,
}

impl Plan {
    fn draw(seed: u64, round: u64, workloads: &[String]) -> Self {
        // Neighbouring seeds and rounds must have nothing in common: one draw lies between them and the generator.
        let first = Prng::new(seed).next_u64();
        let mut prng = Prng::new(Prng::new(first.wrapping_add(round)).next_u64());
        let mut nodes: Vec<usize> = (1..=NODES).collect();
        prng.shuffle(&mut nodes);
        let (one, other) = (nodes[0], nodes[1]);
        let fault = match prng.below(5) {
            0 => Fault::Kill(one),
            1 => Fault::KillTwo(one, other),
            2 => Fault::Pause(one),
            3 => Fault::CutOne(one),
            _ => Fault::CutPair(one, other),
        };
        let held_ms = match fault {
            Fault::Kill(_) | Fault::KillTwo(..) => (0, 1000),
            Fault::Pause(_) => (200, 3000),
            Fault::CutOne(_) | Fault::CutPair(..) => (500, 3000),
        };
        let turn = usize::try_from(round % workloads.len() as u64).expect("below a usize");
        Self {
            workload: workloads[turn].clone(),
            fault,
            before: Duration::from_millis(prng.between(300, 800)),
            held: Duration::from_millis(prng.between(held_ms.0, held_ms.1)),
            seed: prng.next_u64() >> 1,
        }
    }
}

/// What to do.
#[derive(Debug)]
pub struct Rounds {
    /// The binary `corelane`.
    pub binary: PathBuf,
    /// Where nodes keep their data and histories are written.
    pub scratch: PathBuf,
    /// Between the nodes.
    pub network: Network,
    /// Decides faults and operations.
    pub seed: u64,
    /// The number of the first round.
    pub first: u64,
    /// How many.
    pub rounds: u64,
    /// `register`, `append` and `bank`, in turn.
    pub workloads: Vec<String>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Summary {
    /// Rounds whose history was checked.
    pub rounds: u64,
    /// Faults that were seen to have their effect, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Operations that succeeded, definitely failed, and had an unknown outcome.
    pub outcomes: [u64; 3],
    /// The longest time without a success, by kind of fault.
    pub gap_ms_max: BTreeMap<&'static str, u64>,
    /// The numbers of the rounds with anomalies.
    pub failed: Vec<u64>,
}

impl Summary {
    /// All of it, for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "verdict": if self.failed.is_empty() { "ok" } else { "anomalies" },
            "rounds": self.rounds, "faults": self.faults, "gap_ms_max": self.gap_ms_max, "failed_rounds": self.failed,
            "ok": self.outcomes[0], "fail": self.outcomes[1], "info": self.outcomes[2],
        })
    }
}

/// A node of the cluster, running or not. Killed when dropped.
struct Member {
    command: Command,
    stderr: PathBuf,
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Gone already when it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Member {
    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.stderr)?;
        let command = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        self.child = Some(command.spawn().context("cannot run the node")?);
        Ok(())
    }

    fn child(&mut self) -> anyhow::Result<&mut Child> {
        self.child.as_mut().context("the node runs")
    }

    /// Waits for the line that says that clients can connect.
    fn ready(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        let out = self.child()?.stdout.take().context("its output is a pipe")?;
        BufReader::new(out).read_line(&mut line)?;
        ensure!(
            line.starts_with('{'),
            "the node does not start: {line}{}",
            self.said()
        );
        Ok(())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.check()?;
        let mut child = self.child.take().context("the node runs")?;
        child.kill()?;
        let status = child.wait()?;
        ensure!(status.signal() == Some(9), "the node ended otherwise: {status}");
        Ok(())
    }

    fn signal(&mut self, name: &str) -> anyhow::Result<()> {
        let pid = self.child()?.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status()?;
        ensure!(status.success(), "kill {name} {pid}: {status}");
        Ok(())
    }

    fn is_stopped(&mut self) -> anyhow::Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child()?.id()))?;
        // The state stands behind the name, which is in parentheses.
        Ok(stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T')))
    }

    /// It must not end by itself.
    fn check(&mut self) -> anyhow::Result<()> {
        let ended = self.child()?.try_wait()?;
        ensure!(
            ended.is_none(),
            "a node ended by itself: {ended:?}\n{}",
            self.said()
        );
        Ok(())
    }
}

/// A load under way. Killed when dropped.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // Gone already when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Rounds {
    /// Runs all rounds, or until the first that shows an anomaly. `progress` is told a line of each, and of its beginning by
    /// `begins`.
    ///
    /// # Errors
    /// A node does not start, ends by itself, or does not serve again after a fault; a load does not end; the system refuses
    /// a fault.
    pub fn run(&self, begins: impl Fn(u64), progress: impl Fn(&str)) -> anyhow::Result<Summary> {
        ensure!(!self.workloads.is_empty(), "a workload is needed");
        begins(self.first);
        let mut members: Vec<Member> = (1..=NODES).map(|node| self.member(node)).collect();
        members.iter_mut().try_for_each(Member::spawn)?;
        members.iter_mut().try_for_each(Member::ready)?;
        let mut summary = Summary::default();
        for round in self.first..self.first + self.rounds {
            begins(round);
            self.serves().with_context(|| format!("before round {round}"))?;
            let plan = Plan::draw(self.seed, round, &self.workloads);
            let anomalies = self
                .round(round, &plan, &mut members, &mut summary, &progress)
                .with_context(|| format!("round {round}, {plan:?}"))?;
            for anomaly in &anomalies {
                progress(&format!("  {anomaly}"));
            }
            summary.rounds += 1;
            if !anomalies.is_empty() {
                summary.failed.push(round);
                break;
            }
        }
        Ok(summary)
    }

    fn member(&self, node: usize) -> Member {
        let list: Vec<_> = (1..=NODES)
            .map(|other| {
                let address = self.network.address(other);
                if other == node {
                    format!("{other}={address}")
                } else {
                    format!("{other}={address}@{}", self.network.peer_address(node, other))
                }
            })
            .collect();
        let (number, list) = (node.to_string(), list.join(","));
        // Small limits, so that flushes and recycled segments happen too.
        let mut options = vec![
            "--shards",
            "1",
            "--memory",
            "2MiB",
            "--cache",
            "2MiB",
            "--log-max",
            "4MiB",
        ];
        options.extend(["--node", &number, "--cluster", &list]);
        options.extend(self.network.options());
        let program = Program {
            binary: self.binary.clone(),
            data: self.scratch.join(format!("node-{node}")),
            listen: self.network.listen(node),
            options: options.into_iter().map(str::to_owned).collect(),
        };
        Member {
            command: self.network.placed(node, &program.command()),
            stderr: self.scratch.join(format!("node-{node}.stderr")),
            child: None,
        }
    }

    fn addresses(&self) -> String {
        let all: Vec<_> = (1..=NODES).map(|node| self.network.address(node)).collect();
        all.join(",")
    }

    /// Waits until each node by itself, asked for nothing but its own address, gets a write done.
    fn serves(&self) -> anyhow::Result<()> {
        for node in 1..=NODES {
            let began = Instant::now();
            let address = self.network.address(node);
            loop {
                let mut put = Command::new(&self.binary);
                put.args(["put", "serves", "yes", "--timeout", "2s", "--connect", &address]);
                let output = put.stdin(Stdio::null()).output()?;
                if output.status.success() {
                    break;
                }
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(
                    began.elapsed() < PATIENCE,
                    "node {node} does not serve within {PATIENCE:?}: {said}"
                );
            }
        }
        Ok(())
    }

    fn round(
        &self,
        round: u64,
        plan: &Plan,
        members: &mut [Member],
        summary: &mut Summary,
        progress: &impl Fn(&str),
    ) -> anyhow::Result<Vec<Anomaly>> {
        let history = self.scratch.join(format!("round-{round}.edn"));
        let duration = plan.before + plan.held + AFTER;
        let mut load = self.load(round, plan, duration, &history)?;
        wait_for(|| Ok(std::fs::metadata(&history).is_ok_and(|file| file.len() > 0)))
            .context("the load does not begin")?;
        std::thread::sleep(plan.before);
        self.fault(plan, members)?;
        *summary.faults.entry(plan.fault.kind()).or_default() += 1;
        let mut status = None;
        wait_for(|| {
            status = load.0.try_wait()?;
            Ok(status.is_some())
        })
        .context("the load does not end")?;
        ensure!(
            status.is_some_and(|status| status.success()),
            "the load failed: {status:?}"
        );
        members.iter_mut().try_for_each(Member::check)?;

        let text = std::fs::read_to_string(&history)?;
        let operations = operation::read(&text)?;
        let anomalies = match plan.workload.as_str() {
            "register" => register::check(&operations)?,
            "append" => append::check(&operations)?,
            "bank" => bank::check(&operations, KEYS)?,
            other => bail!("there is no workload {other}"),
        };
        let counts = [
            operation::Outcome::Ok,
            operation::Outcome::Fail,
            operation::Outcome::Info,
        ]
        .map(|outcome| {
            operations
                .iter()
                .filter(|operation| operation.outcome == outcome)
                .count()
        });
        ensure!(counts[0] > 0, "no operation succeeded");
        for (sum, count) in summary.outcomes.iter_mut().zip(counts) {
            *sum += count as u64;
        }
        let gap = gap_ms_max(&operations);
        let longest = summary.gap_ms_max.entry(plan.fault.kind()).or_default();
        *longest = gap.max(*longest);
        let nodes = plan.fault.nodes();
        progress(&format!(
            "round {round}: {}, {} {nodes:?} for {} ms: {} ok, {} fail, {} info, longest gap {gap} ms, {} anomalies",
            plan.workload,
            plan.fault.kind(),
            plan.held.as_millis(),
            counts[0],
            counts[1],
            counts[2],
            anomalies.len(),
        ));
        if anomalies.is_empty() {
            std::fs::remove_file(&history)?;
        }
        Ok(anomalies)
    }

    fn load(&self, round: u64, plan: &Plan, duration: Duration, history: &Path) -> anyhow::Result<Load> {
        let mut bench = Command::new(&self.binary);
        let (keys, seed, prefix) = (KEYS.to_string(), plan.seed.to_string(), format!("round-{round}/"));
        let duration = format!("{}ms", duration.as_millis());
        let timeout = format!("{}ms", OPERATION_MAX.as_millis());
        bench.args([
            "bench",
            &plan.workload,
            "--clients",
            "6",
            "--rate",
            "150",
            "--keys",
            &keys,
        ]);
        bench.args([
            "--seed",
            &seed,
            "--prefix",
            &prefix,
            "--duration",
            &duration,
            "--timeout",
            &timeout,
        ]);
        bench
            .args(["--connect", &self.addresses(), "--history"])
            .arg(history);
        // What it says of errors goes where ours goes; its summary is read from the history.
        bench.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Load(bench.spawn().context("cannot run the load")?))
    }

    /// Does what the plan says, makes sure that it had its effect, and undoes it.
    fn fault(&self, plan: &Plan, members: &mut [Member]) -> anyhow::Result<()> {
        let began = Instant::now();
        let hold = || std::thread::sleep(plan.held.saturating_sub(began.elapsed()));
        match plan.fault {
            Fault::Kill(_) | Fault::KillTwo(..) => {
                for node in plan.fault.nodes() {
                    members[node - 1].kill()?;
                }
                hold();
                for node in plan.fault.nodes() {
                    members[node - 1].spawn()?;
                }
                for node in plan.fault.nodes() {
                    members[node - 1].ready()?;
                }
            }
            Fault::Pause(node) => {
                let member = &mut members[node - 1];
                member.signal("-STOP")?;
                let stopped = wait_for(|| member.is_stopped());
                hold();
                member.signal("-CONT")?;
                stopped.context("a node does not stop")?;
            }
            Fault::CutOne(_) | Fault::CutPair(..) => {
                for (one, other) in plan.fault.cuts() {
                    self.network.set_cut(one, other, true)?;
                }
                let mut reached = None;
                for (one, other) in plan.fault.cuts() {
                    if self.reaches(one, other)? {
                        reached = Some((one, other));
                    }
                }
                hold();
                for (one, other) in plan.fault.cuts() {
                    self.network.set_cut(one, other, false)?;
                }
                ensure!(reached.is_none(), "{reached:?} are cut and reach each other");
            }
        }
        Ok(())
    }

    /// Whether a connection from where one node is gets an answer from another, within 150 ms.
    fn reaches(&self, from: usize, to: usize) -> anyhow::Result<bool> {
        let mut get = Command::new(&self.binary);
        let address = self.network.peer_address(from, to);
        get.args(["status", "--timeout", "150ms", "--connect", &address]);
        let output = self.network.placed(from, &get).stdin(Stdio::null()).output()?;
        Ok(output.status.success())
    }
}

fn wait_for(mut is_there: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_there()? {
        ensure!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The longest time without a success, from the start to the last end.
fn gap_ms_max(operations: &[operation::Operation]) -> u64 {
    let mut ends: Vec<_> = operations
        .iter()
        .filter_map(|operation| Some((operation.ended_ns?, operation.outcome)))
        .collect();
    ends.sort_unstable_by_key(|(time, _)| *time);
    let (mut succeeded, mut gap) = (0, 0);
    for (time, outcome) in ends {
        gap = gap.max(time - succeeded);
        if outcome == operation::Outcome::Ok {
            succeeded = time;
        }
    }
    u64::try_from(gap / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_drawn_from_seed_and_number() {
        let workloads = ["register".to_owned(), "append".to_owned()];
        let draw = |seed, round| Plan::draw(seed, round, &workloads);
        assert_eq!(format!("{:?}", draw(1, 7)), format!("{:?}", draw(1, 7)));
        assert_ne!(format!("{:?}", draw(1, 7)), format!("{:?}", draw(2, 7)));
        assert_eq!(
            (draw(1, 6).workload, draw(1, 7).workload),
            ("register".into(), "append".into())
        );
        let mut kinds: Vec<_> = (0..100).map(|round| draw(1, round).fault.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 5);
        assert_eq!(Fault::CutOne(2).cuts(), [(2, 1), (2, 3)]);
    }
}
