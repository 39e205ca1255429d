//! One replica's log in memory: the entries since the last compaction, and how far each thing has come.
//!
//! ```text
//!   start          applied     committed      persisted       handed        last
//!     │ compacted │            │              │               │             │
//!     ▼           ▼            ▼              ▼               ▼             ▼
//!   ──┴───────────┴────────────┴──────────────┴───────────────┴─────────────┴──
//! ```
//! `handed`: given out to be written. `persisted` and `committed` may pass each other.
//!
//! Invariants:
//! - Indexes have no gaps, terms do not fall.
//! - What is committed is never cut.
//! - A write that was under way when its entries were cut persists nothing of what took their place.

use crate::membership::Membership;
use crate::message::{Content, Entry, Mark, Snapshot};
use base::{Index, ReplicaId};
use core::hash::{Hash, Hasher};
use std::collections::VecDeque;

/// A write that was handed out and is not known to be durable.
#[derive(Debug, Clone, Copy)]
struct Write {
    number: u64,
    /// Everything up to here that is still in the log is durable with it.
    last: Index,
}

/// Its number is its place among those under way: two replicas that wrote different amounts before are not told apart.
impl Hash for Write {
    fn hash<H: Hasher>(&self, into: &mut H) {
        self.last.hash(into);
    }
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Log {
    /// The entry before the first one kept.
    start: Mark,
    entries: VecDeque<Entry>,
    /// Who takes part: as of `start`, then as of each entry that changed it.
    memberships: VecDeque<(Index, Membership)>,
    handed: Index,
    writes: VecDeque<Write>,
    persisted: Index,
    committed: Index,
    /// Given out to be applied.
    delivered: Index,
}

impl Log {
    /// A log that follows `snapshot`; `entries` are durable.
    pub(crate) fn new(snapshot: Snapshot, entries: Vec<Entry>) -> Self {
        let start = snapshot.last;
        let mut log = Self {
            start,
            entries: VecDeque::with_capacity(entries.len()),
            memberships: VecDeque::from([(start.index, snapshot.membership)]),
            handed: start.index,
            writes: VecDeque::new(),
            persisted: start.index,
            committed: start.index,
            delivered: start.index,
        };
        for entry in entries {
            log.push(entry);
        }
        log.handed = log.last().index;
        log.persisted = log.handed;
        log
    }

    pub(crate) fn last(&self) -> Mark {
        self.entries.back().map_or(self.start, Entry::mark)
    }

    pub(crate) fn persisted(&self) -> Index {
        self.persisted
    }

    pub(crate) fn committed(&self) -> Index {
        self.committed
    }

    /// Who takes part, as of the last entry.
    pub(crate) fn membership(&self) -> &Membership {
        &self.memberships.back().expect("there is one as of the start").1
    }

    /// Whether `id` votes as of the committed entries, or as of a later one that may never be committed. Such a replica must
    /// be able to lead: the others may wait for the entry by which it goes.
    pub(crate) fn may_lead(&self, id: ReplicaId) -> bool {
        let later = self
            .memberships
            .partition_point(|(index, _)| *index <= self.committed);
        let open = self.memberships.range(later.saturating_sub(1)..);
        open.into_iter().any(|(_, membership)| membership.is_voter(id))
    }

    /// The entry that made it so.
    pub(crate) fn membership_index(&self) -> Index {
        self.memberships.back().expect("there is one as of the start").0
    }

    /// What replaces the log up to its start.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            last: self.start,
            membership: self.memberships[0].1.clone(),
        }
    }

    fn at(&self, index: Index) -> Option<usize> {
        let offset = index.0.checked_sub(self.start.index.0 + 1)?;
        usize::try_from(offset).ok().filter(|&at| at < self.entries.len())
    }

    /// The name of the entry at `index`; `None` when it is compacted or not there.
    pub(crate) fn mark(&self, index: Index) -> Option<Mark> {
        if index == self.start.index {
            return Some(self.start);
        }
        self.at(index).map(|at| self.entries[at].mark())
    }

    /// The first kept index of the term at `index`, which is in the log.
    pub(crate) fn first_of_term(&self, mark: Mark) -> Mark {
        let first = self.entries.partition_point(|entry| entry.term < mark.term);
        let index = self.entries.get(first).map_or(mark.index, |entry| entry.index);
        Mark {
            index: index.min(mark.index),
            ..mark
        }
    }

    /// The last index whose term is at most `mark.term`, but not after `mark.index`.
    pub(crate) fn last_not_after(&self, mark: Mark) -> Index {
        let after = self.entries.partition_point(|entry| entry.term <= mark.term);
        let last = after
            .checked_sub(1)
            .map_or(self.start.index, |at| self.entries[at].index);
        last.min(mark.index)
    }

    /// The entries from `first`, as many as fit, at least one if there is one.
    pub(crate) fn from(&self, first: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let Some(at) = self.at(first) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes();
            first || bytes <= bytes_max
        };
        self.entries
            .range(at..)
            .take(entries_max)
            .take_while(fits)
            .cloned()
            .collect()
    }

    /// Adds the next entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index == last.index.next(),
            "entry {} does not follow {}",
            entry.index,
            last.index
        );
        assert!(
            entry.term >= last.term,
            "term {} follows {}",
            entry.term,
            last.term
        );
        if let Content::Membership(membership) = &entry.content {
            self.memberships.push_back((entry.index, membership.clone()));
        }
        self.entries.push_back(entry);
    }

    /// Adds entries of a leader, cutting what contradicts them.
    pub(crate) fn merge(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match self.mark(entry.index) {
                Some(known) if known.term == entry.term => continue,
                Some(_) => self.cut(entry.index),
                None if entry.index <= self.start.index => continue,
                None => {}
            }
            self.push(entry);
        }
    }

    /// Cuts everything from `first` on.
    fn cut(&mut self, first: Index) {
        assert!(
            first > self.committed,
            "{first} is committed: up to {}",
            self.committed
        );
        let at = self.at(first).expect("only what is there is cut");
        self.entries.truncate(at);
        let last = self.last().index;
        while self.membership_index() > last {
            self.memberships.pop_back();
        }
        self.handed = self.handed.min(last);
        self.persisted = self.persisted.min(last);
        for write in &mut self.writes {
            write.last = write.last.min(last);
        }
    }

    /// State takes the place of everything.
    pub(crate) fn reset(&mut self, snapshot: Snapshot) {
        assert!(
            snapshot.last.index > self.committed,
            "a snapshot brings nothing new"
        );
        self.start = snapshot.last;
        self.entries.clear();
        self.memberships = VecDeque::from([(self.start.index, snapshot.membership)]);
        for write in &mut self.writes {
            write.last = Index::ZERO;
        }
        self.handed = self.start.index;
        self.committed = self.start.index;
        self.delivered = self.start.index;
        // Durable with the write that is handed out next.
        self.persisted = Index::ZERO;
    }

    /// What was not handed out yet.
    pub(crate) fn hand_out(&mut self, out: &mut Vec<Entry>) {
        if let Some(at) = self.at(self.handed.next()) {
            out.extend(self.entries.range(at..).cloned());
        }
        self.handed = self.last().index;
    }

    pub(crate) fn write_begins(&mut self, number: u64) {
        self.writes.push_back(Write {
            number,
            last: self.handed,
        });
    }

    pub(crate) fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Writes up to `number` are durable.
    pub(crate) fn write_ended(&mut self, number: u64) {
        while let Some(write) = self.writes.front().filter(|write| write.number <= number) {
            self.persisted = self.persisted.max(write.last);
            self.writes.pop_front();
        }
    }

    pub(crate) fn commit(&mut self, index: Index) {
        let index = index.min(self.last().index);
        self.committed = self.committed.max(index);
    }

    /// What is committed, durable here, and was not delivered yet, up to a bound.
    pub(crate) fn deliver(&mut self, bytes_max: usize, out: &mut Vec<Entry>) {
        let until = self.committed.min(self.persisted);
        let Some(at) = self.at(self.delivered.next()).filter(|_| until > self.delivered) else {
            return;
        };
        let mut bytes = 0;
        for entry in self.entries.range(at..) {
            if entry.index > until || (bytes > 0 && bytes + entry.bytes() > bytes_max) {
                break;
            }
            bytes += entry.bytes();
            self.delivered = entry.index;
            out.push(entry.clone());
        }
    }

    /// Forgets entries up to `index`, which were delivered.
    pub(crate) fn compact(&mut self, index: Index) {
        assert!(
            index <= self.delivered,
            "{index} was not delivered: up to {}",
            self.delivered
        );
        let Some(mark) = self.mark(index).filter(|_| index > self.start.index) else {
            return;
        };
        self.start = mark;
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.entries.pop_front();
        }
        while self.memberships.get(1).is_some_and(|(at, _)| *at <= index) {
            self.memberships.pop_front();
        }
        self.memberships[0].0 = index;
    }

    pub(crate) fn assert_invariants(&self) {
        assert!(self.start.index <= self.delivered);
        assert!(self.delivered <= self.committed);
        assert!(self.committed <= self.last().index);
        assert!(self.handed <= self.last().index);
        assert!(self.persisted <= self.handed);
        assert!(self.membership_index() <= self.last().index);
        if let Some(first) = self.entries.front() {
            assert!(first.index == self.start.index.next() && first.term >= self.start.term);
        }
    }
}
