//! Hybrid logical timestamps.

use core::fmt;

/// A point in hybrid logical time: wall nanoseconds since the Unix epoch, then a logical counter.
///
/// Ordered by wall time first. [`Timestamp::ZERO`] precedes and [`Timestamp::MAX`] follows every timestamp a clock issues.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub wall_ns: u64,
    /// Orders events of the same nanosecond.
    pub logical: u32,
}

impl Timestamp {
    /// Before every timestamp that a clock issues.
    pub const ZERO: Self = Self {
        wall_ns: 0,
        logical: 0,
    };
    /// After every timestamp that a clock issues; reads at it see the newest version.
    pub const MAX: Self = Self {
        wall_ns: u64::MAX,
        logical: u32::MAX,
    };
    /// Bytes of the encoded forms.
    pub const ENCODED_LEN: usize = 12;

    /// Builds a timestamp from its parts.
    #[must_use]
    pub const fn new(wall_ns: u64, logical: u32) -> Self {
        Self { wall_ns, logical }
    }

    /// The smallest timestamp greater than `self`; `MAX` stays.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.logical == u32::MAX {
            if self.wall_ns == u64::MAX {
                return Self::MAX;
            }
            return Self {
                wall_ns: self.wall_ns + 1,
                logical: 0,
            };
        }
        Self {
            wall_ns: self.wall_ns,
            logical: self.logical + 1,
        }
    }

    /// The greatest timestamp smaller than `self`; `ZERO` stays.
    #[must_use]
    pub const fn prev(self) -> Self {
        if self.logical == 0 {
            if self.wall_ns == 0 {
                return Self::ZERO;
            }
            return Self {
                wall_ns: self.wall_ns - 1,
                logical: u32::MAX,
            };
        }
        Self {
            wall_ns: self.wall_ns,
            logical: self.logical - 1,
        }
    }

    /// The same logical part, `ns` later, saturating.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self {
            wall_ns: self.wall_ns.saturating_add(ns),
            logical: self.logical,
        }
    }

    /// `ns` earlier, saturating at zero.
    #[must_use]
    pub const fn minus_ns(self, ns: u64) -> Self {
        Self {
            wall_ns: self.wall_ns.saturating_sub(ns),
            logical: self.logical,
        }
    }

    /// Twelve bytes that sort *newest first* under byte order: the complement of wall then logical, big-endian.
    #[must_use]
    pub fn encode_descending(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[..8].copy_from_slice(&(!self.wall_ns).to_be_bytes());
        out[8..].copy_from_slice(&(!self.logical).to_be_bytes());
        out
    }

    /// The inverse of [`Self::encode_descending`].
    #[must_use]
    pub fn decode_descending(bytes: &[u8; Self::ENCODED_LEN]) -> Self {
        let [w0, w1, w2, w3, w4, w5, w6, w7, l0, l1, l2, l3] = *bytes;
        Self {
            wall_ns: !u64::from_be_bytes([w0, w1, w2, w3, w4, w5, w6, w7]),
            logical: !u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.wall_ns / 1_000_000_000,
            self.wall_ns % 1_000_000_000
        )?;
        if self.logical != 0 {
            write!(f, "+{}", self.logical)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text form of [`Timestamp`]: `SECONDS[.NANOS][+LOGICAL]`.
impl core::str::FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (wall, logical) = match text.split_once('+') {
            Some((wall, logical)) => (wall, logical.parse().map_err(|_| ParseTimestampError)?),
            None => (text, 0),
        };
        let (secs, nanos) = wall.split_once('.').unwrap_or((wall, "0"));
        if nanos.is_empty() || nanos.len() > 9 || !nanos.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseTimestampError);
        }
        let secs: u64 = secs.parse().map_err(|_| ParseTimestampError)?;
        let nanos = nanos
            .bytes()
            .chain(core::iter::repeat(b'0'))
            .take(9)
            .fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        let wall_ns = secs
            .checked_mul(1_000_000_000)
            .and_then(|ns| ns.checked_add(nanos));
        Ok(Self {
            wall_ns: wall_ns.ok_or(ParseTimestampError)?,
            logical,
        })
    }
}

/// The text is not `SECONDS[.NANOS][+LOGICAL]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseTimestampError;

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a timestamp reads SECONDS[.NANOS][+LOGICAL], for example 1790000000.250000000+3")
    }
}

impl core::error::Error for ParseTimestampError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descending_form_sorts_newest_first() {
        let ordered = [
            Timestamp::ZERO,
            Timestamp::new(0, 1),
            Timestamp::new(1, 0),
            Timestamp::new(1, u32::MAX),
            Timestamp::new(u64::MAX, 0),
            Timestamp::MAX,
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].encode_descending() > pair[1].encode_descending());
            assert_eq!(
                Timestamp::decode_descending(&pair[0].encode_descending()),
                pair[0]
            );
        }
    }

    #[test]
    fn text_form_round_trips() {
        for ts in [
            Timestamp::new(1_790_000_000_000_000_005, 0),
            Timestamp::new(1_500_000_000, 7),
        ] {
            assert_eq!(ts.to_string().parse(), Ok(ts));
        }
        assert_eq!("12.5".parse(), Ok(Timestamp::new(12_500_000_000, 0)));
        for bad in ["", "x", "1.", "1.x", "1+", "1.0123456789", "99999999999999999999"] {
            assert_eq!(bad.parse::<Timestamp>(), Err(ParseTimestampError), "{bad}");
        }
    }

    #[test]
    fn next_carries() {
        assert_eq!(Timestamp::new(1, u32::MAX).next(), Timestamp::new(2, 0));
        assert_eq!(Timestamp::MAX.next(), Timestamp::MAX);
        assert_eq!(Timestamp::new(2, 0).prev(), Timestamp::new(1, u32::MAX));
        assert_eq!(Timestamp::new(2, 0).prev().next(), Timestamp::new(2, 0));
        assert_eq!(Timestamp::ZERO.prev(), Timestamp::ZERO);
    }
}
