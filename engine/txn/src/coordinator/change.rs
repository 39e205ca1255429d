//! Writes that depend on what they find: one at a time in an open transaction, or all of a one-shot transaction with its commit.
//!
//! A one-shot transaction is committed as any other, in one round. A condition goes with a write of the same range, in one request that
//! no split of ranges takes apart: so what is promised is there only where the condition holds, and nobody who looks at the promises has
//! to know of conditions. Those that no write goes to their range with are read first, a round before.
//!
//! What a condition needs of a key that is not written is a read of it, from the beginning on: it is validated whenever the transaction
//! moves in time, also when it was answered by a replay. What is needed of keys that are written, the intents keep as it is.

use super::lock_list::LockList;
use super::{Answer, Coordinator, Reading, Written};
use crate::change::{Change, Condition, Given, OneShot, Unmet};
use crate::error::{Refusal, TxnError};
use crate::locks::Strength;
use crate::request::{Item, Request};
use crate::txn::{Bytes, Keys, Seq};
use base::Timestamp;
use std::collections::BTreeMap;

/// A change that was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Changing {
    seq: Seq,
    change: Change,
    given: Given,
    alone: bool,
}

/// What keys have after their changes, and where each was laid.
pub(super) type Changed = BTreeMap<Bytes, (Timestamp, Option<Bytes>)>;

impl Coordinator {
    /// Changes the value of a key by what it is: by the newest one, or what the transaction itself wrote. [`Answer::Changed`] follows, or
    /// [`Answer::Unmet`], which leaves the transaction as it was, save that it has read the key; or a failure. The intent is laid at
    /// once, in the round that reads the value, and others wait as for a read for update. Of what is in the buffer it is worked out
    /// there.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn change(&mut self, key: Bytes, change: &Change) {
        assert!(self.is_ready(), "one call after the other, until the end");
        if let Some(write) = self.buffer.get(&key) {
            let found = write.value.clone();
            match change.apply(found.as_deref()) {
                Ok(value) => {
                    self.write(key, value.clone());
                    self.tell(Answer::Changed(value));
                }
                Err(why) => {
                    let unmet = Unmet {
                        key,
                        missed: why.into(),
                        found,
                        ts: self.read_ts,
                    };
                    self.tell(Answer::Unmet(Box::new(unmet)));
                }
            }
            return;
        }
        self.seq = self.seq.next();
        let alone = !self.has_locks();
        let is_first = alone && self.reads.is_empty();
        // What was sent and is not there yet must not come behind the change.
        let mut requests: Vec<Request> = self.proof(&key).into_iter().collect();
        self.lock(Keys::One(key.clone()));
        requests.push(Request::Change {
            key,
            seq: self.seq,
            change: change.clone(),
            given: Given::default(),
            alone,
        });
        self.reading = Some(Reading::Change {
            found: None,
            is_first,
        });
        self.send(requests);
    }

    /// Commits what `shot` says, if its conditions hold: an answer as to [`Self::commit`] follows, which may be that one does not
    /// ([`TxnError::Unmet`]). `is_near` says of two keys whether they are in one range, as far as the caller knows: when they all are, it
    /// is one request and one entry. What was changed to what, [`Self::changed`] knows then.
    ///
    /// # Panics
    /// When the transaction is not open, or has done anything before.
    pub fn one_shot(&mut self, shot: OneShot, is_near: impl Fn(&[u8], &[u8]) -> bool) {
        self.one_shot_in_turn(shot, &[], is_near);
    }

    /// As [`Self::one_shot`], but the keys of `first` are locked one after the other, in this order, but for the last of all keys, before
    /// all is changed with the commit: of two that want the same keys none has one then and waits for the other. What is one entry
    /// anyway is so still.
    ///
    /// # Panics
    /// As [`Self::one_shot`].
    pub fn one_shot_in_turn(
        &mut self,
        shot: OneShot,
        first: &[Bytes],
        is_near: impl Fn(&[u8], &[u8]) -> bool,
    ) {
        assert!(self.is_ready(), "one call after the other, until the end");
        let is_new = self.buffer.is_empty() && self.reads.is_empty() && !self.has_locks();
        assert!(is_new, "a one-shot transaction is all of its transaction");
        let OneShot { conditions, changes } = shot;
        let alone = changes.len() == 1;
        let keys: Vec<Bytes> = changes.iter().map(|(key, _)| key.clone()).collect();
        let (mut before, mut given) = (Vec::new(), BTreeMap::<Bytes, Vec<Condition>>::new());
        self.whole = keys.windows(2).all(|pair| is_near(&pair[0], &pair[1]));
        // The last of them goes with the others.
        let most = if self.whole {
            0
        } else {
            keys.len().saturating_sub(1)
        };
        let turns = first.iter().filter(|key| keys.contains(key)).take(most);
        let mut turns: Vec<Bytes> = turns.cloned().collect();
        turns.reverse();
        for condition in conditions {
            let own = keys.iter().find(|key| **key == condition.key);
            let with = own.or_else(|| keys.iter().find(|key| is_near(key, &condition.key)));
            if own.is_none() && !base::planted_bug!("txn-conditions-move") {
                self.note_read(Keys::One(condition.key.clone()));
            }
            match with {
                Some(key) => given.entry(key.clone()).or_default().push(condition),
                None => before.push(condition),
            }
        }
        // Without reads it moves along anyway.
        self.whole &= before.is_empty() && !self.reads.is_empty();
        for (key, change) in changes {
            self.seq = self.seq.next();
            let given = given.remove(&key).unwrap_or_default().into();
            let changing = Changing {
                seq: self.seq,
                change,
                given,
                alone,
            };
            let twice = self.changes.insert(key, changing);
            assert!(twice.is_none(), "a one-shot transaction changes a key once");
        }
        if before.is_empty() {
            return self.lock_in_turn(turns);
        }
        base::sometimes!("txn: conditions are looked at before a one-shot transaction");
        let left = before.len();
        self.reading = Some(Reading::Conditions { left, turns });
        let check = |condition| Request::Check { condition };
        self.send(before.into_iter().map(check).collect());
    }

    /// Locks the next of the keys that are locked one after the other, or commits.
    pub(super) fn lock_in_turn(&mut self, mut turns: Vec<Bytes>) {
        let Some(key) = turns.pop() else {
            return self.commit();
        };
        base::sometimes!("txn: a one-shot transaction locked a key first that others wait for");
        let alone = !self.has_locks();
        self.lock(Keys::One(key.clone()));
        self.reading = Some(Reading::Turn {
            is_locked: false,
            is_first: alone,
            turns,
        });
        let strength = Strength::Exclusive;
        self.send(vec![Request::GetLocked { key, strength, alone }]);
    }

    /// What a committed one-shot transaction has made of keys, as far as ranges have said so: a range that was asked again says only that
    /// it is committed. What was set is not among them.
    pub fn changed(&mut self) -> BTreeMap<Bytes, Option<Bytes>> {
        let Some(ts) = self.committed else {
            return BTreeMap::new();
        };
        // A late copy, laid above, was worked out over the change itself.
        let all = core::mem::take(&mut self.changed).into_iter();
        all.filter(|(_, (laid, _))| *laid <= ts)
            .map(|(key, (_, value))| (key, value))
            .collect()
    }

    /// The changes of a one-shot transaction as requests; they count as sent.
    pub(super) fn take_changes(&mut self) -> Vec<Request> {
        let mut requests = Vec::with_capacity(self.changes.len());
        for (key, changing) in core::mem::take(&mut self.changes) {
            let Changing {
                seq,
                change,
                given,
                alone,
            } = changing;
            self.lock(Keys::One(key.clone()));
            let is_proven = false;
            self.written.insert(key.clone(), Written { seq, is_proven });
            requests.push(Request::Change {
                key,
                seq,
                change,
                given,
                alone,
            });
        }
        requests
    }

    pub(super) fn on_changed(&mut self, key: Bytes, seq: Seq, value: Option<Bytes>, ts: Timestamp) {
        let is_proven = true;
        match &mut self.reading {
            Some(Reading::Change { found, .. }) => {
                *found = Some(value);
                self.written.insert(key, Written { seq, is_proven });
            }
            _ => {
                if let Some(written) = self.written.get_mut(&key)
                    && written.seq == seq
                {
                    written.is_proven = is_proven;
                }
                self.changed.insert(key, (ts, value));
            }
        }
    }

    /// What goes before the commit of a one-shot transaction was answered: a condition holds, or a key is locked.
    pub(super) fn done_before(&mut self) {
        match &mut self.reading {
            Some(Reading::Conditions { left, .. }) => *left = left.saturating_sub(1),
            Some(Reading::Turn { is_locked, .. }) => *is_locked = true,
            _ => {}
        }
    }

    /// Something does not hold.
    pub(super) fn on_unmet(&mut self, unmet: Box<Unmet>) {
        if !matches!(self.reading, Some(Reading::Change { .. })) {
            self.fatal.get_or_insert(TxnError::Unmet(unmet));
            return;
        }
        if self.is_blind() {
            self.read_ts = self.read_ts.max(unmet.ts);
            self.write_ts = self.write_ts.max(unmet.ts);
        }
        self.reading = None;
        let is_its = |undone: &Request| matches!(undone, Request::Change { .. } | Request::Query { .. });
        self.undone.retain(|undone| !is_its(undone));
        self.note_read(Keys::One(unmet.key.clone()));
        self.tell(Answer::Unmet(unmet));
    }

    /// Whether a request came to the right range, and a condition that goes with it is in another one.
    pub(super) fn is_cut_off(&self, request: &Request, refusal: &Refusal) -> bool {
        matches!(refusal, Refusal::WrongRange { key } if **key != *request.key(Some(&self.who)))
    }

    /// The range that has the record has taken a one-shot transaction back, in place of what was asked by `items`.
    pub(super) fn on_ended_unmet(&mut self, unmet: Box<Unmet>, items: &[Item]) {
        let is_all = self
            .outstanding
            .keys()
            .all(|item| items.contains(item) || self.beat == Some(*item));
        if is_all && !self.sent_again {
            // That was all of it, so nothing is anywhere.
            self.locks = LockList::default();
        }
        self.fatal = Some(TxnError::Unmet(unmet));
    }
}
