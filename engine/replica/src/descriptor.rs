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

/// Whether `descriptors`, sorted by start, cover the whole key space without a gap or an overlap.
///
/// # Errors
/// The position of the first descriptor that does not follow on.
pub fn check_tiling(descriptors: &[Descriptor]) -> Result<(), usize> {
    let mut expected: Option<&[u8]> = Some(b"");
    for (position, descriptor) in descriptors.iter().enumerate() {
        if expected != Some(&descriptor.span.start) || descriptor.span.is_empty() {
            return Err(position);
        }
        expected = descriptor.span.end.as_deref();
    }
    if expected.is_some() {
        Err(descriptors.len())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(range: u64, start: &[u8], end: Option<&[u8]>) -> Descriptor {
        Descriptor {
            range: RangeId(range),
            span: Span::new(start, end),
            generation: 1,
        }
    }

    #[test]
    fn tilings() {
        assert_eq!(check_tiling(&[descriptor(2, b"", None)]), Ok(()));
        assert_eq!(
            check_tiling(&[descriptor(2, b"", Some(b"m")), descriptor(3, b"m", None)]),
            Ok(())
        );
        assert_eq!(check_tiling(&[]), Err(0));
        assert_eq!(check_tiling(&[descriptor(2, b"a", None)]), Err(0));
        assert_eq!(check_tiling(&[descriptor(2, b"", Some(b"m"))]), Err(1));
        assert_eq!(
            check_tiling(&[descriptor(2, b"", Some(b"n")), descriptor(3, b"m", None)]),
            Err(1)
        );
    }
}
