//! Checks of histories: snapshots, first committer wins, serializability, and cycles of dependencies among lists that were appended to.
//!
//! The first three compare with the timestamps that the protocol gave; the last one knows nothing of timestamps.

use base::Timestamp;
use corelane_txn::Isolation;
use std::collections::{BTreeMap, BTreeSet};

/// What a committed transaction saw and did.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) id: usize,
    pub(crate) isolation: Isolation,
    pub(crate) read_ts: Timestamp,
    pub(crate) commit_ts: Timestamp,
    /// Values of keys that it had not written itself.
    pub(crate) reads: Vec<(String, String)>,
    pub(crate) writes: BTreeMap<String, String>,
}

/// All versions of a key, oldest first.
pub(crate) type Versions = BTreeMap<String, Vec<(Timestamp, String)>>;

/// Compares with timestamps. What is wrong.
pub(crate) fn check_timestamps(history: &[Committed], versions: &Versions) -> Result<(), String> {
    for txn in history {
        let own = |key: &str, ts: Timestamp| txn.writes.contains_key(key) && ts == txn.commit_ts;
        let seen_at = |key: &str, at: Timestamp| {
            let mut below = versions.get(key).into_iter().flatten();
            let seen = below.rfind(|(ts, _)| *ts <= at && !own(key, *ts));
            seen.map_or(String::new(), |(_, value)| value.clone())
        };
        for (key, value) in &txn.reads {
            if seen_at(key, txn.read_ts) != *value {
                return Err(format!(
                    "t{} did not read a snapshot: {key}={value} at {:?}",
                    txn.id, txn.read_ts
                ));
            }
            if txn.isolation.is_serializable() && seen_at(key, txn.commit_ts) != *value {
                return Err(format!("t{}: {key} had changed when it committed", txn.id));
            }
        }
        for (key, value) in &txn.writes {
            let mut all = versions.get(key).into_iter().flatten();
            if !all
                .clone()
                .any(|(ts, version)| *ts == txn.commit_ts && version == value)
            {
                return Err(format!(
                    "t{} is committed, and {key}={value} is not there",
                    txn.id
                ));
            }
            let between = all.find(|(ts, _)| *ts > txn.read_ts && *ts < txn.commit_ts);
            if let Some((ts, _)) = between {
                return Err(format!(
                    "t{} wrote {key} over a version at {ts:?}, after its snapshot",
                    txn.id
                ));
            }
        }
    }
    let made: usize = history.iter().map(|txn| txn.writes.len()).sum();
    let found: usize = versions.values().map(Vec::len).sum();
    // The first version of each key is nobody's.
    if found != made + versions.len() {
        return Err(format!(
            "{found} versions of {made} writes to {} keys",
            versions.len()
        ));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Graph {
    /// What must be before: overwritten, or read.
    depends: BTreeMap<usize, BTreeSet<usize>>,
    /// Who read what the other overwrote.
    anti: BTreeMap<usize, BTreeSet<usize>>,
}

fn reaches(edges: &BTreeMap<usize, BTreeSet<usize>>, from: usize, to: usize) -> bool {
    let (mut todo, mut seen) = (vec![from], BTreeSet::new());
    while let Some(at) = todo.pop() {
        for next in edges.get(&at).into_iter().flatten() {
            if *next == to {
                return true;
            }
            if seen.insert(*next) {
                todo.push(*next);
            }
        }
    }
    false
}

/// The elements of a list, as ids.
fn list(value: &str) -> Vec<usize> {
    value
        .split(' ')
        .filter_map(|word| word.strip_prefix('t')?.parse().ok())
        .collect()
}

/// Looks for cycles among transactions that appended their ids to lists. `last` is what the lists are in the end.
pub(crate) fn check_cycles(history: &[Committed], last: &BTreeMap<String, String>) -> Result<(), String> {
    let ids: BTreeSet<usize> = history.iter().map(|txn| txn.id).collect();
    let mut graph = Graph::default();
    for (key, value) in last {
        let order = list(value);
        if order.iter().collect::<BTreeSet<_>>().len() != order.len() {
            return Err(format!("{key} has an element twice: {value}"));
        }
        if let Some(alien) = order.iter().find(|id| !ids.contains(id)) {
            return Err(format!(
                "{key} has an element of t{alien}, which is not committed (G1a)"
            ));
        }
        for pair in order.windows(2) {
            graph.depends.entry(pair[0]).or_default().insert(pair[1]);
        }
    }
    for txn in history {
        for key in txn.writes.keys().filter(|key| last.contains_key(*key)) {
            if !list(&last[key]).contains(&txn.id) {
                return Err(format!(
                    "t{} is committed, and its append to {key} is lost",
                    txn.id
                ));
            }
        }
        for (key, value) in &txn.reads {
            let Some(order) = last.get(key).map(|last| list(last)) else {
                continue;
            };
            let seen = list(value);
            if !order.starts_with(&seen) {
                return Err(format!(
                    "t{} read {key}={value}, which the list never was",
                    txn.id
                ));
            }
            if let Some(writer) = seen.last().filter(|writer| **writer != txn.id) {
                graph.depends.entry(*writer).or_default().insert(txn.id);
            }
            if let Some(next) = order.get(seen.len()).filter(|next| **next != txn.id) {
                graph.anti.entry(txn.id).or_default().insert(*next);
            }
        }
    }
    graph.check(history)
}

impl Graph {
    fn check(&self, history: &[Committed]) -> Result<(), String> {
        for txn in history {
            if reaches(&self.depends, txn.id, txn.id) {
                return Err(format!("a cycle of dependencies through t{} (G0 or G1c)", txn.id));
            }
        }
        // Snapshots: a cycle has two anti-dependencies in a row, or there is none.
        let mut steps = self.depends.clone();
        for (from, all) in &self.depends {
            for to in all {
                let anti = self.anti.get(to).into_iter().flatten();
                steps.entry(*from).or_default().extend(anti);
            }
        }
        for txn in history {
            if reaches(&steps, txn.id, txn.id) {
                return Err(format!(
                    "a cycle through t{} with no two anti-dependencies in a row (G-single)",
                    txn.id
                ));
            }
        }
        // What a serializable transaction read is still so when it commits.
        let mut all = self.depends.clone();
        for txn in history.iter().filter(|txn| txn.isolation.is_serializable()) {
            let anti = self.anti.get(&txn.id).into_iter().flatten();
            all.entry(txn.id).or_default().extend(anti);
        }
        for txn in history {
            if reaches(&all, txn.id, txn.id) {
                return Err(format!(
                    "a cycle through t{}, of serializable readers (G2)",
                    txn.id
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(id: usize, isolation: Isolation, reads: &[(&str, &str)], writes: &[&str]) -> Committed {
        Committed {
            id,
            isolation,
            read_ts: Timestamp::ZERO,
            commit_ts: Timestamp::ZERO,
            reads: reads
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            writes: writes
                .iter()
                .map(|key| ((*key).to_owned(), String::new()))
                .collect(),
        }
    }

    fn found(history: &[Committed], last: &[(&str, &str)]) -> String {
        let last = last
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        check_cycles(history, &last).err().unwrap_or_default()
    }

    const SI: Isolation = Isolation::Snapshot;
    const SER: Isolation = Isolation::Serializable;

    #[test]
    fn planted_anomalies_are_found() {
        let g0 = [txn(1, SI, &[], &["a", "b"]), txn(2, SI, &[], &["a", "b"])];
        assert!(found(&g0, &[("a", "t1 t2"), ("b", "t2 t1")]).contains("G0"));
        assert!(found(&g0[..1], &[("a", "t1 t2"), ("b", "t1")]).contains("G1a"));
        assert!(found(&g0, &[("a", "t1 t2"), ("b", "t2")]).contains("lost"));
        let g1c = [
            txn(1, SI, &[("b", "t2")], &["a"]),
            txn(2, SI, &[("a", "t1")], &["b"]),
        ];
        assert!(found(&g1c, &[("a", "t1"), ("b", "t2")]).contains("G1c"));
        let single = [
            txn(1, SI, &[], &["a", "b"]),
            txn(2, SI, &[("a", ""), ("b", "t1")], &[]),
        ];
        assert!(found(&single, &[("a", "t1"), ("b", "t1")]).contains("G-single"));
        let skew = |of| [txn(1, of, &[("b", "")], &["a"]), txn(2, of, &[("a", "")], &["b"])];
        assert!(found(&skew(SER), &[("a", "t1"), ("b", "t2")]).contains("G2"));
        assert_eq!(found(&skew(SI), &[("a", "t1"), ("b", "t2")]), "");
        let never = [txn(1, SI, &[("a", "t2 t1")], &["a"]), txn(2, SI, &[], &["a"])];
        assert!(found(&never, &[("a", "t1 t2")]).contains("never was"));
    }
}
