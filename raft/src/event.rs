//! What a replica has to tell of itself: values for logs, counters and scripts. Nothing depends on them.

use crate::message::{Epoch, Mark};
use base::{Index, ReplicaId, Term};
use core::fmt;

/// Something that rarely happens. The hot path has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// It follows someone, or nobody yet.
    Follows {
        /// In this term.
        term: Term,
        /// The leader, if it is known.
        leader: Option<ReplicaId>,
    },
    /// It asks for votes.
    Campaigns {
        /// In this term; for a `pre` vote, the one that it would start.
        term: Term,
        /// Only asks whether it would win.
        pre: bool,
    },
    /// It leads.
    Leads {
        /// In this term.
        term: Term,
        /// Its first entry.
        first: Index,
    },
    /// It gave up to lead because no quorum answers.
    QuorumLost {
        /// The term that it led.
        term: Term,
    },
    /// It gave its vote.
    Votes {
        /// For this one.
        candidate: ReplicaId,
        /// In this term.
        term: Term,
    },
    /// It refused its vote, for a reason that is its own.
    VoteWithheld {
        /// From this one.
        candidate: ReplicaId,
        /// Why.
        why: Withheld,
    },
    /// Entries that contradict the leader's were cut from the log.
    Cut {
        /// The first of them.
        first: Index,
    },
    /// A follower's log lacks the entry before those sent; the leader tries at an earlier one.
    Probes {
        /// The follower.
        peer: ReplicaId,
        /// The next entry for it, as far as is known.
        next: Index,
    },
    /// A follower needs what is not in the log any more.
    SendsSnapshot {
        /// The follower.
        peer: ReplicaId,
        /// The last entry that the state covers.
        last: Mark,
    },
    /// A follower is promised to this leader as long as its node supports the leader's.
    Fortified {
        /// The follower.
        peer: ReplicaId,
        /// Until the end of this epoch.
        epoch: Epoch,
    },
    /// Leadership is being handed over.
    Transfers {
        /// To this one.
        to: ReplicaId,
    },
    /// Entries that it may have acknowledged are lost. It does not vote until they are back.
    Damaged {
        /// The first of them.
        first: Index,
        /// It votes when it has an entry of this term or a later one.
        until: Term,
    },
    /// What was lost is back.
    Repaired,
    /// An operator cut off a lost majority: this replica is the group from now on.
    Forced {
        /// What the group goes on from. Whatever others had after it is lost.
        from: Mark,
        /// Who is cut off.
        lost: Vec<ReplicaId>,
    },
}

/// Why a vote was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// A leader was heard of lately, or its node is supported.
    LeaderLives,
    /// The term that was asked about has begun already.
    TermBegun,
    /// This term's vote went to another, or there is a leader.
    VotedForOther,
    /// The candidate lacks entries.
    LogBehind,
    /// This replica lost entries that it may have acknowledged.
    Repairing,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Follows { term, leader: None } => write!(f, "follows nobody in {term}"),
            Self::Follows {
                term,
                leader: Some(leader),
            } => write!(f, "follows {leader} in {term}"),
            Self::Campaigns { term, pre: true } => write!(f, "asks whether it would win {term}"),
            Self::Campaigns { term, pre: false } => write!(f, "asks for votes in {term}"),
            Self::Leads { term, first } => write!(f, "leads in {term}, from entry {first}"),
            Self::QuorumLost { term } => write!(f, "gives up {term}: no quorum answers"),
            Self::Votes { candidate, term } => write!(f, "votes for {candidate} in {term}"),
            Self::VoteWithheld { candidate, why } => {
                let why = match why {
                    Withheld::LeaderLives => "a leader lives",
                    Withheld::TermBegun => "that term has begun",
                    Withheld::VotedForOther => "another has its vote",
                    Withheld::LogBehind => "its log is behind",
                    Withheld::Repairing => "entries are being repaired",
                };
                write!(f, "withholds its vote from {candidate}: {why}")
            }
            Self::Cut { first } => write!(f, "cuts its log before {first}"),
            Self::Probes { peer, next } => write!(f, "tries {peer} at {next}"),
            Self::SendsSnapshot { peer, last } => {
                write!(f, "sends {peer} the state at {}@{}", last.index, last.term)
            }
            Self::Fortified { peer, epoch } => write!(f, "is supported by {peer} in epoch {}", epoch.0),
            Self::Transfers { to } => write!(f, "hands leadership to {to}"),
            Self::Damaged { first, until } => {
                write!(
                    f,
                    "lost entries from {first} on and does not vote until it has one of {until}"
                )
            }
            Self::Repaired => write!(f, "has back what it lost"),
            Self::Forced { from, lost } => {
                write!(
                    f,
                    "is forced to go on alone from {}@{}, without",
                    from.index, from.term
                )?;
                lost.iter().try_for_each(|id| write!(f, " {id}"))
            }
        }
    }
}
