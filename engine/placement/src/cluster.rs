//! What is known of the cluster: the input of every decision.
//!
//! Lists may be in any order. What contradicts itself (a replica on a node that is not listed, two nodes of one id, spans that
//! overlap) leads to fewer decisions, never to a panic.

use crate::decision::{Action, Class};
use crate::policy::Policy;
use base::key::Span;
use base::{NodeId, RangeId, ShardId};
use core::fmt;

/// A shard of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its shard.
    pub shard: ShardId,
}

impl Place {
    /// That shard of that node.
    #[must_use]
    pub fn new(node: NodeId, shard: ShardId) -> Self {
        Self { node, shard }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.shard)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Failure domains of a node, the widest first: `region=eu,zone=a,rack=7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Locality(pub Vec<(Box<str>, Box<str>)>);

/// Tiers of a locality that count; more are ignored.
pub const TIERS_MAX: usize = 8;

impl Locality {
    /// Parses `region=eu,zone=a`; `None` when a tier has no `=` or no name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let tier = |tier: &str| {
            let (name, value) = tier.split_once('=')?;
            (!name.is_empty() && !value.is_empty()).then(|| (name.into(), value.into()))
        };
        let tiers = text.split(',').filter(|tier| !tier.is_empty()).map(tier);
        tiers.collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether it has the tier `name=value`, at any depth.
    #[must_use]
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.0.iter().any(|(n, v)| &**n == name && &**v == value)
    }

    /// How many tiers the two share, from the widest on.
    #[must_use]
    pub fn shared(&self, other: &Self) -> usize {
        let equal = self.0.iter().zip(&other.0).take(TIERS_MAX);
        equal.take_while(|(a, b)| a == b).count()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum NodeState {
    /// It answers.
    #[default]
    Live,
    /// It has not answered lately, or its disk is slow: it loses its leases and keeps its replicas.
    Suspect {
        /// Since when, in nanoseconds.
        since_ns: u64,
    },
    /// It does not answer: its replicas are replaced once this lasted for [`Config::dead_after_ns`](crate::Config::dead_after_ns).
    Dead {
        /// Since when, in nanoseconds.
        since_ns: u64,
    },
    /// It will stop for a while: it gives up its leases and keeps its replicas.
    Draining,
    /// It will go for good: it gives up its leases and its replicas.
    Decommissioning,
}

/// An amount of each resource, as load or as capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Load {
    /// Bytes on disk.
    pub bytes: u64,
    /// CPU time in nanoseconds per second.
    pub cpu_ns: u64,
    /// Leases. No capacity is needed: leases are shared out by CPU capacity.
    pub leases: u64,
}

/// A shard as its node reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// What it can take.
    pub capacity: Load,
    /// What it has.
    pub load: Load,
}

/// A disk as full, in thousandths, takes no writes.
pub const DISK_FULL_PERMILLE: u32 = 1000;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its failure domains.
    pub locality: Locality,
    /// How it is.
    pub state: NodeState,
    /// How full its disk is, in thousandths. From [`DISK_FULL_PERMILLE`] on it takes no writes, and so gives up its leases.
    pub disk_permille: u32,
    /// Its shards.
    pub shards: Vec<Shard>,
}

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Kind {
    /// Votes and has the data.
    #[default]
    Voter,
    /// Has the data, or gets it, and does not vote.
    Learner,
    /// Votes and has no data. Placement keeps and removes witnesses; it makes none.
    Witness,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Witness => "witness",
        })
    }
}

/// Whose place a new replica is to take. It is kept in the range's descriptor, because placement itself remembers nothing: it
/// is what makes a move of several steps end where it began to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replaces {
    /// The node whose replica goes.
    pub node: NodeId,
    /// Why it goes.
    pub because: Class,
}

/// A copy of a range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Replica {
    /// Where.
    pub place: Place,
    /// What it does.
    pub kind: Kind,
    /// Whether it has, but for a moment's delay, everything that is committed.
    pub up_to_date: bool,
    /// As in the [`Action::AddLearner`] that made it; kept over its promotion, dropped by a demotion.
    pub replaces: Option<Replaces>,
    /// Who sends a learner its state, as in the [`Action::AddLearner`] that made it.
    pub source: Option<NodeId>,
}

/// Where the load of a range could be halved: what its leaseholder finds by [`LoadSample::pick`](crate::LoadSample::pick).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LoadSplit {
    /// Too few requests were sampled.
    #[default]
    Unknown,
    /// At this key.
    At {
        /// The first key of the right half.
        key: Box<[u8]>,
        /// Thousandths of the load left of it.
        left_permille: u32,
    },
    /// One key is so much of the load that no split helps.
    OneKey {
        /// That key, or the beginning of it.
        key: Box<[u8]>,
        /// Thousandths of the load that are its.
        permille: u32,
    },
}

/// A range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Range {
    /// Its id.
    pub id: RangeId,
    /// Its keys.
    pub span: Span,
    /// Its copies.
    pub replicas: Vec<Replica>,
    /// The node that has the lease.
    pub leaseholder: Option<NodeId>,
    /// Since when, in nanoseconds.
    pub leased_at_ns: u64,
    /// Bytes of one copy.
    pub bytes: u64,
    /// CPU time of reads, in nanoseconds per second; only the leaseholder spends it.
    pub cpu_read_ns: u64,
    /// CPU time of writes, in nanoseconds per second; every copy spends it.
    pub cpu_write_ns: u64,
    /// Requests per second.
    pub requests: u64,
    /// When its replicas changed last, by number, kind or place, in nanoseconds.
    pub changed_at_ns: u64,
    /// When it came from a split or was split last, in nanoseconds.
    pub split_at_ns: u64,
    /// When its CPU time came below [`Config::cold_cpu_ns`](crate::Config::cold_cpu_ns), in nanoseconds; of no meaning while it is
    /// not below.
    pub cold_at_ns: u64,
    /// A key with about half of the bytes on each side, when one is known.
    pub middle: Option<Box<[u8]>>,
    /// A key with about half of the load on each side.
    pub load_split: LoadSplit,
}

/// An operation that is under way: the range is left alone until it is over. [`Action::AddLearner`] is over once the learner is
/// a member; its state may still be on the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pending {
    /// The range.
    pub range: RangeId,
    /// What is done with it.
    pub action: Action,
}

/// The state of the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// The moment, in nanoseconds of the clock that all `_ns` moments here are of.
    pub now_ns: u64,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All ranges.
    pub ranges: Vec<Range>,
    /// What is wished, per key prefix; the longest prefix of a key decides, and [`Policy::default`] where there is none.
    pub policies: Vec<Policy>,
    /// What is under way.
    pub pending: Vec<Pending>,
}
