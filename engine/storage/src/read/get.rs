//! Point lookups.

use crate::cache::BlockId;
use crate::interleave::alone;
use crate::memtable::Version as Newest;
use crate::mvcc::key;
use crate::rows::Row;
use crate::shared::MemtableCell;
use crate::sstable::format::Block;
use crate::sstable::reader::{Blocks, Missing, Probe, Table};
use crate::version::Version;
use crate::{Shared, StorageError};
use base::Timestamp;
use env::Env;
use std::rc::Rc;

/// The newest write to a key that a read sees; a delete, of the key or of a range over it, has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen<'a> {
    pub(crate) ts: Timestamp,
    pub(crate) deleted: bool,
    pub(crate) value: &'a [u8],
}

impl<'a> Seen<'a> {
    fn new(ts: Timestamp, deleted: bool, value: &'a [u8], tombstone: Option<Timestamp>) -> Self {
        match tombstone {
            Some(tombstone) if ts < tombstone => Self::tombstone(tombstone),
            Some(_) | None => Self { ts, deleted, value },
        }
    }

    fn tombstone(ts: Timestamp) -> Self {
        Self {
            ts,
            deleted: true,
            value: &[],
        }
    }

    /// Timestamp and value, unless it is a delete.
    pub(crate) fn live(self) -> Option<(Timestamp, &'a [u8])> {
        (!self.deleted).then_some((self.ts, self.value))
    }
}

/// Looks a key up in one memtable; calls `f` and gives its result when the memtable decides, else gives `f` back.
pub(crate) fn in_memtable<R, F: FnOnce(Option<Seen<'_>>) -> R>(
    cell: &MemtableCell,
    hash: u32,
    key: &[u8],
    read_ts: Timestamp,
    f: F,
) -> Result<R, F> {
    let memtable = cell.memtable.borrow();
    let tombstone = memtable.tombstones().covering(key, read_ts);
    match (memtable.get(hash, key, read_ts), tombstone) {
        (Some(Newest { ts, deleted, value }), tombstone) => {
            Ok(f(Some(Seen::new(ts, deleted, value, tombstone))))
        }
        (None, Some(tombstone)) => Ok(f(Some(Seen::tombstone(tombstone)))),
        (None, None) => Err(f),
    }
}

/// Looks for what the row cache knows of a key and a version; gives `f` back when that is nothing.
pub(crate) fn in_rows<E: Env, R, F: FnOnce(Option<Seen<'_>>) -> R>(
    shared: &Shared<E>,
    version: &Version<E>,
    hash: u32,
    key: &[u8],
    read_ts: Timestamp,
    f: F,
) -> Result<R, F> {
    if version.tables.is_empty() {
        return Err(f);
    }
    match shared.rows().borrow_mut().get(version.number, hash, key, read_ts) {
        Some(Row { ts, value }) => {
            base::sometimes!("storage: a row came from the row cache");
            Ok(f(Some(Seen::new(ts, false, value, None))))
        }
        None => Err(f),
    }
}

/// `f`, which is to learn what the tables of `version` say about a key, and before that a note of it in the row cache if
/// the read sees everything.
pub(crate) fn noting_row<E: Env, R>(
    shared: &Shared<E>,
    version: &Version<E>,
    hash: u32,
    key: &[u8],
    read_ts: Timestamp,
    f: impl FnOnce(Option<Seen<'_>>) -> R,
) -> impl FnOnce(Option<Seen<'_>>) -> R {
    move |seen| {
        if read_ts == Timestamp::MAX
            && let Some((ts, value)) = seen.and_then(Seen::live)
        {
            let mut rows = shared.rows().borrow_mut();
            rows.insert(version.number, hash, key, Row { ts, value });
        }
        f(seen)
    }
}

/// Looks a key up in the tables of a version. `Err` names the block that must be loaded first.
async fn in_tables<E: Env, R, F: FnOnce(Option<Seen<'_>>) -> R>(
    version: &Version<E>,
    blocks: &impl Blocks,
    probe: &Probe<'_>,
    read_ts: Timestamp,
    f: F,
) -> Result<R, (usize, Missing, F)> {
    for (at, table) in version.tables.iter().enumerate() {
        let tombstone = table.tombstones().covering(probe.key, read_ts);
        match (table.find(blocks, probe).await, tombstone) {
            (Ok(Some(hit)), tombstone) => {
                return Ok(f(Some(Seen::new(hit.ts, hit.deleted, hit.value(), tombstone))));
            }
            (Ok(None), Some(tombstone)) => return Ok(f(Some(Seen::tombstone(tombstone)))),
            (Ok(None), None) => {}
            (Err(missing), _) => return Err((at, missing, f)),
        }
    }
    Ok(f(None))
}

/// Finds blocks in the shard's cache.
struct Cached<'a, E: Env>(&'a Shared<E>);

impl<E: Env> Blocks for Cached<'_, E> {
    fn block(&self, id: BlockId) -> Option<Rc<Block>> {
        self.0.cache().get(id)
    }

    fn prefetch_index(&self, id: BlockId) {
        self.0.cache().prefetch_index(id);
    }

    fn prefetch_slot(&self, id: BlockId) {
        self.0.cache().prefetch_slot(id);
    }

    fn prefetch_block(&self, id: BlockId) {
        self.0.cache().prefetch_block(id);
    }
}

/// Finds blocks among those that this lookup loaded, else in the cache: a block that the cache could not keep is not
/// loaded twice.
struct Held<'a, E: Env> {
    shared: &'a Shared<E>,
    loaded: &'a [(BlockId, Rc<Block>)],
}

impl<E: Env> Blocks for Held<'_, E> {
    fn block(&self, id: BlockId) -> Option<Rc<Block>> {
        let held = self.loaded.iter().find(|(loaded, _)| *loaded == id);
        held.map(|(_, block)| block.clone())
            .or_else(|| self.shared.cache().get(id))
    }

    // A lookup that waits for the disk has time.
    fn prefetch_index(&self, _id: BlockId) {}
    fn prefetch_slot(&self, _id: BlockId) {}
    fn prefetch_block(&self, _id: BlockId) {}
}

/// Looks a key up in the tables of a version without waiting; `None` when a block must be loaded first. Only pauses.
pub(crate) async fn in_cached_tables<E: Env, R>(
    shared: &Shared<E>,
    version: &Version<E>,
    key: &[u8],
    read_ts: Timestamp,
    f: impl FnOnce(Option<Seen<'_>>) -> R,
) -> Option<R> {
    if version.tables.is_empty() {
        return Some(f(None));
    }
    let mut target = shared.take_scratch();
    key::encode(&mut target, key, read_ts);
    let user_len = target.len() - Timestamp::ENCODED_LEN;
    let probe = Probe {
        key,
        target: &target,
        user_len,
    };
    let seen = in_tables(version, &Cached(shared), &probe, read_ts, f).await;
    shared.put_scratch(target);
    seen.ok()
}

/// Looks a key up in the tables of a version, reading blocks as needed.
pub(crate) async fn load_from_tables<E: Env, R>(
    shared: &Shared<E>,
    version: &Version<E>,
    key: &[u8],
    read_ts: Timestamp,
    f: impl FnOnce(Option<Seen<'_>>) -> R,
) -> Result<R, StorageError> {
    let mut target = Vec::with_capacity(key.len() + 16);
    key::encode(&mut target, key, read_ts);
    let user_len = target.len() - Timestamp::ENCODED_LEN;
    let probe = Probe {
        key,
        target: &target,
        user_len,
    };
    let (mut loaded, mut f) = (Vec::new(), f);
    loop {
        let held = Held {
            shared,
            loaded: &loaded,
        };
        match alone(in_tables(version, &held, &probe, read_ts, f)) {
            Ok(result) => return Ok(result),
            Err((at, missing, unused)) => {
                let table: &Table<E> = &version.tables[at];
                loaded.push((table.id(missing.handle), table.load(missing).await?));
                f = unused;
            }
        }
    }
}
