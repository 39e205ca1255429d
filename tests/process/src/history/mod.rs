//! Histories of operations, as `corelane bench register|append|bank --history` writes them, and checkers of them. Pure.
//!
//! ```text
//!   text ─► edn (values) ─► operation (invocation and end, paired) ─┬─► register: is each key linearizable?
//!                                                                   ├─► append:   do lists only grow, in one order, in time?
//!                                                                   │   cycles:   is there an order of transactions?
//!                                                                   └─► bank:     is the sum always the same?
//! ```
//!
//! - An operation of unknown outcome (`:info`, or without an end) may take effect at any time after its invocation, or never.
//! - An operation that failed (`:fail`) never takes effect: what shows that it did is an anomaly too.
//! - Each checker is tested on histories with one violation planted.

pub mod append;
pub mod bank;
pub mod cycles;
pub mod edn;
pub mod operation;
pub mod register;

use std::fmt;

/// The longest listing of anomalies.
const ANOMALIES_MAX: usize = 20;

/// What a history shows that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name.
    pub kind: &'static str,
    /// What shows it: keys, values and lines.
    pub evidence: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.evidence)
    }
}

/// Anomalies as they are found, up to a bound.
#[derive(Debug, Default)]
struct Findings(Vec<Anomaly>);

impl Findings {
    fn add(&mut self, kind: &'static str, evidence: String) {
        if self.0.len() < ANOMALIES_MAX {
            self.0.push(Anomaly { kind, evidence });
        }
    }
}
