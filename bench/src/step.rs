//! One run of one series: connect, start the threads, sample the counters at both ends of the measured time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use base::Prng;

use crate::BenchError;
use crate::config::{BenchConfig, Pace, Protocol, Target, Workload};
use crate::connection::{Connection, Counters, Observer, Routes, connect};
use crate::helper::pin;
use crate::lane::Source;
use crate::loader::{Assignment, Findings, Shared, drive};
use crate::outcome::Run;
use crate::process;
use crate::progress::Progress;
use crate::recorder::{Recorder, Window};
use crate::schedule::Schedule;
use crate::workload::{Layout, Mix, Population};

/// How often counters are looked at for the bar.
const TICK: Duration = Duration::from_millis(100);

/// One series to run.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) target: usize,
    pub(crate) workload: Workload,
    pub(crate) connections: u32,
    pub(crate) outstanding: u32,
    pub(crate) pace: Pace,
}

impl Step {
    pub(crate) fn shape(&self) -> String {
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

/// A target with what is known of its processes: those of all nodes of a cluster.
pub(crate) struct Known<'a> {
    pub(crate) target: &'a Target,
    pub(crate) pids: Vec<u32>,
}

impl Known<'_> {
    /// CPU time of all processes; `None` when none is known, or one cannot be seen.
    fn cpu_time(&self) -> Option<Duration> {
        let times = self.pids.iter().map(|pid| process::cpu_time(*pid));
        times.sum::<Option<Duration>>().filter(|_| !self.pids.is_empty())
    }
}

/// One run of one step.
pub(crate) struct OneRun<'a> {
    pub(crate) config: &'a BenchConfig,
    pub(crate) step: &'a Step,
    pub(crate) known: &'a Known<'a>,
    /// Over all runs on the target: inserts go on where the last run ended.
    pub(crate) population: &'a Arc<Population>,
    pub(crate) round: u32,
    pub(crate) progress: (&'a Progress, Duration),
}

/// Counters outside the loader at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    server_cpu: Option<Duration>,
    counters: Option<Counters>,
    device_writes: Option<u64>,
    answers: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl OneRun<'_> {
    pub(crate) fn run(&self) -> Result<Run, BenchError> {
        let Self { config, step, .. } = *self;
        let (connections, routes) = connect(self.known.target, step.connections, self.seed(0))?;
        let mut observer = Observer::connect(self.known.target, self.seed(0))?;
        let window = Window {
            start_ns: nanos(config.warmup),
            end_ns: nanos(config.warmup + config.duration),
        };
        let shared = Arc::new(Shared::default());
        let (findings, samples) = run_threads(
            self.assignments(connections, routes, window, &shared)
                .into_iter()
                .map(|assignment| move |began| drive(assignment, began))
                .collect(),
            &config.load.cpus,
            |began| self.watch().over_run(began, &shared, &mut observer),
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
        let threads = config.load.threads.min(step.connections);
        let schedule = |thread| match step.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(Schedule::new(per_second, thread, threads, window.end_ns)),
        };
        let layout = Layout::new(&config.records, config.seed);
        let routes = Arc::new(routes);
        let target = self.known.target;
        let follow = (target.protocol == Protocol::Corelane).then(|| target.clone());
        let mut assignments: Vec<Assignment> = (0..threads)
            .map(|thread| Assignment {
                address: self.known.target.address,
                connections: Vec::new(),
                outstanding: step.outstanding,
                schedule: schedule(thread),
                recorder: Recorder::new(window),
                layout: layout.clone(),
                routes: Arc::clone(&routes),
                follow: follow.clone(),
                shared: Arc::clone(shared),
            })
            .collect();
        for (number, connection) in connections.into_iter().enumerate() {
            let mix = Mix::new(
                step.workload,
                &config.records,
                Arc::clone(self.population),
                self.seed(1 + number as u64),
            );
            let thread = number % assignments.len();
            assignments[thread]
                .connections
                .push((number, connection, Source::Mix(Box::new(mix))));
        }
        assignments
    }

    fn watch(&self) -> Watch<'_> {
        Watch {
            config: self.config,
            known: self.known,
            progress: self.progress,
        }
    }
}

/// Looks at the counters of a run.
pub(crate) struct Watch<'a> {
    pub(crate) config: &'a BenchConfig,
    pub(crate) known: &'a Known<'a>,
    /// The bar, and how much of it was done before this run.
    pub(crate) progress: (&'a Progress, Duration),
}

impl Watch<'_> {
    /// Samples the counters at both ends of the measured time.
    pub(crate) fn over_run(
        &self,
        began: Instant,
        shared: &Shared,
        observer: &mut Observer,
    ) -> (Sample, Sample) {
        let start = began + self.config.warmup;
        self.wait_until(start, began, shared);
        let first = self.sample(shared, observer);
        self.wait_until(start + self.config.duration, began, shared);
        (first, self.sample(shared, observer))
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

    fn sample(&self, shared: &Shared, observer: &mut Observer) -> Sample {
        Sample {
            server_cpu: self.known.cpu_time(),
            counters: observer.counters(),
            device_writes: process::device_writes(),
            answers: shared.answers.load(Ordering::Relaxed),
            bytes_received: shared.bytes_received.load(Ordering::Relaxed),
            bytes_sent: shared.bytes_sent.load(Ordering::Relaxed),
        }
    }
}

/// Runs every piece of work on its own thread, and `watch` meanwhile on this one.
pub(crate) fn run_threads<T, W>(
    works: Vec<W>,
    cpus: &[usize],
    watch: impl FnOnce(Instant) -> T,
) -> Result<(Vec<Findings>, T), BenchError>
where
    W: FnOnce(Instant) -> Result<Findings, BenchError> + Send + 'static,
{
    let began = Instant::now();
    let mut threads = Vec::with_capacity(works.len());
    for (number, work) in works.into_iter().enumerate() {
        let cpu = (!cpus.is_empty()).then(|| cpus[number % cpus.len()]);
        let work = move || {
            if let Some(cpu) = cpu {
                pin(cpu)?;
            }
            work(began)
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

pub(crate) fn merge(findings: Vec<Findings>) -> (Recorder, Duration) {
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

pub(crate) fn figures(recorder: &Recorder, loader_cpu: Duration, (first, last): (Sample, Sample)) -> Run {
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
    let per_sampled = |first: Option<u64>, last: Option<u64>| {
        let (first, last) = first.zip(last)?;
        Some(as_float(last.saturating_sub(first)) / sampled)
    };
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
        log_writes: per_sampled(
            first.counters.map(|counters| counters.log_writes),
            last.counters.map(|counters| counters.log_writes),
        ),
        stalls: first
            .counters
            .zip(last.counters)
            .map(|(first, last)| last.stalls.saturating_sub(first.stalls)),
        device_writes: per_sampled(first.device_writes, last.device_writes),
        bytes_received: per_sampled(Some(first.bytes_received), Some(last.bytes_received)),
        bytes_sent: per_sampled(Some(first.bytes_sent), Some(last.bytes_sent)),
        redirected: recorder.redirected,
        reconnected: recorder.reconnected,
        retries: None,
        beside_rows: None,
        timeline: recorder.timeline(),
        curve: recorder.curve(),
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn as_float(value: u64) -> f64 {
    value as f64
}
