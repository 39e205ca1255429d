//! Tasks and the order in which they run.
//!
//! ```text
//!   wake ─► woken (any order of wakers) ─► ready ─► picked: the oldest, or drawn ─► polled
//! ```
//!
//! A task that yields waits until all that was ready at that moment has been picked once. Ready tasks carry an epoch, a
//! yield ends the current one, and the yielder goes on when the epoch it ended has emptied: exact under any order.

use crate::config::Schedule;
use crate::net::state::EndId;
use crate::timeline::Key;
use crate::world::Process;
use base::Prng;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

pub(crate) type Future = Pin<Box<dyn core::future::Future<Output = ()>>>;

/// The slot of the future that `block_on` polls itself.
pub(crate) const MAIN: u32 = u32::MAX;

/// Where wakers and sockets, which are `Send` and may be dropped anywhere, leave word for the world.
#[derive(Debug, Default)]
pub(crate) struct Postbox(Mutex<Post>);

#[derive(Debug, Default)]
pub(crate) struct Post {
    pub(crate) woken: Vec<Key>,
    /// Connection ends that nobody has taken up.
    pub(crate) dropped_sockets: Vec<EndId>,
}

impl Postbox {
    /// Runs `with` on what is there. A panic elsewhere does not matter: the lists are whole at any moment.
    pub(crate) fn with<R>(&self, with: impl FnOnce(&mut Post) -> R) -> R {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Wakes one task, once until it is polled.
#[derive(Debug)]
pub(crate) struct TaskWaker {
    key: Key,
    is_queued: AtomicBool,
    postbox: Arc<Postbox>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::Relaxed) {
            self.postbox.with(|post| post.woken.push(self.key));
        }
    }
}

struct Task {
    process: Process,
    /// Out while it is polled.
    future: Option<Future>,
    task_waker: Arc<TaskWaker>,
    waker: Waker,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<Task>,
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    key: Key,
    epoch: u64,
}

/// What to poll next.
pub(crate) enum Picked {
    Task {
        key: Key,
        process: Process,
        future: Future,
        waker: Waker,
    },
    Main,
}

/// All tasks of all machines.
pub(crate) struct Executor {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: VecDeque<Ready>,
    /// How many are ready of each epoch from `epoch_first` to now.
    epochs: VecDeque<u32>,
    epoch_first: u64,
    yielded: VecDeque<(u64, Waker)>,
    order: Option<Prng>,
    postbox: Arc<Postbox>,
    main_generation: u32,
}

impl Executor {
    pub(crate) fn new(schedule: Schedule, prng: Prng, postbox: Arc<Postbox>) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            epochs: VecDeque::from([0]),
            epoch_first: 0,
            yielded: VecDeque::new(),
            order: match schedule {
                Schedule::Fifo => None,
                Schedule::Random => Some(prng),
            },
            postbox,
            main_generation: 0,
        }
    }

    /// Adds a task, ready.
    pub(crate) fn spawn(&mut self, process: Process, future: Future) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer tasks than memory")
        });
        let key = Key {
            slot,
            generation: self.slots[slot as usize].generation,
        };
        let task_waker = self.new_waker(key);
        let waker = Waker::from(task_waker.clone());
        self.slots[slot as usize].task = Some(Task {
            process,
            future: Some(future),
            task_waker,
            waker,
        });
        self.make_ready(key);
    }

    /// A waker that is already queued: who makes it also makes it ready.
    fn new_waker(&self, key: Key) -> Arc<TaskWaker> {
        Arc::new(TaskWaker {
            key,
            is_queued: AtomicBool::new(true),
            postbox: self.postbox.clone(),
        })
    }

    /// A fresh identity for the future of a `block_on`, ready.
    pub(crate) fn begin_main(&mut self) -> Arc<TaskWaker> {
        self.main_generation = self.main_generation.wrapping_add(1);
        let key = Key {
            slot: MAIN,
            generation: self.main_generation,
        };
        self.make_ready(key);
        self.new_waker(key)
    }

    pub(crate) fn make_ready(&mut self, key: Key) {
        *self.epochs.back_mut().expect("there is always an epoch") += 1;
        self.ready.push_back(Ready {
            key,
            epoch: self.epoch_now(),
        });
    }

    fn epoch_now(&self) -> u64 {
        self.epoch_first + self.epochs.len() as u64 - 1
    }

    /// Takes in what was woken.
    pub(crate) fn take_woken(&mut self, woken: &mut Vec<Key>) {
        for key in woken.drain(..) {
            self.make_ready(key);
        }
    }

    /// Ends the current epoch and returns it.
    pub(crate) fn end_epoch(&mut self) -> u64 {
        let epoch = self.epoch_now();
        self.epochs.push_back(0);
        epoch
    }

    /// Whether everything that was ready in `epoch` or before has been picked.
    pub(crate) fn is_epoch_over(&mut self, epoch: u64) -> bool {
        self.retire_epochs();
        epoch < self.epoch_first
    }

    /// Wakes when that epoch is over.
    pub(crate) fn wake_after(&mut self, epoch: u64, waker: &Waker) {
        self.yielded.push_back((epoch, waker.clone()));
    }

    fn retire_epochs(&mut self) {
        while self.epochs.len() > 1 && self.epochs[0] == 0 {
            self.epochs.pop_front();
            self.epoch_first += 1;
        }
    }

    /// Wakes who yielded and may go on.
    pub(crate) fn wake_yielded(&mut self) {
        self.retire_epochs();
        while let Some((_, waker)) = self.yielded.pop_front_if(|(epoch, _)| *epoch < self.epoch_first) {
            waker.wake();
        }
    }

    /// Takes the next ready task out. Tasks that ended or were killed since they were woken are passed over.
    pub(crate) fn pick(&mut self) -> Option<Picked> {
        loop {
            let index = match &mut self.order {
                Some(prng) if self.ready.len() > 1 => prng.index(self.ready.len()),
                Some(_) | None => 0,
            };
            let ready = if self.order.is_some() {
                self.ready.swap_remove_back(index)
            } else {
                self.ready.pop_front()
            };
            let Ready { key, epoch } = ready?;
            let of_epoch = usize::try_from(epoch - self.epoch_first).expect("epochs in memory");
            self.epochs[of_epoch] -= 1;
            if key.slot == MAIN {
                if key.generation == self.main_generation {
                    return Some(Picked::Main);
                }
                continue;
            }
            let slot = &mut self.slots[key.slot as usize];
            if slot.generation != key.generation {
                continue;
            }
            if let Some(task) = &mut slot.task {
                let future = task.future.take().expect("a task is polled once at a time");
                task.task_waker.is_queued.store(false, Ordering::Relaxed);
                return Some(Picked::Task {
                    key,
                    process: task.process,
                    future,
                    waker: task.waker.clone(),
                });
            }
        }
    }

    /// Puts a task back that a pause keeps from being polled, without being ready.
    pub(crate) fn hold(&mut self, key: Key, future: Future) {
        if let Some(task) = &mut self.slots[key.slot as usize].task {
            task.task_waker.is_queued.store(true, Ordering::Relaxed);
            task.future = Some(future);
        }
    }

    /// Puts a task back that has been polled and waits.
    pub(crate) fn put_back(&mut self, key: Key, future: Future) {
        if let Some(task) = &mut self.slots[key.slot as usize].task {
            task.future = Some(future);
        }
    }

    /// Forgets a task that has ended.
    pub(crate) fn end(&mut self, key: Key) {
        let slot = &mut self.slots[key.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.task = None;
        self.free.push(key.slot);
    }

    /// Takes out all tasks for which `is_doomed` holds, for the caller to drop.
    pub(crate) fn kill(&mut self, is_doomed: impl Fn(Process) -> bool) -> Vec<Future> {
        let mut killed = Vec::new();
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.task.as_ref().is_some_and(|task| is_doomed(task.process)) {
                killed.extend(slot.task.take().and_then(|task| task.future));
                slot.generation = slot.generation.wrapping_add(1);
                self.free
                    .push(u32::try_from(index).expect("slots are numbered in 32 bits"));
            }
        }
        killed
    }

    pub(crate) fn tasks(&self) -> usize {
        self.slots.iter().filter(|slot| slot.task.is_some()).count()
    }
}

impl TaskWaker {
    /// The main future is about to be polled.
    pub(crate) fn picked(&self) {
        self.is_queued.store(false, Ordering::Relaxed);
    }
}
