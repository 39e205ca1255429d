//! Rings between the shards of a node.
//!
//! Fault model: *must survive* rings of any capacity from one message, messages that become visible late (in order within
//! a ring, out of order between rings), and `readable` completing for nothing. A node's messages end with its process.

use crate::config::fires;
use crate::trace::{Fault, Mark};
use crate::world::{Process, World};
use base::ShardId;
use core::future::poll_fn;
use core::task::{Poll, Waker};
use env::Mailbox;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// One shard's end of all rings of its node.
#[derive(Debug)]
pub struct SimMailbox<M> {
    world: Rc<World>,
    process: Process,
    shard: ShardId,
    rings: Rc<Rings<M>>,
    /// Whose ring is served next.
    turn: Cell<u16>,
}

#[derive(Debug)]
struct Rings<M> {
    shards: u16,
    capacity: usize,
    /// `from * shards + to`.
    rings: Vec<RefCell<Ring<M>>>,
    readers: Vec<RefCell<Option<Waker>>>,
}

#[derive(Debug)]
struct Ring<M> {
    staged: Vec<M>,
    /// With the moment from which each is visible.
    published: VecDeque<(u64, M)>,
    writer: Option<Waker>,
}

impl<M: Send + 'static> SimMailbox<M> {
    /// The mailboxes of all shards of a process.
    pub(crate) fn all(world: &Rc<World>, process: Process, shards: u16) -> Vec<Self> {
        let capacity = world.core.borrow().config.mailbox.capacity;
        assert!(capacity > 0, "a ring holds at least one message");
        let ring = || {
            RefCell::new(Ring {
                staged: Vec::new(),
                published: VecDeque::new(),
                writer: None,
            })
        };
        let rings = Rc::new(Rings {
            shards,
            capacity,
            rings: (0..usize::from(shards) * usize::from(shards))
                .map(|_| ring())
                .collect(),
            readers: (0..shards).map(|_| RefCell::new(None)).collect(),
        });
        let mailbox = |shard| Self {
            world: world.clone(),
            process,
            shard: ShardId(shard),
            rings: rings.clone(),
            turn: Cell::new(0),
        };
        (0..shards).map(mailbox).collect()
    }

    fn ring(&self, from: u16, to: u16) -> &RefCell<Ring<M>> {
        &self.rings.rings[usize::from(from) * usize::from(self.rings.shards) + usize::from(to)]
    }

    fn wake(slot: &RefCell<Option<Waker>>) {
        if let Some(waker) = slot.take() {
            waker.wake();
        }
    }

    /// Publishes what is staged for one shard.
    fn publish(&self, to: u16) {
        let mut ring = self.ring(self.shard.0, to).borrow_mut();
        if ring.staged.is_empty() {
            return;
        }
        let core = &mut *self.world.core.borrow_mut();
        core.trace.fold(
            Mark::Mailbox,
            u64::from(self.shard.0) << 16 | u64::from(to),
            ring.staged.len() as u64,
        );
        let config = &core.config.mailbox;
        let delay_ns = if fires(&mut core.prng, config.delay) {
            1 + core.prng.below(config.delay_ns.max(1))
        } else {
            0
        };
        let last_at = ring.published.back().map_or(0, |(at, _)| *at);
        let at = (core.now + delay_ns).max(last_at);
        let staged = core::mem::take(&mut ring.staged);
        ring.published
            .extend(staged.into_iter().map(|message| (at, message)));
        if at > core.now {
            core.trace.fault(Fault::MailboxDelay);
            // The receiver looks again then, whether it waits by then or now.
            let rings = self.rings.clone();
            let timer = self.world.timer(at - core.now);
            let process = self.process;
            core.executor.spawn(
                process,
                Box::pin(async move {
                    timer.await;
                    Self::wake(&rings.readers[usize::from(to)]);
                }),
            );
        } else {
            Self::wake(&self.rings.readers[usize::from(to)]);
        }
    }

    fn has_visible(&self) -> bool {
        let now = self.world.core.borrow().now;
        (0..self.rings.shards).any(|from| {
            let ring = self.ring(from, self.shard.0).borrow();
            ring.published.front().is_some_and(|(at, _)| *at <= now)
        })
    }
}

impl<M: Send + 'static> Mailbox<M> for SimMailbox<M> {
    fn shard(&self) -> ShardId {
        self.shard
    }

    fn shards(&self) -> u16 {
        self.rings.shards
    }

    fn try_send(&self, to: ShardId, message: M) -> Result<(), M> {
        assert!(
            to != self.shard && to.0 < self.rings.shards,
            "{} sends to {to}",
            self.shard
        );
        {
            let mut ring = self.ring(self.shard.0, to.0).borrow_mut();
            if ring.staged.len() + ring.published.len() < self.rings.capacity {
                ring.staged.push(message);
                return Ok(());
            }
        }
        self.publish(to.0);
        self.world.core.borrow_mut().trace.fault(Fault::MailboxFull);
        Err(message)
    }

    fn flush(&self) {
        for to in (0..self.rings.shards).filter(|to| *to != self.shard.0) {
            self.publish(to);
        }
    }

    fn try_receive(&self) -> Option<(ShardId, M)> {
        let now = self.world.core.borrow().now;
        let shards = self.rings.shards;
        for step in 0..shards {
            let from = (self.turn.get() + step) % shards;
            let mut ring = self.ring(from, self.shard.0).borrow_mut();
            if let Some((_, message)) = ring.published.pop_front_if(|(at, _)| *at <= now) {
                self.turn.set((from + 1) % shards);
                if let Some(writer) = ring.writer.take() {
                    writer.wake();
                }
                return Some((ShardId(from), message));
            }
        }
        None
    }

    async fn readable(&self) {
        let is_spurious = {
            let core = &mut *self.world.core.borrow_mut();
            fires(&mut core.prng, core.config.mailbox.spurious)
        };
        if is_spurious {
            self.world.core.borrow_mut().trace.fault(Fault::MailboxSpurious);
            // Not at once: a shard that sleeps between two looks must not spin.
            return self.world.timer(1_000).await;
        }
        poll_fn(|context| {
            if self.has_visible() {
                return Poll::Ready(());
            }
            self.rings.readers[usize::from(self.shard.0)].replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    async fn writable(&self, to: ShardId) {
        poll_fn(|context| {
            let mut ring = self.ring(self.shard.0, to.0).borrow_mut();
            if ring.staged.len() + ring.published.len() < self.rings.capacity {
                return Poll::Ready(());
            }
            ring.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
