//! A checksum of what a tablet shows: replicas of a range that have applied the same entries show the same.

use crate::{ScanPage, StorageError, Tablet};
use base::key::Span;
use base::{Index, Timestamp, checksum};
use env::Env;

/// Rows and bytes that are read at a time.
const ROWS_MAX: usize = 4096;
const BYTES_MAX: usize = 1 << 20;

impl<E: Env> Tablet<E> {
    /// A checksum of the newest version of every key that has a value: keys, values and timestamps, and how long they are. It does
    /// not depend on memtables, tables and merges. With the index of the entry that the tablet stands at; `None` when entries were
    /// applied meanwhile.
    ///
    /// Reads the whole tablet, in pages of 1 MiB.
    ///
    /// # Errors
    /// What reading the disk met.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn content_checksum(&self) -> Result<Option<(Index, u32)>, StorageError> {
        let index = self.applied_index();
        let mut page = ScanPage {
            span: Span::all(),
            read_ts: Timestamp::MAX,
            reverse: false,
            rows_max: ROWS_MAX,
            bytes_max: BYTES_MAX,
        };
        let mut sum = 0;
        loop {
            let rows = self.scan_page(&page).await?;
            if self.applied_index() != index {
                return Ok(None);
            }
            for (key, value, ts) in rows.iter() {
                for len in [key.len(), value.len()] {
                    sum = checksum::extend(sum, &(len as u64).to_le_bytes());
                }
                sum = checksum::extend(sum, &ts.wall_ns.to_le_bytes());
                sum = checksum::extend(sum, &ts.logical.to_le_bytes());
                sum = checksum::extend(checksum::extend(sum, key), value);
            }
            match rows.resume {
                Some(start) => page.span = Span::new(&start, None),
                None => return Ok(Some((index, sum))),
            }
        }
    }
}
