//! The shell around [`Writer`] and [`Coverage`]: performs writes, wakes waiters, seals an idle log, prepares slots.

use crate::LogConfig;
use crate::batch::BatchKind;
use crate::coverage::{Coverage, HardState, Note};
use crate::error::LogError;
use crate::log::LogStats;
use crate::reader::slot_path;
use crate::record::Record;
use crate::writer::{Pick, Spare, Write, Writer};
use base::collections::FastMap;
use base::{Index, RangeId, Seqno};
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use env::{Clock, Disk, DiskError, Env, File, OpenMode, TaskClass, Tasks};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

type FileOf<E> = <<E as Env>::Disk as Disk>::File;
type BufOf<E> = <<E as Env>::Disk as Disk>::Buf;

/// Zeros written at once when a slot is prepared.
const ZERO_BYTES: u64 = 256 << 10;

/// A slot that held a segment which is not needed any more.
#[derive(Debug, Clone, Copy)]
struct Dropped {
    slot: u32,
    bytes: u64,
    /// The first batch that says so; `None` until one has been given its place.
    claimed_by: Option<Seqno>,
}

/// Everything of an open log that changes. Borrowed only between awaits.
pub(crate) struct State<E: Env> {
    pub(crate) writer: Writer,
    pub(crate) coverage: Coverage,
    /// Per range the checksum of its last record.
    pub(crate) ranges: FastMap<RangeId, u32>,
    pub(crate) files: BTreeMap<u32, Rc<FileOf<E>>>,
    pub(crate) stats: LogStats,
    failure: Option<LogError>,
    closing: bool,
    dropped: VecDeque<Dropped>,
    /// Slots whose old content is void for certain, to be made spares or removed.
    pub(crate) freed: VecDeque<Spare>,
    /// Bytes of a slot that a batch waits for.
    wanted: Option<u64>,
    pub(crate) slot_next: u32,
    preparing: bool,
    seal_pending: bool,
    buffers: Vec<BufOf<E>>,
}

impl<E: Env> State<E> {
    pub(crate) fn new(
        writer: Writer,
        coverage: Coverage,
        ranges: FastMap<RangeId, u32>,
        slot_next: u32,
    ) -> Self {
        Self {
            writer,
            coverage,
            ranges,
            files: BTreeMap::new(),
            stats: LogStats::default(),
            failure: None,
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
        let note = match *record {
            Record::Entry { index, .. } => Note::Entry(range, index),
            Record::HardState {
                term, vote, commit, ..
            } => {
                self.coverage
                    .stage_hard_state(range, HardState { term, vote, commit });
                Note::HardState(range)
            }
            Record::Truncate { after, .. } => Note::Truncate(range, after),
            Record::Forget { .. } => {
                self.coverage.stage_forget(range);
                Note::Forget(range)
            }
        };
        let chain = self.ranges.entry(range).or_insert(0);
        let (seqno, checksum) = self.writer.stage(record, *chain, note);
        *chain = checksum;
        if matches!(note, Note::Forget(_)) {
            self.ranges.remove(&range);
        }
        self.stats.records += 1;
        self.stats.entries += u64::from(matches!(note, Note::Entry(..)));
        seqno
    }

    /// Drops what can be dropped from the front, and stages again what must outlive it.
    /// True when something was staged.
    pub(crate) fn shrink(&mut self) -> bool {
        let before = self.writer.staged_bytes();
        for (range, state) in self.coverage.relocate() {
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
        self.writer.staged_bytes() > before
    }

    /// Frees slots whose dropping is durable.
    fn free_claimed(&mut self) {
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

    fn count(&mut self, write: &Write) {
        self.stats.batches += 1;
        self.stats.seals += u64::from(write.kind == BatchKind::Seal);
        self.stats.device_writes += 1;
        self.stats.bytes += write.len;
        let headers = write.rotation.map_or(0, |_| base::limits::BLOCK_BYTES as u64);
        self.stats.padding_bytes += write.len - headers - write.bytes.len() as u64;
    }
}

/// A write that is ready to go.
struct DeviceWrite<E: Env> {
    seqno: Seqno,
    file: Rc<FileOf<E>>,
    offset: u64,
    buf: BufOf<E>,
}

/// An open log.
pub(crate) struct Shell<E: Env> {
    pub(crate) env: E,
    pub(crate) dir: String,
    pub(crate) config: LogConfig,
    pub(crate) state: RefCell<State<E>>,
    waiters: RefCell<Vec<Waker>>,
    /// Spawned tasks that may still touch the disk.
    tasks: Cell<usize>,
}

impl<E: Env> Shell<E> {
    pub(crate) fn new(env: E, dir: String, config: LogConfig, state: State<E>) -> Rc<Self> {
        let (state, waiters, tasks) = (RefCell::new(state), RefCell::default(), Cell::new(0));
        Rc::new(Self {
            env,
            dir,
            config,
            state,
            waiters,
            tasks,
        })
    }

    /// Starts every write that may start.
    pub(crate) fn start_writes(self: &Rc<Self>) {
        while let Some(DeviceWrite {
            seqno,
            file,
            offset,
            buf,
        }) = self.next_write()
        {
            let shell = Rc::clone(self);
            self.spawn(TaskClass::Foreground, async move {
                let (result, buf) = file.write_at(offset, buf).await;
                shell.on_written(seqno, result, buf);
            });
        }
    }

    fn spawn(self: &Rc<Self>, class: TaskClass, task: impl Future<Output = ()> + 'static) {
        let shell = Rc::clone(self);
        self.tasks.set(self.tasks.get() + 1);
        self.env.tasks().spawn(class, async move {
            task.await;
            shell.tasks.set(shell.tasks.get() - 1);
            shell.wake();
        });
    }

    fn next_write(self: &Rc<Self>) -> Option<DeviceWrite<E>> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let mut write = match state.writer.pick(state.coverage.first_live()) {
            Pick::Write(write) => write,
            Pick::Idle => return None,
            Pick::NeedSegment(bytes) => {
                base::sometimes!("log: a batch waits for a slot");
                state.wanted = Some(bytes);
                drop(guard);
                self.prepare();
                return None;
            }
        };
        if let Some(rotation) = &write.rotation {
            state.coverage.push(
                rotation.header.segment,
                rotation.slot,
                rotation.header.bytes,
                write.seqno,
            );
            state.stats.segments_recycled += 1;
        }
        state.coverage.place(write.seqno, write.len, &write.notes);
        for dropped in &mut state.dropped {
            dropped.claimed_by.get_or_insert(write.seqno);
        }
        state.count(&write);
        let mut buf = self.buffer(state, write.len);
        write.fill(&mut buf);
        state.writer.recycle(core::mem::take(&mut write.bytes));
        let file = Rc::clone(
            state
                .files
                .get(&write.slot)
                .expect("a segment's file stays open while it is written"),
        );
        drop(guard);
        if write.rotation.is_some() {
            self.prepare();
        }
        if base::planted_bug!("log-ack-before-durable") {
            self.wake();
        }
        Some(DeviceWrite {
            seqno: write.seqno,
            file,
            offset: write.offset,
            buf,
        })
    }

    /// A buffer of `len` bytes with any content.
    fn buffer(&self, state: &mut State<E>, len: u64) -> BufOf<E> {
        let len = usize::try_from(len).expect("a batch fits in memory");
        let kept = state.buffers.iter().position(|buf| buf.len() == len);
        kept.map_or_else(|| self.env.disk().alloc(len), |at| state.buffers.swap_remove(at))
    }

    fn on_written(self: &Rc<Self>, seqno: Seqno, result: Result<(), DiskError>, buf: BufOf<E>) {
        if let Err(error) = result {
            self.fail(error.into());
            return;
        }
        {
            let state = &mut *self.state.borrow_mut();
            // Small buffers come back at once; large ones would only sit there.
            if state.buffers.len() < self.config.writes_in_flight_max
                && buf.len() <= self.config.batch_bytes_max
            {
                state.buffers.push(buf);
            }
            if state.writer.complete(seqno) {
                if state.shrink() {
                    state.writer.submit();
                }
                state.free_claimed();
            }
        }
        self.wake();
        self.prepare();
        self.start_writes();
        self.seal_later();
    }

    /// Ends the log: nothing is acknowledged or written any more, and nothing retried.
    fn fail(&self, error: LogError) {
        {
            let state = &mut *self.state.borrow_mut();
            state.writer.fail();
            state.failure.get_or_insert(error);
        }
        self.wake();
    }

    fn wake(&self) {
        for waker in self.waiters.take() {
            waker.wake();
        }
    }

    /// Waits until `ready` hands out a value; asked again after every change.
    async fn until<T>(&self, mut ready: impl FnMut(&State<E>) -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(value) = ready(&self.state.borrow()) {
                return Poll::Ready(value);
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until the persisted mark is beyond `seen`.
    pub(crate) async fn persisted_beyond(&self, seen: Seqno) -> Result<Seqno, LogError> {
        self.until(|state| {
            let persisted = state.writer.persisted();
            match &state.failure {
                Some(error) => Some(Err(error.clone())),
                None => (persisted > seen).then_some(Ok(persisted)),
            }
        })
        .await
    }

    /// Stages a batch without records and starts it.
    pub(crate) fn write_bare(self: &Rc<Self>, kind: BatchKind) {
        self.state.borrow_mut().writer.stage_bare(kind);
        self.start_writes();
    }

    /// Seals the log when it stays idle. One timer at a time.
    fn seal_later(self: &Rc<Self>) {
        let Some(after) = self.config.seal_after else {
            return;
        };
        {
            let state = &mut *self.state.borrow_mut();
            if state.seal_pending || !state.is_worth_a_seal() {
                return;
            }
            state.seal_pending = true;
        }
        let shell = Rc::clone(self);
        self.spawn(
            TaskClass::Foreground,
            async move { shell.seal_when_idle(after).await },
        );
    }

    async fn seal_when_idle(self: &Rc<Self>, after: Duration) {
        loop {
            let seen = self.state.borrow().writer.next();
            self.env.clock().sleep(after).await;
            let state = self.state.borrow();
            if !state.is_worth_a_seal() {
                break;
            }
            if state.writer.next() == seen {
                drop(state);
                base::sometimes!("log: sealed an idle log");
                self.write_bare(BatchKind::Seal);
                break;
            }
        }
        self.state.borrow_mut().seal_pending = false;
    }

    /// Writes everything, seals, and waits until no task of the log touches the disk any more.
    pub(crate) async fn close(self: &Rc<Self>) -> Result<(), LogError> {
        self.state.borrow_mut().closing = true;
        let done = |state: &State<E>| match &state.failure {
            Some(error) => Some(Err(error.clone())),
            None => state.writer.is_idle().then_some(Ok(())),
        };
        self.state.borrow_mut().writer.submit();
        self.start_writes();
        self.until(done).await?;
        if self.state.borrow().is_worth_a_seal() {
            self.write_bare(BatchKind::Seal);
            self.until(done).await?;
        }
        self.fail(LogError::Closed);
        self.until(|_| (self.tasks.get() == 0).then_some(())).await;
        Ok(())
    }

    /// Prepares slots in the background until there are enough.
    pub(crate) fn prepare(self: &Rc<Self>) {
        {
            let state = &mut *self.state.borrow_mut();
            if state.preparing || state.next_job(&self.config).is_none() {
                return;
            }
            state.preparing = true;
        }
        let shell = Rc::clone(self);
        self.spawn(TaskClass::Background, async move {
            if let Err(error) = shell.prepare_all().await {
                shell.fail(error.into());
            }
            shell.state.borrow_mut().preparing = false;
            shell.start_writes();
        });
    }

    async fn prepare_all(self: &Rc<Self>) -> Result<(), DiskError> {
        loop {
            let job = self.state.borrow_mut().take_job(&self.config);
            let (spare, file) = match job {
                None => return Ok(()),
                Some(Job::Remove(slot)) => {
                    self.state.borrow_mut().files.remove(&slot);
                    self.env.disk().remove(&slot_path(&self.dir, slot)).await?;
                    continue;
                }
                Some(Job::Reuse(spare)) => {
                    base::sometimes!("log: reused a slot");
                    let open = self.state.borrow().files.get(&spare.slot).cloned();
                    let file = match open {
                        Some(file) => file,
                        None => Rc::new(open_slot(&self.env, &self.dir, spare.slot).await?),
                    };
                    (spare, file)
                }
                Some(Job::Create(spare)) => (spare, Rc::new(create_slot(&self.env, &self.dir, spare).await?)),
            };
            base::sometimes!(
                "log: made a segment for one large batch",
                spare.bytes > self.config.segment_bytes
            );
            {
                let state = &mut *self.state.borrow_mut();
                state.files.insert(spare.slot, file);
                state.writer.offer(spare);
                state.wanted = state.wanted.filter(|&bytes| spare.bytes < bytes);
            }
            self.start_writes();
        }
    }
}

/// A step of preparation.
#[derive(Debug, Clone, Copy)]
enum Job {
    Reuse(Spare),
    Remove(u32),
    Create(Spare),
}

impl<E: Env> State<E> {
    fn is_worth_a_seal(&self) -> bool {
        let unclaimed = self.dropped.iter().any(|dropped| dropped.claimed_by.is_none());
        self.failure.is_none() && self.writer.is_idle() && (self.writer.wants_seal() || unclaimed)
    }

    fn next_job(&self, config: &LogConfig) -> Option<Job> {
        if self.failure.is_some() || (self.closing && self.wanted.is_none()) {
            return None;
        }
        let enough = self.writer.spares() >= config.segments_spare;
        if let Some(&freed) = self.freed.front() {
            let usual = freed.bytes == config.segment_bytes;
            let kept = self.writer.spares() < config.segments_kept_max;
            return Some(if usual && kept {
                Job::Reuse(freed)
            } else {
                Job::Remove(freed.slot)
            });
        }
        let bytes = match self.wanted {
            Some(wanted) if wanted > config.segment_bytes => wanted,
            Some(_) => config.segment_bytes,
            None if !enough => config.segment_bytes,
            None => return None,
        };
        Some(Job::Create(Spare {
            slot: self.slot_next,
            bytes,
        }))
    }

    fn take_job(&mut self, config: &LogConfig) -> Option<Job> {
        let job = self.next_job(config)?;
        match job {
            Job::Reuse(_) | Job::Remove(_) => drop(self.freed.pop_front()),
            Job::Create(_) => self.slot_next += 1,
        }
        Some(job)
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
            live_bytes: self.coverage.used(),
            ..self.stats
        }
    }
}

/// Opens a slot for writing segments.
pub(crate) async fn open_slot<E: Env>(env: &E, dir: &str, slot: u32) -> Result<FileOf<E>, DiskError> {
    env.disk()
        .open(&slot_path(dir, slot), OpenMode::WriteDurable)
        .await
}

/// Creates a slot filled with zeros: durable writes into blocks that were written before need no change of metadata.
/// Order: create, write zeros, sync the file, sync the directory.
pub(crate) async fn create_slot<E: Env>(env: &E, dir: &str, spare: Spare) -> Result<FileOf<E>, DiskError> {
    let path = slot_path(dir, spare.slot);
    let disk = env.disk();
    let file = disk.create(&path, OpenMode::Write).await?;
    let mut offset = 0;
    while offset < spare.bytes {
        let len = ZERO_BYTES.min(spare.bytes - offset);
        let zeros = disk.alloc(usize::try_from(len).expect("a small constant at most"));
        file.write_at(offset, zeros).await.0?;
        offset += len;
        env.tasks().yield_now().await;
    }
    file.sync().await?;
    disk.sync_dir(dir).await?;
    open_slot(env, dir, spare.slot).await
}
