//! Golden scripts: a cluster in text, and what is decided about it. One story each.
//!
//! | command | what happens |
//! |---|---|
//! | `node ID [TIERS] [shards=1] [bytes=100GiB] [cpu=1000ms] [disk=0]` | a node, its locality, its shards, the capacity of each; how full its disk is |
//! | `state ID live`, `suspect`, `dead`, `draining`, `decommissioning`, `gone` | how it is, from now on |
//! | `disk ID PERMILLE` | how full its disk is |
//! | `policy PREFIX [replicas=3] [at="+region=eu -zone=b"] [lease="+zone=a"]… [group=G] [split=512MiB]` | replaces the policy of that prefix; `default` is the empty prefix |
//! | `range ID START END "REPLICAS" [lease=N] [bytes=] [read=] [write=] [rps=] [middle=KEY] [hot=KEY:PERMILLE] [halves=KEY]` | a range; its replicas are `NODE/SHARD`, with `~` before a learner, `=` before a witness, `?` after one that lags; `min` and `max` are the ends of the key space; all has been still for a day |
//! | `ranges FIRST COUNT "REPLICAS" …` | so many ranges alike, one after the other; leases go round |
//! | `change ID …` | other numbers for a range |
//! | `wait TIME` | time passes |
//! | `plan [budget=N]` | prints what is decided, and what is held back; does nothing |
//! | `do` | begins and ends all steps of the last `plan`; learners lag until `catch-up` |
//! | `begin` | begins them, so that they are pending; `end` ends them |
//! | `catch-up`, `lag ID NODE` | learners have their state; a replica lags |
//! | `settle [MAX]` | plans and does, half a minute at a time, until nothing is decided for two hours; prints what was done |
//! | `explain ID`, `status`, `loads` | prints why; prints all ranges; prints the loads of all shards |

mod fixtures;

use base::key::Span;
use base::{NodeId, RangeId, ShardId};
use corelane_placement::{
    Cluster, Config, Constraint, Cursor, Decision, Kind, Load, LoadSplit, Locality, Node, NodeState, Pending,
    Place, Policy, Range, Replica, Shard, explain, plan,
};
use fixtures::{MINUTE, SECOND, carry_out, catch_up, elect, weigh};
use std::error::Error;
use std::fmt::Write as _;

test_each_file::test_each_path! { in "engine/placement/tests/scripts" as scripts => |path: &std::path::Path| {
    goldenscript::run(&mut World::default(), path).expect("the script runs");
}}

const DAY: u64 = 24 * 60 * MINUTE;

struct World {
    cluster: Cluster,
    config: Config,
    cursor: Cursor,
    decided: Vec<Decision>,
    begun: Vec<Decision>,
    out: String,
}

impl Default for World {
    fn default() -> Self {
        let cluster = Cluster {
            now_ns: DAY,
            ..Cluster::default()
        };
        Self {
            cluster,
            config: Config::default(),
            cursor: Cursor::default(),
            decided: Vec::new(),
            begun: Vec::new(),
            out: String::new(),
        }
    }
}

type Outcome = Result<(), Box<dyn Error>>;

/// `600MiB`, `20ms`, `5m`, `12`.
fn amount(text: &str) -> Result<u64, Box<dyn Error>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => 60 * MINUTE,
        other => return Err(format!("unknown unit {other}").into()),
    };
    Ok(text[..digits].parse::<u64>()? * unit)
}

fn replica(text: &str) -> Result<Replica, Box<dyn Error>> {
    let (kind, rest) = match text.as_bytes().first() {
        Some(b'~') => (Kind::Learner, &text[1..]),
        Some(b'=') => (Kind::Witness, &text[1..]),
        _ => (Kind::Voter, text),
    };
    let (rest, up_to_date) = rest.strip_suffix('?').map_or((rest, true), |rest| (rest, false));
    let (node, shard) = rest.split_once('/').unwrap_or((rest, "0"));
    Ok(Replica {
        place: Place::new(NodeId(node.parse()?), ShardId(shard.parse()?)),
        kind,
        up_to_date,
        replaces: None,
        source: None,
    })
}

fn constraints(text: &str) -> Result<Vec<Constraint>, Box<dyn Error>> {
    let parse = |word| Constraint::parse(word).ok_or_else(|| format!("{word} is no constraint").into());
    text.split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(parse)
        .collect()
}

impl World {
    fn node(&mut self, id: NodeId) -> Result<&mut Node, Box<dyn Error>> {
        self.cluster
            .nodes
            .iter_mut()
            .find(|node| node.id == id)
            .ok_or_else(|| "no such node".into())
    }

    fn set(range: &mut Range, key: &str, value: &str, now: u64) -> Outcome {
        match key {
            "lease" => range.leaseholder = Some(NodeId(value.parse()?)),
            "bytes" => range.bytes = amount(value)?,
            "read" => range.cpu_read_ns = amount(value)?,
            "write" => range.cpu_write_ns = amount(value)?,
            "rps" => range.requests = amount(value)?,
            "middle" => range.middle = Some(value.as_bytes().into()),
            "split-ago" => range.split_at_ns = now - amount(value)?,
            "cold-for" => range.cold_at_ns = now - amount(value)?,
            "changed-ago" => range.changed_at_ns = now - amount(value)?,
            "halves" => {
                range.load_split = LoadSplit::At {
                    key: value.as_bytes().into(),
                    left_permille: 500,
                }
            }
            "hot" => {
                let (key, permille) = value.split_once(':').ok_or("KEY:PERMILLE")?;
                range.load_split = LoadSplit::OneKey {
                    key: key.as_bytes().into(),
                    permille: permille.parse()?,
                }
            }
            other => return Err(format!("unknown setting {other}").into()),
        }
        Ok(())
    }

    fn add_range(&mut self, id: u64, span: Span, replicas: &str, pairs: &[(&str, &str)]) -> Outcome {
        let mut range = Range {
            id: RangeId(id),
            span,
            replicas: replicas.split(' ').map(replica).collect::<Result<_, _>>()?,
            bytes: 100 << 20,
            ..Range::default()
        };
        range.leaseholder = range.replicas.first().map(|replica| replica.place.node);
        for (key, value) in pairs {
            Self::set(&mut range, key, value, self.cluster.now_ns)?;
        }
        self.cluster.ranges.push(range);
        Ok(())
    }

    fn plan(&mut self, budget: usize) -> Vec<Decision> {
        elect(&mut self.cluster);
        weigh(&mut self.cluster);
        let plan = plan(&self.cluster, &self.config, &self.cursor, budget);
        self.cursor = plan.cursor;
        self.decided = plan.decisions;
        plan.held
    }

    fn settle(&mut self, max: usize) -> Outcome {
        let (mut quiet, mut done) = (0, 0);
        while quiet < 240 {
            self.plan(1_000);
            quiet += 1;
            for decision in std::mem::take(&mut self.decided) {
                quiet = 0;
                done += 1;
                writeln!(self.out, "{} {decision}", decision.class)?;
                assert!(carry_out(&mut self.cluster, &decision), "{decision}");
                assert!(done <= max, "more than {max} steps:\n{}", self.out);
            }
            self.cluster.now_ns += 30 * SECOND;
            catch_up(&mut self.cluster);
        }
        writeln!(self.out, "silent after {done} steps")?;
        Ok(())
    }

    fn status(&mut self) -> Outcome {
        let mut ranges: Vec<&Range> = self.cluster.ranges.iter().collect();
        ranges.sort_by(|a, b| a.span.cmp(&b.span));
        for range in ranges {
            let mut replicas: Vec<String> = Vec::new();
            for replica in &range.replicas {
                let kind = match replica.kind {
                    Kind::Voter => "",
                    Kind::Learner => "~",
                    Kind::Witness => "=",
                };
                let lease = if Some(replica.place.node) == range.leaseholder {
                    "*"
                } else {
                    ""
                };
                let lag = if replica.up_to_date { "" } else { "?" };
                replicas.push(format!("{kind}{}{lag}{lease}", replica.place));
            }
            replicas.sort();
            writeln!(self.out, "{} {:?}: {}", range.id, range.span, replicas.join(" "))?;
        }
        Ok(())
    }

    fn command(&mut self, name: &str, words: &[&str], pairs: &[(&str, &str)]) -> Outcome {
        let word = |at: usize| words.get(at).copied().ok_or("an argument is missing");
        let node = |at: usize| -> Result<NodeId, Box<dyn Error>> { Ok(NodeId(word(at)?.parse()?)) };
        let pair = |key: &str| {
            pairs
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| *value)
        };
        let key = |text: &str| -> Box<[u8]> {
            if text == "min" {
                b"".as_slice().into()
            } else {
                text.as_bytes().into()
            }
        };
        match name {
            "node" => {
                let shards: u16 = pair("shards").unwrap_or("1").parse()?;
                let capacity = Load {
                    bytes: amount(pair("bytes").unwrap_or("100GiB"))?,
                    cpu_ns: amount(pair("cpu").unwrap_or("1000ms"))?,
                    leases: 0,
                };
                let shard = |id| Shard {
                    id: ShardId(id),
                    capacity,
                    load: Load::default(),
                };
                self.cluster.nodes.push(Node {
                    id: node(0)?,
                    locality: Locality::parse(words.get(1).copied().unwrap_or("")).ok_or("a locality")?,
                    state: NodeState::Live,
                    disk_permille: pair("disk").unwrap_or("0").parse()?,
                    shards: (0..shards).map(shard).collect(),
                });
            }
            "state" => {
                let since_ns = self.cluster.now_ns;
                let state = match word(1)? {
                    "live" => NodeState::Live,
                    "suspect" => NodeState::Suspect { since_ns },
                    "dead" => NodeState::Dead { since_ns },
                    "draining" => NodeState::Draining,
                    "decommissioning" => NodeState::Decommissioning,
                    "gone" => {
                        let id = node(0)?;
                        self.cluster.nodes.retain(|node| node.id != id);
                        return Ok(());
                    }
                    other => return Err(format!("unknown state {other}").into()),
                };
                self.node(node(0)?)?.state = state;
            }
            "disk" => self.node(node(0)?)?.disk_permille = word(1)?.parse()?,
            "policy" => {
                let prefix = match word(0)? {
                    "default" => Box::default(),
                    prefix => prefix.as_bytes().into(),
                };
                let mut policy = Policy {
                    prefix,
                    ..Policy::default()
                };
                for (name, value) in pairs {
                    match *name {
                        "replicas" => policy.replicas = value.parse()?,
                        "at" => policy.constraints = constraints(value)?,
                        "lease" => policy.lease_preferences.push(constraints(value)?),
                        "group" => policy.group = Some((*value).into()),
                        "split" => policy.split_bytes = amount(value)?,
                        other => return Err(format!("unknown setting {other}").into()),
                    }
                }
                self.cluster.policies.retain(|old| old.prefix != policy.prefix);
                self.cluster.policies.push(policy);
            }
            "range" => {
                let end = Some(word(2)?).filter(|end| *end != "max").map(str::as_bytes);
                let span = Span::new(&key(word(1)?), end);
                self.add_range(word(0)?.parse()?, span, word(3)?, pairs)?;
            }
            "ranges" => {
                let (first, count): (u64, u64) = (word(0)?.parse()?, word(1)?.parse()?);
                for id in first..first + count {
                    let end = format!("k{:04}", id + 1);
                    let span = Span::new(format!("k{id:04}").as_bytes(), Some(end.as_bytes()));
                    self.add_range(id, span, word(2)?, pairs)?;
                    let range = self.cluster.ranges.last_mut().ok_or("it was added")?;
                    if pair("lease").is_none() {
                        let turn = usize::try_from(id)? % range.replicas.len();
                        range.leaseholder = Some(range.replicas[turn].place.node);
                    }
                }
            }
            "change" => {
                let (id, now) = (RangeId(word(0)?.parse()?), self.cluster.now_ns);
                let range = self
                    .cluster
                    .ranges
                    .iter_mut()
                    .find(|range| range.id == id)
                    .ok_or("no such range")?;
                for (key, value) in pairs {
                    Self::set(range, key, value, now)?;
                }
            }
            "wait" => self.cluster.now_ns += amount(word(0)?)?,
            "plan" => {
                let held = self.plan(pair("budget").unwrap_or("1000").parse()?);
                for decision in &self.decided {
                    writeln!(
                        self.out,
                        "{} {}: {decision}",
                        decision.class,
                        decision.reason.code()
                    )?;
                }
                for held in &held {
                    writeln!(self.out, "{} {}: {held}", held.class, held.reason.code())?;
                }
                if self.decided.is_empty() && held.is_empty() {
                    writeln!(self.out, "nothing")?;
                }
            }
            "do" => {
                for decision in std::mem::take(&mut self.decided) {
                    assert!(carry_out(&mut self.cluster, &decision), "{decision}");
                }
            }
            "begin" => {
                for decision in std::mem::take(&mut self.decided) {
                    self.cluster.pending.push(Pending {
                        range: decision.range,
                        action: decision.action.clone(),
                    });
                    self.begun.push(decision);
                }
            }
            "end" => {
                self.cluster.pending.clear();
                for decision in std::mem::take(&mut self.begun) {
                    assert!(carry_out(&mut self.cluster, &decision), "{decision}");
                }
            }
            "catch-up" => catch_up(&mut self.cluster),
            "lag" => {
                let (id, node) = (RangeId(word(0)?.parse()?), node(1)?);
                for range in self.cluster.ranges.iter_mut().filter(|range| range.id == id) {
                    for replica in range
                        .replicas
                        .iter_mut()
                        .filter(|replica| replica.place.node == node)
                    {
                        replica.up_to_date = false;
                    }
                }
            }
            "settle" => self.settle(words.first().unwrap_or(&"500").parse()?)?,
            "explain" => {
                elect(&mut self.cluster);
                weigh(&mut self.cluster);
                let id = RangeId(word(0)?.parse()?);
                match explain(&self.cluster, &self.config, &self.cursor, id) {
                    Some(explanation) => write!(self.out, "{explanation}")?,
                    None => writeln!(self.out, "there is no {id}")?,
                }
            }
            "status" => self.status()?,
            "loads" => {
                weigh(&mut self.cluster);
                for node in &self.cluster.nodes {
                    for shard in &node.shards {
                        let Load {
                            bytes,
                            cpu_ns,
                            leases,
                        } = shard.load;
                        let (mib, ms) = (bytes >> 20, cpu_ns / 1_000_000);
                        writeln!(
                            self.out,
                            "{}/{} {mib} MiB, {ms} ms/s, {leases} leases",
                            node.id, shard.id
                        )?;
                    }
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(())
    }
}

impl goldenscript::Runner for World {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut words = Vec::new();
        let mut pairs = Vec::new();
        for argument in &command.args {
            match argument {
                goldenscript::Argument::Positional(value) => words.push(value.as_str()),
                goldenscript::Argument::KeyValue(key, value) => pairs.push((key.as_str(), value.as_str())),
                other => return Err(format!("cannot use {other}").into()),
            }
        }
        self.command(&command.name, &words, &pairs)?;
        Ok(std::mem::take(&mut self.out))
    }
}
