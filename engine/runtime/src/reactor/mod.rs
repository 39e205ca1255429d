//! One shard's ring: file I/O and socket readiness through io_uring, driven by one task of the glommio executor.
//!
//! ```text
//!   tasks ── push entry ──► submission queue ─┐
//!     ▲                                       │ one io_uring_enter per turn submits all of them
//!     │ wake                                  ▼
//!   driver ◄── completion queue ◄────────── kernel ──(only while parked)──► eventfd ──► glommio's reactor
//! ```
//!
//! The driver is a task like any other. While there is work it alternates with the tasks it wakes: reap, let them run, submit
//! what they asked for, reap again, without a detour through glommio's reactor. When a turn finds nothing it parks: it turns
//! the completion signal on, looks once more, and awaits the eventfd through glommio. The same eventfd is the bell that other
//! shards ring ([`crate::mailbox::wake`]).
//!
//! Sockets use one multishot poll each, armed once: data that arrives costs a completion and a `recv`, no submission.
//! Buffers and descriptors of an operation belong to the reactor until the kernel is done with them, whatever happens to the
//! future that waits for it.

mod operation;
mod source;

pub(crate) use operation::{Done, Operation, Payload};
pub(crate) use source::Source;

use crate::mailbox::wake::Parker;
use crate::mailbox::{EventBell, Inputs};
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use glommio::io::BufferedFile;
use io_uring::{IoUring, cqueue, opcode, squeue};
use operation::Slots;
use std::collections::VecDeque;
use std::io;
use std::os::fd::FromRawFd;
use std::rc::Rc;
use std::sync::Arc;

/// Entries that one `io_uring_enter` may submit.
const SUBMISSIONS: u32 = 256;
/// Completions that may wait to be reaped; more stay with the kernel until there is room.
const COMPLETIONS: u32 = 4096;

/// One shard's ring and all that waits for it.
pub(crate) struct Reactor {
    ring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// Entries that found the submission queue full. Bounded by the operations in flight.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Entries pushed since the last submission.
    unsubmitted: Cell<bool>,
    parker: Arc<Parker<EventBell>>,
    inputs: RefCell<Vec<Rc<dyn Inputs>>>,
    /// The driver, while it is parked.
    driver: RefCell<Option<Waker>>,
    kicked: Cell<bool>,
}

impl Reactor {
    /// A reactor for the calling thread.
    pub(crate) fn new(parker: Arc<Parker<EventBell>>) -> io::Result<Rc<Self>> {
        let ring = build_ring()?;
        ring.submitter().register_eventfd(parker.bell().as_raw_fd())?;
        let mut reactor = Self {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            backlog: RefCell::default(),
            unsubmitted: Cell::new(false),
            parker,
            inputs: RefCell::default(),
            driver: RefCell::default(),
            kicked: Cell::new(false),
        };
        reactor.ring.get_mut().completion().disable_eventfd();
        Ok(Rc::new(reactor))
    }

    /// Looks at `inputs` in each turn from now on.
    pub(crate) fn add_inputs(&self, inputs: Rc<dyn Inputs>) {
        self.inputs.borrow_mut().push(inputs);
    }

    /// Makes the driver take a turn after the tasks that are ready now.
    pub(crate) fn kick(&self) {
        if !self.kicked.replace(true)
            && let Some(driver) = self.driver.take()
        {
            driver.wake();
        }
    }

    /// Hands an entry to the kernel at the end of this turn. What it points to must live in its slot.
    fn push(&self, entry: squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        let mut backlog = self.backlog.borrow_mut();
        // SAFETY: every entry points only to memory and descriptors that its slot keeps until its completion.
        if !backlog.is_empty() || unsafe { ring.submission().push(&entry) }.is_err() {
            backlog.push_back(entry);
        }
        self.unsubmitted.set(true);
        drop((ring, backlog));
        self.kick();
    }

    /// Submits, reaps, and wakes whoever has something to do. Says whether anything happened.
    fn turn(&self) -> bool {
        let mut busy = self.submit();
        busy |= self.reap();
        for inputs in self.inputs.borrow().iter() {
            busy |= inputs.look();
        }
        busy
    }

    fn submit(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let mut busy = false;
        loop {
            let refilled = self.refill(&mut ring);
            let pending_work = {
                let submission = ring.submission();
                submission.taskrun() || submission.cq_overflow()
            };
            if !self.unsubmitted.get() && !pending_work {
                return busy;
            }
            busy = true;
            let entered = enter(&ring);
            match entered {
                Ok(()) => self.unsubmitted.set(!ring.submission().is_empty()),
                // The kernel wants completions reaped first.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)
                    ) =>
                {
                    return true;
                }
                Err(error) => panic!("io_uring_enter failed on a ring that has worked: {error}"),
            }
            if !refilled && self.backlog.borrow().is_empty() {
                return busy;
            }
        }
    }

    /// Moves entries from the backlog into the submission queue, and says whether some had to wait.
    fn refill(&self, ring: &mut IoUring) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        let mut submission = ring.submission();
        while let Some(entry) = backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { submission.push(entry) }.is_err() {
                return true;
            }
            backlog.pop_front();
            self.unsubmitted.set(true);
        }
        false
    }

    fn reap(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        let mut rearm = Vec::new();
        let mut busy = false;
        for completion in ring.completion() {
            busy = true;
            let more = cqueue::more(completion.flags());
            if let Some(source) = slots.complete(completion.user_data(), completion.result(), more) {
                rearm.push(source);
            }
        }
        drop((ring, slots));
        for source in rearm {
            base::sometimes!("reactor: a poll ended and was armed again");
            self.watch(&source);
        }
        busy
    }

    /// Polls `source` for both directions until [`Self::forget`].
    pub(crate) fn watch(&self, source: &Rc<Source>) {
        let token = self.slots.borrow_mut().insert_source(source);
        self.push(source::poll_entry(source.raw_fd()).user_data(token));
    }

    /// Stops polling `source`; the descriptor closes when the kernel has let go of it.
    pub(crate) fn forget(&self, source: &Source) {
        source.closing();
        let token = self.slots.borrow().token_of(source);
        if let Some(token) = token {
            // Not `PollRemove`: that one gives up (`EALREADY`) when an event of the poll is just being delivered.
            let cancel = opcode::AsyncCancel::new(token).build();
            self.push(cancel.user_data(operation::IGNORED));
        }
    }

    /// Starts an operation. `entry` may point into `payload`'s heap memory, which does not move until it is done.
    pub(crate) fn start(self: &Rc<Self>, entry: squeue::Entry, payload: Payload) -> Operation {
        let token = self.slots.borrow_mut().insert(payload);
        self.push(entry.user_data(token));
        Operation::new(self.clone(), token)
    }

    fn poll_operation(&self, token: u64, context: &Context<'_>) -> Poll<Done> {
        self.slots.borrow_mut().poll(token, context)
    }

    fn abandon(&self, token: u64) {
        self.slots.borrow_mut().abandon(token);
    }

    /// Completes when the kernel holds no file operation of this shard any more.
    pub(crate) async fn quiesce(&self) {
        while self.slots.borrow().operations() > 0 {
            self.kick();
            yield_once().await;
        }
    }

    /// The driver: runs for as long as the shard does.
    pub(crate) async fn drive(self: Rc<Self>) {
        // SAFETY: a duplicate of the bell, owned by this file alone.
        let bell = unsafe { BufferedFile::from_raw_fd(libc::dup(self.parker.bell().as_raw_fd())) };
        let mut rung = pin!(None);
        loop {
            while self.turn() {
                yield_once().await;
            }
            self.parker.park();
            self.ring.borrow_mut().completion().enable_eventfd();
            // The kernel publishes first and looks at the flag second; we do the opposite.
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
            if self.has_input() {
                base::sometimes!("reactor: something came between the last look and the park");
            } else {
                if rung.is_none() {
                    rung.set(Some(bell.read_at(0, 8)));
                }
                let bell_rang =
                    poll_fn(|context| self.poll_parked(rung.as_mut().as_pin_mut(), context)).await;
                if bell_rang {
                    rung.set(None);
                }
            }
            self.ring.borrow_mut().completion().disable_eventfd();
            self.parker.awake();
            self.kicked.set(false);
        }
    }

    /// Whether a completion or another shard's message is there. Also gives the inputs their last look before the park.
    fn has_input(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let waiting = !ring.completion().is_empty() || ring.submission().taskrun() || self.unsubmitted.get();
        drop(ring);
        let mut woke = false;
        for inputs in self.inputs.borrow().iter() {
            woke |= inputs.look();
        }
        waiting || woke
    }

    /// Ready when the bell rang (true) or a task of this shard kicked (false).
    fn poll_parked<F: Future>(&self, rung: Option<Pin<&mut F>>, context: &mut Context<'_>) -> Poll<bool> {
        if self.kicked.get() {
            return Poll::Ready(false);
        }
        if rung.is_some_and(|rung| rung.poll(context).is_ready()) {
            return Poll::Ready(true);
        }
        self.driver.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}

/// Submits what is queued and runs the kernel's deferred work, without waiting.
fn enter(ring: &IoUring) -> io::Result<()> {
    const GETEVENTS: u32 = 1;
    let submitter = ring.submitter();
    // SAFETY: the queue is not borrowed elsewhere while its length is read.
    let queued = unsafe { ring.submission_shared() }.len();
    let queued = u32::try_from(queued).expect("the queue has fewer than 2^32 entries");
    // SAFETY: no argument is passed; see `Reactor::push` for what the entries point to.
    unsafe { submitter.enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) }.map(drop)
}

fn build_ring() -> io::Result<IoUring> {
    // Completions are worked off when we ask, on our thread, instead of interrupting it (Linux 6.1).
    let deferred = IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMISSIONS)
        }
        other => other,
    }
}

/// Lets the other ready tasks of the queue run once.
pub(crate) fn yield_once() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}
