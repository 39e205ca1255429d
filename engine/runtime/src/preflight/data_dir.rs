//! The data directory: there, ours alone, writable, with room.

use super::{PreflightError, SPACE_BYTES_MIN};
use crate::disk::{Buffer, Space, open_direct, space_at};
use base::limits::BLOCK_BYTES;
use env::OpenMode;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file whose lock says that the directory is in use. It stays; only its lock comes and goes.
const LOCK_NAME: &str = "LOCK";
/// Written and removed to see whether the directory can be written.
const PROBE_NAME: &str = "PROBE";

fn failed<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> PreflightError + 'a {
    move |error| {
        if error.kind() == ErrorKind::StorageFull {
            return PreflightError::Full {
                path: path.into(),
                free_bytes: 0,
            };
        }
        PreflightError::DataDir {
            path: path.into(),
            what,
            kind: error.kind(),
        }
    }
}

/// Creates the directory, durably: its entry is written before anything relies on it.
pub(super) fn create(path: &Path) -> Result<(), PreflightError> {
    if path.is_dir() {
        return Ok(());
    }
    // The system says no more than that something exists, or is no directory, and not which part of the path it is.
    if let Some(file) = path.ancestors().find(|part| part.exists() && !part.is_dir()) {
        return Err(PreflightError::NotADirectory { path: file.into() });
    }
    fs::create_dir_all(path).map_err(failed(path, "create"))?;
    let absolute = path.canonicalize().map_err(failed(path, "find"))?;
    for parent in absolute.ancestors().skip(1) {
        // Above the first one that we may not open, nothing of ours was created.
        let Ok(parent) = File::open(parent) else { break };
        parent.sync_all().map_err(failed(path, "sync the parent of"))?;
    }
    Ok(())
}

/// The directory's lock, held until this value or the process ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, PreflightError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640);
        let mut file = options
            .open(path.join(LOCK_NAME))
            .map_err(failed(path, "open the lock of"))?;
        // SAFETY: the descriptor is open; no pointers.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::WouldBlock {
                return Err(failed(path, "lock")(error));
            }
            let mut text = String::new();
            // Unreadable or half written: then the message does without.
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(PreflightError::DataDirInUse {
                path: path.into(),
                pid,
            });
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(failed(path, "write the lock of"))?;
        Ok(Self(file))
    }
}

/// Refuses a device without room, and says how much there is.
pub(super) fn check_space(path: &Path) -> Result<Space, PreflightError> {
    let space = space_at(path).map_err(failed(path, "ask for the space of"))?;
    if space.free_bytes < SPACE_BYTES_MIN {
        return Err(PreflightError::Full {
            path: path.into(),
            free_bytes: space.free_bytes,
        });
    }
    Ok(space)
}

/// A file that is removed again when the check is over.
pub(super) struct ProbeFile<'a> {
    dir: &'a Path,
    fd: OwnedFd,
}

impl<'a> ProbeFile<'a> {
    pub(super) fn create(dir: &'a Path) -> io::Result<Self> {
        let fd = open_direct(&dir.join(PROBE_NAME), OpenMode::WriteDurable, true)?;
        Ok(Self { dir, fd })
    }

    /// Writes one durable block.
    pub(super) fn write(&self, block: u64) -> io::Result<()> {
        let buffer = Buffer::new(BLOCK_BYTES);
        File::from(self.fd.try_clone()?).write_all_at(&buffer, block * BLOCK_BYTES as u64)
    }

    /// Whether the file was opened with direct I/O.
    pub(super) fn is_direct(&self) -> bool {
        // SAFETY: the descriptor is open; no pointers.
        let flags = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_GETFL) };
        flags >= 0 && flags & libc::O_DIRECT != 0
    }
}

impl Drop for ProbeFile<'_> {
    fn drop(&mut self) {
        // A probe that stays is emptied by the next one.
        drop(fs::remove_file(self.dir.join(PROBE_NAME)));
    }
}

/// Writes a block, and says whether that went past the page cache.
pub(super) fn check_writable(path: &Path) -> Result<bool, PreflightError> {
    let probe = ProbeFile::create(path).map_err(failed(path, "create a file in"))?;
    probe.write(0).map_err(failed(path, "write to"))?;
    Ok(probe.is_direct())
}
