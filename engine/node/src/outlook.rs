//! What the shards of a node know of the other nodes' lives: the node's failure detector is shard 0's, and this is what it says.
//!
//! ```text
//!   shard 0: detector ─► Outlook ──rings──► other shards ─► groups, leases
//!                 ▲───────────────── pulses ──────────────────┘
//! ```
//! A shard that hears of it late does no harm. Who still takes its node's support for given stays bound for longer. Who still
//! believes to be supported believes it until a time that was certain when it was said, and whoever gives up an epoch before that
//! time does so because the other side has withdrawn it or was restarted, and then the time has passed: see the page of the crate
//! `liveness`, and `docs/liveness.md`. What a replica is bound by must never be known later than it was bound; so a replica that
//! moves goes on only where an outlook is known that is not older than that of the shard it left.

use base::NodeId;
use core::time::Duration;
use env::Instant;
use liveness::{Liveness, Support};

/// What is known between this node and another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The other node.
    node: NodeId,
    /// Who supports whom.
    support: Support,
    /// Until when the other node certainly supports this one at the epoch that `support` says, by the wall clock in nanoseconds; zero
    /// when it is not known to.
    until_ns: u64,
}

/// What the failure detector of this node says, as of some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Rises with each that differs from the one before.
    version: u64,
    /// Whether groups may take part in anything: what the process before this one promised has expired.
    may_start: bool,
    /// Sorted by node.
    nodes: Vec<Known>,
}

impl Outlook {
    /// What follows on this one, as the detector sees it now; `None` when nothing has changed.
    pub(crate) fn next(&self, detector: &Liveness, now_ns: u64) -> Option<Self> {
        let known = |peer: liveness::Peer| {
            let support = detector.support(peer);
            let until = support
                .received
                .and_then(|epoch| detector.supported_until(peer, epoch));
            Known {
                node: peer.node,
                support,
                until_ns: until.unwrap_or(0),
            }
        };
        let next = Self {
            version: self.version,
            may_start: detector.may_start(now_ns),
            nodes: detector.peers().map(known).collect(),
        };
        (next != *self).then(|| Self {
            version: self.version + 1,
            ..next
        })
    }

    /// Rises with each that differs from the one before.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether groups may take part in anything.
    pub(crate) fn may_start(&self) -> bool {
        self.may_start
    }

    fn known(&self, node: NodeId) -> Option<&Known> {
        let at = self.nodes.binary_search_by_key(&node, |known| known.node).ok()?;
        self.nodes.get(at)
    }

    /// What is known between this node and another one.
    pub(crate) fn support(&self, node: NodeId) -> Support {
        self.known(node)
            .map_or_else(Support::default, |known| known.support)
    }

    /// Until when the other node certainly supports this one at that epoch, by the wall clock in nanoseconds.
    pub(crate) fn supported_until(&self, node: NodeId, epoch: liveness::Epoch) -> Option<u64> {
        let known = self.known(node)?;
        let until = (known.support.received == Some(epoch)).then_some(known.until_ns);
        until.filter(|until| *until > 0)
    }

    /// Until when every node that supports this one does so, at least, by the wall clock in nanoseconds: zero when that is not known of
    /// one that does.
    pub(crate) fn support_until(&self) -> u64 {
        let supports = self.nodes.iter().filter(|known| known.support.received.is_some());
        supports.map(|known| known.until_ns).min().unwrap_or(u64::MAX)
    }

    /// The nodes of which this one says something else than `earlier` about who supports whom.
    pub(crate) fn changes_since(&self, earlier: &Self) -> Vec<NodeId> {
        let nodes = self.nodes.iter().chain(&earlier.nodes).map(|known| known.node);
        let mut changed: Vec<_> = nodes
            .filter(|node| self.support(*node) != earlier.support(*node))
            .collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

/// When shards were last heard of by shard 0: a node is as alive as the shard of which that is longest ago, since who waits for one
/// that hangs is not helped by the others.
#[derive(Debug)]
pub(crate) struct Pulses {
    /// By shard, from shard 1 on.
    heard: Vec<Instant>,
    patience: Duration,
}

impl Pulses {
    /// Of a node with so many shards, all of which are there as of `now`.
    pub(crate) fn new(shards: u16, patience: Duration, now: Instant) -> Self {
        Self {
            heard: vec![now; usize::from(shards.saturating_sub(1))],
            patience,
        }
    }

    /// A shard is there.
    pub(crate) fn beat(&mut self, shard: base::ShardId, now: Instant) {
        let at = usize::from(shard.0).checked_sub(1);
        if let Some(heard) = at.and_then(|at| self.heard.get_mut(at)) {
            *heard = now;
        }
    }

    /// Whether every shard was there a moment ago.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        self.heard.iter().all(|heard| now.since(*heard) <= self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ShardId;
    use liveness::{Config, Peer};

    fn peer(node: u64) -> Peer {
        Peer {
            node: NodeId(node),
            shard: ShardId(0),
        }
    }

    #[test]
    fn an_outlook_says_what_the_detector_says() {
        let config = Config::default();
        let mut now = 1_000_000_000;
        let mut nodes = [1, 2].map(|node| Liveness::new(peer(node), config, None, now));
        nodes[0].add_peer(peer(2), now).expect("there is room");
        nodes[1].add_peer(peer(1), now).expect("there is room");
        let mut outlook = Outlook::default();
        let mut seen = Vec::new();
        let mut ready = liveness::Ready::default();
        for _ in 0..400 {
            let mut network = Vec::new();
            for node in &mut nodes {
                node.ready(now, &mut ready);
                network.extend(
                    ready
                        .messages
                        .drain(..)
                        .map(|(to, message)| (node.me(), to, message)),
                );
                if let Some(durable) = ready.durable {
                    node.persisted(durable);
                }
            }
            for (from, to, message) in network {
                let node = nodes.iter_mut().find(|node| node.me() == to).expect("one of two");
                node.step(from, &message, now)
                    .expect("detectors send nothing malformed");
            }
            nodes[0].ready(now, &mut ready);
            if let Some(next) = outlook.next(&nodes[0], now) {
                assert_eq!(next.version(), outlook.version() + 1);
                seen.extend(next.changes_since(&outlook));
                outlook = next;
            }
            now += 1_000_000;
        }
        assert!(outlook.may_start());
        let Support { given, received } = outlook.support(NodeId(2));
        assert!(given.is_some());
        let epoch = received.expect("it is supported");
        assert_eq!(
            outlook.supported_until(NodeId(2), epoch),
            nodes[0].supported_until(peer(2), epoch)
        );
        assert!(outlook.supported_until(NodeId(2), epoch) > Some(now));
        assert_eq!(outlook.supported_until(NodeId(2), liveness::Epoch(1)), None);
        assert_eq!(outlook.support(NodeId(3)), Support::default());
        assert!(seen.iter().all(|node| *node == NodeId(2)) && seen.len() <= 2);
    }

    #[test]
    fn a_shard_that_hangs_takes_its_node_with_it() {
        let start = Instant::default();
        let patience = Duration::from_millis(700);
        let mut pulses = Pulses::new(3, patience, start);
        let later = start + Duration::from_millis(600);
        pulses.beat(ShardId(1), later);
        assert!(pulses.is_alive(later));
        let last = start + Duration::from_millis(800);
        assert!(!pulses.is_alive(last));
        pulses.beat(ShardId(2), last);
        assert!(pulses.is_alive(last));
        assert!(Pulses::new(1, patience, start).is_alive(last));
    }
}
