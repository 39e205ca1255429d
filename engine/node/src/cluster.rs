//! The nodes of a cluster, as this node is told of them.
//!
//! The first nodes of a cluster, its founders, are started with the same list, and the first range has a replica on each. Others
//! join later: they are told of one or more, and learn of the rest. Which nodes have replicas of a range changes, see `members`.

use crate::placer::settings::Placement;
use crate::version::Version;
use base::{NodeId, RangeId};
use core::time::Duration;
use env::Address;
use placement::Locality;
use raft::Membership;
use replica::group::replica_on;

/// The greatest number of a node: the ids of ranges that a node makes are told apart by it.
pub const NODE_MAX: NodeId = NodeId(1023);

/// An id that no node gives out: those that are given out after it are greater than `range`.
pub(crate) fn beyond(range: RangeId) -> RangeId {
    RangeId((range.0 + 1).next_multiple_of(NODE_MAX.0 + 1))
}

/// Whether a node can have that number.
pub(crate) fn is_node(node: NodeId) -> bool {
    node > NodeId(0) && node <= NODE_MAX
}

/// One of the nodes of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Where clients reach it.
    pub address: Address,
    /// Where the node that has the list reaches it: usually the same.
    pub peer_address: Address,
}

impl Member {
    /// A node that clients and nodes reach at the same address.
    #[must_use]
    pub const fn new(node: NodeId, address: Address) -> Self {
        Self {
            node,
            address,
            peer_address: address,
        }
    }
}

/// The nodes of a cluster, and which of them this is. All nodes share the settings.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Names the cluster. A node of another one is refused.
    pub id: u128,
    /// This node.
    pub me: NodeId,
    /// The nodes that this one begins with, itself included. Others it learns of: they introduce themselves, and nodes tell each
    /// other whom they know.
    pub nodes: Vec<Member>,
    /// Nodes that a node that joins was told of: it remembers them as it does those that it learns of.
    pub seeds: Vec<Member>,
    /// Which of them have the first range when the cluster begins; none for a node that joins.
    pub founders: Vec<NodeId>,
    /// The failure detector between nodes.
    pub liveness: liveness::Config,
    /// What a tick of the groups lasts. A follower without a leader asks for votes after 10 to 20 of them: ten must be longer
    /// than a round trip between nodes and a device write. Default 10 ms.
    pub tick: Duration,
    /// How the cluster looks after its replicas; `None` when it is left to people.
    pub placement: Option<Placement>,
    /// The failure domains of this node.
    pub locality: Locality,
    /// How far behind the clock ranges are closed: replicas that do not lead serve reads that are older. At least the bound of the
    /// clocks. Default 3 s.
    pub closed_lag: Duration,
    /// How often nodes hear up to when ranges are closed. Default 200 ms.
    pub closed_interval: Duration,
    /// The version of the protocol between nodes that is active where there was no data yet: later ones become so when all nodes speak
    /// them. Default the first one; another one where no node is of an older build, and none will be.
    pub begins: Version,
}

impl Cluster {
    /// A cluster with the default settings, and a replica of the first range on every node.
    #[must_use]
    pub fn new(id: u128, me: NodeId, nodes: Vec<Member>) -> Self {
        let founders = nodes.iter().map(|member| member.node).collect();
        Self {
            id,
            me,
            nodes,
            seeds: Vec::new(),
            founders,
            liveness: liveness::Config::default(),
            tick: Duration::from_millis(10),
            placement: None,
            locality: Locality::default(),
            closed_lag: Duration::from_secs(3),
            closed_interval: Duration::from_millis(200),
            begins: Version::FIRST,
        }
    }

    /// Whether the range's id is one that this node gives out.
    pub(crate) fn gives(&self, range: RangeId) -> bool {
        range.0 % (NODE_MAX.0 + 1) == self.me.0
    }

    /// Checks the list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let mut ids: Vec<_> = self.nodes.iter().map(|member| member.node).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.nodes.len() {
            return Err("a node is twice in the list of the cluster's nodes".to_owned());
        }
        if !ids.contains(&self.me) {
            return Err(format!("{} is not in the list of the cluster's nodes", self.me));
        }
        if ids.first() == Some(&NodeId(0)) || ids.last() > Some(&NODE_MAX) {
            return Err(format!("nodes are numbered from 1 to {}", NODE_MAX.0));
        }
        if self.founders.iter().any(|founder| !ids.contains(founder)) {
            return Err("a founder is not in the list of the cluster's nodes".to_owned());
        }
        if self.tick.is_zero() {
            return Err("a tick lasts some time".to_owned());
        }
        if self.closed_lag < Duration::from_nanos(self.liveness.clock_offset_ns_max) {
            return Err("ranges are closed behind the clock by its bound at least".to_owned());
        }
        if self.closed_interval.is_zero() {
            return Err("ranges are not closed all the time".to_owned());
        }
        self.liveness.validate();
        if let Some(placement) = &self.placement {
            placement.check()?;
        }
        Ok(())
    }

    /// Who has the first range.
    pub(crate) fn first_members(&self) -> Membership {
        Membership::of_voters(self.founders.iter().map(|node| replica_on(*node, 0)))
    }

    /// Whether the first range begins on this node, among others.
    pub(crate) fn is_founder(&self) -> bool {
        self.founders.contains(&self.me)
    }
}
