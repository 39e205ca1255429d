//! Which node could take a replica, and which of those best.
//!
//! The order among nodes that can take it: fewest constraints violated afterwards, fewest failure domains shared, least load,
//! smallest id. The same order decides which voter is surplus, so that what one step adds the next does not remove.

use crate::cluster::{NodeState, Place};
use crate::config::Config;
use crate::decision::Class;
use crate::group::Group;
use crate::view::{Amounts, Meter, Sharing, View};
use base::{NodeId, planted_bug};

impl Beside {
    pub(crate) fn sharing(&self) -> Sharing {
        self.sharing
    }
}

/// Why a node cannot take a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    Has,
    State(NodeState),
    Violates,
    Count,
    DiskFull,
    NoRoom,
    Shares,
    Load,
}

/// What a replica is looked for.
pub(crate) struct Search<'f> {
    pub(crate) class: Class,
    /// The voters beside it.
    pub(crate) beside: Beside,
    /// More violations than this are not taken for it.
    pub(crate) violations_max: usize,
    /// More shared domains than this are not taken for it.
    pub(crate) sharing_max: Option<Sharing>,
    /// What else a node must be.
    pub(crate) also: &'f dyn Fn(usize) -> bool,
}

/// The voters beside a new replica, with what each node is compared against.
pub(crate) struct Beside {
    nodes: Vec<usize>,
    sharing: Sharing,
    misplaced: usize,
    /// By constraint that counts, how many of the nodes satisfy it.
    have: Vec<usize>,
}

pub(crate) struct Pick {
    pub(crate) to: Place,
    pub(crate) source: NodeId,
    pub(crate) violations: usize,
    pub(crate) sharing: Sharing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPick {
    /// No node can take it.
    None,
    /// One can, later.
    Paced,
}

/// State transfers at a time that a class may use of `max`.
fn slots(class: Class, max: u32) -> u32 {
    match class {
        Class::Spread | Class::Colocation | Class::Balance | Class::Merge => max.div_ceil(2),
        Class::Quorum
        | Class::UnderReplicated
        | Class::Constraint
        | Class::OverReplicated
        | Class::Leaving
        | Class::LeasePreference
        | Class::Split => max,
    }
}

impl View<'_> {
    /// The voters of a range but `drop`.
    pub(crate) fn beside(&self, group: &Group, drop: Option<usize>) -> Beside {
        let nodes = group.nodes_without(drop);
        let policy = &self.policies[group.policy];
        let have = |(_, fits): &(u32, Vec<bool>)| nodes.iter().filter(|node| fits[**node]).count();
        Beside {
            sharing: self.sharing(&nodes),
            misplaced: nodes.iter().filter(|node| !policy.admits[**node]).count(),
            have: policy.counts.iter().map(have).collect(),
            nodes,
        }
    }

    /// Whether a node can take a replica of the range at all.
    pub(crate) fn admissible(&self, group: &Group, node: usize) -> Result<(), Rejection> {
        let seen = &self.nodes[node];
        if group.is_on(node) && !planted_bug!("placement-two-on-one-node") {
            return Err(Rejection::Has);
        }
        if seen.node.state != NodeState::Live {
            return Err(Rejection::State(seen.node.state));
        }
        if !self.policies[group.policy].admits[node] {
            return Err(Rejection::Violates);
        }
        if seen.node.disk_permille >= self.config.disk_full_permille {
            return Err(Rejection::DiskFull);
        }
        let bytes = i128::from(group.range.bytes);
        // A twentieth is left for what the other ranges are about to write.
        if seen.shards.is_empty() || (seen.total.load[0] + bytes) * 20 > seen.total.capacity[0] * 19 {
            return Err(Rejection::NoRoom);
        }
        Ok(())
    }

    /// The load of a node or shard after it took `added`: its bytes and CPU time, each against the mean.
    pub(crate) fn burden(&self, meter: &Meter, added: &Amounts) -> u64 {
        let part = |at: usize| meter.used(at, added[at]) / self.mean[at].max(0.001);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative; the cast saturates"
        )]
        let thousandths = ((part(0) + part(1)) * 1000.0) as u64;
        thousandths
    }

    /// The shard of a node that has most room.
    pub(crate) fn shard_for(&self, node: usize, added: &Amounts) -> Place {
        let seen = &self.nodes[node];
        let best = seen
            .shards
            .iter()
            .min_by_key(|(id, meter)| (self.burden(meter, added), *id));
        Place::new(seen.node.id, best.map(|(id, _)| *id).unwrap_or_default())
    }

    /// Why a node that could take a replica is not taken in this search.
    pub(crate) fn fits(
        &self,
        group: &Group,
        search: &Search,
        node: usize,
    ) -> Result<(usize, Sharing), Rejection> {
        self.admissible(group, node)?;
        if !(search.also)(node) {
            return Err(Rejection::Load);
        }
        let (beside, policy) = (&search.beside, &self.policies[group.policy]);
        let mut violations = beside.misplaced + usize::from(!policy.admits[node]);
        for ((count, fits), have) in policy.counts.iter().zip(&beside.have) {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            violations = violations.saturating_add(count.saturating_sub(have + usize::from(fits[node])));
        }
        if violations > search.violations_max {
            return Err(Rejection::Count);
        }
        let mut sharing = beside.sharing;
        self.share(&mut sharing, node, beside.nodes.iter().copied());
        if planted_bug!("placement-ignores-localities") {
            sharing = Sharing::default();
        }
        if search.sharing_max.is_some_and(|max| sharing > max) {
            return Err(Rejection::Shares);
        }
        Ok((violations, sharing))
    }

    /// The best node for one more replica.
    pub(crate) fn pick(&self, group: &Group, search: &Search) -> Result<Pick, NoPick> {
        let Config {
            snapshots_in_max,
            snapshots_out_max,
            ..
        } = *self.config;
        let out = slots(search.class, snapshots_out_max);
        let sender = |seat: &&crate::group::Seat| {
            let node = seat.node.map(|node| &self.nodes[node]);
            seat.can_send()
                && node.is_some_and(|seen| seen.snapshots_out < out || planted_bug!("placement-unpaced"))
        };
        let senders = group.seats.iter().filter(sender);
        let busy = |seat: &&crate::group::Seat| seat.node.map(|node| (self.nodes[node].snapshots_out, node));
        let source = senders.min_by_key(busy);
        // What can wait does not look for a place before there is a sender.
        if source.is_none() && slots(search.class, 2) == 1 {
            return Err(NoPick::Paced);
        }
        let added = crate::view::amounts(group.range, false);
        let mut best: Option<(usize, Sharing, u64, usize)> = None;
        let mut free: Option<(usize, Sharing, u64, usize)> = None;
        for node in 0..self.nodes.len() {
            let Ok((violations, sharing)) = self.fits(group, search, node) else {
                continue;
            };
            let seen = &self.nodes[node];
            let score = (violations, sharing, self.burden(&seen.total, &added), node);
            best = Some(best.map_or(score, |best| best.min(score)));
            if seen.snapshots_in < slots(search.class, snapshots_in_max) || planted_bug!("placement-unpaced")
            {
                free = Some(free.map_or(score, |free| free.min(score)));
            }
        }
        let best = best.ok_or(NoPick::None)?;
        let (violations, sharing, _, node) = free.ok_or(NoPick::Paced)?;
        // A worse place now would be moved to the better one later; only danger does not wait.
        if (violations, sharing) > (best.0, best.1) && search.class != Class::Quorum {
            return Err(NoPick::Paced);
        }
        let source = source.ok_or(NoPick::Paced)?;
        Ok(Pick {
            to: self.shard_for(node, &added),
            source: source.place().node,
            violations,
            sharing,
        })
    }
}
