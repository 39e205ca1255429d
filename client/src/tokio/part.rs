//! Parts of transactions on their way, and plain requests whose way is cleared.

use super::call::Tries;
use super::flights::Flights;
use super::pool::Pool;
use super::txn::Shared;
use crate::Error;
use crate::request::{Refusal, Reply, Request};
use crate::retry::Failure;
use base::api::{ReadAt, WriteId};
use base::{RangeId, Timestamp};
use core::future::poll_fn;
use core::time::Duration;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use txn::driver::together::{Parts, join};
use txn::driver::{self, Cleared, Clearing, Out, Ticket};
use txn::error::{Conflict, Seen};
use txn::request::{Answer, Push};
use txn::{Outcome, TxnId};
use wire::Code;

/// Before a part goes out again whose timestamp was ahead of a node's clock.
const AHEAD_PAUSE: Duration = Duration::from_millis(50);

/// What became of a part.
#[derive(Debug)]
pub(crate) enum Part {
    /// The range said this.
    Answered(Answer),
    /// It may have been done or not.
    Lost(Error),
    /// It was not done, and would not be if it were sent again.
    Refused(Error),
}

/// Which range has a key, as far as is known: what is not known goes by itself.
pub(crate) type Place = Result<RangeId, Box<[u8]>>;

/// Bytes that most batches fit in.
const BATCH_BYTES: usize = 1 << 10;
/// How long what is to be said about decided transactions waits for more of it, unless somebody is in a hurry.
const FINISH_PAUSE: Duration = Duration::from_millis(2);
/// Parts that do not wait for more.
const FINISH_PARTS_MAX: usize = 64;
/// How long everything is finished at once after a transaction was in the way of something.
const HURRY: Duration = Duration::from_millis(100);
/// Transactions of others whose many intents a client tells at once.
const LEFT_MAX: usize = 4;
/// How long that is left to their coordinators, at least; twice as long at most.
const LEFT_PAUSE: Duration = Duration::from_secs(2);
/// After so long others may go on.
const LEFT_PATIENCE: Duration = Duration::from_secs(600);

/// What is left to be said to ranges about transactions that are decided, and who hears the answers: by range, while something waits for
/// it, or is on its way there.
#[derive(Debug, Default)]
pub(crate) struct Finishing {
    waiting: BTreeMap<Place, Parts<(Ticket, Arc<Shared>)>>,
    /// In the client's own time.
    hurried_until: Duration,
    /// Transactions of others that have ended with many intents, which are told here.
    left: BTreeSet<TxnId>,
}

impl Pool {
    /// Sends one part to whoever leads its range. Only what was not done goes out again.
    pub(crate) async fn part(self: &Arc<Self>, part: &txn::Batch) -> Part {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        txn::codec::encode_batch(part, &mut batch);
        let sender = part.header.as_ref().map(|header| &header.who);
        let Some((_, first)) = part.requests.first() else {
            return Part::Answered(Ok(Vec::new()));
        };
        let request = Request::Transact {
            key: first.key(sender),
            batch: &batch,
        };
        let mut tries = Tries::new(&self.options, false);
        loop {
            let target = self.aim_near(request.route(), &mut tries.course);
            let asked = self.elapsed();
            let failure = match self
                .attempt(&request, &target, WriteId::default(), &mut tries)
                .await
            {
                Ok(Reply::Transact { answer, now }) => {
                    self.answered(&target);
                    self.clock_seen(now, asked);
                    if let Err((_, txn::Refusal::WrongRange { .. })) = &*answer {
                        self.route(|routing, _| routing.map_is_old(target.server));
                    }
                    return Part::Answered(*answer);
                }
                Ok(Reply::Refused(refusal)) if refusal.code == Code::Ambiguous.number() => {
                    return Part::Lost(refusal.error);
                }
                // A node that has just started shows a clock that is ahead: the others reach it.
                Ok(Reply::Refused(refusal))
                    if refusal.code == Code::TimestampAhead.number() && tries.has_time(AHEAD_PAUSE) =>
                {
                    self.clock_stands();
                    tokio::time::sleep(AHEAD_PAUSE).await;
                    continue;
                }
                Ok(Reply::Refused(refusal)) => Failure::Refused(refusal),
                Ok(other) => return Part::Lost(other.unexpected("a part of a transaction")),
                Err(Failure::Lost(error)) => return Part::Lost(error),
                Err(Failure::TimedOut) => return Part::Lost(self.late()),
                Err(failure) => failure,
            };
            let is_final = matches!(&failure, Failure::Refused(refusal)
                if !refusal.retryable && refusal.code != Code::WrongShard.number());
            match self.after(failure, &target, &mut tries).await {
                Ok(()) => {}
                Err(error) if is_final => return Part::Refused(error),
                Err(error) => return Part::Lost(error),
            }
        }
    }

    /// Sends a part that nobody waits for. What comes for one range within a short time, or while something is on its way there, goes
    /// together.
    pub(crate) fn finish_later(self: &Arc<Self>, part: txn::Batch, ticket: Ticket, to: Arc<Shared>) {
        let sender = part.header.as_ref().map(|header| &header.who);
        let Some((_, first)) = part.requests.first() else {
            return;
        };
        let place = self.places()(first.key(sender));
        let mut finishing = self.finishing();
        let is_full = match finishing.waiting.entry(place) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push((part, (ticket, to)));
                waiting.get().len() >= FINISH_PARTS_MAX
            }
            Entry::Vacant(vacant) => {
                let place = vacant.key().clone();
                vacant.insert(vec![(part, (ticket, to))]);
                tokio::spawn(self.clone().finish_place(place));
                false
            }
        };
        drop(finishing);
        if is_full {
            self.finish.notify_waiters();
        }
    }

    /// Something is in the way of something: what is decided is finished at once for a while.
    pub(crate) fn finish_soon(&self) {
        self.finishing().hurried_until = self.elapsed() + HURRY;
        self.finish.notify_waiters();
    }

    /// Waits until what waits for a range is to go.
    async fn pause_before_finish(&self, place: &Place) {
        let hurry = self.finish.notified();
        {
            let finishing = self.finishing();
            let is_full = |waiting: &Vec<_>| waiting.len() >= FINISH_PARTS_MAX;
            if self.elapsed() < finishing.hurried_until || finishing.waiting.get(place).is_some_and(is_full) {
                return;
            }
        }
        // Either way it goes now.
        let _ = tokio::time::timeout(FINISH_PAUSE, hurry).await;
    }

    /// Sends what waits for a range, until nothing does.
    async fn finish_place(self: Arc<Self>, place: Place) {
        loop {
            self.pause_before_finish(&place).await;
            let joined = match self.finishing().waiting.entry(place.clone()) {
                Entry::Occupied(mut waiting) => match join(waiting.get_mut()) {
                    Some(joined) => joined,
                    None => {
                        waiting.remove();
                        return;
                    }
                },
                Entry::Vacant(_) => return,
            };
            let came = match self.part(&joined.batch).await {
                Part::Answered(answer) => match joined.answer(answer) {
                    Ok(answers) => {
                        for ((ticket, to), answer) in answers {
                            to.hear(ticket, Part::Answered(answer));
                        }
                        continue;
                    }
                    Err(parts) => {
                        // Each on its own: one that cannot be had holds up no others.
                        for (part, (ticket, to)) in parts {
                            let pool = self.clone();
                            tokio::spawn(async move { to.hear(ticket, pool.part(&part).await) });
                        }
                        continue;
                    }
                },
                Part::Lost(error) => Part::Lost(error),
                Part::Refused(error) => Part::Refused(error),
            };
            for (ticket, to) in joined.tags() {
                to.hear(
                    ticket,
                    match &came {
                        Part::Refused(error) => Part::Refused(error.clone()),
                        Part::Lost(error) => Part::Lost(error.clone()),
                        Part::Answered(_) => unreachable!("it was dealt with"),
                    },
                );
            }
        }
    }

    /// What a driver asks for when it splits a batch.
    pub(crate) fn places(&self) -> impl FnMut(&[u8]) -> Place + use<> {
        let ranges = self.ranges();
        move |key| {
            ranges
                .lookup(key)
                .map(|info| info.range)
                .ok_or_else(|| key.into())
        }
    }

    /// Looks the ranges up again, for what came to a wrong one.
    pub(crate) async fn look_again(self: &Arc<Self>) {
        // When this fails, what goes out again fails too, and says why.
        let _ = self
            .refresh_beyond(self.maps_seen(), Instant::now() + self.options.try_timeout)
            .await;
    }

    /// What the cluster's clock shows at least and at most. Asks for it when nobody has said so for a while.
    pub(crate) async fn clock(self: &Arc<Self>, deadline: Instant) -> Result<(Timestamp, Timestamp), Error> {
        loop {
            if let Some(bounds) = self.clock_bounds() {
                return Ok(bounds);
            }
            // Of a transaction that never was: its record is asked for in order to hear the clock.
            let who = txn::Who {
                id: TxnId::default(),
                anchor: b"\0"[..].into(),
                name: "".into(),
                isolation: txn::Isolation::default(),
                priority: txn::Priority::default(),
                start_ts: Timestamp::ZERO,
            };
            let request = txn::Request::QueryTxn { who: Arc::new(who) };
            let part = txn::Batch {
                header: None,
                requests: vec![(0, request)],
            };
            let asking = tokio::time::timeout_at(deadline.into(), self.part(&part));
            match asking.await.map_err(|_| self.late())? {
                // Its clock was noted.
                Part::Answered(_) => {}
                Part::Lost(error) | Part::Refused(error) => return Err(error),
            }
        }
    }

    /// Runs a clearing to its end; the caller limits the time.
    async fn run_clearing(self: &Arc<Self>, mut clearing: Clearing) -> Result<Cleared, Error> {
        let mut flights = Flights::default();
        loop {
            for out in clearing.poll(self.elapsed_ns(), self.places()) {
                match out {
                    Out::Send { ticket, part } => flights.send(self, ticket, part),
                    Out::Look => flights.look(self),
                    Out::Cleared(cleared) => return Ok(cleared),
                    Out::Left(seen) => self.finish_left(seen),
                    // Those are a transaction's.
                    Out::Answer(_) | Out::Over => {}
                }
            }
            let mut came = Vec::new();
            let some = poll_fn(|context| flights.poll(context, &mut came));
            match clearing.wake_at_ns() {
                Some(wake_ns) => drop(tokio::time::timeout_at(self.instant(wake_ns).into(), some).await),
                None => some.await,
            }
            let now_ns = self.elapsed_ns();
            for (ticket, part) in came {
                match part {
                    Part::Answered(answer) => clearing.on_answer(ticket, answer, now_ns),
                    Part::Lost(_) => clearing.on_lost(ticket, now_ns),
                    Part::Refused(error) => return Err(error),
                }
            }
        }
    }

    /// A transaction of somebody else has ended with many intents: they are told behind what goes on, unless its coordinator does so soon.
    pub(crate) fn finish_left(self: &Arc<Self>, seen: Seen) {
        let id = seen.who.id;
        {
            let mut finishing = self.finishing();
            if finishing.left.len() >= LEFT_MAX || !finishing.left.insert(id) {
                return;
            }
        }
        let drawn = 1.0 + self.prng().unit();
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            // Others have met it, too: not all begin at once.
            tokio::time::sleep(LEFT_PAUSE.mul_f64(drawn)).await;
            let Some(pool) = pool.upgrade() else { return };
            let seed = pool.prng().next_u64();
            let clearing = Clearing::rest(&driver::Config::default(), seen, seed);
            // What is not told then is met by others.
            drop(tokio::time::timeout(LEFT_PATIENCE, pool.run_clearing(clearing)).await);
            pool.finishing().left.remove(&id);
        });
    }

    /// Asks how a transaction ended. One that has not is aborted.
    pub(crate) async fn ask_outcome(
        self: &Arc<Self>,
        id: TxnId,
        anchor: &[u8],
        deadline: Instant,
    ) -> Result<Option<Outcome>, Error> {
        let seed = self.prng().next_u64();
        let clearing = Clearing::outcome(&driver::Config::default(), id, anchor.into(), seed);
        let running = tokio::time::timeout_at(deadline.into(), self.run_clearing(clearing));
        match running.await.map_err(|_| self.late())?? {
            Cleared::Done(outcome) => Ok(outcome),
            Cleared::Forgotten => Ok(None),
            Cleared::Contradiction(refusal) => Err(Error::Protocol {
                what: refusal.to_string(),
            }),
        }
    }

    /// A plain request has met an intent: gets it out of the way. Returns how the try ended when that takes too long, or does not succeed;
    /// `None` when the request can be sent again.
    pub(crate) async fn clear_way(
        self: &Arc<Self>,
        answer: Answer,
        push: Push,
        deadline: Instant,
    ) -> Result<Option<Failure>, Error> {
        let Err((_, txn::Refusal::Conflict { conflict, seen })) = answer else {
            return Err(Error::Protocol {
                what: "a request outside of transactions was answered by an answer to one".to_owned(),
            });
        };
        // It may be one of this client's.
        self.finish_soon();
        let seed = self.prng().next_u64();
        let config = driver::Config::default();
        let clearing = Clearing::new(&config, seen, conflict.key.clone(), push, seed);
        let running = tokio::time::timeout_at(deadline.into(), self.run_clearing(clearing));
        match running.await {
            Ok(Ok(Cleared::Done(_) | Cleared::Forgotten)) if Instant::now() < deadline => Ok(None),
            Ok(Ok(Cleared::Contradiction(refusal))) => Err(Error::Protocol {
                what: refusal.to_string(),
            }),
            Ok(Ok(_)) | Err(_) => Ok(Some(in_the_way(&conflict))),
            Ok(Err(error)) => Ok(Some(Failure::NotSent(error))),
        }
    }
}

/// The push of a plain read at `at`, or of a write.
pub(crate) fn push_for(at: Option<ReadAt>, now: Timestamp) -> Push {
    match at {
        None => Push::Abort,
        Some(ReadAt::At(ts)) => Push::Above(ts),
        Some(_) => Push::Above(now),
    }
}

fn in_the_way(conflict: &Conflict) -> Failure {
    let error = Error::Conflict(Box::new(crate::Conflict::of(conflict)));
    Failure::Refused(Refusal {
        retryable: true,
        ..Refusal::for_good(error, Code::TxnConflict.number())
    })
}
