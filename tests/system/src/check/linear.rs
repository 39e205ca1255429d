//! Linearizability, key by key: there is one order of all writes and reads of the newest value that agrees with what each
//! read saw and with which call ended before which began.
//!
//! ```text
//!   state   0 ──w──► 1 ──w──► 2 ──w──► 3      the order that the timestamps claim
//!   moments ├─ a read that saw state 1 ─┤ ├─ a write that made state 3 ─┤
//! ```
//!
//! With the order of writes given, each call has a place: a write the state that it made, a read the state that it saw. The
//! order exists exactly when no call begins after another one ended that has a later place (for writes: the same place or
//! a later one). A read that found nothing may have several places; the earliest that is allowed constrains later calls least.

use crate::check::timeline::{State, Timeline, write_of};
use crate::history::{Action, Call, KeyNo, Outcome};
use base::api::ReadAt;
use std::collections::BTreeMap;

/// A call that concerns one key.
#[derive(Debug, Clone, Copy)]
struct Visit {
    call: u32,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Made the state at this position.
    Wrote(usize),
    /// Saw the state at this position.
    Saw(usize),
    /// Saw that there was no value.
    SawNothing,
}

/// Notes every call that has no place in an order.
pub fn check(timeline: &Timeline, calls: &[Call], wrong: &mut Vec<String>) {
    for (key, visits) in visits(timeline, calls, wrong) {
        if !timeline.is_blurred(key) {
            place(timeline.states(key), key, &visits, calls, wrong);
        }
    }
}

fn visits(timeline: &Timeline, calls: &[Call], wrong: &mut Vec<String>) -> BTreeMap<KeyNo, Vec<Visit>> {
    let mut visits: BTreeMap<KeyNo, Vec<Visit>> = BTreeMap::new();
    let mut visit =
        |key: KeyNo, call: u32, what: What| visits.entry(key).or_default().push(Visit { call, what });
    for (number, call) in (0u32..).zip(calls) {
        match (&call.action, &call.outcome) {
            (Action::Get(key, ReadAt::Newest), Outcome::Value(None, _)) => {
                visit(*key, number, What::SawNothing);
            }
            (Action::Get(key, ReadAt::Newest), Outcome::Value(Some(value), ts)) => {
                let position = timeline.position(*key, *ts);
                let state = timeline.state(*key, *ts);
                if state.is_none_or(|state| (state.ts, state.value) != (*ts, Some(*value))) {
                    wrong.push(format!(
                        "call {number} read {value:?} of {ts} under key {key}, which then was {state:?}"
                    ));
                }
                visit(*key, number, What::Saw(position));
            }
            (
                Action::Scan {
                    at: ReadAt::Newest, ..
                },
                Outcome::Rows { read_ts, covered, .. },
            ) => {
                for key in covered.0..covered.1 {
                    visit(key, number, What::Saw(timeline.position(key, *read_ts)));
                }
            }
            (Action::Write(conditions, _), Outcome::ConditionFailed(position, found, _)) => {
                let Some((key, _)) = conditions.get(*position as usize) else {
                    wrong.push(format!("call {number} has no condition {position}"));
                    continue;
                };
                match found {
                    None => visit(*key, number, What::SawNothing),
                    // Of a value that nobody else saw and whose writer was never answered the place is not known.
                    Some(value) => {
                        if let Some(ts) = timeline.at(value.call) {
                            visit(*key, number, What::Saw(timeline.position(*key, ts)));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    for key in 0..KeyNo::MAX {
        let Some(states) = timeline.try_states(key) else {
            break;
        };
        for (position, state) in (1..).zip(states) {
            debug_assert!(
                write_of(&calls[state.call as usize]).is_some(),
                "only writes make states"
            );
            visit(key, state.call, What::Wrote(position));
        }
    }
    visits
}

/// Gives every visit of a key its place, in the order of beginnings and ends.
fn place(states: &[State], key: KeyNo, visits: &[Visit], calls: &[Call], wrong: &mut Vec<String>) {
    let call = |visit: &Visit| &calls[visit.call as usize];
    let mut moments: Vec<(u64, usize)> = Vec::with_capacity(visits.len() * 2);
    for (at, visit) in visits.iter().enumerate() {
        moments.push((call(visit).invoked, at));
        moments.push((call(visit).answered, at));
    }
    moments.sort_unstable();
    let nothing_from = nothing_from(states);
    let mut places: Vec<Option<usize>> = vec![None; visits.len()];
    // The latest place of a call that has ended, and that call.
    let mut reached = (0, None);
    for (moment, at) in moments {
        let visit = &visits[at];
        if let Some(place) = places[at] {
            if moment != u64::MAX && place >= reached.0 {
                reached = (place, Some(visit.call));
            }
            continue;
        }
        let place = match visit.what {
            What::Wrote(place) if place > reached.0 => place,
            What::Saw(place) if place >= reached.0 => place,
            What::SawNothing => nothing_from[reached.0].unwrap_or(usize::MAX),
            What::Wrote(_) | What::Saw(_) => usize::MAX,
        };
        if place == usize::MAX {
            wrong.push(format!(
                "key {key}: call {} ({:?}) began after call {:?} had ended, which came later in the order of timestamps ({})",
                visit.call, visit.what, reached.1, reached.0
            ));
        }
        places[at] = Some(if place == usize::MAX { reached.0 } else { place });
    }
}

/// For each position, the first one from there on at which there is no value.
fn nothing_from(states: &[State]) -> Vec<Option<usize>> {
    let mut next = None;
    let mut out = vec![None; states.len() + 1];
    for position in (0..=states.len()).rev() {
        let has_value = position
            .checked_sub(1)
            .is_some_and(|at| states[at].value.is_some());
        if !has_value {
            next = Some(position);
        }
        out[position] = next;
    }
    out
}
