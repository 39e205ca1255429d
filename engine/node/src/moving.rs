//! Moving a range to another shard of the node, online: everything of it goes to disk, its marker is renamed, the other shard
//! opens it. Requests that come meanwhile wait and travel with it.
//!
//! ```text
//!  old shard:  flush (serving) │ block, drain, flush │ rename marker │ MoveIn ──►
//!  new shard:                                                          open │ serve what waited
//! ```
//!
//! A crash before the rename is durable leaves the range where it was, one after it where it goes: in both cases complete,
//! since nothing of it was left in the old shard's log alone.

use crate::local::Local;
use crate::marker;
use crate::message::{Answer, Ask, MoveIn, Origin, RawRequest, ShardMessage};
use crate::range_map::RangeEntry;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, Slot, State};
use base::{Index, RangeId, ShardId, Timestamp};
use core::time::Duration;
use env::sync::Receiver;
use env::{Clock, Env, Instant, Mailbox};
use storage::Tablet;
use wire::Code;
use wire::reply::MoveReply;

/// A memtable larger than this is flushed before the range stops taking writes.
const FLUSH_FIRST_BYTES: usize = 64 << 10;

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

    /// Takes the range out of its slot and sends it to its new place.
    fn depart(&mut self, range: RangeId, to: ShardId) -> Receiver<Answer> {
        self.answer_gets();
        let slot = self.slot_of(range).expect("a range that moves is here");
        let mut entry = self.entry_of(slot);
        entry.shard = to;
        let Slot::Live(mut local) = core::mem::replace(&mut self.slots[slot as usize], Slot::Free) else {
            unreachable!("a range that moves is live")
        };
        let parked = local.replica.unpark().into();
        let flushed = local.tablet.flushed_index();
        self.log.forget(range);
        self.counts.moves += 1;
        self.departed.push(entry.clone());
        self.map.merge([entry.clone()]);
        self.update_routes();
        let clock = self.hlc.last();
        self.ask(
            to,
            Ask::MoveIn(Box::new(MoveIn {
                flushed,
                entry,
                clock,
                parked,
            })),
        )
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
        let moved = self.empty_out(range, &tablet).await;
        if let Err(reason) = moved {
            let message = format!("range {range} could not be moved: {reason}");
            self.fail(message.clone());
            return Err(Refusal::fatal(Code::DiskFailed, message));
        }
        drop(tablet);
        if let Err(error) = marker::hand_over(&self.env, me, to, range).await {
            let message = format!("range {range} could not be handed over: {error}");
            self.fail(message.clone());
            return Err(Refusal::fatal(Code::DiskFailed, message));
        }
        match self.step(|state| state.depart(range, to)).await {
            Some(Answer::MoveIn(version)) => Ok(version),
            Some(_) | None => Err(Refusal::retry(
                Code::Unavailable,
                10,
                format!("shard {to} did not answer"),
            )),
        }
    }

    /// Waits until nothing else works on the range, and takes it for itself.
    async fn claim(&self, range: RangeId, deadline: Instant) -> Result<Tablet<E>, Refusal> {
        loop {
            let claimed = self.with_state(|state| match state.local(range) {
                None => Err(Refusal::retry(
                    Code::WrongShard,
                    1,
                    "the range has just moved to another shard",
                )),
                Some(local) if !local.is_alone() => Err(Refusal::fatal(
                    Code::InvalidRequest,
                    "the range has replicas on other nodes: this version of corelane moves it between nodes and shards not \
                     yet",
                )),
                // A split that is under way waits for whoever works on the range.
                Some(local) if local.busy.get() || local.replica.is_blocked() => Ok(None),
                Some(local) => {
                    local.busy.set(true);
                    Ok(Some(local.tablet.clone()))
                }
            });
            match claimed? {
                Some(tablet) => return Ok(tablet),
                None if self.now() >= deadline => {
                    return Err(Refusal::retry(
                        Code::RangeBusy,
                        10,
                        "the range is being flushed, split or moved",
                    ));
                }
                None => self.env.clock().sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Brings everything of the range to disk; from the middle on it takes no writes.
    async fn empty_out(&self, range: RangeId, tablet: &Tablet<E>) -> Result<(), String> {
        if tablet.stats().active_bytes > FLUSH_FIRST_BYTES {
            base::sometimes!("node: range flushed before it moves");
            self.freeze(range);
            tablet.flush().await.map_err(|error| error.to_string())?;
        }
        self.step(|state| live_mut(state, range).replica.block());
        loop {
            let quiet = self.with_state(|state| {
                let local = live_mut(state, range);
                local.is_quiet() && local.reads.get() == 0
            });
            if quiet {
                break;
            }
            self.wait_applied().await;
        }
        self.step(|state| live_mut(state, range).replica.bump_generation());
        self.freeze(range);
        let flushed = tablet.flush().await.map_err(|error| error.to_string())?;
        let applied = tablet.applied_index();
        assert_eq!(
            flushed, applied,
            "{range} is blocked: nothing was applied during the flush"
        );
        Ok(())
    }

    /// Freezes the range's memtable with the replica's state as of now.
    pub(crate) fn freeze(&self, range: RangeId) {
        self.with_state(|state| {
            live_mut(state, range).freeze();
        });
    }

    /// Opens a range that another shard has handed over, and serves what waited for it.
    pub(crate) async fn move_in(
        &self,
        from: ShardId,
        ticket: u64,
        slot: u32,
        (entry, flushed): (RangeEntry, Index),
        clock: Timestamp,
    ) {
        let range = entry.descriptor.range;
        let opened = async {
            let storage = self.with_state(|state| state.storage.clone());
            let tablet = Tablet::open(&storage, range)
                .await
                .map_err(|error| error.to_string())?;
            if tablet.flushed_index() != flushed {
                let found = tablet.flushed_index();
                return Err(format!(
                    "its tables end at entry {found}, they were handed over at entry {flushed}"
                ));
            }
            let groups = self.with_state(|state| state.groups.clone());
            let mut local = Local::open(tablet, &groups).map_err(|error| error.to_string())?;
            local.replica.raise_generation(entry.descriptor.generation);
            Ok::<_, String>(local)
        };
        let local = match opened.await {
            Ok(local) => local,
            Err(reason) => return self.fail(format!("range {range} could not be opened: {reason}")),
        };
        self.reach_clock(clock).await;
        let waiting = self.step(|state| {
            if !base::planted_bug!("node-move-ignores-clock") {
                state.hlc.raise(clock);
            }
            let content = core::mem::replace(&mut state.slots[slot as usize], Slot::Live(Box::new(local)));
            match content {
                Slot::Opening(_, waiting) => waiting,
                Slot::Free | Slot::Live(_) | Slot::Stranger(_) => {
                    unreachable!("the slot was kept for the range")
                }
            }
        });
        self.step(|state| {
            state.campaign(slot);
            waiting.iter().for_each(|request| state.on_owned(request));
        });
        let entry = self.with_state(|state| state.entry_of(slot));
        let Ok(version) = self.edit_map(vec![entry]).await else {
            return;
        };
        self.step(|state| {
            state.send(
                from,
                ShardMessage::Answer {
                    ticket,
                    answer: Answer::MoveIn(version),
                },
            );
        });
    }
}

fn live_mut<E: Env, B>(state: &mut State<E, B>, range: RangeId) -> &mut Local<E> {
    let live = state
        .slots
        .iter_mut()
        .filter_map(|slot| slot.live_mut())
        .find(|local| local.range == range);
    live.expect("a range that is being worked on stays")
}
