//! A runner of sagas: several steps, each a transaction of its own, that are all done, or all undone again.
//!
//! ```text
//!   begin ──► step 1 ──► step 2 ──► step 3 ──► complete
//!                │ refused  │ refused  │ refused
//!                ▼          ▼          ▼
//!   compensated ◄── undo 1 ◄── undo 2
//! ```
//!
//! A saga has a record that says how far it is. The transaction that does a step moves the record on, too: so a step is done exactly
//! once, whoever is killed and whenever. Hence:
//! - Nothing is kept in memory. A runner that starts finds the sagas that have not ended, and goes on with them.
//! - Nobody owns a saga. Of two runners that do the same step one commits; the other one runs its transaction again, and sees then
//!   what is next.
//! - A commit of unknown outcome needs no care: the record tells.
//!
//! What a step does outside of the store, a letter or a call, is not part of the transaction: it is done at least once, and needs the
//! saga's id to be recognised by.

use corelane::blocking::{Db, Txn};
use corelane::{Code, Error, TxnOptions, prefix};
use std::time::Duration;

/// Records of sagas that have not ended, and of those that have.
const OPEN: &str = "saga/open/";
const ENDED: &str = "saga/ended/";
/// Sagas that a runner looks for at once.
const PAGE: u64 = 1000;
/// Before a runner that could do nothing looks again.
const PAUSE: Duration = Duration::from_millis(100);

/// One step of a saga, and how it is undone. Both run again when another transaction was in the way.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Does it, or refuses for good: then the steps before it are undone.
    pub(crate) act: fn(&Txn, &Saga) -> Result<(), Failure>,
    /// Undoes it. It cannot be refused: nobody would know what to do then.
    pub(crate) undo: fn(&Txn, &Saga) -> Result<(), Error>,
}

/// Why a step did not happen.
pub(crate) enum Failure {
    /// It never will, because of this.
    Refused(String),
    /// The store could not be asked: it will be tried again.
    Store(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// A saga's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saga {
    pub(crate) id: String,
    /// What it was begun with. No tabs.
    pub(crate) input: String,
    /// Its steps that are done and not undone.
    done: usize,
    /// Which step was refused and why: from then on it goes back. No tabs.
    refused: Option<String>,
}

impl Saga {
    /// `done TAB input [TAB refused]`: readable by `corelane scan`.
    fn record(&self) -> String {
        let refused = self.refused.iter().map(|why| format!("\t{why}"));
        format!("{}\t{}{}", self.done, self.input, refused.collect::<String>())
    }

    fn parse(id: &str, record: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(record).ok()?.splitn(3, '\t');
        Some(Self {
            id: id.to_owned(),
            done: fields.next()?.parse().ok()?,
            input: fields.next()?.to_owned(),
            refused: fields.next().map(str::to_owned),
        })
    }

    fn has_ended(&self, steps: &[Step]) -> bool {
        match self.refused {
            None => self.done == steps.len(),
            Some(_) => self.done == 0,
        }
    }

    /// What became of it, for people.
    pub(crate) fn state(&self, steps: &[Step]) -> String {
        let last = steps[..self.done].last().map_or("nothing", |step| step.name);
        match &self.refused {
            None if self.has_ended(steps) => "complete".to_owned(),
            None => format!("done up to {last}"),
            Some(why) if self.has_ended(steps) => format!("compensated, {why}"),
            Some(why) => format!("undone down to {last}, {why}"),
        }
    }
}

/// Makes the record of a new saga. Once it is there the saga will end, one way or the other. A second one of the same id changes nothing.
pub(crate) fn begin(db: &Db, id: &str, input: &str) -> Result<(), Error> {
    let saga = Saga {
        id: id.to_owned(),
        input: input.to_owned(),
        done: 0,
        refused: None,
    };
    let (open, ended) = (format!("{OPEN}{id}"), format!("{ENDED}{id}"));
    db.transaction(|txn| {
        let known = txn.get_many([&open, &ended])?;
        if known.iter().all(Option::is_none) {
            txn.put(&open, saga.record())?;
        }
        Ok(())
    })
}

/// Does the next step of a saga, or undoes the last one, and says how far the saga is then: `None` when it had ended before.
fn advance(db: &Db, steps: &[Step], id: &str) -> Result<Option<Saga>, Error> {
    let (open, ended) = (format!("{OPEN}{id}"), format!("{ENDED}{id}"));
    db.transaction_with(&TxnOptions::named(format!("saga {id}")), |txn| {
        let record = txn.get_for_update(&open)?;
        let Some(mut saga) = record.and_then(|record| Saga::parse(id, &record)) else {
            return Ok(None);
        };
        if saga.refused.is_some() {
            (steps[saga.done - 1].undo)(txn, &saga)?;
            saga.done -= 1;
        } else {
            let step = &steps[saga.done];
            let before = txn.savepoint()?;
            match (step.act)(txn, &saga) {
                Ok(()) => saga.done += 1,
                Err(Failure::Refused(why)) => {
                    // What the step has written so far goes, and the record says why.
                    txn.rollback_to(before)?;
                    saga.refused = Some(format!("{}: {why}", step.name));
                }
                Err(Failure::Store(error)) => return Err(error),
            }
        }
        if saga.has_ended(steps) {
            txn.delete(&open)?;
            txn.put(&ended, saga.record())?;
        } else {
            txn.put(&open, saga.record())?;
        }
        Ok(Some(saga))
    })
}

/// Goes on with all sagas until none is open. `told` hears of each step that is done or undone.
pub(crate) fn run(db: &Db, steps: &[Step], mut told: impl FnMut(&Saga)) -> Result<(), Error> {
    loop {
        let mut ids = match list(db, OPEN) {
            Ok(sagas) if sagas.is_empty() => return Ok(()),
            Ok(sagas) => sagas.into_iter().map(|saga| saga.id).collect(),
            Err(error) => {
                wait_after(error)?;
                Vec::new()
            }
        };
        // Runners begin at different sagas, so that they seldom meet.
        let first = usize::try_from(std::process::id()).unwrap_or(0) % ids.len().max(1);
        ids.rotate_left(first);
        for id in ids {
            loop {
                match advance(db, steps, &id) {
                    Ok(Some(saga)) => told(&saga),
                    Ok(None) => break,
                    Err(error) => wait_after(error)?,
                }
            }
        }
    }
}

/// Waits when trying again may help.
fn wait_after(error: Error) -> Result<(), Error> {
    // Of a transaction of unknown outcome the next one sees whether it happened.
    if !error.is_retryable() && error.code() != Code::CommitUnknown {
        return Err(error);
    }
    eprintln!("{error}; trying again");
    std::thread::sleep(PAUSE);
    Ok(())
}

fn list(db: &Db, keys: &str) -> Result<Vec<Saga>, Error> {
    let mut sagas = Vec::new();
    for row in db.scan(prefix(keys)).limit(PAGE).rows() {
        let row = row?;
        let id = String::from_utf8_lossy(&row.key[keys.len()..]);
        sagas.extend(Saga::parse(&id, &row.value));
    }
    Ok(sagas)
}

/// Sagas that have not ended, and that have: the first of each.
pub(crate) fn all(db: &Db) -> Result<Vec<Saga>, Error> {
    Ok([list(db, OPEN)?, list(db, ENDED)?].concat())
}
