//! Records as lines of text: how `import` cuts a file into keys and values and how `export` writes them back.
//!
//! ```text
//!   tsv     key ⇥ everything up to the line end                    (the default: bytes as they stand)
//!   csv     key , everything up to the record's end                (RFC 4180: quotes, doubled quotes, line ends in quotes)
//!   jsonl   {"key": "…", "value": "…"}  or any object: the first field is the key, the other fields are the value
//! ```
//!
//! Cutting ([`Layout::record_end`]), parsing ([`Layout::parse`]) and writing ([`Layout::write`]) are pure functions of bytes;
//! [`reader::RecordReader`] feeds them from a file and knows offsets and line numbers.
//!
//! Invariants:
//! - With one layout, what [`Layout::write`] wrote is parsed to the same key and value.
//! - With the default TSV layout, and with `escape`, a line that was parsed is written back byte for byte.
//! - No input makes these functions panic; what is not a record is refused with the reason.

pub mod csv;
pub mod jsonl;
pub mod reader;
pub mod tsv;

#[cfg(test)]
mod tests;

use std::fmt;

/// How records are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines of columns separated by tabs.
    Tsv,
    /// Records of fields separated by commas, quoted where needed (RFC 4180).
    Csv,
    /// One JSON object on each line.
    Jsonl,
}

impl Format {
    /// The format that a file's name suggests; TSV when it suggests none.
    #[must_use]
    pub fn of_path(path: &std::path::Path) -> Self {
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or("")
            .to_ascii_lowercase();
        match extension.as_str() {
            "csv" => Self::Csv,
            "jsonl" | "ndjson" | "json" => Self::Jsonl,
            _ => Self::Tsv,
        }
    }
}

/// A column or field, as chosen on the command line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Column {
    /// By position, from zero.
    Number(usize),
    /// By its name in the header line, or in a JSON object.
    Name(String),
}

/// Where key and value stand in a record.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layout {
    /// The syntax.
    pub format: Format,
    /// What separates columns, for TSV and CSV.
    pub delimiter: u8,
    /// The column of the key; `None` is the first one (for JSON: the field `key`, else the first).
    pub key: Option<Column>,
    /// The column of the value; `None` is everything but the key.
    pub value: Option<Column>,
    /// TSV only: `\n` and (in keys) `\t` stand for a line end and a tab.
    pub escape: bool,
    /// CSV only, for writing: the value is one field, quoted where needed, instead of the rest of the record as it stands.
    pub quote_value: bool,
}

/// Why some text is not a record, or a record cannot be text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The record has fewer columns than needed.
    MissingColumn {
        /// The column, counted from one.
        column: usize,
        /// How many there are.
        found: usize,
    },
    /// No column or field has this name.
    MissingName(String),
    /// A quoted CSV field is followed by something other than the delimiter.
    AfterQuote,
    /// A quoted CSV field does not end.
    OpenQuote,
    /// Not a JSON object.
    Json(String),
    /// The key of a JSON object is neither text nor a number.
    JsonKey,
    /// `key_hex` or `value_hex` holds something other than hexadecimal digits.
    JsonHex,
    /// The key cannot be written: it holds the named byte.
    UnwritableKey(&'static str),
    /// The value cannot be written: it holds, or is, the named thing.
    UnwritableValue(&'static str),
    /// Longer than any key and value together may be.
    TooLong {
        /// The bound, in bytes.
        bytes_max: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingColumn { column, found: 1 } => {
                write!(f, "there is no column {column}: no delimiter in the record")
            }
            Self::MissingColumn { column, found } => write!(f, "there is no column {column}, only {found}"),
            Self::MissingName(name) => write!(f, "there is no column or field `{name}`"),
            Self::AfterQuote => f.write_str("a quoted field goes on after its closing quote"),
            Self::OpenQuote => f.write_str("a quoted field is never closed"),
            Self::Json(error) => write!(f, "not a JSON object: {error}"),
            Self::JsonKey => f.write_str("the key field is neither text nor a number"),
            Self::JsonHex => {
                f.write_str("a `_hex` field holds something other than pairs of hexadecimal digits")
            }
            Self::UnwritableKey(what) => write!(f, "the key holds {what}"),
            Self::UnwritableValue(what) => write!(f, "the value holds {what}"),
            Self::TooLong { bytes_max } => write!(f, "the record is longer than {bytes_max} bytes"),
        }
    }
}

/// A key and its value, taken from a record.
pub type Pair = (Vec<u8>, Vec<u8>);

impl Layout {
    /// The plain layout of a format: first column the key, the rest the value.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let delimiter = match format {
            Format::Tsv => b'\t',
            Format::Csv | Format::Jsonl => b',',
        };
        Self {
            format,
            delimiter,
            key: None,
            value: None,
            escape: false,
            quote_value: false,
        }
    }

    /// Where the first record of `text` ends: just behind its line end, or at the end of `text` when that is `last`.
    /// `None` asks for more text.
    #[must_use]
    pub fn record_end(&self, text: &[u8], last: bool) -> Option<usize> {
        let end = match self.format {
            Format::Tsv | Format::Jsonl => text.iter().position(|&b| b == b'\n'),
            Format::Csv => csv::line_end(text, self.delimiter),
        };
        end.map(|at| at + 1)
            .or_else(|| (last && !text.is_empty()).then_some(text.len()))
    }

    /// The key and value of one record, given with or without its line end. `None` for an empty line.
    ///
    /// # Errors
    /// [`Fault`] when it is not a record of this layout.
    pub fn parse(&self, record: &[u8]) -> Result<Option<Pair>, Fault> {
        let line = record.strip_suffix(b"\n").unwrap_or(record);
        // A carriage return before the line end belongs to a TSV value, since it has to come back.
        let trimmed = line.strip_suffix(b"\r").unwrap_or(line);
        match self.format {
            Format::Tsv if line.is_empty() => Ok(None),
            Format::Csv if trimmed.is_empty() => Ok(None),
            Format::Jsonl if trimmed.trim_ascii().is_empty() => Ok(None),
            Format::Tsv => tsv::parse(self, line).map(Some),
            Format::Csv => csv::parse(self, trimmed).map(Some),
            Format::Jsonl => jsonl::parse(self, trimmed).map(Some),
        }
    }

    /// Turns column names into positions, with the names of `header`, the first record of the input.
    ///
    /// # Errors
    /// [`Fault::MissingName`] for a name that is not there.
    pub fn resolve(&mut self, header: &[u8]) -> Result<(), Fault> {
        let line = header.strip_suffix(b"\n").unwrap_or(header);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let names: Vec<Vec<u8>> = match self.format {
            Format::Jsonl => return Ok(()),
            Format::Tsv => line.split(|&b| b == self.delimiter).map(<[u8]>::to_vec).collect(),
            Format::Csv => csv::fields(line, self.delimiter)?
                .into_iter()
                .map(|field| field.content())
                .collect(),
        };
        for column in [&mut self.key, &mut self.value].into_iter().flatten() {
            if let Column::Name(name) = column {
                let at = names.iter().position(|n| n == name.as_bytes());
                *column = Column::Number(at.ok_or_else(|| Fault::MissingName(name.clone()))?);
            }
        }
        Ok(())
    }

    /// Whether a column is chosen by a name that only a header line can resolve.
    #[must_use]
    pub fn needs_header(&self) -> bool {
        let named = |column: &Option<Column>| matches!(column, Some(Column::Name(_)));
        self.format != Format::Jsonl && (named(&self.key) || named(&self.value))
    }

    /// Appends the record of `key` and `value`, with its line end, to `out`. Columns are written in the default order.
    ///
    /// # Errors
    /// [`Fault`] when the format cannot carry their bytes; `out` is then unchanged.
    pub fn write(&self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let before = out.len();
        let written = match self.format {
            Format::Tsv => tsv::write(self, key, value, out),
            Format::Csv => csv::write(self, key, value, out),
            Format::Jsonl => {
                jsonl::write(key, value, out);
                Ok(())
            }
        };
        match written {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(before),
        }
        written
    }
}

/// The position of a chosen column, `default` when none was chosen.
///
/// A name is resolved before the first record is parsed; one that is not is reported as missing.
fn position(column: Option<&Column>, default: usize) -> Result<usize, Fault> {
    match column {
        None => Ok(default),
        Some(Column::Number(at)) => Ok(*at),
        Some(Column::Name(name)) => Err(Fault::MissingName(name.clone())),
    }
}
