//! Faults of the disk that somebody wants to see: for tests and demonstrations only ([`crate::RuntimeConfig::faults`]).
//!
//! The file `FAULTS` in the data directory is looked at a few times a second; without it the disk is as it is. A word and a number a
//! line, other lines mean nothing:
//!
//! | line | what |
//! |---|---|
//! | `delay MS` | each durable write takes so many milliseconds longer |
//! | `free BYTES` | no more than so many bytes are said to be free |

use crate::blocking::Blocking;
use crate::reactor::Reactor;
use crate::stall::now_ns;
use core::cell::Cell;
use core::time::Duration;
use std::path::Path;
use std::rc::Rc;

/// The file's name.
const FILE: &str = "FAULTS";
/// Between two looks at it.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a disk pretends now.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    delay: Cell<Option<Duration>>,
    free_bytes: Cell<Option<u64>>,
}

/// What the file says.
fn parse(text: &str) -> (Option<Duration>, Option<u64>) {
    let number = |name: &str| {
        text.lines().find_map(|line| {
            let (word, number) = line.split_once(' ')?;
            (word == name).then(|| number.trim().parse().ok()).flatten()
        })
    };
    (number("delay").map(Duration::from_millis), number("free"))
}

impl Faults {
    /// Looks at the file for ever.
    pub(crate) async fn run(self: Rc<Self>, blocking: Rc<Blocking>, reactor: Rc<Reactor>, dir: Rc<Path>) {
        let interval_ns = u64::try_from(INTERVAL.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let path = dir.join(FILE);
            let text = blocking.run(move || std::fs::read_to_string(path)).await;
            let (delay, free_bytes) = parse(&text.unwrap_or_default());
            self.delay.set(delay);
            self.free_bytes.set(free_bytes);
            reactor.sleep_until(now_ns().saturating_add(interval_ns)).await;
        }
    }

    /// Before a durable write.
    pub(crate) async fn delay(&self, reactor: &Reactor) {
        if let Some(delay) = self.delay.get() {
            let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
            reactor.sleep_until(now_ns().saturating_add(delay_ns)).await;
        }
    }

    /// How much is said to be free.
    pub(crate) fn free_bytes(&self, free_bytes: u64) -> u64 {
        self.free_bytes
            .get()
            .map_or(free_bytes, |told| told.min(free_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_pretended() {
        assert_eq!(parse(""), (None, None));
        let ms = Duration::from_millis;
        assert_eq!(parse("delay 300\nfree 4096\n"), (Some(ms(300)), Some(4096)));
        assert_eq!(parse("# delay 1\nfree x\ndelay 5 "), (Some(ms(5)), None));
    }
}
