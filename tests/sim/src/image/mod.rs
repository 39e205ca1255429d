//! One machine that starts on a disk image, for tests that open tens of thousands of them in a second.
//!
//! [`ImageEnv`] is an `env::Env` with one shard, no network and no delay: a write or sync takes one turn of the small
//! executor in [`ImageMachine::block_on`], so several may be in flight, and everything else is immediate. It draws nothing,
//! so equal images give equal runs.
//!
//! Fault model: none but the [`DiskRule`]s a test sets. What it records ([`ImageMachine::record`]) gives the crash points
//! of a recovery itself, the second crash.
//!
//! ```
//! use corelane_sim::{DiskImage, ImageMachine};
//! use env::{Disk, Env, File, OpenMode};
//!
//! let machine = ImageMachine::new(&DiskImage::new());
//! let env = machine.env();
//! machine.record();
//! machine.block_on(async {
//!     let file = env.disk().create("a", OpenMode::WriteDurable).await?;
//!     file.write_at(0, env.disk().alloc(4096)).await.0
//! })?;
//! // Eight sectors may be cut in many ways, and the new name may be lost.
//! let images: usize = machine.trace().boundaries().map(|boundary| boundary.images().count()).sum();
//! assert!(images > 30);
//! # Ok::<(), env::DiskError>(())
//! ```

mod disk;
mod rest;

pub use disk::{ImageDisk, ImageFile};
pub use rest::{ImageClock, ImageNet, ImageTasks, Never};

use crate::disk::rule::DiskRule;
use crate::disk::store::Store;
use crate::disk::{Boundary, DiskImage, DiskTrace};
use base::Prng;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use env::Env;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::Wake;

/// A machine with one shard on a disk image. Dropping it ends its tasks.
#[derive(Debug)]
pub struct ImageMachine {
    env: ImageEnv,
}

/// The shard's world on an [`ImageMachine`].
#[derive(Debug, Clone)]
pub struct ImageEnv {
    clock: ImageClock,
    disk: ImageDisk,
    net: ImageNet,
    tasks: ImageTasks,
    prng: std::rc::Rc<RefCell<Prng>>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ImageMachine {
    /// Starts on a disk that holds `image`.
    #[must_use]
    pub fn new(image: &DiskImage) -> Self {
        Self::on(Store::open(image))
    }

    /// Starts on the disk of a machine whose process was killed at a moment of a recording. The machine went on: everything
    /// is seen, writes that were in flight too, but a crash may still undo what was not durable.
    #[must_use]
    pub fn after_kill(boundary: &Boundary) -> Self {
        let mut store = boundary.store.clone();
        store.process_ended();
        Self::on(store)
    }

    /// As [`ImageMachine::after_kill`], of this machine now. Drop this one: its process has ended.
    #[must_use]
    pub fn killed(&self) -> Self {
        let mut store = self.env.disk.store();
        store.process_ended();
        Self::on(store)
    }

    fn on(store: Store) -> Self {
        let env = ImageEnv {
            clock: ImageClock::default(),
            disk: ImageDisk::new(store),
            net: ImageNet,
            tasks: ImageTasks::default(),
            prng: std::rc::Rc::new(RefCell::new(Prng::new(0))),
        };
        Self { env }
    }

    /// The world of its shard.
    #[must_use]
    pub fn env(&self) -> ImageEnv {
        self.env.clone()
    }

    /// Places a fault.
    pub fn rule(&self, rule: DiskRule) {
        self.env.disk.rule(rule);
    }

    /// Starts recording what happens to the disk; what was recorded before is forgotten.
    pub fn record(&self) {
        self.env.disk.record();
    }

    /// Says something about this moment of the recording: the crash points from here on carry `mark`.
    pub fn mark(&self, mark: u64) {
        self.env.disk.mark(mark);
    }

    /// What was recorded so far.
    ///
    /// # Panics
    /// When [`ImageMachine::record`] was not called.
    #[must_use]
    pub fn trace(&self) -> DiskTrace {
        self.env.disk.trace()
    }

    /// The disk after a crash that undoes everything it may.
    #[must_use]
    pub fn image_least(&self) -> DiskImage {
        self.env.disk.image_least()
    }

    /// The disk as programs see it now.
    #[must_use]
    pub fn image(&self) -> DiskImage {
        self.env.disk.image()
    }

    /// Runs `future` and the tasks that it spawns until it completes; tasks that are left stay for the next call. Time jumps
    /// to the next sleeper when all wait.
    ///
    /// # Panics
    /// When everything waits and nobody sleeps.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            while woken.0.swap(false, Ordering::Relaxed) {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return output;
                }
                self.env.tasks.poll(&mut context);
            }
            assert!(
                self.env.clock.advance(),
                "everything waits and nobody sleeps: the future never completes"
            );
            woken.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for ImageMachine {
    fn drop(&mut self) {
        // Tasks hold their environment, which holds the tasks.
        self.env.tasks.clear();
    }
}

impl Env for ImageEnv {
    type Clock = ImageClock;
    type Disk = ImageDisk;
    type Net = ImageNet;
    type Tasks = ImageTasks;

    fn clock(&self) -> &ImageClock {
        &self.clock
    }

    fn disk(&self) -> &ImageDisk {
        &self.disk
    }

    fn net(&self) -> &ImageNet {
        &self.net
    }

    fn tasks(&self) -> &ImageTasks {
        &self.tasks
    }

    fn prng(&self) -> Prng {
        self.prng.borrow_mut().fork()
    }
}
