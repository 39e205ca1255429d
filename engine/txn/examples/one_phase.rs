//! What the decision about a transaction of one range costs, beside what a plain put does anyway: nanoseconds for each call.
//!
//! `cargo run --release -p corelane-txn --example one_phase`

use base::collections::FastMap;
use base::{ClientId, Prng, Timestamp};
use core::convert::Infallible;
use corelane_txn::evaluate::{OnePhase, one_phase};
use corelane_txn::view::Version;
use corelane_txn::{Bytes, Context, Intent, Isolation, Memory, Record, TimestampCache, TxnId, View};
use std::error::Error;
use std::hint::black_box;

const KEYS: u64 = 100_000;
const CALLS: u64 = 2_000_000;

/// The newest version of each key, without a value.
struct Newest(FastMap<Vec<u8>, Timestamp>);

impl View for Newest {
    type NeedsIo = Infallible;

    fn contains(&self, _key: &[u8]) -> bool {
        true
    }

    fn end(&self) -> Option<&[u8]> {
        None
    }

    fn version<R>(
        &self,
        key: &[u8],
        _at: Timestamp,
        f: impl FnOnce(Option<Version<'_>>) -> R,
    ) -> Result<R, Infallible> {
        Ok(f(self.0.get(key).map(|ts| Version {
            ts: *ts,
            local_ts: *ts,
            value: None,
        })))
    }

    fn next_key(&self, _from: &[u8], _end: Option<&[u8]>) -> Result<Option<Bytes>, Infallible> {
        Ok(None)
    }

    fn intent(&self, _key: &[u8]) -> Result<Option<&Intent>, Infallible> {
        Ok(None)
    }

    fn next_intent(&self, _from: &[u8], _end: Option<&[u8]>) -> Result<Option<Bytes>, Infallible> {
        Ok(None)
    }

    fn record(&self, _id: TxnId) -> Result<Option<&Record>, Infallible> {
        Ok(None)
    }

    fn memory(&self, _id: TxnId) -> Memory {
        Memory::New
    }
}

fn cpu_ns() -> Result<u64, Box<dyn Error>> {
    // Fields 14 and 15: ticks of a hundredth of a second in user and kernel mode.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks * 10_000_000)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut prng = Prng::new(1);
    let keys: Vec<Vec<u8>> = (0..KEYS).map(|n| format!("user/{n:012}").into_bytes()).collect();
    let view = Newest(
        keys.iter()
            .map(|key| (key.clone(), Timestamp::new(5, 0)))
            .collect(),
    );
    let mut cache = TimestampCache::new(Timestamp::new(4, 0), 16_384);
    for _ in 0..100_000 {
        cache.note(&keys[prng.index(keys.len())], Timestamp::new(6, 0), None);
    }
    let context = Context {
        now: Timestamp::new(10, 0),
        closed: Timestamp::new(3, 0),
        observed: Timestamp::MAX,
        lease_start: Timestamp::ZERO,
        expiry_ns: 1,
    };
    let reads = [
        ("nothing read", None),
        ("with a snapshot", Some(Timestamp::new(8, 0))),
    ];
    for (name, read_ts) in reads {
        for writes in [1, 2, 8] {
            let begin = cpu_ns()?;
            for n in 0..CALLS {
                let id = TxnId {
                    client: ClientId(1),
                    seq: n,
                };
                let txn = OnePhase {
                    id,
                    read_ts,
                    isolation: Isolation::Snapshot,
                };
                let first = prng.index(keys.len() - writes);
                let written = keys[first..first + writes].iter().map(Vec::as_slice);
                let decided = one_phase(&view, &cache, &context, &txn, written)?;
                black_box(decided?);
            }
            println!("{name}, {writes} keys: {} ns", (cpu_ns()? - begin) / CALLS);
        }
    }
    Ok(())
}
