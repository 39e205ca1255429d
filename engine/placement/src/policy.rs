//! What is wished for the keys of a prefix.

use crate::cluster::Locality;
use core::fmt;

/// Where replicas may be, in text: `+region=eu` (all of them), `-zone=b` (none), `+region=eu:2` (at least two).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Constraint {
    /// Every replica is there.
    Require(Box<str>, Box<str>),
    /// No replica is there.
    Prohibit(Box<str>, Box<str>),
    /// At least so many replicas are there.
    Count(Box<str>, Box<str>, u32),
}

impl Constraint {
    /// Parses one constraint; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.get(1..)?.split_once('=')?;
        if name.is_empty() || value.is_empty() {
            return None;
        }
        match (text.as_bytes()[0], value.rsplit_once(':')) {
            (b'+', None) => Some(Self::Require(name.into(), value.into())),
            (b'-', None) => Some(Self::Prohibit(name.into(), value.into())),
            (b'+', Some((value, count))) => Some(Self::Count(name.into(), value.into(), count.parse().ok()?)),
            _ => None,
        }
    }

    /// Whether a node there counts as satisfying it.
    #[must_use]
    pub fn admits(&self, locality: &Locality) -> bool {
        match self {
            Self::Require(name, value) | Self::Count(name, value, _) => locality.has(name, value),
            Self::Prohibit(name, value) => !locality.has(name, value),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Require(name, value) => write!(f, "+{name}={value}"),
            Self::Prohibit(name, value) => write!(f, "-{name}={value}"),
            Self::Count(name, value, count) => write!(f, "+{name}={value}:{count}"),
        }
    }
}

/// Where a lease is wished: all of these hold.
pub type Preference = Vec<Constraint>;

/// Bytes at which a range is split unless its policy says otherwise.
pub const SPLIT_BYTES: u64 = 512 << 20;

/// What is wished for the keys of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// The keys; the longest prefix of a key decides.
    pub prefix: Box<[u8]>,
    /// Voters of each range. Zero is read as one.
    pub replicas: u32,
    /// Where replicas may be.
    pub constraints: Vec<Constraint>,
    /// Where leases are wished, best first.
    pub lease_preferences: Vec<Preference>,
    /// Ranges of one group keep their leases on one shard when possible.
    pub group: Option<Box<str>>,
    /// Bytes at which a range is split. Zero is read as one.
    pub split_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            prefix: Box::default(),
            replicas: 3,
            constraints: Vec::new(),
            lease_preferences: Vec::new(),
            group: None,
            split_bytes: SPLIT_BYTES,
        }
    }
}
