//! SIGINT and SIGTERM as a future that every shard can await.
//!
//! The first signal asks for an orderly end; a second one ends the process at once. The handler only writes a byte into a
//! pipe; a thread of its own reads it, sets a flag and unparks the shards.

use crate::mailbox::wake::Parker;
use crate::mailbox::{EventBell, Inputs};
use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use core::task::{Poll, Waker};
use std::io::Read;
use std::os::fd::IntoRawFd;
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

/// Where the signal handler writes; the other end is read by the thread that takes the signals.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: i32) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: one readable byte, and `write` may be called in a handler; it leaves `errno` as it was found.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(SIGNALLED.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// From now on SIGINT and SIGTERM ask the shards to end. A failure is said and otherwise harmless: the signals then end the
/// process as they always do.
pub(crate) fn take_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let started = std::io::pipe().and_then(|(reader, writer)| {
            SIGNALLED.store(writer.into_raw_fd(), Ordering::Relaxed);
            std::thread::Builder::new()
                .name("signals".into())
                .spawn(move || forward(reader))
        });
        if let Err(error) = started {
            eprintln!("warning: signals will not end the process in order: {error}");
            return;
        }
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: a zeroed `sigaction` is valid; the handler does only what a handler may. `SA_RESTART` keeps the
            // signal from showing in anybody's system calls.
            unsafe {
                let mut action: libc::sigaction = core::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, core::ptr::null_mut());
            }
        }
    });
}

fn forward(mut reader: impl Read) {
    let mut signal = [0];
    while reader.read_exact(&mut signal).is_ok() {
        if REQUESTED.load(Ordering::Acquire) {
            std::process::exit(128 + i32::from(signal[0]));
        }
        request_shutdown();
    }
}
