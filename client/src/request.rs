//! Requests and replies as values: what is sent again on a retry, and what came back. Pure.

use crate::cursor::Page;
use crate::policy::{Policies, Policy, PolicyChange, with_prefix};
use crate::range_cache::{RangeCache, RangeInfo};
use crate::staleness::StaleValue;
use crate::{Address, Error};
use base::api::{Condition, ReadAt, WriteId, WriteOp};
use base::key::Span;
use base::limits;
use base::{Modification, NodeId, RangeId, RequestId, ShardId, Timestamp};
use wire::convert::WriteIdV1;
use wire::peer::PolicyWish;
use wire::reply::{ArchivedHelloReply, ArchivedRangeMapReply};
use wire::{Code, EncodeError, Outbox, ReplyRef, request};

/// One request, borrowed from its caller over all its tries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request<'a> {
    Get {
        key: &'a [u8],
        at: ReadAt,
    },
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Write {
        conditions: &'a [Condition<'a>],
        ops: &'a [WriteOp<'a>],
    },
    Modify {
        key: &'a [u8],
        by: Modification<'a>,
    },
    /// A batch of a transaction, for the range that has `key`.
    Transact {
        key: &'a [u8],
        batch: &'a [u8],
    },
    RangeMap,
    Split {
        key: &'a [u8],
    },
    Move {
        range: RangeId,
        shard: ShardId,
    },
    Merge {
        range: RangeId,
        right: RangeId,
    },
    Place {
        range: RangeId,
        nodes: &'a [u64],
        leader: Option<NodeId>,
    },
    Explain {
        range: RangeId,
    },
    Stand {
        node: NodeId,
        state: u8,
    },
    SetPolicy {
        prefix: &'a [u8],
        wish: Option<PolicyWish<'a>>,
    },
    Policies,
    Status {
        replicas: bool,
    },
    Echo {
        payload: &'a [u8],
    },
    DiskWrite {
        bytes: u32,
    },
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// To the node and shard that serve this key.
    Key(&'a [u8]),
    /// To those that serve the last keys before this one, or the last of all.
    Before(Option<&'a [u8]>),
    /// To the node that leads this range.
    Range(RangeId),
    /// To the home server's shard of this number.
    Home(ShardId),
}

impl<'a> Request<'a> {
    /// Whether the server changes keys, so that it must recognise a repetition.
    pub(crate) fn is_write(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Write { .. } | Self::Modify { .. } => true,
            // The coordinator has names for its writes.
            Self::Transact { .. }
            | Self::Get { .. }
            | Self::RangeMap
            | Self::Split { .. }
            | Self::Move { .. }
            | Self::Merge { .. }
            | Self::Place { .. }
            | Self::Explain { .. }
            | Self::Stand { .. }
            | Self::SetPolicy { .. }
            | Self::Policies
            | Self::Status { .. }
            | Self::Echo { .. }
            | Self::DiskWrite { .. } => false,
        }
    }

    /// At what a read looks; `None` for what is no read of a key.
    pub(crate) fn reads_at(&self) -> Option<ReadAt> {
        match self {
            Self::Get { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// What was in the way of a read of the newest value was pushed above `now`, the clock of the leader, which is later than all that
    /// was acknowledged before: the read is one of that moment, or it would run after what it has pushed for ever.
    pub(crate) fn read_at(&mut self, now: Timestamp) {
        if let Self::Get { at, .. } = self
            && *at == ReadAt::Newest
        {
            *at = ReadAt::At(now);
        }
    }

    /// Whether replicas that do not lead may answer: then the nearest one is asked.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Self::Get { at, .. } if at.is_stale())
    }

    /// Whether the server may work on it for long without a word: that says nothing about whether it lives, and another server
    /// would begin anew.
    pub(crate) fn takes_long(&self) -> bool {
        match self {
            Self::Status { replicas } => *replicas,
            Self::Split { .. }
            | Self::Move { .. }
            | Self::Merge { .. }
            | Self::Place { .. }
            | Self::DiskWrite { .. } => true,
            Self::Get { .. }
            | Self::Put { .. }
            | Self::Write { .. }
            | Self::Modify { .. }
            | Self::Transact { .. }
            | Self::RangeMap
            | Self::Explain { .. }
            | Self::Stand { .. }
            | Self::SetPolicy { .. }
            | Self::Policies
            | Self::Echo { .. } => false,
        }
    }

    pub(crate) fn route(&self) -> Route<'a> {
        match *self {
            Self::Get { key, .. }
            | Self::Put { key, .. }
            | Self::Modify { key, .. }
            | Self::Transact { key, .. }
            | Self::Split { key } => Route::Key(key),
            Self::Write { conditions, ops } => {
                let key = ops
                    .first()
                    .map(WriteOp::key)
                    .or_else(|| conditions.first().map(Condition::key));
                Route::Key(key.unwrap_or_default())
            }
            Self::Place { range, .. } | Self::Merge { range, .. } => Route::Range(range),
            // To the node that leads the first range: it looks after all others.
            Self::Explain { .. } | Self::Stand { .. } | Self::SetPolicy { .. } | Self::Policies => {
                Route::Key(&[])
            }
            Self::RangeMap
            | Self::Move { .. }
            | Self::Status { .. }
            | Self::Echo { .. }
            | Self::DiskWrite { .. } => Route::Home(ShardId(0)),
        }
    }

    /// Appends the request's frame. `id` is there for writes.
    pub(crate) fn encode(
        &self,
        outbox: &mut Outbox,
        number: RequestId,
        id: WriteId,
        deadline_ms: u32,
    ) -> Result<(), EncodeError> {
        let id = WriteIdV1::from(id);
        match *self {
            Self::Get { key, at } => outbox.push(
                number,
                &request::Get {
                    key,
                    at: at.into(),
                    deadline_ms,
                },
            ),
            Self::Put { key, value } => outbox.push(
                number,
                &request::Put {
                    id,
                    key,
                    value,
                    deadline_ms,
                },
            ),
            Self::Write { conditions, ops } => {
                let conditions: Vec<_> = conditions.iter().copied().map(request::Condition::from).collect();
                let ops: Vec<_> = ops.iter().copied().map(request::Op::from).collect();
                outbox.push(
                    number,
                    &request::Write {
                        id,
                        conditions: &conditions,
                        ops: &ops,
                        deadline_ms,
                    },
                )
            }
            Self::Modify { key, by } => outbox.push(
                number,
                &request::Modify {
                    id,
                    key,
                    by: by.into(),
                    deadline_ms,
                },
            ),
            Self::Transact { batch, .. } => outbox.push(number, &request::Transact { batch, deadline_ms }),
            Self::RangeMap => outbox.push(number, &request::RangeMap { deadline_ms }),
            Self::Split { key } => outbox.push(number, &request::Split { key, deadline_ms }),
            Self::Move { range, shard } => outbox.push(
                number,
                &request::Move {
                    range: range.0,
                    shard: shard.0,
                    deadline_ms,
                },
            ),
            Self::Merge { range, right } => outbox.push(
                number,
                &request::Merge {
                    range: range.0,
                    right: right.0,
                    deadline_ms,
                },
            ),
            Self::Place { range, nodes, leader } => outbox.push(
                number,
                &request::Place {
                    range: range.0,
                    nodes,
                    leader: leader.map(|node| node.0),
                    deadline_ms,
                },
            ),
            Self::Explain { range } => outbox.push(
                number,
                &request::Explain {
                    range: range.0,
                    deadline_ms,
                },
            ),
            Self::Stand { node, state } => outbox.push(
                number,
                &request::Stand {
                    node: node.0,
                    state,
                    deadline_ms,
                },
            ),
            Self::SetPolicy { prefix, wish } => outbox.push(
                number,
                &request::SetPolicy {
                    prefix,
                    wish,
                    deadline_ms,
                },
            ),
            Self::Policies => outbox.push(number, &request::Policies { deadline_ms }),
            Self::Status { replicas } => outbox.push(
                number,
                &request::Status {
                    replicas,
                    deadline_ms,
                },
            ),
            Self::Echo { payload } => outbox.push(number, &request::Echo { payload }),
            Self::DiskWrite { bytes } => outbox.push(number, &request::DiskWrite { bytes, deadline_ms }),
        }
    }
}

/// How a conditional put ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The condition held and the value was written.
    Written(Timestamp),
    /// The condition did not hold and nothing was written.
    Refused {
        /// The value found, if any.
        found: Option<Vec<u8>>,
        /// The timestamp at which it was looked at.
        ts: Timestamp,
    },
}

impl Swap {
    /// Whether the value was written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}

/// How a modification ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modified {
    /// It was done.
    Done {
        /// What the key has by it.
        value: Vec<u8>,
        /// The timestamp of that version.
        ts: Timestamp,
    },
    /// The result would lie outside of the bounds, and nothing was written.
    Refused {
        /// What the key has, if anything.
        found: Option<Vec<u8>>,
        /// The timestamp at which that was so.
        ts: Timestamp,
    },
}

impl Modified {
    /// Whether it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }

    /// The number that the key has now, whether it was done or refused: zero where it has none.
    #[must_use]
    pub fn number(&self) -> i64 {
        let value = match self {
            Self::Done { value, .. } => Some(&**value),
            Self::Refused { found, .. } => found.as_deref(),
        };
        value
            .and_then(|value| base::modification::parse(value).ok())
            .unwrap_or(0)
    }
}

/// A range was split, or started at the key already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// The range of the keys before.
    pub left: RangeId,
    /// The range that starts at the key.
    pub right: RangeId,
    /// The shard of the right range.
    pub right_shard: ShardId,
}

/// A range was moved, or was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The range.
    pub range: RangeId,
    /// The shard that serves it now.
    pub shard: ShardId,
}

/// A range was merged with its right neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// The range, which has the keys of both.
    pub range: RangeId,
    /// Its right neighbour, which is no more.
    pub absorbed: RangeId,
}

/// How a node of a cluster is meant to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeUse {
    /// It has replicas and leads ranges.
    Used = 0,
    /// It keeps its replicas and leads nothing: it is about to stop for a while.
    Drained = 1,
    /// It gives its replicas away: it is about to go for good.
    Emptied = 2,
}

/// The state of a node that is gone for good, after those of [`NodeUse`].
pub(crate) const NODE_REMOVED: u8 = 3;

/// Where the replicas of a range are, after they were placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The range.
    pub range: RangeId,
    /// The nodes that have a replica that votes, ascending.
    pub nodes: Vec<NodeId>,
    /// The node that leads.
    pub leader: NodeId,
}

/// What a node said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// The cluster: 128 bits.
    pub cluster: u128,
    /// How many shards it has.
    pub shards: u16,
    /// The shard that answered.
    pub shard: ShardId,
    /// Its version, for people.
    pub server: String,
    pub(crate) range_map_version: u64,
    pub(crate) limits: Limits,
}

/// What the server accepts, or would by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) batch_ops: u64,
    pub(crate) requests: usize,
}

impl NodeInfo {
    pub(crate) fn from_wire(hello: &ArchivedHelloReply<'static>) -> Self {
        let own = |theirs: u32, ours: usize| u64::from(theirs).min(ours as u64);
        let wire = &hello.limits;
        Self {
            node: NodeId(hello.node.to_native()),
            cluster: u128::from_le_bytes(hello.cluster),
            shards: hello.shards.to_native(),
            shard: ShardId(hello.shard.to_native()),
            server: String::from(&*hello.server),
            range_map_version: hello.range_map_version.to_native(),
            limits: Limits {
                key_bytes: own(wire.key_bytes_max.to_native(), limits::KEY_BYTES_MAX),
                value_bytes: own(wire.value_bytes_max.to_native(), limits::VALUE_BYTES_MAX),
                batch_bytes: own(wire.batch_bytes_max.to_native(), limits::BATCH_BYTES_MAX),
                batch_ops: own(wire.batch_ops_max.to_native(), limits::BATCH_OPS_MAX),
                requests: wire.requests_max.to_native().max(1) as usize,
            },
        }
    }
}

impl Limits {
    /// Refuses what the server would refuse: keys, values and batches that are too long.
    pub(crate) fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        match *request {
            Request::Get { key, .. } | Request::Split { key } => self.check_key(key),
            Request::Put { key, value } => self.check_op(&WriteOp::Put { key, value }),
            Request::Write { conditions, ops } => {
                let mut bytes = 0;
                for condition in conditions {
                    self.check_key(condition.key())?;
                    bytes += condition.key().len() as u64;
                    if let Condition::Equals { value, .. } = condition {
                        self.check_value(value)?;
                        bytes += value.len() as u64;
                    }
                }
                for op in ops {
                    self.check_op(op)?;
                    bytes += op_bytes(op);
                }
                let count = (conditions.len() + ops.len()) as u64;
                check("a batch (operations)", Code::BatchTooLarge, count, self.batch_ops)?;
                check("a batch (bytes)", Code::BatchTooLarge, bytes, self.batch_bytes)
            }
            Request::Modify { key, by } => self.check_key(key).and_then(|()| match by {
                Modification::Append { bytes, .. } => self.check_value(bytes),
                Modification::Add { .. } | Modification::Min { .. } | Modification::Max { .. } => Ok(()),
            }),
            Request::Echo { payload } => check(
                "an echo (bytes)",
                Code::ValueTooLong,
                payload.len() as u64,
                self.value_bytes,
            ),
            Request::Transact { batch, .. } => check(
                "a part of a transaction (bytes)",
                Code::BatchTooLarge,
                batch.len() as u64,
                self.batch_bytes,
            ),
            Request::RangeMap
            | Request::Move { .. }
            | Request::Merge { .. }
            | Request::Place { .. }
            | Request::Explain { .. }
            | Request::Stand { .. }
            | Request::SetPolicy { .. }
            | Request::Policies
            | Request::Status { .. }
            | Request::DiskWrite { .. } => Ok(()),
        }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
        check(
            "a key (bytes)",
            Code::KeyTooLong,
            key.len() as u64,
            self.key_bytes,
        )
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        check(
            "a value (bytes)",
            Code::ValueTooLong,
            value.len() as u64,
            self.value_bytes,
        )
    }

    fn check_op(&self, op: &WriteOp<'_>) -> Result<(), Error> {
        match op {
            WriteOp::Put { key, value } => self.check_key(key).and_then(|()| self.check_value(value)),
            WriteOp::Delete { key } => self.check_key(key),
            WriteOp::DeleteRange { start, end } => {
                // A bound may be one byte longer than a key: the successor of the longest one.
                let max = self.key_bytes + 1;
                check(
                    "the start of a span (bytes)",
                    Code::KeyTooLong,
                    start.len() as u64,
                    max,
                )?;
                check(
                    "the end of a span (bytes)",
                    Code::KeyTooLong,
                    end.map_or(0, <[u8]>::len) as u64,
                    max,
                )
            }
        }
    }
}

fn op_bytes(op: &WriteOp<'_>) -> u64 {
    let bytes = match op {
        WriteOp::Put { key, value } => key.len() + value.len(),
        WriteOp::Delete { key } => key.len(),
        WriteOp::DeleteRange { start, end } => start.len() + end.map_or(0, <[u8]>::len),
    };
    bytes as u64
}

fn check(what: &'static str, code: Code, bytes: u64, max: u64) -> Result<(), Error> {
    if bytes <= max {
        Ok(())
    } else {
        Err(Error::TooLarge {
            what,
            code,
            bytes,
            max,
        })
    }
}

/// One reply, copied out of the receive buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Hello(NodeInfo),
    Get {
        value: Option<Vec<u8>>,
        ts: Timestamp,
    },
    Stale(StaleValue),
    /// A range's answer to a batch, and its clock.
    Transact {
        answer: Box<txn::request::Answer>,
        now: Timestamp,
    },
    Written(Timestamp),
    /// The value is missing when a retry was answered.
    Modified {
        value: Option<Vec<u8>>,
        ts: Timestamp,
    },
    ConditionFailed {
        condition: u32,
        found: Option<Vec<u8>>,
        ts: Timestamp,
    },
    Page(Page),
    RangeMap {
        map: RangeCache,
        /// All nodes of the cluster and where clients reach them; empty when the node is alone.
        nodes: Vec<(NodeId, Address)>,
    },
    Split(Split),
    Moved(Moved),
    Merged(Merged),
    Placed(Placed),
    Explained(String),
    Stands,
    PolicySet(PolicyChange),
    Policies(Policies),
    Status(String),
    Echo(Vec<u8>),
    DiskWritten,
    Refused(Refusal),
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    pub(crate) code: u16,
    pub(crate) retryable: bool,
    pub(crate) retry_after_ms: u32,
    pub(crate) range_map_version: u64,
    pub(crate) range: Option<RangeId>,
    /// The node that leads that range.
    pub(crate) leader: Option<NodeId>,
}

impl Refusal {
    /// A refusal that no other try will change.
    pub(crate) fn for_good(error: Error, code: u16) -> Self {
        Self {
            error,
            code,
            retryable: false,
            retry_after_ms: 0,
            range_map_version: 0,
            range: None,
            leader: None,
        }
    }
}

impl Reply {
    /// Copies a reply; an error when a field is not what the protocol promises.
    pub(crate) fn from_wire(reply: &ReplyRef<'_>) -> Result<Self, Error> {
        Ok(match reply {
            ReplyRef::HelloReply(hello) => Self::Hello(NodeInfo::from_wire(hello)),
            ReplyRef::GetReply(get) => Self::Get {
                value: get.value().map(<[u8]>::to_vec),
                ts: get.ts.timestamp(),
            },
            ReplyRef::StaleReply(get) => Self::Stale(StaleValue {
                value: get.value().map(<[u8]>::to_vec),
                ts: get.ts.timestamp(),
                read_ts: get.read_ts.timestamp(),
            }),
            ReplyRef::WriteReply(write) => Self::Written(write.ts.timestamp()),
            ReplyRef::ModifyReply(modify) => Self::Modified {
                value: modify.value().map(<[u8]>::to_vec),
                ts: modify.ts.timestamp(),
            },
            ReplyRef::ConditionFailed(failed) => Self::ConditionFailed {
                condition: failed.condition.to_native(),
                found: failed.found().map(<[u8]>::to_vec),
                ts: failed.ts.timestamp(),
            },
            ReplyRef::TransactReply(reply) => Self::Transact {
                answer: Box::new(txn::codec::decode_answer(&reply.answer).map_err(|error| {
                    Error::Protocol {
                        what: error.to_string(),
                    }
                })?),
                now: reply.now.timestamp(),
            },
            ReplyRef::ScanPage(page) => Self::Page(Page::from_wire(page)),
            ReplyRef::RangeMapReply(map) => range_map(map)?,
            ReplyRef::SplitReply(split) => Self::Split(Split {
                left: RangeId(split.left.to_native()),
                right: RangeId(split.right.to_native()),
                right_shard: ShardId(split.right_shard.to_native()),
            }),
            ReplyRef::MoveReply(moved) => Self::Moved(Moved {
                range: RangeId(moved.range.to_native()),
                shard: ShardId(moved.shard.to_native()),
            }),
            ReplyRef::MergeReply(merged) => Self::Merged(Merged {
                range: RangeId(merged.range.to_native()),
                absorbed: RangeId(merged.absorbed.to_native()),
            }),
            ReplyRef::PlaceReply(placed) => {
                let node = |node: u64| NodeId(node);
                let mut nodes: Vec<_> = placed.nodes.iter().map(|id| node(id.to_native())).collect();
                nodes.sort_unstable();
                Self::Placed(Placed {
                    range: RangeId(placed.range.to_native()),
                    nodes,
                    leader: node(placed.leader.to_native()),
                })
            }
            ReplyRef::StandReply(_) => Self::Stands,
            ReplyRef::SetPolicyReply(set) => Self::PolicySet(PolicyChange {
                before: set.before.as_ref().map(Policy::from_wire),
                doubts: set.doubts.lines().map(str::to_owned).collect(),
            }),
            ReplyRef::PoliciesReply(reply) => Self::Policies(Policies {
                start: Policy {
                    replicas: Some(reply.replicas.to_native()),
                    split_bytes: Some(reply.split_bytes.to_native()),
                    ..Policy::default()
                },
                set: reply.policies.iter().filter_map(with_prefix).collect(),
            }),
            ReplyRef::ExplainReply(explained) => Self::Explained(String::from(&*explained.text)),
            ReplyRef::StatusReply(status) => Self::Status(String::from(&*status.json)),
            ReplyRef::EchoReply(echo) => Self::Echo(echo.payload.to_vec()),
            ReplyRef::DiskWriteReply(_) => Self::DiskWritten,
            ReplyRef::ErrorReply(error) => {
                let (code, retryable) = (error.code.to_native(), error.retryable);
                Self::Refused(Refusal {
                    error: Error::Server {
                        code,
                        message: String::from(&*error.message),
                        retryable,
                        range: error.range(),
                        key: error.key().map(<[u8]>::to_vec),
                    },
                    code,
                    retryable,
                    retry_after_ms: error.retry_after_ms.to_native(),
                    range_map_version: error.range_map_version.to_native(),
                    range: error.range(),
                    leader: error.leader(),
                })
            }
        })
    }

    /// The error for a reply of another kind than the request asks for.
    pub(crate) fn unexpected(&self, request: &str) -> Error {
        let what = match self {
            Self::Hello(_) => "a hello",
            Self::Get { .. } | Self::Stale(_) => "a value",
            Self::Written(_) => "a write's result",
            Self::Modified { .. } => "a modification's result",
            Self::Transact { .. } => "an answer to a transaction",
            Self::ConditionFailed { .. } => "a failed condition",
            Self::Page(_) => "a page",
            Self::RangeMap { .. } => "a range map",
            Self::Split(_) => "a split's result",
            Self::Moved(_) => "a move's result",
            Self::Merged(_) => "a merge's result",
            Self::Placed(_) => "a placement's result",
            Self::Explained(_) => "an explanation",
            Self::Stands => "a standing",
            Self::PolicySet(_) => "a policy's result",
            Self::Policies(_) => "policies",
            Self::Status(_) => "a status",
            Self::Echo(_) => "an echo",
            Self::DiskWritten => "a disk write's result",
            Self::Refused(refusal) => return refusal.error.clone(),
        };
        Error::Protocol {
            what: format!("{request} was answered by {what}"),
        }
    }
}

fn range_map(map: &ArchivedRangeMapReply<'static>) -> Result<Reply, Error> {
    let info = |entry: &wire::reply::ArchivedRangeEntry<'static>| RangeInfo {
        range: entry.range_id(),
        span: Span::new(&entry.start, entry.end()),
        shard: entry.shard_id(),
        generation: entry.generation.to_native(),
        leader: entry.leader(),
        nodes: entry.nodes().collect(),
    };
    let (version, ranges) = (map.version.to_native(), map.ranges.iter().map(info).collect());
    // Addresses that only later clients understand are left out.
    let address = |entry: &wire::reply::ArchivedNodeEntry<'static>| {
        let address = entry.address.parse().ok()?;
        Some((NodeId(entry.node.to_native()), address))
    };
    let cache = if map.nodes.is_empty() {
        RangeCache::new(version, ranges)
    } else {
        RangeCache::partial(version, ranges)
    };
    Ok(Reply::RangeMap {
        map: cache.map_err(|_| Error::Protocol {
            what: "a range map with gaps or overlaps".to_owned(),
        })?,
        nodes: map.nodes.iter().filter_map(address).collect(),
    })
}
