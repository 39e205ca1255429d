//! What a process is told about its shards, and how they may fail.

use core::time::Duration;
use std::path::PathBuf;

/// How the shards of one process run. Built complete; [`crate::run_shards`] checks it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// How many shards: pinned threads with an executor each. At least 1, at most [`base::limits::SHARDS_MAX`].
    pub shards: u16,
    /// The node's data directory. It exists: [`crate::preflight`] creates it.
    pub data_dir: PathBuf,
    /// Whether the machine is ours alone: a shard polls for `spin` before it parks. Costs a whole processor per shard while
    /// there is some work, and takes the wake-up of a halted processor out of each request's latency.
    pub dedicated: bool,
    /// How long a shard polls before it parks, when `dedicated`.
    pub spin: Duration,
    /// A task that runs longer than this without awaiting is reported with a backtrace.
    pub stall_max: Duration,
    /// Whether each shard is bound to a processor of its own, while there are enough of them.
    pub pin: bool,
    /// Messages that each ring between two shards holds; a power of two.
    pub mailbox_messages: usize,
    /// Whether the file `FAULTS` in the data directory is heeded, by which a disk pretends to be slow or full: for tests and
    /// demonstrations only.
    pub faults: bool,
}

impl RuntimeConfig {
    /// The defaults: one shard per processor that this process may use.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = u16::try_from(processors.min(base::limits::SHARDS_MAX)).unwrap_or(u16::MAX);
        Self {
            shards,
            data_dir: data_dir.into(),
            dedicated: false,
            spin: Duration::from_micros(100),
            stall_max: Duration::from_millis(10),
            pin: true,
            mailbox_messages: 1024,
            faults: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), RuntimeError> {
        let shards_max = base::limits::SHARDS_MAX;
        if self.shards == 0 || usize::from(self.shards) > shards_max {
            return Err(RuntimeError::Config(format!(
                "shards is {}, not in 1..={shards_max}",
                self.shards
            )));
        }
        if !self.mailbox_messages.is_power_of_two() {
            let messages = self.mailbox_messages;
            return Err(RuntimeError::Config(format!(
                "mailbox_messages is {messages}, not a power of two"
            )));
        }
        if self.stall_max.is_zero() {
            return Err(RuntimeError::Config(
                "stall_max is zero: every turn would be a stall".into(),
            ));
        }
        Ok(())
    }
}

/// The shards could not run, or one of them failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The configuration contradicts itself or a limit.
    #[error("configuration: {0}")]
    Config(String),
    /// An executor could not be built: see [`crate::preflight`], which explains the usual reasons.
    #[error("shard {shard} could not start: {reason}")]
    Start {
        /// Which shard.
        shard: u16,
        /// What the executor said.
        reason: String,
    },
    /// A shard's main future returned an error.
    #[error("shard {shard}: {reason}")]
    Shard {
        /// Which shard.
        shard: u16,
        /// What it said.
        reason: String,
    },
    /// A shard's thread panicked; the message is on stderr.
    #[error("shard {shard} panicked")]
    Panicked {
        /// Which shard.
        shard: u16,
    },
}
