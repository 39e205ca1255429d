//! Read-only transactions: all keys of all ranges as of one moment.

use super::db::Db;
use super::scan::Scan;
use crate::{Error, KeySpan};
use base::Timestamp;
use core::time::Duration;
use std::time::Instant;
use tokio::task::JoinSet;

/// Reads at once of one [`Snapshot::get_many`].
const READS_MAX: usize = 64;

/// Everything as it was at one timestamp: a transaction that only reads ([`Db::begin_read_at`], [`Db::begin_read_stale`]).
///
/// It writes nothing, takes no lock, is not committed, and may be kept for as long as versions are. An unfinished write at or below its
/// timestamp is found out about; one above it is left alone. It sees every write that was acknowledged at or below its timestamp, and
/// of each transaction all or nothing.
#[derive(Debug, Clone)]
pub struct Snapshot {
    db: Db,
    ts: Timestamp,
}

impl Db {
    /// A read-only transaction at `ts`: one that [`crate::Txn::commit`], a write or an earlier read has told, or any other of the past.
    #[must_use]
    pub fn begin_read_at(&self, ts: Timestamp) -> Snapshot {
        Snapshot { db: self.clone(), ts }
    }

    /// A read-only transaction as of `age` ago, by the cluster's clock as this client knows it: what was acknowledged before that is
    /// seen, save for as much as clocks of nodes differ. Where the cluster has closed that moment already, some 3 s back, nothing that
    /// is being written is waited for.
    ///
    /// # Errors
    /// See [`Error`]: the cluster's clock has to be asked for when nobody has said so for a while.
    pub async fn begin_read_stale(&self, age: Duration) -> Result<Snapshot, Error> {
        let deadline = Instant::now() + self.pool().options.deadline;
        if self.pool().maps_seen() == 0 {
            self.pool().refresh_beyond(0, deadline).await?;
        }
        let (now, _) = self.pool().clock(deadline).await?;
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Ok(self.begin_read_at(Timestamp::new(now.wall_ns.saturating_sub(age_ns), 0)))
    }
}

impl Snapshot {
    /// The moment.
    #[must_use]
    pub fn ts(&self) -> Timestamp {
        self.ts
    }

    /// The value that `key` had then.
    ///
    /// # Errors
    /// See [`Error`]; with code `TimestampTooOld` when versions that old may have been collected.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_at(key, self.ts).await
    }

    /// The values that several keys had then, in that order, asked for at once.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::new();
        let mut reads = JoinSet::new();
        for (at, key) in keys.into_iter().enumerate() {
            if reads.len() >= READS_MAX {
                take(&mut values, reads.join_next().await)?;
            }
            values.push(None);
            let (snapshot, key) = (self.clone(), key.as_ref().to_vec());
            reads.spawn(async move { (at, snapshot.get(key).await) });
        }
        while !reads.is_empty() {
            take(&mut values, reads.join_next().await)?;
        }
        Ok(values)
    }

    /// Keys and values of `span` in order, as they were then.
    pub fn scan(&self, span: impl KeySpan) -> Scan {
        self.db.scan(span).at(self.ts)
    }
}

type Read = Result<(usize, Result<Option<Vec<u8>>, Error>), tokio::task::JoinError>;

fn take(values: &mut [Option<Vec<u8>>], read: Option<Read>) -> Result<(), Error> {
    match read {
        None => Ok(()),
        Some(Ok((at, value))) => {
            values[at] = value?;
            Ok(())
        }
        // The runtime ends.
        Some(Err(_)) => Err(Error::Closed),
    }
}
