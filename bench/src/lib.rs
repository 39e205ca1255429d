//! Load generator and reports: corelane, Redis, Valkey and etcd under the same load, with figures that mean something.
//!
//! ```text
//!   BenchArgs ─► BenchConfig ─► suite: prepare, load, run the series in turn ─► Outcome ─► print · JSON · report_html
//!                                 │
//!                     loader thread: one poll, one receive, one send per connection and turn
//!                        workload (what) · schedule (when) · driver (bytes) · recorder (how long)
//!                     or, for transactions, a thread with the client library: crew (tasks) · ground (which records) · accounts
//! ```
//!
//! Invariants:
//! - Latency counts from the moment a request was *meant* to start; a stalled server cannot hide behind a waiting client.
//! - Every value read is checked against the record it was asked for; a wrong answer is a failure, not a figure.
//! - The load generator's own CPU per answer is reported beside the server's: they share the machine.
//!
//! Absent on purpose, but for transactions: tokio and the client library. What is measured is the server, with the cheapest client
//! there can be. Transactions are coordinated by the client library, so it belongs to what is measured; the puts that they are
//! compared with go the same way.

mod args;
mod config;
mod connection;
mod distribution;
mod driver;
mod error;
mod follow;
mod helper;
mod lane;
mod loader;
mod machine;
mod outcome;
mod print;
mod process;
mod progress;
mod ratio;
mod recorder;
mod report;
mod schedule;
mod step;
mod suite;
mod svg;
mod txn;
mod workload;

pub use args::{BenchArgs, PlanArg};
pub use config::{BenchConfig, Distribution, Load, Pace, Plan, Protocol, Records, Target, Workload};
pub use config::{CONNECTIONS_MAX, KEY_BYTES_MIN, OUTSTANDING_MAX, RUNS_MAX, TASKS_MAX, VALUE_BYTES_MAX};
pub use error::BenchError;
pub use machine::MachineFacts;
pub use outcome::{Latency, Outcome, Point, Ratio, Run, Series, Spread, Wanted};
pub use print::{print, print_timeline};
pub use report::report_html;
pub use suite::run;
