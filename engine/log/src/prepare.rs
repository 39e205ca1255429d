//! Slots ahead of need: zero-filled, reused or removed, in the background.
//!
//! ```text
//!   dropped ─ a durable batch says so ─► freed ─► spare ─► the next segment
//!                                          └─► removed    ▲
//!                                 created, zero-filled ───┘
//! ```
//!
//! Invariant: the name of a spare is durable. A created slot is offered after its directory was synced; one that was found
//! when the log was opened may come from a process that did not get so far, so opening syncs the directory first.

use crate::LogConfig;
use crate::reader::slot_path;
use crate::shell::Shell;
use crate::state::{FileOf, State};
use crate::writer::Spare;
use env::{Disk, DiskError, Env, File, OpenMode, TaskClass, Tasks};
use std::rc::Rc;

/// Zeros written at once when a slot is prepared: little enough not to hold up the log's own writes.
const ZERO_BYTES: u64 = 256 << 10;

/// A step of preparation.
#[derive(Debug, Clone, Copy)]
enum Job {
    Reuse(Spare),
    Remove(u32),
    Create(Spare),
}

impl<E: Env> State<E> {
    fn next_job(&self, config: &LogConfig) -> Option<Job> {
        if self.failure.is_some() || (self.closing && self.wanted.is_none()) {
            return None;
        }
        let enough = self.writer.spares() >= config.segments_spare;
        if let Some(&freed) = self.freed.front() {
            let usual = freed.bytes == config.segment_bytes;
            let kept = self.writer.spares() < config.segments_kept_max;
            return Some(if usual && kept {
                Job::Reuse(freed)
            } else {
                Job::Remove(freed.slot)
            });
        }
        let bytes = match self.wanted {
            Some(wanted) if wanted > config.segment_bytes => wanted,
            Some(_) => config.segment_bytes,
            None if !enough => config.segment_bytes,
            None => return None,
        };
        Some(Job::Create(Spare {
            slot: self.slot_next,
            bytes,
        }))
    }

    fn take_job(&mut self, config: &LogConfig) -> Option<Job> {
        let job = self.next_job(config)?;
        match job {
            Job::Reuse(_) | Job::Remove(_) => drop(self.freed.pop_front()),
            Job::Create(_) => self.slot_next += 1,
        }
        Some(job)
    }
}

impl<E: Env> Shell<E> {
    /// Prepares slots in the background until there are enough.
    pub(crate) fn prepare(self: &Rc<Self>) {
        {
            let state = &mut *self.state.borrow_mut();
            if state.preparing || state.next_job(&self.config).is_none() {
                return;
            }
            state.preparing = true;
        }
        let shell = Rc::clone(self);
        self.spawn(TaskClass::Background, async move {
            if let Err(error) = shell.prepare_all().await {
                shell.fail(error.into());
            }
            shell.state.borrow_mut().preparing = false;
            shell.start_writes();
        });
    }

    async fn prepare_all(self: &Rc<Self>) -> Result<(), DiskError> {
        loop {
            let job = self.state.borrow_mut().take_job(&self.config);
            let (spare, file) = match job {
                None => return Ok(()),
                Some(Job::Remove(slot)) => {
                    self.state.borrow_mut().files.remove(&slot);
                    self.env.disk().remove(&slot_path(&self.dir, slot)).await?;
                    continue;
                }
                Some(Job::Reuse(spare)) => {
                    base::sometimes!("log: reused a slot");
                    let open = self.state.borrow().files.get(&spare.slot).cloned();
                    let file = match open {
                        Some(file) => file,
                        None => Rc::new(open_slot(&self.env, &self.dir, spare.slot).await?),
                    };
                    (spare, file)
                }
                Some(Job::Create(spare)) => (spare, Rc::new(create_slot(&self.env, &self.dir, spare).await?)),
            };
            base::sometimes!(
                "log: made a segment for one large batch",
                spare.bytes > self.config.segment_bytes
            );
            {
                let state = &mut *self.state.borrow_mut();
                state.files.insert(spare.slot, file);
                state.writer.offer(spare);
                state.wanted = state.wanted.filter(|&bytes| spare.bytes < bytes);
            }
            self.start_writes();
        }
    }
}

/// Opens a slot for writing segments.
pub(crate) async fn open_slot<E: Env>(env: &E, dir: &str, slot: u32) -> Result<FileOf<E>, DiskError> {
    env.disk()
        .open(&slot_path(dir, slot), OpenMode::WriteDurable)
        .await
}

/// Creates a slot filled with zeros: durable writes into blocks that were written before need no change of metadata.
/// Order: create, write zeros, sync the file, sync the directory.
pub(crate) async fn create_slot<E: Env>(env: &E, dir: &str, spare: Spare) -> Result<FileOf<E>, DiskError> {
    let path = slot_path(dir, spare.slot);
    let disk = env.disk();
    let file = disk.create(&path, OpenMode::Write).await?;
    let mut offset = 0;
    while offset < spare.bytes {
        let len = ZERO_BYTES.min(spare.bytes - offset);
        let zeros = disk.alloc(usize::try_from(len).expect("a small constant at most"));
        file.write_at(offset, zeros).await.0?;
        offset += len;
        env.tasks().yield_now().await;
    }
    file.sync().await?;
    disk.sync_dir(dir).await?;
    open_slot(env, dir, spare.slot).await
}
