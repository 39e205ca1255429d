//! The bytes of a replicated command: the payload of a log entry.
//!
//! ```text
//! version u8 │ kind u8 │ body
//!   kind 1, write:  client u128 │ seq u64 │ acked_below u64 │ wall_ns u64 │ logical u32 │ count u32 │ op…
//!     op:           tag u8 │ key_len u32 │ second_len u32 │ key │ second
//!                   tag 1 put (second: value) · 2 delete (second empty) · 3 delete range (second: end) · 4 delete to the end
//!   kind 2, split:  wall_ns u64 │ logical u32 │ right range u64 │ key_len u32 │ key
//!   kind 16, change: wall_ns u64 │ logical u32 │ mutations of transactions, see txn::codec
//!   steps of a merge of two ranges; *merge* is the index of its Expect entry in the left range's log:
//!   kind 3, expect: wall_ns u64 │ logical u32 │ right range u64
//!   kind 4, subsume: wall_ns u64 │ logical u32 │ left range u64 │ merge u64 │ left generation u64
//!   kind 5, absorb: wall_ns u64 │ logical u32 │ right range u64 │ merge u64
//!   kind 6, refuse: wall_ns u64 │ logical u32 │ merge u64
//!   kind 7, thaw:   wall_ns u64 │ logical u32 │ left range u64 │ merge u64
//! ```
//!
//! Integers are little-endian. The log's checksum covers the payload, so damage is found below; a command that does not
//! decode is a bug or a version that this build does not know, and stops the node.

use base::api::{WriteId, WriteOp};
use base::{ClientId, Index, RangeId, Timestamp};
use txn::Mutation;

/// The only version so far.
pub const VERSION: u8 = 1;
const KIND_WRITE: u8 = 1;
const KIND_SPLIT: u8 = 2;
const KIND_CHANGE: u8 = 16;
const KIND_EXPECT: u8 = 3;
const KIND_SUBSUME: u8 = 4;
const KIND_ABSORB: u8 = 5;
const KIND_REFUSE: u8 = 6;
const KIND_THAW: u8 = 7;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_DELETE_RANGE: u8 = 3;
const OP_DELETE_TO_END: u8 = 4;

/// A decoded command, borrowing its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// An atomic batch of mutations.
    Write {
        /// Names the write over retries.
        id: WriteId,
        /// The timestamp of every version it makes.
        ts: Timestamp,
        /// The mutations, in order.
        ops: Ops<'a>,
    },
    /// Cuts the range in two at `at`: keys from there on belong to `right`.
    Split {
        /// When it was proposed.
        ts: Timestamp,
        /// The new range.
        right: RangeId,
        /// The first key of the new range.
        at: &'a [u8],
    },
    /// What requests of transactions change: versions, intents, records.
    Change {
        /// When it was proposed. What it makes lies below.
        ts: Timestamp,
        /// The mutations, encoded.
        mutations: &'a [u8],
    },
    /// A step of a merge of two neighbouring ranges.
    Merge {
        /// When it was proposed.
        ts: Timestamp,
        /// The step.
        step: MergeStep,
    },
}

/// A step of a merge of two neighbouring ranges. A merge is named by the index of its Expect entry in the left range's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeStep {
    /// In the left range's log: it is to absorb that range, and until it has, or refuses to, it stays as it is.
    Expect {
        /// The right neighbour.
        right: RangeId,
    },
    /// In the right range's log: it freezes. From here on it takes no writes, until it is absorbed or thaws.
    Subsume {
        /// The left neighbour.
        left: RangeId,
        /// The merge.
        merge: Index,
        /// The left neighbour's generation.
        generation: u64,
    },
    /// In the left range's log: it takes the right one over, if it still expects that.
    Absorb {
        /// The right neighbour.
        right: RangeId,
        /// The merge.
        merge: Index,
    },
    /// In the left range's log: the merge will not be.
    Refuse {
        /// The merge.
        merge: Index,
    },
    /// In the right range's log: it goes on by itself.
    Thaw {
        /// The left neighbour.
        left: RangeId,
        /// The merge.
        merge: Index,
    },
}

/// The payload of an entry does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The bytes end before `what` is complete.
    #[error("command is cut short in {what}")]
    Short {
        /// The part that was being read.
        what: &'static str,
    },
    /// A version or kind that this build does not know.
    #[error("command has unknown {what} {found}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u8,
    },
    /// Bytes follow the end.
    #[error("command is followed by {bytes} more bytes")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The mutations of a change do not decode.
    #[error(transparent)]
    Mutations(#[from] txn::codec::CodecError),
}

/// The mutations of a write: checked once, then iterated without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ops<'a> {
    count: u32,
    bytes: &'a [u8],
}

/// Appends the encoding of a write to `out`.
///
/// # Panics
/// When a key, a value or the number of operations exceeds 32 bits; the limits are far below.
pub fn encode_write<'a>(
    out: &mut Vec<u8>,
    id: &WriteId,
    ts: Timestamp,
    ops: impl Iterator<Item = WriteOp<'a>>,
) {
    out.extend_from_slice(&[VERSION, KIND_WRITE]);
    out.extend_from_slice(&id.client.0.to_le_bytes());
    out.extend_from_slice(&id.seq.to_le_bytes());
    out.extend_from_slice(&id.acked_below.to_le_bytes());
    encode_ts(out, ts);
    let count_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count = 0u32;
    for op in ops {
        count = count
            .checked_add(1)
            .expect("a batch has at most BATCH_OPS_MAX operations");
        let (tag, key, second): (u8, &[u8], &[u8]) = match op {
            WriteOp::Put { key, value } => (OP_PUT, key, value),
            WriteOp::Delete { key } => (OP_DELETE, key, b""),
            WriteOp::DeleteRange {
                start,
                end: Some(end),
            } => (OP_DELETE_RANGE, start, end),
            WriteOp::DeleteRange { start, end: None } => (OP_DELETE_TO_END, start, b""),
        };
        out.push(tag);
        out.extend_from_slice(&len32(key).to_le_bytes());
        out.extend_from_slice(&len32(second).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(second);
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
}

/// The range that a payload makes, when it is a split that decodes.
#[must_use]
pub fn split_of(payload: &[u8]) -> Option<RangeId> {
    if !payload.starts_with(&[VERSION, KIND_SPLIT]) {
        return None;
    }
    match Command::decode(payload) {
        Ok(Command::Split { right, .. }) => Some(right),
        Ok(Command::Write { .. } | Command::Change { .. } | Command::Merge { .. }) | Err(_) => None,
    }
}

/// Whether an entry's payload spills intents.
#[must_use]
pub fn spills(payload: &[u8]) -> bool {
    let Ok(Command::Change { mutations, .. }) = Command::decode(payload) else {
        return false;
    };
    let mut spills = false;
    let decoded = txn::codec::each_mutation(mutations, |mutation| {
        spills |= matches!(mutation, Mutation::Spill { .. });
    });
    decoded.is_ok() && spills
}

/// The step of a merge that a payload is, when it is one that decodes.
#[must_use]
pub fn merge_of(payload: &[u8]) -> Option<MergeStep> {
    let [VERSION, KIND_EXPECT..=KIND_THAW, ..] = payload else {
        return None;
    };
    match Command::decode(payload) {
        Ok(Command::Merge { step, .. }) => Some(step),
        Ok(Command::Write { .. } | Command::Split { .. } | Command::Change { .. }) | Err(_) => None,
    }
}

/// Appends the encoding of a step of a merge to `out`.
pub fn encode_merge(out: &mut Vec<u8>, ts: Timestamp, step: MergeStep) {
    let (kind, numbers): (u8, &[u64]) = match step {
        MergeStep::Expect { right } => (KIND_EXPECT, &[right.0]),
        MergeStep::Subsume {
            left,
            merge,
            generation,
        } => (KIND_SUBSUME, &[left.0, merge.0, generation]),
        MergeStep::Absorb { right, merge } => (KIND_ABSORB, &[right.0, merge.0]),
        MergeStep::Refuse { merge } => (KIND_REFUSE, &[merge.0]),
        MergeStep::Thaw { left, merge } => (KIND_THAW, &[left.0, merge.0]),
    };
    out.extend_from_slice(&[VERSION, kind]);
    encode_ts(out, ts);
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Appends the encoding of a change to `out`.
pub fn encode_change(out: &mut Vec<u8>, ts: Timestamp, mutations: &[Mutation]) {
    out.extend_from_slice(&[VERSION, KIND_CHANGE]);
    encode_ts(out, ts);
    txn::codec::encode_mutations(mutations, out);
}

/// Appends the encoding of a split to `out`.
pub fn encode_split(out: &mut Vec<u8>, ts: Timestamp, right: RangeId, at: &[u8]) {
    out.extend_from_slice(&[VERSION, KIND_SPLIT]);
    encode_ts(out, ts);
    out.extend_from_slice(&right.0.to_le_bytes());
    out.extend_from_slice(&len32(at).to_le_bytes());
    out.extend_from_slice(at);
}

fn encode_ts(out: &mut Vec<u8>, ts: Timestamp) {
    out.extend_from_slice(&ts.wall_ns.to_le_bytes());
    out.extend_from_slice(&ts.logical.to_le_bytes());
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are far below 4 GiB")
}

impl<'a> Command<'a> {
    /// Reads a command.
    ///
    /// # Errors
    /// [`CommandError`] when `bytes` is not exactly one command of a known version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CommandError> {
        let mut input = Input(bytes);
        let version = input.u8("version")?;
        if version != VERSION {
            return Err(CommandError::Unknown {
                what: "version",
                found: version,
            });
        }
        let kind = input.u8("kind")?;
        let command = match kind {
            KIND_WRITE => {
                let client = ClientId(u128::from_le_bytes(input.array("client")?));
                let id = WriteId {
                    client,
                    seq: input.u64("seq")?,
                    acked_below: input.u64("acked_below")?,
                };
                let ts = input.ts()?;
                let count = input.u32("count")?;
                let ops = Ops {
                    count,
                    bytes: input.0,
                };
                for _ in 0..count {
                    input.op()?;
                }
                Self::Write { id, ts, ops }
            }
            KIND_SPLIT => {
                let ts = input.ts()?;
                let right = RangeId(input.u64("right")?);
                let len = input.u32("key length")?;
                Self::Split {
                    ts,
                    right,
                    at: input.take(len, "key")?,
                }
            }
            KIND_CHANGE => {
                let ts = input.ts()?;
                let mutations = core::mem::take(&mut input.0);
                Self::Change { ts, mutations }
            }
            KIND_EXPECT..=KIND_THAW => {
                let ts = input.ts()?;
                let step = input.merge_step(kind)?;
                Self::Merge { ts, step }
            }
            found => return Err(CommandError::Unknown { what: "kind", found }),
        };
        if input.0.is_empty() {
            Ok(command)
        } else {
            Err(CommandError::Trailing { bytes: input.0.len() })
        }
    }

    /// The timestamp at which the command was proposed.
    #[must_use]
    pub fn ts(&self) -> Timestamp {
        match *self {
            Self::Write { ts, .. }
            | Self::Split { ts, .. }
            | Self::Change { ts, .. }
            | Self::Merge { ts, .. } => ts,
        }
    }
}

impl<'a> Ops<'a> {
    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The operations in order.
    ///
    /// # Panics
    /// Never: `decode` read every operation once.
    pub fn iter(&self) -> impl Iterator<Item = WriteOp<'a>> + use<'a> {
        let mut input = Input(self.bytes);
        (0..self.count).map(move |_| input.op().expect("checked by decode"))
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: u32, what: &'static str) -> Result<&'a [u8], CommandError> {
        let (head, tail) = self
            .0
            .split_at_checked(len as usize)
            .ok_or(CommandError::Short { what })?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CommandError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(CommandError::Short { what })?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, CommandError> {
        self.array(what).map(u8::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, CommandError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, CommandError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn merge_step(&mut self, kind: u8) -> Result<MergeStep, CommandError> {
        let first = self.u64("range or merge")?;
        let mut merge = || self.u64("merge").map(Index);
        Ok(match kind {
            KIND_EXPECT => MergeStep::Expect {
                right: RangeId(first),
            },
            KIND_SUBSUME => MergeStep::Subsume {
                left: RangeId(first),
                merge: merge()?,
                generation: self.u64("generation")?,
            },
            KIND_ABSORB => MergeStep::Absorb {
                right: RangeId(first),
                merge: merge()?,
            },
            KIND_REFUSE => MergeStep::Refuse { merge: Index(first) },
            _ => MergeStep::Thaw {
                left: RangeId(first),
                merge: merge()?,
            },
        })
    }

    fn ts(&mut self) -> Result<Timestamp, CommandError> {
        Ok(Timestamp::new(self.u64("wall_ns")?, self.u32("logical")?))
    }

    fn op(&mut self) -> Result<WriteOp<'a>, CommandError> {
        let tag = self.u8("tag")?;
        let (key_len, second_len) = (self.u32("key length")?, self.u32("value length")?);
        let key = self.take(key_len, "key")?;
        let second = self.take(second_len, "value")?;
        match tag {
            OP_PUT => Ok(WriteOp::Put { key, value: second }),
            OP_DELETE => Ok(WriteOp::Delete { key }),
            OP_DELETE_RANGE => Ok(WriteOp::DeleteRange {
                start: key,
                end: Some(second),
            }),
            OP_DELETE_TO_END => Ok(WriteOp::DeleteRange {
                start: key,
                end: None,
            }),
            found => Err(CommandError::Unknown {
                what: "operation",
                found,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: WriteId = WriteId {
        client: ClientId(7),
        seq: 3,
        acked_below: 2,
    };
    const TS: Timestamp = Timestamp::new(5, 1);

    fn sample() -> Vec<u8> {
        let ops = [
            WriteOp::Put {
                key: b"a",
                value: b"1",
            },
            WriteOp::Delete { key: b"b" },
            WriteOp::DeleteRange {
                start: b"c",
                end: Some(b"d"),
            },
            WriteOp::DeleteRange {
                start: b"x",
                end: None,
            },
        ];
        let mut bytes = Vec::new();
        encode_write(&mut bytes, &ID, TS, ops.into_iter());
        bytes
    }

    #[test]
    fn a_write_round_trips() {
        let bytes = sample();
        let Ok(Command::Write { id, ts, ops }) = Command::decode(&bytes) else {
            panic!("a write")
        };
        assert_eq!((id, ts, ops.len()), (ID, TS, 4));
        let mut again = Vec::new();
        encode_write(&mut again, &id, ts, ops.iter());
        assert_eq!(again, bytes);
    }

    #[test]
    fn a_split_round_trips() {
        let mut bytes = Vec::new();
        encode_split(&mut bytes, TS, RangeId(9), b"m");
        assert_eq!(
            Command::decode(&bytes),
            Ok(Command::Split {
                ts: TS,
                right: RangeId(9),
                at: b"m"
            })
        );
    }

    #[test]
    fn steps_of_a_merge_round_trip_and_every_cut_is_an_error() {
        let (left, right, merge) = (RangeId(4), RangeId(9), Index(77));
        let generation = 12;
        for step in [
            MergeStep::Expect { right },
            MergeStep::Subsume {
                left,
                merge,
                generation,
            },
            MergeStep::Absorb { right, merge },
            MergeStep::Refuse { merge },
            MergeStep::Thaw { left, merge },
        ] {
            let mut bytes = Vec::new();
            encode_merge(&mut bytes, TS, step);
            assert_eq!(Command::decode(&bytes), Ok(Command::Merge { ts: TS, step }));
            assert_eq!((merge_of(&bytes), split_of(&bytes)), (Some(step), None));
            for len in 0..bytes.len() {
                assert!(Command::decode(&bytes[..len]).is_err(), "{step:?} cut at {len}");
            }
        }
        assert_eq!(merge_of(&sample()), None);
    }

    #[test]
    fn every_cut_and_every_extension_is_an_error() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(Command::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(Command::decode(&longer), Err(CommandError::Trailing { bytes: 1 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Command::Write { ops, .. }) = Command::decode(&bytes) {
                prop_assert_eq!(ops.iter().count(), ops.len());
            }
        }
    }
}
