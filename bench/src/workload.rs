//! What is asked for: records, their keys and values, and the mixes of operations.
//!
//! ```text
//!   record number ──scramble──► 16 hexadecimal digits, padded to the key length      (a bijection: no two keys collide)
//!        42                     "e220a8397b1dcdaf"
//! ```
//!
//! Scrambling spreads records evenly over the key space, so that `i / n` of it holds `i / n` of the records: the split
//! points of the ranges need no sampling, and the hot records of a zipfian load lie in different ranges.
//! A value begins with its record number, so that every read can be checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::Prng;

use crate::config::{Distribution, Records, Workload};
use crate::distribution::{ZIPF_EXPONENT, Zipf};
use crate::driver::OpKind;

/// YCSB's longest scan.
const YCSB_SCAN_ROWS_MAX: u64 = 100;
/// Random bytes that values are cut from: incompressible, and small enough to stay in cache.
const VALUE_POOL_BYTES: usize = 64 << 10;

/// Spreads record numbers over 64 bits, one to one (the finalizer of SplitMix64).
fn scramble(record: u64) -> u64 {
    let mut z = record.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hexadecimal(value: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.clear();
    out.extend(
        (0..16)
            .rev()
            .map(|digit| DIGITS[(value >> (digit * 4)) as usize & 15]),
    );
}

/// Where to split the key space into `parts` of equal weight: `parts - 1` keys, rising.
pub(crate) fn split_keys(parts: u64) -> Vec<Vec<u8>> {
    (1..parts)
        .map(|part| {
            let mut key = Vec::with_capacity(16);
            let at = (u128::from(part) << 64) / u128::from(parts);
            hexadecimal(u64::try_from(at).expect("part < parts"), &mut key);
            key
        })
        .collect()
}

/// Lays out keys and values of records.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    key_bytes: usize,
    value_bytes: usize,
    pool: Arc<[u8]>,
}

impl Layout {
    pub(crate) fn new(records: &Records, seed: u64) -> Self {
        let value_bytes = records.value_bytes as usize;
        let mut pool = vec![0; VALUE_POOL_BYTES.max(value_bytes * 2)];
        Prng::new(seed).fill(&mut pool);
        Self {
            key_bytes: records.key_bytes as usize,
            value_bytes,
            pool: pool.into(),
        }
    }

    /// The key of `record`, into `out`.
    pub(crate) fn key(&self, record: u64, out: &mut Vec<u8>) {
        hexadecimal(scramble(record), out);
        out.resize(self.key_bytes, b'.');
    }

    /// A value for `record`, into `out`: other bytes for another `salt`.
    pub(crate) fn value(&self, record: u64, salt: u64, out: &mut Vec<u8>) {
        let room = (self.pool.len() - self.value_bytes) as u64;
        let at = usize::try_from(salt % (room + 1)).expect("inside the pool");
        out.clear();
        out.extend_from_slice(&self.pool[at..at + self.value_bytes]);
        let stamp = record.to_le_bytes();
        let stamped = self.value_bytes.min(stamp.len());
        out[..stamped].copy_from_slice(&stamp[..stamped]);
    }

    /// Whether `value` can have been written for `record`.
    pub(crate) fn is_value_of(&self, record: u64, value: &[u8]) -> bool {
        let stamp = record.to_le_bytes();
        let stamped = self.value_bytes.min(stamp.len());
        value.len() == self.value_bytes && value[..stamped] == stamp[..stamped]
    }

    /// Bytes for an echo.
    pub(crate) fn echo(&self) -> &[u8] {
        &self.pool[..self.value_bytes]
    }
}

/// What a request is for. `record` numbers are turned into keys by [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Echo,
    Disk,
    Put {
        record: u64,
    },
    Get {
        record: u64,
    },
    Scan {
        record: u64,
        rows: u32,
    },
    /// A get, and a put of the same record when it has answered.
    ReadModifyWrite {
        record: u64,
    },
}

impl Action {
    /// The record, if it is about one.
    pub(crate) fn record(self) -> Option<u64> {
        match self {
            Self::Echo | Self::Disk => None,
            Self::Put { record }
            | Self::Get { record }
            | Self::Scan { record, .. }
            | Self::ReadModifyWrite { record } => Some(record),
        }
    }
}

/// The operations that a workload uses.
pub(crate) fn operations(workload: Workload) -> &'static [OpKind] {
    match workload {
        Workload::Echo => &[OpKind::Echo],
        Workload::Disk => &[OpKind::Disk],
        Workload::Put => &[OpKind::Put],
        Workload::Get | Workload::YcsbC => &[OpKind::Get],
        Workload::Scan => &[OpKind::Scan],
        Workload::YcsbA | Workload::YcsbB | Workload::YcsbD | Workload::YcsbF => &[OpKind::Get, OpKind::Put],
        Workload::YcsbE => &[OpKind::Scan, OpKind::Put],
    }
}

/// Draws the actions of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    workload: Workload,
    chooser: Chooser,
    scan_rows: u32,
    prng: Prng,
    /// Records that exist or are being inserted, over all connections.
    records: Arc<AtomicU64>,
    /// Inserts that may be unanswered: the newest records are not read until they are surely there.
    inserting_max: u64,
}

#[derive(Debug, Clone)]
enum Chooser {
    Uniform { count: u64 },
    Zipfian(Zipf),
    Latest(Zipf),
}

impl Mix {
    /// Actions of `workload`. `records` is shared by all connections of the run and starts at the record count.
    pub(crate) fn new(
        workload: Workload,
        settings: &Records,
        records: Arc<AtomicU64>,
        inserting_max: u64,
        seed: u64,
    ) -> Self {
        let natural = match workload {
            Workload::Echo | Workload::Disk | Workload::Put | Workload::Get | Workload::Scan => {
                Distribution::Uniform
            }
            Workload::YcsbA | Workload::YcsbB | Workload::YcsbC | Workload::YcsbE | Workload::YcsbF => {
                Distribution::Zipfian
            }
            Workload::YcsbD => Distribution::Latest,
        };
        let chooser = match settings.distribution.unwrap_or(natural) {
            Distribution::Uniform => Chooser::Uniform {
                count: settings.count,
            },
            Distribution::Zipfian => Chooser::Zipfian(Zipf::new(settings.count, ZIPF_EXPONENT)),
            Distribution::Latest => Chooser::Latest(Zipf::new(settings.count, ZIPF_EXPONENT)),
        };
        Self {
            workload,
            chooser,
            scan_rows: settings.scan_rows,
            prng: Prng::new(seed),
            records,
            inserting_max,
        }
    }

    /// The next action; an insert takes its record number here.
    pub(crate) fn draw(&mut self) -> Action {
        let roll = self.prng.unit();
        match self.workload {
            Workload::Echo => Action::Echo,
            Workload::Disk => Action::Disk,
            Workload::Put => Action::Put {
                record: self.existing(),
            },
            Workload::Get | Workload::YcsbC => Action::Get {
                record: self.existing(),
            },
            Workload::Scan => Action::Scan {
                record: self.existing(),
                rows: self.scan_rows,
            },
            Workload::YcsbA if roll < 0.5 => Action::Get {
                record: self.existing(),
            },
            Workload::YcsbB if roll < 0.95 => Action::Get {
                record: self.existing(),
            },
            Workload::YcsbA | Workload::YcsbB => Action::Put {
                record: self.existing(),
            },
            Workload::YcsbD if roll < 0.95 => Action::Get {
                record: self.existing(),
            },
            Workload::YcsbE if roll < 0.95 => {
                let rows = u32::try_from(self.prng.between(1, YCSB_SCAN_ROWS_MAX)).expect("a small number");
                Action::Scan {
                    record: self.existing(),
                    rows,
                }
            }
            Workload::YcsbD | Workload::YcsbE => Action::Put {
                record: self.records.fetch_add(1, Ordering::Relaxed),
            },
            Workload::YcsbF if roll < 0.5 => Action::Get {
                record: self.existing(),
            },
            Workload::YcsbF => Action::ReadModifyWrite {
                record: self.existing(),
            },
        }
    }

    /// Whether `action` inserts a new record: its number is taken, so that it cannot be drawn again.
    pub(crate) fn inserts(&self, action: Action) -> bool {
        matches!(self.workload, Workload::YcsbD | Workload::YcsbE) && matches!(action, Action::Put { .. })
    }

    /// A number that varies values.
    pub(crate) fn salt(&mut self) -> u64 {
        self.prng.next_u64()
    }

    /// A record that exists.
    fn existing(&mut self) -> u64 {
        match &mut self.chooser {
            Chooser::Uniform { count } => self.prng.below(*count),
            Chooser::Zipfian(zipf) => zipf.draw(&mut self.prng),
            Chooser::Latest(zipf) => {
                let there = self
                    .records
                    .load(Ordering::Relaxed)
                    .saturating_sub(self.inserting_max);
                if there > zipf.count() {
                    zipf.grow(there);
                }
                zipf.count() - 1 - zipf.draw(&mut self.prng)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Records {
        crate::BenchConfig::new(
            Workload::Get,
            crate::Target::parse("redis://127.0.0.1:1").unwrap(),
        )
        .records
    }

    fn mix(workload: Workload, count: u64) -> (Mix, Arc<AtomicU64>) {
        let records = Arc::new(AtomicU64::new(count));
        (
            Mix::new(
                workload,
                &Records { count, ..settings() },
                Arc::clone(&records),
                8,
                1,
            ),
            records,
        )
    }

    #[test]
    fn keys_are_distinct_of_the_length_asked_for_and_evenly_spread() {
        let layout = Layout::new(
            &Records {
                key_bytes: 20,
                ..settings()
            },
            1,
        );
        let bounds = split_keys(4);
        let mut counts = [0; 4];
        let mut seen = base::collections::FastSet::default();
        let mut key = Vec::new();
        for record in 0..4000 {
            layout.key(record, &mut key);
            assert_eq!(key.len(), 20);
            assert!(seen.insert(key.clone()), "record {record}");
            counts[bounds.iter().filter(|bound| key >= **bound).count()] += 1;
        }
        for count in counts {
            assert!((850..1150).contains(&count), "{counts:?}");
        }
        assert_eq!(bounds[1], b"8000000000000000");
    }

    #[test]
    fn values_tell_their_record() {
        for value_bytes in [1, 7, 8, 100, 200_000] {
            let layout = Layout::new(
                &Records {
                    value_bytes,
                    ..settings()
                },
                1,
            );
            let mut value = Vec::new();
            for salt in [0, 1, u64::MAX] {
                layout.value(77, salt, &mut value);
                assert!(layout.is_value_of(77, &value));
                assert!(!layout.is_value_of(78, &value));
                value.push(0);
                assert!(!layout.is_value_of(77, &value));
            }
        }
    }

    #[test]
    fn mixes_have_their_shares() {
        let share = |workload, wanted: fn(&Action) -> bool| {
            let (mut mix, _) = mix(workload, 1000);
            f64::from((0..20_000).filter(|_| wanted(&mix.draw())).count() as u32) / 20_000.0
        };
        let is_get = |action: &Action| matches!(action, Action::Get { .. });
        for (workload, expected) in [
            (Workload::YcsbA, 0.5),
            (Workload::YcsbB, 0.95),
            (Workload::YcsbC, 1.0),
            (Workload::YcsbD, 0.95),
            (Workload::YcsbE, 0.0),
            (Workload::YcsbF, 0.5),
        ] {
            assert!((share(workload, is_get) - expected).abs() < 0.02, "{workload:?}");
        }
        let scans = share(Workload::YcsbE, |a| {
            matches!(a, Action::Scan { rows: 1..=100, .. })
        });
        assert!((scans - 0.95).abs() < 0.02, "{scans}");
        let modifies = share(Workload::YcsbF, |a| matches!(a, Action::ReadModifyWrite { .. }));
        assert!((modifies - 0.5).abs() < 0.02, "{modifies}");
    }

    #[test]
    fn latest_follows_the_inserts_but_never_reads_an_unanswered_one() {
        let (mut mix, records) = mix(Workload::YcsbD, 1000);
        records.store(5000, Ordering::Relaxed);
        let mut newest = 0;
        let mut hot = 0;
        for _ in 0..10_000 {
            if let Action::Get { record } = mix.draw() {
                newest = newest.max(record);
                hot += u32::from(record >= 4900);
            }
        }
        let inserted = records.load(Ordering::Relaxed) - 5000;
        assert!((300..700).contains(&inserted), "{inserted}");
        assert!(
            newest >= 5000 && newest < records.load(Ordering::Relaxed) - 8,
            "{newest}"
        );
        // Ranks below about 100 + inserts of 5,000 carry more than half of the zipfian weight.
        assert!(hot > 5000, "{hot}");
    }

    #[test]
    fn equal_seeds_draw_equal_actions() {
        let (mut a, _) = mix(Workload::YcsbA, 1000);
        let (mut b, _) = mix(Workload::YcsbA, 1000);
        assert!((0..1000).all(|_| a.draw() == b.draw()));
    }
}
