//! Waiting for one another on one thread.

use core::cell::{Cell, RefCell};
use env::sync::{Sender, oneshot};

/// Wakes everyone who waits. Who waits looks again.
#[derive(Debug, Default)]
struct Waiters(RefCell<Vec<Sender<()>>>);

impl Waiters {
    async fn wait(&self) {
        let (sender, receiver) = oneshot();
        self.0.borrow_mut().push(sender);
        receiver.await;
    }

    fn wake(&self) {
        // Taken out first: a waiter may wait again at once. Dropping a sender wakes its receiver.
        drop(self.0.take());
    }
}

/// Mutual exclusion across awaits.
#[derive(Debug, Default)]
pub(crate) struct Lock {
    locked: Cell<bool>,
    waiters: Waiters,
}

/// Holds a [`Lock`].
#[derive(Debug)]
pub(crate) struct Guard<'a>(&'a Lock);

impl Lock {
    /// Waits for its turn. Cancelling it is safe.
    pub(crate) async fn lock(&self) -> Guard<'_> {
        while self.locked.replace(true) {
            self.waiters.wait().await;
        }
        Guard(self)
    }

    /// Takes it unless somebody has it.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_>> {
        (!self.locked.replace(true)).then(|| Guard(self))
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.locked.set(false);
        self.0.waiters.wake();
    }
}

/// Opens once and stays open.
#[derive(Debug)]
pub(crate) struct Gate {
    open: Cell<bool>,
    waiters: Waiters,
}

impl Gate {
    pub(crate) fn new(open: bool) -> Self {
        Self {
            open: Cell::new(open),
            waiters: Waiters::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(crate) fn open(&self) {
        self.open.set(true);
        self.waiters.wake();
    }

    /// Waits until it is open. Cancelling it is safe.
    pub(crate) async fn opened(&self) {
        while !self.open.get() {
            self.waiters.wait().await;
        }
    }
}
