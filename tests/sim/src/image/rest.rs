//! Time, tasks and the missing network of an [`ImageEnv`](super::ImageEnv).

use crate::clock::WALL_NS_START;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use env::{Address, Clock, Instant, Listener, Net, NetError, Reader, TaskClass, Tasks, TurnStats, Writer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::rc::Rc;

/// Time that moves only when everybody sleeps.
#[derive(Debug, Clone, Default)]
pub struct ImageClock(Rc<ClockState>);

#[derive(Debug, Default)]
struct ClockState {
    now: Cell<u64>,
    /// How many sleep until when.
    sleepers: RefCell<BTreeMap<u64, u32>>,
}

struct Asleep<'c> {
    clock: &'c ClockState,
    until: u64,
}

impl ImageClock {
    /// Jumps to when the first sleeper wakes; false when nobody sleeps.
    pub(super) fn advance(&self) -> bool {
        let first = self
            .0
            .sleepers
            .borrow()
            .first_key_value()
            .map(|(until, _)| *until);
        if let Some(until) = first {
            self.0.now.set(until.max(self.0.now.get()));
        }
        first.is_some()
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        let mut sleepers = self.clock.sleepers.borrow_mut();
        if let Some(count) = sleepers.get_mut(&self.until) {
            *count -= 1;
            if *count == 0 {
                sleepers.remove(&self.until);
            }
        }
    }
}

impl Clock for ImageClock {
    fn now(&self) -> Instant {
        Instant(self.0.now.get())
    }

    fn wall_ns(&self) -> u64 {
        WALL_NS_START + self.0.now.get()
    }

    async fn sleep(&self, duration: Duration) {
        let until = (self.now() + duration).0;
        *self.0.sleepers.borrow_mut().entry(until).or_insert(0) += 1;
        let asleep = Asleep {
            clock: &self.0,
            until,
        };
        // No waker is kept: the executor polls everybody after it has moved time.
        poll_fn(|_| {
            if asleep.clock.now.get() >= until {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks, polled in turn.
#[derive(Clone, Default)]
pub struct ImageTasks(Rc<RefCell<Vec<Task>>>);

impl core::fmt::Debug for ImageTasks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ImageTasks({})", self.0.borrow().len())
    }
}

impl ImageTasks {
    pub(super) fn clear(&self) {
        drop(self.0.take());
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) {
        // Taken out, since a task may spawn.
        let mut tasks = self.0.take();
        tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
        let spawned = self.0.replace(tasks);
        if !spawned.is_empty() {
            self.0.borrow_mut().extend(spawned);
            context.waker().wake_by_ref();
        }
    }
}

/// Completes at the second poll.
pub(crate) async fn yield_once() {
    let mut is_second = false;
    poll_fn(|context| {
        if is_second {
            return Poll::Ready(());
        }
        is_second = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Tasks for ImageTasks {
    fn spawn(&self, _class: TaskClass, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push(Box::pin(task));
    }

    async fn yield_now(&self) {
        yield_once().await;
    }

    fn need_yield(&self) -> bool {
        false
    }

    fn turn_stats(&self) -> TurnStats {
        TurnStats::default()
    }
}

/// There is no network: every call is refused.
#[derive(Debug, Clone)]
pub struct ImageNet;

/// A connection or listener that cannot exist.
#[derive(Debug)]
pub enum Never {}

fn refused(what: &'static str) -> NetError {
    NetError {
        what,
        kind: ErrorKind::Unsupported,
    }
}

impl Net for ImageNet {
    type Listener = Never;
    type Reader = Never;
    type Writer = Never;
    type Socket = Never;

    fn listen(&self, _address: Address) -> Result<Never, NetError> {
        Err(refused("listen"))
    }

    async fn connect(&self, _address: Address) -> Result<Never, NetError> {
        Err(refused("connect"))
    }

    fn adopt(&self, socket: Never) -> (Never, Never) {
        match socket {}
    }

    fn detach(&self, reader: Never, _writer: Never) -> Never {
        reader
    }
}

impl Listener for Never {
    type Socket = Self;

    async fn accept(&self) -> Result<Self, NetError> {
        match *self {}
    }

    fn address(&self) -> Address {
        match *self {}
    }
}

impl Reader for Never {
    fn try_read(&mut self, _buf: &mut [u8]) -> Result<Option<usize>, NetError> {
        match *self {}
    }

    async fn readable(&mut self) -> Result<(), NetError> {
        match *self {}
    }
}

impl Writer for Never {
    fn try_write(&self, _bytes: &[u8]) -> Result<usize, NetError> {
        match *self {}
    }

    async fn writable(&self) -> Result<(), NetError> {
        match *self {}
    }

    fn shutdown(&self) {
        match *self {}
    }
}
