//! What no replica of a group sends.

use crate::message::{Body, Content, Entry, Mark, Message};
use crate::raft::{Raft, Role};
use base::{Index, Term};

/// No run reaches higher terms, indexes or rounds: arithmetic on what a message says stays below 64 bits.
const COUNTER_MAX: u64 = u64::MAX / 2;

fn fault(holds: bool, what: &'static str) -> Option<&'static str> {
    holds.then_some(what)
}

fn is_too_large(mark: Mark, term: Term) -> bool {
    mark.index.0 > COUNTER_MAX || mark.term > term
}

fn leaves_nobody(entry: &Entry) -> bool {
    match &entry.content {
        Content::Membership(membership) => membership.has_no_leader(),
        Content::Empty | Content::Command(_) | Content::Header(_) => false,
    }
}

impl Raft {
    /// What is wrong with a message, if anything.
    pub(crate) fn fault_of(&self, Message { term, body }: &Message) -> Option<&'static str> {
        if term.0 > COUNTER_MAX {
            return Some("its term is out of bounds");
        }
        let leading = match &self.role {
            Role::Leader(leadership) if *term == self.hard.term => Some(leadership),
            Role::Leader(_) | Role::Follower { .. } | Role::Candidate { .. } => None,
        };
        let second_leader = fault(leading.is_some(), "two leaders in one term");
        match body {
            Body::Vote { last, .. } => fault(is_too_large(*last, *term), "its last entry is out of bounds"),
            Body::Append { prev, entries, .. } => {
                second_leader.or_else(|| self.fault_of_entries(*term, *prev, entries))
            }
            Body::Heartbeat { round, .. } => {
                second_leader.or(fault(*round > COUNTER_MAX, "its round is out of bounds"))
            }
            Body::Snapshot(snapshot) => second_leader
                .or(fault(
                    is_too_large(snapshot.last, *term),
                    "its last entry is out of bounds",
                ))
                .or(fault(
                    snapshot.last.index == Index::ZERO,
                    "its state is of before the group",
                ))
                .or(fault(
                    snapshot.membership.has_no_leader(),
                    "its state has no voter that could lead",
                )),
            Body::Appended { matched } => fault(
                leading.is_some() && *matched > self.log.last().index,
                "it has what was never sent",
            ),
            Body::Refused { prev, conflict, last } => {
                let marks = [*prev, *last, conflict.map_or(*prev, |mark| mark.index)];
                fault(
                    marks.iter().any(|index| index.0 > COUNTER_MAX),
                    "an index is out of bounds",
                )
            }
            Body::HeartbeatReply { round, .. } => fault(
                leading.is_some_and(|leadership| *round > leadership.round),
                "it answers a heartbeat that was never sent",
            ),
            Body::ReadReply { index, .. } => fault(index.0 > COUNTER_MAX, "an index is out of bounds"),
            Body::VoteReply { .. } | Body::Read { .. } | Body::Campaign | Body::Bound | Body::Released => {
                None
            }
        }
    }

    fn fault_of_entries(&self, term: Term, prev: Mark, entries: &[Entry]) -> Option<&'static str> {
        if prev.index == Index::ZERO {
            return Some("its entries are of before the group");
        }
        if is_too_large(prev, term) {
            return Some("the entry before is out of bounds");
        }
        let mut last = prev;
        // As far as it is known: an entry's own chain stands in for the one before.
        let mut chain = self
            .log
            .chain(prev.index)
            .filter(|_| self.log.mark(prev.index) == Some(prev));
        for entry in entries {
            if entry.index.0.checked_sub(1) != Some(last.index.0) || entry.term < last.term {
                return Some("its entries do not follow each other");
            }
            if chain.is_some_and(|chain| entry.chain_after(chain) != entry.chain) {
                return Some(
                    "the chain of its entries is broken, or its log differs from this one before them",
                );
            }
            if leaves_nobody(entry) {
                return Some("a change of the members leaves no voter that could lead");
            }
            chain = Some(entry.chain);
            last = entry.mark();
        }
        fault(is_too_large(last, term), "its entries are of a later term")
    }
}
