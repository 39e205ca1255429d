//! What others do to a transaction in the range that has its record: heartbeats, pushes, recovery.

use super::finish::record_key;
use super::{Evaluation, Step, Stop};
use crate::error::{Refusal, Seen};
use crate::record::{Outcome, Record, Status};
use crate::request::{Push, Pushed, Reply, Verdict};
use crate::txn::{Epoch, Isolation, Priority, Who};
use crate::view::{Mutation, View};
use base::Timestamp;
use std::sync::Arc;

impl<V: View> Evaluation<'_, V> {
    /// A heartbeat. It makes the record when there is none, and never brings back one that has ended.
    pub(super) fn beat(&mut self) -> Step<Reply, V::NeedsIo> {
        let header = self.header().clone();
        let id = header.who.id;
        let resurrects = base::planted_bug!("txn-heartbeat-resurrects");
        if let Some((outcome, _)) = self.ended(id)?.filter(|_| !resurrects) {
            let ts = header.write_ts;
            let outcome = Some(outcome);
            return Ok(Reply::Beaten { outcome, ts });
        }
        let known = self.view.record(id).map_err(Stop::Io)?;
        let record = match known {
            Some(record) if record.epoch > header.epoch => return Err(Refusal::Stale.into()),
            Some(record) if record.status == Status::Staging => Record {
                heard_ts: self.at.now.max(record.heard_ts),
                ..record.clone()
            },
            Some(_) | None => {
                let pushed_to = known.map_or_else(
                    || self.cache.floor(&record_key(id), Some(id)),
                    |record| record.write_ts,
                );
                Record {
                    status: Status::Pending,
                    epoch: header.epoch,
                    write_ts: header.write_ts.max(pushed_to),
                    heard_ts: self.at.now,
                    ..pending(&header.who, header.epoch)
                }
            }
        };
        let ts = record.write_ts;
        self.out.push(Mutation::Record(record));
        Ok(Reply::Beaten { outcome: None, ts })
    }

    /// A push. **T8**: it never decides about an attempt that may be committed.
    pub(super) fn push(
        &mut self,
        pushee: &Seen,
        pusher: Option<&Arc<Who>>,
        push: Push,
    ) -> Step<Reply, V::NeedsIo> {
        let id = pushee.who.id;
        let ended = match self.ended(id) {
            // Its session is over, so its intents were resolved: what is left came late. Who saw none asks for the outcome.
            Err(Stop::Refused(Refusal::Forgotten)) if pushee.local_ts > Timestamp::ZERO => {
                Some((Outcome::Aborted, Arc::new([]) as Arc<[_]>))
            }
            other => other?,
        };
        let known = self.view.record(id).map_err(Stop::Io)?;
        if let Some((outcome, locks)) = ended {
            let verdict = verdict(outcome, known, pushee);
            return Ok(Reply::Pushed(Pushed::Ended { verdict, locks }));
        }
        // Who has lived for long without a write has beaten for nobody: it was alive when it laid the intent.
        let laid_ts = if base::planted_bug!("txn-dead-by-age") {
            Timestamp::ZERO
        } else {
            pushee.local_ts
        };
        let heard_ts = known.map_or(pushee.who.start_ts, |record| record.heard_ts);
        let heard_ts = heard_ts.max(laid_ts);
        let is_dead = heard_ts.plus_ns(self.at.expiry_ns) < self.at.now;
        let priority = pusher.map_or(Priority::Normal, |who| who.priority);
        let wins = priority > pushee.who.priority
            || match push {
                Push::Force => true,
                // Its commit timestamp may move freely: nobody waits for it.
                Push::Above(_) => pushee.who.isolation == Isolation::Snapshot,
                Push::Abort => false,
            };
        // Somebody who saw more than the staged attempt had knows that it failed. It is not staged any more in truth, but it must
        // not become pending in its epoch again: whoever is recovering it would find what cannot be. So it is aborted.
        let is_staged = known.is_some_and(|record| record.status == Status::Staging);
        let has_failed = known.is_some_and(|record| {
            is_staged
                && (pushee.epoch > record.epoch
                    || (pushee.epoch == record.epoch && pushee.ts > record.write_ts))
        });
        if !(wins || is_dead) {
            return Err(Refusal::PushWaits.into());
        }
        if is_staged && !has_failed {
            let record = Box::new(known.expect("it is staged").clone());
            return Err(Refusal::Indeterminate { record }.into());
        }
        let old = known
            .cloned()
            .unwrap_or_else(|| pending(&pushee.who, pushee.epoch));
        let back_to_pending = base::planted_bug!("txn-staging-back-to-pending");
        match push {
            Push::Above(to) if !is_dead && (!has_failed || back_to_pending) => {
                let epoch = old.epoch.max(pushee.epoch);
                let ts = to.next().max(old.write_ts);
                match known {
                    // It may have no record yet: its next request will find this.
                    None => self.cache.note(&record_key(id), to, None),
                    Some(_) => self.out.push(Mutation::Record(Record {
                        status: Status::Pending,
                        write_ts: ts,
                        in_flight: Arc::new([]),
                        ..old
                    })),
                }
                Ok(Reply::Pushed(Pushed::Moved(Verdict::Moved { epoch, ts })))
            }
            Push::Above(_) | Push::Abort | Push::Force => {
                base::sometimes!("txn: a push aborted another one");
                let locks = Arc::clone(&old.locks);
                // Where it has intents, only its coordinator knows, who may be gone: nobody could tell when a record is not needed
                // any more. Whoever meets one of them hears the same from the memory.
                self.out.push(if locks.is_empty() {
                    let outcome = Outcome::Aborted;
                    Mutation::Remember { id, outcome }
                } else {
                    Mutation::Record(Record {
                        status: Status::Aborted,
                        in_flight: Arc::new([]),
                        ..old
                    })
                });
                let verdict = Verdict::Aborted;
                Ok(Reply::Pushed(Pushed::Ended { verdict, locks }))
            }
        }
    }

    pub(super) fn query_txn(&mut self, who: &Arc<Who>) -> Step<Reply, V::NeedsIo> {
        let record = self.view.record(who.id).map_err(Stop::Io)?;
        Ok(Reply::Record(record.map(|record| Box::new(record.clone()))))
    }

    /// The end of a recovery. **T9**: it changes nothing but the very attempt that was looked at.
    pub(super) fn recover(
        &mut self,
        who: &Arc<Who>,
        epoch: Epoch,
        ts: Timestamp,
        kept: bool,
    ) -> Step<Reply, V::NeedsIo> {
        let known = self.view.record(who.id).map_err(Stop::Io)?;
        let Some(record) = known else {
            return match self.ended(who.id)? {
                Some((outcome, _)) => Ok(Reply::Recovered(Some(outcome))),
                None => Ok(Reply::Recovered(None)),
            };
        };
        let contradiction = |what: &'static str| {
            let what = what.into();
            let record = Box::new(record.clone());
            Err(Refusal::Contradiction { what, record }.into())
        };
        let ignores_attempt = base::planted_bug!("txn-recovers-another-attempt");
        match record.status {
            Status::Committed if kept && record.write_ts != ts => {
                contradiction("a committed transaction was committed at another timestamp")
            }
            Status::Aborted if kept => contradiction("a committed transaction was aborted"),
            Status::Committed | Status::Aborted => Ok(Reply::Recovered(record.outcome())),
            Status::Staging if record.is_attempt(epoch, ts) || ignores_attempt => {
                base::sometimes!("txn: recovered a staged transaction");
                let ended = Record {
                    status: if kept { Status::Committed } else { Status::Aborted },
                    in_flight: Arc::new([]),
                    ..record.clone()
                };
                let outcome = ended.outcome();
                self.out.push(Mutation::Record(ended));
                Ok(Reply::Recovered(outcome))
            }
            Status::Pending if record.epoch == epoch => contradiction("a staged attempt became pending"),
            Status::Pending | Status::Staging if kept => {
                contradiction("a committed transaction was tried again")
            }
            Status::Pending | Status::Staging => Ok(Reply::Recovered(None)),
        }
    }
}

/// The record of a transaction that has none.
fn pending(who: &Arc<Who>, epoch: Epoch) -> Record {
    Record {
        who: Arc::clone(who),
        status: Status::Pending,
        epoch,
        write_ts: Timestamp::ZERO,
        in_flight: Arc::new([]),
        locks: Arc::new([]),
        ignored: Arc::new([]),
        heard_ts: who.start_ts,
    }
}

/// What the intents of a transaction that has ended are told. One without a record has no intents left, but for late copies, which
/// go: they may be of an earlier attempt, or of writes that were taken back.
fn verdict(outcome: Outcome, record: Option<&Record>, seen: &Seen) -> Verdict {
    match (outcome, record) {
        (Outcome::Committed { ts }, Some(record)) => Verdict::Committed {
            epoch: record.epoch,
            ts,
            ignored: Arc::clone(&record.ignored),
        },
        (Outcome::Committed { ts }, None) if base::planted_bug!("txn-memory-commits-late-copies") => {
            Verdict::Committed {
                epoch: seen.epoch,
                ts,
                ignored: Arc::new([]),
            }
        }
        (Outcome::Committed { ts }, None) => Verdict::Settled { ts },
        (Outcome::Aborted, _) => Verdict::Aborted,
    }
}
