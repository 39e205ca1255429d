//! One replica of a group: dispatch by role, and what the roles share.

use crate::config::Config;
use crate::log::Log;
use crate::membership::{MemberChange, Membership, MembershipError};
use crate::message::{Body, Content, Entry, HardState, Mark, Message, Payload, Snapshot};
use crate::progress::{Progress, Sending};
use crate::quorum::VoteResult;
use crate::ready::{PersistMark, Ready};
use base::{Index, Prng, ReplicaId, Term};
use core::hash::{Hash, Hasher};
use std::collections::BTreeMap;

/// What a replica starts with: all of it durable.
#[derive(Debug, Clone, Default, Hash)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// What the log follows: the state's mark and members. The default is a replica that waits to be told everything.
    pub snapshot: Snapshot,
    /// The log after it.
    pub entries: Vec<Entry>,
}

impl Restored {
    /// How the first members of a new group begin: all of them with the same voters.
    ///
    /// The group begins after entry 1, which is not in any log. So whoever joins later needs the state, and with it the first
    /// members, of whom no entry tells.
    #[must_use]
    pub fn first(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        let last = Mark {
            term: Term::ZERO,
            index: Index(1),
        };
        let membership = Membership::of_voters(voters);
        Self {
            snapshot: Snapshot { last, membership },
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
    /// Only a voter can lead.
    #[error("{0} does not vote, so it cannot lead")]
    NotVoter(ReplicaId),
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

/// No run reaches higher terms or indexes: arithmetic on what a message says stays below 64 bits.
const COUNTER_MAX: u64 = u64::MAX / 2;

#[derive(Debug, Clone, Hash)]
pub(crate) enum Role {
    Follower {
        leader: Option<ReplicaId>,
    },
    /// `pre`: only asks whether an election would succeed; the term has not changed.
    Candidate {
        pre: bool,
        votes: BTreeMap<ReplicaId, bool>,
    },
    Leader(Leadership),
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Leadership {
    pub(crate) peers: BTreeMap<ReplicaId, Progress>,
    /// Who shall lead next, and ticks since that was asked.
    pub(crate) transfer: Option<(ReplicaId, u32)>,
    pub(crate) heartbeat_elapsed: u32,
    /// The leader's first entry.
    pub(crate) first: Index,
}

/// One replica of a group.
#[derive(Debug, Clone)]
pub struct Raft {
    pub(crate) config: Config,
    prng: Prng,
    pub(crate) term: Term,
    vote: Option<ReplicaId>,
    /// Term and vote as of the last write handed out, and the first write that holds them all.
    hard_state_handed: HardState,
    hard_state_write: u64,
    pub(crate) log: Log,
    pub(crate) role: Role,
    /// Ticks since the leader was heard of, or since votes were asked for; of a leader, since the quorum was checked.
    pub(crate) elapsed: u32,
    timeout: u32,
    writes: u64,
    durable_writes: u64,
    snapshot: Option<Snapshot>,
    pub(crate) messages: Vec<(ReplicaId, Message)>,
    messages_after_persist: Vec<(ReplicaId, Message)>,
}

impl Raft {
    /// A replica as it was when it stopped. Timeouts are drawn from `prng`.
    ///
    /// # Panics
    /// When `config` is not valid, or when `restored` has members before the first entry, or entries and no members.
    #[must_use]
    pub fn new(config: Config, prng: Prng, restored: Restored) -> Self {
        config.validate();
        let Restored {
            hard_state,
            snapshot,
            entries,
        } = restored;
        let begun = snapshot.last.index > Index::ZERO;
        assert!(
            begun != snapshot.membership.voters().is_empty(),
            "members are known from entry 1 on"
        );
        assert!(begun || entries.is_empty(), "entries follow no state");
        let mut raft = Self {
            config,
            prng,
            term: hard_state.term,
            vote: hard_state.vote,
            hard_state_handed: hard_state,
            hard_state_write: 0,
            log: Log::new(snapshot, entries),
            role: Role::Follower { leader: None },
            elapsed: 0,
            timeout: 0,
            writes: 0,
            durable_writes: 0,
            snapshot: None,
            messages: Vec::new(),
            messages_after_persist: Vec::new(),
        };
        raft.draw_timeout();
        raft
    }

    /// This replica.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// The latest term it has seen.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Who leads in this term, as far as it knows.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower { leader } => *leader,
            Role::Candidate { .. } => None,
            Role::Leader(_) => Some(self.id()),
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

    /// Who takes part, as of its last entry.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// A logical tick has passed.
    pub fn tick(&mut self) {
        self.elapsed += 1;
        if self.is_leader() {
            self.tick_leader();
        } else if self.elapsed >= self.timeout && self.log.may_lead(self.id()) {
            self.campaign(true, false);
        }
    }

    /// Asks for an election now, as if the leader had not been heard of for long. Nothing to do for a leader, and for a replica
    /// without a vote.
    pub fn campaign_now(&mut self) {
        if !self.is_leader() && self.log.may_lead(self.id()) {
            self.campaign(true, false);
        }
    }

    /// Proposes a command. It is committed when it comes out of a [`Ready`], and may be lost until then.
    ///
    /// # Errors
    /// [`ProposeError`] says whom to ask, or why not now.
    pub fn propose(&mut self, payload: Payload) -> Result<Mark, ProposeError> {
        self.check_leads()?;
        Ok(self.append(Content::Command(payload)))
    }

    /// Proposes a change of the members: at once if it touches one voter at most, else by way of a joint configuration that is
    /// left as soon as it is committed.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_members(&mut self, changes: &[MemberChange]) -> Result<Mark, ProposeError> {
        let first = self.check_leads()?.first;
        let committed = self.log.committed();
        if committed < first || committed < self.log.membership_index() {
            return Err(ProposeError::ChangePending);
        }
        let membership = self.log.membership();
        let next = match membership.simple(changes) {
            Err(MembershipError::SeveralVoters(_)) => membership.enter_joint(changes, true)?,
            other => other?,
        };
        let mark = self.append(Content::Membership(next));
        self.follow_members();
        Ok(mark)
    }

    /// Takes a message from another replica of the group.
    ///
    /// # Errors
    /// [`Malformed`]. A message that is old, or that nothing was waiting for, is not.
    pub fn step(&mut self, from: ReplicaId, message: Message) -> Result<(), Malformed> {
        if let Some(what) = self.fault_of(&message) {
            return Err(Malformed { from, what });
        }
        self.step_checked(from, message);
        Ok(())
    }

    /// What is wrong with a message, if anything.
    fn fault_of(&self, Message { term, body }: &Message) -> Option<&'static str> {
        let leads = self.is_leader() && *term == self.term;
        let too_large = |mark: &Mark| mark.index.0 > COUNTER_MAX || mark.term > *term;
        let leaves_nobody = |entry: &Entry| match &entry.content {
            Content::Membership(membership) => membership.voters().is_empty(),
            Content::Empty | Content::Command(_) => false,
        };
        let fault = |holds: bool, what| holds.then_some(what);
        fault(term.0 > COUNTER_MAX, "its term is out of bounds").or_else(|| match body {
            Body::Vote { last, .. } => fault(too_large(last), "its last entry is out of bounds"),
            Body::Append { prev, entries, .. } => {
                let mut last = *prev;
                let follows = entries.iter().all(|entry| {
                    let follows =
                        entry.index.0.checked_sub(1) == Some(last.index.0) && entry.term >= last.term;
                    last = entry.mark();
                    follows
                });
                fault(leads, "two leaders in one term")
                    .or(fault(
                        prev.index == Index::ZERO,
                        "its entries are of before the group",
                    ))
                    .or(fault(too_large(prev), "the entry before is out of bounds"))
                    .or(fault(!follows, "its entries do not follow each other"))
                    .or(fault(too_large(&last), "its entries are of a later term"))
                    .or(fault(
                        entries.iter().any(leaves_nobody),
                        "a change of the members leaves no voter",
                    ))
            }
            Body::Heartbeat { .. } => fault(leads, "two leaders in one term"),
            Body::Snapshot(snapshot) => fault(leads, "two leaders in one term")
                .or(fault(
                    too_large(&snapshot.last),
                    "its last entry is out of bounds",
                ))
                .or(fault(
                    snapshot.last.index == Index::ZERO,
                    "its state is of before the group",
                ))
                .or(fault(
                    snapshot.membership.voters().is_empty(),
                    "its state has no voters",
                )),
            Body::Appended { matched } => fault(
                leads && *matched > self.log.last().index,
                "it has what was never sent",
            ),
            Body::Refused { prev, conflict, last } => {
                let marks = [*prev, *last, conflict.map_or(*prev, |mark| mark.index)];
                fault(
                    marks.iter().any(|index| index.0 > COUNTER_MAX),
                    "an index is out of bounds",
                )
            }
            Body::VoteReply { .. } | Body::HeartbeatReply | Body::Campaign => None,
        })
    }

    fn step_checked(&mut self, from: ReplicaId, message: Message) {
        let Message { term, body } = message;
        if term > self.term {
            match &body {
                Body::Vote { transfer, .. } if !transfer && self.hears_a_leader() => return,
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
                | Body::HeartbeatReply
                | Body::Campaign => self.become_follower(term, None),
            }
        } else if term < self.term {
            match &body {
                // A leader or candidate of an old term: let it know.
                Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                    self.send_durably(from, Body::HeartbeatReply);
                }
                Body::Vote { pre, .. } => {
                    let pre = *pre;
                    self.send_durably(from, Body::VoteReply { pre, granted: false });
                }
                Body::VoteReply { .. }
                | Body::Appended { .. }
                | Body::Refused { .. }
                | Body::HeartbeatReply
                | Body::Campaign => {}
            }
            return;
        }
        self.step_in_term(from, term, body);
    }

    fn step_in_term(&mut self, from: ReplicaId, term: Term, body: Body) {
        match body {
            Body::Vote {
                last,
                pre,
                transfer: _,
            } => self.on_vote(from, term, last, pre),
            Body::VoteReply { pre, granted } => self.on_vote_reply(from, pre, granted),
            Body::Append {
                prev,
                entries,
                commit,
            } => {
                self.hear_leader(from);
                self.on_append(from, prev, entries, commit);
            }
            Body::Heartbeat { commit } => {
                self.hear_leader(from);
                self.log.commit(commit);
                self.send_now(from, Body::HeartbeatReply);
            }
            Body::Snapshot(snapshot) => {
                self.hear_leader(from);
                self.on_snapshot(from, snapshot);
            }
            Body::Appended { matched } => self.on_appended(from, matched),
            Body::Refused { prev, conflict, last } => self.on_refused(from, prev, conflict, last),
            Body::HeartbeatReply => self.on_heartbeat_reply(from),
            Body::Campaign => {
                if matches!(self.role, Role::Follower { .. }) && self.log.may_lead(self.id()) {
                    self.campaign(false, true);
                }
            }
        }
    }

    /// A leader was heard of lately, or is this one: elections are not needed.
    fn hears_a_leader(&self) -> bool {
        self.leader().is_some() && self.elapsed < self.config.election_ticks
    }

    fn on_vote(&mut self, from: ReplicaId, term: Term, last: Mark, pre: bool) {
        let free = if pre {
            term > self.term
        } else {
            self.leader().is_none() && self.vote.is_none_or(|vote| vote == from)
        };
        let granted = free && last >= self.log.last();
        if pre {
            // The answer carries the term asked about when it is yes, so that it is not taken for an old one.
            let term = if granted { term } else { self.term };
            let body = Body::VoteReply { pre, granted };
            self.messages.push((from, Message { term, body }));
            return;
        }
        if granted {
            self.vote = Some(from);
            self.elapsed = 0;
        }
        self.send_durably(from, Body::VoteReply { pre, granted });
    }

    fn on_vote_reply(&mut self, from: ReplicaId, pre: bool, granted: bool) {
        let Role::Candidate { pre: asked, votes } = &mut self.role else {
            return;
        };
        if *asked != pre || !self.log.membership().is_voter(from) {
            return;
        }
        votes.entry(from).or_insert(granted);
        self.count_votes();
    }

    pub(crate) fn campaign(&mut self, pre: bool, transfer: bool) {
        self.elapsed = 0;
        self.draw_timeout();
        if !pre {
            self.term = self.term.next();
            self.vote = Some(self.id());
        }
        // A vote counts when it cannot be forgotten, its own too: else a group of one could have two leaders in a term.
        let votes = pre.then(|| (self.id(), true)).into_iter().collect();
        self.role = Role::Candidate { pre, votes };
        let message = Message {
            term: if pre { self.term.next() } else { self.term },
            body: Body::Vote {
                last: self.log.last(),
                pre,
                transfer,
            },
        };
        let membership = self.log.membership();
        let (me, out) = (self.config.id, &mut self.messages_after_persist);
        let voters = membership
            .members()
            .filter(|id| *id != me && membership.is_voter(*id));
        out.extend(voters.map(|to| (to, message.clone())));
        self.count_votes();
    }

    fn count_votes(&mut self) {
        let Role::Candidate { pre, votes } = &self.role else {
            return;
        };
        let (pre, result) = (
            *pre,
            self.log.membership().vote_result(|id| votes.get(&id).copied()),
        );
        match result {
            VoteResult::Pending => {}
            VoteResult::Lost => self.become_follower(self.term, None),
            VoteResult::Won if pre => self.campaign(false, false),
            VoteResult::Won => self.become_leader(),
        }
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        if term > self.term {
            self.term = term;
            self.vote = None;
        }
        self.role = Role::Follower { leader };
        self.elapsed = 0;
        self.draw_timeout();
    }

    /// A leader of this term sent something.
    fn hear_leader(&mut self, leader: ReplicaId) {
        assert!(
            !self.is_leader(),
            "{leader} and {} lead in {}",
            self.id(),
            self.term
        );
        if self.leader() != Some(leader) {
            self.role = Role::Follower { leader: Some(leader) };
        }
        self.elapsed = 0;
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
        self.log.merge(entries);
        self.log.commit(commit.min(matched));
        self.send_durably(from, Body::Appended { matched });
    }

    fn on_snapshot(&mut self, from: ReplicaId, snapshot: Snapshot) {
        let last = snapshot.last;
        if last.index > self.log.committed() {
            if self.log.mark(last.index).is_some_and(|known| known == last) {
                // Nothing is missing but the news that it is committed.
                self.log.commit(last.index);
            } else {
                self.log.reset(snapshot.clone());
                self.snapshot = Some(snapshot);
            }
        }
        let matched = self.log.committed();
        self.send_durably(from, Body::Appended { matched });
    }

    /// Says what is to be done, in place of what `ready` held. Call it after inputs, and do all of it: nothing is said twice.
    /// Returns whether there is anything.
    pub fn ready(&mut self, ready: &mut Ready) -> bool {
        ready.clear();
        self.complete_members();
        self.send_appends();
        let hard_state = self.hard_state();
        ready.snapshot = self.snapshot.take();
        self.log.hand_out(&mut ready.entries);
        let write = self.writes + 1;
        if hard_state != self.hard_state_handed {
            self.hard_state_handed = hard_state;
            self.hard_state_write = write;
            ready.hard_state = Some(hard_state);
        }
        core::mem::swap(
            &mut ready.messages_after_persist,
            &mut self.messages_after_persist,
        );
        if self.is_forgettable() {
            // Nothing is said in a term that could be forgotten.
            ready.messages_after_persist.append(&mut self.messages);
        } else {
            core::mem::swap(&mut ready.messages, &mut self.messages);
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
        self.log
            .deliver(self.config.deliver_bytes_max, &mut ready.committed);
        ready.mark.is_some() || !ready.messages.is_empty() || !ready.committed.is_empty()
    }

    /// The write that `mark` names, and every earlier one, is durable.
    pub fn persisted(&mut self, mark: PersistMark) {
        self.durable_writes = self.durable_writes.max(mark.0);
        self.log.write_ended(mark.0);
        let forgettable = self.is_forgettable();
        match &mut self.role {
            Role::Leader(_) => self.commit_by_quorum(),
            Role::Candidate { pre: false, votes } if !forgettable => {
                votes.insert(self.config.id, true);
                self.count_votes();
            }
            Role::Candidate { .. } | Role::Follower { .. } => {}
        }
    }

    /// State up to `index`, which was applied, is durable without the log: its entries may go.
    ///
    /// # Panics
    /// When `index` was not delivered yet.
    pub fn compact(&mut self, index: Index) {
        self.log.compact(index);
    }

    /// What a snapshot of the state must be of to follow on: the mark before the log's first entry, and the members there.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.log.snapshot()
    }

    fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
        }
    }

    /// Whether term or vote would be lost in a crash now.
    fn is_forgettable(&self) -> bool {
        self.hard_state() != self.hard_state_handed || self.hard_state_write > self.durable_writes
    }

    /// Sends when everything before it is durable.
    pub(crate) fn send_durably(&mut self, to: ReplicaId, body: Body) {
        let term = self.term;
        self.messages_after_persist.push((to, Message { term, body }));
    }

    /// Sends when term and vote are durable.
    pub(crate) fn send_now(&mut self, to: ReplicaId, body: Body) {
        let term = self.term;
        self.messages.push((to, Message { term, body }));
    }

    fn draw_timeout(&mut self) {
        let base = u64::from(self.config.election_ticks);
        let drawn = self.prng.between(base, 2 * base - 1);
        self.timeout = u32::try_from(drawn).expect("twice a number of ticks");
    }

    /// Feeds `into` all by which this replica could ever act otherwise than another one does, given equal inputs from now on:
    /// for a search of all states. The timeout that it drew is left out, so such a search calls for elections itself.
    pub fn fingerprint(&self, into: &mut impl Hasher) {
        let Self {
            config,
            prng: _,
            term,
            vote,
            hard_state_handed,
            hard_state_write,
            log,
            role,
            elapsed,
            timeout: _,
            writes: _,
            durable_writes,
            snapshot,
            messages,
            messages_after_persist,
        } = self;
        (config.id, term, vote, hard_state_handed, log, role, elapsed).hash(into);
        (snapshot, messages, messages_after_persist).hash(into);
        // Numbers of writes matter only by their order.
        hard_state_write.saturating_sub(*durable_writes).hash(into);
    }

    /// Panics when an invariant is broken. Cheap: call it after every input.
    ///
    /// # Panics
    /// When there is a bug.
    pub fn assert_invariants(&self) {
        self.log.assert_invariants();
        self.log.membership().assert_invariants();
        assert!(
            self.log.last().term <= self.term,
            "an entry of {} in {}",
            self.log.last().term,
            self.term
        );
        if let Role::Leader(leadership) = &self.role {
            assert!(self.log.last().term == self.term || leadership.first > self.log.last().index);
            for (id, peer) in &leadership.peers {
                assert!(peer.matched < peer.next, "{id}: {peer:?}");
                assert!(peer.matched <= self.log.last().index, "{id}: {peer:?}");
                if let Sending::Snapshot(index) = peer.sending {
                    assert!(index > peer.matched, "{id}: {peer:?}");
                }
            }
        }
    }
}
