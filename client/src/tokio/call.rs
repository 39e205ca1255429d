//! One call: tries until an answer, a refusal for good, or the deadline.

use super::connection::{Connection, SubmitError};
use super::pool::Pool;
use crate::Error;
use crate::request::{Refusal, Reply, Request, Route};
use crate::retry::{Failure, Next, Retry};
use base::api::WriteId;
use base::{RequestId, ShardId};
use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use wire::{Code, EncodeError};

/// Between two looks at the range map that nothing failed for.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn too_large(error: EncodeError) -> Error {
    let (bytes, max) = (u64::from(error.bytes), u64::from(error.max));
    Error::TooLarge {
        what: "a request (bytes)",
        code: Code::BatchTooLarge,
        bytes,
        max,
    }
}

impl Pool {
    /// Performs `request`. The reply is not a refusal.
    pub(crate) async fn call(self: &Arc<Self>, request: &Request<'_>) -> Result<Reply, Error> {
        if let Some(limits) = self.limits() {
            limits.check(request)?;
        }
        self.call_as(request, |pool| pool.shard_for(request.route()))
            .await
    }

    /// Performs `request` at the shard that `route` names, asked anew for each try.
    pub(crate) async fn call_as(
        self: &Arc<Self>,
        request: &Request<'_>,
        route: impl Fn(&Self) -> ShardId,
    ) -> Result<Reply, Error> {
        let started = Instant::now();
        let mut retry = Retry::new(&self.options, request.is_write());
        let number = if request.is_write() {
            let waiting = tokio::time::timeout(self.options.deadline, self.begin_write());
            let late = |_| Error::DeadlineExceeded {
                after: self.options.deadline,
                last: None,
            };
            Some(waiting.await.map_err(late)?)
        } else {
            None
        };
        loop {
            let id = number
                .as_ref()
                .map_or_else(WriteId::default, |number| number.id());
            let failure = match self.attempt(request, route(self), id, &retry, started).await {
                Ok(Reply::Refused(refusal)) => Failure::Refused(refusal),
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let next = retry.on_failure(failure, started.elapsed(), &mut self.prng());
            self.pause(next, started).await?;
        }
    }

    /// Waits before the next try, and looks at the range map if the last one says that it changed.
    pub(crate) async fn pause(self: &Arc<Self>, next: Next, started: Instant) -> Result<(), Error> {
        let (pause, version) = match next {
            Next::End(error) => return Err(error),
            Next::Again {
                pause,
                range_map_version,
            } => (pause, range_map_version),
        };
        tokio::time::sleep(pause).await;
        if version > self.ranges().version() {
            // When this fails the next try fails too, and says why.
            let _ = self
                .refresh_ranges(version, started + self.options.deadline)
                .await;
        }
        Ok(())
    }

    async fn attempt(
        self: &Arc<Self>,
        request: &Request<'_>,
        shard: ShardId,
        id: WriteId,
        retry: &Retry,
        started: Instant,
    ) -> Result<Reply, Failure> {
        let deadline = started + self.options.deadline;
        let connection = self.connect_for(shard, deadline).await?;
        let late = || {
            Failure::NotSent(Error::DeadlineExceeded {
                after: self.options.deadline,
                last: None,
            })
        };
        let room = tokio::time::timeout_at(deadline.into(), connection.room()).await;
        let permit = room.map_err(|_| late())?.map_err(Failure::NotSent)?;
        if let Err(error) = connection.info.limits.check(request) {
            return Ok(refuse(error));
        }
        let deadline_ms = retry.server_deadline_ms(started.elapsed());
        let pending = connection.call(permit, |outbox, number| {
            request.encode(outbox, number, id, deadline_ms)
        });
        let pending = match pending {
            Ok(pending) => pending,
            Err(SubmitError::Closed(error)) => return Err(Failure::NotSent(error)),
            Err(SubmitError::Encode(error)) => return Ok(refuse(too_large(error))),
        };
        match tokio::time::timeout(retry.left(started.elapsed()), pending.wait()).await {
            Ok(Ok(reply)) => {
                if connection.take_misrouted() {
                    self.refresh_soon();
                }
                Ok(reply)
            }
            Ok(Err(error)) => Err(Failure::Lost(error)),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// The connection to `shard` for one try.
    pub(crate) async fn connect_for(
        self: &Arc<Self>,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Failure> {
        let error = match self.connection(shard, deadline).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let Error::Server { code, retryable, .. } = error else {
            return Err(Failure::NotSent(error));
        };
        if code == Code::NoSuchShard.number() {
            // The node was started again with fewer shards: the map of its earlier life routes nowhere.
            let version = self.ranges().version() + 1;
            let _ = self.refresh_ranges(version, deadline).await;
        } else if !retryable {
            return Err(Failure::Refused(Refusal::for_good(error, code)));
        }
        Err(Failure::NotSent(error))
    }

    /// Asks for a newer range map in the background, at most once at a time and not too often: requests are answered without
    /// it, only slower.
    pub(crate) fn refresh_soon(self: &Arc<Self>) {
        if self.refresh_planned.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            let version = pool.ranges().version() + 1;
            // When this fails, the next misrouted reply asks again.
            let _ = pool
                .refresh_ranges(version, Instant::now() + pool.options.deadline)
                .await;
            tokio::time::sleep(REFRESH_PAUSE).await;
            pool.refresh_planned.store(false, Ordering::Relaxed);
        });
    }

    /// Asks for the range map unless the cached one is at least as new as `version`.
    pub(crate) async fn refresh_ranges(
        self: &Arc<Self>,
        version: u64,
        deadline: Instant,
    ) -> Result<(), Error> {
        let late = |_| Error::DeadlineExceeded {
            after: self.options.deadline,
            last: None,
        };
        let _one = tokio::time::timeout_at(deadline.into(), self.refreshing.lock())
            .await
            .map_err(late)?;
        if self.ranges().version() >= version.max(1) {
            return Ok(());
        }
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let connection = self.connection(ShardId(0), deadline).await?;
        let map = ask_for_ranges(&connection);
        let map = tokio::time::timeout(left, map).await.map_err(late)??;
        self.update_ranges(map);
        Ok(())
    }

    /// The route of a key in words that a closure can return.
    pub(crate) fn shard_of(&self, key: &[u8]) -> ShardId {
        self.shard_for(Route::Key(key))
    }
}

async fn ask_for_ranges(connection: &Connection) -> Result<crate::range_cache::RangeCache, Error> {
    let permit = connection.room().await?;
    let request = Request::RangeMap;
    let encode = |outbox: &mut wire::Outbox, number: RequestId| {
        request.encode(outbox, number, WriteId::default(), 1000)
    };
    let pending = connection.call(permit, encode).map_err(|error| match error {
        SubmitError::Closed(error) => error,
        SubmitError::Encode(error) => too_large(error),
    })?;
    match pending.wait().await? {
        Reply::RangeMap(map) => Ok(map),
        other => Err(other.unexpected("a request for the range map")),
    }
}

/// A refusal by the client itself, for good.
fn refuse(error: Error) -> Reply {
    let code = error.code().number();
    Reply::Refused(Refusal::for_good(error, code))
}
