//! Transactions of a handle.

use super::db::Db;
use super::txn::Txn;
use crate::Error;
use crate::transaction::{Attempts, TxnOptions, TxnOutcome, TxnRef};
use core::future::Future;
use std::time::Instant;
use txn::Outcome;

impl Db {
    /// Runs a transaction: `run` gets a [`Txn`], reads and writes by it, and what it did is committed when it returns `Ok`. When the
    /// transaction has failed because of another one, `run` is called again, with a new one, so it should do nothing else that must not
    /// be done twice. When it returns an error of its own, everything is taken back.
    ///
    /// ```no_run
    /// # async fn example(db: corelane::Db) -> Result<(), corelane::Error> {
    /// db.transaction(|txn| async move {
    ///     let stock = txn.get_for_update("stock/7").await?;
    ///     txn.put("stock/7", "0").await?;
    ///     txn.put("order/1", stock.unwrap_or_default()).await?;
    ///     Ok::<_, corelane::Error>(())
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `run` returned; [`Error::CommitUnknown`] when it cannot be said whether it is committed; [`Error::Conflict`] or
    /// [`Error::Aborted`] when it has failed too often; see [`Error`].
    pub async fn transaction<T, E, F>(&self, run: impl FnMut(Txn) -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transaction_with(&TxnOptions::default(), run).await
    }

    /// As [`Self::transaction`], with options.
    ///
    /// # Errors
    /// As [`Self::transaction`].
    pub async fn transaction_with<T, E, F>(
        &self,
        options: &TxnOptions,
        mut run: impl FnMut(Txn) -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let deadline = options.deadline.unwrap_or(self.pool().options.deadline);
        let until = Instant::now() + deadline;
        let mut attempts = Attempts::new(options);
        loop {
            let txn = Txn::begin_again(self.pool(), options, until, &mut attempts).await?;
            let running = tokio::time::timeout_at(until.into(), run(txn.clone())).await;
            let (why, theirs) = match running {
                Err(_) => return Err(E::from(self.pool().late())),
                Ok(Ok(value)) => match txn.commit().await {
                    Ok(_) => return Ok(value),
                    // It was ended by the closure.
                    Err(Error::TransactionOver) => return Ok(value),
                    Err(error) => (error, None),
                },
                Ok(Err(theirs)) => match txn.failure() {
                    Some(error) => (error, Some(theirs)),
                    None => return Err(theirs),
                },
            };
            let left = until.saturating_duration_since(Instant::now());
            let pause = attempts.next(&why, left, &mut self.pool().prng());
            let Some(pause) = pause else {
                return Err(theirs.unwrap_or_else(|| E::from(why)));
            };
            drop(txn);
            tokio::time::sleep(pause).await;
        }
    }

    /// Begins a transaction that the caller commits or takes back by itself. It is not run again by anybody.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin(&self) -> Result<Txn, Error> {
        self.begin_with(&TxnOptions::default()).await
    }

    /// As [`Self::begin`], with options.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin_with(&self, options: &TxnOptions) -> Result<Txn, Error> {
        let until = options.deadline.map(|deadline| Instant::now() + deadline);
        Txn::begin(self.pool(), options, until).await
    }

    /// Waits until nothing is left to do for transactions that are over. A commit is answered as soon as it is certain; what makes it
    /// cheap for others to read follows in the background. A program that ends before that loses nothing, but whoever reads those keys
    /// next has to find out what became of them. Transactions that are open are waited for, too.
    pub async fn settle(&self) {
        self.pool().settle().await;
    }

    /// How a transaction ended whose commit was answered by [`Error::CommitUnknown`]. If it has not ended, it is aborted now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn outcome(&self, txn: &TxnRef) -> Result<TxnOutcome, Error> {
        if let Some(outcome) = self.pool().recall(txn) {
            return Ok(outcome);
        }
        let deadline = Instant::now() + self.pool().options.deadline;
        let outcome = self.pool().ask_outcome(txn.id(), &txn.anchor, deadline).await?;
        Ok(match outcome {
            Some(Outcome::Committed { ts }) => TxnOutcome::Committed(ts),
            Some(Outcome::Aborted) => TxnOutcome::Aborted,
            None => TxnOutcome::Forgotten,
        })
    }
}
