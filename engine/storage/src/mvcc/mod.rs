//! Versions over ordered bytes: how a key and a timestamp become one sortable key, what a range tombstone hides, and what
//! may be collected.

pub(crate) mod gc;
pub(crate) mod key;
pub(crate) mod tombstone;
