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

use base::{Index, Prng, ReplicaId, Term};
use corelane_raft::{
    Config, Content, Entry, MemberChange, Membership, Message, PersistMark, Raft, Ready, Restored, Snapshot,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const TICKS_TO_HEAL: u32 = 300;
const STEPS: u32 = 3_000;

struct Write {
    mark: PersistMark,
    ready: Ready,
}

#[derive(Default)]
struct Node {
    /// What is durable.
    disk: Restored,
    /// The state that the log's start needs, by its index: here, only that it was there.
    writes: VecDeque<Write>,
    /// `None`: down.
    raft: Option<Raft>,
    commit: Index,
    applied: Index,
}

struct World {
    prng: Prng,
    nodes: BTreeMap<ReplicaId, Node>,
    net: Vec<(ReplicaId, ReplicaId, Message)>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    lossy: bool,
    committed: BTreeMap<Index, Entry>,
    leaders: BTreeMap<Term, ReplicaId>,
    first: Membership,
    config: Config,
    proposed: u32,
    ready: Ready,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let count = [3, 5, 7][prng.index(3)];
        let spare = prng.below(3);
        let ids = (1..=count).map(ReplicaId);
        let first = Membership::of_voters(ids);
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
            first,
            config,
            proposed: 0,
            ready: Ready::default(),
        };
        for id in (1..=count + spare).map(ReplicaId) {
            let mut node = Node::default();
            if world.first.contains(id) {
                node.disk.snapshot.membership = world.first.clone();
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
        let node = self.nodes.get_mut(&id).unwrap();
        node.raft = Some(Raft::new(config, prng, node.disk.clone()));
        node.commit = node.disk.snapshot.last.index;
        node.applied = node.commit;
        self.drain(id);
    }

    fn crash(&mut self, id: ReplicaId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.raft = None;
        // Some of the writes made it, in order, without anybody hearing of it.
        let kept = self.prng.index(node.writes.len() + 1);
        for write in node.writes.drain(..).take(kept) {
            apply_write(&mut node.disk, &write.ready);
        }
    }

    fn send(&mut self, from: ReplicaId, messages: Vec<(ReplicaId, Message)>) {
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
            let mut ready = core::mem::take(&mut self.ready);
            let node = self.nodes.get_mut(&id).unwrap();
            let Some(raft) = &mut node.raft else { return };
            raft.assert_invariants();
            let more = raft.ready(&mut ready);
            raft.assert_invariants();
            assert!(
                raft.commit_index() >= node.commit,
                "the commit index of {id} went back"
            );
            node.commit = raft.commit_index();
            if raft.is_leader() {
                let leader = *self.leaders.entry(raft.term()).or_insert(id);
                assert_eq!(leader, id, "two leaders in {}", raft.term());
            }
            if let Some(snapshot) = &ready.snapshot {
                let known = &self.committed[&snapshot.last.index];
                assert_eq!(known.mark(), snapshot.last, "a snapshot of something else");
                node.applied = snapshot.last.index;
            }
            for entry in core::mem::take(&mut ready.committed) {
                assert_eq!(entry.index, node.applied.next(), "{id} applies out of order");
                node.applied = entry.index;
                let known = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
                assert_eq!(*known, entry, "{id} applies something else");
            }
            let messages = core::mem::take(&mut ready.messages);
            if let Some(mark) = ready.mark {
                node.writes.push_back(Write { mark, ready });
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
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(write) = node.writes.pop_front() else {
            return;
        };
        apply_write(&mut node.disk, &write.ready);
        let raft = node.raft.as_mut().unwrap();
        raft.persisted(write.mark);
        self.send(id, write.ready.messages_after_persist);
        self.drain(id);
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.prng.index(self.net.len());
        let (from, to, message) = self.net.swap_remove(at);
        if let Some(raft) = self.nodes.get_mut(&to).and_then(|node| node.raft.as_mut()) {
            raft.step(from, message);
            self.drain(to);
        }
    }

    fn random_id(&mut self) -> ReplicaId {
        let at = self.prng.index(self.nodes.len());
        *self.nodes.keys().nth(at).unwrap()
    }

    fn propose(&mut self, id: ReplicaId) {
        self.proposed += 1;
        let payload = self.proposed.to_le_bytes().as_slice().into();
        let _ = self
            .nodes
            .get_mut(&id)
            .unwrap()
            .raft
            .as_mut()
            .unwrap()
            .propose(payload);
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
        let raft = self.nodes.get_mut(&id).unwrap().raft.as_mut().unwrap();
        let _ = raft.propose_members(&changes);
        self.drain(id);
    }

    fn compact(&mut self, id: ReplicaId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let raft = node.raft.as_mut().unwrap();
        // Only what is durable, and nothing newer than it says.
        if node.writes.is_empty() && node.applied > raft.snapshot().last.index {
            raft.compact(node.applied);
            let snapshot: Snapshot = raft.snapshot();
            node.disk
                .entries
                .retain(|entry| entry.index > snapshot.last.index);
            node.disk.snapshot = snapshot;
        }
    }

    fn step(&mut self) {
        let id = self.random_id();
        let up = self.nodes[&id].raft.is_some();
        match self.prng.below(1_000) {
            0..500 => self.deliver(),
            500..720 if up => self.end_write(id),
            720..800 if up => {
                self.nodes.get_mut(&id).unwrap().raft.as_mut().unwrap().tick();
                self.drain(id);
            }
            800..860 if up => self.propose(id),
            860..868 if up => self.change_members(id),
            868..880 if up => {
                let to = self.random_id();
                let raft = self.nodes.get_mut(&id).unwrap().raft.as_mut().unwrap();
                let _ = raft.transfer_leadership(to);
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
                self.nodes
                    .get_mut(&id)
                    .unwrap()
                    .raft
                    .as_mut()
                    .unwrap()
                    .campaign_now();
                self.drain(id);
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.lossy = false;
        self.cut.clear();
        let down: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.raft.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in down {
            self.start(id);
        }
        let goal = self.committed.keys().next_back().copied().unwrap_or_default();
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for _ in 0..TICKS_TO_HEAL {
            for &id in &ids {
                self.nodes.get_mut(&id).unwrap().raft.as_mut().unwrap().tick();
                self.drain(id);
                if self.nodes[&id].raft.as_ref().unwrap().is_leader() {
                    self.propose(id);
                }
            }
            while !self.net.is_empty() || self.nodes.values().any(|node| !node.writes.is_empty()) {
                self.deliver();
                for &id in &ids {
                    self.end_write(id);
                }
            }
            let leader = self
                .nodes
                .values()
                .filter_map(|node| node.raft.as_ref())
                .find(|raft| raft.is_leader());
            let Some(leader) = leader else { continue };
            let last = leader.commit_index();
            let caught_up =
                |id: ReplicaId| self.nodes[&id].raft.as_ref().unwrap().commit_index().0 + 5 >= last.0;
            if last > goal && leader.membership().members().all(caught_up) {
                return;
            }
        }
        for (id, node) in &self.nodes {
            let raft = node.raft.as_ref().unwrap();
            println!(
                "{id}: {}, leader {:?}, last {:?}, commit {}, {}",
                raft.term(),
                raft.leader(),
                raft.last(),
                raft.commit_index(),
                raft.membership()
            );
        }
        panic!("no leader, no commit or a member behind after {TICKS_TO_HEAL} ticks without faults");
    }
}

fn apply_write(disk: &mut Restored, ready: &Ready) {
    if let Some(snapshot) = &ready.snapshot {
        disk.snapshot = snapshot.clone();
        disk.entries.clear();
    }
    if let Some(hard_state) = ready.hard_state {
        disk.hard_state = hard_state;
    }
    if let Some(first) = ready.entries.first() {
        disk.entries.retain(|entry| entry.index < first.index);
        disk.entries.extend(ready.entries.iter().cloned());
    }
    let next = disk.snapshot.last.index.next();
    assert!(
        disk.entries.first().is_none_or(|entry| entry.index == next),
        "a gap on disk"
    );
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
