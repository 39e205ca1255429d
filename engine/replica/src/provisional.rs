//! What transactions have begun in a range and not ended: their intents and records. Apart from the committed versions, which the
//! tablet has, so that reads of a range without any pay nothing.
//!
//! Part of the replica's state: the same on every replica that has applied the same entries, and written with every flush. Of intents
//! that are *spilled* the whole is in the tablet, in a family of its own, and only what others have to know of them in memory: it is
//! read from there when the replica is opened (`Replica::restore_spilled`). The leader says which are spilled (`Mutation::Spill`), so
//! they are on every replica.
//!
//! Invariant: a key has one intent at most, here or spilled; what is said of spilled ones is what the tablet has, as of the same entry.

use crate::session::{Sessions, put_len, take_u32, take_u64};
use base::Timestamp;
use base::api::WriteOp;
use base::key::Span;
use core::ops::Bound;
use std::collections::BTreeMap;
use std::sync::Arc;
use txn::record::Head;
use txn::{Bytes, Epoch, Intent, Mutation, Record, Seq, TxnId, Who, codec};

/// Bytes of keys and values of a range's intents that are not spilled, about; beyond, none are laid. They are in memory, and written
/// with every flush.
pub const PROVISIONAL_BYTES_MAX: usize = 16 << 20;

/// Bytes of memory for what is known of a range's spilled intents, about; beyond, no intents are laid: 700,000 with keys of 16 bytes.
pub const SPILLED_BYTES_MAX: usize = 128 << 20;

/// Bytes that what is known of a spilled intent takes beside its key, about.
const SPILLED_OVERHEAD_BYTES: usize = 160;

/// Bytes that an intent or a record takes beside keys and values, about.
const OVERHEAD_BYTES: usize = 256;

/// A version that a transaction makes: its key, its timestamp, and its value unless it is a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The key.
    pub key: Bytes,
    /// The commit timestamp.
    pub ts: Timestamp,
    /// `None` deletes.
    pub value: Option<Bytes>,
}

impl Made {
    /// The same, as a tablet takes it.
    #[must_use]
    pub fn op(&self) -> (Timestamp, WriteOp<'_>) {
        let key = &*self.key;
        let op = match &self.value {
            Some(value) => WriteOp::Put { key, value },
            None => WriteOp::Delete { key },
        };
        (self.ts, op)
    }
}

/// What is known in memory of a spilled intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spilled {
    /// See [`Intent::who`].
    pub who: Arc<Who>,
    /// See [`Intent::epoch`].
    pub epoch: Epoch,
    /// See [`Intent::seq`].
    pub seq: Seq,
    /// See [`Intent::ts`].
    pub ts: Timestamp,
    /// See [`Intent::local_ts`].
    pub local_ts: Timestamp,
    /// The timestamp of the entry that spilled it, by which the tablet has it.
    pub at: Timestamp,
    /// Of its key, `at` and its bytes.
    sum: u32,
}

/// What becomes of a spilled intent in the tablet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillOp {
    key: Bytes,
    /// `None` removes.
    bytes: Option<Vec<u8>>,
}

impl SpillOp {
    /// The same, as a tablet takes it.
    #[must_use]
    pub fn op(&self) -> WriteOp<'_> {
        let key = &*self.key;
        match &self.bytes {
            Some(value) => WriteOp::Put { key, value },
            None => WriteOp::Delete { key },
        }
    }
}

/// What an entry does to the tablet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Versions of distinct keys.
    pub made: Vec<Made>,
    /// Of the family of spilled intents: the last one of a key counts.
    pub spilled: Vec<SpillOp>,
}

/// How many intents are spilled, and the sum of their checksums: written with the state, to be held against what the tablet has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, spilled: &Spilled) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(spilled.sum.into());
    }

    fn take(&mut self, spilled: &Spilled) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(spilled.sum.into());
    }
}

/// What the tablet has of spilled intents is not what the replica's state says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tables have other spilled intents than the replica's state says: {what}")]
pub struct SpillError {
    what: &'static str,
}

/// An intent, wherever it is kept.
#[derive(Debug, Clone, Copy)]
pub enum Held<'a> {
    /// In memory.
    Here(&'a Intent),
    /// In the tablet.
    Spilled(&'a Spilled),
}

impl<'a> Held<'a> {
    /// What there is to know of it but for what was written.
    #[must_use]
    pub fn head(&self) -> Head<'a> {
        match self {
            Held::Here(intent) => intent.head(),
            Held::Spilled(spilled) => Head {
                who: &spilled.who,
                epoch: spilled.epoch,
                seq: spilled.seq,
                ts: spilled.ts,
                local_ts: spilled.local_ts,
            },
        }
    }
}

/// The intents and records of one range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisional {
    intents: BTreeMap<Bytes, Intent>,
    records: BTreeMap<TxnId, Record>,
    bytes: usize,
    /// Less than `tally` says until all of them are restored.
    spilled: BTreeMap<Bytes, Spilled>,
    tally: Tally,
    spilled_bytes: usize,
}

impl Provisional {
    /// Whether there are no intents.
    #[must_use]
    pub fn has_no_intents(&self) -> bool {
        self.intents.is_empty() && !self.has_spilled()
    }

    /// Whether any intent is spilled.
    #[must_use]
    pub fn has_spilled(&self) -> bool {
        self.tally.count > 0
    }

    /// How many intents and records there are.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.intents.len() + self.spilled.len(), self.records.len())
    }

    /// How many intents are spilled.
    #[must_use]
    pub fn spilled_len(&self) -> u64 {
        self.tally.count
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.has_no_intents() && self.records.is_empty()
    }

    /// Bytes of keys and values that are not spilled, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory for what is known of spilled intents, about.
    #[must_use]
    pub fn spilled_bytes(&self) -> usize {
        self.spilled_bytes
    }

    /// The intent on a key.
    #[must_use]
    pub fn held(&self, key: &[u8]) -> Option<Held<'_>> {
        let here = self.intents.get(key).map(Held::Here);
        here.or_else(|| self.spilled.get(key).map(Held::Spilled))
    }

    /// The first key at or after `from` and before `end` with an intent.
    #[must_use]
    pub fn next_key(&self, from: &[u8], end: Option<&[u8]>) -> Option<&Bytes> {
        self.first_at(from, end, Timestamp::MAX).map(|(key, _)| key)
    }

    /// The first intent at or after `from` and before `end`, of those at or below `ts`.
    #[must_use]
    pub fn first_at(&self, from: &[u8], end: Option<&[u8]>, ts: Timestamp) -> Option<(&Bytes, Held<'_>)> {
        let here = within(&self.intents, from, end).find(|(_, intent)| intent.ts <= ts);
        let here = here.map(|(key, intent)| (key, Held::Here(intent)));
        // Where there is one before it none behind it counts.
        let end = here.as_ref().map_or(end, |(key, _)| Some(&***key));
        let spilled = within(&self.spilled, from, end).find(|(_, spilled)| spilled.ts <= ts);
        spilled
            .map(|(key, spilled)| (key, Held::Spilled(spilled)))
            .or(here)
    }

    /// The record of a transaction.
    #[must_use]
    pub fn record(&self, id: TxnId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// Takes in one change of an entry; what it does to the tablet is added to `done`.
    ///
    /// # Panics
    /// When it is about an intent that is not there: whoever evaluated it saw another state than this one. When not all that is spilled
    /// is restored.
    pub(crate) fn apply(
        &mut self,
        mutation: Mutation,
        (sessions, ts): (&mut Sessions, Timestamp),
        done: &mut Done,
    ) {
        assert!(
            !self.lacks_spilled(),
            "what is spilled is known before anything is applied"
        );
        match mutation {
            Mutation::Lay { key, intent } => {
                self.forget_spilled(&key, done);
                self.bytes += weight(&key, &intent);
                if let Some(before) = self.intents.insert(key.clone(), intent) {
                    self.bytes -= weight(&key, &before);
                }
            }
            Mutation::Spill { key, intent } => {
                if self.intents.contains_key(&key) {
                    self.take(&key);
                }
                let mut bytes = Vec::new();
                codec::encode_intent(&intent, &mut bytes);
                self.know(&key, &intent, (ts, &bytes));
                let bytes = Some(bytes);
                done.spilled.push(SpillOp { key, bytes });
            }
            Mutation::Move { key, ts } => {
                let intent = self.intents.get_mut(&key);
                intent.expect("an intent that is moved is there").ts = ts;
            }
            Mutation::Commit { key, ts, seq } => {
                let intent = self.take(&key);
                let value = intent.value_of(seq).expect("the intent has the write").cloned();
                done.made.push(Made { key, ts, value });
            }
            Mutation::Drop { key } => {
                if !self.forget_spilled(&key, done) {
                    self.take(&key);
                }
            }
            Mutation::Put { key, ts, value, .. } => done.made.push(Made { key, ts, value }),
            Mutation::Record(record) => {
                self.bytes += record_weight(&record);
                if let Some(before) = self.records.insert(record.who.id, record) {
                    self.bytes -= record_weight(&before);
                }
            }
            Mutation::Remember { id, outcome } => {
                if let Some(record) = self.records.remove(&id) {
                    self.bytes -= record_weight(&record);
                }
                sessions.remember((id.client, id.seq), outcome, ts);
            }
        }
    }

    /// Whether some of the spilled intents have not been restored.
    #[must_use]
    pub fn lacks_spilled(&self) -> bool {
        self.spilled.len() as u64 != self.tally.count
    }

    /// Whether all that is spilled is known.
    ///
    /// # Errors
    /// Some is lacking.
    pub(crate) fn check(&self) -> Result<(), SpillError> {
        if self.lacks_spilled() {
            let what = "some are lacking";
            return Err(SpillError { what });
        }
        Ok(())
    }

    /// Takes in a spilled intent that the tablet has under a key, at the timestamp of its entry.
    ///
    /// # Errors
    /// The bytes are not an intent, or it is known already, or one more than there should be.
    pub(crate) fn restore(&mut self, key: &[u8], at: Timestamp, bytes: &[u8]) -> Result<(), SpillError> {
        let wrong = |what| SpillError { what };
        let mut input = bytes;
        let intent = codec::decode_intent(&mut input).map_err(|_| wrong("one does not decode"))?;
        if !input.is_empty() {
            return Err(wrong("one is too long"));
        }
        if !self.lacks_spilled() || self.held(key).is_some() {
            return Err(wrong("there is one more"));
        }
        let tally = self.tally;
        self.know(&key.into(), &intent, (at, bytes));
        self.tally = tally;
        if self.lacks_spilled() {
            return Ok(());
        }
        let mut known = Tally::default();
        self.spilled.values().for_each(|spilled| known.add(spilled));
        if known == self.tally {
            Ok(())
        } else {
            Err(wrong("they are others"))
        }
    }

    /// An intent is spilled under a key, as these bytes, by the entry at `at`.
    fn know(&mut self, key: &Bytes, intent: &Intent, (at, bytes): (Timestamp, &[u8])) {
        let mut sum = base::checksum::crc32c(key);
        sum = base::checksum::extend(sum, &at.wall_ns.to_le_bytes());
        sum = base::checksum::extend(sum, &at.logical.to_le_bytes());
        sum = base::checksum::extend(sum, bytes);
        // Those of one transaction lie side by side: they share its name.
        let before = within(&self.spilled, &[], Some(key)).next_back();
        let shared = before.filter(|(_, before)| before.who == intent.who);
        let who = shared.map_or_else(|| Arc::clone(&intent.who), |(_, before)| Arc::clone(&before.who));
        let spilled = Spilled {
            who,
            epoch: intent.epoch,
            seq: intent.seq,
            ts: intent.ts,
            local_ts: intent.local_ts,
            at,
            sum,
        };
        self.tally.add(&spilled);
        self.spilled_bytes += spilled_weight(key);
        if let Some(before) = self.spilled.insert(key.clone(), spilled) {
            self.tally.take(&before);
            self.spilled_bytes -= spilled_weight(key);
        }
    }

    /// The key has no spilled intent any more; whether it had one.
    fn forget_spilled(&mut self, key: &Bytes, done: &mut Done) -> bool {
        let Some(before) = self.spilled.remove(key) else {
            return false;
        };
        self.tally.take(&before);
        self.spilled_bytes -= spilled_weight(key);
        let (key, bytes) = (key.clone(), None);
        done.spilled.push(SpillOp { key, bytes });
        true
    }

    fn take(&mut self, key: &Bytes) -> Intent {
        let intent = self
            .intents
            .remove(key)
            .expect("an intent that is resolved is there");
        self.bytes -= weight(key, &intent);
        intent
    }

    /// Keeps what is below `at` and hands out the rest.
    pub(crate) fn split_off(&mut self, at: &[u8]) -> Self {
        let mut right = Self::default();
        if self.is_empty() {
            return right;
        }
        let first = Bytes::from(at);
        assert!(
            !self.lacks_spilled(),
            "what is spilled is known before anything is applied"
        );
        right.intents = self.intents.split_off(&first);
        right.spilled = self.spilled.split_off(&first);
        let (left, records) = core::mem::take(&mut self.records)
            .into_iter()
            .partition(|(_, record)| &*record.who.anchor < at);
        (self.records, right.records) = (left, records);
        for half in [self, &mut right] {
            let intents: usize = half.intents.iter().map(|(key, intent)| weight(key, intent)).sum();
            half.bytes = intents + half.records.values().map(record_weight).sum::<usize>();
            half.spilled_bytes = half.spilled.keys().map(spilled_weight).sum();
            half.tally = Tally::default();
            half.spilled.values().for_each(|spilled| half.tally.add(spilled));
        }
        right
    }

    /// All of this one and of `right`, which is of other keys.
    pub(crate) fn with(&self, right: &Self) -> Self {
        let mut both = self.clone();
        let Self {
            intents,
            records,
            bytes,
            spilled,
            tally,
            spilled_bytes,
        } = right.clone();
        both.intents.extend(intents);
        both.records.extend(records);
        both.bytes += bytes;
        both.spilled.extend(spilled);
        both.tally.count += tally.count;
        both.tally.sum = both.tally.sum.wrapping_add(tally.sum);
        both.spilled_bytes += spilled_bytes;
        both
    }

    /// The span of all keys that something here is about, for assertions.
    pub(crate) fn lies_in(&self, span: &Span) -> bool {
        let here = [self.intents.keys().next(), self.intents.keys().next_back()];
        let spilled = [self.spilled.keys().next(), self.spilled.keys().next_back()];
        here.into_iter()
            .chain(spilled)
            .flatten()
            .all(|key| span.contains(key))
            && self
                .records
                .values()
                .all(|record| span.contains(&record.who.anchor))
    }

    /// Appends all of it but what is spilled: `count u32 │ (key_len u32 │ key │ intent)… │ count u32 │ record…`, in order, so that equal
    /// states have equal bytes; and where something is spilled, `count u64 │ sum of checksums u64` of that.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_len(out, self.intents.len());
        for (key, intent) in &self.intents {
            put_len(out, key.len());
            out.extend_from_slice(key);
            codec::encode_intent(intent, out);
        }
        put_len(out, self.records.len());
        for record in self.records.values() {
            codec::encode_record(record, out);
        }
        if self.has_spilled() {
            out.extend_from_slice(&self.tally.count.to_le_bytes());
            out.extend_from_slice(&self.tally.sum.to_le_bytes());
        }
    }

    /// Whether something is spilled is said elsewhere.
    pub(crate) fn decode(input: &mut &[u8], has_spilled: bool) -> Option<Self> {
        let mut this = Self::default();
        for _ in 0..take_u32(input)? {
            let len = take_u32(input)? as usize;
            let (key, rest) = input.split_at_checked(len)?;
            *input = rest;
            let intent = codec::decode_intent(input).ok()?;
            let key = Bytes::from(key);
            this.bytes += weight(&key, &intent);
            this.intents.insert(key, intent);
        }
        for _ in 0..take_u32(input)? {
            let record = codec::decode_record(input).ok()?;
            this.bytes += record_weight(&record);
            this.records.insert(record.who.id, record);
        }
        if has_spilled {
            this.tally = Tally {
                count: take_u64(input).filter(|count| *count > 0)?,
                sum: take_u64(input)?,
            };
        }
        Some(this)
    }

    /// A checksum of all of it.
    pub(crate) fn checksum(&self) -> u32 {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        base::checksum::crc32c(&bytes)
    }
}

/// What a map has of a span, in the order of keys.
fn within<'a, 'e, V>(
    map: &'a BTreeMap<Bytes, V>,
    from: &[u8],
    end: Option<&'e [u8]>,
) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a V)> + use<'a, 'e, V> {
    let is_empty = end.is_some_and(|end| end <= from);
    let end = if is_empty { Some(from) } else { end };
    map.range::<[u8], _>((
        Bound::Included(from),
        end.map_or(Bound::Unbounded, Bound::Excluded),
    ))
}

fn spilled_weight(key: &Bytes) -> usize {
    SPILLED_OVERHEAD_BYTES + key.len()
}

fn weight(key: &Bytes, intent: &Intent) -> usize {
    let earlier = intent.earlier.iter();
    let values = earlier.map(|earlier| &earlier.value).chain([&intent.value]);
    let bytes: usize = values
        .map(|value| value.as_ref().map_or(0, |value| value.len()))
        .sum();
    OVERHEAD_BYTES + key.len() + bytes
}

fn record_weight(record: &Record) -> usize {
    let promised: usize = record
        .in_flight
        .iter()
        .map(|promise| promise.key.len() + 32)
        .sum();
    OVERHEAD_BYTES + promised + record.locks.len() * 64
}
