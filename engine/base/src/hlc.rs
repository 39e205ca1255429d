//! The hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): pure, fed with physical time.
//!
//! Invariants:
//! - `now` is strictly greater than every timestamp that this clock issued or observed.
//! - Observing a remote timestamp further ahead than `offset_ns_max`, and than this clock itself, changes nothing and is
//!   refused.
//! - No timestamp above `bound` is issued: the owner raises it durably first, so that time never goes back over a
//!   restart (`docs/design.md`, "Time").

use crate::Timestamp;
use core::fmt;

/// One shard's hybrid logical clock.
#[derive(Debug, Clone)]
pub struct Hlc {
    /// The greatest timestamp issued or observed.
    last: Timestamp,
    /// How far ahead of the local physical clock a remote timestamp may be, in nanoseconds.
    offset_ns_max: u64,
}

/// A remote clock is further ahead than the bound allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// What the message carried.
    pub remote: Timestamp,
    /// The local physical time, in nanoseconds.
    pub physical_ns: u64,
    /// The configured bound, in nanoseconds.
    pub offset_ns_max: u64,
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead_ms = self.remote.wall_ns.saturating_sub(self.physical_ns) / 1_000_000;
        write!(
            f,
            "remote clock is {ahead_ms} ms ahead, more than the bound of {} ms",
            self.offset_ns_max / 1_000_000
        )
    }
}

impl core::error::Error for ClockOffset {}

impl Hlc {
    /// A clock that will never issue a timestamp at or below `floor`.
    #[must_use]
    pub fn new(floor: Timestamp, offset_ns_max: u64) -> Self {
        Self {
            last: floor,
            offset_ns_max,
        }
    }

    /// Issues the next timestamp, given the physical time in nanoseconds since the Unix epoch.
    pub fn now(&mut self, physical_ns: u64) -> Timestamp {
        let physical = Timestamp::new(physical_ns, 0);
        self.last = if self.last < physical {
            physical
        } else {
            self.last.next()
        };
        self.last
    }

    /// The greatest timestamp issued or observed so far.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// Takes in a timestamp of another clock, so that everything issued from now on follows it.
    ///
    /// # Errors
    /// [`ClockOffset`] when `remote` is ahead of both this clock and `physical_ns` by more than the bound allows; the clock is
    /// unchanged.
    pub fn observe(&mut self, remote: Timestamp, physical_ns: u64) -> Result<(), ClockOffset> {
        // For a moment after a restart all shards run ahead of physical time, at the bound that the process before made
        // durable, and differ only in the logical part: what one of them issued is no stranger to the others.
        let reached = self
            .last
            .wall_ns
            .max(physical_ns.saturating_add(self.offset_ns_max));
        if remote.wall_ns > reached {
            return Err(ClockOffset {
                remote,
                physical_ns,
                offset_ns_max: self.offset_ns_max,
            });
        }
        self.last = self.last.max(remote);
        Ok(())
    }

    /// Raises the clock to `floor` without a bound check: for timestamps that this node itself made durable.
    pub fn raise(&mut self, floor: Timestamp) {
        self.last = self.last.max(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issued_timestamps_increase_when_the_physical_clock_does_not() {
        let mut hlc = Hlc::new(Timestamp::ZERO, 500);
        let mut last = Timestamp::ZERO;
        for physical in [10, 10, 9, 3, 11, 11] {
            let now = hlc.now(physical);
            assert!(now > last, "{now} after {last}");
            last = now;
        }
        assert_eq!(last, Timestamp::new(11, 1));
    }

    #[test]
    fn observing_moves_the_clock_only_within_the_bound() {
        let mut hlc = Hlc::new(Timestamp::ZERO, 500);
        hlc.observe(Timestamp::new(600, 2), 100)
            .expect("exactly at the bound");
        assert_eq!(hlc.now(100), Timestamp::new(600, 3));
        let refused = hlc.observe(Timestamp::new(601, 0), 100);
        assert!(refused.is_err());
        assert_eq!(hlc.last(), Timestamp::new(600, 3));
    }

    #[test]
    fn what_this_clock_has_reached_itself_is_not_ahead() {
        let mut hlc = Hlc::new(Timestamp::new(9000, 7), 500);
        hlc.observe(Timestamp::new(9000, 40), 100)
            .expect("another clock that starts at the same floor");
        assert_eq!(hlc.now(100), Timestamp::new(9000, 41));
        assert!(hlc.observe(Timestamp::new(9001, 0), 100).is_err());
    }
}
