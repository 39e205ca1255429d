//! Records and intents, and the one place that says when a transaction is committed.

use crate::error::Seen;
use crate::txn::{Bytes, Epoch, Keys, Seq, SeqSpan, TxnId, Who};
use base::Timestamp;
use std::sync::Arc;

/// A write that a transaction promised: its key, and its place among the transaction's writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Promise {
    /// The key.
    pub key: Bytes,
    /// The least place that an intent there must have.
    pub seq: Seq,
}

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It may become anything.
    Pending,
    /// It is committed if and only if all that it promised is there: [`Record::is_kept_by`].
    Staging,
    /// It is committed at the record's timestamp, for ever.
    Committed,
    /// It is not and will never be committed.
    Aborted,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its writes are versions at `ts`.
    Committed {
        /// The commit timestamp.
        ts: Timestamp,
    },
    /// It left nothing.
    Aborted,
}

/// The record of a transaction, under its anchor key. There is none before it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// The transaction.
    pub who: Arc<Who>,
    /// How far it is.
    pub status: Status,
    /// The attempt that wrote the record.
    pub epoch: Epoch,
    /// Pending: it commits at or above this. Staging: the attempt's timestamp. Committed: the commit timestamp.
    pub write_ts: Timestamp,
    /// What a staged transaction promised; empty otherwise.
    pub in_flight: Arc<[Promise]>,
    /// Where its intents may be, of all epochs, in other ranges too. Known from staging on.
    pub locks: Arc<[Keys]>,
    /// Writes that were taken back; known from staging on.
    pub ignored: Arc<[SeqSpan]>,
    /// When the coordinator was heard of last, by the clock of the leader that heard.
    pub heard_ts: Timestamp,
}

/// One value that an intent had before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Earlier {
    /// The write.
    pub seq: Seq,
    /// What it wrote; `None` deletes. Not kept, and `None`, when the write was taken back by the time of the next one.
    pub value: Option<Bytes>,
    /// What it was answered.
    pub ts: Timestamp,
}

/// Earlier writes of one key that an intent keeps. Each laying writes them all to the log again.
pub const EARLIER_MAX: usize = 64;
/// Bytes of their values: as much as one value may have.
pub const EARLIER_BYTES_MAX: usize = base::limits::VALUE_BYTES_MAX;

/// What there is to know of an intent but for what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// See [`Intent::who`].
    pub who: &'a Arc<Who>,
    /// See [`Intent::epoch`].
    pub epoch: Epoch,
    /// See [`Intent::seq`].
    pub seq: Seq,
    /// See [`Intent::ts`].
    pub ts: Timestamp,
    /// See [`Intent::local_ts`].
    pub local_ts: Timestamp,
}

impl Head<'_> {
    /// Whether this intent keeps a promise of `txn`'s attempt `epoch` that was staged at `ts`. **The commit condition**, one half.
    #[must_use]
    pub fn keeps(&self, (txn, epoch): (TxnId, Epoch), seq: Seq, ts: Timestamp) -> bool {
        let early = self.ts <= ts || base::planted_bug!("txn-condition-ignores-timestamp");
        self.who.id == txn && self.epoch == epoch && self.seq >= seq && early
    }

    /// What a push of its transaction has to know.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            who: Arc::clone(self.who),
            epoch: self.epoch,
            ts: self.ts,
            local_ts: self.local_ts,
        }
    }
}

/// A provisional value on a key. A key has at most one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Intent {
    /// Whose it is.
    pub who: Arc<Who>,
    /// Of which attempt.
    pub epoch: Epoch,
    /// The newest write.
    pub seq: Seq,
    /// Where it is: the version will be at or above.
    pub ts: Timestamp,
    /// The leader's clock when the intent was first laid. Moving an intent does not change it: it says when the write can have
    /// happened in real time, which `ts` no longer does.
    pub local_ts: Timestamp,
    /// What the newest write wrote; `None` deletes.
    pub value: Option<Bytes>,
    /// Earlier writes of the same attempt, oldest first: at most [`EARLIER_MAX`], of [`EARLIER_BYTES_MAX`].
    pub earlier: Vec<Earlier>,
}

impl Intent {
    /// What an intent that is laid over this one, by the same attempt, keeps of it; `None` when that would be too much.
    #[must_use]
    pub fn kept_below(&self, ignored: &[SeqSpan]) -> Option<Vec<Earlier>> {
        let newest = Earlier {
            seq: self.seq,
            value: self.value.clone(),
            ts: self.ts,
        };
        let mut kept: Vec<Earlier> = self.earlier.iter().cloned().chain([newest]).collect();
        for earlier in &mut kept {
            if SeqSpan::any_has(ignored, earlier.seq) {
                earlier.value = None;
            }
        }
        let values = kept.iter().filter_map(|earlier| earlier.value.as_ref());
        let bytes: usize = values.map(|value| value.len()).sum();
        (kept.len() <= EARLIER_MAX && bytes <= EARLIER_BYTES_MAX).then_some(kept)
    }

    /// The newest write that was not taken back, and its value.
    #[must_use]
    pub fn newest_kept(&self, ignored: &[SeqSpan]) -> Option<(Seq, Option<&Bytes>)> {
        if !SeqSpan::any_has(ignored, self.seq) {
            return Some((self.seq, self.value.as_ref()));
        }
        let kept = |earlier: &&Earlier| !SeqSpan::any_has(ignored, earlier.seq);
        self.earlier
            .iter()
            .rev()
            .find(kept)
            .map(|earlier| (earlier.seq, earlier.value.as_ref()))
    }

    /// The value that write `seq` left; `None` when the intent does not have that write.
    #[must_use]
    pub fn value_of(&self, seq: Seq) -> Option<Option<&Bytes>> {
        if self.seq == seq {
            return Some(self.value.as_ref());
        }
        let found = self.earlier.iter().find(|earlier| earlier.seq == seq);
        found.map(|earlier| earlier.value.as_ref())
    }

    /// The same without what was written.
    #[must_use]
    pub fn head(&self) -> Head<'_> {
        Head {
            who: &self.who,
            epoch: self.epoch,
            seq: self.seq,
            ts: self.ts,
            local_ts: self.local_ts,
        }
    }
}

impl Record {
    /// Whether the transaction is committed although its record does not say so: it is staged, and every promise is kept by the
    /// intent that `intent_at` finds. **The commit condition**, the other half. Recovery finds this out piece by piece; only a
    /// caller that sees all ranges at once, as a test does, can use it as it stands.
    pub fn is_kept_by<'a>(&self, mut intent_at: impl FnMut(&Bytes) -> Option<&'a Intent>) -> bool {
        let attempt = (self.who.id, self.epoch);
        self.status == Status::Staging
            && self.in_flight.iter().all(|promise| {
                intent_at(&promise.key)
                    .is_some_and(|intent| intent.head().keeps(attempt, promise.seq, self.write_ts))
            })
    }

    /// How the transaction ended, when the record says so.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.status {
            Status::Committed => Some(Outcome::Committed { ts: self.write_ts }),
            Status::Aborted => Some(Outcome::Aborted),
            Status::Pending | Status::Staging => None,
        }
    }

    /// Whether this is the attempt of `other`, at the same timestamp.
    #[must_use]
    pub fn is_attempt(&self, epoch: Epoch, ts: Timestamp) -> bool {
        self.epoch == epoch && self.write_ts == ts
    }
}
