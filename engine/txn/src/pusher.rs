//! What a request does that meets another transaction's intent: push, recover if need be, resolve, go on.
//!
//! ```text
//!   Pushing ──► (waits: it goes on, and does not give way) ──► again, when the caller says so
//!      │ └────► Recovering ──► Pushing
//!      └──► Resolving ──► (all its intents are known: forget the record) ──► Done
//! ```
//!
//! With [`Push::Force`] it is also how a client learns the outcome of a commit that was never answered: either it has an outcome,
//! or it gets one now.
//!
//! Of a transaction that has ended with intents in very many places, whoever meets it resolves what is in its way, and what follows in
//! the same span of its record; not all, for which everybody who has met it would wait, and all for each other. That is left to its
//! coordinator, or, should it be gone, to one that goes on behind ([`Effect::Left`], [`Pusher::rest`]).

use crate::error::{Refusal, Seen};
use crate::outstanding::{Answered, Outstanding};
use crate::record::Record;
use crate::request::{Answer, Batch, Item, Push, Pushed, RESOLVE_REQUESTS_MAX, Reply, Request, Verdict};
use crate::txn::{Bytes, Keys, Who};
use std::sync::Arc;

/// What a push wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Split by range and send.
    Send(Batch),
    /// The same, but it was lost or refused before: look the ranges up again first, and pause, longer from time to time. It goes on
    /// like that until its caller drops the push, whose request has a deadline.
    SendAgain(Batch),
    /// Recover this transaction ([`crate::recovery`]), then call [`Pusher::on_recovered`].
    Recover(Box<Record>),
    /// The other transaction goes on. Call [`Pusher::again`] when it may have ended.
    Waits,
    /// Of the other transaction, which has ended, many intents are left elsewhere: if nobody else does, tell them by [`Pusher::rest`].
    Left,
    /// The intent is out of the way.
    Done(Verdict),
    /// There is no intent to be told, and how the transaction ended is remembered no longer.
    Forgotten,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Pushing,
    Waiting,
    Recovering,
    /// And then forget the record, if all its intents were known.
    Resolving(Verdict, bool),
    /// Only what is in the way.
    ResolvingNear(Verdict),
    Forgetting(Verdict),
    Over,
}

/// One push.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pusher {
    seen: Seen,
    keys: Option<Keys>,
    pusher: Option<Arc<Who>>,
    push: Push,
    /// However many intents there are, all are told.
    tells_all: bool,
    phase: Phase,
    outstanding: Outstanding,
    /// Where intents may be that were not told yet, the next ones last.
    rest: Vec<Keys>,
    effects: Vec<Effect>,
}

/// Where to resolve what lies at `own`, and what follows there: to the end of the span of the record that has it, if one has.
fn near(locks: &[Keys], own: &Keys) -> Keys {
    let start: &Bytes = own.start();
    let span = locks.iter().find_map(|lock| match lock {
        Keys::Span(_, end) if lock.contain(start) => Some(Keys::Span(start.clone(), end.clone())),
        Keys::Span(..) | Keys::One(_) => None,
    });
    span.unwrap_or_else(|| own.clone())
}

impl Pusher {
    /// Pushes the transaction that was `seen` to have an intent on `keys`; without keys, only its outcome is wanted.
    #[must_use]
    pub fn new(seen: Seen, keys: Option<Keys>, pusher: Option<Arc<Who>>, push: Push) -> Self {
        let mut new = Self {
            seen,
            keys,
            pusher,
            push,
            tells_all: false,
            phase: Phase::Waiting,
            outstanding: Outstanding::default(),
            rest: Vec::new(),
            effects: Vec::new(),
        };
        new.again();
        new
    }

    /// Tells all intents of a transaction that has ended, and was `seen` before, and forgets its record.
    #[must_use]
    pub fn rest(seen: Seen) -> Self {
        Self {
            tells_all: true,
            ..Self::new(seen, None, None, Push::Force)
        }
    }

    /// What is to be done, each thing once.
    pub fn effects(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Pushes again, after [`Effect::Waits`].
    pub fn again(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Pushing;
            self.send(vec![Request::Push {
                pushee: self.seen.clone(),
                pusher: self.pusher.clone(),
                push: self.push,
            }]);
        }
    }

    /// The recovery is over, whatever it found: the push finds it too.
    pub fn on_recovered(&mut self) {
        if self.phase == Phase::Recovering {
            self.phase = Phase::Waiting;
            self.again();
        }
    }

    /// The answer to `items` will not come: they are asked again.
    pub fn on_lost(&mut self, items: &[Item]) {
        self.effects
            .extend(self.outstanding.again(items).map(Effect::SendAgain));
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
                let (mut lost, mut rest) = (Vec::new(), Vec::new());
                for (item, reply) in replies {
                    match (self.outstanding.answered(item, &reply), reply) {
                        (Answered::Fits, Reply::Pushed(pushed)) => self.on_pushed(pushed),
                        (Answered::Lost, _) => lost.push(item),
                        // What is in the way comes first.
                        (Answered::Partly, _) if matches!(self.phase, Phase::ResolvingNear(_)) => {
                            self.outstanding.give_up(item);
                        }
                        (Answered::Partly, _) => rest.push(item),
                        (Answered::Fits | Answered::Late, _) => {}
                    }
                }
                self.effects
                    .extend(self.outstanding.again(&rest).map(Effect::Send));
                self.on_lost(&lost);
            }
            Err((item, refusal)) => {
                if !self.outstanding.has(item) {
                    return;
                }
                match refusal {
                    Refusal::PushWaits => {
                        self.outstanding.clear();
                        self.phase = Phase::Waiting;
                        self.effects.push(Effect::Waits);
                    }
                    Refusal::Indeterminate { record } => {
                        self.outstanding.clear();
                        self.phase = Phase::Recovering;
                        self.effects.push(Effect::Recover(record));
                    }
                    Refusal::Forgotten => {
                        self.outstanding.clear();
                        self.phase = Phase::Over;
                        self.effects.push(Effect::Forgotten);
                    }
                    Refusal::Cut { at } => {
                        let mut items = self.outstanding.cut(items, item, &at);
                        if matches!(self.phase, Phase::ResolvingNear(_)) {
                            // What is in the way lies in the first range.
                            items.drain(1..).for_each(|item| self.outstanding.give_up(item));
                        }
                        self.on_lost(&items);
                    }
                    _ => self.on_lost(items),
                }
                return;
            }
        }
        if self.outstanding.is_empty() {
            self.advance();
        }
    }

    fn on_pushed(&mut self, pushed: Pushed) {
        let (verdict, locks) = match pushed {
            Pushed::Ended { verdict, locks } => (verdict, locks),
            Pushed::Moved(verdict) => (verdict, Arc::new([]) as Arc<[Keys]>),
        };
        if locks.len() > RESOLVE_REQUESTS_MAX && !self.tells_all {
            base::sometimes!("txn: of a large transaction only what was in the way was resolved");
            self.effects.push(Effect::Left);
            let near = self.keys.as_ref().map(|own| near(&locks, own));
            self.rest.extend(near);
            self.phase = Phase::ResolvingNear(verdict);
        } else {
            self.rest = locks.to_vec();
            let is_new = |own: &Keys| !locks.iter().any(|lock| lock.contain(own.start()));
            self.rest.extend(self.keys.clone().filter(is_new));
            self.rest.reverse();
            self.phase = Phase::Resolving(verdict, !locks.is_empty());
        }
        self.resolve_some();
    }

    /// Tells the next ones.
    fn resolve_some(&mut self) {
        let (Phase::Resolving(verdict, _) | Phase::ResolvingNear(verdict)) = &self.phase else {
            return;
        };
        let request = |keys: Keys| Request::Resolve {
            keys,
            txn: self.seen.who.id,
            verdict: verdict.clone(),
        };
        let later = self.rest.len().saturating_sub(RESOLVE_REQUESTS_MAX);
        let requests: Vec<Request> = self.rest.drain(later..).rev().map(request).collect();
        if !requests.is_empty() {
            self.send(requests);
        }
    }

    fn advance(&mut self) {
        if !self.rest.is_empty() {
            return self.resolve_some();
        }
        match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Resolving(verdict, true) => {
                self.phase = Phase::Forgetting(verdict);
                self.send(vec![Request::Forget {
                    who: Arc::clone(&self.seen.who),
                }]);
            }
            Phase::Resolving(verdict, false) | Phase::ResolvingNear(verdict) | Phase::Forgetting(verdict) => {
                self.effects.push(Effect::Done(verdict));
            }
            phase @ (Phase::Pushing | Phase::Waiting | Phase::Recovering | Phase::Over) => self.phase = phase,
        }
    }

    fn send(&mut self, requests: Vec<Request>) {
        let batch = self.outstanding.ask(requests);
        self.effects.push(Effect::Send(batch));
    }
}
