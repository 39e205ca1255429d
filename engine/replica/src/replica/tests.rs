use super::*;
use base::{ClientId, Term};

/// Where a new group begins.
pub(super) const START: Index = Index(1);

pub(super) fn ts(n: u64) -> Timestamp {
    Timestamp::new(n, 0)
}

pub(super) fn id(seq: u64) -> WriteId {
    WriteId {
        client: ClientId(1),
        seq,
        acked_below: 1,
    }
}

pub(super) fn fresh() -> Replica<&'static str> {
    Replica::open(
        (RangeId(2), Span::all()),
        START,
        &Replica::<()>::initial_state(&Group::alone()),
    )
    .expect("the initial state")
}

pub(super) fn put(key: &'static [u8]) -> [WriteOp<'static>; 1] {
    [WriteOp::Put { key, value: b"v" }]
}

/// Where the entry at `index` stands.
pub(super) fn at(index: Index) -> At {
    let term = Term(1);
    At {
        mark: Mark { term, index },
        chain: 0,
    }
}

pub(super) fn propose(
    replica: &mut Replica<&'static str>,
    seq: u64,
    at: u64,
    key: &'static [u8],
) -> (Index, Vec<u8>) {
    let mut bytes = Vec::new();
    let index = replica.propose_write(&id(seq), ts(at), put(key).into_iter(), &mut bytes);
    replica.assert_invariants();
    (index, bytes)
}

fn admit(
    replica: &Replica<&'static str>,
    seq: u64,
    condition: Option<&'static [u8]>,
    key: &'static [u8],
) -> Admission {
    let conditions: Vec<_> = condition
        .map(|key| Condition::Absent { key })
        .into_iter()
        .collect();
    replica.admit(&id(seq), conditions.into_iter(), put(key).into_iter())
}

#[test]
fn a_write_passes_from_proposal_to_application() {
    let mut replica = fresh();
    assert_eq!(admit(&replica, 1, None, b"a"), Admission::Propose);
    let (index, bytes) = propose(&mut replica, 1, 10, b"a");
    assert_eq!(index, Index(2));
    assert_eq!(
        admit(&replica, 1, None, b"a"),
        Admission::Wait,
        "the first try is in flight"
    );
    let Ok(Applied::Write { ts: at, ops }) = replica.apply(at(index), &bytes) else {
        panic!("a write")
    };
    assert_eq!((at, ops.len()), (ts(10), 1));
    assert_eq!(admit(&replica, 1, None, b"a"), Admission::Applied(ts(10)));
    replica.assert_invariants();
}

#[test]
fn a_conditional_write_waits_for_writes_in_flight_on_its_keys_only() {
    let mut replica = fresh();
    let (index, bytes) = propose(&mut replica, 1, 10, b"a");
    assert_eq!(admit(&replica, 2, Some(b"a"), b"z"), Admission::Wait);
    assert_eq!(admit(&replica, 2, Some(b"b"), b"a"), Admission::Evaluate);
    replica.apply(at(index), &bytes).expect("a write");
    assert_eq!(admit(&replica, 2, Some(b"a"), b"z"), Admission::Evaluate);
}

#[test]
fn a_conditional_write_waits_for_a_range_deletion_over_its_key() {
    let mut replica = fresh();
    let mut bytes = Vec::new();
    let ops = [WriteOp::DeleteRange {
        start: b"a",
        end: Some(b"c"),
    }];
    let index = replica.propose_write(&id(1), ts(10), ops.into_iter(), &mut bytes);
    assert_eq!(admit(&replica, 2, Some(b"b"), b"b"), Admission::Wait);
    assert_eq!(admit(&replica, 2, Some(b"c"), b"c"), Admission::Evaluate);
    replica.apply(at(index), &bytes).expect("a write");
    assert_eq!(admit(&replica, 2, Some(b"b"), b"b"), Admission::Evaluate);
}

#[test]
fn reserved_keys_hold_others_back_until_released() {
    let mut replica = fresh();
    let condition = [Condition::Absent { key: b"a" }];
    replica.reserve(condition.into_iter());
    assert_eq!(admit(&replica, 2, None, b"a"), Admission::Wait);
    assert_eq!(admit(&replica, 2, Some(b"a"), b"b"), Admission::Wait);
    assert_eq!(admit(&replica, 2, None, b"b"), Admission::Propose);
    replica.release(condition.into_iter());
    assert_eq!(admit(&replica, 2, None, b"a"), Admission::Propose);
}

#[test]
fn a_split_blocks_then_makes_two_replicas_with_the_same_sessions() {
    let mut replica = fresh();
    let (index, bytes) = propose(&mut replica, 1, 10, b"z");
    let mut split = Vec::new();
    let split_index = replica.propose_split(ts(11), RangeId(5), b"m", &mut split);
    assert_eq!(admit(&replica, 2, None, b"a"), Admission::Wait);
    replica.park("write 2");
    assert!(!replica.has_runnable());
    replica.apply(at(index), &bytes).expect("a write");
    let applied = replica.apply(at(split_index), &split).expect("a split");
    assert_eq!(
        applied,
        Applied::Split {
            right: RangeId(5),
            at: b"m"
        }
    );
    let right = replica.split_off(RangeId(5), b"m");
    assert_eq!(replica.descriptor().span, Span::new(b"", Some(b"m")));
    assert_eq!(right.descriptor().span, Span::new(b"m", None));
    assert_eq!(admit(&right, 1, None, b"z"), Admission::Applied(ts(10)));
    assert!(replica.has_runnable());
    assert_eq!(replica.unpark(), ["write 2"]);
    replica.assert_invariants();
    right.assert_invariants();
}

#[test]
fn reads_are_safe_below_the_oldest_write_in_flight() {
    let mut replica = fresh();
    assert_eq!(replica.safe_ts(ts(9)), ts(9));
    let (index, bytes) = propose(&mut replica, 1, 10, b"a");
    propose(&mut replica, 2, 12, b"b");
    assert_eq!(replica.safe_ts(ts(20)), ts(10).prev());
    replica.apply(at(index), &bytes).expect("a write");
    assert_eq!(replica.safe_ts(ts(20)), ts(12).prev());
}

#[test]
fn the_state_survives_a_restart_and_replay_continues_it() {
    let mut replica = fresh();
    let (index, bytes) = propose(&mut replica, 1, 10, b"a");
    replica.apply(at(index), &bytes).expect("a write");
    let state = replica.encode_state();
    let (second, second_bytes) = propose(&mut replica, 2, 11, b"b");
    let mut reopened =
        Replica::<&str>::open((RangeId(2), Span::all()), index, &state).expect("its own state");
    assert_eq!(admit(&reopened, 1, None, b"a"), Admission::Applied(ts(10)));
    assert_eq!(admit(&reopened, 2, None, b"b"), Admission::Propose);
    reopened.apply(at(second), &second_bytes).expect("replayed");
    assert_eq!(admit(&reopened, 2, None, b"b"), Admission::Applied(ts(11)));
    reopened.assert_invariants();
    assert!(Replica::<&str>::open((RangeId(2), Span::all()), index, &state[1..]).is_err());
}

#[test]
fn what_a_leader_adds_by_itself_comes_between_commands() {
    let mut replica = fresh();
    replica.lead(Index(2), Timestamp::ZERO);
    let (index, bytes) = propose(&mut replica, 1, 10, b"a");
    assert_eq!(index, Index(3));
    replica.apply_members(at(Index(2)), None);
    let members = Membership::of_voters([1, 2].map(ReplicaId));
    replica.apply(at(index), &bytes).expect("a write");
    replica.lead(Index(4), Timestamp::ZERO);
    assert!(replica.group().is_alone());
    replica.apply_members(at(Index(4)), Some(members.into()));
    assert!(!replica.group().is_alone());
    let state = replica.encode_state();
    let reopened = Replica::<&str>::open((RangeId(2), Span::all()), Index(4), &state).expect("its own state");
    assert_eq!(reopened.group(), replica.group());
    assert!(
        Replica::<&str>::open((RangeId(2), Span::all()), Index(3), &state).is_err(),
        "the state of another index"
    );
}

#[test]
fn what_was_proposed_by_a_leader_that_is_none_any_more_may_come_from_another() {
    let mut replica = fresh();
    replica.lead(Index(2), ts(5));
    replica.apply_members(at(Index(2)), None);
    let (first, bytes) = propose(&mut replica, 1, 10, b"a");
    propose(&mut replica, 2, 11, b"b");
    replica.follow();
    replica.assert_invariants();
    assert_eq!(replica.in_flight(), 0);
    assert_eq!(admit(&replica, 1, Some(b"a"), b"a"), Admission::Evaluate);
    // The first one was committed after all, the second one was not.
    replica.apply(at(first), &bytes).expect("a write");
    assert_eq!(admit(&replica, 1, None, b"a"), Admission::Applied(ts(10)));
    assert_eq!(admit(&replica, 2, None, b"b"), Admission::Propose);
    assert_eq!(
        replica.last_ts(),
        ts(11),
        "nothing is proposed at a time that was used"
    );
}

#[test]
fn a_leader_proposes_above_what_others_may_have_shown() {
    let mut replica = fresh();
    replica.lead(Index(2), ts(100));
    assert_eq!(replica.last_ts(), ts(100));
    let mut bytes = Vec::new();
    let early = std::panic::AssertUnwindSafe(|| {
        replica.propose_write(&id(1), ts(100), put(b"a").into_iter(), &mut bytes)
    });
    assert!(std::panic::catch_unwind(early).is_err());
}

#[test]
fn the_state_of_another_replica_becomes_ones_own() {
    let mut theirs = fresh();
    theirs.set_hard_state(HardState {
        term: Term(7),
        vote: Some(ReplicaId(1)),
        repairing: None,
    });
    let (index, bytes) = propose(&mut theirs, 1, 10, b"a");
    theirs.apply(at(index), &bytes).expect("a write");
    let mine = HardState {
        term: Term(9),
        vote: None,
        repairing: None,
    };
    let state = theirs.encode_state();
    let (group, adopted) =
        Replica::<()>::adopt_state(RangeId(2), index, &state, (ReplicaId(3), mine)).expect("its own state");
    assert_eq!(group, *theirs.group());
    let opened = Replica::<&str>::open((RangeId(2), Span::all()), index, &adopted).expect("an adopted state");
    assert_eq!(
        (opened.group().id, opened.group().hard_state),
        (ReplicaId(3), mine)
    );
    assert_eq!(opened.group().applied, theirs.group().applied);
    assert_eq!(admit(&opened, 1, None, b"a"), Admission::Applied(ts(10)));
    assert!(Replica::<()>::adopt_state(RangeId(2), Index(9), &state, (ReplicaId(3), mine)).is_err());
}

#[test]
fn who_absorbs_a_range_is_as_new_as_that_was() {
    let mut left = fresh();
    let mut bytes = Vec::new();
    let index = left.propose_split(ts(10), RangeId(5), b"m", &mut bytes);
    left.apply(at(index), &bytes).expect("a split");
    let mut right = left.split_off(RangeId(5), b"m");
    let (index, bytes) = propose(&mut right, 1, 90, b"x");
    right.apply(at(index), &bytes).expect("a write");
    let step = |replica: &mut Replica<&'static str>, now: u64, step: MergeStep| {
        let mut bytes = Vec::new();
        let index = replica.propose_merge(ts(now), step, &mut bytes);
        if !matches!(step, MergeStep::Absorb { .. }) {
            replica.apply(at(index), &bytes).expect("a step");
        }
        (index, bytes)
    };
    let of = RangeId(5);
    let (merge, _) = step(&mut left, 20, MergeStep::Expect { right: of });
    let generation = left.descriptor().generation;
    let frozen = MergeStep::Subsume {
        left: RangeId(2),
        merge,
        generation,
    };
    step(&mut right, 95, frozen);
    let (index, bytes) = step(&mut left, 96, MergeStep::Absorb { right: of, merge });
    let state = left.absorbed_state(at(index), ts(96), &right);
    left.absorb(at(index), &bytes, &right).expect("it expects that");
    assert_eq!(left.applied_ts(), ts(96), "its own entry");
    assert!(left.applied_ts() >= right.applied_ts());
    // The same after a restart.
    let again = Replica::<()>::open((RangeId(2), Span::all()), index, &state).expect("its state");
    assert_eq!(again.applied_ts(), ts(96));
}
