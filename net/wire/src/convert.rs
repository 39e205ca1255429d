//! Between archived messages and the vocabulary of `base`, without copying.
#![deny(clippy::indexing_slicing)]

use crate::reply::{
    ArchivedConditionFailed, ArchivedErrorReply, ArchivedGetReply, ArchivedModifyReply, ArchivedRangeEntry,
    ArchivedScanPage, ArchivedStaleReply,
};
use crate::request::{
    ArchivedCondition, ArchivedGet, ArchivedHello, ArchivedModification, ArchivedOp, ArchivedPlace,
    ArchivedReadAt, ArchivedScan, ArchivedWrite, Condition, Modification, Op, ReadAt,
};
use base::api::{self, WriteId};
use base::{ClientId, NodeId, RangeId, ShardId, Timestamp};
use core::time::Duration;
use rkyv::{Archive, Serialize};

/// A [`Timestamp`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Stamp {
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Orders events of the same nanosecond.
    pub logical: u32,
}

impl From<Timestamp> for Stamp {
    fn from(ts: Timestamp) -> Self {
        Self {
            wall_ns: ts.wall_ns,
            logical: ts.logical,
        }
    }
}

impl From<&ArchivedStamp> for Timestamp {
    fn from(stamp: &ArchivedStamp) -> Self {
        Self::new(stamp.wall_ns.to_native(), stamp.logical.to_native())
    }
}

impl ArchivedStamp {
    /// The timestamp.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.into()
    }
}

/// A [`WriteId`], version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct WriteIdV1 {
    /// The client's session, little-endian.
    pub client: [u8; 16],
    /// The write's number in the session, from 1.
    pub seq: u64,
    /// Every write of the session below this number has been answered.
    pub acked_below: u64,
}

impl From<WriteId> for WriteIdV1 {
    fn from(id: WriteId) -> Self {
        Self {
            client: id.client.0.to_le_bytes(),
            seq: id.seq,
            acked_below: id.acked_below,
        }
    }
}

impl From<&ArchivedWriteIdV1> for WriteId {
    fn from(id: &ArchivedWriteIdV1) -> Self {
        Self {
            client: ClientId(u128::from_le_bytes(id.client)),
            seq: id.seq.to_native(),
            acked_below: id.acked_below.to_native(),
        }
    }
}

impl ArchivedWriteIdV1 {
    /// The write's name.
    #[must_use]
    pub fn write_id(&self) -> WriteId {
        self.into()
    }
}

impl From<api::ReadAt> for ReadAt {
    /// Ages are rounded up to milliseconds; beyond 49 days they become 49 days.
    fn from(at: api::ReadAt) -> Self {
        let ms = |age: Duration| u32::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        match at {
            api::ReadAt::Newest => Self::Newest,
            api::ReadAt::At(ts) => Self::At { ts: ts.into() },
            api::ReadAt::Ago(age) => Self::Ago { ms: ms(age) },
            api::ReadAt::Within(age) => Self::Within { ms: ms(age) },
        }
    }
}

impl From<&ArchivedReadAt> for api::ReadAt {
    fn from(at: &ArchivedReadAt) -> Self {
        let age = |ms: u32| Duration::from_millis(ms.into());
        match at {
            ArchivedReadAt::Newest => Self::Newest,
            ArchivedReadAt::At { ts } => Self::At(ts.into()),
            ArchivedReadAt::Ago { ms } => Self::Ago(age(ms.to_native())),
            ArchivedReadAt::Within { ms } => Self::Within(age(ms.to_native())),
        }
    }
}

impl<'a> From<api::WriteOp<'a>> for Op<'a> {
    fn from(op: api::WriteOp<'a>) -> Self {
        match op {
            api::WriteOp::Put { key, value } => Self::Put { key, value },
            api::WriteOp::Delete { key } => Self::Delete { key },
            api::WriteOp::DeleteRange { start, end } => Self::DeleteRange { start, end },
        }
    }
}

impl<'a> From<&'a ArchivedOp<'static>> for api::WriteOp<'a> {
    fn from(op: &'a ArchivedOp<'static>) -> Self {
        match op {
            ArchivedOp::Put { key, value } => Self::Put { key, value },
            ArchivedOp::Delete { key } => Self::Delete { key },
            ArchivedOp::DeleteRange { start, end } => Self::DeleteRange {
                start,
                end: end.as_ref().map(|end| &**end),
            },
        }
    }
}

impl<'a> From<api::Condition<'a>> for Condition<'a> {
    fn from(condition: api::Condition<'a>) -> Self {
        match condition {
            api::Condition::Absent { key } => Self::Absent { key },
            api::Condition::Equals { key, value } => Self::Equals { key, value },
        }
    }
}

impl<'a> From<&'a ArchivedCondition<'static>> for api::Condition<'a> {
    fn from(condition: &'a ArchivedCondition<'static>) -> Self {
        match condition {
            ArchivedCondition::Absent { key } => Self::Absent { key },
            ArchivedCondition::Equals { key, value } => Self::Equals { key, value },
        }
    }
}

impl<'a> From<base::Modification<'a>> for Modification<'a> {
    fn from(by: base::Modification<'a>) -> Self {
        match by {
            base::Modification::Add { delta, min, max } => Self::Add { delta, min, max },
            base::Modification::Min { value } => Self::Min { value },
            base::Modification::Max { value } => Self::Max { value },
            base::Modification::Append { bytes, len_max } => Self::Append { bytes, len_max },
        }
    }
}

impl<'a> From<&'a ArchivedModification<'static>> for base::Modification<'a> {
    fn from(by: &'a ArchivedModification<'static>) -> Self {
        match by {
            ArchivedModification::Add { delta, min, max } => Self::Add {
                delta: delta.to_native(),
                min: min.to_native(),
                max: max.to_native(),
            },
            ArchivedModification::Min { value } => Self::Min {
                value: value.to_native(),
            },
            ArchivedModification::Max { value } => Self::Max {
                value: value.to_native(),
            },
            ArchivedModification::Append { bytes, len_max } => Self::Append {
                bytes,
                len_max: len_max.to_native(),
            },
        }
    }
}

impl ArchivedHello<'static> {
    /// The client's session.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        ClientId(u128::from_le_bytes(self.client))
    }

    /// The shard asked for.
    #[must_use]
    pub fn shard_id(&self) -> Option<ShardId> {
        self.shard.as_ref().map(|shard| ShardId(shard.to_native()))
    }
}

impl ArchivedGet<'static> {
    /// The moment to read at.
    #[must_use]
    pub fn at(&self) -> api::ReadAt {
        (&self.at).into()
    }
}

impl ArchivedWrite<'static> {
    /// What must hold, in order.
    pub fn conditions(&self) -> impl ExactSizeIterator<Item = api::Condition<'_>> + Clone {
        self.conditions.iter().map(api::Condition::from)
    }

    /// What is done, in order.
    pub fn ops(&self) -> impl ExactSizeIterator<Item = api::WriteOp<'_>> + Clone {
        self.ops.iter().map(api::WriteOp::from)
    }
}

impl ArchivedScan<'static> {
    /// The first key after the span, or `None` for the end of the key space.
    #[must_use]
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_ref().map(|end| &**end)
    }

    /// The moment to read at.
    #[must_use]
    pub fn at(&self) -> api::ReadAt {
        (&self.at).into()
    }

    /// Rows of the whole stream, at most.
    #[must_use]
    pub fn rows_max(&self) -> Option<u64> {
        self.rows_max.as_ref().map(|rows| rows.to_native())
    }
}

impl ArchivedGetReply<'static> {
    /// The value, if the key has one.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_ref().map(|value| &**value)
    }
}

impl ArchivedStaleReply<'static> {
    /// The value, if the key had one.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_ref().map(|value| &**value)
    }
}

impl ArchivedModifyReply<'static> {
    /// The value, if it was told.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_ref().map(|value| &**value)
    }
}

impl ArchivedConditionFailed<'static> {
    /// The value found, if any.
    #[must_use]
    pub fn found(&self) -> Option<&[u8]> {
        self.found.as_ref().map(|found| &**found)
    }
}

impl ArchivedScanPage<'static> {
    /// Where the rest of the span begins.
    #[must_use]
    pub fn resume(&self) -> Option<&[u8]> {
        self.resume.as_ref().map(|key| &**key)
    }
}

impl ArchivedRangeEntry<'static> {
    /// The first key after the range, or `None` for the end of the key space.
    #[must_use]
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_ref().map(|end| &**end)
    }

    /// The range.
    #[must_use]
    pub fn range_id(&self) -> RangeId {
        RangeId(self.range.to_native())
    }

    /// The shard that serves it.
    #[must_use]
    pub fn shard_id(&self) -> ShardId {
        ShardId(self.shard.to_native())
    }

    /// The node that leads it, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader.as_ref().map(|node| NodeId(node.to_native()))
    }

    /// The nodes that have a replica that votes, as far as is known.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().map(|node| NodeId(node.to_native()))
    }
}

impl ArchivedPlace<'static> {
    /// The range.
    #[must_use]
    pub fn range_id(&self) -> RangeId {
        RangeId(self.range.to_native())
    }

    /// The nodes that shall have replicas.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().map(|node| NodeId(node.to_native()))
    }

    /// The node that shall lead, if one was named.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader.as_ref().map(|node| NodeId(node.to_native()))
    }
}

impl ArchivedErrorReply<'static> {
    /// The range concerned, if any.
    #[must_use]
    pub fn range(&self) -> Option<RangeId> {
        self.range.as_ref().map(|range| RangeId(range.to_native()))
    }

    /// The node that leads the range concerned, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader.as_ref().map(|node| NodeId(node.to_native()))
    }

    /// The key concerned, if any.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(|key| &**key)
    }
}
