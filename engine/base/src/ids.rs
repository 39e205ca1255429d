//! Newtypes for ids and counters, so that an index is never added to a count.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// The value before the first one.
            pub const ZERO: Self = Self(0);

            /// The following value.
            ///
            /// # Panics
            /// At the end of the 64-bit range, which no run reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(
                    self.0
                        .checked_add(1)
                        .expect("a 64-bit counter does not wrap"),
                )
            }

            /// The preceding value, or `None` for zero.
            #[must_use]
            pub fn prev(self) -> Option<Self> {
                self.0.checked_sub(1).map(Self)
            }

            /// How many steps lead from `earlier` to `self`; zero when `earlier` is later.
            #[must_use]
            pub fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }
    };
}

id!(
    /// A process of the cluster.
    NodeId, u64, "n"
);
id!(
    /// A pinned thread of a node, numbered from zero.
    ShardId, u16, "s"
);
id!(
    /// A key span with its own log group. Never reused; [`RangeId::SYSTEM`] holds the range map.
    RangeId, u64, "r"
);
id!(
    /// A copy of a range. Never reused: a copy that comes back to a node is another replica.
    ReplicaId, u64, "p"
);
id!(
    /// A Raft term.
    Term, u64, "t"
);
id!(
    /// The position of an entry in its range's log, from 1.
    Index, u64, ""
);
id!(
    /// Orders writes inside one shard.
    Seqno, u64, "#"
);
id!(
    /// A request on one connection, chosen by the client.
    RequestId, u32, "q"
);
counter!(Term);
counter!(Index);
counter!(Seqno);

impl RangeId {
    /// The range that holds the range map, always on shard 0.
    pub const SYSTEM: Self = Self(1);
}

/// A client session, drawn at random by the client and kept over reconnects: 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u128);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:08x}", self.0 >> 96)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_step_and_measure() {
        assert_eq!(Index(4).next(), Index(5));
        assert_eq!(Index(4).prev(), Some(Index(3)));
        assert_eq!(Index::ZERO.prev(), None);
        assert_eq!(Index(9).since(Index(4)), 5);
        assert_eq!(Index(4).since(Index(9)), 0);
        assert_eq!(format!("{} {:?} {}", RangeId(7), ShardId(2), Index(3)), "r7 s2 3");
    }
}
