//! What is said about transactions: how one is to be run, how it ended, and with whom it met. Pure.

use crate::Error;
use crate::one_shot::unmet;
use base::key::Escaped;
use base::{ClientId, Prng, Timestamp};
use core::fmt;
use core::time::Duration;
use txn::error::{self, TxnError};
pub use txn::{Isolation, Priority};

/// Runs of one transaction, unless chosen otherwise.
const ATTEMPTS_MAX: u32 = 100;
/// The first pause before a transaction runs again.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The longest one when it was overtaken: nobody is in its way any more.
const OVERTAKEN_PAUSE_MAX: Duration = Duration::from_millis(4);

/// Keys and values, in the order of the keys.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// How a transaction is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnOptions {
    /// A name for people, in errors of this and of other transactions. At most 256 bytes are kept.
    pub name: String,
    /// What it is promised of the others.
    pub isolation: Isolation,
    /// Who gives way when two meet.
    pub priority: Priority,
    /// How long [`crate::Db::transaction`] may take, all runs together; the deadline of a call when `None`. A transaction that was
    /// begun by [`crate::Db::begin`] may stay open for as long as this, and for ever when `None`.
    pub deadline: Option<Duration>,
    /// How often [`crate::Db::transaction`] runs it, at most. At least 1.
    pub attempts_max: u32,
}

impl Default for TxnOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            isolation: Isolation::default(),
            priority: Priority::default(),
            deadline: None,
            attempts_max: ATTEMPTS_MAX,
        }
    }
}

impl TxnOptions {
    /// The default ones with a name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// With another isolation.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }
}

/// Names a transaction for good: enough to ask how it ended ([`crate::Db::outcome`]), also from another process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TxnRef {
    /// The client's session.
    pub client: u128,
    /// Its number there.
    pub number: u64,
    /// The key under which its record is kept: the first that it wrote. Empty when it wrote none.
    pub anchor: Vec<u8>,
}

impl TxnRef {
    pub(crate) fn of(who: &txn::Who) -> Self {
        Self {
            client: who.id.client.0,
            number: who.id.seq,
            anchor: who.anchor.to_vec(),
        }
    }

    pub(crate) fn id(&self) -> txn::TxnId {
        txn::TxnId {
            client: ClientId(self.client),
            seq: self.number,
        }
    }
}

impl fmt::Display for TxnRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} under key {:?}",
            self.id(),
            Escaped(&self.anchor).to_string()
        )
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All of it happened, at this timestamp.
    Committed(Timestamp),
    /// Nothing of it happened, nor will.
    Aborted,
    /// The cluster remembers it no longer: its client's session is over.
    Forgotten,
}

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The transaction; `None` for a request outside of transactions, or when it is known no longer.
    pub id: Option<String>,
    /// What its caller called it.
    pub name: String,
    /// How old it was.
    pub age: Duration,
    /// What it did to the key.
    pub did: Did,
}

/// What one side of a conflict did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// It read the key, or wanted to.
    Read,
    /// It wrote the key, or wanted to, and has not committed.
    Write,
    /// It wrote the key and committed.
    Committed(Timestamp),
    /// It has locked the key, or wanted to.
    Locked,
}

/// Two transactions that met on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where.
    pub key: Vec<u8>,
    /// Who was refused.
    pub ours: Party,
    /// Who was there first.
    pub theirs: Party,
    text: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Conflict {
    pub(crate) fn of(conflict: &error::Conflict) -> Self {
        let party = |party: &error::Party| Party {
            id: party.who.as_ref().map(|who| who.id.to_string()),
            name: party
                .who
                .as_ref()
                .map_or_else(String::new, |who| who.name.to_string()),
            age: party.who.as_ref().map_or(Duration::ZERO, |who| {
                Duration::from_nanos(conflict.now.wall_ns.saturating_sub(who.start_ts.wall_ns))
            }),
            did: match party.act {
                error::Act::Read => Did::Read,
                error::Act::Write => Did::Write,
                error::Act::Committed(ts) => Did::Committed(ts),
                error::Act::Lock => Did::Locked,
            },
        };
        Self {
            key: conflict.key.to_vec(),
            ours: party(&conflict.ours),
            theirs: party(&conflict.theirs),
            text: conflict.to_string(),
        }
    }
}

/// What a caller hears of a transaction that failed.
pub(crate) fn failure(error: TxnError) -> Error {
    match error {
        TxnError::Conflict(conflict) => Error::Conflict(Box::new(Conflict::of(&conflict))),
        TxnError::Unmet(of) => unmet(*of, None),
        TxnError::RolledBack => Error::TransactionOver,
        TxnError::Uncertain { .. }
        | TxnError::Aborted
        | TxnError::CannotRefresh { .. }
        | TxnError::Unreachable { .. } => Error::Aborted {
            why: error.to_string(),
            retryable: true,
        },
        TxnError::TooManyWrites { .. } => Error::Aborted {
            why: error.to_string(),
            retryable: false,
        },
    }
}

/// The runs of one transaction.
#[derive(Debug)]
pub(crate) struct Attempts {
    left: u32,
    pause: Duration,
    /// When the first one began: all are as old, so that one of them gets its turn.
    pub(crate) since: Option<Timestamp>,
}

impl Attempts {
    pub(crate) fn new(options: &TxnOptions) -> Self {
        Self {
            left: options.attempts_max.max(1),
            pause: PAUSE_MIN,
            since: None,
        }
    }

    /// After a run that failed with `error`: how long to pause before the next one, if there is to be one with so much time left.
    pub(crate) fn next(&mut self, error: &Error, time_left: Duration, prng: &mut Prng) -> Option<Duration> {
        self.left = self.left.saturating_sub(1);
        let is_overtaken =
            matches!(error, Error::Conflict(conflict) if matches!(conflict.theirs.did, Did::Committed(_)));
        let most = if is_overtaken {
            OVERTAKEN_PAUSE_MAX
        } else {
            PAUSE_MAX
        };
        // Half of it is drawn, so that those that met do not meet again.
        let drawn = self.pause.min(most).mul_f64(0.5 + prng.unit() / 2.0);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let is_worth_it = self.left > 0 && error.is_retryable() && drawn < time_left;
        is_worth_it.then_some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_runs_again_while_that_may_help() {
        let options = TxnOptions {
            attempts_max: 3,
            ..TxnOptions::named("x")
        };
        let mut prng = Prng::new(1);
        let mut attempts = Attempts::new(&options);
        let time = Duration::from_secs(1);
        let error = failure(TxnError::Aborted);
        let pause = attempts.next(&error, time, &mut prng).unwrap();
        assert!(pause <= Duration::from_millis(1));
        assert_eq!(
            attempts.next(&error, Duration::ZERO, &mut prng),
            None,
            "no time is left"
        );
        assert_eq!(
            attempts.next(&error, time, &mut prng),
            None,
            "it was the third run"
        );
        let mut attempts = Attempts::new(&options);
        assert_eq!(attempts.next(&Error::TransactionOver, time, &mut prng), None);
    }

    #[test]
    fn one_that_was_overtaken_runs_again_soon() {
        let conflict = |act| {
            let party = |act| error::Party { who: None, act };
            failure(TxnError::Conflict(Box::new(error::Conflict {
                key: b"k"[..].into(),
                ours: party(error::Act::Write),
                theirs: party(act),
                now: Timestamp::ZERO,
            })))
        };
        let mut prng = Prng::new(1);
        let mut attempts = Attempts::new(&TxnOptions::default());
        let mut pause = |act| attempts.next(&conflict(act), Duration::from_secs(1), &mut prng);
        for _ in 0..8 {
            assert!(pause(error::Act::Committed(Timestamp::ZERO)).unwrap() <= OVERTAKEN_PAUSE_MAX);
        }
        assert!(pause(error::Act::Write).unwrap() >= PAUSE_MAX / 2);
    }
}
