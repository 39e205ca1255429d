//! What the load generator needs of a protocol: requests to bytes, bytes to answers. No driver touches a socket or a clock.
//!
//! ```text
//!   request(slot, op) ──► [ Driver ] ──► outgoing() ──► send
//!   receive ──► spare()/filled(n) ──► [ Driver ] ──► answer(slot, Answer)
//! ```
//!
//! A *slot* names a request in flight on one connection; the caller reuses it only after its answer. Answers may come in
//! any order. All bytes of a server are checked: a wrong one is a [`DriverError`], which ends the connection.

mod buffer;
mod corelane;
mod etcd;
mod http2;
mod protobuf;
mod redis;
mod resp;

pub(crate) use corelane::Admin;
pub(crate) use etcd::EtcdDriver;
pub(crate) use redis::RedisDriver;

use crate::config::Protocol;

/// Bytes of one raw durable write of the workload `disk`.
pub(crate) const DISK_WRITE_BYTES: u32 = 4096;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op<'a> {
    /// Sends `payload` back.
    Echo { payload: &'a [u8] },
    /// Writes [`DISK_WRITE_BYTES`] durably, past the store.
    Disk,
    /// Sets a key.
    Put { key: &'a [u8], value: &'a [u8] },
    /// Reads a key.
    Get { key: &'a [u8] },
    /// Reads `rows` rows from `start` on.
    Scan { start: &'a [u8], rows: u32 },
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// Done, nothing to look at.
    Done,
    /// The value of the key.
    Value(&'a [u8]),
    /// The key has no value.
    Missing,
    /// A scan gave this many rows.
    Rows(u64),
    /// Another shard or node serves it, or nobody right now: not done, and worth asking again where the map says then.
    Elsewhere(&'a str),
    /// The server refused, in its own words.
    Failed(&'a str),
}

/// The bytes of a server make no sense, or the protocol cannot go on. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DriverError {
    /// Not RESP2.
    #[error(transparent)]
    Resp(#[from] resp::RespError),
    /// Not HTTP/2 as gRPC uses it.
    #[error(transparent)]
    Http2(#[from] http2::Http2Error),
    /// Not a protocol buffer.
    #[error(transparent)]
    Protobuf(#[from] protobuf::ProtobufError),
    /// Not a corelane frame.
    #[error(transparent)]
    Frame(#[from] wire::FrameError),
    /// Not a corelane message.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// The request does not fit a frame.
    #[error(transparent)]
    Encode(#[from] wire::EncodeError),
    /// A well-formed answer of the wrong kind.
    #[error("unexpected answer {kind} for request {slot}")]
    Unexpected { kind: &'static str, slot: u32 },
    /// An answer to nothing that was asked.
    #[error("an answer to request {slot}, which is not in flight")]
    NotAsked { slot: u32 },
    /// One answer is longer than is kept.
    #[error("an answer longer than {max} bytes")]
    TooLong { max: usize },
}

/// Where answers go: `(slot, answer)`.
pub(crate) type Sink<'a> = dyn FnMut(u32, Answer<'_>) + 'a;

/// One connection's protocol.
pub(crate) trait Driver: Send {
    /// Appends a request. Its answer will name `slot`.
    fn request(&mut self, slot: u32, op: &Op<'_>) -> Result<(), DriverError>;
    /// What waits to be sent.
    fn outgoing(&self) -> &[u8];
    /// The first `bytes` of [`Self::outgoing`] were sent.
    fn sent(&mut self, bytes: usize);
    /// Room to receive into, never empty.
    fn spare(&mut self) -> &mut [u8];
    /// The first `bytes` of [`Self::spare`] were received; whole answers go to `sink`.
    fn filled(&mut self, bytes: usize, sink: &mut Sink<'_>) -> Result<(), DriverError>;
}

/// Whether the protocol has the operations of an op kind.
pub(crate) fn supports(protocol: Protocol, op: OpKind) -> bool {
    match (protocol, op) {
        (Protocol::Corelane, _)
        | (Protocol::Redis, OpKind::Echo | OpKind::Put | OpKind::Get)
        | (Protocol::Etcd, OpKind::Put | OpKind::Get | OpKind::Scan) => true,
        (Protocol::Redis, OpKind::Disk | OpKind::Scan) | (Protocol::Etcd, OpKind::Echo | OpKind::Disk) => {
            false
        }
    }
}

/// [`Op`] without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    Echo,
    Disk,
    Put,
    Get,
    Scan,
}
