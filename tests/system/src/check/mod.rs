//! Judges of a history. Each is small, pure, and tested on histories with one planted anomaly.
//!
//! ```text
//!   history ─► timeline   when each write happened, by timestamp: applied at most once, never after a refusal, atomic
//!                 ├─► snapshot   reads and scans at a timestamp equal the timeline at that timestamp
//!                 ├─► linear     per key, reads of the newest and writes agree with the order in which they were made
//!                 └─► condition  conditions that held or failed did so
//!   clocks ─────► age  what was read of a moment named by its age is not older
//!   range maps ─► ranges  tile the key space
//! ```
//!
//! The timestamps that the node gives its versions *claim* an order. The claim is checked against what clients saw and when,
//! which needs no search: 10,000 operations on one key are judged in milliseconds.

pub mod age;
pub mod condition;
pub mod linear;
pub mod ranges;
pub mod snapshot;
pub mod timeline;

use crate::history::{Call, Keys};
use timeline::Timeline;

/// Everything that is wrong with a history, one sentence each.
#[must_use]
pub fn check(keys: &Keys, calls: &[Call]) -> Vec<String> {
    let mut wrong = Vec::new();
    let timeline = Timeline::build(keys, calls, &mut wrong);
    snapshot::check(&timeline, calls, &mut wrong);
    linear::check(&timeline, calls, &mut wrong);
    condition::check(&timeline, calls, &mut wrong);
    wrong
}

#[cfg(test)]
mod tests;
