//! Deletes of spans, and where intents may be.

use super::{Answer, Coordinator, Reading, Written};
use crate::evaluate::after;
use crate::request::Request;
use crate::txn::{Bytes, Keys, Seq};
use base::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A delete of a span that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Deleting {
    /// What was not sent, the next one last.
    todo: Vec<Keys>,
    seq: Seq,
    /// Keys that had a value, as the transaction saw it.
    had: BTreeSet<Bytes>,
    /// Keys that it had deleted itself and not sent.
    had_none: BTreeSet<Bytes>,
}

impl Coordinator {
    /// Deletes every key of a span that the transaction sees a value of, its own writes included. [`Answer::Deleted`] follows, or a
    /// failure. It is a read of the span too: what others insert there afterwards stays, and fails a serializable transaction that has
    /// to commit later than that. The intents are laid at once, so that a commit has nothing to wait for.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn delete_range(&mut self, keys: Keys) {
        assert!(self.is_ready(), "one call after the other, until the end");
        self.seq = self.seq.next();
        let seq = self.seq;
        let (mut had, mut had_none) = (BTreeSet::new(), BTreeSet::new());
        let own: Vec<Bytes> = self
            .buffer
            .keys()
            .filter(|key| keys.contain(key))
            .cloned()
            .collect();
        for key in own {
            if self.buffer[&key].value.is_some() {
                self.write(key.clone(), None);
                had.insert(key);
            } else {
                had_none.insert(key);
            }
        }
        self.lock(keys.clone());
        self.reading = Some(Reading::Deletion(Deleting {
            todo: vec![keys],
            seq,
            had,
            had_none,
        }));
        self.advance();
    }

    /// The next part of a delete, or its answer.
    pub(super) fn go_on_deleting(&mut self, mut deleting: Deleting) {
        let Some(keys) = deleting.todo.pop() else {
            let had = deleting.had.into_iter().collect();
            return self.tell(Answer::Deleted(had));
        };
        // What was sent and is not there yet must not come behind the delete.
        let own: Vec<&Bytes> = self.written.keys().filter(|key| keys.contain(key)).collect();
        let mut requests: Vec<Request> = own.into_iter().filter_map(|key| self.proof(key)).collect();
        let seq = deleting.seq;
        requests.push(Request::DeleteRange { keys, seq });
        self.reading = Some(Reading::Deletion(deleting));
        self.send(requests);
    }

    pub(super) fn on_deleted(
        &mut self,
        asked: Keys,
        deleted: Vec<Bytes>,
        ts: Timestamp,
        next: Option<Bytes>,
    ) {
        let Some(Reading::Deletion(deleting)) = &mut self.reading else {
            return;
        };
        let parts = next.and_then(|next| asked.cut(&next));
        let (read, rest) = parts.map_or((asked, None), |(left, right)| (left, Some(right)));
        deleting.todo.extend(rest);
        let seq = deleting.seq;
        for key in deleted {
            if !deleting.had_none.contains(&key) {
                deleting.had.insert(key.clone());
            }
            let is_proven = true;
            self.written.insert(key, Written { seq, is_proven });
        }
        self.note_read(read);
        self.rise(ts);
    }

    /// A range ends within a part of a delete.
    pub(super) fn cut_deletion(&mut self, keys: &Keys, at: &[u8]) {
        let Some(Reading::Deletion(deleting)) = &mut self.reading else {
            return;
        };
        match keys.cut(at) {
            Some((left, right)) => deleting.todo.extend([right, left]),
            None => self.give_up(at.into()),
        }
    }

    /// A range ends within a scan: what is before is read, and the answer says where to go on.
    pub(super) fn cut_scan(&mut self, rows_max: usize, at: Bytes) {
        let Some(Reading::Span { keys, cut, .. }) = &mut self.reading else {
            return;
        };
        let Some((left, _)) = keys.cut(&at) else {
            return self.give_up(at);
        };
        *keys = left.clone();
        *cut = Some(at);
        self.undone.push(Request::Scan { keys: left, rows_max });
    }

    /// Notes that intents or locks may be there. The first such key is the anchor.
    pub(super) fn lock(&mut self, keys: Keys) {
        if self.who.anchor.is_empty() && !self.has_locks() {
            Arc::make_mut(&mut self.who).anchor = keys.start().clone();
        }
        self.locks.insert(keys);
    }

    pub(super) fn has_locks(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Where intents may be, of all epochs: no key twice.
    pub(super) fn lock_keys(&self) -> Arc<[Keys]> {
        self.locks.list()
    }
}

/// Where keys end.
pub(super) fn end(keys: &Keys) -> Option<Bytes> {
    match keys {
        Keys::One(key) => Some(after(key)),
        Keys::Span(_, end) => end.clone(),
    }
}
