//! Which shard has which range: an empty file `shard-<shard>/ranges/<range>` for each. Moving a range between shards
//! makes a second marker and removes the first. A crash in the middle leaves both; the next start lets one go.

use base::{RangeId, ShardId};
use env::{Disk, DiskError, Env, OpenMode};

fn dir(shard: ShardId) -> String {
    format!("shard-{}/ranges", shard.0)
}

fn path(shard: ShardId, range: RangeId) -> String {
    format!("{}/{}", dir(shard), range.0)
}

/// Makes the directory of a shard's markers.
pub(crate) async fn create_dir<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    env.disk().create_dir(&dir(shard)).await
}

/// The ranges of a shard, ascending.
pub(crate) async fn list<E: Env>(env: &E, shard: ShardId) -> Result<Vec<RangeId>, DiskError> {
    let entries = env.disk().list(&dir(shard)).await?;
    let mut ranges: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.name.parse().ok().map(RangeId))
        .collect();
    ranges.sort_unstable();
    Ok(ranges)
}

/// Marks a range as the shard's, durably.
pub(crate) async fn create<E: Env>(env: &E, shard: ShardId, range: RangeId) -> Result<(), DiskError> {
    drop(env.disk().create(&path(shard, range), OpenMode::Write).await?);
    env.disk().sync_dir(&dir(shard)).await
}

/// Takes a mark back.
pub(crate) async fn remove<E: Env>(env: &E, shard: ShardId, range: RangeId) -> Result<(), DiskError> {
    env.disk().remove(&path(shard, range)).await?;
    env.disk().sync_dir(&dir(shard)).await
}

/// Hands a range from one shard to another, durably. Order: the new mark is durable before the old one goes. A rename would
/// do both at once, but a crash before its end may keep the half that takes the mark away, and the range would be nobody's.
pub(crate) async fn hand_over<E: Env>(
    env: &E,
    from: ShardId,
    to: ShardId,
    range: RangeId,
) -> Result<(), DiskError> {
    create(env, to, range).await?;
    remove(env, from, range).await
}

/// The note that a shard's log is to go as a whole.
const LOG_RETIRED: &str = "log.retired";

/// Notes, durably, that the log of a shard that the node no longer has is to go.
pub(crate) async fn retire_log<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    let dir = format!("shard-{}", shard.0);
    drop(
        env.disk()
            .create(&format!("{dir}/{LOG_RETIRED}"), OpenMode::Write)
            .await?,
    );
    env.disk().sync_dir(&dir).await
}

/// Whether the log of a shard is to go.
pub(crate) async fn is_log_retired<E: Env>(env: &E, shard: ShardId) -> Result<bool, DiskError> {
    let entries = env.disk().list(&format!("shard-{}", shard.0)).await?;
    Ok(entries.iter().any(|entry| entry.name == LOG_RETIRED))
}

/// Takes the note back, durably: the next log of the shard is to stay.
pub(crate) async fn log_removed<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    let dir = format!("shard-{}", shard.0);
    env.disk().remove(&format!("{dir}/{LOG_RETIRED}")).await?;
    env.disk().sync_dir(&dir).await
}
