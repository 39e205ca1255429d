//! How far a peer's clock is ahead, as an interval that a round trip leaves open.
//!
//! ```text
//!   mine    a1 ──────────────────────────► a2        echo = (a1, b1), clock = b2
//!              \                          /
//!   peer        ──► b1 ───────────── b2 ──           b2 - a2  ≤  ahead  ≤  b1 - a1
//! ```
//!
//! Both ends are true of any delay, when clocks do not go back: a message that was long under way makes the interval wide,
//! never wrong. So a clock within its bound is never accused.

use crate::message::Message;

/// Bounds on how far a clock is ahead, in nanoseconds. Negative: it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Offset {
    /// At least this.
    pub low_ns: i64,
    /// At most this; `i64::MAX` when no round trip was short enough to tell.
    pub high_ns: i64,
}

fn ahead(clock_ns: u64, of_ns: u64) -> i64 {
    let far = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    if clock_ns >= of_ns {
        far(clock_ns - of_ns)
    } else {
        -far(of_ns - clock_ns)
    }
}

impl Offset {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Self = Self {
        low_ns: i64::MIN,
        high_ns: i64::MAX,
    };

    /// From a message that comes at `now_ns`. The other way counts only if the round trip began less than `age_ns_max` ago: a
    /// clock that was wrong is not accused for ever.
    pub(crate) fn measure(message: &Message, age_ns_max: u64, now_ns: u64) -> Self {
        let echo = message
            .echo
            .filter(|echo| now_ns.saturating_sub(echo.clock_ns) < age_ns_max);
        Self {
            low_ns: ahead(message.clock_ns, now_ns),
            high_ns: echo.map_or(i64::MAX, |echo| ahead(echo.came_ns, echo.clock_ns)),
        }
    }

    /// Whether the clocks are certainly farther apart than `ns_max`.
    #[must_use]
    pub fn exceeds(&self, ns_max: u64) -> bool {
        let ns_max = i64::try_from(ns_max).unwrap_or(i64::MAX);
        self.low_ns > ns_max || self.high_ns < -ns_max
    }
}
