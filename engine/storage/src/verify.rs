//! Checks of every byte: of a tablet's files, for `corelane check`, and of tables that were received.

use crate::manifest::file;
use crate::mvcc::key;
use crate::sstable::block::Entries;
use crate::sstable::format::{Kind, Properties};
use crate::sstable::reader::{Missing, Table, TableMeta};
use crate::{Corruption, Shared, StorageConfig, StorageError, Tablet};
use base::{RangeId, Timestamp};
use env::Env;
use std::rc::Rc;

/// A file that [`Tablet::verify`] found damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: String,
    /// What is wrong with it.
    pub error: StorageError,
}

impl<E: Env> Tablet<E> {
    /// Reads every byte of a tablet that is not open and checks every checksum, the order of the keys, and what the
    /// properties say. Changes nothing. A torn tail of the manifest is no damage.
    ///
    /// # Errors
    /// What the disk said. Damage is the result, not an error.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn verify(env: &E, range: RangeId) -> Result<Vec<Damage>, StorageError> {
        let dir = crate::files::dir(range);
        let shared = Shared::new(
            env.clone(),
            StorageConfig {
                cache_bytes_max: 0,
                ..StorageConfig::default()
            },
        );
        let mut damages = Vec::new();
        let manifest = match file::read(env, &dir).await {
            Ok(manifest) => manifest.ok_or(StorageError::NoSuchTablet { range })?,
            Err(error) => {
                note(&mut damages, error)?;
                return Ok(damages);
            }
        };
        for &meta in &manifest.description.tables {
            if let Err(error) = check_file(&shared, &meta.path(&dir), meta).await {
                note(&mut damages, error)?;
            }
        }
        Ok(damages)
    }
}

/// Reads tables of open tablets again, so that damage is found before somebody needs them. It has no caches, so that what is only
/// checked drives nothing out of the shard's.
pub struct Scrub<E: Env> {
    checking: Rc<Shared<E>>,
}

impl<E: Env> Scrub<E> {
    /// For the tablets of a shard.
    #[must_use]
    pub fn new(env: &E) -> Self {
        let config = StorageConfig {
            cache_bytes_max: 0,
            rows_bytes_max: 0,
            ..StorageConfig::default()
        };
        Self {
            checking: Shared::new(env.clone(), config),
        }
    }

    /// Opens the tablet's next table, in the order of their numbers, to check every byte of it. `None` when there is none, and then the
    /// manifest was checked. Begun without a place, it ends with the tables that are there then: a tablet that gets new ones faster
    /// than they are checked comes to its end, too.
    ///
    /// # Errors
    /// [`StorageError::Corruption`] names the damage; what the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn next(
        &self,
        tablet: &Tablet<E>,
        place: Option<ScrubPlace>,
    ) -> Result<Option<(ScrubPlace, TableCheck<E>)>, StorageError> {
        // Held until it is open: a file that nobody holds may go.
        let next = {
            let state = tablet.0.state.borrow();
            let tables = || state.version.all();
            let newest = || tables().map(|table| table.meta().number).max();
            let ScrubPlace { after, last } = place.unwrap_or_else(|| ScrubPlace {
                after: 0,
                last: newest().unwrap_or_default(),
            });
            let is_due = |table: &&Rc<Table<E>>| after < table.meta().number && table.meta().number <= last;
            let next = tables().filter(is_due).min_by_key(|table| table.meta().number);
            next.map(|table| (last, table.clone()))
        };
        let Some((last, table)) = next else {
            if tablet.0.exists.is_open() {
                file::read(self.checking.env(), &tablet.0.dir).await?;
            }
            return Ok(None);
        };
        let meta = table.meta();
        let opened = Table::open_at(&self.checking, table.path().to_owned(), meta).await?;
        let after = meta.number;
        Ok(Some((ScrubPlace { after, last }, TableCheck::new(opened))))
    }
}

/// How far a [`Scrub`] has come with a tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubPlace {
    /// The number of the table that was opened last.
    after: u64,
    /// The greatest one when it was begun.
    last: u64,
}

/// Takes corruption into the list; hands every other error on.
fn note(damages: &mut Vec<Damage>, error: StorageError) -> Result<(), StorageError> {
    match error {
        StorageError::Corruption(Corruption { ref file, .. }) => {
            damages.push(Damage {
                file: file.clone(),
                error,
            });
            Ok(())
        }
        StorageError::Disk(_)
        | StorageError::Poisoned { .. }
        | StorageError::BelowGcThreshold { .. }
        | StorageError::NoSuchTablet { .. }
        | StorageError::AlreadyExists { .. } => Err(error),
    }
}

/// Reads every byte of a table and checks it.
pub(crate) async fn check_file<E: Env>(
    shared: &Rc<Shared<E>>,
    path: &str,
    meta: TableMeta,
) -> Result<(), StorageError> {
    let mut check = TableCheck::new(Table::open_at(shared, path.to_owned(), meta).await?);
    while !check.is_done() {
        check.go_on(u64::MAX).await?;
    }
    Ok(())
}

/// A table on its way to being checked, in file order: blocks without gaps, keys ascending, properties as stated. It has the file open
/// by itself: the tablet may merge, move or go meanwhile.
pub struct TableCheck<E: Env> {
    table: Rc<Table<E>>,
    /// Its partitions, and which of them is next.
    top: Entries,
    next_partition: usize,
    is_done: bool,
    /// Where the next block must begin.
    next_offset: u64,
    last_key: Vec<u8>,
    counted: Properties,
}

impl<E: Env> TableCheck<E> {
    /// Of a table whose end was checked when it was opened.
    fn new(table: Rc<Table<E>>) -> Self {
        let mut top = Entries::default();
        table.top().layout.entries(&table.top().data, &mut top);
        let counted = Properties {
            ts: (Timestamp::MAX, Timestamp::ZERO),
            ..Properties::default()
        };
        Self {
            table,
            top,
            next_partition: 0,
            is_done: false,
            next_offset: 0,
            last_key: Vec::new(),
            counted,
        }
    }

    /// Whether every byte was checked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the tablet has this table, still.
    #[must_use]
    pub fn is_of(&self, tablet: &Tablet<E>) -> bool {
        let state = tablet.0.state.borrow();
        let uid = self.table.meta().uid;
        state.version.all().any(|table| table.meta().uid == uid)
    }

    /// Checks the next `bytes_min` bytes, or as many as are left, and what more its partition has: how many these were.
    ///
    /// # Errors
    /// [`StorageError::Corruption`] names the damage; what the disk said.
    ///
    /// # Cancellation
    /// What was checked counts; it must not go on.
    pub async fn go_on(&mut self, bytes_min: u64) -> Result<u64, StorageError> {
        let begun_at = self.next_offset;
        while self.next_partition < self.top.len() {
            if self.next_offset - begun_at >= bytes_min {
                return Ok(self.next_offset - begun_at);
            }
            self.partition().await?;
            self.next_partition += 1;
        }
        self.finish()?;
        self.is_done = true;
        Ok(self.table.meta().bytes - begun_at)
    }

    async fn partition(&mut self) -> Result<(), StorageError> {
        let table = self.table.clone();
        let handle = table.handle(self.top.value(&table.top().data, self.next_partition));
        let partition = table
            .load(Missing {
                handle,
                kind: Kind::Partition,
            })
            .await?;
        let mut index = Entries::default();
        partition.layout.entries(&partition.data, &mut index);
        for at in 0..index.len() {
            self.data(Missing {
                handle: table.handle(index.value(&partition.data, at)),
                kind: Kind::Data,
            })
            .await?;
        }
        self.follows(Missing {
            handle,
            kind: Kind::Partition,
        })
    }

    fn expect(&self, offset: u64, what: &'static str, expected: u64, found: u64) -> Result<(), StorageError> {
        use crate::sstable::format::Mismatch;
        if expected == found {
            Ok(())
        } else {
            Err(self.table.damaged(
                offset,
                Mismatch {
                    what,
                    expected,
                    found,
                },
            ))
        }
    }

    fn follows(&mut self, Missing { handle, .. }: Missing) -> Result<(), StorageError> {
        self.expect(handle.offset, "block offset", self.next_offset, handle.offset)?;
        self.next_offset = handle.end();
        Ok(())
    }

    async fn data(&mut self, missing: Missing) -> Result<(), StorageError> {
        self.follows(missing)?;
        let offset = missing.handle.offset;
        let block = self.table.load(missing).await?;
        let mut entries = Entries::default();
        block.layout.entries(&block.data, &mut entries);
        for at in 0..entries.len() {
            let version = entries.key(at);
            self.expect(
                offset,
                "ascending keys",
                1,
                u64::from(self.last_key.as_slice() < version),
            )?;
            let mut user = Vec::new();
            let parts = key::user_len(version).zip(key::decode_ts(version));
            let parts = parts.filter(|&(len, _)| key::decode_user(&mut user, &version[..len]).is_some());
            self.expect(offset, "version key", 1, u64::from(parts.is_some()))?;
            let Some((user_len, ts)) = parts else { continue };
            let new_key = self.counted.version_count == 0 || !self.last_key.starts_with(&version[..user_len]);
            let value_len = entries.value(&block.data, at).len();
            self.counted
                .count(&user, ts, entries.tag(at) != 0, value_len, new_key);
            self.last_key = version.to_vec();
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), StorageError> {
        let end = self.table.blocks_end();
        self.expect(end, "end of the blocks", end, self.next_offset)?;
        let (stated, counted) = (self.table.properties(), &self.counted);
        self.expect(
            end,
            "count of versions",
            stated.version_count,
            counted.version_count,
        )?;
        self.expect(end, "properties", 1, u64::from(stated == counted))
    }
}
