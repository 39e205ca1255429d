//! What a detector is told. All nodes of a cluster share these.

const MS: u64 = 1_000_000;

/// The tunables of a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Nanoseconds between two messages to a peer that answers. Default 200 ms; hostile: 1 ms.
    pub beat_ns: u64,
    /// Nanoseconds between two messages to a peer that is silent; doubled from `beat_ns` up to this. Default 1.6 s; hostile:
    /// `beat_ns`.
    pub beat_ns_max: u64,
    /// How long support is asked for, in nanoseconds of the asker's clock. Default 700 ms; hostile: the least that
    /// [`validate`](Self::validate) takes.
    pub support_ns: u64,
    /// How far the clocks of two live nodes differ at most, in nanoseconds. Default 250 ms; hostile: 0.
    pub clock_offset_ns_max: u64,
    /// Peers, with those removed whose promise has not expired. Default 4,096; hostile: 1.
    pub peers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            beat_ns: 200 * MS,
            beat_ns_max: 1_600 * MS,
            support_ns: 700 * MS,
            clock_offset_ns_max: 250 * MS,
            peers_max: 4_096,
        }
    }
}

impl Config {
    /// Panics unless the tunables make sense together.
    ///
    /// # Panics
    /// When a bound is out of its range.
    pub fn validate(&self) {
        assert!(self.beat_ns >= 8, "beat_ns cannot be divided");
        assert!(self.beat_ns_max >= self.beat_ns, "beat_ns_max is below beat_ns");
        // An ask is answered half a beat later, and the next one must be before the lease has run out.
        assert!(
            self.support_ns
                > self
                    .clock_offset_ns_max
                    .saturating_add(self.beat_ns.saturating_mul(2)),
            "support_ns leaves less than two beats beside clock_offset_ns_max"
        );
        let hour = 3_600_000 * MS;
        assert!(
            self.support_ns <= hour && self.beat_ns_max <= hour,
            "support or beats of more than an hour"
        );
        assert!(self.peers_max > 0, "peers_max is zero");
    }

    /// The longest promise, by the supporter's clock: what is asked for at most by a clock that is ahead as far as it may be.
    #[must_use]
    pub fn promise_ns_max(&self) -> u64 {
        self.support_ns.saturating_add(self.clock_offset_ns_max)
    }

    /// How long, by the clock of a restarted supporter, one of its promises may still be believed.
    #[must_use]
    pub fn wait_ns(&self) -> u64 {
        self.promise_ns_max().saturating_add(self.clock_offset_ns_max)
    }
}
