//! Conditional writes: one that was applied found its conditions true just before its timestamp, one that was told
//! otherwise found what it was told. A counter that is only ever raised conditionally shows every write that happened twice.

use crate::check::timeline::{Timeline, write_of};
use crate::history::{Call, Outcome};

/// Notes every conditional write that did not look.
pub fn check(timeline: &Timeline, calls: &[Call], wrong: &mut Vec<String>) {
    for (number, call) in (0u32..).zip(calls) {
        let Some((conditions, _)) = write_of(call) else {
            continue;
        };
        if let Some(ts) = timeline.at(number) {
            for &(key, expected) in conditions.iter().filter(|(key, _)| !timeline.is_blurred(*key)) {
                let before = timeline.state_before(key, ts);
                // A write whose answer and whose effect nobody saw has no place.
                if expected.is_some_and(|expected| timeline.at(expected.call).is_none()) {
                    continue;
                }
                if before.and_then(|state| state.value) != expected {
                    wrong.push(format!(
                        "call {number} was applied at {ts} on the condition that key {key} is {expected:?}; it was {before:?}"
                    ));
                }
            }
        }
        if let Outcome::ConditionFailed(position, found, _) = &call.outcome
            && conditions
                .get(*position as usize)
                .is_none_or(|(_, expected)| expected == found)
        {
            wrong.push(format!(
                "call {number} failed condition {position} although it found {found:?}"
            ));
        }
    }
}
