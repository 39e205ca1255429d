//! Reads of files whose damage a replica's peers mend: a place that the disk does not give is damaged, as one with other bytes is.

use crate::{Corruption, StorageError};
use env::{DiskError, DiskOp, File};
use std::io::ErrorKind;

/// How often a place is asked for before it counts as damaged: what fails once may be a cable, or a path to the device.
const TRIES: u32 = 3;

/// Reads `len` bytes of the open file `path` at `offset`.
///
/// # Errors
/// [`StorageError::Corruption`] when the disk does not give them, time and again; what else it said.
pub(crate) async fn read<F: File>(
    file: &F,
    path: &str,
    offset: u64,
    len: usize,
) -> Result<F::Buf, StorageError> {
    for _ in 1..TRIES {
        match file.read_at(offset, len).await {
            Err(error) if is_of_the_medium(&error) => {
                base::sometimes!("storage: a place was read again that the disk did not give");
            }
            other => return Ok(other?),
        }
    }
    match file.read_at(offset, len).await {
        Err(error) if is_of_the_medium(&error) => Err(Corruption {
            file: path.to_owned(),
            offset,
            what: "bytes that the disk gives",
            expected: len as u64,
            found: 0,
        }
        .into()),
        other => Ok(other?),
    }
}

/// Whether a read failed because of what was to be read: not for want of memory, say.
fn is_of_the_medium(error: &DiskError) -> bool {
    let is_passing = matches!(
        error.kind,
        ErrorKind::OutOfMemory | ErrorKind::WouldBlock | ErrorKind::Interrupted
    );
    error.op == DiskOp::Read && !is_passing
}
