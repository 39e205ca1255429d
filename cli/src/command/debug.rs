//! `corelane debug log|table|frame`: decodes what is on disk or on the wire, for people who look into a problem.

use crate::args::Global;
use crate::bytes::{Hex, Show, parse_hex};
use crate::command::check::{log_dir, of_log, of_storage};
use crate::error::{CliError, Exit, Outcome, code};
use crate::offline;
use crate::output::{Object, Output, grouped, size};
use base::key::Span;
use base::{RangeId, ShardId, Timestamp};
use clap::{Args, Subcommand};
use env::Env;
use log::verify::Found;
use log::{EntryKind, Record};
use std::io::Read as _;
use std::path::PathBuf;
use storage::{ScanPage, Shared, StorageConfig, Tablet};
use wire::FrameReader;

/// Rows of a table read at a time.
const PAGE_ROWS: usize = 1024;
/// Bytes of a table read at a time.
const PAGE_BYTES: usize = 1 << 20;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane debug log corelane-data               every batch and record of every shard
  corelane debug table corelane-data r2          what a range's tables hold, without the log
  corelane debug frame capture.bin               the frames of one direction of a connection

Reads only; no node may use the directory meanwhile.";

/// Decode what is on disk or on the wire.
#[derive(Debug, Args)]
pub(crate) struct DebugArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Segments, batches and records of the logs
    Log {
        /// The data directory
        dir: PathBuf,
        /// Only this shard's log
        #[arg(long, value_name = "N")]
        shard: Option<u16>,
    },
    /// Keys and values in the tables of a range
    Table {
        /// The data directory
        dir: PathBuf,
        /// The range: r2, or 2
        range: String,
    },
    /// Frames of the wire protocol, as bytes in a file (`-`: standard input); with --hex, as hexadecimal digits
    Frame {
        /// The file
        file: PathBuf,
    },
}

pub(crate) fn run(global: &Global, args: DebugArgs) -> Outcome {
    let lines = match args.what {
        What::Log { dir, shard } => {
            let shards = shard.map_or_else(|| offline::shards(&dir), |shard| Ok(vec![ShardId(shard)]))?;
            return print_logs(&dir, shards);
        }
        What::Table { dir, range } => {
            let number = range.strip_prefix('r').unwrap_or(&range).parse();
            let range = RangeId(
                number.map_err(|_| CliError::usage(format!("`{range}` is not a range: write r2, or 2")))?,
            );
            let hex = global.hex;
            offline::run(&dir, move |env| table(env, range, hex))?
        }
        What::Frame { file } => frames(global, &file)?,
    };
    let mut out = Output::new();
    for line in lines {
        out.line(line)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn print_logs(dir: &std::path::Path, shards: Vec<ShardId>) -> Outcome {
    let damage = offline::run(dir, |env| async move {
        let mut damage = None;
        for shard in shards {
            damage = damage.or(print_log(&env, shard).await?);
        }
        Ok(damage)
    })?;
    match damage {
        None => Ok(Exit::Ok),
        Some(damage) => {
            Err(CliError::new(code::DAMAGE_FOUND, Exit::Data, "the log is damaged").cause(damage))
        }
    }
}

/// Prints as it reads: a log may be larger than memory. Returns the damage at which it ends, if any.
async fn print_log<E: Env>(env: &E, shard: ShardId) -> Result<Option<String>, CliError> {
    let mut out = Output::new();
    let mut failed = None;
    let mut visit = |found: Found<'_>| {
        if failed.is_none() {
            failed = out.line(described(&found)).err();
        }
    };
    let verified = log::verify::verify(env, &log_dir(shard), shard, &mut visit).await;
    let report = verified.map_err(|error| of_log(&error))?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(end) = &report.end {
        out.line(format_args!(
            "end of the log of {shard}: {} offset {}, batch {}: {}",
            end.file, end.offset, end.seqno, end.found
        ))?;
    }
    let (batches, records) = (grouped(report.batches), grouped(report.records));
    out.line(format_args!(
        "{shard}: {batches} batches, {records} records, {}",
        size(report.bytes)
    ))?;
    out.flush()?;
    Ok(report.damage.map(|damage| damage.to_string()))
}

fn described(found: &Found<'_>) -> String {
    match found {
        Found::Segment {
            slot,
            file,
            bytes,
            header,
        } => format!(
            "segment {} in slot {slot} ({file}, {}): incarnation {}, first live {}",
            header.segment,
            size(*bytes),
            header.incarnation,
            header.first_live
        ),
        Found::Batch { offset, header } => format!(
            "  batch {} at {offset}: {:?}, persisted {}, clock bound {}",
            header.seqno, header.kind, header.persisted, header.hlc_bound
        ),
        Found::Record { record, .. } => match record {
            Record::Entry {
                range,
                index,
                term,
                chain,
                kind,
                payload,
            } => {
                let what = match kind {
                    EntryKind::Command => "",
                    EntryKind::Empty => " empty",
                    EntryKind::Membership => " members",
                };
                format!(
                    "    {range} entry {index} {term} chain {chain:08x}{what}: {} bytes {}",
                    payload.len(),
                    Hex(&payload[..payload.len().min(32)])
                )
            }
            Record::HardState {
                range,
                term,
                vote,
                commit,
            } => {
                format!("    {range} hard state {term}: vote {vote:?}, commit {commit}")
            }
            Record::Truncate { range, after } => format!("    {range} truncate after {after}"),
            Record::Forget { range } => format!("    {range} forget"),
        },
    }
}

/// The newest versions that a range's tables hold: what the log adds at a start is not there.
async fn table<E: Env>(env: E, range: RangeId, hex: bool) -> Result<Vec<String>, CliError> {
    let shared = Shared::new(env, StorageConfig::default());
    let tablet = Tablet::open(&shared, range)
        .await
        .map_err(|error| of_storage(&error))?;
    let (stats, span) = (tablet.stats(), tablet.span());
    let mut lines = vec![format!(
        "{range} {span:?}: {} tables, {}, flushed up to entry {}",
        stats.tables,
        size(stats.table_bytes),
        tablet.flushed_index()
    )];
    let shown = |bytes: &[u8]| {
        if hex {
            Hex(bytes).to_string()
        } else {
            Show(bytes).to_string()
        }
    };
    let mut start = span.start.to_vec();
    loop {
        let page = ScanPage {
            span: Span::new(&start, span.end.as_deref()),
            read_ts: Timestamp::MAX,
            reverse: false,
            rows_max: PAGE_ROWS,
            bytes_max: PAGE_BYTES,
        };
        let rows = tablet
            .scan_page(&page)
            .await
            .map_err(|error| of_storage(&error))?;
        for (key, value, ts) in rows.iter() {
            lines.push(format!("{}\t{ts}\t{}", shown(key), shown(value)));
        }
        match rows.resume {
            Some(resume) => start = resume,
            None => return Ok(lines),
        }
    }
}

fn frames(global: &Global, file: &std::path::Path) -> Result<Vec<String>, CliError> {
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| CliError::file("cannot read the frames", file, &error))?;
    if global.hex {
        let digits: Vec<u8> = bytes.into_iter().filter(|c| !c.is_ascii_whitespace()).collect();
        bytes = parse_hex(&digits).map_err(|error| {
            CliError::new(code::BAD_BYTES, Exit::Usage, "these are not hexadecimal digits")
                .cause(error.to_string())
        })?;
    }
    Ok(decode_frames(global.json, &bytes))
}

/// One line per frame; ends at the first one that is none, with its error.
fn decode_frames(json: bool, bytes: &[u8]) -> Vec<String> {
    let mut reader = FrameReader::new(base::limits::FRAME_BYTES_MAX);
    reader.extend(bytes);
    let mut lines = Vec::new();
    let mut offset = 0;
    loop {
        match reader.next() {
            Ok(Some(frame)) => {
                let (kind, request, length) = (frame.kind.name(), frame.request, frame.payload.len());
                let payload = &frame.payload[..length.min(64)];
                lines.push(if json {
                    let json = Object::new()
                        .set("offset", offset)
                        .set("kind", kind)
                        .set("request", request.0);
                    json.set("length", length)
                        .set("payload_hex", Hex(frame.payload).to_string())
                        .build()
                        .to_string()
                } else {
                    format!(
                        "{offset:>8}  {kind:<16} {request:<8} {length:>8} bytes  {}",
                        Show(payload)
                    )
                });
                offset += wire::frame::frame_bytes(length);
            }
            Ok(None) => break,
            Err(error) => {
                lines.push(format!("{offset:>8}  not a frame: {error}"));
                return lines;
            }
        }
    }
    if reader.is_mid_frame() {
        lines.push(format!("{offset:>8}  incomplete: {} bytes", bytes.len() - offset));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::RequestId;

    #[test]
    fn frames_are_listed_up_to_the_first_bad_one() {
        let mut outbox = wire::Outbox::new();
        outbox
            .push(RequestId(7), &wire::request::Echo { payload: b"hi" })
            .unwrap();
        outbox
            .push(
                RequestId(8),
                &wire::request::Status {
                    replicas: false,
                    deadline_ms: 5,
                },
            )
            .unwrap();
        let mut bytes = outbox.bytes().to_vec();
        let lines = decode_frames(false, &bytes);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("q7") && lines[1].contains("q8"), "{lines:?}");
        let last = bytes.len() - 1;
        assert!(decode_frames(false, &bytes[..last])[1].contains("incomplete"));
        bytes[wire::frame::HEADER_BYTES] ^= 1;
        assert!(decode_frames(true, &bytes)[0].contains("not a frame"));
    }
}
