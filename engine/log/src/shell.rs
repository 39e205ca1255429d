//! The shell around [`State`]: performs writes, wakes waiters, seals an idle log.

use crate::LogConfig;
use crate::batch::BatchKind;
use crate::error::LogError;
use crate::state::{BufOf, FileOf, State};
use crate::writer::Pick;
use base::Seqno;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use env::{Clock, Disk, DiskError, Env, File, TaskClass, Tasks};
use std::rc::Rc;

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
            let began = self.env.clock().now();
            self.state.borrow_mut().times.begin(seqno, began);
            self.spawn(TaskClass::Foreground, async move {
                let (result, buf) = file.write_at(offset, buf).await;
                let took = shell.env.clock().now().since(began);
                shell.state.borrow_mut().times.end(seqno, took);
                shell.on_written(seqno, result, buf);
            });
        }
    }

    pub(crate) fn spawn(self: &Rc<Self>, class: TaskClass, task: impl Future<Output = ()> + 'static) {
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
                rotation.header.incarnation,
                rotation.slot,
                rotation.header.bytes,
                write.seqno,
            );
            state.stats.segments_recycled += 1;
        }
        state.coverage.place(write.seqno, write.len, &write.notes);
        state.index.place(&write.place(), &write.notes);
        state.overtaking.placed(write.seqno);
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
    pub(crate) fn fail(&self, error: LogError) {
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
        while self.state.borrow().is_worth_a_seal() {
            self.write_bare(BatchKind::Seal);
            self.until(done).await?;
        }
        self.fail(LogError::Closed);
        self.until(|_| (self.tasks.get() == 0).then_some(())).await;
        Ok(())
    }
}
