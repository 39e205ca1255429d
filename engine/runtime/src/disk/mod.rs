//! Files: direct I/O through the shard's ring, names through a blocking thread.
//!
//! - Reads and writes go to the kernel with our own aligned buffers: no copy on either way, and no file of glommio's, whose
//!   first open decides by a probe whether the process polls for completions, wrongly on an empty directory
//!   (PACKAGES: `EOPNOTSUPP` on the first read).
//! - `WriteDurable` opens with `O_DIRECT | O_DSYNC`.
//! - What has no business on a shard's thread (open, rename, list, the last close of a removed file) runs on a blocking
//!   thread.
//! - A file system without direct I/O (tmpfs) is used through the page cache; preflight says so.

mod buffer;
mod file;
mod name;

pub use buffer::Buffer;
pub(crate) use file::Descriptor;
pub use file::DiskFile;
pub use name::DiskFs;
pub(crate) use name::{Space, open_direct, space_at};
