//! A bounded ring between one sending and one receiving thread.
//!
//! ```text
//!      head (receiver)          tail (sender)       positions only grow; the slot of p is p & mask
//!        ▼                        ▼
//!   ──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──
//!     │  │██│██│██│██│██│▒▒│▒▒│▒▒│  │  │       ██ published   ▒▒ staged: written, not yet visible
//!   ──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──
//!                     └ published tail
//! ```
//!
//! Both sides keep a private copy of their own position and a stale copy of the other's, so that a message costs no shared
//! cache line until a batch is published: the sender writes `tail` once per [`Sender::publish`], the receiver `head` once per
//! [`Receiver::release`] or every [`RELEASE_EVERY`] messages.
//!
//! Invariants:
//! - `head <= published tail <= staged tail <= head + capacity`.
//! - A slot is written only by the sender outside `head..published tail`, and read only by the receiver inside.

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};
use core::mem::MaybeUninit;

/// The receiver gives slots back at the latest after so many messages.
pub const RELEASE_EVERY: usize = 32;

/// Keeps the two positions on cache lines of their own (two lines: processors fetch them in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

struct Ring<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
    /// The next position to receive. Written by the receiver.
    head: Apart<AtomicUsize>,
    /// One past the last published position. Written by the sender.
    tail: Apart<AtomicUsize>,
}

// SAFETY: the ring moves values of `T` between threads and hands out no reference to one; which thread may touch a slot is
// decided by `head` and `tail` as the module's invariants say.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Ring<T> {}

/// The sending end. One thread.
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
    staged: usize,
    published: usize,
    head_seen: usize,
}

/// The receiving end. One thread.
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    released: usize,
    tail_seen: usize,
}

/// A ring for `capacity` messages.
///
/// # Panics
/// When `capacity` is not a power of two.
#[must_use]
pub fn ring<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(
        capacity.is_power_of_two(),
        "a ring of {capacity} is not a power of two"
    );
    let ring = Arc::new(Ring {
        slots: (0..capacity)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        mask: capacity - 1,
        head: Apart(AtomicUsize::new(0)),
        tail: Apart(AtomicUsize::new(0)),
    });
    (
        Sender {
            ring: ring.clone(),
            staged: 0,
            published: 0,
            head_seen: 0,
        },
        Receiver {
            ring,
            head: 0,
            released: 0,
            tail_seen: 0,
        },
    )
}

impl<T: Send> Sender<T> {
    /// Stages a message; hands it back when the ring is full.
    ///
    /// # Errors
    /// The message, when there is no room.
    #[inline]
    pub fn stage(&mut self, message: T) -> Result<(), T> {
        if !self.has_room() {
            return Err(message);
        }
        self.ring.slots[self.staged & self.ring.mask].with_mut(|slot| {
            // SAFETY: `has_room` saw, with acquire ordering, that the receiver is done with this slot, and it may not read
            // it before `publish`; the sender is one thread.
            unsafe { (*slot).write(message) };
        });
        self.staged = self.staged.wrapping_add(1);
        Ok(())
    }

    /// Whether [`Self::stage`] would succeed.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        let capacity = self.ring.mask + 1;
        if self.staged.wrapping_sub(self.head_seen) < capacity {
            return true;
        }
        self.head_seen = self.ring.head.0.load(Ordering::Acquire);
        self.staged.wrapping_sub(self.head_seen) < capacity
    }

    /// Makes what was staged visible, and says whether there was anything. The caller wakes the receiver.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.staged {
            return false;
        }
        self.published = self.staged;
        self.ring.tail.0.store(self.published, Ordering::Release);
        true
    }
}

impl<T: Send> Receiver<T> {
    /// The next message, if one is published.
    #[inline]
    pub fn receive(&mut self) -> Option<T> {
        if !self.has_message() {
            return None;
        }
        let message = self.ring.slots[self.head & self.ring.mask].with(|slot| {
            // SAFETY: the position is below a tail loaded with acquire ordering, so the slot holds a message, and it is
            // read once: `head` moves past it now and the sender may not reuse it before `release`.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        Some(message)
    }

    /// Whether [`Self::receive`] would give a message.
    #[inline]
    pub fn has_message(&mut self) -> bool {
        if self.head != self.tail_seen {
            return true;
        }
        self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
        self.head != self.tail_seen
    }

    /// Whether enough was received that the slots should go back now.
    #[inline]
    pub fn release_due(&self) -> bool {
        let held = self.head.wrapping_sub(self.released);
        held >= RELEASE_EVERY.min(self.ring.mask.div_ceil(2)).max(1)
    }

    /// Gives the slots of received messages back, and says whether there were any. The caller wakes a waiting sender.
    #[inline]
    pub fn release(&mut self) -> bool {
        if self.released == self.head {
            return false;
        }
        self.released = self.head;
        self.ring.head.0.store(self.released, Ordering::Release);
        true
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // The last end is gone, so nothing changes any more. Staged messages of a sender that never published are leaked
        // rather than guessed at: the sender publishes in its own drop.
        let (head, tail) = (
            self.head.0.load(Ordering::Acquire),
            self.tail.0.load(Ordering::Acquire),
        );
        let mut at = head;
        while at != tail {
            self.slots[at & self.mask].with_mut(|slot| {
                // SAFETY: the positions `head..tail` were published and never received.
                unsafe { (*slot).assume_init_drop() };
            });
            at = at.wrapping_add(1);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.ring.tail.0.store(self.staged, Ordering::Release);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.ring.head.0.store(self.head, Ordering::Release);
    }
}
