//! Whether the replicas of a range are the same: every node is asked for its replicas, with checksums of what they have.
//!
//! Replicas that have applied the same entries must show the same log, the same content and the same results of sessions; where
//! the memtables and tables of each of them end does not matter. In calm weather every member must get there in time.

use crate::client::connection::{Connection, Next};
use crate::client::reply::Reply;
use base::ClientId;
use core::time::Duration;
use env::{Address, Clock, Env};
use serde_json::Value;
use sim::SimEnv;
use std::collections::{BTreeMap, BTreeSet};
use wire::request;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before nodes are asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A replica, as its node shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    node: u64,
    life: u64,
    leads: bool,
    applied: u64,
    /// Up to when it serves reads whoever leads.
    closed_ns: u64,
    /// The nodes with replicas as of there.
    members: BTreeSet<u64>,
    voters: BTreeSet<u64>,
    /// Of log, sessions, content. `None` when entries came while it was read.
    sums: Option<[u64; 3]>,
}

/// Asks the nodes until every replica of every range has caught up, for as long as `limit`, and says what is wrong: replicas that
/// differ, that do not catch up or do not hear up to when ranges are closed, or that are not as many voters as wanted. Waits until
/// each node has checked all its tables `scrubs` times.
pub async fn compare(
    env: SimEnv,
    addresses: Vec<Address>,
    wanted: Option<usize>,
    limit: Duration,
    scrubs: u64,
) -> Vec<String> {
    let end = env.clock().now() + limit;
    let mut scrubbed = BTreeMap::new();
    let since_ns = env.clock().wall_ns();
    loop {
        let looked = look(&env, &addresses, scrubs, &mut scrubbed).await;
        let waits = match looked {
            Ok(ranges) => {
                let wrong: Vec<_> = ranges
                    .iter()
                    .filter_map(|(range, seen)| differ(*range, seen))
                    .collect();
                if !wrong.is_empty() {
                    return wrong;
                }
                let waits = ranges
                    .iter()
                    .find_map(|(range, seen)| waits(*range, seen, wanted, since_ns));
                let several = ranges.values().filter(|seen| seen.len() > 1).count();
                base::sometimes!(
                    "system: all replicas of several ranges were compared",
                    several > 1
                );
                waits
            }
            Err(silent) => Some(silent),
        };
        let Some(waits) = waits else {
            return Vec::new();
        };
        if env.clock().now() >= end {
            return vec![format!("replicas do not catch up in calm weather: {waits}")];
        }
        env.clock().sleep(PAUSE).await;
    }
}

/// The replicas of each range.
async fn look(
    env: &SimEnv,
    addresses: &[Address],
    scrubs: u64,
    scrubbed: &mut BTreeMap<u64, u64>,
) -> Result<BTreeMap<u64, Vec<Seen>>, String> {
    let mut ranges = BTreeMap::<u64, Vec<Seen>>::new();
    for &address in addresses {
        let status = status(env, address).await?;
        let node = number(&status["node"]);
        let shards = status["shards"].as_array().into_iter().flatten();
        let passes = status["shards"].as_array().into_iter().flatten();
        let passes = passes.map(|shard| number(&shard["counts"]["scrubs"])).min();
        let passes = passes.unwrap_or_default();
        if passes < *scrubbed.entry(node).or_insert(passes) + scrubs {
            return Err(format!("node {node} has not checked its tables"));
        }
        let mut damage = shards.filter_map(|shard| shard["damage"].as_object());
        if let Some(damage) = damage.find(|damage| !damage.is_empty()) {
            return Err(format!("node {node} has damage that is not repaired: {damage:?}"));
        }
        let listed = status["replicas"].as_array();
        if listed.is_none() && status["ranges"]["replicas"] != 0 {
            return Err(format!("the status of node {node} does not list its replicas"));
        }
        for replica in listed.into_iter().flatten() {
            let nodes = |name: &str| {
                let nodes = replica[name].as_array().into_iter().flatten();
                nodes.map(number).collect::<Vec<_>>()
            };
            let content = replica["content"].as_u64();
            let seen = Seen {
                node,
                life: number(&replica["life"]),
                leads: replica["leads"] == true,
                applied: number(&replica["applied"]),
                closed_ns: number(&replica["closed_ns"]),
                voters: nodes("voters").into_iter().collect(),
                members: nodes("voters").into_iter().chain(nodes("learners")).collect(),
                sums: content.map(|content| [number(&replica["log"]), number(&replica["sessions"]), content]),
            };
            ranges.entry(number(&replica["range"])).or_default().push(seen);
        }
    }
    if ranges.is_empty() {
        return Err("no node has a replica of anything".to_owned());
    }
    Ok(ranges)
}

async fn status(env: &SimEnv, address: Address) -> Result<Value, String> {
    let silent = || format!("the node at {address} does not tell its replicas");
    let opened = Connection::open(env, address, ClientId(0), None, PATIENCE).await;
    let (connection, _) = opened.map_err(|_| silent())?;
    let asked = connection.send(&request::Status {
        replicas: true,
        deadline_ms: 5_000,
    });
    let answer = asked.next(env, PATIENCE).await;
    connection.hang_up();
    match answer {
        Next::Reply(Reply::Status(json)) => serde_json::from_str(&json).map_err(|error| error.to_string()),
        Next::Reply(_) | Next::Closed | Next::TimedOut => Err(silent()),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a status has its numbers")
}

/// Two replicas that have applied the same entries and are not the same.
fn differ(range: u64, seen: &[Seen]) -> Option<String> {
    seen.iter().enumerate().find_map(|(at, one)| {
        let is_other = |other: &&Seen| {
            other.applied == one.applied && other.sums.zip(one.sums).is_some_and(|(a, b)| a != b)
        };
        let other = seen[at + 1..].iter().find(is_other)?;
        let kinds = ["log", "sessions", "content"].iter();
        let sums = kinds.zip(one.sums?).zip(other.sums?);
        let what: Vec<_> = sums.filter(|((_, a), b)| a != b).map(|((what, _), _)| *what).collect();
        let what = what.join(", ");
        Some(format!(
            "the replicas of range {range} on nodes {} and {} have applied the same {} entries and differ: {what}",
            one.node, other.node, one.applied
        ))
    })
}

/// What is missing until all replicas of a range have the same: a replica that was removed and has not heard of it is not waited
/// for.
fn waits(range: u64, seen: &[Seen], wanted: Option<usize>, since_ns: u64) -> Option<String> {
    let what = lacks(range, seen)
        .or_else(|| miscounts(range, seen, wanted?))
        .or_else(|| is_open(range, seen, since_ns))?;
    Some(format!("{what}; {seen:?}"))
}

/// Whether a range has not as many voters as wanted, or replicas beside them.
fn miscounts(range: u64, seen: &[Seen], wanted: usize) -> Option<String> {
    let newest = seen.iter().max_by_key(|seen| seen.applied)?;
    let (voters, all) = (newest.voters.len(), newest.members.len());
    (voters != wanted || all != voters)
        .then(|| format!("range {range} has {voters} voters of {wanted}, and {all} replicas"))
}

/// A replica, of several, that cannot show the range as of `since_ns` yet.
fn is_open(range: u64, seen: &[Seen], since_ns: u64) -> Option<String> {
    let newest = seen.iter().max_by_key(|seen| seen.applied)?;
    let mut members = seen.iter().filter(|seen| newest.members.contains(&seen.node));
    let open = members.find(|seen| newest.members.len() > 1 && seen.closed_ns < since_ns)?;
    let (node, closed_ns) = (open.node, open.closed_ns);
    Some(format!(
        "range {range} is closed up to {closed_ns} on node {node}, and not as of {since_ns}"
    ))
}

fn lacks(range: u64, seen: &[Seen]) -> Option<String> {
    let newest = seen.iter().max_by_key(|seen| seen.applied)?;
    newest.members.iter().find_map(|member| {
        let Some(replica) = seen.iter().find(|seen| seen.node == *member) else {
            return Some(format!("range {range} has no state on node {member}"));
        };
        if replica.applied < newest.applied {
            let (applied, all) = (replica.applied, newest.applied);
            return Some(format!(
                "node {member} has applied {applied} of {all} entries of range {range}"
            ));
        }
        replica
            .sums
            .is_none()
            .then(|| format!("the content of range {range} on node {member} cannot be read"))
    })
}
