//! The kernel: io_uring and the limit of locked memory.

use super::{MEMLOCK_BYTES_MIN, PreflightError};
use io_uring::{IoUring, Probe, opcode};
use std::fs;

/// Tries a ring.
///
/// # Errors
/// When there can be none: why, and what to do.
pub(crate) fn probe_io_uring() -> Result<(), PreflightError> {
    let ring = IoUring::new(8).map_err(|error| match (error.raw_os_error(), disabled()) {
        (Some(libc::EPERM), Some(setting @ 1..)) => PreflightError::IoUringDisabled { setting },
        // Docker's filter says EPERM, others ENOSYS; a kernel that has the setting knows io_uring.
        (Some(libc::ENOSYS), None) => PreflightError::IoUringMissing { release: release() },
        // Kernels before 5.12 charge the ring itself to the limit.
        (Some(libc::ENOMEM), _) => PreflightError::LockedMemory {
            limit_bytes: locked_memory().unwrap_or(u64::MAX),
        },
        _ => PreflightError::IoUringForbidden { kind: error.kind() },
    })?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| PreflightError::IoUringForbidden { kind: error.kind() })?;
    let needed = [
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("STATX", opcode::Statx::CODE),
    ];
    for (operation, code) in needed {
        if !probe.is_supported(code) {
            return Err(PreflightError::IoUringTooOld {
                release: release(),
                operation,
            });
        }
    }
    Ok(())
}

/// `kernel.io_uring_disabled`, where the kernel has it.
pub(super) fn disabled() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The kernel's version.
pub(super) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.trim().is_empty() {
        "unknown".into()
    } else {
        release.trim().into()
    }
}

/// The soft limit of locked memory in bytes; `None` when there is none.
pub(super) fn locked_memory() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid pointer for the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Raises the limit as far as it goes, and checks it. glommio refuses a small one even to those whom it does not bind.
pub(super) fn check_locked_memory() -> Result<(), PreflightError> {
    raise(libc::RLIMIT_MEMLOCK);
    match locked_memory() {
        Some(limit_bytes) if limit_bytes < MEMLOCK_BYTES_MIN => {
            Err(PreflightError::LockedMemory { limit_bytes })
        }
        Some(_) | None => Ok(()),
    }
}

/// Raises the limit of open files as far as it goes: each table keeps one. Where that fails, a node with few ranges needs no
/// more than there is.
pub(super) fn raise_open_files() {
    raise(libc::RLIMIT_NOFILE);
}

/// Raises a soft limit to the hard one, which needs no right. If it fails all the same, what was there stays.
fn raise(resource: libc::__rlimit_resource_t) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: valid pointers for the calls.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(resource, &raw const limit);
        }
    }
}
