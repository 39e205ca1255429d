//! Every checker finds the anomaly that it is there for, and passes the history without it.

use super::check;
use crate::history::{Action, Call, Keys, Mutation, Outcome, Row, ValueId};
use base::Timestamp;
use base::api::ReadAt;

const KEYS: Keys = Keys {
    groups: 2,
    per_group: 4,
    padding: 0,
};

fn ts(wall_ns: u64) -> Timestamp {
    Timestamp::new(wall_ns, 0)
}

fn value(call: u32) -> ValueId {
    ValueId { call, op: 0, len: 8 }
}

/// A call from one moment to another.
fn call(moments: (u64, u64), action: Action, outcome: Outcome) -> Call {
    Call {
        client: 0,
        action,
        invoked: moments.0,
        answered: moments.1,
        at_ns: 0,
        wall_ns: 0,
        tries: 1,
        outcome,
    }
}

fn put(moments: (u64, u64), key: u16, at: u64) -> Call {
    let action = Action::Write(vec![], vec![Mutation::Put(key, 8)]);
    call(moments, action, Outcome::Applied(ts(at)))
}

fn delete(moments: (u64, u64), key: u16, at: u64) -> Call {
    let action = Action::Write(vec![], vec![Mutation::Delete(key)]);
    call(moments, action, Outcome::Applied(ts(at)))
}

fn get(moments: (u64, u64), key: u16, found: Option<u32>, at: u64) -> Call {
    call(
        moments,
        Action::Get(key, ReadAt::Newest),
        Outcome::Value(found.map(value), ts(at)),
    )
}

fn scan(moments: (u64, u64), at: Option<u64>, read_ts: u64, rows: &[(u16, u32, u64)]) -> Call {
    let row = |&(key, call, at): &(u16, u32, u64)| Row {
        key,
        value: value(call),
        ts: ts(at),
    };
    let action = Action::Scan {
        start: 0,
        end: 8,
        reverse: false,
        at: ReadAt::of(at.map(ts)),
    };
    let outcome = Outcome::Rows {
        read_ts: ts(read_ts),
        rows: rows.iter().map(row).collect(),
        covered: (0, 8),
    };
    call(moments, action, outcome)
}

#[track_caller]
fn good(calls: &[Call]) {
    assert_eq!(check(&KEYS, calls), Vec::<String>::new());
}

#[track_caller]
fn bad(calls: &[Call], about: &str) {
    let wrong = check(&KEYS, calls);
    assert!(
        wrong.iter().any(|line| line.contains(about)),
        "{about:?} is not in {wrong:#?}"
    );
}

#[test]
fn a_history_in_order_passes() {
    good(&[
        put((1, 2), 0, 10),
        get((3, 4), 0, Some(0), 10),
        delete((5, 6), 0, 20),
        get((7, 8), 0, None, 25),
        put((9, 12), 0, 30),
        get((10, 11), 0, None, 25),
        get((13, 14), 0, Some(4), 30),
        scan((15, 16), Some(12), 12, &[(0, 0, 10)]),
        scan((17, 18), None, 40, &[(0, 4, 30)]),
    ]);
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    bad(&[put((1, 2), 0, 10), get((3, 4), 0, None, 15)], "key 0: call 1");
    bad(
        &[put((1, 2), 0, 10), scan((3, 4), None, 15, &[])],
        "read key 0 at",
    );
}

#[test]
fn a_stale_read_is_found() {
    bad(
        &[
            put((1, 2), 0, 10),
            put((3, 4), 0, 20),
            get((5, 6), 0, Some(0), 10),
        ],
        "began after call Some(1)",
    );
    // A scan chooses a timestamp below a write that had been acknowledged.
    bad(
        &[put((1, 2), 0, 10), scan((3, 4), None, 5, &[])],
        "began after call Some(0)",
    );
}

#[test]
fn two_reads_that_go_back_are_found() {
    let long = put((3, 20), 0, 20);
    bad(
        &[
            put((1, 2), 0, 10),
            long,
            get((5, 6), 0, Some(1), 20),
            get((7, 8), 0, Some(0), 10),
        ],
        "began after call Some(2)",
    );
}

#[test]
fn timestamps_against_real_time_are_found() {
    bad(
        &[put((1, 2), 0, 20), put((3, 4), 0, 10)],
        "began after call Some(0)",
    );
}

#[test]
fn a_read_from_the_future_is_found() {
    bad(
        &[get((1, 2), 0, Some(1), 10), put((3, 4), 0, 10)],
        "began after call Some(0)",
    );
}

#[test]
fn a_write_that_happens_twice_is_found() {
    bad(
        &[
            put((1, 2), 0, 10),
            scan((3, 4), Some(11), 11, &[(0, 0, 10)]),
            get((5, 6), 0, Some(0), 12),
        ],
        "applied at",
    );
}

#[test]
fn a_refused_write_that_happens_is_found() {
    let action = Action::Write(vec![], vec![Mutation::Put(0, 8)]);
    let refused = call((1, 2), action, Outcome::Refused(wire::Code::Overloaded));
    bad(&[refused, get((3, 4), 0, Some(0), 10)], "was told");
}

#[test]
fn half_a_batch_is_found() {
    let action = Action::Write(vec![], vec![Mutation::Put(0, 8), Mutation::Put(1, 8)]);
    let unanswered = call((1, u64::MAX), action, Outcome::Unknown);
    let whole = scan((5, 6), None, 20, &[(0, 0, 10)]);
    bad(&[unanswered.clone(), whole], "read key 1 at");
    good(&[unanswered, scan((3, 4), None, 20, &[])]);
}

#[test]
fn a_delete_range_covers_its_keys_and_no_others() {
    let action = Action::Write(vec![], vec![Mutation::DeleteRange(0, 2)]);
    let remove = call((5, 6), action, Outcome::Applied(ts(30)));
    let puts = [put((1, 2), 1, 10), put((3, 4), 2, 20), remove];
    good(&[&puts[..], &[scan((7, 8), None, 40, &[(2, 1, 20)])]].concat());
    bad(
        &[&puts[..], &[scan((7, 8), None, 40, &[(1, 0, 10), (2, 1, 20)])]].concat(),
        "read key 1 at",
    );
    bad(
        &[&puts[..], &[scan((7, 8), None, 40, &[])]].concat(),
        "read key 2 at",
    );
}

#[test]
fn a_condition_that_was_not_looked_at_is_found() {
    let action = Action::Write(vec![(0, None)], vec![Mutation::Put(0, 8)]);
    let blind = call((3, 4), action.clone(), Outcome::Applied(ts(20)));
    bad(&[put((1, 2), 0, 10), blind], "on the condition");
    let failed = call(
        (3, 4),
        action,
        Outcome::ConditionFailed(0, Some(value(0)), ts(20)),
    );
    good(&[put((1, 2), 0, 10), failed.clone()]);
    bad(
        &[
            put((1, 2), 0, 10),
            delete((2, 3), 0, 15),
            Call {
                invoked: 4,
                answered: 5,
                ..failed
            },
        ],
        "call 2",
    );
}

#[test]
fn ten_thousand_calls_on_one_key_are_judged_at_once() {
    let mut calls = Vec::new();
    for n in 0..5_000u64 {
        let at = n * 4;
        calls.push(put((at, at + 3), 0, n + 1));
        let seen = u32::try_from(calls.len() - 1).expect("fits");
        calls.push(get((at + 1, at + 6), 0, Some(seen), n + 1));
    }
    good(&calls);
}
