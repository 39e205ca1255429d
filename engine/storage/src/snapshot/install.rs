//! Installing a raft snapshot whose files are all there.
//!
//! Order, each step complete before the next: link every file to its name as a table; sync the directory; write the manifest
//! anew, with the whole new state (create, write, sync, rename, sync the directory); the state in memory; remove the old
//! tables and the names that the files were received under.
//!
//! A crash before the rename is durable leaves the old tablet, or none, and the received files: the links are swept. After it
//! there is the new tablet, and the rest is swept. Links rather than renames, so that nothing is received twice.

use super::SnapshotReceiver;
use crate::files::found;
use crate::manifest::edit::Description;
use crate::manifest::file::Manifest;
use crate::snapshot::SnapshotError;
use crate::sstable::reader::{Table, TableMeta};
use crate::{StorageError, Tablet};
use env::{Disk, Env};
use std::rc::Rc;

impl<E: Env> SnapshotReceiver<E> {
    /// Installs this opaque state in place of the sender's: a replica has things of its own in it.
    pub fn set_app_state(&mut self, app_state: &[u8]) {
        self.description.state.app_state = Rc::from(app_state);
    }

    /// Makes the snapshot the state of the tablet, which it returns: durable, without memtables, at the snapshot's index.
    /// Reads that have begun go on in the old state. Splits that are not durable yet are completed first.
    ///
    /// # Errors
    /// [`SnapshotError::Stale`] when the tablet has caught up meanwhile. What the disk said: the tablet then refuses further
    /// writes with [`StorageError::Poisoned`].
    ///
    /// # Panics
    /// When bytes are still missing, or an entry is applied to the tablet while it runs.
    ///
    /// # Cancellation
    /// Poisons the tablet when it was writing the manifest; otherwise nothing has happened.
    pub async fn install(mut self) -> Result<Tablet<E>, SnapshotError> {
        let due = self.due();
        assert!(due.is_none(), "{due:?} must be received first");
        let installed = match self.tablet.clone() {
            Some(tablet) => {
                self.install_over(&tablet).await?;
                tablet
            }
            None => self.install_new().await?,
        };
        self.remove_received().await;
        Ok(installed)
    }

    async fn install_over(&self, tablet: &Tablet<E>) -> Result<(), SnapshotError> {
        tablet.check_ahead(&self.description)?;
        let applied = tablet.applied_index();
        tablet.complete_split().await?;
        let _flushing = tablet.0.flushing.lock().await;
        let _merging = tablet.0.merging.lock().await;
        tablet.check_poisoned()?;
        let result = self.link_tables(|| tablet.next_table()).await;
        let (metas, opened) = tablet.poison_on_error(result)?;
        let description = self.state_with(metas, tablet.0.next_table.get());
        let result = tablet.replace(applied, description, &opened).await;
        tablet.poison_on_error(result)?;
        Ok(())
    }

    async fn install_new(&self) -> Result<Tablet<E>, SnapshotError> {
        let mut next_table = 1;
        let number = || {
            next_table += 1;
            next_table - 1
        };
        let (metas, opened) = self.link_tables(number).await?;
        let description = self.state_with(metas, next_table);
        let manifest = Manifest::create(&self.shared, &self.dir, description.clone()).await?;
        let range = self.description.range();
        Ok(Tablet::assemble(
            &self.shared,
            range,
            &description,
            &opened,
            Some(manifest),
        ))
    }

    /// Gives each file its name as a table, durably, and opens it; both newest first.
    async fn link_tables(
        &self,
        mut number: impl FnMut() -> u64,
    ) -> Result<(Vec<TableMeta>, Vec<Rc<Table<E>>>), StorageError> {
        let disk = self.shared.env().disk();
        let forgotten = usize::from(base::planted_bug!("storage-snapshot-without-last-file"));
        let files = self.description.state.tables.iter().zip(&self.received);
        let mut metas = Vec::new();
        // The oldest gets the lowest number.
        for (&meta, received) in files.rev().skip(forgotten) {
            let number = number();
            let meta = TableMeta { number, ..meta };
            let received = received.as_ref().expect("nothing is missing");
            // What was left over from a crash and could not be removed.
            found(disk.remove(&meta.path(&self.dir)).await)?;
            disk.hard_link(received, &meta.path(&self.dir)).await?;
            metas.push(meta);
        }
        metas.reverse();
        disk.sync_dir(&self.dir).await?;
        let mut opened = Vec::with_capacity(metas.len());
        for &meta in &metas {
            opened.push(Table::open(&self.shared, &self.dir, meta).await?);
        }
        Ok((metas, opened))
    }

    fn state_with(&self, tables: Vec<TableMeta>, next_table: u64) -> Description {
        Description {
            tables,
            next_table,
            ..self.description.state.clone()
        }
    }
}
