//! A tablet with records on a disk in memory, for the lookup benches.

use base::api::WriteOp;
use base::key::Span;
use base::{Index, Prng, RangeId, Timestamp};
use corelane_bench_criterion::{GROUP, VALUE, keys};
use criterion::{Criterion, Throughput};
use sim::{DiskImage, ImageEnv, ImageMachine};
use std::hint::black_box;
use storage::{ScanPage, Shared, StorageConfig, Tablet};

/// A tablet of many records.
pub(crate) struct Filled {
    keys: Vec<[u8; 16]>,
    machine: ImageMachine,
    tablet: Tablet<ImageEnv>,
}

impl Filled {
    /// With `count` records, all in one memtable.
    pub(crate) fn new(count: u64) -> Self {
        let machine = ImageMachine::new(&DiskImage::new());
        let config = StorageConfig {
            memtable_bytes_max: 1 << 30,
            memory_bytes_max: 2 << 30,
            cache_bytes_max: 1 << 30,
            ..StorageConfig::default()
        };
        let shared = Shared::new(machine.env(), config);
        let create = Tablet::create(&shared, RangeId(1), Span::all(), Index(0), Vec::new());
        let tablet = machine.block_on(create).expect("an empty disk");
        let keys = keys(count);
        for (key, at) in keys.iter().zip(1..) {
            let op = WriteOp::Put { key, value: &VALUE };
            tablet.apply(Index(at), Timestamp::new(at, 0), core::iter::once(op));
        }
        Self {
            keys,
            machine,
            tablet,
        }
    }

    /// Moves the records to a table, and its blocks into the cache.
    #[allow(dead_code, reason = "each bench that includes this file uses a part of it")]
    pub(crate) fn flush(&self) {
        self.tablet.freeze(Vec::new(), false);
        self.machine
            .block_on(self.tablet.flush())
            .expect("the disk has room");
        let rows_max = self.keys.len();
        let page = ScanPage {
            span: Span::all(),
            read_ts: Timestamp::MAX,
            reverse: false,
            rows_max,
            bytes_max: 1 << 30,
        };
        let rows = self
            .machine
            .block_on(self.tablet.scan_page(&page))
            .expect("no damage");
        assert_eq!(rows.len(), rows_max);
    }

    /// Times lookups of random records.
    pub(crate) fn lookups(&self, criterion: &mut Criterion, name: &str) {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(GROUP as u64));
        for prefetched in [false, true] {
            let mut prng = Prng::new(5);
            let how = if prefetched {
                "prefetched by 64"
            } else {
                "one by one"
            };
            group.bench_function(how, |bencher| {
                bencher.iter(|| {
                    let wanted: [&[u8; 16]; GROUP] =
                        core::array::from_fn(|_| &self.keys[prng.index(self.keys.len())]);
                    if prefetched {
                        wanted.iter().for_each(|key| self.tablet.prefetch(*key));
                    }
                    for key in wanted {
                        let seen = self.tablet.get_cached(key, Timestamp::MAX, |seen| seen.is_some());
                        assert!(black_box(seen.expect("in memory")), "every key was written");
                    }
                });
            });
        }
        group.finish();
    }
}
