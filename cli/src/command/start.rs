//! `corelane start`: runs a node until it is asked to end.
//!
//! ```text
//!   options ─► preflight (io_uring, limits, lock) ─► one pinned executor per shard ─► node::run_shard on each
//!                                                                                       └─► "ready" on standard output
//! ```

use crate::args::{Global, parse_duration};
use crate::command::cluster::{self, ClusterArgs};
use crate::command::placement::PlacementArgs;
use crate::command::start_error;
use crate::error::{CliError, Exit, Outcome, code};
use crate::output::{Object, Output, grouped, size};
use clap::Args;
use node::{Cluster, NodeConfig, NodeError, Replayed, ShardMessage, run_shard};
use runtime::RuntimeConfig;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde_json::Value;
use std::io::Read as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::Code;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane start                                 ./corelane-data, 127.0.0.1:7400, one shard per core
  corelane start --data /var/lib/corelane --shards 4
  corelane start --dedicated                     shards poll before they sleep: lower latency, a busy core each
  corelane start --listen 0.0.0.0:7400 --insecure
  corelane start --data one --node 1 --cluster 1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403
                                                 one of three nodes; each is started with the same list

More nodes join it, and get replicas as the cluster needs them:

  corelane start --data four --node 4 --listen 127.0.0.1:7404 --join 127.0.0.1:7401

A node of a cluster listens at its own address of the list unless --listen says otherwise. Other addresses may be given later;
the numbers and --cluster-name stay: the data directory remembers them.

Prints one line, \"corelane ready: …\", on standard output when clients can connect. SIGTERM or Ctrl-C ends it in order;
kill -9 is safe too. Exits with 78 when it cannot start here; `corelane doctor` tells more.";

/// Run a node.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The data directory; made when missing
    #[arg(
        long,
        value_name = "DIR",
        env = "CORELANE_DATA",
        default_value = "corelane-data"
    )]
    data: PathBuf,
    /// Where clients and nodes connect; port 0 picks a free one. 127.0.0.1:7400 unless given, for a node of a cluster its
    /// address in the list
    #[arg(long, value_name = "ADDR", env = "CORELANE_LISTEN")]
    listen: Option<String>,
    /// Shards, each a thread on a core of its own; as many as there are cores unless given. May change between two starts
    #[arg(long, value_name = "N", env = "CORELANE_SHARDS")]
    shards: Option<u16>,
    /// The machine is ours alone: shards poll for a while before they sleep
    #[arg(long)]
    dedicated: bool,
    /// Allow an address that other machines can reach, although nothing is encrypted and nobody is asked for a password
    #[arg(long)]
    insecure: bool,
    /// Do not bind shards to cores
    #[arg(long)]
    no_pin: bool,
    /// Memory of each shard for recent writes, for example 256MiB, which is also the default; one range fills up to an eighth
    /// of it before it is flushed to a table. Has little effect much beyond --log-max. For followers that lag, leaders may keep a
    /// quarter as much again
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    memory: Option<u64>,
    /// Memory of each shard for blocks of tables, for example 256MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    cache: Option<u64>,
    /// Memory of each shard for single rows of tables that were read, for example 128MiB; 0 keeps none
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    rows: Option<u64>,
    /// Log of each shard beyond which memory is flushed to tables: bounds the time of a restart. As much again may be kept for
    /// followers that lag. 256MiB unless given
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    log_max: Option<u64>,
    /// Disk that is kept free: with less, puts are refused (C4003) and leaderships go to other nodes, while reads and deletes go on;
    /// with less than a quarter of it nothing is written. A twentieth of the disk unless given, at most 1GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Limits")]
    disk_reserve: Option<u64>,
    /// How far back reads of the past reach
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Limits")]
    retention: Option<Duration>,
    /// A loop turn longer than this is reported on standard error with a backtrace, and counted in `status`
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Limits")]
    stall_max: Option<Duration>,
    /// Connections of each shard
    #[arg(long, value_name = "N", help_heading = "Limits")]
    connections: Option<usize>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// The process that starts this one; the node is killed when that has ended
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
    /// For tests and demonstrations: heed the file FAULTS in the data directory, by which the disk pretends to be slow or full
    #[arg(long, hide = true)]
    faults: bool,
}

pub(crate) fn run(global: &Global, args: &StartArgs) -> Outcome {
    if let Some(parent) = args.parent {
        end_with(parent)?;
    }
    let seeds = args.cluster.seeds();
    let mut cluster = match seeds {
        Some(_) => None,
        None => args.cluster.cluster()?,
    };
    let listen = match (&args.listen, cluster.as_ref().and_then(cluster::own_address)) {
        (Some(listen), _) => address(listen)?,
        (None, Some(own)) => own,
        (None, None) => SocketAddr::from(([127, 0, 0, 1], 7400)),
    };
    if !args.insecure {
        let open = Some(listen).filter(|listen| !listen.ip().is_loopback());
        if let Some(open) = open.or_else(|| cluster.as_ref().and_then(cluster::open_address)) {
            return Err(open_to_others(open));
        }
    }
    if let Some(seeds) = seeds {
        cluster = Some(args.cluster.join(seeds, listen, &args.data)?);
    }
    if let Some(cluster) = &mut cluster {
        args.placement.apply(cluster)?;
    }
    let note = cluster
        .as_ref()
        .filter(|_| seeds.is_none())
        .and_then(|cluster| cluster::note_on(cluster.nodes.len()));
    if let Some(note) = note.filter(|_| !global.json) {
        eprintln!("{note}");
    }
    base::collections::seed_hashes(random_seed());
    let mut config = RuntimeConfig::new(&args.data);
    config.shards = args.shards.unwrap_or(config.shards);
    config.dedicated = args.dedicated;
    config.pin = !args.no_pin;
    config.faults = args.faults;
    config.stall_max = args.stall_max.unwrap_or(config.stall_max);
    let report = runtime::preflight(&args.data).map_err(|error| start_error::of_preflight(&error))?;
    let mut node = node_config(args, listen, cluster)?;
    node.disk_reserve_bytes = args
        .disk_reserve
        .unwrap_or_else(|| disk_reserve(report.total_bytes));
    serve(global, &config, &node)
}

/// What is kept free of a disk when nobody says how much.
fn disk_reserve(total_bytes: u64) -> u64 {
    (total_bytes / 20).min(1 << 30)
}

/// From now on the kernel kills this process when the thread that started it is gone, also while it is stopped.
fn end_with(parent: u32) -> Result<(), CliError> {
    let failed = |cause: String| {
        CliError::new(
            Code::Internal.number(),
            Exit::Config,
            "the node cannot be bound to its parent",
        )
        .cause(cause)
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.to_string()))?;
    // It may have ended before.
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == parent {
        Ok(())
    } else {
        Err(failed(format!("process {parent} is not the parent of this one")))
    }
}

fn open_to_others(address: SocketAddr) -> CliError {
    CliError::new(
        code::NOT_LOOPBACK,
        Exit::Config,
        format!("{address} can be reached from other machines"),
    )
    .cause("there is no encryption and no password yet: whoever connects may read and write everything")
    .help("use 127.0.0.1, or add --insecure if the network is yours alone")
}

fn node_config(
    args: &StartArgs,
    listen: SocketAddr,
    cluster: Option<Cluster>,
) -> Result<NodeConfig, CliError> {
    let mut config = NodeConfig {
        listen,
        cluster: cluster.map(Arc::new),
        ..NodeConfig::default()
    };
    let fits = |size: u64| {
        usize::try_from(size).map_err(|_| CliError::usage(format!("{size} bytes is more than memory can be")))
    };
    if let Some(memory) = args.memory {
        config.storage.set_memory(fits(memory)?);
    }
    if let Some(cache) = args.cache {
        config.storage.cache_bytes_max = fits(cache)?;
    }
    if let Some(rows) = args.rows {
        config.storage.rows_bytes_max = fits(rows)?;
    }
    config.log_bytes_max = args.log_max.unwrap_or(config.log_bytes_max);
    config.retention = args.retention.unwrap_or(config.retention);
    config.connections_max = args.connections.unwrap_or(config.connections_max);
    Ok(config)
}

/// Runs the shards until all have ended; the first that fails ends the others.
fn serve(global: &Global, config: &RuntimeConfig, node: &NodeConfig) -> Outcome {
    let failure: Arc<Mutex<Option<NodeError>>> = Arc::default();
    let (failed, node) = (failure.clone(), node.clone());
    let ready = Ready {
        json: global.json,
        shards: config.shards,
        data: config.data_dir.clone(),
        cluster: node.cluster.clone(),
        replayed: Arc::new(Mutex::new(vec![None; usize::from(config.shards)])),
    };
    let ended = runtime::run_shards::<ShardMessage<runtime::Socket>, _, _, _>(config, move |env, mailbox| {
        let (failed, ready) = (failed.clone(), ready.clone());
        let shard = run_shard(
            env,
            mailbox,
            node.clone(),
            move |said| ready.shard(&said),
            runtime::shutdown_requested(),
        );
        async move {
            let ended = Box::pin(shard).await;
            if let Err(error) = &ended {
                failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert_with(|| error.clone());
                runtime::request_shutdown();
            }
            ended
        }
    });
    if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(start_error::of_node(&error));
    }
    ended.map_err(|error| start_error::of_runtime(&error))?;
    if !global.json {
        eprintln!("corelane ended in order");
    }
    Ok(Exit::Ok)
}

/// Says once that clients can connect, when every shard has said so.
#[derive(Clone)]
struct Ready {
    json: bool,
    shards: u16,
    data: PathBuf,
    cluster: Option<Arc<Cluster>>,
    /// What each shard's start read from the log; `None` before the shard is ready.
    replayed: Arc<Mutex<Vec<Option<Replayed>>>>,
}

impl Ready {
    fn shard(&self, said: &node::Ready) {
        let node::Ready {
            shard,
            address,
            replayed,
        } = *said;
        if !self.json && replayed.entries > 0 {
            eprintln!("replayed: shard {} {}", shard.0, replay_text(&replayed));
        }
        let mut all = self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        all[usize::from(shard.0)] = Some(replayed);
        let Some(all) = all.iter().copied().collect::<Option<Vec<Replayed>>>() else {
            return;
        };
        let (shards, data, pid) = (self.shards, self.data.display(), std::process::id());
        let mut out = Output::new();
        let said = if self.json {
            let json = Object::new()
                .set("event", "ready")
                .set("address", address.to_string())
                .set("shards", shards);
            let mut json = json.set("data", data.to_string()).set("pid", pid);
            if let Some(cluster) = &self.cluster {
                json = json
                    .set("node", cluster.me.0)
                    .set("nodes", known_nodes(cluster))
                    .set("cluster", format!("{:032x}", cluster.id));
            }
            let replayed: Vec<_> = all.iter().map(replay_json).collect();
            out.line(json.set("replayed", replayed).build())
        } else {
            let place = self.cluster.as_ref().map_or_else(String::new, |cluster| {
                let of = known_nodes(cluster).map_or_else(String::new, |count| format!(" of {count}"));
                format!("node {}{of}, ", cluster.me.0)
            });
            out.line(format_args!(
                "corelane ready: {place}listening on {address}, {shards} shards, data in {data}, pid {pid}"
            ))
        };
        // A supervisor that closed our output is none of the clients' business.
        let _ = said.and_then(|()| out.flush());
    }
}

/// How many nodes the cluster has, as far as this one was told; `None` for one that comes back to a cluster that it joined.
fn known_nodes(cluster: &Cluster) -> Option<usize> {
    let count = cluster.nodes.len() + cluster.seeds.len();
    (!cluster.founders.is_empty() || !cluster.seeds.is_empty()).then_some(count)
}

/// What a start read from the log, for people.
fn replay_text(replayed: &Replayed) -> String {
    format!(
        "read {} entries, {} in {} segments of log, in {:.2} s ({} MB/s)",
        grouped(replayed.entries),
        size(replayed.bytes),
        replayed.segments,
        replayed.took.as_secs_f64(),
        replayed.megabytes_per_second()
    )
}

/// The same for programs, with the names that `status` has.
fn replay_json(replayed: &Replayed) -> Value {
    Object::new()
        .set("segments", replayed.segments)
        .set("entries", replayed.entries)
        .set("bytes", replayed.bytes)
        .set(
            "took_us",
            u64::try_from(replayed.took.as_micros()).unwrap_or(u64::MAX),
        )
        .set("megabytes_per_second", replayed.megabytes_per_second())
        .build()
}

/// The first address that `text` stands for.
pub(crate) fn address(text: &str) -> Result<SocketAddr, CliError> {
    let refused = |why: String| {
        CliError::new(
            Code::InvalidAddress.number(),
            Exit::Config,
            format!("cannot listen at `{text}`"),
        )
        .cause(why)
        .help("write HOST:PORT, for example 127.0.0.1:7400")
    };
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| refused(error.to_string()))?;
    found
        .next()
        .ok_or_else(|| refused("the name has no address".to_owned()))
}

/// A seed that nobody outside can guess, so that chosen keys do not collide. Without it the default seed serves.
fn random_seed() -> u64 {
    let mut seed = [0; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed)) {
        Ok(()) => u64::from_le_bytes(seed),
        Err(_) => 0x5eed ^ u64::from(std::process::id()),
    }
}

/// A number of bytes in text: digits and `KiB`, `MiB` or `GiB`, or digits alone.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err("write a number with its unit: 64KiB, 256MiB, 2GiB".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a number with its unit: 256MiB".to_owned())?;
    number
        .checked_mul(scale)
        .ok_or_else(|| "that is more than 64 bits hold".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "MiB", "1.5GiB", "1XB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_twentieth_of_a_disk_is_kept_free() {
        assert_eq!(disk_reserve(10 << 30), 512 << 20);
        assert_eq!(disk_reserve(10 << 40), 1 << 30);
    }

    #[test]
    fn a_replay_is_said_with_its_speed() {
        let replayed = Replayed {
            segments: 8,
            entries: 1_200_000,
            bytes: 500_000_000,
            took: Duration::from_millis(2_000),
        };
        assert_eq!(
            replay_text(&replayed),
            "read 1,200,000 entries, 476.8 MiB in 8 segments of log, in 2.00 s (250 MB/s)"
        );
        assert_eq!(Replayed::default().megabytes_per_second(), 0);
    }

    #[test]
    fn addresses_are_resolved_or_refused() {
        assert_eq!(address("127.0.0.1:0").unwrap().port(), 0);
        assert_eq!(address("nonsense").unwrap_err().exit, Exit::Config);
    }
}
