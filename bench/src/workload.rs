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

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
            .map(|digit| DIGITS[usize::try_from(value >> (digit * 4) & 15).expect("four bits")]),
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

    /// Bytes of a key.
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes
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

/// Which records there are, over all connections: those of the start, and those inserted since.
///
/// Only inserts take the lock, a twentieth of the requests of the workloads that insert at all.
#[derive(Debug)]
pub(crate) struct Population {
    /// Every record below this number has been answered for.
    answered_below: AtomicU64,
    /// The inserts from `answered_below` on, and whether each is answered.
    inserts: Mutex<VecDeque<bool>>,
}

impl Population {
    /// Records below `count`.
    pub(crate) fn new(count: u64) -> Self {
        Self {
            answered_below: AtomicU64::new(count),
            inserts: Mutex::default(),
        }
    }

    /// Takes the next record number.
    fn insert(&self) -> u64 {
        let mut inserts = self.inserts.lock().unwrap_or_else(PoisonError::into_inner);
        inserts.push_back(false);
        self.answered_below.load(Ordering::Relaxed) + inserts.len() as u64 - 1
    }

    /// The insert of `record` was answered.
    fn inserted(&self, record: u64) {
        let mut inserts = self.inserts.lock().unwrap_or_else(PoisonError::into_inner);
        let below = self.answered_below.load(Ordering::Relaxed);
        let at = record.checked_sub(below).and_then(|at| usize::try_from(at).ok());
        if let Some(answered) = at.and_then(|at| inserts.get_mut(at)) {
            *answered = true;
        }
        let mut done = 0;
        while inserts.front() == Some(&true) {
            inserts.pop_front();
            done += 1;
        }
        self.answered_below.store(below + done, Ordering::Relaxed);
    }

    /// Records that can be read: none of them waits for an answer.
    fn readable(&self) -> u64 {
        self.answered_below.load(Ordering::Relaxed)
    }
}

/// Draws the actions of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    workload: Workload,
    chooser: Chooser,
    scan_rows: u32,
    prng: Prng,
    population: Arc<Population>,
}

#[derive(Debug, Clone)]
enum Chooser {
    Uniform { count: u64 },
    Zipfian(Zipf),
    Latest(Zipf),
}

impl Mix {
    /// Actions of `workload`; `population` is shared by all connections.
    pub(crate) fn new(
        workload: Workload,
        settings: &Records,
        population: Arc<Population>,
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
            population,
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
                record: self.population.insert(),
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

    /// An insert was answered: its record may be read from now on.
    pub(crate) fn inserted(&self, record: u64) {
        self.population.inserted(record);
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
                let there = self.population.readable();
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

    fn mix(workload: Workload, count: u64) -> Mix {
        Mix::new(
            workload,
            &Records { count, ..settings() },
            Arc::new(Population::new(count)),
            1,
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
            let mut mix = mix(workload, 1000);
            let count = (0..20_000).filter(|_| wanted(&mix.draw())).count();
            f64::from(u32::try_from(count).unwrap()) / 20_000.0
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
        let mut mix = mix(Workload::YcsbD, 1000);
        let mut waiting = VecDeque::new();
        let mut newest = 0;
        let mut hot = 0;
        for _ in 0..100_000 {
            match mix.draw() {
                Action::Get { record } => {
                    assert!(!waiting.contains(&record), "{record} is not answered");
                    newest = newest.max(record);
                    hot += u32::from(record + 100 >= mix.population.readable());
                }
                Action::Put { record } => waiting.push_back(record),
                other => panic!("{other:?}"),
            }
            // Answers come late and out of order: the second oldest first.
            if waiting.len() > 8 {
                mix.inserted(waiting.remove(1).unwrap());
                mix.inserted(waiting.pop_front().unwrap());
            }
        }
        assert!((5000..7000).contains(&newest), "{newest}");
        // The hundred newest of some thousands carry more than half of the zipfian weight.
        assert!(hot > 50_000, "{hot}");
    }

    #[test]
    fn equal_seeds_draw_equal_actions() {
        let mut a = mix(Workload::YcsbA, 1000);
        let mut b = mix(Workload::YcsbA, 1000);
        assert!((0..1000).all(|_| a.draw() == b.draw()));
    }
}
