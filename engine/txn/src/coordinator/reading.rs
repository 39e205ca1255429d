//! Reads of keys, with and without locks.

use super::{Coordinator, Reading};
use crate::locks::Strength;
use crate::request::Request;
use crate::txn::{Bytes, Keys};
use std::collections::BTreeSet;

impl Coordinator {
    /// Reads keys. [`Answer::Values`](super::Answer::Values) follows, or [`Answer::Failed`](super::Answer::Failed), and then the transaction is over.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn read(&mut self, keys: Vec<Bytes>) {
        self.read_as(keys.clone(), Some(keys), Vec::new());
    }

    /// Reads keys, and keeps others from writing them until the transaction ends: for update, or shared with others that do the same.
    /// The snapshot moves to what is newest; when other reads are not valid there, the transaction fails. Locks are kept in memory and
    /// may be lost with a lease: they save work that would be done in vain, and no promise rests on them.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn read_locked(&mut self, keys: Vec<Bytes>, strength: Strength) {
        self.read_locked_in_turn(keys, &[], strength);
    }

    /// As [`Self::read_locked`], but `first` are locked one after the other, in this order, and the others when these are: of keys that
    /// many want none is held then while another one is waited for.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn read_locked_in_turn(&mut self, keys: Vec<Bytes>, first: &[Bytes], strength: Strength) {
        let mut rest = keys.clone();
        rest.retain(|key| !first.contains(key));
        let first = first.iter().filter(|key| keys.contains(key));
        let mut later = vec![(rest, strength)];
        later.extend(first.rev().map(|key| (vec![key.clone()], strength)));
        self.read_as(keys, None, later);
    }

    fn read_as(&mut self, keys: Vec<Bytes>, plain: Option<Vec<Bytes>>, later: Vec<(Vec<Bytes>, Strength)>) {
        assert!(self.is_ready(), "one call after the other, until the end");
        let found = keys.iter().filter_map(|key| {
            let write = self.buffer.get(key)?;
            Some((key.clone(), write.value.clone()))
        });
        let found = found.collect();
        self.reading = Some(Reading::Keys {
            keys,
            found,
            later,
            moves: false,
        });
        let plain = plain.unwrap_or_default().into_iter();
        let mut requests = Vec::new();
        for key in plain.filter(|key| !self.buffer.contains_key(key)) {
            requests.extend(self.proof(&key));
            requests.push(Request::Get { key });
        }
        if !requests.is_empty() {
            self.send(requests);
        }
        self.advance();
    }

    /// Locks what comes next, if there is anything; whether something was sent.
    pub(super) fn lock_next(&mut self) -> bool {
        loop {
            let Some(Reading::Keys { later, .. }) = &mut self.reading else {
                return false;
            };
            let Some((keys, strength)) = later.pop() else {
                return false;
            };
            let mut seen = BTreeSet::new();
            let is_asked = |key: &Bytes| !self.buffer.contains_key(key) && seen.insert(key.clone());
            let keys: Vec<Bytes> = keys.into_iter().filter(is_asked).collect();
            let alone = keys.len() == 1 && !self.has_locks();
            let is_first = alone && self.reads.is_empty();
            if let Some(Reading::Keys { moves, .. }) = &mut self.reading {
                *moves = is_first;
            }
            let mut requests = Vec::new();
            for key in keys {
                requests.extend(self.proof(&key));
                // Whoever waits for it finds it by its record, and its end lets go of the lock.
                self.lock(Keys::One(key.clone()));
                requests.push(Request::GetLocked { key, strength, alone });
            }
            if !requests.is_empty() {
                self.send(requests);
                return true;
            }
        }
    }
}
