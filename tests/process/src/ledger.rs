//! What one writer was told, and whether the node agrees. Pure.
//!
//! A writer owns *slots*. Each holds one number, written as the rows that [`Slot::rows`] derives from it, and is written again
//! with the next number:
//!
//! ```text
//!   w03/single/017/v                                    one row: a put
//!   w03/group/005/0 … 2, w03/group/005/mark/<number>    four rows that change together: a batch, which removes the old mark
//!   w03/counter/001/v                                   one row, written only if it holds the number before
//! ```
//!
//! Values are random bytes that follow from key and number, so to know the number is to know every byte. After a crash a
//! slot must hold exactly the rows of the number acknowledged last; or, if a later write ended in doubt, exactly the rows
//! of that one. Anything else is a lost, a half applied, a doubled or a damaged write.
//!
//! Invariant: a slot in doubt is not written again until the doubt is resolved, and that is only when the process that may
//! still be carrying the write out is dead.

use base::Prng;
use base::checksum::crc32c;
use std::collections::BTreeMap;
use std::fmt;

/// Rows by key.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// How many slots of each kind a writer has.
const SLOTS: [(Kind, u16); 3] = [(Kind::Single, 48), (Kind::Group, 24), (Kind::Counter, 4)];
/// Rows of a group besides its mark.
const GROUP_ROWS: u16 = 3;
/// The longest value. Long enough that a few thousand writes fill memtables and log segments of tests.
const VALUE_BYTES_MAX: u64 = 3000;

/// How a slot is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By a put.
    Single,
    /// By a batch.
    Group,
    /// By a conditional put.
    Counter,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Group => "group",
            Self::Counter => "counter",
        }
    }
}

/// A write that ended without a definite answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    number: u64,
    /// The process that ran when the writer gave up, counted from the start of the campaign.
    generation: u64,
}

/// One slot and what is known of it.
#[derive(Debug, Clone)]
pub struct Slot {
    prefix: String,
    /// How it is written.
    pub kind: Kind,
    /// Acknowledged last; zero before the first write.
    pub number: u64,
    doubt: Option<Doubt>,
}

impl Slot {
    /// All its keys begin with this, and no others do.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The rows that say `number`; none for zero.
    #[must_use]
    pub fn rows(&self, number: u64) -> Rows {
        if number == 0 {
            return Rows::new();
        }
        let suffixes = match self.kind {
            Kind::Single | Kind::Counter => vec!["v".to_owned()],
            Kind::Group => (0..GROUP_ROWS)
                .map(|row| row.to_string())
                .chain([format!("mark/{number:010}")])
                .collect(),
        };
        let row = |suffix| {
            let key = format!("{}{suffix}", self.prefix).into_bytes();
            let value = value(&key, number);
            (key, value)
        };
        suffixes.into_iter().map(row).collect()
    }
}

/// The value of `key` in the rows of `number`: the number in text, then noise.
fn value(key: &[u8], number: u64) -> Vec<u8> {
    let mut noise = Prng::new(number ^ u64::from(crc32c(key)) << 32);
    // Most values are short, as they are in life.
    let high = if noise.chance(0.1) { VALUE_BYTES_MAX } else { 200 };
    let length = noise.between(0, high);
    let mut value = format!("{number} ").into_bytes();
    let start = value.len();
    value.resize(
        start + usize::try_from(length).expect("at most VALUE_BYTES_MAX"),
        0,
    );
    noise.fill(value.get_mut(start..).expect("just made"));
    value
}

/// The node does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    slot: String,
    acknowledged: u64,
    doubt: Option<u64>,
    found: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: acknowledged {}", self.slot, self.acknowledged)?;
        if let Some(doubt) = self.doubt {
            write!(f, ", in doubt {doubt}")?;
        }
        write!(f, ", found [{}]", self.found.join(", "))
    }
}

/// What became of the writes in doubt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resolved {
    /// They had happened.
    pub applied: u64,
    /// They had not.
    pub dropped: u64,
}

/// All slots of one writer.
#[derive(Debug)]
pub struct Ledger {
    prefix: String,
    slots: Vec<Slot>,
}

impl Ledger {
    /// The ledger of writer number `writer`, before its first write.
    #[must_use]
    pub fn new(writer: u16) -> Self {
        let prefix = format!("w{writer:02}/");
        let slot = |kind: Kind, at: u16| Slot {
            prefix: format!("{prefix}{}/{at:03}/", kind.name()),
            kind,
            number: 0,
            doubt: None,
        };
        let slots = SLOTS
            .iter()
            .flat_map(|&(kind, count)| (0..count).map(move |at| slot(kind, at)))
            .collect();
        Self {
            prefix: prefix.clone(),
            slots,
        }
    }

    /// All keys of this writer begin with this.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A slot without doubt and its position, if there is one.
    #[must_use]
    pub fn pick(&self, prng: &mut Prng) -> Option<(usize, Slot)> {
        let first = prng.index(self.slots.len());
        let positions = (first..self.slots.len()).chain(0..first);
        let mut free =
            positions.filter_map(|at| Some((at, self.slots.get(at).filter(|slot| slot.doubt.is_none())?)));
        free.next().map(|(at, slot)| (at, slot.clone()))
    }

    /// A place where a range may be split: between two slots.
    #[must_use]
    pub fn boundary(&self, prng: &mut Prng) -> String {
        let at = prng.index(self.slots.len());
        self.slots
            .get(at)
            .map_or_else(|| self.prefix.clone(), |slot| slot.prefix.clone())
    }

    /// The next number of the slot at `at` was acknowledged.
    ///
    /// # Panics
    /// There is no such slot, or it is in doubt.
    pub fn acknowledge(&mut self, at: usize) {
        let slot = self.slots.get_mut(at).expect("positions come from `pick`");
        assert_eq!(slot.doubt, None, "{} is written while in doubt", slot.prefix);
        slot.number += 1;
    }

    /// The next number of the slot at `at` may have been written, or may yet be, by process `generation`.
    ///
    /// # Panics
    /// There is no such slot, or it is in doubt.
    pub fn doubt(&mut self, at: usize, generation: u64) {
        let slot = self.slots.get_mut(at).expect("positions come from `pick`");
        assert_eq!(slot.doubt, None, "{} is written while in doubt", slot.prefix);
        slot.doubt = Some(Doubt {
            number: slot.number + 1,
            generation,
        });
    }

    /// Compares `rows`, all that the node holds of this writer now, with what it acknowledged. Doubts about processes before
    /// `generation` are resolved.
    ///
    /// # Errors
    /// Everything that does not agree.
    pub fn check(&mut self, rows: &Rows, generation: u64) -> Result<Resolved, Vec<Violation>> {
        let mut rest = rows.clone();
        let mut violations = Vec::new();
        let mut resolved = Resolved::default();
        for slot in &mut self.slots {
            // What begins with the slot's prefix: `0` follows `/` in ASCII.
            let mut found = rest.split_off(slot.prefix.as_bytes());
            let end = format!("{}0", slot.prefix.trim_end_matches('/'));
            rest.append(&mut found.split_off(end.as_bytes()));
            let pending = slot.doubt.map(|doubt| doubt.number);
            let held = [Some(slot.number), pending]
                .into_iter()
                .flatten()
                .find(|&number| slot.rows(number) == found);
            let Some(held) = held else {
                let found = found.iter().map(|(key, value)| describe(key, value)).collect();
                let slot = slot.clone();
                violations.push(Violation {
                    slot: slot.prefix,
                    acknowledged: slot.number,
                    doubt: pending,
                    found,
                });
                continue;
            };
            if slot.doubt.is_some_and(|doubt| doubt.generation < generation) {
                if held == slot.number {
                    resolved.dropped += 1;
                } else {
                    resolved.applied += 1;
                }
                slot.number = held;
                slot.doubt = None;
            }
        }
        if !rest.is_empty() {
            let found = rest.iter().map(|(key, value)| describe(key, value)).collect();
            violations.push(Violation {
                slot: "no slot".to_owned(),
                acknowledged: 0,
                doubt: None,
                found,
            });
        }
        if violations.is_empty() {
            Ok(resolved)
        } else {
            Err(violations)
        }
    }
}

/// A row for people: its key, the number that it claims to say, and whether its bytes agree.
fn describe(key: &[u8], found: &[u8]) -> String {
    let text = String::from_utf8_lossy(found);
    let claim = text.split(' ').next().and_then(|number| number.parse().ok());
    let key_text = String::from_utf8_lossy(key);
    match claim {
        Some(number) if value(key, number) == found => format!("{key_text} = {number}"),
        Some(number) => format!("{key_text} = {number}, damaged"),
        None => format!("{key_text} = {} unknown bytes", found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger, the position of one of its slots of `kind`, and a copy of that slot.
    fn with(kind: Kind) -> (Ledger, usize, Slot) {
        let ledger = Ledger::new(3);
        let at = ledger.slots.iter().position(|slot| slot.kind == kind).unwrap();
        let slot = ledger.slots[at].clone();
        (ledger, at, slot)
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        for kind in [Kind::Single, Kind::Group, Kind::Counter] {
            let (mut ledger, at, slot) = with(kind);
            assert_eq!(ledger.check(&Rows::new(), 1), Ok(Resolved::default()));
            ledger.acknowledge(at);
            assert_eq!(ledger.check(&slot.rows(1), 1), Ok(Resolved::default()));
            assert_eq!(
                ledger.check(&Rows::new(), 1).unwrap_err().len(),
                1,
                "{kind:?} lost"
            );
            assert_eq!(
                ledger.check(&slot.rows(2), 1).unwrap_err().len(),
                1,
                "{kind:?} never written"
            );
            let mut damaged = slot.rows(1);
            damaged.values_mut().next().unwrap().push(0);
            let violation = ledger.check(&damaged, 1).unwrap_err().remove(0).to_string();
            assert!(
                violation.contains("acknowledged 1") && violation.contains("damaged"),
                "{violation}"
            );
        }
    }

    #[test]
    fn a_group_is_whole() {
        let (mut ledger, at, slot) = with(Kind::Group);
        ledger.acknowledge(at);
        ledger.doubt(at, 1);
        let (old, new) = (slot.rows(1), slot.rows(2));
        assert!(ledger.check(&old, 1).is_ok() && ledger.check(&new, 1).is_ok());
        let all: Rows = old
            .iter()
            .chain(&new)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert!(ledger.check(&all, 1).is_err(), "the old mark is still there");
        for missing in new.keys() {
            let mut half = new.clone();
            half.remove(missing);
            assert!(ledger.check(&half, 1).is_err());
            half.extend(old.get(missing).map(|value| (missing.clone(), value.clone())));
            assert!(ledger.check(&half, 1).is_err(), "one row of the write before");
        }
    }

    #[test]
    fn a_doubt_lasts_as_long_as_its_process() {
        let (mut ledger, at, slot) = with(Kind::Single);
        ledger.doubt(at, 4);
        assert_eq!(ledger.check(&slot.rows(1), 4), Ok(Resolved::default()));
        assert_eq!(
            ledger.check(&Rows::new(), 4),
            Ok(Resolved::default()),
            "it may still come"
        );
        assert_eq!(
            ledger.check(&slot.rows(1), 5),
            Ok(Resolved {
                applied: 1,
                dropped: 0
            })
        );
        assert!(ledger.check(&Rows::new(), 5).is_err(), "seen, then gone");
        ledger.doubt(at, 5);
        assert_eq!(
            ledger.check(&slot.rows(1), 6),
            Ok(Resolved {
                applied: 0,
                dropped: 1
            })
        );
        assert!(
            ledger.check(&slot.rows(2), 6).is_err(),
            "it comes after its process is dead"
        );
    }

    #[test]
    fn rows_of_no_slot_are_found() {
        let mut ledger = Ledger::new(0);
        let stray = Rows::from([(b"w00/single/999/v".to_vec(), b"1 ".to_vec())]);
        assert!(
            ledger
                .check(&stray, 1)
                .unwrap_err()
                .remove(0)
                .to_string()
                .starts_with("no slot")
        );
    }
}
