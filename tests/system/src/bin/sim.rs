//! Runs seeds: `sim --seed N`, `sim --seeds A..B`, `sim --minutes M`, with `--cluster` of several nodes, with `--moves` of several nodes
//! whose ranges move between shards all the time; `--history FILE` writes the calls of the last run. `sim --trials N` damages the disk of one of three nodes N times, and says what became of it.
//!
//! A failed seed is run again by `sim --seed N --history FILE`; the same seed and commit give the same run.

use corelane_system::scenario::Scenario;
use corelane_system::swarm::{Total, try_run};
use corelane_system::trials::Trials;
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::time::Duration;

// A run allocates millions of small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
sim [--cluster | --moves] [--merges] [--seed N | --seeds A..B] [--minutes M] [--history FILE] [--failures N] [--verbose]
sim --trials N [--seed FIRST]

  --cluster        several nodes, whose ranges have replicas; a third of the seeds have nodes of two builds
  --moves          several nodes, whose ranges move between shards all the time
  --merges         neighbouring ranges are merged as well
  --seed, --seeds  which runs; with --minutes from the first one on, for so long
  --history FILE   runs one seed, and writes what its clients did
  --failures N     ends after so many runs that failed: 10 unless given
  --trials N       damages the disk of one of three nodes, N times";

/// What the command line asks for.
#[derive(Debug, Clone)]
struct Arguments {
    seeds: std::ops::Range<u64>,
    minutes: Option<u64>,
    history: Option<String>,
    verbose: bool,
    failures_max: usize,
    cluster: bool,
    moves: bool,
    merges: bool,
    trials: Option<u64>,
}

impl Arguments {
    fn scenario(&self, seed: u64) -> Scenario {
        let scenario = self.draw(seed);
        if self.merges {
            scenario.with_merges()
        } else {
            scenario
        }
    }

    fn draw(&self, seed: u64) -> Scenario {
        if self.moves {
            Scenario::draw_moves(seed)
        } else if self.cluster {
            Scenario::draw_cluster(seed).with_upgrades()
        } else {
            Scenario::draw(seed)
        }
    }

    /// What names the kind of scenario on the command line.
    fn kind(&self) -> &'static str {
        match (self.moves, self.cluster) {
            (true, _) => "--moves ",
            (false, true) => "--cluster ",
            (false, false) => "",
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        seeds: 1..2,
        minutes: None,
        history: None,
        verbose: false,
        failures_max: 10,
        cluster: false,
        moves: false,
        merges: false,
        trials: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            println!("{USAGE}");
            std::process::exit(0);
        }
        if word == "--cluster" {
            parsed.cluster = true;
            continue;
        }
        if word == "--merges" {
            parsed.merges = true;
            continue;
        }
        if word == "--moves" {
            parsed.moves = true;
            continue;
        }
        if word == "--verbose" {
            parsed.verbose = true;
            continue;
        }
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|error| format!("{word} {text}: {error}"))
        };
        match word.as_str() {
            "--seed" => {
                let seed = number(&value)?;
                parsed.seeds = seed..seed.saturating_add(1);
            }
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or(format!("{value} is not A..B"))?;
                parsed.seeds = number(from)?..number(to)?;
            }
            "--trials" => parsed.trials = Some(number(&value)?),
            "--minutes" => parsed.minutes = Some(number(&value)?),
            "--history" => parsed.history = Some(value),
            "--failures" => parsed.failures_max = usize::try_from(number(&value)?).unwrap_or(usize::MAX),
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(parsed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the swarm's own clock: nothing simulated sees it"
)]
fn elapsed() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

fn one(scenario: &Scenario, history: &str) -> ExitCode {
    match try_run(scenario) {
        Ok(run) => {
            println!("{scenario:#?}\n{}", run.print());
            run.journal.iter().for_each(|line| println!("{line}"));
            if let Err(error) = std::fs::write(history, run.history.print()) {
                eprintln!("{history}: {error}");
            }
            run.wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
            ExitCode::from(u8::from(!run.wrong.is_empty()))
        }
        Err(panic) => {
            println!("{panic}");
            ExitCode::FAILURE
        }
    }
}

/// What a terminal shows meanwhile; `of` so many, if that is known.
fn progress(of: Option<u64>) -> ProgressBar {
    let (bar, template) = match of {
        Some(of) => (
            ProgressBar::new(of),
            "{wide_bar} {pos} of {len}, {eta} left, {msg} failed",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {pos} runs in {elapsed}, {msg} failed",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_message("0")
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Trials of damage from a seed on.
fn damage(first: u64, count: u64) -> ExitCode {
    let mut trials = Trials::default();
    let progress = progress(Some(count));
    for seed in first..first.saturating_add(count) {
        trials.add(seed);
        progress.set_message(trials.wrong.len().to_string());
        progress.inc(1);
    }
    progress.finish_and_clear();
    print!("{}", trials.print());
    println!("{:.0} s", elapsed().as_secs_f64());
    ExitCode::from(u8::from(!trials.wrong.is_empty()))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    elapsed();
    if let Some(trials) = arguments.trials {
        return damage(arguments.seeds.start, trials);
    }
    if let Some(history) = &arguments.history {
        return one(&arguments.scenario(arguments.seeds.start), history);
    }
    let seeds = match arguments.minutes {
        Some(_) => arguments.seeds.start..u64::MAX,
        None => arguments.seeds.clone(),
    };
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let mut total = Total::default();
    let progress = progress(limit.is_none().then(|| seeds.end.saturating_sub(seeds.start)));
    for seed in seeds {
        let before = elapsed();
        let good = total.add_run(&arguments.scenario(seed));
        progress.set_message(total.wrong.len().to_string());
        progress.inc(1);
        if arguments.verbose {
            progress.suspend(|| eprintln!("seed {seed}: {:?}", elapsed() - before));
        }
        if !good {
            let wrong = total
                .wrong
                .last()
                .map(|(_, wrong)| wrong.clone())
                .unwrap_or_default();
            progress.suspend(|| {
                println!(
                    "FAILED: cargo run --profile sim -p corelane-system --bin sim -- {}{}--seed {seed} --history /dev/stdout",
                    arguments.kind(),
                    if arguments.merges { "--merges " } else { "" }
                );
                wrong.iter().take(3).for_each(|wrong| println!("  {wrong}"));
            });
        }
        if total.wrong.len() >= arguments.failures_max || limit.is_some_and(|limit| elapsed() >= limit) {
            break;
        }
    }
    progress.finish_and_clear();
    print!("{}", total.print());
    let hours = elapsed().as_secs_f64() / 3600.0;
    println!(
        "{:.0} s; per hour: {:.0} virtual hours, {:.0} calls",
        elapsed().as_secs_f64(),
        total.hours() / hours,
        f64::from(u32::try_from(total.calls()).unwrap_or(u32::MAX)) / hours
    );
    ExitCode::from(u8::from(!total.wrong.is_empty()))
}
