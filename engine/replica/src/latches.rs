//! What requests of transactions touch, and who waits for whom before they are evaluated.
//!
//! A request is evaluated over the applied state, and what it changes is proposed in the same step. So nothing that is proposed and
//! not applied may touch what it reads or changes ([`txn::View`]). One that finds this so goes at once; one that does not takes a
//! *latch*: from then on nobody else proposes anything that touches its keys, so that it goes when what was proposed before is
//! applied, and when those who took a latch on the same keys earlier have gone. Nobody waits for a later one, so all go.
//!
//! Keys are compared with keys by their hash: a collision makes somebody wait for nothing, never the reverse.

use base::api::WriteOp;
use base::collections::{FastHash, FastSet};
use base::key::Span;
use base::{Index, Timestamp};
use core::hash::BuildHasher;
use txn::{Batch, Bytes, Keys, Mutation, Request, TxnId};

/// Names a latch, in the order in which they were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a batch touches in one range.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// Keys that it may change, or whose intents it looks at.
    pub(crate) keys: Vec<Bytes>,
    /// Records that it may change or looks at, by their hashes.
    pub(crate) records: Vec<u64>,
    /// Spans whose intents it may change.
    pub(crate) spans: Vec<Span>,
    /// Keys whose versions it reads at a timestamp.
    pub(crate) reads: Vec<(Keys, Timestamp)>,
}

/// Latches of one range.
#[derive(Debug, Default)]
pub(crate) struct Latches {
    taken: Vec<Latch>,
    last: u64,
    hasher: FastHash,
}

#[derive(Debug)]
struct Latch {
    ticket: Ticket,
    /// What was proposed when it was taken.
    after: Index,
    /// A set: a batch may have a million keys.
    hashes: FastSet<u64>,
    /// The keys themselves, in order, for those who come with spans.
    keys: Vec<Bytes>,
    /// In order, and apart.
    spans: Vec<Span>,
}

impl Latch {
    /// Whether a span of it has the key.
    fn spans_over(&self, key: &[u8]) -> bool {
        let behind = self.spans.partition_point(|own| *own.start <= *key);
        behind > 0 && self.spans[behind - 1].contains(key)
    }

    /// Whether it has a key in the span, or a span that overlaps it.
    fn touches(&self, span: &Span) -> bool {
        let end = span.end.as_deref();
        let next = self.keys.partition_point(|key| **key < *span.start);
        let ends_before = |own: &Span| own.end.as_ref().is_some_and(|end| **end <= *span.start);
        let own = self.spans.partition_point(ends_before);
        self.keys.get(next).is_some_and(|key| span.contains(key))
            || self
                .spans
                .get(own)
                .is_some_and(|own| own.intersect(&span.start, end).is_some())
    }
}

/// The same keys by spans that are in order, and apart: who looks for one of many thousand keys does not go over all spans.
fn in_order(spans: &[Span]) -> Vec<Span> {
    let mut spans: Vec<Span> = spans.iter().filter(|span| !span.is_empty()).cloned().collect();
    spans.sort_unstable_by(|one, other| one.start.cmp(&other.start));
    let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match apart.last_mut() {
            Some(last) if last.end.as_ref().is_none_or(|end| span.start <= *end) => {
                let ends = last.end.take().zip(span.end);
                last.end = ends.map(|(one, other)| one.max(other));
            }
            _ => apart.push(span),
        }
    }
    apart
}

/// How the record of a transaction is named among keys: no key begins so, since none begins with a zero byte and this text.
fn record_hash(hasher: &FastHash, id: TxnId) -> u64 {
    hasher.hash_one((*b"\0txn", id.client.0, id.seq))
}

pub(crate) fn span_of(start: &Bytes, end: Option<&Bytes>) -> Span {
    Span::new(start, end.map(|end| &**end))
}

impl Latches {
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// What `batch` touches in a range that has the keys of `range`.
    pub(crate) fn touched(&self, batch: &Batch, range: &Span) -> Touched {
        let mut touched = Touched::default();
        let header = batch.header.as_ref();
        let read_ts = header.map_or(Timestamp::ZERO, |header| header.read_ts);
        let own = header.map(|header| record_hash(&self.hasher, header.who.id));
        for (_, request) in &batch.requests {
            match request {
                Request::Get { key } => touched.reads.push((Keys::One(key.clone()), read_ts)),
                Request::Scan { keys, .. } | Request::Refresh { keys, .. } => {
                    touched.reads.push((keys.clone(), read_ts));
                }
                Request::Check { condition } => {
                    touched.reads.push((Keys::One(condition.key.clone()), read_ts));
                }
                Request::Change { key: one, given, .. } => {
                    touched.keys.push(one.clone());
                    // Of another key it may be the newest value that counts.
                    let others = given.iter().filter(|condition| condition.key != *one);
                    touched.keys.extend(others.map(|condition| condition.key.clone()));
                }
                Request::GetLocked { key: one, .. }
                | Request::Write { key: one, .. }
                | Request::Query { key: one, .. } => touched.keys.push(one.clone()),
                Request::DeleteRange { keys, .. } | Request::Resolve { keys, .. } => match keys {
                    Keys::One(one) => touched.keys.push(one.clone()),
                    Keys::Span(start, end) => touched.spans.push(span_of(start, end.as_ref())),
                },
                Request::End { locks, .. } => {
                    touched.records.extend(own);
                    let here = |keys: &&Keys| matches!(keys, Keys::One(one) if range.contains(one));
                    let here = locks.iter().filter(here).map(|keys| keys.start().clone());
                    touched.keys.extend(here);
                }
                Request::Finish { who, locks, .. } => {
                    touched.records.push(record_hash(&self.hasher, who.id));
                    let here = |keys: &&Keys| matches!(keys, Keys::One(one) if range.contains(one));
                    let here = locks.iter().filter(here).map(|keys| keys.start().clone());
                    touched.keys.extend(here);
                }
                Request::Beat => touched.records.extend(own),
                Request::Push { pushee, .. } => {
                    touched.records.push(record_hash(&self.hasher, pushee.who.id));
                }
                Request::QueryTxn { who } | Request::Recover { who, .. } | Request::Forget { who } => {
                    touched.records.push(record_hash(&self.hasher, who.id));
                }
            }
        }
        touched
    }

    /// What a change touches, as hashes.
    pub(crate) fn changed(&self, mutation: &Mutation) -> u64 {
        match mutation {
            Mutation::Lay { key, .. }
            | Mutation::Spill { key, .. }
            | Mutation::Move { key, .. }
            | Mutation::Commit { key, .. }
            | Mutation::Drop { key }
            | Mutation::Put { key, .. } => self.hasher.hash_one(&**key),
            Mutation::Record(record) => record_hash(&self.hasher, record.who.id),
            Mutation::Remember { id, .. } => record_hash(&self.hasher, *id),
        }
    }

    /// Takes a latch, when everything up to `after` is proposed.
    pub(crate) fn take(&mut self, touched: &Touched, after: Index) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let mut keys = touched.keys.clone();
        keys.sort_unstable();
        self.taken.push(Latch {
            ticket,
            after,
            hashes: self.hashes(touched).into_iter().collect(),
            keys,
            spans: in_order(&touched.spans),
        });
        ticket
    }

    /// The latch is not needed any more; everything up to `proposed` is proposed. What was is waited for by those behind.
    pub(crate) fn give_back(&mut self, ticket: Ticket, proposed: Index) {
        self.taken.retain(|latch| latch.ticket != ticket);
        for later in self.taken.iter_mut().filter(|latch| latch.ticket > ticket) {
            later.after = later.after.max(proposed);
        }
    }

    pub(crate) fn has(&self, ticket: Ticket) -> bool {
        self.taken.iter().any(|latch| latch.ticket == ticket)
    }

    /// Nobody who has one goes on: who leads has changed, or which keys are here.
    pub(crate) fn clear(&mut self) {
        self.taken.clear();
    }

    fn hashes(&self, touched: &Touched) -> Vec<u64> {
        let keys = touched.keys.iter().map(|key| self.hasher.hash_one(&**key));
        keys.chain(touched.records.iter().copied()).collect()
    }

    /// Whether nobody who took a latch before `ticket` touches the same; before everybody without one.
    pub(crate) fn is_first(&self, touched: &Touched, ticket: Option<Ticket>) -> bool {
        if self.taken.is_empty() {
            return true;
        }
        let hashes = self.hashes(touched);
        let earlier = |latch: &&Latch| ticket.is_none_or(|ticket| latch.ticket < ticket);
        let meets = |latch: &Latch| {
            touched.keys.iter().any(|key| latch.spans_over(key))
                || touched.spans.iter().any(|span| latch.touches(span))
                || hashes.iter().any(|hash| latch.hashes.contains(hash))
        };
        !self.taken.iter().filter(earlier).any(meets)
    }

    /// Whether everything that was proposed when the latch was taken is applied.
    pub(crate) fn is_due(&self, ticket: Ticket, applied: Index) -> bool {
        let latch = self.taken.iter().find(|latch| latch.ticket == ticket);
        latch.is_some_and(|latch| latch.after <= applied)
    }

    /// Whether a plain write touches what somebody has a latch on.
    pub(crate) fn hold(&self, op: &WriteOp<'_>) -> bool {
        self.taken.iter().any(|latch| match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key } => {
                latch.hashes.contains(&self.hasher.hash_one(*key)) || latch.spans_over(key)
            }
            WriteOp::DeleteRange { start, end } => latch.touches(&Span::new(start, *end)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        text.as_bytes().into()
    }

    fn touched(keys: &[&str], spans: &[(&str, Option<&str>)]) -> Touched {
        Touched {
            keys: keys.iter().map(|key| bytes(key)).collect(),
            spans: spans
                .iter()
                .map(|(start, end)| Span::new(start.as_bytes(), end.map(str::as_bytes)))
                .collect(),
            ..Touched::default()
        }
    }

    #[test]
    fn who_touches_the_same_waits_and_nobody_else() {
        let cases = [
            (touched(&["d", "a"], &[]), touched(&["a"], &[]), true),
            (touched(&["d", "a"], &[]), touched(&["b"], &[]), false),
            (
                touched(&["d", "a"], &[]),
                touched(&[], &[("b", Some("d"))]),
                false,
            ),
            (touched(&["d", "a"], &[]), touched(&[], &[("b", None)]), true),
            (touched(&["d", "a"], &[]), touched(&[], &[("a", Some("b"))]), true),
            (touched(&[], &[("c", Some("f"))]), touched(&["f"], &[]), false),
            (touched(&[], &[("c", Some("f"))]), touched(&["x", "e"], &[]), true),
            (
                touched(&[], &[("c", Some("f"))]),
                touched(&[], &[("f", None)]),
                false,
            ),
            (
                touched(&[], &[("c", Some("f"))]),
                touched(&[], &[("a", Some("d"))]),
                true,
            ),
            (
                touched(&["a"], &[("c", Some("f"))]),
                touched(&["b"], &[("g", None)]),
                false,
            ),
        ];
        for (first, second, meets) in cases {
            for (first, second) in [(&first, &second), (&second, &first)] {
                let mut latches = Latches::default();
                let earlier = latches.take(first, Index(1));
                assert_eq!(latches.is_first(second, None), !meets);
                let later = latches.take(second, Index(1));
                assert!(latches.is_first(first, Some(earlier)));
                assert_eq!(
                    latches.is_first(second, Some(later)),
                    !meets,
                    "{first:?} {second:?}"
                );
                latches.give_back(earlier, Index(2));
                assert!(latches.is_first(second, Some(later)));
                assert!(!latches.is_due(later, Index(1)) && latches.is_due(later, Index(2)));
            }
        }
    }

    #[test]
    fn spans_of_a_latch_are_apart_and_have_the_same_keys() {
        let mut prng = base::Prng::new(7);
        let letter = |at: u64| vec![b'a' + u8::try_from(at).expect("few")];
        for _ in 0..2_000 {
            let spans: Vec<Span> = (0..prng.below(6))
                .map(|_| {
                    let start = prng.below(20);
                    let end = prng.chance(0.8).then(|| letter(start + prng.below(6)));
                    Span::new(&letter(start), end.as_deref())
                })
                .collect();
            let mut latches = Latches::default();
            let of = Touched {
                spans: spans.clone(),
                ..Touched::default()
            };
            latches.take(&of, Index(1));
            let latch = &latches.taken[0];
            for pair in latch.spans.windows(2) {
                assert!(
                    pair[0].end.as_ref().is_some_and(|end| *end < pair[1].start),
                    "{spans:?}"
                );
            }
            for at in 0..26 {
                let key = letter(at);
                let expected = spans.iter().any(|span| span.contains(&key));
                assert_eq!(latch.spans_over(&key), expected, "{spans:?} {key:?}");
                let end = letter(25.min(at + prng.below(4)));
                let overlaps = |span: &Span| span.intersect(&key, Some(&end)).is_some();
                let asked = Span::new(&key, Some(&end));
                assert_eq!(
                    latch.touches(&asked),
                    spans.iter().any(overlaps),
                    "{spans:?} {asked:?}"
                );
            }
        }
    }

    #[test]
    fn records_are_no_keys() {
        let mut latches = Latches::default();
        let record = Touched {
            records: vec![record_hash(&latches.hasher, TxnId::default())],
            ..Touched::default()
        };
        let all = touched(&[], &[("", None)]);
        let earlier = latches.take(&all, Index(1));
        assert!(latches.is_first(&record, None), "a heartbeat waits for no span");
        assert!(!latches.hold(&WriteOp::DeleteRange {
            start: b"x",
            end: Some(b"x")
        }));
        assert!(latches.hold(&WriteOp::Put {
            key: b"x",
            value: b""
        }));
        latches.give_back(earlier, Index(1));
        assert!(latches.is_empty());
    }
}
