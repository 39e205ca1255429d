//! What a client knows of the cluster's clock. Pure: its own time comes in as an argument.
//!
//! The clock of a client does not count: its machine may be set to anything. A reply with a node's clock `S`, asked for at `t0` and there
//! at `t1`, says that the node's clock shows at least `S + (t − t1)` and at most `S + (t − t0)` at `t`, save for the pace of both clocks.
//!
//! For some seconds after a start a node's clock may stand still, ahead of its machine's: at what the process before may have shown. The
//! upper bound is one still, the lower one is not, and then the node says that a timestamp is ahead.
//!
//! ```text
//!   client  ──t0────────────────t1─────────t──►
//!               ╲            ╱
//!   node    ──────────S────────────────────────►     S was read at some moment between t0 and t1
//! ```

use base::Timestamp;
use core::time::Duration;

/// A sample is replaced by a newer one that says less when it is older than this.
const SAMPLE_KEPT: Duration = Duration::from_secs(3);
/// A sample that is older than this says nothing any more.
const SAMPLE_MAX: Duration = Duration::from_secs(10);
/// How long the clock of a node that has just started is taken to stand.
const STANDS: Duration = Duration::from_secs(5);
/// How much the paces of two clocks differ, at most: one part in so many.
const PACE: u32 = 1000;

#[derive(Debug, Clone, Copy)]
struct Sample {
    clock: Timestamp,
    /// When it was asked for, and when it came.
    asked: Duration,
    came: Duration,
}

impl Sample {
    fn width(&self) -> Duration {
        self.came.saturating_sub(self.asked)
    }
}

/// The estimate, and what the client has seen of the past.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    sample: Option<Sample>,
    /// Until then it may stand still.
    stands_until: Duration,
    seen: Timestamp,
}

impl Clock {
    /// A reply with a node's clock, asked for and received then.
    pub(crate) fn sample(&mut self, clock: Timestamp, asked: Duration, came: Duration) {
        let new = Sample { clock, asked, came };
        let is_better = self
            .sample
            .is_none_or(|old| new.width() <= old.width() || came.saturating_sub(old.came) > SAMPLE_KEPT);
        if is_better {
            self.sample = Some(new);
        }
    }

    /// A node has said that a timestamp by this estimate was ahead.
    pub(crate) fn stands(&mut self, now: Duration) {
        self.stands_until = now + STANDS;
    }

    /// The client was told that something happened at `ts`: whatever it reads from now on is from then or later.
    pub(crate) fn saw(&mut self, ts: Timestamp) {
        self.seen = self.seen.max(ts);
    }

    /// What the cluster's clock shows at least, and at most; `None` when nobody said so for a while.
    pub(crate) fn bounds(&self, now: Duration) -> Option<(Timestamp, Timestamp)> {
        let Sample { clock, asked, came } = self.sample?;
        let (most, least) = (now.saturating_sub(asked), now.saturating_sub(came));
        if least > SAMPLE_MAX {
            return None;
        }
        let gone = if now < self.stands_until {
            Duration::ZERO
        } else {
            least.saturating_sub(most / PACE)
        };
        let low = clock.plus_ns(nanos(gone));
        let high = clock.plus_ns(nanos(most + most / PACE).saturating_add(1));
        let low = low.max(self.seen);
        Some((low, high.max(low)))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_clock_lies_between_the_bounds() {
        let mut clock = Clock::default();
        assert_eq!(clock.bounds(ms(0)), None);
        // The node read 5,000 ms somewhere between 100 and 104 ms of the client's time.
        clock.sample(Timestamp::new(5_000 * MS, 7), ms(100), ms(104));
        let (low, high) = clock.bounds(ms(204)).unwrap();
        assert!(low.wall_ns <= 5_100 * MS && low.wall_ns > 5_099 * MS, "{low}");
        assert!(high.wall_ns > 5_104 * MS && high.wall_ns < 5_105 * MS, "{high}");
    }

    #[test]
    fn the_narrowest_sample_of_the_last_seconds_counts() {
        let mut clock = Clock::default();
        clock.sample(Timestamp::new(1_000 * MS, 0), ms(0), ms(2));
        clock.sample(Timestamp::new(2_000 * MS, 0), ms(1_000), ms(1_100));
        assert!(clock.bounds(ms(1_100)).unwrap().1.wall_ns < 2_110 * MS);
        clock.sample(Timestamp::new(5_000 * MS, 0), ms(4_000), ms(4_100));
        let (low, high) = clock.bounds(ms(4_100)).unwrap();
        assert!(high.wall_ns - low.wall_ns > 90 * MS, "the old one is too old");
        assert_eq!(clock.bounds(ms(20_000)), None);
    }

    #[test]
    fn a_clock_that_stands_shows_what_it_showed() {
        let mut clock = Clock::default();
        let shown = Timestamp::new(9_000 * MS, 3);
        clock.sample(shown, ms(0), ms(1));
        clock.stands(ms(500));
        let (low, high) = clock.bounds(ms(1_000)).unwrap();
        assert_eq!(low, shown);
        assert!(high.wall_ns >= 10_000 * MS);
        assert!(clock.bounds(ms(6_000)).unwrap().0.wall_ns > 14_900 * MS);
    }

    #[test]
    fn nothing_is_read_from_before_what_was_seen() {
        let mut clock = Clock::default();
        clock.sample(Timestamp::new(1_000 * MS, 0), ms(0), ms(1));
        let seen = Timestamp::new(3_000 * MS, 2);
        clock.saw(seen);
        clock.saw(Timestamp::new(2_000 * MS, 0));
        assert_eq!(clock.bounds(ms(1)), Some((seen, seen)));
    }
}
