//! Random schedules: many transactions over a few ranges, with messages that are lost, repeated and reordered, coordinators that stop,
//! leases that move, ranges that split and merge, timestamps that close; then calm, in which everything ends; then the history is checked.
//!
//! Workloads: lists that are appended to, a bank whose total every audit must see, pairs for write skew, and registers that are put, and
//! deleted by spans; by reads and writes, by changes, and by one-shot transactions with conditions. Isolation is drawn for each
//! transaction, or for the whole run.
//!
//! `SEEDS=A..B cargo test -p corelane-txn --test schedules -- --nocapture` runs others than the default seeds; with `TRACE=1` everything
//! is printed.

#[path = "schedules/checker.rs"]
mod checker;
#[path = "schedules/end.rs"]
mod end;
mod fixtures;
#[path = "schedules/shots.rs"]
mod shots;
#[path = "schedules/view.rs"]
mod view;
mod world;

use base::Prng;
use corelane_txn::change::{Change, OneShot};
use corelane_txn::coordinator::{Answer, Savepoint};
use corelane_txn::deadlock::{Edge, Found, PushQueue};
use corelane_txn::error::TxnError;
use corelane_txn::locks::Strength;
use corelane_txn::request::{Push, Request};
use corelane_txn::{Batch, Bytes, Isolation, Keys, Priority};
use fixtures::{bytes, ts};
use std::collections::BTreeMap;
use view::View;
use world::{Actor, Event, Packet, World, id};

const LISTS: [&str; 6] = ["a1", "a2", "h1", "h2", "s1", "s2"];
const ACCOUNTS: [&str; 4] = ["b1", "c1", "i1", "t1"];
/// Keys that are put, and deleted by spans.
const REGISTERS: [&str; 4] = ["d1", "d2", "e1", "f1"];
const SPANS: [(&str, &str); 3] = [("d", "e"), ("d", "g"), ("d2", "f")];
const TOTAL: i64 = 400;

#[derive(Debug, Clone)]
enum Op {
    Append(&'static str),
    Read(Vec<&'static str>),
    Scan(&'static str, &'static str),
    Transfer(&'static str, &'static str),
    Audit,
    Put(&'static str),
    Lock(&'static str),
    Delete(&'static str, &'static str),
    Change(&'static str, Change),
    Shot(OneShot),
    Flush,
    Savepoint,
    Return,
    Restart,
    Beat,
    Commit,
    RollBack,
}

/// What a client knows of its transaction.
struct Client {
    isolation: Isolation,
    ops: Vec<Op>,
    waits: bool,
    asked: Vec<&'static str>,
    /// The span that is being deleted.
    deletes: Option<Keys>,
    /// What is being changed, and by what.
    changes: Option<(&'static str, Change)>,
    /// It is this one-shot transaction.
    shot: Option<OneShot>,
    /// It has deleted one, which reads it.
    has_deleted: bool,
    reads: Vec<(String, String)>,
    writes: BTreeMap<String, String>,
    saved: Option<(Savepoint, BTreeMap<String, String>)>,
    audit: Option<i64>,
    answer: Option<Answer>,
}

#[derive(Default, Debug)]
struct Counts {
    committed: u64,
    failed: u64,
    unknown: u64,
    recoveries: u64,
    deadlocks: u64,
    shots: u64,
    unmet: u64,
}

struct Run {
    prng: Prng,
    world: World,
    clients: BTreeMap<usize, Client>,
    next: usize,
    next_push: usize,
    /// The transactions that a push is by and against.
    pushing: BTreeMap<usize, (Option<usize>, usize)>,
    queue: PushQueue<usize>,
    isolation: Option<Isolation>,
    counts: Counts,
    faults: f64,
    /// What one-shot transactions and changes are drawn from.
    shots: Prng,
    view: View,
    /// Everything is printed.
    is_told: bool,
}

fn of(id: corelane_txn::TxnId) -> usize {
    usize::try_from(id.client.0 >> 96).expect("small")
}

fn text(value: Option<&Bytes>) -> String {
    value
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .unwrap_or_default()
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let cuts: &[&str] = [&["m"][..], &["g", "p"], &["b", "g", "p"]][prng.index(3)];
        let mut world = World::new(cuts);
        world.expiry_ns = 100_000;
        world.config.resends_max = [0, 1, 6][prng.index(3)];
        world.config.refreshes_max = 4;
        world.config.promises_max = [1, 2, 1000][prng.index(3)];
        world.config.reads_max = [2, 1000][prng.index(2)];
        for key in LISTS {
            let at = world.place(key.as_bytes());
            world.ranges[at]
                .tables
                .put(&bytes(key), ts(1), ts(1), Some(bytes("")));
        }
        for key in REGISTERS {
            let at = world.place(key.as_bytes());
            world.ranges[at]
                .tables
                .put(&bytes(key), ts(1), ts(1), Some(bytes("first")));
        }
        for key in ACCOUNTS {
            let at = world.place(key.as_bytes());
            world.ranges[at]
                .tables
                .put(&bytes(key), ts(1), ts(1), Some(bytes("100")));
        }
        let isolation = [None, Some(Isolation::Snapshot), Some(Isolation::Serializable)][prng.index(3)];
        let faults = [0.0, 0.02, 0.1][prng.index(3)];
        Self {
            prng,
            world,
            clients: BTreeMap::new(),
            next: 1,
            next_push: 1,
            pushing: BTreeMap::new(),
            queue: PushQueue::new(1000),
            isolation,
            counts: Counts::default(),
            faults,
            shots: Prng::new(seed ^ 0x5_0075),
            view: View::default(),
            is_told: std::env::var("TRACE").is_ok(),
        }
    }

    fn key(&mut self) -> &'static str {
        LISTS[self.prng.index(LISTS.len())]
    }

    fn begin(&mut self) {
        let number = self.next;
        self.next += 1;
        let isolation = self.isolation.unwrap_or_else(|| {
            [
                Isolation::Snapshot,
                Isolation::Serializable,
                Isolation::StrictSerializable,
            ][self.prng.index(3)]
        });
        if self.shots.chance(0.3) {
            let ops = self.draw_shot(number);
            return self.begin_with(number, (isolation, Priority::Normal), ops);
        }
        let priority = [
            Priority::Normal,
            Priority::Normal,
            Priority::Normal,
            Priority::High,
        ][self.prng.index(4)];
        let mut ops = Vec::new();
        match self.prng.below(12) {
            10 | 11 => {
                for _ in 0..self.prng.between(1, 4) {
                    let key = REGISTERS[self.prng.index(REGISTERS.len())];
                    let (from, to) = SPANS[self.prng.index(SPANS.len())];
                    ops.push(match self.prng.below(9) {
                        8 => Op::Lock(key),
                        0 | 1 => Op::Delete(from, to),
                        2 => Op::Read(vec![key]),
                        3 => Op::Flush,
                        4 => Op::Savepoint,
                        5 => Op::Return,
                        _ => Op::Put(key),
                    });
                }
            }
            0..5 => {
                for _ in 0..self.prng.between(1, 3) {
                    let key = self.key();
                    match self.prng.below(7) {
                        6 => ops.push(Op::Lock(key)),
                        0 => {
                            let other = self.key();
                            ops.push(Op::Read(vec![key, other]));
                        }
                        1 => ops.push(Op::Scan("h", "i")),
                        2 => ops.push(Op::Flush),
                        3 if self.prng.chance(0.3) => {
                            ops.extend([Op::Savepoint, Op::Append(key)]);
                            if self.prng.chance(0.5) {
                                ops.push(Op::Flush);
                            }
                            ops.push(Op::Return);
                        }
                        4 => ops.push(Op::Beat),
                        5 if self.prng.chance(0.2) => {
                            ops.push(Op::Append(key));
                            if self.prng.chance(0.5) {
                                ops.push(Op::Flush);
                            }
                            ops.push(Op::Restart);
                        }
                        _ => {}
                    }
                    let key = self.key();
                    ops.push(Op::Append(key));
                }
            }
            5..8 => {
                let from = self.prng.index(ACCOUNTS.len());
                let to = (from + 1 + self.prng.index(ACCOUNTS.len() - 1)) % ACCOUNTS.len();
                ops.push(Op::Transfer(ACCOUNTS[from], ACCOUNTS[to]));
            }
            8 => ops.push(Op::Audit),
            _ => {
                // Reads one list and writes the other: write skew, when another one does it the other way round.
                let (one, other) = if self.prng.chance(0.5) {
                    ("a1", "s1")
                } else {
                    ("s1", "a1")
                };
                ops.extend([Op::Read(vec![one]), Op::Append(other)]);
            }
        }
        ops.push(if self.prng.chance(0.05) {
            Op::RollBack
        } else {
            Op::Commit
        });
        self.begin_with(number, (isolation, priority), ops);
    }

    fn begin_with(&mut self, number: usize, (isolation, priority): (Isolation, Priority), mut ops: Vec<Op>) {
        let shot = ops.iter().find_map(|op| match op {
            Op::Shot(shot) => Some(shot.clone()),
            _ => None,
        });
        let isolation = match isolation {
            Isolation::Snapshot if shot.is_some() => Isolation::Serializable,
            other => other,
        };
        ops.reverse();
        let client = Client {
            isolation,
            ops,
            waits: false,
            asked: Vec::new(),
            deletes: None,
            changes: None,
            shot,
            has_deleted: false,
            reads: Vec::new(),
            writes: BTreeMap::new(),
            saved: None,
            audit: None,
            answer: None,
        };
        self.clients.insert(number, client);
        self.world.begin(number, "", (isolation, priority));
    }

    fn is_open(&self, number: usize) -> bool {
        let txn = &self.world.txns[&number];
        let client = &self.clients[&number];
        txn.alive && client.answer.is_none() && !client.waits && txn.coordinator.is_ready()
    }

    /// The next call of a client.
    fn step(&mut self, number: usize) {
        let client = self.clients.get_mut(&number).expect("it began");
        let Some(op) = client.ops.pop() else { return };
        match op.clone() {
            Op::Append(key) => self.read(number, &[key], Some(op)),
            Op::Read(keys) => self.read(number, &keys, None),
            Op::Transfer(from, to) => self.read(number, &[from, to], Some(op)),
            Op::Audit => self.read(number, &ACCOUNTS, Some(op)),
            Op::Scan(from, to) => {
                client.waits = true;
                client.asked.clear();
                let keys = Keys::Span(bytes(from), Some(bytes(to)));
                self.world.call(number, |txn| txn.scan(keys, 100));
            }
            Op::Put(key) => {
                let value = format!("t{number}.{}", client.ops.len());
                client.writes.insert(key.to_owned(), value.clone());
                self.world
                    .call(number, |txn| txn.write(bytes(key), Some(bytes(&value))));
            }
            Op::Lock(key) => {
                client.waits = true;
                client.asked = vec![key];
                self.world.call(number, |txn| {
                    txn.read_locked(vec![bytes(key)], Strength::Exclusive);
                });
            }
            Op::Delete(from, to) => {
                client.waits = true;
                let keys = Keys::Span(bytes(from), Some(bytes(to)));
                client.deletes = Some(keys.clone());
                self.world.call(number, |txn| txn.delete_range(keys));
            }
            Op::Change(key, Change::Append { .. }) if client.writes.contains_key(key) => {
                // An element is in a list once.
            }
            Op::Change(key, change) => {
                client.waits = true;
                client.changes = Some((key, change.clone()));
                self.world.call(number, |txn| txn.change(bytes(key), &change));
            }
            Op::Shot(shot) => self.shoot(number, shot),
            Op::Flush => self.world.call(number, corelane_txn::Coordinator::flush),
            Op::Beat => self.world.call(number, |txn| txn.tick(u64::MAX)),
            Op::Savepoint => {
                let mut savepoint = None;
                self.world.call(number, |txn| savepoint = Some(txn.savepoint()));
                let client = self.clients.get_mut(&number).expect("it began");
                client.saved = savepoint.map(|savepoint| (savepoint, client.writes.clone()));
            }
            Op::Return => {
                if let Some((savepoint, writes)) = client.saved.take() {
                    client.writes = writes;
                    self.world.call(number, |txn| txn.return_to(savepoint));
                }
            }
            Op::Restart => {
                client.reads.clear();
                client.writes.clear();
                client.has_deleted = false;
                client.saved = None;
                let now = ts(self.world.now);
                self.world.call(number, |txn| txn.restart(now));
            }
            Op::Commit => self.world.call(number, corelane_txn::Coordinator::commit),
            Op::RollBack => self.world.call(number, corelane_txn::Coordinator::roll_back),
        }
    }

    fn read(&mut self, number: usize, keys: &[&'static str], again: Option<Op>) {
        let client = self.clients.get_mut(&number).expect("it began");
        client.waits = true;
        client.asked = keys.to_vec();
        // What is done with the values comes when they do.
        client.ops.extend(again);
        let keys = keys.iter().map(|key| bytes(key)).collect();
        self.world.call(number, |txn| txn.read(keys));
    }

    fn on_values(&mut self, number: usize, values: &[Option<Bytes>]) {
        let client = self.clients.get_mut(&number).expect("it began");
        client.waits = false;
        let values: Vec<String> = values.iter().map(|value| text(value.as_ref())).collect();
        for (key, value) in client.asked.iter().zip(&values) {
            match client.writes.get(*key) {
                None => client.reads.push(((*key).to_owned(), value.clone())),
                Some(own) => assert_eq!(own, value, "t{number} does not see its own write of {key}"),
            }
        }
        let mut writes: Vec<(&'static str, String)> = Vec::new();
        match client.ops.last() {
            Some(Op::Append(key)) if client.asked == [*key] => {
                let list = format!("{} t{number}", values[0]);
                if !values[0].split(' ').any(|word| word == format!("t{number}")) {
                    writes.push((key, list.trim().to_owned()));
                }
                client.ops.pop();
            }
            Some(Op::Transfer(from, to)) => {
                let amount = i64::try_from(self.prng.below(20)).expect("small");
                let balance = |at: usize| values[at].parse::<i64>().expect("a balance");
                writes.push((from, (balance(0) - amount).to_string()));
                writes.push((to, (balance(1) + amount).to_string()));
                client.ops.pop();
            }
            Some(Op::Audit) => {
                client.audit = Some(
                    values
                        .iter()
                        .map(|value| value.parse::<i64>().expect("a balance"))
                        .sum(),
                );
                client.ops.pop();
            }
            _ => {}
        }
        for (key, value) in writes {
            client.writes.insert(key.to_owned(), value.clone());
            self.world
                .call(number, |txn| txn.write(bytes(key), Some(bytes(&value))));
        }
    }

    fn on_deleted(&mut self, number: usize, deleted: &[Bytes]) {
        let client = self.clients.get_mut(&number).expect("it began");
        client.waits = false;
        let span = client.deletes.take().expect("it deletes");
        client.has_deleted = true;
        for key in REGISTERS.iter().chain(&LISTS).chain(&ACCOUNTS) {
            if !span.contain(key.as_bytes()) {
                continue;
            }
            let is_deleted = deleted.contains(&bytes(key));
            match client.writes.get(*key) {
                Some(own) => assert_eq!(
                    !own.is_empty(),
                    is_deleted,
                    "t{number} wrote {key} and deleted it"
                ),
                // There was none.
                None if !is_deleted => client.reads.push(((*key).to_owned(), String::new())),
                None => {}
            }
            if is_deleted {
                client.writes.insert((*key).to_owned(), String::new());
            }
        }
    }

    fn events(&mut self) {
        for event in core::mem::take(&mut self.world.events) {
            if self.is_told {
                println!("{} {event:?}", self.world.now);
            }
            match event {
                Event::Answer(number, Answer::Values(values)) => self.on_values(number, &values),
                Event::Answer(number, Answer::Changed(value)) => self.on_changed(number, value.as_ref()),
                Event::Answer(number, Answer::Unmet(unmet)) => self.on_unmet(number, &unmet),
                Event::Answer(number, Answer::Deleted(keys)) => self.on_deleted(number, &keys),
                Event::Answer(number, Answer::Rows { rows, .. }) => {
                    let client = self.clients.get_mut(&number).expect("it began");
                    client.waits = false;
                    for (key, value) in rows {
                        let (key, value) = (text(Some(&key)), text(Some(&value)));
                        if !client.writes.contains_key(&key) {
                            client.reads.push((key, value));
                        }
                    }
                }
                Event::Answer(number, answer) => {
                    let client = self.clients.get_mut(&number).expect("it began");
                    assert!(client.answer.is_none(), "t{number} is answered twice");
                    match &answer {
                        Answer::Committed { .. } => {
                            self.counts.committed += 1;
                            self.counts.shots += u64::from(client.shot.is_some());
                        }
                        Answer::Failed(TxnError::Unmet(_)) => self.counts.unmet += 1,
                        Answer::Unknown => self.counts.unknown += 1,
                        _ => self.counts.failed += 1,
                    }
                    client.answer = Some(answer);
                    client.waits = false;
                }
                Event::Over(number) => self.wake(number),
                Event::Blocked(Actor::Txn(by), seen, keys) => {
                    let is_it =
                        |(from, _, _, on): &&(Actor, Batch, _, Keys)| *from == Actor::Txn(by) && *on == keys;
                    let Some((_, batch, ..)) = self.world.blocked.iter().find(is_it) else {
                        continue;
                    };
                    let is_write = |request: &(u32, Request)| {
                        matches!(
                            request.1,
                            Request::Write { .. }
                                | Request::Change { .. }
                                | Request::DeleteRange { .. }
                                | Request::GetLocked { .. }
                        )
                    };
                    let is_writer = batch.requests.iter().any(is_write);
                    let number = self.next_push;
                    self.next_push += 1;
                    let read_ts = self.world.txns[&by].coordinator.read_ts();
                    let push = if is_writer {
                        Push::Abort
                    } else {
                        Push::Above(read_ts)
                    };
                    self.pushing.insert(number, (Some(by), of(seen.who.id)));
                    self.world.push_seen(number, *seen, Some(keys), Some(by), push);
                }
                Event::Blocked(..) | Event::Evaluated(..) => {}
                Event::Waits(push) => {
                    let (by, holder) = self.pushing[&push];
                    if let Some(by) = by {
                        let who = |of: usize| self.world.txns[&of].coordinator.who().clone();
                        let edge = Edge {
                            waiter: who(by),
                            holder: who(holder),
                        };
                        assert!(self.queue.wait(push, edge), "there is room");
                        if self.world.txns[&holder].coordinator.is_over() {
                            self.wake(holder);
                        }
                    }
                }
                Event::Pushed(push, _) => {
                    let (_, holder) = self.pushing[&push];
                    self.world.pushes.remove(&push);
                    self.wake(holder);
                    self.world.unblock();
                }
                Event::Recovers(_) => self.counts.recoveries += 1,
                Event::Contradiction(what) => panic!("{what}"),
            }
        }
    }

    fn wake(&mut self, ended: usize) {
        for push in self.queue.ended(id(ended)) {
            if self.world.pushes.contains_key(&push) {
                self.world.push_again(push);
            }
        }
    }

    /// Pushes that wait learn who waits for them.
    fn ask_around(&mut self) {
        let questions: Vec<_> = self.queue.questions().map(|(push, who)| (push, who.id)).collect();
        for (push, who) in questions {
            let edges = self.queue.dependents(who);
            if let Found::Force { cycle, .. } = self.queue.learn(push, edges) {
                self.counts.deadlocks += 1;
                assert!(
                    cycle.iter().skip(1).all(|other| cycle[0].is_younger(other)),
                    "the youngest goes"
                );
                let number = self.next_push;
                self.next_push += 1;
                let (by, holder) = self.pushing[&push];
                let seen = corelane_txn::error::Seen {
                    who: cycle[0].clone(),
                    epoch: corelane_txn::Epoch(0),
                    ts: ts(0),
                    local_ts: ts(0),
                };
                self.pushing.insert(number, (by, holder));
                self.world.push_seen(number, seen, None, by, Push::Force);
                return;
            }
        }
    }

    fn turn(&mut self) {
        let open: Vec<usize> = self
            .clients
            .keys()
            .copied()
            .filter(|number| self.is_open(*number))
            .collect();
        let alive = self
            .clients
            .iter()
            .filter(|(number, client)| client.answer.is_none() && self.world.txns[*number].alive);
        let alive = alive.count();
        self.world.now += self.prng.below(3);
        let choice = self.prng.below(100);
        if choice < 10 && alive < 5 {
            self.begin();
        } else if choice < 35 && !open.is_empty() {
            let number = open[self.prng.index(open.len())];
            self.step(number);
        } else if choice < 90 && !self.world.net.is_empty() {
            self.message();
        } else if choice < 93 {
            self.ask_around();
        } else if self.prng.chance(0.3) {
            self.trouble();
        }
        self.events();
    }

    fn message(&mut self) {
        let at = self.prng.index(self.world.net.len().min(12));
        let packet = self.world.net[at].clone();
        let is_kept = self.prng.chance(self.faults);
        if !is_kept {
            self.world.net.remove(at);
        }
        if self.prng.chance(self.faults / 2.0) {
            return;
        }
        if let Packet::Ask(from, batch) = &packet
            && self.prng.chance(self.faults)
        {
            return self.world.misroute(*from, batch);
        }
        let loses = match &packet {
            Packet::Ask(_, batch) => batch
                .requests
                .iter()
                .any(|(_, request)| world::is_pipelined(request)),
            Packet::Tell(..) => false,
        };
        if loses && self.prng.chance(self.faults) {
            let Packet::Ask(from, batch) = packet else { return };
            let before: Vec<_> = self
                .world
                .ranges
                .iter()
                .map(|range| range.tables.clone())
                .collect();
            let (at, answer) = self.world.evaluate(from, &batch);
            let items = batch.requests.iter().map(|(item, _)| *item).collect();
            self.world.ranges[at].tables = before[at].clone();
            let now = ts(self.world.now);
            self.world.ranges[at].take_over(now);
            if answer.is_ok() {
                self.world.net.push(Packet::Tell(from, items, answer));
            }
            return;
        }
        self.world.deliver(packet);
        self.look();
    }

    fn look(&mut self) {
        if let Err(what) = self.view.look(&self.world) {
            panic!("{what}");
        }
    }

    /// Delivers all messages, in order, until nothing is under way.
    fn drain(&mut self) {
        for _ in 0..100_000 {
            if self.world.net.is_empty() {
                self.world.unblock();
            }
            if self.world.net.is_empty() {
                return;
            }
            let packet = self.world.net.remove(0);
            self.world.deliver(packet);
            self.look();
        }
        panic!("messages without an end");
    }

    fn trouble(&mut self) {
        let numbers: Vec<usize> = self.clients.keys().copied().collect();
        let Some(number) = numbers.last().map(|_| numbers[self.prng.index(numbers.len())]) else {
            return;
        };
        let range = self.prng.index(self.world.ranges.len());
        let now = ts(self.world.now);
        match self.prng.below(10) {
            0 if self.prng.chance(self.faults) => self.world.stop(number),
            1 | 2 => self.world.lose(Actor::Txn(number)),
            3 => {
                self.world.lose(Actor::Own(number));
                let pushes: Vec<usize> = self.world.pushes.keys().copied().collect();
                for push in pushes {
                    self.world.lose(Actor::Push(push));
                    self.world.lose(Actor::Recovery(push));
                }
            }
            4 => self.world.ranges[range].transfer(),
            5 => self.world.ranges[range].take_over(now),
            6 => {
                let closed = ts(self.world.now.saturating_sub(30));
                let range = &mut self.world.ranges[range];
                range.closed = range.closed.max(closed);
                self.view.read_past(range);
            }
            7 if self.world.ranges.len() < 6 => {
                let key = ["a2", "c", "e", "h2", "j", "s2"][self.prng.index(6)];
                if *self.world.ranges[self.world.place(key.as_bytes())].tables.start != *key.as_bytes() {
                    self.world.split(key);
                }
            }
            8 if self.world.ranges.len() > 2 && range > 0 => {
                let key = text(Some(&self.world.ranges[range].tables.start));
                self.world.merge(&key);
            }
            9 => {
                let key = [
                    self.key(),
                    ACCOUNTS[self.prng.index(4)],
                    REGISTERS[self.prng.index(4)],
                ][self.prng.index(3)];
                let number = self.next_push;
                self.next_push += 1;
                let place = self.world.place(key.as_bytes());
                let intent = self.world.ranges[place].tables.intents.get(key.as_bytes());
                let Some(holder) = intent.map(|intent| of(intent.who.id)) else {
                    return;
                };
                self.pushing.insert(number, (None, holder));
                let push = if self.prng.chance(0.5) {
                    Push::Force
                } else {
                    Push::Above(now)
                };
                self.world.push(number, key, None, push);
            }
            _ => {}
        }
    }

    /// Nothing goes wrong any more: everything ends.
    fn calm(&mut self) {
        for round in 0..400 {
            self.drain();
            self.events();
            self.ask_around();
            self.events();
            self.drain();
            self.events();
            let numbers: Vec<usize> = self.clients.keys().copied().collect();
            let mut is_idle = self.world.net.is_empty() && self.world.blocked.is_empty();
            for number in numbers {
                if self.is_open(number) {
                    is_idle = false;
                    self.step(number);
                    self.events();
                } else if self.world.txns[&number].alive && !self.world.txns[&number].coordinator.is_over() {
                    is_idle = false;
                    if round % 4 == 3 {
                        self.world.lose(Actor::Txn(number));
                        self.world.lose(Actor::Own(number));
                        self.events();
                    }
                }
            }
            let pushes: Vec<usize> = self.world.pushes.keys().copied().collect();
            for push in pushes {
                self.world.lose(Actor::Push(push));
                self.world.lose(Actor::Recovery(push));
                self.world.push_again(push);
                self.events();
            }
            if round % 8 == 7 {
                // Whoever has stopped is dead by now.
                self.world.now += 200_000;
                for number in self.clients.keys().copied().collect::<Vec<_>>() {
                    let txn = &self.world.txns[&number];
                    if txn.alive && !txn.coordinator.is_over() {
                        self.world.call(number, |txn| txn.tick(u64::MAX));
                    }
                }
            }
            if !is_idle {
                continue;
            }
            let intents: Vec<Bytes> = self
                .world
                .ranges
                .iter()
                .flat_map(|range| range.tables.intents.keys().cloned())
                .collect();
            if intents.is_empty() {
                return;
            }
            for key in intents {
                let number = self.next_push;
                self.next_push += 1;
                let place = self.world.place(&key);
                let holder = of(self.world.ranges[place].tables.intents[&key].who.id);
                self.pushing.insert(number, (None, holder));
                self.world.push(number, &text(Some(&key)), None, Push::Force);
            }
        }
        let states: Vec<_> = self
            .world
            .txns
            .iter()
            .filter(|(_, txn)| txn.alive && !txn.coordinator.is_over())
            .map(|(number, txn)| (number, &txn.coordinator))
            .collect();
        panic!(
            "it does not end: {} under way, {} blocked, {states:?}",
            self.world.net.len(),
            self.world.blocked.len()
        );
    }
}

fn run(seed: u64) -> Counts {
    let mut run = Run::new(seed);
    for _ in 0..1500 {
        run.turn();
    }
    run.calm();
    if let Err(what) = run.check() {
        panic!("{what}");
    }
    run.counts
}

#[test]
fn random_schedules_keep_every_promise() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "0..1000".to_owned());
    let (from, to) = seeds.split_once("..").expect("SEEDS=A..B");
    let (from, to): (u64, u64) = (from.parse().expect("A"), to.parse().expect("B"));
    let mut sum = Counts::default();
    for seed in from..to {
        let done = std::panic::catch_unwind(|| run(seed));
        match done {
            Ok(counts) => {
                sum.committed += counts.committed;
                sum.failed += counts.failed;
                sum.unknown += counts.unknown;
                sum.recoveries += counts.recoveries;
                sum.deadlocks += counts.deadlocks;
                sum.shots += counts.shots;
                sum.unmet += counts.unmet;
            }
            Err(panic) => {
                println!("replay with SEEDS={seed}..{}", seed + 1);
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{sum:?}");
    assert!(sum.committed > 10 * (to - from), "too little was committed");
    let many = to - from >= 100;
    assert!(
        !many || (sum.recoveries > 0 && sum.deadlocks > 0 && sum.unknown > 0 && sum.unmet > 0),
        "too little went wrong: {sum:?}"
    );
}
