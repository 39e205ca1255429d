//! Sends chunks to the node, several at a time, and knows up to where everything is acknowledged.
//!
//! Invariants:
//! - At most [`CHUNKS_MAX`] chunks are on their way.
//! - Two chunks that share a key are never on their way together, so the last line of a key wins.
//! - The mark only passes a chunk when all its batches are acknowledged, and all chunks before it.

use super::chunk::{Chunk, Chunks, batches};
use crate::checkpoint::Checkpoint;
use crate::error::CliError;
use crate::record::Pair;
use crate::session::explain;
use base::collections::FastSet;
use corelane::{Db, Error, RangeInfo};
use indicatif::ProgressBar;
use std::collections::VecDeque;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Chunks on their way.
const CHUNKS_MAX: usize = 8;
/// How often the checkpoint is written.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(200);
/// The pause before a batch is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What a load needs to know.
pub(crate) struct Load {
    pub(crate) db: Db,
    pub(crate) address: String,
    /// How long a batch is tried again while the node does not answer.
    pub(crate) retry_for: Duration,
    /// Where the checkpoint is kept, if anywhere.
    pub(crate) checkpoint_path: Option<PathBuf>,
    pub(crate) progress: ProgressBar,
}

/// A chunk on its way.
struct InFlight {
    number: u64,
    done: bool,
    keys: FastSet<Vec<u8>>,
    read: u64,
    skipped: u64,
    end: u64,
    end_line: u64,
}

impl Load {
    /// Sends everything that `chunks` still has; `mark` starts where the input stands.
    pub(crate) async fn run<R: Read>(
        &self,
        chunks: &mut Chunks<R>,
        mut mark: Checkpoint,
    ) -> Result<Checkpoint, CliError> {
        let explained = |error| explain(error, &self.address);
        let ranges = SharedRanges::new(self.db.ranges().await.map_err(explained)?);
        let mut sending = JoinSet::new();
        let mut in_flight: VecDeque<InFlight> = VecDeque::new();
        let mut written = Instant::now();
        let mut waiting: Option<Chunk> = None;
        let mut number = 0;
        let mut failure = None;
        loop {
            while failure.is_none() && in_flight.len() < CHUNKS_MAX {
                let next = match waiting.take() {
                    Some(chunk) => Ok(Some(chunk)),
                    None => chunks.next_chunk(),
                };
                let chunk = match next {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => break,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                };
                if in_flight
                    .iter()
                    .any(|other| chunk.records.iter().any(|(key, _)| other.keys.contains(key)))
                {
                    waiting = Some(chunk);
                    break;
                }
                number += 1;
                in_flight.push_back(InFlight::new(number, &chunk));
                let (db, ranges, retry_for) = (self.db.clone(), ranges.clone(), self.retry_for);
                sending.spawn(async move { send(&db, &ranges, retry_for, number, chunk.records).await });
            }
            match sending.join_next().await {
                None => break,
                Some(Ok(Ok(number))) => {
                    if let Some(chunk) = in_flight.iter_mut().find(|chunk| chunk.number == number) {
                        chunk.done = true;
                    }
                }
                // The first failure counts; what is on its way may still arrive and move the mark.
                Some(Ok(Err(error))) => failure = failure.or(Some(explained(error))),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
            while in_flight.front().is_some_and(|chunk| chunk.done) {
                if let Some(chunk) = in_flight.pop_front() {
                    chunk.advance(&mut mark);
                }
            }
            self.progress.set_position(mark.offset);
            if written.elapsed() >= CHECKPOINT_INTERVAL {
                self.store(&mark)?;
                written = Instant::now();
            }
        }
        self.store(&mark)?;
        failure.map_or(Ok(mark), Err)
    }

    fn store(&self, mark: &Checkpoint) -> Result<(), CliError> {
        self.checkpoint_path
            .as_ref()
            .map_or(Ok(()), |path| mark.store(path))
    }
}

impl InFlight {
    fn new(number: u64, chunk: &Chunk) -> Self {
        let keys = chunk.records.iter().map(|(key, _)| key.clone()).collect();
        let &Chunk {
            read,
            skipped,
            end,
            end_line,
            ..
        } = chunk;
        Self {
            number,
            done: false,
            keys,
            read,
            skipped,
            end,
            end_line,
        }
    }

    fn advance(&self, mark: &mut Checkpoint) {
        mark.offset = self.end;
        mark.line = self.end_line;
        mark.records += self.read;
        mark.skipped += self.skipped;
    }
}

/// The ranges as they were seen last, shared by the batches on their way.
#[derive(Clone)]
struct SharedRanges(Arc<Mutex<Arc<Vec<RangeInfo>>>>);

impl SharedRanges {
    fn new(ranges: Vec<RangeInfo>) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(ranges))))
    }

    fn now(&self) -> Arc<Vec<RangeInfo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn refresh(&self, db: &Db) -> Result<(), Error> {
        let ranges = db.ranges().await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(ranges);
        Ok(())
    }
}

/// Writes one chunk, a batch per range, each again until it is acknowledged or `retry_for` has passed without any success.
///
/// Repeating a write whose outcome is unknown is safe here: it writes the same values.
async fn send(
    db: &Db,
    ranges: &SharedRanges,
    retry_for: Duration,
    number: u64,
    records: Vec<Pair>,
) -> Result<u64, Error> {
    let mut left = records.as_slice();
    let mut failing_since: Option<Instant> = None;
    while !left.is_empty() {
        let map = ranges.now();
        let first = batches(left, &map).first().map_or(left.len(), |batch| batch.end);
        let (now, later) = left.split_at(first);
        let sent = db.batch(|batch| {
            for (key, value) in now {
                batch.put(key, value);
            }
            batch
        });
        let outcome = match sent.await {
            Ok(_) => {
                (left, failing_since) = (later, None);
                continue;
            }
            // A range was split since we looked: cut the batch anew.
            Err(Error::BatchSpansRanges { .. }) => ranges.refresh(db).await,
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { continue };
        let worth_it = error.is_retryable() || matches!(error, Error::Ambiguous { .. });
        if !worth_it || failing_since.get_or_insert_with(Instant::now).elapsed() >= retry_for {
            return Err(error);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Ok(number)
}
