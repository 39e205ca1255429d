//! A simulated cluster of 1 to 12 nodes with 1 to 4 shards each and up to 300 ranges, from one seed each.
//!
//! Fault model: nodes become suspect, die, return, drain, are decommissioned, go and join; loads shift and are noisy; policies
//! change; disks fill. Steps take up to a minute, state takes longer, and one step in twenty fails. What is known of the cluster
//! when a step ends is not what was known when it was decided; a group refuses a change that it cannot agree on.
//!
//! After every call: the invariants of the crate's documentation, by a checker that shares no code with the crate. The same input
//! in another order must give the same plan. Then events stop, and within [`STEPS_PER_RANGE`] steps per range (and a few for the
//! whole) the cluster must be as its policies ask, where that is possible, its loads even, and placement silent.
//!
//! `SEEDS=FROM..TO cargo test -p corelane-placement --test simulate` runs other seeds than the few of a plain test.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

mod checker;
mod fixtures;

use base::key::Span;
use base::{NodeId, Prng, RangeId, ShardId};
use checker::Checker;
use corelane_placement::{
    Cluster, Config, Constraint, Cursor, Decision, Kind, Load, LoadSplit, Locality, Node, NodeState, Pending,
    Place, Plan, Policy, Range, Replica, Shard, plan,
};
use fixtures::{MINUTE, SECOND, carry_out, elect, has_majority, middle, reachable, weigh};

/// Steps in which a cluster converges once events stop, for each range: what repair, spread, balance and merges may take.
const STEPS_PER_RANGE: usize = 24;
/// Calls with events.
const CALLS: u64 = 300;

struct Sim {
    prng: Prng,
    cluster: Cluster,
    /// Loads without noise.
    config: Config,
    cursor: Cursor,
    /// When a step ends, and whether it fails.
    under_way: Vec<(u64, bool, Decision)>,
    /// When a learner has its state.
    transfers: Vec<(u64, RangeId, NodeId)>,
    checker: Checker,
    decided: usize,
    has_events: bool,
    next_node: u64,
    zones: u64,
    /// Nothing but load decides: one zone, no policies, at least six nodes, and all of them well in the end.
    is_plain: bool,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let is_plain = prng.chance(0.2);
        let zones = if is_plain { 1 } else { prng.between(1, 4) };
        let mut sim = Self {
            cluster: Cluster {
                now_ns: 1_000 * MINUTE,
                ..Cluster::default()
            },
            config: Config::default(),
            cursor: Cursor::default(),
            under_way: Vec::new(),
            transfers: Vec::new(),
            checker: Checker::default(),
            decided: 0,
            has_events: true,
            next_node: 1,
            zones,
            is_plain,
            prng,
        };
        for _ in 0..sim.prng.between(if is_plain { 6 } else { 1 }, 12) {
            sim.join();
        }
        for _ in 0..sim.prng.below(4) {
            sim.change_policy();
        }
        let count = match sim.prng.below(4) {
            0 => sim.prng.between(1, 5),
            1 => sim.prng.between(1, 300),
            _ => sim.prng.between(1, 60),
        };
        let width = u32::MAX / u32::try_from(count).unwrap();
        for id in 0..count {
            let at = |id: u64| (u32::try_from(id).unwrap() * width).to_be_bytes();
            let start: Vec<u8> = if id == 0 { Vec::new() } else { at(id).to_vec() };
            let end = at(id + 1);
            let span = Span::new(&start, (id + 1 < count).then_some(&end[..]));
            let replicas = sim.first_replicas();
            let mut range = Range {
                id: RangeId(id + 1),
                leaseholder: replicas.first().map(|replica| replica.place.node),
                middle: middle(&span.start, span.end.as_deref()),
                span,
                replicas,
                ..Range::default()
            };
            sim.draw_load(&mut range);
            sim.cluster.ranges.push(range);
        }
        sim
    }

    /// One to three voters on the first nodes, so that there is much to do; a witness now and then.
    fn first_replicas(&mut self) -> Vec<Replica> {
        let nodes = u64::try_from(self.cluster.nodes.len()).unwrap();
        let count = self.prng.between(1, 3).min(nodes);
        let first = self.prng.below(nodes.min(3));
        let mut replicas = Vec::new();
        for n in 0..count {
            let node = &self.cluster.nodes[usize::try_from((first + n) % nodes).unwrap()];
            let shard = self.prng.index(node.shards.len());
            replicas.push(Replica {
                place: Place::new(node.id, node.shards[shard].id),
                kind: if n == 2 && self.prng.chance(0.1) {
                    Kind::Witness
                } else {
                    Kind::Voter
                },
                up_to_date: true,
                replaces: None,
                source: None,
            });
        }
        replicas
    }

    fn draw_load(&mut self, range: &mut Range) {
        let scale = if self.prng.chance(0.05) { 8 } else { 1 };
        range.bytes = self.prng.between(1 << 20, 300 << 20) * scale;
        range.cpu_read_ns = self.prng.between(0, 30_000_000) * scale;
        range.cpu_write_ns = self.prng.between(0, 10_000_000) * scale;
        range.requests = range.cpu_read_ns / 20_000;
        range.load_split = match middle(&range.span.start, range.span.end.as_deref()) {
            Some(key) if self.prng.chance(0.8) => LoadSplit::At {
                key,
                left_permille: 480,
            },
            Some(key) => LoadSplit::OneKey { key, permille: 900 },
            None => LoadSplit::Unknown,
        };
    }

    fn join(&mut self) {
        let id = self.next_node;
        self.next_node += 1;
        let zone = self.prng.below(self.zones);
        let locality = format!("region=r{},zone=z{zone}", zone / 2);
        let shards = u16::try_from(self.prng.between(1, 4)).unwrap();
        let capacity = Load {
            bytes: 400 << 30,
            cpu_ns: SECOND,
            leases: 0,
        };
        let shard = |id| Shard {
            id: ShardId(id),
            capacity,
            load: Load::default(),
        };
        self.cluster.nodes.push(Node {
            id: NodeId(id),
            locality: Locality::parse(&locality).unwrap(),
            state: NodeState::Live,
            disk_permille: 0,
            shards: (0..shards).map(shard).collect(),
        });
    }

    fn change_policy(&mut self) {
        if self.is_plain {
            return;
        }
        let prefix: Box<[u8]> = match self.prng.below(3) {
            0 => Box::default(),
            1 => [u8::try_from(self.prng.below(4)).unwrap() * 64].as_slice().into(),
            _ => [u8::try_from(self.prng.below(256)).unwrap()].as_slice().into(),
        };
        self.cluster.policies.retain(|policy| policy.prefix != prefix);
        let mut policy = Policy {
            prefix,
            replicas: u32::try_from(self.prng.between(1, 5)).unwrap(),
            ..Policy::default()
        };
        let zone = |prng: &mut Prng| format!("z{}", prng.below(4));
        if self.prng.chance(0.3) {
            let text = match self.prng.below(4) {
                0 => "+region=r0".to_owned(),
                1 => format!("-zone={}", zone(&mut self.prng)),
                2 => format!("+zone={}:1", zone(&mut self.prng)),
                _ => "+region=r1:2".to_owned(),
            };
            policy.constraints.push(Constraint::parse(&text).unwrap());
        }
        for _ in 0..self.prng.below(3) {
            let text = format!("+zone={}", zone(&mut self.prng));
            policy
                .lease_preferences
                .push(vec![Constraint::parse(&text).unwrap()]);
        }
        if self.prng.chance(0.2) {
            policy.group = Some("together".into());
        }
        self.cluster.policies.push(policy);
    }

    fn set_state(&mut self, at: usize, state: NodeState) {
        self.cluster.nodes[at].state = state;
    }

    fn event(&mut self) {
        let since_ns = self.cluster.now_ns;
        let at = self.prng.index(self.cluster.nodes.len());
        let state = self.cluster.nodes[at].state;
        match (self.prng.below(12), state) {
            (0 | 1, NodeState::Live) => self.set_state(at, NodeState::Suspect { since_ns }),
            (_, NodeState::Suspect { .. }) if self.prng.chance(0.5) => self.set_state(at, NodeState::Live),
            (_, NodeState::Suspect { .. }) => self.set_state(at, NodeState::Dead { since_ns }),
            (2, NodeState::Live) => self.set_state(at, NodeState::Draining),
            (2 | 3, NodeState::Draining) => self.set_state(at, NodeState::Live),
            (3, NodeState::Live) if self.prng.chance(0.3) => self.set_state(at, NodeState::Decommissioning),
            (4, NodeState::Decommissioning) => self.set_state(at, NodeState::Live),
            (4..=7, NodeState::Dead { .. }) => self.returns(at),
            (5, NodeState::Decommissioning) => {
                let id = self.cluster.nodes[at].id;
                let has = |range: &Range| range.replicas.iter().any(|replica| replica.place.node == id);
                if self.cluster.nodes.len() > 1 && !self.cluster.ranges.iter().any(has) {
                    self.cluster.nodes.remove(at);
                }
            }
            (6, _) if self.cluster.nodes.len() < 12 => self.join(),
            (7 | 8, _) if self.prng.chance(0.2) => self.change_policy(),
            (9, _) => {
                self.cluster.nodes[at].disk_permille = u32::try_from(self.prng.between(0, 1000)).unwrap();
            }
            (10, _) => {
                let mut ranges = std::mem::take(&mut self.cluster.ranges);
                for range in &mut ranges {
                    if self.prng.chance(0.1) {
                        self.draw_load(range);
                    }
                }
                self.cluster.ranges = ranges;
            }
            _ => {}
        }
    }

    fn returns(&mut self, at: usize) {
        let id = self.cluster.nodes[at].id;
        self.set_state(at, NodeState::Live);
        // What was committed meanwhile it gets a little later.
        for range in 0..self.cluster.ranges.len() {
            let (lags, delay) = (self.prng.chance(0.3), self.prng.below(60) * SECOND);
            let range = &mut self.cluster.ranges[range];
            let voters = range.replicas.len();
            for replica in range
                .replicas
                .iter_mut()
                .filter(|replica| replica.place.node == id)
            {
                if lags && voters > 1 {
                    replica.up_to_date = false;
                    self.transfers.push((self.cluster.now_ns + delay, range.id, id));
                }
            }
        }
    }

    fn finish(&mut self) {
        let now = self.cluster.now_ns;
        let (ended, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(at, _, _)| *at <= now);
        self.under_way = rest;
        for (_, fails, decision) in ended {
            self.cluster
                .pending
                .retain(|pending| pending.range != decision.range);
            if fails || !carry_out(&mut self.cluster, &decision) {
                continue;
            }
            self.checker.carried_out(&self.cluster, &decision);
            if let corelane_placement::Action::AddLearner { to, .. } = decision.action {
                let at = now + self.prng.between(1, 90) * SECOND;
                self.transfers.push((at, decision.range, to.node));
            }
        }
        let (ended, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.transfers)
            .into_iter()
            .partition(|(at, _, _)| *at <= now);
        self.transfers = rest;
        for (_, id, node) in ended {
            // A node that does not answer gets its state later, if it is still a member then.
            if !reachable(&self.cluster, node) {
                let is_member = self.cluster.ranges.iter().any(|range| {
                    range.id == id && range.replicas.iter().any(|replica| replica.place.node == node)
                });
                if is_member && self.cluster.nodes.iter().any(|n| n.id == node) {
                    self.transfers.push((now + 30 * SECOND, id, node));
                }
                continue;
            }
            for range in self.cluster.ranges.iter_mut().filter(|range| range.id == id) {
                for replica in range
                    .replicas
                    .iter_mut()
                    .filter(|replica| replica.place.node == node)
                {
                    replica.up_to_date = true;
                }
            }
        }
    }

    /// What placement is told: loads with noise, lists in another order.
    fn seen(&mut self) -> Cluster {
        weigh(&mut self.cluster);
        if !self.has_events {
            return self.cluster.clone();
        }
        let mut seen = self.cluster.clone();
        for node in &mut seen.nodes {
            for shard in &mut node.shards {
                shard.load.cpu_ns = shard.load.cpu_ns * self.prng.between(80, 120) / 100;
            }
        }
        seen
    }

    fn call(&mut self, budget: usize) -> Plan {
        elect(&mut self.cluster);
        let seen = self.seen();
        let plan = plan(&seen, &self.config, &self.cursor, budget);
        if self.prng.chance(0.1) {
            let mut shuffled = seen.clone();
            self.prng.shuffle(&mut shuffled.nodes);
            self.prng.shuffle(&mut shuffled.ranges);
            self.prng.shuffle(&mut shuffled.policies);
            self.prng.shuffle(&mut shuffled.pending);
            for range in &mut shuffled.ranges {
                self.prng.shuffle(&mut range.replicas);
            }
            for node in &mut shuffled.nodes {
                self.prng.shuffle(&mut node.shards);
            }
            let other = corelane_placement::plan(&shuffled, &self.config, &self.cursor, budget);
            assert_eq!(plan, other, "the order of the lists decides");
        }
        self.checker.check(&seen, &self.config, &plan);
        self.cursor = plan.cursor.clone();
        self.decided += plan.decisions.len();
        for decision in &plan.decisions {
            // Some are lost before they begin.
            if self.has_events && self.prng.chance(0.05) {
                continue;
            }
            self.cluster.pending.push(Pending {
                range: decision.range,
                action: decision.action.clone(),
            });
            let ends = self.cluster.now_ns + self.prng.between(1, 40) * SECOND;
            let fails = self.has_events && self.prng.chance(0.05);
            self.under_way.push((ends, fails, decision.clone()));
        }
        plan
    }

    fn run(&mut self) -> usize {
        for _ in 0..CALLS {
            self.cluster.now_ns += self.prng.between(1, 40) * SECOND;
            if self.prng.chance(0.1) {
                self.event();
            }
            self.finish();
            let budget = usize::try_from(self.prng.between(1, 400)).unwrap();
            self.call(budget);
        }
        self.heal();
        self.decided
    }

    /// Events stop; the nodes that some range cannot do without return.
    fn heal(&mut self) {
        self.has_events = false;
        for at in 0..self.cluster.nodes.len() {
            if let NodeState::Suspect { .. } = self.cluster.nodes[at].state {
                self.set_state(at, NodeState::Live);
            }
            self.cluster.nodes[at].disk_permille = 0;
            match self.cluster.nodes[at].state {
                NodeState::Dead { .. } if self.is_plain => self.returns(at),
                _ if self.is_plain => self.set_state(at, NodeState::Live),
                _ => {}
            }
        }
        while let Some(at) = self.cluster.nodes.iter().position(|node| {
            let lost = |range: &Range| {
                !has_majority(&self.cluster, &range.replicas)
                    && range.replicas.iter().any(|replica| replica.place.node == node.id)
            };
            matches!(node.state, NodeState::Dead { .. }) && self.cluster.ranges.iter().any(lost)
        }) {
            self.returns(at);
            for range in &mut self.cluster.ranges {
                range.replicas.iter_mut().for_each(|replica| {
                    replica.up_to_date |= replica.place.node == self.cluster.nodes[at].id;
                });
            }
        }
        let (before, mut quiet) = (self.decided, 0);
        let limit = before + 60 + STEPS_PER_RANGE * self.cluster.ranges.len();
        // Longer than every time after which something may be decided.
        while quiet < 140 {
            self.cluster.now_ns += 31 * SECOND;
            self.finish();
            let plan = self.call(1_000);
            quiet = if plan.decisions.is_empty() && self.under_way.is_empty() {
                quiet + 1
            } else {
                0
            };
            assert!(
                self.decided <= limit,
                "still busy after {} steps: {:?}",
                self.decided - before,
                plan.decisions
            );
        }
        self.checker.converged(&self.cluster, &self.config);
    }
}

fn seeds() -> (u64, u64) {
    let Ok(text) = std::env::var("SEEDS") else {
        return (0, 120);
    };
    let (from, to) = text.split_once("..").expect("SEEDS=FROM..TO");
    (from.parse().unwrap(), to.parse().unwrap())
}

#[test]
fn random_clusters_stay_safe_and_converge() {
    let (from, to) = seeds();
    let mut decided = 0;
    for seed in from..to {
        let run = std::panic::catch_unwind(|| Sim::new(seed).run());
        match run {
            Ok(steps) => decided += steps,
            Err(panic) => {
                eprintln!("replay with SEEDS={seed}..{}", seed + 1);
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!(
        "{} seeds, {} calls with events, {decided} steps",
        to - from,
        CALLS * (to - from)
    );
}
