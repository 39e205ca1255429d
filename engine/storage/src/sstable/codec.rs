//! Integers and byte strings of variable length, for the formats of this crate. Every read is checked.

/// Appends `value` in groups of seven bits, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends the length of `bytes`, then `bytes`.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes values off the front of a byte string; `None` when it ends too early or is malformed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    #[inline]
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let (&first, rest) = self.0.split_first()?;
        if first < 0x80 {
            self.0 = rest;
            return Some(u64::from(first));
        }
        self.varint_long()
    }

    fn varint_long(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    pub(crate) fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.length()?;
        self.take(len)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| *byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    pub(crate) fn timestamp(&mut self) -> Option<base::Timestamp> {
        Some(base::Timestamp::new(self.u64()?, self.u32()?))
    }

    /// A presence byte, then the bytes.
    pub(crate) fn optional_bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match self.byte()? {
            0 => Some(None),
            1 => Some(Some(self.bytes()?)),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) fn put_timestamp(out: &mut Vec<u8>, ts: base::Timestamp) {
    out.extend_from_slice(&ts.wall_ns.to_le_bytes());
    out.extend_from_slice(&ts.logical.to_le_bytes());
}

pub(crate) fn put_optional_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            out.push(1);
            put_bytes(out, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(numbers in proptest::collection::vec(any::<u64>(), 0..6), text in any::<Option<Vec<u8>>>()) {
            let mut out = Vec::new();
            for &number in &numbers {
                put_varint(&mut out, number >> (number % 64));
            }
            put_optional_bytes(&mut out, text.as_deref());
            let mut decoder = Decoder(&out);
            for &number in &numbers {
                prop_assert_eq!(decoder.varint(), Some(number >> (number % 64)));
            }
            prop_assert_eq!(decoder.optional_bytes(), Some(text.as_deref()));
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn hostile_bytes_end_in_none(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut decoder = Decoder(&bytes);
            while decoder.bytes().is_some() {}
            let mut decoder = Decoder(&bytes);
            while decoder.varint().is_some() {}
        }
    }

    #[test]
    fn a_varint_beyond_64_bits_is_malformed() {
        assert_eq!(Decoder(&[0xff; 11]).varint(), None);
        assert_eq!(
            Decoder(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).varint(),
            Some(u64::MAX)
        );
        assert_eq!(
            Decoder(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint(),
            None
        );
    }
}
