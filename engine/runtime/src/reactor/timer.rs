//! Timers: who sleeps until when. The kernel is told of the nearest deadline only, and only when the shard parks.

use core::task::Waker;
use std::collections::BTreeMap;

/// Sleepers by deadline.
#[derive(Default)]
pub(super) struct Timers {
    sleepers: BTreeMap<(u64, u64), Waker>,
    next: u64,
}

impl Timers {
    /// A name for a new sleeper; earlier ones come first among equal deadlines.
    pub(super) fn enter(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn set(&mut self, deadline_ns: u64, id: u64, waker: &Waker) {
        let slot = self
            .sleepers
            .entry((deadline_ns, id))
            .or_insert_with(|| waker.clone());
        if !slot.will_wake(waker) {
            slot.clone_from(waker);
        }
    }

    pub(super) fn forget(&mut self, deadline_ns: u64, id: u64) {
        self.sleepers.remove(&(deadline_ns, id));
    }

    /// The nearest deadline.
    pub(super) fn nearest_ns(&self) -> Option<u64> {
        self.sleepers
            .first_key_value()
            .map(|((deadline_ns, _), _)| *deadline_ns)
    }

    /// Takes the sleepers whose time has come, in the order of their deadlines.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.sleepers.first_entry()
            && first.key().0 <= now_ns
        {
            due.push(first.remove());
        }
        due
    }
}
