//! One replica's log: how far each thing has come, runs of terms for all of it, and in memory its recent entries.
//!
//! ```text
//!   start          kept         applied     committed     persisted     handed        last
//!     │ on disk     │ in memory    │            │             │            │            │
//!     ▼             ▼              ▼            ▼             ▼            ▼            ▼
//!   ──┴─────────────┴──────────────┴────────────┴─────────────┴────────────┴────────────┴──
//! ```
//! `handed`: given out to be written. `delivered`, between `applied` and `committed`: given out to be applied. `persisted`
//! and `committed` may pass each other.
//!
//! Invariants:
//! - Indexes have no gaps, terms do not fall, the chain of each entry follows from the one before.
//! - What is committed is never cut.
//! - A write that was under way when its entries were cut persists nothing of what took their place.
//! - What is not delivered is in memory.

use crate::membership::Membership;
use crate::message::{Content, Entry, Mark, Snapshot};
use base::prefetch::{prefetch, prefetch_value};
use base::{Index, ReplicaId, Term, planted_bug};
use core::hash::{Hash, Hasher};
use core::ops::Range;
use std::collections::{VecDeque, vec_deque};
use std::sync::Arc;

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

/// Entries of one term.
#[derive(Debug, Clone, Copy, Hash)]
struct Run {
    first: Index,
    term: Term,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Log {
    /// The entry before the first one.
    start: Mark,
    start_chain: u32,
    /// Of the entry at `kept`.
    kept_chain: u32,
    /// Of the entries after `start`, in order.
    runs: Vec<Run>,
    /// Entries up to here are on disk only.
    kept: Index,
    entries: VecDeque<Entry>,
    kept_bytes: usize,
    /// Who takes part as of `start`.
    membership: Arc<Membership>,
    /// As of each entry after it that changed that.
    changes: Vec<(Index, Arc<Membership>)>,
    handed: Index,
    /// Of the entries after `handed`.
    turn_bytes: usize,
    writes: VecDeque<Write>,
    persisted: Index,
    committed: Index,
    /// Of the entries after `committed`.
    uncommitted_bytes: usize,
    /// Given out to be applied.
    delivered: Index,
    applied: Index,
    /// Of entries that were delivered since everything was applied.
    delivered_bytes: usize,
}

/// A log with nothing under way: all of it is durable, committed, applied, and on disk only.
#[derive(Debug, Clone)]
pub(crate) struct IdleLog {
    start: Mark,
    start_chain: u32,
    last_chain: u32,
    last: Index,
    runs: Box<[Run]>,
    membership: Arc<Membership>,
    changes: Box<[(Index, Arc<Membership>)]>,
}

impl IdleLog {
    pub(crate) fn last(&self) -> Index {
        self.last
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.changes
            .last()
            .map_or(&self.membership, |(_, membership)| membership)
    }

    pub(crate) fn wake(self) -> Log {
        let last = self.last;
        Log {
            start: self.start,
            start_chain: self.start_chain,
            kept_chain: self.last_chain,
            runs: self.runs.into_vec(),
            kept: last,
            entries: VecDeque::new(),
            kept_bytes: 0,
            membership: self.membership,
            changes: self.changes.into_vec(),
            handed: last,
            turn_bytes: 0,
            writes: VecDeque::new(),
            persisted: last,
            committed: last,
            uncommitted_bytes: 0,
            delivered: last,
            applied: last,
            delivered_bytes: 0,
        }
    }
}

impl Log {
    pub(crate) fn is_idle(&self) -> bool {
        let last = self.last().index;
        // `persisted` is behind after a state was installed, until that is durable.
        self.writes.is_empty() && self.persisted == last && self.applied == last
    }

    pub(crate) fn hibernate(self) -> IdleLog {
        IdleLog {
            start: self.start,
            start_chain: self.start_chain,
            last_chain: self.last_chain(),
            last: self.last().index,
            runs: self.runs.into_boxed_slice(),
            membership: self.membership,
            changes: self.changes.into_boxed_slice(),
        }
    }

    /// A log that follows `snapshot`; `entries` are durable, and up to `applied` they are applied.
    pub(crate) fn new(snapshot: Snapshot, entries: Vec<Entry>, applied: Index) -> Self {
        let start = snapshot.last;
        let mut log = Self {
            start,
            start_chain: snapshot.chain,
            kept_chain: snapshot.chain,
            runs: Vec::new(),
            kept: start.index,
            entries: VecDeque::with_capacity(entries.len()),
            kept_bytes: 0,
            membership: snapshot.membership,
            changes: Vec::new(),
            handed: start.index,
            turn_bytes: 0,
            writes: VecDeque::new(),
            persisted: start.index,
            committed: start.index,
            uncommitted_bytes: 0,
            delivered: start.index,
            applied: start.index,
            delivered_bytes: 0,
        };
        for entry in entries {
            log.push(entry);
        }
        log.handed = log.last().index;
        log.turn_bytes = 0;
        log.persisted = log.handed;
        log.commit(applied);
        log.delivered = log.committed;
        log.applied = log.committed;
        log
    }

    pub(crate) fn last(&self) -> Mark {
        match (self.entries.back(), self.runs.last()) {
            (Some(entry), _) => entry.mark(),
            (None, Some(run)) => Mark {
                term: run.term,
                index: self.kept,
            },
            (None, None) => self.start,
        }
    }

    /// The chain up to the last entry.
    pub(crate) fn last_chain(&self) -> u32 {
        self.entries.back().map_or(self.kept_chain, |entry| entry.chain)
    }

    /// The chain up to `index`, as far as it is in memory.
    pub(crate) fn chain(&self, index: Index) -> Option<u32> {
        if index == self.kept {
            return Some(self.kept_chain);
        }
        if index == self.start.index {
            return Some(self.start_chain);
        }
        self.at(index).map(|at| self.entries[at].chain)
    }

    pub(crate) fn persisted(&self) -> Index {
        self.persisted
    }

    pub(crate) fn committed(&self) -> Index {
        self.committed
    }

    /// How many entries wait to be handed out, and their bytes.
    pub(crate) fn not_handed_out(&self) -> (usize, usize) {
        let entries = self.last().index.since(self.handed);
        (usize::try_from(entries).unwrap_or(usize::MAX), self.turn_bytes)
    }

    pub(crate) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Asks for the memory of the last entries, runs and writes.
    #[inline]
    pub(crate) fn prefetch(&self) {
        if let Some(last) = self.entries.back() {
            prefetch_value(last);
        }
        self.runs.last().into_iter().for_each(prefetch);
        self.writes.back().into_iter().for_each(prefetch);
    }

    /// Who takes part, as of the last entry.
    pub(crate) fn membership(&self) -> &Arc<Membership> {
        self.changes
            .last()
            .map_or(&self.membership, |(_, membership)| membership)
    }

    /// The entry that made it so.
    pub(crate) fn membership_index(&self) -> Index {
        self.changes.last().map_or(self.start.index, |(index, _)| *index)
    }

    /// Who takes part, as of the entry at `index`, which is not before the start.
    fn membership_at(&self, index: Index) -> &Arc<Membership> {
        let later = self.changes.partition_point(|(at, _)| *at <= index);
        match later.checked_sub(1) {
            Some(at) => &self.changes[at].1,
            None => &self.membership,
        }
    }

    /// Whether `id` could lead as of the committed entries, or as of a later one that may never be committed. Such a replica
    /// must be able to: the others may wait for the entry by which it goes.
    pub(crate) fn may_lead(&self, id: ReplicaId) -> bool {
        let later = self
            .changes
            .partition_point(|(index, _)| *index <= self.committed);
        let committed = self.membership_at(self.committed);
        let open = self.changes[later..].iter().map(|(_, membership)| membership);
        core::iter::once(committed)
            .chain(open)
            .any(|membership| membership.is_voter(id) && !membership.is_witness(id))
    }

    /// The entry before its first one.
    pub(crate) fn start(&self) -> Index {
        self.start.index
    }

    /// What replaces the log up to its start.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            last: self.start,
            chain: self.start_chain,
            membership: Arc::clone(&self.membership),
        }
    }

    /// What a state that covers the log up to `index` is of.
    pub(crate) fn snapshot_at(&self, index: Index, chain: u32) -> Snapshot {
        assert!(
            index <= self.applied,
            "{index} was not applied: up to {}",
            self.applied
        );
        Snapshot {
            last: self.mark(index).expect("it is not compacted"),
            chain,
            membership: Arc::clone(self.membership_at(index)),
        }
    }

    /// Where in memory the entry at `index` is.
    fn at(&self, index: Index) -> Option<usize> {
        let offset = index.0.checked_sub(self.kept.0 + 1)?;
        usize::try_from(offset).ok().filter(|&at| at < self.entries.len())
    }

    /// The run of the entry at `index`, which is after the start and not after the last.
    fn run_of(&self, index: Index) -> Option<&Run> {
        // Nearly always the last one.
        self.runs.iter().rev().find(|run| run.first <= index)
    }

    /// The name of the entry at `index`; `None` when it is compacted or not there.
    pub(crate) fn mark(&self, index: Index) -> Option<Mark> {
        if index == self.start.index {
            return Some(self.start);
        }
        if index < self.start.index || index > self.last().index {
            return None;
        }
        self.run_of(index).map(|run| Mark {
            term: run.term,
            index,
        })
    }

    /// The first index of the term at `mark`, which is in the log.
    pub(crate) fn first_of_term(&self, mark: Mark) -> Mark {
        let run = self.run_of(mark.index).filter(|run| run.term == mark.term);
        Mark {
            index: run.map_or(mark.index, |run| run.first),
            ..mark
        }
    }

    /// The last index whose term is at most `mark.term`, but not after `mark.index`.
    pub(crate) fn last_not_after(&self, mark: Mark) -> Index {
        let after = self.runs.partition_point(|run| run.term <= mark.term);
        let last = match self.runs.get(after) {
            Some(run) => run.first.prev().unwrap_or_default(),
            None => self.last().index,
        };
        last.min(mark.index)
    }

    /// Whether the entry at `index` is in the log, but on disk only.
    pub(crate) fn is_on_disk_only(&self, index: Index) -> bool {
        index > self.start.index && index <= self.kept
    }

    pub(crate) fn kept(&self) -> Index {
        self.kept
    }

    /// Bytes of the entries in memory.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// The entries from `first`, as many as fit, at least one if there is one, and what they count. `headers`: for a witness.
    pub(crate) fn from(
        &self,
        first: Index,
        entries_max: usize,
        bytes_max: usize,
        headers: bool,
    ) -> (Vec<Entry>, usize) {
        let Some(at) = self.at(first) else {
            return (Vec::new(), 0);
        };
        let mut bytes = 0;
        let mut count = 0;
        for entry in self.entries.range(at..).take(entries_max) {
            let more = bytes + entry.bytes();
            if count > 0 && more > bytes_max {
                break;
            }
            bytes = more;
            count += 1;
        }
        let mut out = Vec::with_capacity(count);
        let range = self.entries.range(at..at + count);
        if headers {
            out.extend(range.map(Entry::header));
        } else {
            out.extend(range.cloned());
        }
        (out, bytes)
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
        if self.runs.last().is_none_or(|run| run.term != entry.term) {
            self.runs.push(Run {
                first: entry.index,
                term: entry.term,
            });
        }
        if let Content::Membership(membership) = &entry.content {
            self.changes.push((entry.index, Arc::clone(membership)));
        }
        let bytes = entry.bytes();
        self.kept_bytes += bytes;
        self.uncommitted_bytes += bytes;
        self.turn_bytes += bytes;
        self.entries.push_back(entry);
    }

    /// Adds entries of a leader, cutting what contradicts them. Returns the first index that was cut.
    pub(crate) fn merge(&mut self, entries: Vec<Entry>) -> Option<Index> {
        let mut cut = None;
        let mut entries = entries.into_iter();
        for entry in &mut entries {
            match self.mark(entry.index) {
                Some(known) if known.term == entry.term || planted_bug!("raft-conflict-kept") => continue,
                Some(_) => {
                    self.cut(entry.index);
                    cut = Some(entry.index);
                }
                None if entry.index <= self.start.index => continue,
                None => {}
            }
            self.push(entry);
            break;
        }
        // Whatever follows a new entry is new.
        for entry in entries {
            self.push(entry);
        }
        cut
    }

    /// Cuts everything from `first` on.
    fn cut(&mut self, first: Index) {
        assert!(
            first > self.committed,
            "{first} is committed: up to {}",
            self.committed
        );
        let at = self.at(first).expect("what is not committed is in memory");
        let bytes: usize = self.entries.range(at..).map(Entry::bytes).sum();
        self.kept_bytes -= bytes;
        self.uncommitted_bytes -= bytes;
        self.entries.truncate(at);
        while self.runs.last().is_some_and(|run| run.first >= first) {
            self.runs.pop();
        }
        while self.changes.last().is_some_and(|(index, _)| *index >= first) {
            self.changes.pop();
        }
        let last = self.last().index;
        self.handed = self.handed.min(last);
        let after = self.at(self.handed.next()).unwrap_or(self.entries.len());
        self.turn_bytes = self.entries.range(after..).map(Entry::bytes).sum();
        self.persisted = self.persisted.min(last);
        if planted_bug!("raft-cut-write-counts") {
            return;
        }
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
        let mut writes = core::mem::take(&mut self.writes);
        for write in &mut writes {
            write.last = Index::ZERO;
        }
        let start = snapshot.last.index;
        *self = Self {
            writes,
            // Durable with the write that is handed out next.
            persisted: Index::ZERO,
            ..Self::new(snapshot, Vec::new(), start)
        };
    }

    /// What was not handed out yet.
    pub(crate) fn hand_out(&mut self) -> Range<Index> {
        let first = self.handed.next();
        self.handed = self.last().index;
        self.turn_bytes = 0;
        first..self.handed.next()
    }

    /// Entries that are in memory.
    pub(crate) fn range(&self, range: &Range<Index>) -> vec_deque::Iter<'_, Entry> {
        if range.is_empty() {
            return self.entries.range(..0);
        }
        let first = self.at(range.start);
        let last = range.end.prev().and_then(|last| self.at(last));
        let (Some(first), Some(last)) = (first, last) else {
            panic!("{} to {} are not in memory", range.start, range.end);
        };
        self.entries.range(first..=last)
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
        if index <= self.committed {
            return;
        }
        let first = self
            .at(self.committed.next())
            .expect("what is not delivered is in memory");
        let last = self.at(index).expect("it is not after the last");
        let bytes: usize = self.entries.range(first..=last).map(Entry::bytes).sum();
        self.uncommitted_bytes -= bytes;
        self.committed = index;
    }

    /// What is committed, durable here, and was not delivered yet, as long as no more than `bytes_max` waits to be applied.
    pub(crate) fn deliver(&mut self, bytes_max: usize) -> Range<Index> {
        let first = self.delivered.next();
        let until = self.committed.min(self.persisted);
        let Some(at) = self.at(first).filter(|_| until >= first) else {
            return first..first;
        };
        for entry in self.entries.range(at..) {
            let bytes = self.delivered_bytes + entry.bytes();
            if entry.index > until || (self.delivered_bytes > 0 && bytes > bytes_max) {
                break;
            }
            self.delivered_bytes = bytes;
            self.delivered = entry.index;
        }
        first..self.delivered.next()
    }

    /// Entries up to `index` are applied.
    pub(crate) fn apply(&mut self, index: Index) {
        assert!(
            index <= self.delivered,
            "{index} was not delivered: up to {}",
            self.delivered
        );
        self.applied = self.applied.max(index);
        if self.applied == self.delivered {
            self.delivered_bytes = 0;
        }
    }

    /// Lets go of entries in memory that are delivered and durable: up to `wanted`, and beyond that as many as exceed `bytes`.
    pub(crate) fn evict(&mut self, wanted: Index, bytes: usize) {
        let until = self.delivered.min(self.persisted);
        while self.kept < until && (self.kept < wanted || self.kept_bytes > bytes) {
            let entry = self
                .entries
                .pop_front()
                .expect("what is not evicted is in memory");
            self.kept_bytes -= entry.bytes();
            self.kept = entry.index;
            self.kept_chain = entry.chain;
        }
    }

    /// Forgets entries up to `index`, which are applied; `chain` is that of the entry there.
    pub(crate) fn compact(&mut self, index: Index, chain: u32) {
        assert!(
            index <= self.applied,
            "{index} was not applied: up to {}",
            self.applied
        );
        let Some(mark) = self.mark(index).filter(|_| index > self.start.index) else {
            return;
        };
        if let Some(known) = self.chain(index) {
            assert!(
                known == chain,
                "the chain at {index} is {known:#x}, not {chain:#x}"
            );
        }
        self.start = mark;
        self.start_chain = chain;
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let entry = self.entries.pop_front().expect("it is there");
            self.kept_bytes -= entry.bytes();
        }
        if self.kept <= index {
            self.kept = index;
            self.kept_chain = chain;
        }
        let later = self.runs.partition_point(|run| run.first <= index);
        self.runs.drain(..later.saturating_sub(1));
        if index == self.last().index {
            self.runs.clear();
        } else if let Some(run) = self.runs.first_mut() {
            run.first = run.first.max(index.next());
            if self.runs.get(1).is_some_and(|next| next.first == index.next()) {
                self.runs.remove(0);
            }
        }
        let later = self.changes.partition_point(|(at, _)| *at <= index);
        if let Some((_, membership)) = self.changes.drain(..later).next_back() {
            self.membership = membership;
        }
    }

    /// Gives back what an idle log does not need.
    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
        self.writes.shrink_to_fit();
        self.changes.shrink_to_fit();
        self.runs.shrink_to_fit();
    }

    pub(crate) fn assert_invariants(&self) {
        let last = self.last();
        assert!(self.start.index <= self.applied);
        assert!(self.applied <= self.delivered);
        assert!(self.delivered <= self.committed);
        assert!(self.committed <= last.index);
        assert!(self.handed <= last.index);
        assert!(self.persisted <= self.handed);
        assert!(self.start.index <= self.kept && self.kept <= self.delivered);
        assert!(self.membership_index() <= last.index);
        assert!(self.runs.is_empty() == (last.index == self.start.index));
        if let Some(run) = self.runs.first() {
            assert!(run.first == self.start.index.next() && run.term >= self.start.term);
        }
        assert!(
            self.runs
                .is_sorted_by(|a, b| a.first < b.first && a.term < b.term)
        );
        if let Some(first) = self.entries.front() {
            assert!(first.index == self.kept.next());
            assert!(self.mark(first.index) == Some(first.mark()));
        }
    }
}
