//! Files: direct, aligned, asynchronous.
//!
//! Paths are relative to the node's data directory, separated by `/`, ASCII, without `.` and `..`.
//!
//! Durability is explicit and has exactly these rules:
//! - A completed [`File::write_at`] is durable after a later [`File::sync`] of that file completes; on a file opened with
//!   [`OpenMode::WriteDurable`] it is durable when it completes.
//! - [`Disk::create`], [`Disk::rename`], [`Disk::remove`] and [`Disk::hard_link`] are durable after a later
//!   [`Disk::sync_dir`] of the directory concerned (both, for a rename between two) completes. Until then a crash may undo
//!   them.
//! - Writes in flight, or complete but not durable, may after a crash be there, not there, or there in part: any subset of
//!   their 512-byte sectors, in any order.
//! - A failed write or sync leaves the file's content unknown. The caller must not retry; it stops the node.

use core::fmt;
use core::future::Future;
use core::ops::{Deref, DerefMut};

/// An owned buffer, aligned to [`base::limits::BLOCK_BYTES`]; its length is a multiple of it. Zeroed when handed out.
pub trait IoBuf: Deref<Target = [u8]> + DerefMut + 'static {}

impl<T: Deref<Target = [u8]> + DerefMut + 'static> IoBuf for T {}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Reads only.
    Read,
    /// Reads and writes; durable after [`File::sync`].
    Write,
    /// Reads and writes; each write is durable when it completes (`O_DSYNC`).
    WriteDurable,
}

/// What was being done when the disk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the operations of the traits below")]
pub enum DiskOp {
    Open,
    Create,
    Read,
    Write,
    Sync,
    SyncDir,
    Rename,
    Remove,
    HardLink,
    List,
    CreateDir,
    SetLen,
    Space,
}

/// An I/O operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op:?} of {path}{}: {}", at(.offset), what(*.kind))]
pub struct DiskError {
    /// What was being done.
    pub op: DiskOp,
    /// The file or directory, relative to the data directory.
    pub path: String,
    /// Where in the file, for reads and writes.
    pub offset: Option<u64>,
    /// What the system said: `StorageFull`, `NotFound`, …; `ResourceBusy` only when the process may not open more files.
    pub kind: std::io::ErrorKind,
}

fn what(kind: std::io::ErrorKind) -> String {
    match kind {
        std::io::ErrorKind::ResourceBusy => {
            "too many files are open: raise the limit (`ulimit -n`, LimitNOFILE=)".to_owned()
        }
        kind => kind.to_string(),
    }
}

fn at(offset: &Option<u64>) -> impl fmt::Display {
    offset.map_or_else(String::new, |offset| format!(" at offset {offset}"))
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last part of the path.
    pub name: String,
    /// Bytes, for a file; zero for a directory.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The data directory of a node.
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: File<Buf = Self::Buf>;
    /// A buffer for its I/O.
    type Buf: IoBuf;

    /// A zeroed buffer of `len` bytes.
    ///
    /// # Panics
    /// When `len` is zero or not a multiple of [`base::limits::BLOCK_BYTES`].
    fn alloc(&self, len: usize) -> Self::Buf;

    /// Opens an existing file. `NotFound` when there is none.
    fn open(&self, path: &str, mode: OpenMode) -> impl Future<Output = Result<Self::File, DiskError>>;

    /// Creates an empty file, or empties an existing one, and opens it.
    fn create(&self, path: &str, mode: OpenMode) -> impl Future<Output = Result<Self::File, DiskError>>;

    /// Gives `from` the name `to`, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = Result<(), DiskError>>;

    /// Gives the file `from` the second name `to`. `AlreadyExists` when it is taken.
    fn hard_link(&self, from: &str, to: &str) -> impl Future<Output = Result<(), DiskError>>;

    /// Removes a file or an empty directory. `NotFound` when there is none.
    fn remove(&self, path: &str) -> impl Future<Output = Result<(), DiskError>>;

    /// Creates a directory and its parents, durably; fine when it exists.
    fn create_dir(&self, path: &str) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &str) -> impl Future<Output = Result<(), DiskError>>;

    /// The entries of a directory (`""` is the data directory), sorted by name.
    fn list(&self, path: &str) -> impl Future<Output = Result<Vec<DirEntry>, DiskError>>;

    /// Bytes that may still be written.
    fn space_free(&self) -> impl Future<Output = Result<u64, DiskError>>;
}

/// An open file. Offsets and lengths are multiples of [`base::limits::BLOCK_BYTES`]. Closed when dropped.
#[expect(
    clippy::len_without_is_empty,
    reason = "the length is asked of the system, not a collection's"
)]
pub trait File: 'static {
    /// A buffer for its I/O.
    type Buf: IoBuf;

    /// Reads `len` bytes at `offset`. Bytes past the end of the file read as zero, so the result always has `len` bytes.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = Result<Self::Buf, DiskError>>;

    /// Writes all of `buf` at `offset`, growing the file as needed, and hands the buffer back.
    ///
    /// Several writes of one file may be in flight; they complete in any order.
    ///
    /// # Cancellation
    /// Dropping the future does not stop the write.
    fn write_at(
        &self,
        offset: u64,
        buf: Self::Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Self::Buf)>;

    /// Makes every write that completed before the call durable, and the file's length.
    fn sync(&self) -> impl Future<Output = Result<(), DiskError>>;

    /// The file's length in bytes.
    fn len(&self) -> impl Future<Output = Result<u64, DiskError>>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> impl Future<Output = Result<(), DiskError>>;
}
