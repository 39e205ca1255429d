//! The client of corelane, for programs on tokio and, by [`blocking`], for those without.
//!
//! ```no_run
//! # async fn example() -> Result<(), corelane::Error> {
//! let db = corelane::connect("corelane://127.0.0.1:7400").await?;
//! db.put("greeting", "hello").await?;
//! assert_eq!(db.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
//!
//! let mut rows = db.scan("a".."z").limit(100).rows();
//! while let Some(row) = rows.next().await? {
//!     println!("{} bytes at {}", row.value.len(), row.ts);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   Db ──► session (write numbers) ──► routing (which node and shard) ──► one connection each, pipelined
//!    ▲                                  by range cache and refusals           │
//!    └────────────── retry (again, elsewhere, later, or give up) ◄────────────┘
//! ```
//!
//! Of a cluster it is enough to name some nodes: `corelane://HOST:PORT,HOST:PORT`. The client learns the others, sends each
//! request to the node that leads the key's range, follows when the leader changes, and goes elsewhere when a node does not
//! answer ([`Options::try_timeout`]).
//!
//! Every call has a deadline ([`Options::deadline`], 5 s unless chosen otherwise) and is retried until then where that is
//! safe: reads always, writes because each has a number by which the server recognises a repetition. A write whose outcome
//! is truly unknown at its deadline ends as [`Error::Ambiguous`], and only such a write does.
//!
//! Several keys of any ranges are read and written together by [`Db::transaction`], which runs its closure again when another
//! transaction was in the way, or by [`Db::begin`] and [`Txn::commit`]. The protocol runs in the client: nodes only evaluate
//! (`docs/decisions/0012-coordinator-in-the-client.md`). What needs no decision in between is one request: [`Db::one_shot`].
//!
//! A transaction that only reads, at a moment of the past, is a [`Snapshot`].
//!
//! [`Staleness`] trades freshness for speed: such reads are answered by the nearest node that has a replica.
//!
//! The pure part ([`range_cache`], `routing`, `session`, `retry`, `request`, `cursor`, `clock`, `heat`, `transaction`, `one_shot`) performs no I/O and reads no clock.

mod batch;
mod clock;
mod cursor;
mod error;
mod heat;
mod one_shot;
mod options;
mod policy;
pub mod range_cache;
mod request;
mod retry;
mod routing;
mod session;
mod span;
mod staleness;
mod transaction;

pub mod blocking;
mod tokio;

pub use crate::tokio::{Db, Rows, Savepoint, Scan, Snapshot, Txn, TxnScan, connect, connect_with};
pub use base::{Modification, NodeId, RangeId, ShardId, Timestamp};
pub use batch::Batch;
pub use cursor::{Page, Row};
pub use error::Error;
pub use one_shot::{Done, OneShot};
pub use options::{Address, Addresses, Options};
pub use policy::{Policies, Policy, PolicyChange};
pub use range_cache::RangeInfo;
pub use request::{Merged, Modified, Moved, NodeInfo, NodeUse, Placed, Split, Swap};
pub use span::{KeySpan, prefix};
pub use staleness::{StaleValue, Staleness};
pub use transaction::{Conflict, Did, Isolation, Pairs, Party, Priority, TxnOptions, TxnOutcome, TxnRef};
pub use wire::Code;
