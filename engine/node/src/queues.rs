//! Requests of transactions that wait for their turn at a key: the lock table of a range, at its leader.
//!
//! ```text
//!   batch ──► asks ──► free: evaluated ──► proposed; what it ends lets others go on
//!               │                 └► met an intent: waits before all others
//!               └──► waits ──► goes on: asks again, has the key by then
//!                        ├───► is kept long: answered with who has the key; the client pushes that one and comes back to its place
//!                        ├───► its deadline has come, or its transaction has ended: refused
//!                        └───► the table is gone: tries again, as one that has just come
//! ```
//!
//! Invariants:
//! - Every request that waits is told how it goes on: it has a clock of its own, and looks when [`Queues::wake_at`] says so; and the table
//!   is dropped, with the other ends of what they wait at, when the leader steps down, the range is split, leaves the shard or ends.
//! - Who waits here has no latch: what would let it go on may have to pass it.
//! - No promise rests on a lock: a table that is lost costs order.

use base::Timestamp;
use env::Instant;
use env::sync::{Receiver, Sender, oneshot};
use std::collections::BTreeMap;
use std::sync::Arc;
use txn::error::{Act, Conflict, Party, Seen};
use txn::locks::{Ask, Asked, Config, Effect, LockTable};
use txn::request::Answer;
use txn::{Batch, Bytes, Reply, Request};

/// What a request that waits is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its transaction has the key.
    Go,
    /// Its deadline has come, or its transaction has ended.
    Late,
    /// This one is in its way.
    Held(Seen),
}

/// A place in a queue.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) key: Bytes,
    waiter: u64,
    pub(crate) told: Receiver<Told>,
}

/// Whether a batch may go on.
#[derive(Debug)]
pub(crate) enum Passed {
    /// It has all it asks for.
    Free,
    /// It waits.
    Waits(Turn),
    /// Another one has what it wants to write, and it does not wait for that.
    Refused(Answer),
    /// Too many wait.
    Full,
}

/// Who waits for whom at one range.
#[derive(Debug)]
pub(crate) struct Queues {
    table: LockTable<u64>,
    waiting: BTreeMap<u64, Sender<Told>>,
    last: u64,
}

impl Default for Queues {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Queues {
    fn new(config: Config) -> Self {
        Self {
            table: LockTable::new(config),
            waiting: BTreeMap::new(),
            last: 0,
        }
    }

    /// Everybody who waits tries again, and all locks are lost.
    pub(crate) fn clear(&mut self) {
        base::sometimes!(
            "node: requests lost their places in queues",
            !self.waiting.is_empty()
        );
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// How many requests wait, and how many locks are held.
    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        self.table.len()
    }

    /// Whether a batch need not ask.
    pub(crate) fn is_free(&self, batch: &Batch) -> bool {
        self.table.is_empty() && !batch.requests.iter().any(|(_, request)| locks(request))
    }

    /// A batch asks for the keys that it wants to itself, one after the other, at `now` by the leader's clock.
    pub(crate) fn ask(
        &mut self,
        batch: &Batch,
        now: Timestamp,
        (at, deadline): (Instant, Instant),
    ) -> Passed {
        let Some(header) = &batch.header else {
            return Passed::Free;
        };
        let waits = header.blind || batch.requests.iter().any(|(_, request)| locks(request));
        for (key, strength, keeps) in batch.asks() {
            if !waits {
                // It would come too late when the other one has written.
                let holder = self.table.holder_beside(&key, header.who.id);
                match holder.cloned() {
                    None => continue,
                    Some(seen) => return Passed::Refused(held(batch, &key, seen, now)),
                }
            }
            self.last += 1;
            let ask = Ask {
                waiter: self.last,
                seen: alive(header, now),
                strength,
                keeps,
                yields: yields(batch),
                deadline_ns: deadline.0,
            };
            match self.table.ask(&key, ask, at.0) {
                Asked::Free => {}
                Asked::Waits => return Passed::Waits(self.wait(key)),
                Asked::Full => {
                    self.tell();
                    return Passed::Full;
                }
            }
        }
        self.tell();
        Passed::Free
    }

    /// A batch was refused because of an intent: its place when it waits until that is gone.
    pub(crate) fn met(
        &mut self,
        batch: &Batch,
        answer: &Answer,
        now: Timestamp,
        (at, deadline): (Instant, Instant),
    ) -> Option<Passed> {
        let (header, Err((item, txn::Refusal::Conflict { conflict, seen }))) =
            (batch.header.as_ref()?, answer)
        else {
            return None;
        };
        let (_, request) = batch.requests.iter().find(|(known, _)| known == item)?;
        let is_write = matches!(request, Request::Write { .. });
        // Who has read what it writes comes too late when the other one has committed.
        if !(locks(request) || is_write && header.blind) {
            return None;
        }
        let asks = batch.asks();
        let (key, strength, _) = asks.into_iter().find(|(key, ..)| *key == conflict.key)?;
        self.last += 1;
        let ask = Ask {
            waiter: self.last,
            seen: alive(header, now),
            strength,
            keeps: true,
            yields: yields(batch),
            deadline_ns: deadline.0,
        };
        base::sometimes!("node: a request waits for an intent at its leader");
        Some(match self.table.met_intent(&key, seen, ask, at.0) {
            Asked::Waits => Passed::Waits(self.wait(key)),
            Asked::Free | Asked::Full => Passed::Full,
        })
    }

    fn wait(&mut self, key: Bytes) -> Turn {
        let (sender, told) = oneshot();
        let waiter = self.last;
        self.waiting.insert(waiter, sender);
        self.tell();
        Turn { key, waiter, told }
    }

    /// A batch was evaluated, and what comes of it is proposed: those who waited for what it ends go on, and it hears how many wait for
    /// what it has locked.
    pub(crate) fn on_answer(&mut self, batch: &Batch, answer: &mut Answer) {
        if self.table.is_empty() {
            return;
        }
        self.table.on_answer(batch, answer);
        self.tell();
        let mut requests = batch.requests.iter();
        for (item, reply) in answer.iter_mut().flatten() {
            let (Reply::Locked { queue, .. } | Reply::Changed { queue, .. }) = reply else {
                continue;
            };
            let asked = requests.find(|(known, _)| known == item);
            if let Some((_, Request::GetLocked { key, .. } | Request::Change { key, .. })) = asked {
                *queue = u32::try_from(self.table.queue(key)).unwrap_or(u32::MAX);
            }
        }
    }

    /// When [`Self::check`] is to be called for a place; `None` when it is lost.
    pub(crate) fn wake_at(&self, turn: &Turn) -> Option<Instant> {
        let at = self.table.wake_at_ns(&turn.key, turn.waiter);
        at.filter(|_| self.waiting.contains_key(&turn.waiter))
            .map(Instant)
    }

    /// Time has passed at the key of a place.
    pub(crate) fn check(&mut self, turn: &Turn, at: Instant) {
        self.table.check(&turn.key, at.0);
        self.tell();
    }

    fn tell(&mut self) {
        for effect in self.table.effects() {
            let (waiter, told) = match effect {
                Effect::Go(waiter) => (waiter, Told::Go),
                Effect::Late(waiter) => (waiter, Told::Late),
                Effect::Push { waiter, holder, .. } => (waiter, Told::Held(holder)),
            };
            if let Some(sender) = self.waiting.remove(&waiter) {
                sender.send(told);
            }
        }
    }
}

/// Whether a request reads what is newest, so that it is not too late after another one.
fn locks(request: &Request) -> bool {
    matches!(request, Request::GetLocked { .. } | Request::Change { .. })
}

/// Whether somebody may wait elsewhere for a transaction that wants a lock.
fn yields(batch: &Batch) -> bool {
    let may_be_met = |(_, request): &(_, Request)| {
        matches!(
            request,
            Request::GetLocked { alone: false, .. } | Request::Change { alone: false, .. }
        )
    };
    batch.requests.iter().any(may_be_met)
}

/// What is known of the transaction of a request that has come.
fn alive(header: &txn::Header, now: Timestamp) -> Seen {
    Seen {
        who: Arc::clone(&header.who),
        epoch: header.epoch,
        ts: Timestamp::ZERO,
        local_ts: now,
    }
}

/// The answer to a request that has waited for long.
pub(crate) fn held(batch: &Batch, key: &Bytes, seen: Seen, now: Timestamp) -> Answer {
    let asks = |request: &Request| match request {
        Request::Write { key: asked, .. } | Request::Change { key: asked, .. } => asked == key,
        Request::GetLocked { key: asked, .. } => asked == key,
        _ => false,
    };
    let asked = batch.requests.iter().find(|(_, request)| asks(request));
    let is_write = asked.is_some_and(|(_, request)| !matches!(request, Request::GetLocked { .. }));
    let ours = Party {
        who: batch.header.as_ref().map(|header| Arc::clone(&header.who)),
        act: if is_write { Act::Write } else { Act::Lock },
    };
    let theirs = Party {
        who: Some(Arc::clone(&seen.who)),
        act: if seen.ts == Timestamp::ZERO {
            Act::Lock
        } else {
            Act::Write
        },
    };
    let conflict = Box::new(Conflict {
        key: key.clone(),
        ours,
        theirs,
        now,
    });
    let item = asked.map_or(0, |(item, _)| *item);
    Err((item, txn::Refusal::Conflict { conflict, seen }))
}

#[cfg(test)]
mod tests;
