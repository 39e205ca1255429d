//! Many seeds, and what they did together.

use crate::history::Seconds;
use crate::run::{Run, run};
use crate::scenario::Scenario;
use sim::Fault;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a number of runs did.
#[derive(Debug, Clone, Default)]
pub struct Total {
    /// Runs.
    pub runs: u64,
    /// Virtual time.
    pub virtual_ns: u64,
    /// Events of the simulator.
    pub events: u64,
    /// Crashes of the node.
    pub crashes: u64,
    /// Calls by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Faults that fired.
    pub faults: BTreeMap<Fault, u64>,
    /// Probes that were reached.
    pub reached: BTreeMap<&'static str, u64>,
    /// Places that misbehaved on purpose.
    pub misbehaved: BTreeMap<&'static str, u64>,
    /// What became of the nodes' builds.
    pub upgraded: BTreeMap<&'static str, u64>,
    /// Runs in which a damaged node refused to go on.
    pub refused: u64,
    /// Errors with which nodes ended.
    pub failures: BTreeMap<String, u64>,
    /// Seeds that failed, with what was wrong.
    pub wrong: Vec<(u64, Vec<String>)>,
}

/// The number in a variable of the environment, if it is one.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// How many seeds a test takes: the simulation step of CI names its first seed and runs optimised; an ordinary test run takes
/// a few.
#[must_use]
pub fn seeds(simulation: u64, ordinary: u64) -> u64 {
    if std::env::var_os("CORELANE_SEED").is_some() {
        simulation
    } else {
        ordinary
    }
}

/// Checks that seeds which found a bug once find none.
///
/// # Panics
/// When one does.
pub fn check_regressions(regressions: &[(u64, &str)], draw: impl Fn(u64) -> Scenario) {
    for (seed, bug) in regressions {
        let run = try_run(&draw(*seed)).expect("no panic");
        let none = Vec::<String>::new();
        assert_eq!(run.wrong, none, "seed {seed}, which once found that {bug}");
    }
}

/// Runs a scenario; a panic is something wrong, too.
///
/// # Errors
/// What the panic said.
pub fn try_run(scenario: &Scenario) -> Result<Run, String> {
    catch_unwind(AssertUnwindSafe(|| run(scenario))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        format!("panic: {}", text.unwrap_or_default())
    })
}

impl Total {
    /// Runs a seed and adds what it did. `true` when nothing was wrong.
    pub fn add_seed(&mut self, seed: u64) -> bool {
        self.add_run(&Scenario::draw(seed))
    }

    /// Runs a scenario and adds what it did. `true` when nothing was wrong.
    pub fn add_run(&mut self, scenario: &Scenario) -> bool {
        self.runs += 1;
        match try_run(scenario) {
            Ok(run) => {
                self.add(&run);
                run.wrong.is_empty()
            }
            Err(panic) => {
                self.wrong.push((scenario.seed, vec![panic]));
                false
            }
        }
    }

    fn add(&mut self, run: &Run) {
        self.virtual_ns += run.report.now_ns;
        self.events += run.report.events;
        self.crashes += run.crashes;
        self.refused += u64::from(run.refused);
        merge(&mut self.outcomes, &run.outcomes);
        merge(&mut self.upgraded, &run.upgraded.by_name());
        merge(&mut self.faults, &run.report.faults);
        merge(&mut self.reached, &run.report.probes.reached);
        merge(&mut self.misbehaved, &run.report.probes.misbehaved);
        merge(&mut self.failures, &run.failures);
        if !run.wrong.is_empty() {
            self.wrong.push((run.report.seed, run.wrong.clone()));
        }
    }

    /// Calls that ended definitely.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Virtual hours.
    #[must_use]
    pub fn hours(&self) -> f64 {
        Seconds(self.virtual_ns).as_f64() / 3600.0
    }

    /// Everything, for people.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} runs, {:.2} virtual hours, {} events, {} calls, {} crashes, {} refused, {} failed",
            self.runs,
            self.hours(),
            self.events,
            self.calls(),
            self.crashes,
            self.refused,
            self.wrong.len()
        );
        let _ = writeln!(out, "outcomes {:?}", self.outcomes);
        list(
            &mut out,
            "faults",
            self.faults.iter().map(|(fault, n)| (format!("{fault:?}"), *n)),
        );
        list(
            &mut out,
            "builds",
            self.upgraded.iter().map(|(name, n)| ((*name).to_owned(), *n)),
        );
        list(
            &mut out,
            "reached",
            self.reached.iter().map(|(name, n)| ((*name).to_owned(), *n)),
        );
        list(
            &mut out,
            "misbehaved",
            self.misbehaved.iter().map(|(name, n)| ((*name).to_owned(), *n)),
        );
        list(
            &mut out,
            "errors of nodes",
            self.failures.iter().map(|(name, n)| (name.clone(), *n)),
        );
        for (seed, wrong) in &self.wrong {
            let _ = writeln!(
                out,
                "FAILED seed {seed}: {}",
                wrong.first().map_or("", String::as_str)
            );
        }
        out
    }
}

fn list(out: &mut String, title: &str, lines: impl Iterator<Item = (String, u64)>) {
    let _ = writeln!(out, "{title}:");
    for (name, count) in lines {
        let _ = writeln!(out, "  {count:>12}  {name}");
    }
}

fn merge<K: Ord + Clone>(total: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *total.entry(key.clone()).or_insert(0) += count;
    }
}
