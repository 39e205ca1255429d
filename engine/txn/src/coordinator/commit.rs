//! Commit, rollback, and what answers do to a transaction.

use super::{Answer, Coordinator, Effect, Phase, Reading, Resume, Written};
use crate::error::{Refusal, TxnError};
use crate::record::{Outcome, Promise};
use crate::request::{End, Ended, Item, RESOLVE_REQUESTS_MAX, Reply, Request, Verdict};
use crate::txn::{Bytes, Isolation, Keys};
use base::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Coordinator {
    /// Commits. [`Answer::Committed`], [`Answer::Failed`] or [`Answer::Unknown`] follows.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn commit(&mut self) {
        assert!(self.is_ready(), "one call after the other, until the end");
        self.phase = Phase::Committing;
        if self.fatal.is_none() && self.buffer.is_empty() && self.changes.is_empty() && !self.has_locks() {
            let ts = self.read_ts;
            self.answer(self.committed_answer(ts));
            return self.over();
        }
        if self.needs_refresh_at(self.write_ts) {
            self.refresh_to = Some(self.write_ts);
        }
        self.advance();
    }

    /// Takes everything back. [`Answer::Failed`] follows.
    ///
    /// # Panics
    /// When the transaction is not open.
    pub fn roll_back(&mut self) {
        assert!(self.is_ready(), "one call after the other, until the end");
        self.fail(TxnError::RolledBack);
    }

    /// What became of the transaction whose record [`Effect::Recover`] named; `None` when it must be looked at again.
    pub fn on_recovered(&mut self, outcome: Option<Outcome>) {
        if self.phase != Phase::Recovering {
            return;
        }
        match outcome {
            Some(Outcome::Committed { ts }) => {
                base::sometimes!("txn: a failed commit had succeeded");
                self.on_committed(ts, &self.lock_keys());
            }
            Some(Outcome::Aborted) => self.on_aborted(),
            None => self.send_rollback(),
        }
    }

    fn needs_refresh_at(&self, ts: Timestamp) -> bool {
        let is_serializable = self.who.isolation.is_serializable();
        is_serializable && ts > self.read_ts && !base::planted_bug!("txn-skipped-refresh")
    }

    /// The reply to a request of a part that had `items`.
    pub(super) fn on_reply(&mut self, request: Request, reply: Reply, blind: bool, items: &[Item]) {
        match reply {
            Reply::Value(value) => {
                if let Request::Get { key } = request {
                    self.on_value(key, value);
                }
            }
            Reply::Locked { value, ts, queue } => {
                if let Request::GetLocked { key, .. } = request {
                    self.queues.push((key.clone(), queue));
                    if blind && self.is_blind() {
                        self.read_ts = self.read_ts.max(ts);
                        self.write_ts = self.write_ts.max(ts);
                    }
                    self.on_value(key, value);
                }
            }
            Reply::Rows { rows, next } => {
                if let Some(Reading::Span { keys, found, .. }) = &mut self.reading {
                    let read = match (&*keys, &next) {
                        (Keys::Span(start, _), Some(next)) => Keys::Span(start.clone(), Some(next.clone())),
                        (keys, _) => keys.clone(),
                    };
                    *found = Some((rows, next));
                    self.note_read(read);
                }
            }
            Reply::Deleted { keys, ts, next } => {
                if let Request::DeleteRange { keys: asked, .. } = request {
                    self.on_deleted(asked, keys, ts, next);
                }
            }
            Reply::Partly { next } => {
                let mut rest = request;
                rest.go_on(&next);
                self.undone.push(rest);
            }
            Reply::Laid { ts } => {
                if let Request::Write {
                    key, seq, pipelined, ..
                } = request
                {
                    self.on_laid(ts, blind);
                    if let Some(written) = self.written.get_mut(&key)
                        && written.seq == seq
                    {
                        written.is_proven |= !pipelined;
                    }
                }
            }
            Reply::Changed { value, ts, queue } => {
                if let Request::Change { key, seq, .. } = request {
                    self.queues.push((key.clone(), queue));
                    self.on_laid(ts, blind);
                    self.on_changed(key, seq, value, ts);
                }
            }
            Reply::Queried(found) => {
                if let Request::Query { key, .. } = request
                    && let (Some(ts), Some(written)) = (found, self.written.get_mut(&key))
                {
                    written.is_proven = true;
                    self.rise(ts);
                }
            }
            Reply::Ended(ended) => self.on_ended(ended, items),
            Reply::Done if matches!(request, Request::Check { .. }) => self.done_before(),
            Reply::Beaten { outcome, ts } => {
                self.beat = None;
                match (self.phase, outcome) {
                    // Where it is committing, the end will say.
                    (Phase::Open | Phase::Refreshing(Resume::Open), Some(Outcome::Aborted)) => {
                        self.fatal.get_or_insert(TxnError::Aborted);
                    }
                    (Phase::Open | Phase::Refreshing(Resume::Open), None) => self.rise(ts),
                    _ => {}
                }
            }
            // It asks for none of the last three, and a reply is of the kind that was asked for.
            Reply::Refreshed | Reply::Done | Reply::Pushed(_) | Reply::Record(_) | Reply::Recovered(_) => {}
        }
    }

    fn on_value(&mut self, key: Bytes, value: Option<Bytes>) {
        if let Some(Reading::Keys { found, .. }) = &mut self.reading {
            found.insert(key.clone(), value);
            self.note_read(Keys::One(key));
        } else {
            self.done_before();
        }
    }

    /// An intent lies at `ts`; its range may have been told that nothing was read.
    fn on_laid(&mut self, ts: Timestamp, blind: bool) {
        if blind && !self.is_blind() && ts > self.read_ts {
            // It may have been laid over a version that the snapshot does not see, and there is a snapshot by now.
            self.refresh_to = self.refresh_to.max(Some(ts));
        }
        self.rise(ts);
    }

    /// Something of the transaction lies at `ts`.
    pub(super) fn rise(&mut self, ts: Timestamp) {
        if matches!(self.phase, Phase::Open | Phase::Refreshing(_) | Phase::Committing) {
            self.write_ts = self.write_ts.max(ts);
            if self.is_blind() {
                self.read_ts = self.write_ts;
            }
        }
    }

    fn on_ended(&mut self, ended: Ended, items: &[Item]) {
        match (ended, self.phase) {
            (Ended::Committed { ts, rest }, Phase::Committing | Phase::Finishing | Phase::RollingBack) => {
                self.on_committed(ts, &rest);
            }
            (Ended::Staged { ts }, Phase::Committing) => {
                self.rise(ts);
                self.staged = Some(ts);
                if base::planted_bug!("txn-ack-before-all-writes") {
                    self.acknowledge(ts);
                }
            }
            (Ended::Unmet { unmet }, Phase::Committing) => {
                self.on_ended_unmet(unmet, items);
                self.on_aborted();
            }
            (Ended::Aborted { .. }, Phase::RollingBack) => self.on_aborted(),
            _ => {}
        }
    }

    pub(super) fn on_refusal(&mut self, request: &Request, refusal: Refusal) {
        match refusal {
            Refusal::WrongRange { .. } if self.is_cut_off(request, &refusal) => {
                base::sometimes!("txn: a condition was cut off from its write");
                self.fatal.get_or_insert(TxnError::Aborted);
            }
            // Its part went out again.
            Refusal::WrongRange { .. } => {}
            Refusal::Cut { at } => {
                self.undone.retain(|undone| undone != request);
                match request {
                    Request::Refresh { .. } | Request::Resolve { .. } => {
                        let mut left = request.clone();
                        match left.cut(&at) {
                            Some(right) => self.undone.extend([left, right]),
                            None => self.give_up(at),
                        }
                    }
                    Request::DeleteRange { keys, .. } => self.cut_deletion(keys, &at),
                    Request::Scan { rows_max, .. } => self.cut_scan(*rows_max, at),
                    _ => {}
                }
            }
            Refusal::WriteTooOld { conflict, ts } => {
                if self.is_blind() || self.refreshes < self.config.refreshes_max {
                    self.refresh_to = self.refresh_to.max(Some(ts));
                } else {
                    self.fatal.get_or_insert(TxnError::Conflict(conflict));
                }
            }
            Refusal::Uncertain { key, ts } => {
                if self.refreshes < self.config.refreshes_max {
                    self.refresh_to = self.refresh_to.max(Some(ts));
                } else {
                    self.fatal.get_or_insert(TxnError::Uncertain { key });
                }
            }
            Refusal::Refresh { to } => self.refresh_to = self.refresh_to.max(Some(to)),
            Refusal::Conflict { conflict, .. } | Refusal::Changed { conflict } => {
                self.fatal.get_or_insert(TxnError::Conflict(conflict));
            }
            Refusal::Indeterminate { record } => {
                if self.phase == Phase::RollingBack {
                    self.undone.clear();
                    self.phase = Phase::Recovering;
                    self.effects.push(Effect::Recover(record));
                }
            }
            Refusal::Forgotten => {
                self.answer(if self.may_be_committed {
                    Answer::Unknown
                } else {
                    Answer::Failed(TxnError::Aborted)
                });
                self.over();
            }
            Refusal::Unmet { unmet } => self.on_unmet(unmet),
            Refusal::TooManyWrites { key } => {
                self.fatal.get_or_insert(TxnError::TooManyWrites { key });
            }
            Refusal::WriteMissing { .. } => {
                base::sometimes!("txn: a pipelined write was lost");
                self.fatal.get_or_insert(TxnError::Aborted);
            }
            Refusal::Aborted
            | Refusal::Stale
            | Refusal::PushWaits
            | Refusal::Malformed { .. }
            | Refusal::Contradiction { .. } => {
                assert!(
                    !(self.phase == Phase::Finishing && refusal == Refusal::Aborted),
                    "{}: a transaction that was acknowledged is aborted",
                    self.who.id
                );
                self.fatal.get_or_insert(TxnError::Aborted);
            }
        }
    }

    /// Goes on when nothing is outstanding that has to be waited for.
    pub(super) fn advance(&mut self) {
        let waits = self.outstanding.keys().any(|item| self.beat != Some(*item));
        if waits || self.phase == Phase::Over {
            return;
        }
        match self.phase {
            Phase::Open | Phase::Committing => {
                if self.fatal.is_some() && (self.phase == Phase::Committing || self.reading.is_some()) {
                    let error = self.fatal.take().expect("it was just looked at");
                    return self.fail(error);
                }
                if let Some(to) = self.refresh_to.take() {
                    return self.refresh(to);
                }
                // What was refused for good is not sent again: the next call hears of it.
                if !self.undone.is_empty() && self.phase == Phase::Open && self.fatal.is_none() {
                    let again = self.take_undone();
                    return self.send(again);
                }
                match self.phase {
                    Phase::Open => self.finish_reading(),
                    _ => self.advance_commit(),
                }
            }
            Phase::Refreshing(resume) => {
                if let Some(error) = self.fatal.take() {
                    return self.fail(error);
                }
                if self
                    .undone
                    .iter()
                    .any(|undone| matches!(undone, Request::Refresh { .. }))
                {
                    let is_refresh = |undone: &mut Request| matches!(undone, Request::Refresh { .. });
                    let again = self.undone.extract_if(.., is_refresh).collect();
                    return self.send(again);
                }
                self.valid_ts = None;
                self.phase = match resume {
                    Resume::Open => Phase::Open,
                    Resume::Committing => Phase::Committing,
                };
                self.advance();
            }
            Phase::Resolving => {
                // The record is forgotten when every intent knows, not beside the last of them.
                let is_resolve = |undone: &mut Request| matches!(undone, Request::Resolve { .. });
                let resolves = self.undone.extract_if(.., is_resolve);
                let mut again: Vec<Request> = resolves.take(RESOLVE_REQUESTS_MAX).collect();
                if again.is_empty() {
                    again = core::mem::take(&mut self.undone);
                }
                if again.is_empty() {
                    self.over();
                } else {
                    self.send(again);
                }
            }
            Phase::Finishing => {
                if self.undone.is_empty() || self.fatal.is_some() {
                    self.over();
                } else {
                    self.send_end();
                }
            }
            Phase::RollingBack => self.send_rollback(),
            Phase::Recovering | Phase::Over => {}
        }
    }

    /// Validates what was read, up to `to`, and moves there.
    fn refresh(&mut self, to: Timestamp) {
        let to = to.max(self.write_ts);
        let from = self.read_ts;
        self.read_ts = self.read_ts.max(to);
        self.write_ts = self.write_ts.max(self.read_ts);
        if self.reads.is_empty() || to <= from {
            return self.advance();
        }
        if self.refreshes >= self.config.refreshes_max {
            let why = "it was refreshed too often";
            return self.fail(TxnError::CannotRefresh { why });
        }
        base::sometimes!("txn: reads are refreshed");
        self.refreshes += 1;
        self.valid_ts = Some(from);
        let resume = match self.phase {
            Phase::Committing => Resume::Committing,
            _ => Resume::Open,
        };
        self.phase = Phase::Refreshing(resume);
        let request = |keys: &Keys| Request::Refresh {
            keys: keys.clone(),
            from,
        };
        let requests = self.reads.iter().map(request).collect();
        self.send(requests);
    }

    /// The next round of a commit: what is not known to be there is sent or asked for, with the record beside it; or nothing is
    /// missing, and it is acknowledged.
    fn advance_commit(&mut self) {
        if let Some(staged) = self.staged
            && self.undone.is_empty()
            && self.buffer.is_empty()
            && self.changes.is_empty()
        {
            if self.write_ts <= staged || base::planted_bug!("txn-acks-above-staged") {
                self.acknowledge(staged);
                self.phase = Phase::Finishing;
                return self.send_end();
            }
            base::sometimes!("txn: pushed while staged");
            if self.needs_refresh_at(self.write_ts) {
                return self.refresh(self.write_ts);
            }
        }
        let fresh = !self.has_locks();
        self.undone.retain_mut(|undone| match undone {
            Request::Write { pipelined, .. } => {
                *pipelined = false;
                true
            }
            Request::Change { .. } => true,
            _ => false,
        });
        let overwrites =
            |undone: &Request| matches!(undone, Request::Write { key, .. } if self.buffer.contains_key(key));
        let is_overwritten = self.undone.iter().any(overwrites);
        let mut requests = self.take_undone();
        if is_overwritten || !self.undone.is_empty() {
            base::sometimes!("txn: a refused write was overwritten");
            return self.send(requests);
        }
        requests.extend(self.take_buffer(false));
        requests.extend(self.take_changes());
        for (key, Written { seq, is_proven }) in &self.written {
            let is_sent = |request: &Request| matches!(request, Request::Write { key: sent, .. } | Request::Change { key: sent, .. } if sent == key);
            if !is_proven && !requests.iter().any(is_sent) {
                requests.push(self.query(key, *seq));
            }
        }
        if !self.may_be_committed {
            let unproven = self.written.iter().filter(|(_, written)| !written.is_proven);
            let promise = |(key, written): (&_, &Written)| Promise {
                key: Arc::clone(key),
                seq: written.seq,
            };
            self.promises = unproven.map(promise).collect();
            if self.promises.len() > self.config.promises_max {
                base::sometimes!("txn: too much to promise");
                self.promises = Arc::new([]);
                return self.send(requests);
            }
        }
        let is_all_proven = self.written.values().all(|written| written.is_proven);
        let promises = if is_all_proven {
            Arc::new([])
        } else {
            // What was promised in an epoch stays promised.
            Arc::clone(&self.promises)
        };
        self.may_be_committed = true;
        let end = match u32::try_from(requests.len() + 1) {
            Ok(requests) if fresh && self.whole => End::Whole { promises, requests },
            _ => End::Commit { promises, fresh },
        };
        requests.push(Request::End {
            end,
            locks: self.lock_keys(),
        });
        self.send(requests);
    }

    /// What is to be sent again, of each key the first write: later ones of it wait for that.
    fn take_undone(&mut self) -> Vec<Request> {
        let mut keys = BTreeSet::new();
        let is_first = |undone: &mut Request| match undone {
            Request::Write { key, .. } | Request::Change { key, .. } => keys.insert(key.clone()),
            _ => true,
        };
        self.undone.extract_if(.., is_first).collect()
    }

    /// The explicit end of what is committed implicitly.
    fn send_end(&mut self) {
        self.undone.clear();
        let ts = self.committed.expect("it was acknowledged");
        self.write_ts = ts;
        let end = Request::Finish {
            who: Arc::clone(&self.who),
            epoch: self.epoch,
            ts,
            locks: self.lock_keys(),
        };
        self.send(vec![end]);
    }

    fn send_rollback(&mut self) {
        self.undone.clear();
        self.phase = Phase::RollingBack;
        let end = Request::End {
            end: End::Rollback,
            locks: self.lock_keys(),
        };
        self.send(vec![end]);
    }

    pub(super) fn fail(&mut self, error: TxnError) {
        self.reading = None;
        self.buffer.clear();
        self.changes.clear();
        self.outstanding.clear();
        self.refresh_to = None;
        if !self.has_locks() {
            self.answer(Answer::Failed(error));
            return self.over();
        }
        let is_unmet = matches!(error, TxnError::Unmet(_)) && base::planted_bug!("txn-unmet-is-final");
        if !self.may_be_committed || is_unmet {
            self.answer(Answer::Failed(error.clone()));
        }
        self.fatal = Some(error);
        self.send_rollback();
    }

    fn committed_answer(&self, ts: Timestamp) -> Answer {
        let not_before = match self.who.isolation {
            Isolation::Snapshot | Isolation::Serializable => Timestamp::ZERO,
            Isolation::StrictSerializable => ts.plus_ns(self.config.clock_bound_ns),
        };
        Answer::Committed { ts, not_before }
    }

    fn acknowledge(&mut self, ts: Timestamp) {
        self.committed = Some(ts);
        self.answer(self.committed_answer(ts));
    }

    fn on_committed(&mut self, ts: Timestamp, rest: &[Keys]) {
        assert!(
            self.committed.is_none_or(|known| known == ts),
            "{} was acknowledged at {:?} and is committed at {ts}",
            self.who.id,
            self.committed
        );
        self.acknowledge(ts);
        let verdict = Verdict::Committed {
            epoch: self.epoch,
            ts,
            ignored: self.ignored.clone().into(),
        };
        if rest.is_empty() && self.sent_again {
            return self.resolve(&self.lock_keys(), &verdict);
        }
        self.resolve(rest, &verdict);
    }

    fn on_aborted(&mut self) {
        let error = self.fatal.take().unwrap_or(TxnError::Aborted);
        self.answer(Answer::Failed(error));
        self.resolve(&self.lock_keys(), &Verdict::Aborted);
    }

    /// Tells the intents what became of them; when they all know, the record is forgotten.
    fn resolve(&mut self, keys: &[Keys], verdict: &Verdict) {
        self.outstanding.clear();
        self.fatal = None;
        self.phase = Phase::Resolving;
        if keys.is_empty() {
            return self.over();
        }
        let request = |keys: &Keys| Request::Resolve {
            keys: keys.clone(),
            txn: self.who.id,
            verdict: verdict.clone(),
        };
        self.undone = keys.iter().map(request).collect();
        self.undone.push(Request::Forget {
            who: Arc::clone(&self.who),
        });
        self.advance();
    }

    /// `key` cannot be reached.
    pub(super) fn give_up(&mut self, key: Bytes) {
        match self.phase {
            // Where it may be committed, whoever has the record can say; if that cannot be said yet, it is taken back.
            Phase::Open | Phase::Committing | Phase::Refreshing(_) => {
                let keys = Keys::One(key);
                self.fail(TxnError::Unreachable { keys });
            }
            Phase::RollingBack | Phase::Recovering => {
                self.answer(Answer::Unknown);
                self.over();
            }
            // Others will find the record.
            Phase::Finishing | Phase::Resolving | Phase::Over => self.over(),
        }
    }

    fn answer(&mut self, answer: Answer) {
        if !core::mem::replace(&mut self.answered, true) {
            self.effects.push(Effect::Answer(answer));
        }
    }

    fn over(&mut self) {
        self.outstanding.clear();
        self.phase = Phase::Over;
        self.effects.push(Effect::Over);
    }
}
