//! Criterion benches of the hot paths, one file per question. They are apart from the load generator because criterion
//! takes longer to build than all of it.
//!
//! ```text
//! cargo bench -p corelane-bench-criterion                     all
//! cargo bench -p corelane-bench-criterion --bench ring        one
//! ```
//!
//! Nothing here is a claim about a whole server: that is what `corelane bench` measures.

use base::Prng;

/// Keys of the benches: 16 bytes, in random order over the key space.
#[must_use]
pub fn keys(count: u64) -> Vec<[u8; 16]> {
    let mut prng = Prng::new(1);
    (0..count)
        .map(|_| {
            let mut key = [0; 16];
            prng.fill(&mut key);
            key
        })
        .collect()
}

/// Requests of one loop turn: lookups of a turn are prefetched together.
pub const GROUP: usize = 64;

/// The value of every record.
pub const VALUE: [u8; 100] = [b'v'; 100];
