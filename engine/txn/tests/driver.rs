//! Drivers against ranges in memory: what a client does when transactions meet, clients die, and ranges are split.

#[path = "fixtures/mod.rs"]
mod fixtures;
#[path = "world/mod.rs"]
mod world;

use base::Timestamp;
use corelane_txn::coordinator::Answer;
use corelane_txn::driver::{Cleared, Clearing, Config, Driver, Out, Ticket};
use corelane_txn::error::{Seen, TxnError};
use corelane_txn::locks::Strength;
use corelane_txn::request::{End, Push, RESOLVE_REQUESTS_MAX};
use corelane_txn::{Batch, Bytes, Isolation, Keys, Outcome, Priority, Refusal, Request};
use fixtures::{bytes, ts};
use std::collections::BTreeMap;
use world::{Actor, World, id};

const MS: u64 = 1_000_000;

/// One client: what it was answered.
struct Client {
    driver: Driver,
    answers: Vec<Answer>,
    is_over: bool,
    is_dead: bool,
}

/// What happens to a part on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// It is done, and nobody hears of it.
    AnswerLost,
}

struct Net {
    world: World,
    clients: BTreeMap<usize, Client>,
    /// Where ranges start, as clients know it.
    map: Vec<Bytes>,
    looks: usize,
    parts: usize,
    /// Transactions that have ended with many intents, as those hear who meet them.
    left: Vec<Seen>,
}

impl Net {
    fn new(cuts: &[&str]) -> Self {
        let mut world = World::new(cuts);
        world.now = 1_000 * MS;
        world.expiry_ns = 750 * MS;
        let mut net = Self {
            world,
            clients: BTreeMap::new(),
            map: Vec::new(),
            looks: 0,
            parts: 0,
            left: Vec::new(),
        };
        net.look();
        net
    }

    fn look(&mut self) {
        let ranges = self.world.ranges.iter();
        self.map = ranges.map(|range| range.tables.start.clone()).collect();
    }

    fn begin(&mut self, of: usize, isolation: Isolation) {
        let (now, what) = (self.world.now, (isolation, Priority::Normal));
        let mut config = Config::default();
        config.coordinator.clock_bound_ns = 0;
        let stamps = (ts(now), ts(now));
        // The clients' own clocks show something else.
        let driver = Driver::begin(config, (id(of), "transfer"), what, stamps, now / 2, of as u64);
        let client = Client {
            driver,
            answers: Vec::new(),
            is_over: false,
            is_dead: false,
        };
        self.clients.insert(of, client);
    }

    fn driver(&mut self, of: usize) -> &mut Driver {
        &mut self.clients.get_mut(&of).expect("it began").driver
    }

    fn evaluate(&mut self, part: &Batch) -> corelane_txn::request::Answer {
        self.parts += 1;
        self.world.evaluate(Actor::Push(0), part).1
    }

    /// Takes what a client wants, and delivers it; whether there was anything.
    fn step(&mut self, of: usize, fate: impl Fn(&Batch) -> Fate) -> bool {
        let now_ns = self.local();
        let map = self.map.clone();
        let Some(client) = self.clients.get_mut(&of).filter(|client| !client.is_dead) else {
            return false;
        };
        let outs = client.driver.poll(now_ns, |key| placed(&map, key));
        let is_busy = !outs.is_empty();
        for out in outs {
            match out {
                Out::Send { ticket, part } => {
                    let answer = self.evaluate(&part);
                    match fate(&part) {
                        Fate::Arrives => self.driver(of).on_answer(ticket, answer, now_ns),
                        Fate::AnswerLost => self.driver(of).on_lost(ticket, now_ns),
                    }
                }
                Out::Look => {
                    self.looks += 1;
                    self.look();
                }
                Out::Answer(answer) => self.clients.get_mut(&of).expect("it began").answers.push(answer),
                Out::Over => self.clients.get_mut(&of).expect("it began").is_over = true,
                Out::Left(seen) => self.left.push(seen),
                Out::Cleared(_) => panic!("a transaction is no clearing"),
            }
        }
        is_busy
    }

    /// The next part that a client sends, which goes nowhere.
    fn sent(&mut self, of: usize) -> Option<Out> {
        for _ in 0..100 {
            let now_ns = self.local();
            let outs = self.driver(of).poll(now_ns, |_| 0);
            let sent = outs.into_iter().find(|out| matches!(out, Out::Send { .. }));
            if sent.is_some() {
                return sent;
            }
            self.world.now += MS;
        }
        None
    }

    fn local(&self) -> u64 {
        self.world.now / 2
    }

    /// Everything goes on, and time passes, until nobody has anything to do but to beat, or `until` says so.
    fn run(&mut self, until: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            let numbers: Vec<usize> = self.clients.keys().copied().collect();
            let mut is_busy = false;
            for of in numbers {
                is_busy |= self.step(of, |_| Fate::Arrives);
            }
            if is_busy {
                continue;
            }
            if until(self) {
                return;
            }
            let alive = self.clients.values().filter(|client| !client.is_dead);
            let wake = alive.filter_map(|client| client.driver.wake_at_ns()).min();
            let Some(wake) = wake else { return };
            self.world.now = self.world.now.max(2 * wake).max(self.world.now + 2);
        }
        panic!("it does not end");
    }

    fn answered(&self, of: usize) -> usize {
        self.clients[&of].answers.len()
    }

    /// Calls, and waits for the answer.
    fn call(&mut self, of: usize, call: impl FnOnce(&mut Driver)) -> Answer {
        let before = self.answered(of);
        call(self.driver(of));
        self.run(|net| net.answered(of) > before);
        self.clients[&of].answers[before].clone()
    }

    fn read(&mut self, of: usize, key: &str) -> Option<String> {
        match self.call(of, |driver| driver.read(vec![bytes(key)])) {
            Answer::Values(values) => values[0].as_ref().map(text),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, of: usize, key: &str, value: &str) {
        self.driver(of).write(bytes(key), Some(bytes(value)));
    }

    fn commit(&mut self, of: usize) -> Answer {
        self.call(of, Driver::commit)
    }

    /// Begins, writes and commits.
    fn put(&mut self, of: usize, pairs: &[(&str, &str)]) {
        self.begin(of, Isolation::Snapshot);
        for (key, value) in pairs {
            self.write(of, key, value);
        }
        let answer = self.commit(of);
        assert!(matches!(answer, Answer::Committed { .. }), "{answer:?}");
        self.run(|net| net.clients[&of].is_over);
        self.world.now += 2;
    }

    fn value(&self, key: &str) -> Option<String> {
        let range = &self.world.ranges[self.world.place(key.as_bytes())];
        assert!(
            !range.tables.intents.contains_key(key.as_bytes()),
            "an intent on {key}"
        );
        let versions = range.tables.versions.get(key.as_bytes())?;
        versions.values().next_back()?.value.as_ref().map(text)
    }

    fn clear(&mut self, clearing: &mut Clearing) -> Cleared {
        for _ in 0..10_000 {
            let (now_ns, map) = (self.local(), self.map.clone());
            for out in clearing.poll(now_ns, |key| placed(&map, key)) {
                match out {
                    Out::Send { ticket, part } => {
                        let answer = self.evaluate(&part);
                        clearing.on_answer(ticket, answer, now_ns);
                    }
                    Out::Cleared(cleared) => return cleared,
                    Out::Left(seen) => self.left.push(seen),
                    other => panic!("{other:?}"),
                }
            }
            if let Some(wake) = clearing.wake_at_ns() {
                self.world.now = self.world.now.max(2 * wake);
            }
        }
        panic!("it does not end");
    }
}

fn placed(map: &[Bytes], key: &[u8]) -> usize {
    map.iter().take_while(|start| ***start <= *key).count()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The time of a call or two: less than any pause that waits for somebody's end.
fn is_prompt(from_ns: u64, net: &Net) -> bool {
    net.world.now - from_ns < 20 * MS
}

#[test]
fn of_two_transfers_that_meet_one_commits_and_the_other_hears_with_whom() {
    let mut net = Net::new(&["m"]);
    net.put(1, &[("a", "10"), ("z", "10")]);
    net.begin(2, Isolation::Snapshot);
    net.begin(3, Isolation::Snapshot);
    for of in [2, 3] {
        assert_eq!(net.read(of, "a").as_deref(), Some("10"));
        assert_eq!(net.read(of, "z").as_deref(), Some("10"));
        net.write(of, "a", "9");
        net.write(of, "z", "11");
    }
    net.driver(2).flush();
    while net.step(2, |_| Fate::Arrives) {}
    // The second one, which has read what it writes, gives way to the first one, which goes on.
    net.driver(3).commit();
    for _ in 0..3 {
        net.step(3, |_| Fate::Arrives);
    }
    assert_eq!(net.answered(3), 3);
    assert!(matches!(net.commit(2), Answer::Committed { .. }));
    net.run(|net| net.clients.values().all(|client| client.is_over));
    let Some(Answer::Failed(TxnError::Conflict(conflict))) = net.clients[&3].answers.last() else {
        panic!("{:?}", net.clients[&3].answers);
    };
    assert!(
        conflict.to_string().starts_with("transaction \"transfer\""),
        "{conflict}"
    );
    assert_eq!(
        (net.value("a").as_deref(), net.value("z").as_deref()),
        (Some("9"), Some("11"))
    );
}

#[test]
fn a_reader_recovers_what_a_dead_client_had_staged() {
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        let mut net = Net::new(&["m"]);
        net.put(1, &[("a", "1"), ("z", "1")]);
        net.begin(2, isolation);
        net.write(2, "a", "2");
        net.write(2, "z", "2");
        net.driver(2).commit();
        net.step(2, |_| Fate::AnswerLost);
        net.clients.get_mut(&2).expect("it began").is_dead = true;
        let began = net.world.now;
        net.begin(3, Isolation::Snapshot);
        assert_eq!(net.read(3, "z").as_deref(), Some("2"));
        // Nobody waits for a snapshot transaction in order to read; another one has to be taken for dead first.
        let waited = net.world.now - began;
        assert!(waited < 900 * MS, "{waited} ns");
        assert_eq!(waited < 20 * MS, isolation == Isolation::Snapshot, "{waited} ns");
        assert!(matches!(net.commit(3), Answer::Committed { .. }));
        net.begin(4, Isolation::Snapshot);
        assert_eq!(net.read(4, "a").as_deref(), Some("2"));
    }
}

#[test]
fn two_that_wait_for_each_other_do_not_both_fail() {
    let mut net = Net::new(&["m"]);
    for (of, first) in [(1, "a"), (2, "z")] {
        net.begin(of, Isolation::Snapshot);
        net.write(of, first, "1");
        net.driver(of).flush();
        while net.step(of, |_| Fate::Arrives) {}
    }
    let began = net.world.now;
    net.write(1, "z", "1");
    net.write(2, "a", "2");
    net.driver(1).commit();
    net.driver(2).commit();
    net.run(|net| net.clients.values().all(|client| client.is_over));
    let committed = |client: &&Client| matches!(client.answers[..], [Answer::Committed { .. }]);
    assert_eq!(net.clients.values().filter(committed).count(), 1);
    let failed = |client: &&Client| matches!(client.answers[..], [Answer::Failed(TxnError::Conflict(_))]);
    assert_eq!(net.clients.values().filter(failed).count(), 1);
    // The clients' clocks run at half the pace here.
    let waited = net.world.now - began;
    assert!((1_500 * MS..2_200 * MS).contains(&waited), "{waited} ns");
}

#[test]
fn the_younger_of_two_that_have_read_what_they_write_gives_way_at_once() {
    let mut net = Net::new(&["m"]);
    net.put(3, &[("a", "0"), ("z", "0")]);
    for (of, first, last) in [(1, "a", "z"), (2, "z", "a")] {
        net.begin(of, Isolation::Snapshot);
        assert_eq!(net.read(of, first).as_deref(), Some("0"));
        assert_eq!(net.read(of, last).as_deref(), Some("0"));
    }
    for (of, first) in [(1, "a"), (2, "z")] {
        net.write(of, first, "1");
        net.driver(of).flush();
        while net.step(of, |_| Fate::Arrives) {}
    }
    let began = net.world.now;
    net.write(1, "z", "1");
    net.write(2, "a", "2");
    net.driver(1).commit();
    net.driver(2).commit();
    net.run(|net| net.clients.values().all(|client| client.is_over));
    let last = |of: usize| net.clients[&of].answers.last().cloned();
    assert!(matches!(last(1), Some(Answer::Committed { .. })), "{:?}", last(1));
    let failed = last(2);
    assert!(
        matches!(failed, Some(Answer::Failed(TxnError::Conflict(_)))),
        "{failed:?}"
    );
    let waited = net.world.now - began;
    assert!(waited < 50 * MS, "{waited} ns");
}

#[test]
fn what_comes_to_a_wrong_range_after_a_split_finds_the_right_one() {
    let mut net = Net::new(&[]);
    net.put(1, &[("a", "1"), ("z", "1")]);
    net.begin(2, Isolation::Serializable);
    assert_eq!(net.read(2, "a").as_deref(), Some("1"));
    net.world.split("m");
    assert_eq!(net.map.len(), 1, "the client does not know yet");
    net.write(2, "a", "2");
    net.write(2, "z", "2");
    let began = net.world.now;
    assert!(matches!(net.commit(2), Answer::Committed { .. }));
    assert!(is_prompt(began, &net));
    assert!(net.looks > 0);
    net.run(|net| net.clients[&2].is_over);
    assert_eq!(
        (net.value("a").as_deref(), net.value("z").as_deref()),
        (Some("2"), Some("2"))
    );
    assert!(
        net.world
            .ranges
            .iter()
            .all(|range| range.tables.records.is_empty())
    );
}

#[test]
fn a_scan_goes_on_in_the_next_range() {
    let mut net = Net::new(&["m"]);
    net.put(1, &[("a", "1"), ("b", "1"), ("z", "1")]);
    net.begin(2, Isolation::Snapshot);
    net.write(2, "b", "2");
    net.write(2, "y", "2");
    let span = |from: &str| Keys::Span(bytes(from), None);
    let all = |net: &mut Net, keys| match net.call(2, |driver| driver.scan(keys, 10)) {
        Answer::Rows { rows, next } => {
            let row = |(key, value): &(Bytes, Bytes)| format!("{}={}", text(key), text(value));
            (rows.iter().map(row).collect::<Vec<_>>().join(" "), next)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(all(&mut net, span("")), ("a=1 b=2".to_owned(), Some(bytes("m"))));
    assert_eq!(all(&mut net, span("m")), ("y=2 z=1".to_owned(), None));
    assert!(matches!(net.commit(2), Answer::Committed { .. }));
}

#[test]
fn locks_of_a_read_for_update_are_pushed_for_like_writes() {
    let mut net = Net::new(&[]);
    net.begin(1, Isolation::Snapshot);
    net.write(1, "a", "1");
    net.driver(1).flush();
    while net.step(1, |_| Fate::Arrives) {}
    net.begin(2, Isolation::Snapshot);
    net.driver(2).read_locked(vec![bytes("a")], Strength::Exclusive);
    net.step(2, |_| Fate::Arrives);
    net.step(2, |_| Fate::Arrives);
    assert_eq!(net.answered(2), 0, "it waits for the writer");
    assert!(matches!(net.commit(1), Answer::Committed { .. }));
    net.run(|net| net.answered(2) > 0);
    assert_eq!(net.clients[&2].answers, [Answer::Values(vec![Some(bytes("1"))])]);
    net.write(2, "a", "2");
    assert!(matches!(net.commit(2), Answer::Committed { .. }));
    net.run(|net| net.clients[&2].is_over);
    assert_eq!(net.value("a").as_deref(), Some("2"));
}

/// Transaction 1 has an intent on `z`; the other one has begun before or after it, and wants to lock what is there.
fn wants_a_lock(is_older: bool, keys: &[&str]) -> Net {
    let mut net = Net::new(&["m"]);
    for of in if is_older { [2, 1] } else { [1, 2] } {
        net.begin(of, Isolation::Snapshot);
        net.world.now += MS;
    }
    net.write(1, "z", "1");
    net.driver(1).flush();
    while net.step(1, |_| Fate::Arrives) {}
    let keys = keys.iter().map(|key| bytes(key)).collect();
    net.driver(2).read_locked(keys, Strength::Exclusive);
    net
}

fn has_conflict(net: &Net, of: usize) -> bool {
    matches!(
        net.clients[&of].answers.last(),
        Some(Answer::Failed(TxnError::Conflict(_)))
    )
}

#[test]
fn a_younger_one_that_locks_more_than_one_key_gives_way() {
    let mut net = wants_a_lock(false, &["a", "z"]);
    let began = net.world.now;
    net.run(|net| net.answered(2) > 0);
    assert!(has_conflict(&net, 2), "{:?}", net.clients[&2].answers);
    assert!(is_prompt(began, &net));
    net.run(|net| net.clients[&2].is_over);
    assert!(matches!(net.commit(1), Answer::Committed { .. }));
}

#[test]
fn an_older_one_waits_for_its_turn_as_long_as_others_do() {
    for ends in [true, false] {
        let mut net = wants_a_lock(true, &["a", "z"]);
        let began = net.world.now;
        net.run(|net| net.world.now > began + 100 * MS);
        assert_eq!(net.answered(2), 0, "it asks again");
        if ends {
            net.driver(1).commit();
            net.run(|net| net.answered(2) > 0);
            let values = [None, Some(bytes("1"))].to_vec();
            assert_eq!(net.clients[&2].answers, [Answer::Values(values)]);
        } else {
            net.run(|net| net.answered(2) > 0);
            assert!(has_conflict(&net, 2));
            // The clients' clocks run at half the pace here.
            let waited = net.world.now - began;
            assert!((1_400 * MS..2_200 * MS).contains(&waited), "{waited} ns");
        }
    }
}

#[test]
fn for_its_only_lock_a_transaction_waits_longer() {
    let mut net = wants_a_lock(false, &["z"]);
    let began = net.world.now;
    net.run(|net| net.answered(2) > 0);
    assert!(has_conflict(&net, 2));
    let waited = net.world.now - began;
    assert!((5_900 * MS..8_200 * MS).contains(&waited), "{waited} ns");
}

#[test]
fn a_younger_one_does_not_give_way_to_one_that_is_dead() {
    let mut net = wants_a_lock(false, &["a", "z"]);
    net.clients.get_mut(&1).expect("it began").is_dead = true;
    net.world.now += 800 * MS;
    net.run(|net| net.answered(2) > 0);
    assert_eq!(net.clients[&2].answers, [Answer::Values(vec![None, None])]);
}

#[test]
fn what_others_wait_for_is_locked_first_and_alone() {
    let mut net = Net::new(&["m"]);
    net.put(1, &[("a", "1"), ("b", "2"), ("z", "3")]);
    net.begin(2, Isolation::Snapshot);
    // It is newer than the snapshot, which moves there without another round.
    net.put(3, &[("z", "4")]);
    let keys: Vec<Bytes> = ["a", "z", "b"].map(bytes).to_vec();
    let first = [bytes("z"), bytes("b")];
    net.driver(2)
        .read_locked_in_turn(keys, &first, Strength::Exclusive);
    for (asked, is_alone) in [("z", true), ("b", false), ("a", false)] {
        let now_ns = net.local();
        let outs = net.driver(2).poll(now_ns, |_| 0);
        let [Out::Send { ticket, part }] = &outs[..] else {
            panic!("{outs:?}")
        };
        let [(_, Request::GetLocked { key, alone, .. })] = &part.requests[..] else {
            panic!("{part:?}")
        };
        assert_eq!((key, *alone), (&bytes(asked), is_alone));
        let answer = net.evaluate(part);
        net.driver(2).on_answer(*ticket, answer, now_ns);
    }
    net.run(|net| net.answered(2) > 0);
    let values = ["1", "4", "2"].map(|value| Some(bytes(value))).to_vec();
    assert_eq!(net.clients[&2].answers, [Answer::Values(values)]);
    assert_eq!(&*net.driver(2).who().anchor, b"z");
}

#[test]
fn who_gives_up_a_commit_can_ask_for_its_outcome() {
    for kept in [true, false] {
        let mut net = Net::new(&["m"]);
        net.begin(1, Isolation::Snapshot);
        net.write(1, "a", "1");
        net.write(1, "z", "1");
        net.driver(1).commit();
        // Both parts are done and nobody hears of it, or the record's is.
        let map = net.map.clone();
        let now_ns = net.local();
        let outs = net.driver(1).poll(now_ns, |key| placed(&map, key));
        let sent: Vec<(Ticket, Batch)> = outs
            .into_iter()
            .map(|out| match out {
                Out::Send { ticket, part } => (ticket, part),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sent.len(), 2);
        for (_, part) in &sent {
            let is_end = |(_, request): &(u32, Request)| {
                matches!(
                    request,
                    Request::End {
                        end: End::Commit { .. },
                        ..
                    }
                )
            };
            if kept || part.requests.iter().any(is_end) {
                net.evaluate(part).expect("it is done");
            }
        }
        assert!(net.driver(1).may_be_committed());
        net.driver(1).abandon();
        net.clients.get_mut(&1).expect("it began").is_dead = true;
        assert_eq!(net.answered(1), 0);
        let config = Config::default();
        let mut clearing = Clearing::outcome(&config, id(1), bytes("a"), 7);
        let cleared = net.clear(&mut clearing);
        let Cleared::Done(Some(outcome)) = cleared else {
            panic!("{cleared:?}")
        };
        assert_eq!(matches!(outcome, Outcome::Committed { .. }), kept);
        assert_eq!(net.value("z").is_some(), kept);
        // And again, from what the range remembers; then nobody does.
        let mut again = Clearing::outcome(&config, id(1), bytes("a"), 7);
        assert_eq!(net.clear(&mut again), Cleared::Done(Some(outcome)));
        for range in &mut net.world.ranges {
            range.tables.memory.clear();
            range.tables.forgotten.insert(id(1));
        }
        let mut late = Clearing::outcome(&config, id(1), bytes("a"), 7);
        assert_eq!(net.clear(&mut late), Cleared::Forgotten);
    }
}

#[test]
fn what_is_abandoned_while_it_is_open_leaves_nothing() {
    let mut net = Net::new(&["m"]);
    net.begin(1, Isolation::Snapshot);
    net.write(1, "a", "1");
    net.driver(1).flush();
    while net.step(1, |_| Fate::Arrives) {}
    let answer = net.call(1, Driver::abandon);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    net.run(|net| net.clients[&1].is_over);
    assert_eq!(net.value("a"), None);
}

#[test]
fn lost_answers_change_nothing() {
    for fails in 1..6 {
        let mut net = Net::new(&["m"]);
        net.begin(1, Isolation::Serializable);
        net.write(1, "a", "1");
        net.write(1, "z", "1");
        net.driver(1).commit();
        for _ in 0..fails {
            while !net.step(1, |_| Fate::AnswerLost) {
                net.world.now += MS;
            }
        }
        net.run(|net| net.clients[&1].is_over);
        assert!(matches!(net.clients[&1].answers[..], [Answer::Committed { .. }]));
        assert_eq!(
            (net.value("a").as_deref(), net.value("z").as_deref()),
            (Some("1"), Some("1"))
        );
    }
}

#[test]
fn a_plain_request_clears_its_way() {
    let mut net = Net::new(&["m"]);
    net.put(1, &[("a", "1"), ("z", "1")]);
    net.begin(2, Isolation::Serializable);
    net.write(2, "a", "2");
    net.write(2, "z", "2");
    net.driver(2).flush();
    while net.step(2, |_| Fate::Arrives) {}
    net.clients.get_mut(&2).expect("it began").is_dead = true;
    let intent = net.world.ranges[1].tables.intents[&bytes("z")].clone();
    let seen = Seen {
        who: intent.who.clone(),
        epoch: intent.epoch,
        ts: intent.ts,
        local_ts: intent.local_ts,
    };
    let now = Timestamp::new(net.world.now, 0);
    let push = Push::Above(now);
    let mut clearing = Clearing::new(&Config::default(), seen, bytes("z"), push, 1);
    let began = net.world.now;
    assert_eq!(net.clear(&mut clearing), Cleared::Done(Some(Outcome::Aborted)));
    let waited = net.world.now - began;
    assert!(
        (700 * MS..900 * MS).contains(&waited),
        "as long as its client may be alive"
    );
    assert_eq!(net.value("z").as_deref(), Some("1"));
}

#[test]
fn what_a_node_says_that_does_not_fit_is_asked_again() {
    let mut net = Net::new(&[]);
    net.begin(1, Isolation::Snapshot);
    net.driver(1).read(vec![bytes("a")]);
    let now_ns = net.local();
    // A ticket that was never given, an item that was not asked for, and an answer to nothing.
    net.driver(1).on_answer(7, Ok(Vec::new()), now_ns);
    for answer in [Err((99, Refusal::PushWaits)), Ok(Vec::new())] {
        let Some(Out::Send { ticket, .. }) = net.sent(1) else {
            panic!("it was not asked again")
        };
        net.driver(1).on_answer(ticket, answer, now_ns);
    }
    net.run(|net| net.answered(1) > 0);
    assert_eq!(net.clients[&1].answers, [Answer::Values(vec![None])]);
}

#[test]
fn of_a_large_transaction_whose_client_died_only_what_is_in_the_way_is_waited_for() {
    const COUNT: usize = 600;
    let key = |n: usize| format!("{}/{n:04}", if n.is_multiple_of(2) { "a" } else { "z" });
    let mut net = Net::new(&["m"]);
    let intents = |net: &Net| -> usize {
        let ranges = net.world.ranges.iter();
        ranges.map(|range| range.tables.intents.len()).sum()
    };
    net.begin(1, Isolation::Snapshot);
    for n in 0..COUNT {
        net.write(1, &key(n), "1");
    }
    // It dies when its record says that it has committed, and so do the intents of that range.
    net.driver(1).commit();
    while net.clients[&1].answers.is_empty() {
        net.step(1, |_| Fate::Arrives);
    }
    net.clients.get_mut(&1).expect("it began").is_dead = true;
    net.world.now += 1_000 * MS;
    let left = COUNT / 2;
    assert_eq!(intents(&net), left);

    net.begin(2, Isolation::Snapshot);
    assert_eq!(net.read(2, &key(301)).as_deref(), Some("1"));
    assert_eq!(intents(&net), left - 1, "one was in the way");
    let push = Push::Abort;
    let tables = &net.world.ranges[1].tables;
    let seen = tables.intents[key(303).as_bytes()].head().seen();
    let mut clearing = Clearing::new(&Config::default(), seen, bytes(&key(303)), push, 1);
    let cleared = net.clear(&mut clearing);
    assert!(matches!(cleared, Cleared::Done(Some(Outcome::Committed { .. }))));
    assert_eq!(intents(&net), left - 2);
    let mut asked = Clearing::outcome(&Config::default(), id(1), bytes(&key(0)), 7);
    assert_eq!(
        net.clear(&mut asked),
        cleared,
        "nor does who asks wait for the others"
    );
    assert_eq!(intents(&net), left - 2);

    // And somebody tells the others.
    assert_eq!(net.left.len(), 3);
    let seen = net.left.pop().expect("there are three");
    let before = net.parts;
    let mut rest = Clearing::rest(&Config::default(), seen, 1);
    assert_eq!(net.clear(&mut rest), cleared);
    assert_eq!(intents(&net), 0);
    assert!(
        net.world
            .ranges
            .iter()
            .all(|range| range.tables.records.is_empty())
    );
    // A push, three times what is under way at once, and the record is forgotten.
    assert_eq!(net.parts - before, 1 + left.div_ceil(RESOLVE_REQUESTS_MAX) + 1);
    for n in 0..COUNT {
        assert_eq!(net.value(&key(n)).as_deref(), Some("1"));
    }
}
