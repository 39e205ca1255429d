//! What two shards with nothing to do cost: `cargo run --release -p corelane-runtime --example idle`
#![allow(unsafe_code, reason = "reads the process's clock")]
#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use core::time::Duration;
use corelane_runtime::{GlommioEnv, RingMailbox, RuntimeConfig, run_shards};
use env::{Clock as _, Env as _, Mailbox as _};

fn cpu_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut ts) };
    ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned()
}

fn main() {
    const SECONDS: u64 = 5;
    let config = RuntimeConfig {
        shards: 2,
        ..RuntimeConfig::new(std::env::temp_dir())
    };
    run_shards(&config, |env: GlommioEnv, mailbox: RingMailbox<()>| async move {
        let before_ns = cpu_ns();
        env.clock().sleep(Duration::from_secs(SECONDS)).await;
        if mailbox.shard().0 == 0 {
            let share = (cpu_ns() - before_ns) / (SECONDS * 10_000);
            println!(
                "two idle shards use {}.{:03} % of one processor",
                share / 1000,
                share % 1000
            );
        }
        Ok::<(), String>(())
    })
    .unwrap();
}
