//! What to run: a plain struct, built complete by the command line or a test, then checked once.

use core::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::{BenchError, txn};

/// Requests in flight on one connection. A server remembers this many writes of a client session.
pub const OUTSTANDING_MAX: u32 = 1024;
/// Connections of one run.
pub const CONNECTIONS_MAX: u32 = 16_384;
/// Tasks of the bench of transactions.
pub const TASKS_MAX: u32 = 4096;
/// Shortest value of the bench of transactions: the record's number and an account's balance.
const TXN_VALUE_BYTES_MIN: u32 = 16;
/// Shortest key: sixteen hexadecimal digits of the scrambled record number.
pub const KEY_BYTES_MIN: u32 = 16;
/// Longest value that the generator lays out.
pub const VALUE_BYTES_MAX: u32 = 1 << 20;
/// How long a node of several may take to take a connection.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Runs of one series.
pub const RUNS_MAX: u32 = 100;

/// The protocol of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Our own frames, one connection per shard of the hello, keys routed by the range map.
    Corelane,
    /// RESP2, as Redis and Valkey speak it.
    Redis,
    /// gRPC `etcdserverpb.KV` over HTTP/2 without TLS.
    Etcd,
}

/// A server to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Target {
    /// Reads `corelane://HOST:PORT`, `redis://HOST:PORT` (also `valkey://`) or `etcd://HOST:PORT`; the port may be left out. Of several
    /// nodes of a corelane cluster, `corelane://HOST:PORT,HOST:PORT…`, the first that takes a connection tells of the others.
    ///
    /// # Errors
    /// When the scheme is unknown or the address does not resolve.
    pub fn parse(text: &str) -> Result<Self, BenchError> {
        let wrong = |reason: &'static str| BenchError::Target {
            text: text.to_owned(),
            reason,
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("corelane", text));
        let (protocol, port) = match scheme {
            "corelane" => (Protocol::Corelane, 7400),
            "redis" | "valkey" => (Protocol::Redis, 6379),
            "etcd" => (Protocol::Etcd, 2379),
            _ => return Err(wrong("the scheme is none of corelane, redis, valkey, etcd")),
        };
        let rest = rest.trim_end_matches('/');
        let hosts: Vec<&str> = rest.split(',').collect();
        if hosts.len() > 1 && protocol != Protocol::Corelane {
            return Err(wrong("several addresses are for corelane only"));
        }
        let resolved: Option<Vec<SocketAddr>> = hosts.into_iter().map(|host| resolve(host, port)).collect();
        let addresses = resolved.ok_or_else(|| wrong("the address does not resolve"))?;
        let takes = |address: &&SocketAddr| TcpStream::connect_timeout(address, CONNECT_MAX).is_ok();
        let address = match &addresses[..] {
            [one] => one,
            several => several.iter().find(takes).unwrap_or(&several[0]),
        };
        Ok(Self {
            protocol,
            address: *address,
        })
    }
}

fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    };
    host.to_socket_addrs().ok()?.next()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Corelane => "corelane",
            Protocol::Redis => "redis",
            Protocol::Etcd => "etcd",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// What the requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Frames that come straight back, no storage: the floor of network and protocol.
    Echo,
    /// Raw durable 4 KiB writes on the server's data device: the floor of the disk.
    Disk,
    /// Durable puts over existing keys.
    Put,
    /// Gets of existing keys.
    Get,
    /// Scans of `--scan-rows` rows from a random key.
    Scan,
    /// Half reads, half updates, zipfian.
    YcsbA,
    /// 95 % reads, 5 % updates, zipfian.
    YcsbB,
    /// Reads only, zipfian.
    YcsbC,
    /// 95 % reads of the latest records, 5 % inserts.
    YcsbD,
    /// 95 % short scans, 5 % inserts, zipfian.
    YcsbE,
    /// Half reads, half read-modify-writes, zipfian.
    YcsbF,
}

impl Workload {
    /// The name that the command line uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Disk => "disk",
            Self::Put => "put",
            Self::Get => "get",
            Self::Scan => "scan",
            Self::YcsbA => "ycsb-a",
            Self::YcsbB => "ycsb-b",
            Self::YcsbC => "ycsb-c",
            Self::YcsbD => "ycsb-d",
            Self::YcsbE => "ycsb-e",
            Self::YcsbF => "ycsb-f",
        }
    }

    /// Whether the records must be there before it starts.
    #[must_use]
    pub fn reads(self) -> bool {
        !matches!(self, Self::Echo | Self::Disk | Self::Put)
    }
}

/// How records are picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// Every record alike.
    Uniform,
    /// Few records get most of the requests (exponent 0.99, as YCSB).
    Zipfian,
    /// As zipfian, the newest record being the hottest.
    Latest,
}

/// What decides when a request starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// A request starts when an answer comes back: `connections × outstanding` are always in flight.
    Closed,
    /// This many requests start per second, whatever the server does; latency counts from the intended start.
    Open {
        /// Requests per second, all connections together.
        per_second: f64,
    },
}

/// One series, or the fixed set of them that the project's figures are stated against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// One workload.
    Single(Workload),
    /// echo, get and put under load, echo, disk and put one at a time; interleaved, with their ratios.
    Floor,
    /// Puts and transactions by the client library: one task, then many; interleaved, with their ratios.
    Txn,
}

/// The records.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// How many, at least 1.
    pub count: u64,
    /// Bytes of a key, at least [`KEY_BYTES_MIN`].
    pub key_bytes: u32,
    /// Bytes of a value, 1 to [`VALUE_BYTES_MAX`].
    pub value_bytes: u32,
    /// Rows of one scan of the workload `scan`, at least 1.
    pub scan_rows: u32,
    /// Overrides the workload's own distribution.
    pub distribution: Option<Distribution>,
    /// Whether they are written before the first run.
    pub load: bool,
    /// Ranges per shard to split the key space into before loading; `None` leaves the ranges alone.
    pub split_per_shard: Option<u32>,
}

/// The load and who makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Sockets, 1 to [`CONNECTIONS_MAX`].
    pub connections: u32,
    /// Requests in flight on each, 1 to [`OUTSTANDING_MAX`]; in an open loop the bound of what may be in flight.
    pub outstanding: u32,
    /// Closed or open loop.
    pub pace: Pace,
    /// Threads of the load generator, at least 1.
    pub threads: u32,
    /// Processors that the threads are pinned to, in turn; empty leaves them to the kernel.
    pub cpus: Vec<usize>,
    /// Keeps every processor from halting with a thread of lowest priority each, so that depth-1 latency measures the
    /// software and not the wake-up of a halted virtual processor.
    pub spinners: bool,
}

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchConfig {
    /// One workload or the floor.
    pub plan: Plan,
    /// The server.
    pub target: Target,
    /// A second server, measured in turn with the first.
    pub against: Option<Target>,
    /// The records.
    pub records: Records,
    /// The load.
    pub load: Load,
    /// Left out of the figures at the start of each run.
    pub warmup: Duration,
    /// Measured time of one run, at least 100 ms.
    pub duration: Duration,
    /// Tasks that put or run transactions at once, 1 to [`TASKS_MAX`]; of [`Plan::Txn`] only.
    pub tasks: u32,
    /// Of [`Plan::Txn`], these series only; empty for all.
    pub series: Vec<String>,
    /// Runs of each series, 1 to [`RUNS_MAX`]; figures are medians over them.
    pub runs: u32,
    /// Seed of all random choices.
    pub seed: u64,
    /// The target's processes; without any, the owners of the listening ports of its nodes are looked for.
    pub server_pids: Vec<u32>,
    /// The same for `against`.
    pub against_pids: Vec<u32>,
    /// Show a progress bar.
    pub progress: bool,
}

impl BenchConfig {
    /// A short closed-loop run of `workload` against `target`.
    #[must_use]
    pub fn new(workload: Workload, target: Target) -> Self {
        Self {
            plan: Plan::Single(workload),
            target,
            against: None,
            records: Records {
                count: 100_000,
                key_bytes: KEY_BYTES_MIN,
                value_bytes: 100,
                scan_rows: 100,
                distribution: None,
                load: true,
                split_per_shard: Some(2),
            },
            load: Load {
                connections: 2,
                outstanding: 64,
                pace: Pace::Closed,
                threads: 1,
                cpus: Vec::new(),
                spinners: false,
            },
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(5),
            tasks: 64,
            series: Vec::new(),
            runs: 3,
            seed: 1,
            server_pids: Vec::new(),
            against_pids: Vec::new(),
            progress: false,
        }
    }

    /// Refuses what cannot run, naming the bound.
    ///
    /// # Errors
    /// [`BenchError::Setting`] with the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), BenchError> {
        let within = |name: &'static str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(BenchError::Setting {
                    name,
                    value,
                    low,
                    high,
                })
            }
        };
        within("keys", self.records.count, 1, 1 << 48)?;
        within(
            "key-bytes",
            self.records.key_bytes.into(),
            KEY_BYTES_MIN.into(),
            16 << 10,
        )?;
        within(
            "value-bytes",
            self.records.value_bytes.into(),
            1,
            VALUE_BYTES_MAX.into(),
        )?;
        within("scan-rows", self.records.scan_rows.into(), 1, 65_536)?;
        within(
            "connections",
            self.load.connections.into(),
            1,
            CONNECTIONS_MAX.into(),
        )?;
        within(
            "outstanding",
            self.load.outstanding.into(),
            1,
            OUTSTANDING_MAX.into(),
        )?;
        if self.plan != Plan::Txn {
            within(
                "threads",
                self.load.threads.into(),
                1,
                self.load.connections.into(),
            )?;
        }
        within("runs", self.runs.into(), 1, RUNS_MAX.into())?;
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        within("duration (ms)", duration_ms, 100, 24 * 3600 * 1000)?;
        if let Pace::Open { per_second } = self.load.pace
            && !(per_second.is_finite() && (0.01..=1e8).contains(&per_second))
        {
            return Err(BenchError::Rate { per_second });
        }
        if self.plan == Plan::Txn {
            // Two accounts at least, in two ranges.
            within("keys", self.records.count, 2, 10_000_000)?;
            within(
                "value-bytes",
                self.records.value_bytes.into(),
                TXN_VALUE_BYTES_MIN.into(),
                VALUE_BYTES_MAX.into(),
            )?;
            within("tasks", self.tasks.into(), 1, TASKS_MAX.into())?;
            within("threads", self.load.threads.into(), 1, self.tasks.into())?;
            let targets = || [Some(&self.target), self.against.as_ref()].into_iter().flatten();
            if let Some(other) = targets().find(|target| target.protocol != Protocol::Corelane) {
                return Err(BenchError::Unsupported {
                    target: other.to_string(),
                    workload: "txn",
                });
            }
            if let Some(unknown) = self
                .series
                .iter()
                .find(|name| !txn::NAMES.contains(&name.as_str()))
            {
                return Err(BenchError::Parse {
                    text: unknown.clone(),
                    expected: "a series of txn (see its table)",
                });
            }
            if self.load.pace != Pace::Closed {
                return Err(BenchError::ClosedLoop);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn of_several_nodes_one_that_is_there_is_asked() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = there.local_addr().unwrap();
        let target = Target::parse(&format!("corelane://{gone},{address}/")).unwrap();
        assert_eq!(target.address, address);
        assert_eq!(
            Target::parse(&format!("corelane://{gone}")).unwrap().address,
            gone
        );
        assert!(Target::parse(&format!("etcd://{gone},{address}")).is_err());
    }
}
