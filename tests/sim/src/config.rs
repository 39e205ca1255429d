//! What may go wrong in a run, and how often.
//!
//! All rates are probabilities per operation unless a field says otherwise; times are nanoseconds of virtual time.
//! [`SimConfig::calm`] has no fault at all, [`SimConfig::swarm`] draws every one: about half of them are off in a given
//! seed, because a fault that is always on hides what only shows without it.

use base::Prng;
use std::ops::RangeInclusive;

/// In which order ready tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// First come, first served; events of one instant in the order in which they were scheduled.
    Fifo,
    /// Drawn, as are ties between events of one instant.
    Random,
}

/// The configuration of a run.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// The order of ready tasks.
    pub schedule: Schedule,
    /// That `need_yield` says yes.
    pub need_yield: f64,
    /// Polls without any progress of time after which the run is called a livelock and panics.
    pub polls_per_instant_max: u64,
    /// Mean time between pauses of a node (a stopped virtual machine), if there are any.
    pub pause_every_ns: Option<u64>,
    /// How long a pause lasts.
    pub pause_ns: RangeInclusive<u64>,
    /// Disks.
    pub disk: DiskConfig,
    /// The network.
    pub net: NetConfig,
    /// Clocks.
    pub clock: ClockConfig,
    /// Rings between shards.
    pub mailbox: MailboxConfig,
    /// That a misbehave-on-purpose site is on in this run.
    pub misbehave_site_on: f64,
    /// That a site which is on fires when it is asked.
    pub misbehave_fire: f64,
}

/// What a disk may do. The fault model is explained in [`crate::disk`].
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Bytes that fit, if that is limited.
    pub capacity_bytes: Option<u64>,
    /// Time for a durable write; a sync takes this and half again.
    pub write_ns: RangeInclusive<u64>,
    /// Time for a read.
    pub read_ns: RangeInclusive<u64>,
    /// That an operation takes up to `slow_ns` longer.
    pub slow: f64,
    /// How much longer at most.
    pub slow_ns: u64,
    /// That a read fails.
    pub read_error: f64,
    /// That a write fails, part of it done.
    pub write_error: f64,
    /// That a sync of a file or directory fails, nothing settled.
    pub sync_error: f64,
    /// That a write is acknowledged and lost. Damage.
    pub write_lost: f64,
    /// That a write lands in another place. Damage.
    pub write_misdirected: f64,
    /// That a read returns another place. Damage.
    pub read_misdirected: f64,
    /// That a read returns what was there before the last write. Damage.
    pub read_stale: f64,
    /// That a bit of what a read returns has rotted on the medium. Damage.
    pub bit_rot: f64,
    /// At a crash: that an unsettled write is lost whole.
    pub crash_lost: f64,
    /// At a crash: that an unsettled write that is not lost is torn into sectors.
    pub crash_torn: f64,
    /// At a crash: that a sector which a torn write did not reach is garbage. Off unless a test asks for it.
    pub crash_garbage: f64,
    /// At a crash: that an unsettled change of a name is undone.
    pub crash_name_undone: f64,
}

/// What the network may do. The fault model is explained in [`crate::net`].
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// One way between two nodes, per connection and direction.
    pub delay_ns: RangeInclusive<u64>,
    /// Added per segment, up to this.
    pub jitter_ns: u64,
    /// One way inside a node.
    pub loopback_ns: RangeInclusive<u64>,
    /// Bytes of a connection that may be on their way or unread, per direction.
    pub window_bytes: RangeInclusive<u64>,
    /// How long sent bytes may go unacknowledged until the connection times out.
    pub patience_ns: RangeInclusive<u64>,
    /// That a segment is lost and sent again, late.
    pub loss: f64,
    /// How late a lost segment comes.
    pub loss_ns: RangeInclusive<u64>,
    /// That a segment is met by a reset of the connection.
    pub reset: f64,
    /// That a connection gives its reader one byte at a time.
    pub drip: f64,
    /// That a read returns less than there is.
    pub short_read: f64,
    /// That a write takes less than would fit.
    pub short_write: f64,
    /// That a connection attempt fails for no reason.
    pub connect_error: f64,
    /// At a crash: that the peer of a connection is not told.
    pub half_open: f64,
    /// Mean time between cuts of a pair of nodes, if there are any.
    pub cut_every_ns: Option<u64>,
    /// How long a cut lasts.
    pub cut_ns: RangeInclusive<u64>,
    /// That a cut is one way.
    pub cut_one_way: f64,
}

/// What clocks may do. The fault model is explained in [`crate::clock`].
#[derive(Debug, Clone)]
pub struct ClockConfig {
    /// Drift of a node's monotonic clock and slope of its wall clock, in parts per million, either way.
    pub drift_ppm_max: u64,
    /// How far a wall clock is from the truth, either way, unless it has jumped past the bound.
    pub offset_ns_max: u64,
    /// Mean time between jumps of a node's wall clock, if there are any.
    pub jump_every_ns: Option<u64>,
    /// That a jump goes past the bound, up to ten times as far. A node must notice and stop itself.
    pub jump_past_bound: f64,
    /// That a sleep takes longer than asked.
    pub sleep_late: f64,
    /// How much longer at most.
    pub sleep_late_ns: u64,
}

/// What the rings between shards may do. The fault model is explained in [`crate::mailbox`].
#[derive(Debug, Clone)]
pub struct MailboxConfig {
    /// Messages that a ring holds.
    pub capacity: usize,
    /// That what a flush publishes becomes visible only later.
    pub delay: f64,
    /// How much later at most.
    pub delay_ns: u64,
    /// That `readable` completes for nothing.
    pub spurious: f64,
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

impl SimConfig {
    /// No fault: fixed order, exact clocks, a fast disk and a fast network.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            schedule: Schedule::Fifo,
            need_yield: 0.0,
            polls_per_instant_max: 10_000_000,
            pause_every_ns: None,
            pause_ns: 10 * MS..=2 * S,
            disk: DiskConfig::calm(),
            net: NetConfig::calm(),
            clock: ClockConfig {
                drift_ppm_max: 0,
                offset_ns_max: 0,
                jump_every_ns: None,
                jump_past_bound: 0.0,
                sleep_late: 0.0,
                sleep_late_ns: 20 * MS,
            },
            mailbox: MailboxConfig {
                capacity: 1024,
                delay: 0.0,
                delay_ns: 200 * US,
                spurious: 0.0,
            },
            misbehave_site_on: 0.0,
            misbehave_fire: 0.0,
        }
    }

    /// No fault, but ready tasks run in an order drawn from the seed.
    #[must_use]
    pub fn shuffled() -> Self {
        Self {
            schedule: Schedule::Random,
            ..Self::calm()
        }
    }

    /// Every rate drawn from `seed`. Crashes are the harness's to decide.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x05aa_6d5e_edc0_4f16);
        let draw = &mut Draw(&mut prng);
        let calm = Self::calm();
        Self {
            schedule: if draw.0.chance(0.9) {
                Schedule::Random
            } else {
                Schedule::Fifo
            },
            need_yield: draw.rate(0.5),
            pause_every_ns: draw.every(30 * S),
            disk: DiskConfig::swarm(draw),
            net: NetConfig::swarm(draw),
            clock: ClockConfig {
                drift_ppm_max: draw.0.below(300),
                offset_ns_max: draw.0.below(250 * MS),
                jump_every_ns: draw.every(5 * S),
                jump_past_bound: draw.rate(0.5),
                sleep_late: draw.rate(0.2),
                sleep_late_ns: draw.0.between(US, 200 * MS),
            },
            mailbox: MailboxConfig {
                capacity: 1 << draw.0.below(11),
                delay: draw.rate(0.5),
                delay_ns: draw.0.between(US, 5 * MS),
                spurious: draw.rate(0.1),
            },
            misbehave_site_on: draw.0.unit() * 0.5,
            misbehave_fire: draw.0.unit() * 0.25,
            ..calm
        }
    }

    /// Without silent damage (lost, misdirected and stale I/O, rot, garbage at a crash): what a single replica must survive.
    #[must_use]
    pub fn without_damage(mut self) -> Self {
        self.disk = self.disk.without_damage();
        self
    }

    /// Without I/O errors and a full disk, after which a node must stop itself.
    #[must_use]
    pub fn without_disk_errors(mut self) -> Self {
        self.disk = self.disk.without_errors();
        self
    }
}

impl DiskConfig {
    /// A disk without faults that at a crash keeps any part of what is unsettled.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            capacity_bytes: None,
            write_ns: 65 * US..=95 * US,
            read_ns: 20 * US..=60 * US,
            slow: 0.0,
            slow_ns: 20 * MS,
            read_error: 0.0,
            write_error: 0.0,
            sync_error: 0.0,
            write_lost: 0.0,
            write_misdirected: 0.0,
            read_misdirected: 0.0,
            read_stale: 0.0,
            bit_rot: 0.0,
            crash_lost: 0.4,
            crash_torn: 0.5,
            crash_garbage: 0.0,
            crash_name_undone: 0.5,
        }
    }

    /// Without silent damage.
    #[must_use]
    pub fn without_damage(self) -> Self {
        let (write_lost, write_misdirected, read_misdirected) = (0.0, 0.0, 0.0);
        let (read_stale, bit_rot, crash_garbage) = (0.0, 0.0, 0.0);
        Self {
            write_lost,
            write_misdirected,
            read_misdirected,
            read_stale,
            bit_rot,
            crash_garbage,
            ..self
        }
    }

    /// Without errors of reads, writes and syncs, and without a limit of space.
    #[must_use]
    pub fn without_errors(self) -> Self {
        Self {
            capacity_bytes: None,
            read_error: 0.0,
            write_error: 0.0,
            sync_error: 0.0,
            ..self
        }
    }

    fn swarm(draw: &mut Draw<'_>) -> Self {
        let write_ns = draw.0.between(10 * US, 200 * US);
        Self {
            capacity_bytes: draw.0.chance(0.1).then(|| draw.0.between(8 << 20, 256 << 20)),
            write_ns: write_ns..=write_ns * 2,
            slow: draw.rate(0.05),
            slow_ns: draw.0.between(MS, 500 * MS),
            read_error: draw.rate(0.001),
            write_error: draw.rate(0.000_5),
            sync_error: draw.rate(0.000_5),
            write_lost: draw.rate(0.001),
            write_misdirected: draw.rate(0.001),
            read_misdirected: draw.rate(0.001),
            read_stale: draw.rate(0.001),
            bit_rot: draw.rate(0.001),
            crash_lost: draw.0.unit(),
            crash_torn: draw.0.unit(),
            crash_garbage: draw.rate(1.0),
            crash_name_undone: draw.0.unit(),
            ..Self::calm()
        }
    }
}

impl NetConfig {
    fn calm() -> Self {
        Self {
            delay_ns: 50 * US..=100 * US,
            jitter_ns: 0,
            loopback_ns: 5 * US..=10 * US,
            window_bytes: 256 << 10..=256 << 10,
            patience_ns: 10 * S..=15 * S,
            loss: 0.0,
            loss_ns: 200 * MS..=1600 * MS,
            reset: 0.0,
            drip: 0.0,
            short_read: 0.0,
            short_write: 0.0,
            connect_error: 0.0,
            half_open: 0.0,
            cut_every_ns: None,
            cut_ns: 10 * MS..=20 * S,
            cut_one_way: 0.0,
        }
    }

    fn swarm(draw: &mut Draw<'_>) -> Self {
        let delay_ns = draw.0.between(20 * US, 20 * MS);
        let window_min = 1 << draw.0.between(4, 18);
        Self {
            delay_ns: delay_ns / 2..=delay_ns,
            jitter_ns: draw.0.below(10 * MS),
            window_bytes: window_min..=256 << 10,
            patience_ns: 500 * MS..=draw.0.between(S, 15 * S),
            loss: draw.rate(0.05),
            reset: draw.rate(0.002),
            drip: draw.rate(0.05),
            short_read: draw.rate(0.5),
            short_write: draw.rate(0.5),
            connect_error: draw.rate(0.2),
            half_open: draw.0.unit(),
            cut_every_ns: draw.every(10 * S),
            cut_one_way: draw.0.unit(),
            ..Self::calm()
        }
    }
}

/// Draws a swarm.
struct Draw<'p>(&'p mut Prng);

impl Draw<'_> {
    /// Off in half of the seeds, else up to `max`, low values more often than high ones.
    fn rate(&mut self, max: f64) -> f64 {
        let (off, a, b) = (self.0.chance(0.5), self.0.unit(), self.0.unit());
        if off { 0.0 } else { max * a * b }
    }

    /// Off in half of the seeds, else a mean interval from a twentieth of `max_ns` up to it.
    fn every(&mut self, max_ns: u64) -> Option<u64> {
        let (off, every) = (self.0.chance(0.5), self.0.between(max_ns / 20, max_ns));
        (!off).then_some(every)
    }
}

/// True with probability `p`; draws nothing for a fault that is off.
pub(crate) fn fires(prng: &mut Prng, p: f64) -> bool {
    p > 0.0 && prng.chance(p)
}

/// A number in `range`.
pub(crate) fn within(prng: &mut Prng, range: &RangeInclusive<u64>) -> u64 {
    prng.between(*range.start(), *range.end())
}
