//! One replica of a group: its inputs, and what its roles share. `step` dispatches messages.

use crate::cache::Share;
use crate::config::{Config, Liveness};
use crate::event::Event;
use crate::liveness::Supports;
use crate::log::Log;
use crate::membership::{MemberChange, Membership, MembershipError};
use crate::message::{Body, Content, Entry, Epoch, HardState, Mark, Message, Snapshot};
use crate::payload::Payload;
use crate::progress::Progress;
use crate::read::PendingRead;
use crate::ready::{Fetch, PersistMark, Read, Ready};
use base::prefetch::prefetch_value;
use base::{Index, Prng, ReplicaId, Term, planted_bug};
use core::hash::{Hash, Hasher};
use core::ops::Range;
use std::collections::{VecDeque, vec_deque};
use std::sync::Arc;

/// What a replica starts with: all of it durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// What the log follows: the mark, the chain and the members there. The default is a replica that waits to be told
    /// everything.
    pub snapshot: Snapshot,
    /// The log after it. Empty after what is damaged.
    pub entries: Vec<Entry>,
    /// What the state has of them; not more than there is.
    pub applied: Index,
    /// The first entry that was lost, when there may have been more: see [`judge`](crate::damage::judge).
    pub damaged: Option<Index>,
    /// Who was cut off by [`Restored::force`].
    pub forced: Vec<ReplicaId>,
}

impl Restored {
    /// How the first members of a new group begin: all of them with the same voters.
    ///
    /// The group begins after entry 1, which is not in any log. So whoever joins later needs the state, and with it the first
    /// members, of whom no entry tells.
    #[must_use]
    pub fn first(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        Self::first_of(Membership::of_voters(voters))
    }

    /// How a new group begins whose members are not all voters.
    #[must_use]
    pub fn first_of(membership: impl Into<Arc<Membership>>) -> Self {
        let membership = membership.into();
        let last = Mark {
            term: Term::ZERO,
            index: Index(1),
        };
        Self {
            snapshot: Snapshot {
                last,
                chain: membership.checksum(),
                membership,
            },
            applied: last.index,
            ..Self::default()
        }
    }
}

/// Why a proposal was not taken. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader, if it is known.
    #[error("not the leader; {}", .0.map_or("no leader is known".to_owned(), |id| format!("the leader is {id}")))]
    NotLeader(Option<ReplicaId>),
    /// Leadership is being handed over: ask again soon.
    #[error("leadership is being handed to {0}")]
    Transferring(ReplicaId),
    /// Only a voter with all of the log can lead.
    #[error("{0} cannot lead: it does not vote, or has only headers")]
    CannotLead(ReplicaId),
    /// Too much is proposed and not committed: ask again when something is.
    #[error("{uncommitted} bytes are proposed and not committed; the limit is {limit}")]
    Full {
        /// Bytes that wait.
        uncommitted: usize,
        /// [`Config::uncommitted_bytes_max`].
        limit: usize,
    },
    /// Enough for one turn: ask again after the next [`ready`](Raft::ready).
    #[error("the turn is full: entries {entries}, bytes {bytes}")]
    TurnFull {
        /// Not handed out yet.
        entries: usize,
        /// Of them.
        bytes: usize,
    },
    /// One change of the members at a time, and none before the leader has committed an entry of its term.
    #[error("another change of the members is under way, or this leader has committed nothing yet")]
    ChangePending,
    /// The change itself cannot be made.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// A message that no replica of this group sends. Nothing has changed: count it and drop the connection that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message from {from}: {what}")]
pub struct Malformed {
    /// The sender.
    pub from: ReplicaId,
    /// What is wrong with it.
    pub what: &'static str,
}

#[derive(Debug, Clone, Hash)]
pub(crate) enum Role {
    Follower {
        leader: Option<ReplicaId>,
    },
    /// `pre`: only asks whether an election would succeed; the term has not changed.
    Candidate {
        pre: bool,
        votes: Vec<(ReplicaId, bool)>,
    },
    Leader(Box<Leadership>),
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Leadership {
    /// In the order of their ids.
    pub(crate) peers: Vec<Progress>,
    /// Who shall lead next, and ticks since that was asked.
    pub(crate) transfer: Option<(ReplicaId, u32)>,
    /// Somebody was told to start an election: no lease holds in this term any more.
    pub(crate) released: bool,
    pub(crate) heartbeat_elapsed: u32,
    /// The leader's first entry.
    pub(crate) first: Index,
    /// Since it leads.
    pub(crate) ticks: u64,
    /// Of heartbeats, the latest sent.
    pub(crate) round: u64,
    /// When rounds were sent that no quorum has answered: the first of each tick.
    pub(crate) rounds: VecDeque<(u64, u64)>,
    /// When the latest round was sent that a quorum has answered.
    pub(crate) confirmed: Option<u64>,
    /// They wait for a round to be answered.
    pub(crate) reads: VecDeque<PendingRead>,
}

impl Leadership {
    pub(crate) fn peer(&mut self, id: ReplicaId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }
}

/// What was asked for and not yet handed out.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<(ReplicaId, Message)>,
    pub(crate) messages_after_persist: Vec<(ReplicaId, Message)>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) reads: Vec<Read>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) events: Vec<Event>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.messages_after_persist.is_empty()
            && self.snapshot.is_none()
            && self.reads.is_empty()
            && self.fetches.is_empty()
            && self.events.is_empty()
    }
}

/// What a tick does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTick {
    /// It counts down, and there is nothing new to be handed out after it.
    Waits,
    /// It asks for votes, for the first time or again.
    Campaigns,
    /// It may do anything else.
    Acts,
}

/// One replica of a group.
#[derive(Debug, Clone)]
pub struct Raft {
    pub(crate) id: ReplicaId,
    pub(crate) config: Arc<Config>,
    pub(crate) prng: Prng,
    pub(crate) hard: HardState,
    /// It differs from what was handed out last; else, the write that holds it.
    pub(crate) hard_changed: bool,
    pub(crate) hard_write: u64,
    pub(crate) log: Log,
    pub(crate) role: Role,
    /// Ticks since the leader was heard of, or since votes were asked for; of a leader, since the quorum was checked.
    pub(crate) elapsed: u32,
    pub(crate) timeout: u32,
    /// Ticks since any leader was heard of; a promise not to elect another one, of whatever term.
    pub(crate) heard: u32,
    /// The same, as long as this node supports that leader's at that epoch.
    pub(crate) promise: Option<(ReplicaId, Epoch)>,
    pub(crate) supports: Supports,
    pub(crate) rank: u8,
    pub(crate) writes: u64,
    pub(crate) durable_writes: u64,
    pub(crate) outbox: Option<Box<Outbox>>,
    /// What it has of [`Config::cache`].
    pub(crate) share: Share,
}

impl Raft {
    /// A replica as it was when it stopped. Timeouts are drawn from `prng`.
    ///
    /// What it promised leaders before is kept: in [`Liveness::Ticks`] it elects nobody for `election_ticks`; in
    /// [`Liveness::External`] the caller makes sure that support of before the stop has ended and is not renewed.
    ///
    /// # Panics
    /// When `config` is not valid, or when `restored` has members before the first entry, entries and no members, or a state that
    /// is ahead of its log.
    #[must_use]
    pub fn new(id: ReplicaId, config: Arc<Config>, prng: Prng, restored: Restored) -> Self {
        config.validate();
        let Restored {
            hard_state,
            snapshot,
            entries,
            applied,
            damaged,
            forced,
        } = restored;
        let begun = snapshot.last.index > Index::ZERO;
        assert!(
            begun != snapshot.membership.voters().is_empty(),
            "members are known from entry 1 on"
        );
        assert!(begun || entries.is_empty(), "entries follow no state");
        let last = entries.last().map_or(snapshot.last.index, |entry| entry.index);
        assert!(
            applied <= last,
            "the state is of {applied}, the log ends at {last}"
        );
        let is_new = hard_state.term == Term::ZERO;
        let promises = config.liveness == Liveness::Ticks
            && config.lease_ticks > 0
            && !is_new
            && !planted_bug!("raft-restart-forgets-promise");
        let mut raft = Self {
            id,
            prng,
            hard: hard_state,
            hard_changed: false,
            hard_write: 0,
            log: Log::new(snapshot, entries, applied),
            role: Role::Follower { leader: None },
            elapsed: 0,
            timeout: 0,
            heard: if promises { 0 } else { config.election_ticks },
            promise: None,
            supports: Supports::default(),
            rank: 0,
            writes: 0,
            durable_writes: 0,
            outbox: None,
            share: Share::of(&config.cache),
            config,
        };
        if let Some(first) = damaged {
            assert!(
                first > raft.log.last().index,
                "entry {first} is damaged and there"
            );
            raft.begin_repair(first);
        }
        if !forced.is_empty() {
            let from = raft.log.last();
            raft.event(Event::Forced { from, lost: forced });
        }
        raft.draw_timeout();
        raft
    }

    /// This replica.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// The latest term it has seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Who leads in this term, as far as it knows.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower { leader } => *leader,
            Role::Candidate { .. } => None,
            Role::Leader(_) => Some(self.id),
        }
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Everything up to here is committed.
    #[must_use]
    pub fn commit_index(&self) -> Index {
        self.log.committed()
    }

    /// Its last entry, durable or not.
    #[must_use]
    pub fn last(&self) -> Mark {
        self.log.last()
    }

    /// The chain up to its last entry.
    #[must_use]
    pub fn last_chain(&self) -> u32 {
        self.log.last_chain()
    }

    /// Who takes part, as of its last entry.
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        self.log.membership()
    }

    /// Whether it lost entries that it may have acknowledged, and does not have them back.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        self.hard.repairing.is_some()
    }

    /// Its place among those who would lead: the least rank is preferred. A replica of a higher rank waits longer before it asks
    /// for votes, and hands over to one of a lower rank that has everything. Default 0.
    pub fn set_rank(&mut self, rank: u8) {
        self.rank = rank;
        self.draw_timeout();
    }

    /// A logical tick has passed. Leases count on it that ticks of two replicas do not differ by more than `election_ticks` allow
    /// beyond `lease_ticks`; whoever was held up makes up for all ticks first.
    pub fn tick(&mut self) {
        self.elapsed = self.elapsed.saturating_add(1);
        self.heard = self.heard.saturating_add(1);
        if self.is_leader() {
            self.tick_leader();
        } else if self.keeps_promise() {
            self.tick_bound();
        } else if self.elapsed >= self.timeout {
            if self.may_campaign() {
                self.campaign(true, false);
            } else {
                self.elapsed = 0;
                self.release_all();
            }
        }
    }

    /// What the next [`tick`](Self::tick) does. A caller with thousands of groups can let those wait that only wait, and does not let all of
    /// them ask for votes at once: a tick that is left out delays its group, and nothing else.
    #[must_use]
    pub fn next_tick(&self) -> NextTick {
        if self.is_leader() || self.keeps_promise() {
            NextTick::Acts
        } else if self.elapsed.saturating_add(1) < self.timeout {
            NextTick::Waits
        } else if self.may_campaign() {
            NextTick::Campaigns
        } else {
            NextTick::Acts
        }
    }

    /// Whether it asks for votes, and the answers may still come.
    #[must_use]
    pub fn awaits_votes(&self) -> bool {
        matches!(self.role, Role::Candidate { .. }) && self.next_tick() == NextTick::Waits
    }

    /// Whether it could lead, if it were elected.
    fn may_campaign(&self) -> bool {
        self.hard.repairing.is_none() && self.log.may_lead(self.id)
    }

    /// Asks for an election now, as if the leader had not been heard of for long. Nothing to do for a leader, for a replica that
    /// cannot lead, and while a leader lives: use [`transfer_leadership`](Self::transfer_leadership) then.
    pub fn campaign_now(&mut self) {
        if !self.is_leader() && !self.hears_a_leader() && self.may_campaign() {
            self.campaign(true, false);
        }
    }

    /// The leader wants this replica to lead.
    pub(crate) fn on_campaign(&mut self) {
        if matches!(self.role, Role::Follower { .. }) && self.may_campaign() {
            self.campaign(false, true);
        }
    }

    /// Proposes a command. It is committed when it comes out of a [`Ready`], and may be lost until then.
    ///
    /// # Errors
    /// [`ProposeError`] says whom to ask, or why not now.
    pub fn propose(&mut self, payload: Payload) -> Result<Mark, ProposeError> {
        self.check_leads()?;
        self.check_room()?;
        Ok(self.append(Content::Command(payload)))
    }

    fn check_room(&self) -> Result<(), ProposeError> {
        let (uncommitted, limit) = (self.log.uncommitted_bytes(), self.config.uncommitted_bytes_max);
        let (entries, bytes) = self.log.not_handed_out();
        if uncommitted >= limit {
            Err(ProposeError::Full { uncommitted, limit })
        } else if entries >= self.config.turn_entries_max
            || entries > 0 && bytes >= self.config.turn_bytes_max
        {
            Err(ProposeError::TurnFull { entries, bytes })
        } else {
            Ok(())
        }
    }

    /// Proposes a change of the members: at once if it touches one voter at most, else by way of a joint configuration that is
    /// left as soon as it is committed.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_members(&mut self, changes: &[MemberChange]) -> Result<Mark, ProposeError> {
        self.check_change()?;
        let membership = self.log.membership();
        let next = match membership.simple(changes) {
            Err(MembershipError::SeveralVoters(_)) => membership.enter_joint(changes, true)?,
            other => other?,
        };
        Ok(self.append_members(next))
    }

    /// Proposes a joint configuration that stays until [`propose_leave`](Self::propose_leave).
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_joint(&mut self, changes: &[MemberChange]) -> Result<Mark, ProposeError> {
        self.check_change()?;
        let next = self.log.membership().enter_joint(changes, false)?;
        Ok(self.append_members(next))
    }

    /// Proposes to leave the joint configuration.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_leave(&mut self) -> Result<Mark, ProposeError> {
        self.check_change()?;
        let next = self.log.membership().leave_joint()?;
        Ok(self.append_members(next))
    }

    fn check_change(&self) -> Result<(), ProposeError> {
        let first = self.check_leads()?.first;
        let committed = self.log.committed();
        let pending = committed < self.log.membership_index() && !planted_bug!("raft-two-changes");
        if committed < first || pending {
            return Err(ProposeError::ChangePending);
        }
        Ok(())
    }

    /// Asks for the memory that the replica points to, before it is worked on.
    #[inline]
    pub fn prefetch(&self) {
        if let Role::Leader(leadership) = &self.role {
            prefetch_value(&**leadership);
        }
        self.supports.prefetch();
        self.log.prefetch();
    }

    /// Asks for the memory of what a leader knows of its followers, when that of [`prefetch`](Self::prefetch) has come.
    #[inline]
    pub fn prefetch_peers(&self) {
        if let Role::Leader(leadership) = &self.role {
            leadership.peers.iter().for_each(prefetch_value);
        }
    }

    /// Says what is to be done, in place of what `ready` held. Call it after inputs, and do all of it: nothing is said twice.
    /// Returns whether there is anything.
    pub fn ready(&mut self, ready: &mut Ready) -> bool {
        ready.clear();
        self.evict();
        self.complete_members();
        self.send_reads();
        self.send_appends();
        ready.entries = self.log.hand_out();
        let forgettable = self.is_forgettable() && !planted_bug!("raft-vote-before-durable");
        if let Some(outbox) = &mut self.outbox {
            ready.snapshot = outbox.snapshot.take();
            ready
                .messages_after_persist
                .append(&mut outbox.messages_after_persist);
            // Nothing is said in a term that could be forgotten.
            let messages = if forgettable {
                &mut ready.messages_after_persist
            } else {
                &mut ready.messages
            };
            messages.append(&mut outbox.messages);
            ready.reads.append(&mut outbox.reads);
            ready.fetches.append(&mut outbox.fetches);
            ready.events.append(&mut outbox.events);
        }
        let write = self.writes + 1;
        if self.hard_changed {
            self.hard_changed = false;
            self.hard_write = write;
            ready.hard_state = Some(self.hard);
        }
        let writes = ready.snapshot.is_some() || ready.hard_state.is_some() || !ready.entries.is_empty();
        let waits = !ready.messages_after_persist.is_empty() && self.log.is_writing();
        if writes || waits {
            self.writes = write;
            self.log.write_begins(write);
            ready.mark = Some(PersistMark(write));
        } else {
            ready.messages.append(&mut ready.messages_after_persist);
        }
        ready.committed = self.log.deliver(self.config.deliver_bytes_max);
        ready.mark.is_some()
            || !ready.messages.is_empty()
            || !ready.committed.is_empty()
            || !ready.reads.is_empty()
            || !ready.fetches.is_empty()
            || !ready.events.is_empty()
    }

    /// The entries of a range that the last [`ready`](Self::ready) handed out.
    ///
    /// # Panics
    /// When the replica has let go of them since: see [`Ready::entries`].
    #[must_use]
    pub fn entries(&self, range: &Range<Index>) -> vec_deque::Iter<'_, Entry> {
        self.log.range(range)
    }

    /// Lets go of entries that are on disk and that nobody is likely to ask for.
    fn evict(&mut self) {
        let least = self.config.cache_bytes_max;
        let (wanted, bytes) = match &self.role {
            Role::Leader(leadership) => {
                let matched = leadership.peers.iter().map(|peer| peer.matched);
                let wanted = matched.min().unwrap_or(Index(u64::MAX));
                (wanted, self.share.allowance(self.log.kept_bytes(), least))
            }
            // Whoever leads next finds others behind.
            Role::Follower { .. } | Role::Candidate { .. } if !self.log.membership().is_single() => {
                (Index::ZERO, least)
            }
            Role::Follower { .. } | Role::Candidate { .. } => (Index(u64::MAX), least),
        };
        self.log.evict(wanted, bytes);
        self.share.set(self.log.kept_bytes());
    }

    /// The write that `mark` names, and every earlier one, is durable.
    pub fn persisted(&mut self, mark: PersistMark) {
        self.durable_writes = self.durable_writes.max(mark.0);
        self.log.write_ended(mark.0);
        self.end_repair();
        let forgettable = self.is_forgettable();
        match &mut self.role {
            Role::Leader(_) => self.commit_by_quorum(),
            Role::Candidate { pre: false, votes }
                if !forgettable || planted_bug!("raft-own-vote-forgettable") =>
            {
                if votes.iter().all(|(voter, _)| *voter != self.id) {
                    votes.push((self.id, true));
                }
                self.count_votes();
            }
            Role::Candidate { .. } | Role::Follower { .. } => {}
        }
    }

    /// Everything up to `index` is applied.
    ///
    /// # Panics
    /// When `index` was not delivered yet.
    pub fn applied(&mut self, index: Index) {
        self.log.apply(index);
    }

    /// State up to `index`, which was applied, is durable without the log: its entries may go. `chain` is that of the entry at
    /// `index`, as it was delivered.
    ///
    /// # Panics
    /// When `index` was not applied yet.
    pub fn compact(&mut self, index: Index, chain: u32) {
        self.log.compact(index, chain);
    }

    /// Up to where all peers that this leader can bring on by entries have the log, or will when the state that is on its way to them has
    /// come. A caller that compacts no further spares whoever is behind the whole state. `None`: it does not lead, or nobody can be
    /// brought on so.
    #[must_use]
    pub fn had_by_peers(&self) -> Option<Index> {
        let Role::Leader(leadership) = &self.role else {
            return None;
        };
        let start = self.log.start();
        let had = leadership.peers.iter().map(|peer| peer.has_or_gets(start));
        had.filter(|had| *had >= start).min()
    }

    /// What a snapshot of the state must be of to follow on: the mark before the log's first entry, the chain and the members
    /// there.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.log.snapshot()
    }

    /// What a state that covers the log up to `index` is of: `chain` is that of the entry there. To send a follower in place of
    /// the older one that [`Body::Snapshot`] names, when that is what the caller has.
    ///
    /// # Panics
    /// When `index` is not applied, or compacted.
    #[must_use]
    pub fn snapshot_at(&self, index: Index, chain: u32) -> Snapshot {
        self.log.snapshot_at(index, chain)
    }

    /// Gives back memory that an idle replica does not need. For a caller that has many, when one was idle for a while.
    pub fn shrink(&mut self) {
        self.log.evict(Index(u64::MAX), 0);
        self.share.set(self.log.kept_bytes());
        self.log.shrink();
        self.supports.shrink();
        if let Role::Leader(leadership) = &mut self.role {
            leadership.peers.iter_mut().for_each(Progress::shrink);
            leadership.peers.shrink_to_fit();
            leadership.reads.shrink_to_fit();
            leadership.rounds.shrink_to_fit();
        }
        if self.outbox.as_deref().is_some_and(Outbox::is_empty) {
            self.outbox = None;
        }
    }

    /// Whether term or vote would be lost in a crash now.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.hard_changed || self.hard_write > self.durable_writes
    }

    /// Term, vote or repair change: to be written.
    pub(crate) fn change_hard_state(&mut self) -> &mut HardState {
        self.hard_changed = true;
        &mut self.hard
    }

    pub(crate) fn out(&mut self) -> &mut Outbox {
        self.outbox.get_or_insert_default()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out().events.push(event);
    }

    /// Sends when everything before it is durable.
    pub(crate) fn send_durably(&mut self, to: ReplicaId, body: Body) {
        let term = self.hard.term;
        self.out()
            .messages_after_persist
            .push((to, Message { term, body }));
    }

    /// Sends when term and vote are durable.
    pub(crate) fn send_now(&mut self, to: ReplicaId, body: Body) {
        let term = self.hard.term;
        self.out().messages.push((to, Message { term, body }));
    }

    pub(crate) fn draw_timeout(&mut self) {
        let base = u64::from(self.config.election_ticks);
        let longer = u64::from(self.rank) * base;
        let drawn = longer + self.prng.between(base, 2 * base - 1);
        self.timeout = u32::try_from(drawn).unwrap_or(u32::MAX);
    }

    pub(crate) fn is_external(&self) -> bool {
        self.config.liveness == Liveness::External
    }

    /// Feeds `into` all by which this replica could ever act otherwise than another one does, given equal inputs from now on:
    /// for a search of all states. The timeout that it drew is left out, so such a search calls for elections itself.
    pub fn fingerprint(&self, into: &mut impl Hasher) {
        let Self {
            id,
            config: _,
            prng: _,
            hard,
            hard_changed,
            hard_write,
            log,
            role,
            elapsed,
            timeout: _,
            heard,
            promise,
            supports,
            rank,
            writes: _,
            durable_writes,
            outbox,
            share: _,
        } = self;
        (id, hard, hard_changed, log, role).hash(into);
        (elapsed, heard, promise, supports, rank, outbox).hash(into);
        // Numbers of writes matter only by their order.
        hard_write.saturating_sub(*durable_writes).hash(into);
    }

    /// Panics when an invariant is broken. Cheap: call it after every input.
    ///
    /// # Panics
    /// When there is a bug.
    pub fn assert_invariants(&self) {
        self.log.assert_invariants();
        self.log.membership().assert_invariants();
        let last = self.log.last();
        assert!(
            last.term <= self.hard.term,
            "an entry of {} in {}",
            last.term,
            self.hard.term
        );
        if let Role::Leader(leadership) = &self.role {
            assert!(last.term == self.hard.term || leadership.first > last.index);
            assert!(self.hard.repairing.is_none());
            for peer in &leadership.peers {
                peer.assert_invariants(last.index);
                assert!(peer.round <= leadership.round);
            }
        }
    }
}
