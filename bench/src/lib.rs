//! Load generator and reports: corelane, Redis, Valkey and etcd under the same load, with figures that mean something.

mod args;
mod config;
mod error;
mod machine;
mod outcome;

pub use args::{BenchArgs, PlanArg};
pub use config::{BenchConfig, Distribution, Load, Pace, Plan, Protocol, Records, Target, Workload};
pub use error::BenchError;
pub use machine::MachineFacts;
pub use outcome::{Latency, Outcome, Point, Ratio, Run, Series, Spread, Wanted};

/// Runs what `config` asks for.
///
/// # Errors
/// When the configuration is wrong, a server cannot be reached or breaks off, or an output cannot be written.
pub fn run(config: &BenchConfig) -> Result<Outcome, BenchError> {
    config.check()?;
    Err(BenchError::Unsupported {
        target: config.target.to_string(),
        workload: "any",
    })
}

/// The figures as a table for people, without colour.
#[must_use]
pub fn print(outcome: &Outcome) -> String {
    format!("{outcome:?}")
}

/// The figures as one self-contained page with plots.
#[must_use]
pub fn report_html(outcome: &Outcome) -> String {
    format!("{outcome:?}")
}
