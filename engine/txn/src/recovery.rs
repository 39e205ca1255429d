//! Status recovery: finds out whether a staged transaction is committed, and makes it so that it stays found out.
//!
//! The writes that the record promises are queried, in batches, with a look at the record beside each. One that is not there is
//! prevented by the query itself. What was found is then told to the record, which heeds it only when it is still the attempt that
//! was looked at.
//!
//! Invariants:
//! - **R1**: "kept" is said only when every promise was found at or below the staged timestamp.
//! - **R2**: "not kept" is said only when one was not found, and so will never be.
//! - **R3**: one recovery of a transaction at a time ([`Recoveries`]); two of different nodes may race, and agree.

use crate::error::Refusal;
use crate::outstanding::{Answered, Outstanding};
use crate::record::{Outcome, Record};
use crate::request::{Answer, Batch, Item, Reply, Request};
use crate::txn::TxnId;
use base::collections::FastMap;
use std::sync::Arc;

/// Writes that are queried at once.
pub const QUERIES_MAX: usize = 128;
/// Recoveries of a shard at once.
pub const RECOVERIES_MAX: usize = 1024;
/// Who waits for one recovery, at once.
pub const WAITERS_MAX: usize = 1024;

/// What a recovery wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Split by range and send.
    Send(Batch),
    /// The same, but it was lost or refused before: look the ranges up again first, and pause, longer from time to time. It goes on
    /// like that until it is ended ([`Recoveries::end`]).
    SendAgain(Batch),
    /// It is over: how the transaction ended; `None` when its coordinator is alive and has gone on.
    Done(Option<Outcome>),
    /// Two facts contradict each other. The node stops and says so.
    Contradiction(Refusal),
}

/// One recovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recovery {
    record: Record,
    /// Promises below this were sent.
    next: usize,
    outstanding: Outstanding,
    is_telling: bool,
    is_over: bool,
    effects: Vec<Effect>,
}

impl Recovery {
    /// Begins with what a push or a rollback found.
    #[must_use]
    pub fn new(record: Record) -> Self {
        let mut recovery = Self {
            record,
            next: 0,
            outstanding: Outstanding::default(),
            is_telling: false,
            is_over: false,
            effects: Vec::new(),
        };
        recovery.advance();
        recovery
    }

    /// The transaction.
    #[must_use]
    pub fn txn(&self) -> TxnId {
        self.record.who.id
    }

    /// What is to be done, each thing once.
    pub fn effects(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }

    /// Whether an answer to `item` would still matter.
    #[must_use]
    pub fn awaits(&self, item: Item) -> bool {
        self.outstanding.has(item)
    }

    /// Takes in the answer to one part of what was sent.
    pub fn on_answer(&mut self, items: &[Item], answer: Answer) {
        match answer {
            Ok(replies) => {
                let mut lost = Vec::new();
                for (item, reply) in replies {
                    match self.outstanding.answered(item, &reply) {
                        Answered::Fits if !self.is_over => self.on_reply(reply),
                        Answered::Lost => lost.push(item),
                        Answered::Fits | Answered::Late | Answered::Partly => {}
                    }
                }
                self.on_lost(&lost);
            }
            Err((item, _)) if !self.outstanding.has(item) => return,
            Err((_, refusal @ Refusal::Contradiction { .. })) => {
                self.is_over = true;
                self.outstanding.clear();
                self.effects.push(Effect::Contradiction(refusal));
            }
            // The outcome is forgotten along with the session: then nobody is left to be told.
            Err((_, Refusal::Forgotten)) => self.finish(None),
            // The range has moved, most likely.
            Err(_) => return self.on_lost(items),
        }
        if self.outstanding.is_empty() && !self.is_over {
            self.advance();
        }
    }

    /// The answer to `items` will not come: they are asked again. Nothing here is harmed by being done twice.
    pub fn on_lost(&mut self, items: &[Item]) {
        if !self.is_over {
            self.effects
                .extend(self.outstanding.again(items).map(Effect::SendAgain));
        }
    }

    fn on_reply(&mut self, reply: Reply) {
        match reply {
            Reply::Queried(found) => {
                let ts = self.record.write_ts;
                if found
                    .is_none_or(|found| found > ts && !base::planted_bug!("txn-condition-ignores-timestamp"))
                {
                    self.tell(false);
                }
            }
            Reply::Record(Some(record)) => {
                if record.outcome().is_some() {
                    self.finish(record.outcome());
                } else if !record.is_attempt(self.record.epoch, self.record.write_ts) {
                    base::sometimes!("txn: recovery found the coordinator alive");
                    self.finish(None);
                }
            }
            // Finished and forgotten: the range remembers how.
            Reply::Record(None) => self.tell(false),
            Reply::Recovered(outcome) => self.finish(outcome),
            // It asks for nothing else, and a reply is of the kind that was asked for.
            _ => {}
        }
    }

    fn advance(&mut self) {
        let promises = Arc::clone(&self.record.in_flight);
        if self.is_telling {
            return;
        }
        if self.next >= promises.len() {
            return self.tell(true);
        }
        let until = promises.len().min(self.next + QUERIES_MAX);
        let query = |promise: &crate::record::Promise| Request::Query {
            key: Arc::clone(&promise.key),
            txn: self.record.who.id,
            epoch: self.record.epoch,
            seq: promise.seq,
            ts: self.record.write_ts,
        };
        let mut requests: Vec<Request> = promises[self.next..until].iter().map(query).collect();
        self.next = until;
        requests.push(Request::QueryTxn {
            who: Arc::clone(&self.record.who),
        });
        self.send(requests);
    }

    /// Says what was found. What is still asked does not matter any more.
    fn tell(&mut self, kept: bool) {
        if self.is_telling {
            return;
        }
        self.is_telling = true;
        self.outstanding.clear();
        self.send(vec![Request::Recover {
            who: Arc::clone(&self.record.who),
            epoch: self.record.epoch,
            ts: self.record.write_ts,
            kept,
        }]);
    }

    fn finish(&mut self, outcome: Option<Outcome>) {
        self.is_over = true;
        self.outstanding.clear();
        self.effects.push(Effect::Done(outcome));
    }

    fn send(&mut self, requests: Vec<Request>) {
        let batch = self.outstanding.ask(requests);
        self.effects.push(Effect::Send(batch));
    }
}

/// What became of a wish to recover.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined<W> {
    /// A recovery began: take its effects by [`Recoveries::get_mut`].
    Began,
    /// One is under way; the waiter is told with the others.
    Waits,
    /// Too many run, or too many wait for this one: try again later.
    Full(W),
}

/// The recoveries of a shard. `W` is who waits for one.
#[derive(Debug)]
pub struct Recoveries<W> {
    running: FastMap<TxnId, (Recovery, Vec<W>)>,
}

impl<W> Default for Recoveries<W> {
    fn default() -> Self {
        Self {
            running: FastMap::default(),
        }
    }
}

impl<W> Recoveries<W> {
    /// Waits for the recovery of a transaction, and begins it if need be.
    pub fn join(&mut self, record: Record, waiter: W) -> Joined<W> {
        let id = record.who.id;
        if let Some((_, waiters)) = self.running.get_mut(&id) {
            if waiters.len() >= WAITERS_MAX {
                return Joined::Full(waiter);
            }
            waiters.push(waiter);
            return Joined::Waits;
        }
        if self.running.len() >= RECOVERIES_MAX {
            return Joined::Full(waiter);
        }
        self.running.insert(id, (Recovery::new(record), vec![waiter]));
        Joined::Began
    }

    /// The recovery of a transaction.
    pub fn get_mut(&mut self, id: TxnId) -> Option<&mut Recovery> {
        self.running.get_mut(&id).map(|(recovery, _)| recovery)
    }

    /// Ends a recovery that said [`Effect::Done`]: who has waited for it.
    pub fn end(&mut self, id: TxnId) -> Vec<W> {
        self.running
            .remove(&id)
            .map(|(_, waiters)| waiters)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Promise, Status};
    use crate::txn::{Epoch, Isolation, Priority, Seq, Who};
    use base::{ClientId, Timestamp};

    fn record(seq: u64, promises: u32) -> Record {
        let who = Who {
            id: TxnId {
                client: ClientId(1),
                seq,
            },
            anchor: b"a"[..].into(),
            name: "".into(),
            isolation: Isolation::Snapshot,
            priority: Priority::Normal,
            start_ts: Timestamp::new(1, 0),
        };
        let promise = |n: u32| Promise {
            key: n.to_be_bytes()[..].into(),
            seq: Seq(n),
        };
        Record {
            who: Arc::new(who),
            status: Status::Staging,
            epoch: Epoch(0),
            write_ts: Timestamp::new(5, 0),
            in_flight: (0..promises).map(promise).collect(),
            locks: Arc::new([]),
            ignored: Arc::new([]),
            heard_ts: Timestamp::new(1, 0),
        }
    }

    fn sent(recovery: &mut Recovery) -> Vec<(Item, Request)> {
        match recovery.effects().pop() {
            Some(Effect::Send(batch) | Effect::SendAgain(batch)) => batch.requests,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_recovery_of_a_transaction_runs_and_all_are_bounded() {
        let mut recoveries = Recoveries::default();
        assert_eq!(recoveries.join(record(1, 1), "one"), Joined::Began);
        assert_eq!(recoveries.join(record(1, 1), "two"), Joined::Waits);
        for seq in 2..=RECOVERIES_MAX as u64 {
            assert_eq!(recoveries.join(record(seq, 1), "more"), Joined::Began);
        }
        assert_eq!(recoveries.join(record(0, 1), "late"), Joined::Full("late"));
        assert_eq!(recoveries.end(record(1, 1).who.id), ["one", "two"]);
        assert_eq!(recoveries.join(record(0, 1), "late"), Joined::Began);
    }

    #[test]
    fn who_waits_for_one_recovery_is_bounded() {
        let mut recoveries = Recoveries::default();
        assert_eq!(recoveries.join(record(1, 1), 0), Joined::Began);
        for waiter in 1..WAITERS_MAX {
            assert_eq!(recoveries.join(record(1, 1), waiter), Joined::Waits);
        }
        assert_eq!(recoveries.join(record(1, 1), 5), Joined::Full(5));
        assert_eq!(recoveries.end(record(1, 1).who.id).len(), WAITERS_MAX);
    }

    #[test]
    fn a_reply_of_another_kind_counts_as_lost() {
        let mut recovery = Recovery::new(record(1, 1));
        let first = sent(&mut recovery);
        let items: Vec<Item> = first.iter().map(|(item, _)| *item).collect();
        let replies = items.iter().map(|item| (*item, Reply::Done)).collect();
        recovery.on_answer(&items, Ok(replies));
        assert_eq!(sent(&mut recovery), first, "asked again");
        assert!(items.iter().all(|item| recovery.awaits(*item)));
    }

    #[test]
    fn what_is_refused_is_sent_again_with_a_pause_and_nothing_after_the_end() {
        let mut recovery = Recovery::new(record(1, 1));
        let first = sent(&mut recovery);
        let items: Vec<Item> = first.iter().map(|(item, _)| *item).collect();
        let key = b"k"[..].into();
        recovery.on_answer(&items, Err((items[0], Refusal::WrongRange { key })));
        assert!(matches!(&recovery.effects()[..], [Effect::SendAgain(batch)] if batch.requests == first));
        recovery.on_answer(&items, Err((items[0], Refusal::Forgotten)));
        assert_eq!(recovery.effects(), [Effect::Done(None)]);
        recovery.on_answer(&items, Err((items[0], Refusal::Forgotten)));
        recovery.on_lost(&items);
        assert_eq!(recovery.effects(), []);
    }

    #[test]
    fn queries_go_in_batches_and_stop_early() {
        let mut recovery = Recovery::new(record(1, 300));
        let first = sent(&mut recovery);
        assert_eq!(first.len(), QUERIES_MAX + 1);
        let answer = |(item, request): &(Item, Request)| match request {
            Request::Query { ts, .. } => (*item, Reply::Queried(Some(*ts))),
            _ => (*item, Reply::Record(Some(Box::new(record(1, 300))))),
        };
        let items: Vec<Item> = first.iter().map(|(item, _)| *item).collect();
        recovery.on_answer(&items, Ok(first.iter().map(answer).collect()));
        let second = sent(&mut recovery);
        assert_eq!(second.len(), QUERIES_MAX + 1);
        recovery.on_answer(&[second[0].0], Ok(vec![(second[0].0, Reply::Queried(None))]));
        let told = sent(&mut recovery);
        assert!(matches!(told[..], [(_, Request::Recover { kept: false, .. })]));
    }
}
