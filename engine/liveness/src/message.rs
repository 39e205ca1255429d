//! What two detectors say to each other: one kind of message, the same in both directions.

use base::{NodeId, ShardId};
use core::fmt;

/// A shard of a node: one end of a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// One of its shards.
    pub shard: ShardId,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.shard)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name under which one side of a pair is supported by the other, until that ends. Chosen by the supported side; rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// The incarnation that drew the number, and its place there.
fn show(number: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}.{}", number >> 32, number & u64::from(u32::MAX))
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)
    }
}

/// The time from which one side of a pair remembers; a restart, or that the peer was removed and added again, begins another.
/// Rises. Zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Session(pub u64);

impl Session {
    /// None heard of yet.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)
    }
}

/// Support at an epoch until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Promise {
    /// Of the supported side.
    pub epoch: Epoch,
    /// By the supporter's clock, in nanoseconds; that time included.
    pub until_ns: u64,
}

/// What the receiver gets for what it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is supported.
    Granted(Promise),
    /// Support at its epoch has ended.
    Refused {
        /// The least epoch at which it would be supported.
        epoch: Epoch,
    },
}

/// When the sender heard the receiver last: the way back of a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Echo {
    /// [`Message::clock_ns`] of the newest message that came.
    pub clock_ns: u64,
    /// The sender's clock when it came.
    pub came_ns: u64,
}

/// One message. It may be lost, doubled, late and out of order; it comes from whom it seems to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender's.
    pub session: Session,
    /// The receiver's, as far as the sender knows. What is asked and answered is for this one only.
    pub heard: Session,
    /// The sender's clock when it was sent, in nanoseconds.
    pub clock_ns: u64,
    /// Of what the receiver sent in the session `heard`.
    pub echo: Option<Echo>,
    /// The support that the sender asks for.
    pub ask: Option<Promise>,
    /// To what the receiver asks for.
    pub answer: Option<Answer>,
}

impl Message {
    /// Numbers that no detector chooses. The last epoch is none, since another one must follow each.
    pub(crate) fn is_malformed(&self) -> bool {
        let bad = |epoch: Epoch| epoch.0 == 0 || epoch.0 == u64::MAX;
        let epoch = match self.answer {
            Some(Answer::Granted(promise)) => Some(promise.epoch),
            Some(Answer::Refused { epoch }) => Some(epoch),
            None => None,
        };
        self.session == Session::NONE || epoch.is_some_and(bad) || self.ask.is_some_and(|ask| bad(ask.epoch))
    }
}
