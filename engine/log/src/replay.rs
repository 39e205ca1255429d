//! Carries out recovery's reading: the survey, then the walk along the chain. Changes nothing on disk.

use crate::batch::{BatchHeader, BatchKind, Flaw, HEADER_BYTES};
use crate::error::{Corruption, LogError};
use crate::reader::{Batch, Cursor, Expected, Slot, scan, slots};
use crate::record::{self, Position, Record};
use crate::recovery::{self, LogFacts, Marks, Role, SlotFacts, Verdict};
use crate::segment::SegmentHeader;
use base::collections::FastMap;
use base::limits::BLOCK_BYTES;
use base::{RangeId, Seqno, ShardId};
use env::{Disk, Env, File, Tasks};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What the walk comes by, in order.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// The next segment of the log begins.
    Segment {
        /// The number of its slot.
        slot: u32,
        /// Its file, relative to the data directory.
        file: &'a str,
        /// The file's bytes.
        bytes: u64,
        /// Its header.
        header: &'a SegmentHeader,
    },
    /// A batch that counts. Its records follow.
    Batch {
        /// Where in the segment it stands.
        offset: u64,
        /// Its header.
        header: &'a BatchHeader,
    },
    /// A record of that batch.
    Record {
        /// Where it stands.
        position: Position,
        /// What it says.
        record: Record<'a>,
    },
}

/// The first batch that is missing or damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Break {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) seqno: Seqno,
    pub(crate) flaw: Flaw,
}

/// The log as it was read.
#[derive(Debug)]
pub(crate) struct Replay<F> {
    pub(crate) slots: Vec<Slot<F>>,
    /// Which of them form the log, in order.
    pub(crate) chain: Vec<usize>,
    pub(crate) roles: Vec<Role>,
    pub(crate) log_id: Option<u64>,
    pub(crate) marks: Marks,
    /// The last batch that counts.
    pub(crate) last: Seqno,
    /// Its header checksum.
    pub(crate) checksum: u32,
    /// Where the last segment of the log ends.
    pub(crate) tail_end: u64,
    /// Slots (places in `slots`) with a header or a batch that counts and was not known to be durable.
    pub(crate) unproven: Vec<usize>,
    /// How many segments of the chain were read.
    segments: usize,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Per range the checksum of its last record.
    pub(crate) ranges: FastMap<RangeId, u32>,
    /// Where the log ends, and why there; `None` when there is no log.
    pub(crate) end: Option<Break>,
}

/// Reads the log in `dir`.
pub(crate) async fn replay<E: Env>(
    env: &E,
    dir: &str,
    shard: ShardId,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Replay<<E::Disk as Disk>::File>, LogError> {
    let mut replay = survey(env, dir, shard).await?;
    let mut facts = LogFacts {
        headers: replay.log_id.is_some(),
        strays: replay
            .slots
            .iter()
            .any(|slot| slot.scan.is_some_and(|scan| scan.stray.is_some())),
        first_live: !replay.chain.is_empty(),
        acknowledged: false,
    };
    match facts.decide() {
        (Verdict::Create, _) => return Ok(replay),
        (Verdict::Corrupt, because) => return Err(replay.unreadable(because).into()),
        (Verdict::Cut, _) => {}
    }
    let end = replay.walk(env, visit).await?;
    replay.leave_out_what_follows();
    facts.acknowledged = recovery::was_acknowledged(end.seqno, replay.marks.persisted);
    if let (Verdict::Corrupt, because) = facts.decide() {
        return Err(replay.damaged(&end, because).into());
    }
    replay.end = Some(end);
    Ok(replay)
}

/// Reads every header, and every batch header that may state a mark which no segment header repeats.
async fn survey<E: Env>(
    env: &E,
    dir: &str,
    shard: ShardId,
) -> Result<Replay<<E::Disk as Disk>::File>, LogError> {
    let mut slots = slots(env.disk(), dir, shard).await?;
    let mut marks = Marks::default();
    let mut log_id = None;
    for slot in &slots {
        let Ok(header) = &slot.header else { continue };
        marks.merge(&Marks::from(header));
        let known = *log_id.get_or_insert(header.log_id);
        if known != header.log_id {
            return Err(LogError::Corruption(Corruption {
                file: slot.path.clone(),
                offset: 0,
                expected: format!("a segment of log {known:016x}"),
                found: Flaw::OtherLog { found: header.log_id }.to_string(),
            }));
        }
    }
    let headers: Vec<_> = slots
        .iter()
        .enumerate()
        .filter_map(|(at, slot)| Some((at, *slot.header.as_ref().ok()?)))
        .collect();
    // A scan may raise the first live segment, which shortens the chain, which asks for more scans.
    let chain = loop {
        let chain = recovery::chain(&headers, marks.first_live);
        let inner = chain.split_last().map_or(&[][..], |(_, inner)| inner);
        let Some(at) = (0..slots.len()).find(|at| slots[*at].scan.is_none() && !inner.contains(at)) else {
            break chain;
        };
        let found = scan(&slots[at], log_id).await?;
        marks.merge(&found.marks);
        slots[at].scan = Some(found);
    };
    let roles = slots
        .iter()
        .enumerate()
        .map(|(at, slot)| role(slot, chain.contains(&at), marks.first_live))
        .collect();
    Ok(Replay {
        slots,
        chain,
        roles,
        log_id,
        marks,
        last: Seqno::ZERO,
        checksum: 0,
        tail_end: 0,
        unproven: Vec::new(),
        segments: 0,
        batches: 0,
        records: 0,
        bytes: 0,
        ranges: FastMap::default(),
        end: None,
    })
}

fn role<F>(slot: &Slot<F>, chained: bool, first_live: u64) -> Role {
    let facts = SlotFacts {
        header: slot.header.is_ok(),
        needed: slot.header.is_ok_and(|header| header.segment >= first_live),
        chained,
        strays: slot
            .scan
            .and_then(|scan| scan.stray)
            .is_some_and(|stray| stray >= first_live),
    };
    let (role, _) = facts.decide();
    base::sometimes!("log: recovery met a headless segment", role == Role::Headless);
    base::sometimes!("log: recovery met an overtaken segment", role == Role::Overtaken);
    base::sometimes!("log: recovery met a stale segment", role == Role::Stale);
    role
}

impl<F: File> Replay<F> {
    /// Reads the chain up to the first batch that is missing or damaged.
    async fn walk<E: Env>(&mut self, env: &E, visit: &mut dyn FnMut(Found<'_>)) -> Result<Break, LogError> {
        let chain = self.chain.clone();
        for (step, &at) in chain.iter().enumerate() {
            let header = self.header(at)?;
            if step == 0 {
                (self.last, self.checksum) = (header.predecessor.seqno, header.predecessor.checksum);
            }
            let slot = &self.slots[at];
            self.segments = step + 1;
            // A header is known to be durable when the first batch behind it is.
            if self.last >= self.marks.persisted {
                self.unproven.push(at);
            }
            visit(Found::Segment {
                slot: slot.slot,
                file: &slot.path,
                bytes: slot.len,
                header: &header,
            });
            let next = chain.get(step + 1).copied();
            if let Some(end) = self.walk_segment(env, at, &header, next, visit).await? {
                return Ok(end);
            }
        }
        // `walk_segment` hands out an end for the last segment at the latest.
        Err(self.unreadable("the chain of segments does not end").into())
    }

    /// Reads one segment up to where its successor says that it ended (`None`), or up to the end of the log.
    async fn walk_segment<E: Env>(
        &mut self,
        env: &E,
        at: usize,
        header: &SegmentHeader,
        next: Option<usize>,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<Option<Break>, LogError> {
        let link = next
            .map(|next| self.header(next))
            .transpose()?
            .map(|successor| successor.predecessor);
        let mut cursor = Cursor::new(&self.slots[at].file, self.slots[at].len);
        let mut offset = BLOCK;
        loop {
            if let Some(link) = &link
                && recovery::continues(link, self.last, self.checksum)
            {
                return Ok(None);
            }
            self.tail_end = offset;
            let file = || self.slots[at].path.clone();
            if let (Some(link), Some(next)) = (&link, next)
                && link.seqno <= self.last
            {
                // The successor follows another history than the one that was read.
                let (file, seqno) = (self.slots[next].path.clone(), self.last.next());
                let flaw = Flaw::Chain {
                    expected: self.checksum,
                    found: link.checksum,
                };
                return Ok(Some(Break {
                    file,
                    offset: 0,
                    seqno,
                    flaw,
                }));
            }
            let expected = Expected {
                log_id: header.log_id,
                segment: header.segment,
                incarnation: header.incarnation,
                seqno: self.last.next(),
                previous: Some(self.checksum),
            };
            let batch = match cursor.batch(offset, &expected).await? {
                Ok(batch) => batch,
                Err(Flaw::Version { found }) => {
                    let supported = crate::segment::FORMAT_VERSION;
                    return Err(LogError::Version {
                        file: file(),
                        found,
                        supported,
                    });
                }
                Err(flaw) => {
                    return Ok(Some(Break {
                        file: file(),
                        offset,
                        seqno: expected.seqno,
                        flaw,
                    }));
                }
            };
            let bytes = batch.header.padded_bytes();
            if let Err(flaw) = take_records(&batch, offset, &mut self.ranges, &mut |found| visit(found)) {
                return Err(damaged_records(file(), offset, expected.seqno, flaw).into());
            }
            (self.last, self.checksum) = (batch.header.seqno, batch.checksum);
            self.marks.hlc_bound = self.marks.hlc_bound.max(batch.header.hlc_bound);
            self.batches += 1;
            self.records += u64::from(batch.header.records);
            self.bytes += bytes;
            if self.last > self.marks.persisted && self.unproven.last() != Some(&at) {
                self.unproven.push(at);
            }
            offset += bytes;
            if env.tasks().need_yield() {
                env.tasks().yield_now().await;
            }
        }
    }

    /// Segments of the chain behind the end are not part of the log.
    fn leave_out_what_follows(&mut self) {
        for at in self.chain.drain(self.segments..) {
            base::sometimes!("log: the log ends before the last segment");
            self.roles[at] = Role::Overtaken;
        }
    }

    /// The number of the last segment of the log.
    pub(crate) fn last_segment(&self) -> Option<u64> {
        self.slots
            .get(*self.chain.last()?)?
            .header
            .as_ref()
            .ok()
            .map(|header| header.segment)
    }

    fn header(&self, at: usize) -> Result<SegmentHeader, LogError> {
        let slot = &self.slots[at];
        slot.header.map_err(|flaw| {
            let (file, found) = (slot.path.clone(), flaw.to_string());
            Corruption {
                file,
                offset: 0,
                expected: "a segment header".into(),
                found,
            }
            .into()
        })
    }

    /// Nothing can be read at all.
    fn unreadable(&self, because: &str) -> Corruption {
        let strays = |slot: &&Slot<F>| slot.scan.is_some_and(|scan| scan.stray.is_some());
        let broken = |slot: &&Slot<F>| slot.header.is_err();
        let slot = self
            .slots
            .iter()
            .find(strays)
            .or_else(|| self.slots.iter().find(broken))
            .or(self.slots.first());
        let first_live = self.marks.first_live;
        Corruption {
            file: slot.map_or_else(String::new, |slot| slot.path.clone()),
            offset: 0,
            expected: format!("the header of segment {first_live} ({because})"),
            found: match slot.map(|slot| slot.header) {
                Some(Ok(header)) => format!("the header of segment {}", header.segment),
                Some(Err(flaw)) => flaw.to_string(),
                None => "no segment at all".into(),
            },
        }
    }

    /// A batch that was acknowledged is missing or damaged.
    fn damaged(&self, end: &Break, because: &str) -> Corruption {
        // When the chain broke off because a segment's header is gone, that is the place to name.
        let headless = || {
            self.slots
                .iter()
                .zip(&self.roles)
                .find(|(_, role)| **role == Role::Headless)
        };
        let at_segment_end = matches!(
            end.flaw,
            Flaw::Zeros
                | Flaw::NoSuccessor
                | Flaw::OtherSegment { .. }
                | Flaw::Magic { .. }
                | Flaw::OtherLog { .. }
        );
        let persisted = self.marks.persisted;
        let expected = format!("batch {} ({because}: batches up to {persisted} were)", end.seqno);
        if at_segment_end && let Some((slot, _)) = headless() {
            let found = match slot.header {
                Ok(header) => format!("the header of segment {}", header.segment),
                Err(flaw) => flaw.to_string(),
            };
            let expected = format!("the header of a segment with {expected}");
            return Corruption {
                file: slot.path.clone(),
                offset: 0,
                expected,
                found,
            };
        }
        Corruption {
            file: end.file.clone(),
            offset: end.offset,
            expected,
            found: end.flaw.to_string(),
        }
    }
}

/// The records of a batch do not decode or follow.
pub(crate) fn damaged_records(file: String, offset: u64, seqno: Seqno, flaw: Flaw) -> Corruption {
    Corruption {
        file,
        offset,
        expected: format!("the records of batch {seqno}"),
        found: flaw.to_string(),
    }
}

/// Checks and shows the records of a batch whose bytes match their checksum. What does not decode here was never written by
/// this program, so it is no torn tail.
pub(crate) fn take_records<'b>(
    batch: &'b Batch<'_>,
    offset: u64,
    ranges: &mut FastMap<RangeId, u32>,
    visit: &mut dyn FnMut(Found<'b>),
) -> Result<(), Flaw> {
    let header = &batch.header;
    if header.kind != BatchKind::Records && header.records > 0 {
        return Err(Flaw::Record { offset });
    }
    visit(Found::Batch { offset, header });
    let mut rest = batch.body;
    for _ in 0..header.records {
        let at = offset + (HEADER_BYTES + batch.body.len() - rest.len()) as u64;
        let decoded = record::decode(rest).ok_or(Flaw::Record { offset: at })?;
        let range = decoded.record.range();
        let follows = match decoded.record {
            Record::Forget { .. } => ranges.remove(&range),
            Record::Entry { .. } | Record::HardState { .. } | Record::Truncate { .. } => {
                ranges.insert(range, decoded.checksum)
            }
        };
        // The first record that is left of a range may follow one that was dropped.
        if follows.is_some_and(|checksum| checksum != decoded.previous) {
            return Err(Flaw::Record { offset: at });
        }
        let position = Position {
            seqno: header.seqno,
            segment: header.segment,
            offset: at,
        };
        visit(Found::Record {
            position,
            record: decoded.record,
        });
        rest = rest.get(decoded.bytes..).ok_or(Flaw::Record { offset: at })?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Flaw::Record { offset })
    }
}
