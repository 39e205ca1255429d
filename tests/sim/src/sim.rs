//! The handle by which a test holds a run.

use crate::config::{DiskConfig, NetConfig, SimConfig};
use crate::disk::{DiskImage, DiskRule, DiskTrace};
use crate::env::SimEnv;
use crate::mailbox::SimMailbox;
use crate::net::socket::ip_of;
use crate::trace::Fault;
use crate::world::{Process, Turn, World};
use base::{ShardId, probe};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use env::{Address, Instant};
use std::collections::BTreeMap;
use std::rc::Rc;

const NEVER: &str = "everything waits and nothing is going to happen";

/// A machine of a run, numbered from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimNodeId(pub u32);

/// What a run did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run's seed.
    pub seed: u64,
    /// All events, folded. Equal for equal seeds and code.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// Virtual time, in nanoseconds.
    pub now_ns: u64,
    /// How often each fault fired.
    pub faults: BTreeMap<Fault, u64>,
    /// Probes that were reached and sites that misbehaved.
    pub probes: probe::Report,
}

/// A run: machines, their disks, clocks and network, in virtual time, on this thread, from one seed.
///
/// ```
/// use corelane_sim::{Sim, SimConfig};
/// use base::ShardId;
/// use env::{Clock, Env};
/// use std::time::Duration;
///
/// let mut sim = Sim::new(7, SimConfig::calm());
/// let node = sim.add_node(1);
/// let env = sim.env(node, ShardId(0));
/// sim.block_on(async move { env.clock().sleep(Duration::from_secs(3600)).await });
/// assert_eq!(sim.now().0, 3_600_000_000_000);
/// ```
///
/// One run at a time per thread: it owns the thread's probes.
#[derive(Debug)]
pub struct Sim {
    world: Rc<World>,
    seed: u64,
}

impl Sim {
    /// A world without machines, at time zero.
    #[must_use]
    pub fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            world: World::new(seed, config),
            seed,
        }
    }

    // ---- machines ----

    /// Adds a machine with an empty disk. Its process runs.
    ///
    /// # Panics
    /// When `shards` is zero.
    pub fn add_node(&mut self, shards: u16) -> SimNodeId {
        self.world.core.borrow_mut().add_node(shards)
    }

    fn process(&self, node: SimNodeId) -> Process {
        Process {
            node: node.0,
            life: self.world.core.borrow().nodes[node.0 as usize].life,
        }
    }

    /// The world of a shard of a node's present process.
    ///
    /// # Panics
    /// When the node has no such shard.
    #[must_use]
    pub fn env(&self, node: SimNodeId, shard: ShardId) -> SimEnv {
        let shards = self.world.core.borrow().nodes[node.0 as usize].shards;
        assert!(shard.0 < shards, "{node:?} has {shards} shards, not {shard}");
        SimEnv::new(&self.world, self.process(node), shard)
    }

    /// Fresh rings between the shards of a node's present process: one mailbox per shard, in order.
    #[must_use]
    pub fn mailboxes<M: Send + 'static>(&self, node: SimNodeId) -> Vec<SimMailbox<M>> {
        let shards = self.world.core.borrow().nodes[node.0 as usize].shards;
        SimMailbox::all(&self.world, self.process(node), shards)
    }

    /// The address of a node and port, for its peers.
    #[must_use]
    pub fn address(&self, node: SimNodeId, port: u16) -> Address {
        Self::address_of(node, port)
    }

    /// The address that a node has, also before it is added.
    #[must_use]
    pub fn address_of(node: SimNodeId, port: u16) -> Address {
        Address::new(ip_of(node.0).into(), port)
    }

    /// Runs a future as a task of a node's present process, or of none.
    ///
    /// # Panics
    /// When the node is down.
    pub fn spawn(&self, node: Option<SimNodeId>, future: impl Future<Output = ()> + 'static) {
        let process = node.map_or(Process::OUTSIDE, |node| self.process(node));
        let mut core = self.world.core.borrow_mut();
        assert!(core.is_alive(process), "{node:?} is down");
        core.executor.spawn(process, Box::pin(future));
    }

    /// A node loses power: its tasks end where they are, its connections break or fall silent, its disk keeps what its
    /// fault model says.
    ///
    /// # Panics
    /// When it is down.
    pub fn crash(&mut self, node: SimNodeId) {
        self.stop(node, false);
    }

    /// A node's process is killed and the machine runs on: as [`Sim::crash`], but the disk forgets nothing; what was not
    /// durable is not, and a later crash may undo it.
    ///
    /// # Panics
    /// When it is down.
    pub fn kill(&mut self, node: SimNodeId) {
        self.stop(node, true);
    }

    fn stop(&self, node: SimNodeId, keeps_memory: bool) {
        let killed = self.world.core.borrow_mut().stop(node, keeps_memory);
        // What tasks held runs its destructors here; the process has ended, so they do nothing.
        drop(killed);
    }

    /// A node that is down starts a new process on the same disk. Get its environments again.
    ///
    /// # Panics
    /// When it is up.
    pub fn restart(&mut self, node: SimNodeId) {
        self.world.core.borrow_mut().start(node);
    }

    /// As [`Sim::restart`], with another number of shards.
    ///
    /// # Panics
    /// When it is up, or `shards` is zero.
    pub fn restart_with(&mut self, node: SimNodeId, shards: u16) {
        assert!(shards > 0, "a node has at least one shard");
        self.world.core.borrow_mut().nodes[node.0 as usize].shards = shards;
        self.restart(node);
    }

    /// Whether a node's process runs.
    #[must_use]
    pub fn is_up(&self, node: SimNodeId) -> bool {
        self.world.core.borrow().nodes[node.0 as usize].is_up
    }

    // ---- running ----

    /// The true time since the start of the run.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(self.world.core.borrow().now)
    }

    /// Runs until this moment of true time.
    pub fn run_until(&mut self, until: Instant) {
        while self.world.turn(until.0) == Turn::Busy {}
        self.skip_to(until);
    }

    /// Nothing is left to do before this moment.
    fn skip_to(&self, until: Instant) {
        let mut core = self.world.core.borrow_mut();
        core.now = core.now.max(until.0);
    }

    /// Runs for so long.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now() + duration;
        self.run_until(until);
    }

    /// Runs until nothing is ready and nothing is going to happen, but not past `limit`. True when it got there.
    pub fn run_until_idle(&mut self, limit: Instant) -> bool {
        loop {
            match self.world.turn(limit.0) {
                Turn::Busy | Turn::Main => {}
                Turn::Limit => return false,
                Turn::Idle => return true,
            }
        }
    }

    /// Runs until `future` completes, with all other tasks.
    ///
    /// # Panics
    /// When nothing is ready and nothing is going to happen: a deadlock.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.block_on_until(Instant(u64::MAX), future)
            .unwrap_or_else(|stuck| panic!("seed {}: {stuck}", self.seed))
    }

    /// As [`Sim::block_on`], but gives up at `limit`.
    ///
    /// # Errors
    /// When the future has not completed by `limit`, or never will.
    pub fn block_on_until<F: Future>(&mut self, limit: Instant, future: F) -> Result<F::Output, Stuck> {
        let task_waker = self.world.core.borrow_mut().executor.begin_main();
        let waker = Waker::from(task_waker.clone());
        let mut future = pin!(future);
        loop {
            match self.world.turn(limit.0) {
                Turn::Busy => {}
                Turn::Main => {
                    task_waker.picked();
                    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return Ok(output);
                    }
                }
                Turn::Idle if limit == Instant(u64::MAX) => return Err(self.stuck(NEVER)),
                Turn::Idle | Turn::Limit => {
                    self.skip_to(limit);
                    return Err(self.stuck("not done in time"));
                }
            }
        }
    }

    fn stuck(&self, why: &'static str) -> Stuck {
        let core = self.world.core.borrow();
        Stuck {
            why,
            now_ns: core.now,
            tasks: core.executor.tasks(),
        }
    }

    // ---- faults by hand ----

    /// Lets nothing get from one node to another for so long. Cut the other way too for a whole cut.
    pub fn cut(&mut self, from: SimNodeId, to: SimNodeId, duration: Duration) {
        let until = (self.now() + duration).0;
        self.world.core.borrow_mut().net.cut(from.0, to.0, until);
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        let core = &mut *self.world.core.borrow_mut();
        core.net.heal(core.now, &mut core.timeline);
    }

    /// Stops a node for so long, all shards at once, without ending its process.
    pub fn pause(&mut self, node: SimNodeId, duration: Duration) {
        let for_ns = (Instant(0) + duration).0;
        self.world.core.borrow_mut().pause(node.0 as usize, for_ns);
    }

    /// Sets how far a node's wall clock is from the truth.
    pub fn clock_jump(&mut self, node: SimNodeId, offset_ns: i64) {
        let core = &mut *self.world.core.borrow_mut();
        let now = core.now;
        core.nodes[node.0 as usize].clock.jump_to(now, offset_ns);
    }

    /// The network's faults from now on.
    pub fn set_net_config(&mut self, config: NetConfig) {
        self.world.core.borrow_mut().net.config = config;
    }

    /// Ends what goes wrong on its own: cuts are healed, the network and all disks are calm (a disk keeps its capacity), no
    /// node pauses, wall clocks are right and jump no more. For the phase of a run in which it must finish.
    pub fn calm(&mut self) {
        self.heal();
        let core = &mut *self.world.core.borrow_mut();
        let calm = SimConfig::calm();
        for node in &mut core.nodes {
            let capacity_bytes = node.device.config().capacity_bytes;
            node.device.config_set(DiskConfig {
                capacity_bytes,
                ..calm.disk.clone()
            });
            node.device.rules_clear();
            node.clock.jump_to(core.now, 0);
        }
        core.net.calm(calm.net.clone());
        core.config = SimConfig {
            clock: calm.clock.clone(),
            ..calm
        };
        core.end_chaos();
    }

    // ---- disks ----

    /// A node's disk from now on.
    pub fn set_disk_config(&mut self, node: SimNodeId, config: DiskConfig) {
        self.with_device(node, |device| device.config_set(config));
    }

    /// Bytes that the files on a node's disk take.
    #[must_use]
    pub fn disk_bytes(&self, node: SimNodeId) -> u64 {
        self.with_device(node, |device| device.bytes_used())
    }

    /// Places a fault on a node's disk.
    pub fn disk_rule(&mut self, node: SimNodeId, rule: DiskRule) {
        self.with_device(node, |device| device.rule(rule));
    }

    /// Takes back all faults that were placed on a node's disk.
    pub fn disk_rules_clear(&mut self, node: SimNodeId) {
        self.with_device(node, |device| device.rules_clear());
    }

    /// What a node's disk holds, as its programs see it.
    #[must_use]
    pub fn disk_image(&self, node: SimNodeId) -> DiskImage {
        self.with_device(node, |device| device.image())
    }

    /// Replaces what a node's disk holds.
    ///
    /// # Panics
    /// When the node is up.
    pub fn set_disk_image(&mut self, node: SimNodeId, image: &DiskImage) {
        assert!(!self.is_up(node), "{node:?} is up");
        self.with_device(node, |device| device.image_set(image));
    }

    /// Every file of a node's disk by name, with its length in bytes on the medium.
    #[must_use]
    pub fn files(&self, node: SimNodeId) -> Vec<(String, u64)> {
        self.with_device(node, |device| device.files())
    }

    /// What the medium holds of a file of a node's disk; `None` when there is no such file.
    #[must_use]
    pub fn file_bytes(&self, node: SimNodeId, path: &str) -> Option<Vec<u8>> {
        self.with_device(node, |device| device.file_bytes(path))
    }

    /// Turns one bit of a file of a node's disk around, for good. Whether there is such a bit on the medium.
    pub fn flip_bit(&mut self, node: SimNodeId, path: &str, bit: u64) -> bool {
        let core = &mut *self.world.core.borrow_mut();
        core.nodes[node.0 as usize]
            .device
            .flip(path, bit, &mut core.trace)
    }

    /// Reads of a block of a file of a node's disk fail from now on, until it is written again or the file goes.
    pub fn spoil_block(&mut self, node: SimNodeId, path: &str, block: u64) {
        self.with_device(node, |device| device.spoil(path, block));
    }

    /// Starts recording what happens to a node's disk. A crash forgets the recording.
    pub fn record_disk(&mut self, node: SimNodeId) {
        self.with_device(node, |device| device.record());
    }

    /// Says something about this moment of the recording.
    pub fn mark_disk(&self, node: SimNodeId, mark: u64) {
        self.with_device(node, |device| device.mark(mark));
    }

    /// Ends the recording and hands it out, if there is one.
    pub fn disk_trace(&mut self, node: SimNodeId) -> Option<DiskTrace> {
        self.with_device(node, |device| device.recorded())
    }

    fn with_device<R>(&self, node: SimNodeId, with: impl FnOnce(&mut crate::disk::device::Device) -> R) -> R {
        with(&mut self.world.core.borrow_mut().nodes[node.0 as usize].device)
    }

    // ---- what happened ----

    /// All events so far, folded into one number.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world.core.borrow().trace.hash()
    }

    /// How often each fault has fired so far.
    #[must_use]
    pub fn fault_counts(&self) -> BTreeMap<Fault, u64> {
        self.world.core.borrow().trace.faults().clone()
    }

    /// Ends the run and says what it did.
    #[must_use]
    pub fn report(self) -> Report {
        let core = self.world.core.borrow();
        Report {
            seed: self.seed,
            hash: core.trace.hash(),
            events: core.trace.events(),
            now_ns: core.now,
            faults: core.trace.faults().clone(),
            probes: probe::finish(),
        }
    }
}

/// A future did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// Why it was given up.
    pub why: &'static str,
    /// When, in virtual time.
    pub now_ns: u64,
    /// How many tasks waited.
    pub tasks: usize,
}

impl core::fmt::Display for Stuck {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} ({} ns, {} tasks wait)", self.why, self.now_ns, self.tasks)
    }
}

impl std::error::Error for Stuck {}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (now, hash) = self
                .world
                .core
                .try_borrow()
                .map_or((0, 0), |core| (core.now, core.trace.hash()));
            eprintln!(
                "the run of seed {} ended at {now} ns with trace hash {hash:016x}",
                self.seed
            );
        }
        // Tasks hold the world and the world holds them. Their destructors run while nobody is alive.
        let Ok(mut core) = self.world.core.try_borrow_mut() else {
            return;
        };
        for node in &mut core.nodes {
            node.is_up = false;
        }
        let killed = core.executor.kill(|_| true);
        drop(core);
        drop(killed);
    }
}
