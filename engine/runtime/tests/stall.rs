//! The stall detector sees a task that keeps its thread, and nothing else.
#![cfg(not(loom))]

use core::time::Duration;
use corelane_runtime::{GlommioEnv, RingMailbox, RuntimeConfig, run_shards};
use env::{Clock as _, Env as _, Tasks as _};

#[test]
fn a_task_that_keeps_its_thread_is_counted_and_reported() {
    let limit = Duration::from_millis(40);
    let config = RuntimeConfig {
        shards: 1,
        pin: false,
        stall_max: limit,
        ..RuntimeConfig::new(std::env::temp_dir())
    };
    run_shards(&config, move |env: GlommioEnv, _: RingMailbox<()>| async move {
        let clock = env.clock();
        let hold = |time: Duration| {
            let start = clock.now();
            while clock.now().since(start) < time {
                std::hint::spin_loop();
            }
        };
        // Busy for long, but never for long without a yield: no stall.
        for _ in 0..20 {
            hold(Duration::from_millis(4));
            env.tasks().yield_now().await;
        }
        let before = env.tasks().turn_stats().stalls;
        hold(2 * limit);
        assert!(env.tasks().need_yield());
        env.tasks().yield_now().await;
        assert!(!env.tasks().need_yield());
        let after = env.tasks().turn_stats();
        assert_eq!(after.stalls, before + 1);
        assert!(after.turn_max >= 2 * limit, "{after:?}");
        Ok::<(), String>(())
    })
    .unwrap();
    // The report itself goes to stderr, from the watcher; that it names the task is checked where output can be read.
}

/// Runs the test above in a process of its own and reads its stderr.
#[test]
fn the_report_says_where_the_task_stood() {
    let name = "a_task_that_keeps_its_thread_is_counted_and_reported";
    let binary = std::env::current_exe().unwrap();
    let output = std::process::Command::new(binary)
        .args(["--exact", name, "--nocapture"])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    assert!(err.contains("stall: shard 0 has run one task for"), "{err}");
    assert!(
        err.contains(&format!("stall::{name}")) || err.contains("(stall.rs:"),
        "{err}"
    );
    assert!(
        !err.contains("on_signal"),
        "the handler's own frames are left out: {err}"
    );
}
