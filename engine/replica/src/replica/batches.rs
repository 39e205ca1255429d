//! What requests of transactions, and plain ones that meet their intents, need of a replica.

use super::{Barred, CACHE_POINTS_MAX, Met, Replica};
use crate::command;
use crate::latches::{Ticket, Touched};
use crate::provisional::{Held, Provisional};
use crate::session::Standing;
use base::api::{Condition, WriteId, WriteOp};
use base::key::Span;
use base::{Index, Timestamp};
use txn::{Batch, Bytes, Memory, Mutation, Outcome, TimestampCache, TxnId};

impl<W> Replica<W> {
    /// Whether a plain write that was admitted before must not be proposed now: a transaction has come in between.
    #[must_use]
    pub fn is_held<'a>(
        &self,
        mut ops: impl Iterator<Item = WriteOp<'a>> + Clone,
        mut conditions: impl Iterator<Item = Condition<'a>> + Clone,
    ) -> bool {
        let (touched, looked_at) = (ops.clone(), conditions.clone());
        self.waits_for_transactions(&mut ops, &mut conditions)
            || !self.provisional.has_no_intents() && self.meets(touched, looked_at).is_some()
    }

    /// Whether a latch is still there: those of a leader that was deposed are not.
    #[must_use]
    pub fn is_latched(&self, ticket: Ticket) -> bool {
        self.latches.has(ticket)
    }

    /// Whether a plain write touches what a change in flight or a latch does.
    pub(super) fn waits_for_transactions<'a>(
        &self,
        ops: &mut impl Iterator<Item = WriteOp<'a>>,
        conditions: &mut impl Iterator<Item = Condition<'a>>,
    ) -> bool {
        if self.latches.is_empty() && !self.in_flight.has_changes() {
            return false;
        }
        let waits = |op: &WriteOp<'_>| self.latches.hold(op) || self.in_flight.changes_touch(op);
        ops.any(|op| waits(&op))
            || conditions.any(|condition| waits(&WriteOp::Delete { key: condition.key() }))
    }

    /// The first intent on a key of a plain write.
    pub(super) fn meets<'a>(
        &self,
        mut ops: impl Iterator<Item = WriteOp<'a>>,
        mut conditions: impl Iterator<Item = Condition<'a>>,
    ) -> Option<Met> {
        let on_op = |op: WriteOp<'_>| match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key } => self.met_on(key, Timestamp::MAX),
            WriteOp::DeleteRange { start, end } => self.met_within(start, end, Timestamp::MAX),
        };
        ops.find_map(on_op)
            .or_else(|| conditions.find_map(|condition| self.met_on(condition.key(), Timestamp::MAX)))
    }

    fn met_on(&self, key: &[u8], ts: Timestamp) -> Option<Met> {
        let is_met = |held: &Held<'_>| match held {
            Held::Spilled(_) if base::planted_bug!("replica-spilled-intent-not-met") => false,
            held => held.head().ts <= ts,
        };
        let held = self.provisional.held(key).filter(is_met)?;
        Some(met(&key.into(), held))
    }

    fn met_within(&self, start: &[u8], end: Option<&[u8]>, ts: Timestamp) -> Option<Met> {
        let (key, held) = self.provisional.first_at(start, end, ts)?;
        Some(met(key, held))
    }

    /// A read of the newest version of a key, when it is served: the intent that is in its way. What is not applied was not
    /// answered.
    #[must_use]
    pub fn met_by_get(&self, key: &[u8]) -> Option<Box<Met>> {
        if self.provisional.has_no_intents() {
            return None;
        }
        self.met_on(key, Timestamp::MAX).map(Box::new)
    }

    /// A plain read of keys at a timestamp, at the leader: whether nothing is in its way. It is noted in any case, so that no
    /// transaction begins to write below it, and whoever waits and comes again with the same timestamp waits no longer than for what
    /// is in flight.
    ///
    /// # Errors
    /// [`Barred`].
    pub fn read_at(&mut self, start: &[u8], end: Option<&[u8]>, ts: Timestamp) -> Result<(), Barred> {
        if let Some(cache) = &mut self.cache {
            cache.note_span(Span::new(start, end), ts, None);
        }
        if self.in_flight.least_change().is_some_and(|least| least <= ts) {
            base::sometimes!("replica: a read waits for a transaction's request in flight");
            return Err(Barred::Wait);
        }
        if !self.provisional.has_no_intents()
            && let Some(met) = self.met_within(start, end, ts)
        {
            return Err(Barred::Meets(Box::new(met)));
        }
        Ok(())
    }

    /// Whether a replica that does not lead may show keys at a timestamp up to which the range is closed: it has no intent there.
    #[must_use]
    pub fn may_show(&self, start: &[u8], end: Option<&[u8]>, ts: Timestamp) -> bool {
        self.provisional.has_no_intents() || self.met_within(start, end, ts).is_none()
    }

    /// What is begun and not ended.
    #[must_use]
    pub fn provisional(&self) -> &Provisional {
        &self.provisional
    }

    /// Up to when keys have been read here; where that was not kept, `now`, the leader's clock, is above all of it.
    pub fn cache(&mut self, now: Timestamp) -> &mut TimestampCache {
        let new = || Box::new(TimestampCache::new(now, CACHE_POINTS_MAX));
        self.cache.get_or_insert_with(new)
    }

    /// The cache is taken out for an evaluation; [`Self::keep_cache`] puts it back.
    pub fn take_cache(&mut self, now: Timestamp) -> Box<TimestampCache> {
        let cache = self.cache.take();
        cache.unwrap_or_else(|| Box::new(TimestampCache::new(now, CACHE_POINTS_MAX)))
    }

    /// See [`Self::take_cache`].
    pub fn keep_cache(&mut self, cache: Box<TimestampCache>) {
        self.cache = Some(cache);
    }

    /// What is remembered of a transaction that has no record.
    #[must_use]
    pub fn memory(&self, id: TxnId) -> Memory {
        let id = WriteId {
            client: id.client,
            seq: id.seq,
            acked_below: 0,
        };
        match self.sessions.standing(&id) {
            Standing::New | Standing::InFlight => Memory::New,
            Standing::Applied(ts) => Memory::Ended(Outcome::Committed { ts }),
            Standing::Aborted => Memory::Ended(Outcome::Aborted),
            Standing::Forgotten => Memory::Forgotten,
        }
    }

    /// What a batch touches here.
    #[must_use]
    pub fn touched(&self, batch: &Batch) -> Touched {
        self.latches.touched(batch, &self.descriptor.span)
    }

    /// Whether a batch may be evaluated now: nothing unapplied touches what it reads or changes.
    #[must_use]
    pub fn admit_batch(&self, touched: &Touched, ticket: Option<Ticket>) -> bool {
        let is_due = match ticket {
            Some(ticket) => self.latches.is_due(ticket, self.applied_index()),
            None => {
                let spans = touched.spans.is_empty() || self.in_flight.is_empty();
                spans && !self.in_flight.touches_any(&touched.keys)
            }
        };
        let reserved = |key: &Bytes| self.reserved.holds(key);
        let is_reserved =
            touched.keys.iter().any(reserved) || (!touched.spans.is_empty() && !self.reserved.is_empty());
        let mut records = touched.records.iter();
        is_due
            && !self.is_blocked()
            && !is_reserved
            && !records.any(|record| self.in_flight.touches_hash(*record))
            && !self.in_flight.may_show(&touched.reads)
            && self.latches.is_first(touched, ticket)
    }

    /// Holds back what touches the same until [`Self::unlatch`], for a batch that has to wait.
    pub fn latch(&mut self, touched: &Touched) -> Ticket {
        self.latches.take(touched, self.proposed)
    }

    /// The batch was evaluated, or given up.
    pub fn unlatch(&mut self, ticket: Ticket) {
        self.latches.give_back(ticket, self.proposed);
    }

    /// Gives what requests of transactions change its place in the log: appends its command to `out` and returns its index.
    ///
    /// # Panics
    /// As [`Self::propose_write`], or when one of the mutations makes something above `ts`.
    pub fn propose_change(&mut self, ts: Timestamp, mutations: &[Mutation], out: &mut Vec<u8>) -> Index {
        let index = self.next_index(ts);
        let mut least = ts;
        for mutation in mutations {
            if let Some(made) = made_at(mutation) {
                assert!(made <= ts, "{mutation:?} in an entry of {ts}");
                least = least.min(made);
            }
        }
        self.newest.forget_written(mutations.iter().filter_map(written));
        let changed = mutations.iter().map(|mutation| self.latches.changed(mutation));
        self.in_flight.push_change(index, (ts, least), changed);
        command::encode_change(out, ts, mutations);
        index
    }
}

fn met(key: &Bytes, held: Held<'_>) -> Met {
    Met {
        key: key.clone(),
        seen: held.head().seen(),
    }
}

/// The key of which a mutation may make a version, as a write that only names it.
fn written(mutation: &Mutation) -> Option<WriteOp<'_>> {
    match mutation {
        Mutation::Commit { key, .. } | Mutation::Put { key, .. } => Some(WriteOp::Delete { key }),
        Mutation::Lay { .. }
        | Mutation::Spill { .. }
        | Mutation::Move { .. }
        | Mutation::Drop { .. }
        | Mutation::Record(_)
        | Mutation::Remember { .. } => None,
    }
}

/// The timestamp of what a mutation makes visible.
fn made_at(mutation: &Mutation) -> Option<Timestamp> {
    match mutation {
        Mutation::Lay { intent, .. } | Mutation::Spill { intent, .. } => Some(intent.ts),
        Mutation::Move { ts, .. } | Mutation::Commit { ts, .. } | Mutation::Put { ts, .. } => Some(*ts),
        Mutation::Drop { .. } | Mutation::Record(_) | Mutation::Remember { .. } => None,
    }
}
