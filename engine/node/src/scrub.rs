//! The scrub: all tables and manifests are read again, slowly, so that damage is found while others have what is lost.
//!
//! A table is read in pieces with pauses between them. A range is held only while one of its files is opened: whatever works on it,
//! or moves it away, does not wait for a table to be read.

use crate::read::ReadGuard;
use crate::shard::Shard;
use crate::state::{Message, State};
use base::RangeId;
use core::time::Duration;
use env::{Clock, Env, Mailbox};
use std::rc::Rc;
use storage::{Scrub, ScrubPlace, StorageError, TableCheck, Tablet};

/// What is read of a table before a pause.
const PIECE_BYTES: u64 = 1 << 20;

/// How far the scrub has come: the slot, and the range there with the place in it when it was begun.
type Place = (usize, Option<(RangeId, ScrubPlace)>);

/// What it looks at next: the tablet stays while a file of it is opened.
struct Next<E: Env> {
    slot: usize,
    range: RangeId,
    place: Option<ScrubPlace>,
    tablet: Tablet<E>,
    reads: ReadGuard,
}

impl<E: Env, B> State<E, B> {
    /// The first range from a slot on. One that comes to a slot that was passed is read in the next pass.
    fn next_to_scrub(&self, (from, place): Place) -> Option<Next<E>> {
        let slots = self.slots.iter().enumerate().skip(from);
        let mut live = slots.filter_map(|(slot, state)| Some((slot, state.live()?)));
        // One that is about to move is read where it goes.
        let is_due = |seat: &crate::local::Seat<E>| !seat.leaving && !seat.installing && !seat.silent;
        let (slot, local) = live.find(|(_, local)| is_due(&local.seat))?;
        Some(Next {
            slot,
            range: local.range,
            place: place
                .filter(|(range, _)| *range == local.range)
                .map(|(_, place)| place),
            tablet: local.tablet.clone(),
            reads: ReadGuard::new(&local.reads),
        })
    }

    /// Whether the range has the table, still, and is here.
    fn wants_check(&self, range: RangeId, check: &TableCheck<E>) -> bool {
        let slot = self.here.get(&range);
        let local = slot.and_then(|slot| self.slots[*slot as usize].live());
        local.is_some_and(|local| check.is_of(&local.tablet))
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Reads all tables again, one after the other and at a bounded pace, until the shard is dropped.
    pub(crate) async fn run_scrub(self: Rc<Self>) {
        let pause = self.with_state(|state| state.config.scrub_pause);
        let scrub = Scrub::new(&self.env);
        let mut last: Place = (0, None);
        loop {
            let next = self.with_state(|state| state.next_to_scrub(last));
            let Some(next) = next else {
                last = (0, None);
                self.with_state(|state| state.counts.scrubs += 1);
                self.env.clock().sleep(pause).await;
                continue;
            };
            let (slot, range) = (next.slot, next.range);
            let opened = scrub.next(&next.tablet, next.place).await;
            drop((next.tablet, next.reads));
            let mut paced = Duration::ZERO;
            let checked = match opened {
                Ok(Some((place, check))) => self.check_table(range, check).await.map(|rest| {
                    paced = rest;
                    Some(place)
                }),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            last = match checked {
                Ok(Some(place)) => (slot, Some((range, place))),
                Ok(None) => (slot + 1, None),
                Err(error) => {
                    self.scrubbed(range, &error);
                    (slot + 1, None)
                }
            };
            self.env.clock().sleep(paced.max(pause)).await;
        }
    }

    /// Checks a table, piece by piece, as long as its range has it. The pause that the last piece asks for.
    async fn check_table(&self, range: RangeId, mut check: TableCheck<E>) -> Result<Duration, StorageError> {
        let rate = self.with_state(|state| state.config.scrub_bytes_per_second.max(1));
        loop {
            let checked = check.go_on(PIECE_BYTES).await;
            if !self.with_state(|state| state.wants_check(range, &check)) {
                base::sometimes!("node: a table went while it was scrubbed");
                return Ok(Duration::ZERO);
            }
            let paced = Duration::from_nanos(checked?.saturating_mul(1_000_000_000) / rate);
            if check.is_done() {
                return Ok(paced);
            }
            self.env.clock().sleep(paced).await;
        }
    }

    /// Something was met in a range.
    fn scrubbed(&self, range: RangeId, error: &StorageError) {
        if matches!(error, StorageError::Corruption(_)) {
            base::sometimes!("node: the scrub met damage");
            self.step(|state| state.on_damage(range, error.to_string()));
        }
    }
}
