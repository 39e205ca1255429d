//! What replicas of a group say to each other, and the entries they agree on.
//!
//! | message | source | where it departs |
//! |---|---|---|
//! | `Vote`, `VoteReply` | Ongaro (2014), figure 3.1, section 3.4 | `pre`: section 9.6; `transfer`: section 3.10 |
//! | `Append`, `Appended`, `Refused` | section 3.5 | a refusal names the term that conflicts and its first index (end of section 5.3 of the paper of 2014); a witness gets headers |
//! | `Heartbeat`, `HeartbeatReply` | section 3.4, section 6.4 | apart from `Append`: it carries no entries and never waits for a write; numbered, so that an answer confirms reads and leases |
//! | `Read`, `ReadReply` | section 6.4 | a follower's read; the leader answers when a quorum has confirmed it |
//! | `Snapshot` | figure 5.3 | names the state only; the caller carries the state itself |
//! | `Campaign` | section 3.10 | – |
//! | `Bound`, `Released` | – | how a follower gets free of a leader that stepped down while its node lives on |

use crate::membership::Membership;
use crate::payload::Payload;
use base::{Index, ReplicaId, Term};
use std::sync::Arc;

/// An entry's term and index: with log matching, the name of everything up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Mark {
    /// Of the entry. The more recent of two logs is the one whose last mark is greater.
    pub term: Term,
    /// Of the entry.
    pub index: Index,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing: a leader's first entry, by which it commits what came before.
    Empty,
    /// The user's.
    Command(Payload),
    /// Who takes part from this entry on. In effect as soon as it is in a log.
    Membership(Arc<Membership>),
    /// A command as a witness has it: only its checksum.
    Header(u32),
}

impl Content {
    /// What the chain takes in: the same for a command and its header.
    fn checksum(&self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Command(payload) => payload.checksum(),
            Self::Membership(membership) => membership.checksum(),
            Self::Header(checksum) => *checksum,
        }
    }

    fn kind(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Command(_) | Self::Header(_) => 1,
            Self::Membership(_) => 2,
        }
    }
}

/// One position of a group's log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The leader's that made it.
    pub term: Term,
    /// Its position, from 1, without gaps.
    pub index: Index,
    /// The checksum of the log up to and including it.
    pub chain: u32,
    /// What it says.
    pub content: Content,
}

impl Entry {
    /// An entry at `mark` that follows one whose chain is `before`.
    #[must_use]
    pub fn new(before: u32, mark: Mark, content: Content) -> Self {
        let mut entry = Self {
            term: mark.term,
            index: mark.index,
            chain: 0,
            content,
        };
        entry.chain = entry.chain_after(before);
        entry
    }

    /// What its chain must be after an entry whose chain is `before`. The chain tells logs apart that differ by mistake; it does
    /// not withstand one who makes logs differ on purpose.
    #[must_use]
    pub fn chain_after(&self, before: u32) -> u32 {
        let mut chain = u64::from(before) << 32 | u64::from(self.content.checksum());
        for part in [self.term.0, self.index.0, self.content.kind()] {
            // The finaliser of SplitMix64: each bit of the input changes half of those of the result.
            chain ^= part;
            chain = (chain ^ (chain >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            chain = (chain ^ (chain >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chain ^= chain >> 31;
        }
        (chain >> 32) as u32
    }

    /// Its name.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            term: self.term,
            index: self.index,
        }
    }

    /// What it counts for in limits: its payload, and a little for itself.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> usize {
        let payload = match &self.content {
            Content::Empty | Content::Header(_) => 0,
            Content::Command(payload) => payload.len(),
            Content::Membership(membership) => membership.members().count() * 8,
        };
        payload + 32
    }

    /// As a witness gets it.
    #[must_use]
    pub fn header(&self) -> Self {
        let content = match &self.content {
            Content::Command(_) => Content::Header(self.content.checksum()),
            other => other.clone(),
        };
        Self { content, ..*self }
    }
}

/// What must survive a crash beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term.
    pub vote: Option<ReplicaId>,
    /// This replica lost entries that it may have acknowledged: it votes when it has an entry of this term or a later one.
    pub repairing: Option<Term>,
}

/// State that replaces the log up to a mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The last entry that it covers.
    pub last: Mark,
    /// The chain up to that entry.
    pub chain: u32,
    /// Who takes part as of that entry.
    pub membership: Arc<Membership>,
}

/// Names a promise of one node to another that lives: a node that was given up gets a new one. From 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Names a read; the caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// A message; its sender's term comes with each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender's term; of a `pre` vote, the term that it would start.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Asks for a vote.
    Vote {
        /// The candidate's last entry.
        last: Mark,
        /// Only asks whether it would get the vote; nothing changes.
        pre: bool,
        /// The leader wants this election: having heard of the leader is no reason to refuse.
        transfer: bool,
    },
    /// Answers it.
    VoteReply {
        /// As in the question.
        pre: bool,
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries that follow `prev`; none is a probe.
    Append {
        /// The entry before the first of `entries`.
        prev: Mark,
        /// In order, without gaps.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The sender has, durably, everything up to `matched` that the leader has.
    Appended {
        /// The last of it.
        matched: Index,
    },
    /// The sender does not have `prev` of an `Append`.
    Refused {
        /// The index of that `prev`.
        prev: Index,
        /// The term of what the sender has there, and the first index of that term; none when its log ends before.
        conflict: Option<Mark>,
        /// The sender's last index.
        last: Index,
    },
    /// The leader lives.
    Heartbeat {
        /// The leader's commit index, as far as the receiver is known to have its log.
        commit: Index,
        /// Numbers the leader's rounds of heartbeats, from 1.
        round: u64,
    },
    /// Answers it.
    HeartbeatReply {
        /// As in the heartbeat. Zero answers a leader of an older term.
        round: u64,
        /// The sender's rank among those who would lead; the least one is preferred.
        rank: u8,
        /// The sender follows this leader as long as its node supports the leader's node at this epoch.
        support: Option<Epoch>,
    },
    /// A follower's read wants its index.
    Read {
        /// The follower's name for it.
        token: ReadToken,
    },
    /// Answers it: this is the leader, or was when it was asked, and everything that was committed then is at or before `index`.
    ReadReply {
        /// As in the question.
        token: ReadToken,
        /// What must have been applied before the read is served.
        index: Index,
    },
    /// The log before the receiver's next entry is gone: state in its place.
    Snapshot(Snapshot),
    /// Start an election now, whatever has been heard.
    Campaign,
    /// The sender elects nobody else while its node supports the receiver's: does the receiver still lead?
    Bound,
    /// It does not, and will not in this term.
    Released,
}
