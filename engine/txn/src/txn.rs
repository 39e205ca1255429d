//! What names a transaction and what travels with each of its requests.

use base::{ClientId, Timestamp};
use core::fmt;
use std::sync::Arc;

/// Keys and values as messages and intents keep them: one allocation, however often they are sent again.
pub type Bytes = Arc<[u8]>;

/// Names a transaction over all its retries. The client chooses it, as it does for a plain write (`base::api::WriteId`), so that
/// the results of both are remembered in one place and for as long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TxnId {
    /// The client's session.
    pub client: ClientId,
    /// Increases with each write and transaction of the session, from 1.
    pub seq: u64,
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.client, self.seq)
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which attempt of a transaction: intents of an earlier one are void. From zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The attempt after this one.
    ///
    /// # Panics
    /// After 2^32 attempts.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("nobody tries that often"))
    }
}

/// The place of a write among those of its transaction, from 1. Not reset by a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// The place after this one.
    ///
    /// # Panics
    /// After 2^32 writes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a transaction has fewer writes"))
    }
}

/// Writes that a return to a savepoint took back, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeqSpan {
    /// The first one.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
}

impl SeqSpan {
    /// Whether one of `spans` has `seq`.
    #[must_use]
    pub fn any_has(spans: &[Self], seq: Seq) -> bool {
        spans.iter().any(|span| span.first <= seq && seq <= span.last)
    }
}

/// What a transaction is promised of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Isolation {
    /// It reads one snapshot, and of two that write one key at a time the first committer wins.
    #[default]
    Snapshot,
    /// As if transactions ran one after the other: every read is still valid at the commit timestamp.
    Serializable,
    /// As above, in the order of real time: the answer waits until every clock has passed the commit timestamp.
    StrictSerializable,
}

impl Isolation {
    /// Whether reads have to be valid at the commit timestamp.
    #[must_use]
    pub fn is_serializable(self) -> bool {
        match self {
            Self::Snapshot => false,
            Self::Serializable | Self::StrictSerializable => true,
        }
    }
}

/// Who gives way when two transactions meet. Equals wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Gives way to all others.
    Low,
    /// Waits.
    #[default]
    Normal,
    /// Aborts lower ones that are in its way.
    High,
}

/// What does not change while a transaction lives, save that its anchor is unknown before its first write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    /// Its id.
    pub id: TxnId,
    /// The key whose range has its record. Empty before the first write.
    pub anchor: Bytes,
    /// What the caller calls it, for errors. May be empty.
    pub name: Arc<str>,
    /// What it is promised.
    pub isolation: Isolation,
    /// Whether others give way.
    pub priority: Priority,
    /// When it began, by the clock of its coordinator: its age, which restarts do not change.
    pub start_ts: Timestamp,
}

impl Who {
    /// Whether this one is younger than the other. Of two that began at one timestamp, the greater id is.
    #[must_use]
    pub fn is_younger(&self, other: &Self) -> bool {
        (self.start_ts, self.id) > (other.start_ts, other.id)
    }

    /// Whether this one does not wait for the other in order to write what it has read: it is younger, and not more important. When the
    /// other commits, it is too late, and nobody waits in a circle so.
    #[must_use]
    pub fn gives_way_to(&self, other: &Self) -> bool {
        self.is_younger(other) && self.priority <= other.priority
    }
}

/// What every request of a transaction carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// The transaction.
    pub who: Arc<Who>,
    /// Its attempt.
    pub epoch: Epoch,
    /// The snapshot that it reads.
    pub read_ts: Timestamp,
    /// Where its writes are laid, unless something forces them higher. At least `read_ts`.
    pub write_ts: Timestamp,
    /// Values in `(read_ts, limit]` may have been written before it began, in real time. At least `read_ts`.
    pub limit: Timestamp,
    /// It has read nothing, so `read_ts` may move along with `write_ts`.
    pub blind: bool,
    /// What it has taken back.
    pub ignored: Arc<[SeqSpan]>,
}

/// A key, or a half-open span of keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keys {
    /// One key.
    One(Bytes),
    /// `[start, end)`; `None` is the end of the key space.
    Span(Bytes, Option<Bytes>),
}

impl Keys {
    /// The first key.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            Self::One(key) | Self::Span(key, _) => key,
        }
    }

    /// Whether `key` is one of them.
    #[must_use]
    pub fn contain(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => **one == *key,
            Self::Span(start, end) => **start <= *key && end.as_deref().is_none_or(|end| key < end),
        }
    }

    /// The two sides of `at`, when keys of both sides are among them.
    #[must_use]
    pub fn cut(&self, at: &[u8]) -> Option<(Self, Self)> {
        match self {
            Self::One(_) => None,
            Self::Span(start, end) => {
                let inside = **start < *at && end.as_deref().is_none_or(|end| at < end);
                let at: Bytes = at.into();
                inside.then(|| {
                    let left = Self::Span(start.clone(), Some(at.clone()));
                    (left, Self::Span(at, end.clone()))
                })
            }
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(key) => write!(f, "{}", key.escape_ascii()),
            Self::Span(start, Some(end)) => {
                write!(f, "[{}, {})", start.escape_ascii(), end.escape_ascii())
            }
            Self::Span(start, None) => write!(f, "[{}, ∞)", start.escape_ascii()),
        }
    }
}
