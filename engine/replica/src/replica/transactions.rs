//! Requests of transactions beside plain writes.

use super::tests::{START, at, fresh, id, propose, put, ts};
use super::*;
use crate::provisional::Made;
use base::ClientId;
use std::collections::BTreeMap;
use txn::request::Request;
use txn::{
    Batch, Epoch, Header, Intent, Isolation, Memory, Mutation, Outcome, Priority, Record, Seq, TxnId, Who,
};

fn who(seq: u64) -> Arc<Who> {
    Arc::new(Who {
        id: TxnId {
            client: ClientId(5),
            seq,
        },
        anchor: Bytes::from(&b"k"[..]),
        name: "".into(),
        isolation: Isolation::Snapshot,
        priority: Priority::Normal,
        start_ts: ts(1),
    })
}

fn lay(seq: u64, key: &[u8], at: u64) -> Mutation {
    let intent = Intent {
        who: who(seq),
        epoch: Epoch(0),
        seq: Seq(1),
        ts: ts(at),
        local_ts: ts(at),
        value: Some(Bytes::from(&b"new"[..])),
        earlier: Vec::new(),
    };
    Mutation::Lay {
        key: key.into(),
        intent,
    }
}

fn commit(key: &[u8], at: u64) -> Mutation {
    Mutation::Commit {
        key: key.into(),
        ts: ts(at),
        seq: Seq(1),
    }
}

fn change(replica: &mut Replica<&'static str>, at: u64, mutations: &[Mutation]) -> (Index, Vec<u8>) {
    let mut bytes = Vec::new();
    let index = replica.propose_change(ts(at), mutations, &mut bytes);
    replica.assert_invariants();
    (index, bytes)
}

fn apply(replica: &mut Replica<&'static str>, (index, bytes): &(Index, Vec<u8>)) -> Vec<Made> {
    match replica.apply(at(*index), bytes) {
        Ok(Applied::Change { done, .. }) => done.made,
        other => panic!("not a change: {other:?}"),
    }
}

fn admit(replica: &Replica<&'static str>, seq: u64, key: &'static [u8]) -> Admission {
    replica.admit(&id(seq), core::iter::empty(), put(key).into_iter())
}

fn write(seq: u64, key: &[u8], read_ts: u64) -> Batch {
    let header = Header {
        who: who(seq),
        epoch: Epoch(0),
        read_ts: ts(read_ts),
        write_ts: ts(read_ts),
        limit: ts(read_ts),
        blind: false,
        ignored: Arc::new([]),
    };
    let request = Request::Write {
        key: key.into(),
        seq: Seq(1),
        value: None,
        pipelined: false,
    };
    Batch {
        header: Some(header),
        requests: vec![(0, request)],
    }
}

#[test]
fn a_write_waits_for_a_change_in_flight_and_meets_its_intent() {
    let mut replica = fresh();
    let laid = change(&mut replica, 10, &[lay(1, b"k", 8)]);
    assert_eq!(admit(&replica, 1, b"k"), Admission::Wait);
    assert_eq!(admit(&replica, 1, b"other"), Admission::Propose);
    assert_eq!(apply(&mut replica, &laid), []);
    let Admission::Meets(met) = admit(&replica, 1, b"k") else {
        panic!("an intent is in the way")
    };
    assert_eq!((met.seen.who.id.seq, met.seen.ts), (1, ts(8)));
    let resolved = change(&mut replica, 12, &[commit(b"k", 8)]);
    let made = apply(&mut replica, &resolved);
    assert_eq!((made.len(), made[0].ts, &*made[0].key), (1, ts(8), &b"k"[..]));
    assert_eq!(admit(&replica, 1, b"k"), Admission::Propose);
}

#[test]
fn reads_wait_for_what_is_in_flight_below_them_and_meet_intents_below_them() {
    let mut replica = fresh();
    let laid = change(&mut replica, 10, &[lay(1, b"k", 8)]);
    assert_eq!(replica.read_at(b"a", Some(b"z"), ts(8)), Err(Barred::Wait));
    assert_eq!(replica.read_at(b"a", Some(b"z"), ts(7)), Ok(()));
    assert_eq!(replica.met_by_get(b"k"), None, "it was not answered");
    apply(&mut replica, &laid);
    assert!(matches!(
        replica.read_at(b"a", Some(b"z"), ts(8)),
        Err(Barred::Meets(_))
    ));
    assert_eq!(replica.read_at(b"a", Some(b"k"), ts(8)), Ok(()));
    assert_eq!(replica.read_at(b"a", Some(b"z"), ts(7)), Ok(()));
    assert!(replica.met_by_get(b"k").is_some());
    assert!(!replica.may_show(b"a", None, ts(8)) && replica.may_show(b"a", None, ts(7)));
}

#[test]
fn reads_are_noted_once_a_transaction_has_asked() {
    let mut replica = fresh();
    assert!(
        replica.cache(ts(20)).floor(b"k", None) > ts(20),
        "nothing was noted before"
    );
    assert_eq!(replica.read_at(b"a", Some(b"z"), ts(30)), Ok(()));
    assert!(replica.cache(ts(25)).floor(b"k", None) > ts(30));
    replica.follow();
    replica.lead(START, ts(90));
    assert!(
        replica.cache(ts(100)).floor(b"k", None) > ts(100),
        "another leader begins above all"
    );
}

#[test]
fn a_batch_that_waits_is_not_overtaken() {
    let mut replica = fresh();
    let plain = propose(&mut replica, 1, 10, b"k");
    let batch = write(1, b"k", 9);
    let touched = replica.touched(&batch);
    assert!(
        !replica.admit_batch(&touched, None),
        "a write of the key is in flight"
    );
    let ticket = replica.latch(&touched);
    assert_eq!(
        admit(&replica, 2, b"k"),
        Admission::Wait,
        "it would come in between"
    );
    assert_eq!(admit(&replica, 2, b"other"), Admission::Propose);
    let later = replica.touched(&write(2, b"k", 9));
    assert!(!replica.admit_batch(&later, None));
    let behind = replica.latch(&later);
    replica.apply(at(plain.0), &plain.1).expect("a write");
    assert!(replica.admit_batch(&touched, Some(ticket)));
    assert!(
        !replica.admit_batch(&later, Some(behind)),
        "the first one has not gone"
    );
    let laid = change(&mut replica, 20, &[lay(1, b"k", 15)]);
    replica.unlatch(ticket);
    assert!(
        !replica.admit_batch(&later, Some(behind)),
        "what the first one changed is in flight"
    );
    apply(&mut replica, &laid);
    assert!(replica.admit_batch(&later, Some(behind)));
    replica.unlatch(behind);
    assert!(matches!(admit(&replica, 2, b"k"), Admission::Meets(_)));
}

#[test]
fn a_read_of_a_batch_waits_only_for_what_it_may_see() {
    let mut replica = fresh();
    let read = |read_ts: u64| {
        let mut batch = write(1, b"k", read_ts);
        batch.requests[0].1 = Request::Get {
            key: Bytes::from(&b"k"[..]),
        };
        batch
    };
    propose(&mut replica, 1, 10, b"k");
    assert!(!replica.admit_batch(&replica.touched(&read(10)), None));
    assert!(
        replica.admit_batch(&replica.touched(&read(9)), None),
        "what is in flight is newer"
    );
    let latched = replica.touched(&write(2, b"k", 9));
    let ticket = replica.latch(&latched);
    assert!(
        replica.admit_batch(&replica.touched(&read(9)), None),
        "reads pass by latches"
    );
    replica.unlatch(ticket);
}

#[test]
fn intents_records_and_outcomes_are_written_with_the_state_and_split_with_the_range() {
    let mut replica = fresh();
    let record = Record {
        who: who(3),
        status: txn::Status::Pending,
        epoch: Epoch(0),
        write_ts: ts(9),
        in_flight: Arc::new([]),
        locks: Arc::new([]),
        ignored: Arc::new([]),
        heard_ts: ts(9),
    };
    let aborted = Mutation::Remember {
        id: who(4).id,
        outcome: Outcome::Aborted,
    };
    let mutations = [
        lay(1, b"a", 8),
        lay(2, b"m", 9),
        Mutation::Record(record),
        aborted,
    ];
    let changed = change(&mut replica, 10, &mutations);
    apply(&mut replica, &changed);
    assert_eq!(replica.memory(who(4).id), Memory::Ended(Outcome::Aborted));
    let state = replica.encode_state();
    let descriptor = (RangeId(2), Span::all());
    let again = Replica::<()>::open(descriptor.clone(), replica.applied_index(), &state).expect("its state");
    assert_eq!(again.provisional, replica.provisional);
    assert_eq!(again.memory(who(4).id), Memory::Ended(Outcome::Aborted));
    assert_eq!(again.sessions_checksum(), replica.sessions_checksum());
    for len in 0..state.len() {
        let cut = Replica::<()>::open(descriptor.clone(), replica.applied_index(), &state[..len]);
        assert!(cut.is_err(), "cut at {len}");
    }
    let right = replica.split_off(RangeId(9), b"k");
    assert_eq!(replica.provisional.len(), (1, 0));
    assert_eq!(right.provisional.len(), (1, 1), "the anchor is k");
    assert!(replica.provisional.held(b"a").is_some() && right.provisional.held(b"m").is_some());
    assert_eq!(
        right.memory(who(4).id),
        Memory::Ended(Outcome::Aborted),
        "either half may be asked"
    );
    assert!(replica.provisional.bytes() > 0 && right.provisional.bytes() > replica.provisional.bytes());
    replica.assert_invariants();
    right.assert_invariants();
}

#[test]
fn the_number_of_an_aborted_transaction_is_not_a_writes() {
    let mut replica = fresh();
    let aborted = Mutation::Remember {
        id: TxnId {
            client: ClientId(1),
            seq: 7,
        },
        outcome: Outcome::Aborted,
    };
    let changed = change(&mut replica, 10, &[aborted]);
    apply(&mut replica, &changed);
    assert_eq!(admit(&replica, 7, b"a"), Admission::Aborted);
}

fn spill(seq: u64, key: &[u8], at: u64, value: &[u8]) -> Mutation {
    let Mutation::Lay { key, mut intent } = lay(seq, key, at) else {
        unreachable!("it lays")
    };
    intent.value = Some(Bytes::from(value));
    Mutation::Spill { key, intent }
}

/// Applies what is proposed; the family of spilled intents as a tablet would have it.
fn apply_spilled(
    replica: &mut Replica<&'static str>,
    tablet: &mut BTreeMap<Vec<u8>, (Timestamp, Vec<u8>)>,
    at_ts: u64,
    mutations: &[Mutation],
) -> Vec<Made> {
    let (index, bytes) = change(replica, at_ts, mutations);
    let done = match replica.apply(at(index), &bytes) {
        Ok(Applied::Change { done, .. }) => done,
        other => panic!("not a change: {other:?}"),
    };
    for op in &done.spilled {
        match op.op() {
            WriteOp::Put { key, value } => drop(tablet.insert(key.to_vec(), (ts(at_ts), value.to_vec()))),
            WriteOp::Delete { key } => drop(tablet.remove(key)),
            WriteOp::DeleteRange { .. } => unreachable!("intents go one by one"),
        }
    }
    replica.assert_invariants();
    done.made
}

#[test]
fn spilled_intents_are_met_as_others_and_are_in_the_tablet() {
    let (mut replica, mut tablet) = (fresh(), BTreeMap::new());
    let spilled = [
        spill(1, b"a", 8, b"one"),
        lay(1, b"b", 8),
        spill(2, b"m", 9, b"two"),
    ];
    assert_eq!(apply_spilled(&mut replica, &mut tablet, 10, &spilled), []);
    assert_eq!(tablet.keys().collect::<Vec<_>>(), [&b"a"[..], b"m"]);
    assert_eq!(replica.provisional.spilled_len(), 2);
    assert!(matches!(admit(&replica, 1, b"m"), Admission::Meets(met) if met.seen.ts == ts(9)));
    assert_eq!(replica.read_at(b"c", Some(b"z"), ts(8)), Ok(()));
    let met = replica.read_at(b"a", Some(b"z"), ts(8));
    assert!(matches!(met, Err(Barred::Meets(met)) if &*met.key == b"a"));
    // Over one that is spilled, over one that is not, and back.
    let again = [
        spill(1, b"a", 12, b"three"),
        spill(1, b"b", 12, b"four"),
        lay(2, b"m", 12),
    ];
    apply_spilled(&mut replica, &mut tablet, 13, &again);
    assert_eq!(tablet.keys().collect::<Vec<_>>(), [&b"a"[..], b"b"]);
    assert_eq!(tablet[&b"a"[..]].0, ts(13));
    let value = Some(Bytes::from(&b"three"[..]));
    let put = Mutation::Put {
        key: b"a"[..].into(),
        ts: ts(12),
        local_ts: ts(12),
        value,
    };
    let gone = |key: &[u8]| Mutation::Drop { key: key.into() };
    let made = apply_spilled(&mut replica, &mut tablet, 20, &[put, gone(b"a"), gone(b"b")]);
    assert_eq!((made.len(), made[0].ts, &*made[0].key), (1, ts(12), &b"a"[..]));
    assert!(tablet.is_empty() && !replica.provisional.has_spilled());
    assert_eq!(replica.provisional.len(), (1, 0));
}

#[test]
fn what_is_spilled_is_read_back_and_held_against_the_state() {
    let (mut replica, mut tablet) = (fresh(), BTreeMap::new());
    for key in 0..20u8 {
        apply_spilled(
            &mut replica,
            &mut tablet,
            10 + u64::from(key),
            &[spill(1, &[key], 9, &[key; 9])],
        );
    }
    let state = replica.encode_state();
    let open = || {
        Replica::<()>::open((RangeId(2), Span::all()), replica.applied_index(), &state).expect("its state")
    };
    let mut again = open();
    assert!(again.provisional.lacks_spilled() && again.check_spilled().is_err());
    for (key, (at, bytes)) in &tablet {
        again
            .restore_spilled(key, *at, bytes)
            .expect("it is what was spilled");
    }
    again.check_spilled().expect("all of it");
    assert_eq!(again.provisional, replica.provisional);
    let (key, (at, bytes)) = tablet.first_key_value().expect("some are");
    assert!(again.restore_spilled(b"one more", *at, bytes).is_err());
    // One of another entry.
    let mut other = open();
    let restored = tablet.iter().map(|(other_key, (at, bytes))| {
        let at = if other_key == key { at.next() } else { *at };
        other.restore_spilled(other_key, at, bytes)
    });
    assert!(restored.collect::<Vec<_>>().last().is_some_and(Result::is_err));
    for bytes in [&b""[..], b"not an intent"] {
        assert!(open().restore_spilled(key, *at, bytes).is_err());
    }
    // Halves have what is theirs, and together they are the same.
    let right = replica.split_off(RangeId(9), &[7]);
    assert_eq!(
        (replica.provisional.spilled_len(), right.provisional.spilled_len()),
        (7, 13)
    );
    assert_eq!(replica.provisional.with(&right.provisional), again.provisional);
    right.assert_invariants();
}
