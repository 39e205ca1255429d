//! What a replica has to do: requests counted, and, where they are many, a sample of their keys.

use base::Prng;
use base::key::Span;
use core::time::Duration;
use env::{Env, Instant};
use placement::{LoadSample, LoadSplit};
use storage::{Extent, Tablet};

/// The part of a new rate in what is shown, in quarters: a burst of a second is not a load.
const NEW_QUARTERS: u64 = 1;

/// Rates are not computed more often: two questions may come close together.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Counters of a replica.
#[derive(Debug, Default)]
pub(crate) struct Load {
    reads: u64,
    writes: u64,
    /// The counters when rates were computed last, and when that was.
    before: (u64, u64),
    looked: Option<Instant>,
    rates: (u64, u64),
    /// Only where the load is so much that it may have to be halved.
    sample: Option<Box<LoadSample>>,
    /// Of the tables as of so many flushes and merges, and a generation: only where there are many bytes.
    extent: Option<((u64, u64, u64), Extent)>,
    bytes: u64,
}

impl Load {
    /// A read that began at `key` is answered.
    pub(crate) fn read(&mut self, key: &[u8]) {
        self.reads += 1;
        self.touch(key);
    }

    /// A write was applied.
    pub(crate) fn wrote(&mut self) {
        self.writes += 1;
    }

    /// A request touches `key`.
    pub(crate) fn touch(&mut self, key: &[u8]) {
        if let Some(sample) = &mut self.sample {
            sample.record(key);
        }
    }

    /// Computes the rates anew. From `sample_from` requests per second on keys are sampled.
    pub(crate) fn look(&mut self, now: Instant, sample_from: u64, prng: impl FnOnce() -> Prng) {
        let counted = (self.reads, self.writes);
        if self.looked.is_some_and(|looked| now.since(looked) < LOOK_PAUSE) {
            return;
        }
        if let Some(looked) = self.looked {
            let elapsed_us = u64::try_from(now.since(looked).as_micros())
                .unwrap_or(u64::MAX)
                .max(1);
            let rate = |now: u64, before: u64| (now - before).saturating_mul(1_000_000) / elapsed_us;
            let mix = |old: u64, new: u64| (old * (4 - NEW_QUARTERS) + new * NEW_QUARTERS) / 4;
            self.rates = (
                mix(self.rates.0, rate(counted.0, self.before.0)),
                mix(self.rates.1, rate(counted.1, self.before.1)),
            );
        }
        (self.looked, self.before) = (Some(now), counted);
        match (self.rates.0 + self.rates.1 >= sample_from, self.sample.is_some()) {
            (true, false) => self.sample = Some(Box::new(LoadSample::new(prng()))),
            (false, true) => self.sample = None,
            (true, true) | (false, false) => {}
        }
    }

    /// Whether there has been no request since rates were computed last, and these are zero: there is nothing to compute.
    pub(crate) fn is_still(&self) -> bool {
        self.looked.is_some() && self.rates == (0, 0) && self.before == (self.reads, self.writes)
    }

    /// Looks how many bytes a tablet has within its span, and where its middle is. Small ones are not looked into: what they share
    /// with the other half of a split is counted whole.
    pub(crate) fn measure<E: Env>(&mut self, tablet: &Tablet<E>, generation: u64, large: u64) {
        let stats = tablet.stats();
        let memory = (stats.active_bytes + stats.frozen_bytes) as u64;
        if stats.table_bytes < large {
            self.extent = None;
            self.bytes = stats.table_bytes + memory;
            return;
        }
        let of = (stats.flushes, stats.merges, generation);
        if self.extent.as_ref().is_none_or(|(known, _)| *known != of) {
            self.extent = Some((of, tablet.extent()));
        }
        self.bytes = self.extent.as_ref().map_or(0, |(_, extent)| extent.bytes) + memory;
    }

    /// The bytes of the tablet, as of the last look.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A key with about half of the bytes on each side, if it is known.
    pub(crate) fn middle(&self) -> Option<&[u8]> {
        self.extent.as_ref()?.1.middle.as_deref()
    }

    /// Reads and writes per second.
    pub(crate) fn rates(&self) -> (u32, u32) {
        let capped = |rate: u64| u32::try_from(rate).unwrap_or(u32::MAX);
        (capped(self.rates.0), capped(self.rates.1))
    }

    /// Where the load could be halved.
    pub(crate) fn hot(&self, span: &Span) -> LoadSplit {
        self.sample
            .as_ref()
            .map_or(LoadSplit::Unknown, |sample| sample.pick(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_still_when_its_rates_are_gone() {
        let mut load = Load::default();
        let prng = || unreachable!("there is not so much to do that keys are sampled");
        assert!(!load.is_still(), "nobody has looked yet");
        let mut now = Instant(0);
        let mut look = |load: &mut Load| {
            now = now + Duration::from_secs(1);
            load.look(now, 1000, prng);
        };
        look(&mut load);
        assert!(load.is_still());
        (0..8).for_each(|_| load.wrote());
        assert!(!load.is_still());
        look(&mut load);
        assert_eq!(load.rates(), (0, 2));
        assert!(!load.is_still(), "the rate is to be told until it is zero");
        look(&mut load);
        look(&mut load);
        assert!(load.is_still(), "{:?}", load.rates());
    }
}
