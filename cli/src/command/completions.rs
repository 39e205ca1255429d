//! `corelane completions SHELL`.

use crate::args::Cli;
use crate::error::{Exit, Outcome};
use crate::output::Output;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Example:
  corelane completions bash > /etc/bash_completion.d/corelane";

/// Print the completion script of a shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "corelane", &mut script);
    let mut out = Output::new();
    out.bytes(&script)?;
    out.flush()?;
    Ok(Exit::Ok)
}
