//! The handle, and how a log is opened.

use crate::batch::{BatchKind, HEADER_BYTES};
use crate::coverage::Coverage;
use crate::error::LogError;
use crate::index::{EntryIndex, Place};
use crate::prepare::{create_slot, open_slot};
use crate::reader::Slot;
use crate::recovery::Role;
use crate::replay::{Break, Found, Replay, replay};
use crate::segment::{Link, SegmentHeader};
use crate::shell::Shell;
use crate::state::State;
use crate::tail::Tail;
use crate::times::WriteTimes;
use crate::writer::{Spare, Start, Writer};
use crate::{LogConfig, Position, Record};
use base::limits::BLOCK_BYTES;
use base::{Index, RangeId, Seqno, Timestamp};
use core::fmt;
use core::time::Duration;
use env::{Clock, Disk, Env, File, OpenMode};
use std::rc::Rc;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// One shard's log. A cheap handle: clones share the log.
pub struct Log<E: Env> {
    shell: Rc<Shell<E>>,
}

impl<E: Env> Clone for Log<E> {
    fn clone(&self) -> Self {
        Self {
            shell: Rc::clone(&self.shell),
        }
    }
}
impl<E: Env> fmt::Debug for Log<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.shell.dir)
            .field("persisted", &self.persisted())
            .finish_non_exhaustive()
    }
}

/// What recovery found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The greatest bound given to [`Log::set_hlc_bound`] that survived.
    pub hlc_bound: Timestamp,
    /// Segments that hold the log.
    pub segments: u64,
    /// Batches that survived.
    pub batches: u64,
    /// Records that survived.
    pub records: u64,
    /// Bytes of the batches that survived.
    pub bytes: u64,
    /// The last batch that survived.
    pub last: Seqno,
    /// How often this log has been opened before.
    pub incarnation: u64,
    /// Where an unacknowledged tail was cut, if there was one.
    pub cut: Option<Cut>,
    /// How long it took to read all that and show it.
    pub took: Duration,
}

/// Where recovery cut a tail that was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file, relative to the data directory.
    pub file: String,
    /// Where the first void batch starts.
    pub offset: u64,
    /// The first void batch.
    pub seqno: Seqno,
    /// What was found there.
    pub found: String,
}

/// Counters of one log since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Records appended.
    pub records: u64,
    /// Entries among them.
    pub entries: u64,
    /// Batches written, seals and openings included.
    pub batches: u64,
    /// Seals among them.
    pub seals: u64,
    /// Device writes, segment preparation not included.
    pub device_writes: u64,
    /// Bytes of these writes.
    pub bytes: u64,
    /// Bytes of padding among them.
    pub padding_bytes: u64,
    /// Bytes staged and not yet given to the device.
    pub staged_bytes: u64,
    /// Device writes in flight.
    pub writes_in_flight: u64,
    /// Segments that hold the log, the one being written included.
    pub segments_live: u64,
    /// Segments ready for use.
    pub segments_spare: u64,
    /// Segments written for the first time or again.
    pub segments_recycled: u64,
    /// Bytes of the live segments' batches, but for [`Self::held_bytes`].
    pub live_bytes: u64,
    /// Of the oldest segments, which nothing needs but [`Log::hold`].
    pub held_bytes: u64,
}

impl From<Break> for Cut {
    fn from(end: Break) -> Self {
        Self {
            file: end.file,
            offset: end.offset,
            seqno: end.seqno,
            found: end.flaw.to_string(),
        }
    }
}

impl<E: Env> Log<E> {
    /// Recovers the log in directory `dir`, or creates it, then opens it for appending in a fresh segment. `visit` sees
    /// every surviving record in order; on an error what it saw is void.
    ///
    /// Durability order: (1) what survives but was not known to be durable is synced, batches, headers and the names of
    /// slots; (2) the fresh segment's header, which says where the log was cut; (3) an empty batch, so that damage to either
    /// is told from a log that was never opened. Only then is anything of the old log shortened, reused or removed.
    ///
    /// # Errors
    /// [`LogError::Corruption`] when something acknowledged is damaged: nothing on disk was changed.
    ///
    /// # Cancellation
    /// Not safe in one respect: a dropped open may still be writing; open the log again only after a restart.
    pub async fn open(
        env: &E,
        dir: &str,
        config: LogConfig,
        visit: &mut dyn FnMut(Position, Record<'_>),
    ) -> Result<(Self, Recovered), LogError> {
        config.check()?;
        env.disk().create_dir(dir).await?;
        let mut found = Intake::default();
        let started = env.clock().now();
        let replay = replay(env, dir, config.shard, &mut |next| found.take_in(next, visit)).await?;
        let took = env.clock().now().since(started);
        for &at in &replay.unproven {
            env.disk()
                .open(&replay.slots[at].path, OpenMode::Write)
                .await?
                .sync()
                .await?;
        }
        // A process that was killed between creating a slot and syncing the directory left a name that a crash takes back,
        // with all that is written there by then.
        env.disk().sync_dir(dir).await?;
        let recovered = recovered(&replay, took);
        let shell = start(env, dir, config, found, &replay).await?;
        shell.write_bare(BatchKind::Opening);
        shell.persisted_beyond(replay.last).await?;
        let shortened = shorten_tail(env, &replay).await?;
        {
            let state = &mut *shell.state.borrow_mut();
            if let Some((segment, bytes)) = shortened {
                state.coverage.shortened(segment, bytes);
            }
            state.opening = false;
            if state.shrink() {
                state.writer.submit();
            }
        }
        shell.start_writes();
        shell.prepare();
        Ok((Self { shell }, recovered))
    }

    /// Stages `record` and returns the batch that it will be in. Never waits; see [`Log::has_room`].
    ///
    /// # Panics
    /// When the payload is larger than [`base::limits::FRAME_BYTES_MAX`].
    pub fn append(&self, record: &Record<'_>) -> Seqno {
        self.shell.state.borrow_mut().append(record)
    }

    /// Starts the device write of what is staged. Call once per loop turn. What may not start yet, because enough writes
    /// are in flight, starts by itself when one completes.
    pub fn submit(&self) {
        self.shell.state.borrow_mut().writer.submit();
        self.shell.start_writes();
    }

    /// Every batch up to here is durable.
    #[must_use]
    pub fn persisted(&self) -> Seqno {
        self.shell.state.borrow().writer.persisted()
    }

    /// Waits until [`Log::persisted`] is greater than `seen`, and returns it. Any number of tasks may wait.
    ///
    /// # Errors
    /// Once a write has failed, always: nothing more becomes durable. Stop the node.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn persisted_beyond(&self, seen: Seqno) -> Result<Seqno, LogError> {
        self.shell.persisted_beyond(seen).await
    }

    /// Whether the caller may go on appending, or should first wait for [`Log::persisted_beyond`]:
    /// [`LogConfig::staged_bytes_max`].
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shell.state.borrow().writer.staged_bytes() < self.shell.config.staged_bytes_max
    }

    /// Carried in every later batch, so that no timestamp above what a restart recovers was ever issued before it. A smaller
    /// bound than an earlier one changes nothing.
    pub fn set_hlc_bound(&self, bound: Timestamp) {
        self.shell.state.borrow_mut().writer.set_hlc_bound(bound);
    }

    /// Entries of `range` up to `index` are durable elsewhere now. Segments at the front that hold nothing else any more are
    /// dropped; records that must outlive them are staged again, so a [`Log::submit`] should follow.
    pub fn cover(&self, range: RangeId, index: Index) {
        let state = &mut *self.shell.state.borrow_mut();
        state.coverage.cover(range, index);
        state.shrink();
    }

    /// Entries of `range` behind `from` are held, for somebody who may ask for them, although they are covered; `None` ends that. Not
    /// kept over a restart. A [`Log::submit`] should follow.
    pub fn hold(&self, range: RangeId, from: Option<Index>) {
        let state = &mut *self.shell.state.borrow_mut();
        state.coverage.hold(range, from);
        state.shrink();
    }

    /// The range has left this shard: stages [`Record::Forget`], and once that is durable nothing of the range holds a
    /// segment any more.
    pub fn forget(&self, range: RangeId) -> Seqno {
        self.append(&Record::Forget { range })
    }

    /// Shows the entries of `range` from `first` to `last`, in order, as many as are durable, stand in the log and fit in
    /// `bytes_max` (48 for an entry, and its payload). One always fits. Hands out the index after the last one that was shown:
    /// `first`, when that entry is not in the log, or not any more, or not durable yet.
    ///
    /// An entry stays in the log until its segment is dropped, so for some time after it is covered. What was overtaken (by
    /// an entry with its index or a smaller one, [`Record::Truncate`] or [`Log::forget`]), even by a record that is only
    /// staged, is not shown. Each entry counts at the moment when it is shown; appends go on meanwhile, and a read that they
    /// overtake ends there. `visit` must not append.
    ///
    /// Everything that is read is checked as at recovery. Memory: one piece of the log at a time, 1 MiB or a batch, whichever
    /// is larger. Records are borrowed from it, so that who keeps them copies once, into what it keeps them in.
    ///
    /// # Errors
    /// [`LogError::Corruption`] when what stands there is damaged, [`LogError::Disk`] when it cannot be read; the log goes on,
    /// and what was shown before is sound. After a failed write, and once the log is closed, that error.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn read_entries(
        &self,
        range: RangeId,
        first: Index,
        last: Index,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<Index, LogError> {
        self.shell
            .read_entries(range, first..=last, bytes_max, visit)
            .await
    }

    /// Which range to flush so that the oldest segment can be dropped: the range, the index that has to be covered, and the
    /// bytes of log behind it. `None` when nothing is held.
    #[must_use]
    pub fn oldest_uncovered(&self) -> Option<(RangeId, Index, u64)> {
        self.shell.state.borrow().oldest_uncovered()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.shell.state.borrow().stats()
    }

    /// How long device writes took since this was asked last, and which one is waited for.
    #[must_use]
    pub fn take_write_times(&self) -> WriteTimes {
        self.shell.state.borrow_mut().times.take()
    }

    /// Writes what is staged, then a seal, and waits until both are durable. Later appends are never durable.
    ///
    /// # Errors
    /// As [`Log::persisted_beyond`].
    ///
    /// # Cancellation
    /// Safe; the log may then be closed or not.
    pub async fn close(self) -> Result<(), LogError> {
        self.shell.close().await
    }
}

/// What is built while the log is read.
#[derive(Default)]
struct Intake {
    coverage: Coverage,
    index: EntryIndex,
    /// The batch whose records come now.
    batch: Option<Place>,
}

impl Intake {
    /// Takes in what the walk comes by, and hands records on.
    fn take_in(&mut self, found: Found<'_>, visit: &mut dyn FnMut(Position, Record<'_>)) {
        let coverage = &mut self.coverage;
        match found {
            Found::Segment {
                slot, bytes, header, ..
            } => {
                let first = header.predecessor.seqno.next();
                coverage.push(header.segment, header.incarnation, slot, bytes, first);
            }
            Found::Batch { header, .. } => {
                coverage.place(header.seqno, header.padded_bytes(), &[]);
                self.batch = Some(Place::from(header));
            }
            Found::Record { position, record } => {
                let note = coverage.stage(&record);
                coverage.place(position.seqno, 0, &[note]);
                if let Some(place) = &self.batch {
                    self.index.place(place, &[note]);
                }
                visit(position, record);
            }
        }
    }
}

fn recovered<F: File>(replay: &Replay<F>, took: Duration) -> Recovered {
    // The end of a log that was closed in order, or that lost nothing, is no cut: nothing is there.
    let cut = replay.end.as_ref().filter(|end| !end.flaw.is_nothing());
    base::sometimes!("log: cut an unacknowledged tail", cut.is_some());
    Recovered {
        hlc_bound: replay.marks.hlc_bound,
        segments: replay.chain.len() as u64,
        batches: replay.batches,
        records: replay.records,
        bytes: replay.bytes,
        last: replay.last,
        incarnation: replay.marks.incarnation,
        cut: cut.cloned().map(Cut::from),
        took,
    }
}

/// Makes the fresh segment: its slot, its header, and the state that goes on from there.
async fn start<E: Env>(
    env: &E,
    dir: &str,
    config: LogConfig,
    Intake {
        mut coverage, index, ..
    }: Intake,
    replay: &Replay<<E::Disk as Disk>::File>,
) -> Result<Rc<Shell<E>>, LogError> {
    let mut slot_next = replay.slots.iter().map(|slot| slot.slot + 1).max().unwrap_or(0);
    let mut free: Vec<&Slot<_>> = replay
        .slots
        .iter()
        .zip(&replay.roles)
        .filter(|(_, role)| **role != Role::Live)
        .map(|(slot, _)| slot)
        .collect();
    let usual = free.iter().position(|slot| slot.len == config.segment_bytes);
    let (spare, file) = match usual.map(|at| free.remove(at)) {
        Some(slot) => (
            Spare {
                slot: slot.slot,
                bytes: slot.len,
            },
            open_slot(env, dir, slot.slot).await?,
        ),
        None => {
            let spare = Spare {
                slot: slot_next,
                bytes: config.segment_bytes,
            };
            slot_next += 1;
            (spare, create_slot(env, dir, spare).await?)
        }
    };
    let segment = replay.marks.segment + 1;
    let incarnation = replay.marks.incarnation + 1;
    coverage.push(segment, incarnation, spare.slot, spare.bytes, replay.last.next());
    let start = Start {
        log_id: replay.log_id.unwrap_or_else(|| env.prng().next_u64()),
        incarnation,
        segment,
        slot: spare.slot,
        bytes: spare.bytes,
        last: replay.last,
        checksum: replay.checksum,
    };
    let header = SegmentHeader {
        log_id: start.log_id,
        shard: config.shard,
        segment,
        incarnation,
        first_live: coverage.first_live(),
        predecessor: Link {
            segment: replay.last_segment().unwrap_or(0),
            seqno: replay.last,
            checksum: replay.checksum,
        },
        persisted: replay.last,
        bytes: spare.bytes,
    };
    let mut block = env.disk().alloc(BLOCK_BYTES);
    block[..HEADER_BYTES].copy_from_slice(&header.encode());
    file.write_at(0, block).await.0?;
    let mut writer = Writer::new(config.clone(), &start);
    writer.set_hlc_bound(replay.marks.hlc_bound);
    let tail = |(&range, &checksum): (&RangeId, &u32)| {
        let last = index.last(range).unwrap_or(Index::ZERO);
        (range, Tail { checksum, last })
    };
    let ranges = replay.ranges.iter().map(tail).collect();
    let mut state = State::new(writer, coverage, index, ranges, slot_next);
    state.files.insert(spare.slot, Rc::new(file));
    state.freed.extend(free.iter().map(|slot| Spare {
        slot: slot.slot,
        bytes: slot.len,
    }));
    Ok(Shell::new(env.clone(), dir.to_owned(), config, state))
}

/// Gives back the space behind the end of the log, if it is most of a segment: many restarts must not fill the disk.
/// Hands out the segment and its file's bytes.
async fn shorten_tail<E: Env>(
    env: &E,
    replay: &Replay<<E::Disk as Disk>::File>,
) -> Result<Option<(u64, u64)>, LogError> {
    let (Some(&at), Some(segment)) = (replay.chain.last(), replay.last_segment()) else {
        return Ok(None);
    };
    let slot = &replay.slots[at];
    let used = replay.tail_end.max(BLOCK);
    if used < slot.len / 2 {
        base::sometimes!("log: shortened a tail");
        env.disk()
            .open(&slot.path, OpenMode::Write)
            .await?
            .set_len(used)
            .await?;
        return Ok(Some((segment, used)));
    }
    Ok(None)
}
