//! Writes whose value follows from what they find, and what has to hold for them.

use crate::txn::Bytes;
use base::Timestamp;
use base::modification::{Modification, Unmodified, parse};
use core::fmt;
use std::sync::Arc;

/// What a write makes of the value that it finds; see [`Modification`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// Whatever that is, this is the value; `None` deletes.
    Set(Option<Bytes>),
    /// See [`Modification::Add`].
    Add {
        /// What is added.
        delta: i64,
        /// The least sum that may be.
        min: i64,
        /// The greatest sum that may be.
        max: i64,
    },
    /// See [`Modification::Min`].
    Min(i64),
    /// See [`Modification::Max`].
    Max(i64),
    /// See [`Modification::Append`].
    Append {
        /// What is appended.
        bytes: Bytes,
        /// How long the value may get.
        len_max: u32,
    },
}

impl From<&Modification<'_>> for Change {
    fn from(by: &Modification<'_>) -> Self {
        match *by {
            Modification::Add { delta, min, max } => Self::Add { delta, min, max },
            Modification::Min { value } => Self::Min(value),
            Modification::Max { value } => Self::Max(value),
            Modification::Append { bytes, len_max } => Self::Append {
                bytes: bytes.into(),
                len_max,
            },
        }
    }
}

impl Change {
    /// What a key has that had `found`.
    ///
    /// # Errors
    /// [`Unmodified`]: nothing is written.
    pub fn apply(&self, found: Option<&[u8]>) -> Result<Option<Bytes>, Unmodified> {
        let by = match self {
            Self::Set(value) => return Ok(value.clone()),
            Self::Add { delta, min, max } => Modification::Add {
                delta: *delta,
                min: *min,
                max: *max,
            },
            Self::Min(value) => Modification::Min { value: *value },
            Self::Max(value) => Modification::Max { value: *value },
            Self::Append { bytes, len_max } => Modification::Append {
                bytes,
                len_max: *len_max,
            },
        };
        by.apply(found).map(|value| Some(value.into()))
    }
}

/// What has to hold of the value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Must {
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// It is this.
    Equal(Bytes),
    /// It was written at this timestamp.
    Version(Timestamp),
    /// It is a number within these bounds, both included.
    Within {
        /// The least number.
        min: i64,
        /// The greatest number.
        max: i64,
    },
}

impl Must {
    /// Whether it holds of a key that has `found`, which was written at `ts`.
    #[must_use]
    pub fn holds(&self, found: Option<&[u8]>, ts: Timestamp) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Equal(value) => found == Some(&**value),
            Self::Version(at) => found.is_some() && ts == *at,
            Self::Within { min, max } => {
                let number = found.and_then(|found| parse(found).ok());
                number.is_some_and(|number| (*min..=*max).contains(&number))
            }
        }
    }
}

/// What has to hold for a one-shot transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Its place among the conditions that the caller gave.
    pub number: u32,
    /// The key looked at.
    pub key: Bytes,
    /// What has to hold of it.
    pub must: Must,
}

/// Conditions and changes that happen together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct OneShot {
    /// What has to hold of the keys before the changes.
    pub conditions: Vec<Condition>,
    /// What becomes of keys, each of them named once.
    pub changes: Vec<(Bytes, Change)>,
}

/// What did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missed {
    /// The condition of this number.
    Condition(u32),
    /// The bounds of a change, or those of a number or of a value.
    Bounds,
    /// The value is to be counted with, and is no number.
    Number,
}

/// Something did not hold of a key, so nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unmet {
    /// The key.
    pub key: Bytes,
    /// What of it.
    pub missed: Missed,
    /// The value that it has.
    pub found: Option<Bytes>,
    /// When it was looked at.
    pub ts: Timestamp,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        match self.missed {
            Missed::Condition(number) => write!(f, "condition {number}, on key {key}, does not hold"),
            Missed::Bounds => write!(f, "the change of key {key} is out of its bounds"),
            Missed::Number => write!(f, "the value of key {key} is not a number"),
        }
    }
}

impl From<Unmodified> for Missed {
    fn from(why: Unmodified) -> Self {
        match why {
            Unmodified::OutOfBounds => Self::Bounds,
            Unmodified::NotANumber => Self::Number,
        }
    }
}

/// Conditions that go with one write.
pub type Given = Arc<[Condition]>;
