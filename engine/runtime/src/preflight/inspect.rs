//! What `corelane doctor` shows: each thing that can stop a node or slow it down, with its remedy.

use super::data_dir::{ProbeFile, check_space, check_writable};
use super::kernel::{locked_memory, release};
use super::{MEMLOCK_BYTES_MIN, PreflightError, probe_io_uring};
use crate::stall::now_ns;
use std::fs;
use std::path::Path;

/// Durable writes that the latency check makes.
const WRITES: u64 = 64;
/// A median above this says that the device has no write cache that survives, or is shared with others.
const WRITE_NS_GOOD: u64 = 1_000_000;
/// Less free memory than this leaves no room for a cache.
const MEMORY_KIB_GOOD: u64 = 1 << 20;

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

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Good,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn warning(name: &'static str, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            name,
            verdict: Verdict::Warning,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn bad(name: &'static str, error: &PreflightError) -> Self {
        let text = error.to_string();
        // Each of these errors is a sentence, a line break, and the remedy.
        let (detail, remedy) = text.split_once('\n').unwrap_or((&text, ""));
        Self {
            name,
            verdict: Verdict::Bad,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Looks at the machine and at `data_dir`. A directory that does not exist is looked at through its nearest parent; nothing
/// is left behind.
#[must_use]
pub fn inspect(data_dir: &Path) -> Vec<Check> {
    let mut checks = vec![kernel(), io_uring(), seccomp(), locked(), processors(), memory()];
    let existing = data_dir.ancestors().find(|path| path.is_dir());
    // A relative path ends in an empty ancestor, which stands for the working directory.
    let dir = existing.unwrap_or(Path::new("."));
    checks.extend([file_system(dir), space(dir)]);
    checks.extend(disk(dir));
    checks
}

fn kernel() -> Check {
    Check::good("kernel", format!("Linux {}", release()))
}

fn io_uring() -> Check {
    match probe_io_uring() {
        Ok(()) => Check::good("io_uring", "available, with all operations that are needed"),
        Err(error) => Check::bad("io_uring", &error),
    }
}

fn seccomp() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
        .map_or("", str::trim);
    match (mode, probe_io_uring()) {
        ("0", _) => Check::good("seccomp", "no filter"),
        (_, Ok(())) => Check::good("seccomp", "a filter that allows io_uring"),
        (_, Err(_)) => Check::warning(
            "seccomp",
            "a filter, and io_uring does not work",
            "Use a profile that allows io_uring_setup, io_uring_enter and io_uring_register.",
        ),
    }
}

fn locked() -> Check {
    match locked_memory() {
        None => Check::good("locked memory", "unlimited"),
        Some(limit_bytes) if limit_bytes < MEMLOCK_BYTES_MIN => {
            Check::bad("locked memory", &PreflightError::LockedMemory { limit_bytes })
        }
        Some(limit_bytes) => Check::good("locked memory", format!("{} KiB", limit_bytes >> 10)),
    }
}

fn processors() -> Check {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let present = text
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count()
        .max(usable);
    let detail = format!("{usable} of {present} processors may be used: {usable} shards");
    if usable < present {
        let remedy =
            "An affinity mask or a quota keeps the others away; widen it if they are meant for this node.";
        return Check::warning("processors", detail, remedy);
    }
    Check::good("processors", detail)
}

fn memory() -> Check {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free_kib = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok());
    match free_kib {
        None => Check::warning("memory", "unknown: /proc/meminfo says nothing", "Mount /proc."),
        Some(kib) if kib < MEMORY_KIB_GOOD => Check::warning(
            "memory",
            format!("{} MiB available", kib >> 10),
            "Give this node at least 1 GiB.",
        ),
        Some(kib) => Check::good("memory", format!("{} MiB available", kib >> 10)),
    }
}

fn file_system(dir: &Path) -> Check {
    let Ok(path) = dir.canonicalize() else {
        return Check::warning(
            "file system",
            "the data directory cannot be found",
            "Check its parents' rights.",
        );
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let kind = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map_or("unknown", |(_, kind)| kind);
    match kind {
        "tmpfs" | "ramfs" => Check::warning(
            "file system",
            kind,
            "It is in memory: nothing survives a restart.",
        ),
        "overlay" => Check::warning(
            "file system",
            kind,
            "Mount a volume: a container's own layer is slow and goes with it.",
        ),
        "nfs" | "nfs4" | "cifs" | "fuse" => Check::warning("file system", kind, "Use a local disk."),
        _ => Check::good("file system", kind),
    }
}

fn space(dir: &Path) -> Check {
    match check_space(dir) {
        Ok(space) => Check::good("space", format!("{} MiB free", space.free_bytes >> 20)),
        Err(error) => Check::bad("space", &error),
    }
}

/// Direct I/O and the time of a durable write.
fn disk(dir: &Path) -> Vec<Check> {
    match check_writable(dir) {
        Err(error) => vec![Check::bad("data directory", &error)],
        Ok(direct) => {
            let direct = if direct {
                Check::good("direct I/O", "yes")
            } else {
                Check::warning(
                    "direct I/O",
                    "no: the page cache is used",
                    "Use ext4, xfs or another file system with it.",
                )
            };
            vec![
                Check::good("data directory", "writable"),
                direct,
                write_latency(dir),
            ]
        }
    }
}

/// The median of durable writes of one block over blocks that were written before, as the log does it.
fn write_latency(dir: &Path) -> Check {
    const NAME: &str = "durable 4 KiB write";
    let measured = ProbeFile::create(dir).and_then(|probe| {
        (0..WRITES).try_for_each(|block| probe.write(block))?;
        let mut times_ns = Vec::new();
        for block in 0..WRITES {
            let start_ns = now_ns();
            probe.write(block)?;
            times_ns.push(now_ns() - start_ns);
        }
        times_ns.sort_unstable();
        Ok(times_ns[times_ns.len() / 2])
    });
    match measured {
        Ok(median_ns) if median_ns <= WRITE_NS_GOOD => {
            Check::good(NAME, format!("{} µs (median)", median_ns / 1000))
        }
        Ok(median_ns) => Check::warning(
            NAME,
            format!("{} µs (median)", median_ns / 1000),
            "Every acknowledged write waits for this: use a device that is faster to sync.",
        ),
        Err(error) => Check::warning(NAME, format!("not measured: {error}"), "See the other lines."),
    }
}
