//! Starting the shards of a process.

use crate::blocking::Blocking;
use crate::config::{RuntimeConfig, RuntimeError};
use crate::disk::DiskFs;
use crate::env_glommio::GlommioEnv;
use crate::faults::Faults;
use crate::mailbox::wake::Parker;
use crate::mailbox::{EventBell, RingMailbox, Seat, mesh};
use crate::net::TcpNet;
use crate::reactor::Reactor;
use crate::stall::{Heartbeat, Watcher};
use crate::tasks::TaskQueues;
use crate::{preflight, shutdown};
use core::fmt::Display;
use core::future::Future;
use core::time::Duration;
use env::{TaskClass, Tasks};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

/// I/O memory that each glommio executor registers. Our buffers are not from it: the least it accepts.
const GLOMMIO_IO_BYTES: usize = 64 << 10;
/// Depth of glommio's own rings, which carry the bell and the timers only.
const GLOMMIO_RING_DEPTH: usize = 16;
/// glommio's preemption timer: never, for the reason that `reactor` gives. Tasks yield their queue by themselves.
const PREEMPT: Duration = Duration::from_hours(24);

/// Runs the shards of this process and returns when all have ended.
///
/// Starts one executor per shard, each on a thread and, when pinned, a processor of its own, and calls `make` there with
/// the shard's env and its end of the mailboxes. `make`'s future is the shard; when it ends, tasks it has spawned are dropped.
/// A shard that fails asks the others to end ([`crate::shutdown_requested`]).
///
/// Call [`crate::preflight`] first and keep its report: it explains what this function can only fail with.
///
/// # Errors
/// The first failure, in shard order; the other shards have ended too.
///
/// # Panics
/// Never for a checked configuration.
pub fn run_shards<M, F, Fut, Failure>(config: &RuntimeConfig, make: F) -> Result<(), RuntimeError>
where
    M: Send + 'static,
    F: Fn(GlommioEnv, RingMailbox<M>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<(), Failure>> + 'static,
    Failure: Display + 'static,
{
    config.check()?;
    // glommio panics where this says what is wrong.
    preflight::probe_io_uring().map_err(|error| RuntimeError::Start {
        shard: 0,
        reason: error.to_string(),
    })?;
    let failed_start = |error: std::io::Error| RuntimeError::Start {
        shard: 0,
        reason: error.to_string(),
    };
    let parkers = (0..config.shards)
        .map(|_| EventBell::new().map(|bell| Arc::new(Parker::new(bell))))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(failed_start)?;
    shutdown::take_signals();
    shutdown::begin(&parkers);
    let heartbeats: Vec<_> = (0..config.shards)
        .map(|shard| Heartbeat::new(shard, config.stall_max))
        .collect();
    let _watcher = Watcher::start(heartbeats.clone(), config.stall_max).map_err(failed_start)?;
    let processors = processors(config);

    let mut threads = Vec::new();
    for (at, seat) in mesh::<M>(&parkers, config.mailbox_messages)
        .into_iter()
        .enumerate()
    {
        let shard = Shard {
            index: u16::try_from(at).expect("the configuration bounds the shards"),
            config: config.clone(),
            processor: processors.get(at).copied(),
            parker: parkers[at].clone(),
            heartbeat: heartbeats[at].clone(),
        };
        let make = make.clone();
        let thread = std::thread::Builder::new().name(format!("shard-{at}"));
        threads.push(thread.spawn(move || {
            let guard = StopOthers;
            let outcome = shard.run(seat, make);
            if outcome.is_ok() {
                core::mem::forget(guard);
            }
            outcome
        }));
    }
    join(threads)
}

/// Asks all shards to end when one fails or panics.
struct StopOthers;

impl Drop for StopOthers {
    fn drop(&mut self) {
        shutdown::request_shutdown();
    }
}

type Thread = std::io::Result<JoinHandle<Result<(), RuntimeError>>>;

fn join(threads: Vec<Thread>) -> Result<(), RuntimeError> {
    if threads.iter().any(Result::is_err) {
        shutdown::request_shutdown();
    }
    let mut outcome = Ok(());
    for (shard, thread) in (0..).zip(threads) {
        let ended = match thread.map(JoinHandle::join) {
            Ok(Ok(ended)) => ended,
            Ok(Err(_panic)) => Err(RuntimeError::Panicked { shard }),
            Err(error) => Err(RuntimeError::Start {
                shard,
                reason: error.to_string(),
            }),
        };
        outcome = outcome.and(ended);
    }
    outcome
}

/// A processor for each shard, or none at all when there are too few.
fn processors(config: &RuntimeConfig) -> Vec<usize> {
    // SAFETY: a zeroed set is valid, and the pointer and length describe it.
    let allowed: Vec<usize> = unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE.unsigned_abs() as usize)
            .filter(|cpu| libc::CPU_ISSET(*cpu, &set))
            .collect()
    };
    if config.pin && allowed.len() >= usize::from(config.shards) {
        allowed
    } else {
        Vec::new()
    }
}

/// All that a shard's thread starts with.
struct Shard {
    index: u16,
    config: RuntimeConfig,
    processor: Option<usize>,
    parker: Arc<Parker<EventBell>>,
    heartbeat: Arc<Heartbeat>,
}

impl Shard {
    fn run<M, F, Fut, Failure>(self, seat: Seat<M>, make: F) -> Result<(), RuntimeError>
    where
        M: Send + 'static,
        F: Fn(GlommioEnv, RingMailbox<M>) -> Fut + 'static,
        Fut: Future<Output = Result<(), Failure>> + 'static,
        Failure: Display + 'static,
    {
        let executor = self.executor()?;
        let index = self.index;
        self.heartbeat.attach();
        let heartbeat = self.heartbeat.clone();
        let outcome = executor.run(async move {
            let spin = if self.config.dedicated {
                self.config.spin
            } else {
                Duration::ZERO
            };
            let reactor = Reactor::new(self.parker.clone(), spin).map_err(|error| error.to_string())?;
            let tasks = TaskQueues::new(self.heartbeat.clone(), reactor.clone());
            let mailbox = RingMailbox::new(seat);
            reactor.add_inputs(mailbox.inputs());
            reactor.add_inputs(shutdown::inputs());
            let driver = tasks.drive();
            let blocking = Blocking::start(index, self.parker.clone()).map_err(|error| error.to_string())?;
            reactor.add_inputs(blocking.clone());
            let faults = self.config.faults.then(Rc::<Faults>::default);
            if let Some(faults) = &faults {
                let dir = self.config.data_dir.as_path().into();
                let run = faults.clone().run(blocking.clone(), reactor.clone(), dir);
                tasks.spawn(TaskClass::Foreground, run);
            }
            let disk = DiskFs::new(reactor.clone(), blocking, &self.config.data_dir, faults);
            let env = GlommioEnv::new(reactor.clone(), disk, TcpNet::new(reactor.clone()), tasks.clone());
            let ending = reactor.clone();
            let outcome = tasks
                .run(async move {
                    let outcome = make(env, mailbox).await.map_err(|error| error.to_string());
                    ending.end();
                    outcome
                })
                .await;
            tasks.stop();
            reactor.quiesce().await;
            reactor.stop();
            driver.await;
            outcome
        });
        heartbeat.detach();
        outcome.map_err(|reason| RuntimeError::Shard { shard: index, reason })
    }

    fn executor(&self) -> Result<LocalExecutor, RuntimeError> {
        let placement = self.processor.map_or(Placement::Unbound, Placement::Fixed);
        let builder = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{}", self.index))
            .io_memory(GLOMMIO_IO_BYTES)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .preempt_timer(PREEMPT)
            // Never beside the shard on its processor if there is another one.
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
        builder.make().map_err(|error| RuntimeError::Start {
            shard: self.index,
            reason: error.to_string(),
        })
    }
}
