//! Who waits for whom at one range: a fair queue for each key that somebody waits for or has locked. In memory, at the leader; lost
//! with the lease, which costs order and nothing else: what protects a transaction's writes are intents and the checks at them.
//!
//! ```text
//!   key ── holders: transactions that locked it (for update, or shared) or whose intent was met there
//!       └─ waiters: in the order of their arrival; the first ones that fit together go on when holders are gone
//! ```
//!
//! The caller asks for what a batch wants ([`Batch::asks`]) before it is evaluated, and says what came of it ([`LockTable::on_answer`]).
//!
//! A waiter that goes on evaluates in the same step, so nobody overtakes it. Whoever comes while others wait, waits behind them, unless
//! it fits together with all of them, or has the lock already.
//!
//! Invariants:
//! - **L1**: holders of a key fit together: one, or all shared.
//! - **L2**: no waiter is overtaken by a later one that does not fit together with it.
//! - **L3**: a key that nobody holds or passes has no waiters; a key without holders and waiters is not kept.
//! - **L4**: at most `waiters_max` waiters and `locks_max` holders; who comes then is refused, not queued.
//! - **L5**: a waiter is told to go on, or that its time is over, or to push, never twice the same.

use crate::request::{Answer, Batch, Ended, Pushed, Reply, Request, Verdict};
use crate::txn::{Bytes, Keys, TxnId, Who};
use base::collections::FastMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// How much a lock excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strength {
    /// Others may have it as well; nobody may write.
    Shared,
    /// Nobody else.
    Exclusive,
}

impl Strength {
    fn fits(self, other: Self) -> bool {
        self == Self::Shared && other == Self::Shared
    }
}

/// Bounds of a lock table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Waiters of all keys.
    pub waiters_max: usize,
    /// Holders of all keys.
    pub locks_max: usize,
    /// A waiter pushes whoever is in its way after so long, in nanoseconds; one of higher priority at once.
    pub push_after_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            waiters_max: 65_536,
            locks_max: 65_536,
            push_after_ns: 20_000_000,
        }
    }
}

/// A request that wants to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<W> {
    /// The request, as the caller keeps it.
    pub waiter: W,
    /// Its transaction; `None` for a plain write.
    pub who: Option<Arc<Who>>,
    /// What it wants.
    pub strength: Strength,
    /// It wants to keep the lock until its transaction ends, rather than only pass.
    pub keeps: bool,
    /// When it gives up, by the clock that [`LockTable::tick`] is told.
    pub deadline_ns: u64,
}

/// What becomes of a request that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It may go on.
    Free,
    /// It waits.
    Waits,
    /// Too many wait or hold: refuse it as overloaded.
    Full,
}

/// What the table wants of its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<W> {
    /// The request may go on; it is not in the table any more, unless it keeps the lock.
    Go(W),
    /// The request's time is over; it is not in the table any more.
    Late(W),
    /// The request waits for this transaction: push it. When it has ended, [`LockTable::release`] its lock of the key.
    Push {
        /// Who waits.
        waiter: W,
        /// Where.
        key: Bytes,
        /// For whom.
        holder: Arc<Who>,
    },
}

#[derive(Debug, Clone)]
struct Waiter<W> {
    ask: Ask<W>,
    push_at_ns: u64,
    pushed: Option<TxnId>,
}

#[derive(Debug, Clone)]
struct Queue<W> {
    holders: Vec<(Arc<Who>, Strength)>,
    waiters: VecDeque<Waiter<W>>,
    /// A writer was told to go on, and it was not said yet whether it has laid its intent.
    is_passing: bool,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            holders: Vec::new(),
            waiters: VecDeque::new(),
            is_passing: false,
        }
    }
}

fn is(who: &Arc<Who>, ask: Option<&Arc<Who>>) -> bool {
    ask.is_some_and(|ask| ask.id == who.id)
}

impl<W> Queue<W> {
    /// The transaction that keeps `ask` from going on when the first `before` waiters are ahead of it; `Err(())` when it is a request
    /// without a transaction.
    fn blocker(&self, ask: &Ask<W>, before: usize) -> Option<Result<&Arc<Who>, ()>> {
        let foreign = |who: &Arc<Who>| !is(who, ask.who.as_ref());
        let holder = self
            .holders
            .iter()
            .find(|(who, strength)| foreign(who) && !strength.fits(ask.strength));
        if let Some((who, _)) = holder {
            return Some(Ok(who));
        }
        if self.holders.iter().any(|(who, _)| is(who, ask.who.as_ref())) {
            // It has the lock, if weaker: those who wait, wait for it too.
            return None;
        }
        let ahead = self.waiters.iter().take(before).rev();
        let mut ahead = ahead.filter(|waiter| !waiter.ask.strength.fits(ask.strength));
        ahead.next().map(|waiter| waiter.ask.who.as_ref().ok_or(()))
    }
}

/// The lock table of one range.
#[derive(Debug, Clone)]
pub struct LockTable<W> {
    config: Config,
    keys: FastMap<Bytes, Queue<W>>,
    held: FastMap<TxnId, Vec<Bytes>>,
    waiters: usize,
    holders: usize,
    effects: Vec<Effect<W>>,
}

impl<W: Copy + PartialEq> LockTable<W> {
    /// An empty table.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            keys: FastMap::default(),
            held: FastMap::default(),
            waiters: 0,
            holders: 0,
            effects: Vec::new(),
        }
    }

    /// Whether nobody holds or waits for anything: then requests need not ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What is to be done, each thing once.
    pub fn effects(&mut self) -> Vec<Effect<W>> {
        core::mem::take(&mut self.effects)
    }

    /// A request comes to a key, before it is evaluated.
    pub fn ask(&mut self, key: &Bytes, ask: Ask<W>, now_ns: u64) -> Asked {
        let Some(queue) = self.keys.get_mut(key) else {
            if !ask.keeps {
                return Asked::Free;
            }
            return self.grant(key, &ask);
        };
        let skips = base::planted_bug!("txn-lock-queue-unfair");
        let before = if skips { 0 } else { queue.waiters.len() };
        match queue.blocker(&ask, before) {
            None if ask.keeps => self.grant(key, &ask),
            None => Asked::Free,
            Some(_) => self.wait(key, ask, now_ns, false),
        }
    }

    /// A request that had gone on met another transaction's intent: it waits in front of all that came later.
    pub fn met_intent(&mut self, key: &Bytes, holder: &Arc<Who>, ask: Ask<W>, now_ns: u64) -> Asked {
        if self.waiters >= self.config.waiters_max || !self.hold(key, holder, Strength::Exclusive) {
            return Asked::Full;
        }
        if let Some(queue) = self.keys.get_mut(key) {
            queue.is_passing = false;
        }
        self.wait(key, ask, now_ns, true)
    }

    fn grant(&mut self, key: &Bytes, ask: &Ask<W>) -> Asked {
        match &ask.who {
            Some(who) if !self.hold(key, who, ask.strength) => Asked::Full,
            Some(_) | None => Asked::Free,
        }
    }

    /// Whether there was room.
    fn hold(&mut self, key: &Bytes, who: &Arc<Who>, strength: Strength) -> bool {
        let known = self.keys.get_mut(key);
        let own = known.and_then(|queue| queue.holders.iter_mut().find(|(holder, _)| holder.id == who.id));
        if let Some((_, known)) = own {
            *known = strength.max(*known);
            return true;
        }
        if self.holders >= self.config.locks_max {
            return false;
        }
        self.holders += 1;
        let queue = self.keys.entry(key.clone()).or_default();
        // An intent is met where others had locked for update: the lock of whoever lost it in a lease change is void.
        if strength == Strength::Exclusive {
            let void = queue.holders.len();
            self.holders -= void;
            for (holder, _) in queue.holders.drain(..) {
                forget(&mut self.held, &holder, key);
            }
        }
        queue.holders.push((Arc::clone(who), strength));
        self.held.entry(who.id).or_default().push(key.clone());
        true
    }

    fn wait(&mut self, key: &Bytes, ask: Ask<W>, now_ns: u64, in_front: bool) -> Asked {
        if self.waiters >= self.config.waiters_max {
            base::sometimes!("txn: lock table full");
            return Asked::Full;
        }
        self.waiters += 1;
        let waiter = Waiter {
            ask,
            push_at_ns: now_ns.saturating_add(self.config.push_after_ns),
            pushed: None,
        };
        let queue = self.keys.entry(key.clone()).or_default();
        if in_front {
            queue.waiters.push_front(waiter);
        } else {
            queue.waiters.push_back(waiter);
        }
        self.push(key, now_ns);
        Asked::Waits
    }

    /// A transaction's lock of a key, or its intent there, is gone.
    pub fn release(&mut self, key: &Bytes, txn: TxnId) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        let before = queue.holders.len();
        if let Some(at) = queue.holders.iter().position(|(who, _)| who.id == txn) {
            let (who, _) = queue.holders.swap_remove(at);
            forget(&mut self.held, &who, key);
        }
        self.holders -= before - queue.holders.len();
        self.wake(key);
    }

    /// A transaction has ended: all its locks here are gone.
    pub fn release_all(&mut self, txn: TxnId) {
        let mut keys = self.held.remove(&txn).unwrap_or_default();
        keys.sort_unstable();
        for key in keys {
            self.release(&key, txn);
        }
    }

    /// The keys that a transaction holds, in no order.
    #[must_use]
    pub fn held(&self, txn: TxnId) -> &[Bytes] {
        self.held.get(&txn).map_or(&[], Vec::as_slice)
    }

    /// A batch was evaluated, and what came of it is applied: a transaction that has ended here holds nothing of this range, and one
    /// whose intents were told what became of it holds none of those keys.
    pub fn on_answer(&mut self, batch: &Batch, answer: &Answer) {
        let Ok(replies) = answer else { return };
        for (item, reply) in replies {
            let Some((_, request)) = batch.requests.iter().find(|(known, _)| known == item) else {
                continue;
            };
            match (request, reply) {
                (Request::End { .. }, Reply::Ended(Ended::Committed { .. } | Ended::Aborted { .. })) => {
                    if let Some(header) = &batch.header {
                        self.release_all(header.who.id);
                    }
                }
                (Request::Push { pushee, .. }, Reply::Pushed(Pushed::Ended { .. })) => {
                    self.release_all(pushee.who.id);
                }
                (Request::Recover { who, .. }, Reply::Recovered(Some(_)))
                | (Request::Finish { who, .. }, Reply::Ended(_)) => self.release_all(who.id),
                (
                    Request::Resolve {
                        verdict: Verdict::Moved { .. },
                        ..
                    },
                    _,
                ) => {}
                (Request::Resolve { keys, txn, .. }, Reply::Done) => self.release_in(keys, *txn),
                (Request::Resolve { keys, txn, .. }, Reply::Partly { next }) => {
                    if let Some((done, _)) = keys.cut(next) {
                        self.release_in(&done, *txn);
                    }
                }
                _ => {}
            }
        }
    }

    fn release_in(&mut self, keys: &Keys, txn: TxnId) {
        let mut here: Vec<Bytes> = self
            .held(txn)
            .iter()
            .filter(|key| keys.contain(key))
            .cloned()
            .collect();
        here.sort_unstable();
        for key in here {
            self.release(&key, txn);
        }
    }

    /// A request is given up by its caller.
    pub fn cancel(&mut self, key: &Bytes, waiter: W) {
        if let Some(queue) = self.keys.get_mut(key) {
            let before = queue.waiters.len();
            queue.waiters.retain(|known| known.ask.waiter != waiter);
            self.waiters -= before - queue.waiters.len();
            self.wake(key);
        }
    }

    /// Lets those go on whom nobody is in the way of.
    fn wake(&mut self, key: &Bytes) {
        loop {
            let Some(queue) = self.keys.get_mut(key) else {
                return;
            };
            if queue.is_passing {
                break;
            }
            let ahead = |at: &usize| queue.blocker(&queue.waiters[*at].ask, *at).is_none();
            let Some(at) = (0..queue.waiters.len()).find(ahead) else {
                break;
            };
            let Some(waiter) = queue.waiters.remove(at) else {
                break;
            };
            self.waiters -= 1;
            self.effects.push(Effect::Go(waiter.ask.waiter));
            let is_alone = waiter.ask.strength == Strength::Exclusive;
            queue.is_passing = is_alone && !waiter.ask.keeps;
            if waiter.ask.keeps {
                self.grant(key, &waiter.ask);
            } else if is_alone {
                // It lays its intent in this step, and the next one meets that, in its turn.
                break;
            }
        }
        let Some(queue) = self.keys.get(key) else { return };
        // Whoever passes by an empty queue has nobody to tell.
        if queue.holders.is_empty() && queue.waiters.is_empty() {
            self.keys.remove(key);
        }
    }

    /// The writer that [`Effect::Go`] let pass has laid its intent, or has failed: without an intent, the next one may go on.
    pub fn passed(&mut self, key: &Bytes, laid: Option<&Arc<Who>>) {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.is_passing = false;
        }
        match laid {
            Some(who) if self.keys.contains_key(key) => {
                self.hold(key, who, Strength::Exclusive);
            }
            Some(_) => {}
            None => self.wake(key),
        }
    }

    /// Time passes: the late are let go, and those who have waited long push.
    pub fn tick(&mut self, now_ns: u64) {
        let mut keys: Vec<Bytes> = self.keys.keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(queue) = self.keys.get_mut(&key) else {
                continue;
            };
            let before = queue.waiters.len();
            let effects = &mut self.effects;
            queue.waiters.retain(|waiter| {
                let is_late = waiter.ask.deadline_ns <= now_ns;
                if is_late {
                    effects.push(Effect::Late(waiter.ask.waiter));
                }
                !is_late
            });
            let late = before - queue.waiters.len();
            self.waiters -= late;
            if late > 0 {
                self.wake(&key);
            }
            self.push(&key, now_ns);
        }
    }

    fn push(&mut self, key: &Bytes, now_ns: u64) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        for at in 0..queue.waiters.len() {
            let waiter = &queue.waiters[at];
            let Some(Ok(holder)) = queue.blocker(&waiter.ask, at) else {
                continue;
            };
            let holder = Arc::clone(holder);
            let wins = waiter
                .ask
                .who
                .as_ref()
                .is_some_and(|who| who.priority > holder.priority);
            let is_due = wins || waiter.push_at_ns <= now_ns;
            if is_due && waiter.pushed != Some(holder.id) {
                queue.waiters[at].pushed = Some(holder.id);
                self.effects.push(Effect::Push {
                    waiter: queue.waiters[at].ask.waiter,
                    key: key.clone(),
                    holder,
                });
            }
        }
    }

    /// Checks what must hold between inputs.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_invariants(&self) {
        let (mut waiters, mut holders) = (0, 0);
        for queue in self.keys.values() {
            waiters += queue.waiters.len();
            holders += queue.holders.len();
            let shared = queue
                .holders
                .iter()
                .all(|(_, strength)| *strength == Strength::Shared);
            assert!(shared || queue.holders.len() == 1, "holders fit together");
            assert!(
                !queue.holders.is_empty() || !queue.waiters.is_empty(),
                "an empty queue is not kept"
            );
        }
        assert_eq!((waiters, holders), (self.waiters, self.holders));
        assert!(waiters <= self.config.waiters_max && holders <= self.config.locks_max);
    }
}

fn forget(held: &mut FastMap<TxnId, Vec<Bytes>>, who: &Arc<Who>, key: &Bytes) {
    if let Some(keys) = held.get_mut(&who.id) {
        keys.retain(|known| known != key);
        if keys.is_empty() {
            held.remove(&who.id);
        }
    }
}
