//! What must hold before a shard starts, said in sentences with a remedy.
//!
//! ```text
//!   preflight ─► io_uring? ─► locked memory? ─► data directory: exists, ours, writable, room ─► lock ─► report
//!                  │              │                 │
//!                  └──────────────┴─────────────────┴─► PreflightError: what, and what to do (exit code 78)
//! ```
//!
//! It runs before any executor, because glommio answers a forbidden io_uring with a panic and a small locked-memory limit with
//! a failure in some of its threads. [`inspect`] looks at the same things, and at what only costs speed, for `doctor`.

mod data_dir;
mod inspect;
mod kernel;

pub use inspect::{Check, Verdict, inspect};
pub(crate) use kernel::probe_io_uring;

use data_dir::Lock;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Locked memory that the rings of a few shards need. glommio itself asks for 512 KiB, and kernels before 5.12 charge the
/// rings to this limit too.
pub(crate) const MEMLOCK_BYTES_MIN: u64 = 1 << 20;
/// A node with less room than this cannot create its first log segments.
pub(crate) const SPACE_BYTES_MIN: u64 = 256 << 20;

/// The start is refused. The message says what is wrong and, after a line break, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// A seccomp filter or a policy forbids io_uring.
    #[error(
        "io_uring is forbidden (io_uring_setup: {kind})\n\
         Containers forbid it by default: run with `--security-opt seccomp=unconfined`, or with a profile that allows \
         io_uring_setup, io_uring_enter and io_uring_register. gVisor has no io_uring: use another runtime class."
    )]
    IoUringForbidden {
        /// What the kernel said.
        kind: ErrorKind,
    },
    /// The administrator has switched io_uring off.
    #[error(
        "io_uring is switched off: kernel.io_uring_disabled is {setting}\n\
         Run `sysctl -w kernel.io_uring_disabled=0` as root, or, when it is 1, put this user into the group of \
         kernel.io_uring_group."
    )]
    IoUringDisabled {
        /// 1: for users outside a group; 2: for everybody.
        setting: u8,
    },
    /// The kernel does not know io_uring.
    #[error("this kernel ({release}) has no io_uring\nUse Linux 5.11 or later.")]
    IoUringMissing {
        /// The kernel's version.
        release: String,
    },
    /// The kernel knows io_uring, but not all that is needed.
    #[error("this kernel ({release}) lacks the io_uring operation {operation}\nUse Linux 5.13 or later.")]
    IoUringTooOld {
        /// The kernel's version.
        release: String,
        /// What is missing.
        operation: &'static str,
    },
    /// The limit of locked memory is too small for the rings.
    #[error(
        "the locked-memory limit is {limit_bytes} bytes, and the rings need {MEMLOCK_BYTES_MIN}\n\
         Raise it: `ulimit -l unlimited` in a shell, `LimitMEMLOCK=infinity` in a systemd unit, `--ulimit memlock=-1` for a \
         container."
    )]
    LockedMemory {
        /// The soft limit.
        limit_bytes: u64,
    },
    /// The data directory cannot be created or looked at.
    #[error("the data directory {}: {kind} ({what})\nCreate it, or give this user access to it.", .path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        kind: ErrorKind,
    },
    /// Where the data directory should be is something else.
    #[error("{} is a file, not a directory\nName a directory for the data; it is made when missing.", .path.display())]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the data directory.
    #[error(
        "the data directory {} is in use by {}\nStop that process, or give this node a directory of its own.",
        .path.display(),
        .pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
    )]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock, when it could be read.
        pid: Option<u32>,
    },
    /// The device is full.
    #[error(
        "only {free_bytes} bytes are free in {}, and a node needs {SPACE_BYTES_MIN} to start\n\
         Free some space, or use a directory on another device.",
        .path.display()
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
    },
}

/// What was found. Holds the data directory's lock: keep it for as long as the node runs.
#[derive(Debug)]
pub struct PreflightReport {
    /// Whether the file system does direct I/O. Without it the page cache is used, and everything is slower.
    pub direct_io: bool,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes of the whole device.
    pub total_bytes: u64,
    _lock: Lock,
}

/// Checks what must hold before a shard starts, creates the data directory, and takes its lock.
///
/// # Errors
/// The first check that failed.
pub fn preflight(data_dir: &Path) -> Result<PreflightReport, PreflightError> {
    probe_io_uring()?;
    kernel::check_locked_memory()?;
    kernel::raise_open_files();
    data_dir::create(data_dir)?;
    let lock = Lock::take(data_dir)?;
    let space = data_dir::check_space(data_dir)?;
    let direct_io = data_dir::check_writable(data_dir)?;
    Ok(PreflightReport {
        direct_io,
        free_bytes: space.free_bytes,
        total_bytes: space.total_bytes,
        _lock: lock,
    })
}
