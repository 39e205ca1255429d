//! Threads of the load generator: where they run, and what keeps the processors awake beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::BenchError;

/// Pins the calling thread to one processor.
pub(crate) fn pin(cpu: usize) -> Result<(), BenchError> {
    if cpu >= CpuSet::MAX_CPU {
        let (value, high) = (cpu as u64, CpuSet::MAX_CPU as u64 - 1);
        return Err(BenchError::Setting {
            name: "cpus",
            value,
            low: 0,
            high,
        });
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|errno| BenchError::Local {
        operation: "pin a thread to a processor",
        source: errno.into(),
    })
}

/// One thread of lowest priority per processor that does nothing, so that no processor halts.
///
/// Waking a halted virtual processor costs tens of microseconds: more than a round trip. With spinners, latency at depth
/// one is that of the software. They take what nobody else wants, and the scheduler's smallest share of the rest.
pub(crate) struct Spinners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Spinners {
    /// Starts one per processor.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut spinners = Self {
            stop,
            threads: Vec::new(),
        };
        for cpu in 0..thread::available_parallelism().map_or(1, usize::from) {
            let stop = Arc::clone(&spinners.stop);
            let spin = move || {
                // A spinner that could not be lowered or pinned would compete with what is measured: it ends instead.
                let lowered = rustix::process::setpriority_process(None, 19).is_ok();
                if lowered && pin(cpu).is_ok() {
                    while !stop.load(Ordering::Relaxed) {
                        core::hint::spin_loop();
                    }
                }
            };
            let thread = thread::Builder::new()
                .name("spinner".to_owned())
                .spawn(spin)
                .map_err(|source| BenchError::Local {
                    operation: "start a thread",
                    source,
                })?;
            spinners.threads.push(thread);
        }
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A spinner has nothing to report, and nothing in it panics.
            let _ = thread.join();
        }
    }
}
