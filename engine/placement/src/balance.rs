//! Spread over failure domains, and balance of loads between nodes and between the shards of a node.
//!
//! What keeps balance from flapping:
//! - A node is *out of band* when its load has been further from the mean than `start` for
//!   [`Config::loaded_after_ns`](crate::Config::loaded_after_ns), and until it is nearer than `stop`.
//! - A step takes load from a node above the mean to another, of which one is out of band, and the taker must end below
//!   the giver, by the band in which balance stops where steps are smaller than that. So the sum of the squares of the loads falls with each step.
//! - Bytes come before CPU time, CPU time before leases: what was won for an earlier one is not given up for a later one, as
//!   there too the taker must not end above the giver, or both must stay within the band in which balance stops. For the sake
//!   of an earlier one a later one may get worse, as long as the taker is not overloaded. So steps for bytes end, then those for
//!   CPU time, then those for leases.
//! - The range has been still for [`Config::still_ns`](crate::Config::still_ns).

use crate::candidate::{Pick, Search};
use crate::cluster::{NodeState, Replaces};
use crate::config::Band;
use crate::decision::{Action, Class, Reason, Resource};
use crate::group::{Group, Health};
use crate::plan::{Loaded, Planner, Step};
use crate::repair::any;
use crate::view::{Amounts, Meter, amounts, at};
use base::planted_bug;

/// A node that uses no more of its CPU afterwards can take a replica for the sake of bytes, whatever the others use.
const PLENTY: f64 = 0.8;

fn share(permille: u32) -> f64 {
    f64::from(permille) / 1000.0
}

/// Thousandths of `mean`.
fn permille(used: f64, mean: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative; the cast saturates"
    )]
    let permille = (used / mean.max(1e-12) * 1000.0) as u32;
    permille
}

impl Planner<'_> {
    pub(crate) fn band(&self, resource: Resource) -> Band {
        match resource {
            Resource::Bytes => self.view.config.bytes,
            Resource::Cpu => self.view.config.cpu,
            Resource::Leases => self.view.config.leases,
        }
    }

    /// Whether replicas of this range may move for reasons that can wait.
    pub(crate) fn is_still(&self, group: &Group) -> bool {
        let since = self.view.cluster.now_ns.saturating_sub(group.range.changed_at_ns);
        since >= self.view.config.still_ns || planted_bug!("placement-never-still")
    }

    /// Notes which nodes and shards are out of band, with what the last call noted.
    pub(crate) fn note_bands(&mut self) {
        let now_ns = self.view.cluster.now_ns;
        let mut out = std::collections::BTreeMap::new();
        let mut note = |key, is_off: &dyn Fn(u32) -> bool, band: Band, at_once: bool| {
            let known = self.cursor.loaded.get(&key).copied();
            // Where balance gets no further, noise must not be what opens a way now and then.
            let idle = |known: Loaded| {
                now_ns.saturating_sub(known.step_ns) > self.view.config.still_ns.saturating_mul(2)
            };
            let known = known.filter(|known| !(known.is_out && idle(*known)));
            let was_out = known.is_some_and(|known| known.is_out);
            if !at_once
                && !is_off(if was_out {
                    band.stop_permille
                } else {
                    band.start_permille
                })
            {
                return;
            }
            let since_ns = known.map_or(now_ns, |known| known.since_ns);
            let lasted = now_ns.saturating_sub(since_ns) >= self.view.config.loaded_after_ns;
            let is_out = was_out || lasted || at_once;
            let step_ns = known.filter(|_| was_out).map_or(now_ns, |known| known.step_ns);
            out.insert(
                key,
                Loaded {
                    since_ns,
                    step_ns,
                    is_out,
                },
            );
        };
        for seen in self
            .view
            .nodes
            .iter()
            .filter(|seen| seen.node.state == NodeState::Live)
        {
            for resource in Resource::ALL {
                let (index, band) = (at(resource), self.band(resource));
                let off = |meter: &Meter, mean: f64| (meter.used(index, 0) - mean).abs() / mean.max(1e-12);
                let full = resource == Resource::Bytes
                    && seen.node.disk_permille >= self.view.config.disk_relieve_permille;
                let total = off(&seen.total, self.view.mean[index]);
                note(
                    (resource, seen.node.id, None),
                    &|limit| total > share(limit),
                    band,
                    full,
                );
                let mean = seen.total.used(index, 0);
                for (id, meter) in &seen.shards {
                    let off = off(meter, mean);
                    note(
                        (resource, seen.node.id, Some(*id)),
                        &|limit| off > share(limit),
                        band,
                        false,
                    );
                }
            }
        }
        self.cursor.loaded = out;
        let is_out = |seen: &crate::view::Seen| {
            Resource::ALL.map(|resource| self.cursor.is_out(resource, seen.node.id, None))
        };
        self.out = self.view.nodes.iter().map(is_out).collect();
    }

    /// Whether moving `moved` from one meter to another is worth it for `resource` and harmless for the others.
    fn gains(&self, resource: Resource, from: &Meter, to: &Meter, mean: &[f64; 3], moved: &Amounts) -> bool {
        let index = at(resource);
        if moved[index] <= 0 {
            return false;
        }
        let floor = match resource {
            Resource::Bytes => from.load[0] < i128::from(self.view.config.bytes_floor),
            Resource::Cpu => from.used(1, 0) < share(self.view.config.cpu_floor_permille),
            Resource::Leases => false,
        };
        let end = |index: usize| (from.used(index, -moved[index]), to.used(index, moved[index]));
        let harmless = |other: Resource| {
            let (left, taken) = end(at(other));
            // What comes first in the order of resources is not given up for what comes later. The other way round it is enough
            // that the taker has plenty: the rest is for later steps.
            let (mean, stop) = (mean[at(other)], share(self.band(other).stop_permille));
            let plenty = other > resource && (other == Resource::Leases || taken <= PLENTY);
            let in_band =
                plenty || taken <= mean * (1.0 + stop) && (other > resource || left >= mean * (1.0 - stop));
            moved[at(other)] == 0 || taken <= left || in_band
        };
        let (left, taken) = end(index);
        // The difference must be worth more than one step changes, and more than noise makes: twice what is moved, and what is
        // moved and the width of the band.
        let worth =
            (share(self.band(resource).stop_permille) * mean[index] - (from.used(index, 0) - left)).max(0.0);
        (!floor && taken <= left - worth && from.used(index, 0) >= mean[index]
            || planted_bug!("placement-no-hysteresis") && left < from.used(index, 0))
            && Resource::ALL
                .into_iter()
                .all(|other| other == resource || harmless(other))
    }

    fn is_out(&self, resource: Resource, node: usize) -> bool {
        self.out[node][at(resource)] || planted_bug!("placement-no-hysteresis")
    }

    fn pair_gains(&self, resource: Resource, from: usize, to: usize, moved: &Amounts) -> bool {
        let (giver, taker) = (&self.view.nodes[from].total, &self.view.nodes[to].total);
        (self.is_out(resource, from) || self.is_out(resource, to))
            && self.gains(resource, giver, taker, &self.view.mean, moved)
    }

    fn why_loaded(&self, resource: Resource, node: usize) -> Reason {
        let seen = &self.view.nodes[node];
        if resource == Resource::Bytes && seen.node.disk_permille >= self.view.config.disk_relieve_permille {
            return Reason::DiskFull {
                node: seen.node.id,
                permille: seen.node.disk_permille,
            };
        }
        Reason::Loaded {
            resource,
            node: seen.node.id,
            permille: permille(seen.total.used(at(resource), 0), self.view.mean[at(resource)]),
        }
    }

    /// The swap that spreads the range best, if one spreads it better.
    pub(crate) fn spread(&self, group: &Group) -> Step {
        let nodes = group.nodes_without(None);
        let now = self.view.sharing(&nodes);
        if now == [0; crate::cluster::TIERS_MAX] || !self.is_still(group) {
            return Step::Fine;
        }
        let violations = self.view.violations(group.policy, &nodes);
        let mut best = None;
        for at in group.voters() {
            let beside = self.view.beside(group, Some(at));
            // Without a pair of its own this one's going spreads nothing.
            if beside.sharing() == now {
                continue;
            }
            let mut below = now;
            // The next smaller value in the order of `Sharing`: strictly better is asked for.
            for tier in below.iter_mut().rev() {
                match tier.checked_sub(1) {
                    Some(less) => {
                        *tier = less;
                        break;
                    }
                    None => *tier = u32::MAX,
                }
            }
            let search = Search {
                class: Class::Spread,
                beside,
                violations_max: violations,
                sharing_max: Some(below),
                also: &any,
            };
            if let Ok(Pick {
                violations, sharing, ..
            }) = self.view.pick(group, &search)
            {
                let rank = (violations, sharing, group.holder == Some(at), at);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, search));
                }
            }
        }
        let Some(((_, _, _, at), search)) = best else {
            return Step::Fine;
        };
        let node = group.seats[at].place().node;
        let replaces = Replaces {
            node,
            because: Class::Spread,
        };
        let reason = Reason::SharesDomain {
            node,
            domain: self.shared_domain(group, at),
        };
        self.try_add(group, &search, replaces, reason)
            .unwrap_or(Step::Fine)
    }

    /// The narrowest domain that a replica shares with another of its range.
    pub(crate) fn shared_domain(&self, group: &Group, at: usize) -> Box<str> {
        let Some(node) = group.seats[at].node else {
            return Box::default();
        };
        let depth = group
            .nodes_without(Some(at))
            .into_iter()
            .map(|other| self.view.shared(node, other))
            .max();
        let tiers = &self.view.nodes[node].node.locality.0;
        let tier = depth
            .and_then(|depth| depth.checked_sub(1))
            .and_then(|last| tiers.get(last));
        tier.map(|(name, value)| format!("{name}={value}").into())
            .unwrap_or_default()
    }

    /// One step towards even loads.
    pub(crate) fn balance(&self, group: &Group, moves: bool) -> Step {
        if self.cursor.loaded.is_empty() && !planted_bug!("placement-no-hysteresis") {
            return Step::Fine;
        }
        // A group has its leases together by wish, and its first range would take all others along.
        if self.view.policies[group.policy].policy.group.is_some() {
            return Step::Fine;
        }
        let step = self.balance_lease(group);
        if !matches!(step, Step::Fine) || !self.is_still(group) {
            return step;
        }
        if moves && let step @ Step::Do(..) = self.balance_replica(group) {
            return step;
        }
        self.balance_shards(group)
    }

    fn balance_lease(&self, group: &Group) -> Step {
        let Some(holder) = group.holder.filter(|_| self.lease_is_still(group)) else {
            return Step::Fine;
        };
        let seat = &group.seats[holder];
        let (Some(from), Health::Live) = (seat.node, seat.health) else {
            return Step::Fine;
        };
        let rank = self.rank(group, seat.node);
        let moved = [0, i128::from(group.range.cpu_read_ns), 1];
        for resource in [Resource::Cpu, Resource::Leases] {
            let fits = |at: &usize| {
                let seat = &group.seats[*at];
                let gains = |to: usize| to != from && self.pair_gains(resource, from, to, &moved);
                seat.can_lead() && self.rank(group, seat.node) == rank && seat.node.is_some_and(gains)
            };
            let used = |at: &usize| {
                let meter = group.seats[*at]
                    .node
                    .map(|node| self.view.nodes[node].total)
                    .unwrap_or_default();
                (
                    permille(
                        meter.used(self::at(resource), 0),
                        self.view.mean[self::at(resource)],
                    ),
                    *at,
                )
            };
            if let Some(to) = (0..group.seats.len()).filter(fits).min_by_key(used) {
                let to = group.seats[to].place().node;
                let reason = self.why_loaded(resource, from);
                return Step::calm(Self::decision(
                    group,
                    Class::Balance,
                    Action::TransferLease { to },
                    reason,
                ));
            }
        }
        Step::Fine
    }

    fn balance_replica(&self, group: &Group) -> Step {
        let nodes = group.nodes_without(None);
        let (violations, sharing) = (
            self.view.violations(group.policy, &nodes),
            self.view.sharing(&nodes),
        );
        let mut voters: Vec<usize> = group.voters().collect();
        let full = |at: &usize| {
            let node = group.seats[*at].node.map(|node| self.view.nodes[node].node);
            node.is_some_and(|node| node.disk_permille >= self.view.config.disk_relieve_permille)
        };
        // The fullest disk first; the one that has the lease last, as moving it would cost a transfer more.
        voters.sort_by_key(|at| (!full(at), group.holder == Some(*at), *at));
        for at in voters {
            let seat = &group.seats[at];
            let (Some(from), Health::Live) = (seat.node, seat.health) else {
                continue;
            };
            let moved = amounts(group.range, group.holder == Some(at));
            for resource in [Resource::Bytes, Resource::Cpu] {
                let taker = |to: usize| self.pair_gains(resource, from, to, &moved);
                let search = Search {
                    class: Class::Balance,
                    beside: self.view.beside(group, Some(at)),
                    violations_max: violations,
                    sharing_max: Some(sharing),
                    also: &taker,
                };
                let replaces = Replaces {
                    node: seat.place().node,
                    because: Class::Balance,
                };
                if let Some(step) = self.try_add(group, &search, replaces, self.why_loaded(resource, from)) {
                    return step.later();
                }
            }
        }
        Step::Fine
    }

    fn balance_shards(&self, group: &Group) -> Step {
        for at in 0..group.seats.len() {
            let seat = &group.seats[at];
            let (Some(node), Health::Live) = (seat.node, seat.health) else {
                continue;
            };
            let seen = &self.view.nodes[node];
            let place = seat.place();
            let Some((_, from)) = seen.shards.iter().find(|(id, _)| *id == place.shard) else {
                continue;
            };
            let moved = amounts(group.range, group.holder == Some(at));
            let mean = [0, 1, 2].map(|index| seen.total.used(index, 0));
            for resource in Resource::ALL {
                let out = |shard| self.cursor.is_out(resource, place.node, Some(shard));
                let fits = |(id, to): &&(base::ShardId, Meter)| {
                    *id != place.shard
                        && (out(place.shard) || out(*id))
                        && self.gains(resource, from, to, &mean, &moved)
                };
                let used = |(id, meter): &&(base::ShardId, Meter)| {
                    (
                        permille(meter.used(self::at(resource), 0), mean[self::at(resource)]),
                        *id,
                    )
                };
                let Some((to, _)) = seen.shards.iter().filter(fits).min_by_key(used) else {
                    continue;
                };
                let action = Action::MoveShard {
                    node: place.node,
                    from: place.shard,
                    to: *to,
                };
                let reason = Reason::ShardLoaded {
                    resource,
                    place,
                    permille: permille(from.used(self::at(resource), 0), mean[self::at(resource)]),
                };
                return Step::calm(Self::decision(group, Class::Balance, action, reason));
            }
        }
        Step::Fine
    }
}
