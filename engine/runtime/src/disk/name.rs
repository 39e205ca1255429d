//! The data directory: names, on a blocking thread.

use super::buffer::Buffer;
use super::file::DiskFile;
use crate::blocking::Blocking;
use crate::faults::Faults;
use crate::reactor::Reactor;
use env::{DirEntry, DiskError, DiskOp, OpenMode};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The files of one node.
#[derive(Clone)]
pub struct DiskFs {
    reactor: Rc<Reactor>,
    blocking: Rc<Blocking>,
    root: Rc<Path>,
    /// What the disk pretends, in tests.
    faults: Option<Rc<Faults>>,
}

pub(super) fn disk_error(op: DiskOp, path: &str, error: &io::Error) -> DiskError {
    // `ErrorKind` has no name for an I/O error proper (EIO), which callers see as it is, nor for the limits of open files.
    let kind = match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => io::ErrorKind::ResourceBusy,
        Some(libc::EBUSY) => io::ErrorKind::Other,
        _ => error.kind(),
    };
    DiskError {
        op,
        path: path.to_owned(),
        offset: None,
        kind,
    }
}

impl DiskFs {
    pub(crate) fn new(
        reactor: Rc<Reactor>,
        blocking: Rc<Blocking>,
        root: &Path,
        faults: Option<Rc<Faults>>,
    ) -> Self {
        Self {
            reactor,
            blocking,
            root: root.into(),
            faults,
        }
    }

    fn full(&self, path: &str) -> PathBuf {
        let sound = path.is_ascii()
            && path
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..");
        assert!(
            path.is_empty() || sound,
            "{path:?} is not a path below the data directory"
        );
        self.root.join(path)
    }

    async fn run<T: Send + 'static>(
        &self,
        op: DiskOp,
        path: &str,
        work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        let full = self.full(path);
        let work = self.blocking.run(move || work(full));
        work.await.map_err(|error| disk_error(op, path, &error))
    }

    async fn open_file(&self, op: DiskOp, path: &str, mode: OpenMode) -> Result<DiskFile, DiskError> {
        let create = op == DiskOp::Create;
        let fd = self
            .run(op, path, move |full| open_direct(&full, mode, create))
            .await?;
        Ok(DiskFile::new(
            self.reactor.clone(),
            self.blocking.clone(),
            fd,
            path,
            self.faults.clone().filter(|_| mode == OpenMode::WriteDurable),
        ))
    }
}

/// Opens with direct I/O, or without where the file system has none.
pub(crate) fn open_direct(path: &Path, mode: OpenMode, create: bool) -> io::Result<OwnedFd> {
    let sync = match mode {
        OpenMode::Read | OpenMode::Write => 0,
        OpenMode::WriteDurable => libc::O_DSYNC,
    };
    let write = mode != OpenMode::Read || create;
    let open = |direct: i32| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(write)
            .create(create)
            .truncate(create)
            .mode(0o640);
        options.custom_flags(direct | sync).open(path)
    };
    let file = match open(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        other => other,
    }?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file.into())
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates `path` below `root` and its parents, and makes each of them durable in its own parent.
fn create_dir_durably(root: &Path, path: &str) -> io::Result<()> {
    let mut at = root.to_path_buf();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let parent = at.clone();
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => {}
            // It may exist from a moment before a crash: its entry is made durable all the same.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && at.is_dir() => {}
            Err(error) => return Err(error),
        }
        sync_path(&parent)?;
    }
    Ok(())
}

fn remove_name(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

fn list_names(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A name that is not text is not ours.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_dir = metadata.is_dir();
        entries.push(DirEntry {
            name,
            len: if is_dir { 0 } else { metadata.len() },
            is_dir,
        });
    }
    entries.sort();
    Ok(entries)
}

/// Bytes of a device, as far as this user may have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// That may still be written.
    pub(crate) free_bytes: u64,
    /// All.
    pub(crate) total_bytes: u64,
}

fn space(file: &File) -> io::Result<Space> {
    // SAFETY: a zeroed `statvfs` is a valid buffer of the right size, and the descriptor is open.
    let (result, stat) = unsafe {
        let mut stat: libc::statvfs = core::mem::zeroed();
        (libc::fstatvfs(file.as_raw_fd(), &raw mut stat), stat)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Space {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

pub(crate) fn space_at(path: &Path) -> io::Result<Space> {
    space(&File::open(path)?)
}

impl env::Disk for DiskFs {
    type File = DiskFile;
    type Buf = Buffer;

    fn alloc(&self, len: usize) -> Buffer {
        Buffer::new(len)
    }

    async fn open(&self, path: &str, mode: OpenMode) -> Result<DiskFile, DiskError> {
        self.open_file(DiskOp::Open, path, mode).await
    }

    async fn create(&self, path: &str, mode: OpenMode) -> Result<DiskFile, DiskError> {
        self.open_file(DiskOp::Create, path, mode).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let to = self.full(to);
        self.run(DiskOp::Rename, from, move |from| fs::rename(from, to))
            .await
    }

    async fn hard_link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let to_full = self.full(to);
        self.run(DiskOp::HardLink, from, move |from| fs::hard_link(from, to_full))
            .await
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.run(DiskOp::Remove, path, |path| remove_name(&path)).await
    }

    async fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        // Checks the path; the work goes part by part.
        self.full(path);
        let (root, parts) = (self.root.to_path_buf(), path.to_owned());
        self.run(DiskOp::CreateDir, path, move |_| {
            create_dir_durably(&root, &parts)
        })
        .await
    }

    async fn sync_dir(&self, path: &str) -> Result<(), DiskError> {
        self.run(DiskOp::SyncDir, path, |path| sync_path(&path)).await
    }

    async fn list(&self, path: &str) -> Result<Vec<DirEntry>, DiskError> {
        self.run(DiskOp::List, path, |path| list_names(&path)).await
    }

    async fn space_free(&self) -> Result<u64, DiskError> {
        let space = self.run(DiskOp::Space, "", |path| space_at(&path)).await?;
        let told = self.faults.as_ref();
        Ok(told.map_or(space.free_bytes, |faults| faults.free_bytes(space.free_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_open_files_is_named_and_nothing_else_is_taken_for_it() {
        let text = |number| {
            let error = io::Error::from_raw_os_error(number);
            disk_error(DiskOp::Open, "tablets/7/MANIFEST", &error).to_string()
        };
        for number in [libc::EMFILE, libc::ENFILE] {
            let text = text(number);
            assert!(
                text.contains("tablets/7/MANIFEST: too many files are open: raise"),
                "{text}"
            );
        }
        assert!(!text(libc::EBUSY).contains("too many"));
    }
}
