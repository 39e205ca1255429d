//! What stops a node from starting, each in a child process that really is in that state.
//!
//! The test binary runs itself again with the name of one test and a variable that says "you are the child".
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unsafe_code, reason = "the child forbids itself what a container would")]

use corelane_runtime::{
    PreflightError, RuntimeConfig, RuntimeError, Verdict, inspect, preflight, run_shards,
};
use env::{Disk as _, Env as _, File as _, OpenMode};
use std::path::Path;
use std::process::Command;

const CHILD: &str = "CORELANE_PREFLIGHT_CHILD";

/// On the disk: the default temporary directory may be in memory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory beside the build")
}

/// In the parent: runs the test `name` again as a child, and demands that it succeeds. True in the child.
fn is_child(name: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(binary)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "the child failed\n{out}\n{err}");
    assert!(out.contains("1 passed"), "the child ran nothing\n{out}\n{err}");
    false
}

/// From now on `io_uring_setup` fails with `errno` in this process.
fn forbid_io_uring(errno: i32) {
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The system call's number is the first field of `seccomp_data`.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        op(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        ),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter live through the calls, which change only this process.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        let set = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        );
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

/// A shard that writes and reads one block, without looking at anything first.
fn run_one_shard(dir: &Path) -> Result<(), RuntimeError> {
    let config = RuntimeConfig {
        shards: 1,
        pin: false,
        ..RuntimeConfig::new(dir)
    };
    run_shards(&config, |env, _: corelane_runtime::RingMailbox<()>| async move {
        let file = env
            .disk()
            .create("file", OpenMode::WriteDurable)
            .await
            .map_err(|error| error.to_string())?;
        let mut buf = env.disk().alloc(4096);
        buf.fill(7);
        file.write_at(0, buf).await.0.map_err(|error| error.to_string())?;
        let read = file.read_at(0, 4096).await.map_err(|error| error.to_string())?;
        if read.iter().all(|byte| *byte == 7) {
            Ok(())
        } else {
            Err("read back something else".to_string())
        }
    })
}

#[test]
fn a_fresh_directory_is_created_and_locked() {
    let scratch = scratch();
    let dir = scratch.path().join("not/there/yet");
    let report = preflight(&dir).unwrap();
    assert!(report.free_bytes > 0);
    let again = preflight(&dir).unwrap_err();
    assert_eq!(
        again,
        PreflightError::DataDirInUse {
            path: dir.clone(),
            pid: Some(std::process::id())
        }
    );
    let text = again.to_string();
    assert!(
        text.contains(&format!("in use by process {}", std::process::id())),
        "{text}"
    );
    drop(report);
    preflight(&dir).unwrap();
}

/// glommio's own files fail here: the first one opened on an empty directory switches completion polling on for a device
/// that has none, and every read says `EOPNOTSUPP`. Ours never ask.
#[test]
fn the_first_read_on_a_fresh_directory_works() {
    for _ in 0..3 {
        let scratch = scratch();
        assert_eq!(run_one_shard(scratch.path()), Ok(()));
    }
}

/// In 0.9.0 the first sleep took 5 to 14 ms instead of one.
#[test]
fn the_first_sleep_ends_in_time() {
    use env::Clock as _;
    let scratch = scratch();
    let config = RuntimeConfig {
        shards: 1,
        pin: false,
        ..RuntimeConfig::new(scratch.path())
    };
    // The machine may be busy: one of several fresh executors must do it.
    let in_time = (0..10).any(|_| {
        run_shards(&config, |env, _: corelane_runtime::RingMailbox<()>| async move {
            let start = env.clock().now();
            env.clock().sleep(core::time::Duration::from_millis(1)).await;
            let took = env.clock().now().since(start);
            if took < core::time::Duration::from_millis(3) {
                Ok(())
            } else {
                Err(format!("{took:?}"))
            }
        })
        .is_ok()
    });
    assert!(in_time);
}

#[test]
fn a_filter_that_forbids_io_uring_is_named() {
    if !is_child("a_filter_that_forbids_io_uring_is_named") {
        return;
    }
    let scratch = scratch();
    forbid_io_uring(libc::EPERM);
    let error = preflight(scratch.path()).unwrap_err();
    assert_eq!(
        error,
        PreflightError::IoUringForbidden {
            kind: std::io::ErrorKind::PermissionDenied
        }
    );
    assert!(error.to_string().contains("seccomp"), "{error}");
    let checks = inspect(scratch.path());
    let bad: Vec<_> = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Bad)
        .map(|check| check.name)
        .collect();
    assert_eq!(bad, ["io_uring"]);
    // Without preflight it is an error all the same, where glommio would panic.
    let refused = run_one_shard(scratch.path()).unwrap_err();
    assert!(matches!(refused, RuntimeError::Start { .. }), "{refused:?}");
}

#[test]
fn a_filter_that_hides_io_uring_is_named() {
    if !is_child("a_filter_that_hides_io_uring_is_named") {
        return;
    }
    forbid_io_uring(libc::ENOSYS);
    let error = preflight(scratch().path()).unwrap_err();
    let hidden = matches!(
        error,
        PreflightError::IoUringForbidden { .. } | PreflightError::IoUringMissing { .. }
    );
    assert!(hidden, "{error:?}");
}

#[test]
fn a_small_limit_of_locked_memory_is_refused() {
    if !is_child("a_small_limit_of_locked_memory_is_refused") {
        return;
    }
    let scratch = scratch();
    let limit = libc::rlimit {
        rlim_cur: 64 << 10,
        rlim_max: 64 << 10,
    };
    // SAFETY: a valid pointer. Later the process gives up root, if it was, so that the limit binds it.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit), 0);
        if libc::geteuid() == 0 {
            assert_eq!(libc::setgid(65534), 0);
            assert_eq!(libc::setuid(65534), 0);
        }
    }
    let error = preflight(scratch.path()).unwrap_err();
    assert_eq!(
        error,
        PreflightError::LockedMemory {
            limit_bytes: 64 << 10
        }
    );
    let text = error.to_string();
    assert!(
        text.contains("65536 bytes") && text.contains("LimitMEMLOCK=infinity"),
        "{text}"
    );
}

#[test]
fn an_unwritable_directory_is_named() {
    if !is_child("an_unwritable_directory_is_named") {
        return;
    }
    let path = Path::new("/proc/corelane");
    let error = preflight(path).unwrap_err();
    assert!(
        matches!(&error, PreflightError::DataDir { path: named, .. } if named == path),
        "{error:?}"
    );
    let file = scratch().path().join("file");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "not a directory").unwrap();
    let error = preflight(&file).unwrap_err();
    assert_eq!(error, PreflightError::NotADirectory { path: file });
}

#[test]
fn inspection_finds_this_machine_fit_and_leaves_nothing_behind() {
    let scratch = scratch();
    let checks = inspect(&scratch.path().join("not/there"));
    let names: Vec<_> = checks.iter().map(|check| check.name).collect();
    for name in [
        "kernel",
        "io_uring",
        "seccomp",
        "locked memory",
        "processors",
        "memory",
        "file system",
        "space",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for check in &checks {
        assert_ne!(check.verdict, Verdict::Bad, "{check:?}");
        assert_eq!(
            check.verdict == Verdict::Good,
            check.remedy.is_none(),
            "{check:?}"
        );
    }
    assert!(names.contains(&"durable 4 KiB write"));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
