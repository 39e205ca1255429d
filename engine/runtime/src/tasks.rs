//! Two glommio task queues, and the heartbeat around every poll.

use crate::reactor::{Quiet, Reactor};
use crate::stall::Heartbeat;
use core::cell::Cell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use env::{TaskClass, TurnStats};
use glommio::{Latency, Shares, TaskQueueHandle};
use std::rc::Rc;
use std::sync::Arc;

/// Shares of requests, the event loop and the log.
const FOREGROUND_SHARES: usize = 1000;
/// Shares of flush and compaction.
const BACKGROUND_SHARES: usize = 100;
/// What a task may run before it should yield.
const SLICE: Duration = Duration::from_micros(500);

/// Tasks of one shard.
#[derive(Clone)]
pub struct TaskQueues(Rc<Queues>);

struct Queues {
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    reactor: Rc<Reactor>,
    beat: Rc<Beat>,
}

/// What happens around every poll.
struct Beat {
    heartbeat: Arc<Heartbeat>,
    quiet: Rc<Quiet>,
    /// The shard has ended: its tasks are not polled any more, so that none keeps the executor from seeing that.
    stopped: Cell<bool>,
}

impl TaskQueues {
    /// Creates the queues. On the shard's executor.
    pub(crate) fn new(heartbeat: Arc<Heartbeat>, reactor: Rc<Reactor>) -> Self {
        let executor = glommio::executor();
        let queue =
            |shares, name| executor.create_task_queue(Shares::Static(shares), Latency::NotImportant, name);
        let foreground = queue(FOREGROUND_SHARES, "foreground");
        let background = queue(BACKGROUND_SHARES, "background");
        let beat = Beat {
            heartbeat,
            quiet: Rc::default(),
            stopped: Cell::new(false),
        };
        Self(Rc::new(Queues {
            foreground,
            background,
            reactor,
            beat: Rc::new(beat),
        }))
    }

    /// Runs the driver, and the sentinel that it asks.
    pub(crate) fn drive(&self) -> glommio::Task<()> {
        let Beat { heartbeat, quiet, .. } = &*self.0.beat;
        let inner = |task| Beating {
            beat: self.0.beat.clone(),
            is_inner: true,
            task,
        };
        let standing_by = quiet.clone();
        let sentinel: Inner = Box::pin(async move { standing_by.stand_by().await });
        start(self.0.background, inner(sentinel)).detach();
        let reactor = self.0.reactor.clone();
        let driver: Inner = Box::pin(reactor.drive(quiet.clone(), heartbeat.clone()));
        start(self.0.foreground, inner(driver))
    }

    /// Runs `task` and gives its result.
    pub(crate) fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> glommio::Task<T> {
        start(
            self.0.foreground,
            Beating {
                beat: self.0.beat.clone(),
                is_inner: false,
                task,
            },
        )
    }

    /// Polls no task but driver and sentinel from now on.
    pub(crate) fn stop(&self) {
        self.0.beat.stopped.set(true);
    }
}

fn start<T: 'static>(queue: TaskQueueHandle, task: impl Future<Output = T> + 'static) -> glommio::Task<T> {
    glommio::spawn_local_into(task, queue)
        .expect("the queue was created on this executor and is never removed")
}

impl env::Tasks for TaskQueues {
    fn spawn(&self, class: TaskClass, task: impl Future<Output = ()> + 'static) {
        let queue = match class {
            TaskClass::Foreground => self.0.foreground,
            TaskClass::Background => self.0.background,
        };
        start(
            queue,
            Beating {
                beat: self.0.beat.clone(),
                is_inner: false,
                task,
            },
        )
        .detach();
    }

    async fn yield_now(&self) {
        // The queue is left, so that the scheduler can give the other one its share.
        glommio::executor().yield_task_queue_now().await;
    }

    fn need_yield(&self) -> bool {
        self.0.beat.heartbeat.running() > SLICE
    }

    fn turn_stats(&self) -> TurnStats {
        self.0.beat.heartbeat.stats()
    }
}

/// A task of the runtime's own.
type Inner = Pin<Box<dyn Future<Output = ()>>>;

/// A task whose polls are timed and counted.
struct Beating<F> {
    beat: Rc<Beat>,
    /// Driver or sentinel.
    is_inner: bool,
    task: F,
}

impl<F: Future> Future for Beating<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `task` is pinned with `self`: it is not moved out, and there is no `Drop` or `Unpin` that could.
        let (beat, is_inner, task) = unsafe {
            let this = self.get_unchecked_mut();
            (&this.beat, this.is_inner, Pin::new_unchecked(&mut this.task))
        };
        if !is_inner {
            if beat.stopped.get() {
                return Poll::Pending;
            }
            beat.quiet.polled();
        }
        beat.heartbeat.enter();
        let poll = task.poll(context);
        beat.heartbeat.leave();
        poll
    }
}
