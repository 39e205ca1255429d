//! One shard's outgoing connections to shards of other nodes.
//!
//! ```text
//!   send ─┬─ Idle ───── the pause is over: dials
//!         ├─ Dialling ─ kept, up to a bound ──────────────── connected ─┐
//!         └─ Open ───── outbox ─► flush: one try_write ─► socket ◄──────┘
//!                                                           │
//!   refusal ◄────────── the dialling task listens until the end ─► Idle, for a pause
//! ```
//!
//! Each direction between two shards has a connection of its own, dialled by the side that sends: a
//! [`wire::peer::PeerHello`], then [`wire::peer::Train`]s and [`wire::peer::Transfer`]s, both called trains here. Nothing comes back but a refusal, or the end.
//!
//! Invariants:
//! - Trains of one connection arrive whole, in the order of [`Peers::send`], and each at most once. Any may be lost: those
//!   that repeat what matters are the groups.
//! - What one connection has not sent is never sent on another one, so no connection starts inside a frame.
//! - What waits for one shard is bounded, whether it reads or not: what does not fit is dropped and counted.
//! - In the steady state a train is archived straight into its connection's buffer, without an allocation.

mod dial;

use crate::connection::CloseReason;
use crate::egress::{Egress, sweep};
use crate::slots::Link;
use crate::transport::WriterOf;
use base::{NodeId, Prng, RequestId, ShardId};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use dial::dial;
use env::{Address, Clock, Env, Instant, TaskClass, Tasks};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use wire::peer::PeerHello;
use wire::{Code, Message, Outbox};

/// The longest pause between two attempts. A connection that lasted so long is taken for accepted.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Trains kept while a connection is dialled, in bytes: from then on they are dropped.
const DIALLING_BYTES_MAX: usize = 64 << 10;

/// How one shard talks to shards of other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The first frame of each connection, save for `to_node` and `to_shard`, which are the connection's, and for `version_min` after
    /// [`Peers::greet_anew`].
    pub hello: PeerHello,
    /// Bytes that wait for one shard, from which on trains are dropped: at least 4 KiB. One train more may wait.
    pub unsent_bytes_max: usize,
    /// The first pause before a connection is dialled again: at least 1 ms. Doubled with each failure, up to a second, and
    /// jittered down to its half.
    pub reconnect: Duration,
    /// How long dialling may take, and how long a peer may take nothing of what waits: at least 10 ms. Noticed late by up to
    /// an eighth.
    pub frame_timeout: Duration,
}

impl PeerConfig {
    /// The defaults, for a shard that introduces itself by `hello`.
    #[must_use]
    pub fn new(hello: PeerHello) -> Self {
        Self {
            hello,
            unsent_bytes_max: 16 << 20,
            reconnect: Duration::from_millis(50),
            frame_timeout: Duration::from_secs(10),
        }
    }
}

/// What the outgoing connections of one shard did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Attempts to connect.
    pub dialled: u64,
    /// Attempts that led to a connection, whether it was refused later or not.
    pub connected: u64,
    /// Attempts that did not.
    pub failed: u64,
    /// Connections that ended, by [`CloseReason::name`].
    pub closed: BTreeMap<&'static str, u64>,
    /// Trains appended to a connection, or kept for one that is dialled.
    pub trains: u64,
    /// Trains dropped by [`Peers::send`].
    pub trains_dropped: u64,
    /// Bytes that waited when their connection ended, or did not come about.
    pub lost_bytes: u64,
    /// Sends: with `trains`, how many trains left at once.
    pub sends: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// One shard's outgoing connections to shards of other nodes. Cheap to clone; dropping it closes nothing, which is for
/// [`Self::close_all`].
pub struct Peers<E: Env>(Rc<Inner<E>>);

impl<E: Env> Clone for Peers<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<E: Env> {
    env: E,
    config: PeerConfig,
    egress: Rc<Egress<E>>,
    nodes: RefCell<BTreeMap<NodeId, Remote<WriterOf<E>>>>,
    counters: RefCell<PeerCounters>,
    /// Spreads the pauses of many shards that lost one node.
    prng: RefCell<Prng>,
    /// Why no node will have anything of this one any more, as one said that refused it.
    unwelcome: Cell<Option<Code>>,
    /// What greetings say for `version_min`.
    version_min: Cell<u16>,
    /// Nodes that may not have got what was sent, until somebody asks.
    lost: RefCell<BTreeSet<NodeId>>,
    /// Whether the task that looks at time-outs runs.
    sweeping: Cell<bool>,
}

/// A node whose address is known.
struct Remote<W> {
    address: Address,
    /// Shards that were ever sent to at this address.
    routes: BTreeMap<ShardId, Rc<Route<W>>>,
}

/// The connection to one shard, and what is remembered between two of them.
struct Route<W> {
    node: NodeId,
    shard: ShardId,
    state: RefCell<RouteState<W>>,
    /// The pause after the next failure, before jitter.
    pause: Cell<Duration>,
    /// What the last refusal said, until a connection has lasted.
    refusal: RefCell<Option<String>>,
}

enum RouteState<W> {
    /// Not connected; a train dials, once the pause is over.
    Idle { until: Instant },
    /// A task connects. The outbox is the connection's to be: its hello, and trains.
    Dialling(Outbox),
    /// A task listens.
    Open { link: Rc<Link<W>>, since: Instant },
}

impl<W> Route<W> {
    fn new(node: NodeId, shard: ShardId, config: &PeerConfig) -> Self {
        let until = Instant::default();
        Self {
            node,
            shard,
            state: RefCell::new(RouteState::Idle { until }),
            pause: Cell::new(config.reconnect),
            refusal: RefCell::default(),
        }
    }

    fn link(&self) -> Option<Rc<Link<W>>> {
        match &*self.state.borrow() {
            RouteState::Open { link, .. } => Some(link.clone()),
            RouteState::Idle { .. } | RouteState::Dialling(_) => None,
        }
    }

    /// Whether there is a connection that has lasted long enough to be taken for accepted: acceptance is silent.
    fn is_accepted(&self, now: Instant) -> bool {
        match &*self.state.borrow() {
            RouteState::Open { since, .. } => now.since(*since) >= PAUSE_MAX,
            RouteState::Idle { .. } | RouteState::Dialling(_) => false,
        }
    }
}

impl<E: Env> Peers<E> {
    /// No connections, and no addresses.
    ///
    /// # Panics
    /// When a setting is out of its range.
    #[must_use]
    pub fn new(env: E, config: PeerConfig) -> Self {
        assert!(
            config.unsent_bytes_max >= 4096,
            "unsent_bytes_max must be at least 4 KiB"
        );
        assert!(
            config.reconnect >= Duration::from_millis(1),
            "reconnect must be at least 1 ms"
        );
        assert!(
            config.frame_timeout >= Duration::from_millis(10),
            "frame_timeout must be at least 10 ms"
        );
        let prng = env.prng();
        Self(Rc::new(Inner {
            egress: Rc::new(Egress::new(env.clone())),
            env,
            version_min: Cell::new(config.hello.version_min),
            lost: RefCell::default(),
            config,
            nodes: RefCell::default(),
            counters: RefCell::default(),
            prng: RefCell::new(prng),
            unwelcome: Cell::new(None),
            sweeping: Cell::new(false),
        }))
    }

    /// Knows where the node is from now on; `None` forgets it. A changed address drops the node's connections, and with them
    /// what its refusals said.
    pub fn set_address(&self, node: NodeId, address: Option<Address>) {
        let mut nodes = self.0.nodes.borrow_mut();
        if nodes.get(&node).map(|remote| remote.address) == address {
            return;
        }
        let before = match address {
            Some(address) => nodes.insert(
                node,
                Remote {
                    address,
                    routes: BTreeMap::new(),
                },
            ),
            None => nodes.remove(&node),
        };
        drop(nodes);
        for route in before.into_iter().flat_map(|remote| remote.routes.into_values()) {
            self.abandon(&route);
        }
    }

    /// Appends a train, to be sent by the next [`Self::flush`].
    ///
    /// False when it was dropped: the node's address is not known, the last connection ended a moment ago, too much waits, or
    /// the train does not fit a frame. True does not mean that it arrives: a connection that breaks loses what it has not
    /// sent, and more.
    pub fn send<M: Message>(&self, node: NodeId, shard: ShardId, message: &M) -> bool {
        let way = self.route(node, shard);
        let is_kept = way
            .as_ref()
            .is_some_and(|(address, route)| self.append(*address, route, message));
        let mut counters = self.0.counters.borrow_mut();
        if is_kept {
            counters.trains += 1;
        } else {
            counters.trains_dropped += 1;
            // What waits on an open connection arrives, and shows the gap.
            if way.is_none_or(|(_, route)| route.link().is_none()) {
                self.0.lost.borrow_mut().insert(node);
            }
        }
        is_kept
    }

    /// Sends what the touched connections have: one `try_write` each. The rest goes out as the peers make room.
    pub fn flush(&self) {
        self.0.egress.flush();
    }

    /// Closes every connection, after one attempt to send what it has. Addresses stay: a later train dials again.
    pub fn close_all(&self) {
        let mut nodes = self.0.nodes.borrow_mut();
        let routes: Vec<_> = nodes
            .values_mut()
            .flat_map(|remote| core::mem::take(&mut remote.routes).into_values())
            .collect();
        drop(nodes);
        for route in routes {
            self.abandon(&route);
        }
    }

    /// Says another `version_min` in greetings from now on. Every connection whose greeting said another one is closed, as by
    /// [`Self::close_all`].
    pub fn greet_anew(&self, version_min: u16) {
        if self.0.version_min.replace(version_min) != version_min {
            self.close_all();
        }
    }

    /// The nodes to which a connection has ended, or did not come about, or a train was dropped because there was none, since this was asked
    /// last: what was sent to them before may not have arrived.
    #[must_use]
    pub fn take_lost(&self) -> BTreeSet<NodeId> {
        self.0.lost.take()
    }

    /// What the connections did so far.
    #[must_use]
    pub fn counters(&self) -> PeerCounters {
        PeerCounters {
            sends: self.0.egress.sends(),
            sent_bytes: self.0.egress.sent_bytes(),
            lost_bytes: self.0.egress.lost_bytes(),
            ..self.0.counters.borrow().clone()
        }
    }

    /// Bytes that wait to be sent, over all open connections.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.0.egress.unsent_bytes()
    }

    /// What the node said when it refused a connection, with the code, for status and error texts; of several shards that
    /// refused, the first one's. `None` when none did, or each was connected since then and stayed so for a second.
    #[must_use]
    pub fn refusal(&self, node: NodeId) -> Option<String> {
        let now = self.0.env.clock().now();
        let nodes = self.0.nodes.borrow();
        let mut routes = nodes.get(&node)?.routes.values();
        routes.find_map(|route| {
            let refusal = route.refusal.borrow();
            refusal.as_ref().filter(|_| !route.is_accepted(now)).cloned()
        })
    }

    /// Why a node has refused a connection for good: [`Code::NodeRemoved`], [`Code::DirectoryReplaced`] or [`Code::BuildTooOld`].
    #[must_use]
    pub fn unwelcome(&self) -> Option<Code> {
        self.0.unwelcome.get()
    }

    /// The way to a shard, if the node's address is known.
    fn route(&self, node: NodeId, shard: ShardId) -> Option<(Address, Rc<Route<WriterOf<E>>>)> {
        let mut nodes = self.0.nodes.borrow_mut();
        let remote = nodes.get_mut(&node)?;
        let route = remote
            .routes
            .entry(shard)
            .or_insert_with(|| Rc::new(Route::new(node, shard, &self.0.config)));
        Some((remote.address, route.clone()))
    }

    /// Appends a train to what waits for a shard, and dials when there is no connection. False when it was dropped.
    fn append<M: Message>(&self, address: Address, route: &Rc<Route<WriterOf<E>>>, message: &M) -> bool {
        let mut state = route.state.borrow_mut();
        match &mut *state {
            RouteState::Open { link, .. } => self.append_to(link, message),
            RouteState::Dialling(outbox) => {
                outbox.len() < DIALLING_BYTES_MAX && outbox.push(RequestId(0), message).is_ok()
            }
            RouteState::Idle { until } => {
                if self.0.env.clock().now() < *until {
                    return false;
                }
                let mut outbox = Outbox::new();
                let hello = PeerHello {
                    to_node: route.node.0,
                    to_shard: route.shard.0,
                    version_min: self.0.version_min.get(),
                    ..self.0.config.hello
                };
                let is_kept =
                    outbox.push(RequestId(0), &hello).is_ok() && outbox.push(RequestId(0), message).is_ok();
                // A train too long for a frame does not dial: it would be the connection's only reason.
                if is_kept {
                    *state = RouteState::Dialling(outbox);
                    drop(state);
                    let task = dial(self.clone(), route.clone(), address);
                    self.0.env.tasks().spawn(TaskClass::Foreground, task);
                }
                is_kept
            }
        }
    }

    /// Appends a train to an open connection. False when it was dropped.
    fn append_to<M: Message>(&self, link: &Rc<Link<WriterOf<E>>>, message: &M) -> bool {
        let mut outbox = link.outbox.borrow_mut();
        let before = outbox.len();
        base::sometimes!(
            "peers: a train was dropped, too much waits",
            before >= self.0.config.unsent_bytes_max
        );
        if link.is_ended() || before >= self.0.config.unsent_bytes_max {
            return false;
        }
        if outbox.push(RequestId(0), message).is_err() {
            return false;
        }
        drop(outbox);
        self.0.egress.appended(link, before);
        true
    }

    /// Ends a route that is no longer in the table.
    fn abandon(&self, route: &Route<WriterOf<E>>) {
        let until = Instant::default();
        self.0.lost.borrow_mut().insert(route.node);
        match route.state.replace(RouteState::Idle { until }) {
            RouteState::Open { link, .. } => {
                self.0.egress.push_out(&link);
                link.end(CloseReason::Local);
            }
            RouteState::Dialling(outbox) => self.0.egress.lose(outbox.len()),
            RouteState::Idle { .. } => {}
        }
    }

    /// Looks at time-outs while there are connections.
    fn start_sweeping(&self) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let inner = self.0.clone();
        self.0.env.tasks().spawn(TaskClass::Foreground, async move {
            let timeout = inner.config.frame_timeout;
            sweep(
                &inner.env,
                timeout / 8,
                || inner.links(),
                |state, now| state.is_stuck(now, timeout).then_some(CloseReason::SendTimeout),
            )
            .await;
            inner.sweeping.set(false);
        });
    }
}

impl<E: Env> Inner<E> {
    /// Every open connection, by node and shard.
    fn links(&self) -> Vec<Rc<Link<WriterOf<E>>>> {
        let nodes = self.nodes.borrow();
        let routes = nodes.values().flat_map(|remote| remote.routes.values());
        routes.filter_map(|route| route.link()).collect()
    }
}
