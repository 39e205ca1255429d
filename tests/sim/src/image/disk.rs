//! The disk of an [`ImageEnv`](super::ImageEnv).

use super::rest::yield_once;
use crate::disk::content::{SectorFate, block_at, blocks_of};
use crate::disk::rule::{DiskRule, strike};
use crate::disk::store::{Fate, InodeId, Landed, NameChange, OpId, Step, Store};
use crate::disk::{DiskImage, DiskTrace, SECTOR_BYTES, SimBuf};
use env::{DirEntry, Disk, DiskError, DiskOp, File, OpenMode};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

/// A disk without delay.
#[derive(Debug, Clone)]
pub struct ImageDisk(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    store: Store,
    recorded: Option<DiskTrace>,
    rules: Vec<DiskRule>,
}

/// An open file of an [`ImageDisk`].
#[derive(Debug)]
pub struct ImageFile {
    disk: ImageDisk,
    inode: InodeId,
    path: Arc<str>,
    mode: OpenMode,
}

/// A write or sync in flight. It happens also when nobody waits for it any more.
struct InFlight<'d> {
    disk: &'d ImageDisk,
    end: Option<Step>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.disk.0.borrow_mut().step(end);
        }
    }
}

impl State {
    fn step(&mut self, step: Step) {
        self.store.step(&step);
        if let Some(trace) = &mut self.recorded {
            trace.steps.push(step);
        }
    }

    fn struck(&mut self, op: DiskOp, path: &str, offset: Option<u64>) -> Result<(), DiskError> {
        strike(&mut self.rules, op, path).map_or(Ok(()), |kind| Err(error(op, path, offset, kind)))
    }
}

fn error(op: DiskOp, path: &str, offset: Option<u64>, kind: ErrorKind) -> DiskError {
    DiskError {
        op,
        path: path.to_owned(),
        offset,
        kind,
    }
}

impl ImageDisk {
    pub(super) fn new(store: Store) -> Self {
        Self(Rc::new(RefCell::new(State {
            store,
            recorded: None,
            rules: Vec::new(),
        })))
    }

    pub(super) fn store(&self) -> Store {
        self.0.borrow().store.clone()
    }

    pub(super) fn rule(&self, rule: DiskRule) {
        self.0.borrow_mut().rules.push(rule);
    }

    pub(super) fn record(&self) {
        let mut state = self.0.borrow_mut();
        state.recorded = Some(DiskTrace {
            start: state.store.clone(),
            steps: Vec::new(),
        });
    }

    pub(super) fn mark(&self, mark: u64) {
        self.0.borrow_mut().step(Step::Mark(mark));
    }

    pub(super) fn trace(&self) -> DiskTrace {
        self.0.borrow().recorded.clone().expect("recording was started")
    }

    pub(super) fn image_least(&self) -> DiskImage {
        self.0.borrow().store.image(|_, _| Fate::Lost)
    }

    pub(super) fn image(&self) -> DiskImage {
        self.0.borrow().store.image_seen()
    }

    fn names(&self, op: DiskOp, path: &str, change: NameChange) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.struck(op, path, None)?;
        if let Some(kind) = state.store.refusal(&change) {
            return Err(error(op, path, None, kind));
        }
        let op = state.store.op_next();
        state.step(Step::Names { op, change });
        Ok(())
    }

    fn open_inode(&self, op: DiskOp, path: &str, mode: OpenMode) -> Result<ImageFile, DiskError> {
        let mut state = self.0.borrow_mut();
        let inode = state
            .store
            .file(path)
            .map_err(|kind| error(op, path, None, kind))?;
        state.step(Step::Opened(inode));
        Ok(ImageFile {
            disk: self.clone(),
            inode,
            path: Arc::from(path),
            mode,
        })
    }

    /// Ends a sync after one turn.
    async fn sync(&self, op: OpId, disk_op: DiskOp, path: &str) -> Result<(), DiskError> {
        let struck = self.0.borrow_mut().struck(disk_op, path, None);
        let in_flight = InFlight {
            disk: self,
            end: Some(Step::EndSync {
                op,
                is_ok: struck.is_ok(),
            }),
        };
        yield_once().await;
        drop(in_flight);
        struck
    }
}

impl Disk for ImageDisk {
    type File = ImageFile;
    type Buf = SimBuf;

    fn alloc(&self, len: usize) -> SimBuf {
        SimBuf::zeroed(len)
    }

    async fn open(&self, path: &str, mode: OpenMode) -> Result<ImageFile, DiskError> {
        self.0.borrow_mut().struck(DiskOp::Open, path, None)?;
        self.open_inode(DiskOp::Open, path, mode)
    }

    async fn create(&self, path: &str, mode: OpenMode) -> Result<ImageFile, DiskError> {
        self.names(
            DiskOp::Create,
            path,
            NameChange::Create {
                path: Arc::from(path),
            },
        )?;
        self.open_inode(DiskOp::Create, path, mode)
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.names(
            DiskOp::Rename,
            from,
            NameChange::Rename {
                from: Arc::from(from),
                to: Arc::from(to),
            },
        )
    }

    async fn hard_link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.names(
            DiskOp::HardLink,
            from,
            NameChange::HardLink {
                from: Arc::from(from),
                to: Arc::from(to),
            },
        )
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.names(
            DiskOp::Remove,
            path,
            NameChange::Remove {
                path: Arc::from(path),
            },
        )
    }

    async fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        state.struck(DiskOp::CreateDir, path, None)?;
        state.step(Step::CreateDir {
            path: Arc::from(path),
        });
        Ok(())
    }

    async fn sync_dir(&self, path: &str) -> Result<(), DiskError> {
        let op = {
            let mut state = self.0.borrow_mut();
            let op = state.store.op_next();
            state.step(Step::BeginSyncDir {
                op,
                path: Arc::from(path),
            });
            op
        };
        self.sync(op, DiskOp::SyncDir, path).await
    }

    async fn list(&self, path: &str) -> Result<Vec<DirEntry>, DiskError> {
        let mut state = self.0.borrow_mut();
        state.struck(DiskOp::List, path, None)?;
        state
            .store
            .list(path)
            .map_err(|kind| error(DiskOp::List, path, None, kind))
    }

    async fn space_free(&self) -> Result<u64, DiskError> {
        self.0.borrow_mut().struck(DiskOp::Space, "", None)?;
        Ok(1 << 40)
    }
}

impl ImageFile {
    fn error(&self, op: DiskOp, offset: Option<u64>, kind: ErrorKind) -> DiskError {
        error(op, &self.path, offset, kind)
    }

    fn is_writable(&self, op: DiskOp, offset: Option<u64>) -> Result<(), DiskError> {
        match self.mode {
            OpenMode::Read => Err(self.error(op, offset, ErrorKind::PermissionDenied)),
            OpenMode::Write | OpenMode::WriteDurable => Ok(()),
        }
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(OpId, Result<(), DiskError>), DiskError> {
        self.is_writable(DiskOp::Write, Some(offset))?;
        let mut state = self.disk.0.borrow_mut();
        let struck = state.struck(DiskOp::Write, &self.path, Some(offset));
        let op = state.store.op_next();
        let durable = self.mode == OpenMode::WriteDurable;
        let (inode, first) = (self.inode, block_at(offset));
        state.step(Step::BeginWrite {
            op,
            inode,
            first,
            blocks: blocks_of(bytes),
            durable,
        });
        Ok((op, struck))
    }
}

fn landed(result: &Result<(), DiskError>, len: usize) -> Landed {
    match result {
        Ok(()) => Landed::Whole,
        Err(DiskError {
            kind: ErrorKind::StorageFull,
            ..
        }) => Landed::Nowhere,
        Err(_) => {
            let sectors = len / SECTOR_BYTES;
            let fate = |sector| {
                if sector < sectors / 2 {
                    SectorFate::New
                } else {
                    SectorFate::Old
                }
            };
            Landed::Torn((0..sectors).map(fate).collect())
        }
    }
}

impl File for ImageFile {
    type Buf = SimBuf;

    async fn read_at(&self, offset: u64, len: usize) -> Result<SimBuf, DiskError> {
        let mut state = self.disk.0.borrow_mut();
        state.struck(DiskOp::Read, &self.path, Some(offset))?;
        let mut buf = SimBuf::zeroed(len);
        state.store.content(self.inode).read(offset, &mut buf);
        Ok(buf)
    }

    async fn write_at(&self, offset: u64, buf: SimBuf) -> (Result<(), DiskError>, SimBuf) {
        let (op, result) = match self.begin_write(offset, &buf) {
            Ok(begun) => begun,
            Err(error) => return (Err(error), buf),
        };
        let end = Step::EndWrite {
            op,
            landed: landed(&result, buf.len()),
        };
        let in_flight = InFlight {
            disk: &self.disk,
            end: Some(end),
        };
        yield_once().await;
        drop(in_flight);
        (result, buf)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let op = {
            let mut state = self.disk.0.borrow_mut();
            let op = state.store.op_next();
            state.step(Step::BeginSync {
                op,
                inode: self.inode,
            });
            op
        };
        self.disk.sync(op, DiskOp::Sync, &self.path).await
    }

    async fn len(&self) -> Result<u64, DiskError> {
        Ok(self.disk.0.borrow().store.content(self.inode).len())
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.is_writable(DiskOp::SetLen, None)?;
        let mut state = self.disk.0.borrow_mut();
        state.struck(DiskOp::SetLen, &self.path, None)?;
        let op = state.store.op_next();
        state.step(Step::SetLen {
            op,
            inode: self.inode,
            blocks: block_at(len),
        });
        Ok(())
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        self.disk.0.borrow_mut().step(Step::Closed(self.inode));
    }
}
