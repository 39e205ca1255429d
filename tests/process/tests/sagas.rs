//! The example `saga` of the client library over three real nodes: its runners are killed at random steps, and a node is killed and
//! started again; every saga ends complete or wholly compensated, and totals never change.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use base::Prng;
use corelane::blocking::{Db, connect_with};
use corelane::{Error, Options, TxnOptions, prefix};
use corelane_process::process::{Node, Program};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SEED: u64 = 2026;
const SAGAS: usize = 60;
const RUNNERS: usize = 3;
/// How often each runner is killed, and after how many steps at most.
const KILLS: usize = 4;
const STEPS_MAX: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(240);
/// The example's business, and of it money, seats and rooms.
const BUSINESS: [&str; 3] = ["account/", "flight/", "hotel/"];
const TOTALS: [i64; 3] = [8000, 50, 50];
const TRAVELLERS: [&str; 4] = ["ada", "grace", "edsger", "barbara"];
const CITIES: [(&str, i64, i64); 2] = [("oslo", 30, 20), ("rio", 20, 30)];

/// Traveller, city and price, by saga.
type Trips = BTreeMap<String, (&'static str, &'static str, i64)>;

fn programs(dir: &Path) -> Vec<Program> {
    Program::trio(env!("CARGO_BIN_EXE_process-node"), dir).unwrap()
}

fn saga(at: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_process-saga"));
    command.arg(at).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = String::from_utf8(stdout).unwrap();
    assert!(
        status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&stderr)
    );
    said
}

fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Everything below `keys`, at one moment.
fn rows(db: &Db, keys: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let options = TxnOptions {
        deadline: Some(PATIENCE),
        attempts_max: 10_000,
        ..TxnOptions::named("audit")
    };
    let text = |(key, value)| (String::from_utf8(key).unwrap(), value);
    db.transaction_with(&options, |txn| {
        let mut found = BTreeMap::new();
        for keys in keys {
            found.extend(txn.scan(prefix(keys), 10_000)?.into_iter().map(text));
        }
        Ok::<_, Error>(found)
    })
    .unwrap()
}

fn totals(rows: &BTreeMap<String, Vec<u8>>) -> [i64; 3] {
    BUSINESS.map(|what| {
        let of_it = rows.iter().filter(|(key, _)| key.starts_with(what));
        let count = of_it.map(|(key, value)| if key.contains("/for/") { 1 } else { number(value) });
        count.sum()
    })
}

/// A runner that is killed again and again, and then left alone to its end. Says how often it was killed.
fn runner(at: &str, mut prng: Prng, steps: &AtomicUsize) -> usize {
    let mut kills = 0;
    loop {
        let mut child = saga(at).arg("run").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let limit = if kills < KILLS {
            prng.between(1, STEPS_MAX)
        } else {
            u64::MAX
        };
        let mut seen = 0;
        while seen < limit && lines.next().transpose().unwrap().is_some() {
            steps.fetch_add(1, Ordering::Relaxed);
            seen += 1;
        }
        if seen < limit {
            assert!(child.wait().unwrap().success());
            return kills;
        }
        // In the middle of what it does next.
        std::thread::sleep(Duration::from_micros(prng.below(30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
}

/// What is to be booked: more than there are rooms, and by some who cannot pay.
fn trips(prng: &mut Prng) -> Trips {
    let trip = |n| {
        let traveller = TRAVELLERS[prng.index(TRAVELLERS.len())];
        let (city, ..) = CITIES[prng.index(CITIES.len())];
        let price = i64::try_from(prng.between(50, 200)).unwrap();
        (format!("t{n:02}"), (traveller, city, price))
    };
    (0..SAGAS).map(trip).collect()
}

/// What has to be there, key by key, when these trips were booked by complete sagas.
fn expected(trips: &Trips, complete: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut numbers = BTreeMap::from([("account/agency".to_owned(), 0)]);
    for traveller in TRAVELLERS {
        numbers.insert(format!("account/{traveller}"), 2000);
    }
    for (city, seats, rooms) in CITIES {
        numbers.insert(format!("flight/{city}/free"), seats);
        numbers.insert(format!("hotel/{city}/free"), rooms);
    }
    let mut taken = BTreeMap::new();
    for id in complete {
        let (traveller, city, price) = trips[*id];
        for (key, change) in [
            ("account/agency".to_owned(), price),
            (format!("account/{traveller}"), -price),
            (format!("flight/{city}/free"), -1),
            (format!("hotel/{city}/free"), -1),
        ] {
            *numbers.get_mut(&key).unwrap() += change;
        }
        for what in ["flight", "hotel"] {
            taken.insert(format!("{what}/{city}/for/{id}"), traveller.into());
        }
    }
    let numbers = numbers.into_iter().map(|(key, n)| (key, n.to_string().into()));
    numbers.chain(taken).collect()
}

#[test]
fn sagas_end_wholly_whoever_is_killed() {
    let dir = tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap();
    let mut prng = Prng::new(SEED);
    let programs = programs(dir.path());
    let mut nodes: Vec<Node> = programs.iter().map(|program| program.start().unwrap()).collect();
    let addresses: Vec<&str> = programs.iter().map(|program| &*program.listen).collect();
    let at = addresses.join(",");
    let options = Options {
        deadline: Duration::from_secs(60),
        ..Options::default()
    };
    let db = connect_with(&format!("corelane://{at}"), options).unwrap();
    // Each step has keys of several ranges.
    for key in ["flight/", "flight/p", "hotel/", "saga/", "saga/open/t3"] {
        db.split(key).unwrap();
    }
    output(saga(&at).arg("setup"));
    let trips = trips(&mut prng);
    let said = |(id, (traveller, city, price)): (&String, &(&str, &str, i64))| {
        format!("{id}={traveller},{city},{price}")
    };
    output(saga(&at).arg("book").args(trips.iter().map(said)));

    let steps = AtomicUsize::new(0);
    let until = Instant::now() + PATIENCE;
    let kills: usize = std::thread::scope(|scope| {
        let mut runners = Vec::new();
        for _ in 0..RUNNERS {
            let (at, prng, steps) = (&at, prng.fork(), &steps);
            runners.push(scope.spawn(move || runner(at, prng, steps)));
        }
        let victim = prng.index(nodes.len());
        let mut restarts = [(20, false), (60, true)].into_iter().peekable();
        while !runners.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert!(Instant::now() < until, "{} steps", steps.load(Ordering::Relaxed));
            let rows = rows(&db, &BUSINESS);
            assert_eq!(totals(&rows), TOTALS, "{rows:?}");
            if let Some((_, is_start)) = restarts.next_if(|(at, _)| steps.load(Ordering::Relaxed) >= *at) {
                if is_start {
                    nodes.push(programs[victim].start().unwrap());
                } else {
                    nodes.remove(victim).kill().unwrap();
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(restarts.next(), None, "a node was killed and came back");
        runners.into_iter().map(|runner| runner.join().unwrap()).sum()
    });
    println!(
        "{kills} runners were killed, {} steps were told",
        steps.into_inner()
    );
    assert!(kills >= RUNNERS * KILLS / 2, "{kills} runners were killed");

    // Somebody who comes later has nothing to do.
    assert_eq!(output(saga(&at).arg("run")), "");
    let shown = output(saga(&at).arg("show"));
    let totals = "totals: money 8000, seats 50, rooms 50";
    assert_eq!(shown.lines().last(), Some(totals), "{shown}");
    assert_eq!(shown.lines().count(), SAGAS + 1, "{shown}");
    assert_eq!(
        shown.matches(", complete\n").count() + shown.matches(", compensated, ").count(),
        SAGAS,
        "{shown}"
    );
    let is_complete = |id: &&str| {
        shown
            .lines()
            .any(|line| line.starts_with(*id) && line.ends_with(", complete"))
    };
    let complete: Vec<&str> = trips.keys().map(String::as_str).filter(is_complete).collect();
    println!("{} of {SAGAS} are complete", complete.len());
    assert!((1..SAGAS).contains(&complete.len()), "{shown}");
    // Each step happened once, or not at all.
    assert_eq!(rows(&db, &BUSINESS), expected(&trips, &complete), "{shown}");
}
