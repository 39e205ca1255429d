//! The order of a bench: prepare the targets, load the records, run the series in turn, form the ratios.
//!
//! Runs of all series alternate (A B, B A, A B …) rather than follow in blocks: what drifts on a shared machine then
//! drifts for all of them, and a ratio is formed between neighbours in time before the median is taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{BenchConfig, Pace, Plan, Protocol, Target, Workload};
use crate::connection::{connect, server_pids, spread};
use crate::driver::supports;
use crate::helper::Spinners;
use crate::lane::{LoadCursor, Source};
use crate::loader::{Assignment, Shared, drive};
use crate::machine::MachineFacts;
use crate::outcome::{Outcome, Series};
use crate::progress::Progress;
use crate::ratio::ratios;
use crate::recorder::{Recorder, Window};
use crate::step::{Known, OneRun, Step, as_float, merge, run_threads};
use crate::workload::{Layout, Population, operations};
use crate::{BenchError, config, txn};

/// Connections that load records, unless the target has more shards, and requests in flight on each.
const LOAD_CONNECTIONS: u32 = 8;
const LOAD_OUTSTANDING: u32 = 128;
/// How often the end of loading is looked for.
const LOAD_TICK: Duration = Duration::from_millis(5);

/// Runs what `config` asks for.
///
/// # Errors
/// When the configuration is wrong, a server cannot be reached or breaks off, or a workload is not in its protocol.
pub fn run(config: &BenchConfig) -> Result<Outcome, BenchError> {
    config.check()?;
    let began_unix_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // Before the bench's own load.
    let machine = MachineFacts::read();
    let known = |target, told: &[u32]| {
        let pids = if told.is_empty() {
            server_pids(target, config.seed)
        } else {
            told.to_vec()
        };
        Known { target, pids }
    };
    let mut targets = vec![known(&config.target, &config.server_pids)];
    targets.extend(
        config
            .against
            .as_ref()
            .map(|target| known(target, &config.against_pids)),
    );
    let steps = steps(config, &targets)?;
    let mut loading = Vec::new();
    for known in &targets {
        let shards = spread(known.target, &config.records, config.seed)?;
        if config.records.load {
            loading.push((known.target.to_string(), load(config, known.target, shards)?));
        }
    }
    let series = match config.plan {
        Plan::Txn => txn::run(config, &targets)?,
        Plan::Single(_) | Plan::Floor => run_steps(config, &targets, &steps)?,
    };
    let ratios = ratios(config.plan, &series);
    let settings = settings(config, &targets);
    Ok(Outcome {
        began_unix_s,
        settings,
        machine,
        loading,
        series,
        ratios,
    })
}

/// The series of a plan, for every target.
fn steps(config: &BenchConfig, targets: &[Known<'_>]) -> Result<Vec<Step>, BenchError> {
    let mut steps = Vec::new();
    for (index, known) in targets.iter().enumerate() {
        let able = |workload| {
            operations(workload)
                .iter()
                .all(|&op| supports(known.target.protocol, op))
        };
        let config::Load {
            connections,
            outstanding,
            pace,
            ..
        } = config.load;
        let loaded = |workload| Step {
            target: index,
            workload,
            connections,
            outstanding,
            pace,
        };
        let single = |workload| Step {
            connections: 1,
            outstanding: 1,
            pace: Pace::Closed,
            ..loaded(workload)
        };
        match config.plan {
            Plan::Single(workload) if able(workload) => steps.push(loaded(workload)),
            Plan::Single(workload) => {
                return Err(BenchError::Unsupported {
                    target: known.target.to_string(),
                    workload: workload.name(),
                });
            }
            // Its series are its own.
            Plan::Txn => {}
            // Peers lack parts of the floor: they are measured on the rest.
            Plan::Floor => {
                steps.extend(
                    [Workload::Echo, Workload::Get, Workload::Put]
                        .into_iter()
                        .filter(|&w| able(w))
                        .map(loaded),
                );
                steps.extend(
                    [Workload::Echo, Workload::Disk, Workload::Put]
                        .into_iter()
                        .filter(|&w| able(w))
                        .map(single),
                );
            }
        }
    }
    Ok(steps)
}

fn run_steps(config: &BenchConfig, targets: &[Known<'_>], steps: &[Step]) -> Result<Vec<Series>, BenchError> {
    let mut series: Vec<Series> = steps
        .iter()
        .map(|step| Series {
            workload: step.workload.name().to_owned(),
            target: targets[step.target].target.to_string(),
            shape: step.shape(),
            in_flight: u64::from(step.connections) * u64::from(step.outstanding),
            runs: Vec::new(),
        })
        .collect();
    let each = config.warmup + config.duration;
    let all = config.runs * u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let progress = Progress::of_time(config.progress, each * all);
    let _spinners = config.load.spinners.then(Spinners::start).transpose()?;
    let population = |_: &Known<'_>| Arc::new(Population::new(config.records.count));
    let populations: Vec<Arc<Population>> = targets.iter().map(population).collect();
    let mut done = Duration::ZERO;
    for round in 0..config.runs {
        let forwards = 0..steps.len();
        let order: Vec<usize> = if round % 2 == 0 {
            forwards.collect()
        } else {
            forwards.rev().collect()
        };
        for at in order {
            let step = &steps[at];
            let known = &targets[step.target];
            progress.say(format!(
                "{} on {} ({})",
                series[at].workload, known.target, series[at].shape
            ));
            let bench = OneRun {
                config,
                step,
                known,
                population: &populations[step.target],
                round,
                progress: (&progress, done),
            };
            series[at].runs.push(bench.run()?);
            done += each;
        }
    }
    Ok(series)
}

/// Writes every record once; gives puts per second.
fn load(config: &BenchConfig, target: &Target, shards: u16) -> Result<f64, BenchError> {
    let count = LOAD_CONNECTIONS.max(shards.into());
    let (connections, routes) = connect(target, count, config.seed ^ 0x10ad)?;
    let progress = Progress::of_records(config.progress, config.records.count);
    progress.say(format!("loading {target}"));
    let shared = Arc::new(Shared::default());
    let step = connections.len() as u64;
    let connections = connections
        .into_iter()
        .enumerate()
        .map(|(number, connection)| {
            let cursor = LoadCursor {
                next: number as u64,
                step,
                end: config.records.count,
                again: Vec::new(),
            };
            (number, connection, Source::Load(cursor))
        })
        .collect();
    let assignment = Assignment {
        address: target.address,
        connections,
        outstanding: LOAD_OUTSTANDING,
        schedule: None,
        recorder: Recorder::new(Window {
            start_ns: 0,
            end_ns: u64::MAX,
        }),
        layout: Layout::new(&config.records, config.seed),
        routes: Arc::new(routes),
        follow: (target.protocol == Protocol::Corelane).then(|| target.clone()),
        shared: Arc::clone(&shared),
    };
    let watch = |began: Instant| {
        loop {
            let answers = shared.answers.load(Ordering::Relaxed);
            progress.at(answers);
            if shared.finished.load(Ordering::Relaxed) || shared.stop.load(Ordering::Relaxed) {
                return began.elapsed();
            }
            thread::sleep(LOAD_TICK);
        }
    };
    let work = |began| drive(assignment, began);
    let (findings, took) = run_threads(vec![work], &config.load.cpus, watch)?;
    let (recorder, _) = merge(findings);
    let loaded = recorder.answers();
    if loaded != config.records.count {
        let message = format!("{loaded} of {} records were written", config.records.count);
        return Err(BenchError::Refused {
            address: target.address,
            step: "load the records",
            message,
        });
    }
    Ok(as_float(loaded) / took.as_secs_f64())
}

fn settings(config: &BenchConfig, targets: &[Known<'_>]) -> Vec<(String, String)> {
    let BenchConfig { records, load, .. } = config;
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
    for known in targets {
        let processes = match known.pids.as_slice() {
            [] => "process not seen".to_owned(),
            [pid] => format!("process {pid}"),
            pids => format!(
                "processes {}",
                pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
            ),
        };
        set("target", format!("{} ({processes})", known.target));
    }
    set(
        "records",
        format!(
            "{} of {} + {} bytes",
            records.count, records.key_bytes, records.value_bytes
        ),
    );
    set(
        "loaded before",
        if records.load {
            "yes".to_owned()
        } else {
            "no".to_owned()
        },
    );
    if let Some(distribution) = records.distribution {
        set("distribution", format!("{distribution:?}"));
    }
    if let (Protocol::Corelane, Some(ranges)) = (config.target.protocol, records.split_per_shard) {
        set("ranges per shard", ranges.to_string());
    }
    if config.plan == Plan::Txn {
        set("tasks", format!("1 and {}", config.tasks));
    } else {
        set("connections", load.connections.to_string());
        set("outstanding", load.outstanding.to_string());
    }
    set(
        "loop",
        match load.pace {
            Pace::Closed => "closed".to_owned(),
            Pace::Open { per_second } => format!("open at {per_second:.0} requests per second"),
        },
    );
    let cpus = if load.cpus.is_empty() {
        "not pinned".to_owned()
    } else {
        format!("pinned to {:?}", load.cpus)
    };
    set("load threads", format!("{}, {cpus}", load.threads));
    set(
        "spinners",
        if load.spinners {
            "yes".to_owned()
        } else {
            "no".to_owned()
        },
    );
    set("warm-up", format!("{:?}", config.warmup));
    set("duration", format!("{:?}", config.duration));
    set("runs", config.runs.to_string());
    set("seed", config.seed.to_string());
    settings
}
