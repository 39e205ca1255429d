//! Read-only transactions, waiting.

use super::{Background, Db, Scan};
use crate::tokio as shell;
use crate::{Error, KeySpan};
use base::Timestamp;
use core::time::Duration;
use std::sync::Arc;

impl Db {
    /// A read-only transaction at `ts`; see [`crate::Db::begin_read_at`].
    #[must_use]
    pub fn begin_read_at(&self, ts: Timestamp) -> Snapshot {
        self.snapshot(self.inner.begin_read_at(ts))
    }

    /// A read-only transaction as of `age` ago; see [`crate::Db::begin_read_stale`].
    ///
    /// # Errors
    /// As [`crate::Db::begin_read_stale`].
    pub fn begin_read_stale(&self, age: Duration) -> Result<Snapshot, Error> {
        let begun = self.background.wait(self.inner.begin_read_stale(age))?;
        Ok(self.snapshot(begun))
    }

    fn snapshot(&self, inner: shell::Snapshot) -> Snapshot {
        Snapshot {
            inner,
            background: self.background.clone(),
        }
    }
}

/// Everything as it was at one timestamp; see [`crate::Snapshot`].
#[derive(Debug, Clone)]
pub struct Snapshot {
    inner: shell::Snapshot,
    background: Arc<Background>,
}

impl Snapshot {
    /// The moment.
    #[must_use]
    pub fn ts(&self) -> Timestamp {
        self.inner.ts()
    }

    /// The value that `key` had then.
    ///
    /// # Errors
    /// As [`crate::Snapshot::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.background.wait(self.inner.get(key))
    }

    /// The values that several keys had then, in that order.
    ///
    /// # Errors
    /// As [`crate::Snapshot::get`].
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.background.wait(self.inner.get_many(keys))
    }

    /// Keys and values of `span` in order, as they were then.
    pub fn scan(&self, span: impl KeySpan) -> Scan {
        Scan {
            inner: self.inner.scan(span),
            background: self.background.clone(),
        }
    }
}
