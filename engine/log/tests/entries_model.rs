//! Entries read back while the log is appended to, cut, covered, recycled and restarted, against a model: every entry counts
//! and is durable when it is shown, and a read ends only where it must.
//!
//! `LOG_ENTRIES_SEEDS=A..B` runs other seeds.

use base::{Index, Prng, RangeId, Seqno, ShardId, Term};
use core::time::Duration;
use corelane_log::{EntryKind, Log, LogConfig, LogError, Record};
use env::{Clock, Env, TaskClass, Tasks};
use sim::{DiskConfig, Sim, SimConfig, SimEnv};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const RANGES: u64 = 4;
/// What an entry counts for besides its payload.
const ENTRY_BYTES: usize = 48;

/// An entry that counts: nothing that was appended has overtaken it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    seqno: Seqno,
    term: Term,
    payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct RangeModel {
    entries: BTreeMap<Index, Kept>,
    covered: Index,
    /// How often entries were overtaken.
    cuts: u64,
}

/// What was appended, staged or not.
#[derive(Debug, Default)]
struct Model {
    ranges: BTreeMap<RangeId, RangeModel>,
}

impl RangeModel {
    fn last(&self) -> Index {
        self.entries
            .last_key_value()
            .map_or(self.covered, |(index, _)| *index)
    }

    fn cut(&mut self, first: Index) {
        self.cuts += u64::from(!self.entries.split_off(&first).is_empty());
        self.covered = self.covered.min(first.prev().unwrap_or(Index::ZERO));
    }
}

impl Model {
    fn range(&mut self, range: RangeId) -> &mut RangeModel {
        self.ranges.entry(range).or_default()
    }

    fn take(&mut self, seqno: Seqno, record: &Record<'_>) {
        let model = self.range(record.range());
        match *record {
            Record::Entry {
                index, term, payload, ..
            } => {
                model.cut(index);
                if model.last().next() != index {
                    model.entries.clear();
                    model.cuts += 1;
                }
                let payload = payload.to_vec();
                model.entries.insert(index, Kept { seqno, term, payload });
            }
            Record::Truncate { after, .. } => model.cut(after.next()),
            Record::Forget { .. } => model.cut(Index::ZERO),
            Record::HardState { .. } => {}
        }
    }
}

/// A process: the log, what was appended to it, and reads under way.
struct Life {
    env: SimEnv,
    log: Log<SimEnv>,
    model: Rc<RefCell<Model>>,
    prng: Prng,
    term: Term,
    reads: Rc<Cell<u64>>,
    tally: Rc<Tally>,
}

/// What reads came by.
#[derive(Debug, Default)]
struct Tally {
    shown: Cell<u64>,
    damaged: Cell<u64>,
    failed: Cell<u64>,
}

fn config(prng: &mut Prng) -> LogConfig {
    LogConfig {
        segment_bytes: [16 << 10, 64 << 10, 256 << 10][prng.index(3)],
        segments_spare: 1,
        segments_kept_max: 1 + prng.index(3),
        batch_bytes_max: [1, 3_000, 1 << 20][prng.index(3)],
        writes_in_flight_max: 1 + prng.index(8),
        write_min_bytes_when_busy: [1, 8 << 10][prng.index(2)],
        seal_after: prng.chance(0.5).then_some(Duration::from_millis(2)),
        ..LogConfig::default()
    }
}

impl Life {
    async fn begin(env: SimEnv, mut prng: Prng, tally: Rc<Tally>) -> Self {
        let mut model = Model::default();
        let mut term = Term::ZERO;
        let visit = &mut |position: corelane_log::Position, record: Record<'_>| {
            model.take(position.seqno, &record);
            if let Record::Entry { term: of, .. } = record {
                term = term.max(of);
            }
        };
        let (log, _) = Log::open(&env, "wal", config(&mut prng), visit)
            .await
            .expect("there is no damage");
        Self {
            env,
            log,
            model: Rc::new(RefCell::new(model)),
            prng,
            term: term.next(),
            reads: Rc::default(),
            tally,
        }
    }

    fn append(&mut self, record: &Record<'_>) {
        let seqno = self.log.append(record);
        self.model.borrow_mut().take(seqno, record);
    }

    fn entry(&mut self, range: RangeId, index: Index) {
        let bytes = match self.prng.below(40) {
            0 => 20_000,
            1..=10 => 2_000,
            _ => 100,
        };
        let mut payload = vec![0; self.prng.index(bytes)];
        self.prng.fill(&mut payload);
        self.append(&Record::Entry {
            range,
            index,
            term: self.term,
            chain: 7,
            kind: EntryKind::Command,
            payload: &payload,
        });
    }

    fn step(&mut self) {
        let range = RangeId(1 + self.prng.below(RANGES));
        let (covered, last) = {
            let model = &mut *self.model.borrow_mut();
            let model = model.range(range);
            (model.covered, model.last())
        };
        match self.prng.below(24) {
            0 if last > covered => {
                // Another leader's entries take the place of some.
                self.term = self.term.next();
                let first = self.prng.between(covered.0 + 1, last.0);
                for index in first..=self.prng.between(first, last.0 + 1) {
                    self.entry(range, Index(index));
                }
            }
            1 if last > covered => {
                self.term = self.term.next();
                let after = Index(self.prng.between(covered.0, last.0));
                self.append(&Record::Truncate { range, after });
            }
            2 if self.prng.chance(0.2) => self.append(&Record::Forget { range }),
            3 if self.prng.chance(0.2) => {
                // A state is installed, and the log goes on behind it.
                let installed = Index(last.0 + self.prng.between(2, 9));
                self.entry(range, installed.next());
                self.model.borrow_mut().range(range).covered = installed;
                self.log.cover(range, installed);
            }
            4 => self.append(&Record::HardState {
                range,
                term: self.term,
                vote: None,
                commit: last,
            }),
            5..=6 => self.cover(range),
            _ => {
                for ahead in 1..=self.prng.between(1, 4) {
                    self.entry(range, Index(last.0 + ahead));
                }
            }
        }
    }

    fn cover(&mut self, range: RangeId) {
        let persisted = self.log.persisted();
        let model = &mut *self.model.borrow_mut();
        let model = model.range(range);
        let durable = model.entries.iter().filter(|(_, kept)| kept.seqno <= persisted);
        let Some(last) = durable.map(|(index, _)| *index).max() else {
            return;
        };
        let last = Index(self.prng.between(last.0.saturating_sub(3), last.0));
        model.covered = model.covered.max(last);
        self.log.cover(range, last);
    }

    /// Starts a read of somewhere.
    fn read(&mut self) {
        let range = RangeId(1 + self.prng.below(RANGES));
        let end = self.model.borrow_mut().range(range).last().0;
        let back = [3, 20, 200][self.prng.index(3)];
        let first = Index(self.prng.between(end.saturating_sub(back), end + 1).max(1));
        let last = Index(first.0 + self.prng.below(100));
        let bytes_max = [0, 500, 10_000, 1 << 20][self.prng.index(4)];
        let read = read(
            self.log.clone(),
            Rc::clone(&self.model),
            (range, first, last, bytes_max),
            Rc::clone(&self.tally),
        );
        let reads = Rc::clone(&self.reads);
        reads.set(reads.get() + 1);
        self.env.tasks().spawn(TaskClass::Foreground, async move {
            read.await;
            reads.set(reads.get() - 1);
        });
    }

    async fn live(&mut self, steps: u64) {
        for _ in 0..steps {
            for _ in 0..self.prng.below(6) {
                self.step();
            }
            self.log.submit();
            if self.reads.get() < 8 && self.prng.chance(0.7) {
                self.read();
            }
            if self.prng.chance(0.7) {
                let pause = Duration::from_micros(self.prng.below(200));
                self.env.clock().sleep(pause).await;
            }
        }
    }

    async fn end_reads(&self) {
        while self.reads.get() > 0 {
            self.env.clock().sleep(Duration::from_micros(100)).await;
        }
    }
}

/// Reads and compares.
async fn read(
    log: Log<SimEnv>,
    model: Rc<RefCell<Model>>,
    (range, first, last, bytes_max): (RangeId, Index, Index, usize),
    tally: Rc<Tally>,
) {
    let cuts = model.borrow_mut().range(range).cuts;
    let (mut next, mut bytes) = (first, 0);
    let visit = &mut |record: Record<'_>| {
        let Record::Entry {
            range: of,
            index,
            term,
            payload,
            ..
        } = record
        else {
            panic!("{record:?} is no entry")
        };
        assert_eq!((of, index), (range, next), "entries come in order");
        let mut model = model.borrow_mut();
        let kept = model.range(range).entries.get(&index);
        let kept = kept.unwrap_or_else(|| panic!("{range} {index}@{term} does not count any more"));
        assert_eq!(
            (kept.term, &kept.payload[..]),
            (term, payload),
            "{range} {index} was overtaken"
        );
        assert!(kept.seqno <= log.persisted(), "{range} {index} is not durable");
        bytes += ENTRY_BYTES + payload.len();
        next = next.next();
        tally.shown.set(tally.shown.get() + 1);
    };
    let end = match log.read_entries(range, first, last, bytes_max, visit).await {
        Ok(end) => end,
        Err(LogError::Closed) => return,
        Err(LogError::Corruption(_)) => return tally.damaged.set(tally.damaged.get() + 1),
        Err(LogError::Disk(_)) => return tally.failed.set(tally.failed.get() + 1),
        Err(error) => panic!("a read fails: {error}"),
    };
    assert_eq!(end, next, "one past the last that was shown");
    assert!(next <= last.next(), "{next} is beyond {last}");
    assert!(
        bytes <= bytes_max || next == first.next(),
        "{bytes} bytes are too many"
    );
    if next > last {
        return;
    }
    let mut model = model.borrow_mut();
    let model = model.range(range);
    let Some(kept) = model.entries.get(&next) else {
        return;
    };
    let has_changed = model.cuts > cuts;
    let is_droppable = next <= model.covered;
    let is_staged = kept.seqno > log.persisted();
    let is_full = next > first && bytes + ENTRY_BYTES + kept.payload.len() > bytes_max;
    assert!(
        has_changed || is_droppable || is_staged || is_full,
        "{range} {next} was not shown, from {first} to {last}: {kept:?}"
    );
}

fn run(seed: u64) -> (u64, BTreeSet<&'static str>) {
    let mut prng = Prng::new(seed);
    let mut sim_config = SimConfig::shuffled();
    sim_config.need_yield = 0.2;
    sim_config.misbehave_site_on = 0.5;
    sim_config.misbehave_fire = 0.2;
    sim_config.disk.slow = 0.05;
    sim_config.disk.slow_ns = 3_000_000;
    let mut sim = Sim::new(seed, sim_config);
    let node = sim.add_node(1);
    let tally = Rc::new(Tally::default());
    for _ in 0..prng.between(2, 5) {
        let env = sim.env(node, ShardId(0));
        let (steps, life_prng, counter) = (prng.between(20, 300), prng.fork(), Rc::clone(&tally));
        let mut life = sim.block_on(Life::begin(env, life_prng, counter));
        sim.block_on(life.live(steps));
        match prng.below(4) {
            0 => {
                sim.block_on(life.end_reads());
                sim.block_on(life.log.clone().close())
                    .expect("the disk does not fail");
                sim.kill(node);
            }
            1 => {
                sim.block_on(life.log.clone().close())
                    .expect("the disk does not fail");
                sim.block_on(life.end_reads());
                sim.kill(node);
            }
            2 => sim.kill(node),
            _ => sim.crash(node),
        }
        drop(life);
        sim.restart(node);
    }
    let report = sim.report();
    assert_eq!(
        (tally.damaged.get(), tally.failed.get()),
        (0, 0),
        "the disk is sound"
    );
    (tally.shown.get(), report.probes.reached.into_keys().collect())
}

#[test]
fn what_is_read_is_what_counts() {
    let seeds = std::env::var("LOG_ENTRIES_SEEDS").unwrap_or_else(|_| "0..150".into());
    let (from, to) = seeds.split_once("..").expect("A..B");
    let (from, to) = (from.parse().expect("a number"), to.parse().expect("a number"));
    let (mut shown, mut reached) = (0, BTreeSet::new());
    for seed in from..to {
        let failed = std::panic::catch_unwind(|| run(seed));
        let (entries, probes) = failed.unwrap_or_else(|_| panic!("LOG_ENTRIES_SEEDS={seed}..{}", seed + 1));
        shown += entries;
        reached.extend(probes);
    }
    println!("{shown} entries were shown");
    assert!(
        shown > (to - from) * 100,
        "{shown} entries are too few for a test"
    );
    if to - from >= 150 {
        for probe in ["log: entries went while they were read", "log: reused a slot"] {
            assert!(reached.contains(probe), "never seen: {probe}");
        }
    }
}

/// Reads that fail, that come from another place or from before the last write, and bits that have rotted.
#[test]
fn a_disk_that_lies_is_found_out() {
    let tally = Rc::new(Tally::default());
    for seed in 0..100 {
        let mut sim = Sim::new(seed, SimConfig::shuffled());
        let node = sim.add_node(1);
        let (env, prng) = (sim.env(node, ShardId(0)), Prng::new(seed));
        let mut life = sim.block_on(Life::begin(env, prng, Rc::clone(&tally)));
        let mut disk = DiskConfig::calm();
        (
            disk.read_error,
            disk.read_stale,
            disk.read_misdirected,
            disk.bit_rot,
        ) = (0.02, 0.1, 0.1, 0.02);
        sim.set_disk_config(node, disk);
        sim.block_on(life.live(100));
        sim.block_on(life.end_reads());
        sim.block_on(life.log.close()).expect("the log goes on");
    }
    println!("{tally:?}");
    assert!(
        tally.damaged.get() > 100 && tally.failed.get() > 20 && tally.shown.get() > 5_000,
        "{tally:?}"
    );
}
