//! Every state that a few transactions, pushers and readers can reach on two ranges, over the real state machines, with the
//! protocol's safety checked in each.
//!
//! What may happen at any time: the next call of a client; the delivery of any message under way; its delivery while a copy stays
//! under way; the loss of all answers that a coordinator waits for, so that it sends again; a push by force of any intent that is
//! there, with recovery if the transaction is staged; a push in time; a read; a closed timestamp; a lease that moves, with its
//! summary or without a word, and then a pipelined write that was answered may be lost.
//! **Network:** a set. A message may come at any time or never: loss, reordering and delay without any bound. So a crash of a coordinator
//! needs no step of its own: nothing reaches it any more.
//!
//! **Bounds** ([`Scene`]): calls of clients, pushes, repeated deliveries, losses that are noticed, reads, moves, closed timestamps. One
//! clock, which stands still: timestamps of transactions, reads and pushes are the scene's; every push may win.
//!
//! **Reductions**, none of which loses a violation: calls that send nothing happen together with the next one; an answer that nobody
//! waits for is forgotten.
//!
//! **Checked in every state**, against what a god sees who sees all ranges at once (the commit condition of `Record::is_kept_by`):
//! - once committed, always committed, at one timestamp; once aborted, never committed; answers, pushes and recoveries agree;
//! - versions are of committed transactions, at their commit timestamp; of a committed one, every write is there;
//! - what a read saw at its timestamp, it would see always;
//! - what a committed transaction read and wrote was not written by others in between, and of a serializable one no read was;
//! - no assertion of the crate fails, and no recovery finds a contradiction.
//!
//! **Checked in a sample of states** (one of 16), once with all coordinators there and once with all of them gone: when faults stop,
//! coordinators finish, pushes get every intent out of the way, and
//! nothing is staged any more.
//!
//! `EXHAUSTIVE=full cargo test --profile sim -p corelane-txn --test exhaustive -- --nocapture` explores more than the default.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

#[path = "exhaustive/checks.rs"]
mod checks;
mod fixtures;
#[path = "exhaustive/scenes.rs"]
mod scenes;

use base::collections::{FastMap, FastSet};
use base::{ClientId, Timestamp};
use core::hash::{Hash, Hasher};
use corelane_txn::change::{Change, Condition, Must, OneShot};
use corelane_txn::coordinator::{Answer, Config, Coordinator, Effect};
use corelane_txn::error::Seen;
use corelane_txn::evaluate::Reader;
use corelane_txn::pusher::{self, Pusher};
use corelane_txn::recovery::{self, Recovery};
use corelane_txn::request::{Item, Push, Reply, Request, Verdict};
use corelane_txn::{Batch, Bytes, Epoch, Keys, Mutation, Outcome, Priority, TxnId};
use fixtures::{Range, bytes, ts};
use scenes::{Call, Scene, scenes};
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::rc::Rc;

const NOW: u64 = 40;
/// Ranges are `[a, b)` and `[b, ∞)`.
const RANGES: usize = 2;
/// What keys have at first.
const FIRST: &str = "i";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Actor {
    Coordinator(u8),
    /// The recovery that a coordinator asked for.
    Own(u8),
    Pusher(u8),
    /// The recovery that a pusher asked for.
    Recovery(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Packet {
    Ask(Actor, u8, Batch),
    Tell(Actor, Vec<Item>, corelane_txn::request::Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Input {
    Call(u8),
    Deliver(u16),
    /// It is evaluated and answered, and its entry is lost with the lease.
    DeliverAndLose(u16),
    /// And a copy stays under way.
    Repeat(u16),
    Lose(u8),
    Push(&'static str),
    PushAbove(&'static str),
    Read(u8),
    Move(u8),
    Close(u8),
}

/// A part of a state, shared, with its hash.
#[derive(Debug)]
struct Part<T>(Rc<T>, u128);

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0), self.1)
    }
}

impl<T: Hash + Clone> Part<T> {
    fn new(value: T) -> Self {
        let hash = hash_of(&value);
        Self(Rc::new(value), hash)
    }

    fn change<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R {
        let mut value = (*self.0).clone();
        let out = f(&mut value);
        *self = Self::new(value);
        out
    }
}

fn hash_of(value: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    };
    u128::from(half(1)) << 64 | u128::from(half(2))
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Client {
    at: usize,
    waits: bool,
    answer: Option<Answer>,
    /// What it has read, as values.
    read: Vec<(&'static str, Option<Bytes>)>,
    wrote: Vec<&'static str>,
    /// What a god knows.
    decided: Option<Outcome>,
}

/// A read that was served: who read what, when, and saw which value.
type Served = (Option<TxnId>, Bytes, Timestamp, Option<Bytes>);

#[derive(Debug, Clone)]
struct State {
    ranges: Vec<Part<Range>>,
    coordinators: Vec<Part<Coordinator>>,
    own: Vec<Option<Part<Recovery>>>,
    clients: Vec<Part<Client>>,
    pushers: Vec<(Part<Pusher>, Option<Part<Recovery>>)>,
    served: Part<Vec<Served>>,
    net: Vec<u16>,
    repeats: u8,
    losses: u8,
    reads: u8,
    moves: u8,
    closes: u8,
}

impl State {
    fn hash(&self) -> u128 {
        let own: Vec<_> = self.own.iter().map(|own| own.as_ref().map(|own| own.1)).collect();
        let recovery = |recovery: &Option<Part<Recovery>>| recovery.as_ref().map(|recovery| recovery.1);
        let pushers: Vec<_> = self
            .pushers
            .iter()
            .map(|(push, of)| (push.1, recovery(of)))
            .collect();
        let parts = |hashes: Vec<u128>| hashes;
        let counts = [self.repeats, self.losses, self.reads, self.moves, self.closes];
        hash_of(&(
            parts(self.ranges.iter().map(|part| part.1).collect()),
            parts(self.coordinators.iter().map(|part| part.1).collect()),
            parts(self.clients.iter().map(|part| part.1).collect()),
            (own, pushers, self.served.1, &self.net, counts),
        ))
    }
}

fn id(of: usize) -> TxnId {
    TxnId {
        client: ClientId(of as u128 + 1),
        seq: 1,
    }
}

fn value(of: usize) -> Bytes {
    bytes(&format!("t{of}"))
}

fn place(key: &[u8]) -> u8 {
    u8::from(key >= b"b".as_slice())
}

struct Search {
    scene: Scene,
    packets: Vec<Packet>,
    packet_ids: FastMap<u128, u16>,
    visited: FastSet<u128>,
    transitions: u64,
    settled: u64,
    depth: usize,
    committed: u64,
    recovered: u64,
}

type Check = Result<(), String>;

impl Search {
    fn new(scene: Scene) -> Self {
        Self {
            scene,
            packets: Vec::new(),
            packet_ids: FastMap::default(),
            visited: FastSet::default(),
            transitions: 0,
            settled: 0,
            depth: 0,
            committed: 0,
            recovered: 0,
        }
    }

    fn first(&self) -> State {
        let config = Config {
            resends_max: if self.scene.gives_up { 0 } else { 3 },
            clock_bound_ns: 0,
            ..Config::default()
        };
        let mut ranges = [Range::new("a", Some("b")), Range::new("b", None)];
        for key in ["a", "b"] {
            let tables = &mut ranges[usize::from(place(key.as_bytes()))].tables;
            tables.put(&bytes(key), ts(1), ts(1), Some(bytes(FIRST)));
        }
        let programs = self.scene.programs.iter().enumerate();
        let begin = |(of, (start, _)): (usize, &(u64, _))| {
            let what = (self.scene.isolation, Priority::Normal);
            Part::new(Coordinator::begin(config, id(of), "", what, ts(*start)))
        };
        let coordinators: Vec<_> = programs.map(begin).collect();
        State {
            ranges: ranges.map(Part::new).into(),
            own: vec![None; coordinators.len()],
            clients: vec![Part::new(Client::default()); coordinators.len()],
            coordinators,
            pushers: Vec::new(),
            served: Part::new(Vec::new()),
            net: Vec::new(),
            repeats: 0,
            losses: 0,
            reads: 0,
            moves: 0,
            closes: 0,
        }
    }

    fn packet(&mut self, packet: Packet) -> u16 {
        let next = u16::try_from(self.packets.len()).unwrap();
        let packets = &mut self.packets;
        *self.packet_ids.entry(hash_of(&packet)).or_insert_with(|| {
            packets.push(packet);
            next
        })
    }

    fn send(&mut self, state: &mut State, packet: Packet) {
        let packet = self.packet(packet);
        if let Err(at) = state.net.binary_search(&packet) {
            state.net.insert(at, packet);
        }
    }

    fn ask(&mut self, state: &mut State, from: Actor, batch: Batch) {
        for (range, part) in batch.split(place) {
            self.send(state, Packet::Ask(from, range, part));
        }
    }

    fn inputs(&self, state: &State) -> Vec<Input> {
        let mut inputs = Vec::new();
        for of in 0..state.coordinators.len() {
            let (client, coordinator) = (&state.clients[of].0, &state.coordinators[of].0);
            let at = u8::try_from(of).unwrap();
            if coordinator.is_over() {
                continue;
            }
            let calls = &self.scene.programs[of].1;
            if client.at < calls.len() && !client.waits && coordinator.is_ready() {
                inputs.push(Input::Call(at));
            }
            if client.at > 0 && state.losses < self.scene.losses {
                inputs.push(Input::Lose(at));
            }
        }
        for packet in &state.net {
            match &self.packets[usize::from(*packet)] {
                Packet::Ask(_, _, batch) => {
                    inputs.push(Input::Deliver(*packet));
                    if state.repeats < self.scene.repeats {
                        inputs.push(Input::Repeat(*packet));
                    }
                    let pipelined = |request: &(Item, Request)| {
                        matches!(request.1, Request::Write { pipelined: true, .. })
                    };
                    if state.moves < self.scene.moves && batch.requests.iter().any(pipelined) {
                        inputs.push(Input::DeliverAndLose(*packet));
                    }
                }
                Packet::Tell(..) => inputs.push(Input::Deliver(*packet)),
            }
        }
        if state.pushers.len() < usize::from(self.scene.pushes) {
            for key in ["a", "b"] {
                let range = &state.ranges[usize::from(place(key.as_bytes()))].0;
                if range.tables.intents.contains_key(key.as_bytes()) {
                    inputs.push(Input::Push(key));
                    if self.scene.pushes_above.is_some() {
                        inputs.push(Input::PushAbove(key));
                    }
                }
            }
        }
        for read in 0..self.scene.reads.len() {
            let read = u8::try_from(read).unwrap();
            if state.reads & 1 << read == 0 {
                inputs.push(Input::Read(read));
            }
        }
        for range in 0..u8::try_from(RANGES).unwrap() {
            if state.moves < self.scene.moves {
                inputs.push(Input::Move(range));
            }
            if self.scene.closes.is_some() && state.closes & 1 << range == 0 {
                inputs.push(Input::Close(range));
            }
        }
        inputs
    }

    fn after(&mut self, state: &State, input: Input) -> Result<State, String> {
        let mut to = state.clone();
        match input {
            Input::Call(of) => self.call(&mut to, usize::from(of))?,
            Input::Deliver(packet) | Input::Repeat(packet) => {
                if input == Input::Deliver(packet) {
                    to.net.retain(|known| *known != packet);
                } else {
                    to.repeats += 1;
                }
                let packet = self.packets[usize::from(packet)].clone();
                self.deliver(&mut to, packet, false)?;
            }
            Input::DeliverAndLose(packet) => {
                to.moves += 1;
                to.net.retain(|known| *known != packet);
                let packet = self.packets[usize::from(packet)].clone();
                self.deliver(&mut to, packet, true)?;
            }
            Input::Lose(of) => {
                to.losses += 1;
                let of = usize::from(of);
                let items: Vec<Item> = (0..64).collect();
                let effects = to.coordinators[of].change(|coordinator| {
                    coordinator.on_lost(&items);
                    coordinator.effects()
                });
                self.run_coordinator(&mut to, of, effects)?;
            }
            Input::Push(key) => self.push(&mut to, key, Push::Force)?,
            Input::PushAbove(key) => {
                let above = Push::Above(ts(self.scene.pushes_above.unwrap()));
                self.push(&mut to, key, above)?;
            }
            Input::Read(read) => {
                to.reads |= 1 << read;
                let (key, at) = self.scene.reads[usize::from(read)];
                self.read(&mut to, key, ts(at));
            }
            Input::Move(range) => {
                to.moves += 1;
                to.ranges[usize::from(range)].change(Range::transfer);
            }
            Input::Close(range) => {
                to.closes |= 1 << range;
                let closed = ts(self.scene.closes.unwrap());
                let key = ["a", "b"][usize::from(range)];
                // Followers may read at it.
                let tables = &to.ranges[usize::from(range)].0.tables;
                let intent = tables.intents.get(key.as_bytes());
                if intent.is_none_or(|intent| intent.ts > closed) {
                    let newest = tables.versions[key.as_bytes()].range(..=closed).next_back();
                    let value = newest.and_then(|(_, stored)| stored.value.clone());
                    note(&mut to, (None, bytes(key), closed, value));
                }
                to.ranges[usize::from(range)].change(|range| range.closed = closed);
            }
        }
        self.check(&mut to)?;
        let mut net = core::mem::take(&mut to.net);
        net.retain(|packet| self.matters(&to, *packet));
        to.net = net;
        Ok(to)
    }

    fn matters(&self, state: &State, packet: u16) -> bool {
        let Packet::Tell(actor, items, _) = &self.packets[usize::from(packet)] else {
            return true;
        };
        let mut items = items.iter();
        match actor {
            Actor::Coordinator(of) => {
                let coordinator = &state.coordinators[usize::from(*of)].0;
                items.any(|item| coordinator.awaits(*item))
            }
            Actor::Pusher(of) => items.any(|item| state.pushers[usize::from(*of)].0.0.awaits(*item)),
            Actor::Own(of) => {
                let own = state.own[usize::from(*of)].as_ref();
                own.is_some_and(|own| items.any(|item| own.0.awaits(*item)))
            }
            Actor::Recovery(of) => {
                let recovery = state.pushers[usize::from(*of)].1.as_ref();
                recovery.is_some_and(|recovery| items.any(|item| recovery.0.awaits(*item)))
            }
        }
    }

    fn call(&mut self, state: &mut State, of: usize) -> Check {
        while let Call::Write(_) = self.scene.programs[of].1[state.clients[of].0.at] {
            self.call_one(state, of)?;
        }
        self.call_one(state, of)
    }

    fn call_one(&mut self, state: &mut State, of: usize) -> Check {
        let call = self.scene.programs[of].1[state.clients[of].0.at];
        state.clients[of].change(|client| {
            client.at += 1;
            client.waits = matches!(call, Call::Read(_));
            match call {
                Call::Write(key) => client.wrote.push(key),
                Call::Shot(keys, needs) => {
                    client.wrote.extend(keys);
                    // When it commits, that is what it has seen.
                    client.read.push((needs, Some(bytes(FIRST))));
                }
                _ => {}
            }
        });
        let effects = state.coordinators[of].change(|coordinator| {
            match call {
                Call::Write(key) => coordinator.write(bytes(key), Some(value(of))),
                Call::Flush => coordinator.flush(),
                Call::Read(key) => coordinator.read(vec![bytes(key)]),
                Call::Shot(keys, needs) => {
                    let set = |key: &&str| (bytes(key), Change::Set(Some(value(of))));
                    let condition = Condition {
                        number: 0,
                        key: bytes(needs),
                        must: Must::Equal(bytes(FIRST)),
                    };
                    let shot = OneShot {
                        conditions: vec![condition],
                        changes: keys.iter().map(set).collect(),
                    };
                    coordinator.one_shot(shot, |one, other| place(one) == place(other));
                }
                Call::Beat => coordinator.tick(u64::MAX),
                Call::Commit => coordinator.commit(),
                Call::RollBack => coordinator.roll_back(),
            }
            coordinator.effects()
        });
        self.run_coordinator(state, of, effects)
    }

    fn run_coordinator(&mut self, state: &mut State, of: usize, effects: Vec<Effect>) -> Check {
        let at = u8::try_from(of).unwrap();
        for effect in effects {
            match effect {
                Effect::Send(batch) | Effect::SendAgain(batch) => {
                    self.ask(state, Actor::Coordinator(at), batch);
                }
                Effect::Recover(record) => {
                    let mut recovery = Recovery::new(*record);
                    let effects = recovery.effects();
                    state.own[of] = Some(Part::new(recovery));
                    self.run_recovery(state, Actor::Own(at), effects)?;
                }
                Effect::Answer(Answer::Values(values)) => {
                    let Call::Read(key) = self.scene.programs[of].1[state.clients[of].0.at - 1] else {
                        return Err("values nobody asked for".to_owned());
                    };
                    state.clients[of].change(|client| {
                        client.waits = false;
                        client.read.push((key, values[0].clone()));
                    });
                }
                Effect::Answer(answer) => {
                    if state.clients[of].0.answer.is_some() {
                        return Err(format!("t{of} is answered twice"));
                    }
                    let decided = match &answer {
                        Answer::Committed { ts, .. } => Some(Outcome::Committed { ts: *ts }),
                        Answer::Failed(_) => Some(Outcome::Aborted),
                        _ => None,
                    };
                    state.clients[of].change(|client| client.answer = Some(answer));
                    if let Some(outcome) = decided {
                        // What a god sees may be new in this very step.
                        self.check(state)?;
                        self.told(state, of, outcome, "the client")?;
                    }
                }
                Effect::Over => {}
            }
        }
        Ok(())
    }

    /// Somebody was told an outcome.
    fn told(&self, state: &mut State, of: usize, outcome: Outcome, whom: &str) -> Check {
        let decided = state.clients[of].0.decided;
        let is_read_only = state.clients[of].0.wrote.is_empty();
        match (decided, outcome) {
            (None, Outcome::Aborted) => {
                state.clients[of].change(|client| client.decided = Some(outcome));
                Ok(())
            }
            (None, Outcome::Committed { .. }) if is_read_only => Ok(()),
            (Some(known), told) if known == told => Ok(()),
            (known, told) => Err(format!("{whom} hears of t{of} {told:?}, and it is {known:?}")),
        }
    }

    fn run_recovery(&mut self, state: &mut State, actor: Actor, effects: Vec<recovery::Effect>) -> Check {
        for effect in effects {
            match effect {
                recovery::Effect::Send(batch) | recovery::Effect::SendAgain(batch) => {
                    self.ask(state, actor, batch);
                }
                recovery::Effect::Contradiction(refusal) => return Err(refusal.to_string()),
                recovery::Effect::Done(outcome) => {
                    self.recovered += 1;
                    match actor {
                        Actor::Own(of) => {
                            let of = usize::from(of);
                            if let Some(outcome) = outcome {
                                self.check(state)?;
                                self.told(state, of, outcome, "its recovery")?;
                            }
                            let effects = state.coordinators[of].change(|coordinator| {
                                coordinator.on_recovered(outcome);
                                coordinator.effects()
                            });
                            state.own[of] = None;
                            self.run_coordinator(state, of, effects)?;
                        }
                        Actor::Recovery(of) => {
                            let effects = state.pushers[usize::from(of)].0.change(|pusher| {
                                pusher.on_recovered();
                                pusher.effects()
                            });
                            state.pushers[usize::from(of)].1 = None;
                            self.run_pusher(state, of, effects)?;
                        }
                        Actor::Coordinator(_) | Actor::Pusher(_) => unreachable!("not a recovery"),
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, state: &mut State, key: &'static str, push: Push) -> Check {
        let range = &state.ranges[usize::from(place(key.as_bytes()))].0;
        let intent = &range.tables.intents[key.as_bytes()];
        let seen = Seen {
            who: intent.who.clone(),
            epoch: intent.epoch,
            ts: intent.ts,
            // Nobody was heard of lately.
            local_ts: Timestamp::ZERO,
        };
        let mut pusher = Pusher::new(seen, Some(Keys::One(bytes(key))), None, push);
        let effects = pusher.effects();
        state.pushers.push((Part::new(pusher), None));
        let at = u8::try_from(state.pushers.len() - 1).unwrap();
        self.run_pusher(state, at, effects)
    }

    fn run_pusher(&mut self, state: &mut State, at: u8, effects: Vec<pusher::Effect>) -> Check {
        for effect in effects {
            match effect {
                pusher::Effect::Send(batch) | pusher::Effect::SendAgain(batch) => {
                    self.ask(state, Actor::Pusher(at), batch);
                }
                pusher::Effect::Recover(record) => {
                    let mut recovery = Recovery::new(*record);
                    let effects = recovery.effects();
                    state.pushers[usize::from(at)].1 = Some(Part::new(recovery));
                    self.run_recovery(state, Actor::Recovery(at), effects)?;
                }
                pusher::Effect::Waits
                | pusher::Effect::Left
                | pusher::Effect::Done(_)
                | pusher::Effect::Forgotten => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, state: &mut State, key: &'static str, at: Timestamp) {
        let range = usize::from(place(key.as_bytes()));
        let seen = state.ranges[range].change(|range| {
            let context = range.context(ts(NOW), 0);
            let reader = Reader {
                who: None,
                epoch: Epoch(0),
                read_ts: at,
                limit: at,
                ignored: &[],
            };
            let (tables, cache) = (&range.tables, &mut range.cache);
            let read =
                corelane_txn::evaluate::get(tables, cache, &context, &reader, key.as_bytes(), |value| {
                    value.map(Bytes::from)
                });
            read.unwrap().ok()
        });
        if let Some(value) = seen {
            note(state, (None, bytes(key), at, value));
        }
    }

    fn deliver(&mut self, state: &mut State, packet: Packet, loses: bool) -> Check {
        match packet {
            Packet::Ask(from, at, batch) => self.evaluate(state, from, usize::from(at), &batch, loses),
            Packet::Tell(Actor::Coordinator(of), items, answer) => {
                let of = usize::from(of);
                let effects = state.coordinators[of].change(|coordinator| {
                    coordinator.on_answer(&items, answer);
                    // How many wait makes no difference to what it does.
                    drop(coordinator.queues());
                    coordinator.effects()
                });
                self.run_coordinator(state, of, effects)
            }
            Packet::Tell(actor @ Actor::Own(of), items, answer) => {
                let Some(own) = &mut state.own[usize::from(of)] else {
                    return Ok(());
                };
                let effects = own.change(|recovery| {
                    recovery.on_answer(&items, answer);
                    recovery.effects()
                });
                self.run_recovery(state, actor, effects)
            }
            Packet::Tell(Actor::Pusher(of), items, answer) => {
                let effects = state.pushers[usize::from(of)].0.change(|pusher| {
                    pusher.on_answer(&items, answer);
                    pusher.effects()
                });
                self.run_pusher(state, of, effects)
            }
            Packet::Tell(actor @ Actor::Recovery(of), items, answer) => {
                let Some(recovery) = &mut state.pushers[usize::from(of)].1 else {
                    return Ok(());
                };
                let effects = recovery.change(|recovery| {
                    recovery.on_answer(&items, answer);
                    recovery.effects()
                });
                self.run_recovery(state, actor, effects)
            }
        }
    }

    fn evaluate(&mut self, state: &mut State, from: Actor, at: usize, batch: &Batch, loses: bool) -> Check {
        let (answer, mutations) = state.ranges[at].change(|range| {
            let context = range.context(ts(NOW), 0);
            let (answer, mutations) = range.evaluate(&context, batch);
            if loses {
                range.take_over(ts(NOW));
            }
            (answer, mutations)
        });
        if let Ok(replies) = &answer {
            for (item, reply) in replies {
                let request = batch.requests.iter().find(|(known, _)| known == item).unwrap();
                self.replied(state, batch, &request.1, reply)?;
            }
        }
        if !loses && !mutations.is_empty() {
            state.ranges[at].change(|range| {
                for mutation in &mutations {
                    range.tables.apply(mutation.clone());
                }
            });
            // Versions are checked by what they are.
            let made =
                |mutation: &Mutation| matches!(mutation, Mutation::Put { .. } | Mutation::Commit { .. });
            if mutations.iter().any(made) {
                self.check(state)?;
            }
        }
        let items = batch.requests.iter().map(|(item, _)| *item).collect();
        self.send(state, Packet::Tell(from, items, answer));
        Ok(())
    }

    /// Checks an answer that others will believe, and notes reads.
    fn replied(&mut self, state: &mut State, batch: &Batch, request: &Request, reply: &Reply) -> Check {
        if let (Request::Get { key }, Reply::Value(seen)) = (request, reply) {
            let header = batch.header.as_ref().unwrap();
            let own = &state.ranges[usize::from(place(key))].0.tables.intents;
            if own.get(key).is_none_or(|intent| intent.who.id != header.who.id) {
                let reader = Some(header.who.id);
                note(state, (reader, key.clone(), header.read_ts, seen.clone()));
            }
        }
        if let Reply::Pushed(corelane_txn::request::Pushed::Ended { verdict, .. }) = reply
            && let Request::Push { pushee, .. } = request
        {
            let of = usize::try_from(pushee.who.id.client.0 - 1).unwrap();
            let outcome = match verdict {
                Verdict::Committed { ts, .. } | Verdict::Settled { ts } => Outcome::Committed { ts: *ts },
                _ => Outcome::Aborted,
            };
            // An abort is true only when it is applied, which is in the same step.
            if outcome != Outcome::Aborted || state.clients[of].0.decided.is_some() {
                self.told(state, of, outcome, "a push")?;
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), (String, Vec<Input>)> {
        let first = self.first();
        self.visited.insert(first.hash());
        let mut queue = VecDeque::from([(first, 0usize)]);
        // For each state in the order of its discovery: where it came from.
        let mut from: Vec<(u32, Input)> = vec![(0, Input::Move(0))];
        let path = |from: &[(u32, Input)], mut at: usize, last: Option<Input>| {
            let mut inputs: Vec<Input> = last.into_iter().collect();
            while at > 0 {
                inputs.push(from[at].1);
                at = from[at].0 as usize;
            }
            inputs.reverse();
            inputs
        };
        let mut depths = vec![0u16];
        while let Some((state, at)) = queue.pop_front() {
            for input in self.inputs(&state) {
                self.transitions += 1;
                let done =
                    std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| self.after(&state, input)));
                let to = match done {
                    Ok(Ok(to)) => to,
                    Ok(Err(what)) => return Err((what, path(&from, at, Some(input)))),
                    Err(panic) => return Err((text(&*panic), path(&from, at, Some(input)))),
                };
                let hash = to.hash();
                if !self.visited.insert(hash) {
                    continue;
                }
                from.push((u32::try_from(at).unwrap(), input));
                let depth = depths[at] + 1;
                depths.push(depth);
                self.depth = self.depth.max(depth.into());
                let here = from.len() - 1;
                if hash % 16 == 0 {
                    let settled = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
                        self.settle(&to, true)?;
                        self.settle(&to, false)
                    }));
                    match settled {
                        Ok(Ok(())) => {}
                        Ok(Err(what)) => return Err((format!("afterwards {what}"), path(&from, here, None))),
                        Err(panic) => return Err((text(&*panic), path(&from, here, None))),
                    }
                }
                queue.push_back((to, here));
                if from.len().is_multiple_of(200_000) {
                    println!("{}: {} states ...", self.scene.name, from.len());
                }
            }
        }
        Ok(())
    }

    fn story(&self, inputs: &[Input]) -> String {
        let mut story = String::new();
        for input in inputs {
            let what = match input {
                Input::Deliver(packet) | Input::Repeat(packet) | Input::DeliverAndLose(packet) => {
                    let packet = &self.packets[usize::from(*packet)];
                    match packet {
                        Packet::Ask(from, to, batch) => {
                            let requests: Vec<_> =
                                batch.requests.iter().map(|(_, request)| request).collect();
                            let head = batch.header.as_ref().map(|head| (head.read_ts, head.write_ts));
                            format!("{input:?} range {to} is asked by {from:?} {head:?}: {requests:?}")
                        }
                        Packet::Tell(to, _, answer) => format!("{to:?} is told {answer:?}"),
                    }
                }
                other => format!("{other:?}"),
            };
            story += &format!("\n  {what}");
        }
        story
    }
}

fn note(state: &mut State, served: Served) {
    if !state.served.0.contains(&served) {
        state.served.change(|all| {
            all.push(served);
            all.sort();
        });
    }
}

fn text(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panics")
        .to_owned()
}

#[test]
fn no_state_within_bounds_is_unsafe() {
    let full = std::env::var("EXHAUSTIVE").as_deref() == Ok("full");
    let only = std::env::var("SCENE").ok();
    for (scene, is_default) in scenes() {
        let is_asked = only
            .as_ref()
            .map_or(full || is_default, |only| scene.name == only);
        if !is_asked {
            continue;
        }
        let mut search = Search::new(scene.clone());
        // What panics in the search says so in the end.
        std::panic::set_hook(Box::new(|_| {}));
        let found = search.run();
        drop(std::panic::take_hook());
        if let Err((what, inputs)) = found {
            panic!("{}: {what}, after{}", scene.name, search.story(&inputs));
        }
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            scene.name,
            search.visited.len(),
            search.transitions,
            search.depth,
            search.packets.len(),
            search.settled
        );
        let commits = scene.programs.iter().any(|(_, calls)| {
            calls
                .iter()
                .any(|call| matches!(call, Call::Commit | Call::Shot(..)))
        });
        assert!(
            !commits || search.committed > 0,
            "{}: nothing was committed",
            scene.name
        );
    }
}
