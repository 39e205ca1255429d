//! An idle replica in little memory: the same replica, without room for what it does when it is not idle.
//!
//! A caller with very many groups keeps those that are idle as [`Hibernated`], and wakes one when it has an input for it: a
//! message, a proposal, a change of liveness. Nothing is lost but entries in memory that are also on disk: a follower that
//! still lacks them gets them by [`Fetch`](crate::Fetch).

use crate::cache::Share;
use crate::config::{Config, Liveness};
use crate::liveness::Supports;
use crate::log::IdleLog;
use crate::message::{Epoch, HardState};
use crate::progress::{Progress, Quiet};
use crate::raft::{Leadership, Raft, Role};
use crate::read::lease_of;
use base::{Index, Prng, ReplicaId};
use std::collections::VecDeque;
use std::sync::Arc;

/// A replica that is idle: see [`Raft::hibernate`].
#[derive(Debug, Clone)]
pub struct Hibernated {
    id: ReplicaId,
    config: Arc<Config>,
    /// Of the timeouts to come.
    seed: u64,
    hard: HardState,
    log: IdleLog,
    role: IdleRole,
    promise: Option<(ReplicaId, Epoch)>,
    supports: Supports,
    /// Also of those that are durable: all are.
    writes: u64,
    elapsed: u32,
    timeout: u32,
    heard: u32,
    rank: u8,
}

#[derive(Debug, Clone)]
enum IdleRole {
    Follower(Option<ReplicaId>),
    Leader(Box<IdleLeader>),
}

#[derive(Debug, Clone)]
struct IdleLeader {
    peers: Box<[IdlePeer]>,
    first: Index,
    ticks: u64,
    round: u64,
    heartbeat_elapsed: u32,
    released: bool,
}

#[derive(Debug, Clone)]
enum IdlePeer {
    /// It has everything.
    Quiet(Quiet),
    /// It does not: its node is down.
    Behind(Box<Progress>),
}

impl Raft {
    /// Whether [`hibernate`](Self::hibernate) is possible: nothing is asked for, being written, waiting to be applied, or under way
    /// to anybody. Whether it is worth it is for the caller to say: a replica that [needs ticks](Self::needs_tick) is awake
    /// again with the next one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let role = match &self.role {
            Role::Follower { .. } => true,
            Role::Candidate { .. } => false,
            Role::Leader(leadership) => {
                leadership.transfer.is_none()
                    && leadership.reads.is_empty()
                    && leadership.rounds.is_empty()
                    && leadership.confirmed.is_none()
                    && leadership.peers.iter().all(Progress::has_nothing_under_way)
            }
        };
        role && self.outbox.as_deref().is_none_or(|outbox| outbox.is_empty())
            && !self.is_forgettable()
            && self.hard.repairing.is_none()
            && self.log.is_idle()
    }

    /// The same replica in little memory.
    ///
    /// # Panics
    /// When it is not [idle](Self::is_idle).
    #[must_use]
    pub fn hibernate(mut self) -> Hibernated {
        assert!(self.is_idle(), "{} is not idle", self.id);
        let last = self.log.last().index;
        let role = match self.role {
            Role::Follower { leader } => IdleRole::Follower(leader),
            Role::Candidate { .. } => unreachable!("a candidate is not idle"),
            Role::Leader(leadership) => {
                let peers = leadership.peers.into_iter().map(|peer| match peer.quiet(last) {
                    Some(quiet) => IdlePeer::Quiet(quiet),
                    None => IdlePeer::Behind(Box::new(peer)),
                });
                IdleRole::Leader(Box::new(IdleLeader {
                    peers: peers.collect(),
                    first: leadership.first,
                    ticks: leadership.ticks,
                    round: leadership.round,
                    heartbeat_elapsed: leadership.heartbeat_elapsed,
                    released: leadership.released,
                }))
            }
        };
        self.supports.shrink();
        Hibernated {
            id: self.id,
            config: self.config,
            seed: self.prng.next_u64(),
            hard: self.hard,
            log: self.log.hibernate(),
            role,
            promise: self.promise,
            supports: self.supports,
            writes: self.writes,
            elapsed: self.elapsed,
            timeout: self.timeout,
            heard: self.heard,
            rank: self.rank,
        }
    }
}

impl Hibernated {
    /// This replica.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Who leads in this term, as far as it knows.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            IdleRole::Follower(leader) => *leader,
            IdleRole::Leader(_) => Some(self.id),
        }
    }

    /// As [`Raft::lease_until`]: a read at an idle leader wakes nobody.
    #[must_use]
    pub fn lease_until(&self, expiry: impl Fn(ReplicaId, Epoch) -> Option<u64>) -> Option<u64> {
        let IdleRole::Leader(leader) = &self.role else {
            return None;
        };
        let membership = self.log.membership();
        let may_lead = membership.is_voter(self.id) && !membership.is_witness(self.id);
        if self.config.liveness != Liveness::External || leader.released || !may_lead {
            return None;
        }
        let fortified = |id| {
            leader.peers.iter().find_map(|peer| match peer {
                IdlePeer::Quiet(quiet) => quiet.fortified_of(id),
                IdlePeer::Behind(peer) => peer.fortified.filter(|_| peer.id == id),
            })
        };
        lease_of(membership, self.id, fortified, expiry)
    }

    /// The replica, to take inputs again.
    #[must_use]
    pub fn wake(self) -> Raft {
        let last = self.log.last();
        let role = match self.role {
            IdleRole::Follower(leader) => Role::Follower { leader },
            IdleRole::Leader(leader) => {
                let IdleLeader {
                    peers,
                    first,
                    ticks,
                    round,
                    heartbeat_elapsed,
                    released,
                } = *leader;
                let peers = peers.into_iter().map(|peer| match peer {
                    IdlePeer::Quiet(quiet) => Progress::of_quiet(&quiet, last),
                    IdlePeer::Behind(peer) => *peer,
                });
                Role::Leader(Box::new(Leadership {
                    peers: peers.collect(),
                    transfer: None,
                    released,
                    heartbeat_elapsed,
                    first,
                    ticks,
                    round,
                    rounds: VecDeque::new(),
                    confirmed: None,
                    reads: VecDeque::new(),
                }))
            }
        };
        Raft {
            id: self.id,
            share: Share::of(&self.config.cache),
            config: self.config,
            prng: Prng::new(self.seed),
            hard: self.hard,
            hard_changed: false,
            hard_write: 0,
            log: self.log.wake(),
            role,
            elapsed: self.elapsed,
            timeout: self.timeout,
            heard: self.heard,
            promise: self.promise,
            supports: self.supports,
            rank: self.rank,
            writes: self.writes,
            durable_writes: self.writes,
            outbox: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, NextTick, Ready, Restored, Support};
    use std::hash::{DefaultHasher, Hasher};

    const VOTERS: [ReplicaId; 3] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];

    fn settle(group: &mut [Raft]) {
        let (mut ready, mut net): (_, Vec<(ReplicaId, ReplicaId, Message)>) = (Ready::default(), Vec::new());
        loop {
            for raft in &mut *group {
                while raft.ready(&mut ready) {
                    ready.mark.into_iter().for_each(|mark| raft.persisted(mark));
                    let last = raft.entries(&ready.committed).last().map(|entry| entry.index);
                    last.into_iter().for_each(|index| raft.applied(index));
                    let messages = ready
                        .messages
                        .drain(..)
                        .chain(ready.messages_after_persist.drain(..));
                    net.extend(messages.map(|(to, message)| (raft.id(), to, message)));
                }
            }
            if net.is_empty() {
                return;
            }
            for (from, to, message) in net.drain(..) {
                let raft = group.iter_mut().find(|raft| raft.id() == to);
                raft.expect("one of three")
                    .step(from, message)
                    .expect("well formed");
            }
        }
    }

    /// A group that elected the first replica, committed an entry and fell silent, without entries in memory.
    fn quiet() -> [Raft; 3] {
        let config = Arc::new(Config {
            liveness: Liveness::External,
            cache_bytes_max: 0,
            ..Config::default()
        });
        let mut group =
            VOTERS.map(|id| Raft::new(id, Arc::clone(&config), Prng::new(id.0), Restored::first(VOTERS)));
        let epoch = Some(Epoch(1));
        let support = Support {
            given: epoch,
            received: epoch,
        };
        for raft in &mut group {
            let others = VOTERS
                .into_iter()
                .filter(|id| *id != raft.id())
                .collect::<Vec<_>>();
            others.into_iter().for_each(|other| raft.liveness(other, support));
        }
        group[0].campaign_now();
        settle(&mut group);
        group[0].propose(b"x".as_slice().into()).expect("it leads");
        settle(&mut group);
        for _ in 0..4 {
            group[0].tick();
            settle(&mut group);
        }
        group
    }

    fn fingerprint(raft: &Raft) -> u64 {
        let mut hasher = DefaultHasher::new();
        raft.fingerprint(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn whoever_wakes_acts_as_before() {
        for mut raft in quiet() {
            assert!(!raft.needs_tick(), "{} is not quiet", raft.id());
            raft.shrink();
            let before = fingerprint(&raft);
            let asleep = raft.hibernate();
            let until = asleep.lease_until(|_, _| Some(7));
            let woken = asleep.wake();
            assert_eq!(fingerprint(&woken), before);
            assert_eq!(until, woken.lease_until(|_, _| Some(7)));
            assert_eq!(until, woken.is_leader().then_some(7));
        }
    }

    #[test]
    fn what_is_under_way_keeps_it_awake() {
        let [mut leader, ..] = quiet();
        assert!(leader.is_idle());
        leader.propose(b"y".as_slice().into()).expect("it leads");
        assert!(!leader.is_idle());
    }

    #[test]
    fn who_waits_for_votes_hands_out_nothing_until_it_asks_again() {
        let [leader, mut follower, _] = quiet();
        assert_eq!(follower.next_tick(), NextTick::Acts, "it is bound");
        follower.liveness(leader.id(), Support::default());
        while follower.next_tick() == NextTick::Waits {
            follower.tick();
        }
        let mut ready = Ready::default();
        let mut waits = 0;
        for _ in 0..3 {
            assert_eq!(follower.next_tick(), NextTick::Campaigns);
            assert!(!follower.awaits_votes());
            follower.tick();
            let mut asked = 0;
            while follower.ready(&mut ready) {
                ready.mark.into_iter().for_each(|mark| follower.persisted(mark));
                asked += ready.messages.drain(..).count() + ready.messages_after_persist.drain(..).count();
            }
            assert_eq!(asked, 2);
            while follower.next_tick() == NextTick::Waits {
                assert!(follower.awaits_votes());
                follower.tick();
                assert!(!follower.ready(&mut ready));
                waits += 1;
            }
        }
        assert!(waits > 10, "{waits}");
    }
}
