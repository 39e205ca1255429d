//! What a leader does.

use crate::event::Event;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Body, Content, Entry, Mark, Message};
use crate::progress::{Progress, Sending};
use crate::quorum::VoteResult;
use crate::raft::{Leadership, ProposeError, Raft, Role};
use crate::ready::Fetch;
use base::{Index, ReplicaId, planted_bug};
use std::collections::VecDeque;
use std::sync::Arc;

impl Raft {
    pub(crate) fn become_leader(&mut self) {
        let first = self.log.last().index.next();
        let leadership = Leadership {
            peers: Vec::new(),
            transfer: None,
            released: false,
            heartbeat_elapsed: 0,
            first,
            ticks: 0,
            round: 0,
            rounds: VecDeque::new(),
            confirmed: None,
            reads: VecDeque::new(),
        };
        self.role = Role::Leader(Box::new(leadership));
        self.elapsed = 0;
        self.event(Event::Leads {
            term: self.hard.term,
            first,
        });
        self.append(Content::Empty);
        self.follow_members();
        self.heartbeat();
    }

    pub(crate) fn leadership(&mut self) -> Option<(&mut Leadership, &mut Log)> {
        match &mut self.role {
            Role::Leader(leadership) => Some((leadership, &mut self.log)),
            Role::Follower { .. } | Role::Candidate { .. } => None,
        }
    }

    /// Keeps exactly the members under watch.
    fn follow_members(&mut self) {
        let me = self.id();
        let Some((leadership, log)) = self.leadership() else {
            return;
        };
        let membership = log.membership();
        let peers = &mut leadership.peers;
        peers.retain(|peer| membership.contains(peer.id));
        for id in membership.members().filter(|id| *id != me) {
            if let Err(at) = peers.binary_search_by_key(&id, |peer| peer.id) {
                peers.insert(at, Progress::new(id, log.last().index));
            }
        }
    }

    pub(crate) fn append(&mut self, content: Content) -> Mark {
        let mark = Mark {
            term: self.hard.term,
            index: self.log.last().index.next(),
        };
        self.log.push(Entry::new(self.log.last_chain(), mark, content));
        mark
    }

    pub(crate) fn append_members(&mut self, membership: Membership) -> Mark {
        let mark = self.append(Content::Membership(Arc::new(membership)));
        self.follow_members();
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

    /// Hands leadership to `to`: no proposal is taken until it leads or an election's time has passed. From the moment at which
    /// it is told to start, no lease holds in this term any more: if it does not lead in time, this replica asks for another term.
    ///
    /// # Errors
    /// [`ProposeError`] when this is not the leader, a transfer is under way, or `to` cannot lead.
    pub fn transfer_leadership(&mut self, to: ReplicaId) -> Result<(), ProposeError> {
        self.check_leads()?;
        let membership = self.log.membership();
        if !membership.is_voter(to) || membership.is_witness(to) {
            return Err(ProposeError::CannotLead(to));
        }
        if to != self.id()
            && let Some((leadership, _)) = self.leadership()
        {
            leadership.transfer = Some((to, 0));
            self.event(Event::Transfers { to });
            self.finish_transfer();
        }
        Ok(())
    }

    /// Whether this leader is handing over.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        matches!(&self.role, Role::Leader(leadership) if leadership.transfer.is_some())
    }

    /// The last entry that a member is known to have durably; `None` when this is not the leader or `id` is no other member.
    #[must_use]
    pub fn matched(&self, id: ReplicaId) -> Option<Index> {
        let Role::Leader(leadership) = &self.role else {
            return None;
        };
        let peer = leadership.peers.iter().find(|peer| peer.id == id)?;
        Some(peer.matched)
    }

    /// The state that `to` was to get did not arrive: it is asked again what it has, which may be as much as the log can bring on by now.
    /// Harmless when that is not so.
    pub fn snapshot_failed(&mut self, to: ReplicaId) {
        let start = self.log.start();
        if let Some((leadership, _)) = self.leadership()
            && let Some(peer) = leadership.peer(to)
            && let Sending::Snapshot(_) = peer.sending
        {
            peer.probe(peer.matched.max(start).next());
        }
    }

    /// A connection has ended on which messages went to those that `is_there`: what was under way may be lost, and goes again once they
    /// answer a heartbeat. Harmless when that is not so. Says whether anything was under way.
    pub fn connection_lost(&mut self, is_there: impl Fn(ReplicaId) -> bool) -> bool {
        let Some((leadership, _)) = self.leadership() else {
            return false;
        };
        let peers = leadership.peers.iter_mut().filter(|peer| is_there(peer.id));
        peers.fold(false, |any, peer| any | peer.lost())
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
        if leadership.peer(to).is_some_and(|peer| peer.matched == last) {
            leadership.released = !planted_bug!("raft-lease-outlives-transfer");
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
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        leadership.ticks += 1;
        let mut failed = false;
        if let Some((_, elapsed)) = &mut leadership.transfer {
            *elapsed += 1;
            failed = *elapsed >= election_ticks;
        }
        if failed {
            leadership.transfer = None;
            if leadership.released {
                // Whoever was told to start has not, or has not been elected. No lease holds in this term any more, so another one
                // has to begin: the others are bound to nobody who asks for their votes himself.
                self.become_follower(self.hard.term, None);
                self.campaign(true, false);
                return;
            }
        }
        leadership.heartbeat_elapsed += 1;
        let beats = leadership.heartbeat_elapsed >= heartbeat_ticks;
        if checks_quorum {
            let supports = &self.supports;
            let active = |id| {
                let answers = |peer: &Progress| peer.id == id && (peer.active || supports.holds(peer));
                Some(id == me || leadership.peers.iter().any(answers))
            };
            if self.log.membership().vote_result(active) != VoteResult::Won {
                let term = self.hard.term;
                self.event(Event::QuorumLost { term });
                self.become_follower(term, None);
                return;
            }
            for peer in &mut leadership.peers {
                peer.active = false;
            }
            self.abdicate();
        }
        if beats {
            self.heartbeat();
        }
    }

    /// Hands over to a follower that is preferred and has everything.
    fn abdicate(&mut self) {
        let (rank, last, committed) = (self.rank, self.log.last().index, self.log.committed());
        let membership = Arc::clone(self.log.membership());
        let Some((leadership, _)) = self.leadership() else {
            return;
        };
        let can_lead = |peer: &&Progress| {
            peer.rank < rank
                && peer.round > 0
                && peer.matched == last
                && membership.is_voter(peer.id)
                && !membership.is_witness(peer.id)
        };
        // Once in a term: one that does not take over must not hold up proposals again and again.
        if committed >= leadership.first
            && !leadership.released
            && leadership.transfer.is_none()
            && let Some(to) = leadership
                .peers
                .iter()
                .filter(can_lead)
                .min_by_key(|peer| peer.rank)
                .map(|peer| peer.id)
        {
            let _refused = self.transfer_leadership(to);
        }
    }

    /// Tells followers now what is committed, rather than with the next entries or after some ticks. Nothing when this is not the leader.
    pub fn tell_commit(&mut self) {
        self.heartbeat();
    }

    /// A round of heartbeats to whoever needs one.
    pub(crate) fn heartbeat(&mut self) {
        let (term, external) = (self.hard.term, self.is_external());
        let lease_ticks = if external {
            0
        } else {
            u64::from(self.config.lease_ticks)
        };
        let (committed, last) = (self.log.committed(), self.log.last().index);
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        leadership.heartbeat_elapsed = 0;
        leadership.round += 1;
        let round = leadership.round;
        let now = leadership.ticks;
        if lease_ticks > 0 && leadership.rounds.back().is_none_or(|(_, at)| *at != now) {
            leadership.rounds.push_back((round, now));
        }
        // By an answer to an older one no lease would hold any more.
        let is_over = |(_, at): &mut (u64, u64)| now - *at >= lease_ticks;
        while leadership.rounds.pop_front_if(is_over).is_some() {}
        let mut messages = Vec::new();
        for peer in &mut leadership.peers {
            let is_quiet = peer.matched == last && peer.knows == committed && self.supports.holds(peer);
            let idles =
                external && leadership.reads.is_empty() && (is_quiet || self.supports.is_down(peer.id));
            if !idles {
                let commit = peer.tell(committed, round);
                messages.push((
                    peer.id,
                    Message {
                        term,
                        body: Body::Heartbeat { commit, round },
                    },
                ));
            }
        }
        self.out().messages.append(&mut messages);
        self.confirm();
    }

    /// Sends to each follower what it lacks and its window allows.
    pub(crate) fn send_appends(&mut self) {
        let (me, term) = (self.id(), self.hard.term);
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        let (log, config) = (&self.log, &*self.config);
        let last = log.last().index;
        let waits = |peer: &Progress| {
            !peer.may_send(config) || (peer.sending == Sending::Replicate && peer.next > last)
        };
        if leadership.peers.iter().all(waits) {
            return;
        }
        // A witness never has a header whose command no full voter has: it would elect none of them then.
        let covered = if log.membership().witnesses().is_empty() {
            last
        } else {
            let full = |id: &&ReplicaId| !log.membership().is_witness(**id);
            let has = |id: &ReplicaId| {
                let peer = leadership.peers.iter().find(|peer| peer.id == *id);
                peer.map_or_else(
                    || if *id == me { log.persisted() } else { Index::ZERO },
                    |peer| peer.matched,
                )
            };
            let voters = log.membership().voters().iter();
            voters.filter(full).map(has).max().unwrap_or_default()
        };
        let mut outbox = self.outbox.take().unwrap_or_default();
        for peer in &mut leadership.peers {
            let headers = log.membership().is_witness(peer.id);
            let last = if headers { covered } else { last };
            while peer.may_send(config) {
                let probes = matches!(peer.sending, Sending::Probe { .. });
                if !probes && peer.next > last {
                    break;
                }
                let before = peer.next.prev().expect("entries are numbered from one");
                let Some(prev) = log.mark(before) else {
                    let snapshot = log.snapshot();
                    peer.sending = Sending::Snapshot(snapshot.last.index);
                    outbox.events.push(Event::SendsSnapshot {
                        peer: peer.id,
                        last: snapshot.last,
                    });
                    let body = Body::Snapshot(snapshot);
                    outbox.messages.push((peer.id, Message { term, body }));
                    break;
                };
                if !probes && log.is_on_disk_only(peer.next) {
                    peer.fetching = true;
                    outbox.fetches.push(Fetch {
                        peer: peer.id,
                        first: peer.next,
                        last: log.kept(),
                        bytes_max: config.append_bytes_max,
                    });
                    break;
                }
                let (entries, bytes) = if probes {
                    (Vec::new(), 0)
                } else {
                    let room = usize::try_from(last.since(before)).unwrap_or(usize::MAX);
                    log.from(
                        peer.next,
                        config.append_entries_max.min(room),
                        config.append_bytes_max,
                        headers,
                    )
                };
                peer.sent(entries.last().map_or(before, |entry| entry.index), bytes);
                let body = Body::Append {
                    prev,
                    entries,
                    commit: log.committed(),
                };
                outbox.messages.push((peer.id, Message { term, body }));
            }
        }
        self.outbox = Some(outbox);
    }

    /// Entries that were asked for, from the first on; as many as there are. Entries that nobody waits for are dropped.
    ///
    /// # Panics
    /// When they are not those of this log: then the disk lied, and nothing it says can be trusted.
    pub fn fetched(&mut self, fetch: Fetch, mut entries: Vec<Entry>) {
        let term = self.hard.term;
        let commit = self.log.committed();
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        let log = &self.log;
        let Some(peer) = leadership.peer(fetch.peer) else {
            return;
        };
        if !peer.fetching || peer.next != fetch.first {
            return;
        }
        let before = peer.next.prev().expect("entries are numbered from one");
        let Some(prev) = log.mark(before).filter(|_| !entries.is_empty()) else {
            self.fetch_failed(fetch);
            return;
        };
        let mut next = fetch.first;
        for entry in &entries {
            assert!(
                entry.index == next && log.mark(next) == Some(entry.mark()),
                "fetched {}@{} for {next}",
                entry.index,
                entry.term
            );
            next = next.next();
        }
        if log.membership().is_witness(peer.id) {
            entries = entries.iter().map(Entry::header).collect();
        }
        let bytes = entries.iter().map(Entry::bytes).sum();
        peer.fetching = false;
        peer.sent(next.prev().expect("there is an entry"), bytes);
        let body = Body::Append {
            prev,
            entries,
            commit,
        };
        let to = peer.id;
        self.out().messages.push((to, Message { term, body }));
    }

    /// What was asked for cannot be read. Compact the log up to what is applied, so that the follower gets the state instead;
    /// else the same is asked for again once the follower has answered the next heartbeat.
    pub fn fetch_failed(&mut self, fetch: Fetch) {
        if let Some((leadership, log)) = self.leadership()
            && let Some(peer) = leadership.peer(fetch.peer)
            && peer.fetching
            && peer.next == fetch.first
        {
            if log.is_on_disk_only(fetch.first) {
                peer.probe_later();
            } else {
                // Compacted meanwhile: the state is next.
                peer.probe(fetch.first);
            }
        }
    }

    pub(crate) fn peer(&mut self, id: ReplicaId) -> Option<(&mut Progress, &mut Log)> {
        let (leadership, log) = self.leadership()?;
        let peer = leadership.peer(id)?;
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
        if peer.refused(prev, next.min(prev).max(Index(1))) {
            let next = peer.next;
            self.event(Event::Probes { peer: from, next });
        }
    }

    /// Commits what a quorum has, if it is of this term.
    pub(crate) fn commit_by_quorum(&mut self) {
        let (me, term) = (self.id(), self.hard.term);
        let Some((leadership, log)) = self.leadership() else {
            return;
        };
        let persisted = if planted_bug!("raft-leader-counts-unwritten") {
            log.last().index
        } else {
            log.persisted()
        };
        let reached = |id| {
            if id == me {
                return persisted;
            }
            let peer = leadership.peers.iter().find(|peer| peer.id == id);
            peer.map_or(Index::ZERO, |peer| peer.matched)
        };
        let index = log.membership().committed(reached).unwrap_or_default();
        let current = |mark: Mark| mark.term == term || planted_bug!("raft-commit-old-term");
        if index > log.committed() && log.mark(index).is_some_and(current) {
            log.commit(index);
        }
    }

    /// What a committed change of the members still asks of the leader, whoever began it: to leave a joint configuration, and
    /// to step down when it cannot lead any more.
    pub(crate) fn complete_members(&mut self) {
        if !self.is_leader() || self.log.membership_index() > self.log.committed() {
            return;
        }
        let membership = self.log.membership();
        if membership.is_joint() && membership.leaves_by_itself() {
            let next = membership.leave_joint().expect("it is joint");
            self.append_members(next);
        } else if !membership.is_voter(self.id()) {
            self.leave();
        }
    }

    /// Steps down once a quorum of the others knows that this replica is no voter any more: else they could wait for it.
    fn leave(&mut self) {
        let (committed, changed) = (self.log.committed(), self.log.membership_index());
        let Role::Leader(leadership) = &self.role else {
            return;
        };
        let knows = |id| {
            let peer = leadership.peers.iter().find(|peer| peer.id == id);
            peer.map_or(Index::ZERO, |peer| peer.knows)
        };
        if self.log.membership().committed(knows) >= Some(changed) {
            self.become_follower(self.hard.term, None);
        } else if leadership
            .peers
            .iter()
            .any(|peer| peer.is_untold(committed) && !(self.is_external() && self.supports.is_down(peer.id)))
        {
            self.heartbeat();
        }
    }
}
