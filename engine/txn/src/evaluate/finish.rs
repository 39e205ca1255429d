//! How a transaction ends in the range that has its record: staged, committed, taken back; and what its intents become.

use super::{Evaluation, Step, Stop};
use crate::error::Refusal;
use crate::record::{Intent, Outcome, Promise, Record, Status};
use crate::request::{End, Ended, Reply, Verdict};
use crate::txn::{Bytes, Epoch, Keys, TxnId, Who};
use crate::view::{Memory, Mutation, View};
use base::{Timestamp, limits};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Intents that one request resolves: one entry of the log.
pub const RESOLVES_MAX: usize = 1024;

/// Bytes of the values of intents that one batch resolves, but for the last one: where intents are spilled, the entry has them.
pub const RESOLVE_BYTES_MAX: usize = 4 << 20;

/// How a transaction ended, and where its record says that intents may be.
type HasEnded = (Outcome, Arc<[Keys]>);

impl<V: View> Evaluation<'_, V> {
    /// What a late or repeated end gets: the outcome that the transaction has.
    pub(super) fn already_ended(&self, end: &End) -> Step<Option<Ended>, V::NeedsIo> {
        let id = self.header().who.id;
        let Some((outcome, rest)) = self.ended(id)? else {
            return Ok(None);
        };
        match (outcome, end) {
            (Outcome::Committed { ts }, _) => Ok(Some(Ended::Committed { ts, rest })),
            (Outcome::Aborted, End::Rollback) => Ok(Some(Ended::Aborted { rest })),
            (Outcome::Aborted, End::Commit { .. } | End::Whole { .. }) => Err(Refusal::Aborted.into()),
        }
    }

    /// The outcome of a transaction, and where its record says that intents may be.
    pub(super) fn ended(&self, id: TxnId) -> Step<Option<HasEnded>, V::NeedsIo> {
        if let Some(record) = self.view.record(id).map_err(Stop::Io)? {
            let outcome = record.outcome();
            return Ok(outcome.map(|outcome| (outcome, Arc::clone(&record.locks))));
        }
        match self.view.memory(id) {
            Memory::New => Ok(None),
            Memory::Ended(_) if base::planted_bug!("txn-forgets-outcome") => Ok(None),
            Memory::Ended(outcome) => Ok(Some((outcome, Arc::new([])))),
            Memory::Forgotten => Err(Refusal::Forgotten.into()),
        }
    }

    pub(super) fn commit(
        &mut self,
        promises: &Arc<[Promise]>,
        fresh: bool,
        locks: &Arc<[Keys]>,
    ) -> Step<Reply, V::NeedsIo> {
        let header = self.header();
        let (epoch, id) = (header.epoch, header.who.id);
        let record = self.view.record(id).map_err(Stop::Io)?;
        let pushed_to = match record {
            Some(record) => {
                if record.epoch > epoch {
                    return Err(Refusal::Stale.into());
                }
                if record.status == Status::Staging && record.epoch == epoch {
                    if header.write_ts <= record.write_ts && record.in_flight == *promises {
                        let ts = record.write_ts;
                        return Ok(Reply::Ended(Ended::Staged { ts }));
                    }
                    if header.write_ts < record.write_ts {
                        return Err(Refusal::Stale.into());
                    }
                }
                record.write_ts
            }
            None => self.cache.floor(&record_key(id), Some(id)),
        };
        self.forward(pushed_to);
        let kept = self.all_kept_here(promises)?;
        if let Some(newest) = kept {
            self.forward(newest);
        }
        self.check_whole()?;
        let header = self.header();
        let is_late = header.who.isolation.is_serializable() && header.write_ts > header.read_ts;
        if is_late && !base::planted_bug!("txn-skipped-refresh") {
            return Err(Refusal::Refresh { to: header.write_ts }.into());
        }
        let ts = header.write_ts;
        let mut record = Record {
            who: Arc::clone(&header.who),
            status: Status::Staging,
            epoch,
            write_ts: ts,
            in_flight: Arc::clone(promises),
            locks: Arc::clone(locks),
            ignored: Arc::clone(&header.ignored),
            heard_ts: self.at.now,
        };
        if kept.is_none() {
            self.out.push(Mutation::Record(record));
            return Ok(Reply::Ended(Ended::Staged { ts }));
        }
        base::sometimes!("txn: committed in one entry with intents", !fresh);
        record.status = Status::Committed;
        record.in_flight = Arc::new([]);
        let verdict = Verdict::Committed {
            epoch,
            ts,
            ignored: Arc::clone(&record.ignored),
        };
        // Ranges may have merged since a part of it was sent by itself.
        let fresh = fresh && self.laid().len() == promises.len();
        let rest = self.settle(&verdict, fresh, record)?;
        Ok(Reply::Ended(Ended::Committed { ts, rest }))
    }

    /// The explicit end of what is committed implicitly: the sender has seen that it is.
    pub(super) fn finish(
        &mut self,
        who: &Arc<Who>,
        (epoch, ts): (Epoch, Timestamp),
        locks: &Arc<[Keys]>,
    ) -> Step<Reply, V::NeedsIo> {
        let known = self.view.record(who.id).map_err(Stop::Io)?;
        let Some(record) = known.filter(|record| record.outcome().is_none()) else {
            let Some((outcome, rest)) = self.ended(who.id)? else {
                // Its record was forgotten with everything else of it.
                return Err(Refusal::Forgotten.into());
            };
            return match outcome {
                Outcome::Committed { ts } => Ok(Reply::Ended(Ended::Committed { ts, rest })),
                Outcome::Aborted => Err(Refusal::Aborted.into()),
            };
        };
        if record.status != Status::Staging || !record.is_attempt(epoch, ts) {
            let what = "a committed transaction was tried again".into();
            let record = Box::new(record.clone());
            return Err(Refusal::Contradiction { what, record }.into());
        }
        let record = Record {
            status: Status::Committed,
            in_flight: Arc::new([]),
            locks: Arc::clone(locks),
            ..record.clone()
        };
        let verdict = Verdict::Committed {
            epoch,
            ts,
            ignored: Arc::clone(&record.ignored),
        };
        let rest = self.settle(&verdict, false, record)?;
        Ok(Reply::Ended(Ended::Committed { ts, rest }))
    }

    pub(super) fn roll_back(&mut self, locks: &Arc<[Keys]>) -> Step<Reply, V::NeedsIo> {
        let header = self.header();
        let record = self.view.record(header.who.id).map_err(Stop::Io)?;
        if let Some(record) = record {
            if record.epoch > header.epoch {
                return Err(Refusal::Stale.into());
            }
            let is_staged = record.status == Status::Staging && record.epoch == header.epoch;
            if is_staged && !base::planted_bug!("txn-rollback-of-staged") {
                base::sometimes!("txn: rollback of a staged transaction");
                let record = Box::new(record.clone());
                return Err(Refusal::Indeterminate { record }.into());
            }
        }
        let record = Record {
            who: Arc::clone(&header.who),
            status: Status::Aborted,
            epoch: header.epoch,
            write_ts: header.write_ts,
            in_flight: Arc::new([]),
            locks: Arc::clone(locks),
            ignored: Arc::new([]),
            heard_ts: self.at.now,
        };
        let rest = self.settle(&Verdict::Aborted, false, record)?;
        Ok(Reply::Ended(Ended::Aborted { rest }))
    }

    /// Whether all of `promises` belong to this range and are kept, by this batch or before: the greatest timestamp of their
    /// intents then. Together with the record they are one entry, so there is nothing to stage.
    fn all_kept_here(&self, promises: &[Promise]) -> Step<Option<Timestamp>, V::NeedsIo> {
        let header = self.header();
        let attempt = (header.who.id, header.epoch);
        let mut laid = self.laid();
        laid.sort_unstable_by(|one, other| one.0.cmp(other.0));
        let mut newest = Timestamp::ZERO;
        for Promise { key, seq } in promises {
            if !self.view.contains(key) {
                return Ok(None);
            }
            let here = laid.binary_search_by(|(known, _)| known.as_ref().cmp(key.as_ref()));
            let intent = match here {
                Ok(position) => Some(laid[position].1.head()),
                Err(_) => self.view.head(key).map_err(Stop::Io)?,
            };
            match intent.filter(|intent| intent.keeps(attempt, *seq, Timestamp::MAX)) {
                Some(intent) => newest = newest.max(intent.ts),
                None => return Ok(None),
            }
        }
        Ok(Some(newest))
    }

    /// The intents that this batch lays.
    fn laid(&self) -> Vec<(&Bytes, &Intent)> {
        let mut laid = Vec::new();
        for mutation in &self.out[self.begin..] {
            if let Mutation::Lay { key, intent } = mutation {
                laid.push((key, intent));
            }
        }
        laid
    }

    /// Writes down how the transaction ended, does so to its intents in this range, and says where others may be. Without any, the
    /// outcome is remembered and there is no record.
    fn settle(
        &mut self,
        verdict: &Verdict,
        fresh: bool,
        mut record: Record,
    ) -> Step<Arc<[Keys]>, V::NeedsIo> {
        let outcome = record.outcome().expect("it has ended");
        let id = record.who.id;
        let mut rest = Vec::new();
        let mut changes = Vec::new();
        let mut bytes = self.resolved_bytes;
        let laid = self.laid();
        let local_ts = self.at.now;
        if let (true, Outcome::Committed { ts }) = (fresh, outcome) {
            // Nothing was there before, and all of it is here: versions at once.
            for (key, intent) in laid {
                if let Some((_, value)) = intent.newest_kept(&record.ignored) {
                    changes.push(Mutation::Put {
                        key: key.clone(),
                        ts,
                        local_ts,
                        value: value.cloned(),
                    });
                }
            }
            self.out.truncate(self.begin);
        } else {
            for (key, intent) in &laid {
                changes.extend(resolved(key, intent, verdict));
            }
            // A peer may name a key twice; its intent becomes something once.
            let mut seen = BTreeSet::new();
            for lock in record.locks.iter() {
                match lock {
                    Keys::One(key) if !seen.insert(key) => {}
                    Keys::One(key) if self.view.contains(key) && bytes < RESOLVE_BYTES_MAX => {
                        if !laid.iter().any(|(laid, _)| *laid == key) {
                            let (change, value_bytes) = self.resolved_of(key, id, verdict)?;
                            bytes += value_bytes;
                            changes.extend(change);
                        }
                    }
                    Keys::One(_) | Keys::Span(..) => rest.push(lock.clone()),
                }
            }
        }
        let rest: Arc<[Keys]> = rest.into();
        self.resolved_bytes = bytes;
        self.note_dropped(id, &changes, verdict);
        self.out.append(&mut changes);
        self.out.push(if rest.is_empty() {
            Mutation::Remember { id, outcome }
        } else {
            record.locks = Arc::clone(&rest);
            Mutation::Record(record)
        });
        Ok(rest)
    }

    pub(super) fn resolve(&mut self, keys: &Keys, txn: TxnId, verdict: &Verdict) -> Step<Reply, V::NeedsIo> {
        let (mut from, end) = self.bounds(keys)?;
        let (before, mut looks) = (self.out.len(), 0);
        while let Some(key) = self.view.next_intent(&from, end.as_deref()).map_err(Stop::Io)? {
            looks += 1;
            let is_much = self.out.len() - before >= RESOLVES_MAX || self.resolved_bytes >= RESOLVE_BYTES_MAX;
            if is_much || looks > limits::SCAN_ROWS_MAX {
                return Ok(Reply::Partly { next: key });
            }
            let (change, bytes) = self.resolved_of(&key, txn, verdict)?;
            self.resolved_bytes += bytes;
            self.note_dropped(txn, change.as_slice(), verdict);
            self.out.extend(change);
            from = super::after(&key);
        }
        Ok(Reply::Done)
    }

    /// What becomes of the intent on a key, if it is one of `txn`, and how many bytes its values have where they may be needed: what just
    /// goes is not read for.
    fn resolved_of(
        &self,
        key: &Bytes,
        txn: TxnId,
        verdict: &Verdict,
    ) -> Step<(Option<Mutation>, usize), V::NeedsIo> {
        let head = self.view.head(key).map_err(Stop::Io)?;
        if head.is_none_or(|head| head.who.id != txn) {
            return Ok((None, 0));
        }
        match verdict {
            Verdict::Settled { .. } | Verdict::Aborted => Ok((Some(Mutation::Drop { key: key.clone() }), 0)),
            Verdict::Committed { .. } | Verdict::Moved { .. } => {
                let intent = self.whole_of(key)?;
                let earlier = intent.earlier.iter().map(|earlier| &earlier.value);
                let values = earlier.chain([&intent.value]).flatten();
                let bytes = values.map(|value| value.len()).sum();
                Ok((resolved(key, intent, verdict), bytes))
            }
        }
    }

    /// What a committed transaction had taken back leaves no version, but it may have been worked out from what its intent kept as it was:
    /// it is a read of the transaction, and nobody else writes there at or below the commit timestamp afterwards.
    fn note_dropped(&mut self, txn: TxnId, changes: &[Mutation], verdict: &Verdict) {
        let Verdict::Committed { ts, .. } = verdict else {
            return;
        };
        for change in changes {
            if let Mutation::Drop { key } = change
                && !base::planted_bug!("txn-change-taken-back-not-noted")
            {
                self.cache.note(key, *ts, Some(txn));
            }
        }
    }

    pub(super) fn forget(&mut self, who: &Arc<Who>) -> Step<Reply, V::NeedsIo> {
        let id = who.id;
        let record = self.view.record(id).map_err(Stop::Io)?;
        if let Some(outcome) = record.and_then(Record::outcome) {
            self.out.push(Mutation::Remember { id, outcome });
        }
        Ok(Reply::Done)
    }
}

/// What becomes of an intent of the transaction that `verdict` is about.
fn resolved(key: &Bytes, intent: &Intent, verdict: &Verdict) -> Option<Mutation> {
    let gone = Mutation::Drop { key: key.clone() };
    match verdict {
        Verdict::Committed { epoch, ts, ignored } => {
            // One above the commit timestamp was laid by a late copy of a write, after the write's own had become a version.
            let counts = intent.ts <= *ts || base::planted_bug!("txn-late-copy-commits");
            let kept = intent.newest_kept(ignored);
            match kept.filter(|_| intent.epoch == *epoch && counts) {
                Some((seq, _)) => Some(Mutation::Commit {
                    key: key.clone(),
                    ts: *ts,
                    seq,
                }),
                None => Some(gone),
            }
        }
        Verdict::Settled { .. } | Verdict::Aborted => Some(gone),
        Verdict::Moved { epoch, ts } => match intent.epoch.cmp(epoch) {
            core::cmp::Ordering::Less => Some(gone),
            core::cmp::Ordering::Equal if intent.ts < *ts => Some(Mutation::Move {
                key: key.clone(),
                ts: *ts,
            }),
            core::cmp::Ordering::Equal | core::cmp::Ordering::Greater => None,
        },
    }
}

/// Where the timestamp cache keeps how far a transaction without a record was pushed.
pub(super) fn record_key(id: TxnId) -> [u8; 28] {
    let mut key = *b"\0txn........................";
    key[4..20].copy_from_slice(&id.client.0.to_be_bytes());
    key[20..].copy_from_slice(&id.seq.to_be_bytes());
    key
}
