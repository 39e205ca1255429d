//! `kill-loop`: a campaign against a real node, for as many cycles as asked, and one line of JSON.

use anyhow::Context as _;
use clap::Parser;
use corelane_process::campaign::Campaign;
use corelane_process::process::Program;
use std::path::PathBuf;
use std::process::ExitCode;

/// Load a node, kill it with `kill -9`, restart it, compare what it holds with what it acknowledged; again and again.
///
/// Leaves 0 when nothing was lost, 1 when something was; then the data directory stays.
#[derive(Debug, Parser)]
struct Args {
    /// The binary `corelane`; by default the one beside this
    #[arg(long, env = "CORELANE_BINARY")]
    corelane: Option<PathBuf>,
    /// Where the node listens
    #[arg(long, default_value = "127.0.0.1:7700")]
    listen: String,
    /// The data directory; must not exist. By default a temporary one
    #[arg(long)]
    data: Option<PathBuf>,
    /// Decides everything but the machine's own timing
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Times that the node is killed under load
    #[arg(long, default_value_t = 200)]
    cycles: u64,
    /// Writers; every second one gives up soon, so that some writes end in doubt
    #[arg(long, default_value_t = 8)]
    writers: u16,
    /// The longest load before a kill, in milliseconds
    #[arg(long, default_value_t = 1000)]
    load_ms: u64,
    /// Split until there are so many ranges, and move them; 0 leaves them alone
    #[arg(long, default_value_t = 24)]
    ranges: usize,
    /// The largest number of shards
    #[arg(long, default_value_t = 3)]
    shards_max: u16,
    /// Draw the number of shards anew every so many cycles
    #[arg(long, default_value_t = 10)]
    shards_every: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let binary = match args.corelane {
        Some(binary) => binary,
        None => std::env::current_exe()?.with_file_name("corelane"),
    };
    let scratch = tempfile::Builder::new().prefix("corelane-kill-loop-").tempdir()?;
    let data = args.data.unwrap_or_else(|| scratch.path().join("data"));
    anyhow::ensure!(
        !data.exists(),
        "{} exists: what it holds would be taken for ours",
        data.display()
    );
    // Small limits, so that flushes, merges and recycled segments happen between kills.
    let options = ["--memory", "2MiB", "--cache", "2MiB", "--log-max", "4MiB"];
    let campaign = Campaign {
        program: Program {
            binary,
            data,
            listen: args.listen,
            options: options.map(str::to_owned).to_vec(),
        },
        seed: args.seed,
        cycles: args.cycles,
        writers: args.writers,
        load_ms: (5, args.load_ms),
        ranges_max: (args.ranges > 0).then_some(args.ranges),
        shards_max: args.shards_max,
        shards_every: args.shards_every,
        check_every: 10,
        early_kill_every: 4,
    };
    let progress = |done| {
        if done % 10 == 0 {
            eprintln!("{done} of {} cycles", args.cycles);
        }
    };
    let outcome = campaign.run(progress);
    let intact = outcome
        .as_ref()
        .is_ok_and(|summary| summary.violations().is_empty());
    if !intact {
        eprintln!("the data stays in {}", scratch.keep().display());
    }
    let summary = outcome.with_context(|| format!("seed {}", args.seed))?;
    println!("{}", summary.json());
    Ok(if intact {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
