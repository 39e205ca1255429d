//! Which shard has which range: an empty file `shard-<shard>/ranges/<range>` for each. Moving a range between shards
//! makes a second marker and removes the first. A crash in the middle leaves both; the next start lets one go.
//!
//! Invariant: what is found is durable before anybody acts on it. A process that was killed may have made or removed a mark, or
//! a note, that a power failure takes back: finding one twin is no reason to let the other go before that.

use base::{RangeId, ShardId};
use env::{Disk, DiskError, Env, OpenMode};
use std::collections::{BTreeMap, BTreeSet};

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

/// The ranges of a shard, ascending; durably so.
pub(crate) async fn list<E: Env>(env: &E, shard: ShardId) -> Result<Vec<RangeId>, DiskError> {
    env.disk().sync_dir(&dir(shard)).await?;
    let entries = env.disk().list(&dir(shard)).await?;
    let mut ranges: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.name.parse().ok().map(RangeId))
        .collect();
    ranges.sort_unstable();
    Ok(ranges)
}

/// The ranges that other shards of the node have, now or when it had more shards.
pub(crate) async fn marked_elsewhere<E: Env>(
    env: &E,
    shard: ShardId,
) -> Result<BTreeSet<RangeId>, DiskError> {
    let mut marked = BTreeSet::new();
    for entry in env.disk().list("").await? {
        let number = entry.name.strip_prefix("shard-");
        let Some(other) = number.and_then(|number| number.parse().ok().map(ShardId)) else {
            continue;
        };
        if other != shard {
            create_dir(env, other).await?;
            marked.extend(list(env, other).await?);
        }
    }
    Ok(marked)
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

/// The graves of a node: replicas move between shards, and what was removed on one must not come back on another.
const GRAVES: &str = "gone";

/// Notes, durably, that the node's replica of a range, and every one before it, was removed from its group: none of them takes part
/// in anything again.
pub(crate) async fn bury<E: Env>(env: &E, range: RangeId, life: u32) -> Result<(), DiskError> {
    let disk = env.disk();
    disk.create_dir(GRAVES).await?;
    drop(
        disk.create(&format!("{GRAVES}/{}.{life}", range.0), OpenMode::Write)
            .await?,
    );
    disk.sync_dir(GRAVES).await
}

/// The last life of each range whose replicas on this node were removed; durably so.
pub(crate) async fn buried<E: Env>(env: &E) -> Result<BTreeMap<RangeId, u32>, DiskError> {
    let disk = env.disk();
    disk.create_dir(GRAVES).await?;
    disk.sync_dir(GRAVES).await?;
    let mut buried = BTreeMap::new();
    for entry in disk.list(GRAVES).await? {
        let parsed = entry
            .name
            .split_once('.')
            .and_then(|(range, life)| Some((RangeId(range.parse().ok()?), life.parse::<u32>().ok()?)));
        if let Some((range, life)) = parsed {
            let last = buried.entry(range).or_insert(life);
            *last = life.max(*last);
        }
    }
    Ok(buried)
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

/// Whether the log of a shard is to go; durably so. A note that came back would take the next log away.
pub(crate) async fn is_log_retired<E: Env>(env: &E, shard: ShardId) -> Result<bool, DiskError> {
    let dir = format!("shard-{}", shard.0);
    env.disk().sync_dir(&dir).await?;
    let entries = env.disk().list(&dir).await?;
    Ok(entries.iter().any(|entry| entry.name == LOG_RETIRED))
}

/// Takes the note back, durably: the next log of the shard is to stay.
pub(crate) async fn log_removed<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    let dir = format!("shard-{}", shard.0);
    env.disk().remove(&format!("{dir}/{LOG_RETIRED}")).await?;
    env.disk().sync_dir(&dir).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskImage, ImageEnv, ImageMachine};

    const FROM: ShardId = ShardId(0);
    const TO: ShardId = ShardId(1);
    const RANGE: RangeId = RangeId(7);

    async fn marks(env: &ImageEnv) -> Result<[Vec<RangeId>; 2], DiskError> {
        Ok([list(env, FROM).await?, list(env, TO).await?])
    }

    #[test]
    fn marks_that_are_found_stay() {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        let prepare = async {
            create_dir(&env, FROM).await?;
            create_dir(&env, TO).await?;
            create(&env, FROM, RANGE).await
        };
        machine.block_on(prepare).expect("the disk is fine");
        machine.record();
        machine
            .block_on(hand_over(&env, FROM, TO, RANGE))
            .expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(marks(&second.env()));
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(marks(&third.env())), seen);
        }
    }

    #[test]
    fn graves_that_are_found_stay() {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        machine
            .block_on(create_dir(&env, FROM))
            .expect("the disk is fine");
        machine.record();
        let bury = async {
            bury(&env, RANGE, 0).await?;
            bury(&env, RANGE, 12).await
        };
        machine.block_on(bury).expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(buried(&second.env()));
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(buried(&third.env())), seen);
        }
        assert_eq!(machine.block_on(buried(&env)), Ok(BTreeMap::from([(RANGE, 12)])));
    }

    #[test]
    fn a_note_about_a_log_that_is_found_or_missed_stays_so() {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        machine
            .block_on(create_dir(&env, FROM))
            .expect("the disk is fine");
        machine.record();
        let retire = async {
            retire_log(&env, FROM).await?;
            log_removed(&env, FROM).await
        };
        machine.block_on(retire).expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(is_log_retired(&second.env(), FROM));
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(is_log_retired(&third.env(), FROM)), seen);
        }
    }
}
