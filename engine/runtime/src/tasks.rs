//! Two glommio task queues, and the heartbeat around every poll.

use crate::reactor::Reactor;
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
/// Polls after which the driver gets a turn, even if no task has asked for anything.
const POLLS_PER_TURN: u32 = 64;

/// Tasks of one shard.
#[derive(Clone)]
pub struct TaskQueues(Rc<Queues>);

struct Queues {
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    beat: Rc<Beat>,
}

/// What happens around every poll.
struct Beat {
    heartbeat: Arc<Heartbeat>,
    reactor: Rc<Reactor>,
    polls: Cell<u32>,
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
            reactor,
            polls: Cell::new(0),
            stopped: Cell::new(false),
        };
        Self(Rc::new(Queues {
            foreground,
            background,
            beat: Rc::new(beat),
        }))
    }

    /// Runs the driver.
    pub(crate) fn drive(&self) -> glommio::Task<()> {
        let driver = Beating {
            beat: self.0.beat.clone(),
            is_driver: true,
            task: self.0.beat.reactor.clone().drive(),
        };
        start(self.0.foreground, driver)
    }

    /// Runs `task` and gives its result.
    pub(crate) fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> glommio::Task<T> {
        start(
            self.0.foreground,
            Beating {
                beat: self.0.beat.clone(),
                is_driver: false,
                task,
            },
        )
    }

    /// Polls no task but the driver from now on.
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
                is_driver: false,
                task,
            },
        )
        .detach();
    }

    async fn yield_now(&self) {
        // The driver gets a turn too: otherwise tasks that only ever yield would keep completions waiting. And the queue is
        // left, so that the scheduler can give the other one its share.
        self.0.beat.reactor.kick();
        glommio::executor().yield_task_queue_now().await;
    }

    fn need_yield(&self) -> bool {
        self.0.beat.heartbeat.running() > SLICE
    }

    fn turn_stats(&self) -> TurnStats {
        self.0.beat.heartbeat.stats()
    }
}

/// A task whose polls are timed and counted.
struct Beating<F> {
    beat: Rc<Beat>,
    is_driver: bool,
    task: F,
}

impl<F: Future> Future for Beating<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `task` is pinned with `self`: it is not moved out, and there is no `Drop` or `Unpin` that could.
        let (beat, is_driver, task) = unsafe {
            let this = self.get_unchecked_mut();
            (&this.beat, this.is_driver, Pin::new_unchecked(&mut this.task))
        };
        if beat.stopped.get() && !is_driver {
            return Poll::Pending;
        }
        beat.polls.set(beat.polls.get().wrapping_add(1));
        if beat.polls.get().is_multiple_of(POLLS_PER_TURN) {
            beat.reactor.kick();
        }
        beat.heartbeat.enter();
        let poll = task.poll(context);
        beat.heartbeat.leave();
        poll
    }
}
