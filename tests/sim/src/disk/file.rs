//! `env::Disk` and `env::File` on a node's [`Device`](super::device).

use super::buf::SimBuf;
use super::content::blocks_of;
use super::request::{Outcome, Request};
use super::store::{InodeId, NameChange};
use crate::timeline::{Event, Key};
use crate::trace::Trace;
use crate::world::{Node, Process, World};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use env::{DirEntry, Disk, DiskError, DiskOp, File, OpenMode};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

/// The data directory of a node, as one of its shards sees it.
#[derive(Debug, Clone)]
pub struct SimDisk {
    pub(crate) world: Rc<World>,
    pub(crate) process: Process,
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: InodeId,
    path: Arc<str>,
    mode: OpenMode,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Free,
    Waiting {
        node: u32,
        ticket: u64,
        waker: Option<Waker>,
    },
    /// Nobody waits any more.
    Abandoned { node: u32, ticket: u64 },
    Done {
        node: u32,
        outcome: Result<Outcome, DiskError>,
    },
}

/// The operations of all disks between their submission and the moment when their future takes the outcome.
#[derive(Debug, Default)]
pub(crate) struct DiskOps {
    slots: Vec<(u32, State)>,
    free: Vec<u32>,
}

impl DiskOps {
    fn insert(&mut self, state: State) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, State::Free));
            u32::try_from(self.slots.len() - 1).expect("fewer operations than memory")
        });
        let (generation, place) = &mut self.slots[slot as usize];
        *place = state;
        Key {
            slot,
            generation: *generation,
        }
    }

    fn state(&mut self, key: Key) -> Option<&mut State> {
        let (generation, state) = &mut self.slots[key.slot as usize];
        (*generation == key.generation).then_some(state)
    }

    fn remove(&mut self, key: Key) -> State {
        let (generation, state) = &mut self.slots[key.slot as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(key.slot);
        core::mem::take(state)
    }

    /// An operation completes on its device.
    pub(crate) fn complete(&mut self, key: Key, nodes: &mut [Node], trace: &mut Trace) {
        let Some(state) = self.state(key) else { return };
        match core::mem::take(state) {
            State::Waiting { node, ticket, waker } => {
                let outcome = nodes[node as usize].device.complete(ticket, trace);
                *state = State::Done { node, outcome };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Abandoned { node, ticket } => {
                let device = &mut nodes[node as usize].device;
                if let Ok(Outcome::File(inode)) = device.complete(ticket, trace) {
                    device.close(inode);
                }
                self.remove(key);
            }
            State::Free | State::Done { .. } => unreachable!("an operation completes once"),
        }
    }

    /// Forgets the operations of a node whose process has ended.
    pub(crate) fn forget(&mut self, of: u32) {
        for slot in 0..self.slots.len() {
            let (generation, state) = &self.slots[slot];
            let is_doomed = match state {
                State::Waiting { node, .. } | State::Abandoned { node, .. } | State::Done { node, .. } => {
                    *node == of
                }
                State::Free => false,
            };
            if is_doomed {
                let slot = u32::try_from(slot).expect("slots are numbered in 32 bits");
                let key = Key {
                    slot,
                    generation: *generation,
                };
                drop(self.remove(key));
            }
        }
    }
}

/// A submitted operation. Dropping it does not stop the operation.
struct Io<'d> {
    disk: &'d SimDisk,
    /// None: the process had ended, nothing will come.
    key: Option<Key>,
}

impl Future for Io<'_> {
    type Output = Result<Outcome, DiskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(key) = self.key else { return Poll::Pending };
        let mut core = self.disk.world.core.borrow_mut();
        let ops = &mut core.disk_ops;
        match ops.state(key) {
            None => return Poll::Pending,
            Some(State::Waiting { waker, .. }) => {
                *waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Some(State::Done { .. }) => {}
            Some(State::Free | State::Abandoned { .. }) => {
                unreachable!("its future still holds the operation")
            }
        }
        let State::Done { outcome, .. } = ops.remove(key) else {
            unreachable!("it is done")
        };
        drop(core);
        self.key = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Io<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let core = &mut *self.disk.world.core.borrow_mut();
        let Some(state) = core.disk_ops.state(key) else {
            return;
        };
        match state {
            State::Waiting { node, ticket, .. } => {
                *state = State::Abandoned {
                    node: *node,
                    ticket: *ticket,
                }
            }
            State::Done { node, outcome } => {
                if let Ok(Outcome::File(inode)) = outcome {
                    core.nodes[*node as usize].device.close(*inode);
                }
                core.disk_ops.remove(key);
            }
            State::Free | State::Abandoned { .. } => {}
        }
    }
}

impl SimDisk {
    /// Submits a request. The caller awaits the future at once or drops it.
    fn submit(&self, path: Arc<str>, request: Request) -> Io<'_> {
        let core = &mut *self.world.core.borrow_mut();
        if !core.is_alive(self.process) {
            return Io {
                disk: self,
                key: None,
            };
        }
        let (ticket, delay_ns) =
            core.nodes[self.process.node()]
                .device
                .submit(path, request, &mut core.trace);
        let key = core.disk_ops.insert(State::Waiting {
            node: self.process.node,
            ticket,
            waker: None,
        });
        core.timeline.schedule(core.now + delay_ns, Event::Disk(key));
        Io {
            disk: self,
            key: Some(key),
        }
    }

    async fn names(&self, path: &str, change: NameChange) -> Result<(), DiskError> {
        self.submit(Arc::from(path), Request::Names(change))
            .await
            .map(drop)
    }

    async fn open_with(&self, path: &str, mode: OpenMode, request: Request) -> Result<SimFile, DiskError> {
        let path: Arc<str> = Arc::from(path);
        match self.submit(path.clone(), request).await? {
            Outcome::File(inode) => Ok(SimFile {
                disk: self.clone(),
                inode,
                path,
                mode,
            }),
            other => unreachable!("an open gave {other:?}"),
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Buf = SimBuf;

    fn alloc(&self, len: usize) -> SimBuf {
        SimBuf::zeroed(len)
    }

    async fn open(&self, path: &str, mode: OpenMode) -> Result<SimFile, DiskError> {
        self.open_with(path, mode, Request::Open).await
    }

    async fn create(&self, path: &str, mode: OpenMode) -> Result<SimFile, DiskError> {
        self.open_with(path, mode, Request::Create).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.names(
            from,
            NameChange::Rename {
                from: Arc::from(from),
                to: Arc::from(to),
            },
        )
        .await
    }

    async fn hard_link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.names(
            from,
            NameChange::HardLink {
                from: Arc::from(from),
                to: Arc::from(to),
            },
        )
        .await
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.names(
            path,
            NameChange::Remove {
                path: Arc::from(path),
            },
        )
        .await
    }

    async fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        self.submit(Arc::from(path), Request::CreateDir).await.map(drop)
    }

    async fn sync_dir(&self, path: &str) -> Result<(), DiskError> {
        self.submit(Arc::from(path), Request::SyncDir).await.map(drop)
    }

    async fn list(&self, path: &str) -> Result<Vec<DirEntry>, DiskError> {
        match self.submit(Arc::from(path), Request::List).await? {
            Outcome::Entries(entries) => Ok(entries),
            other => unreachable!("a list gave {other:?}"),
        }
    }

    async fn space_free(&self) -> Result<u64, DiskError> {
        match self.submit(Arc::from(""), Request::Space).await? {
            Outcome::Number(bytes) => Ok(bytes),
            other => unreachable!("a question for space gave {other:?}"),
        }
    }
}

impl SimFile {
    fn submit(&self, request: Request) -> Io<'_> {
        self.disk.submit(self.path.clone(), request)
    }

    fn refuse(&self, op: DiskOp, offset: Option<u64>) -> Result<(), DiskError> {
        match self.mode {
            OpenMode::Write | OpenMode::WriteDurable => Ok(()),
            OpenMode::Read => Err(DiskError {
                op,
                path: self.path.to_string(),
                offset,
                kind: ErrorKind::PermissionDenied,
            }),
        }
    }
}

impl File for SimFile {
    type Buf = SimBuf;

    async fn read_at(&self, offset: u64, len: usize) -> Result<SimBuf, DiskError> {
        match self
            .submit(Request::Read {
                inode: self.inode,
                offset,
                len,
            })
            .await?
        {
            Outcome::Bytes(buf) => Ok(buf),
            other => unreachable!("a read gave {other:?}"),
        }
    }

    async fn write_at(&self, offset: u64, buf: SimBuf) -> (Result<(), DiskError>, SimBuf) {
        if let Err(error) = self.refuse(DiskOp::Write, Some(offset)) {
            return (Err(error), buf);
        }
        let durable = self.mode == OpenMode::WriteDurable;
        let (blocks, checksum) = (blocks_of(&buf), base::checksum::crc32c(&buf));
        let request = Request::Write {
            inode: self.inode,
            offset,
            blocks,
            durable,
            checksum,
        };
        (self.submit(request).await.map(drop), buf)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.submit(Request::Sync { inode: self.inode }).await.map(drop)
    }

    async fn len(&self) -> Result<u64, DiskError> {
        match self.submit(Request::Len { inode: self.inode }).await? {
            Outcome::Number(len) => Ok(len),
            other => unreachable!("a question for length gave {other:?}"),
        }
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.refuse(DiskOp::SetLen, None)?;
        self.submit(Request::SetLen {
            inode: self.inode,
            len,
        })
        .await
        .map(drop)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let core = &mut *self.disk.world.core.borrow_mut();
        if core.is_alive(self.disk.process) {
            core.nodes[self.disk.process.node()].device.close(self.inode);
        }
    }
}
