//! When requests of an open loop are meant to start. Pure arithmetic: the clock is an argument.
//!
//! ```text
//!   intended   |     |     |     |     |     |            every 1 / rate
//!   sent       |     |                 |||   |            the server (or the window) was full for a while
//!   latency    ──►   ──►   ───────────────►               counted from the intended start
//! ```
//!
//! Counting from the moment of sending would leave out exactly the requests that a stalled server delays most
//! ("coordinated omission"). Intended starts are computed, not queued: a backlog of any size takes no memory.

/// The intended starts of one thread's share of an open loop, in nanoseconds of the run.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    first_ns: f64,
    interval_ns: f64,
    started: u64,
    end_ns: u64,
}

impl Schedule {
    /// The share of thread `thread` of `threads` in a loop of `per_second`, from time zero up to `end_ns`.
    ///
    /// # Panics
    /// When there is no such thread.
    pub(crate) fn new(per_second: f64, thread: u32, threads: u32, end_ns: u64) -> Self {
        assert!(thread < threads, "thread {thread} of {threads}");
        let step_ns = 1e9 / per_second;
        Self {
            first_ns: step_ns * f64::from(thread),
            interval_ns: step_ns * f64::from(threads),
            started: 0,
            end_ns,
        }
    }

    /// When the next request is meant to start; `None` after the last.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let at = self.first_ns + self.interval_ns * as_float(self.started);
        // Rounded up: a request is never due before its time.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and times are positive"
        )]
        let at = at.ceil() as u64;
        (at < self.end_ns).then_some(at)
    }

    /// Takes the next request if it is due at `now_ns`: its intended start.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let at = self.next_ns().filter(|&at| at <= now_ns)?;
        self.started += 1;
        Some(at)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a run starts far fewer than 2^53 requests"
)]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_rate_evenly() {
        let mut all = Vec::new();
        for thread in 0..3 {
            let mut schedule = Schedule::new(1000.0, thread, 3, 1_000_000_000);
            while let Some(at) = schedule.take_due(u64::MAX) {
                all.push(at);
            }
        }
        all.sort_unstable();
        assert_eq!(all, (0..1000).map(|k| k * 1_000_000).collect::<Vec<u64>>());
    }

    #[test]
    fn nothing_is_due_early_and_a_backlog_keeps_its_times() {
        let mut schedule = Schedule::new(10.0, 0, 1, 1_000_000_000);
        assert_eq!(schedule.take_due(0), Some(0));
        assert_eq!(schedule.take_due(99_999_999), None);
        assert_eq!(schedule.next_ns(), Some(100_000_000));
        // Nobody looked for half a second: what was due keeps its intended time.
        assert_eq!(schedule.take_due(550_000_000), Some(100_000_000));
        assert_eq!(schedule.take_due(550_000_000), Some(200_000_000));
        for expected in [300_000_000, 400_000_000, 500_000_000] {
            assert_eq!(schedule.take_due(550_000_000), Some(expected));
        }
        assert_eq!(schedule.take_due(550_000_000), None);
    }

    #[test]
    fn fast_rates_do_not_drift() {
        let mut schedule = Schedule::new(3_000_000.0, 0, 1, 10_000_000_000);
        let mut count = 0;
        while schedule.take_due(u64::MAX).is_some() {
            count += 1;
        }
        assert_eq!(count, 30_000_000);
    }
}
