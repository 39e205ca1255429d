//! Intents that are not in memory: which ones are spilled, what a batch reads of them, and what the tablet has of them after a start.
//!
//! ```text
//!   evaluated: Lay, Commit, Move, …  ──►  Spill: to the tablet's family of intents     (too much is in memory already)
//!                                         Put + Drop: the entry has the value          (what commits is spilled)
//! ```
//! So nothing that is applied has to be read for: what an entry does to a spilled intent it says whole.

use base::Timestamp;
use base::key::Span;
use env::Env;
use replica::provisional::PROVISIONAL_BYTES_MAX;
use replica::replica::StateError;
use replica::{Held, Provisional, Replica, SpillError};
use std::collections::{BTreeMap, BTreeSet};
use storage::{ScanPage, StorageError, Tablet};
use txn::{Bytes, Intent, Mutation, codec};

/// Rows and bytes of spilled intents that are read at once at most: somewhat more than one request resolves.
const ROWS_MAX: usize = 2048;
const BYTES_MAX: usize = 8 << 20;
/// Bytes that are read at once where it is not known that the next ones are wanted, too.
const BYTES_FIRST: usize = 16 << 10;
/// Bytes of spilled intents that are kept for one batch, and one page more: it is refused when it asks for more.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Why a replica could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Its state is of another version.
    #[error(transparent)]
    State(#[from] StateError),
    /// The disk, or a damaged table.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is spilled is not what its state says.
    #[error(transparent)]
    Spilled(#[from] SpillError),
}

/// A page of spilled intents from `from` on.
fn page(from: &[u8], bytes_max: usize) -> ScanPage {
    ScanPage {
        span: Span::new(from, None),
        read_ts: Timestamp::MAX,
        reverse: false,
        rows_max: ROWS_MAX,
        bytes_max,
    }
}

/// Lets a replica that was just opened know what its tablet has of spilled intents. Free where nothing is spilled.
///
/// # Errors
/// [`OpenError`], but for the state.
///
/// # Cancellation
/// The replica must not be used.
pub(crate) async fn restore<E: Env, W>(
    tablet: &Tablet<E>,
    replica: &mut Replica<W>,
) -> Result<(), OpenError> {
    let mut from = Vec::new();
    while replica.provisional().lacks_spilled() {
        base::sometimes!("node: spilled intents were read at a start");
        let rows = tablet.spilled_page(&page(&from, BYTES_MAX)).await?;
        for (key, bytes, at) in rows.iter() {
            replica.restore_spilled(key, at, bytes)?;
        }
        let Some(resume) = rows.resume else { break };
        from = resume;
    }
    replica.check_spilled()?;
    Ok(())
}

/// Spilled intents that were read for a batch. What is spilled anew meanwhile has another timestamp.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    intents: BTreeMap<Bytes, (Timestamp, Intent)>,
    /// Of all that was read.
    bytes: usize,
    /// Where the last page ended, and the most bytes that it was to have.
    last: Option<(Vec<u8>, usize)>,
}

impl ReadAhead {
    /// The intent on a key, if it is the one that is known to be there.
    pub(crate) fn get(&self, key: &[u8], at: Timestamp) -> Option<&Intent> {
        let (read_at, intent) = self.intents.get(key)?;
        (*read_at == at).then_some(intent)
    }

    /// Whether a batch has asked for more than is kept.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= KEPT_BYTES_MAX
    }

    /// Reads the intents from a key on: that of the key, and more of the next ones each time that whoever asks goes on where the last page
    /// has ended.
    ///
    /// # Errors
    /// What reading the disk met.
    ///
    /// # Panics
    /// When the tablet has one that does not decode: its tables are checked, and nobody else writes them.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn read<E: Env>(&mut self, tablet: &Tablet<E>, from: &[u8]) -> Result<(), StorageError> {
        base::sometimes!("node: a batch reads spilled intents");
        let goes_on = self.last.take().filter(|(end, _)| end == from);
        let bytes_max = goes_on.map_or(BYTES_FIRST, |(_, bytes)| (bytes * 4).min(BYTES_MAX));
        let rows = tablet.spilled_page(&page(from, bytes_max)).await?;
        self.bytes += rows.bytes();
        for (key, mut bytes, at) in rows.iter() {
            let intent =
                codec::decode_intent(&mut bytes).expect("a tablet has the intents that were spilled");
            self.intents.insert(key.into(), (at, intent));
        }
        self.last = rows.resume.map(|end| (end, bytes_max));
        Ok(())
    }
}

/// Says what a batch changes by mutations that need not be read for when they are applied, and spills what it lays when more than
/// `spill_bytes` are in memory, if it may. Everything that it says of a spilled intent was read before.
pub(crate) fn put_in_terms(
    changes: Vec<Mutation>,
    provisional: &Provisional,
    ahead: &ReadAhead,
    spill_bytes: Option<usize>,
) -> Vec<Mutation> {
    let is_full = spill_bytes.is_some_and(|max| provisional.bytes() >= max.min(PROVISIONAL_BYTES_MAX));
    if !is_full && !provisional.has_spilled() {
        return changes;
    }
    // What is laid and becomes something in the same entry stays in memory for that moment.
    let resolved: BTreeSet<Bytes> = changes
        .iter()
        .filter_map(|change| match change {
            Mutation::Commit { key, .. } | Mutation::Drop { key } | Mutation::Move { key, .. } => {
                Some(key.clone())
            }
            _ => None,
        })
        .collect();
    let mut here = BTreeSet::new();
    let mut put = Vec::with_capacity(changes.len());
    for change in changes {
        let spilled = |key: &Bytes, here: &BTreeSet<Bytes>| match provisional.held(key) {
            Some(Held::Spilled(spilled)) if !here.contains(key) => {
                Some(ahead.get(key, spilled.at).expect("what was evaluated was read"))
            }
            _ => None,
        };
        match change {
            Mutation::Lay { key, intent } => {
                let is_spilled = matches!(provisional.held(&key), Some(Held::Spilled(_)));
                if (is_full || is_spilled) && !resolved.contains(&key) {
                    base::sometimes!("node: an intent was spilled");
                    put.push(Mutation::Spill { key, intent });
                } else {
                    here.insert(key.clone());
                    put.push(Mutation::Lay { key, intent });
                }
            }
            Mutation::Commit { key, ts, seq } => match spilled(&key, &here) {
                Some(intent) => {
                    base::sometimes!("node: a spilled intent became a version");
                    let value = intent.value_of(seq).expect("the intent has the write");
                    put.push(Mutation::Put {
                        key: key.clone(),
                        ts,
                        local_ts: intent.local_ts,
                        value: value
                            .cloned()
                            .filter(|_| !base::planted_bug!("node-spilled-intent-loses-its-value")),
                    });
                    put.push(Mutation::Drop { key });
                }
                None => put.push(Mutation::Commit { key, ts, seq }),
            },
            Mutation::Move { key, ts } => match spilled(&key, &here) {
                Some(intent) => {
                    base::sometimes!("node: a spilled intent was moved");
                    let mut intent = intent.clone();
                    intent.ts = ts;
                    put.push(Mutation::Spill { key, intent });
                }
                None => put.push(Mutation::Move { key, ts }),
            },
            other => put.push(other),
        }
    }
    put
}
