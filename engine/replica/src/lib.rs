//! One range replica: what a write must pass before it enters the range's log, and what it does once it is durable.
//!
//! ```text
//!  request ──► admit ──► (evaluate conditions) ──► propose ──► log ──► apply ──► outcome
//!               │             reads the tablet       index,      │       tablet, session
//!               ▼                                    command     ▼
//!      duplicate, stale, blocked, in conflict               committed
//! ```
//!
//! A pure core: no I/O, no clock, no `async`. The shard's event loop feeds it and carries out what it answers.
//! Between `propose` and `apply` stands the range's Raft group: an entry is applied when it is committed.
//!
//! Invariants:
//! - Entries are applied in index order, each exactly once.
//! - Timestamps of a range's entries increase with their index.
//! - A write that carries a [`base::api::WriteId`] is applied at most once, whatever is retried, over restarts too.
//! - A conditional write is proposed only when no proposed and unapplied write touches its keys.
//! - A modification is worked out over the value that its key has when everything that is proposed is applied.
//! - What a transaction's request reads or changes is touched by nothing that is proposed and unapplied; plain writes wait for it, too.
//! - Of one key, timestamps increase, of versions that transactions make, too: a key with an intent takes no plain write.
//! - `apply` is deterministic: the same commands in the same order give the same state on every replica.

pub mod command;
pub mod conflict;
pub mod descriptor;
pub mod group;
pub mod latches;
mod newest;
pub mod provisional;
pub mod replica;
pub mod session;

pub use command::{Command, CommandError};
pub use descriptor::Descriptor;
pub use group::Group;
pub use latches::{Ticket, Touched};
pub use provisional::{Done, Held, Made, Provisional, SpillError, SpillOp, Spilled};
pub use replica::{Admission, Applied, Barred, Begin, Met, Replica};
pub use session::{Sessions, Standing};
