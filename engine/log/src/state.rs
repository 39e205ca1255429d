//! Everything of an open log that changes, and how its parts act on each other. No I/O.

use crate::batch::BatchKind;
use crate::coverage::{Coverage, HardState, Note};
use crate::error::LogError;
use crate::index::EntryIndex;
use crate::log::LogStats;
use crate::record::Record;
use crate::tail::{Overtaking, Tail};
use crate::times::Times;
use crate::writer::{Spare, Write, Writer};
use base::collections::FastMap;
use base::{Index, RangeId, Seqno};
use env::{Disk, Env};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

pub(crate) type FileOf<E> = <<E as Env>::Disk as Disk>::File;
pub(crate) type BufOf<E> = <<E as Env>::Disk as Disk>::Buf;

/// A slot that held a segment which is not needed any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropped {
    pub(crate) slot: u32,
    pub(crate) bytes: u64,
    /// The first batch that says so; `None` until one has been given its place.
    pub(crate) claimed_by: Option<Seqno>,
}

/// Everything of an open log that changes. Borrowed only between awaits.
pub(crate) struct State<E: Env> {
    pub(crate) writer: Writer,
    pub(crate) coverage: Coverage,
    pub(crate) index: EntryIndex,
    /// What the index has not heard of yet.
    pub(crate) overtaking: Overtaking,
    pub(crate) ranges: FastMap<RangeId, Tail>,
    pub(crate) files: BTreeMap<u32, Rc<FileOf<E>>>,
    pub(crate) stats: LogStats,
    pub(crate) times: Times,
    pub(crate) failure: Option<LogError>,
    /// [`crate::Log::open`] still works on the segments of the log that it found: none is dropped.
    pub(crate) opening: bool,
    pub(crate) closing: bool,
    pub(crate) dropped: VecDeque<Dropped>,
    /// Slots whose old content is void for certain, to be made spares or removed.
    pub(crate) freed: VecDeque<Spare>,
    /// Bytes of a slot that a batch waits for.
    pub(crate) wanted: Option<u64>,
    pub(crate) slot_next: u32,
    pub(crate) preparing: bool,
    pub(crate) seal_pending: bool,
    pub(crate) buffers: Vec<BufOf<E>>,
}

impl<E: Env> State<E> {
    pub(crate) fn new(
        writer: Writer,
        coverage: Coverage,
        index: EntryIndex,
        ranges: FastMap<RangeId, Tail>,
        slot_next: u32,
    ) -> Self {
        Self {
            writer,
            coverage,
            index,
            overtaking: Overtaking::default(),
            ranges,
            files: BTreeMap::new(),
            stats: LogStats::default(),
            times: Times::default(),
            failure: None,
            opening: true,
            closing: false,
            dropped: VecDeque::new(),
            freed: VecDeque::new(),
            wanted: None,
            slot_next,
            preparing: false,
            seal_pending: false,
            buffers: Vec::new(),
        }
    }

    pub(crate) fn append(&mut self, record: &Record<'_>) -> Seqno {
        let range = record.range();
        let note = self.coverage.stage(record);
        let tail = self.ranges.entry(range).or_default();
        let (seqno, checksum) = self.writer.stage(record, tail.checksum, note);
        if let Some(kept) = tail.take(record, checksum) {
            self.overtaking.push(seqno, range, kept);
        }
        if matches!(note, Note::Forget(_)) {
            self.ranges.remove(&range);
        }
        self.stats.records += 1;
        self.stats.entries += u64::from(matches!(note, Note::Entries { .. }));
        seqno
    }

    /// Drops what can be dropped from the front, and stages again what must outlive it.
    /// True when something was staged.
    pub(crate) fn shrink(&mut self) -> bool {
        if self.opening {
            return false;
        }
        let before = self.writer.staged_bytes();
        for (range, state) in self.coverage.relocate(self.writer.batch_bytes_max()) {
            base::sometimes!("log: wrote a hard state again");
            let HardState { term, vote, commit } = state;
            self.append(&Record::HardState {
                range,
                term,
                vote,
                commit,
            });
        }
        while let Some(live) = self.coverage.drop_front(self.writer.persisted()) {
            self.dropped.push_back(Dropped {
                slot: live.slot,
                bytes: live.bytes,
                claimed_by: None,
            });
        }
        self.index.drop_before(self.coverage.first_live());
        self.writer.staged_bytes() > before
    }

    /// Frees slots whose dropping is durable.
    pub(crate) fn free_claimed(&mut self) {
        let persisted = self.writer.persisted();
        while let Some(dropped) = self.dropped.front()
            && dropped.claimed_by.is_some_and(|seqno| seqno <= persisted)
        {
            self.freed.push_back(Spare {
                slot: dropped.slot,
                bytes: dropped.bytes,
            });
            self.dropped.pop_front();
        }
    }

    pub(crate) fn count(&mut self, write: &Write) {
        self.stats.batches += 1;
        self.stats.seals += u64::from(write.kind == BatchKind::Seal);
        self.stats.device_writes += 1;
        self.stats.bytes += write.len;
        let headers = write.rotation.map_or(0, |_| base::limits::BLOCK_BYTES as u64);
        self.stats.padding_bytes += write.len - headers - write.bytes.len() as u64;
    }

    /// Whether a seal would say something that is not on disk yet.
    pub(crate) fn is_worth_a_seal(&self) -> bool {
        let unclaimed = self.dropped.iter().any(|dropped| dropped.claimed_by.is_none());
        self.failure.is_none() && self.writer.is_idle() && (self.writer.wants_seal() || unclaimed)
    }

    /// What [`crate::Log::oldest_uncovered`] hands out.
    pub(crate) fn oldest_uncovered(&self) -> Option<(RangeId, Index, u64)> {
        self.coverage.oldest_uncovered()
    }

    pub(crate) fn stats(&self) -> LogStats {
        LogStats {
            staged_bytes: self.writer.staged_bytes() as u64,
            writes_in_flight: self.writer.in_flight() as u64,
            segments_live: self.coverage.len() as u64,
            segments_spare: self.writer.spares() as u64,
            live_bytes: self.coverage.used() - self.coverage.held(),
            held_bytes: self.coverage.held(),
            ..self.stats
        }
    }
}
