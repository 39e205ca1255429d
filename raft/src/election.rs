//! Votes.

use crate::event::{Event, Withheld};
use crate::message::{Body, Mark, Message};
use crate::quorum::VoteResult;
use crate::raft::{Raft, Role};
use base::{ReplicaId, Term, planted_bug};

impl Raft {
    /// A leader lives, or is this one: elections are not needed, and this replica promised that leader to elect no other.
    pub(crate) fn hears_a_leader(&self) -> bool {
        self.keeps_promise() || self.heard < self.config.election_ticks || self.is_leader()
    }

    /// Whether this replica must not elect a candidate of a later term: it is bound to another one's node, or has heard of
    /// another one too lately. A leader that it is bound to and that asks for a later term leads no more.
    pub(crate) fn is_kept_from(&mut self, candidate: ReplicaId) -> bool {
        if let Some((leader, _)) = self.promise.filter(|_| self.keeps_promise()) {
            if leader == candidate {
                self.end_promise(leader);
                return false;
            }
            self.send_now(leader, Body::Bound);
            return true;
        }
        self.hears_a_leader()
    }

    pub(crate) fn on_vote(&mut self, from: ReplicaId, term: Term, last: Mark, pre: bool, transfer: bool) {
        let given = !pre && self.hard.vote == Some(from);
        let free = if pre {
            term > self.hard.term
        } else {
            self.leader().is_none() && (given || self.hard.vote.is_none() || planted_bug!("raft-vote-twice"))
        };
        let kept = free && !given && !pre && !transfer && self.is_kept_from(from);
        let withheld = if !free && pre {
            Some(Withheld::TermBegun)
        } else if !free {
            Some(Withheld::VotedForOther)
        } else if kept {
            Some(Withheld::LeaderLives)
        } else if last < self.log.last() && !planted_bug!("raft-vote-for-shorter-log") {
            Some(Withheld::LogBehind)
        } else if self.hard.repairing.is_some() && !planted_bug!("raft-votes-while-repairing") {
            Some(Withheld::Repairing)
        } else {
            None
        };
        let granted = withheld.is_none();
        if let Some(why) = withheld {
            self.withhold(from, why);
        }
        if pre {
            // The answer carries the term asked about when it is yes, so that it is not taken for an old one.
            let term = if granted { term } else { self.hard.term };
            let body = Body::VoteReply { pre, granted };
            self.out().messages.push((from, Message { term, body }));
            return;
        }
        if granted {
            self.elapsed = 0;
            if self.hard.vote.is_none() || planted_bug!("raft-vote-twice") {
                self.change_hard_state().vote = Some(from);
                self.event(Event::Votes {
                    candidate: from,
                    term,
                });
            }
        }
        let body = Body::VoteReply { pre, granted };
        if planted_bug!("raft-vote-before-durable") {
            self.send_now(from, body);
        } else {
            self.send_durably(from, body);
        }
    }

    pub(crate) fn withhold(&mut self, candidate: ReplicaId, why: Withheld) {
        self.event(Event::VoteWithheld { candidate, why });
    }

    pub(crate) fn on_vote_reply(&mut self, from: ReplicaId, pre: bool, granted: bool) {
        let Role::Candidate { pre: asked, votes } = &mut self.role else {
            return;
        };
        if *asked != pre || !self.log.membership().is_voter(from) {
            return;
        }
        if votes.iter().all(|(voter, _)| *voter != from) {
            votes.push((from, granted));
        }
        self.count_votes();
    }

    pub(crate) fn campaign(&mut self, pre: bool, transfer: bool) {
        self.elapsed = 0;
        self.draw_timeout();
        let me = self.id();
        if !pre {
            let hard = self.change_hard_state();
            hard.term = hard.term.next();
            hard.vote = Some(me);
        }
        // A vote counts when it cannot be forgotten, its own too: else a group of one could have two leaders in a term.
        let votes = pre.then_some((me, true)).into_iter().collect();
        self.role = Role::Candidate { pre, votes };
        let term = if pre {
            self.hard.term.next()
        } else {
            self.hard.term
        };
        self.event(Event::Campaigns { term, pre });
        let body = Body::Vote {
            last: self.log.last(),
            pre,
            transfer,
        };
        let message = Message { term, body };
        let membership = std::sync::Arc::clone(self.log.membership());
        let voters = membership
            .members()
            .filter(|id| *id != me && membership.is_voter(*id));
        let out = &mut self.out().messages_after_persist;
        out.extend(voters.map(|to| (to, message.clone())));
        self.count_votes();
    }

    pub(crate) fn count_votes(&mut self) {
        let Role::Candidate { pre, votes } = &self.role else {
            return;
        };
        let vote = |id| {
            votes
                .iter()
                .find(|(voter, _)| *voter == id)
                .map(|(_, vote)| *vote)
        };
        let (pre, result) = (*pre, self.log.membership().vote_result(vote));
        match result {
            VoteResult::Pending => {}
            VoteResult::Lost => self.become_follower(self.hard.term, None),
            VoteResult::Won if pre => self.campaign(false, false),
            VoteResult::Won => self.become_leader(),
        }
    }
}
