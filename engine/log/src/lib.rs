//! The log of one shard: the only log there is, shared by all ranges (later: Raft groups) of the shard.
//!
//! One loop turn is one batch, one batch is one device write, and a batch is acknowledged when it and everything before it
//! is durable.
//!
//! ```text
//!  append ─► staged batch ─ submit ─► device write ─► persisted mark ─► whoever waits for it
//!
//!  wal/00000003.seg   segment 7                        wal/00000001.seg   segment 8
//!  ┌────────┬───────┬──────────────┬───────┬─ ─ ─      ┌────────┬───────┬─ ─ ─
//!  │ header │ #41   │ #42          │ #43   │ stale     │ header │ #44   │ zeros or stale
//!  └────────┴───────┴──────────────┴───────┴─ ─ ─      └────────┴───────┴─ ─ ─
//!   4 KiB    each batch: header, records, padding to 4 KiB; chained by the checksum of the one before
//! ```
//!
//! Invariants:
//! - Nothing is acknowledged before it and all that precedes it is durable; nothing acknowledged is ever cut silently.
//! - A segment's slot is reused only after a durable batch has said that the segment is not needed any more.
//! - A segment begins only in a slot whose name is durable: nothing that an earlier process left is taken for durable.
//! - After a failed write nothing is acknowledged any more and nothing is retried.
//! - What is read back was durable, and nothing that was appended by then has overtaken it.
//! - The log decides nothing by a clock: it sleeps once, before sealing an idle log, and times its writes for others to judge.
//!
//! Layouts: `docs/formats.md`, section Log. The rules of recovery: [`recovery`] and `docs/decisions/0003-log-recovery.md`.

pub mod config;
pub mod error;
pub mod record;

pub mod batch;
pub mod recovery;
pub mod segment;
pub mod verify;

mod codec;
mod coverage;
mod entries;
mod index;
mod log;
mod prepare;
mod reader;
mod replay;
mod shell;
mod state;
mod tail;
mod times;
mod writer;

pub use config::LogConfig;
pub use error::{Corruption, LogError};
pub use log::{Cut, Log, LogStats, Recovered};
pub use record::{EntryKind, Position, Record};
pub use times::{WriteTime, WriteTimes};
