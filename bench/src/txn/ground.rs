//! Which records lie in one range, and which in ranges that are led from different places. Pure.

use base::Prng;

use crate::workload::Layout;

/// The records by their ranges, as these were when a run began.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The records of each range that has some.
    ranges: Vec<Vec<u64>>,
    /// Where in `ranges` each record is.
    range_of: Vec<usize>,
    /// For each range those that a transaction of two ranges goes to: led from another place, or any others where there is one place.
    others: Vec<Vec<usize>>,
}

impl Ground {
    /// Of records below `count`, over ranges that are given by first key, rising, and the place that leads them.
    pub(crate) fn new(layout: &Layout, count: u64, map: &[(Vec<u8>, u16)]) -> Self {
        let mut found = vec![Vec::new(); map.len()];
        let mut key = Vec::new();
        for record in 0..count {
            layout.key(record, &mut key);
            let after = map.partition_point(|(start, _)| *start <= key);
            found[after.saturating_sub(1)].push(record);
        }
        let kept = found
            .into_iter()
            .zip(map)
            .filter(|(records, _)| !records.is_empty());
        let (ranges, places): (Vec<_>, Vec<_>) = kept.map(|(records, range)| (records, range.1)).unzip();
        let mut range_of = vec![0; usize::try_from(count).expect("records fit in memory")];
        for (range, records) in ranges.iter().enumerate() {
            for &record in records {
                range_of[index(record)] = range;
            }
        }
        let others = (0..ranges.len()).map(|here| {
            let elsewhere = |led: bool| {
                let others = (0..ranges.len()).filter(|&there| there != here);
                others
                    .filter(|&there| !led || places[there] != places[here])
                    .collect()
            };
            let led: Vec<usize> = elsewhere(true);
            if led.is_empty() { elsewhere(false) } else { led }
        });
        Self {
            others: others.collect(),
            ranges,
            range_of,
        }
    }

    /// Records of all ranges.
    pub(crate) fn count(&self) -> u64 {
        self.range_of.len() as u64
    }

    /// Whether records lie in two ranges at least.
    pub(crate) fn is_divided(&self) -> bool {
        self.ranges.len() > 1
    }

    /// The records of each range that has some.
    pub(crate) fn ranges(&self) -> &[Vec<u64>] {
        &self.ranges
    }

    /// Another record of the same range; the same one when it is alone there.
    pub(crate) fn near(&self, record: u64, prng: &mut Prng) -> u64 {
        let records = &self.ranges[self.range_of[index(record)]];
        loop {
            let other = records[prng.index(records.len())];
            if other != record || records.len() == 1 {
                return other;
            }
        }
    }

    /// A record of another range, led from another place where there are several.
    ///
    /// # Panics
    /// When there is one range only.
    pub(crate) fn far(&self, record: u64, prng: &mut Prng) -> u64 {
        let others = &self.others[self.range_of[index(record)]];
        let records = &self.ranges[others[prng.index(others.len())]];
        records[prng.index(records.len())]
    }
}

fn index(record: u64) -> usize {
    usize::try_from(record).expect("records fit in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BenchConfig, Target, Workload};
    use crate::workload::split_keys;

    fn ground(places: &[u16]) -> Ground {
        let target = Target::parse("corelane://127.0.0.1:7400").unwrap();
        let config = BenchConfig::new(Workload::Put, target);
        let mut starts = split_keys(places.len() as u64);
        starts.insert(0, Vec::new());
        let map: Vec<_> = starts.into_iter().zip(places.iter().copied()).collect();
        Ground::new(&Layout::new(&config.records, 1), 1000, &map)
    }

    #[test]
    fn near_is_the_same_range_and_far_another_place() {
        let ground = ground(&[1, 2, 1, 3]);
        let place = |record| [1, 2, 1, 3][ground.range_of[index(record)]];
        let mut prng = Prng::new(5);
        assert!(ground.is_divided());
        assert_eq!(ground.ranges().iter().map(Vec::len).sum::<usize>(), 1000);
        for record in 0..1000 {
            let near = ground.near(record, &mut prng);
            assert_ne!(near, record);
            assert_eq!(ground.range_of[index(near)], ground.range_of[index(record)]);
            assert_ne!(place(ground.far(record, &mut prng)), place(record));
        }
    }

    #[test]
    fn with_one_place_far_is_another_range() {
        let ground = ground(&[0, 0]);
        let mut prng = Prng::new(5);
        for record in 0..1000 {
            let far = ground.far(record, &mut prng);
            assert_ne!(ground.range_of[index(far)], ground.range_of[index(record)]);
        }
        assert!(!self::ground(&[0]).is_divided());
    }
}
