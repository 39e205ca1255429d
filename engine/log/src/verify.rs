//! Reads a log without changing it, with the code that recovery uses: for `corelane check` and `corelane debug log`.

use crate::error::{Corruption, LogError};
use crate::log::Cut;
use crate::recovery::Role;
use crate::replay::replay;
use base::{Seqno, ShardId};
use env::Env;

pub use crate::replay::Found;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The log's id; `None` when there is no log.
    pub log_id: Option<u64>,
    /// Every slot and what it is, by file.
    pub slots: Vec<(String, Role)>,
    /// Batches that survive.
    pub batches: u64,
    /// Records that survive.
    pub records: u64,
    /// Bytes of the batches that survive.
    pub bytes: u64,
    /// The last batch that survives.
    pub last: Seqno,
    /// Every batch up to here was acknowledged for certain.
    pub persisted: Seqno,
    /// Where the log ends and what stands there.
    pub end: Option<Cut>,
    /// What is damaged, if anything acknowledged is. Then the counts above are zero, and what was visited is what stands
    /// before the damage.
    pub damage: Option<Corruption>,
}

/// Reads the log in `dir`; `visit` sees segments, batches and records in order. A directory that is not there is an empty log.
///
/// # Errors
/// When the disk fails, or the log has a newer version. Damage is part of the report.
///
/// # Cancellation
/// Safe.
pub async fn verify<E: Env>(
    env: &E,
    dir: &str,
    shard: ShardId,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Report, LogError> {
    let replay = match replay(env, dir, shard, visit).await {
        Ok(replay) => replay,
        Err(LogError::Corruption(damage)) => {
            return Ok(Report {
                damage: Some(damage),
                ..Report::default()
            });
        }
        Err(LogError::Disk(error)) if error.kind == std::io::ErrorKind::NotFound => {
            return Ok(Report::default());
        }
        Err(error) => return Err(error),
    };
    Ok(Report {
        log_id: replay.log_id,
        slots: replay
            .slots
            .iter()
            .zip(&replay.roles)
            .map(|(slot, role)| (slot.path.clone(), *role))
            .collect(),
        batches: replay.batches,
        records: replay.records,
        bytes: replay.bytes,
        last: replay.last,
        persisted: replay.marks.persisted,
        end: replay.end.map(Cut::from),
        damage: None,
    })
}
