//! The command line as a whole: what every command shares, and the list of commands.

use crate::bytes;
use crate::command;
use crate::error::{CliError, Exit, code};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::time::Duration;

const ABOUT: &str = "A key-value store with one event loop per core";

const EXAMPLES: &str = "\
Examples:
  corelane start                              serve ./corelane-data on 127.0.0.1:7400
  corelane put greeting 'hello, world'
  corelane get greeting
  corelane scan --prefix gree
  corelane import packages.tsv                first column the key, the rest the value
  corelane shell                              the same, interactive
  corelane status
  corelane demo                               a cluster on this machine, and a bank that survives what you do to it

Exit codes: 0 done, 1 not found, 2 condition failed or conflict, 64 wrong command line, 65 wrong data, 69 no node answered,
74 local file trouble, 75 try again, 78 the node cannot start here. `corelane explain C2001` explains an error's code.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "corelane", version, about = ABOUT, after_help = EXAMPLES, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The node to talk to, or several of one cluster: `HOST:PORT[,HOST:PORT…]`, with or without `corelane://` before it
    #[arg(
        long,
        global = true,
        env = "CORELANE_CONNECT",
        default_value = "127.0.0.1:7400",
        value_name = "ADDRS"
    )]
    pub(crate) connect: String,
    /// How long one operation may take, for example 500ms, 5s, 2m
    #[arg(long, global = true, default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Keys and values are hexadecimal digits, in arguments and in what is printed
    #[arg(long, global = true)]
    pub(crate) hex: bool,
}

impl Global {
    /// The bytes of a key or value given as an argument: as they stand, or hexadecimal digits with `--hex`.
    pub(crate) fn bytes(&self, argument: OsString) -> Result<Vec<u8>, CliError> {
        let given = argument.into_vec();
        if !self.hex {
            return Ok(given);
        }
        bytes::parse_hex(&given).map_err(|error| {
            CliError::new(
                code::BAD_BYTES,
                Exit::Usage,
                format!("`{}` is not hexadecimal", bytes::Show(&given)),
            )
            .cause(error.to_string())
            .help("with --hex, write `6b6579` for the key `key`")
        })
    }

    /// [`Self::bytes`] of an argument that may be missing.
    pub(crate) fn bytes_if(&self, argument: Option<OsString>) -> Result<Option<Vec<u8>>, CliError> {
        argument.map(|argument| self.bytes(argument)).transpose()
    }
}

/// A command's own options and those of every command. `bench` stands alone: its `--json` names a file.
#[derive(Debug, Args)]
pub(crate) struct With<T: Args> {
    #[command(flatten)]
    pub(crate) args: T,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    #[command(after_help = command::start::HELP)]
    Start(With<command::start::StartArgs>),
    /// Run a cluster on this machine, with a bank over it, and break things
    #[command(after_help = command::demo::HELP)]
    Demo(With<command::demo::DemoArgs>),
    /// Examine this machine: can a node run here, and how fast is its disk?
    #[command(after_help = command::doctor::HELP)]
    Doctor(With<command::doctor::DoctorArgs>),
    /// Print the value of a key
    #[command(after_help = command::get::HELP)]
    Get(With<command::get::GetArgs>),
    /// Set a key to a value
    #[command(after_help = command::put::HELP)]
    Put(With<command::put::PutArgs>),
    /// Add to the number that a key has
    #[command(after_help = command::add::HELP)]
    Add(With<command::add::AddArgs>),
    /// Conditions and changes that happen together, or not at all
    #[command(after_help = command::txn::HELP)]
    Txn(With<command::txn::TxnArgs>),
    /// Delete a key, or a span of keys
    #[command(after_help = command::del::HELP)]
    Del(With<command::del::DelArgs>),
    /// List keys and values in order
    #[command(after_help = command::scan::HELP)]
    Scan(With<command::scan::ScanArgs>),
    /// Work interactively, with completion and history
    #[command(after_help = command::shell::HELP)]
    Shell(With<command::shell::ShellArgs>),
    /// Load a file of records: TSV, CSV or JSON lines
    #[command(after_help = command::import::HELP)]
    Import(With<command::import::ImportArgs>),
    /// Write records to a file: TSV, CSV or JSON lines
    #[command(after_help = command::export::HELP)]
    Export(With<command::export::ExportArgs>),
    /// How the node is: one verdict, then the figures
    #[command(after_help = command::status::HELP)]
    Status(With<command::status::StatusArgs>),
    /// List, split, move and place ranges
    #[command(after_help = command::range::HELP)]
    Range(With<command::range::RangeArgs>),
    /// List, drain and remove the nodes of a cluster
    #[command(after_help = command::node::HELP)]
    Node(With<command::node::NodeArgs>),
    /// Set and list what a cluster is to do with keys, by prefix
    #[command(after_help = command::policy::HELP)]
    Policy(With<command::policy::PolicyArgs>),
    /// Measure a node, or a peer, under load; or write a history of operations for checkers
    Bench(BenchCommand),
    /// Run operations given as JSON lines, one answer per line
    #[command(after_help = command::script::HELP)]
    Script(With<command::script::ScriptArgs>),
    /// Verify every checksum of a data directory, offline
    #[command(after_help = command::check::HELP)]
    Check(With<command::check::CheckArgs>),
    /// Decode logs, tables and frames
    #[command(after_help = command::debug::HELP)]
    Debug(With<command::debug::DebugArgs>),
    /// Explain an error code
    #[command(after_help = command::explain::HELP)]
    Explain(With<command::explain::ExplainArgs>),
    /// Print the completion script of a shell
    #[command(after_help = command::completions::HELP)]
    Completions(command::completions::CompletionsArgs),
    /// Print the version and how this binary was built
    Version(With<command::version::VersionArgs>),
}

/// A measurement, or one of the workloads that write histories.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BenchCommand {
    #[command(subcommand)]
    pub(crate) history: Option<command::history::HistoryCommand>,
    #[command(flatten)]
    pub(crate) load: Option<bench::BenchArgs>,
}

/// Reports what clap found wrong (or the help asked for), with our exit code.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
    // Nothing can be reported when even this cannot be printed.
    let _ = error.print();
    exit.into()
}

/// A time span in text: a number and `ms`, `s`, `m` or `h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write a number with its unit: 500ms, 5s, 2m, 1h".to_owned()),
    };
    let seconds = number.parse::<f64>().map_err(|error| error.to_string())? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "1d", "1e400s", "5 s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
