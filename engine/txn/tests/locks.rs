//! The lock table and the search for deadlocks: stories, and random requests against a plain model.

use base::{ClientId, Prng, Timestamp};
use corelane_txn::deadlock::{Edge, Found, PushQueue};
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

fn ask(waiter: u64, strength: Strength, keeps: bool) -> Ask<u64> {
    Ask {
        waiter,
        who: Some(who(waiter, Priority::Normal)),
        strength,
        keeps,
        deadline_ns: 1_000,
    }
}

fn config() -> Config {
    Config {
        push_after_ns: 100,
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
    let first = who(1, Priority::Normal);
    assert_eq!(
        table.met_intent(&k, &first, ask(2, EXCLUSIVE, false), 0),
        Asked::Waits
    );
    for waiter in 3..6 {
        assert_eq!(table.ask(&k, ask(waiter, EXCLUSIVE, false), 0), Asked::Waits);
    }
    let mut holder = first;
    for next in 2..6 {
        table.release(&k, holder.id);
        assert_eq!(
            table.effects(),
            [Effect::Go(next)],
            "one at a time, in their order"
        );
        assert_eq!(
            table.ask(&k, ask(9, SHARED, false), 0),
            if next < 5 { Asked::Waits } else { Asked::Free }
        );
        table.cancel(&k, 9);
        holder = who(next, Priority::Normal);
        table.passed(&k, Some(&holder));
        table.assert_invariants();
    }
    table.release(&k, holder.id);
    assert!(table.is_empty());
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
    table.release_all(who(1, Priority::Normal).id);
    assert_eq!(table.effects(), []);
    table.release_all(who(2, Priority::Normal).id);
    assert_eq!(table.effects(), [Effect::Go(3)]);
    table.release_all(who(3, Priority::Normal).id);
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
    high.who = Some(who(3, Priority::High));
    assert_eq!(table.ask(&k, high, 0), Asked::Waits);
    let push = |waiter, holder| Effect::Push {
        waiter,
        key: k.clone(),
        holder: who(holder, Priority::Normal),
    };
    assert_eq!(table.effects(), [push(3, 1)]);
    table.tick(99);
    assert_eq!(table.effects(), []);
    table.tick(100);
    assert_eq!(table.effects(), [push(2, 1)]);
    table.tick(1_000);
    assert_eq!(table.effects(), [Effect::Late(2), Effect::Late(3)]);
    table.assert_invariants();
}

#[test]
fn the_table_is_bounded() {
    let mut table = LockTable::new(Config {
        waiters_max: 2,
        locks_max: 1,
        push_after_ns: 0,
    });
    assert_eq!(table.ask(&key("a"), ask(1, EXCLUSIVE, true), 0), Asked::Free);
    assert_eq!(table.ask(&key("b"), ask(1, EXCLUSIVE, true), 0), Asked::Full);
    assert_eq!(table.ask(&key("a"), ask(2, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&key("a"), ask(3, EXCLUSIVE, true), 0), Asked::Waits);
    assert_eq!(table.ask(&key("a"), ask(4, EXCLUSIVE, true), 0), Asked::Full);
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
                table.release_all(who(of, Priority::Normal).id);
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
    let asks = batch(vec![get("c"), write, get("b")]).asks();
    let expected = [
        (key("a"), EXCLUSIVE, false),
        (key("b"), EXCLUSIVE, true),
        (key("c"), EXCLUSIVE, true),
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
    assert_eq!(table.held(own.id).len(), 3);
    // A part of a span was told, then the rest.
    let told = batch(vec![resolve(Verdict::Aborted)]);
    table.on_answer(&told, &Ok(vec![(0, Reply::Partly { next: key("c") })]));
    assert_eq!(table.held(own.id), [key("c"), key("d")]);
    assert_eq!(table.effects(), []);
    table.on_answer(&told, &Ok(vec![(0, Reply::Done)]));
    assert_eq!(table.held(own.id), [key("d")]);
    assert_eq!(table.effects(), [Effect::Go(2)]);
    // The end in this range lets go of all; one that is only staged, or refused, of nothing.
    let end = batch(vec![Request::End {
        end: End::Rollback,
        locks: Arc::new([]),
    }]);
    let ts = Timestamp::ZERO;
    table.on_answer(&end, &Ok(vec![(0, Reply::Ended(Ended::Staged { ts }))]));
    table.on_answer(&end, &Err((0, Refusal::Aborted)));
    assert_eq!(table.held(own.id), [key("d")]);
    let rest = Arc::new([]);
    table.on_answer(&end, &Ok(vec![(0, Reply::Ended(Ended::Aborted { rest }))]));
    assert!(table.held(own.id).is_empty());
    table.assert_invariants();
}
