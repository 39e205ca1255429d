//! `corelane range ls|split|merge|move|place|explain`.

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, Output, print, shown, table};
use crate::session::{Session, exit_of};
use base::{NodeId, RangeId, ShardId};
use clap::{Args, Subcommand};
use corelane::RangeInfo;
use std::ffi::OsString;
use wire::Code;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane range ls
  corelane range split user/m                    `user/m` becomes the first key of a new range
  corelane range merge r7                        range 7 takes its right neighbour over, and ends where that ended
  corelane range move r7 1                       range 7 to shard 1 of its node
  corelane range place r7 --nodes 1,2,4          the replicas of range 7 to these nodes, of a cluster
  corelane range place r7 --leader 2             node 2 leads range 7
  corelane range explain r7                      why its replicas are where they are

Reads and writes go on meanwhile; those of a range that is merged into its left neighbour wait for a moment.";

/// List, split, merge, place and explain ranges.
#[derive(Debug, Args)]
pub(crate) struct RangeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the ranges: id, shard, first key, end
    Ls,
    /// Split a range so that KEY becomes the first key of a new one
    Split {
        /// The first key of the new range
        key: OsString,
    },
    /// Merge a range with its right neighbour, whose keys it takes over. Both must have their replicas on the same nodes
    Merge {
        /// The left one of the two, as `range ls` names it: r7, or 7
        #[arg(value_parser = parse_range)]
        range: RangeId,
    },
    /// Move a range to another shard of its node
    Move {
        /// The range, as `range ls` names it: r7, or 7
        #[arg(value_parser = parse_range)]
        range: RangeId,
        /// The shard: s1, or 1
        #[arg(value_parser = parse_shard)]
        shard: ShardId,
    },
    /// Say which nodes of a cluster have the replicas of a range, and which leads it. New replicas get the range's data before old ones
    /// go; given up half way (--timeout), the same command goes on
    Place {
        /// The range, as `range ls` names it: r7, or 7
        #[arg(value_parser = parse_range)]
        range: RangeId,
        /// The nodes: 1,2,4; where they are now unless given
        #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = parse_node, required_unless_present = "leader")]
        nodes: Vec<NodeId>,
        /// The node that leads it
        #[arg(long, value_name = "N", value_parser = parse_node)]
        leader: Option<NodeId>,
    },
    /// Say why the replicas of a range of a cluster are where they are, why others are not, and what is done next
    Explain {
        /// The range, as `range ls` names it: r7, or 7
        #[arg(value_parser = parse_range)]
        range: RangeId,
    },
}

/// A node: n2, or 2.
pub(crate) fn parse_node(text: &str) -> Result<NodeId, String> {
    text.strip_prefix('n')
        .unwrap_or(text)
        .parse()
        .map(NodeId)
        .map_err(|_| "a node reads n2, or 2".to_owned())
}

fn parse_range(text: &str) -> Result<RangeId, String> {
    text.strip_prefix('r')
        .unwrap_or(text)
        .parse()
        .map(RangeId)
        .map_err(|_| "a range reads r7, or 7".to_owned())
}

fn parse_shard(text: &str) -> Result<ShardId, String> {
    text.strip_prefix('s')
        .unwrap_or(text)
        .parse()
        .map(ShardId)
        .map_err(|_| "a shard reads s1, or 1".to_owned())
}

pub(crate) fn run(global: &Global, args: RangeArgs) -> Outcome {
    match args.action {
        Action::Ls => list(global),
        Action::Split { key } => {
            let key = global.bytes(key)?;
            let session = Session::open_for_one(global)?;
            let split = session.wait(session.db.split(&key))?;
            let json = Object::new()
                .set("left", split.left.0)
                .set("right", split.right.0)
                .set("right_shard", split.right_shard.0)
                .bytes("key", &key, global.hex)
                .build();
            let text = format!(
                "{} ends before {}; {} starts there, on shard {}",
                split.left,
                shown(global, &key),
                split.right,
                split.right_shard
            );
            print(global, text, &json)?;
            Ok(Exit::Ok)
        }
        Action::Merge { range } => merge(global, range),
        Action::Move { range, shard } => {
            let session = Session::open_for_one(global)?;
            let moved = session.wait(session.db.move_range(range, shard))?;
            let json = Object::new()
                .set("range", moved.range.0)
                .set("shard", moved.shard.0)
                .build();
            print(
                global,
                format_args!("{} is on shard {}", moved.range, moved.shard),
                &json,
            )?;
            Ok(Exit::Ok)
        }
        Action::Place { range, nodes, leader } => place(global, range, &nodes, leader),
        Action::Explain { range } => explain(global, range),
    }
}

fn merge(global: &Global, range: RangeId) -> Outcome {
    let session = Session::open(global)?;
    let right = right_of(&session.wait(session.db.ranges())?, range)?;
    let merged = session.wait(session.db.merge_range(range, right))?;
    let json = Object::new()
        .set("range", merged.range.0)
        .set("absorbed", merged.absorbed.0)
        .build();
    let text = format!(
        "{} has the keys of {}, which is gone",
        merged.range, merged.absorbed
    );
    print(global, text, &json)?;
    Ok(Exit::Ok)
}

/// The right neighbour of a range.
fn right_of(ranges: &[RangeInfo], range: RangeId) -> Result<RangeId, CliError> {
    let refused = |code: Code, what| CliError::new(code.number(), exit_of(code), what);
    let Some(left) = ranges.iter().find(|info| info.range == range) else {
        return Err(refused(Code::NoSuchRange, format!("there is no range {range}")).help("see `range ls`"));
    };
    let Some(end) = &left.span.end else {
        let what = format!("range {range} is the last one: it has no right neighbour to be merged with");
        return Err(
            refused(Code::InvalidRequest, what).help("name the left one of two neighbours, see `range ls`")
        );
    };
    let right = ranges.iter().find(|info| info.span.start == *end);
    right.map(|info| info.range).ok_or_else(|| {
        let what = format!("what follows range {range} is not known now");
        refused(Code::RangeBusy, what).help("try again: ranges are being split, merged or moved")
    })
}

fn place(global: &Global, range: RangeId, nodes: &[NodeId], leader: Option<NodeId>) -> Outcome {
    let session = Session::open(global)?;
    let placed = session.wait(session.db.place_range(range, nodes, leader))?;
    let nodes: Vec<u64> = placed.nodes.iter().map(|node| node.0).collect();
    let names: Vec<String> = placed.nodes.iter().map(NodeId::to_string).collect();
    let text = format!(
        "{} has replicas on {}; {} leads",
        placed.range,
        names.join(", "),
        placed.leader
    );
    let json = Object::new()
        .set("range", placed.range.0)
        .set("nodes", nodes)
        .set("leader", placed.leader.0);
    print(global, text, &json.build())?;
    Ok(Exit::Ok)
}

fn explain(global: &Global, range: RangeId) -> Outcome {
    let session = Session::open(global)?;
    let lines = session.wait(session.db.explain_range(range))?;
    let json = Object::new().set("range", range.0).set("lines", lines.clone());
    print(global, lines.join("\n"), &json.build())?;
    Ok(Exit::Ok)
}

fn list(global: &Global) -> Outcome {
    let session = Session::open(global)?;
    let ranges = session.wait(session.db.ranges())?;
    if !global.json {
        print(global, listing(global, &ranges), &serde_json::Value::Null)?;
        return Ok(Exit::Ok);
    }
    let mut out = Output::new();
    for range in &ranges {
        let mut json = Object::new()
            .set("range", range.range.0)
            .set("shard", range.shard.0)
            .set("generation", range.generation)
            .set("leader", range.leader.map(|node| node.0))
            .set("nodes", sorted(&range.nodes))
            .bytes("start", &range.span.start, global.hex);
        json = match &range.span.end {
            Some(end) => json.bytes("end", end, global.hex),
            None => json.set("end", serde_json::Value::Null),
        };
        out.line(json.build())?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// The numbers of nodes, ascending.
fn sorted(nodes: &[NodeId]) -> Vec<u64> {
    let mut numbers: Vec<u64> = nodes.iter().map(|node| node.0).collect();
    numbers.sort_unstable();
    numbers
}

/// The ranges as a table.
pub(crate) fn listing(global: &Global, ranges: &[RangeInfo]) -> comfy_table::Table {
    // A node that is alone does not name leaders.
    let is_cluster = ranges.iter().any(|range| range.leader.is_some());
    let rows = ranges.iter().map(|range| {
        let start = if range.span.start.is_empty() {
            "(first key)".to_owned()
        } else {
            shown(global, &range.span.start)
        };
        let end = range
            .span
            .end
            .as_ref()
            .map_or_else(|| "(end)".to_owned(), |end| shown(global, end));
        let mut row = vec![range.range.to_string(), range.shard.to_string(), start, end];
        if is_cluster {
            let leader = range.leader.map(|node| node.to_string());
            let nodes: Vec<_> = sorted(&range.nodes)
                .iter()
                .map(|node| format!("n{node}"))
                .collect();
            row.extend([leader.unwrap_or_else(|| "?".to_owned()), nodes.join(" ")]);
        }
        row
    });
    let columns = ["range", "shard", "start", "end", "leader", "replicas"];
    table(&columns[..if is_cluster { 6 } else { 4 }], rows)
}
