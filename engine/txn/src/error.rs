//! Why a request was not done, and how a transaction failed.

use crate::change::Unmet;
use crate::record::Record;
use crate::txn::{Bytes, Keys, Who};
use base::Timestamp;
use core::fmt;
use std::borrow::Cow;
use std::sync::Arc;

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Party {
    /// The transaction; `None` for a plain request, which has no name.
    pub who: Option<Arc<Who>>,
    /// What it did or wanted.
    pub act: Act,
}

/// What a side of a conflict did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// It reads or read the key.
    Read,
    /// It writes or wrote the key and is not finished.
    Write,
    /// It wrote the key and committed at this timestamp.
    Committed(Timestamp),
    /// It has locked the key, or waits for that before others.
    Lock,
}

/// Two transactions that met on a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Conflict {
    /// Where.
    pub key: Bytes,
    /// Who was refused.
    pub ours: Party,
    /// Who was there first.
    pub theirs: Party,
    /// The clock when they met, for ages.
    pub now: Timestamp,
}

struct Named<'a>(&'a Party, Timestamp);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(who) = &self.0.who else {
            return f.write_str("a request outside of transactions");
        };
        f.write_str("transaction ")?;
        if !who.name.is_empty() {
            write!(f, "\"{}\" ", who.name)?;
        }
        let age_ms = self.1.wall_ns.saturating_sub(who.start_ts.wall_ns) / 1_000_000;
        write!(f, "({}, {age_ms} ms old)", who.id)
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = match self.ours.act {
            Act::Read => "read",
            Act::Write | Act::Committed(_) => "wrote",
            Act::Lock => "wanted to lock",
        };
        write!(
            f,
            "{} {wanted} key {}, ",
            Named(&self.ours, self.now),
            self.key.escape_ascii()
        )?;
        match self.theirs.act {
            Act::Read => write!(f, "which {} read", Named(&self.theirs, self.now)),
            Act::Write => write!(
                f,
                "on which {} has an unfinished write",
                Named(&self.theirs, self.now)
            ),
            Act::Lock => write!(f, "which {} has locked", Named(&self.theirs, self.now)),
            Act::Committed(ts) if self.theirs.who.is_none() => {
                // Versions do not say whose they are.
                write!(f, "which somebody else wrote at {ts}")
            }
            Act::Committed(ts) => {
                write!(f, "which {} wrote at {ts}", Named(&self.theirs, self.now))
            }
        }
    }
}

/// Why a range did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The key belongs to another range: look the range up again.
    #[error("the range does not have key {}", .key.escape_ascii())]
    WrongRange {
        /// The key.
        key: Bytes,
    },
    /// The keys reach beyond the range: ask for both sides of `at`.
    #[error("the range ends at {}", .at.escape_ascii())]
    Cut {
        /// The first key beyond.
        at: Bytes,
    },
    /// Another transaction's intent is in the way: wait, push it, and try again.
    #[error("{}", .conflict)]
    Conflict {
        /// Who met whom.
        conflict: Box<Conflict>,
        /// The intent's epoch and timestamp, which a push reports.
        seen: Seen,
    },
    /// The key was written after the snapshot: refresh to at least `ts` and try again, or start over.
    #[error("{conflict}, after the snapshot")]
    WriteTooOld {
        /// Who met whom.
        conflict: Box<Conflict>,
        /// The least timestamp at which the write could be laid.
        ts: Timestamp,
    },
    /// A value may have been written before the transaction began: read again at or above `ts`.
    #[error("key {} has a value of {ts}, which may be from before the transaction", .key.escape_ascii())]
    Uncertain {
        /// The key.
        key: Bytes,
        /// The value's timestamp.
        ts: Timestamp,
    },
    /// The reads have to be validated up to `to` before the transaction can commit.
    #[error("the transaction was pushed to {to}: its reads must be refreshed")]
    Refresh {
        /// The least commit timestamp.
        to: Timestamp,
    },
    /// What was read has changed in between.
    #[error("{conflict}")]
    Changed {
        /// Who met whom.
        conflict: Box<Conflict>,
    },
    /// A write that the transaction had sent is not there, and cannot come any more.
    #[error("the write to {} is lost", .key.escape_ascii())]
    WriteMissing {
        /// The key.
        key: Bytes,
    },
    /// The transaction was aborted, by a push or a recovery.
    #[error("the transaction was aborted by another one")]
    Aborted,
    /// It is staged and may be committed: recover it.
    #[error("the transaction may be committed: it must be recovered")]
    Indeterminate {
        /// The record.
        record: Box<Record>,
    },
    /// The pushed transaction is alive and does not give way: wait.
    #[error("the other transaction goes on: wait")]
    PushWaits,
    /// A late copy of a request that later ones of the same transaction have overtaken.
    #[error("the request is out of date")]
    Stale,
    /// The outcome was remembered for the client's session, which is over.
    #[error("the outcome is forgotten")]
    Forgotten,
    /// The transaction has laid one key too often: its intent keeps what may have to be gone back to.
    #[error("key {} was written too often by one transaction", .key.escape_ascii())]
    TooManyWrites {
        /// The key.
        key: Bytes,
    },
    /// What a change needs, or a condition, does not hold. It was noted as a read.
    #[error("{unmet}")]
    Unmet {
        /// What does not hold.
        unmet: Box<Unmet>,
    },
    /// The batch is none that this crate sends ([`crate::request::Batch::flaw`]): sending it again does not mend it.
    #[error("the request is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: Cow<'static, str>,
    },
    /// A recovery found what cannot be: see [`crate::request::Request::Recover`]. Stop and look.
    #[error("recovery of {} found a contradiction: {what}", .record.who.id)]
    Contradiction {
        /// What is wrong.
        what: Cow<'static, str>,
        /// The record as it is.
        record: Box<Record>,
    },
}

/// What a request saw of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Whose intent it is.
    pub who: Arc<Who>,
    /// Its attempt.
    pub epoch: crate::txn::Epoch,
    /// Its timestamp.
    pub ts: Timestamp,
    /// When it was laid, by the clock of the leader: the coordinator was alive then. Zero when no intent was seen.
    pub local_ts: Timestamp,
}

/// How a transaction failed. Nothing of it is or will be visible.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TxnError {
    /// Another transaction was first. Run the transaction again.
    #[error("{0}; run the transaction again")]
    Conflict(Box<Conflict>),
    /// A value may have been written before the transaction began, and its other reads have changed. Run it again.
    #[error("key {} was written while the transaction began; run it again", .key.escape_ascii())]
    Uncertain {
        /// The key.
        key: Bytes,
    },
    /// It was aborted by another one, or lost a write or its record. Run it again.
    #[error("the transaction was aborted; run it again")]
    Aborted,
    /// Its reads cannot be refreshed any more. Run it again.
    #[error("the transaction was pushed and its reads cannot be validated: {why}; run it again")]
    CannotRefresh {
        /// Why not.
        why: &'static str,
    },
    /// It laid one key more than [`EARLIER_MAX`](crate::record::EARLIER_MAX) times, or too much there. Flush less often.
    #[error(
        "the transaction has flushed key {} too often, or too much of it: an intent keeps {} earlier values, of {} bytes; flush less often",
        .key.escape_ascii(),
        crate::record::EARLIER_MAX,
        crate::record::EARLIER_BYTES_MAX
    )]
    TooManyWrites {
        /// The key.
        key: Bytes,
    },
    /// A condition of a one-shot transaction does not hold, or one of its changes is out of its bounds.
    #[error("{0}")]
    Unmet(Box<Unmet>),
    /// The caller took it back.
    #[error("the transaction was rolled back")]
    RolledBack,
    /// A read or write did not fit.
    #[error("{keys:?} could not be reached")]
    Unreachable {
        /// What was asked for.
        keys: Keys,
    },
}

impl TxnError {
    /// Whether running the transaction again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict(_)
            | Self::Uncertain { .. }
            | Self::Aborted
            | Self::CannotRefresh { .. }
            | Self::Unreachable { .. } => true,
            Self::TooManyWrites { .. } | Self::RolledBack | Self::Unmet(_) => false,
        }
    }
}
