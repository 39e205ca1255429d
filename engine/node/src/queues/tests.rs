//! Each way in which a request stops to wait.

use super::*;
use base::ClientId;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use txn::locks::Strength;
use txn::request::{End, Ended};
use txn::{Epoch, Header, Isolation, Priority, TxnId, Who};

const MS: u64 = 1_000_000;

fn key() -> Bytes {
    b"k"[..].into()
}

fn batch(of: u64, request: Request) -> Batch {
    let who = Who {
        id: TxnId {
            client: ClientId(of.into()),
            seq: 1,
        },
        anchor: key(),
        name: "".into(),
        isolation: Isolation::Snapshot,
        priority: Priority::Normal,
        start_ts: Timestamp::new(of, 0),
    };
    let header = Header {
        who: Arc::new(who),
        epoch: Epoch(0),
        read_ts: Timestamp::ZERO,
        write_ts: Timestamp::ZERO,
        limit: Timestamp::ZERO,
        blind: false,
        ignored: Arc::new([]),
    };
    Batch {
        header: Some(header),
        requests: vec![(7, request)],
    }
}

fn lock(of: u64, alone: bool) -> Batch {
    let request = Request::GetLocked {
        key: key(),
        strength: Strength::Exclusive,
        alone,
    };
    batch(of, request)
}

fn ask(queues: &mut Queues, batch: &Batch, at_ms: u64) -> Passed {
    let times = (Instant(at_ms * MS), Instant(1_000 * MS));
    queues.ask(batch, Timestamp::new(at_ms, 0), times)
}

fn turn(passed: Passed) -> Turn {
    match passed {
        Passed::Waits(turn) => turn,
        other => panic!("{other:?}"),
    }
}

/// What it has been told; `None` as long as it waits.
fn told(turn: &mut Turn) -> Option<Option<Told>> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut turn.told).poll(&mut context) {
        Poll::Ready(told) => Some(told),
        Poll::Pending => None,
    }
}

fn end(queues: &mut Queues, of: u64) {
    let rest = Arc::new([]);
    let end = Request::End {
        end: End::Rollback,
        locks: Arc::new([]),
    };
    let mut answer = Ok(vec![(7, Reply::Ended(Ended::Aborted { rest }))]);
    queues.on_answer(&batch(of, end), &mut answer);
}

/// A table in which one holds the key and so many wait.
fn crowd(count: u64) -> (Queues, Vec<Turn>) {
    let mut queues = Queues::default();
    assert!(matches!(ask(&mut queues, &lock(1, true), 0), Passed::Free));
    let turns = (0..count).map(|at| turn(ask(&mut queues, &lock(at + 2, true), 0)));
    let turns = turns.collect();
    (queues, turns)
}

#[test]
fn one_after_the_other_goes_on_and_hears_how_many_are_behind() {
    let (mut queues, mut turns) = crowd(2);
    assert_eq!(queues.len(), (2, 1));
    end(&mut queues, 1);
    assert_eq!(told(&mut turns[0]), Some(Some(Told::Go)));
    assert_eq!(told(&mut turns[1]), None);
    assert!(
        matches!(ask(&mut queues, &lock(2, true), 0), Passed::Free),
        "it has the key"
    );
    let locked = |queue| Reply::Locked {
        value: None,
        ts: Timestamp::ZERO,
        queue,
    };
    let mut answer = Ok(vec![(7, locked(0))]);
    queues.on_answer(&lock(2, true), &mut answer);
    assert_eq!(answer, Ok(vec![(7, locked(1))]));
    end(&mut queues, 2);
    assert_eq!(told(&mut turns[1]), Some(Some(Told::Go)));
    end(&mut queues, 3);
    assert_eq!(queues.len(), (0, 0));
    assert!(queues.waiting.is_empty());
}

#[test]
fn who_waits_long_is_told_for_whom_and_comes_back() {
    let (mut queues, mut turns) = crowd(2);
    let wake = queues.wake_at(&turns[0]).expect("it waits");
    assert_eq!(wake, Instant(200 * MS));
    queues.check(&turns[0], wake);
    let Some(Some(Told::Held(seen))) = told(&mut turns[0]) else {
        panic!("it is told")
    };
    assert_eq!(seen.who.id.client, ClientId(1));
    assert_eq!(queues.wake_at(&turns[0]), None);
    let answer = held(&lock(2, true), &key(), seen, Timestamp::ZERO);
    assert!(
        matches!(&answer, Err((7, txn::Refusal::Conflict { conflict, .. })) if conflict.theirs.act == Act::Lock),
        "{answer:?}"
    );
    let mut back = turn(ask(&mut queues, &lock(2, true), 210));
    end(&mut queues, 1);
    assert_eq!(told(&mut back), Some(Some(Told::Go)), "before the one behind it");
}

#[test]
fn who_may_be_waited_for_is_told_soon() {
    let (mut queues, _turns) = crowd(0);
    let hurried = turn(ask(&mut queues, &lock(9, false), 0));
    assert_eq!(queues.wake_at(&hurried), Some(Instant(50 * MS)));
}

#[test]
fn the_deadline_ends_it() {
    let (mut queues, _turns) = crowd(0);
    let times = (Instant(0), Instant(10 * MS));
    let mut late = turn(queues.ask(&lock(2, true), Timestamp::ZERO, times));
    assert_eq!(queues.wake_at(&late), Some(Instant(10 * MS)));
    queues.check(&late, Instant(10 * MS));
    assert_eq!(told(&mut late), Some(Some(Told::Late)));
}

#[test]
fn its_end_ends_it() {
    let (mut queues, mut turns) = crowd(1);
    end(&mut queues, 2);
    assert_eq!(told(&mut turns[0]), Some(Some(Told::Late)));
    assert_eq!(queues.len(), (0, 1));
}

#[test]
fn whoever_waits_at_a_table_that_is_lost_tries_again() {
    // The lease is lost, or the range is split.
    let (mut queues, mut turns) = crowd(3);
    queues.clear();
    assert!(turns.iter_mut().all(|turn| told(turn) == Some(None)));
    assert_eq!(queues.len(), (0, 0));
    // The replica is removed, absorbed, or leaves the shard.
    let (queues, mut turns) = crowd(3);
    drop(queues);
    assert!(turns.iter_mut().all(|turn| told(turn) == Some(None)));
}

#[test]
fn who_met_an_intent_waits_for_it_before_all_others() {
    let (mut queues, mut turns) = crowd(1);
    let met = |of| {
        let seen = Seen {
            ts: Timestamp::new(3, 0),
            ..alive(
                batch(of, Request::Beat).header.as_ref().expect("it has one"),
                Timestamp::ZERO,
            )
        };
        held(&lock(1, true), &key(), seen, Timestamp::ZERO)
    };
    let times = (Instant(0), Instant(1_000 * MS));
    // The first one's lock was void: another leader did not know of it.
    let passed = queues.met(&lock(1, true), &met(8), Timestamp::ZERO, times);
    let mut first = turn(passed.expect("it waits"));
    end(&mut queues, 8);
    assert_eq!(told(&mut first), Some(Some(Told::Go)));
    assert_eq!(told(&mut turns[0]), None);
    // Who has read something, and wants to write, is refused.
    let write = batch(
        2,
        Request::Write {
            key: key(),
            seq: txn::txn::Seq(1),
            value: None,
            pipelined: false,
        },
    );
    let other = batch(9, Request::Beat).header.expect("it has one");
    let refused = held(&write, &key(), alive(&other, Timestamp::ZERO), Timestamp::ZERO);
    assert!(queues.met(&write, &refused, Timestamp::ZERO, times).is_none());
    // So it is when the other one has locked it.
    let (mut queues, _turns) = crowd(0);
    let Passed::Refused(Err((7, txn::Refusal::Conflict { seen, .. }))) = ask(&mut queues, &write, 0) else {
        panic!("it does not wait")
    };
    assert_eq!(seen.who.id.client, ClientId(1));
    // A change reads what is newest then, so it waits.
    let change = batch(
        3,
        Request::Change {
            key: key(),
            seq: txn::txn::Seq(1),
            change: txn::change::Change::Min(1),
            given: Arc::new([]),
            alone: true,
        },
    );
    let mut waits = turn(ask(&mut queues, &change, 0));
    assert_eq!(told(&mut waits), None);
    end(&mut queues, 1);
    assert_eq!(told(&mut waits), Some(Some(Told::Go)));
    end(&mut queues, 3);
    assert!(matches!(ask(&mut queues, &lock(1, true), 0), Passed::Free));
    let mut own = write.clone();
    own.header = lock(1, true).header;
    assert!(matches!(ask(&mut queues, &own, 0), Passed::Free));
    let mut blind = write;
    blind.header.as_mut().expect("it has one").blind = true;
    assert!(queues.met(&blind, &refused, Timestamp::ZERO, times).is_some());
}
