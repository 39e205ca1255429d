//! What a message does, and what a follower does with it.

use crate::event::{Event, Withheld};
use crate::message::{Body, Entry, Mark, Message, Snapshot};
use crate::raft::{Malformed, Raft, Role};
use base::{Index, ReplicaId, Term, planted_bug};

impl Raft {
    /// Takes a message from another replica of the group.
    ///
    /// # Errors
    /// [`Malformed`]. A message that is old, or that nothing was waiting for, is not.
    pub fn step(&mut self, from: ReplicaId, message: Message) -> Result<(), Malformed> {
        if let Some(what) = self.fault_of(&message) {
            return Err(Malformed { from, what });
        }
        let Message { term, body } = message;
        let taken = match body {
            Body::Append { .. } => planted_bug!("raft-old-term-accepted") && !self.is_leader(),
            Body::Appended { .. } => planted_bug!("raft-old-acknowledgement-counts"),
            _ => false,
        };
        if term < self.hard.term && taken {
            self.step_in_term(from, term, body);
        } else if term < self.hard.term {
            self.answer_old(from, &body);
        } else if term == self.hard.term || self.enter_term(from, term, &body) {
            self.step_in_term(from, term, body);
        }
        Ok(())
    }

    /// A leader or candidate of an old term: let it know.
    fn answer_old(&mut self, from: ReplicaId, body: &Body) {
        match body {
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                let body = Body::HeartbeatReply {
                    round: 0,
                    rank: self.rank,
                    support: None,
                };
                self.send_durably(from, body);
            }
            Body::Vote { pre, .. } => {
                let pre = *pre;
                self.send_durably(from, Body::VoteReply { pre, granted: false });
            }
            Body::VoteReply { .. }
            | Body::Appended { .. }
            | Body::Refused { .. }
            | Body::HeartbeatReply { .. }
            | Body::Read { .. }
            | Body::ReadReply { .. }
            | Body::Campaign
            | Body::Released => {}
            // It may have bound itself to this one in this term since it asked.
            Body::Bound => self.on_bound(from),
        }
    }

    /// A message of a later term. Says whether to go on with it.
    fn enter_term(&mut self, from: ReplicaId, term: Term, body: &Body) -> bool {
        match body {
            Body::Vote { transfer, .. } if !transfer && self.is_kept_from(from) => {
                self.withhold(from, Withheld::LeaderLives);
                return false;
            }
            // Nobody has begun that term yet.
            Body::Vote { pre: true, .. }
            | Body::VoteReply {
                pre: true,
                granted: true,
            } => {}
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                self.become_follower(term, Some(from));
            }
            Body::Vote { pre: false, .. }
            | Body::VoteReply { .. }
            | Body::Appended { .. }
            | Body::Refused { .. }
            | Body::HeartbeatReply { .. }
            | Body::Read { .. }
            | Body::ReadReply { .. }
            | Body::Campaign
            | Body::Bound
            | Body::Released => self.become_follower(term, None),
        }
        true
    }

    fn step_in_term(&mut self, from: ReplicaId, term: Term, body: Body) {
        match body {
            Body::Vote { last, pre, transfer } => self.on_vote(from, term, last, pre, transfer),
            Body::VoteReply { pre, granted } => self.on_vote_reply(from, pre, granted),
            Body::Append {
                prev,
                entries,
                commit,
            } => {
                self.hear_leader(from);
                self.on_append(from, prev, entries, commit);
            }
            Body::Heartbeat { commit, round } => {
                self.hear_leader(from);
                self.log.commit(commit);
                let (rank, support) = (self.rank, self.promise_to(from));
                self.send_now(from, Body::HeartbeatReply { round, rank, support });
            }
            Body::Snapshot(snapshot) => {
                self.hear_leader(from);
                self.on_snapshot(from, snapshot);
            }
            Body::Appended { matched } => self.on_appended(from, matched),
            Body::Refused { prev, conflict, last } => self.on_refused(from, prev, conflict, last),
            Body::HeartbeatReply { round, rank, support } => {
                self.on_heartbeat_reply(from, round, rank, support);
            }
            Body::Read { token } => self.on_read(from, token),
            Body::ReadReply { token, index } => self.on_read_reply(token, index),
            Body::Campaign => self.on_campaign(),
            Body::Bound => self.on_bound(from),
            Body::Released => self.on_released(from),
        }
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        if term > self.hard.term {
            if planted_bug!("raft-term-ends-promise") {
                self.heard = self.config.election_ticks;
            }
            let hard = self.change_hard_state();
            hard.term = term;
            hard.vote = None;
        }
        self.role = Role::Follower { leader };
        self.elapsed = 0;
        self.draw_timeout();
        self.event(Event::Follows { term, leader });
    }

    /// A leader of this term sent something.
    fn hear_leader(&mut self, leader: ReplicaId) {
        assert!(
            !self.is_leader(),
            "{leader} and {} lead in {}",
            self.id(),
            self.term()
        );
        if self.leader() != Some(leader) {
            self.become_follower(self.term(), Some(leader));
        }
        self.elapsed = 0;
        self.heard = 0;
    }

    fn on_append(&mut self, from: ReplicaId, prev: Mark, entries: Vec<Entry>, commit: Index) {
        let committed = self.log.committed();
        if prev.index < committed {
            // Old: all of what is committed is the leader's too. What follows comes again, from there.
            if self.log.persisted() >= committed {
                self.send_now(from, Body::Appended { matched: committed });
            } else {
                self.send_durably(from, Body::Appended { matched: committed });
            }
            return;
        }
        match self.log.mark(prev.index) {
            Some(known) if known.term == prev.term => {}
            other => {
                let conflict = other.map(|known| self.log.first_of_term(known));
                let last = self.log.last().index;
                let prev = prev.index;
                self.send_now(from, Body::Refused { prev, conflict, last });
                return;
            }
        }
        let matched = entries.last().map_or(prev.index, |entry| entry.index);
        if let Some(first) = self.log.merge(entries) {
            self.event(Event::Cut { first });
        }
        if planted_bug!("raft-commit-beyond-match") {
            self.log.commit(commit);
        } else {
            self.log.commit(commit.min(matched));
        }
        if planted_bug!("raft-ack-before-durable") {
            self.send_now(from, Body::Appended { matched });
        } else {
            self.send_durably(from, Body::Appended { matched });
        }
    }

    fn on_snapshot(&mut self, from: ReplicaId, snapshot: Snapshot) {
        let last = snapshot.last;
        if last.index > self.log.committed() {
            if self.log.mark(last.index).is_some_and(|known| known == last) {
                // Nothing is missing but the news that it is committed.
                self.log.commit(last.index);
            } else {
                self.log.reset(snapshot.clone());
                self.out().snapshot = Some(snapshot);
            }
        }
        let matched = self.log.committed();
        if planted_bug!("raft-snapshot-ack-before-durable") {
            self.send_now(from, Body::Appended { matched });
        } else {
            self.send_durably(from, Body::Appended { matched });
        }
    }
}
