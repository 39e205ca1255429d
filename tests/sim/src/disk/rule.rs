//! Faults that a test places by hand.

use env::DiskOp;
use std::io::ErrorKind;

/// "Fail the n-th operation of this kind": counted from zero, over the operations that match, from when the rule is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRule {
    /// Which operation fails.
    pub op: DiskOp,
    /// What the path must contain; empty matches all.
    pub path: String,
    /// How many matching operations succeed before.
    pub after: u64,
    /// How many fail then.
    pub count: u64,
    /// With what: `StorageFull` leaves the file as it was, any other error on a write leaves the first half of it there.
    pub kind: ErrorKind,
}

impl DiskRule {
    /// Fails one operation: the one after `after` others of its kind.
    #[must_use]
    pub fn nth(op: DiskOp, after: u64, kind: ErrorKind) -> Self {
        Self {
            op,
            path: String::new(),
            after,
            count: 1,
            kind,
        }
    }

    /// Fails every operation of its kind from then on.
    #[must_use]
    pub fn onwards(self) -> Self {
        Self {
            count: u64::MAX,
            ..self
        }
    }

    /// Only operations on paths that contain `part`.
    #[must_use]
    pub fn on(self, part: &str) -> Self {
        Self {
            path: part.to_owned(),
            ..self
        }
    }

    /// Whether this operation fails, and how. Counts it.
    pub(crate) fn strike(&mut self, op: DiskOp, path: &str) -> Option<ErrorKind> {
        if self.op != op || !path.contains(&self.path) {
            return None;
        }
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        self.count = self.count.checked_sub(1)?;
        Some(self.kind)
    }
}

/// The first rule that strikes.
pub(crate) fn strike(rules: &mut [DiskRule], op: DiskOp, path: &str) -> Option<ErrorKind> {
    rules
        .iter_mut()
        .fold(None, |struck, rule| rule.strike(op, path).or(struck))
}
