//! What a push or a recovery has asked and has no answer to. Neither is harmed by anything that is done twice.

use crate::request::{Batch, Item, Reply, Request};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Outstanding {
    requests: BTreeMap<Item, Request>,
    next_item: Item,
}

/// What a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Nobody waits for it.
    Late,
    /// It does not fit what was asked, which counts as lost.
    Lost,
    /// It is the answer to a part, and the rest is to be asked for.
    Partly,
    /// It is the answer.
    Fits,
}

impl Outstanding {
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn has(&self, item: Item) -> bool {
        self.requests.contains_key(&item)
    }

    /// What is answered partly is enough.
    pub(crate) fn give_up(&mut self, item: Item) {
        self.requests.remove(&item);
    }

    /// No answer matters any more.
    pub(crate) fn clear(&mut self) {
        self.requests.clear();
    }

    /// Requests to be sent.
    pub(crate) fn ask(&mut self, requests: impl IntoIterator<Item = Request>) -> Batch {
        let number = |request: Request| {
            let item = self.next_item;
            self.next_item += 1;
            self.requests.insert(item, request.clone());
            (item, request)
        };
        let requests = requests.into_iter().map(number).collect();
        Batch {
            header: None,
            requests,
        }
    }

    /// Takes in a reply.
    pub(crate) fn answered(&mut self, item: Item, reply: &Reply) -> Answered {
        match (self.requests.get_mut(&item), reply) {
            (None, _) => Answered::Late,
            (Some(request), _) if !request.is_answered_by(reply) => Answered::Lost,
            (Some(request), Reply::Partly { next }) => {
                request.go_on(next);
                Answered::Partly
            }
            (Some(_), _) => {
                self.requests.remove(&item);
                Answered::Fits
            }
        }
    }

    /// What of `items` has no answer, to be sent again; `None` when all of it has.
    pub(crate) fn again(&self, items: &[Item]) -> Option<Batch> {
        let known = |item: &Item| Some((*item, self.requests.get(item)?.clone()));
        let requests: Vec<_> = items.iter().filter_map(known).collect();
        (!requests.is_empty()).then_some(Batch {
            header: None,
            requests,
        })
    }

    /// A range ends at `at`: what was asked for of both sides by `item` is from now on asked for of each. Returns what `items` are
    /// then.
    pub(crate) fn cut(&mut self, items: &[Item], item: Item, at: &[u8]) -> Vec<Item> {
        let mut items = items.to_vec();
        if let Some(other) = self.requests.get_mut(&item).and_then(|request| request.cut(at)) {
            items.push(self.next_item);
            self.requests.insert(self.next_item, other);
            self.next_item += 1;
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Verdict;
    use crate::txn::{Bytes, Keys, TxnId};

    fn resolve(from: &str, to: &str) -> Request {
        let bytes = |text: &str| -> Bytes { text.as_bytes().into() };
        Request::Resolve {
            keys: Keys::Span(bytes(from), Some(bytes(to))),
            txn: TxnId::default(),
            verdict: Verdict::Aborted,
        }
    }

    #[test]
    fn what_is_lost_is_asked_again_and_what_is_answered_is_not() {
        let mut outstanding = Outstanding::default();
        let batch = outstanding.ask([resolve("a", "c"), resolve("d", "f")]);
        assert_eq!(batch.requests.len(), 2);
        assert_eq!(outstanding.answered(0, &Reply::Done), Answered::Fits);
        assert_eq!(outstanding.answered(0, &Reply::Done), Answered::Late);
        assert_eq!(outstanding.answered(1, &Reply::Refreshed), Answered::Lost);
        assert_eq!(outstanding.again(&[0]), None);
        let again = outstanding.again(&[0, 1]);
        assert_eq!(
            again.map(|batch| batch.requests),
            Some(vec![(1, resolve("d", "f"))])
        );
        outstanding.clear();
        assert!(outstanding.is_empty() && !outstanding.has(1));
    }

    #[test]
    fn what_is_done_in_part_is_asked_for_the_rest() {
        let mut outstanding = Outstanding::default();
        outstanding.ask([resolve("a", "f")]);
        let next = b"c"[..].into();
        let answered = outstanding.answered(0, &Reply::Partly { next });
        assert_eq!(answered, Answered::Partly);
        let rest = outstanding.again(&[0]).map(|batch| batch.requests);
        assert_eq!(rest, Some(vec![(0, resolve("c", "f"))]));
    }

    #[test]
    fn a_cut_makes_two_of_one() {
        let mut outstanding = Outstanding::default();
        outstanding.ask([resolve("a", "c"), resolve("d", "f")]);
        let items = outstanding.cut(&[0, 1], 1, b"e");
        let again = outstanding.again(&items).map(|batch| batch.requests);
        let parts = vec![
            (0, resolve("a", "c")),
            (1, resolve("d", "e")),
            (2, resolve("e", "f")),
        ];
        assert_eq!(again, Some(parts));
        assert_eq!(outstanding.cut(&[0], 0, b"x"), [0], "it is on one side");
    }
}
