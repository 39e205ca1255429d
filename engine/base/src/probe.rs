//! Reachability probes and misbehave-on-purpose sites, both active only under the feature `probe`.
//!
//! - [`sometimes!`](crate::sometimes) marks a rare state that tests must reach at least once over all seeds.
//! - [`misbehave!`](crate::misbehave) asks whether to take a legal but unusual path (a short batch, an early flush).
//!   A run switches each site on or off once, then a site that is on fires with a probability.
//!
//! Both count what they did per thread, so that a run can prove that its faults fired. Pure cores may use them: in a
//! build without the feature they are constant.

#[cfg(feature = "probe")]
pub use active::{Report, begin, finish};

/// Records that a rare state was reached: `sometimes!("log: two writes in flight", in_flight > 1)`.
#[macro_export]
macro_rules! sometimes {
    ($name:literal, $condition:expr) => {
        if $condition {
            $crate::probe::reached($name);
        }
    };
    ($name:literal) => {
        $crate::probe::reached($name)
    };
}

/// True when the simulator wants this site to misbehave now: `if misbehave!("log: short batch") { … }`.
#[macro_export]
macro_rules! misbehave {
    ($name:literal) => {
        $crate::probe::misbehaves($name)
    };
}

/// True in a build with `--cfg planted_bugs`, in a process whose environment has `CORELANE_BUG=name`: a planted bug that the
/// tests must find.
#[macro_export]
macro_rules! planted_bug {
    ($name:literal) => {
        $crate::probe::is_planted($name)
    };
}

/// The body of [`sometimes!`](crate::sometimes).
#[inline(always)]
pub fn reached(name: &'static str) {
    #[cfg(feature = "probe")]
    active::reached(name);
    #[cfg(not(feature = "probe"))]
    let _ = name;
}

/// The body of [`misbehave!`](crate::misbehave).
#[inline(always)]
#[must_use]
pub fn misbehaves(name: &'static str) -> bool {
    #[cfg(feature = "probe")]
    return active::misbehaves(name);
    #[cfg(not(feature = "probe"))]
    {
        let _ = name;
        false
    }
}

/// The body of [`planted_bug!`](crate::planted_bug).
#[inline(always)]
#[must_use]
pub fn is_planted(name: &'static str) -> bool {
    #[cfg(planted_bugs)]
    {
        use std::sync::LazyLock;
        static BUG: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("CORELANE_BUG").ok());
        BUG.as_deref() == Some(name)
    }
    #[cfg(not(planted_bugs))]
    {
        let _ = name;
        false
    }
}

#[cfg(feature = "probe")]
mod active {
    use crate::Prng;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// What a run reached and where it misbehaved, by name.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Report {
        /// How often each probe was reached.
        pub reached: BTreeMap<&'static str, u64>,
        /// How often each site misbehaved; sites that were asked and never fired stand at zero.
        pub misbehaved: BTreeMap<&'static str, u64>,
    }

    struct Run {
        prng: Prng,
        site_on_probability: f64,
        fire_probability: f64,
        site_on: BTreeMap<&'static str, bool>,
        report: Report,
    }

    thread_local! {
        static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
    }

    /// Starts counting on this thread; sites are on with `site_on_probability` and then fire with `fire_probability`.
    pub fn begin(prng: Prng, site_on_probability: f64, fire_probability: f64) {
        let run = Run {
            prng,
            site_on_probability,
            fire_probability,
            site_on: BTreeMap::new(),
            report: Report::default(),
        };
        RUN.with_borrow_mut(|slot| *slot = Some(run));
    }

    /// Stops counting on this thread and hands out what was counted.
    #[must_use]
    pub fn finish() -> Report {
        RUN.with_borrow_mut(Option::take)
            .map(|run| run.report)
            .unwrap_or_default()
    }

    pub(super) fn reached(name: &'static str) {
        RUN.with_borrow_mut(|run| {
            if let Some(run) = run {
                *run.report.reached.entry(name).or_insert(0) += 1;
            }
        });
    }

    pub(super) fn misbehaves(name: &'static str) -> bool {
        RUN.with_borrow_mut(|run| {
            let Some(run) = run else { return false };
            let count = run.report.misbehaved.entry(name).or_insert(0);
            let (prng, probability) = (&mut run.prng, run.site_on_probability);
            let on = *run
                .site_on
                .entry(name)
                .or_insert_with(|| prng.chance(probability));
            let fires = on && run.prng.chance(run.fire_probability);
            *count += u64::from(fires);
            fires
        })
    }
}
