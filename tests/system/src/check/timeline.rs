//! When each write happened: every key's states in the order of their timestamps.
//!
//! A write's timestamp is known from its answer, or from anybody who read what it wrote. All mutations of one write happen
//! at its timestamp, so a batch of which only a part is found shows in the checks that follow.

use crate::history::{Action, Call, Condition, KeyNo, Keys, Mutation, Outcome, ValueId};
use base::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// A state of a key, from its timestamp until the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Since when.
    pub ts: Timestamp,
    /// The value, if there is one.
    pub value: Option<ValueId>,
    /// The write that made it.
    pub call: u32,
}

/// All keys' states.
#[derive(Debug)]
pub struct Timeline {
    states: Vec<Vec<State>>,
    at: BTreeMap<u32, Timestamp>,
    blurred: BTreeSet<KeyNo>,
}

impl Timeline {
    /// Puts the writes of a history in order.
    #[must_use]
    pub fn build(keys: &Keys, calls: &[Call], wrong: &mut Vec<String>) -> Self {
        let at = pin(calls, wrong);
        let mut states = vec![Vec::new(); usize::from(keys.count())];
        let mut blurred = BTreeSet::new();
        for (number, call) in (0u32..).zip(calls) {
            let Some((_, mutations)) = write_of(call) else {
                continue;
            };
            let effects = effects(keys, number, mutations);
            match at.get(&number) {
                Some(&ts) => {
                    for (key, value) in effects {
                        states[usize::from(key)].push(State {
                            ts,
                            value,
                            call: number,
                        });
                    }
                }
                // Whether and when it removed something cannot be seen.
                None if call.outcome == Outcome::Unknown => {
                    let removed = effects.into_iter().filter(|(_, value)| value.is_none());
                    blurred.extend(removed.map(|(key, _)| key));
                }
                None => {}
            }
        }
        for (key, states) in (0u16..).zip(&mut states) {
            states.sort_by_key(|state| state.ts);
            for pair in states.windows(2).filter(|pair| pair[0].ts == pair[1].ts) {
                wrong.push(format!(
                    "key {key}: calls {} and {} wrote at the same timestamp {}",
                    pair[0].call, pair[1].call, pair[0].ts
                ));
            }
        }
        Self { states, at, blurred }
    }

    /// The states of a key after its first one, which has no value.
    #[must_use]
    pub fn states(&self, key: KeyNo) -> &[State] {
        &self.states[usize::from(key)]
    }

    /// As [`Self::states`]; `None` when there is no such key.
    #[must_use]
    pub fn try_states(&self, key: KeyNo) -> Option<&[State]> {
        self.states.get(usize::from(key)).map(Vec::as_slice)
    }

    /// How many of the key's writes happened up to `ts`.
    #[must_use]
    pub fn position(&self, key: KeyNo, ts: Timestamp) -> usize {
        self.states(key).partition_point(|state| state.ts <= ts)
    }

    /// The state of a key as of `ts`; `None` when it had never been written.
    #[must_use]
    pub fn state(&self, key: KeyNo, ts: Timestamp) -> Option<&State> {
        self.states(key)[..self.position(key, ts)].last()
    }

    /// The state of a key just before `ts`.
    #[must_use]
    pub fn state_before(&self, key: KeyNo, ts: Timestamp) -> Option<&State> {
        let before = self.states(key).partition_point(|state| state.ts < ts);
        self.states(key)[..before].last()
    }

    /// When a write happened, if it is known to have.
    #[must_use]
    pub fn at(&self, call: u32) -> Option<Timestamp> {
        self.at.get(&call).copied()
    }

    /// Whether nothing can be said of the key, because a removal of it was never answered.
    #[must_use]
    pub fn is_blurred(&self, key: KeyNo) -> bool {
        self.blurred.contains(&key)
    }

    /// How many keys nothing can be said of.
    #[must_use]
    pub fn blurred(&self) -> usize {
        self.blurred.len()
    }
}

/// The conditions and mutations of a write.
pub(crate) fn write_of(call: &Call) -> Option<(&[Condition], &[Mutation])> {
    match &call.action {
        Action::Write(conditions, mutations) => Some((conditions, mutations)),
        Action::Get(..)
        | Action::Scan { .. }
        | Action::Split(_)
        | Action::Move(..)
        | Action::Merge(..)
        | Action::Place(..)
        | Action::RangeMap
        | Action::Status => None,
    }
}

/// What a write leaves under each key that it touches: later mutations cover earlier ones.
fn effects(keys: &Keys, call: u32, mutations: &[Mutation]) -> BTreeMap<KeyNo, Option<ValueId>> {
    let mut effects = BTreeMap::new();
    for (op, mutation) in (0u16..).zip(mutations) {
        match *mutation {
            Mutation::Put(key, len) => {
                effects.insert(key, Some(ValueId { call, op, len }));
            }
            Mutation::Delete(key) => {
                effects.insert(key, None);
            }
            Mutation::DeleteRange(start, end) => {
                effects.extend((start..end.min(keys.count())).map(|key| (key, None)));
            }
        }
    }
    effects
}

/// The timestamps of all writes that are known to have happened.
fn pin(calls: &[Call], wrong: &mut Vec<String>) -> BTreeMap<u32, Timestamp> {
    let mut at = BTreeMap::new();
    for (number, call) in (0u32..).zip(calls) {
        if let (Some(_), Outcome::Applied(ts)) = (write_of(call), &call.outcome) {
            at.insert(number, *ts);
        }
    }
    let mut see = |reader: u32, value: ValueId, ts: Timestamp| {
        let Some(writer) = calls.get(value.call as usize) else {
            return wrong.push(format!(
                "call {reader} read a value of call {}, which was never made",
                value.call
            ));
        };
        match &writer.outcome {
            Outcome::ConditionFailed(..) | Outcome::Refused(_) => wrong.push(format!(
                "call {reader} read what call {} wrote, which was told {:?}",
                value.call, writer.outcome
            )),
            Outcome::Unknown
            | Outcome::Applied(_)
            | Outcome::Value(..)
            | Outcome::Past(..)
            | Outcome::Rows { .. }
            | Outcome::Done => {}
        }
        let known = *at.entry(value.call).or_insert(ts);
        if known != ts {
            wrong.push(format!(
                "call {reader} read what call {} wrote at {ts}; it was applied at {known} already",
                value.call
            ));
        }
    };
    for (number, call) in (0u32..).zip(calls) {
        match &call.outcome {
            Outcome::Value(Some(value), ts) | Outcome::Past(Some(value), ts, _) => see(number, *value, *ts),
            Outcome::Rows { rows, .. } => rows.iter().for_each(|row| see(number, row.value, row.ts)),
            Outcome::Value(None, _)
            | Outcome::Past(None, ..)
            | Outcome::Unknown
            | Outcome::Applied(_)
            | Outcome::ConditionFailed(..)
            | Outcome::Refused(_)
            | Outcome::Done => {}
        }
    }
    at
}
