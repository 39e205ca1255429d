//! What clients did and were told: the evidence that the checkers judge.
//!
//! ```text
//!   Call { action, invoked ─────────── answered, outcome }
//!            │  moments: a counter of the run that each beginning and each end takes a number from
//!            └─ writes carry values that name them, so that whatever is read says who wrote it
//! ```

use base::Timestamp;
use base::api::ReadAt;
use core::cell::{Cell, RefCell};
use std::fmt::Write as _;
use wire::Code;

/// A key, by its position in the order of all keys of a run. See [`Keys`].
pub type KeyNo = u16;

/// Names one put of one call: every put of a run writes another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId {
    /// The call's position in the history.
    pub call: u32,
    /// Which of its operations.
    pub op: u16,
    /// Bytes of filler.
    pub len: u32,
}

/// One mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Sets a key to the value that this call and the position of the mutation name, of so many bytes.
    Put(KeyNo, u32),
    /// Removes a key.
    Delete(KeyNo),
    /// Removes the keys from the first up to, and without, the second; a second one past the last key means no end.
    DeleteRange(KeyNo, KeyNo),
}

/// What must hold for a write: that the key has the value of that put, or none.
pub type Condition = (KeyNo, Option<ValueId>);

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Reads a key, as of a moment.
    Get(KeyNo, ReadAt),
    /// Writes atomically.
    Write(Vec<Condition>, Vec<Mutation>),
    /// Reads the keys from the first up to, and without, the second.
    Scan {
        /// The first key.
        start: KeyNo,
        /// The first key no longer wanted; past the last one: no end.
        end: KeyNo,
        /// From the end.
        reverse: bool,
        /// At a moment.
        at: ReadAt,
    },
    /// Cuts the range that holds the key.
    Split(KeyNo),
    /// Merges a range with its right neighbour, which it names.
    Merge(u64, u64),
    /// Moves a range to a shard.
    Move(u64, u16),
    /// Says which nodes shall have the replicas of a range, and perhaps which shall lead.
    Place(u64, Vec<u64>, Option<u64>),
    /// Reads the range map.
    RangeMap,
    /// Reads the status.
    Status,
}

/// A row of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: KeyNo,
    /// Who wrote its value.
    pub value: ValueId,
    /// The version's timestamp.
    pub ts: Timestamp,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing definite: the call may have happened, may happen still, or never.
    Unknown,
    /// A write was applied at this timestamp.
    Applied(Timestamp),
    /// A condition, by position, did not hold: this value was found, at this timestamp.
    ConditionFailed(u32, Option<ValueId>, Timestamp),
    /// A value with its version's timestamp, or none and when that was looked at.
    Value(Option<ValueId>, Timestamp),
    /// As [`Self::Value`], and the timestamp that was read at, which the node chose by its age.
    Past(Option<ValueId>, Timestamp, Timestamp),
    /// The rows of a scan.
    Rows {
        /// The timestamp of all of them.
        read_ts: Timestamp,
        /// In scan order.
        rows: Vec<Row>,
        /// The span that the rows cover: less than was asked for when the scan was given up.
        covered: (KeyNo, KeyNo),
    },
    /// Refused for good: nothing happened.
    Refused(Code),
    /// An administrative call succeeded.
    Done,
}

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who called.
    pub client: u16,
    /// What for.
    pub action: Action,
    /// The moment of its beginning.
    pub invoked: u64,
    /// The moment of its end; `u64::MAX` while it is open or when it was given up.
    pub answered: u64,
    /// Virtual time of its beginning, for people.
    pub at_ns: u64,
    /// The wall clock of the caller at its beginning.
    pub wall_ns: u64,
    /// How often it was tried.
    pub tries: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// All calls of a run, in the order of their beginnings, and what was wrong already when it was seen.
#[derive(Debug, Default)]
pub struct History {
    calls: RefCell<Vec<Call>>,
    moment: Cell<u64>,
    violations: RefCell<Vec<String>>,
    ended: Cell<u64>,
}

impl History {
    /// Notes the beginning of a call, with virtual time and the caller's clock; its number.
    ///
    /// # Panics
    /// After 2^32 calls.
    pub fn begin(
        &self,
        client: u16,
        (at_ns, wall_ns): (u64, u64),
        action: impl FnOnce(u32) -> Action,
    ) -> u32 {
        let mut calls = self.calls.borrow_mut();
        let number = u32::try_from(calls.len()).expect("a run has fewer than 2^32 calls");
        calls.push(Call {
            client,
            action: action(number),
            invoked: self.tick(),
            answered: u64::MAX,
            at_ns,
            wall_ns,
            tries: 0,
            outcome: Outcome::Unknown,
        });
        number
    }

    /// Notes the end of a call.
    pub fn end(&self, call: u32, tries: u32, outcome: Outcome) {
        let moment = self.tick();
        let call = &mut self.calls.borrow_mut()[call as usize];
        call.tries = tries;
        if outcome != Outcome::Unknown {
            call.answered = moment;
        }
        call.outcome = outcome;
        self.ended.set(self.ended.get() + 1);
    }

    fn tick(&self) -> u64 {
        self.moment.set(self.moment.get() + 1);
        self.moment.get()
    }

    /// Notes something that must never be.
    pub fn violation(&self, what: String) {
        self.violations.borrow_mut().push(what);
    }

    /// What must never be and was.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    /// A copy of a call.
    #[must_use]
    pub fn call(&self, number: u32) -> Call {
        self.calls.borrow()[number as usize].clone()
    }

    /// All calls.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// How many calls have begun.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.calls.borrow().len() as u64
    }

    /// How many calls have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.ended.get()
    }

    /// One call a line, for people.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        for (number, call) in self.calls.borrow().iter().enumerate() {
            let answered = match call.answered {
                u64::MAX => "never".to_owned(),
                moment => moment.to_string(),
            };
            let _ = writeln!(
                out,
                "{number} c{} {:.6}s [{}, {answered}] {}x {:?} -> {:?}",
                call.client,
                Seconds(call.at_ns).as_f64(),
                call.invoked,
                call.tries,
                call.action,
                call.outcome
            );
        }
        out
    }
}

/// Nanoseconds that print as seconds.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub u64);

impl Seconds {
    /// The seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

/// The keys of a run: groups of neighbours. Ranges are only ever cut where a group begins, so that a batch within a group
/// always lies in one range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Groups.
    pub groups: u16,
    /// Keys of each.
    pub per_group: u16,
    /// Bytes added to every key behind its name.
    pub padding: u16,
}

impl Keys {
    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> KeyNo {
        self.groups * self.per_group
    }

    /// The bytes of a key. Their order is the order of the numbers.
    #[must_use]
    pub fn bytes(&self, key: KeyNo) -> Vec<u8> {
        let (group, within) = (key / self.per_group, key % self.per_group);
        let mut bytes = format!("group-{group:03}").into_bytes();
        if within > 0 {
            bytes.extend_from_slice(format!("/{within:03}").as_bytes());
            bytes.resize(bytes.len() + usize::from(self.padding), b'~');
        }
        bytes
    }

    /// The bytes of the end of a span: `None` behind the last key.
    #[must_use]
    pub fn end_bytes(&self, key: KeyNo) -> Option<Vec<u8>> {
        (key < self.count()).then(|| self.bytes(key))
    }

    /// The key that these bytes are.
    #[must_use]
    pub fn number(&self, bytes: &[u8]) -> Option<KeyNo> {
        let key = self.lower_bound(bytes);
        (key < self.count() && self.bytes(key) == bytes).then_some(key)
    }

    /// The first key at or after these bytes.
    #[must_use]
    pub fn lower_bound(&self, bytes: &[u8]) -> KeyNo {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.bytes(middle).as_slice() < bytes {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The group that a key belongs to: its first key and the first key of the next.
    #[must_use]
    pub fn group_of(&self, key: KeyNo) -> (KeyNo, KeyNo) {
        let start = key - key % self.per_group;
        (start, start + self.per_group)
    }
}

impl ValueId {
    const HEAD: usize = 10;

    /// The bytes of a value: its name, its key, and a filler that follows from both.
    #[must_use]
    pub fn bytes(self, key: KeyNo) -> Vec<u8> {
        let len = self.len;
        let mut bytes = Vec::with_capacity(len as usize + Self::HEAD);
        bytes.extend_from_slice(&self.call.to_le_bytes());
        bytes.extend_from_slice(&self.op.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        let mut filler =
            base::Prng::new(u64::from(self.call) << 32 | u64::from(self.op) << 16 | u64::from(key));
        // Half of it repeats, so that compression has something to do.
        let mut block = [0; 16];
        while bytes.len() < Self::HEAD + len as usize {
            filler.fill(&mut block[..8]);
            bytes.extend_from_slice(&block);
        }
        bytes.truncate(Self::HEAD + len as usize);
        bytes
    }

    /// Who wrote these bytes under this key; `None` when they are not whole.
    #[must_use]
    pub fn parse(key: KeyNo, bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_at_checked(Self::HEAD)?;
        let call = u32::from_le_bytes(head[..4].try_into().ok()?);
        let op = u16::from_le_bytes(head[4..6].try_into().ok()?);
        let len = u32::from_le_bytes(head[6..].try_into().ok()?);
        let id = Self { call, op, len };
        (len as usize == bytes.len() - Self::HEAD && id.bytes(key) == bytes).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_and_found_again() {
        let keys = Keys {
            groups: 3,
            per_group: 5,
            padding: 4,
        };
        for key in 0..keys.count() {
            assert_eq!(keys.number(&keys.bytes(key)), Some(key));
            assert!(key == 0 || keys.bytes(key - 1) < keys.bytes(key), "{key}");
        }
        assert_eq!(keys.number(b"group-001/9"), None);
        assert_eq!(keys.lower_bound(b"group-001"), 5);
        assert_eq!(keys.lower_bound(b"zzz"), 15);
        assert_eq!(keys.group_of(7), (5, 10));
    }

    #[test]
    fn a_value_names_its_put_and_a_changed_byte_is_noticed() {
        let id = ValueId {
            call: 70_000,
            op: 3,
            len: 100,
        };
        let bytes = id.bytes(9);
        assert_eq!(ValueId::parse(9, &bytes), Some(id));
        assert_eq!(ValueId::parse(8, &bytes), None);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(ValueId::parse(9, &changed), None, "byte {at}");
        }
    }
}
