//! What a get from a sorted table costs when its blocks are in the cache: filter, index, block.

mod tablet;

use criterion::{Criterion, criterion_group, criterion_main};

fn lookups(criterion: &mut Criterion) {
    let filled = tablet::Filled::new(1_000_000);
    filled.flush();
    filled.lookups(criterion, "get from a cached table, 1 M keys");
}

criterion_group!(benches, lookups);
criterion_main!(benches);
