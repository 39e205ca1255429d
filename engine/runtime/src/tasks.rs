//! Two glommio task queues, and the heartbeat around every poll.

use crate::reactor::{Reactor, yield_once};
use crate::stall::Heartbeat;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use env::TaskClass;
use glommio::{Latency, Shares, TaskQueueHandle};
use std::rc::Rc;
use std::sync::Arc;

/// Shares of requests, the event loop and the log.
const FOREGROUND_SHARES: usize = 1000;
/// Shares of flush and compaction.
const BACKGROUND_SHARES: usize = 100;
/// What a task may run before it should yield.
const SLICE: Duration = Duration::from_micros(500);
/// How soon the reactor gets its turn while tasks keep running.
const FOREGROUND_LATENCY: Duration = Duration::from_millis(1);

/// Tasks of one shard.
#[derive(Clone)]
pub struct TaskQueues(Rc<Queues>);

struct Queues {
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    heartbeat: Arc<Heartbeat>,
    reactor: Rc<Reactor>,
}

impl TaskQueues {
    /// Creates the queues. On the shard's executor.
    pub(crate) fn new(heartbeat: Arc<Heartbeat>, reactor: Rc<Reactor>) -> Self {
        let executor = glommio::executor();
        let latency = Latency::Matters(FOREGROUND_LATENCY);
        let foreground = executor.create_task_queue(Shares::Static(FOREGROUND_SHARES), latency, "foreground");
        let background = executor.create_task_queue(
            Shares::Static(BACKGROUND_SHARES),
            Latency::NotImportant,
            "background",
        );
        Self(Rc::new(Queues {
            foreground,
            background,
            heartbeat,
            reactor,
        }))
    }

    /// Runs `task` and gives its result.
    pub(crate) fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> glommio::Task<T> {
        self.start(self.0.foreground, task)
    }

    fn start<T: 'static>(
        &self,
        queue: TaskQueueHandle,
        task: impl Future<Output = T> + 'static,
    ) -> glommio::Task<T> {
        let task = Beating {
            heartbeat: self.0.heartbeat.clone(),
            task,
        };
        glommio::spawn_local_into(task, queue)
            .expect("the queue was created on this executor and is never removed")
    }
}

impl env::Tasks for TaskQueues {
    fn spawn(&self, class: TaskClass, task: impl Future<Output = ()> + 'static) {
        let queue = match class {
            TaskClass::Foreground => self.0.foreground,
            TaskClass::Background => self.0.background,
        };
        self.start(queue, task).detach();
    }

    fn yield_now(&self) -> impl Future<Output = ()> {
        // The driver gets a turn too: otherwise tasks that only ever yield would keep completions waiting.
        self.0.reactor.kick();
        yield_once()
    }

    fn need_yield(&self) -> bool {
        self.0.heartbeat.running() > SLICE
    }
}

/// A task whose polls are timed.
struct Beating<F> {
    heartbeat: Arc<Heartbeat>,
    task: F,
}

impl<F: Future> Future for Beating<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `task` is pinned with `self`: it is not moved out, and there is no `Drop` or `Unpin` that could.
        let (heartbeat, task) = unsafe {
            let this = self.get_unchecked_mut();
            (&this.heartbeat, Pin::new_unchecked(&mut this.task))
        };
        heartbeat.enter();
        let poll = task.poll(context);
        heartbeat.leave();
        poll
    }
}
