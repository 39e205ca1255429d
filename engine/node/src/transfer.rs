//! State instead of log: a follower that is too far behind gets the range's tables.
//!
//! ```text
//!  leader:    group says "state" ─► flush ─► Offer ──►
//!  follower:                                            receive ◄── Want, Piece … ──► all files
//!                                                       group takes it up ─► log: truncate ─► install ─► group goes on
//! ```
//! The follower asks, piece by piece and at its own pace: what it has is kept when leader, follower or connection are lost, and a
//! follower that says nothing costs the leader nothing but the files, until it is given up.
//!
//! Order at the follower: (1) every file is there and verified; (2) the group takes the state up, which voids its log; (3) the
//! log says that entries beyond the state are void, durably; (4) the tablet is replaced; (5) what waited for the write goes on.
//! A crash before the end of (4) leaves the old state and the old entries up to the new one, one after it the new state.

mod sending;

use crate::local::Local;
use crate::marker;
use crate::message::OwnedRequest;
use crate::neighbours::Neighbours;
use crate::range_map::RangeEntry;
use crate::shard::Shard;
use crate::spilled::{self, OpenError};
use crate::state::{Job, Message, Slot, State};
use base::key::Span;
use base::{Index, RangeId, ReplicaId, Seqno, ShardId, Term};
use core::cell::RefCell;
use core::mem;
use core::time::Duration;
use env::sync::Notify;
use env::{Clock, Env, Mailbox};
use raft::{Body, HardState, Mark, PersistMark, Snapshot};
use replica::Replica;
use replica::group::{decode_members, node_of};
pub(crate) use sending::{Sending, Wanted};
use std::rc::Rc;
use std::sync::Arc;
use storage::{SnapshotDescription, SnapshotError, SnapshotReceiver, StorageError, Tablet};
use wire::WireError;
use wire::peer::{self, ArchivedTransfer, ArchivedTransferStep, Transfer, TransferStep};

/// Bytes of one piece. Heartbeats and entries share the connection.
const PIECE_BYTES: usize = 128 << 10;
/// How long a piece is waited for before it is asked for again.
const PIECE_PATIENCE: Duration = Duration::from_secs(1);
/// Tries in a row without a piece after which the sender is given up.
const TRIES_MAX: u32 = 5;
/// States that a shard receives at once; more are to be offered later.
const RECEIVING_MAX: usize = 8;
/// How long followers have to come to a split before they are offered the state that it makes, and how long one that has come to it does
/// not take that in place of entries. They are asked again and again what they have. Not longer: one that was sent the left half's state
/// never comes to the split, and the group may have nobody else.
const SPLIT_PATIENCE: Duration = Duration::from_secs(1);

/// State that is being received, until it is installed.
pub(crate) struct Receiving {
    range: RangeId,
    span: Span,
    from: ReplicaId,
    last: Mark,
    inbox: Rc<Inbox>,
}

/// The piece that came last.
#[derive(Default)]
pub(crate) struct Inbox {
    piece: RefCell<Option<Came>>,
    changed: Notify,
}

enum Came {
    Piece {
        file: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The sender has nothing any more.
    Gone,
}

/// An offer that is taken up.
pub(crate) struct Offered {
    slot: u32,
    from: ReplicaId,
    to: ReplicaId,
    term: Term,
    snapshot: Snapshot,
    description: SnapshotDescription,
    inbox: Rc<Inbox>,
}

/// State that is here as a whole, and not installed.
pub(crate) struct Arrived<E: Env> {
    receiver: SnapshotReceiver<E>,
    snapshot: Snapshot,
}

fn to_wire(mark: Mark) -> peer::Mark {
    peer::Mark {
        term: mark.term.0,
        index: mark.index.0,
    }
}

impl<E: Env, B> State<E, B> {
    /// Takes a step of a transfer, for a range that no other shard has.
    ///
    /// # Errors
    /// [`WireError`] when no node says such a thing.
    pub(crate) fn take_transfer(
        &mut self,
        transfer: &ArchivedTransfer<'static>,
        malformed: WireError,
    ) -> Result<(), WireError> {
        let range = RangeId(transfer.range.to_native());
        let (from, to) = (
            ReplicaId(transfer.from.to_native()),
            ReplicaId(transfer.to.to_native()),
        );
        let last = Mark {
            term: Term(transfer.last.term.to_native()),
            index: Index(transfer.last.index.to_native()),
        };
        match &transfer.step {
            ArchivedTransferStep::Offer {
                term,
                chain,
                members,
                description,
            } => {
                let mut input: &[u8] = members;
                let membership = decode_members(&mut input)
                    .filter(|_| input.is_empty())
                    .ok_or(malformed)?;
                let description = SnapshotDescription::decode(description).map_err(|_| malformed)?;
                if description.range() != range || description.index() != last.index {
                    return Err(malformed);
                }
                let snapshot = Snapshot {
                    last,
                    chain: chain.to_native(),
                    membership: Arc::new(membership),
                };
                // What the group is told and what the state says of it must be one thing: later it would stop the node.
                let own = (to, HardState::default());
                let adopted = Replica::<()>::adopt_state(range, last.index, description.app_state(), own);
                if adopted.map_or(true, |(theirs, _)| theirs.applied != snapshot) {
                    return Err(malformed);
                }
                let term = Term(term.to_native());
                self.on_offer((from, to), term, snapshot, description);
            }
            ArchivedTransferStep::Want { file, offset } => {
                self.on_want((range, from, to), last, (file.to_native(), offset.to_native()));
            }
            ArchivedTransferStep::Piece { file, offset, bytes } => {
                let came = Came::Piece {
                    file: file.to_native(),
                    offset: offset.to_native(),
                    bytes: bytes.to_vec(),
                };
                self.on_came(range, from, last, came);
            }
            ArchivedTransferStep::Done { installed } => self.end_sending(range, from, !installed),
            ArchivedTransferStep::Gone => self.on_came(range, from, last, Came::Gone),
            ArchivedTransferStep::Removed => self.on_removed(range, to),
            ArchivedTransferStep::Damaged => self.on_claim(range, from),
            ArchivedTransferStep::Settled => self.on_settled(range, to),
            step @ (ArchivedTransferStep::Yield
            | ArchivedTransferStep::Gather { .. }
            | ArchivedTransferStep::Gathered { .. }
            | ArchivedTransferStep::AskFate { .. }
            | ArchivedTransferStep::Refused { .. }) => self.on_merge_word((range, from, to), step),
        }
        Ok(())
    }

    fn say(&mut self, who: (RangeId, ReplicaId, ReplicaId), last: Mark, step: TransferStep<'_>) {
        self.say_at(who, to_wire(last), step);
    }

    /// Says something to a replica of a range on another node.
    pub(crate) fn say_at(
        &mut self,
        (range, from, to): (RangeId, ReplicaId, ReplicaId),
        last: peer::Mark,
        step: TransferStep<'_>,
    ) {
        let slot = self.seat_slot(range);
        let seat = slot.and_then(|slot| self.slots[slot as usize].seat());
        let shard = seat.map_or(ShardId(0), |seat| seat.place_of(to).shard);
        if let Some(neighbours) = &self.neighbours {
            let transfer = Transfer {
                range: range.0,
                from: from.0,
                to: to.0,
                last,
                step,
            };
            neighbours.links.send(node_of(to), shard, &transfer);
        }
    }

    fn on_offer(
        &mut self,
        (from, to): (ReplicaId, ReplicaId),
        term: Term,
        snapshot: Snapshot,
        description: SnapshotDescription,
    ) {
        let range = description.range();
        let slot = self
            .here
            .get(&range)
            .or_else(|| self.strangers.get(&range))
            .copied();
        // A replica that has all of it says so: the answer to an earlier offer was lost, or was not needed.
        if let Some(slot) = slot
            && let Some(seat) = self.slots[slot as usize].seat_mut()
            && seat.raft.id() == to
            && seat.raft.commit_index() >= snapshot.last.index
        {
            let last = snapshot.last;
            let body = Body::Snapshot(snapshot);
            // A message that cannot be is not answered.
            let _ = seat.raft.step(from, raft::Message { term, body });
            self.touch(slot);
            let step = TransferStep::Done { installed: true };
            return self.say((range, to, from), last, step);
        }
        let has_seat = |slot: &u32| {
            let seat = self.slots[*slot as usize].seat();
            seat.is_some_and(|seat| {
                seat.raft.id() == to
                    && !seat.installing
                    && !seat.leaving
                    && seat.raft.commit_index() < snapshot.last.index
            })
        };
        // Offered again: what is under way here goes on.
        let seat = slot.and_then(|slot| self.slots[slot as usize].seat());
        let is_installing = seat.is_some_and(|seat| seat.installing);
        if is_installing || self.is_receiving(range) {
            return;
        }
        let has_room = self
            .neighbours
            .as_ref()
            .is_some_and(|neighbours| neighbours.receiving.len() < RECEIVING_MAX);
        base::sometimes!("node: too much state is received already", !has_room);
        let bytes = description
            .files()
            .map(|file| file.bytes)
            .fold(0, u64::saturating_add);
        let fits = self.gauge.has_room_for(bytes);
        base::sometimes!("node: state is offered to a node with a full disk", !fits);
        let usable = slot.filter(has_seat).filter(|_| has_room && fits);
        let usable = usable.filter(|_| !self.is_newborn(range));
        // The last look, as it may be at every range.
        let usable = usable.filter(|_| !self.is_early(&description));
        let (Some(slot), Some(neighbours)) = (usable, &mut self.neighbours) else {
            base::sometimes!("node: state was offered that is of no use now");
            let step = TransferStep::Done { installed: false };
            return self.say((range, to, from), snapshot.last, step);
        };
        let inbox = Rc::<Inbox>::default();
        neighbours.receiving.push(Receiving {
            range,
            span: description.span().clone(),
            from,
            last: snapshot.last,
            inbox: inbox.clone(),
        });
        self.jobs.push(Job::Receive(Box::new(Offered {
            slot,
            from,
            to,
            term,
            snapshot,
            description,
            inbox,
        })));
    }

    /// Whether the range was split off here a moment ago.
    fn is_newborn(&mut self, range: RangeId) -> bool {
        let (now, _) = self.clock();
        let born = self.local(range).and_then(|local| local.born);
        born.is_some_and(|born| now.since(born) < SPLIT_PATIENCE)
    }

    /// Whether state is offered for keys that another range has here.
    fn is_early(&self, description: &SnapshotDescription) -> bool {
        let range = description.range();
        let ended = Replica::<()>::ended_merge(range, description.index(), description.app_state());
        // What the offered state has absorbed goes when that is installed.
        let absorbed = self.absorbed_in(range, description.span(), ended.ok().flatten());
        let is_other = |other: RangeId| other != range && !absorbed.contains(&other);
        let overlaps = |local: &Local<E>| {
            let (mine, theirs) = (&local.replica.descriptor().span, description.span());
            is_other(local.range) && mine.intersect(&theirs.start, theirs.end.as_deref()).is_some()
        };
        let overlaps_there = |entry: &RangeEntry| {
            let (other, theirs) = (&entry.descriptor, description.span());
            let common = other.span.intersect(&theirs.start, theirs.end.as_deref());
            !entry.is_hole() && is_other(other.range) && common.is_some()
        };
        // A range that still has these keys, or is about to get them, has not applied the split that takes them away: it will, and
        // make the other range anew. Shard 0, where ranges that are new to a node get their state, has all that are on other shards
        // in its map, with the keys that they have or had.
        // Of one that is being removed here the keys count until its files are gone: a crash before that brings it back.
        let overlaps_removed = |(other, span): (&RangeId, &Option<Span>)| {
            let theirs = description.span();
            let common = span
                .as_ref()
                .and_then(|span| span.intersect(&theirs.start, theirs.end.as_deref()));
            let is_common = is_other(*other) && common.is_some();
            base::sometimes!(
                "node: state is offered for keys of a range that is being removed",
                is_common
            );
            is_common
        };
        !base::planted_bug!("node-takes-state-before-split")
            && (self.slots.iter().filter_map(Slot::live).any(overlaps)
                || self.map.entries().iter().any(overlaps_there)
                || self.removing.iter().any(overlaps_removed))
            || self.neighbours.as_ref().is_some_and(|neighbours| {
                let span = description.span();
                neighbours.receiving.iter().any(|receiving| {
                    let common = receiving.span.intersect(&span.start, span.end.as_deref());
                    receiving.range != range && common.is_some()
                })
            })
    }

    fn on_came(&mut self, range: RangeId, from: ReplicaId, last: Mark, came: Came) {
        let receiving = self.neighbours.as_ref().and_then(|neighbours| {
            let is_it = |receiving: &&Receiving| {
                receiving.range == range && receiving.from == from && receiving.last == last
            };
            neighbours.receiving.iter().find(is_it)
        });
        if let Some(receiving) = receiving {
            *receiving.inbox.piece.borrow_mut() = Some(came);
            receiving.inbox.changed.notify();
        }
    }

    /// Nobody wants the state any more that is being received.
    pub(crate) fn stop_receiving(&mut self, range: RangeId) {
        let receiving = self.neighbours.as_ref().and_then(|neighbours| {
            neighbours
                .receiving
                .iter()
                .find(|receiving| receiving.range == range)
        });
        if let Some(receiving) = receiving {
            *receiving.inbox.piece.borrow_mut() = Some(Came::Gone);
            receiving.inbox.changed.notify();
        }
    }

    pub(crate) fn end_receiving(&mut self, range: RangeId) {
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.receiving.retain(|receiving| receiving.range != range);
        }
    }

    /// The group has taken up the state that came: what it had delivered before is void.
    pub(crate) fn begin_install(&mut self, slot: u32, snapshot: &Snapshot) -> Box<Arrived<E>> {
        let seat = self.seat_of(slot);
        let arrived = seat.arrived.take();
        let arrived = arrived.expect("a group is given state only when it is here");
        assert_eq!(
            arrived.snapshot, *snapshot,
            "{} takes up what it was given",
            seat.range
        );
        seat.installing = true;
        seat.committed.clear();
        let range = seat.range;
        self.release_claims(range);
        arrived
    }

    /// The state is the tablet's: the replica goes on from it.
    fn end_install(
        &mut self,
        slot: u32,
        mark: PersistMark,
        (mut replica, tablet): (Replica<OwnedRequest>, Tablet<E>),
        index: Index,
    ) {
        let absorbed = self.absorbed_in(tablet.range(), &tablet.span(), replica.ended());
        match mem::replace(&mut self.slots[slot as usize], Slot::Free) {
            Slot::Live(mut local) => {
                base::sometimes!("node: state replaced the log of a range");
                replica.take_over(&mut local.replica);
                local.replica = replica;
                local.tablet = tablet;
                local.frozen.clear();
                local.split_open = false;
                local.commit_noted = index;
                local.busy.set(false);
                self.slots[slot as usize] = Slot::Live(local);
            }
            Slot::Stranger(stranger) => {
                base::sometimes!("node: a stranger got its state");
                replica.set_hard_state(stranger.hard_state);
                self.strangers.remove(&stranger.seat.range);
                let local = Local::seated(replica, tablet, stranger.seat);
                self.slots[slot as usize] = Slot::Live(Box::new(local));
            }
            Slot::Free | Slot::Opening(..) => unreachable!("a replica stays while state is installed"),
        }
        let local = self.live_mut(slot);
        let range = local.range;
        let last_ts = local.replica.last_ts();
        local.seat.installing = false;
        let mut held = mem::take(&mut local.seat.held);
        held.sort_by_key(|write| write.mark);
        assert!(
            held.iter().any(|write| write.mark == mark),
            "the write of the state itself was held back"
        );
        self.raise_clock(last_ts);
        self.log.cover(range, index);
        self.end_receiving(range);
        let entry = self.entry_of(slot);
        self.map.merge([entry]);
        self.update_routes();
        for range in absorbed {
            self.let_go_of_absorbed(range);
        }
        for write in held {
            self.end_write(write);
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Receives state that was offered, and gives it to the group.
    pub(crate) async fn receive(&self, offered: Offered) {
        let range = offered.description.range();
        let installs = self.try_receive(&offered).await;
        self.step(|state| {
            if !installs {
                state.end_receiving(range);
            }
            let step = TransferStep::Done { installed: installs };
            state.say((range, offered.to, offered.from), offered.snapshot.last, step);
        });
    }

    /// Whether the group has taken the state up.
    async fn try_receive(&self, offered: &Offered) -> bool {
        let range = offered.description.range();
        let begun = self.begin_receiving(offered).await;
        let Ok(mut receiver) = begun else {
            base::sometimes!("node: state cannot be received");
            return false;
        };
        let mut tries = 0;
        while let Some(due) = receiver.due() {
            tries += 1;
            if tries > TRIES_MAX {
                base::sometimes!("node: the sender of state was given up");
                return false;
            }
            match self.fetch_piece(offered, due.file, due.offset).await {
                Some(bytes) => match receiver.write(due.file, due.offset, &bytes).await {
                    Ok(()) => tries = 0,
                    // Damaged on the way from one disk to the other, or not what was asked for: again.
                    Err(error @ SnapshotError::Storage(_)) if !error.is_retryable() => {
                        base::sometimes!("node: received state could not be kept");
                    }
                    Err(_) => {}
                },
                None if self.with_state(|state| !state.is_receiving(range)) => return false,
                None => {}
            }
        }
        self.hand_over_state(offered, receiver).await
    }

    async fn begin_receiving(&self, offered: &Offered) -> Result<SnapshotReceiver<E>, SnapshotError> {
        let tablet = self.with_state(|state| {
            let local = state.local(offered.description.range())?;
            Some(local.tablet.clone())
        });
        let description = offered.description.clone();
        match tablet {
            Some(tablet) => tablet.receive(description).await,
            None => {
                let storage = self.with_state(|state| state.storage.clone());
                Tablet::receive_new(&storage, description.range(), description).await
            }
        }
    }

    /// Asks for a piece and waits for it, for a while.
    async fn fetch_piece(&self, offered: &Offered, file: u64, offset: u64) -> Option<Vec<u8>> {
        let range = offered.description.range();
        self.step(|state| {
            let step = TransferStep::Want { file, offset };
            state.say((range, offered.to, offered.from), offered.snapshot.last, step);
        });
        let deadline = self.now() + PIECE_PATIENCE;
        loop {
            match offered.inbox.piece.borrow_mut().take() {
                Some(Came::Piece {
                    file: of,
                    offset: at,
                    bytes,
                }) if of == file && at == offset => return Some(bytes),
                Some(Came::Gone) => {
                    self.with_state(|state| state.end_receiving(range));
                    return None;
                }
                Some(Came::Piece { .. }) | None => {}
            }
            let left = deadline.since(self.now());
            if left.is_zero() {
                base::sometimes!("node: a piece of state did not come in time");
                return None;
            }
            let sleep = self.env.clock().sleep(left);
            crate::start::race(offered.inbox.changed.notified(), sleep).await;
        }
    }

    /// Gives the state to the group, once nothing else works on the tablet. Whether the group wanted it.
    async fn hand_over_state(&self, offered: &Offered, receiver: SnapshotReceiver<E>) -> bool {
        let range = offered.description.range();
        loop {
            let claimed = self.with_state(|state| match &state.slots[offered.slot as usize] {
                Slot::Live(local) if local.range == range => !local.busy.replace(true),
                Slot::Free | Slot::Opening(..) | Slot::Live(_) | Slot::Stranger(_) => true,
            });
            if claimed {
                break;
            }
            self.env.clock().sleep(Duration::from_millis(2)).await;
        }
        let refused = self.step(|state| {
            state.close_batch();
            let slot = offered.slot;
            let Some(seat) = state.slots[slot as usize]
                .seat_mut()
                .filter(|seat| seat.range == range)
            else {
                return Some(receiver);
            };
            seat.arrived = Some(Box::new(Arrived {
                receiver,
                snapshot: offered.snapshot.clone(),
            }));
            let message = raft::Message {
                term: offered.term,
                body: Body::Snapshot(offered.snapshot.clone()),
            };
            // Members that were checked when they came cannot be malformed; if they are, nothing is taken up.
            let taken = seat.raft.step(offered.from, message);
            state.touch(slot);
            state.close_batch();
            let seat = state.seat_of(slot);
            let left = seat.arrived.take();
            if (left.is_some() || taken.is_err())
                && let Slot::Live(local) = &state.slots[slot as usize]
            {
                local.busy.set(false);
            }
            left.map(|arrived| arrived.receiver)
        });
        match refused {
            Some(receiver) => {
                base::sometimes!("node: a group did not want the state any more");
                // What is left on the disk is swept at the next start, or taken over by the next state.
                let _ = receiver.abandon().await;
                false
            }
            None => true,
        }
    }

    /// Makes state that the group has taken up the range's own.
    pub(crate) async fn install(
        &self,
        slot: u32,
        seqno: Seqno,
        mark: PersistMark,
        mut arrived: Box<Arrived<E>>,
    ) {
        let log = self.with_state(|state| state.log.clone());
        if !base::planted_bug!("node-install-before-log")
            && let Err(error) = self.wait_durable(&log, seqno).await
        {
            return self.fail(error);
        }
        let (range, own) = self.with_state(|state| {
            let hard_state = match &state.slots[slot as usize] {
                Slot::Live(local) => local.replica.group().hard_state,
                Slot::Stranger(stranger) => stranger.hard_state,
                Slot::Free | Slot::Opening(..) => unreachable!("a replica stays while state is installed"),
            };
            let seat = state.seat_of(slot);
            (seat.range, (seat.raft.id(), hard_state))
        });
        let index = arrived.snapshot.last.index;
        let description = arrived.receiver.description();
        let adopted = Replica::<()>::adopt_state(range, index, description.app_state(), own);
        let state = match adopted {
            Ok((_, state)) => state,
            Err(error) => return self.fail(format!("the state that range {range} was sent: {error}")),
        };
        arrived.receiver.set_app_state(&state);
        // The marker comes first: a tablet without one would be nobody's.
        if let Err(error) = marker::create(&self.env, self.mailbox.shard(), range).await {
            return self.fail(format!("range {range} could not be marked: {error}"));
        }
        let tablet = match arrived.receiver.install().await {
            Ok(tablet) => tablet,
            Err(SnapshotError::Storage(error @ StorageError::Corruption(_))) => {
                base::sometimes!("node: damage was met while state was installed");
                return self.step(|state| state.on_failed_install(slot, error.to_string()));
            }
            Err(error) => {
                return self.fail(format!("state of range {range} could not be installed: {error}"));
            }
        };
        let opened = match Replica::open((tablet.range(), tablet.span()), index, &state) {
            Ok(mut replica) => spilled::restore(&tablet, &mut replica).await.map(|()| replica),
            Err(error) => Err(error.into()),
        };
        let replica = match opened {
            Ok(replica) => replica,
            Err(OpenError::Storage(error @ StorageError::Corruption(_))) => {
                base::sometimes!("node: damage was met in spilled intents that were installed");
                return self.step(|state| state.on_failed_install(slot, error.to_string()));
            }
            Err(error) => return self.fail(format!("range {range} after it got its state: {error}")),
        };
        self.step(|state| state.end_install(slot, mark, (replica, tablet), index));
        let entry = self.with_state(|state| state.entry_of(slot));
        // Without an answer the node is stopping.
        if self.edit_map(vec![entry]).await.is_ok() {
            self.settle(range).await;
        }
    }
}

impl<E: Env, B> State<E, B> {
    pub(crate) fn is_receiving(&self, range: RangeId) -> bool {
        let receiving = |neighbours: &Neighbours<E>| neighbours.receiving.iter().any(|r| r.range == range);
        self.neighbours.as_deref().is_some_and(receiving)
    }
}
