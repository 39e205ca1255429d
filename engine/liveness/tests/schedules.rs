//! Random schedules of 3 to 5 shards, from one seed each, with the safety of leases checked in true time after every step.
//!
//! Fault model: messages are lost, doubled, delayed for seconds and reordered; links are cut one way and both; hosts crash at any
//! point and lose the write under way, or their disks, whereupon the operator supplies what is lost; hosts are paused; writes
//! take up to seconds; peers are removed and added on one side only; clocks drift, and jump to either end of what the bound
//! allows, also while a host is down. In every third schedule one host's clock may also jump beyond the bound, by up to
//! minutes, both ways.
//!
//! After every step: whoever believes to be supported is supported, and no epoch is given twice ([`World::check`]); that is
//! demanded of all hosts whose clocks were within the bound since they started, also while another one's is not; and of all
//! hosts, whatever their clocks show, in schedules in which clocks are only set while hosts are down. No clock within the bound
//! is ever said to be outside. Afterwards faults stop: a clock that is outside is found by its own host; once it is set right,
//! all support all within [`heal_ns`], and belief never ends again.
//!
//! `SCHEDULES=FROM..TO cargo test -p corelane-liveness --test schedules` runs other seeds than the few of a plain test.

mod fixtures;

use base::Prng;
use corelane_liveness::{Config, Durable, Event, Liveness, Peer};
use fixtures::{Host, MS, World, peer};

const STEPS: u32 = 250;

/// That things happened at all.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    beliefs: u64,
    withdrawals: u64,
    crashes: u64,
    lost_disks: u64,
    jumps: u64,
    jumps_beyond: u64,
    found_beyond: u64,
    removals: u64,
    late: u64,
}

impl Seen {
    fn all(&mut self) -> [&mut u64; 9] {
        [
            &mut self.beliefs,
            &mut self.withdrawals,
            &mut self.crashes,
            &mut self.lost_disks,
            &mut self.jumps,
            &mut self.jumps_beyond,
            &mut self.found_beyond,
            &mut self.removals,
            &mut self.late,
        ]
    }
}

struct Chaos {
    world: World,
    prng: Prng,
    /// Clocks jump only while their hosts are down.
    steady: bool,
    /// The only one whose clock may be wrong.
    wrong: Option<Peer>,
    loss: f64,
    doubled: f64,
    late: f64,
    /// What every message takes at least.
    slow_ns: u64,
    seen: Seen,
}

fn config(prng: &mut Prng) -> Config {
    let standard = Config::default();
    if prng.chance(0.5) {
        return standard;
    }
    let beat_ns = [10, 50, 200][prng.index(3)] * MS;
    let clock_offset_ns_max = [0, 10, 250, 500][prng.index(4)] * MS;
    Config {
        beat_ns,
        beat_ns_max: beat_ns * (1 + prng.below(8)),
        support_ns: clock_offset_ns_max + beat_ns * 2 + 1 + prng.below(3) * beat_ns,
        clock_offset_ns_max,
        ..standard
    }
}

/// Within how long everybody supports everybody: earlier promises are waited for, then a message must come through, which may
/// be the longest of beats away, then two questions and two answers.
fn heal_ns(config: &Config) -> u64 {
    config.wait_ns() + config.clock_offset_ns_max + config.beat_ns_max * 2 + config.beat_ns * 8 + 200 * MS
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let mut world = World::new(config(&mut prng));
        world.latency_ns = None;
        let ids: Vec<_> = (1..=3 + prng.below(3)).map(|node| peer(node, 0)).collect();
        for &id in &ids {
            let host = Host {
                peers: ids.iter().copied().filter(|other| *other != id).collect(),
                ..Host::default()
            };
            world.hosts.insert(id, host);
        }
        let wrong = Some(ids[prng.index(ids.len())]).filter(|_| seed % 3 == 2);
        let mut chaos = Self {
            world,
            loss: [0.0, 0.02, 0.2][prng.index(3)],
            doubled: [0.0, 0.1][prng.index(2)],
            late: [0.0, 0.02, 0.2][prng.index(3)],
            slow_ns: [0, 0, 0, 50, 300][prng.index(5)] * MS,
            prng,
            steady: wrong.is_some() && seed.is_multiple_of(2),
            wrong,
            seen: Seen::default(),
        };
        chaos.world.strict = chaos.steady;
        for &id in &ids {
            chaos.jump(id);
            chaos.world.start(id);
        }
        chaos
    }

    /// The clock of a host is somewhere else within the bound, often at one end.
    fn jump(&mut self, id: Peer) {
        let half = i64::try_from(self.world.config.clock_offset_ns_max / 2).expect("it is small");
        let within = i64::try_from(self.prng.below(half.unsigned_abs() * 2 + 1)).expect("it is small") - half;
        let offset = [half, -half, 0, within][self.prng.index(4)];
        self.world.set_clock(id, offset);
        self.seen.jumps += 1;
    }

    fn drift(&mut self) {
        let half = i64::try_from(self.world.config.clock_offset_ns_max / 2).expect("it is small");
        for id in self.world.ids() {
            let step = i64::try_from(self.prng.below(2 * MS)).expect("it is small") - 1_000_000;
            let offset = self.world.hosts[&id].offset;
            if offset.abs() <= half {
                self.world.set_clock(id, (offset + step).clamp(-half, half));
            }
        }
    }

    fn pass(&mut self, ns: u64) {
        let Self {
            world,
            prng,
            loss,
            doubled,
            late,
            slow_ns,
            seen,
            ..
        } = self;
        world.pass(ns, |world| {
            for (from, to, message) in core::mem::take(&mut world.outbox) {
                let copies = 1 + u64::from(prng.chance(*doubled));
                for _ in 0..copies {
                    let delay = if prng.chance(*late) {
                        seen.late += 1;
                        prng.below(4_000 * MS)
                    } else {
                        prng.below((5 * MS).min(world.config.beat_ns / 16))
                    };
                    if !prng.chance(*loss) {
                        world.post(from, to, message, *slow_ns + delay);
                    }
                }
            }
        });
    }

    fn restart(&mut self, id: Peer) {
        match self.wrong {
            Some(wrong) if wrong == id && self.prng.chance(0.5) => self.jump_beyond(id),
            _ if self.prng.chance(0.3) => self.jump(id),
            _ => {}
        }
        if self.prng.chance(0.1) {
            // The operator knows no better than that it is higher.
            let incarnation = self.world.hosts[&id]
                .disk
                .map_or(0, |durable| durable.incarnation);
            let above = u32::try_from(self.prng.below(3)).expect("it is small");
            self.world.host(id).disk = Some(Durable {
                incarnation: incarnation + above,
                wait_ns: self.world.config.wait_ns(),
            });
            self.seen.lost_disks += 1;
        }
        self.world.start(id);
    }

    fn jump_beyond(&mut self, id: Peer) {
        let bound = self.world.config.clock_offset_ns_max;
        let most = [bound + 400 * MS, 3_000 * MS, 100_000 * MS][self.prng.index(3)];
        let far = 1 + self.prng.below(most);
        let far = i64::try_from(far).expect("it is small");
        let sign = if self.prng.chance(0.5) { 1 } else { -1 };
        self.world.set_clock(id, sign * far);
        self.seen.jumps_beyond += 1;
    }

    fn step(&mut self) {
        let ids = self.world.ids();
        let id = ids[self.prng.index(ids.len())];
        let other = ids[self.prng.index(ids.len())];
        match self.prng.below(100) {
            0..50 => {
                let beat = self.world.config.beat_ns;
                let most = [MS, beat / 4, beat, 4 * beat][self.prng.index(4)];
                let ns = self.prng.below(most + 1);
                self.pass(ns);
            }
            50..52 => {
                let ns = self.prng.below(self.world.config.wait_ns() * 2);
                self.pass(ns);
            }
            52..58 => {
                self.world.cut.insert((id, other));
            }
            58..61 => {
                self.world.cut.extend([(id, other), (other, id)]);
            }
            61..67 => self.world.cut.clear(),
            67..72 if self.world.is_up(id) => {
                self.world.crash(id);
                self.seen.crashes += 1;
            }
            67..80 if !self.world.is_up(id) => self.restart(id),
            80..84 if !self.steady => self.drift(),
            84..88 if !self.steady && !self.world.hosts[&id].wrong => self.jump(id),
            88..90 => {
                let ns = self.prng.below(2_000 * MS);
                let now = self.world.now;
                self.world.host(id).paused_until = now + ns;
            }
            90..92 => {
                let ns = [0, MS, 20 * MS, 3_000 * MS][self.prng.index(4)];
                self.world.host(id).write_ns = ns;
            }
            92..95 if self.wrong.is_none() && id != other => {
                self.world.remove(id, other);
                self.seen.removals += 1;
            }
            92..98 if id != other => self.world.add(id, other),
            98..100 => {
                if let Some(id) = self.wrong.filter(|_| !self.steady) {
                    self.jump_beyond(id);
                }
            }
            _ => {}
        }
        self.world.check();
    }

    fn heal(&mut self) {
        (self.loss, self.doubled, self.late, self.slow_ns) = (0.0, 0.0, 0.0, 0);
        self.world.cut.clear();
        let ids = self.world.ids();
        for &id in &ids {
            let host = self.world.host(id);
            (host.paused_until, host.write_ns) = (0, 0);
            host.write = host.write.map(|(_, durable)| (0, durable));
            self.world.drain(id);
            if !self.world.is_up(id) {
                self.world.start(id);
            }
            for &other in ids.iter().filter(|other| **other != id) {
                self.world.add(id, other);
            }
        }
        let config = self.world.config;
        if let Some(id) = self.wrong {
            self.pass(heal_ns(&config));
            let offset = self.world.hosts[&id].offset.unsigned_abs();
            let found = self.world.hosts[&id]
                .core
                .as_ref()
                .is_some_and(Liveness::is_clock_out_of_bound);
            // The others may be wrong by half the bound to the same side, and a message takes its time.
            let certain = offset > config.clock_offset_ns_max * 3 / 2 + 10 * MS;
            assert!(found || !certain, "{id} does not find that its clock is wrong");
            self.seen.found_beyond += u64::from(found);
            self.world.crash(id);
            self.jump(id);
            self.world.start(id);
        }
        let limit = self.world.now + heal_ns(&config);
        while !self.world.is_whole() {
            assert!(self.world.now < limit, "it does not heal");
            self.pass(MS);
        }
        // What was late has come by now.
        self.pass(4_000 * MS);
        self.world.events.clear();
        self.world.sent.clear();
        let beats = 20;
        for _ in 0..beats * 4 {
            assert!(self.world.is_whole(), "it does not stay whole");
            self.pass(config.beat_ns / 4);
        }
        let events: Vec<&Event> = self.world.events.iter().map(|(_, _, event)| event).collect();
        assert!(events.is_empty(), "events without a reason: {events:?}");
        for (link, count) in &self.world.sent {
            assert!(
                *count <= beats + 1,
                "{count} messages in {beats} beats on {link:?}"
            );
        }
    }
}

fn run(seed: u64) -> Seen {
    let mut chaos = Chaos::new(seed);
    for _ in 0..STEPS {
        chaos.step();
    }
    chaos.heal();
    Seen {
        beliefs: chaos.world.beliefs,
        withdrawals: chaos.world.withdrawals,
        ..chaos.seen
    }
}

#[test]
fn random_schedules_keep_promises() {
    let seeds = std::env::var("SCHEDULES").unwrap_or_else(|_| "0..600".to_owned());
    let (from, to) = seeds.split_once("..").expect("as in 0..100");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let mut seen = Seen::default();
    for seed in number(from)..number(to) {
        let result = std::panic::catch_unwind(|| run(seed));
        let Ok(mut of_seed) = result else {
            panic!(
                "replay with SCHEDULES={seed}..{} cargo test -p corelane-liveness --test schedules",
                seed + 1
            );
        };
        for (sum, of_seed) in seen.all().into_iter().zip(of_seed.all()) {
            *sum += *of_seed;
        }
    }
    println!("{seen:?}");
    if std::env::var("SCHEDULES").is_err() {
        let rare = seen.all().into_iter().map(|count| *count).min();
        assert!(rare > Some(100), "too little happened: {seen:?}");
    }
}

/// A schedule is a function of its seed.
#[test]
fn schedules_repeat() {
    let trace = |seed| {
        let mut chaos = Chaos::new(seed);
        (0..STEPS).for_each(|_| chaos.step());
        format!("{:?} {:?}", chaos.world.events, chaos.world.sent)
    };
    for seed in 0..20 {
        assert!(trace(seed) == trace(seed), "seed {seed} runs in two ways");
    }
}
