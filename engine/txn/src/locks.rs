//! Who waits for whom at one range: a fair queue for each key that somebody waits for or has locked. In memory, at the leader; lost
//! with the lease, which costs order and nothing else: what protects a transaction's writes are intents and the checks at them.
//!
//! ```text
//!   key ── holders: transactions that locked it (for update, or shared) or whose intent was met there
//!       └─ waiters: in the order of their arrival; the first ones that fit together go on when holders are gone
//! ```
//!
//! The caller asks for what a batch wants ([`Batch::asks`]) before it is evaluated, and says what came of it ([`LockTable::on_answer`]).
//! Whoever is told to go on holds the key, so nobody overtakes it. Whoever comes while others wait, waits behind them, unless it fits
//! together with all of them, or has the lock already.
//!
//! Nobody waits here for long at a time: it is told who is in its way, pushes that one, and comes back to its place. One that holds
//! something else, and has an older one before it, is told so much sooner, and then gives way (`driver.rs`): of those that wait for locks
//! in a circle each has somebody before it, so one of them has an older one, and the circle does not last.
//!
//! Invariants:
//! - **L1**: holders of a key fit together: one, or all shared.
//! - **L2**: no waiter is overtaken, while it is here, by a later one that does not fit together with it.
//! - **L3**: a key that nobody holds has no waiters that are here; a key without holders and waiters is not kept.
//! - **L4**: at most `waiters_max` waiters and `locks_max` holders. Who would wait beyond is refused, not queued; where too much is held,
//!   locks that nobody waits for are given up.
//! - **L5**: a waiter is told to go on, or that its time is over, or whom to push: one of these, once, by [`LockTable::check`] at the
//!   latest when [`LockTable::wake_at_ns`] says so.

use crate::error::Seen;
use crate::request::{Answer, Batch, Ended, Pushed, Reply, Request, Verdict};
use crate::txn::{Bytes, Keys, TxnId, Who};
use base::collections::FastMap;
use std::collections::{BTreeSet, VecDeque};

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

/// Waiters behind the first that are told to push later than those before.
pub const BEHIND_MAX: usize = 10;

/// Bounds of a lock table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Waiters of all keys.
    pub waiters_max: usize,
    /// Holders of all keys.
    pub locks_max: usize,
    /// The first waiter pushes whoever is in its way after so long, in nanoseconds; one of higher priority at once, and each one behind it
    /// a twentieth later, up to [`BEHIND_MAX`]. Whoever does not come back from that for as long has lost its place.
    pub push_after_ns: u64,
    /// One that holds something else and has an older one before it pushes that one after so long.
    pub yield_after_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            waiters_max: 65_536,
            locks_max: 65_536,
            push_after_ns: 200_000_000,
            yield_after_ns: 50_000_000,
        }
    }
}

/// A request that wants to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<W> {
    /// The request, as the caller keeps it.
    pub waiter: W,
    /// Its transaction, alive now: what a push of it has to know. No intent was seen, so its timestamp is zero.
    pub seen: Seen,
    /// What it wants.
    pub strength: Strength,
    /// It wants the lock in any case, rather than only where somebody else has or wants it.
    pub keeps: bool,
    /// Its transaction may be waited for elsewhere, so it does not wait for older ones for long.
    pub yields: bool,
    /// When it gives up, by the clock that [`LockTable::check`] is told.
    pub deadline_ns: u64,
}

impl<W> Ask<W> {
    fn id(&self) -> TxnId {
        self.seen.who.id
    }

    fn is_of(&self, seen: &Seen) -> bool {
        self.id() == seen.who.id
    }

    /// Whether it is not to wait for the other for long.
    fn yields_to(&self, other: &Who) -> bool {
        self.yields && self.seen.who.gives_way_to(other)
    }
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

/// What the table wants of its caller. None of these requests waits any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<W> {
    /// The request may go on, and its transaction holds the key.
    Go(W),
    /// The request's time is over, or its transaction's.
    Late(W),
    /// The request's transaction has to push this one, and to ask again: its place is kept meanwhile. When the other one has ended,
    /// [`LockTable::release`] its lock of the key.
    Push {
        /// Who waits.
        waiter: W,
        /// Where.
        key: Bytes,
        /// For whom.
        holder: Seen,
    },
}

#[derive(Debug, Clone)]
struct Holder {
    seen: Seen,
    strength: Strength,
}

#[derive(Debug, Clone)]
struct Waiter<W> {
    ask: Ask<W>,
    push_at_ns: u64,
    /// Since when it is away, pushing.
    away_ns: Option<u64>,
}

impl<W> Waiter<W> {
    fn is_here(&self) -> bool {
        self.away_ns.is_none()
    }
}

#[derive(Debug, Clone)]
struct Queue<W> {
    holders: Vec<Holder>,
    waiters: VecDeque<Waiter<W>>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            holders: Vec::new(),
            waiters: VecDeque::new(),
        }
    }
}

impl<W> Queue<W> {
    fn is_held_by(&self, id: TxnId) -> bool {
        self.holders.iter().any(|holder| holder.seen.who.id == id)
    }

    /// The transaction that keeps `ask` from going on when the first `before` waiters are ahead of it.
    fn blocker(&self, ask: &Ask<W>, before: usize) -> Option<&Seen> {
        let foreign = |holder: &&Holder| !ask.is_of(&holder.seen) && !holder.strength.fits(ask.strength);
        if let Some(holder) = self.holders.iter().find(foreign) {
            return Some(&holder.seen);
        }
        if self.is_held_by(ask.id()) {
            // It has the lock, if weaker: those who wait, wait for it too.
            return None;
        }
        let ahead = self.waiters.iter().take(before).rev();
        let mut ahead = ahead.filter(|waiter| waiter.is_here() && !waiter.ask.strength.fits(ask.strength));
        ahead.next().map(|waiter| &waiter.ask.seen)
    }

    /// An older one before `ask`, for which it is not to wait for long.
    fn elder(&self, ask: &Ask<W>, before: usize) -> Option<&Seen> {
        let holders = self.holders.iter().map(|holder| &holder.seen);
        let ahead = self.waiters.iter().take(before);
        let ahead = ahead
            .filter(|waiter| waiter.is_here())
            .map(|waiter| &waiter.ask.seen);
        let mut all = holders.chain(ahead);
        all.find(|seen| !ask.is_of(seen) && ask.yields_to(&seen.who))
    }
}

/// The lock table of one range.
#[derive(Debug, Clone)]
pub struct LockTable<W> {
    config: Config,
    keys: FastMap<Bytes, Queue<W>>,
    /// Where a transaction holds or waits.
    of: FastMap<TxnId, BTreeSet<Bytes>>,
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
            of: FastMap::default(),
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

    /// How many wait, and how many locks are held.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.waiters, self.holders)
    }

    /// How many wait for a key.
    #[must_use]
    pub fn queue(&self, key: &Bytes) -> usize {
        self.keys.get(key).map_or(0, |queue| queue.waiters.len())
    }

    /// Another transaction than `txn` that holds a key.
    #[must_use]
    pub fn holder_beside(&self, key: &Bytes, txn: TxnId) -> Option<&Seen> {
        let mut holders = self.keys.get(key)?.holders.iter();
        let found = holders.find(|holder| holder.seen.who.id != txn);
        found.map(|holder| &holder.seen)
    }

    /// What is to be done, each thing once.
    pub fn effects(&mut self) -> Vec<Effect<W>> {
        core::mem::take(&mut self.effects)
    }

    /// When [`Self::check`] is to be called for a waiter; `None` when it does not wait.
    #[must_use]
    pub fn wake_at_ns(&self, key: &Bytes, waiter: W) -> Option<u64> {
        let mut waiters = self.keys.get(key)?.waiters.iter();
        let found = waiters.find(|known| known.is_here() && known.ask.waiter == waiter)?;
        Some(found.push_at_ns.min(found.ask.deadline_ns))
    }

    /// A request comes to a key, before it is evaluated. One of a transaction that waits there takes its place.
    pub fn ask(&mut self, key: &Bytes, ask: Ask<W>, now_ns: u64) -> Asked {
        let Some(queue) = self.keys.get_mut(key) else {
            if !ask.keeps {
                return Asked::Free;
            }
            return self.grant(key, &ask);
        };
        let known = |waiter: &Waiter<W>| waiter.ask.id() == ask.id();
        if let Some(at) = queue.waiters.iter().position(known) {
            let was = &queue.waiters[at];
            if was.is_here() {
                base::sometimes!("txn: a request came again while it waited for a lock");
                self.effects.push(Effect::Late(was.ask.waiter));
            } else {
                base::sometimes!("txn: a waiter came back to its place");
            }
            queue.waiters.remove(at);
            self.waiters -= 1;
            let id = ask.id();
            let asked = self.ask_at(key, ask, at, now_ns);
            self.forget(key, id);
            self.wake(key);
            return asked;
        }
        let skips = base::planted_bug!("txn-lock-queue-unfair");
        let before = if skips { 0 } else { queue.waiters.len() };
        self.ask_at(key, ask, before, now_ns)
    }

    fn ask_at(&mut self, key: &Bytes, ask: Ask<W>, at: usize, now_ns: u64) -> Asked {
        let queue = self.keys.get(key);
        match queue.and_then(|queue| queue.blocker(&ask, at)) {
            None => self.grant(key, &ask),
            Some(_) => self.wait(key, ask, at, now_ns),
        }
    }

    /// A request that had gone on met another transaction's intent: it waits in front of all that came later.
    pub fn met_intent(&mut self, key: &Bytes, holder: &Seen, ask: Ask<W>, now_ns: u64) -> Asked {
        if !self.hold(key, holder, Strength::Exclusive) {
            return Asked::Full;
        }
        let asked = self.wait(key, ask, 0, now_ns);
        if asked == Asked::Full {
            self.release(key, holder.who.id);
        }
        asked
    }

    fn grant(&mut self, key: &Bytes, ask: &Ask<W>) -> Asked {
        if self.hold(key, &ask.seen, ask.strength) {
            Asked::Free
        } else {
            Asked::Full
        }
    }

    /// Whether there was room.
    fn hold(&mut self, key: &Bytes, seen: &Seen, strength: Strength) -> bool {
        let id = seen.who.id;
        let is_held = self.keys.get(key).is_some_and(|queue| queue.is_held_by(id));
        if !is_held && self.holders >= self.config.locks_max && !self.give_up_locks() {
            base::sometimes!("txn: too many locks are held");
            return false;
        }
        let queue = self.keys.entry(key.clone()).or_default();
        let mut void = Vec::new();
        if strength == Strength::Exclusive {
            // An intent is met where others had locked for update: the lock of whoever lost it in a lease change is void.
            void.extend(queue.holders.extract_if(.., |holder| holder.seen.who.id != id));
        }
        match queue.holders.iter_mut().find(|holder| holder.seen.who.id == id) {
            Some(known) => {
                known.strength = strength.max(known.strength);
                if known.seen.local_ts < seen.local_ts {
                    known.seen = seen.clone();
                }
            }
            None => {
                let seen = seen.clone();
                queue.holders.push(Holder { seen, strength });
                self.holders += 1;
            }
        }
        self.holders -= void.len();
        self.note(key, id);
        for holder in void {
            self.forget(key, holder.seen.who.id);
        }
        true
    }

    /// Locks that nobody waits for: clients that died may have left them, and no promise rests on them. Whether there were any.
    fn give_up_locks(&mut self) -> bool {
        base::sometimes!("txn: locks that nobody waits for are given up");
        let (mut keys, before) = (Vec::new(), self.holders);
        self.keys.retain(|key, queue| {
            let is_kept = !queue.waiters.is_empty();
            if !is_kept {
                let ids: Vec<TxnId> = queue.holders.iter().map(|holder| holder.seen.who.id).collect();
                keys.push((key.clone(), ids));
            }
            is_kept
        });
        for (key, ids) in keys {
            self.holders -= ids.len();
            for id in ids {
                self.forget(&key, id);
            }
        }
        self.holders < before
    }

    fn wait(&mut self, key: &Bytes, ask: Ask<W>, at: usize, now_ns: u64) -> Asked {
        if self.waiters >= self.config.waiters_max {
            base::sometimes!("txn: lock table full");
            return Asked::Full;
        }
        self.waiters += 1;
        let queue = self.keys.entry(key.clone()).or_default();
        let is_due = queue.elder(&ask, at).is_some();
        let wins = queue
            .blocker(&ask, at)
            .is_some_and(|seen| ask.seen.who.priority > seen.who.priority);
        let patience_ns = match (wins, is_due) {
            (true, _) => 0,
            (false, true) => self.config.yield_after_ns,
            (false, false) => {
                let behind = u64::try_from(at.min(BEHIND_MAX)).unwrap_or(0);
                self.config.push_after_ns + behind * (self.config.push_after_ns / 20)
            }
        };
        let id = ask.id();
        let waiter = Waiter {
            ask,
            push_at_ns: now_ns.saturating_add(patience_ns),
            away_ns: None,
        };
        queue.waiters.insert(at.min(queue.waiters.len()), waiter);
        self.note(key, id);
        if wins {
            self.check(key, now_ns);
        }
        Asked::Waits
    }

    /// A transaction's lock of a key, or its intent there, is gone; it waits there no longer.
    pub fn release(&mut self, key: &Bytes, txn: TxnId) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        let before = (queue.holders.len(), queue.waiters.len());
        queue.holders.retain(|holder| holder.seen.who.id != txn);
        let effects = &mut self.effects;
        queue.waiters.retain(|waiter| {
            let is_its = waiter.ask.id() == txn;
            if is_its && waiter.is_here() {
                effects.push(Effect::Late(waiter.ask.waiter));
            }
            !is_its
        });
        self.holders -= before.0 - queue.holders.len();
        self.waiters -= before.1 - queue.waiters.len();
        self.forget(key, txn);
        self.wake(key);
    }

    /// A transaction has ended: all its locks here are gone.
    pub fn release_all(&mut self, txn: TxnId) {
        for key in self.keys_of(txn) {
            self.release(&key, txn);
        }
    }

    /// The keys that a transaction holds or waits for, in order.
    #[must_use]
    pub fn keys_of(&self, txn: TxnId) -> Vec<Bytes> {
        self.of.get(&txn).into_iter().flatten().cloned().collect()
    }

    /// A batch was evaluated, and what came of it is proposed: a transaction that has ended here holds nothing of this range, and one
    /// whose intents were told what became of it holds none of those keys. Whoever goes on then waits until that is applied.
    pub fn on_answer(&mut self, batch: &Batch, answer: &Answer) {
        let Ok(replies) = answer else { return };
        // Replies come in the order of the requests: a batch has many.
        let mut requests = batch.requests.iter();
        for (item, reply) in replies {
            let Some((_, request)) = requests.find(|(known, _)| known == item) else {
                continue;
            };
            match (request, reply) {
                (Request::End { .. }, Reply::Ended(ended)) if !matches!(ended, Ended::Staged { .. }) => {
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
        let Some(of) = self.of.get(&txn) else { return };
        let here: Vec<Bytes> = match keys {
            Keys::One(key) => of.get(key).into_iter().cloned().collect(),
            Keys::Span(..) => of.iter().filter(|key| keys.contain(key)).cloned().collect(),
        };
        for key in here {
            self.release(&key, txn);
        }
    }

    /// A request is given up by its caller.
    pub fn cancel(&mut self, key: &Bytes, waiter: W) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        let mut waiters = queue.waiters.iter();
        let found = waiters.position(|known| known.is_here() && known.ask.waiter == waiter);
        if let Some(gone) = found.and_then(|at| queue.waiters.remove(at)) {
            self.waiters -= 1;
            self.forget(key, gone.ask.id());
            self.wake(key);
        }
    }

    /// Lets those go on whom nobody is in the way of.
    fn wake(&mut self, key: &Bytes) {
        loop {
            let Some(queue) = self.keys.get_mut(key) else {
                return;
            };
            let goes_on = |at: &usize| {
                let waiter = &queue.waiters[*at];
                waiter.is_here() && queue.blocker(&waiter.ask, *at).is_none()
            };
            let Some(at) = (0..queue.waiters.len()).find(goes_on) else {
                break;
            };
            let Some(waiter) = queue.waiters.remove(at) else {
                break;
            };
            self.waiters -= 1;
            self.effects.push(Effect::Go(waiter.ask.waiter));
            // Where there is no room it goes on without a lock.
            if !self.hold(key, &waiter.ask.seen, waiter.ask.strength) {
                self.forget(key, waiter.ask.id());
                break;
            }
        }
        let is_idle =
            |queue: &Queue<W>| queue.holders.is_empty() && !queue.waiters.iter().any(Waiter::is_here);
        // Those that are away find nobody in their way when they come.
        if self.keys.get(key).is_some_and(is_idle)
            && let Some(queue) = self.keys.remove(key)
        {
            self.waiters -= queue.waiters.len();
            for waiter in queue.waiters {
                self.forget(key, waiter.ask.id());
            }
        }
    }

    /// Time has passed at a key: the late are let go, those who have waited long push, and the places of those who did not come back
    /// are given up.
    pub fn check(&mut self, key: &Bytes, now_ns: u64) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        let keeps_ns = self.config.push_after_ns;
        let is_over = |waiter: &mut Waiter<W>| match waiter.away_ns {
            None => waiter.ask.deadline_ns <= now_ns,
            Some(since) => since.saturating_add(keeps_ns) <= now_ns,
        };
        let mut at = 0;
        let mut gone = Vec::new();
        while at < queue.waiters.len() {
            if is_over(&mut queue.waiters[at]) {
                gone.extend(queue.waiters.remove(at));
            } else {
                at += 1;
            }
        }
        self.waiters -= gone.len();
        for at in 0..queue.waiters.len() {
            let waiter = &queue.waiters[at];
            if !waiter.is_here() || waiter.push_at_ns > now_ns {
                continue;
            }
            let elder = queue.elder(&waiter.ask, at);
            let Some(holder) = elder.or_else(|| queue.blocker(&waiter.ask, at)).cloned() else {
                continue;
            };
            let waiter = &mut queue.waiters[at];
            waiter.away_ns = Some(now_ns);
            self.effects.push(Effect::Push {
                waiter: waiter.ask.waiter,
                key: key.clone(),
                holder,
            });
        }
        for waiter in gone {
            if waiter.is_here() {
                self.effects.push(Effect::Late(waiter.ask.waiter));
            } else {
                base::sometimes!("txn: a waiter did not come back to its place");
            }
            self.forget(key, waiter.ask.id());
        }
        self.wake(key);
    }

    /// A transaction holds a key, or waits there.
    fn note(&mut self, key: &Bytes, txn: TxnId) {
        self.of.entry(txn).or_default().insert(key.clone());
    }

    /// A transaction may neither hold a key nor wait there any more.
    fn forget(&mut self, key: &Bytes, txn: TxnId) {
        let stays = self.keys.get(key).is_some_and(|queue| {
            queue.is_held_by(txn) || queue.waiters.iter().any(|waiter| waiter.ask.id() == txn)
        });
        if !stays && let Some(keys) = self.of.get_mut(&txn) {
            keys.remove(key);
            if keys.is_empty() {
                self.of.remove(&txn);
            }
        }
    }

    /// Checks what must hold between inputs.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_invariants(&self) {
        let (mut waiters, mut holders, mut noted) = (0, 0, 0);
        for (key, queue) in &self.keys {
            waiters += queue.waiters.len();
            holders += queue.holders.len();
            let mut holding = queue.holders.iter();
            let shared = holding.all(|holder| holder.strength == Strength::Shared);
            assert!(shared || queue.holders.len() == 1, "holders fit together");
            assert!(!queue.holders.is_empty(), "whoever waits, waits for somebody");
            for (at, waiter) in queue.waiters.iter().enumerate() {
                let waits = !waiter.is_here() || queue.blocker(&waiter.ask, at).is_some();
                assert!(waits, "nobody waits who may go on");
            }
            let mut ids: Vec<TxnId> = queue.holders.iter().map(|holder| holder.seen.who.id).collect();
            ids.extend(queue.waiters.iter().map(|waiter| waiter.ask.id()));
            ids.sort_unstable();
            ids.dedup();
            assert!(
                ids.iter()
                    .all(|id| self.of.get(id).is_some_and(|keys| keys.contains(key)))
            );
            noted += ids.len();
        }
        assert_eq!((waiters, holders), (self.waiters, self.holders));
        assert_eq!(noted, self.of.values().map(BTreeSet::len).sum::<usize>());
        assert!(waiters <= self.config.waiters_max && holders <= self.config.locks_max);
    }
}
