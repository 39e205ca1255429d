//! Any input, also one that contradicts itself, gives a bounded list and no panic; and the order of the lists does not matter.

use base::key::Span;
use base::{NodeId, RangeId, ShardId};
use corelane_placement::{
    Action, Class, Cluster, Config, Constraint, Cursor, Kind, Load, LoadSplit, Locality, Node, NodeState,
    Pending, Place, Policy, Range, Replaces, Replica, Shard, explain, plan,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), 0..1_000u64, any::<u64>()]
}

fn place() -> impl Strategy<Value = Place> {
    (0..6u64, 0..3u16).prop_map(|(node, shard)| Place::new(NodeId(node), ShardId(shard)))
}

fn key() -> impl Strategy<Value = Box<[u8]>> {
    vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xff)], 0..3).prop_map(Into::into)
}

fn load() -> impl Strategy<Value = Load> {
    (number(), number(), number()).prop_map(|(bytes, cpu_ns, leases)| Load {
        bytes,
        cpu_ns,
        leases,
    })
}

fn state() -> impl Strategy<Value = NodeState> {
    prop_oneof![
        3 => Just(NodeState::Live),
        1 => number().prop_map(|since_ns| NodeState::Suspect { since_ns }),
        1 => number().prop_map(|since_ns| NodeState::Dead { since_ns }),
        1 => Just(NodeState::Draining),
        1 => Just(NodeState::Decommissioning),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let shard = (0..3u16, load(), load()).prop_map(|(id, capacity, load)| Shard {
        id: ShardId(id),
        capacity,
        load,
    });
    let locality = prop_oneof![
        Just(""),
        Just("zone=a"),
        Just("zone=b"),
        Just("region=r,zone=a"),
        Just("a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8,i=9,j=10")
    ];
    (0..6u64, locality, state(), 0..1_100u32, vec(shard, 0..4)).prop_map(
        |(id, locality, state, disk_permille, shards)| Node {
            id: NodeId(id),
            locality: Locality::parse(locality).unwrap_or_default(),
            state,
            disk_permille,
            shards,
        },
    )
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Quorum),
        Just(Class::Balance),
        Just(Class::Leaving),
        Just(Class::Merge)
    ]
}

fn replaces() -> impl Strategy<Value = Option<Replaces>> {
    let replaces = |(node, because)| Replaces {
        node: NodeId(node),
        because,
    };
    option::weighted(0.3, (0..6u64, class()).prop_map(replaces))
}

fn replica() -> impl Strategy<Value = Replica> {
    let kind = prop_oneof![4 => Just(Kind::Voter), 1 => Just(Kind::Learner), 1 => Just(Kind::Witness)];
    (place(), kind, any::<bool>(), replaces(), option::of(0..6u64)).prop_map(
        |(place, kind, up_to_date, replaces, source)| Replica {
            place,
            kind,
            up_to_date,
            replaces,
            source: source.map(NodeId),
        },
    )
}

fn range() -> impl Strategy<Value = Range> {
    let load_split = prop_oneof![
        Just(LoadSplit::Unknown),
        (key(), any::<u32>()).prop_map(|(key, left_permille)| LoadSplit::At { key, left_permille }),
        (key(), any::<u32>()).prop_map(|(key, permille)| LoadSplit::OneKey { key, permille }),
    ];
    let loads = (number(), number(), number(), number());
    let times = (number(), number(), number());
    let names = (
        0..8u64,
        key(),
        option::of(key()),
        option::of(0..6u64),
        option::of(key()),
    );
    (names, vec(replica(), 0..6), loads, times, load_split).prop_map(
        |((id, start, end, lease, middle), replicas, loads, times, load_split)| Range {
            id: RangeId(id),
            span: Span { start, end },
            replicas,
            leaseholder: lease.map(NodeId),
            leased_at_ns: times.0,
            bytes: loads.0,
            cpu_read_ns: loads.1,
            cpu_write_ns: loads.2,
            requests: loads.3,
            changed_at_ns: times.1,
            split_at_ns: times.2,
            cold_at_ns: times.1,
            middle,
            load_split,
        },
    )
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let text = prop_oneof![
        Just("+zone=a"),
        Just("-zone=a"),
        Just("+zone=b:1"),
        Just("+region=r:4294967295")
    ];
    text.prop_map(|text| Constraint::parse(text).expect("it is one"))
}

fn policy() -> impl Strategy<Value = Policy> {
    let replicas = prop_oneof![0..6u32, Just(u32::MAX)];
    let lists = (vec(constraint(), 0..3), vec(vec(constraint(), 0..2), 0..3));
    (key(), replicas, lists, option::of(Just("g".into())), number()).prop_map(
        |(prefix, replicas, (constraints, lease_preferences), group, split_bytes)| Policy {
            prefix,
            replicas,
            constraints,
            lease_preferences,
            group,
            split_bytes,
        },
    )
}

fn pending() -> impl Strategy<Value = Pending> {
    let action = prop_oneof![
        (place(), replaces(), 0..6u64).prop_map(|(to, replaces, source)| Action::AddLearner {
            to,
            replaces,
            source: NodeId(source)
        }),
        (0..6u64).prop_map(|to| Action::TransferLease { to: NodeId(to) }),
        (0..8u64).prop_map(|right| Action::Merge {
            right: RangeId(right)
        }),
        (0..6u64, 0..3u16, 0..3u16).prop_map(|(node, from, to)| Action::MoveShard {
            node: NodeId(node),
            from: ShardId(from),
            to: ShardId(to)
        }),
        Just(Action::Nothing),
    ];
    (0..8u64, action).prop_map(|(range, action)| Pending {
        range: RangeId(range),
        action,
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    (
        number(),
        vec(node(), 0..8),
        vec(range(), 0..10),
        vec(policy(), 0..4),
        vec(pending(), 0..3),
    )
        .prop_map(|(now_ns, nodes, ranges, policies, pending)| Cluster {
            now_ns,
            nodes,
            ranges,
            policies,
            pending,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_input_gives_a_bounded_answer(mut cluster in cluster(), budget in 0..12usize, calls in 1..4usize) {
        let config = Config { decisions_max: 3, splits_max: 2, held_max: 2, ..Config::default() };
        let mut cursor = Cursor::default();
        for _ in 0..calls {
            let plan = plan(&cluster, &config, &cursor, budget);
            prop_assert!(plan.decisions.len() <= 5 && plan.held.len() <= 2);
            prop_assert!(plan.examined <= budget.max(1) + budget.max(1) / 4);
            let ranges: BTreeSet<RangeId> = plan.decisions.iter().map(|decision| decision.range).collect();
            prop_assert_eq!(ranges.len(), plan.decisions.len());
            for decision in plan.decisions.iter().chain(&plan.held) {
                prop_assert!(decision.to_string().len() < 2_000);
            }
            for list in [1, 3] {
                let at = |len: usize| if len == 0 { 0 } else { list % len };
                let (nodes, ranges, policies) = (cluster.nodes.len(), cluster.ranges.len(), cluster.policies.len());
                cluster.nodes.rotate_left(at(nodes));
                cluster.ranges.rotate_left(at(ranges));
                cluster.policies.rotate_left(at(policies));
                cluster.pending.reverse();
                cluster.ranges.iter_mut().for_each(|range| range.replicas.reverse());
            }
            let other = corelane_placement::plan(&cluster, &config, &cursor, budget);
            prop_assert_eq!(&plan, &other);
            for id in 0..8 {
                let _ = explain(&cluster, &config, &cursor, RangeId(id)).map(|explanation| explanation.to_string());
            }
            cursor = plan.cursor;
            cluster.now_ns = cluster.now_ns.saturating_add(1 << 40);
        }
    }
}
