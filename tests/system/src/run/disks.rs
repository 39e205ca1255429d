//! Disks that are slow for a while, or have less room than their nodes keep free.
//!
//! Fault model: at any time one node's disk takes long for everything, or those of one or of all nodes have less room than the reserve,
//! rarely less than the floor, for seconds. A full disk has really no more room: a node that goes on writing fails, which it must not.
//! While no node has room, a put that begins when all know that is not answered as applied.

use super::Runner;
use crate::history::{Action, Mutation, Outcome};
use base::Prng;
use core::time::Duration;
use env::Instant;
use sim::DiskConfig;

/// By then every node knows that its disk is full: it asks once a second at least, its disk may be slow to say so, and it may have been
/// paused meanwhile.
const NOTICE: Duration = Duration::from_secs(7);

/// What is wrong with disks now, and when something will be.
pub(super) struct Disks {
    prng: Prng,
    /// After so many calls.
    next: u64,
    now: Option<Ailing>,
}

struct Ailing {
    nodes: Vec<usize>,
    /// All of them are full.
    none_has_room: bool,
    since: Instant,
    until: Instant,
}

impl Disks {
    pub(super) fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x6469_736b_7300_0001);
        let next = prng.between(50, 600);
        Self {
            prng,
            next,
            now: None,
        }
    }
}

impl Runner {
    /// Makes disks ail, and well again, when it is time.
    pub(super) fn tend_disks(&mut self) {
        if !self.scenario.ailing {
            return;
        }
        match &self.disks.now {
            Some(ailing) if self.sim.now() >= ailing.until => self.end_ailing(),
            None if self.history.ended() >= self.disks.next => self.begin_ailing(),
            Some(_) | None => {}
        }
    }

    fn begin_ailing(&mut self) {
        let count = self.processes.len();
        let one = self.disks.prng.index(count);
        let (kind, since) = (self.disks.prng.below(4), self.sim.now());
        let (nodes, seconds) = match kind {
            0 => ((0..count).collect(), self.disks.prng.between(9, 12)),
            _ => (vec![one], self.disks.prng.between(1, 12)),
        };
        let reserve = self.scenario.node.disk_reserve_bytes;
        for &at in &nodes {
            let node = self.processes[at].node();
            let disk = self.scenario.sim.disk.clone();
            let disk = if kind < 2 {
                let free = match self.disks.prng.below(5) {
                    0 => self.disks.prng.between(reserve / 16, reserve / 4),
                    _ => self.disks.prng.between(reserve / 3, reserve / 3 * 2),
                };
                self.note(at, &format!("the disk has {free} bytes left"));
                base::sometimes!("system: a disk is nearly full");
                let capacity_bytes = Some(self.sim.disk_bytes(node) + free);
                DiskConfig {
                    capacity_bytes,
                    ..disk
                }
            } else {
                let slow_ns = self.disks.prng.between(300_000_000, 3_000_000_000);
                self.note(at, &format!("the disk is slower by up to {slow_ns} ns"));
                base::sometimes!("system: a disk is slow for long");
                DiskConfig {
                    slow: 1.0,
                    slow_ns,
                    ..disk
                }
            };
            self.sim.set_disk_config(node, disk);
        }
        self.disks.now = Some(Ailing {
            none_has_room: kind == 0,
            nodes,
            since,
            until: since + Duration::from_secs(seconds),
        });
    }

    /// Disks are as they were.
    pub(super) fn end_ailing(&mut self) {
        let Some(ailing) = self.disks.now.take() else {
            return;
        };
        if ailing.none_has_room {
            self.check_refused(ailing.since + NOTICE);
        }
        for at in ailing.nodes {
            self.note(at, "the disk is as it was");
            let disk = self.scenario.sim.disk.clone();
            self.sim.set_disk_config(self.processes[at].node(), disk);
        }
        self.disks.next = self.history.ended() + self.disks.prng.between(50, 1_000);
    }

    /// No put that began after `from` was applied by now.
    fn check_refused(&mut self, from: Instant) {
        let puts = |action: &Action| match action {
            Action::Write(_, mutations) => {
                let is_put = |mutation: &Mutation| matches!(mutation, Mutation::Put(..));
                mutations.iter().any(is_put)
            }
            _ => false,
        };
        for (number, call) in self.history.calls().iter().enumerate() {
            if call.at_ns < from.0 || !puts(&call.action) {
                continue;
            }
            base::sometimes!("system: a put begins while no node has room");
            if matches!(call.outcome, Outcome::Applied(_)) {
                self.wrong.push(format!(
                    "call {number} was applied while no node had room: {:?}",
                    call.action
                ));
            }
        }
    }
}
