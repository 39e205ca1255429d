//! Operations in flight: what the kernel may touch stays here until it says that it is done.

use super::{Reactor, Source};
use crate::disk::{Buffer, Descriptor};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::rc::Rc;

/// The token of the poll of the bell.
pub(super) const BELL: u64 = u64::MAX - 1;
/// The token of entries whose completion nobody waits for.
pub(super) const IGNORED: u64 = u64::MAX;

/// What an operation keeps alive.
pub(crate) struct Payload {
    /// The file it works on.
    pub(crate) _file: Rc<Descriptor>,
    /// The memory it reads from or writes to.
    pub(crate) buffer: Option<Buffer>,
}

/// A finished operation: the kernel's result (bytes, or a negative error number) and the buffer.
pub(crate) struct Done {
    pub(crate) result: i32,
    pub(crate) buffer: Option<Buffer>,
}

enum Slot {
    Free {
        next: Option<usize>,
    },
    Waiting {
        payload: Payload,
        waker: Option<Waker>,
    },
    Finished(Done),
    /// The future was dropped; the kernel was not.
    Abandoned {
        _payload: Payload,
    },
    /// A multishot poll.
    Polling(Rc<Source>),
}

/// Slots by token, with a free list. Grows to the largest number of operations that were in flight at once; callers bound it.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Option<usize>,
    operations: usize,
}

fn index(token: u64) -> usize {
    usize::try_from(token).expect("a token is the index of a slot")
}

impl Slots {
    fn put(&mut self, slot: Slot) -> u64 {
        let at = if let Some(at) = self.free {
            let Slot::Free { next } = self.slots[at] else {
                unreachable!("the free list holds free slots")
            };
            self.free = next;
            self.slots[at] = slot;
            at
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        at as u64
    }

    fn take(&mut self, at: usize) -> Slot {
        let slot = core::mem::replace(&mut self.slots[at], Slot::Free { next: self.free });
        self.free = Some(at);
        slot
    }

    pub(super) fn insert(&mut self, payload: Payload) -> u64 {
        self.operations += 1;
        self.put(Slot::Waiting { payload, waker: None })
    }

    pub(super) fn insert_source(&mut self, source: &Rc<Source>) -> u64 {
        let token = self.put(Slot::Polling(source.clone()));
        source.set_token(Some(token));
        token
    }

    pub(super) fn token_of(&self, source: &Source) -> Option<u64> {
        source.token()
    }

    /// File operations that the kernel still holds.
    pub(super) fn operations(&self) -> usize {
        self.operations
    }

    /// Files a completion. Gives back a source whose poll has ended and should be armed again.
    pub(super) fn complete(&mut self, token: u64, result: i32, more: bool) -> Option<Rc<Source>> {
        if token == IGNORED {
            return None;
        }
        let at = index(token);
        if let Slot::Polling(source) = &self.slots[at] {
            source.ready(result);
            if more {
                return None;
            }
            let Slot::Polling(source) = self.take(at) else {
                unreachable!("looked at above")
            };
            source.set_token(None);
            return (result >= 0 && !source.is_closing()).then_some(source);
        }
        self.operations -= 1;
        match self.take(at) {
            Slot::Waiting { payload, waker } => {
                let finished = self.put(Slot::Finished(Done {
                    result,
                    buffer: payload.buffer,
                }));
                assert_eq!(
                    finished, token,
                    "the slot just freed is the first to be used again"
                );
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Abandoned { .. } => {}
            Slot::Free { .. } | Slot::Finished(_) | Slot::Polling(_) => {
                unreachable!("completion for token {token}, which is not in flight")
            }
        }
        None
    }

    pub(super) fn poll(&mut self, token: u64, context: &Context<'_>) -> Poll<Done> {
        let at = index(token);
        match &mut self.slots[at] {
            Slot::Waiting { waker, .. } => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Slot::Finished(_) => {
                let Slot::Finished(done) = self.take(at) else {
                    unreachable!("looked at above")
                };
                Poll::Ready(done)
            }
            Slot::Free { .. } | Slot::Abandoned { .. } | Slot::Polling(_) => {
                unreachable!("token {token} was polled after its end")
            }
        }
    }

    pub(super) fn abandon(&mut self, token: u64) {
        let at = index(token);
        match self.take(at) {
            Slot::Waiting { payload, .. } => {
                let kept = self.put(Slot::Abandoned { _payload: payload });
                assert_eq!(kept, token, "the slot just freed is the first to be used again");
            }
            Slot::Finished(_) => {}
            Slot::Free { .. } | Slot::Abandoned { .. } | Slot::Polling(_) => {
                unreachable!("token {token} was abandoned after its end")
            }
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // The ring may still be tearing down: memory that the kernel holds must not be given back.
        if self.operations > 0 {
            core::mem::forget(core::mem::take(&mut self.slots));
        }
    }
}

/// Waits for one operation. Dropping it leaves the operation to finish by itself.
pub(crate) struct Operation {
    reactor: Rc<Reactor>,
    token: Option<u64>,
}

impl Operation {
    pub(super) fn new(reactor: Rc<Reactor>, token: u64) -> Self {
        Self {
            reactor,
            token: Some(token),
        }
    }
}

impl Future for Operation {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Done> {
        let token = self.token.expect("polled after it has completed");
        let done = self.reactor.poll_operation(token, context);
        if done.is_ready() {
            self.token = None;
        }
        done
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.reactor.abandon(token);
        }
    }
}
