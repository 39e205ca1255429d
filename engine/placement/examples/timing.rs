//! How long a call takes for 10,000 ranges on 12 nodes of 4 shards, by budget: see `docs/placement.md`.
//!
//! `cargo run --release -p corelane-placement --example timing`

use base::key::Span;
use base::{NodeId, Prng, RangeId, ShardId};
use corelane_placement::{
    Cluster, Config, Constraint, Cursor, Load, Locality, Node, NodeState, Place, Policy, Range, Replica,
    Shard, explain, plan,
};
use std::time::{Duration, Instant};

const RANGES: u64 = 10_000;
const NODES: u64 = 12;
const SHARDS: u16 = 4;

fn cluster(prng: &mut Prng) -> Cluster {
    let mut cluster = Cluster {
        now_ns: 1 << 50,
        ..Cluster::default()
    };
    for id in 0..NODES {
        let shard = |id| Shard {
            id: ShardId(id),
            capacity: Load {
                bytes: 1 << 40,
                cpu_ns: 1_000_000_000,
                leases: 0,
            },
            load: Load::default(),
        };
        cluster.nodes.push(Node {
            id: NodeId(id),
            locality: Locality::parse(&format!("region=eu,zone={},rack={}", id % 3, id % 6))
                .expect("it parses"),
            shards: (0..SHARDS).map(shard).collect(),
            ..Node::default()
        });
    }
    for id in 0..RANGES {
        // One node of each zone, so that nothing is to be spread.
        let mut replica = |zone: u64| Replica {
            place: Place::new(
                NodeId(zone + 3 * prng.below(NODES / 3)),
                ShardId(u16::try_from(prng.below(4)).expect("it is small")),
            ),
            up_to_date: true,
            ..Replica::default()
        };
        let replicas: Vec<Replica> = (0..3).map(&mut replica).collect();
        let key = |id: u64| format!("table/{:02}/{id:08}", id / 500);
        let (start, end) = (key(id), key(id + 1));
        cluster.ranges.push(Range {
            id: RangeId(id),
            span: Span::new(start.as_bytes(), Some(end.as_bytes())),
            leaseholder: Some(replicas[prng.index(3)].place.node),
            replicas,
            bytes: prng.between(150 << 20, 500 << 20),
            cpu_read_ns: prng.between(0, 2_000_000),
            cpu_write_ns: prng.between(0, 500_000),
            ..Range::default()
        });
    }
    for table in 0..20 {
        cluster.policies.push(Policy {
            prefix: format!("table/{table:02}/").into_bytes().into(),
            constraints: vec![Constraint::parse("+region=eu").expect("it parses")],
            ..Policy::default()
        });
    }
    prng.shuffle(&mut cluster.ranges);
    weigh(&mut cluster);
    cluster
}

fn weigh(cluster: &mut Cluster) {
    for range in &cluster.ranges {
        for replica in &range.replicas {
            let node = cluster
                .nodes
                .iter_mut()
                .find(|node| node.id == replica.place.node);
            let shards = node.into_iter().flat_map(|node| &mut node.shards);
            for shard in shards.filter(|shard| shard.id == replica.place.shard) {
                let lease = range.leaseholder == Some(replica.place.node);
                shard.load.bytes += range.bytes;
                shard.load.cpu_ns += range.cpu_write_ns + if lease { range.cpu_read_ns } else { 0 };
                shard.load.leases += u64::from(lease);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn time<T>(f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = f();
    (start.elapsed(), value)
}

fn measure(name: &str, cluster: &Cluster, budget: usize) {
    let config = Config::default();
    let mut cursor = Cursor::default();
    let mut times = Vec::new();
    let mut decided = 0;
    let mut cluster = cluster.clone();
    for _ in 0..(40_000 / budget).clamp(12, 200) {
        let (took, plan) = time(|| plan(&cluster, &config, &cursor, budget));
        times.push(took);
        decided += plan.decisions.len();
        cursor = plan.cursor;
        cluster.now_ns += 20_000_000_000;
    }
    times.sort();
    let (best, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    let per = decided / times.len();
    println!(
        "{name:<16} budget {budget:>6}: best {best:>9.1?}, median {median:>9.1?}, worst {worst:>9.1?}, {per} decisions a call"
    );
}

fn main() {
    let mut prng = Prng::new(1);
    let even = cluster(&mut prng);
    let mut dead = even.clone();
    dead.nodes[5].state = NodeState::Dead { since_ns: 0 };
    let mut empty = even.clone();
    empty.nodes.push(Node {
        id: NodeId(NODES),
        locality: Locality::parse("region=eu,zone=0,rack=0").expect("it parses"),
        shards: even.nodes[0]
            .shards
            .iter()
            .map(|shard| Shard {
                load: Load::default(),
                ..shard.clone()
            })
            .collect(),
        ..Node::default()
    });
    for budget in [100, 250, 500, 1_000, 10_000] {
        measure("nothing to do", &even, budget);
        measure("one node dead", &dead, budget);
        measure("one node empty", &empty, budget);
    }
    let (took, explanation) = time(|| explain(&even, &Config::default(), &Cursor::default(), RangeId(4_711)));
    println!("explain: {took:.1?}");
    print!("{}", explanation.expect("it is there"));
}
