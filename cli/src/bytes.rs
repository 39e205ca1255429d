//! Bytes as people type and read them.
//!
//! ```text
//!             as they are     --hex        in the shell and on the screen
//!   key   a b 0x00 é          "6162 00c3a9"        "ab\x00é"
//! ```
//!
//! Invariant: [`parse_escaped`] undoes [`Show`] exactly, for every byte string.

use std::fmt;

/// Prints bytes as UTF-8 text; what is not printable appears as `\n`, `\t`, `\r` or `\xNN`, and `\` as `\\`.
pub(crate) struct Show<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    '\\' => f.write_str("\\\\")?,
                    c if is_plain(c) => write!(f, "{c}")?,
                    c => {
                        let mut buf = [0; 4];
                        for byte in c.encode_utf8(&mut buf).bytes() {
                            write!(f, "\\x{byte:02x}")?;
                        }
                    }
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whether a terminal shows `c` as itself: not a control character and none that reorders or hides its neighbours.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Text that does not stand for bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadBytes {
    /// What is wrong with it.
    pub(crate) what: &'static str,
    /// Where, in bytes from its start.
    pub(crate) at: usize,
}

impl fmt::Display for BadBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}", self.what, self.at + 1)
    }
}

/// The bytes that hexadecimal digits stand for; blanks between bytes are allowed, upper case too.
///
/// # Errors
/// [`BadBytes`] for another character or half a byte.
pub(crate) fn parse_hex(text: &[u8]) -> Result<Vec<u8>, BadBytes> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for (at, &c) in text.iter().enumerate() {
        if c == b' ' && high.is_none() {
            continue;
        }
        let digit = hex_digit(c).ok_or(BadBytes {
            what: "not a hexadecimal digit",
            at,
        })?;
        match high.take() {
            None => high = Some(digit),
            Some(high) => out.push(high << 4 | digit),
        }
    }
    match high {
        None => Ok(out),
        Some(_) => Err(BadBytes {
            what: "half a byte: an odd number of hexadecimal digits",
            at: text.len(),
        }),
    }
}

fn hex_digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

/// The bytes that text with the escapes of [`Show`] stands for. `\0`, `\'`, `\"` and `\ ` (a blank) are read too.
///
/// # Errors
/// [`BadBytes`] for an unknown or unfinished escape.
pub(crate) fn parse_escaped(text: &[u8]) -> Result<Vec<u8>, BadBytes> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied().enumerate();
    while let Some((at, c)) = rest.next() {
        if c != b'\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some((_, b'n')) => out.push(b'\n'),
            Some((_, b't')) => out.push(b'\t'),
            Some((_, b'r')) => out.push(b'\r'),
            Some((_, b'0')) => out.push(0),
            Some((_, c @ (b'\\' | b'\'' | b'"' | b' '))) => out.push(c),
            Some((_, b'x')) => {
                let mut digit = || rest.next().and_then(|(_, c)| hex_digit(c));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(BadBytes {
                        what: "`\\x` needs two hexadecimal digits",
                        at,
                    });
                };
                out.push(high << 4 | low);
            }
            Some(_) => {
                return Err(BadBytes {
                    what: "unknown escape (known: \\n \\t \\r \\0 \\\\ \\' \\\" \\xNN)",
                    at,
                });
            }
            None => {
                return Err(BadBytes {
                    what: "a lone backslash ends the text",
                    at,
                });
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shows_what_a_person_can_read() {
        let shown = |bytes: &[u8]| Show(bytes).to_string();
        assert_eq!(shown("größe".as_bytes()), "größe");
        assert_eq!(shown(b"a\tb\n\x00\\\xff"), r"a\tb\n\x00\\\xff");
        assert_eq!(
            shown("\u{202e}".as_bytes()),
            r"\xe2\x80\xae",
            "a text direction override must not reach the screen"
        );
        assert_eq!(shown(b"\x1b[31m"), r"\x1b[31m");
    }

    #[test]
    fn refusals_name_the_place() {
        assert_eq!(parse_hex(b"0g").unwrap_err().at, 1);
        assert_eq!(
            parse_hex(b"012").unwrap_err().what,
            "half a byte: an odd number of hexadecimal digits"
        );
        assert_eq!(parse_hex(b"00 Ff").unwrap(), [0, 255]);
        assert!(parse_hex(b"0 0").is_err());
        assert_eq!(parse_escaped(br"ab\q").unwrap_err().at, 2);
        assert!(parse_escaped(b"\\").is_err());
        assert!(parse_escaped(br"\x4").is_err());
        assert_eq!(parse_escaped(br"a\ b\0").unwrap(), b"a b\0");
    }

    proptest! {
        #[test]
        fn both_forms_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(parse_escaped(Show(&bytes).to_string().as_bytes()).unwrap(), bytes.clone());
            prop_assert_eq!(parse_hex(Hex(&bytes).to_string().as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_escaped(&text);
            let _ = parse_hex(&text);
        }
    }
}
