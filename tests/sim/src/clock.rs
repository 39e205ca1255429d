//! Clocks.
//!
//! Fault model, per node:
//! - The monotonic clock runs too fast or too slow by a constant drift. It never goes back and starts at zero with each
//!   process. *The system must survive it.*
//! - The wall clock is off by up to the bound, with its own slope, and jumps inside the bound, both ways. *Must survive it.*
//! - A jump past the bound (the `jump_past_bound` rate). *The system need not survive it, but must notice: the node stops itself.*
//! - A sleep may take longer than asked, and a pause of the node delays everything. *Must survive it.*

use crate::config::{ClockConfig, fires};
use crate::trace::{Fault, Trace};
use crate::world::{Process, World};
use base::Prng;
use core::time::Duration;
use env::{Clock, Instant};
use std::rc::Rc;

/// The truth at the start of a run: 2026-01-01.
pub(crate) const WALL_NS_START: u64 = 1_767_225_600_000_000_000;

/// A shard's view of its node's clocks.
#[derive(Debug, Clone)]
pub struct SimClock {
    pub(crate) world: Rc<World>,
    pub(crate) process: Process,
}

/// The clocks of one node, as functions of the true time.
#[derive(Debug, Clone)]
pub(crate) struct NodeClock {
    /// When the process started, for the monotonic clock.
    started_ns: u64,
    drift_ppm: i64,
    /// The wall clock's error at `wall_set_ns`, from where it changes with `wall_slope_ppm`.
    wall_offset_ns: i64,
    wall_set_ns: u64,
    wall_slope_ppm: i64,
    wall_bound_ns: i64,
}

/// `ns * ppm / 1e6` without overflow.
fn parts_per_million(ns: u64, ppm: i64) -> i64 {
    let ns = i64::try_from(ns).expect("a run lasts less than 292 years");
    ns / 1_000_000 * ppm + ns % 1_000_000 * ppm / 1_000_000
}

/// A number in `-max..=max`.
fn around_zero(prng: &mut Prng, max: u64) -> i64 {
    let max = max.min(i64::MAX as u64 / 2);
    i64::try_from(prng.between(0, 2 * max)).expect("twice half of the range fits") - max.cast_signed()
}

impl NodeClock {
    pub(crate) fn new(config: &ClockConfig, prng: &mut Prng, now: u64) -> Self {
        Self {
            started_ns: now,
            drift_ppm: around_zero(prng, config.drift_ppm_max),
            wall_offset_ns: around_zero(prng, config.offset_ns_max),
            wall_set_ns: now,
            wall_slope_ppm: around_zero(prng, config.drift_ppm_max),
            wall_bound_ns: config.offset_ns_max.cast_signed(),
        }
    }

    pub(crate) fn process_started(&mut self, now: u64) {
        self.started_ns = now;
    }

    pub(crate) fn monotonic_ns(&self, now: u64) -> u64 {
        let elapsed = now - self.started_ns;
        elapsed.saturating_add_signed(parts_per_million(elapsed, self.drift_ppm))
    }

    /// How long the true time takes to let the monotonic clock advance by `ns`, or a little less.
    fn true_ns(&self, ns: u64) -> u64 {
        ns.saturating_add_signed(parts_per_million(ns.min(i64::MAX as u64), -self.drift_ppm))
            .max(1)
    }

    pub(crate) fn wall_ns(&self, now: u64) -> u64 {
        let slope = parts_per_million(now - self.wall_set_ns, self.wall_slope_ppm);
        // Past the bound a clock stays as far off as it jumped: its slope only counts inside.
        let bound = self.wall_bound_ns.max(self.wall_offset_ns.abs());
        let offset = (self.wall_offset_ns + slope).clamp(-bound, bound);
        (WALL_NS_START + now).saturating_add_signed(offset)
    }

    /// Sets the wall clock's error.
    pub(crate) fn jump_to(&mut self, now: u64, offset_ns: i64) {
        self.wall_set_ns = now;
        self.wall_offset_ns = offset_ns;
    }

    /// Jumps somewhere, mostly within the bound.
    pub(crate) fn jump(&mut self, config: &ClockConfig, prng: &mut Prng, now: u64, trace: &mut Trace) {
        let bound = config.offset_ns_max;
        if fires(prng, config.jump_past_bound) {
            let past = prng.between(bound + 1, bound.max(1_000_000) * 10).cast_signed();
            self.jump_to(now, if prng.chance(0.5) { past } else { -past });
            trace.fault(Fault::ClockJumpPastBound);
        } else {
            self.jump_to(now, around_zero(prng, bound));
            self.wall_slope_ppm = around_zero(prng, config.drift_ppm_max);
            trace.fault(Fault::ClockJump);
        }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(
            self.world
                .core
                .borrow()
                .clock(self.process, NodeClock::monotonic_ns),
        )
    }

    fn wall_ns(&self) -> u64 {
        self.world.core.borrow().clock(self.process, NodeClock::wall_ns)
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        loop {
            let left = until.0.saturating_sub(self.now().0);
            if left == 0 {
                return;
            }
            let true_ns = {
                let mut core = self.world.core.borrow_mut();
                let true_ns = core.clock(self.process, |clock, _| clock.true_ns(left));
                true_ns + core.sleep_late_ns()
            };
            self.world.timer(true_ns).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimConfig;

    #[test]
    fn a_drifting_clock_never_goes_back_and_stays_inside_its_bound() {
        let mut config = SimConfig::calm().clock;
        (config.drift_ppm_max, config.offset_ns_max) = (500, 1_000_000);
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let mut clock = NodeClock::new(&config, &mut prng, 17);
            let (mut now, mut before) = (17, 0);
            for _ in 0..1000 {
                now += prng.below(3_000_000_000);
                let monotonic = clock.monotonic_ns(now);
                assert!(monotonic >= before, "{monotonic} after {before}");
                before = monotonic;
                if prng.chance(0.1) {
                    clock.jump(&config, &mut prng, now, &mut Trace::default());
                }
                let truth = WALL_NS_START + now;
                assert!(
                    clock.wall_ns(now).abs_diff(truth) <= 1_000_000,
                    "inside the bound"
                );
            }
        }
    }

    #[test]
    fn a_jump_past_the_bound_is_past_the_bound() {
        let mut config = SimConfig::calm().clock;
        (config.offset_ns_max, config.jump_past_bound) = (1_000_000, 1.0);
        let mut prng = Prng::new(1);
        let mut clock = NodeClock::new(&config, &mut prng, 0);
        clock.jump(&config, &mut prng, 10, &mut Trace::default());
        assert!(clock.wall_ns(10).abs_diff(WALL_NS_START + 10) > 1_000_000);
    }
}
