//! The manifest: a tablet's history as a log of version edits.
//!
//! ```text
//!   │ edit 1: everything │ edit 2 │ seal 2 │ edit 3 … │ seal 3 │ edit 4 (torn)
//!   └─ whole 4 KiB blocks, each record chained to the edit before it ─┘
//! ```
//!
//! An edit counts when it is complete. It is acknowledged when its *seal*, written after it is durable, is durable too: so
//! a damaged edit with anything later behind it is corruption, and one with nothing behind it is a write that was torn.
//!
//! Invariants:
//! - The first edit is written, sealed and synced before the file gets its name.
//! - A manifest that was found is synced when it is opened, and its directory: an edit that is only seen, or a name, is built
//!   on by nobody.
//! - A manifest with a torn tail is written anew before anything is appended, so that torn bytes never come back.
//! - A raft snapshot is installed by a manifest written anew: its name is the border between the old state and the new one.

pub(crate) mod edit;
pub(crate) mod file;
pub(crate) mod record;
