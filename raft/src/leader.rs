//! What a leader does.

use crate::log::Log;
use crate::message::{Body, Content, Entry, Mark, Message};
use crate::progress::{Progress, Sending};
use crate::quorum::VoteResult;
use crate::raft::{Leadership, ProposeError, Raft, Role};
use base::{Index, ReplicaId};
use std::collections::BTreeMap;

impl Raft {
    pub(crate) fn become_leader(&mut self) {
        let next = self.log.last().index.next();
        let leadership = Leadership {
            peers: BTreeMap::new(),
            transfer: None,
            heartbeat_elapsed: 0,
            first: next,
        };
        self.role = Role::Leader(leadership);
        self.elapsed = 0;
        self.append(Content::Empty);
        self.follow_members();
        self.heartbeat();
    }

    fn leadership(&mut self) -> Option<(&mut Leadership, &mut Log)> {
        match &mut self.role {
            Role::Leader(leadership) => Some((leadership, &mut self.log)),
            Role::Follower { .. } | Role::Candidate { .. } => None,
        }
    }

    /// Keeps exactly the members under watch.
    pub(crate) fn follow_members(&mut self) {
        let me = self.id();
        let Some((leadership, log)) = self.leadership() else {
            return;
        };
        let membership = log.membership();
        leadership.peers.retain(|id, _| membership.contains(*id));
        for id in membership.members().filter(|id| *id != me) {
            leadership
                .peers
                .entry(id)
                .or_insert_with(|| Progress::new(log.last().index));
        }
    }

    pub(crate) fn append(&mut self, content: Content) -> Mark {
        let entry = Entry {
            term: self.term,
            index: self.log.last().index.next(),
            content,
        };
        let mark = entry.mark();
        self.log.push(entry);
        mark
    }

    pub(crate) fn check_leads(&self) -> Result<&Leadership, ProposeError> {
        match &self.role {
            Role::Leader(leadership) => match leadership.transfer {
                Some((to, _)) => Err(ProposeError::Transferring(to)),
                None => Ok(leadership),
            },
            Role::Follower { .. } | Role::Candidate { .. } => Err(ProposeError::NotLeader(self.leader())),
        }
    }

    /// Hands leadership to `to`: no proposal is taken until it leads or an election's time has passed.
    ///
    /// # Errors
    /// [`ProposeError`] when this is not the leader, a transfer is under way, or `to` does not vote.
    pub fn transfer_leadership(&mut self, to: ReplicaId) -> Result<(), ProposeError> {
        self.check_leads()?;
        if !self.log.membership().is_voter(to) {
            return Err(ProposeError::NotVoter(to));
        }
        if to != self.id()
            && let Some((leadership, _)) = self.leadership()
        {
            leadership.transfer = Some((to, 0));
            self.finish_transfer();
        }
        Ok(())
    }

    /// The state that `to` was to get did not arrive: it is asked again what it has. Harmless when that is not so.
    pub fn snapshot_failed(&mut self, to: ReplicaId) {
        if let Some((leadership, _)) = self.leadership()
            && let Some(peer) = leadership.peers.get_mut(&to)
            && let Sending::Snapshot(_) = peer.sending
        {
            peer.probe(peer.matched.next());
        }
    }

    /// Lets the next leader begin when it has everything.
    fn finish_transfer(&mut self) {
        let last = self.log.last().index;
        let Some((leadership, _)) = self.leadership() else {
            return;
        };
        let Some((to, _)) = leadership.transfer else {
            return;
        };
        if leadership.peers.get(&to).is_some_and(|peer| peer.matched == last) {
            self.send_now(to, Body::Campaign);
        }
    }

    pub(crate) fn tick_leader(&mut self) {
        let (me, election_ticks, heartbeat_ticks) =
            (self.id(), self.config.election_ticks, self.config.heartbeat_ticks);
        let checks_quorum = self.elapsed >= election_ticks;
        if checks_quorum {
            self.elapsed = 0;
        }
        let Some((leadership, log)) = self.leadership() else {
            return;
        };
        if let Some((_, elapsed)) = &mut leadership.transfer {
            *elapsed += 1;
            if *elapsed >= election_ticks {
                leadership.transfer = None;
            }
        }
        leadership.heartbeat_elapsed += 1;
        let beats = leadership.heartbeat_elapsed >= heartbeat_ticks;
        if checks_quorum {
            let active = |id| Some(id == me || leadership.peers.get(&id).is_some_and(|peer| peer.active));
            if log.membership().vote_result(active) != VoteResult::Won {
                self.become_follower(self.term, None);
                return;
            }
            for peer in leadership.peers.values_mut() {
                peer.active = false;
            }
        }
        if beats {
            self.heartbeat();
        }
    }

    fn heartbeat(&mut self) {
        let term = self.term;
        let committed = self.log.committed();
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        leadership.heartbeat_elapsed = 0;
        for (&to, peer) in &mut leadership.peers {
            let commit = committed.min(peer.matched);
            let body = Body::Heartbeat { commit };
            self.messages.push((to, Message { term, body }));
        }
    }

    /// Sends to each follower what it lacks and its window allows.
    pub(crate) fn send_appends(&mut self) {
        let (term, config) = (self.term, &self.config);
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        let log = &self.log;
        let last = log.last().index;
        for (&to, peer) in &mut leadership.peers {
            while peer.may_send(config.in_flight_max) {
                let probes = matches!(peer.sending, Sending::Probe { .. });
                if !probes && peer.next > last {
                    break;
                }
                let before = peer.next.prev().expect("entries are numbered from one");
                let body = if let Some(prev) = log.mark(before) {
                    let entries = if probes {
                        Vec::new()
                    } else {
                        log.from(peer.next, config.append_entries_max, config.append_bytes_max)
                    };
                    peer.sent(entries.last().map_or(before, |entry| entry.index));
                    let commit = log.committed();
                    Body::Append {
                        prev,
                        entries,
                        commit,
                    }
                } else {
                    let snapshot = log.snapshot();
                    peer.sending = Sending::Snapshot(snapshot.last.index);
                    Body::Snapshot(snapshot)
                };
                self.messages.push((to, Message { term, body }));
            }
        }
    }

    fn peer(&mut self, id: ReplicaId) -> Option<(&mut Progress, &mut Log)> {
        let (leadership, log) = self.leadership()?;
        let peer = leadership.peers.get_mut(&id)?;
        peer.active = true;
        Some((peer, log))
    }

    pub(crate) fn on_appended(&mut self, from: ReplicaId, matched: Index) {
        let Some((peer, _)) = self.peer(from) else {
            return;
        };
        if peer.appended(matched) {
            self.commit_by_quorum();
            self.finish_transfer();
        }
    }

    pub(crate) fn on_refused(&mut self, from: ReplicaId, prev: Index, conflict: Option<Mark>, last: Index) {
        let Some((peer, log)) = self.peer(from) else {
            return;
        };
        let next = match conflict {
            // From the end of what may be common: entries of no later term, before the follower's first of its term.
            Some(conflict) => {
                let before = Mark {
                    term: conflict.term,
                    index: prev.prev().unwrap_or_default(),
                };
                let common = log.last_not_after(before);
                match log.mark(common) {
                    Some(mark) if mark.term == conflict.term => common.next(),
                    _ => conflict.index.min(common.next()),
                }
            }
            None => last.next(),
        };
        peer.refused(prev, next.min(prev).max(Index(1)));
    }

    pub(crate) fn on_heartbeat_reply(&mut self, from: ReplicaId) {
        let Some((peer, log)) = self.peer(from) else {
            return;
        };
        peer.lives(log.last().index);
    }

    /// Commits what a quorum has, if it is of this term.
    pub(crate) fn commit_by_quorum(&mut self) {
        let (me, term) = (self.id(), self.term);
        let Some((leadership, log)) = self.leadership() else {
            return;
        };
        let persisted = log.persisted();
        let reached = |id| {
            if id == me {
                persisted
            } else {
                leadership.peers.get(&id).map_or(Index::ZERO, |peer| peer.matched)
            }
        };
        let index = log.membership().committed(reached).unwrap_or_default();
        if index > log.committed() && log.mark(index).is_some_and(|mark| mark.term == term) {
            log.commit(index);
        }
    }

    /// What a committed change of the members still asks of the leader, whoever began it: to leave a joint configuration, and
    /// to step down when it is no voter any more.
    pub(crate) fn complete_members(&mut self) {
        if !self.is_leader() || self.log.membership_index() > self.log.committed() {
            return;
        }
        let membership = self.log.membership();
        if membership.is_joint() && membership.leaves_by_itself() {
            let next = membership.leave_joint().expect("it is joint");
            self.append(Content::Membership(next));
            self.follow_members();
        } else if !membership.is_voter(self.id()) {
            // So that the others know that it is committed.
            self.heartbeat();
            self.become_follower(self.term, None);
        }
    }
}
