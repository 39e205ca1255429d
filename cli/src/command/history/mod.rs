//! `corelane bench register|append|bank`: a small load whose every operation is written down, for checkers of others.
//!
//! ```text
//!   client 0 ─┐                        ┌─ register: read, write, compare-and-set of one key
//!   client 1 ─┼─► pick ─► invoke line ─┼─ append:   transaction of reads of and appends to lists ─► ok, fail or info line
//!   …         ┘                        └─ bank:     transaction that transfers, or reads all accounts
//! ```
//!
//! - `line` lays out operations and their ends as Jepsen operation maps, in EDN or JSON. Pure.
//! - `load` picks operations, carries them out and writes them down.
//!
//! Not a measurement: `corelane bench put` and the others are.

mod line;
mod load;

use crate::args::{Global, With, parse_duration};
use crate::error::{CliError, Exit, Outcome};
use crate::output::print;
use crate::session;
use clap::{Args, Subcommand, ValueEnum};
use corelane::Isolation;
use std::path::PathBuf;
use std::time::Duration;

/// Keys or accounts, at most: one transaction opens all accounts.
const KEYS_MAX: u32 = 1000;
/// Ranges that are split off, at most.
const RANGES_MAX: u32 = 100;
/// Clients, at most: each has connections of its own.
const CLIENTS_MAX: u32 = 1000;

const HELP: &str = "\
Examples:
  corelane bench register --history register.edn
  corelane bench append --connect 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 --timeout 2s --history append.edn

The file has one Jepsen operation map a line: JSON when it is called .jsonl or .json, else EDN; :time is nanoseconds since
the start. :fail is an operation that did definitely not happen, :info one of unknown outcome, whose :process number is not
used again. What the keys under --prefix held is removed before the first operation, and ranges are split off for them.";

const REGISTER: &str = "\
Operations: :read, :write and :cas of independent keys, with :value [KEY VALUE], [KEY VALUE] and [KEY [OLD NEW]]. They are no
transactions, so --isolation is not asked for.";
const APPEND: &str = "\
Operations: :txn, transactions with one to four micro-operations, [:append KEY ELEMENT] and [:r KEY LIST], over several lists;
:isolation says what each is promised. One of four reads two lists and appends to one of them, which shows write skew. The
last operation reads all lists.";
const BANK: &str = "\
Operations: :transfer {:from A :to B :amount N} and :read of all balances, transactions both; :isolation says what each is
promised.";

/// The workloads that write histories.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// Write a history of registers, for checkers of linearizability
    #[command(after_help = format!("{HELP}\n{REGISTER}"))]
    Register(With<HistoryArgs>),
    /// Write a history of transactions over lists that only grow, for checkers of cycles of dependencies
    #[command(after_help = format!("{HELP}\n{APPEND}"))]
    Append(With<HistoryArgs>),
    /// Write a history of transfers between accounts, whose sum must not change
    #[command(after_help = format!("{HELP}\n{BANK}"))]
    Bank(With<HistoryArgs>),
}

/// What kind of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    Register,
    Append,
    Bank,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Append => "append",
            Self::Bank => "bank",
        }
    }
}

/// What transactions are promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Promise {
    Snapshot,
    Serializable,
    /// Strict serializable
    Strict,
    /// Another one for each client, in turn
    Mixed,
}

impl Promise {
    /// What the transactions of one client are promised.
    fn of(self, client: u64) -> Isolation {
        match (self, client % 3) {
            (Self::Snapshot, _) | (Self::Mixed, 1) => Isolation::Snapshot,
            (Self::Serializable, _) | (Self::Mixed, 2) => Isolation::Serializable,
            (Self::Strict | Self::Mixed, _) => Isolation::StrictSerializable,
        }
    }

    /// What histories call it, as the command line does.
    fn name(isolation: Isolation) -> &'static str {
        match isolation {
            Isolation::Snapshot => "snapshot",
            Isolation::Serializable => "serializable",
            Isolation::StrictSerializable => "strict",
        }
    }
}

/// Options of the workloads that write histories.
#[derive(Debug, Clone, Args)]
pub(crate) struct HistoryArgs {
    /// The file to write, replaced if it exists
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// Clients, each with connections of its own and one operation at a time
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u32,
    /// Keys, or accounts; at least 2 accounts
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,
    /// What transactions are promised
    #[arg(long, value_enum, default_value = "strict")]
    isolation: Promise,
    /// Ranges over which the keys are spread; at most one for each key
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RANGES_MAX)))]
    ranges: u32,
    /// How long operations are begun; the last ones may take --timeout longer
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    duration: Duration,
    /// Begin no more operations than this
    #[arg(long, visible_alias = "txns", value_name = "N")]
    ops: Option<u64>,
    /// Operations begun per second, at most, by all clients together
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// What the names of all keys begin with; keys that exist under it are removed
    #[arg(long, default_value = "bench-history/", value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prefix: String,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

pub(crate) fn run(command: HistoryCommand) -> (Outcome, bool) {
    let (workload, with) = match command {
        HistoryCommand::Register(with) => (Workload::Register, with),
        HistoryCommand::Append(with) => (Workload::Append, with),
        HistoryCommand::Bank(with) => (Workload::Bank, with),
    };
    let outcome = write(&with.global, workload, &with.args);
    (outcome, with.global.json)
}

fn write(global: &Global, workload: Workload, args: &HistoryArgs) -> Outcome {
    if workload == Workload::Bank && args.keys < 2 {
        return Err(CliError::usage(
            "a bank needs two accounts: give --keys 2 or more",
        ));
    }
    let runtime = session::runtime()?;
    let local = tokio::task::LocalSet::new();
    let counts = runtime.block_on(local.run_until(load::run(global, workload, args)))?;
    let file = args.history.display().to_string();
    let text = format!(
        "{}: {} operations, {} ok, {} fail, {} info, longest time without a success {} ms; history in {file}",
        workload.name(),
        counts.begun,
        counts.ok,
        counts.fail,
        counts.info,
        counts.gap_ns_max / 1_000_000,
    );
    let json = serde_json::json!({
        "workload": workload.name(), "operations": counts.begun, "ok": counts.ok, "fail": counts.fail,
        "info": counts.info, "gap_ms_max": counts.gap_ns_max / 1_000_000, "history": file,
    });
    print(global, text, &json)?;
    Ok(Exit::Ok)
}
