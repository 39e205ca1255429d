//! What became of everything, in the end.

use crate::checker::{Committed, Versions, check_cycles, check_timestamps};
use crate::world::id;
use crate::{LISTS, Run, TOTAL, shots, text};
use corelane_txn::coordinator::Answer;
use corelane_txn::error::TxnError;
use corelane_txn::{Outcome, Status};
use std::collections::BTreeMap;

impl Run {
    /// How a transaction ended, by what ranges have of it.
    pub(crate) fn truth(&self, number: usize) -> Option<Outcome> {
        let outcomes = self.world.ranges.iter().filter_map(|range| {
            let tables = &range.tables;
            let record = tables
                .records
                .get(&id(number))
                .and_then(corelane_txn::Record::outcome);
            record.or_else(|| tables.memory.get(&id(number)).copied())
        });
        let all: Vec<Outcome> = outcomes.collect();
        let is_one = all.windows(2).all(|pair| pair[0] == pair[1]);
        assert!(is_one, "t{number} ended as {all:?}");
        all.first().copied()
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let mut history = Vec::new();
        let mut versions = Versions::new();
        let mut last = BTreeMap::new();
        for range in &self.world.ranges {
            if range
                .tables
                .records
                .values()
                .any(|record| record.status == Status::Staging)
            {
                let staged: Vec<_> = range
                    .tables
                    .records
                    .values()
                    .filter(|record| record.status == Status::Staging)
                    .collect();
                if staged.iter().any(|record| record.in_flight.is_empty()) {
                    return Err("a transaction stays staged".to_owned());
                }
            }
            for (key, all) in &range.tables.versions {
                let key = text(Some(key));
                let all: Vec<_> = all
                    .iter()
                    .map(|(ts, stored)| (*ts, text(stored.value.as_ref())))
                    .collect();
                if LISTS.contains(&key.as_str()) {
                    last.insert(
                        key.clone(),
                        all.last().map(|(_, value)| value.clone()).unwrap_or_default(),
                    );
                }
                versions.insert(key, all);
            }
        }
        for (number, client) in &self.clients {
            let truth = self.truth(*number);
            let commit_ts = match (&client.answer, truth) {
                (Some(Answer::Committed { ts, .. }), Some(Outcome::Committed { ts: known }))
                    if *ts == known =>
                {
                    Some(*ts)
                }
                (Some(Answer::Committed { ts, .. }), None)
                    if client.writes.is_empty()
                        && client.shot.as_ref().is_none_or(|shot| shot.changes.is_empty()) =>
                {
                    Some(*ts)
                }
                (Some(Answer::Failed(_)), None | Some(Outcome::Aborted)) => None,
                (Some(Answer::Unknown) | None, Some(Outcome::Committed { ts })) => Some(ts),
                (Some(Answer::Unknown) | None, None | Some(Outcome::Aborted)) => None,
                (answer, truth) => {
                    return Err(format!("t{number} was answered {answer:?}, and is {truth:?}"));
                }
            };
            if let (Some(_), Some(Answer::Failed(TxnError::Unmet(unmet)))) = (&client.shot, &client.answer) {
                shots::check_unmet(*number, unmet, &versions)?;
            }
            let Some(commit_ts) = commit_ts else { continue };
            if let Some(shot) = &client.shot {
                let isolation = client.isolation;
                history.push(shots::committed(
                    (*number, isolation),
                    shot,
                    commit_ts,
                    &versions,
                )?);
                continue;
            }
            if let Some(total) = client.audit.filter(|total| *total != TOTAL) {
                return Err(format!("t{number} saw a total of {total}"));
            }
            history.push(Committed {
                id: *number,
                isolation: client.isolation,
                // Without a read there is no snapshot.
                read_ts: if client.reads.is_empty() && !client.has_deleted {
                    commit_ts
                } else {
                    self.world.txns[number].coordinator.read_ts()
                },
                commit_ts,
                reads: client.reads.clone(),
                writes: client.writes.clone(),
            });
        }
        self.view.check_outcomes(|number| self.truth(number))?;
        self.view.check_past(&versions)?;
        check_timestamps(&history, &versions)?;
        check_cycles(&history, &last)
    }
}
