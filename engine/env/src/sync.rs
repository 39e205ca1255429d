//! Waiting inside one thread: needs no runtime, so both implementations of the seam share it.

use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};
use std::rc::Rc;

/// A flag that one task waits for and any task of the thread sets.
///
/// Setting it while nobody waits is remembered, once: no wake-up is lost, and many become one.
#[derive(Debug, Default)]
pub struct Notify {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Notify {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and wakes who waits.
    pub fn notify(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waiter.take()
        {
            waker.wake();
        }
    }

    /// Completes when the flag is set, and clears it. One task at a time may wait.
    ///
    /// # Cancellation
    /// Safe: the flag stays set if it was.
    pub fn notified(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(context.waker().clone()));
            Poll::Pending
        })
    }
}

/// The sending end of a [`oneshot`].
#[derive(Debug)]
pub struct Sender<T>(Rc<Slot<T>>);

/// The receiving end of a [`oneshot`].
#[derive(Debug)]
pub struct Receiver<T>(Rc<Slot<T>>);

#[derive(Debug)]
struct Slot<T> {
    value: RefCell<Option<T>>,
    closed: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// A channel for one value, within one thread.
#[must_use]
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(Slot {
        value: RefCell::new(None),
        closed: Cell::new(false),
        waiter: RefCell::new(None),
    });
    (Sender(slot.clone()), Receiver(slot))
}

impl<T> Sender<T> {
    /// Sends the value; lost when the receiver is gone.
    pub fn send(self, value: T) {
        self.0.value.replace(Some(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.set(true);
        if let Some(waker) = self.0.waiter.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Receiver<T> {
    /// The value, or `None` when the sender was dropped without sending.
    type Output = Option<T>;

    fn poll(self: core::pin::Pin<&mut Self>, context: &mut core::task::Context<'_>) -> Poll<Self::Output> {
        if let Some(value) = self.0.value.take() {
            return Poll::Ready(Some(value));
        }
        if self.0.closed.get() {
            return Poll::Ready(None);
        }
        self.0.waiter.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}
