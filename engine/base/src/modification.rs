//! Operations whose result depends on the value that they find, and on nothing else: the leader of a key works them out, one after the
//! other, without reading for each, so that many of them on one key do not wait for each other. Pure.
//!
//! A number is written as decimal text, with a `-` where it is negative, so that a plain read shows it; a key without a value counts as
//! zero for [`Modification::Add`], and as not there for the others.

use crate::limits;

/// What becomes of the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modification<'a> {
    /// Adds to a number, if the sum lies in `min..=max`.
    Add {
        /// What is added.
        delta: i64,
        /// The least sum that may be.
        min: i64,
        /// The greatest sum that may be.
        max: i64,
    },
    /// The lesser of a number and `value`.
    Min {
        /// The other number.
        value: i64,
    },
    /// The greater of a number and `value`.
    Max {
        /// The other number.
        value: i64,
    },
    /// Appends bytes to the value, if it has no more than `len_max` of them then.
    Append {
        /// What is appended.
        bytes: &'a [u8],
        /// How long the value may get; at most [`limits::VALUE_BYTES_MAX`].
        len_max: u32,
    },
}

/// Why a key keeps its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unmodified {
    /// The result would lie outside of the bounds that the caller gave, or of a number's or a value's own.
    OutOfBounds,
    /// The value is not a number.
    NotANumber,
}

impl Modification<'_> {
    /// What a key has that had `found`.
    ///
    /// # Errors
    /// [`Unmodified`]: nothing is written.
    pub fn apply(&self, found: Option<&[u8]>) -> Result<Vec<u8>, Unmodified> {
        let number = match self {
            Self::Append { .. } => None,
            _ => found.map(parse).transpose()?,
        };
        let result = match *self {
            Self::Add { delta, min, max } => number
                .unwrap_or(0)
                .checked_add(delta)
                .filter(|sum| (min..=max).contains(sum))
                .ok_or(Unmodified::OutOfBounds)?,
            Self::Min { value } => number.map_or(value, |number| number.min(value)),
            Self::Max { value } => number.map_or(value, |number| number.max(value)),
            Self::Append { bytes, len_max } => {
                let found = found.unwrap_or_default();
                let len_max = (len_max as usize).min(limits::VALUE_BYTES_MAX);
                if found.len() + bytes.len() > len_max {
                    return Err(Unmodified::OutOfBounds);
                }
                return Ok([found, bytes].concat());
            }
        };
        Ok(result.to_string().into_bytes())
    }
}

/// The number that a value is.
///
/// # Errors
/// [`Unmodified::NotANumber`] when it is none: decimal text of 64 bits with a sign.
pub fn parse(value: &[u8]) -> Result<i64, Unmodified> {
    core::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Unmodified::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::Modification::{Add, Append, Max, Min};
    use super::Unmodified::{NotANumber, OutOfBounds};
    use super::*;

    fn add(delta: i64) -> Modification<'static> {
        Add {
            delta,
            min: i64::MIN,
            max: i64::MAX,
        }
    }

    #[test]
    fn sums_stay_within_their_bounds() {
        let down = Add {
            delta: -5,
            min: 0,
            max: 10,
        };
        assert_eq!(down.apply(Some(b"5")), Ok(b"0".to_vec()));
        assert_eq!(down.apply(Some(b"4")), Err(OutOfBounds));
        assert_eq!(
            down.apply(Some(b"16")),
            Err(OutOfBounds),
            "the sum counts, not the way"
        );
        assert_eq!(add(7).apply(None), Ok(b"7".to_vec()));
        assert_eq!(add(-7).apply(Some(b"3")), Ok(b"-4".to_vec()));
        let most = i64::MAX.to_string();
        assert_eq!(add(1).apply(Some(most.as_bytes())), Err(OutOfBounds));
        assert_eq!(add(0).apply(Some(most.as_bytes())), Ok(most.into_bytes()));
    }

    #[test]
    fn only_numbers_are_counted_with() {
        let values: [&[u8]; 6] = [b"", b"x", b"1.5", b" 1", b"9223372036854775808", b"\xff"];
        for value in values {
            for modification in [add(1), Min { value: 1 }, Max { value: 1 }] {
                assert_eq!(modification.apply(Some(value)), Err(NotANumber), "{value:?}");
            }
        }
    }

    #[test]
    fn the_lesser_and_the_greater_take_what_is_not_there_as_nothing() {
        assert_eq!(Min { value: 3 }.apply(None), Ok(b"3".to_vec()));
        assert_eq!(Max { value: -3 }.apply(None), Ok(b"-3".to_vec()));
        assert_eq!(Min { value: 3 }.apply(Some(b"2")), Ok(b"2".to_vec()));
        assert_eq!(Max { value: 3 }.apply(Some(b"2")), Ok(b"3".to_vec()));
    }

    #[test]
    fn bytes_are_appended_where_they_fit() {
        let more = Append {
            bytes: b"cd",
            len_max: 4,
        };
        assert_eq!(more.apply(Some(b"ab")), Ok(b"abcd".to_vec()));
        assert_eq!(more.apply(None), Ok(b"cd".to_vec()));
        assert_eq!(more.apply(Some(b"abc")), Err(OutOfBounds));
        let long = vec![0; limits::VALUE_BYTES_MAX - 1];
        let endless = Append {
            bytes: b"cd",
            len_max: u32::MAX,
        };
        assert_eq!(endless.apply(Some(&long)), Err(OutOfBounds));
    }
}
