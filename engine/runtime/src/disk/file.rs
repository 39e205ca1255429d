//! An open file.

use super::buffer::Buffer;
use super::name::disk_error;
use crate::blocking::Blocking;
use crate::faults::Faults;
use crate::reactor::{Done, Payload, Reactor};
use base::limits::BLOCK_BYTES;
use env::{DiskError, DiskOp};
use io_uring::{opcode, types};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

/// The kernel moves at most so much in one call (`MAX_RW_COUNT`, rounded down to a power of two); longer I/O is split.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// A file of the data directory.
pub struct DiskFile {
    reactor: Rc<Reactor>,
    blocking: Rc<Blocking>,
    fd: Rc<Descriptor>,
    path: Rc<str>,
    /// What writes pretend, in tests.
    faults: Option<Rc<Faults>>,
}

impl DiskFile {
    pub(super) fn new(
        reactor: Rc<Reactor>,
        blocking: Rc<Blocking>,
        fd: OwnedFd,
        path: &str,
        faults: Option<Rc<Faults>>,
    ) -> Self {
        Self {
            reactor,
            blocking,
            fd: Rc::new(Descriptor::new(fd)),
            path: path.into(),
            faults,
        }
    }

    fn error(&self, op: DiskOp, offset: Option<u64>, error: &io::Error) -> DiskError {
        DiskError {
            offset,
            ..disk_error(op, &self.path, error)
        }
    }

    fn check(&self, offset: u64, len: usize) {
        let block = BLOCK_BYTES as u64;
        assert!(
            offset.is_multiple_of(block),
            "I/O on {} at {offset}, not at a block",
            self.path
        );
        assert!(
            len > 0 && len.is_multiple_of(BLOCK_BYTES),
            "I/O on {} of {len} bytes",
            self.path
        );
        assert!(
            offset
                .checked_add(len as u64)
                .is_some_and(|end| i64::try_from(end).is_ok()),
            "offset {offset}"
        );
    }

    /// One read into `buffer[from..]`.
    async fn read_some(&self, mut buffer: Buffer, offset: u64, from: usize) -> Done {
        let len = (buffer.capacity() - from).min(TRANSFER_BYTES_MAX);
        let len = u32::try_from(len).expect("bounded above");
        // SAFETY: `from` is below the length.
        let at = unsafe { buffer.as_mut_ptr().add(from) };
        let entry = opcode::Read::new(types::Fd(self.fd.as_raw_fd()), at, len)
            .offset(offset + from as u64)
            .build();
        self.reactor
            .start(
                entry,
                Payload {
                    _file: self.fd.clone(),
                    buffer: Some(buffer),
                },
            )
            .await
    }

    /// One write of `buffer[from..]`.
    async fn write_some(&self, buffer: Buffer, offset: u64, from: usize) -> Done {
        let rest = &buffer[from..];
        let len = u32::try_from(rest.len().min(TRANSFER_BYTES_MAX)).expect("bounded by the other side");
        let file = types::Fd(self.fd.as_raw_fd());
        let entry = opcode::Write::new(file, rest.as_ptr(), len)
            .offset(offset + from as u64)
            .build();
        self.reactor
            .start(
                entry,
                Payload {
                    _file: self.fd.clone(),
                    buffer: Some(buffer),
                },
            )
            .await
    }
}

fn transferred(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

impl env::File for DiskFile {
    type Buf = Buffer;

    async fn read_at(&self, offset: u64, len: usize) -> Result<Buffer, DiskError> {
        self.check(offset, len);
        // SAFETY: it leaves this function when `from` has reached its end, or what follows `from` was zeroed.
        let mut buffer = unsafe { Buffer::unfilled(len) };
        let mut from = 0;
        while from < len {
            let done = self.read_some(buffer, offset, from).await;
            buffer = done.buffer.expect("a read gives its buffer back");
            match transferred(done.result) {
                // The end of the file, or a last block that is not whole, after which an odd offset would be refused: what
                // follows reads as zero.
                Ok(bytes) if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) => {
                    buffer.zero_from(from + bytes);
                    break;
                }
                Ok(bytes) => from += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(DiskOp::Read, Some(offset + from as u64), &error)),
            }
        }
        Ok(buffer)
    }

    async fn write_at(&self, offset: u64, mut buf: Buffer) -> (Result<(), DiskError>, Buffer) {
        self.check(offset, buf.len());
        if let Some(faults) = &self.faults {
            faults.delay(&self.reactor).await;
        }
        let mut from = 0;
        while from < buf.len() {
            let done = self.write_some(buf, offset, from).await;
            buf = done.buffer.expect("a write gives its buffer back");
            let error = match transferred(done.result) {
                Ok(bytes) if bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES) => {
                    from += bytes;
                    continue;
                }
                // Part of a block: the device is full or failing, and there is no aligned way on.
                Ok(_) => io::ErrorKind::StorageFull.into(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            return (
                Err(self.error(DiskOp::Write, Some(offset + from as u64), &error)),
                buf,
            );
        }
        (Ok(()), buf)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let sync = opcode::Fsync::new(types::Fd(self.fd.as_raw_fd())).flags(types::FsyncFlags::DATASYNC);
        let done = self
            .reactor
            .start(
                sync.build(),
                Payload {
                    _file: self.fd.clone(),
                    buffer: None,
                },
            )
            .await;
        transferred(done.result)
            .map(drop)
            .map_err(|error| self.error(DiskOp::Sync, None, &error))
    }

    async fn len(&self) -> Result<u64, DiskError> {
        // SAFETY: a zeroed `stat` is a valid buffer of the right size. The inode is in memory: this does not block.
        let (result, stat) = unsafe {
            let mut stat: libc::stat = core::mem::zeroed();
            (libc::fstat(self.fd.as_raw_fd(), &raw mut stat), stat)
        };
        if result != 0 {
            return Err(self.error(DiskOp::Open, None, &io::Error::last_os_error()));
        }
        Ok(stat.st_size.cast_unsigned())
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        assert!(
            len.is_multiple_of(BLOCK_BYTES as u64),
            "length {len} of {} is not whole blocks",
            self.path
        );
        let fd = self
            .fd
            .owned()
            .try_clone()
            .map_err(|error| self.error(DiskOp::SetLen, None, &error))?;
        let outcome = self
            .blocking
            .run(move || std::fs::File::from(fd).set_len(len))
            .await;
        outcome.map_err(|error| self.error(DiskOp::SetLen, None, &error))
    }
}

/// A descriptor that a thread of its own closes: the last close of a removed file frees its blocks, which can take long.
#[derive(Debug)]
pub(crate) struct Descriptor(Option<OwnedFd>);

/// Descriptors that may wait to be closed; beyond it the shard closes them itself.
const CLOSES_MAX: usize = 1024;

impl Descriptor {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }

    fn owned(&self) -> &OwnedFd {
        self.0.as_ref().expect("taken by drop only")
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.owned().as_raw_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        static CLOSER: OnceLock<Option<SyncSender<OwnedFd>>> = OnceLock::new();
        let closer = CLOSER.get_or_init(|| {
            let (sender, receiver) = sync_channel::<OwnedFd>(CLOSES_MAX);
            let closer = std::thread::Builder::new().name("closer".into());
            closer
                .spawn(move || receiver.into_iter().for_each(drop))
                .ok()
                .map(|_| sender)
        });
        if let (Some(closer), Some(fd)) = (closer, self.0.take()) {
            // Full or ended: then `fd` comes back in the error and closes here.
            drop(closer.try_send(fd));
        }
    }
}
