//! How a node is, for people and programs: collected from all shards, one JSON object.

use crate::message::{Answer, Ask, Origin};
use crate::shard::Shard;
use crate::state::{Message, Slot, State};
use base::ShardId;
use env::{Env, Mailbox, Tasks};
use serde::Serialize;
use std::collections::BTreeMap;
use wire::reply::StatusReply;

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
    /// Every shard.
    pub shards: Vec<ShardStatus>,
}

/// The state of a shard: counters since the start, sizes now.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// Ranges served here.
    pub ranges: u64,
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
}

impl<E: Env, B> State<E, B> {
    pub(crate) fn shard_status(&self) -> ShardStatus {
        let counts = &self.counts;
        let turns = self.env.tasks().turn_stats();
        let log = self.log.stats();
        let transport = self.transport.counters();
        let live = || self.slots.iter().filter_map(Slot::live);
        let tablets: Vec<_> = live().map(|local| local.tablet.stats()).collect();
        ShardStatus {
            shard: self.me.0,
            ranges: tablets.len() as u64,
            connections: self.transport.len() as u64,
            counts: BTreeMap::from([
                ("gets", counts.gets),
                ("writes", counts.writes),
                ("conditions_failed", counts.conditions_failed),
                ("scans", counts.scans),
                ("pages", counts.pages),
                ("forwarded", counts.forwarded),
                ("refused", counts.refused),
                ("duplicates", counts.duplicates),
                ("splits", counts.splits),
                ("moves", counts.moves),
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
                .map(|(range, what)| (range.to_string(), what.clone()))
                .collect(),
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Answers `status`: asks every shard, waits for all.
    pub(crate) async fn status(&self, origin: Origin) {
        let me = self.mailbox.shard();
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
        let status = self.with_state(|state| state.node_status(shards));
        let json =
            serde_json::to_string(&status).unwrap_or_else(|error| format!("{{\"verdict\":\"{error}\"}}"));
        self.step(|state| state.reply(origin, &StatusReply { json: &json }));
    }
}

impl<E: Env, B> State<E, B> {
    fn node_status(&self, shards: Vec<ShardStatus>) -> NodeStatus {
        let damaged: usize = shards.iter().map(|shard| shard.damage.len()).sum();
        let (verdict, advice) = match damaged {
            0 => ("ok".into(), None),
            _ => (
                format!("{damaged} ranges have damaged tables"),
                Some("stop the node and run `corelane check DIR`".into()),
            ),
        };
        NodeStatus {
            verdict,
            advice,
            version: env!("CARGO_PKG_VERSION"),
            cluster: format!("{:032x}", self.identity.cluster),
            node: self.identity.node.0,
            range_map_version: self.map.version(),
            shards,
        }
    }
}
