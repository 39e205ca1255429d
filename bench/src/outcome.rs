//! The figures of a bench, as they are printed, plotted and written as JSON.

use serde::Serialize;

use crate::machine::MachineFacts;

/// Latencies of one run, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// 99.99th percentile.
    pub p9999_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Mean.
    pub mean_ns: f64,
}

/// One point of a run's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Middle of the interval, seconds after the measured time began.
    pub at_s: f64,
    /// Answers per second in the interval.
    pub per_second: f64,
    /// Latency of the requests that were meant to start in the interval.
    pub latency: Latency,
}

/// One run of one series.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Run {
    /// Answers inside the measured time.
    pub answers: u64,
    /// Requests that the server refused or failed.
    pub failed: u64,
    /// Reads that found nothing.
    pub missing: u64,
    /// The first refusal, in the server's words.
    pub first_failure: Option<String>,
    /// Open loop: requests that were due but still unsent or unanswered when the run ended. They are in the
    /// latencies with the time they had waited by then, which is a lower bound.
    pub overdue: u64,
    /// Measured seconds.
    pub seconds: f64,
    /// Answers per second.
    pub per_second: f64,
    /// Latencies from the intended start.
    pub latency: Latency,
    /// How late the load generator itself started requests (99th percentile); large values make latencies suspect.
    pub lag_p99_ns: u64,
    /// CPU microseconds (user and system, all threads) of the server per answer, if its process could be seen.
    pub server_cpu_us: Option<f64>,
    /// The same for the load generator.
    pub loader_cpu_us: f64,
    /// Log writes per answer as the server counts them (corelane only).
    pub log_writes: Option<f64>,
    /// Loop turns of the server that were longer than its limit although it had a processor (corelane only).
    pub stalls: Option<u64>,
    /// Writes completed by the machine's block devices per answer, from the kernel's counters (all processes).
    pub device_writes: Option<f64>,
    /// Bytes received per answer; not known of transactions.
    pub bytes_received: Option<f64>,
    /// The same for bytes sent.
    pub bytes_sent: Option<f64>,
    /// Refusals by shards that do not serve the key any more; the requests went to those that do.
    pub redirected: u64,
    /// Connections that were opened anew, because they broke or led to where nothing is served.
    pub reconnected: u64,
    /// Transactions only: runs per transaction beyond the first, which another transaction was in the way of.
    pub retries: Option<f64>,
    /// Rows per second that were read beside the load, when that was asked for.
    pub beside_rows: Option<f64>,
    /// Over the measured time.
    pub timeline: Vec<Point>,
    /// `(percentile, nanoseconds)`, rising.
    pub curve: Vec<(f64, u64)>,
}

/// Runs of the same load on the same target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// What ran.
    pub workload: String,
    /// Where.
    pub target: String,
    /// `2 × 64` for connections times outstanding, with the rate when the loop is open.
    pub shape: String,
    /// Requests that may be in flight at once.
    pub in_flight: u64,
    /// Every run, in the order they ran.
    pub runs: Vec<Run>,
}

/// A figure over the runs of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Spread {
    /// Median and extremes of `values`; `None` when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&low, &high) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, low, high })
    }
}

impl Series {
    /// A figure's spread over the runs.
    #[must_use]
    pub fn spread(&self, figure: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(figure)).unwrap_or(Spread {
            median: 0.0,
            low: 0.0,
            high: 0.0,
        })
    }

    /// A figure's spread over the runs that have it.
    #[must_use]
    pub fn spread_some(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(figure))
    }

    /// The run whose throughput is the median (the lower of two), for plots.
    #[must_use]
    pub fn typical(&self) -> Option<&Run> {
        let mut order: Vec<&Run> = self.runs.iter().collect();
        order.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        order.get(order.len().saturating_sub(1) / 2).copied()
    }
}

/// A quotient of two series, formed run by run (neighbours in time) and then taken as a median.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    /// What is divided by what.
    pub name: String,
    /// The quotient.
    pub value: Spread,
    /// What the project asks for, if it asks for something.
    pub wanted: Option<Wanted>,
}

/// A bound on a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Wanted {
    /// Not below.
    AtLeast(f64),
    /// Not above.
    AtMost(f64),
}

impl Wanted {
    /// Whether `value` keeps to the bound.
    #[must_use]
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// What a bench found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// When it began, seconds since 1970.
    pub began_unix_s: u64,
    /// The settings, name and value.
    pub settings: Vec<(String, String)>,
    /// Where it ran.
    pub machine: MachineFacts,
    /// Writing the records, when that was asked for: target and puts per second.
    pub loading: Vec<(String, f64)>,
    /// The figures.
    pub series: Vec<Series>,
    /// Their quotients.
    pub ratios: Vec<Ratio>,
}
