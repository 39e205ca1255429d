//! What a log record costs the processor: staging it, and the batch's checksum and write onto a disk in memory.

use base::{Index, RangeId, Term};
use corelane_bench_criterion::VALUE;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use log::{EntryKind, Log, LogConfig, Record};
use sim::{DiskImage, ImageMachine};

const RANGE: RangeId = RangeId(7);

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log, durable on a disk in memory");
    for batch in [1u64, 64] {
        let machine = ImageMachine::new(&DiskImage::new());
        let config = LogConfig {
            segment_bytes: 4 << 20,
            seal_after: None,
            ..LogConfig::default()
        };
        let env = machine.env();
        let (log, _) = machine
            .block_on(Log::open(&env, "wal", config, &mut |_, _| {}))
            .expect("an empty disk");
        let mut index = Index::ZERO;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} records of 100 B"), |bencher| {
            bencher.iter(|| {
                let before = log.persisted();
                for _ in 0..batch {
                    index = index.next();
                    log.append(&Record::Entry {
                        range: RANGE,
                        index,
                        term: Term(1),
                        chain: 0,
                        kind: EntryKind::Command,
                        payload: &VALUE,
                    });
                }
                log.submit();
                let persisted = machine
                    .block_on(log.persisted_beyond(before))
                    .expect("the disk has room");
                // What is covered leaves the log, so that segments are recycled as they are in a server.
                log.cover(RANGE, index);
                persisted
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
