//! Reads: point lookups and scans over a snapshot of memtables and tables.
//!
//! Sources are asked newest first. Of one key every write, range deletes included, has a greater timestamp than all earlier
//! ones, so the first source that has anything at or below the read's timestamp decides.

pub(crate) mod ahead;
pub(crate) mod get;
pub(crate) mod scan;
mod source;
