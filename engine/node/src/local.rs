//! A range as a shard holds it: its Raft group, its replica, its tablet.

use crate::message::OwnedRequest;
use crate::state::Then;
use base::{Index, Prng, RangeId, Seqno};
use core::cell::{Cell, RefCell};
use env::Env;
use raft::{Entry, Raft, Restored};
use replica::Replica;
use replica::replica::StateError;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use storage::Tablet;

/// How the groups of a shard are started.
pub(crate) struct Groups {
    config: Arc<raft::Config>,
    prng: RefCell<Prng>,
}

impl Groups {
    pub(crate) fn new(prng: Prng) -> Rc<Self> {
        let config = raft::Config {
            liveness: raft::Liveness::External,
            // What waits is bounded by what connections may have open, and by the room in the log.
            uncommitted_bytes_max: usize::MAX,
            turn_entries_max: usize::MAX,
            turn_bytes_max: usize::MAX,
            ..raft::Config::default()
        };
        Rc::new(Self {
            config: Arc::new(config),
            prng: RefCell::new(prng),
        })
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

/// A range that this shard serves.
pub(crate) struct Local<E: Env> {
    pub(crate) range: RangeId,
    pub(crate) raft: Raft,
    pub(crate) replica: Replica<OwnedRequest>,
    pub(crate) tablet: Tablet<E>,
    /// Writes of the group that are not known to be durable.
    pub(crate) writes: u32,
    /// The group may want something: it is asked before the step ends.
    pub(crate) dirty: bool,
    /// It is among the groups that time passes for.
    pub(crate) ticks: bool,
    /// It led when it was last asked what it wants.
    pub(crate) led: bool,
    /// Until when nobody else leads, by the wall clock in nanoseconds, as was known last: never for a group of one.
    pub(crate) lease_ns: u64,
    /// Delivered by the group, and not applied yet.
    pub(crate) committed: VecDeque<Entry>,
    /// Where the last write of the group is in the log.
    pub(crate) written: Seqno,
    /// What the log says to be committed.
    pub(crate) commit_noted: Index,
    /// Index and chain of states that are frozen and not known to be flushed.
    pub(crate) frozen: VecDeque<(Index, u32)>,
    /// The first entry of this leader: everything before it was proposed by others.
    pub(crate) leads_from: Index,
    /// What was proposed here and is not applied, in order.
    pub(crate) proposed: VecDeque<(Index, Then)>,
    /// Reads that wait for the disk: a move waits for them.
    pub(crate) reads: Rc<Cell<u32>>,
    /// A flush, merge, split or move works on the tablet: one at a time.
    pub(crate) busy: Rc<Cell<bool>>,
    /// A split has been applied and is not yet durable in the tables.
    pub(crate) split_open: bool,
}

impl<E: Env> Local<E> {
    pub(crate) fn new(replica: Replica<OwnedRequest>, tablet: Tablet<E>, groups: &Groups) -> Self {
        Self {
            range: tablet.range(),
            raft: groups.start(replica.group(), Vec::new()),
            replica,
            tablet,
            writes: 0,
            dirty: false,
            ticks: false,
            led: false,
            lease_ns: 0,
            committed: VecDeque::new(),
            written: Seqno::ZERO,
            commit_noted: Index::ZERO,
            frozen: VecDeque::new(),
            leads_from: Index::ZERO,
            proposed: VecDeque::new(),
            reads: Rc::new(Cell::new(0)),
            busy: Rc::new(Cell::new(false)),
            split_open: false,
        }
    }

    /// The replica of a tablet, as of its flushed index.
    pub(crate) fn open(tablet: Tablet<E>, groups: &Groups) -> Result<Self, StateError> {
        let replica = Replica::open(
            (tablet.range(), tablet.span()),
            tablet.flushed_index(),
            &tablet.app_state(),
        )?;
        Ok(Self::new(replica, tablet, groups))
    }

    /// The group goes on where replay has led the replica, with what the log has beyond.
    pub(crate) fn restart_group(&mut self, groups: &Groups, entries: Vec<Entry>) {
        self.raft = groups.start(self.replica.group(), entries);
    }

    /// Whether the range has no replica elsewhere: then what is durable here is committed, and nobody else leads.
    pub(crate) fn is_alone(&self) -> bool {
        self.replica.group().is_alone()
    }

    /// Freezes what the memtable has, with the state that goes with it.
    pub(crate) fn freeze(&mut self) {
        let applied = &self.replica.group().applied;
        self.frozen.push_back((applied.last.index, applied.chain));
        let state = self.replica.encode_state();
        self.tablet.freeze(state);
    }

    /// Tables hold everything up to `flushed`: the group lets go of it.
    pub(crate) fn flushed(&mut self, flushed: Index) {
        while let Some((index, chain)) = self.frozen.pop_front_if(|(index, _)| *index <= flushed) {
            self.raft.compact(index, chain);
        }
    }

    /// Whether writes are proposed here: it leads, and has applied all that others proposed before.
    pub(crate) fn leads(&self) -> bool {
        self.led && self.raft.is_leader() && self.replica.applied_index() >= self.leads_from
    }

    /// Whether nothing of the group is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.leads()
            && self.writes == 0
            && self.proposed.is_empty()
            && self.replica.applied_index() == self.raft.last().index
    }
}
