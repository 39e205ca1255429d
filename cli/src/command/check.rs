//! `corelane check DIR`: verifies every checksum of a data directory, offline.

use crate::args::Global;
use crate::command::start_error;
use crate::error::{CliError, Exit, Outcome, code};
use crate::offline;
use crate::output::{Object, Output, grouped, size};
use base::{RangeId, ShardId};
use clap::Args;
use env::Env;
use log::LogError;
use std::path::PathBuf;
use storage::{StorageError, Tablet};

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane check corelane-data
  corelane check /var/lib/corelane --json

Reads all logs and tables and changes nothing. Exits with 65 when something is damaged, and names it by file and offset.";

/// Verify every checksum of a data directory, while no node runs on it.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// What was found in one log or one range's tables.
#[derive(Debug)]
struct Finding {
    what: String,
    /// What was read, in words.
    read: String,
    damage: Vec<String>,
}

pub(crate) fn run(global: &Global, args: &CheckArgs) -> Outcome {
    let shards = offline::shards(&args.dir)?;
    let findings = offline::run(&args.dir, |env| inspect(env, shards))?;
    let mut out = Output::new();
    let mut damaged = 0;
    for finding in &findings {
        damaged += finding.damage.len();
        if global.json {
            let json = Object::new()
                .set("what", finding.what.clone())
                .set("read", finding.read.clone());
            out.line(json.set("damage", finding.damage.clone()).build())?;
            continue;
        }
        let verdict = if finding.damage.is_empty() {
            "ok"
        } else {
            "DAMAGED"
        };
        out.line(format_args!("{verdict:<8} {:<20} {}", finding.what, finding.read))?;
        for damage in &finding.damage {
            out.line(format_args!("         {damage}"))?;
        }
    }
    out.flush()?;
    if damaged == 0 {
        return Ok(Exit::Ok);
    }
    let found = code::ALL.iter().find(|entry| entry.0 == code::DAMAGE_FOUND);
    Err(CliError::new(
        code::DAMAGE_FOUND,
        Exit::Data,
        format!("{damaged} damaged {} in {}", if damaged == 1 { "place" } else { "places" }, args.dir.display()),
    )
    .help(found.map_or("", |entry| entry.2)))
}

async fn inspect<E: Env>(env: E, shards: Vec<ShardId>) -> Result<Vec<Finding>, CliError> {
    let mut findings = Vec::new();
    for shard in shards {
        findings.push(check_log(&env, shard).await?);
    }
    let ranges = Tablet::list(&env).await.map_err(|error| of_storage(&error))?;
    for range in ranges {
        findings.push(check_tables(&env, range).await?);
    }
    Ok(findings)
}

async fn check_log<E: Env>(env: &E, shard: ShardId) -> Result<Finding, CliError> {
    let dir = log_dir(shard);
    let report = log::verify::verify(env, &dir, shard, &mut |_| {})
        .await
        .map_err(|error| of_log(&error))?;
    let read = match &report.end {
        _ if report.damage.is_some() => "up to the damage".to_owned(),
        None => format!("{} records, {}", grouped(report.records), size(report.bytes)),
        Some(cut) => format!(
            "{} records, {}; ends at {}, offset {} ({})",
            grouped(report.records),
            size(report.bytes),
            cut.file,
            cut.offset,
            cut.found
        ),
    };
    let damage = report.damage.iter().map(ToString::to_string).collect();
    Ok(Finding {
        what: format!("log of shard {}", shard.0),
        read,
        damage,
    })
}

async fn check_tables<E: Env>(env: &E, range: RangeId) -> Result<Finding, CliError> {
    let damage = Tablet::verify(env, range)
        .await
        .map_err(|error| of_storage(&error))?;
    let damage: Vec<String> = damage
        .iter()
        .map(|damage| format!("{}: {}", damage.file, damage.error))
        .collect();
    Ok(Finding {
        what: format!("tables of {range}"),
        read: "manifest and tables".to_owned(),
        damage,
    })
}

/// Where a shard's log lies, below the data directory.
pub(crate) fn log_dir(shard: ShardId) -> String {
    format!("shard-{}/wal", shard.0)
}

pub(crate) fn of_log(error: &LogError) -> CliError {
    match error {
        LogError::Disk(error) => start_error::of_disk(error),
        LogError::Config(_) | LogError::Corruption(_) | LogError::Version { .. } | LogError::Closed => {
            let code = wire::Code::FormatUnknown;
            CliError::new(code.number(), Exit::Data, "the log cannot be read")
                .cause(error.to_string())
                .help(code.help())
        }
    }
}

pub(crate) fn of_storage(error: &StorageError) -> CliError {
    match error {
        StorageError::Disk(error) => start_error::of_disk(error),
        other => {
            let code = wire::Code::Corruption;
            CliError::new(code.number(), Exit::Data, "the tables cannot be read")
                .cause(other.to_string())
                .help(code.help())
        }
    }
}
