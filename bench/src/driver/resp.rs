//! RESP2, as far as a load generator meets it: commands out, one-level replies in.
//!
//! ```text
//!   *3\r\n $3\r\nSET\r\n $1\r\nk\r\n $2\r\nvv\r\n        a command: an array of bulk strings
//!   +OK\r\n   -ERR why\r\n   :7\r\n   $2\r\nvv\r\n   $-1\r\n
//! ```
//!
//! Nested replies are refused: no command that is sent here is answered by one.
//! Source: the Redis serialization protocol specification, version 2.

/// The longest simple string, error or number.
const LINE_BYTES_MAX: usize = 4096;
/// The longest bulk string: what Redis itself allows is 512 MiB; the receive buffer keeps less.
const BULK_BYTES_MAX: usize = super::buffer::ANSWER_BYTES_MAX;

/// One reply, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    Simple(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Bulk(&'a [u8]),
    Nil,
}

/// The bytes are not a reply that can follow here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RespError {
    /// The first byte names no type that is expected.
    #[error("RESP: unexpected type byte {found:#04x}")]
    Type { found: u8 },
    /// A line without end.
    #[error("RESP: a line longer than {LINE_BYTES_MAX} bytes")]
    Line,
    /// Not a number where one must be.
    #[error("RESP: {digits:?} is not a number")]
    Number { digits: String },
    /// A length outside its bounds.
    #[error("RESP: a bulk string of {length} bytes, at most {BULK_BYTES_MAX} are taken")]
    Length { length: i64 },
    /// A bulk string that does not end where it says.
    #[error("RESP: a bulk string does not end with a line break")]
    Unterminated,
}

/// Reads one reply from the start of `input`: the reply and the bytes it takes, or `None` when more bytes are needed.
pub(super) fn parse(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, RespError> {
    let Some((&kind, rest)) = input.split_first() else {
        return Ok(None);
    };
    if !matches!(kind, b'+' | b'-' | b':' | b'$') {
        return Err(RespError::Type { found: kind });
    }
    let Some(line) = line(rest)? else { return Ok(None) };
    let after_line = 1 + line.len() + 2;
    let reply = match kind {
        b'+' => Reply::Simple(line),
        b'-' => Reply::Error(line),
        b':' => Reply::Integer(number(line)?),
        _ => {
            let length = number(line)?;
            if length == -1 {
                return Ok(Some((Reply::Nil, after_line)));
            }
            let bytes = usize::try_from(length)
                .ok()
                .filter(|&bytes| bytes <= BULK_BYTES_MAX)
                .ok_or(RespError::Length { length })?;
            let end = after_line + bytes + 2;
            let Some(tail) = input.get(after_line..end) else {
                return Ok(None);
            };
            let (bulk, ending) = tail.split_at(bytes);
            if ending != b"\r\n" {
                return Err(RespError::Unterminated);
            }
            return Ok(Some((Reply::Bulk(bulk), end)));
        }
    };
    Ok(Some((reply, after_line)))
}

/// The bytes up to the first line break.
fn line(input: &[u8]) -> Result<Option<&[u8]>, RespError> {
    let window = &input[..input.len().min(LINE_BYTES_MAX + 2)];
    match window.windows(2).position(|pair| pair == b"\r\n") {
        Some(at) => Ok(Some(&input[..at])),
        None if window.len() == LINE_BYTES_MAX + 2 => Err(RespError::Line),
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Result<i64, RespError> {
    core::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| RespError::Number {
            digits: digits.escape_ascii().to_string(),
        })
}

/// Appends a command: its name and arguments.
pub(super) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.push(b'*');
    length(out, words.len());
    for word in words {
        out.push(b'$');
        length(out, word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn length(out: &mut Vec<u8>, value: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit is below ten");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"key", b"0123456789ab"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$12\r\n0123456789ab\r\n");
    }

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let cases: [(&[u8], Reply<'_>); 6] = [
            (b"+OK\r\n", Reply::Simple(b"OK")),
            (b"-ERR no\r\n", Reply::Error(b"ERR no")),
            (b":-42\r\n", Reply::Integer(-42)),
            (b"$3\r\na\r\n\r\n", Reply::Bulk(b"a\r\n")),
            (b"$0\r\n\r\n", Reply::Bulk(b"")),
            (b"$-1\r\n", Reply::Nil),
        ];
        for (bytes, expected) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(
                    parse(&bytes[..cut]),
                    Ok(None),
                    "{:?}",
                    bytes[..cut].escape_ascii().to_string()
                );
            }
            let mut followed = bytes.to_vec();
            followed.extend(b"+next\r\n");
            assert_eq!(parse(&followed), Ok(Some((expected, bytes.len()))));
        }
    }

    #[test]
    fn hostile_replies_are_named() {
        assert_eq!(parse(b"*1\r\n"), Err(RespError::Type { found: b'*' }));
        assert_eq!(parse(b"$-2\r\n"), Err(RespError::Length { length: -2 }));
        assert_eq!(
            parse(b"$9223372036854775807\r\n"),
            Err(RespError::Length { length: i64::MAX })
        );
        assert!(matches!(parse(b"$1x\r\n"), Err(RespError::Number { .. })));
        assert_eq!(parse(b"$1\r\nabc"), Err(RespError::Unterminated));
        assert_eq!(parse(&[b'+'; 5000]), Err(RespError::Line));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_a_panic(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, used))) = parse(&input) {
                prop_assert!(used > 0 && used <= input.len());
            }
        }

        #[test]
        fn a_bulk_string_survives(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = Vec::new();
            bytes.push(b'$');
            length(&mut bytes, body.len());
            bytes.extend(&body);
            bytes.extend(b"\r\n");
            prop_assert_eq!(parse(&bytes), Ok(Some((Reply::Bulk(&body), bytes.len()))));
        }
    }
}
