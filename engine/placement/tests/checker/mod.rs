//! The invariants of placement, checked from outside: nothing here is shared with the crate but the types.

use crate::fixtures::{after, has_majority, live_voters, node, range, reachable, votes};
use base::key::prefix_end;
use base::{NodeId, RangeId};
use corelane_placement::{
    Action, Band, Class, Cluster, Config, Constraint, DISK_FULL_PERMILLE, Decision, Kind, Load, Node,
    NodeState, Plan, Policy, Range, Replica, Shard,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(crate) struct Checker {
    /// When a replica of a range left a node.
    left: BTreeMap<(RangeId, NodeId), u64>,
}

/// The policy of a key.
pub(crate) fn policy(cluster: &Cluster, key: &[u8]) -> Policy {
    let fits = cluster
        .policies
        .iter()
        .filter(|policy| key.starts_with(&policy.prefix));
    fits.max_by_key(|policy| policy.prefix.len())
        .cloned()
        .unwrap_or_default()
}

/// The first key at which another policy begins than the one before.
fn boundary(cluster: &Cluster, range: &Range) -> Option<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for policy in &cluster.policies {
        keys.push(policy.prefix.to_vec());
        keys.extend(prefix_end(&policy.prefix));
    }
    keys.sort();
    let begins = |key: &Vec<u8>| policy(cluster, key).prefix != policy(cluster, &range.span.start).prefix;
    keys.into_iter()
        .find(|key| range.span.contains(key) && **key > *range.span.start && begins(key))
}

fn admits(cluster: &Cluster, policy: &Policy, id: NodeId) -> bool {
    let each = |constraint: &Constraint| match (constraint, node(cluster, id)) {
        (Constraint::Count(..), _) => true,
        (constraint, Some(node)) => constraint.admits(&node.locality),
        (_, None) => false,
    };
    policy.constraints.iter().all(each)
}

/// Replicas that are where they must not be, and those that are missing where some must be.
fn violations(cluster: &Cluster, policy: &Policy, nodes: &[NodeId]) -> usize {
    let misplaced = nodes.iter().filter(|id| !admits(cluster, policy, **id)).count();
    let missing = |constraint: &Constraint| match constraint {
        Constraint::Count(_, _, count) => {
            let fits =
                |id: &&NodeId| node(cluster, **id).is_some_and(|node| constraint.admits(&node.locality));
            usize::try_from(*count)
                .unwrap()
                .saturating_sub(nodes.iter().filter(fits).count())
        }
        Constraint::Require(..) | Constraint::Prohibit(..) => 0,
    };
    misplaced + policy.constraints.iter().map(missing).sum::<usize>()
}

/// Pairs that share the first tier, the first two, …
fn sharing(cluster: &Cluster, nodes: &[NodeId]) -> Vec<usize> {
    let mut sharing = vec![0; 4];
    for (at, a) in nodes.iter().enumerate() {
        for b in &nodes[..at] {
            let (Some(a), Some(b)) = (node(cluster, *a), node(cluster, *b)) else {
                continue;
            };
            for (tier, (x, y)) in a.locality.0.iter().zip(&b.locality.0).enumerate() {
                if x != y {
                    break;
                }
                sharing[tier] += 1;
            }
        }
    }
    sharing
}

fn voters(replicas: &[Replica]) -> Vec<NodeId> {
    replicas
        .iter()
        .filter(|replica| votes(replica))
        .map(|replica| replica.place.node)
        .collect()
}

fn is_gone(cluster: &Cluster, config: &Config, id: NodeId) -> bool {
    match node(cluster, id).map(|node| node.state) {
        None => true,
        Some(NodeState::Dead { since_ns }) => cluster.now_ns - since_ns >= config.dead_after_ns,
        Some(_) => false,
    }
}

fn is_live(cluster: &Cluster, id: NodeId) -> bool {
    node(cluster, id).is_some_and(|node| node.state == NodeState::Live)
}

fn swapped(nodes: &[NodeId], old: NodeId, new: NodeId) -> Vec<NodeId> {
    nodes
        .iter()
        .map(|id| if *id == old { new } else { *id })
        .collect()
}

impl Checker {
    pub(crate) fn carried_out(&mut self, cluster: &Cluster, decision: &Decision) {
        if let Action::Remove { at } = decision.action {
            self.left.insert((decision.range, at.node), cluster.now_ns);
        }
    }

    pub(crate) fn check(&self, cluster: &Cluster, config: &Config, plan: &Plan) {
        let beside = plan
            .decisions
            .iter()
            .filter(|decision| decision.class.is_beside())
            .count();
        assert!(plan.decisions.len() - beside <= config.decisions_max && beside <= config.splits_max);
        assert!(plan.held.len() <= config.held_max);
        assert!(
            plan.decisions.is_sorted_by_key(|decision| decision.class),
            "{:?}",
            plan.decisions
        );
        let mut busy: BTreeSet<RangeId> = BTreeSet::new();
        for pending in &cluster.pending {
            busy.insert(pending.range);
            if let Action::Merge { right } = pending.action {
                busy.insert(right);
            }
        }
        let mut receives: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut sends: BTreeMap<NodeId, u32> = BTreeMap::new();
        let learners = cluster.ranges.iter().flat_map(|range| &range.replicas);
        for learner in learners.filter(|replica| replica.kind == Kind::Learner && !replica.up_to_date) {
            *receives.entry(learner.place.node).or_default() += 1;
            *sends.entry(learner.source.unwrap_or_default()).or_default() += 1;
        }
        for pending in &cluster.pending {
            if let Action::AddLearner { to, source, .. } = pending.action {
                *receives.entry(to.node).or_default() += 1;
                *sends.entry(source).or_default() += 1;
            }
        }
        for decision in &plan.decisions {
            assert!(
                busy.insert(decision.range),
                "two changes of one range: {decision}"
            );
            if let Action::Merge { right } = decision.action {
                assert!(busy.insert(right), "two changes of one range: {decision}");
            }
            if let Action::AddLearner { to, source, .. } = decision.action {
                let (received, sent) = (
                    receives.entry(to.node).or_default(),
                    sends.entry(source).or_default(),
                );
                (*received, *sent) = (*received + 1, *sent + 1);
                assert!(
                    *received <= config.snapshots_in_max,
                    "{} receives too much: {decision}",
                    to.node
                );
                assert!(
                    *sent <= config.snapshots_out_max,
                    "{source} sends too much: {decision}"
                );
            }
            self.check_step(cluster, config, decision);
        }
        for held in &plan.held {
            assert_eq!(held.action, Action::Nothing);
        }
    }

    fn check_step(&self, cluster: &Cluster, config: &Config, decision: &Decision) {
        let range = range(cluster, decision.range).expect("it is one of the cluster's");
        let now = &range.replicas;
        let then = after(now, &decision.action);
        assert!(has_majority(cluster, now), "no majority can agree to {decision}");
        assert!(
            has_majority(cluster, &then),
            "no majority is left after {decision}"
        );
        let full = then.iter().any(|replica| {
            replica.kind == Kind::Voter && replica.up_to_date && reachable(cluster, replica.place.node)
        });
        assert!(full, "nobody with the data is left after {decision}");
        let policy = policy(cluster, &range.span.start);
        let wanted = usize::try_from(policy.replicas).unwrap();
        match &decision.action {
            Action::Nothing => panic!("nothing is no step: {decision}"),
            Action::AddLearner { to, replaces, source } => {
                assert!(is_live(cluster, to.node), "{decision}");
                assert!(
                    admits(cluster, &policy, to.node),
                    "it may not be there: {decision}"
                );
                assert!(
                    now.iter().all(|replica| replica.place.node != to.node),
                    "two on a node: {decision}"
                );
                let shards = &node(cluster, to.node).unwrap().shards;
                assert!(
                    shards.iter().any(|shard| shard.id == to.shard),
                    "no such shard: {decision}"
                );
                assert!(
                    node(cluster, to.node).unwrap().disk_permille < config.disk_full_permille,
                    "{decision}"
                );
                let sender = now
                    .iter()
                    .find(|replica| replica.place.node == *source)
                    .expect("a sender");
                assert!(
                    sender.kind == Kind::Voter && sender.up_to_date && reachable(cluster, *source),
                    "{decision}"
                );
                match replaces {
                    None => assert!(voters(now).len() < wanted, "one too many: {decision}"),
                    Some(replaces) => {
                        assert!(voters(now).contains(&replaces.node), "{decision}");
                        self.check_move(cluster, config, range, &policy, decision, replaces.node, to.node);
                    }
                }
            }
            Action::Promote { at } => {
                let learner = now
                    .iter()
                    .find(|replica| replica.place == *at)
                    .expect("a learner");
                assert!(learner.kind == Kind::Learner && learner.up_to_date, "{decision}");
                assert!(reachable(cluster, at.node), "{decision}");
            }
            Action::Demote { at } | Action::Remove { at } => {
                let old = now
                    .iter()
                    .find(|replica| replica.place == *at)
                    .expect("a replica");
                if votes(old) {
                    assert!(voters(&then).len() >= wanted, "one too few: {decision}");
                    assert!(
                        range.leaseholder != Some(at.node) || !reachable(cluster, at.node),
                        "it has the lease: {decision}"
                    );
                    // Dead ones go first.
                    assert!(live_voters(cluster, &then) >= (wanted / 2 + 1).min(live_voters(cluster, now)));
                }
            }
            Action::TransferLease { to } => {
                let fits = |replica: &Replica| {
                    replica.place.node == *to && replica.kind == Kind::Voter && replica.up_to_date
                };
                assert!(
                    now.iter().any(fits) && is_live(cluster, *to),
                    "it cannot have the lease: {decision}"
                );
                assert_ne!(range.leaseholder, Some(*to), "{decision}");
                let permille = node(cluster, *to).unwrap().disk_permille;
                assert!(
                    permille < DISK_FULL_PERMILLE,
                    "its disk takes no writes: {decision}"
                );
            }
            Action::MoveShard { node: id, from, to } => {
                let shards = &node(cluster, *id).unwrap().shards;
                assert!(
                    shards.iter().any(|shard| shard.id == *to) && from != to,
                    "{decision}"
                );
                let fits = |replica: &Replica| replica.place.node == *id && replica.place.shard == *from;
                assert!(now.iter().any(fits), "{decision}");
            }
            Action::Split { key, .. } => {
                assert!(range.span.contains(key) && *key > range.span.start, "{decision}");
            }
            Action::Merge { right } => {
                let right = cluster
                    .ranges
                    .iter()
                    .find(|range| range.id == *right)
                    .expect("a neighbour");
                assert_eq!(range.span.end.as_ref(), Some(&right.span.start), "{decision}");
                assert_eq!(
                    policy.prefix,
                    self::policy(cluster, &right.span.start).prefix,
                    "{decision}"
                );
                assert!(
                    boundary(cluster, range).is_none() && boundary(cluster, right).is_none(),
                    "{decision}"
                );
                let places = |range: &Range| range.replicas.iter().map(|r| r.place).collect::<BTreeSet<_>>();
                assert_eq!(places(range), places(right), "{decision}");
                assert!(range.bytes + right.bytes < policy.split_bytes / 3, "{decision}");
                for half in [range, right] {
                    assert!(
                        cluster.now_ns - half.split_at_ns >= config.merge_after_ns,
                        "just split: {decision}"
                    );
                    assert!(
                        cluster.now_ns - half.cold_at_ns >= config.merge_after_ns,
                        "just warm: {decision}"
                    );
                    assert!(
                        half.cpu_read_ns + half.cpu_write_ns < config.cold_cpu_ns,
                        "not cold: {decision}"
                    );
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a move has that many sides")]
    fn check_move(
        &self,
        cluster: &Cluster,
        config: &Config,
        range: &Range,
        policy: &Policy,
        decision: &Decision,
        old: NodeId,
        new: NodeId,
    ) {
        let nodes = voters(&range.replicas);
        let then = swapped(&nodes, old, new);
        match decision.class {
            Class::Quorum => assert!(
                is_gone(cluster, config, old),
                "{old} is not dead for long: {decision}"
            ),
            Class::Leaving => {
                assert_eq!(
                    node(cluster, old).unwrap().state,
                    NodeState::Decommissioning,
                    "{decision}"
                );
            }
            Class::Constraint => {
                assert!(
                    violations(cluster, policy, &then) < violations(cluster, policy, &nodes),
                    "nothing is mended: {decision}"
                );
            }
            Class::Spread | Class::Colocation | Class::Balance => {
                let (before, now) = (sharing(cluster, &nodes), sharing(cluster, &then));
                assert!(now <= before, "spread is lost: {decision}");
                assert!(
                    decision.class != Class::Spread || now < before,
                    "no spread is won: {decision}"
                );
                assert!(
                    cluster.now_ns - range.changed_at_ns >= config.still_ns,
                    "not still: {decision}"
                );
                assert!(violations(cluster, policy, &then) <= violations(cluster, policy, &nodes));
                if let Some(at) = self.left.get(&(range.id, new)) {
                    assert!(
                        cluster.now_ns - at >= config.still_ns,
                        "from {new} and back: {decision}"
                    );
                }
            }
            Class::Merge => {}
            other => panic!("a move for {other}: {decision}"),
        }
    }

    /// Everything is as the policies ask, where that is possible.
    pub(crate) fn converged(&self, cluster: &Cluster, config: &Config) {
        assert!(cluster.pending.is_empty());
        for range in &cluster.ranges {
            let policy = policy(cluster, &range.span.start);
            let wanted = usize::try_from(policy.replicas).unwrap();
            let nodes = voters(&range.replicas);
            let show = format!("{} of {:?}: {:?}", range.id, policy, range.replicas);
            assert!(has_majority(cluster, &range.replicas), "{show}");
            assert!(boundary(cluster, range).is_none(), "two policies: {show}");
            let fits = |id: NodeId| {
                is_live(cluster, id)
                    && admits(cluster, &policy, id)
                    && range.replicas.iter().all(|replica| replica.place.node != id)
            };
            let free: Vec<NodeId> = cluster
                .nodes
                .iter()
                .map(|node| node.id)
                .filter(|id| fits(*id))
                .collect();
            assert!(
                nodes.len() == wanted || nodes.len() < wanted && free.is_empty(),
                "{show}"
            );
            assert_eq!(nodes.len(), range.replicas.len(), "a learner is left: {show}");
            let now = violations(cluster, &policy, &nodes);
            for old in &nodes {
                let swaps = free.iter().map(|new| swapped(&nodes, *old, *new));
                for then in swaps.filter(|_| nodes.len() == wanted) {
                    assert!(
                        !is_gone(cluster, config, *old),
                        "{old} is dead and {free:?} free: {show}"
                    );
                    let (violated, shared) = (violations(cluster, &policy, &then), sharing(cluster, &then));
                    assert!(violated >= now, "{then:?} violates less: {show}");
                    let leaving = node(cluster, *old).unwrap().state == NodeState::Decommissioning;
                    assert!(
                        !leaving || violated > now,
                        "{old} leaves and {then:?} would do: {show}"
                    );
                    let better = violated == now && shared < sharing(cluster, &nodes);
                    // While something is wished and impossible, replicas do not move for less.
                    let blocked = now > 0 || nodes.iter().any(|id| !is_live(cluster, *id));
                    assert!(!better || blocked, "{then:?} spreads better: {show}");
                }
            }
            self.lease_is_right(cluster, range, &policy, &show);
        }
        self.even(cluster, config);
    }

    fn lease_is_right(&self, cluster: &Cluster, range: &Range, policy: &Policy, show: &str) {
        let rank = |id: NodeId| {
            let fits = |constraints: &Vec<Constraint>| {
                constraints
                    .iter()
                    .all(|constraint| constraint.admits(&node(cluster, id).unwrap().locality))
            };
            policy
                .lease_preferences
                .iter()
                .position(fits)
                .unwrap_or(policy.lease_preferences.len())
        };
        let can = range.replicas.iter().filter(|replica| {
            replica.kind == Kind::Voter && replica.up_to_date && is_live(cluster, replica.place.node)
        });
        let best = can.map(|replica| rank(replica.place.node)).min();
        if let Some(best) = best {
            let holder = range.leaseholder.expect("somebody has the lease");
            assert!(is_live(cluster, holder), "{holder} has the lease: {show}");
            assert_eq!(
                rank(holder),
                best,
                "the lease on {holder} is not preferred: {show}"
            );
        }
    }

    /// Where nothing but load decides, no node has more than the band allows, but for what two ranges are. Leases come last: they
    /// may be uneven where evening them would make CPU time uneven.
    fn even(&self, cluster: &Cluster, config: &Config) {
        // With fewer nodes than that, three replicas leave little choice.
        let plain = cluster.policies.is_empty()
            && cluster.nodes.len() >= 6
            && cluster.nodes.iter().all(|node| node.state == NodeState::Live)
            && cluster
                .nodes
                .iter()
                .all(|node| node.locality == cluster.nodes[0].locality);
        if !plain {
            return;
        }
        type Of = fn(&Load) -> u64;
        let largest = |of: &dyn Fn(&Range) -> u64| cluster.ranges.iter().map(of).max().unwrap_or(0);
        let resources: [(&str, Of, Of, Band, u64, u64); 2] = [
            (
                "bytes",
                |load| load.bytes,
                |room| room.bytes,
                config.bytes,
                largest(&|range| range.bytes),
                config.bytes_floor,
            ),
            (
                "CPU time",
                |load| load.cpu_ns,
                |room| room.cpu_ns,
                config.cpu,
                largest(&|range| range.cpu_read_ns + range.cpu_write_ns),
                u64::from(config.cpu_floor_permille) * 4_000_000,
            ),
        ];
        for (name, load_of, room_of, band, largest, floor) in resources {
            let sum = |of: Of, node: &Node, loads: fn(&Shard) -> &Load| {
                node.shards
                    .iter()
                    .map(|shard| u128::from(of(loads(shard))))
                    .sum::<u128>()
            };
            let loads = |node: &Node| sum(load_of, node, |shard| &shard.load);
            let rooms = |node: &Node| sum(room_of, node, |shard| &shard.capacity);
            let (all, room) = (
                cluster.nodes.iter().map(loads).sum::<u128>(),
                cluster.nodes.iter().map(rooms).sum::<u128>(),
            );
            for node in &cluster.nodes {
                let mean = all * rooms(node) / room;
                let limit = mean + mean * u128::from(band.start_permille) / 1000 + 2 * u128::from(largest);
                let load = loads(node);
                assert!(
                    load <= limit.max(u128::from(floor)),
                    "{} has {load} {name} of a mean of {mean}",
                    node.id
                );
            }
        }
    }
}
