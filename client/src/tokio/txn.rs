//! One transaction: a handle for its caller, and a task that drives it until nothing of it is left to do.
//!
//! ```text
//!   Txn ── calls ──► task: Driver ── parts, each on a task of its own ──► connections
//!    ▲                 │  ▲                                                   │
//!    └──── answers ────┘  └──────────────── what became of them ──────────────┘
//! ```
//!
//! The task outlives the handle: it takes back what was left open, and finishes what was committed.

use super::part::Part;
use super::pool::{Pool, WriteNumber};
use crate::request::Request;
use crate::span::checked;
use crate::transaction::{Pairs, TxnOptions, TxnOutcome, TxnRef, failure};
use crate::{Error, KeySpan};
use base::Timestamp;
use base::api::{ReadAt, WriteOp};
use base::key::Span;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use txn::coordinator::{self, Answer};
use txn::driver::{Config, Driver, Out, Ticket};
use txn::locks::Strength;
use txn::{Bytes, Keys};

/// What is buffered is laid as intents from this on, in bytes and in writes.
const BUFFER_BYTES_MAX: usize = 1 << 20;
const BUFFER_WRITES_MAX: usize = 4096;
/// Parts under way from which on a call waits.
const PARTS_MAX: usize = 16;
/// Rows of one page of a scan.
const PAGE_ROWS: usize = 4096;
/// Bytes of a name that are kept.
const NAME_BYTES_MAX: usize = 256;
/// How long the number of a transaction whose outcome is unknown is not used up, so that ranges remember it.
const UNKNOWN_KEPT: Duration = Duration::from_secs(60);

/// A place to which writes can be taken back: [`Txn::rollback_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Savepoint(coordinator::Savepoint);

#[derive(Debug)]
enum Call {
    Read(Vec<Bytes>, Option<Strength>),
    Scan(Span, usize),
    Write(Bytes, Option<Bytes>),
    DeleteRange(Span),
    Savepoint,
    ReturnTo(Savepoint),
    Commit,
    RollBack,
}

#[derive(Debug)]
enum Value {
    Done,
    Values(Vec<Option<Bytes>>),
    Rows(Vec<(Bytes, Bytes)>, Option<Bytes>),
    Deleted(usize),
    Savepoint(Savepoint),
    Committed(Timestamp),
}

type Told = oneshot::Sender<Result<Value, Error>>;

#[derive(Debug)]
enum Event {
    Call(Call, Told),
    Part(Ticket, Part),
    /// The last handle is gone.
    Dropped,
}

/// How the transaction ended for its caller.
type Ended = Arc<Mutex<Option<Error>>>;

fn lock(ended: &Ended) -> MutexGuard<'_, Option<Error>> {
    ended.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    pool: Arc<Pool>,
    events: mpsc::UnboundedSender<Event>,
    ended: Ended,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task may have ended.
        let _ = self.events.send(Event::Dropped);
    }
}

impl Txn {
    /// Begins one. `until` limits all of it.
    pub(crate) async fn begin(
        pool: &Arc<Pool>,
        options: &TxnOptions,
        until: Option<Instant>,
        is_short: bool,
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + pool.options.deadline;
        let deadline = until.map_or(deadline, |until| until.min(deadline));
        if pool.map_version() == 0 {
            pool.refresh_ranges(1, deadline).await?;
        }
        let (now, most) = pool.clock(deadline).await?;
        let number = if is_short {
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
        let (events, calls) = mpsc::unbounded_channel();
        let ended = Ended::default();
        let task = Task {
            pool: pool.clone(),
            driver,
            number,
            inbox: calls,
            events: events.clone(),
            ended: ended.clone(),
            until,
            waiting: None,
            queue: VecDeque::new(),
            parts: 0,
            buffered: (0, 0),
            late: None,
            is_late: false,
            last: None,
            is_dropped: false,
        };
        tokio::spawn(task.run());
        let inner = Inner {
            pool: pool.clone(),
            events,
            ended,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    async fn call(&self, call: Call) -> Result<Value, Error> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let is_commit = matches!(call, Call::Commit);
        let (told, answer) = oneshot::channel();
        let is_sent = self.inner.events.send(Event::Call(call, told)).is_ok();
        match answer.await {
            Ok(answer) => answer,
            // The task has ended.
            Err(_) => Err(self.failure().unwrap_or(if is_sent && is_commit {
                Error::Ambiguous {
                    after: self.inner.pool.options.deadline,
                    cause: "the client was shut down".to_owned(),
                }
            } else {
                Error::Closed
            })),
        }
    }

    /// Why further calls fail, when they do: it has failed, or it is over.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        lock(&self.inner.ended).clone()
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        match self.inner.pool.limits() {
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

    /// The newest value of `key`, for what will be written: the snapshot moves there, so that nobody was first afterwards. Where nodes
    /// keep locks, others cannot write the key until the transaction ends; no promise rests on that.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_for_update(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.read_one(key.as_ref(), Some(Strength::Exclusive)).await
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

    /// As [`Self::get_many`], each for update.
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
            let ranges = self.txn.inner.pool.ranges();
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

impl Value {
    fn unexpected(&self) -> Error {
        Error::Protocol {
            what: format!("a call of a transaction was answered by {self:?}"),
        }
    }
}

/// Who waits for an answer.
struct Waiting {
    told: Told,
    deadline: Instant,
    is_commit: bool,
    is_rollback: bool,
}

struct Task {
    pool: Arc<Pool>,
    driver: Driver,
    number: WriteNumber,
    inbox: mpsc::UnboundedReceiver<Event>,
    events: mpsc::UnboundedSender<Event>,
    ended: Ended,
    until: Option<Instant>,
    waiting: Option<Waiting>,
    queue: VecDeque<(Call, Told)>,
    parts: usize,
    /// Bytes and writes since the last flush.
    buffered: (usize, usize),
    /// Why it was abandoned, which is what the call that waits is told when it has failed.
    late: Option<Error>,
    /// Time is over: the call that waits is told that nothing is known, unless something is.
    is_late: bool,
    /// What the last part that was lost ended with.
    last: Option<Error>,
    is_dropped: bool,
}

impl Task {
    async fn run(mut self) {
        loop {
            self.take_calls();
            let (mut is_over, mut looks) = (false, false);
            for out in self.driver.poll(self.pool.elapsed_ns(), self.pool.places()) {
                match out {
                    Out::Send { ticket, part } => {
                        self.parts += 1;
                        self.pool.send_part(ticket, part, &self.events, Event::Part);
                    }
                    Out::Look => looks = true,
                    Out::Answer(answer) => self.on_answer(answer),
                    Out::Over => is_over = true,
                    Out::Cleared(_) => {}
                }
            }
            if is_over {
                return self.finish();
            }
            if self.is_late && self.waiting.is_some() {
                // What became of it is found out in the background.
                let error = self.unknown(self.late.as_ref().unwrap_or(&Error::Closed));
                self.end(error.clone());
                self.tell(Err(error));
            }
            if looks {
                self.pool.look_again().await;
            }
            if self.queue.is_empty() || !self.may_call() {
                self.wait().await;
            }
        }
    }

    fn may_call(&self) -> bool {
        self.waiting.is_none() && self.driver.is_ready() && self.parts < PARTS_MAX
    }

    /// Does calls, as far as none waits for an answer.
    fn take_calls(&mut self) {
        let ended = lock(&self.ended).clone();
        if let Some(error) = ended {
            for (_, told) in self.queue.drain(..) {
                // Who asked may have gone.
                let _ = told.send(Err(error.clone()));
            }
        }
        while self.may_call()
            && let Some((call, told)) = self.queue.pop_front()
        {
            self.begin_call(call, told);
        }
    }

    fn begin_call(&mut self, call: Call, told: Told) {
        let (is_commit, is_rollback) = (matches!(call, Call::Commit), matches!(call, Call::RollBack));
        let value = match call {
            Call::Read(keys, None) => {
                self.driver.read(keys);
                None
            }
            Call::Read(keys, Some(strength)) => {
                self.driver.read_locked(keys, strength);
                None
            }
            Call::Scan(span, rows_max) => {
                self.driver.scan(keys_of(span), rows_max);
                None
            }
            Call::Write(key, value) => {
                let bytes = key.len() + value.as_ref().map_or(0, |value| value.len());
                self.driver.write(key, value);
                self.buffered = (self.buffered.0 + bytes, self.buffered.1 + 1);
                if self.buffered.0 >= BUFFER_BYTES_MAX || self.buffered.1 >= BUFFER_WRITES_MAX {
                    self.buffered = (0, 0);
                    self.driver.flush();
                }
                Some(Value::Done)
            }
            Call::DeleteRange(span) => {
                self.driver.delete_range(keys_of(span));
                None
            }
            Call::Savepoint => Some(Value::Savepoint(Savepoint(self.driver.savepoint()))),
            Call::ReturnTo(Savepoint(to)) => {
                self.driver.return_to(to);
                Some(Value::Done)
            }
            Call::Commit => {
                self.driver.commit();
                None
            }
            Call::RollBack => {
                self.driver.roll_back();
                None
            }
        };
        if let Some(value) = value {
            // Who asked may have gone.
            let _ = told.send(Ok(value));
            return;
        }
        let deadline = Instant::now() + self.pool.options.deadline;
        self.waiting = Some(Waiting {
            told,
            deadline: self.until.map_or(deadline, |until| until.min(deadline)),
            is_commit,
            is_rollback,
        });
    }

    /// Waits for an event or a time, and takes it in.
    async fn wait(&mut self) {
        let wake = self.driver.wake_at_ns().map(|ns| self.pool.instant(ns));
        let deadline = match &self.waiting {
            Some(waiting) => Some(waiting.deadline),
            None if self.is_dropped || lock(&self.ended).is_some() => None,
            None => self.until,
        };
        let event = match wake.into_iter().chain(deadline).min() {
            Some(until) => tokio::time::timeout_at(until.into(), self.inbox.recv())
                .await
                .ok(),
            None => Some(self.inbox.recv().await),
        };
        let now_ns = self.pool.elapsed_ns();
        match event.flatten() {
            Some(Event::Call(call, told)) => self.queue.push_back((call, told)),
            Some(Event::Part(ticket, part)) => {
                self.parts = self.parts.saturating_sub(1);
                match part {
                    Part::Answered(answer) => self.driver.on_answer(ticket, answer, now_ns),
                    Part::Lost(error) => {
                        self.last = Some(error);
                        self.driver.on_lost(ticket, now_ns);
                    }
                    Part::Refused(error) => {
                        // Nothing goes out again that would be refused again.
                        self.late.get_or_insert(error);
                        self.driver.abandon();
                    }
                }
            }
            Some(Event::Dropped) => self.leave(),
            None => {}
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.give_up();
        }
    }

    /// The last handle is gone: a commit goes on, everything else is taken back.
    fn leave(&mut self) {
        self.is_dropped = true;
        self.queue.clear();
        if self.waiting.as_ref().is_some_and(|waiting| waiting.is_commit) {
            return;
        }
        self.waiting = None;
        if lock(&self.ended).is_some() {
            return;
        }
        self.end(Error::TransactionOver);
        self.driver.abandon();
    }

    /// Time is over.
    fn give_up(&mut self) {
        self.is_late = true;
        if self.late.is_none() {
            self.late = Some(Error::DeadlineExceeded {
                after: self.pool.options.deadline,
                last: self.last.take().map(Box::new),
            });
            self.driver.abandon();
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        let value = match answer {
            Answer::Values(values) => Value::Values(values),
            Answer::Rows { rows, next } => Value::Rows(rows, next),
            Answer::Deleted(keys) => Value::Deleted(keys.len()),
            Answer::Committed { ts, not_before } => {
                self.pool
                    .remember(TxnRef::of(self.driver.who()), TxnOutcome::Committed(ts));
                self.pool.saw(ts);
                self.end(Error::TransactionOver);
                return self.tell_committed(ts, not_before);
            }
            Answer::Failed(error) => {
                self.pool
                    .remember(TxnRef::of(self.driver.who()), TxnOutcome::Aborted);
                let is_rollback = self.waiting.as_ref().is_some_and(|waiting| waiting.is_rollback);
                let error = match self.late.take() {
                    Some(late) => late,
                    None => failure(error),
                };
                self.end(error.clone());
                return self.tell(if is_rollback { Ok(Value::Done) } else { Err(error) });
            }
            Answer::Unknown => {
                let cause = self.late.take().or_else(|| self.last.take());
                let error = self.unknown(&cause.unwrap_or(Error::Closed));
                self.end(error.clone());
                return self.tell(Err(error));
            }
        };
        self.tell(Ok(value));
    }

    /// Commit-wait: every clock of the cluster has to have passed the timestamp.
    fn tell_committed(&mut self, ts: Timestamp, not_before: Timestamp) {
        let Some(Waiting { told, .. }) = self.waiting.take() else {
            return;
        };
        if not_before == Timestamp::ZERO {
            let _ = told.send(Ok(Value::Committed(ts)));
            return;
        }
        let shown = self.pool.clock_bounds().map_or(Timestamp::ZERO, |(low, _)| low);
        let ahead = Duration::from_nanos(not_before.wall_ns.saturating_sub(shown.wall_ns));
        // A node's clock may show more than its machine's: never less than the bound.
        let pause = ahead.max(self.pool.clock_bound());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = told.send(Ok(Value::Committed(ts)));
        });
    }

    fn unknown(&self, cause: &Error) -> Error {
        Error::CommitUnknown {
            txn: TxnRef::of(self.driver.who()),
            cause: cause.to_string(),
        }
    }

    fn tell(&mut self, answer: Result<Value, Error>) {
        if let Some(waiting) = self.waiting.take() {
            // Who asked may have gone.
            let _ = waiting.told.send(answer);
        }
    }

    fn end(&self, error: Error) {
        lock(&self.ended).get_or_insert(error);
    }

    /// Nothing is left to do. Whoever still calls is told why that is too late.
    fn finish(mut self) {
        self.end(Error::TransactionOver);
        let error = lock(&self.ended).clone().unwrap_or(Error::TransactionOver);
        self.tell(Err(error.clone()));
        for (_, told) in self.queue.drain(..) {
            let _ = told.send(Err(error.clone()));
        }
        if self.pool.recall(&TxnRef::of(self.driver.who())).is_none() {
            let number = self.number;
            tokio::spawn(async move {
                tokio::time::sleep(UNKNOWN_KEPT).await;
                drop(number);
            });
        }
    }
}

fn keys_of(span: Span) -> Keys {
    Keys::Span((*span.start).into(), span.end.map(|end| (*end).into()))
}
