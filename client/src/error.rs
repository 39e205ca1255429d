//! What can go wrong, and what the caller can do about it.

use crate::transaction::{Conflict, TxnRef};
use base::key::Escaped;
use base::{RangeId, Timestamp};
use core::time::Duration;
use wire::Code;

/// A call failed. [`Self::code`] names it for programs, `Display` for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is neither `corelane://HOST:PORT` nor a list `corelane://HOST:PORT,HOST:PORT`.
    #[error(
        "{text:?} is not an address: expected corelane://HOST:PORT, or several HOST:PORT with commas between them"
    )]
    InvalidAddress {
        /// What was given.
        text: String,
    },
    /// A key, value or batch is longer than the server accepts. Nothing was sent.
    #[error("{what} of {bytes} is longer than the limit of {max}")]
    TooLarge {
        /// What is too long, with its unit.
        what: &'static str,
        /// Which limit.
        code: Code,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        max: u64,
    },
    /// A key without bytes. Nothing was sent.
    #[error("a key needs at least one byte")]
    EmptyKey,
    /// A span whose end lies before its start. Nothing was sent.
    #[error("the span ends at {:?}, before it starts at {:?}", Escaped(.end).to_string(), Escaped(.start).to_string())]
    InvalidSpan {
        /// Its start.
        start: Vec<u8>,
        /// Its end.
        end: Vec<u8>,
    },
    /// The keys of a batch lie in different ranges. Nothing was written.
    #[error(
        "a batch is atomic within one range, but {:?} and {:?} lie in different ones",
        Escaped(.first).to_string(),
        Escaped(.other).to_string()
    )]
    BatchSpansRanges {
        /// A key of the batch.
        first: Vec<u8>,
        /// A key of another range.
        other: Vec<u8>,
    },
    /// A condition of a batch, or of a one-shot transaction, did not hold. Nothing was written.
    #[error("condition {condition} did not hold")]
    ConditionFailed {
        /// The position of the first condition that failed.
        condition: u32,
        /// The value found in its place, if any.
        found: Option<Vec<u8>>,
        /// The timestamp at which it was looked at.
        ts: Timestamp,
    },
    /// The bounds of a change do not allow it: of one in a transaction, which goes on as it was, or of a one-shot transaction, of which
    /// nothing was written.
    #[error("key {:?} has {}, and {bound}", Escaped(.key).to_string(), shown(.found))]
    OutOfBounds {
        /// The key.
        key: Vec<u8>,
        /// What was to be done to it, and within which bounds.
        bound: String,
        /// The value that it has, if any.
        found: Option<Vec<u8>>,
        /// The timestamp at which it was looked at.
        ts: Timestamp,
    },
    /// A one-shot transaction changes a key twice. Nothing was sent.
    #[error("the transaction changes key {:?} twice", Escaped(.key).to_string())]
    ChangedTwice {
        /// The key.
        key: Vec<u8>,
    },
    /// A one-shot transaction is committed, and a value that it was to tell could not be read.
    #[error("the transaction is committed at {ts}, and key {:?} could not be read there: {cause}", Escaped(.key).to_string())]
    CommittedUnread {
        /// When it committed.
        ts: Timestamp,
        /// The key; [`crate::Db::get_at`] reads it at `ts`.
        key: Vec<u8>,
        /// What the read ended with.
        cause: String,
    },
    /// No connection to the server until the deadline; nothing was sent, or it was safe to send.
    #[error("cannot reach {address}: {cause}")]
    Unavailable {
        /// Where the server was expected.
        address: String,
        /// What the system said last.
        cause: String,
    },
    /// Time ran out. A write was not applied.
    #[error("not finished within {} ms{}", .after.as_millis(), last_of(.last))]
    DeadlineExceeded {
        /// The time that was allowed.
        after: Duration,
        /// What the last try ended with, if it ended.
        last: Option<Box<Self>>,
    },
    /// A write was sent and its answer never came: it may or may not have been applied. Read the keys to find out.
    #[error("the outcome of the write is unknown after {} ms: {cause}", .after.as_millis())]
    Ambiguous {
        /// The time that was allowed.
        after: Duration,
        /// What the last try ended with.
        cause: String,
    },
    /// Another transaction was in the way, or was first; nothing of this one is or will be visible. Run it again:
    /// [`crate::Db::transaction`] does so by itself. Of a request
    /// outside of transactions: it was not done, for the other transaction goes on.
    #[error("{0}")]
    Conflict(Box<Conflict>),
    /// The transaction has failed; nothing of it is or will be visible.
    #[error("{why}")]
    Aborted {
        /// Why, and what to do.
        why: String,
        /// Whether it may succeed when it runs again.
        retryable: bool,
    },
    /// A transaction was to be committed, and whether it is cannot be said yet. Ask later: [`crate::Db::outcome`].
    #[error("whether transaction {txn} is committed is unknown: {cause}")]
    CommitUnknown {
        /// The transaction.
        txn: TxnRef,
        /// What the last try ended with.
        cause: String,
    },
    /// The transaction was committed or taken back before.
    #[error("the transaction is over")]
    TransactionOver,
    /// The server refused.
    #[error("{message}")]
    Server {
        /// The code, see [`Error::code`].
        code: u16,
        /// What happened, in the server's words.
        message: String,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// The range concerned.
        range: Option<RangeId>,
        /// The key concerned.
        key: Option<Vec<u8>>,
    },
    /// The server broke the protocol; the connection was closed.
    #[error("the server broke the protocol: {what}")]
    Protocol {
        /// How.
        what: String,
    },
    /// The handle's background thread or runtime is gone.
    #[error("the client was shut down")]
    Closed,
}

/// Bytes of a value that a message shows.
const SHOWN_MAX: usize = 64;

fn shown(found: &Option<Vec<u8>>) -> String {
    match found {
        None => "no value".to_owned(),
        Some(found) if found.len() > SHOWN_MAX => format!("a value of {} bytes", found.len()),
        Some(found) => format!("{:?}", Escaped(found).to_string()),
    }
}

fn last_of(last: &Option<Box<Error>>) -> String {
    last.as_ref()
        .map_or_else(String::new, |last| format!(", last: {last}"))
}

impl Error {
    /// A value is to be counted with, and is no number: as nodes say it.
    pub(crate) fn not_a_number(key: Vec<u8>, found: Option<&[u8]>) -> Self {
        let found = found.unwrap_or_default();
        let found = Escaped(&found[..found.len().min(SHOWN_MAX)]);
        Self::Server {
            code: Code::NotANumber.number(),
            message: format!("the value of `{}` is not a number: `{found}`", Escaped(&key)),
            retryable: false,
            range: None,
            key: Some(key),
        }
    }

    /// The stable code: `corelane explain CODE` tells more.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidAddress { .. } => Code::InvalidAddress,
            Self::TooLarge { code, .. } => *code,
            Self::EmptyKey => Code::EmptyKey,
            Self::InvalidSpan { .. } => Code::InvalidSpan,
            Self::BatchSpansRanges { .. } => Code::BatchSpansRanges,
            Self::ConditionFailed { .. } | Self::OutOfBounds { .. } => Code::ConditionFailed,
            Self::ChangedTwice { .. } => Code::InvalidRequest,
            Self::CommittedUnread { .. } => Code::Ambiguous,
            Self::Unavailable { .. } | Self::Closed => Code::Unavailable,
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::Ambiguous { .. } => Code::Ambiguous,
            Self::Conflict(_) => Code::TxnConflict,
            Self::Aborted { .. } => Code::TxnAborted,
            Self::CommitUnknown { .. } => Code::CommitUnknown,
            Self::TransactionOver => Code::TxnOver,
            Self::Server { code, .. } => Code::from_number(*code).unwrap_or(Code::Internal),
            Self::Protocol { .. } => Code::UnexpectedReply,
        }
    }

    /// Whether the same call may succeed later. The client has retried until the deadline already. A write that ended as
    /// [`Self::Ambiguous`] is not retryable: it may have been applied.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::DeadlineExceeded { .. } | Self::Conflict(_) => true,
            Self::Server { retryable, .. } | Self::Aborted { retryable, .. } => *retryable,
            Self::InvalidAddress { .. }
            | Self::TooLarge { .. }
            | Self::EmptyKey
            | Self::InvalidSpan { .. }
            | Self::BatchSpansRanges { .. }
            | Self::ConditionFailed { .. }
            | Self::OutOfBounds { .. }
            | Self::ChangedTwice { .. }
            | Self::CommittedUnread { .. }
            | Self::Ambiguous { .. }
            | Self::CommitUnknown { .. }
            | Self::TransactionOver
            | Self::Protocol { .. }
            | Self::Closed => false,
        }
    }
}
