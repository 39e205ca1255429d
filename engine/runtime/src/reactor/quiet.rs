//! Whether any task is ready: what the driver must know before the thread sleeps, and glommio does not say.
//!
//! ```text
//!   foreground queue   … ready tasks … │ driver ──asks──┐        ┌── driver again: has anyone been polled?
//!   background queue   … ready tasks …                  └─► sentinel
//! ```
//!
//! The driver asks a sentinel, a task of the other queue, and waits for its answer. Queues are first in, first out, so whatever
//! was ready when the driver asked is polled before the sentinel answers or before the driver hears it. If nothing was polled
//! in between, nothing was ready; and nothing can have become ready, since only tasks and the driver wake tasks.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// What driver, sentinel and all other tasks of a shard share.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// Polls of tasks that are neither driver nor sentinel.
    polls: Cell<u64>,
    question: Signal,
    answer: Signal,
}

/// A flag that one task sets and another one waits for.
#[derive(Debug, Default)]
struct Signal {
    is_set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    fn set(&self) {
        self.is_set.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|context| {
            if self.is_set.take() {
                return Poll::Ready(());
            }
            self.waiting.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Quiet {
    /// A task is polled.
    pub(crate) fn polled(&self) {
        self.polls.set(self.polls.get().wrapping_add(1));
    }

    /// The driver asks. A false answer means that some task has run meanwhile.
    pub(crate) async fn no_task_is_ready(&self) -> bool {
        let before = self.polls.get();
        self.question.set();
        self.answer.wait().await;
        self.polls.get() == before
    }

    /// The sentinel: answers for as long as the executor runs.
    pub(crate) async fn stand_by(&self) {
        loop {
            self.question.wait().await;
            self.answer.set();
        }
    }
}
