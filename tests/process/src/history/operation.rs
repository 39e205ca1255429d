//! Operations: each invocation with its end.

use crate::history::edn::Edn;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It happened between its lines.
    Ok,
    /// It did not happen.
    Fail,
    /// It may have happened at any time after its invocation, or may yet.
    Info,
}

/// One operation. Lines are positions in the history and order what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who.
    pub process: i64,
    /// What, without the colon.
    pub function: String,
    /// The value of the invocation.
    pub asked: Edn,
    /// The value of the end; that of the invocation where there is none.
    pub told: Edn,
    /// The line of the invocation.
    pub began: usize,
    /// The line of the end; beyond all lines when the outcome is unknown.
    pub ended: usize,
    /// The time of the end in nanoseconds since the start, if there is one.
    pub ended_ns: Option<i64>,
    /// How.
    pub outcome: Outcome,
    /// What it is promised, if it is a transaction that says so; without the colon.
    pub isolation: Option<String>,
}

/// Reads a history. An operation without an end counts as one of unknown outcome.
///
/// # Errors
/// A line is no operation map, or lines do not pair up: a process has two operations at once, or goes on after an unknown
/// outcome.
pub fn read(text: &str) -> anyhow::Result<Vec<Operation>> {
    let mut done: Vec<Operation> = Vec::new();
    let mut open: BTreeMap<i64, usize> = BTreeMap::new();
    let mut over: Vec<i64> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut step = || -> anyhow::Result<()> {
            let map = Edn::parse(line)?;
            let number = |name| {
                map.field(name)
                    .and_then(Edn::int)
                    .with_context(|| format!("no :{name}"))
            };
            let word = |name| {
                map.field(name)
                    .and_then(Edn::keyword)
                    .with_context(|| format!("no :{name}"))
            };
            let (process, time) = (number("process")?, number("time")?);
            let value = map.field("value").context("no :value")?.clone();
            let outcome = match word("type")? {
                "invoke" => {
                    ensure!(!over.contains(&process), "process {process} ended as :info");
                    let before = open.insert(process, done.len());
                    ensure!(before.is_none(), "process {process} has two operations at once");
                    done.push(Operation {
                        process,
                        function: word("f")?.to_owned(),
                        told: value.clone(),
                        asked: value,
                        began: at,
                        ended: usize::MAX,
                        ended_ns: None,
                        outcome: Outcome::Info,
                        isolation: map.field("isolation").and_then(Edn::keyword).map(str::to_owned),
                    });
                    return Ok(());
                }
                "ok" => Outcome::Ok,
                "fail" => Outcome::Fail,
                "info" => Outcome::Info,
                other => anyhow::bail!("`:{other}` is no :type"),
            };
            let begun = open
                .remove(&process)
                .with_context(|| format!("process {process} began nothing"))?;
            let operation = &mut done[begun];
            ensure!(operation.function == word("f")?, "the end of another operation");
            operation.outcome = outcome;
            operation.ended_ns = Some(time);
            match outcome {
                Outcome::Ok | Outcome::Fail => operation.ended = at,
                Outcome::Info => over.push(process),
            }
            operation.told = value;
            Ok(())
        };
        step().with_context(|| format!("line {}: {line}", at + 1))?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pair_up_by_process() {
        let text = "{:type :invoke, :process 0, :f :read, :value [1 nil], :time 1}\n\
                    {:type :invoke, :process 1, :f :write, :value [1 2], :time 2}\n\
                    {:type :ok, :process 0, :f :read, :value [1 2], :time 3}\n\
                    {:type :info, :process 1, :f :write, :value [1 2], :time 4}\n\
                    {:type :invoke, :process 2, :f :write, :value [1 3], :time 5}\n";
        let all = read(text).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].began, all[0].ended, all[0].outcome), (0, 2, Outcome::Ok));
        assert_eq!(all[0].told, Edn::parse("[1 2]").unwrap());
        assert_eq!((all[1].ended, all[1].outcome), (usize::MAX, Outcome::Info));
        assert_eq!((all[2].ended_ns, all[2].outcome), (None, Outcome::Info));
        let again = format!("{text}{{:type :invoke, :process 1, :f :read, :value [1 nil], :time 6}}\n");
        for bad in [
            again.as_str(),
            "{:type :ok, :process 0, :f :read, :value [1 2], :time 3}",
            "{:type :invoke, :process 0}",
            "nonsense",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
