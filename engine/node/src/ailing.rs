//! What a node does whose disk is full or slow, see `gauge`: it refuses early what would fill the disk, and leads nothing.
//!
//! ```text
//!   free bytes, times of log writes ─► gauge ─► full: puts are refused; entries of others are dropped before nothing is left
//!                                            └► full or slow: leaderships go to voters that have all; the placer is told
//! ```
//! A write is refused where it would be proposed, by the disk of whoever leads: that it has been applied already is known by then, and
//! what is refused never happens. Followers go on while they can; when they cannot, entries are as if they were lost on the way.
//!
//! Leaderships are handed over at once, to whoever lacks least: nobody here knows how the others' disks are. The placer does, and sees to
//! the rest, see `placer`. So a range is handed over once in a while only: where all disks ail it does not go round.

use crate::config::NodeConfig;
use crate::gauge::{Ailment, Limits, Room};
use crate::local::Local;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Message, Slot, State};
use base::api::WriteOp;
use base::{RangeId, ReplicaId};
use core::fmt;
use core::time::Duration;
use env::{Clock, Disk, Env, Instant, Mailbox, TaskClass, Tasks};
use raft::Body;
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::Code;

/// Free bytes are asked for once in so many looks at writes.
const SPACE_LOOKS: u32 = 4;
/// How long a range that was handed over, and is led here again, is kept.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(60);
/// Ranges that a shard hands over at once.
const HAND_OVERS_MAX: usize = 64;
/// After how long a client may try again: leaderships have left, or there is room.
const RETRY_MS: u32 = 500;

/// What the gauge of a shard is told.
pub(crate) fn limits(config: &NodeConfig) -> Limits {
    Limits {
        reserve_bytes: config.disk_reserve_bytes,
        slow: config.disk_slow,
        interval: config.disk_interval,
    }
}

/// Bytes for people.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..1024 => write!(f, "{bytes} B"),
            bytes @ 1024..0x10_0000 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

impl<E: Env, B> State<E, B> {
    /// Why a write is not proposed: the disk has no room for it.
    pub(crate) fn lacks_room<'a>(
        &self,
        slot: u32,
        ops: impl Iterator<Item = WriteOp<'a>>,
    ) -> Option<Refusal> {
        let room = self.gauge.room();
        if room == Room::Enough || base::planted_bug!("node-reserve-ignored") {
            return None;
        }
        let mut ops = ops;
        let is_put = ops.any(|op| matches!(op, WriteOp::Put { .. }));
        if room == Room::Scarce && !is_put {
            base::sometimes!("node: a full disk takes a deletion");
            return None;
        }
        base::sometimes!("node: a write is refused by a full disk");
        let range = self.slots[slot as usize].seat().map(|seat| seat.range);
        let refusal = Refusal::retry(Code::DiskFull, RETRY_MS, self.words_for_full());
        Some(match range {
            Some(range) => refusal.about_range(range),
            None => refusal,
        })
    }

    /// What a client is told when there is no room.
    pub(crate) fn words_for_full(&self) -> String {
        let who = match &self.neighbours {
            Some(_) => format!("node {}", self.identity.node.0),
            None => "the node".to_owned(),
        };
        let free = Size(self.gauge.reading().free_bytes.unwrap_or_default());
        let reserve = Size(self.gauge.reserve_bytes());
        let (refused, taken) = match self.gauge.room() {
            Room::Gone => ("writes", "reads"),
            Room::Enough | Room::Scarce => ("puts", "reads and deletes"),
        };
        format!(
            "the disk of {who} is full: {free} are free, and {reserve} are kept, so {refused} are refused and {taken} go on; free some \
             space there, or add a node"
        )
    }

    /// Whether what another replica says is not taken in, as if it were lost: entries that the disk has no room for.
    pub(crate) fn drops_entries(&self, body: &Body) -> bool {
        let drops = self.gauge.room() == Room::Gone
            && matches!(body, Body::Append { entries, .. } if !entries.is_empty())
            && !base::planted_bug!("node-reserve-ignored");
        base::sometimes!("node: entries are dropped by a full disk", drops);
        drops
    }

    /// Which ranges are to be led by whom instead, as the disk here ails.
    fn ranges_to_hand_over(&self, before: &BTreeMap<RangeId, Instant>) -> Vec<(RangeId, ReplicaId)> {
        let wall_ns = self.env.clock().wall_ns();
        let is_due = |local: &&Local<E>| {
            let by_hand = self.placing.contains(&local.range) || before.contains_key(&local.range);
            !by_hand && !local.moving && self.leads_now(local, wall_ns)
        };
        let due = self.slots.iter().filter_map(Slot::live).filter(is_due);
        let heir = |local: &Local<E>| {
            let neighbours = self.neighbours.as_ref()?;
            let raft = &local.seat.raft;
            let lives = |voter: &ReplicaId| {
                let support = neighbours.support(*voter);
                support.given.is_some() && support.received.is_some()
            };
            let voters = raft.membership().voters().iter().copied();
            voters
                .filter(|voter| *voter != raft.id() && lives(voter) && local.has_caught_up(*voter))
                .max_by_key(|voter| raft.matched(*voter))
        };
        due.filter_map(|local| Some((local.range, heir(local)?)))
            .take(HAND_OVERS_MAX)
            .collect()
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Judges the disk by what log writes take, and hands leaderships over when it ails, until the shard is dropped.
    pub(crate) async fn run_gauge(self: Rc<Self>) {
        let interval = self.with_state(|state| state.config.disk_interval);
        let mut before = BTreeMap::new();
        loop {
            self.env.clock().sleep(interval).await;
            let now = self.now();
            before.retain(|_, at: &mut Instant| now.since(*at) < HAND_OVER_PAUSE);
            let due = self.with_state(|state| {
                let times = state.log.take_write_times();
                state.gauge.look(now, &times);
                match state.gauge.reading().ailment {
                    Ailment::None => Vec::new(),
                    Ailment::Slow | Ailment::Full => state.ranges_to_hand_over(&before),
                }
            });
            for (range, to) in due {
                base::sometimes!("node: a range is handed over as the disk ails");
                before.insert(range, now);
                let shard = self.clone();
                let task = async move { shard.hand_over(range, to).await };
                self.env.tasks().spawn(TaskClass::Foreground, task);
            }
        }
    }

    /// Asks how much of the disk is free, again and again, until the shard is dropped. By itself: a slow disk takes its time to say so.
    pub(crate) async fn run_space(self: Rc<Self>) {
        let interval = self.with_state(|state| state.config.disk_interval * SPACE_LOOKS);
        loop {
            self.env.clock().sleep(interval).await;
            // What cannot be told is as it was.
            if let Ok(free_bytes) = self.env.disk().space_free().await {
                let now = self.now();
                self.with_state(|state| state.gauge.measure(now, free_bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let text = |bytes| Size(bytes).to_string();
        assert_eq!([text(7), text(5000), text(3 << 30)], ["7 B", "4 KiB", "3072 MiB"]);
    }
}
