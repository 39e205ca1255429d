//! The load generator against a small server that speaks RESP and misbehaves on request.
//!
//! Nothing here depends on how fast the machine is: what is asserted are counts, and lower bounds of waiting times that the
//! server really takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base::collections::FastMap;
use corelane_bench::{
    BenchConfig, BenchError, Distribution, Pace, Protocol, Target, Workload, report_html, run,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Honest,
    /// Sleeps once, this long, when it has answered this many gets.
    Stalls(u64, Duration),
    /// Gives another record's value.
    WrongValues,
    /// Refuses every write.
    Full,
    /// Closes a connection after this many gets.
    Closes(u64),
    /// Answers a get by bytes that are not RESP.
    Garbage,
}

#[derive(Default)]
struct Store {
    values: Mutex<FastMap<Vec<u8>, Vec<u8>>>,
    gets: AtomicU64,
    stalled: AtomicBool,
}

fn serve(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let store = Arc::new(Store::default());
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            // A client that goes away ends its thread; the test looks at the client's side.
            thread::spawn(move || converse(socket, &store, behaviour));
        }
    });
    address
}

fn converse(mut socket: TcpStream, store: &Store, behaviour: Behaviour) -> Option<()> {
    let mut received = Vec::new();
    let mut chunk = [0; 16 << 10];
    let mut gets = 0;
    loop {
        let count = socket.read(&mut chunk).ok().filter(|&count| count > 0)?;
        received.extend_from_slice(&chunk[..count]);
        let mut answers = Vec::new();
        while let Some((words, used)) = command(&received) {
            received.drain(..used);
            if words[0] == b"GET" {
                gets += 1;
                if behaviour == Behaviour::Closes(gets) {
                    return None;
                }
            }
            answer(&words, store, behaviour, &mut answers);
        }
        socket.write_all(&answers).ok()?;
    }
}

/// One whole command and the bytes it takes.
fn command(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let number = |at: usize| {
        let end = bytes[at..].windows(2).position(|pair| pair == b"\r\n")? + at;
        Some((
            std::str::from_utf8(&bytes[at + 1..end])
                .ok()?
                .parse::<usize>()
                .ok()?,
            end + 2,
        ))
    };
    let (count, mut at) = number(0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, start) = number(at)?;
        words.push(bytes.get(start..start + length)?.to_vec());
        at = start + length + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}

fn answer(words: &[Vec<u8>], store: &Store, behaviour: Behaviour, out: &mut Vec<u8>) {
    let bulk = |out: &mut Vec<u8>, value: &[u8]| {
        out.extend(format!("${}\r\n", value.len()).bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    match (words[0].as_slice(), behaviour) {
        (b"ECHO", _) => bulk(out, &words[1]),
        (b"SET", Behaviour::Full) => out.extend_from_slice(b"-OOM no room\r\n"),
        (b"SET", _) => {
            store
                .values
                .lock()
                .expect("no holder panics")
                .insert(words[1].clone(), words[2].clone());
            out.extend_from_slice(b"+OK\r\n");
        }
        (b"GET", Behaviour::Garbage) => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        (b"GET", Behaviour::WrongValues) => bulk(out, &[0xee; 100]),
        (b"GET", _) => {
            let gets = store.gets.fetch_add(1, Ordering::Relaxed) + 1;
            if let Behaviour::Stalls(at, time) = behaviour
                && gets >= at
                && !store.stalled.swap(true, Ordering::Relaxed)
            {
                thread::sleep(time);
            }
            match store.values.lock().expect("no holder panics").get(&words[1]) {
                Some(value) => bulk(out, value),
                None => out.extend_from_slice(b"$-1\r\n"),
            }
        }
        (other, _) => panic!("the load generator sent {}", other.escape_ascii()),
    }
}

fn config(workload: Workload, behaviour: Behaviour) -> BenchConfig {
    let target = Target {
        protocol: Protocol::Redis,
        address: serve(behaviour),
    };
    let mut config = BenchConfig::new(workload, target);
    config.records.count = 500;
    config.warmup = Duration::from_millis(50);
    config.duration = Duration::from_millis(300);
    config.runs = 1;
    config.load.outstanding = 4;
    config
}

#[test]
fn loaded_records_are_all_found_again() {
    for workload in [
        Workload::Get,
        Workload::YcsbA,
        Workload::YcsbB,
        Workload::YcsbC,
        Workload::YcsbF,
    ] {
        let mut config = config(workload, Behaviour::Honest);
        config.load.threads = 2;
        let outcome = run(&config).unwrap();
        let run = &outcome.series[0].runs[0];
        assert!(run.answers > 0, "{workload:?}");
        assert_eq!(
            (run.failed, run.missing, run.overdue),
            (0, 0, 0),
            "{workload:?}: {:?}",
            run.first_failure
        );
        assert_eq!(outcome.loading.len(), 1);
        assert!(report_html(&outcome).contains("</html>"));
    }
}

#[test]
fn inserts_of_earlier_runs_are_read_in_later_ones() {
    let mut config = config(Workload::YcsbD, Behaviour::Honest);
    config.runs = 3;
    let outcome = run(&config).unwrap();
    for run in &outcome.series[0].runs {
        assert!(run.answers > 0);
        assert_eq!((run.failed, run.missing), (0, 0), "{:?}", run.first_failure);
    }
}

#[test]
fn records_that_were_never_written_are_reported_missing() {
    let mut config = config(Workload::Get, Behaviour::Honest);
    config.records.load = false;
    let outcome = run(&config).unwrap();
    let run = &outcome.series[0].runs[0];
    assert!(run.missing >= run.answers && run.answers > 0, "{run:?}");
}

#[test]
fn wrong_values_are_failures_and_not_figures() {
    let outcome = run(&config(Workload::Get, Behaviour::WrongValues)).unwrap();
    let run = &outcome.series[0].runs[0];
    assert_eq!(run.answers, 0);
    assert!(run.failed > 0);
    assert!(
        run.first_failure
            .as_deref()
            .unwrap()
            .starts_with("wrong value of 100 bytes"),
        "{:?}",
        run.first_failure
    );
}

#[test]
fn a_stall_shows_in_an_open_loop_for_every_request_that_was_due_meanwhile() {
    let stall = Duration::from_millis(400);
    let mut config = config(Workload::Get, Behaviour::Stalls(60, stall));
    config.load.pace = Pace::Open { per_second: 400.0 };
    config.load.connections = 1;
    config.load.outstanding = 1;
    config.duration = Duration::from_secs(1);
    let outcome = run(&config).unwrap();
    let run = &outcome.series[0].runs[0];
    // 400 requests are meant to start in the window; 160 of them while the server sleeps. A closed loop, or a clock that
    // starts at sending, would see one slow request. Requests due in the first half of the stall wait at least half of it.
    let measured = run.answers.max(run.overdue);
    assert!(measured > 0);
    assert!(run.latency.max_ns >= 390_000_000, "{:?}", run.latency);
    assert!(run.latency.p90_ns >= 200_000_000, "{:?}", run.latency);
    assert!(run.lag_p99_ns >= 200_000_000, "{} ns", run.lag_p99_ns);
}

#[test]
fn a_server_that_never_wakes_up_leaves_overdue_requests_with_the_time_they_waited() {
    let mut config = config(Workload::Get, Behaviour::Stalls(1, Duration::from_secs(3600)));
    config.load.pace = Pace::Open { per_second: 100.0 };
    config.load.connections = 1;
    config.load.outstanding = 8;
    let outcome = run(&config).unwrap();
    let run = &outcome.series[0].runs[0];
    assert_eq!(run.answers, 0);
    // Every request that was due in the 300 ms of the window, sent or not; they were waited for until the drain ended.
    assert_eq!(run.overdue, 30);
    assert!(run.latency.p50_ns >= 5_000_000_000, "{:?}", run.latency);
}

#[test]
fn a_broken_connection_ends_the_bench_with_its_reason() {
    for (behaviour, part) in [
        (Behaviour::Closes(5), "closed"),
        (Behaviour::Garbage, "unexpected type byte 0x48"),
    ] {
        let error = run(&config(Workload::Get, behaviour)).unwrap_err();
        assert!(
            matches!(&error, BenchError::Broken { reason, .. } if reason.contains(part)),
            "{error}"
        );
    }
}

#[test]
fn loading_gives_up_on_a_server_that_refuses_every_write() {
    let error = run(&config(Workload::Get, Behaviour::Full)).unwrap_err();
    assert!(
        matches!(&error, BenchError::Refused { message, .. } if message == "OOM no room"),
        "{error}"
    );
}

#[test]
fn two_targets_are_measured_in_turn() {
    let mut config = config(Workload::Get, Behaviour::Honest);
    config.against = Some(Target {
        protocol: Protocol::Redis,
        address: serve(Behaviour::Honest),
    });
    config.runs = 2;
    config.records.distribution = Some(Distribution::Zipfian);
    let outcome = run(&config).unwrap();
    assert_eq!(
        outcome
            .series
            .iter()
            .map(|series| series.runs.len())
            .collect::<Vec<_>>(),
        [2, 2]
    );
    let names: Vec<&str> = outcome
        .ratios
        .iter()
        .filter_map(|ratio| ratio.name.rsplit(", ").next())
        .collect();
    assert!(
        names.contains(&"throughput") && names.contains(&"p99"),
        "{names:?}"
    );
}

#[test]
fn what_cannot_run_is_refused_before_it_starts() {
    let mut wrong = config(Workload::Scan, Behaviour::Honest);
    assert!(matches!(
        run(&wrong),
        Err(BenchError::Unsupported { workload: "scan", .. })
    ));
    wrong.load.outstanding = 0;
    assert!(matches!(
        run(&wrong),
        Err(BenchError::Setting {
            name: "outstanding",
            value: 0,
            ..
        })
    ));
    wrong.load.outstanding = 1;
    wrong.load.pace = Pace::Open { per_second: f64::NAN };
    assert!(matches!(run(&wrong), Err(BenchError::Rate { .. })));
    let nobody = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    wrong = config(Workload::Get, Behaviour::Honest);
    wrong.target.address = nobody;
    assert!(matches!(run(&wrong), Err(BenchError::Connect { .. })));
}
