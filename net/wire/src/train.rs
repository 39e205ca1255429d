//! The parts of a [`crate::peer::Train`].

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// A message of the failure detector between two shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Liveness {
    /// The sender's session.
    pub session: u64,
    /// The receiver's, as far as the sender knows; zero is none.
    pub heard: u64,
    /// The sender's clock, in nanoseconds.
    pub clock_ns: u64,
    /// When it heard the receiver last.
    pub echo: Option<Echo>,
    /// The support that it asks for.
    pub ask: Option<Promise>,
    /// To what the receiver asked for.
    pub answer: Option<Answer>,
}

/// The way back of a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Echo {
    /// The clock in the newest message that came.
    pub clock_ns: u64,
    /// The sender's clock when it came.
    pub came_ns: u64,
}

/// Support at an epoch until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Promise {
    /// Of the supported side.
    pub epoch: u64,
    /// By the supporter's clock, in nanoseconds.
    pub until_ns: u64,
}

/// What the receiver gets for what it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub enum Answer {
    /// It is supported.
    Granted(Promise),
    /// Support at its epoch has ended.
    Refused {
        /// The least epoch at which it would be supported.
        epoch: u64,
    },
}

/// A message between two replicas of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct GroupMessage<'a> {
    /// The group's range.
    pub range: u64,
    /// The sender.
    pub from: u64,
    /// The receiver.
    pub to: u64,
    /// The sender's term; of a question before a vote, the term that it would start.
    pub term: u64,
    /// What it says.
    pub body: Body<'a>,
}

/// An entry's term and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Mark {
    /// Of the entry.
    pub term: u64,
    /// Of the entry.
    pub index: u64,
}

/// One position of a group's log. Its index follows from its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Entry<'a> {
    /// The leader's that made it.
    pub term: u64,
    /// The checksum of the log up to and including it.
    pub chain: u32,
    /// What it says.
    pub content: Content<'a>,
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum Content<'a> {
    /// Nothing: a leader's first entry.
    Empty,
    /// A command of the range, as in the log.
    Command {
        /// Its bytes.
        #[rkyv(with = InlineAsBox)]
        payload: &'a [u8],
    },
    /// Who takes part from here on, as in the log.
    Membership {
        /// The lists.
        #[rkyv(with = InlineAsBox)]
        members: &'a [u8],
    },
    /// A command as a witness gets it.
    Header {
        /// Of its bytes.
        checksum: u32,
    },
}

/// What replicas of a group say to each other; the crate `raft` has what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum Body<'a> {
    /// Asks for a vote.
    Vote {
        /// The candidate's last entry.
        last: Mark,
        /// Only asks whether it would get the vote.
        pre: bool,
        /// The leader wants this election.
        transfer: bool,
    },
    /// Answers it.
    VoteReply {
        /// As in the question.
        pre: bool,
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries that follow `prev`.
    Append {
        /// The entry before the first one.
        prev: Mark,
        /// In order, without gaps.
        #[rkyv(with = InlineAsBox)]
        entries: &'a [Entry<'a>],
        /// The leader's commit index.
        commit: u64,
    },
    /// The sender has everything up to here, durably.
    Appended {
        /// The last of it.
        matched: u64,
    },
    /// The sender lacks `prev` of an `Append`.
    Refused {
        /// Its index.
        prev: u64,
        /// The term of what the sender has there, and that term's first index.
        conflict: Option<Mark>,
        /// The sender's last index.
        last: u64,
    },
    /// The leader lives.
    Heartbeat {
        /// Its commit index, as far as the receiver has its log.
        commit: u64,
        /// Numbers the rounds.
        round: u64,
    },
    /// Answers it.
    HeartbeatReply {
        /// As in the heartbeat.
        round: u64,
        /// The sender's rank among those who would lead.
        rank: u8,
        /// The epoch of its node's support by which it is bound to this leader.
        support: Option<u64>,
    },
    /// A follower's read wants its index.
    Read {
        /// The follower's name for it.
        token: u64,
    },
    /// Answers it.
    ReadReply {
        /// As in the question.
        token: u64,
        /// What must have been applied.
        index: u64,
    },
    /// State takes the place of the log; the state itself comes by another way.
    Snapshot {
        /// The last entry that it covers.
        last: Mark,
        /// The chain up to there.
        chain: u32,
        /// Who takes part as of there, as in the log.
        #[rkyv(with = InlineAsBox)]
        members: &'a [u8],
    },
    /// Start an election now.
    Campaign,
    /// Does the receiver still lead? The sender is bound to it.
    Bound,
    /// It does not.
    Released,
}
