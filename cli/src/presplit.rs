//! Where to split before a load, so that every shard works from its first second. Pure.
//!
//! A sample of the coming keys is cut into equal parts; each part becomes a range and the ranges are dealt to the shards in
//! turn. Ranges that already exist are kept: a plan only adds what is missing.
//!
//! ```text
//!   sample   a c d d f g h k m p q z        2 shards × 2 ranges each
//!   cut            |     |     |
//!   ranges   [..d)  [d..g)  [g..m)  [m..)
//!   shards     0      1       0      1
//! ```

use base::ShardId;

/// One step of a plan: split at `key`, then put the range that starts there on `shard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The first key of the range.
    pub(crate) key: Vec<u8>,
    /// Whether a range has to be split there first.
    pub(crate) split: bool,
    /// Where the range belongs.
    pub(crate) shard: ShardId,
}

/// A range as the plan sees it: its first key and its shard, in key order.
pub(crate) type Existing = (Vec<u8>, ShardId);

/// Plans for `sample` (in any order) on a node with `shards` shards and the ranges `existing`, aiming at `ranges_per_shard`.
///
/// Empty when the sample is too small to tell, or is already spread: no shard would get more than half again its share.
pub(crate) fn plan(
    mut sample: Vec<Vec<u8>>,
    existing: &[Existing],
    shards: u16,
    ranges_per_shard: u16,
) -> Vec<Step> {
    let parts = usize::from(shards) * usize::from(ranges_per_shard);
    sample.sort_unstable();
    if shards == 0 || parts < 2 || sample.len() < parts * 4 || is_spread(&sample, existing, shards) {
        return Vec::new();
    }
    let mut steps: Vec<Step> = Vec::with_capacity(parts);
    for part in 1..parts {
        let key = &sample[sample.len() * part / parts];
        // A key that fills several parts makes one range; the first key of all cannot be split off.
        if steps.last().is_some_and(|step| step.key == *key) || *key == sample[0] {
            continue;
        }
        let split = existing
            .binary_search_by(|(start, _)| start.as_slice().cmp(key))
            .is_err();
        let shard = u16::try_from(part % usize::from(shards)).map_or(ShardId(0), ShardId);
        steps.push(Step {
            key: key.clone(),
            split,
            shard,
        });
    }
    steps
}

/// Whether the ranges that exist already give every shard about its share of `sample` (sorted).
fn is_spread(sample: &[Vec<u8>], existing: &[Existing], shards: u16) -> bool {
    let mut count = vec![0_usize; usize::from(shards)];
    for key in sample {
        let at = existing.partition_point(|(start, _)| start <= key);
        let Some((_, shard)) = at.checked_sub(1).and_then(|at| existing.get(at)) else {
            return false;
        };
        let Some(count) = count.get_mut(usize::from(shard.0)) else {
            return false;
        };
        *count += 1;
    }
    let share = sample.len() / usize::from(shards);
    count.iter().all(|&count| count <= share + share / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(count: u32) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("{:08}", n.wrapping_mul(2_654_435_761) % 100_000_000).into_bytes())
            .collect()
    }

    fn apply(existing: &[Existing], steps: &[Step]) -> Vec<Existing> {
        let mut ranges = existing.to_vec();
        for step in steps {
            match ranges.binary_search_by(|(start, _)| start.cmp(&step.key)) {
                Ok(at) => {
                    assert!(!step.split, "{:?} exists", step.key);
                    ranges[at].1 = step.shard;
                }
                Err(at) => {
                    assert!(step.split);
                    ranges.insert(at, (step.key.clone(), step.shard));
                }
            }
        }
        ranges
    }

    #[test]
    fn a_fresh_node_is_split_for_all_shards_once() {
        let fresh = [(Vec::new(), ShardId(0))];
        let steps = plan(sample(1000), &fresh, 2, 4);
        assert_eq!(steps.len(), 7);
        let ranges = apply(&fresh, &steps);
        assert_eq!(ranges.iter().filter(|(_, shard)| *shard == ShardId(1)).count(), 4);
        assert_eq!(
            plan(sample(1000), &ranges, 2, 4),
            [],
            "a second import finds the ranges there"
        );
    }

    #[test]
    fn little_or_equal_keys_are_left_alone() {
        let fresh = [(Vec::new(), ShardId(0))];
        assert_eq!(plan(sample(7), &fresh, 2, 4), []);
        assert_eq!(plan(vec![b"same".to_vec(); 1000], &fresh, 2, 4), []);
        assert_eq!(plan(sample(1000), &fresh, 1, 1), []);
        assert_eq!(plan(Vec::new(), &fresh, 0, 0), []);
    }

    proptest! {
        #[test]
        fn after_a_plan_distinct_keys_are_spread(count in 200_u32..2000, shards in 2_u16..6) {
            let fresh = [(Vec::new(), ShardId(0))];
            let steps = plan(sample(count), &fresh, shards, 4);
            let ranges = apply(&fresh, &steps);
            let mut sorted = sample(count);
            sorted.sort_unstable();
            prop_assert!(is_spread(&sorted, &ranges, shards), "{:?}", ranges);
        }
    }
}
