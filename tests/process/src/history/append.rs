//! Do lists only grow, in one order, and do the transactions that read and write them keep what they are promised?
//!
//! Elements are appended once each, so a read shows which appends came before it, and in which order: the longest read of a
//! key is the order of its versions. From it follows who depends on whom.
//!
//! - Every read is a beginning of the longest one, without repetition, of elements whose append was begun and has not failed
//!   (G1a), up to the last append of a transaction to the list (G1b), and of the transaction's own appends before it.
//! - What was appended, or seen, before an operation began is before it in the order of the key: no isolation allows a stale read.
//! - There are no cycles of dependencies that isolation forbids: see [`cycles`](crate::history::cycles).
//!
//! A transaction without `:isolation` is a strict one.

use crate::history::cycles::{Graph, Isolation, Kind, Node};
use crate::history::edn::Edn;
use crate::history::operation::{Operation, Outcome};
use crate::history::{Anomaly, Findings};
use anyhow::{Context as _, bail, ensure};
use base::collections::FastMap;
use std::collections::BTreeMap;

/// A step of a transaction.
enum Micro {
    Append { key: i64, element: i64 },
    Read { key: i64, list: Vec<i64> },
}

struct Txn {
    micros: Vec<Micro>,
    isolation: Isolation,
    began: usize,
    ended: usize,
    outcome: Outcome,
}

/// What a transaction read of one key of others, and what it appended to it.
#[derive(Default)]
struct Part {
    seen: Option<Vec<i64>>,
    appended: Vec<i64>,
}

/// One key.
#[derive(Default)]
struct Key {
    /// The elements of the longest read.
    order: Vec<i64>,
    /// Where each of them is.
    places: FastMap<i64, usize>,
    /// The transactions that have to do with it, in the order of their invocations.
    parts: BTreeMap<usize, Part>,
}

/// Checks a history of `corelane bench append`. Lists begin empty.
///
/// # Errors
/// The history is not one of lists, or appends an element twice.
pub fn check(history: &[Operation]) -> anyhow::Result<Vec<Anomaly>> {
    let mut txns = Vec::new();
    for operation in history {
        txns.push(txn(operation).with_context(|| format!("line {}", operation.began + 1))?);
    }
    let mut findings = Findings::default();
    let mut keys: BTreeMap<i64, Key> = BTreeMap::new();
    let mut writers: FastMap<(i64, i64), usize> = FastMap::default();
    for (number, txn) in txns.iter().enumerate() {
        sort_in(&mut keys, &mut findings, number, txn);
        for micro in &txn.micros {
            if let Micro::Append { key, element } = micro {
                let other = writers.insert((*key, *element), number);
                ensure!(other.is_none(), "key {key}: {element} is appended twice");
            }
        }
    }
    // Of those that nobody was told to have happened, those that somebody saw have.
    let mut happened: Vec<bool> = txns.iter().map(|txn| txn.outcome == Outcome::Ok).collect();
    for (key, state) in &mut keys {
        let reads = state.parts.values().filter_map(|part| part.seen.as_ref());
        state.order = reads.max_by_key(|list| list.len()).cloned().unwrap_or_default();
        let places = state.order.iter().enumerate();
        state.places = places.map(|(at, element)| (*element, at)).collect();
        if state.places.len() < state.order.len() {
            findings.add("duplicate element", format!("key {key}: {:?}", state.order));
        }
        for element in &state.order {
            if let Some(writer) = writers.get(&(*key, *element)) {
                happened[*writer] = true;
            }
        }
    }
    for (key, state) in &keys {
        check_reads(&mut findings, *key, state, &txns, &writers);
        check_time(&mut findings, *key, state, &txns);
    }
    let node = |txn: &Txn| Node {
        isolation: txn.isolation,
        began: txn.began,
        ended: txn.ended,
    };
    let mut graph = Graph::new(txns.iter().map(node).collect());
    for (key, state) in &keys {
        depend(&mut graph, *key, state, &happened, &writers);
    }
    graph.check(&mut findings);
    Ok(findings.0)
}

fn txn(operation: &Operation) -> anyhow::Result<Txn> {
    let steps = operation.told.vector().context("the value is no vector")?;
    let mut micros = Vec::new();
    for step in steps {
        let Some([kind, key, value]) = step.vector() else {
            bail!("a micro-operation has three parts")
        };
        let key = key.int().context("the key is no number")?;
        match (kind.keyword(), operation.outcome) {
            (Some("append"), _) => {
                let element = value.int().context("the element is no number")?;
                micros.push(Micro::Append { key, element });
            }
            (Some("r"), Outcome::Ok) => {
                let numbers = |list: &[Edn]| list.iter().map(Edn::int).collect::<Option<_>>();
                let list = match value {
                    Edn::Nil => Some(Vec::new()),
                    other => other.vector().and_then(numbers),
                };
                let list = list.context("what is read is no list of numbers")?;
                micros.push(Micro::Read { key, list });
            }
            (Some("r"), Outcome::Fail | Outcome::Info) => {}
            (other, _) => bail!("a list has no operation {other:?}"),
        }
    }
    let isolation = match operation.isolation.as_deref() {
        Some("snapshot") => Isolation::Snapshot,
        Some("serializable") => Isolation::Serializable,
        Some("strict") | None => Isolation::Strict,
        Some(other) => bail!("there is no isolation :{other}"),
    };
    Ok(Txn {
        micros,
        isolation,
        began: operation.began,
        ended: operation.ended,
        outcome: operation.outcome,
    })
}

/// Takes a transaction apart by key, and checks what it says of itself.
fn sort_in(keys: &mut BTreeMap<i64, Key>, findings: &mut Findings, number: usize, txn: &Txn) {
    for micro in &txn.micros {
        let (Micro::Append { key, .. } | Micro::Read { key, .. }) = micro;
        let part = keys.entry(*key).or_default().parts.entry(number).or_default();
        match micro {
            Micro::Append { element, .. } => part.appended.push(*element),
            Micro::Read { list, .. } => {
                let line = txn.ended + 1;
                let Some(others) = list.strip_suffix(&part.appended[..]) else {
                    let evidence = format!(
                        "key {key}: {list:?} at line {line} after it appended {:?}",
                        part.appended
                    );
                    findings.add("own append not seen", evidence);
                    continue;
                };
                match &part.seen {
                    Some(seen) if *seen != others => {
                        let evidence = format!("key {key}: {seen:?} and {others:?} at line {line}");
                        findings.add("two reads of one snapshot differ", evidence);
                    }
                    Some(_) | None => part.seen = Some(others.to_vec()),
                }
            }
        }
    }
}

fn check_reads(
    findings: &mut Findings,
    key: i64,
    state: &Key,
    txns: &[Txn],
    writers: &FastMap<(i64, i64), usize>,
) {
    let seen = |(number, part): (&usize, &'_ Part)| Some((*number, part.seen.clone()?));
    for (number, list) in state.parts.iter().filter_map(seen) {
        let line = txns[number].ended + 1;
        if !state.order.starts_with(&list) {
            let evidence = format!(
                "key {key}: {list:?} at line {line} is no beginning of {:?}",
                state.order
            );
            findings.add("incompatible order", evidence);
        }
        for element in &list {
            let told = format!("key {key}: element {element} is read at line {line}");
            match writers.get(&(key, *element)).map(|writer| &txns[*writer]) {
                None => findings.add("element from nowhere", format!("{told}, and nobody appended it")),
                Some(writer) if writer.outcome == Outcome::Fail => {
                    let evidence = format!("{told}, but its append failed at line {}", writer.ended + 1);
                    findings.add("G1a", evidence);
                }
                Some(writer) if writer.began > txns[number].ended => {
                    let evidence = format!("{told}, before its append began at line {}", writer.began + 1);
                    findings.add("element from the future", evidence);
                }
                Some(_) => {}
            }
        }
        if let Some(element) = list.last()
            && let Some(writer) = writers.get(&(key, *element))
            && *writer != number
            && state.parts[writer].appended.last() != Some(element)
        {
            let evidence = format!(
                "key {key}: {list:?} at line {line} ends amid what line {} appended, {:?}",
                txns[*writer].began + 1,
                state.parts[writer].appended
            );
            findings.add("G1b", evidence);
        }
    }
}

/// What is known of a key at some line: so many elements are there, because of this.
#[derive(Clone, Default)]
struct Floor {
    elements: usize,
    why: String,
}

/// What ended before something else began comes before it in the order.
fn check_time(findings: &mut Findings, key: i64, state: &Key, txns: &[Txn]) {
    let mut lines: Vec<(usize, bool, usize)> = Vec::new();
    for number in state.parts.keys() {
        lines.push((txns[*number].began, true, *number));
        if txns[*number].outcome == Outcome::Ok {
            lines.push((txns[*number].ended, false, *number));
        }
    }
    lines.sort_unstable();
    let place = |element: &i64| state.places.get(element).copied();
    // What was appended and what was read by the line that is looked at, and by the begin of each.
    let (mut appended, mut read) = (Floor::default(), Floor::default());
    let mut at_begin: FastMap<usize, (Floor, Floor)> = FastMap::default();
    for (line, begins, number) in lines {
        if begins {
            at_begin.insert(number, (appended.clone(), read.clone()));
            continue;
        }
        let part = &state.parts[&number];
        if let Some(list) = part.seen.as_ref().filter(|list| list.len() > read.elements) {
            read.elements = list.len();
            read.why = format!("{} elements were read at line {}", list.len(), line + 1);
        }
        for element in &part.appended {
            // What nobody ever read comes after all that was.
            let elements = place(element).map_or(usize::MAX, |place| place + 1);
            if elements > appended.elements {
                appended.elements = elements;
                appended.why = format!("{element} was appended at line {}", line + 1);
            }
        }
    }
    for (number, part) in &state.parts {
        let (appended, read) = &at_begin[number];
        let line = txns[*number].began + 1;
        if let Some(list) = &part.seen {
            let told = format!(
                "key {key}: the read from line {line} on has {} elements",
                list.len()
            );
            if list.len() < appended.elements {
                findings.add("append not seen", format!("{told}; before, {}", appended.why));
            }
            if list.len() < read.elements {
                findings.add("stale read", format!("{told}; before, {}", read.why));
            }
        }
        for element in &part.appended {
            let Some(place) = place(element) else { continue };
            let told = format!("key {key}: {element}, appended from line {line} on, is at place {place}");
            if place < appended.elements {
                findings.add("order against time", format!("{told}; before, {}", appended.why));
            }
            if place < read.elements {
                findings.add("append into the past", format!("{told}; before, {}", read.why));
            }
        }
    }
}

/// Adds the dependencies that one key shows.
fn depend(graph: &mut Graph, key: i64, state: &Key, happened: &[bool], writers: &FastMap<(i64, i64), usize>) {
    let writer = |element: &i64| writers.get(&(key, *element)).copied();
    for pair in state.order.windows(2) {
        if let (Some(before), Some(after)) = (writer(&pair[0]), writer(&pair[1])) {
            graph.add(before, after, Kind::Ww, || {
                format!("key {key}: {} then {}", pair[0], pair[1])
            });
        }
    }
    // What was appended and never read comes after all that was, in an order that nobody knows.
    let is_unread = |part: &Part| {
        part.appended
            .iter()
            .any(|element| !state.places.contains_key(element))
    };
    let unread = state
        .parts
        .iter()
        .filter(|(number, part)| happened[**number] && is_unread(part));
    let unread: Vec<usize> = unread.map(|(number, _)| *number).collect();
    if let Some(last) = state.order.last()
        && let Some(before) = writer(last)
    {
        for after in &unread {
            graph.add(before, *after, Kind::Ww, || {
                format!("key {key}: {last} then one that was never read")
            });
        }
    }
    for (number, part) in state.parts.iter().filter(|(number, _)| happened[**number]) {
        let Some(list) = &part.seen else { continue };
        if let Some(from) = list.last().and_then(writer) {
            graph.add(from, *number, Kind::Wr, || {
                format!("key {key}: it read up to {:?}", list.last())
            });
        }
        // One's own appends follow what one read, and others follow them.
        let rest = state.order.get(list.len()..).unwrap_or_default();
        let next = rest.iter().find_map(|element| Some((*element, writer(element)?)));
        match next {
            Some((element, to)) => graph.add(*number, to, Kind::Rw, || {
                format!("key {key}: it read all before {element}")
            }),
            None => {
                for to in &unread {
                    graph.add(*number, *to, Kind::Rw, || {
                        format!("key {key}: it read all before one that was never read")
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
