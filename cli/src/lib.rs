//! The command line `corelane`: one file per command, and what the commands share.
//!
//! ```text
//!   main ─► args (clap) ─► command::* ─► corelane (client) ─► a node
//!                             │    └───► node on runtime       (start)
//!                             └────────► record, checkpoint    (import, export: pure)
//!                          error: a sentence, a cause, a remedy, a code, an exit code
//! ```
//!
//! Invariants:
//! - Results go to standard output, everything else to standard error, so that pipes stay clean.
//! - Every command prints for people by default and JSON for programs with `--json`.
//! - No command retries a write that may have happened, except `import`, whose writes may be repeated.

mod args;
mod bytes;
mod checkpoint;
mod command;
mod error;
mod offline;
mod output;
mod past;
mod presplit;
pub mod record;
mod session;

use clap::Parser as _;
use std::process::ExitCode;

/// Runs the command that the process's arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return args::report_usage(&error),
    };
    match command::run(cli.command) {
        (Ok(exit), _) => exit.into(),
        (Err(error), json) => {
            error.report(json);
            error.exit.into()
        }
    }
}
