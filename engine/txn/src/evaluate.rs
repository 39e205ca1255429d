//! The side of a range: what a request does, given the range's state. Synchronous, deterministic, without a change of anything but
//! the timestamp cache; what is to be replicated comes out as [`Mutation`]s.
//!
//! Invariants (numbers as in `docs/transactions.md`):
//! - **T3**: an intent is laid above every noted read of others, above the closed timestamp, and above the newest version.
//! - **T4**: a replay of `(txn, epoch, seq, key)` gets the first one's answer and changes nothing.
//! - **T5**: a query that does not find a write prevents it at or below the asked timestamp, also for its own transaction.
//! - **T6**: first committer wins: no intent is laid over a version above `read_ts`, unless the transaction has read nothing.
//! - **T7**: a read that was answered is noted; it met no intent of others at or below `read_ts` and no value that may be from
//!   before the transaction. What this leader's clock says of that counts for what was written under its own lease only.
//! - **T10**: a condition is evaluated with the write that needs it: that lays no intent unless it holds, at the write's own key in the
//!   newest value, which the intent keeps, and elsewhere at `read_ts`, which is noted. Only where a transaction is one batch, whole, may
//!   its conditions be looked at later than that: at its commit timestamp.
//! - **T11**: what a change was worked out from stays so up to the commit timestamp: its intent keeps it, and where it was taken back, what
//!   is noted when the commit removes the intent. A change is worked out once: a replay gets what the intent has. What a batch finds that would have ended the transaction
//!   by itself, and does not hold, ends it for good.

mod change;
mod finish;
mod push;
mod ranged;

pub use finish::{RESOLVE_BYTES_MAX, RESOLVES_MAX};
pub use ranged::DELETES_MAX;

use crate::change::Condition;
use crate::error::{Act, Conflict, Party, Refusal};
use crate::record::{Head, Intent};
use crate::request::{Answer, Batch, End, Reply, Request};
use crate::timestamp_cache::TimestampCache;
use crate::txn::{Bytes, Epoch, Header, Keys, Seq, SeqSpan, TxnId, Who};
use crate::view::{Mutation, Version, View};
use base::key::Span;
use base::{Timestamp, limits};
use core::cmp::Ordering;
use std::sync::Arc;

/// What the leader of a range knows when it evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Its clock: above every version and every intent of the range, since it takes in what comes with messages.
    pub now: Timestamp,
    /// No write at or below this any more.
    pub closed: Timestamp,
    /// The leader's clock when the transaction first came to its node, if it has been there: what was written here later was not
    /// before the transaction began. Otherwise [`Timestamp::MAX`].
    pub observed: Timestamp,
    /// The leader's clock when its lease began, or when ranges of other leaders were merged into its own: above all that was there
    /// then. What lies at or below it was written by other clocks, of which [`Self::observed`] says nothing.
    pub lease_start: Timestamp,
    /// A coordinator that has not been heard of for so long is taken for dead, in nanoseconds: five heartbeats.
    pub expiry_ns: u64,
}

/// Who reads. Plain reads have no id, and their limit is their `read_ts`.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The transaction, if it is one.
    pub who: Option<&'a Arc<Who>>,
    /// Its attempt.
    pub epoch: Epoch,
    /// The snapshot.
    pub read_ts: Timestamp,
    /// See [`Header::limit`].
    pub limit: Timestamp,
    /// See [`Header::ignored`].
    pub ignored: &'a [SeqSpan],
}

impl<'a> Reader<'a> {
    /// The reader that a transaction is.
    #[must_use]
    pub fn of(header: &'a Header) -> Self {
        Self {
            who: Some(&header.who),
            epoch: header.epoch,
            read_ts: header.read_ts,
            limit: header.limit,
            ignored: &header.ignored,
        }
    }

    fn id(&self) -> Option<TxnId> {
        self.who.map(|who| who.id)
    }
}

/// A transaction of one batch in one range: no intent, no record. What the hot path needs of it, without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct OnePhase {
    /// The transaction.
    pub id: TxnId,
    /// Its snapshot, unless it has read nothing: then it commits at [`Context::now`], and needs no look at what is there.
    pub read_ts: Option<Timestamp>,
    /// What it is promised.
    pub isolation: crate::txn::Isolation,
}

/// Why evaluation ends early.
pub(crate) enum Stop<E> {
    Io(E),
    Refused(Refusal),
}

impl<E> From<Refusal> for Stop<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

type Step<T, E> = Result<T, Stop<E>>;

/// Evaluates a batch. What it changes is appended to `out`: one command of the range's log, to be proposed at once. Nothing is
/// appended when it is refused.
///
/// # Errors
/// Something has to be read from disk first; nothing was changed, call it again then.
pub fn evaluate<V: View>(
    view: &V,
    cache: &mut TimestampCache,
    at: &Context,
    batch: &Batch,
    out: &mut Vec<Mutation>,
) -> Result<Answer, V::NeedsIo> {
    if let Some((item, what)) = batch.flaw() {
        let what = what.into();
        return Ok(Err((item, Refusal::Malformed { what })));
    }
    let begin = out.len();
    let mut evaluation = Evaluation {
        view,
        cache,
        at,
        header: batch.header.clone(),
        out,
        begin,
        resolved_bytes: 0,
        whole: None,
    };
    evaluation.begin_whole(batch);
    let mut replies = Vec::with_capacity(batch.requests.len());
    for (item, request) in &batch.requests {
        // What has ended has ended: writes beside a late copy of its end are late copies themselves.
        if let Request::End { end, .. } = request {
            match evaluation.already_ended(end) {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(Ok(vec![(*item, Reply::Ended(ended))])),
                Err(Stop::Io(needs)) => return Err(needs),
                Err(Stop::Refused(refusal)) => return Ok(Err((*item, refusal))),
            }
        }
    }
    for (item, request) in &batch.requests {
        match evaluation.request(request) {
            Ok(reply) => replies.push((*item, reply)),
            Err(stop) => {
                evaluation.out.truncate(begin);
                return match stop {
                    Stop::Io(needs) => Err(needs),
                    Stop::Refused(Refusal::Unmet { unmet }) => evaluation.refuse_unmet(batch, *item, unmet),
                    Stop::Refused(refusal) => Ok(Err((*item, refusal))),
                };
            }
        }
    }
    Ok(Ok(replies))
}

/// Reads one key; `f` gets the value, or `None` where there is none.
///
/// # Errors
/// The outer one: it has to be read from disk first. The inner one: [`Refusal::Conflict`] or [`Refusal::Uncertain`].
pub fn get<V: View, R>(
    view: &V,
    cache: &mut TimestampCache,
    at: &Context,
    reader: &Reader<'_>,
    key: &[u8],
    f: impl FnOnce(Option<&[u8]>) -> R,
) -> Result<Result<R, Refusal>, V::NeedsIo> {
    let read = match look(view, at, reader, key, f) {
        Ok(read) => read,
        Err(Stop::Io(needs)) => return Err(needs),
        Err(Stop::Refused(refusal)) => return Ok(Err(refusal)),
    };
    if !base::planted_bug!("txn-read-not-noted") {
        cache.note(key, reader.read_ts, reader.id());
    }
    Ok(Ok(read))
}

/// Decides on a transaction of one batch in one range: at which timestamp its writes, of distinct keys, become versions. The caller
/// has looked its id up among the results of its session, as for a plain write, and proposes one entry.
///
/// # Errors
/// The outer one: something has to be read from disk first. The inner one: [`Refusal::Conflict`], [`Refusal::WriteTooOld`],
/// [`Refusal::Refresh`], or [`Refusal::WrongRange`].
pub fn one_phase<'a, V: View>(
    view: &V,
    cache: &TimestampCache,
    at: &Context,
    txn: &OnePhase,
    keys: impl Iterator<Item = &'a [u8]>,
) -> Result<Result<Timestamp, Refusal>, V::NeedsIo> {
    let mut ts = txn.read_ts.unwrap_or(at.now).max(at.closed.next());
    let ours = Party {
        who: None,
        act: Act::Write,
    };
    for key in keys {
        if !view.contains(key) {
            return Ok(Err(Refusal::WrongRange { key: key.into() }));
        }
        if let Some(intent) = view.head(key)? {
            return Ok(Err(in_the_way(key, ours, &intent, at.now)));
        }
        ts = ts.max(cache.floor(key, Some(txn.id)));
        let Some(read_ts) = txn.read_ts else { continue };
        let newest = view.version(key, Timestamp::MAX, |found| {
            found.map_or(Timestamp::ZERO, |version| version.ts)
        })?;
        if newest > read_ts && !base::planted_bug!("txn-first-committer-unchecked") {
            return Ok(Err(too_old(key, ours, newest, at.now)));
        }
        ts = ts.max(newest.next());
    }
    if txn.isolation.is_serializable() && txn.read_ts.is_some_and(|read_ts| ts > read_ts) {
        return Ok(Err(Refusal::Refresh { to: ts }));
    }
    Ok(Ok(ts))
}

struct Evaluation<'a, V> {
    view: &'a V,
    cache: &'a mut TimestampCache,
    at: &'a Context,
    /// Its timestamps rise as requests force them to.
    header: Option<Header>,
    out: &'a mut Vec<Mutation>,
    /// Where this batch's mutations begin.
    begin: usize,
    /// Bytes of values of the intents that it has resolved.
    resolved_bytes: usize,
    /// What a batch that is a whole transaction needs of keys that it does not change.
    whole: Option<Vec<Condition>>,
}

impl<V: View> Evaluation<'_, V> {
    fn request(&mut self, request: &Request) -> Step<Reply, V::NeedsIo> {
        let sender = self.header.as_ref().map(|header| &header.who);
        let key = request.key(sender);
        if !self.view.contains(key) {
            return Err(Refusal::WrongRange { key: key.into() }.into());
        }
        match request {
            Request::Get { key } => self.get(key),
            Request::GetLocked { key, .. } => self.get_locked(key),
            Request::Scan { keys, rows_max } => self.scan(keys, *rows_max),
            Request::Write { key, seq, value, .. } => {
                let ts = self.lay(key, *seq, value.as_ref())?;
                Ok(Reply::Laid { ts })
            }
            Request::Change {
                key,
                seq,
                change,
                given,
                ..
            } => self.change(key, *seq, change, given),
            Request::Check { condition } => self.check(condition).map(|()| Reply::Done),
            Request::DeleteRange { keys, seq } => self.delete_range(keys, *seq),
            Request::Refresh { keys, from } => self.refresh(keys, *from),
            Request::Query {
                key,
                txn,
                epoch,
                seq,
                ts,
            } => self.query(key, (*txn, *epoch), *seq, *ts),
            Request::End {
                end: End::Commit { promises, fresh },
                locks,
            } => self.commit(promises, *fresh, locks),
            Request::End {
                end: End::Whole { promises, .. },
                locks,
            } => self.commit(promises, true, locks),
            Request::End {
                end: End::Rollback,
                locks,
            } => self.roll_back(locks),
            Request::Beat => self.beat(),
            Request::Push { pushee, pusher, push } => self.push(pushee, pusher.as_ref(), *push),
            Request::QueryTxn { who } => self.query_txn(who),
            Request::Recover { who, epoch, ts, kept } => self.recover(who, *epoch, *ts, *kept),
            Request::Resolve { keys, txn, verdict } => self.resolve(keys, *txn, verdict),
            Request::Forget { who } => self.forget(who),
            Request::Finish {
                who,
                epoch,
                ts,
                locks,
            } => self.finish(who, (*epoch, *ts), locks),
        }
    }

    fn header(&self) -> &Header {
        self.header.as_ref().expect("a batch that lacks it was refused")
    }

    fn get(&mut self, key: &Bytes) -> Step<Reply, V::NeedsIo> {
        let header = self.header().clone();
        let read = get(
            self.view,
            self.cache,
            self.at,
            &Reader::of(&header),
            key,
            |value| value.map(Bytes::from),
        );
        Ok(Reply::Value(read.map_err(Stop::Io)??))
    }

    fn get_locked(&mut self, key: &Bytes) -> Step<Reply, V::NeedsIo> {
        let header = self.header();
        let ours = Party {
            who: Some(Arc::clone(&header.who)),
            act: Act::Read,
        };
        match self.view.head(key).map_err(Stop::Io)? {
            Some(intent) if intent.who.id != header.who.id => {
                return Err(in_the_way(key, ours, &intent, self.at.now).into());
            }
            // While its own intent is there, nobody else has committed.
            Some(_) => {}
            None => {
                let newest = self.view.version(key, Timestamp::MAX, |found| {
                    found.map_or(Timestamp::ZERO, |version| version.ts)
                });
                let newest = newest.map_err(Stop::Io)?;
                if newest > header.read_ts && !header.blind {
                    return Err(too_old(key, ours, newest, self.at.now).into());
                }
                self.forward(newest);
            }
        }
        let ts = self.header().read_ts;
        match self.get(key)? {
            Reply::Value(value) => Ok(Reply::Locked { value, ts, queue: 0 }),
            other => Ok(other),
        }
    }

    fn scan(&mut self, keys: &Keys, rows_max: usize) -> Step<Reply, V::NeedsIo> {
        let (start, end) = self.bounds(keys)?;
        let header = self.header();
        let (read_ts, id) = (header.read_ts, header.who.id);
        let reader = Reader::of(header);
        let (mut rows, mut from) = (Vec::new(), start.clone());
        let (mut looks, mut bytes) = (0, 0);
        let next = loop {
            if rows.len() >= rows_max || looks >= limits::SCAN_ROWS_MAX || bytes >= limits::SCAN_BYTES_MAX {
                break Some(from);
            }
            let found = self.view.next_key(&from, end.as_deref()).map_err(Stop::Io)?;
            let Some(key) = found else { break None };
            let value = look(self.view, self.at, &reader, &key, |value| value.map(Bytes::from))?;
            from = after(&key);
            looks += 1;
            if let Some(value) = value {
                bytes += key.len() + value.len();
                rows.push((key, value));
            }
        };
        if !base::planted_bug!("txn-read-not-noted") {
            let span = Span::new(&start, next.as_deref().or(end.as_deref()));
            self.cache.note_span(span, read_ts, Some(id));
        }
        Ok(Reply::Rows { rows, next })
    }

    /// The bounds of keys that all belong to the range.
    fn bounds(&self, keys: &Keys) -> Step<(Bytes, Option<Bytes>), V::NeedsIo> {
        match keys {
            Keys::One(key) => Ok((key.clone(), Some(after(key)))),
            Keys::Span(start, end) => match self.view.end() {
                Some(last) if end.as_deref().is_none_or(|end| last < end) => {
                    Err(Refusal::Cut { at: last.into() }.into())
                }
                Some(_) | None => Ok((start.clone(), end.clone())),
            },
        }
    }

    /// The intent on a key of which there is a head, with what was written.
    fn whole_of(&self, key: &[u8]) -> Step<&Intent, V::NeedsIo> {
        let intent = self.view.intent(key).map_err(Stop::Io)?;
        Ok(intent.expect("an intent has a head"))
    }

    /// Lays an intent, and says where.
    fn lay(&mut self, key: &Bytes, seq: Seq, value: Option<&Bytes>) -> Step<Timestamp, V::NeedsIo> {
        let header = self.header();
        let ours = Party {
            who: Some(Arc::clone(&header.who)),
            act: Act::Write,
        };
        let known = self.view.head(key).map_err(Stop::Io)?;
        let mut intent = Intent {
            who: Arc::clone(&header.who),
            epoch: header.epoch,
            seq,
            ts: header.write_ts,
            local_ts: self.at.now,
            value: value.cloned(),
            earlier: Vec::new(),
        };
        let mut is_first = true;
        if let Some(known) = known {
            if known.who.id != header.who.id {
                return Err(in_the_way(key, ours, &known, self.at.now).into());
            }
            match known.epoch.cmp(&header.epoch) {
                Ordering::Greater => return Err(Refusal::Stale.into()),
                Ordering::Equal => {
                    let replay = if known.seq == seq {
                        Some(known.ts).filter(|_| !base::planted_bug!("txn-replay-at-new-timestamp"))
                    } else {
                        replayed(self.whole_of(key)?, seq)?
                    };
                    if let Some(ts) = replay {
                        base::sometimes!("txn: replay of a write");
                        return Ok(ts);
                    }
                    let known = self.whole_of(key)?;
                    let kept = known.kept_below(&header.ignored);
                    intent.earlier = kept.ok_or_else(|| Refusal::TooManyWrites { key: key.clone() })?;
                    intent.ts = intent.ts.max(known.ts);
                    intent.local_ts = known.local_ts;
                    is_first = false;
                }
                Ordering::Less => {}
            }
        }
        let newest = self.view.version(key, Timestamp::MAX, |found| {
            found.map(|version| (version.ts, version.value.is_some()))
        });
        let newest = newest.map_err(Stop::Io)?;
        let newest_ts = newest.map_or(Timestamp::ZERO, |(ts, _)| ts);
        // While its intent is there, nobody else has committed.
        if is_first
            && !header.blind
            && newest_ts > header.read_ts
            && !base::planted_bug!("txn-first-committer-unchecked")
        {
            return Err(too_old(key, ours, newest_ts, self.at.now).into());
        }
        let floor = self.cache.floor(key, Some(header.who.id)).max(newest_ts.next());
        let open = if base::planted_bug!("txn-closed-timestamp-ignored") {
            Timestamp::ZERO
        } else {
            self.at.closed.next()
        };
        intent.ts = intent.ts.max(floor).max(open);
        let ts = intent.ts;
        let is_idle = value.is_none() && newest.is_none_or(|(_, live)| !live);
        if !(is_idle && base::planted_bug!("txn-no-op-in-promise")) {
            self.out.push(Mutation::Lay {
                key: key.clone(),
                intent,
            });
        }
        self.forward(ts);
        Ok(ts)
    }

    /// Raises the transaction to `ts`.
    fn forward(&mut self, ts: Timestamp) {
        if let Some(header) = &mut self.header {
            header.write_ts = header.write_ts.max(ts);
            if header.blind {
                header.read_ts = header.write_ts;
            }
        }
    }

    fn refresh(&mut self, keys: &Keys, from: Timestamp) -> Step<Reply, V::NeedsIo> {
        let (start, end) = self.bounds(keys)?;
        let header = self.header();
        let (to, id) = (header.read_ts, header.who.id);
        let ours = |header: &Header| Party {
            who: Some(Arc::clone(&header.who)),
            act: Act::Read,
        };
        let mut at = start.clone();
        while let Some(key) = self.view.next_key(&at, end.as_deref()).map_err(Stop::Io)? {
            let intent = self.view.head(&key).map_err(Stop::Io)?;
            if let Some(intent) = intent.filter(|intent| intent.who.id != id && intent.ts <= to) {
                let conflict = met(&key, ours(header), &intent, self.at.now);
                return Err(Refusal::Changed { conflict }.into());
            }
            let newest = self
                .view
                .version(&key, to, |found| found.map(|version| version.ts));
            if let Some(ts) = newest.map_err(Stop::Io)?.filter(|ts| *ts > from) {
                let theirs = Party {
                    who: None,
                    act: Act::Committed(ts),
                };
                let conflict = Conflict {
                    key,
                    ours: ours(header),
                    theirs,
                    now: self.at.now,
                };
                let conflict = Box::new(conflict);
                return Err(Refusal::Changed { conflict }.into());
            }
            at = after(&key);
        }
        match keys {
            Keys::One(key) => self.cache.note(key, to, Some(id)),
            Keys::Span(..) => self
                .cache
                .note_span(Span::new(&start, end.as_deref()), to, Some(id)),
        }
        Ok(Reply::Refreshed)
    }

    fn query(
        &mut self,
        key: &Bytes,
        (txn, epoch): (TxnId, Epoch),
        seq: Seq,
        ts: Timestamp,
    ) -> Step<Reply, V::NeedsIo> {
        let intent = self.view.head(key).map_err(Stop::Io)?;
        let found = intent.filter(|intent| intent.keeps((txn, epoch), seq, Timestamp::MAX));
        let found = found.map(|intent| intent.ts);
        if found.is_none_or(|found| found > ts) {
            base::sometimes!("txn: a write was prevented");
            if base::planted_bug!("txn-prevention-with-owner") {
                self.cache.note(key, ts, Some(txn));
            } else if !base::planted_bug!("txn-recovery-without-prevention") {
                self.cache.note(key, ts, None);
            }
        }
        if found.is_none() && self.header.is_some() {
            // It was sent, and is lost: nothing of this batch is of use.
            return Err(Refusal::WriteMissing { key: key.clone() }.into());
        }
        Ok(Reply::Queried(found))
    }
}

/// The answer that a write had, when an intent of the same attempt shows that it is a replay.
fn replayed(known: &Intent, seq: Seq) -> Result<Option<Timestamp>, Refusal> {
    if base::planted_bug!("txn-replay-at-new-timestamp") {
        return Ok(None);
    }
    match seq.cmp(&known.seq) {
        Ordering::Greater => Ok(None),
        Ordering::Equal => Ok(Some(known.ts)),
        Ordering::Less => {
            let earlier = known.earlier.iter().find(|earlier| earlier.seq == seq);
            earlier.map(|earlier| Some(earlier.ts)).ok_or(Refusal::Stale)
        }
    }
}

/// What a reader sees of a key. Notes nothing.
fn look<V: View, R>(
    view: &V,
    at: &Context,
    reader: &Reader<'_>,
    key: &[u8],
    f: impl FnOnce(Option<&[u8]>) -> R,
) -> Step<R, V::NeedsIo> {
    // Written later than this by the clock of this leader: not before the reader began. What was there when its lease began was
    // written by other clocks.
    let limit = reader.limit.max(reader.read_ts);
    let observed = if base::planted_bug!("txn-observed-across-leases") {
        at.observed
    } else {
        at.observed.max(at.lease_start)
    };
    let may_be_before = |ts: Timestamp, local_ts: Timestamp| {
        let written = if base::planted_bug!("txn-uncertainty-by-moved-timestamp") {
            ts
        } else {
            local_ts
        };
        ts > reader.read_ts && ts <= limit && written <= observed
    };
    if let Some(intent) = view.head(key).map_err(Stop::Io)? {
        if reader.id() == Some(intent.who.id) {
            if intent.epoch == reader.epoch {
                let whole = view.intent(key).map_err(Stop::Io)?;
                if let Some((_, value)) = whole.and_then(|whole| whole.newest_kept(reader.ignored)) {
                    return Ok(f(value.map(|value| &**value)));
                }
            }
        } else if intent.ts <= reader.read_ts || may_be_before(intent.ts, intent.local_ts) {
            let ours = Party {
                who: reader.who.cloned(),
                act: Act::Read,
            };
            return Err(in_the_way(key, ours, &intent, at.now).into());
        }
    }
    let mut newest = limit;
    while newest > reader.read_ts {
        let found = view.version(key, newest, |found| {
            found.map(|version| (version.ts, version.local_ts))
        });
        let Some((ts, local_ts)) = found.map_err(Stop::Io)? else {
            break;
        };
        if may_be_before(ts, local_ts) {
            base::sometimes!("txn: a read was uncertain");
            return Err(Refusal::Uncertain { key: key.into(), ts }.into());
        }
        newest = ts.prev();
    }
    let value = |found: Option<Version<'_>>| f(found.and_then(|version| version.value));
    view.version(key, reader.read_ts, value).map_err(Stop::Io)
}

fn met(key: &[u8], ours: Party, intent: &Head<'_>, now: Timestamp) -> Box<Conflict> {
    let theirs = Party {
        who: Some(Arc::clone(intent.who)),
        act: Act::Write,
    };
    Box::new(Conflict {
        key: key.into(),
        ours,
        theirs,
        now,
    })
}

fn in_the_way(key: &[u8], ours: Party, intent: &Head<'_>, now: Timestamp) -> Refusal {
    Refusal::Conflict {
        conflict: met(key, ours, intent, now),
        seen: intent.seen(),
    }
}

fn too_old(key: &[u8], ours: Party, newest: Timestamp, now: Timestamp) -> Refusal {
    let theirs = Party {
        who: None,
        act: Act::Committed(newest),
    };
    let conflict = Conflict {
        key: key.into(),
        ours,
        theirs,
        now,
    };
    Refusal::WriteTooOld {
        conflict: Box::new(conflict),
        ts: newest.next(),
    }
}

/// The first key after `key`.
pub(crate) fn after(key: &[u8]) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}
