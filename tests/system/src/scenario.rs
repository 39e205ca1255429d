//! What a seed draws.

use crate::SHARDS_MAX;
use crate::client::Habits;
use crate::flips::Flips;
use crate::history::Keys;
use base::Prng;
use core::time::Duration;
use env::Address;
use log::LogConfig;
use node::{NodeConfig, Placement};
use sim::{DiskConfig, SimConfig};
use storage::{Compression, StorageConfig};

/// What kind of faults a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Crashes, network, clocks, rings, slow disks: everything that a node survives without a word.
    Survivable,
    /// Also failing reads, writes and syncs, and a full disk: the node stops itself and is started again.
    Errors,
    /// Also damage: rot, lost, misdirected and stale I/O. The node may refuse, naming the file; it must not lie. After a
    /// lost or misdirected *write* the history is not judged, only every value: see [`crate::run`].
    Damage,
}

/// How often each kind of call is made, in relation to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kinds of calls")]
pub struct Mix {
    pub get: u64,
    pub get_past: u64,
    pub put: u64,
    pub delete: u64,
    pub delete_range: u64,
    pub batch: u64,
    pub batch_wide: u64,
    pub conditional: u64,
    pub scan: u64,
    pub scan_past: u64,
    pub split: u64,
    pub merge: u64,
    pub move_range: u64,
    pub place: u64,
    pub range_map: u64,
    pub status: u64,
    pub get_stale: u64,
    pub scan_stale: u64,
}

/// Everything that a run is made of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// What may go wrong.
    pub mode: Mode,
    /// The simulator.
    pub sim: SimConfig,
    /// The node.
    pub node: NodeConfig,
    /// Nodes.
    pub nodes: u16,
    /// How many of them have the first range.
    pub founders: u16,
    /// Shards of each node at the first start.
    pub shards: Vec<u16>,
    /// That a restart draws another number of shards.
    pub reshard: f64,
    /// The failure detector of a cluster.
    pub liveness: liveness::Config,
    /// The tick of a cluster's groups.
    pub tick: Duration,
    /// How a cluster looks after its replicas, if it does.
    pub placement: Option<Placement>,
    /// That policies are set where replicas are looked after.
    pub policies: bool,
    /// That tellers of a bank run transactions beside everything.
    pub bank: bool,
    /// How far behind the clock a cluster's ranges are closed.
    pub closed_lag: Duration,
    /// How often its nodes hear of that.
    pub closed_interval: Duration,
    /// Keys.
    pub keys: Keys,
    /// Bytes of a value's filler, mostly below.
    pub value_bytes: u32,
    /// That a value is up to thirty times as long.
    pub value_long: f64,
    /// Keys that most calls go to.
    pub hot_keys: u16,
    /// Calls.
    pub mix: Mix,
    /// Client sessions.
    pub clients: u16,
    /// Calls that each has open.
    pub outstanding: u16,
    /// How each behaves.
    pub habits: Habits,
    /// Calls in all.
    pub calls: u64,
    /// A crash, or another trouble of nodes, after so many calls, on average.
    pub crash_every: u64,
    /// That a crash follows while the node still recovers.
    pub crash_again: f64,
    /// Bits that turn around on the disk of one node.
    pub flips: Option<Flips>,
    /// That disks of nodes are slow for a while, or have less room than the nodes keep free.
    pub ailing: bool,
    /// That nodes are of several builds, and are upgraded.
    pub upgrades: Option<Upgrades>,
    /// How long the first phase lasts at most.
    pub storm: Duration,
    /// How long every call that is open may take in the second phase.
    pub finish: Duration,
}

/// How nodes of an older and of a newer build are together in a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Upgrades {
    /// By node: whether it begins as an older build.
    pub old: Vec<bool>,
    /// By node: whether it is not started before others have been running for a while.
    pub late: Vec<bool>,
    /// A node is stopped and started as another build after so many calls, on average.
    pub every: u64,
    /// That one of the newer build then goes back, where it can.
    pub back: f64,
}

/// The port that the node listens at.
pub const PORT: u16 = 7400;

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x7379_7374_656d_0001);
        let mode = match prng.below(10) {
            0..5 => Mode::Survivable,
            5..8 => Mode::Errors,
            _ => Mode::Damage,
        };
        let mut scenario = Self::draw_mode(seed, mode, &mut prng);
        (scenario.mix.get_stale, scenario.mix.scan_stale) = (prng.below(5), prng.below(3));
        scenario
    }

    /// A scenario of a given mode.
    ///
    /// # Panics
    /// Never: what is drawn fits its type.
    #[must_use]
    pub fn draw_mode(seed: u64, mode: Mode, prng: &mut Prng) -> Self {
        let swarm = SimConfig::swarm(seed);
        let mut sim = match mode {
            Mode::Survivable => swarm.without_damage().without_disk_errors(),
            Mode::Errors => swarm.without_damage(),
            Mode::Damage => swarm,
        };
        match mode {
            Mode::Survivable => {}
            Mode::Errors if prng.chance(0.3) => {
                sim.disk.capacity_bytes = Some(prng.between(512 << 10, 3 << 20));
            }
            Mode::Errors => {}
            Mode::Damage => more_damage(&mut sim.disk, prng),
        }
        let calls = 2_000 + prng.below(1_000);
        let shards = 1 + u16::try_from(prng.below(u64::from(SHARDS_MAX))).expect("drawn below");
        let keys = Keys {
            groups: 2 + small(prng.below(10)),
            per_group: 2 + small(prng.below(20)),
            padding: if prng.chance(0.2) {
                small(prng.below(300))
            } else {
                0
            },
        };
        Self {
            seed,
            mode,
            node: NodeConfig {
                spill_bytes: spill_bytes(seed),
                ..node_config(prng)
            },
            sim,
            nodes: 1,
            founders: 1,
            shards: vec![shards],
            reshard: if prng.chance(0.5) { prng.unit() } else { 0.0 },
            liveness: liveness::Config::default(),
            tick: Duration::from_millis(10),
            placement: None,
            policies: false,
            // From numbers of its own: what else a seed draws is older.
            bank: mode != Mode::Damage && Prng::new(seed ^ 0x6261_6e6b_0000_0001).chance(0.5),
            closed_lag: Duration::from_millis(100),
            closed_interval: Duration::from_millis(200),
            keys,
            value_bytes: 1 << prng.below(10),
            value_long: if prng.chance(0.3) { 0.02 } else { 0.0 },
            hot_keys: 1 + small(prng.below(u64::from(keys.count()))),
            mix: Mix::draw(prng, mode),
            clients: 1 + small(prng.below(4)),
            outstanding: 1 + small(prng.below(8)),
            habits: Habits {
                patience: Duration::from_millis(prng.between(50, 5_000)),
                deadline_ms: u32::try_from(prng.between(5, 10_000)).expect("drawn below"),
                hang_up: prng.unit(),
                give_up: if prng.chance(0.5) { prng.unit() * 0.5 } else { 0.0 },
                picks_shard: prng.chance(0.7),
            },
            calls,
            crash_every: calls / prng.between(2, 12),
            crash_again: if prng.chance(0.5) { prng.unit() * 0.7 } else { 0.0 },
            flips: None,
            ailing: false,
            upgrades: None,
            storm: Duration::from_secs(60),
            finish: Duration::from_secs(60),
        }
    }

    /// A scenario with a cluster of three or five nodes.
    #[must_use]
    pub fn draw_cluster(seed: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x636c_7573_7465_0001);
        let mode = if prng.chance(0.7) {
            Mode::Survivable
        } else {
            Mode::Errors
        };
        let mut scenario = Self::draw_mode(seed, mode, &mut prng);
        scenario.nodes = 3 + small(prng.below(3));
        scenario.founders = match scenario.nodes {
            5 if prng.chance(0.5) => 5,
            _ => 3,
        };
        // More nodes have more troubles.
        scenario.crash_every = (scenario.crash_every / prng.between(1, 3)).max(20);
        scenario.mix.place = if prng.chance(0.6) { 1 + prng.below(3) } else { 0 };
        let clock = &mut scenario.sim.clock;
        clock.offset_ns_max %= 100_000_000;
        clock.jump_past_bound = 0.0;
        // Two clocks are off in different directions, and one that is set back stands still meanwhile.
        let bound_ns = clock.offset_ns_max * 2 + 1_000_000;
        let beat_ns = prng.between(1_000_000, 200_000_000);
        scenario.liveness = liveness::Config {
            beat_ns,
            beat_ns_max: beat_ns * prng.between(1, 8),
            // A promise must outlive the round trip that brings it, by more than clocks may differ.
            support_ns: bound_ns + beat_ns * 2 + prng.between(150_000_000, 600_000_000),
            clock_offset_ns_max: bound_ns,
            ..liveness::Config::default()
        };
        scenario.tick = Duration::from_millis(prng.between(10, 50));
        scenario.storm = Duration::from_secs(120);
        scenario.placement = draw_placement(seed);
        // From numbers of its own, likewise.
        scenario.policies = Prng::new(seed ^ 0x706f_6c69_6379_0001).below(4) == 0;
        (scenario.mix.get_stale, scenario.mix.scan_stale) = (prng.below(20), prng.below(5));
        let lag_ns = bound_ns + prng.below(300_000_000);
        scenario.closed_lag = Duration::from_nanos(lag_ns);
        scenario.closed_interval = Duration::from_millis(prng.between(5, 300));
        if mode == Mode::Survivable && prng.chance(0.4) {
            scenario.node.scrub_bytes_per_second = 1 << prng.between(18, 30);
            scenario.node.scrub_pause = Duration::from_millis(pick(&mut prng, &[20, 100, 300]));
            scenario.flips = Some(Flips {
                victim: small(prng.below(u64::from(scenario.founders))),
                every: (scenario.calls / prng.between(2, 10)).max(50),
                bits_max: 8,
                times: u64::MAX,
                at_end: false,
                unreadable: false,
            });
        }
        scenario.draw_shards();
        scenario.draw_ailing();
        scenario
    }

    /// In half of the clusters without other limits of the disk.
    fn draw_ailing(&mut self) {
        // From numbers of its own, likewise.
        let mut prng = Prng::new(self.seed ^ 0x6169_6c69_6e67_0001);
        let is_limited = self.sim.disk.capacity_bytes.is_some();
        self.ailing = self.flips.is_none() && !is_limited && prng.chance(0.5);
        if self.ailing {
            self.node.disk_reserve_bytes = 64 << 20;
            self.node.disk_interval = Duration::from_millis(pick(&mut prng, &[50, 250]));
        }
    }

    /// The same, with the replicas left to the clients.
    #[must_use]
    pub fn without_placement(self) -> Self {
        Self {
            placement: None,
            ..self
        }
    }

    /// A trial of damage: three nodes in calm weather, and bits of one of them turn around once.
    #[must_use]
    pub fn draw_trial(seed: u64) -> Self {
        let mut scenario = Self::draw_cluster(seed);
        let mut prng = Prng::new(seed ^ 0x7472_6961_6c00_0001);
        scenario.mode = Mode::Survivable;
        scenario.sim = SimConfig::shuffled();
        (scenario.nodes, scenario.founders) = (3, 3);
        scenario.placement = None;
        scenario.bank = false;
        scenario.mix.place = 0;
        scenario.calls = prng.between(200, 600);
        scenario.crash_every = u64::MAX / 4;
        scenario.ailing = false;
        // A start without a shard that has a damaged replica is refused.
        scenario.reshard = 0.0;
        scenario.node.scrub_bytes_per_second = 1 << 24;
        scenario.node.scrub_pause = Duration::from_millis(pick(&mut prng, &[20, 100, 300]));
        scenario.flips = Some(Flips {
            victim: small(prng.below(3)),
            every: scenario.calls / 3,
            bits_max: 8,
            times: 1,
            at_end: prng.chance(0.8),
            // From numbers of its own: what else a seed draws is older.
            unreadable: Prng::new(seed ^ 0x756e_7265_6164_0001).chance(0.2),
        });
        scenario
    }

    /// A cluster whose ranges move between the shards of their nodes all the time, while leadership is handed over and, in most seeds,
    /// bits of one node turn around. Ranges have much to flush, and disks take their time.
    #[must_use]
    pub fn draw_moves(seed: u64) -> Self {
        let mut scenario = Self::draw_cluster(seed);
        let mut prng = Prng::new(seed ^ 0x6d6f_7665_7300_0001);
        scenario.shards = (0..scenario.nodes).map(|_| 2 + small(prng.below(2))).collect();
        scenario.mix.move_range = 10 + prng.below(40);
        scenario.mix.place = 2 + prng.below(10);
        scenario.value_bytes = 1 << (9 + prng.below(4));
        scenario.node.storage.memtable_bytes_max = 1 << 20;
        scenario.node.storage.memory_bytes_max = 16 << 20;
        scenario.node.log_bytes_max = 1 << 20;
        let disk = &mut scenario.sim.disk;
        disk.slow = disk.slow.max(prng.unit() * 0.2);
        disk.slow_ns = disk.slow_ns.min(100_000_000);
        if scenario.mode == Mode::Survivable && prng.chance(0.7) {
            scenario.node.scrub_bytes_per_second = 1 << 30;
            scenario.node.scrub_pause = Duration::from_millis(20);
            scenario.reshard = 0.0;
            scenario.ailing = false;
            scenario.flips = Some(Flips {
                victim: small(prng.below(u64::from(scenario.founders))),
                every: prng.between(200, 800),
                bits_max: 8,
                times: 4,
                at_end: false,
                unreadable: false,
            });
        }
        scenario
    }

    /// The same, with ranges that merge, and are split as often; some clusters merge small ones by themselves.
    #[must_use]
    pub fn with_merges(mut self) -> Self {
        // From numbers of its own: what else a seed draws is older.
        let mut prng = Prng::new(self.seed ^ 0x6d65_7267_6573_0001);
        self.mix.merge = 1 + prng.below(3);
        self.mix.split = self.mix.split.max(prng.below(3));
        if let Some(placement) = &mut self.placement
            && prng.chance(0.4)
        {
            placement.plan.cold_cpu_ns = 25_000_000;
            placement.plan.merge_after_ns = prng.between(300_000_000, 5_000_000_000);
        }
        self
    }

    /// The same, in a third of the seeds with nodes of an older build that are upgraded while everything goes on. Where all nodes are of
    /// the newer build ranges may merge, so that there are clients and placers who want that too early.
    #[must_use]
    pub fn with_upgrades(self) -> Self {
        // From numbers of its own: what else a seed draws is older.
        let mut prng = Prng::new(self.seed ^ 0x7570_6772_6164_6500);
        if prng.below(3) != 0 {
            return self;
        }
        let mut scenario = self.with_merges();
        let all = prng.chance(0.6);
        let upgrades = Upgrades {
            old: (0..scenario.nodes).map(|_| all || prng.chance(0.5)).collect(),
            late: (0..scenario.nodes)
                .map(|at| at >= scenario.founders && prng.chance(0.7))
                .collect(),
            every: (scenario.calls / prng.between(6, 20)).max(30),
            back: if prng.chance(0.7) { prng.unit() * 0.5 } else { 0.0 },
        };
        scenario.upgrades = Some(upgrades);
        scenario
    }

    /// Nodes of a cluster have different numbers of shards, and ranges move between them.
    fn draw_shards(&mut self) {
        // Apart from what else is drawn, so that a seed stays what it is.
        let mut prng = Prng::new(self.seed ^ 0x7368_6172_6473_0001);
        self.shards = (0..self.nodes).map(|_| 1 + small(prng.below(3))).collect();
        // A start without a shard that has a damaged replica is refused.
        let may_change = self.flips.is_none() && prng.chance(0.4);
        self.reshard = if may_change { prng.unit() * 0.5 } else { 0.0 };
        self.mix.move_range = if prng.chance(0.7) { 1 + prng.below(4) } else { 0 };
    }

    /// How clients behave in the second phase: patient.
    #[must_use]
    pub fn habits_calm(&self) -> Habits {
        Habits {
            patience: Duration::from_secs(5),
            deadline_ms: 5_000,
            give_up: 0.0,
            ..self.habits
        }
    }
}

fn small(value: u64) -> u16 {
    u16::try_from(value).expect("drawn below a small bound")
}

/// In two of three clusters the replicas are looked after, by short times.
fn draw_placement(seed: u64) -> Option<Placement> {
    // From numbers of its own: what else a seed draws is older.
    let mut prng = Prng::new(seed ^ 0x706c_6163_6572_0001);
    if prng.below(3) == 0 {
        return None;
    }
    let mut millis = |from, to| Duration::from_millis(prng.between(from, to));
    let (interval, pinned_for) = (millis(20, 500), millis(10, 4_000));
    let (replace_after, balance_after) = (millis(1_000, 20_000), millis(50, 3_000));
    let placement = Placement {
        interval,
        pinned_for,
        ..Placement::default()
    };
    let mut placement = placement
        .replace_after(replace_after)
        .balance_after(balance_after);
    placement.plan.learner_stuck_after_ns = prng.between(2_000_000_000, 20_000_000_000);
    Some(placement)
}

/// One kind of damage, drawn, happens so often that it is met.
fn more_damage(disk: &mut DiskConfig, prng: &mut Prng) {
    let kinds = [
        &mut disk.write_lost,
        &mut disk.write_misdirected,
        &mut disk.read_misdirected,
        &mut disk.read_stale,
        &mut disk.bit_rot,
    ];
    let drawn = prng.index(kinds.len() + 1);
    match kinds.into_iter().nth(drawn) {
        Some(kind) => *kind = kind.max(0.003),
        None => (disk.crash_torn, disk.crash_lost, disk.crash_garbage) = (1.0, 0.1, 0.5),
    }
}

fn pick<T: Copy>(prng: &mut Prng, values: &[T]) -> T {
    values[prng.index(values.len())]
}

/// The hostile values that stand beside the fields.
fn node_config(prng: &mut Prng) -> NodeConfig {
    let memtable = pick(prng, &[512, 2 << 10, 16 << 10, 64 << 10, 1 << 20]);
    let merge_min = 2 + prng.index(3);
    let mut config = NodeConfig {
        listen: Address::from(([0, 0, 0, 0], PORT)),
        cluster: None,
        log: LogConfig {
            segment_bytes: pick(prng, &[32 << 10, 48 << 10, 64 << 10]),
            segments_spare: pick(prng, &[1, 2]),
            batch_bytes_max: pick(prng, &[1, 4 << 10, 1 << 20]),
            writes_in_flight_max: pick(prng, &[1, 4, 8]),
            write_min_bytes_when_busy: pick(prng, &[1, 8 << 10, 1 << 20]),
            staged_bytes_max: pick(prng, &[1, 64 << 10, 256 << 20]),
            seal_after: pick(
                prng,
                &[
                    None,
                    Some(Duration::from_millis(1)),
                    Some(Duration::from_millis(10)),
                ],
            ),
            ..LogConfig::default()
        },
        storage: StorageConfig {
            memtable_bytes_max: memtable,
            memory_bytes_max: memtable * pick(prng, &[1, 2, 16]) + 4096,
            cache_bytes_max: pick(prng, &[0, 4 << 10, 64 << 10, 4 << 20]),
            block_bytes: pick(prng, &[64, 512, 4 << 10, 16 << 10]),
            compression: pick(prng, &[Compression::None, Compression::Lz4]),
            tables_merge_min: merge_min,
            tables_max: merge_min + prng.index(8),
            manifest_bytes_max: pick(prng, &[1, 4 << 10, 256 << 10]),
            ..StorageConfig::default()
        },
        log_bytes_max: pick(prng, &[64 << 10, 256 << 10, 1 << 20]),
        retention: Duration::from_millis(pick(prng, &[1_000, 5_000, 60_000])),
        clock_offset_max: Duration::from_millis(pick(prng, &[10, 500])),
        clock_horizon: Duration::from_millis(pick(prng, &[20, 300, 3_000])),
        frame_timeout: Duration::from_millis(pick(prng, &[2_000, 10_000])),
        connections_max: 10_000,
        requests_max: pick(prng, &[64, 4096]),
        scrub_bytes_per_second: 1 << 20,
        scrub_pause: Duration::from_secs(1),
        maintenance_interval: Duration::from_millis(pick(prng, &[5, 50, 250])),
        disk_reserve_bytes: 0,
        disk_interval: Duration::from_secs(1),
        ..NodeConfig::default()
    };
    config.storage.rows_bytes_max = config.storage.cache_bytes_max;
    config
}

/// How much of unfinished writes stays in memory: drawn by itself, so that what else a seed means is what it was before there was this.
/// A key of the simulator and its value take about 300 bytes.
fn spill_bytes(seed: u64) -> usize {
    let mut prng = Prng::new(seed ^ 0x5911);
    pick(&mut prng, &[0, 0, 500, 2 << 10, 4 << 20, 4 << 20])
}

impl Mix {
    fn draw(prng: &mut Prng, mode: Mode) -> Self {
        let mut weight = |max: u64| if prng.chance(0.2) { 0 } else { prng.below(max + 1) };
        let mut mix = Self {
            get: weight(30),
            get_past: weight(10),
            put: 10 + weight(30),
            delete: weight(10),
            delete_range: weight(5),
            batch: weight(10),
            batch_wide: weight(3),
            conditional: weight(20),
            scan: weight(5),
            scan_past: weight(5),
            split: weight(1),
            merge: 0,
            move_range: weight(2),
            place: 0,
            range_map: weight(1),
            status: weight(1),
            get_stale: 0,
            scan_stale: 0,
        };
        if mode == Mode::Damage {
            // Of a removal whose answer never comes, because the node refuses to start, nothing could be said.
            mix.delete = 0;
            mix.delete_range = 0;
        }
        mix
    }
}
