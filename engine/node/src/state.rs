//! What one shard holds, and the vocabulary of its parts. Changed only in synchronous steps; see `shard.rs`.

use crate::claims::Claim;
use crate::config::NodeConfig;
use crate::contention::Contention;
use crate::damage::Injured;
use crate::dialect::Letter;
use crate::gauge::Gauge;
use crate::identity::Identity;
use crate::local::{Groups, Local, Seat, Stranger};
use crate::members::Wish;
use crate::merge::Merges;
use crate::message::{Answer, OwnedRequest, PageAsk, Replies, ShardMessage};
use crate::modify::Unchanged;
use crate::moving::Moved;
use crate::neighbours::Neighbours;
use crate::placer::{Order, Placer};
use crate::range_map::{RangeEntry, RangeMap};
use crate::recover::Replayed;
use crate::replicate::{Batch, Write};
use crate::transact::Work;
use crate::transfer::{Arrived, Offered, Wanted};
use crate::version::Versions;
use crate::{Front, message::Origin};
use base::api::ReadAt;
use base::collections::FastMap;
use base::key::Span;
use base::{Hlc, NodeId, RangeId, ReplicaId, Seqno, ShardId, Timestamp};
use core::cell::Cell;
use env::sync::{Notify, Sender};
use env::{Env, Instant, Net};
use liveness::Peer;
use log::Log;
use raft::PersistMark;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use storage::{Shared, Tablet};
use transport::{ConnectionId, Transport};

/// A connection that no shard has taken up.
pub(crate) type Socket<E> = <<E as Env>::Net as Net>::Socket;
/// A message between the shards of this node.
pub(crate) type Message<E> = ShardMessage<Socket<E>>;

/// A place for a range of this shard.
pub(crate) enum Slot<E: Env> {
    /// Nothing is here.
    Free,
    /// The range is on its way here; requests wait.
    Opening(RangeId, VecDeque<OwnedRequest>),
    /// The range is served.
    Live(Box<Local<E>>),
    /// Others of the range's group speak to a replica here that does not have its state yet.
    Stranger(Box<Stranger<E>>),
}

/// Where a position of the range map leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A slot of this shard.
    Here(u32),
    /// Another shard.
    There(ShardId),
    /// No replica of the range is here.
    Nowhere,
}

/// A point read of this loop turn: looked up at its end, when all keys have been prefetched.
pub(crate) struct GetTask {
    pub(crate) origin: Origin,
    pub(crate) slot: u32,
    pub(crate) key_start: u32,
    pub(crate) key_end: u32,
}

/// What happens when an entry has been applied.
pub(crate) enum Then {
    /// The client is answered.
    Reply(Origin),
    /// The client is answered, with the value that it made.
    Modified(Origin),
    /// The client hears that a bound does not allow its modification: of what is applied by then.
    Unchanged(Origin, Box<Unchanged>),
    /// The client gets this answer to its batch of a transaction.
    Transact(Origin, Vec<u8>),
    /// A split goes on.
    Split(Sender<SplitApplied>),
    /// Whoever proposed it looks.
    Nothing,
}

/// A split has been applied: the new range is served here.
pub(crate) struct SplitApplied {
    pub(crate) left: RangeEntry,
    pub(crate) right: RangeEntry,
}

/// Work that waits for the disk, the clock or another shard. Spawned when the step that made it ends.
pub(crate) enum Job<E: Env> {
    /// A point read that was not in memory, or at a given timestamp.
    Get {
        origin: Origin,
        key: Vec<u8>,
        at: ReadAt,
        received: Instant,
        deadline: Instant,
    },
    /// The conditions of a write were not in memory; its keys are reserved.
    Evaluate {
        slot: u32,
        tablet: Tablet<E>,
        request: OwnedRequest,
    },
    /// A batch of a transaction that has to wait.
    Transact(Box<Work>),
    /// A scan that streams pages to a connection of this shard.
    Scan {
        origin: Origin,
        scan: ScanParams,
        credit: Rc<Credit>,
    },
    /// A page for another shard.
    Page {
        from: ShardId,
        ticket: u64,
        ask: Box<PageAsk>,
    },
    /// A scan of another node's shard wants to know how new a span is.
    Share {
        asked: Timestamp,
        caller: Peer,
        span: Arc<Span>,
    },
    /// `range split`.
    Split {
        origin: Origin,
        key: Vec<u8>,
        deadline: Instant,
    },
    /// `range move`.
    Move {
        origin: Origin,
        range: RangeId,
        to: ShardId,
        deadline: Instant,
    },
    /// `range merge`.
    Merge {
        origin: Origin,
        range: RangeId,
        right: RangeId,
        deadline: Instant,
    },
    /// Two ranges are brought together, and to disk.
    Gather { left: RangeId, right: RangeId },
    /// A range goes to the shard of its neighbour.
    Bring { range: RangeId, to: ShardId },
    /// Leadership of a range goes to where its neighbour is led.
    Yield { range: RangeId, to: ReplicaId },
    /// A range takes over its right neighbour.
    Absorb { left: RangeId, right: RangeId },
    /// A range arrives.
    MoveIn {
        from: ShardId,
        ticket: u64,
        slot: u32,
        arrival: Box<Arrival>,
    },
    /// What a range that moves here has in its log is in this shard's, up to there.
    Prepared {
        from: ShardId,
        ticket: u64,
        seqno: Seqno,
    },
    /// The split of `left` that makes `right` waits for shard 0.
    Claim { left: RangeId, right: RangeId },
    /// `range ls`, or what a client asks first.
    RangeMap(Origin),
    /// A split that another replica proposed has been applied: its new range is marked, and it is made durable.
    CompleteSplit(SplitApplied),
    /// Another node was learned of.
    Roster,
    /// It was heard which data directories other nodes have.
    Births,
    /// The placer asks for a report of what changed.
    Survey {
        from: NodeId,
        term: u64,
        number: u64,
        session: u64,
        after: u64,
    },
    /// The placer wants this done.
    Order(Order),
    /// Something was said of nodes or keys, or is to be told when it is durable.
    Words,
    /// The failure detector wants this written.
    Incarnation(liveness::Durable),
    /// A follower lacks entries that are only in the log.
    Fetch { slot: u32, fetch: raft::Fetch },
    /// A follower gets the state of the range.
    Offer { range: RangeId, to: ReplicaId },
    /// A follower wants bytes of it.
    Piece(Wanted<E>),
    /// State is offered to a replica here.
    Receive(Box<Offered>),
    /// State that was received takes the place of what is there, once everything up to `seqno` is durable.
    Install {
        slot: u32,
        seqno: Seqno,
        mark: PersistMark,
        arrived: Box<Arrived<E>>,
    },
    /// The nodes that shall have the replicas of a range, and its leader.
    Place {
        origin: Origin,
        wish: Wish,
        deadline: Instant,
    },
    /// The range's replica was removed from its group.
    Remove(RangeId),
    /// Files of the range's replica here are damaged.
    EndDamaged { range: RangeId, what: String },
    /// The group of a damaged replica has removed it, or wants nothing more of it.
    DropDamaged { range: RangeId, life: u32 },
    /// A replica on another node is damaged, and this one leads.
    Mend(RangeId),
    /// A replica is heard of whose life is not written yet.
    NameLife(Letter, Peer),
    /// A later version is to be active.
    Version,
    /// `status`, perhaps with every replica.
    Status { origin: Origin, replicas: bool },
    /// The replicas of this shard, for the status that another one was asked for.
    Replicas { from: ShardId, ticket: u64 },
    /// The bench's raw durable write.
    DiskWrite { origin: Origin, bytes: u32 },
}

/// A range that arrives from another shard.
pub(crate) struct Arrival {
    pub(crate) entry: RangeEntry,
    /// The last entry in its tables.
    pub(crate) flushed: base::Index,
    pub(crate) clock: Timestamp,
    pub(crate) moved: Moved,
}

/// What a scan asks for.
pub(crate) struct ScanParams {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) reverse: bool,
    pub(crate) at: ReadAt,
    pub(crate) rows_left: u64,
    pub(crate) page_rows: usize,
    pub(crate) page_bytes: usize,
    pub(crate) deadline_ms: u32,
}

/// How many pages a scan may send.
pub(crate) struct Credit {
    pub(crate) pages: Cell<u32>,
    pub(crate) cancelled: Cell<bool>,
    pub(crate) changed: Notify,
}

/// Counters of a shard, for `status`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) gets: u64,
    /// Reads that did not need to know who leads.
    pub(crate) closed_reads: u64,
    pub(crate) writes: u64,
    /// Entries of transactions.
    pub(crate) changes: u64,
    pub(crate) conditions_failed: u64,
    pub(crate) scans: u64,
    pub(crate) pages: u64,
    pub(crate) forwarded: u64,
    pub(crate) refused: u64,
    pub(crate) duplicates: u64,
    pub(crate) splits: u64,
    pub(crate) merges: u64,
    pub(crate) moves: u64,
    pub(crate) removed: u64,
    pub(crate) scrubs: u64,
    pub(crate) turns: u64,
    pub(crate) echoes: u64,
    pub(crate) disk_writes: u64,
}

/// Everything that a shard changes in its steps.
pub(crate) struct State<E: Env, B: 'static> {
    pub(crate) me: ShardId,
    pub(crate) shards: u16,
    pub(crate) identity: Identity,
    pub(crate) config: Rc<NodeConfig>,
    pub(crate) env: E,
    pub(crate) log: Log<E>,
    /// Of whose log something is held for followers although tables have it, and behind which entry.
    pub(crate) held: BTreeMap<RangeId, base::Index>,
    pub(crate) storage: Rc<Shared<E>>,
    pub(crate) transport: Transport<E, Front<E, B>>,

    pub(crate) hlc: Hlc,
    /// No timestamp with a greater wall time is issued: everything up to here is durable as a bound.
    pub(crate) clock_bound_ns: u64,
    /// The bound that the log carries and that will be durable with its next batch.
    pub(crate) clock_bound_staged: Option<(Seqno, u64)>,
    /// A read waits for the bound to reach this.
    pub(crate) clock_wanted_ns: u64,
    /// The clocks, read once per loop turn.
    pub(crate) turn_clock: Option<(Instant, u64)>,

    pub(crate) map: RangeMap,
    /// By position in the map.
    pub(crate) routes: Vec<Route>,
    /// The slots of this shard's ranges.
    pub(crate) here: FastMap<RangeId, u32>,
    /// The slots of ranges whose state is not here.
    pub(crate) strangers: BTreeMap<RangeId, u32>,
    pub(crate) slots: Vec<Slot<E>>,
    /// The last life of each range whose replicas here were removed: none of them takes part in anything.
    pub(crate) gone: BTreeMap<RangeId, u32>,
    /// Shard 0: where ranges are that splits on other shards are about to make, until the map knows.
    pub(crate) assigned: BTreeMap<RangeId, ShardId>,
    /// A range that a split has made here is being placed on a shard.
    pub(crate) placing_new: bool,
    /// Ranges that splits here are about to make.
    pub(crate) claims: BTreeMap<RangeId, Claim>,
    /// Ranges whose files are being removed, with the keys they have; what a damaged one has is not known.
    pub(crate) removing: BTreeMap<RangeId, Option<Span>>,
    /// The list of nodes is being written.
    pub(crate) roster_storing: bool,
    /// Other nodes know this one with another data directory.
    pub(crate) is_replaced: bool,
    /// A version is active in the cluster that this node does not speak.
    pub(crate) is_outdated: bool,
    /// Which versions of the protocol are spoken and active.
    pub(crate) versions: Versions,
    /// Looks after replicas; none on a node that is alone, or is not to.
    pub(crate) placer: Option<Box<Placer>>,
    /// Ranges whose replicas are being placed by hand.
    pub(crate) placing: BTreeSet<RangeId>,
    /// Merges of ranges.
    pub(crate) merges: Merges,
    /// Slots of groups that lead and have a joint configuration to leave.
    pub(crate) joint: Vec<u32>,
    /// Ranges that left this shard, until the map that counts knows.
    pub(crate) departed: Vec<RangeEntry>,

    pub(crate) gets: Vec<GetTask>,
    pub(crate) get_keys: Vec<u8>,
    /// Commands of this turn.
    pub(crate) batch: Batch,
    /// What the groups have in the log, oldest first.
    pub(crate) writes: VecDeque<Write>,
    pub(crate) groups: Rc<Groups>,
    /// Slots whose groups may want something.
    pub(crate) dirty: Vec<u32>,
    /// Kept for its memory.
    pub(crate) ready: raft::Ready,
    /// Slots whose parked requests may go on.
    pub(crate) runnable: Vec<u32>,
    /// Something was applied in this turn.
    pub(crate) progress: bool,
    /// The other nodes; none for a node that is alone.
    pub(crate) neighbours: Option<Box<Neighbours<E>>>,
    /// Writes held back because memory or log is full.
    pub(crate) stalled: VecDeque<OwnedRequest>,
    pub(crate) apply_waiters: Vec<Sender<()>>,

    pub(crate) scans: FastMap<(ConnectionId, base::RequestId), Rc<Credit>>,
    pub(crate) tickets: FastMap<u64, Sender<Answer>>,
    pub(crate) ticket_last: u64,
    /// Shard 0: the last range id given out.
    pub(crate) range_last: RangeId,

    pub(crate) replies: Vec<Replies>,
    pub(crate) reply_outbox: wire::Outbox,
    /// Messages that their ring had no room for, by shard: see `waiting`.
    pub(crate) overflow: Vec<VecDeque<Message<E>>>,
    pub(crate) ring_out: Vec<(ShardId, Message<E>)>,
    pub(crate) jobs: Vec<Job<E>>,
    pub(crate) counts: Counts,
    pub(crate) contention: Contention,
    pub(crate) replayed: Replayed,
    /// Replicas that are damaged and being replaced.
    pub(crate) injured: Injured,
    /// Ranges whose tables are damaged, with what was found: reads of the damage are refused, merges left alone.
    pub(crate) damage: BTreeMap<RangeId, String>,
    /// How the disk is, as this shard sees it.
    pub(crate) gauge: Gauge,
    /// Set when the node must stop.
    pub(crate) failed: Option<String>,
    pub(crate) wake_maintenance: bool,
    /// Slots in which something has happened since flushes and merges were last looked for, those that are looked at, and how many
    /// looks there were since one at all.
    pub(crate) stirred: Vec<u32>,
    pub(crate) watched: Vec<u32>,
    pub(crate) looks_skipped: u32,
    /// Where requests were parked since the durable bound on timestamps was raised.
    pub(crate) parked: Vec<u32>,
}

impl<E: Env, B> State<E, B> {
    /// The seat of the replica in `slot`.
    pub(crate) fn seat_of(&mut self, slot: u32) -> &mut Seat<E> {
        let seat = self.slots[slot as usize].seat_mut();
        seat.expect("a replica stays while something of its group is under way")
    }

    /// The range in `slot`, which is served here.
    pub(crate) fn live_mut(&mut self, slot: u32) -> &mut Local<E> {
        let live = self.slots[slot as usize].live_mut();
        live.expect("a range stays while something of it is under way")
    }
}

impl<E: Env> Slot<E> {
    pub(crate) fn live(&self) -> Option<&Local<E>> {
        match self {
            Self::Live(local) => Some(local),
            Self::Free | Self::Opening(..) | Self::Stranger(_) => None,
        }
    }

    /// The seat of the replica that is here, with or without its state.
    pub(crate) fn seat(&self) -> Option<&Seat<E>> {
        match self {
            Self::Live(local) => Some(&local.seat),
            Self::Stranger(stranger) => Some(&stranger.seat),
            Self::Free | Self::Opening(..) => None,
        }
    }

    pub(crate) fn seat_mut(&mut self) -> Option<&mut Seat<E>> {
        match self {
            Self::Live(local) => Some(&mut local.seat),
            Self::Stranger(stranger) => Some(&mut stranger.seat),
            Self::Free | Self::Opening(..) => None,
        }
    }

    pub(crate) fn live_mut(&mut self) -> Option<&mut Local<E>> {
        match self {
            Self::Live(local) => Some(local),
            Self::Free | Self::Opening(..) | Self::Stranger(_) => None,
        }
    }
}
