//! The handle.

use crate::{LogConfig, LogError, Position, Record};
use base::{Index, RangeId, Seqno, Timestamp};
use core::marker::PhantomData;
use env::Env;
use std::rc::Rc;

/// One shard's log. A cheap handle: clones share the log.
#[derive(Debug)]
pub struct Log<E: Env> {
    inner: Rc<PhantomData<E>>,
}

impl<E: Env> Clone for Log<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

/// What recovery found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The greatest bound given to [`Log::set_hlc_bound`] that survived.
    pub hlc_bound: Timestamp,
    /// Segments that hold the log.
    pub segments: u64,
    /// Batches that survived.
    pub batches: u64,
    /// Records that survived.
    pub records: u64,
    /// Bytes of the batches that survived.
    pub bytes: u64,
    /// The last batch that survived.
    pub last: Seqno,
    /// How often this log has been opened before.
    pub incarnation: u64,
    /// Where an unacknowledged tail was cut, if there was one.
    pub cut: Option<Cut>,
}

/// Where recovery cut a tail that was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file, relative to the data directory.
    pub file: String,
    /// Where the first void batch starts.
    pub offset: u64,
    /// The first void batch.
    pub seqno: Seqno,
    /// What was found there.
    pub found: String,
}

/// Counters of one log since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Records appended.
    pub records: u64,
    /// Entries among them.
    pub entries: u64,
    /// Batches written, seals and openings included.
    pub batches: u64,
    /// Seals among them.
    pub seals: u64,
    /// Device writes, segment preparation not included.
    pub device_writes: u64,
    /// Bytes of these writes.
    pub bytes: u64,
    /// Bytes of padding among them.
    pub padding_bytes: u64,
    /// Bytes staged and not yet given to the device.
    pub staged_bytes: u64,
    /// Device writes in flight.
    pub writes_in_flight: u64,
    /// Segments that hold the log, the one being written included.
    pub segments_live: u64,
    /// Segments ready for use.
    pub segments_spare: u64,
    /// Segments written for the first time or again.
    pub segments_recycled: u64,
    /// Bytes of the live segments' batches.
    pub live_bytes: u64,
}

impl<E: Env> Log<E> {
    /// Recovers the log in directory `dir`, or creates it, then opens it for appending in a fresh segment. `visit` sees
    /// every surviving record in order; on an error what it saw is void.
    ///
    /// # Errors
    /// [`LogError::Corruption`] when something acknowledged is damaged: nothing on disk was changed.
    ///
    /// # Cancellation
    /// Not safe in one respect: a dropped open may still be writing; open the log again only after a restart.
    pub async fn open(
        env: &E,
        dir: &str,
        config: LogConfig,
        visit: &mut dyn FnMut(Position, Record<'_>),
    ) -> Result<(Self, Recovered), LogError> {
        let _ = (env, dir, config, visit);
        unimplemented!()
    }

    /// Stages `record` and returns the batch that it will be in. Never waits; see [`Log::has_room`].
    pub fn append(&self, record: &Record<'_>) -> Seqno {
        let _ = record;
        unimplemented!()
    }

    /// Starts the device write of what is staged. Call once per loop turn. What may not start yet, because enough writes
    /// are in flight, starts by itself when one completes.
    pub fn submit(&self) {
        unimplemented!()
    }

    /// Every batch up to here is durable.
    #[must_use]
    pub fn persisted(&self) -> Seqno {
        unimplemented!()
    }

    /// Waits until [`Log::persisted`] is greater than `seen`, and returns it. Any number of tasks may wait.
    ///
    /// # Errors
    /// Once a write has failed, always: nothing more becomes durable. Stop the node.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn persisted_beyond(&self, seen: Seqno) -> Result<Seqno, LogError> {
        let _ = seen;
        unimplemented!()
    }

    /// Whether the caller may go on appending, or should first wait for [`Log::persisted_beyond`]:
    /// [`LogConfig::staged_bytes_max`].
    #[must_use]
    pub fn has_room(&self) -> bool {
        unimplemented!()
    }

    /// Carried in every later batch, so that no timestamp above what a restart recovers was ever issued before it.
    pub fn set_hlc_bound(&self, bound: Timestamp) {
        let _ = bound;
        unimplemented!()
    }

    /// Entries of `range` up to `index` are durable elsewhere now. Segments at the front that hold nothing else any more are
    /// dropped; records that must outlive them are staged again, so a [`Log::submit`] should follow.
    pub fn cover(&self, range: RangeId, index: Index) {
        let _ = (range, index);
        unimplemented!()
    }

    /// The range has left this shard: stages [`Record::Forget`], and nothing of the range holds a segment any more.
    pub fn forget(&self, range: RangeId) {
        let _ = range;
        unimplemented!()
    }

    /// Which range to flush so that the oldest segment can be dropped: the range, the index that has to be covered, and the
    /// bytes of log behind it. `None` when nothing is held.
    #[must_use]
    pub fn oldest_uncovered(&self) -> Option<(RangeId, Index, u64)> {
        unimplemented!()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }

    /// Writes what is staged, then a seal, and waits until both are durable. Later appends are never durable.
    ///
    /// # Errors
    /// As [`Log::persisted_beyond`].
    ///
    /// # Cancellation
    /// Safe; the log may then be closed or not.
    pub async fn close(self) -> Result<(), LogError> {
        unimplemented!()
    }
}
