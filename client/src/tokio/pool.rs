//! What all calls of a client share: its session, its range cache and one connection per shard.

use super::connection::Connection;
use crate::range_cache::RangeCache;
use crate::request::{Limits, NodeInfo, Route};
use crate::session::Session;
use crate::{Address, Error, Options};
use base::limits::SHARDS_MAX;
use base::{ClientId, Prng, ShardId};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) address: Address,
    pub(crate) options: Options,
    client: ClientId,
    session: Mutex<Session>,
    /// The session's window moved.
    session_moved: Notify,
    prng: Mutex<Prng>,
    ranges: RwLock<Arc<RangeCache>>,
    /// One call at a time asks for the range map.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    /// A task asks for the range map, or has just done so.
    pub(crate) refresh_planned: AtomicBool,
    /// By shard. Grows up to the number of shards that the node has.
    connections: RwLock<Vec<Option<Arc<Connection>>>>,
    /// One call at a time connects.
    connecting: tokio::sync::Mutex<()>,
    node: Mutex<Option<NodeInfo>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(address: Address, options: Options) -> Result<Self, Error> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|error| Error::Unavailable {
            address: "the system's random source".to_owned(),
            cause: error.to_string(),
        })?;
        let (client, seed) = random.split_at(16);
        let client = ClientId(u128::from_le_bytes(client.try_into().expect("16 of 24 bytes")));
        let seed = u64::from_le_bytes(seed.try_into().expect("8 of 24 bytes"));
        Ok(Self {
            address,
            options,
            client,
            session: Mutex::new(Session::new(client)),
            session_moved: Notify::new(),
            prng: Mutex::new(Prng::new(seed)),
            ranges: RwLock::default(),
            refreshing: tokio::sync::Mutex::default(),
            refresh_planned: AtomicBool::new(false),
            connections: RwLock::default(),
            connecting: tokio::sync::Mutex::default(),
            node: Mutex::default(),
        })
    }

    pub(crate) fn prng(&self) -> MutexGuard<'_, Prng> {
        lock(&self.prng)
    }

    pub(crate) fn ranges(&self) -> Arc<RangeCache> {
        self.ranges.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update_ranges(&self, newer: RangeCache) {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut ranges).update(newer);
    }

    pub(crate) fn node(&self) -> Option<NodeInfo> {
        lock(&self.node).clone()
    }

    pub(crate) fn limits(&self) -> Option<Limits> {
        lock(&self.node).as_ref().map(|node| node.limits)
    }

    /// The shard that a request goes to, as far as is known.
    pub(crate) fn shard_for(&self, route: Route<'_>) -> ShardId {
        match route {
            Route::Shard(shard) => shard,
            Route::Key(key) => self.ranges().lookup(key).map_or(ShardId(0), |range| range.shard),
        }
    }

    /// The connection to `shard`, made if need be until `deadline`.
    pub(crate) async fn connection(
        &self,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.live(shard) {
            return Ok(connection);
        }
        let waiting = tokio::time::timeout_at(deadline.into(), self.connecting.lock());
        let _one = waiting
            .await
            .map_err(|_| super::connection::unavailable(&self.address.to_string(), "no answer in time"))?;
        if let Some(connection) = self.live(shard) {
            return Ok(connection);
        }
        let Address { host, port } = &self.address;
        let opened = Connection::open(host, *port, &self.options, self.client, Some(shard), deadline).await?;
        *lock(&self.node) = Some(opened.info.clone());
        let opened = Arc::new(opened);
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(shard.0);
        assert!(
            at < SHARDS_MAX,
            "{shard} was routed to by a map that the cache has checked"
        );
        if connections.len() <= at {
            connections.resize(at + 1, None);
        }
        connections[at] = Some(opened.clone());
        Ok(opened)
    }

    fn live(&self, shard: ShardId) -> Option<Arc<Connection>> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let connection = connections.get(usize::from(shard.0))?.as_ref()?;
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
                    seq,
                };
            }
            moved.await;
        }
    }
}

/// A write's number. When dropped, the write counts as answered: its caller has the result, or has gone.
#[derive(Debug)]
pub(crate) struct WriteNumber {
    pool: Arc<Pool>,
    seq: u64,
}

impl WriteNumber {
    pub(crate) fn id(&self) -> base::api::WriteId {
        lock(&self.pool.session).id(self.seq)
    }
}

impl Drop for WriteNumber {
    fn drop(&mut self) {
        if lock(&self.pool.session).finish(self.seq) {
            self.pool.session_moved.notify_waiters();
        }
    }
}
