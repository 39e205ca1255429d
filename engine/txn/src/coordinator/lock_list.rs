//! Where a transaction's intents and locks may be: what its record names, for whoever ends it.
//!
//! A few thousand keys are named one by one. Beyond, runs of them become spans, and spans that lie near each other one: then whoever
//! ends the transaction passes by intents of others between its own, which costs looks at them and nothing else.
//!
//! Invariants: spans do not touch each other, and no key lies in one; what was inserted once is in there always.

use crate::evaluate::after;
use crate::txn::{Bytes, Keys};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keys that are named one by one.
const KEYS_MAX: usize = 4096;
/// Keys that become a span together.
const RUN: usize = 64;
/// Spans.
const SPANS_MAX: usize = 256;

/// Keys and spans, at most [`KEYS_MAX`] and [`SPANS_MAX`] of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct LockList {
    keys: BTreeSet<Bytes>,
    /// First keys, and where the spans end; `None` is the end of all keys.
    spans: BTreeMap<Bytes, Option<Bytes>>,
}

impl LockList {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.spans.is_empty()
    }

    /// All of it; no key twice.
    pub(super) fn list(&self) -> Arc<[Keys]> {
        let keys = self.keys.iter().cloned().map(Keys::One);
        let span = |(start, end): (&Bytes, &Option<Bytes>)| Keys::Span(start.clone(), end.clone());
        keys.chain(self.spans.iter().map(span)).collect()
    }

    pub(super) fn insert(&mut self, keys: Keys) {
        match keys {
            Keys::One(key) => {
                if self.has_span_over(&key) {
                    return;
                }
                self.keys.insert(key);
                if self.keys.len() > KEYS_MAX {
                    self.condense();
                }
            }
            Keys::Span(start, end) => {
                self.insert_span(start, end);
                if self.spans.len() > SPANS_MAX {
                    self.condense_spans();
                }
            }
        }
    }

    fn has_span_over(&self, key: &Bytes) -> bool {
        let before = self.spans.range(..=key.clone()).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end))
    }

    /// Spans that touch become one: no two requests of a batch are about one key.
    fn insert_span(&mut self, mut start: Bytes, mut end: Option<Bytes>) {
        let before = self.spans.range(..=start.clone()).next_back();
        let touching = before.filter(|(_, until)| until.as_ref().is_none_or(|until| start <= *until));
        if let Some((from, _)) = touching {
            start = from.clone();
        }
        loop {
            let next = self.spans.range(start.clone()..).next();
            let touching = next.filter(|(from, _)| end.as_ref().is_none_or(|end| *from <= end));
            let Some((from, _)) = touching else { break };
            let from = from.clone();
            let until = self.spans.remove(&from).expect("it was just found");
            end = match (end, until) {
                (Some(end), Some(until)) => Some(end.max(until)),
                _ => None,
            };
        }
        let mut behind = self.keys.split_off(&start);
        if let Some(end) = &end {
            self.keys.append(&mut behind.split_off(end));
        }
        self.spans.insert(start, end);
    }

    /// Runs of keys become spans.
    fn condense(&mut self) {
        base::sometimes!("txn: keys of a large transaction became spans");
        let keys: Vec<Bytes> = core::mem::take(&mut self.keys).into_iter().collect();
        for run in keys.chunks(RUN) {
            let [first, .., last] = run else {
                self.keys.extend(run.iter().cloned());
                continue;
            };
            self.insert_span(first.clone(), Some(after(last)));
        }
        while self.spans.len() > SPANS_MAX {
            self.condense_spans();
        }
    }

    /// Of two spans side by side one becomes.
    fn condense_spans(&mut self) {
        let spans: Vec<(Bytes, Option<Bytes>)> = core::mem::take(&mut self.spans).into_iter().collect();
        for pair in spans.chunks(2) {
            let (start, end) = match pair {
                [(start, _), (_, end)] | [(start, end)] => (start.clone(), end.clone()),
                _ => unreachable!("chunks have one or two"),
            };
            self.insert_span(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Prng;

    fn one(number: u64) -> Keys {
        Keys::One(Bytes::from(&number.to_be_bytes()[..]))
    }

    fn check(list: &LockList) {
        let mut until: Option<&Bytes> = None;
        for (at, (start, end)) in list.spans.iter().enumerate() {
            assert!(end.as_ref().is_none_or(|end| start < end), "a span has keys");
            assert!(
                at == 0 || until.is_some_and(|until| until < start),
                "spans are apart"
            );
            until = end.as_ref();
        }
        assert!(list.keys.iter().all(|key| !list.has_span_over(key)));
        assert!(list.keys.len() <= KEYS_MAX && list.spans.len() <= SPANS_MAX);
    }

    #[test]
    fn few_keys_are_named_one_by_one() {
        let mut list = LockList::default();
        assert!(list.is_empty());
        (0..1000).for_each(|number| list.insert(one(number * 3)));
        assert_eq!(list.list().len(), 1000);
        list.insert(one(3));
        assert_eq!(list.list().len(), 1000, "a key is named once");
        check(&list);
    }

    #[test]
    fn what_is_inserted_is_there_always() {
        for seed in 0..8 {
            let mut prng = Prng::new(seed);
            let (mut list, mut inserted) = (LockList::default(), Vec::new());
            let range = 1 << prng.between(14, 60);
            for _ in 0..40_000 {
                let keys = if prng.chance(0.001) {
                    let (start, len) = (prng.below(range), 1 + prng.below(range / 1000 + 2));
                    let bytes = |number: u64| Bytes::from(&number.to_be_bytes()[..]);
                    let end = (!prng.chance(0.02)).then(|| bytes(start + len));
                    Keys::Span(bytes(start), end)
                } else {
                    one(prng.below(range))
                };
                inserted.push(keys.clone());
                list.insert(keys);
            }
            check(&list);
            let listed = list.list();
            assert!(listed.len() <= KEYS_MAX + SPANS_MAX);
            let is_listed = |key: &Bytes| list.keys.contains(key) || list.has_span_over(key);
            for keys in inserted {
                match keys {
                    Keys::One(key) => assert!(is_listed(&key)),
                    Keys::Span(start, end) => {
                        let (_, until) = list.spans.range(..=start).next_back().expect("a span over it");
                        assert!(until.is_none() || end.is_some() && end <= *until);
                    }
                }
            }
        }
    }
}
