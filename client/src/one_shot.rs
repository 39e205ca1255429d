//! Transactions of one request. Pure.

use crate::Error;
use base::{Modification, Timestamp};
use core::ops::RangeInclusive;
use std::collections::BTreeMap;
use txn::Bytes;
use txn::change::{Change, Condition, Missed, Must, Unmet};

/// Conditions and changes of any keys that happen together, or not at all; see [`crate::Db::one_shot`].
///
/// ```
/// # use corelane::OneShot;
/// let mut transfer = OneShot::new();
/// transfer.add_within("account/1", -5, 0..=i64::MAX).add("account/2", 5);
/// transfer.require_absent("frozen/1").get("owner/2");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneShot {
    conditions: Vec<Condition>,
    changes: Vec<(Bytes, Change)>,
    gets: Vec<Vec<u8>>,
}

/// What a one-shot transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The commit timestamp: of every version that it made.
    pub ts: Timestamp,
    /// What the keys have now that it modified ([`OneShot::modify`] and the like).
    pub modified: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the keys that it asked for have at `ts`, its own changes included: in the order of [`OneShot::get`].
    pub values: Vec<Option<Vec<u8>>>,
}

impl Done {
    /// The number that a modified key has now: zero when it is none, or was not modified.
    #[must_use]
    pub fn number(&self, key: impl AsRef<[u8]>) -> i64 {
        let value = self.modified.get(key.as_ref());
        value
            .and_then(|value| base::modification::parse(value).ok())
            .unwrap_or(0)
    }
}

impl OneShot {
    /// One that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn must(&mut self, key: impl AsRef<[u8]>, must: Must) -> &mut Self {
        self.conditions.push(Condition {
            number: u32::try_from(self.conditions.len()).unwrap_or(u32::MAX),
            key: key.as_ref().into(),
            must,
        });
        self
    }

    /// Nothing happens unless `key` has exactly this value.
    pub fn require(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.must(key, Must::Equal(value.as_ref().into()))
    }

    /// Nothing happens unless `key` has no value.
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.must(key, Must::Absent)
    }

    /// Nothing happens unless `key` has a value.
    pub fn require_present(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.must(key, Must::Present)
    }

    /// Nothing happens unless `key` has the value that was written at `ts`: as [`crate::Db::get_versioned`] said.
    pub fn require_version(&mut self, key: impl AsRef<[u8]>, ts: Timestamp) -> &mut Self {
        self.must(key, Must::Version(ts))
    }

    /// Nothing happens unless `key` has a number within `bounds`.
    pub fn require_within(&mut self, key: impl AsRef<[u8]>, bounds: RangeInclusive<i64>) -> &mut Self {
        let (min, max) = bounds.into_inner();
        self.must(key, Must::Within { min, max })
    }

    fn change(&mut self, key: impl AsRef<[u8]>, change: Change) -> &mut Self {
        self.changes.push((key.as_ref().into(), change));
        self
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.change(key, Change::Set(Some(value.as_ref().into())))
    }

    /// Removes `key`, whether it has a value or not.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.change(key, Change::Set(None))
    }

    /// Changes the value of `key` by what it is. Nothing happens when its bounds do not allow that.
    pub fn modify(&mut self, key: impl AsRef<[u8]>, by: Modification<'_>) -> &mut Self {
        self.change(key, Change::from(&by))
    }

    /// Adds `delta` to the number that `key` has; a key without a value counts as zero.
    pub fn add(&mut self, key: impl AsRef<[u8]>, delta: i64) -> &mut Self {
        self.add_within(key, delta, i64::MIN..=i64::MAX)
    }

    /// As [`Self::add`]. Nothing happens unless the sum lies within `bounds`.
    pub fn add_within(
        &mut self,
        key: impl AsRef<[u8]>,
        delta: i64,
        bounds: RangeInclusive<i64>,
    ) -> &mut Self {
        let (min, max) = bounds.into_inner();
        self.modify(key, Modification::Add { delta, min, max })
    }

    /// Sets `key` to the lesser of its number and `value`.
    pub fn min(&mut self, key: impl AsRef<[u8]>, value: i64) -> &mut Self {
        self.modify(key, Modification::Min { value })
    }

    /// Sets `key` to the greater of its number and `value`.
    pub fn max(&mut self, key: impl AsRef<[u8]>, value: i64) -> &mut Self {
        self.modify(key, Modification::Max { value })
    }

    /// Appends `bytes` to the value of `key`. Nothing happens unless it has no more than `len_max` bytes then.
    pub fn append(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>, len_max: u32) -> &mut Self {
        let bytes = bytes.as_ref();
        self.modify(key, Modification::Append { bytes, len_max })
    }

    /// What `key` has afterwards is to be told.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.gets.push(key.as_ref().to_vec());
        self
    }

    /// The keys that are asked for.
    pub(crate) fn gets(&self) -> &[Vec<u8>] {
        &self.gets
    }

    /// All its keys, and the values that it sends.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let conditions = self.conditions.iter().map(|condition| {
            let value = match &condition.must {
                Must::Equal(value) => Some(&**value),
                _ => None,
            };
            (&*condition.key, value)
        });
        let changes = self.changes.iter().map(|(key, change)| {
            let value = match change {
                Change::Set(Some(value)) => Some(&**value),
                Change::Append { bytes, .. } => Some(&**bytes),
                _ => None,
            };
            (&**key, value)
        });
        let gets = self.gets.iter().map(|key| (&**key, None));
        conditions.chain(changes).chain(gets)
    }

    /// Refuses one that changes a key twice.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut keys: Vec<&Bytes> = self.changes.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::ChangedTwice {
                key: pair[0].to_vec(),
            }),
            None => Ok(()),
        }
    }

    /// What the protocol makes of it.
    pub(crate) fn shot(&self) -> txn::change::OneShot {
        txn::change::OneShot {
            conditions: self.conditions.clone(),
            changes: self.changes.clone(),
        }
    }

    /// What was set, of a key that was.
    pub(crate) fn set(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.changes.iter().find_map(|(known, change)| match change {
            Change::Set(value) if **known == *key => Some(value.as_deref()),
            _ => None,
        })
    }

    /// The keys that are modified.
    pub(crate) fn modified(&self) -> impl Iterator<Item = &Bytes> {
        let is_modified = |(_, change): &&(Bytes, Change)| !matches!(change, Change::Set(_));
        self.changes.iter().filter(is_modified).map(|(key, _)| key)
    }

    pub(crate) fn change_of(&self, key: &[u8]) -> Option<&Change> {
        let mut changes = self.changes.iter();
        let found = changes.find(|(known, _)| **known == *key);
        found.map(|(_, change)| change)
    }
}

/// What a caller hears of what does not hold, with the change that it is about.
pub(crate) fn unmet(unmet: Unmet, change: Option<&Change>) -> Error {
    let Unmet {
        key,
        missed,
        found,
        ts,
    } = unmet;
    let key = key.to_vec();
    let found = found.map(|found| found.to_vec());
    match missed {
        Missed::Condition(condition) => Error::ConditionFailed { condition, found, ts },
        Missed::Bounds => Error::OutOfBounds {
            key,
            bound: bound_of(change),
            found,
            ts,
        },
        Missed::Number => Error::not_a_number(key, found.as_deref()),
    }
}

/// What a change may make of a value.
fn bound_of(change: Option<&Change>) -> String {
    match change {
        Some(Change::Add { delta, min, max }) => format!("adding {delta} is to leave {min}..={max}"),
        Some(Change::Append { bytes, len_max }) => {
            format!("appending {} bytes is to leave at most {len_max}", bytes.len())
        }
        _ => "the change is to keep within its bounds".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_changed_once() {
        let mut shot = OneShot::new();
        shot.put("a", "1").add("b", 1).require("a", "0");
        assert_eq!(shot.check(), Ok(()));
        shot.delete("a");
        let error = shot.check().unwrap_err();
        assert_eq!(error.to_string(), "the transaction changes key \"a\" twice");
    }

    #[test]
    fn what_does_not_hold_is_said_with_its_bound() {
        let of = |missed, found: &[u8], change: Option<&Change>| {
            let unmet = Unmet {
                key: b"k"[..].into(),
                missed,
                found: Some(found.into()),
                ts: Timestamp::ZERO,
            };
            super::unmet(unmet, change).to_string()
        };
        let add = Change::from(&Modification::Add {
            delta: -5,
            min: 0,
            max: 10,
        });
        assert_eq!(
            of(Missed::Bounds, b"3", Some(&add)),
            "key \"k\" has \"3\", and adding -5 is to leave 0..=10"
        );
        let append = Change::from(&Modification::Append {
            bytes: b"ab",
            len_max: 3,
        });
        assert_eq!(
            of(Missed::Bounds, b"xy", Some(&append)),
            "key \"k\" has \"xy\", and appending 2 bytes is to leave at most 3"
        );
        assert_eq!(
            of(Missed::Number, b"xy", Some(&add)),
            "the value of `k` is not a number: `xy`"
        );
        assert_eq!(of(Missed::Condition(2), b"xy", None), "condition 2 did not hold");
    }
}
