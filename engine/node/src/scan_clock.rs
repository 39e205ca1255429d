//! The timestamp of a scan over several ranges: not before any write that was acknowledged when the scan began, whoever leads.
//!
//! ```text
//!   scan ─► who leads what of my span? ─► every shard of this node ──────► shares ─► they tile the span? ─► the newest of them
//!                    └── if they do not: ─► every other node, its shards ──┘              └ not in time ─► above what clocks allow
//! ```
//!
//! A *share* is what a shard says of the parts of a span that it leads under its leases: which they are, and the timestamp of the last
//! entry that is applied to any of them. A write is acknowledged only by a leader that has applied it, and a later leader has applied
//! everything that those before it committed before it leads anything. So whoever leads a range at some moment after the scan began
//! knows of no acknowledged write of it that is newer than its share says. Shares of different moments go together, all of them
//! being later than the scan's begin; clocks do not matter, nor who else is there and does not answer.
//!
//! That shares tile a span is seen from a sum, so that a share has the same size whatever it covers: each part adds the hash of its
//! start and subtracts that of its end. What lies between two parts cancels out, and what is left are the edges of the span, exactly
//! when each key is covered once; but for hashes of 64 bits that meet by chance. What is covered twice, or not at all, since a
//! range was handed over between two answers, is asked for again.
//!
//! Where some of the span is led by nobody who answers, a write of it that was acknowledged is bounded by clocks. Its leader began at
//! most twice the clock bound above its clock, or continued those before it; after a restart it goes on at most where the bound on
//! timestamps was that the process before had made durable, the horizon ahead; and its clock was ahead of this one by the bound at
//! most. A scan at that, counted from its begin, misses nothing, and waits until clocks are there.
//!
//! Invariants:
//! - A share is of a moment after it was asked for, and a question's name is not used again after a restart: timestamps are not.
//! - A scan of now that shows two ranges reads at or above a share of each, or above what clocks allow.

use base::key::Span;
use base::{NodeId, Timestamp};
use core::time::Duration;
use std::collections::BTreeMap;

/// How long the shares of a span are waited for. A client asks elsewhere after 500 ms without a word.
pub(crate) const SHARES_MAX: Duration = Duration::from_millis(250);
/// After how long nodes are asked again while their shares do not tile the span; twice as long each time.
pub(crate) const AGAIN_FIRST: Duration = Duration::from_millis(5);
/// The longest of these pauses.
pub(crate) const AGAIN_MAX: Duration = Duration::from_millis(80);

/// What is led of a span, somewhere, and how new it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// The edges of the parts: see the top.
    pub(crate) edges: u64,
    /// Every write of them that was acknowledged lies at or below.
    pub(crate) newest: Timestamp,
}

impl Share {
    /// Of one part of a span.
    pub(crate) fn of(part: &Span, newest: Timestamp) -> Self {
        Self {
            edges: edges(&part.start, part.end.as_deref()),
            newest,
        }
    }

    /// Of the parts of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            edges: self.edges.wrapping_add(other.edges),
            newest: self.newest.max(other.newest),
        }
    }
}

/// What the parts of a span add up to, when they tile it.
fn edges(start: &[u8], end: Option<&[u8]>) -> u64 {
    // Of the end of the key space, which no key is.
    const LAST: u64 = 0x9e37_79b9_7f4a_7c15;
    hash(start).wrapping_sub(end.map_or(LAST, hash))
}

/// Frozen: all nodes have the same one. FNV-1a, with the finalizer of `SplitMix64`, whose sums do not follow from the keys.
fn hash(key: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The shares of a span so far.
#[derive(Debug)]
pub(crate) struct Shares {
    whole: u64,
    /// The last one of each node.
    by_node: BTreeMap<NodeId, Share>,
}

impl Shares {
    pub(crate) fn new(start: &[u8], end: Option<&[u8]>) -> Self {
        Self {
            whole: edges(start, end),
            by_node: BTreeMap::new(),
        }
    }

    /// Takes the share of a node in the place of the one that it had before.
    pub(crate) fn hear(&mut self, node: NodeId, share: Share) {
        self.by_node.insert(node, share);
    }

    /// No write of the span that was acknowledged before the first share was asked for is newer; `None` until each key is covered.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        let sum = self.sum();
        (sum.edges == self.whole).then_some(sum.newest)
    }

    /// The same, of what is covered.
    pub(crate) fn newest_covered(&self) -> Timestamp {
        self.sum().newest
    }

    fn sum(&self) -> Share {
        self.by_node.values().copied().fold(Share::default(), Share::and)
    }
}

/// No write that was acknowledged when this node's clock was at `wall_ns` lies above, on any node whose clock is within `bound_ns` of
/// this one's. Timestamps run ahead of clocks by `horizon_ns` at most after a restart, and by `offset_ns` where a client wants it.
pub(crate) fn above_all(wall_ns: u64, bound_ns: u64, horizon_ns: u64, offset_ns: u64) -> Timestamp {
    let ahead_ns = bound_ns.saturating_mul(2).max(horizon_ns).max(offset_ns);
    let wall_ns = wall_ns
        .saturating_add(bound_ns)
        .saturating_add(ahead_ns)
        .saturating_add(1);
    Timestamp::new(wall_ns, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(start: &[u8], end: Option<&[u8]>, newest: u64) -> Share {
        Share::of(&Span::new(start, end), Timestamp::new(newest, 0))
    }

    #[test]
    fn shares_that_tile_the_span_say_how_new_it_is() {
        let mut shares = Shares::new(b"b", None);
        assert_eq!(shares.newest(), None);
        let two = share(b"b", Some(b"d"), 5).and(share(b"k", None, 7));
        shares.hear(NodeId(1), two);
        assert_eq!((shares.newest(), shares.newest_covered().wall_ns), (None, 7));
        shares.hear(NodeId(2), share(b"d", Some(b"k"), 9));
        assert_eq!(shares.newest(), Some(Timestamp::new(9, 0)));
        // Who leads nothing has a share, too.
        shares.hear(NodeId(3), Share::default());
        assert_eq!(shares.newest(), Some(Timestamp::new(9, 0)));
    }

    #[test]
    fn a_hole_is_seen_also_beside_a_part_that_is_covered_twice() {
        let mut shares = Shares::new(b"", Some(b"z"));
        shares.hear(NodeId(1), share(b"", Some(b"m"), 1));
        shares.hear(NodeId(2), share(b"c", Some(b"z"), 1));
        assert_eq!(shares.newest(), None);
        shares.hear(
            NodeId(2),
            share(b"n", Some(b"z"), 1).and(share(b"c", Some(b"d"), 1)),
        );
        assert_eq!(shares.newest(), None);
        // It says so again, of a later moment.
        shares.hear(NodeId(2), share(b"m", Some(b"z"), 4));
        assert_eq!(shares.newest(), Some(Timestamp::new(4, 0)));
    }

    #[test]
    fn the_edges_are_frozen() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(edges(b"a", None), 0x6489_4405_c8c9_a4e3);
    }

    #[test]
    fn clocks_bound_what_was_acknowledged() {
        let wall_ns = |bound, horizon, offset| above_all(1_000, bound, horizon, offset).wall_ns;
        assert_eq!(wall_ns(10, 5, 5), 1_031);
        assert_eq!(wall_ns(10, 300, 5), 1_311);
        assert_eq!(wall_ns(10, 5, 500), 1_511);
        assert_eq!(above_all(u64::MAX - 1, 10, 5, 5).wall_ns, u64::MAX);
    }
}
