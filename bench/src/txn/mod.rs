//! The bench of transactions: puts and transactions by the same client library, on as many tasks, in turn.
//!
//! ```text
//!   put ─ txn-1-write ─ txn-one-range ─ txn-two-range ─ transfer-uniform ─ transfer-one-shot  one task: latency
//!   put ─ … ─ two-range ─ two-range-beside-scan ─ transfer-uniform ─ transfer-zipf
//!       ─ transfer-one-shot ─ transfer-one-shot-zipf ─ add-hot                              many tasks: throughput, CPU
//! ```
//!
//! Invariant: the accounts have after each series of transfers what they had before it, together, or the bench ends with an error.

mod accounts;
mod crew;
mod ground;

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base::Prng;

use crate::BenchError;
use crate::config::BenchConfig;
use crate::connection::{Observer, routes};
use crate::helper::Spinners;
use crate::loader::Shared;
use crate::outcome::{Run, Series};
use crate::progress::Progress;
use crate::recorder::Window;
use crate::step::{Known, Watch, as_float, figures, merge, nanos, run_threads};
use crate::workload::Layout;
use crew::{Client, Crew, Work, client};
use ground::Ground;

pub(crate) const PUT: &str = "put";
pub(crate) const ONE_WRITE: &str = "txn-1-write";
pub(crate) const ONE_RANGE: &str = "txn-one-range";
pub(crate) const TWO_RANGE: &str = "txn-two-range";
pub(crate) const UNIFORM: &str = "transfer-uniform";
pub(crate) const ONE_SHOT: &str = "transfer-one-shot";
pub(crate) const ZIPF: &str = "transfer-zipf";
pub(crate) const ONE_SHOT_ZIPF: &str = "transfer-one-shot-zipf";
pub(crate) const BESIDE_SCAN: &str = "two-range-beside-scan";
pub(crate) const ADD_HOT: &str = "add-hot";

/// All series.
pub(crate) const NAMES: [&str; 10] = [
    PUT,
    ONE_WRITE,
    ONE_RANGE,
    TWO_RANGE,
    UNIFORM,
    ONE_SHOT,
    ZIPF,
    ONE_SHOT_ZIPF,
    BESIDE_SCAN,
    ADD_HOT,
];

/// Between two scans beside writers: the scanner is a reader that looks at everything now and then, not a second load.
const SCAN_PAUSE: Duration = Duration::from_millis(100);

/// One series.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    work: Work,
    tasks: u32,
    /// Whether somebody reads everything meanwhile.
    scans: bool,
}

fn steps(tasks: u32) -> Vec<Step> {
    let plain = [
        (PUT, Work::Put),
        (ONE_WRITE, Work::OneWrite),
        (ONE_RANGE, Work::OneRange),
        (TWO_RANGE, Work::TwoRange),
        (UNIFORM, Work::Uniform),
        (ONE_SHOT, Work::OneShot),
    ];
    let many = [
        (BESIDE_SCAN, Work::TwoRange, true, TWO_RANGE),
        (ZIPF, Work::Zipf, false, UNIFORM),
        (ONE_SHOT_ZIPF, Work::OneShotZipf, false, ONE_SHOT),
    ];
    let step = |(name, work), tasks| Step {
        name,
        work,
        tasks,
        scans: false,
    };
    let mut steps: Vec<Step> = plain.into_iter().map(|one| step(one, 1)).collect();
    steps.extend(plain.into_iter().map(|one| step(one, tasks)));
    for (name, work, scans, neighbour) in many {
        let beside = steps
            .iter()
            .rposition(|step| step.name == neighbour)
            .expect("it was put there");
        let many = Step {
            scans,
            ..step((name, work), tasks)
        };
        // What is compared runs one after the other.
        steps.insert(beside + 1, many);
    }
    steps.push(step((ADD_HOT, Work::Add), tasks));
    steps
}

/// Runs all series on all targets. The records are there.
pub(crate) fn run(config: &BenchConfig, targets: &[Known<'_>]) -> Result<Vec<Series>, BenchError> {
    let grounds: Vec<(Arc<Ground>, u64)> = targets
        .iter()
        .map(|known| prepare(config, known))
        .collect::<Result<_, _>>()?;
    let steps: Vec<(usize, Step)> = (0..targets.len())
        .flat_map(|target| steps(config.tasks).into_iter().map(move |step| (target, step)))
        .filter(|(_, step)| config.series.is_empty() || config.series.iter().any(|name| name == step.name))
        .collect();
    let mut series: Vec<Series> = steps
        .iter()
        .map(|&(target, step)| Series {
            workload: step.name.to_owned(),
            target: targets[target].target.to_string(),
            shape: match step.tasks {
                1 => "1 task".to_owned(),
                tasks => format!("{tasks} tasks"),
            },
            in_flight: u64::from(step.tasks),
            runs: Vec::new(),
        })
        .collect();
    let each = config.warmup + config.duration;
    let all = config.runs * u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let progress = Progress::of_time(config.progress, each * all);
    let _spinners = config.load.spinners.then(Spinners::start).transpose()?;
    let mut done = Duration::ZERO;
    for round in 0..config.runs {
        let mut order: Vec<usize> = (0..steps.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (target, step) = steps[at];
            let (ground, total) = &grounds[target];
            progress.say(format!("{} ({})", step.name, series[at].shape));
            let one = OneRun {
                config,
                step,
                known: &targets[target],
                ground,
                seed: Prng::new(config.seed ^ u64::from(round) << 32 ^ at as u64).next_u64(),
                progress: (&progress, done),
            };
            series[at].runs.push(one.run()?);
            if step.work.is_transfer() {
                audit(config, &targets[target], *total)?;
            }
            done += each;
        }
    }
    Ok(series)
}

/// Learns which records lie where, opens the accounts, and adds them up.
fn prepare(config: &BenchConfig, known: &Known<'_>) -> Result<(Arc<Ground>, u64), BenchError> {
    let refused = |step, message: String| BenchError::Refused {
        address: known.target.address,
        step,
        message,
    };
    let Client { runtime, db } = Client::connect(known.target)?;
    let layout = Layout::new(&config.records, config.seed);
    // Asked of the leaders: other nodes hear of the last splits a little later.
    let routes = routes(known.target, config.seed)?;
    let ground = Ground::new(&layout, config.records.count, routes.starts());
    if !ground.is_divided() {
        let message = "all records lie in one range: see --split-per-shard and --keys".to_owned();
        return Err(refused("run transactions of two ranges", message));
    }
    let total = runtime.block_on(async {
        if config.records.load {
            let mut prng = Prng::new(config.seed);
            accounts::open(&db, &layout, &ground, &mut prng)
                .await
                .map_err(client("open the accounts"))?;
        }
        accounts::total(&db, &layout)
            .await
            .map_err(client("add up the accounts"))
    })?;
    if total.0 != config.records.count {
        let message = format!(
            "{} of {} accounts are there: run without --no-load, on a database of its own",
            total.0, config.records.count
        );
        return Err(refused("read the accounts", message));
    }
    Ok((Arc::new(ground), total.1))
}

/// Adds the accounts up again.
fn audit(config: &BenchConfig, known: &Known<'_>, before: u64) -> Result<(), BenchError> {
    let Client { runtime, db } = Client::connect(known.target)?;
    let layout = Layout::new(&config.records, config.seed);
    let (accounts, after) = runtime
        .block_on(accounts::total(&db, &layout))
        .map_err(client("add up the accounts"))?;
    if (accounts, after) == (config.records.count, before) {
        Ok(())
    } else {
        Err(BenchError::Total {
            accounts,
            before,
            after,
        })
    }
}

/// One run of one series.
struct OneRun<'a> {
    config: &'a BenchConfig,
    step: Step,
    known: &'a Known<'a>,
    ground: &'a Arc<Ground>,
    seed: u64,
    progress: (&'a Progress, Duration),
}

impl OneRun<'_> {
    fn run(&self) -> Result<Run, BenchError> {
        let Self { config, step, .. } = *self;
        let mut observer = Observer::connect(self.known.target, self.seed)?;
        let shared = Arc::new(Shared::default());
        let threads = config.load.threads.min(step.tasks);
        let crews = (0..threads)
            .map(|thread| self.crew(thread, threads, &shared))
            .collect::<Result<Vec<_>, _>>()?;
        let scanner = step.scans.then(|| Scanner::start(self.known)).transpose()?;
        let works = crews
            .into_iter()
            .map(|crew| move |began| crew.run(began))
            .collect();
        let watch = Watch {
            config,
            known: self.known,
            progress: self.progress,
        };
        let (findings, samples) = run_threads(works, &config.load.cpus, |began| {
            watch.over_run(began, &shared, &mut observer)
        })?;
        let beside_rows = scanner.map(Scanner::end).transpose()?;
        let (recorder, cpu) = merge(findings);
        let run = figures(&recorder, cpu, samples);
        let per_answer = |count: u64| as_float(count) / as_float(run.answers.max(1));
        Ok(Run {
            retries: (step.work != Work::Put).then(|| per_answer(recorder.retries)),
            beside_rows,
            // The client library does not count them.
            bytes_received: None,
            bytes_sent: None,
            ..run
        })
    }

    /// The share of the tasks that `thread` of `threads` runs.
    fn crew(&self, thread: u32, threads: u32, shared: &Arc<Shared>) -> Result<Crew, BenchError> {
        let Self { config, step, .. } = *self;
        Ok(Crew {
            client: Client::connect(self.known.target)?,
            work: step.work,
            tasks: step.tasks / threads + u32::from(thread < step.tasks % threads),
            window: Window {
                start_ns: nanos(config.warmup),
                end_ns: nanos(config.warmup + config.duration),
            },
            layout: Layout::new(&config.records, config.seed),
            ground: Arc::clone(self.ground),
            shared: Arc::clone(shared),
            seed: self.seed ^ u64::from(thread),
        })
    }
}

/// A reader of everything, on a thread of its own.
struct Scanner {
    end: Arc<AtomicBool>,
    began: Instant,
    thread: thread::JoinHandle<Result<u64, corelane::Error>>,
}

impl Scanner {
    fn start(known: &Known<'_>) -> Result<Self, BenchError> {
        let client = Client::connect(known.target)?;
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || crew::scan(&client, SCAN_PAUSE, &told))
            .map_err(|source| BenchError::Local {
                operation: "start a thread",
                source,
            })?;
        Ok(Self {
            end,
            began: Instant::now(),
            thread,
        })
    }

    /// Ends it; gives the rows that it read per second.
    fn end(self) -> Result<f64, BenchError> {
        let seconds = self.began.elapsed().as_secs_f64();
        self.end.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(rows) => Ok(as_float(rows.map_err(client("scan beside the writers"))?) / seconds),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_runs_one_after_the_other() {
        let names: Vec<&str> = steps(8)
            .iter()
            .filter(|step| step.tasks == 8)
            .map(|step| step.name)
            .collect();
        assert_eq!(
            names,
            [
                PUT,
                ONE_WRITE,
                ONE_RANGE,
                TWO_RANGE,
                BESIDE_SCAN,
                UNIFORM,
                ZIPF,
                ONE_SHOT,
                ONE_SHOT_ZIPF,
                ADD_HOT
            ]
        );
        assert!(
            steps(8)
                .iter()
                .filter(|step| step.tasks == 1)
                .all(|step| !step.scans)
        );
    }
}
