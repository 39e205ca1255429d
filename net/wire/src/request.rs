//! What a client sends, version 1. Each struct is one [`crate::Kind`]; the archived form is frozen by golden bytes in the tests.
//!
//! Deadlines are milliseconds from receipt: clocks of clients are not trusted. Spans are half-open, `[start, end)`.

use crate::convert::WriteIdV1;
pub use crate::op::{
    ArchivedCondition, ArchivedModification, ArchivedOp, ArchivedReadAt, Condition, Modification, Op, ReadAt,
};
pub use crate::policy::{ArchivedPolicies, ArchivedSetPolicy, Policies, PolicyWish, SetPolicy};
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// The first frame of a connection, version 1: who the client is and which shard it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Hello<'a> {
    /// The client session: 128 random bits, kept over reconnects.
    pub client: [u8; 16],
    /// The shard that should serve this connection; `None` leaves it where it lands.
    pub shard: Option<u16>,
    /// The lowest protocol version that the client speaks.
    pub version_min: u16,
    /// The highest protocol version that the client speaks.
    pub version_max: u16,
    /// A name for people, shown in status: at most [`APP_BYTES_MAX`] bytes of UTF-8.
    #[rkyv(with = InlineAsBox)]
    pub app: &'a str,
}

/// The longest application name of a [`Hello`].
pub const APP_BYTES_MAX: usize = 64;

/// Reads one key, version 1. Answered by [`crate::reply::GetReply`], or by [`crate::reply::StaleReply`] when the server chose the
/// moment by an age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Get<'a> {
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// The moment to read at.
    pub at: ReadAt,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Sets one key, version 1: the hot path of [`Write`]. Answered by [`crate::reply::WriteReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Put<'a> {
    /// Names the write over its retries.
    pub id: WriteIdV1,
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// The value.
    #[rkyv(with = InlineAsBox)]
    pub value: &'a [u8],
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// An atomic write within one range, version 1: all conditions hold and all operations happen, or nothing does.
///
/// Answered by [`crate::reply::WriteReply`] or [`crate::reply::ConditionFailed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Write<'a> {
    /// Names the write over its retries.
    pub id: WriteIdV1,
    /// What must hold.
    #[rkyv(with = InlineAsBox)]
    pub conditions: &'a [Condition<'a>],
    /// What is done, in order; a later operation on a key covers an earlier one.
    #[rkyv(with = InlineAsBox)]
    pub ops: &'a [Op<'a>],
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Changes the value of one key by what it is, version 1. Answered by [`crate::reply::ModifyReply`], or by
/// [`crate::reply::ConditionFailed`] when the result would lie outside of its bounds: then nothing was written.
///
/// Many for one key do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Modify<'a> {
    /// Names the write over its retries.
    pub id: WriteIdV1,
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// What becomes of its value.
    pub by: Modification<'a>,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Reads a span as a stream of pages, version 1. Answered by one or more [`crate::reply::ScanPage`] with this request's id.
///
/// The server sends at most `credit_pages` pages before it waits for [`ScanCredit`]. A stream covers one range: its last page
/// names where the next range begins, and the client sends a new `Scan` from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Scan<'a> {
    /// The first key of the span.
    #[rkyv(with = InlineAsBox)]
    pub start: &'a [u8],
    /// The first key after the span; `None` means the end of the key space.
    #[rkyv(with = Map<InlineAsBox>)]
    pub end: Option<&'a [u8]>,
    /// From the end of the span to its start.
    pub reverse: bool,
    /// The moment to read at; the pages say which one the server chose.
    pub at: ReadAt,
    /// Rows of the whole stream, at most; `None` reads the whole span.
    pub rows_max: Option<u64>,
    /// Rows of one page, at most: in `1..=base::limits::SCAN_ROWS_MAX`.
    pub page_rows: u32,
    /// Bytes of keys and values of one page, at most, unless a single row is larger: in `1..=base::limits::SCAN_BYTES_MAX`.
    pub page_bytes: u32,
    /// Pages that the server may send ahead: in `1..=`[`CREDIT_PAGES_MAX`].
    pub credit_pages: u32,
    /// Milliseconds from receipt, for each page.
    pub deadline_ms: u32,
}

/// The most pages of a scan that may be under way to the client at once.
pub const CREDIT_PAGES_MAX: u32 = 64;

/// Lets the scan with this frame's request id send more pages, version 1. Not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct ScanCredit {
    /// Pages more.
    pub pages: u32,
}

/// Ends the scan with this frame's request id, version 1. Answered by the scan's last page, which may be empty; pages under
/// way arrive before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct ScanCancel {
    /// Always zero: an archive without fields would have no bytes.
    pub reserved: u32,
}

/// Asks for the range map, version 1. Answered by [`crate::reply::RangeMapReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct RangeMap {
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Splits the range that holds `key`, so that `key` starts the right half, version 1. Answered by [`crate::reply::SplitReply`].
///
/// Splitting where a range starts already changes nothing and succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Split<'a> {
    /// The first key of the right half.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Moves a range to another shard of its node, version 1. Answered by [`crate::reply::MoveReply`].
///
/// Moving a range to where it is changes nothing and succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Move {
    /// The range.
    pub range: u64,
    /// The shard that it moves to.
    pub shard: u16,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Says which nodes shall have the replicas of a range, and which of them shall lead it, version 1. Answered by
/// [`crate::reply::PlaceReply`] when it is so.
///
/// Replicas are added, and get the range's state, before others are removed. A request that is given up half way leaves the range
/// served, perhaps with replicas more than before; the same request finishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Place<'a> {
    /// The range.
    pub range: u64,
    /// The nodes; those that have replicas now when empty.
    #[rkyv(with = InlineAsBox)]
    pub nodes: &'a [u64],
    /// Who shall lead; whoever does when `None`.
    pub leader: Option<u64>,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Merges a range with its right neighbour, whose keys it gets, version 1. Answered by [`crate::reply::MergeReply`].
///
/// Both must have their replicas on the same nodes. A request that is given up half way leaves both ranges as they were, after a moment.
/// Merging with a neighbour that was absorbed already changes nothing and succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Merge {
    /// The range.
    pub range: u64,
    /// Its right neighbour.
    pub right: u64,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Asks why the replicas of a range are where they are, and what is to be done about it, version 1. Answered by
/// [`crate::reply::ExplainReply`] on the node that leads the first range; others refuse and name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Explain {
    /// The range.
    pub range: u64,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Says how a node is meant to be used, version 1. Answered by [`crate::reply::StandReply`] on the node that leads the first range, once
/// it is durable there; others refuse and name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Stand {
    /// The node.
    pub node: u64,
    /// As in [`crate::peer::Standing`].
    pub state: u8,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Requests of a transaction, or about one, to the range that has their keys, version 1. Answered by
/// [`crate::reply::TransactReply`].
///
/// All of them happen in one entry of the range's log, or none does. What they are and what they promise is the transactions' own
/// protocol: `docs/transactions.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Transact<'a> {
    /// A batch, as `corelane-txn` encodes it.
    #[rkyv(with = InlineAsBox)]
    pub batch: &'a [u8],
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Asks for the node's status, version 1. Answered by [`crate::reply::StatusReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Status {
    /// Whether each replica is listed too, with a checksum of its whole content.
    pub replicas: bool,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// Sends `payload` back, version 1: the floor of every measurement. Answered by [`crate::reply::EchoReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Echo<'a> {
    /// Any bytes.
    #[rkyv(with = InlineAsBox)]
    pub payload: &'a [u8],
}

/// Writes raw bytes durably to the shard's data device and forgets them, version 1: the disk's floor in the bench.
///
/// Answered by [`crate::reply::DiskWriteReply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct DiskWrite {
    /// How many bytes: a multiple of [`base::limits::BLOCK_BYTES`], at most [`DISK_WRITE_BYTES_MAX`].
    pub bytes: u32,
    /// Milliseconds from receipt.
    pub deadline_ms: u32,
}

/// The longest [`DiskWrite`].
pub const DISK_WRITE_BYTES_MAX: u32 = 1 << 20;
