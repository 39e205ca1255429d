//! The handle.

use super::pool::Pool;
use super::scan::Scan;
use crate::policy::{Policies, Policy, PolicyChange, Said};
use crate::request::{
    Limits, Merged, Modified, Moved, NODE_REMOVED, NodeInfo, NodeUse, Placed, Reply, Request, Split, Swap,
};
use crate::span::checked;
use crate::{Address, Batch, Error, KeySpan, Options, RangeInfo, StaleValue, Staleness};
use base::api::{Condition, ReadAt, WriteOp};
use base::{Modification, NodeId, RangeId, ShardId, Timestamp};
use core::future::Future;
use core::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

/// A database: a cheap handle that all tasks may clone and share.
///
/// Requests of all clones are pipelined over one connection per shard of each node that is needed. Lost connections are made
/// again by the next call. Of a cluster, requests go to the node that leads the range, and elsewhere when it does not answer;
/// what concerns no range goes to *home*, the first node that answered, until that fails.
///
/// # Cancellation
/// Dropping the future of a read is safe. Dropping the future of a write leaves its outcome unknown.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Arc<Pool>,
}

impl Db {
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Connects to the server at `address` (`corelane://HOST[:PORT]`) with default options; or to the first that answers of
/// several nodes of a cluster (`corelane://HOST[:PORT],HOST[:PORT]`).
///
/// # Errors
/// [`Error::InvalidAddress`]; [`Error::Unavailable`] when no server can be reached, after one try of each.
///
/// # Cancellation
/// Safe.
pub async fn connect(address: &str) -> Result<Db, Error> {
    connect_with(address, Options::default()).await
}

/// Connects to the server or servers at `address` with `options`.
///
/// # Errors
/// As [`connect`].
///
/// # Cancellation
/// Safe.
pub async fn connect_with(address: &str, options: Options) -> Result<Db, Error> {
    let deadline = Instant::now() + options.deadline;
    let pool = Arc::new(Pool::new(&address.parse()?, options)?);
    pool.first_connection(deadline).await?;
    if pool.options.map_at_connect {
        pool.refresh_beyond(0, deadline).await?;
    }
    Ok(Db { pool })
}

impl Db {
    /// The newest value of `key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.read(key.as_ref(), ReadAt::Newest).await?.0)
    }

    /// The value that `key` had at `ts`.
    ///
    /// # Errors
    /// See [`Error`]; with code `TimestampTooOld` when versions that old may have been collected.
    pub async fn get_at(&self, key: impl AsRef<[u8]>, ts: Timestamp) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.read(key.as_ref(), ReadAt::At(ts)).await?.0)
    }

    /// The newest value of `key` and when it was written; or no value and when that was so.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<(Option<Vec<u8>>, Timestamp), Error> {
        self.read(key.as_ref(), ReadAt::Newest).await
    }

    /// The value that `key` had a while ago, from the nearest node that has it; see [`Staleness`].
    ///
    /// # Errors
    /// See [`Error`]; with code `TimestampTooOld` when versions that old may have been collected.
    pub async fn get_stale(&self, key: impl AsRef<[u8]>, staleness: Staleness) -> Result<StaleValue, Error> {
        let (key, at) = (key.as_ref(), staleness.read_at());
        match self.pool.call(&Request::Get { key, at }).await? {
            Reply::Stale(found) => Ok(found),
            other => Err(other.unexpected("a get of a moment by its age")),
        }
    }

    async fn read(&self, key: &[u8], at: ReadAt) -> Result<(Option<Vec<u8>>, Timestamp), Error> {
        match self.pool.call(&Request::Get { key, at }).await? {
            Reply::Get { value, ts } => Ok((value, ts)),
            other => Err(other.unexpected("a get")),
        }
    }

    /// Sets `key` to `value`, durably, and says at which timestamp.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Timestamp, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        match self.pool.call(&Request::Put { key, value }).await? {
            Reply::Written(ts) => Ok(ts),
            other => Err(other.unexpected("a put")),
        }
    }

    /// Removes `key`, whether it has a value or not.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Timestamp, Error> {
        written(self.write(&[], &[WriteOp::Delete { key: key.as_ref() }]).await?)
    }

    /// Removes every key of `span`. Atomic within each range, **not** across ranges: ranges are emptied one after the other,
    /// from the start of the span on, and after an error the first ones may be empty already.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_range(&self, span: impl KeySpan) -> Result<(), Error> {
        let mut rest = checked(span)?;
        let started = Instant::now();
        while !rest.is_empty() {
            let (seen, ranges) = (self.pool.maps_seen(), self.pool.ranges());
            let bound = ranges.bound_after(&rest.start).map(Box::from);
            let clipped = match (&rest.end, &bound) {
                (Some(end), Some(bound)) => Some(end.min(bound)),
                (end, bound) => end.as_ref().or(bound.as_ref()),
            };
            let op = WriteOp::DeleteRange {
                start: &rest.start,
                end: clipped.map(|end| &**end),
            };
            match self.write(&[], &[op]).await {
                Ok(reply) => {
                    written(reply)?;
                    match clipped.cloned() {
                        Some(end) => rest.start = end,
                        None => break,
                    }
                }
                // The range was split meanwhile: clip again by the new map.
                Err(error) if spans_ranges(&error) && started.elapsed() < self.pool.options.deadline => {
                    let deadline = Instant::now() + self.pool.options.deadline;
                    self.pool.refresh_beyond(seen, deadline).await?;
                    // The node that was asked may hear of the split later than the one that leads the range.
                    tokio::time::sleep(self.pool.options.backoff_min).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets `key` to `value` if it has no value.
    ///
    /// # Errors
    /// See [`Error`]. That the key has a value is not one.
    pub async fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Swap, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        swap(
            self.write(&[Condition::Absent { key }], &[WriteOp::Put { key, value }])
                .await?,
        )
    }

    /// Sets `key` to `value` if its value is `expected`.
    ///
    /// # Errors
    /// See [`Error`]. That the key has another value is not one.
    pub async fn compare_and_put(
        &self,
        key: impl AsRef<[u8]>,
        expected: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Swap, Error> {
        let (key, expected, value) = (key.as_ref(), expected.as_ref(), value.as_ref());
        let condition = Condition::Equals { key, value: expected };
        swap(self.write(&[condition], &[WriteOp::Put { key, value }]).await?)
    }

    /// Removes `key` if its value is `expected`.
    ///
    /// # Errors
    /// See [`Error`]. That the key has another value is not one.
    pub async fn compare_and_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected: impl AsRef<[u8]>,
    ) -> Result<Swap, Error> {
        let (key, expected) = (key.as_ref(), expected.as_ref());
        let condition = Condition::Equals { key, value: expected };
        swap(self.write(&[condition], &[WriteOp::Delete { key }]).await?)
    }

    /// Adds `delta` to the number that `key` has, and says the sum; a key without a value counts as zero.
    ///
    /// Numbers are decimal text of 64 bits with a sign. Additions to one key do not wait for each other: see [`Db::modify`].
    ///
    /// # Errors
    /// [`Error::ConditionFailed`] when the sum is no number of 64 bits; with code `NotANumber` when the value is none; and see
    /// [`Error`].
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        let done = self.add_within(key, delta, i64::MIN..=i64::MAX).await?;
        match done {
            Modified::Done { .. } => Ok(done.number()),
            Modified::Refused { found, ts } => Err(Error::ConditionFailed {
                condition: 0,
                found,
                ts,
            }),
        }
    }

    /// As [`Db::add`], if the sum lies within `bounds`: `db.add_within("account", -5, 0..=i64::MAX)`.
    ///
    /// # Errors
    /// As [`Db::modify`].
    pub async fn add_within(
        &self,
        key: impl AsRef<[u8]>,
        delta: i64,
        bounds: RangeInclusive<i64>,
    ) -> Result<Modified, Error> {
        let (min, max) = bounds.into_inner();
        self.modify(key, Modification::Add { delta, min, max }).await
    }

    /// Changes the value of `key` by what it is. The node that leads the key works it out: many modifications of one key are written
    /// one after the other, as fast as puts, without waiting for each other.
    ///
    /// # Errors
    /// With code `NotANumber` when the value is not a number and has to be; and see [`Error`]. That a bound does not allow it is not one.
    pub async fn modify(&self, key: impl AsRef<[u8]>, by: Modification<'_>) -> Result<Modified, Error> {
        let key = key.as_ref();
        match self.pool.call(&Request::Modify { key, by }).await? {
            Reply::Modified {
                value: Some(value),
                ts,
            } => Ok(Modified::Done { value, ts }),
            // A retry was answered: what the first try made is still there, at its timestamp.
            Reply::Modified { value: None, ts } => {
                let made = self.get_at(key, ts).await;
                let unread = |error: Error| Error::Ambiguous {
                    after: self.pool.options.deadline,
                    cause: format!("it was done at {ts}, and what it made could not be read: {error}"),
                };
                let value = made.map_err(unread)?.ok_or_else(|| Error::Protocol {
                    what: format!("a modification was done at {ts}, and nothing is there"),
                })?;
                Ok(Modified::Done { value, ts })
            }
            Reply::ConditionFailed { found, ts, .. } => Ok(Modified::Refused { found, ts }),
            other => Err(other.unexpected("a modification")),
        }
    }

    /// Performs a batch, all of it or nothing: `db.batch(|b| b.put("k", "v").delete("x")).await?`.
    ///
    /// # Errors
    /// As [`Db::write_batch`].
    pub async fn batch(&self, fill: impl FnOnce(&mut Batch) -> &mut Batch) -> Result<Timestamp, Error> {
        let mut batch = Batch::new();
        fill(&mut batch);
        self.write_batch(&batch).await
    }

    /// Performs a batch, all of it or nothing.
    ///
    /// # Errors
    /// [`Error::BatchSpansRanges`] when its keys lie in different ranges, [`Error::ConditionFailed`] when a condition does
    /// not hold; and see [`Error`]. In both cases nothing was written.
    pub async fn write_batch(&self, batch: &Batch) -> Result<Timestamp, Error> {
        batch.check()?;
        let (conditions, ops) = (batch.conditions(), batch.ops());
        if let Some((first, other)) = self.two_ranges(&conditions, &ops) {
            // The cached map may be old: believe only a fresh one.
            let deadline = Instant::now() + self.pool.options.deadline;
            self.pool.refresh_beyond(self.pool.maps_seen(), deadline).await?;
            if self.two_ranges(&conditions, &ops).is_some() {
                return Err(Error::BatchSpansRanges { first, other });
            }
        }
        written(self.write(&conditions, &ops).await?)
    }

    /// Two keys of a batch that lie in different ranges, as far as is known.
    fn two_ranges(&self, conditions: &[Condition<'_>], ops: &[WriteOp<'_>]) -> Option<(Vec<u8>, Vec<u8>)> {
        let ranges = self.pool.ranges();
        let mut keys = conditions
            .iter()
            .map(Condition::key)
            .chain(ops.iter().map(WriteOp::key));
        let first = keys.next()?;
        let span = &ranges.lookup(first)?.span;
        keys.find(|key| !span.contains(key))
            .map(|other| (first.to_vec(), other.to_vec()))
    }

    async fn write(&self, conditions: &[Condition<'_>], ops: &[WriteOp<'_>]) -> Result<Reply, Error> {
        self.pool.call(&Request::Write { conditions, ops }).await
    }

    /// Reads the rows of `span` as a stream. Nothing is sent before the first row is asked for.
    pub fn scan(&self, span: impl KeySpan) -> Scan {
        Scan::new(self.pool.clone(), checked(span))
    }

    /// Splits the range that holds `key`, so that `key` starts a range.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn split(&self, key: impl AsRef<[u8]>) -> Result<Split, Error> {
        match self.pool.call(&Request::Split { key: key.as_ref() }).await? {
            Reply::Split(split) => Ok(split),
            other => Err(other.unexpected("a split")),
        }
    }

    /// Moves a range to another shard of its node.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn move_range(&self, range: RangeId, shard: ShardId) -> Result<Moved, Error> {
        match self.pool.call(&Request::Move { range, shard }).await? {
            Reply::Moved(moved) => Ok(moved),
            other => Err(other.unexpected("a move")),
        }
    }

    /// Merges a range with `right`, its right neighbour, whose keys it gets. Both must have their replicas on the same nodes. Requests
    /// of the right one's keys wait meanwhile, for a moment mostly and for 3 s at most.
    ///
    /// # Errors
    /// See [`Error`]; with code `RangeBusy` when not every node with a replica gets ready in time: both ranges stay as they are.
    pub async fn merge_range(&self, range: RangeId, right: RangeId) -> Result<Merged, Error> {
        match self.pool.call(&Request::Merge { range, right }).await? {
            Reply::Merged(merged) => Ok(merged),
            other => Err(other.unexpected("a merge")),
        }
    }

    /// Sees to it that the replicas of a range are on exactly these nodes, and that `leader` leads it if that is given. No nodes: they
    /// stay where they are. New replicas get the range's state before others are removed, so it takes as long as that; after an
    /// error the same call goes on where this one ended.
    ///
    /// # Errors
    /// See [`Error`]; with code `RangeBusy` when it takes longer than the deadline.
    pub async fn place_range(
        &self,
        range: RangeId,
        nodes: &[NodeId],
        leader: Option<NodeId>,
    ) -> Result<Placed, Error> {
        let nodes: Vec<u64> = nodes.iter().map(|node| node.0).collect();
        let request = Request::Place {
            range,
            nodes: &nodes,
            leader,
        };
        match self.pool.call(&request).await? {
            Reply::Placed(placed) => Ok(placed),
            other => Err(other.unexpected("a placement")),
        }
    }

    /// Why the replicas of a range are where they are, who leads it and why, and what is to be done about it: sentences for people.
    /// The node that leads the first range is asked, which looks after the others.
    ///
    /// # Errors
    /// See [`Error`]; with code `InvalidRequest` when the cluster leaves its replicas to people.
    pub async fn explain_range(&self, range: RangeId) -> Result<Vec<String>, Error> {
        match self.pool.call(&Request::Explain { range }).await? {
            Reply::Explained(text) => Ok(text.lines().map(str::to_owned).collect()),
            other => Err(other.unexpected("an explanation")),
        }
    }

    /// Says how a node of a cluster is meant to be used from now on. Leaderships and replicas that it is not to have go elsewhere
    /// afterwards, in the course of time.
    ///
    /// # Errors
    /// See [`Error`]; with code `InvalidRequest` when the cluster has no such node, or leaves its replicas to people.
    pub async fn use_node(&self, node: NodeId, usage: NodeUse) -> Result<(), Error> {
        let state = usage as u8;
        match self.pool.call(&Request::Stand { node, state }).await? {
            Reply::Stands => Ok(()),
            other => Err(other.unexpected("a standing")),
        }
    }

    /// Forgets a node of a cluster for good: one that is dead or was emptied, and has no replicas. Its number is never used again, and
    /// when it comes back it is refused. Durable on most nodes of the first range afterwards.
    ///
    /// # Errors
    /// See [`Error`]; with code `InvalidRequest` when the cluster has no such node, when the node still has replicas or is live and was
    /// not emptied, or when the cluster leaves its replicas to people.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), Error> {
        let state = NODE_REMOVED;
        match self.pool.call(&Request::Stand { node, state }).await? {
            Reply::Stands => Ok(()),
            other => Err(other.unexpected("a removal")),
        }
    }

    /// All policies of the cluster: what is wished for which keys.
    ///
    /// # Errors
    /// See [`Error`]; with code `InvalidRequest` when the cluster leaves its replicas to people.
    pub async fn policies(&self) -> Result<Policies, Error> {
        match self.pool.call(&Request::Policies).await? {
            Reply::Policies(policies) => Ok(policies),
            other => Err(other.unexpected("a request for policies")),
        }
    }

    /// Says what is wished for the keys that begin with `prefix`, instead of what was wished for that prefix before; the empty prefix
    /// is for all keys that have no other policy. Replicas and leaderships move afterwards, in the course of time. When it returns,
    /// most nodes of the first range have it durably, so that no death of one of several loses it.
    ///
    /// # Errors
    /// See [`Error`]; with code `InvalidRequest` when it cannot be wished, or when the cluster leaves its replicas to people. After
    /// another error it may come to count all the same.
    pub async fn set_policy(&self, prefix: impl AsRef<[u8]>, policy: &Policy) -> Result<PolicyChange, Error> {
        let said = Said::new(policy);
        self.change_policy(prefix.as_ref(), Some(&said)).await
    }

    /// Wishes nothing for `prefix` any more: the policy of a shorter prefix decides, or the one of all keys.
    ///
    /// # Errors
    /// As [`Self::set_policy`].
    pub async fn remove_policy(&self, prefix: impl AsRef<[u8]>) -> Result<PolicyChange, Error> {
        self.change_policy(prefix.as_ref(), None).await
    }

    async fn change_policy(&self, prefix: &[u8], said: Option<&Said>) -> Result<PolicyChange, Error> {
        let wish = said.map(Said::to_wire);
        match self.pool.call(&Request::SetPolicy { prefix, wish }).await? {
            Reply::PolicySet(change) => Ok(change),
            other => Err(other.unexpected("a change of policies")),
        }
    }

    /// Every range, by start key, as the home node knows them now, and those of which it has no replica as other nodes do. In a cluster
    /// ranges are missing of which no node that answers has a replica.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ranges(&self) -> Result<Vec<RangeInfo>, Error> {
        self.pool.all_ranges().await
    }

    /// The nodes of the cluster and where clients reach them, as the home node knows them; none when it is alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn nodes(&self) -> Result<Vec<(NodeId, Address)>, Error> {
        match self.pool.call(&Request::RangeMap).await? {
            Reply::RangeMap { nodes, .. } => Ok(nodes),
            other => Err(other.unexpected("a request for the range map")),
        }
    }

    /// The home node's status as a JSON object.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&self) -> Result<String, Error> {
        self.ask_status(false).await
    }

    /// As [`Self::status`], with each replica of the node in `replicas` and checksums of what it has, to compare with those of other
    /// nodes. The node reads all its data for it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status_with_replicas(&self) -> Result<String, Error> {
        self.ask_status(true).await
    }

    async fn ask_status(&self, replicas: bool) -> Result<String, Error> {
        match self.pool.call(&Request::Status { replicas }).await? {
            Reply::Status(json) => Ok(json),
            other => Err(other.unexpected("a request for the status")),
        }
    }

    /// What the home node said about itself when a connection to it was made.
    #[must_use]
    pub fn node(&self) -> Option<NodeInfo> {
        self.pool.node()
    }

    /// Sends `payload` to a shard of the home node and back: no storage is involved.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn echo(&self, payload: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        match self
            .pool
            .call(&Request::Echo {
                payload: payload.as_ref(),
            })
            .await?
        {
            Reply::Echo(payload) => Ok(payload),
            other => Err(other.unexpected("an echo")),
        }
    }

    /// Writes `bytes` raw bytes (a multiple of 4096) durably on the node's data device and forgets them: what a write costs
    /// there at least.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn disk_write(&self, bytes: u32) -> Result<(), Error> {
        match self.pool.call(&Request::DiskWrite { bytes }).await? {
            Reply::DiskWritten => Ok(()),
            other => Err(other.unexpected("a disk write")),
        }
    }

    /// The limits of the server, for callers that build batches.
    #[must_use]
    pub fn batch_bytes_max(&self) -> u64 {
        self.pool
            .limits()
            .map_or(base::limits::BATCH_BYTES_MAX as u64, |limits: Limits| {
                limits.batch_bytes
            })
    }
}

fn written(reply: Reply) -> Result<Timestamp, Error> {
    match reply {
        Reply::Written(ts) => Ok(ts),
        Reply::ConditionFailed { condition, found, ts } => {
            Err(Error::ConditionFailed { condition, found, ts })
        }
        other => Err(other.unexpected("a write")),
    }
}

fn swap(reply: Reply) -> Result<Swap, Error> {
    match reply {
        Reply::Written(ts) => Ok(Swap::Written(ts)),
        Reply::ConditionFailed { found, ts, .. } => Ok(Swap::Refused { found, ts }),
        other => Err(other.unexpected("a conditional write")),
    }
}

fn spans_ranges(error: &Error) -> bool {
    error.code() == wire::Code::BatchSpansRanges
}

#[expect(
    dead_code,
    reason = "compiles only while the handle and its futures may cross threads"
)]
fn assert_shareable(db: &Db) {
    fn shareable<T: Send + Sync + Clone + 'static>(_: &T) {}
    fn sendable(_: impl Future + Send) {}
    shareable(db);
    sendable(db.get("k"));
    sendable(db.get_stale("k", Staleness::AtMost(core::time::Duration::ZERO)));
    sendable(db.put("k", "v"));
    sendable(db.delete_range("a".."b"));
    sendable(async { db.scan(..).rows().next().await });
}
