//! What transactions have begun in a range and not ended: their intents and records. Apart from the committed versions, which the
//! tablet has, so that reads of a range without any pay nothing.
//!
//! Part of the replica's state: the same on every replica that has applied the same entries, and written with every flush.

use crate::session::{Sessions, put_len, take_u32};
use base::Timestamp;
use base::api::WriteOp;
use base::key::Span;
use core::ops::Bound;
use std::collections::BTreeMap;
use txn::{Bytes, Intent, Mutation, Record, TxnId, codec};

/// Bytes of keys and values of a range's intents, about; beyond, no intents are laid. They are in memory, and written with every flush.
pub const PROVISIONAL_BYTES_MAX: usize = 16 << 20;

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

/// The intents and records of one range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisional {
    intents: BTreeMap<Bytes, Intent>,
    records: BTreeMap<TxnId, Record>,
    bytes: usize,
}

impl Provisional {
    /// Whether there are no intents.
    #[must_use]
    pub fn has_no_intents(&self) -> bool {
        self.intents.is_empty()
    }

    /// How many intents and records there are.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.intents.len(), self.records.len())
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intents.is_empty() && self.records.is_empty()
    }

    /// Bytes of keys and values, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The intent on a key.
    #[must_use]
    pub fn intent(&self, key: &[u8]) -> Option<&Intent> {
        self.intents.get(key)
    }

    /// The first intent at or after `from` and before `end`, with its key.
    #[must_use]
    pub fn next_intent(&self, from: &[u8], end: Option<&[u8]>) -> Option<(&Bytes, &Intent)> {
        self.within(from, end).next()
    }

    /// The intents of a span, in the order of their keys.
    pub fn within<'a, 'e>(
        &'a self,
        from: &[u8],
        end: Option<&'e [u8]>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Intent)> + use<'a, 'e> {
        self.intents
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| end.is_none_or(|end| &***key < end))
    }

    /// The record of a transaction.
    #[must_use]
    pub fn record(&self, id: TxnId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// Takes in one change of an entry; what it makes a version comes back.
    ///
    /// # Panics
    /// When it is about an intent that is not there: whoever evaluated it saw another state than this one.
    pub(crate) fn apply(
        &mut self,
        mutation: Mutation,
        (sessions, ts): (&mut Sessions, Timestamp),
    ) -> Option<Made> {
        match mutation {
            Mutation::Lay { key, intent } => {
                self.bytes += weight(&key, &intent);
                if let Some(before) = self.intents.insert(key.clone(), intent) {
                    self.bytes -= weight(&key, &before);
                }
                None
            }
            Mutation::Move { key, ts } => {
                let intent = self.intents.get_mut(&key);
                intent.expect("an intent that is moved is there").ts = ts;
                None
            }
            Mutation::Commit { key, ts, seq } => {
                let intent = self.take(&key);
                let value = intent.value_of(seq).expect("the intent has the write").cloned();
                Some(Made { key, ts, value })
            }
            Mutation::Drop { key } => {
                self.take(&key);
                None
            }
            Mutation::Put { key, ts, value, .. } => Some(Made { key, ts, value }),
            Mutation::Record(record) => {
                self.bytes += record_weight(&record);
                if let Some(before) = self.records.insert(record.who.id, record) {
                    self.bytes -= record_weight(&before);
                }
                None
            }
            Mutation::Remember { id, outcome } => {
                if let Some(record) = self.records.remove(&id) {
                    self.bytes -= record_weight(&record);
                }
                sessions.remember((id.client, id.seq), outcome, ts);
                None
            }
        }
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
        right.intents = self.intents.split_off(&first);
        let (left, records) = core::mem::take(&mut self.records)
            .into_iter()
            .partition(|(_, record)| &*record.who.anchor < at);
        (self.records, right.records) = (left, records);
        for half in [self, &mut right] {
            let intents: usize = half.intents.iter().map(|(key, intent)| weight(key, intent)).sum();
            half.bytes = intents + half.records.values().map(record_weight).sum::<usize>();
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
        } = right.clone();
        both.intents.extend(intents);
        both.records.extend(records);
        both.bytes += bytes;
        both
    }

    /// The span of all keys that something here is about, for assertions.
    pub(crate) fn lies_in(&self, span: &Span) -> bool {
        let ends = [self.intents.first_key_value(), self.intents.last_key_value()];
        ends.into_iter().flatten().all(|(key, _)| span.contains(key))
            && self
                .records
                .values()
                .all(|record| span.contains(&record.who.anchor))
    }

    /// Appends all of it: `count u32 │ (key_len u32 │ key │ intent)… │ count u32 │ record…`, in order, so that equal states have equal
    /// bytes.
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
    }

    pub(crate) fn decode(input: &mut &[u8]) -> Option<Self> {
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
        Some(this)
    }

    /// A checksum of all of it.
    pub(crate) fn checksum(&self) -> u32 {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        base::checksum::crc32c(&bytes)
    }
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
