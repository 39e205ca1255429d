//! What can go wrong with a bench before it has figures.

use std::io;
use std::net::SocketAddr;

/// Why a bench did not finish. A failed request is a figure, not an error; these end the bench.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A setting is out of its bounds.
    #[error("--{name} is {value}; it must be {low} to {high}")]
    Setting {
        /// The setting's name on the command line.
        name: &'static str,
        /// What was asked for.
        value: u64,
        /// Smallest allowed.
        low: u64,
        /// Largest allowed.
        high: u64,
    },
    /// The offered rate makes no sense.
    #[error("--rate is {per_second} requests per second; it must be 0.01 to 100,000,000")]
    Rate {
        /// What was asked for.
        per_second: f64,
    },
    /// A rate was asked for where there is only a closed loop.
    #[error("txn has no --rate: each task starts its next transaction when the last one is over")]
    ClosedLoop,
    /// The client library could not do a step around the measurement.
    #[error("cannot {step}: {source}")]
    Client {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: corelane::Error,
    },
    /// Transfers between accounts made or lost money: transactions are broken.
    #[error("{accounts} accounts had {before} in total before the transfers, and {after} afterwards")]
    Total {
        /// How many accounts there are.
        accounts: u64,
        /// The sum of all balances before.
        before: u64,
        /// The sum of all balances afterwards.
        after: u64,
    },
    /// A target's URL could not be used.
    #[error("cannot use the target {text:?}: {reason}")]
    Target {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A duration or rate could not be read.
    #[error("cannot read {text:?} as {expected}")]
    Parse {
        /// As given.
        text: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// The workload needs an operation that the target does not have.
    #[error("{target} has no operation for the workload {workload}")]
    Unsupported {
        /// The target's URL.
        target: String,
        /// The workload's name.
        workload: &'static str,
    },
    /// Connecting or the first exchange failed.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A connection broke during a run: figures of a half-dead load would mislead.
    #[error("connection {connection} to {address} broke: {reason}")]
    Broken {
        /// Its number.
        connection: usize,
        /// Where to.
        address: SocketAddr,
        /// What was seen.
        reason: String,
    },
    /// The server refused a step of the preparation.
    #[error("the server at {address} refused to {step}: {message}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// What was asked for.
        step: &'static str,
        /// The server's words.
        message: String,
    },
    /// An operation on the load generator's own side failed.
    #[error("{operation}: {source}")]
    Local {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A result file could not be written.
    #[error("cannot write {path}: {source}")]
    Output {
        /// Where to.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

impl BenchError {
    /// Whether the same command may work a moment later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } => true,
            Self::Client { source, .. } => source.is_retryable(),
            Self::Setting { .. }
            | Self::Rate { .. }
            | Self::ClosedLoop
            | Self::Total { .. }
            | Self::Target { .. }
            | Self::Parse { .. }
            | Self::Unsupported { .. }
            | Self::Refused { .. }
            | Self::Local { .. }
            | Self::Output { .. } => false,
        }
    }
}
