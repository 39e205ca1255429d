//! What replicas of a group say to each other, and the entries they agree on.
//!
//! | message | source | where it departs |
//! |---|---|---|
//! | `Vote`, `VoteReply` | Ongaro (2014), figure 3.1, section 3.4 | `pre`: section 9.6; `transfer`: section 3.10 |
//! | `Append`, `Appended`, `Refused` | section 3.5 | a refusal names the term that conflicts and its first index (end of section 5.3 of the paper of 2014) |
//! | `Heartbeat`, `HeartbeatReply` | section 3.4 | apart from `Append`: it carries no entries and never waits for a write |
//! | `Snapshot` | figure 5.3 | names the state only; the caller carries the state itself |
//! | `Campaign` | section 3.10 | – |

use crate::membership::Membership;
use base::{Index, ReplicaId, Term};
use std::sync::Arc;

/// A command's bytes. Shared, never copied.
pub type Payload = Arc<[u8]>;

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
    Membership(Membership),
}

/// One position of a group's log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The leader's that made it.
    pub term: Term,
    /// Its position, from 1, without gaps.
    pub index: Index,
    /// What it says.
    pub content: Content,
}

impl Entry {
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
    pub fn bytes(&self) -> usize {
        let payload = match &self.content {
            Content::Empty => 0,
            Content::Command(payload) => payload.len(),
            Content::Membership(membership) => membership.members().count() * 8,
        };
        payload + 32
    }
}

/// What must survive a crash beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term.
    pub vote: Option<ReplicaId>,
}

/// State that replaces the log up to a mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The last entry that it covers.
    pub last: Mark,
    /// Who takes part as of that entry.
    pub membership: Membership,
}

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
    },
    /// Answers it.
    HeartbeatReply,
    /// The log before the receiver's next entry is gone: state in its place.
    Snapshot(Snapshot),
    /// Start an election now, whatever has been heard.
    Campaign,
}
