//! What a shard must know of damage after a restart: notes of damaged replicas, and which life each replica has.
//!
//! ```text
//! shard-<n>/damaged/<range>.<life>       the replica takes part in nothing any more; one block of text says what was found
//! shard-<n>/log.damaged-<k>              the shard's log is to be set aside
//! shard-<n>/wal/<slot>.seg.damaged-<k>   a segment of such a log, until all replicas that it had are replaced
//! lives/<range>.<life>                   the node's replica of the range has this life; empty
//! ```
//! The life of a replica that did not begin with the cluster is written before it takes part in anything. So what is found damaged is known by its name, whatever else of it can
//! be read, and nobody takes part twice under one name and remembers only the second time.
//!
//! Invariant: what is found is durable before anybody acts on it.

use crate::file;
use base::limits::BLOCK_BYTES;
use base::{RangeId, ShardId};
use env::{Disk, DiskError, Env, File, OpenMode};
use std::collections::BTreeMap;
use std::io::ErrorKind;

const LIVES: &str = "lives";

/// A damaged replica, as it was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Which of the node's replicas of the range.
    pub(crate) life: u32,
    /// What was found, for people.
    pub(crate) what: String,
}

fn dir(shard: ShardId) -> String {
    format!("shard-{}/damaged", shard.0)
}

/// `<range>.<life>`.
fn parse(name: &str) -> Option<(RangeId, u32)> {
    let (range, life) = name.split_once('.')?;
    Some((RangeId(range.parse().ok()?), life.parse().ok()?))
}

/// Notes, durably, that a replica is damaged.
pub(crate) async fn note<E: Env>(
    env: &E,
    shard: ShardId,
    range: RangeId,
    noted: &Noted,
) -> Result<(), DiskError> {
    let dir = dir(shard);
    env.disk().create_dir(&dir).await?;
    let mut block = env.disk().alloc(BLOCK_BYTES);
    let text = noted.what.as_bytes();
    let len = text.len().min(BLOCK_BYTES);
    block[..len].copy_from_slice(&text[..len]);
    file::replace(env, &dir, &format!("{}.{}", range.0, noted.life), block).await
}

/// The damaged replicas of a shard; durably so.
pub(crate) async fn noted<E: Env>(env: &E, shard: ShardId) -> Result<BTreeMap<RangeId, Noted>, DiskError> {
    let dir = dir(shard);
    env.disk().create_dir(&dir).await?;
    env.disk().sync_dir(&dir).await?;
    let mut all = BTreeMap::<RangeId, Noted>::new();
    for entry in env.disk().list(&dir).await? {
        let Some((range, life)) = parse(&entry.name) else {
            continue;
        };
        if all.get(&range).is_some_and(|known| known.life > life) {
            continue;
        }
        let open = env
            .disk()
            .open(&format!("{dir}/{}", entry.name), OpenMode::Read)
            .await?;
        let block = open.read_at(0, BLOCK_BYTES).await?;
        let end = block.iter().position(|byte| *byte == 0).unwrap_or(BLOCK_BYTES);
        // The name says all that matters; the text is for people, and may itself be damaged.
        let what = String::from_utf8_lossy(&block[..end]).into_owned();
        all.insert(range, Noted { life, what });
    }
    Ok(all)
}

/// Takes the notes about replicas of a range up to this life back, durably.
pub(crate) async fn take_back<E: Env>(
    env: &E,
    shard: ShardId,
    range: RangeId,
    life: u32,
) -> Result<(), DiskError> {
    remove_up_to(env, &dir(shard), range, life).await
}

/// Writes, durably, that the node's replica of a range has this life.
pub(crate) async fn write_life<E: Env>(env: &E, range: RangeId, life: u32) -> Result<(), DiskError> {
    let disk = env.disk();
    disk.create_dir(LIVES).await?;
    let path = format!("{LIVES}/{}.{life}", range.0);
    drop(disk.create(&path, OpenMode::Write).await?);
    disk.sync_dir(LIVES).await
}

/// The last life that is written of each range; durably so.
pub(crate) async fn lives<E: Env>(env: &E) -> Result<BTreeMap<RangeId, u32>, DiskError> {
    let disk = env.disk();
    disk.create_dir(LIVES).await?;
    disk.sync_dir(LIVES).await?;
    let mut lives = BTreeMap::new();
    for entry in disk.list(LIVES).await? {
        if let Some((range, life)) = parse(&entry.name) {
            let last = lives.entry(range).or_insert(life);
            *last = life.max(*last);
        }
    }
    Ok(lives)
}

/// Removes what is written of lives up to this one: their replicas are in their grave.
pub(crate) async fn forget_lives<E: Env>(env: &E, range: RangeId, life: u32) -> Result<(), DiskError> {
    remove_up_to(env, LIVES, range, life).await
}

/// The note that a shard's log is to be set aside, with a number, and what is added to the names of its files.
const ASIDE: &str = "damaged-";

/// The number in `log.damaged-<n>` or `<slot>.seg.damaged-<n>`.
fn aside_of(name: &str) -> Option<u32> {
    name.rsplit_once('.')?.1.strip_prefix(ASIDE)?.parse().ok()
}

/// Sets a shard's damaged log aside: its files get other names, and a new log may begin.
///
/// Order: a note is durable first. Files are renamed one by one, and a log of which some are missing may look like another one.
pub(crate) async fn set_aside<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    let (dir, disk) = (format!("shard-{}", shard.0), env.disk());
    let earlier = disk.list(&format!("{dir}/wal")).await?;
    let earlier = earlier.iter().filter_map(|entry| aside_of(&entry.name)).max();
    let number = earlier.unwrap_or_default() + 1;
    let note = format!("{dir}/log.{ASIDE}{number}");
    drop(disk.create(&note, OpenMode::Write).await?);
    disk.sync_dir(&dir).await?;
    finish_setting_aside(env, shard).await
}

/// Goes on with what a crash cut short.
pub(crate) async fn finish_setting_aside<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    let (dir, disk) = (format!("shard-{}", shard.0), env.disk());
    disk.sync_dir(&dir).await?;
    let entries = disk.list(&dir).await?;
    let note = entries.iter().find(|entry| entry.name.starts_with("log."));
    let Some((note, number)) = note.and_then(|note| Some((&note.name, aside_of(&note.name)?))) else {
        return Ok(());
    };
    let wal = format!("{dir}/wal");
    for entry in disk.list(&wal).await? {
        if entry.name.ends_with(".seg") {
            let path = format!("{wal}/{}", entry.name);
            disk.rename(&path, &format!("{path}.{ASIDE}{number}")).await?;
        }
    }
    disk.sync_dir(&wal).await?;
    disk.remove(&format!("{dir}/{note}")).await?;
    disk.sync_dir(&dir).await
}

/// Removes logs that were set aside: nobody needs them any more.
pub(crate) async fn remove_set_aside<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    let (wal, disk) = (format!("shard-{}/wal", shard.0), env.disk());
    disk.create_dir(&wal).await?;
    for entry in disk.list(&wal).await? {
        if aside_of(&entry.name).is_some() {
            found(disk.remove(&format!("{wal}/{}", entry.name)).await)?;
        }
    }
    Ok(())
}

/// Two may remove the same.
fn found(removed: Result<(), DiskError>) -> Result<(), DiskError> {
    match removed {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn remove_up_to<E: Env>(env: &E, dir: &str, range: RangeId, life: u32) -> Result<(), DiskError> {
    let disk = env.disk();
    disk.create_dir(dir).await?;
    for entry in disk.list(dir).await? {
        if parse(&entry.name).is_some_and(|(of, which)| of == range && which <= life) {
            found(disk.remove(&format!("{dir}/{}", entry.name)).await)?;
        }
    }
    disk.sync_dir(dir).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskImage, ImageEnv, ImageMachine};

    const SHARD: ShardId = ShardId(0);
    const RANGE: RangeId = RangeId(7);

    async fn all(env: &ImageEnv) -> Result<(BTreeMap<RangeId, Noted>, BTreeMap<RangeId, u32>), DiskError> {
        Ok((noted(env, SHARD).await?, lives(env).await?))
    }

    #[test]
    fn notes_that_are_found_stay() {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        let found = Noted {
            life: 3,
            what: "a table at offset 8192".into(),
        };
        machine.block_on(noted(&env, SHARD)).expect("the disk is fine");
        machine.record();
        let work = async {
            write_life(&env, RANGE, 3).await?;
            note(&env, SHARD, RANGE, &found).await?;
            forget_lives(&env, RANGE, 3).await?;
            take_back(&env, SHARD, RANGE, found.life).await
        };
        machine.block_on(work).expect("the disk is fine");
        let mut met = false;
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(all(&second.env()));
            met |= seen
                .as_ref()
                .is_ok_and(|(notes, _)| notes.get(&RANGE) == Some(&found));
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(all(&third.env())), seen);
        }
        assert!(met, "the note was there");
        assert_eq!(
            machine.block_on(all(&env)),
            Ok((BTreeMap::new(), BTreeMap::new()))
        );
    }

    async fn wal(env: &ImageEnv) -> Result<Vec<String>, DiskError> {
        finish_setting_aside(env, SHARD).await?;
        let files = env.disk().list("shard-0/wal").await?;
        Ok(files.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn a_damaged_log_is_set_aside_as_a_whole_or_not_at_all() {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        let segments = ["00000000.seg", "00000001.seg", "00000002.seg"];
        let prepare = async {
            env.disk().create_dir("shard-0/wal").await?;
            for segment in segments {
                let path = format!("shard-0/wal/{segment}");
                drop(env.disk().create(&path, OpenMode::Write).await?);
            }
            env.disk().sync_dir("shard-0/wal").await
        };
        machine.block_on(prepare).expect("the disk is fine");
        machine.record();
        machine
            .block_on(set_aside(&env, SHARD))
            .expect("the disk is fine");
        let aside = segments.map(|segment| format!("{segment}.damaged-1"));
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(wal(&second.env())).expect("the disk is fine");
            assert!(seen == segments || seen == aside, "{seen:?}");
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(wal(&third.env())), Ok(seen));
        }
        machine
            .block_on(remove_set_aside(&env, SHARD))
            .expect("the disk is fine");
        assert_eq!(machine.block_on(wal(&env)), Ok(Vec::new()));
    }
}
