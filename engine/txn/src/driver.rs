//! What a caller does around a [`Coordinator`]: it splits batches by range, pushes what is in the way, recovers, pauses, and sends
//! again. Answers and the time in, [`Out`]s out; no clock, no I/O.
//!
//! ```text
//!   calls ──► Coordinator ──► batches ──► parts, by range ──► Out::Send ──► (the caller's network)
//!                 ▲  │                                                          │
//!                 │  └► Recovery of its own              answer, or its loss ◄──┘
//!                 └───────── not a conflict ◄──────────────────┤
//!                 ┌───────── conflict: the part is blocked ◄───┘
//!                 ▼
//!   push (with its recovery) ──► done: the part goes out again
//!                 └► it waits ──► pushed again after a pause ──► patience is over: the coordinator hears of the conflict
//! ```
//!
//! What wants a lock, or to write what it need not have read, waits at the leader (`locks.rs`), which refuses it now and then: then it
//! pushes once, and asks again, where its place is kept.
//!
//! [`Clearing`] is the same for a plain request that has met an intent, and for who asks how a transaction ended.
//!
//! Invariants:
//! - **V1**: what was sent and may have been done is told to the coordinator as lost, never sent again behind its back: it has to know
//!   that a late copy may be under way. Only what was refused goes out again as it is.
//! - **V2**: a part is blocked no longer than the patience: of transactions that wait for each other in a circle, one fails then.
//! - **V3**: a transaction does not wait for an older one in order to write what it has read: when that one commits, it is too late.
//!   So of those that read what they write, none wait in a circle.
//! - **V4**: a transaction that may be waited for, and wants a lock, gives way to an older one that is in its way for longer than leaders
//!   keep it waiting ([`crate::locks::Config::yield_after_ns`]) and alive: so of those that lock, none wait in a circle for long.

mod clearing;
mod post;
pub mod together;

pub use clearing::{Cleared, Clearing};
pub use post::Ticket;

use crate::change::{Change, OneShot};
use crate::coordinator::{self, Answer, Coordinator, Effect, Savepoint};
use crate::error::{Refusal, Seen};
use crate::locks::Strength;
use crate::recovery::{self, Recovery};
use crate::request::{self, Batch, Item, Push, Request};
use crate::txn::{Bytes, Isolation, Keys, Priority, TxnId, Who};
use base::Timestamp;
use clearing::{End, Job};
use post::{Post, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pauses before a leader is asked again double so often.
const ASKS_MAX: u32 = 3;

/// How drivers behave. Times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// What coordinators have in common.
    pub coordinator: coordinator::Config,
    /// How long a part waits for one intent after the other, about: a quarter is drawn, so that two that wait for each other do not
    /// both give up.
    pub patience_ns: u64,
    /// The same for the only lock of a transaction: nobody waits for it, so it is in no circle.
    pub patience_alone_ns: u64,
    /// The first pause before something is tried again.
    pub pause_min_ns: u64,
    /// The longest pause between two pushes of a transaction that goes on.
    pub push_pause_max_ns: u64,
    /// The longest pause before what was lost, or came to a wrong range, is sent again.
    pub pause_max_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            coordinator: coordinator::Config {
                // Nodes take a coordinator for dead after five of these.
                heartbeat_ns: 150_000_000,
                clock_bound_ns: 500_000_000,
                ..coordinator::Config::default()
            },
            patience_ns: 1_000_000_000,
            patience_alone_ns: 4_000_000_000,
            pause_min_ns: 1_000_000,
            push_pause_max_ns: 50_000_000,
            pause_max_ns: 250_000_000,
        }
    }
}

/// What the caller does for a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// Send this to the range that has the keys of its first request. The answer goes to `on_answer` with the ticket. What was not
    /// sent, or refused without being looked at, may be sent anew; what may have been done goes to `on_lost`.
    Send {
        /// Names the part.
        ticket: Ticket,
        /// What is asked.
        part: Batch,
    },
    /// Something came to a wrong range, or was lost: look the ranges up again. It goes out after a pause.
    Look,
    /// The answer to a call of a transaction.
    Answer(Answer),
    /// Nothing is left to do for a transaction.
    Over,
    /// How a [`Clearing`] ended.
    Cleared(Cleared),
    /// A transaction that was in the way has ended with many intents, which are left to its coordinator. Should that be gone,
    /// [`Clearing::rest`] tells them.
    Left(Seen),
}

/// What a part does while what it has pushed goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is pushed again.
    Push,
    /// It asks the leader again, which lets it wait.
    Ask,
    /// It gives way.
    Yield,
}

/// A part of the transaction that has met another one.
#[derive(Debug)]
struct Blocked {
    part: Batch,
    item: Item,
    refusal: Refusal,
    until_ns: u64,
    then: Then,
    job: Job,
}

/// One transaction and what is in its way.
#[derive(Debug)]
pub struct Driver {
    config: Config,
    coordinator: Coordinator,
    own: Option<Recovery>,
    blocked: BTreeMap<u32, Blocked>,
    next_blocked: u32,
    /// Since they were blocked first: until when requests wait, and how often they were.
    patience: BTreeMap<Item, (u64, u32)>,
    post: Post,
    /// The beginning, by the cluster's clock and by the caller's.
    began: (u64, u64),
    outs: Vec<Out>,
}

impl Driver {
    /// A transaction that begins at `now`, which the cluster's clock shows at least, and whose caller's clock shows `now_ns`. What
    /// others have committed before it lies at or below `limit`. `seed` is for pauses.
    #[must_use]
    pub fn begin(
        config: Config,
        (id, name): (TxnId, &str),
        what: (Isolation, Priority),
        (now, limit): (Timestamp, Timestamp),
        now_ns: u64,
        seed: u64,
    ) -> Self {
        let coordinator = Coordinator::begin(config.coordinator, id, name, what, now);
        Self {
            coordinator: coordinator.uncertain_until(limit),
            own: None,
            blocked: BTreeMap::new(),
            next_blocked: 0,
            patience: BTreeMap::new(),
            post: Post::new(&config, seed),
            began: (now.wall_ns, now_ns),
            outs: Vec::new(),
            config,
        }
    }

    /// See [`Coordinator::as_old_as`].
    #[must_use]
    pub fn as_old_as(mut self, start_ts: Timestamp) -> Self {
        self.coordinator = self.coordinator.as_old_as(start_ts);
        self
    }

    /// The transaction.
    #[must_use]
    pub fn who(&self) -> &Arc<Who> {
        self.coordinator.who()
    }

    /// See [`Coordinator::read_ts`].
    #[must_use]
    pub fn read_ts(&self) -> Timestamp {
        self.coordinator.read_ts()
    }

    /// See [`Coordinator::is_ready`]: the calls below panic otherwise.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.coordinator.is_ready()
    }

    /// See [`Coordinator::is_over`].
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.coordinator.is_over()
    }

    /// See [`Coordinator::may_be_committed`].
    #[must_use]
    pub fn may_be_committed(&self) -> bool {
        self.coordinator.may_be_committed()
    }

    /// See [`Coordinator::write`].
    pub fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        self.coordinator.write(key, value);
    }

    /// See [`Coordinator::read`].
    pub fn read(&mut self, keys: Vec<Bytes>) {
        self.coordinator.read(keys);
    }

    /// See [`Coordinator::read_locked`].
    pub fn read_locked(&mut self, keys: Vec<Bytes>, strength: Strength) {
        self.coordinator.read_locked(keys, strength);
    }

    /// See [`Coordinator::read_locked_in_turn`].
    pub fn read_locked_in_turn(&mut self, keys: Vec<Bytes>, first: &[Bytes], strength: Strength) {
        self.coordinator.read_locked_in_turn(keys, first, strength);
    }

    /// See [`Coordinator::queues`].
    pub fn queues(&mut self) -> Vec<(Bytes, u32)> {
        self.coordinator.queues()
    }

    /// See [`Coordinator::scan`].
    pub fn scan(&mut self, keys: Keys, rows_max: usize) {
        self.coordinator.scan(keys, rows_max);
    }

    /// See [`Coordinator::delete_range`].
    pub fn delete_range(&mut self, keys: Keys) {
        self.coordinator.delete_range(keys);
    }

    /// See [`Coordinator::change`].
    pub fn change(&mut self, key: Bytes, change: &Change) {
        self.coordinator.change(key, change);
    }

    /// See [`Coordinator::one_shot_in_turn`].
    pub fn one_shot(&mut self, shot: OneShot, first: &[Bytes], is_near: impl Fn(&[u8], &[u8]) -> bool) {
        self.coordinator.one_shot_in_turn(shot, first, is_near);
    }

    /// See [`Coordinator::changed`].
    pub fn changed(&mut self) -> BTreeMap<Bytes, Option<Bytes>> {
        self.coordinator.changed()
    }

    /// See [`Coordinator::savepoint`].
    pub fn savepoint(&mut self) -> Savepoint {
        self.coordinator.savepoint()
    }

    /// See [`Coordinator::return_to`].
    pub fn return_to(&mut self, to: Savepoint) {
        self.coordinator.return_to(to);
    }

    /// See [`Coordinator::flush`].
    pub fn flush(&mut self) {
        self.coordinator.flush();
    }

    /// See [`Coordinator::commit`].
    pub fn commit(&mut self) {
        self.coordinator.commit();
    }

    /// See [`Coordinator::roll_back`].
    pub fn roll_back(&mut self) {
        self.coordinator.roll_back();
    }

    /// See [`Coordinator::abandon`].
    pub fn abandon(&mut self) {
        self.coordinator.abandon();
    }

    /// What is to be done now, after calls, answers, and when [`Self::wake_at_ns`] has come. `place` says which range has a key, as far
    /// as the caller knows.
    pub fn poll<P: PartialEq>(&mut self, now_ns: u64, place: impl FnMut(&[u8]) -> P) -> Vec<Out> {
        let (wall_ns, local_ns) = self.began;
        self.coordinator
            .tick(wall_ns.saturating_add(now_ns.saturating_sub(local_ns)));
        self.run(now_ns);
        self.unblock(now_ns);
        let due = |(number, blocked): (&u32, &Blocked)| {
            let is_due = blocked.job.again_at_ns().is_some_and(|at| at <= now_ns);
            is_due.then_some(*number)
        };
        let due: Vec<u32> = self.blocked.iter().filter_map(due).collect();
        for number in due {
            match self.blocked.get_mut(&number) {
                Some(blocked) if blocked.then == Then::Ask => {
                    if let Some(Blocked { part, .. }) = self.blocked.remove(&number) {
                        self.post.send(Sender::Txn, part);
                    }
                }
                Some(blocked) => {
                    blocked.job.again();
                    self.run_job(number, now_ns);
                }
                None => {}
            }
        }
        self.post.hand_out(now_ns, place, &mut self.outs);
        core::mem::take(&mut self.outs)
    }

    /// When [`Self::poll`] is to be called next, if nothing happens before.
    #[must_use]
    pub fn wake_at_ns(&self) -> Option<u64> {
        let (wall_ns, local_ns) = self.began;
        let beat = self.coordinator.beat_due_ns();
        let beat = beat.map(|due| local_ns.saturating_add(due.saturating_sub(wall_ns)));
        let blocked = self.blocked.values().flat_map(|blocked| {
            [Some(blocked.until_ns), blocked.job.again_at_ns()]
                .into_iter()
                .flatten()
        });
        blocked.chain(beat).chain(self.post.due_ns()).min()
    }

    /// Takes in the answer to a part. Late and repeated ones change nothing.
    pub fn on_answer(&mut self, ticket: Ticket, answer: request::Answer, now_ns: u64) {
        let Some((sender, part)) = self.post.answered(ticket, answer.is_ok()) else {
            return;
        };
        let items = items(&part);
        let missing = missing(&items, &answer);
        match sender {
            Sender::Txn => {
                if let Err((item, refusal)) = &answer
                    && let Refusal::Conflict { .. } = refusal
                    && self.coordinator.awaits(*item)
                    && items.contains(item)
                {
                    let (item, refusal) = (*item, refusal.clone());
                    return self.block(part, item, refusal, now_ns);
                }
                self.coordinator.on_answer(&items, answer);
                self.coordinator.on_lost(&missing);
                self.run(now_ns);
            }
            Sender::Own => {
                if let Some(own) = &mut self.own {
                    own.on_answer(&items, answer);
                    own.on_lost(&missing);
                    self.run_own(now_ns);
                }
            }
            Sender::Push(number) | Sender::Recovery(number) => {
                if let Some(blocked) = self.blocked.get_mut(&number) {
                    blocked.job.on_answer(sender, &items, answer);
                    blocked.job.on_lost(sender, &missing);
                    self.run_job(number, now_ns);
                }
            }
        }
    }

    /// The answer to a part will not come: it may or may not have been done.
    pub fn on_lost(&mut self, ticket: Ticket, now_ns: u64) {
        let Some((sender, part)) = self.post.answered(ticket, false) else {
            return;
        };
        let items = items(&part);
        match sender {
            Sender::Txn => {
                self.coordinator.on_lost(&items);
                self.run(now_ns);
            }
            Sender::Own => {
                if let Some(own) = &mut self.own {
                    own.on_lost(&items);
                    self.run_own(now_ns);
                }
            }
            Sender::Push(number) | Sender::Recovery(number) => {
                if let Some(blocked) = self.blocked.get_mut(&number) {
                    blocked.job.on_lost(sender, &items);
                    self.run_job(number, now_ns);
                }
            }
        }
    }

    fn block(&mut self, part: Batch, item: Item, refusal: Refusal, now_ns: u64) {
        let Refusal::Conflict { conflict, seen } = &refusal else {
            return;
        };
        base::sometimes!("txn: a driver's part is blocked");
        let refused = part.requests.iter().find(|(known, _)| *known == item);
        // What is read for update is read as it will be written.
        let is_write = refused.is_some_and(|(_, request)| match request {
            Request::Write { .. } | Request::DeleteRange { .. } | Request::GetLocked { .. } => true,
            // Or another key is in the way, of which something has to hold.
            Request::Change { key, .. } => *key == conflict.key,
            _ => false,
        });
        let who = self.coordinator.who();
        let writes = matches!(refused, Some((_, Request::Write { .. })));
        if writes && who.gives_way_to(&seen.who) && self.coordinator.has_read(&conflict.key) {
            base::sometimes!("txn: a younger transaction gave way at once");
            self.coordinator.on_answer(&items(&part), Err((item, refusal)));
            return self.run(now_ns);
        }
        let read_ts = part.header.as_ref().map(|header| header.read_ts);
        let push = match read_ts {
            Some(read_ts) if !is_write => Push::Above(read_ts),
            Some(_) | None => Push::Abort,
        };
        let alone = match refused {
            Some((_, Request::GetLocked { alone, .. } | Request::Change { alone, .. })) if is_write => {
                Some(*alone)
            }
            _ => None,
        };
        let is_blind = part.header.as_ref().is_some_and(|header| header.blind);
        let then = match alone {
            Some(false) if who.gives_way_to(&seen.who) => Then::Yield,
            Some(_) => Then::Ask,
            None if writes && is_blind => Then::Ask,
            None => Then::Push,
        };
        let keys = Some(Keys::One(conflict.key.clone()));
        let who = Some(Arc::clone(self.coordinator.who()));
        let patience_ns = match alone {
            Some(true) => self.config.patience_alone_ns,
            Some(false) | None => self.config.patience_ns,
        };
        let (until_ns, times) = self.patience_of(&part, patience_ns, now_ns);
        // A leader lets it wait, so there is no need to come back more and more seldom.
        let times = match then {
            Then::Ask => times.min(ASKS_MAX),
            Then::Push | Then::Yield => times,
        };
        let job = Job::new(seen.clone(), keys, who, push).after(times);
        let number = self.next_blocked;
        self.next_blocked = self.next_blocked.wrapping_add(1);
        let blocked = Blocked {
            part,
            item,
            refusal,
            until_ns,
            then,
            job,
        };
        self.blocked.insert(number, blocked);
        self.run_job(number, now_ns);
    }

    /// Until when a part waits, however often it goes out and is blocked again, and how often it was before.
    fn patience_of(&mut self, part: &Batch, patience_ns: u64, now_ns: u64) -> (u64, u32) {
        let drawn_ns = self
            .post
            .prng()
            .between(patience_ns - patience_ns / 4, patience_ns);
        let known = part
            .requests
            .iter()
            .filter_map(|(item, _)| self.patience.get(item));
        let first = (now_ns.saturating_add(drawn_ns), 0);
        let (until_ns, times) = known.min().copied().unwrap_or(first);
        for (item, _) in &part.requests {
            self.patience.insert(*item, (until_ns, times.saturating_add(1)));
        }
        (until_ns, times)
    }

    /// What has waited for too long is told to the coordinator, and what it does not wait for any more is dropped.
    fn unblock(&mut self, now_ns: u64) {
        let coordinator = &self.coordinator;
        let is_over = |_: &u32, blocked: &mut Blocked| {
            let awaited = |(item, _): &(Item, Request)| coordinator.awaits(*item);
            blocked.until_ns <= now_ns || !blocked.part.requests.iter().any(awaited)
        };
        let over: Vec<(u32, Blocked)> = self.blocked.extract_if(.., is_over).collect();
        if over.is_empty() {
            return;
        }
        for (number, blocked) in over {
            self.post.forget(Sender::Push(number));
            self.post.forget(Sender::Recovery(number));
            let Blocked {
                part, item, refusal, ..
            } = blocked;
            if self.coordinator.awaits(item) {
                base::sometimes!("txn: a driver's patience is over");
                self.coordinator.on_answer(&items(&part), Err((item, refusal)));
            }
        }
        let coordinator = &self.coordinator;
        self.patience.retain(|item, _| coordinator.awaits(*item));
        self.run(now_ns);
    }

    fn run(&mut self, now_ns: u64) {
        for effect in self.coordinator.effects() {
            match effect {
                Effect::Send(batch) => self.post.send(Sender::Txn, batch),
                Effect::SendAgain(batch) => {
                    self.outs.push(Out::Look);
                    self.post.send_again(Sender::Txn, batch, now_ns);
                }
                Effect::Recover(record) => {
                    self.own = Some(Recovery::new(*record));
                    self.run_own(now_ns);
                }
                Effect::Answer(answer) => self.outs.push(Out::Answer(answer)),
                Effect::Over => {
                    self.blocked.clear();
                    self.own = None;
                    self.post.clear();
                    self.outs.push(Out::Over);
                }
            }
        }
    }

    fn run_own(&mut self, now_ns: u64) {
        let effects = self.own.as_mut().map(Recovery::effects).unwrap_or_default();
        for effect in effects {
            match effect {
                recovery::Effect::Send(batch) => self.post.send(Sender::Own, batch),
                recovery::Effect::SendAgain(batch) => {
                    self.outs.push(Out::Look);
                    self.post.send_again(Sender::Own, batch, now_ns);
                }
                recovery::Effect::Done(outcome) => {
                    self.own = None;
                    self.post.forget(Sender::Own);
                    self.coordinator.on_recovered(outcome);
                    self.run(now_ns);
                }
                // A program does not stop because of what a node says: it is told that it cannot be told.
                recovery::Effect::Contradiction(_) => {
                    self.own = None;
                    self.post.forget(Sender::Own);
                    self.coordinator.abandon();
                    self.run(now_ns);
                }
            }
        }
    }

    fn run_job(&mut self, number: u32, now_ns: u64) {
        let Some(blocked) = self.blocked.get_mut(&number) else {
            return;
        };
        let mut end = blocked.job.run(number, &mut self.post, &mut self.outs, now_ns);
        if blocked.then == Then::Yield && blocked.job.again_at_ns().is_some() {
            base::sometimes!("txn: a younger transaction gave way to one that has what it wants to lock");
            end = Some(End::Yielded);
        }
        let Some(end) = end else { return };
        let Some(Blocked {
            part, item, refusal, ..
        }) = self.blocked.remove(&number)
        else {
            return;
        };
        self.post.forget(Sender::Push(number));
        self.post.forget(Sender::Recovery(number));
        match end {
            End::Done(_) | End::Forgotten => self.post.send(Sender::Txn, part),
            End::Yielded | End::Contradiction(_) => {
                self.coordinator.on_answer(&items(&part), Err((item, refusal)));
                self.run(now_ns);
            }
        }
    }
}

fn items(part: &Batch) -> Vec<Item> {
    part.requests.iter().map(|(item, _)| *item).collect()
}

/// What of a part an answer says nothing about: a node that leaves something out has not said that it was not done.
fn missing(items: &[Item], answer: &request::Answer) -> Vec<Item> {
    let is_missing = |item: &&Item| match answer {
        Ok(replies) => replies.iter().all(|(replied, _)| replied != *item),
        Err((refused, _)) => !items.contains(refused),
    };
    items.iter().filter(is_missing).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_hear_of_a_coordinator_in_time() {
        let config = Config::default();
        assert!(config.coordinator.heartbeat_ns * 5 <= 750_000_000);
        assert!(config.pause_min_ns < config.push_pause_max_ns);
    }
}
