//! `corelane import`: loads a file of records, and goes on where it was interrupted.
//!
//! ```text
//!   file ─► records ─► chunks ─► batches, one per range ─► node      8 chunks on their way
//!     └─ sample ─► split and move ranges first        checkpoint ◄─ acknowledged up to here
//! ```

mod chunk;
mod load;
mod sample;

use crate::args::{Global, parse_duration};
use crate::checkpoint::{Checkpoint, Source};
use crate::command::layout::{FormatArgs, column};
use crate::error::{CliError, Exit, Outcome, code, watched};
use crate::output::{Object, grouped, print, size};
use crate::record::Layout;
use crate::record::reader::RecordReader;
use crate::session::Session;
use chunk::{BadLines, Chunks};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
The first column (JSON: the field `key`, or the first one) is the key, the rest of the line the value.

Examples:
  corelane import packages.tsv
  corelane import people.csv --header --key id --prefix person/
  corelane import events.jsonl --key time --value message
  zcat packages.tsv.gz | corelane import -

How far it came is kept in FILE.corelane-import, so that the same command goes on after an interruption of either side.
Importing a line twice does no harm. A key that stands on several lines gets the value of the last one.";

/// Load a file of records: TSV, CSV or JSON lines.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file; `-` reads standard input, which cannot be resumed
    file: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
    /// The key's column, from 1, or its name
    #[arg(long, value_name = "COLUMN", help_heading = "Records")]
    key: Option<String>,
    /// The value's column; by default all but the key's
    #[arg(long, value_name = "COLUMN", help_heading = "Records")]
    value: Option<String>,
    /// The first line holds the names of the columns
    #[arg(long, help_heading = "Records")]
    header: bool,
    /// Put this before each key
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        help_heading = "Records"
    )]
    prefix: String,
    /// What to do with a line that is not a record
    #[arg(long, value_enum, default_value = "fail", help_heading = "Records")]
    bad_lines: BadLines,
    /// Start with the first line, whatever the checkpoint says
    #[arg(long)]
    restart: bool,
    /// Keep the checkpoint in this file
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// How long to try again while the node does not answer
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    retry_for: Duration,
    /// Ranges per shard to split into before loading; 0 leaves the ranges alone
    #[arg(long, value_name = "N", default_value_t = 4)]
    split_per_shard: u16,
    /// Only read and check the file; nothing is sent
    #[arg(long)]
    check: bool,
}

/// What there is to load, opened and positioned.
struct Input {
    name: String,
    /// The file, when it is one: it can be sampled and resumed.
    file: Option<PathBuf>,
    size: Option<u64>,
    chunks: Chunks<Box<dyn Read>>,
    mark: Checkpoint,
    checkpoint_path: Option<PathBuf>,
    resumed: bool,
    layout: Layout,
    first_record: u64,
}

pub(crate) fn run(global: &Global, args: &ImportArgs) -> Outcome {
    let began = Instant::now();
    let mut input = open(global, args)?;
    if args.check {
        return check(global, &mut input);
    }
    let session = Session::open(global)?;
    if input.resumed && !global.json {
        eprintln!("going on at line {} of {}", grouped(input.mark.line), input.name);
    }
    if let Some(path) = &input.file
        && args.split_per_shard > 0
        && !input.resumed
    {
        let unreadable = |error| CliError::file("cannot read the input", path, &error);
        let mut file = File::open(path).map_err(unreadable)?;
        let sampled = sample::keys(
            &mut file,
            &input.layout,
            args.prefix.as_bytes(),
            input.first_record,
        );
        sample::prepare(
            global,
            &session,
            sampled.map_err(unreadable)?,
            args.split_per_shard,
        )?;
    }
    let before = (input.mark.records, input.mark.offset);
    let load = load::Load {
        db: session.db.clone(),
        address: session.address.clone(),
        retry_for: args.retry_for,
        checkpoint_path: input.checkpoint_path.clone(),
        progress: progress(global, input.size, input.mark.offset),
    };
    let loaded = session.run(load.run(&mut input.chunks, input.mark.clone()));
    load.progress.finish_and_clear();
    let mark = loaded.map_err(|error| resumable(error, input.checkpoint_path.is_some()))?;
    if let Some(path) = &input.checkpoint_path {
        Checkpoint::remove(path)?;
    }
    summary(global, &mark, before, began.elapsed())
}

fn open(global: &Global, args: &ImportArgs) -> Result<Input, CliError> {
    let stdin = args.file.as_os_str() == "-";
    let path = (!stdin).then_some(args.file.as_path());
    let mut layout = args.format.layout(path)?;
    layout.key = args
        .key
        .as_deref()
        .map(|text| column(&layout, text))
        .transpose()?;
    layout.value = args
        .value
        .as_deref()
        .map(|text| column(&layout, text))
        .transpose()?;
    if layout.needs_header() && !args.header {
        return Err(
            CliError::usage("a column was chosen by name, so the file needs a line of names")
                .help("add --header"),
        );
    }
    let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let (mut reader, size) = open_reader(path, &layout)?;
    if args.header {
        let header = reader
            .read_header()
            .map_err(|error| CliError::file("cannot read the input", name.as_ref(), &error))?;
        header.map_err(|fault| {
            CliError::new(
                code::BAD_RECORD,
                Exit::Data,
                format!("{name}: the line of names does not fit"),
            )
            .cause(fault.to_string())
        })?;
    }
    let (layout, first_record, first_line) = (reader.layout().clone(), reader.offset(), reader.line());
    let Some((path, size)) = path.zip(size) else {
        let source = source(global, args, layout.clone(), (0, 0));
        let mark = Checkpoint::new(source, first_record, first_line);
        let chunks = Chunks::new(
            reader,
            args.prefix.clone().into_bytes(),
            args.bad_lines,
            name.clone(),
        );
        return Ok(Input {
            name,
            file: None,
            size: None,
            chunks,
            mark,
            checkpoint_path: None,
            resumed: false,
            layout,
            first_record,
        });
    };
    let unreadable = |error| CliError::file("cannot read the input", path, &error);
    let source = source(
        global,
        args,
        layout.clone(),
        Source::identify(path).map_err(unreadable)?,
    );
    let checkpoint_path = args
        .checkpoint
        .clone()
        .unwrap_or_else(|| Checkpoint::path_beside(path));
    let found = if args.restart || args.check {
        None
    } else {
        Checkpoint::load(&checkpoint_path, &source)?
    };
    let resumed = found.is_some();
    let mark = found.unwrap_or_else(|| Checkpoint::new(source, first_record, first_line));
    let mut file = File::open(path).map_err(unreadable)?;
    file.seek(SeekFrom::Start(mark.offset)).map_err(unreadable)?;
    let reader = RecordReader::new(
        Box::new(file) as Box<dyn Read>,
        layout.clone(),
        mark.offset,
        mark.line,
    );
    let chunks = Chunks::new(
        reader,
        args.prefix.clone().into_bytes(),
        args.bad_lines,
        name.clone(),
    );
    let (file, checkpoint_path) = (Some(path.to_owned()), Some(checkpoint_path));
    Ok(Input {
        name,
        file,
        size: Some(size),
        chunks,
        mark,
        checkpoint_path,
        resumed,
        layout,
        first_record,
    })
}

type AnyReader = RecordReader<Box<dyn Read>>;

/// A reader at the start of the input, and its size when it is a regular file.
fn open_reader(path: Option<&Path>, layout: &Layout) -> Result<(AnyReader, Option<u64>), CliError> {
    let Some(path) = path else {
        return Ok((
            RecordReader::new(Box::new(std::io::stdin()), layout.clone(), 0, 1),
            None,
        ));
    };
    let open = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let (file, metadata) = open().map_err(|error: std::io::Error| {
        CliError::file("cannot read the input", path, &error)
            .help("name an existing file, or `-` for standard input")
    })?;
    if metadata.is_dir() {
        return Err(CliError::usage(format!("{} is a directory", path.display())));
    }
    Ok((
        RecordReader::new(Box::new(file), layout.clone(), 0, 1),
        metadata.is_file().then_some(metadata.len()),
    ))
}

fn source(global: &Global, args: &ImportArgs, layout: Layout, (size, fingerprint): (u64, u32)) -> Source {
    let (connect, prefix) = (global.connect.clone(), args.prefix.clone());
    Source {
        size,
        fingerprint,
        layout,
        header: args.header,
        connect,
        prefix,
    }
}

/// Adds how to go on to an error that interrupted a load.
fn resumable(error: CliError, has_checkpoint: bool) -> CliError {
    let passing = matches!(error.exit, Exit::Unavailable | Exit::Retry | Exit::Unknown);
    match (passing, has_checkpoint) {
        (true, true) => CliError {
            exit: Exit::Retry,
            ..error
        }
        .help("run the same command again: it goes on where it stopped"),
        (true, false) => CliError {
            exit: Exit::Retry,
            ..error
        }
        .help("run the same command again: repeating lines does no harm"),
        (false, _) => error,
    }
}

fn progress(global: &Global, size: Option<u64>, offset: u64) -> ProgressBar {
    let Some(size) = size.filter(|_| watched() && !global.json) else {
        return ProgressBar::hidden();
    };
    let style =
        "{bar:32} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
    let bar = ProgressBar::new(size).with_position(offset);
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.reset_eta();
    bar
}

fn check(global: &Global, input: &mut Input) -> Outcome {
    let (mut records, mut skipped) = (0, 0);
    while let Some(chunk) = input.chunks.next_chunk()? {
        records += chunk.read;
        skipped += chunk.skipped;
    }
    let json = Object::new()
        .set("records", records)
        .set("skipped", skipped)
        .build();
    print(
        global,
        format_args!(
            "{}: {} records, {} lines skipped",
            input.name,
            grouped(records),
            grouped(skipped)
        ),
        &json,
    )?;
    Ok(Exit::Ok)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn summary(global: &Global, mark: &Checkpoint, before: (u64, u64), took: Duration) -> Outcome {
    let (records, bytes) = (mark.records - before.0, mark.offset - before.1);
    let seconds = took.as_secs_f64().max(0.001);
    let rate = (records as f64 / seconds) as u64;
    let json = Object::new()
        .set("records", records)
        .set("records_in_all", mark.records)
        .set("bytes", bytes)
        .set("skipped", mark.skipped)
        .set("seconds", seconds)
        .build();
    let mut text = format!(
        "imported {} records ({}) in {seconds:.1} s: {} records/s",
        grouped(records),
        size(bytes),
        grouped(rate)
    );
    if before.0 > 0 {
        text += &format!("; {} with those of before", grouped(mark.records));
    }
    if mark.skipped > 0 {
        text += &format!("; {} lines skipped", grouped(mark.skipped));
    }
    print(global, text, &json)?;
    Ok(Exit::Ok)
}
