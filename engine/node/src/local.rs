//! A range as a shard holds it: its Raft group, its replica, its tablet.

use crate::message::OwnedRequest;
use crate::state::Then;
use base::{Index, Prng, RangeId};
use core::cell::{Cell, RefCell};
use env::Env;
use raft::Raft;
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

    /// The group of a replica that has applied everything in its log.
    pub(crate) fn start(&self, group: &replica::Group) -> Raft {
        let prng = self.prng.borrow_mut().fork();
        Raft::new(group.id, Arc::clone(&self.config), prng, group.restored())
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
            raft: groups.start(replica.group()),
            replica,
            tablet,
            writes: 0,
            dirty: false,
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

    /// The group goes on where replay has led the replica.
    pub(crate) fn restart_group(&mut self, groups: &Groups) {
        self.raft = groups.start(self.replica.group());
    }

    /// Whether writes are proposed here: it leads, and has applied all that others proposed before.
    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader() && self.replica.applied_index() >= self.leads_from
    }

    /// Whether nothing of the group is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.leads()
            && self.writes == 0
            && self.proposed.is_empty()
            && self.replica.applied_index() == self.raft.last().index
    }
}
