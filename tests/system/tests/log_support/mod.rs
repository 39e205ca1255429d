//! A workload for one log, what it must leave behind, and the comparison of both.
//!
//! The workload marks the recording whenever what it was promised grows: a mark is an index into [`Life::promises`], so at
//! every crash point it is known what must have survived.

#![allow(dead_code, reason = "each test binary uses its part")]

use base::{Index, Prng, RangeId, ReplicaId, Seqno, ShardId, Term, Timestamp};
use env::Env;
use env::Tasks;
use log::{EntryKind, Log, LogConfig, LogError, Position, Record, Recovered};
use sim::{DiskImage, ImageEnv, ImageMachine};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) const DIR: &str = "shard-0/wal";

/// A record that owns its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owned {
    Entry {
        range: RangeId,
        index: Index,
        term: Term,
        chain: u32,
        kind: EntryKind,
        payload: Rc<[u8]>,
    },
    HardState {
        range: RangeId,
        term: Term,
        vote: Option<ReplicaId>,
        commit: Index,
    },
    Truncate {
        range: RangeId,
        after: Index,
    },
    Forget {
        range: RangeId,
    },
}

impl Owned {
    pub(crate) fn of(record: Record<'_>) -> Self {
        match record {
            Record::Entry {
                range,
                index,
                term,
                chain,
                kind,
                payload,
            } => Self::Entry {
                range,
                index,
                term,
                chain,
                kind,
                payload: payload.into(),
            },
            Record::HardState {
                range,
                term,
                vote,
                commit,
            } => Self::HardState {
                range,
                term,
                vote,
                commit,
            },
            Record::Truncate { range, after } => Self::Truncate { range, after },
            Record::Forget { range } => Self::Forget { range },
        }
    }

    pub(crate) fn borrow(&self) -> Record<'_> {
        match self {
            Self::Entry {
                range,
                index,
                term,
                chain,
                kind,
                payload,
            } => Record::Entry {
                range: *range,
                index: *index,
                term: *term,
                chain: *chain,
                kind: *kind,
                payload,
            },
            Self::HardState {
                range,
                term,
                vote,
                commit,
            } => Record::HardState {
                range: *range,
                term: *term,
                vote: *vote,
                commit: *commit,
            },
            Self::Truncate { range, after } => Record::Truncate {
                range: *range,
                after: *after,
            },
            Self::Forget { range } => Record::Forget { range: *range },
        }
    }
}

/// An entry's term and payload.
type Body = (Term, Rc<[u8]>);

/// What the records of a log add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fold {
    pub(crate) entries: BTreeMap<(RangeId, Index), Body>,
    pub(crate) hard_states: BTreeMap<RangeId, (Term, Option<ReplicaId>, Index)>,
}

impl Fold {
    pub(crate) fn take(&mut self, record: &Owned) {
        match record {
            Owned::Entry {
                range,
                index,
                term,
                payload,
                ..
            } => {
                self.entries.insert((*range, *index), (*term, payload.clone()));
            }
            Owned::HardState {
                range,
                term,
                vote,
                commit,
            } => {
                self.hard_states.insert(*range, (*term, *vote, *commit));
            }
            Owned::Truncate { range, after } => self
                .entries
                .retain(|(of, index), _| of != range || index <= after),
            Owned::Forget { range } => {
                self.entries.retain(|(of, _), _| of != range);
                self.hard_states.remove(range);
            }
        }
    }

    /// Leaves out what lives in tables.
    pub(crate) fn uncovered(mut self, covered: &BTreeMap<RangeId, Index>) -> Self {
        self.entries
            .retain(|(range, index), _| covered.get(range).is_none_or(|covered| index > covered));
        self
    }
}

/// What the log had promised at some moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promise {
    pub(crate) persisted: Seqno,
    pub(crate) covered: BTreeMap<RangeId, Index>,
    pub(crate) hlc_bound: Timestamp,
}

/// Everything that was put into a log during one opening, and what it promised when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    pub(crate) records: Vec<(Seqno, Owned)>,
    pub(crate) promises: Vec<Promise>,
}

impl Life {
    /// What was promised at a mark.
    pub(crate) fn promise(&self, mark: u64) -> &Promise {
        &self.promises[usize::try_from(mark).expect("marks are indices")]
    }

    /// What the log must hold whose last batch is `last`.
    pub(crate) fn fold(&self, last: Seqno) -> Fold {
        let mut fold = Fold::default();
        for (_, record) in self.records.iter().take_while(|(seqno, _)| *seqno <= last) {
            fold.take(record);
        }
        fold
    }
}

/// A log that was read.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) recovered: Recovered,
    pub(crate) records: Vec<(Position, Owned)>,
}

pub(crate) fn config() -> LogConfig {
    LogConfig {
        shard: ShardId(0),
        segment_bytes: 32 << 10,
        segments_spare: 1,
        segments_kept_max: 2,
        batch_bytes_max: 2 << 10,
        writes_in_flight_max: 4,
        write_min_bytes_when_busy: 1,
        ..LogConfig::default()
    }
}

pub(crate) async fn open<E: Env>(env: &E, config: LogConfig) -> Result<(Log<E>, Opened), LogError> {
    let mut records = Vec::new();
    let (log, recovered) = Log::open(env, DIR, config, &mut |position, record| {
        records.push((position, Owned::of(record)));
    })
    .await?;
    Ok((log, Opened { recovered, records }))
}

/// Opens the log of a disk image and throws it away again.
pub(crate) fn recover(image: &DiskImage) -> Result<Opened, LogError> {
    let machine = ImageMachine::new(image);
    machine.block_on(async { open(&machine.env(), config()).await.map(|(_, opened)| opened) })
}

/// Checks what was recovered against what was promised.
pub(crate) fn check(life: &Life, mark: Option<u64>, opened: &Opened) -> Result<(), String> {
    let none = Promise::default();
    let promise = mark.map_or(&none, |mark| life.promise(mark));
    let last = opened.recovered.last;
    if last < promise.persisted {
        return Err(format!(
            "{} was acknowledged, the log ends at {last}",
            promise.persisted
        ));
    }
    if opened.recovered.hlc_bound < promise.hlc_bound {
        return Err(format!(
            "clock bound {} became {}",
            promise.hlc_bound, opened.recovered.hlc_bound
        ));
    }
    check_content(life, promise, last, opened)
}

/// Checks that the log holds exactly the batches up to `last`, but for what was covered by then.
pub(crate) fn check_content(
    life: &Life,
    promise: &Promise,
    last: Seqno,
    opened: &Opened,
) -> Result<(), String> {
    let mut found = Fold::default();
    let mut before = Fold::default();
    let mut expected = life.records.iter().peekable();
    for (position, record) in &opened.records {
        while let Some((_, missed)) = expected.next_if(|(seqno, _)| *seqno < position.seqno) {
            before.take(missed);
        }
        match expected.next_if(|(seqno, wanted)| *seqno == position.seqno && wanted == record) {
            Some((_, same)) => before.take(same),
            None => {
                // The log itself writes only hard states, again, when their segment goes.
                let known = matches!(record, Owned::HardState { range, term, vote, commit }
                    if before.hard_states.get(range) == Some(&(*term, *vote, *commit)));
                if !known {
                    return Err(format!("{position:?} {record:?} was never written there"));
                }
            }
        }
        found.take(record);
    }
    let wanted = life.fold(last).uncovered(&promise.covered);
    let found = found.uncovered(&promise.covered);
    if wanted != found {
        let missing: Vec<_> = wanted
            .entries
            .keys()
            .filter(|key| !found.entries.contains_key(key))
            .collect();
        let extra: Vec<_> = found
            .entries
            .keys()
            .filter(|key| !wanted.entries.contains_key(key))
            .collect();
        return Err(format!(
            "up to {last}: missing {missing:?}, too many {extra:?}, hard states {:?} instead of {:?}",
            found.hard_states, wanted.hard_states
        ));
    }
    Ok(())
}

/// Runs a workload of `turns` loop turns on an open log, continuing what `life` knows.
pub(crate) struct Workload {
    prng: Prng,
    pub(crate) life: Rc<RefCell<Life>>,
    ranges: BTreeMap<RangeId, (Index, Term)>,
    covered: BTreeMap<RangeId, Index>,
    hlc_bounds: Vec<(Seqno, Timestamp)>,
    pub(crate) records: usize,
    range_next: u64,
    pub(crate) payload_max: usize,
}

impl Workload {
    /// Draws everything from `seed`; the `count` ranges that it starts with are numbered from `first`.
    pub(crate) fn new(seed: u64, first: u64, count: u64) -> Self {
        let range_next = first + count;
        let ranges = (first..range_next)
            .map(|range| (RangeId(range), (Index::ZERO, Term(1))))
            .collect();
        Self {
            range_next,
            prng: Prng::new(seed),
            life: Rc::default(),
            ranges,
            covered: BTreeMap::new(),
            hlc_bounds: Vec::new(),
            records: 0,
            payload_max: 700,
        }
    }

    fn promise(&self, log: &Log<ImageEnv>, mark: &impl Fn(u64)) {
        let life = &mut *self.life.borrow_mut();
        let durable = self
            .hlc_bounds
            .iter()
            .rev()
            .find(|(seqno, _)| *seqno <= log.persisted());
        let hlc_bound = durable.map_or(Timestamp::ZERO, |(_, bound)| *bound);
        let promise = Promise {
            persisted: log.persisted(),
            covered: self.covered.clone(),
            hlc_bound,
        };
        life.promises.push(promise);
        mark(life.promises.len() as u64 - 1);
    }

    fn put(&mut self, log: &Log<ImageEnv>, record: Owned) {
        let seqno = log.append(&record.borrow());
        self.life.borrow_mut().records.push((seqno, record));
        self.records += 1;
    }

    fn step_range(&mut self, log: &Log<ImageEnv>) {
        let at = self.prng.index(self.ranges.len());
        let (&range, &(index, term)) = self.ranges.iter().nth(at).expect("drawn below the length");
        let covered = self.covered.get(&range).copied().unwrap_or_default();
        let (index, term) = match self.prng.below(40) {
            0..=5 => {
                let (term, vote) = (
                    term.next(),
                    self.prng.chance(0.5).then(|| ReplicaId(self.prng.below(3))),
                );
                self.put(
                    log,
                    Owned::HardState {
                        range,
                        term,
                        vote,
                        commit: index,
                    },
                );
                (index, term)
            }
            6 if index > covered => {
                let after = Index(self.prng.between(covered.0, index.0 - 1));
                self.put(log, Owned::Truncate { range, after });
                (after, term)
            }
            7 if self.prng.chance(0.1) => {
                let seqno = log.forget(range);
                self.life
                    .borrow_mut()
                    .records
                    .push((seqno, Owned::Forget { range }));
                self.ranges.remove(&range);
                // Range ids are never used again.
                self.ranges
                    .insert(RangeId(self.range_next), (Index::ZERO, Term(1)));
                self.range_next += 1;
                return;
            }
            _ => {
                let mut payload = vec![0; self.prng.index(self.payload_max)];
                self.prng.fill(&mut payload);
                let index = index.next();
                self.put(
                    log,
                    Owned::Entry {
                        range,
                        index,
                        term,
                        chain: 7,
                        kind: EntryKind::Command,
                        payload: payload.into(),
                    },
                );
                (index, term)
            }
        };
        self.ranges.insert(range, (index, term));
    }

    fn cover(&mut self, log: &Log<ImageEnv>, mark: &impl Fn(u64)) {
        let persisted = log.persisted();
        let durable = self.life.borrow().fold(persisted);
        let staged = self.life.borrow().fold(Seqno(u64::MAX));
        let at = self.prng.index(self.ranges.len());
        let (&range, _) = self.ranges.iter().nth(at).expect("drawn below the length");
        // Only what is durable and not made void by what is staged already.
        let is_safe =
            |(key, entry): &(&(RangeId, Index), _)| key.0 == range && staged.entries.get(key) == Some(*entry);
        let upto = durable.entries.iter().filter(is_safe).map(|(key, _)| key.1).max();
        let Some(index) = upto else { return };
        if self.covered.get(&range).is_none_or(|covered| *covered < index) {
            self.covered.insert(range, index);
            log.cover(range, index);
            self.promise(log, mark);
        }
    }

    pub(crate) async fn run(
        &mut self,
        env: &ImageEnv,
        log: &Log<ImageEnv>,
        mark: impl Fn(u64),
        turns: u64,
    ) -> Result<(), LogError> {
        for turn in 0..turns {
            for _ in 0..self.prng.between(1, 5) {
                self.step_range(log);
            }
            if turn % 5 == 0 {
                // The batch that is open now carries the bound.
                let bound = Timestamp::new(turn, 0);
                log.set_hlc_bound(bound);
                self.step_range(log);
                let last = self
                    .life
                    .borrow()
                    .records
                    .last()
                    .map_or(Seqno::ZERO, |(seqno, _)| *seqno);
                self.hlc_bounds.push((last, bound));
            }
            log.submit();
            if turn % 7 == 3 {
                self.cover(log, &mark);
                self.cover(log, &mark);
                log.submit();
            }
            match self.prng.below(4) {
                0 => {}
                1 | 2 => env.tasks().yield_now().await,
                _ => drop(log.persisted_beyond(log.persisted()).await?),
            }
            self.promise(log, &mark);
        }
        Ok(())
    }
}
