//! The flags of `corelane bench`, flattened into the command line, and their translation into a [`BenchConfig`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{BenchConfig, Distribution, Load, Pace, Plan, Records, Target, Workload};
use crate::{BenchError, Outcome};

/// What to run, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanArg(Plan);

impl clap::ValueEnum for PlanArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[PlanArg] = &[
            PlanArg(Plan::Floor),
            PlanArg(Plan::Txn),
            PlanArg(Plan::Single(Workload::Echo)),
            PlanArg(Plan::Single(Workload::Disk)),
            PlanArg(Plan::Single(Workload::Put)),
            PlanArg(Plan::Single(Workload::Get)),
            PlanArg(Plan::Single(Workload::Scan)),
            PlanArg(Plan::Single(Workload::YcsbA)),
            PlanArg(Plan::Single(Workload::YcsbB)),
            PlanArg(Plan::Single(Workload::YcsbC)),
            PlanArg(Plan::Single(Workload::YcsbD)),
            PlanArg(Plan::Single(Workload::YcsbE)),
            PlanArg(Plan::Single(Workload::YcsbF)),
        ];
        ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self.0 {
            Plan::Single(workload) => workload.to_possible_value(),
            Plan::Floor => Some(
                clap::builder::PossibleValue::new("floor")
                    .help("echo, disk, get and put in one go, with the ratios the project states"),
            ),
            Plan::Txn => Some(clap::builder::PossibleValue::new("txn").help(
                "transactions beside single puts, all by the client library, with the ratios the project states",
            )),
        }
    }
}

/// Flags of `corelane bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// What to run.
    #[arg(value_enum)]
    pub workload: PlanArg,
    /// The server: corelane://HOST:PORT[,HOST:PORT…], redis://HOST:PORT (Redis, Valkey) or etcd://HOST:PORT.
    #[arg(long, default_value = "corelane://127.0.0.1:7400", value_name = "URL")]
    pub target: String,
    /// A second server, measured in turn with the first in the same run.
    #[arg(long, value_name = "URL")]
    pub against: Option<String>,
    /// Sockets. With corelane, connection i speaks to shard i modulo the number of shards, with keys of that shard; in a cluster, to
    /// the shards that lead ranges, on all nodes in turn, those that lead most first; when leadership moves or a node ends, requests
    /// follow, and their latency counts from the first time that they were sent.
    #[arg(long, short = 'c', default_value_t = 2, value_name = "N")]
    pub connections: u32,
    /// Requests in flight on each connection.
    #[arg(long, short = 'o', default_value_t = 64, value_name = "N")]
    pub outstanding: u32,
    /// Open loop at this many requests per second (20k, 1.5M); latency counts from the intended start.
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// txn: tasks that put or run transactions at once; each series is also run with one task.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub tasks: u32,
    /// txn: these series only, by their names in the table.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub series: Vec<String>,
    /// Measured time of one run (10s, 500ms, 2m).
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub duration: String,
    /// Time left out at the start of each run.
    #[arg(long, default_value = "2s", value_name = "TIME")]
    pub warmup: String,
    /// Runs; figures are medians over them.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub runs: u32,
    /// Records (100k, 1M), and accounts of txn; 100k, or 10k of txn, when not given.
    #[arg(long, value_name = "COUNT")]
    pub keys: Option<String>,
    /// Bytes of a key, at least 16.
    #[arg(long, default_value_t = 16, value_name = "BYTES")]
    pub key_bytes: u32,
    /// Bytes of a value; 100, or 256 of txn, when not given.
    #[arg(long, value_name = "BYTES")]
    pub value_bytes: Option<u32>,
    /// Rows of one scan of the workload `scan`.
    #[arg(long, default_value_t = 100, value_name = "ROWS")]
    pub scan_rows: u32,
    /// How records are picked, instead of the workload's own way.
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
    /// Do not write the records first: they are there from an earlier run.
    #[arg(long)]
    pub no_load: bool,
    /// Ranges per shard to split the key space into before loading (corelane only), counting the shards of all nodes of a cluster; 0
    /// leaves the ranges alone.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub split_per_shard: u32,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: u32,
    /// Processors to pin the load generator's threads to, in turn (0,1).
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    pub cpus: Vec<usize>,
    /// Keep the processors from halting with threads of lowest priority, so that waking a virtual processor is not measured.
    #[arg(long)]
    pub spinners: bool,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The server's processes, for their CPU time, which is added up; by default the owners of the listening ports of all its nodes.
    #[arg(long, value_delimiter = ',', value_name = "PID,…")]
    pub server_pid: Vec<u32>,
    /// The processes of the `--against` server.
    #[arg(long, value_delimiter = ',', value_name = "PID,…")]
    pub against_pid: Vec<u32>,
    /// Also print every run in sixty slices of its time, 50 ms at least: for what happens to a cluster meanwhile.
    #[arg(long)]
    pub timeline: bool,
    /// Write all figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a self-contained page with plots.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// No progress bar.
    #[arg(long)]
    pub quiet: bool,
}

impl BenchArgs {
    /// The configuration that the flags ask for, checked.
    ///
    /// # Errors
    /// When a flag cannot be read or is out of its bounds.
    pub fn config(&self) -> Result<BenchConfig, BenchError> {
        let pace = match &self.rate {
            None => Pace::Closed,
            Some(text) => Pace::Open {
                per_second: parse_count(text)?,
            },
        };
        let plan = self.workload.0;
        let (keys, value_bytes) = if plan == Plan::Txn {
            ("10k", 256)
        } else {
            ("100k", 100)
        };
        let keys = self.keys.as_deref().unwrap_or(keys);
        let config = BenchConfig {
            plan,
            target: Target::parse(&self.target)?,
            against: self.against.as_deref().map(Target::parse).transpose()?,
            records: Records {
                count: whole(parse_count(keys)?, keys)?,
                key_bytes: self.key_bytes,
                value_bytes: self.value_bytes.unwrap_or(value_bytes),
                scan_rows: self.scan_rows,
                distribution: self.distribution,
                load: !self.no_load,
                split_per_shard: (self.split_per_shard > 0).then_some(self.split_per_shard),
            },
            load: Load {
                connections: self.connections,
                outstanding: self.outstanding,
                pace,
                threads: self.threads,
                cpus: self.cpus.clone(),
                spinners: self.spinners,
            },
            warmup: parse_time(&self.warmup)?,
            duration: parse_time(&self.duration)?,
            tasks: self.tasks,
            series: self.series.clone(),
            runs: self.runs,
            seed: self.seed,
            server_pids: self.server_pid.clone(),
            against_pids: self.against_pid.clone(),
            progress: !self.quiet,
        };
        config.check()?;
        Ok(config)
    }

    /// Writes the files that `--json` and `--report` name.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_files(&self, outcome: &Outcome) -> Result<(), BenchError> {
        if let Some(path) = &self.json {
            let mut text = serde_json::to_string_pretty(outcome).map_err(|e| BenchError::Output {
                path: path.display().to_string(),
                source: e.into(),
            })?;
            text.push('\n');
            write_file(path, &text)?;
        }
        if let Some(path) = &self.report {
            write_file(path, &crate::report_html(outcome))?;
        }
        Ok(())
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|source| BenchError::Output {
        path: path.display().to_string(),
        source,
    })
}

/// `20k`, `1.5M`, `300`.
fn parse_count(text: &str) -> Result<f64, BenchError> {
    let wrong = || BenchError::Parse {
        text: text.to_owned(),
        expected: "a count such as 500, 20k or 1.5M",
    };
    let trimmed = text.trim();
    let (digits, factor) = match trimmed.as_bytes().last() {
        Some(b'k' | b'K') => (&trimmed[..trimmed.len() - 1], 1e3),
        Some(b'm' | b'M') => (&trimmed[..trimmed.len() - 1], 1e6),
        _ => (trimmed, 1.0),
    };
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    if value.is_finite() && value >= 0.0 {
        Ok(value * factor)
    } else {
        Err(wrong())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be whole and far inside the range of u64"
)]
fn whole(value: f64, text: &str) -> Result<u64, BenchError> {
    if value.fract() == 0.0 && (0.0..1e15).contains(&value) {
        Ok(value as u64)
    } else {
        Err(BenchError::Parse {
            text: text.to_owned(),
            expected: "a whole number of records",
        })
    }
}

/// `10s`, `250ms`, `2m`.
fn parse_time(text: &str) -> Result<Duration, BenchError> {
    let wrong = || BenchError::Parse {
        text: text.to_owned(),
        expected: "a time such as 250ms, 10s or 2m",
    };
    let trimmed = text.trim();
    let unit_at = trimmed
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(trimmed.len());
    let value: f64 = trimmed[..unit_at].parse().map_err(|_| wrong())?;
    let seconds = match &trimmed[unit_at..] {
        "ms" => value / 1e3,
        "s" | "" => value,
        "m" => value * 60.0,
        _ => return Err(wrong()),
    };
    if (0.0..1e7).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_read_as_people_write_them() {
        assert_eq!(parse_count("20k").unwrap(), 20_000.0);
        assert_eq!(parse_count("1.5M").unwrap(), 1_500_000.0);
        assert_eq!(parse_time("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_time("2m").unwrap(), Duration::from_secs(120));
        for wrong in ["", "k", "-1", "nan", "1 0"] {
            assert!(parse_count(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "s", "-1s", "5h", "1e99s"] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
        assert!(whole(1.5, "1.5").is_err());
    }
}
