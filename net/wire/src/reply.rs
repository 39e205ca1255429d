//! What a server sends, version 1. Each struct is one [`crate::Kind`]; the archived form is frozen by golden bytes in the tests.

use crate::convert::Stamp;
pub use crate::policy::{ArchivedPoliciesReply, ArchivedSetPolicyReply, PoliciesReply, SetPolicyReply};
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// Answers [`crate::request::Hello`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct HelloReply<'a> {
    /// The node.
    pub node: u64,
    /// The cluster: 128 random bits, drawn when the first node was created.
    pub cluster: [u8; 16],
    /// How many shards the node has now.
    pub shards: u16,
    /// The shard that serves this connection.
    pub shard: u16,
    /// The protocol version that both sides speak from now on.
    pub version: u16,
    /// The version of the range map that the node has.
    pub range_map_version: u64,
    /// What the server accepts.
    pub limits: Limits,
    /// The server's version, for people.
    #[rkyv(with = InlineAsBox)]
    pub server: &'a str,
}

/// What the server accepts, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: u32,
    /// Bytes of a value.
    pub value_bytes_max: u32,
    /// Keys and values of one atomic write, together.
    pub batch_bytes_max: u32,
    /// Operations and conditions of one atomic write.
    pub batch_ops_max: u32,
    /// A frame's payload.
    pub frame_bytes_max: u32,
    /// Requests of one connection that may be unanswered; more are refused as overload.
    pub requests_max: u32,
}

/// Answers [`crate::request::Get`], version 1; see also [`StaleReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct GetReply<'a> {
    /// The value, if the key has one.
    #[rkyv(with = Map<InlineAsBox>)]
    pub value: Option<&'a [u8]>,
    /// The timestamp of the version read; of the read itself when there is no value.
    pub ts: Stamp,
}

/// Answers a [`crate::request::Get`] whose moment the server chose by its age, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct StaleReply<'a> {
    /// The value, if the key had one.
    #[rkyv(with = Map<InlineAsBox>)]
    pub value: Option<&'a [u8]>,
    /// The timestamp of the version read; of the read itself when there is no value.
    pub ts: Stamp,
    /// The timestamp that was read at: nothing changes any more at or below it.
    pub read_ts: Stamp,
}

/// Answers [`crate::request::Put`] and [`crate::request::Write`], version 1: applied and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct WriteReply {
    /// The timestamp of every version that the write made.
    pub ts: Stamp,
}

/// Answers [`crate::request::Write`], version 1: a condition did not hold and nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct ConditionFailed<'a> {
    /// The position of the first condition that failed.
    pub condition: u32,
    /// The value found in its place, if any.
    #[rkyv(with = Map<InlineAsBox>)]
    pub found: Option<&'a [u8]>,
    /// The timestamp at which it was looked at.
    pub ts: Stamp,
}

/// Answers [`crate::request::Modify`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct ModifyReply<'a> {
    /// The timestamp of the version that it made.
    pub ts: Stamp,
    /// The value that the key has there; `None` when a retry was answered: it is to be read at `ts`.
    #[rkyv(with = Map<InlineAsBox>)]
    pub value: Option<&'a [u8]>,
}

/// Answers [`crate::request::Transact`], version 1. Answers a plain read or write, too, when a transaction's intent is in its way: as
/// the answer to a batch whose request 0 was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct TransactReply<'a> {
    /// An answer, as `corelane-txn` encodes it.
    #[rkyv(with = InlineAsBox)]
    pub answer: &'a [u8],
    /// The clock of the shard that answers: above all that the answer is about.
    pub now: Stamp,
}

/// One page of a scan, version 1.
///
/// `data` holds key, value, key, value, … without gaps; `rows` says where each ends. The lengths add up to `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct ScanPage<'a> {
    /// The rows, in scan order.
    #[rkyv(with = InlineAsBox)]
    pub rows: &'a [RowHead],
    /// Keys and values.
    #[rkyv(with = InlineAsBox)]
    pub data: &'a [u8],
    /// Where the rest of the span begins: its first key (forwards, inclusive) or its end (in reverse, exclusive). `None`
    /// when nothing of the span is left.
    #[rkyv(with = Map<InlineAsBox>)]
    pub resume: Option<&'a [u8]>,
    /// The timestamp that the whole stream reads at.
    pub read_ts: Stamp,
    /// This is the last page of the stream. With `resume` the span goes on in another range, or the row limit was reached.
    pub done: bool,
}

/// Lengths and timestamp of one row of a [`ScanPage`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct RowHead {
    /// The version's wall time.
    pub wall_ns: u64,
    /// The version's logical part.
    pub logical: u32,
    /// Bytes of the key.
    pub key_bytes: u32,
    /// Bytes of the value.
    pub value_bytes: u32,
}

/// Answers [`crate::request::RangeMap`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct RangeMapReply<'a> {
    /// Increases with every change of the map.
    pub version: u64,
    /// Every range that the node knows, by start key. Of a node that is alone without gaps: the first starts at the empty
    /// key, the last has no end.
    #[rkyv(with = InlineAsBox)]
    pub ranges: &'a [RangeEntry<'a>],
    /// All nodes of the cluster, the answering one included; empty for a node that is alone. The ranges of a node of a
    /// cluster may have gaps: it has no replica of what is missing, or not yet.
    #[rkyv(with = InlineAsBox)]
    pub nodes: &'a [NodeEntry<'a>],
}

/// One node of the cluster, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct NodeEntry<'a> {
    /// The node.
    pub node: u64,
    /// Where clients reach it: `HOST:PORT`.
    #[rkyv(with = InlineAsBox)]
    pub address: &'a str,
}

/// One range of the map, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct RangeEntry<'a> {
    /// The range.
    pub range: u64,
    /// Its first key.
    #[rkyv(with = InlineAsBox)]
    pub start: &'a [u8],
    /// The first key after it.
    #[rkyv(with = Map<InlineAsBox>)]
    pub end: Option<&'a [u8]>,
    /// The shard that serves it.
    pub shard: u16,
    /// Increases with every split and move of this range.
    pub generation: u64,
    /// The node that leads it, as far as the answering one knows; `None` when it does not, or is alone.
    pub leader: Option<u64>,
    /// The nodes that have a replica that votes, as far as the answering node knows; none when it does not know, while they
    /// change, or when it is alone.
    #[rkyv(with = InlineAsBox)]
    pub nodes: &'a [u64],
}

/// Answers [`crate::request::Split`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct SplitReply {
    /// The range that keeps the keys before the split key.
    pub left: u64,
    /// The range that starts at the split key.
    pub right: u64,
    /// The shard of the right range.
    pub right_shard: u16,
    /// The range map that contains the split.
    pub range_map_version: u64,
}

/// Answers [`crate::request::Move`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct MoveReply {
    /// The range.
    pub range: u64,
    /// Where it is now.
    pub shard: u16,
    /// The range map that contains the move.
    pub range_map_version: u64,
}

/// Answers [`crate::request::Merge`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct MergeReply {
    /// The range.
    pub range: u64,
    /// Its right neighbour, which is no more.
    pub absorbed: u64,
    /// The range map that contains the merge.
    pub range_map_version: u64,
}

/// Answers [`crate::request::Place`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct PlaceReply<'a> {
    /// The range.
    pub range: u64,
    /// The nodes that have a replica that votes.
    #[rkyv(with = InlineAsBox)]
    pub nodes: &'a [u64],
    /// The node that answers and leads.
    pub leader: u64,
}

/// Answers [`crate::request::Explain`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct ExplainReply<'a> {
    /// Sentences for people, one a line.
    #[rkyv(with = InlineAsBox)]
    pub text: &'a str,
}

/// Answers [`crate::request::Stand`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct StandReply {
    /// The node.
    pub node: u64,
}

/// Answers [`crate::request::Status`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct StatusReply<'a> {
    /// The status as a JSON object; its fields are documented with the command `status`.
    #[rkyv(with = InlineAsBox)]
    pub json: &'a str,
}

/// Answers [`crate::request::Echo`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct EchoReply<'a> {
    /// What was sent.
    #[rkyv(with = InlineAsBox)]
    pub payload: &'a [u8],
}

/// Answers [`crate::request::DiskWrite`], version 1: the bytes are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct DiskWriteReply {
    /// How many bytes.
    pub bytes: u32,
}

/// Answers any request that failed, version 1. Unless the code is `Ambiguous`, the request changed nothing.
///
/// With request id 0 it concerns the connection, which is closed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct ErrorReply<'a> {
    /// See [`crate::code`].
    pub code: u16,
    /// Whether the same request may succeed later, or elsewhere after a look at the range map.
    pub retryable: bool,
    /// How long to wait before a retry, at least; zero when the server has no advice.
    pub retry_after_ms: u32,
    /// The version of the range map that the server has; a client with an older one asks for it.
    pub range_map_version: u64,
    /// The range concerned, if any.
    pub range: Option<u64>,
    /// The node that leads that range, if it is another one and the server knows it.
    pub leader: Option<u64>,
    /// The key concerned, if any.
    #[rkyv(with = Map<InlineAsBox>)]
    pub key: Option<&'a [u8]>,
    /// What happened, to what: one sentence.
    #[rkyv(with = InlineAsBox)]
    pub message: &'a str,
}

impl ErrorReply<'_> {
    /// An error without details; fill in the rest with struct update syntax.
    #[must_use]
    pub const fn new(code: crate::Code) -> Self {
        Self {
            code: code.number(),
            retryable: false,
            retry_after_ms: 0,
            range_map_version: 0,
            range: None,
            leader: None,
            key: None,
            message: "",
        }
    }
}
