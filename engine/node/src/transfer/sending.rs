//! The leader's side: what it has for followers, and how long.

use super::PIECE_BYTES;
use crate::shard::Shard;
use crate::state::{Job, Message, State};
use base::{RangeId, ReplicaId, Term};
use core::time::Duration;
use env::{Clock, Env, Instant, Mailbox};
use raft::Mark;
use replica::Replica;
use replica::group::encode_members;
use std::rc::Rc;
use storage::TabletSnapshot;
use wire::peer::TransferStep;

/// How long the leader waits for a follower to ask for more before it offers the state again: the offer was lost, or the answer to it.
const OFFER_PATIENCE: Duration = Duration::from_secs(1);
/// How long the leader keeps a state for a follower that says nothing. Longer than all tries of the follower.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long the leader waits after a state before it asks the follower what it has.
const REST: Duration = Duration::from_millis(100);

/// State that the leader has for a follower.
pub(crate) struct Sending<E: Env> {
    range: RangeId,
    to: ReplicaId,
    /// `None` while it is being prepared.
    offer: Option<Offer<E>>,
    heard: Instant,
    /// The follower has it, or will not have it, as of then. After a while the group asks the follower what it has, unless it knows
    /// by then: what the follower said to the group may be lost, and what the group wanted meanwhile was not begun.
    ended: Option<Instant>,
}

/// State as it is offered.
struct Offer<E: Env> {
    from: ReplicaId,
    term: Term,
    last: Mark,
    chain: u32,
    members: Vec<u8>,
    snapshot: Rc<TabletSnapshot<E>>,
    said: Instant,
}

/// Bytes that a follower wants.
pub(crate) struct Wanted<E: Env> {
    snapshot: Rc<TabletSnapshot<E>>,
    range: RangeId,
    from: ReplicaId,
    to: ReplicaId,
    last: Mark,
    file: u64,
    offset: u64,
}

impl<E: Env, B> State<E, B> {
    /// Whether the state for that follower is to be prepared: nobody else does, and it will not make it itself by the split that made the
    /// range here.
    fn begin_sending(&mut self, range: RangeId, to: ReplicaId) -> bool {
        let (heard, _) = self.clock();
        let is_newborn = self.is_newborn(range);
        let Some(neighbours) = &mut self.neighbours else {
            return false;
        };
        let is_known = |sending: &Sending<E>| sending.range == range && sending.to == to;
        if neighbours.sending.iter().any(is_known) {
            return false;
        }
        neighbours.sending.push(Sending {
            range,
            to,
            offer: None,
            heard,
            ended: is_newborn.then_some(heard),
        });
        base::sometimes!("node: a follower is left time to come to a split", is_newborn);
        !is_newborn
    }

    /// The follower has the state, or will not have it.
    pub(super) fn end_sending(&mut self, range: RangeId, to: ReplicaId, failed: bool) {
        base::sometimes!("node: state did not arrive at a follower", failed);
        let (now, _) = self.clock();
        let sending = self
            .neighbours
            .iter_mut()
            .flat_map(|neighbours| &mut neighbours.sending);
        for sending in sending.filter(|sending| sending.range == range && sending.to == to) {
            sending.offer = None;
            sending.ended.get_or_insert(now);
        }
    }

    /// Offers state again, gives up followers that have said nothing for long, and lets groups try again.
    pub(crate) fn expire_sending(&mut self) {
        let (now, _) = self.clock();
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let is_over = |sending: &Sending<E>| match sending.ended {
            Some(ended) => now.since(ended) > REST,
            None => now.since(sending.heard) > SILENCE_MAX,
        };
        let mut over = Vec::new();
        let mut unheard = Vec::new();
        neighbours.sending.retain(|sending| {
            let is_over = is_over(sending);
            let is_unheard = |offer: &&Offer<E>| now.since(offer.said.max(sending.heard)) > OFFER_PATIENCE;
            if is_over {
                over.push((sending.range, sending.to));
            } else if let Some(offer) = sending.offer.as_ref().filter(is_unheard) {
                unheard.push((sending.range, sending.to, offer.term));
            }
            !is_over
        });
        for (range, to) in over {
            if let Some(&slot) = self.here.get(&range)
                && let Some(local) = self.slots[slot as usize].live_mut()
            {
                local.seat.raft.snapshot_failed(to);
                self.touch(slot);
            }
        }
        for (range, to, term) in unheard {
            let raft = self.local(range).map(|local| &local.seat.raft);
            let leads = raft.is_some_and(|raft| raft.is_leader() && raft.term() == term);
            base::sometimes!("node: state is offered again", leads);
            if leads {
                self.say_offer(range, to);
            } else {
                // The next leader offers its own, which this one would hold up.
                self.end_sending(range, to, true);
            }
        }
    }

    /// Offers the state that is there for the follower.
    fn say_offer(&mut self, range: RangeId, to: ReplicaId) {
        let (now, _) = self.clock();
        let sendings = self
            .neighbours
            .iter_mut()
            .flat_map(|neighbours| &mut neighbours.sending);
        let mut offers = sendings.filter(|sending| sending.range == range && sending.to == to);
        let Some(offer) = offers.find_map(|sending| sending.offer.as_mut()) else {
            return;
        };
        offer.said = now;
        let (from, last, term, chain) = (offer.from, offer.last, offer.term.0, offer.chain);
        let members = offer.members.clone();
        let description = offer.snapshot.description().encode();
        let step = TransferStep::Offer {
            term,
            chain,
            members: &members,
            description: &description,
        };
        self.say((range, from, to), last, step);
    }

    pub(super) fn on_want(
        &mut self,
        (range, from, to): (RangeId, ReplicaId, ReplicaId),
        last: Mark,
        (file, offset): (u64, u64),
    ) {
        let (now, _) = self.clock();
        let found = self.neighbours.as_mut().and_then(|neighbours| {
            let sending = neighbours
                .sending
                .iter_mut()
                .find(|sending| sending.range == range && sending.to == from)?;
            let offer = sending.offer.as_ref().filter(|offer| offer.last == last)?;
            sending.heard = now;
            Some(Rc::clone(&offer.snapshot))
        });
        match found {
            Some(snapshot) => self.jobs.push(Job::Piece(Wanted {
                snapshot,
                range,
                from: to,
                to: from,
                last,
                file,
                offset,
            })),
            None => self.say((range, to, from), last, TransferStep::Gone),
        }
    }

    /// A replica gets the range's state from here no more; nobody does if none is named.
    pub(crate) fn stop_sending(&mut self, range: RangeId, to: Option<ReplicaId>) {
        if let Some(neighbours) = &mut self.neighbours {
            let stays =
                |sending: &Sending<E>| sending.range != range || to.is_some_and(|to| to != sending.to);
            neighbours.sending.retain(stays);
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Prepares the state for a follower, and offers it.
    pub(crate) async fn offer(&self, range: RangeId, to: ReplicaId) {
        if !self.with_state(|state| state.begin_sending(range, to)) {
            return;
        }
        let offered = self.try_offer(range, to).await;
        if !offered {
            self.step(|state| state.end_sending(range, to, true));
        }
    }

    async fn try_offer(&self, range: RangeId, to: ReplicaId) -> bool {
        // What is only in memory would have to be sent as entries again.
        let tablet = loop {
            let claimed = self.with_state(|state| {
                state.local(range)?;
                let slot = state.here[&range];
                Some(state.live_mut(slot).begin_flush())
            });
            match claimed {
                Some(Some(tablet)) => break tablet,
                Some(None) => self.env.clock().sleep(Duration::from_millis(2)).await,
                None => return false,
            }
        };
        if tablet.applied_index() > tablet.flushed_index() {
            self.freeze(range);
            if self.flush_claimed(range, &tablet).await.is_none() {
                self.step(|state| state.end_flush(range));
                return false;
            }
        }
        self.step(|state| {
            state.end_flush(range);
            let Ok(snapshot) = tablet.snapshot() else {
                base::sometimes!("node: state cannot be offered yet");
                return false;
            };
            let (index, app_state) = (snapshot.description().index(), snapshot.description().app_state());
            let Some(&slot) = state.here.get(&range) else {
                return false;
            };
            let local = state.live_mut(slot);
            let own = (local.seat.raft.id(), local.replica.group().hard_state);
            let adopted = Replica::<()>::adopt_state(range, index, app_state, own);
            let Ok((group, _)) = adopted else {
                return false;
            };
            if !local.seat.raft.is_leader() {
                return false;
            }
            let (from, term) = (local.seat.raft.id(), local.seat.raft.term());
            let last = group.applied.last;
            let mut members = Vec::new();
            encode_members(&group.applied.membership, &mut members);
            let (now, _) = state.clock();
            let known = state.neighbours.as_mut().and_then(|neighbours| {
                let mut sending = neighbours.sending.iter_mut();
                sending.find(|sending| sending.range == range && sending.to == to)
            });
            let Some(sending) = known else {
                return false;
            };
            sending.heard = now;
            sending.offer = Some(Offer {
                from,
                term,
                last,
                chain: group.applied.chain,
                members,
                snapshot: Rc::new(snapshot),
                said: now,
            });
            state.say_offer(range, to);
            true
        })
    }

    /// Reads bytes for a follower.
    pub(crate) async fn send_piece(&self, wanted: Wanted<E>) {
        let Wanted {
            snapshot,
            range,
            from,
            to,
            last,
            file,
            offset,
        } = wanted;
        let read = snapshot.read(file, offset, PIECE_BYTES).await;
        self.step(|state| {
            let step = match &read {
                Ok(bytes) => TransferStep::Piece { file, offset, bytes },
                // Whoever asks for what is not there, or cannot be read here, gets the state of another leader, later.
                Err(_) => TransferStep::Gone,
            };
            state.say((range, from, to), last, step);
        });
    }
}
