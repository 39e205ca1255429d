//! One transaction: a handle for its caller.

mod task;

use super::one_shot::Changed;
use super::pool::Pool;
use crate::one_shot::unmet;
use crate::request::Request;
use crate::span::checked;
use crate::transaction::{Attempts, Pairs, TxnOptions};
use crate::{Error, KeySpan};
use base::api::{ReadAt, WriteOp};
use base::key::Span;
use base::modification::parse;
use base::{Modification, Timestamp};
use core::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;
use task::{Call, Value};
use txn::Bytes;
use txn::change::{Change, OneShot};
use txn::coordinator;
use txn::driver::{Config, Driver};
use txn::locks::Strength;

pub(crate) use task::Shared;

/// Rows of one page of a scan.
const PAGE_ROWS: usize = 4096;
/// Bytes of a name that are kept.
const NAME_BYTES_MAX: usize = 256;
/// Answers to one request that may be lost.
const RESENDS_MAX: u8 = 200;

/// A place to which writes can be taken back: [`Txn::rollback_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Savepoint(coordinator::Savepoint);

/// A transaction: from [`crate::Db::begin`], or in the closure of [`crate::Db::transaction`]. Reads see one snapshot and the
/// transaction's own writes; others see nothing of it before [`Self::commit`], and then all of it.
///
/// Clones are the same transaction; calls are done one after the other. When the last one is dropped without a commit, everything is
/// taken back in the background.
///
/// # Cancellation
/// Dropping the future of a call leaves the call to be done. Dropping that of a commit leaves the outcome unknown.
#[derive(Debug, Clone)]
pub struct Txn {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

impl Txn {
    /// Begins one that is run again when it has failed, and then is as old as it was. `until` limits all of it.
    pub(crate) async fn begin_again(
        pool: &Arc<Pool>,
        options: &TxnOptions,
        until: Instant,
        attempts: &mut Attempts,
    ) -> Result<Self, Error> {
        Self::begin_at(pool, options, Some(until), Some(attempts)).await
    }

    /// Begins one that its caller ends. `until` limits all of it.
    pub(crate) async fn begin(
        pool: &Arc<Pool>,
        options: &TxnOptions,
        until: Option<Instant>,
    ) -> Result<Self, Error> {
        Self::begin_at(pool, options, until, None).await
    }

    async fn begin_at(
        pool: &Arc<Pool>,
        options: &TxnOptions,
        until: Option<Instant>,
        attempts: Option<&mut Attempts>,
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + pool.options.deadline;
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        if pool.maps_seen() == 0 {
            pool.refresh_beyond(0, deadline).await?;
        }
        let (now, most) = pool.clock(deadline).await?;
        let number = if attempts.is_some() {
            let number = tokio::time::timeout_at(deadline.into(), pool.begin_write());
            number.await.map_err(|_| pool.late())?
        } else {
            pool.begin_long()
        };
        let id = number.id();
        let id = txn::TxnId {
            client: id.client,
            seq: id.seq,
        };
        let mut config = Config::default();
        let bound = pool.clock_bound();
        config.coordinator.clock_bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // A node that holds writes back until it has flushed some is silent for longer than it takes to lose a few answers; how long that
        // may last is up to the deadlines of calls and of the transaction.
        config.coordinator.resends_max = RESENDS_MAX;
        let limit = most.plus_ns(config.coordinator.clock_bound_ns);
        let name = &options.name[..options.name.floor_char_boundary(NAME_BYTES_MAX)];
        let driver = Driver::begin(
            config,
            (id, name),
            (options.isolation, options.priority),
            (now, limit),
            pool.elapsed_ns(),
            pool.prng().next_u64(),
        );
        let since = attempts.map_or(now, |attempts| *attempts.since.get_or_insert(now));
        let driver = driver.as_old_as(since);
        let shared = Shared::new(pool.clone(), driver, number, until);
        Ok(Self {
            inner: Arc::new(Inner { shared }),
        })
    }

    async fn call(&self, call: Call) -> Result<Value, Error> {
        self.inner.shared.call(call).await
    }

    fn pool(&self) -> &Arc<Pool> {
        self.inner.shared.pool()
    }

    /// Why further calls fail, when they do: it has failed, or it is over.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.inner.shared.failure()
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        match self.pool().limits() {
            Some(limits) => limits.check(request),
            None => Ok(()),
        }
    }

    async fn read(&self, keys: Vec<Bytes>, lock: Option<Strength>) -> Result<Vec<Option<Vec<u8>>>, Error> {
        for key in &keys {
            let at = ReadAt::Newest;
            self.check(&Request::Get { key, at })?;
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        match self.call(Call::Read(keys, lock)).await? {
            Value::Values(values) => Ok(values
                .into_iter()
                .map(|value| value.map(|value| value.to_vec()))
                .collect()),
            other => Err(other.unexpected()),
        }
    }

    async fn read_one(&self, key: &[u8], lock: Option<Strength>) -> Result<Option<Vec<u8>>, Error> {
        let values = self.read(vec![key.into()], lock).await?;
        Ok(values.into_iter().next().flatten())
    }

    /// The value of `key`, as the transaction sees it.
    ///
    /// # Errors
    /// [`Error::Conflict`] or [`Error::Aborted`] when the transaction has failed: nothing of it is or will be visible. See [`Error`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.read_one(key.as_ref(), None).await
    }

    /// The newest value of `key`, for what will be written: the snapshot moves there, so that nobody was first afterwards. Other
    /// transactions that lock the key, or write it without having read anything, wait until this one ends, in the order of their
    /// arrival. No promise rests on that: a lock may be lost when another node begins to lead the range, and then this transaction may
    /// fail as any other. Writes outside of transactions do not wait for locks.
    ///
    /// Several keys are better locked by one [`Self::get_many_for_update`] than one after the other: it knows in which order.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_for_update(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.read_one(key.as_ref(), Some(Strength::Exclusive)).await
    }

    /// The newest value of `key`, which others may read so, too, and nobody writes until the transaction ends; as far as
    /// [`Self::get_for_update`] promises that.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_for_share(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.read_one(key.as_ref(), Some(Strength::Shared)).await
    }

    /// The values of several keys, in that order, all asked for at once.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = keys.into_iter().map(|key| key.as_ref().into()).collect();
        self.read(keys, None).await
    }

    /// As [`Self::get_many`], each for update. Keys that others wait for are locked first.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_many_for_update<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = keys.into_iter().map(|key| key.as_ref().into()).collect();
        self.read(keys, Some(Strength::Exclusive)).await
    }

    /// As [`Self::get_many_for_update`], each shared with others ([`Self::get_for_share`]).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_many_for_share<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = keys.into_iter().map(|key| key.as_ref().into()).collect();
        self.read(keys, Some(Strength::Shared)).await
    }

    /// Keys and values of `span` in order, as the transaction sees them.
    pub fn scan(&self, span: impl KeySpan) -> TxnScan {
        TxnScan {
            txn: self.clone(),
            rest: checked(span).map(Some),
            limit: usize::MAX,
        }
    }

    /// Sets `key` to `value`. What is written is gathered and sent with the commit, or before when it is much.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.check(&Request::Put { key, value })?;
        self.done(Call::Write(key.into(), Some(value.into()))).await
    }

    /// Removes `key`, whether it has a value or not.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = key.as_ref();
        let ops = [WriteOp::Delete { key }];
        let conditions = &[];
        self.check(&Request::Write {
            conditions,
            ops: &ops,
        })?;
        self.done(Call::Write(key.into(), None)).await
    }

    /// Changes the value of `key` by what it is, and says what it is now. It is worked out from the newest value, or from what the
    /// transaction has written itself, by the range's leader, which lays the write in the same round. Others that want to write the key,
    /// or to lock it, wait until the transaction ends, as after [`Self::get_for_update`]; other than those of [`crate::Db::modify`],
    /// modifications in transactions wait for each other.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] when the bounds do not allow it, and with code `NotANumber` when the value is not a number and has to be:
    /// nothing was changed, the value counts as read, and the transaction goes on. And as [`Self::get`].
    pub async fn modify(&self, key: impl AsRef<[u8]>, by: Modification<'_>) -> Result<Vec<u8>, Error> {
        let key = key.as_ref();
        self.check(&Request::Modify { key, by })?;
        let change = Change::from(&by);
        match self.call(Call::Change(key.into(), change.clone())).await? {
            Value::Changed(value) => Ok(value.map(|value| value.to_vec()).unwrap_or_default()),
            Value::Unmet(of) => Err(unmet(*of, Some(&change))),
            other => Err(other.unexpected()),
        }
    }

    async fn modify_number(&self, key: impl AsRef<[u8]>, by: Modification<'_>) -> Result<i64, Error> {
        let value = self.modify(key, by).await?;
        parse(&value).map_err(|_| Error::Protocol {
            what: "a modification made something of a number that is none".to_owned(),
        })
    }

    /// Adds `delta` to the number that `key` has, and says the sum; a key without a value counts as zero. See [`Self::modify`].
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        self.add_within(key, delta, i64::MIN..=i64::MAX).await
    }

    /// As [`Self::add`], if the sum lies within `bounds`.
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub async fn add_within(
        &self,
        key: impl AsRef<[u8]>,
        delta: i64,
        bounds: RangeInclusive<i64>,
    ) -> Result<i64, Error> {
        let (min, max) = bounds.into_inner();
        self.modify_number(key, Modification::Add { delta, min, max })
            .await
    }

    /// Sets `key` to the lesser of its number and `value`, and says which that is. See [`Self::modify`].
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub async fn min(&self, key: impl AsRef<[u8]>, value: i64) -> Result<i64, Error> {
        self.modify_number(key, Modification::Min { value }).await
    }

    /// Sets `key` to the greater of its number and `value`, and says which that is. See [`Self::modify`].
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub async fn max(&self, key: impl AsRef<[u8]>, value: i64) -> Result<i64, Error> {
        self.modify_number(key, Modification::Max { value }).await
    }

    /// Appends `bytes` to the value of `key`, if it has no more than `len_max` bytes then, and says what it is now. See [`Self::modify`].
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub async fn append(
        &self,
        key: impl AsRef<[u8]>,
        bytes: impl AsRef<[u8]>,
        len_max: u32,
    ) -> Result<Vec<u8>, Error> {
        let bytes = bytes.as_ref();
        self.modify(key, Modification::Append { bytes, len_max }).await
    }

    /// All of a transaction, with its commit: when it committed, and what ranges said that they made of keys.
    pub(super) async fn one_shot(&self, shot: OneShot) -> Result<(Timestamp, Changed), Error> {
        match self.call(Call::OneShot(shot)).await? {
            Value::Committed(ts) => Ok((ts, self.inner.shared.changed())),
            other => Err(other.unexpected()),
        }
    }

    /// Removes every key of `span` that the transaction sees a value of, and says how many these were. It is a read of the span, too.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete_range(&self, span: impl KeySpan) -> Result<usize, Error> {
        let span = checked(span)?;
        if span.is_empty() {
            return Ok(0);
        }
        match self.call(Call::DeleteRange(span)).await? {
            Value::Deleted(keys) => Ok(keys),
            other => Err(other.unexpected()),
        }
    }

    /// A place to which writes can be taken back.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn savepoint(&self) -> Result<Savepoint, Error> {
        match self.call(Call::Savepoint).await? {
            Value::Savepoint(savepoint) => Ok(savepoint),
            other => Err(other.unexpected()),
        }
    }

    /// Takes back what was written since `savepoint`, which must be one of this transaction. What was read stays read.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn rollback_to(&self, savepoint: Savepoint) -> Result<(), Error> {
        self.done(Call::ReturnTo(savepoint)).await
    }

    /// Makes everything visible at once, durably, and says at which timestamp.
    ///
    /// # Errors
    /// [`Error::Conflict`] or [`Error::Aborted`] when nothing of it is or will be visible: run it again, when
    /// [`Error::is_retryable`]. [`Error::CommitUnknown`] when that cannot be said: see [`crate::Db::outcome`].
    pub async fn commit(&self) -> Result<Timestamp, Error> {
        match self.call(Call::Commit).await? {
            Value::Committed(ts) => Ok(ts),
            other => Err(other.unexpected()),
        }
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn rollback(&self) -> Result<(), Error> {
        self.done(Call::RollBack).await
    }

    async fn done(&self, call: Call) -> Result<(), Error> {
        match self.call(call).await? {
            Value::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }
}

/// A scan in a transaction: page by page, or all of it.
#[derive(Debug)]
pub struct TxnScan {
    txn: Txn,
    rest: Result<Option<Span>, Error>,
    limit: usize,
}

impl TxnScan {
    /// At most `rows` rows.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    /// The next keys and values, never none, or `None` after the last.
    ///
    /// # Errors
    /// As [`Txn::get`].
    pub async fn next_page(&mut self) -> Result<Option<Pairs>, Error> {
        loop {
            let Some(span) = self.rest.clone()? else {
                return Ok(None);
            };
            if span.is_empty() || self.limit == 0 {
                return Ok(None);
            }
            let rows_max = self.limit.min(PAGE_ROWS);
            let end = span.end.clone();
            // Of one range at a time: what is behind follows.
            let ranges = self.txn.pool().ranges();
            let bound: Option<Box<[u8]>> = ranges.bound_after(&span.start).map(Box::from);
            let clipped = match (end.clone(), bound) {
                (Some(end), Some(bound)) => Some(end.min(bound)),
                (end, bound) => end.or(bound),
            };
            let asked = Span::new(&span.start, clipped.as_deref());
            let Value::Rows(rows, next) = self.txn.call(Call::Scan(asked, rows_max)).await? else {
                return Ok(None);
            };
            let next: Option<Box<[u8]>> = next.map(|next| (*next).into()).or(clipped);
            self.rest = Ok(match next {
                Some(next) if end.as_ref().is_none_or(|end| next < *end) => {
                    Some(Span::new(&next, end.as_deref()))
                }
                Some(_) | None => None,
            });
            self.limit -= rows.len().min(self.limit);
            if !rows.is_empty() {
                let row = |(key, value): (Bytes, Bytes)| (key.to_vec(), value.to_vec());
                return Ok(Some(rows.into_iter().map(row).collect()));
            }
        }
    }

    /// All the rows that are left.
    ///
    /// # Errors
    /// As [`Txn::get`].
    pub async fn collect(mut self) -> Result<Pairs, Error> {
        let mut all = Vec::new();
        while let Some(page) = self.next_page().await? {
            all.extend(page);
        }
        Ok(all)
    }
}
