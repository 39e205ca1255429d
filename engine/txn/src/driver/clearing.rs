//! A push with its recovery, for a transaction's part or for a plain request.

use super::post::{Post, Sender, Ticket};
use super::{Config, Out, items, missing};
use crate::error::{Refusal, Seen};
use crate::pusher::{self, Pusher};
use crate::record::Outcome;
use crate::recovery::{self, Recovery};
use crate::request::{self, Item, Push, Verdict};
use crate::txn::{Bytes, Epoch, Isolation, Keys, Priority, TxnId, Who};
use base::Timestamp;
use std::sync::Arc;

/// How a push ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// What was pushed is out of the way.
    Done(Verdict),
    /// Nobody remembers it, and it has left nothing.
    Forgotten,
    /// It goes on, and who pushes it does not wait for that.
    Yielded,
    /// Its recovery found what cannot be.
    Contradiction(Refusal),
}

#[derive(Debug)]
pub(super) struct Job {
    seen: Seen,
    pusher: Pusher,
    recovery: Option<Recovery>,
    /// It goes on: push again then.
    again_at_ns: Option<u64>,
    waits: u32,
}

impl Job {
    pub(super) fn new(seen: Seen, keys: Option<Keys>, who: Option<Arc<Who>>, push: Push) -> Self {
        Self::of(seen.clone(), Pusher::new(seen, keys, who, push))
    }

    fn of(seen: Seen, pusher: Pusher) -> Self {
        Self {
            seen,
            pusher,
            recovery: None,
            again_at_ns: None,
            waits: 0,
        }
    }

    /// It is one of several, of which so many waited before.
    pub(super) fn after(mut self, waits: u32) -> Self {
        self.waits = waits;
        self
    }

    pub(super) fn again_at_ns(&self) -> Option<u64> {
        self.again_at_ns
    }

    pub(super) fn again(&mut self) {
        self.again_at_ns = None;
        self.pusher.again();
    }

    pub(super) fn on_answer(&mut self, sender: Sender, items: &[Item], answer: request::Answer) {
        match sender {
            Sender::Push(_) => self.pusher.on_answer(items, answer),
            Sender::Recovery(_) => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.on_answer(items, answer);
                }
            }
            Sender::Txn | Sender::Own => {}
        }
    }

    pub(super) fn on_lost(&mut self, sender: Sender, items: &[Item]) {
        match sender {
            Sender::Push(_) => self.pusher.on_lost(items),
            Sender::Recovery(_) => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.on_lost(items);
                }
            }
            Sender::Txn | Sender::Own => {}
        }
    }

    /// Does what it wants, until it waits for an answer or is over.
    pub(super) fn run(
        &mut self,
        number: u32,
        post: &mut Post,
        outs: &mut Vec<Out>,
        now_ns: u64,
    ) -> Option<End> {
        let (pushes, recovers) = (Sender::Push(number), Sender::Recovery(number));
        loop {
            let effects = self.pusher.effects();
            let found = self.recovery.as_mut().map(Recovery::effects).unwrap_or_default();
            if effects.is_empty() && found.is_empty() {
                return None;
            }
            for effect in effects {
                match effect {
                    pusher::Effect::Send(batch) => post.send(pushes, batch),
                    pusher::Effect::SendAgain(batch) => {
                        outs.push(Out::Look);
                        post.send_again(pushes, batch, now_ns);
                    }
                    pusher::Effect::Recover(record) => self.recovery = Some(Recovery::new(*record)),
                    pusher::Effect::Waits => {
                        self.again_at_ns = Some(post.push_again_at(self.waits, now_ns));
                        self.waits = self.waits.saturating_add(1);
                    }
                    pusher::Effect::Left => outs.push(Out::Left(self.seen.clone())),
                    pusher::Effect::Done(verdict) => return Some(End::Done(verdict)),
                    pusher::Effect::Forgotten => return Some(End::Forgotten),
                }
            }
            for effect in found {
                match effect {
                    recovery::Effect::Send(batch) => post.send(recovers, batch),
                    recovery::Effect::SendAgain(batch) => {
                        outs.push(Out::Look);
                        post.send_again(recovers, batch, now_ns);
                    }
                    recovery::Effect::Done(_) => {
                        self.recovery = None;
                        post.forget(recovers);
                        self.pusher.on_recovered();
                    }
                    recovery::Effect::Contradiction(refusal) => return Some(End::Contradiction(refusal)),
                }
            }
        }
    }
}

/// How a [`Clearing`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleared {
    /// The intent is out of the way, and the transaction ended so; `None` when it goes on above what was asked for.
    Done(Option<Outcome>),
    /// How the transaction ended is remembered no longer, and nothing of it is in the way.
    Forgotten,
    /// Its recovery found what cannot be ([`Refusal::Contradiction`]): it stays in the way.
    Contradiction(Refusal),
}

/// A push with its recovery, for a request outside of transactions that has met an intent; or by who wants to know how a transaction
/// ended. It pushes again and again until its caller drops it.
#[derive(Debug)]
pub struct Clearing {
    job: Job,
    post: Post,
    outs: Vec<Out>,
    is_over: bool,
}

impl Clearing {
    /// Clears `key` of the intent that was `seen` there.
    #[must_use]
    pub fn new(config: &Config, seen: Seen, key: Bytes, push: Push, seed: u64) -> Self {
        Self::of(config, Job::new(seen, Some(Keys::One(key)), None, push), seed)
    }

    /// Finds out how a transaction ended whose record is under `anchor`. One that has not ended is aborted.
    #[must_use]
    pub fn outcome(config: &Config, id: TxnId, anchor: Bytes, seed: u64) -> Self {
        let who = Who {
            id,
            anchor,
            name: "".into(),
            isolation: Isolation::default(),
            priority: Priority::default(),
            start_ts: Timestamp::ZERO,
        };
        let seen = Seen {
            who: Arc::new(who),
            epoch: Epoch::default(),
            ts: Timestamp::ZERO,
            local_ts: Timestamp::ZERO,
        };
        Self::of(config, Job::new(seen, None, None, Push::Force), seed)
    }

    /// Tells the intents of a transaction that has ended, which [`Out::Left`] named.
    #[must_use]
    pub fn rest(config: &Config, seen: Seen, seed: u64) -> Self {
        Self::of(config, Job::of(seen.clone(), Pusher::rest(seen)), seed)
    }

    fn of(config: &Config, job: Job, seed: u64) -> Self {
        Self {
            job,
            post: Post::new(config, seed),
            outs: Vec::new(),
            is_over: false,
        }
    }

    /// See [`super::Driver::poll`]. After [`Out::Cleared`] nothing follows.
    pub fn poll<P: PartialEq>(&mut self, now_ns: u64, place: impl FnMut(&[u8]) -> P) -> Vec<Out> {
        if self.job.again_at_ns().is_some_and(|at| at <= now_ns) {
            self.job.again();
        }
        self.run(now_ns);
        self.post.hand_out(now_ns, place, &mut self.outs);
        core::mem::take(&mut self.outs)
    }

    /// See [`super::Driver::wake_at_ns`].
    #[must_use]
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.post.due_ns().into_iter().chain(self.job.again_at_ns()).min()
    }

    /// See [`super::Driver::on_answer`].
    pub fn on_answer(&mut self, ticket: Ticket, answer: request::Answer, now_ns: u64) {
        if let Some((sender, part)) = self.post.answered(ticket, answer.is_ok()) {
            let items = items(&part);
            let missing = missing(&items, &answer);
            self.job.on_answer(sender, &items, answer);
            self.job.on_lost(sender, &missing);
            self.run(now_ns);
        }
    }

    /// See [`super::Driver::on_lost`].
    pub fn on_lost(&mut self, ticket: Ticket, now_ns: u64) {
        if let Some((sender, part)) = self.post.answered(ticket, false) {
            self.job.on_lost(sender, &items(&part));
            self.run(now_ns);
        }
    }

    fn run(&mut self, now_ns: u64) {
        if self.is_over {
            return;
        }
        let Some(end) = self.job.run(0, &mut self.post, &mut self.outs, now_ns) else {
            return;
        };
        self.is_over = true;
        self.post.clear();
        self.outs.push(Out::Cleared(match end {
            End::Done(Verdict::Committed { ts, .. } | Verdict::Settled { ts }) => {
                Cleared::Done(Some(Outcome::Committed { ts }))
            }
            End::Done(Verdict::Aborted) => Cleared::Done(Some(Outcome::Aborted)),
            End::Done(Verdict::Moved { .. }) => Cleared::Done(None),
            End::Forgotten => Cleared::Forgotten,
            End::Contradiction(refusal) => Cleared::Contradiction(refusal),
            End::Yielded => unreachable!("only transactions give way"),
        }));
    }
}
