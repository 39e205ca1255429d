//! What all calls of a client share: its session, what it knows of the servers, and one connection per server and shard.

use super::connection::{Connection, unavailable};
use super::part::Finishing;
use crate::clock::Clock;
use crate::heat::Heat;
use crate::range_cache::RangeCache;
use crate::request::{Limits, NodeInfo, Route};
use crate::routing::{Course, Routing, ServerId, Target, Trouble, Turn};
use crate::session::Session;
use crate::transaction::{TxnOutcome, TxnRef};
use crate::{Address, Addresses, Error, Options};
use base::limits::SHARDS_MAX;
use base::{ClientId, NodeId, Prng, ShardId, Timestamp};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;
use tokio::sync::{Notify, watch};

/// The bound of the clocks of one node's shards.
const ALONE_BOUND: Duration = Duration::from_millis(50);
/// Ends of transactions that are remembered.
const OUTCOMES_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) options: Options,
    client: ClientId,
    session: Arc<Mutex<Session>>,
    /// For transactions that stay open for as long as their callers like: they do not hold up the writes of the other one.
    long_session: Mutex<Arc<Mutex<Session>>>,
    /// What the cluster's clock shows, in the time since `epoch`.
    clock: Mutex<Clock>,
    /// How the last transactions ended.
    outcomes: Mutex<VecDeque<(TxnRef, TxnOutcome)>>,
    /// The session's window moved.
    session_moved: Notify,
    prng: Mutex<Prng>,
    finishing: Mutex<Finishing>,
    heat: Mutex<Heat>,
    /// What waits to be finished goes now.
    pub(crate) finish: Notify,
    /// Transactions that are not over, and who is told when none is left.
    running: watch::Sender<usize>,
    /// Where the routing's time begins.
    epoch: Instant,
    routing: RwLock<Routing>,
    /// One call at a time asks for the range map.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    /// A task asks for the range map, or has just done so.
    pub(crate) refresh_planned: AtomicBool,
    /// By server, then by shard. Grows up to the servers known and the shards that a node has.
    connections: RwLock<Vec<Vec<Option<Arc<Connection>>>>>,
    /// By server: one call at a time connects.
    connecting: Mutex<Vec<Arc<tokio::sync::Mutex<()>>>>,
    /// Of the newest connection.
    node: Mutex<Option<NodeInfo>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct NoConnection {
    pub(crate) error: Error,
    /// What is wrong with the server; `None` when that cannot be said.
    pub(crate) trouble: Option<Trouble>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session that nobody has, as far as chance goes.
fn any_client(prng: &mut Prng) -> ClientId {
    ClientId((u128::from(prng.next_u64()) << 64) | u128::from(prng.next_u64()))
}

impl Pool {
    pub(crate) fn new(addresses: &Addresses, options: Options) -> Result<Self, Error> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|error| Error::Unavailable {
            address: "the system's random source".to_owned(),
            cause: error.to_string(),
        })?;
        let (client, seed) = random.split_at(16);
        let client = ClientId(u128::from_le_bytes(client.try_into().expect("16 of 24 bytes")));
        let seed = u64::from_le_bytes(seed.try_into().expect("8 of 24 bytes"));
        let mut prng = Prng::new(seed);
        let long_session = Arc::new(Mutex::new(Session::new(any_client(&mut prng))));
        Ok(Self {
            options,
            client,
            session: Arc::new(Mutex::new(Session::new(client))),
            long_session: Mutex::new(long_session),
            clock: Mutex::default(),
            outcomes: Mutex::default(),
            session_moved: Notify::new(),
            prng: Mutex::new(prng),
            finishing: Mutex::default(),
            heat: Mutex::default(),
            finish: Notify::new(),
            running: watch::Sender::new(0),
            epoch: Instant::now(),
            routing: RwLock::new(Routing::new(addresses.as_slice())),
            refreshing: tokio::sync::Mutex::default(),
            refresh_planned: AtomicBool::new(false),
            connections: RwLock::default(),
            connecting: Mutex::default(),
            node: Mutex::default(),
        })
    }

    pub(crate) fn finishing(&self) -> MutexGuard<'_, Finishing> {
        lock(&self.finishing)
    }

    /// A transaction is under way until what is returned is dropped.
    pub(crate) fn transaction_runs(self: &Arc<Self>) -> Running {
        self.running.send_modify(|count| *count += 1);
        Running(self.clone())
    }

    /// Waits until no transaction is under way.
    pub(crate) async fn settle(&self) {
        let mut running = self.running.subscribe();
        self.finish_soon();
        // The sender lives as long as the pool.
        let _ = running.wait_for(|count| *count == 0).await;
    }

    /// Which keys others wait for.
    pub(crate) fn heat(&self) -> MutexGuard<'_, Heat> {
        lock(&self.heat)
    }

    pub(crate) fn prng(&self) -> MutexGuard<'_, Prng> {
        lock(&self.prng)
    }

    /// What is known of the servers, to look at.
    pub(crate) fn routing(&self) -> RwLockReadGuard<'_, Routing> {
        self.routing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of the servers. The time is the routing's.
    pub(crate) fn route<T>(&self, change: impl FnOnce(&mut Routing, Duration) -> T) -> T {
        let now = self.epoch.elapsed();
        change(
            &mut self.routing.write().unwrap_or_else(PoisonError::into_inner),
            now,
        )
    }

    /// The ranges that are known.
    pub(crate) fn ranges(&self) -> Arc<RangeCache> {
        self.routing().map().clone()
    }

    /// How many range maps were seen.
    pub(crate) fn maps_seen(&self) -> u64 {
        self.routing().maps_seen()
    }

    /// Where the next try of a call goes.
    pub(crate) fn aim(&self, route: Route<'_>, course: &mut Course) -> Target {
        self.routing().aim(route, course, self.epoch.elapsed())
    }

    /// A server answered after a while.
    pub(crate) fn took(&self, server: ServerId, took: Duration) {
        if self.routing().is_news_of_distance(server, took) {
            self.route(|routing, _| routing.measured(server, took));
        }
    }

    /// After a try that its server did not answer: whether there is another one to ask at once.
    pub(crate) fn elsewhere(&self, course: &mut Course) -> Turn {
        self.routing().elsewhere(course, self.epoch.elapsed())
    }

    /// A server failed: the next tries go elsewhere.
    pub(crate) fn failed(self: &Arc<Self>, server: ServerId, trouble: Trouble) {
        if self.route(|routing, now| routing.failed(server, trouble, now)) {
            self.home_has_moved();
        }
    }

    /// The server of `target` answered a request.
    pub(crate) fn answered(self: &Arc<Self>, target: &Target) {
        if target.is_news && self.route(|routing, _| routing.answered(target)) {
            self.home_has_moved();
        }
    }

    /// The server of `target` refused a request.
    pub(crate) fn refused(self: &Arc<Self>, target: &Target) {
        if target.is_news {
            self.says_hello(target.server);
        }
    }

    /// A server lets itself be heard again.
    pub(crate) fn says_hello(self: &Arc<Self>, server: ServerId) {
        if self.route(|routing, _| routing.is_up(server)) {
            self.home_has_moved();
        }
    }

    fn home_has_moved(self: &Arc<Self>) {
        // A client that has no map so far goes on without.
        if self.maps_seen() > 0 {
            self.refresh_soon();
        }
    }

    /// A server told its range map.
    pub(crate) fn map_seen(&self, server: ServerId, map: RangeCache, nodes: Vec<(NodeId, Address)>) {
        self.route(|routing, now| routing.map_seen(server, map, nodes, now));
    }

    /// What home said about itself.
    pub(crate) fn node(&self) -> Option<NodeInfo> {
        let home = self.routing().home();
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let of_home = connections.get(home.0).into_iter().flatten().flatten().next();
        of_home
            .map(|connection| connection.info.clone())
            .or_else(|| lock(&self.node).clone())
    }

    pub(crate) fn limits(&self) -> Option<Limits> {
        lock(&self.node).as_ref().map(|node| node.limits)
    }

    /// Until when one step of a try may last: `allowance` from now where other servers are known, and `deadline` at most.
    pub(crate) fn step_deadline(&self, allowance: Duration, deadline: Instant) -> Instant {
        if self.routing().servers() > 1 {
            deadline.min(Instant::now() + allowance)
        } else {
            deadline
        }
    }

    /// The connection to a server's shard, made if need be until `deadline`, and within the time of one try where other
    /// servers are known.
    pub(crate) async fn connection(
        &self,
        server: ServerId,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<Arc<Connection>, NoConnection> {
        if let Some(connection) = self.live(server, shard) {
            return Ok(connection);
        }
        let until = self.step_deadline(self.options.try_timeout, deadline);
        let address = self.routing().address(server).clone();
        let connecting = self.connecting(server);
        let Ok(_one) = tokio::time::timeout_at(until.into(), connecting.lock()).await else {
            // Other calls connect to it: that is no fault of the server's.
            return Err(NoConnection {
                error: unavailable(&address.host_and_port(), "other connections to it are being made"),
                trouble: None,
            });
        };
        if let Some(connection) = self.live(server, shard) {
            return Ok(connection);
        }
        let opening = Connection::open(&address, &self.options, self.client, Some(shard), until);
        let opened = opening.await.map_err(|error| NoConnection {
            error,
            trouble: if Instant::now() < until {
                Some(Trouble::Broke)
            } else {
                // A call that had no time left says nothing about the server.
                (until < deadline).then_some(Trouble::Silent)
            },
        })?;
        let (node, cluster) = (opened.info.node, opened.info.cluster);
        self.took(server, opened.hello_took);
        self.route(|routing, _| routing.identified(server, node, cluster))
            .map_err(|known| NoConnection {
                error: unavailable(
                    &address.host_and_port(),
                    &format!(
                        "it is a node of cluster {cluster:032x}, and this client speaks to {known:032x}"
                    ),
                ),
                trouble: Some(Trouble::Broke),
            })?;
        *lock(&self.node) = Some(opened.info.clone());
        let opened = Arc::new(opened);
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(shard.0);
        assert!(
            at < SHARDS_MAX,
            "{shard} was routed to by a map that the cache has checked"
        );
        if connections.len() <= server.0 {
            connections.resize(server.0 + 1, Vec::new());
        }
        let of_server = &mut connections[server.0];
        if of_server.len() <= at {
            of_server.resize(at + 1, None);
        }
        of_server[at] = Some(opened.clone());
        Ok(opened)
    }

    /// Whether a call connects to `server` at the moment.
    pub(crate) fn is_connecting(&self, server: ServerId) -> bool {
        self.connecting(server).try_lock().is_err()
    }

    fn connecting(&self, server: ServerId) -> Arc<tokio::sync::Mutex<()>> {
        let mut connecting = lock(&self.connecting);
        if connecting.len() <= server.0 {
            connecting.resize_with(server.0 + 1, Arc::default);
        }
        connecting[server.0].clone()
    }

    fn live(&self, server: ServerId, shard: ShardId) -> Option<Arc<Connection>> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let connection = connections.get(server.0)?.get(usize::from(shard.0))?.as_ref()?;
        if connection.is_closed() {
            None
        } else {
            Some(connection.clone())
        }
    }

    /// Numbers a write, once the session's window has room.
    pub(crate) async fn begin_write(self: &Arc<Self>) -> WriteNumber {
        loop {
            let moved = self.session_moved.notified();
            if let Some(seq) = lock(&self.session).begin() {
                return WriteNumber {
                    pool: self.clone(),
                    session: self.session.clone(),
                    seq,
                };
            }
            moved.await;
        }
    }

    /// Numbers a transaction that may stay open for long. When too many are, the next ones have another session.
    pub(crate) fn begin_long(self: &Arc<Self>) -> WriteNumber {
        let mut current = lock(&self.long_session);
        loop {
            if let Some(seq) = lock(&current).begin() {
                return WriteNumber {
                    pool: self.clone(),
                    session: current.clone(),
                    seq,
                };
            }
            *current = Arc::new(Mutex::new(Session::new(any_client(&mut self.prng()))));
        }
    }

    /// The client's own time: since when does not matter.
    pub(crate) fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The client's own time as the runtime's.
    pub(crate) fn instant(&self, ns: u64) -> Instant {
        self.epoch + Duration::from_nanos(ns)
    }

    /// A node that was asked then has said what its clock shows.
    pub(crate) fn clock_seen(&self, clock: Timestamp, asked: Duration) {
        lock(&self.clock).sample(clock, asked, self.elapsed());
    }

    /// How far the clocks of the cluster may be apart. The shards of a node that is alone share one, and read it once in a while.
    pub(crate) fn clock_bound(&self) -> Duration {
        if self.routing().is_alone() {
            self.options.clock_bound.min(ALONE_BOUND)
        } else {
            self.options.clock_bound
        }
    }

    /// A node said that a timestamp was ahead of its clock.
    pub(crate) fn clock_stands(&self) {
        lock(&self.clock).stands(self.elapsed());
    }

    /// Something is known to have happened at `ts`.
    pub(crate) fn saw(&self, ts: Timestamp) {
        lock(&self.clock).saw(ts);
    }

    /// See [`Clock::bounds`].
    pub(crate) fn clock_bounds(&self) -> Option<(Timestamp, Timestamp)> {
        lock(&self.clock).bounds(self.elapsed())
    }

    /// Notes how a transaction ended.
    pub(crate) fn remember(&self, txn: TxnRef, outcome: TxnOutcome) {
        let mut outcomes = lock(&self.outcomes);
        if outcomes.len() >= OUTCOMES_MAX {
            outcomes.pop_front();
        }
        outcomes.push_back((txn, outcome));
    }

    /// How one of the last transactions ended.
    pub(crate) fn recall(&self, txn: &TxnRef) -> Option<TxnOutcome> {
        let outcomes = lock(&self.outcomes);
        let found = outcomes.iter().rev().find(|(known, _)| known == txn);
        found.map(|(_, outcome)| *outcome)
    }
}

/// A transaction that is under way.
#[derive(Debug)]
pub(crate) struct Running(Arc<Pool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

/// A write's number. When dropped, the write counts as answered: its caller has the result, or has gone.
#[derive(Debug)]
pub(crate) struct WriteNumber {
    pool: Arc<Pool>,
    session: Arc<Mutex<Session>>,
    seq: u64,
}

impl WriteNumber {
    pub(crate) fn id(&self) -> base::api::WriteId {
        lock(&self.session).id(self.seq)
    }
}

impl Drop for WriteNumber {
    fn drop(&mut self) {
        if lock(&self.session).finish(self.seq) {
            self.pool.session_moved.notify_waiters();
        }
    }
}
