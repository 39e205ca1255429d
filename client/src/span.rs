//! Spans of keys, written as Rust ranges.

use crate::Error;
use base::key::Span;
use core::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// Anything that names a span of keys: `"a".."b"`, `"a"..`, `.."b"`, `"a"..="b"`, `..`, or [`prefix`].
pub trait KeySpan {
    /// The half-open span.
    fn into_span(self) -> Span;
}

/// Every key that starts with `prefix`.
pub fn prefix(prefix: impl AsRef<[u8]>) -> Span {
    let prefix = prefix.as_ref();
    Span::new(prefix, base::key::prefix_end(prefix).as_deref())
}

/// The first key after `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

impl KeySpan for Span {
    fn into_span(self) -> Span {
        self
    }
}

impl KeySpan for &Span {
    fn into_span(self) -> Span {
        self.clone()
    }
}

impl KeySpan for RangeFull {
    fn into_span(self) -> Span {
        Span::all()
    }
}

impl<K: AsRef<[u8]>> KeySpan for Range<K> {
    fn into_span(self) -> Span {
        Span::new(self.start.as_ref(), Some(self.end.as_ref()))
    }
}

impl<K: AsRef<[u8]>> KeySpan for RangeFrom<K> {
    fn into_span(self) -> Span {
        Span::new(self.start.as_ref(), None)
    }
}

impl<K: AsRef<[u8]>> KeySpan for RangeTo<K> {
    fn into_span(self) -> Span {
        Span::new(b"", Some(self.end.as_ref()))
    }
}

impl<K: AsRef<[u8]>> KeySpan for RangeInclusive<K> {
    fn into_span(self) -> Span {
        Span::new(self.start().as_ref(), Some(&successor(self.end().as_ref())))
    }
}

impl<K: AsRef<[u8]>> KeySpan for RangeToInclusive<K> {
    fn into_span(self) -> Span {
        Span::new(b"", Some(&successor(self.end.as_ref())))
    }
}

/// The span, unless it ends before it starts.
pub(crate) fn checked(span: impl KeySpan) -> Result<Span, Error> {
    let span = span.into_span();
    match &span.end {
        Some(end) if **end < *span.start => Err(Error::InvalidSpan {
            start: span.start.to_vec(),
            end: end.to_vec(),
        }),
        Some(_) | None => Ok(span),
    }
}
