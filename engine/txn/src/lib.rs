//! Transactions over several ranges, committed in one round: the protocol as plain state machines.
//!
//! No I/O, no clock, no randomness, no `async`, no `unsafe`. What is promised and why it holds is in `docs/transactions.md`. Nodes use
//! what evaluates, the client library what drives.
//!
//! ```text
//!   client ──► Coordinator ──── Batch, by range ────► evaluate ──► Mutations ──► log of the range ──► applied
//!                 ▲   │                                  │ ▲
//!                 │   └ Recover ─► Recovery ◄── Pusher ◄─┘ └ View, TimestampCache
//!                 └── Answer
//! ```
//!
//! # Where to find what
//!
//! | | source |
//! |---|---|
//! | names, headers, intents, records, **the commit condition** | [`txn`], [`record`] |
//! | what ranges are asked and answer | [`request`], [`error`] |
//! | writes that depend on what they find, conditions | [`change`] |
//! | what a range does | [`mod@evaluate`], over [`view`] and [`timestamp_cache`] |
//! | what a client's side does | [`coordinator`] |
//! | what a caller does around that: ranges, pauses, what is in the way | [`driver`] |
//! | what others do to a transaction that is in the way | [`pusher`], [`recovery`] |
//! | who waits for whom | [`locks`], [`deadlock`] |
//! | the bytes of all that | [`codec`] |
//!
//! # Contract of the caller
//!
//! - Evaluation, and the proposal of what it returned, are one step, at the range's leader, under its lease. Between evaluation and
//!   application nothing else is evaluated that touches the same keys, records or spans ([`view::View`]).
//! - A reply leaves when its mutations are applied; that to a pipelined write may leave when they are proposed.
//! - A new leader's timestamp cache begins at or above everything that leaders before it have shown or prevented
//!   ([`timestamp_cache::TimestampCache::new`]); one that is split off gets its left half's cache, one that is merged the other's summary.
//! - Clocks take in the timestamps of messages; a leader's clock is above all that its range has, from the beginning of its lease on
//!   ([`evaluate::Context::lease_start`]).
//! - The results of finished transactions are remembered with those of plain writes, under the client's session.

pub mod change;
pub mod codec;
pub mod coordinator;
pub mod deadlock;
pub mod driver;
pub mod error;
pub mod evaluate;
pub mod locks;
mod outstanding;
pub mod pusher;
pub mod record;
pub mod recovery;
pub mod request;
pub mod timestamp_cache;
pub mod txn;
pub mod view;

pub use coordinator::Coordinator;
pub use driver::Driver;
pub use error::{Refusal, TxnError};
pub use evaluate::{Context, evaluate};
pub use pusher::Pusher;
pub use record::{Intent, Outcome, Record, Status};
pub use recovery::{Recoveries, Recovery};
pub use request::{Batch, Reply, Request};
pub use timestamp_cache::TimestampCache;
pub use txn::{Bytes, Epoch, Header, Isolation, Keys, Priority, Seq, TxnId, Who};
pub use view::{Memory, Mutation, View};
