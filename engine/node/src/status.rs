//! How a node is, for people and programs: collected from all shards, one JSON object.

use crate::ailing::Size;
use crate::cluster::Member;
use crate::contention::{ConflictStatus, Contention};
use crate::gauge::{Ailment, Reading};
use crate::local::Local;
use crate::message::{Answer, Ask, Origin, ShardMessage};
use crate::read::ReadGuard;
use crate::shard::Shard;
use crate::start::{First, race};
use crate::state::{Message, Route, Slot, State};
use base::{Index, RangeId, ReplicaId, ShardId};
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox, Tasks};
use replica::group::{life_of, node_of, replica_on};
use serde::Serialize;
use std::collections::BTreeMap;
use storage::Tablet;
use wire::reply::StatusReply;

/// How long a map of ranges waits for what the other shards say of theirs: a client asks another node after half a second.
const RANGES_WAIT: Duration = Duration::from_millis(200);
/// How often a replica's content is read until no entry comes meanwhile.
const TRIES_MAX: u32 = 4;

/// The state of a node. Field names are part of the interface: programs read them.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// `ok`, or what is wrong.
    pub verdict: String,
    /// What to do about it, when there is something.
    pub advice: Option<String>,
    /// The server's version.
    pub version: &'static str,
    /// The cluster's id, in hexadecimal.
    pub cluster: String,
    /// The node's id.
    pub node: u64,
    /// The version of the range map.
    pub range_map_version: u64,
    /// Who leads the ranges that this node has replicas of.
    pub ranges: RangesStatus,
    /// Which versions of the protocol between nodes count.
    pub protocol: ProtocolStatus,
    /// How the disk of its data directory is.
    pub disk: DiskStatus,
    /// The failure domains of the node, if it was told any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// How nodes are meant to be used, those of which something was said.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub standings: BTreeMap<u64, &'static str>,
    /// The other nodes of the cluster; none for a node that is alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<MemberStatus>,
    /// The prefixes of keys on which requests were most often in each other's way since the start, the first one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictStatus>,
    /// Every shard.
    pub shards: Vec<ShardStatus>,
    /// Every replica of this node, by range, when it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaStatus>,
}

/// A range of one shard, for the map that a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeStatus {
    /// The range.
    pub range: u64,
    /// The node that leads it, as far as this one knows.
    pub leader: Option<u64>,
    /// The nodes whose replicas vote; none while they change.
    pub voters: Vec<u64>,
}

/// A replica, and checksums to compare with those of the range's other replicas that have applied the same entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// The range.
    pub range: u64,
    /// Which one of the node's replicas of the range it is: later ones have greater numbers.
    pub life: u32,
    /// Whether it leads, with the right to answer reads.
    pub leads: bool,
    /// Nodes whose replicas vote as of what is applied, those of an earlier configuration that is not left yet included.
    pub voters: Vec<u64>,
    /// Nodes whose replicas only learn.
    pub learners: Vec<u64>,
    /// The index of the last entry that is applied.
    pub applied: u64,
    /// Up to when reads are served whoever leads, in nanoseconds since the Unix epoch; zero when that is not known.
    pub closed_ns: u64,
    /// Of the log up to there.
    pub log: u32,
    /// Of the results that are remembered for clients; an hour after its last write, one replica may forget a client before another.
    pub sessions: u32,
    /// Of the newest version of every key that has a value. `None` when it could not be read, or entries came meanwhile.
    pub content: Option<u32>,
}

/// Who leads ranges, as their replicas here see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RangesStatus {
    /// Ranges with a replica here.
    pub replicas: u64,
    /// Those that this node leads, with the right to answer reads.
    pub leads: u64,
    /// Those without a leader that this node knows and that lives.
    pub leaderless: u64,
    /// Ranges heard of whose state has not come yet; not among the replicas.
    pub awaited: u64,
    /// Unfinished writes of transactions.
    pub intents: u64,
    /// Those of them that are spilled to disk.
    pub spilled: u64,
}

/// Versions of the protocol between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProtocolStatus {
    /// The newest that the node speaks.
    pub speaks: u16,
    /// The one that is active: it rises when all nodes of the cluster speak a later one, and never falls.
    pub active: u16,
}

/// The disk of a node's data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskStatus {
    /// `ok`; `slow` when log writes take long; `full` when less is free than the reserve.
    pub state: &'static str,
    /// For how many seconds it is not `ok`.
    pub seconds: u64,
    /// Bytes that are free; `None` when that cannot be told.
    pub free_bytes: Option<u64>,
    /// Bytes that are kept free: with less puts are refused, with less than a quarter of it all writes.
    pub reserve_bytes: u64,
    /// What a log write took in the last seconds, on average, in microseconds.
    pub write_us: u64,
}

impl DiskStatus {
    fn of(reading: Reading, reserve_bytes: u64, now: Instant) -> Self {
        let is_well = reading.ailment == Ailment::None;
        Self {
            state: reading.ailment.word(),
            seconds: if is_well {
                0
            } else {
                now.since(reading.since).as_secs()
            },
            free_bytes: reading.free_bytes,
            reserve_bytes,
            write_us: u64::try_from(reading.write.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// What is to be said of a disk, and what to do, if it ails.
fn judge_disk(reading: Reading, disk: &DiskStatus) -> Option<(String, &'static str)> {
    let seconds = disk.seconds;
    match reading.ailment {
        Ailment::None => None,
        Ailment::Slow => Some((
            format!(
                "the disk is slow for {seconds} s: a log write takes {} ms",
                disk.write_us / 1000
            ),
            "look after the disk of the data directory; its leaderships go to other nodes by themselves, and come back",
        )),
        Ailment::Full => Some((
            format!(
                "the disk is full for {seconds} s: {} are free and {} are kept, so puts are refused here",
                Size(disk.free_bytes.unwrap_or_default()),
                Size(disk.reserve_bytes)
            ),
            "free some space, or delete keys; puts are taken again by themselves when there is room. More nodes take some of the data",
        )),
    }
}

/// Another node, as all shards of this one see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// The node's id.
    pub node: u64,
    /// Where clients reach it.
    pub address: String,
    /// Whether every shard of this node supports it and is supported by it: whether it lives.
    pub answers: bool,
    /// Shards of this node that support it: it may lead as far as they are concerned.
    pub supported_by_shards: u64,
    /// Shards of this node that it supports: they may lead as far as it is concerned.
    pub supports_shards: u64,
    /// The newest version of the protocol between nodes that it speaks, as it said last; `None` when it has not since this node started.
    pub speaks: Option<u16>,
    /// What it said when it refused this node; `None` when it did not, or was connected since then.
    pub refusal: Option<String>,
}

impl MemberStatus {
    fn add(&mut self, other: Self) {
        self.answers &= other.answers;
        self.supported_by_shards += other.supported_by_shards;
        self.supports_shards += other.supports_shards;
        self.speaks = self.speaks.max(other.speaks);
        self.refusal = self.refusal.take().or(other.refusal);
    }
}

/// The state of a shard: counters since the start, sizes now.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// Ranges with a replica here.
    pub ranges: u64,
    /// Those that this shard leads.
    pub leads: u64,
    /// Who leads them; the node's sum is shown.
    #[serde(skip)]
    pub led: RangesStatus,
    /// Other nodes as this shard sees them; the node's sum is shown.
    #[serde(skip)]
    pub nodes: Vec<MemberStatus>,
    /// The disk as this shard sees it; the node's sum is shown.
    #[serde(skip)]
    pub(crate) disk: Reading,
    /// Where conflicts are; the node's sum is shown.
    #[serde(skip)]
    pub(crate) contention: Contention,
    /// Connections open.
    pub connections: u64,
    /// Counters of requests and turns, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Loop turns that were too long, by name; `starved` ones had no processor.
    pub turns: BTreeMap<&'static str, u64>,
    /// The log, by name.
    pub log: BTreeMap<&'static str, u64>,
    /// What the start read from the log, by name.
    pub replayed: BTreeMap<&'static str, u64>,
    /// Memtables and tables, by name.
    pub storage: BTreeMap<&'static str, u64>,
    /// Bytes, frames and sends, by name.
    pub transport: BTreeMap<&'static str, u64>,
    /// Closed connections, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Damaged ranges, with what was found.
    pub damage: BTreeMap<String, String>,
    /// How many of them take part in nothing any more and are being replaced from other nodes.
    pub replacing: u64,
}

impl<E: Env, B> State<E, B> {
    pub(crate) fn shard_status(&self) -> ShardStatus {
        let counts = &self.counts;
        let turns = self.env.tasks().turn_stats();
        let log = self.log.stats();
        let transport = self.transport.counters();
        let live = || self.slots.iter().filter_map(Slot::live);
        let tablets: Vec<_> = live().map(|local| local.tablet.stats()).collect();
        let led = self.led();
        ShardStatus {
            shard: self.me.0,
            ranges: tablets.len() as u64,
            leads: led.leads,
            led,
            nodes: self.members_seen(),
            disk: self.gauge.reading(),
            contention: self.contention.clone(),
            connections: self.transport.len() as u64,
            counts: BTreeMap::from([
                ("gets", counts.gets),
                ("closed_reads", counts.closed_reads),
                ("writes", counts.writes),
                ("conditions_failed", counts.conditions_failed),
                ("scans", counts.scans),
                ("pages", counts.pages),
                ("forwarded", counts.forwarded),
                ("refused", counts.refused),
                ("duplicates", counts.duplicates),
                ("splits", counts.splits),
                ("merges", counts.merges),
                ("moves", counts.moves),
                ("scrubs", counts.scrubs),
                ("turns", counts.turns),
                ("echoes", counts.echoes),
                ("disk_writes", counts.disk_writes),
            ]),
            turns: BTreeMap::from([
                ("stalls", turns.stalls),
                ("starved", turns.starved),
                (
                    "longest_us",
                    u64::try_from(turns.turn_max.as_micros()).unwrap_or(u64::MAX),
                ),
            ]),
            log: BTreeMap::from([
                ("entries", log.entries),
                ("batches", log.batches),
                ("device_writes", log.device_writes),
                ("bytes", log.bytes),
                ("padding_bytes", log.padding_bytes),
                ("live_bytes", log.live_bytes),
                ("held_bytes", log.held_bytes),
                ("segments_live", log.segments_live),
                ("segments_spare", log.segments_spare),
                ("segments_recycled", log.segments_recycled),
            ]),
            replayed: BTreeMap::from([
                ("segments", self.replayed.segments),
                ("entries", self.replayed.entries),
                ("bytes", self.replayed.bytes),
                (
                    "took_us",
                    u64::try_from(self.replayed.took.as_micros()).unwrap_or(u64::MAX),
                ),
                ("megabytes_per_second", self.replayed.megabytes_per_second()),
            ]),
            storage: BTreeMap::from([
                ("memtable_bytes", self.storage.memory_bytes() as u64),
                ("tables", tablets.iter().map(|t| t.tables as u64).sum()),
                ("table_bytes", tablets.iter().map(|t| t.table_bytes).sum()),
                ("flushes", tablets.iter().map(|t| t.flushes).sum()),
                ("merges", tablets.iter().map(|t| t.merges).sum()),
            ]),
            transport: BTreeMap::from([
                ("opened", transport.opened),
                ("handed_over", transport.handed_over),
                ("received_bytes", transport.received_bytes),
                ("receives", transport.receives),
                ("frames", transport.frames),
                ("sent_bytes", transport.sent_bytes),
                ("sends", transport.sends),
                ("replies", transport.replies),
                ("paused", transport.paused),
            ]),
            closed: transport.closed,
            damage: self
                .damage
                .iter()
                .map(|(range, what)| (*range, what.clone()))
                .chain(self.injured.findings())
                .map(|(range, what)| (range.to_string(), what))
                .collect(),
            replacing: self.injured.findings().count() as u64,
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Answers `status`: asks every shard, waits for all.
    pub(crate) async fn status(&self, origin: Origin, replicas: bool) {
        let me = self.mailbox.shard();
        let replicas = if replicas {
            self.replicas_of_node().await
        } else {
            Vec::new()
        };
        let asked: Vec<_> = (0..self.mailbox.shards())
            .map(ShardId)
            .filter(|&shard| shard != me)
            .map(|shard| self.step(|state| state.ask(shard, Ask::Status)))
            .collect();
        let mut shards = vec![self.with_state(|state| state.shard_status())];
        for answer in asked {
            if let Some(Answer::Status(status)) = answer.await {
                shards.push(*status);
            }
        }
        shards.sort_by_key(|status| status.shard);
        let status = NodeStatus {
            replicas,
            ..self.with_state(|state| state.node_status(shards))
        };
        let json =
            serde_json::to_string(&status).unwrap_or_else(|error| format!("{{\"verdict\":\"{error}\"}}"));
        self.step(|state| state.reply(origin, &StatusReply { json: &json }));
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Who leads the ranges of the other shards, and votes in them, by range. Shards that do not answer soon are left out: the map says
    /// less of their ranges, and clients find out.
    pub(crate) async fn ranges_of_others(&self) -> BTreeMap<u64, RangeStatus> {
        let me = self.mailbox.shard();
        let others = (0..self.mailbox.shards())
            .map(ShardId)
            .filter(|&shard| shard != me);
        let ask = |shard| {
            self.step(|state| {
                let takes_more = state.takes_more(shard);
                takes_more.then(|| state.ask_by_ticket(shard, Ask::Ranges))
            })
        };
        let asked: Vec<_> = others.filter_map(ask).collect();
        let mut ranges = BTreeMap::new();
        let mut end = core::pin::pin!(self.env.clock().sleep(RANGES_WAIT));
        let mut is_over = false;
        for (ticket, answer) in asked {
            let answer = match is_over {
                false => race(answer, end.as_mut()).await,
                true => race(answer, core::future::ready(())).await,
            };
            match answer {
                First::Left(Some(Answer::Ranges(more))) => {
                    ranges.extend(more.into_iter().map(|range| (range.range, range)));
                }
                // The node is stopping.
                First::Left(_) => {}
                First::Right(()) => {
                    base::sometimes!("node: a map of ranges does not wait for a shard");
                    is_over = true;
                    self.with_state(|state| state.tickets.remove(&ticket));
                }
            }
        }
        ranges
    }

    /// The replicas of all shards.
    async fn replicas_of_node(&self) -> Vec<ReplicaStatus> {
        let me = self.mailbox.shard();
        let asked: Vec<_> = (0..self.mailbox.shards())
            .map(ShardId)
            .filter(|&shard| shard != me)
            .map(|shard| self.step(|state| state.ask(shard, Ask::Replicas)))
            .collect();
        let mut replicas = self.replicas().await;
        for answer in asked {
            if let Some(Answer::Replicas(more)) = answer.await {
                replicas.extend(more);
            }
        }
        replicas.sort_by_key(|replica| replica.range);
        replicas
    }

    /// Tells another shard of the replicas of this one.
    pub(crate) async fn replicas_for(&self, from: ShardId, ticket: u64) {
        let answer = Answer::Replicas(self.replicas().await);
        self.step(|state| state.send(from, ShardMessage::Answer { ticket, answer }));
    }

    /// The replicas of this shard, one after another: their whole content is read.
    async fn replicas(&self) -> Vec<ReplicaStatus> {
        let mut ranges: Vec<_> = self.with_state(|state| state.here.keys().copied().collect());
        ranges.sort_unstable();
        let mut replicas = Vec::new();
        for range in ranges {
            for _ in 0..TRIES_MAX {
                let Some((tablet, reads)) = self.with_state(|state| state.begin_look(range)) else {
                    break;
                };
                let content = tablet.content_checksum().await;
                drop(reads);
                // Looked at in the same step: what was read belongs to the entry that is the last one still.
                let content = content.ok().flatten();
                let Some(replica) = self.with_state(|state| state.replica_status(range, content)) else {
                    break;
                };
                let is_last = content.is_some();
                replicas.retain(|known: &ReplicaStatus| known.range != range.0);
                replicas.push(replica);
                if is_last {
                    break;
                }
            }
        }
        replicas
    }
}

impl<E: Env, B> State<E, B> {
    /// Who leads the ranges of this shard, and votes in them.
    pub(crate) fn range_statuses(&self) -> Vec<RangeStatus> {
        let here =
            (0..self.map.entries().len()).filter(|position| matches!(self.routes[*position], Route::Here(_)));
        let status = |position: usize| RangeStatus {
            range: self.map.entries()[position].descriptor.range.0,
            leader: self.leader_at(position).map(|node| node.0),
            voters: self.voters_at(position),
        };
        here.map(status).collect()
    }

    /// A range's tablet, which stays while it is read.
    fn begin_look(&self, range: RangeId) -> Option<(Tablet<E>, ReadGuard)> {
        let local = self.slots[*self.here.get(&range)? as usize].live()?;
        Some((local.tablet.clone(), ReadGuard::new(&local.reads)))
    }

    fn replica_status(&self, range: RangeId, content: Option<(Index, u32)>) -> Option<ReplicaStatus> {
        let slot = *self.here.get(&range)?;
        let local = self.slots[slot as usize].live()?;
        let group = local.replica.group();
        let members = &group.applied.membership;
        let on = |replicas: &[ReplicaId]| {
            let mut nodes: Vec<_> = replicas.iter().map(|replica| node_of(*replica).0).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        Some(ReplicaStatus {
            range: range.0,
            life: life_of(group.id),
            leads: self.leads_now(local, self.env.clock().wall_ns()),
            voters: on(&[members.voters(), members.outgoing()].concat()),
            learners: on(members.learners()),
            applied: group.applied.last.index.0,
            closed_ns: self.closed_ts(slot).wall_ns,
            log: group.applied.chain,
            sessions: local.replica.sessions_checksum(),
            content: content
                .filter(|(index, _)| *index == group.applied.last.index)
                .map(|(_, content)| content),
        })
    }

    /// Who leads the ranges of this shard.
    fn led(&self) -> RangesStatus {
        let wall_ns = self.env.clock().wall_ns();
        let mut led = RangesStatus {
            awaited: self.strangers.len() as u64,
            ..RangesStatus::default()
        };
        for local in self.slots.iter().filter_map(Slot::live) {
            led.replicas += 1;
            led.leads += u64::from(self.leads_now(local, wall_ns));
            led.leaderless += u64::from(!self.is_led(local, wall_ns));
            led.intents += local.replica.provisional().len().0 as u64;
            led.spilled += local.replica.provisional().spilled_len();
        }
        led
    }

    /// Whether the range is led here, and nobody else can lead it now.
    pub(crate) fn leads_now(&self, local: &Local<E>, wall_ns: u64) -> bool {
        let has_lease = || {
            let neighbours = self.neighbours.as_ref();
            neighbours.is_some_and(|neighbours| neighbours.lease_ns(local) > wall_ns)
        };
        local.leads() && (local.is_alone() || has_lease())
    }

    /// Whether the range has a leader of which this node knows, and which lives as far as this node can tell.
    fn is_led(&self, local: &Local<E>, wall_ns: u64) -> bool {
        match local.seat.raft.leader() {
            // Nobody else can lead it: after a start or a move it does as soon as its vote is on the disk.
            None => local.is_alone(),
            Some(leader) if leader == local.seat.raft.id() => self.leads_now(local, wall_ns),
            Some(leader) => {
                let neighbours = self.neighbours.as_ref();
                neighbours.is_some_and(|neighbours| neighbours.support(leader).given.is_some())
            }
        }
    }

    /// The other nodes as this shard sees them.
    fn members_seen(&self) -> Vec<MemberStatus> {
        let Some(neighbours) = &self.neighbours else {
            return Vec::new();
        };
        let seen = |Member { node, address, .. }: Member| {
            let support = neighbours.support(replica_on(node, 0));
            MemberStatus {
                node: node.0,
                address: address.to_string(),
                answers: support.given.is_some() && support.received.is_some(),
                supported_by_shards: support.given.is_some().into(),
                supports_shards: support.received.is_some().into(),
                speaks: self.spoken_by(node),
                refusal: neighbours.links.refusal(node),
            }
        };
        neighbours.others().map(seen).collect()
    }

    fn node_status(&self, shards: Vec<ShardStatus>) -> NodeStatus {
        let damaged: u64 = shards.iter().map(|shard| shard.damage.len() as u64).sum();
        let replacing: u64 = shards.iter().map(|shard| shard.replacing).sum();
        let mut ranges = RangesStatus::default();
        let mut nodes: Vec<MemberStatus> = Vec::new();
        let mut reading = self.gauge.reading();
        let mut contention = Contention::default();
        for shard in &shards {
            contention.add(&shard.contention);
            reading = reading.with(shard.disk);
            ranges.replicas += shard.led.replicas;
            ranges.leads += shard.led.leads;
            ranges.leaderless += shard.led.leaderless;
            ranges.awaited += shard.led.awaited;
            ranges.intents += shard.led.intents;
            ranges.spilled += shard.led.spilled;
            for seen in &shard.nodes {
                match nodes.iter_mut().find(|known| known.node == seen.node) {
                    Some(known) => known.add(seen.clone()),
                    None => nodes.push(seen.clone()),
                }
            }
        }
        let (verdict, advice) = match damaged {
            0 => judge(ranges, &nodes),
            _ if damaged == replacing => (
                format!("{damaged} damaged replicas are being replaced from other nodes"),
                Some(
                    "nothing, if the other nodes of these ranges live: a new replica needs all but this one to agree; \
                     `damage` in the status as JSON names the files, and look after the disk"
                        .into(),
                ),
            ),
            _ => (
                format!("{damaged} ranges are damaged"),
                Some(
                    "`damage` in the status as JSON says what is; stop the node and run `corelane check DIR`".into(),
                ),
            ),
        };
        let disk = DiskStatus::of(reading, self.gauge.reserve_bytes(), self.env.clock().now());
        let (verdict, advice) = match judge_disk(reading, &disk) {
            None => (verdict, advice),
            Some((ailing, advised)) if verdict == "ok" => (ailing, Some(advised.to_owned())),
            Some((ailing, advised)) => (
                format!("{verdict}; {ailing}"),
                Some(advice.unwrap_or_else(|| advised.to_owned())),
            ),
        };
        let cluster = self.config.cluster.as_ref();
        let standings = self
            .placer
            .iter()
            .flat_map(|placer| placer.words.book().standings.iter());
        NodeStatus {
            verdict,
            advice,
            version: env!("CARGO_PKG_VERSION"),
            cluster: format!("{:032x}", self.identity.cluster),
            node: self.identity.node.0,
            range_map_version: self.map.version(),
            ranges,
            protocol: ProtocolStatus {
                speaks: self.config.speaks.0,
                active: self.versions.active().0,
            },
            disk,
            locality: cluster
                .map(|cluster| cluster.locality.to_string())
                .unwrap_or_default(),
            standings: standings
                .map(|(node, standing)| (node.0, standing.name()))
                .collect(),
            nodes,
            conflicts: contention.statuses(),
            shards,
            replicas: Vec::new(),
        }
    }
}

/// What is to be said of the cluster: `ok`, or what is wrong and what to do.
fn judge(ranges: RangesStatus, nodes: &[MemberStatus]) -> (String, Option<String>) {
    let silent: Vec<&MemberStatus> = nodes.iter().filter(|node| !node.answers).collect();
    let mut wrong: Vec<String> = Vec::new();
    if ranges.leaderless > 0 {
        wrong.push(format!(
            "{} of {} ranges have no leader",
            ranges.leaderless, ranges.replicas
        ));
    }
    if ranges.awaited > 0 {
        wrong.push(format!("the state of {} ranges has not come yet", ranges.awaited));
    }
    match *silent {
        [] => {}
        [node] => wrong.push(format!("node {} at {} does not answer", node.node, node.address)),
        _ => {
            let of = silent.iter().map(|node| node.node.to_string());
            wrong.push(format!(
                "nodes {} do not answer",
                of.collect::<Vec<_>>().join(" and ")
            ));
        }
    }
    if wrong.is_empty() {
        return ("ok".into(), None);
    }
    let refused = silent.iter().find_map(|node| {
        Some(format!(
            "node {} refuses this one: {}",
            node.node,
            node.refusal.as_ref()?
        ))
    });
    let advice = refused.or_else(|| {
        let why =
            "start the nodes that are down with the same list, or look at the network between the nodes";
        (!silent.is_empty()).then(|| why.into())
    });
    (wrong.join("; "), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, answers: bool, refusal: Option<&str>) -> MemberStatus {
        MemberStatus {
            node,
            address: format!("127.0.0.1:740{node}"),
            answers,
            supported_by_shards: answers.into(),
            supports_shards: answers.into(),
            speaks: None,
            refusal: refusal.map(Into::into),
        }
    }

    #[test]
    fn a_disk_that_ails_is_named_with_what_to_do() {
        let said = |ailment, free_bytes| {
            let reading = Reading {
                ailment,
                since: Instant(5_000_000_000),
                free_bytes: Some(free_bytes),
                write: Duration::from_millis(350),
            };
            let disk = DiskStatus::of(reading, 1 << 30, Instant(12_000_000_000));
            judge_disk(reading, &disk).map(|(what, _)| what)
        };
        assert_eq!(said(Ailment::None, 5), None);
        assert_eq!(
            said(Ailment::Slow, 5 << 30).as_deref(),
            Some("the disk is slow for 7 s: a log write takes 350 ms")
        );
        assert_eq!(
            said(Ailment::Full, 300 << 20).as_deref(),
            Some(
                "the disk is full for 7 s: 300 MiB are free and 1024 MiB are kept, so puts are refused here"
            )
        );
    }

    #[test]
    fn the_verdict_names_what_is_wrong_with_the_cluster() {
        let led = RangesStatus {
            replicas: 4,
            leads: 1,
            ..RangesStatus::default()
        };
        assert_eq!(judge(led, &[node(2, true, None)]), ("ok".into(), None));
        let (verdict, advice) = judge(led, &[node(2, false, None), node(3, true, None)]);
        assert_eq!(verdict, "node 2 at 127.0.0.1:7402 does not answer");
        assert!(advice.is_some_and(|advice| advice.contains("start the nodes that are down")));
        let lost = RangesStatus { leaderless: 4, ..led };
        let (verdict, advice) = judge(
            lost,
            &[node(2, false, Some("another cluster")), node(3, false, None)],
        );
        assert_eq!(
            verdict,
            "4 of 4 ranges have no leader; nodes 2 and 3 do not answer"
        );
        assert_eq!(
            advice.as_deref(),
            Some("node 2 refuses this one: another cluster")
        );
    }
}
