//! Group commit, decided: which batch goes where and when, and what is acknowledged. Pure; the shell performs the writes.
//!
//! ```text
//!   stage ─► open ─► closed … ─► pick ─► window (in flight) ─► complete ─► persisted
//!            one batch grows     at most writes_in_flight_max    prefix only
//! ```
//!
//! Invariants:
//! - Batches are numbered in the order they are staged and get consecutive places in that order.
//! - `persisted` never passes a batch of the window that is not complete, and never moves after [`Writer::fail`].

use crate::LogConfig;
use crate::batch::{BatchHeader, BatchKind, HEADER_BYTES, padded};
use crate::coverage::Note;
use crate::index::Place;
use crate::record::{self, Record};
use crate::segment::{Link, SegmentHeader};
use base::limits::BLOCK_BYTES;
use base::{Seqno, Timestamp, checksum};
use std::collections::VecDeque;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// How many blocks state that the last records are durable, once the log rests: two, so that no single damaged, lost or
/// misdirected block takes both a batch and the evidence of its acknowledgement.
const STATEMENTS_WANTED: u8 = 2;

/// Records that will become one batch.
#[derive(Debug)]
struct Staged {
    kind: BatchKind,
    /// Room for the batch header, then the records.
    bytes: Vec<u8>,
    records: u32,
    notes: Vec<Note>,
}

impl Staged {
    fn new(kind: BatchKind, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        Self {
            kind,
            bytes,
            records: 0,
            notes: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct InFlight {
    seqno: Seqno,
    complete: bool,
}

/// The segment being written.
#[derive(Debug, Clone, Copy)]
struct Active {
    number: u64,
    slot: u32,
    bytes: u64,
    /// Where the next batch goes.
    offset: u64,
}

/// A slot ready for use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) slot: u32,
    pub(crate) bytes: u64,
}

/// A segment to begin: its header travels in the same write as its first batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    pub(crate) header: SegmentHeader,
    pub(crate) slot: u32,
}

/// One device write.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) seqno: Seqno,
    pub(crate) kind: BatchKind,
    pub(crate) segment: u64,
    pub(crate) slot: u32,
    pub(crate) offset: u64,
    /// Bytes of the write, a multiple of 4 KiB.
    pub(crate) len: u64,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) notes: Vec<Note>,
    /// The batch without padding.
    pub(crate) bytes: Vec<u8>,
}

impl Write {
    /// Where the batch stands.
    pub(crate) fn place(&self) -> Place {
        let header = self.rotation.map_or(0, |_| BLOCK);
        Place {
            segment: self.segment,
            seqno: self.seqno,
            block: blocks(self.offset + header),
            blocks: blocks(self.len - header),
        }
    }

    /// Fills the device buffer, all of it.
    pub(crate) fn fill(&self, buffer: &mut [u8]) {
        assert_eq!(
            buffer.len() as u64,
            self.len,
            "the buffer is as long as the write"
        );
        let mut rest = buffer;
        if let Some(rotation) = &self.rotation {
            let (block, after) = rest.split_at_mut(BLOCK_BYTES);
            let header = rotation.header.encode();
            block[..header.len()].copy_from_slice(&header);
            block[header.len()..].fill(0);
            rest = after;
        }
        rest[..self.bytes.len()].copy_from_slice(&self.bytes);
        rest[self.bytes.len()..].fill(0);
    }
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Pick {
    /// Nothing, until something is staged or a write completes.
    Idle,
    /// Perform this write.
    Write(Write),
    /// Nothing, until a slot of at least so many bytes is offered.
    NeedSegment(u64),
}

/// What the first batch of an incarnation follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) log_id: u64,
    pub(crate) incarnation: u64,
    /// The fresh segment, whose header is durable.
    pub(crate) segment: u64,
    pub(crate) slot: u32,
    pub(crate) bytes: u64,
    /// The last batch that counts.
    pub(crate) last: Seqno,
    pub(crate) checksum: u32,
}

/// The state of group commit.
#[derive(Debug)]
pub(crate) struct Writer {
    config: LogConfig,
    log_id: u64,
    incarnation: u64,
    open: Option<Staged>,
    closed: VecDeque<Staged>,
    staged_bytes: usize,
    /// Staged batches up to here were submitted by the caller.
    submitted: bool,
    /// The first batch that has no place yet.
    next: Seqno,
    /// Header checksum of the batch before it.
    chain: u32,
    /// The last batch with records that has a place.
    last_records: Seqno,
    /// How many batches behind it, or else headers, state that it is durable.
    statements: u8,
    window: VecDeque<InFlight>,
    persisted: Seqno,
    failed: bool,
    active: Active,
    spares: VecDeque<Spare>,
    hlc_bound: Timestamp,
    /// An allocation to use again.
    free: Vec<Vec<u8>>,
}

impl Writer {
    pub(crate) fn new(config: LogConfig, start: &Start) -> Self {
        Self {
            config,
            log_id: start.log_id,
            incarnation: start.incarnation,
            open: None,
            closed: VecDeque::new(),
            staged_bytes: 0,
            submitted: false,
            next: start.last.next(),
            chain: start.checksum,
            last_records: start.last,
            // The fresh segment's header is one, the opening batch will be the other.
            statements: STATEMENTS_WANTED,
            window: VecDeque::new(),
            persisted: start.last,
            failed: false,
            active: Active {
                number: start.segment,
                slot: start.slot,
                bytes: start.bytes,
                offset: BLOCK,
            },
            spares: VecDeque::new(),
            hlc_bound: Timestamp::ZERO,
            free: Vec::new(),
        }
    }

    /// Stages a record; hands out its batch and its checksum.
    pub(crate) fn stage(&mut self, record: &Record<'_>, previous: u32, note: Note) -> (Seqno, u32) {
        let seqno = Seqno(self.next.0 + self.closed.len() as u64);
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Staged::new(
                BatchKind::Records,
                self.free.pop().unwrap_or_default(),
            )),
        };
        let before = open.bytes.len();
        let checksum = record::encode(record, previous, &mut open.bytes);
        open.records += 1;
        match (open.notes.last_mut(), note) {
            // A run of entries of one range needs one note.
            (
                Some(Note::Entries { range, last, .. }),
                Note::Entries {
                    range: same, first, ..
                },
            ) if *range == same && first.prev() == Some(*last) => *last = first,
            (Some(last), note) if *last == note => {}
            (Some(_) | None, note) => open.notes.push(note),
        }
        self.staged_bytes += open.bytes.len() - before;
        if open.bytes.len() >= self.config.batch_bytes_max || base::misbehave!("log: short batch") {
            self.close_batch();
        }
        (seqno, checksum)
    }

    fn close_batch(&mut self) {
        self.closed.extend(self.open.take());
    }

    /// Stages a batch without records. Call only when nothing is staged.
    pub(crate) fn stage_bare(&mut self, kind: BatchKind) {
        assert!(self.is_unstaged(), "a bare batch goes out alone");
        self.closed
            .push_back(Staged::new(kind, self.free.pop().unwrap_or_default()));
        self.submitted = true;
    }

    /// What is staged may go out.
    pub(crate) fn submit(&mut self) {
        self.submitted = !self.is_unstaged();
    }

    /// The next thing to do. `first_live` is the oldest segment needed.
    pub(crate) fn pick(&mut self, first_live: u64) -> Pick {
        let busy = !self.window.is_empty();
        if self.failed || !self.submitted || self.window.len() >= self.config.writes_in_flight_max {
            return Pick::Idle;
        }
        if busy
            && (self.staged_bytes < self.config.write_min_bytes_when_busy
                || base::misbehave!("log: late write"))
        {
            base::sometimes!("log: small batches wait for a write in flight");
            return Pick::Idle;
        }
        if self.closed.is_empty() {
            self.close_batch();
        }
        let Some(batch) = self.closed.front() else {
            self.submitted = false;
            return Pick::Idle;
        };
        let len = padded(batch.bytes.len() as u64);
        let fits = self.active.offset + len <= self.active.bytes;
        let stay = fits && !(self.active.offset > BLOCK && base::misbehave!("log: early rotation"));
        let rotation = if stay {
            None
        } else {
            self.rotate(len + BLOCK, first_live)
        };
        if rotation.is_none() && !fits {
            return Pick::NeedSegment(len + BLOCK);
        }
        match self.closed.pop_front() {
            Some(batch) => Pick::Write(self.place(batch, rotation, first_live)),
            None => Pick::Idle,
        }
    }

    /// Begins a segment of at least `bytes` bytes, when there is a slot for it.
    fn rotate(&mut self, bytes: u64, first_live: u64) -> Option<Rotation> {
        let at = self.spares.iter().position(|spare| spare.bytes >= bytes)?;
        let spare = self.spares.remove(at)?;
        let header = SegmentHeader {
            log_id: self.log_id,
            shard: self.config.shard,
            segment: self.active.number + 1,
            incarnation: self.incarnation,
            first_live,
            predecessor: Link {
                segment: self.active.number,
                seqno: before(self.next),
                checksum: self.chain,
            },
            persisted: self.persisted,
            bytes: spare.bytes,
        };
        base::sometimes!(
            "log: began a segment with writes in flight",
            !self.window.is_empty()
        );
        self.active = Active {
            number: header.segment,
            slot: spare.slot,
            bytes: spare.bytes,
            offset: BLOCK,
        };
        Some(Rotation {
            header,
            slot: spare.slot,
        })
    }

    /// Gives the batch its number, place and header.
    fn place(&mut self, mut batch: Staged, rotation: Option<Rotation>, first_live: u64) -> Write {
        let seqno = self.next;
        let (_, body) = batch.bytes.split_at(HEADER_BYTES);
        let header = BatchHeader {
            kind: batch.kind,
            log_id: self.log_id,
            segment: self.active.number,
            block: blocks(self.active.offset),
            incarnation: self.incarnation,
            seqno,
            persisted: self.persisted,
            first_live,
            hlc_bound: self.hlc_bound,
            previous: self.chain,
            body_bytes: u32::try_from(body.len()).expect("a batch is a little larger than a frame at most"),
            records: batch.records,
            body_checksum: checksum::crc32c(body),
        };
        self.staged_bytes -= body.len();
        let (encoded, chain) = header.encode();
        batch.bytes[..HEADER_BYTES].copy_from_slice(&encoded);
        let batch_len = padded(batch.bytes.len() as u64);
        let (offset, len) = if rotation.is_some() {
            (0, batch_len + BLOCK)
        } else {
            (self.active.offset, batch_len)
        };
        self.active.offset += batch_len;
        assert!(
            self.active.offset <= self.active.bytes,
            "batch {seqno} ends inside its segment"
        );
        self.next = seqno.next();
        self.chain = chain;
        match batch.kind {
            BatchKind::Records => (self.last_records, self.statements) = (seqno, 0),
            BatchKind::Opening => {}
            BatchKind::Seal => self.statements += u8::from(self.last_records <= self.persisted),
        }
        base::sometimes!("log: several writes in flight", self.window.len() > 1);
        self.window.push_back(InFlight {
            seqno,
            complete: false,
        });
        let (kind, segment, slot) = (batch.kind, self.active.number, self.active.slot);
        Write {
            seqno,
            kind,
            segment,
            slot,
            offset,
            len,
            rotation,
            notes: batch.notes,
            bytes: batch.bytes,
        }
    }

    /// The write of batch `seqno` is durable. True when the persisted mark moved.
    pub(crate) fn complete(&mut self, seqno: Seqno) -> bool {
        let first = self.window.front().map_or(self.next, |write| write.seqno);
        let place = usize::try_from(seqno.since(first)).expect("the window is short");
        match self.window.get_mut(place) {
            Some(write) if write.seqno == seqno => write.complete = true,
            Some(_) | None => panic!("batch {seqno} completes outside the window that starts at {first}"),
        }
        base::sometimes!("log: writes complete out of order", place > 0);
        self.advance()
    }

    fn advance(&mut self) -> bool {
        let before = self.persisted;
        while !self.failed && self.window.front().is_some_and(|write| write.complete) {
            if let Some(write) = self.window.pop_front() {
                assert_eq!(
                    write.seqno,
                    self.persisted.next(),
                    "batches are acknowledged in order"
                );
                self.persisted = write.seqno;
            }
        }
        self.persisted > before
    }

    /// A write failed: nothing is acknowledged or written any more.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// Gives a write's allocation back.
    pub(crate) fn recycle(&mut self, bytes: Vec<u8>) {
        if self.free.len() < self.config.writes_in_flight_max
            && bytes.capacity() <= 2 * self.config.batch_bytes_max
        {
            self.free.push(bytes);
        }
    }

    pub(crate) fn offer(&mut self, spare: Spare) {
        self.spares.push_back(spare);
    }

    pub(crate) fn set_hlc_bound(&mut self, bound: Timestamp) {
        self.hlc_bound = bound.max(self.hlc_bound);
    }

    /// Every batch up to here is durable.
    pub(crate) fn persisted(&self) -> Seqno {
        if base::planted_bug!("log-ack-before-durable") {
            return before(self.next);
        }
        self.persisted
    }

    pub(crate) fn log_id(&self) -> u64 {
        self.log_id
    }

    pub(crate) fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.window.len()
    }

    /// How many spare slots have the usual size.
    pub(crate) fn spares(&self) -> usize {
        self.spares
            .iter()
            .filter(|spare| spare.bytes == self.config.segment_bytes)
            .count()
    }

    pub(crate) fn is_unstaged(&self) -> bool {
        self.closed.is_empty() && self.open.is_none()
    }

    /// Nothing is staged and nothing in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_unstaged() && self.window.is_empty()
    }

    /// Whether a seal would put a mark on disk that is not there yet.
    pub(crate) fn wants_seal(&self) -> bool {
        self.statements < STATEMENTS_WANTED
    }

    /// A batch takes no more records at this size.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.config.batch_bytes_max
    }

    /// The number that the next batch will get.
    pub(crate) fn next(&self) -> Seqno {
        Seqno(self.next.0 + self.closed.len() as u64)
    }
}

/// So many bytes in units of 4 KiB.
fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes / BLOCK).expect("a segment has fewer than 2^32 blocks")
}

fn before(seqno: Seqno) -> Seqno {
    seqno.prev().expect("batches are numbered from 1")
}

#[cfg(test)]
mod tests;
