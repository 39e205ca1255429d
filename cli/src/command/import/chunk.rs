//! Pieces of an input: what is sent together and acknowledged together. Pure, apart from reading.
//!
//! ```text
//!   input   |····chunk····|····chunk····|····chunk····|     in order of the lines
//!   chunk   sorted by key, the last line of equal keys kept
//!   batch   the part of a chunk that lies in one range: one atomic write
//! ```

use crate::error::{CliError, Exit, code};
use crate::record::Pair;
use crate::record::reader::RecordReader;
use base::limits;
use corelane::RangeInfo;
use std::io::{self, Read};
use std::ops::Range;

/// Records of one chunk.
const CHUNK_RECORDS_MAX: usize = 4096;
/// Bytes of one chunk, unless a single record has more.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What to do with a line that is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BadLines {
    /// Stop there.
    Fail,
    /// Count it and go on.
    Skip,
}

/// A piece of the input.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chunk {
    /// Sorted by key, no key twice.
    pub(crate) records: Vec<Pair>,
    /// Records read for it, before repeated keys were dropped.
    pub(crate) read: u64,
    /// Lines that were no records.
    pub(crate) skipped: u64,
    /// Where the next chunk starts in the input.
    pub(crate) end: u64,
    /// The line there.
    pub(crate) end_line: u64,
}

/// Reads chunks.
pub(crate) struct Chunks<R> {
    reader: RecordReader<R>,
    prefix: Vec<u8>,
    bad_lines: BadLines,
    name: String,
}

impl<R: Read> Chunks<R> {
    pub(crate) fn new(reader: RecordReader<R>, prefix: Vec<u8>, bad_lines: BadLines, name: String) -> Self {
        Self {
            reader,
            prefix,
            bad_lines,
            name,
        }
    }

    /// The next chunk; `None` at the end of the input.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Chunk>, CliError> {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        let mut seen = false;
        while chunk.records.len() < CHUNK_RECORDS_MAX && bytes < CHUNK_BYTES_MAX {
            let Some(item) = self.reader.next_item().map_err(|error| self.unreadable(&error))? else {
                break;
            };
            seen = true;
            (chunk.end, chunk.end_line) = (item.end, self.reader.line());
            let pair = match item.pair {
                Ok(None) => continue,
                Ok(Some((key, value))) => self.acceptable(key, value),
                Err(fault) => Err(fault.to_string()),
            };
            match (pair, self.bad_lines) {
                (Ok(pair), _) => {
                    bytes += pair.0.len() + pair.1.len();
                    chunk.read += 1;
                    chunk.records.push(pair);
                }
                (Err(_), BadLines::Skip) => chunk.skipped += 1,
                (Err(why), BadLines::Fail) => {
                    return Err(CliError::new(code::BAD_RECORD, Exit::Data, format!("{}: line {} is not a record", self.name, item.line))
                        .cause(why)
                        .help("skip such lines with --bad-lines skip, or see `corelane import --help` for formats and columns"));
                }
            }
        }
        settle(&mut chunk.records);
        Ok(seen.then_some(chunk))
    }

    /// The pair with its prefix, unless the node would refuse it.
    fn acceptable(&self, key: Vec<u8>, value: Vec<u8>) -> Result<Pair, String> {
        let key = if self.prefix.is_empty() {
            key
        } else {
            [&self.prefix, key.as_slice()].concat()
        };
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        for (what, len, max) in [
            ("key", key.len(), limits::KEY_BYTES_MAX),
            ("value", value.len(), limits::VALUE_BYTES_MAX),
        ] {
            if len > max {
                return Err(format!(
                    "the {what} has {len} bytes, more than the limit of {max}"
                ));
            }
        }
        Ok((key, value))
    }

    fn unreadable(&self, error: &io::Error) -> CliError {
        CliError::file("cannot read the input", self.name.as_ref(), error)
    }
}

/// Sorts by key and keeps the last record of each key: what remains may be written in any order.
fn settle(records: &mut Vec<Pair>) {
    // A stable sort keeps equal keys in line order; dropping the earlier of two neighbours then keeps the last.
    records.sort_by(|a, b| a.0.cmp(&b.0));
    records.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
}

/// Cuts sorted records where one range ends and the next begins. `ranges` are in key order and cover every key.
pub(crate) fn batches(records: &[Pair], ranges: &[RangeInfo]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let mut start = 0;
    while let Some((key, _)) = records.get(start) {
        let at = ranges.partition_point(|range| *range.span.start <= **key);
        let end = match ranges.get(at) {
            None => records.len(),
            Some(next) => start + records[start..].partition_point(|(key, _)| **key < *next.span.start),
        };
        // Always forward, whatever the map says.
        let end = end.max(start + 1);
        batches.push(start..end);
        start = end;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Format, Layout};
    use base::key::Span;
    use base::{RangeId, ShardId};

    fn chunks(text: &str, bad_lines: BadLines) -> Chunks<&[u8]> {
        let reader = RecordReader::new(text.as_bytes(), Layout::new(Format::Tsv), 0, 1);
        Chunks::new(reader, b"p/".to_vec(), bad_lines, "in.tsv".to_owned())
    }

    fn pair(key: &str, value: &str) -> Pair {
        (key.into(), value.into())
    }

    #[test]
    fn the_last_line_of_a_key_wins() {
        let mut chunks = chunks("b\t1\na\t1\nb\t2\n\nb\t3\n", BadLines::Fail);
        let chunk = chunks.next_chunk().unwrap().unwrap();
        assert_eq!(chunk.records, [pair("p/a", "1"), pair("p/b", "3")]);
        assert_eq!((chunk.read, chunk.end, chunk.end_line), (4, 17, 6));
        assert_eq!(chunks.next_chunk().unwrap(), None);
    }

    #[test]
    fn bad_lines_are_named_or_counted() {
        let text = "a\t1\nnothing\nb\t2\n";
        let error = chunks(text, BadLines::Fail).next_chunk().unwrap_err();
        assert_eq!(error.what, "in.tsv: line 2 is not a record");
        let chunk = chunks(text, BadLines::Skip).next_chunk().unwrap().unwrap();
        assert_eq!((chunk.read, chunk.skipped), (2, 1));
        let long = format!("{}\t1\n", "k".repeat(limits::KEY_BYTES_MAX));
        let error = chunks(&long, BadLines::Fail).next_chunk().unwrap_err();
        assert_eq!(
            error.cause.unwrap(),
            "the key has 16386 bytes, more than the limit of 16384"
        );
    }

    #[test]
    fn chunks_are_bounded_and_lose_nothing() {
        let text: String = (0..10_000).map(|n| format!("{n:05}\tv\n")).collect();
        let mut chunks = chunks(&text, BadLines::Fail);
        let mut counts = Vec::new();
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            counts.push(chunk.records.len());
        }
        assert_eq!(counts, [4096, 4096, 1808]);
    }

    #[test]
    fn batches_end_where_ranges_do() {
        let range = |start: &str, end: Option<&str>| RangeInfo {
            range: RangeId(7),
            span: Span::new(start.as_bytes(), end.map(str::as_bytes)),
            shard: ShardId(0),
            generation: 1,
            leader: None,
            nodes: Vec::new(),
        };
        let records = ["a", "b", "c", "m", "z"].map(|key| pair(key, ""));
        let ranges = [
            range("", Some("b")),
            range("b", Some("d")),
            range("d", Some("k")),
            range("k", None),
        ];
        assert_eq!(batches(&records, &ranges), [0..1, 1..3, 3..5]);
        assert_eq!(batches(&records, &ranges[..1]), vec![Range { start: 0, end: 5 }]);
        assert_eq!(batches(&[], &ranges), []);
    }
}
