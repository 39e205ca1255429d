//! Random schedules of a group of 3, 5 or 7 replicas, from one seed each, with the safety of Raft checked after every step.
//!
//! Fault model: messages are lost, doubled, delayed without bound and reordered; links are cut, one way too; writes end late, in
//! order; a crash loses every write that has not ended, at any point between handing out and sending; restarts; members change,
//! leadership is transferred, logs are compacted meanwhile. Not here: disks that lose or damage what they acknowledged.
//!
//! Afterwards faults stop, and the group must have a leader and commit within [`TICKS_TO_HEAL`] ticks.
//!
//! `SCHEDULES=FROM..TO cargo test -p corelane-raft --test schedules` runs other seeds than the few of a plain test.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

mod fixtures;

use base::{Index, Prng, ReplicaId, Term};
use corelane_raft::{Body, Config, Content, Entry, MemberChange, Message, Raft, Ready, Restored};
use fixtures::{Messages, Node};
use std::collections::{BTreeMap, BTreeSet};

const TICKS_TO_HEAL: u32 = 300;
const STEPS: u32 = 3_000;

/// A replica, and what was seen of it since it started.
#[derive(Default)]
struct Watched {
    node: Node,
    commit: Index,
    applied: Index,
}

struct World {
    prng: Prng,
    nodes: BTreeMap<ReplicaId, Watched>,
    net: Vec<(ReplicaId, ReplicaId, Message)>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    lossy: bool,
    committed: BTreeMap<Index, Entry>,
    leaders: BTreeMap<Term, ReplicaId>,
    config: Config,
    proposed: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let count = [3, 5, 7][prng.index(3)];
        let spare = prng.below(3);
        let config = Config {
            election_ticks: 5,
            heartbeat_ticks: 1,
            append_entries_max: 1 + prng.index(4),
            append_bytes_max: [1, 100, 1 << 20][prng.index(3)],
            in_flight_max: 1 + prng.index(4),
            deliver_bytes_max: [1, 100, 1 << 20][prng.index(3)],
            ..Config::new(ReplicaId(0))
        };
        let mut world = Self {
            prng,
            nodes: BTreeMap::new(),
            net: Vec::new(),
            cut: BTreeSet::new(),
            lossy: true,
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            config,
            proposed: 0,
        };
        for id in (1..=count + spare).map(ReplicaId) {
            let mut node = Watched::default();
            if id.0 <= count {
                node.node.disk = Restored::first((1..=count).map(ReplicaId));
            }
            world.nodes.insert(id, node);
            world.start(id);
        }
        world
    }

    fn start(&mut self, id: ReplicaId) {
        let config = Config {
            id,
            ..self.config.clone()
        };
        let prng = self.prng.fork();
        let watched = self.nodes.get_mut(&id).unwrap();
        watched.node.start(config, prng);
        watched.commit = watched.node.disk.snapshot.last.index;
        watched.applied = watched.commit;
        self.drain(id);
    }

    fn crash(&mut self, id: ReplicaId) {
        let node = &mut self.nodes.get_mut(&id).unwrap().node;
        let kept = self.prng.index(node.writes.len() + 1);
        node.crash(kept);
    }

    /// A replica that is up.
    fn raft(&mut self, id: ReplicaId) -> &mut Raft {
        self.nodes.get_mut(&id).unwrap().node.raft.as_mut().unwrap()
    }

    fn send(&mut self, from: ReplicaId, messages: Messages) {
        for (to, message) in messages {
            if self.cut.contains(&(from, to)) || (self.lossy && self.prng.chance(0.05)) {
                continue;
            }
            if self.lossy && self.prng.chance(0.03) {
                self.net.push((from, to, message.clone()));
            }
            self.net.push((from, to, message));
        }
    }

    /// Does what a replica wants, and checks it.
    fn drain(&mut self, id: ReplicaId) {
        loop {
            let mut ready = Ready::default();
            let watched = self.nodes.get_mut(&id).unwrap();
            let Some(raft) = &mut watched.node.raft else {
                return;
            };
            raft.assert_invariants();
            let more = raft.ready(&mut ready);
            raft.assert_invariants();
            assert!(
                raft.commit_index() >= watched.commit,
                "the commit index of {id} went back"
            );
            watched.commit = raft.commit_index();
            if raft.is_leader() {
                let leader = *self.leaders.entry(raft.term()).or_insert(id);
                assert_eq!(leader, id, "two leaders in {}", raft.term());
            }
            if let Some(snapshot) = &ready.snapshot {
                // Entry 1 is where the group begins.
                if snapshot.last.index > Index(1) {
                    let known = &self.committed[&snapshot.last.index];
                    assert_eq!(known.mark(), snapshot.last, "a snapshot of something else");
                }
                watched.applied = snapshot.last.index;
            }
            for entry in core::mem::take(&mut ready.committed) {
                assert_eq!(entry.index, watched.applied.next(), "{id} applies out of order");
                watched.applied = entry.index;
                let known = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
                assert_eq!(*known, entry, "{id} applies something else");
            }
            let messages = core::mem::take(&mut ready.messages);
            if let Some(mark) = ready.mark {
                watched.node.writes.push_back((mark, ready));
            } else {
                assert!(ready.messages_after_persist.is_empty());
            }
            self.send(id, messages);
            if !more {
                return;
            }
        }
    }

    fn end_write(&mut self, id: ReplicaId) {
        if let Some(messages) = self.nodes.get_mut(&id).unwrap().node.persist() {
            self.send(id, messages);
            self.drain(id);
        }
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.prng.index(self.net.len());
        let (from, to, message) = self.net.swap_remove(at);
        let snapshot = matches!(message.body, Body::Snapshot(_));
        if let Some(raft) = &mut self.nodes.get_mut(&to).unwrap().node.raft {
            raft.step(from, message).unwrap();
            self.drain(to);
        } else if snapshot {
            self.snapshot_failed(from, to);
        }
    }

    /// Whoever carries the state says that it did not arrive, rightly or not.
    fn snapshot_failed(&mut self, from: ReplicaId, to: ReplicaId) {
        if let Some(raft) = &mut self.nodes.get_mut(&from).unwrap().node.raft {
            raft.snapshot_failed(to);
            self.drain(from);
        }
    }

    fn random_id(&mut self) -> ReplicaId {
        let at = self.prng.index(self.nodes.len());
        *self.nodes.keys().nth(at).unwrap()
    }

    fn propose(&mut self, id: ReplicaId) {
        self.proposed += 1;
        let payload = self.proposed.to_le_bytes().as_slice().into();
        let _ = self.raft(id).propose(payload);
        self.drain(id);
    }

    fn change_members(&mut self, id: ReplicaId) {
        let count = 1 + self.prng.index(3);
        let changes: Vec<_> = (0..count)
            .map(|_| {
                let of = self.random_id();
                match self.prng.index(4) {
                    0 | 1 => MemberChange::Voter(of),
                    2 => MemberChange::Learner(of),
                    _ => MemberChange::Remove(of),
                }
            })
            .collect();
        let _ = self.raft(id).propose_members(&changes);
        self.drain(id);
    }

    fn compact(&mut self, id: ReplicaId) {
        let Watched { node, applied, .. } = self.nodes.get_mut(&id).unwrap();
        // Only what is durable, and nothing newer than it says.
        if node.writes.is_empty() {
            node.compact(*applied);
        }
    }

    fn step(&mut self) {
        let id = self.random_id();
        let up = self.nodes[&id].node.raft.is_some();
        match self.prng.below(1_000) {
            0..500 => self.deliver(),
            500..720 if up => self.end_write(id),
            720..800 if up => {
                self.raft(id).tick();
                self.drain(id);
            }
            800..860 if up => self.propose(id),
            860..868 if up => self.change_members(id),
            868..880 if up => {
                let to = self.random_id();
                let _ = self.raft(id).transfer_leadership(to);
                self.drain(id);
            }
            880..900 if up => self.compact(id),
            900..912 if up => self.crash(id),
            900..950 if !up => self.start(id),
            950..960 => {
                let to = self.random_id();
                self.cut.insert((id, to));
            }
            960..970 => self.cut.clear(),
            // Elections that nobody needed.
            970..990 if up => {
                self.raft(id).campaign_now();
                self.drain(id);
            }
            990..1_000 => {
                let to = self.random_id();
                self.snapshot_failed(id, to);
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.lossy = false;
        self.cut.clear();
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for &id in &ids {
            if self.nodes[&id].node.raft.is_none() {
                self.start(id);
            }
            for &to in &ids {
                self.snapshot_failed(id, to);
            }
        }
        let goal = self.committed.keys().next_back().copied().unwrap_or_default();
        for _ in 0..TICKS_TO_HEAL {
            for &id in &ids {
                self.raft(id).tick();
                self.drain(id);
                if self.raft(id).is_leader() {
                    self.propose(id);
                }
            }
            while !self.net.is_empty() || self.nodes.values().any(|watched| !watched.node.writes.is_empty()) {
                self.deliver();
                for &id in &ids {
                    self.end_write(id);
                }
            }
            if self.is_healthy(goal) {
                return;
            }
        }
        for (id, watched) in &self.nodes {
            let raft = watched.node.raft.as_ref().unwrap();
            println!(
                "{id}: {}, leader {:?}, last {:?}, commit {}, {}",
                raft.term(),
                raft.leader(),
                raft.last(),
                raft.commit_index(),
                raft.membership()
            );
        }
        panic!("unhealthy after {TICKS_TO_HEAL} ticks without faults");
    }

    /// Somebody leads and has committed beyond `goal`, no change of the members is half made, and all members follow.
    fn is_healthy(&self, goal: Index) -> bool {
        let raft = |id: ReplicaId| self.nodes[&id].node.raft.as_ref().unwrap();
        let leader = self
            .nodes
            .keys()
            .map(|id| raft(*id))
            .find(|raft| raft.is_leader());
        leader.is_some_and(|leader| {
            let last = leader.commit_index();
            last > goal
                && !leader.membership().is_joint()
                && leader
                    .membership()
                    .members()
                    .all(|id| raft(id).commit_index().0 + 5 >= last.0)
        })
    }
}

fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
    let changes = world
        .committed
        .values()
        .filter(|entry| matches!(entry.content, Content::Membership(_)));
    (world.committed.len(), changes.count())
}

#[test]
fn random_schedules_keep_what_was_committed() {
    let seeds = std::env::var("SCHEDULES").unwrap_or_else(|_| "0..500".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    let (mut committed, mut changes) = (0, 0);
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        let result = std::panic::catch_unwind(|| run(seed));
        let Ok((entries, members)) = result else {
            panic!(
                "replay with SCHEDULES={seed}..{} cargo test -p corelane-raft --test schedules",
                seed + 1
            );
        };
        committed += entries;
        changes += members;
    }
    println!("{committed} entries committed, {changes} of them changes of the members");
    assert!(committed > 0 && changes > 0, "nothing happened");
}
