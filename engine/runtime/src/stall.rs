//! The stall detector: no turn of a shard may hold its thread for longer than `stall_max`.
//!
//! A shard notes when each poll of a task starts and ends (two clock reads), so the longest turn and the number of stalls
//! are exact. One watcher thread looks at all shards a few times per `stall_max`; when a poll is overdue it signals that
//! thread, whose handler records where it stands, and prints the backtrace, at most one a second. The names come from the
//! debug information of the binary, which a report reads, and which is given back when no other report has followed for a
//! while: about 100 MiB. glommio's own detector costs two timer system calls and an allocation for every run of a task queue,
//! which is why it stays off.
//!
//! A thread that the kernel does not run cannot do better: the watcher also samples how much processor time each shard has
//! had, says it in the report, and counts those stalls apart.
//!
//! ```text
//!   shard    ├─ poll ─┤ ├──────────── poll ─────────────┤   turn_ns_max, stalls
//!   watcher  ·     ·     ·     ·     ·  overdue: signal → frames → stderr
//! ```

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use env::TurnStats;
use std::sync::{Arc, Once};

/// At most one report in this time: on a machine that is short of processors every turn may be late.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long the names for backtraces are kept after a report: to read them takes a good part of a second.
const SYMBOLS_KEPT: Duration = Duration::from_secs(10);
/// How seldom the watcher looks when it finds no turn running: idle shards cost next to nothing. A stall right after such a
/// time may go without a report; it is counted all the same.
const INTERVAL_MAX: Duration = Duration::from_millis(50);
/// Frames that a report holds.
const FRAMES_MAX: usize = 48;
/// The signal that asks a shard's thread for its frames. Its default is to be ignored, so a late one does no harm.
const SIGNAL: i32 = libc::SIGURG;

/// One shard's heartbeat. Written by the shard, read by the watcher.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    shard: u16,
    limit_ns: u64,
    /// When the poll that runs now has started; zero between polls.
    started_ns: AtomicU64,
    stalls: AtomicU64,
    /// Counted by the watcher.
    starved: AtomicU64,
    turn_ns_max: AtomicU64,
    thread: AtomicI32,
}

/// What a clock shows, in nanoseconds. Where a library sets this process's clocks, for tests, one may show a time before its thread began:
/// that is zero.
fn nanos(ts: &libc::timespec) -> u64 {
    let seconds = u64::try_from(ts.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000) + ts.tv_nsec.cast_unsigned()
}

pub(crate) fn now_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer; the monotonic clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    nanos(&ts)
}

impl Heartbeat {
    pub(crate) fn new(shard: u16, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            shard,
            limit_ns: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
            started_ns: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            starved: AtomicU64::new(0),
            turn_ns_max: AtomicU64::new(0),
            thread: AtomicI32::new(0),
        })
    }

    /// The calling thread is the one to watch.
    pub(crate) fn attach(&self) {
        // SAFETY: no arguments, cannot fail.
        self.thread.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    }

    /// The thread ends: it must not be signalled any more.
    pub(crate) fn detach(&self) {
        self.thread.store(0, Ordering::Relaxed);
        self.started_ns.store(0, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self) {
        self.started_ns.store(now_ns(), Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        let turn_ns = now_ns().saturating_sub(self.started_ns.load(Ordering::Relaxed));
        self.started_ns.store(0, Ordering::Relaxed);
        if turn_ns > self.turn_ns_max.load(Ordering::Relaxed) {
            self.turn_ns_max.store(turn_ns, Ordering::Relaxed);
        }
        if turn_ns > self.limit_ns {
            self.stalls
                .store(self.stalls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// How long the poll that runs now has run.
    pub(crate) fn running(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.started_ns.load(Ordering::Relaxed)))
    }

    pub(crate) fn stats(&self) -> TurnStats {
        TurnStats {
            stalls: self.stalls.load(Ordering::Relaxed),
            starved: self.starved.load(Ordering::Relaxed),
            turn_max: Duration::from_nanos(self.turn_ns_max.load(Ordering::Relaxed)),
        }
    }
}

/// The processor time that a thread of this process has had, or zero when it has ended or not begun.
fn processor_ns(thread: i32) -> u64 {
    if thread == 0 {
        // To the kernel it would be the calling thread.
        return 0;
    }
    // Per-thread, scheduler's clock: the encoding is the kernel's (`include/linux/posix-timers.h`).
    let clock = (!thread << 3) | 0b110;
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer; an unknown thread is an error that leaves zero.
    unsafe { libc::clock_gettime(clock, &raw mut ts) };
    nanos(&ts)
}

/// A shard with what the watcher saw of it last.
struct Watched {
    heartbeat: Arc<Heartbeat>,
    /// The start of the turn that ran at the last look; zero when none did.
    started_ns: u64,
    /// The processor time that the thread had had at the last look.
    processor_ns: u64,
    /// The same at the last look before that turn started.
    before_ns: u64,
    /// It has been found too long already.
    found: bool,
}

/// A turn that is too long.
struct Overdue {
    /// So far.
    running: Duration,
    /// The processor time that the thread has had in it, at most: what it had since the last look before the turn, since a
    /// turn may be too long already when it is first seen.
    ran: Duration,
}

impl Watched {
    fn new(heartbeat: Arc<Heartbeat>) -> Self {
        Self {
            heartbeat,
            started_ns: 0,
            processor_ns: 0,
            before_ns: 0,
            found: false,
        }
    }

    /// Whether a turn ran at the last look.
    fn is_busy(&self) -> bool {
        self.started_ns != 0
    }

    /// Looks whether the turn that runs now is too long; says so once for each turn.
    fn look(&mut self) -> Option<Overdue> {
        let started_ns = self.heartbeat.started_ns.load(Ordering::Relaxed);
        let processor_ns = processor_ns(self.heartbeat.thread.load(Ordering::Relaxed));
        let last_ns = core::mem::replace(&mut self.processor_ns, processor_ns);
        if started_ns != self.started_ns {
            self.started_ns = started_ns;
            self.before_ns = last_ns;
            self.found = false;
        }
        if started_ns == 0 {
            return None;
        }
        let running_ns = now_ns().saturating_sub(started_ns);
        if self.found || running_ns <= self.heartbeat.limit_ns {
            return None;
        }
        self.found = true;
        let ran_ns = processor_ns.saturating_sub(self.before_ns).min(running_ns);
        if ran_ns < running_ns / 2 {
            self.heartbeat.starved.fetch_add(1, Ordering::Relaxed);
        }
        let (running, ran) = (Duration::from_nanos(running_ns), Duration::from_nanos(ran_ns));
        Some(Overdue { running, ran })
    }
}

/// Watches a set of heartbeats until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    pub(crate) fn start(heartbeats: Vec<Arc<Heartbeat>>, limit: Duration) -> std::io::Result<Self> {
        install_handler();
        let stop = Arc::new(AtomicBool::new(false));
        let interval_min = (limit / 2).clamp(Duration::from_millis(1), INTERVAL_MAX);
        let thread = std::thread::Builder::new().name("stalls".into()).spawn({
            let stop = stop.clone();
            move || {
                let mut watched: Vec<_> = heartbeats.into_iter().map(Watched::new).collect();
                let nanos = |time: Duration| u64::try_from(time.as_nanos()).expect("short");
                let (mut next_ns, mut interval) = (0, interval_min);
                let mut symbols_until_ns = None;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(interval);
                    interval = (interval * 2).min(INTERVAL_MAX);
                    for shard in &mut watched {
                        let overdue = shard.look();
                        if shard.is_busy() {
                            interval = interval_min;
                        }
                        let Some(overdue) = overdue else { continue };
                        if now_ns() >= next_ns {
                            report(&shard.heartbeat, &overdue);
                            next_ns = now_ns() + nanos(REPORT_INTERVAL);
                            symbols_until_ns = Some(now_ns() + nanos(SYMBOLS_KEPT));
                        }
                    }
                    if symbols_until_ns.is_some_and(|until_ns| now_ns() >= until_ns) {
                        backtrace::clear_symbol_cache();
                        symbols_until_ns = None;
                    }
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A watcher that panicked has said so on stderr already.
            drop(thread.join());
        }
    }
}

/// The frames of the thread that was asked last. One report at a time: only the watcher asks.
struct Frames {
    addresses: UnsafeCell<[*mut c_void; FRAMES_MAX]>,
    count: AtomicUsize,
    asked: AtomicBool,
}

// SAFETY: the handler writes `addresses` only between `asked` being set by the watcher and `count` being stored with release
// ordering; the watcher reads them only after it has loaded that count with acquire ordering.
unsafe impl Sync for Frames {}

static FRAMES: Frames = Frames {
    addresses: UnsafeCell::new([core::ptr::null_mut(); FRAMES_MAX]),
    count: AtomicUsize::new(0),
    asked: AtomicBool::new(false),
};

extern "C" fn on_signal(_signal: i32) {
    if !FRAMES.asked.swap(false, Ordering::AcqRel) {
        return;
    }
    let mut count = 0;
    // SAFETY: one thread at a time gets here (`asked`), so the unsynchronised walk and the frames are ours. The walk
    // allocates nothing: the loader's tables were warmed when the handler was installed.
    unsafe {
        let addresses = FRAMES.addresses.get();
        backtrace::trace_unsynchronized(|frame| {
            (*addresses)[count] = frame.ip();
            count += 1;
            count < FRAMES_MAX
        });
    }
    FRAMES.count.store(count, Ordering::Release);
}

fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        backtrace::trace(|_| false);
        // SAFETY: a zeroed `sigaction` is valid; the handler does only what a handler may (see there). `SA_RESTART` keeps
        // the signal from showing in the shard's system calls.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(SIGNAL, &raw const action, core::ptr::null_mut());
        }
    });
}

fn report(late: &Heartbeat, overdue: &Overdue) {
    let limit = Duration::from_nanos(late.limit_ns);
    let Overdue { running, ran } = overdue;
    eprintln!(
        "stall: shard {} has run one task for {running:?}, the limit is {limit:?}; it had a processor for at most {ran:?} of it\n{}",
        late.shard,
        frames(late)
    );
}

/// Where the shard's thread stands, as text.
fn frames(late: &Heartbeat) -> String {
    let thread = late.thread.load(Ordering::Relaxed);
    FRAMES.count.store(0, Ordering::Relaxed);
    FRAMES.asked.store(true, Ordering::Release);
    // SAFETY: no pointers. A thread that has just ended gives an error, which is fine: there is nothing to report then.
    if thread == 0 || unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) } != 0 {
        return "  (the thread has ended)".into();
    }
    let deadline_ns = now_ns() + 50_000_000;
    let count = loop {
        let count = FRAMES.count.load(Ordering::Acquire);
        if count > 0 {
            break count;
        }
        if now_ns() > deadline_ns && FRAMES.asked.swap(false, Ordering::AcqRel) {
            return "  (the thread did not answer: it is inside the kernel)".into();
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    // SAFETY: `count` was loaded with acquire ordering after the handler stored it, and nobody has asked again.
    let addresses = unsafe { &(&(*FRAMES.addresses.get()))[..count] };
    describe(addresses)
}

/// One line per frame: from where the task stood, without the handler, to where the executor polled it.
fn describe(addresses: &[*mut c_void]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut polled = false;
    for address in addresses {
        backtrace::resolve(*address, |symbol| {
            let name = symbol
                .name()
                .map_or_else(|| "?".into(), |name| format!("{name:#}"));
            let line = symbol.lineno().unwrap_or(0);
            let file = symbol
                .filename()
                .and_then(|file| file.file_name())
                .unwrap_or_default();
            let file = file.to_string_lossy();
            let is_handler = name.contains("on_signal");
            polled |= file == "tasks.rs" && name.contains("poll");
            lines.push(format!("  {name}  ({file}:{line})"));
            if is_handler {
                lines.clear();
            }
        });
        if polled {
            break;
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_is_too_long_when_first_seen_has_had_a_processor() {
        let heartbeat = Heartbeat::new(0, Duration::ZERO);
        heartbeat.attach();
        let thread = heartbeat.thread.load(Ordering::Relaxed);
        let mut watched = Watched::new(heartbeat.clone());
        assert!(watched.look().is_none());
        heartbeat.enter();
        let before_ns = processor_ns(thread);
        while processor_ns(thread) < before_ns + 1_000_000 {}
        let overdue = watched.look().expect("it is too long");
        let wanted = Duration::from_millis(1)..=overdue.running;
        assert!(
            wanted.contains(&overdue.ran),
            "{:?} of {:?}",
            overdue.ran,
            overdue.running
        );
        assert!(watched.look().is_none(), "said once");
    }
}
