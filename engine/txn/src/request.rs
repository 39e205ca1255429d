//! What ranges are asked, and what they answer.

use crate::change::{Change, Condition, Given, Unmet};
use crate::error::{Refusal, Seen};
use crate::locks::Strength;
use crate::record::{Outcome, Promise, Record};
use crate::txn::{Bytes, Epoch, Header, Keys, Seq, TxnId, Who};
use base::Timestamp;
use std::sync::Arc;

/// Numbers a request among those of its sender, so that its answer finds back.
pub type Item = u32;

/// Requests by which intents are resolved that one sender has under way at once: of more, the first ones are answered before others go
/// out, so that nothing else waits long for the keys of all of them.
pub const RESOLVE_REQUESTS_MAX: usize = 128;

/// One request to one range.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// The value of a key, at the header's `read_ts`.
    Get {
        /// The key.
        key: Bytes,
    },
    /// As [`Self::Get`], and keeps others from writing until the transaction ends: the range's leader asks its lock table first, where it
    /// waits for its turn. What is read is the newest value, or it is refused as a write would be: one that is older could not be
    /// written over.
    GetLocked {
        /// The key.
        key: Bytes,
        /// Whether others may lock it too.
        strength: Strength,
        /// The transaction has no intent, holds no lock and asks for no other one: nobody waits for it elsewhere.
        alone: bool,
    },
    /// The keys and values of a span, at the header's `read_ts`.
    Scan {
        /// The span, within one range.
        keys: Keys,
        /// At most so many; then the answer says where to go on.
        rows_max: usize,
    },
    /// Lays an intent. A batch writes a key once.
    Write {
        /// The key.
        key: Bytes,
        /// Its place among the transaction's writes.
        seq: Seq,
        /// `None` deletes.
        value: Option<Bytes>,
        /// The answer is not to wait until the intent is durable: it says where it will be, if it will. A query proves it later.
        pipelined: bool,
    },
    /// Lays an intent whose value is worked out from what the key has: from the transaction's own intent, or else from the newest
    /// version, which it must be able to write over. The intent keeps that as it is until the transaction ends, so that is no read to be
    /// validated. Others are waited for as by [`Self::GetLocked`].
    Change {
        /// The key.
        key: Bytes,
        /// Its place among the transaction's writes.
        seq: Seq,
        /// What becomes of the value.
        change: Change,
        /// What has to hold, of this key or of others in the same range; otherwise it is refused ([`Refusal::Unmet`]). What holds of
        /// others is a read at the header's `read_ts`.
        given: Given,
        /// As in [`Self::GetLocked`].
        alone: bool,
    },
    /// A read at the header's `read_ts` that is refused ([`Refusal::Unmet`]) when something does not hold there.
    Check {
        /// What has to hold.
        condition: Condition,
    },
    /// Lays an intent that deletes on every key of a span, within one range, that the transaction sees a value of. The snapshot
    /// decides: what others insert afterwards stays, and a serializable transaction notices it when its reads are validated.
    DeleteRange {
        /// The span.
        keys: Keys,
        /// The place of all these writes among the transaction's.
        seq: Seq,
    },
    /// Asks whether what was read at `from` is still so at the header's `read_ts`.
    Refresh {
        /// What was read.
        keys: Keys,
        /// Until when it was read.
        from: Timestamp,
    },
    /// Asks whether a write is there, and **prevents** it when it is not: it can then only land above `ts`. In a transaction's own
    /// batch a missing one is refused ([`Refusal::WriteMissing`]).
    Query {
        /// The key.
        key: Bytes,
        /// Whose write.
        txn: TxnId,
        /// Of which attempt.
        epoch: Epoch,
        /// Its place; a later write of the same attempt will do.
        seq: Seq,
        /// It counts at or below this.
        ts: Timestamp,
    },
    /// Ends the header's transaction: stages, commits, or aborts it. Goes to the anchor's range.
    End {
        /// Commit, or take back.
        end: End,
        /// Where its intents may be.
        locks: Arc<[Keys]>,
    },
    /// Says that the header's transaction is alive. Goes to the anchor's range.
    Beat,
    /// Asks a transaction to give way. Goes to its anchor's range.
    Push {
        /// What was seen of it.
        pushee: Seen,
        /// Who pushes; `None` is a request outside of transactions, of normal priority.
        pusher: Option<Arc<Who>>,
        /// How far it has to go.
        push: Push,
    },
    /// What a transaction's record says. Goes to its anchor's range.
    QueryTxn {
        /// The transaction.
        who: Arc<Who>,
    },
    /// Ends a staged attempt by what was found. Goes to the anchor's range.
    Recover {
        /// The transaction.
        who: Arc<Who>,
        /// The attempt.
        epoch: Epoch,
        /// Its timestamp.
        ts: Timestamp,
        /// Whether every promise was kept: the transaction is committed. Otherwise one of them never will be.
        kept: bool,
    },
    /// Does to a transaction's intents what became of it: at most [`crate::evaluate::RESOLVES_MAX`] of them at a time.
    Resolve {
        /// Where they may be.
        keys: Keys,
        /// Whose.
        txn: TxnId,
        /// What became of it.
        verdict: Verdict,
    },
    /// Says in the record that the transaction is committed, of which the sender knows that it is: every write that was promised is
    /// there. Its intents in the record's range become versions in the same entry. Needs no header, so that those of several
    /// transactions go together.
    Finish {
        /// The transaction.
        who: Arc<Who>,
        /// The attempt that was staged.
        epoch: Epoch,
        /// The timestamp that it was staged at.
        ts: Timestamp,
        /// Where its intents are, as in [`Request::End`].
        locks: Arc<[Keys]>,
    },
    /// Removes the record of a finished transaction whose intents are all resolved. The outcome stays remembered.
    Forget {
        /// The transaction.
        who: Arc<Who>,
    },
}

/// How [`Request::End`] is to end a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum End {
    /// It commits if all of `promises` are kept.
    Commit {
        /// Writes that are not known to be there, in the order of their keys.
        promises: Arc<[Promise]>,
        /// Nothing of this transaction was sent before this batch: no intent, no record.
        fresh: bool,
    },
    /// It is taken back.
    Rollback,
    /// As a fresh [`Self::Commit`]; and when its batch has so many requests, all that the transaction has read and written is in it. Then
    /// its conditions are looked at where it commits, rather than at the header's `read_ts`.
    Whole {
        /// As in [`Self::Commit`].
        promises: Arc<[Promise]>,
        /// How many requests the transaction has sent, this one included.
        requests: u32,
    },
}

/// How far a push goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Push {
    /// To commit above this, if ever.
    Above(Timestamp),
    /// To abort, if that is its turn.
    Abort,
    /// To abort, whoever it is: it was chosen to break a deadlock, or the client asks for the outcome.
    Force,
}

/// What became of a transaction, as its intents are told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It committed.
    Committed {
        /// The attempt that did.
        epoch: Epoch,
        /// The commit timestamp.
        ts: Timestamp,
        /// What it had taken back.
        ignored: Arc<[crate::txn::SeqSpan]>,
    },
    /// It committed at `ts`, and all its intents were told so: one that is there was laid by a late copy of a write, and goes. What it
    /// had taken back and which attempt it was is not known any more.
    Settled {
        /// The commit timestamp.
        ts: Timestamp,
    },
    /// It did not.
    Aborted,
    /// It goes on, above `ts`.
    Moved {
        /// Its attempt.
        epoch: Epoch,
        /// Where its intents are from now on, at least.
        ts: Timestamp,
    },
}

/// Requests that one range evaluates together: all happen, or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Batch {
    /// The transaction that asks; `None` for pushes, recoveries and resolutions, which need none.
    pub header: Option<Header>,
    /// What it asks.
    pub requests: Vec<(Item, Request)>,
}

impl Batch {
    /// What is wrong with the batch, and with which request: a peer may send what this crate never would. A range evaluates none of
    /// it.
    ///
    /// - What a transaction asks has a header.
    /// - Each key is changed by one request, for none sees what the others of its batch do; and so is each record. What finishes a
    ///   transaction changes the keys of its intents.
    /// - Beside an end there are writes, changes and queries only; beside what finishes transactions nothing that asks for one that goes on.
    #[must_use]
    pub fn flaw(&self) -> Option<(Item, &'static str)> {
        let named = self.header.is_some();
        let find = |wanted: &dyn Fn(&Request) -> bool| {
            let mut found = self.requests.iter().filter(|(_, request)| wanted(request));
            (
                found.next().map(|(item, _)| *item),
                found.next().map(|(item, _)| *item),
            )
        };
        if let (Some(item), _) = find(&|request| request.needs_header() && !named) {
            return Some((item, "it is one of a transaction, and its batch names none"));
        }
        let sender = self.header.as_ref().map(|header| &header.who);
        let mut finished = Vec::new();
        let mut changed: Vec<(TxnId, Item)> = Vec::new();
        for (item, request) in &self.requests {
            changed.extend(request.record(sender).map(|id| (id, *item)));
            if let Request::Finish { who, .. } = request {
                finished.push(who.id);
            }
        }
        changed.sort_unstable();
        if let Some(twice) = changed.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Some((twice[1].1, "another one of its batch changes the same record"));
        }
        finished.sort_unstable();
        let is_finished = |request: &Request| matches!(request, Request::Resolve { txn, .. } if finished.binary_search(txn).is_ok());
        if let (Some(item), _) = find(&is_finished) {
            return Some((item, "its batch finishes the transaction"));
        }
        if !finished.is_empty()
            && let (Some(item), _) = find(&|request| !request.goes_with_finish())
        {
            return Some((item, "its batch finishes transactions"));
        }
        if let (Some(_), _) = find(&|request| matches!(request, Request::End { .. }))
            && let (Some(item), _) = find(&|request| !request.goes_with_end())
        {
            return Some((item, "its batch ends the transaction"));
        }
        let changed = |(item, request): &(Item, Request)| Some((request.changed()?, *item));
        let mut changed: Vec<(Keys, Item)> = self.requests.iter().filter_map(changed).collect();
        changed.sort_unstable_by(|one, other| one.0.start().cmp(other.0.start()));
        let overlap = |pair: &&[(Keys, Item)]| pair[0].0.contain(pair[1].0.start());
        let twice = changed.windows(2).find(overlap)?;
        Some((twice[1].1, "another one of its batch changes the same key"))
    }

    /// The newest timestamp of another clock that the batch carries: whoever evaluates it has a clock above.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        let header = self.header.as_ref();
        let own = header.map_or(Timestamp::ZERO, |header| header.read_ts.max(header.write_ts));
        let asked = |(_, request): &(Item, Request)| match request {
            Request::Refresh { from, .. } => *from,
            Request::Query { ts, .. } | Request::Recover { ts, .. } | Request::Finish { ts, .. } => *ts,
            Request::Push { pushee, push, .. } => match push {
                Push::Above(ts) => pushee.ts.max(ts.next()),
                Push::Abort | Push::Force => pushee.ts,
            },
            Request::Resolve { verdict, .. } => match verdict {
                Verdict::Committed { ts, .. } | Verdict::Settled { ts } | Verdict::Moved { ts, .. } => *ts,
                Verdict::Aborted => Timestamp::ZERO,
            },
            _ => Timestamp::ZERO,
        };
        self.requests.iter().map(asked).fold(own, Timestamp::max)
    }

    /// Whether it lays intents.
    #[must_use]
    pub fn lays(&self) -> bool {
        let lays = |(_, request): &(Item, Request)| {
            matches!(
                request,
                Request::Write { .. } | Request::Change { .. } | Request::DeleteRange { .. }
            )
        };
        self.requests.iter().any(lays)
    }

    /// Whether it may make intents something else: versions, or nothing.
    #[must_use]
    pub fn resolves(&self) -> bool {
        let resolves = |(_, request): &(Item, Request)| {
            matches!(
                request,
                Request::End { .. } | Request::Finish { .. } | Request::Resolve { .. }
            )
        };
        self.requests.iter().any(resolves)
    }

    /// What the batch asks the lock table for before it is evaluated, in the order of keys: the key, how strongly, and whether that is kept
    /// where nobody else is. Deletes of spans ask for nothing; they meet intents, which locks only bring an order to.
    #[must_use]
    pub fn asks(&self) -> Vec<(Bytes, Strength, bool)> {
        let ask = |(_, request): &(Item, Request)| match request {
            Request::Write { key, .. } | Request::Change { key, .. } => {
                Some((key.clone(), Strength::Exclusive, false))
            }
            Request::GetLocked { key, strength, .. } => Some((key.clone(), *strength, true)),
            _ => None,
        };
        let mut asks: Vec<_> = self.requests.iter().filter_map(ask).collect();
        asks.sort_unstable();
        asks
    }

    /// One batch for each place that `place` finds for the first key of a request, in the order of their first requests.
    pub fn split<P: PartialEq>(self, mut place: impl FnMut(&[u8]) -> P) -> Vec<(P, Self)> {
        let mut parts: Vec<(P, Self)> = Vec::new();
        for (item, request) in self.requests {
            let anchor = self.header.as_ref().map(|header| &header.who);
            let at = place(request.key(anchor));
            match parts.iter_mut().find(|(known, _)| *known == at) {
                Some((_, part)) => part.requests.push((item, request)),
                None => {
                    let header = self.header.clone();
                    let requests = vec![(item, request)];
                    parts.push((at, Self { header, requests }));
                }
            }
        }
        parts
    }
}

impl Request {
    /// Whether its batch has to name a transaction.
    #[must_use]
    pub fn needs_header(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::GetLocked { .. }
            | Self::Scan { .. }
            | Self::Write { .. }
            | Self::Change { .. }
            | Self::Check { .. }
            | Self::DeleteRange { .. }
            | Self::Refresh { .. }
            | Self::End { .. }
            | Self::Beat => true,
            Self::Query { .. }
            | Self::Push { .. }
            | Self::QueryTxn { .. }
            | Self::Recover { .. }
            | Self::Resolve { .. }
            | Self::Finish { .. }
            | Self::Forget { .. } => false,
        }
    }

    /// The transaction whose record it may change.
    fn record(&self, sender: Option<&Arc<Who>>) -> Option<TxnId> {
        match self {
            Self::End { .. } | Self::Beat => sender.map(|who| who.id),
            Self::Push { pushee, .. } => Some(pushee.who.id),
            Self::Recover { who, .. } | Self::Forget { who } | Self::Finish { who, .. } => Some(who.id),
            _ => None,
        }
    }

    fn goes_with_finish(&self) -> bool {
        matches!(
            self,
            Self::Finish { .. } | Self::Resolve { .. } | Self::Forget { .. }
        )
    }

    fn goes_with_end(&self) -> bool {
        matches!(
            self,
            Self::End { .. } | Self::Write { .. } | Self::Change { .. } | Self::Query { .. }
        )
    }

    /// A range ends at `at`: it is about what is before from now on. Returns the same for what is behind, if it was about that too.
    pub(crate) fn cut(&mut self, at: &[u8]) -> Option<Self> {
        let mut other = self.clone();
        let (one, two) = (self.span_mut()?, other.span_mut()?);
        let (left, right) = one.cut(at)?;
        (*one, *two) = (left, right);
        Some(other)
    }

    /// What is before `next` is done.
    pub(crate) fn go_on(&mut self, next: &[u8]) {
        if let Some(keys) = self.span_mut()
            && let Some((_, right)) = keys.cut(next)
        {
            *keys = right;
        }
    }

    fn span_mut(&mut self) -> Option<&mut Keys> {
        match self {
            Self::DeleteRange { keys, .. } | Self::Refresh { keys, .. } | Self::Resolve { keys, .. } => {
                Some(keys)
            }
            _ => None,
        }
    }

    /// The keys whose intents it may change, save for an end, which changes them all.
    fn changed(&self) -> Option<Keys> {
        match self {
            Self::Write { key, .. } | Self::Change { key, .. } => Some(Keys::One(key.clone())),
            Self::DeleteRange { keys, .. } | Self::Resolve { keys, .. } => Some(keys.clone()),
            _ => None,
        }
    }

    /// Whether a reply is of the kind that this request gets. One that is not comes of a mistake of the other side, and counts as
    /// lost.
    #[must_use]
    pub fn is_answered_by(&self, reply: &Reply) -> bool {
        match self {
            Self::Get { .. } => matches!(reply, Reply::Value(_)),
            Self::GetLocked { .. } => matches!(reply, Reply::Locked { .. }),
            Self::Scan { .. } => matches!(reply, Reply::Rows { .. }),
            Self::Write { .. } => matches!(reply, Reply::Laid { .. }),
            Self::Change { .. } => matches!(reply, Reply::Changed { .. }),
            Self::DeleteRange { .. } => matches!(reply, Reply::Deleted { .. }),
            Self::Refresh { .. } => matches!(reply, Reply::Refreshed),
            Self::Query { .. } => matches!(reply, Reply::Queried(_)),
            Self::End {
                end: End::Commit { .. } | End::Whole { .. },
                ..
            } => matches!(reply, Reply::Ended(_)),
            Self::End { .. } | Self::Finish { .. } => {
                matches!(reply, Reply::Ended(ended) if !matches!(ended, Ended::Unmet { .. }))
            }
            Self::Beat => matches!(reply, Reply::Beaten { .. }),
            Self::Push { .. } => matches!(reply, Reply::Pushed(_)),
            Self::QueryTxn { .. } => matches!(reply, Reply::Record(_)),
            Self::Recover { .. } => matches!(reply, Reply::Recovered(_)),
            Self::Resolve { .. } => matches!(reply, Reply::Done | Reply::Partly { .. }),
            Self::Forget { .. } | Self::Check { .. } => matches!(reply, Reply::Done),
        }
    }

    /// The key by which the request finds its range.
    ///
    /// # Panics
    /// When the sender's own transaction is meant and there is none: see [`Self::needs_header`].
    #[must_use]
    pub fn key<'a>(&'a self, sender: Option<&'a Arc<Who>>) -> &'a [u8] {
        match self {
            Self::Get { key }
            | Self::GetLocked { key, .. }
            | Self::Write { key, .. }
            | Self::Change { key, .. }
            | Self::Query { key, .. } => key,
            Self::Check { condition } => &condition.key,
            Self::Scan { keys, .. }
            | Self::DeleteRange { keys, .. }
            | Self::Refresh { keys, .. }
            | Self::Resolve { keys, .. } => keys.start(),
            Self::End { .. } | Self::Beat => &sender.expect("a transaction ends itself").anchor,
            Self::Push { pushee, .. } => &pushee.who.anchor,
            Self::QueryTxn { who }
            | Self::Recover { who, .. }
            | Self::Forget { who }
            | Self::Finish { who, .. } => &who.anchor,
        }
    }
}

/// What a request did or found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// [`Request::Get`].
    Value(Option<Bytes>),
    /// [`Request::GetLocked`].
    Locked {
        /// The value.
        value: Option<Bytes>,
        /// When it was read: the header's `read_ts`, or above in a transaction that has read nothing.
        ts: Timestamp,
        /// How many others wait for the key.
        queue: u32,
    },
    /// [`Request::Scan`].
    Rows {
        /// Keys and values in order. At most [`base::limits::SCAN_BYTES_MAX`] of them and one more; none, perhaps, when
        /// [`base::limits::SCAN_ROWS_MAX`] keys without a value were passed.
        rows: Vec<(Bytes, Bytes)>,
        /// Where to go on, when there may be more.
        next: Option<Bytes>,
    },
    /// [`Request::Write`]: the intent's timestamp. A replay gets the same one, unless the intent has been moved.
    Laid {
        /// At least the header's `write_ts`.
        ts: Timestamp,
    },
    /// [`Request::Change`]. A replay gets the same one, unless the intent has been moved.
    Changed {
        /// What the key has now; `None`, too, when it was set to something.
        value: Option<Bytes>,
        /// The intent's timestamp: at least the header's `write_ts`.
        ts: Timestamp,
        /// How many others wait for the key, as [`Self::Locked`] says it.
        queue: u32,
    },
    /// [`Request::DeleteRange`].
    Deleted {
        /// The keys that have an intent of it, in order; a replay gets the same ones.
        keys: Vec<Bytes>,
        /// The greatest timestamp of these intents; at least the header's `write_ts`.
        ts: Timestamp,
        /// Where to go on, when there may be more.
        next: Option<Bytes>,
    },
    /// [`Request::Refresh`].
    Refreshed,
    /// [`Request::Query`]: the timestamp of the write, if it is there. It counts if that is not above the one asked for.
    Queried(Option<Timestamp>),
    /// [`Request::End`].
    Ended(Ended),
    /// [`Request::Beat`]: how far the transaction is, and where it has been pushed to.
    Beaten {
        /// Its end, if it has one.
        outcome: Option<Outcome>,
        /// It commits at or above this.
        ts: Timestamp,
    },
    /// [`Request::Push`].
    Pushed(Pushed),
    /// [`Request::QueryTxn`].
    Record(Option<Box<Record>>),
    /// [`Request::Recover`]: how the transaction ended; `None` when its coordinator is alive and has gone on.
    Recovered(Option<Outcome>),
    /// [`Request::Resolve`], when there are more intents than it changes at a time.
    Partly {
        /// Where to go on.
        next: Bytes,
    },
    /// [`Request::Resolve`], [`Request::Forget`] and [`Request::Check`].
    Done,
}

/// What [`Request::End`] did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The transaction is committed.
    Committed {
        /// When.
        ts: Timestamp,
        /// Where its intents may still be. When that is nowhere, the record is gone already.
        rest: Arc<[Keys]>,
    },
    /// It is committed if its promises are kept at or below `ts`.
    Staged {
        /// The attempt's timestamp.
        ts: Timestamp,
    },
    /// It is taken back.
    Aborted {
        /// Where its intents may still be.
        rest: Arc<[Keys]>,
    },
    /// Something that a write of the same batch needs does not hold: the transaction is taken back, for good, and nothing of the batch was
    /// done.
    Unmet {
        /// What does not hold.
        unmet: Box<Unmet>,
    },
}

/// What became of a pushed transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pushed {
    /// It had ended, or has now.
    Ended {
        /// What its intents are to be told.
        verdict: Verdict,
        /// Where they may be, as far as the record knows.
        locks: Arc<[Keys]>,
    },
    /// It goes on, and commits above what was asked for.
    Moved(Verdict),
}

/// What a range answers to a batch: a reply to each request, or which one it refused, and then nothing was changed.
pub type Answer = Result<Vec<(Item, Reply)>, (Item, Refusal)>;
