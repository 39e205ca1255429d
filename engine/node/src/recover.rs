//! Recovery of one shard's directory: its markers, its tablets, its log.

use crate::claims::latest;
use crate::cluster::beyond;
use crate::config::NodeConfig;
use crate::damage_note;
use crate::entry::{content_of, payload_of};
use crate::injuries::Injuries;
use crate::local::{Groups, Local, Stranger};
use crate::marker;
use crate::merge;
use crate::moving::entries_beyond;
use crate::range_map::{RangeEntry, RangeMap};
use crate::replicate::append;
use crate::spilled::OpenError;
use crate::split::split_local;
use base::{Index, RangeId, ReplicaId, Seqno, ShardId, Term, Timestamp};
use core::time::Duration;
use env::{Disk, DiskError, Env};
use log::{EntryKind, Log, LogConfig, LogError, Position, Record};
use raft::{Content, Entry, HardState, Mark};
use replica::group::{decode_members, life_of};
use replica::replica::At;
use replica::{Applied, Made, SpillOp, command};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use storage::{Shared, StorageError, Tablet};

mod error;

pub use error::RecoverError;

/// What a data directory holds for one shard.
pub(crate) struct Found<E: Env> {
    pub(crate) log: Log<E>,
    pub(crate) groups: Rc<Groups>,
    /// The bound on timestamps that the shard's own log carries.
    pub(crate) log_bound: Timestamp,
    pub(crate) locals: Vec<Local<E>>,
    /// What the log has of terms and votes of replicas that are not here: they may have no state yet, or be elsewhere by now.
    pub(crate) promises: BTreeMap<RangeId, HardState>,
    /// Replicas that vote and do not have their state: shard 0 has those of the node.
    pub(crate) strangers: Vec<Stranger<E>>,
    /// Shard 0: which other shards have the files of damaged replicas.
    pub(crate) held_elsewhere: BTreeMap<RangeId, ShardId>,
    /// Ranges that are not here and have entries in the log.
    pub(crate) strays: BTreeSet<RangeId>,
    /// The last life of each range whose replicas on this node were removed.
    pub(crate) gone: BTreeMap<RangeId, u32>,
    /// Replicas that are damaged.
    pub(crate) injuries: Injuries,
    /// Nothing at or below was issued again.
    pub(crate) clock: Timestamp,
    /// The greatest range id seen.
    pub(crate) range_max: RangeId,
    pub(crate) replayed: Replayed,
}

/// What a shard's start read from its log, and from the logs of shards that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Segments that held the log.
    pub segments: u64,
    /// Entries read, also those that tables hold already.
    pub entries: u64,
    /// Bytes read, padding included.
    pub bytes: u64,
    /// How long it took to read and apply them.
    pub took: Duration,
}

impl Replayed {
    fn add(&mut self, other: &Self) {
        self.segments += other.segments;
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.took += other.took;
    }

    /// Whole megabytes (10^6 bytes) in a second; zero when nothing was read.
    #[must_use]
    pub fn megabytes_per_second(&self) -> u64 {
        // Bytes in a microsecond are megabytes in a second.
        let rate = u128::from(self.bytes) / self.took.as_micros().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

impl<E: Env> Found<E> {
    /// The ranges found, as served by `shard`.
    pub(crate) fn entries(&self, shard: ShardId) -> Vec<RangeEntry> {
        let entry = |local: &Local<E>| RangeEntry {
            descriptor: local.replica.descriptor().clone(),
            shard,
            moves: 0,
        };
        self.locals.iter().map(entry).collect()
    }

    /// Lets go of what the log has of ranges that other shards have: a crash came in the middle of a move, before the new shard had the
    /// range or before the old one's log forgot it. Nobody would ever say that tables have it, and the log would keep it.
    pub(crate) fn forget_strays(&mut self, me: ShardId, map: &RangeMap) {
        let is_elsewhere = |range: &&RangeId| map.get(**range).is_some_and(|entry| entry.shard != me);
        for range in self.strays.iter().filter(is_elsewhere) {
            base::sometimes!("node: a log lets go of a range that a crash left in it");
            self.log.forget(*range);
        }
    }

    /// Keeps what the replicas promised, as far as the logs of other shards say more than this one's: a split that is applied by replay
    /// does not know of a stranger that another shard had in its place.
    pub(crate) fn keep_promises(&mut self, promises: &BTreeMap<RangeId, HardState>) {
        for local in &mut self.locals {
            let Some(promised) = promises.get(&local.range) else {
                continue;
            };
            let known = local.replica.group().hard_state;
            let promised = latest(known, *promised);
            if promised != known {
                base::sometimes!("node: another shard's log has what a replica promised");
                local.replica.set_hard_state(promised);
                let entries = entries_beyond(&local.seat.raft, local.replica.applied_index());
                local.restart_group(&self.groups, entries);
            }
        }
    }
}

/// Removes what is left of replicas in their graves: a crash came between marker and files. Before any shard recovers, since a marker
/// may be another one's. The node had `shards` shards, or has them now.
pub(crate) async fn sweep_graves<E: Env>(env: &E, shards: u16) -> Result<(), DiskError> {
    let gone = marker::buried(env).await?;
    if gone.is_empty() {
        return Ok(());
    }
    let mut marked = BTreeSet::new();
    for shard in (0..shards).map(ShardId) {
        marker::create_dir(env, shard).await?;
        marked.extend(marker::list(env, shard).await?);
    }
    for range in gone.keys().filter(|range| !marked.contains(range)) {
        Tablet::destroy(env, *range).await.map_err(|error| match error {
            StorageError::Disk(error) => error,
            other => unreachable!("files are removed unread: {other}"),
        })?;
    }
    Ok(())
}

/// Recovers the directory of `shard`: afterwards everything acknowledged there is in memory or tables.
pub(crate) async fn recover_dir<E: Env>(
    env: &E,
    storage: &Rc<Shared<E>>,
    config: &NodeConfig,
    groups: &Rc<Groups>,
    shard: ShardId,
) -> Result<Found<E>, RecoverError> {
    marker::create_dir(env, shard).await?;
    remove_retired_log(env, shard).await?;
    damage_note::finish_setting_aside(env, shard).await?;
    let mut marked = marker::list(env, shard).await?;
    let mut gone = marker::buried(env).await?;
    let mut injuries = Injuries::find(env, shard, &gone).await?;
    if injuries.is_empty() {
        damage_note::remove_set_aside(env, shard).await?;
    }
    // What is damaged stays as it is.
    marked.retain(|range| !injuries.holds(*range));
    let tablets = Tablet::list(env).await?;
    let mut replay = Replaying {
        locals: BTreeMap::new(),
        marked: marked.clone(),
        groups: groups.clone(),
        is_clustered: config.cluster.is_some(),
        tails: BTreeMap::new(),
        promises: BTreeMap::new(),
        without_tablet: BTreeSet::new(),
        entries: 0,
        error: None,
    };
    let has_tablet = |range: &RangeId| tablets.binary_search(range).is_ok();
    let mut failed = BTreeMap::new();
    for (range, opened) in Tablet::open_each(storage, marked.iter().copied().filter(has_tablet)).await {
        let tablet = match opened {
            Ok(tablet) => tablet,
            Err(error @ StorageError::Corruption(_)) if config.cluster.is_some() => {
                base::sometimes!("node: a start met damaged tables");
                failed.insert(range, error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let local = match Local::open(tablet, groups).await {
            Ok(local) => local,
            Err(OpenError::Storage(error @ StorageError::Corruption(_))) if config.cluster.is_some() => {
                base::sometimes!("node: a start met damaged spilled intents");
                failed.insert(range, error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if config.cluster.is_none() && !local.is_alone() {
            return Err(RecoverError::NotAlone { range: local.range });
        }
        replay.locals.insert(local.range, local);
    }
    replay.marked.retain(|range| !failed.contains_key(range));
    replay.set_unfinished_aside();
    let log_config = LogConfig {
        shard,
        ..config.log.clone()
    };
    let is_needed = |local: &Local<E>| !local.has_peers();
    let was_needed = replay.locals.values().any(is_needed);
    let dir = log_dir(shard);
    let mut visit = |position, record: Record<'_>| replay.visit(position, &record);
    let opened = Log::open(env, &dir, log_config.clone(), &mut visit).await;
    let (log, recovered) = match opened {
        Ok(opened) => opened,
        Err(LogError::Corruption(damage)) => {
            let is_needed = was_needed || replay.locals.values().any(is_needed);
            if config.cluster.is_none() || is_needed {
                return Err(LogError::Corruption(damage).into());
            }
            base::sometimes!("node: a start met a damaged log");
            marked.retain(|range| !failed.contains_key(range));
            for (range, error) in core::mem::take(&mut failed) {
                injuries.add(env, shard, range, error).await?;
            }
            let live = replay.locals.values();
            let live = live.map(|local| (local.range, life_of(local.seat.raft.id())));
            let heard = replay
                .promises
                .keys()
                .map(|range| (*range, injuries.life(*range)));
            let lost = live.chain(heard).collect();
            replay.start_anew();
            let reserved = injuries.lose_log(env, shard, &marked, lost, &damage).await?;
            gone.insert(reserved, 0);
            Log::open(env, &dir, log_config, &mut |_, _| {}).await?
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(error) = replay.error {
        return Err(error);
    }
    // One that came back has its marker before it has its state, and its entries are forgotten, as a later record says.
    let marked_here = |range: &&RangeId| replay.marked.contains(range);
    let without: Vec<RangeId> = replay
        .without_tablet
        .iter()
        .filter(marked_here)
        .copied()
        .collect();
    if let Some(&range) = without.first() {
        if injuries.is_empty() && failed.is_empty() {
            return Err(RecoverError::NoTablet { range, shard });
        }
        // The split that made it cannot be replayed: the left half is damaged.
        base::sometimes!("node: a range is lost with the one that it was split off");
        let lost = |range: RangeId| (range, StorageError::NoSuchTablet { range });
        failed.extend(without.into_iter().map(lost));
    }
    // A split that was replayed has made it anew.
    failed.retain(|range, _| !replay.locals.contains_key(range));
    marked.retain(|range| !failed.contains_key(range));
    for (range, error) in failed {
        injuries.add(env, shard, range, error).await?;
    }
    for (range, tail) in &replay.tails {
        let (Some((index, position)), Some(local)) = (tail.broken, replay.locals.get(range)) else {
            continue;
        };
        let error = RecoverError::Chain {
            range: *range,
            index,
            position,
        };
        if config.cluster.is_none() || !local.has_peers() {
            return Err(error);
        }
        base::sometimes!("node: a start met entries that do not follow");
        let life = life_of(local.seat.raft.id());
        injuries
            .injure(env, shard, *range, life, error.to_string())
            .await?;
    }
    marked.retain(|range| !injuries.holds(*range));
    replay.locals.retain(|range, _| !injuries.holds(*range));
    replay.promises.retain(|range, _| !injuries.holds(*range));
    let mut strays = core::mem::take(&mut replay.without_tablet);
    strays.retain(|range| !replay.locals.contains_key(range));
    let promises = match &config.cluster {
        Some(_) => replay.promises,
        None => BTreeMap::new(),
    };
    base::sometimes!(
        "node: unacknowledged tail of the log cut",
        recovered.cut.is_some()
    );
    let replayed = Replayed {
        segments: recovered.segments,
        entries: replay.entries,
        bytes: recovered.bytes,
        took: recovered.took,
    };
    let mut clock = recovered.hlc_bound;
    // Also of ranges that are gone from here, and of splits that may yet be committed.
    let open = replay
        .tails
        .values()
        .flat_map(|tail| &tail.entries)
        .filter_map(|entry| match &entry.content {
            Content::Command(payload) => command::split_of(payload),
            _ => None,
        });
    let noted = injuries.noted.keys();
    let known = marked
        .iter()
        .chain(&tablets)
        .chain(gone.keys())
        .chain(noted)
        .copied();
    let range_max = known.chain(open).max().unwrap_or_default();
    let mut locals: Vec<_> = replay.locals.into_values().collect();
    for local in &mut locals {
        let tail = replay.tails.remove(&local.range).unwrap_or_default();
        local.restart_group(groups, tail.entries.into());
        clock = clock.max(local.replica.last_ts());
        log.cover(local.range, local.tablet.flushed_index());
        // A follower marks what splits make when it has applied them.
        if !marked.contains(&local.range) {
            base::sometimes!("node: range made by a split was not marked yet");
            marker::create(env, shard, local.range).await?;
            if config.cluster.is_some() {
                injuries.name(env, local.range, local.seat.raft.id()).await?;
            }
        }
    }
    for range in marked {
        if !locals.iter().any(|local| local.range == range) {
            base::sometimes!("node: marker of a range that was never made removed");
            // Others may have the split that makes it, which may yet be committed: its id is not given out again. A grave that is
            // no range's keeps those that follow apart.
            let next = beyond(range);
            let is_ours = config
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.gives(range));
            if is_ours && gone.last_key_value().is_none_or(|(last, _)| *last < next) {
                base::sometimes!("node: the id of a split in doubt is not given out again");
                marker::bury(env, next, 0).await?;
                gone.insert(next, 0);
            }
            marker::remove(env, shard, range).await?;
        }
    }
    // Boxed: mostly there is nothing to do, and a start would be larger by it.
    Box::pin(merge::bury_absorbed(env, shard, &log, &mut locals, &mut gone)).await?;
    Ok(Found {
        log,
        groups: groups.clone(),
        log_bound: recovered.hlc_bound,
        locals,
        promises,
        strangers: Vec::new(),
        held_elsewhere: BTreeMap::new(),
        strays,
        gone,
        injuries,
        clock,
        range_max,
        replayed,
    })
}

fn log_dir(shard: ShardId) -> String {
    format!("shard-{}/wal", shard.0)
}

/// Recovers the directory of a shard that the node no longer has, and hands its ranges to `heir`.
pub(crate) async fn retire_dir<E: Env>(
    env: &E,
    storage: &Rc<Shared<E>>,
    config: &NodeConfig,
    old: ShardId,
    heir: ShardId,
    found: &mut Found<E>,
) -> Result<(), RecoverError> {
    base::sometimes!("node: started with fewer shards");
    let mut gone = recover_dir(env, storage, config, &found.groups, old).await?;
    for local in &mut gone.locals {
        if local.split_open {
            local.tablet.complete_split().await?;
            local.split_open = false;
        }
    }
    if let Some(range) = gone.injuries.noted.keys().next().copied() {
        return Err(RecoverError::Stays { range, shard: old });
    }
    for local in &mut gone.locals {
        local.busy.set(false);
        local.freeze();
        local.tablet.flush().await?;
        let is_twin = found.locals.iter().any(|own| own.range == local.range);
        if is_twin {
            // A hand-over that a crash cut short: the heir has it already.
            base::sometimes!("node: range found on a retired shard and its heir");
            marker::remove(env, old, local.range).await?;
        } else {
            // Of a range that is alone everything is in the tables, unless a merge is not finished.
            let is_unfinished = local.seat.raft.last().index > local.replica.applied_index();
            if config.cluster.is_some() || is_unfinished {
                inherit(local, &found.log).await?;
            }
            marker::hand_over(env, old, heir, local.range).await?;
        }
    }
    inherit_promises(&gone, found).await?;
    let own = |range| found.locals.iter().any(|own| own.range == range);
    gone.locals.retain(|local| !own(local.range));
    gone.log.close().await?;
    // Everything is in tables that the heir owns: the old log says nothing any more. Its segments go one by one, and a log
    // of which some are missing is damaged: a note says first that all of them are to go.
    marker::retire_log(env, old).await?;
    remove_retired_log(env, old).await?;
    found.clock = found.clock.max(gone.clock);
    found.range_max = found.range_max.max(gone.range_max);
    found.replayed.add(&gone.replayed);
    found.locals.append(&mut gone.locals);
    Ok(())
}

/// Writes what a range's log has beyond its tables to the log of the shard that gets the range, durably.
async fn inherit<E: Env>(local: &mut Local<E>, log: &Log<E>) -> Result<(), LogError> {
    let (range, flushed) = (local.range, local.tablet.flushed_index());
    local.flushed(flushed);
    let HardState { term, vote, .. } = local.replica.group().hard_state;
    log.forget(range);
    let mut seqno = log.append(&Record::HardState {
        range,
        term,
        vote,
        commit: flushed,
    });
    for entry in &entries_beyond(&local.seat.raft, flushed) {
        seqno = append(log, range, entry);
    }
    wait_durable(log, seqno).await?;
    log.cover(range, flushed);
    Ok(())
}

/// Writes what strangers of a shard that is gone have promised to the log of its heir, durably.
async fn inherit_promises<E: Env>(gone: &Found<E>, found: &mut Found<E>) -> Result<(), LogError> {
    let mut last = None;
    for (range, promised) in &gone.promises {
        let own = found.promises.entry(*range).or_default();
        *own = latest(*own, *promised);
        let HardState { term, vote, .. } = *own;
        if found.locals.iter().all(|local| local.range != *range) {
            last = Some(found.log.append(&Record::HardState {
                range: *range,
                term,
                vote,
                commit: Index::ZERO,
            }));
        }
    }
    match last {
        Some(seqno) => wait_durable(&found.log, seqno).await,
        None => Ok(()),
    }
}

async fn wait_durable<E: Env>(log: &Log<E>, seqno: Seqno) -> Result<(), LogError> {
    log.submit();
    let before = seqno.prev().unwrap_or(Seqno::ZERO);
    log.persisted_beyond(before).await.map(drop)
}

/// Removes a log that was to go, also when a crash came in between.
async fn remove_retired_log<E: Env>(env: &E, shard: ShardId) -> Result<(), DiskError> {
    if !marker::is_log_retired(env, shard).await? {
        return Ok(());
    }
    let dir = log_dir(shard);
    for file in env.disk().list(&dir).await? {
        env.disk().remove(&format!("{dir}/{}", file.name)).await?;
    }
    env.disk().sync_dir(&dir).await?;
    marker::log_removed(env, shard).await
}

struct Replaying<E: Env> {
    locals: BTreeMap<RangeId, Local<E>>,
    marked: Vec<RangeId>,
    groups: Rc<Groups>,
    is_clustered: bool,
    /// Of groups in which an entry that is durable here need not be committed.
    tails: BTreeMap<RangeId, Tail>,
    /// Terms and votes of replicas that are not here, or not yet.
    promises: BTreeMap<RangeId, HardState>,
    /// Ranges that have entries in the log that are not forgotten, and no tablet.
    without_tablet: BTreeSet<RangeId>,
    /// Seen so far.
    entries: u64,
    error: Option<RecoverError>,
}

/// What a group has in the log beyond what is known to be committed.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    /// Everything up to here is committed.
    commit: Index,
    /// An entry that does not follow on the one before, and from which on nothing counts: state that was installed made it void,
    /// which a later record says.
    broken: Option<(Index, Position)>,
}

impl<E: Env> Replaying<E> {
    /// Forgets all that was read and opened.
    fn start_anew(&mut self) {
        self.locals.clear();
        self.tails.clear();
        self.promises.clear();
        self.without_tablet.clear();
        (self.entries, self.error) = (0, None);
    }

    /// Drops tablets made by a split that their left half does not know of: replaying the Split entry makes them again.
    fn set_unfinished_aside(&mut self) {
        let flushed: BTreeMap<_, _> = self
            .locals
            .iter()
            .map(|(&range, local)| (range, local.tablet.flushed_index()))
            .collect();
        self.locals.retain(|_, local| {
            let unfinished = local
                .tablet
                .split_from()
                .is_some_and(|(left, index)| flushed.get(&left).is_some_and(|&flushed| flushed < index));
            base::sometimes!("node: half-made split set aside", unfinished);
            !unfinished
        });
    }

    /// Takes one record of the log, in order. After an error the rest is only passed over.
    fn visit(&mut self, position: Position, record: &Record<'_>) {
        if self.error.is_some() {
            return;
        }
        let result = match *record {
            Record::Entry {
                range,
                index,
                term,
                chain,
                kind,
                payload,
            } => {
                self.entries += 1;
                let mark = Mark { term, index };
                self.replay(position, range, At { mark, chain }, (kind, payload))
            }
            Record::HardState {
                range,
                term,
                vote,
                commit,
            } => {
                self.replay_hard_state(range, term, vote);
                self.replay_commit(position, range, commit)
            }
            Record::Truncate { range, after } => {
                if let Some(tail) = self.tails.get_mut(&range) {
                    tail.entries.retain(|entry| entry.index <= after);
                    tail.broken.take_if(|(index, _)| *index > after);
                }
                Ok(())
            }
            Record::Forget { range } => {
                self.tails.remove(&range);
                self.promises.remove(&range);
                let was_without = self.without_tablet.remove(&range);
                base::sometimes!(
                    "node: entries of a range that came back were passed over",
                    was_without && self.marked.contains(&range)
                );
                Ok(())
            }
        };
        self.error = result.err();
    }

    /// Term and vote: the log may have older ones than the tablet.
    fn replay_hard_state(&mut self, range: RangeId, term: Term, vote: Option<ReplicaId>) {
        if range > RangeId::SYSTEM && !self.locals.contains_key(&range) {
            let repairing = None;
            self.promises.insert(
                range,
                HardState {
                    term,
                    vote,
                    repairing,
                },
            );
        }
        if let Some(local) = self.locals.get_mut(&range) {
            let known = local.replica.group().hard_state;
            if (term, vote.is_some()) >= (known.term, known.vote.is_some()) {
                local.replica.set_hard_state(HardState {
                    term,
                    vote,
                    repairing: None,
                });
            }
        }
    }

    fn replay(
        &mut self,
        position: Position,
        range: RangeId,
        at: At,
        (kind, payload): (EntryKind, &[u8]),
    ) -> Result<(), RecoverError> {
        let index = at.mark.index;
        let Some(local) = self.locals.get(&range) else {
            // A range that has left this shard has no marker here; its entries are in its tables.
            self.without_tablet.insert(range);
            return Ok(());
        };
        let applied = local.replica.applied_index();
        if index <= applied {
            // What is applied is the later one of two with this index, and what followed the earlier one is void.
            if let Some(tail) = self.tails.get_mut(&range) {
                base::sometimes!(
                    "node: an applied entry voids what followed another one",
                    tail.broken.is_some()
                );
                tail.entries.clear();
                tail.broken = None;
            }
            return Ok(());
        }
        let tail = self.tails.get(&range);
        // A group of one commits what it has written; except who takes part, which counts before it is committed.
        let waits = tail.is_some_and(|tail| !tail.entries.is_empty());
        let group = local.replica.group();
        let is_absorb = merge::absorbs(local, kind, payload);
        let is_due = group.is_alone() && !waits && kind != EntryKind::Membership && !is_absorb;
        // What an earlier stay of the range has left, which a later record makes void, need not be what the range has there by now.
        let is_stale = || {
            let content = content_of(kind, payload);
            let chain = |content| Entry::new(group.applied.chain, at.mark, content).chain;
            index != applied.next() || content.map(chain) != Some(at.chain)
        };
        if is_due && !(self.is_clustered && is_stale()) {
            if index != applied.next() {
                let found = index;
                return Err(RecoverError::Gap {
                    range,
                    applied,
                    found,
                });
            }
            return self.apply(position, range, at, (kind, payload));
        }
        self.keep(position, range, at, (kind, payload))
    }

    /// An entry that is durable, and committed or not. It takes the place of those at its index and after it.
    fn keep(
        &mut self,
        position: Position,
        range: RangeId,
        at: At,
        (kind, payload): (EntryKind, &[u8]),
    ) -> Result<(), RecoverError> {
        let index = at.mark.index;
        let Some(local) = self.locals.get(&range) else {
            unreachable!("looked up before")
        };
        let content = content_of(kind, payload).ok_or(RecoverError::Members {
            range,
            index,
            position,
        })?;
        let applied = &local.replica.group().applied;
        let tail = self.tails.entry(range).or_default();
        let before = tail.entries.len();
        if tail.broken.is_some_and(|(broken, _)| broken < index) {
            return Ok(());
        }
        tail.broken = None;
        tail.entries.retain(|entry| entry.index < index);
        base::sometimes!(
            "node: entries of the log take the place of others",
            tail.entries.len() < before
        );
        let last = tail.entries.back();
        let (last, chain) = last.map_or((applied.last.index, applied.chain), |last| {
            (last.index, last.chain)
        });
        // The segment of an entry that is void may be gone, and that of the next one not.
        let is_gap = index != last.next();
        base::sometimes!("node: entries missing that a later record makes void", is_gap);
        let entry = Entry::new(chain, at.mark, content);
        if is_gap || entry.chain != at.chain {
            tail.broken = Some((index, position));
            return Ok(());
        }
        tail.entries.push_back(entry);
        let commit = tail.commit;
        self.replay_commit(position, range, commit)
    }

    /// Applies what is committed up to `commit`.
    fn replay_commit(
        &mut self,
        position: Position,
        range: RangeId,
        commit: Index,
    ) -> Result<(), RecoverError> {
        if !self.locals.contains_key(&range) {
            return Ok(());
        }
        loop {
            let tail = self.tails.entry(range).or_default();
            tail.commit = tail.commit.max(commit);
            let commit = tail.commit;
            let local = &self.locals[&range];
            // One that absorbs is applied by the group, which takes over what the other range has on disk.
            let absorbs = |entry: &Entry| match &entry.content {
                Content::Command(payload) => merge::absorbs(local, EntryKind::Command, payload),
                Content::Empty | Content::Membership(_) | Content::Header(_) => false,
            };
            let next = tail
                .entries
                .pop_front_if(|entry| entry.index <= commit && !absorbs(entry));
            let Some(entry) = next else {
                return Ok(());
            };
            let at = At {
                mark: entry.mark(),
                chain: entry.chain,
            };
            let mut members = Vec::new();
            let (kind, payload) = payload_of(&entry.content, &mut members);
            self.apply(position, range, at, (kind, payload))?;
        }
    }

    /// Applies an entry that is committed.
    fn apply(
        &mut self,
        position: Position,
        range: RangeId,
        at: At,
        (kind, payload): (EntryKind, &[u8]),
    ) -> Result<(), RecoverError> {
        let index = at.mark.index;
        let Some(local) = self.locals.get_mut(&range) else {
            unreachable!("looked up before")
        };
        let members = match kind {
            EntryKind::Command => None,
            EntryKind::Empty => Some(None),
            EntryKind::Membership => Some(decode_members(&mut &*payload).map(Into::into)),
        };
        if let Some(members) = members {
            local.replica.apply_members(at, members);
            local.tablet.apply_nothing(index);
            return Ok(());
        }
        let applied = local
            .replica
            .apply(at, payload)
            .map_err(|error| RecoverError::Command {
                range,
                index,
                position,
                error,
            })?;
        match applied {
            Applied::Write { ts, ops } => local.tablet.apply(index, ts, ops.iter()),
            Applied::Change { done, ts } => {
                base::sometimes!("node: change of a transaction replayed from the log");
                local
                    .tablet
                    .apply_spilled(ts, done.spilled.iter().map(SpillOp::op));
                local.tablet.apply_versions(index, done.made.iter().map(Made::op));
            }
            Applied::Merge(_) => local.tablet.apply_nothing(index),
            Applied::Split { right, at } => {
                base::sometimes!("node: split replayed from the log");
                let mut new = split_local(local, index, right, at, &self.groups);
                if let Some(promised) = self.promises.remove(&right) {
                    new.replica.set_hard_state(promised);
                }
                self.locals.insert(right, new);
                return Ok(());
            }
        }
        if local.tablet.wants_freeze() {
            local.freeze();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
