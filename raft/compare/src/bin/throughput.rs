//! Entries per second of three replicas in one thread: corelane-raft beside the `raft` crate, in one loop.
//!
//! The `raft` crate runs twice: told to gather what it sends, as ours always does, and with its defaults.
//!
//! ```text
//!   loop:  the leader is given proposals of 100 bytes until `window` are outstanding
//!          each replica steps what has arrived, writes (durable at once), sends, applies
//! ```
//! An entry counts when the leader applies it. Both logs are compacted alike. Nothing is encoded, nothing leaves the process.
//!
//! - `throughput [SECONDS]`: a table; the runs of both are interleaved, SECONDS each (default 1), five of each.
//! - `throughput ours|theirs WINDOW ENTRIES`: one run and nothing else, to count its instructions; `instructions.sh` does.

use corelane_raft_compare::{Ours, Replica, Theirs};
use std::hint::black_box;
use std::time::{Duration, Instant};

const PAYLOAD: [u8; 100] = [7; 100];
const WINDOWS: [u64; 3] = [1, 64, 4096];
const ROUNDS: usize = 5;
/// Applied entries that stay in the log, and how many more make it worth a cut.
const KEEP: u64 = 8192;
const CUT: u64 = 8192;

/// Three replicas, and what is under way to each.
struct Group<R: Replica> {
    replicas: [R; 3],
    inboxes: [Vec<(u64, R::Message)>; 3],
    out: Vec<(u64, R::Message)>,
    outstanding: u64,
    since_cut: u64,
}

impl<R: Replica> Group<R> {
    /// The first replica leads, and all is quiet.
    fn new() -> Self {
        let mut group = Self {
            replicas: [1, 2, 3].map(|id| R::new(id, 3)),
            inboxes: Default::default(),
            out: Vec::new(),
            outstanding: 0,
            since_cut: 0,
        };
        group.replicas[0].campaign(2);
        for _ in 0..20 {
            group.turn();
        }
        assert!(group.replicas[0].leads(), "it was not elected");
        group
    }

    /// One turn of each replica. Says how many entries the leader applied.
    fn turn(&mut self) -> u64 {
        let mut applied = 0;
        for (at, from) in [(0, 1), (1, 2), (2, 3)] {
            let mut inbox = std::mem::take(&mut self.inboxes[at]);
            for (from, message) in inbox.drain(..) {
                self.replicas[at].step(from, message);
            }
            self.inboxes[at] = inbox;
            let count = self.replicas[at].turn(&mut self.out, None);
            if at == 0 {
                applied = count;
            }
            for (to, message) in self.out.drain(..) {
                let to = usize::try_from(to - 1).expect("one of three");
                self.inboxes[to].push((from, message));
            }
        }
        applied
    }

    /// Fills the window, and takes a turn.
    fn drive(&mut self, window: u64) -> u64 {
        while self.outstanding < window {
            assert!(
                self.replicas[0].propose(black_box(&PAYLOAD)),
                "a proposal was refused"
            );
            self.outstanding += 1;
        }
        let applied = self.turn();
        self.outstanding -= applied;
        self.since_cut += applied;
        if self.since_cut >= CUT {
            self.since_cut = 0;
            for replica in &mut self.replicas {
                replica.compact(KEEP);
            }
        }
        applied
    }

    fn drive_entries(&mut self, window: u64, entries: u64) {
        let mut applied = 0;
        while applied < entries {
            applied += self.drive(window);
        }
    }
}

/// Nanoseconds per entry.
fn measure<R: Replica>(window: u64, time: Duration) -> f64 {
    let mut group = Group::<R>::new();
    group.drive_entries(window, 20_000);
    let begin = Instant::now();
    let mut applied = 0;
    loop {
        for _ in 0..64 {
            applied += group.drive(window);
        }
        let elapsed = begin.elapsed();
        if elapsed >= time {
            return elapsed.as_secs_f64() * 1e9 / applied as f64;
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(time: Duration) {
    println!(
        "three replicas, one thread, 100-byte payloads; medians of {ROUNDS} interleaved runs of {time:?}\n"
    );
    println!("| window | core | entries/s | ns/entry | to ours |\n|---|---|---|---|---|");
    for window in WINDOWS {
        let measures = [measure::<Ours>, measure::<Theirs>, measure::<Theirs<false>>];
        let names = [Ours::NAME, Theirs::<true>::NAME, Theirs::<false>::NAME];
        let mut runs = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (runs, measure) in runs.iter_mut().zip(measures) {
                runs.push(measure(window, time));
            }
        }
        let medians = runs.map(median);
        for (name, ns) in names.into_iter().zip(medians) {
            let ratio = ns / medians[0];
            println!("| {window} | {name} | {:.0} | {ns:.1} | {ratio:.2} |", 1e9 / ns);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse().expect("a number");
    match &arguments[..] {
        [] => table(Duration::from_secs(1)),
        [seconds] => table(Duration::from_secs_f64(seconds.parse().expect("seconds"))),
        [core, window, entries] if core == "ours" => {
            Group::<Ours>::new().drive_entries(number(window), number(entries));
        }
        [core, window, entries] if core == "theirs" => {
            Group::<Theirs>::new().drive_entries(number(window), number(entries));
        }
        _ => panic!("throughput [SECONDS] | throughput ours|theirs WINDOW ENTRIES"),
    }
}
