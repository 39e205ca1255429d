//! How long lookups, writes and scans take, on one thread and with everything in memory: time on the processor, so that
//! what else runs on the machine disturbs little. Run it with `--release`.
//!
//! ```text
//! cargo run --release -p corelane-storage --example lookup_speed [KEYS]
//! ```

use base::api::WriteOp;
use base::key::Span;
use base::{Index, Prng, RangeId, Timestamp};
use core::cell::Cell;
use corelane_storage::{NeedsIo, ScanPage, Shared, StorageConfig, Tablet, interleave};
use sim::{DiskImage, ImageEnv, ImageMachine};
use std::hint::black_box;

/// Lookups of one loop turn.
const GROUP: usize = 64;
const LOOKUPS: usize = 2_000_000;

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"user000000000000";
    for (at, digit) in key.iter_mut().rev().take(12).zip(0..) {
        *at = b'0' + u8::try_from(number / 10u64.pow(digit) % 10).unwrap_or(0);
    }
    key
}

/// Nanoseconds that this thread has been on a processor.
fn cpu_ns() -> u64 {
    let stat =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts the time of threads");
    stat.split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .expect("a number first")
}

fn timed(what: &str, operations: usize, mut run: impl FnMut()) {
    let start = cpu_ns();
    run();
    println!(
        "{what:<44} {:>8} ns/operation",
        (cpu_ns() - start) / operations as u64
    );
}

fn first_byte(seen: Option<(Timestamp, &[u8])>) -> u64 {
    seen.map_or(0, |(_, value)| value[0].into())
}

fn lookups(tablet: &Tablet<ImageEnv>, keys: &[[u8; 16]], grouped: bool) {
    let found = Cell::new(0u64);
    let count = |seen: Result<u64, NeedsIo>| found.set(found.get() + seen.expect("in memory"));
    for group in keys.chunks(GROUP) {
        if grouped {
            group.iter().for_each(|key| tablet.prefetch(key));
            interleave(group.iter().map(|key| async move {
                count(tablet.get_interleaved(key, Timestamp::MAX, first_byte).await);
            }));
        } else {
            for key in group {
                count(tablet.get_cached(key, Timestamp::MAX, first_byte));
            }
        }
    }
    black_box(found.get());
}

fn scan(machine: &ImageMachine, tablet: &Tablet<ImageEnv>, reverse: bool, rows: usize) {
    let page = ScanPage {
        span: Span::all(),
        read_ts: Timestamp::MAX,
        reverse,
        rows_max: rows,
        bytes_max: 1 << 30,
    };
    assert_eq!(
        machine
            .block_on(tablet.scan_page(&page))
            .expect("no damage")
            .len(),
        rows
    );
}

fn main() {
    let keys: u64 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |text| text.parse().expect("a number of keys"));
    let count = usize::try_from(keys).expect("fits");
    let machine = ImageMachine::new(&DiskImage::new());
    let (memtable_bytes_max, memory_bytes_max, cache_bytes_max) = (1 << 30, 2 << 30, 1 << 30);
    let config = StorageConfig {
        memtable_bytes_max,
        memory_bytes_max,
        cache_bytes_max,
        rows_bytes_max: 0,
        ..StorageConfig::default()
    };
    let shared = Shared::new(machine.env(), config);
    let create = Tablet::create(&shared, RangeId(1), Span::all(), Index(0), Vec::new());
    let tablet = machine.block_on(create).expect("an empty disk");
    let mut order: Vec<u64> = (0..keys).collect();
    Prng::new(1).shuffle(&mut order);
    let mut prng = Prng::new(5);
    let wanted: Vec<[u8; 16]> = (0..LOOKUPS).map(|_| key(prng.below(keys))).collect();
    let value = [b'v'; 100];
    timed("put, keys in random order", count, || {
        for (&number, at) in order.iter().zip(1..) {
            let op = WriteOp::Put {
                key: &key(number),
                value: &value,
            };
            tablet.apply(Index(at), Timestamp::new(at, 0), core::iter::once(op));
        }
    });
    println!(
        "{:<44} {:>8} bytes/key",
        "memtable",
        shared.memory_bytes() / count
    );
    timed("get from the memtable", LOOKUPS, || {
        lookups(&tablet, &wanted, false);
    });
    timed("get from the memtable, 64 at a time", LOOKUPS, || {
        lookups(&tablet, &wanted, true);
    });
    timed("scan of the memtable, a row", count, || {
        scan(&machine, &tablet, false, count);
    });
    tablet.freeze(Vec::new(), false);
    timed("flush, a row", count, || {
        _ = machine.block_on(tablet.flush()).expect("room");
    });
    timed("scan of a cold table, a row", count, || {
        scan(&machine, &tablet, false, count);
    });
    timed("scan of a cached table, a row", count, || {
        scan(&machine, &tablet, false, count);
    });
    timed("scan of a cached table in reverse, a row", count, || {
        scan(&machine, &tablet, true, count);
    });
    timed("get from a cached table", LOOKUPS, || {
        lookups(&tablet, &wanted, false);
    });
    timed("get from a cached table, 64 at a time", LOOKUPS, || {
        lookups(&tablet, &wanted, true);
    });
    let plan = tablet.plan_full_merge().expect("a table");
    timed("merge, a row", count, || {
        machine.block_on(tablet.merge(plan.clone())).expect("room");
    });
}
