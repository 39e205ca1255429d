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

    /// Takes back what was noted here of ranges that are well on another shard, or damaged there: which replicas took part by a lost log
    /// is not known for sure, and whoever takes one for its own would remove the files of the other. A note that stayed would hide the
    /// other one as soon as it moves here. What was noted of replicas in their graves stays: others wait until they are replaced.
    ///
    /// Order: the marker goes first, so that after a crash the note still says why there is none.
    pub(crate) async fn forget_others<E: Env>(
        &mut self,
        env: &E,
        me: ShardId,
        map: &RangeMap,
        held: &BTreeMap<RangeId, ShardId>,
    ) -> Result<(), DiskError> {
        let is_elsewhere = |range: RangeId| held.get(&range).is_some_and(|shard| *shard != me);
        let of_others = self.held.keys().copied();
        let of_others: Vec<_> = of_others
            .filter(|range| map.get(*range).is_some() || is_elsewhere(*range))
            .collect();
        for range in of_others {
            base::sometimes!("node: a note of damage was another shard's replica's");
            match marker::remove(env, me, range).await {
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            damage_note::take_back(env, me, range, u32::MAX).await?;
            self.held.remove(&range);
            self.noted.remove(&range);
        }
        Ok(())
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
    ) -> Result<RangeId, DiskError> {
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
    ) -> Result<(), DiskError> {
        let noted = Noted { life, what };
        damage_note::note(env, shard, range, &noted).await?;
        self.held.insert(range, life);
        self.noted.insert(range, noted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range_map::RangeEntry;
    use base::key::Span;
    use replica::Descriptor;
    use sim::{DiskImage, ImageEnv, ImageMachine};

    const ME: ShardId = ShardId(1);
    const OTHER: ShardId = ShardId(2);
    const WELL: RangeId = RangeId(4);
    const HELD: RangeId = RangeId(5);
    const REPLACED: RangeId = RangeId(6);
    const OWN: RangeId = RangeId(7);

    /// Range 4 is well on another shard, range 5 is noted on another shard too, range 6 is in its grave and a later replica is well, and
    /// range 7 is damaged here.
    async fn start(env: &ImageEnv) -> Result<Injuries, DiskError> {
        let gone = marker::buried(env).await?;
        let mut injuries = Injuries::find(env, ME, &gone).await?;
        let entry = |range, span| RangeEntry {
            descriptor: Descriptor {
                range,
                span,
                generation: 1,
            },
            shard: OTHER,
            moves: 0,
        };
        let entries = [
            entry(WELL, Span::new(b"", Some(b"m"))),
            entry(REPLACED, Span::new(b"m", None)),
        ];
        let map = RangeMap::partial(1, entries);
        let held = BTreeMap::from([(HELD, OTHER), (OWN, ME)]);
        injuries.forget_others(env, ME, &map, &held).await?;
        Ok(injuries)
    }

    #[test]
    fn notes_of_other_shards_replicas_are_taken_back_and_those_of_replaced_ones_stay() {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        let prepare = async {
            marker::create_dir(&env, ME).await?;
            for range in [WELL, HELD, REPLACED, OWN] {
                let what = "a log".to_owned();
                damage_note::note(&env, ME, range, &Noted { life: 3, what }).await?;
            }
            for range in [WELL, OWN] {
                marker::create(&env, ME, range).await?;
            }
            marker::bury(&env, REPLACED, 3).await
        };
        machine.block_on(prepare).expect("the disk is fine");
        machine.record();
        machine.block_on(start(&env)).expect("the disk is fine");
        let outcome = async |env: &ImageEnv| {
            let injuries = start(env).await?;
            let noted: Vec<_> = injuries.noted.keys().copied().collect();
            Ok::<_, DiskError>((noted, injuries.held(), marker::list(env, ME).await?))
        };
        let expected = Ok((vec![REPLACED, OWN], vec![OWN], vec![OWN]));
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            assert_eq!(second.block_on(outcome(&second.env())), expected);
        }
        let noted = machine
            .block_on(damage_note::noted(&env, ME))
            .expect("the disk is fine");
        assert!(noted.keys().eq(&[REPLACED, OWN]), "{noted:?}");
    }
}
