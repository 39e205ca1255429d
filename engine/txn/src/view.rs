//! What evaluation sees of a range, and what it wants changed.

use crate::record::{Head, Intent, Outcome, Record};
use crate::txn::{Bytes, Seq, TxnId};
use base::Timestamp;

/// A committed version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version<'a> {
    /// When it is visible from.
    pub ts: Timestamp,
    /// The leader's clock when it was written: `ts`, unless an intent was moved. Kept where it differs.
    pub local_ts: Timestamp,
    /// `None` is a delete.
    pub value: Option<&'a [u8]>,
}

/// What a range remembers of transactions that have no record (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Nothing: as far as this range knows it is not finished.
    New,
    /// How it ended. Kept as long as the results of plain writes of the same session are.
    Ended(Outcome),
    /// It ended so long ago that its outcome is forgotten.
    Forgotten,
}

/// The applied state of a range, as evaluation reads it.
///
/// A read that would have to wait for a disk says so; evaluation then gives up without a change, and is to be called again when
/// that was read. **Contract:** no entry that is proposed and not yet applied touches what a request reads here (latches).
pub trait View {
    /// What it takes to read on. A view in memory uses [`core::convert::Infallible`].
    type NeedsIo;

    /// Whether `key` belongs to the range.
    fn contains(&self, key: &[u8]) -> bool;

    /// The first key after the range; `None` at the end of the key space.
    fn end(&self) -> Option<&[u8]>;

    /// Calls `f` with the newest version of `key` at or below `at`.
    ///
    /// # Errors
    /// It is on disk.
    fn version<R>(
        &self,
        key: &[u8],
        at: Timestamp,
        f: impl FnOnce(Option<Version<'_>>) -> R,
    ) -> Result<R, Self::NeedsIo>;

    /// The least key at or after `from` and before `end` that has a version or an intent.
    ///
    /// # Errors
    /// It is on disk.
    fn next_key(&self, from: &[u8], end: Option<&[u8]>) -> Result<Option<Bytes>, Self::NeedsIo>;

    /// The intent on `key`. Cheap when the range has none at all.
    ///
    /// # Errors
    /// It is on disk.
    fn intent(&self, key: &[u8]) -> Result<Option<&Intent>, Self::NeedsIo>;

    /// The head of the intent on `key`, where what was written does not matter: a view may know it without reading.
    ///
    /// # Errors
    /// It is on disk.
    fn head(&self, key: &[u8]) -> Result<Option<Head<'_>>, Self::NeedsIo> {
        Ok(self.intent(key)?.map(Intent::head))
    }

    /// The least key at or after `from` and before `end` that has an intent.
    ///
    /// # Errors
    /// It is on disk.
    fn next_intent(&self, from: &[u8], end: Option<&[u8]>) -> Result<Option<Bytes>, Self::NeedsIo>;

    /// The record of a transaction.
    ///
    /// # Errors
    /// It is on disk.
    fn record(&self, id: TxnId) -> Result<Option<&Record>, Self::NeedsIo>;

    /// What is remembered of a transaction without a record.
    fn memory(&self, id: TxnId) -> Memory;
}

/// A change of a range's state. A request's changes are one command of the range's log; applying them is all that replicas do, so
/// it is the same on each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Sets the intent of a key.
    Lay {
        /// The key.
        key: Bytes,
        /// Its intent from now on.
        intent: Intent,
    },
    /// As [`Self::Lay`], but the intent is kept on disk. Evaluation never asks for that: whoever proposes what it changes may.
    Spill {
        /// The key.
        key: Bytes,
        /// Its intent from now on.
        intent: Intent,
    },
    /// Moves the intent of a key up in time. Not one that is spilled.
    Move {
        /// The key.
        key: Bytes,
        /// Where to.
        ts: Timestamp,
    },
    /// Makes the value that write `seq` left in a key's intent a version at `ts`, with the intent's `local_ts`, and removes the
    /// intent. Not one that is spilled.
    Commit {
        /// The key.
        key: Bytes,
        /// The commit timestamp.
        ts: Timestamp,
        /// The write.
        seq: Seq,
    },
    /// Removes the intent of a key.
    Drop {
        /// The key.
        key: Bytes,
    },
    /// Writes a version without an intent.
    Put {
        /// The key.
        key: Bytes,
        /// The commit timestamp, and the clock when it was written.
        ts: Timestamp,
        /// See [`Version::local_ts`].
        local_ts: Timestamp,
        /// `None` deletes.
        value: Option<Bytes>,
    },
    /// Sets a transaction's record.
    Record(Record),
    /// Removes a transaction's record, if there is one, and remembers its outcome.
    Remember {
        /// The transaction.
        id: TxnId,
        /// How it ended.
        outcome: Outcome,
    },
}
