//! The tunables of a log.

use base::ShardId;
use base::limits::{BLOCK_BYTES, FRAME_BYTES_MAX};
use core::time::Duration;

/// How a log is laid out and written. Built complete, checked once by [`crate::Log::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Whose log it is; a segment of another shard is never taken for one of this log.
    pub shard: ShardId,
    /// Bytes of a segment, a multiple of 4 KiB, at least 16 KiB. Default 64 MiB; hostile: 16 KiB.
    pub segment_bytes: u64,
    /// Segments kept zero-filled ahead of need, at least 1. Default 2; hostile: 1.
    pub segments_spare: usize,
    /// A batch is closed when it has grown to this many bytes; a single larger record makes a larger batch.
    /// Default 1 MiB; hostile: 1.
    pub batch_bytes_max: usize,
    /// Device writes in flight, at least 1. Default 4; hostile: 1 and 8.
    pub writes_in_flight_max: usize,
    /// While a write is in flight, fewer staged bytes than this wait for it to complete, so that small batches become one
    /// under load. Default 8 KiB; hostile: 1 and 1 MiB.
    pub write_min_bytes_when_busy: usize,
    /// Staged bytes beyond which [`crate::Log::has_room`] says no. Default 256 MiB.
    pub staged_bytes_max: usize,
    /// How long the log is idle before it is sealed; `None` seals only at close. Default 10 ms.
    pub seal_after: Option<Duration>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            shard: ShardId(0),
            segment_bytes: 64 << 20,
            segments_spare: 2,
            batch_bytes_max: 1 << 20,
            writes_in_flight_max: 4,
            write_min_bytes_when_busy: 8 << 10,
            staged_bytes_max: 256 << 20,
            seal_after: Some(Duration::from_millis(10)),
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log setting {name} is {value}: {rule}")]
pub struct ConfigError {
    /// The field of [`LogConfig`].
    pub name: &'static str,
    /// What it was set to.
    pub value: u64,
    /// What it must be.
    pub rule: &'static str,
}

impl LogConfig {
    /// Checks every setting, changing none.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let block = BLOCK_BYTES as u64;
        let rules = [
            (
                "segment_bytes",
                self.segment_bytes,
                self.segment_bytes.is_multiple_of(block),
                "a multiple of 4 KiB",
            ),
            (
                "segment_bytes",
                self.segment_bytes,
                self.segment_bytes >= 4 * block,
                "at least 16 KiB",
            ),
            (
                "segment_bytes",
                self.segment_bytes,
                self.segment_bytes <= 4 << 30,
                "at most 4 GiB",
            ),
            (
                "segments_spare",
                self.segments_spare as u64,
                self.segments_spare >= 1,
                "at least 1",
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max as u64,
                self.batch_bytes_max >= 1,
                "at least 1",
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max as u64,
                self.batch_bytes_max <= FRAME_BYTES_MAX,
                "at most a frame",
            ),
            (
                "writes_in_flight_max",
                self.writes_in_flight_max as u64,
                self.writes_in_flight_max >= 1,
                "at least 1",
            ),
            (
                "staged_bytes_max",
                self.staged_bytes_max as u64,
                self.staged_bytes_max >= 1,
                "at least 1",
            ),
        ];
        rules
            .into_iter()
            .find(|(_, _, holds, _)| !holds)
            .map_or(Ok(()), |(name, value, _, rule)| {
                Err(ConfigError { name, value, rule })
            })
    }
}
