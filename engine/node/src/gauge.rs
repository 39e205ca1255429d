//! Whether the disk of a node is full or slow, as one of its shards sees it. Pure: free bytes, times of log writes and the clock come in.
//!
//! ```text
//!   free bytes    ──────── reserve ──────────────── floor ──────── 0
//!   puts             yes      │       no              │    no
//!   deletes          yes      │       yes             │    no
//!   entries of       yes      │       yes             │    no: as if they were lost on the way
//!   other leaders
//! ```
//! The floor is a quarter of the reserve: below it nothing is added that can wait, so that what is in memory and in the log can still
//! be flushed, and the node lives. Room counts again when there is an eighth more than what it fell below.
//!
//! A disk is slow when most log writes of some seconds took long, or one that is in flight takes very long; it is healthy again after
//! a while without that. Times while the process itself was held up say nothing about the disk.
//!
//! Invariants:
//! - Room only grows when free bytes do, and by an eighth at least: it does not go to and fro.
//! - A single slow write makes no slow disk, unless it takes as long as [`HANGS`] slow ones.

use core::time::Duration;
use env::Instant;
use log::WriteTimes;
use std::collections::VecDeque;

/// Part of the reserve below which nothing is added any more.
const FLOOR_PART: u64 = 4;
/// Part of a limit that must be free beyond it before it counts as kept again.
const SPARE_PART: u64 = 8;
/// Over how long writes are judged, in pieces of [`PIECE`].
const PIECES: usize = 6;
const PIECE: Duration = Duration::from_millis(500);
/// Pieces with writes that must be there.
const PIECES_MIN: usize = 3;
/// A write in flight hangs when it takes as long as so many slow ones.
const HANGS: u32 = 5;
/// A disk is healthy again after the time of so many slow writes without a bad sign.
const CALMS: u32 = 50;
/// The process was held up when two looks are further apart than so many pauses between them.
const HELD_UP: u32 = 4;

/// What a gauge is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes that are kept free.
    pub(crate) reserve_bytes: u64,
    /// A log write that takes longer is slow.
    pub(crate) slow: Duration,
    /// Between two looks.
    pub(crate) interval: Duration,
}

/// How much room the disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Room {
    /// More than the reserve.
    #[default]
    Enough,
    /// Less: no puts.
    Scarce,
    /// Less than the floor: nothing is added that can wait.
    Gone,
}

/// What is wrong with the disk of a node, the worse later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Ailment {
    /// Nothing.
    #[default]
    None,
    /// Writes take long.
    Slow,
    /// Less than the reserve is free.
    Full,
}

impl Ailment {
    /// In a word, as `status` has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "ok",
            Self::Slow => "slow",
            Self::Full => "full",
        }
    }

    /// The number that reports have.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Slow => 1,
            Self::Full => 2,
        }
    }

    /// What a report says; `None` for a number that no node sends.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Slow),
            2 => Some(Self::Full),
            _ => None,
        }
    }
}

/// What is to be said of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reading {
    pub(crate) ailment: Ailment,
    /// Since when.
    pub(crate) since: Instant,
    /// Free bytes, when they are known.
    pub(crate) free_bytes: Option<u64>,
    /// The mean of the log writes of the last seconds, or how long the one in flight takes when that is longer.
    pub(crate) write: Duration,
}

/// Writes of a piece of time.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    number: u64,
    writes: u32,
    slow: u32,
    sum: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gauge {
    limits: Limits,
    free_bytes: Option<u64>,
    room: Room,
    room_since: Instant,
    pieces: VecDeque<Piece>,
    /// How long the write in flight takes, as of the last look.
    waits: Duration,
    slow_since: Option<Instant>,
    /// When there was a bad sign last.
    bad: Instant,
    looked: Option<Instant>,
    /// Writes that began before are not judged: the process was held up.
    judged_from: Instant,
}

impl Gauge {
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            free_bytes: None,
            room: Room::Enough,
            room_since: now,
            pieces: VecDeque::new(),
            waits: Duration::ZERO,
            slow_since: None,
            bad: now,
            looked: None,
            judged_from: now,
        }
    }

    /// So many bytes are free.
    pub(crate) fn measure(&mut self, now: Instant, free_bytes: u64) {
        self.free_bytes = Some(free_bytes);
        let (reserve, floor) = (self.limits.reserve_bytes, self.floor_bytes());
        let fallen = if free_bytes < floor {
            Room::Gone
        } else if free_bytes < reserve {
            Room::Scarce
        } else {
            Room::Enough
        };
        let again = |limit: u64| limit.saturating_add(limit / SPARE_PART);
        // As much as what is free would be called if it had to be more.
        let risen = if free_bytes < again(floor) {
            Room::Gone
        } else if free_bytes < again(reserve) {
            Room::Scarce
        } else {
            Room::Enough
        };
        let room = self.room.clamp(fallen, risen);
        if room != self.room {
            let was_full = self.room != Room::Enough;
            self.room = room;
            // Scarce or gone, it is full all the while.
            if was_full != (room != Room::Enough) {
                self.room_since = now;
            }
        }
    }

    fn floor_bytes(&self) -> u64 {
        self.limits.reserve_bytes / FLOOR_PART
    }

    /// A look at the writes since the last one.
    pub(crate) fn look(&mut self, now: Instant, times: &WriteTimes) {
        let held_up = self
            .looked
            .is_some_and(|looked| now.since(looked) > self.limits.interval * HELD_UP);
        if held_up {
            self.judged_from = now;
        }
        self.looked = Some(now);
        let piece_ns = u64::try_from(PIECE.as_nanos()).unwrap_or(u64::MAX);
        let number = now.0 / piece_ns;
        while self
            .pieces
            .front()
            .is_some_and(|piece| piece.number + PIECES as u64 <= number)
        {
            self.pieces.pop_front();
        }
        for write in times.ended.iter().filter(|write| write.began >= self.judged_from) {
            if self.pieces.back().is_none_or(|piece| piece.number != number) {
                self.pieces.push_back(Piece {
                    number,
                    ..Piece::default()
                });
            }
            if let Some(piece) = self.pieces.back_mut() {
                piece.writes = piece.writes.saturating_add(1);
                piece.slow = piece.slow.saturating_add((write.took >= self.limits.slow).into());
                piece.sum = piece.sum.saturating_add(write.took);
            }
        }
        self.waits = times
            .oldest
            .map_or(Duration::ZERO, |began| now.since(began.max(self.judged_from)));
        let (writes, slow) = self.sums();
        let hangs = self.waits >= self.limits.slow * HANGS;
        let most = u64::from(slow) * 2 > u64::from(writes);
        if hangs || most {
            self.bad = now;
        }
        if self.slow_since.is_none() && (hangs || most && self.pieces.len() >= PIECES_MIN) {
            self.slow_since = Some(now);
        }
        if self.slow_since.is_some() && now.since(self.bad) >= self.limits.slow * CALMS {
            self.slow_since = None;
        }
    }

    fn sums(&self) -> (u32, u32) {
        let sum = |part: fn(&Piece) -> u32| self.pieces.iter().map(part).fold(0, u32::saturating_add);
        (sum(|piece| piece.writes), sum(|piece| piece.slow))
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// Whether so many bytes can be added by something that can wait.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        let kept = self.limits.reserve_bytes;
        kept == 0
            || self
                .free_bytes
                .is_none_or(|free| free.saturating_sub(kept) >= bytes)
    }

    /// Whether tables of so many bytes may be merged, and `memory` bytes flushed meanwhile: their successor lies beside them for a while.
    /// That gives room back, so it may use of the reserve what flushes do not need.
    pub(crate) fn may_merge(&self, bytes: u64, memory: u64) -> bool {
        let kept = self.floor_bytes().saturating_add(memory);
        self.limits.reserve_bytes == 0
            || self
                .free_bytes
                .is_none_or(|free| free.saturating_sub(kept) >= bytes)
    }

    /// What there is to say.
    pub(crate) fn reading(&self) -> Reading {
        let (ailment, since) = match (self.room, self.slow_since) {
            (Room::Scarce | Room::Gone, _) => (Ailment::Full, self.room_since),
            (Room::Enough, Some(since)) => (Ailment::Slow, since),
            (Room::Enough, None) => (Ailment::None, Instant::default()),
        };
        let (writes, _) = self.sums();
        let sum: Duration = self.pieces.iter().map(|piece| piece.sum).sum();
        Reading {
            ailment,
            since,
            free_bytes: self.free_bytes,
            write: (sum / writes.max(1)).max(self.waits),
        }
    }

    /// Bytes that are kept free.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.limits.reserve_bytes
    }
}

impl Reading {
    /// What two shards of a node see together.
    pub(crate) fn with(self, other: Self) -> Self {
        let worse = match self.ailment.cmp(&other.ailment) {
            core::cmp::Ordering::Less => other,
            core::cmp::Ordering::Greater => self,
            core::cmp::Ordering::Equal => Self {
                since: self.since.min(other.since),
                ..self
            },
        };
        Self {
            free_bytes: match (self.free_bytes, other.free_bytes) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
            write: self.write.max(other.write),
            ..worse
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::WriteTime;

    const LIMITS: Limits = Limits {
        reserve_bytes: 800,
        slow: Duration::from_millis(200),
        interval: Duration::from_millis(250),
    };

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// Looks every 250 ms from `from` to `to`; in each, one write of `took` milliseconds has just ended.
    fn write(gauge: &mut Gauge, (from, to): (u64, u64), took: u64) {
        for now in (from..to).step_by(250) {
            let ended = vec![WriteTime {
                began: at(now - took.min(now)),
                took: Duration::from_millis(took),
            }];
            gauge.look(at(now), &WriteTimes { ended, oldest: None });
        }
    }

    fn wait(gauge: &mut Gauge, (from, to): (u64, u64), oldest: Option<u64>) {
        for now in (from..to).step_by(250) {
            let oldest = oldest.map(at);
            gauge.look(
                at(now),
                &WriteTimes {
                    ended: Vec::new(),
                    oldest,
                },
            );
        }
    }

    #[test]
    fn room_falls_at_once_and_rises_with_some_to_spare() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        assert_eq!(gauge.room(), Room::Enough, "what is not known is not refused");
        for (free, room) in [
            (800, Room::Enough),
            (799, Room::Scarce),
            (800, Room::Scarce),
            (899, Room::Scarce),
            (900, Room::Enough),
            (800, Room::Enough),
            (200, Room::Scarce),
            (199, Room::Gone),
            (224, Room::Gone),
            (225, Room::Scarce),
            (10, Room::Gone),
            (850, Room::Scarce),
            (10, Room::Gone),
            (5000, Room::Enough),
        ] {
            gauge.measure(at(1), free);
            assert_eq!(gauge.room(), room, "{free}");
        }
    }

    #[test]
    fn a_disk_is_full_since_it_fell_below_the_reserve() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        for (ms, free) in [(10, 5000), (20, 700), (30, 100), (40, 300), (50, 600)] {
            gauge.measure(at(ms), free);
        }
        let reading = gauge.reading();
        assert_eq!((reading.ailment, reading.since), (Ailment::Full, at(20)));
        assert_eq!(reading.free_bytes, Some(600));
        gauge.measure(at(60), 900);
        assert_eq!(gauge.reading().ailment, Ailment::None);
    }

    #[test]
    fn without_a_reserve_nothing_is_refused() {
        let mut gauge = Gauge::new(
            Limits {
                reserve_bytes: 0,
                ..LIMITS
            },
            at(0),
        );
        gauge.measure(at(1), 0);
        assert_eq!(gauge.room(), Room::Enough);
        assert!(gauge.has_room_for(1 << 40) && gauge.may_merge(1 << 40, 0));
    }

    #[test]
    fn merges_may_use_the_reserve_and_what_can_wait_may_not() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        assert!(gauge.has_room_for(1 << 40), "not known");
        assert!(gauge.may_merge(1 << 40, 1 << 40), "not known");
        gauge.measure(at(1), 1000);
        assert!(gauge.has_room_for(200) && !gauge.has_room_for(201));
        assert!(gauge.may_merge(800, 0) && !gauge.may_merge(801, 0));
        gauge.measure(at(2), 700);
        assert!(!gauge.has_room_for(1));
        assert!(gauge.may_merge(500, 0) && !gauge.may_merge(501, 0));
        assert!(gauge.may_merge(400, 100) && !gauge.may_merge(401, 100));
    }

    #[test]
    fn most_writes_of_some_seconds_make_a_slow_disk_and_calm_a_healthy_one() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        write(&mut gauge, (1000, 2000), 300);
        assert_eq!(gauge.reading().ailment, Ailment::None, "a second is not enough");
        write(&mut gauge, (2000, 2750), 300);
        let reading = gauge.reading();
        assert_eq!((reading.ailment, reading.since), (Ailment::Slow, at(2000)));
        assert_eq!(reading.write, Duration::from_millis(300));
        // Slow for two seconds more, as most of those that are looked at were.
        write(&mut gauge, (2750, 13_750), 1);
        assert_eq!(gauge.reading().ailment, Ailment::Slow);
        write(&mut gauge, (13_750, 15_750), 1);
        assert_eq!(gauge.reading().ailment, Ailment::None);
    }

    #[test]
    fn a_few_slow_writes_among_fast_ones_are_nothing() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        for from in (1000..20_000).step_by(1000) {
            write(&mut gauge, (from, from + 250), 900);
            write(&mut gauge, (from + 250, from + 1000), 5);
        }
        assert_eq!(gauge.reading().ailment, Ailment::None);
    }

    #[test]
    fn a_write_that_hangs_makes_a_slow_disk() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        wait(&mut gauge, (1000, 2000), Some(1000));
        assert_eq!(gauge.reading().ailment, Ailment::None);
        wait(&mut gauge, (2000, 2250), Some(1000));
        assert_eq!(gauge.reading().ailment, Ailment::Slow);
        assert_eq!(gauge.reading().write, Duration::from_secs(1));
        wait(&mut gauge, (2250, 12_000), None);
        assert_eq!(gauge.reading().ailment, Ailment::Slow);
        wait(&mut gauge, (12_000, 12_500), None);
        assert_eq!(gauge.reading().ailment, Ailment::None);
    }

    #[test]
    fn a_process_that_was_held_up_blames_not_its_disk() {
        let mut gauge = Gauge::new(LIMITS, at(0));
        wait(&mut gauge, (1000, 1500), Some(900));
        // Stopped for five seconds, with a write in flight that ends when it goes on.
        wait(&mut gauge, (6500, 6750), Some(900));
        assert_eq!(gauge.reading().ailment, Ailment::None);
        let took = Duration::from_millis(5700);
        let ended = vec![WriteTime { began: at(900), took }; 9];
        gauge.look(at(6750), &WriteTimes { ended, oldest: None });
        assert_eq!(gauge.reading().write, Duration::ZERO);
        wait(&mut gauge, (7000, 8000), Some(6700));
        assert_eq!(gauge.reading().ailment, Ailment::Slow, "it hangs on");
    }

    #[test]
    fn of_two_shards_the_worse_one_counts() {
        let (mut one, mut other) = (Gauge::new(LIMITS, at(0)), Gauge::new(LIMITS, at(0)));
        one.measure(at(5), 1000);
        other.measure(at(9), 700);
        let both = one.reading().with(other.reading());
        assert_eq!(both, other.reading().with(one.reading()));
        assert_eq!((both.ailment, both.since), (Ailment::Full, at(9)));
        assert_eq!(both.free_bytes, Some(700));
        assert!([0, 1, 2].iter().all(|number| {
            Ailment::from_number(*number).is_some_and(|ailment| ailment.number() == *number)
        }));
        assert_eq!(Ailment::from_number(3), None);
    }
}
