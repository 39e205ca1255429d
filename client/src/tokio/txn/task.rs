//! What is done for one transaction: its driver, the calls that wait, and the task that speaks to the cluster for it.
//!
//! ```text
//!   Txn ── calls ──► Shared: Driver, calls that wait ◄── what became of ends ── those that go together with others
//!    ▲                 ▲  │
//!    └──── answers ────┘  └──► task: parts under way, the time ──► connections
//! ```
//!
//! A call that asks nobody, such as a write that is only gathered, is done by its caller. The task begins with the first call that asks a
//! range, and ends when nothing is left to do: it outlives the handles, takes back what they left open, and finishes what was committed.

use super::Savepoint;
use crate::Error;
use crate::tokio::flights::Flights;
use crate::tokio::part::Part;
use crate::tokio::pool::{Pool, WriteNumber};
use crate::transaction::{TxnOutcome, TxnRef, failure};
use base::Timestamp;
use base::key::Span;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;
use txn::change::{Change, OneShot, Unmet};
use txn::coordinator::Answer;
use txn::driver::together::may_join;
use txn::driver::{Driver, Out, Ticket};
use txn::locks::Strength;
use txn::request::Answer as RangeAnswer;
use txn::{Bytes, Keys, Refusal};

/// What is buffered is laid as intents from this on, in bytes and in writes.
const BUFFER_BYTES_MAX: usize = 1 << 20;
const BUFFER_WRITES_MAX: usize = 4096;
/// Parts under way from which on a call waits.
const PARTS_MAX: usize = 16;
/// How long the number of a transaction whose outcome is unknown is not used up, so that ranges remember it.
const UNKNOWN_KEPT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum Call {
    Read(Vec<Bytes>, Option<Strength>),
    Scan(Span, usize),
    Write(Bytes, Option<Bytes>),
    Change(Bytes, Change),
    OneShot(OneShot),
    DeleteRange(Span),
    Savepoint,
    ReturnTo(Savepoint),
    Commit,
    RollBack,
}

#[derive(Debug)]
pub(super) enum Value {
    Done,
    Values(Vec<Option<Bytes>>),
    Rows(Vec<(Bytes, Bytes)>, Option<Bytes>),
    Deleted(usize),
    Changed(Option<Bytes>),
    Unmet(Box<Unmet>),
    Savepoint(Savepoint),
    Committed(Timestamp),
}

impl Value {
    pub(super) fn unexpected(&self) -> Error {
        Error::Protocol {
            what: format!("a call of a transaction was answered by {self:?}"),
        }
    }
}

type Answered = Result<Value, Error>;
type Told = oneshot::Sender<Answered>;

/// Who waits for an answer.
#[derive(Debug)]
struct Waiting {
    told: Told,
    deadline: Instant,
    is_commit: bool,
    is_rollback: bool,
}

/// One transaction.
#[derive(Debug)]
pub(crate) struct Shared {
    pool: Arc<Pool>,
    until: Option<Instant>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    driver: Driver,
    /// Given back when nothing is left to do.
    number: Option<WriteNumber>,
    /// Why further calls fail: how it ended for its caller.
    ended: Option<Error>,
    waiting: Option<Waiting>,
    queue: VecDeque<(Call, Told)>,
    /// Parts under way.
    parts: usize,
    /// What became of those that went together with others.
    heard: Vec<(Ticket, Part)>,
    /// Bytes and writes since the last flush.
    buffered: (usize, usize),
    /// Why it was abandoned, which is what the call that waits is told when it has failed.
    late: Option<Error>,
    /// Time is over: the call that waits is told that nothing is known, unless something is.
    is_late: bool,
    /// What the last part that was lost ended with.
    last: Option<Error>,
    /// The client remembers how it ended.
    is_remembered: bool,
    is_dropped: bool,
    /// Others wait for what it has locked: its end does not wait for others.
    is_awaited: bool,
    is_running: bool,
    /// Something has happened that the task has not looked at.
    is_stirred: bool,
    waker: Option<Waker>,
}

impl Shared {
    /// A transaction that has `number` and may stay open until then.
    pub(super) fn new(
        pool: Arc<Pool>,
        driver: Driver,
        number: WriteNumber,
        until: Option<Instant>,
    ) -> Arc<Self> {
        let state = State {
            driver,
            number: Some(number),
            ended: None,
            waiting: None,
            queue: VecDeque::new(),
            parts: 0,
            heard: Vec::new(),
            buffered: (0, 0),
            late: None,
            is_late: false,
            last: None,
            is_remembered: false,
            is_dropped: false,
            is_awaited: false,
            is_running: false,
            is_stirred: false,
            waker: None,
        };
        Arc::new(Self {
            pool,
            until,
            state: Mutex::new(state),
        })
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Driver::changed`].
    pub(super) fn changed(&self) -> BTreeMap<Bytes, Option<Bytes>> {
        self.lock().driver.changed()
    }

    /// Why further calls fail, when they do.
    pub(super) fn failure(&self) -> Option<Error> {
        self.lock().ended.clone()
    }

    /// Does a call, after those before it.
    pub(super) async fn call(self: &Arc<Self>, call: Call) -> Answered {
        let answer = {
            let mut state = self.lock();
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let call = if state.queue.is_empty() && state.may_call() {
                match state.do_at_once(call) {
                    Ok((value, is_flushed)) => {
                        if is_flushed {
                            self.stir(state);
                        }
                        return Ok(value);
                    }
                    Err(call) => call,
                }
            } else {
                call
            };
            let (told, answer) = oneshot::channel();
            state.queue.push_back((call, told));
            self.stir(state);
            answer
        };
        match answer.await {
            Ok(answer) => answer,
            // The runtime has ended, and the task with it.
            Err(_) => Err(self.failure().unwrap_or(Error::Closed)),
        }
    }

    /// The last handle is gone.
    pub(super) fn leave(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_running {
            state.is_dropped = true;
            self.stir(state);
        }
        // Otherwise no range has heard of it.
    }

    /// Takes what became of a part that went together with others.
    pub(crate) fn hear(self: &Arc<Self>, ticket: Ticket, part: Part) {
        let mut state = self.lock();
        state.heard.push((ticket, part));
        self.stir(state);
    }

    /// Has the task look at what has happened.
    fn stir(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        state.is_stirred = true;
        if state.is_running {
            if let Some(waker) = state.waker.take() {
                drop(state);
                waker.wake();
            }
            return;
        }
        state.is_running = true;
        drop(state);
        let running = self.pool.transaction_runs();
        let shared = Unfinished(self.clone());
        tokio::spawn(async move {
            shared.0.run().await;
            drop(running);
        });
    }

    async fn run(self: &Arc<Self>) {
        let mut flights = Flights::default();
        loop {
            let (wake, deadline) = {
                let mut state = self.lock();
                state.is_stirred = false;
                let now_ns = self.pool.elapsed_ns();
                for (ticket, part) in core::mem::take(&mut state.heard) {
                    self.take_part(&mut state, ticket, part, now_ns);
                }
                self.take_calls(&mut state);
                if core::mem::take(&mut state.is_dropped) {
                    state.leave();
                }
                if self.advance(&mut state, &mut flights) {
                    return;
                }
                if state.is_late && state.waiting.is_some() {
                    // What became of it is found out in the background.
                    let error = state.unknown(state.late.as_ref().unwrap_or(&Error::Closed));
                    state.end(error.clone());
                    state.tell(Err(error));
                }
                if !state.queue.is_empty() && (state.ended.is_some() || state.may_call()) {
                    continue;
                }
                let wake = state.driver.wake_at_ns().map(|ns| self.pool.instant(ns));
                let deadline = match &state.waiting {
                    Some(waiting) => Some(waiting.deadline),
                    None if state.ended.is_some() => None,
                    None => self.until,
                };
                (wake, deadline)
            };
            let came = self
                .wait(&mut flights, wake.into_iter().chain(deadline).min())
                .await;
            let mut state = self.lock();
            let now_ns = self.pool.elapsed_ns();
            for (ticket, part) in came {
                self.take_part(&mut state, ticket, part, now_ns);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                let after = self.pool.options.deadline;
                state.give_up(after);
            }
        }
    }

    /// Does what the driver wants; whether nothing is left to do.
    fn advance(self: &Arc<Self>, state: &mut State, flights: &mut Flights) -> bool {
        let (mut is_over, mut looks) = (false, false);
        for out in state.driver.poll(self.pool.elapsed_ns(), self.pool.places()) {
            match out {
                Out::Send { ticket, part } => {
                    state.parts += 1;
                    if may_join(&part) && !state.is_awaited {
                        self.pool.finish_later(part, ticket, self.clone());
                    } else {
                        flights.send(&self.pool, ticket, part);
                    }
                }
                Out::Look => looks = true,
                Out::Answer(answer) => self.on_answer(state, answer),
                Out::Over => is_over = true,
                Out::Left(seen) => self.pool.finish_left(seen),
                Out::Cleared(_) => {}
            }
        }
        if looks && !is_over {
            flights.look(&self.pool);
        }
        if is_over {
            self.finish(state);
        }
        is_over
    }

    /// Waits for a part, a time, or something that others did.
    async fn wait(&self, flights: &mut Flights, until: Option<Instant>) -> Vec<(Ticket, Part)> {
        let mut came = Vec::new();
        let happened = poll_fn(|context| {
            let is_there = flights.poll(context, &mut came).is_ready();
            if is_there || self.lock().is_stirred(context) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        match until {
            // When the time is over, whoever waits finds that by the clock.
            Some(until) => drop(tokio::time::timeout_at(until.into(), pin!(happened)).await),
            None => happened.await,
        }
        came
    }

    /// Does calls, as far as none waits for an answer.
    fn take_calls(&self, state: &mut State) {
        if let Some(error) = state.ended.clone() {
            for (_, told) in state.queue.drain(..) {
                // Who asked may have gone.
                let _ = told.send(Err(error.clone()));
            }
        }
        while state.may_call()
            && let Some((call, told)) = state.queue.pop_front()
        {
            let deadline = Instant::now() + self.pool.options.deadline;
            let deadline = self.until.map_or(deadline, |until| until.min(deadline));
            let first = match &call {
                Call::Read(keys, Some(_)) => self.pool.heat().first(keys),
                Call::OneShot(shot) => {
                    let keys: Vec<Bytes> = shot.changes.iter().map(|(key, _)| key.clone()).collect();
                    self.pool.heat().first(&keys)
                }
                _ => Vec::new(),
            };
            let ranges = self.pool.ranges();
            let is_near = |one: &[u8], other: &[u8]| {
                let range = ranges.lookup(one);
                range.is_some_and(|range| range.span.contains(other))
            };
            state.begin_call((call, &first), is_near, told, deadline);
        }
    }

    fn take_part(&self, state: &mut State, ticket: Ticket, part: Part, now_ns: u64) {
        state.parts = state.parts.saturating_sub(1);
        match part {
            Part::Answered(answer) => {
                if is_conflict(&answer) {
                    self.pool.finish_soon();
                }
                state.driver.on_answer(ticket, answer, now_ns);
            }
            Part::Lost(error) => {
                state.last = Some(error);
                state.driver.on_lost(ticket, now_ns);
            }
            Part::Refused(error) => {
                // Nothing goes out again that would be refused again.
                state.late.get_or_insert(error);
                state.driver.abandon();
            }
        }
    }

    fn remember(&self, state: &mut State, outcome: TxnOutcome) {
        state.is_remembered = true;
        self.pool.remember(TxnRef::of(state.driver.who()), outcome);
    }

    fn on_answer(&self, state: &mut State, answer: Answer) {
        let queues = state.driver.queues();
        if !queues.is_empty() {
            let mut heat = self.pool.heat();
            queues.iter().for_each(|(key, queue)| heat.note(key, *queue));
            state.is_awaited |= queues.iter().any(|(_, queue)| *queue > 0);
        }
        let value = match answer {
            Answer::Values(values) => Value::Values(values),
            Answer::Rows { rows, next } => Value::Rows(rows, next),
            Answer::Deleted(keys) => Value::Deleted(keys.len()),
            Answer::Changed(value) => Value::Changed(value),
            Answer::Unmet(unmet) => Value::Unmet(unmet),
            Answer::Committed { ts, not_before } => {
                self.remember(state, TxnOutcome::Committed(ts));
                self.pool.saw(ts);
                state.end(Error::TransactionOver);
                return self.tell_committed(state, ts, not_before);
            }
            Answer::Failed(error) => {
                self.remember(state, TxnOutcome::Aborted);
                let is_rollback = state.waiting.as_ref().is_some_and(|waiting| waiting.is_rollback);
                let error = match state.late.take() {
                    Some(late) => late,
                    None => failure(error),
                };
                state.end(error.clone());
                return state.tell(if is_rollback { Ok(Value::Done) } else { Err(error) });
            }
            Answer::Unknown => {
                let cause = state.late.take().or_else(|| state.last.take());
                let error = state.unknown(&cause.unwrap_or(Error::Closed));
                state.end(error.clone());
                return state.tell(Err(error));
            }
        };
        state.tell(Ok(value));
    }

    /// Commit-wait: every clock of the cluster has to have passed the timestamp.
    fn tell_committed(&self, state: &mut State, ts: Timestamp, not_before: Timestamp) {
        let Some(Waiting { told, .. }) = state.waiting.take() else {
            return;
        };
        if not_before == Timestamp::ZERO {
            // Who asked may have gone.
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

    /// Nothing is left to do. Whoever still calls is told why that is too late.
    fn finish(&self, state: &mut State) {
        state.end(Error::TransactionOver);
        let error = state.ended.clone().unwrap_or(Error::TransactionOver);
        state.tell(Err(error.clone()));
        for (_, told) in state.queue.drain(..) {
            let _ = told.send(Err(error.clone()));
        }
        let number = state.number.take();
        if !state.is_remembered {
            tokio::spawn(async move {
                tokio::time::sleep(UNKNOWN_KEPT).await;
                drop(number);
            });
        }
    }
}

/// A running task. When the runtime ends before it has finished, nobody waits for it in vain.
struct Unfinished(Arc<Shared>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.number.take().is_none() {
            return;
        }
        state.end(Error::Closed);
        let is_commit = state.waiting.as_ref().is_some_and(|waiting| waiting.is_commit);
        state.tell(Err(if is_commit {
            Error::Ambiguous {
                after: self.0.pool.options.deadline,
                cause: "the client was shut down".to_owned(),
            }
        } else {
            Error::Closed
        }));
        state.queue.clear();
    }
}

impl State {
    /// Whether there is something for the task to look at; otherwise it is woken when there is.
    fn is_stirred(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_stirred {
            return true;
        }
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.waker = Some(context.waker().clone()),
        }
        false
    }

    fn may_call(&self) -> bool {
        self.waiting.is_none() && self.ended.is_none() && self.driver.is_ready() && self.parts < PARTS_MAX
    }

    /// Does a call that asks nobody; whether there is something to send now. Gives back any other.
    fn do_at_once(&mut self, call: Call) -> Result<(Value, bool), Call> {
        match call {
            Call::Write(key, value) => {
                let bytes = key.len() + value.as_ref().map_or(0, |value| value.len());
                self.driver.write(key, value);
                self.buffered = (self.buffered.0 + bytes, self.buffered.1 + 1);
                let is_full = self.buffered.0 >= BUFFER_BYTES_MAX || self.buffered.1 >= BUFFER_WRITES_MAX;
                if is_full {
                    self.buffered = (0, 0);
                    self.driver.flush();
                }
                Ok((Value::Done, is_full))
            }
            Call::Savepoint => Ok((Value::Savepoint(Savepoint(self.driver.savepoint())), false)),
            Call::ReturnTo(Savepoint(to)) => {
                self.driver.return_to(to);
                Ok((Value::Done, self.is_running))
            }
            other => Err(other),
        }
    }

    /// Does a call, in which these keys are locked first; `is_near` says whether two keys are in one range, as far as is known.
    fn begin_call(
        &mut self,
        (call, first): (Call, &[Bytes]),
        is_near: impl Fn(&[u8], &[u8]) -> bool,
        told: Told,
        deadline: Instant,
    ) {
        let call = match self.do_at_once(call) {
            Ok((value, _)) => {
                // Who asked may have gone.
                let _ = told.send(Ok(value));
                return;
            }
            Err(call) => call,
        };
        let is_commit = matches!(call, Call::Commit | Call::OneShot(_));
        let is_rollback = matches!(call, Call::RollBack);
        match call {
            Call::Read(keys, None) => self.driver.read(keys),
            Call::Read(keys, Some(strength)) => {
                self.is_awaited |= !first.is_empty();
                self.driver.read_locked_in_turn(keys, first, strength);
            }
            Call::Scan(span, rows_max) => self.driver.scan(keys_of(span), rows_max),
            Call::DeleteRange(span) => self.driver.delete_range(keys_of(span)),
            Call::Change(key, change) => self.driver.change(key, &change),
            Call::OneShot(shot) => {
                self.is_awaited |= !first.is_empty();
                self.driver.one_shot(shot, first, is_near);
            }
            Call::Commit => self.driver.commit(),
            Call::RollBack => self.driver.roll_back(),
            Call::Write(..) | Call::Savepoint | Call::ReturnTo(_) => unreachable!("it was done at once"),
        }
        self.waiting = Some(Waiting {
            told,
            deadline,
            is_commit,
            is_rollback,
        });
    }

    /// The last handle is gone: a commit goes on, everything else is taken back.
    fn leave(&mut self) {
        self.queue.clear();
        if self.waiting.as_ref().is_some_and(|waiting| waiting.is_commit) {
            return;
        }
        self.waiting = None;
        if self.ended.is_some() {
            return;
        }
        self.end(Error::TransactionOver);
        self.driver.abandon();
    }

    /// Time is over.
    fn give_up(&mut self, after: Duration) {
        self.is_late = true;
        if self.late.is_none() {
            self.late = Some(Error::DeadlineExceeded {
                after,
                last: self.last.take().map(Box::new),
            });
            self.driver.abandon();
        }
    }

    fn unknown(&self, cause: &Error) -> Error {
        Error::CommitUnknown {
            txn: TxnRef::of(self.driver.who()),
            cause: cause.to_string(),
        }
    }

    fn tell(&mut self, answer: Answered) {
        if let Some(waiting) = self.waiting.take() {
            // Who asked may have gone.
            let _ = waiting.told.send(answer);
        }
    }

    fn end(&mut self, error: Error) {
        self.ended.get_or_insert(error);
    }
}

/// Whether a range has refused a part because of another transaction.
fn is_conflict(answer: &RangeAnswer) -> bool {
    matches!(answer, Err((_, Refusal::Conflict { .. })))
}

fn keys_of(span: Span) -> Keys {
    Keys::Span((*span.start).into(), span.end.map(|end| (*end).into()))
}
