//! Waking a parked shard: no wake-up is lost, and there is at most one per park.
//!
//! ```text
//!    receiver                                   sender
//!    ────────                                   ──────
//!    parked = true                              publish (ring tail, credit, flag)
//!    ── fence ──                                ── fence ──
//!    look again at every ring                   parked?  no → done, the receiver will look
//!    nothing → sleep until the bell                      yes, and we were the one to clear it → ring the bell
//! ```
//!
//! The two fences (sequentially consistent, Dekker's pattern) forbid the one bad outcome: the receiver saw nothing *and* the
//! sender saw `parked == false`. Clearing `parked` with a swap makes one of several senders ring, so that a burst costs one
//! system call. loom checks both in `tests/loom.rs`.

use super::sync::{AtomicBool, Ordering, fence};

/// What wakes a sleeping thread: an eventfd in production.
pub trait Bell {
    /// Wakes the thread, now or the next time it sleeps.
    fn ring(&self);
}

/// Where one shard parks. Shared by all shards.
#[derive(Debug)]
pub struct Parker<B> {
    parked: AtomicBool,
    bell: B,
}

impl<B: Bell> Parker<B> {
    /// A parker whose shard is awake.
    pub fn new(bell: B) -> Self {
        Self {
            parked: AtomicBool::new(false),
            bell,
        }
    }

    /// What it rings.
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// The shard says that it is about to sleep. It must then look at all its inputs once more, and sleep only when there is
    /// nothing; either way it calls [`Self::awake`] afterwards.
    #[inline]
    pub fn park(&self) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard says that it is awake and will look at all its inputs before it parks again.
    #[inline]
    pub fn awake(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    /// Another thread says that it has published something for the shard. Returns whether the bell was rung.
    #[inline]
    pub fn unpark(&self) -> bool {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::AcqRel) {
            self.bell.ring();
            return true;
        }
        false
    }
}

/// A sender's wish for room in a full ring.
///
/// The same pattern the other way round: the sender asks, then looks at the ring once more; the receiver gives slots back,
/// then looks whether somebody asked. One of them sees the other.
#[derive(Debug, Default)]
pub struct Demand(AtomicBool);

impl Demand {
    /// Nobody asks.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The sender asks to be unparked when there is room. It must look at the ring once more before it waits.
    #[inline]
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The receiver has given slots back: whether the sender must be unparked. True once per [`Self::ask`].
    #[inline]
    pub fn answer(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel)
    }
}
