//! Letters for replicas that are not here yet: those that have no state, and later ones than those that are here.

use crate::dialect::Letter;
use crate::local::Stranger;
use crate::state::{Job, Slot, State};
use base::{RangeId, ShardId};
use env::Env;
use liveness::Peer;
use raft::HardState;
use replica::group::{life_of, node_of};

/// Ranges whose state is not here; messages of more are dropped, and repeated by those who sent them.
const STRANGERS_MAX: usize = 4096;

/// A letter for somebody who is not here, or not yet: it was dropped, or is taken up later.
pub(crate) struct Unheard;

impl<E: Env, B> State<E, B> {
    /// A later replica of a range is spoken to than the one that is here: this one was removed. One that has no state, and so nothing
    /// but what it promised, becomes the later one and keeps the promise.
    pub(crate) fn succeed(&mut self, slot: u32, letter: Letter, caller: Peer) {
        let seat = self.seat_of(slot);
        if seat.writes > 0 || seat.installing || seat.arrived.is_some() || self.is_receiving(letter.range) {
            return;
        }
        let is_named = self.is_named(&letter);
        match &mut self.slots[slot as usize] {
            Slot::Stranger(_) if !is_named => self.name(letter, caller),
            Slot::Stranger(stranger) => {
                base::sometimes!("node: a stranger became a later replica");
                let groups = self.groups.clone();
                **stranger = Stranger::new(letter.range, letter.to, stranger.hard_state, &groups);
                self.touch(slot);
            }
            Slot::Live(_) => self.end_replica(slot),
            Slot::Free | Slot::Opening(..) => {}
        }
    }

    /// A message for a range that is not here: if this node has a replica of it, that one waits for its state from now on, and
    /// votes meanwhile. A group whose members all wait for each other's state would have no leader who could send it.
    ///
    /// `Err` when it is not taken up now: another time, or when the life of the replica is written.
    pub(crate) fn welcome(&mut self, letter: Letter, caller: Peer) -> Result<(u32, Letter), Unheard> {
        let is_ours = node_of(letter.to) == self.identity.node && letter.range > RangeId::SYSTEM;
        if self.removing.contains_key(&letter.range) || self.map.get(letter.range).is_some() {
            return Err(Unheard);
        }
        let waiting = self.strangers.len() + self.injured.naming.len();
        if !is_ours || waiting >= STRANGERS_MAX {
            base::sometimes!(
                "node: too many ranges were heard of before they were here",
                is_ours
            );
            return Err(Unheard);
        }
        match self.injured.lives.get(&letter.range) {
            // Later ones were here: this one was removed.
            Some(life) if *life > life_of(letter.to) => return Err(Unheard),
            Some(life) if *life == life_of(letter.to) => {}
            Some(_) | None => {
                self.name(letter, caller);
                return Err(Unheard);
            }
        }
        base::sometimes!("node: a range was heard of before it was here");
        let stranger = Stranger::new(letter.range, letter.to, HardState::default(), &self.groups);
        Ok((self.admit_stranger(stranger), letter))
    }

    /// A stranger takes part from now on.
    pub(crate) fn admit_stranger(&mut self, stranger: Stranger<E>) -> u32 {
        assert_eq!(self.me, ShardId(0), "strangers are on shard 0");
        let range = stranger.seat.range;
        let slot = self.take_slot(Slot::Stranger(Box::new(stranger)));
        self.strangers.insert(range, slot);
        self.introduce_all(slot);
        slot
    }

    /// Whether the life of whom the letter is for is written.
    fn is_named(&self, letter: &Letter) -> bool {
        let written = self.injured.lives.get(&letter.range);
        written.is_some_and(|life| *life >= life_of(letter.to))
    }

    /// Writes the life of whom the letter is for, and then takes the letter.
    fn name(&mut self, letter: Letter, caller: Peer) {
        if self.injured.naming.insert(letter.range) {
            self.jobs.push(Job::NameLife(letter, caller));
        }
    }
}
