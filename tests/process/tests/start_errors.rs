//! Starts that fail, in processes that really are in that state: a sentence, a remedy, exit code 78.
//!
//! Others are elsewhere: `cli/tests/errors.rs` has the port that is taken, the directory in use and the damaged log;
//! `engine/runtime/tests/preflight.rs` has what preflight finds, as values. Here are those that need another user, another
//! system call filter or another file system, seen through the whole binary.
#![allow(
    unsafe_code,
    reason = "the child forbids itself what a container or another user would"
)]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Nobody in particular: neither root nor the owner of anything.
const NOBODY: u32 = 65534;

static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Starts a node on `data` in a child that `confine` confines, and demands that it says `code` and a remedy with `word` in it.
fn refused(data: &Path, code: &str, word: &str, confine: fn() -> std::io::Result<()>) {
    // A child that another test forks while the copy is being written would hold it open for writing: "text file busy".
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // A copy, since nobody in particular may be unable to reach the place where this was built.
    let binary = data.with_file_name("corelane");
    std::fs::copy(env!("CARGO_BIN_EXE_process-node"), &binary).unwrap();
    let mut command = Command::new(binary);
    command
        .args(["start", "--listen", "127.0.0.1:0", "--shards", "1", "--data"])
        .arg(data);
    // SAFETY: `confine` makes system calls only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(confine) };
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(78), "{out}{err}");
    assert!(err.starts_with(&format!("error[{code}]: ")), "{err}");
    let (_, help) = err
        .split_once("\n  help : ")
        .unwrap_or_else(|| panic!("no remedy: {err}"));
    assert!(help.contains(word), "{err}");
    assert!(!err.contains("panicked"), "{err}");
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap()
}

fn done(result: libc::c_int) -> std::io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Gives up root, if it was root: what root may do would hide the error.
fn be_nobody() -> std::io::Result<()> {
    // SAFETY: no pointers.
    unsafe {
        if libc::geteuid() != 0 {
            return Ok(());
        }
        done(libc::setgid(NOBODY))?;
        done(libc::setuid(NOBODY))
    }
}

/// As most container profiles do.
fn forbid_io_uring() -> std::io::Result<()> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SETUP: u32 = 425;
    const EPERM: u32 = 1;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        op(LOAD, 0, 0, 0),
        op(EQUAL, 0, 1, SETUP),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | EPERM),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter live through the calls.
    unsafe {
        done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        done(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        ))
    }
}

fn limit_locked_memory() -> std::io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 64 << 10,
        rlim_max: 64 << 10,
    };
    // SAFETY: a valid pointer.
    done(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })?;
    be_nobody()
}

/// A file may not grow beyond 64 KiB: the first log segment meets that as it would meet a full disk.
fn limit_files() -> std::io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 64 << 10,
        rlim_max: 64 << 10,
    };
    // SAFETY: a valid pointer; the signal that would end the process is ignored, so that the write fails instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        done(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit))
    }
}

#[test]
fn io_uring_forbidden() {
    let scratch = scratch();
    refused(&scratch.path().join("data"), "C6001", "seccomp", forbid_io_uring);
}

#[test]
fn locked_memory_too_small() {
    let scratch = scratch();
    open(scratch.path());
    refused(
        &scratch.path().join("data"),
        "C6002",
        "LimitMEMLOCK",
        limit_locked_memory,
    );
}

#[test]
fn a_directory_that_may_not_be_written() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    std::fs::set_permissions(&data, owner_only).unwrap();
    open(scratch.path());
    refused(&data, "C6005", "", be_nobody);
}

#[test]
fn a_disk_that_is_full() {
    let scratch = scratch();
    refused(&scratch.path().join("data"), "C4003", "space", limit_files);
}

/// Anyone may look into `path` and write there.
fn open(path: &Path) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
}
