//! Moving a range to another shard of the node, online. What it has applied goes to disk, what its log has beyond goes to the other
//! shard's log, the other shard gets a marker and this one's goes, and its place in its group goes over as it is. Requests that come
//! meanwhile wait and travel with it.
//!
//! ```text
//!  old shard:  flush (serving) │ block, drain, fall silent, flush │ Prepare ──►        │ second marker, first goes │ MoveIn ──►
//!  new shard:                                                       log: what is beyond │                                      open │ go on
//! ```
//!
//! A crash before the second marker is durable leaves the range where it was, one after the first is gone where it goes, and one in
//! between at either: in all cases complete, since the new shard's log has what the old one has beyond the tables. What a log has of an
//! earlier stay of the range, or of one that a crash prevented, ends with [`Record::Forget`], which comes before anything of the next
//! stay, or at the next start.
//!
//! The group is not started anew: a leader goes on leading, and a follower stays bound to whom it follows by its node's support. That
//! must not be forgotten, or it would elect another leader beside one that reads under its lease; so it is the same [`Raft`], and goes
//! on only when the new shard knows of other nodes' lives what the old one did.

use crate::closed::Closed;
use crate::dialect::Letter;
use crate::local::{Groups, Local, Seat};
use crate::marker;
use crate::message::{Answer, Ask, MoveIn, Origin, RawRequest, ShardMessage};
use crate::range_map::RangeEntry;
use crate::refusal::Refusal;
use crate::replicate::append;
use crate::shard::Shard;
use crate::spilled::OpenError;
use crate::state::{Arrival, Job, Message, Slot, State};
use base::{Index, RangeId, ReplicaId, Seqno, ShardId, Timestamp};
use core::mem;
use core::time::Duration;
use env::sync::Receiver;
use env::{Clock, Env, Instant, Mailbox};
use log::Record;
use raft::{Body, Content, Entry, HardState, Raft};
use replica::command;
use replica::group::life_of;
use std::sync::Arc;
use storage::{StorageError, Tablet};
use wire::Code;
use wire::reply::MoveReply;

/// A memtable larger than this is flushed before the range stops taking writes.
const FLUSH_FIRST_BYTES: usize = 64 << 10;
/// How long a range takes no writes at most because what was proposed before is not committed: then it stays where it is.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How often is looked whether the range may go.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a range's log has beyond its tables.
#[derive(Debug)]
pub struct Prepare {
    range: RangeId,
    hard_state: HardState,
    /// Everything up to here is committed, and in the tables.
    flushed: Index,
    entries: Vec<Entry>,
}

/// A replica's place in its group, on its way to another shard.
#[derive(Debug)]
pub struct Moved {
    raft: Raft,
    places: Vec<(ReplicaId, ShardId)>,
    /// Since which entry it leads, if it does.
    leads_from: Option<Index>,
    /// Up to when it is known to be closed.
    closed: Closed,
    /// The outlook that the old shard had.
    outlook: u64,
}

/// Why a range that was handed over cannot be served.
enum Unopened {
    /// Its files are damaged.
    Damaged(String),
    Failed(String),
}

/// How far a range is on its way out.
enum Drained {
    /// Nothing of it is under way, and it hears nothing any more.
    Silent,
    Waits,
    /// A split comes first, or the end of its replica.
    GivesUp,
}

impl<E: Env, B> State<E, B> {
    pub(crate) fn on_move(&mut self, range: RangeId, to: ShardId, deadline_ms: u32, raw: RawRequest<'_>) {
        let Some(entry) = self.map.get(range) else {
            let refusal =
                Refusal::fatal(Code::NoSuchRange, format!("there is no range {range}")).about_range(range);
            return self.refuse(raw.origin, &refusal);
        };
        if to.0 >= self.shards {
            let message = format!("the node has {} shards; there is no shard {}", self.shards, to.0);
            return self.refuse(raw.origin, &Refusal::fatal(Code::NoSuchShard, message));
        }
        if entry.shard != self.me {
            let shard = entry.shard;
            return self.forward(shard, raw);
        }
        let deadline = raw.received + Duration::from_millis(deadline_ms.into());
        self.jobs.push(Job::Move {
            origin: raw.origin,
            range,
            to,
            deadline,
        });
    }

    /// Brings the range one step nearer to where nothing of it is under way. A leader takes no writes from the first step on.
    fn drain_out(&mut self, range: RangeId) -> Drained {
        self.close_batch();
        self.stop_sending(range, None);
        let is_ending = self.injured.is_ending(range);
        base::sometimes!("node: a range that was to move is damaged", is_ending);
        let local = live_mut(self, range);
        // What is shared with another range is not taken elsewhere.
        let is_shared = |entry: &Entry| match &entry.content {
            Content::Command(payload) => {
                command::split_of(payload).is_some() || command::merge_of(payload).is_some()
            }
            _ => false,
        };
        if local.seat.committed.iter().any(is_shared)
            || local.replica.is_merging()
            || local.seat.leaving
            || is_ending
        {
            return Drained::GivesUp;
        }
        if local.led {
            local.replica.block();
            if !local.is_quiet() || local.reads.get() > 0 || !local.unconfirmed.is_empty() {
                return Drained::Waits;
            }
        }
        assert!(
            !local.seat.raft.is_transferring(),
            "{range} does not hand leadership over while it moves"
        );
        // From here on a follower hears nothing; a leader has nothing to say.
        local.seat.silent = true;
        let seat = &local.seat;
        let is_quiet = seat.writes == 0 && seat.fetches == 0 && !seat.dirty && seat.committed.is_empty();
        if is_quiet && local.reads.get() == 0 {
            Drained::Silent
        } else {
            Drained::Waits
        }
    }

    /// The range stays where it is.
    fn stay(&mut self, range: RangeId) {
        let local = live_mut(self, range);
        local.seat.silent = false;
        local.seat.introduced = None;
        local.busy.set(false);
        local.moving = false;
        if local.led {
            local.replica.unblock();
        }
        let slot = self.slot_of(range).expect("a range that is worked on stays");
        self.resend_state(slot);
        self.introduce_all(slot);
        self.touch(slot);
        self.run_parked(slot);
    }

    /// A follower lets its leader hear where it is, which may have nothing to say to it for long. Who leads no more, or has removed it, says so.
    pub(crate) fn say_where(&mut self, slot: u32) {
        let seat = &self.live_mut(slot).seat;
        let (range, from, term) = (seat.range, seat.raft.id(), seat.raft.term());
        let Some(leader) = seat.raft.leader().filter(|leader| *leader != from) else {
            return;
        };
        let at = seat.place_of(leader);
        if let Some(neighbours) = &mut self.neighbours {
            let body = Body::Bound;
            let letter = Letter {
                range,
                from,
                to: leader,
                message: raft::Message { term, body },
            };
            neighbours.post(at, letter);
        }
    }

    /// State that was on its way to followers is sent again: where it was sent from it is no more.
    fn resend_state(&mut self, slot: u32) {
        let raft = &mut self.live_mut(slot).seat.raft;
        let members = Arc::clone(raft.membership());
        members.members().for_each(|member| raft.snapshot_failed(member));
    }

    /// What the log has of a range beyond `flushed`.
    fn beyond(&mut self, range: RangeId, flushed: Index) -> Prepare {
        let local = live_mut(self, range);
        local.flushed(flushed);
        Prepare {
            range,
            hard_state: local.replica.group().hard_state,
            flushed,
            entries: entries_beyond(&local.seat.raft, flushed),
        }
    }

    /// Stages what a range that is about to come has in its log.
    pub(crate) fn prepare(&mut self, prepare: &Prepare) -> Seqno {
        let &Prepare {
            range,
            hard_state: HardState { term, vote, .. },
            flushed,
            ref entries,
        } = prepare;
        base::sometimes!(
            "node: a range moves with entries that are not committed",
            !entries.is_empty()
        );
        // Whatever an earlier stay has left counts no more.
        self.log.forget(range);
        let mut seqno = self.log.append(&Record::HardState {
            range,
            term,
            vote,
            commit: flushed,
        });
        for entry in entries {
            seqno = append(&self.log, range, entry);
        }
        seqno
    }

    /// Takes the range out of its slot and sends it to its new place.
    fn depart(&mut self, range: RangeId, to: ShardId) -> Receiver<Answer> {
        self.answer_gets();
        let slot = self.slot_of(range).expect("a range that moves is here");
        let mut entry = self.entry_of(slot);
        entry.shard = to;
        entry.moves += 1;
        let Slot::Live(mut local) = mem::replace(&mut self.slots[slot as usize], Slot::Free) else {
            unreachable!("a range that moves is live")
        };
        assert!(
            local.proposed.is_empty() && local.seat.writes == 0,
            "nothing of {range} is under way"
        );
        assert!(!local.seat.leaving, "{range} is silent: nobody ends its replica");
        self.forget_finding(range);
        base::sometimes!("node: a leader moves", local.led && !local.is_alone());
        base::sometimes!("node: a follower moves", !local.led && !local.is_alone());
        let parked = local.replica.unpark().into();
        let flushed = local.tablet.flushed_index();
        self.log.forget(range);
        self.counts.moves += 1;
        self.departed.push(entry.clone());
        self.map.merge([entry.clone()]);
        self.update_routes();
        self.stop_closing(range);
        let clock = self.hlc.last();
        let outlook = self.neighbours.as_ref();
        let outlook = outlook.map_or(0, |neighbours| neighbours.outlook.version());
        let moved = Moved {
            leads_from: local.led.then_some(local.leads_from),
            places: mem::take(&mut local.seat.places),
            closed: mem::take(&mut local.closed),
            raft: local.seat.raft,
            outlook,
        };
        self.ask(
            to,
            Ask::MoveIn(Box::new(MoveIn {
                flushed,
                entry,
                clock,
                parked,
                moved,
            })),
        )
    }

    /// The range is served here from now on. Requests that waited for it come back.
    fn arrive(&mut self, slot: u32, local: Local<E>, clock: Timestamp) {
        if !base::planted_bug!("node-move-ignores-clock") {
            self.hlc.raise(clock);
        }
        let (range, flushed) = (local.range, local.tablet.flushed_index());
        let content = mem::replace(&mut self.slots[slot as usize], Slot::Live(Box::new(local)));
        let Slot::Opening(_, waiting) = content else {
            unreachable!("the slot was kept for the range")
        };
        self.log.cover(range, flushed);
        let local = self.live_mut(slot);
        if local.led {
            let last = local.seat.raft.last().index;
            // Its own proposals before are applied; what it has shown to readers is below the clock that came with it.
            local.replica.lead(last, Timestamp::ZERO);
            let last_ts = local.replica.last_ts();
            self.raise_clock(last_ts);
        }
        if self.live_mut(slot).is_alone() && !self.live_mut(slot).seat.raft.is_leader() {
            self.live_mut(slot).seat.raft.campaign_now();
        }
        self.resend_state(slot);
        self.introduce_all(slot);
        self.say_where(slot);
        self.touch(slot);
        self.close_batch();
        waiting.iter().for_each(|request| self.on_owned(request));
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// `range move`, with the answer.
    pub(crate) async fn move_for(&self, origin: Origin, range: RangeId, to: ShardId, deadline: Instant) {
        match self.move_range(range, to, deadline).await {
            Ok(range_map_version) => {
                let reply = MoveReply {
                    range: range.0,
                    shard: to.0,
                    range_map_version,
                };
                self.step(|state| state.reply(origin, &reply));
            }
            Err(refusal) => self.step(|state| state.refuse(origin, &refusal.about_range(range))),
        }
    }

    /// Moves a range of this shard. Returns the version of the map that knows.
    pub(crate) async fn move_range(
        &self,
        range: RangeId,
        to: ShardId,
        deadline: Instant,
    ) -> Result<u64, Refusal> {
        let me = self.mailbox.shard();
        if to == me {
            return Ok(self.with_state(|state| state.map.version()));
        }
        let tablet = self.claim(range, deadline).await?;
        let failed = |reason: String| {
            let message = format!("range {range} could not be moved: {reason}");
            self.fail(message.clone());
            Refusal::fatal(Code::DiskFailed, message)
        };
        let unflushed = |error: StorageError| {
            self.unflushed(range, &error)
                .unwrap_or_else(|| failed(error.to_string()))
        };
        self.flush_first(range, &tablet).await.map_err(unflushed)?;
        self.fall_silent(range, deadline).await?;
        let flushed = self.flush_rest(range, &tablet).await.map_err(unflushed)?;
        drop(tablet);
        let prepare = Box::new(self.step(|state| state.beyond(range, flushed)));
        let no_answer = || Refusal::retry(Code::Unavailable, 10, format!("shard {to} did not answer"));
        let prepared = self.step(|state| state.ask(to, Ask::Prepare(prepare))).await;
        let Some(Answer::Prepared) = prepared else {
            return Err(no_answer());
        };
        if let Err(error) = marker::hand_over(&self.env, me, to, range).await {
            return Err(failed(error.to_string()));
        }
        match self.step(|state| state.depart(range, to)).await {
            Some(Answer::MoveIn(version)) => Ok(version),
            Some(_) | None => Err(no_answer()),
        }
    }

    /// A flush before a move met damage, which others of the group can mend: the range stays, and its replica ends. `None` when nobody
    /// can, or it is something else.
    fn unflushed(&self, range: RangeId, error: &StorageError) -> Option<Refusal> {
        self.step(|state| {
            let is_damage = match error {
                StorageError::Corruption(_) => state.has_peers(range),
                StorageError::Poisoned { .. } => state.injured.is_ending(range),
                _ => false,
            };
            is_damage.then(|| {
                base::sometimes!("node: a range that was to move met damage");
                state.stay(range);
                state.on_damage(range, error.to_string());
                Refusal::retry(
                    Code::RangeBusy,
                    100,
                    "the range's replica is damaged, and is replaced",
                )
            })
        })
    }

    /// Waits until nothing else works on the range, and takes it for itself.
    async fn claim(&self, range: RangeId, deadline: Instant) -> Result<Tablet<E>, Refusal> {
        loop {
            let claimed = self.with_state(|state| {
                let is_taken = state.is_receiving(range)
                    || state.injured.is_ending(range)
                    || state.has_frozen_by([range; 2], None)
                    || state.removing.keys().any(|gone| state.was_absorbed(*gone));
                let slot = state.here.get(&range).copied();
                let local = slot.and_then(|slot| state.slots[slot as usize].live_mut());
                let Some(local) = local else {
                    return Err(Refusal::retry(
                        Code::WrongShard,
                        1,
                        "the range has just moved to another shard",
                    ));
                };
                let seat = &local.seat;
                // A split that is under way waits for whoever works on the range.
                let is_claimed = local.busy.get() || local.split_open || seat.unmarked;
                let is_blocked =
                    local.replica.is_blocked() || local.replica.is_merging() || seat.raft.is_transferring();
                base::sometimes!(
                    "node: a move waits until leadership is handed over",
                    seat.raft.is_transferring()
                );
                if is_claimed
                    || is_taken
                    || is_blocked
                    || seat.installing
                    || seat.arrived.is_some()
                    || seat.leaving
                {
                    return Ok(None);
                }
                local.busy.set(true);
                local.moving = true;
                Ok(Some(local.tablet.clone()))
            });
            match claimed? {
                Some(tablet) => return Ok(tablet),
                None if self.now() >= deadline => return Err(busy()),
                None => self.env.clock().sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Brings most of the range to disk while it is served.
    async fn flush_first(&self, range: RangeId, tablet: &Tablet<E>) -> Result<(), StorageError> {
        if tablet.stats().active_bytes > FLUSH_FIRST_BYTES {
            base::sometimes!("node: range flushed before it moves");
            self.freeze(range);
            tablet.flush().await?;
        }
        Ok(())
    }

    /// Waits until nothing of the range is under way. From then on it takes no writes, and hears nothing.
    async fn fall_silent(&self, range: RangeId, deadline: Instant) -> Result<(), Refusal> {
        let deadline = deadline.min(self.now() + DRAIN_MAX);
        loop {
            match self.step(|state| state.drain_out(range)) {
                Drained::Silent => return Ok(()),
                Drained::Waits if self.now() < deadline => self.env.clock().sleep(LOOK_AGAIN).await,
                Drained::Waits | Drained::GivesUp => {
                    base::sometimes!("node: a range does not become quiet, and stays where it is");
                    self.step(|state| state.stay(range));
                    return Err(busy());
                }
            }
        }
    }

    /// Brings the rest of what is applied to disk, with the state of the replica.
    async fn flush_rest(&self, range: RangeId, tablet: &Tablet<E>) -> Result<Index, StorageError> {
        self.freeze(range);
        let flushed = tablet.flush().await?;
        let applied = tablet.applied_index();
        assert_eq!(
            flushed, applied,
            "{range} is silent: nothing was applied during the flush"
        );
        Ok(flushed)
    }

    /// Freezes the range's memtable with the replica's state as of now.
    pub(crate) fn freeze(&self, range: RangeId) {
        self.with_state(|state| {
            live_mut(state, range).freeze();
        });
    }

    /// Says so when what a range that is about to come has in its log is durable in this one's.
    pub(crate) async fn prepared(&self, from: ShardId, ticket: u64, seqno: Seqno) {
        let log = self.with_state(|state| state.log.clone());
        if let Err(error) = self.wait_durable(&log, seqno).await {
            return self.fail(error);
        }
        let answer = Answer::Prepared;
        self.step(|state| state.send(from, ShardMessage::Answer { ticket, answer }));
    }

    /// Opens a range that another shard has handed over, and serves what waited for it.
    pub(crate) async fn move_in(&self, from: ShardId, ticket: u64, slot: u32, arrival: Arrival) {
        let Arrival {
            entry,
            flushed,
            clock,
            moved,
        } = arrival;
        let range = entry.descriptor.range;
        let outlook = moved.outlook;
        let (id, voters) = (moved.raft.id(), moved.raft.membership().voters());
        let has_peers = voters.iter().any(|voter| *voter != id);
        let local = match self.open_moved(&entry, flushed, moved).await {
            Ok(local) => local,
            Err(Unopened::Damaged(what)) if has_peers => {
                self.arrive_damaged(slot, entry, life_of(id), what).await;
                return self.step(|state| {
                    let answer = Answer::MoveIn(state.map.version());
                    state.send(from, ShardMessage::Answer { ticket, answer });
                });
            }
            Err(Unopened::Damaged(reason) | Unopened::Failed(reason)) => {
                return self.fail(format!("range {range} could not be opened: {reason}"));
            }
        };
        self.reach_clock(clock).await;
        // What it is bound by was known where it was.
        let knows = |state: &mut State<E, B>| {
            let neighbours = state.neighbours.as_ref();
            neighbours.is_none_or(|neighbours| neighbours.outlook.version() >= outlook)
        };
        while !self.with_state(knows) {
            base::sometimes!("node: a range waits until its new shard knows what its old one did");
            self.env.clock().sleep(LOOK_AGAIN).await;
        }
        self.step(|state| state.arrive(slot, local, clock));
        let entry = self.with_state(|state| state.entry_of(slot));
        let Ok(version) = self.edit_map(vec![entry]).await else {
            return;
        };
        let answer = Answer::MoveIn(version);
        self.step(|state| state.send(from, ShardMessage::Answer { ticket, answer }));
    }

    async fn open_moved(
        &self,
        entry: &RangeEntry,
        flushed: Index,
        moved: Moved,
    ) -> Result<Local<E>, Unopened> {
        let (storage, groups) = self.with_state(|state| (state.storage.clone(), state.groups.clone()));
        let unopened = |error: StorageError| match error {
            StorageError::Corruption(_) => Unopened::Damaged(error.to_string()),
            other => Unopened::Failed(other.to_string()),
        };
        let tablet = Tablet::open(&storage, entry.descriptor.range)
            .await
            .map_err(unopened)?;
        let found = tablet.flushed_index();
        if found != flushed {
            return Err(Unopened::Failed(format!(
                "its tables end at entry {found}, they were handed over at entry {flushed}"
            )));
        }
        let opened = Local::open(tablet, &groups).await;
        let mut local = opened.map_err(|error| match error {
            OpenError::Storage(error) => unopened(error),
            OpenError::State(_) | OpenError::Spilled(_) => Unopened::Failed(error.to_string()),
        })?;
        local.moves = entry.moves;
        local.take_over(moved, &groups);
        Ok(local)
    }
}

impl<E: Env> Local<E> {
    /// Goes on in the group as it did on another shard.
    fn take_over(&mut self, moved: Moved, groups: &Groups) {
        let Moved {
            raft,
            places,
            leads_from,
            closed,
            outlook: _,
        } = moved;
        let Seat { range, .. } = self.seat;
        let applied = self.replica.applied_index();
        let id = self.replica.group().id;
        assert_eq!(raft.id(), id, "{range} is the replica that it was");
        self.commit_noted = applied;
        self.seat.places = places;
        self.closed = closed;
        if leads_from.is_none() && base::planted_bug!("node-moved-replica-votes-at-once") {
            self.restart_group(groups, entries_beyond(&raft, applied));
            return;
        }
        self.seat.raft = raft;
        self.led = leads_from.is_some();
        self.leads_from = leads_from.unwrap_or_default();
    }
}

fn busy() -> Refusal {
    let message = "the range is being flushed, split or moved, or what was written is not committed";
    Refusal::retry(Code::RangeBusy, 10, message)
}

/// The entries of a group's log after `index`, which is applied: all of them are in memory.
pub(crate) fn entries_beyond(raft: &Raft, index: Index) -> Vec<Entry> {
    let range = index.next()..raft.last().index.next();
    raft.entries(&range).cloned().collect()
}

fn live_mut<E: Env, B>(state: &mut State<E, B>, range: RangeId) -> &mut Local<E> {
    let live = state
        .slots
        .iter_mut()
        .filter_map(|slot| slot.live_mut())
        .find(|local| local.range == range);
    live.expect("a range that is being worked on stays")
}
