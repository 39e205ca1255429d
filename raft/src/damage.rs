//! What to do with a replica whose disk does not give back what was written.
//!
//! The danger is not that entries are missing, but that they were acknowledged: a leader may have committed them by that
//! acknowledgement. A replica that forgot them and votes could elect a leader that never had them. So a replica that *had and
//! lost* entries says so, durably, and until it has them back it neither votes nor leads:
//!
//! - It begins in a new term, so that the leader of the old one steps down, no later leader counts an acknowledgement of before
//!   the loss, and each learns anew what this replica has. ([`HardState::repairing`](crate::HardState::repairing) is that
//!   term.) Until it hears of that, the old leader may still commit by an acknowledgement whose entry is lost.
//! - The next leader is elected by the others alone. Any quorum by which an entry was committed shares a voter with it that is
//!   not this replica, so the leader has the entry.
//! - Once this replica durably has an entry of that term or a later one, its log is the leader's up to there: with everything that
//!   was ever committed by its acknowledgements. Then it votes again. What it acknowledges meanwhile it does have.
//!
//! What was *never had* — a write that was torn by a crash before it was acknowledged — is simply not there. Storage tells the
//! two apart: only what follows the last write known to be durable can be torn.
//!
//! | term and vote | log | state | verdict |
//! |---|---|---|---|
//! | lost | any | any | `Replace`: it may have voted in a term that it does not know of. Remove it, and add it by another id |
//! | intact | intact | intact | `Start` |
//! | intact | torn | intact | `Cut`, then start: nothing of it was acknowledged |
//! | intact | damaged, only at or before what is applied | intact | `Compact` up to what is applied, then start: only followers wanted it |
//! | intact | damaged after what is applied | intact | `Repair` from the first damaged entry |
//! | intact | any | damaged | `Empty`: everything was lost; repair from a snapshot |
//!
//! A majority that lost the same entries has no leader, until an operator gives them up: [`Restored::force`].
//!
//! Source: Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage" (2018). Departs from it: entries after the first
//! damaged one are given up too, and fetched again; the paper keeps them, and can repair damage in a majority that does not
//! overlap.

use crate::event::Event;
use crate::membership::Membership;
use crate::message::{Content, Entry, Mark};
use crate::raft::{Raft, Restored};
use base::{Index, ReplicaId, planted_bug};
use std::sync::Arc;

/// What storage found of a replica's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFound {
    /// Everything that was written.
    Intact,
    /// The last write did not end; nothing of it was acknowledged.
    Torn,
    /// Entries between these are damaged, or may have been there.
    Damaged {
        /// The first.
        first: Index,
        /// The last that may be damaged.
        last: Index,
    },
}

/// What storage found of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Whether term and vote are the latest that were written.
    pub hard_state_intact: bool,
    /// The log.
    pub log: LogFound,
    /// Whether the state is whole.
    pub state_intact: bool,
    /// What the state covers, if it is whole.
    pub applied: Index,
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it.
    Start,
    /// Start it without what was torn.
    Cut,
    /// Start it with a log that begins after what is applied.
    Compact,
    /// Start it with [`Restored::damaged`] set to this, and the entries before it.
    Repair(Index),
    /// Start it with [`Restored::damaged`] set to entry 1, no snapshot and no entries, and the term and vote that it had.
    Empty,
    /// Do not start it: remove it from the group, and add another by a new id.
    Replace,
}

/// The decision, by the table of the module's documentation.
#[must_use]
pub fn judge(found: Found) -> Verdict {
    if !found.hard_state_intact {
        return Verdict::Replace;
    }
    if !found.state_intact {
        return Verdict::Empty;
    }
    match found.log {
        LogFound::Intact => Verdict::Start,
        LogFound::Torn => Verdict::Cut,
        LogFound::Damaged { last, .. } if last <= found.applied => Verdict::Compact,
        LogFound::Damaged { first, .. } => Verdict::Repair(first.max(found.applied.next())),
    }
}

impl Restored {
    /// **Gives up a lost majority.** Makes `me` the only voter from here on, whatever the others had that it has not: entries
    /// that were acknowledged to users may be gone. The others must never come back into this group; add new replicas by new
    /// ids. For an operator who has seen that the others are lost, while this replica does not run. What this returns must be
    /// durable before the replica starts with it; [`Event::Forced`] tells of it then.
    ///
    /// # Panics
    /// When this replica has no state, so that there is nothing to go on from: it has no part in the group, or is a witness.
    #[must_use]
    pub fn force(mut self, me: ReplicaId) -> Self {
        let known = self.entries.iter().rev().find_map(|entry| match &entry.content {
            Content::Membership(membership) => Some(membership),
            Content::Empty | Content::Command(_) | Content::Header(_) => None,
        });
        let before = Arc::clone(known.unwrap_or(&self.snapshot.membership));
        assert!(
            before.contains(me) && !before.is_witness(me),
            "{me} has no state to go on from, in {before}"
        );
        self.forced = before.members().filter(|id| *id != me).collect();
        let last = self.entries.last().map_or(self.snapshot.last, Entry::mark);
        let chain = self
            .entries
            .last()
            .map_or(self.snapshot.chain, |entry| entry.chain);
        let term = self.hard_state.term.next();
        let mark = Mark {
            term,
            index: last.index.next(),
        };
        let alone = Membership::of_voters([me]);
        self.entries
            .push(Entry::new(chain, mark, Content::Membership(Arc::new(alone))));
        self.hard_state.term = term;
        self.hard_state.vote = Some(me);
        self.hard_state.repairing = None;
        self.damaged = None;
        self
    }
}

impl Raft {
    /// Entries from `first` on may have been acknowledged and are lost.
    pub(crate) fn begin_repair(&mut self, first: Index) {
        let hard = self.change_hard_state();
        if !planted_bug!("raft-repair-in-old-term") {
            hard.term = hard.term.next();
            hard.vote = None;
        }
        hard.repairing = Some(hard.term);
        let until = hard.term;
        self.event(Event::Damaged { first, until });
    }

    /// Votes again when it has an entry of the term in which it began to repair, or of a later one.
    pub(crate) fn end_repair(&mut self) {
        if let Some(until) = self.hard.repairing
            && let Some(persisted) = self.log.mark(self.log.persisted())
            && (persisted.term >= until || planted_bug!("raft-repair-ends-early"))
        {
            self.change_hard_state().repairing = None;
            self.event(Event::Repaired);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination meets exactly one row of the table.
    #[test]
    fn every_combination_meets_one_row() {
        type Row = (&'static str, fn(Found) -> bool, fn(Found) -> Verdict);
        let rows: [Row; 6] = [
            ("lost vote", |f| !f.hard_state_intact, |_| Verdict::Replace),
            (
                "nothing wrong",
                |f| f.hard_state_intact && f.state_intact && f.log == LogFound::Intact,
                |_| Verdict::Start,
            ),
            (
                "torn",
                |f| f.hard_state_intact && f.state_intact && f.log == LogFound::Torn,
                |_| Verdict::Cut,
            ),
            (
                "applied already",
                |f| {
                    let old = matches!(f.log, LogFound::Damaged { last, .. } if last <= f.applied);
                    f.hard_state_intact && f.state_intact && old
                },
                |_| Verdict::Compact,
            ),
            (
                "not applied",
                |f| {
                    let new = matches!(f.log, LogFound::Damaged { last, .. } if last > f.applied);
                    f.hard_state_intact && f.state_intact && new
                },
                |f| match f.log {
                    LogFound::Damaged { first, .. } if first > f.applied => Verdict::Repair(first),
                    _ => Verdict::Repair(f.applied.next()),
                },
            ),
            (
                "lost state",
                |f| f.hard_state_intact && !f.state_intact,
                |_| Verdict::Empty,
            ),
        ];
        let mut logs = vec![LogFound::Intact, LogFound::Torn];
        for first in 2..6 {
            for last in first..6 {
                let (first, last) = (Index(first), Index(last));
                logs.push(LogFound::Damaged { first, last });
            }
        }
        let mut met = [0; 6];
        for hard_state_intact in [false, true] {
            for state_intact in [false, true] {
                for &log in &logs {
                    for applied in (1..7).map(Index) {
                        let found = Found {
                            hard_state_intact,
                            log,
                            state_intact,
                            applied,
                        };
                        let fits: Vec<usize> = (0..rows.len()).filter(|at| rows[*at].1(found)).collect();
                        assert_eq!(fits.len(), 1, "{found:?} meets {fits:?}");
                        met[fits[0]] += 1;
                        let (name, _, verdict) = rows[fits[0]];
                        assert_eq!(judge(found), verdict(found), "{name}: {found:?}");
                    }
                }
            }
        }
        assert!(met.iter().all(|count| *count > 0), "a row is never met: {met:?}");
    }
}
