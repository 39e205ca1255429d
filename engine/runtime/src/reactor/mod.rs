//! One shard's ring: file I/O and socket readiness through io_uring, driven by one task of the glommio executor.
//!
//! ```text
//!   tasks ── push entry ──► submission queue ─┐
//!     ▲                                       │ one io_uring_enter per turn submits all of them
//!     │ wake                                  ▼
//!   driver ◄── completion queue ◄────────── kernel ◄── a bell (eventfd) that other threads ring while the shard is parked
//! ```
//!
//! The driver is a task like any other, and always ready. While there is work it alternates with the tasks it wakes: reap, let
//! them run, submit what they asked for, reap again. When a turn finds nothing and no task is ready ([`quiet`]), the thread
//! sleeps in the ring until a completion, the bell or the nearest timer ends that.
//!
//! So glommio's own reactor is never entered while a shard lives. That saves its memory barrier across all processors, three
//! system calls and an eventfd for each sleep, and keeps its executor from events that tell it nothing: when one arrives
//! between its reactor and its first task, 0.9.0 takes the empty round for idleness and parks with tasks ready, for ever if
//! nothing else comes. (Found here with its preemption timer at 1 ms on a busy machine: one start in fifteen hung. The timer is
//! set to a day; timers and blocking work are our own.)
//!
//! Sockets use one multishot poll each, armed once: data that arrives costs a completion and a `recv`, no submission.
//! Buffers and descriptors of an operation belong to the reactor until the kernel is done with them, whatever happens to the
//! future that waits for it.

mod operation;
mod quiet;
mod source;
mod timer;

pub(crate) use operation::{Done, Operation, Payload};
pub(crate) use quiet::Quiet;
pub(crate) use source::Source;

use crate::mailbox::wake::Parker;
use crate::mailbox::{EventBell, Inputs};
use crate::stall::{Heartbeat, now_ns};
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use operation::Slots;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use timer::Timers;

/// Entries that one `io_uring_enter` may submit.
const SUBMISSIONS: u32 = 256;
/// Completions that may wait to be reaped; more stay with the kernel until there is room.
const COMPLETIONS: u32 = 4096;

/// Turns of the driver after which glommio's scheduler chooses a task queue anew.
const TURNS_PER_SHARE: u32 = 16;

/// One shard's ring and all that waits for it.
pub(crate) struct Reactor {
    ring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// Entries that found the submission queue full. Bounded by the operations in flight.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Entries pushed since the last submission.
    unsubmitted: Cell<bool>,
    parker: Arc<Parker<EventBell>>,
    /// How long to poll before the thread sleeps.
    spin: Duration,
    inputs: RefCell<Vec<Rc<dyn Inputs>>>,
    /// The shard's main task has ended: the thread does not sleep any more.
    ending: Cell<bool>,
    /// The driver is to end.
    stopping: Cell<bool>,
    timers: RefCell<Timers>,
}

impl Reactor {
    /// A reactor for the calling thread.
    pub(crate) fn new(parker: Arc<Parker<EventBell>>, spin: Duration) -> io::Result<Rc<Self>> {
        let reactor = Self {
            ring: RefCell::new(build_ring()?),
            slots: RefCell::default(),
            backlog: RefCell::default(),
            unsubmitted: Cell::new(false),
            parker,
            spin,
            inputs: RefCell::default(),
            ending: Cell::new(false),
            stopping: Cell::new(false),
            timers: RefCell::default(),
        };
        reactor.watch_bell();
        Ok(Rc::new(reactor))
    }

    /// Completes, once for each ring of the bell, until the ring closes.
    fn watch_bell(&self) {
        let bell = source::poll_entry(self.parker.bell().as_raw_fd());
        self.push(bell.user_data(operation::BELL));
    }

    /// Looks at `inputs` in each turn from now on.
    pub(crate) fn add_inputs(&self, inputs: Rc<dyn Inputs>) {
        self.inputs.borrow_mut().push(inputs);
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
    }

    /// Submits, reaps, and wakes whoever has something to do. Says whether anything happened.
    fn turn(&self) -> bool {
        let mut busy = self.submit();
        busy |= self.reap();
        busy |= self.fire_timers();
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
            if !self.unsubmitted.get() && !kernel_has_work(&mut ring) {
                return busy;
            }
            // The kernel's word alone is not work: it may be stale, and then it stays. `reap` sees what came of it.
            busy |= self.unsubmitted.get();
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
        let (mut busy, mut silent) = (false, false);
        for completion in ring.completion() {
            busy = true;
            let more = cqueue::more(completion.flags());
            if completion.user_data() == operation::BELL {
                silent |= !more;
                continue;
            }
            if let Some(source) = slots.complete(completion.user_data(), completion.result(), more) {
                rearm.push(source);
            }
        }
        drop((ring, slots));
        if silent {
            self.watch_bell();
        }
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
            // The driver lives in another task queue: a task that only yields within its own would keep it from running.
            glommio::executor().yield_task_queue_now().await;
        }
    }

    /// Completes at `deadline_ns` of the monotonic clock.
    pub(crate) async fn sleep_until(&self, deadline_ns: u64) {
        let sleeper = Sleeper {
            timers: &self.timers,
            deadline_ns,
            id: self.timers.borrow_mut().enter(),
        };
        poll_fn(|context| {
            if now_ns() >= deadline_ns {
                return Poll::Ready(());
            }
            self.timers
                .borrow_mut()
                .set(deadline_ns, sleeper.id, context.waker());
            Poll::Pending
        })
        .await;
    }

    fn fire_timers(&self) -> bool {
        if self
            .timers
            .borrow()
            .nearest_ns()
            .is_none_or(|nearest_ns| nearest_ns > now_ns())
        {
            return false;
        }
        let due = self.timers.borrow_mut().take_due(now_ns());
        due.into_iter().for_each(Waker::wake);
        true
    }

    /// The shard's main task has ended: what is left is to let the kernel finish.
    pub(crate) fn end(&self) {
        self.ending.set(true);
    }

    /// Lets the driver end. (Cancelling its task instead does not always wake who waits for the end, in glommio 0.9.0.)
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
    }

    /// The driver: runs until [`Self::stop`].
    pub(crate) async fn drive(self: Rc<Self>, quiet: Rc<Quiet>, heartbeat: Arc<Heartbeat>) {
        loop {
            let mut turns = 0_u32;
            while self.turn() {
                turns += 1;
                // Now and then the other task queue gets its share, although this one is not empty.
                if turns.is_multiple_of(TURNS_PER_SHARE) {
                    glommio::executor().yield_task_queue_now().await;
                } else {
                    yield_once().await;
                }
            }
            if self.stopping.get() {
                return;
            }
            if quiet.no_task_is_ready().await && !self.ending.get() {
                heartbeat.leave();
                if !self.spin_for_input() {
                    self.sleep();
                }
                heartbeat.enter();
            }
        }
    }

    /// Polls for a while, and says whether something came.
    fn spin_for_input(&self) -> bool {
        if self.spin.is_zero() {
            return false;
        }
        let end_ns = now_ns().saturating_add(u64::try_from(self.spin.as_nanos()).unwrap_or(u64::MAX));
        while now_ns() < end_ns {
            if kernel_has_work(&mut self.ring.borrow_mut()) {
                self.submit();
            }
            if self.has_input() {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }

    /// Sleeps until there is something to do. No wake-up is lost: see [`crate::mailbox::wake`].
    fn sleep(&self) {
        self.parker.park();
        if self.has_input() {
            base::sometimes!("reactor: something came between the last look and the park");
        } else {
            let nearest_ns = self.timers.borrow().nearest_ns();
            let wait_ns = nearest_ns.map(|nearest_ns| nearest_ns.saturating_sub(now_ns()));
            if wait_ns != Some(0) {
                self.wait(wait_ns);
            }
        }
        self.parker.awake();
    }

    /// Waits in the ring for a completion. Coming back without one, for whatever reason, does no harm.
    fn wait(&self, wait_ns: Option<u64>) {
        let ring = self.ring.borrow();
        let timespec = wait_ns.map(|ns| {
            let nanoseconds = u32::try_from(ns % 1_000_000_000).expect("below 10^9");
            types::Timespec::new().sec(ns / 1_000_000_000).nsec(nanoseconds)
        });
        let mut arguments = types::SubmitArgs::new();
        if let Some(timespec) = &timespec {
            arguments = arguments.timespec(timespec);
        }
        let waited = ring.submitter().submit_with_args(1, &arguments);
        if let Err(error) = waited {
            let harmless = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
            assert!(
                error.raw_os_error().is_some_and(|code| harmless.contains(&code)),
                "io_uring_enter failed on a ring that has worked: {error}"
            );
        }
    }

    /// Whether a completion, another thread's message or a timer is there. Also gives the inputs their last look before the
    /// park.
    fn has_input(&self) -> bool {
        let waiting = !self.ring.borrow_mut().completion().is_empty() || self.unsubmitted.get();
        let mut woke = self.fire_timers();
        for inputs in self.inputs.borrow().iter() {
            woke |= inputs.look();
        }
        waiting || woke
    }
}

/// Forgets its timer when the sleep is dropped.
struct Sleeper<'a> {
    timers: &'a RefCell<Timers>,
    deadline_ns: u64,
    id: u64,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.timers.borrow_mut().forget(self.deadline_ns, self.id);
    }
}

/// Whether the kernel says that it has deferred work or completions to hand over, both by a call that waits for events.
///
/// It may say so with nothing to do: it queues the work first and sets the flag afterwards, and when the call comes in between,
/// the flag is set for work that is done and stays set until there is other work. So a set flag is a reason for a call,
/// never for staying awake.
fn kernel_has_work(ring: &mut IoUring) -> bool {
    let submission = ring.submission();
    #[cfg(test)]
    if tests::STALE_FLAG.get() {
        return true;
    }
    submission.taskrun() || submission.cq_overflow()
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

#[cfg(test)]
mod tests {
    use crate::{GlommioEnv, RingMailbox, RuntimeConfig, run_shards};
    use core::cell::Cell;
    use core::time::Duration;
    use env::{Clock as _, Env as _};

    thread_local! {
        /// The flag for deferred work, set and never cleared.
        pub(super) static STALE_FLAG: Cell<bool> = const { Cell::new(false) };
    }

    fn cpu_time() -> Duration {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a valid place for the result.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
        assert_eq!(failed, 0);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
    }

    /// Seen once: a shard span for ever on such a flag, and so did not hear that it was to end.
    #[test]
    fn a_flag_for_work_that_is_done_keeps_no_shard_from_sleeping_or_ending() {
        for dedicated in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let config = RuntimeConfig {
                shards: 1,
                pin: false,
                dedicated,
                ..RuntimeConfig::new(dir.path())
            };
            run_shards(&config, |env: GlommioEnv, _: RingMailbox<()>| async move {
                STALE_FLAG.set(true);
                let before = cpu_time();
                env.clock().sleep(Duration::from_millis(400)).await;
                let used = cpu_time() - before;
                assert!(used < Duration::from_millis(40), "{used:?} of 400 ms of sleep");
                Ok::<(), String>(())
            })
            .unwrap();
        }
    }
}
