//! Every state that three replicas can reach within bounds, breadth first, with the safety of Raft checked in each.
//!
//! What may happen at any time: an election at any replica, a proposal to any leader, the end of the oldest write, a crash with any
//! number of the oldest writes durable (what waited for them is never sent) and a restart, the delivery of any message ever sent. A
//! message stays in the net for good: so it is lost, late, doubled and overtaken in some of the histories. There are no ticks.
//!
//! Bounds: no election beyond term `TERMS`; no proposal at a log that has `ENTRIES` entries already (an entry by which a leader begins
//! is one too, and is always appended); no more than `CRASHES` crashes; and a
//! replica with `WRITES` writes under way takes nothing more.
//!
//! How it is fast: what a replica does depends on itself and its input only, so each pair is computed once (*local* states, told
//! apart by 128 bits of their fingerprint and disk); a state of the group is then six numbers, compared exactly.
//!
//! `EXHAUSTIVE=TERMS,ENTRIES,CRASHES,WRITES cargo test --profile sim -p corelane-raft --test exhaustive -- --nocapture` explores
//! other bounds.
//!
//! Explored to the end so far: terms 1, entries 1, crashes 1, writes 1 (918,595 states; the default), where the only entries are those
//! by which leaders begin. With two entries 9.9 million states were seen before the search was stopped: no larger bound was finished, so this says
//! nothing yet of a second term.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

use base::collections::FastMap;
use base::{Prng, ReplicaId, Term};
use core::hash::{Hash, Hasher};
use corelane_raft::{Body, Config, Entry, Message, PersistMark, Raft, Ready, Restored};
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::rc::Rc;
use std::sync::Arc;

/// States at which a search gives up, and says so.
const STATES_MAX: usize = 60_000_000;

/// An input of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Input {
    Deliver(u16),
    Campaign,
    Propose,
    Persist,
    Crash(u8),
}

/// One replica with its disk.
#[derive(Clone)]
struct Local {
    raft: Raft,
    disk: Restored,
    writes: VecDeque<(PersistMark, Rc<Ready>)>,
    /// Its log as of the last `ready`: term and chain of each entry.
    log: Vec<(Term, u32)>,
}

/// A local state, and the packets that leave.
type After = (u32, Rc<[u16]>);

type Packet = (ReplicaId, ReplicaId, Message);

fn config() -> Arc<Config> {
    Arc::new(Config {
        election_ticks: 1 << 30,
        lease_ticks: 0,
        ..Config::default()
    })
}

fn write(disk: &mut Restored, ready: &Ready) {
    assert!(ready.snapshot.is_none(), "nothing was compacted");
    disk.hard_state = ready.hard_state.unwrap_or(disk.hard_state);
    if let Some(first) = ready.entries.first() {
        disk.entries.retain(|entry| entry.index < first.index);
        disk.entries.extend(ready.entries.iter().cloned());
    }
}

fn marks(entries: &[Entry]) -> Vec<(Term, u32)> {
    entries.iter().map(|entry| (entry.term, entry.chain)).collect()
}

impl Local {
    fn start(id: ReplicaId, disk: Restored) -> Self {
        Self {
            raft: Raft::new(id, config(), Prng::new(id.0), disk.clone()),
            log: marks(&disk.entries),
            disk,
            writes: VecDeque::new(),
        }
    }

    fn hash(&self) -> u128 {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.raft.fingerprint(&mut hasher);
            self.disk.hash(&mut hasher);
            for (_, ready) in &self.writes {
                (&ready.hard_state, &ready.entries, &ready.messages_after_persist).hash(&mut hasher);
            }
            hasher.finish()
        };
        u128::from(half(1)) << 64 | u128::from(half(2))
    }

    /// The state after an input, and what leaves.
    fn after(&self, input: Input, packets: &[Packet]) -> (Self, Vec<(ReplicaId, Message)>) {
        let (mut next, mut out) = (self.clone(), Vec::new());
        match input {
            Input::Deliver(at) => {
                let (from, _, message) = packets[usize::from(at)].clone();
                next.raft.step(from, message).unwrap();
            }
            Input::Campaign => {
                let (from, term) = (next.raft.id(), next.raft.term());
                let body = Body::Campaign;
                next.raft.step(from, Message { term, body }).unwrap();
            }
            Input::Propose => drop(next.raft.propose([7].as_slice().into())),
            Input::Persist => {
                let (mark, ready) = next.writes.pop_front().unwrap();
                write(&mut next.disk, &ready);
                next.raft.persisted(mark);
                out.extend(ready.messages_after_persist.iter().cloned());
            }
            Input::Crash(kept) => {
                for (_, ready) in next.writes.iter().take(usize::from(kept)) {
                    write(&mut next.disk, ready);
                }
                next = Self::start(self.raft.id(), next.disk);
            }
        }
        loop {
            next.raft.assert_invariants();
            let mut ready = Ready::default();
            let more = next.raft.ready(&mut ready);
            if let Some(first) = ready.entries.first() {
                next.log.truncate(usize::try_from(first.index.0 - 2).unwrap());
                next.log.extend(marks(&ready.entries));
            }
            if let Some(last) = ready.committed.last() {
                next.raft.applied(last.index);
            }
            assert!(ready.fetches.is_empty(), "all of it is in memory");
            out.append(&mut ready.messages);
            if let Some(mark) = ready.mark {
                next.writes.push_back((mark, Rc::new(ready)));
            }
            if !more {
                break;
            }
        }
        if !matches!(input, Input::Crash(_)) {
            assert!(
                next.raft.commit_index() >= self.raft.commit_index(),
                "commit fell"
            );
        }
        (next, out)
    }
}

/// What was ever committed: term and chain of each entry, and the term of the replica that first knew of it.
type Committed = Vec<(Term, u32, Term)>;

/// Local states, the messages ever sent, what was ever committed: indexes into the tables of [`Search`]. And how many crashes were.
type State = [u32; 6];

struct Search {
    terms: u64,
    entries: u64,
    crashes: u32,
    writes: u32,
    locals: Vec<Rc<Local>>,
    local_ids: FastMap<u128, u32>,
    after: FastMap<(u32, Input), After>,
    packets: Vec<Packet>,
    packet_ids: FastMap<Packet, u16>,
    nets: Vec<Rc<[u16]>>,
    net_ids: FastMap<Rc<[u16]>, u32>,
    committed: Vec<Rc<Committed>>,
    committed_ids: FastMap<Rc<Committed>, u32>,
    states: FastMap<State, u32>,
    /// For each state, from which one and how it was reached first.
    from: Vec<(u32, u8, Input)>,
    transitions: u64,
}

fn intern<T: Clone + Hash + Eq>(ids: &mut FastMap<T, u32>, all: &mut Vec<T>, value: T) -> u32 {
    let next = u32::try_from(all.len()).unwrap();
    *ids.entry(value).or_insert_with_key(|value| {
        all.push(value.clone());
        next
    })
}

impl Search {
    fn new(terms: u64, entries: u64, crashes: u32, writes: u32) -> Self {
        Self {
            terms,
            entries,
            crashes,
            writes,
            locals: Vec::new(),
            local_ids: FastMap::default(),
            after: FastMap::default(),
            packets: Vec::new(),
            packet_ids: FastMap::default(),
            nets: Vec::new(),
            net_ids: FastMap::default(),
            committed: Vec::new(),
            committed_ids: FastMap::default(),
            states: FastMap::default(),
            from: Vec::new(),
            transitions: 0,
        }
    }

    fn local(&mut self, local: Local) -> u32 {
        let next = u32::try_from(self.locals.len()).unwrap();
        let locals = &mut self.locals;
        *self.local_ids.entry(local.hash()).or_insert_with(|| {
            locals.push(Rc::new(local));
            next
        })
    }

    fn inputs(&self, local: &Local, net: &[u16], crashes: u32) -> Vec<Input> {
        let (id, raft) = (local.raft.id(), &local.raft);
        let may_crash = crashes < self.crashes;
        let mut inputs: Vec<_> = (0..=local.writes.len())
            .filter(|_| may_crash)
            .map(|kept| Input::Crash(u8::try_from(kept).unwrap()))
            .collect();
        if !local.writes.is_empty() {
            inputs.push(Input::Persist);
        }
        if local.writes.len() >= self.writes as usize {
            return inputs;
        }
        if !raft.is_leader() && raft.term().0 < self.terms {
            inputs.push(Input::Campaign);
        }
        if raft.is_leader() && (local.log.len() as u64) < self.entries {
            inputs.push(Input::Propose);
        }
        let to_it = net.iter().filter(|at| self.packets[usize::from(**at)].1 == id);
        inputs.extend(to_it.map(|at| Input::Deliver(*at)));
        inputs
    }

    /// The local state after an input, and the packets that leave.
    fn step(&mut self, at: u32, input: Input) -> After {
        if let Some((next, out)) = self.after.get(&(at, input)) {
            return (*next, Rc::clone(out));
        }
        let local = Rc::clone(&self.locals[at as usize]);
        let (next, out) = local.after(input, &self.packets);
        let mut sent = Vec::new();
        for (to, message) in out {
            let packet = (local.raft.id(), to, message);
            let id = u16::try_from(self.packets.len()).unwrap();
            let packets = &mut self.packets;
            sent.push(*self.packet_ids.entry(packet).or_insert_with_key(|packet| {
                packets.push(packet.clone());
                id
            }));
        }
        let found = (self.local(next), Rc::from(sent));
        self.after.insert((at, input), found.clone());
        found
    }

    fn union(&mut self, net: u32, sent: &[u16]) -> u32 {
        let old = &self.nets[net as usize];
        if sent.iter().all(|packet| old.binary_search(packet).is_ok()) {
            return net;
        }
        let mut all = old.to_vec();
        all.extend(sent);
        all.sort_unstable();
        all.dedup();
        intern(&mut self.net_ids, &mut self.nets, all.into())
    }

    /// What was ever committed, with what this replica knows of. Checks that it is no other.
    fn commit(&mut self, committed: u32, local: u32) -> u32 {
        let local = &self.locals[local as usize];
        let known = usize::try_from(local.raft.commit_index().0 - 1).unwrap();
        let before = &self.committed[committed as usize];
        for (one, other) in before.iter().zip(&local.log[..known]) {
            assert_eq!((one.0, one.1), *other, "state machine safety");
        }
        if known <= before.len() {
            return committed;
        }
        let mut all = (**before).clone();
        let news = local.log[before.len()..known].iter();
        all.extend(news.map(|(term, chain)| (*term, *chain, local.raft.term())));
        intern(&mut self.committed_ids, &mut self.committed, Rc::new(all))
    }

    /// Panics when the group is in a state that must not be.
    fn check(&self, state: State) {
        let committed = &self.committed[state[4] as usize];
        let locals = [0, 1, 2].map(|at| &*self.locals[state[at] as usize]);
        for (at, one) in locals.iter().enumerate() {
            if one.raft.is_leader() {
                let mut before = committed.iter().take_while(|entry| entry.2 <= one.raft.term());
                let complete = before.all(|entry| one.log.contains(&(entry.0, entry.1)));
                assert!(complete, "leader completeness");
            }
            for other in &locals[at + 1..] {
                let both_lead = one.raft.is_leader() && other.raft.is_leader();
                assert!(
                    !both_lead || one.raft.term() != other.raft.term(),
                    "election safety"
                );
                let alike = one.log.iter().zip(&other.log).rposition(|(a, b)| a.0 == b.0);
                if let Some(alike) = alike {
                    assert_eq!(one.log[..=alike], other.log[..=alike], "log matching");
                }
            }
        }
    }

    /// Two leaders of a term, one after the other, have both spoken in it.
    fn check_leaders(&self, net: u32, sent: &[u16]) {
        let leads = |at: &&u16| {
            matches!(
                self.packets[usize::from(**at)].2.body,
                Body::Append { .. } | Body::Heartbeat { .. }
            )
        };
        for one in sent.iter().filter(leads) {
            for other in self.nets[net as usize].iter().filter(leads) {
                let (one, other) = (
                    &self.packets[usize::from(*one)],
                    &self.packets[usize::from(*other)],
                );
                assert!(one.0 == other.0 || one.2.term != other.2.term, "election safety");
            }
        }
    }

    fn story(&self, mut at: u32) -> String {
        let mut lines = Vec::new();
        while at > 0 {
            let (before, node, input) = self.from[at as usize];
            let what = match input {
                Input::Deliver(packet) => format!("{:?}", self.packets[usize::from(packet)]),
                other => format!("{other:?}"),
            };
            lines.push(format!("  {}: {what}", node + 1));
            at = before;
        }
        lines.reverse();
        lines.join("\n")
    }

    /// All states. `false`: there are more than the limit.
    fn run(&mut self) -> bool {
        let first = Restored::first([1, 2, 3].map(ReplicaId));
        let locals = [1, 2, 3].map(|id| self.local(Local::start(ReplicaId(id), first.clone())));
        let net = intern(&mut self.net_ids, &mut self.nets, Rc::from([]));
        let committed = intern(&mut self.committed_ids, &mut self.committed, Rc::default());
        let state = [locals[0], locals[1], locals[2], net, committed, 0];
        self.states.insert(state, 0);
        self.from.push((0, 0, Input::Persist));
        let (mut level, mut depth) = (vec![state], 0_u32);
        while !level.is_empty() && self.states.len() < STATES_MAX {
            let mut next_level = Vec::new();
            for state in level {
                let at = self.states[&state];
                for node in 0..3_u8 {
                    let local = Rc::clone(&self.locals[state[usize::from(node)] as usize]);
                    let net = Rc::clone(&self.nets[state[3] as usize]);
                    for input in self.inputs(&local, &net, state[5]) {
                        self.transitions += 1;
                        let checked = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
                            let (next, sent) = self.step(state[usize::from(node)], input);
                            self.check_leaders(state[3], &sent);
                            let mut to = state;
                            to[usize::from(node)] = next;
                            to[3] = self.union(state[3], &sent);
                            to[4] = self.commit(state[4], next);
                            to[5] += u32::from(matches!(input, Input::Crash(_)));
                            if to != state && !self.states.contains_key(&to) {
                                let id = u32::try_from(self.from.len()).unwrap();
                                self.states.insert(to, id);
                                self.from.push((at, node, input));
                                next_level.push(to);
                                self.check(to);
                            }
                        }));
                        if checked.is_err() {
                            panic!("after\n{}\n  {}: {input:?}", self.story(at), node + 1);
                        }
                    }
                }
            }
            depth += 1;
            if std::env::var_os("EXHAUSTIVE").is_some() {
                println!(
                    "depth {depth}: {} states, {} local",
                    self.states.len(),
                    self.locals.len()
                );
            }
            level = next_level;
        }
        println!(
            "terms {}, entries {}, crashes {}, writes {}: {} states, {} transitions, depth {depth}; {} local states, {} messages, {} nets{}",
            self.terms,
            self.entries,
            self.crashes,
            self.writes,
            self.states.len(),
            self.transitions,
            self.locals.len(),
            self.packets.len(),
            self.nets.len(),
            if level.is_empty() { "" } else { "; not all" },
        );
        level.is_empty()
    }
}

#[test]
fn no_state_within_bounds_is_unsafe() {
    let bounds = std::env::var("EXHAUSTIVE").unwrap_or_else(|_| "1,1,1,1".to_owned());
    let bounds: Vec<u32> = bounds.split(',').map(|bound| bound.parse().unwrap()).collect();
    let mut search = Search::new(bounds[0].into(), bounds[1].into(), bounds[2], bounds[3]);
    assert!(search.run(), "there are more states than the limit");
    let committed = search.committed.iter().any(|all| !all.is_empty());
    assert!(committed, "nothing was ever committed");
}
