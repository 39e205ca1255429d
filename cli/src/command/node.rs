//! `corelane node ls|drain|use|rm`: the nodes of a cluster.

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome, watched};
use crate::output::{Object, Output, print, table};
use crate::session::{Session, options, runtime};
use base::{NodeId, RangeId};
use clap::{Args, Subcommand};
use corelane::{Address, NodeUse, RangeInfo};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use wire::Code;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane node ls
  corelane node drain 2                          node 2 has no replicas afterwards, and can be stopped for good
  corelane node drain 2 --leaders                node 2 leads nothing afterwards, and can be stopped for a while
  corelane node use 2                            it gets leaderships and replicas again
  corelane node rm 2                             it was drained, and is not coming back: forget it

To replace a node that is gone for good: start another one with `corelane start --node N --join …`, then drain the old one,
which need not answer as long as a majority of the replicas of each range does. Reads and writes go on meanwhile. Then remove it:
its number is never used again, and when it comes back it is refused. Lists of --cluster may go on naming it.";

/// The use of a node of which nothing was said.
const USED: &str = "used";

/// Rounds over all ranges of one drain.
const ROUNDS_MAX: u32 = 20;
/// Between two rounds: leaders change, and what is heard of them settles.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How long a node may go on leading after it was said that it shall not.
const LEADERS_MAX: Duration = Duration::from_secs(60);
/// How long one range may take to be placed.
const PLACE_MAX: Duration = Duration::from_secs(3600);

/// List, drain and remove the nodes of a cluster.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the nodes: number, address, replicas, ranges led, and which disks are slow or full
    Ls,
    /// Give every replica of a node to another node. Interrupted, the same command goes on
    Drain {
        /// The node, as `node ls` names it: n2, or 2
        #[arg(value_parser = super::range::parse_node)]
        node: NodeId,
        /// Where no other node is left for a replica, do with one fewer
        #[arg(long, conflicts_with = "leaders")]
        fewer: bool,
        /// Only let it lead nothing: it keeps its replicas, and is to be stopped for a while
        #[arg(long)]
        leaders: bool,
    },
    /// Forget a node for good that is dead, or was drained, and has no replicas. Its number is never used again
    Rm {
        /// The node, as `node ls` names it: n2, or 2
        #[arg(value_parser = super::range::parse_node)]
        node: NodeId,
    },
    /// Let a node that was drained have replicas and leaderships again, as the cluster needs it
    Use {
        /// The node, as `node ls` names it: n2, or 2
        #[arg(value_parser = super::range::parse_node)]
        node: NodeId,
    },
}

pub(crate) fn run(global: &Global, args: &NodeArgs) -> Outcome {
    match args.action {
        Action::Ls => list(global),
        Action::Drain {
            node, leaders: true, ..
        } => drain_leaders(global, node),
        Action::Drain { node, fewer, .. } => drain(global, node, fewer),
        Action::Rm { node } => remove(global, node),
        Action::Use { node } => use_again(global, node),
    }
}

/// The cluster, as its nodes say.
struct Survey {
    nodes: BTreeMap<NodeId, Seen>,
    ranges: BTreeMap<RangeId, RangeInfo>,
    /// Those that their leader has described.
    led_by: BTreeMap<RangeId, NodeId>,
    /// How nodes are meant to be used, as nodes say.
    said: BTreeMap<NodeId, String>,
}

struct Seen {
    address: Address,
    answers: bool,
    /// Its failure domains, if it was told any.
    locality: String,
    /// How it is meant to be used, if something was said.
    usage: Option<String>,
    /// How its disk is: `ok`, `slow` or `full`; empty when it does not say.
    disk: String,
}

impl Survey {
    /// Asks each node for the ranges that it has.
    fn take(global: &Global) -> Result<Self, CliError> {
        let session = Session::open(global)?;
        let nodes = session.wait(session.db.nodes())?;
        if nodes.is_empty() {
            return Err(CliError::new(
                Code::InvalidRequest.number(),
                Exit::Usage,
                "this node is alone: it is not of a cluster",
            )
            .help("`corelane start --help` shows how a cluster is started"));
        }
        let mut survey = Self {
            nodes: BTreeMap::new(),
            ranges: BTreeMap::new(),
            led_by: BTreeMap::new(),
            said: BTreeMap::new(),
        };
        let patience = corelane::Options {
            deadline: global.timeout.min(Duration::from_secs(2)),
            ..options(global)
        };
        let runtime = runtime()?;
        for (node, address) in nodes {
            let asked = runtime.block_on(async {
                let db = corelane::connect_with(&address.to_string(), patience.clone()).await?;
                // Only its own word counts: the client may go elsewhere when it does not answer.
                let (ranges, status) = (db.ranges().await?, db.status().await?);
                Ok::<_, corelane::Error>((db.node().map(|info| info.node), ranges, status))
            });
            let own = asked.ok().filter(|(who, ..)| *who == Some(node));
            let mut seen = Seen {
                address,
                answers: own.is_some(),
                locality: String::new(),
                usage: None,
                disk: String::new(),
            };
            if let Some((_, ranges, status)) = own {
                ranges.into_iter().for_each(|range| survey.note(node, range));
                let status: Value = serde_json::from_str(&status).unwrap_or_default();
                seen.locality = status["locality"].as_str().unwrap_or_default().to_owned();
                seen.disk = status["disk"]["state"].as_str().unwrap_or_default().to_owned();
                survey.hear(&status["standings"]);
            }
            survey.nodes.insert(node, seen);
        }
        let said = core::mem::take(&mut survey.said);
        for (node, seen) in &mut survey.nodes {
            seen.usage = said.get(node).cloned();
        }
        Ok(survey)
    }

    /// Takes what a node knows of how all are meant to be used.
    fn hear(&mut self, standings: &Value) {
        for (node, usage) in standings.as_object().into_iter().flatten() {
            if let (Ok(node), Some(usage)) = (node.parse(), usage.as_str()) {
                self.said.insert(NodeId(node), usage.to_owned());
            }
        }
    }

    /// What `node` says of a range. The one that leads it knows best, and of two that say so the one that has seen more of it.
    fn note(&mut self, node: NodeId, range: RangeInfo) {
        let weight = |range: &RangeInfo, leads: bool| (range.generation, leads, !range.nodes.is_empty());
        let is_leader = range.leader == Some(node);
        let known = self.ranges.get(&range.range);
        let is_better = known.is_none_or(|known| {
            let led = self.led_by.contains_key(&range.range);
            weight(known, led) < weight(&range, is_leader)
        });
        if is_better {
            if is_leader {
                self.led_by.insert(range.range, node);
            } else {
                self.led_by.remove(&range.range);
            }
            self.ranges.insert(range.range, range);
        }
    }

    /// Whether every key is in a range that its leader has described: only then is it known where all replicas are.
    ///
    /// # Errors
    /// What is not known.
    fn check(&self) -> Result<(), CliError> {
        let silent: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, seen)| !seen.answers)
            .map(|(node, seen)| format!("{node} at {}:{}", seen.address.host, seen.address.port))
            .collect();
        let unknown = |what: String| {
            let error = CliError::new(Code::Unavailable.number(), Exit::Unavailable, what);
            let error = if silent.is_empty() {
                error
            } else {
                error.cause(format!("no answer from {}", silent.join(", ")))
            };
            error.help("try again when the ranges have leaders: `corelane status` names what is missing")
        };
        let is_known = |range: &&RangeInfo| self.led_by.contains_key(&range.range) && !range.nodes.is_empty();
        if let Some(RangeInfo { range, .. }) = self.ranges.values().find(|range| !is_known(range)) {
            return Err(unknown(format!(
                "no leader of range {range} says where its replicas are"
            )));
        }
        let mut spans: Vec<_> = self.ranges.values().map(|range| &range.span).collect();
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut covered = Some(Vec::new());
        for span in spans {
            if covered.as_deref() != Some(&*span.start) {
                break;
            }
            covered = span.end.as_deref().map(<[u8]>::to_vec);
        }
        match covered {
            None => Ok(()),
            Some(from) => Err(unknown(format!(
                "no node says which range has the keys from `{}` on",
                from.escape_ascii()
            ))),
        }
    }

    fn replicas(&self, node: NodeId) -> usize {
        let has = |range: &&RangeInfo| range.nodes.contains(&node);
        self.ranges.values().filter(has).count()
    }

    fn led(&self, node: NodeId) -> usize {
        self.led_by.values().filter(|leader| **leader == node).count()
    }

    /// Where the replicas of `range` are to be when none is on `node` any more: in its place the node that answers and has the
    /// fewest, with what `given` were given already.
    fn without(&self, node: NodeId, range: &RangeInfo, given: &BTreeMap<NodeId, usize>) -> Vec<NodeId> {
        let mut nodes: Vec<_> = range
            .nodes
            .iter()
            .copied()
            .filter(|other| *other != node)
            .collect();
        let free = self
            .nodes
            .iter()
            .filter(|(other, seen)| seen.answers && **other != node && !nodes.contains(other));
        let load = |other: &NodeId| self.replicas(*other) + given.get(other).copied().unwrap_or_default();
        let best = free
            .map(|(other, _)| *other)
            .min_by_key(|other| (load(other), *other));
        nodes.extend(best);
        nodes
    }
}

fn list(global: &Global) -> Outcome {
    let survey = Survey::take(global)?;
    if global.json {
        let mut out = Output::new();
        for (node, seen) in &survey.nodes {
            let json = Object::new()
                .set("node", node.0)
                .set("address", format!("{}:{}", seen.address.host, seen.address.port))
                .set("answers", seen.answers)
                .set("replicas", survey.replicas(*node))
                .set("leads", survey.led(*node))
                .set("locality", seen.locality.clone())
                .set("disk", seen.disk.clone())
                .set("use", seen.usage.clone().unwrap_or_else(|| USED.to_owned()));
            out.line(json.build())?;
        }
        out.flush()?;
        return Ok(Exit::Ok);
    }
    // Most clusters have nothing to say here.
    let is_said = survey.nodes.values().any(|seen| seen.usage.is_some());
    let is_located = survey.nodes.values().any(|seen| !seen.locality.is_empty());
    let ails = |seen: &Seen| !matches!(seen.disk.as_str(), "" | "ok");
    let is_ailing = survey.nodes.values().any(ails);
    let rows = survey.nodes.iter().map(|(node, seen)| {
        let mut row = vec![
            node.to_string(),
            format!("{}:{}", seen.address.host, seen.address.port),
            if seen.answers { "yes" } else { "no" }.to_owned(),
            survey.replicas(*node).to_string(),
            survey.led(*node).to_string(),
        ];
        row.extend(is_said.then(|| seen.usage.clone().unwrap_or_else(|| USED.to_owned())));
        row.extend(is_ailing.then(|| seen.disk.clone()));
        row.extend(is_located.then(|| seen.locality.clone()));
        row
    });
    let mut columns = vec!["node", "address", "answers", "replicas", "leads"];
    columns.extend(is_said.then_some("use"));
    columns.extend(is_ailing.then_some("disk"));
    columns.extend(is_located.then_some("locality"));
    let table = table(&columns, rows);
    print(global, table, &Value::Null)?;
    Ok(Exit::Ok)
}

/// Says how a node is meant to be used. Whether somebody heeds it: not where replicas are left to people.
fn say(session: &Session, node: NodeId, usage: NodeUse) -> Result<bool, CliError> {
    match session.run(async { Ok(session.db.use_node(node, usage).await) })? {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Code::InvalidRequest => Ok(false),
        Err(error) => session.wait(core::future::ready(Err(error))),
    }
}

/// The same, where it makes no sense if nobody heeds it.
fn must_say(session: &Session, node: NodeId, usage: NodeUse) -> Result<(), CliError> {
    if say(session, node, usage)? {
        return Ok(());
    }
    let what = format!("nobody looks after how {node} is used");
    Err(CliError::new(Code::InvalidRequest.number(), Exit::Usage, what)
        .cause("the nodes were started with --placement off, or this one is alone")
        .help("`corelane range place --leader N` says who leads a range"))
}

fn find(global: &Global, node: NodeId) -> Result<Survey, CliError> {
    let survey = Survey::take(global)?;
    if survey.nodes.contains_key(&node) {
        return Ok(survey);
    }
    Err(CliError::usage(format!("the cluster has no node {node}")))
}

fn use_again(global: &Global, node: NodeId) -> Outcome {
    find(global, node)?;
    must_say(&Session::open(global)?, node, NodeUse::Used)?;
    let json = Object::new().set("node", node.0).build();
    print(
        global,
        format!("{node} is used again, as the cluster needs it"),
        &json,
    )?;
    Ok(Exit::Ok)
}

/// Forgets a node. The placer knows whether it may go.
fn remove(global: &Global, node: NodeId) -> Outcome {
    let session = Session::open(global)?;
    session.wait(session.db.remove_node(node))?;
    let json = Object::new().set("node", node.0).build();
    let text =
        format!("{node} is removed: its number is not used again, and its data directory can be deleted");
    print(global, text, &json)?;
    Ok(Exit::Ok)
}

/// Waits until a node leads nothing. The placer sees to it.
fn drain_leaders(global: &Global, node: NodeId) -> Outcome {
    find(global, node)?;
    must_say(&Session::open(global)?, node, NodeUse::Drained)?;
    let began = Instant::now();
    loop {
        let survey = find(global, node)?;
        let (led, unknown) = (survey.led(node), survey.check().err());
        if led == 0 && unknown.is_none() {
            let json = Object::new().set("node", node.0).build();
            let text = format!("{node} leads nothing any more; it can be stopped for a while");
            print(global, text, &json)?;
            return Ok(Exit::Ok);
        }
        if began.elapsed() >= LEADERS_MAX {
            let what = format!(
                "{node} still leads {led} ranges after {} s",
                LEADERS_MAX.as_secs()
            );
            let error = CliError::new(Code::RangeBusy.number(), Exit::Retry, what);
            return Err(unknown
                .unwrap_or(error)
                .help("`corelane range explain` says why; it goes on, and the same command waits again"));
        }
        std::thread::sleep(ROUND_PAUSE);
    }
}

fn drain(global: &Global, node: NodeId, fewer: bool) -> Outcome {
    let session = Session::open(global)?;
    let mut moved = BTreeSet::new();
    let bar = progress(global);
    let mut last = None;
    let mut is_said = false;
    // Ranges that are split meanwhile come in another round.
    for _ in 0..ROUNDS_MAX {
        let survey = Survey::take(global)?;
        if !survey.nodes.contains_key(&node) {
            return Err(CliError::usage(format!("the cluster has no node {node}")));
        }
        last = survey.check().err();
        if last.is_some() {
            std::thread::sleep(ROUND_PAUSE);
            continue;
        }
        let left: Vec<_> = survey
            .ranges
            .values()
            .filter(|range| range.nodes.contains(&node))
            .collect();
        moved.extend(left.iter().map(|range| range.range));
        let mut given = BTreeMap::new();
        let mut moves = Vec::with_capacity(left.len());
        for range in &left {
            let nodes = survey.without(node, range, &given);
            if nodes.len() < range.nodes.len() && !fewer || nodes.is_empty() {
                bar.finish_and_clear();
                return Err(too_few(node, range, fewer, is_said));
            }
            for other in nodes.iter().filter(|other| !range.nodes.contains(other)) {
                *given.entry(*other).or_insert(0) += 1;
            }
            moves.push((range.range, nodes));
        }
        // What looks after replicas must bring none back. What it moves itself need not be moved here.
        if !core::mem::replace(&mut is_said, true) {
            say(&session, node, NodeUse::Emptied)?;
        }
        if left.is_empty() {
            bar.finish_and_clear();
            let json = Object::new()
                .set("node", node.0)
                .set("moved", moved.len())
                .build();
            let text = format!(
                "{node} has no replicas any more: {} moved; it can be stopped",
                moved.len()
            );
            print(global, text, &json)?;
            return Ok(Exit::Ok);
        }
        bar.set_length(moved.len() as u64);
        bar.set_position((moved.len() - left.len()) as u64);
        for (range, nodes) in moves {
            place(&session, range, &nodes)?;
            bar.inc(1);
        }
        std::thread::sleep(ROUND_PAUSE);
    }
    bar.finish_and_clear();
    Err(last.unwrap_or_else(|| still_there(node)))
}

fn still_there(node: NodeId) -> CliError {
    CliError::new(
        Code::RangeBusy.number(),
        Exit::Retry,
        format!("{node} still has replicas after {ROUNDS_MAX} rounds over all ranges"),
    )
    .help(format!(
        "ranges are split or placed by others faster than they are moved; try again when that is over, or keep the node: \
         `corelane node use {}`",
        node.0
    ))
}

/// Places a range, however long its state takes to copy: the same request goes on where the last one ended.
fn place(session: &Session, range: RangeId, nodes: &[NodeId]) -> Result<(), CliError> {
    let began = Instant::now();
    loop {
        match session.run(async { Ok(session.db.place_range(range, nodes, None).await) })? {
            Ok(_) => return Ok(()),
            Err(error) if takes_time(&error) && began.elapsed() < PLACE_MAX => {}
            Err(error) => return session.wait(core::future::ready(Err(error))),
        }
    }
}

/// Whether a placement may still be under way.
fn takes_time(error: &corelane::Error) -> bool {
    matches!(error, corelane::Error::DeadlineExceeded { .. }) || error.code() == Code::RangeBusy
}

/// `is_said`: the cluster takes the node to be leaving.
fn too_few(node: NodeId, range: &RangeInfo, fewer: bool, is_said: bool) -> CliError {
    let what = format!(
        "there is no other node for the replica of range {} on {node}",
        range.range
    );
    let help = if fewer {
        "start another node with `corelane start --node N --join …`: the last replica of a range goes nowhere else"
    } else {
        "start another node with `corelane start --node N --join …`, or do with fewer replicas: --fewer"
    };
    let mut help = help.to_owned();
    if is_said {
        help += &format!("; or keep the node: `corelane node use {}`", node.0);
    }
    CliError::new(Code::InvalidRequest.number(), Exit::Usage, what).help(help)
}

fn progress(global: &Global) -> ProgressBar {
    if !watched() || global.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} ranges moved");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
