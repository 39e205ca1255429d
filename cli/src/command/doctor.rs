//! `corelane doctor`: can a node run here, and how well?

use crate::args::Global;
use crate::error::{Exit, Outcome, colour_wanted};
use crate::output::{Object, Output};
use clap::Args;
use runtime::{Check, Verdict};
use std::path::PathBuf;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane doctor
  corelane doctor --data /var/lib/corelane

Exits with 78 when a node would not start. A file is written to the data directory, and removed, to time the disk.";

/// Examine this machine: can a node run here, and how fast is its disk?.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The data directory to examine
    #[arg(
        long,
        value_name = "DIR",
        env = "CORELANE_DATA",
        default_value = "corelane-data"
    )]
    data: PathBuf,
}

pub(crate) fn run(global: &Global, args: &DoctorArgs) -> Outcome {
    let checks = runtime::inspect(&args.data);
    let mut out = Output::new();
    let colour = colour_wanted(&std::io::stdout());
    for check in &checks {
        if global.json {
            out.line(json(check))?;
        } else {
            out.line(line(check, colour))?;
        }
    }
    let bad = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Bad)
        .count();
    if !global.json {
        let verdict = match bad {
            0 => "a node can run here".to_owned(),
            1 => "a node cannot start here until the failed check is mended".to_owned(),
            bad => format!("a node cannot start here until {bad} failed checks are mended"),
        };
        out.line(format_args!("\n{verdict}"))?;
    }
    out.flush()?;
    Ok(if bad == 0 { Exit::Ok } else { Exit::Config })
}

fn word(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Good => ("ok", "\x1b[32m"),
        Verdict::Warning => ("warning", "\x1b[33m"),
        Verdict::Bad => ("failed", "\x1b[31m"),
    }
}

fn line(check: &Check, colour: bool) -> String {
    let (word, start) = word(check.verdict);
    let (start, end) = if colour { (start, "\x1b[0m") } else { ("", "") };
    let mut line = format!("{start}{word:<8}{end} {:<16} {}", check.name, check.detail);
    if let Some(remedy) = &check.remedy {
        line += &format!(
            "\n         {:<16} help: {}",
            "",
            remedy.replace('\n', "\n                          ")
        );
    }
    line
}

fn json(check: &Check) -> serde_json::Value {
    let json = Object::new()
        .set("name", check.name)
        .set("verdict", word(check.verdict).0)
        .set("detail", check.detail.clone());
    json.set("remedy", check.remedy.clone()).build()
}
