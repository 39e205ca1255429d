//! Do lists only grow, in one order, and in time?
//!
//! Elements are appended once each, so a read shows which appends came before it, and in which order: the longest read of a
//! key is the order of its versions. With one key for each operation every cycle of dependencies lies within that order and
//! the order of lines, so these rules find them all:
//!
//! - every read is a beginning of the longest one, without repetition, of elements whose append was begun and has not failed;
//! - what was appended, or seen, before an operation began is before it in the order.

use crate::history::edn::Edn;
use crate::history::operation::{Operation, Outcome};
use crate::history::{Anomaly, Findings};
use anyhow::{Context as _, bail, ensure};
use base::collections::FastMap;
use std::collections::BTreeMap;

struct Append {
    element: i64,
    began: usize,
    ended: usize,
    outcome: Outcome,
}

struct Read {
    list: Vec<i64>,
    began: usize,
    ended: usize,
}

#[derive(Default)]
struct Key {
    appends: Vec<Append>,
    reads: Vec<Read>,
}

/// Checks each key of a history of `corelane bench append`. Lists begin empty.
///
/// # Errors
/// The history is not one of lists, or appends an element twice.
pub fn check(history: &[Operation]) -> anyhow::Result<Vec<Anomaly>> {
    let mut keys: BTreeMap<i64, Key> = BTreeMap::new();
    for operation in history {
        sort_in(&mut keys, operation).with_context(|| format!("line {}", operation.began + 1))?;
    }
    let mut findings = Findings::default();
    for (key, Key { appends, reads }) in &keys {
        let by_element: FastMap<i64, &Append> =
            appends.iter().map(|append| (append.element, append)).collect();
        ensure!(
            by_element.len() == appends.len(),
            "key {key}: an element is appended twice"
        );
        let longest = reads.iter().max_by_key(|read| read.list.len());
        let order: &[i64] = longest.map_or(&[], |read| &read.list);
        let places: FastMap<i64, usize> = order
            .iter()
            .enumerate()
            .map(|(at, element)| (*element, at))
            .collect();
        if places.len() < order.len() {
            findings.add("duplicate element", format!("key {key}: {order:?}"));
        }
        for read in reads {
            check_read(&mut findings, *key, read, order, &by_element);
        }
        check_time(&mut findings, *key, appends, reads, &places);
    }
    Ok(findings.0)
}

fn sort_in(keys: &mut BTreeMap<i64, Key>, operation: &Operation) -> anyhow::Result<()> {
    let micro = operation.told.vector().context("the value is no vector")?;
    let [micro] = micro else {
        bail!("one micro-operation is known here")
    };
    let Some([kind, key, value]) = micro.vector() else {
        bail!("a micro-operation has three parts")
    };
    let key = keys
        .entry(key.int().context("the key is no number")?)
        .or_default();
    let &Operation {
        began,
        ended,
        outcome,
        ..
    } = operation;
    match (kind.keyword(), outcome) {
        (Some("append"), _) => key.appends.push(Append {
            element: value.int().context("the element is no number")?,
            began,
            ended,
            outcome,
        }),
        (Some("r"), Outcome::Ok) => {
            let list = match value {
                Edn::Nil => Some(Vec::new()),
                other => other
                    .vector()
                    .and_then(|list| list.iter().map(Edn::int).collect::<Option<_>>()),
            };
            key.reads.push(Read {
                list: list.context("what is read is no list of numbers")?,
                began,
                ended,
            });
        }
        (Some("r"), Outcome::Fail | Outcome::Info) => {}
        (other, _) => bail!("a list has no operation {other:?}"),
    }
    Ok(())
}

fn check_read(
    findings: &mut Findings,
    key: i64,
    read: &Read,
    order: &[i64],
    appends: &FastMap<i64, &Append>,
) {
    let line = read.ended + 1;
    if !order.starts_with(&read.list) {
        let evidence = format!(
            "key {key}: {:?} at line {line} is no beginning of {order:?}",
            read.list
        );
        findings.add("incompatible order", evidence);
    }
    for element in &read.list {
        let seen = format!("key {key}: element {element} is read at line {line}");
        match appends.get(element) {
            None => findings.add("element from nowhere", format!("{seen}, and nobody appended it")),
            Some(append) if append.outcome == Outcome::Fail => {
                let evidence = format!("{seen}, but its append failed at line {}", append.ended + 1);
                findings.add("failed append seen", evidence);
            }
            Some(append) if append.began > read.ended => {
                let evidence = format!("{seen}, before its append began at line {}", append.began + 1);
                findings.add("element from the future", evidence);
            }
            Some(_) => {}
        }
    }
}

/// What ended before something else began comes before it in the order. `places` is the order.
fn check_time(
    findings: &mut Findings,
    key: i64,
    appends: &[Append],
    reads: &[Read],
    places: &FastMap<i64, usize>,
) {
    let done = || appends.iter().filter(|append| append.outcome == Outcome::Ok);
    let place = |append: &Append| places.get(&append.element).copied().unwrap_or(usize::MAX);
    for read in reads {
        let seen = format!(
            "the read at line {} has {} elements",
            read.ended + 1,
            read.list.len()
        );
        for append in done().filter(|append| append.ended < read.began && place(append) >= read.list.len()) {
            let evidence = format!(
                "key {key}: {seen}, without {}, appended at line {}",
                append.element,
                append.ended + 1
            );
            findings.add("append not seen", evidence);
        }
        let earlier = reads
            .iter()
            .filter(|earlier| earlier.ended < read.began && earlier.list.len() > read.list.len());
        for earlier in earlier {
            let evidence = format!(
                "key {key}: {seen}, after one of {} at line {}",
                earlier.list.len(),
                earlier.ended + 1
            );
            findings.add("stale read", evidence);
        }
    }
    for later in appends
        .iter()
        .filter(|append| places.contains_key(&append.element))
    {
        for read in reads
            .iter()
            .filter(|read| read.ended < later.began && place(later) < read.list.len())
        {
            let evidence = format!(
                "key {key}: {} was appended from line {} on, before what was read at line {}",
                later.element,
                later.began + 1,
                read.ended + 1
            );
            findings.add("append into the past", evidence);
        }
        for earlier in done().filter(|earlier| earlier.ended < later.began && place(earlier) > place(later)) {
            let evidence = format!(
                "key {key}: {} was appended by line {}, before {} from line {} on, but comes after it or is lost",
                earlier.element,
                earlier.ended + 1,
                later.element,
                later.began + 1
            );
            findings.add("order against time", evidence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::operation::read;

    /// Each word is an operation of a process of its own: `a5` an append, `r[1 2]` a read, with `!` failed, with `?` of
    /// unknown outcome. One after the other; those joined by `|` at the same time.
    fn kinds(script: &str) -> Vec<&'static str> {
        let mut lines = Vec::new();
        let mut process = 0;
        for group in script.split(';') {
            let mut ends = Vec::new();
            for word in group.split('|').map(str::trim) {
                let (word, kind) = match word.strip_suffix('!') {
                    Some(word) => (word, "fail"),
                    None => word.strip_suffix('?').map_or((word, "ok"), |word| (word, "info")),
                };
                let value = match word.strip_prefix('a') {
                    Some(element) => format!("[[:append 1 {element}]]"),
                    None => format!("[[:r 1 {}]]", &word[1..]),
                };
                let line =
                    |kind| format!("{{:type :{kind}, :process {process}, :f :txn, :value {value}, :time 0}}");
                lines.push(line("invoke"));
                ends.push(line(kind));
                process += 1;
            }
            lines.append(&mut ends);
        }
        let found = check(&read(&lines.join("\n")).unwrap()).unwrap();
        let mut kinds: Vec<_> = found.iter().map(|anomaly| anomaly.kind).collect();
        kinds.dedup();
        kinds
    }

    #[test]
    fn lists_that_grow_are_accepted() {
        for good in [
            "r[]",
            "rnil; a1; r[1]; a2; r[1 2]",
            "a1 | a2; r[2 1]",
            "a1 | r[] | r[1]; r[1]",
            // An unknown outcome shows later, or never.
            "a1?; r[]; r[]; a2; r[2 1]",
            "a1?; a2; r[2]",
            "a1!; r[]",
        ] {
            assert_eq!(kinds(good), [""; 0], "{good}");
        }
    }

    #[test]
    fn each_violation_is_found() {
        for (bad, kind) in [
            ("a1; r[1 1]", "duplicate element"),
            ("a1; r[1 7]", "element from nowhere"),
            ("a1!; r[1]", "failed append seen"),
            ("r[1]; a1", "element from the future"),
            ("a1 | a2; r[1 2] | r[2 1]", "incompatible order"),
            ("a1 | a2; r[2 1] | r[1]", "incompatible order"),
            ("a1; a2; r[1]", "append not seen"),
            ("a1; r[]", "append not seen"),
            ("a1?; r[1]; r[]", "stale read"),
            ("a1 | a2?; r[2 1]; r[2]", "append not seen"),
            ("a1; a2; r[2 1]", "order against time"),
            ("a1?; a2; r[2]; a3; r[3 2]", "order against time"),
            ("a1?; r[1]; a2; r[2 1]", "append into the past"),
        ] {
            assert!(kinds(bad).contains(&kind), "{bad}: {:?}", kinds(bad));
        }
        let twice = "{:type :invoke, :process 0, :f :txn, :value [[:append 1 1]], :time 0}\n\
                     {:type :invoke, :process 1, :f :txn, :value [[:append 1 1]], :time 0}";
        assert!(check(&read(twice).unwrap()).is_err());
    }
}
