//! The manifest on disk.

use super::edit::{Description, VersionEdit};
use super::record::{Recovered, Tail, recover};
use crate::{Corruption, Shared, StorageError, unreadable};
use base::RangeId;
use base::limits::BLOCK_BYTES;
use env::{Disk, DiskError, DiskOp, Env, File, OpenMode};
use std::io::ErrorKind;
use std::rc::Rc;

const NAME: &str = "MANIFEST";
const NAME_NEW: &str = "MANIFEST.tmp";
/// A longer manifest was not written by us: it is rewritten long before.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A manifest and the state it describes.
///
/// The file is open only while it is written: a node may have tens of thousands of tablets, most of which are idle.
pub(crate) struct Manifest<E: Env> {
    shared: Rc<Shared<E>>,
    dir: String,
    tail: Tail,
    description: Description,
    /// The length of the manifest when it was last written anew.
    bytes_anew: u64,
}

pub(crate) fn path(dir: &str) -> String {
    format!("{dir}/{NAME}")
}

async fn write<E: Env>(
    env: &E,
    file: &<E::Disk as Disk>::File,
    at: u64,
    bytes: &[u8],
) -> Result<(), DiskError> {
    let mut buf = env.disk().alloc(bytes.len());
    buf.copy_from_slice(bytes);
    file.write_at(at, buf).await.0
}

/// Reads the manifest of a tablet; `None` when there is none.
pub(crate) async fn read<E: Env>(env: &E, dir: &str) -> Result<Option<Recovered>, StorageError> {
    let file = match env.disk().open(&path(dir), OpenMode::Read).await {
        Ok(file) => file,
        Err(error) if error.op == DiskOp::Open && error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = |offset, what, expected, found| Corruption {
        file: path(dir),
        offset,
        what,
        expected,
        found,
    };
    let len = file.len().await?;
    if len > FILE_BYTES_MAX {
        return Err(damaged(0, "manifest length", FILE_BYTES_MAX, len).into());
    }
    let len = usize::try_from(len.next_multiple_of(BLOCK_BYTES as u64)).expect("bounded above");
    let bytes = unreadable::read(&file, &path(dir), 0, len.max(BLOCK_BYTES)).await?;
    let recovered = recover(&bytes[..len]);
    recovered
        .map(Some)
        .map_err(|(offset, m)| damaged(offset, m.what, m.expected, m.found).into())
}

impl<E: Env> Manifest<E> {
    /// Writes a tablet's first manifest into its directory, which exists. Durable when it returns.
    pub(crate) async fn create(
        shared: &Rc<Shared<E>>,
        dir: &str,
        start: Description,
    ) -> Result<Self, StorageError> {
        let tail = write_anew(shared, dir, &start).await?;
        let (shared, dir) = (shared.clone(), dir.to_owned());
        Ok(Self {
            shared,
            dir,
            tail,
            description: start,
            bytes_anew: tail.offset,
        })
    }

    /// Opens a tablet's manifest. A torn tail is cut off by writing the manifest anew. What it says is durable when it returns.
    ///
    /// Order: sync the file, then the directory, whatever they hold: a process that was killed may have left an edit, a seal
    /// or the name only to be seen, and a power failure takes back what nobody synced.
    pub(crate) async fn open(
        shared: &Rc<Shared<E>>,
        dir: &str,
        range: RangeId,
    ) -> Result<Self, StorageError> {
        let recovered = read(shared.env(), dir)
            .await?
            .ok_or(StorageError::NoSuchTablet { range })?;
        if recovered.torn {
            base::sometimes!("storage: a torn manifest edit was cut");
            return Self::create(shared, dir, recovered.description).await;
        }
        open_to_write(shared, dir).await?.sync().await?;
        shared.env().disk().sync_dir(dir).await?;
        let (shared, dir, tail) = (shared.clone(), dir.to_owned(), recovered.tail);
        Ok(Self {
            shared,
            dir,
            tail,
            description: recovered.description,
            bytes_anew: tail.offset,
        })
    }

    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// Appends an edit: the edit, durably; then its seal, durably. A long manifest is written anew instead.
    ///
    /// # Panics
    /// When the edit does not fit the state: the caller made it from this state.
    pub(crate) async fn append(&mut self, edit: &VersionEdit) -> Result<(), StorageError> {
        assert!(
            self.description.apply(edit),
            "{edit:?} does not fit {:?}",
            self.description
        );
        let long = self.tail.offset
            > self
                .shared
                .config()
                .manifest_bytes_max
                .max(self.bytes_anew.saturating_mul(4));
        if long || base::misbehave!("storage: manifest written anew") {
            return self.write_anew().await;
        }
        let mut out = Vec::new();
        let at = self.tail.offset;
        self.tail.push_edit(&mut out, &edit.encode());
        let file = open_to_write(&self.shared, &self.dir).await?;
        write(self.shared.env(), &file, at, &out).await?;
        out.clear();
        let at = self.tail.offset;
        self.tail.push_seal(&mut out);
        write(self.shared.env(), &file, at, &out).await?;
        Ok(())
    }

    /// Puts another state in the place of this one, whatever that was: a crash leaves either. Durable when it returns.
    pub(crate) async fn replace(&mut self, description: Description) -> Result<(), StorageError> {
        self.description = description;
        self.write_anew().await
    }

    async fn write_anew(&mut self) -> Result<(), StorageError> {
        self.tail = write_anew(&self.shared, &self.dir, &self.description).await?;
        self.bytes_anew = self.tail.offset;
        Ok(())
    }
}

async fn open_to_write<E: Env>(
    shared: &Rc<Shared<E>>,
    dir: &str,
) -> Result<<E::Disk as Disk>::File, DiskError> {
    let disk = shared.env().disk();
    disk.open(&path(dir), OpenMode::WriteDurable).await
}

/// Order: create `MANIFEST.tmp`; write one edit and its seal; sync; rename; sync the directory.
async fn write_anew<E: Env>(
    shared: &Rc<Shared<E>>,
    dir: &str,
    description: &Description,
) -> Result<Tail, StorageError> {
    let (disk, mut out) = (shared.env().disk(), Vec::new());
    let mut tail = Tail::new(shared.draw_uid(dir, description.next_table));
    tail.push_edit(&mut out, &description.snapshot().encode());
    tail.push_seal(&mut out);
    let new = format!("{dir}/{NAME_NEW}");
    let file = disk.create(&new, OpenMode::WriteDurable).await?;
    write(shared.env(), &file, 0, &out).await?;
    file.sync().await?;
    disk.rename(&new, &path(dir)).await?;
    disk.sync_dir(dir).await?;
    Ok(tail)
}
