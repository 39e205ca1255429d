//! What shards of a node say to each other over the rings. Owned values; a ring hands them over in order.

use crate::births::Births;
use crate::claims::Promised;
use crate::cluster::Member;
use crate::dialect::Letter;
use crate::moving::{Moved, Prepare};
use crate::neighbours::Word;
use crate::outlook::Outlook;
use crate::placer::{Look, Ordered, Stock};
use crate::range_map::{RangeEntry, RangeMap};
use crate::refusal::Refusal;
use crate::scan_clock::Share;
use crate::status::{RangeStatus, ReplicaStatus, ShardStatus};
use crate::version::Version;
use base::api::ReadAt;
use base::key::Span;
use base::{Index, NodeId, RangeId, RequestId, ShardId, Timestamp};
use env::Instant;
use liveness::Peer;
use raft::HardState;
use rkyv::util::AlignedVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage::Rows;
use transport::ConnectionId;
use wire::Kind;

/// Who asked: a request of a connection, which lives on one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The shard that the connection lives on.
    pub shard: ShardId,
    /// The connection.
    pub connection: ConnectionId,
    /// The request.
    pub request: RequestId,
}

/// A request in a buffer of its own: forwarded to another shard, or waiting.
#[derive(Debug)]
pub struct OwnedRequest {
    /// What it is.
    pub kind: Kind,
    /// The archive, aligned.
    pub payload: AlignedVec<16>,
    /// Who asked.
    pub origin: Origin,
    /// When it was received: deadlines count from here.
    pub received: Instant,
    /// How often it was forwarded.
    pub hops: u8,
}

/// A request as it was received: the payload still lies in the connection's buffer.
#[derive(Debug, Clone, Copy)]
pub struct RawRequest<'a> {
    /// What it is.
    pub kind: Kind,
    /// The archive, aligned.
    pub payload: &'a [u8],
    /// Who asked.
    pub origin: Origin,
    /// When it was received.
    pub received: Instant,
    /// How often it was forwarded.
    pub hops: u8,
}

impl RawRequest<'_> {
    /// A copy in a buffer of its own.
    #[must_use]
    pub fn to_owned(&self) -> OwnedRequest {
        let mut payload = AlignedVec::with_capacity(self.payload.len());
        payload.extend_from_slice(self.payload);
        let Self {
            kind,
            origin,
            received,
            hops,
            ..
        } = *self;
        OwnedRequest {
            kind,
            payload,
            origin,
            received,
            hops,
        }
    }
}

impl OwnedRequest {
    /// The request, borrowed.
    #[must_use]
    pub fn as_raw(&self) -> RawRequest<'_> {
        let Self {
            kind,
            ref payload,
            origin,
            received,
            hops,
        } = *self;
        RawRequest {
            kind,
            payload,
            origin,
            received,
            hops,
        }
    }
}

/// Replies of one shard to connections of another: whole frames, back to back.
#[derive(Debug, Default)]
pub struct Replies {
    /// The frames.
    pub frames: Vec<u8>,
    /// Whose frames they are, in order, with their bytes.
    pub index: Vec<(ConnectionId, u32)>,
}

/// A page to read, asked by the shard that has the scanning connection.
#[derive(Debug, Clone)]
pub struct PageAsk {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key after the span, or the end of the key space.
    pub end: Option<Vec<u8>>,
    /// From the end to the start.
    pub reverse: bool,
    /// The moment to read at.
    pub at: ReadAt,
    /// Rows, at most.
    pub rows_max: usize,
    /// Bytes, at most, unless one row has more.
    pub bytes_max: usize,
    /// When nobody waits any more.
    pub deadline: Instant,
}

/// A page that was read.
#[derive(Debug)]
pub struct Page {
    /// The rows.
    pub rows: Rows,
    /// Where the span goes on.
    pub resume: Option<Vec<u8>>,
    /// Whether the range has nothing more of the span.
    pub range_done: bool,
    /// Whether the span goes on behind the range.
    pub leaves: bool,
    /// The timestamp that was read at.
    pub read_ts: Timestamp,
}

/// A question to another shard, answered by [`Answer`] with the same ticket.
#[derive(Debug)]
pub enum Ask {
    /// To shard 0: an id for a new range.
    NewRange,
    /// To the shard that serves the page's range: read it.
    Page(Box<PageAsk>),
    /// To every shard: how are you?
    Status,
    /// To every shard: what do your replicas have?
    Replicas,
    /// To every shard: who leads your ranges, and who votes in them?
    Ranges,
    /// To every shard: a timestamp above every write that you have acknowledged.
    Clock,
    /// To every shard: what do you lead of this span, and how new is it?
    Newest(Arc<Span>),
    /// To shard 0: put these into the map that counts.
    MapEdit(Vec<RangeEntry>),
    /// To the new place of a range: write what its log has beyond its tables.
    Prepare(Box<Prepare>),
    /// To the new place of a range: take it.
    MoveIn(Box<MoveIn>),
    /// To the shard that has the first range: is it led there?
    First,
    /// To every shard: what is there to report, to the placer of a term?
    Look(Stock),
    /// To the shard that serves a range: the placer wants this done.
    Order(Box<Ordered>),
    /// To shard 0: a split is about to make this range.
    Claim(RangeId),
    /// To shard 0: the replicas of a range up to this life were removed from their group.
    Gone(RangeId, u32),
    /// To every shard: demand this version of other nodes.
    Demand(Version),
}

/// The answer to an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// The id.
    NewRange(RangeId),
    /// The page, or why not.
    Page(Result<Box<Page>, Box<Refusal>>),
    /// The shard's state.
    Status(Box<ShardStatus>),
    /// The shard's replicas.
    Replicas(Vec<ReplicaStatus>),
    /// The shard's ranges.
    Ranges(Vec<RangeStatus>),
    /// The timestamp.
    Clock(Timestamp),
    /// The shard's share of the span.
    Newest(Share),
    /// The version of the map that contains the edit.
    MapEdit(u64),
    /// It is durable.
    Prepared,
    /// The range is served there, as of this map version.
    MoveIn(u64),
    /// The term in which it is led.
    First(Option<u64>),
    /// What there is to report.
    Look(Box<Look>),
    /// The order came.
    Order,
    /// What a stranger has promised in the range's place, and the last life whose replicas were removed; `None`: ask again.
    Claim(Option<(Promised, Option<u32>)>),
    /// Shard 0 knows.
    Gone,
    /// The version is demanded.
    Demand,
}

/// A range on its way to another shard. What is committed is complete in its tables, what is not is in the new shard's log; nothing of
/// it is left in the old one's.
#[derive(Debug)]
pub struct MoveIn {
    /// The last entry in its tables: what the new shard opens must be this, not an older manifest from a lying disk.
    pub flushed: Index,
    /// The range at its new place.
    pub entry: RangeEntry,
    /// The old shard's clock: everything read there lies at or below.
    pub clock: Timestamp,
    /// Requests that waited for the move.
    pub parked: Vec<OwnedRequest>,
    /// Its place in its group, which goes on as it is: also with leadership, and with what it is bound to.
    pub moved: Moved,
}

/// A step of a transfer in a buffer of its own, for the shard that has the replica.
#[derive(Debug)]
pub struct OwnedTransfer {
    /// What it is.
    pub kind: Kind,
    /// The archive, aligned.
    pub payload: AlignedVec<16>,
    /// The shard of another node that it came from.
    pub caller: Peer,
    /// How often it was handed on.
    pub hops: u8,
}

/// What a shard tells shard 0 when it has recovered.
#[derive(Debug)]
pub struct Recovered {
    /// Its ranges.
    pub entries: Vec<RangeEntry>,
    /// The greatest timestamp it may have issued.
    pub clock: Timestamp,
    /// The greatest range id it has seen.
    pub range_max: RangeId,
    /// Whether replicas of it are damaged: ranges that are missing are not new.
    pub damaged: bool,
    /// Those whose files it has.
    pub held: Vec<RangeId>,
    /// What replicas of ranges that are not its own promised, as its log has it: strangers, or what is elsewhere by now.
    pub promises: BTreeMap<RangeId, HardState>,
}

/// What shard 0 tells every shard when all have recovered.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// Every range.
    pub map: Arc<RangeMap>,
    /// Nobody issues a timestamp at or below.
    pub clock: Timestamp,
    /// Where shard 0 listens, so that "port 0" means the same port on all shards.
    pub listen: env::Address,
    /// Which shard has the files of a damaged replica: of several that noted it, one, since a node has them once.
    pub held: Arc<BTreeMap<RangeId, ShardId>>,
    /// What replicas promised, as the logs of other shards may have it.
    pub promises: Arc<BTreeMap<RangeId, HardState>>,
}

/// A message from one shard of a node to another. `S` is a connection that no shard has taken up yet.
#[derive(Debug)]
pub enum ShardMessage<S> {
    /// A client's request for a range that the receiver serves.
    Request(OwnedRequest),
    /// Replies to connections of the receiver.
    Replies(Replies),
    /// A connection whose hello asked for the receiver.
    Handover(Box<transport::Handover<S>>),
    /// The range map that counts.
    Map(Arc<RangeMap>),
    /// A question.
    Ask {
        /// Names the question on the asking shard.
        ticket: u64,
        /// The question.
        ask: Ask,
    },
    /// An answer.
    Answer {
        /// The ticket of the question.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
    /// To shard 0: this shard turns.
    Pulse,
    /// From shard 0: what the node's failure detector says.
    Outlook(Arc<Outlook>),
    /// Other nodes were heard of.
    Learned {
        /// Which.
        members: Vec<Member>,
        /// Who says so.
        word: Word,
    },
    /// To shard 0: a node says that it has this data directory.
    Born(NodeId, u64),
    /// Which data directories nodes have.
    Births(Births),
    /// To shard 0: the version is active for another node.
    Version(Version),
    /// All shards demand the version: it is active.
    Active(Version),
    /// Nodes were removed from the cluster: all of them.
    Forgotten(BTreeSet<NodeId>),
    /// A letter for a replica that the receiver has, or knows more of.
    Letter {
        /// The letter.
        letter: Box<Letter>,
        /// The shard of another node that it came from.
        caller: Peer,
        /// How often it was handed on.
        hops: u8,
    },
    /// A step of a transfer, likewise.
    Transfer(Box<OwnedTransfer>),
    /// The leader of a range takes the receiver's replica to be on the sending shard.
    Misdirected(RangeId),
    /// To shard 0: the range that was claimed is not made by a split after all.
    Unclaim {
        /// The range.
        range: RangeId,
        /// What a stranger promised in its place.
        promised: Promised,
    },
    /// To shard 0: the range has no replica on the sender any more.
    Removed {
        /// The range.
        range: RangeId,
    },
    /// The range is to go to that shard, where its left neighbour is.
    Bring {
        /// The range.
        range: RangeId,
        /// The shard.
        to: ShardId,
    },
    /// The replicas of a range up to this life were removed from their group.
    Gone {
        /// The range.
        range: RangeId,
        /// The last life.
        life: u32,
    },
    /// The sender has a note of a damaged replica that was removed: does a later one vote on the receiver?
    AskReplaced {
        /// The range.
        range: RangeId,
        /// The life of the damaged one.
        life: u32,
    },
    /// It does.
    Replaced {
        /// The range.
        range: RangeId,
        /// The life of the damaged one.
        life: u32,
    },
    /// Start-up: who the node is and how many shards it had.
    Identity(crate::identity::Identity),
    /// Start-up: a shard has recovered.
    Recovered(Box<Recovered>),
    /// Start-up: all have.
    Assembled(Assembled),
}
