//! A socket and what is known of its readiness.
//!
//! Readiness is a hint that a system call clears: a task tries `recv` or `send` first, and waits only after `EAGAIN`. A hint
//! that is set while nobody waits stays set, so nothing is missed between the call and the wait.

use core::cell::{Cell, RefCell};
use core::task::{Context, Poll, Waker};
use io_uring::{opcode, squeue, types};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A watched descriptor.
#[derive(Debug)]
pub(crate) struct Source {
    fd: OwnedFd,
    token: Cell<Option<u64>>,
    closing: Cell<bool>,
    /// The poll itself failed: the caller must find out by a system call instead of waiting.
    broken: Cell<bool>,
    /// The peer has ended its half, or both have: no further event is sure to come.
    hung_up: Cell<bool>,
    input: Side,
    output: Side,
}

#[derive(Debug, Default)]
struct Side {
    ready: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Side {
    fn set(&self) {
        self.ready.set(true);
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.ready.replace(false) {
            return Poll::Ready(());
        }
        self.waiter.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}

fn bits(events: i16) -> u32 {
    u32::from(events.cast_unsigned())
}

/// Polls both directions, edge-triggered, until cancelled.
pub(super) fn poll_entry(fd: RawFd) -> squeue::Entry {
    let events = bits(libc::POLLIN | libc::POLLOUT) | bits(libc::POLLRDHUP);
    opcode::PollAdd::new(types::Fd(fd), events).multi(true).build()
}

impl Source {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let (input, output) = (Side::default(), Side::default());
        let [closing, broken, hung_up] = [const { Cell::new(false) }; 3];
        Self {
            fd,
            token: Cell::new(None),
            closing,
            broken,
            hung_up,
            input,
            output,
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn token(&self) -> Option<u64> {
        self.token.get()
    }

    pub(super) fn set_token(&self, token: Option<u64>) {
        self.token.set(token);
    }

    pub(super) fn closing(&self) {
        self.closing.set(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// A completion of the poll: event bits, or a negative error number.
    pub(super) fn ready(&self, result: i32) {
        if result < 0 {
            self.broken.set(true);
        }
        let events = u32::try_from(result).unwrap_or(u32::MAX);
        let failed = bits(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL);
        if events & (bits(libc::POLLRDHUP) | failed) != 0 {
            self.hung_up.set(true);
        }
        if events & (bits(libc::POLLIN | libc::POLLRDHUP) | failed) != 0 {
            self.input.set();
        }
        if events & (bits(libc::POLLOUT) | failed) != 0 {
            self.output.set();
        }
    }

    /// Ready when a read is worth another try.
    pub(crate) fn poll_input(&self, context: &Context<'_>) -> Poll<()> {
        if self.broken.get() {
            return Poll::Ready(());
        }
        self.input.poll(context)
    }

    /// Ready when a write is worth another try.
    pub(crate) fn poll_output(&self, context: &Context<'_>) -> Poll<()> {
        if self.broken.get() {
            return Poll::Ready(());
        }
        self.output.poll(context)
    }

    /// Whether a read is worth a try without waiting; takes the hint.
    pub(crate) fn take_input(&self) -> bool {
        self.input.ready.replace(false) || self.hung_up.get() || self.broken.get()
    }

    /// Whether a read must not wait before it has tried.
    pub(crate) fn has_hung_up(&self) -> bool {
        self.hung_up.get()
    }

    /// The kernel refused to poll: waiting would be for ever.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }
}
