//! `fault-rounds`: faults on a cluster of real processes, one a round, under loads whose histories are checked.
//!
//! The process that is started does nothing but start itself once more, in namespaces where it can, and wait. The inner one
//! ends when its input does, so by whatever end of the outer one; it leads a process group with all that it starts, and that
//! group is killed at the end, whichever of the two is there to do it.

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use corelane_process::faketime::FakeTime;
use corelane_process::network::{Network, can_have_namespaces};
use corelane_process::rounds::{Rounds, Trouble};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No round takes so long: something hangs, and everything is killed.
const ROUND_MAX: Duration = Duration::from_secs(180);

/// Run a cluster of three nodes under load; kill, pause or cut nodes, or set their clocks; check what clients were told; again and
/// again.
///
/// Leaves 0 when no history shows an anomaly, 1 otherwise; then data and history stay.
#[derive(Debug, Parser)]
struct Args {
    /// The binary `corelane`; by default the one beside this
    #[arg(long, env = "CORELANE_BINARY")]
    corelane: Option<PathBuf>,
    /// Decides faults and operations, but not the machine's own timing
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first round
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many rounds
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// Begin no round after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// The workloads, in turn: register, append, bank
    #[arg(long, value_delimiter = ',', default_value = "register,append,bank")]
    workloads: Vec<String>,
    /// What may go wrong; clocks need libfaketime
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kill,pause,cut")]
    faults: Vec<Trouble>,
    /// A directory in which all histories are kept, for other checkers
    #[arg(long)]
    histories: Option<PathBuf>,
    /// How nodes are kept apart; by default namespaces where this user can have them
    #[arg(long, value_enum)]
    network: Option<Kind>,
    /// Set by the outer process: its own namespace is the inner one's to use
    #[arg(long, hide = true)]
    inner: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A network namespace for each node
    Namespaces,
    /// All on loopback, with relays between the nodes
    Relays,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.inner { inner(args) } else { outer(&args) }
}

fn outer(args: &Args) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe()?;
    let namespaces = match args.network {
        Some(Kind::Relays) => None,
        Some(Kind::Namespaces) => Some(
            can_have_namespaces()
                .context("this user can have no network namespaces here: try --network relays")?,
        ),
        None => can_have_namespaces(),
    };
    let kind = namespaces.map_or("relays", |_| "namespaces");
    let mut command = match namespaces {
        Some(options) => {
            let mut unshare = Command::new("unshare");
            unshare.args(options).arg(&own);
            unshare
        }
        None => Command::new(&own),
    };
    command.args(std::env::args_os().skip(1));
    if args.network.is_none() {
        command.args(["--network", kind]);
    }
    command.arg("--inner").stdin(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot start the inner process")?;
    // Its input stays open until this process ends. Waiting with it there needs it moved out: `wait` closes it.
    let input = child.stdin.take();
    let status = child.wait();
    drop(input);
    kill_group(child.id(), None);
    Ok(status?
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Kills all processes of a group, and removes a directory that they wrote to. A group without members is no error. A shell
/// outside of the group does it: the caller may be a member.
fn kill_group(leader: u32, directory: Option<&Path>) {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "kill -9 \"-$0\"; [ -z \"$1\" ] || rm -rf \"$1\"",
        &leader.to_string(),
    ]);
    shell.arg(directory.unwrap_or(Path::new("")));
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Nothing more can be done where even this fails.
    let _ = shell.process_group(0).status();
}

/// Kills the group when the outer process is gone, or a round does not end.
fn guard(scratch: &Path, began_ms: &Arc<AtomicU64>, start: Instant) {
    let end = |why: &str, directory: Option<&Path>| {
        eprintln!("{why}: all processes are killed");
        kill_group(std::process::id(), directory);
        std::process::exit(1);
    };
    let scratch = scratch.to_owned();
    std::thread::spawn(move || {
        let mut input = Vec::new();
        // An error of a pipe is an end of it, too.
        let _ = std::io::stdin().read_to_end(&mut input);
        end("interrupted", Some(&scratch));
    });
    let began_ms = began_ms.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let began = Duration::from_millis(began_ms.load(Ordering::SeqCst));
            if start.elapsed() > began + ROUND_MAX {
                end("a round does not end, its data stays", None);
            }
        }
    });
}

/// What sets clocks, when that is asked for.
fn sets_clocks(faults: &[Trouble]) -> anyhow::Result<Option<FakeTime>> {
    let asked = faults
        .iter()
        .any(|fault| matches!(fault, Trouble::Clock | Trouble::ClockBeyond));
    asked
        .then(|| FakeTime::find().context("libfaketime is not installed here: do without clock faults"))
        .transpose()
}

fn inner(args: Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let (began_ms, round) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(args.first));
    let binary = match args.corelane {
        Some(binary) => binary,
        None => std::env::current_exe()?.with_file_name("corelane"),
    };
    let scratch = tempfile::Builder::new()
        .prefix("corelane-fault-rounds-")
        .tempdir()?;
    guard(scratch.path(), &began_ms, start);
    let network = match args.network {
        Some(Kind::Namespaces) => Network::namespaces(3)?,
        Some(Kind::Relays) | None => Network::relays(3)?,
    };
    eprintln!("seed {}, {}", args.seed, network.name());
    let rounds = Rounds {
        binary,
        scratch: scratch.path().to_owned(),
        network,
        seed: args.seed,
        first: args.first,
        rounds: args.rounds,
        until: args.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
        workloads: args.workloads.clone(),
        troubles: args.faults.clone(),
        clocks: sets_clocks(&args.faults)?,
        histories: args.histories,
    };
    let names = args.faults.iter().filter_map(ValueEnum::to_possible_value);
    let names: Vec<_> = names.map(|name| name.get_name().to_owned()).collect();
    let begins = |number| {
        round.store(number, Ordering::SeqCst);
        let now = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        began_ms.store(now, Ordering::SeqCst);
    };
    let outcome = rounds.run(begins, |line| eprintln!("{line}"));
    let well = outcome.as_ref().is_ok_and(|summary| summary.failed.is_empty());
    if !well {
        eprintln!(
            "data and history stay in {}; to run the round again:\n  fault-rounds --seed {} --first {} --rounds 1 --workloads {} --faults {} --network {}",
            scratch.keep().display(),
            args.seed,
            round.load(Ordering::SeqCst),
            args.workloads.join(","),
            names.join(","),
            rounds.network.name(),
        );
    }
    println!("{}", outcome?.json());
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
