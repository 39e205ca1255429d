//! The state of a run, and what moves it.
//!
//! ```text
//!   loop: take in wake-ups ─► a task is ready? poll it
//!                         └─► none: jump to the next event ─► carry it out (it wakes tasks)
//! ```
//!
//! [`Core`] is plain state behind one `RefCell`, which is never borrowed while foreign code runs: a task is polled and
//! dropped outside. Handles hold the [`World`] and name their [`Process`]; a handle of a process that has ended does
//! nothing.

use crate::clock::NodeClock;
use crate::config::{Schedule, SimConfig, fires, within};
use crate::disk::device::Device;
use crate::disk::file::DiskOps;
use crate::executor::{Executor, Picked, Postbox};
use crate::net::state::NetState;
use crate::sim::SimNodeId;
use crate::timeline::{Event, Key, Timeline};
use crate::trace::{Fault, Mark, Trace};
use base::Prng;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

const YIELDS_PER_INSTANT_MAX: u64 = 256;

/// One life of a node's program, or the outside of all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) node: u32,
    pub(crate) life: u32,
}

impl Process {
    /// Belongs to no machine: the harness.
    pub(crate) const OUTSIDE: Self = Self {
        node: u32::MAX,
        life: 0,
    };

    pub(crate) fn node(self) -> usize {
        self.node as usize
    }
}

/// A machine.
pub(crate) struct Node {
    pub(crate) shards: u16,
    pub(crate) life: u32,
    pub(crate) is_up: bool,
    pub(crate) clock: NodeClock,
    pub(crate) device: Device,
    /// Tasks that were ready while the node paused.
    held: Option<Vec<Key>>,
}

/// What happens on its own, apart from the events that the machines cause.
#[derive(Debug, Clone, Copy)]
enum Chaos {
    Pause,
    Jump,
    Cut,
}

const CHAOS: [Chaos; 3] = [Chaos::Pause, Chaos::Jump, Chaos::Cut];

/// All state of a run.
pub(crate) struct Core {
    pub(crate) now: u64,
    pub(crate) config: SimConfig,
    pub(crate) prng: Prng,
    pub(crate) trace: Trace,
    pub(crate) nodes: Vec<Node>,
    pub(crate) executor: Executor,
    pub(crate) timeline: Timeline,
    pub(crate) net: NetState,
    pub(crate) disk_ops: DiskOps,
    chaos_at: [Option<u64>; CHAOS.len()],
    polls_this_instant: u64,
    yields_this_instant: u64,
}

/// A run, as its handles hold it.
pub(crate) struct World {
    pub(crate) core: RefCell<Core>,
    pub(crate) postbox: Arc<Postbox>,
}

impl core::fmt::Debug for World {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("World")
    }
}

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Busy,
    /// The future of `block_on` is to be polled.
    Main,
    /// Nothing is ready and the next event lies past the limit.
    Limit,
    /// Nothing is ready and nothing will happen.
    Idle,
}

impl Core {
    fn new(seed: u64, config: SimConfig, postbox: &Arc<Postbox>) -> Self {
        let mut prng = Prng::new(seed);
        base::probe::begin(prng.fork(), config.misbehave_site_on, config.misbehave_fire);
        let (order, ties) = (prng.fork(), prng.fork());
        let ties = match config.schedule {
            Schedule::Fifo => None,
            Schedule::Random => Some(ties),
        };
        let mut core = Self {
            now: 0,
            trace: Trace::default(),
            nodes: Vec::new(),
            executor: Executor::new(config.schedule, order, postbox.clone()),
            timeline: Timeline::new(ties),
            net: NetState::new(config.net.clone(), prng.fork()),
            disk_ops: DiskOps::default(),
            chaos_at: [None; CHAOS.len()],
            polls_this_instant: 0,
            yields_this_instant: 0,
            prng,
            config,
        };
        for chaos in CHAOS {
            core.plan(chaos);
        }
        core
    }

    /// Whether this life of a node's program goes on.
    pub(crate) fn is_alive(&self, process: Process) -> bool {
        process == Process::OUTSIDE
            || self
                .nodes
                .get(process.node())
                .is_some_and(|node| node.is_up && node.life == process.life)
    }

    /// Reads a clock of the process's node.
    pub(crate) fn clock(&self, process: Process, read: impl FnOnce(&NodeClock, u64) -> u64) -> u64 {
        read(&self.nodes[process.node()].clock, self.now)
    }

    pub(crate) fn sleep_late_ns(&mut self) -> u64 {
        if !fires(&mut self.prng, self.config.clock.sleep_late) {
            return 0;
        }
        self.trace.fault(Fault::SleepLate);
        self.prng.below(self.config.clock.sleep_late_ns.max(1))
    }

    pub(crate) fn add_node(&mut self, shards: u16) -> SimNodeId {
        assert!(shards > 0, "a node has at least one shard");
        let mut prng = self.prng.fork();
        let clock = NodeClock::new(&self.config.clock, &mut prng, self.now);
        let device = Device::new(self.config.disk.clone(), prng);
        self.nodes.push(Node {
            shards,
            life: 0,
            is_up: true,
            clock,
            device,
            held: None,
        });
        self.net.add_node();
        SimNodeId(u32::try_from(self.nodes.len() - 1).expect("few nodes"))
    }

    /// Ends a life. Returns what is to be dropped outside of the borrow.
    pub(crate) fn stop(&mut self, id: SimNodeId, keeps_memory: bool) -> Vec<crate::executor::Future> {
        let node = &mut self.nodes[id.0 as usize];
        assert!(node.is_up, "{id:?} is down already");
        node.is_up = false;
        node.held = None;
        self.trace
            .fault(if keeps_memory { Fault::Kill } else { Fault::Crash });
        self.trace.fold(Mark::Node, u64::from(id.0), u64::from(node.life));
        if keeps_memory {
            node.device.process_ended(&mut self.trace);
        } else {
            node.device.crash(&mut self.trace);
        }
        self.disk_ops.forget(id.0);
        self.net.stop(id.0, self.now, &mut self.timeline, &mut self.trace);
        self.executor.kill(|process| process.node == id.0)
    }

    pub(crate) fn start(&mut self, id: SimNodeId) {
        let node = &mut self.nodes[id.0 as usize];
        assert!(!node.is_up, "{id:?} is up already");
        node.is_up = true;
        node.life += 1;
        node.clock.process_started(self.now);
        self.net.started(id.0);
        self.trace.fold(Mark::Node, u64::from(id.0), u64::from(node.life));
    }

    /// Draws when something happens on its own next.
    fn plan(&mut self, chaos: Chaos) {
        let every_ns = match chaos {
            Chaos::Pause => self.config.pause_every_ns,
            Chaos::Jump => self.config.clock.jump_every_ns,
            Chaos::Cut => self.config.net.cut_every_ns,
        };
        self.chaos_at[chaos as usize] = every_ns.map(|every_ns| self.now + 1 + self.prng.below(2 * every_ns));
    }

    /// Ends what happens on its own.
    pub(crate) fn end_chaos(&mut self) {
        self.chaos_at = [None; CHAOS.len()];
    }

    fn carry_out_chaos(&mut self, chaos: Chaos) {
        self.plan(chaos);
        if self.nodes.is_empty() {
            return;
        }
        let index = self.prng.index(self.nodes.len());
        match chaos {
            Chaos::Pause => {
                let for_ns = within(&mut self.prng, &self.config.pause_ns);
                self.pause(index, for_ns);
            }
            Chaos::Jump => {
                let clock = &mut self.nodes[index].clock;
                clock.jump(&self.config.clock, &mut self.prng, self.now, &mut self.trace);
            }
            Chaos::Cut => self.net.cut_some(self.now, &mut self.trace),
        }
    }

    pub(crate) fn pause(&mut self, index: usize, for_ns: u64) {
        let node = &mut self.nodes[index];
        if node.is_up && node.held.is_none() {
            node.held = Some(Vec::new());
            self.trace.fault(Fault::Pause);
            let node = u32::try_from(index).expect("few nodes");
            self.timeline.schedule(self.now + for_ns, Event::Resume { node });
        }
    }

    /// Moves time to the next event and carries it out.
    fn advance(&mut self, limit: u64) -> Turn {
        let Some(event_at) = self.timeline.next_at() else {
            return Turn::Idle;
        };
        let soonest = CHAOS
            .iter()
            .filter_map(|chaos| Some((self.chaos_at[*chaos as usize]?, *chaos)));
        let soonest = soonest
            .min_by_key(|(at, _)| *at)
            .filter(|(at, _)| *at <= event_at);
        let at = soonest.map_or(event_at, |(at, _)| at);
        if at > limit {
            return Turn::Limit;
        }
        if at > self.now {
            (self.polls_this_instant, self.yields_this_instant) = (0, 0);
            self.trace.fold(Mark::Time, at, 0);
            self.now = at;
        }
        if let Some((_, chaos)) = soonest {
            self.carry_out_chaos(chaos);
        } else if let Some((_, event)) = self.timeline.pop() {
            self.carry_out(event);
        }
        Turn::Busy
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Timer(key) => {
                if let Some(waker) = self.timeline.cancel(key) {
                    waker.wake();
                }
            }
            Event::Disk(key) => self.disk_ops.complete(key, &mut self.nodes, &mut self.trace),
            Event::Net { connection, end } => {
                self.net
                    .arrive(connection, end, self.now, &mut self.timeline, &mut self.trace);
            }
            Event::Resume { node } => {
                for key in self.nodes[node as usize].held.take().unwrap_or_default() {
                    self.executor.make_ready(key);
                }
            }
        }
    }

    /// The next task that may run now. Those of paused nodes are set aside.
    fn pick(&mut self) -> Option<Picked> {
        loop {
            let picked = self.executor.pick()?;
            match picked {
                Picked::Task {
                    key,
                    process,
                    future,
                    waker,
                } => {
                    let held = self
                        .nodes
                        .get_mut(process.node())
                        .and_then(|node| node.held.as_mut());
                    let Some(held) = held else {
                        self.trace
                            .fold(Mark::Poll, u64::from(key.slot), u64::from(key.generation));
                        return Some(Picked::Task {
                            key,
                            process,
                            future,
                            waker,
                        });
                    };
                    held.push(key);
                    self.executor.hold(key, future);
                }
                Picked::Main => return Some(picked),
            }
        }
    }

    /// Counts a yield; false when there were so many at this instant that the yielder should let time go on.
    pub(crate) fn count_yield(&mut self) -> bool {
        self.yields_this_instant += 1;
        self.yields_this_instant <= YIELDS_PER_INSTANT_MAX
    }

    fn count_poll(&mut self) {
        self.polls_this_instant += 1;
        let max = self.config.polls_per_instant_max;
        assert!(
            self.polls_this_instant <= max,
            "livelock: {max} polls at {} ns and time stands still",
            self.now
        );
    }
}

impl World {
    pub(crate) fn new(seed: u64, config: SimConfig) -> Rc<Self> {
        let postbox = Arc::<Postbox>::default();
        let core = Core::new(seed, config, &postbox);
        Rc::new(Self {
            core: RefCell::new(core),
            postbox,
        })
    }

    /// Polls a task or carries out an event, not past `limit`.
    pub(crate) fn turn(&self, limit: u64) -> Turn {
        let picked = {
            let core = &mut *self.core.borrow_mut();
            let dropped = self.postbox.with(|post| {
                core.executor.take_woken(&mut post.woken);
                core::mem::take(&mut post.dropped_sockets)
            });
            for end in dropped {
                core.net.close(end, core.now, &mut core.timeline);
            }
            let picked = core.pick();
            core.executor.wake_yielded();
            let Some(picked) = picked else {
                let has_woken = self.postbox.with(|post| !post.woken.is_empty());
                return if has_woken {
                    Turn::Busy
                } else {
                    core.advance(limit)
                };
            };
            core.count_poll();
            picked
        };
        match picked {
            Picked::Main => Turn::Main,
            Picked::Task {
                key,
                mut future,
                waker,
                ..
            } => {
                if future
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
                {
                    self.core.borrow_mut().executor.put_back(key, future);
                } else {
                    self.core.borrow_mut().executor.end(key);
                    drop(future);
                }
                Turn::Busy
            }
        }
    }

    /// Completes `after_ns` of true time from its first poll.
    pub(crate) fn timer(self: &Rc<Self>, after_ns: u64) -> Timer {
        Timer {
            world: self.clone(),
            after_ns,
            key: None,
        }
    }
}

/// Waits for a moment.
pub(crate) struct Timer {
    world: Rc<World>,
    after_ns: u64,
    key: Option<Key>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let core = &mut *this.world.core.borrow_mut();
        match this.key {
            None => {
                let at = core.now.saturating_add(this.after_ns);
                this.key = Some(core.timeline.timer(at, context.waker().clone()));
                Poll::Pending
            }
            Some(key) if core.timeline.is_timer_set(key, context.waker()) => Poll::Pending,
            Some(_) => Poll::Ready(()),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.world.core.borrow_mut().timeline.cancel(key);
            drop(waker);
        }
    }
}
