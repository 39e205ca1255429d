//! A bounded sample of the keys that a range's requests touch, to find where a split halves the load.
//!
//! A reservoir (Vitter, "Random sampling with a reservoir", 1985, algorithm R) of [`SAMPLE_KEYS`] keys, each cut to
//! [`SAMPLE_KEY_BYTES`] bytes: at most about 18 KiB for one range. After [`SEEN_MAX`] keys the count stands still, so that later
//! keys replace earlier ones and the sample forgets the past at a steady pace.
//!
//! The share of load left of a key is known to about ±4 % (one standard deviation, `0.5 / √128`). A scan is fed by the key at
//! which it starts; how far it goes does not count.

use crate::cluster::LoadSplit;
use base::Prng;
use base::key::Span;

/// Keys in a full sample.
pub const SAMPLE_KEYS: usize = 128;
/// Bytes kept of a key. The beginning of a key is as good a place to split.
pub const SAMPLE_KEY_BYTES: usize = 128;
/// Keys after which new ones are kept with a steady probability.
pub const SEEN_MAX: u64 = 32_768;
/// Fewer keys say nothing.
const KEYS_MIN: usize = 64;
/// The smaller half has at least so many thousandths of the load; otherwise a split is not worth it.
const SMALLER_PERMILLE_MIN: usize = 250;

/// The sketch: a fair sample of the keys touched lately.
#[derive(Debug, Clone)]
pub struct LoadSample {
    prng: Prng,
    seen: u64,
    keys: Vec<Box<[u8]>>,
}

impl LoadSample {
    /// An empty sample that draws from `prng`.
    #[must_use]
    pub fn new(prng: Prng) -> Self {
        Self {
            prng,
            seen: 0,
            keys: Vec::new(),
        }
    }

    /// Takes note of a request that touches `key`.
    pub fn record(&mut self, key: &[u8]) {
        self.seen = (self.seen + 1).min(SEEN_MAX);
        let kept = &key[..key.len().min(SAMPLE_KEY_BYTES)];
        if self.keys.len() < SAMPLE_KEYS {
            self.keys.push(kept.into());
            return;
        }
        let at = self.prng.below(self.seen);
        if let Some(slot) = usize::try_from(at).ok().and_then(|at| self.keys.get_mut(at)) {
            *slot = kept.into();
        }
    }

    /// Forgets everything, for a range that was split.
    pub fn clear(&mut self) {
        self.seen = 0;
        self.keys.clear();
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let keys: usize = self
            .keys
            .iter()
            .map(|key| key.len() + size_of::<Box<[u8]>>())
            .sum();
        size_of::<Self>() + keys
    }

    /// The key of `span` at which a split would halve the load best.
    #[must_use]
    pub fn pick(&self, span: &Span) -> LoadSplit {
        let mut keys: Vec<&[u8]> = self.keys.iter().map(|key| &**key).collect();
        keys.retain(|key| span.contains(key));
        keys.sort_unstable();
        let total = keys.len();
        if total < KEYS_MIN {
            return LoadSplit::Unknown;
        }
        let permille = |count: usize| u32::try_from(count * 1000 / total).unwrap_or(1000);
        let (mut best, mut most, mut start) = (None, (0, 0), 0);
        while start < total {
            let end = start + keys[start..].partition_point(|key| *key == keys[start]);
            most = most.max((end - start, start));
            // The range's first key cannot be the first of its right half.
            if start.min(total - start) * 1000 >= total * SMALLER_PERMILLE_MIN && *keys[start] > *span.start {
                let off = (total / 2).abs_diff(start);
                if best.is_none_or(|(least, _)| off < least) {
                    best = Some((off, start));
                }
            }
            start = end;
        }
        match best {
            Some((_, start)) => LoadSplit::At {
                key: keys[start].into(),
                left_permille: permille(start),
            },
            None => LoadSplit::OneKey {
                key: keys[most.1].into(),
                permille: permille(most.0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(keys: impl Iterator<Item = u64>) -> LoadSample {
        let mut sample = LoadSample::new(Prng::new(1));
        keys.for_each(|key| sample.record(&key.to_be_bytes()));
        sample
    }

    #[test]
    fn an_even_load_is_halved() {
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let sample = sampled((0..10_000).map(|_| prng.below(1_000)));
            let LoadSplit::At { key, .. } = sample.pick(&Span::all()) else {
                panic!("an even load can be halved");
            };
            let at = u64::from_be_bytes((&*key).try_into().unwrap());
            assert!((300..700).contains(&at), "{at}");
        }
    }

    #[test]
    fn one_key_that_is_the_load_is_named() {
        let mut prng = Prng::new(3);
        let sample = sampled((0..10_000).map(|_| if prng.chance(0.9) { 7 } else { prng.below(1_000) }));
        let LoadSplit::OneKey { key, permille } = sample.pick(&Span::all()) else {
            panic!("nothing halves it");
        };
        assert_eq!(*key, 7u64.to_be_bytes());
        assert!(permille > 800, "{permille}");
        let only_first = sampled((0..1_000).map(|_| 0));
        let span = Span::new(&0u64.to_be_bytes(), None);
        assert!(matches!(
            only_first.pick(&span),
            LoadSplit::OneKey { permille: 1000, .. }
        ));
    }

    #[test]
    fn the_past_is_forgotten_and_memory_is_bounded() {
        let mut sample = sampled((0..1_000_000).map(|key| key % 1_000));
        (0..300_000)
            .for_each(|key: u64| sample.record(&[&[0xff; 40], &key.to_be_bytes()[..], &[7; 900]].concat()));
        let old = sample.keys.iter().filter(|key| key[0] != 0xff).count();
        assert!(old < 3, "{old} of the old keys are left");
        assert!(sample.bytes() <= 18_600, "{}", sample.bytes());
        sample.clear();
        assert_eq!(sample.pick(&Span::all()), LoadSplit::Unknown);
    }
}
