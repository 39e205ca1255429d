//! Tab-separated lines.
//!
//! A line is `key ⇥ value`; the value is everything behind the first tab, further tabs included. Without `escape` bytes are
//! taken and written as they stand, so a key must not hold a tab or a line end and a value must not hold a line end.
//!
//! With `escape`, `\n` stands for a line end and, in keys, `\t` for a tab. To leave every other text alone and still be exact
//! in both directions, backslashes are doubled only where a run of them meets one of those letters:
//!
//! ```text
//!   stored bytes            in the file
//!   a LF b                  a\nb
//!   a \ n b                 a\\nb          two backslashes: the letter n behind one backslash
//!   a \ LF b                a\\\nb
//!   C:\dir                  C:\dir         untouched
//! ```
//!
//! A run of k backslashes before the letter becomes 2k, before a line end 2k+1: each file text has one reading and each
//! byte string one writing.

use super::{Fault, Layout, Pair, position};

/// (byte, letter) pairs that a key escapes.
const KEY_ESCAPES: &[(u8, u8)] = &[(b'\n', b'n'), (b'\t', b't')];
/// (byte, letter) pairs that a value escapes: a tab is no danger there.
const VALUE_ESCAPES: &[(u8, u8)] = &[(b'\n', b'n')];

pub(super) fn parse(layout: &Layout, line: &[u8]) -> Result<Pair, Fault> {
    let (key, value) = columns(layout, line)?;
    if !layout.escape {
        return Ok((key.to_vec(), value));
    }
    Ok((unescape(key, KEY_ESCAPES), unescape(&value, VALUE_ESCAPES)))
}

fn columns<'a>(layout: &Layout, line: &'a [u8]) -> Result<(&'a [u8], Vec<u8>), Fault> {
    let delimiter = layout.delimiter;
    let key_at = position(layout.key.as_ref(), 0)?;
    if key_at == 0 && layout.value.is_none() {
        let tab = line
            .iter()
            .position(|&b| b == delimiter)
            .ok_or(Fault::MissingColumn { column: 2, found: 1 })?;
        return Ok((&line[..tab], line[tab + 1..].to_vec()));
    }
    let columns: Vec<&[u8]> = line.split(|&b| b == delimiter).collect();
    let column = |at: usize| {
        columns.get(at).copied().ok_or(Fault::MissingColumn {
            column: at + 1,
            found: columns.len(),
        })
    };
    let key = column(key_at)?;
    let value = match &layout.value {
        Some(value) => column(position(Some(value), 1)?)?.to_vec(),
        None => {
            let others: Vec<&[u8]> = columns
                .iter()
                .enumerate()
                .filter(|&(at, _)| at != key_at)
                .map(|(_, c)| *c)
                .collect();
            others.join(&delimiter)
        }
    };
    Ok((key, value))
}

pub(super) fn write(layout: &Layout, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if layout.escape {
        escape(key, KEY_ESCAPES, out);
        out.push(layout.delimiter);
        escape(value, VALUE_ESCAPES, out);
        return Ok(());
    }
    if key.contains(&layout.delimiter) {
        return Err(Fault::UnwritableKey("a tab"));
    }
    if key.contains(&b'\n') {
        return Err(Fault::UnwritableKey("a line end"));
    }
    if value.contains(&b'\n') {
        return Err(Fault::UnwritableValue("a line end"));
    }
    out.extend_from_slice(key);
    out.push(layout.delimiter);
    out.extend_from_slice(value);
    Ok(())
}

fn escape(bytes: &[u8], escapes: &[(u8, u8)], out: &mut Vec<u8>) {
    let mut run = 0;
    for &byte in bytes {
        if byte == b'\\' {
            run += 1;
        } else {
            if let Some(&(_, letter)) = escapes.iter().find(|&&(raw, _)| raw == byte) {
                out.extend(std::iter::repeat_n(b'\\', run + 1));
                out.push(letter);
                run = 0;
                continue;
            }
            if escapes.iter().any(|&(_, letter)| letter == byte) {
                out.extend(std::iter::repeat_n(b'\\', run));
            }
            run = 0;
        }
        out.push(byte);
    }
}

fn unescape(text: &[u8], escapes: &[(u8, u8)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut run = 0;
    for &byte in text {
        if byte == b'\\' {
            run += 1;
            continue;
        }
        match escapes.iter().find(|&&(_, letter)| letter == byte) {
            Some(&(raw, letter)) => {
                out.extend(std::iter::repeat_n(b'\\', run / 2));
                out.push(if run % 2 == 1 { raw } else { letter });
            }
            None => {
                out.extend(std::iter::repeat_n(b'\\', run));
                out.push(byte);
            }
        }
        run = 0;
    }
    out.extend(std::iter::repeat_n(b'\\', run));
    out
}
