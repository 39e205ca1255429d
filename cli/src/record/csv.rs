//! Comma-separated records after RFC 4180.
//!
//! A field that starts with a quote ends at the next quote that is not doubled, and may hold delimiters and line ends. In
//! other fields a quote is a plain character, as most programs read it. The key is a field's content, without quotes; the
//! value is the rest of the record *as it stands*, or one field's content when a value column is chosen.

use super::{Fault, Layout, Pair, position};

/// One field of a record, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// With its quotes, if any.
    text: &'a [u8],
    quoted: bool,
}

impl Field<'_> {
    /// Without quotes, doubled quotes halved.
    pub(super) fn content(&self) -> Vec<u8> {
        if !self.quoted {
            return self.text.to_vec();
        }
        let inner = &self.text[1..self.text.len() - 1];
        let mut out = Vec::with_capacity(inner.len());
        let mut rest = inner.iter();
        while let Some(&byte) = rest.next() {
            out.push(byte);
            if byte == b'"' {
                rest.next();
            }
        }
        out
    }
}

/// The position of the line end that ends the first record; line ends inside quotes do not.
pub(super) fn line_end(text: &[u8], delimiter: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        if text.get(at) == Some(&b'"') {
            at = quoted_end(text, at)?;
        }
        // Behind a closing quote, anything up to the delimiter is refused when the record is parsed.
        at += text[at..].iter().position(|&b| b == delimiter || b == b'\n')?;
        if text[at] == b'\n' {
            return Some(at);
        }
        at += 1;
    }
}

/// The position behind the quote that closes the field starting at `at`.
fn quoted_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += text.get(at..)?.iter().position(|&b| b == b'"')? + 1;
        if text.get(at) != Some(&b'"') {
            return Some(at);
        }
        at += 1;
    }
}

/// The fields of one record, given without its line end.
pub(super) fn fields(line: &[u8], delimiter: u8) -> Result<Vec<Field<'_>>, Fault> {
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let quoted = line.get(at) == Some(&b'"');
        let end = if quoted {
            quoted_end(line, at).ok_or(Fault::OpenQuote)?
        } else {
            line[at..]
                .iter()
                .position(|&b| b == delimiter)
                .map_or(line.len(), |len| at + len)
        };
        fields.push(Field {
            text: &line[at..end],
            quoted,
        });
        match line.get(end) {
            None => return Ok(fields),
            Some(&byte) if byte == delimiter => at = end + 1,
            Some(_) => return Err(Fault::AfterQuote),
        }
    }
}

pub(super) fn parse(layout: &Layout, line: &[u8]) -> Result<Pair, Fault> {
    let fields = fields(line, layout.delimiter)?;
    let field = |at: usize| {
        fields.get(at).ok_or(Fault::MissingColumn {
            column: at + 1,
            found: fields.len(),
        })
    };
    let key_at = position(layout.key.as_ref(), 0)?;
    let key = field(key_at)?.content();
    let value = match &layout.value {
        Some(value) => field(position(Some(value), 1)?)?.content(),
        None => {
            if fields.len() < 2 {
                return Err(Fault::MissingColumn {
                    column: 2,
                    found: fields.len(),
                });
            }
            let others: Vec<&[u8]> = fields
                .iter()
                .enumerate()
                .filter(|&(at, _)| at != key_at)
                .map(|(_, f)| f.text)
                .collect();
            others.join(&layout.delimiter)
        }
    };
    Ok((key, value))
}

pub(super) fn write(layout: &Layout, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    write_field(key, layout.delimiter, out);
    out.push(layout.delimiter);
    if layout.quote_value {
        write_field(value, layout.delimiter, out);
        return Ok(());
    }
    // The rest of a record stands as it is, so it has to be the rest of *one* record.
    let mut with_end = value.to_vec();
    with_end.push(b'\n');
    if line_end(&with_end, layout.delimiter) != Some(value.len()) {
        return Err(Fault::UnwritableValue(
            "a line end or a quote that would end the record elsewhere",
        ));
    }
    if value.last() == Some(&b'\r') {
        return Err(Fault::UnwritableValue("a carriage return at its end"));
    }
    fields(value, layout.delimiter).map_err(|_| Fault::UnwritableValue("a quoted field that is not one"))?;
    out.extend_from_slice(value);
    Ok(())
}

fn write_field(content: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let blank_line = content.is_empty();
    let special = |&b: &u8| b == delimiter || b == b'"' || b == b'\n' || b == b'\r';
    if !blank_line && !content.iter().any(special) {
        out.extend_from_slice(content);
        return;
    }
    out.push(b'"');
    for &byte in content {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
