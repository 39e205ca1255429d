//! A cluster that has converged stays still under noisy loads, for hours; and no range goes from one node to another and back.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

mod fixtures;

use base::key::Span;
use base::{NodeId, Prng, RangeId, ShardId};
use corelane_placement::{
    Action, Class, Cluster, Config, Cursor, Load, Locality, Node, NodeState, Place, Range, Replica, Shard,
    plan,
};
use fixtures::{MINUTE, SECOND, carry_out, catch_up, weigh};
use std::collections::BTreeMap;

struct Noisy {
    prng: Prng,
    /// With the loads that ranges have in the mean.
    cluster: Cluster,
    config: Config,
    cursor: Cursor,
    /// When a range left a node.
    left: BTreeMap<(RangeId, NodeId), u64>,
}

impl Noisy {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let nodes = prng.between(4, 9);
        let shards = u16::try_from(prng.between(1, 3)).unwrap();
        let mut cluster = Cluster {
            now_ns: 1_000 * MINUTE,
            ..Cluster::default()
        };
        for id in 1..=nodes {
            let capacity = Load {
                bytes: 400 << 30,
                cpu_ns: 2 * SECOND,
                leases: 0,
            };
            let shard = |id| Shard {
                id: ShardId(id),
                capacity,
                load: Load::default(),
            };
            cluster.nodes.push(Node {
                id: NodeId(id),
                locality: Locality::parse(&format!("zone={}", id % 3)).unwrap(),
                state: NodeState::Live,
                disk_permille: 0,
                shards: (0..shards).map(shard).collect(),
            });
        }
        for id in 0..prng.between(60, 200) {
            let at = |id: u64| (u32::try_from(id).unwrap() << 16).to_be_bytes();
            let replica = |node| Replica {
                place: Place::new(NodeId(node), ShardId(0)),
                up_to_date: true,
                ..Replica::default()
            };
            cluster.ranges.push(Range {
                id: RangeId(id + 1),
                span: Span::new(&at(id), Some(&at(id + 1))),
                replicas: [1, 2, 3].map(replica).into(),
                leaseholder: Some(NodeId(1)),
                bytes: prng.between(200 << 20, 500 << 20),
                cpu_read_ns: prng.between(5_000_000, 60_000_000),
                cpu_write_ns: prng.between(1_000_000, 10_000_000),
                requests: 1_000,
                ..Range::default()
            });
        }
        Self {
            prng,
            cluster,
            config: Config::default(),
            cursor: Cursor::default(),
            left: BTreeMap::new(),
        }
    }

    /// Half a minute: every range has up to a fifth more or less to do, and every node measures as inexactly.
    fn call(&mut self) -> Vec<String> {
        let mut seen = self.cluster.clone();
        for range in &mut seen.ranges {
            for load in [
                &mut range.cpu_read_ns,
                &mut range.cpu_write_ns,
                &mut range.requests,
            ] {
                *load = *load * self.prng.between(80, 120) / 100;
            }
        }
        weigh(&mut seen);
        for node in &mut seen.nodes {
            for shard in &mut node.shards {
                shard.load.cpu_ns = shard.load.cpu_ns * self.prng.between(95, 105) / 100;
            }
        }
        let plan = plan(&seen, &self.config, &self.cursor, 70);
        self.cursor = plan.cursor;
        for decision in &plan.decisions {
            match decision.action {
                Action::AddLearner { to, .. } => {
                    let left = self.left.get(&(decision.range, to.node));
                    let since = left.map(|left| self.cluster.now_ns - left);
                    assert!(
                        since.is_none_or(|since| since >= self.config.still_ns),
                        "there and back: {decision}"
                    );
                }
                Action::Remove { at } => {
                    self.left.insert((decision.range, at.node), self.cluster.now_ns);
                }
                _ => {}
            }
            assert!(
                decision.class == Class::Balance || decision.class == Class::OverReplicated,
                "{decision}"
            );
            assert!(carry_out(&mut self.cluster, decision), "{decision}");
        }
        self.cluster.now_ns += 30 * SECOND;
        catch_up(&mut self.cluster);
        plan.decisions.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn noise_moves_nothing() {
    for seed in 0..12 {
        let mut noisy = Noisy::new(seed);
        // Everything began on three nodes: it is shared out, under noise, until an hour passes without a step.
        let (mut quiet, mut steps, mut calls) = (0, 0, 0);
        while quiet < 120 {
            let decided = noisy.call();
            quiet = if decided.is_empty() { quiet + 1 } else { 0 };
            (steps, calls) = (steps + decided.len(), calls + 1);
            assert!(
                calls < 4_000,
                "seed {seed}: still busy after {calls} calls and {steps} steps"
            );
        }
        let hours = 12;
        for call in 0..hours * 120 {
            let decided = noisy.call();
            assert!(
                decided.is_empty(),
                "seed {seed}: {decided:?} in call {call}, after {steps} steps in {calls} calls"
            );
        }
    }
}
