//! What a loader thread remembers of a run: a histogram per slice of the measured time, and counts.
//!
//! ```text
//!   warm-up        measured window, cut into slices                        drain
//!   ──────────────┼──────────┼──────────┼──────────┼──────────┼───────────────────►
//!                 start                                        end
//! ```
//!
//! - A latency belongs to the slice in which its request was *meant to start*; starts outside the window are left out.
//! - An answer counts for the throughput of the slice in which it *arrived*.
//!
//! Slices merge into the run's histogram, and slices of several threads into one: nothing is averaged twice.

use hdrhistogram::Histogram;

use crate::outcome::{Latency, Point};

/// Longest latency kept apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 120_000_000_000;
/// Slices of a window.
const SLICES: u64 = 60;
/// Shortest slice.
const SLICE_NS_MIN: u64 = 50_000_000;
/// Significant decimal digits kept of a latency.
const DIGITS: u8 = 3;

/// The measured part of a run, in nanoseconds of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
}

impl Window {
    fn slice_ns(self) -> u64 {
        ((self.end_ns - self.start_ns) / SLICES).max(SLICE_NS_MIN)
    }

    fn slice_of(self, at_ns: u64) -> Option<usize> {
        if !(self.start_ns..self.end_ns).contains(&at_ns) {
            return None;
        }
        usize::try_from((at_ns - self.start_ns) / self.slice_ns()).ok()
    }

    pub(crate) fn seconds(self) -> f64 {
        as_float(self.end_ns - self.start_ns) / 1e9
    }
}

#[derive(Debug, Clone)]
struct Slice {
    latency: Histogram<u64>,
    answers: u64,
}

/// Latencies and counts of one thread, or of all threads once merged.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    window: Window,
    slices: Vec<Slice>,
    lag: Histogram<u64>,
    pub(crate) failed: u64,
    pub(crate) missing: u64,
    pub(crate) overdue: u64,
    /// Runs beyond the first of the transactions that count as answers.
    pub(crate) retries: u64,
    /// Refusals by who does not serve the key any more, and connections opened anew.
    pub(crate) redirected: u64,
    pub(crate) reconnected: u64,
    pub(crate) first_failure: Option<String>,
}

impl Recorder {
    pub(crate) fn new(window: Window) -> Self {
        assert!(window.start_ns < window.end_ns, "{window:?} is empty");
        let count = (window.end_ns - window.start_ns).div_ceil(window.slice_ns());
        let slice = Slice {
            latency: histogram(),
            answers: 0,
        };
        let slices = (0..count).map(|_| slice.clone()).collect();
        Self {
            window,
            slices,
            lag: histogram(),
            failed: 0,
            missing: 0,
            overdue: 0,
            retries: 0,
            redirected: 0,
            reconnected: 0,
            first_failure: None,
        }
    }

    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// A request that was meant to start at `intended_ns` was answered at `answered_ns`.
    pub(crate) fn answered(&mut self, intended_ns: u64, answered_ns: u64) {
        if let Some(slice) = self.window.slice_of(answered_ns) {
            self.slices[slice].answers += 1;
        }
        self.waited(intended_ns, answered_ns);
    }

    /// A transaction that began at `began_ns` was committed at `ended_ns`, at the run after `retries` that failed.
    pub(crate) fn committed(&mut self, began_ns: u64, ended_ns: u64, retries: u64) {
        if self.window.slice_of(ended_ns).is_some() {
            self.retries += retries;
        }
        self.answered(began_ns, ended_ns);
    }

    /// A request that was meant to start at `intended_ns` had no answer at `now_ns`: it has waited at least that long.
    pub(crate) fn unanswered(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window.slice_of(intended_ns).is_some() {
            self.overdue += 1;
        }
        self.waited(intended_ns, now_ns);
    }

    fn waited(&mut self, intended_ns: u64, until_ns: u64) {
        if let Some(slice) = self.window.slice_of(intended_ns) {
            self.slices[slice]
                .latency
                .saturating_record(until_ns.saturating_sub(intended_ns).max(1));
        }
    }

    /// The loader sent a request this much later than it was meant to start.
    pub(crate) fn lagged(&mut self, lag_ns: u64) {
        self.lag.saturating_record(lag_ns.max(1));
    }

    /// The server refused a request.
    pub(crate) fn refused(&mut self, message: &str) {
        self.failed += 1;
        if self.first_failure.is_none() {
            self.first_failure = Some(message.to_owned());
        }
    }

    /// Adds another thread's record of the same window.
    pub(crate) fn merge(&mut self, other: Self) {
        assert_eq!(self.window, other.window, "records of different windows");
        for (mine, theirs) in self.slices.iter_mut().zip(other.slices) {
            mine.latency += theirs.latency;
            mine.answers += theirs.answers;
        }
        self.lag += other.lag;
        self.failed += other.failed;
        self.missing += other.missing;
        self.overdue += other.overdue;
        self.retries += other.retries;
        self.redirected += other.redirected;
        self.reconnected += other.reconnected;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    pub(crate) fn answers(&self) -> u64 {
        self.slices.iter().map(|slice| slice.answers).sum()
    }

    fn total(&self) -> Histogram<u64> {
        let mut total = histogram();
        for slice in &self.slices {
            total += &slice.latency;
        }
        total
    }

    pub(crate) fn latency(&self) -> Latency {
        latency_of(&self.total())
    }

    pub(crate) fn lag_p99_ns(&self) -> u64 {
        self.lag.value_at_quantile(0.99)
    }

    /// `(percentile, nanoseconds)`, ever closer to 100, and the maximum last.
    pub(crate) fn curve(&self) -> Vec<(f64, u64)> {
        let total = self.total();
        if total.is_empty() {
            return Vec::new();
        }
        let mut curve = Vec::new();
        let mut tail = 1.0;
        // Eight points per factor of ten in the distance to 100 %, until less than one sample lies beyond.
        while tail * as_float(total.len()) >= 1.0 {
            curve.push((100.0 * (1.0 - tail), total.value_at_quantile(1.0 - tail)));
            tail /= 10f64.powf(0.125);
        }
        curve.push((100.0, total.max()));
        curve
    }

    pub(crate) fn timeline(&self) -> Vec<Point> {
        let slice_ns = self.window.slice_ns();
        let whole = self.window.end_ns - self.window.start_ns;
        let mut start = 0;
        let mut points = Vec::with_capacity(self.slices.len());
        for slice in &self.slices {
            let length = slice_ns.min(whole - start);
            points.push(Point {
                at_s: as_float(start + length / 2) / 1e9,
                per_second: as_float(slice.answers) / (as_float(length) / 1e9),
                latency: latency_of(&slice.latency),
            });
            start += length;
        }
        points
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS)
        .expect("the bounds are in order and the digits at most five")
}

fn latency_of(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    let at = |quantile| histogram.value_at_quantile(quantile);
    Latency {
        p50_ns: at(0.5),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        p9999_ns: at(0.9999),
        max_ns: histogram.max(),
        mean_ns: histogram.mean(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times of a run and counts are far below 2^53"
)]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        start_ns: 1_000_000_000,
        end_ns: 2_000_000_000,
    };
    const MS: u64 = 1_000_000;

    fn near(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) <= expected / 500
    }

    #[test]
    fn warm_up_and_drain_are_left_out() {
        let mut recorder = Recorder::new(WINDOW);
        recorder.answered(900 * MS, 999 * MS);
        recorder.answered(990 * MS, 1010 * MS);
        recorder.answered(1500 * MS, 1501 * MS);
        recorder.answered(1990 * MS, 2040 * MS);
        // Two arrived inside, two were meant to start inside.
        assert_eq!(recorder.answers(), 2);
        let latency = recorder.latency();
        assert!(near(latency.p50_ns, MS), "{latency:?}");
        assert!(near(latency.max_ns, 50 * MS), "{latency:?}");
    }

    #[test]
    fn merging_equals_recording_in_one() {
        let mut one = Recorder::new(WINDOW);
        let mut parts = [Recorder::new(WINDOW), Recorder::new(WINDOW)];
        for k in 0..5000u64 {
            let (start, end) = (
                WINDOW.start_ns + k * 200_000,
                WINDOW.start_ns + k * 200_000 + 1000 + k * k,
            );
            one.answered(start, end);
            parts[usize::try_from(k % 2).unwrap()].answered(start, end);
        }
        parts[1].refused("full");
        let [mut merged, other] = parts;
        merged.merge(other);
        assert_eq!(merged.latency(), one.latency());
        assert_eq!(merged.timeline(), one.timeline());
        assert_eq!(merged.answers(), one.answers());
        assert_eq!(
            (merged.failed, merged.first_failure.as_deref()),
            (1, Some("full"))
        );
    }

    #[test]
    fn the_curve_rises_to_the_maximum() {
        let mut recorder = Recorder::new(WINDOW);
        for k in 0..10_000 {
            recorder.answered(WINDOW.start_ns + k, WINDOW.start_ns + k + 1000 + k);
        }
        let curve = recorder.curve();
        assert!(
            curve
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
            "{curve:?}"
        );
        assert_eq!(curve.last().map(|point| point.0), Some(100.0));
        assert!(near(curve[8].1, 10_000), "{:?} is the 90th percentile", curve[8]);
        assert!(Recorder::new(WINDOW).curve().is_empty());
    }

    #[test]
    fn slices_cover_the_window_and_partial_ones_are_not_diluted() {
        let window = Window {
            start_ns: 0,
            end_ns: 120 * MS,
        };
        let mut recorder = Recorder::new(window);
        for at in [10, 60, 105, 115] {
            recorder.answered(at * MS, at * MS);
        }
        let rates: Vec<f64> = recorder
            .timeline()
            .iter()
            .map(|point| point.per_second.round())
            .collect();
        assert_eq!(rates, [20.0, 20.0, 100.0]);
    }
}
