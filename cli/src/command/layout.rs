//! The options by which `import` and `export` choose a record layout.

use crate::error::CliError;
use crate::record::{Column, Format, Layout};
use clap::Args;
use std::path::Path;

/// How records are written as text.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Records")]
pub(crate) struct FormatArgs {
    /// The format; by default what the file's name ends in, else TSV
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// What separates columns: one character, or `tab`
    #[arg(long, value_name = "CHAR")]
    pub(crate) delimiter: Option<String>,
    /// TSV: `\n` stands for a line end, and in keys `\t` for a tab
    #[arg(long)]
    pub(crate) escape: bool,
}

impl FormatArgs {
    /// The layout of records in `path`.
    pub(crate) fn layout(&self, path: Option<&Path>) -> Result<Layout, CliError> {
        let format = self
            .format
            .unwrap_or_else(|| path.map_or(Format::Tsv, Format::of_path));
        let mut layout = Layout::new(format);
        if let Some(delimiter) = &self.delimiter {
            layout.delimiter = match delimiter.as_bytes() {
                b"tab" => b'\t',
                [byte] if format != Format::Jsonl && !b"\"\\\n\r".contains(byte) => *byte,
                _ => {
                    return Err(CliError::usage(format!(
                        "`{delimiter}` cannot separate columns of this format"
                    )));
                }
            };
        }
        if self.escape && format != Format::Tsv {
            return Err(CliError::usage(
                "--escape is for TSV; CSV and JSON lines quote by themselves",
            ));
        }
        layout.escape = self.escape;
        Ok(layout)
    }
}

/// A column given by its number, from 1, or by its name.
pub(crate) fn column(layout: &Layout, text: &str) -> Result<Column, CliError> {
    match (layout.format, text.parse::<usize>()) {
        (Format::Jsonl, _) | (_, Err(_)) => Ok(Column::Name(text.to_owned())),
        (_, Ok(0)) => Err(CliError::usage("columns are counted from 1")),
        (_, Ok(number)) => Ok(Column::Number(number - 1)),
    }
}
