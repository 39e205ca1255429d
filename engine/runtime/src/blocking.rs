//! Work that blocks, on a thread beside the shard.
//!
//! glommio has such a thread too. Its answer can arrive as an event that has nothing left to tell, and such an event, at the
//! wrong moment, puts an executor of 0.9.0 to sleep although tasks are ready (see [`crate::reactor`]).

use crate::mailbox::wake::Parker;
use crate::mailbox::{EventBell, Inputs};
use crate::reactor::yield_once;
use core::cell::RefCell;
use core::future::poll_fn;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Poll, Waker};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Jobs that may wait for the thread.
const JOBS_MAX: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

/// The blocking thread of one shard. It ends when this does.
pub(crate) struct Blocking {
    jobs: SyncSender<Job>,
    parker: Arc<Parker<EventBell>>,
    /// Jobs that have ended; the shard remembers how many of them it has seen.
    ended: Arc<AtomicUsize>,
    waiting: RefCell<Waiting>,
}

#[derive(Default)]
struct Waiting {
    seen: usize,
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Blocking {
    pub(crate) fn start(shard: u16, parker: Arc<Parker<EventBell>>) -> io::Result<Rc<Self>> {
        let (jobs, waiting) = sync_channel::<Job>(JOBS_MAX);
        let thread = std::thread::Builder::new().name(format!("blocking-{shard}"));
        thread.spawn(move || waiting.into_iter().for_each(|job| job()))?;
        Ok(Rc::new(Self {
            jobs,
            parker,
            ended: Arc::default(),
            waiting: RefCell::default(),
        }))
    }

    /// Runs `work` on the blocking thread.
    ///
    /// # Cancellation
    /// Dropping the future does not stop the work.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let result = Arc::new(Mutex::new(None));
        let (filled, ended, parker) = (result.clone(), self.ended.clone(), self.parker.clone());
        let mut job: Job = Box::new(move || {
            let value = work();
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            ended.fetch_add(1, Ordering::Release);
            parker.unpark();
        });
        while let Err(error) = self.jobs.try_send(job) {
            match error {
                TrySendError::Full(back) => job = back,
                TrySendError::Disconnected(_) => panic!("the blocking thread has ended before its shard"),
            }
            yield_once().await;
        }
        let id = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.next += 1;
            waiting.next
        };
        poll_fn(|context| {
            if let Some(value) = result.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Poll::Ready(value);
            }
            self.waiting
                .borrow_mut()
                .wakers
                .insert(id, context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Inputs for Blocking {
    fn look(&self) -> bool {
        let ended = self.ended.load(Ordering::Acquire);
        let mut waiting = self.waiting.borrow_mut();
        if waiting.seen == ended {
            return false;
        }
        waiting.seen = ended;
        // Few wait at once, and each looks for itself whether it was meant.
        let woken = core::mem::take(&mut waiting.wakers);
        let any = !woken.is_empty();
        woken.into_values().for_each(Waker::wake);
        any
    }
}
