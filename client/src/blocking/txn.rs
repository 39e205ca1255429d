//! Transactions, waiting.

use super::{Background, Db};
use crate::tokio as shell;
use crate::transaction::{Attempts, Pairs};
use crate::{Error, KeySpan, Savepoint, TxnOptions, TxnOutcome, TxnRef};
use base::{Modification, Timestamp};
use core::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

impl Db {
    /// Runs a transaction, again when another one was in the way; see [`crate::Db::transaction`].
    ///
    /// # Errors
    /// As [`crate::Db::transaction`].
    pub fn transaction<T, E: From<Error>>(&self, run: impl FnMut(&Txn) -> Result<T, E>) -> Result<T, E> {
        self.transaction_with(&TxnOptions::default(), run)
    }

    /// As [`Self::transaction`], with options.
    ///
    /// # Errors
    /// As [`crate::Db::transaction`].
    pub fn transaction_with<T, E: From<Error>>(
        &self,
        options: &TxnOptions,
        mut run: impl FnMut(&Txn) -> Result<T, E>,
    ) -> Result<T, E> {
        let pool = self.inner.pool();
        let until = Instant::now() + options.deadline.unwrap_or(pool.options.deadline);
        let mut attempts = Attempts::new(options);
        loop {
            let begun = self
                .background
                .wait(shell::Txn::begin_again(pool, options, until, &mut attempts));
            let txn = self.txn(begun?);
            let (why, theirs) = match run(&txn) {
                Ok(value) => match txn.commit() {
                    // Or it was ended by the closure.
                    Ok(_) | Err(Error::TransactionOver) => return Ok(value),
                    Err(error) => (error, None),
                },
                Err(theirs) => match txn.inner.failure() {
                    Some(error) => (error, Some(theirs)),
                    None => return Err(theirs),
                },
            };
            let left = until.saturating_duration_since(Instant::now());
            let pause = attempts.next(&why, left, &mut pool.prng());
            let Some(pause) = pause else {
                return Err(theirs.unwrap_or_else(|| E::from(why)));
            };
            std::thread::sleep(pause);
        }
    }

    /// Begins a transaction; see [`crate::Db::begin`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn begin(&self) -> Result<Txn, Error> {
        self.begin_with(&TxnOptions::default())
    }

    /// As [`Self::begin`], with options.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn begin_with(&self, options: &TxnOptions) -> Result<Txn, Error> {
        let begun = self.background.wait(self.inner.begin_with(options))?;
        Ok(self.txn(begun))
    }

    /// How a transaction ended whose commit was answered by [`Error::CommitUnknown`]; see [`crate::Db::outcome`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn outcome(&self, txn: &TxnRef) -> Result<TxnOutcome, Error> {
        self.background.wait(self.inner.outcome(txn))
    }

    /// Waits until nothing is left to do for transactions that are over; see [`crate::Db::settle`]. The last handle does that when it is
    /// dropped, for a second at most.
    pub fn settle(&self) {
        self.background.wait(self.inner.settle());
    }

    fn txn(&self, inner: shell::Txn) -> Txn {
        Txn {
            inner,
            background: self.background.clone(),
        }
    }
}

/// A transaction; see [`crate::Txn`].
#[derive(Debug, Clone)]
pub struct Txn {
    inner: shell::Txn,
    background: Arc<Background>,
}

macro_rules! waiting {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Txn {
            $($(#[$doc])*
            ///
            /// # Errors
            /// As [`crate::Txn`].
            pub fn $name(&self, $($argument: $type),*) -> Result<$result, Error> {
                self.background.wait(self.inner.$name($($argument),*))
            })*
        }
    };
}

waiting! {
    /// The value of `key`, as the transaction sees it.
    get(key: impl AsRef<[u8]>) -> Option<Vec<u8>>;
    /// The newest value of `key`, for what will be written; see [`crate::Txn::get_for_update`].
    get_for_update(key: impl AsRef<[u8]>) -> Option<Vec<u8>>;
    /// The newest value of `key`, which others may read so, too; see [`crate::Txn::get_for_share`].
    get_for_share(key: impl AsRef<[u8]>) -> Option<Vec<u8>>;
    /// Sets `key` to `value`.
    put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> ();
    /// Removes `key`, whether it has a value or not.
    delete(key: impl AsRef<[u8]>) -> ();
    /// Changes the value of `key` by what it is, and says what it is now; see [`crate::Txn::modify`].
    modify(key: impl AsRef<[u8]>, by: Modification<'_>) -> Vec<u8>;
    /// Adds `delta` to the number that `key` has, and says the sum; see [`crate::Txn::add`].
    add(key: impl AsRef<[u8]>, delta: i64) -> i64;
    /// As [`Self::add`], if the sum lies within `bounds`.
    add_within(key: impl AsRef<[u8]>, delta: i64, bounds: RangeInclusive<i64>) -> i64;
    /// Sets `key` to the lesser of its number and `value`; see [`crate::Txn::min`].
    min(key: impl AsRef<[u8]>, value: i64) -> i64;
    /// Sets `key` to the greater of its number and `value`; see [`crate::Txn::max`].
    max(key: impl AsRef<[u8]>, value: i64) -> i64;
    /// Appends `bytes` to the value of `key`, if it has no more than `len_max` bytes then; see [`crate::Txn::append`].
    append(key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>, len_max: u32) -> Vec<u8>;
    /// Removes every key of `span` that the transaction sees a value of, and says how many these were.
    delete_range(span: impl KeySpan) -> usize;
    /// A place to which writes can be taken back.
    savepoint() -> Savepoint;
    /// Takes back what was written since `savepoint`.
    rollback_to(savepoint: Savepoint) -> ();
    /// Makes everything visible at once, durably, and says at which timestamp.
    commit() -> Timestamp;
    /// Takes everything back.
    rollback() -> ();
}

impl Txn {
    /// Why further calls fail, when they do: it has failed, or it is over.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }

    /// The values of several keys, in that order.
    ///
    /// # Errors
    /// As [`crate::Txn`].
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.background.wait(self.inner.get_many(keys))
    }

    /// The newest values of several keys, for what will be written; see [`crate::Txn::get_many_for_update`].
    ///
    /// # Errors
    /// As [`crate::Txn`].
    pub fn get_many_for_update<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.background.wait(self.inner.get_many_for_update(keys))
    }

    /// The newest values of several keys, which others may read so, too; see [`crate::Txn::get_many_for_share`].
    ///
    /// # Errors
    /// As [`crate::Txn`].
    pub fn get_many_for_share<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.background.wait(self.inner.get_many_for_share(keys))
    }

    /// Keys and values of `span` in order, as the transaction sees them: at most `rows` of them.
    ///
    /// # Errors
    /// As [`crate::Txn`].
    pub fn scan(&self, span: impl KeySpan, rows: usize) -> Result<Pairs, Error> {
        self.background.wait(self.inner.scan(span).limit(rows).collect())
    }
}
