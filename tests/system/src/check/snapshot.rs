//! Reads at a timestamp, and scans, whose pages all read at one: each equals the timeline at that timestamp.

use crate::check::timeline::Timeline;
use crate::history::{Action, Call, KeyNo, Outcome, ValueId};
use base::Timestamp;
use base::api::ReadAt;
use std::collections::BTreeMap;

/// Notes every read at a timestamp that saw something else.
pub fn check(timeline: &Timeline, calls: &[Call], wrong: &mut Vec<String>) {
    for (number, call) in (0u32..).zip(calls) {
        match (&call.action, &call.outcome) {
            (Action::Get(key, ReadAt::At(read_ts)), Outcome::Value(value, ts))
            | (Action::Get(key, _), Outcome::Past(value, ts, read_ts)) => {
                let found = value.map(|value| (value, *ts));
                compare(timeline, number, *key, *read_ts, found, wrong);
            }
            (
                Action::Scan { reverse, at, .. },
                Outcome::Rows {
                    read_ts,
                    rows,
                    covered,
                    ..
                },
            ) => {
                if matches!(at, ReadAt::At(at) if at != read_ts) {
                    wrong.push(format!(
                        "call {number} asked for {at:?} and was read at {read_ts}"
                    ));
                }
                let mut found = BTreeMap::new();
                let mut last = None;
                for row in rows {
                    if last.is_some_and(|last| (row.key <= last) != *reverse || row.key == last) {
                        wrong.push(format!("call {number}: key {} is out of order", row.key));
                    }
                    last = Some(row.key);
                    found.insert(row.key, (row.value, row.ts));
                }
                for key in covered.0..covered.1 {
                    compare(timeline, number, key, *read_ts, found.remove(&key), wrong);
                }
                if let Some(key) = found.keys().next() {
                    wrong.push(format!(
                        "call {number}: key {key} lies outside what was asked for"
                    ));
                }
            }
            _ => {}
        }
    }
}

fn compare(
    timeline: &Timeline,
    reader: u32,
    key: KeyNo,
    read_ts: Timestamp,
    found: Option<(ValueId, Timestamp)>,
    wrong: &mut Vec<String>,
) {
    let state = timeline.state(key, read_ts);
    let expected = state.and_then(|state| state.value.map(|value| (value, state.ts)));
    if found != expected && !timeline.is_blurred(key) {
        wrong.push(format!(
            "call {reader} read key {key} at {read_ts} and found {found:?}; at that time it was {expected:?} ({state:?})"
        ));
    }
}
