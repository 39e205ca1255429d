//! `corelane export`: writes records as text, as of one moment.

use crate::args::Global;
use crate::command::layout::FormatArgs;
use crate::command::scan;
use crate::error::{CliError, Exit, Outcome, code, watched};
use crate::output::{Object, grouped, shown, size};
use crate::past::PastArgs;
use crate::record::{Format, Layout};
use crate::session::{Session, explain};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
The opposite of import: what was imported from a TSV comes back line for line, in the order of the keys.

Examples:
  corelane export packages.tsv
  corelane export --prefix person/ --strip-prefix --format csv > people.csv
  corelane export backup.jsonl                   carries every byte

Everything is read as of one moment, whatever is written meanwhile. FILE appears when it is complete.";

/// Write records to a file: TSV, CSV or JSON lines.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file; standard output when it is `-` or missing
    file: Option<PathBuf>,
    #[command(flatten)]
    format: FormatArgs,
    /// CSV: the value is one field, quoted where needed, instead of the rest of the record as it stands
    #[arg(long, help_heading = "Records")]
    quote_value: bool,
    /// Only keys that start with this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// Leave the prefix out of what is written
    #[arg(long, requires = "prefix")]
    strip_prefix: bool,
    /// Only keys from here on
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    #[command(flatten)]
    past: PastArgs,
}

pub(crate) fn run(global: &Global, args: ExportArgs) -> Outcome {
    let path = args.file.filter(|path| path.as_os_str() != "-");
    let mut layout = args.format.layout(path.as_deref())?;
    if args.quote_value && layout.format != Format::Csv {
        return Err(CliError::usage("--quote-value is for CSV"));
    }
    layout.quote_value = args.quote_value;
    let strip = if args.strip_prefix {
        global
            .bytes_if(args.prefix.clone())?
            .map_or(0, |prefix| prefix.len())
    } else {
        0
    };
    let span = scan::span(global, args.prefix, args.start, args.end)?;
    let session = Session::open(global)?;
    let mut rows = session.db.scan(span);
    rows = args.past.of(rows);
    let mut sink = Sink::open(path.as_deref())?;
    let progress = progress(global);
    let mut written = Written::default();
    session.run(async {
        let mut rows = rows.rows();
        let mut text = Vec::new();
        while let Some(page) = rows
            .next_page()
            .await
            .map_err(|error| explain(error, &session.address))?
        {
            text.clear();
            for (key, value, _) in page.iter() {
                layout
                    .write(&key[strip..], value, &mut text)
                    .map_err(|fault| unwritable(global, &layout, key, &fault))?;
            }
            sink.write(&text)?;
            written.records += page.len() as u64;
            written.bytes += text.len() as u64;
            progress.set_message(format!(
                "{} records, {}",
                grouped(written.records),
                size(written.bytes)
            ));
            progress.tick();
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    sink.finish()?;
    let done = Object::new()
        .set("records", written.records)
        .set("bytes", written.bytes)
        .build();
    if global.json {
        eprintln!("{done}");
    } else {
        eprintln!(
            "exported {} records ({})",
            grouped(written.records),
            size(written.bytes)
        );
    }
    Ok(Exit::Ok)
}

#[derive(Default)]
struct Written {
    records: u64,
    bytes: u64,
}

fn progress(global: &Global) -> ProgressBar {
    if !watched() || global.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar
}

fn unwritable(global: &Global, layout: &Layout, key: &[u8], fault: &crate::record::Fault) -> CliError {
    let help = match layout.format {
        Format::Tsv => {
            "export with --escape, which import with --escape reads back exactly, or with --format jsonl"
        }
        Format::Csv => {
            "export with --quote-value, which import with --value 2 reads back exactly, or with --format jsonl"
        }
        Format::Jsonl => "this format carries every byte; please report this",
    };
    let what = format!("the record of `{}` does not fit the format", shown(global, key));
    CliError::new(code::UNWRITABLE_RECORD, Exit::Data, what)
        .cause(fault.to_string())
        .help(help)
}

/// Where the text goes: a file that appears when it is complete, or standard output.
struct Sink {
    out: Box<dyn Write>,
    /// The unfinished file and its name when finished.
    file: Option<(PathBuf, PathBuf)>,
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else {
            return Ok(Self {
                out: Box::new(io::stdout().lock()),
                file: None,
            });
        };
        let mut aside = path.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        let file = File::create(&aside)
            .map_err(|error| CliError::file("cannot write the export", &aside, &error))?;
        Ok(Self {
            out: Box::new(file),
            file: Some((aside, path.to_owned())),
        })
    }

    fn write(&mut self, text: &[u8]) -> Result<(), CliError> {
        self.out.write_all(text).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> CliError {
        match &self.file {
            // `export | head`: the reader has seen enough.
            None if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(Exit::Ok as i32),
            None => CliError::file("cannot write the export", "standard output".as_ref(), error),
            Some((aside, _)) => CliError::file("cannot write the export", aside, error),
        }
    }

    fn finish(mut self) -> Result<(), CliError> {
        self.out.flush().map_err(|error| self.failed(&error))?;
        let Some((aside, path)) = &self.file else {
            return Ok(());
        };
        let synced = File::open(aside).and_then(|file| file.sync_all());
        synced
            .and_then(|()| std::fs::rename(aside, path))
            .map_err(|error| self.failed(&error))
    }
}
