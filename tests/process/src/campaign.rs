//! Load, `kill -9`, restart, compare; again and again.

use crate::ledger::{Ledger, Resolved, Rows};
use crate::process::{Node, Program};
use crate::writer::{self, Shared, Tally, lock};
use anyhow::{Context as _, ensure};
use base::Prng;
use corelane::blocking::{Db, connect_with};
use corelane::{Options, prefix};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A deadline beyond any restart.
const PATIENT: Duration = Duration::from_secs(120);
/// A deadline that a restart may exceed, so that some writes end in doubt.
const IMPATIENT: Duration = Duration::from_millis(80);
/// A node that is killed before it is ready has run at most this long.
const EARLY_KILL_MS: u64 = 120;
/// Descriptions of violations that are kept.
const VIOLATIONS_MAX: usize = 20;

/// What to do.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The node; `--shards` is added to its options.
    pub program: Program,
    /// Decides everything but the machine's own timing.
    pub seed: u64,
    /// Times that the node is killed under load.
    pub cycles: u64,
    /// Writers, of which every second one is impatient; in `1..=99`.
    pub writers: u16,
    /// Milliseconds of load before a kill: at least and at most.
    pub load_ms: (u64, u64),
    /// Splits until there are this many ranges, and moves; `None` leaves ranges alone.
    pub ranges_max: Option<usize>,
    /// Shards are drawn anew, from one up to this, every [`Self::shards_every`] cycles.
    pub shards_max: u16,
    /// See [`Self::shards_max`].
    pub shards_every: u64,
    /// Every so many cycles all checksums of the data directory are verified before the restart.
    pub check_every: u64,
    /// Every so many cycles the node is killed once more while it recovers.
    pub early_kill_every: u64,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Kills under load.
    pub cycles: u64,
    /// Kills before the node was ready again.
    pub early_kills: u64,
    /// Starts with another number of shards than before.
    pub shard_changes: u64,
    /// Data directories verified offline, each clean.
    pub checks: u64,
    /// Rows compared, over all cycles.
    pub rows: u64,
    /// Writes in doubt that had happened, and that had not.
    pub resolved: Resolved,
    /// From the start of a process until clients could connect.
    pub restart_ms: Vec<u64>,
    /// Ranges at the end.
    pub ranges: usize,
    tally: Tally,
}

impl Summary {
    /// Writes that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.tally.acknowledged
    }

    /// What must not happen. Empty when all is well.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.tally.violations
    }

    /// All of it, for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut restarts = self.restart_ms.clone();
        restarts.sort_unstable();
        let tally = &self.tally;
        serde_json::json!({
            "verdict": if tally.violations.is_empty() { "ok" } else { "violated" },
            "cycles": self.cycles, "early_kills": self.early_kills, "shard_changes": self.shard_changes,
            "checks": self.checks, "rows_compared": self.rows, "ranges": self.ranges,
            "acknowledged": tally.acknowledged, "reads": tally.reads, "refused": tally.refused,
            "doubts": tally.doubts, "doubts_applied": self.resolved.applied, "doubts_dropped": self.resolved.dropped,
            "splits": tally.splits, "moves": tally.moves, "errors": tally.errors,
            "restart_ms_p50": restarts.get(restarts.len() / 2), "restart_ms_max": restarts.last(),
            "violations": tally.violations.iter().take(VIOLATIONS_MAX).collect::<Vec<_>>(),
        })
    }
}

impl Campaign {
    /// Runs all cycles, or until the first that finds a violation. `progress` is told the cycles done.
    ///
    /// # Errors
    /// The node does not start, ends by itself, or cannot be read.
    pub fn run(&self, progress: impl Fn(u64)) -> anyhow::Result<Summary> {
        ensure!((1..=99).contains(&self.writers), "writers must be in 1..=99");
        ensure!(
            self.load_ms.0 <= self.load_ms.1 && self.shards_max >= 1,
            "load_ms and shards_max must make sense"
        );
        let mut prng = Prng::new(self.seed);
        let mut cycle = Cycle {
            campaign: self,
            shards: self.shards_max,
            listen: self.program.listen.clone(),
            prng: prng.fork(),
            summary: Summary::default(),
        };
        let shared = Shared::default();
        shared.hold();
        let node = cycle.start(&shared)?;
        let ledgers: Vec<_> = (0..self.writers)
            .map(|writer| Mutex::new(Ledger::new(writer)))
            .collect();
        // A port that the system chose stays the same over restarts.
        cycle.listen.clone_from(&node.address);
        let address = node.address.clone();
        let connect = |deadline| {
            connect_with(
                &address,
                Options {
                    deadline,
                    ..Options::default()
                },
            )
        };
        let verifier = connect(PATIENT)?;
        // All connections first: within the scope nothing may fail before its threads are told to end.
        let patience = ledgers.iter().enumerate().map(|(at, _)| at % 2 == 0);
        let clients =
            patience.map(|patient| Ok((patient, connect(if patient { PATIENT } else { IMPATIENT })?)));
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let rearranger = self
            .ranges_max
            .map(|max| connect(IMPATIENT * 5).map(|db| (max, db)))
            .transpose()?;
        std::thread::scope(|scope| {
            let (shared, ledgers) = (&shared, &ledgers);
            for (ledger, (patient, db)) in ledgers.iter().zip(&clients) {
                let prng = prng.fork();
                scope.spawn(move || writer::run(shared, ledger, db, *patient, prng));
            }
            if let Some((ranges_max, db)) = &rearranger {
                let prng = prng.fork();
                scope.spawn(move || writer::rearrange(shared, ledgers, db, *ranges_max, prng));
            }
            let threads = ledgers.len() + usize::from(rearranger.is_some());
            let outcome = cycle.all(shared, node, ledgers, &verifier, threads, progress);
            shared.stop();
            outcome
        })?;
        cycle.summary.tally = lock(&shared.tally).clone();
        Ok(cycle.summary)
    }
}

/// The campaign under way.
struct Cycle<'a> {
    campaign: &'a Campaign,
    shards: u16,
    /// Where the node listens.
    listen: String,
    prng: Prng,
    summary: Summary,
}

impl Cycle<'_> {
    fn all(
        &mut self,
        shared: &Shared,
        mut node: Node,
        ledgers: &[Mutex<Ledger>],
        verifier: &Db,
        threads: usize,
        progress: impl Fn(u64),
    ) -> anyhow::Result<()> {
        for cycle in 1..=self.campaign.cycles {
            shared.resume();
            let (low, high) = self.campaign.load_ms;
            std::thread::sleep(Duration::from_millis(self.prng.between(low, high)));
            node.kill()?;
            shared.hold();
            shared.generation.fetch_add(1, Ordering::SeqCst);
            self.between(cycle)?;
            node = self.start(shared)?;
            ensure!(
                shared.pause(threads),
                "a client's call does not end, long after its deadline"
            );
            self.summary.cycles = cycle;
            self.compare(shared, ledgers, verifier)?;
            progress(cycle);
            if !lock(&shared.tally).violations.is_empty() {
                break;
            }
        }
        self.summary.ranges = verifier.ranges()?.len();
        let code = node.terminate()?;
        ensure!(code == 0, "an ordered end leaves {code}");
        self.check_offline()
    }

    /// What may happen to a data directory without a process.
    fn between(&mut self, cycle: u64) -> anyhow::Result<()> {
        if cycle.is_multiple_of(self.campaign.check_every) {
            self.check_offline()?;
        }
        if cycle.is_multiple_of(self.campaign.shards_every) {
            let before = self.shards;
            self.shards = u16::try_from(self.prng.between(1, u64::from(self.campaign.shards_max)))?;
            self.summary.shard_changes += u64::from(before != self.shards);
        }
        if cycle.is_multiple_of(self.campaign.early_kill_every) {
            let node = self.program().spawn()?;
            std::thread::sleep(Duration::from_millis(self.prng.below(EARLY_KILL_MS)));
            node.kill().context("while it recovers")?;
            self.summary.early_kills += 1;
        }
        Ok(())
    }

    fn program(&self) -> Program {
        let mut program = self.campaign.program.clone();
        program.listen.clone_from(&self.listen);
        program
            .options
            .extend(["--shards".to_owned(), self.shards.to_string()]);
        program
    }

    fn start(&mut self, shared: &Shared) -> anyhow::Result<Node> {
        shared.shards.store(self.shards, Ordering::SeqCst);
        let began = Instant::now();
        let node = self.program().start()?;
        self.summary
            .restart_ms
            .push(u64::try_from(began.elapsed().as_millis())?);
        Ok(node)
    }

    /// Compares everything that the node holds with the ledgers, while no writer writes.
    fn compare(&mut self, shared: &Shared, ledgers: &[Mutex<Ledger>], verifier: &Db) -> anyhow::Result<()> {
        let generation = shared.generation.load(Ordering::SeqCst);
        for ledger in ledgers {
            let mut ledger = lock(ledger);
            let scan = verifier.scan(prefix(ledger.prefix())).rows();
            let rows = scan
                .map(|row| row.map(|row| (row.key, row.value)))
                .collect::<Result<Rows, _>>()?;
            self.summary.rows += rows.len() as u64;
            match ledger.check(&rows, generation) {
                Ok(resolved) => {
                    self.summary.resolved.applied += resolved.applied;
                    self.summary.resolved.dropped += resolved.dropped;
                }
                Err(found) => {
                    lock(&shared.tally)
                        .violations
                        .extend(found.iter().map(ToString::to_string));
                }
            }
        }
        Ok(())
    }

    /// Verifies every checksum of the data directory.
    fn check_offline(&mut self) -> anyhow::Result<()> {
        let program = &self.campaign.program;
        let data = program
            .data
            .to_str()
            .context("the data directory's name is UTF-8")?;
        let output = program.run(&["check", data])?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "damage on disk\n{}{}",
            said(&output.stdout),
            said(&output.stderr)
        );
        self.summary.checks += 1;
        Ok(())
    }
}
