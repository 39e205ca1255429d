//! How the nodes of a cluster look after its replicas: the node that leads the first range asks all others for what they have,
//! and tells those that lead ranges what to do with them.

use crate::policy::Policy;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// A message between the placer, which is on the node that leads the first range, and another node, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Placing<'a> {
    /// The term in which the placer's node leads the first range: a placer of an earlier term is not heard any more.
    pub term: u64,
    /// What it says.
    pub step: PlacingStep<'a>,
}

/// What a [`Placing`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum PlacingStep<'a> {
    /// The placer wants a report.
    Survey {
        /// Numbers the surveys of a placer, upwards from 1: repeated in the report.
        number: u64,
        /// The session of the receiver's reports of which the placer has everything up to `after`; zero for none.
        session: u64,
        /// Changes up to this one are known.
        after: u64,
        /// Stands for all words that the placer knows.
        words: u64,
    },
    /// A node's report, or a piece of it: the ranges that changed after the change `after` of the session.
    Report {
        /// The survey that it answers.
        number: u64,
        /// The session: changes of another one mean nothing in this one.
        session: u64,
        /// The change after which this one begins; zero forgets all that was reported before.
        after: u64,
        /// The last change that it has.
        until: u64,
        /// The last change that there is.
        last: u64,
        /// The node itself.
        node: NodeReport<'a>,
        /// The ranges.
        #[rkyv(with = InlineAsBox)]
        ranges: &'a [RangeReport<'a>],
        /// Stands for all words that the node has durably: the placer sends its own when they are others.
        words: u64,
    },
    /// What was said of nodes and policies, all of it. The placer's are to be kept, and are answered by all that the node has durably
    /// then.
    Words {
        /// From the placer `false`; in the answer `true`.
        kept: bool,
        /// How nodes stand.
        #[rkyv(with = InlineAsBox)]
        standings: &'a [Standing],
        /// What is wished for the keys of prefixes: at most [`POLICY_ENTRIES_MAX`](crate::policy::POLICY_ENTRIES_MAX).
        #[rkyv(with = InlineAsBox)]
        policies: &'a [Policy<'a>],
    },
    /// The leader of a range is to do something with it, if the range is still as the placer knows it. Not answered: the next
    /// report shows whether it is under way.
    Order {
        /// Numbers the orders of a placer, upwards from 1.
        number: u64,
        /// The range.
        range: u64,
        /// Its generation.
        generation: u64,
        /// The nodes whose replicas vote, ascending.
        #[rkyv(with = InlineAsBox)]
        voters: &'a [u64],
        /// What is to be done.
        todo: Todo<'a>,
    },
}

/// What the placer wants done with a range, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum Todo<'a> {
    /// The replicas shall be on these nodes.
    Replicas {
        /// The nodes, ascending.
        #[rkyv(with = InlineAsBox)]
        nodes: &'a [u64],
    },
    /// That node shall lead.
    Leader {
        /// The node.
        node: u64,
    },
    /// The range shall be split.
    Split {
        /// The first key of the right half.
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    /// The range shall absorb its right neighbour.
    Merge {
        /// The right neighbour.
        right: u64,
    },
}

/// How a node is meant to be used, version 1. Of two for one node the one with the greater version counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct Standing {
    /// The node.
    pub node: u64,
    /// 0 to be used, 1 drained of leaderships, 2 emptied, 3 removed: that counts whatever is said later.
    pub state: u8,
    /// When it was said, in nanoseconds of a wall clock.
    pub version: u64,
}

/// A node, in its own words, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct NodeReport<'a> {
    /// Its failure domains, widest first: `region=eu,zone=a`.
    #[rkyv(with = InlineAsBox)]
    pub locality: &'a str,
    /// Its shards.
    pub shards: u16,
    /// Bytes of its replicas.
    pub used_bytes: u64,
    /// Bytes that its disk has left; `None` when it cannot tell.
    pub free_bytes: Option<u64>,
    /// Reads that it answers, per second.
    pub reads: u32,
    /// Writes that its replicas apply, per second.
    pub writes: u32,
    /// What is wrong with its disk: 0 nothing, 1 it is slow, 2 it is full.
    pub ailing: u8,
}

/// A range, as a node has it, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct RangeReport<'a> {
    /// The range.
    pub range: u64,
    /// Its replicas were, or are being, placed by hand.
    pub pinned: bool,
    /// What its leader says; `None` when the sender does not lead it any more.
    pub led: Option<LedReport<'a>>,
}

/// A range, as its leader has it, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct LedReport<'a> {
    /// The leader's term.
    pub term: u64,
    /// The descriptor's generation.
    pub generation: u64,
    /// The first key.
    #[rkyv(with = InlineAsBox)]
    pub start: &'a [u8],
    /// The first key after it; `None` for the end of the key space.
    #[rkyv(with = Map<InlineAsBox>)]
    pub end: Option<&'a [u8]>,
    /// The replicas.
    #[rkyv(with = InlineAsBox)]
    pub replicas: &'a [ReplicaReport],
    /// Whether its members are between two configurations.
    pub joint: bool,
    /// The placer's order that is being carried out; zero for none.
    pub order: u64,
    /// Bytes of one replica, roughly.
    pub bytes: u64,
    /// Reads per second, roughly.
    pub reads: u32,
    /// Writes per second, roughly.
    pub writes: u32,
    /// A key with about half of the bytes on each side, for a range that is large.
    #[rkyv(with = Map<InlineAsBox>)]
    pub middle: Option<&'a [u8]>,
    /// Where the load is, for a range that has much.
    pub hot: Option<HotReport<'a>>,
}

/// A replica, as its range's leader has it, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct ReplicaReport {
    /// Its node.
    pub node: u64,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it has, but for a moment's delay, everything that is committed.
    pub up_to_date: bool,
}

/// Where the load of a range is, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct HotReport<'a> {
    /// A key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// Thousandths of the load: of that key alone, or of what lies left of it.
    pub permille: u32,
    /// Whether the key alone is so much of the load that no split helps; otherwise one there would halve it.
    pub alone: bool,
}
