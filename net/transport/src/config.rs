//! Limits and time-outs of connections.

use base::limits;
use core::time::Duration;

/// Limits and time-outs of one shard's connections. Built complete, then checked once by [`Self::validate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// Connections that the shard keeps open: at least 1.
    pub connections_max: usize,
    /// How long a connection may take to say hello: at least 10 ms.
    pub hello_timeout: Duration,
    /// How long a frame may stay incomplete, plus the time that its received bytes deserve at [`Self::frame_rate_min`].
    pub frame_timeout: Duration,
    /// The slowest rate, in bytes per second, at which a long frame may arrive: at least 1.
    pub frame_rate_min: u64,
    /// How long a peer may leave replies unread before it is closed: at least 10 ms.
    pub send_timeout: Duration,
    /// A frame's payload after the hello: at most [`limits::FRAME_BYTES_MAX`].
    pub payload_bytes_max: usize,
    /// Replies waiting to be sent, in bytes, from which on the connection is not read: at least 4 KiB.
    pub outbox_bytes_max: usize,
    /// Requests of one connection under way, from which on it is not read: at least 1.
    pub requests_max: usize,
    /// How often time-outs are looked at: at least 1 ms. Time-outs may come late by this much.
    pub sweep_interval: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            hello_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(10),
            frame_rate_min: 256 << 10,
            send_timeout: Duration::from_secs(60),
            payload_bytes_max: limits::FRAME_BYTES_MAX,
            outbox_bytes_max: 4 << 20,
            requests_max: 1024,
            sweep_interval: Duration::from_secs(1),
        }
    }
}

/// A setting is outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting} must be {range}")]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// What it may be.
    pub range: &'static str,
}

impl TransportConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let short = Duration::from_millis(10);
        let rules = [
            (self.connections_max >= 1, "connections_max", "at least 1"),
            (self.hello_timeout >= short, "hello_timeout", "at least 10 ms"),
            (self.frame_timeout >= short, "frame_timeout", "at least 10 ms"),
            (
                self.frame_rate_min >= 1,
                "frame_rate_min",
                "at least 1 byte per second",
            ),
            (self.send_timeout >= short, "send_timeout", "at least 10 ms"),
            (
                self.payload_bytes_max <= limits::FRAME_BYTES_MAX,
                "payload_bytes_max",
                "at most 96 MiB",
            ),
            (
                self.outbox_bytes_max >= 4096,
                "outbox_bytes_max",
                "at least 4 KiB",
            ),
            (self.requests_max >= 1, "requests_max", "at least 1"),
            (
                self.sweep_interval >= Duration::from_millis(1),
                "sweep_interval",
                "at least 1 ms",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, setting, range)) => Err(ConfigError { setting, range }),
            None => Ok(()),
        }
    }
}
