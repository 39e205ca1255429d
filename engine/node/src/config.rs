//! What a node is told.

use crate::cluster::Cluster;
use crate::version::Version;
use core::time::Duration;
use env::Address;
use log::LogConfig;
use std::sync::Arc;
use storage::StorageConfig;

/// The tunables of one node. The same on all its shards.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where clients and other nodes connect. Port 0 picks one.
    pub listen: Address,
    /// The nodes of the cluster; `None` for a node that is alone.
    pub cluster: Option<Arc<Cluster>>,
    /// The log of each shard; `shard` is set by the node.
    pub log: LogConfig,
    /// The storage of each shard.
    pub storage: StorageConfig,
    /// Uncovered log of one shard beyond which the range that holds the oldest segment is flushed; as much again may be held for
    /// followers that lag. Bounds the time of a restart. Default 256 MiB; hostile: 64 KiB.
    pub log_bytes_max: u64,
    /// How far back reads at a past timestamp reach. Default 10 min; hostile: 1 s.
    pub retention: Duration,
    /// Bytes of transactions' unfinished writes that a range keeps in memory; what is written beyond is on disk. Default 4 MiB; hostile:
    /// 0.
    pub spill_bytes: usize,
    /// How far a client's timestamp may be ahead of this node's clock. Default 500 ms.
    pub clock_offset_max: Duration,
    /// How far ahead of the clock the durable bound on issued timestamps is kept. Default 3 s.
    pub clock_horizon: Duration,
    /// How long a connection may take to say hello, or to complete a frame it has begun. Default 10 s.
    pub frame_timeout: Duration,
    /// Connections that one shard accepts. Default 10,000.
    pub connections_max: usize,
    /// Unanswered requests of one connection; its bytes are not read while it has more. Default 4,096.
    pub requests_max: u32,
    /// How fast a shard reads its tables again to find damage, in bytes of tables per second; one table at a time. Default 8 MiB;
    /// hostile: 1.
    pub scrub_bytes_per_second: u64,
    /// The pause after each of these tables, at least. Default 100 ms; hostile: 1 ms.
    pub scrub_pause: Duration,
    /// How often the maintenance of a shard looks around by itself. Default 250 ms.
    pub maintenance_interval: Duration,
    /// Bytes that are kept free on the disk: with less no puts are taken, with less than a quarter of it nothing at all. Default 1 GiB;
    /// hostile: 64 MiB, and 0.
    pub disk_reserve_bytes: u64,
    /// How long a log write takes on a slow disk. Default 200 ms.
    pub disk_slow: Duration,
    /// How often a shard judges its disk; it asks for free bytes every fourth time. Default 250 ms; hostile: 50 ms.
    pub disk_interval: Duration,
    /// The newest version of the protocol between nodes that this node speaks: with an older one it is what a build of that version was.
    /// Default the newest; hostile: the first one.
    pub speaks: Version,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: Address::from(([127, 0, 0, 1], 7400)),
            cluster: None,
            log: LogConfig::default(),
            storage: StorageConfig::default(),
            log_bytes_max: 256 << 20,
            retention: Duration::from_secs(600),
            spill_bytes: 4 << 20,
            clock_offset_max: Duration::from_millis(500),
            clock_horizon: Duration::from_secs(3),
            frame_timeout: Duration::from_secs(10),
            connections_max: 10_000,
            requests_max: 4096,
            scrub_bytes_per_second: 8 << 20,
            scrub_pause: Duration::from_millis(100),
            maintenance_interval: Duration::from_millis(250),
            disk_reserve_bytes: 1 << 30,
            disk_slow: Duration::from_millis(200),
            disk_interval: Duration::from_millis(250),
            speaks: Version::NEWEST,
        }
    }
}
