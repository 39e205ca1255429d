//! Time.

use core::future::Future;
use core::ops::Add;
use core::time::Duration;

/// A reading of the monotonic clock, in nanoseconds since an arbitrary start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Time as a shard sees it.
pub trait Clock: Clone + 'static {
    /// The monotonic clock. Never goes back.
    fn now(&self) -> Instant;

    /// The wall clock, in nanoseconds since the Unix epoch. May jump, forwards and backwards.
    fn wall_ns(&self) -> u64;

    /// Completes when the monotonic clock has advanced by `duration`; possibly later.
    ///
    /// # Cancellation
    /// Safe: dropping the future forgets the timer.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
}
