//! Rounds: a cluster under a load that writes a history, one fault, and a checker.
//!
//! ```text
//!   bench register|append|bank ─────────────────────────────────────► history ─► checker
//!   start ── quiet ── fault: kill, pause, cut, clock ─────── heal ── load goes on, then ends
//! ```
//!
//! A round is drawn from the seed and its number alone, so that one can be run again; what the machine's timing does to it is
//! not drawn. The nodes keep their data from round to round; each round has keys of its own.
//!
//! A fault counts when it was seen: the process ended by signal 9, was stopped, or did not reach the other node; another program
//! saw the clock jump, or the node stopped itself because of it.

use crate::faketime::FakeTime;
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
/// Rounds after which keys, and the ranges that were split off for them, are used again.
const PREFIXES: u64 = 16;
/// The farthest jump of a clock within the bound of 250 ms, against the clocks of the others, which agree.
const JUMP_MS_MAX: u64 = 240;
/// Jumps beyond the bound.
const BEYOND_MS: (u64, u64) = (320, 2500);
/// What a node says when its clock is out of the bound.
const WRONG_CLOCK: &str = "the clock of this node differs";
/// What transactions are promised, as `corelane bench` calls it.
const ISOLATIONS: [&str; 4] = ["strict", "mixed", "serializable", "snapshot"];

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Trouble {
    /// One node or two are killed
    Kill,
    /// One is stopped for a while
    Pause,
    /// One, or a pair, is cut off
    Cut,
    /// The clock of one jumps within the bound, and back
    Clock,
    /// The clock of one jumps beyond the bound: it must stop itself
    ClockBeyond,
}

/// What is done to nodes, which are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill(usize),
    KillTwo(usize, usize),
    Pause(usize),
    CutOne(usize),
    CutPair(usize, usize),
    /// Whose clock, and by how many milliseconds.
    Clock(usize, i64),
    ClockBeyond(usize, i64),
}

impl Fault {
    fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::KillTwo(..) => "kill two",
            Self::Pause(_) => "pause",
            Self::CutOne(_) => "cut one",
            Self::CutPair(..) => "cut pair",
            Self::Clock(..) => "clock",
            Self::ClockBeyond(..) => "clock beyond",
        }
    }

    fn nodes(self) -> Vec<usize> {
        match self {
            Self::Kill(node)
            | Self::Pause(node)
            | Self::CutOne(node)
            | Self::Clock(node, _)
            | Self::ClockBeyond(node, _) => vec![node],
            Self::KillTwo(one, other) | Self::CutPair(one, other) => vec![one, other],
        }
    }

    fn cuts(self) -> Vec<(usize, usize)> {
        match self {
            Self::Kill(_) | Self::KillTwo(..) | Self::Pause(_) | Self::Clock(..) | Self::ClockBeyond(..) => {
                Vec::new()
            }
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
    isolation: &'static str,
    fault: Fault,
    before: Duration,
    held: Duration,
    seed: u64,
}

impl Plan {
    fn draw(seed: u64, round: u64, workloads: &[String], troubles: &[Trouble]) -> Self {
        // Neighbouring seeds and rounds must have nothing in common: one draw lies between them and the generator.
        let first = Prng::new(seed).next_u64();
        let mut prng = Prng::new(Prng::new(first.wrapping_add(round)).next_u64());
        let mut nodes: Vec<usize> = (1..=NODES).collect();
        prng.shuffle(&mut nodes);
        let (one, other) = (nodes[0], nodes[1]);
        let kinds = [
            (Trouble::Kill, Fault::Kill(one)),
            (Trouble::Kill, Fault::KillTwo(one, other)),
            (Trouble::Pause, Fault::Pause(one)),
            (Trouble::Cut, Fault::CutOne(one)),
            (Trouble::Cut, Fault::CutPair(one, other)),
            (Trouble::Clock, Fault::Clock(one, 0)),
            (Trouble::ClockBeyond, Fault::ClockBeyond(one, 0)),
        ];
        let kinds = kinds.iter().filter(|(trouble, _)| troubles.contains(trouble));
        let kinds: Vec<Fault> = kinds.map(|(_, fault)| *fault).collect();
        let fault = kinds[prng.index(kinds.len())];
        let mut jump = |low, high| {
            let ms = i64::try_from(prng.between(low, high)).expect("some seconds");
            if prng.chance(0.5) { ms } else { -ms }
        };
        let fault = match fault {
            Fault::Clock(node, _) => Fault::Clock(node, jump(JUMP_MS_MAX / 4, JUMP_MS_MAX)),
            Fault::ClockBeyond(node, _) => Fault::ClockBeyond(node, jump(BEYOND_MS.0, BEYOND_MS.1)),
            other => other,
        };
        let held_ms = match fault {
            Fault::Kill(_) | Fault::KillTwo(..) | Fault::ClockBeyond(..) => (0, 1000),
            Fault::Pause(_) => (200, 3000),
            Fault::CutOne(_) | Fault::CutPair(..) | Fault::Clock(..) => (500, 3000),
        };
        let turn = usize::try_from(round % workloads.len() as u64).expect("below a usize");
        Self {
            workload: workloads[turn].clone(),
            fault,
            before: Duration::from_millis(prng.between(300, 800)),
            held: Duration::from_millis(prng.between(held_ms.0, held_ms.1)),
            seed: prng.next_u64() >> 1,
            isolation: ISOLATIONS[prng.index(ISOLATIONS.len())],
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
    /// Begin no round when so much time is over.
    pub until: Option<Duration>,
    /// `register`, `append` and `bank`, in turn.
    pub workloads: Vec<String>,
    /// What may go wrong.
    pub troubles: Vec<Trouble>,
    /// How to set the clocks of nodes, where troubles need it.
    pub clocks: Option<FakeTime>,
    /// Where histories are kept, for other checkers. They are removed otherwise, unless there is an anomaly.
    pub histories: Option<PathBuf>,
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
    /// The longest time for which a node went on whose clock was beyond the bound.
    pub wrong_clock_ms_max: u64,
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
            "wrong_clock_ms_max": self.wrong_clock_ms_max,
            "ok": self.outcomes[0], "fail": self.outcomes[1], "info": self.outcomes[2],
        })
    }
}

/// A node of the cluster, running or not. Killed when dropped.
struct Member {
    command: Command,
    stderr: PathBuf,
    /// What sets its clock, and the file that it reads.
    clock: Option<(FakeTime, PathBuf)>,
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

    /// Sets its clock, if it can be set, and makes sure that it is.
    fn set_clock(&self, offset_ms: i64) -> anyhow::Result<()> {
        let (fake, file) = self.clock.as_ref().context("its clock cannot be set")?;
        fake.set(file, offset_ms)
    }

    /// Waits until it has ended by itself because of its clock, after it said `before`. How long that took.
    fn stops_for_its_clock(&mut self, before: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let child = self.child()?;
        let mut status = None;
        wait_for(|| {
            status = child.try_wait()?;
            Ok(status.is_some())
        })
        .context("a node does not stop whose clock is wrong")?;
        self.child = None;
        let said = self.said();
        ensure!(
            status.is_some_and(|status| status.code().is_some_and(|code| code != 0))
                && said[before..].contains(WRONG_CLOCK),
            "a node ended, and not for its clock: {status:?}\n{said}"
        );
        Ok(began.elapsed())
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
        let needs_clocks = |trouble: &Trouble| matches!(trouble, Trouble::Clock | Trouble::ClockBeyond);
        ensure!(
            self.clocks.is_some() || !self.troubles.iter().any(needs_clocks),
            "clocks cannot be set here"
        );
        ensure!(!self.troubles.is_empty(), "a kind of fault is needed");
        begins(self.first);
        let start = Instant::now();
        let mut members: Vec<Member> = (1..=NODES).map(|node| self.member(node)).collect();
        for member in members.iter().filter(|member| member.clock.is_some()) {
            member.set_clock(0)?;
        }
        members.iter_mut().try_for_each(Member::spawn)?;
        members.iter_mut().try_for_each(Member::ready)?;
        let mut summary = Summary::default();
        for round in self.first..self.first + self.rounds {
            if self.until.is_some_and(|until| start.elapsed() >= until) {
                break;
            }
            begins(round);
            self.serves().with_context(|| format!("before round {round}"))?;
            let plan = Plan::draw(self.seed, round, &self.workloads, &self.troubles);
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
        let mut command = self.network.placed(node, &program.command());
        let clock = self.clocks.clone().map(|fake| {
            let file = self.scratch.join(format!("node-{node}.clock"));
            fake.wrap(&mut command, &file);
            (fake, file)
        });
        Member {
            command,
            stderr: self.scratch.join(format!("node-{node}.stderr")),
            clock,
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
        let wrong = self.fault(plan, members)?;
        let wrong_ms = u64::try_from(wrong.as_millis()).unwrap_or(u64::MAX);
        summary.wrong_clock_ms_max = summary.wrong_clock_ms_max.max(wrong_ms);
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
        let what = match plan.fault {
            Fault::Clock(_, ms) => format!("clock by {ms} ms"),
            Fault::ClockBeyond(_, ms) => format!("clock by {ms} ms, stopped after {wrong_ms} ms"),
            other => other.kind().to_owned(),
        };
        progress(&format!(
            "round {round}: {} {}, {what} {nodes:?} for {} ms: {} ok, {} fail, {} info, longest gap {gap} ms, {} anomalies",
            plan.workload,
            plan.isolation,
            plan.held.as_millis(),
            counts[0],
            counts[1],
            counts[2],
            anomalies.len(),
        ));
        if let Some(kept) = &self.histories {
            let name = format!("{}-{}-{round}.edn", plan.workload, self.seed);
            std::fs::copy(&history, kept.join(name)).context("cannot keep the history")?;
        }
        if anomalies.is_empty() {
            std::fs::remove_file(&history)?;
        }
        Ok(anomalies)
    }

    fn load(&self, round: u64, plan: &Plan, duration: Duration, history: &Path) -> anyhow::Result<Load> {
        let mut bench = Command::new(&self.binary);
        let (keys, seed, prefix) = (
            KEYS.to_string(),
            plan.seed.to_string(),
            format!("round-{}/", round % PREFIXES),
        );
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
            "--isolation",
            plan.isolation,
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

    /// Does what the plan says, makes sure that it had its effect, and undoes it. How long a node went on whose clock was wrong.
    fn fault(&self, plan: &Plan, members: &mut [Member]) -> anyhow::Result<Duration> {
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
            Fault::Clock(node, offset_ms) => {
                members[node - 1].set_clock(offset_ms)?;
                hold();
                members[node - 1].set_clock(0)?;
            }
            Fault::ClockBeyond(node, offset_ms) => {
                let member = &mut members[node - 1];
                let mut longest = Duration::ZERO;
                // It stops itself, and again when it is started with the same clock.
                for starts in [false, true] {
                    let before = member.said().len();
                    if starts {
                        member.spawn()?;
                    } else {
                        member.set_clock(offset_ms)?;
                    }
                    longest = longest.max(member.stops_for_its_clock(before)?);
                }
                hold();
                member.set_clock(0)?;
                member.spawn()?;
                member.ready()?;
                return Ok(longest);
            }
        }
        Ok(Duration::ZERO)
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
        let all = [
            Trouble::Kill,
            Trouble::Pause,
            Trouble::Cut,
            Trouble::Clock,
            Trouble::ClockBeyond,
        ];
        let draw = |seed, round| Plan::draw(seed, round, &workloads, &all);
        assert_eq!(format!("{:?}", draw(1, 7)), format!("{:?}", draw(1, 7)));
        assert_ne!(format!("{:?}", draw(1, 7)), format!("{:?}", draw(2, 7)));
        assert_eq!(
            (draw(1, 6).workload, draw(1, 7).workload),
            ("register".into(), "append".into())
        );
        let mut kinds: Vec<_> = (0..100).map(|round| draw(1, round).fault.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 7);
        for round in 0..100 {
            let fault = Plan::draw(1, round, &workloads, &[Trouble::Pause]).fault;
            assert_eq!(fault.kind(), "pause");
            match draw(1, round).fault {
                Fault::Clock(_, ms) => assert!((60..=240).contains(&ms.abs()), "{ms}"),
                Fault::ClockBeyond(_, ms) => assert!((320..=2500).contains(&ms.abs()), "{ms}"),
                _ => {}
            }
        }
        assert_eq!(Fault::CutOne(2).cuts(), [(2, 1), (2, 3)]);
    }
}
