//! The threads that load the node: writers, and one that splits and moves ranges.

use crate::ledger::{Kind, Ledger, Rows, Slot};
use base::Prng;
use corelane::blocking::Db;
use corelane::{Batch, Error, ShardId, Swap};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One operation in this many is a read of what the writer itself wrote.
const READ_EVERY: u64 = 8;
/// How long all writers may take to finish what is in flight. Above every deadline.
const PAUSE_MAX: Duration = Duration::from_secs(150);

/// What all threads share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Processes killed so far: the one that runs has this number.
    pub(crate) generation: AtomicU64,
    /// Shards of the process that runs.
    pub(crate) shards: AtomicU16,
    pub(crate) tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Gate {
    paused: bool,
    stopped: bool,
    /// Threads that wait for the pause to end.
    waiting: usize,
}

/// What happened, counted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) doubts: u64,
    /// Writes that ended, definitely, without effect.
    pub(crate) refused: u64,
    pub(crate) reads: u64,
    pub(crate) splits: u64,
    pub(crate) moves: u64,
    /// Errors by code, of all threads.
    pub(crate) errors: BTreeMap<String, u64>,
    /// What must not happen.
    pub(crate) violations: Vec<String>,
}

/// A panicked thread is reported when it is joined; what it held is still counted.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Stops new operations and waits until `threads` have finished theirs. False if that takes too long.
    #[must_use]
    pub(crate) fn pause(&self, threads: usize) -> bool {
        let mut gate = lock(&self.gate);
        gate.paused = true;
        let busy = |gate: &mut Gate| gate.waiting < threads;
        let waited = self.changed.wait_timeout_while(gate, PAUSE_MAX, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lets new operations begin.
    pub(crate) fn resume(&self) {
        lock(&self.gate).paused = false;
        self.changed.notify_all();
    }

    /// Lets no new operation begin, without waiting.
    pub(crate) fn hold(&self) {
        lock(&self.gate).paused = true;
    }

    /// Ends all threads.
    pub(crate) fn stop(&self) {
        lock(&self.gate).stopped = true;
        self.changed.notify_all();
    }

    /// Waits while there is a pause. False when it is time to end.
    fn pass(&self) -> bool {
        let mut gate = lock(&self.gate);
        while gate.paused && !gate.stopped {
            gate.waiting += 1;
            self.changed.notify_all();
            gate = self.changed.wait(gate).unwrap_or_else(PoisonError::into_inner);
            gate.waiting -= 1;
        }
        !gate.stopped
    }

    fn error(&self, error: &Error) {
        *lock(&self.tally)
            .errors
            .entry(error.code().to_string())
            .or_default() += 1;
    }

    fn violation(&self, text: String) {
        lock(&self.tally).violations.push(text);
    }
}

/// How a write ended.
enum Ended {
    Acknowledged,
    /// It may have happened.
    Doubt,
    /// It has not happened.
    Refused,
}

/// Writes the slots of `ledger` until it is told to stop. A `patient` writer has a deadline beyond any restart: each of its
/// writes must succeed, exactly once, however often the node is killed meanwhile.
pub(crate) fn run(shared: &Shared, ledger: &Mutex<Ledger>, db: &Db, patient: bool, mut prng: Prng) {
    while shared.pass() {
        let Some((at, slot)) = lock(ledger).pick(&mut prng) else {
            // All in doubt: the next restart resolves that.
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        if prng.below(READ_EVERY) == 0 {
            read(shared, db, &slot, patient);
            continue;
        }
        match write(shared, db, &slot, patient) {
            Ended::Acknowledged => {
                lock(ledger).acknowledge(at);
                lock(&shared.tally).acknowledged += 1;
            }
            Ended::Doubt => {
                lock(ledger).doubt(at, shared.generation.load(Ordering::SeqCst));
                lock(&shared.tally).doubts += 1;
            }
            Ended::Refused => lock(&shared.tally).refused += 1,
        }
    }
}

/// Writes the next number of `slot`.
fn write(shared: &Shared, db: &Db, slot: &Slot, patient: bool) -> Ended {
    let (old, new) = (slot.rows(slot.number), slot.rows(slot.number + 1));
    let outcome = match slot.kind {
        Kind::Single => new
            .iter()
            .try_for_each(|(key, value)| db.put(key, value).map(drop)),
        Kind::Group => db.write_batch(&group(&old, &new)).map(drop),
        Kind::Counter => return count(shared, db, slot, (&old, &new), patient),
    };
    ended(shared, slot, outcome, patient)
}

/// The batch that turns `old` rows into `new` ones.
fn group(old: &Rows, new: &Rows) -> Batch {
    let mut batch = Batch::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        batch.delete(key);
    }
    for (key, value) in new {
        batch.put(key, value);
    }
    batch
}

/// A conditional write of a counter: nobody else writes it, so the condition holds.
fn count(shared: &Shared, db: &Db, slot: &Slot, (old, new): (&Rows, &Rows), patient: bool) -> Ended {
    let Some((key, value)) = new.iter().next() else {
        return Ended::Refused;
    };
    let swap = match old.get(key) {
        Some(expected) => db.compare_and_put(key, expected, value),
        None => db.put_if_absent(key, value),
    };
    if let Ok(Swap::Refused { found, .. }) = &swap {
        let ours = if found.as_ref() == Some(value) {
            ", the value to be written: it was applied twice"
        } else {
            ""
        };
        shared.violation(format!(
            "{}: the condition on {} failed{ours}",
            slot.prefix(),
            slot.number
        ));
        return Ended::Refused;
    }
    ended(shared, slot, swap.map(drop), patient)
}

fn ended(shared: &Shared, slot: &Slot, outcome: Result<(), Error>, patient: bool) -> Ended {
    let Err(error) = outcome else {
        return Ended::Acknowledged;
    };
    shared.error(&error);
    let (ended, expected) = match &error {
        Error::Ambiguous { .. } => (Ended::Doubt, !patient),
        Error::Unavailable { .. } | Error::DeadlineExceeded { .. } => (Ended::Refused, !patient),
        _ => (Ended::Refused, false),
    };
    if !expected {
        shared.violation(format!(
            "{}: writing {} failed: {error}",
            slot.prefix(),
            slot.number + 1
        ));
    }
    ended
}

/// What was acknowledged is read at once.
fn read(shared: &Shared, db: &Db, slot: &Slot, patient: bool) {
    for (key, value) in slot.rows(slot.number) {
        match db.get(&key) {
            Ok(found) if found.as_ref() == Some(&value) => lock(&shared.tally).reads += 1,
            Ok(found) => {
                let found = found.map_or(0, |found| found.len());
                shared.violation(format!(
                    "{}: read of {} found {found} other bytes",
                    slot.prefix(),
                    slot.number
                ));
            }
            Err(error) => {
                shared.error(&error);
                if patient || !error.is_retryable() {
                    shared.violation(format!("{}: reading failed: {error}", slot.prefix()));
                }
            }
        }
    }
}

/// Splits and moves ranges until it is told to stop. Keeps at most `ranges_max` ranges.
pub(crate) fn rearrange(
    shared: &Shared,
    ledger: &[Mutex<Ledger>],
    db: &Db,
    ranges_max: usize,
    mut prng: Prng,
) {
    while shared.pass() {
        if let Err(error) = rearrange_once(shared, ledger, db, ranges_max, &mut prng) {
            shared.error(&error);
            // A split or a move may be cut short by the kill; it may also meet another one.
            if !error.is_retryable() && !matches!(error, Error::Ambiguous { .. }) {
                shared.violation(format!("split or move: {error}"));
            }
        }
        std::thread::sleep(Duration::from_millis(prng.between(5, 60)));
    }
}

fn rearrange_once(
    shared: &Shared,
    ledgers: &[Mutex<Ledger>],
    db: &Db,
    ranges_max: usize,
    prng: &mut Prng,
) -> Result<(), Error> {
    let ranges = db.ranges()?;
    if ranges.len() < ranges_max && prng.chance(0.3) {
        let Some(ledger) = ledgers.get(prng.index(ledgers.len())) else {
            return Ok(());
        };
        let key = lock(ledger).boundary(prng);
        db.split(key)?;
        lock(&shared.tally).splits += 1;
    } else if let Some(range) = ranges.get(prng.index(ranges.len())) {
        let shards = u64::from(shared.shards.load(Ordering::SeqCst));
        let shard = u16::try_from(prng.below(shards)).expect("below the number of shards");
        db.move_range(range.range, ShardId(shard))?;
        lock(&shared.tally).moves += 1;
    }
    Ok(())
}
