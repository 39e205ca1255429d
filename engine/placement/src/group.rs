//! One range with what matters of each replica, and what is safe to do with it.

use crate::cluster::{DISK_FULL_PERMILLE, Kind, NodeState, Place, Range, Replica};
use crate::view::{Sharing, View};
use base::planted_bug;

/// How far the node of a replica can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// Dead for so long that it is replaced, or not in the cluster.
    Gone,
    /// Dead, but it may come back soon.
    Down,
    /// To be decommissioned.
    Leaving,
    Draining,
    Suspect,
    Live,
}

pub(crate) struct Seat<'a> {
    /// The index of its node, when that is in the cluster.
    pub(crate) node: Option<usize>,
    pub(crate) replica: &'a Replica,
    pub(crate) health: Health,
    /// How full the node's disk is, in thousandths, when it takes no writes.
    pub(crate) full: Option<u32>,
}

impl Seat<'_> {
    pub(crate) fn place(&self) -> Place {
        self.replica.place
    }

    pub(crate) fn votes(&self) -> bool {
        self.replica.kind != Kind::Learner
    }

    /// Whether it answers now and has what is committed. A suspect node is not relied on.
    pub(crate) fn live(&self) -> bool {
        matches!(self.health, Health::Live | Health::Draining | Health::Leaving) && self.replica.up_to_date
    }

    /// Whether it could take the lease.
    pub(crate) fn can_lead(&self) -> bool {
        let reliable = self.health == Health::Live
            || planted_bug!("placement-lease-to-suspect") && self.health == Health::Suspect;
        self.replica.kind == Kind::Voter && reliable && self.full.is_none() && self.replica.up_to_date
    }

    /// Whether it could send its state.
    pub(crate) fn can_send(&self) -> bool {
        self.replica.kind == Kind::Voter && self.live()
    }
}

pub(crate) struct Group<'a> {
    pub(crate) range: &'a Range,
    /// Sorted by place.
    pub(crate) seats: Vec<Seat<'a>>,
    pub(crate) policy: usize,
    /// How many voters are wished.
    pub(crate) wanted: usize,
    /// The seat with the lease.
    pub(crate) holder: Option<usize>,
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

impl<'a> Group<'a> {
    /// The seats that vote.
    pub(crate) fn voters(&self) -> impl Iterator<Item = usize> + Clone {
        (0..self.seats.len()).filter(|at| self.seats[*at].votes())
    }

    pub(crate) fn live_voters(&self) -> usize {
        self.voters().filter(|at| self.seats[*at].live()).count()
    }

    pub(crate) fn has_quorum(&self) -> bool {
        self.live_voters() >= majority(self.voters().count())
    }

    /// How many more voters may fail; negative when the quorum is lost.
    pub(crate) fn margin(&self) -> i64 {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        count(self.live_voters()) - count(majority(self.voters().count()))
    }

    /// Whether the voters without `drop` and with `add` have a live majority, and those of now as well: the change needs the
    /// old majority to be decided and the new one to be of use. Somebody who has the data must be left, too.
    pub(crate) fn is_safe(&self, drop: Option<usize>, add: Option<usize>) -> bool {
        if planted_bug!("placement-unsafe-removal") && drop.is_some() {
            return true;
        }
        let after = |at: &usize| Some(*at) != drop && (self.seats[*at].votes() || Some(*at) == add);
        let voters = (0..self.seats.len()).filter(after);
        let live = voters.clone().filter(|at| self.seats[*at].live());
        let full = live
            .clone()
            .any(|at| self.seats[at].replica.kind != Kind::Witness);
        self.has_quorum() && live.count() >= majority(voters.count()) && full
    }

    /// The nodes of the voters but `drop`, those in the cluster.
    pub(crate) fn nodes_without(&self, drop: Option<usize>) -> Vec<usize> {
        let kept = self.voters().filter(|at| Some(*at) != drop);
        kept.filter_map(|at| self.seats[at].node).collect()
    }

    /// Whether a replica is on that node.
    pub(crate) fn is_on(&self, node: usize) -> bool {
        self.seats.iter().any(|seat| seat.node == Some(node))
    }
}

impl<'a> View<'a> {
    pub(crate) fn group(&self, range: &'a Range) -> Group<'a> {
        let mut replicas: Vec<&Replica> = range.replicas.iter().collect();
        replicas.sort();
        replicas.dedup_by_key(|replica| replica.place);
        let seat = |replica: &'a Replica| {
            let node = self.index(replica.place.node);
            let health = node.map_or(Health::Gone, |node| self.health(node));
            let permille = node.map(|node| self.nodes[node].node.disk_permille);
            Seat {
                node,
                replica,
                health,
                full: permille.filter(|permille| *permille >= DISK_FULL_PERMILLE),
            }
        };
        let seats: Vec<Seat> = replicas.into_iter().map(seat).collect();
        let policy = self.policy_of(range);
        let holder = range
            .leaseholder
            .and_then(|node| seats.iter().position(|seat| seat.place().node == node));
        let wanted = usize::try_from(self.policies[policy].policy.replicas.max(1)).unwrap_or(usize::MAX);
        Group {
            range,
            seats,
            policy,
            wanted,
            holder,
        }
    }

    pub(crate) fn health(&self, node: usize) -> Health {
        match self.state(node) {
            NodeState::Live => Health::Live,
            NodeState::Suspect { .. } => Health::Suspect,
            NodeState::Draining => Health::Draining,
            NodeState::Decommissioning => Health::Leaving,
            NodeState::Dead { since_ns } => {
                let for_ns = self.cluster.now_ns.saturating_sub(since_ns);
                if for_ns >= self.config.dead_after_ns || planted_bug!("placement-dead-at-once") {
                    Health::Gone
                } else {
                    Health::Down
                }
            }
        }
    }

    /// How many replicas on these nodes are not where the policy wants them.
    pub(crate) fn violations(&self, policy: usize, nodes: &[usize]) -> usize {
        let policy = &self.policies[policy];
        let misplaced = nodes.iter().filter(|node| !policy.admits[**node]).count();
        let missing = |(count, fits): &(u32, Vec<bool>)| {
            let have = nodes.iter().filter(|node| fits[**node]).count();
            usize::try_from(*count).unwrap_or(usize::MAX).saturating_sub(have)
        };
        policy
            .counts
            .iter()
            .map(missing)
            .fold(misplaced, usize::saturating_add)
    }

    pub(crate) fn sharing(&self, nodes: &[usize]) -> Sharing {
        let mut sharing = Sharing::default();
        for (at, node) in nodes.iter().enumerate() {
            self.share(&mut sharing, *node, nodes[..at].iter().copied());
        }
        sharing
    }
}
