//! The order of a bench: prepare the targets, load the records, run the series in turn, form the ratios.
//!
//! Runs of all series alternate (A B, B A, A B …) rather than follow in blocks: what drifts on a shared machine then
//! drifts for all of them, and a ratio is formed between neighbours in time before the median is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base::Prng;

use crate::config::{BenchConfig, Pace, Plan, Protocol, Target, Workload};
use crate::connection::{Connection, Routes, connect, spread};
use crate::driver::supports;
use crate::helper::{Spinners, pin};
use crate::loader::{Assignment, Findings, LoadCursor, Shared, Source, drive};
use crate::machine::MachineFacts;
use crate::outcome::{Outcome, Run, Series};
use crate::process;
use crate::progress::Progress;
use crate::ratio::ratios;
use crate::recorder::{Recorder, Window};
use crate::schedule::Schedule;
use crate::workload::{Layout, Mix, operations};
use crate::{BenchError, config};

/// Connections that load records, unless the target has more shards, and requests in flight on each.
const LOAD_CONNECTIONS: u32 = 8;
const LOAD_OUTSTANDING: u32 = 128;
/// How often counters are looked at for the bar.
const TICK: Duration = Duration::from_millis(100);

/// One series to run.
#[derive(Debug, Clone)]
struct Step {
    target: usize,
    workload: Workload,
    connections: u32,
    outstanding: u32,
    pace: Pace,
}

impl Step {
    fn shape(&self) -> String {
        let Self {
            connections,
            outstanding,
            ..
        } = self;
        match self.pace {
            Pace::Closed => format!("{connections} × {outstanding}"),
            Pace::Open { per_second } => format!("{connections} × {outstanding} at {per_second:.0}/s"),
        }
    }
}

/// A target with what is known of its process.
struct Known<'a> {
    target: &'a Target,
    pid: Option<u32>,
}

/// Runs what `config` asks for.
///
/// # Errors
/// When the configuration is wrong, a server cannot be reached or breaks off, or a workload is not in its protocol.
pub fn run(config: &BenchConfig) -> Result<Outcome, BenchError> {
    config.check()?;
    let began_unix_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut targets = vec![Known {
        target: &config.target,
        pid: config
            .server_pid
            .or_else(|| process::listener_pid(config.target.address)),
    }];
    targets.extend(config.against.as_ref().map(|target| {
        Known {
            target,
            pid: config
                .against_pid
                .or_else(|| process::listener_pid(target.address)),
        }
    }));
    let steps = steps(config, &targets)?;
    let mut loading = Vec::new();
    for known in &targets {
        let shards = spread(known.target, &config.records, config.seed)?;
        if config.records.load {
            loading.push((known.target.to_string(), load(config, known.target, shards)?));
        }
    }
    let series = run_steps(config, &targets, &steps)?;
    let ratios = ratios(config.plan, &series);
    let settings = settings(config, &targets);
    Ok(Outcome {
        began_unix_s,
        settings,
        machine: MachineFacts::read(),
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
    let records = Arc::new(AtomicU64::new(config.records.count));
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
                records: &records,
                round,
                progress: (&progress, done),
            };
            series[at].runs.push(bench.run()?);
            done += each;
        }
    }
    Ok(series)
}

/// One run of one step.
struct OneRun<'a> {
    config: &'a BenchConfig,
    step: &'a Step,
    known: &'a Known<'a>,
    /// Records that exist, over all runs: inserts go on where the last run ended.
    records: &'a Arc<AtomicU64>,
    round: u32,
    progress: (&'a Progress, Duration),
}

/// Counters outside the loader at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    server_cpu: Option<Duration>,
    device_writes: Option<u64>,
    answers: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl OneRun<'_> {
    fn run(&self) -> Result<Run, BenchError> {
        let Self { config, step, .. } = *self;
        let (connections, routes) = connect(self.known.target, step.connections, self.seed(0))?;
        let window = Window {
            start_ns: nanos(config.warmup),
            end_ns: nanos(config.warmup + config.duration),
        };
        let shared = Arc::new(Shared::default());
        let (findings, samples) = run_threads(
            self.assignments(connections, routes, window, &shared),
            &config.load.cpus,
            |began| self.watch(began, &shared),
        )?;
        let (recorder, loader_cpu) = merge(findings);
        Ok(figures(&recorder, loader_cpu, samples))
    }

    /// A seed of its own for every run, thread and connection.
    fn seed(&self, part: u64) -> u64 {
        let run = u64::from(self.round) << 32 | part;
        Prng::new(self.config.seed ^ run.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64()
    }

    fn assignments(
        &self,
        connections: Vec<Connection>,
        routes: Routes,
        window: Window,
        shared: &Arc<Shared>,
    ) -> Vec<Assignment> {
        let Self { config, step, .. } = *self;
        let in_flight = u64::from(step.connections) * u64::from(step.outstanding);
        let threads = config.load.threads.min(step.connections);
        let schedule = |thread| match step.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(Schedule::new(per_second, thread, threads, window.end_ns)),
        };
        let layout = Layout::new(&config.records, config.seed);
        let routes = Arc::new(routes);
        let mut assignments: Vec<Assignment> = (0..threads)
            .map(|thread| Assignment {
                address: self.known.target.address,
                connections: Vec::new(),
                outstanding: step.outstanding,
                schedule: schedule(thread),
                recorder: Recorder::new(window),
                layout: layout.clone(),
                routes: Arc::clone(&routes),
                shared: Arc::clone(shared),
            })
            .collect();
        for (number, connection) in connections.into_iter().enumerate() {
            let mix = Mix::new(
                step.workload,
                &config.records,
                Arc::clone(self.records),
                in_flight,
                self.seed(1 + number as u64),
            );
            let thread = number % assignments.len();
            assignments[thread]
                .connections
                .push((number, connection, Source::Mix(Box::new(mix))));
        }
        assignments
    }

    /// Samples the counters at both ends of the measured time.
    fn watch(&self, began: Instant, shared: &Shared) -> (Sample, Sample) {
        let start = began + self.config.warmup;
        self.wait_until(start, began, shared);
        let first = self.sample(shared);
        self.wait_until(start + self.config.duration, began, shared);
        (first, self.sample(shared))
    }

    fn wait_until(&self, until: Instant, began: Instant, shared: &Shared) {
        let (progress, done) = self.progress;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || shared.stop.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(left.min(TICK));
            progress.at(u64::try_from((done + began.elapsed()).as_millis()).unwrap_or(u64::MAX));
        }
    }

    fn sample(&self, shared: &Shared) -> Sample {
        Sample {
            server_cpu: self.known.pid.and_then(process::cpu_time),
            device_writes: process::device_writes(),
            answers: shared.answers.load(Ordering::Relaxed),
            bytes_received: shared.bytes_received.load(Ordering::Relaxed),
            bytes_sent: shared.bytes_sent.load(Ordering::Relaxed),
        }
    }
}

/// Runs every assignment on its own thread, and `watch` meanwhile on this one.
fn run_threads<T>(
    assignments: Vec<Assignment>,
    cpus: &[usize],
    watch: impl FnOnce(Instant) -> T,
) -> Result<(Vec<Findings>, T), BenchError> {
    let began = Instant::now();
    let mut threads = Vec::with_capacity(assignments.len());
    for (number, assignment) in assignments.into_iter().enumerate() {
        let cpu = (!cpus.is_empty()).then(|| cpus[number % cpus.len()]);
        let work = move || {
            if let Some(cpu) = cpu {
                pin(cpu)?;
            }
            drive(assignment, began)
        };
        let thread = thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(work)
            .map_err(|source| BenchError::Local {
                operation: "start a thread",
                source,
            })?;
        threads.push(thread);
    }
    let watched = watch(began);
    let mut findings = Vec::with_capacity(threads.len());
    for thread in threads {
        match thread.join() {
            Ok(result) => findings.push(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok((findings, watched))
}

fn merge(findings: Vec<Findings>) -> (Recorder, Duration) {
    let mut findings = findings.into_iter();
    let Findings {
        mut recorder,
        mut cpu,
    } = findings.next().expect("a run has at least one thread");
    for other in findings {
        recorder.merge(other.recorder);
        cpu += other.cpu;
    }
    (recorder, cpu)
}

fn figures(recorder: &Recorder, loader_cpu: Duration, (first, last): (Sample, Sample)) -> Run {
    let answers = recorder.answers();
    let per_answer = |amount: f64| {
        if answers == 0 {
            0.0
        } else {
            amount / as_float(answers)
        }
    };
    // Bytes are counted between the samples, which are a little off the window's ends: divided by their own answers.
    let sampled = as_float(last.answers.saturating_sub(first.answers)).max(1.0);
    let server_cpu = last
        .server_cpu
        .zip(first.server_cpu)
        .map(|(last, first)| last.saturating_sub(first));
    let device_writes = last
        .device_writes
        .zip(first.device_writes)
        .map(|(last, first)| last.saturating_sub(first));
    let seconds = recorder.window().seconds();
    Run {
        answers,
        failed: recorder.failed,
        missing: recorder.missing,
        first_failure: recorder.first_failure.clone(),
        overdue: recorder.overdue,
        seconds,
        per_second: as_float(answers) / seconds,
        latency: recorder.latency(),
        lag_p99_ns: recorder.lag_p99_ns(),
        server_cpu_us: server_cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / sampled),
        loader_cpu_us: per_answer(loader_cpu.as_secs_f64() * 1e6),
        device_writes: device_writes.map(|writes| as_float(writes) / sampled),
        bytes_received: as_float(last.bytes_received.saturating_sub(first.bytes_received)) / sampled,
        bytes_sent: as_float(last.bytes_sent.saturating_sub(first.bytes_sent)) / sampled,
        timeline: recorder.timeline(),
        curve: recorder.curve(),
    }
}

/// Writes every record once; gives puts per second.
fn load(config: &BenchConfig, target: &Target, shards: u16) -> Result<f64, BenchError> {
    let count = LOAD_CONNECTIONS.max(shards.into());
    let (connections, routes) = connect(target, count, config.seed ^ 0x10ad)?;
    let progress = Progress::of_records(config.progress, config.records.count);
    progress.say(format!("loading {target}"));
    let shared = Arc::new(Shared::default());
    let homes: Vec<Option<u16>> = connections.iter().map(|connection| connection.home).collect();
    let peers = |home: Option<u16>, below: usize| {
        homes[..below].iter().filter(|&&other| other == home).count() as u64
    };
    let connections = connections
        .into_iter()
        .enumerate()
        .map(|(number, connection)| {
            let home = connection.home;
            let cursor = LoadCursor {
                next: 0,
                end: config.records.count,
                place: peers(home, number),
                places: peers(home, homes.len()),
                seen: 0,
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
        shared: Arc::clone(&shared),
    };
    let watch = |began: Instant| {
        loop {
            let answers = shared.answers.load(Ordering::Relaxed);
            progress.at(answers);
            if shared.finished.load(Ordering::Relaxed) || shared.stop.load(Ordering::Relaxed) {
                return began.elapsed();
            }
            thread::sleep(Duration::from_millis(20));
        }
    };
    let (findings, took) = run_threads(vec![assignment], &config.load.cpus, watch)?;
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
        let pid = known
            .pid
            .map_or_else(|| "not seen".to_owned(), |pid| pid.to_string());
        set("target", format!("{} (process {pid})", known.target));
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
    set("connections", load.connections.to_string());
    set("outstanding", load.outstanding.to_string());
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn as_float(value: u64) -> f64 {
    value as f64
}
