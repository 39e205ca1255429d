//! From outboxes to sockets, for connections that were accepted and for those that were dialled.
//!
//! ```text
//!   append ─► outbox ─► flush: one try_write per touched connection ─► socket
//!                └─ what did not fit ─► drain task: waits for room ─────┘
//! ```

use crate::connection::{CloseReason, Connection};
use crate::slots::Link;
use crate::transport::WriterOf;
use base::RequestId;
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::{Clock, Env, Instant, TaskClass, Tasks, Writer};
use std::rc::Rc;
use wire::reply::ErrorReply;

/// The sending side of all connections of one driver.
pub(crate) struct Egress<E: Env> {
    env: E,
    /// Connections with something appended since the last flush.
    touched: RefCell<Vec<Rc<Link<WriterOf<E>>>>>,
    /// The list of the last flush, kept for its memory.
    flushing: RefCell<Vec<Rc<Link<WriterOf<E>>>>>,
    /// Bytes that wait to be sent, over all connections.
    unsent_bytes: Cell<usize>,
    sends: Cell<u64>,
    sent_bytes: Cell<u64>,
    lost_bytes: Cell<u64>,
}

impl<E: Env> Egress<E> {
    pub(crate) fn new(env: E) -> Self {
        Self {
            env,
            touched: RefCell::default(),
            flushing: RefCell::default(),
            unsent_bytes: Cell::new(0),
            sends: Cell::new(0),
            sent_bytes: Cell::new(0),
            lost_bytes: Cell::new(0),
        }
    }

    /// Bytes that wait to be sent, over all connections.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes.get()
    }

    /// How many sends there were, with [`Self::sent_bytes`] bytes together.
    pub(crate) fn sends(&self) -> u64 {
        self.sends.get()
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Bytes that waited when their connection ended.
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.lost_bytes.get()
    }

    /// Notes bytes that will never be sent.
    pub(crate) fn lose(&self, bytes: usize) {
        self.lost_bytes.update(|lost| lost + bytes as u64);
    }

    /// Notes what was appended to the outbox of `link` where `before` bytes waited, and says how much that is.
    pub(crate) fn appended(&self, link: &Rc<Link<WriterOf<E>>>, before: usize) -> usize {
        let after = link.outbox.borrow().len();
        let now = if before == 0 {
            self.env.clock().now()
        } else {
            Instant::default()
        };
        link.state.borrow_mut().on_appended(after, now);
        self.unsent_bytes.update(|bytes| bytes + after - before);
        if !link.touched.replace(true) {
            self.touched.borrow_mut().push(link.clone());
        }
        after - before
    }

    /// Sends what the touched connections have: one `try_write` each. The rest goes out as the peer makes room.
    pub(crate) fn flush(self: &Rc<Self>) {
        let mut flushing = self.flushing.take();
        flushing.append(&mut self.touched.borrow_mut());
        for link in flushing.drain(..) {
            link.touched.set(false);
            self.push_out(&link);
        }
        self.flushing.replace(flushing);
    }

    /// One `try_write`; a task takes over when something is left.
    pub(crate) fn push_out(self: &Rc<Self>, link: &Rc<Link<WriterOf<E>>>) {
        if link.draining.get() || !self.write_some(link) {
            return;
        }
        link.draining.set(true);
        base::sometimes!("transport: a reply did not fit the socket");
        let (egress, link) = (self.clone(), link.clone());
        self.env.tasks().spawn(TaskClass::Foreground, async move {
            loop {
                if let Err(error) = link.writer.writable().await {
                    link.end(CloseReason::Net(error));
                    break;
                }
                if !egress.write_some(&link) {
                    break;
                }
            }
            link.draining.set(false);
        });
    }

    /// Writes once and says whether something is left.
    fn write_some(&self, link: &Link<WriterOf<E>>) -> bool {
        let mut outbox = link.outbox.borrow_mut();
        if outbox.is_empty() {
            return false;
        }
        let offered = outbox.bytes();
        let offered = if base::misbehave!("transport: short send") {
            &offered[..1]
        } else {
            offered
        };
        match link.writer.try_write(offered) {
            Ok(sent) => {
                outbox.consume(sent);
                self.unsent_bytes.update(|bytes| bytes - sent);
                self.sends.update(|sends| sends + 1);
                self.sent_bytes.update(|bytes| bytes + sent as u64);
                let left = outbox.len();
                if sent > 0 {
                    let now = if left > 0 {
                        self.env.clock().now()
                    } else {
                        Instant::default()
                    };
                    link.state.borrow_mut().on_sent(left, now);
                }
                if link.state.borrow().is_paused() {
                    // The receiver knows its limits, and waits on when there is too little room.
                    link.room.notify();
                }
                left > 0
            }
            Err(error) => {
                self.forget(outbox.len());
                outbox.clear();
                drop(outbox);
                link.end(CloseReason::Net(error));
                false
            }
        }
    }

    /// Forgets what waits, after one more attempt to send it when there are last words behind it, and shuts the connection
    /// down.
    pub(crate) fn farewell(&self, link: &Link<WriterOf<E>>, words: Option<&ErrorReply<'_>>) {
        let mut outbox = link.outbox.borrow_mut();
        self.forget(outbox.len());
        if let Some(words) = words
            && outbox.push(RequestId(0), words).is_ok()
        {
            // The connection ends either way: an error of this last send tells nothing new.
            let _ = link.writer.try_write(outbox.bytes());
        }
        outbox.clear();
        link.writer.shutdown();
    }

    /// `bytes` of a connection no longer wait.
    fn forget(&self, bytes: usize) {
        self.unsent_bytes.update(|unsent| unsent - bytes);
        self.lose(bytes);
    }
}

/// Looks at time-outs every `interval` while `links` gives some, and ends connections that `expired` gives a reason for.
pub(crate) async fn sweep<E: Env>(
    env: &E,
    interval: Duration,
    links: impl Fn() -> Vec<Rc<Link<WriterOf<E>>>>,
    expired: impl Fn(&Connection, Instant) -> Option<CloseReason>,
) {
    loop {
        // Weak: a connection that leaves for another shard while this task yields is its receiver's alone.
        let weak: Vec<_> = links().iter().map(Rc::downgrade).collect();
        if weak.is_empty() {
            return;
        }
        let now = env.clock().now();
        for link in weak {
            let Some(link) = link.upgrade() else {
                continue;
            };
            let reason = expired(&link.state.borrow(), now);
            if let Some(reason) = reason {
                link.end(reason);
                drop(link);
                if env.tasks().need_yield() {
                    env.tasks().yield_now().await;
                }
            }
        }
        env.clock().sleep(interval).await;
    }
}
