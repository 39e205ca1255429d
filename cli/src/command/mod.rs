//! The commands: one file each, an `Args` struct for clap and a `run`.

pub(crate) mod completions;
pub(crate) mod explain;
pub(crate) mod version;

use crate::args::{Command, Global};
use crate::error::Outcome;

/// Runs one command.
pub(crate) fn run(global: &Global, command: Command) -> Outcome {
    match command {
        Command::Explain(args) => explain::run(global, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Version(_) => version::run(global),
    }
}
