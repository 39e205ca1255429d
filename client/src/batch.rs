//! Atomic batches.

use crate::Error;
use base::api::{Condition, WriteOp};

/// Several mutations of one range that happen together or not at all, possibly under conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    conditions: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ops: Vec<Op>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl Batch {
    /// A batch that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.ops
            .push(Op::Put(key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.ops.push(Op::Delete(key.as_ref().to_vec()));
        self
    }

    /// Removes every key in `start..end`, which must lie in one range with the rest of the batch.
    pub fn delete_range(&mut self, start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> &mut Self {
        self.ops
            .push(Op::DeleteRange(start.as_ref().to_vec(), end.as_ref().to_vec()));
        self
    }

    /// Nothing happens unless `key` has no value.
    pub fn require_absent(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.conditions.push((key.as_ref().to_vec(), None));
        self
    }

    /// Nothing happens unless `key` has exactly this value.
    pub fn require(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.conditions
            .push((key.as_ref().to_vec(), Some(value.as_ref().to_vec())));
        self
    }

    /// How many operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub(crate) fn conditions(&self) -> Vec<Condition<'_>> {
        self.conditions
            .iter()
            .map(|(key, value)| match value {
                Some(value) => Condition::Equals { key, value },
                None => Condition::Absent { key },
            })
            .collect()
    }

    pub(crate) fn ops(&self) -> Vec<WriteOp<'_>> {
        self.ops
            .iter()
            .map(|op| match op {
                Op::Put(key, value) => WriteOp::Put { key, value },
                Op::Delete(key) => WriteOp::Delete { key },
                Op::DeleteRange(start, end) => WriteOp::DeleteRange {
                    start,
                    end: Some(end),
                },
            })
            .collect()
    }

    /// Refuses spans that end before they start.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for op in &self.ops {
            if let Op::DeleteRange(start, end) = op
                && end < start
            {
                return Err(Error::InvalidSpan {
                    start: start.clone(),
                    end: end.clone(),
                });
            }
        }
        Ok(())
    }
}
