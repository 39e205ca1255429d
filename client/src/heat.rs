//! Which keys many transactions want at once, as far as this client has heard. Pure.
//!
//! Who locks several keys asks for all of them at once, in one round. Where others wait for one of them that is bad: whoever has got a key
//! that many want, and waits for another one, holds up everybody. So keys that others wait for are locked first, one after the other, the
//! one that most wait for before all, when nothing is held yet. All clients that hear the same lock in the same order, so that few wait
//! for each other in a circle.

use base::collections::FastMap;
use txn::Bytes;

/// Keys that are known to be wanted.
const KEYS_MAX: usize = 256;
/// A key whose queue is this short, on average, is like any other.
const LEAST: f32 = 0.1;
/// What each answer weighs against those before.
const WEIGHT: f32 = 0.2;

/// How many wait for keys, on average.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    queues: FastMap<Bytes, f32>,
}

impl Heat {
    /// A key was locked, and so many others wait for it.
    pub(crate) fn note(&mut self, key: &Bytes, queue: u32) {
        #[expect(clippy::cast_precision_loss, reason = "an average")]
        let queue = queue as f32;
        if let Some(known) = self.queues.get_mut(key) {
            *known += WEIGHT * (queue - *known);
            if *known < LEAST {
                self.queues.remove(key);
            }
            return;
        }
        if queue == 0.0 {
            return;
        }
        if self.queues.len() >= KEYS_MAX {
            // Those that are still wanted will be heard of again.
            let mut all: Vec<f32> = self.queues.values().copied().collect();
            let middle = all.len() / 2;
            let (_, median, _) = all.select_nth_unstable_by(middle, f32::total_cmp);
            let median = *median;
            self.queues.retain(|_, known| *known > median);
        }
        self.queues.insert(key.clone(), queue * WEIGHT);
    }

    /// Those of `keys` that others wait for, the one that most wait for first.
    pub(crate) fn first(&self, keys: &[Bytes]) -> Vec<Bytes> {
        if self.queues.is_empty() {
            return Vec::new();
        }
        let known = keys.iter().filter_map(|key| Some((*self.queues.get(key)?, key)));
        let mut known: Vec<(f32, &Bytes)> = known.collect();
        known.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
        known.dedup();
        known.into_iter().map(|(_, key)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        number.to_string().as_bytes().into()
    }

    #[test]
    fn what_most_wait_for_comes_first() {
        let mut heat = Heat::default();
        assert!(heat.first(&[key(1), key(2)]).is_empty());
        heat.note(&key(1), 0);
        heat.note(&key(2), 3);
        heat.note(&key(3), 9);
        let all = [key(1), key(2), key(3), key(2)];
        assert_eq!(heat.first(&all), [key(3), key(2)]);
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_forgotten() {
        let mut heat = Heat::default();
        heat.note(&key(1), 40);
        for _ in 0..30 {
            heat.note(&key(1), 0);
        }
        assert!(heat.queues.is_empty());
    }

    #[test]
    fn it_is_bounded_and_keeps_the_most_wanted() {
        let mut heat = Heat::default();
        heat.note(&key(0), 1_000);
        for number in 1..10 * KEYS_MAX {
            heat.note(&key(number), 1);
        }
        assert!(heat.queues.len() <= KEYS_MAX);
        assert_eq!(heat.first(&[key(7), key(0)])[..1], [key(0)]);
    }
}
