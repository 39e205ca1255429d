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
    /// Spare segments beyond which dropped ones are removed instead of kept for reuse, at least `segments_spare`. A start
    /// reads them all. Default 4; hostile: 1.
    pub segments_kept_max: usize,
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
    /// How long the log is idle before it is sealed, with two small writes; `None` seals only at close. Default 10 ms.
    pub seal_after: Option<Duration>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            shard: ShardId(0),
            segment_bytes: 64 << 20,
            segments_spare: 2,
            segments_kept_max: 4,
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
        let (block, kept) = (BLOCK_BYTES as u64, self.segments_kept_max);
        let (batch, flight) = (self.batch_bytes_max, self.writes_in_flight_max);
        let size = |count: usize| count as u64;
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
                size(self.segments_spare),
                self.segments_spare >= 1,
                "at least 1",
            ),
            (
                "segments_kept_max",
                size(kept),
                kept >= self.segments_spare,
                "at least segments_spare",
            ),
            ("batch_bytes_max", size(batch), batch >= 1, "at least 1"),
            (
                "batch_bytes_max",
                size(batch),
                batch <= FRAME_BYTES_MAX,
                "at most a frame",
            ),
            ("writes_in_flight_max", size(flight), flight >= 1, "at least 1"),
            (
                "staged_bytes_max",
                size(self.staged_bytes_max),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_its_hostile_extremes_pass_and_what_cannot_work_is_named() {
        let default = LogConfig::default();
        assert_eq!(default.check(), Ok(()));
        let hostile = LogConfig {
            segment_bytes: 16 << 10,
            segments_spare: 1,
            segments_kept_max: 1,
            batch_bytes_max: 1,
            writes_in_flight_max: 1,
            ..default.clone()
        };
        assert_eq!(hostile.check(), Ok(()));
        let refused = |config: LogConfig| config.check().expect_err("it cannot work").name;
        assert_eq!(
            refused(LogConfig {
                segment_bytes: 20_000,
                ..default.clone()
            }),
            "segment_bytes"
        );
        assert_eq!(
            refused(LogConfig {
                segments_kept_max: 1,
                ..default.clone()
            }),
            "segments_kept_max"
        );
        assert_eq!(
            refused(LogConfig {
                writes_in_flight_max: 0,
                ..default
            }),
            "writes_in_flight_max"
        );
    }
}
