//! Protocol buffers by hand: the few fields of etcd's `Put` and `Range` that a load needs.
//!
//! Source: the Protocol Buffers encoding guide; `rpc.proto` and `kv.proto` of etcd 3.

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    /// The message ends inside a field.
    #[error("protocol buffer: cut off inside a field")]
    Cut,
    /// A wire type that proto3 does not use.
    #[error("protocol buffer: wire type {found}")]
    WireType { found: u8 },
    /// A number of more than 64 bits.
    #[error("protocol buffer: a varint of more than 64 bits")]
    Varint,
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads a message field by field.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).map_err(|_| ProtobufError::Cut)?)?)
            }
            5 => Field::Bytes(self.take(4)?),
            other => {
                return Err(ProtobufError::WireType {
                    found: u8::try_from(other).expect("three bits"),
                });
            }
        };
        Ok(Some((tag >> 3, field)))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtobufError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(ProtobufError::Cut)?;
        self.rest = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(ProtobufError::Cut)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(ProtobufError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Varint)
    }
}

/// Appends a number field.
pub(super) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// Appends a bytes field.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_survive() {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"key");
        put_number(&mut out, 3, 300);
        put_number(&mut out, 4, u64::MAX);
        assert_eq!(&out[..8], b"\x0a\x03key\x18\xac\x02");
        let mut fields = Fields::new(&out);
        assert_eq!(fields.next(), Ok(Some((1, Field::Bytes(b"key")))));
        assert_eq!(fields.next(), Ok(Some((3, Field::Number(300)))));
        assert_eq!(fields.next(), Ok(Some((4, Field::Number(u64::MAX)))));
        assert_eq!(fields.next(), Ok(None));
    }

    #[test]
    fn hostile_messages_are_named() {
        assert_eq!(Fields::new(b"\x0a\x05abc").next(), Err(ProtobufError::Cut));
        assert_eq!(
            Fields::new(b"\x0b").next(),
            Err(ProtobufError::WireType { found: 3 })
        );
        assert_eq!(Fields::new(&[0xff; 12]).next(), Err(ProtobufError::Varint));
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut fields = Fields::new(&input);
            for _ in 0..=input.len() {
                match fields.next() {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
            prop_assert!(false, "more fields than bytes");
        }
    }
}
