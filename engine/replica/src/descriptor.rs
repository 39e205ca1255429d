//! What a range is: its span and how often that changed.

use base::RangeId;
use base::key::Span;

/// A range of the key space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The range's id, never reused.
    pub range: RangeId,
    /// The keys that belong to it.
    pub span: Span,
    /// Increases with every change of the span; the higher one is right.
    pub generation: u64,
}

/// Whether `spans`, sorted by start, cover the keys from `start` to `end` (`None`: the end of the key space) without a gap or an
/// overlap.
///
/// # Errors
/// The position of the first span that does not follow on, or their number when keys after the last one are missing.
pub fn check_tiling<'a>(
    spans: impl IntoIterator<Item = &'a Span>,
    start: &[u8],
    end: Option<&[u8]>,
) -> Result<(), usize> {
    let mut expected = Some(start);
    let mut count = 0;
    for span in spans {
        if expected != Some(&*span.start) || span.is_empty() {
            return Err(count);
        }
        expected = span.end.as_deref();
        count += 1;
    }
    if expected == end { Ok(()) } else { Err(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spans: &[Span]) -> Result<(), usize> {
        check_tiling(spans, b"", None)
    }

    #[test]
    fn tilings() {
        assert_eq!(check(&[Span::new(b"", None)]), Ok(()));
        assert_eq!(
            check(&[Span::new(b"", Some(b"m")), Span::new(b"m", None)]),
            Ok(())
        );
        assert_eq!(check(&[]), Err(0));
        assert_eq!(check(&[Span::new(b"a", None)]), Err(0));
        assert_eq!(check(&[Span::new(b"", Some(b"m"))]), Err(1));
        assert_eq!(
            check(&[Span::new(b"", Some(b"n")), Span::new(b"m", None)]),
            Err(1)
        );
        // Of a part of the key space.
        let middle = [Span::new(b"b", Some(b"m")), Span::new(b"m", Some(b"x"))];
        assert_eq!(check_tiling(&middle, b"b", Some(b"x")), Ok(()));
        assert_eq!(check_tiling(&middle, b"a", Some(b"x")), Err(0));
        assert_eq!(check_tiling(&middle, b"b", Some(b"y")), Err(2));
        assert_eq!(check_tiling(&middle, b"b", None), Err(2));
    }
}
