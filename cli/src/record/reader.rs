//! Feeds the parsers from a file, in bounded memory, knowing where each record stands.

use super::{Fault, Layout, Pair};
use std::io::{self, Read};

/// Bytes asked of the input at a time.
const READ_BYTES: usize = 256 << 10;
/// The longest record: a key and a value at their limits, each byte escaped, and some syntax.
pub const RECORD_BYTES_MAX: usize = 2 * (base::limits::KEY_BYTES_MAX + base::limits::VALUE_BYTES_MAX) + 4096;

/// One record of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The number of the line it starts on, from one.
    pub line: u64,
    /// The offset behind it, from the start of the input: where the next record starts.
    pub end: u64,
    /// Its key and value; `None` for an empty line.
    pub pair: Result<Option<Pair>, Fault>,
}

/// Cuts an input into records.
pub struct RecordReader<R> {
    input: R,
    layout: Layout,
    buffer: Vec<u8>,
    /// Where the next record starts in `buffer`.
    start: usize,
    /// The offset in the input of `buffer[start]`.
    offset: u64,
    line: u64,
    ended: bool,
}

impl<R: Read> RecordReader<R> {
    /// Reads from `input`, which stands at byte `offset`, the start of line `line`.
    pub fn new(input: R, layout: Layout, offset: u64, line: u64) -> Self {
        Self {
            input,
            layout,
            buffer: Vec::new(),
            start: 0,
            offset,
            line,
            ended: false,
        }
    }

    /// The line that the next record starts on.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Where the next record starts, from the start of the input.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How records are read.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes the first record as the header line, which names the columns; `false` when the input is empty.
    ///
    /// # Errors
    /// The input's error, or the [`Fault`] of the header.
    pub fn read_header(&mut self) -> io::Result<Result<bool, Fault>> {
        let Some(end) = self.fill_record()? else {
            return Ok(Ok(false));
        };
        let header = self.buffer[self.start..self.start + end].to_vec();
        self.consume(end);
        Ok(self.layout.resolve(&header).map(|()| true))
    }

    /// The next record; `None` at the end. A record longer than [`RECORD_BYTES_MAX`] is reported once, and ends the input.
    ///
    /// # Errors
    /// The input's error.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        let line = self.line;
        match self.fill_record()? {
            Some(end) => {
                let pair = self.layout.parse(&self.buffer[self.start..self.start + end]);
                self.consume(end);
                Ok(Some(Item {
                    line,
                    end: self.offset,
                    pair,
                }))
            }
            None if self.start < self.buffer.len() => {
                self.start = self.buffer.len();
                self.ended = true;
                let pair = Err(Fault::TooLong {
                    bytes_max: RECORD_BYTES_MAX,
                });
                Ok(Some(Item {
                    line,
                    end: self.offset,
                    pair,
                }))
            }
            None => Ok(None),
        }
    }

    /// The length of the next record, once all of it is in the buffer. `None` at the end, or, with bytes left, when it is too long.
    fn fill_record(&mut self) -> io::Result<Option<usize>> {
        loop {
            let pending = self.buffer.len() - self.start;
            if let Some(end) = self.layout.record_end(&self.buffer[self.start..], self.ended) {
                return Ok(Some(end));
            }
            if self.ended || pending > RECORD_BYTES_MAX {
                return Ok(None);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            // A long record doubles what is read, so that looking for its end again stays linear.
            let want = READ_BYTES.max(pending);
            self.buffer.resize(pending + want, 0);
            let count = self.input.read(&mut self.buffer[pending..]);
            self.buffer.truncate(pending + *count.as_ref().unwrap_or(&0));
            match count {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn consume(&mut self, len: usize) {
        let record = &self.buffer[self.start..self.start + len];
        let lines = record.iter().filter(|&&b| b == b'\n').count();
        self.line += lines as u64;
        self.offset += len as u64;
        self.start += len;
    }
}
