//! Transactions of one request, by a handle.

use super::db::Db;
use super::txn::Txn;
use crate::Error;
use crate::one_shot::{Done, OneShot, unmet};
use crate::request::Request;
use crate::transaction::{Attempts, Isolation, TxnOptions};
use base::Timestamp;
use base::api::ReadAt;
use std::collections::BTreeMap;
use std::time::Instant;
use txn::Bytes;
use txn::change::{Missed, Unmet};

/// What ranges said that keys have by a one-shot transaction, as far as they did.
pub(super) type Changed = BTreeMap<Bytes, Option<Bytes>>;

impl Db {
    /// Conditions and changes of any keys, of any ranges, all of which happen or none, as if at one moment and nobody else were there
    /// (serializable). Keys that lie in one range are one request and one write of its log, without a read before:
    ///
    /// ```no_run
    /// # async fn example(db: corelane::Db) -> Result<(), corelane::Error> {
    /// let done = db
    ///     .one_shot(|shot| shot.add_within("account/1", -5, 0..=i64::MAX).add("account/2", 5))
    ///     .await?;
    /// println!("{} is left", done.number("account/1"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Over several ranges it commits in one round, as other transactions. A condition of a range in which nothing is changed takes a
    /// round more, before the others; what [`OneShot::get`] asks for, and is not changed, is read afterwards, at the timestamp of the
    /// commit.
    ///
    /// When another transaction is in the way, it waits; when it has failed because of one, it runs again.
    ///
    /// # Errors
    /// Nothing has happened, nor will: [`Error::ConditionFailed`] names the condition that does not hold, in the order of the calls, from
    /// zero, and has what was found; [`Error::OutOfBounds`] names the key whose bounds do not allow its change; with code `NotANumber`
    /// when a value is not a number and has to be. [`Error::CommitUnknown`] when it cannot be said whether it is committed: ask later
    /// with [`Db::outcome`], also from another process; whether its conditions held is not asked a second time then. And see [`Error`].
    pub async fn one_shot(&self, fill: impl FnOnce(&mut OneShot) -> &mut OneShot) -> Result<Done, Error> {
        let mut shot = OneShot::new();
        fill(&mut shot);
        self.run_one_shot(&shot, &TxnOptions::default()).await
    }

    /// As [`Self::one_shot`], with options. Where they say snapshot isolation, it is serializable.
    ///
    /// # Errors
    /// As [`Self::one_shot`].
    pub async fn run_one_shot(&self, shot: &OneShot, options: &TxnOptions) -> Result<Done, Error> {
        shot.check()?;
        self.check_one_shot(shot)?;
        let mut options = options.clone();
        if options.isolation == Isolation::Snapshot {
            options.isolation = Isolation::Serializable;
        }
        let deadline = options.deadline.unwrap_or(self.pool().options.deadline);
        let until = Instant::now() + deadline;
        let mut attempts = Attempts::new(&options);
        loop {
            let txn = Txn::begin_again(self.pool(), &options, until, &mut attempts).await?;
            let error = match txn.one_shot(shot.shot()).await {
                Ok((ts, changed)) => return self.done(shot, ts, changed).await,
                Err(error) => told(error, shot),
            };
            let left = until.saturating_duration_since(Instant::now());
            let pause = attempts.next(&error, left, &mut self.pool().prng());
            let Some(pause) = pause else { return Err(error) };
            drop(txn);
            tokio::time::sleep(pause).await;
            if matches!(error, Error::Aborted { .. }) {
                // A range may have been split between a condition and the change that it goes with.
                self.pool().refresh_beyond(self.pool().maps_seen(), until).await?;
            }
        }
    }

    fn check_one_shot(&self, shot: &OneShot) -> Result<(), Error> {
        let Some(limits) = self.pool().limits() else {
            return Ok(());
        };
        for (key, value) in shot.parts() {
            let at = ReadAt::Newest;
            limits.check(&match value {
                Some(value) => Request::Put { key, value },
                None => Request::Get { key, at },
            })?;
        }
        Ok(())
    }

    /// What it did: what ranges did not say is read at its timestamp.
    async fn done(&self, shot: &OneShot, ts: Timestamp, changed: Changed) -> Result<Done, Error> {
        let mut modified = BTreeMap::new();
        for key in shot.modified() {
            let value = match changed.get(key).cloned().flatten() {
                Some(value) => Some(value.to_vec()),
                // It was asked again, and said only that it is committed.
                None => self.read_done(key, ts).await?,
            };
            modified.insert(key.to_vec(), value.unwrap_or_default());
        }
        let mut values = Vec::with_capacity(shot.gets().len());
        for key in shot.gets() {
            values.push(match (shot.set(key), modified.get(key)) {
                (Some(value), _) => value.map(<[u8]>::to_vec),
                (None, Some(value)) => Some(value.clone()),
                (None, None) => self.read_done(key, ts).await?,
            });
        }
        Ok(Done { ts, modified, values })
    }

    async fn read_done(&self, key: &[u8], ts: Timestamp) -> Result<Option<Vec<u8>>, Error> {
        let unread = |error: Error| Error::CommittedUnread {
            ts,
            key: key.to_vec(),
            cause: error.to_string(),
        };
        self.get_at(key, ts).await.map_err(unread)
    }
}

/// What does not hold, with the change that it is about.
fn told(error: Error, shot: &OneShot) -> Error {
    match error {
        Error::OutOfBounds { key, found, ts, .. } => {
            let change = shot.change_of(&key);
            let missed = Missed::Bounds;
            let (key, found) = (key.into(), found.map(Bytes::from));
            unmet(
                Unmet {
                    key,
                    missed,
                    found,
                    ts,
                },
                change,
            )
        }
        other => other,
    }
}
