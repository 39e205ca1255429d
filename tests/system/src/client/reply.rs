//! Replies, copied out of the receive buffer.

use crate::check::ranges::RangeSeen;
use base::Timestamp;
use base::key::Span;
use core::time::Duration;
use wire::{Code, ReplyRef};

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Key, value, timestamp.
    pub rows: Vec<(Vec<u8>, Vec<u8>, Timestamp)>,
    /// Where the rest begins.
    pub resume: Option<Vec<u8>>,
    /// The timestamp of all rows.
    pub read_ts: Timestamp,
    /// Whether the stream ends here.
    pub done: bool,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The node greets, and says how many shards it has.
    Hello(u16),
    /// To a get.
    Value {
        /// The value.
        value: Option<Vec<u8>>,
        /// Its timestamp, or that of the look.
        ts: Timestamp,
    },
    /// To a get of a moment that the node chose.
    Past {
        /// The value.
        value: Option<Vec<u8>>,
        /// Its timestamp, or that of the look.
        ts: Timestamp,
        /// That of the look.
        read_ts: Timestamp,
    },
    /// To a write.
    Written {
        /// When.
        ts: Timestamp,
    },
    /// To a modification.
    Modified {
        /// What it made; missing when a retry was answered.
        value: Option<Vec<u8>>,
        /// When.
        ts: Timestamp,
    },
    /// To a write.
    ConditionFailed {
        /// Which one.
        condition: u32,
        /// What was there.
        found: Option<Vec<u8>>,
        /// When that was looked at.
        ts: Timestamp,
    },
    /// To a scan.
    Page(Page),
    /// The status, in JSON.
    Status(String),
    /// The range map.
    RangeMap(Vec<RangeSeen>),
    /// To a batch of a transaction, or to what an intent is in the way of.
    Transact {
        /// The answer.
        answer: txn::request::Answer,
        /// The node's clock.
        now: Timestamp,
    },
    /// The policies in force: prefixes, and the bytes at which ranges are split.
    Policies(Vec<(Vec<u8>, u64)>),
    /// To anything else that succeeded.
    Done,
    /// To anything.
    Refused {
        /// Why.
        code: Code,
        /// When to try again.
        retry_after: Option<Duration>,
    },
}

impl Reply {
    /// Copies a reply; `None` for an error code that does not exist.
    #[must_use]
    pub fn from_wire(reply: &ReplyRef<'_>) -> Option<Self> {
        Some(match reply {
            ReplyRef::HelloReply(hello) => Self::Hello(hello.shards.to_native()),
            ReplyRef::GetReply(get) => Self::Value {
                value: get.value().map(<[u8]>::to_vec),
                ts: get.ts.timestamp(),
            },
            ReplyRef::StaleReply(get) => Self::Past {
                value: get.value().map(<[u8]>::to_vec),
                ts: get.ts.timestamp(),
                read_ts: get.read_ts.timestamp(),
            },
            ReplyRef::WriteReply(write) => Self::Written {
                ts: write.ts.timestamp(),
            },
            ReplyRef::ModifyReply(modify) => Self::Modified {
                value: modify.value().map(<[u8]>::to_vec),
                ts: modify.ts.timestamp(),
            },
            ReplyRef::ConditionFailed(failed) => Self::ConditionFailed {
                condition: failed.condition.to_native(),
                found: failed.found().map(<[u8]>::to_vec),
                ts: failed.ts.timestamp(),
            },
            ReplyRef::ScanPage(page) => Self::Page(Page {
                rows: page
                    .iter()
                    .map(|row| (row.key.to_vec(), row.value.to_vec(), row.ts))
                    .collect(),
                resume: page.resume().map(<[u8]>::to_vec),
                read_ts: page.read_ts.timestamp(),
                done: page.done,
            }),
            ReplyRef::RangeMapReply(map) => {
                let seen = |entry: &wire::reply::ArchivedRangeEntry<'static>| RangeSeen {
                    range: entry.range_id().0,
                    span: Span::new(&entry.start, entry.end()),
                    shard: entry.shard_id().0,
                    generation: entry.generation.to_native(),
                };
                Self::RangeMap(map.ranges.iter().map(seen).collect())
            }
            ReplyRef::StatusReply(status) => Self::Status(status.json.to_string()),
            ReplyRef::PoliciesReply(reply) => {
                let seen = |policy: &wire::peer::ArchivedPolicy<'static>| {
                    let wish = policy.wish.as_ref()?;
                    Some((policy.prefix.to_vec(), wish.split_bytes.to_native()))
                };
                Self::Policies(reply.policies.iter().filter_map(seen).collect())
            }
            ReplyRef::TransactReply(transact) => Self::Transact {
                answer: txn::codec::decode_answer(&transact.answer).ok()?,
                now: transact.now.timestamp(),
            },
            ReplyRef::SplitReply(_)
            | ReplyRef::MoveReply(_)
            | ReplyRef::PlaceReply(_)
            | ReplyRef::MergeReply(_)
            | ReplyRef::ExplainReply(_)
            | ReplyRef::StandReply(_)
            | ReplyRef::SetPolicyReply(_)
            | ReplyRef::EchoReply(_)
            | ReplyRef::DiskWriteReply(_) => Self::Done,
            ReplyRef::ErrorReply(error) => Self::Refused {
                code: Code::from_number(error.code.to_native())?,
                retry_after: error
                    .retryable
                    .then(|| Duration::from_millis(error.retry_after_ms.to_native().into())),
            },
        })
    }
}
