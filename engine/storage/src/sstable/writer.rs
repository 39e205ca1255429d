//! Carries a table's bytes to the disk, several writes in flight, and gives it its name.
//!
//! Order, each step complete before the next: create `N.tmp`; write; sync; rename to `N.sst`; sync the directory. Whoever
//! names the table in a manifest does so afterwards.

use super::builder::TableBuilder;
use super::reader::{Family, TableMeta};
use crate::mvcc::tombstone::RangeTombstones;
use crate::{Shared, StorageError};
use base::Timestamp;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;
use env::{Disk, DiskError, Env, File, OpenMode};
use std::collections::VecDeque;
use std::rc::Rc;

/// Bytes of one write.
const WRITE_BYTES: usize = 256 << 10;
/// Writes in flight of one table.
const WRITES_IN_FLIGHT_MAX: usize = 4;

type Write = Pin<Box<dyn Future<Output = Result<(), DiskError>>>>;

/// Writes one table.
pub(crate) struct TableWriter<E: Env> {
    shared: Rc<Shared<E>>,
    dir: String,
    number: u64,
    family: Family,
    uid: u64,
    builder: TableBuilder,
    file: Rc<<E::Disk as Disk>::File>,
    offset: u64,
    in_flight: VecDeque<Write>,
}

impl<E: Env> TableWriter<E> {
    /// The table of a number, of a family.
    pub(crate) async fn create(
        shared: &Rc<Shared<E>>,
        dir: &str,
        (family, number): (Family, u64),
    ) -> Result<Self, StorageError> {
        let config = shared.config();
        let uid = shared.draw_uid(dir, number);
        let builder = TableBuilder::new(uid, config.block_bytes, config.compression);
        let file = Rc::new(
            shared
                .env()
                .disk()
                .create(&temporary(dir, number), OpenMode::Write)
                .await?,
        );
        let (shared, dir) = (shared.clone(), dir.to_owned());
        Ok(Self {
            shared,
            dir,
            number,
            family,
            uid,
            builder,
            file,
            offset: 0,
            in_flight: VecDeque::new(),
        })
    }

    /// Adds a version; [`Self::drain`] must follow when it says so.
    pub(crate) fn add(&mut self, key: &[u8], ts: Timestamp, deleted: bool, value: &[u8]) -> bool {
        self.builder.add(key, ts, deleted, value);
        self.builder.ready() >= WRITE_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Gives the unfinished table up: its file is removed later.
    pub(crate) fn abandon(self) {
        self.shared.discard(temporary(&self.dir, self.number));
    }

    /// Starts the writes that are ready; waits while too many are in flight.
    pub(crate) async fn drain(&mut self) -> Result<(), StorageError> {
        while self.builder.ready() >= WRITE_BYTES {
            self.write(WRITE_BYTES).await?;
        }
        Ok(())
    }

    async fn write(&mut self, len: usize) -> Result<(), StorageError> {
        if self.in_flight.len() >= WRITES_IN_FLIGHT_MAX {
            self.finish_write().await?;
        }
        let mut buf = self.shared.env().disk().alloc(len);
        self.builder.take(&mut buf);
        let (file, offset) = (self.file.clone(), self.offset);
        self.offset += len as u64;
        let mut write: Write = Box::pin(async move { file.write_at(offset, buf).await.0 });
        // The first poll hands it to the disk.
        let first = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
        match first {
            Poll::Ready(result) => result?,
            Poll::Pending => self.in_flight.push_back(write),
        }
        Ok(())
    }

    async fn finish_write(&mut self) -> Result<(), StorageError> {
        if let Some(write) = self.in_flight.pop_front() {
            write.await?;
        }
        Ok(())
    }

    /// Finishes the table under its final name, durably; what it is, for the manifest.
    pub(crate) async fn finish(mut self, tombstones: &RangeTombstones) -> Result<TableMeta, StorageError> {
        let bytes = self.builder.finish(tombstones);
        self.drain().await?;
        if self.builder.ready() > 0 {
            self.write(self.builder.ready()).await?;
        }
        while !self.in_flight.is_empty() {
            self.finish_write().await?;
        }
        assert!(
            self.offset == bytes,
            "wrote {} bytes of a table of {bytes}",
            self.offset
        );
        if !base::planted_bug!("storage-flush-skips-sync") {
            self.file.sync().await?;
        }
        let meta = TableMeta {
            number: self.number,
            uid: self.uid,
            bytes,
            family: self.family,
        };
        let disk = self.shared.env().disk();
        disk.rename(&temporary(&self.dir, self.number), &meta.path(&self.dir))
            .await?;
        if !base::planted_bug!("storage-manifest-before-table") {
            disk.sync_dir(&self.dir).await?;
        }
        Ok(meta)
    }
}

fn temporary(dir: &str, number: u64) -> String {
    format!("{dir}/{number:08}.tmp")
}
