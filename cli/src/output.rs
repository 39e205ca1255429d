//! Results on standard output: text for people, JSON for programs.

use crate::args::Global;
use crate::bytes::{Hex, Show};
use crate::error::{CliError, Exit, code};
use base::Timestamp;
use serde_json::{Map, Value};
use std::io::{self, BufWriter, StdoutLock, Write};

/// Standard output, buffered. A reader that went away (`corelane scan | head`) ends the command quietly.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Writes bytes as they stand.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.0.write_all(bytes).map_err(|error| output_error(&error))
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        writeln!(self.0, "{text}").map_err(|error| output_error(&error))
    }

    /// Makes everything visible.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.0.flush().map_err(|error| output_error(&error))
    }
}

/// What a failed write to standard output means. A closed pipe is the reader's choice and exits as done, without a message.
fn output_error(error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(Exit::Ok as i32);
    }
    CliError::new(code::LOCAL_FILE, Exit::Io, "cannot write to standard output").cause(error.to_string())
}

/// Prints one result: `text` for people, `json` for programs.
pub(crate) fn print(global: &Global, text: impl std::fmt::Display, json: &Value) -> Result<(), CliError> {
    let mut out = Output::new();
    if global.json {
        out.line(json)?;
    } else {
        out.line(text)?;
    }
    out.flush()
}

/// Bytes for people: readable text, or hexadecimal digits with `--hex`.
pub(crate) fn shown(global: &Global, bytes: &[u8]) -> String {
    if global.hex {
        Hex(bytes).to_string()
    } else {
        Show(bytes).to_string()
    }
}

/// A JSON object under construction; bytes are `"name": text` when they are UTF-8, else `"name_hex": digits`.
#[derive(Debug, Default)]
pub(crate) struct Object(Map<String, Value>);

impl Object {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn bytes(self, name: &str, bytes: &[u8], hex: bool) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if !hex => self.set(name, text),
            _ => self.set(&format!("{name}_hex"), Hex(bytes).to_string()),
        }
    }

    pub(crate) fn ts(self, ts: Timestamp) -> Self {
        self.set("ts", ts.to_string())
    }

    pub(crate) fn build(self) -> Value {
        Value::Object(self.0)
    }
}

/// A table without frames: columns aligned, two blanks between them.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A count with separators: `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes with a unit: `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, in integers: the last digit may be cut, never rounded up to 1024.0.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16383.9 PiB", "cut, not rounded");
    }

    #[test]
    fn bytes_that_are_no_text_are_marked() {
        let object = Object::new()
            .bytes("key", b"a\xff", false)
            .bytes("value", b"v", false)
            .build();
        assert_eq!(object.to_string(), r#"{"key_hex":"61ff","value":"v"}"#);
        assert_eq!(Object::new().bytes("key", b"a", true).build()["key_hex"], "61");
    }
}
