//! The lock table and the search for deadlocks: stories, and random requests against a plain model.

use base::{ClientId, Prng, Timestamp};
use corelane_txn::change::{Change, Missed, Unmet};
use corelane_txn::deadlock::{Edge, Found, PushQueue};
use corelane_txn::error::Seen;
use corelane_txn::locks::{Ask, Asked, Config, Effect, LockTable, Strength};
use corelane_txn::request::{End, Ended, Verdict};
use corelane_txn::txn::Seq;
use corelane_txn::{
    Batch, Bytes, Epoch, Header, Isolation, Keys, Priority, Refusal, Reply, Request, TxnId, Who,
};
use std::collections::BTreeMap;
use std::sync::Arc;

fn who(of: u64, priority: Priority) -> Arc<Who> {
    Arc::new(Who {
        id: TxnId {
            client: ClientId(of.into()),
            seq: 1,
        },
        anchor: b"a".as_slice().into(),
        name: "".into(),
        isolation: Isolation::Snapshot,
        priority,
        start_ts: Timestamp::new(of, 0),
    })
}

fn key(text: &str) -> Bytes {
    text.as_bytes().into()
}

fn seen(of: u64, priority: Priority) -> Seen {
    Seen {
        who: who(of, priority),
        epoch: Epoch(0),
        ts: Timestamp::ZERO,
        local_ts: Timestamp::new(of, 0),
    }
}

fn id(of: u64) -> TxnId {
    who(of, Priority::Normal).id
}

fn ask(waiter: u64, strength: Strength, keeps: bool) -> Ask<u64> {
    Ask {
        waiter,
        seen: seen(waiter, Priority::Normal),
        strength,
        keeps,
        yields: false,
        deadline_ns: 1_000,
    }
}

fn push(waiter: u64, key: &Bytes, holder: u64) -> Effect<u64> {
    Effect::Push {
        waiter,
        key: key.clone(),
        holder: seen(holder, Priority::Normal),
    }
}

fn config() -> Config {
    Config {
        push_after_ns: 100,
        yield_after_ns: 10,
        ..Config::default()
    }
}

const SHARED: Strength = Strength::Shared;
const EXCLUSIVE: Strength = Strength::Exclusive;

#[test]
fn a_hot_key_is_a_queue() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, EXCLUSIVE, false), 0), Asked::Free);
    assert!(table.is_empty(), "who passes leaves nothing");
    // The second one is evaluated, and meets the intent of the first; others come.
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, false), 0), Asked::Free);
    let first = seen(1, Priority::Normal);
    let met = table.met_intent(&k, &first, ask(2, EXCLUSIVE, false), 0);
    assert_eq!(met, Asked::Waits);
    for waiter in 3..6 {
        assert_eq!(table.ask(&k, ask(waiter, EXCLUSIVE, false), 0), Asked::Waits);
    }
    for (holder, waiters) in [(1, 4), (2, 3), (3, 2), (4, 1)] {
        assert_eq!(table.queue(&k), waiters);
        table.release(&k, id(holder));
        assert_eq!(
            table.effects(),
            [Effect::Go(holder + 1)],
            "one at a time, in their order"
        );
        assert_eq!(table.ask(&k, ask(9, SHARED, false), 0), Asked::Waits);
        table.cancel(&k, 9);
        assert_eq!(
            table.ask(&k, ask(holder + 1, EXCLUSIVE, true), 0),
            Asked::Free,
            "it has it"
        );
        table.assert_invariants();
    }
    table.release(&k, id(5));
    assert!(table.is_empty());
    assert_eq!(table.len(), (0, 0));
}

#[test]
fn shared_locks_are_together_and_writers_are_not_starved() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, SHARED, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, SHARED, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(3, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(
        table.ask(&k, ask(4, SHARED, true), 0),
        Asked::Waits,
        "behind the writer"
    );
    table.release_all(id(1));
    assert_eq!(table.effects(), []);
    table.release_all(id(2));
    assert_eq!(table.effects(), [Effect::Go(3)]);
    table.release_all(id(3));
    assert_eq!(table.effects(), [Effect::Go(4)]);
    table.assert_invariants();
}

#[test]
fn who_waits_long_pushes_and_higher_priority_at_once() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.effects(), []);
    let mut high = ask(3, EXCLUSIVE, true);
    high.seen = seen(3, Priority::High);
    assert_eq!(table.ask(&k, high, 0), Asked::Waits);
    assert_eq!(table.effects(), [push(3, &k, 1)]);
    assert_eq!(table.wake_at_ns(&k, 2), Some(100));
    assert_eq!(table.wake_at_ns(&k, 3), None, "it was told");
    table.check(&k, 99);
    assert_eq!(table.effects(), []);
    table.check(&k, 100);
    assert_eq!(table.effects(), [push(2, &k, 1)]);
    table.assert_invariants();
}

#[test]
fn the_late_are_let_go_and_others_go_on() {
    let mut table = LockTable::new(Config {
        push_after_ns: 10_000,
        ..config()
    });
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, SHARED, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    let mut patient = ask(3, SHARED, true);
    patient.deadline_ns = 2_000;
    assert_eq!(table.ask(&k, patient, 0), Asked::Waits);
    assert_eq!(table.wake_at_ns(&k, 2), Some(1_000));
    table.check(&k, 1_000);
    assert_eq!(table.effects(), [Effect::Late(2), Effect::Go(3)]);
    table.assert_invariants();
}

#[test]
fn who_pushes_keeps_its_place_and_holds_up_nobody() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&k, ask(3, EXCLUSIVE, true), 50), Asked::Waits);
    table.check(&k, 100);
    assert_eq!(table.effects(), [push(2, &k, 1)]);
    // It comes back, and is before the one that came later.
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 110), Asked::Waits);
    assert_eq!(table.wake_at_ns(&k, 2), Some(210), "its time begins anew");
    table.release_all(id(1));
    assert_eq!(table.effects(), [Effect::Go(2)]);
    table.check(&k, 154);
    assert_eq!(table.effects(), [], "one behind another pushes later");
    table.check(&k, 155);
    assert_eq!(table.effects(), [push(3, &k, 2)]);
    // While it is away it is passed over.
    assert_eq!(table.ask(&k, ask(4, EXCLUSIVE, true), 150), Asked::Waits);
    table.release_all(id(2));
    assert_eq!(table.effects(), [Effect::Go(4)]);
    assert_eq!(table.ask(&k, ask(5, EXCLUSIVE, true), 160), Asked::Waits);
    assert_eq!(
        table.ask(&k, ask(3, EXCLUSIVE, true), 170),
        Asked::Waits,
        "before the one behind"
    );
    table.release_all(id(4));
    assert_eq!(table.effects(), [Effect::Go(3)]);
    table.assert_invariants();
}

#[test]
fn who_does_not_come_back_has_lost_its_place() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&k, ask(3, EXCLUSIVE, true), 90), Asked::Waits);
    table.check(&k, 100);
    assert_eq!(table.effects(), [push(2, &k, 1)]);
    assert_eq!(table.queue(&k), 2);
    table.check(&k, 200);
    assert_eq!(table.effects(), [push(3, &k, 1)]);
    assert_eq!(table.queue(&k), 1);
    table.assert_invariants();
    // Nobody is here who waits: the key goes with its holder.
    table.release_all(id(1));
    assert!(table.is_empty());
    table.assert_invariants();
}

#[test]
fn a_request_that_comes_again_takes_the_place_of_the_first() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&k, ask(3, EXCLUSIVE, true), 0), Asked::Waits);
    let mut again = ask(2, EXCLUSIVE, true);
    again.waiter = 12;
    assert_eq!(table.ask(&k, again, 0), Asked::Waits);
    assert_eq!(table.effects(), [Effect::Late(2)]);
    table.release_all(id(1));
    assert_eq!(table.effects(), [Effect::Go(12)]);
    table.assert_invariants();
}

#[test]
fn who_ends_while_it_waits_is_told_and_waits_no_longer() {
    let mut table = LockTable::new(config());
    let k = key("k");
    assert_eq!(table.ask(&k, ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(table.ask(&k, ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&k, ask(3, EXCLUSIVE, true), 0), Asked::Waits);
    table.release_all(id(2));
    assert_eq!(table.effects(), [Effect::Late(2)]);
    table.release_all(id(1));
    assert_eq!(table.effects(), [Effect::Go(3)]);
    table.assert_invariants();
}

#[test]
fn who_may_be_waited_for_does_not_wait_for_an_older_one_for_long() {
    let mut table = LockTable::new(config());
    let k = key("k");
    let yields = |of| Ask {
        yields: true,
        ..ask(of, EXCLUSIVE, true)
    };
    assert_eq!(table.ask(&k, ask(5, EXCLUSIVE, true), 0), Asked::Free);
    // Older than the holder, and younger than the second waiter, which is what it is told.
    assert_eq!(table.ask(&k, yields(2), 0), Asked::Waits);
    assert_eq!(table.ask(&k, yields(3), 0), Asked::Waits);
    assert_eq!(table.wake_at_ns(&k, 2), Some(100));
    assert_eq!(table.wake_at_ns(&k, 3), Some(10));
    table.check(&k, 10);
    assert_eq!(table.effects(), [push(3, &k, 2)]);
    table.check(&k, 100);
    assert_eq!(table.effects(), [push(2, &k, 5)]);
}

#[test]
fn the_table_is_bounded() {
    let mut table = LockTable::new(Config {
        waiters_max: 2,
        locks_max: 1,
        ..config()
    });
    assert_eq!(table.ask(&key("b"), ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(
        table.ask(&key("a"), ask(1, EXCLUSIVE, true), 0),
        Asked::Free,
        "what nobody waits for is given up"
    );
    assert_eq!(table.len(), (0, 1));
    assert_eq!(table.ask(&key("a"), ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&key("a"), ask(3, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&key("a"), ask(4, EXCLUSIVE, true), 0), Asked::Full);
    assert_eq!(table.ask(&key("b"), ask(1, EXCLUSIVE, true), 0), Asked::Full);
    table.assert_invariants();
}

/// Random requests, whose queues are kept as plain lists beside.
#[test]
fn nobody_is_overtaken() {
    for seed in 0..300 {
        let mut prng = Prng::new(seed);
        let mut table = LockTable::new(config());
        // Who waits on which key, in their order; who keeps what.
        let mut waiting: BTreeMap<&str, Vec<(u64, Strength)>> = BTreeMap::new();
        let mut wants: BTreeMap<u64, (&str, Strength)> = BTreeMap::new();
        let mut holds: BTreeMap<u64, Vec<(&str, Strength)>> = BTreeMap::new();
        let mut next = 1;
        for _ in 0..300 {
            let fits = |one, other| one == SHARED && other == SHARED;
            let mut granted: Vec<u64> = Vec::new();
            if prng.chance(0.5) {
                let name = ["a", "b"][prng.index(2)];
                let strength = [SHARED, EXCLUSIVE][prng.index(2)];
                let is_new = prng.chance(0.8);
                let busy: Vec<u64> = holds
                    .keys()
                    .copied()
                    .filter(|of| !wants.contains_key(of))
                    .collect();
                let of = if is_new || busy.is_empty() {
                    next
                } else {
                    busy[prng.index(busy.len())]
                };
                next += u64::from(of == next);
                wants.insert(of, (name, strength));
                let mut request = ask(of, strength, true);
                request.deadline_ns = u64::MAX;
                match table.ask(&key(name), request, 0) {
                    Asked::Free => granted.push(of),
                    Asked::Waits => waiting.entry(name).or_default().push((of, strength)),
                    Asked::Full => unreachable!("far below the bounds"),
                }
            } else if let Some(of) = holds.keys().copied().nth(prng.index(holds.len().max(1))) {
                if let Some((name, _)) = wants.remove(&of) {
                    table.cancel(&key(name), of);
                    waiting
                        .get_mut(name)
                        .expect("it waits")
                        .retain(|(waiter, _)| *waiter != of);
                }
                holds.remove(&of);
                table.release_all(id(of));
            }
            granted.extend(table.effects().into_iter().filter_map(|effect| match effect {
                Effect::Go(of) => Some(of),
                Effect::Late(_) | Effect::Push { .. } => None,
            }));
            for of in granted {
                let (name, strength) = wants.remove(&of).expect("it asked");
                let queue = waiting.entry(name).or_default();
                let had_it = holds
                    .get(&of)
                    .is_some_and(|all| all.iter().any(|(known, _)| *known == name));
                let position = queue.iter().position(|(waiter, _)| *waiter == of);
                let ahead = &queue[..position.unwrap_or(queue.len())];
                assert!(
                    had_it || ahead.iter().all(|(_, other)| fits(*other, strength)),
                    "seed {seed}: {of} overtakes {ahead:?}"
                );
                queue.retain(|(waiter, _)| *waiter != of);
                for (other, all) in &holds {
                    let conflicts =
                        |(known, held): &(&str, Strength)| *known == name && !fits(*held, strength);
                    assert!(
                        *other == of || !all.iter().any(conflicts),
                        "seed {seed}: {of} and {other} hold {name}"
                    );
                }
                holds.entry(of).or_default().push((name, strength));
            }
            table.assert_invariants();
        }
    }
}

/// A cycle of any length, each wait known in a range of its own, is broken once, at its youngest.
#[test]
fn a_deadlock_is_broken_at_the_youngest() {
    for length in 2..8_u64 {
        for turn in 0..length {
            // Transaction n waits for the next one; ages are turned around the ring.
            let member = |n: u64| who(10 + (n + turn) % length, Priority::Normal);
            let mut ranges: BTreeMap<TxnId, PushQueue<u64>> = BTreeMap::new();
            for n in 0..length {
                let edge = Edge {
                    waiter: member(n),
                    holder: member(n + 1),
                };
                let queue = ranges.entry(edge.holder.id).or_insert_with(|| PushQueue::new(8));
                assert!(queue.wait(n, edge));
            }
            // One more waits for the ring, is younger than all of it, and no part of it.
            let edge = Edge {
                waiter: who(99, Priority::Normal),
                holder: member(0),
            };
            assert!(ranges.get_mut(&member(0).id).expect("a range").wait(99, edge));
            let mut forced = Vec::new();
            for _ in 0..length {
                for n in 0..length {
                    let edges = ranges[&member(n).id].dependents(member(n).id);
                    let queue = ranges.get_mut(&member(n + 1).id).expect("a range");
                    if let Found::Force { waiter, cycle } = queue.learn(n, edges) {
                        assert_eq!((waiter, cycle.len() as u64), (n, length));
                        forced.push(cycle[0].id);
                    }
                }
            }
            forced.dedup();
            assert_eq!(
                forced,
                [who(10 + length - 1, Priority::Normal).id],
                "{length} by {turn}"
            );
        }
    }
}

#[test]
fn what_is_no_cycle_is_left_alone() {
    let mut queue = PushQueue::new(2);
    let edge = |waiter, holder| Edge {
        waiter: who(waiter, Priority::Normal),
        holder: who(holder, Priority::Normal),
    };
    assert!(queue.wait(1, edge(1, 2)));
    assert!(queue.wait(2, edge(2, 3)));
    assert!(!queue.wait(3, edge(3, 4)), "there is no room");
    let known = queue.dependents(who(2, Priority::Normal).id);
    assert_eq!(known, [edge(1, 2)]);
    assert_eq!(queue.learn(2, known), Found::Nothing);
    assert_eq!(queue.ended(who(3, Priority::Normal).id), [2]);
    assert!(queue.wait(3, edge(3, 4)));
}

#[test]
fn what_a_batch_asks_for_and_what_an_answer_lets_go_of() {
    let mut table = LockTable::new(config());
    let own = who(1, Priority::Normal);
    let get = |text: &str| Request::GetLocked {
        key: key(text),
        strength: EXCLUSIVE,
        alone: false,
    };
    let write = Request::Write {
        key: key("a"),
        seq: Seq(1),
        value: None,
        pipelined: false,
    };
    let batch = |requests: Vec<Request>| Batch {
        header: Some(Header {
            who: own.clone(),
            epoch: Epoch(0),
            read_ts: Timestamp::ZERO,
            write_ts: Timestamp::ZERO,
            limit: Timestamp::ZERO,
            blind: false,
            ignored: Arc::new([]),
        }),
        requests: (0..).zip(requests).collect(),
    };
    let change = Request::Change {
        key: key("d"),
        seq: Seq(2),
        change: Change::Min(1),
        given: Arc::new([]),
        alone: true,
    };
    let asks = batch(vec![change, get("c"), write, get("b")]).asks();
    let expected = [
        (key("a"), EXCLUSIVE, false),
        (key("b"), EXCLUSIVE, true),
        (key("c"), EXCLUSIVE, true),
        (key("d"), EXCLUSIVE, false),
    ];
    assert_eq!(asks, expected);
    let locked = |table: &mut LockTable<u64>| {
        for text in ["b", "c", "d"] {
            assert_eq!(table.ask(&key(text), ask(1, EXCLUSIVE, true), 0), Asked::Free);
        }
    };
    locked(&mut table);
    assert_eq!(table.ask(&key("c"), ask(2, EXCLUSIVE, false), 0), Asked::Waits);
    let resolve = |verdict| Request::Resolve {
        keys: Keys::Span(key("a"), Some(key("d"))),
        txn: own.id,
        verdict,
    };
    // It is only moved, and goes on.
    let moved = Verdict::Moved {
        epoch: Epoch(0),
        ts: Timestamp::ZERO,
    };
    table.on_answer(&batch(vec![resolve(moved)]), &Ok(vec![(0, Reply::Done)]));
    assert_eq!(table.keys_of(own.id).len(), 3);
    // A part of a span was told, then the rest.
    let told = batch(vec![resolve(Verdict::Aborted)]);
    table.on_answer(&told, &Ok(vec![(0, Reply::Partly { next: key("c") })]));
    assert_eq!(table.keys_of(own.id), [key("c"), key("d")]);
    assert_eq!(table.effects(), []);
    table.on_answer(&told, &Ok(vec![(0, Reply::Done)]));
    assert_eq!(table.keys_of(own.id), [key("d")]);
    assert_eq!(table.effects(), [Effect::Go(2)]);
    // The end in this range lets go of all; one that is only staged, or refused, of nothing.
    let end = batch(vec![Request::End {
        end: End::Rollback,
        locks: Arc::new([]),
    }]);
    let ts = Timestamp::ZERO;
    table.on_answer(&end, &Ok(vec![(0, Reply::Ended(Ended::Staged { ts }))]));
    table.on_answer(&end, &Err((0, Refusal::Aborted)));
    assert_eq!(table.keys_of(own.id), [key("d")]);
    let rest = Arc::new([]);
    table.on_answer(&end, &Ok(vec![(0, Reply::Ended(Ended::Aborted { rest }))]));
    assert!(table.keys_of(own.id).is_empty());
    // So does one that was refused for good.
    assert_eq!(table.ask(&key("b"), ask(1, EXCLUSIVE, true), 0), Asked::Free);
    let unmet = Box::new(Unmet {
        key: key("b"),
        missed: Missed::Bounds,
        found: None,
        ts,
    });
    table.on_answer(&end, &Ok(vec![(0, Reply::Ended(Ended::Unmet { unmet }))]));
    assert!(table.keys_of(own.id).is_empty());
    table.assert_invariants();
}
