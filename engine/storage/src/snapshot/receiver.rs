//! The receiver's side: files, until all are there.
//!
//! A file is written as `….part`, one at a time, front to back. When it is whole: sync; read and verify; rename to
//! `….received`; sync the directory.

use super::name::{self, Name};
use super::{SnapshotDescription, SnapshotError};
use crate::files::found;
use crate::manifest::file as manifest;
use crate::shared::Claim;
use crate::sstable::reader::TableMeta;
use crate::{Shared, StorageConfig, StorageError, Tablet, verify};
use base::RangeId;
use base::limits::BLOCK_BYTES;
use env::{DirEntry, Disk, Env, File, OpenMode};
use std::rc::Rc;

/// Receives a raft snapshot into a tablet's directory, and installs it.
///
/// A sender that is lost costs nothing: another one that has a snapshot of the same description goes on with what is due. After a restart, or with another description, the receiver is begun anew and takes over what whole files
/// it finds. Dropped, it leaves these on the disk for the next one.
pub struct SnapshotReceiver<E: Env> {
    pub(super) shared: Rc<Shared<E>>,
    /// For verifying: it has no caches, so that what is only checked drives nothing out of the shard's.
    checking: Rc<Shared<E>>,
    /// `None` while the range has no tablet here.
    pub(super) tablet: Option<Tablet<E>>,
    pub(super) dir: String,
    pub(super) description: SnapshotDescription,
    /// For each table of the description the whole file, once it is there.
    pub(super) received: Vec<Option<String>>,
    /// The first table that is not there, as far as it is.
    part: Option<Part<E>>,
    _claim: Claim<E>,
}

/// Bytes of a raft snapshot's file that were not received yet, to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingBytes {
    /// [`SnapshotFile::id`](super::SnapshotFile::id).
    pub file: u64,
    /// Where they begin, a multiple of 4 KiB.
    pub offset: u64,
    /// How many, a multiple of 4 KiB and not zero.
    pub bytes: u64,
}

/// A file that is not whole, or not verified. It goes when this is dropped.
struct Part<E: Env> {
    shared: Rc<Shared<E>>,
    path: String,
    file: <E::Disk as Disk>::File,
    /// How many bytes of it are written.
    offset: u64,
    /// It has another name, and stays.
    renamed: bool,
}

impl<E: Env> Drop for Part<E> {
    fn drop(&mut self) {
        if !self.renamed {
            self.shared.discard(core::mem::take(&mut self.path));
        }
    }
}

impl<E: Env> Tablet<E> {
    /// Begins to receive a raft snapshot that will take this tablet's place. Until it is installed the tablet works as ever.
    /// Waits for the split that makes the tablet, if there is one: its end would sweep the directory.
    ///
    /// # Errors
    /// [`SnapshotError::OtherRange`]; [`SnapshotError::Stale`] when the tablet needs no snapshot; [`SnapshotError::Receiving`]
    /// while another receiver of the range lives; what the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn receive(
        &self,
        description: SnapshotDescription,
    ) -> Result<SnapshotReceiver<E>, SnapshotError> {
        self.0.exists.opened().await;
        self.check_poisoned()?;
        self.check_ahead(&description)?;
        SnapshotReceiver::begin(&self.0.shared, self.range(), Some(self.clone()), description).await
    }

    /// Begins to receive a raft snapshot for a range that has no tablet here: installing it makes one. What a half-made or
    /// half-removed tablet left is removed; until it is installed [`Self::destroy`] removes what was received.
    ///
    /// The caller refuses a snapshot whose span another tablet here still has: the split that parts them would be applied to
    /// that one later, and would make this range anew.
    ///
    /// # Errors
    /// [`StorageError::AlreadyExists`]; [`SnapshotError::OtherRange`]; [`SnapshotError::Receiving`] while another receiver of
    /// the range lives; what the disk said.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn receive_new(
        shared: &Rc<Shared<E>>,
        range: RangeId,
        description: SnapshotDescription,
    ) -> Result<SnapshotReceiver<E>, SnapshotError> {
        let dir = crate::files::dir(range);
        if manifest::read(shared.env(), &dir).await?.is_some() {
            return Err(StorageError::AlreadyExists { range }.into());
        }
        SnapshotReceiver::begin(shared, range, None, description).await
    }

    pub(super) fn check_ahead(&self, description: &SnapshotDescription) -> Result<(), SnapshotError> {
        let (index, applied) = (description.index(), self.applied_index());
        if index > applied {
            Ok(())
        } else {
            Err(SnapshotError::Stale { index, applied })
        }
    }
}

impl<E: Env> SnapshotReceiver<E> {
    async fn begin(
        shared: &Rc<Shared<E>>,
        range: RangeId,
        tablet: Option<Tablet<E>>,
        description: SnapshotDescription,
    ) -> Result<Self, SnapshotError> {
        if description.range() != range {
            let (expected, found) = (range, description.range());
            return Err(SnapshotError::OtherRange { expected, found });
        }
        let claim = shared.claim(range).ok_or(SnapshotError::Receiving { range })?;
        let config = StorageConfig {
            cache_bytes_max: 0,
            rows_bytes_max: 0,
            ..StorageConfig::default()
        };
        let mut receiver = Self {
            shared: shared.clone(),
            checking: Shared::new(shared.env().clone(), config),
            tablet,
            dir: crate::files::dir(range),
            received: description.files().map(|_| None).collect(),
            description,
            part: None,
            _claim: claim,
        };
        receiver.take_over().await?;
        Ok(receiver)
    }

    /// Finds the whole files that an earlier receiver left, and removes what is of no use.
    ///
    /// Order: sync the directory first. A manifest that an earlier process removed may still come back, and then its tables
    /// must be there; and the names that are found are only seen until then. What is in the files needs no sync: they got
    /// their names after they were durable.
    async fn take_over(&mut self) -> Result<(), StorageError> {
        let disk = self.shared.env().disk();
        disk.create_dir(&self.dir).await?;
        disk.sync_dir(&self.dir).await?;
        for entry in disk.list(&self.dir).await? {
            let path = format!("{}/{}", self.dir, entry.name);
            let name = Name::parse(&entry.name);
            if let Some(at) = self.wants(&entry, name) {
                match self.check(&path, self.meta(at)).await {
                    Ok(()) => {
                        self.received[at] = Some(path);
                        continue;
                    }
                    Err(StorageError::Corruption(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if name.is_some() || self.tablet.is_none() {
                found(disk.remove(&path).await)?;
            }
        }
        Ok(())
    }

    /// Which table of the description a file in the directory is, and was not found before.
    fn wants(&self, entry: &DirEntry, name: Option<Name>) -> Option<usize> {
        let Some(Name::Received { uid, .. }) = name else {
            return None;
        };
        let is_it = |meta: &TableMeta| meta.uid == uid && meta.bytes == entry.len;
        let at = self.description.state.tables.iter().position(is_it)?;
        self.received[at].is_none().then_some(at)
    }

    fn meta(&self, at: usize) -> TableMeta {
        self.description.state.tables[at]
    }

    async fn check(&self, path: &str, meta: TableMeta) -> Result<(), StorageError> {
        verify::check_file(&self.checking, path, meta).await
    }

    /// What the snapshot is of.
    #[must_use]
    pub fn description(&self) -> &SnapshotDescription {
        &self.description
    }

    /// What [`Self::write`] takes next; `None` when all is there, and it can be installed.
    #[must_use]
    pub fn due(&self) -> Option<MissingBytes> {
        self.missing().next()
    }

    /// All that was not received yet, in the order in which [`Self::write`] takes it.
    pub fn missing(&self) -> impl Iterator<Item = MissingBytes> {
        let mut had = self.part.as_ref().map_or(0, |part| part.offset);
        let tables = self.description.state.tables.iter().zip(&self.received);
        let missing = tables.filter(|(_, received)| received.is_none());
        missing.map(move |(meta, _)| {
            // Only the first one can be there in part.
            let offset = core::mem::take(&mut had);
            MissingBytes {
                file: meta.uid,
                offset,
                bytes: meta.bytes - offset,
            }
        })
    }

    /// Takes the next bytes: those that are due, or whole blocks of 4 KiB from their front. With its last bytes a
    /// file is verified and made durable.
    ///
    /// # Errors
    /// [`SnapshotError::UnexpectedBytes`] when others are due: nothing has changed. [`StorageError::Corruption`] when the
    /// file that is now whole is damaged; what the disk said. In both cases that file begins again at its
    /// first byte. Damage that comes again is the sender's.
    ///
    /// # Cancellation
    /// The file begins again at its first byte.
    pub async fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let Some(at) = self.takes(file, offset, bytes.len()) else {
            return Err(SnapshotError::UnexpectedBytes { file, offset });
        };
        // Taken out: what was abandoned half way is not gone on with.
        let mut part = match self.part.take() {
            Some(part) => part,
            None => self.begin_part(self.meta(at)).await?,
        };
        let mut buf = self.shared.env().disk().alloc(bytes.len());
        buf.copy_from_slice(bytes);
        let (written, _) = part.file.write_at(offset, buf).await;
        written.map_err(StorageError::from)?;
        part.offset += bytes.len() as u64;
        if part.offset < self.meta(at).bytes {
            self.part = Some(part);
            return Ok(());
        }
        let finished = self.finish(part, at).await;
        // A damaged file is of no use.
        self.shared.remove_obsolete().await;
        self.received[at] = Some(finished?);
        Ok(())
    }

    /// The table that so many bytes are due of; `None` when others are.
    fn takes(&self, file: u64, offset: u64, len: usize) -> Option<usize> {
        let due = self.due()?;
        let fits = len > 0 && len.is_multiple_of(BLOCK_BYTES) && len as u64 <= due.bytes;
        if (file, offset) != (due.file, due.offset) || !fits {
            return None;
        }
        self.received.iter().position(Option::is_none)
    }

    async fn begin_part(&self, meta: TableMeta) -> Result<Part<E>, StorageError> {
        let path = name::part(&self.dir, meta.uid, self.shared.number_version());
        let file = self.shared.env().disk().create(&path, OpenMode::Write).await?;
        Ok(Part {
            shared: self.shared.clone(),
            path,
            file,
            offset: 0,
            renamed: false,
        })
    }

    /// Makes a whole file durable and verifies it; its name from then on.
    async fn finish(&self, mut part: Part<E>, at: usize) -> Result<String, StorageError> {
        let (meta, disk) = (self.meta(at), self.shared.env().disk());
        part.file.sync().await?;
        self.check(&part.path, meta).await?;
        let received = name::received(&self.dir, meta.uid, self.description.index());
        disk.rename(&part.path, &received).await?;
        part.renamed = true;
        disk.sync_dir(&self.dir).await?;
        Ok(received)
    }

    /// Gives the snapshot up and removes what was received, of a range without a tablet its directory, too.
    ///
    /// # Errors
    /// What the disk said.
    ///
    /// # Cancellation
    /// What is left is removed when the range receives next, or its tablet has passed the snapshot's index and is opened.
    pub async fn abandon(mut self) -> Result<(), SnapshotError> {
        self.part = None;
        self.remove_received().await;
        if self.tablet.is_none() {
            Tablet::destroy(self.shared.env(), self.description.range()).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_received(&mut self) {
        // Not left to others: a later receiver may find such a name and rely on it.
        for path in self.received.drain(..).flatten() {
            // One that cannot be removed costs space only, until its tablet is opened.
            let _ = self.shared.env().disk().remove(&path).await;
        }
        self.shared.remove_obsolete().await;
    }
}
