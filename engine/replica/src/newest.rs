//! The newest values of keys that modifications change, proposed or applied: what the next modification of a key begins with, so that it
//! need not wait until the last one is applied.
//!
//! A leader's own; nothing of it is written. It is exact for the keys that it has: whatever else changes one of them takes it out, and
//! who leads no more forgets all.

use base::Index;
use base::api::WriteOp;
use base::collections::FastMap;
use base::key::Span;

/// How many keys are kept, beside those whose last modification is not applied.
const KEYS_MAX: usize = 256;
/// How many bytes of keys and values, in the same way.
const BYTES_MAX: usize = 1 << 20;

/// The newest values of some keys.
#[derive(Debug)]
pub(crate) struct Newest {
    by_key: FastMap<Box<[u8]>, (Index, Vec<u8>)>,
    /// Of keys and values.
    bytes: usize,
    /// With more keys, or more bytes, those that are applied are forgotten.
    full: (usize, usize),
}

impl Default for Newest {
    fn default() -> Self {
        Self {
            by_key: FastMap::default(),
            bytes: 0,
            full: (KEYS_MAX, BYTES_MAX),
        }
    }
}

impl Newest {
    /// The newest value of `key`, if it is known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.by_key.get(key).map(|(_, value)| &**value)
    }

    /// A modification of `key` was proposed at `index`; everything up to `applied` is applied.
    pub(crate) fn set(&mut self, key: &[u8], value: Vec<u8>, index: Index, applied: Index) {
        let len = value.len();
        if let Some(known) = self.by_key.get_mut(key) {
            self.bytes -= known.1.len();
            *known = (index, value);
        } else {
            self.bytes += key.len();
            self.by_key.insert(key.into(), (index, value));
        }
        self.bytes += len;
        let (keys, bytes) = self.full;
        if self.by_key.len() > keys || self.bytes > bytes {
            self.retain(|_, of| of > applied);
            // Twice what is left, so that going through all of them is rare.
            self.full = (KEYS_MAX.max(self.by_key.len() * 2), BYTES_MAX.max(self.bytes * 2));
        }
    }

    fn retain(&mut self, stays: impl Fn(&[u8], Index) -> bool) {
        self.by_key.retain(|key, (index, value)| {
            let stays = stays(key, *index);
            self.bytes -= if stays { 0 } else { key.len() + value.len() };
            stays
        });
    }

    /// A write that is no modification was proposed.
    pub(crate) fn forget_written<'a>(&mut self, ops: impl Iterator<Item = WriteOp<'a>>) {
        if self.by_key.is_empty() {
            return;
        }
        for op in ops {
            match op {
                WriteOp::Put { key, .. } | WriteOp::Delete { key } => {
                    if let Some((_, value)) = self.by_key.remove(key) {
                        self.bytes -= key.len() + value.len();
                    }
                }
                WriteOp::DeleteRange { start, end } => {
                    let span = Span::new(start, end);
                    self.retain(|key, _| !span.contains(key));
                }
            }
        }
    }

    /// All are to be read again.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_not_applied_and_some_that_is() {
        let mut newest = Newest::default();
        for at in 1..=KEYS_MAX as u64 + 1 {
            newest.set(&at.to_be_bytes(), vec![1], Index(at), Index(at / 2));
        }
        let kept = newest.by_key.len() as u64;
        assert_eq!(kept, KEYS_MAX as u64 / 2 + 1, "the applied half is gone");
        assert_eq!(newest.get(&1u64.to_be_bytes()), None);
        assert_eq!(newest.get(&(KEYS_MAX as u64).to_be_bytes()), Some(&[1][..]));
    }

    #[test]
    fn long_values_are_kept_while_they_are_not_applied() {
        let mut newest = Newest::default();
        let long = || vec![0; BYTES_MAX / 2];
        for (at, key) in [b"a", b"b", b"c"].into_iter().enumerate() {
            newest.set(key, long(), Index(at as u64 + 1), Index(0));
        }
        assert!(newest.get(b"a").is_some() && newest.bytes > BYTES_MAX);
        newest.set(b"d", vec![0; 3 * BYTES_MAX], Index(4), Index(3));
        assert_eq!((newest.by_key.len(), newest.bytes), (1, 1 + 3 * BYTES_MAX));
        newest.forget_written([WriteOp::Delete { key: b"d" }].into_iter());
        assert_eq!(newest.bytes, 0);
    }

    #[test]
    fn forgets_what_others_write() {
        let mut newest = Newest::default();
        let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
        for key in keys {
            newest.set(key, b"1".to_vec(), Index(1), Index(0));
        }
        let ops = [
            WriteOp::Put {
                key: b"a",
                value: b"",
            },
            WriteOp::DeleteRange {
                start: b"c",
                end: None,
            },
        ];
        newest.forget_written(ops.into_iter());
        let left = keys.map(|key| newest.get(key).is_some());
        assert_eq!(left, [false, true, false, false]);
    }
}
