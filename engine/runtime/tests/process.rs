//! What a process of shards does as a whole: it starts whatever the machine is doing, ends when it is asked to, and shares
//! ports within but not across processes.
#![cfg(not(loom))]
#![allow(unsafe_code, reason = "signals are sent by a system call")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use base::ShardId;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use corelane_runtime::{
    GlommioEnv, RingMailbox, RuntimeConfig, RuntimeError, run_shards, shutdown_requested,
};
use env::{Clock as _, Env as _, Mailbox as _, Net as _, TaskClass, Tasks as _};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

const CHILD: &str = "CORELANE_PROCESS_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The test `name` in a process of its own, where [`is_child`] says true.
fn child(name: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether `child` ends well within `time`; one that does not is killed.
fn ends_within(child: &mut Child, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

fn config(shards: u16) -> RuntimeConfig {
    RuntimeConfig {
        shards,
        pin: false,
        ..RuntimeConfig::new(std::env::temp_dir())
    }
}

/// glommio 0.9.0 parks an executor whose preemption timer fires before its first task runs: with that timer at 1 ms and busy
/// processors about one start in fifteen hung for ever.
#[test]
fn shards_start_and_run_on_a_busy_machine() {
    if !is_child() {
        let mut child = child("shards_start_and_run_on_a_busy_machine");
        assert!(
            ends_within(&mut child, Duration::from_secs(60)),
            "a shard sleeps with tasks ready"
        );
        return;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let spinners: Vec<_> = (0..2 * std::thread::available_parallelism().unwrap().get())
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for _ in 0..30 {
        run_shards(
            &config(2),
            |env: GlommioEnv, mailbox: RingMailbox<u64>| async move {
                let other = ShardId(1 - mailbox.shard().0);
                for trip in 0..5 {
                    env.clock().sleep(Duration::from_micros(200)).await;
                    mailbox.try_send(other, trip).unwrap();
                    mailbox.flush();
                    while mailbox.try_receive().is_none() {
                        mailbox.readable().await;
                    }
                }
                Ok::<(), String>(())
            },
        )
        .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    spinners.into_iter().for_each(|spinner| spinner.join().unwrap());
}

#[test]
fn a_signal_ends_all_shards_in_order() {
    if is_child() {
        run_shards(
            &config(2),
            |env: GlommioEnv, mailbox: RingMailbox<u64>| async move {
                // A task that would never end by itself ends with its shard.
                let tasks = env.tasks().clone();
                env.tasks().spawn(TaskClass::Background, async move {
                    loop {
                        tasks.yield_now().await;
                    }
                });
                if mailbox.shard() == ShardId(0) {
                    println!("ready");
                }
                shutdown_requested().await;
                Ok::<(), String>(())
            },
        )
        .unwrap();
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut child = child("a_signal_ends_all_shards_in_order");
        // Kept until the end: the child goes on writing.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines
                .by_ref()
                .map_while(Result::ok)
                .any(|line| line.ends_with("ready"))
        );
        let process = i32::try_from(child.id()).unwrap();
        // SAFETY: no pointers; the child has not been waited for, so its number is its own.
        let sent = unsafe { libc::kill(process, signal) };
        assert_eq!(sent, 0);
        assert!(
            ends_within(&mut child, Duration::from_secs(20)),
            "signal {signal} did not end it"
        );
    }
}

#[test]
fn a_failed_shard_ends_the_others() {
    if !is_child() {
        assert!(ends_within(
            &mut child("a_failed_shard_ends_the_others"),
            Duration::from_secs(20)
        ));
        return;
    }
    let outcome = run_shards(
        &config(2),
        |_: GlommioEnv, mailbox: RingMailbox<u64>| async move {
            if mailbox.shard() == ShardId(1) {
                return Err("the disk is on fire");
            }
            shutdown_requested().await;
            Ok(())
        },
    );
    assert_eq!(
        outcome,
        Err(RuntimeError::Shard {
            shard: 1,
            reason: "the disk is on fire".into()
        })
    );
}

#[test]
fn a_port_taken_elsewhere_is_an_error() {
    if !is_child() {
        assert!(ends_within(
            &mut child("a_port_taken_elsewhere_is_an_error"),
            Duration::from_secs(20)
        ));
        return;
    }
    // Bound behind the runtime's back, as another process would.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    run_shards(
        &config(1),
        move |env: GlommioEnv, _: RingMailbox<u64>| async move {
            let error = env.net().listen(address).map(drop).unwrap_err();
            assert_eq!(error.kind, std::io::ErrorKind::AddrInUse);
            Ok::<(), String>(())
        },
    )
    .unwrap();
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    for (shards, messages) in [(0, 64), (257, 64), (1, 63)] {
        let config = RuntimeConfig {
            mailbox_messages: messages,
            ..config(shards)
        };
        let make = |_: GlommioEnv, _: RingMailbox<u64>| async { Ok::<(), String>(()) };
        let refused = run_shards(&config, make).unwrap_err();
        assert!(matches!(refused, RuntimeError::Config(_)), "{refused:?}");
    }
}
