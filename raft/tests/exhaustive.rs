//! Every state that three replicas can reach within [`Bounds`], with the safety of Raft checked in each.
//!
//! What may happen at any time: an election at any replica that is no candidate, without a pre-vote and whatever was heard of a
//! leader; a proposal to any leader; the end of the oldest write; a crash with any number of the unfinished writes durable, then
//! a restart (being down is being slow); the delivery of any message ever sent.
//! **Network:** a set that only grows. What was delivered may be delivered again, what was not may never be: loss, duplication,
//! reordering and delay without any bound, and no limit on what is under way. What waited for a write that a crash made durable
//! was never sent.
//!
//! **Not there:** ticks, so no rounds of heartbeats after a leader's first, no check of the quorum; pre-votes; reads; changes of the
//! members; transfer by a leader; compaction and snapshots; damaged disks. Those are the random schedules' to find. A message
//! carries one entry, and one with entries is under way to each follower. With [`Bounds::answers`] off, as in all searches that
//! end, these are lost too: heartbeats and their answers, refusals of votes, and whatever comes from a term older than the
//! receiver's (so nobody is told that its term is old: it learns of a later one by that term's messages).
//!
//! **Bounds:** terms, after the first one in which nobody asks for votes; proposals over the whole run, without the empty entry by
//! which each leader begins; crashes over the whole run; unfinished writes of a replica, at which it takes no input until one ends.
//!
//! **Reductions**, none of which loses a violation: replicas that did nothing yet are alike, so they begin in the order of their
//! ids; a message that can never again change its receiver is forgotten; a replica that can only end a write or crash does so
//! before others go on; what a replica does depends on itself and its input alone, so each such pair is computed once. Local states are told apart by 128 bits of fingerprint and disk, states of the
//! group by 128 bits more; a collision would hide states.
//!
//! **Checked in every state:** one leader in a term, ever; logs match; leaders have whatever was committed in an earlier term,
//! also when that comes out later; equal entries committed, and applied in order, at equal indexes; commit indexes do not go back.
//!
//! `EXHAUSTIVE=full cargo test --profile sim -p corelane-raft --test exhaustive -- --nocapture` explores more than the default;
//! `EXHAUSTIVE=TERMS,PROPOSALS,CRASHES,WRITES,ANSWERS` as much as asked for, the last one 0 or 1.
//!
//! Explored to the end, without answers:
//!
//! | | terms | proposals | crashes | writes | states | transitions |
//! |---|---|---|---|---|---|---|
//! | default | 2 | 0 | 1 | 1 | 107,540 | 717,630 |
//! | default | 2 | 1 | 0 | 1 | 115,633 | 992,894 |
//! | full | 2 | 3 | 0 | 1 | 3,347,084 | 77,178,761 |
//! | full | 2 | 2 | 1 | 1 | 8,886,572 | 211,345,403 |
//! | full | 2 | 1 | 2 | 1 | 5,300,599 | 58,553,566 |
//! | full | 2 | 0 | 1 | 2 | 10,164,840 | 35,874,754 |
//! | full | 4 | 0 | 0 | 1 | 4,559,268 | 36,323,941 |
//!
//! Three proposals with a crash, and anything with answers, were not finished.
//!
//! Of the bugs planted in the core the default finds `vote-before-durable`, `ack-before-durable`, `conflict-kept`,
//! `vote-for-shorter-log` and `vote-twice`; four terms find `commit-old-term`.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

use base::collections::{FastMap, FastSet};
use base::{Index, Prng, ReplicaId, Term};
use core::hash::{Hash, Hasher};
use corelane_raft::{Body, Config, Entry, HardState, Message, PersistMark, Raft, Ready, Restored};
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::rc::Rc;
use std::sync::Arc;

/// The term in which the group begins. Not zero: then restarts and first starts are alike in what they promise.
const TERM_FIRST: u64 = 1;
/// More terms than that are begun in no search.
const TERMS_MAX: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Bounds {
    terms: u64,
    proposals: u8,
    crashes: u8,
    writes: usize,
    answers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Input {
    Deliver(u16),
    Campaign,
    Propose,
    Persist,
    Crash(u8),
}

/// Handed out and not durable.
#[derive(Clone, Hash)]
struct Write {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    /// They leave when it is.
    messages: Vec<(ReplicaId, Message)>,
}

impl Write {
    fn end(&self, disk: &mut Restored) {
        disk.hard_state = self.hard_state.unwrap_or(disk.hard_state);
        overwrite(&mut disk.entries, &self.entries);
    }
}

fn overwrite(log: &mut Vec<Entry>, entries: &[Entry]) {
    if let Some(first) = entries.first() {
        log.retain(|entry| entry.index < first.index);
        log.extend(entries.iter().cloned());
    }
}

/// One replica with its disk.
#[derive(Clone)]
struct Local {
    raft: Raft,
    disk: Restored,
    writes: VecDeque<(PersistMark, Write)>,
    applied: Index,
    /// Term and chain of each entry that is handed out, from entry 2.
    log: Vec<(Term, u32)>,
}

type Packet = (ReplicaId, ReplicaId, Message);

impl Local {
    fn start(id: ReplicaId, disk: Restored) -> Self {
        let config = Config {
            lease_ticks: 1,
            append_entries_max: 1,
            in_flight_max: 1,
            ..Config::default()
        };
        let raft = Raft::new(id, Arc::new(config), Prng::new(0), disk.clone());
        Self {
            raft,
            applied: disk.applied,
            disk,
            writes: VecDeque::new(),
            log: Vec::new(),
        }
    }

    fn fingerprint(&self) -> u128 {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.raft.fingerprint(&mut hasher);
            (&self.disk, self.applied).hash(&mut hasher);
            for (_, write) in &self.writes {
                write.hash(&mut hasher);
            }
            hasher.finish()
        };
        u128::from(half(1)) << 64 | u128::from(half(2))
    }

    /// Takes an input and does what follows. What leaves goes to `sent`.
    fn take(&mut self, input: Input, packets: &[Packet], sent: &mut Vec<(ReplicaId, Message)>) {
        let (id, term) = (self.raft.id(), self.raft.term());
        match input {
            Input::Deliver(packet) => {
                let (from, _, message) = packets[usize::from(packet)].clone();
                self.raft.step(from, message).unwrap();
            }
            Input::Campaign => {
                let body = Body::Campaign;
                self.raft.step(id, Message { term, body }).unwrap();
            }
            // Two leaders of one term would say different things.
            Input::Propose => drop(self.raft.propose(id.0.to_string().as_bytes().into()).unwrap()),
            Input::Persist => {
                let (mark, write) = self.writes.pop_front().unwrap();
                write.end(&mut self.disk);
                sent.extend(write.messages);
                self.raft.persisted(mark);
            }
            Input::Crash(kept) => {
                for (_, write) in self.writes.iter().take(kept.into()) {
                    write.end(&mut self.disk);
                }
                *self = Self::start(id, self.disk.clone());
            }
        }
        self.drain(sent);
    }

    fn drain(&mut self, sent: &mut Vec<(ReplicaId, Message)>) {
        loop {
            self.raft.assert_invariants();
            let mut ready = Ready::default();
            let more = self.raft.ready(&mut ready);
            for fetch in core::mem::take(&mut ready.fetches) {
                let wanted = |entry: &&Entry| entry.index >= fetch.first && entry.index <= fetch.last;
                let found = self.disk.entries.iter().filter(wanted).cloned().collect();
                self.raft.fetched(fetch, found);
            }
            sent.append(&mut ready.messages);
            let committed: Vec<_> = self.raft.entries(&ready.committed).cloned().collect();
            if let Some(mark) = ready.mark {
                let write = Write {
                    hard_state: ready.hard_state,
                    entries: self.raft.entries(&ready.entries).cloned().collect(),
                    messages: ready.messages_after_persist,
                };
                self.writes.push_back((mark, write));
            }
            let log = self.entries();
            for entry in committed {
                assert_eq!(entry.index, self.applied.next(), "applied out of order");
                assert_eq!(
                    log[position(entry.index)],
                    entry,
                    "applied what is not in the log"
                );
                self.applied = entry.index;
                self.raft.applied(entry.index);
            }
            self.log = log.iter().map(|entry| (entry.term, entry.chain)).collect();
            if !more {
                break;
            }
        }
        // Room that was made and is empty tells no states apart.
        self.raft.shrink();
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = self.disk.entries.clone();
        for (_, write) in &self.writes {
            overwrite(&mut entries, &write.entries);
        }
        entries
    }
}

/// Where an entry is in a log: the group begins after entry 1.
fn position(index: Index) -> usize {
    usize::try_from(index.0 - 2).unwrap()
}

/// Term and chain of each entry of a log, from entry 2.
type Marks = Rc<[(Term, u32)]>;

/// A local state, as far as the group is concerned.
struct Seen {
    local: Rc<Local>,
    leads: Option<usize>,
    log: Marks,
    commit: usize,
}

/// A state of the group.
#[derive(Clone, Default, PartialEq)]
struct State {
    locals: [u32; 3],
    /// In order.
    net: Vec<u16>,
    /// Of each entry that was ever committed: the chain, and the term in which that was first known.
    committed: Vec<(u32, u64)>,
    /// For each term: who led, and its log when it began.
    leaders: [Option<(u8, Marks)>; TERMS_MAX],
    proposals: u8,
    crashes: u8,
}

impl State {
    fn hash(&self) -> u128 {
        let half = |mut sum: u64| {
            let mut add = |part: u64| {
                // The finaliser of SplitMix64.
                sum = sum.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
                sum = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                sum = (sum ^ (sum >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                sum ^= sum >> 31;
            };
            self.locals.iter().for_each(|local| add((*local).into()));
            add(u64::from(self.proposals) << 8 | u64::from(self.crashes));
            for four in self.net.chunks(4) {
                add(four
                    .iter()
                    .fold(0, |all, packet| all << 16 | (u64::from(*packet) + 1)));
            }
            add(u64::MAX);
            for (chain, term) in &self.committed {
                add(u64::from(*chain) << 8 | term);
            }
            for (id, log) in self.leaders.iter().flatten() {
                add((log.len() as u64) << 8 | u64::from(*id));
                log.iter().for_each(|(_, chain)| add((*chain).into()));
            }
            sum
        };
        u128::from(half(1)) << 64 | u128::from(half(2))
    }
}

/// The local state after an input, and what was sent; or what broke.
type Step = Result<(u32, Rc<[u16]>), Rc<str>>;

struct Search {
    bounds: Bounds,
    locals: Vec<Seen>,
    local_ids: FastMap<u128, u32>,
    steps: FastMap<(u32, Input), Step>,
    packets: Vec<Packet>,
    packet_ids: FastMap<Packet, u16>,
    visited: FastSet<u128>,
    transitions: u64,
    depth: usize,
    commits: usize,
    both_terms: bool,
}

impl Search {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            locals: Vec::new(),
            local_ids: FastMap::default(),
            steps: FastMap::default(),
            packets: Vec::new(),
            packet_ids: FastMap::default(),
            visited: FastSet::default(),
            transitions: 0,
            depth: 0,
            commits: 0,
            both_terms: false,
        }
    }

    fn local(&mut self, local: Local) -> u32 {
        let next = u32::try_from(self.locals.len()).unwrap();
        let locals = &mut self.locals;
        *self.local_ids.entry(local.fingerprint()).or_insert_with(|| {
            let raft = &local.raft;
            let term = usize::try_from(raft.term().0 - TERM_FIRST).unwrap();
            locals.push(Seen {
                leads: raft.is_leader().then(|| term - 1),
                log: local.log.clone().into(),
                commit: usize::try_from(raft.commit_index().0 - 1).unwrap(),
                local: Rc::new(local),
            });
            next
        })
    }

    /// Whether it is lost by the bounds.
    fn is_lost(&self, packet: &Packet) -> bool {
        let is_answer = matches!(
            packet.2.body,
            Body::Heartbeat { .. } | Body::HeartbeatReply { .. } | Body::VoteReply { granted: false, .. }
        );
        is_answer && !self.bounds.answers
    }

    fn step(&mut self, at: u32, input: Input) -> Step {
        if let Some(step) = self.steps.get(&(at, input)) {
            return step.clone();
        }
        let local = Rc::clone(&self.locals[at as usize].local);
        let packets = &self.packets;
        let taken = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            let (mut next, mut sent) = ((*local).clone(), Vec::new());
            next.take(input, packets, &mut sent);
            let goes_back = next.raft.commit_index() < local.raft.commit_index();
            assert!(
                !goes_back || matches!(input, Input::Crash(_)),
                "the commit index went back"
            );
            (next, sent)
        }));
        let step = match taken {
            Ok((next, messages)) => {
                let mut sent = Vec::new();
                for (to, message) in messages {
                    let packet = (local.raft.id(), to, message);
                    if self.is_lost(&packet) {
                        continue;
                    }
                    let id = u16::try_from(self.packets.len()).unwrap();
                    let packets = &mut self.packets;
                    sent.push(*self.packet_ids.entry(packet).or_insert_with_key(|packet| {
                        packets.push(packet.clone());
                        id
                    }));
                }
                Ok((self.local(next), sent.into()))
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(text.unwrap_or("it panics").into())
            }
        };
        self.steps.insert((at, input), step.clone());
        step
    }

    fn inputs(&self, state: &State) -> Vec<(u8, Input)> {
        let mut inputs = Vec::new();
        for node in 0..3_u8 {
            // Locals are numbered as they are found: the first three are the beginning.
            let begun = |node: u8| state.locals[usize::from(node)] != u32::from(node);
            if node > 0 && !begun(node - 1) {
                break;
            }
            let seen = &self.locals[state.locals[usize::from(node)] as usize];
            let (local, leads) = (&seen.local, seen.leads.is_some());
            if state.crashes < self.bounds.crashes {
                let kept = u8::try_from(local.writes.len()).unwrap();
                inputs.extend((0..=kept).map(|kept| (node, Input::Crash(kept))));
            }
            if !local.writes.is_empty() {
                inputs.push((node, Input::Persist));
            }
            if local.writes.len() >= self.bounds.writes {
                // Nothing else can happen here, and whatever happens elsewhere does so afterwards just as well.
                inputs.retain(|(other, _)| *other == node);
                return inputs;
            }
            if !leads && local.raft.term().0 < TERM_FIRST + self.bounds.terms {
                inputs.push((node, Input::Campaign));
            }
            if leads && state.proposals < self.bounds.proposals {
                inputs.push((node, Input::Propose));
            }
            let term = local.raft.term();
            let arrives = |packet: &&u16| {
                let (_, to, message) = &self.packets[usize::from(**packet)];
                to.0 == u64::from(node) + 1 && (self.bounds.answers || message.term >= term)
            };
            let delivered = state.net.iter().filter(arrives);
            inputs.extend(delivered.map(|packet| (node, Input::Deliver(*packet))));
        }
        inputs
    }

    /// The state after an input: `None` when nothing changes that matters; or what is broken there.
    fn after(&mut self, state: &State, node: u8, input: Input) -> Result<Option<State>, String> {
        let at = usize::from(node);
        let (local, sent) = self
            .step(state.locals[at], input)
            .map_err(|what| what.to_string())?;
        let is_new = |packet: &&u16| state.net.binary_search(packet).is_err();
        let grows = sent.iter().any(|packet| is_new(&packet));
        if local == state.locals[at] && !grows {
            return Ok(None);
        }
        let mut to = state.clone();
        to.locals[at] = local;
        to.proposals += u8::from(input == Input::Propose);
        to.crashes += u8::from(matches!(input, Input::Crash(_)));
        self.check(&mut to, at)?;
        if grows {
            to.net.extend(sent.iter().filter(is_new));
            to.net.sort_unstable();
            to.net.dedup();
        }
        let mut net = core::mem::take(&mut to.net);
        net.retain(|packet| !self.is_spent(&to, *packet));
        to.net = net;
        Ok(Some(to))
    }

    /// Whether it can never again change anything.
    fn is_spent(&self, state: &State, packet: u16) -> bool {
        let (_, to, message) = &self.packets[usize::from(packet)];
        let at = usize::try_from(to.0 - 1).unwrap();
        let seen = &self.locals[state.locals[at] as usize];
        let durable = seen.local.disk.hard_state.term;
        let led = |term: Term| {
            let leader = &state.leaders[usize::try_from(term.0 - TERM_FIRST - 1).unwrap()];
            leader.as_ref().is_some_and(|(id, _)| usize::from(*id) == at)
        };
        if !self.bounds.answers && message.term < durable {
            return true;
        }
        match message.body {
            // Of a term that cannot come back, or in which it was elected.
            Body::VoteReply { .. } => {
                message.term < durable || (message.term == durable && led(message.term))
            }
            // ... or in which it led and does not any more.
            Body::Appended { .. } | Body::Refused { .. } | Body::HeartbeatReply { .. } => {
                message.term < durable
                    || (message.term == durable && led(message.term) && seen.leads.is_none())
            }
            _ => false,
        }
    }

    /// Checks a state in which one replica is new, and notes who leads and what is committed.
    fn check(&mut self, state: &mut State, at: usize) -> Result<(), String> {
        let seen = &self.locals[state.locals[at] as usize];
        let id = u8::try_from(at).unwrap();
        let mut changed = false;
        if let Some(term) = seen.leads {
            match &state.leaders[term] {
                None => {
                    state.leaders[term] = Some((id, Rc::clone(&seen.log)));
                    changed = true;
                }
                Some((leader, _)) if *leader != id => {
                    return Err(format!("two led in one term: {} and {}", leader + 1, id + 1));
                }
                Some(_) => {}
            }
        }
        for (entry, known) in seen.log[..seen.commit].iter().zip(&state.committed) {
            if entry.1 != known.0 {
                return Err("two entries are committed at one index".to_owned());
            }
        }
        if seen.commit > state.committed.len() {
            let term = seen.local.raft.term().0;
            let news = &seen.log[state.committed.len()..seen.commit];
            state.committed.extend(news.iter().map(|entry| (entry.1, term)));
            changed = true;
        }
        if changed {
            for (term, leader) in state.leaders.iter().enumerate() {
                let Some((leader, log)) = leader else { continue };
                let term = TERM_FIRST + 1 + term as u64;
                for (at, (chain, known)) in state.committed.iter().enumerate() {
                    if *known < term && log.get(at).is_none_or(|entry| entry.1 != *chain) {
                        return Err(format!("{} leads without entry {}", leader + 1, at + 2));
                    }
                }
            }
            self.commits = self.commits.max(state.committed.len());
            self.both_terms |= state.leaders.iter().filter(|leader| leader.is_some()).count() > 1;
        }
        for other in (0..3).filter(|other| *other != at) {
            let other = &self.locals[state.locals[other] as usize];
            for (one, other) in seen.log.iter().zip(&*other.log) {
                if one.0 == other.0 && one.1 != other.1 {
                    return Err("logs do not match".to_owned());
                }
            }
        }
        Ok(())
    }

    fn first(&mut self) -> State {
        let disk = Restored {
            hard_state: HardState {
                term: Term(TERM_FIRST),
                ..HardState::default()
            },
            ..Restored::first([1, 2, 3].map(ReplicaId))
        };
        let locals = [1, 2, 3].map(|id| {
            let mut local = Local::start(ReplicaId(id), disk.clone());
            local.drain(&mut Vec::new());
            self.local(local)
        });
        State {
            locals,
            ..State::default()
        }
    }

    /// All states, depth first. What broke, and how it came to that.
    fn run(&mut self) -> Result<(), (String, Vec<(u8, Input)>)> {
        let first = self.first();
        self.visited.insert(first.hash());
        let inputs = self.inputs(&first);
        let mut path = vec![(first, inputs, (0, Input::Persist))];
        while let Some((state, inputs, _)) = path.last_mut() {
            let Some((node, input)) = inputs.pop() else {
                path.pop();
                continue;
            };
            self.transitions += 1;
            let found = self.after(state, node, input);
            match found {
                Ok(None) => {}
                Ok(Some(to)) => {
                    if self.visited.insert(to.hash()) {
                        let inputs = self.inputs(&to);
                        path.push((to, inputs, (node, input)));
                        self.depth = self.depth.max(path.len() - 1);
                        if self.visited.len().is_multiple_of(10_000_000) {
                            println!("{} ...", self.counts());
                        }
                    }
                }
                Err(what) => {
                    let mut inputs: Vec<_> = path[1..].iter().map(|(_, _, input)| *input).collect();
                    inputs.push((node, input));
                    return Err((what, self.shorten(inputs)));
                }
            }
        }
        Ok(())
    }

    /// Whether these inputs break something.
    fn breaks(&mut self, inputs: &[(u8, Input)]) -> bool {
        let mut state = self.first();
        for (node, input) in inputs {
            if !self.inputs(&state).contains(&(*node, *input)) {
                return false;
            }
            match self.after(&state, *node, *input) {
                Ok(Some(to)) => state = to,
                Ok(None) => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// Leaves out inputs as long as something breaks still.
    fn shorten(&mut self, mut inputs: Vec<(u8, Input)>) -> Vec<(u8, Input)> {
        let mut size = inputs.len();
        while size > 0 {
            let (mut at, before) = (0, inputs.len());
            while at + size <= inputs.len() {
                let mut fewer = inputs.clone();
                fewer.drain(at..at + size);
                if self.breaks(&fewer) {
                    inputs = fewer;
                } else {
                    at += 1;
                }
            }
            if inputs.len() == before {
                size /= 2;
            }
            size = size.min(inputs.len());
        }
        inputs
    }

    fn story(&self, inputs: &[(u8, Input)]) -> String {
        let mut story = String::new();
        for (node, input) in inputs {
            let what = match input {
                Input::Deliver(packet) => {
                    let (from, _, message) = &self.packets[usize::from(*packet)];
                    format!("hears from {from}: {message:?}")
                }
                other => format!("{other:?}"),
            };
            story += &format!("\n  {}: {what}", node + 1);
        }
        story
    }

    fn counts(&self) -> String {
        format!(
            "{:?}: {} states, {} transitions, depth {}; {} local states, {} messages",
            self.bounds,
            self.visited.len(),
            self.transitions,
            self.depth,
            self.locals.len(),
            self.packets.len(),
        )
    }
}

#[test]
fn no_state_within_bounds_is_unsafe() {
    let bounds = |[terms, proposals, crashes, writes]: [u8; 4]| Bounds {
        terms: terms.into(),
        proposals,
        crashes,
        writes: writes.into(),
        answers: false,
    };
    let all = match std::env::var("EXHAUSTIVE").as_deref() {
        Err(_) => vec![bounds([2, 0, 1, 1]), bounds([2, 1, 0, 1])],
        Ok("full") => [
            [2, 3, 0, 1],
            [2, 2, 1, 1],
            [2, 1, 2, 1],
            [2, 0, 1, 2],
            [4, 0, 0, 1],
        ]
        .map(bounds)
        .to_vec(),
        Ok(asked) => {
            let asked: Vec<u8> = asked.split(',').map(|bound| bound.parse().unwrap()).collect();
            let [terms, proposals, crashes, writes, answers] = asked[..] else {
                panic!("five bounds")
            };
            vec![Bounds {
                answers: answers > 0,
                ..bounds([terms, proposals, crashes, writes])
            }]
        }
    };
    for bounds in all {
        let mut search = Search::new(bounds);
        if let Err((what, inputs)) = search.run() {
            panic!("{bounds:?}: {what}, after{}", search.story(&inputs));
        }
        println!("{}", search.counts());
        assert!(search.both_terms, "only one term had a leader");
        assert!(search.commits >= 2, "too little was committed");
    }
}
