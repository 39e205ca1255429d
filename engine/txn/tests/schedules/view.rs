//! What is seen by one who sees all ranges at once: who is committed, from the moment on at which it is so, and what replicas showed
//! of the past.

use crate::checker::Versions;
use crate::fixtures::Range;
use crate::world::{World, id};
use base::Timestamp;
use corelane_txn::{Bytes, Outcome};
use std::collections::BTreeMap;

/// How transactions ended, and what was shown of the past.
#[derive(Default)]
pub(crate) struct View {
    decided: BTreeMap<usize, Outcome>,
    past: Vec<Past>,
}

/// A read of the past by a replica that does not lead.
struct Past {
    key: String,
    at: Timestamp,
    value: String,
}

fn text(bytes: Option<&Bytes>) -> String {
    let bytes = bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    bytes.unwrap_or_default()
}

impl View {
    /// Looks at all records: the commit condition is evaluated over all ranges. What was decided once stays so.
    pub(crate) fn look(&mut self, world: &World) -> Result<(), String> {
        for record in world
            .ranges
            .iter()
            .flat_map(|range| range.tables.records.values())
        {
            let intent = |key: &Bytes| world.ranges[world.place(key)].tables.intents.get(key);
            let outcome = match record.outcome() {
                Some(outcome) => outcome,
                None if record.is_kept_by(intent) => Outcome::Committed { ts: record.write_ts },
                None => continue,
            };
            let number = usize::try_from(record.who.id.client.0 >> 96).expect("small");
            let known = *self.decided.entry(number).or_insert(outcome);
            if known != outcome {
                return Err(format!("t{number} was {known:?} and is {outcome:?}"));
            }
        }
        Ok(())
    }

    /// A replica that does not lead shows the past, up to which timestamps are closed. It does not where an intent is at or below.
    pub(crate) fn read_past(&mut self, range: &Range) {
        let at = range.closed;
        for (key, versions) in &range.tables.versions {
            let intent = range.tables.intents.get(key);
            if intent.is_some_and(|intent| intent.ts <= at) {
                continue;
            }
            let newest = versions.range(..=at).next_back();
            let value = text(newest.and_then(|(_, stored)| stored.value.as_ref()));
            let key = text(Some(key));
            self.past.push(Past { key, at, value });
        }
    }

    /// What was shown of the past has not changed.
    pub(crate) fn check_past(&self, versions: &Versions) -> Result<(), String> {
        for Past { key, at, value } in &self.past {
            let mut below = versions.get(key).into_iter().flatten();
            let newest = below.rfind(|(ts, _)| ts <= at);
            let is = newest.map_or("", |(_, value)| value);
            if is != value {
                return Err(format!(
                    "{key} was shown as {value:?} at {at:?}, which was closed, and is {is:?}"
                ));
            }
        }
        Ok(())
    }

    /// What is known of each transaction agrees with what ranges say of it in the end.
    pub(crate) fn check_outcomes(&self, truth: impl Fn(usize) -> Option<Outcome>) -> Result<(), String> {
        for (number, known) in &self.decided {
            let is = truth(*number);
            if *known != Outcome::Aborted && is != Some(*known) {
                return Err(format!("{:?} was {known:?} and ended as {is:?}", id(*number)));
            }
        }
        Ok(())
    }
}
