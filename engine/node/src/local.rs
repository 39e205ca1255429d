//! A range as a shard holds it: its Raft group, its replica, its tablet.

use crate::closed::Closed;
use crate::message::OwnedRequest;
use crate::placer::Load;
use crate::queues::Queues;
use crate::replicate::Write;
use crate::spilled::{self, OpenError};
use crate::state::Then;
use crate::transfer::Arrived;
use base::{Index, NodeId, Prng, RangeId, ReplicaId, Seqno, ShardId};
use core::cell::{Cell, RefCell};
use env::sync::Sender;
use env::{Env, Instant};
use liveness::Peer;
use raft::{Content, Entry, HardState, Membership, Raft, ReadToken, Restored};
use replica::group::node_of;
use replica::{Replica, command};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use storage::Tablet;

/// Entries that a new replica may lack when it begins to vote.
const LAG_MAX: u64 = 256;
/// Replicas of a group that are remembered to be on another shard than 0; more than a group has.
const PLACES_MAX: usize = 64;

/// Heartbeats that a follower answers before what is under way to it is sent again: a fifth of a second.
const RESEND_ANSWERS: u32 = 10;

/// How the groups of a shard are started.
pub(crate) struct Groups {
    config: Arc<raft::Config>,
    prng: RefCell<Prng>,
}

impl Groups {
    /// Leaders keep `cache_bytes` together of what followers lack.
    pub(crate) fn new(prng: Prng, cache_bytes: usize) -> Rc<Self> {
        let config = raft::Config {
            liveness: raft::Liveness::External,
            // What waits is bounded by what connections may have open, and by the room in the log.
            uncommitted_bytes_max: usize::MAX,
            turn_entries_max: usize::MAX,
            turn_bytes_max: usize::MAX,
            cache: raft::Cache::new(cache_bytes),
            // Connections lose nothing while they last, and disks that are busy take longer than a heartbeat.
            resend_answers: RESEND_ANSWERS,
            ..raft::Config::default()
        };
        Rc::new(Self {
            config: Arc::new(config),
            prng: RefCell::new(prng),
        })
    }

    /// The group of a replica that has nothing but what it promised.
    fn wait(&self, id: ReplicaId, hard_state: HardState) -> Raft {
        let prng = self.prng.borrow_mut().fork();
        let restored = Restored {
            hard_state,
            ..Restored::default()
        };
        Raft::new(id, Arc::clone(&self.config), prng, restored)
    }

    /// The group of a replica whose log goes on with `entries` after what it has applied.
    pub(crate) fn start(&self, group: &replica::Group, entries: Vec<Entry>) -> Raft {
        let prng = self.prng.borrow_mut().fork();
        let restored = Restored {
            entries,
            ..group.restored()
        };
        Raft::new(group.id, Arc::clone(&self.config), prng, restored)
    }
}

/// Among which groups it is that time passes for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ticks {
    /// Those that get every tick.
    pub(crate) full: bool,
    /// Those that get one now and then: leaders whose followers are only to learn what is committed.
    pub(crate) calm: bool,
}

/// A replica's seat in its group: what it takes part with, also while its state is not here.
pub(crate) struct Seat<E: Env> {
    pub(crate) range: RangeId,
    pub(crate) raft: Raft,
    /// Writes of the group that are not known to be durable.
    pub(crate) writes: u32,
    /// Where the last one is in the log.
    pub(crate) written: Seqno,
    /// The group may want something: it is asked before the step ends.
    pub(crate) dirty: bool,
    /// Something happened in it since the node took stock last.
    pub(crate) news: bool,
    /// What was noted of it when the node took stock last still counts, unless there is another word.
    pub(crate) noted: bool,
    /// Something happened in it since flushes and merges were last looked for.
    pub(crate) stirred: bool,
    /// It is looked at for flushes and merges.
    pub(crate) watched: bool,
    /// Requests were parked since the durable bound on timestamps was raised.
    pub(crate) parked: bool,
    pub(crate) ticks: Ticks,
    /// Delivered by the group, and not applied yet.
    pub(crate) committed: VecDeque<Entry>,
    /// State that came, before the group has taken it up.
    pub(crate) arrived: Option<Box<Arrived<E>>>,
    /// State is being installed: nothing is applied, and what is durable is kept back.
    pub(crate) installing: bool,
    pub(crate) held: Vec<Write>,
    /// A split has made the replica, and what says so beside the log is not written yet: nothing of its group leaves or is written.
    pub(crate) unmarked: bool,
    /// The group has removed the replica: it takes part in nothing any more, and goes when nothing works on it.
    pub(crate) leaving: bool,
    /// The members whose nodes' liveness the group was told of.
    pub(crate) introduced: Option<Arc<Membership>>,
    /// On which shards of their nodes other replicas were heard last, unless that was shard 0.
    pub(crate) places: Vec<(ReplicaId, ShardId)>,
    /// It is about to move to another shard: it hears nothing, and no time passes for it.
    pub(crate) silent: bool,
    /// Entries for followers are being read from this shard's log, so often.
    pub(crate) fetches: u32,
}

impl<E: Env> Seat<E> {
    fn new(range: RangeId, raft: Raft) -> Self {
        Self {
            range,
            raft,
            writes: 0,
            written: Seqno::ZERO,
            dirty: false,
            news: true,
            noted: false,
            stirred: false,
            watched: false,
            parked: false,
            ticks: Ticks::default(),
            committed: VecDeque::new(),
            arrived: None,
            installing: false,
            held: Vec::new(),
            unmarked: false,
            leaving: false,
            introduced: None,
            places: Vec::new(),
            silent: false,
            fetches: 0,
        }
    }

    /// Where another replica is, as far as is known: shard 0 of its node knows more.
    pub(crate) fn place_of(&self, replica: ReplicaId) -> Peer {
        let known = self.places.iter().find(|(id, _)| *id == replica);
        Peer {
            node: node_of(replica),
            shard: known.map_or(ShardId(0), |(_, shard)| *shard),
        }
    }

    /// Another replica was heard on that shard of its node. Whether it was on another one before.
    pub(crate) fn heard_at(&mut self, replica: ReplicaId, shard: ShardId) -> bool {
        let is_news = self.place_of(replica).shard != shard;
        if is_news {
            self.places.retain(|(id, _)| *id != replica);
            if shard != ShardId(0) && self.places.len() < PLACES_MAX {
                self.places.push((replica, shard));
            }
        }
        is_news
    }

    /// Forgets where the node's replicas are. Whether any was known to be on another shard than 0.
    pub(crate) fn forget_places(&mut self, node: NodeId) -> bool {
        let before = self.places.len();
        self.places.retain(|(id, _)| node_of(*id) != node);
        self.places.len() < before
    }
}

/// A replica without its state: others of its group speak to it, and it votes.
pub(crate) struct Stranger<E: Env> {
    pub(crate) seat: Seat<E>,
    /// As it was written last.
    pub(crate) hard_state: HardState,
}

impl<E: Env> Stranger<E> {
    pub(crate) fn new(range: RangeId, id: ReplicaId, hard_state: HardState, groups: &Groups) -> Self {
        Self {
            seat: Seat::new(range, groups.wait(id, hard_state)),
            hard_state,
        }
    }
}

/// A range that this shard serves.
pub(crate) struct Local<E: Env> {
    pub(crate) range: RangeId,
    pub(crate) seat: Seat<E>,
    pub(crate) replica: Replica<OwnedRequest>,
    pub(crate) tablet: Tablet<E>,
    /// It led when it was last asked what it wants.
    pub(crate) led: bool,
    /// Until when nobody else leads, by the wall clock in nanoseconds, as was known last: never for a group of one.
    pub(crate) lease_ns: u64,
    /// What the log says to be committed.
    pub(crate) commit_noted: Index,
    /// Index and chain of states that were frozen: not known to be flushed, or held back for followers.
    pub(crate) frozen: VecDeque<(Index, u32)>,
    /// The first entry of this leader: everything before it was proposed by others.
    pub(crate) leads_from: Index,
    /// What was proposed here and is not applied, in order.
    pub(crate) proposed: VecDeque<(Index, Then)>,
    /// Reads that wait until a quorum has confirmed that this replica leads.
    pub(crate) unconfirmed: Vec<(ReadToken, Sender<Index>)>,
    /// Reads that wait for the disk: a move waits for them.
    pub(crate) reads: Rc<Cell<u32>>,
    /// A flush, merge, split or move works on the tablet: one at a time, but for a flush beside a merge.
    pub(crate) busy: Rc<Cell<bool>>,
    /// What works on it is a flush, perhaps beside a merge.
    pub(crate) flushing: bool,
    /// What works on it is a merge, perhaps beside a flush.
    pub(crate) merging: bool,
    /// What works on it is a move to another shard: nothing else blocks it, and leadership is not handed over meanwhile.
    pub(crate) moving: bool,
    /// The entry that is next takes its right neighbour over: nothing is applied before the tablet has it.
    pub(crate) absorbing: bool,
    /// Its left neighbour is taking it over: nothing is applied any more, such as a new leader's first entry, for its tables are to have
    /// all that was.
    pub(crate) absorbed: bool,
    /// A split has been applied and is not yet durable in the tables.
    pub(crate) split_open: bool,
    /// Requests of transactions that wait for each other, while this replica leads.
    pub(crate) queues: Queues,
    /// What it has to do.
    pub(crate) load: Load,
    /// Up to when the range is known to be closed, as of what others have said earlier.
    pub(crate) closed: Closed,
    /// Others hear from here up to when the range is closed.
    pub(crate) is_closing: bool,
    /// It is among those that are looked at before the next time.
    pub(crate) closing_changed: bool,
    /// How often it has moved between shards since the node was started.
    pub(crate) moves: u64,
    /// When it was split off here, if that was since the node was started.
    pub(crate) born: Option<Instant>,
}

impl<E: Env> Local<E> {
    pub(crate) fn new(replica: Replica<OwnedRequest>, tablet: Tablet<E>, groups: &Groups) -> Self {
        let seat = Seat::new(tablet.range(), groups.start(replica.group(), Vec::new()));
        Self::seated(replica, tablet, seat)
    }

    /// A replica that has its state now.
    pub(crate) fn seated(replica: Replica<OwnedRequest>, tablet: Tablet<E>, seat: Seat<E>) -> Self {
        Self {
            range: tablet.range(),
            seat,
            replica,
            tablet,
            led: false,
            lease_ns: 0,
            commit_noted: Index::ZERO,
            frozen: VecDeque::new(),
            leads_from: Index::ZERO,
            proposed: VecDeque::new(),
            unconfirmed: Vec::new(),
            reads: Rc::new(Cell::new(0)),
            busy: Rc::new(Cell::new(false)),
            flushing: false,
            merging: false,
            moving: false,
            absorbing: false,
            absorbed: false,
            split_open: false,
            queues: Queues::default(),
            load: Load::default(),
            closed: Closed::default(),
            is_closing: false,
            closing_changed: false,
            moves: 0,
            born: None,
        }
    }

    /// The replica of a tablet, as of its flushed index.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) async fn open(tablet: Tablet<E>, groups: &Groups) -> Result<Self, OpenError> {
        let mut replica = Replica::open(
            (tablet.range(), tablet.span()),
            tablet.flushed_index(),
            &tablet.app_state(),
        )?;
        spilled::restore(&tablet, &mut replica).await?;
        Ok(Self::new(replica, tablet, groups))
    }

    /// The group goes on where replay has led the replica, with what the log has beyond.
    pub(crate) fn restart_group(&mut self, groups: &Groups, entries: Vec<Entry>) {
        self.seat.raft = groups.start(self.replica.group(), entries);
        self.seat.introduced = None;
    }

    /// Whether the range has no replica elsewhere, and is about to have none: then what is durable here is committed, and nobody else
    /// leads.
    pub(crate) fn is_alone(&self) -> bool {
        self.replica.group().is_alone()
            && replica::group::is_alone(self.seat.raft.membership(), self.seat.raft.id())
    }

    /// Whether somebody else votes in the group, in every configuration that is known here: then a quorum may do without this replica.
    pub(crate) fn has_peers(&self) -> bool {
        let me = self.seat.raft.id();
        let applied = &self.replica.group().applied.membership;
        replica::group::has_other_voter(applied, me)
            && replica::group::has_other_voter(self.seat.raft.membership(), me)
    }

    /// Freezes what the memtable has, with the state that goes with it.
    pub(crate) fn freeze(&mut self) {
        let applied = &self.replica.group().applied;
        self.frozen.push_back((applied.last.index, applied.chain));
        let state = self.replica.encode_state();
        let has_spilled = self.replica.provisional().has_spilled();
        self.tablet.freeze(state, has_spilled);
    }

    /// Tables hold everything up to `flushed`: the group lets go of it.
    pub(crate) fn flushed(&mut self, flushed: Index) {
        while let Some((index, chain)) = self.frozen.pop_front_if(|(index, _)| *index <= flushed) {
            self.seat.raft.compact(index, chain);
        }
    }

    /// The group lets go of what tables hold, but for what others lack, unless `all` goes. Up to where it went, when it was not all.
    pub(crate) fn let_go(&mut self, all: bool) -> Option<Index> {
        let flushed = self.tablet.flushed_index();
        let lacking = self.seat.raft.had_by_peers().filter(|had| *had < flushed && !all);
        self.flushed(lacking.unwrap_or(flushed));
        let is_left = self.frozen.front().is_some_and(|(index, _)| *index <= flushed);
        is_left.then(|| self.seat.raft.snapshot().last.index)
    }

    /// Whether writes are proposed here: it leads, and has applied all that others proposed before.
    pub(crate) fn leads(&self) -> bool {
        self.led && self.seat.raft.is_leader() && self.replica.applied_index() >= self.leads_from
    }

    /// Whether there is something that a flush would make durable in tables.
    pub(crate) fn has_news(&self) -> bool {
        let is_unflushed = self.tablet.applied_index() > self.tablet.flushed_index();
        is_unflushed || self.split_open || self.tablet.has_frozen()
    }

    /// Whether that is to be done now, also when there is room in memory and log.
    pub(crate) fn is_flush_due(&self) -> bool {
        self.split_open || self.tablet.has_frozen() || self.tablet.wants_freeze()
    }

    /// Begins a flush, if nothing but a merge works on the tablet: who is given it ends it by [`State::end_flush`].
    pub(crate) fn begin_flush(&mut self) -> Option<Tablet<E>> {
        self.may_flush().then(|| {
            self.busy.set(true);
            self.flushing = true;
            self.tablet.clone()
        })
    }

    /// Whether a flush may begin.
    pub(crate) fn may_flush(&self) -> bool {
        !self.busy.get() || (self.merging && !self.flushing && !self.split_open)
    }

    /// Whether a split is committed that is not applied here yet.
    pub(crate) fn has_split_ahead(&self) -> bool {
        let is_split = |entry: &Entry| match &entry.content {
            Content::Command(payload) => command::split_of(payload).is_some(),
            _ => false,
        };
        self.seat.committed.iter().any(is_split)
    }

    /// Whether a member has the state and lacks few entries, so that it may vote. This replica leads.
    pub(crate) fn has_caught_up(&self, replica: ReplicaId) -> bool {
        let matched = self.seat.raft.matched(replica);
        // Of whom nothing is known to be durable, nothing is known at all.
        let known = matched.filter(|matched| *matched > Index::ZERO);
        known.is_some_and(|matched| self.seat.raft.last().index.since(matched) <= LAG_MAX)
    }

    /// Whether a replica is a learner by a change that is not applied here: another leader may void it. A voter is never in doubt, since
    /// it was a learner before, and its answer may be needed to know that.
    pub(crate) fn is_in_doubt(&self, replica: ReplicaId) -> bool {
        let is_learner = self.seat.raft.membership().learners().contains(&replica);
        is_learner && !self.replica.group().applied.membership.contains(replica)
    }

    /// Whether nothing of the group is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.leads()
            && self.seat.writes == 0
            && self.proposed.is_empty()
            && self.replica.applied_index() == self.seat.raft.last().index
    }
}
