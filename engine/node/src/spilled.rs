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

/// Rows and bytes of spilled intents that are read at once: somewhat more than one request resolves.
const ROWS_MAX: usize = 2048;
const BYTES_MAX: usize = 8 << 20;

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
fn page(from: &[u8]) -> ScanPage {
    ScanPage {
        span: Span::new(from, None),
        read_ts: Timestamp::MAX,
        reverse: false,
        rows_max: ROWS_MAX,
        bytes_max: BYTES_MAX,
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
        let rows = tablet.spilled_page(&page(&from)).await?;
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
pub(crate) struct ReadAhead(BTreeMap<Bytes, (Timestamp, Intent)>);

impl ReadAhead {
    /// The intent on a key, if it is the one that is known to be there.
    pub(crate) fn get(&self, key: &[u8], at: Timestamp) -> Option<&Intent> {
        let (read_at, intent) = self.0.get(key)?;
        (*read_at == at).then_some(intent)
    }

    /// Reads the intents from a key on: some more than that of the key, since whoever needs one mostly needs the next ones.
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
        let rows = tablet.spilled_page(&page(from)).await?;
        for (key, mut bytes, at) in rows.iter() {
            let intent =
                codec::decode_intent(&mut bytes).expect("a tablet has the intents that were spilled");
            self.0.insert(key.into(), (at, intent));
        }
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
