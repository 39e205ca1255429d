//! What a detector hands out: messages, the write of its start, and what changed.

use crate::message::{Epoch, Message, Peer};
use crate::offset::Offset;

/// What a shard must know after a restart. Small, and written once per start: see the crate's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Durable {
    /// Counts the starts, from 1.
    pub incarnation: u32,
    /// How long after a stop a promise may still be believed, in nanoseconds.
    pub wait_ns: u64,
}

/// What is known between this shard and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Support {
    /// The epoch at which this shard supports the peer.
    pub given: Option<Epoch>,
    /// The epoch at which the peer supports this shard. `None`: the peer is thought to be down. It lasts as long as the
    /// supporter's promise; what may be relied on is [`Liveness::supported_until`](crate::Liveness::supported_until), which is
    /// less.
    pub received: Option<Epoch>,
}

/// Something that rarely happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// An epoch began or ended; not said when an expiry is extended.
    Support {
        /// With this peer.
        peer: Peer,
        /// What holds from now on.
        support: Support,
    },
    /// A peer's clock is certainly outside the bound, seen from here, or is so no longer. Meanwhile nothing is asked of it,
    /// granted to it or believed.
    PeerClock {
        /// Whose.
        peer: Peer,
        /// How far it is ahead.
        offset: Offset,
        /// Whether that is outside.
        outside: bool,
    },
    /// This node's clock is outside the bound: most nodes say so, or it went back by more. From now on this shard neither
    /// grants nor believes anything, until it is restarted. The caller stops the node.
    ClockOutOfBound {
        /// Nodes against which it is outside; zero when the clock went back.
        nodes: usize,
        /// Nodes among the peers.
        of: usize,
    },
}

/// What to do, in this order: apply the `events`, send the `messages`; and make `durable` so, at any time.
#[derive(Debug, Default)]
pub struct Ready {
    /// What changed. The groups hear of it before a message leaves.
    pub events: Vec<Event>,
    /// To send; may be lost.
    pub messages: Vec<(Peer, Message)>,
    /// To be written instead of the last one; then [`Liveness::persisted`](crate::Liveness::persisted).
    pub durable: Option<Durable>,
}

impl Ready {
    /// Forgets what was handed out, and keeps the memory.
    pub fn clear(&mut self) {
        self.events.clear();
        self.messages.clear();
        self.durable = None;
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.messages.is_empty() && self.durable.is_none()
    }
}
