//! How long device writes take, for whoever judges the disk. Pure.

use base::Seqno;
use core::time::Duration;
use env::Instant;
use std::collections::BTreeMap;

/// Writes that are remembered until somebody asks; of more than that nothing is noted.
const ENDED_MAX: usize = 1024;

/// A device write that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteTime {
    /// When it was handed to the disk.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
}

/// The device writes since somebody asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteTimes {
    /// Those that have ended, in the order of their ends; at most 1,024, the first ones.
    pub ended: Vec<WriteTime>,
    /// When the oldest one that is still in flight was handed to the disk.
    pub oldest: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Times {
    in_flight: BTreeMap<Seqno, Instant>,
    ended: Vec<WriteTime>,
}

impl Times {
    pub(crate) fn begin(&mut self, seqno: Seqno, now: Instant) {
        self.in_flight.insert(seqno, now);
    }

    pub(crate) fn end(&mut self, seqno: Seqno, took: Duration) {
        if let Some(began) = self.in_flight.remove(&seqno)
            && self.ended.len() < ENDED_MAX
        {
            self.ended.push(WriteTime { began, took });
        }
    }

    /// What there is to tell; what has ended is told once.
    pub(crate) fn take(&mut self) -> WriteTimes {
        WriteTimes {
            ended: core::mem::take(&mut self.ended),
            oldest: self.in_flight.values().copied().min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_once_and_are_bounded() {
        let mut times = Times::default();
        let ms = Duration::from_millis;
        times.begin(Seqno(1), Instant(10));
        times.begin(Seqno(2), Instant(5));
        assert_eq!(times.take().oldest, Some(Instant(5)));
        times.end(Seqno(2), ms(7));
        let told = times.take();
        let (began, took) = (Instant(5), ms(7));
        assert_eq!(told.ended, [WriteTime { began, took }]);
        assert_eq!(told.oldest, Some(Instant(10)));
        assert!(times.take().ended.is_empty());
        for seqno in 0..5000 {
            times.begin(Seqno(seqno), Instant(1));
            times.end(Seqno(seqno), ms(1));
        }
        assert_eq!(times.take().ended.len(), ENDED_MAX);
    }
}
