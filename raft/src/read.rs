//! Linearizable reads without a write, and the leader's lease.
//!
//! A read may be served when everything is applied that was committed when it was asked for. The leader knows what was
//! committed, if it still leads: either a quorum answers a round of heartbeats that was sent after the read came, or the
//! leader holds a lease, within which nobody else can have been elected.
//!
//! **Lease by ticks.** Whoever answers a heartbeat elects nobody else for `election_ticks` of its ticks. So from the sending of
//! a round that a quorum answered the leader is alone for `lease_ticks` of its own, if clocks differ by less than the rest.
//! **Lease by support.** Whoever answers with an epoch elects nobody else as long as its node supports the leader's node at that
//! epoch. So the leader is alone until the support of a quorum expires.
//! Both end when the leader tells somebody to take over: that election asks for no promise.
//!
//! Source: Ongaro (2014), section 6.4; a round confirms all reads that came before it was sent.

use crate::event::Event;
use crate::membership::Membership;
use crate::message::{Body, Epoch, ReadToken};
use crate::raft::{Raft, Role};
use crate::ready::Read;
use base::{Index, ReplicaId, planted_bug};

/// A read that waits for a round of heartbeats.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct PendingRead {
    token: ReadToken,
    /// Whose it is; `None` for the leader's own.
    from: Option<ReplicaId>,
    /// The round that confirms it.
    round: u64,
    index: Index,
}

/// Why a read was not taken. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody is known who could confirm it: ask again when there is a leader.
    #[error("no leader is known that could confirm the read")]
    NoLeader,
    /// Too many reads wait: ask again when some are served.
    #[error("{0} reads wait to be confirmed, which is the limit")]
    Full(usize),
}

impl Raft {
    /// Asks for a read: it comes out of a [`Ready`](crate::Ready) with the index up to which everything must be applied before it is
    /// served. At a follower the leader is asked, and question and answer may be lost; at a leader the read is dropped when it
    /// stops to lead. So ask again after a while, by the same name or another.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_index(&mut self, token: ReadToken) -> Result<(), ReadError> {
        let reads_max = self.config.reads_max;
        match &self.role {
            Role::Leader(leadership) => {
                if leadership.reads.len() >= reads_max {
                    return Err(ReadError::Full(reads_max));
                }
                self.begin_read(token, None);
                Ok(())
            }
            Role::Follower {
                leader: Some(leader), ..
            } => {
                let leader = *leader;
                self.send_now(leader, Body::Read { token });
                Ok(())
            }
            Role::Follower { leader: None } | Role::Candidate { .. } => Err(ReadError::NoLeader),
        }
    }

    /// A follower's. When too many wait it is dropped: the follower asks again.
    pub(crate) fn on_read(&mut self, from: ReplicaId, token: ReadToken) {
        let reads_max = self.config.reads_max;
        if let Some((leadership, _)) = self.leadership()
            && leadership.reads.len() < reads_max
            && leadership.peer(from).is_some()
        {
            self.begin_read(token, Some(from));
        }
    }

    pub(crate) fn on_read_reply(&mut self, token: ReadToken, index: Index) {
        self.out().reads.push(Read { token, index });
    }

    fn begin_read(&mut self, token: ReadToken, from: Option<ReplicaId>) {
        let leased = self.has_lease();
        let committed = self.log.committed();
        let Some((leadership, _)) = self.leadership() else {
            return;
        };
        // Until the leader has committed an entry of its own term it does not know of all that is committed; but all of it is
        // before that entry.
        let index = if planted_bug!("raft-read-without-own-entry") {
            committed
        } else {
            committed.max(leadership.first)
        };
        if leased || planted_bug!("raft-read-unconfirmed") {
            self.serve(token, from, index);
        } else {
            leadership.reads.push_back(PendingRead {
                token,
                from,
                round: leadership.round + u64::from(!planted_bug!("raft-read-by-earlier-round")),
                index,
            });
        }
    }

    fn serve(&mut self, token: ReadToken, from: Option<ReplicaId>, index: Index) {
        match from {
            None => self.out().reads.push(Read { token, index }),
            Some(to) => self.send_now(to, Body::ReadReply { token, index }),
        }
    }

    /// One round for all reads that came since the last one.
    pub(crate) fn send_reads(&mut self) {
        if let Role::Leader(leadership) = &self.role
            && leadership
                .reads
                .back()
                .is_some_and(|read| read.round > leadership.round)
        {
            self.heartbeat();
        }
    }

    pub(crate) fn on_heartbeat_reply(
        &mut self,
        from: ReplicaId,
        round: u64,
        rank: u8,
        support: Option<Epoch>,
    ) {
        let resend_answers = self.config.resend_answers;
        let Some((peer, log)) = self.peer(from) else {
            return;
        };
        peer.answered(round);
        peer.rank = rank;
        peer.lives(log.last().index, resend_answers);
        // Epochs grow: an answer that was under way for long must not bring back an earlier one.
        if let Some(epoch) = support.filter(|epoch| peer.fortified.is_none_or(|known| known < *epoch)) {
            peer.fortified = Some(epoch);
            self.event(Event::Fortified { peer: from, epoch });
        }
        self.confirm();
    }

    /// Serves the reads, and starts the lease, that a quorum has confirmed.
    pub(crate) fn confirm(&mut self) {
        let me = self.id();
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        let answered = |id| {
            if id == me {
                return leadership.round;
            }
            let peer = leadership.peers.iter().find(|peer| peer.id == id);
            peer.map_or(0, |peer| peer.round)
        };
        let confirmed = self.log.membership().reached(answered).unwrap_or_default();
        while let Some(&(_, tick)) = leadership.rounds.front().filter(|(round, _)| *round <= confirmed) {
            leadership.confirmed = Some(if planted_bug!("raft-lease-from-answer") {
                leadership.ticks
            } else {
                tick
            });
            leadership.rounds.pop_front();
        }
        while let Role::Leader(leadership) = &mut self.role
            && let Some(read) = leadership.reads.pop_front_if(|read| read.round <= confirmed)
        {
            self.serve(read.token, read.from, read.index);
        }
    }

    /// Whether nobody else can have been elected, by ticks: see [`read`](crate::read). Everything that was committed is
    /// applied here when [`commit_index`](Self::commit_index) is, and an entry of this term is committed.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        match &self.role {
            Role::Leader(leadership) => {
                let lasts = |sent: u64| leadership.ticks - sent < u64::from(self.config.lease_ticks);
                !self.is_external()
                    && !leadership.released
                    && self.log.may_lead(self.id())
                    && leadership.confirmed.is_some_and(lasts)
            }
            Role::Follower { .. } | Role::Candidate { .. } => false,
        }
    }

    /// Until when nobody else can be elected, by support: the latest time up to which a quorum supports this leader. `expiry`
    /// says for a replica until when its node supports this node at that epoch, if it still does; in the caller's unit of
    /// time. For a replica that is alone it is the end of time. `None` when there is no such time, and in [`Liveness::Ticks`].
    ///
    /// [`Liveness::Ticks`]: crate::Liveness::Ticks
    #[must_use]
    pub fn lease_until(&self, expiry: impl Fn(ReplicaId, Epoch) -> Option<u64>) -> Option<u64> {
        let Role::Leader(leadership) = &self.role else {
            return None;
        };
        if !self.is_external() || leadership.released || !self.log.may_lead(self.id()) {
            return None;
        }
        let fortified = |id| leadership.peers.iter().find(|peer| peer.id == id)?.fortified;
        lease_of(self.log.membership(), self.id(), fortified, expiry)
    }
}

/// Until when a quorum supports the leader `me`, to whom members are bound as `fortified` says.
pub(crate) fn lease_of(
    membership: &Membership,
    me: ReplicaId,
    fortified: impl Fn(ReplicaId) -> Option<Epoch>,
    expiry: impl Fn(ReplicaId, Epoch) -> Option<u64>,
) -> Option<u64> {
    let until = |id| {
        if id == me {
            return u64::MAX;
        }
        fortified(id).and_then(|epoch| expiry(id, epoch)).unwrap_or(0)
    };
    membership.reached(until).filter(|until| *until > 0)
}
