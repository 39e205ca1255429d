//! Checks histories of `corelane bench register` by porcupine-rs. Leaves 1 when one is not linearizable, or cannot be decided.

mod history;

use anyhow::{Context as _, bail};
use history::edn::Edn;
use history::operation::{self, Outcome};
use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// How long the search in one key may take.
const SEARCH_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
struct Register;

/// What an operation says of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Read(Option<i64>),
    Write(i64),
    Cas(i64, i64),
    /// It may have been refused.
    CasOrNothing(i64, i64),
}

impl Model for Register {
    type State = Option<i64>;
    type Op = Op;
    type Metadata = ();

    fn init() -> Option<i64> {
        None
    }

    fn step(state: &Option<i64>, op: &Op) -> (bool, Option<i64>) {
        match *op {
            Op::Read(value) => (value == *state, *state),
            Op::Write(value) => (true, Some(value)),
            Op::Cas(old, new) => (*state == Some(old), Some(new)),
            Op::CasOrNothing(old, new) if *state == Some(old) => (true, Some(new)),
            Op::CasOrNothing(..) => (true, *state),
        }
    }
}

/// The operations of each key. Those of unknown outcome may take effect at the end of time, where nobody sees it.
fn keys(text: &str) -> anyhow::Result<BTreeMap<i64, Vec<Operation<Register>>>> {
    let mut keys: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    for operation in operation::read(text)? {
        let Some([key, value]) = operation.told.vector() else {
            bail!("line {}: the value is no pair", operation.began + 1)
        };
        let is_certain = operation.outcome == Outcome::Ok;
        let op = match (operation.function.as_str(), value.vector()) {
            _ if operation.outcome == Outcome::Fail => continue,
            ("read", _) if !is_certain => continue,
            ("read", _) => Op::Read(value.int()),
            ("write", _) => Op::Write(value.int().context("what is written is no number")?),
            ("cas", Some([Edn::Int(old), Edn::Int(new)])) if is_certain => Op::Cas(*old, *new),
            ("cas", Some([Edn::Int(old), Edn::Int(new)])) => Op::CasOrNothing(*old, *new),
            (other, _) => bail!("a register has no operation :{other}"),
        };
        keys.entry(key.int().context("the key is no number")?)
            .or_default()
            .push(Operation {
                client_id: None,
                call_time: i64::try_from(operation.began)?,
                return_time: i64::try_from(operation.ended).unwrap_or(i64::MAX),
                op,
                metadata: None,
            });
    }
    Ok(keys)
}

/// The keys that are not linearizable.
fn wrong(text: &str) -> anyhow::Result<Vec<i64>> {
    let mut wrong = Vec::new();
    for (key, operations) in keys(text)? {
        match check_operations_timeout(&operations, SEARCH_MAX) {
            CheckResult::Ok => {}
            CheckResult::Illegal => wrong.push(key),
            CheckResult::Unknown => bail!("key {key} is not decided within {SEARCH_MAX:?}"),
        }
    }
    Ok(wrong)
}

fn main() -> anyhow::Result<ExitCode> {
    let (mut histories, mut operations, mut failed) = (0, 0, 0);
    for file in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
        let wrong = wrong(&text).with_context(|| file.clone())?;
        if !wrong.is_empty() {
            println!("{file}: not linearizable: keys {wrong:?}");
            failed += 1;
        }
        histories += 1;
        operations += text.lines().filter(|line| line.contains(":type :invoke")).count();
    }
    println!("{histories} histories, {operations} operations, {failed} not linearizable");
    Ok(if failed == 0 && histories > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(steps: &[&str]) -> Vec<i64> {
        let line = |step: &&str| {
            let (kind, rest) = step.split_once(' ').expect("a kind");
            let (process, rest) = rest.split_once(' ').expect("a process");
            let (function, value) = rest.split_once(' ').expect("a function");
            format!("{{:type :{kind}, :process {process}, :f :{function}, :value {value}, :time 0}}\n")
        };
        wrong(&steps.iter().map(line).collect::<String>()).expect("it is decided")
    }

    #[test]
    fn planted_violations_are_found() {
        let good = [
            "invoke 0 write [1 5]",
            "ok 0 write [1 5]",
            "invoke 0 read [1 nil]",
        ];
        assert_eq!(verdict(&[&good[..], &["ok 0 read [1 5]"]].concat()), [0_i64; 0]);
        assert_eq!(verdict(&[&good[..], &["ok 0 read [1 nil]"]].concat()), [1]);
        let lost = [
            "invoke 0 cas [1 [5 6]]",
            "info 0 cas [1 [5 6]]",
            "invoke 1 read [1 nil]",
        ];
        let lost = [&good[..2], &lost].concat();
        for (value, expected) in [("5", &[][..]), ("6", &[]), ("7", &[1])] {
            let read = format!("ok 1 read [1 {value}]");
            assert_eq!(verdict(&[&lost[..], &[&read]].concat()), expected, "{value}");
        }
    }
}
