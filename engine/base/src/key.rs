//! Keys and key spans: bytes ordered lexicographically, spans half-open.

use core::fmt;

/// A half-open span of keys, `[start, end)`; `end: None` means up to the last key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first key that belongs to the span.
    pub start: Box<[u8]>,
    /// The first key that no longer does, or `None` for the end of the key space.
    pub end: Option<Box<[u8]>>,
}

impl Span {
    /// The span `[start, end)`.
    #[must_use]
    pub fn new(start: &[u8], end: Option<&[u8]>) -> Self {
        Self {
            start: start.into(),
            end: end.map(Into::into),
        }
    }

    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether `key` lies in the span.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether no key can lie in the span.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end <= &*self.start)
    }

    /// The keys that lie in both spans; `None` when there are none.
    #[must_use]
    pub fn intersect(&self, start: &[u8], end: Option<&[u8]>) -> Option<Self> {
        let start = (&*self.start).max(start);
        let end = match (self.end.as_deref(), end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if end.is_some_and(|end| end <= start) {
            return None;
        }
        Some(Self::new(start, end))
    }
}

/// The first key after every key that starts with `prefix`; `None` when there is no such key (all bytes 0xff).
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// Prints bytes as text where they are printable ASCII and as `\xNN` elsewhere.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, ", Escaped(&self.start))?;
        match &self.end {
            Some(end) => write!(f, "{})", Escaped(end)),
            None => f.write_str("∞)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_half_open() {
        let span = Span::new(b"b", Some(b"d"));
        assert!(!span.contains(b"a"));
        assert!(span.contains(b"b"));
        assert!(span.contains(b"c\xff"));
        assert!(!span.contains(b"d"));
        assert_eq!(span.intersect(b"c", None), Some(Span::new(b"c", Some(b"d"))));
        assert_eq!(span.intersect(b"d", None), None);
        assert!(Span::all().contains(b""));
    }

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(prefix_end(b"a\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
