//! Is the sum of all balances always the same, and none below zero?

use crate::history::edn::Edn;
use crate::history::operation::{Operation, Outcome};
use crate::history::{Anomaly, Findings};
use anyhow::{Context as _, bail};

/// What each account of `corelane bench bank` begins with.
pub const BALANCE: i64 = 100;

/// Checks a history of `corelane bench bank` with so many accounts, of [`BALANCE`] each at first.
///
/// # Errors
/// The history is not one of a bank.
pub fn check(history: &[Operation], accounts: usize) -> anyhow::Result<Vec<Anomaly>> {
    let total = BALANCE * i64::try_from(accounts)?;
    let mut findings = Findings::default();
    for operation in history {
        match operation.function.as_str() {
            "transfer" => continue,
            "read" => {}
            other => bail!("a bank has no operation :{other}"),
        }
        if operation.outcome != Outcome::Ok {
            continue;
        }
        let line = operation.ended + 1;
        let Edn::Map(entries) = &operation.told else {
            bail!("what is read at line {line} is no map");
        };
        let balances: Option<Vec<i64>> = entries.iter().map(|(_, balance)| balance.int()).collect();
        let balances = balances.with_context(|| format!("a balance at line {line} is no number"))?;
        let sum: i64 = balances.iter().sum();
        if balances.len() != accounts {
            let evidence = format!("{} of {accounts} at line {line}", balances.len());
            findings.add("accounts are missing", evidence);
        } else if sum != total {
            findings.add("wrong total", format!("{sum} instead of {total} at line {line}"));
        }
        if let Some(balance) = balances.iter().find(|balance| **balance < 0) {
            findings.add("negative balance", format!("{balance} at line {line}"));
        }
    }
    Ok(findings.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::operation::read;

    fn kinds(balances: &str) -> Vec<&'static str> {
        let text = format!(
            "{{:type :invoke, :process 0, :f :read, :value nil, :time 0}}\n\
             {{:type :ok, :process 0, :f :read, :value {balances}, :time 1}}\n\
             {{:type :invoke, :process 0, :f :transfer, :value {{:from 0, :to 1, :amount 3}}, :time 2}}\n\
             {{:type :info, :process 0, :f :transfer, :value {{:from 0, :to 1, :amount 3}}, :time 3}}\n"
        );
        let found = check(&read(&text).unwrap(), 3).unwrap();
        found.iter().map(|anomaly| anomaly.kind).collect()
    }

    #[test]
    fn money_neither_comes_nor_goes() {
        assert_eq!(kinds("{0 100, 1 97, 2 103}"), [""; 0]);
        assert_eq!(kinds("{0 100, 1 100, 2 103}"), ["wrong total"]);
        assert_eq!(kinds("{0 100, 1 200}"), ["accounts are missing"]);
        assert_eq!(kinds("{0 -1, 1 200, 2 101}"), ["negative balance"]);
    }
}
