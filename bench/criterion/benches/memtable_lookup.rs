//! What a get from the memtable costs, alone and prefetched with the rest of its loop turn.

mod tablet;

use criterion::{Criterion, criterion_group, criterion_main};

fn lookups(criterion: &mut Criterion) {
    let filled = tablet::Filled::new(1_000_000);
    filled.lookups(criterion, "get from the memtable, 1 M keys");
}

criterion_group!(benches, lookups);
criterion_main!(benches);
