//! The scrub: all tables and manifests are read again, slowly, so that damage is found while others have what is lost.
//!
//! A table is read in pieces with pauses between them. A range is held only while one of its files is opened: whatever works on it,
//! or moves it away, does not wait for a table to be read.

use crate::read::ReadGuard;
use crate::shard::Shard;
use crate::state::{Message, Slot, State};
use base::RangeId;
use core::time::Duration;
use env::{Clock, Env, Mailbox};
use std::rc::Rc;
use storage::{Scrub, ScrubPlace, StorageError, TableCheck, Tablet};

/// What is read of a table before a pause.
const PIECE_BYTES: u64 = 1 << 20;

/// How far the scrub has come: the range, and the place in it when it was begun.
type Place = (RangeId, Option<ScrubPlace>);

/// What it looks at next: the tablet stays while a file of it is opened.
type Next<E> = (Place, Tablet<E>, ReadGuard);

impl<E: Env, B> State<E, B> {
    /// The first range from there on.
    fn next_to_scrub(&self, (from, place): Place) -> Option<Next<E>> {
        let live = self.slots.iter().filter_map(Slot::live);
        let is_due = |seat: &crate::local::Seat<E>| {
            // One that is about to move is read where it goes.
            seat.range >= from && !seat.leaving && !seat.installing && !seat.silent
        };
        let local = live
            .filter(|local| is_due(&local.seat))
            .min_by_key(|local| local.range)?;
        let place = place.filter(|_| local.range == from);
        let reads = ReadGuard::new(&local.reads);
        Some(((local.range, place), local.tablet.clone(), reads))
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
        let mut last: Place = (RangeId::SYSTEM, None);
        loop {
            let next = self.with_state(|state| state.next_to_scrub(last));
            let Some(((range, place), tablet, reads)) = next else {
                last = (RangeId::SYSTEM, None);
                self.with_state(|state| state.counts.scrubs += 1);
                self.env.clock().sleep(pause).await;
                continue;
            };
            let opened = scrub.next(&tablet, place).await;
            drop((tablet, reads));
            let mut paced = Duration::ZERO;
            last = match opened {
                Ok(Some((place, check))) => match self.check_table(range, check).await {
                    Ok(rest) => {
                        paced = rest;
                        (range, Some(place))
                    }
                    Err(error) => self.scrubbed(range, &error),
                },
                Ok(None) => (RangeId(range.0 + 1), None),
                Err(error) => self.scrubbed(range, &error),
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

    /// What was met in a range, and where the scrub goes on.
    fn scrubbed(&self, range: RangeId, error: &StorageError) -> Place {
        if matches!(error, StorageError::Corruption(_)) {
            base::sometimes!("node: the scrub met damage");
            self.step(|state| state.on_damage(range, error.to_string()));
        }
        (RangeId(range.0 + 1), None)
    }
}
