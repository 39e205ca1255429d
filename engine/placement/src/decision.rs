//! What is to be done, and why: for programs as values, for people as one sentence.

use crate::cluster::{Place, Replaces};
use base::key::Escaped;
use base::{NodeId, RangeId, ShardId};
use core::fmt;

/// What a decision is for. The order is the order of priority; splits and merges have a number of their own beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A voter is dead for good: the range is nearer to losing its quorum than it should be.
    Quorum,
    /// It has fewer voters than wished.
    UnderReplicated,
    /// A replica is where it must not be.
    Constraint,
    /// It has more replicas than wished.
    OverReplicated,
    /// A node drains, is decommissioned, or is suspect.
    Leaving,
    /// The lease is not where it is wished.
    LeasePreference,
    /// Two replicas share a failure domain without need.
    Spread,
    /// Ranges of one group have their leases on different shards.
    Colocation,
    /// Loads differ between nodes or between the shards of a node.
    Balance,
    /// A range is too large, too hot, or under two policies.
    Split,
    /// Two small cold neighbours.
    Merge,
}

impl Class {
    /// Whether it counts against [`Config::splits_max`](crate::Config::splits_max) instead of
    /// [`Config::decisions_max`](crate::Config::decisions_max).
    #[must_use]
    pub fn is_beside(self) -> bool {
        matches!(self, Self::Split | Self::Merge)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quorum => "quorum",
            Self::UnderReplicated => "under-replicated",
            Self::Constraint => "constraint",
            Self::OverReplicated => "over-replicated",
            Self::Leaving => "leaving",
            Self::LeasePreference => "lease-preference",
            Self::Spread => "spread",
            Self::Colocation => "co-location",
            Self::Balance => "balance",
            Self::Split => "split",
            Self::Merge => "merge",
        })
    }
}

/// What a split is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SplitBy {
    /// Its halves have different policies.
    Policy,
    /// It is too large.
    Size,
    /// It is too hot.
    Load,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Nothing is done; the reason says why not.
    Nothing,
    /// A new replica that does not vote yet gets the range's state.
    AddLearner {
        /// Where.
        to: Place,
        /// In whose place, and why: to be kept with the replica.
        replaces: Option<Replaces>,
        /// Who sends the state.
        source: NodeId,
    },
    /// A learner becomes a voter.
    Promote {
        /// Which.
        at: Place,
    },
    /// A voter becomes a learner.
    Demote {
        /// Which.
        at: Place,
    },
    /// A replica goes.
    Remove {
        /// Which.
        at: Place,
    },
    /// The lease goes to another voter.
    TransferLease {
        /// Whose node.
        to: NodeId,
    },
    /// A replica goes to another shard of its node.
    MoveShard {
        /// The node.
        node: NodeId,
        /// Its shard now.
        from: ShardId,
        /// Its shard then.
        to: ShardId,
    },
    /// The range is cut in two.
    Split {
        /// The first key of the right half.
        key: Box<[u8]>,
        /// What for.
        by: SplitBy,
    },
    /// The range takes in its right neighbour.
    Merge {
        /// The neighbour.
        right: RangeId,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing to do"),
            Self::AddLearner {
                to,
                replaces: None,
                source,
            } => write!(f, "add a learner on {to}, sent by {source}"),
            Self::AddLearner {
                to,
                replaces: Some(replaces),
                source,
            } => {
                write!(
                    f,
                    "add a learner on {to} in place of {}, sent by {source}",
                    replaces.node
                )
            }
            Self::Promote { at } => write!(f, "promote the learner on {at}"),
            Self::Demote { at } => write!(f, "demote the voter on {at}"),
            Self::Remove { at } => write!(f, "remove the replica on {at}"),
            Self::TransferLease { to } => write!(f, "transfer the lease to {to}"),
            Self::MoveShard { node, from, to } => write!(f, "move the replica on {node} from {from} to {to}"),
            Self::Split { key, by } => {
                let by = match by {
                    SplitBy::Policy => "policy",
                    SplitBy::Size => "size",
                    SplitBy::Load => "load",
                };
                write!(f, "split at {} by {by}", Escaped(key))
            }
            Self::Merge { right } => write!(f, "merge with {right}"),
        }
    }
}

/// What is balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Bytes on disk.
    Bytes,
    /// CPU time.
    Cpu,
    /// Leases.
    Leases,
}

impl Resource {
    /// All of them, in the order in which amounts are kept.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Cpu, Self::Leases];
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Cpu => "CPU time",
            Self::Leases => "leases",
        })
    }
}

/// Why something is done, or why not. [`Reason::code`] is stable; the sentence is not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the sentences of `Display` say what each is, and the fields are what they print"
)]
pub enum Reason {
    NodeDead {
        node: NodeId,
        for_ns: u64,
    },
    NodeUnknown {
        node: NodeId,
    },
    NodeLeaving {
        node: NodeId,
    },
    NodeDraining {
        node: NodeId,
    },
    NodeSuspect {
        node: NodeId,
    },
    TooFewVoters {
        have: u32,
        want: u32,
    },
    TooManyVoters {
        have: u32,
        want: u32,
    },
    Violates {
        node: NodeId,
        constraint: Box<str>,
    },
    TwoOnOneNode {
        node: NodeId,
    },
    IsReplaced {
        node: NodeId,
    },
    TakesOver {
        node: NodeId,
    },
    NodeReturned {
        node: NodeId,
    },
    LearnerUnneeded,
    LearnerLost {
        node: NodeId,
    },
    LearnerStuck {
        node: NodeId,
    },
    NotAVoter {
        node: NodeId,
    },
    LeaseFirst {
        node: NodeId,
    },
    Preferred {
        preference: Box<str>,
    },
    SharesDomain {
        node: NodeId,
        domain: Box<str>,
    },
    Colocated {
        group: Box<str>,
        at: Place,
    },
    Loaded {
        resource: Resource,
        node: NodeId,
        permille: u32,
    },
    DiskFull {
        node: NodeId,
        permille: u32,
    },
    ShardLoaded {
        resource: Resource,
        place: Place,
        permille: u32,
    },
    PolicyBoundary {
        left: Box<[u8]>,
        right: Box<[u8]>,
    },
    TooLarge {
        bytes: u64,
        limit: u64,
    },
    TooHot {
        cpu_ns: u64,
        requests: u64,
        left_permille: u32,
    },
    Cold {
        bytes: u64,
        limit: u64,
    },
    LinesUp {
        left: RangeId,
    },
    // Why something is not done.
    NothingWrong,
    Underway {
        action: Box<Action>,
    },
    NoQuorum {
        live: u32,
        voters: u32,
    },
    NoNode {
        wish: Box<Reason>,
        because: Box<str>,
    },
    Paced {
        wish: Box<Reason>,
    },
    CatchingUp {
        node: NodeId,
    },
    Unsafe {
        wish: Box<Reason>,
    },
    NoLeaseTarget {
        wish: Box<Reason>,
    },
    OneHotKey {
        key: Box<[u8]>,
        permille: u32,
    },
    NoMiddle {
        bytes: u64,
        limit: u64,
    },
}

impl Reason {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NodeDead { .. } => "node-dead",
            Self::NodeUnknown { .. } => "node-unknown",
            Self::NodeLeaving { .. } => "node-leaving",
            Self::NodeDraining { .. } => "node-draining",
            Self::NodeSuspect { .. } => "node-suspect",
            Self::TooFewVoters { .. } => "too-few-voters",
            Self::TooManyVoters { .. } => "too-many-voters",
            Self::Violates { .. } => "violates-constraint",
            Self::TwoOnOneNode { .. } => "two-on-one-node",
            Self::IsReplaced { .. } => "is-replaced",
            Self::TakesOver { .. } => "takes-over",
            Self::NodeReturned { .. } => "node-returned",
            Self::LearnerUnneeded => "learner-unneeded",
            Self::LearnerLost { .. } => "learner-lost",
            Self::LearnerStuck { .. } => "learner-stuck",
            Self::NotAVoter { .. } => "not-a-voter",
            Self::LeaseFirst { .. } => "lease-first",
            Self::Preferred { .. } => "lease-preference",
            Self::SharesDomain { .. } => "shares-domain",
            Self::Colocated { .. } => "co-location",
            Self::Loaded { .. } => "node-loaded",
            Self::DiskFull { .. } => "disk-full",
            Self::ShardLoaded { .. } => "shard-loaded",
            Self::PolicyBoundary { .. } => "policy-boundary",
            Self::TooLarge { .. } => "too-large",
            Self::TooHot { .. } => "too-hot",
            Self::Cold { .. } => "cold",
            Self::LinesUp { .. } => "lines-up-to-merge",
            Self::NothingWrong => "nothing-wrong",
            Self::Underway { .. } => "under-way",
            Self::NoQuorum { .. } => "no-quorum",
            Self::NoNode { .. } => "no-node",
            Self::Paced { .. } => "paced",
            Self::CatchingUp { .. } => "catching-up",
            Self::Unsafe { .. } => "unsafe",
            Self::NoLeaseTarget { .. } => "no-lease-target",
            Self::OneHotKey { .. } => "one-hot-key",
            Self::NoMiddle { .. } => "no-middle",
        }
    }
}

/// A duration for people.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000_000_000 {
            seconds @ 0..120 => write!(f, "{seconds} s"),
            seconds @ 120..7200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{} h", seconds / 3600),
        }
    }
}

/// Bytes for people.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..10_240 => write!(f, "{bytes} B"),
            bytes @ 10_240..10_485_760 => write!(f, "{} KiB", bytes >> 10),
            bytes @ 10_485_760..10_737_418_240 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} GiB", bytes >> 30),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeDead { node, for_ns } => write!(f, "{node} has been dead for {}", Time(*for_ns)),
            Self::NodeUnknown { node } => write!(f, "{node} is not in the cluster"),
            Self::NodeLeaving { node } => write!(f, "{node} is being decommissioned"),
            Self::NodeDraining { node } => write!(f, "{node} is draining"),
            Self::NodeSuspect { node } => write!(f, "{node} is suspect"),
            Self::TooFewVoters { have, want } => write!(f, "it has {have} of {want} voters"),
            Self::TooManyVoters { have, want } => write!(f, "it has {have} voters and needs {want}"),
            Self::Violates { node, constraint } => write!(f, "{node} does not satisfy {constraint}"),
            Self::TwoOnOneNode { node } => write!(f, "it has two replicas on {node}"),
            Self::IsReplaced { node } => write!(f, "{node} has been replaced"),
            Self::TakesOver { node } => write!(f, "it is up to date and takes over from {node}"),
            Self::NodeReturned { node } => write!(f, "{node} came back before it was replaced"),
            Self::LearnerUnneeded => f.write_str("the learner is not needed"),
            Self::LearnerLost { node } => write!(f, "{node}, where the learner is, cannot be used"),
            Self::LearnerStuck { node } => write!(f, "the learner on {node} does not get up to date"),
            Self::NotAVoter { node } => write!(f, "the replica on {node} cannot have the lease"),
            Self::LeaseFirst { node } => write!(f, "the replica on {node} will go, and has the lease"),
            Self::Preferred { preference } => write!(f, "leases are preferred at {preference}"),
            Self::SharesDomain { node, domain } => write!(f, "{node} shares {domain} with another replica"),
            Self::Colocated { group, at } => write!(f, "group {group} has its leases on {at}"),
            Self::Loaded {
                resource,
                node,
                permille,
            } => {
                write!(
                    f,
                    "{node} has {}.{:02} times the mean of {resource}",
                    permille / 1000,
                    permille % 1000 / 10
                )
            }
            Self::DiskFull { node, permille } => write!(f, "the disk of {node} is {} % full", permille / 10),
            Self::ShardLoaded {
                resource,
                place,
                permille,
            } => write!(
                f,
                "{place} has {}.{:02} times the mean {resource} of its node",
                permille / 1000,
                permille % 1000 / 10
            ),
            Self::PolicyBoundary { left, right } => {
                let name = |prefix: &[u8]| match prefix {
                    [] => "the default policy".to_owned(),
                    prefix => format!("the policy of {}", Escaped(prefix)),
                };
                write!(f, "{} ends there, {} begins", name(left), name(right))
            }
            Self::TooLarge { bytes, limit } => {
                write!(f, "it has {} and the limit is {}", Bytes(*bytes), Bytes(*limit))
            }
            Self::TooHot {
                cpu_ns,
                requests,
                left_permille,
            } => write!(
                f,
                "it takes {} ms of CPU per second for {requests} requests, {} % of them to the left",
                cpu_ns / 1_000_000,
                left_permille / 10
            ),
            Self::Cold { bytes, limit } => {
                write!(
                    f,
                    "both are cold and have {} together, below {}",
                    Bytes(*bytes),
                    Bytes(*limit)
                )
            }
            Self::LinesUp { left } => write!(f, "to be merged with {left} it must be where that is"),
            Self::NothingWrong => f.write_str("it is as it should be"),
            Self::Underway { action } => write!(f, "a change is under way: {action}"),
            Self::NoQuorum { live, voters } => write!(
                f,
                "{live} of {voters} voters are reachable and up to date: without a majority nothing can be changed"
            ),
            Self::NoNode { wish, because } => write!(f, "{wish}, but {because}"),
            Self::Paced { wish } => write!(f, "{wish}; it waits, as enough state is being sent already"),
            Self::CatchingUp { node } => write!(f, "the learner on {node} is catching up"),
            Self::Unsafe { wish } => write!(f, "{wish}, but the step would leave no live majority"),
            Self::NoLeaseTarget { wish } => write!(f, "{wish}, but no other voter can take the lease"),
            Self::OneHotKey { key, permille } => write!(
                f,
                "it is hot, but {} % of its load is the key {}: a split would not help",
                permille / 10,
                Escaped(key)
            ),
            Self::NoMiddle { bytes, limit } => write!(
                f,
                "it has {} and the limit is {}, but no key in its middle is known yet",
                Bytes(*bytes),
                Bytes(*limit)
            ),
        }
    }
}

/// One step for one range. Its `Display` is a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The range.
    pub range: RangeId,
    /// What it is for, and with it its priority.
    pub class: Class,
    /// What is to be done.
    pub action: Action,
    /// Why, or why not.
    pub reason: Reason,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Nothing => write!(f, "{}: nothing to do, because {}", self.range, self.reason),
            _ => write!(f, "{}: {}: {}", self.range, self.action, self.reason),
        }
    }
}
