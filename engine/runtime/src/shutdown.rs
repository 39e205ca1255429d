//! SIGINT and SIGTERM as a future that every shard can await.
//!
//! The first signal asks for an orderly end; a second one ends the process at once. Both signals are blocked in every
//! thread and taken by one, so no handler runs anywhere; that thread sets a flag and unparks the shards.

use crate::mailbox::wake::Parker;
use crate::mailbox::{EventBell, Inputs};
use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Poll, Waker};
use std::rc::Rc;
use std::sync::{Arc, Mutex, Once, PoisonError};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static PARKERS: Mutex<Vec<Arc<Parker<EventBell>>>> = Mutex::new(Vec::new());

thread_local! {
    static WAITING: Rc<Waiting> = Rc::default();
}

/// The tasks of one shard that wait for the end.
#[derive(Default)]
struct Waiting(RefCell<Vec<Waker>>);

impl Inputs for Waiting {
    fn look(&self) -> bool {
        if !REQUESTED.load(Ordering::Acquire) || self.0.borrow().is_empty() {
            return false;
        }
        self.0.take().into_iter().for_each(Waker::wake);
        true
    }
}

/// What the reactor of this thread looks at.
pub(crate) fn inputs() -> Rc<dyn Inputs> {
    WAITING.with(Rc::clone)
}

/// Completes when the process was asked to end, by signal or by [`request_shutdown`]. For tasks of a shard.
///
/// # Cancellation
/// Safe.
pub fn shutdown_requested() -> impl Future<Output = ()> {
    poll_fn(|context| {
        if REQUESTED.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        WAITING.with(|waiting| {
            let mut waiting = waiting.0.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
        });
        Poll::Pending
    })
}

/// Asks the shards of this process to end. Any thread may.
pub fn request_shutdown() {
    REQUESTED.store(true, Ordering::Release);
    for parker in PARKERS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        parker.unpark();
    }
}

/// A new set of shards starts: forgets an earlier request, and remembers whom to wake.
pub(crate) fn begin(parkers: &[Arc<Parker<EventBell>>]) {
    REQUESTED.store(false, Ordering::Release);
    *PARKERS.lock().unwrap_or_else(PoisonError::into_inner) = parkers.to_vec();
}

/// Blocks SIGINT and SIGTERM for the calling thread and those it starts, and starts the thread that takes them.
pub(crate) fn take_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed set is valid input of `sigemptyset`, and the calls get pointers to it only.
        let set = unsafe {
            let mut set: libc::sigset_t = core::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut());
            set
        };
        let spawned = std::thread::Builder::new().name("signals".into()).spawn(move || {
            loop {
                let mut signal = 0;
                // SAFETY: both pointers are valid for the call.
                if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
                    return;
                }
                if REQUESTED.load(Ordering::Acquire) {
                    std::process::exit(128 + signal);
                }
                request_shutdown();
            }
        });
        if let Err(error) = spawned {
            eprintln!("warning: signals will not end the process in order: {error}");
        }
    });
}
