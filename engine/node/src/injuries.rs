//! What a start finds damaged, and what it makes of it.

use crate::damage_note::{self, Noted};
use crate::marker;
use crate::range_map::RangeMap;
use crate::recover::RecoverError;
use base::{RangeId, ReplicaId, ShardId};
use env::{DiskError, Env};
use log::Corruption;
use replica::Replica;
use replica::group::{has_other_voter, life_of};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use storage::{StorageError, Tablet};

/// More ids of ranges than a log can have of which nothing else is known.
const RESERVED: u64 = 1 << 36;

/// The damaged replicas of a shard, and the lives of all of the node.
#[derive(Debug, Default)]
pub(crate) struct Injuries {
    /// Those that were noted and not replaced yet.
    pub(crate) noted: BTreeMap<RangeId, Noted>,
    /// The last life that is written of each range.
    pub(crate) lives: BTreeMap<RangeId, u32>,
    /// Of those noted, which have files still.
    held: BTreeMap<RangeId, u32>,
    /// The graves.
    gone: BTreeMap<RangeId, u32>,
}

impl Injuries {
    /// As earlier processes noted it.
    pub(crate) async fn find<E: Env>(
        env: &E,
        shard: ShardId,
        gone: &BTreeMap<RangeId, u32>,
    ) -> Result<Self, DiskError> {
        let noted = damage_note::noted(env, shard).await?;
        let lives = damage_note::lives(env).await?;
        let has_files = |(range, noted): (&RangeId, &Noted)| {
            let is_gone = gone.get(range).is_some_and(|life| *life >= noted.life);
            (!is_gone).then_some((*range, noted.life))
        };
        Ok(Self {
            held: noted.iter().filter_map(has_files).collect(),
            noted,
            lives,
            gone: gone.clone(),
        })
    }

    /// Whether nothing is damaged.
    pub(crate) fn is_empty(&self) -> bool {
        self.noted.is_empty()
    }

    /// Whether the files of a damaged replica of the range are here.
    pub(crate) fn holds(&self, range: RangeId) -> bool {
        self.held.contains_key(&range)
    }

    /// The damaged replicas whose files are here.
    pub(crate) fn held(&self) -> Vec<RangeId> {
        self.held.keys().copied().collect()
    }

    /// Forgets what was noted here of ranges that are well on another shard, or damaged there: which replicas took part by a lost log
    /// is not known for sure, and whoever takes one for its own would remove the files of the other.
    pub(crate) fn forget_others(&mut self, me: ShardId, map: &RangeMap, held: &BTreeMap<RangeId, ShardId>) {
        let is_elsewhere = |range: RangeId| held.get(&range).is_some_and(|shard| *shard != me);
        self.noted
            .retain(|range, _| map.get(*range).is_none() && !is_elsewhere(*range));
    }

    /// The life of the node's replica of the range.
    pub(crate) fn life(&self, range: RangeId) -> u32 {
        self.lives.get(&range).copied().unwrap_or_default()
    }

    /// Writes the life of a replica that a split has made.
    pub(crate) async fn name<E: Env>(
        &mut self,
        env: &E,
        range: RangeId,
        replica: ReplicaId,
    ) -> Result<(), DiskError> {
        let life = life_of(replica);
        if self.lives.get(&range).is_none_or(|written| *written < life) {
            damage_note::write_life(env, range, life).await?;
            self.lives.insert(range, life);
        }
        Ok(())
    }

    /// The files of a range were found to be damaged: its replica is noted as that. One that was removed goes with its files.
    ///
    /// # Errors
    /// What was found, when nobody else votes in the range, as far as can be read: then nobody else need have what is damaged here.
    pub(crate) async fn add<E: Env>(
        &mut self,
        env: &E,
        shard: ShardId,
        range: RangeId,
        error: StorageError,
    ) -> Result<(), RecoverError> {
        let described = Tablet::described(env, range).await;
        let open = |(span, index, state): (base::key::Span, _, Vec<u8>)| {
            Replica::<()>::open((range, span), index, &state).ok()
        };
        let replica = described.ok().and_then(open);
        let is_needed = |replica: &Replica<()>| {
            let group = replica.group();
            !has_other_voter(&group.applied.membership, group.id)
        };
        if replica.as_ref().is_some_and(is_needed) {
            return Err(error.into());
        }
        let life = replica.map_or_else(|| self.life(range), |replica| life_of(replica.group().id));
        if self.gone.get(&range).is_some_and(|gone| *gone >= life) {
            base::sometimes!("node: a crash came before a damaged replica was gone");
            match marker::remove(env, shard, range).await {
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
            return Ok(Tablet::destroy(env, range).await?);
        }
        self.injure(env, shard, range, life, error.to_string()).await?;
        Ok(())
    }

    /// The shard's log is damaged: whatever took part by it takes part in nothing any more, and a new log begins. `marked` are the
    /// shard's ranges, `lost` what was read of it with its lives. What it gives back is a grave above all ids of ranges that the log
    /// can have had.
    ///
    /// Order: all notes are durable before the log is out of the way. A crash in between comes to the same again.
    pub(crate) async fn lose_log<E: Env>(
        &mut self,
        env: &E,
        shard: ShardId,
        marked: &[RangeId],
        mut lost: BTreeMap<RangeId, u32>,
        damage: &Corruption,
    ) -> Result<(), DiskError> {
        let elsewhere = marker::marked_elsewhere(env, shard).await?;
        for (range, life) in &self.lives {
            // Who takes part and has no state is only in the log; and a split that is not in tables is, too.
            let is_here = marked.contains(range) || !elsewhere.contains(range);
            if is_here {
                lost.entry(*range).or_insert(*life);
            }
        }
        for range in marked {
            // A range that was never made has a marker, and took part in nothing before its life was written.
            if Tablet::described(env, *range).await.is_ok() {
                lost.entry(*range).or_insert(self.life(*range));
            }
        }
        lost.retain(|range, life| {
            let is_gone = self.gone.get(range).is_some_and(|gone| *gone >= *life);
            !is_gone && !self.held.contains_key(range) && *range > RangeId::SYSTEM
        });
        if base::planted_bug!("node-lost-log-forgotten") {
            lost.clear();
        }
        let ids = lost
            .keys()
            .chain(marked)
            .chain(&elsewhere)
            .chain(self.gone.keys());
        let reserved = RangeId(ids.max().map_or(0, |range| range.0) + RESERVED);
        for (range, life) in lost {
            self.injure(env, shard, range, life, damage.to_string()).await?;
        }
        // Ids of ranges that this node gave out may have been in the log only: a grave keeps those that follow apart from them.
        marker::bury(env, reserved, 0).await?;
        damage_note::set_aside(env, shard).await?;
        Ok(reserved)
    }

    /// Notes that a replica is damaged.
    pub(crate) async fn injure<E: Env>(
        &mut self,
        env: &E,
        shard: ShardId,
        range: RangeId,
        life: u32,
        what: String,
    ) -> Result<RangeId, DiskError> {
        let noted = Noted { life, what };
        damage_note::note(env, shard, range, &noted).await?;
        self.held.insert(range, life);
        self.noted.insert(range, noted);
        Ok(())
    }
}
