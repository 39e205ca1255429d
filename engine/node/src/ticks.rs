//! Ticks: time that passes for the groups of a shard.
//!
//! Idle groups need none, and cost nothing. When many have lost their leaders at once, because nodes died or start, a shard lets a bounded
//! number of them ask for votes at a time, and those that only wait are gone over in turn: a tick that is left out delays its group,
//! and nothing else.

use crate::local::Local;
use crate::state::State;
use core::mem;
use core::time::Duration;
use env::Env;
use raft::NextTick;
use replica::group::node_of;

/// Ticks to one of a group that is calm: how long followers may wait until they learn what is committed. A write of a range that is
/// written now and then costs a round of heartbeats besides; of one that is written more often than this it does not.
const CALM_TICKS: u32 = 8;
/// Groups of a shard that have ticks at a time, while there are not many times as many.
const TICKING_MAX: usize = 1024;
const STRIDE_MAX: u32 = 8;
/// Groups that ask for votes at a time, of those that have ticks then. When thousands have lost their leaders at once, all nodes would ask for all of them, be too
/// busy to answer in time, and ask again: each gets its turn instead, and most are led by somebody else before it comes.
const CAMPAIGNS_MAX: usize = 256;

/// Slots of groups that need ticks, some of which may be over.
#[derive(Debug, Default)]
pub(crate) struct Ticking {
    slots: Vec<u32>,
    /// Of those that need few, and the ticks since they had one.
    calm: Vec<u32>,
    calm_ticks: u32,
    /// How often time has passed.
    passes: u32,
    /// The first slot whose group may ask for votes, when not all may.
    next_campaign: u32,
}

impl Ticking {
    /// How long all of them can do without a tick; `None`: for ever.
    pub(crate) fn nap(&self, tick: Duration) -> Option<Duration> {
        if !self.slots.is_empty() {
            Some(tick)
        } else if !self.calm.is_empty() {
            Some(tick * CALM_TICKS)
        } else {
            None
        }
    }

    /// Those that have ticks now, and how many: of few groups all, of thousands a part of them the ticks of several passes.
    fn due(&mut self, ticks: u32) -> (Vec<u32>, u32) {
        self.slots.sort_unstable();
        // A slot that was taken by another range meanwhile may be there twice.
        self.slots.dedup();
        let stride = self.slots.len() / TICKING_MAX;
        let stride = u32::try_from(stride).map_or(STRIDE_MAX, |stride| stride.clamp(1, STRIDE_MAX));
        self.passes = self.passes.wrapping_add(1);
        let is_due = |slot: &u32| slot % stride == self.passes % stride;
        let (mut due, later) = mem::take(&mut self.slots)
            .into_iter()
            .partition::<Vec<u32>, _>(is_due);
        self.slots = later;
        // Those that found no room come first the next time.
        let first = due.partition_point(|slot| *slot < self.next_campaign);
        due.rotate_left(first);
        (due, ticks.saturating_mul(stride))
    }

    /// Those that need few ticks, when it is time for one.
    fn due_calm(&mut self, ticks: u32) -> Vec<u32> {
        self.calm_ticks = self.calm_ticks.saturating_add(ticks);
        if self.calm_ticks < CALM_TICKS {
            return Vec::new();
        }
        self.calm_ticks = 0;
        let mut calm = mem::take(&mut self.calm);
        calm.sort_unstable();
        calm.dedup();
        calm
    }
}

impl<E: Env, B> State<E, B> {
    /// Notes whether the group in `slot` needs ticks.
    pub(crate) fn watch_ticks(&mut self, slot: u32) {
        let is_alone = self.slots[slot as usize].live().is_some_and(Local::is_alone);
        let seat = self.slots[slot as usize]
            .seat_mut()
            .expect("a replica stays while its group works");
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if seat.ticks.full
            || is_alone && seat.raft.is_leader()
            || seat.leaving
            || seat.silent
            || !seat.raft.needs_tick()
        {
            return;
        }
        if !seat.raft.is_calm() {
            seat.ticks.full = true;
            neighbours.ticking.slots.push(slot);
        } else if !seat.ticks.calm {
            seat.ticks.calm = true;
            neighbours.ticking.calm.push(slot);
        }
    }

    /// Time has passed for the detector, and `ticks` for the groups.
    pub(crate) fn pass_time(&mut self, ticks: u32) {
        self.close_batch();
        self.expire_sending();
        self.heed_refusal();
        self.heed_lost();
        self.detect();
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if !neighbours.outlook.may_start() {
            return;
        }
        let (due, due_ticks) = neighbours.ticking.due(ticks);
        for slot in neighbours.ticking.due_calm(ticks) {
            if let Some(seat) = self.slots[slot as usize].seat_mut()
                && mem::take(&mut seat.ticks.calm)
                && !seat.ticks.full
            {
                self.tick(slot, 1, &mut 0);
            }
        }
        let awaits = |slot: &&u32| {
            let seat = self.slots[**slot as usize].seat();
            seat.is_some_and(|seat| seat.raft.awaits_votes())
        };
        let mut room = CAMPAIGNS_MAX.saturating_sub(due.iter().filter(awaits).count());
        for slot in due {
            if let Some(seat) = self.slots[slot as usize].seat_mut()
                && mem::take(&mut seat.ticks.full)
            {
                let had_room = room > 0;
                self.tick(slot, due_ticks, &mut room);
                if had_room && room == 0 {
                    base::sometimes!("node: too many groups ask for votes at a time");
                    if let Some(neighbours) = &mut self.neighbours {
                        neighbours.ticking.next_campaign = slot + 1;
                    }
                }
            }
        }
        self.close_timestamps();
    }

    /// Groups send again what was under way on connections that have ended. One that has anything under way has all its ticks.
    fn heed_lost(&mut self) {
        let Some(neighbours) = &self.neighbours else {
            return;
        };
        let nodes = neighbours.links.take_lost();
        if nodes.is_empty() {
            return;
        }
        for slot in &neighbours.ticking.slots {
            if let Some(seat) = self.slots[*slot as usize].seat_mut() {
                let is_lost = seat.raft.connection_lost(|to| nodes.contains(&node_of(to)));
                base::sometimes!("node: a group sends again what a connection has lost", is_lost);
            }
        }
    }

    /// Time passes for the group in `slot`. It asks for votes only while there is room for another one.
    fn tick(&mut self, slot: u32, ticks: u32, room: &mut usize) {
        let seat = self.seat_of(slot);
        if seat.leaving || seat.silent {
            return;
        }
        let mut has_acted = false;
        for _ in 0..ticks {
            if !seat.raft.needs_tick() {
                break;
            }
            let next = seat.raft.next_tick();
            let campaigns = next == NextTick::Campaigns;
            if campaigns && *room == 0 {
                break;
            }
            seat.raft.tick();
            has_acted |= next != NextTick::Waits;
            if campaigns {
                // Ticks that came late, after a pause of the process, do not ask again before anybody could answer.
                *room -= 1;
                break;
            }
        }
        if has_acted {
            self.touch(slot);
        }
        self.watch_ticks(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_groups_have_every_tick_and_thousands_as_many_in_turn() {
        let mut ticking = Ticking {
            slots: vec![7, 3, 7],
            ..Ticking::default()
        };
        assert_eq!(ticking.due(2), (vec![3, 7], 2));
        assert_eq!(ticking.nap(Duration::from_millis(10)), None);

        let all = 4 * u32::try_from(TICKING_MAX).expect("few");
        let mut had = vec![0; all as usize];
        ticking.slots = (0..all).collect();
        ticking.next_campaign = 100;
        for _ in 0..8 {
            let (due, ticks) = ticking.due(1);
            assert_eq!((due.len(), ticks), (TICKING_MAX, 4));
            assert!(due[0] >= 100 && due[due.len() - 1] < 100);
            due.iter().for_each(|slot| had[*slot as usize] += ticks);
            ticking.slots.extend(due);
        }
        assert!(had.iter().all(|ticks| *ticks == 8));
    }
}
