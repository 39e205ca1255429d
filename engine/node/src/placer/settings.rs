//! How a cluster looks after its replicas: the same on all nodes.

use core::time::Duration;

/// Settings of placement. All nodes of a cluster share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Replicas that each range is to have, as long as there are as many nodes. Default 3.
    pub replicas: u32,
    /// Bytes beyond which a range is split: at least 64 KiB. Default 512 MiB.
    pub split_bytes: u64,
    /// Between two reports of a node to the placer: at least 10 ms. Default 1 s.
    pub interval: Duration,
    /// How long a range whose replicas were placed by hand is left alone, save that replicas on dead nodes are replaced. Default
    /// 10 min.
    pub pinned_for: Duration,
    /// What is done when.
    pub plan: placement::Config,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            replicas: 3,
            split_bytes: placement::policy::SPLIT_BYTES,
            interval: Duration::from_secs(1),
            pinned_for: Duration::from_secs(600),
            plan: placement::Config::default(),
        }
    }
}

/// Smaller ranges than this are not worth a group of their own.
pub(crate) const SPLIT_BYTES_MIN: u64 = 64 << 10;

/// A node that is not heard of for longer is not called live, however long dead nodes are waited for.
const SUSPECT_NS_MAX: u64 = 5_000_000_000;
const DEAD_NS_MAX: u64 = 10_000_000_000;

impl Placement {
    /// The same, with the replicas of a node replaced after it was dead for `time`.
    #[must_use]
    pub fn replace_after(mut self, time: Duration) -> Self {
        self.plan.dead_after_ns = nanos(time);
        self
    }

    /// The same, with balance and what else can wait at such a pace: `time` is for how long a node has more than others before it
    /// is relieved. The default is 2 min.
    #[must_use]
    pub fn balance_after(mut self, time: Duration) -> Self {
        self.plan.loaded_after_ns = nanos(time);
        self.plan.lease_still_ns = nanos(time) / 2;
        self.plan.still_ns = nanos(time).saturating_mul(5);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=64).contains(&self.replicas) {
            return Err(format!("a range has 1 to 64 replicas, not {}", self.replicas));
        }
        if self.split_bytes < SPLIT_BYTES_MIN {
            return Err(format!(
                "a range of less than {SPLIT_BYTES_MIN} bytes is not split"
            ));
        }
        if self.interval < Duration::from_millis(10) {
            return Err("reports of placement are at least 10 ms apart".to_owned());
        }
        if self.plan.dead_after_ns < nanos(self.interval * 2) {
            return Err("a node is dead after two reports have not come, at the earliest".to_owned());
        }
        Ok(())
    }

    /// How long a node is silent before it is suspect, in nanoseconds.
    pub(crate) fn suspect_ns(&self) -> u64 {
        (self.plan.dead_after_ns / 2).clamp(nanos(self.interval), SUSPECT_NS_MAX)
    }

    /// How long a node is silent before it is called dead, in nanoseconds.
    pub(crate) fn dead_ns(&self) -> u64 {
        self.plan.dead_after_ns.min(DEAD_NS_MAX)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
