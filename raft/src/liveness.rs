//! Liveness from outside: one failure detector between two nodes serves all groups that they share.
//!
//! The detector's contract, for nodes A and B:
//! - A *supports* B at an epoch until an expiry, and extends it as long as B answers. The promise is kept whatever happens: A
//!   withdraws support only after the expiry has passed by A's clock, and an epoch that was withdrawn never comes back.
//! - B knows of an epoch's expiry at most what A promised.
//! - Support that A gave before A stopped has expired before A takes part in anything again, and is not renewed.
//!
//! A replica that answers its leader names the epoch at which its node supports the leader's, and then elects nobody else until
//! its caller says that this support is withdrawn. So the leader's lease holds until the support of a quorum expires
//! ([`lease_until`](crate::Raft::lease_until)), no heartbeats are needed, and an idle group needs no tick. A leader that stops
//! leading while its node lives on says so when a bound follower asks; who answers for a replica that is gone must say so too,
//! by withdrawing [`Support::given`].
//!
//! Source: the idea is that of leases on the liveness of nodes rather than of ranges, as in CockroachDB's leader leases (2024).

use crate::message::{Body, Epoch};
use crate::progress::{Progress, Sending};
use crate::quorum::VoteResult;
use crate::raft::{Raft, Role};
use base::prefetch::prefetch;
use base::{ReplicaId, planted_bug};

/// What is known between this replica's node and another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Support {
    /// The epoch at which this node supports the other.
    pub given: Option<Epoch>,
    /// The epoch at which the other supports this node. `None`: the other is thought to be down.
    pub received: Option<Epoch>,
}

/// What is known of one node, small: there may be many idle groups. Zero is no epoch.
#[derive(Debug, Clone, Copy, Hash)]
struct Known {
    id: ReplicaId,
    given: u64,
    received: u64,
}

/// Of the nodes of other members.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Supports(Vec<Known>);

impl Supports {
    fn of(&self, id: ReplicaId) -> Support {
        let epoch = |number: u64| Some(Epoch(number)).filter(|_| number > 0);
        let known = self.0.iter().find(|known| known.id == id);
        known.map_or(Support::default(), |known| Support {
            given: epoch(known.given),
            received: epoch(known.received),
        })
    }

    fn set(&mut self, id: ReplicaId, support: Support) {
        let number = |epoch: Option<Epoch>| epoch.map_or(0, |epoch| epoch.0);
        self.0.retain(|known| known.id != id);
        if support != Support::default() {
            self.0.push(Known {
                id,
                given: number(support.given),
                received: number(support.received),
            });
        }
    }

    #[inline]
    pub(crate) fn prefetch(&self) {
        self.0.first().into_iter().chain(self.0.last()).for_each(prefetch);
    }

    pub(crate) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Whether the follower is bound to this leader until its node's support ends.
    pub(crate) fn holds(&self, peer: &Progress) -> bool {
        peer.fortified.is_some() && peer.fortified == self.of(peer.id).received
    }

    pub(crate) fn is_down(&self, id: ReplicaId) -> bool {
        self.of(id).received.is_none()
    }
}

impl Raft {
    /// What is known of the liveness of another member's node has changed. Say so to each replica once it starts, and whenever
    /// an epoch begins or ends; not when an expiry is extended. Without effect in [`Liveness::Ticks`](crate::Liveness::Ticks).
    pub fn liveness(&mut self, other: ReplicaId, support: Support) {
        if !self.is_external() {
            return;
        }
        self.supports.set(other, support);
        if self.promise.is_some_and(|(leader, _)| leader == other) && !self.keeps_promise() {
            self.end_promise(other);
        }
        if let Role::Leader(leadership) = &mut self.role
            && support.received.is_some()
        {
            if let Some(peer) = leadership.peer(other)
                && peer.fortified != support.received
            {
                let matched = peer.matched.next();
                if !matches!(peer.sending, Sending::Snapshot(_)) {
                    peer.probe(matched);
                }
            }
            self.heartbeat();
        }
    }

    /// The replicas whose nodes' liveness is known to be something.
    pub fn told_of(&self) -> impl Iterator<Item = ReplicaId> {
        self.supports.0.iter().map(|known| known.id)
    }

    /// Whom this replica is bound to by its node's support, and at which epoch.
    #[must_use]
    pub fn bound(&self) -> Option<(ReplicaId, Epoch)> {
        self.promise
    }

    /// Binds a replica that goes on, in the same life of its node, where another start of it ended: as [`bound`](Self::bound) said of
    /// that one. Say what is known of the liveness of the others' nodes before the next input.
    pub fn bind(&mut self, bound: Option<(ReplicaId, Epoch)>) {
        self.promise = bound.filter(|_| self.is_external());
    }

    pub(crate) fn end_promise(&mut self, leader: ReplicaId) {
        self.promise = None;
        self.heard = self.config.election_ticks;
        if self.leader() == Some(leader) {
            self.become_follower(self.term(), None);
        }
    }

    /// Whether this replica is bound to a leader by its node's support. Nothing binds to one that the group has removed: it
    /// knew before anybody else.
    pub(crate) fn keeps_promise(&self) -> bool {
        !planted_bug!("raft-support-promises-nothing")
            && self.promise.is_some_and(|(leader, epoch)| {
                self.supports.of(leader).given == Some(epoch) && self.log.may_lead(leader)
            })
    }

    /// A follower is bound to this replica. Whoever follows in a term cannot lead in it any more; a candidate could.
    pub(crate) fn on_bound(&mut self, from: ReplicaId) {
        let leads_never = matches!(
            self.role,
            Role::Follower { .. } | Role::Candidate { pre: true, .. }
        );
        if leads_never || planted_bug!("raft-leader-releases") {
            self.send_now(from, Body::Released);
        }
    }

    /// Whoever cannot lead does not ask for votes, by which others would see that it leads no more: it says so.
    pub(crate) fn release_all(&mut self) {
        if self.leader().is_none() {
            // Not only to the members that it knows: it may have lost all it had.
            let others: Vec<_> = self.supports.0.iter().map(|known| known.id).collect();
            for id in others {
                self.send_now(id, Body::Released);
            }
        }
    }

    pub(crate) fn on_released(&mut self, from: ReplicaId) {
        if self.promise.is_some_and(|(leader, _)| leader == from) {
            self.end_promise(from);
        }
    }

    /// Asks whom it is bound to whether that one leads, when nobody is known to.
    pub(crate) fn tick_bound(&mut self) {
        if self.elapsed >= self.config.heartbeat_ticks {
            self.elapsed = 0;
            if let (Some((leader, _)), None) = (self.promise, self.leader()) {
                self.send_now(leader, Body::Bound);
            }
        }
    }

    /// Binds this replica to the leader that it follows, if its node supports the leader's.
    pub(crate) fn promise_to(&mut self, leader: ReplicaId) -> Option<Epoch> {
        let epoch = self.supports.of(leader).given.filter(|_| self.is_external())?;
        self.promise = Some((leader, epoch));
        Some(epoch)
    }

    /// Whether [`tick`](Self::tick) has anything to do: always in [`Liveness::Ticks`](crate::Liveness::Ticks); else while there
    /// is an election to hold, a follower to win or to bring up to date, or a read or transfer under way. A group that needs
    /// none, at any of its replicas, sends nothing.
    #[must_use]
    pub fn needs_tick(&self) -> bool {
        if !self.is_external() {
            return true;
        }
        let Role::Leader(leadership) = &self.role else {
            return !self.keeps_promise() || self.leader().is_none();
        };
        let last = self.log.last().index;
        let is_behind = |peer: &Progress| {
            let follows = self.supports.holds(peer) && peer.matched == last && peer.knows == last;
            !self.supports.is_down(peer.id) && !follows
        };
        let bound = |id| {
            let holds = |peer: &Progress| peer.id == id && self.supports.holds(peer);
            Some(id == self.id() || leadership.peers.iter().any(holds))
        };
        leadership.transfer.is_some()
            || !leadership.reads.is_empty()
            || self.log.committed() < last
            || leadership.peers.iter().any(is_behind)
            || self.log.membership().vote_result(bound) != VoteResult::Won
    }

    /// Whether ticks may be few and far between: a leader whose followers all answer, and of whom nobody waits for anything but to
    /// learn what is committed. Ticks that come late then only delay that.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let Role::Leader(leadership) = &self.role else {
            return false;
        };
        let last = self.log.last().index;
        let answers = |peer: &Progress| {
            self.supports.is_down(peer.id)
                || self.supports.holds(peer) && (peer.matched == last || peer.acknowledged)
        };
        let bound = |id| {
            let holds = |peer: &Progress| peer.id == id && self.supports.holds(peer);
            Some(id == self.id() || leadership.peers.iter().any(holds))
        };
        self.is_external()
            && leadership.transfer.is_none()
            && leadership.reads.is_empty()
            && self.log.committed() == last
            && leadership.peers.iter().all(answers)
            && self.log.membership().vote_result(bound) == VoteResult::Won
    }
}
