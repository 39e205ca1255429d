//! A cluster of the crate's state machines: ranges, transactions, pushes, and messages under way that the test delivers, repeats,
//! or loses. No time passes by itself.

#![allow(dead_code, reason = "each test uses a part")]

use crate::fixtures::{Range, bytes, ts};
use base::ClientId;
use corelane_txn::coordinator::{Answer, Config, Coordinator, Effect};
use corelane_txn::error::Seen;
use corelane_txn::locks::{Ask, Asked, Strength};
use corelane_txn::pusher::{self, Pusher};
use corelane_txn::recovery::{self, Recovery};
use corelane_txn::request::{self, Item, Push, Request, Verdict};
use corelane_txn::{Batch, Isolation, Keys, Mutation, Priority, Refusal, TxnId};
use std::collections::BTreeMap;

/// Who sends and is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Actor {
    Txn(usize),
    /// The recovery that a transaction asked for.
    Own(usize),
    Push(usize),
    /// The recovery that a push asked for.
    Recovery(usize),
}

/// A message under way.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Ask(Actor, Batch),
    Tell(Actor, Vec<Item>, request::Answer),
}

pub(crate) struct Txn {
    pub(crate) coordinator: Coordinator,
    pub(crate) own: Option<Recovery>,
    pub(crate) alive: bool,
}

pub(crate) struct Pushing {
    pub(crate) pusher: Pusher,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) verdict: Option<Verdict>,
}

/// What somebody outside would notice.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A range has evaluated a batch.
    Evaluated(Actor, usize, Batch, request::Answer),
    /// A request waits for another transaction's intent, and is evaluated again when the test says so.
    Blocked(Actor, Box<Seen>, Keys),
    Answer(usize, Answer),
    Over(usize),
    Waits(usize),
    Pushed(usize, Verdict),
    Recovers(Actor),
    Contradiction(String),
}

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) now: u64,
    pub(crate) expiry_ns: u64,
    pub(crate) ranges: Vec<Range>,
    pub(crate) txns: BTreeMap<usize, Txn>,
    pub(crate) pushes: BTreeMap<usize, Pushing>,
    pub(crate) net: Vec<Packet>,
    pub(crate) blocked: Vec<(Actor, Batch, Box<Seen>, Keys)>,
    pub(crate) events: Vec<Event>,
    /// Which versions were made, by whom.
    pub(crate) made: Vec<Mutation>,
}

pub(crate) fn id(of: usize) -> TxnId {
    TxnId {
        client: ClientId((of as u128) << 96),
        seq: 1,
    }
}

impl World {
    pub(crate) fn new(cuts: &[&str]) -> Self {
        let starts = core::iter::once("").chain(cuts.iter().copied());
        let ends = cuts.iter().map(|cut| Some(*cut)).chain([None]);
        Self {
            config: Config {
                clock_bound_ns: 0,
                ..Config::default()
            },
            now: 10,
            expiry_ns: 1000,
            ranges: starts
                .zip(ends)
                .map(|(start, end)| Range::new(start, end))
                .collect(),
            txns: BTreeMap::new(),
            pushes: BTreeMap::new(),
            net: Vec::new(),
            blocked: Vec::new(),
            events: Vec::new(),
            made: Vec::new(),
        }
    }

    pub(crate) fn place(&self, key: &[u8]) -> usize {
        let before = |range: &&Range| *range.tables.start <= *key;
        self.ranges.iter().take_while(before).count() - 1
    }

    pub(crate) fn begin(&mut self, of: usize, name: &str, what: (Isolation, Priority)) {
        let coordinator = Coordinator::begin(self.config, id(of), name, what, ts(self.now));
        self.adopt(of, coordinator);
    }

    pub(crate) fn adopt(&mut self, of: usize, coordinator: Coordinator) {
        let txn = Txn {
            coordinator,
            own: None,
            alive: true,
        };
        self.txns.insert(of, txn);
    }

    /// Does something to a transaction's coordinator.
    pub(crate) fn call(&mut self, of: usize, f: impl FnOnce(&mut Coordinator)) {
        let txn = self.txns.get_mut(&of).expect("it began");
        if txn.alive {
            f(&mut txn.coordinator);
            self.run_txn(of);
        }
    }

    fn run_txn(&mut self, of: usize) {
        let effects = self.txns.get_mut(&of).expect("it began").coordinator.effects();
        for effect in effects {
            match effect {
                Effect::Send(batch) | Effect::SendAgain(batch) => self.send(Actor::Txn(of), batch),
                Effect::Recover(record) => {
                    self.events.push(Event::Recovers(Actor::Own(of)));
                    self.txns.get_mut(&of).expect("it began").own = Some(Recovery::new(*record));
                    self.run_recovery(Actor::Own(of));
                }
                Effect::Answer(answer) => self.events.push(Event::Answer(of, answer)),
                Effect::Over => self.events.push(Event::Over(of)),
            }
        }
    }

    fn recovery(&mut self, actor: Actor) -> Option<&mut Recovery> {
        match actor {
            Actor::Own(of) => self.txns.get_mut(&of)?.own.as_mut(),
            Actor::Recovery(of) => self.pushes.get_mut(&of)?.recovery.as_mut(),
            Actor::Txn(_) | Actor::Push(_) => None,
        }
    }

    fn run_recovery(&mut self, actor: Actor) {
        let effects = self.recovery(actor).map(Recovery::effects).unwrap_or_default();
        for effect in effects {
            match effect {
                recovery::Effect::Send(batch) | recovery::Effect::SendAgain(batch) => self.send(actor, batch),
                recovery::Effect::Contradiction(refusal) => {
                    self.events.push(Event::Contradiction(refusal.to_string()));
                }
                recovery::Effect::Done(outcome) => match actor {
                    Actor::Own(of) => {
                        self.txns.get_mut(&of).expect("it began").own = None;
                        self.call(of, |coordinator| coordinator.on_recovered(outcome));
                    }
                    Actor::Recovery(of) => {
                        let pushing = self.pushes.get_mut(&of).expect("it pushes");
                        pushing.recovery = None;
                        pushing.pusher.on_recovered();
                        self.run_push(of);
                    }
                    Actor::Txn(_) | Actor::Push(_) => unreachable!("not a recovery"),
                },
            }
        }
    }

    /// Pushes whoever has an intent on `key`; returns whether anybody has.
    pub(crate) fn push(&mut self, number: usize, key: &str, by: Option<usize>, push: Push) -> bool {
        let place = self.place(key.as_bytes());
        let Some(intent) = self.ranges[place].tables.intents.get(key.as_bytes()) else {
            return false;
        };
        let seen = Seen {
            who: intent.who.clone(),
            epoch: intent.epoch,
            ts: intent.ts,
            local_ts: intent.local_ts,
        };
        self.push_seen(number, seen, Some(Keys::One(bytes(key))), by, push);
        true
    }

    pub(crate) fn push_seen(
        &mut self,
        number: usize,
        seen: Seen,
        keys: Option<Keys>,
        by: Option<usize>,
        push: Push,
    ) {
        let who = by.map(|by| self.txns[&by].coordinator.who().clone());
        let pushing = Pushing {
            pusher: Pusher::new(seen, keys, who, push),
            recovery: None,
            verdict: None,
        };
        self.pushes.insert(number, pushing);
        self.run_push(number);
    }

    pub(crate) fn push_again(&mut self, number: usize) {
        self.pushes.get_mut(&number).expect("it pushes").pusher.again();
        self.run_push(number);
    }

    fn run_push(&mut self, of: usize) {
        let effects = self.pushes.get_mut(&of).expect("it pushes").pusher.effects();
        for effect in effects {
            match effect {
                pusher::Effect::Send(batch) | pusher::Effect::SendAgain(batch) => {
                    self.send(Actor::Push(of), batch);
                }
                pusher::Effect::Recover(record) => {
                    self.events.push(Event::Recovers(Actor::Recovery(of)));
                    self.pushes.get_mut(&of).expect("it pushes").recovery = Some(Recovery::new(*record));
                    self.run_recovery(Actor::Recovery(of));
                }
                pusher::Effect::Waits => self.events.push(Event::Waits(of)),
                pusher::Effect::Left | pusher::Effect::Forgotten => {}
                pusher::Effect::Done(verdict) => {
                    self.pushes.get_mut(&of).expect("it pushes").verdict = Some(verdict.clone());
                    self.events.push(Event::Pushed(of, verdict));
                }
            }
        }
    }

    fn send(&mut self, from: Actor, batch: Batch) {
        let places: Vec<_> = self
            .ranges
            .iter()
            .map(|range| range.tables.start.clone())
            .collect();
        let place = |key: &[u8]| places.iter().take_while(|start| ***start <= *key).count() - 1;
        for (_, part) in batch.split(place) {
            self.net.push(Packet::Ask(from, part));
        }
    }

    /// Delivers a message. One that meets another transaction's intent is kept.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Ask(from, batch) => {
                let (at, answer) = self.evaluate(from, &batch);
                let is_txn = matches!(from, Actor::Txn(_));
                if let (Err((_, Refusal::Conflict { conflict, seen })), true) = (&answer, is_txn) {
                    let (seen, keys) = (Box::new(seen.clone()), Keys::One(conflict.key.clone()));
                    self.events.push(Event::Blocked(from, seen.clone(), keys.clone()));
                    self.blocked.push((from, batch, seen, keys));
                    return;
                }
                let items = batch.requests.iter().map(|(item, _)| *item).collect();
                self.events
                    .push(Event::Evaluated(from, at, batch, answer.clone()));
                self.net.push(Packet::Tell(from, items, answer));
            }
            Packet::Tell(to, items, answer) => self.tell(to, &items, answer),
        }
    }

    /// A request comes to a range that does not have its keys, as after a split or by an old map.
    pub(crate) fn misroute(&mut self, from: Actor, batch: &Batch) {
        let sender = batch.header.as_ref().map(|header| &header.who);
        let (item, first) = batch.requests.first().expect("a batch asks something");
        let key = first.key(sender).into();
        let items = batch.requests.iter().map(|(item, _)| *item).collect();
        let answer = Err((*item, Refusal::WrongRange { key }));
        self.net.push(Packet::Tell(from, items, answer));
    }

    /// Evaluates a batch and applies what comes of it.
    pub(crate) fn evaluate(&mut self, from: Actor, batch: &Batch) -> (usize, request::Answer) {
        let first = &batch.requests.first().expect("a batch asks something").1;
        let sender = batch.header.as_ref().map(|header| &header.who);
        let at = self.place(first.key(sender));
        let _ = from;
        let mut context = self.ranges[at].context(ts(self.now), self.expiry_ns);
        if let Actor::Txn(of) = from
            && let Some(txn) = self.txns.get(&of)
        {
            context.observed = txn.coordinator.observed(base::NodeId(at as u64));
        }
        let (answer, mutations) = self.ranges[at].evaluate(&context, batch);
        for mutation in mutations {
            self.ranges[at].tables.apply(mutation);
        }
        let locks = &mut self.ranges[at].locks;
        let who = batch.header.as_ref().map(|header| header.who.clone());
        for (key, _, keeps) in batch.asks().into_iter().filter(|_| answer.is_ok()) {
            // All are shared, for nobody waits here.
            let ask = Ask {
                waiter: 0,
                seen: Seen {
                    who: who.clone().expect("a transaction asks"),
                    epoch: corelane_txn::Epoch(0),
                    ts: ts(0),
                    local_ts: ts(self.now),
                },
                strength: Strength::Shared,
                keeps,
                yields: false,
                deadline_ns: 0,
            };
            assert_eq!(locks.ask(&key, ask, 0), Asked::Free);
        }
        locks.on_answer(batch, &answer);
        (at, answer)
    }

    pub(crate) fn tell(&mut self, to: Actor, items: &[Item], answer: request::Answer) {
        match to {
            Actor::Txn(of) => self.call(of, |coordinator| coordinator.on_answer(items, answer)),
            Actor::Push(of) => {
                let Some(pushing) = self.pushes.get_mut(&of) else {
                    return;
                };
                pushing.pusher.on_answer(items, answer);
                self.run_push(of);
            }
            Actor::Own(_) | Actor::Recovery(_) => {
                if let Some(recovery) = self.recovery(to) {
                    recovery.on_answer(items, answer);
                    self.run_recovery(to);
                }
            }
        }
    }

    /// No answer to what is outstanding will come.
    pub(crate) fn lose(&mut self, to: Actor) {
        let all: Vec<Item> = (0..10_000).collect();
        match to {
            Actor::Txn(of) => self.call(of, |coordinator| coordinator.on_lost(&all)),
            Actor::Push(of) => {
                let Some(pushing) = self.pushes.get_mut(&of) else {
                    return;
                };
                pushing.pusher.on_lost(&all);
                self.run_push(of);
            }
            Actor::Own(_) | Actor::Recovery(_) => {
                if let Some(recovery) = self.recovery(to) {
                    recovery.on_lost(&all);
                    self.run_recovery(to);
                }
            }
        }
    }

    /// Evaluates again what waits for intents; what still does, goes on to wait without a word.
    pub(crate) fn unblock(&mut self) {
        for (from, batch, seen, keys) in core::mem::take(&mut self.blocked) {
            let at = self.place(keys.start());
            let intent = self.ranges[at].tables.intents.get(keys.start());
            let still = intent.is_some_and(|intent| intent.who.id == seen.who.id && intent.ts == seen.ts);
            if still {
                self.blocked.push((from, batch, seen, keys));
            } else {
                self.net.push(Packet::Ask(from, batch));
            }
        }
    }

    /// Delivers all messages, in order, until nothing is under way.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            if self.net.is_empty() {
                self.unblock();
            }
            if self.net.is_empty() {
                return;
            }
            let packet = self.net.remove(0);
            self.deliver(packet);
        }
        panic!("messages without an end");
    }

    pub(crate) fn stop(&mut self, of: usize) {
        let txn = self.txns.get_mut(&of).expect("it began");
        txn.alive = false;
        txn.own = None;
        self.blocked.retain(|(from, ..)| *from != Actor::Txn(of));
    }

    /// Cuts the range of `key` in two there. Both have the cache, and remember what the one did.
    pub(crate) fn split(&mut self, key: &str) {
        let at = self.place(key.as_bytes());
        self.ranges[at].lose_locks();
        let mut right = self.ranges[at].clone();
        let key = bytes(key);
        let left = &mut self.ranges[at].tables;
        left.end = Some(key.clone());
        left.versions.retain(|known, _| *known < key);
        left.intents.retain(|known, _| *known < key);
        left.records.retain(|_, record| record.who.anchor < key);
        right.tables.start = key.clone();
        right.tables.versions.retain(|known, _| *known >= key);
        right.tables.intents.retain(|known, _| *known >= key);
        right.tables.records.retain(|_, record| record.who.anchor >= key);
        self.ranges.insert(at + 1, right);
    }

    /// Makes one range of the one of `key` and the one before.
    pub(crate) fn merge(&mut self, key: &str) {
        let at = self.place(key.as_bytes());
        let right = self.ranges.remove(at);
        let left = &mut self.ranges[at - 1];
        left.tables.end = right.tables.end;
        left.tables.versions.extend(right.tables.versions);
        left.tables.intents.extend(right.tables.intents);
        left.tables.records.extend(right.tables.records);
        left.tables.memory.extend(right.tables.memory);
        left.cache.raise(right.cache.summary());
        left.closed = left.closed.max(right.closed);
        left.lease_start = ts(self.now);
        left.lose_locks();
    }
}

/// Whether a request is of those that a pipelined answer may be lost of.
pub(crate) fn is_pipelined(request: &Request) -> bool {
    matches!(request, Request::Write { pipelined: true, .. })
}
