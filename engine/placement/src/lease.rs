//! Leases: away from nodes that cannot be relied on, to where they are wished, and those of a group to one shard.

use crate::candidate::Search;
use crate::cluster::{Kind, Place, Replaces};
use crate::decision::{Action, Class, Reason};
use crate::group::{Group, Health};
use crate::plan::{Planner, Step};
use base::NodeId;

impl Planner<'_> {
    /// How good a node is for the leases of a policy; smaller is better.
    pub(crate) fn rank(&self, group: &Group, node: Option<usize>) -> usize {
        let preferred = &self.view.policies[group.policy].preferred;
        let fits = |fits: &Vec<bool>| node.is_some_and(|node| fits[node]);
        preferred.iter().position(fits).unwrap_or(preferred.len())
    }

    /// Where the group of a range has its leases; `None` for the range that decides it, and without a group.
    pub(crate) fn anchor(&self, group: &Group) -> Option<Place> {
        let name = self.view.policies[group.policy].policy.group.as_deref()?;
        let (_, first, place) = self.view.anchors.get(name)?;
        place.filter(|_| *first != group.range.id)
    }

    /// The voter that should have the lease if the one that has it, or `drop`, should not.
    pub(crate) fn lease_target(&self, group: &Group, drop: Option<usize>) -> Option<NodeId> {
        let anchor = self.anchor(group);
        let fits = |at: &usize| group.seats[*at].can_lead() && Some(*at) != drop && Some(*at) != group.holder;
        let order = |at: &usize| {
            let seat = &group.seats[*at];
            let away = anchor.is_some_and(|anchor| anchor.node != seat.place().node);
            let busy = seat.node.map(|node| self.lease_burden(group, node));
            (self.rank(group, seat.node), away, busy, *at)
        };
        let best = (0..group.seats.len()).filter(fits).min_by_key(order)?;
        Some(group.seats[best].place().node)
    }

    fn lease_burden(&self, group: &Group, node: usize) -> u64 {
        let meter = &self.view.nodes[node].total;
        let part = |at: usize, added: i128| meter.used(at, added) / self.view.mean[at].max(1e-12);
        let sum = part(1, i128::from(group.range.cpu_read_ns)) + part(2, 1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative; the cast saturates"
        )]
        let thousandths = (sum * 1000.0) as u64;
        thousandths
    }

    /// Whether leases of this range may move for reasons that can wait.
    pub(crate) fn lease_is_still(&self, group: &Group) -> bool {
        let since = self.view.cluster.now_ns.saturating_sub(group.range.leased_at_ns);
        since >= self.view.config.lease_still_ns
    }

    /// The lease, for its node's sake.
    pub(crate) fn flee(&self, group: &Group) -> Step {
        let Some(at) = group.holder else { return Step::Fine };
        let seat = &group.seats[at];
        let node = seat.place().node;
        let wish = match seat.health {
            // The voters elect another by themselves; a dead node cannot hand anything over.
            Health::Gone | Health::Down => return Step::Fine,
            Health::Suspect => Some(Reason::NodeSuspect { node }),
            Health::Draining => Some(Reason::NodeDraining { node }),
            Health::Leaving => Some(Reason::NodeLeaving { node }),
            Health::Live if seat.replica.kind != Kind::Voter => Some(Reason::NotAVoter { node }),
            Health::Live => seat.full.map(|permille| Reason::DiskFull { node, permille }),
        };
        if let Some(wish) = wish {
            let class = Class::Leaving;
            return match self.lease_target(group, None) {
                Some(to) => Step::calm(Self::decision(group, class, Action::TransferLease { to }, wish)),
                None => Step::Stuck(Self::held(
                    group,
                    class,
                    Reason::NoLeaseTarget { wish: Box::new(wish) },
                )),
            };
        }
        Step::Fine
    }

    /// The lease, for the preferences.
    pub(crate) fn prefer(&self, group: &Group) -> Step {
        let Some(seat) = group.holder.map(|at| &group.seats[at]) else {
            return Step::Fine;
        };
        let Some(to) = self.lease_target(group, None) else {
            return Step::Fine;
        };
        let rank = self.rank(group, self.view.index(to));
        if rank < self.rank(group, seat.node) && self.lease_is_still(group) {
            let preference = &self.view.policies[group.policy].policy.lease_preferences[rank];
            let preference = preference.iter().map(ToString::to_string).collect::<Vec<_>>();
            let reason = Reason::Preferred {
                preference: preference.join(",").into(),
            };
            return Step::calm(Self::decision(
                group,
                Class::LeasePreference,
                Action::TransferLease { to },
                reason,
            ));
        }
        Step::Fine
    }

    /// The lease of a range of a group goes where the group has them, by a transfer, a move between shards, or a new replica.
    pub(crate) fn colocate(&self, group: &Group) -> Step {
        let (Some(anchor), Some(holder)) = (self.anchor(group), group.holder) else {
            return Step::Fine;
        };
        let place = group.seats[holder].place();
        let reason = || Reason::Colocated {
            group: self.view.policies[group.policy]
                .policy
                .group
                .clone()
                .unwrap_or_default(),
            at: anchor,
        };
        let class = Class::Colocation;
        if place.node != anchor.node && self.lease_is_still(group) {
            let there = group
                .seats
                .iter()
                .find(|seat| seat.place().node == anchor.node && seat.can_lead());
            let ranks = there.map(|there| {
                (
                    self.rank(group, there.node),
                    self.rank(group, group.seats[holder].node),
                )
            });
            if ranks.is_some_and(|(there, here)| there <= here) {
                let action = Action::TransferLease { to: anchor.node };
                return Step::calm(Self::decision(group, class, action, reason()));
            }
        }
        if !self.is_still(group) {
            return Step::Fine;
        }
        if place.node == anchor.node {
            let known = self
                .view
                .index(place.node)
                .map(|node| &self.view.nodes[node].shards);
            if place.shard == anchor.shard
                || known.is_none_or(|shards| shards.iter().all(|(id, _)| *id != anchor.shard))
            {
                return Step::Fine;
            }
            let action = Action::MoveShard {
                node: place.node,
                from: place.shard,
                to: anchor.shard,
            };
            return Step::calm(Self::decision(group, class, action, reason()));
        }
        self.join_anchor(group, anchor, &reason())
    }

    /// A replica moves to the node where its group has its leases, if nothing is worse for it.
    fn join_anchor(&self, group: &Group, anchor: Place, reason: &Reason) -> Step {
        let Some(to) = self.view.index(anchor.node) else {
            return Step::Fine;
        };
        if group.is_on(to)
            || self.rank(group, Some(to)) > self.rank(group, group.holder.and_then(|at| group.seats[at].node))
        {
            return Step::Fine;
        }
        let nodes = group.nodes_without(None);
        let (violations, sharing) = (
            self.view.violations(group.policy, &nodes),
            self.view.sharing(&nodes),
        );
        // The one that has the lease goes last: moving it would cost a transfer more.
        let mut voters: Vec<usize> = group.voters().collect();
        voters.sort_by_key(|at| (group.holder == Some(*at), *at));
        for at in voters {
            let is_anchor = |node: usize| node == to;
            let search = Search {
                class: Class::Colocation,
                beside: self.view.beside(group, Some(at)),
                violations_max: violations,
                sharing_max: Some(sharing),
                also: &is_anchor,
            };
            let replaces = Replaces {
                node: group.seats[at].place().node,
                because: Class::Colocation,
            };
            if let Some(Step::Do(mut decision, urgency)) =
                self.try_add(group, &search, replaces, reason.clone())
            {
                if let Action::AddLearner { to, .. } = &mut decision.action {
                    *to = anchor;
                }
                return Step::Do(decision, urgency);
            }
        }
        Step::Fine
    }
}
