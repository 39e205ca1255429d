//! What idle groups cost: memory of one replica of each, and calls that they need, with liveness from outside.

use base::{Prng, ReplicaId};
use corelane_raft::{Config, Epoch, Hibernated, Liveness, Message, Raft, Ready, Restored, Support};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const GROUPS: usize = 100_000;
const VOTERS: [ReplicaId; 3] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];

/// Drives a group until nothing is under way.
fn settle(group: &mut [Raft], ready: &mut Ready) {
    let mut net: Vec<(ReplicaId, ReplicaId, Message)> = Vec::new();
    loop {
        for raft in &mut *group {
            let from = raft.id();
            while raft.ready(ready) {
                if let Some(mark) = ready.mark {
                    raft.persisted(mark);
                }
                let now = ready.messages.drain(..);
                let messages = now.chain(ready.messages_after_persist.drain(..));
                net.extend(messages.map(|(to, message)| (from, to, message)));
                if let Some(last) = raft.entries(&ready.committed).next_back() {
                    let (index, chain) = (last.index, last.chain);
                    raft.applied(index);
                    raft.compact(index, chain);
                }
            }
        }
        if net.is_empty() {
            return;
        }
        for (from, to, message) in net.drain(..) {
            let raft = group
                .iter_mut()
                .find(|raft| raft.id() == to)
                .expect("one of three");
            raft.step(from, message).expect("well formed");
        }
    }
}

/// One replica of a group that elected `leader`, committed some entries and fell silent.
fn idle(config: &Arc<Config>, first: &Restored, leader: usize, seed: u64, ready: &mut Ready) -> Raft {
    let mut group = VOTERS.map(|id| {
        let prng = Prng::new(seed + id.0);
        Raft::new(id, Arc::clone(config), prng, first.clone())
    });
    let support = Support {
        given: Some(Epoch(1)),
        received: Some(Epoch(1)),
    };
    for raft in &mut group {
        for other in VOTERS {
            if other != raft.id() {
                raft.liveness(other, support);
            }
        }
    }
    group[leader].campaign_now();
    settle(&mut group, ready);
    for _ in 0..10 {
        group[leader]
            .propose([7; 100].as_slice().into())
            .expect("it leads");
        settle(&mut group, ready);
    }
    for _ in 0..2 * config.heartbeat_ticks {
        group[leader].tick();
        settle(&mut group, ready);
    }
    let [mut raft, ..] = group;
    raft.shrink();
    assert!(!raft.needs_tick(), "it is not quiet");
    raft
}

/// A row: what the groups take since `region`, of which `value` bytes are each one itself.
fn print(role: &str, region: &Region<'_, System>, value: usize, busy: usize) {
    let change = region.change();
    let heap = change.bytes_allocated - change.bytes_deallocated;
    let kept = change.allocations - change.deallocations;
    println!(
        "| {role} | {} | {value} | {} | {busy} |",
        heap / GROUPS + value,
        kept / GROUPS
    );
}

fn main() {
    let config = Arc::new(Config {
        liveness: Liveness::External,
        ..Config::default()
    });
    // Groups with the same members share them.
    let first = Restored::first(VOTERS);
    let mut ready = Ready::default();
    let mut times = Vec::new();
    println!("one replica of each of {GROUPS} idle groups of three\n");
    println!(
        "| role | bytes/group | of them in the value itself | allocations/group | needs ticks |\n|---|---|---|---|---|"
    );
    for (role, leader) in [("leader", 0), ("follower", 1)] {
        let mut groups = Vec::with_capacity(GROUPS);
        // Whatever the first one makes and all others share.
        drop(idle(&config, &first, leader, 0, &mut ready));
        let region = Region::new(ALLOCATOR);
        for seed in 0..GROUPS as u64 {
            groups.push(idle(&config, &first, leader, seed, &mut ready));
        }
        let busy = groups.iter().filter(|raft| raft.needs_tick()).count();
        print(role, &region, size_of::<Raft>(), busy);
        let begin = Instant::now();
        let busy = groups
            .iter_mut()
            .filter_map(|raft| raft.ready(&mut ready).then_some(()))
            .count();
        let asked = begin.elapsed().as_nanos() / GROUPS as u128;
        assert_eq!(busy, 0, "they want something");
        drop(groups);

        let mut groups = Vec::with_capacity(GROUPS);
        let region = Region::new(ALLOCATOR);
        for seed in 0..GROUPS as u64 {
            groups.push(idle(&config, &first, leader, seed, &mut ready).hibernate());
        }
        print(
            &format!("{role}, hibernated"),
            &region,
            size_of::<Hibernated>(),
            0,
        );
        let begin = Instant::now();
        let woken = groups
            .drain(..)
            .map(Hibernated::wake)
            .filter(Raft::is_leader)
            .count();
        let each = begin.elapsed().as_nanos() / GROUPS as u128;
        assert_eq!(woken > 0, leader == 0, "another one woke");
        times.push(format!(
            "{role}: to ask one that is awake what it wants takes {asked} ns, and nobody needs to; to wake one {each} ns"
        ));
    }
    times.iter().for_each(|line| println!("\n{line}"));
}
