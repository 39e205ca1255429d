//! Which versions a merge may drop: a pure filter over the versions of one key, newest first.
//!
//! With threshold `T` and versions at 9, 7, 4, 2 (and `T` = 5): reads at or above `T` see 9, 7 or 4, never 2.
//!
//! ```text
//!   ts   9    7    │T=5│   4    2
//!      keep keep           keep drop      4 too when it is a delete and nothing older lies below the merge
//! ```

use base::Timestamp;

/// Decides, version by version, what a merge keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collector {
    /// No read below it happens any more.
    gc_threshold: Timestamp,
    /// The merge includes the oldest table: no older version of any of its keys exists elsewhere.
    bottom: bool,
    /// A version at or below the threshold was met for the current key.
    settled: bool,
}

impl Collector {
    pub(crate) fn new(gc_threshold: Timestamp, bottom: bool) -> Self {
        Self {
            gc_threshold,
            bottom,
            settled: false,
        }
    }

    /// The versions of the next key follow.
    pub(crate) fn next_key(&mut self) {
        self.settled = false;
    }

    /// Whether to keep the next older version of the key. `covered` is the newest range tombstone at or below the threshold
    /// that covers the key, in any input of the merge.
    pub(crate) fn keeps(&mut self, ts: Timestamp, deleted: bool, covered: Option<Timestamp>) -> bool {
        if ts > self.gc_threshold {
            return true;
        }
        let newest_settled = !core::mem::replace(&mut self.settled, true);
        if base::planted_bug!("storage-merge-drops-newest") && newest_settled {
            return false;
        }
        let hidden = covered.is_some_and(|tombstone| ts < tombstone);
        newest_settled && !hidden && !(deleted && self.bottom)
    }

    /// Which timestamps of a range tombstone's fragment (ascending) to keep.
    pub(crate) fn keeps_tombstones<'a>(&self, timestamps: &'a [Timestamp]) -> &'a [Timestamp] {
        let settled = timestamps.partition_point(|&ts| ts <= self.gc_threshold);
        &timestamps[if self.bottom {
            settled
        } else {
            settled.saturating_sub(1)
        }..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(threshold: u64, bottom: bool, covered: Option<u64>, versions: &[(u64, bool)]) -> Vec<u64> {
        let at = |wall| Timestamp::new(wall, 0);
        let mut collector = Collector::new(at(threshold), bottom);
        collector.next_key();
        let keep = |&&(ts, deleted): &&(u64, bool)| collector.keeps(at(ts), deleted, covered.map(at));
        let mut keep = keep;
        versions.iter().filter(|v| keep(v)).map(|v| v.0).collect()
    }

    #[test]
    fn keeps_all_above_and_the_newest_at_or_below() {
        let versions = [(9, false), (7, false), (4, false), (2, false)];
        assert_eq!(kept(5, false, None, &versions), [9, 7, 4]);
        assert_eq!(kept(4, false, None, &versions), [9, 7, 4]);
        assert_eq!(kept(9, true, None, &versions), [9]);
        assert_eq!(kept(1, true, None, &versions), [9, 7, 4, 2]);
    }

    #[test]
    fn a_settled_delete_goes_only_at_the_bottom() {
        let versions = [(9, true), (4, true), (2, false)];
        assert_eq!(kept(5, false, None, &versions), [9, 4]);
        assert_eq!(kept(5, true, None, &versions), [9]);
    }

    #[test]
    fn what_a_settled_range_tombstone_hides_goes() {
        let versions = [(9, false), (4, false), (2, false)];
        assert_eq!(kept(5, false, Some(5), &versions), [9]);
        assert_eq!(kept(5, false, Some(4), &versions), [9, 4]);
        assert_eq!(kept(5, false, Some(3), &versions), [9, 4]);
    }

    #[test]
    fn tombstones_above_the_threshold_and_the_newest_below_stay() {
        let at = |wall| Timestamp::new(wall, 0);
        let all = [at(1), at(3), at(6)];
        assert_eq!(
            Collector::new(at(5), false).keeps_tombstones(&all),
            [at(3), at(6)]
        );
        assert_eq!(Collector::new(at(5), true).keeps_tombstones(&all), [at(6)]);
        assert_eq!(Collector::new(at(0), false).keeps_tombstones(&all), all);
    }
}
