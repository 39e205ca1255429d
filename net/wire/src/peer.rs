//! What two shards of a cluster send each other, version 1. Each struct is one [`crate::Kind`]; the archived form is frozen by
//! golden bytes in the tests.
//!
//! A connection leads from one shard of one node to one shard of another, and has been dialled by the one that sends; for the
//! other direction there is another connection. The first frame is a [`PeerHello`], all others are [`Train`]s, one per loop
//! turn at most, with everything for that shard, whichever group it is of, [`Transfer`]s of state, [`Placing`]s, what is [`Closed`], and how [`Newest`] writes are. Nothing comes back but a
//! [`crate::reply::ErrorReply`] with request 0 before the receiver closes. Numbers of a group (terms, indexes, rounds,
//! epochs) and lists of its members are checked by who takes them in, not here.

pub use crate::closed::{
    ArchivedClosed, ArchivedClosedRange, ArchivedClosedStep, CLOSED_RANGES_MAX, Closed, ClosedRange,
    ClosedStep,
};
pub use crate::newest::{ArchivedNewest, ArchivedNewestStep, Newest, NewestStep};
pub use crate::placing::{
    ArchivedHotReport, ArchivedLedReport, ArchivedNodeReport, ArchivedPlacing, ArchivedPlacingStep,
    ArchivedRangeReport, ArchivedReplicaReport, ArchivedStanding, ArchivedTodo, HotReport, LedReport,
    NodeReport, Placing, PlacingStep, RangeReport, ReplicaReport, Standing, Todo,
};
pub use crate::policy::{ArchivedPolicy, ArchivedPolicyWish, Policy, PolicyWish};
pub use crate::train::{
    Answer, ArchivedAnswer, ArchivedBody, ArchivedContent, ArchivedEcho, ArchivedEntry, ArchivedGroupMessage,
    ArchivedLiveness, ArchivedMark, ArchivedPromise, Body, Content, Echo, Entry, GroupMessage, Liveness,
    Mark, Promise,
};
pub use crate::transfer::{ArchivedTransfer, ArchivedTransferStep, Transfer, TransferStep};
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// The first frame of a connection between shards, from the side that dialled, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct PeerHello {
    /// The cluster, which must be the receiver's.
    pub cluster: [u8; 16],
    /// The sender's node.
    pub node: u64,
    /// The sender's shard.
    pub shard: u16,
    /// Who the sender takes the receiver for.
    pub to_node: u64,
    /// The shard that it wants there.
    pub to_shard: u16,
    /// The version of the protocol between nodes that is active for the sender: it says nothing to anybody who speaks less.
    pub version_min: u16,
    /// The newest version of it that the sender speaks.
    pub version_max: u16,
    /// Where clients and other nodes reach the sender.
    pub address: NodeAddress,
    /// The name that the sender's data directory was given when it was made, not zero.
    pub birth: u64,
}

/// Where a node is reached, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct NodeAddress {
    /// An IPv6 address, or the one that stands for an IPv4 address.
    pub ip: [u8; 16],
    /// The port.
    pub port: u16,
}

/// The nodes of the cluster that the sender knows, version 1. Not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Roster<'a> {
    /// All of them, in no order.
    #[rkyv(with = InlineAsBox)]
    pub nodes: &'a [RosterEntry],
}

/// One node of a [`Roster`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct RosterEntry {
    /// The node.
    pub node: u64,
    /// Where it is reached.
    pub address: NodeAddress,
    /// The name of its data directory; zero when the sender does not know it.
    pub birth: u64,
}

/// Everything of one loop turn from one shard to another, version 1. Not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Train<'a> {
    /// Of the failure detector between the two shards.
    pub liveness: Option<Liveness>,
    /// Of groups, in the order in which they were sent.
    #[rkyv(with = InlineAsBox)]
    pub messages: &'a [GroupMessage<'a>],
}
