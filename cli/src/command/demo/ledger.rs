//! What is known of the bank: its total, what its transfers did, and how long none of them succeeded. Pure: time comes in.

use std::time::{Duration, Instant};

/// Faults that are remembered.
const FAULTS_MAX: usize = 20;

/// A fault, and what it did to the bank until the next one.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// The command that made it.
    pub(crate) what: String,
    /// The longest time without a success since then.
    pub(crate) gap: Duration,
}

/// The transfers of one second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Second {
    pub(crate) transfers: u64,
    /// Half of them took less, and all but one of a hundred.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// The bank's book.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// What all accounts have together, always.
    pub(crate) expected: u64,
    /// When all accounts were last read, and had that.
    pub(crate) audited: Option<Instant>,
    pub(crate) audits: u64,
    pub(crate) transfers: u64,
    /// Transfers that did not happen.
    pub(crate) failed: u64,
    /// Transfers of which nobody knows whether they happened: the total is the same either way.
    pub(crate) unknown: u64,
    /// Another transfer came first; tried again with what it left.
    pub(crate) conflicts: u64,
    /// What failed last.
    pub(crate) error: Option<String>,
    /// The latest begin of a transfer that succeeded.
    pub(crate) begun: Option<Instant>,
    last: Option<Instant>,
    longest: Duration,
    faults: Vec<Fault>,
    took: Vec<Duration>,
    pub(crate) second: Second,
}

impl Ledger {
    pub(crate) fn new(expected: u64) -> Self {
        Self {
            expected,
            audited: None,
            audits: 0,
            transfers: 0,
            failed: 0,
            unknown: 0,
            conflicts: 0,
            error: None,
            begun: None,
            last: None,
            longest: Duration::ZERO,
            faults: Vec::new(),
            took: Vec::new(),
            second: Second::default(),
        }
    }

    /// A transfer that began at `began` has succeeded at `now`.
    pub(crate) fn on_success(&mut self, began: Instant, now: Instant) {
        let gap = self.gap(now);
        self.longest = self.longest.max(gap);
        if let Some(fault) = self.faults.last_mut() {
            fault.gap = fault.gap.max(gap);
        }
        self.begun = self.begun.max(Some(began));
        self.last = Some(now);
        self.transfers += 1;
        self.took.push(now.duration_since(began));
    }

    /// A fault was made.
    pub(crate) fn on_fault(&mut self, what: &str, now: Instant) {
        self.settle(now);
        if self.faults.len() == FAULTS_MAX {
            self.faults.remove(0);
        }
        self.faults.push(Fault {
            what: what.to_owned(),
            gap: Duration::ZERO,
        });
    }

    /// The fault written down last was not made.
    pub(crate) fn retract_fault(&mut self) {
        self.faults.pop();
    }

    /// Closes the books of a second.
    pub(crate) fn on_second(&mut self) {
        let mut took = core::mem::take(&mut self.took);
        took.sort_unstable();
        let at = |of_hundred: usize| took.get(took.len() * of_hundred / 100).copied();
        self.second = Second {
            transfers: took.len() as u64,
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
        };
    }

    /// How long no transfer has succeeded.
    pub(crate) fn gap(&self, now: Instant) -> Duration {
        self.last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// The longest time without a success so far.
    pub(crate) fn longest(&self, now: Instant) -> Duration {
        self.longest.max(self.gap(now))
    }

    /// The faults so far, with what they did.
    pub(crate) fn faults(&mut self, now: Instant) -> &[Fault] {
        self.settle(now);
        &self.faults
    }

    /// What has not ended yet counts too.
    fn settle(&mut self, now: Instant) {
        let gap = self.gap(now);
        if let Some(fault) = self.faults.last_mut() {
            fault.gap = fault.gap.max(gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_belong_to_the_fault_before_them() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ledger = Ledger::new(1000);
        assert_eq!(
            ledger.longest(at(900)),
            Duration::ZERO,
            "nothing is expected before the first"
        );
        ledger.on_success(at(0), at(1000));
        ledger.on_success(at(1000), at(1010));
        ledger.on_fault("kill 1", at(1020));
        ledger.on_success(at(1010), at(2510));
        ledger.on_fault("cut 1 2", at(2520));
        ledger.on_success(at(2510), at(2530));
        let gaps: Vec<_> = ledger
            .faults(at(2540))
            .iter()
            .map(|fault| fault.gap.as_millis())
            .collect();
        assert_eq!(gaps, [1500, 20]);
        assert_eq!(ledger.faults(at(3530))[1].gap.as_millis(), 1000, "still going on");
        assert_eq!(ledger.longest(at(3530)).as_millis(), 1500);
        ledger.on_second();
        assert_eq!(
            (ledger.second.transfers, ledger.second.p50.as_millis()),
            (4, 1000)
        );
        ledger.on_second();
        assert_eq!(ledger.second.transfers, 0);
    }
}
