//! The cluster, indexed for one call: sorted nodes, localities compared, policies by key, loads with what is under way.

use crate::cluster::{Cluster, Node, NodeState, Place, Range, TIERS_MAX};
use crate::config::Config;
use crate::decision::{Action, Resource};
use crate::policy::{Constraint, Policy};
use base::{NodeId, RangeId, ShardId};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An amount of each [`Resource`]. Signed and wide, so that no input overflows it.
pub(crate) type Amounts = [i128; 3];

/// How many pairs of replicas share the first tier, the first two, and so on. Smaller is better spread.
pub(crate) type Sharing = [u32; TIERS_MAX];

/// A node's or shard's load against what it can take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    pub(crate) load: Amounts,
    pub(crate) capacity: Amounts,
}

impl Meter {
    /// The share in use, after `added`.
    #[expect(clippy::cast_precision_loss, reason = "a ratio to compare")]
    pub(crate) fn used(&self, resource: usize, added: i128) -> f64 {
        (self.load[resource] + added).max(0) as f64 / self.capacity[resource].max(1) as f64
    }

    fn shift(&mut self, amounts: &Amounts, sign: i128) {
        for (load, amount) in self.load.iter_mut().zip(amounts) {
            *load += sign * amount;
        }
    }

    fn add(&mut self, other: &Self) {
        for at in 0..3 {
            self.load[at] += other.load[at];
            self.capacity[at] += other.capacity[at];
        }
    }
}

/// What is kept of a node.
pub(crate) struct Seen<'a> {
    pub(crate) node: &'a Node,
    pub(crate) total: Meter,
    pub(crate) shards: Vec<(ShardId, Meter)>,
    pub(crate) snapshots_in: u32,
    pub(crate) snapshots_out: u32,
}

/// A policy with the nodes that satisfy its parts.
pub(crate) struct PolicyView<'a> {
    pub(crate) policy: Cow<'a, Policy>,
    /// Whether a node satisfies all that is asked of each replica.
    pub(crate) admits: Vec<bool>,
    /// At least so many replicas on these nodes.
    pub(crate) counts: Vec<(u32, Vec<bool>)>,
    /// By preference, whether a node satisfies it.
    pub(crate) preferred: Vec<Vec<bool>>,
}

pub(crate) struct View<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) config: &'a Config,
    pub(crate) nodes: Vec<Seen<'a>>,
    /// Tiers shared, by pair of nodes.
    shared: Vec<u8>,
    pub(crate) policies: Vec<PolicyView<'a>>,
    /// Where policies begin, with the index of the policy from there on.
    segments: Vec<(Box<[u8]>, usize)>,
    pub(crate) pending: BTreeMap<RangeId, &'a Action>,
    /// Where each group has the lease of its first range.
    pub(crate) anchors: BTreeMap<&'a str, (&'a [u8], RangeId, Option<Place>)>,
    /// The mean share in use over live nodes.
    pub(crate) mean: [f64; 3],
}

fn capped(value: u64) -> i128 {
    i128::from(value)
}

impl<'a> View<'a> {
    pub(crate) fn new(cluster: &'a Cluster, config: &'a Config) -> Self {
        let mut sorted: Vec<&Node> = cluster.nodes.iter().collect();
        // Two nodes of one id cannot be; still, the order of the list must not decide between them.
        let whole = |node: &Node| {
            let mut node = node.clone();
            node.shards.sort();
            node
        };
        sorted.sort_by(|a, b| a.id.cmp(&b.id).then_with(|| whole(a).cmp(&whole(b))));
        sorted.dedup_by_key(|node| node.id);
        let nodes: Vec<Seen> = sorted.into_iter().map(seen).collect();
        let mut shared = Vec::with_capacity(nodes.len() * nodes.len());
        for a in &nodes {
            let depth = |b: &Seen| u8::try_from(a.node.locality.shared(&b.node.locality)).unwrap_or(u8::MAX);
            shared.extend(nodes.iter().map(depth));
        }
        let mut view = Self {
            cluster,
            config,
            nodes,
            shared,
            policies: Vec::new(),
            segments: Vec::new(),
            pending: BTreeMap::new(),
            anchors: BTreeMap::new(),
            mean: [0.0; 3],
        };
        view.index_policies();
        let mut pending: Vec<_> = cluster.pending.iter().collect();
        pending.sort();
        for pending in pending {
            view.pending.entry(pending.range).or_insert(&pending.action);
            if let Action::Merge { right } = &pending.action {
                view.pending.entry(*right).or_insert(&pending.action);
            }
        }
        view.walk_ranges();
        view.average();
        view
    }

    fn index_policies(&mut self) {
        let mut sorted: Vec<&Policy> = self.cluster.policies.iter().collect();
        sorted.sort();
        sorted.dedup_by_key(|policy| &policy.prefix);
        let mut policies: Vec<Cow<Policy>> = sorted.into_iter().map(Cow::Borrowed).collect();
        if policies.first().is_none_or(|first| !first.prefix.is_empty()) {
            policies.insert(0, Cow::Owned(Policy::default()));
        }
        let mut starts: Vec<Box<[u8]>> = policies.iter().map(|policy| policy.prefix.clone()).collect();
        let ends = policies
            .iter()
            .filter_map(|policy| base::key::prefix_end(&policy.prefix));
        starts.extend(ends.map(Vec::into_boxed_slice));
        starts.sort();
        starts.dedup();
        let mut lengths: Vec<usize> = policies.iter().map(|policy| policy.prefix.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for start in starts {
            let fitting = lengths.iter().rev().filter(|length| **length <= start.len());
            let find = |length: &usize| {
                policies
                    .binary_search_by(|policy| (*policy.prefix).cmp(&start[..*length]))
                    .ok()
            };
            // The empty prefix is always there.
            let policy = fitting.clone().find_map(find).unwrap_or(0);
            if self.segments.last().is_none_or(|(_, last)| *last != policy) {
                self.segments.push((start, policy));
            }
        }
        let admitted = |constraint: &Constraint| -> Vec<bool> {
            self.nodes
                .iter()
                .map(|seen| constraint.admits(&seen.node.locality))
                .collect()
        };
        let all = |constraints: &[Constraint]| -> Vec<bool> {
            let each = constraints
                .iter()
                .filter(|constraint| !matches!(constraint, Constraint::Count(..)));
            let fits = |seen: &Seen| {
                each.clone()
                    .all(|constraint| constraint.admits(&seen.node.locality))
            };
            self.nodes.iter().map(fits).collect()
        };
        let index = |policy: Cow<'a, Policy>| PolicyView {
            admits: all(&policy.constraints),
            counts: policy
                .constraints
                .iter()
                .filter_map(|constraint| match constraint {
                    Constraint::Count(_, _, count) => Some((*count, admitted(constraint))),
                    Constraint::Require(..) | Constraint::Prohibit(..) => None,
                })
                .collect(),
            preferred: policy
                .lease_preferences
                .iter()
                .map(|preference| all(preference))
                .collect(),
            policy,
        };
        self.policies = policies.into_iter().map(index).collect();
    }

    /// One light pass over all ranges: who sends and receives state, loads that are on their way, groups.
    fn walk_ranges(&mut self) {
        let grouped = self.policies.iter().any(|policy| policy.policy.group.is_some());
        let cluster = self.cluster;
        for range in &cluster.ranges {
            for replica in &range.replicas {
                if replica.kind == crate::Kind::Learner && !replica.up_to_date {
                    self.transfer(replica.source, replica.place.node);
                    self.load(replica.place, range, false, 1);
                }
                if let Some(replaces) = replica.replaces
                    && self.goes_on(range, replica)
                    && let Some(old) = range.replicas.iter().find(|old| old.place.node == replaces.node)
                {
                    self.load(old.place, range, false, -1);
                }
            }
            if let Some(action) = self.pending.get(&range.id) {
                self.account(range, action);
            }
            if grouped {
                self.note_group(range);
            }
        }
    }

    /// Whether the replica that is replaced by this one will still go. Where another one went instead, because it died
    /// meanwhile, it stays.
    fn goes_on(&self, range: &Range, replica: &crate::Replica) -> bool {
        let wanted = self.policies[self.policy_of(range)].policy.replicas.max(1);
        let voters = range
            .replicas
            .iter()
            .filter(|replica| replica.kind != crate::Kind::Learner)
            .count();
        replica.kind == crate::Kind::Learner || u32::try_from(voters).is_ok_and(|voters| voters > wanted)
    }

    fn note_group(&mut self, range: &'a Range) {
        let policy = self.policy_of(range);
        // The name is borrowed from the cluster, where every policy with a group comes from.
        let Cow::Borrowed(policy) = &self.policies[policy].policy else {
            return;
        };
        let Some(group) = &policy.group else { return };
        let entry = self
            .anchors
            .entry(group)
            .or_insert((&range.span.start, range.id, None));
        let holds = |replica: &&crate::Replica| Some(replica.place.node) == range.leaseholder;
        let place = range
            .replicas
            .iter()
            .filter(holds)
            .map(|replica| replica.place)
            .min();
        let key = (&*range.span.start, range.id);
        if key < (entry.0, entry.1) || key == (entry.0, entry.1) && place > entry.2 {
            *entry = (key.0, key.1, place);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio to compare")]
    fn average(&mut self) {
        let mut total = Meter::default();
        for seen in self
            .nodes
            .iter()
            .filter(|seen| seen.node.state == NodeState::Live)
        {
            total.add(&seen.total);
        }
        for at in 0..3 {
            self.mean[at] = total.load[at].max(0) as f64 / total.capacity[at].max(1) as f64;
        }
    }

    /// The index of a node; `None` for one that is not in the cluster.
    pub(crate) fn index(&self, id: NodeId) -> Option<usize> {
        self.nodes.binary_search_by_key(&id, |seen| seen.node.id).ok()
    }

    pub(crate) fn state(&self, node: usize) -> NodeState {
        self.nodes[node].node.state
    }

    pub(crate) fn shared(&self, a: usize, b: usize) -> usize {
        usize::from(self.shared[a * self.nodes.len() + b])
    }

    /// Adds to `sharing` the pairs of `node` with `others`.
    pub(crate) fn share(&self, sharing: &mut Sharing, node: usize, others: impl Iterator<Item = usize>) {
        for other in others {
            for tier in sharing.iter_mut().take(self.shared(node, other)) {
                *tier += 1;
            }
        }
    }

    fn segment(&self, key: &[u8]) -> usize {
        self.segments
            .partition_point(|(start, _)| **start <= *key)
            .saturating_sub(1)
    }

    /// The policy of a range: that of its first key.
    pub(crate) fn policy_of(&self, range: &Range) -> usize {
        self.segments[self.segment(&range.span.start)].1
    }

    /// The first key of a range that is under another policy than the one before it, and that policy.
    pub(crate) fn boundary(&self, range: &Range) -> Option<(&[u8], usize)> {
        let (start, policy) = self.segments.get(self.segment(&range.span.start) + 1)?;
        range.span.contains(start).then_some((start, *policy))
    }

    fn transfer(&mut self, source: Option<NodeId>, to: NodeId) {
        if let Some(to) = self.index(to) {
            self.nodes[to].snapshots_in += 1;
        }
        if let Some(source) = source.and_then(|source| self.index(source)) {
            self.nodes[source].snapshots_out += 1;
        }
    }

    fn put(&mut self, place: Place, amounts: Amounts, sign: i128) {
        let Some(node) = self.index(place.node) else {
            return;
        };
        let seen = &mut self.nodes[node];
        let shard = seen.shards.iter_mut().find(|(id, _)| *id == place.shard);
        seen.total.shift(&amounts, sign);
        if let Some((_, meter)) = shard {
            meter.shift(&amounts, sign);
        }
    }

    fn load(&mut self, place: Place, range: &Range, lease: bool, sign: i128) {
        self.put(place, amounts(range, lease), sign);
    }

    /// Takes into account what an action that has been decided will do to loads and transfers.
    pub(crate) fn account(&mut self, range: &Range, action: &Action) {
        let place = |node: NodeId| {
            range
                .replicas
                .iter()
                .map(|replica| replica.place)
                .find(|place| place.node == node)
        };
        match action {
            Action::AddLearner { to, replaces, source } if place(to.node).is_none() => {
                self.transfer(Some(*source), to.node);
                self.load(*to, range, false, 1);
                if let Some(old) = replaces.and_then(|replaces| place(replaces.node)) {
                    self.load(old, range, false, -1);
                }
            }
            Action::TransferLease { to } => {
                let lease = [0, capped(range.cpu_read_ns), 1];
                if let Some(from) = range.leaseholder.and_then(place) {
                    self.put(from, lease, -1);
                }
                if let Some(to) = place(*to) {
                    self.put(to, lease, 1);
                }
            }
            Action::MoveShard { node, from, to } => {
                let lease = range.leaseholder == Some(*node);
                self.load(Place::new(*node, *from), range, lease, -1);
                self.load(Place::new(*node, *to), range, lease, 1);
            }
            Action::AddLearner { .. }
            | Action::Nothing
            | Action::Promote { .. }
            | Action::Demote { .. }
            | Action::Remove { .. }
            | Action::Split { .. }
            | Action::Merge { .. } => {}
        }
    }
}

/// What a replica costs its node, with the lease or without.
pub(crate) fn amounts(range: &Range, lease: bool) -> Amounts {
    let read = if lease { capped(range.cpu_read_ns) } else { 0 };
    [
        capped(range.bytes),
        capped(range.cpu_write_ns) + read,
        i128::from(lease),
    ]
}

fn seen(node: &Node) -> Seen<'_> {
    let mut shards: Vec<_> = node.shards.iter().collect();
    shards.sort();
    shards.dedup_by_key(|shard| shard.id);
    let mut total = Meter::default();
    let mut meters = Vec::with_capacity(shards.len());
    for shard in shards {
        let (load, capacity) = (&shard.load, &shard.capacity);
        let meter = Meter {
            load: [load.bytes, load.cpu_ns, load.leases].map(capped),
            // Leases are shared out by CPU capacity.
            capacity: [capacity.bytes, capacity.cpu_ns, capacity.cpu_ns].map(capped),
        };
        total.add(&meter);
        meters.push((shard.id, meter));
    }
    Seen {
        node,
        total,
        shards: meters,
        snapshots_in: 0,
        snapshots_out: 0,
    }
}

/// Where a resource stands in [`Amounts`].
pub(crate) fn at(resource: Resource) -> usize {
    resource as usize
}
