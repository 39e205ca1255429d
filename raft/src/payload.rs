//! Bytes that are shared and never copied.

use base::checksum;
use core::fmt;
use core::ops::{Deref, Range};
use std::sync::Arc;

/// A command's bytes: a part of a buffer that others may share, for example of the frame in which it came. Knows its checksum,
/// which is computed once, when the bytes come in.
#[derive(Clone)]
pub struct Payload {
    owner: Arc<[u8]>,
    start: u32,
    len: u32,
    checksum: u32,
}

impl Payload {
    /// The bytes of `owner` at `range`.
    ///
    /// # Panics
    /// When `range` does not lie in `owner`, or beyond 4 GiB.
    #[must_use]
    pub fn slice(owner: Arc<[u8]>, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= owner.len(),
            "{range:?} does not lie in {} bytes",
            owner.len()
        );
        let position = |at: usize| u32::try_from(at).expect("a payload lies within 4 GiB");
        let (start, len) = (position(range.start), position(range.len()));
        let checksum = checksum::crc32c(&owner[range]);
        Self {
            owner,
            start,
            len,
            checksum,
        }
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The CRC-32C of the bytes.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.checksum
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner[self.start as usize..][..self.len as usize]
    }
}

impl From<Arc<[u8]>> for Payload {
    fn from(owner: Arc<[u8]>) -> Self {
        let all = 0..owner.len();
        Self::slice(owner, all)
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::from(Arc::<[u8]>::from(bytes))
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

impl core::hash::Hash for Payload {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// As text, as far as it is text.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_shares_its_owner() {
        let owner: Arc<[u8]> = b"frame with a payload".as_slice().into();
        let payload = Payload::slice(Arc::clone(&owner), 13..20);
        assert_eq!(&*payload, b"payload");
        assert!(std::ptr::eq(&raw const payload[0], &raw const owner[13]));
        assert_eq!(payload, Payload::from(b"payload".as_slice()));
    }

    #[test]
    #[should_panic(expected = "does not lie in 3 bytes")]
    fn a_slice_out_of_bounds_is_refused() {
        let _ = Payload::slice(b"abc".as_slice().into(), 2..4);
    }
}
