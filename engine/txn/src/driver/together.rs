//! Parts of several transactions that go to one range as one batch: one message, and one entry of its log.
//!
//! Only what comes after a transaction is decided goes together: nobody waits for it but those who meet its intents. A range does all of
//! a batch or nothing, so when it refuses one of them, each goes by itself.

use crate::request::{Answer, Batch, Item, Request};
use crate::txn::{Keys, TxnId};
use std::collections::BTreeSet;

/// Requests that go together at most.
pub const TOGETHER_MAX: usize = 256;

/// Whether a part may go together with others.
#[must_use]
pub fn may_join(part: &Batch) -> bool {
    part.requests
        .iter()
        .all(|(_, request)| transaction(request).is_some())
}

/// The transaction that a request finishes, where it names its keys one by one.
fn transaction(request: &Request) -> Option<TxnId> {
    match request {
        Request::Finish { who, .. } | Request::Forget { who } => Some(who.id),
        Request::Resolve {
            keys: Keys::One(_),
            txn,
            ..
        } => Some(*txn),
        _ => None,
    }
}

/// Parts that go together.
#[derive(Debug)]
pub struct Together<T> {
    /// What is sent.
    pub batch: Batch,
    /// Whose requests these are, in order, with what they call them.
    parts: Vec<(T, Vec<Item>)>,
}

/// Takes from `waiting`, whose parts all may join, what goes together: none of them twice for one transaction, so that no two change
/// the same. `None` when nothing waits.
pub fn join<T>(waiting: &mut Parts<T>) -> Option<Together<T>> {
    let mut seen = BTreeSet::new();
    let (mut requests, mut next) = (Vec::new(), 0);
    let mut parts = Vec::new();
    let mut left = Vec::new();
    for (part, tag) in waiting.drain(..) {
        let of: BTreeSet<TxnId> = part
            .requests
            .iter()
            .filter_map(|(_, request)| transaction(request))
            .collect();
        let is_full = !parts.is_empty() && requests.len() + part.requests.len() > TOGETHER_MAX;
        if is_full || !seen.is_disjoint(&of) {
            left.push((part, tag));
            continue;
        }
        seen.extend(of);
        let mut items = Vec::with_capacity(part.requests.len());
        for (item, request) in part.requests {
            items.push(item);
            requests.push((next, request));
            next += 1;
        }
        parts.push((tag, items));
    }
    *waiting = left;
    (!parts.is_empty()).then(|| Together {
        batch: Batch {
            header: None,
            requests,
        },
        parts,
    })
}

/// Answers, by whose they are.
pub type Answers<T> = Vec<(T, Answer)>;
/// Parts, and whose they are.
pub type Parts<T> = Vec<(Batch, T)>;

impl<T> Together<T> {
    /// Gives each part its answer.
    ///
    /// # Errors
    /// One of several was refused, or the answer does not fit: these parts have to go by themselves.
    pub fn answer(mut self, answer: Answer) -> Result<Answers<T>, Parts<T>> {
        let replies = match answer {
            Ok(replies) if replies.len() == self.batch.requests.len() => replies,
            Err((item, refusal)) if self.parts.len() == 1 => {
                let name = |(tag, items): (T, Vec<Item>)| {
                    let item = items.get(item as usize).copied().unwrap_or_default();
                    (tag, Err((item, refusal.clone())))
                };
                return Ok(self.parts.drain(..).map(name).collect());
            }
            Ok(_) | Err(_) => return Err(self.apart()),
        };
        let mut replies = replies.into_iter().map(|(_, reply)| reply);
        let give = |(tag, items): (T, Vec<Item>)| {
            let count = items.len();
            (
                tag,
                Ok(items.into_iter().zip(replies.by_ref().take(count)).collect()),
            )
        };
        Ok(self.parts.into_iter().map(give).collect())
    }

    /// The parts as they were.
    #[must_use]
    pub fn apart(self) -> Parts<T> {
        let mut requests = self.batch.requests.into_iter().map(|(_, request)| request);
        let part = |(tag, items): (T, Vec<Item>)| {
            let count = items.len();
            let requests = items.into_iter().zip(requests.by_ref().take(count)).collect();
            let header = None;
            (Batch { header, requests }, tag)
        };
        self.parts.into_iter().map(part).collect()
    }

    /// Whose parts these are.
    pub fn tags(self) -> impl Iterator<Item = T> {
        self.parts.into_iter().map(|(tag, _)| tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;
    use crate::request::{Reply, Verdict};
    use base::ClientId;

    fn resolve(seq: u64, item: Item, key: &[u8]) -> Batch {
        let request = Request::Resolve {
            keys: Keys::One(key.into()),
            txn: TxnId {
                client: ClientId(1),
                seq,
            },
            verdict: Verdict::Aborted,
        };
        Batch {
            header: None,
            requests: vec![(item, request)],
        }
    }

    #[test]
    fn parts_get_their_own_answers() {
        let mut waiting = vec![
            (resolve(1, 7, b"a"), 'a'),
            (resolve(2, 7, b"b"), 'b'),
            (resolve(1, 8, b"c"), 'c'),
        ];
        assert!(waiting.iter().all(|(part, _)| may_join(part)));
        let joined = join(&mut waiting).expect("some wait");
        assert_eq!(joined.batch.requests.len(), 2);
        assert!(joined.batch.flaw().is_none());
        assert_eq!(waiting.len(), 1, "the same transaction goes later");
        let next = Reply::Partly {
            next: b"b1"[..].into(),
        };
        let answers = joined.answer(Ok(vec![(0, Reply::Done), (1, next.clone())]));
        let want = vec![('a', Ok(vec![(7, Reply::Done)])), ('b', Ok(vec![(7, next)]))];
        assert_eq!(answers.expect("both are answered"), want);
    }

    #[test]
    fn what_is_refused_goes_by_itself() {
        let parts = vec![(resolve(1, 7, b"a"), 'a'), (resolve(2, 9, b"b"), 'b')];
        let joined = join(&mut parts.clone()).expect("some wait");
        let wrong = Refusal::WrongRange { key: b"b"[..].into() };
        assert_eq!(joined.answer(Err((1, wrong.clone()))).expect_err("two"), parts);
        let alone = join(&mut vec![parts[1].clone()]).expect("one waits");
        let answers = alone.answer(Err((0, wrong.clone()))).expect("it was alone");
        assert_eq!(answers, vec![('b', Err((9, wrong)))]);
    }

    #[test]
    fn so_many_go_and_no_more() {
        let parts = |count: u64| (0..count).map(|seq| (resolve(seq, 0, &seq.to_be_bytes()), ()));
        let mut waiting: Vec<_> = parts(TOGETHER_MAX as u64 + 5).collect();
        let joined = join(&mut waiting).expect("some wait");
        assert_eq!((joined.batch.requests.len(), waiting.len()), (TOGETHER_MAX, 5));
        assert_eq!(joined.apart().len(), TOGETHER_MAX);
        assert!(join::<()>(&mut Vec::new()).is_none());
    }
}
